"""Blocks to heads: whatever was kept from others, a head is as if it were the first."""

from __future__ import annotations

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daphne_like.errors import ConnectionFailed, RequestRejected, StreamFailed
from daphne_like.protocols.hpack_encoder import encode_integer, encode_literal
from daphne_like.protocols.http2_frames import ErrorCode
from daphne_like.protocols.http2_heads import HeadReader, read_field
from daphne_like.protocols.http2_requests import RequestBlocks
from daphne_like.protocols.interfaces import RequestHead
from daphne_like.settings import HTTPSettings

Header = tuple[bytes, bytes]

LIMITS = HTTPSettings(limit_request_line=100)
GET: list[Header] = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":authority", b"example.org"),
]

# Few enough to come again, and some that are refused.
_TARGETS = st.sampled_from(
    [b"/", b"/a", b"/b?c=d", b"/" + b"x" * 98, b"/" + b"x" * 100, b"a b"]
)
_OTHERS = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from([b"cookie", b"x-id", b"user-agent", b"etag"]),
            st.sampled_from([b"a=1", b"b=2", b"c=3" * 20, b" d", b"e\x00", b""]),
        ),
        st.sampled_from(
            [
                (b"te", b"trailers"),
                (b"te", b"gzip"),
                (b"priority", b"u=1"),
                (b"priority", b"u=2, i"),
                (b"content-length", b"0"),
                (b"content-length", b"3"),
                (b"x_id", b"1"),
                (b"host", b"example.org"),
                (b"host", b"example.com"),
            ]
        ),
    ),
    max_size=6,
)
_REQUESTS = st.lists(st.tuples(_TARGETS, _OTHERS, st.booleans()), max_size=30)


def as_told(
    reader: HeadReader, fields: list[Header], *, ended: bool
) -> dict[str, object]:
    """Read a head by itself."""
    try:
        meanings = bytes(read_field(*field) for field in fields)
        return _public(reader.read(fields, meanings, ended=ended))
    except (StreamFailed, RequestRejected) as error:
        return {"error": str(error)}


def as_read(blocks: RequestBlocks, block: bytes, *, ended: bool) -> dict[str, object]:
    """Read a head among others, as the protocol does."""
    try:
        known = blocks.known.get(block) if ended else None
        return _public(known or blocks.read(block, ended=ended))
    except (StreamFailed, RequestRejected) as error:
        return {"error": str(error)}


def _public(head: RequestHead) -> dict[str, object]:
    kept = ("parts", "scope", "scope_connection")
    return {name: getattr(head, name) for name in head.__slots__ if name not in kept}


@given(_REQUESTS, st.integers(0, 40), st.booleans())
def test_what_was_kept_changes_nothing(
    requests: list[tuple[bytes, list[Header], bool]], new_each_time: int, huffman: bool
) -> None:
    """Each head is what it would be alone, be its fields known, new, or pushed out."""
    encoder, oracle = hpack.Encoder(), hpack.Decoder()
    blocks, reader = RequestBlocks(LIMITS), HeadReader(LIMITS)

    for number, (target, others, ended) in enumerate(requests):
        fields = [*GET, (b":path", target), *others]
        # With a value of its own each, entries leave the table soon.
        fields += [
            (b"x-new", b"%d-" % number + b"v" * 100) for _ in range(new_each_time)
        ]
        block = encoder.encode(fields, huffman=huffman)
        decoded = [
            (bytes(one[0]), bytes(one[1])) for one in oracle.decode(block, raw=True)
        ]

        expected = as_told(reader, decoded, ended=ended)

        assert expected == as_read(blocks, block, ended=ended)


def spelled_out(name: bytes, value: bytes, *, kept: bool = False) -> bytes:
    """Encode a field as a literal, which the table takes or not."""
    return encode_literal((name, value), *((0x3F, 0x40) if kept else (0x0F, 0)))


def opening(blocks: RequestBlocks, *others: Header) -> None:
    """Let the table have what every request says."""
    block = b"\x82\x87" + spelled_out(*GET[2], kept=True) + b"\x84"
    block += b"".join(spelled_out(*field, kept=True) for field in others)
    blocks.read(block, ended=True)


def test_a_shared_head_is_left_alone() -> None:
    """What one request says differently isn't said by the next one."""
    blocks = RequestBlocks(LIMITS)
    opening(blocks, (b"cookie", b"a=1"), (b"x-id", b"1"))

    def ask(*others: Header) -> RequestHead:
        fields = b"".join(spelled_out(*field) for field in others)
        return blocks.read(b"\x82\x87\xc0\x84\xbf\xbe" + fields, ended=True)

    first = ask((b"cookie", b"b=1"), (b"x-new", b"1"))
    second = ask((b"cookie", b"b=2"), (b"x-new", b"2"))

    host, known = (b"host", b"example.org"), (b"x-id", b"1")
    assert [host, (b"cookie", b"a=1; b=1"), known, (b"x-new", b"1")] == first.headers
    assert [host, (b"cookie", b"a=1; b=2"), known, (b"x-new", b"2")] == second.headers


