"""
The HTTP interface of operation: health, metrics, and the orders of ``daphne-like ctl``.

Two small ASGI applications over :class:`~daphne_like.operations.interfaces.Operated`.
:func:`watching_application` is for an address which others of the network may reach:
it tells, and obeys nobody. :func:`controlling_application` is for a Unix socket which
only its owner can open.

A path below ``/health`` is a statement about the server: 200 when it is true, 503 when
it isn't, and the phase in a line of text.

Tests: ``tests/unit/operations/test_application.py``.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from daphne_like.asgi.types import ASGIApplication, Receive, Scope, Send
    from daphne_like.operations.interfaces import Operated

__all__ = ["Render", "controlling_application", "watching_application"]

_logger = logging.getLogger("daphne_like.operations")

Render = Callable[[Mapping[str, Any]], "tuple[str, bytes]"]
"""Turns a snapshot of counters into a content type and a text for Prometheus."""

# A worker which is asked may be stuck.
_ANSWER_TIMEOUT = 10.0

# Of the body of an order.
_MOST_BODY_BYTES = 64 * 1024

# Rows which become JSON before others get their turn.
_ROWS_A_TURN = 100

_PLAIN = "text/plain; charset=utf-8"
_JSON = "application/json"

# RFC 9110 section 9.3.2: what GET can do, HEAD can.
_READING = ("GET", "HEAD")


class _Answer(NamedTuple):
    """A response; its body is text, or rows which become a JSON array."""

    status: int
    body: bytes | Sequence[Mapping[str, Any]]
    content_type: str = _JSON
    allow: str = ""


_Handler = Callable[["Operated", bytes], Awaitable[_Answer]]


def watching_application(operated: Operated, render: Render | None) -> ASGIApplication:
    """
    Make the application for health checks and Prometheus.

    Args:
        operated: What is asked.
        render: Writes the metrics; None where nothing is counted.
    """
    routes = dict(_HEALTH)
    if render is not None:
        routes["/metrics"] = {"GET": _metrics(render)}
    return _Application(operated, routes)


def controlling_application(operated: Operated) -> ASGIApplication:
    """Make the application of the control socket; see ``docs/control.md``."""
    return _Application(operated, {**_HEALTH, **_CONTROL})


class _Application:
    """Finds the handler for a path and a method, and sends its answer."""

    def __init__(
        self, operated: Operated, routes: Mapping[str, Mapping[str, _Handler]]
    ) -> None:
        self._operated = operated
        self._routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close"})
            return
        answer = await self._answer(scope, receive)
        await _send(answer, send)

    async def _answer(self, scope: Any, receive: Receive) -> _Answer:
        handlers = self._routes.get(scope["path"])
        if handlers is None:
            return _failure(404, f"there are: {', '.join(sorted(self._routes))}")
        method = "GET" if scope["method"] in _READING else scope["method"]
        if method not in handlers:
            allow = ", ".join(_READING if "GET" in handlers else handlers)
            return _failure(405, f"the method must be {allow}")._replace(allow=allow)
        try:
            body = await _read(receive)
            return await asyncio.wait_for(
                handlers[method](self._operated, body), _ANSWER_TIMEOUT
            )
        except _Refused as refusal:
            return _failure(refusal.status, str(refusal))
        except asyncio.TimeoutError:
            return _failure(504, "the workers didn't answer in time")
        except Exception:
            _logger.exception("Operator's %s %s failed", method, scope["path"])
            return _failure(500, "this failed; the log says why")


class _Refused(Exception):
    """The operator asks for what can't be done; the text tells why."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def _failure(status: int, text: str) -> _Answer:
    return _Answer(status, _encode({"error": text}))


def _encode(value: object) -> bytes:
    return json.dumps(value).encode() + b"\n"


async def _read(receive: Receive) -> bytes:
    """Read the whole body, which is small."""
    body, more = b"", True
    while more:
        event = await receive()
        if event["type"] != "http.request":
            raise _Refused(400, "the client has gone")
        body += event["body"]
        more = event["more_body"]
        if len(body) > _MOST_BODY_BYTES:
            raise _Refused(413, "the body is too large")
    return body


