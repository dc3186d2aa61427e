"""
Tests of ``daphne_like.protocols.websocket`` and ``websocket_autobahn``.

The cases follow the classes of the Autobahn test suite; nearly all of them run
in every way in which a network may cut the bytes, alone and among others.
"""

from __future__ import annotations

import re
import tracemalloc
import zlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from math import inf
from typing import Any, NamedTuple

import pytest
from deliveries import same_for_each_delivery
from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from websocket_frames import Frame, close_payload, frame, read_frames
from wsproto import events as oracle_events
from wsproto.connection import Connection as Oracle
from wsproto.connection import ConnectionState, ConnectionType
from wsproto.extensions import Extension, PerMessageDeflate

from daphne_like.protocols.deadlines import DeadlineWheel
from daphne_like.protocols.websocket import WebSocketConnection, WebSocketContext
from daphne_like.protocols.websocket_autobahn import AutobahnPool, pool_for
from daphne_like.protocols.websocket_deflate import Deflate, DeflateParameters
from daphne_like.settings import WebSocketSettings

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

# As in no other test, since the pools are shared by equal settings.
SMALL = WebSocketSettings(websocket_max_frame_size=600, websocket_max_message_size=1000)
LIMIT = 1000


class Tunnel:
    """
    Bytes both ways, which the test looks at.

    Attributes:
        written: What was sent to the peer.
        calls: The other things that were asked for.
        unsent: Bytes which the peer hasn't taken.
    """

    congested = False

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.calls: list[str] = []
        self.unsent = 0

    def write(self, data: bytes) -> None:
        """Keep what is written; nothing may follow the end."""
        assert bytes is type(data)
        assert not {"end", "abort"} & {*self.calls}
        self.written.append(data)

    def share_descriptor(self) -> int | None:
        """Have a number which is recognized."""
        return 777

    def drained(self) -> Awaitable[None]:
        """Wait for nothing: it is the application's."""
        raise NotImplementedError

    def unsent_bytes(self) -> int:
        """Tell what the test says."""
        return self.unsent

    def pause_reading(self) -> None:
        """Note the call."""
        self.calls.append("pause")

    def resume_reading(self) -> None:
        """Note the call."""
        self.calls.append("resume")

    def end(self) -> None:
        """Note the call."""
        self.calls.append("end")

    def abort(self) -> None:
        """Note the call."""
        self.calls.append("abort")


class Scene:
    """
    A connection, what it is told and what it tells.

    Attributes:
        connection: Under test.
        tunnel: Below it.
        messages: What it has received.
        ended: Code and reason, once it is over.
        pause_at: The user takes no more after so many messages.
        is_patient: The user closes by itself when the server stops.
    """

    def __init__(
        self,
        settings: WebSocketSettings = SMALL,
        deflate: DeflateParameters | None = None,
        timeout_send: float = 60.0,
        drain_code: int = 1001,
    ) -> None:
        self.clock = Clock()
        self.clock.rightNow = 5000.25
        self.wheel = DeadlineWheel(self.clock.seconds)
        self.soon: list[Callable[[], None]] = []
        self.context = WebSocketContext(
            settings, timeout_send, self.wheel, self.soon.append, lambda: drain_code
        )
        self.tunnel = Tunnel()
        self.messages: list[str | bytes] = []
        self.ended: tuple[int, str] | None = None
        self.pause_at = inf
        self.is_patient = False
        self.write_frame: Callable[[bytes], None] | None = None
        self.descriptor: int | None = None
        self.connection = WebSocketConnection(
            self.context, self, Deflate(deflate, settings) if deflate else None
        )
        self.connection.opened(self.tunnel)

    # What the connection tells (WebSocketUser).

    def message_received(self, message: str | bytes) -> None:
        """Keep a message; none comes when it isn't wanted."""
        assert not self.connection.paused
        assert self.ended is None
        self.messages.append(message)
        if len(self.messages) >= self.pause_at:
            self.connection.pause()

    def closed(self, code: int, reason: str) -> None:
        """Keep how it ended; it is told once."""
        assert self.ended is None
        self.ended = code, reason

    def says_goodbye(self) -> bool:
        """Tell what the test says."""
        return self.is_patient

    # What the peer and the time do.

    def read(self, *pieces: bytes) -> Scene:
        """Deliver bytes, while there is still a connection; nobody has a turn."""
        for piece in pieces:
            if "abort" not in self.tunnel.calls:
                self.connection.data_received(piece)
        return self

    def settle(self) -> Scene:
        """Let the loop turn until nothing waits for it."""
        while self.soon:
            self.soon.pop(0)()
        return self

    def receive(self, *pieces: bytes) -> Scene:
        """Deliver bytes one after the other, with turns after each."""
        for piece in pieces:
            self.read(piece).settle()
        return self

    @property
    def code(self) -> int:
        """The code with which it ended; 0 while it goes on."""
        return 0 if self.ended is None else self.ended[0]

    @property
    def frames(self) -> list[Frame]:
        """What has been sent to the peer."""
        return read_frames(b"".join(self.tunnel.written))

    def wait(self, seconds: int) -> Scene:
        """Let time go by."""
        for _ in range(seconds):
            self.clock.advance(1)
            self.wheel.tick()
        return self

    def send(self, message: str | bytes) -> None:
        """Send a message to the peer."""
        if isinstance(message, str):
            self.connection.send(message.encode(), text=True)
        else:
            self.connection.send(message, text=False)

    @property
    def held(self) -> bytes:
        """What was read and not looked at."""
        return self.connection._held[self.connection._held_from :]

    @property
    def lane(self) -> Any:
        """Autobahn's protocol, while it is needed."""
        return self.connection._autobahn


class Outcome(NamedTuple):
    """All that can be seen of a connection from outside."""

    messages: list[str | bytes]
    frames: list[Frame]
    ended: tuple[int, str] | None
    calls: list[str]
    closing: bool


@dataclass(frozen=True)
class Case:
    """
    What a peer sends, and what comes of it.

    Attributes:
        data: What it sends.
        messages: What reaches the application.
        pongs: The payloads of the Pongs.
        close: The code of our Close frame: 0 for none, 1005 for one without.
        ended: The code which the user is told.
        reason: The reason which he is told, where it is the peer's.
        deflate: Compression has been agreed on.
        settings: Those of the connection.
    """

    data: bytes
    messages: Sequence[str | bytes] = ()
    pongs: Sequence[bytes] = ()
    close: int = 0
    ended: int = 0
    reason: str = ""
    deflate: bool = False
    settings: WebSocketSettings = SMALL


DEFLATE = DeflateParameters(15, 15, True, True, b"")

BEFORE = (
    frame(TEXT, b"before")
    + frame(BINARY, b"be", fin=False)
    + frame(PING, b"1")
    + frame(CONTINUATION, b"fore")
)
MESSAGES_BEFORE: list[str | bytes] = ["before", b"before"]
AFTER = frame(BINARY, b"after") + frame(PING, b"2") + frame(TEXT, b"after")
MESSAGES_AFTER: list[str | bytes] = [b"after", "after"]


def outcome(case: Case, pieces: list[bytes], turns: bool = True) -> Outcome:
    """Deliver pieces to a new connection, and tell what comes of it."""
    scene = Scene(case.settings, DEFLATE if case.deflate else None)
    if turns:
        scene.receive(*pieces)
    else:
        # All of them come before anybody has a turn.
        scene.read(*pieces).settle()
    connection, tunnel = scene.connection, scene.tunnel
    result = Outcome(
        scene.messages, scene.frames, scene.ended, tunnel.calls, connection.closing
    )
    # Whatever happened, the next borrower of Autobahn's protocol notices nothing.
    connection.connection_lost()
    assert scene.ended is not None
    assert scene.lane is None
    return result


