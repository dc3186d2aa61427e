"""Requests and responses as wholes (RFC 9113 sections 8.1, 8.5 and 8.6)."""

from __future__ import annotations

import json
from typing import Any

from conformance_site import HELLO, LARGE_BYTES
from http2_client import Fields, Peer
from http2_frames import ErrorCode, Setting, headers

from http2_cases.table import case

_MALFORMED = ErrorCode.PROTOCOL_ERROR


def _send_trailers(
    peer: Peer, stream: int, *fields: tuple[bytes, bytes], end: bool = True
) -> None:
    peer.send(headers(stream, peer.encode(fields), end=end))


def _begin_upload(peer: Peer, *fields: tuple[bytes, bytes], path: bytes = b"/") -> int:
    return peer.request(*fields, method=b"POST", path=path, end=False)


# -- Exchanges ----------------------------------------------------------------


@case("8.1")
def get(peer: Peer) -> None:
    """A request without a body gets a response."""
    response = peer.expect_response(peer.request())
    assert HELLO == bytes(response.body)
    assert response.trailers is None


@case("8.1")
def get_something_large(peer: Peer) -> None:
    """A response may need any number of frames."""
    response = peer.download(peer.request(path=b"/large"))
    assert LARGE_BYTES == len(response.body)


@case("8.1", each=[b"/", b"/large"])
def head(peer: Peer, path: bytes) -> None:
    """It gets the head alone."""
    response = peer.expect_response(peer.request(method=b"HEAD", path=path))
    assert not response.body


@case("8.1")
def post(peer: Peer) -> None:
    """A body may be sent."""
    stream = _begin_upload(peer)
    peer.send_data(stream, b"body", end=True)
    assert HELLO == bytes(peer.expect_response(stream).body)


@case("8.1")
def get_with_an_empty_body(peer: Peer) -> None:
    """The request may end by a frame without content."""
    stream = peer.request(end=False)
    peer.send_data(stream, end=True)
    peer.expect_response(stream)


@case("8.1", each=[b"OPTIONS", b"DELETE", b"PUT", b"PATCH", b"PROPFIND", b"X-OWN"])
def other_methods(peer: Peer, method: bytes) -> None:
    """Each gets some response."""
    stream = peer.request(method=method)
    response = peer.response(stream)
    peer.wait_until(lambda: response.is_complete, "a response")
    peer.expect_pong()


@case("8.1", needs_site=True)
def what_the_application_is_told(peer: Peer) -> None:
    """Of a request the application sees what it would of one of HTTP/1.1."""
    told = _told(peer, (b"x-a", b"1"), (b"x-a", b"2"), path=b"/scope?a=%20b&c")
    assert "GET" == told["method"]
    assert "/scope" == told["path"]
    assert "a=%20b&c" == told["query"]
    assert "2" == told["http_version"]
    assert peer.link.scheme.decode() == told["scheme"]
    assert ["host", "example.org"] in told["headers"]
    values = [value for name, value in told["headers"] if name == "x-a"]
    assert ["1", "2"] == values
    assert not any(name.startswith(":") for name, _ in told["headers"])


@case("8.2.3", needs_site=True)
def crumbs_of_a_cookie(peer: Peer) -> None:
    """They are joined before the application sees them."""
    crumbs = [(b"cookie", b"a=1"), (b"x-b", b"2"), (b"cookie", b"c=3; d=4")]
    told = _told(peer, *crumbs, path=b"/scope")
    cookies = [value for name, value in told["headers"] if name == "cookie"]
    assert ["a=1; c=3; d=4"] == cookies


def _told(peer: Peer, *fields: tuple[bytes, bytes], path: bytes) -> dict[str, Any]:
    response = peer.expect_response(peer.request(*fields, path=path))
    told: dict[str, Any] = json.loads(response.body)
    return told


@case("8.1", needs_site=True, each=[(b"/empty", 204), (b"/not-modified", 304)])
def responses_without_content(peer: Peer, asked: tuple[bytes, int]) -> None:
    """HEADERS end the stream; no length of nothing is told."""
    path, status = asked
    response = peer.expect_response(peer.request(path=path), status)
    assert not response.body
    if status == 204:
        assert not response.values_of(b"content-length")


@case("8.1")
def a_response_before_the_end_of_the_request(peer: Peer) -> None:
    """The server needn't have the whole body; the client may leave it at that."""
    stream = _begin_upload(peer, path=b"/large")
    peer.send_data(stream, bytes(100))
    peer.expect_pong()
    peer.send_data(stream, bytes(100), end=True)
    peer.download(stream)
    peer.expect_response(peer.request())


@case("8.1", needs_site=True)
def a_response_to_an_unfinished_request(peer: Peer) -> None:
    """It may be complete while the body goes on, which then is of no use."""
    stream = _begin_upload(peer, path=b"/large")
    response = peer.download(stream)
    assert LARGE_BYTES == len(response.body)
    peer.expect_pong()
    assert response.error in (None, ErrorCode.NO_ERROR)
    peer.expect_response(peer.request())


