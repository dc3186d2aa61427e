"""
HPACK: header fields from the blocks of HTTP/2.

The way back is in :mod:`~daphne_like.protocols.hpack_encoder`.

Work that was done before is avoided. The decoder notes what a field means when
it comes as a literal, and gives an entry of its table a place for life. So blocks which
name the same entries have the same shape, however their indexes have moved in between,
and a head of which nothing but literals is new needn't be put together from the start.

Source: RFC 7541.

Tests: ``tests/unit/protocols/test_hpack.py``; the package ``hpack`` is the oracle.
"""

from __future__ import annotations

from collections import deque
from functools import lru_cache
from typing import TYPE_CHECKING

from daphne_like.protocols.hpack_huffman import HuffmanError, huffman_decode

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable

    from daphne_like.protocols.interfaces import Header

__all__ = [
    "DEFAULT_TABLE_BYTES",
    "ENTRY_BYTES",
    "STATIC_FIELDS",
    "Decoder",
    "HPACKError",
    "StaticTable",
    "spelled_out",
]

ENTRY_BYTES = 32
"""What an entry of a table counts beside its bytes (RFC 7541 section 4.1)."""

DEFAULT_TABLE_BYTES = 4096
"""The size of both tables until settings say otherwise (RFC 9113 section 6.5.2)."""

