"""HPACK (RFC 7541), and the frames that carry header blocks."""

from __future__ import annotations

import json

from conformance_site import HELLO, LARGE_BYTES
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from http2_client import Peer
from http2_frames import (
    LEAST_FRAME_BYTES,
    ErrorCode,
    Setting,
    continuation,
    data,
    frame,
    headers,
    ping,
    priority,
    reset,
    settings,
    window_update,
)

from http2_cases.table import case

_HUFFMAN = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)

# Entries of the static table (RFC 7541 appendix A).
_AUTHORITY, _GET, _POST, _PATH, _HTTP, _HTTPS = 1, 2, 3, 4, 6, 7
_USER_AGENT = 58
_STATIC_ENTRIES = 61

# First bits and size of the prefix of each representation (section 6).
_INDEXED = 0x80, 7
_INCREMENTAL = 0x40, 6
_TABLE_SIZE = 0x20, 5
_NEVER_INDEXED = 0x10, 4
_NOT_INDEXED = 0x00, 4

_LITERALS = [
    (kind, name, huffman)
    for kind in ("incremental", "not-indexed", "never-indexed")
    for name in ("known", "new")
    for huffman in ("plain", "huffman")
]
_KINDS = {
    "incremental": _INCREMENTAL,
    "not-indexed": _NOT_INDEXED,
    "never-indexed": _NEVER_INDEXED,
}


def integer(value: int, form: tuple[int, int]) -> bytes:
    """Encode an integer behind the first bits of a representation (section 5.1)."""
    first, bits = form
    limit = (1 << bits) - 1
    if value < limit:
        return bytes([first | value])
    encoded = bytearray([first | limit])
    value -= limit
    while value >= 128:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def string(text: bytes, *, huffman: bool = False) -> bytes:
    """Encode a string (section 5.2)."""
    if huffman:
        text = _HUFFMAN.encode(text)
    return integer(len(text), (0x80 * huffman, 7)) + text


def literal(form: tuple[int, int], name: int | bytes, value: bytes) -> bytes:
    """Encode a literal with an index as its name, or a name of its own."""
    if isinstance(name, int):
        return integer(name, form) + string(value)
    return integer(0, form) + string(name) + string(value)


def _request(peer: Peer) -> bytes:
    """Encode the pseudo-header fields of a GET without the dynamic table."""
    scheme = _HTTPS if peer.link.scheme == b"https" else _HTTP
    indexed = b"".join(integer(entry, _INDEXED) for entry in (_GET, scheme, _PATH))
    return indexed + literal(_NOT_INDEXED, _AUTHORITY, b"example.org")


def _expect_answer(peer: Peer, block: bytes) -> None:
    stream = peer.new_stream()
    peer.send(headers(stream, block))
    peer.expect_response(stream)


def _expect_compression_error(peer: Peer, block: bytes) -> None:
    peer.send(headers(peer.new_stream(), block))
    peer.expect_connection_error(ErrorCode.COMPRESSION_ERROR)


# -- Representations (RFC 7541 section 6) -------------------------------------


@case("RFC 7541 6", each=_LITERALS)
def a_literal(peer: Peer, way: tuple[str, str, str]) -> None:
    """Each of the ways to write a field is understood, and again if it is indexed."""
    kind, name, coding = way
    huffman = coding == "huffman"
    form = _KINDS[kind]
    if name == "known":
        field = integer(_USER_AGENT, form)
    else:
        field = integer(0, form) + string(b"x-conformance", huffman=huffman)
    field += string(b"a literal", huffman=huffman)
    _expect_answer(peer, _request(peer) + field)
    if form == _INCREMENTAL:
        _expect_answer(peer, _request(peer) + integer(_STATIC_ENTRIES + 1, _INDEXED))
    else:
        _expect_answer(peer, _request(peer))


@case("RFC 7541 6.1")
def entries_of_the_dynamic_table(peer: Peer) -> None:
    """The newest comes first, and old ones fall out at the end."""
    value = bytes(b"v" * 1000)
    block = _request(peer)
    for _ in range(3):
        block += literal(_INCREMENTAL, b"x-large", value)
    _expect_answer(peer, block)
    _expect_answer(peer, _request(peer) + integer(_STATIC_ENTRIES + 3, _INDEXED))
    # The table has 4096 bytes, an entry 32 more than its texts.
    one_more = literal(_INCREMENTAL, b"x-large", value)
    _expect_answer(peer, _request(peer) + one_more)
    capacity = peer.server_settings.get(Setting.HEADER_TABLE_SIZE, 4096)
    if capacity <= 4096:
        _expect_compression_error(
            peer, _request(peer) + integer(_STATIC_ENTRIES + 4, _INDEXED)
        )