def check(case: Case) -> None:
    """Run a case in every way: cut anywhere, alone, behind others, before others."""
    pongs = [Frame(True, 0, PONG, payload) for payload in case.pongs]
    own = [*case.messages]
    runs = [(b"", b"", own, pongs)]
    before = [Frame(True, 0, PONG, b"1")]
    runs.append((BEFORE, b"", [*MESSAGES_BEFORE, *own], before + pongs))
    messages, after = [*own], [*pongs]
    if not case.ended:
        messages += MESSAGES_AFTER
        after += [Frame(True, 0, PONG, b"2")]
    runs.append((b"", AFTER, messages, after))
    reasons = set()
    for head, tail, expected_messages, expected_frames in runs:
        data = head + case.data + tail
        if data == case.data:
            result = same_for_each_delivery(data, partial(outcome, case))
        else:
            # Each cut of a long beginning would take long, and tell little.
            result = outcome(case, [data])
            for size in (1, 3, 20, len(head) + 1):
                assert result == outcome(case, parts(data, size))
        assert expected_messages == result.messages
        assert [*map(type, expected_messages)] == [*map(type, result.messages)]
        frames = result.frames
        if case.close:
            *frames, closing = frames
            assert (True, 0, CLOSE) == (closing.fin, closing.rsv, closing.opcode)
            code = int.from_bytes(closing.payload[:2], "big")
            assert case.close == (code or 1005)
            closing.payload[2:].decode()
        assert expected_frames == frames
        assert result.closing is bool(case.close)
        if case.ended:
            assert result.ended is not None
            assert case.ended == result.ended[0]
            assert ["end"] == result.calls
            reasons.add(result.ended[1])
        else:
            assert result.ended is None
            assert [] == result.calls
    if case.close and case.ended != 1006:
        assert {case.reason} == reasons


def wrong(data: bytes, code: int = 1002, **more: Any) -> Case:
    """Tell of something that isn't allowed."""
    return Case(data, close=code, ended=1006, **more)


def split(opcode: int, *payloads: bytes, rsv: int = 0) -> bytes:
    """Build a message in fragments."""
    frames = [
        frame(
            0 if at else opcode,
            payload,
            fin=at == len(payloads) - 1,
            rsv=0 if at else rsv,
        )
        for at, payload in enumerate(payloads)
    ]
    return b"".join(frames)


def parts(data: bytes, size: int = 1) -> list[bytes]:
    """Cut into pieces of one size."""
    return [data[at : at + size] for at in range(0, len(data), size)] or [b""]


# -- 1 Framing, 2 Pings and Pongs, 3 Reserved bits, 4 Opcodes ------------------------

FRAMING = {
    **{
        f"text of {size}": Case(frame(TEXT, b"*" * size), ["*" * size])
        for size in (0, 1, 2, 3, 4, 5, 125, 126, 127, 128)
    },
    **{
        f"binary of {size}": Case(frame(BINARY, b"\xfe" * size), [b"\xfe" * size])
        for size in (0, 1, 125, 126, 127, 128)
    },
    "binary of all bytes": Case(frame(BINARY, bytes(range(256))), [bytes(range(256))]),
    "no mask at all": wrong(frame(TEXT, b"hello", mask=b"")),
    "no mask, empty": wrong(frame(BINARY, mask=b"")),
    "ping without mask": wrong(frame(PING, b"hello", mask=b"")),
    "close without mask": wrong(frame(CLOSE, mask=b"")),
    "mask of zeros": Case(frame(TEXT, b"hello", mask=bytes(4)), ["hello"]),
    "mask of ones": Case(frame(BINARY, b"hello", mask=b"\xff" * 4), [b"hello"]),
    "masks which differ": Case(
        frame(TEXT, b"hello", mask=b"abcd") + frame(TEXT, b"hello", mask=b"1234"),
        ["hello", "hello"],
    ),
    # RFC 6455 section 5.2: "the minimal number of bytes".
    "16 bits for 125": wrong(b"\x82\xfe\x00\x7d" + bytes(4 + 125)),
    "16 bits for 0": wrong(b"\x81\xfe\x00\x00" + bytes(4)),
    "64 bits for 65535": wrong(b"\x82\xff" + (65535).to_bytes(8, "big") + bytes(4)),
    "64 bits for 5": wrong(b"\x81\xff" + (5).to_bytes(8, "big") + bytes(4 + 5)),
    # "the most significant bit MUST be 0"
    "64 bits, negative": wrong(b"\x82\xff\x80" + bytes(7) + bytes(4)),
    "64 bits, all ones": wrong(b"\x81\xff" + b"\xff" * 8 + bytes(4)),
}
PINGS = {
    "ping, empty": Case(frame(PING), pongs=[b""]),
    "ping": Case(frame(PING, b"Hello, world!"), pongs=[b"Hello, world!"]),
    "ping, binary": Case(frame(PING, b"\x00\xff\xfe"), pongs=[b"\x00\xff\xfe"]),
    "ping of 125": Case(frame(PING, b"\xfe" * 125), pongs=[b"\xfe" * 125]),
    "ping of 126": wrong(frame(PING, b"\xfe" * 126)),
    "ping of 65536, by its head": wrong(frame(PING, length=65536)),
    "ping of 5 in 16 bits": wrong(b"\x89\xfe\x00\x05" + bytes(9)),
    "pong": Case(frame(PONG)),
    "pong with payload": Case(frame(PONG, b"unsolicited")),
    "pong of 125": Case(frame(PONG, bytes(125))),
    "pong of 126": wrong(frame(PONG, bytes(126))),
    "pong, then ping": Case(frame(PONG, b"a") + frame(PING, b"b"), pongs=[b"b"]),
    "ten pings": Case(
        b"".join(frame(PING, b"%d" % at) for at in range(10)),
        pongs=[b"%d" % at for at in range(10)],
    ),
}
RESERVED_BITS = {
    **{
        f"rsv {rsv}, opcode {opcode}": wrong(
            frame(TEXT, b"first") + frame(opcode, b"1234", rsv=rsv) + frame(PING),
            messages=["first"],
        )
        for rsv in range(1, 8)
        for opcode in (TEXT, BINARY, CLOSE, PING, PONG)
    },
    **{
        f"rsv {rsv} within a message": wrong(
            frame(TEXT, b"a", fin=False) + frame(CONTINUATION, b"b", rsv=rsv)
        )
        for rsv in (1, 2, 4, 7)
    },
    **{
        f"rsv {rsv}, opcode {opcode}, with compression": wrong(
            frame(opcode, b"\x03\xe8", rsv=rsv), deflate=True
        )
        for rsv in (1, 2, 3, 5, 6, 7)
        for opcode in (TEXT, CLOSE, PING, PONG)
    },
}
OPCODES = {
    f"opcode {opcode} {payload!r}": wrong(
        frame(TEXT, b"first") + frame(opcode, payload) + frame(PING),
        messages=["first"],
    )
    for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
    for payload in (b"", b"payload")
}

# -- 5 Fragmentation -----------------------------------------------------------------

