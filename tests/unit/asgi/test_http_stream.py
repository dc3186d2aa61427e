"""Tests of ``daphne_like.asgi.http_stream``: one exchange with a recording sender."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from math import inf
from pathlib import Path
from typing import Any, Protocol

import pytest
from asgi_messages import body, file, hint, path, start, trailers
from hand_application import HandApplication
from http_drivers import Streams
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_log import RecordedLog, recorded_log
from recording_sender import RecordingSender
from stepped_loop import SteppedLoop

from daphne_like.asgi import http_stream
from daphne_like.asgi.exchange import ExchangeState
from daphne_like.asgi.forwarded import ForwardedPolicy
from daphne_like.asgi.http_stream import HTTPStream
from daphne_like.asgi.types import Message
from daphne_like.errors import ClientDisconnected, InvalidMessage, RequestRejected
from daphne_like.observability.access_log import AccessLog
from daphne_like.protocols.interfaces import Connection, RequestHead
from daphne_like.settings import ProxySettings

CONNECTION = Connection(("127.0.0.1", 50123), ("192.0.2.1", 8000), "http")
DISCONNECT = {"type": "http.disconnect"}
OVERLOAD = RequestRejected(503, "The application took too long.")


def request_head(target: bytes = b"/", **attributes: Any) -> RequestHead:
    """Make a head as a protocol does."""
    head = RequestHead(target)
    head.method = "GET"
    for name, value in attributes.items():
        assert hasattr(head, name)
        setattr(head, name, value)
    return head


class Logged(AccessLog):
    """An access log in a list."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, int, int]] = []

    def exchange_ended(self, exchange: Any) -> None:
        """Keep what is of interest."""
        self.lines.append((exchange.method, exchange.status, exchange.body_bytes_sent))


class Served:
    """A stream with a hand-held application and a recording sender."""

    def __init__(
        self, loop: SteppedLoop, head: RequestHead | None = None, **options: Any
    ) -> None:
        self.loop = loop
        self.app = HandApplication(loop)
        self.sender = RecordingSender(loop)
        self.access_log = Logged()
        self.streams = Streams(loop, self.app, access_log=self.access_log, **options)
        self.stream = HTTPStream(
            self.streams.context, head or request_head(), CONNECTION, self.sender
        )
        self.tell(self.stream.start)

    @property
    def calls(self) -> list[tuple[object, ...]]:
        """What the sender was asked for."""
        return self.sender.calls

    def tell(self, call: Callable[..., object], *arguments: object) -> None:
        """Call the stream as a protocol does: in a turn of the loop."""
        self.loop.call_soon(call, *arguments)
        self.loop.settle()

    def leave(self) -> None:
        """Let the client go."""
        self.sender.is_over = True
        self.tell(self.stream.disconnected)

    def is_running(self) -> bool:
        """Whether the application has not ended."""
        return self.stream in self.streams.manager.running


class Serve(Protocol):
    """Starts an exchange."""

    def __call__(self, head: RequestHead | None = None, **options: Any) -> Served:
        """Take options of the context."""


@pytest.fixture
def serve(loop: SteppedLoop) -> Iterator[Serve]:
    """Start exchanges; what the test leaves of them is ended."""
    started: list[Served] = []

    def serve(head: RequestHead | None = None, **options: Any) -> Served:
        started.append(Served(loop, head, **options))
        return started[-1]

    yield serve
    for served in started:
        served.streams.end()


@pytest.fixture
def served(serve: Serve) -> Served:
    """A GET that the application has just got."""
    return serve()


@pytest.fixture
def upload(serve: Serve) -> Served:
    """A POST whose body is to come."""
    return serve(request_head(method="POST", has_body=True))


# -- What the sender is asked for --------------------------------------------


def test_small_response_is_one_call(served: Served) -> None:
    """Head, body and end of a small response leave in one write (H24, H26)."""
    served.app.send(start(201), body(b"made"))

    assert [("response", 201, 4, b"made", True)] == served.calls


def test_streamed_response(served: Served) -> None:
    """The head leaves with the first piece; the last piece is the end (H24, H26)."""
    served.app.send(
        start(), body(b"one", more=True), body(b"two", more=True), body(b"three")
    )

    assert [
        ("response", 200, None, b"one", False),
        ("body", b"two", False),
        ("body", b"three", True),
    ] == served.calls