# -- Trailers -----------------------------------------------------------------


@case("8.1")
def trailers_of_a_request(peer: Peer) -> None:
    """They end it."""
    stream = _begin_upload(peer, (b"trailer", b"x-checksum"))
    peer.send_data(stream, b"body")
    _send_trailers(peer, stream, (b"x-checksum", b"1234"))
    peer.expect_response(stream)


@case("8.1")
def trailers_without_a_body(peer: Peer) -> None:
    """They end a request whose body is empty."""
    stream = _begin_upload(peer)
    _send_trailers(peer, stream, (b"x-checksum", b"1234"))
    peer.expect_response(stream)


@case("8.1")
def trailers_behind_a_body_of_known_length(peer: Peer) -> None:
    """They aren't counted."""
    stream = _begin_upload(peer, (b"content-length", b"4"))
    peer.send_data(stream, b"body")
    _send_trailers(peer, stream, (b"x-checksum", b"1234"))
    peer.expect_response(stream)


@case("8.1")
def headers_within_a_body(peer: Peer) -> None:
    """A second header list must end the request."""
    stream = _begin_upload(peer)
    peer.send_data(stream, b"body")
    _send_trailers(peer, stream, (b"x-checksum", b"1234"), end=False)
    peer.expect_stream_error(stream, _MALFORMED)


@case("8.1")
def headers_within_a_request(peer: Peer) -> None:
    """A second header list must end the request, also without a body."""
    stream = _begin_upload(peer)
    block = peer.encode(peer.request_fields(method=b"POST"))
    peer.send(headers(stream, block, end=False))
    peer.expect_stream_error(stream, _MALFORMED)


@case(
    "8.1",
    each=[
        (b":method", b"GET"),
        (b":path", b"/"),
        (b":status", b"200"),
        (b"X-Upper", b"1"),
        (b"connection", b"close"),
        (b"x-broken", b"a\r\nb"),
    ],
)
def malformed_trailers(peer: Peer, wrong: tuple[bytes, bytes]) -> None:
    """Trailers are checked as headers are, and have no pseudo-header fields."""
    stream = _begin_upload(peer)
    peer.send_data(stream, b"body")
    _send_trailers(peer, stream, (b"x-checksum", b"1234"), wrong)
    peer.expect_stream_error(stream, _MALFORMED)


@case("8.1", needs_site=True)
def trailers_of_a_response(peer: Peer) -> None:
    """A client that wants them gets them."""
    stream = peer.request((b"te", b"trailers"), path=b"/trailers")
    response = peer.expect_response(stream)
    assert HELLO == bytes(response.body)
    assert [(b"x-checksum", b"1234")] == response.trailers


@case("8.1", needs_site=True)
def trailers_need_no_window(peer: Peer) -> None:
    """But they wait for the content before them."""
    peer.configure((Setting.INITIAL_WINDOW_SIZE, 2))
    peer.wait_for_settings()
    stream = peer.request((b"te", b"trailers"), path=b"/trailers")
    peer.expect_body(stream, 2)
    peer.expect_pong()
    assert peer.response(stream).trailers is None
    peer.grant(stream, len(HELLO) - 2)
    assert peer.expect_response(stream).trailers


# -- Informational responses --------------------------------------------------


@case("8.1", needs_site=True)
def early_hints(peer: Peer) -> None:
    """They come in a head of their own, before the response."""
    response = peer.expect_response(peer.request(path=b"/hints"))
    [(status, fields)] = response.informational
    assert 103 == status
    assert b"link" in dict(fields)
    assert HELLO == bytes(response.body)


@case("8.1", needs_site=True)
def a_client_that_waits_to_be_asked(peer: Peer) -> None:
    """It sends the body when it has got a 100."""
    stream = _begin_upload(peer, (b"expect", b"100-continue"))
    response = peer.response(stream)
    peer.wait_until(lambda: bool(response.informational), "100")
    assert 100 == response.informational[0][0]
    peer.send_data(stream, b"body", end=True)
    peer.expect_response(stream)


# -- The length of a body (section 8.1.1) -------------------------------------


@case("8.1.1", each=[b"1", b"5", b"10000000000"])
def a_body_shorter_than_told(peer: Peer, length: bytes) -> None:
    """The request is malformed when it ends."""
    stream = _begin_upload(peer, (b"content-length", length))
    peer.send_data(stream, b"body"[: int(length) - 1], end=True)
    peer.expect_stream_error(stream, _MALFORMED)


@case("8.1.1")
def no_body_though_one_was_told(peer: Peer) -> None:
    """The request is malformed at once."""
    stream = peer.request((b"content-length", b"1"), method=b"POST")
    peer.expect_stream_error(stream, _MALFORMED)


@case("8.1.1")
def a_body_in_pieces_shorter_than_told(peer: Peer) -> None:
    """The sum counts."""
    stream = _begin_upload(peer, (b"content-length", b"9"))
    peer.send_data(stream, b"body")
    peer.send_data(stream, b"body", end=True)
    peer.expect_stream_error(stream, _MALFORMED)


