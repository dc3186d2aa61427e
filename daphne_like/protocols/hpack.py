"""
HPACK: header fields to and from the blocks of HTTP/2.

Both halves avoid work that was done before. The decoder notes what a field means when
it comes as a literal, so that later references to it, which mostly come in a row, cost
a look into the table for all of them. The encoder's table is filled with the fields that
come again, until it is full, and then stays as it is: from then on the block of a
response that was encoded once can be sent again as it is.

Source: RFC 7541.

Tests: ``tests/unit/protocols/test_hpack.py``; the package ``hpack`` is the oracle.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from daphne_like.protocols.hpack_huffman import HuffmanError, huffman_decode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from daphne_like.protocols.interfaces import Header

__all__ = ["Decoder", "Encoder", "HPACKError", "StaticTable"]

# RFC 7541 section 4.1: what an entry counts beside its bytes.
_ENTRY_BYTES = 32
DEFAULT_TABLE_BYTES = 4096
"""The size of both tables until settings say otherwise (RFC 9113 section 6.5.2)."""

# Appendix A.
_STATIC: tuple[Header, ...] = (
    (b":authority", b""),
    (b":method", b"GET"),
    (b":method", b"POST"),
    (b":path", b"/"),
    (b":path", b"/index.html"),
    (b":scheme", b"http"),
    (b":scheme", b"https"),
    *((b":status", b"%d" % code) for code in (200, 204, 206, 304, 400, 404, 500)),
    (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"),
    *(
        (name.encode(), b"")
        for name in [
            "accept-language",
            "accept-ranges",
            "accept",
            "access-control-allow-origin",
            "age",
            "allow",
            "authorization",
            "cache-control",
            "content-disposition",
            "content-encoding",
            "content-language",
            "content-length",
            "content-location",
            "content-range",
            "content-type",
            "cookie",
            "date",
            "etag",
            "expect",
            "expires",
            "from",
            "host",
            "if-match",
            "if-modified-since",
            "if-none-match",
            "if-range",
            "if-unmodified-since",
            "last-modified",
            "link",
            "location",
            "max-forwards",
            "proxy-authenticate",
            "proxy-authorization",
            "range",
            "referer",
            "refresh",
            "retry-after",
            "server",
            "set-cookie",
            "strict-transport-security",
            "transfer-encoding",
            "user-agent",
            "vary",
            "via",
            "www-authenticate",
        ]
    ),
)
# An index of one byte is this byte; so the lists of the decoder begin with what is none,
# and larger indexes count from 0x80 on.
_INDEX_0 = 0x80
_NEWEST = _INDEX_0 + 1 + len(_STATIC)
_INDEXES = bytes(range(_INDEX_0 + 1, 0xFF))
# Of them so many are looked for at once.
_MOST_IN_ROW = 32
# For the first byte of a literal where its name is, if that takes no further byte.
_NAMES_AT = bytes(
    _INDEX_0 + (byte & mask)
    if (byte < 0x20 or 0x40 <= byte < 0x80) and 0 < byte & mask < mask
    else 0
    for byte in range(256)
    for mask in [0x3F if byte & 0x40 else 0x0F]
)


class HPACKError(ValueError):
    """A block can't be decoded: the connection is lost (RFC 9113 section 4.3)."""


class StaticTable:
    """
    What all decoders begin with, which read fields in the same way.

    Args:
        read_field: Tells what a field means, below 256; called once for each literal.
    """

    def __init__(self, read_field: Callable[[bytes, bytes], int]) -> None:
        self.read_field = read_field
        unused = _INDEX_0 + 1
        self.fields = [(b"", b"")] * unused + [*_STATIC]
        meanings = bytes(unused) + bytes(read_field(*field) for field in _STATIC)
        # bytes.translate() wants so many.
        self.meanings = meanings.ljust(256, b"\0")
        self.largest = _ENTRY_BYTES + max(
            len(name) + len(value) for name, value in _STATIC
        )


