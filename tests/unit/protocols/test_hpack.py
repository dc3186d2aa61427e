"""HPACK both ways, against the package ``hpack`` as the oracle."""

from __future__ import annotations

from typing import Any

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daphne_like.protocols.hpack import (
    Decoder,
    HPACKError,
    StaticTable,
    spelled_out,
)
from daphne_like.protocols.hpack_encoder import (
    Encoder,
    encode_integer,
    encode_literal,
)

UNLIMITED = 2**31

Header = tuple[bytes, bytes]


def meaning(name: bytes, value: bytes) -> int:
    """Tell a field from most others."""
    return sum(name + value) % 15


STATIC = StaticTable(meaning)

NAMES = st.sampled_from(
    [b"x-a", b"x-b", b"cookie", b"set-cookie", b":path", b"server", b"etag", b"vary"]
)
FIELDS = st.lists(
    st.tuples(NAMES, st.one_of(st.sampled_from([b"", b"gzip", b"/"]), st.binary())),
    max_size=8,
)


def decoder() -> Decoder:
    """Make one with the static table."""
    return Decoder(STATIC)


def decode(source: Decoder, block: bytes) -> list[Header]:
    """Decode a block; what is told of the fields must be true."""
    shape, literals = source.decode(block)
    fields, meanings = source.expand(shape, literals)
    assert [meaning(*field) for field in fields] == [*meanings]
    assert [fields[place] for place in spelled_out(shape)] == literals
    size = sum(len(name) + len(value) + 32 for name, value in fields)
    assert size <= source.most_bytes(shape, block)
    return fields


def oracle_decode(source: hpack.Decoder, block: bytes) -> list[Header]:
    """Let the oracle decode a block."""
    return [
        (bytes(field[0]), bytes(field[1])) for field in source.decode(block, raw=True)
    ]


# -- Decoding ------------------------------------------------------------------


@given(st.lists(FIELDS, max_size=6), st.booleans())
def test_blocks_of_another_encoder(lists: list[list[Header]], huffman: bool) -> None:
    """Requests of any client come as they were sent, one after another."""
    encoder, ours = hpack.Encoder(), decoder()

    for fields in lists:
        assert fields == decode(ours, encoder.encode(fields, huffman=huffman))


@given(
    st.lists(st.tuples(FIELDS, st.sampled_from([None, 0, 64, 200, 4096])), max_size=6)
)
def test_a_client_may_resize_its_table(
    lists: list[tuple[list[Header], int | None]],
) -> None:
    """RFC 7541 section 4.2: entries are evicted on both sides alike."""
    encoder, ours = hpack.Encoder(), decoder()

    for fields, size in lists:
        if size is not None:
            encoder.header_table_size = size
        assert fields == decode(ours, encoder.encode(fields))


@given(st.lists(st.binary(max_size=40), max_size=4))
def test_rubbish_raises_nothing_else(blocks: list[bytes]) -> None:
    """What isn't HPACK is refused in one way, and as the oracle refuses it."""
    ours, oracle = decoder(), hpack.Decoder(max_header_list_size=UNLIMITED)
    for block in blocks:
        try:
            fields = decode(ours, block)
        except HPACKError:
            return
        try:
            expected = oracle_decode(oracle, block)
        except hpack.HPACKError:
            # It wants a smaller table to be acknowledged, and refuses numbers
            # beyond its own limits; ours are above.
            return
        assert expected == fields


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(b"\x80", id="index 0"),
        pytest.param(b"\xbe", id="an index of an empty table"),
        pytest.param(b"\xff\x80\x80\x80\x80\x80\x00", id="an integer without end"),
        pytest.param(b"\xff", id="an integer that is cut off"),
        pytest.param(b"\x7e\x01a", id="a name of an empty table"),
        pytest.param(b"\x40", id="no name"),
        pytest.param(b"\x40\x05ab", id="a name that is cut off"),
        pytest.param(b"\x44", id="no value"),
        pytest.param(b"\x44\x05ab", id="a value that is cut off"),
        pytest.param(b"\x44\x7f\xff\xff\xff\x00", id="a value of megabytes"),
        pytest.param(b"\x44\x81\xff", id="Huffman padding alone"),
        pytest.param(b"\x40\x81\xff\x01a", id="the same in a name"),
        pytest.param(b"\x3f\xe2\x1f", id="a table larger than agreed"),
        pytest.param(b"\x82\x20", id="a resize behind a field"),
    ],
)
def test_what_is_malformed(block: bytes) -> None:
    """RFC 7541: each of these is a decoding error."""
    with pytest.raises(HPACKError):
        decoder().decode(block)


