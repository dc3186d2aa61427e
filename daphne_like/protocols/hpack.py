"""
HPACK: header fields to and from the blocks of HTTP/2.

Both halves avoid work that was done before. The decoder keeps what it made of
a literal and hands out the same object for every later reference to it, so that
a field is checked once. The encoder's table is filled with the fields that come
again, until it is full, and then stays as it is: from then on the block of a
response that was encoded once can be sent again as it is.

Source: RFC 7541.

Tests: ``tests/unit/protocols/test_hpack.py``; the package ``hpack`` is the oracle.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

from daphne_like.protocols.hpack_huffman import HuffmanError, huffman_decode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from daphne_like.protocols.interfaces import Header

__all__ = ["Decoder", "Encoder", "HPACKError", "static_fields"]

Meaning = TypeVar("Meaning")

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
_FIRST_DYNAMIC = len(_STATIC) + 1

# Literals whose meaning is kept, for a connection.
_MOST_KEPT = 128


class HPACKError(ValueError):
    """A block can't be decoded: the connection is lost (RFC 9113 section 4.3)."""


def static_fields(
    read_field: Callable[[bytes, bytes], Meaning],
) -> tuple[tuple[Header, Meaning, int], ...]:
    """Make what :class:`Decoder` hands out for the static table."""
    return tuple(_entry(name, value, read_field) for name, value in _STATIC)


def _entry(
    name: bytes, value: bytes, read_field: Callable[[bytes, bytes], Meaning]
) -> tuple[Header, Meaning, int]:
    size = len(name) + len(value) + _ENTRY_BYTES
    return (name, value), read_field(name, value), size


