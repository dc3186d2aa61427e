"""Tests of ``daphne_like.asgi.websocket_stream``, through a connection in memory."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any, Protocol

import pytest
from recorded_log import RecordedLog
from stepped_loop import SteppedLoop
from two_ended_transport import HIGH_WATER_BYTES, TwoEndedTransport
from websocket_drivers import ServedWebSocket, handshake
from websocket_frames import frame

from daphne_like.asgi import websocket_stream
from daphne_like.asgi.exchange import ExchangeState
from daphne_like.asgi.websocket_stream import WebSocketStream
from daphne_like.errors import ClientDisconnected, InvalidMessage
from daphne_like.observability.access_log import AccessLog
from daphne_like.protocols.http1 import HTTP1Protocol
from daphne_like.protocols.http1_tunnel import HTTP1Tunnel
from daphne_like.protocols.interfaces import LiveConnection
from daphne_like.protocols.websocket import WebSocketConnection
from daphne_like.protocols.websocket_deflate import Deflate
from daphne_like.settings import HTTPSettings

ACCEPT = {"type": "websocket.accept"}
CLOSE = {"type": "websocket.close"}
GONE = {"type": "websocket.disconnect", "code": 1006, "reason": ""}


def text(content: Any) -> dict[str, Any]:
    """Make a message of text."""
    return {"type": "websocket.send", "text": content}


def deny(kind: str, **content: Any) -> dict[str, Any]:
    """Make a message of an answer to the handshake."""
    return {"type": f"websocket.http.response.{kind}", **content}


class Serve(Protocol):
    """Starts a WebSocket."""

    def __call__(self, request: bytes = b"", **options: Any) -> ServedWebSocket:
        """Take options of :class:`ServedWebSocket`."""


@pytest.fixture
def serve(loop: SteppedLoop) -> Iterator[Serve]:
    """Start WebSockets; what the test leaves of them is ended."""
    started: list[ServedWebSocket] = []

    def serve(request: bytes = b"", **options: Any) -> ServedWebSocket:
        started.append(ServedWebSocket(loop, request, **options))
        return started[-1]

    yield serve
    for served in started:
        served.end()


@pytest.fixture
def opened(serve: Serve) -> ServedWebSocket:
    """Serve a WebSocket that is accepted."""
    served = serve()
    served.accept()
    return served


# -- The handshake -------------------------------------------------------------


def test_the_answer_is_that_of_the_rfc(serve: Serve) -> None:
    """RFC 6455 section 1.3 has this key and what belongs to it."""
    served = serve()
    assert b"" == served.head
    served.accept(subprotocol=None, headers=[(b"X-Name", b"value")])

    lines = served.head.split(b"\r\n")
    assert b"HTTP/1.1 101 Switching Protocols" == lines[0]
    assert b"upgrade: websocket" in lines
    assert b"connection: Upgrade" in lines
    assert b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in lines
    assert b"x-name: value" in lines
    assert b"server: daphne-like" in lines
    assert not [line for line in lines if b"content-length" in line]


def test_the_scope(serve: Serve) -> None:
    """It is all that ASGI asks for."""
    state = {"key": "value"}
    served = serve(
        handshake(
            b"/caf%C3%A9?a=%20b",
            (b"sec-websocket-protocol", b"one, two"),
            (b"sec-websocket-protocol", b"three"),
        ),
        state=state,
        root_path="/root",
    )
    scope = dict(served.app.scope)
    headers = scope.pop("headers")

    assert {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "scheme": "ws",
        "path": "/root/café",
        "raw_path": b"/caf%C3%A9",
        "query_string": b"a=%20b",
        "root_path": "/root",
        "client": ["192.0.2.7", 50123],
        "server": ["192.0.2.1", 8000],
        "subprotocols": ["one", "two", "three"],
        "state": {"key": "value"},
        "extensions": {
            "daphne_like.draining": {"begun": False},
            "websocket.http.response": {},
        },
    } == scope
    assert [b"one, two", b"three"] == [
        value for name, value in headers if name == b"sec-websocket-protocol"
    ]
    assert state is not scope["state"]


@pytest.mark.parametrize(
    ("request_", "status", "line"),
    [
        (handshake(without=b"sec-websocket-version"), 400, b""),
        (handshake(without=b"sec-websocket-key"), 400, b""),
        (handshake(b"/", (b"sec-websocket-key", b"short")), 400, b""),
        (handshake(b"/", (b"sec-websocket-protocol", b"\xff")), 400, b""),
        (handshake(b"/", (b"sec-websocket-extensions", b"a;;")), 400, b""),
        (
            handshake(b"/", (b"sec-websocket-version", b"7")),
            426,
            b"sec-websocket-version: 13, 8",
        ),
        (handshake(method=b"POST"), 405, b"allow: GET"),
        (handshake(b"/", (b"content-length", b"3")) + b"abc", 400, b""),
        (handshake(without=b"connection"), 400, b""),
    ],
)
def test_a_wrong_handshake_never_reaches_the_application(
    serve: Serve, request_: bytes, status: int, line: bytes
) -> None:
    """It is answered with the status for what is wrong, and the connection ends."""
    served = serve(request_)

    assert status == served.status
    assert line in served.head
    assert b"connection: close" in served.head.lower()
    assert b"Traceback" not in served.body
    assert served.transport.ended
    assert not hasattr(served.app, "scope")


@pytest.mark.parametrize(
    "request_",
    [
        handshake(version=b"1.0"),
        b"GET / HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n",
    ],
)
def test_what_asks_for_no_websocket_is_plain_http(
    serve: Serve, request_: bytes
) -> None:
    """RFC 9110 section 7.8: an Upgrade that isn't for us is ignored."""
    assert "http" == serve(request_).app.scope["type"]


