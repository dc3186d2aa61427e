"""Tests of ``daphne_like.protocols.websocket_deflate``."""

from __future__ import annotations

import os
import tracemalloc
import zlib
from dataclasses import replace
from itertools import pairwise
from random import Random
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websocket_frames import frame, read_frames
from wsproto.extensions import PerMessageDeflate
from wsproto.frame_protocol import FrameProtocol

from daphne_like.errors import WebSocketFailed
from daphne_like.protocols.interfaces import RequestHead
from daphne_like.protocols.websocket_deflate import (
    Deflate,
    DeflateParameters,
    negotiate,
)
from daphne_like.protocols.websocket_handshake import read_handshake
from daphne_like.settings import WebSocketSettings

NAME = "permessage-deflate"
FULL = WebSocketSettings(ws_deflate_window_bits=15)
DEFAULT = WebSocketSettings()
TAIL = b"\x00\x00\xff\xff"


def agree(offers: str, settings: WebSocketSettings = FULL) -> str | None:
    """Negotiate by the fields themselves, and tell the answer."""
    head = RequestHead(b"/")
    head.method = "GET"
    head.headers = [
        (b"sec-websocket-version", b"13"),
        (b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZQ=="),
        (b"sec-websocket-extensions", offers.encode()),
    ]
    agreed = negotiate(read_handshake(head).extensions, settings)
    return None if agreed is None else agreed.response.decode()


def parameters(
    server_window_bits: int = 15,
    client_window_bits: int = 15,
    server_takeover: bool = True,
    client_takeover: bool = True,
) -> DeflateParameters:
    """Make parameters as if they had been agreed on."""
    return DeflateParameters(
        server_window_bits, client_window_bits, server_takeover, client_takeover, b""
    )


def limited(limit: int) -> Deflate:
    """Make a pair of streams which inflates so many bytes."""
    return Deflate(parameters(), WebSocketSettings(websocket_max_message_size=limit))


class Client:
    """
    The other side, by zlib alone.

    Args:
        bits: Of the window to the server.
        takeover: Messages to the server refer to earlier ones.
    """

    def __init__(self, bits: int = 15, takeover: bool = True, level: int = 6) -> None:
        self._arguments = level, zlib.DEFLATED, -bits
        self._takeover = takeover
        self._compressor: Any = None
        self._inflater = zlib.decompressobj(-15)

    def compress(self, message: bytes) -> bytes:
        """Compress a message to the server."""
        if self._compressor is None or not self._takeover:
            self._compressor = zlib.compressobj(*self._arguments)
        data: bytes = self._compressor.compress(message)
        data += self._compressor.flush(zlib.Z_SYNC_FLUSH)
        assert data.endswith(TAIL)
        return data[:-4]

    def inflate(self, data: bytes, bits: int = 15, takeover: bool = True) -> bytes:
        """Restore a message of the server, with no more window than agreed."""
        if not takeover:
            self._inflater = zlib.decompressobj(-bits)
        message = self._inflater.decompress(data + TAIL)
        assert not self._inflater.unconsumed_tail
        return message


def failure(deflate: Deflate, data: bytes) -> int:
    """Tell the close code by which a message is refused."""
    with pytest.raises(WebSocketFailed) as caught:
        deflate.inflate(data)
    return caught.value.code


# -- Negotiation (RFC 7692 section 7.1) -------------------------------------------


@pytest.mark.parametrize(
    ("offers", "answer"),
    [
        ("", None),
        ("x-webkit-deflate-frame", None),
        (NAME, NAME),
        (f"unknown; a, {NAME}", NAME),
        # What browsers send.
        (f"{NAME}; client_max_window_bits", f"{NAME}; client_max_window_bits=15"),
        # 7.1.1.1 and 7.1.1.2
        (f"{NAME}; server_no_context_takeover", f"{NAME}; server_no_context_takeover"),
        (f"{NAME}; client_no_context_takeover", f"{NAME}; client_no_context_takeover"),
        (f"{NAME}; server_no_context_takeover=1", None),
        (f"{NAME}; client_no_context_takeover=true", None),
        # 7.1.2.1
        (f"{NAME}; server_max_window_bits=10", f"{NAME}; server_max_window_bits=10"),
        (f'{NAME}; server_max_window_bits="10"', f"{NAME}; server_max_window_bits=10"),
        (f"{NAME}; server_max_window_bits=15", NAME),
        (f"{NAME}; server_max_window_bits=9", f"{NAME}; server_max_window_bits=9"),
        # zlib can't make those, so this one is declined.
        (f"{NAME}; server_max_window_bits=8", None),
        (f"{NAME}; server_max_window_bits", None),
        (f"{NAME}; server_max_window_bits=7", None),
        (f"{NAME}; server_max_window_bits=16", None),
        (f"{NAME}; server_max_window_bits=010", None),
        (f"{NAME}; server_max_window_bits=+9", None),
        (f"{NAME}; server_max_window_bits=1e1", None),
        # 7.1.2.2
        (f"{NAME}; client_max_window_bits=10", f"{NAME}; client_max_window_bits=10"),
        (f"{NAME}; client_max_window_bits=8", f"{NAME}; client_max_window_bits=8"),
        (f"{NAME}; client_max_window_bits=15", f"{NAME}; client_max_window_bits=15"),
        (f"{NAME}; client_max_window_bits=16", None),
        (f"{NAME}; client_max_window_bits=7", None),
        (f"{NAME}; client_max_window_bits=08", None),
        # 7.1: an unknown parameter, one given twice.
        (f"{NAME}; unknown", None),
        (f"{NAME}; Server_Max_Window_Bits=10", None),
        (f"{NAME}; client_max_window_bits; client_max_window_bits", None),
        (f"{NAME}; client_max_window_bits=10; client_max_window_bits=10", None),
        (f"{NAME}; server_no_context_takeover; server_no_context_takeover", None),
        (f"{NAME}; server_max_window_bits=9; server_max_window_bits=9", None),
        # All at once.
        (
            f"{NAME}; client_max_window_bits=9; client_no_context_takeover",
            f"{NAME}; client_no_context_takeover; client_max_window_bits=9",
        ),
        (
            f"{NAME}; server_max_window_bits=9; server_no_context_takeover",
            f"{NAME}; server_no_context_takeover; server_max_window_bits=9",
        ),
        # 7.1.3: fallbacks, by the client's preference.
        (f"{NAME}; unknown, {NAME}", NAME),
        (
            f"{NAME}; server_max_window_bits=8, {NAME}; server_max_window_bits=9",
            f"{NAME}; server_max_window_bits=9",
        ),
        (f"{NAME}; client_max_window_bits=99, other, {NAME}; a, {NAME}", NAME),
        (f"{NAME}; server_max_window_bits=10, {NAME}",
         f"{NAME}; server_max_window_bits=10"),
        (f"{NAME}; a, {NAME}; b", None),
    ],
)  # fmt: skip
def test_offers_are_answered_as_the_rfc_says(offers: str, answer: str | None) -> None:
    """Compression is agreed on in words which the client has to understand."""
    assert answer == agree(offers)


@pytest.mark.parametrize(
    ("offer", "answer"),
    [
        # Nobody who didn't say that he knows the parameter gets it.
        (NAME, f"{NAME}; server_max_window_bits=11"),
        (
            f"{NAME}; client_max_window_bits",
            f"{NAME}; server_max_window_bits=11; client_max_window_bits=11",
        ),
        (
            f"{NAME}; client_max_window_bits=15; server_max_window_bits=15",
            f"{NAME}; server_max_window_bits=11; client_max_window_bits=11",
        ),
        (
            f"{NAME}; client_max_window_bits=9; server_max_window_bits=10",
            f"{NAME}; server_max_window_bits=10; client_max_window_bits=9",
        ),
    ],
)
def test_the_window_of_the_settings_bounds_both_directions(
    offer: str, answer: str
) -> None:
    """An operator decides how much memory a connection may take."""
    assert answer == agree(offer, WebSocketSettings(ws_deflate_window_bits=11))


def test_context_takeover_can_be_switched_off() -> None:
    """An operator can have connections without any memory between messages."""
    settings = replace(FULL, ws_deflate_context_takeover=False)

    assert f"{NAME}; server_no_context_takeover; client_no_context_takeover" == agree(
        NAME, settings
    )


def test_compression_can_be_switched_off() -> None:
    """With one option no client gets any."""
    settings = replace(FULL, ws_per_message_deflate=False)

    assert agree(f"{NAME}; client_max_window_bits", settings) is None


def _payloads(client: FrameProtocol) -> list[bytes]:
    return [cast("bytes", part.payload) for part in client.received_frames()]


_offers = st.lists(
    st.sampled_from(
        [
            "server_no_context_takeover",
            "client_no_context_takeover",
            "client_max_window_bits",
            *(f"client_max_window_bits={bits}" for bits in range(9, 16)),
            *(f"server_max_window_bits={bits}" for bits in range(9, 16)),
        ]
    ),
    unique_by=lambda parameter: parameter.partition("=")[0],
)
_messages = st.lists(
    st.binary(max_size=50)
    | st.binary(min_size=1, max_size=9).map(lambda unit: unit * 500)
    | st.integers(0, 99).map(lambda seed: Random(seed).randbytes(3000)),
    min_size=1,
    max_size=6,
)


@given(
    offer=_offers,
    messages=_messages,
    answers=_messages,
    ours=st.builds(
        WebSocketSettings,
        ws_deflate_window_bits=st.integers(9, 15),
        ws_deflate_context_takeover=st.booleans(),
        ws_deflate_level=st.integers(0, 9),
        ws_deflate_memory_level=st.integers(1, 9),
    ),
)
@settings(max_examples=60, deadline=None)
def test_another_implementation_understands_us_and_we_it(
    offer: list[str],
    messages: list[bytes],
    answers: list[bytes],
    ours: WebSocketSettings,
) -> None:
    """Whatever is agreed on, messages arrive as they were sent, both ways."""
    extensions = [
        (NAME, {name: value or None for name, _, value in parts})
        for parts in [[parameter.partition("=") for parameter in offer]]
    ]
    agreed = negotiate(extensions, ours)
    assert agreed is not None
    deflate = Deflate(agreed, ours)
    # The client's side of wsproto, which has read our answer.
    oracle = PerMessageDeflate()
    oracle.finalize(agreed.response.decode())
    client = FrameProtocol(client=True, extensions=[oracle])
    for message in messages:
        [sent] = read_frames(bytes(client.send_data(message, fin=True)))
        assert (4, 2, True) == (sent.rsv, sent.opcode, sent.fin)
        assert message == deflate.inflate(sent.payload)
    for answer in answers:
        client.receive_bytes(frame(2, deflate.compress(answer), rsv=4, mask=b""))
        assert answer == b"".join(_payloads(client))


# -- The streams (section 7.2) ----------------------------------------------------


def test_the_examples_of_the_rfc_are_understood() -> None:
    """Section 7.2.3 shows them: compressed, shared, stored, ended, in two blocks."""
    hello = bytes.fromhex("f248cdc9c90700")
    deflate = limited(100)

    assert b"Hello" == deflate.inflate(hello)
    # 7.2.3.2: the same again, by reference to the first.
    assert b"Hello" == deflate.inflate(bytes.fromhex("f200110000"))
    # 7.2.3.3: not compressed.
    assert b"Hello" == deflate.inflate(bytes.fromhex("000500faff48656c6c6f00"))
    # 7.2.3.4: a block that says it is the last, twice.
    for _ in range(2):
        assert b"Hello" == deflate.inflate(bytes.fromhex("f348cdc9c9070000"))
    # 7.2.3.5: two blocks.
    assert b"Hello" == deflate.inflate(
        bytes.fromhex("f248050000 00ffff cac9c90700".replace(" ", ""))
    )
    # 7.2.3.6: an empty message.
    assert b"" == deflate.inflate(b"\x00")


def test_an_empty_message_is_compressed_to_one_byte() -> None:
    """Section 7.2.3.6; only where the minimal size is 0 does it happen."""
    assert b"\x00" == Deflate(parameters(), DEFAULT).compress(b"")[-1:]
    assert b"" == Client().inflate(Deflate(parameters(), DEFAULT).compress(b""))


@pytest.mark.parametrize("takeover", [True, False])
def test_messages_refer_to_earlier_ones_as_agreed(takeover: bool) -> None:
    """With context takeover a repeated message is a few bytes; without it isn't."""
    message = os.urandom(500)
    deflate = Deflate(
        parameters(server_takeover=takeover, client_takeover=takeover), FULL
    )
    client = Client(takeover=takeover)

    first, second = deflate.compress(message), deflate.compress(message)

    assert (len(second) < 50) is takeover
    assert message == client.inflate(first, takeover=takeover)
    assert message == client.inflate(second, takeover=takeover)
    for _ in range(2):
        assert message == deflate.inflate(client.compress(message))


def test_a_client_without_takeover_has_a_new_context_for_each_message() -> None:
    """What was agreed on is demanded: a reference to an earlier message fails."""
    message = os.urandom(500)
    deflate = Deflate(parameters(client_takeover=False), FULL)
    client = Client()

    assert message == deflate.inflate(client.compress(message))
    assert 1007 == failure(deflate, client.compress(message))


@pytest.mark.parametrize("bits", [9, 10, 12, 15])
def test_our_window_is_no_larger_than_agreed(bits: int) -> None:
    """A client with little memory can inflate what we send."""
    deflate = Deflate(parameters(server_window_bits=bits), FULL)
    inflater = zlib.decompressobj(-bits)
    block = os.urandom(2**bits - 300)
    for message in (block, b"x" * 300, block, block[:50] * 1000):
        data = deflate.compress(message)

        assert message == inflater.decompress(data + TAIL)


@pytest.mark.parametrize("bits", [8, 9, 15])
def test_a_window_of_the_client_is_inflated(bits: int) -> None:
    """A client may use the smallest window; ours is never smaller than that."""
    deflate = Deflate(parameters(client_window_bits=bits), FULL)
    client = Client(max(bits, 9))
    for message in (b"ab" * 5000, os.urandom(700), b""):
        assert message == deflate.inflate(client.compress(message))


def test_the_level_is_that_of_the_settings() -> None:
    """An operator can trade time for bytes; level 0 stores."""
    text = b"".join(b"%d squared is %d. " % (at, at * at) for at in range(2000))
    sizes = [
        len(Deflate(parameters(), replace(FULL, ws_deflate_level=level)).compress(text))
        for level in (0, 1, 9)
    ]

    assert sizes[0] > len(text) > sizes[1] > sizes[2]


def _traced_bytes(settings: WebSocketSettings, bits: int) -> int:
    deflate = Deflate(parameters(server_window_bits=bits), settings)
    tracemalloc.start()
    try:
        deflate.compress(b"hello")
        return tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()


def test_memory_is_that_of_the_settings() -> None:
    """An operator can trade bytes on the wire for memory of each connection."""
    low = _traced_bytes(replace(FULL, ws_deflate_memory_level=1), 9)
    high = _traced_bytes(replace(FULL, ws_deflate_memory_level=9), 15)

    # zlib.h: (1 << (windowBits+2)) + (1 << (memLevel+9)) bytes, and a little.
    assert low < 24 * 1024
    assert high > 256 * 1024


def test_a_silent_connection_has_no_context() -> None:
    """A client that never sends or gets a compressed message costs no memory."""
    deflate = Deflate(parameters(server_takeover=False, client_takeover=False), FULL)
    silent = Deflate(parameters(), FULL)

    assert silent._compressor is None
    assert silent._inflater is None

    deflate.inflate(Client(takeover=False).compress(b"message"))
    deflate.compress(b"message")

    assert deflate._compressor is None
    assert deflate._inflater is None


@pytest.mark.parametrize("size", [1, 999, 1000, 1001, 5000])
@pytest.mark.parametrize("content", ["zeros", "random"])
def test_the_limit_is_exact(size: int, content: str) -> None:
    """A message of exactly the limit comes through; one byte more is 1009."""
    message = bytes(size) if content == "zeros" else os.urandom(size)
    data = Client().compress(message)

    if size <= 1000:
        assert message == limited(1000).inflate(data)
        assert message == limited(size).inflate(data)
    else:
        assert 1009 == failure(limited(1000), data)
        assert message == limited(0).inflate(data)


def test_the_limit_is_that_of_each_message() -> None:
    """Messages of the largest size may follow each other without end."""
    deflate, client = limited(1000), Client()
    for _ in range(5):
        assert bytes(1000) == deflate.inflate(client.compress(bytes(1000)))


def test_the_limit_is_that_of_all_fragments() -> None:
    """A message in pieces has the same limit as in one, and not a byte more."""
    for size, fits in ((1000, True), (1001, False)):
        deflate = limited(1000)
        deflate.start_decompress_message()
        data, inflated = Client().compress(os.urandom(size)), b""
        code = 0
        try:
            for at in range(len(data)):
                inflated += deflate.decompress_message_data(data[at : at + 1], 99)
            deflate.end_decompress_message()
        except WebSocketFailed as failed:
            code = failed.code

        assert code == (0 if fits else 1009)
        assert len(inflated) <= 1000


def test_a_bomb_takes_no_memory() -> None:
    """64 KB of DEFLATE that hold 64 MB are inflated up to the limit and not beyond."""
    bomb = Client(level=9).compress(bytes(64 * 2**20))
    deflate = limited(2**20)
    tracemalloc.start()
    try:
        assert 1009 == failure(deflate, bomb)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 4 * 2**20


def test_a_bomb_behind_a_last_block_takes_no_memory() -> None:
    """No block is inflated beyond what the earlier ones have left of the limit."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = compressor.compress(bytes(2**20 - 1)) + compressor.flush()
    deflate = limited(2**20)
    tracemalloc.start()
    try:
        assert 1009 == failure(deflate, block * 10)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 4 * 2**20


def _last_block(data: bytes) -> bytes:
    compressor = zlib.compressobj(6, zlib.DEFLATED, -15)
    return compressor.compress(data) + compressor.flush()


@pytest.mark.parametrize("whole", [True, False])
def test_last_blocks_in_a_row_lose_nothing(whole: bool) -> None:
    """Whatever blocks a message is made of, all of it arrives, however it is cut."""
    data = b"".join(_last_block(b"part %d " % at) for at in range(5)) + b"\x00"
    deflate = limited(1000)
    for _ in range(3):
        deflate.start_decompress_message()
        pieces = [data] if whole else [data[at : at + 1] for at in range(len(data))]
        message = b"".join(map(deflate.decompress_message_data, pieces))
        deflate.end_decompress_message()

        assert b"part 0 part 1 part 2 part 3 part 4 " == message


def test_last_blocks_without_end_are_refused() -> None:
    """A peer can't let us make a new context for every second byte."""
    assert 1007 == failure(limited(0), _last_block(b"") * 500_000)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff\xff",
        b"\x07",
        # A stored block whose length and its complement differ.
        b"\x00\x05\x00\x00\x00hello\x00",
        # A reference beyond what has been sent.
        bytes.fromhex("f200110000"),
    ],
)
def test_invalid_data_is_refused(data: bytes) -> None:
    """What is no DEFLATE gets 1007, and no application sees it."""
    assert 1007 == failure(limited(1000), data)


