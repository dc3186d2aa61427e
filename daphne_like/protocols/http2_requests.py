"""
Blocks of HTTP/2 to request heads, with as little work as what came before allows.

Clients say nearly the same with each request. A block that came before means the same
again as long as the decoder's table hasn't changed, and so does one that differs from
it in its target alone, but for the target. If the table has changed, or more is spelled
out than the target, blocks of the same shape still have the same head but for that.

Tests: ``tests/unit/protocols/test_http2_requests.py``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar

from daphne_like.errors import ConnectionFailed
from daphne_like.protocols.hpack import Decoder, HPACKError, spelled_out
from daphne_like.protocols.hpack_huffman import HuffmanError, huffman_decode
from daphne_like.protocols.http2_frames import ErrorCode
from daphne_like.protocols.http2_heads import (
    STATIC_TABLE,
    HeadReader,
    HeadTemplate,
    are_trailers,
)

if TYPE_CHECKING:
    from daphne_like.protocols.interfaces import Header, RequestHead
    from daphne_like.settings import HTTPSettings

__all__ = ["RequestBlocks"]

_Kept = TypeVar("_Kept")

# Heads without a body that are kept for a connection, and the longest of their blocks.
_MOST_HEADS = 64
_MOST_BLOCK_BYTES = 512

# A block that spells out more hardly has a shape which comes again.
_MOST_LITERALS = 6

# Indexed fields, then a literal :path which isn't added to the table, whose length is
# one byte (RFC 7541 sections 6.1, 6.2.2): so clients mostly send what changes with each
# request.
_LITERAL_TARGET = re.compile(rb"[\x81-\xfe]{0,8}[\x04\x14][^\x7f\xff]", re.DOTALL)


class RequestBlocks:
    """
    Reads the blocks which one client sends, in order.

    Args:
        limits: For heads.

    Attributes:
        known: Heads without a body by their blocks, while these mean that.
        most_bytes: What the fields of a head may count (RFC 9113 section 6.5.2).
    """

    __slots__ = ("_decoder", "_reader", "_rests", "_shapes", "known", "most_bytes")

    def __init__(self, limits: HTTPSettings) -> None:
        self._reader = HeadReader(limits)
        self.most_bytes = self._reader.most_bytes
        self._decoder = Decoder(STATIC_TABLE)
        self.known: dict[bytes, RequestHead] = {}
        # By blocks without the target, while they mean that; and by shapes of blocks.
        self._rests: dict[bytes, HeadTemplate] = {}
        self._shapes: dict[bytes, HeadTemplate] = {}

    def read(self, block: bytes, *, ended: bool) -> RequestHead:
        """
        Decode and check a head, and keep it if it can come again.

        Args:
            block: All fragments of it.
            ended: No body follows.

        Raises:
            ConnectionFailed: The block can't be decoded.
            StreamFailed, RequestRejected: See :meth:`HeadReader.read`.
        """
        decoder, reader = self._decoder, self._reader
        keeps = ended and len(block) <= _MOST_BLOCK_BYTES
        if keeps and self._rests:
            rest, target = _without_target(block)
            if rest and (template := self._rests.get(rest)):
                return reader.fill(template, [(b":path", _target(target))])
        shape, literals = self._decode(block)
        template = self._shapes.get(shape) if keeps else None
        if template is not None:
            head = reader.fill(template, literals)
        else:
            most_bytes = decoder.most_bytes(shape, block)
            fields, meanings = decoder.expand(shape, literals)
            reader.check_size(fields, most_bytes)
            head = reader.read(fields, meanings, ended=ended)
            small = reader.is_small(most_bytes + 2 * _MOST_BLOCK_BYTES)
            if keeps and small and len(literals) <= _MOST_LITERALS:
                places = spelled_out(shape)
                template = reader.template_of(head, fields, meanings, places)
                if template is not None:
                    decoder.keep(shape)
                    _keep(self._shapes, shape, template)
        if keeps and not decoder.changed:
            _keep(self.known, block, head)
            if template is not None and template.target_alone:
                rest, _ = _without_target(block)
                if rest:
                    _keep(self._rests, rest, template)
        return head

    def read_trailers(self, block: bytes) -> bool:
        """
        Decode what is no head of a request, to keep the table in step.

        Returns:
            These may be trailers.

        Raises:
            ConnectionFailed: The block can't be decoded.
        """
        return are_trailers(self._decoder.expand(*self._decode(block))[1])

    def _decode(self, block: bytes) -> tuple[bytes, list[Header]]:
        """Decode a block, and forget what others meant if it changes the table."""
        decoder = self._decoder
        try:
            decoded = decoder.decode(block)
        except HPACKError as error:
            # RFC 9113 section 4.3: the connection's compression state is lost.
            raise ConnectionFailed(ErrorCode.COMPRESSION_ERROR, str(error)) from None
        if decoder.changed:
            self.known.clear()
            self._rests.clear()
            if decoder.outdated:
                self._shapes.clear()
                decoder.outdated = False
        return decoded


def _keep(kept: dict[bytes, _Kept], key: bytes, value: _Kept) -> None:
    """Keep what may come again, among a few others."""
    if len(kept) >= _MOST_HEADS:
        kept.clear()
    kept[key] = value


def _without_target(block: bytes) -> tuple[bytes, bytes]:
    """
    Split a block of the usual form.

    Returns:
        All but the literal of the target, and that literal; or nothing twice.
    """
    match = _LITERAL_TARGET.match(block)
    if match is None:
        return b"", b""
    start = match.end()
    stop = start + (block[start - 1] & 0x7F)
    if stop > len(block):
        return b"", b""
    return block[: start - 1] + block[stop:], block[start - 1 : stop]


def _target(literal: bytes) -> bytes:
    """Read such a literal."""
    if literal[0] < 0x80:
        return literal[1:]
    try:
        return huffman_decode(literal[1:])
    except HuffmanError as error:
        raise ConnectionFailed(ErrorCode.COMPRESSION_ERROR, str(error)) from None
