"""HTTP/2 frames as bytes, also such as nobody may send (RFC 9113 section 6)."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

__all__ = [
    "ACK",
    "END_HEADERS",
    "END_STREAM",
    "INITIAL_WINDOW_BYTES",
    "LARGEST_WINDOW_BYTES",
    "LEAST_FRAME_BYTES",
    "PADDED",
    "PREFACE",
    "PRIORITY",
    "ErrorCode",
    "Frame",
    "FrameType",
    "Setting",
    "continuation",
    "data",
    "dependency",
    "frame",
    "goaway",
    "headers",
    "ping",
    "priority",
    "priority_update",
    "reset",
    "settings",
    "settings_ack",
    "window_update",
]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

# Flags. Those of one frame type may have the value of another's.
ACK = 0x01
END_STREAM = 0x01
END_HEADERS = 0x04
PADDED = 0x08
PRIORITY = 0x20

INITIAL_WINDOW_BYTES = 65_535
LARGEST_WINDOW_BYTES = 2**31 - 1
# SETTINGS_MAX_FRAME_SIZE before anybody changes it, and the lowest there is.
LEAST_FRAME_BYTES = 16_384


class FrameType(IntEnum):
    """Types of frames (RFC 9113 section 6, RFC 9218 section 7)."""

    DATA = 0x0
    HEADERS = 0x1
    PRIORITY = 0x2
    RST_STREAM = 0x3
    SETTINGS = 0x4
    PUSH_PROMISE = 0x5
    PING = 0x6
    GOAWAY = 0x7
    WINDOW_UPDATE = 0x8
    CONTINUATION = 0x9
    PRIORITY_UPDATE = 0x10


class ErrorCode(IntEnum):
    """Reasons in RST_STREAM and GOAWAY (RFC 9113 section 7)."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


class Setting(IntEnum):
    """Parameters (RFC 9113 section 6.5.2, RFC 8441 section 3, RFC 9218 section 2.1)."""

    HEADER_TABLE_SIZE = 0x1
    ENABLE_PUSH = 0x2
    MAX_CONCURRENT_STREAMS = 0x3
    INITIAL_WINDOW_SIZE = 0x4
    MAX_FRAME_SIZE = 0x5
    MAX_HEADER_LIST_SIZE = 0x6
    ENABLE_CONNECT_PROTOCOL = 0x8
    NO_RFC7540_PRIORITIES = 0x9


class Frame(NamedTuple):
    """A frame as it was received."""

    type: int
    flags: int
    stream: int
    payload: bytes


def frame(
    type_: int,
    flags: int = 0,
    stream: int = 0,
    payload: bytes = b"",
    *,
    reserved: bool = False,
) -> bytes:
    """
    Write any frame.

    Args:
        type_: May be unknown.
        flags: May be undefined for the type.
        stream: Of 31 bits.
        payload: What follows the nine bytes of the frame's header.
        reserved: Set the bit in front of the stream's, which means nothing.
    """
    length = struct.pack(">I", len(payload))[1:]
    number = stream | (reserved << 31)
    return length + struct.pack(">BBI", type_, flags, number) + payload


def _padded(payload: bytes, padding: int | None) -> tuple[int, bytes]:
    if padding is None:
        return 0, payload
    return PADDED, bytes([padding]) + payload + bytes(padding)


def data(
    stream: int, payload: bytes = b"", *, end: bool = False, padding: int | None = None
) -> bytes:
    """Write a DATA frame."""
    flags, payload = _padded(payload, padding)
    return frame(FrameType.DATA, flags | end * END_STREAM, stream, payload)


def headers(
    stream: int,
    block: bytes,
    *,
    end: bool = True,
    complete: bool = True,
    padding: int | None = None,
    depends: bytes = b"",
) -> bytes:
    """
    Write a HEADERS frame.

    Args:
        stream: Which it opens or goes on with.
        block: Encoded fields, or the first part of them.
        end: No DATA follows.
        complete: No CONTINUATION follows.
        padding: Bytes of padding; with 0 there is only the length.
        depends: What :func:`dependency` makes.
    """
    flags, payload = _padded(depends + block, padding)
    flags |= end * END_STREAM | complete * END_HEADERS | bool(depends) * PRIORITY
    return frame(FrameType.HEADERS, flags, stream, payload)


def continuation(stream: int, block: bytes, *, complete: bool = True) -> bytes:
    """Write a CONTINUATION frame."""
    return frame(FrameType.CONTINUATION, complete * END_HEADERS, stream, block)


def dependency(on: int, weight: int = 16, *, exclusive: bool = False) -> bytes:
    """Write the old priority fields (RFC 7540 section 5.3), which mean nothing now."""
    return struct.pack(">IB", on | (exclusive << 31), weight - 1)


def priority(
    stream: int, on: int = 0, weight: int = 16, *, exclusive: bool = False
) -> bytes:
    """Write a PRIORITY frame."""
    payload = dependency(on, weight, exclusive=exclusive)
    return frame(FrameType.PRIORITY, 0, stream, payload)


def reset(stream: int, code: int = ErrorCode.CANCEL) -> bytes:
    """Write a RST_STREAM frame."""
    return frame(FrameType.RST_STREAM, 0, stream, struct.pack(">I", code))


def settings(*pairs: tuple[int, int]) -> bytes:
    """Write a SETTINGS frame; parameters may be unknown or repeated."""
    payload = b"".join(struct.pack(">HI", name, value) for name, value in pairs)
    return frame(FrameType.SETTINGS, 0, 0, payload)


def settings_ack() -> bytes:
    """Write the acknowledgment of SETTINGS."""
    return frame(FrameType.SETTINGS, ACK)


def ping(payload: bytes = b"conforms", *, ack: bool = False) -> bytes:
    """Write a PING frame."""
    return frame(FrameType.PING, ack * ACK, 0, payload)


def goaway(
    last_stream: int = 0, code: int = ErrorCode.NO_ERROR, detail: bytes = b""
) -> bytes:
    """Write a GOAWAY frame."""
    return frame(FrameType.GOAWAY, 0, 0, struct.pack(">II", last_stream, code) + detail)


def window_update(stream: int, increment: int) -> bytes:
    """Write a WINDOW_UPDATE frame."""
    return frame(FrameType.WINDOW_UPDATE, 0, stream, struct.pack(">I", increment))


def priority_update(
    prioritized: int, value: bytes = b"u=3", *, stream: int = 0
) -> bytes:
    """Write a PRIORITY_UPDATE frame (RFC 9218 section 7.1)."""
    payload = struct.pack(">I", prioritized) + value
    return frame(FrameType.PRIORITY_UPDATE, 0, stream, payload)
