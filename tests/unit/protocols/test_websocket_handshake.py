"""Tests of ``daphne_like.protocols.websocket_handshake``."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daphne_like.errors import RequestRejected
from daphne_like.protocols.interfaces import Header, RequestHead
from daphne_like.protocols.websocket_handshake import (
    Handshake,
    accept_key,
    read_handshake,
)

# RFC 6455 section 1.3.
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="

VERSION = (b"sec-websocket-version", b"13")


def opening(*more: Header, key: bytes | None = KEY) -> RequestHead:
    """Build the head of an opening handshake."""
    head = RequestHead(b"/chat")
    head.method = "GET"
    head.is_websocket = True
    head.headers = [
        (b"host", b"server.example.com"),
        (b"upgrade", b"websocket"),
        (b"connection", b"Upgrade"),
        *more,
    ]
    if key is not None:
        head.headers.append((b"sec-websocket-key", key))
    return head


def protocols(*values: bytes) -> list[str]:
    """Read the subprotocols of a handshake."""
    fields = [(b"sec-websocket-protocol", value) for value in values]
    return read_handshake(opening(VERSION, *fields)).subprotocols


def extensions(*values: bytes) -> list[tuple[str, dict[str, str | None]]]:
    """Read the extensions of a handshake."""
    fields = [(b"sec-websocket-extensions", value) for value in values]
    return read_handshake(opening(VERSION, *fields)).extensions


def refusal(head: RequestHead) -> RequestRejected:
    """Tell how a handshake is refused."""
    with pytest.raises(RequestRejected) as caught:
        read_handshake(head)
    return caught.value


def test_the_handshake_of_the_rfc_is_accepted() -> None:
    """A client which asks as RFC 6455 shows it gets in."""
    head = opening(
        (b"origin", b"http://example.com"),
        (b"sec-websocket-protocol", b"chat, superchat"),
        VERSION,
    )

    assert Handshake(["chat", "superchat"], []) == read_handshake(head)
    assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" == accept_key(head)


def test_version_8_is_accepted() -> None:
    """Clients of the last draft get in as well."""
    head = opening((b"sec-websocket-version", b"8"))

    assert Handshake([], []) == read_handshake(head)


@pytest.mark.parametrize("method", ["POST", "HEAD", "CONNECT", "get"])
def test_other_methods_are_refused(method: str) -> None:
    """Only GET opens a WebSocket over HTTP/1.1; the answer names it."""
    head = opening(VERSION)
    head.method = method

    rejected = refusal(head)

    assert 405 == rejected.status
    assert ((b"allow", b"GET"),) == rejected.fields


def test_a_body_is_refused() -> None:
    """What follows the handshake is frames; a body would be taken for some."""
    head = opening(VERSION)
    head.has_body = True

    assert 400 == refusal(head).status


@pytest.mark.parametrize("version", [b"7", b"14", b"13, 8", b"013", b"", b"\xff"])
def test_other_versions_are_refused_with_those_that_work(version: bytes) -> None:
    """A client of another version learns which ones it may use."""
    rejected = refusal(opening((b"sec-websocket-version", version)))

    assert 426 == rejected.status
    assert (
        (b"upgrade", b"websocket"),
        (b"connection", b"Upgrade"),
        (b"sec-websocket-version", b"13, 8"),
    ) == rejected.fields


@pytest.mark.parametrize("versions", [[], [VERSION, VERSION]])
def test_the_version_has_to_be_there_once(versions: list[Header]) -> None:
    """A handshake without a version, or with two, is malformed."""
    assert 400 == refusal(opening(*versions)).status


@pytest.mark.parametrize(
    "key",
    [
        None,
        b"",
        b"dGhlIHNhbXBsZSBub25jZQ=",
        b"dGhlIHNhbXBsZSBub25jZQ",
        b"dGhlIHNhbXBsZSBub25jZQ==, x",
        b"dGhlIHNh bXBsZSBub25jZQ==",
        b"dGhlIHNhbXBsZSBub25j",
        b"dGhlIHNhbXBsZSBub25jZTE3",
        b"dGhlIHNhbXBsZSBub25jZ-==",
        b"dGhlIHNhbXBsZSBub25jZ\xe9==",
        b"\xff" * 24,
    ],
)
def test_a_key_that_is_no_16_bytes_in_base64_is_refused(key: bytes | None) -> None:
    """A wrong key means that the client is none; it is told so, in HTTP."""
    rejected = refusal(opening(VERSION, key=key))

    assert 400 == rejected.status
    assert () == rejected.fields


def test_two_keys_are_refused() -> None:
    """Nobody could tell which of them to answer."""
    assert 400 == refusal(opening(VERSION, (b"sec-websocket-key", KEY))).status


def test_http_2_needs_no_key_and_another_method() -> None:
    """Over HTTP/2 a WebSocket is opened by CONNECT (RFC 8441 section 5)."""
    head = opening(VERSION, key=None)
    head.method, head.http_version = "CONNECT", "2"

    assert Handshake([], []) == read_handshake(head)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], []),
        ([b"chat"], ["chat"]),
        ([b"a,b ,\tc"], ["a", "b", "c"]),
        ([b"a, b", b"c"], ["a", "b", "c"]),
        ([b"v1.!#$%&'*+-^_`|~"], ["v1.!#$%&'*+-^_`|~"]),
        ([b"Chat, chat"], ["Chat", "chat"]),
    ],
)
def test_subprotocols_are_told_in_the_order_of_the_client(
    values: list[bytes], expected: list[str]
) -> None:
    """An application chooses by the client's preference, also over several fields."""
    assert expected == protocols(*values)