@case("8.1.1")
def trailers_before_the_told_end(peer: Peer) -> None:
    """The sum counts, also when trailers end the request."""
    stream = _begin_upload(peer, (b"content-length", b"9"))
    peer.send_data(stream, b"body")
    _send_trailers(peer, stream, (b"x-checksum", b"1234"))
    peer.expect_stream_error(stream, _MALFORMED)


@case("8.1.1", each=[b"0", b"1", b"3"])
def a_body_longer_than_told(peer: Peer, length: bytes) -> None:
    """The request is malformed as soon as it is seen."""
    stream = _begin_upload(peer, (b"content-length", length))
    peer.send_data(stream, b"body", end=True)
    peer.expect_stream_error(stream, _MALFORMED)


@case("8.1.1")
def a_body_in_pieces_longer_than_told(peer: Peer) -> None:
    """The sum counts; the request needn't have ended."""
    stream = _begin_upload(peer, (b"content-length", b"7"))
    peer.send_data(stream, b"body")
    peer.send_data(stream, b"body")
    peer.expect_stream_error(stream, _MALFORMED)


@case("8.1.1", each=[b"", b"x", b"-4", b"+4", b"4 4", b"0x4", b"4.0", b"4,5"])
def a_length_that_is_none(peer: Peer, length: bytes) -> None:
    """It is refused."""
    stream = _begin_upload(peer, (b"content-length", length))
    peer.send_data(stream, b"body", end=True)
    peer.expect_refusal(stream)


@case("8.1.1")
def two_lengths(peer: Peer) -> None:
    """They can't both be right."""
    lengths = [(b"content-length", b"4"), (b"content-length", b"5")]
    stream = _begin_upload(peer, *lengths)
    peer.send_data(stream, b"body", end=True)
    peer.expect_refusal(stream)


@case("8.1.1", each=[b"4", b"0004"])
def a_body_as_long_as_told(peer: Peer, length: bytes) -> None:
    """Whole or in pieces, with empty ones or padding."""
    for pieces in ([b"body"], [b"b", b"", b"ody"], [b"body", b""]):
        stream = _begin_upload(peer, (b"content-length", length))
        for piece in pieces:
            peer.send_data(stream, piece, padding=3)
        peer.send_data(stream, end=True)
        peer.expect_response(stream)


@case("8.1.1")
def no_body_as_told(peer: Peer) -> None:
    """A length of 0 is fine."""
    peer.expect_response(peer.request((b"content-length", b"0"), method=b"POST"))


# -- CONNECT (section 8.5, RFC 8441) ------------------------------------------


def _connect(*fields: tuple[bytes, bytes]) -> Fields:
    return [(b":method", b"CONNECT"), (b":authority", b"example.org:443"), *fields]


@case("8.5", needs_site=True)
def connect(peer: Peer) -> None:
    """This is no proxy."""
    stream = peer.request_of(_connect(), end=False)
    peer.expect_refusal(stream)
    peer.expect_response(peer.request())


@case("8.5")
def connect_to_a_path(peer: Peer) -> None:
    """CONNECT has neither a scheme nor a path, unless it names a protocol."""
    whole = _connect((b":scheme", peer.link.scheme), (b":path", b"/"))
    stream = peer.request_of(whole, end=False)
    peer.expect_stream_error(stream, _MALFORMED)


@case("8.5")
def connect_to_nobody(peer: Peer) -> None:
    """CONNECT without an authority is malformed."""
    stream = peer.request_of([(b":method", b"CONNECT")], end=False)
    peer.expect_stream_error(stream, _MALFORMED)


@case("RFC 8441 4", needs_site=True, each=[b"connect-udp", b"WebSocket", b"h2c", b""])
def connect_for_another_protocol(peer: Peer, protocol: bytes) -> None:
    """A protocol that isn't known is refused."""
    scheme, path = (b":scheme", peer.link.scheme), (b":path", b"/")
    whole = _connect((b":protocol", protocol), scheme, path)
    stream = peer.request_of(whole, end=False)
    peer.expect_refusal(stream)
    peer.expect_response(peer.request())


@case("RFC 8441 4", each=[b":scheme", b":path"])
def connect_for_a_protocol_at_no_path(peer: Peer, missing: bytes) -> None:
    """With a protocol, scheme and path are needed."""
    scheme, path = (b":scheme", peer.link.scheme), (b":path", b"/")
    whole = _connect((b":protocol", b"websocket"), scheme, path)
    stream = peer.request_of([f for f in whole if f[0] != missing], end=False)
    peer.expect_stream_error(stream, _MALFORMED)


@case("RFC 8441 4")
def a_protocol_of_another_method(peer: Peer) -> None:
    """Only CONNECT has one."""
    whole = [(b":protocol", b"websocket"), *peer.request_fields()]
    peer.expect_stream_error(peer.request_of(whole, end=False), _MALFORMED)
