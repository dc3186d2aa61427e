"""
HPACK: header fields to the blocks of HTTP/2.

The encoder's table is filled with the fields that come again, until it is full, and then
stays as it is: from then on the block of a response that was encoded once can be sent
again as it is.

Source: RFC 7541.

Tests: ``tests/unit/protocols/test_hpack.py``; the package ``hpack`` is the oracle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from daphne_like.protocols.hpack import (
    DEFAULT_TABLE_BYTES,
    ENTRY_BYTES,
    STATIC_FIELDS,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from daphne_like.protocols.interfaces import Header

__all__ = ["Encoder", "encode_integer", "encode_literal"]

_STATIC_INDEX = {
    field: index for index, field in reversed([*enumerate(STATIC_FIELDS, 1)])
}
_STATIC_NAMES = {name: index for (name, _), index in _STATIC_INDEX.items()}

# Section 7.1.3: what is a secret isn't compressed anywhere on its way.
_SECRET = frozenset((b"set-cookie", b"authorization", b"proxy-authorization"))
# Fields whose values hardly come again; they would only fill the table.
_VOLATILE = frozenset(
    (
        *(b"content-length", b"content-range", b"date", b"etag", b"last-modified"),
        *(b"location", b"age", b"expires", b"link", b":path"),
    )
)
# Fields that were sent once, and go to the table with the second time.
_MOST_SEEN = 64
# One field must not take the whole table.
_MOST_INDEXED_BYTES = 512


class Encoder:
    """
    Encodes the blocks which one peer is sent, in order.

    Attributes:
        changed: The table has changed since this was last set to ``False``:
            blocks that were encoded before would mean something else now.
    """

    __slots__ = ("_index", "_limit", "_room", "_seen", "_updates", "changed")

    def __init__(self) -> None:
        self._limit = self._room = DEFAULT_TABLE_BYTES
        # Fields in the table, in the order in which they came to it.
        self._index: dict[Header, int] = {}
        self._seen: set[Header] = set()
        self._updates = b""
        self.changed = False

    def resize(self, most_bytes: int) -> None:
        """Keep to what the peer lets the table have (section 4.2)."""
        limit = min(most_bytes, DEFAULT_TABLE_BYTES)
        if limit == self._limit:
            return
        # Emptied first, which the peer is told, since nothing is evicted here.
        self._updates = b"\x20" + encode_integer(limit, 0x1F, 0x20)
        self._limit = self._room = limit
        self._index.clear()
        self.changed = True

    def encode(self, fields: Iterable[Header]) -> bytes:
        """Encode a list of fields; names in lower case."""
        pieces = []
        if self._updates:
            pieces.append(self._updates)
            self._updates = b""
            self.changed = True
        for field in fields:
            index = _STATIC_INDEX.get(field)
            if index is None:
                number = self._index.get(field)
                if number is None:
                    pieces.append(self._encode_literal(field))
                    continue
                index = len(STATIC_FIELDS) + len(self._index) - number
            pieces.append(encode_integer(index, 0x7F, 0x80))
        return b"".join(pieces)

    def _encode_literal(self, field: Header) -> bytes:
        name, value = field
        if name in _SECRET:
            return encode_literal(field, 0x0F, 0x10)
        if name in _VOLATILE:
            return encode_literal(field, 0x0F, 0)
        size = len(name) + len(value) + ENTRY_BYTES
        if size > self._room or size > _MOST_INDEXED_BYTES:
            return encode_literal(field, 0x0F, 0)
        seen = self._seen
        if field not in seen:
            if len(seen) >= _MOST_SEEN:
                seen.clear()
            seen.add(field)
            return encode_literal(field, 0x0F, 0)
        seen.discard(field)
        self._room -= size
        self._index[field] = len(self._index)
        self.changed = True
        return encode_literal(field, 0x3F, 0x40)


def encode_integer(value: int, mask: int, first: int) -> bytes:
    """Encode an integer behind the bits of ``first`` (section 5.1)."""
    if value < mask:
        return bytes((first | value,))
    encoded = bytearray((first | mask,))
    value -= mask
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def encode_literal(field: Header, mask: int = 0x0F, first: int = 0) -> bytes:
    """
    Encode a field without the dynamic table (section 6.2).

    Args:
        field: Name in lower case, and value.
        mask: Bits of the index.
        first: The bits before it, which say what the peer is to do with it.
    """
    name, value = field
    index = _STATIC_NAMES.get(name, 0)
    head = encode_integer(index, mask, first)
    if not index:
        head += encode_integer(len(name), 0x7F, 0) + name
    return head + encode_integer(len(value), 0x7F, 0) + value