@pytest.mark.parametrize(
    "messages",
    [
        [start(), body(b"one", more=True)],
        [start(), body(b"", more=True), body(b"two", more=True)],
        [start(trailers=True), body(b"one")],
        [hint(b"</a>")],
    ],
    ids=["first", "further", "last before trailers", "hint"],
)
def test_send_waits_while_congested(serve: Serve, messages: list[Message]) -> None:
    """send() takes the message, and returns when there is room again (H27)."""
    served = serve(request_head(accepts_trailers=True))
    *before, last = messages
    served.app.send(*before)
    served.sender.congest()

    sending = served.app.begin_send(last)
    count = len(served.calls)
    assert count
    assert not sending.done()
    served.sender.drain()

    assert sending.done()
    assert count == len(served.calls)


def test_end_of_the_response_waits_for_nothing(served: Served) -> None:
    """When all is said, the application can end, however slow its client is (H27)."""
    served.sender.congest()

    served.app.send(start(), body(b"all"))

    assert served.sender.is_over


def test_continue_is_asked_for_once(serve: Serve) -> None:
    """One 100 is enough, whoever receives (H22)."""
    served = serve(request_head(method="POST", has_body=True, expects_continue=True))

    for _ in range(3):
        served.app.begin_receive()

    assert [("continue",)] == served.calls
    assert not served.stream.head.expects_continue


def test_no_continue_for_a_body_that_has_come(serve: Serve) -> None:
    """A client that didn't wait isn't asked (H22)."""
    served = serve(request_head(method="POST", has_body=True, expects_continue=True))
    served.tell(served.stream.body_received, b"body")
    served.app.receive()
    served.tell(served.stream.body_ended)
    served.app.receive()

    assert not served.app.begin_receive().done()
    assert [] == served.calls


def test_body_is_accounted_for(upload: Served) -> None:
    """Each byte that was taken, or dropped, lets the client send another (H19)."""
    upload.tell(upload.stream.body_received, b"1234")
    upload.tell(upload.stream.body_received, b"56")
    assert 0 == upload.sender.consumed_bytes

    upload.app.receive()
    assert 6 == upload.sender.consumed_bytes
    upload.tell(upload.stream.body_received, b"unread")
    upload.app.send(start(), body())
    assert 12 == upload.sender.consumed_bytes
    upload.tell(upload.stream.body_received, b"too late")

    assert 20 == upload.sender.consumed_bytes


def test_cancelled_calls_leave_nothing(upload: Served) -> None:
    """Polling receive() for hours, as is_disconnected() does, costs no memory (C17)."""
    for _ in range(100):
        upload.app.begin_receive().cancel()
        upload.loop.settle()

    # But for the last one, which the next call drops.
    assert len(upload.stream._waiters or ()) <= 1
    receiving = upload.app.begin_receive()
    upload.app.begin_receive().cancel()
    upload.tell(upload.stream.body_received, b"one")
    assert b"one" == receiving.result()["body"]


def test_cancelled_in_the_turn_of_the_event(upload: Served) -> None:
    """An event isn't lost with the task that was about to get it (C17)."""
    receiving = upload.app.begin_receive()
    upload.loop.call_soon(upload.stream.body_received, b"one")
    upload.loop.call_soon(receiving.cancel)
    upload.loop.settle()

    assert receiving.cancelled()
    assert b"one" == upload.app.receive()["body"]


# -- HTTP/1.0 ----------------------------------------------------------------


def test_old_clients_get_what_they_understand(serve: Serve) -> None:
    """HTTP/1.0 knows neither 1xx nor trailers (E9, E13, E14)."""
    served = serve(request_head(http_version="1.0", accepts_trailers=True))

    served.app.send(
        hint(b"</a>"), start(trailers=True), hint(b"</b>"), body(b"all"), trailers()
    )

    assert "1.0" == served.app.scope["http_version"]
    assert {
        "daphne_like.draining",
        "http.response.pathsend",
        "http.response.zerocopysend",
    } == set(served.app.scope["extensions"])
    assert [("response", 200, 3, b"all", True)] == served.calls


