"""Tests of ``daphne_like.protocols.http1_reader``."""

from __future__ import annotations

import string
from math import inf
from typing import Any

import h11
import pytest
from httptools import HttpParserCallbackError
from hypothesis import example, given
from hypothesis import strategies as st
from request_reading import (
    GARBLED_CHUNKS,
    GARBLED_FRAMING,
    GARBLED_HEADS,
    UNKNOWN_CODINGS,
    Read,
    Sink,
    deliver,
    get,
    outcome_of,
    post,
    read,
    request_in,
)

from daphne_like.errors import RequestRejected
from daphne_like.protocols import http1_reader
from daphne_like.protocols.http1_reader import FEED_BYTES, RequestReader
from daphne_like.protocols.interfaces import RequestHead
from daphne_like.settings import HTTPSettings

# -- What is read --------------------------------------------------------------


def test_a_request_is_read_as_it_was_sent() -> None:
    """Names come in lower case, values as sent, in order, duplicates kept."""
    request = request_in(
        b"GET /a%20b?c=d&e HTTP/1.1\r\n"
        b"Host: example.org:8000\r\n"
        b"ACCEPT: text/html\r\n"
        b"Cookie: a=b\r\n"
        b"cookie: c=d\r\n"
        b"X-Empty:\r\n"
        b"X-Latin: caf\xe9\r\n"
        b"\r\n"
    )

    assert request == Read(
        "GET",
        b"/a%20b?c=d&e",
        "1.1",
        [
            (b"host", b"example.org:8000"),
            (b"accept", b"text/html"),
            (b"cookie", b"a=b"),
            (b"cookie", b"c=d"),
            (b"x-empty", b""),
            (b"x-latin", b"caf\xe9"),
        ],
        has_body=False,
        body=b"",
        ended=True,
    )


@pytest.mark.parametrize(
    "written", [b"v", b" v", b"v ", b" \t v \t ", b"\tv\t", b"v" + b" " * 300]
)
@pytest.mark.parametrize("name", [b"X-A", b"Host"])
def test_whitespace_around_a_value_is_no_part_of_it(
    name: bytes, written: bytes
) -> None:
    """RFC 9110 section 5.5: blanks and tabs around a value don't count."""
    data = b"GET / HTTP/1.1\r\n%b:%b\r\n" % (name, written)
    if name != b"Host":
        data += b"Host: a\r\n"

    assert (name.lower(), b"v") in request_in(data + b"\r\n").headers


@pytest.mark.parametrize("size", [1, 64, 65, 3000])
def test_names_of_any_size_are_read_alike_again_and_again(size: int) -> None:
    """A name that was seen before means the same as one that wasn't."""
    name = b"X" + b"y" * (size - 1)
    outcome = outcome_of([get(name + b": 1"), get(name + b": 1 "), get(b"A: b")] * 2)

    expected = [(b"host", b"a"), (name.lower(), b"1")]
    assert [expected, expected] == [r.headers for r in outcome.requests[:2]]
    assert outcome.requests[:3] == outcome.requests[3:]


def test_made_up_names_fill_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attacker's names are read, but not all of them are remembered."""
    names = http1_reader._PLAIN_NAMES.copy()
    monkeypatch.setattr(http1_reader, "_PLAIN_NAMES", names)
    for number in range(3000):
        request = outcome_of([get(b"X-Made-Up-%d: 1" % number)]).requests[0]

        assert (b"x-made-up-%d" % number, b"1") == request.headers[1]
    outcome_of([get(b"X" * 3000 + b": 1")])

    assert len(names) <= 1024
    assert max(map(len, names)) <= 64


def test_whitespace_within_a_value_is_kept() -> None:
    """Only the ends of a value are trimmed."""
    assert (b"x-a", b"b \t c") in request_in(get(b"X-A: b \t c ")).headers


@pytest.mark.parametrize(
    "method",
    ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"],
)
def test_known_methods_are_passed_on(method: str) -> None:
    """The application decides which methods it allows."""
    request = request_in(method.encode() + b" / HTTP/1.1\r\nHost: a\r\n\r\n")

    assert method == request.method
    assert not request.has_body


