"""
The Huffman code of HPACK, read by zlib, or else a byte at a time.

DEFLATE can be told any Huffman code whose codes have at most 15 bits, and HPACK's code
has no longer ones for what is usual in text; both are canonical, so that the lengths tell
all. What the rest of the code begins with, 15 ones, is the sixteenth of 15 bits, which
stands for DEFLATE's end of a block. So zlib reads such strings several times as fast as
Python can. They are all read as parts of one block, which never ends: behind each string go
bits that make symbols of whatever its padding can be, so that the next one begins with
a symbol. If it isn't these which come last, the string holds something unusual, or is wrong.

Then the string is read a byte at a time; a bit at a time would be eight times slower.
Each inner node of the code's tree has a row with an entry for each of the 256 bytes that
can follow: what the byte completes, and the row to go on with. A row is made when it is
first needed.

Source: RFC 7541 section 5.2 and appendix B.

Tests: ``tests/unit/protocols/test_hpack_huffman.py``.
"""

from __future__ import annotations

import zlib
from typing import Any

__all__ = ["HuffmanError", "huffman_decode"]

# The code is canonical: with the symbols in this order, by length, each code is
# the one before plus one. The last, of 30 ones, is EOS.
_SYMBOLS = {
    5: b"012aceiost",
    6: b" %-./3456789=A_bdfghlmnpru",
    7: b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz",
    8: b"&*,;XZ",
    10: b'!"()?',
    11: b"'+|",
    12: b"#>",
    13: b"\x00$@[]~",
    14: b"^}",
    15: b"<`{",
    19: b"\\\xc3\xd0",
    20: b"\x80\x82\x83\xa2\xb8\xc2\xe0\xe2",
    21: b"\x99\xa1\xa7\xac\xb0\xb1\xb3\xd1\xd8\xd9\xe3\xe5\xe6",
    22: b"\x81\x84\x85\x86\x88\x92\x9a\x9c\xa0\xa3\xa4\xa9\xaa\xad\xb2\xb5\xb9\xba\xbb"
    b"\xbd\xbe\xc4\xc6\xe4\xe8\xe9",
    23: b"\x01\x87\x89\x8a\x8b\x8c\x8d\x8f\x93\x95\x96\x97\x98\x9b\x9d\x9e\xa5\xa6\xa8"
    b"\xae\xaf\xb4\xb6\xb7\xbc\xbf\xc5\xe7\xef",
    24: b"\t\x8e\x90\x91\x94\x9f\xab\xce\xd7\xe1\xec\xed",
    25: b"\xc7\xcf\xea\xeb",
    26: b"\xc0\xc1\xc8\xc9\xca\xcd\xd2\xd5\xda\xdb\xee\xf0\xf2\xf3\xff",
    27: b"\xcb\xcc\xd3\xd4\xd6\xdd\xde\xdf\xf1\xf4\xf5\xf6\xf7\xf8\xfa\xfb\xfc\xfd\xfe",
    28: b"\x02\x03\x04\x05\x06\x07\x08\x0b\x0c\x0e\x0f\x10\x11\x12\x13\x14\x15\x17\x18"
    b"\x19\x1a\x1b\x1c\x1d\x1e\x1f\x7f\xdc\xf9",
    30: b"\n\r\x16",
}


class HuffmanError(ValueError):
    """The bytes are no Huffman code of HPACK."""


class _Row(list[Any]):
    """
    What each byte means at one node of the tree; empty until it is needed.

    Attributes:
        node: The node: for each bit another one, or the symbol's byte.
        may_end: The bits since the last symbol can be padding.
    """

    __slots__ = ("may_end", "node")

    def __init__(self, node: list[Any], *, may_end: bool) -> None:
        super().__init__()
        self.node = node
        self.may_end = may_end


def _build_tree() -> list[Any]:
    root: list[Any] = [None, None]
    code, length = 0, 0
    for bits, symbols in _SYMBOLS.items():
        for symbol in symbols:
            code <<= bits - length
            length = bits
            node = root
            for shift in range(bits - 1, 0, -1):
                bit = code >> shift & 1
                if node[bit] is None:
                    node[bit] = [None, None]
                node = node[bit]
            node[code & 1] = bytes((symbol,))
            code += 1
    return root


_ROOT = _Row(_build_tree(), may_end=True)
_ROWS: dict[int, _Row] = {id(_ROOT.node): _ROOT}


def _prepare() -> None:
    """Find the rows in which a string can end: up to seven ones after a symbol."""
    node = _ROOT.node
    for _ in range(7):
        node = node[1]
        _ROWS[id(node)] = _Row(node, may_end=True)


