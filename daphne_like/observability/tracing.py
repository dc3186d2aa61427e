"""
A span of OpenTelemetry for each request.

The context which the client sends (W3C ``traceparent``, or what ``OTEL_PROPAGATORS``
says) is the parent; the span is current while the application runs, so that what it
and its libraries trace lies inside. Where nobody has set up OpenTelemetry before,
it is set up here as its own ``OTEL_`` variables say.

Source: W3C Trace Context; OpenTelemetry's semantic conventions, "HTTP spans".

Tests: ``tests/unit/test_tracing.py``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import threading
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from daphne_like.errors import ClientDisconnected, SettingsError

try:
    from opentelemetry import context, propagate, trace
    from opentelemetry.propagators.textmap import Getter
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.trace import ProxyTracerProvider, SpanKind, Status, StatusCode
except ImportError:
    raise SettingsError(
        "otel needs OpenTelemetry: pip install 'daphne-like[otel]'"
    ) from None
except ValueError as error:  # of OTEL_PROPAGATORS, which are looked up at once
    raise SettingsError(f"otel: {error}") from None

if TYPE_CHECKING:
    from collections.abc import Sequence

    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, Tracer

    from daphne_like.asgi.types import ASGIApplication, Message, Receive, Scope, Send

    Header = tuple[bytes, bytes]

__all__ = ["Tracing"]

# RFC 9110 section 9, RFC 5789: those which the conventions know.
_METHODS = frozenset(
    ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")
)

# Parameters which the conventions want to be hidden: they sign a URL.
_SECRETS = re.compile(r"\b((?:AWSAccessKeyId|Signature|sig|X-Goog-Signature)=)[^&]*")

# Python reads no number of thousands of digits; and exporters none above 64 bits.
_MOST_PORT_DIGITS = 5

# How long the last spans may take to be sent, in seconds.
_SHUTDOWN_TIMEOUT = 5.0

_STARTS = ("http.response.start", "websocket.http.response.start")
_BODIES = (
    *("http.response.body", "http.response.pathsend", "http.response.zerocopysend"),
    "websocket.http.response.body",
)
_DISCONNECTS = ("http.disconnect", "websocket.disconnect")


class Tracing:
    """
    Traces the requests of one application.

    It starts a thread, and so belongs into the process that serves, not into one that
    forks it.

    Raises:
        SettingsError: OpenTelemetry or the exporter it is told to use is missing.
    """

    def __init__(self) -> None:
        _quiet_what_clients_say()
        provider = trace.get_tracer_provider()
        self._own_provider: TracerProvider | None = None
        if isinstance(provider, ProxyTracerProvider):
            self._own_provider = provider = _provider()
            trace.set_tracer_provider(provider)
        self._tracer: Tracer = provider.get_tracer("daphne_like")

    def applied(self, application: ASGIApplication) -> ASGIApplication:
        """Wrap an application, so that each of its instances is a span."""
        tracer, getter = self._tracer, _HeaderGetter()

        async def traced(scope: Scope, receive: Receive, send: Send) -> None:
            span = tracer.start_span(
                _name(scope),
                context=propagate.extract(scope["headers"], getter=getter),
                kind=SpanKind.SERVER,
                attributes=_attributes(scope),
            )
            # Each instance runs in a context of its own, which ends with it: an error
            # that comes out of here is logged inside the span.
            context.attach(trace.set_span_in_context(span))
            if not span.is_recording():
                await application(scope, receive, send)
                return
            answer = _Answer(scope["type"], receive, send)
            try:
                await application(scope, answer.receive, answer.send)
            except BaseException as error:
                span.record_exception(error)
                _finish(span, answer.status_after(error), error)
                raise
            _finish(span, answer.status_after(None), None)

        return traced

    async def shutdown(self) -> None:
        """Send what has not been sent, for a limited time."""
        provider = self._own_provider
        if provider is None:
            return  # it is somebody else's
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def flush() -> None:
            # Not shutdown: a process has one provider for good, and may start anew.
            provider.force_flush(int(_SHUTDOWN_TIMEOUT * 1000))
            try:
                loop.call_soon_threadsafe(done.set)
            except RuntimeError:
                pass  # it took too long, and the loop is closed

        # A daemon, since the process may end before an exporter that hangs.
        threading.Thread(target=flush, name="otel-flush", daemon=True).start()
        try:
            await asyncio.wait_for(done.wait(), _SHUTDOWN_TIMEOUT)
        except asyncio.TimeoutError:
            pass


class _Answer:
    """
    Passes messages on, and finds out which status the client gets.

    That of a response is the application's from the body on: until then the server
    holds it back, and may answer something else.
    """

    __slots__ = ("_gone", "_held", "_receive", "_send", "_status", "_type")

    def __init__(self, kind: str, receive: Receive, send: Send) -> None:
        self._type = kind
        self._receive = receive
        self._send = send
        self._held = self._status = 0
        self._gone = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] in _DISCONNECTS:
            self._gone = True
        return message

    async def send(self, message: Message) -> None:
        try:
            await self._send(message)
        except ClientDisconnected:
            self._gone = True
            raise
        except asyncio.CancelledError:
            # It was taken, and waited for a client that is slower.
            self._sent(message)
            raise
        self._sent(message)

    def _sent(self, message: Message) -> None:
        # What was no message has raised.
        kind = message["type"]
        if kind in _STARTS:
            self._held = int(message["status"])
        elif kind in _BODIES:
            self._status = self._held
        elif kind == "websocket.accept":
            self._status = 101
        elif kind == "websocket.close" and not self._status:
            self._status = 403

    def status_after(self, error: BaseException | None) -> int:
        """Tell the status, once the application has ended; 0 when nobody got one."""
        if self._status or self._gone:
            return self._status
        # What the server answers in the application's stead.
        if isinstance(error, asyncio.CancelledError):
            return 503
        refused = error is None and not self._held and self._type == "websocket"
        return 403 if refused else 500


def _finish(span: Span, status: int, error: BaseException | None) -> None:
    if status:
        span.set_attribute("http.response.status_code", status)
    if error is not None:
        kind = type(error)
        span.set_attribute("error.type", f"{kind.__module__}.{kind.__qualname__}")
        span.set_status(Status(StatusCode.ERROR, str(error)))
    elif status >= 500:
        # Conventions: what the client did wrong is no error of a server's span.
        span.set_attribute("error.type", str(status))
        span.set_status(Status(StatusCode.ERROR))
    span.end()


def _name(scope: Scope) -> str:
    """Name the span by its method, as the path could be anything."""
    method = scope.get("method", "GET")
    return method if method in _METHODS else "HTTP"


def _attributes(scope: Scope) -> dict[str, Any]:
    headers, method = scope["headers"], scope.get("method", "GET")
    known = method in _METHODS
    attributes: dict[str, Any] = {
        "http.request.method": method if known else "_OTHER",
        "url.scheme": scope["scheme"],
        "url.path": scope["path"],
        "network.protocol.name": "http",
        "network.protocol.version": scope["http_version"],
    }
    if not known:
        attributes["http.request.method_original"] = method
    if scope["query_string"]:
        query = scope["query_string"].decode("latin-1")
        attributes["url.query"] = _SECRETS.sub(r"\1REDACTED", query)
    if scope["client"]:
        attributes["client.address"], attributes["client.port"] = scope["client"]
    agent = _first(headers, b"user-agent")
    if agent is not None:
        attributes["user_agent.original"] = agent
    host, port = _server(_first(headers, b"host"), scope)
    if host:
        attributes["server.address"] = host
    if port is not None:
        attributes["server.port"] = port
    return attributes


def _server(host: str | None, scope: Scope) -> tuple[str, int | None]:
    """Tell name and port by which the client asked, else those of the listener."""
    if host:
        name, _, port = host.rpartition(":")
        if name and port.isdecimal() and len(port) <= _MOST_PORT_DIGITS:
            return name.strip("[]"), int(port)
        return host.strip("[]"), None
    server: tuple[str, int | None] = scope["server"] or ("", None)
    return server[0], server[1]


def _first(headers: Sequence[Header], wanted: bytes) -> str | None:
    for name, value in headers:
        if name == wanted:
            return value.decode("latin-1")
    return None


class _HeaderGetter(Getter["Sequence[Header]"]):
    """Reads a context from the header fields of a scope."""

    def get(self, carrier: Sequence[Header], key: str) -> list[str] | None:
        wanted = key.lower().encode("latin-1")
        return [
            value.decode("latin-1") for name, value in carrier if name == wanted
        ] or None

    def keys(self, carrier: Sequence[Header]) -> list[str]:
        return [name.decode("latin-1") for name, _ in carrier]


def _quiet_what_clients_say() -> None:
    """
    Let OpenTelemetry not warn of each wrong part of a client's baggage.

    Attack: one header field had hundreds of warnings written, which took sixty times
    as long as the request. Who wants them gives the logger a level.
    """
    logger = logging.getLogger("opentelemetry.baggage.propagation")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.ERROR)


# -- Where spans go ----------------------------------------------------------


def _provider() -> TracerProvider:
    """Set up what the variables of OpenTelemetry say."""
    provider = TracerProvider()
    exporters = os.environ.get("OTEL_TRACES_EXPORTER", "otlp").split(",")
    for name in filter(None, map(str.strip, exporters)):
        if name != "none":
            provider.add_span_processor(BatchSpanProcessor(_exporter(name)))
    return provider


def _exporter(name: str) -> SpanExporter:
    if name == "otlp":
        protocol = os.environ.get(
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
            os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        )
        name = "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"
    found = [*entry_points(group="opentelemetry_traces_exporter", name=name)]
    if not found:
        raise SettingsError(f"otel: the exporter {name} of traces is not installed")
    try:
        exporter: SpanExporter = found[0].load()()
    except Exception as error:  # noqa: BLE001 - exporters raise what they like
        raise SettingsError(f"otel: the exporter {name} of traces: {error}") from None
    return exporter