@pytest.mark.parametrize(
    ("fields", "body", "expected"),
    [
        ([b"Content-Length: 5"], b"hello", b"hello"),
        ([b"content-length: 005"], b"hello", b"hello"),
        ([b"Content-Length: 5 "], b"hello", b"hello"),
        ([b"Transfer-Encoding: chunked"], b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
        ([b"Transfer-Encoding: CHUNKED "], b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
        (
            [b"Transfer-Encoding: chunked"],
            b'2;a=b\r\nhe\r\n03;c="d"\r\nllo\r\n00\r\nX-T: 1\r\nX-T_U: 2\r\n\r\n',
            b"hello",
        ),
        ([b"Transfer-Encoding: chunked"], b"0\r\n\r\n", b""),
        (
            [b"Transfer-Encoding: chunked"],
            b"A\r\n0123456789\r\n0\r\n\r\n",
            b"0123456789",
        ),
    ],
)
def test_a_body_is_passed_on_without_its_framing(
    fields: list[bytes], body: bytes, expected: bytes
) -> None:
    """Chunk sizes, extensions and trailers don't reach the application."""
    request = request_in(post(*fields, body=body))

    assert request.has_body
    assert request.ended
    assert expected == request.body
    assert not any(name == b"x-t" for name, _ in request.headers)


def test_a_length_of_zero_is_no_body() -> None:
    """`Content-Length: 0` leaves nothing to wait for."""
    request = request_in(post(b"Content-Length: 0"))

    assert not request.has_body


def test_a_get_may_have_a_body() -> None:
    """The framing tells whether there is a body, the method doesn't."""
    assert b"hello" == request_in(get(b"Content-Length: 5") + b"hello").body


def test_requests_follow_each_other() -> None:
    """What is behind a request is the next one, with or without blank lines."""
    outcome = read(
        get(target=b"/1")
        + post(b"Content-Length: 2", body=b"ab")
        + b"\r\n"
        + post(b"Transfer-Encoding: chunked", body=b"1\r\nc\r\n0\r\n\r\n")
        + b"\r\n\r\n"
        + get(target=b"/4")
    )

    assert None is outcome.rejected
    assert outcome.keep_alive
    assert [b"/1", b"/", b"/", b"/4"] == [r.target for r in outcome.requests]
    assert [b"", b"ab", b"c", b""] == [r.body for r in outcome.requests]


@pytest.mark.parametrize("blank", [b"\r\n", b"\r\n\r\n", b"\n"])
def test_blank_lines_before_a_request_are_skipped(blank: bytes) -> None:
    """RFC 9112 section 2.2: some clients send a line break too many."""
    assert b"/" == request_in(blank + get()).target


def test_a_head_in_progress_is_told_from_none() -> None:
    """A connection on which half a head came can be answered with a 408."""
    reader = RequestReader(HTTPSettings(), Sink())

    for piece, begins, begun in (
        (b"\r\n", False, False),
        (b"GE", True, True),
        (b"T / HTTP/1.1\r\nHo", False, True),
        (b"st: a\r\n\r\n", False, False),
        (get() + get()[:-1], True, True),
        (b"\n" + post(b"Content-Length: 9"), False, False),
        (b"hel", False, False),
    ):
        assert begins == reader.feed(piece)
        assert begun == reader.head_begun


def test_the_rest_of_a_body_is_known_where_it_can_be() -> None:
    """Whether a body is worth reading to the end depends on what is to come."""
    reader = RequestReader(HTTPSettings(), Sink())

    assert 0 == reader.remaining_body_bytes

    reader.feed(post(b"Content-Length: 9"))

    assert 9 == reader.remaining_body_bytes

    reader.feed(b"hello")

    assert 4 == reader.remaining_body_bytes

    reader.feed(b"you!" + post(b"Transfer-Encoding: chunked"))

    assert inf == reader.remaining_body_bytes

    reader.feed(b"1\r\na\r\n0\r\n\r\n")

    assert 0 == reader.remaining_body_bytes


def test_what_a_client_expects_is_noted() -> None:
    """`Expect: 100-continue` and `TE: trailers` change how a request is answered."""
    sink = Sink()
    reader = RequestReader(HTTPSettings(), sink)
    for fields in (
        (b"Expect: 100-Continue ", b"TE: gzip;q=0.5, Trailers"),
        (b"Expect: something",),
        (b"TE: trailers", b"TE: gzip"),
        (b"TE: trailers;q=0.5",),
        (),
    ):
        reader.feed(post(*fields, b"Content-Length: 1", body=b"x"))

    assert [True, False, False, False, False] == [
        head.expects_continue for head in sink.heads
    ]
    assert [True, False, True, False, False] == [
        head.accepts_trailers for head in sink.heads
    ]


# -- Target and Host -----------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "reduced"),
    [
        (b"http://b/c?d", b"/c?d"),
        (b"HTTPS://b:8443/c", b"/c"),
        (b"http://b", b"/"),
        (b"http://b?d=/e", b"/?d=/e"),
        (b"http://[::1]:80/c", b"/c"),
    ],
)
def test_a_whole_url_as_target_is_reduced(target: bytes, reduced: bytes) -> None:
    """RFC 9112 section 3.2.2: a server accepts it, and its authority replaces Host."""
    request = request_in(get(b"X-A: 1", target=target, host=b"other"))

    authority = target.split(b"/")[2].partition(b"?")[0]
    assert reduced == request.target
    assert [(b"host", authority), (b"x-a", b"1")] == request.headers


@pytest.mark.parametrize(
    "target",
    [
        b"*",
        b"/a#b",
        b"/#",
        b"http://b/#c",
        b"foo",
        b"a.b:80",
        b"http://",
        b"http:///a",
        b"http://:80/a",
        b"http://u@b/",
        b"http://u:p@b/",
        b"http://b:1x/",
        b"http://b:123456/",
        b"ftp://b/",
        b"/a b",
        b"/\x01",
        b"/\x7f",
        b"/\xc3\xa4",
        b"\\a",
    ],
)
def test_a_target_which_is_none_is_refused(target: bytes) -> None:
    """A fragment, `*` without OPTIONS, user names or nonsense are answered by 400."""
    assert 400 == read(get(target=target)).rejected


@pytest.mark.parametrize("target", [b"*", b"/", b"/a?b", b"http://a/b"])
def test_options_may_ask_for_the_whole_server(target: bytes) -> None:
    """`OPTIONS *` reaches the application."""
    request = request_in(b"OPTIONS %b HTTP/1.1\r\nHost: a\r\n\r\n" % target)

    assert target.removeprefix(b"http://a") == request.target


@pytest.mark.parametrize("target", [b"/", b"//a/b", b"/a//b", b"/%00", b"/?", b"/*"])
def test_a_path_is_passed_on_untouched(target: bytes) -> None:
    """No normalization happens which a proxy in front might not have done."""
    assert target == request_in(get(target=target)).target


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b"example.org",
        b"example.org:80",
        b"example.org:",
        b"EXAMPLE.org.",
        b"127.0.0.1:8000",
        b"[::1]",
        b"[2001:db8::1]:443",
        b"[v1.fe80]",
        b"caf%C3%A9.example",
        b"a_b",
        b"a,b",
    ],
)
def test_a_host_by_the_grammar_is_accepted(host: bytes) -> None:
    """RFC 3986: names, addresses, brackets, escapes; empty where there is none."""
    assert [(b"host", host)] == request_in(get(host=host)).headers