def test_behind_a_request_on_the_same_connection(serve: Serve) -> None:
    """It waits its turn, and what the client sent behind it isn't lost."""
    first = b"GET /first HTTP/1.1\r\nhost: a\r\n\r\n"
    served = serve(first + handshake(b"/second") + frame(1, b"early"))
    assert "/first" == served.app.scope["path"]
    plain, served.app = served.app, served.next_application()
    plain.send(
        {"type": "http.response.start", "status": 204},
        {"type": "http.response.body"},
    )
    plain.end()
    assert "/second" == served.app.scope["path"]
    served.app.send(ACCEPT)
    served.app.receive()

    assert "early" == served.app.receive()["text"]


@pytest.mark.parametrize("cut", [1, 20, 60, -30, -9, -8, -1, None])
def test_messages_right_behind_the_handshake(serve: Serve, cut: int | None) -> None:
    """They arrive, however the bytes are cut."""
    data = handshake() + frame(1, b"early") + frame(2, b"bird")
    served = serve(data[:cut])
    if cut is not None:
        served.deliver(data[cut:])
    served.accept()

    assert "early" == served.app.receive()["text"]
    assert b"bird" == served.app.receive()["bytes"]


def test_bytes_before_the_acceptance_are_bounded(serve: Serve) -> None:
    """A client that can't wait is made to wait."""
    served = serve(handshake() + frame(2, b"x" * 1000))
    paused = [served.transport.reading_paused]
    served.accept()
    paused.append(served.transport.reading_paused)

    assert [True, False] == paused
    assert b"x" * 1000 == served.app.receive()["bytes"]


def test_a_subprotocol_is_one_of_the_offered(serve: Serve) -> None:
    """RFC 6455 section 4.2.2."""
    served = serve(handshake(b"/", (b"sec-websocket-protocol", b"a, b")))
    with pytest.raises(InvalidMessage, match="does not offer the subprotocol 'c'"):
        served.app.send({**ACCEPT, "subprotocol": "c"})
    served.app.send({**ACCEPT, "subprotocol": "b"})

    assert b"sec-websocket-protocol: b" in served.head


