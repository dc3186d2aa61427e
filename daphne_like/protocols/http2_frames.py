"""
The frames of HTTP/2: their numbers, and their bytes on the way out.

Source: RFC 9113 sections 4, 6, 7; RFC 8441; RFC 9218 section 7.1.

Tests: ``tests/unit/protocols/test_http2_frames.py``.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import TYPE_CHECKING

from daphne_like.errors import ConnectionFailed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = [
    "DEFAULT_FRAME_BYTES",
    "DEFAULT_WINDOW",
    "FRAME_HEAD",
    "MOST_WINDOW",
    "PREFACE",
    "ErrorCode",
    "Flag",
    "FrameType",
    "SettingCode",
    "check_size",
    "frame",
    "goaway_frame",
    "head_frames",
    "read_number",
    "read_settings",
    "reset_frame",
    "settings_frame",
    "unpadded",
    "window_update_frame",
]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client sends first (section 3.4)."""

FRAME_HEAD = Struct(">HBBBL")
"""Length in two parts, type, flags, stream (section 4.1)."""

MOST_WINDOW = 2**31 - 1
"""The largest flow-control window, and the largest stream identifier."""

DEFAULT_WINDOW = 65_535
DEFAULT_FRAME_BYTES = 16_384

_SETTING = Struct(">HL")
_NUMBER = Struct(">L")
_TWO_NUMBERS = Struct(">LL")


class FrameType(IntEnum):
    """Section 6, and RFC 9218 section 7.1."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9
    PRIORITY_UPDATE = 16


class Flag:
    """What the bits of a frame's flags mean; plain numbers, for speed."""

    ACK = 0x1
    END_STREAM = 0x1
    END_HEADERS = 0x4
    PADDED = 0x8
    PRIORITY = 0x20


class SettingCode(IntEnum):
    """Section 6.5.2, RFC 8441 section 3, RFC 9218 section 2.1."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6
    ENABLE_CONNECT_PROTOCOL = 8
    NO_RFC7540_PRIORITIES = 9


class ErrorCode(IntEnum):
    """Section 7."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


# What values settings may have, and the error which another one is (section 6.5.2).
_YES_OR_NO = range(2), ErrorCode.PROTOCOL_ERROR
_ANY_VALUE = range(2**32), ErrorCode.PROTOCOL_ERROR
_VALUES: dict[int, tuple[range, ErrorCode]] = {
    SettingCode.ENABLE_PUSH: _YES_OR_NO,
    SettingCode.INITIAL_WINDOW_SIZE: (
        range(MOST_WINDOW + 1),
        ErrorCode.FLOW_CONTROL_ERROR,
    ),
    SettingCode.MAX_FRAME_SIZE: (
        range(DEFAULT_FRAME_BYTES, 2**24),
        ErrorCode.PROTOCOL_ERROR,
    ),
    SettingCode.ENABLE_CONNECT_PROTOCOL: _YES_OR_NO,
    SettingCode.NO_RFC7540_PRIORITIES: _YES_OR_NO,
}


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Make one frame of at most 2^24-1 bytes."""
    size = len(payload)
    return FRAME_HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload


def head_frames(
    kind: int, stream: int, block: bytes, flags: int, most_bytes: int
) -> bytes:
    """
    Make a HEADERS or PUSH_PROMISE frame, with what doesn't fit behind it.

    Args:
        kind: The type of the first frame.
        stream: Its stream.
        block: All of its payload, the encoded fields last.
        flags: Without END_HEADERS.
        most_bytes: The longest payload which the peer takes.
    """
    size = len(block)
    if size <= most_bytes:
        flags |= Flag.END_HEADERS
        return FRAME_HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream) + block
    pieces = [frame(kind, flags, stream, block[:most_bytes])]
    for start in range(most_bytes, size, most_bytes):
        last = start + most_bytes >= size
        pieces.append(
            frame(
                FrameType.CONTINUATION,
                Flag.END_HEADERS if last else 0,
                stream,
                block[start : start + most_bytes],
            )
        )
    return b"".join(pieces)


def settings_frame(settings: Iterable[tuple[int, int]]) -> bytes:
    """Tell our settings (section 6.5)."""
    payload = b"".join(_SETTING.pack(code, value) for code, value in settings)
    return frame(FrameType.SETTINGS, 0, 0, payload)


def read_settings(payload: bytes) -> Iterator[tuple[int, int]]:
    """
    Read pairs of code and value, those of unknown codes among them.

    Raises:
        ConnectionFailed: A value is none of its setting's, or the last pair is cut off.
    """
    if len(payload) % _SETTING.size:
        raise ConnectionFailed(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS are cut off")
    for code, value in _SETTING.iter_unpack(payload):
        values, error = _VALUES.get(code, _ANY_VALUE)
        if value not in values:
            raise ConnectionFailed(error, "a setting is wrong")
        yield code, value


def read_number(payload: bytes) -> int:
    """Read a stream identifier or a window's increment: 31 bits."""
    number: int = _NUMBER.unpack_from(payload)[0]
    return number & MOST_WINDOW


def window_update_frame(stream: int, count: int) -> bytes:
    """Let the peer send ``count`` bytes more (section 6.9)."""
    return frame(FrameType.WINDOW_UPDATE, 0, stream, _NUMBER.pack(count))


def reset_frame(stream: int, code: int) -> bytes:
    """End a stream at once (section 6.4)."""
    return frame(FrameType.RST_STREAM, 0, stream, _NUMBER.pack(code))


def goaway_frame(last_stream: int, code: int, reason: str = "") -> bytes:
    """Announce the end of the connection (section 6.8)."""
    payload = _TWO_NUMBERS.pack(last_stream, code) + reason.encode("ascii")
    return frame(FrameType.GOAWAY, 0, 0, payload)


def unpadded(flags: int, payload: bytes) -> bytes:
    """
    Take the padding off (sections 6.1, 6.2).

    Raises:
        ConnectionFailed: There is more padding than payload.
    """
    if not flags & Flag.PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ConnectionFailed(ErrorCode.PROTOCOL_ERROR, "the padding is too long")
    return payload[1 : len(payload) - payload[0]]


def check_size(payload: bytes, size: int) -> None:
    """
    See that a payload has the only size it may have.

    Raises:
        ConnectionFailed: It hasn't.
    """
    if len(payload) != size:
        raise ConnectionFailed(ErrorCode.FRAME_SIZE_ERROR, "a frame has a wrong length")
