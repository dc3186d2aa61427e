"""Tests of ``daphne_like.observability.tracing``."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import subprocess
import sys
import threading
from contextvars import copy_context
from typing import Any

import pytest
from asgi_messages import body, start
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    ConsoleSpanExporter,
    SimpleSpanProcessor,
)
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import ProxyTracerProvider, SpanKind, StatusCode

from daphne_like.asgi.types import Message, Receive, Scope, Send
from daphne_like.errors import ClientDisconnected, SettingsError
from daphne_like.observability import tracing
from daphne_like.observability.tracing import Tracing

HOST = (b"host", b"example.org:8000")
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
TRACEPARENT = (b"traceparent", f"00-{TRACE_ID}-{PARENT}-01".encode())


class Application:
    """Sends messages, or raises an error, and keeps the span it runs in."""

    def __init__(
        self, *messages: Message, error: BaseException | None = None, reads: int = 0
    ) -> None:
        self._messages = messages
        self._reads = reads
        self._error = error
        self.contexts: list[trace.SpanContext] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        self._note()
        # Tasks of the application's see it, too.
        await asyncio.create_task(self._in_a_task())
        for _ in range(self._reads):
            await receive()
        for message in self._messages:
            await send(message)
        if self._error is not None:
            raise self._error

    async def _in_a_task(self) -> None:
        self._note()

    def _note(self) -> None:
        self.contexts.append(trace.get_current_span().get_span_context())


class Served:
    """Traces an application, and keeps the spans."""

    def __init__(self, provider: TracerProvider) -> None:
        self._exporter = InMemorySpanExporter()
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def request(
        self,
        application: Application,
        *headers: tuple[bytes, bytes],
        received: Message | None = None,
        raised: dict[str, BaseException] | None = None,
        **more: Any,
    ) -> None:
        """
        Run the application as the server does, in a context of its own.

        Args:
            application: What is traced.
            headers: Of the request, beside the host.
            received: The event which the application gets.
            raised: What some kinds of messages lead to.
            more: The rest of the scope, as far as it isn't the usual one.
        """
        scope: dict[str, Any] = {
            "type": "http",
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/a",
            "query_string": b"",
            "headers": [HOST, *headers],
            "client": ["192.0.2.7", 50123],
            "server": ["192.0.2.1", 8000],
            **more,
        }

        async def receive() -> Message:
            assert received is not None
            return received

        async def send(message: Message) -> None:
            if raised and message["type"] in raised:
                raise raised[message["type"]]

        async def scenario() -> None:
            await Tracing().applied(application)(scope, receive, send)

        copy_context().run(asyncio.run, scenario())

    @property
    def count(self) -> int:
        """How many spans there are."""
        return len(self._exporter.get_finished_spans())

    @property
    def span(self) -> ReadableSpan:
        """The only span."""
        [span] = self._exporter.get_finished_spans()
        return span

    @property
    def attributes(self) -> dict[str, Any]:
        """Those of the only span."""
        return dict(self.span.attributes or {})


def use(provider: TracerProvider, monkeypatch: pytest.MonkeyPatch) -> Served:
    """Let a provider be that of the process."""
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    return Served(provider)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Served:
    """Trace everything."""
    return use(TracerProvider(), monkeypatch)


def test_a_request_is_a_span_of_the_server(served: Served) -> None:
    """It has the names which the conventions give."""
    served.request(
        Application(start(200), body(b"text")),
        (b"user-agent", b"curl/8"),
        query_string=b"a=1",
    )

    assert "GET" == served.span.name
    assert SpanKind.SERVER is served.span.kind
    assert StatusCode.UNSET is served.span.status.status_code
    assert {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "url.scheme": "http",
        "url.path": "/a",
        "url.query": "a=1",
        "network.protocol.name": "http",
        "network.protocol.version": "1.1",
        "client.address": "192.0.2.7",
        "client.port": 50123,
        "server.address": "example.org",
        "server.port": 8000,
        "user_agent.original": "curl/8",
    } == served.attributes


def test_the_client_can_be_the_parent(served: Served) -> None:
    """W3C Trace Context: the span continues the trace of ``traceparent``."""
    application = Application(start(), body())
    served.request(
        application, TRACEPARENT, (b"tracestate", b"a=1"), (b"tracestate", b"b=2")
    )
    context, parent = served.span.context, served.span.parent

    assert context is not None
    assert parent is not None
    assert TRACE_ID == f"{context.trace_id:032x}"
    assert PARENT == f"{parent.span_id:016x}"
    assert parent.is_remote
    assert "a=1,b=2" == context.trace_state.to_header()
    # What the application traces becomes a child of the span.
    assert [context.span_id] * 2 == [seen.span_id for seen in application.contexts]


@pytest.mark.parametrize("value", [b"", b"nonsense", b"\xff", b"00-0-0-00"])
def test_a_wrong_parent_is_none(served: Served, value: bytes) -> None:
    """The trace begins here then."""
    served.request(Application(start(), body()), (b"traceparent", value))

    assert served.span.parent is None


def test_wrong_baggage_fills_no_log(
    served: Served, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    But for who wants to read of it.

    Cause: OpenTelemetry warns of each part, and one field has hundreds.
    """
    logger = logging.getLogger("opentelemetry.baggage.propagation")
    monkeypatch.setattr(logger, "level", logging.NOTSET)
    logger.manager._clear_cache()  # type: ignore[attr-defined]
    wrong = (b"baggage", b"@,@,@")
    served.request(Application(start(), body()), wrong)
    assert [] == caplog.records
    logger.setLevel(logging.WARNING)
    served.request(Application(start(), body()), wrong)
    assert 3 == len(caplog.records)