@pytest.mark.parametrize(
    "field",
    [
        (b"Sec-WebSocket-Protocol", b"a"),
        (b"sec-websocket-accept", b"a"),
        (b"x", b"a\r\nb: c"),
        (b":status", b"200"),
        ("x", "y"),
    ],
)
def test_header_fields_which_may_not_be_sent(serve: Serve, field: Any) -> None:
    """They raise in the application, and it may still accept."""
    served = serve()
    with pytest.raises(InvalidMessage):
        served.app.send({**ACCEPT, "headers": [field]})
    served.app.send({**ACCEPT, "headers": [(b"connection", b"close")]})

    assert 101 == served.status
    assert b"connection: close" not in served.head


def test_compression_is_agreed_on_by_default(serve: Serve) -> None:
    """What browsers offer is taken."""
    offer = (b"sec-websocket-extensions", b"permessage-deflate; client_max_window_bits")
    served = serve(handshake(b"/", offer))
    served.accept()
    assert b"sec-websocket-extensions: permessage-deflate; " in served.head

    served.app.send(text("x" * 1000))
    assert 4 == served.frames[0].rsv
    assert len(served.frames[0].payload) < 100

    off = serve(handshake(b"/", offer), websocket={"ws_per_message_deflate": False})
    off.accept()
    assert b"sec-websocket-extensions" not in off.head


# -- Refusals ------------------------------------------------------------------


def test_closing_before_accepting_refuses(serve: Serve) -> None:
    """ASGI: 403."""
    served = serve()
    served.app.send(CLOSE)

    assert 403 == served.status
    assert b"" == served.body
    assert served.transport.ended
    served.app.receive()
    assert GONE == served.app.receive()
    with pytest.raises(ClientDisconnected):
        served.app.send(ACCEPT)


def test_an_answer_of_the_applications_own(serve: Serve) -> None:
    """The extension websocket.http.response: status, fields and a streamed body."""
    served = serve()
    served.app.send(
        deny("start", status=401, headers=[(b"www-authenticate", b"Basic")]),
        deny("body", body=b"who ", more_body=True),
    )
    with pytest.raises(InvalidMessage, match=r"websocket\.http\.response\.body"):
        served.app.send(ACCEPT)
    served.app.send(deny("body", body=b"are you?"))

    assert 401 == served.status
    assert b"www-authenticate: Basic" in served.head
    assert b"who " in served.body
    assert b"are you?" in served.body
    assert served.transport.ended
    with pytest.raises(ClientDisconnected):
        served.app.send(deny("body"))


def test_a_wrong_answer_can_be_mended(serve: Serve) -> None:
    """What is wrong raises, and nothing is sent."""
    served = serve()
    with pytest.raises(InvalidMessage, match="status"):
        served.app.send(deny("start", status=99))
    assert b"" == served.head
    served.app.send(deny("start", status=400), deny("body"))

    assert 400 == served.status


@pytest.mark.parametrize(
    ("messages", "error", "status"),
    [
        ([], None, 403),
        ([], RuntimeError("oops"), 500),
        ([deny("start", status=400)], None, 500),
        ([deny("start", status=400)], RuntimeError("oops"), 500),
    ],
)
def test_an_application_that_ends_without_an_answer(
    serve: Serve,
    log: RecordedLog,
    messages: list[Any],
    error: Exception | None,
    status: int,
) -> None:
    """The client gets one nevertheless, and the log says what happened, once."""
    served = serve()
    served.app.send(*messages)
    served.app.end(error)

    assert status == served.status
    assert served.transport.ended
    assert 0 == served.running
    assert 1 == len(log.take())