FRAGMENTS = {
    "ping in fragments": wrong(split(PING, b"a", b"b")),
    "pong in fragments": wrong(split(PONG, b"a", b"b")),
    "close in fragments": wrong(split(CLOSE, b"\x03", b"\xe8")),
    "two fragments": Case(split(TEXT, b"frag", b"ment"), ["fragment"]),
    "binary in fragments": Case(split(BINARY, b"\xff", b"\xfe"), [b"\xff\xfe"]),
    "bytes as fragments": Case(split(TEXT, *parts(b"fragment")), ["fragment"]),
    "empty fragments": Case(split(TEXT, b"", b"", b""), [""]),
    "empty around": Case(split(BINARY, b"", b"x", b""), [b"x"]),
    "characters cut": Case(
        split(TEXT, *parts("Hellö-µ@ßöäüàá-\U0001f600".encode())),
        ["Hellö-µ@ßöäüàá-\U0001f600"],
    ),
    "ping within": Case(
        frame(TEXT, b"a", fin=False) + frame(PING, b"p") + frame(CONTINUATION, b"b"),
        ["ab"],
        [b"p"],
    ),
    "pings and pongs within": Case(
        frame(TEXT, b"a", fin=False)
        + frame(PING, b"1")
        + frame(PONG, b"2")
        + frame(CONTINUATION, b"b", fin=False)
        + frame(PING, b"3")
        + frame(PING, b"4")
        + frame(CONTINUATION, b"c"),
        ["abc"],
        [b"1", b"3", b"4"],
    ),
    "ping within a character": Case(
        frame(TEXT, b"\xc3", fin=False) + frame(PING) + frame(CONTINUATION, b"\xbc"),
        ["ü"],
        [b""],
    ),
    "continuation of nothing": wrong(frame(CONTINUATION, b"a")),
    "continuation of nothing, to be continued": wrong(
        frame(CONTINUATION, b"a", fin=False) + frame(CONTINUATION, b"b")
    ),
    "continuation after the end": wrong(
        split(TEXT, b"a", b"b") + frame(CONTINUATION, b"c"), messages=["ab"]
    ),
    "continuation after a message": wrong(
        frame(TEXT, b"a") + frame(CONTINUATION, b"b"), messages=["a"]
    ),
    "text within a text": wrong(frame(TEXT, b"a", fin=False) + frame(TEXT, b"b")),
    "binary within a text": wrong(frame(TEXT, b"a", fin=False) + frame(BINARY, b"b")),
    "begun twice": wrong(frame(TEXT, b"a", fin=False) + frame(TEXT, b"b", fin=False)),
    "close within": Case(
        frame(TEXT, b"a", fin=False) + frame(CLOSE, close_payload(1000)),
        close=1000,
        ended=1000,
    ),
}

# -- 6 UTF-8 -------------------------------------------------------------------------

VALID_UTF8 = [
    "κόσμε",
    "\u0000",
    "\u007f\u0080\u07ff\u0800\uffff\U00010000\U0010ffff",
    "\ud7ff\ue000\ufffd",
    "\ufffe\ufeff\ufdd0",
    "\U0001fffe\U0001ffff\U0010fffe",
    "Hello-µ@ßöäüàá-UTF-8!!",
    "\U0001f469\u200d\U0001f680" * 5,
]
INVALID_UTF8 = [
    # Continuation bytes of nothing.
    b"\x80",
    b"\xbf\x80",
    b"a\x80b",
    # Characters cut short, by the end or by others.
    b"\xc3",
    b"\xe0\xa0",
    b"\xf0\x90\x80",
    b"\xc3 ",
    b"\xe0\xa0 ",
    b"\xf0\x90\x80 ",
    b"\xce\xba\xe1\xbd",
    # Too long.
    b"\xc0\xaf",
    b"\xc1\xbf",
    b"\xe0\x80\xaf",
    b"\xe0\x9f\xbf",
    b"\xf0\x80\x80\xaf",
    b"\xf0\x8f\xbf\xbf",
    b"\xf8\x88\x80\x80\x80",
    b"\xfc\x84\x80\x80\x80\x80",
    # Halves of pairs.
    b"\xed\xa0\x80",
    b"\xed\xaf\xbf",
    b"\xed\xb0\x80",
    b"\xed\xa0\x80\xed\xb0\x80",
    # Beyond the last one.
    b"\xf4\x90\x80\x80",
    b"\xf5\x80\x80\x80",
    b"\xfe",
    b"\xff",
    b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
]
UTF8 = {
    **{
        f"valid {at} {kind}": Case(data, [text])
        for at, text in enumerate(VALID_UTF8)
        for kind, data in (
            ("whole", frame(TEXT, text.encode())),
            ("in bytes", split(TEXT, *parts(text.encode()))),
        )
    },
    **{
        f"invalid {at} {kind}": wrong(data, 1007)
        for at, payload in enumerate(INVALID_UTF8)
        for kind, data in (
            ("whole", frame(TEXT, payload)),
            ("in bytes", split(TEXT, *parts(payload))),
            ("in bytes and the end", split(TEXT, *parts(payload), b"")),
            ("reason", frame(CLOSE, b"\x03\xe8" + payload)),
        )
    },
    "no text": Case(frame(BINARY, b"\xff"), [b"\xff"]),
}

# -- 7 Close -------------------------------------------------------------------------

VALID_CODES = [
    *(1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013),
    *(3000, 3999, 4000, 4999),
]
INVALID_CODES = [
    *(0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535),
]
CLOSES = {
    "close": Case(frame(CLOSE), close=1005, ended=1005),
    "close after a message": Case(
        frame(TEXT, b"a") + frame(CLOSE), ["a"], close=1005, ended=1005
    ),
    "close twice": Case(frame(CLOSE) * 2, close=1005, ended=1005),
    "ping after close": Case(frame(CLOSE) + frame(PING), close=1005, ended=1005),
    "text after close": Case(frame(CLOSE) + frame(TEXT, b"a"), close=1005, ended=1005),
    "rubbish after close": Case(frame(CLOSE) + b"\xff" * 20, close=1005, ended=1005),
    "code cut short": wrong(frame(CLOSE, b"\x03")),
    "reason": Case(
        frame(CLOSE, close_payload(1000, "bye")), close=1000, ended=1000, reason="bye"
    ),
    "longest reason": Case(
        frame(CLOSE, close_payload(1000, "*" * 123)),
        close=1000,
        ended=1000,
        reason="*" * 123,
    ),
    "longest reason, of long characters": Case(
        frame(CLOSE, close_payload(3000, "€" * 41)),
        close=3000,
        ended=3000,
        reason="€" * 41,
    ),
    "too long reason": wrong(frame(CLOSE, close_payload(1000, "*" * 124))),
    **{
        f"code {code}{reason}": Case(
            frame(CLOSE, close_payload(code, reason)),
            close=code,
            ended=code,
            reason=reason,
        )
        for code in VALID_CODES
        for reason in ("", "x")
    },
    **{
        f"code {code}{reason}": wrong(frame(CLOSE, close_payload(code, reason)))
        for code in INVALID_CODES
        for reason in ("", "x")
    },
}

# -- 9 and 10 Limits, in small; large messages are below ------------------------------

TIGHT = WebSocketSettings(websocket_max_frame_size=10, websocket_max_message_size=25)
LIMITS = {
    "frame at the limit": Case(frame(TEXT, b"*" * 10), ["*" * 10], settings=TIGHT),
    "frame beyond it": wrong(frame(TEXT, b"*" * 11), 1009, settings=TIGHT),
    "frame beyond it, by its head": wrong(
        frame(BINARY, length=2**62), 1009, settings=TIGHT
    ),
    "fragment beyond it": wrong(split(TEXT, b"a", b"*" * 11), 1009, settings=TIGHT),
    "message at the limit": Case(
        split(BINARY, *parts(bytes(25), 10)), [bytes(25)], settings=TIGHT
    ),
    "message beyond it": wrong(
        split(BINARY, *parts(bytes(26), 10)), 1009, settings=TIGHT
    ),
    "limit of messages alone": wrong(
        frame(BINARY, bytes(26)),
        1009,
        settings=replace(TIGHT, websocket_max_frame_size=0),
    ),
    "limit of frames alone": Case(
        split(BINARY, *parts(bytes(99), 10)),
        [bytes(99)],
        settings=replace(TIGHT, websocket_max_message_size=0),
    ),
    "no limits": Case(
        split(TEXT, b"*" * 1200, b"*" * 1200),
        ["*" * 2400],
        settings=WebSocketSettings(
            websocket_max_frame_size=0, websocket_max_message_size=0
        ),
    ),
    "messages one by one": Case(
        frame(TEXT, b"*" * 10) * 9, ["*" * 10] * 9, settings=TIGHT
    ),
}

# -- 12 and 13 Compression ------------------------------------------------------------


