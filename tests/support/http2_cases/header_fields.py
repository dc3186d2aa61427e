"""What may stand in the head of a request (RFC 9113 sections 8.2 and 8.3)."""

from __future__ import annotations

from http2_client import Peer
from http2_frames import ErrorCode

from http2_cases.table import case

_MALFORMED = ErrorCode.PROTOCOL_ERROR
_PSEUDO = [b":method", b":scheme", b":path"]


def _expect_malformed(peer: Peer, *fields: tuple[bytes, bytes]) -> None:
    peer.expect_stream_error(peer.request(*fields), _MALFORMED)


def _expect_list_malformed(peer: Peer, fields: list[tuple[bytes, bytes]]) -> None:
    peer.expect_stream_error(peer.request_of(fields), _MALFORMED)


# -- Names and values (section 8.2.1) -----------------------------------------


@case("8.2.1", each=[b"X-Test", b"x-Test", b"x-tesT", b"X"])
def upper_case(peer: Peer, name: bytes) -> None:
    """Names are in lower case."""
    _expect_malformed(peer, (name, b"value"))


@case(
    "8.2.1",
    each=[
        b"",
        b" ",
        b"x test",
        b" x-test",
        b"x-test ",
        b"x\ttest",
        b"x\ntest",
        b"x\rtest",
        b"x\0test",
        b"x\x7ftest",
        b"x\x80test",
        "ä".encode(),
        b"x:test",
        b"x-test:",
    ],
)
def a_name_that_is_none(peer: Peer, name: bytes) -> None:
    """Names are tokens."""
    _expect_malformed(peer, (name, b"value"))


@case("8.2.1", each=[b"a\0b", b"a\nb", b"a\rb", b"a\r\nb: c", b"\0", b"\n", b"\r"])
def a_value_of_several_lines(peer: Peer, value: bytes) -> None:
    """What could be taken for the end of a line must not come through."""
    _expect_malformed(peer, (b"x-test", value))


@case("8.2.1", each=[b" a", b"a ", b"\ta", b"a\t", b" ", b"\t", b" a "])
def a_value_with_blanks_around(peer: Peer, value: bytes) -> None:
    """Blanks at the ends don't belong to a value."""
    _expect_malformed(peer, (b"x-test", value))


@case("8.2.1", each=[b"", b"a b", b"a\tb", b"\xc3\xa4", b"\xff", b'"(),:;<=>?@[]{}'])
def a_value_that_is_unusual(peer: Peer, value: bytes) -> None:
    """It is taken."""
    peer.expect_response(peer.request((b"x-test", value)))


@case("8.2.1")
def names_that_are_unusual(peer: Peer) -> None:
    """All characters of a token are taken."""
    peer.expect_response(peer.request((b"!#$%&'*+-.^`|~0a", b"value")))


@case("8.2.1", each=[b"/\0", b"/a\r\nb", b"/a\nb", b"/a b", b" /", b"/ "])
def a_path_that_is_none(peer: Peer, path: bytes) -> None:
    """It is refused, whether as malformed or by a status."""
    peer.expect_refusal(peer.request(path=path))


# -- Fields of connections (section 8.2.2) ------------------------------------


@case(
    "8.2.2",
    each=[
        (b"connection", b"keep-alive"),
        (b"connection", b"close"),
        (b"connection", b""),
        (b"proxy-connection", b"keep-alive"),
        (b"keep-alive", b"timeout=5"),
        (b"transfer-encoding", b"chunked"),
        (b"upgrade", b"h2c"),
        (b"te", b"gzip"),
        (b"te", b"trailers, deflate"),
        (b"te", b"trailers;q=0.5"),
        (b"te", b""),
    ],
)
def a_field_of_the_connection(peer: Peer, wrong: tuple[bytes, bytes]) -> None:
    """Fields that concern an HTTP/1.1 connection have no place here."""
    _expect_malformed(peer, wrong)


@case("8.2.2")
def trailers_are_welcome(peer: Peer) -> None:
    """The one value that ``te`` may have."""
    peer.expect_response(peer.request((b"te", b"trailers")))


# -- Pseudo-header fields (section 8.3) ---------------------------------------


@case("8.3", each=[b":test", b":", b":Method", b":host", b":version"])
def an_unknown_pseudo_field(peer: Peer, name: bytes) -> None:
    """There are no others."""
    _expect_list_malformed(peer, [(name, b"value"), *peer.request_fields()])