def test_an_application_that_takes_too_long(serve: Serve, log: RecordedLog) -> None:
    """403 after the handshake's time, and the application learns of it."""
    served = serve()
    served.streams.advance(7)

    assert 403 == served.status
    served.app.receive()
    assert GONE == served.app.receive()
    served.streams.advance(12)
    assert 0 == served.running
    assert 1 == len(log.take())


@pytest.mark.parametrize("timeout", [0, -1])
def test_an_application_that_may_take_any_time(serve: Serve, timeout: int) -> None:
    """Daphne's -1 means what it says."""
    served = serve(websocket={"websocket_connect_timeout": timeout})
    served.streams.advance(100)
    served.accept()

    assert 101 == served.status


def test_too_many_applications(serve: Serve) -> None:
    """503 with Retry-After, as for requests."""
    plain = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
    served = serve(plain, limit_concurrency=1)
    other = ServedWebSocket(served.loop, streams=served.streams)

    assert 503 == other.status
    assert b"retry-after: 1" in other.head
    assert other.transport.ended


def test_the_client_leaves_during_the_handshake(serve: Serve) -> None:
    """The application learns of it, and can't accept any more."""
    served = serve()
    served.app.receive()
    waiting = served.app.begin_receive()
    served.transport.leave()
    served.loop.settle()

    assert GONE == waiting.result()
    with pytest.raises(ClientDisconnected):
        served.app.send(ACCEPT)


def test_shutdown_during_the_handshake(serve: Serve, log: RecordedLog) -> None:
    """The client is told that the server goes down."""
    served = serve()
    served.streams.manager.cancel_all()
    served.loop.settle()

    assert 503 == served.status
    assert 1 == len(log.take())


# -- Messages ------------------------------------------------------------------


def test_messages_both_ways(opened: ServedWebSocket) -> None:
    """Text and bytes, the empty ones, too; exactly one key each."""
    opened.say("text", b"bytes", "", b"")

    assert [
        {"type": "websocket.receive", "text": "text"},
        {"type": "websocket.receive", "bytes": b"bytes"},
        {"type": "websocket.receive", "text": ""},
        {"type": "websocket.receive", "bytes": b""},
    ] == [opened.app.receive() for _ in range(4)]

    opened.app.send(
        text("a"),
        {"type": "websocket.send", "bytes": bytearray(b"b")},
        {"type": "websocket.send", "bytes": None, "text": ""},
        {"type": "websocket.send", "bytes": b"", "text": None},
        {"type": "websocket.send", "bytes": memoryview(b"c")},
    )
    assert ["a", b"b", "", b"", b"c"] == opened.said


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"text": None, "bytes": None},
        {"text": "a", "bytes": b"b"},
        {"text": b"a"},
        {"bytes": "a"},
        {"text": "\ud800"},
    ],
    ids=repr,
)
def test_messages_which_are_none(opened: ServedWebSocket, content: Any) -> None:
    """They raise in the application, which may go on."""
    with pytest.raises(InvalidMessage, match=r"websocket\.send: "):
        opened.app.send({"type": "websocket.send", **content})
    opened.app.send(text("fine"))

    assert ["fine"] == opened.said


def test_the_same_message_for_many(serve: Serve) -> None:
    """A broadcast sends one object to all, and others of the same value."""
    members = [serve(), serve()]
    content = "aü", b"ab", "x" * 125, b"x" * 125
    for member in members:
        member.accept()
    for one in content:
        key = "text" if isinstance(one, str) else "bytes"
        for member in members * 2:
            member.app.send({"type": "websocket.send", key: one})
            # What was sent is no excuse for the wrong key, nor for both.
            other = {"text": "bytes"}.get(key, "text")
            for wrong in ({other: one}, {key: one, other: one}):
                with pytest.raises(InvalidMessage):
                    member.app.send({"type": "websocket.send", **wrong})

    twice = [one for one in content for _ in range(2)]
    assert [twice, twice] == [member.said for member in members]