def squeeze(*messages: bytes, level: int = 6) -> list[bytes]:
    """Compress messages, each with reference to those before."""
    compressor = zlib.compressobj(level, zlib.DEFLATED, -15)
    return [
        (compressor.compress(message) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
        for message in messages
    ]


def squeezed(*messages: bytes, opcode: int = BINARY, **more: int) -> bytes:
    """Build the frames of compressed messages."""
    return b"".join(frame(opcode, data, rsv=4) for data in squeeze(*messages, **more))


# Ten bytes of message, then a hundred of nothing: blocks of no content.
HEAVY = (
    squeeze(bytes(LIMIT))[0]
    + b"\x00\x00\xff\xff"
    + b"\x00\x00\x00\xff\xff" * 20
    + b"\x00"
)

COMPRESSION = {
    "text": Case(
        squeezed(b"Hello", b"Hello", opcode=TEXT), ["Hello", "Hello"], deflate=True
    ),
    "binary": Case(
        squeezed(b"\xff" * 300, b"\xff" * 300), [b"\xff" * 300] * 2, deflate=True
    ),
    "random": Case(squeezed(bytes(range(200)), level=0), [bytes(range(200))], deflate=True),
    "empty": Case(squeezed(b"", opcode=TEXT) * 2, ["", ""], deflate=True),
    "no payload at all": Case(frame(BINARY, b"", rsv=4), [b""], deflate=True),
    "not compressed": Case(
        frame(TEXT, b"a") + squeezed(b"b") + frame(BINARY, b"c"),
        ["a", b"b", b"c"],
        deflate=True,
    ),
    "in fragments": Case(
        split(TEXT, *parts(squeeze("Hellö Hellö".encode())[0], 3), rsv=4),
        ["Hellö Hellö"],
        deflate=True,
    ),
    "in bytes": Case(
        split(BINARY, *parts(squeeze(b"abc" * 40)[0]), b"", rsv=4),
        [b"abc" * 40],
        deflate=True,
    ),
    "both lanes": Case(
        b"".join(
            frame(TEXT, data, rsv=4)
            if at % 2
            else split(TEXT, data[:2], data[2:], rsv=4)
            for at, data in enumerate(squeeze(*[b"again and again"] * 6))
        ),
        ["again and again"] * 6,
        deflate=True,
    ),
    "ping within": Case(
        frame(BINARY, squeeze(b"abc")[0][:2], rsv=4, fin=False)
        + frame(PING, b"p")
        + frame(CONTINUATION, squeeze(b"abc")[0][2:]),
        [b"abc"],
        [b"p"],
        deflate=True,
    ),
    "rsv1 in a continuation": wrong(
        frame(TEXT, b"\xf2", rsv=4, fin=False) + frame(CONTINUATION, b"\x00", rsv=4),
        deflate=True,
    ),
    "rsv1 in a continuation of plain text": wrong(
        frame(TEXT, b"a", fin=False) + frame(CONTINUATION, b"\x00", rsv=4),
        deflate=True,
    ),
    "rsv1 in a ping": wrong(frame(PING, b"a", rsv=4), deflate=True),
    "rsv1 in a close": wrong(frame(CLOSE, rsv=4), deflate=True),
    "no such reference": wrong(frame(TEXT, b"\xf2\x00\x11\x00\x00", rsv=4), 1007, deflate=True),
    "rubbish": wrong(frame(BINARY, b"\xff" * 9, rsv=4), 1007, deflate=True),
    "rubbish in a fragment": wrong(
        split(BINARY, squeeze(b"abc")[0], b"\xff" * 9, rsv=4), 1007, deflate=True
    ),
    "cut short": wrong(frame(BINARY, b"\x00\x05\x00\xfa\xffh", rsv=4), 1007, deflate=True),
    "invalid text": wrong(squeezed(b"ab\xff", opcode=TEXT), 1007, deflate=True),
    "text cut short": wrong(squeezed(b"ab\xc3", opcode=TEXT), 1007, deflate=True),
    "invalid text in fragments": wrong(
        split(TEXT, *parts(squeeze(b"ab\xc3")[0]), rsv=4), 1007, deflate=True
    ),
    "at the limit": Case(squeezed(bytes(LIMIT)), [bytes(LIMIT)], deflate=True),
    "beyond the limit": wrong(squeezed(bytes(LIMIT + 1)), 1009, deflate=True),
    "at the limit, in fragments": Case(
        split(BINARY, *parts(squeeze(bytes(LIMIT))[0]), rsv=4), [bytes(LIMIT)], deflate=True
    ),
    "beyond the limit, in fragments": wrong(
        split(BINARY, *parts(squeeze(bytes(LIMIT + 1))[0]), rsv=4), 1009, deflate=True
    ),
    "bomb": wrong(squeezed(bytes(200_000)), 1009, deflate=True),
    "at the limit with a heavy frame": Case(
        frame(BINARY, HEAVY, rsv=4), [bytes(LIMIT)], deflate=True
    ),
    "at the limit with heavy fragments": Case(
        split(BINARY, *parts(HEAVY, 7), rsv=4), [bytes(LIMIT)], deflate=True
    ),
    "frame beyond the limit of frames": wrong(
        squeezed(bytes(601), level=0), 1009, deflate=True
    ),
}  # fmt: skip

CASES = {
    f"{title}: {name}": case
    for title, cases in {
        "1 framing": FRAMING,
        "2 pings": PINGS,
        "3 reserved bits": RESERVED_BITS,
        "4 opcodes": OPCODES,
        "5 fragments": FRAGMENTS,
        "6 utf-8": UTF8,
        "7 close": CLOSES,
        "9 limits": LIMITS,
        "12 compression": COMPRESSION,
    }.items()
    for name, case in cases.items()
}


@pytest.mark.parametrize("name", CASES)
def test_the_rules_are_kept_however_the_network_cuts(name: str) -> None:
    """What a peer sends comes to the same in one read or in many, alone or not."""
    check(CASES[name])


@pytest.mark.parametrize("size", [65535, 65536, 2**20])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
@pytest.mark.parametrize("fragment", [2**20, 40_000])
def test_large_messages_arrive(size: int, opcode: int, fragment: int) -> None:
    """A message of up to the limit comes through, in one frame or in many."""
    payload = b"0123456789abcdef" * (size // 16 + 1)
    payload = payload[:size]
    data = split(opcode, *parts(payload, fragment))
    message = payload.decode() if opcode == TEXT else payload
    expected = [message, "last"]
    data += frame(TEXT, b"last")

    head = 14
    for pieces in (
        [data],
        [*parts(data[:head]), data[head:]],
        [data[:7], data[7:-3], data[-3:]],
        parts(data, 9973),
    ):
        scene = Scene(WebSocketSettings()).receive(*pieces)

        assert expected == scene.messages
        assert scene.lane is None


def first_wrong_byte(data: bytes) -> int | None:
    """Tell after how many bytes nothing can make it UTF-8 any more (Unicode, 3-7)."""
    tail = rb"[\x80-\xbf]"
    whole = (
        rb"[\x00-\x7f]|[\xc2-\xdf]%b|\xe0[\xa0-\xbf]%b|[\xe1-\xec\xee\xef]%b%b|"
        rb"\xed[\x80-\x9f]%b|\xf0[\x90-\xbf]%b%b|[\xf1-\xf3]%b%b%b|"
        rb"\xf4[\x80-\x8f]%b%b"
    ) % ((tail,) * 12)
    begun = (
        rb"[\xc2-\xf4]|\xe0[\xa0-\xbf]|[\xe1-\xec\xee\xef]%b|\xed[\x80-\x9f]|"
        rb"\xf0[\x90-\xbf]%b?|[\xf1-\xf3]%b%b?|\xf4[\x80-\x8f]%b?"
    ) % ((tail,) * 5)
    valid = re.compile(rb"(?:%b)*(?:%b)?" % (whole, begun), re.DOTALL)
    for count in range(len(data) + 1):
        if not valid.fullmatch(data[:count]):
            return count
    return None


@pytest.mark.parametrize("payload", [data + b"abcdef" for data in INVALID_UTF8])
@pytest.mark.parametrize("kind", ["one frame", "fragments", "compressed"])
def test_a_text_fails_at_the_very_byte_that_is_wrong(payload: bytes, kind: str) -> None:
    """A peer that sends no UTF-8 is refused before it has sent the rest."""
    wrong_at = first_wrong_byte(payload)
    assert wrong_at is not None
    scene = Scene(deflate=DEFLATE)
    if kind == "fragments":
        pieces = parts(payload)
        frames = [frame(TEXT, pieces[0], fin=False)]
        frames += [frame(CONTINUATION, piece, fin=False) for piece in pieces[1:]]
    elif kind == "one frame":
        data = frame(TEXT, payload, length=500)
        # The head and the first byte come together.
        frames = [data[:9], *parts(data[9:])]
    else:
        # Stored, as it is; the first byte with what precedes it.
        data = frame(TEXT, squeeze(payload, level=0)[0], rsv=4)
        frames = [data[:12], *parts(data[12 : 11 + len(payload)])]

    scene.receive(*frames[: wrong_at - 1])

    assert 0 == scene.code

    scene.receive(frames[wrong_at - 1])

    assert 1006 == scene.code
    [closing] = scene.frames
    assert b"\x03\xef" == closing.payload[:2]


@given(
    data=st.binary(max_size=8) | st.lists(st.sampled_from(INVALID_UTF8)).map(b"".join)
)
def test_what_is_utf8_is_judged_as_the_table_of_unicode_does(data: bytes) -> None:
    """Each byte is accepted, or refused at once, by the letter of the standard."""
    scene = Scene()
    scene.receive(frame(TEXT, data, length=500)[: 8 + len(data)])

    assert (first_wrong_byte(data) is None) is (scene.ended is None)


def test_a_violation_is_told_before_its_frame_is_complete() -> None:
    """A peer that breaks a rule in a head isn't waited for."""
    for head in (
        frame(PING, length=126)[:8],
        frame(3, length=100)[:6],
        frame(TEXT, length=601)[:8],
        frame(CONTINUATION, length=100)[:6],
        frame(BINARY, length=100, rsv=1)[:6],
        frame(BINARY, length=100, mask=b""),
    ):
        scene = Scene().receive(head)

        assert scene.ended is not None
        assert ["end"] == scene.tunnel.calls


# -- Any frames, any cuts ---------------------------------------------------------------


def oracle_outcome(data: bytes, compressed: bool) -> tuple[Any, Any, int | None]:
    """Tell what wsproto makes of it: messages, pongs, and how it ends."""
    extensions: list[Extension] = []
    if compressed:
        extension = PerMessageDeflate()
        extension._enabled = True
        extensions.append(extension)
    oracle = Oracle(ConnectionType.SERVER, extensions)
    oracle.receive_data(data)
    messages: list[str | bytes] = []
    pongs: list[bytes] = []
    text: Any = None
    for event in oracle.events():
        if isinstance(event, oracle_events.Message):
            data_of_event = event.data
            if not isinstance(data_of_event, str):
                data_of_event = bytes(data_of_event)
            text = data_of_event if text is None else text + data_of_event
            if event.message_finished:
                messages.append(text)
                text = None
        elif isinstance(event, oracle_events.Ping):
            pongs.append(bytes(event.payload))
        elif isinstance(event, oracle_events.CloseConnection):
            if oracle.state is ConnectionState.REMOTE_CLOSING:
                return messages, pongs, int(event.code)
            return messages, pongs, -int(event.code)
    return messages, pongs, None


small = st.binary(max_size=12)
texts = st.text(max_size=8).map(str.encode)
masks = st.binary(min_size=4, max_size=4)
controls = st.builds(frame, st.sampled_from([PING, PONG]), small, mask=masks)


@st.composite
def good_messages(draw: st.DrawFn, compressed: bool = False) -> bytes:
    """Draw a message in one frame or in many, with control frames between."""
    opcode = draw(st.sampled_from([TEXT, BINARY]))
    payload = draw(texts if opcode == TEXT else small)
    rsv = 0
    if compressed and draw(st.booleans()):
        # Without reference to others, as order is not known here.
        [payload], rsv = squeeze(payload * draw(st.integers(0, 20))), 4
    cuts = draw(st.lists(st.integers(0, len(payload)), max_size=3).map(sorted))
    edges = [0, *cuts, len(payload)]
    data = b""
    for at in range(len(edges) - 1):
        last = at == len(edges) - 2
        data += frame(
            0 if at else opcode,
            payload[edges[at] : edges[at + 1]],
            fin=last,
            rsv=0 if at else rsv,
            mask=draw(masks),
        )
        # (wsproto takes the rest for plain when one comes in a compressed message.)
        if not last and not rsv and draw(st.booleans()):
            data += draw(controls)
    return data


bad_frames = st.one_of(
    # Any head at all, with a payload as long as it says.
    st.builds(
        frame,
        st.integers(0, 15),
        small,
        fin=st.booleans(),
        rsv=st.sampled_from([0, 0, 0, 1, 2, 7]),
        mask=masks,
    ),
    st.sampled_from([CONTINUATION, CLOSE, PING, PONG, 5]).map(
        lambda opcode: frame(opcode, rsv=4)
    ),
    st.sampled_from(INVALID_UTF8).map(lambda data: frame(TEXT, data)),
    st.sampled_from([b"", *map(close_payload, [1000, 3000, 999, 1005])]).map(
        lambda data: frame(CLOSE, data)
    ),
)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[bytes, bool]:
    """Draw what a peer sends, and whether compression was agreed on."""
    compressed = draw(st.booleans())
    good = good_messages(compressed)
    frames = draw(st.lists(good | controls, max_size=5))
    if draw(st.booleans()):
        frames += draw(st.lists(bad_frames | good, max_size=3))
    return b"".join(frames), compressed


@given(conversation=conversations(), cuts=st.lists(st.integers(0, 300), max_size=8))
@settings(max_examples=250, deadline=None)
@example(conversation=(b"", False), cuts=[])
def test_whatever_is_sent_comes_to_what_another_implementation_makes_of_it(
    conversation: tuple[bytes, bool], cuts: list[int]
) -> None:
    """Any frames in any pieces: the same messages, Pongs and close code."""
    data, compressed = conversation
    case = Case(data, deflate=compressed)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[a:b] for a, b in pairwise(edges)]

    whole = outcome(case, [data])

    assert whole == outcome(case, pieces)
    assert whole == outcome(case, pieces, turns=False)
    assert whole == outcome(case, parts(data))
    assert whole == outcome(case, parts(data), turns=False)

    messages, pongs, close = oracle_outcome(data, compressed)

    assert messages == whole.messages
    assert pongs == [sent.payload for sent in whole.frames if sent.opcode == PONG]
    closes = [sent.payload for sent in whole.frames if sent.opcode == CLOSE]
    if close is None:
        assert [] == closes
    else:
        [payload] = closes
        assert abs(close) == (int.from_bytes(payload[:2], "big") or 1005)
        assert whole.ended is not None
        assert whole.ended[0] == (close if close > 0 else 1006)


@given(
    data=st.binary(max_size=80),
    cuts=st.lists(st.integers(0, 80), max_size=5),
    compressed=st.booleans(),
)
@settings(max_examples=150)
def test_rubbish_raises_nothing(data: bytes, cuts: list[int], compressed: bool) -> None:
    """Whatever bytes come, the connection goes on or is failed."""
    case = Case(data, deflate=compressed)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[a:b] for a, b in pairwise(edges)]

    assert outcome(case, [data]) == outcome(case, pieces)


