"""
Build and read WebSocket frames, the wrong ones too (RFC 6455 section 5.2).
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import pack

__all__ = ["Frame", "close_payload", "frame", "read_frames"]


@dataclass(frozen=True)
class Frame:
    """
    One frame as it was read, without its mask.

    Attributes:
        fin: The message ends with it.
        rsv: RSV1, RSV2 and RSV3 as 4, 2 and 1.
        opcode: 0 to 15.
        payload: Its bytes.
    """

    fin: bool
    rsv: int
    opcode: int
    payload: bytes


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    mask: bytes = b"\x01\x02\x03\x04",
    length: int | None = None,
) -> bytes:
    """
    Build a frame.

    Args:
        opcode: 0 to 15.
        payload: As it is before it is masked.
        fin: The message ends with it.
        rsv: RSV1, RSV2 and RSV3 as 4, 2 and 1.
        mask: Four bytes, or none for the frame of a server.
        length: What the head says in place of the payload's size.
    """
    size = len(payload) if length is None else length
    masked = 0x80 if mask else 0
    head = bytes((fin << 7 | rsv << 4 | opcode,))
    if size < 126:
        head += bytes((masked | size,))
    elif size < 65536:
        head += pack(">BH", masked | 126, size)
    else:
        head += pack(">BQ", masked | 127, size)
    if mask:
        payload = bytes(byte ^ mask[at & 3] for at, byte in enumerate(payload))
    return head + mask + payload


def close_payload(code: int, reason: str = "") -> bytes:
    """Build the payload of a Close frame."""
    return pack(">H", code) + reason.encode()


def read_frames(data: bytes) -> list[Frame]:
    """
    Read frames, masked or not.

    Raises:
        ValueError: The last one isn't complete, or a length isn't minimal.
    """
    frames = []
    at = 0
    while at < len(data):
        if len(data) < at + 2:
            raise ValueError("The head of the last frame is incomplete.")
        first, second = data[at], data[at + 1]
        at += 2
        size = second & 0x7F
        if size > 125:
            wide = 2 if size == 126 else 8
            size = int.from_bytes(data[at : at + wide], "big")
            at += wide
            if size < (126 if wide == 2 else 65536):
                raise ValueError("The length of a frame isn't minimal.")
        mask = b""
        if second & 0x80:
            mask = data[at : at + 4]
            at += 4
        payload = data[at : at + size]
        at += size
        if at > len(data):
            raise ValueError("The last frame is incomplete.")
        if mask:
            payload = bytes(byte ^ mask[i & 3] for i, byte in enumerate(payload))
        frames.append(Frame(bool(first & 0x80), first >> 4 & 7, first & 0xF, payload))
    return frames