def test_spans_leave_nothing_behind(served: Served) -> None:
    """The next request is no child of this one."""
    served.request(Application(start(), body()))

    assert not trace.get_current_span().get_span_context().is_valid


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [(404, StatusCode.UNSET, None), (503, StatusCode.ERROR, "503")],
)
def test_what_clients_do_wrong_is_no_error(
    served: Served, status: int, code: StatusCode, error: str | None
) -> None:
    """Of a span of the server."""
    served.request(Application(start(status), body()))

    assert status == served.attributes["http.response.status_code"]
    assert code is served.span.status.status_code
    assert error == served.attributes.get("error.type")


@pytest.mark.parametrize(
    ("messages", "error", "status", "kind"),
    [
        ([], ValueError("wrong"), 500, "builtins.ValueError"),
        ([], asyncio.CancelledError(), 503, "asyncio.exceptions.CancelledError"),
        ([start(200)], ValueError("wrong"), 500, "builtins.ValueError"),
        ([start(200), body()], ValueError("wrong"), 200, "builtins.ValueError"),
    ],
)
def test_an_application_that_fails_is_one(
    served: Served,
    messages: list[Message],
    error: BaseException,
    status: int,
    kind: str,
) -> None:
    """
    The exception is in the span; the server hears of it as before.

    Cause: a response was in the span before its body, when the server answers 500.
    """
    with pytest.raises(type(error)):
        served.request(Application(*messages, error=error))

    assert status == served.attributes["http.response.status_code"]
    assert kind == served.attributes["error.type"]
    assert StatusCode.ERROR is served.span.status.status_code
    assert ["exception"] == [event.name for event in served.span.events]


@pytest.mark.parametrize(
    ("messages", "status"),
    [
        ([{"type": "websocket.accept"}, {"type": "websocket.close"}], 101),
        ([{"type": "websocket.close"}], 403),
        (
            [
                {"type": "websocket.http.response.start", "status": 401},
                {"type": "websocket.http.response.body"},
            ],
            401,
        ),
        ([], 403),
    ],
)
def test_a_websocket_is_a_span(
    served: Served, messages: list[Message], status: int
) -> None:
    """From its handshake to its end."""
    served.request(Application(*messages), type="websocket", scheme="ws")

    assert "GET" == served.span.name
    assert status == served.attributes["http.response.status_code"]
    assert "ws" == served.attributes["url.scheme"]