# -- Proxies and mounting ----------------------------------------------------


def test_root_path(serve: Serve) -> None:
    """An application that is mounted knows where (H8)."""
    served = serve(request_head(b"/page?a"), root_path="/site")

    assert "/site" == served.app.scope["root_path"]
    assert "/site/page" == served.app.scope["path"]
    assert b"/page" == served.app.scope["raw_path"]


def test_trusted_proxy(serve: Serve) -> None:
    """Behind a trusted proxy the application sees the client in front (H4, H12)."""
    head = request_head(
        b"/page",
        headers=[
            (b"x-forwarded-for", b"203.0.113.5"),
            (b"x-forwarded-port", b"1234"),
            (b"x-forwarded-proto", b"https"),
            (b"daphne-root-path", b"/site"),
        ],
    )
    policy = ForwardedPolicy.from_settings(ProxySettings(proxy_headers=True))

    served = serve(head, forwarded=policy, root_path="/other")

    scope = served.app.scope
    assert ["203.0.113.5", 1234] == scope["client"]
    assert "https" == scope["scheme"]
    assert "/site" == scope["root_path"]
    assert "/site/page" == scope["path"]
    assert ["192.0.2.1", 8000] == scope["server"]
    assert b"daphne-root-path" not in dict(scope["headers"])
    assert ("203.0.113.5", 1234) == served.stream.client


def test_proxy_that_says_nothing(serve: Serve) -> None:
    """Without a header the connection and the settings count (H4, H8, H12)."""
    policy = ForwardedPolicy.from_settings(ProxySettings(proxy_headers=True))

    served = serve(forwarded=policy, root_path="/site")

    assert ["127.0.0.1", 50123] == served.app.scope["client"]
    assert "/site" == served.app.scope["root_path"]


# -- Answers in the application's stead --------------------------------------


def test_rejected_before_the_response(served: Served) -> None:
    """A timeout is answered while nothing is on the wire; the start is void (H30)."""
    served.app.send(start(201))

    served.tell(served.stream.reject, OVERLOAD)

    text = b"The application took too long.\n"
    assert [("response", 503, len(text), text, True)] == served.calls
    assert served.stream.fields.close
    failure = served.app.begin_send(body(b"late")).exception()
    assert isinstance(failure, ClientDisconnected)
    assert [("GET", 503, len(text))] == served.access_log.lines


def test_rejected_in_mid_response(served: Served) -> None:
    """A response that has begun can only be broken off (H30)."""
    served.app.send(start(), body(b"half", more=True))

    served.tell(served.stream.reject, OVERLOAD)

    assert ("abort",) == served.calls[-1]
    assert isinstance(served.app.begin_send(body()).exception(), ClientDisconnected)
    assert [("GET", 200, 4)] == served.access_log.lines


def test_rejected_in_mid_body(upload: Served) -> None:
    """An upload that breaks the rules gives a disconnect, never a false end (H21)."""
    upload.tell(upload.stream.body_received, b"half")
    receiving = upload.app.begin_receive()
    assert b"half" == receiving.result()["body"]
    receiving = upload.app.begin_receive()

    upload.tell(upload.stream.reject, RequestRejected(413, "Too large."))

    assert DISCONNECT == receiving.result()
    assert 413 == upload.calls[0][1]


def test_end_of_a_body_that_was_dropped(upload: Served) -> None:
    """After a timeout in mid-body no rest of it looks like the whole (H21)."""
    upload.tell(upload.stream.body_received, b"first ")

    upload.tell(upload.stream.reject, OVERLOAD)
    upload.tell(upload.stream.body_received, b"second")
    upload.tell(upload.stream.body_ended)

    assert DISCONNECT == upload.app.receive()


@pytest.mark.parametrize("complete", [False, True])
def test_rejected_too_late(served: Served, complete: bool) -> None:
    """What is over stays as it was."""
    if complete:
        served.app.send(start(), body(b"all"))
    else:
        served.leave()
    calls = [*served.calls]

    served.tell(served.stream.reject, OVERLOAD)

    assert calls == served.calls
    assert 1 == len(served.access_log.lines)


