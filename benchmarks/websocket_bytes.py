"""
What clients of WebSockets send and expect, as bytes.
"""

from __future__ import annotations

import base64
import os

# More at once would overflow the queues of listeners.
HANDSHAKES_AT_ONCE = 100

_BINARY = 0x82


def handshake(path: str) -> bytes:
    """Encode a request which asks for a WebSocket (RFC 6455 section 4.1)."""
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    ).encode()


def masked_frame(payload: bytes, first: int = _BINARY) -> bytes:
    """Encode a frame as clients have to, masked; ``first`` is its first octet."""
    return frame(payload, mask=os.urandom(4), first=first)


def frame(payload: bytes, mask: bytes = b"", first: int = _BINARY) -> bytes:
    """Encode a frame, a binary message by default (RFC 6455 section 5.2)."""
    size, masked = len(payload), 0x80 if mask else 0
    if size < 126:
        head = bytes((first, masked | size))
    elif size < 65536:
        head = bytes((first, masked | 126)) + size.to_bytes(2, "big")
    else:
        head = bytes((first, masked | 127)) + size.to_bytes(8, "big")
    if mask:
        payload = bytes(byte ^ mask[i & 3] for i, byte in enumerate(payload))
    return head + mask + payload
