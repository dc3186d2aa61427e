"""Tests of ``daphne_like.asgi.response_headers``."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daphne_like.asgi.response_headers import FieldReader, read_trailers
from daphne_like.errors import InvalidMessage
from daphne_like.protocols.interfaces import Header, ResponseFields

TOKEN_BYTES = (
    b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
)


def read(*headers: Any, defaults: tuple[bytes, ...] = ()) -> ResponseFields:
    """Read headers with a reader that knows nothing yet."""
    return FieldReader(defaults).read(headers)


def test_order_and_duplicates_are_kept() -> None:
    """Headers are sent as the application gave them, names in lower case (H23)."""
    fields = read((b"B", b"1"), (b"a", b"2"), (b"b", b"3"))

    assert [(b"b", b"1"), (b"a", b"2"), (b"b", b"3")] == fields.headers
    assert fields.content_length is None
    assert not fields.close
    assert frozenset() == fields.own_defaults


def test_no_headers() -> None:
    """A response needs none (H23)."""
    assert [] == read().headers


@pytest.mark.parametrize("name", [b"content-length", b"Content-Length"])
def test_content_length(name: bytes) -> None:
    """The length is known, however its name is written (H34)."""
    fields = read((name, b"0123"))

    assert 123 == fields.content_length
    assert [(b"content-length", b"0123")] == fields.headers


@pytest.mark.parametrize(
    "value", [b"", b"-1", b"+1", b"1.0", b"1 ", b"1, 1", b"0x1", b"1_0", b"9" * 19]
)
def test_invalid_content_length(value: bytes) -> None:
    """A length which a client could read otherwise is refused (H23)."""
    with pytest.raises(InvalidMessage, match=r"content-length .* is invalid"):
        read((b"content-length", value))


def test_two_content_lengths() -> None:
    """RFC 9110 section 8.6: two lengths make a response suspect (H23)."""
    with pytest.raises(InvalidMessage, match="more than one content-length"):
        read((b"content-length", b"1"), (b"Content-Length", b"1"))


@pytest.mark.parametrize(
    "name", [b"transfer-encoding", b"Keep-Alive", b"proxy-connection", b"connection"]
)
def test_framing_is_dropped(name: bytes) -> None:
    """How a message is framed isn't the application's business (H25)."""
    assert [(b"a", b"b")] == read((name, b"x"), (b"a", b"b")).headers


@pytest.mark.parametrize("value", [b"close", b"Close", b"keep-alive, close"])
def test_close_is_obeyed(value: bytes) -> None:
    """An application may end the connection behind its response (H25)."""
    assert read((b"connection", value)).close
    assert read((b"connection", value), (b"connection", b"x")).close


def test_keep_alive_is_not_close() -> None:
    """Other values of connection change nothing (H25)."""
    assert not read((b"connection", b"keep-alive")).close


def test_defaults_that_are_replaced() -> None:
    """The server leaves out what the application sets itself (H35)."""
    fields = read((b"Server", b"mine"), (b"a", b"b"), defaults=(b"server", b"date"))

    assert frozenset((b"server",)) == fields.own_defaults
    assert [(b"server", b"mine"), (b"a", b"b")] == fields.headers


@pytest.mark.parametrize(
    "value", [b"a\rb", b"a\nb", b"a\0b", b"\r\n", b"a\r\nset-cookie: b", b"\n"]
)
def test_value_that_would_split_the_response(value: bytes) -> None:
    """CWE-113: no value ends a line or the head (H23)."""
    with pytest.raises(InvalidMessage, match="'x-b' holds a CR, LF or NUL"):
        read((b"x-a", b"fine"), (b"X-B", value), (b"x-c", b"fine"))


@given(st.binary(max_size=20))
def test_any_name(name: bytes) -> None:
    """A name is a token of RFC 9110 section 5.6.2, or is refused (H23)."""
    if name and all(byte in TOKEN_BYTES for byte in name):
        fields = FieldReader().read([(name, b"5")])
        assert all(known == name.lower() for known, _ in fields.headers)
    else:
        with pytest.raises(InvalidMessage, match="is no token"):
            read((name, b"5"))


@given(st.lists(st.tuples(st.sampled_from([b"a", b"b"]), st.binary(max_size=8))))
def test_any_values(headers: list[Header]) -> None:
    """What is accepted has one line for each field (H23)."""
    try:
        fields = read(*headers)
    except InvalidMessage:
        assert any(set(value) & {10, 13, 0} for _, value in headers)
        return
    block = b"".join(b"%b: %b\r\n" % field for field in fields.headers)
    assert len(headers) == block.count(b"\n") == block.count(b"\r")


@pytest.mark.parametrize(
    ("header", "text"),
    [
        (
            ("x-text", b"a"),
            "Header name 'x-text' expected to be `bytes`, but got `<class 'str'>`",
        ),
        (
            (b"x-text", "a"),
            "Header value 'a' expected to be `bytes`, but got `<class 'str'>`",
        ),
        (
            (None, b"a"),
            "Header name 'None' expected to be `bytes`, but got `<class 'NoneType'>`",
        ),
        (
            (b"x", None),
            "Header value 'None' expected to be `bytes`, but got `<class 'NoneType'>`",
        ),
        (
            (b"content-length", 5),
            "Header value '5' expected to be `bytes`, but got `<class 'int'>`",
        ),
        (
            (b"connection", "close"),
            "Header value 'close' expected to be `bytes`, but got `<class 'str'>`",
        ),
        (
            (bytearray(b"x"), b"a"),
            "expected to be `bytes`, but got `<class 'bytearray'>`",
        ),
        ((b"x",), "headers must be pairs of bytes"),
        ((b"x", b"a", b"b"), "headers must be pairs of bytes"),
        (None, "headers must be pairs of bytes"),
        (5, "headers must be pairs of bytes"),
        ("ab", "Header name 'a' expected to be `bytes`, but got `<class 'str'>`"),
    ],
)
@pytest.mark.parametrize("kind", [lambda pair: pair, list], ids=["as it is", "list"])
def test_what_is_no_header(header: Any, text: str, kind: Any) -> None:
    """The error names the part that is wrong, as Daphne's does (C8, H23)."""
    if kind is list and not isinstance(header, tuple):
        kind = tuple
    given = header if header is None or header == 5 else kind(header)

    with pytest.raises(InvalidMessage, match=text):
        read((b"x-fine", b"fine"), given)