def test_a_table_of_the_agreed_size_may_be_asked_for() -> None:
    """Section 4.2: up to the limit, several times, at the beginning of a block."""
    assert [(b":method", b"GET")] == decode(decoder(), b"\x20\x3f\xe1\x1f\x82")


def test_what_is_too_much_is_counted_and_takes_no_memory() -> None:
    """A kilobyte of indexes stands for megabytes: for one object a thousand times."""
    ours = decoder()
    bomb = encode_literal((b"x", b"v" * 3000), 0x3F, 0x40)
    decode(ours, bomb)

    block = b"\xbe" * 1000
    shape, literals = ours.decode(block)
    fields, _ = ours.expand(shape, literals)

    assert 1 == len({id(field) for field in fields})
    assert 1000 * (3000 + 1 + 32) <= ours.most_bytes(shape, block)


def test_each_literal_is_looked_at_once() -> None:
    """Checks of a field cost nothing when it comes again by its index."""
    seen: list[Header] = []

    def look(name: bytes, value: bytes) -> int:
        seen.append((name, value))
        return 1

    ours = Decoder(StaticTable(look))
    seen.clear()
    indexed = encode_literal((b"x-id", b"2"), 0x3F, 0x40)

    ours.decode(indexed + b"\x82")
    ours.decode(b"\xbe\xbe\x84")

    assert [(b"x-id", b"2")] == seen


def test_a_table_with_more_entries_than_a_byte_can_name() -> None:
    """Section 5.1: indexes from 127 on take two bytes; their meaning is known, too."""
    ours = decoder()
    many = [(b"x", b"%d" % number) for number in range(100)]
    for field in many:
        decode(ours, encode_literal(field, 0x3F, 0x40))

    block = b"".join(encode_integer(index, 0x7F, 0x80) for index in range(62, 162))

    assert many[::-1] == decode(ours, block)
    with pytest.raises(HPACKError):
        ours.decode(encode_integer(162, 0x7F, 0x80))


def test_it_tells_when_the_table_has_changed() -> None:
    """Whoever keeps what a block meant knows when it may mean something else."""
    ours = decoder()
    told = []
    for block in (
        b"\x82" + encode_literal((b"x", b"1")),
        encode_literal((b"x", b"1"), 0x3F, 0x40),
        b"\x20",
        b"\x82",
    ):
        decode(ours, block)
        told.append(ours.changed)

    assert [False, True, True, False] == told


def indexed(*numbers: int) -> bytes:
    """Name entries of the table."""
    return b"".join(encode_integer(number, 0x7F, 0x80) for number in numbers)


def added(name: bytes, value: bytes) -> bytes:
    """Spell out a field which the table takes."""
    return encode_literal((name, value), 0x3F, 0x40)


def test_a_shape_outlives_changes_of_the_table() -> None:
    """The same entries have it, though their indexes move with each that is added."""
    ours = decoder()
    ours.decode(added(b"x-a", b"1") + added(b"x-b", b"2"))
    shapes = []
    for number in range(3):
        block = indexed(2, 63 + number, 62 + number) + added(
            b"cookie", b"%03d" % number
        )
        shape, literals = ours.decode(block)
        ours.keep(shape)
        shapes.append(shape)
        assert [(b"cookie", b"%03d" % number)] == literals

    # The digits sum up to another meaning each time, for the test's reader.
    assert 1 == len({shape[:-1] for shape in shapes})
    assert 3 == len({shape[-1] for shape in shapes})
    assert not ours.outdated


def test_kept_shapes_are_given_up_when_they_would_mean_something_else() -> None:
    """A place is taken again after all others; what names it is told of that."""
    ours = decoder()
    ours.decode(added(b"x-first", b"1"))
    shape, _ = ours.decode(indexed(62))
    ours.keep(shape)
    again = 0
    while not ours.outdated:
        again += 1
        ours.decode(added(b"x", b"%d" % again))

    assert shape == ours.decode(indexed(62))[0]
    # All the entries that a table can have fit in between.
    assert again > 4096 // 32


def test_a_block_which_changes_the_table_all_the_way_through() -> None:
    """What it named at its beginning has long been replaced at its end."""
    ours, oracle = decoder(), hpack.Decoder()
    blocks = [
        added(b"x-first", b"1"),
        indexed(62, 2) + b"".join(added(b"x", b"%d" % n) for n in range(500)),
        indexed(62, 2),
    ]
    for block in blocks:
        assert oracle_decode(oracle, block) == decode(ours, block)


@pytest.mark.parametrize("size", [3900, 20_000])
def test_what_has_left_the_table_takes_no_memory(size: int) -> None:
    """Attack: entries that push each other out, or are too large to be kept at all."""
    ours = decoder()
    for number in range(200):
        decode(ours, added(b"x", b"%d" % number + b"v" * size))

    held = sum(len(field[1]) for field in ours._fields if field)
    assert held < 25_000