@case("RFC 7541 6.1", needs_site=True)
def the_same_block_with_another_table(peer: Peer) -> None:
    """The same bytes mean another field as soon as the table has changed."""
    newest = integer(_STATIC_ENTRIES + 1, _INDEXED)
    for _ in range(2):
        for value in (b"1", b"2", b"2", b"3"):
            _expect_answer(peer, _request(peer) + literal(_INCREMENTAL, b"x-a", value))
            for _ in range(2):
                assert value.decode() == _told_x_a(peer, newest)
        # Emptied and filled again, it is another table of the same length.
        emptied = integer(0, _TABLE_SIZE) + integer(4096, _TABLE_SIZE)
        again = literal(_INCREMENTAL, b"x-a", b"again")
        _expect_answer(peer, emptied + _request(peer) + again)
        assert "again" == _told_x_a(peer, newest)


@case("RFC 7541 6.2.1", needs_site=True)
def the_same_insertion_twice(peer: Peer) -> None:
    """A block that adds to the table does so whenever it comes."""
    insertion = _request(peer) + literal(_INCREMENTAL, b"x-a", b"twice")
    for _ in range(3):
        _expect_answer(peer, insertion)
    for entry in range(3):
        field = integer(_STATIC_ENTRIES + 1 + entry, _INDEXED)
        assert "twice" == _told_x_a(peer, field)


def _told_x_a(peer: Peer, field: bytes) -> str:
    """Tell which value the application gets for a field of this encoding."""
    stream = peer.new_stream()
    block = _request(peer)[:2] + literal(_NOT_INDEXED, _PATH, b"/scope")
    block += literal(_NOT_INDEXED, _AUTHORITY, b"example.org")
    peer.send(headers(stream, block + field))
    told = json.loads(peer.expect_response(stream).body)
    value: str = dict(told["headers"])["x-a"]
    return value


@case("RFC 7541 4.4")
def an_entry_larger_than_the_table(peer: Peer) -> None:
    """It empties the table, and is no error."""
    small = literal(_INCREMENTAL, b"x-small", b"1")
    large = literal(_INCREMENTAL, b"x-large", b"v" * 5000)
    _expect_answer(peer, _request(peer) + small + large)
    if peer.server_settings.get(Setting.HEADER_TABLE_SIZE, 4096) <= 4096:
        gone = integer(_STATIC_ENTRIES + 1, _INDEXED)
        _expect_compression_error(peer, _request(peer) + gone)


@case("RFC 7541 6.1")
def index_zero(peer: Peer) -> None:
    """There is no such entry."""
    _expect_compression_error(peer, _request(peer) + b"\x80")


@case("RFC 7541 2.3.3", each=[62, 70, 127, 1_000_000])
def an_index_of_no_entry(peer: Peer, index: int) -> None:
    """Beyond both tables there is nothing."""
    _expect_compression_error(peer, _request(peer) + integer(index, _INDEXED))


@case("RFC 7541 2.3.3", each=[_INCREMENTAL, _NOT_INDEXED, _NEVER_INDEXED])
def a_name_of_no_entry(peer: Peer, form: tuple[int, int]) -> None:
    """Beyond both tables there is nothing."""
    _expect_compression_error(peer, _request(peer) + literal(form, 70, b"value"))


@case(
    "RFC 7541 5.1",
    each=[b"\xff" + b"\x80" * 20 + b"\x01", b"\xff" + b"\xff" * 10 + b"\x7f"],
)
def an_integer_without_bounds(peer: Peer, encoded: bytes) -> None:
    """It is an error, however long it goes on."""
    _expect_compression_error(peer, _request(peer) + encoded)


@case(
    "RFC 7541 5",
    each=[
        b"\x40",
        b"\x40\x03x-",
        b"\x40\x03x-a",
        b"\x40\x03x-a\x05valu",
        b"\x40\x03x-a\x7f\xff\xff\xff\x07value",
        b"\xff",
        b"\x00\x83",
    ],
)
def a_block_that_breaks_off(peer: Peer, beginning: bytes) -> None:
    """A representation may go on in the next frame, but not after the last."""
    _expect_compression_error(peer, _request(peer) + beginning)


# -- Huffman codes (section 5.2) ----------------------------------------------


@case(
    "RFC 7541 5.2",
    each=[
        # "a" is 00011: three bits of padding, and a byte more of it.
        b"\x1f\xff",
        # Zeros are no padding.
        b"\x18",
        # The code of 30 ones, which is never sent.
        b"\xff\xff\xff\xff",
        b"\x1f\xff\xff\xff\xff",
    ],
)
def a_wrong_huffman_code(peer: Peer, code: bytes) -> None:
    """Padding is less than a byte, all of ones, and no symbol."""
    value = integer(len(code), (0x80, 7)) + code
    name = integer(0, _NOT_INDEXED) + string(b"x-huffman")
    _expect_compression_error(peer, _request(peer) + name + value)


