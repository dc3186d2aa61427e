"""
What is asked of each server.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.applications import BODY_OF_16K, LARGE_BODY, SMALL_BODY
from benchmarks.browser import PATH_PREFIX


@dataclass(frozen=True, slots=True)
class Workload:
    """One kind of request, repeated."""

    name: str
    title: str

    application: str
    """``module:attribute`` of the ASGI application."""

    path: str

    expected: bytes
    """The body each answer must have; compared byte by byte before and after load."""

    body: bytes = b""
    """Sent by POST; without it the request is a GET."""

    access_log: bool = False
    """Each request is logged to a file; otherwise every access log is off."""

    websockets: str = ""
    """What is done with WebSockets instead of requests; see ``websocket_load``."""

    message_bytes: int = 0
    """Size of the messages which WebSockets carry."""

    connections: int = 0
    """How many are open; 0 for as many as the command line says."""

    tls: bool = False

    streams: int = 0
    """With HTTP/2: requests open at a time on each connection; 0 is HTTP/1.1."""

    browser: bool = False
    """Requests have the fields of a browser, and the address changes with each."""

    new_parts: int = 0
    """So many parts of the cookie change as well; at most two."""

    loaded: bool = True
    """False: start the server, get one answer, and read its memory."""

    @property
    def has_cost(self) -> bool:
        """Whether the application can be called without a server."""
        return self.loaded and not self.websockets

    @property
    def http2(self) -> bool:
        """Whether the requests are made in HTTP/2."""
        return self.streams > 0

    @property
    def uploads(self) -> bool:
        """Whether bytes are what matters, not requests."""
        return len(self.body) >= _UPLOAD_BYTES

    @property
    def method(self) -> str:
        """The request's method."""
        return "POST" if self.body else "GET"


_RAW = "benchmarks.applications:raw"
_CHANNELS = "benchmarks.channels_application:application"
_UPLOAD_BYTES = 10 * 2**20


def _websocket(
    name: str,
    title: str,
    mode: str,
    size: int,
    connections: int = 0,
    *,
    application: str = "benchmarks.websocket_applications:application",
) -> Workload:
    return Workload(
        name,
        title,
        application,
        f"/{mode}",
        b"",
        websockets=mode,
        message_bytes=size,
        connections=connections,
    )


def _http2(
    name: str,
    title: str,
    path: str = "/",
    expected: bytes = SMALL_BODY,
    *,
    tls: bool = True,
    browser: bool = False,
    new_parts: int = 0,
) -> Workload:
    return Workload(
        name,
        f"HTTP/2{' over TLS' if tls else ' in cleartext'}, {title}",
        _RAW,
        path,
        expected,
        tls=tls,
        connections=16,
        streams=16,
        browser=browser,
        new_parts=new_parts,
    )


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload("get-13", "GET, 13 bytes", _RAW, "/", SMALL_BODY),
        Workload("get-10k", "GET, 10 KB", _RAW, "/10k", LARGE_BODY),
        Workload(
            "post-10k", "POST, 10 KB echoed", _RAW, "/echo", LARGE_BODY, body=LARGE_BODY
        ),
        Workload(
            "fastapi-json",
            "GET, JSON by FastAPI",
            "benchmarks.fastapi_application:application",
            "/json",
            b'{"message":"Hello, world!"}',
        ),
        Workload(
            "django-json",
            "GET, JSON by Django",
            "benchmarks.django_application:application",
            "/json",
            b'{"message": "Hello, world!"}',
        ),
        Workload(
            "channels-get", "GET, 13 bytes by Channels", _CHANNELS, "/", SMALL_BODY
        ),
        Workload(
            "get-13-log",
            "GET, 13 bytes, access log on",
            _RAW,
            "/",
            SMALL_BODY,
            access_log=True,
        ),
        Workload("https-13", "HTTPS, GET, 13 bytes", _RAW, "/", SMALL_BODY, tls=True),
        _http2("h2-13", "GET, 13 bytes"),
        _http2("h2c-13", "GET, 13 bytes", tls=False),
        _http2(
            "h2-browser",
            "a browser's GET, new address each time",
            f"{PATH_PREFIX}start",
            browser=True,
        ),
        _http2(
            "h2-browser-cookie",
            "a browser's GET, new address and part of the cookie each time",
            f"{PATH_PREFIX}start",
            browser=True,
            new_parts=1,
        ),
        _http2(
            "h2-browser-cookies",
            "a browser's GET, new address and two new parts of the cookie each time",
            f"{PATH_PREFIX}start",
            browser=True,
            new_parts=2,
        ),
        _http2("h2-16k", "GET, 16 KB", "/16k", BODY_OF_16K),
        Workload(
            "h2-upload",
            "HTTP/2 over TLS, POST, 10 MB",
            _RAW,
            "/size",
            str(_UPLOAD_BYTES).encode(),
            body=b"0123456789abcdef" * (_UPLOAD_BYTES // 16),
            tls=True,
            connections=2,
            streams=2,
        ),
        _websocket("ws-64", "WebSocket echo, 64 bytes", "echo", 64),
        _websocket(
            "channels-64",
            "WebSocket echo, 64 bytes, by Channels",
            "echo",
            64,
            application=_CHANNELS,
        ),
        _websocket("ws-16k", "WebSocket echo, 16 KB", "echo", 16384),
        _websocket(
            "ws-broadcast",
            "WebSocket broadcast, 64 bytes to 1,000",
            "broadcast",
            64,
            connections=1000,
        ),
        _websocket("ws-idle", "10,000 idle WebSockets", "idle", 64, connections=10_000),
        Workload("idle", "start and one answer", _RAW, "/", SMALL_BODY, loaded=False),
    )
}
