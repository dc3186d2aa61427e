"""Tests of ``daphne_like.protocols.http2_reader``."""

from __future__ import annotations

import pytest
from http2_frames import (
    PREFACE,
    FrameType,
    continuation,
    data,
    dependency,
    frame,
    headers,
    ping,
    settings,
    settings_ack,
)

from daphne_like.errors import ConnectionFailed, StreamFailed
from daphne_like.protocols.http2_frames import ErrorCode
from daphne_like.protocols.http2_reader import FrameReader


class Sink:
    """Notes what it is told; closes the reader after a frame of stream 99."""

    def __init__(self) -> None:
        self.reader = FrameReader(16_384, 1000)
        self.read: list[tuple[object, ...]] = []

    def head_received(
        self, stream: int, block: bytes, ended: int, failure: StreamFailed | None = None
    ) -> None:
        """Note a head."""
        self.read.append(("head", stream, block, bool(ended), failure is not None))

    def frame_received(
        self, kind: int, flags: int, stream: int, payload: bytes
    ) -> None:
        """Note another frame."""
        self.read.append((FrameType(kind), flags, stream, payload))
        if stream == 99:
            self.reader.close()

    def feed(self, *pieces: bytes) -> bool:
        """Let the reader have these pieces; return what it says to the last."""
        begun = False
        for piece in pieces:
            begun = self.reader.read(piece, self)
        return begun


@pytest.fixture
def sink() -> Sink:
    """Be told what a reader reads behind preface and settings."""
    sink = Sink()
    sink.feed(PREFACE + settings())
    sink.read.clear()
    return sink


SENT = (
    PREFACE
    + settings()
    + headers(1, b"\x82\x84", end=False)
    + data(1, b"a body", end=True)
    + headers(3, b"\x82", complete=False)
    + continuation(3, b"\x84", complete=False)
    + continuation(3, b"\x86")
    + headers(5, b"\x87", padding=3)
    + ping(b"12345678")
)
READ = [
    (FrameType.SETTINGS, 0, 0, b""),
    ("head", 1, b"\x82\x84", False, False),
    (FrameType.DATA, 1, 1, b"a body"),
    ("head", 3, b"\x82\x84\x86", True, False),
    ("head", 5, b"\x87", True, False),
    (FrameType.PING, 0, 0, b"12345678"),
]


def test_whatever_the_cut() -> None:
    """What is read doesn't depend on how it arrives."""
    for cut in range(len(SENT)):
        sink = Sink()
        sink.feed(SENT[:cut], SENT[cut:])

        assert READ == sink.read
        assert not sink.reader.rest
    sink = Sink()
    sink.feed(*(SENT[at : at + 1] for at in range(len(SENT))))

    assert READ == sink.read


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n",
        PREFACE + ping(),
        PREFACE + settings_ack(),
        PREFACE + headers(1, b"\x82"),
        PREFACE + settings() + continuation(1, b"\x82"),
        PREFACE + settings() + headers(1, b"\x82", complete=False) + ping(),
        PREFACE
        + settings()
        + headers(1, b"\x82", complete=False)
        + continuation(3, b"\x82"),
        PREFACE + settings() + headers(1, b"", complete=False) + headers(1, b"\x82"),
        PREFACE + settings() + headers(2, b"\x82", complete=False),
    ],
)
def test_what_comes_out_of_order(sent: bytes) -> None:
    """It is an error as soon as it is there."""
    with pytest.raises(ConnectionFailed) as failed:
        Sink().feed(sent)

    assert ErrorCode.PROTOCOL_ERROR == failed.value.code


def test_a_frame_which_is_too_long(sink: Sink) -> None:
    """Its payload isn't waited for."""
    with pytest.raises(ConnectionFailed) as failed:
        sink.feed(frame(FrameType.DATA, 0, 1, bytes(16_385))[:9])

    assert ErrorCode.FRAME_SIZE_ERROR == failed.value.code


def test_a_stream_which_depends_on_itself(sink: Sink) -> None:
    """Its head is passed on with the error, as it has to be decoded."""
    sink.feed(headers(1, b"\x82", depends=dependency(1)))
    sink.feed(headers(3, b"\x82", depends=dependency(1)))

    assert [
        ("head", 1, b"\x82", True, True),
        ("head", 3, b"\x82", True, False),
    ] == sink.read


def test_what_has_begun_with_a_read(sink: Sink) -> None:
    """So that time isn't given anew for each piece of it."""
    assert sink.feed(ping()[:5])
    assert not sink.feed(ping()[5:9])
    assert sink.feed(ping()[9:] + ping()[:5])
    assert sink.feed(ping()[5:] + headers(1, b"", complete=False))
    assert not sink.feed(continuation(1, b"", complete=False))
    assert not sink.feed(continuation(1, b"", complete=False)[:3])
    assert sink.reader.partial_head is not None


def test_how_much_of_a_body_has_come(sink: Sink) -> None:
    """A frame of it which isn't complete counts, once its stream is known."""
    sink.feed(data(1, b"a body")[:8])
    assert 0 == sink.reader.partial_bytes(1)
    sink.feed(data(1, b"a body")[8:12])

    assert 12 == sink.reader.partial_bytes(1)
    assert 0 == sink.reader.partial_bytes(3)


def test_nothing_is_read_behind_the_end(sink: Sink) -> None:
    """What came together with the frame which ended the connection is dropped."""
    assert not sink.feed(data(99, b"") + ping() + ping()[:3])

    assert [(FrameType.DATA, 0, 99, b"")] == sink.read
    assert not sink.reader.rest