class Decoder(Generic[Meaning]):
    """
    Decodes the blocks which one peer sends, in order.

    Args:
        read_field: Tells what a field means; called once for each literal.
        static: Made by :func:`static_fields` with the same function.
        table_bytes: The size which the peer was told its table may have.

    Attributes:
        changed: The table has changed since this was last set to ``False``:
            the same bytes may mean something else than before.
    """

    __slots__ = (
        "_bytes",
        "_known",
        "_limit",
        "_most_bytes",
        "_read_field",
        "_static",
        "_table",
        "changed",
    )

    def __init__(
        self,
        read_field: Callable[[bytes, bytes], Meaning],
        static: tuple[tuple[Header, Meaning, int], ...],
        table_bytes: int = DEFAULT_TABLE_BYTES,
    ) -> None:
        self._read_field = read_field
        self._static = static
        self._table: deque[tuple[Header, Meaning, int]] = deque()
        self._bytes = 0
        self._limit = self._most_bytes = table_bytes
        self._known: dict[tuple[bytes, bytes], tuple[Header, Meaning, int]] = {}
        self.changed = False

    def decode(
        self, block: bytes, most_bytes: int
    ) -> tuple[list[tuple[Header, Meaning, int]], int]:
        """
        Decode one block.

        Args:
            block: All fragments of it.
            most_bytes: What the fields may count (RFC 9113 section 6.5.2). An
                entry of the table can be named by a byte, so a block may stand
                for a thousand times its size; but each time for the same object.

        Returns:
            Fields with their meaning and size; and what they count together. Those
            beyond ``most_bytes`` are left out.

        Raises:
            HPACKError: The block is malformed.
        """
        fields: list[tuple[Header, Meaning, int]] = []
        total, position, end = 0, 0, len(block)
        static, table = self._static, self._table
        while position < end:
            byte = block[position]
            if byte > 0x80:
                # Section 6.1: an indexed field. The dynamic table begins with 62.
                position += 1
                try:
                    if byte < 0xBE:
                        field = static[byte - 0x81]
                    elif byte < 0xFF:
                        field = table[byte - 0xBE]
                    else:
                        index, position = _read_integer(block, position, 0x7F)
                        field = table[index - _FIRST_DYNAMIC]
                except IndexError:
                    raise HPACKError("there is no such index") from None
            elif 0x40 <= byte < 0x80:
                # Section 6.2.1: a literal that is added to the table.
                field, position = self._read_literal(block, position, 0x3F)
                self._insert(field)
            elif byte >= 0x20:
                if byte == 0x80:
                    raise HPACKError("the index is 0")
                position = self._resize(block, position, fields)
                continue
            else:
                # Sections 6.2.2 and 6.2.3: a literal that isn't.
                field, position = self._read_literal(block, position, 0x0F)
            total += field[2]
            fields.append(field)
        if total > most_bytes:
            _cut(fields, most_bytes)
        return fields, total

    def _read_literal(
        self, block: bytes, start: int, mask: int
    ) -> tuple[tuple[Header, Meaning, int], int]:
        """Read a literal field, or recognize one that came before."""
        index = block[start] & mask
        position = start + 1
        if index == mask:
            index, position = _read_integer(block, position, mask)
        if not index:
            name, position = _read_string(block, position)
        elif index < _FIRST_DYNAMIC:
            name = self._static[index - 1][0][0]
        else:
            try:
                name = self._table[index - _FIRST_DYNAMIC][0][0]
            except IndexError:
                raise HPACKError("there is no such index") from None
        value_start = position
        try:
            length = block[position]
        except IndexError:
            raise HPACKError("the block ends early") from None
        position += 1 + (length & 0x7F)
        if length & 0x7F == 0x7F or position > len(block):
            value, position = _read_string(block, value_start)
            return self._make(name, value), position
        # With its name, since that of an index may be another one next time.
        key = name, block[value_start:position]
        known = self._known.get(key)
        if known is None:
            value = key[1][1:]
            if length >= 0x80:
                value = _decode_string(value)
            known = self._make(name, value)
            if len(self._known) >= _MOST_KEPT:
                self._known.clear()
            self._known[key] = known
        return known, position

    def _make(self, name: bytes, value: bytes) -> tuple[Header, Meaning, int]:
        size = len(name) + len(value) + _ENTRY_BYTES
        return (name, value), self._read_field(name, value), size

    def _insert(self, field: tuple[Header, Meaning, int]) -> None:
        """Add a field to the table (section 4.4); one larger than it empties it."""
        self.changed = True
        size = field[2]
        self._evict(self._limit - size)
        if size <= self._limit:
            self._table.appendleft(field)
            self._bytes += size

    def _evict(self, room: int) -> None:
        table = self._table
        while self._bytes > room and table:
            self._bytes -= table.pop()[2]

    def _resize(self, block: bytes, position: int, fields: Sequence[object]) -> int:
        """Change the size of the table (sections 4.2 and 6.3)."""
        if fields:
            raise HPACKError("the table's size changes within a block")
        size = block[position] & 0x1F
        position += 1
        if size == 0x1F:
            size, position = _read_integer(block, position, 0x1F)
        if size > self._most_bytes:
            raise HPACKError("the table's size is above what was agreed")
        self._limit = size
        self.changed = True
        self._evict(size)
        return position


def _cut(fields: list[tuple[Header, Meaning, int]], most_bytes: int) -> None:
    """Keep as many fields as count no more than that."""
    total = 0
    for place, field in enumerate(fields):
        total += field[2]
        if total > most_bytes:
            del fields[place:]
            return


def _read_integer(block: bytes, position: int, value: int) -> tuple[int, int]:
    """Read what doesn't fit into the prefix (section 5.1)."""
    shift = 0
    try:
        while True:
            byte = block[position]
            position += 1
            value += (byte & 0x7F) << shift
            if byte < 0x80:
                return value, position
            shift += 7
            if shift > 28:
                raise HPACKError("an integer is too large")
    except IndexError:
        raise HPACKError("the block ends early") from None


def _read_string(block: bytes, position: int) -> tuple[bytes, int]:
    """Read a string literal (section 5.2)."""
    try:
        first = block[position]
    except IndexError:
        raise HPACKError("the block ends early") from None
    length = first & 0x7F
    position += 1
    if length == 0x7F:
        length, position = _read_integer(block, position, 0x7F)
    end = position + length
    if end > len(block):
        raise HPACKError("the block ends early")
    text = block[position:end]
    return (_decode_string(text) if first >= 0x80 else text), end


def _decode_string(text: bytes) -> bytes:
    try:
        return huffman_decode(text)
    except HuffmanError as error:
        raise HPACKError(str(error)) from None


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
