"""The Huffman code of HPACK, against the package ``hpack`` as the oracle."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hypothesis import given
from hypothesis import strategies as st

from daphne_like.protocols import hpack_huffman
from daphne_like.protocols.hpack_huffman import HuffmanError, huffman_decode

_ORACLE = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)
_EOS_BITS = 30


def bits(text: str) -> bytes:
    """Pack a text of zeros and ones."""
    return int(text, 2).to_bytes(len(text) // 8, "big")


@given(st.binary(max_size=200))
def test_what_was_encoded_is_decoded(text: bytes) -> None:
    """Any value of a header survives compression by a client."""
    assert text == huffman_decode(_ORACLE.encode(text))


@pytest.mark.parametrize("symbol", range(256))
def test_each_symbol(symbol: int) -> None:
    """Rare bytes, whose codes are long, come as well as common ones."""
    text = bytes((symbol,)) * 3

    assert text == huffman_decode(_ORACLE.encode(text))


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("00011111" + "1" * 8, id="padding of more than seven bits"),
        pytest.param("1" * 8, id="nothing but padding of eight bits"),
        pytest.param("00011000", id="padding of zeros"),
        pytest.param("00011110", id="padding that ends with a zero"),
        pytest.param("1" * 32, id="the end-of-string symbol"),
        pytest.param(
            "00011" + "1" * _EOS_BITS + "00011", id="that symbol in the middle"
        ),
        pytest.param("1111111111111111", id="the beginning of a long code"),
    ],
)
def test_what_is_no_code(code: str) -> None:
    """RFC 7541 section 5.2: decoders must find these errors."""
    with pytest.raises(HuffmanError):
        huffman_decode(bits(code))


@pytest.mark.parametrize("ones", [2, 4, 6])
def test_what_looks_like_its_end_before_too_many_ones(ones: int) -> None:
    """At 15 ones zlib stops; what came before may be what is expected at the end."""
    # These are the symbols which stand for a string without padding.
    data = _ORACLE.encode(b"i16") + b"\xff" * ones
    with pytest.raises(HuffmanError):
        huffman_decode(data)


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=6))
def test_strings_leave_nothing_behind_for_the_next(strings: list[bytes]) -> None:
    """What one connection sends, rubbish or not, has no effect on what others sent."""
    for data in strings:
        with suppress(HuffmanError):
            huffman_decode(data)
        assert b"/a?b=c" == huffman_decode(_ORACLE.encode(b"/a?b=c"))


@pytest.mark.parametrize("length", range(8))
def test_padding_of_up_to_seven_ones(length: int) -> None:
    """A string may end at any bit."""
    # "X" has eight bits, "0" five.
    for count in range(1, 9):
        text = b"0" * count
        unused = -5 * count % 8
        if unused == length:
            assert text == huffman_decode(_ORACLE.encode(text))


@given(st.binary(max_size=100))
def test_rubbish_raises_nothing_else(data: bytes) -> None:
    """Bytes of any kind are decoded or refused."""
    try:
        text = huffman_decode(data)
    except HuffmanError:
        return
    # What is decoded is what an encoder would have made: the code is unambiguous.
    assert data == _ORACLE.encode(text)


def test_two_threads_may_need_the_same_row() -> None:
    """Each filled it entry by entry; with twice as many, others were found wrong."""
    row = hpack_huffman._Row(hpack_huffman._ROOT.node, may_end=True)
    hpack_huffman._fill(row)
    entries = [*row]
    hpack_huffman._fill(row)

    assert 256 == len(entries)
    assert entries == row