@pytest.mark.parametrize(
    "values",
    [
        [b""],
        [b"a b"],
        [b"a;b"],
        [b'"a"'],
        [b"ch\xe4t"],
        [b"\xe2\x82\xac"],
        [b"a,\x00"],
        [b"a, a"],
        [b"a", b"b, a"],
    ],
)
def test_malformed_subprotocols_are_refused(values: list[bytes]) -> None:
    """No application gets a name that it couldn't send back."""
    with pytest.raises(RequestRejected) as caught:
        protocols(*values)

    assert 400 == caught.value.status
    assert caught.value.detail.isascii()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], []),
        ([b""], []),
        ([b"foo"], [("foo", {})]),
        ([b"foo, bar"], [("foo", {}), ("bar", {})]),
        ([b"foo", b"bar; x"], [("foo", {}), ("bar", {"x": None})]),
        ([b"foo;a;b=1"], [("foo", {"a": None, "b": "1"})]),
        ([b'foo ; a = "10" ;\tb= 2'], [("foo", {"a": "10", "b": "2"})]),
        ([b"foo; a, foo"], [("foo", {"a": None}), ("foo", {})]),
        # RFC 6455 section 9.1.
        (
            [b"deflate-stream", b"mux; max-channels=4; flow-control, deflate-stream"],
            [
                ("deflate-stream", {}),
                ("mux", {"max-channels": "4", "flow-control": None}),
                ("deflate-stream", {}),
            ],
        ),
    ],
)
def test_extensions_are_read_with_their_parameters(
    values: list[bytes], expected: list[tuple[str, dict[str, str | None]]]
) -> None:
    """What a client offers is understood in every spelling which the RFC allows."""
    assert expected == extensions(*values)


def test_a_parameter_given_twice_makes_an_offer_that_nobody_can_meet() -> None:
    """Such an offer is declined, and the next one considered."""
    [(name, parameters)] = extensions(b"foo; a; a")

    assert ("foo", {"a": ""}) == (name, parameters)


@pytest.mark.parametrize(
    "value",
    [
        b";",
        b"foo;",
        b"foo bar",
        b"foo; a=",
        b'foo; a=""',
        b'foo; a="b',
        b'foo; a="b c"',
        b'foo; a="b,c"',
        b"foo; a=b=c",
        b"foo=1",
        b"f\xf6o",
        b"foo; \xe9",
        b"foo; a=\xff",
        b'"foo"',
        b"foo\x00",
        b"foo\n",
    ],
)
def test_malformed_extensions_are_refused(value: bytes) -> None:
    """Rubbish gets a 400 and no traceback."""
    with pytest.raises(RequestRejected) as caught:
        extensions(value)

    assert 400 == caught.value.status


@given(
    name=st.sampled_from([b"protocol", b"extensions", b"key", b"version"]),
    value=st.binary(max_size=40)
    | st.lists(st.sampled_from([b"a", b";", b"=", b",", b" ", b'"', b"\t"]))
    .map(b"".join),
)  # fmt: skip
def test_whatever_a_field_holds_is_read_or_refused(name: bytes, value: bytes) -> None:
    """Nothing that a client writes there can cause another error."""
    fields = dict([VERSION, (b"sec-websocket-key", KEY)])
    fields[b"sec-websocket-" + name] = value
    head = opening(*fields.items(), key=None)
    status = 101
    try:
        read_handshake(head)
    except RequestRejected as rejected:
        status = rejected.status

    assert status in (101, 400, 426)


SLOW = """
import sys
from daphne_like.errors import RequestRejected
from daphne_like.protocols.websocket_handshake import _extensions, _subprotocols

size = 60_000
for unit in (
    b" ", b"\\t", b"a", b"a ", b"a,", b"a, ", b";a", b"; a", b" ; a", b";a=b",
    b"; a = b ", b';a="b"', b'; a = "b" ', b"=", b'"', b",", b";", b"; ", b" ;",
):
    for end in (b"", b"!", b"\\x00", b"a", b" ", b";", b",", b"=", b'"', b'a="'):
        for start in (b"", b"a", b"a;", b"a; a=", b'a;a="'):
            value = start + unit * (size // len(unit)) + end
            for read in (_extensions, _subprotocols):
                try:
                    read([value])
                except RequestRejected:
                    pass
"""


def test_no_field_is_slow_to_read() -> None:
    """
    A peer gains nothing by 60 KB of any pattern.

    These 1,900 take some seconds where the time grows with the size; with its
    square each of them would take minutes.
    """
    subprocess.run([sys.executable, "-c", SLOW], check=True, timeout=50)