class Socket:
    """
    What takes bytes past the transports of a test.

    Attributes:
        written: The bytes, a call each.
        take: Takes them, as :func:`os.write` does.
    """

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.take: Callable[[bytes], int] = len

    def write(self, descriptor: int, data: bytes) -> int:
        """Take bytes, or not all of them, or raise."""
        assert 777 == descriptor
        count = self.take(data)
        self.written.append(data[:count])
        return count


@pytest.fixture
def socket(monkeypatch: pytest.MonkeyPatch) -> Socket:
    """Give transports a socket, in a process without other threads."""
    socket = Socket()
    monkeypatch.setattr(websocket_stream, "os", SimpleNamespace(write=socket.write))
    monkeypatch.setattr(websocket_stream, "count_other_threads", lambda: 0)
    monkeypatch.setattr(
        TwoEndedTransport, "share_descriptor", lambda _: 777, raising=False
    )
    return socket


def test_what_many_get_takes_the_short_way(socket: Socket, serve: Serve) -> None:
    """Past the transport, from the second one on."""
    members = [serve(), serve(), serve()]
    content = "many" * 2
    for member in members:
        member.accept()
        member.app.send(text(content))
    members[0].app.send(text("one"))

    assert [b"\x81\x08manymany"] * 2 == socket.written
    assert [[content, "one"], [], []] == [member.said for member in members]


def _takes_none(data: bytes) -> int:
    raise BlockingIOError


def _is_broken(data: bytes) -> int:
    raise BrokenPipeError


@pytest.mark.parametrize(
    ("take", "count"), [(_takes_none, 0), (_is_broken, 0), (lambda _: 3, 3)]
)
def test_what_the_socket_does_not_take(
    socket: Socket, serve: Serve, take: Callable[[bytes], int], count: int
) -> None:
    """The transport does; then it's its turn to say whether there is anybody."""
    socket.take = take
    members = [serve(), serve()]
    for member in members:
        member.accept()
        member.app.send(text("many"))

    rest = b"\x81\x04many"[count:]
    assert rest == members[1].body


