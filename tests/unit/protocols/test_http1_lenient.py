"""Tests of ``daphne_like.protocols.http1_lenient``."""

from __future__ import annotations

from typing import Any

import pytest
from deliveries import same_for_each_delivery
from hypothesis import given, settings
from hypothesis import strategies as st
from request_reading import (
    GARBLED_CHUNKS,
    GARBLED_FRAMING,
    GARBLED_HEADS,
    UNKNOWN_CODINGS,
    Outcome,
    Read,
    Sink,
    get,
    outcome_of,
    post,
)

from daphne_like.errors import RequestRejected
from daphne_like.protocols.http1_lenient import LenientRequestReader
from daphne_like.protocols.http2_frames import PREFACE
from daphne_like.settings import HTTPSettings

CHUNKED = b"Transfer-Encoding: chunked"


def lenient(pieces: list[bytes], **limits: Any) -> Outcome:
    """Tell what the reader makes of pieces."""
    return outcome_of(pieces, LenientRequestReader, **limits)


def read(data: bytes, **limits: Any) -> Outcome:
    """Tell what the reader makes of bytes, however they are delivered."""
    return same_for_each_delivery(data, lambda pieces: lenient(pieces, **limits))


def requests_in(data: bytes) -> list[Read]:
    """Tell the requests in bytes of which none are rejected."""
    outcome = read(data)
    assert None is outcome.rejected, outcome.detail
    return outcome.requests


def fields_of(data: bytes) -> list[tuple[bytes, bytes]]:
    """Tell the fields of the only request in bytes."""
    [request] = requests_in(data)
    return request.headers


# -- What Daphne accepts -------------------------------------------------------


def test_a_host_need_not_be_there() -> None:
    """Scripts and old probes forget it."""
    assert [] == fields_of(b"GET / HTTP/1.1\r\n\r\n")
    assert [(b"a", b"b")] == fields_of(b"GET / HTTP/1.1\r\nA: b\r\n\r\n")


def test_a_host_may_be_there_twice() -> None:
    """The application gets both, in their order, and may choose."""
    assert [(b"host", b"a"), (b"host", b"b"), (b"host", b"a")] == fields_of(
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\nHost: a\r\n\r\n"
    )


def test_the_authority_of_a_whole_url_replaces_all_hosts() -> None:
    """RFC 9112 section 3.2.2 needs no Host to be obeyed."""
    for hosts in (b"", b"Host: b\r\nHost: c\r\n"):
        [request] = requests_in(b"GET http://a/b HTTP/1.1\r\n" + hosts + b"\r\n")
        assert (b"/b", [(b"host", b"a")]) == (request.target, request.headers)


@pytest.mark.parametrize("host", [b"a b", b"a/b", b"user@a", b"a:999999"])
def test_a_malformed_host_is_still_refused(host: bytes) -> None:
    """Whichever of them it is."""
    assert 400 == read(get(host=host)).rejected
    assert 400 == read(get(b"Host: %b" % host)).rejected


@pytest.mark.parametrize(
    ("line", "value"),
    [
        (b"A: b\r\n c", b"b c"),
        (b"A: b\r\n\tc", b"b c"),
        (b"A: b\r\n \t c", b"b \t c"),
        (b"A:\r\n b", b"b"),
        (b"A:\r\n b\r\n ", b"b"),
        (b"A: b\r\n c\r\n d", b"b c d"),
        (b"A: b \r\n \r\n d", b"b   d"),
    ],
)
def test_folded_lines_are_one(line: bytes, value: bytes) -> None:
    """A fold is a space (RFC 9112 section 5.2)."""
    assert [(b"host", b"a"), (b"a", value), (b"c", b"d")] == fields_of(
        get(line, b"C: d")
    )
    assert [(b"host", b"a"), (b"a", value)] == fields_of(get(line))


@pytest.mark.parametrize("first", [b" Host: a", b" ", b"\tHost: a"])
def test_the_first_line_is_not_folded(first: bytes) -> None:
    """Something in front of the first field would become a part of the version."""
    assert 400 == read(b"GET / HTTP/1.1\r\n" + first + b"\r\n\r\n").rejected