@pytest.mark.parametrize(
    "host",
    [
        b"a b",
        b"a/b",
        b"u@a",
        b"a:b",
        b"a:123456",
        b"::1",
        b"[::1",
        b"[::1]x",
        b"a%",
        b"a%zz",
        b"a?b",
        b"a#b",
        b"a\\b",
        b"caf\xe9",
        b'a"b',
        b"a\tb",
        b"<a>",
    ],
)
def test_a_malformed_host_is_refused(host: bytes) -> None:
    """What isn't host and port has been used to reach other hosts: 400."""
    assert 400 == read(get(host=host)).rejected


# -- What is refused -----------------------------------------------------------


@pytest.mark.parametrize("data", GARBLED_HEADS.values(), ids=GARBLED_HEADS)
def test_a_garbled_head_is_refused(data: bytes) -> None:
    """What two parsers may read in two ways is answered with 400."""
    outcome = read(data)

    assert 400 == outcome.rejected
    assert [] == outcome.requests


@pytest.mark.parametrize("name", GARBLED_FRAMING)
def test_ambiguous_framing_is_refused(name: str) -> None:
    """RFC 9112 section 6.3: what leaves the end of a message open is answered by 400."""
    outcome = read(post(*GARBLED_FRAMING[name], body=b"0\r\n\r\n"))

    # Older parsers leave an empty coding to us, who know none.
    refusals = {400, 501} if "empty" in name else {400}
    assert outcome.rejected in refusals
    assert [] == outcome.requests


@pytest.mark.parametrize("coding", UNKNOWN_CODINGS)
def test_other_codings_than_chunked_are_not_implemented(coding: bytes) -> None:
    """RFC 9112 section 6.1: 501, since the application couldn't read such a body."""
    outcome = read(post(b"Transfer-Encoding: " + coding, body=b"0\r\n\r\n"))

    assert 501 == outcome.rejected
    assert [] == outcome.requests


@pytest.mark.parametrize("body", GARBLED_CHUNKS.values(), ids=GARBLED_CHUNKS)
def test_garbled_chunks_are_refused(body: bytes) -> None:
    """Chunks are read to the letter, so that nothing hides in them."""
    outcome = read(post(b"Transfer-Encoding: chunked", body=body))

    assert 400 == outcome.rejected
    assert [False] == [request.ended for request in outcome.requests]


@pytest.mark.parametrize(
    "line",
    [
        b"GET / HTTP/2.0",
        b"GET / HTTP/0.9",
        b"GET / HTTP/1.2",
        b"GET / HTTP/3.0",
        b"GET / HTTP/9.9",
        b"GET /",
    ],
)
def test_other_versions_are_refused(line: bytes) -> None:
    """RFC 9110 section 15.6.6: 505 to any version but 1.0 and 1.1."""
    outcome = read(line + b"\r\nHost: a\r\nConnection: keep-alive\r\n\r\n")

    assert 505 == outcome.rejected
    assert [] == outcome.requests


def test_http_2_without_an_agreement_is_refused() -> None:
    """A client that speaks HTTP/2 at once learns that this is HTTP/1."""
    outcome = read(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9))

    assert 505 == outcome.rejected
    assert [] == outcome.requests


@pytest.mark.parametrize(
    "method",
    [b"FOO", b"get", b"GETT", b"G", b"DESCRIBE", b"PLAY", b"PROXY", b"!#$%&'*+-.^_`|~"],
)
def test_methods_which_the_parser_does_not_know_are_not_implemented(
    method: bytes,
) -> None:
    """RFC 9110 section 9.1: 501 to a method the server doesn't recognize."""
    assert 501 == read(method + b" / HTTP/1.1\r\nHost: a\r\n\r\n").rejected