# -- Messages out --------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 70_000])
def test_messages_are_sent_in_one_frame(size: int) -> None:
    """Text and binary of any size reach the client as they are."""
    scene = Scene()
    scene.send("*" * size)
    scene.send(b"\xff" * size)

    assert [
        Frame(True, 0, TEXT, b"*" * size),
        Frame(True, 0, BINARY, b"\xff" * size),
    ] == scene.frames


@pytest.mark.parametrize("compressed", [True, False])
def test_large_enough_messages_are_compressed_when_agreed(compressed: bool) -> None:
    """Small messages aren't worth it; those from the minimum on are compressed."""
    scene = Scene(deflate=DEFLATE if compressed else None)
    least = SMALL.ws_deflate_min_size
    sent: list[str | bytes] = [
        b"x" * (least - 1),
        "x" * least,
        b"y" * 100_000,
        bytes(range(256)) * 300,
    ]
    for message in sent:
        scene.send(message)

    first, *rest = scene.frames
    assert Frame(True, 0, BINARY, b"x" * (least - 1)) == first
    assert [TEXT, BINARY, BINARY] == [each.opcode for each in rest]
    assert {4 if compressed else 0} == {each.rsv for each in rest}
    inflater = zlib.decompressobj(-15)
    for each, message in zip(rest, sent[1:], strict=True):
        payload = each.payload
        if compressed:
            assert len(payload) < len(message)
            payload = inflater.decompress(payload + b"\0\0\xff\xff")
        assert payload == (message.encode() if isinstance(message, str) else message)