def test_rejected_without_application(served: Served) -> None:
    """What was no request is answered without an application (H16)."""
    sender = RecordingSender(served.loop)
    stream = HTTPStream(served.streams.context, RequestHead(b""), CONNECTION, sender)

    served.tell(stream.reject, RequestRejected(400, "Bad."))

    assert [("response", 400, 5, b"Bad.\n", True)] == sender.calls
    assert 0 == len(served.streams.wheel)
    assert {served.stream} == set(served.streams.manager.running)


def test_rejected_head(serve: Serve) -> None:
    """HEAD gets the length of an error's text, not the text (H33)."""
    served = serve(request_head(method="HEAD"))

    served.tell(served.stream.reject, OVERLOAD)

    assert [("response", 503, 31, b"", True)] == served.calls


def test_busy_server(serve: Serve, loop: SteppedLoop) -> None:
    """Above the limit no application is started."""
    served = serve(limit_concurrency=1)
    sender = RecordingSender(loop)
    second = HTTPStream(served.streams.context, request_head(), CONNECTION, sender)

    served.tell(second.start)

    text = b"The server is busy.\n"
    assert [("response", 503, len(text), text, True)] == sender.calls
    assert (b"retry-after", b"1") in second.fields.headers
    assert not second.fields.close
    assert [("GET", 503, len(text))] == served.access_log.lines
    assert 1 == len(served.streams.manager.running)


# -- The end -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("messages", "line"),
    [
        ([], ("GET", 499, 0)),
        ([start(201)], ("GET", 499, 0)),
        ([start(201), body(b"half", more=True)], ("GET", 201, 4)),
        ([start(201), body(b"whole")], ("GET", 201, 5)),
    ],
)
def test_access_log_when_the_client_leaves(
    served: Served, messages: list[Message], line: tuple[str, int, int]
) -> None:
    """The log tells what the client has got; 499 when that was nothing."""
    served.app.send(*messages)
    if len(messages) == 2 and messages[1]["more_body"] is False:
        assert served.sender.is_over
    else:
        served.leave()
    served.tell(served.stream.disconnected)
    served.app.end()

    assert [line] == served.access_log.lines


def test_access_log_of_each_ending(served: Served, log: RecordedLog) -> None:
    """An error is logged with the status that the client got (C10)."""
    served.app.send(start(204))
    served.app.end(ZeroDivisionError())

    assert [("GET", 500, 22)] == served.access_log.lines
    assert 1 == len(log.take())


def test_what_the_access_log_may_ask(serve: Serve) -> None:
    """All that formats of the access log can show."""
    served = serve(request_head(b"/a?b=c", headers=[(b"user-agent", b"x")]))
    served.app.send(start(headers=[(b"x-own", b"a")]), body(b"all"))
    stream = served.stream

    assert ("GET", b"/a?b=c", "1.1") == (
        stream.method,
        stream.target,
        stream.http_version,
    )
    assert ("127.0.0.1", 50123) == stream.client
    assert [(b"user-agent", b"x")] == stream.request_headers
    assert [(b"x-own", b"a")] == [*stream.response_headers]
    assert 0 <= stream.duration < 60


def test_log_lines_are_ascii(serve: Serve) -> None:
    """A path with odd bytes can't forge or break a line of the log."""
    served = serve(request_head(b"/caf\xc3\xa9?secret"))

    assert served.stream.describe().startswith("GET /caf\\xc3\\xa9, 0.0 s")


def test_deadline_ends_with_the_application(served: Served) -> None:
    """Applications that end in time leave nothing to watch (C16)."""
    served.leave()
    assert 1 == len(served.streams.wheel)

    served.app.end()

    assert 0 == len(served.streams.wheel)
    assert inf == served.stream.covered_from


def test_cancellation_in_mid_response(served: Served, log: RecordedLog) -> None:
    """At shutdown a stream that goes on is broken off (C16)."""
    served.app.send(start(), body(b"half", more=True))

    served.tell(served.streams.manager.cancel, served.stream)

    assert ("abort",) == served.calls[-1]
    assert [] == log.take()


