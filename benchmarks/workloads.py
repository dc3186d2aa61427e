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

    loaded: bool = True
    """False: start the server, get one answer, and read its memory."""

    @property
    def method(self) -> str:
        """The request's method."""
        return "POST" if self.body else "GET"


_RAW = "benchmarks.applications:raw"

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
        Workload("idle", "start and one answer", _RAW, "/", SMALL_BODY, loaded=False),
    )
}