@case("RFC 7541 5.2")
def each_symbol_in_a_huffman_code(peer: Peer) -> None:
    """All that may stand in a value is decoded, the longest codes, too."""
    value = bytes([*range(33, 127), *range(128, 256)])
    name = integer(0, _NOT_INDEXED) + string(b"x-huffman")
    _expect_answer(peer, _request(peer) + name + string(value, huffman=True))


# -- The size of the table (sections 4.2 and 6.3) -----------------------------


@case("RFC 7541 6.3", each=[(0,), (4096,), (0, 4096), (100, 0, 30)])
def the_table_gets_another_size(peer: Peer, sizes: tuple[int, ...]) -> None:
    """The client says so at the beginning of a block, perhaps several times."""
    updates = b"".join(integer(size, _TABLE_SIZE) for size in sizes[:2])
    _expect_answer(peer, updates + _request(peer))
    for size in sizes[2:]:
        _expect_answer(peer, integer(size, _TABLE_SIZE) + _request(peer))


@case("RFC 7541 4.3")
def a_smaller_table_forgets(peer: Peer) -> None:
    """Entries that don't fit fall out."""
    _expect_answer(peer, _request(peer) + literal(_INCREMENTAL, b"x-a", b"1"))
    updates = integer(0, _TABLE_SIZE) + integer(4096, _TABLE_SIZE)
    forgotten = integer(_STATIC_ENTRIES + 1, _INDEXED)
    _expect_compression_error(peer, updates + _request(peer) + forgotten)


@case("RFC 7541 6.3")
def a_table_larger_than_allowed(peer: Peer) -> None:
    """The server's setting is the limit."""
    limit = peer.server_settings.get(Setting.HEADER_TABLE_SIZE, 4096)
    _expect_compression_error(peer, integer(limit + 1, _TABLE_SIZE) + _request(peer))


@case("RFC 7541 4.2")
def another_size_behind_fields(peer: Peer) -> None:
    """It may only stand at the beginning of a block."""
    _expect_compression_error(peer, _request(peer) + integer(100, _TABLE_SIZE))


@case("6.5.2", each=[0, 1, 100, 65_536])
def the_table_of_responses(peer: Peer, size: int) -> None:
    """The client decides how large it may be; the server follows."""
    peer.expect_response(peer.request())
    peer.configure((Setting.HEADER_TABLE_SIZE, size))
    peer.wait_for_settings()
    for _ in range(3):
        peer.expect_response(peer.request())
    peer.configure((Setting.HEADER_TABLE_SIZE, 4096))
    peer.wait_for_settings()
    for _ in range(3):
        peer.expect_response(peer.request())


@case("6.5.2")
def the_table_of_responses_shrinks_and_grows(peer: Peer) -> None:
    """Both at once, so that the server has to tell the smallest size in between."""
    peer.expect_response(peer.request())
    peer.configure((Setting.HEADER_TABLE_SIZE, 0))
    peer.configure((Setting.HEADER_TABLE_SIZE, 4096))
    peer.wait_for_settings()
    for _ in range(3):
        peer.expect_response(peer.request())


# -- Blocks in frames (RFC 9113 sections 4.3 and 6.10) ------------------------


@case("4.3")
def a_block_that_cannot_be_decoded(peer: Peer) -> None:
    """Without the state of the table, the connection is lost."""
    # A literal with a name of two bytes, of which there is one.
    _expect_compression_error(peer, b"\x40\x02\x61")


@case("4.3")
def a_refused_request_is_decoded(peer: Peer) -> None:
    """What it puts into the table counts for the next one."""
    stream = peer.new_stream()
    field = literal(_INCREMENTAL, b"x-shared", b"1")
    upper = literal(_NOT_INDEXED, b"X-UPPER", b"1")
    peer.send(headers(stream, _request(peer) + field + upper))
    peer.expect_stream_error(stream, ErrorCode.PROTOCOL_ERROR)
    shared = integer(_STATIC_ENTRIES + 1, _INDEXED)
    _expect_answer(peer, _request(peer) + shared)


@case("6.10", each=range(1, 70, 3))
def a_block_in_two_frames(peer: Peer, cut: int) -> None:
    """It may be cut anywhere."""
    stream = peer.new_stream()
    block = _request(peer) + literal(_INCREMENTAL, b"x-long-name", b"a long value" * 3)
    peer.send(
        headers(stream, block[:cut], complete=False),
        continuation(stream, block[cut:]),
    )
    peer.expect_response(stream)
    _expect_answer(peer, _request(peer) + integer(_STATIC_ENTRIES + 1, _INDEXED))