@pytest.mark.parametrize("messages", [[], [start(200)]])
def test_an_application_that_does_not_answer_is_an_error(
    served: Served, messages: list[Message]
) -> None:
    """Cause: the client got the server's 500, and the span had no status, or 200."""
    served.request(Application(*messages))

    assert 500 == served.attributes["http.response.status_code"]
    assert StatusCode.ERROR is served.span.status.status_code


@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_a_client_that_left_got_no_status(served: Served, kind: str) -> None:
    """And that is nobody's error."""
    served.request(
        Application(reads=1), received={"type": f"{kind}.disconnect"}, type=kind
    )

    assert "http.response.status_code" not in served.attributes
    assert StatusCode.UNSET is served.span.status.status_code


def test_an_answer_that_waits_for_its_client_is_one(served: Served) -> None:
    """Also when the application is cancelled then."""
    with pytest.raises(asyncio.CancelledError):
        served.request(
            Application(start(200), body()),
            raised={"http.response.body": asyncio.CancelledError()},
        )

    assert 200 == served.attributes["http.response.status_code"]


def test_an_answer_that_nobody_gets_is_none(served: Served) -> None:
    """The application learns it by what send() raises."""
    with pytest.raises(ClientDisconnected):
        served.request(
            Application(start(200), body()),
            raised={"http.response.start": ClientDisconnected("gone")},
        )

    assert "http.response.status_code" not in served.attributes


def test_clients_can_not_make_up_names(served: Served) -> None:
    """Whatever methods they think of, spans of them have one name."""
    served.request(Application(start(), body()), method="BREW")

    assert "HTTP" == served.span.name
    assert "_OTHER" == served.attributes["http.request.method"]
    assert "BREW" == served.attributes["http.request.method_original"]


def test_signatures_stay_secret(served: Served) -> None:
    """The conventions name parameters which sign a URL."""
    served.request(
        Application(start(), body()), query_string=b"a=1&sig=secret&Signature=s&b=2"
    )

    query = "a=1&sig=REDACTED&Signature=REDACTED&b=2"
    assert query == served.attributes["url.query"]


@pytest.mark.parametrize(
    ("host", "server", "address", "port"),
    [
        (b"example.org", ["192.0.2.1", 8000], "example.org", None),
        (b"[2001:db8::1]:8000", None, "2001:db8::1", 8000),
        (b"[2001:db8::1]", None, "2001:db8::1", None),
        (b"", ["192.0.2.1", 8000], "192.0.2.1", 8000),
        (b"", ["/run/server.sock", None], "/run/server.sock", None),
        (b"", None, None, None),
        (b"a:" + b"9" * 5000, None, "a:" + "9" * 5000, None),
    ],
)
def test_the_server_has_the_name_which_the_client_used(
    served: Served,
    host: bytes,
    server: list[Any] | None,
    address: str | None,
    port: int | None,
) -> None:
    """Else its address."""
    served.request(
        Application(start(), body()),
        headers=[(b"host", host)],
        server=server,
        client=None,
    )

    assert address == served.attributes.get("server.address")
    assert port == served.attributes.get("server.port")
    assert "client.address" not in served.attributes


def test_what_is_not_sampled_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """The application still sees the trace of its client, and so do those it asks."""
    served = use(TracerProvider(sampler=ALWAYS_OFF), monkeypatch)
    application = Application(start(), body())
    served.request(application, TRACEPARENT)

    assert 0 == served.count
    assert TRACE_ID == f"{application.contexts[0].trace_id:032x}"


# -- Where spans go ----------------------------------------------------------


