"""
Whom to believe about clients: the trust list of proxies.

What a proxy in front says of a client, by headers or by the PROXY protocol, anybody
else can say too. So it is believed from the peers of this list only.

Tests: ``tests/unit/test_trusted_peers.py``.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Hop", "TrustedPeers"]

# Parsing an address and looking for it in a few networks takes some
# microseconds; proxies are few and clients come back. A flood of addresses
# makes the cache useless, never large.
_CACHED_ADDRESSES = 1024


class Hop(NamedTuple):
    """An address in a chain of proxies."""

    address: str
    """As Python writes it; an IPv4 address mapped into IPv6 is one of IPv4."""

    trusted: bool


class TrustedPeers:
    """
    A trust list; asked by one thread.

    Args:
        entries: Addresses, networks, ``unix`` and ``*``; valid.

    Attributes:
        everyone: All peers are believed. Any client can then choose its address, so
            the caller warns at start; right only where nobody but proxies can
            connect.
    """

    __slots__ = ("_hops", "_networks", "_unix", "everyone")

    def __init__(self, entries: Iterable[str]) -> None:
        entries = tuple(entries)
        self.everyone = "*" in entries
        # They passed file permissions.
        self._unix = "unix" in entries
        # An address alone is a network of one.
        self._networks = tuple(
            ipaddress.ip_network(entry)
            for entry in entries
            if entry not in ("*", "unix")
        )
        self._hops: dict[str, Hop | None] = {}

    def trusts(self, host: str | None) -> bool:
        """Whether the peer at an address is believed; None is one on a Unix socket."""
        if self.everyone:
            return True
        if host is None:
            return self._unix
        hop = self.hop(host)
        return hop is not None and hop.trusted

    def hop(self, host: str) -> Hop | None:
        """Look up an address; None when the text isn't one."""
        try:
            return self._hops[host]
        except KeyError:
            hop = self._examine(host)
            if len(self._hops) >= _CACHED_ADDRESSES:
                self._hops.clear()
            self._hops[host] = hop
            return hop

    def _examine(self, host: str) -> Hop | None:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return None
        trusted = self.everyone or self._is_listed(address)
        # A socket for both families shows an IPv4 peer as ::ffff:192.0.2.1.
        mapped = getattr(address, "ipv4_mapped", None)
        if mapped is not None:
            address = mapped
            trusted = trusted or self._is_listed(mapped)
        return Hop(str(address), trusted)

    def _is_listed(
        self, address: ipaddress.IPv4Address | ipaddress.IPv6Address
    ) -> bool:
        return any(address in network for network in self._networks)
