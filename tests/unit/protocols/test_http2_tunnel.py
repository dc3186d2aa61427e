"""
Tests of ``daphne_like.protocols.http2_tunnel``: WebSockets over HTTP/2 (RFC 8441).

With the streams and the codec of the server, and a client in frames.
"""

from __future__ import annotations

import gc
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hand_application import HandApplication
from http2_client import Fields, Response
from http2_frames import ErrorCode, Setting, reset
from http2_served import ServedHTTP2
from recorded_log import RecordedLog
from stepped_loop import SteppedLoop
from websocket_frames import Frame, close_payload, frame, read_frames

from daphne_like.asgi import websocket_stream
from daphne_like.asgi.types import Receive, Scope, Send
from daphne_like.errors import ClientDisconnected
from daphne_like.protocols.interfaces import Header

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10

CONNECT = {"type": "websocket.connect"}


class Client:
    """
    WebSockets on one connection, whose applications are in the hands of the test.

    Attributes:
        served: The connection.
    """

    def __init__(
        self, loop: SteppedLoop, *pairs: tuple[int, int], **options: Any
    ) -> None:
        self.loop = loop
        self._applications: list[HandApplication] = []
        self.served = ServedHTTP2(loop, self._run, **options)
        self.peer = self.served.open(*pairs)

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._applications.pop(0)(scope, receive, send)

    def new_application(self) -> HandApplication:
        """Make the application of the next request."""
        self._applications.append(HandApplication(self.loop))
        return self._applications[-1]

    def connect(self, *fields: Header, end: bool = False) -> WebSocket:
        """Ask for a WebSocket."""
        app = self.new_application()
        number = self.peer.request_of(
            [
                (b":method", b"CONNECT"),
                (b":protocol", b"websocket"),
                (b":scheme", b"http"),
                (b":path", b"/chat?room=1"),
                (b":authority", b"example.org"),
                (b"sec-websocket-version", b"13"),
                *fields,
            ],
            end=end,
        )
        self.served.settle()
        return WebSocket(self.served, app, number)

    def open(self, *fields: Header) -> WebSocket:
        """Ask for one which is accepted."""
        websocket = self.connect(*fields)
        websocket.accept()
        return websocket


class WebSocket:
    """
    One WebSocket of a :class:`Client`.

    Attributes:
        app: Its application.
        number: Of its stream.
    """

    def __init__(self, served: ServedHTTP2, app: HandApplication, number: int) -> None:
        self._served = served
        self.app = app
        self.number = number

    @property
    def answer(self) -> Response:
        """What has come for the client."""
        return self._served.peer.response(self.number)

    @property
    def frames(self) -> list[Frame]:
        """The frames in it."""
        return read_frames(bytes(self.answer.body))

    @property
    def said(self) -> list[str | bytes]:
        """The messages in it."""
        return [
            sent.payload.decode() if sent.opcode == TEXT else sent.payload
            for sent in self.frames
            if sent.opcode in (TEXT, BINARY)
        ]

    @property
    def closed(self) -> int | None:
        """The code of the Close frame in it."""
        codes = [
            int.from_bytes(sent.payload[:2], "big") if sent.payload else 1005
            for sent in self.frames
            if sent.opcode == CLOSE
        ]
        return codes[0] if codes else None

    @property
    def is_forgotten(self) -> bool:
        """Whether the connection has no such stream any more."""
        return self.number not in self._served.protocol.streams

    def accept(self, **message: Any) -> None:
        """Let the application accept, as most do."""
        assert CONNECT == self.app.receive()
        self.send({"type": "websocket.accept", **message})
        assert 200 == self.answer.status

    def send(self, *messages: dict[str, Any]) -> None:
        """Let the application send."""
        self.app.send(*messages)
        self._served.settle()

    def deliver(self, *pieces: bytes, end: bool = False) -> None:
        """Let the client send bytes, a DATA frame each."""
        for piece in pieces:
            self._served.peer.send_data(self.number, piece)
        if end:
            self._served.peer.send_data(self.number, end=True)
        self._served.settle()

    def say(self, text: str) -> None:
        """Let the client send a message."""
        self.deliver(frame(TEXT, text.encode()))

    def close(self, code: int = 1000, *, end: bool = False) -> None:
        """Let the client send a Close frame."""
        self.deliver(frame(CLOSE, close_payload(code)), end=end)

    def reset(self, code: int = ErrorCode.CANCEL) -> None:
        """Let the client reset the stream."""
        self._served.peer.send(reset(self.number, code))
        self._served.settle()