def test_other_threads_get_no_turn_at_each_write(
    socket: Socket, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that lets the GIL go would have to wait for it, a thousand times."""
    monkeypatch.setattr(websocket_stream, "count_other_threads", lambda: 1)
    members = [serve(), serve()]
    for member in members:
        member.accept()
        member.app.send(text("many"))

    assert [] == socket.written
    assert [["many"], ["many"]] == [member.said for member in members]


def test_other_threads_are_counted() -> None:
    """The function has no documentation."""
    before = websocket_stream.count_other_threads()
    begun, over = Event(), Event()

    def run() -> None:
        begun.set()
        over.wait()

    thread = Thread(target=run)
    thread.start()
    begun.wait()
    during = websocket_stream.count_other_threads()
    over.set()
    thread.join()

    assert before + 1 == during


@pytest.mark.parametrize("least", [0, 3, 125, 126])
def test_small_messages_may_be_compressed_too(serve: Serve, least: int) -> None:
    """From the size on that was asked for."""
    offer = handshake(b"/", (b"sec-websocket-extensions", b"permessage-deflate"))
    served = serve(offer, websocket={"ws_deflate_min_size": least})
    served.accept()
    sizes = (0, 2, 3, 4, 124, 125, 126, 127)
    for size in sizes:
        served.app.send(
            text("a" * size), {"type": "websocket.send", "bytes": b"a" * size}
        )

    compressed = [bool(sent.rsv) for sent in served.frames]
    assert [size >= least for size in sizes for _ in range(2)] == compressed


@pytest.mark.parametrize("message", [ACCEPT, {"type": "http.response.start"}, {}, 3])
def test_messages_at_the_wrong_time(opened: ServedWebSocket, message: Any) -> None:
    """The error says what ASGI expects."""
    with pytest.raises(InvalidMessage, match=r"message|websocket\.close or"):
        opened.app.send(message)


def test_a_cancelled_receive_takes_nothing_with_it(opened: ServedWebSocket) -> None:
    """Applications poll with a timeout."""
    waiting = opened.app.begin_receive()
    opened.say("first")
    assert "first" == waiting.result()["text"]
    waiting = opened.app.begin_receive()
    waiting.cancel()
    opened.say("second")

    assert "second" == opened.app.receive()["text"]


@pytest.mark.parametrize(
    ("message", "count"), [(b"", 32), (b"x" * 30_000, 3)], ids=["many", "large"]
)
def test_a_client_faster_than_the_application(
    opened: ServedWebSocket, message: bytes, count: int
) -> None:
    """Reading pauses, and goes on when the application has caught up."""
    opened.say(*[message] * count)
    paused = [opened.transport.reading_paused]
    opened.say(b"last")
    for _ in range(count):
        assert message == opened.app.receive()["bytes"]
    paused.append(opened.transport.reading_paused)

    assert [True, False] == paused
    assert b"last" == opened.app.receive()["bytes"]


def test_an_application_faster_than_the_client(opened: ServedWebSocket) -> None:
    """``send()`` waits until the client has read."""
    opened.transport.stop_reading()
    sending = opened.app.begin_send(*[text("x" * 30_000)] * 4)
    assert not sending.done()
    opened.transport.read_on()
    opened.loop.settle()

    assert sending.done()
    assert 4 == len(opened.said)


def test_small_messages_wait_for_a_slow_client_too(opened: ServedWebSocket) -> None:
    """The first one that is too much for the transport waits, however small."""
    opened.transport.stop_reading()
    count = 1
    while (sending := opened.app.begin_send(text("x" * 100))).done():
        count += 1

    assert HIGH_WATER_BYTES < 102 * count <= HIGH_WATER_BYTES + 102

    opened.transport.read_on()
    opened.loop.settle()

    assert sending.done()
    assert count == len(opened.said)


def test_a_client_that_never_reads_is_cut(serve: Serve) -> None:
    """After the time it may take nothing; the application learns of it."""
    opened = serve(websocket={"ping_interval": 0})
    opened.accept()
    opened.transport.stop_reading()
    sending = opened.app.begin_send(*[text("x" * 30_000)] * 4)
    opened.streams.advance(62)

    assert opened.transport.reset
    assert isinstance(sending.exception(), ClientDisconnected)
    assert GONE == opened.app.receive()


# -- The end -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "reason"), [(1000, ""), (1001, "going"), (4000, "grüezi")]
)
def test_the_client_closes(opened: ServedWebSocket, code: int, reason: str) -> None:
    """The application gets code and reason, as often as it asks."""
    opened.say("last words")
    opened.close(code, reason)
    end = {"type": "websocket.disconnect", "code": code, "reason": reason}

    assert "last words" == opened.app.receive()["text"]
    assert [end, end] == [opened.app.receive(), opened.app.receive()]
    assert opened.closed == (code, reason)
    assert opened.transport.ended
    with pytest.raises(ClientDisconnected):
        opened.app.send(text("too late"))


def test_the_client_closes_without_a_code(opened: ServedWebSocket) -> None:
    """ASGI: 1005 stands for none."""
    opened.deliver(frame(8))

    assert 1005 == opened.app.receive()["code"]


def test_the_client_vanishes(opened: ServedWebSocket) -> None:
    """1006, and what it sent before is worth having."""
    opened.say("one")
    opened.transport.leave()
    opened.loop.settle()

    assert "one" == opened.app.receive()["text"]
    assert GONE == opened.app.receive()


def test_the_client_breaks_a_rule(opened: ServedWebSocket) -> None:
    """It gets 1002, the application 1006 with the reason."""
    opened.deliver(frame(1, b"a", rsv=3))

    assert opened.closed is not None
    assert 1002 == opened.closed[0]
    end = opened.app.receive()
    assert (1006, opened.closed[1]) == (end["code"], end["reason"])


@pytest.mark.parametrize(
    ("content", "closed"),
    [
        ({}, (1000, "")),
        ({"code": None, "reason": None}, (1000, "")),
        ({"code": 4321, "reason": "ü" * 61}, (4321, "ü" * 61)),
    ],
)
def test_the_application_closes(
    opened: ServedWebSocket, content: Any, closed: tuple[int, str]
) -> None:
    """Both sides get its code and reason; then the connection ends."""
    opened.app.send({**CLOSE, **content})
    assert closed == opened.closed
    assert closed[0] == opened.app.receive()["code"]
    with pytest.raises(ClientDisconnected):
        opened.app.send(CLOSE)
    opened.close(*closed)

    assert opened.transport.ended
    assert opened.transport.reset is False


@pytest.mark.parametrize(
    "content",
    [
        {"code": 999},
        {"code": 1004},
        {"code": 1005},
        {"code": 1006},
        {"code": 1015},
        {"code": 1016},
        {"code": 2999},
        {"code": 5000},
        {"code": "1000"},
        {"reason": b"bytes"},
        {"reason": "x" * 124},
        {"reason": "\ud800"},
    ],
    ids=repr,
)
def test_codes_and_reasons_which_cannot_be_sent(
    opened: ServedWebSocket, content: Any
) -> None:
    """They raise in the application, and nothing is closed."""
    with pytest.raises(InvalidMessage, match=r"websocket\.close: "):
        opened.app.send({**CLOSE, **content})

    assert opened.closed is None


@pytest.mark.parametrize(
    ("error", "code", "logged"), [(None, 1000, 0), (RuntimeError("oops"), 1011, 1)]
)
def test_the_application_ends(
    opened: ServedWebSocket,
    log: RecordedLog,
    error: Exception | None,
    code: int,
    logged: int,
) -> None:
    """With it ends its WebSocket."""
    opened.app.end(error)

    assert opened.closed == (code, "")
    assert logged == len(log.take())


def test_an_end_which_only_says_that_the_client_left(
    opened: ServedWebSocket, log: RecordedLog
) -> None:
    """ASGI 2.4: an application that lets the error through has no fault."""
    opened.transport.leave()
    opened.loop.settle()
    with pytest.raises(ClientDisconnected) as error:
        opened.app.send(text("too late"))
    opened.app.end(error.value)

    assert [] == log.take()


def test_an_application_that_outlives_its_client(
    opened: ServedWebSocket, log: RecordedLog
) -> None:
    """It is cancelled in time, with a line that names it."""
    opened.close()
    opened.streams.advance(9)
    assert 1 == opened.running
    opened.streams.advance(3)

    assert 0 == opened.running
    (line,) = log.take()
    assert "WebSocket /chat, " in line


def test_a_client_that_does_not_answer_a_close(opened: ServedWebSocket) -> None:
    """It is cut after ``ws_close_timeout``."""
    opened.app.send(CLOSE)
    opened.streams.advance(4)
    assert not opened.transport.ended
    opened.streams.advance(4)

    assert opened.transport.reset


def test_the_server_stops(opened: ServedWebSocket) -> None:
    """1001 to both sides, and no message after it."""
    (connection,) = opened.connections
    connection.drain()
    opened.loop.settle()
    assert opened.closed == (1001, "")
    with pytest.raises(ClientDisconnected):
        opened.app.send(text("too late"))
    opened.close(1001)
    opened.transport.leave()
    opened.loop.settle()

    assert 1001 == opened.app.receive()["code"]
    assert set() == opened.connections


def test_the_server_stops_while_the_application_sends(
    opened: ServedWebSocket, log: RecordedLog
) -> None:
    """Before the client has answered the close, it is no fault not to know of it."""
    (connection,) = opened.connections
    connection.drain()
    opened.loop.settle()
    with pytest.raises(ClientDisconnected) as error:
        opened.app.send(text("too late"))
    opened.app.end(error.value)

    assert opened.closed == (1001, "")
    assert [] == log.take()


def test_cancelled_by_the_server(opened: ServedWebSocket, log: RecordedLog) -> None:
    """The client gets 1001 even if the application is cut."""
    opened.streams.manager.cancel_all()
    opened.loop.settle()

    assert opened.closed == (1001, "")
    assert 1 == len(log.take())


def test_a_silent_client_is_pinged_and_cut(opened: ServedWebSocket) -> None:
    """After ``ping_interval``, and ``ping_timeout`` without a word."""
    opened.streams.advance(22)
    assert [9] == [sent.opcode for sent in opened.frames]
    opened.streams.advance(31)

    assert opened.transport.reset
    assert GONE == opened.app.receive()


def test_http_timeouts_do_not_concern_websockets(serve: Serve) -> None:
    """Daphne: ``http_timeout`` never touches a WebSocket."""
    served = serve(settings=HTTPSettings(http_timeout=2.0))
    served.accept()
    served.streams.advance(10)
    served.say("still here")

    assert "still here" == served.app.receive()["text"]


def test_open_websockets_are_connections(serve: Serve, loop: SteppedLoop) -> None:
    """They count, and the server finds them when it stops."""
    connections: set[LiveConnection] = set()
    served = serve(connections=connections)
    assert 1 == len(connections)
    served.accept()
    assert 1 == len(connections)
    (connection,) = connections
    connection.stop()
    loop.settle()

    assert set() == connections
    assert GONE == served.app.receive()


PARTS = (WebSocketStream, WebSocketConnection, HTTP1Tunnel, HTTP1Protocol, Deflate)


def test_nothing_is_left(loop: SteppedLoop) -> None:
    """With the connection all that belonged to it is freed; HTTP's part before."""

    def parts() -> list[object]:
        gc.collect()
        # Not isinstance(), which asks lazy objects, such as Django's, for their class.
        return [part for part in gc.get_objects() if issubclass(type(part), PARTS)]

    before = len(parts())
    offer = (b"sec-websocket-extensions", b"permessage-deflate")
    served = ServedWebSocket(loop, handshake(b"/", offer))
    served.accept()
    served.say("one")
    served.deliver(frame(1, b"two", fin=False), frame(0, b"two"))
    served.app.send(text("x" * 1000))
    kinds = {type(part) for part in parts()[before:]}
    assert {*PARTS} - {HTTP1Protocol} == kinds

    served.close()
    served.transport.leave()
    served.app.end()
    served.streams.advance(3)
    wheel = served.streams.wheel
    del served

    assert before == len(parts())
    assert 0 == len(wheel)


# -- Logs ----------------------------------------------------------------------


class Logged(AccessLog):
    """An access log in a list."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, int]] = []

    def exchange_ended(self, exchange: Any) -> None:
        """Take none of these."""
        raise AssertionError

    def websocket_changed(self, exchange: Any, event: str) -> None:
        """Keep what is of interest."""
        self.events.append((event, exchange.target.decode(), exchange.status))


@pytest.mark.parametrize("accepts", [True, False])
def test_what_the_access_log_is_told(serve: Serve, accepts: bool) -> None:
    """The steps which Daphne logs, in its order."""
    access_log = Logged()
    served = serve(access_log=access_log)
    served.app.send(ACCEPT if accepts else CLOSE)
    served.close()

    status = 101 if accepts else 403
    assert [
        ("CONNECTING", "/chat?room=1", 0),
        ("CONNECT" if accepts else "REJECT", "/chat?room=1", status),
        ("DISCONNECT", "/chat?room=1", status),
    ] == access_log.events


def test_each_state_says_what_it_is() -> None:
    """Error messages name the state."""
    states = [
        value
        for value in vars(websocket_stream).values()
        if isinstance(value, ExchangeState)
    ]
    assert 4 == len({state.when for state in states})