def test_connect_is_not_implemented() -> None:
    """This server is no tunnel."""
    assert 501 == read(b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\nabc").rejected


def test_the_target_of_connect_is_an_authority() -> None:
    """What has a path is malformed, whatever it is for."""
    assert 400 == read(b"CONNECT /a HTTP/1.1\r\nHost: a:80\r\n\r\nabc").rejected


def test_a_fault_behind_a_request_leaves_the_request() -> None:
    """The requests before a fault are told of, and only then the fault."""
    outcome = read(get(target=b"/1") + get(target=b"/2") + b"\x00")

    assert [b"/1", b"/2"] == [request.target for request in outcome.requests]
    assert outcome.rejected is not None


def test_a_rejection_is_told_even_while_another_error_is_handled() -> None:
    """
    An application that sends in an `except` block may be what reads on.

    The parser tells of our own exceptions by `__context__`, which the block's
    exception would take the place of.
    """
    reader = RequestReader(HTTPSettings(), Sink())
    try:
        raise KeyError("the application's own")
    except KeyError:
        with pytest.raises(RequestRejected) as caught:
            reader.feed(b"GET / HTTP/1.1\r\n\r\n")

    assert 400 == caught.value.status


def test_a_fault_of_the_sink_is_not_the_peers() -> None:
    """An error of our own is raised, whatever the request looked like."""

    class Broken(Sink):
        def request_received(self, head: RequestHead) -> None:
            raise KeyError("a fault of ours")

    for data in (get(), get(b"Connection: close")):
        with pytest.raises(HttpParserCallbackError):
            RequestReader(HTTPSettings(), Broken()).feed(data)


def test_texts_for_the_peer_hold_nothing_of_what_it_sent() -> None:
    """An error page can't be made to say what an attacker wants (CWE-79)."""
    for data in (b"<script>", get(b"<x>: y"), get(host=b"<b>"), get(target=b"/<#>")):
        assert "<" not in read(data).detail


# -- Which versions and fields keep the connection ------------------------------


@pytest.mark.parametrize(
    ("line", "field", "keeps"),
    [
        (b"GET / HTTP/1.1", b"X: a", True),
        (b"GET / HTTP/1.1", b"Connection: keep-alive", True),
        (b"GET / HTTP/1.1", b"Connection: close", False),
        (b"GET / HTTP/1.1", b"Connection: foo, CLOSE", False),
        (b"GET / HTTP/1.0", b"X: a", False),
        (b"GET / HTTP/1.0", b"Connection: keep-alive", True),
        (b"GET / HTTP/1.0", b"Connection: close", False),
    ],
)
def test_the_head_tells_whether_the_connection_is_kept(
    line: bytes, field: bytes, keeps: bool
) -> None:
    """1.1 stays open unless told otherwise, 1.0 closes unless told otherwise."""
    outcome = read(line + b"\r\nHost: a\r\n" + field + b"\r\n\r\n")

    assert None is outcome.rejected
    assert keeps == outcome.keep_alive


def test_http_1_0_needs_no_host() -> None:
    """Health checks of old load balancers send no Host."""
    request = request_in(b"GET / HTTP/1.0\r\n\r\n")

    assert "1.0" == request.http_version
    assert [] == request.headers


def test_http_1_0_is_never_asked_to_continue() -> None:
    """RFC 9110 section 10.1.1: Expect in an HTTP/1.0 request is ignored."""
    sink = Sink()
    RequestReader(HTTPSettings(), sink).feed(
        b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n"
    )

    assert not sink.heads[0].expects_continue


@pytest.mark.parametrize("rest", [b"", b"\r\n", b"x", b"\x00", get(), get() * 3, b"GE"])
@pytest.mark.parametrize(
    "last",
    [
        get(b"Connection: close"),
        post(b"Connection: close", b"Content-Length: 2", body=b"ab"),
        post(
            b"Connection: close",
            b"Transfer-Encoding: chunked",
            body=b"2\r\nab\r\n0\r\n\r\n",
        ),
        b"GET / HTTP/1.0\r\n\r\n",
    ],
    ids=["get", "length", "chunked", "1.0"],
)
def test_what_follows_close_is_ignored(last: bytes, rest: bytes) -> None:
    """RFC 9112 section 9.6: bytes behind the last request are no request."""
    outcome = read(last + rest)

    assert None is outcome.rejected
    assert not outcome.keep_alive
    [request] = outcome.requests
    assert request.ended


@pytest.mark.parametrize(
    "rest", [b"", b"x", get(), post(b"Content-Length: 1"), b"\x00"]
)
@pytest.mark.parametrize("field", [b"X: a", b"Connection: keep-alive"])
def test_chunked_in_http_1_0_is_the_last_request(field: bytes, rest: bytes) -> None:
    """RFC 9112 section 6.1: its framing is suspect, so the connection ends with it."""
    body = b"2\r\nab\r\n0\r\n\r\n"
    head = b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
    outcome = read(head + field + b"\r\n\r\n" + body + rest, limit_request_body=2)

    assert None is outcome.rejected
    assert not outcome.keep_alive
    assert [b"ab"] == [request.body for request in outcome.requests]


# -- Upgrades ------------------------------------------------------------------

UPGRADE = (
    b"Connection: Upgrade, HTTP2-Settings",
    b"Upgrade: h2c",
    b"HTTP2-Settings: x",
)


def test_an_upgrade_that_is_not_taken_changes_nothing() -> None:
    """RFC 9110 section 7.8: the request is served, and so are those behind it."""
    outcome = read(
        get(*UPGRADE) + get(target=b"/2") + get(*UPGRADE) + get(target=b"/4")
    )

    assert None is outcome.rejected
    assert outcome.keep_alive
    assert [b"/", b"/2", b"/", b"/4"] == [r.target for r in outcome.requests]


def test_many_upgrades_in_one_read_are_as_good_as_one() -> None:
    """A flood of pipelined upgrades doesn't exhaust the interpreter's stack."""
    count = FEED_BYTES // len(get(*UPGRADE[:2]))
    outcome = outcome_of([get(*UPGRADE[:2]) * count])

    assert None is outcome.rejected
    assert count == len(outcome.requests)


@pytest.mark.parametrize(
    ("framing", "written"),
    [
        (b"Content-Length: 5", b"hello"),
        (b"Transfer-Encoding: chunked", b"2\r\nhe\r\n3\r\nllo\r\n0\r\nX: y\r\n\r\n"),
    ],
    ids=["length", "chunked"],
)
@pytest.mark.parametrize(
    "rest", [b"", get(), b"x", post(b"Content-Length: 9", body=b"too large")]
)
def test_the_body_of_an_upgrade_is_no_request(
    framing: bytes, written: bytes, rest: bytes
) -> None:
    """A body behind `Upgrade` is read as a body, and nothing behind it is trusted."""
    outcome = read(post(*UPGRADE, framing, body=written + rest), limit_request_body=5)

    assert None is outcome.rejected
    assert not outcome.keep_alive
    [request] = outcome.requests
    assert b"hello" == request.body
    assert request.ended


def test_a_request_as_the_body_of_an_upgrade_stays_a_body() -> None:
    """An upgrade can't smuggle a request past the checks of a proxy."""
    smuggled = get(target=b"/admin")
    size = b"Content-Length: %d" % len(smuggled)

    assert smuggled == request_in(post(*UPGRADE, size, body=smuggled)).body


def test_an_upgrade_ends_the_connection_only_with_a_body() -> None:
    """The sink learns in time that a request is the last one."""
    seen: list[bool] = []

    class Watching(Sink):
        def request_received(self, head: RequestHead) -> None:
            seen.append(reader.keep_alive)
            super().request_received(head)

    reader = RequestReader(HTTPSettings(), Watching())
    reader.feed(get(*UPGRADE))
    reader.feed(post(*UPGRADE, b"Content-Length: 5", body=b"hello"))

    assert [True, False] == seen


@pytest.mark.parametrize("body", GARBLED_CHUNKS.values(), ids=GARBLED_CHUNKS)
def test_garbled_chunks_behind_an_upgrade_are_refused(body: bytes) -> None:
    """The body of an upgrade is read as strictly as any other."""
    data = post(*UPGRADE, b"Transfer-Encoding: chunked", body=body)

    assert 400 == read(data).rejected


# -- Names with an underscore ----------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "status", "names"),
    [
        ("drop", None, [b"host", b"x-b"]),
        ("keep", None, [b"host", b"x_a", b"x-b"]),
        ("reject", 400, []),
    ],
)
def test_underscores_in_names_are_handled_as_told(
    policy: str, status: int | None, names: list[bytes]
) -> None:
    """Frameworks fold `_` and `-`: by default such fields are dropped (CVE-2015-0219)."""
    outcome = read(get(b"X_A: 1", b"X-B: 2"), header_underscores=policy)

    assert status == outcome.rejected
    found = [name for request in outcome.requests for name, _ in request.headers]
    assert names == found


