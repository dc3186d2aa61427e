"""
Blocks of HTTP/2 to request heads, with as little work as what came before allows.

Clients say nearly the same with each request. A block that came before means the same
again as long as the decoder's table hasn't changed, and so does one that differs from
it in its target alone, but for the target.

Tests: ``tests/unit/protocols/test_http2.py``, ``test_http2_conformance.py``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from daphne_like.errors import ConnectionFailed
from daphne_like.protocols.hpack import Decoder, HPACKError
from daphne_like.protocols.hpack_huffman import HuffmanError, huffman_decode
from daphne_like.protocols.http2_frames import ErrorCode
from daphne_like.protocols.http2_heads import (
    STATIC_TABLE,
    HeadReader,
    ReadHead,
    are_trailers,
)

if TYPE_CHECKING:
    from daphne_like.protocols.interfaces import Header
    from daphne_like.settings import HTTPSettings

__all__ = ["RequestBlocks"]

# Heads without a body that are kept for a connection, and the longest of their blocks.
_MOST_HEADS = 64
_MOST_BLOCK_BYTES = 512

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

    __slots__ = ("_decoder", "_reader", "_templates", "known", "most_bytes")

    def __init__(self, limits: HTTPSettings) -> None:
        self._reader = HeadReader(limits)
        self.most_bytes = self._reader.most_bytes
        self._decoder = Decoder(STATIC_TABLE)
        self.known: dict[bytes, ReadHead] = {}
        # By blocks without the target.
        self._templates: dict[bytes, ReadHead] = {}

    def read(self, block: bytes, *, ended: bool) -> ReadHead:
        """
        Decode and check a head, and keep it if it can come again.

        Args:
            block: All fragments of it.
            ended: No body follows.

        Raises:
            ConnectionFailed: The block can't be decoded.
            StreamFailed, RequestRejected: See :meth:`HeadReader.read`.
        """
        key, target = b"", b""
        if ended and self._templates:
            key, target = _without_target(block)
            template = self._templates.get(key)
            if template is not None:
                return self._reader.with_target(template, _target(target))
        fields, meanings, size = self._decode(block)
        self._reader.check_size(fields, size)
        read = self._reader.read(fields, meanings, ended=ended)
        if ended and not self._decoder.changed and len(block) <= _MOST_BLOCK_BYTES:
            self._keep(block, read, key or _without_target(block)[0])
        return read

    def read_trailers(self, block: bytes) -> bool:
        """
        Decode what is no head of a request, to keep the table in step.

        Returns:
            These may be trailers.

        Raises:
            ConnectionFailed: The block can't be decoded.
        """
        return are_trailers(self._decode(block)[1])

    def _keep(self, block: bytes, read: ReadHead, key: bytes) -> None:
        """Keep a head for the next time, and for others which look like it."""
        if len(self.known) >= _MOST_HEADS:
            self.known.clear()
        self.known[block] = read
        if key:
            if len(self._templates) >= _MOST_HEADS:
                self._templates.clear()
            self._templates[key] = read

    def _decode(self, block: bytes) -> tuple[list[Header], bytearray, int]:
        """Decode a block, and forget what others meant if it changes the table."""
        decoder = self._decoder
        decoder.changed = False
        try:
            decoded = decoder.decode(block)
        except HPACKError as error:
            # RFC 9113 section 4.3: the connection's compression state is lost.
            raise ConnectionFailed(ErrorCode.COMPRESSION_ERROR, str(error)) from None
        if decoder.changed and self.known:
            self.known.clear()
            self._templates.clear()
        return decoded


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