@pytest.mark.parametrize("kept", [False, True])
def test_a_target_is_checked_each_time(kept: bool) -> None:
    """Section 8.3.1: however well known everything else is."""
    blocks = RequestBlocks(LIMITS)
    opening(blocks)

    def ask(target: bytes) -> RequestHead:
        cookie = spelled_out(b"cookie", b"new=%d" % len(target), kept=kept)
        block = b"\x82\x87" + spelled_out(b":path", target) + b"\xbe"
        return blocks.read(block + (cookie if kept else b""), ended=True)

    for target in (b"/1", b"/12", b"/1"):
        opening(blocks)
        assert target == ask(target).target
    with pytest.raises(StreamFailed):
        ask(b"/ ")
    with pytest.raises(RequestRejected) as raised:
        ask(b"/" + b"x" * 101)
    assert 414 == raised.value.status


def test_a_literal_that_is_no_code_ends_the_connection() -> None:
    """RFC 7541 section 5.2, where the rest of the block is known."""
    blocks = RequestBlocks(LIMITS)
    opening(blocks)
    before, behind = b"\x82\x87\x04", b"\xbe"
    for target in (b"/1", b"/2"):
        blocks.read(before + b"\x02" + target + behind, ended=True)

    with pytest.raises(ConnectionFailed) as raised:
        blocks.read(before + b"\x84\xff\xff\xff\xff" + behind, ended=True)

    assert ErrorCode.COMPRESSION_ERROR is raised.value.code


def test_small_limits_are_kept_by_what_looks_like_others() -> None:
    """Each head is measured, if it could be too large."""
    blocks = RequestBlocks(HTTPSettings(limit_request_header=200))
    opening(blocks)

    def ask(count: int) -> RequestHead:
        field = spelled_out(b"x-id", b"v" * count)
        return blocks.read(b"\x82\x87\xbe\x84" + field, ended=True)

    ask(10)
    ask(11)
    with pytest.raises(RequestRejected) as raised:
        ask(120 + 80)
    assert 431 == raised.value.status


@pytest.mark.parametrize(
    "path", [b"\x84", spelled_out(b":path", b"/")], ids=["known", "spelled out"]
)
def test_the_same_bytes_mean_something_else_when_the_table_has_changed(
    path: bytes,
) -> None:
    """RFC 7541 section 2.3.3: an index counts from the newest entry."""
    blocks = RequestBlocks(LIMITS)
    hosts = []
    for host in (b"a.example", b"b.example"):
        new = spelled_out(b"host", host, kept=True)
        blocks.read(b"\x82\x87" + path + new, ended=True)
        block = b"\x82\x87" + path + b"\xbe"
        for _ in range(3):
            head = blocks.known.get(block) or blocks.read(block, ended=True)
            hosts.append(head.headers[0][1])

    assert [b"a.example"] * 3 + [b"b.example"] * 3 == hosts


def test_names_out_of_the_table_count_too() -> None:
    """Attack: six literals whose name is an entry of four kilobytes, by its index."""
    blocks = RequestBlocks(HTTPSettings(limit_request_header=8192))
    opening(blocks)

    def ask(host: int, name: bytes) -> RequestHead:
        before = b"\x82\x87\x84" + encode_integer(host, 0x7F, 0x80)
        return blocks.read(before + 6 * (name + b"\x01v"), ended=True)

    ask(62, b"\x00\x01n")
    blocks.read_trailers(spelled_out(b"n" * 3900, b"", kept=True))
    with pytest.raises(RequestRejected) as raised:
        ask(63, encode_integer(62, 0x0F, 0))
    assert 431 == raised.value.status


@pytest.mark.parametrize("path", [b"\x84", spelled_out(b":path", b"/a")])
def test_a_request_is_known_again_after_the_table_has_changed(path: bytes) -> None:
    """One that comes twice is looked up as a whole, whatever came before."""
    blocks = RequestBlocks(LIMITS)
    opening(blocks)
    for number in range(3):
        block = b"\x82\x87" + path + encode_integer(62 + number, 0x7F, 0x80)
        first = blocks.read(block, ended=True)
        assert first is blocks.known[block]
        # Another request adds an entry.
        blocks.read(block + spelled_out(b"x-id", b"%d" % number, kept=True), ended=True)
        assert {} == blocks.known


@given(st.integers(150, 210))
def test_a_place_is_taken_again(between: int) -> None:
    """However many entries have come and gone, none is taken for another."""
    blocks = RequestBlocks(LIMITS)
    hosts = []
    for host in (b"a.example", b"b.example"):
        new = spelled_out(b"host", host, kept=True)
        blocks.read(b"\x82\x87\x84" + new, ended=True)
        hosts += [
            blocks.read(b"\x82\x87\x84\xbe", ended=True).headers[0][1] for _ in range(2)
        ]
        blocks.read_trailers(spelled_out(b"a", b"", kept=True) * between)

    assert [b"a.example"] * 2 + [b"b.example"] * 2 == hosts