@pytest.mark.parametrize(
    "line",
    [
        b"GET /a\r\n HTTP/1.1",
        b"GET\r\n /a HTTP/1.1",
        b"GET /a HTTP/1.1\r\n ",
        b"CONNECT /a\r\n\tHTTP/1.1",
        b"\r\nGET /a\r\n HTTP/1.1",
    ],
)
def test_a_request_line_is_not_folded(line: bytes) -> None:
    """Proxies take its first part for a whole line, and nobody needs it."""
    assert read(line + b"\r\nHost: a\r\n\r\n").rejected in (400, 501, 505)
    assert read(get() + line + b"\r\nHost: a\r\n\r\n").rejected in (400, 501, 505)


def test_folded_framing_is_what_it_says_in_one_line() -> None:
    """There is no other reading of it for which bytes would be the body."""
    for line, body in (
        (b"Content-Length:\r\n 3", b"abc"),
        (b"Transfer-Encoding:\r\n\tchunked", b"3\r\nabc\r\n0\r\n\r\n"),
    ):
        first, second = requests_in(post(line, body=body) + get())
        assert (b"abc", b"/") == (first.body, second.target)
    assert 400 == read(post(b"Content-Length: 1\r\n 2", body=b"a" * 12)).rejected
    assert 501 == read(post(b"Transfer-Encoding: gzip,\r\n chunked")).rejected


def test_connect_may_have_a_path() -> None:
    """Daphne leaves it to the application, which mostly answers 405."""
    first, second, third = requests_in(
        b"CONNECT /a HTTP/1.1\r\nHost: a\r\n\r\n"
        b"CONNECT /b HTTP/1.1\r\nContent-Length: 2\r\n\r\nhi" + get()
    )
    assert ("CONNECT", b"/a") == (first.method, first.target)
    assert ("CONNECT", b"/b", b"hi") == (second.method, second.target, second.body)
    assert "GET" == third.method


@pytest.mark.parametrize(
    ("target", "status"), [(b"a:80", 501), (b"*", 501), (b"http://a/", 400)]
)
def test_connect_without_a_path_is_refused(target: bytes, status: int) -> None:
    """The server is no proxy; and what is no host and port is malformed."""
    assert status == read(b"CONNECT %b HTTP/1.1\r\nHost: a\r\n\r\n" % target).rejected


def test_connect_is_not_taken_for_what_stands_in_for_it() -> None:
    """Requests that are equal but for the method stay different, also when repeated."""
    connect, options = (
        b"%b /a HTTP/1.1\r\nHost: a\r\n\r\n" % method
        for method in (b"CONNECT", b"OPTIONS")
    )
    for order in ([connect, options], [options, connect]):
        for data in ([*order * 3], [order[0]] * 3 + [order[1]] * 3 + order):
            expected = [request.split(b" ")[0].decode() for request in data]
            outcome = lenient(data)
            assert expected == [request.method for request in outcome.requests]


def test_transfer_encoding_in_http_1_0_is_the_last_request() -> None:
    """It is answered, and nothing behind it is trusted (RFC 9112 section 6.1)."""
    outcome = read(
        b"POST / HTTP/1.0\r\n%b\r\n\r\n1\r\na\r\n0\r\n\r\n" % CHUNKED + get()
    )
    assert b"a" == outcome.requests[0].body
    assert not outcome.keep_alive
    assert 1 == len(outcome.requests)


# -- What is refused all the same ----------------------------------------------

LENIENCY = (
    *("two-hosts", "two-equal-hosts", "two-hosts-1.0", "no-host", "no-fields"),
    *("no-host-but-authority", "obs-fold", "obs-fold-tab"),
)


@pytest.mark.parametrize(
    "data",
    [data for name, data in GARBLED_HEADS.items() if name not in LENIENCY],
    ids=[name for name in GARBLED_HEADS if name not in LENIENCY],
)
def test_other_garbled_heads_are_refused(data: bytes) -> None:
    """Leniency ends with what Daphne's users rely on."""
    assert 400 == read(data).rejected


@pytest.mark.parametrize("name", LENIENCY)
def test_that_is_all_the_leniency(name: str) -> None:
    """The requests which are excepted above are accepted, no more."""
    assert None is read(GARBLED_HEADS[name]).rejected


@pytest.mark.parametrize("fields", GARBLED_FRAMING.values(), ids=GARBLED_FRAMING)
def test_ambiguous_framing_is_refused(fields: tuple[bytes, ...]) -> None:
    """What smuggles requests past a proxy is refused as ever."""
    outcome = read(post(*fields, body=b"5\r\nhello\r\n0\r\n\r\n"))

    # Older parsers leave an empty coding to us, who know none.
    assert outcome.rejected in (400, 501)