def test_a_message_cut_short_is_refused() -> None:
    """What a peer has left out isn't replaced by four bytes of ours."""
    stored = b"\x00\x05\x00\xfa\xffh"

    assert 1007 == failure(limited(1000), stored)


@given(data=st.binary(max_size=200), limit=st.integers(0, 50))
def test_any_bytes_are_inflated_or_refused(data: bytes, limit: int) -> None:
    """Nothing that a peer sends causes another error, or goes beyond the limit."""
    message, code = b"", 1007
    try:
        message = limited(limit).inflate(data)
    except WebSocketFailed as failed:
        code = failed.code

    assert code in (1007, 1009)
    assert len(message) <= (limit or len(message))


@given(data=st.binary(max_size=60), cuts=st.lists(st.integers(0, 60), max_size=5))
def test_the_outcome_depends_on_no_cut(data: bytes, cuts: list[int]) -> None:
    """In one piece or in many, a message is the same, or refused for the same."""

    def outcome(pieces: list[bytes]) -> object:
        deflate = limited(100)
        try:
            deflate.start_decompress_message()
            message = b"".join(map(deflate.decompress_message_data, pieces))
            deflate.end_decompress_message()
        except WebSocketFailed as failed:
            return failed.code
        return message

    edges = [0, *sorted(cuts), len(data)]
    pieces = [data[a:b] for a, b in pairwise(edges)]

    assert outcome([data]) == outcome(pieces)
