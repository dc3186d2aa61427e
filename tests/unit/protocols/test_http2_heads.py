"""Header fields of HTTP/2 as request heads: what is taken, and what is refused how."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daphne_like.errors import RequestRejected, StreamFailed
from daphne_like.protocols.http2_frames import ErrorCode
from daphne_like.protocols.http2_heads import (
    HeadReader,
    read_field,
    read_priority,
)
from daphne_like.protocols.interfaces import DEFAULT_PRIORITY, Priority, RequestHead
from daphne_like.settings import HTTPSettings

Header = tuple[bytes, bytes]

GET: list[Header] = [
    (b":method", b"GET"),
    (b":scheme", b"https"),
    (b":authority", b"example.org"),
    (b":path", b"/a?b"),
]


def read_by(reader: HeadReader, headers: list[Header], *, ended: bool) -> RequestHead:
    """Let a reader have what the decoder hands out."""
    meanings = bytes(read_field(*field) for field in headers)
    reader.check_size(headers, sum(len(field[0] + field[1]) + 32 for field in headers))
    return reader.read(headers, meanings, ended=ended)


def read(*headers: Header, ended: bool = True, **limits: Any) -> RequestHead:
    """Read a head."""
    return read_by(HeadReader(HTTPSettings(**limits)), [*headers], ended=ended)


def without(name: bytes) -> list[Header]:
    """Take a field of a GET away."""
    return [field for field in GET if field[0] != name]


def replaced(name: bytes, value: bytes) -> list[Header]:
    """Give a field of a GET another value."""
    return [(known, value if known == name else old) for known, old in GET]


def test_a_request() -> None:
    """The application gets it as it would get one of HTTP/1.1."""
    head = read(*GET, (b"accept", b"*/*"), (b"x-a", b""))

    assert ("GET", b"/a?b", "2") == (head.method, head.target, head.http_version)
    assert [
        (b"host", b"example.org"),
        (b"accept", b"*/*"),
        (b"x-a", b""),
    ] == head.headers
    assert not (head.has_body or head.is_websocket or head.expects_continue)


def test_crumbs_of_cookies_become_one_field() -> None:
    """RFC 9113 section 8.2.3: an application looks for one cookie field."""
    crumbs = [(b"cookie", b"a=1"), (b"x", b"y"), (b"cookie", b"b=2"), (b"cookie", b"c")]

    head = read(*GET, *crumbs)

    assert [(b"cookie", b"a=1; b=2; c"), (b"x", b"y")] == head.headers[1:]


@pytest.mark.parametrize("ended", [True, False])
def test_a_body_may_follow(ended: bool) -> None:
    """It is the end of the stream that tells, not a field."""
    known = read(
        *replaced(b":method", b"POST"), (b"expect", b"100-continue"), ended=ended
    )

    assert known.has_body is not ended
    assert known.expects_continue is not ended
    assert -1 == known.content_length


def test_the_announced_length() -> None:
    """The protocol holds the body to it."""
    assert 12 == read(*GET, (b"content-length", b"12"), ended=False).content_length
    assert 0 == read(*GET, (b"content-length", b"0")).content_length


@pytest.mark.parametrize("value", [b"trailers", b"Trailers"])
def test_trailers_are_welcome(value: bytes) -> None:
    """RFC 9113 section 8.2.2: te may say this, and nothing else."""
    assert read(*GET, (b"te", value)).accepts_trailers


@pytest.mark.parametrize(
    ("scheme", "path", "method"),
    [
        (b"http", b"/", b"GET"),
        (b"https", b"*", b"OPTIONS"),
        (b"foo+1", b"/%7e", b"PUT"),
    ],
)
def test_unusual_request_lines(scheme: bytes, path: bytes, method: bytes) -> None:
    """Proxies ask on behalf of other schemes; OPTIONS may concern the whole server."""
    head = read(
        (b":method", method), (b":path", path), (b":scheme", scheme), (b"host", b"a")
    )

    assert (path, method.decode()) == (head.target, head.method)
    assert [(b"host", b"a")] == head.headers


MALFORMED = {
    "no method": without(b":method"),
    "no scheme": without(b":scheme"),
    "no path": without(b":path"),
    "empty path": replaced(b":path", b""),
    "path without a slash": replaced(b":path", b"a"),
    "path with a fragment": replaced(b":path", b"/#a"),
    "path with a space": replaced(b":path", b"/a b"),
    "path with a high byte": replaced(b":path", b"/\xe9"),
    "asterisk": replaced(b":path", b"*"),
    "method that is no token": replaced(b":method", b"G ET"),
    "scheme that is none": replaced(b":scheme", b"1http"),
    "two methods": [GET[0], *GET],
    "unknown pseudo-header": [*GET, (b":foo", b"bar")],
    "status": [*GET, (b":status", b"200")],
    "pseudo-header behind others": [(b"a", b"b"), *GET],
    "pseudo-header behind a cookie": [(b"cookie", b"b"), *GET],
    "pseudo-header behind a length": [(b"content-length", b"0"), *GET],
    "capitals": [*GET, (b"Accept", b"*/*")],
    "name with a space": [*GET, (b"a b", b"")],
    "empty name": [*GET, (b"", b"a")],
    "CR in a value": [*GET, (b"a", b"b\rc")],
    "LF in a value": [*GET, (b"a", b"b\nc")],
    "NUL in a value": [*GET, (b"a", b"b\0c")],
    "blank before a value": [*GET, (b"a", b" b")],
    "tab behind a value": [*GET, (b"a", b"b\t")],
    "connection": [*GET, (b"connection", b"close")],
    "transfer-encoding": [*GET, (b"transfer-encoding", b"chunked")],
    "keep-alive": [*GET, (b"keep-alive", b"1")],
    "upgrade": [*GET, (b"upgrade", b"websocket")],
    "te": [*GET, (b"te", b"gzip")],
    "length that is none": [*GET, (b"content-length", b"1a")],
    "negative length": [*GET, (b"content-length", b"-1")],
    "two lengths": [*GET, (b"content-length", b"0"), (b"content-length", b"0")],
    "length without a body": [*GET, (b"content-length", b"1")],
    "two hosts": [*GET, (b"host", b"example.org"), (b"host", b"example.org")],
    "another host": [*GET, (b"host", b"example.com")],
    "protocol without CONNECT": [*GET, (b":protocol", b"websocket")],
    "CONNECT with a path": replaced(b":method", b"CONNECT"),
    "CONNECT to nobody": [(b":method", b"CONNECT")],
}


@pytest.mark.parametrize("headers", MALFORMED.values(), ids=MALFORMED)
def test_what_is_malformed(headers: list[Header]) -> None:
    """RFC 9113 section 8.1.1: a stream error of PROTOCOL_ERROR."""
    with pytest.raises(StreamFailed) as raised:
        read(*headers)

    assert ErrorCode.PROTOCOL_ERROR == raised.value.code


REJECTED: dict[str, tuple[int, list[Header]]] = {
    "no host": (400, without(b":authority")),
    "authority with a slash": (400, replaced(b":authority", b"a/b")),
    "authority with a user": (400, replaced(b":authority", b"a@b")),
    "host with a space": (400, [*without(b":authority"), (b"host", b"a b")]),
    "unknown method": (501, replaced(b":method", b"FOO")),
    "method in small letters": (501, replaced(b":method", b"get")),
    "CONNECT": (501, [(b":method", b"CONNECT"), (b":authority", b"a:1")]),
    "CONNECT for another protocol": (
        501,
        [*replaced(b":method", b"CONNECT"), (b":protocol", b"connect-udp")],
    ),
    "long target": (414, replaced(b":path", b"/" * 101)),
    "many fields": (431, [*GET, *[(b"a", b"")] * 10]),
    "large fields": (431, [*GET, (b"a", b"b" * 2000)]),
    "large body": (413, [*GET, (b"content-length", b"1001")]),
    "underscore": (400, [*GET, (b"x_y", b"")]),
}


@pytest.mark.parametrize(("status", "headers"), REJECTED.values(), ids=REJECTED)
def test_what_is_rejected(status: int, headers: list[Header]) -> None:
    """What HTTP/1.1 answers with a status gets the same one here."""
    sorted_headers = sorted(headers, key=lambda field: field[0][:1] != b":")

    with pytest.raises(RequestRejected) as raised:
        read(
            *sorted_headers,
            ended=False,
            limit_request_line=100,
            limit_request_fields=10,
            limit_request_header=1000,
            limit_request_body=1000,
            header_underscores="reject",
        )

    assert status == raised.value.status


def test_what_is_within_the_limits() -> None:
    """They hold for what is beyond, not for what reaches them."""
    fields = [(b"a", b"b" * (500 - 1 - 4))]
    target = b"/" * 100

    head = read(
        *replaced(b":path", target),
        *fields,
        (b"content-length", b"1000"),
        ended=False,
        limit_request_line=100,
        limit_request_fields=3,
        limit_request_header=500 + len(b"content-length") + 4 + 4,
        limit_request_body=1000,
    )

    assert target == head.target


def test_without_limits_anything_goes() -> None:
    """0 means that there is no limit."""
    nothing: dict[str, Any] = dict.fromkeys(
        ("limit_request_line", "limit_request_fields", "limit_request_header"), 0
    )
    target = b"/" * 100_000

    known = read(*replaced(b":path", target), *[(b"a", b"b")] * 1000, **nothing)

    assert target == known.target
    assert 1001 == len(known.headers)


@pytest.mark.parametrize(("policy", "count"), [("drop", 1), ("keep", 2)])
def test_underscores_in_names(policy: str, count: int) -> None:
    """CVE-2015-0219: x_user must not pass for x-user."""
    head = read(*GET, (b"x_user", b"root"), header_underscores=policy)

    assert count == len(head.headers)


def test_a_websocket() -> None:
    """RFC 8441 section 4: an extended CONNECT has a scheme and a path."""
    head = read(
        (b":method", b"CONNECT"),
        (b":protocol", b"websocket"),
        *GET[1:],
        (b"sec-websocket-version", b"13"),
        ended=False,
    )

    assert head.is_websocket
    assert not head.has_body
    assert ("CONNECT", b"/a?b") == (head.method, head.target)


def test_other_literals() -> None:
    """What differs in what is spelled out alone is checked as far as that goes."""
    reader = HeadReader(HTTPSettings())
    fields = [
        *GET,
        (b"te", b"trailers"),
        (b"cookie", b"a=1"),
        (b"x-id", b"1"),
        (b"cookie", b"b=2"),
    ]
    meanings = bytes(read_field(*field) for field in fields)
    known = reader.read(fields, meanings, ended=True)
    template = reader.template_of(known, fields, meanings, [3, 6, 7])
    assert template is not None

    target, cookie = (b":path", b"/other"), (b"cookie", b"b=3")
    head = reader.fill(template, [target, (b"x-id", b"2"), cookie])

    assert b"/other" == head.target
    assert head.accepts_trailers
    assert {b"x-id": b"2", b"cookie": b"a=1; b=3"}.items() <= dict(head.headers).items()
    assert b"/a?b" == known.target
    expected = {b"x-id": b"1", b"cookie": b"a=1; b=2"}
    assert expected.items() <= dict(known.headers).items()
    with pytest.raises(StreamFailed):
        reader.fill(template, [(b":path", b"other"), (b"x-id", b"2"), cookie])


@pytest.mark.parametrize(
    "field",
    [
        (b":authority", b"example.org"),
        (b"content-length", b"0"),
        (b"priority", b"u=1"),
        (b"te", b"trailers"),
        (b"expect", b"100-continue"),
        (b"host", b"example.org"),
    ],
)
def test_what_has_a_meaning_is_read_each_time(field: Header) -> None:
    """A head is no template for others if such a field may differ."""
    reader = HeadReader(HTTPSettings())
    fields = [*without(field[0]), field] if field[0][:1] != b":" else [*GET]
    meanings = bytes(read_field(*one) for one in fields)
    known = reader.read(fields, meanings, ended=True)

    place = fields.index(field)
    assert reader.template_of(known, fields, meanings, [place]) is None


@pytest.mark.parametrize(
    ("value", "urgency", "incremental"),
    [
        (b"", 3, False),
        (b"u=0", 0, False),
        (b"u=7, i", 7, True),
        (b"i=?1,u=5", 5, True),
        (b"i=?0", 3, False),
        (b"u=8", 3, False),
        (b"u=-1;a, i;b", 3, True),
        (b"u=1, u=2", 2, False),
        (b"nonsense", 3, False),
    ],
)
def test_priorities(value: bytes, urgency: int, incremental: bool) -> None:
    """RFC 9218 section 4; what isn't understood is ignored."""
    assert Priority(urgency, incremental) == read_priority(value)
    if value:
        assert (
            Priority(urgency, incremental) == read(*GET, (b"priority", value)).priority
        )


def test_without_a_priority() -> None:
    """Responses which nobody has ranked take turns."""
    assert DEFAULT_PRIORITY == read(*GET).priority == Priority(3, True)


@given(
    st.lists(
        st.tuples(
            st.one_of(
                st.sampled_from([b":method", b":path", b":scheme", b"host", b"te"]),
                st.binary(max_size=8),
            ),
            st.one_of(
                st.sampled_from([b"GET", b"/", b"http", b"CONNECT"]),
                st.binary(max_size=8),
            ),
        ),
        max_size=8,
    )
)
def test_rubbish_raises_nothing_else(headers: list[Header]) -> None:
    """Whatever a peer sends ends in one of two ways."""
    try:
        head = read(*headers)
    except (StreamFailed, RequestRejected):
        return
    assert head.target[:1] in (b"/", b"*")
    assert b"host" == head.headers[0][0]
    names = b"".join(name for name, _ in head.headers)
    assert not set(names) & set(b"\0\r\n :ABCDEFGHIJKLMNOPQRSTUVWXYZ")