# -- Files -------------------------------------------------------------------


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A file of 100 bytes."""
    page = tmp_path / "page"
    page.write_bytes(b"0123456789" * 10)
    return page


def test_file_is_one_call(served: Served, page: Path) -> None:
    """The sender learns the length first, then which bytes to send (E6)."""
    served.app.send(start(), path(page))

    assert [
        ("response", 200, 100, b"", False),
        ("file", 0, 100),
        ("body", b"", True),
    ] == served.calls
    assert [("GET", 200, 100)] == served.access_log.lines


def test_disconnect_in_mid_file(served: Served, page: Path) -> None:
    """Nothing is asked of the sender after the client has gone (C13, E6)."""
    served.sender.holds_files = True
    sending = served.app.begin_send(start(), path(page))
    waiting = served.app.begin_send(body())

    served.leave()
    assert isinstance(waiting.exception(), ClientDisconnected)
    served.sender.release_file()

    assert sending.exception() is None
    assert ("file", 0, 100) == served.calls[-1]
    assert isinstance(served.app.begin_send(body()).exception(), ClientDisconnected)


def test_timeout_in_mid_file(served: Served, page: Path) -> None:
    """A download is cut by http_timeout as other responses are (H30)."""
    served.sender.holds_files = True
    sending = served.app.begin_send(start(), path(page))

    served.tell(served.stream.reject, OVERLOAD)
    served.sender.release_file()

    assert sending.exception() is None
    assert ("abort",) == served.calls[-1]


@pytest.mark.parametrize(
    "error", [EOFError("ended early"), OSError(5, "I/O error")], ids=repr
)
def test_file_that_can_not_be_read(
    served: Served, page: Path, error: BaseException
) -> None:
    """What was promised and can't be sent breaks the response off (E4, E6)."""
    served.sender.file_error = error

    failure = served.app.begin_send(start(), path(page)).exception()

    assert error is failure
    assert ("abort",) == served.calls[-1]
    assert 1 == len(served.streams.wheel)
    assert isinstance(served.app.begin_send(body()).exception(), ClientDisconnected)


def test_file_error_after_the_client_has_gone(served: Served, page: Path) -> None:
    """The connection is broken off once, not twice (E6)."""
    served.sender.holds_files = True
    served.sender.file_error = OSError("too late")
    sending = served.app.begin_send(start(), path(page))

    served.leave()
    served.sender.release_file()

    assert isinstance(sending.exception(), OSError)
    assert ("file", 0, 100) == served.calls[-1]


def test_application_ends_in_mid_file(
    served: Served, page: Path, log: RecordedLog
) -> None:
    """An application that doesn't await its send() breaks its response (H32)."""
    served.sender.holds_files = True
    sending = served.app.begin_send(start(), path(page))

    served.app.end()
    served.sender.release_file()

    assert ("abort",) == served.calls[-1]
    assert sending.exception() is None
    assert 1 == len(log.take())


def test_files_in_turn(served: Served, page: Path) -> None:
    """Two tasks that send files at once send them one after the other (C18, E4)."""
    served.sender.holds_files = True
    with page.open("rb") as opened:
        served.app.begin_send(start(), file(opened, count=10, more=True))
        second = served.app.begin_send(file(opened, count=5, more=True))
        assert 1 == sum(call[0] == "file" for call in served.calls)
        served.sender.release_file()

        assert second.done()
        assert [("file", 0, 10), ("file", 10, 5)] == [
            call for call in served.calls if call[0] == "file"
        ]
    assert b"012345678901234" == served.sender.body


def test_last_file_when_others_wait(served: Served, page: Path) -> None:
    """What comes behind the last part of the body is ignored (H28, E4)."""
    served.sender.holds_files = True
    with page.open("rb") as opened:
        served.app.begin_send(start(), file(opened))
        late = served.app.begin_send(body(b"late"))
        served.sender.release_file()

    assert late.exception() is None
    assert b"0123456789" * 10 == served.sender.body
    assert served.sender.is_over


def test_congestion_behind_a_file_and_before_trailers(serve: Serve, page: Path) -> None:
    """send() waits for room behind a file, too (H27, E4)."""
    served = serve(request_head(accepts_trailers=True))
    served.sender.congest()

    sending = served.app.begin_send(start(trailers=True), path(page))
    assert not sending.done()
    served.sender.drain()

    assert sending.done()
    served.app.send(trailers((b"digest", b"abc")))
    assert ("trailers", (b"digest", b"abc")) == served.calls[-1]


# -- The table of states -----------------------------------------------------

