"""
What Daphne's users rely on: headers of proxies.

Each test talks to a whole server, by default and with ``daphne_compat``.
"""

from __future__ import annotations

from typing import Any

import pytest
from recorded_log import RecordedLog
from whole_server import (
    ACCEPT,
    BOTH,
    Application,
    ask,
    connect,
    nothing_more,
)

from daphne_like.asgi.forwarded import DaphneForwardedPolicy, Forwarded
from daphne_like.settings import Settings


@pytest.fixture(autouse=True)
def _log_is_looked_at(log: RecordedLog) -> None:
    """A warning or an error that a test doesn't expect is a failure."""


FORWARDED = ((b"x-forwarded-for", b"10.1.2.3"), (b"x-forwarded-port", b"80"))


def as_lines(fields: tuple[tuple[bytes, bytes], ...]) -> list[bytes]:
    """Write header fields."""
    return [b"%b: %b" % pair for pair in fields]


@BOTH
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_they_are_ignored_by_default(kind: str, *, compat: bool) -> None:
    """Without --proxy-headers they are headers like others."""
    if kind == "http":
        application, _ = ask(*as_lines(FORWARDED), compat=compat)
    else:
        application = Application(ACCEPT)
        connect(application, nothing_more, *FORWARDED, compat=compat)

    assert "127.0.0.1" == application.scope["client"][0]
    assert "http" == application.scope["scheme"].replace("ws", "http")
    assert (b"x-forwarded-for", b"10.1.2.3") in application.scope["headers"]


@BOTH
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_they_are_believed_when_told_to(
    kind: str, log: RecordedLog, *, compat: bool
) -> None:
    """A list, as people compare it with one; everyone's with Daphne: a warning."""
    if kind == "http":
        application, _ = ask(*as_lines(FORWARDED), proxy_headers=True, compat=compat)
    else:
        application = Application(ACCEPT)
        connect(
            application, nothing_more, *FORWARDED, proxy_headers=True, compat=compat
        )

    assert ["10.1.2.3", 80] == application.scope["client"]
    lines = log.take()
    assert len(lines) == int(compat)
    if compat:
        assert lines[0].startswith("WARNING forwarded_allow_ips holds *, as daphne_c")


@BOTH
def test_a_port_need_not_be_there(log: RecordedLog, *, compat: bool) -> None:
    """It is 0 then."""
    application, _ = ask(
        b"X-Forwarded-For: 10.1.2.3", proxy_headers=True, compat=compat
    )
    log.take()

    assert ["10.1.2.3", 0] == application.scope["client"]


@BOTH
def test_other_names_of_headers(log: RecordedLog, *, compat: bool) -> None:
    """As --proxy-headers-host and --proxy-headers-port have them."""
    application, _ = ask(
        *(b"X-Real-IP: 10.1.2.3", b"X-Real-Port: 80", b"X-Forwarded-For: 10.9.9.9"),
        proxy_headers=True,
        proxy_headers_host="X-Real-IP",
        proxy_headers_port="X-Real-Port",
        compat=compat,
    )
    log.take()

    assert ["10.1.2.3", 80] == application.scope["client"]


STRANGER = ("203.0.113.66", 40000)
PEER = ("127.0.0.1", 40000)


def resolve(
    *headers: tuple[bytes, bytes],
    peer: tuple[str, int] | None = STRANGER,
    **overrides: Any,
) -> Forwarded:
    """Tell what compat makes of headers."""
    made = Settings.of(**{"daphne_compat": True, "proxy_headers": True, **overrides})
    policy = DaphneForwardedPolicy.from_settings(made.proxy)
    return policy.resolve(peer, "http", [*headers])


def chain(value: bytes) -> tuple[bytes, bytes]:
    """Make the header with the chain of proxies."""
    return b"x-forwarded-for", value


@pytest.mark.parametrize(
    ("values", "client"),
    [
        ((b"10.1.2.3",), ("10.1.2.3", 0)),
        ((b"10.1.2.3, 10.1.2.4",), ("10.1.2.3", 0)),
        ((b" 10.1.2.3 ,10.1.2.4",), ("10.1.2.3", 0)),
        ((b"10.1.2.3", b"10.1.2.4"), ("10.1.2.3", 0)),
        ((b"1043::a321:1, 10.0.5.6",), ("1043::a321:1", 0)),
        ((b"[1043::a321:1]:77, 10.0.5.6",), ("1043::a321:1", 77)),
        ((b"10.1.2.3:77, 10.0.5.6",), ("10.1.2.3", 77)),
        ((b", 10.1.2.3",), ("10.1.2.3", 0)),
        # Who the client is isn't told; what stands behind it is a proxy.
        ((b"unknown, 10.1.2.3",), STRANGER),
        ((b"",), STRANGER),
        ((b"1.2.3.4.5",), STRANGER),
        ((b"10.1.2.300",), STRANGER),
    ],
)
def test_the_client_is_the_left_most(
    values: tuple[bytes, ...], client: tuple[str, int]
) -> None:
    """From anyone, whatever stands behind it."""
    assert client == resolve(*map(chain, values)).client


@pytest.mark.parametrize(
    ("port", "number"), [(b"80", 80), (b"x", 0), (b"", 0), (b"99999", 0)]
)
def test_the_port_beside_the_left_most(port: bytes, number: int) -> None:
    """A header of its own, which counts only beside an address."""
    told = (b"x-forwarded-port", port)

    assert ("10.1.2.3", number) == resolve(chain(b"10.1.2.3, 10.9.9.9"), told).client
    assert STRANGER == resolve(told).client


def test_the_scheme_counts_only_beside_an_address() -> None:
    """X-Forwarded-Proto alone changes nothing."""
    https = (b"x-forwarded-proto", b"https")

    assert "https" == resolve(https, chain(b"10.1.2.3")).scheme
    assert "http" == resolve(https).scheme
    assert "http" == resolve((b"x-forwarded-proto", b"a b"), chain(b"10.1.2.3")).scheme


def test_root_paths_are_read_without_the_option() -> None:
    """Only these: the last one, decoded; the others are as good as not there."""
    root = (b"daphne-root-path", b"/caf%C3%A9")
    https = (b"x-forwarded-proto", b"https")
    headers = [chain(b"10.1.2.3"), https, root]

    told = resolve(*headers, peer=PEER, proxy_headers=False)

    assert told == (PEER, "http", "/café", headers[:2])


def test_peers_on_unix_sockets_are_believed() -> None:
    """They have no address, and may tell one."""
    assert ("10.1.2.3", 0) == resolve(chain(b"10.1.2.3"), peer=None).client


def test_a_trust_list_is_obeyed() -> None:
    """Who gives one narrows compat down to it, for the root path too."""
    headers = (chain(b"10.1.2.3, 10.9.9.9"), (b"daphne-root-path", b"/a"))
    trusted = "203.0.113.0/24"

    assert resolve(*headers, peer=PEER, forwarded_allow_ips=trusted) == (
        *(PEER, "http", None),
        [*headers],
    )
    told = resolve(*headers, forwarded_allow_ips=trusted)
    assert (("10.1.2.3", 0), "/a") == (told.client, told.root_path)