@case("6.10", each=[1, 2, 5])
def a_block_in_many_frames(peer: Peer, size: int) -> None:
    """Each may be as short as one likes."""
    stream = peer.new_stream()
    block = _request(peer)
    # As many as a server takes which is wary of floods of such frames.
    pieces = [block[at : at + size] for at in range(0, len(block), size)][:5]
    pieces.append(block[5 * size :])
    peer.send(headers(stream, b"", complete=False))
    for piece in pieces[:-1]:
        peer.send(continuation(stream, piece, complete=False))
    peer.send(continuation(stream, pieces[-1]))
    peer.expect_response(stream)


@case("6.10")
def a_large_block(peer: Peer) -> None:
    """A cookie may fill more than one frame."""
    cookie = literal(_NOT_INDEXED, b"cookie", b"a" * 20_000)
    block = _request(peer) + cookie
    stream = peer.new_stream()
    peer.send(
        headers(stream, block[:LEAST_FRAME_BYTES], complete=False),
        continuation(stream, block[LEAST_FRAME_BYTES:]),
    )
    peer.expect_response(stream)


@case("6.10")
def a_request_with_a_body_in_many_frames(peer: Peer) -> None:
    """That the stream stays open is told by HEADERS, not by CONTINUATION."""
    stream = peer.new_stream()
    block = peer.encode(peer.request_fields(method=b"POST"))
    peer.send(
        headers(stream, block[:4], end=False, complete=False),
        continuation(stream, block[4:]),
    )
    peer.send_data(stream, b"body", end=True)
    peer.expect_response(stream)


@case(
    "6.10",
    each=[
        priority(1),
        ping(),
        settings(),
        window_update(0, 1),
        data(1, b"x"),
        reset(1),
        frame(0xF5, 0, 1),
        headers(1, b"\x82"),
        headers(3, b"\x82"),
        continuation(3, b"\x82"),
    ],
)
def another_frame_within_a_block(peer: Peer, between: bytes) -> None:
    """Nothing may stand there but the rest of the block."""
    stream = peer.new_stream()
    block = _request(peer)
    peer.send(headers(stream, block[:3], complete=False), between)
    peer.send(continuation(stream, block[3:]))
    peer.expect_connection_error(ErrorCode.PROTOCOL_ERROR)


@case("6.10")
def another_frame_between_continuations(peer: Peer) -> None:
    """Nor behind the first part of the rest."""
    stream = peer.new_stream()
    block = _request(peer)
    peer.send(
        headers(stream, block[:2], complete=False),
        continuation(stream, block[2:3], complete=False),
        data(stream, b"x", end=True),
    )
    peer.expect_connection_error(ErrorCode.PROTOCOL_ERROR)


@case("6.10")
def continuation_of_the_connection(peer: Peer) -> None:
    """It belongs to the stream of its HEADERS."""
    stream = peer.new_stream()
    block = _request(peer)
    peer.send(headers(stream, block[:3], complete=False), continuation(0, block[3:]))
    peer.expect_connection_error(ErrorCode.PROTOCOL_ERROR)


@case("6.10", each=["headers", "continuation", "data"])
def continuation_of_nothing(peer: Peer, before: str) -> None:
    """It follows HEADERS or CONTINUATION that say that there is more."""
    stream = peer.new_stream()
    block = _request(peer)
    if before == "continuation":
        peer.send(headers(stream, block[:3], end=False, complete=False))
        peer.send(continuation(stream, block[3:]))
    else:
        peer.send(headers(stream, block, end=False))
    if before == "data":
        peer.send_data(stream, b"x")
    peer.send(continuation(stream, literal(_NOT_INDEXED, b"x-late", b"1")))
    peer.expect_connection_error(ErrorCode.PROTOCOL_ERROR)


@case("10.5.1")
def a_block_without_end(peer: Peer) -> None:
    """The server gives up, and doesn't collect it for ever."""
    stream = peer.new_stream()
    field = literal(_NOT_INDEXED, b"x-flood", b"a" * 16_000)
    peer.send(headers(stream, _request(peer), complete=False))
    for _ in range(LARGE_BYTES // len(field)):
        peer.send(continuation(stream, field, complete=False))
    peer.send(continuation(stream, field))
    peer.expect_refusal(stream)


@case("10.5.1")
def a_block_that_grows(peer: Peer) -> None:
    """A few bytes that mean a megabyte of fields are refused as that is."""
    field = literal(_INCREMENTAL, b"x-bomb", b"a" * 4000)
    again = integer(_STATIC_ENTRIES + 1, _INDEXED)
    stream = peer.new_stream()
    peer.send(headers(stream, _request(peer) + field + again * 1000))
    peer.expect_refusal(stream)


@case("6.10")
def answers_are_the_same_however_asked(peer: Peer) -> None:
    """The table of the client's blocks and the frames don't change the answer."""
    stream = peer.new_stream()
    block = _request(peer)
    peer.send(headers(stream, b"", complete=False), continuation(stream, block))
    assert HELLO == bytes(peer.expect_response(stream).body)
