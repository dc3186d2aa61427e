"""A Django site in one module, served by Django's own ASGI handler."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator

from applications.gates import gate, with_gates
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.files.uploadedfile import TemporaryUploadedFile
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path

settings.configure(
    ALLOWED_HOSTS=["*"],
    DATA_UPLOAD_MAX_MEMORY_SIZE=None,
    # Larger parts of a form go to temporary files.
    FILE_UPLOAD_MAX_MEMORY_SIZE=64 * 1024,
    MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="of no use",
    USE_TZ=True,
)


def _told(request: HttpRequest) -> JsonResponse:
    return JsonResponse(
        {
            "name": request.GET.get("name"),
            "http_version": request.scope["http_version"],
            "client": request.scope["client"],
            "server": request.scope["server"],
            "main": threading.current_thread() is threading.main_thread(),
        }
    )


async def hello(request: HttpRequest) -> JsonResponse:
    """Tell what arrived, on the event loop."""
    return _told(request)


def threaded(request: HttpRequest) -> JsonResponse:
    """Tell what arrived, in a thread, where blocking is allowed."""
    return _told(request)


def digest(request: HttpRequest) -> JsonResponse:
    """Read the body piece by piece, from where Django has put it."""
    hashed, size = hashlib.sha256(), 0
    while piece := request.read(64 * 1024):
        hashed.update(piece)
        size += len(piece)
    return JsonResponse({"bytes": size, "sha256": hashed.hexdigest()})


def upload(request: HttpRequest) -> JsonResponse:
    """Take a form with files."""
    files = {}
    for field, file in request.FILES.items():
        hashed = hashlib.sha256()
        for piece in file.chunks():
            hashed.update(piece)
        files[field] = {
            "name": file.name,
            "bytes": file.size,
            "sha256": hashed.hexdigest(),
            "on_disk": isinstance(file, TemporaryUploadedFile),
        }
    return JsonResponse({"fields": request.POST.dict(), "files": files})


async def stream(request: HttpRequest) -> StreamingHttpResponse:
    """Send a piece, and another one when the gate is open."""

    async def pieces() -> AsyncIterator[bytes]:
        yield b"first\n"
        await gate(request.GET["gate"]).wait()
        yield b"last\n"

    return StreamingHttpResponse(pieces(), content_type="text/plain")


async def events(request: HttpRequest) -> StreamingHttpResponse:
    """Send server-sent events, the second one when the gate is open."""

    async def pieces() -> AsyncIterator[str]:
        yield "id: 1\nevent: tick\ndata: one\n\n"
        await gate(request.GET["gate"]).wait()
        yield "id: 2\nevent: tick\ndata: two\n\n"

    return StreamingHttpResponse(pieces(), content_type="text/event-stream")


def broken(request: HttpRequest) -> HttpResponse:
    """Fail before there is a response."""
    raise RuntimeError("broken on purpose")


async def broken_stream(request: HttpRequest) -> StreamingHttpResponse:
    """Fail in the middle of a response."""

    async def pieces() -> AsyncIterator[bytes]:
        yield b"first\n"
        raise RuntimeError("broken in mid-stream on purpose")

    return StreamingHttpResponse(pieces(), content_type="text/plain")


async def stay(request: HttpRequest) -> HttpResponse:
    """Answer nothing, and open the gate when Django has cancelled the view."""
    name = request.GET["gate"]
    gate(f"{name}-begun").set()
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        gate(name).set()
        raise
    return HttpResponse()


async def endless(request: HttpRequest) -> StreamingHttpResponse:
    """Stream as long as the client stays, and open the gate when it has left."""

    async def pieces() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"more\n"
                await asyncio.sleep(0.01)
        finally:
            gate(request.GET["gate"]).set()

    return StreamingHttpResponse(pieces(), content_type="text/plain")


async def silent(request: HttpRequest) -> StreamingHttpResponse:
    """Stream one piece and then none, until cancelled; then open the gate."""

    async def pieces() -> AsyncIterator[bytes]:
        try:
            yield b"first\n"
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            gate(request.GET["gate"]).set()
            raise

    return StreamingHttpResponse(pieces(), content_type="text/plain")


urlpatterns = [
    path("hello", hello),
    path("threaded", threaded),
    path("digest", digest),
    path("upload", upload),
    path("stream", stream),
    path("events", events),
    path("broken", broken),
    path("broken-stream", broken_stream),
    path("stay", stay),
    path("endless", endless),
    path("silent", silent),
]

application = with_gates(get_asgi_application())