# -- Limits --------------------------------------------------------------------


def fields_of(count: int, total_bytes: int) -> list[bytes]:
    """Write ``count`` fields which take ``total_bytes`` as the limit counts them."""
    size, more = divmod(total_bytes, count)
    return [
        b"x%d: %b" % (n, b"v" * (size + (more if n == 0 else 0) - 5 - len(str(n))))
        for n in range(count)
    ]


# One small, one that a single read may hold, one that needs several reads.
@pytest.mark.parametrize("limit", [300, FEED_BYTES, 2 * FEED_BYTES, 65536])
@pytest.mark.parametrize("count", [1, 7])
def test_the_fields_of_a_head_are_limited_in_bytes(limit: int, count: int) -> None:
    """`limit_request_header` bytes pass, one more is answered with 431."""
    host_bytes = len(b"Host: a\r\n")
    fits = get(*fields_of(count, limit - host_bytes))
    exceeds = get(*fields_of(count, limit - host_bytes + 1))

    assert None is read(fits, limit_request_header=limit).rejected
    assert 431 == read(exceeds, limit_request_header=limit).rejected


@pytest.mark.parametrize("written", [b"x:v", b"x:     v", b"x: v     "])
def test_the_bytes_of_fields_do_not_depend_on_blanks(written: bytes) -> None:
    """A field counts with one blank, however many it has."""
    limit = len(b"Host: a\r\n") + 10 * len(b"x: v\r\n")

    assert None is read(get(*[written] * 10), limit_request_header=limit).rejected
    assert 431 == read(get(*[written] * 11), limit_request_header=limit).rejected


def test_small_fields_count_alike_in_one_read_and_in_many() -> None:
    """A head within one read can exceed the limit, too, if barely."""
    limits = {"limit_request_header": FEED_BYTES, "limit_request_fields": 0}
    most = (FEED_BYTES - len(b"Host: a\r\n")) // len(b"x: v\r\n")

    assert len(get(*[b"x:v"] * (most + 1))) < FEED_BYTES
    assert None is read(get(*[b"x:v"] * most), **limits).rejected
    assert 431 == read(get(*[b"x:v"] * (most + 1)), **limits).rejected


@pytest.mark.parametrize(
    ("fits", "exceeds", "status"),
    [
        (get(*[b"x: v"] * 9), get(*[b"x: v"] * 10), 431),
        (get(*[b"x_: v"] * 9), get(*[b"x_: v"] * 10), 431),
        (get(b"x: " + b"v" * 186), get(b"x: " + b"v" * 187), 431),
        (get(b"x_: " + b"v" * 185), get(b"x_: " + b"v" * 186), 431),
        (get(target=b"/" + b"a" * 49), get(target=b"/" + b"a" * 50), 414),
    ],
    ids=["number", "dropped-number", "bytes", "dropped-bytes", "target"],
)
def test_each_head_is_measured_by_itself(
    fits: bytes, exceeds: bytes, status: int
) -> None:
    """What came before neither adds to a head nor hides a part of it."""
    limits = {
        "limit_request_fields": 10,
        "limit_request_header": 200,
        "limit_request_line": 50,
    }
    outcome = read(fits * 3 + exceeds, **limits)

    assert 3 == len(outcome.requests)
    assert status == outcome.rejected


@pytest.mark.parametrize("name", [b"x-a", b"x_a"], ids=["kept", "dropped"])
@pytest.mark.parametrize("limit", [1, 5, 100])
def test_the_fields_of_a_head_are_limited_in_number(limit: int, name: bytes) -> None:
    """`limit_request_fields` pass, one more is answered with 431, dropped or not."""
    field = name + b": b"

    assert (
        None is read(get(*[field] * (limit - 1)), limit_request_fields=limit).rejected
    )
    assert 431 == read(get(*[field] * limit), limit_request_fields=limit).rejected


@pytest.mark.parametrize("limit", [20, 8190, 20000])
@pytest.mark.parametrize("form", [b"/%b", b"/a?%b", b"http://a/%b"])
def test_the_target_is_limited(limit: int, form: bytes) -> None:
    """`limit_request_line` bytes pass, one more is answered with 414."""
    size = limit - len(form) + len(b"%b")
    fits, exceeds = (get(target=form % (b"a" * n)) for n in (size, size + 1))
    for header in (200, 65536):
        limits = {"limit_request_line": limit, "limit_request_header": header}

        assert None is read(fits, **limits).rejected
        assert 414 == read(exceeds, **limits).rejected


@pytest.mark.parametrize("limit", [1, 5, 70_000])
def test_an_announced_body_is_limited(limit: int) -> None:
    """`limit_request_body` bytes pass; one more is answered with 413, before any came."""
    fits = post(b"Content-Length: %d" % limit, body=b"x" * limit)
    exceeds = post(b"Content-Length: %d" % (limit + 1))

    assert limit == len(request_in(fits, limit_request_body=limit).body)

    outcome = read(exceeds, limit_request_body=limit)

    assert 413 == outcome.rejected
    assert [] == outcome.requests


@pytest.mark.parametrize("limit", [1, 5, 300])
def test_a_chunked_body_is_limited(limit: int) -> None:
    """A body which announces no length is counted: 413 at one byte too many."""
    chunked = b"Transfer-Encoding: chunked"
    fits = post(chunked, body=b"1\r\nx\r\n" * limit + b"0\r\n\r\n")
    exceeds = post(chunked, body=b"1\r\nx\r\n" * (limit + 1))

    assert limit == len(request_in(fits, limit_request_body=limit).body)
    assert 413 == read(exceeds, limit_request_body=limit).rejected