_prepare()


def _fill(row: _Row) -> None:
    """Find what each byte leads to from a node."""
    # At once in the end, since another thread may need the same row.
    entries: list[Any] = []
    for byte in range(256):
        node, text = row.node, b""
        for shift in range(7, -1, -1):
            step = node[byte >> shift & 1]
            if isinstance(step, bytes):
                text += step
                node = _ROOT.node
            elif step is None:
                # RFC 7541 section 5.2: EOS in a string is an error.
                break
            else:
                node = step
        else:
            if id(node) not in _ROWS:
                _ROWS[id(node)] = _Row(node, may_end=False)
            entries.append((text, _ROWS[id(node)]))
            continue
        entries.append(None)
    row[:] = entries


# -- By zlib (RFC 1951) ---------------------------------------------------------

# DEFLATE packs bits into bytes from the other end.
_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_LONGEST = 15
_LENGTHS = [0] * 256
for _bits, _symbols in _SYMBOLS.items():
    for _symbol in _symbols:
        _LENGTHS[_symbol] = _bits


def _begin_block() -> Any:
    """Let zlib read the head of a block which describes HPACK's code (section 3.2.7)."""
    # Three empty blocks fill the last byte of the head up. Then comes a block with a code
    # of its own for 257 symbols and one distance. It is the last: nothing that follows its
    # end, a code which zlib doesn't know, is taken for another block.
    parts = [(0, 1), (1, 2), (0, 7)] * 3
    parts += [(1, 1), (2, 2), (0, 5), (0, 5), (15, 4)]
    # Lengths are written in four bits each, but for three codes that aren't used.
    parts += [(0, 3)] * 3 + [(4, 3)] * 16
    lengths = [bits if bits <= _LONGEST else 0 for bits in _LENGTHS] + [_LONGEST, 1]
    parts += [(_REVERSED[bits] >> 4, 4) for bits in lengths]
    number, position = 0, 0
    for value, bits in parts:
        number |= value << position
        position += bits
    head = zlib.decompressobj(-zlib.MAX_WBITS)
    head.decompress(number.to_bytes(position // 8, "little"))
    return head


_BLOCK = _begin_block()

# Up to seven ones and these bits are three symbols, whose codes end where the bits do; for
# each number of ones other symbols.
_FILLER = b"\x30\x5c".translate(_REVERSED)


def _find_ends() -> frozenset[bytes]:
    """Find what the filler and the padding before it are read as."""
    ends = []
    for count in range(8):
        # Zeros have five bits each, so that eight of them need each padding once.
        bits = 5 * count
        padding = (1 << -bits % 8) - 1
        text = padding.to_bytes((bits + 7) // 8, "big").translate(_REVERSED)
        ends.append(_BLOCK.copy().decompress(text + _FILLER)[count:])
    return frozenset(ends)


_ENDS = _find_ends()
_END_SYMBOLS = 3
# States of zlib between two strings; one that has met an error isn't put back. More than
# one if threads need them at a time.
_spare: list[Any] = []
# A string has at most this many symbols for each byte, and zlib is told so: otherwise
# it would get room for 32 KB each time.
_MOST_SYMBOLS = 2


def huffman_decode(data: bytes) -> bytes:
    """
    Decode a string (RFC 7541 section 5.2).

    Raises:
        HuffmanError: It holds EOS, or its padding is too long or not of ones.
    """
    try:
        block = _spare.pop()
    except IndexError:
        block = _BLOCK.copy()
    try:
        text: bytes = block.decompress(
            data.translate(_REVERSED) + _FILLER, _MOST_SYMBOLS * len(data) + 8
        )
    except zlib.error:
        return _decode_bytewise(data)
    # What comes last could be in front of an end of the block, too.
    if text[-_END_SYMBOLS:] in _ENDS and not block.eof:
        _spare.append(block)
        return text[:-_END_SYMBOLS]
    return _decode_bytewise(data)


def _decode_bytewise(data: bytes) -> bytes:
    """Decode what may hold any symbol, or be wrong."""
    while True:
        pieces = []
        row = _ROOT
        try:
            for byte in data:
                piece, row = row[byte]
                pieces.append(piece)
        except IndexError:
            _fill(row)
            continue
        except TypeError:
            raise HuffmanError("the end-of-string symbol is in a string") from None
        if not row.may_end:
            raise HuffmanError("the padding is wrong")
        return b"".join(pieces)
