"""
The masking of client frames: an exclusive or with four bytes, again and again.

Python has no fast way for it. The package ``websockets``, which the extra
``speed`` installs, has one in C: 0.4 microseconds for 16 KB. Without it Autobahn's
native code serves for large payloads, where that is compiled, and one large
integer for the others.

Source: RFC 6455 section 5.3.

Tests: ``tests/unit/protocols/test_websocket_masking.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

__all__ = ["StreamMasker", "Unmask", "unmasker"]

Unmask = Callable[[bytes, bytes], bytes]
"""Takes a payload, or what begins at a multiple of four of it, and four bytes."""

# From here on Autobahn's code is faster than integers, although it takes two calls.
_LARGE_BYTES = 1024


@cache
def unmasker() -> Unmask:
    """Return the fastest function there is to remove a mask, or to put it on."""
    # Not when this module is imported: most processes need none.
    try:
        from websockets.speedups import apply_mask
    except ImportError:
        native = _autobahn_masker()
        return _unmask_by_integers if native is None else _unmask_by(native)
    return apply_mask


def _autobahn_masker() -> Callable[[bytes, int], Any] | None:
    """Return Autobahn's masker if it is native; its other one is far slower."""
    from autobahn import websocket
    from autobahn.websocket.xormasker import create_xor_masker

    native = getattr(websocket, "USES_NVX", False)  # new in version 25
    return create_xor_masker if native else None


def _unmask_by(native: Callable[[bytes, int], Any]) -> Unmask:
    def unmask(payload: bytes, mask: bytes) -> bytes:
        if len(payload) < _LARGE_BYTES:
            return _unmask_by_integers(payload, mask)
        return bytes(native(mask, len(payload)).process(payload))

    return unmask


def _unmask_by_integers(payload: bytes, mask: bytes) -> bytes:
    size = len(payload)
    key = int.from_bytes((mask * ((size + 3) >> 2))[:size], "little")
    return (int.from_bytes(payload, "little") ^ key).to_bytes(size, "little")


class StreamMasker:
    """
    Unmasks a payload that comes in pieces, as Autobahn asks its maskers to.

    Args:
        mask: Four bytes.
    """

    __slots__ = ("_mask", "_position", "_unmask")

    def __init__(self, mask: bytes) -> None:
        self._mask = mask
        self._position = 0
        self._unmask = unmasker()

    def pointer(self) -> int:
        """Tell how many bytes have been unmasked."""
        return self._position

    def process(self, piece: bytes) -> bytes:
        """Unmask the next piece."""
        turn = self._position & 3
        self._position += len(piece)
        return self._unmask(piece, self._mask[turn:] + self._mask[:turn])