@case("8.3")
def the_pseudo_field_of_a_response(peer: Peer) -> None:
    """A request has no status."""
    _expect_list_malformed(peer, [*peer.request_fields(), (b":status", b"200")])


@case("8.3", each=[*_PSEUDO, b":authority"])
def a_pseudo_field_behind_others(peer: Peer, late: bytes) -> None:
    """They come first."""
    fields = peer.request_fields((b"x-test", b"value"))
    fields.sort(key=lambda field: field[0] == late)
    _expect_list_malformed(peer, fields)


@case("8.3", each=[*_PSEUDO, b":authority"])
def a_pseudo_field_twice(peer: Peer, name: bytes) -> None:
    """Each occurs once at most, even with the same value."""
    fields = peer.request_fields()
    again = [field for field in fields if field[0] == name]
    _expect_list_malformed(peer, [*again, *fields])


@case("8.3.1", each=_PSEUDO)
def a_pseudo_field_is_missing(peer: Peer, name: bytes) -> None:
    """A request has a method, a scheme and a path."""
    fields = [field for field in peer.request_fields() if field[0] != name]
    _expect_list_malformed(peer, fields)


@case("8.3.1")
def all_pseudo_fields_are_missing(peer: Peer) -> None:
    """A header list without them is no request."""
    _expect_list_malformed(peer, [(b"host", b"example.org")])


@case("8.3.1")
def an_empty_header_list(peer: Peer) -> None:
    """It is no request."""
    _expect_list_malformed(peer, [])


@case("8.3.1")
def an_empty_path(peer: Peer) -> None:
    """It is ``/`` at least."""
    peer.expect_stream_error(peer.request(path=b""), _MALFORMED)


@case("8.3.1", each=[b"*", b"index.html", b"http://example.org/"])
def a_path_that_does_not_begin_with_a_slash(peer: Peer, path: bytes) -> None:
    """It is refused, whether as malformed or by a status."""
    peer.expect_refusal(peer.request(path=path))


@case("8.3.1")
def options_of_the_server(peer: Peer) -> None:
    """They have the one path that is none."""
    response = peer.response(peer.request(method=b"OPTIONS", path=b"*"))
    peer.wait_until(lambda: bool(response.status), "the head of a response")


@case("8.3.1", each=[b"", b"G ET", b"GET\0", b"G\r\nET"])
def a_method_that_is_none(peer: Peer, method: bytes) -> None:
    """Methods are tokens."""
    peer.expect_refusal(peer.request(method=method))


@case("8.3.1")
def pseudo_fields_in_another_order(peer: Peer) -> None:
    """Among themselves they have none."""
    peer.expect_response(peer.request_of(peer.request_fields()[::-1]))


@case("8.3.1")
def a_host_instead_of_an_authority(peer: Peer) -> None:
    """Who passes on a request of HTTP/1.1 may leave it as it was."""
    fields = [field for field in peer.request_fields() if field[0] != b":authority"]
    peer.expect_response(peer.request_of([*fields, (b"host", b"example.org")]))


@case("8.3.1")
def a_host_beside_an_authority(peer: Peer) -> None:
    """They may both be there if they say the same."""
    peer.expect_response(peer.request((b"host", b"example.org")))


@case("8.3.1", needs_site=True)
def a_host_unlike_the_authority(peer: Peer) -> None:
    """Nobody is to be deceived about whom a request is for."""
    peer.expect_refusal(peer.request((b"host", b"example.com")))


@case("8.3.1", needs_site=True, each=[b"example.org", b"example.com"])
def two_hosts(peer: Peer, second: bytes) -> None:
    """A request has one, even if they say the same (RFC 9112 section 3.2)."""
    fields = [field for field in peer.request_fields() if field[0] != b":authority"]
    hosts = [(b"host", b"example.org"), (b"host", second)]
    peer.expect_refusal(peer.request_of([*fields, *hosts]))


@case("8.3.1", needs_site=True)
def neither_host_nor_authority(peer: Peer) -> None:
    """A request is for somebody."""
    fields = [field for field in peer.request_fields() if field[0] != b":authority"]
    peer.expect_refusal(peer.request_of(fields))


@case("8.2")
def a_refused_request_harms_no_other(peer: Peer) -> None:
    """Those side by side with it are served."""
    upload = peer.request(method=b"POST", end=False)
    _expect_malformed(peer, (b"X-Upper", b"1"))
    peer.send_data(upload, b"body", end=True)
    peer.expect_response(upload)
    peer.expect_response(peer.request())