# -- Flow control ----------------------------------------------------------------------


@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize("deflate", [None, DEFLATE])
def test_a_user_who_pauses_loses_nothing(
    at: int, deflate: DeflateParameters | None
) -> None:
    """Messages which an application isn't ready for wait, in their order."""
    numbers = [b"%d" % number for number in range(12)]
    data = b""
    for number, payload in enumerate(numbers):
        kind = number % 4
        if kind == 1:
            data += split(TEXT, b"", payload, b"")
        elif kind == 2 and deflate is not None:
            data += frame(TEXT, squeeze(payload)[0], rsv=4)
        else:
            data += frame(TEXT, payload)
        data += frame(PING, payload)
    data += frame(CLOSE, close_payload(1000))
    for pieces in ([data], parts(data), parts(data, 5), parts(data, 50)):
        scene = Scene(deflate=deflate)
        scene.pause_at = at
        for piece in pieces:
            scene.receive(piece)
            while scene.connection.paused:
                count = len(scene.messages)
                assert ["pause"] == scene.tunnel.calls
                # A read that was under way already.
                scene.receive(b"")
                assert count == len(scene.messages)
                scene.pause_at = count + at
                scene.tunnel.calls.clear()
                scene.connection.resume()
                scene.settle()
                if scene.connection.paused:
                    # Paused again within the call: reading was not resumed.
                    scene.tunnel.calls[:] = scene.tunnel.calls[-1:]
            if scene.tunnel.calls[:1] == ["resume"]:
                del scene.tunnel.calls[0]

        assert [number.decode() for number in numbers] == scene.messages
        *pongs, closing = scene.frames
        assert numbers == [pong.payload for pong in pongs]
        assert close_payload(1000) == closing.payload
        assert (1000, "") == scene.ended


def test_reading_pauses_with_the_user_and_goes_on_with_it() -> None:
    """A fast client is held back by TCP, and no memory is filled."""
    scene = Scene()
    scene.pause_at = 1
    scene.receive(frame(TEXT, b"a") + frame(TEXT, b"b") + frame(TEXT, b"c"))

    assert ["a"] == scene.messages
    assert ["pause"] == scene.tunnel.calls

    scene.pause_at = 3
    scene.connection.resume()
    scene.settle()

    # It wants no more, so that reading hasn't been resumed in between.
    assert ["a", "b", "c"] == scene.messages
    assert "resume" not in scene.tunnel.calls

    scene.pause_at = inf
    scene.connection.resume()
    scene.settle()

    assert "resume" == scene.tunnel.calls[-1]
    assert b"" == scene.held


def test_what_is_held_is_at_most_what_was_read() -> None:
    """A connection keeps the rest of a read, and the head of a frame; no more."""
    scene = Scene(WebSocketSettings())
    large = frame(BINARY, bytes(100_000))
    for at in range(0, len(large) - 1, 1000):
        scene.receive(large[at : at + 1000][: len(large) - 1 - at])
        assert len(scene.held) < 14
    scene.receive(large[-1:])

    assert [bytes(100_000)] == scene.messages
    assert b"" == scene.held

    scene.pause_at = 2
    rest = frame(TEXT, b"b") + frame(TEXT, b"c")
    scene.receive(frame(TEXT, b"a") + rest)

    assert rest == scene.held


def test_reading_waits_for_a_turn_without_losing_the_order() -> None:
    """What comes while the application has its turn stays behind what waits."""
    scene = Scene()
    scene.read(frame(TEXT, b"a") + frame(PING, b"1") + frame(TEXT, b"b"))
    scene.read(frame(PING, b"2") + frame(TEXT, b"c"))
    scene.connection.pause()
    scene.settle()
    scene.read(frame(PING, b"3"))
    scene.connection.resume()
    scene.settle()

    assert ["a", "b", "c"] == scene.messages
    assert [b"1", b"2", b"3"] == [sent.payload for sent in scene.frames]


def test_an_application_can_answer_before_the_client_closes() -> None:
    """The answer to a message gets out although a Close frame came right behind it."""
    scene = Scene()
    scene.read(frame(TEXT, b"last question") + frame(CLOSE))

    assert ["last question"] == scene.messages
    assert not scene.connection.closing

    scene.send("answer")
    scene.settle()

    assert [TEXT, CLOSE] == [sent.opcode for sent in scene.frames]
    assert (1005, "") == scene.ended


def test_what_a_client_sent_before_it_left_is_worth_having() -> None:
    """Messages and the Close frame count although the connection is gone by then."""
    scene = Scene()
    scene.read(
        frame(TEXT, b"a")
        + frame(PING, b"1")
        + frame(TEXT, b"b")
        + frame(PING, b"2")
        + frame(TEXT, b"c")
        + frame(CLOSE, close_payload(1000, "bye"))
    )
    scene.connection.connection_lost()
    scene.settle()

    assert ["a", "b", "c"] == scene.messages
    assert [] == scene.frames
    assert (1000, "bye") == scene.ended
    assert [] == scene.tunnel.calls


def test_a_client_that_left_in_mid_message() -> None:
    """What isn't complete is lost."""
    scene = Scene()
    scene.read(frame(TEXT, b"a") + frame(TEXT, b"b", fin=False))
    scene.connection.connection_lost()
    scene.settle()

    assert ["a"] == scene.messages
    assert (1006, "") == scene.ended


def test_only_the_last_ping_is_answered_while_the_client_does_not_read() -> None:
    """A client which pings and reads nothing doesn't fill the memory."""
    scene = Scene()
    scene.connection.congestion_changed(congested=True)
    scene.receive(*[frame(PING, b"%d" % at) for at in range(1000)])

    assert [] == scene.frames

    scene.connection.congestion_changed(congested=False)

    assert [Frame(True, 0, PONG, b"999")] == scene.frames

    scene.connection.congestion_changed(congested=True)
    scene.connection.congestion_changed(congested=False)
    scene.receive(frame(PING, b"after"))

    assert [b"999", b"after"] == [sent.payload for sent in scene.frames]


def test_no_pong_follows_our_close() -> None:
    """After a Close frame nothing is sent, also when a Pong is owed."""
    scene = Scene()
    scene.connection.congestion_changed(congested=True)
    scene.receive(frame(PING, b"a"))
    scene.connection.close(1000, "")
    scene.connection.congestion_changed(congested=False)
    scene.receive(frame(PING, b"b"))

    assert [CLOSE] == [sent.opcode for sent in scene.frames]


