"""
HTTP/2 frames out of bytes, and whole heads out of frames.

:class:`FrameReader` does no I/O and knows no time. It is fed bytes, and tells its sink
of frames that are complete, those of a head as one. It keeps the rules of the order
which concern the connection: what comes first, and what may not come in the midst of
a head. What the frames mean is the sink's.

Source: RFC 9113 sections 3.4, 4.1, 4.2, 6.2, 6.10.

Tests: ``tests/unit/protocols/test_http2_reader.py``, ``test_http2_attacks.py``.
"""

from __future__ import annotations

from enum import Enum
from typing import Protocol

from daphne_like.errors import ConnectionFailed, StreamFailed
from daphne_like.protocols.http2_frames import (
    FRAME_HEAD,
    MOST_WINDOW,
    PREFACE,
    ErrorCode,
    Flag,
    FrameType,
    read_number,
    unpadded,
)

__all__ = ["FrameReader", "FrameSink", "depends_on_itself", "wrong_stream"]

# Frames of one head, and what they may add up to beside the limit for its fields.
_MOST_CONTINUATIONS = 256
_BLOCK_SLACK_BYTES = 64 * 1024

_DATA = int(FrameType.DATA)
_HEADERS = int(FrameType.HEADERS)
_CONTINUATION = int(FrameType.CONTINUATION)
# Of the flags of HEADERS: what asks for more than the fields to be read.
_UNUSUAL = Flag.END_HEADERS | Flag.PADDED | Flag.PRIORITY


class _Awaited(Enum):
    """What may come next."""

    PREFACE = "the client's preface"
    SETTINGS = "the first frame"
    FRAME = "any frame but CONTINUATION"
    CONTINUATION = "the rest of a head"
    NOTHING = "whatever comes is ignored"


_FRAME = _Awaited.FRAME
_NOTHING = _Awaited.NOTHING


class FrameSink(Protocol):
    """Who is told what was read, in order; it may raise ``ConnectionFailed``."""

    def head_received(
        self, stream: int, block: bytes, ended: int, failure: StreamFailed | None = None
    ) -> None:
        """
        A head is complete.

        Args:
            stream: Any number which the peer has put there.
            block: The encoded fields.
            ended: Not 0 when the request ends with it.
            failure: What is wrong with it for its stream alone. The block has to be
                decoded nevertheless.
        """

    def frame_received(
        self, kind: int, flags: int, stream: int, payload: bytes
    ) -> None:
        """A frame is complete, which belongs to no head; its type may be unknown."""


class _PartialHead:
    """A head of which more fragments are to come (section 6.10)."""

    __slots__ = ("ended", "failure", "fragments", "size", "stream")

    def __init__(
        self, stream: int, fragment: bytes, ended: int, failure: StreamFailed | None
    ) -> None:
        self.stream = stream
        self.failure = failure
        self.fragments = [fragment]
        self.size = len(fragment)
        self.ended = ended