@pytest.fixture
def providers(monkeypatch: pytest.MonkeyPatch) -> list[TracerProvider]:
    """Nobody has set up OpenTelemetry; what we set up is kept here."""
    providers: list[TracerProvider] = []
    monkeypatch.setattr(trace, "get_tracer_provider", ProxyTracerProvider)
    monkeypatch.setattr(trace, "set_tracer_provider", providers.append)
    return providers


def test_variables_name_the_exporter(
    providers: list[TracerProvider], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are those of OpenTelemetry; at the end the last spans are sent."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console, none")
    made = Tracing()
    [provider] = providers
    [processor] = provider._active_span_processor._span_processors
    assert isinstance(processor, BatchSpanProcessor)
    assert isinstance(processor.span_exporter, ConsoleSpanExporter)

    with provider.get_tracer("test").start_as_current_span("last words"):
        pass
    flushed: list[object] = []
    flush = provider.force_flush
    monkeypatch.setattr(
        provider, "force_flush", lambda timeout: flushed.append(flush(timeout))
    )
    asyncio.run(made.shutdown())
    assert [True] == flushed
    provider.shutdown()


def test_otlp_is_what_is_spoken_by_default(
    providers: list[TracerProvider], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over HTTP, which needs no further package."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    monkeypatch.delenv("OTEL_TRACES_EXPORTER", raising=False)
    Tracing()
    [provider] = providers
    [processor] = provider._active_span_processor._span_processors
    assert isinstance(processor, BatchSpanProcessor)
    assert isinstance(processor.span_exporter, OTLPSpanExporter)
    provider.shutdown()


@pytest.mark.parametrize(
    ("variable", "value", "missing"),
    [
        ("OTEL_TRACES_EXPORTER", "carrier-pigeon", "carrier-pigeon"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "otlp_proto_grpc"),
    ],
)
def test_an_exporter_that_is_not_there_is_named(
    providers: list[TracerProvider],
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
    missing: str,
) -> None:
    """It is an error in the settings."""
    monkeypatch.delenv("OTEL_TRACES_EXPORTER", raising=False)
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=f"the exporter {missing} of traces is not"):
        Tracing()
    assert [] == providers


def test_what_others_have_set_up_is_theirs(served: Served) -> None:
    """It is used, and nothing is flushed at the end."""
    asyncio.run(Tracing().shutdown())


def test_an_exporter_that_hangs_is_left_behind(
    providers: list[TracerProvider], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process ends in time, with or without the last spans."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    monkeypatch.setattr(tracing, "_SHUTDOWN_TIMEOUT", 0.01)
    made = Tracing()
    [provider] = providers
    release = threading.Event()
    monkeypatch.setattr(provider, "force_flush", lambda timeout: release.wait(30))
    asyncio.run(made.shutdown())
    release.set()


def test_an_exporter_that_can_not_be_made_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Cause: what an exporter has against its variables ended in a traceback."""

    class Refusing:
        """An entry point."""

        def load(self) -> type[Refusing]:
            raise RuntimeError("no such file: ca.pem")

    monkeypatch.setattr(tracing, "entry_points", lambda **_: [Refusing()])
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "strange")
    monkeypatch.setattr(trace, "get_tracer_provider", ProxyTracerProvider)
    with pytest.raises(SettingsError, match=r"otel: the exporter strange .*ca\.pem"):
        Tracing()


def test_unknown_propagators_are_named() -> None:
    """Cause: OpenTelemetry looks them up when it is imported, which raised."""
    code = (
        "from daphne_like.errors import SettingsError\n"
        "try: import daphne_like.observability.tracing\n"
        "except SettingsError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "OTEL_PROPAGATORS": "nope"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("otel: Propagator nope not found")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install."""
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    monkeypatch.delitem(sys.modules, "daphne_like.observability.tracing")
    with pytest.raises(SettingsError, match=r"pip install 'daphne-like\[otel\]'"):
        importlib.import_module("daphne_like.observability.tracing")