def test_no_limit_is_zero() -> None:
    """0 switches a limit off."""
    fields = [b"x%d: %b" % (n, b"v" * 90) for n in range(1000)]
    outcome = outcome_of(
        [get(*fields, target=b"/" + b"a" * 100_000)],
        limit_request_line=0,
        limit_request_header=0,
        limit_request_fields=0,
    )

    assert None is outcome.rejected
    assert 1001 == len(outcome.requests[0].headers)


def test_limits_hold_for_each_request_anew() -> None:
    """A connection may carry any number of requests of a permitted size."""
    limits: dict[str, Any] = {
        "limit_request_header": 1000,
        "limit_request_fields": 3,
        "limit_request_body": 10,
        "limit_request_line": 20,
    }
    messages = get(*fields_of(2, 900)) + post(b"Content-Length: 10", body=b"x" * 10)
    chunked = post(b"Transfer-Encoding: chunked", body=b"A\r\n0123456789\r\n0\r\n\r\n")
    data = (messages + chunked + b"\r\n") * 20

    for size in (1, 7, 400, len(data)):
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        outcome = outcome_of(pieces, **limits)

        assert None is outcome.rejected
        assert 60 == len(outcome.requests)


# -- Attacks -------------------------------------------------------------------


def bytes_taken(head: bytes, flood: bytes, feed: int = FEED_BYTES) -> tuple[int, int]:
    """Feed ``head`` and then ``flood`` again and again; tell how much was taken."""
    reader = RequestReader(HTTPSettings(), Sink())
    if head:
        reader.feed(head)
    flood *= max(1, feed // len(flood))
    for taken in range(0, 200_000, len(flood)):
        try:
            reader.feed(flood)
        except RequestRejected as rejection:
            return rejection.status, taken
    raise AssertionError("a flood without an end was taken")


CHUNKED = post(b"Transfer-Encoding: chunked")


@pytest.mark.parametrize("feed", [FEED_BYTES, 1000, 64])
@pytest.mark.parametrize(
    ("head", "flood", "status", "most"),
    [
        pytest.param(b"GET /", b"a", 414, 8190, id="target"),
        pytest.param(get()[:-2] + b"X: ", b"a", 431, 65536, id="value"),
        pytest.param(get()[:-2] + b"X: ", b" ", 431, 65536, id="blanks"),
        pytest.param(get()[:-2], b"a", 431, 65536, id="name"),
        pytest.param(get()[:-2], b"a: b\r\n", 431, 65536, id="fields"),
        pytest.param(get()[:-2], b"a_: b\r\n", 431, 65536, id="dropped-fields"),
        pytest.param(b"", b"\r\n", 431, 65536, id="blank-lines"),
        pytest.param(get(), b"\r\n", 431, 65536, id="blank-lines-between"),
        pytest.param(CHUNKED + b"5;", b"a", 400, 16384, id="chunk-extension"),
        pytest.param(CHUNKED + b"5;", b"a=b;", 400, 16384, id="chunk-extensions"),
        pytest.param(CHUNKED + b"0", b"0", 400, 16384, id="chunk-size"),
        pytest.param(CHUNKED + b"0\r\n", b"a: b\r\n", 400, 16384, id="trailers"),
        pytest.param(CHUNKED + b"0\r\nX: ", b"a", 400, 16384, id="trailer"),
        pytest.param(
            CHUNKED, b"1;%b\r\nx\r\n" % (b"a" * 54), 400, 40000, id="extension-each"
        ),
    ],
)
def test_nothing_can_be_sent_without_end(
    head: bytes, flood: bytes, status: int, most: int, feed: int
) -> None:
    """Whatever goes on and on is refused, at its limit and at most two reads more."""
    rejected, taken = bytes_taken(head, flood, feed)

    assert status == rejected
    assert taken <= most + 2 * FEED_BYTES


def test_a_body_in_chunks_of_one_byte_is_taken() -> None:
    """Tiny chunks are wasteful, not an attack."""
    body = b"1\r\nx\r\n" * 20_000 + b"0\r\n\r\n"
    for size in (1000, FEED_BYTES):
        data = post(b"Transfer-Encoding: chunked", body=body)
        outcome = outcome_of([data[at : at + size] for at in range(0, len(data), size)])

        assert None is outcome.rejected
        assert 20_000 == len(outcome.requests[0].body)


@pytest.mark.parametrize("extension", [1000, 10_000])
def test_a_chunk_extension_of_some_size_is_taken(extension: int) -> None:
    """Extensions are ignored, as long as they aren't most of the message."""
    body = b"5;%b\r\nhello\r\n0\r\n\r\n" % (b"a" * extension)

    assert b"hello" == request_in(post(b"Transfer-Encoding: chunked", body=body)).body


@pytest.mark.parametrize(
    "before",
    [
        get() * ((FEED_BYTES - len(CHUNKED)) // len(get())) + CHUNKED,
        CHUNKED[:-2] + b"X: " + b"y" * (FEED_BYTES - len(CHUNKED) - 5) + b"\r\n\r\n",
    ],
    ids=["requests", "head"],
)
def test_what_came_before_a_body_does_not_count_as_its_framing(before: bytes) -> None:
    """A body behind many bytes in one read isn't taken for an attack."""
    assert FEED_BYTES - 30 < len(before) <= FEED_BYTES
    body = b"5;%b\r\nhello\r\n0\r\n\r\n" % (b"a" * 1000)
    outcome = outcome_of([before, body[:900], body[900:]])

    assert None is outcome.rejected
    assert b"hello" == outcome.requests[-1].body


def test_a_chunk_extension_of_64_kb_is_refused() -> None:
    """An extension is no way to send bytes past the limit for bodies."""
    body = b"5;%b\r\nhello\r\n0\r\n\r\n" % (b"a" * 64 * 1024)

    assert 400 == read(post(b"Transfer-Encoding: chunked", body=body)).rejected


def test_line_breaks_between_requests_do_not_add_up() -> None:
    """A client that ends each request with a line break too many is served on."""
    sink = Sink()
    reader = RequestReader(HTTPSettings(limit_request_header=100), sink)
    for _ in range(10_000):
        reader.feed(get())
        reader.feed(b"\r\n" * 5)

    assert 10_000 == len(sink.requests)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        pytest.param(get(target=b"/" + b"a" * 1_000_000), 414, id="1-MB-target"),
        pytest.param(get(b"X: " + b"a" * 100_000), 431, id="100-kB-header"),
        pytest.param(get(b"X: " + b"a" * 1_000_000), 431, id="1-MB-header"),
        pytest.param(get(*[b"X: a"] * 2000), 431, id="2000-headers"),
        pytest.param(get(*[b"X: a"] * 10_000), 431, id="10000-headers"),
        pytest.param(get(*[b"a:"] * 4000), 431, id="4000-headers-in-one-read"),
        pytest.param(
            post(b"Transfer-Encoding: chunked", body=b"0\r\n" + b"X: a\r\n" * 9000),
            400,
            id="9000-trailers",
        ),
    ],
)
def test_oversized_heads_are_refused(data: bytes, status: int) -> None:
    """Each size that others take without a limit has one here."""
    whole = outcome_of([data])
    in_bytes = outcome_of(data[at : at + 1] for at in range(len(data)))

    assert status == whole.rejected
    assert status == in_bytes.rejected