STATIC_FIELDS: tuple[Header, ...] = (
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
"""The entries that both tables begin with, from 1 on (appendix A)."""

# A field of a block is told by a byte: the place of an entry of the table, or, for what
# is spelled out, a mark that tells its meaning. The static entries have their indexes for
# places; then come those of the dynamic ones, which are taken in turn. They are more than
# a table has entries, so what is taken again is never an entry's that is still there.
_FIRST_DYNAMIC = 1 + len(STATIC_FIELDS)
_FIRST_MARK = 0xF0
_DYNAMIC_PLACES = _FIRST_MARK - _FIRST_DYNAMIC
# So many entries may be added before a place is taken again which was an entry's.
_DEAD_PLACES = _DYNAMIC_PLACES - DEFAULT_TABLE_BYTES // ENTRY_BYTES
# When so many bytes were added, entries that are evicted are forgotten.
_MOST_ADDED_BYTES = 16 * 1024
# A block's byte is this one, if it is an index of one byte: there are at most so many.
_INDEX_0 = 0x80
_MOST_NAMED_BY_BYTE = 0xFF - _INDEX_0 - _FIRST_DYNAMIC
# So many are looked for at once, since mostly they come in a row.
_MOST_IN_ROW = 32
# The dynamic places twice around, backwards, as indexes count.
_BACKWARDS = bytes(range(_FIRST_MARK - 1, _FIRST_DYNAMIC - 1, -1)) * 2


def _places_from(place: int) -> bytes:
    """Tell for each index of one byte whose place it is, if this one is taken next."""
    before = _BACKWARDS[_FIRST_MARK - place :]
    places = bytes(_INDEX_0) + bytes(range(_FIRST_DYNAMIC)) + before
    return places[:256]


# By the place that is taken next: those of indexes, and the one behind it.
_PLACES = [b""] * _FIRST_DYNAMIC
_PLACES += map(_places_from, range(_FIRST_DYNAMIC, _FIRST_MARK))
_NEXT = bytes([*range(1, _FIRST_MARK), _FIRST_DYNAMIC])
# By the count of dynamic entries.
_INDEXES = [
    bytes(range(_INDEX_0 + 1, _INDEX_0 + _FIRST_DYNAMIC + count))
    for count in range(_MOST_NAMED_BY_BYTE + 1)
]
_INDEXES += _INDEXES[-1:] * (DEFAULT_TABLE_BYTES // ENTRY_BYTES - _MOST_NAMED_BY_BYTE)
# The first bytes of literals which are added to the table, and mostly are the same for
# many requests and connections: those whose name is spelled out, or static and not of
# what is new each time, or secret. So many of them are remembered. If one with a name of
# its own is a secret, a guess must hit all of it to be answered faster.
_REPEATED = frozenset(
    {0x40}
    | {
        0x40 + index
        for index, (name, _) in enumerate(STATIC_FIELDS, 1)
        if name not in (b":path", b"cookie", b"authorization", b"proxy-authorization")
    }
)
_MOST_REPEATED = 512
# By the first byte of another literal the index of its name, if it is static and takes
# no further byte.
_INDEX_OF_NAME = [
    byte & mask
    if (byte < 0x20 or 0x40 <= byte < 0x80)
    and byte not in _REPEATED
    and byte & mask < min(mask, _FIRST_DYNAMIC)
    else 0
    for byte in range(256)
    for mask in [0x3F if byte & 0x40 else 0x0F]
]


class HPACKError(ValueError):
    """A block can't be decoded: the connection is lost (RFC 9113 section 4.3)."""


class StaticTable:
    """
    What all decoders begin with, which read fields in the same way.

    Args:
        read_field: Tells what a field means, below 16; called for literals, but for
            those which are known.
        certain: Names of fields which mean the same whatever their values are.
    """

    def __init__(
        self,
        read_field: Callable[[bytes, bytes], int],
        certain: Container[bytes] = (),
    ) -> None:
        self.read_field = read_field
        # By first bytes of literals: the name, and the meaning if that is certain.
        self.names: list[tuple[bytes, int | None]] = []
        for index in _INDEX_OF_NAME:
            name, value = STATIC_FIELDS[index - 1] if index else (b"", b"")
            meaning = read_field(name, value) if name in certain else None
            self.names.append((name, meaning))
        self.fields: list[Header | None] = [None, *STATIC_FIELDS]
        self.fields += [None] * (256 - len(self.fields))
        meanings = bytearray(256)
        for place, field in enumerate(STATIC_FIELDS, 1):
            meanings[place] = read_field(*field)
        meanings[_FIRST_MARK:] = range(0x100 - _FIRST_MARK)
        self.meanings = bytes(meanings)
        self.largest = ENTRY_BYTES + max(
            len(name) + len(value) for name, value in STATIC_FIELDS
        )
        self.read_repeated = lru_cache(_MOST_REPEATED)(self._read_repeated)

    def _read_repeated(self, literal: bytes) -> tuple[Header, int]:
        """Read a literal whose name is spelled out, or static; and what it means."""
        index, position = literal[0] & 0x3F, 1
        if index:
            name = STATIC_FIELDS[index - 1][0]
        else:
            name, position = _read_string(literal, position)
        value, _ = _read_string(literal, position)
        return (name, value), self.read_field(name, value)


class Decoder:
    """
    Decodes the blocks which one peer sends, in order. Its table has the default size.

    Args:
        static: The table's first part, which also reads fields.

    Attributes:
        changed: The last block has changed the table: the same bytes may mean something
            else than before.
        outdated: What was kept by its shape since this was last set to ``False`` may
            mean something else than before, or count more.
    """

    __slots__ = (
        "_added_bytes",
        "_bytes",
        "_fields",
        "_indexes",
        "_kept",
        "_largest",
        "_limit",
        "_meanings",
        "_names",
        "_next",
        "_read_field",
        "_sizes",
        "_static",
        "changed",
        "outdated",
    )

    def __init__(self, static: StaticTable) -> None:
        self._static = static
        self._names = static.names
        self._read_field = static.read_field
        # By their places.
        self._fields = [*static.fields]
        self._meanings = bytearray(static.meanings)
        # What was ever in the table counts no more than this.
        self._largest = static.largest
        # Of the entries that were added, beginning with the oldest.
        self._sizes: deque[int] = deque()
        self._bytes = 0
        self._limit = DEFAULT_TABLE_BYTES
        # What was added since those that are evicted were forgotten.
        self._added_bytes = 0
        # Indexes of one byte, of which there are more with each entry.
        self._indexes = _INDEXES[0]
        # The place that is taken next.
        self._next = _FIRST_DYNAMIC
        # The places in shapes that were kept.
        self._kept: set[int] = set()
        self.changed = False
        self.outdated = False

    def decode(self, block: bytes) -> tuple[bytes, list[Header]]:
        """
        Decode one block.

        Args:
            block: All fragments of it.

        Returns:
            The shape, a byte for each field: the entry of the table which it is, or
            the meaning of what is spelled out; and the fields that are spelled out.

        Raises:
            HPACKError: The block is malformed.
        """
        shape = bytearray()
        literals: list[Header] = []
        settled = position = 0
        end = len(block)
        self.changed = False
        if self._added_bytes > _MOST_ADDED_BYTES:
            self._forget_the_dead()
        try:
            while position < end:
                byte = block[position]
                if byte >= 0x80:
                    # Section 6.1: indexed fields. Most have one byte, and come in a row.
                    row = block[position : position + _MOST_IN_ROW]
                    count = len(row) - len(row.lstrip(self._indexes))
                    if count:
                        shape += row[:count].translate(_PLACES[self._next])
                        position += count
                    else:
                        index, position = _read_integer(block, position, 0x7F)
                        shape.append(self._place_of(index))
                    continue
                # Section 6.2: literals; those of the first kind are added to the table.
                name, meaning = self._names[byte]
                if name and (length := block[position + 1]) & 0x7F < 0x7F:
                    start = position + 2
                    position = start + (length & 0x7F)
                    value = block[start:position]
                    if length >= 0x80:
                        value = huffman_decode(value)
                    field = name, value
                    if meaning is None:
                        meaning = self._read_field(name, value)
                elif byte & 0xE0 == 0x20:
                    if shape:
                        raise HPACKError("the table's size changes within a block")
                    position = self._resize(block, position)
                    continue
                else:
                    field, meaning, position = self._read_literal(block, position)
                if byte >= 0x40:
                    if len(literals) - settled >= _DEAD_PLACES:
                        settled = self._settle(shape, literals, settled)
                    self._insert(field, meaning)
                shape.append(_FIRST_MARK + meaning)
                literals.append(field)
        except IndexError:
            raise HPACKError("it ends early, or there is no such index") from None
        except HuffmanError as error:
            raise HPACKError(str(error)) from None
        if position > end:
            raise HPACKError("it ends early")
        return bytes(shape), literals

    def expand(
        self, shape: bytes | bytearray, literals: Iterable[Header]
    ) -> tuple[list[Header], bytes | bytearray]:
        """
        Tell all fields of a block and their meanings, before the next is decoded.

        An entry of the table can be named by a byte, so a block may stand for a
        thousand times its size; but each time for the same object.
        """
        fields = self._fields
        rest = iter(literals)
        return (
            [fields[place] or next(rest) for place in shape],
            shape.translate(self._meanings),
        )

    def most_bytes(self, shape: bytes, block: bytes) -> int:
        """Tell what the fields of a block count at most (RFC 9113 section 6.5.2)."""
        # No code has less than five bits; so literals are less than twice their code.
        return len(shape) * self._largest + 2 * len(block)

    def keep(self, shape: bytes) -> None:
        """Tell later, by ``outdated``, when this shape may stand for other entries."""
        self._kept.update(shape)

    def _settle(self, shape: bytearray, literals: list[Header], since: int) -> int:
        """
        Make a literal of what a block has named, before its place may be taken again.

        Args:
            shape: Of the block as far as it was read.
            literals: Its literals.
            since: So many fields are such literals already.

        Returns:
            As ``since``, for the next time.
        """
        fields, meanings = self.expand(shape[since:], literals[since:])
        literals[since:] = fields
        shape[since:] = [_FIRST_MARK + meaning for meaning in meanings]
        return len(shape)

    def _place_of(self, index: int) -> int:
        """
        Find where the entry with an index is.

        Raises:
            HPACKError: There is none.
        """
        age = index - _FIRST_DYNAMIC
        if age < 0 < index:
            return index
        if not 0 <= age < len(self._sizes):
            raise HPACKError("there is no such index")
        return _BACKWARDS[_FIRST_MARK - self._next + age]

    def _read_literal(self, block: bytes, start: int) -> tuple[Header, int, int]:
        """Read any literal, its meaning, and where it ends."""
        first = block[start]
        if first in _REPEATED and (stop := _end_of_literal(block, start)):
            return *self._static.read_repeated(block[start:stop]), stop
        index, position = _read_integer(block, start, 0x3F if first & 0x40 else 0x0F)
        if index:
            entry = self._fields[self._place_of(index)]
            assert entry is not None
            name = entry[0]
        else:
            name, position = _read_string(block, position)
        value, position = _read_string(block, position)
        return (name, value), self._read_field(name, value), position

    def _insert(self, field: Header, meaning: int) -> None:
        """Add a field to the table (section 4.4); one larger than it empties it."""
        self.changed = True
        size = len(field[0]) + len(field[1]) + ENTRY_BYTES
        sizes = self._sizes
        if size > self._limit:
            sizes.clear()
            self._bytes = 0
            self._indexes = _INDEXES[0]
            return
        sizes.append(size)
        self._added_bytes += size
        # Section 4.3: the oldest make room.
        count, limit = self._bytes + size, self._limit
        while count > limit:
            count -= sizes.popleft()
        self._bytes = count
        if size > self._largest:
            # A literal may take its name from here, and count more than it could.
            self._largest = size
            self.outdated = True
        place = self._next
        if place in self._kept:
            self._kept.clear()
            self.outdated = True
        self._fields[place] = field
        self._meanings[place] = meaning
        self._next = _NEXT[place]
        self._indexes = _INDEXES[len(sizes)]

    def _forget_the_dead(self) -> None:
        """Let go of entries which were evicted; no shape that is in work names them."""
        self._added_bytes = 0
        count = len(self._sizes)
        oldest = _FIRST_MARK - self._next + count
        for place in _BACKWARDS[oldest : oldest + _DYNAMIC_PLACES - count]:
            self._fields[place] = None

    def _resize(self, block: bytes, position: int) -> int:
        """Change the size of the table (sections 4.2 and 6.3)."""
        size, position = _read_integer(block, position, 0x1F)
        if size > DEFAULT_TABLE_BYTES:
            raise HPACKError("the table's size is above what was agreed")
        self._limit = size
        self.changed = True
        while self._bytes > size:
            self._bytes -= self._sizes.popleft()
        self._indexes = _INDEXES[len(self._sizes)]
        return position


def spelled_out(shape: bytes) -> list[int]:
    """Tell which fields of a block come as literals."""
    return [number for number, place in enumerate(shape) if place >= _FIRST_MARK]


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


def _end_of_literal(block: bytes, position: int) -> int:
    """Find where a literal ends; 0 if its parts aren't told by a byte for each."""
    strings = 1 if block[position] & 0x3F else 2
    position += 1
    for _ in range(strings):
        length = block[position] & 0x7F
        if length == 0x7F:
            return 0
        position += 1 + length
    return position if position <= len(block) else 0


def _read_string(block: bytes, position: int) -> tuple[bytes, int]:
    """Read a string literal (section 5.2), and where it ends, or would end."""
    is_coded = block[position] >= 0x80
    length, position = _read_integer(block, position, 0x7F)
    end = position + length
    text = block[position:end]
    return (huffman_decode(text) if is_coded else text), end