def text(message: str) -> dict[str, Any]:
    """Say something, as an application does."""
    return {"type": "websocket.send", "text": message}


def heard(message: str) -> dict[str, Any]:
    """Hear something, as an application does."""
    return {"type": "websocket.receive", "text": message}


def ended(code: int, reason: str = "") -> dict[str, Any]:
    """Hear that it is over."""
    return {"type": "websocket.disconnect", "code": code, "reason": reason}


Connect = Callable[..., Client]


@pytest.fixture
def connect(loop: SteppedLoop) -> Iterator[Connect]:
    """Make connections, which are closed behind the test."""
    clients: list[Client] = []

    def connect(*pairs: tuple[int, int], **options: Any) -> Client:
        client = Client(loop, *pairs, **options)
        clients.append(client)
        return client

    yield connect
    for client in clients:
        client.served.end()


@pytest.fixture
def client(connect: Connect) -> Client:
    """A connection with the settings that are the defaults."""
    return connect()


# -- The handshake -----------------------------------------------------------


def test_an_application_accepts(client: Client) -> None:
    """With a subprotocol and fields of its own; none of HTTP/1.1 is in the answer."""
    websocket = client.connect((b"sec-websocket-protocol", b"chat, superchat"))
    scope = websocket.app.scope

    assert "websocket" == scope["type"]
    assert ("2", "ws") == (scope["http_version"], scope["scheme"])
    assert ("/chat", b"room=1") == (scope["path"], scope["query_string"])
    assert ["chat", "superchat"] == scope["subprotocols"]

    websocket.accept(subprotocol="superchat", headers=[(b"x-room", b"1")])
    fields: Fields = websocket.answer.fields

    assert (b"sec-websocket-protocol", b"superchat") in fields
    assert (b"x-room", b"1") in fields
    assert not {name for name, _ in fields} & {
        b"upgrade",
        b"connection",
        b"sec-websocket-accept",
        b"content-length",
    }
    assert not websocket.answer.is_complete


def test_an_application_refuses(client: Client) -> None:
    """By a close before the acceptance, which is a 403."""
    websocket = client.connect()
    assert CONNECT == websocket.app.receive()
    websocket.send({"type": "websocket.close"})

    assert 403 == websocket.answer.status
    assert websocket.answer.is_complete
    # Nobody would read what the client has to say.
    assert ErrorCode.NO_ERROR == websocket.answer.error
    assert ended(1006) == websocket.app.receive()
    assert websocket.is_forgotten


def test_an_application_refuses_in_its_own_words(client: Client) -> None:
    """With a status, fields and a body."""
    websocket = client.connect()
    websocket.send(
        {
            "type": "websocket.http.response.start",
            "status": 401,
            "headers": [(b"www-authenticate", b"Basic")],
        },
        {"type": "websocket.http.response.body", "body": b"Who ", "more_body": True},
        {"type": "websocket.http.response.body", "body": b"are you?"},
    )

    assert 401 == websocket.answer.status
    assert [b"Basic"] == websocket.answer.values_of(b"www-authenticate")
    assert b"Who are you?" == websocket.answer.body
    assert websocket.answer.is_complete
    assert websocket.is_forgotten


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ([(b"sec-websocket-version", b"13")], 400),
        ([(b"sec-websocket-protocol", b"a, a")], 400),
        ([(b"sec-websocket-protocol", b"?;?")], 400),
    ],
)
def test_a_wrong_handshake_is_answered(
    client: Client, fields: list[Header], status: int
) -> None:
    """The application doesn't see it."""
    websocket = client.connect(*fields)

    assert status == websocket.answer.status
    assert websocket.answer.is_complete


def test_another_version_is_refused_without_an_upgrade(client: Client) -> None:
    """426 asks for a field which HTTP/2 forbids, so it is 400 here."""
    peer = client.peer
    number = peer.request_of(
        [
            (b":method", b"CONNECT"),
            (b":protocol", b"websocket"),
            (b":scheme", b"http"),
            (b":path", b"/"),
            (b":authority", b"example.org"),
            (b"sec-websocket-version", b"7"),
        ],
        end=False,
    )
    response = peer.expect_response(number, 400)

    assert [b"13, 8"] == response.values_of(b"sec-websocket-version")