def test_a_field_that_empties_the_table_counts_for_itself_alone() -> None:
    """Others aren't measured with it from then on."""
    ours = decoder()
    before = ours.most_bytes(b"\x02", b"\x82")
    decode(ours, added(b"x", b"v" * 20_000))

    assert before == ours.most_bytes(b"\x02", b"\x82")
    with pytest.raises(HPACKError):
        ours.decode(b"\xbe")


def choices() -> st.SearchStrategy[list[list[int]]]:
    """Blocks that name entries by age, or, below zero, add new ones."""
    return st.lists(
        st.lists(st.integers(-40, 70), min_size=1, max_size=30), min_size=1, max_size=30
    )


@given(choices(), st.integers(1, 300))
def test_shapes_against_an_oracle(blocks: list[list[int]], value_bytes: int) -> None:
    """Of blocks with the same shape, all but the literals is the same."""
    ours, oracle = decoder(), hpack.Decoder(max_header_list_size=UNLIMITED)
    known: dict[bytes, list[Header]] = {}
    count = 0
    for numbers in blocks:
        block = b""
        entries = len(oracle.header_table.dynamic_entries)
        for number in numbers:
            if 0 <= number < entries:
                block += indexed(62 + number)
            elif number < 0:
                count += 1
                value = b"%d" % count
                block += added(b"x", value.rjust(value_bytes, b"0"))
                entries = 0 if value_bytes > 150 else entries
        expected = oracle_decode(oracle, block)

        shape, literals = ours.decode(block)

        if ours.outdated:
            known.clear()
            ours.outdated = False
        fields, _ = ours.expand(shape, literals)
        assert expected == fields
        for place in spelled_out(shape):
            fields[place] = b"", b""
        assert fields == known.setdefault(shape, fields)
        ours.keep(shape)


# -- Encoding ------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(FIELDS, st.sampled_from([None, 0, 64, 200, 4096, 65536])),
        max_size=8,
    )
)
def test_another_decoder_understands(
    lists: list[tuple[list[Header], int | None]],
) -> None:
    """Clients get what was sent, whatever table they allow and when they change it."""
    ours, oracle = Encoder(), hpack.Decoder()

    for fields, size in lists:
        if size is not None:
            ours.resize(size)
            oracle.max_allowed_table_size = size
        assert fields == oracle_decode(oracle, ours.encode(fields))


def test_what_comes_again_is_a_byte() -> None:
    """A page's hundred responses don't repeat its security headers."""
    fields = [(b"content-security-policy", b"default-src 'self'"), (b"x-a", b"b")]
    ours = Encoder()

    blocks = [ours.encode(fields) for _ in range(4)]

    assert len(blocks[0]) > 40
    assert 2 == len(blocks[2]) == len(blocks[3])
    assert not any(
        oracle_decode(hpack.Decoder(), block) != fields for block in blocks[:1]
    )


@pytest.mark.parametrize("name", [b"set-cookie", b"authorization", b"date", b"etag"])
def test_secrets_and_what_changes_stay_out_of_the_table(name: bytes) -> None:
    """RFC 7541 section 7.1: what is secret is compressed nowhere."""
    ours = Encoder()
    blocks = {ours.encode([(name, b"value")]) for _ in range(4)}

    (block,) = blocks
    assert b"value" in block
    assert not ours.changed
    (sensitive,) = hpack.Decoder().decode(block)
    secret = name in (b"set-cookie", b"authorization")
    assert secret is isinstance(sensitive, hpack.NeverIndexedHeaderTuple)


def test_a_full_table_stays_as_it_is() -> None:
    """What was encoded once can be sent again: nothing is ever evicted."""
    ours, oracle = Encoder(), hpack.Decoder()
    for number in range(200):
        fields = [(b"x-%d" % number, b"v" * 60)]
        for _ in range(2):
            assert fields == oracle_decode(oracle, ours.encode(fields))
    ours.changed = False
    first = [(b"x-0", b"v" * 60)]

    block = ours.encode(first)

    assert not ours.changed
    assert len(block) <= 2
    assert first == oracle_decode(oracle, block)


@given(st.integers(0, 2**28), st.sampled_from([0x0F, 0x1F, 0x3F, 0x7F]))
def test_integers(value: int, mask: int) -> None:
    """RFC 7541 section 5.1, as the oracle writes them."""
    prefix = mask.bit_length()
    expected: Any = hpack.hpack.encode_integer(value, prefix)

    assert bytes(expected) == encode_integer(value, mask, 0)