class FrameReader:
    """
    Reads the frames of one connection.

    Args:
        most_frame_bytes: The longest payload which is taken.
        most_head_bytes: The largest head that is taken, once it is decoded.

    Attributes:
        rest: What has come of a frame, or of the preface, that isn't complete.
        partial_head: A head of which more frames are to come, if there is one.
    """

    __slots__ = (
        "_awaited",
        "_most_block_bytes",
        "_most_frame_bytes",
        "partial_head",
        "rest",
    )

    def __init__(self, most_frame_bytes: int, most_head_bytes: int) -> None:
        self._most_frame_bytes = most_frame_bytes
        self._most_block_bytes = most_head_bytes + _BLOCK_SLACK_BYTES
        self._awaited = _Awaited.PREFACE
        self.rest = b""
        self.partial_head: _PartialHead | None = None

    def read(self, data: bytes, sink: FrameSink) -> bool:
        """
        Read all frames that are complete with ``data``, and keep the rest.

        Returns:
            What isn't complete began in ``data``.

        Raises:
            ConnectionFailed: They break a rule. Nothing more may be read.
        """
        fresh = not self.rest
        if not fresh:
            data, self.rest = self.rest + data, b""
        if self._awaited is _Awaited.PREFACE:
            if len(data) < len(PREFACE) and PREFACE.startswith(data):
                self.rest = data
                return fresh
            data = self._read_preface(data)
        position, end = 0, len(data)
        partial_head = self.partial_head
        unpack, most = FRAME_HEAD.unpack_from, self._most_frame_bytes
        while end - position >= 9:
            high, low, kind, flags, stream = unpack(data, position)
            size = high << 8 | low
            if size > most:
                # Section 4.2.
                raise ConnectionFailed(
                    ErrorCode.FRAME_SIZE_ERROR, "a frame is too long"
                )
            start = position + 9
            position = start + size
            if position > end:
                position = start - 9
                break
            payload = data[start:position]
            stream &= MOST_WINDOW
            if self._awaited is not _FRAME:
                self._check_order(kind, flags, stream)
            if kind == _HEADERS:
                if flags & _UNUSUAL == Flag.END_HEADERS:
                    sink.head_received(stream, payload, flags & 1)
                else:
                    self._read_headers(flags, stream, payload, sink)
            elif kind == _CONTINUATION:
                self._read_continuation(flags, payload, sink)
            else:
                sink.frame_received(kind, flags, stream, payload)
            if self._awaited is _NOTHING:
                return False
        self.rest = data[position:] if position else data
        if self.partial_head is not None:
            return self.partial_head is not partial_head
        return fresh or position > 0

    def close(self) -> None:
        """Ignore what follows, in the bytes that are being read, too."""
        self._awaited = _NOTHING
        self.rest, self.partial_head = b"", None

    def partial_bytes(self, stream: int) -> int:
        """Count what has come of a DATA frame of ``stream`` that isn't complete."""
        rest = self.rest
        if len(rest) >= 9 and rest[3] == _DATA:
            number = FRAME_HEAD.unpack_from(rest)[4]
            if number & MOST_WINDOW == stream:
                return len(rest)
        return 0

    def _read_preface(self, data: bytes) -> bytes:
        """Read what a client begins with (section 3.4); return what is behind it."""
        if not data.startswith(PREFACE):
            raise ConnectionFailed(ErrorCode.PROTOCOL_ERROR, "the preface is wrong")
        self._awaited = _Awaited.SETTINGS
        return data[len(PREFACE) :]

    def _check_order(self, kind: int, flags: int, stream: int) -> None:
        """See that a frame is what has to come now."""
        if self._awaited is _Awaited.SETTINGS:
            # Section 3.4: the preface ends with SETTINGS.
            if kind != FrameType.SETTINGS or flags & Flag.ACK:
                raise _out_of_order()
            self._awaited = _FRAME
        elif self.partial_head is not None and (
            kind != _CONTINUATION or stream != self.partial_head.stream
        ):
            raise _out_of_order()

    def _read_headers(
        self, flags: int, stream: int, payload: bytes, sink: FrameSink
    ) -> None:
        """Take a head in the general form of section 6.2."""
        fragment = unpadded(flags, payload)
        failure = None
        if flags & Flag.PRIORITY:
            if len(fragment) < 5:
                raise ConnectionFailed(ErrorCode.FRAME_SIZE_ERROR, "HEADERS is short")
            if read_number(fragment) == stream:
                # RFC 7540 section 5.3.1; its priorities are otherwise ignored.
                failure = depends_on_itself()
            fragment = fragment[5:]
        if flags & Flag.END_HEADERS:
            sink.head_received(stream, fragment, flags & 1, failure)
            return
        if not stream & 1:
            raise wrong_stream()
        self.partial_head = _PartialHead(stream, fragment, flags & 1, failure)
        self._awaited = _Awaited.CONTINUATION

    def _read_continuation(self, flags: int, payload: bytes, sink: FrameSink) -> None:
        """Take another fragment of a head (section 6.10)."""
        partial = self.partial_head
        if partial is None:
            raise _out_of_order()
        partial.fragments.append(payload)
        partial.size += len(payload)
        # Attack: fragments without end.
        if (
            partial.size > self._most_block_bytes
            or len(partial.fragments) > _MOST_CONTINUATIONS
        ):
            raise ConnectionFailed(ErrorCode.ENHANCE_YOUR_CALM, "a head is too long")
        if flags & Flag.END_HEADERS:
            self.partial_head = None
            self._awaited = _FRAME
            block = b"".join(partial.fragments)
            sink.head_received(partial.stream, block, partial.ended, partial.failure)


def depends_on_itself() -> StreamFailed:
    """Make the error of a priority of old (RFC 7540 section 5.3.1)."""
    return StreamFailed(ErrorCode.PROTOCOL_ERROR, "a stream depends on itself")


def wrong_stream() -> ConnectionFailed:
    """Make the error of a head on a stream which no client opens (section 5.1.1)."""
    return ConnectionFailed(ErrorCode.PROTOCOL_ERROR, "HEADERS on a wrong stream")


def _out_of_order() -> ConnectionFailed:
    return ConnectionFailed(ErrorCode.PROTOCOL_ERROR, "a frame came out of order")
