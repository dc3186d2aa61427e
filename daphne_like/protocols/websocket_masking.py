"""
The masking of client frames: an exclusive or with four bytes, again and again.

Small payloads are unmasked as one large integer, which takes less than calling
Autobahn's native code; larger ones by that code, where it is compiled.

Source: RFC 6455 section 5.3.

Tests: ``tests/unit/protocols/test_websocket_masking.py``.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["StreamMasker", "unmask"]

# From here on native code is faster, although it takes two calls.
_LARGE_BYTES = 1024


def unmask(payload: bytes, mask: bytes) -> bytes:
    """
    Remove the mask, or put it on.

    Args:
        payload: A whole payload, or what begins at a multiple of four.
        mask: Four bytes.
    """
    size = len(payload)
    if size >= _LARGE_BYTES:
        native = _native_masker()
        if native is not None:
            return bytes(native(mask, size).process(payload))
    key = int.from_bytes((mask * ((size + 3) >> 2))[:size], "little")
    return (int.from_bytes(payload, "little") ^ key).to_bytes(size, "little")


@cache
def _native_masker() -> Callable[[bytes, int], Any] | None:
    """Return Autobahn's masker if it is native; its other one is far slower."""
    from autobahn import websocket
    from autobahn.websocket.xormasker import create_xor_masker

    native = getattr(websocket, "USES_NVX", False)  # new in version 25
    return create_xor_masker if native else None


class StreamMasker:
    """
    Unmasks a payload that comes in pieces, as Autobahn asks its maskers to.

    Args:
        mask: Four bytes.
    """

    __slots__ = ("_mask", "_position")

    def __init__(self, mask: bytes) -> None:
        self._mask = mask
        self._position = 0

    def pointer(self) -> int:
        """Tell how many bytes have been unmasked."""
        return self._position

    def process(self, piece: bytes) -> bytes:
        """Unmask the next piece."""
        turn = self._position & 3
        self._position += len(piece)
        return unmask(piece, self._mask[turn:] + self._mask[:turn])