class Decoder:
    """
    Decodes the blocks which one peer sends, in order.

    Args:
        static: The table's first part, which also reads fields.
        table_bytes: The size which the peer was told its table may have.

    Attributes:
        changed: The table has changed since this was last set to ``False``:
            the same bytes may mean something else than before.
    """

    __slots__ = (
        "_bytes",
        "_largest",
        "_limit",
        "_meanings",
        "_most_bytes",
        "_read_field",
        "_sizes",
        "_table",
        "changed",
    )

    def __init__(
        self, static: StaticTable, table_bytes: int = DEFAULT_TABLE_BYTES
    ) -> None:
        self._read_field = static.read_field
        # Both parts of the table, and the meanings of what an index of one byte names.
        self._table = [*static.fields]
        self._meanings = bytearray(static.meanings)
        # What was ever in the table counts no more than this.
        self._largest = static.largest
        # Of the entries that were added, beginning with the oldest.
        self._sizes: deque[int] = deque()
        self._bytes = 0
        self._limit = self._most_bytes = table_bytes
        self.changed = False

    def decode(self, block: bytes) -> tuple[list[Header], bytearray, int]:
        """
        Decode one block.

        Args:
            block: All fragments of it.

        Returns:
            Fields; the meaning of each; and what they count at most (RFC 9113 section
            6.5.2). An entry of the table can be named by a byte, so a block may stand
            for a thousand times its size; but each time for the same object.

        Raises:
            HPACKError: The block is malformed.
        """
        fields: list[Header] = []
        meanings = bytearray()
        try:
            self._read_fields(block, fields, meanings)
        except IndexError:
            raise HPACKError("it ends early, or there is no such index") from None
        except HuffmanError as error:
            raise HPACKError(str(error)) from None
        # No code has less than five bits; so literals are less than twice their code.
        return fields, meanings, len(fields) * self._largest + 2 * len(block)

    def _read_fields(
        self, block: bytes, fields: list[Header], meanings: bytearray
    ) -> None:
        """Read all fields of a block."""
        table, read_field = self._table, self._read_field
        position, end = 0, len(block)
        while position < end:
            byte = block[position]
            if byte >= 0x80:
                # Section 6.1: indexed fields. Most have one byte, and come in a row.
                row = block[position : position + _MOST_IN_ROW]
                row = row[: len(row) - len(row.lstrip(_INDEXES))]
                if row:
                    fields += map(table.__getitem__, row)
                    meanings += row.translate(self._meanings)
                    position += len(row)
                    continue
                index, position = _read_integer(block, position, 0x7F)
                if not index:
                    raise HPACKError("the index is 0")
                field = table[_INDEX_0 + index]
                fields.append(field)
                meanings.append(read_field(*field))
                continue
            if byte & 0xE0 == 0x20:
                if fields:
                    raise HPACKError("the table's size changes within a block")
                position = self._resize(block, position)
                continue
            # Section 6.2: literals; those of the first kind are added to the table.
            place = _NAMES_AT[byte]
            length = block[position + 1]
            if place and length & 0x7F < 0x7F:
                name = table[place][0]
                start = position + 2
                if length < 0x80:
                    position = start + length
                    value = block[start:position]
                else:
                    position = start + length - 0x80
                    value = huffman_decode(block[start:position])
            else:
                name, value, position = self._read_literal(block, position)
            field = name, value
            meaning = read_field(name, value)
            fields.append(field)
            meanings.append(meaning)
            if byte >= 0x40:
                self._insert(field, meaning)
        if position > end:
            raise HPACKError("it ends early")

    def _read_literal(self, block: bytes, position: int) -> tuple[bytes, bytes, int]:
        """Read name and value of a literal, and where it ends."""
        mask = 0x3F if block[position] & 0x40 else 0x0F
        index, position = _read_integer(block, position, mask)
        if index:
            name = self._table[_INDEX_0 + index][0]
        else:
            name, position = _read_string(block, position)
        value, position = _read_string(block, position)
        return name, value, position

    def _insert(self, field: Header, meaning: int) -> None:
        """Add a field to the table (section 4.4); one larger than it empties it."""
        self.changed = True
        name, value = field
        size = len(name) + len(value) + _ENTRY_BYTES
        room = self._limit - size
        if self._bytes > room:
            self._evict(room)
        if room >= 0:
            self._bytes += size
            self._sizes.append(size)
            self._table.insert(_NEWEST, field)
            self._meanings.insert(_NEWEST, meaning)
            self._meanings.pop()
            # max() takes three times as long.
            if size > self._largest:  # noqa: PLR1730
                self._largest = size

    def _evict(self, room: int) -> None:
        table, sizes = self._table, self._sizes
        count = self._bytes
        while count > room and sizes:
            count -= sizes.popleft()
            table.pop()
        self._bytes = count

    def _resize(self, block: bytes, position: int) -> int:
        """Change the size of the table (sections 4.2 and 6.3)."""
        size, position = _read_integer(block, position, 0x1F)
        if size > self._most_bytes:
            raise HPACKError("the table's size is above what was agreed")
        self._limit = size
        self.changed = True
        self._evict(size)
        return position


def _read_integer(block: bytes, position: int, mask: int) -> tuple[int, int]:
    """
    Read an integer (section 5.1), and where it ends.

    Raises:
        IndexError: The block ends before.
        HPACKError: It is too large.
    """
    value = block[position] & mask
    position += 1
    if value < mask:
        return value, position
    shift = 0
    while True:
        byte = block[position]
        position += 1
        value += (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 28:
            raise HPACKError("an integer is too large")


def _read_string(block: bytes, position: int) -> tuple[bytes, int]:
    """Read a string literal (section 5.2), and where it ends, or would end."""
    is_coded = block[position] >= 0x80
    length, position = _read_integer(block, position, 0x7F)
    end = position + length
    text = block[position:end]
    return (huffman_decode(text) if is_coded else text), end


# -- The way out -------------------------------------------------------------

_STATIC_INDEX = {field: index for index, field in reversed([*enumerate(_STATIC, 1)])}
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
                index = len(_STATIC) + len(self._index) - number
            pieces.append(encode_integer(index, 0x7F, 0x80))
        return b"".join(pieces)

    def _encode_literal(self, field: Header) -> bytes:
        name, value = field
        if name in _SECRET:
            return encode_literal(field, 0x0F, 0x10)
        if name in _VOLATILE:
            return encode_literal(field, 0x0F, 0)
        size = len(name) + len(value) + _ENTRY_BYTES
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