# -- The same bytes again and again ----------------------------------------------


@pytest.mark.parametrize("fields", [(), (b"X-A: b",), (b"Connection: keep-alive",)])
def test_repeated_requests_are_requests_each(fields: tuple[bytes, ...]) -> None:
    """A client that asks for the same again and again is answered each time."""
    sink = Sink()
    reader = RequestReader(HTTPSettings(), sink)
    for _ in range(6):
        assert not deliver(reader, sink, get(*fields))
        assert reader.keep_alive
        assert not reader.head_begun

    assert 6 == len(sink.requests)
    assert [request_in(get(*fields))] * 6 == sink.requests


def test_a_head_that_may_change_is_nobody_elses() -> None:
    """A client that waits to be asked is asked each time."""
    sink = Sink()
    reader = RequestReader(HTTPSettings(), sink)
    expects = []
    for _ in range(6):
        deliver(
            reader, sink, post(b"Expect: 100-continue", b"Content-Length: 1", body=b"x")
        )
        expects.append(sink.heads[-1].expects_continue)
        sink.heads[-1].expects_continue = False

    assert [True] * 6 == expects


def test_a_repeated_request_still_begins_at_its_beginning() -> None:
    """The bytes of a request mean something else in the middle of another one."""
    data = get()
    inner = post(b"Content-Length: %d" % (2 * len(data)))
    sink = Sink()
    reader = RequestReader(HTTPSettings(), sink)
    for piece in (data, data, data, inner, data, data, data, data):
        deliver(reader, sink, piece)

    assert ["GET"] * 3 + ["POST"] + ["GET"] * 2 == [r.method for r in sink.requests]
    assert data * 2 == sink.requests[3].body


def test_a_repeated_request_is_no_field_of_another() -> None:
    """Repeated bytes behind half a head belong to that head."""
    sink = Sink()
    reader = RequestReader(HTTPSettings(), sink)
    for piece in (get(), get(), get(), b"GET /x HTTP/1.1\r\nX: ", get(), get()):
        deliver(reader, sink, piece)

    assert [b"/"] * 3 + [b"/x", b"/"] == [r.target for r in sink.requests]
    assert (b"x", b"GET / HTTP/1.1") == sink.requests[3].headers[0]


T = b"T / HTTP/1.1\r\nHost: a\r\n\r\n"
MESSAGES = [
    get(),
    get(target=b"/b"),
    get(b"X-A: b", b"X_C: d"),
    get(b"Connection: keep-alive"),
    get(b"TE: trailers"),
    get(*UPGRADE),
    get(b"X: " + b"y" * 600),
    b"\r\n" + get(),
    get() + b"\r\n",
    get() + get(target=b"/b"),
    get() * 2,
    get() + b"GE",
    T,
    T + b"GE",
    get()[:20],
    get()[20:],
    get()[20:] + get()[:20],
    post(b"Content-Length: 5"),
    b"hello",
    post(b"Content-Length: 5", body=b"hello"),
    post(b"Content-Length: %d" % len(get())),
    post(b"Transfer-Encoding: chunked", body=b"1\r\nx\r\n0\r\n\r\n"),
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: other\r\n\r\n",
    b"\r\n",
]


def repeated(messages: list[tuple[int, int]]) -> list[bytes]:
    """Draw each message so many times in a row."""
    return [MESSAGES[index] for index, times in messages for _ in range(times)]


@given(
    st.lists(
        st.tuples(st.integers(0, len(MESSAGES) - 1), st.integers(1, 5)), max_size=8
    ).map(repeated)
)
@example([get()] * 5)
@example([get()[:20], *[get()[20:] + get()[:20]] * 5, get()[20:]])
@example([get() + b"GE", T, get() * 2 + b"GE", T, T])
@example([get() + b"GE", *[T + b"GE"] * 5])
def test_repetition_changes_nothing(messages: list[bytes]) -> None:
    """
    Requests that come again and again are read as if each were the first one.

    Reads of single bytes never look repeated, so they tell what is right.
    """
    data = b"".join(messages)
    in_bytes = outcome_of(data[at : at + 1] for at in range(len(data)))

    assert in_bytes == outcome_of(messages)


