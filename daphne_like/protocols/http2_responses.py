"""
Response heads to blocks of HTTP/2.

Applications send few different heads, again and again. What the encoder made of one
can be sent again as long as its table hasn't changed, which ends when it is full.

Tests: ``tests/unit/protocols/test_http2.py``, ``test_http2_conformance.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from daphne_like.protocols.hpack_encoder import Encoder, encode_literal

if TYPE_CHECKING:
    from daphne_like.protocols.default_headers import DefaultHeaders
    from daphne_like.protocols.interfaces import ResponseFields, ResponseHead

__all__ = ["ResponseBlocks"]

# Heads that are kept for a connection.
_MOST_HEADS = 64


class ResponseBlocks:
    """
    Makes the blocks which one client is sent, in order.

    Args:
        defaults: Added to each response.

    Attributes:
        encoder: For all else that has fields.
    """

    __slots__ = ("_defaults", "_known", "encoder")

    def __init__(self, defaults: DefaultHeaders) -> None:
        self._defaults = defaults
        self.encoder = Encoder()
        self._known: dict[ResponseFields, tuple[int, bytes, bytes]] = {}

    def encode(self, response: ResponseHead) -> bytes:
        """Encode the head of a response, with the server's own fields."""
        fields = response.fields
        known = self._known.get(fields)
        if (
            known is not None
            and known[0] == response.status
            and known[1] is self._defaults.block
            and not self.encoder.changed
        ):
            block = known[2]
        else:
            block = self._encode(response)
        length = response.content_length
        if length is not None and length != fields.content_length:
            block += encode_literal((b"content-length", b"%d" % length))
        return block

    def _encode(self, response: ResponseHead) -> bytes:
        fields, defaults, encoder = response.fields, self._defaults, self.encoder
        if encoder.changed:
            # What was encoded before may name other fields now.
            encoder.changed = False
            self._known.clear()
        added = defaults.fields
        if fields.own_defaults:
            added = [field for field in added if field[0] not in fields.own_defaults]
        status = (b":status", b"%d" % response.status)
        block = encoder.encode([status, *fields.headers, *added])
        if len(self._known) >= _MOST_HEADS:
            self._known.clear()
        if not encoder.changed:
            self._known[fields] = response.status, defaults.block, block
        return block
