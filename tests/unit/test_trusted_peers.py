"""Tests of ``daphne_like.trusted_peers``."""

from __future__ import annotations

import ipaddress

import pytest

from daphne_like.trusted_peers import TrustedPeers


@pytest.mark.parametrize(
    ("trusted", "peer", "believed"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1", "127.0.0.2", False),
        ("127.0.0.1", "::ffff:127.0.0.1", True),
        ("127.0.0.1", None, False),
        ("::1", "::1", True),
        ("::1", "0:0:0:0:0:0:0:1", True),
        ("::1", "127.0.0.1", False),
        ("10.0.0.0/8", "10.255.0.1", True),
        ("10.0.0.0/8", "::ffff:10.255.0.1", True),
        ("10.0.0.0/8", "11.0.0.1", False),
        ("::ffff:10.0.0.0/104", "::ffff:10.255.0.1", True),
        ("2001:db8::/32", "2001:db8:1::5", True),
        ("2001:db8::/32", "2001:db9::5", False),
        ("0.0.0.0/0", "2001:db8::1", False),
        ("fe80::/10", "fe80::1%eth0", True),
        ("unix", None, True),
        ("unix", "127.0.0.1", False),
        ("*", "203.0.113.66", True),
        ("*", "no address", True),
        ("*", None, True),
        ("127.0.0.1", "no address", False),
    ],
)
def test_the_trust_list(trusted: str, peer: str | None, *, believed: bool) -> None:
    """Addresses, networks, unix and * each mean what they say, for both families."""
    peers = TrustedPeers([trusted])

    assert peers.trusts(peer) is believed
    assert peers.trusts(peer) is believed, "also when asked again"


def test_trusting_everyone_can_be_seen() -> None:
    """The server warns at start when any client may choose its address."""
    assert TrustedPeers(["*"]).everyone
    assert not TrustedPeers(["127.0.0.1", "unix"]).everyone


def test_an_address_is_written_in_one_way() -> None:
    """However a proxy writes an address, the application gets it in its usual form."""
    peers = TrustedPeers(["10.0.0.0/8"])

    assert ("2001:db8::1", False) == peers.hop("2001:DB8:0::1")
    assert ("10.0.0.5", True) == peers.hop("::FFFF:10.0.0.5")
    assert peers.hop("10.0.0.05") is None


def test_a_flood_of_addresses_needs_no_memory() -> None:
    """Remembered addresses are bounded, and forgetting them changes nothing."""
    peers = TrustedPeers(["10.0.0.0/8"])
    for number in range(5000):
        address = str(ipaddress.ip_address(0xCB000000 + number))
        assert peers.hop(address) == (address, False)

    assert len(peers._hops) <= 1024