def test_close_lets_go_of_the_sink() -> None:
    """A connection that is lost leaves no cycle for the garbage collector."""
    sink = Sink()
    reader = RequestReader(HTTPSettings(), sink)
    reader.feed(get())
    reader.close()

    assert not hasattr(reader, "_sink")
    assert not hasattr(reader, "_parser")


# -- Any bytes -------------------------------------------------------------------

TOKEN = string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~"
VALUE = "".join(map(chr, [*range(0x21, 0x7F), *range(0x80, 0x100)]))
NOTED = {"host", "content-length", "transfer-encoding", "expect", "te", "connection"}

names = st.text(TOKEN, min_size=1, max_size=12).filter(
    lambda name: name.lower() not in NOTED | {"upgrade", "proxy-connection"}
)
values = st.builds(
    lambda words, gap: gap.join(words),
    st.lists(st.text(VALUE, min_size=1, max_size=12), max_size=3),
    st.sampled_from([" ", "\t", "  "]),
)
path_bytes = "".join(map(chr, range(0x21, 0x7F))).replace("#", "").replace("?", "")
targets = st.text(path_bytes + "?", max_size=30).map(lambda rest: "/" + rest)


@st.composite
def valid_requests(draw: st.DrawFn) -> bytes:
    """Write a request which each server must accept."""
    method = draw(st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"]))
    lines = [f"{method} {draw(targets)} HTTP/1.1", "Host: example.org"]
    blanks = st.sampled_from(["", " ", "\t", "   "])
    for name, value in draw(st.lists(st.tuples(names, values), max_size=5)):
        lines.append(f"{name}:{draw(blanks)}{value}{draw(blanks)}")
    body = draw(st.lists(st.binary(min_size=1, max_size=40), max_size=4))
    kind = draw(st.sampled_from(["none", "length", "chunked"]))
    payload = b""
    if kind == "length":
        payload = b"".join(body)
        lines.append(f"Content-Length: {len(payload)}")
    elif kind == "chunked":
        lines.append("Transfer-Encoding: chunked")
        extension = draw(st.sampled_from([b"", b";a", b";a=b", b';a="b"']))
        payload = b"".join(
            b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in body
        )
        trailers = draw(st.sampled_from([b"", b"X-T: 1\r\n", b"A: b\r\nC: d\r\n"]))
        payload += b"0\r\n" + trailers + b"\r\n"
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + payload


@st.composite
def cuts_of(draw: st.DrawFn, data: bytes) -> list[bytes]:
    """Cut bytes anywhere, into up to nine pieces."""
    places = draw(st.lists(st.integers(0, len(data)), max_size=8).map(sorted))
    starts = [0, *places]
    return [
        data[start:end] for start, end in zip(starts, [*places, len(data)], strict=True)
    ]


def read_by_h11(data: bytes) -> list[Read]:
    """Read requests with h11, another implementation of the same RFCs."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    requests: list[Read] = []
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            return requests
        if event is h11.PAUSED:
            ok = h11.Response(status_code=204, headers=[])
            connection.send(ok)
            connection.send(h11.EndOfMessage())
            connection.start_next_cycle()
        elif isinstance(event, h11.Request):
            requests.append(
                Read(
                    event.method.decode(),
                    event.target,
                    event.http_version.decode(),
                    list(event.headers),
                    has_body=False,
                    body=b"",
                    ended=False,
                )
            )
        elif isinstance(event, h11.Data):
            last = requests[-1]
            requests[-1] = last._replace(body=last.body + bytes(event.data))
        elif isinstance(event, h11.EndOfMessage):
            requests[-1] = requests[-1]._replace(ended=True)
            if connection.our_state is h11.SEND_RESPONSE:
                connection.send(h11.Response(status_code=204, headers=[]))
                connection.send(h11.EndOfMessage())
            if connection.their_state is h11.DONE:
                connection.start_next_cycle()


@given(data=st.data(), requests=st.lists(valid_requests(), min_size=1, max_size=3))
def test_valid_requests_are_read_as_h11_reads_them(
    data: st.DataObject, requests: list[bytes]
) -> None:
    """Whatever a correct client sends is understood as another server understands it."""
    stream = b"".join(requests)
    pieces = data.draw(cuts_of(stream))

    outcome = outcome_of(pieces, header_underscores="keep")

    assert None is outcome.rejected, outcome.detail
    expected = read_by_h11(stream)
    assert len(requests) == len(expected)
    assert expected == [r._replace(has_body=False) for r in outcome.requests]


FRAGMENTS = [
    *MESSAGES,
    *GARBLED_HEADS.values(),
    *(post(*fields) for fields in GARBLED_FRAMING.values()),
    *GARBLED_CHUNKS.values(),
    get(b"Connection: close"),
    post(*UPGRADE, b"Content-Length: 5"),
    post(*UPGRADE, b"Transfer-Encoding: chunked"),
    CHUNKED,
    b"5\r\nhello\r\n",
    b"0\r\n\r\n",
    b"GET http://a/ HTTP/1.1\r\n",
    b"Host: a\r\n",
    b"\r\n\r\n",
]
garbage = st.lists(
    st.sampled_from(FRAGMENTS) | st.binary(max_size=6) | valid_requests(), max_size=6
).map(b"".join)


@given(data=st.data(), stream=garbage)
def test_no_bytes_raise_anything_but_a_rejection(
    data: st.DataObject, stream: bytes
) -> None:
    """Whatever arrives is a request or an error with a status and a plain text."""
    outcome = outcome_of(data.draw(cuts_of(stream)))

    assert outcome.rejected in (None, 400, 408, 413, 414, 431, 501, 505)
    assert outcome.detail.isascii()
    assert outcome.detail.isprintable() or not outcome.detail


@given(data=st.data(), stream=garbage)
def test_any_bytes_mean_the_same_however_they_are_cut(
    data: st.DataObject, stream: bytes
) -> None:
    """What the network does with bytes never changes their meaning."""
    whole = outcome_of([stream])
    pieces = outcome_of(data.draw(cuts_of(stream)))

    assert whole == pieces