async def _send(answer: _Answer, send: Send) -> None:
    headers = [
        (b"content-type", answer.content_type.encode()),
        # The next answer may be another one.
        (b"cache-control", b"no-store"),
    ]
    if answer.allow:
        headers.append((b"allow", answer.allow.encode()))
    await send(
        {"type": "http.response.start", "status": answer.status, "headers": headers}
    )
    if isinstance(answer.body, bytes):
        await send({"type": "http.response.body", "body": answer.body})
        return
    rows, before = answer.body, b"["
    last = max(len(rows) - 1, 0) // _ROWS_A_TURN * _ROWS_A_TURN
    for first in range(0, last, _ROWS_A_TURN):
        piece = before + _lines(rows[first : first + _ROWS_A_TURN])
        await send({"type": "http.response.body", "body": piece, "more_body": True})
        await asyncio.sleep(0)
        before = b",\n"
    await send(
        {"type": "http.response.body", "body": before + _lines(rows[last:]) + b"]\n"}
    )


def _lines(rows: Sequence[Mapping[str, Any]]) -> bytes:
    return ",\n".join(map(json.dumps, rows)).encode()


# -- What is asked -----------------------------------------------------------


def _health(*phases: str) -> Mapping[str, _Handler]:
    """Make the statement that the server is in one of some phases."""

    async def tell(operated: Operated, body: bytes) -> _Answer:
        phase = operated.phase
        status = 200 if phase in phases else 503
        return _Answer(status, f"{phase}\n".encode(), _PLAIN)

    return {"GET": tell}


def _metrics(render: Render) -> _Handler:
    async def tell(operated: Operated, body: bytes) -> _Answer:
        content_type, text = render(await operated.metrics())
        return _Answer(200, text, content_type)

    return tell


async def _status(operated: Operated, body: bytes) -> _Answer:
    return _Answer(200, _encode(dict(await operated.status())))


async def _workers(operated: Operated, body: bytes) -> _Answer:
    return _Answer(200, await operated.workers())


async def _connections(operated: Operated, body: bytes) -> _Answer:
    return _Answer(200, await operated.connections())


async def _tasks(operated: Operated, body: bytes) -> _Answer:
    return _Answer(200, await operated.tasks())


# -- What is ordered ---------------------------------------------------------


async def _reload(operated: Operated, body: bytes) -> _Answer:
    return _obey(operated.reload)


async def _drain(operated: Operated, body: bytes) -> _Answer:
    return _obey(operated.drain)


async def _scale(operated: Operated, body: bytes) -> _Answer:
    try:
        workers = json.loads(body)["workers"]
    except (ValueError, KeyError, TypeError):
        workers = None
    # True is an int, too.
    if type(workers) is not int or workers < 1:
        raise _Refused(400, 'the body must be {"workers": N}, N being 1 or more')
    return _obey(lambda: operated.scale(workers))


def _obey(order: Callable[[], None]) -> _Answer:
    """Do as ordered; that it is done shows in the status."""
    try:
        order()
    except ValueError as error:
        raise _Refused(409, str(error)) from None
    return _Answer(202, _encode({"accepted": True}))


_HEALTH: Mapping[str, Mapping[str, _Handler]] = {
    # Whoever reads this answer knows that the event loop turns.
    "/health/live": _health("starting", "ready", "draining"),
    "/health/ready": _health("ready"),
    "/health/draining": _health("draining"),
}

_CONTROL: Mapping[str, Mapping[str, _Handler]] = {
    "/status": {"GET": _status},
    "/workers": {"GET": _workers},
    "/connections": {"GET": _connections},
    "/tasks": {"GET": _tasks},
    "/reload": {"POST": _reload},
    "/scale": {"POST": _scale},
    "/drain": {"POST": _drain},
}