MESSAGES: list[Message] = [
    start(),
    start(204),
    start(headers=[(b"content-length", b"3")]),
    start(trailers=True),
    start("200"),
    body(b""),
    body(b"abc"),
    body(b"a", more=True),
    body(b"", more=True),
    body("text"),
    trailers((b"digest", b"abc")),
    trailers((b"digest", b"abc"), more=True),
    hint(b"</a>"),
    path(__file__),
    path("/no/such/file"),
    path("relative"),
    {"type": "no.such.message"},
    {},
]
# What the client does, as far as it still may.
EVENTS = ["receive", "piece", "end", "leave", "reject", "second"]


@given(
    method=st.sampled_from(["GET", "HEAD"]),
    accepts_trailers=st.booleans(),
    has_body=st.booleans(),
    actions=st.lists(
        st.one_of(
            st.integers(0, len(MESSAGES) - 1),
            st.sampled_from(EVENTS),
        ),
        max_size=12,
    ),
)
@settings(max_examples=150, deadline=None)
def test_no_sequence_breaks_the_contract_of_the_sender(
    method: str, accepts_trailers: bool, has_body: bool, actions: list[int | str]
) -> None:
    """
    Whatever an application sends and a client does, messages are taken, ignored or
    refused, the sender is used as it may be used, and each exchange ends (C8, C12).
    """
    loop = SteppedLoop()
    with recorded_log() as log:
        served = Served(
            loop,
            request_head(
                method=method, has_body=has_body, accepts_trailers=accepts_trailers
            ),
        )
        _act(served, has_body, actions)
        was_over = served.sender.is_over
        if served.is_running():
            served.app.end()
        assert not served.is_running()
        assert was_over or served.sender.is_over
        assert 1 == len(served.access_log.lines)
        assert len(log.take()) == (not was_over)
        served.loop.finish()


def _act(served: Served, has_body: bool, actions: list[int | str]) -> None:
    stream, received_bytes = served.stream, 0
    may_get_body, connected = has_body, True
    for action in actions:
        if isinstance(action, int):
            error = served.app.begin_send(MESSAGES[action]).exception()
            assert error is None or isinstance(error, (InvalidMessage, OSError))
        elif action == "receive":
            receiving = served.app.begin_receive()
            if not receiving.done():
                assert may_get_body or not served.sender.is_over
            receiving.cancel()
            served.loop.settle()
        elif action == "second":
            served.loop.advance(1)
        elif not connected or ("abort",) in served.calls:
            continue
        elif action == "leave":
            if not served.sender.is_over:
                served.leave()
            connected = False
        elif action == "reject":
            served.tell(stream.reject, OVERLOAD)
        elif may_get_body and action == "piece":
            served.tell(stream.body_received, b"12345")
            received_bytes += 5
        elif may_get_body and action == "end":
            served.tell(stream.body_ended)
            may_get_body = False
    assert served.sender.consumed_bytes <= received_bytes
    if ("abort",) not in served.calls and connected and served.sender.is_over:
        assert received_bytes == served.sender.consumed_bytes


def states() -> list[Any]:
    """Return all states of the table."""
    return [
        value
        for value in vars(http_stream).values()
        if isinstance(value, ExchangeState)
    ]


def test_table_of_states() -> None:
    """Only what is over takes nothing; each state can say where it stands (C8)."""
    assert 8 == len(states())
    for state in states():
        assert state.when
        assert all(kind.startswith("http.response.") for kind in state.accepts)
        if not state.is_over and state is not http_stream._BUSY:
            assert state.accepts


def test_unheard_messages_let_others_run(serve: Serve, loop: SteppedLoop) -> None:
    """Each piece that nobody gets gives the others a turn (H33)."""
    served = serve(request_head(method="HEAD"))
    served.app.send(start(), body(b"a", more=True))
    assert [("response", 200, None, b"", True)] == served.calls
    turns = []

    async def count() -> None:
        while True:
            turns.append(1)
            await asyncio.sleep(0)

    counting = loop.create_task(count())
    served.app.send(*[body(b"a", more=True)] * 5)
    assert len(turns) > 5
    served.app.send(body())
    assert 0 == len(served.streams.wheel)
    counting.cancel()