def test_the_user_writes_frames_only_while_nothing_else_matters() -> None:
    """Not while the peer is slow, nor behind a Close frame or the end."""
    scenes = [
        Scene(),
        Scene(),
        Scene(),
        Scene(replace(SMALL, ws_deflate_min_size=99), DEFLATE),
    ]
    slow, closed, lost, _ = scenes
    writes = [scene.write_frame for scene in scenes]
    slow.connection.congestion_changed(congested=True)
    closed.connection.close(1000, "")
    lost.connection.connection_lost()

    assert [True, True, True, False] == [write is not None for write in writes]
    assert [None] * 4 == [scene.write_frame for scene in scenes]

    for scene in scenes[:2]:
        scene.connection.congestion_changed(congested=False)

    assert writes[0] == slow.write_frame
    assert closed.write_frame is None


# -- Deadlines -------------------------------------------------------------------------

QUIET = replace(SMALL, ping_interval=0.0, websocket_timeout=0.0)


def test_a_client_that_takes_nothing_is_cut() -> None:
    """A client that stops reading is cut after timeout_send, and no earlier."""
    scene = Scene(QUIET, timeout_send=10)
    scene.tunnel.unsent = 500
    scene.connection.congestion_changed(congested=True)

    assert [] == scene.wait(9).tunnel.calls

    scene.wait(3)

    assert ["abort"] == scene.tunnel.calls
    assert (1006, "") == scene.ended


def test_a_slow_client_is_not_cut() -> None:
    """A client that takes a byte now and then is left alone."""
    scene = Scene(QUIET, timeout_send=10)
    scene.tunnel.unsent = 500
    scene.connection.congestion_changed(congested=True)
    for _ in range(20):
        scene.tunnel.unsent -= 1
        scene.wait(9)

    assert [] == scene.tunnel.calls

    scene.connection.congestion_changed(congested=False)
    scene.wait(60)

    assert [] == scene.tunnel.calls


def test_without_a_send_timeout_nobody_is_cut() -> None:
    """With 0 a client may take as long as it likes."""
    scene = Scene(QUIET, timeout_send=0)
    scene.connection.congestion_changed(congested=True)

    assert [] == scene.wait(600).tunnel.calls


PINGING = replace(QUIET, ping_interval=20.0, ping_timeout=10.0)


def test_a_silent_client_is_pinged_and_cut() -> None:
    """A client that has vanished is noticed after interval and timeout."""
    scene = Scene(PINGING)
    scene.wait(19)

    assert [] == scene.frames

    scene.wait(4)

    assert [Frame(True, 0, PING, b"")] == scene.frames
    assert [] == scene.wait(7).tunnel.calls

    scene.wait(4)

    assert ["abort"] == scene.tunnel.calls
    assert (1006, "") == scene.ended
    assert 1 == len(scene.frames)


@pytest.mark.parametrize(
    "signs", [[frame(PONG)], [frame(TEXT, b"a")], parts(frame(BINARY, bytes(500)))]
)
def test_any_byte_is_a_sign_of_life(signs: list[bytes]) -> None:
    """A client that answers a Ping, or sends anything else, is kept."""
    scene = Scene(PINGING)
    for at in range(8):
        while len(scene.frames) <= at:
            scene.wait(1)
        scene.wait(3).receive(signs[at % len(signs)])

    assert [] == scene.tunnel.calls
    assert {PING} == {sent.opcode for sent in scene.frames}


def test_a_busy_client_is_not_pinged() -> None:
    """Pings are for silent clients alone."""
    scene = Scene(PINGING)
    for _ in range(60):
        scene.wait(2).receive(frame(TEXT, b"a"))

    assert [] == scene.frames


def test_without_a_ping_timeout_nobody_is_cut() -> None:
    """With 0 pings keep proxies awake, and no answer is expected."""
    scene = Scene(replace(PINGING, ping_timeout=0.0)).wait(100)

    assert [] == scene.tunnel.calls
    assert {PING} == {sent.opcode for sent in scene.frames}
    assert 3 <= len(scene.frames) <= 5


def test_an_application_that_does_not_listen_is_not_the_clients_fault() -> None:
    """While reading is paused no silence counts."""
    scene = Scene(PINGING)
    scene.pause_at = 1
    scene.receive(frame(TEXT, b"a"))
    scene.wait(200)

    assert [] == scene.frames
    assert ["pause"] == scene.tunnel.calls

    scene.connection.resume()
    scene.wait(60)

    assert "abort" in scene.tunnel.calls


def test_a_connection_of_the_maximum_age_is_closed() -> None:
    """After websocket_timeout the client is told 1000, and its answer awaited."""
    scene = Scene(replace(QUIET, websocket_timeout=30.0, ws_close_timeout=5.0))
    scene.receive(frame(TEXT, b"a"))
    scene.wait(29)

    assert [] == scene.frames

    scene.wait(3)

    assert [Frame(True, 0, CLOSE, close_payload(1000))] == scene.frames
    assert 0 == scene.code

    scene.receive(frame(TEXT, b"late") + frame(CLOSE, close_payload(1000)))

    assert ["a"] == scene.messages
    assert (1000, "") == scene.ended
    assert ["end"] == scene.tunnel.calls


@pytest.mark.parametrize("timeout", [0.0, -1.0])
def test_without_a_maximum_age_a_connection_stays(timeout: float) -> None:
    """With 0, and Daphne's -1, a connection may stay for ever."""
    scene = Scene(replace(QUIET, websocket_timeout=timeout)).wait(1000)

    assert [] == scene.frames
    assert 0 == len(scene.wheel)


def test_a_client_that_never_answers_a_close_is_cut() -> None:
    """No client can keep a connection by silence, or by going on as before."""
    scene = Scene(replace(PINGING, ws_close_timeout=5.0))
    scene.wait(17)
    scene.connection.close(3001, "enough")
    for _ in range(4):
        scene.wait(1).receive(frame(TEXT, b"a") + frame(PING, b"b"))

    assert [] == scene.tunnel.calls

    scene.wait(3)

    assert ["abort"] == scene.tunnel.calls
    assert (1006, "") == scene.ended
    assert [] == scene.messages
    assert [Frame(True, 0, CLOSE, close_payload(3001, "enough"))] == scene.frames


def test_no_ping_follows_our_close() -> None:
    """After a Close frame nothing is sent, for however long the client may take."""
    scene = Scene(replace(PINGING, ws_close_timeout=0.0))
    scene.connection.close(1000, "")
    scene.wait(600)

    assert [CLOSE] == [sent.opcode for sent in scene.frames]
    assert [] == scene.tunnel.calls


@pytest.mark.parametrize("data", [frame(CLOSE), frame(3)])
def test_a_client_that_does_not_leave_at_the_end_is_cut(data: bytes) -> None:
    """Both have closed, or we have had enough: the connection goes in seconds."""
    scene = Scene(PINGING).receive(data)

    assert ["end"] == scene.tunnel.calls

    scene.receive(*[frame(TEXT, b"a") * 10] * 10)
    scene.wait(4)

    assert ["end", "abort"] == scene.tunnel.calls
    assert [] == scene.messages

    scene.connection.connection_lost()

    assert 0 == len(scene.wheel)


def test_a_connection_that_is_lost_leaves_the_wheel() -> None:
    """What is gone has no deadlines."""
    scene = Scene(PINGING)
    scene.connection.congestion_changed(congested=True)
    scene.connection.connection_lost()

    assert (1006, "") == scene.ended
    assert 0 == len(scene.wheel)
    assert [] == scene.wait(100).tunnel.calls


# -- Closing ---------------------------------------------------------------------------


@pytest.mark.parametrize("code", [1001, 1012])
def test_draining_closes(code: int) -> None:
    """A server that goes down says 1001; one that is replaced 1012; once."""
    scene = Scene(drain_code=code)
    scene.connection.drain()
    scene.connection.drain()

    assert [Frame(True, 0, CLOSE, close_payload(code))] == scene.frames

    scene.receive(frame(CLOSE, close_payload(code)))
    scene.connection.drain()

    assert (code, "") == scene.ended
    assert ["end"] == scene.tunnel.calls