def test_an_application_that_does_not_decide(client: Client, log: RecordedLog) -> None:
    """The client gets a 403 after some seconds, as over HTTP/1.1."""
    websocket = client.connect()
    client.served.advance(7)

    assert 403 == websocket.answer.status
    assert websocket.is_forgotten
    log.take()


def test_a_client_that_leaves_during_the_handshake(client: Client) -> None:
    """The application hears of it, by a reset as by a lost connection."""
    first, second = client.connect(), client.connect()
    assert CONNECT == first.app.receive() == second.app.receive()
    first.reset()

    assert ended(1006) == first.app.receive()

    client.served.link.leave()

    assert ended(1006) == second.app.receive()


# -- Messages ----------------------------------------------------------------


def test_what_many_get_stays_in_its_stream(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing may be written past the frames of HTTP/2."""
    monkeypatch.setattr(websocket_stream, "count_other_threads", lambda: 0)
    members = [client.open(), client.open()]
    for member in members * 2:
        member.send(text("many"))

    assert [["many"] * 2] * 2 == [member.said for member in members]


def test_messages_go_both_ways(client: Client) -> None:
    """Text and bytes, small and large."""
    websocket = client.open()
    websocket.say("Hello")
    large = frame(BINARY, bytes(range(256)) * 100)
    websocket.deliver(large[:16_384], large[16_384:])

    assert heard("Hello") == websocket.app.receive()
    message = websocket.app.receive()
    assert bytes(range(256)) * 100 == message["bytes"]

    websocket.send(
        text("Good day"), {"type": "websocket.send", "bytes": b"\0" * 20_000}
    )

    assert ["Good day", b"\0" * 20_000] == websocket.said


def test_a_message_may_be_cut_anywhere(client: Client) -> None:
    """DATA frames have nothing to do with those of WebSockets."""
    websocket = client.open()
    message = frame(TEXT, "Grüße".encode())
    for cut in range(1, len(message)):
        websocket.deliver(message[:cut], message[cut:])

        assert heard("Grüße") == websocket.app.receive()

    websocket.deliver(*(message[at : at + 1] for at in range(len(message))))

    assert heard("Grüße") == websocket.app.receive()


def test_messages_are_compressed(client: Client) -> None:
    """As the client offers it, and both ways."""
    offer = (b"sec-websocket-extensions", b"permessage-deflate")
    websocket = client.open(offer)
    (agreed,) = websocket.answer.values_of(b"sec-websocket-extensions")

    assert agreed.startswith(b"permessage-deflate")

    websocket.send(text("again and " * 100))
    (sent,) = websocket.frames
    inflated = zlib.decompressobj(-15).decompress(sent.payload + b"\0\0\xff\xff")

    assert 4 == sent.rsv
    assert b"again and " * 100 == inflated

    deflate = zlib.compressobj(wbits=-15)
    payload = deflate.compress(b"hello") + deflate.flush(zlib.Z_SYNC_FLUSH)
    websocket.deliver(frame(TEXT, payload[:-4], rsv=4))

    assert heard("hello") == websocket.app.receive()


def test_messages_before_the_acceptance_are_kept(client: Client) -> None:
    """A client that doesn't wait loses nothing, nor does its window."""
    websocket = client.connect()
    websocket.deliver(*(frame(TEXT, b"%d" % n) for n in range(5)))
    before = client.peer.stream_send_window(websocket.number)
    websocket.accept()

    assert [heard(str(n)) for n in range(5)] == [
        websocket.app.receive() for _ in range(5)
    ]
    upload = client.served.protocol.streams[websocket.number]._upload
    assert upload is not None
    assert 0 == upload.unread
    assert before < upload.size == upload.window + upload.credit


def test_pings_are_answered(client: Client) -> None:
    """By pongs with the same payload."""
    websocket = client.open()
    websocket.deliver(frame(PING, b"there?"))

    assert [(PONG, b"there?")] == [(f.opcode, f.payload) for f in websocket.frames]


def test_a_silent_client_is_pinged_and_cut(connect: Connect) -> None:
    """That the connection is alive doesn't help: it is the page that is asked."""
    client = connect(websocket={"ping_interval": 5.0, "ping_timeout": 5.0})
    websocket, other = client.open(), client.open()
    for _ in range(8):
        client.served.advance(1)
        other.deliver(frame(PONG))

    assert [PING] == [f.opcode for f in websocket.frames]

    for _ in range(6):
        client.served.advance(1)
        other.deliver(frame(PONG))

    assert ErrorCode.CANCEL == websocket.answer.error
    assert ended(1006) == websocket.app.receive()
    other.say("I am here")
    assert heard("I am here") == other.app.receive()


# -- The end -----------------------------------------------------------------


def test_the_client_closes(client: Client) -> None:
    """Its Close is answered, and the stream ends on both sides."""
    websocket = client.open()
    websocket.close(4000)

    assert 4000 == websocket.closed
    assert websocket.answer.is_complete
    assert ended(4000) == websocket.app.receive()

    websocket.deliver(end=True)

    assert websocket.is_forgotten
    assert websocket.answer.error is None


def test_the_application_closes(client: Client) -> None:
    """The client gets the code; the stream ends when it has answered."""
    websocket = client.open()
    websocket.send({"type": "websocket.close", "code": 4001, "reason": "enough"})

    completed = [websocket.answer.is_complete]
    websocket.close(4001, end=True)
    completed.append(websocket.answer.is_complete)

    assert 4001 == websocket.closed
    assert [False, True] == completed
    assert websocket.is_forgotten
    assert ended(4001, "enough") == websocket.app.receive()


def test_an_application_that_returns_closes(client: Client) -> None:
    """With 1000, as over HTTP/1.1."""
    websocket = client.open()
    websocket.app.end()
    client.served.settle()

    assert 1000 == websocket.closed


def test_an_application_that_fails_closes(client: Client, log: RecordedLog) -> None:
    """With 1011, and the error in the log."""
    websocket = client.open()
    websocket.app.end(ValueError("oops"))
    client.served.settle()

    assert 1011 == websocket.closed
    assert ["ValueError('oops')"] == [*map(repr, log.take_errors())]


def test_a_client_that_never_answers_a_close_is_cut(client: Client) -> None:
    """Its stream is reset; the connection goes on."""
    websocket = client.open()
    websocket.send({"type": "websocket.close"})
    client.served.advance(7)

    assert ErrorCode.CANCEL == websocket.answer.error
    assert websocket.is_forgotten
    client.peer.expect_pong()


def test_a_client_that_never_ends_its_stream_is_cut(client: Client) -> None:
    """After both Close frames, it gets two seconds."""
    websocket = client.open()
    websocket.close()
    forgotten = [websocket.is_forgotten]
    client.served.advance(4)
    forgotten.append(websocket.is_forgotten)

    assert websocket.answer.is_complete
    assert [False, True] == forgotten
    client.peer.expect_pong()


def test_the_end_of_the_stream_without_a_close(client: Client) -> None:
    """It is what a closed TCP connection is: 1006."""
    websocket = client.open()
    websocket.deliver(frame(TEXT, b"bye"), end=True)

    assert websocket.answer.is_complete
    assert websocket.is_forgotten
    assert heard("bye") == websocket.app.receive()
    assert ended(1006) == websocket.app.receive()


def test_the_end_of_the_stream_before_the_acceptance(client: Client) -> None:
    """What was said before is heard; END_STREAM with the head is the same."""
    websocket = client.connect()
    websocket.deliver(frame(TEXT, b"bye"), end=True)
    websocket.accept()

    assert heard("bye") == websocket.app.receive()
    assert ended(1006) == websocket.app.receive()

    at_once = client.connect(end=True)
    at_once.accept()

    assert ended(1006) == at_once.app.receive()
    assert at_once.is_forgotten


@pytest.mark.parametrize("code", [ErrorCode.CANCEL, ErrorCode.NO_ERROR])
def test_the_client_resets_the_stream(client: Client, code: int) -> None:
    """What it said before is heard, then 1006; who sends learns of it."""
    websocket = client.open()
    websocket.say("one")
    websocket.reset(code)

    assert websocket.is_forgotten
    assert heard("one") == websocket.app.receive()
    assert ended(1006) == websocket.app.receive()
    sending = websocket.app.begin_send(text("anybody?"))
    assert isinstance(sending.exception(), ClientDisconnected)


def test_a_violation_ends_one_stream(client: Client) -> None:
    """The others and the connection go on."""
    websocket, other = client.open(), client.open()
    websocket.deliver(frame(TEXT, b"unmasked", mask=b""))

    assert 1002 == websocket.closed
    assert websocket.answer.is_complete
    assert ended(1006) == {**websocket.app.receive(), "reason": ""}

    other.say("still here")

    assert heard("still here") == other.app.receive()


def test_the_connection_is_lost(client: Client) -> None:
    """All of its WebSockets are over, and what they said is heard."""
    websockets = [client.open() for _ in range(3)]
    for websocket in websockets:
        websocket.say("last words")
    client.served.link.leave()

    for websocket in websockets:
        assert heard("last words") == websocket.app.receive()
        assert ended(1006) == websocket.app.receive()


# -- Back-pressure -----------------------------------------------------------


def test_a_slow_application_lets_its_client_wait_and_no_other(
    client: Client,
) -> None:
    """Credit comes when it receives; nothing is lost, and order is kept."""
    websocket, other = client.open(), client.open()
    peer, count = client.peer, 0
    message = b"x" * 4000
    while peer.sendable(websocket.number) > 5000:
        websocket.deliver(frame(TEXT, b"%6d" % count + message))
        count += 1
        assert count < 1000
    # The window of the stream is used up.
    assert peer.stream_send_window(websocket.number) <= 5000
    assert 262_144 // 4020 - 32 < count < 2 * 262_144 // 4000

    other.say("and I?")

    assert heard("and I?") == other.app.receive()

    for number in range(count):
        assert heard(f"{number:6}" + "x" * 4000) == websocket.app.receive()
    client.served.settle()

    assert peer.stream_send_window(websocket.number) > 131_000
    websocket.say("go on")
    assert heard("go on") == websocket.app.receive()


def test_the_end_waits_for_a_slow_application(client: Client) -> None:
    """All that was said before a Close or the end of the stream is heard."""
    for close in (True, False):
        websocket = client.open()
        for number in range(100):
            websocket.deliver(frame(TEXT, b"%d" % number))
        if close:
            websocket.close(4000, end=True)
        else:
            websocket.deliver(end=True)

        assert [heard(str(number)) for number in range(100)] == [
            websocket.app.receive() for _ in range(100)
        ]
        assert ended(4000 if close else 1006) == websocket.app.receive()


def test_what_a_lost_client_said_is_heard_by_a_slow_application(
    client: Client,
) -> None:
    """Up to a window of it, whether the stream is reset or the connection lost."""
    websocket, other = client.open(), client.open()
    for number in range(100):
        websocket.deliver(frame(TEXT, b"%d" % number))
        other.deliver(frame(TEXT, b"%d" % number))
    websocket.reset()
    client.served.link.leave()

    for each in (websocket, other):
        assert [heard(str(number)) for number in range(100)] == [
            each.app.receive() for _ in range(100)
        ]
        assert ended(1006) == each.app.receive()


def test_a_slow_application_costs_no_time_per_byte(client: Client) -> None:
    """Tiny frames behind what it hasn't received are kept, and not looked at."""
    websocket = client.open()
    for number in range(40):
        websocket.deliver(frame(TEXT, b"%d" % number))
    tunnel = client.served.protocol.streams[websocket.number].tunnel
    assert tunnel is not None
    user: Any = tunnel._user
    held = len(user._held)
    message = frame(TEXT, b"x" * 3000)
    for at in range(len(message)):
        client.peer.send_data(websocket.number, message[at : at + 1])
    client.served.settle()

    assert held == len(user._held)
    assert len(message) <= len(tunnel._held)
    for number in range(40):
        assert heard(str(number)) == websocket.app.receive()
    assert heard("x" * 3000) == websocket.app.receive()


def test_a_slow_client_lets_its_application_wait_and_no_other(
    client: Client,
) -> None:
    """``send()`` waits while the window is shut and enough is queued."""
    websocket, other = client.open(), client.open()
    message = {"type": "websocket.send", "bytes": b"x" * 20_000}
    sending = websocket.app.begin_send(*[message] * 10)
    client.served.settle()

    assert not sending.done()
    assert 65_535 == len(websocket.answer.body)
    stream = client.served.protocol.streams[websocket.number]
    assert stream.unsent_bytes() <= 64 * 1024 + 20_004

    client.peer.grant(0, 1000)
    other.send(text("for you"))

    assert ["for you"] == other.said

    for _ in range(20):
        client.peer.grant(0, 20_000)
        client.peer.grant(websocket.number, 20_000)
        client.served.settle()

    assert sending.done()
    assert [b"x" * 20_000] * 10 == websocket.said


def test_a_client_that_takes_nothing_is_cut(client: Client) -> None:
    """After ``timeout_send``; its application is told, the others go on."""
    websocket = client.open()
    message = {"type": "websocket.send", "bytes": b"x" * 200_000}
    sending = websocket.app.begin_send(message)
    for _ in range(63):
        client.served.advance(1)
        websocket.deliver(frame(PONG))

    assert ErrorCode.CANCEL == websocket.answer.error
    assert sending.done()
    assert ended(1006) == websocket.app.receive()
    assert websocket.is_forgotten
    client.peer.expect_pong()


# -- Many of them ------------------------------------------------------------


def test_many_websockets_and_requests_share_a_connection(client: Client) -> None:
    """Each hears what is meant for it, and requests are served in between."""
    websockets = [client.open() for _ in range(50)]
    for number, websocket in enumerate(websockets):
        websocket.say(f"to {number}")
        app = client.new_application()
        request = client.served.get()
        client.served.settle()
        app.send(
            {"type": "http.response.start", "status": 200},
            {"type": "http.response.body", "body": b"%d" % number},
        )
        response = client.peer.expect_response(request)
        app.end()

        assert b"%d" % number == response.body
    for number, websocket in enumerate(websockets):
        assert heard(f"to {number}") == websocket.app.receive()
        websocket.send(text(f"from {number}"))

        assert [f"from {number}"] == websocket.said


def test_websockets_are_drained(client: Client) -> None:
    """They get 1001, may answer, and the connection ends behind the last of them."""
    websockets = [client.open() for _ in range(3)]
    client.served.protocol.drain()
    client.served.settle()

    assert [1001] * 3 == [websocket.closed for websocket in websockets]
    over = [client.served.transport.ended]
    for websocket in websockets:
        websocket.close(1001, end=True)
    client.served.settle()
    over.append(client.served.transport.ended)

    assert [False, True] == over
    assert client.peer.goaways[-1] == (websockets[-1].number, ErrorCode.NO_ERROR)


def of_websockets() -> list[object]:
    """Find what a WebSocket consists of, in all the memory of the process."""
    names = {"HTTP2Stream", "HTTP2Tunnel", "WebSocketStream", "WebSocketConnection"}
    return [each for each in gc.get_objects() if type(each).__name__ in names]


def test_nothing_is_left_for_the_garbage_collector(client: Client) -> None:
    """A WebSocket that is over is freed at once, however it has ended."""
    first = client.open()
    first.close(end=True)
    assert ended(1000) == first.app.receive()
    first.app.end()
    del first
    client.served.settle()
    gc.collect()
    gc.disable()
    try:
        # Other tests may have left some, which a fixture or a traceback holds.
        known = of_websockets()
        for way in ("close", "end", "reset", "refuse"):
            if way == "refuse":
                websocket = client.connect()
                assert CONNECT == websocket.app.receive()
                websocket.send({"type": "websocket.close"})
            else:
                websocket = client.open()
                websocket.say("hello")
                websocket.send(text("hello"))
                assert heard("hello") == websocket.app.receive()
            if way == "close":
                websocket.close(end=True)
            elif way == "end":
                websocket.deliver(end=True)
            elif way == "reset":
                websocket.reset()
            assert "websocket.disconnect" == websocket.app.receive()["type"]
            websocket.app.end()
            del websocket
            client.served.settle()
        left = [
            type(each).__name__
            for each in of_websockets()
            if not any(each is other for other in known)
        ]
    finally:
        gc.enable()

    assert [] == left


def test_the_window_of_the_peer_opens_later(connect: Connect) -> None:
    """A client may begin with a window of 0: what is said waits for it."""
    client = connect((Setting.INITIAL_WINDOW_SIZE, 0))
    websocket = client.open()
    websocket.send(text("patience"), {"type": "websocket.close"})

    assert b"" == websocket.answer.body

    client.peer.grant(websocket.number, 100)
    client.served.settle()

    assert ["patience"] == websocket.said
    assert 1000 == websocket.closed