@pytest.mark.parametrize("headers", [None, 5, object()])
def test_what_are_no_headers(headers: Any) -> None:
    """Headers that can't be iterated are named (C8, H23)."""
    with pytest.raises(InvalidMessage, match="headers must be pairs of bytes, not"):
        FieldReader().read(headers)


def test_text_is_short() -> None:
    """A mistake in long headers makes no long line (C8)."""
    with pytest.raises(InvalidMessage) as caught:
        read(*[(b"x", b"y" * 1000)] * 100, (b"x",))

    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("pair", [tuple, list])
def test_headers_that_can_be_read_once(pair: Any) -> None:
    """A generator's headers aren't lost, whatever its pairs are (H23)."""
    reader = FieldReader()

    for _ in range(2):
        fields = reader.read(pair(field) for field in [(b"a", b"1"), (b"b", b"2")])

        assert [(b"a", b"1"), (b"b", b"2")] == fields.headers


def test_errors_of_a_generator_are_its_own() -> None:
    """What the application raises while it makes its headers comes out (C8)."""

    def headers() -> Any:
        yield (b"a", b"1")
        raise KeyError("own")

    with pytest.raises(KeyError):
        FieldReader().read(headers())


def test_same_heads_are_read_once() -> None:
    """The second response with the same head costs a look-up."""
    reader = FieldReader()
    headers = [(b"a", b"1"), (b"B", b"2")]

    assert reader.read(headers) is reader.read(tuple(headers))


def test_what_is_kept_is_bounded() -> None:
    """Responses that are all different don't fill the memory."""
    reader = FieldReader((b"date",))

    for number in range(3000):
        fields = reader.read([(b"X-%d" % number, b"%d" % number)])
        assert [(b"x-%d" % number, b"%d" % number)] == fields.headers

    assert len(reader._known) <= 512
    assert len(reader._kinds) <= 512
    assert frozenset((b"date",)) == reader.read([(b"Date", b"x")]).own_defaults


def test_refused_heads_are_not_kept() -> None:
    """What was wrong once is wrong again (H23)."""
    reader = FieldReader()

    for _ in range(2):
        with pytest.raises(InvalidMessage):
            reader.read([(b"a", b"\n")])


# -- Trailers ----------------------------------------------------------------


def test_trailers() -> None:
    """Trailers are checked and lower-cased as headers are (E10)."""
    fields = [(b"Digest", b"abc"), (b"x-time", b"1")]

    assert [(b"digest", b"abc"), (b"x-time", b"1")] == read_trailers(fields)


@pytest.mark.parametrize(
    "name",
    [
        b"content-length",
        b"transfer-encoding",
        b"connection",
        b"host",
        b"Trailer",
        b"te",
    ],
)
def test_forbidden_trailers_are_dropped(name: bytes) -> None:
    """RFC 9110 section 6.5.1: fields that frame or route are no trailers (E12)."""
    assert [(b"a", b"b")] == read_trailers([(name, b"1"), (b"a", b"b")])


@pytest.mark.parametrize("field", [("a", b"b"), (b"a", b"\n"), (b":a", b"b"), 5])
def test_invalid_trailers(field: Any) -> None:
    """What couldn't be a header can't be a trailer (C8, E10)."""
    with pytest.raises(InvalidMessage):
        read_trailers([field])