def test_draining_lets_the_user_close() -> None:
    """Who says goodbye is not interrupted, until patience is at its end."""
    scene = Scene()
    scene.is_patient = True
    scene.connection.drain()
    assert [] == scene.frames

    scene.is_patient = False
    scene.connection.drain()
    assert [Frame(True, 0, CLOSE, close_payload(1001))] == scene.frames


@pytest.mark.parametrize(
    ("reason", "sent"),
    [
        ("", ""),
        ("bye", "bye"),
        ("*" * 123, "*" * 123),
        ("*" * 124, "*" * 123),
        ("€" * 42, "€" * 41),
        ("a" + "€" * 41, "a" + "€" * 40),
    ],
)
def test_a_reason_is_cut_to_what_fits(reason: str, sent: str) -> None:
    """A Close frame is always valid, and its reason UTF-8, however long it was."""
    scene = Scene()
    scene.connection.close(4000, reason)

    assert [Frame(True, 0, CLOSE, close_payload(4000, sent))] == scene.frames


CLOSING = {
    "answer": (frame(CLOSE, close_payload(1000, "ok")), (1000, "ok")),
    "answer without a code": (frame(CLOSE), (1005, "")),
    "another code": (frame(CLOSE, close_payload(4242)), (4242, "")),
    "messages, then the answer": (
        frame(TEXT, b"a")
        + split(BINARY, b"b", b"c")
        + frame(PING)
        + frame(CLOSE, close_payload(1000)),
        (1000, ""),
    ),
    "a violation": (frame(TEXT, b"a") + frame(3) + frame(CLOSE), (1006, None)),
    "an invalid answer": (frame(CLOSE, close_payload(999)), (1006, None)),
}


@pytest.mark.parametrize("name", CLOSING)
@pytest.mark.parametrize("within", [False, True])
def test_a_close_of_ours_waits_for_the_clients(name: str, within: bool) -> None:
    """What comes before the client's answer is read, and given to nobody."""
    data, ended = CLOSING[name]
    if within and name.startswith("messages"):
        # It completes the message in whose middle we closed.
        data = frame(CONTINUATION, b"b") + data

    def run(pieces: list[bytes]) -> Outcome:
        scene = Scene()
        if within:
            scene.receive(frame(TEXT, b"a", fin=False))
        scene.connection.close(1000, "done")
        scene.receive(*pieces)
        assert scene.lane is None
        return Outcome(
            scene.messages, scene.frames, scene.ended, scene.tunnel.calls, True
        )

    result = same_for_each_delivery(data, run)

    assert [] == result.messages
    assert [Frame(True, 0, CLOSE, close_payload(1000, "done"))] == result.frames
    assert ["end"] == result.calls
    assert result.ended is not None
    assert ended[0] == result.ended[0]
    assert ended[1] in (None, result.ended[1])


def test_closing_finds_the_answer_among_what_is_unread() -> None:
    """An application that closes with messages unread doesn't wait in vain."""
    scene = Scene()
    scene.pause_at = 1
    scene.receive(
        frame(TEXT, b"a") + frame(TEXT, b"b") + frame(CLOSE, close_payload(1000))
    )

    assert scene.connection.paused

    scene.connection.close(1000, "")
    scene.settle()

    assert ["a"] == scene.messages
    assert (1000, "") == scene.ended

    scene.wait(4)

    # Not ws_close_timeout: there is nothing left to wait for but the end.
    assert "abort" == scene.tunnel.calls[-1]


def test_a_closing_connection_can_not_be_paused() -> None:
    """The client's answer is read, whatever an application does meanwhile."""
    scene = Scene()
    scene.connection.close(1000, "")
    scene.connection.pause()

    assert not scene.connection.paused
    assert [] == scene.tunnel.calls


# -- Autobahn's protocols ----------------------------------------------------------------


def test_a_connection_between_messages_holds_no_protocol_of_autobahn() -> None:
    """Idle connections cost little, whatever they have done before."""
    scene = Scene()

    assert scene.lane is None

    for data in (
        frame(TEXT, b"a"),
        frame(PING),
        split(TEXT, b"a", b"b"),
        frame(BINARY, bytes(500)),
    ):
        scene.receive(*parts(data))
        assert scene.lane is None
        scene.receive(data)
        assert scene.lane is None
    # Not even in the middle of a head.
    scene.receive(frame(TEXT, bytes(500))[:7])

    assert scene.lane is None


DIRTY = {
    "fragment": frame(TEXT, b"secret", fin=False),
    "half a character": frame(TEXT, b"\xe2\x82", fin=False),
    "half a frame": frame(BINARY, b"secret" * 50)[:100],
    "half a ping": frame(PING, b"secret")[:9],
    "half a frame of fragments": (
        frame(BINARY, bytes(500), fin=False) + frame(CONTINUATION, bytes(400))[:50]
    ),
    "violation": frame(TEXT, b"secret", fin=False) + frame(TEXT, b"b"),
    "violation in a head": frame(11, length=100)[:6],
    "invalid text": frame(TEXT, b"secret\xff"),
    "too large": frame(TEXT, length=601)[:20],
    "too large in all": split(BINARY, bytes(600), bytes(600)),
    "close": frame(CLOSE, close_payload(3333, "secret")),
    "invalid close": frame(CLOSE, close_payload(999)),
    "compressed": frame(TEXT, squeeze(b"secret" * 9)[0][:5], rsv=4, fin=False),
    "compressed rubbish": frame(TEXT, b"\xff" * 9, rsv=4, fin=False),
}


@pytest.mark.parametrize("name", DIRTY)
@pytest.mark.parametrize("closes", [False, True])
def test_a_protocol_given_back_is_as_new(name: str, closes: bool) -> None:
    """Whatever one client did, the next one notices nothing."""
    pool = pool_for(SMALL)
    pool._kept.clear()
    first = Scene(deflate=DEFLATE).receive(DIRTY[name])
    if closes and not first.connection.closing:
        first.connection.close(1000, "")
    first.connection.connection_lost()

    [lane] = pool._kept
    assert lane._borrower is None

    for case in (
        FRAGMENTS["pings and pongs within"],
        FRAGMENTS["characters cut"],
        wrong(frame(CONTINUATION, b"a")),
        wrong(frame(TEXT, b"a", rsv=4)),
        CLOSES["close"],
        CLOSES["reason"],
        LIMITS_OF_SMALL,
        UTF8["valid 6 in bytes"],
    ):
        # The lane is the same one for each of these.
        result = outcome(case, [case.data])
        assert [*case.messages] == result.messages
        assert [lane] == pool._kept
        assert (result.ended or (0,))[0] == case.ended


LIMITS_OF_SMALL = Case(split(BINARY, bytes(500), bytes(500)), [bytes(1000)])


def test_no_more_protocols_are_kept_than_are_of_use() -> None:
    """After a rush of clients its memory is given back."""
    pool = AutobahnPool(SMALL)
    scenes = [Scene() for _ in range(70)]
    lanes = [pool.borrow(scene.connection, None) for scene in scenes]
    assert 70 == len({*map(id, lanes)})
    for lane in lanes:
        lane.give_back()

    assert 64 == len(pool._kept)


def test_the_pool_is_that_of_the_limits() -> None:
    """Two servers in one process keep their own limits."""
    assert pool_for(SMALL) is pool_for(replace(SMALL))
    assert pool_for(SMALL) is not pool_for(TIGHT)


def test_many_empty_fragments_take_no_memory() -> None:
    """A client that continues a message for ever without content fills nothing."""
    scene = Scene()
    scene.receive(frame(TEXT, b"a", fin=False))
    data = frame(CONTINUATION, b"", fin=False) * 100
    scene.receive(data)
    tracemalloc.start()
    try:
        for _ in range(20):
            scene.receive(data)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    scene.receive(frame(CONTINUATION, b"b"))

    assert kept < 50_000
    assert ["ab"] == scene.messages