@pytest.mark.parametrize("coding", UNKNOWN_CODINGS)
def test_other_codings_are_refused(coding: bytes) -> None:
    """They are not implemented here either."""
    assert 501 == read(post(b"Transfer-Encoding: " + coding)).rejected


@pytest.mark.parametrize("body", GARBLED_CHUNKS.values(), ids=GARBLED_CHUNKS)
def test_garbled_chunks_are_refused(body: bytes) -> None:
    """So is a body whose end is not clear."""
    assert 400 == read(post(CHUNKED, body=body)).rejected


@pytest.mark.parametrize("byte", [0x0B, 0x0C, 0x1C, 0x1D, 0x1E, 0x85])
def test_characters_that_may_end_a_line_are_refused(byte: int) -> None:
    """Text-based parsers behind take them for line ends (CVE-2026-44546)."""
    assert 400 == read(get(b"X: innocent%cX-Admin: yes" % byte)).rejected


@pytest.mark.parametrize(
    ("data", "version"),
    [
        (b"GET /\xc3\xa4 HTTP/1.0\r\n\r\n", "1.0"),
        (b"GET /?\xc3\xa4 HTTP/1.0\r\n\r\n", "1.0"),
        (b"GET /\xc3\xa4 HTTP/1.1\r\n\r\n", "1.1"),
        (b"GET / HTTP/1.0\r\nA: b\r\nX: \x0b\r\n\r\n", "1.0"),
        (b"GET / HTTP/1.1\r\nA: b\r\nX: \x0b HTTP/1.0\r\n\r\n", "1.1"),
        (b"\x16\x03\x01", "1.1"),
    ],
)
def test_the_version_of_a_refused_request_is_known(data: bytes, version: str) -> None:
    """So that its answer can have the same."""
    reader = LenientRequestReader(HTTPSettings(), Sink())
    with pytest.raises(RequestRejected):
        reader.feed(data)

    assert version == reader.rejected_version


def test_the_version_is_known_of_a_head_in_pieces() -> None:
    """Where the first line has been read, it counts."""
    data = b"GET / HTTP/1.0\r\nA: b\r\nC: d\r\nX: \x0b\r\n\r\n"
    reader = LenientRequestReader(HTTPSettings(), Sink())
    with pytest.raises(RequestRejected):
        for at in range(len(data)):
            reader.feed(data[at : at + 1])

    assert "1.0" == reader.rejected_version


# -- Bodies, and what isn't a request ------------------------------------------

# What would be repaired, were it in a head.
FOLDED = b"a\r\n b\r\n\tCONNECT / HTTP/1.1\r\n\r\n c\r\n\r\n\r\n d"


