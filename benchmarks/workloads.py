"""
What is asked of each server.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.applications import LARGE_BODY, SMALL_BODY


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

    loaded: bool = True
    """False: start the server, get one answer, and read its memory."""

    @property
    def has_cost(self) -> bool:
        """Whether the application can be called without a server."""
        return self.loaded and not self.websockets

    @property
    def method(self) -> str:
        """The request's method."""
        return "POST" if self.body else "GET"


_RAW = "benchmarks.applications:raw"


def _websocket(
    name: str, title: str, mode: str, size: int, connections: int = 0
) -> Workload:
    return Workload(
        name,
        title,
        "benchmarks.websocket_applications:application",
        f"/{mode}",
        b"",
        websockets=mode,
        message_bytes=size,
        connections=connections,
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
            "get-13-log",
            "GET, 13 bytes, access log on",
            _RAW,
            "/",
            SMALL_BODY,
            access_log=True,
        ),
        _websocket("ws-64", "WebSocket echo, 64 bytes", "echo", 64),
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
