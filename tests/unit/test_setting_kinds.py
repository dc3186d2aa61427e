"""Tests of ``daphne_like.setting_kinds``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daphne_like.setting_kinds import (
    Choice,
    FileMode,
    Flag,
    Integer,
    Kind,
    Seconds,
    Several,
    Text,
    did_you_mean,
    header,
    header_name,
    header_value,
    host_and_port,
    log_format,
    trusted_peer,
)

PORT = Integer(0, 65535, metavar="PORT")
NUMBERED = Choice("none", "some", aliases={0: "none", 1: "some"})
ADDRESS = Text("PORT", check=host_and_port)
WORDS = Several(Text("WORD"))
PEERS = Several(Text("LIST", check=trusted_peer), separated=True)


@pytest.mark.parametrize(
    ("kind", "given_value", "expected"),
    [
        (Flag(), "true", True),
        (Flag(), " Yes ", True),
        (Flag(), "1", True),
        (Flag(), "off", False),
        (Flag(), False, False),
        (PORT, "8000", 8000),
        (PORT, 0, 0),
        (PORT, "65535", 65535),
        (Seconds(), 5, 5.0),
        (Seconds(), "2.5", 2.5),
        (Seconds(), "500ms", 0.5),
        (Seconds(), "30s", 30.0),
        (Seconds(), "5m", 300.0),
        (Seconds(), "2 h", 7200.0),
        (Seconds(), "1d", 86400.0),
        (Seconds(), "0", 0.0),
        (FileMode(), "666", 0o666),
        (FileMode(), "0o640", 0o640),
        (FileMode(), "0600", 0o600),
        (FileMode(), 0o600, 0o600),
        (Text("FILE"), Path("a") / "b", str(Path("a", "b"))),
        (Text("NAME", empty=True), "", ""),
        (Text("FORMAT", controls=True), "a\tb", "a\tb"),
        (Choice("auto", "on", "off"), "ON", "on"),
        (NUMBERED, 1, "some"),
        (NUMBERED, "1", "some"),
        (NUMBERED, "NONE", "none"),
        (ADDRESS, "80", "80"),
        (ADDRESS, "example.org:0", "example.org:0"),
        (ADDRESS, "[::1]:65535", "[::1]:65535"),
        (WORDS, "a,b", ("a,b",)),
        (WORDS, ["a", "b"], ("a", "b")),
        (WORDS, (), ()),
        (Several(Integer()), 3, (3,)),
        (PEERS, "10.0.0.0/8, ::1,unix", ("10.0.0.0/8", "::1", "unix")),
        (PEERS, ["*"], ("*",)),
        (PEERS, "", ()),
    ],
)
def test_values_can_be_written_in_several_ways(
    kind: Kind, given_value: object, expected: object
) -> None:
    """Text from a command line and values from Python or TOML mean the same."""
    value = kind.read(given_value)

    assert expected == value
    assert type(expected) is type(value)


@pytest.mark.parametrize(
    ("kind", "given_value", "reason"),
    [
        (Flag(), "maybe", "must be true or false, not 'maybe'"),
        (Flag(), 1, "must be true or false, not 1"),
        (PORT, "x", "must be a whole number, not 'x'"),
        (PORT, 8.0, "must be a whole number, not 8.0"),
        (PORT, True, "must be a whole number, not True"),
        (PORT, None, "must be a whole number, not None"),
        (PORT, "9" * 5000, "must be a whole number"),
        (PORT, -1, "must be from 0 to 65535, not -1"),
        (PORT, 65536, "must be from 0 to 65535, not 65536"),
        (Seconds(), "soon", "must be seconds, or a number with ms, s, m, h or d"),
        (Seconds(), "s", "must be seconds"),
        (Seconds(), "", "must be seconds"),
        (Seconds(), True, "must be seconds"),
        (Seconds(), [], "must be seconds"),
        (Seconds(), -0.1, "must be from 0 to 1000000000 seconds, not -0.1"),
        (Seconds(), "nan", "must be from 0 to"),
        (Seconds(), float("nan"), "must be from 0 to"),
        (Seconds(), float("inf"), "must be from 0 to"),
        (Seconds(), "-inf", "must be from 0 to"),
        (Seconds(), 10**400, "must be from 0 to"),
        (Seconds(), "99999d", "must be from 0 to"),
        (FileMode(), "888", "must be octal digits from 0 to 777, not '888'"),
        (FileMode(), "1777", "must be octal digits"),
        (FileMode(), "-1", "must be octal digits"),
        (FileMode(), True, "must be octal digits"),
        (Text("NAME"), "", "must not be empty"),
        (Text("NAME"), 5, "must be text, not 5"),
        (Text("NAME"), b"x", "must be text, not b'x'"),
        (Text("NAME"), "a\nb", r"must not have control characters: 'a\\nb'"),
        (Text("NAME"), "a\x85b", "must not have control characters"),
        (Text("NAME"), "a\udc80", "must be valid Unicode"),
        (Choice("auto", "on", "off"), "of", "must be auto, on or off, not 'of'"),
        (Choice("auto", "on", "off"), None, "must be auto, on or off, not None"),
        (NUMBERED, 2, "must be none or some, not 2"),
        (NUMBERED, True, "must be none or some, not True"),
        (ADDRESS, "65536", "must be PORT or HOST:PORT"),
        (ADDRESS, "::1:80", "must be PORT or HOST:PORT"),
        (ADDRESS, ":80", "must be PORT or HOST:PORT"),
        (ADDRESS, "a b:80", "must be PORT or HOST:PORT"),
        (ADDRESS, "http://a", "must be PORT or HOST:PORT"),
        (WORDS, ["a", ""], "must not be empty"),
        (WORDS, {"a"}, "must be text"),
        (PEERS, "10.0.0.1/8", "must be IP addresses.* host bits set"),
        (PEERS, "localhost", "must be IP addresses, networks, unix or \\*"),
    ],
)
def test_wrong_values_are_refused_with_the_reason(
    kind: Kind, given_value: object, reason: str
) -> None:
    """Whoever writes nonsense reads what is expected instead."""
    with pytest.raises(ValueError, match=f"^{reason}"):
        kind.read(given_value)


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        (WORDS, "a, b,,c", ("a", "b", "c")),
        (WORDS, r"no-store\, private,x", ("no-store, private", "x")),
        (WORDS, r"tcp\:80", (r"tcp\:80",)),
        (WORDS, "", ()),
        (Seconds(), "1m", 60.0),
    ],
)
def test_commas_separate_values_in_the_environment(
    kind: Kind, text: str, expected: object
) -> None:
    """An environment variable can hold a list, also of values with commas."""
    assert expected == kind.read_environment(text)


@pytest.mark.parametrize(
    "kind_and_values",
    [
        (Flag(), st.booleans()),
        (PORT, st.integers(0, 65535)),
        (Seconds(), st.floats(0, 1e9)),
        (FileMode(), st.integers(0, 0o777)),
        (Choice("auto", "on"), st.sampled_from(["auto", "on"])),
        (
            Text("FORMAT", empty=True, controls=True),
            st.text(st.characters(exclude_categories=["Cs"])),
        ),
        (Several(PORT), st.lists(st.integers(0, 65535)).map(tuple)),
    ],
    ids=lambda pair: type(pair[0]).__name__,
)
@given(data=st.data())
def test_what_is_written_is_read_back(
    kind_and_values: tuple[Kind, st.SearchStrategy[Any]], data: st.DataObject
) -> None:
    """A value survives being read again and being written on a command line."""
    kind, values = kind_and_values
    value = data.draw(values)

    assert value == kind.read(value)
    assert value == kind.read_environment(kind.text(value))


@given(st.integers(0, 10**9))
def test_milliseconds_are_thousandths(number: int) -> None:
    """``1500ms`` is a second and a half, and so on for each number."""
    assert number * 0.001 == Seconds().read(f"{number}ms")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("X-Frame-Options: DENY", "X-Frame-Options:DENY"),
        ("a:b:c ", "a:b:c"),
        ("empty:", "empty:"),
        ("latin:caf\xe9", "latin:caf\xe9"),
    ],
)
def test_header_lines_are_taken_without_surrounding_space(
    text: str, expected: str
) -> None:
    """The space after the colon, which people are used to, is no part of the value."""
    assert expected == header(text)


@pytest.mark.parametrize(
    "text",
    [
        *("no colon", ":value", "bad name:x", "name :x", "n\u00e4me:x"),
        *("euro:\u20ac", "Content-Length: 5", "transfer-encoding:chunked"),
        *("Connection: close", "upgrade:h2c"),
    ],
)
def test_headers_which_would_break_responses_are_refused(text: str) -> None:
    """No malformed header, and none which decides about framing, can be added."""
    with pytest.raises(ValueError, match=r"^must "):
        header(text)


def test_names_and_values_of_headers_are_checked() -> None:
    """A header's name is a token, its value Latin-1."""
    assert header_name("X-Real-IP") == "X-Real-IP"
    assert header_value(" my server ") == "my server"
    with pytest.raises(ValueError, match="must be a header name"):
        header_name("X Real IP")
    with pytest.raises(ValueError, match="must be Latin-1"):
        header_value("\u20ac")


@pytest.mark.parametrize("peer", ["192.0.2.1", "2001:db8::/32", "unix", "*"])
def test_peers_are_addresses_networks_or_words(peer: str) -> None:
    """Trusted proxies are named by address, network, ``unix`` or ``*``."""
    assert peer == trusted_peer(peer)


def test_log_formats_must_be_formats() -> None:
    """A log format without any field is refused, as logging itself does."""
    assert log_format("%(message)s") == "%(message)s"
    with pytest.raises(ValueError, match="must be a %-style format"):
        log_format("{message}")


def test_the_nearest_word_is_suggested() -> None:
    """A typing error is answered with the word that was probably meant."""
    assert did_you_mean("prot", ["port", "bind"]) == "; did you mean port?"
    assert did_you_mean("HOST", {"host": "bind"}) == "; did you mean bind?"
    assert did_you_mean("xyz", ["port", "bind"]) == ""


def test_a_kind_says_how_it_reads() -> None:
    """A kind without a reader can't be used by mistake."""
    with pytest.raises(NotImplementedError):
        Kind("X").read("x")
