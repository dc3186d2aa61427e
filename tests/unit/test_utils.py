"""Tests of ``daphne_like.utils``."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.web.http_headers import Headers

import daphne_like
from daphne_like.utils import import_by_path, parse_x_forwarded_for

FULL = {
    b"X-Forwarded-For": b"10.1.2.3",
    b"X-Forwarded-Port": b"1234",
    b"X-Forwarded-Proto": b"https",
}
TOLD = (["10.1.2.3", 1234], "https")


def test_headers_may_come_in_any_form() -> None:
    """A dict of values or of lists, or Twisted's; in any case of letters."""
    lists = {name.lower(): [value, b"second"] for name, value in FULL.items()}

    assert TOLD == parse_x_forwarded_for(FULL)
    assert TOLD == parse_x_forwarded_for(lists)
    assert TOLD == parse_x_forwarded_for(
        Headers({name: [value] for name, value in FULL.items()})
    )


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({b"X-Forwarded-For": b"192.0.2.1, 10.0.0.1"}, (["192.0.2.1", 1234], "https")),
        ({b"X-Forwarded-For": b"1043::a321:1, 10.0.0.1"}, (["1043::a321:1", 1234],)),
        ({b"X-Forwarded-For": b"1043::a321:1"}, (["1043::a321:1", 1234],)),
        ({b"X-Forwarded-For": b"10.0.0.1:80"}, (["10.0.0.1:80", 1234],)),
        ({b"X-Forwarded-Port": b"http"}, (["10.1.2.3", 0],)),
        ({b"X-Forwarded-Port": None}, (["10.1.2.3", 0], "https")),
        ({b"X-Forwarded-Proto": None}, (["10.1.2.3", 1234], None)),
        ({b"X-Forwarded-For": None}, (None, None)),
        ({b"X-Other": b"\xff"}, TOLD),
    ],
)
def test_what_headers_tell(
    changes: dict[bytes, bytes | None], told: tuple[Any, ...]
) -> None:
    """The left-most address, with the port beside it; nothing without an address."""
    headers = {
        name: value for name, value in {**FULL, **changes}.items() if value is not None
    }

    assert told == parse_x_forwarded_for(headers)[: len(told)]


def test_what_holds_without_headers() -> None:
    """The connection's own address and scheme stay, whatever they are."""
    address = ["127.0.0.1", 80]
    alone = {b"x-forwarded-proto": b"https"}

    assert (address, "http") == parse_x_forwarded_for(
        alone, original_addr=address, original_scheme="http"
    )
    assert (["10.1.2.3", 1234], "http") == parse_x_forwarded_for(
        FULL, proto_header_name=None, original_addr=address, original_scheme="http"
    )


def test_headers_can_be_left_out() -> None:
    """Without the name of a header it is not looked at."""
    assert (None, None) == parse_x_forwarded_for(FULL, address_header_name=None)
    assert (["10.1.2.3", 0], "https") == parse_x_forwarded_for(
        FULL, port_header_name=None
    )
    assert (["192.0.2.9", 5], None) == parse_x_forwarded_for(
        {b"x-real-ip": b"192.0.2.9", b"x-port": b"5"}, "X-Real-IP", "X-Port"
    )


def test_importing_by_path() -> None:
    """What the path names; what is wrong raises what imports raise."""
    assert daphne_like.__version__ == import_by_path("daphne_like:__version__")
    assert import_by_path("daphne_like.utils:import_by_path.__name__")
    with pytest.raises(ValueError, match="not enough values"):
        import_by_path("daphne_like")
    with pytest.raises(ModuleNotFoundError):
        import_by_path("daphne_like.nowhere:app")
    with pytest.raises(AttributeError):
        import_by_path("daphne_like:nothing")