@pytest.mark.parametrize("body", [FOLDED, FOLDED + b"\r", b"\r\n\r\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("chunks", [0, 1, 2])
def test_no_byte_of_a_body_is_changed(body: bytes, chunks: int) -> None:
    """Bodies are passed on as they are, and the heads behind them repaired."""
    fields, payload = b"Content-Length: %d" % len(body), body
    if chunks:
        cut = len(body) // chunks
        pieces = [piece for piece in (body[:cut], body[cut:]) if piece]
        fields = CHUNKED
        payload = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in pieces)
        payload += b"0\r\nX-Trailer: a\r\n\r\n"
    request = post(fields, body=payload)
    folded = get(b"A: b\r\n c")

    first, second, third = requests_in(request + folded + get())

    assert body == first.body
    assert [(b"host", b"a"), (b"a", b"b c")] == second.headers
    assert b"/" == third.target


def test_the_body_of_an_upgrade_is_not_changed() -> None:
    """An upgrade which isn't taken has a body like any other."""
    fields = (b"Upgrade: x", b"Connection: Upgrade", b"Content-Length: %d")
    request = post(*fields, body=FOLDED) % len(FOLDED)

    assert FOLDED == requests_in(request)[0].body


def test_what_follows_close_is_ignored() -> None:
    """Nothing is kept back or repaired of it."""
    for rest in (b"\r\n", b"CONNECT", b"x\r\n y", get() * 2):
        [request] = requests_in(get(b"Connection: close") + rest)
        assert b"/" == request.target


def test_the_bytes_of_a_websocket_are_not_changed() -> None:
    """What comes behind a handshake is handed over, all of it."""
    head = get(
        b"A:\r\n b",
        b"Upgrade: websocket",
        b"Connection: Upgrade",
        b"Sec-WebSocket-Key: a",
    )
    for rest in (b"", b"\r\n", b"\r\n\r\n\x81\r\n a", b"CONN"):
        sink = Sink()
        reader = LenientRequestReader(HTTPSettings(), sink)
        reader.feed(head[:40])
        reader.feed(head[40:] + rest)

        assert reader.upgraded
        assert rest == reader.rest
        assert (b"a", b"b") in sink.requests[0].headers


def test_http_2_is_recognized() -> None:
    """A client with prior knowledge is understood, however its bytes come."""

    def bytes_of(pieces: list[bytes]) -> bytes:
        reader = LenientRequestReader(HTTPSettings(), Sink())
        fed = b""
        for piece in pieces:
            fed += piece
            try:
                reader.feed(piece)
            except RequestRejected:
                assert fed == reader.http2
                return PREFACE
        return fed

    assert PREFACE == same_for_each_delivery(PREFACE, bytes_of)


def test_few_bytes_are_kept_back() -> None:
    """Nobody can fill the memory with what isn't judged yet."""
    for flood in (b"\r", b"\n", b"\r\n", b"\r\n\r", b" ", b"\r\n ", b"a", b"CONNECT"):
        reader = LenientRequestReader(HTTPSettings(), Sink())
        with pytest.raises(RequestRejected):
            for _ in range(100):
                reader.feed(flood * (16 * 1024 // len(flood)))
                assert len(reader._kept) < 9


# -- Everything else is as ever ------------------------------------------------

_LINES = st.sampled_from(
    [
        *(b"Host: a", b"Host:b", b"A: b", b"a_b: c", b"A:", b"A: b\r\n c", b"\tx"),
        *(b"Content-Length: 3", b"Content-Length: 0", CHUNKED, b"Connection: close"),
        *(b"Connection: keep-alive", b"Upgrade: x\r\nConnection: Upgrade", b"x", b" "),
    ]
)
_STARTS = st.sampled_from(
    [
        *(
            b"GET / HTTP/1.1",
            b"POST /a HTTP/1.1",
            b"GET / HTTP/1.0",
            b"OPTIONS * HTTP/1.1",
        ),
        *(b"CONNECT / HTTP/1.1", b"OPTIONS / HTTP/1.1", b"", b"GET", b"\x16\x03"),
    ]
)
_BODIES = st.sampled_from(
    [b"", b"abc", b"3\r\na\r\n\r\n0\r\n\r\n", b"1\r\n\r\r\n0\r\nA: b\r\n\r\n", b"\r\n "]
)
_MESSAGES = st.builds(
    lambda start, lines, body: b"\r\n".join([start, *lines, b"", body]),
    _STARTS,
    st.lists(_LINES, max_size=4),
    _BODIES,
)


@settings(deadline=None)
@given(st.lists(_MESSAGES, min_size=1, max_size=4).map(b"".join), st.data())
def test_what_is_accepted_anyway_is_read_alike(
    data: bytes, cuts: st.DataObject
) -> None:
    """Compat adds requests; it never reads one in another way."""
    places = cuts.draw(st.lists(st.integers(0, len(data)), max_size=6).map(sorted))
    pieces = [
        data[start:end]
        for start, end in zip([0, *places], [*places, len(data)], strict=True)
    ]
    strict, ours = outcome_of([data]), lenient(pieces)

    # As many as the strict reader accepts are the same, but for a complete body
    # behind which it finds a fault in the same message.
    for known, request in zip(strict.requests, ours.requests, strict=False):
        if known.ended:
            assert known == request
    if strict.rejected is None:
        assert strict == ours


@pytest.mark.parametrize("half", [b"C", b"\r\n", b"CONN"])
def test_a_request_behind_half_of_another_is_not_repeated(half: bytes) -> None:
    """Bytes that wait for the next ones come before those, whatever they are."""
    reader = LenientRequestReader(HTTPSettings(), Sink())
    for _ in range(2):
        reader.feed(get())
    assert get() == reader.repeated

    reader.feed(half)

    assert reader.repeated is None
