"""
What a trusted proxy says about the client, in the place of what the socket says.

A proxy in front hides the client: the peer of our connection is the proxy, and
the scheme is that of its connection to us. It passes the truth on in headers,
which anybody else can send too. So they are believed from the peers of a trust
list only, and ``X-Forwarded-For`` is read from the right: each proxy appends the
peer it saw, so the first address from the right that isn't one of our proxies
was seen by one of them. Whatever stands left of it may be the client's invention
(CWE-348, spoofing of the source address).

``X-Forwarded-*`` have no RFC; Daphne's options name the headers.

Tests: ``tests/unit/test_forwarded.py``.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote_to_bytes

if TYPE_CHECKING:
    from daphne_like.settings import ProxySettings

__all__ = ["DaphneForwardedPolicy", "Forwarded", "ForwardedPolicy"]

Address = tuple[str, int]
Headers = list[tuple[bytes, bytes]]
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_ROOT_PATH = b"daphne-root-path"

# Parsing an address and looking for it in a few networks takes some
# microseconds; proxies are few and clients come back. A flood of addresses
# makes the cache useless, never large.
_CACHED_ADDRESSES = 1024

# An element of X-Forwarded-For: an address, or an address and a port, which for
# IPv6 needs brackets. ipaddress has the last word on what looks like an address;
# zones (fe80::1%eth0) are left out, since they may hold any text.
_ELEMENT = re.compile(
    rb"""
    (?: \[ ([0-9a-fA-F:.]{2,45}) \] | ([0-9.]{7,15}) ) (?: :([0-9]{1,5}) )?
    | ([0-9a-fA-F:.]{2,45})
    """,
    re.VERBOSE,
)


class Forwarded(NamedTuple):
    """What the scope shall show of the connection and the head."""

    client: Address | None
    """Address and port of the client; port 0 when the proxy named none."""

    scheme: str
    """``http`` or ``https``, as the client sees it."""

    root_path: str | None
    """The root path the proxy gave, decoded; None leaves the one of the settings."""

    headers: Headers
    """The headers for the scope: those received, without ``Daphne-Root-Path``."""


class _Hop(NamedTuple):
    """An address in a chain of proxies."""

    address: str
    trusted: bool


@dataclass(frozen=True, slots=True)
class ForwardedPolicy:
    """
    Which peers are believed, and which of their headers are read.

    Made once from the settings; asked for each request by one thread.
    """

    networks: tuple[_Network, ...]
    """Trusted networks; an address alone is a network of one."""

    trusts_unix: bool
    """Whether peers on Unix sockets are believed: they passed file permissions."""

    trusts_everyone: bool
    """Whether all peers are believed. Any client can then choose its address, so
    the caller warns at start; right only where nobody but proxies can connect."""

    address_header: bytes
    """Lower-case name of the header with the chain of addresses."""

    port_header: bytes
    """Lower-case name of the header with the client's port; empty for none."""

    proto_header: bytes
    """Lower-case name of the header with the client's scheme; empty for none."""

    _hops: dict[str, _Hop | None] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def from_settings(cls, settings: ProxySettings) -> ForwardedPolicy | None:
        """
        Make the policy these settings ask for.

        Returns:
            None when proxies are not believed at all, so that the caller has
            nothing to do for a request.
        """
        if not settings.proxy_headers:
            return None
        trusted = settings.forwarded_allow_ips
        return cls(
            networks=tuple(
                ipaddress.ip_network(entry)
                for entry in trusted
                if entry not in ("*", "unix")
            ),
            trusts_unix="unix" in trusted,
            trusts_everyone="*" in trusted,
            address_header=settings.proxy_headers_host.lower().encode(),
            port_header=settings.proxy_headers_port.lower().encode(),
            proto_header=settings.proxy_headers_proto.lower().encode(),
        )

    def resolve(self, peer: Address | None, scheme: str, headers: Headers) -> Forwarded:
        """
        Tell whom the application shall take for the client.

        Args:
            peer: Address and port of the connection's other end; None on a
                Unix socket.
            scheme: That of the connection.
            headers: Pairs of lower-case name and value, in the order received;
                not changed.

        Returns:
            What a trusted peer says, or what was given where it says nothing
            that can be understood. Never raises, whatever the values hold.
        """
        if not self.trusts(peer):
            return Forwarded(peer, scheme, None, headers)
        addresses: list[bytes] = []
        ports: list[bytes] = []
        protos: list[bytes] = []
        root_path: str | None = None
        for name, value in headers:
            if name == self.address_header:
                addresses.append(value)
            elif name == self.port_header:
                ports.append(value)
            elif name == self.proto_header:
                protos.append(value)
            elif name == _ROOT_PATH:
                # The last one is the nearest proxy's, should an earlier one
                # have passed a client's header on.
                root_path = unquote_to_bytes(value).decode("utf-8", "replace")
        client = peer
        if addresses:
            client = self._client(addresses, ports) or peer
        if protos:
            scheme = _scheme(protos) or scheme
        if root_path is not None:
            headers = [header for header in headers if header[0] != _ROOT_PATH]
        return Forwarded(client, scheme, root_path, headers)

    def trusts(self, peer: Address | None) -> bool:
        """Whether a peer is believed; None is one on a Unix socket."""
        if self.trusts_everyone:
            return True
        if peer is None:
            return self.trusts_unix
        hop = self._hop(peer[0])
        return hop is not None and hop.trusted

    def _client(self, addresses: list[bytes], ports: list[bytes]) -> Address | None:
        """
        Walk from the peer towards the client, as long as our proxies vouch.

        Returns:
            The first address that isn't a trusted proxy, or the furthest proxy;
            None when the nearest proxy named no address at all.
        """
        client: Address | None = None
        # RFC 9110 section 5.3: lines of one name are one list, in their order.
        for element in reversed(b",".join(addresses).split(b",")):
            text = element.strip(b" \t")
            if not text:
                # RFC 9110 section 5.6.1.2: "A recipient MUST parse and ignore a
                # reasonable number of empty list elements".
                continue
            match = _ELEMENT.fullmatch(text)
            if match is None:
                # "unknown", "_hidden", garbage: what is left of it was not seen
                # by anyone we know.
                break
            in_brackets, ipv4, port, bare = match.groups()
            hop = self._hop((in_brackets or ipv4 or bare).decode("ascii"))
            if hop is None:
                break
            client = (hop.address, _port(port) if port else _last_port(ports))
            if not hop.trusted:
                break
        return client

    def _hop(self, host: str) -> _Hop | None:
        """Look up an address; None when the text isn't one."""
        try:
            return self._hops[host]
        except KeyError:
            hop = self._examine(host)
            if len(self._hops) >= _CACHED_ADDRESSES:
                self._hops.clear()
            self._hops[host] = hop
            return hop

    def _examine(self, host: str) -> _Hop | None:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return None
        trusted = self.trusts_everyone or self._is_listed(address)
        # A socket for both families shows an IPv4 peer as ::ffff:192.0.2.1.
        mapped = getattr(address, "ipv4_mapped", None)
        if mapped is not None:
            address = mapped
            trusted = trusted or self._is_listed(mapped)
        return _Hop(str(address), trusted)

    def _is_listed(
        self, address: ipaddress.IPv4Address | ipaddress.IPv6Address
    ) -> bool:
        return any(address in network for network in self.networks)


@dataclass(frozen=True, slots=True)
class DaphneForwardedPolicy(ForwardedPolicy):
    """
    The same as Daphne does it, for ``daphne_compat``.

    The client is the left-most address, and scheme and port count only beside
    one. ``Daphne-Root-Path`` is read even where the other headers are not. Anyone
    can write all that, and by default everyone is believed.
    """

    reads_client: bool = False
    """Whether the other headers are read: ``proxy_headers``."""

    @classmethod
    def from_settings(cls, settings: ProxySettings) -> DaphneForwardedPolicy:
        """Make the policy; there always is one."""
        trusting = ForwardedPolicy.from_settings(replace(settings, proxy_headers=True))
        assert trusting is not None
        return cls(
            trusting.networks,
            trusting.trusts_unix,
            trusting.trusts_everyone,
            trusting.address_header,
            trusting.port_header,
            trusting.proto_header,
            reads_client=settings.proxy_headers,
        )

    def resolve(self, peer: Address | None, scheme: str, headers: Headers) -> Forwarded:
        """Tell whom the application shall take for the client."""
        told = ForwardedPolicy.resolve(self, peer, scheme, headers)
        addresses = [value for name, value in headers if name == self.address_header]
        if not (self.reads_client and addresses):
            return told._replace(client=peer, scheme=scheme)
        return told

    def _client(self, addresses: list[bytes], ports: list[bytes]) -> Address | None:
        """Take the left-most address; None when that is none."""
        elements = b",".join(addresses).split(b",")
        text = next((item for item in map(bytes.strip, elements) if item), b"")
        match = _ELEMENT.fullmatch(text)
        if match is None:
            return None
        in_brackets, ipv4, port, bare = match.groups()
        hop = self._hop((in_brackets or ipv4 or bare).decode("ascii"))
        if hop is None:
            return None
        return hop.address, _port(port or (ports[0] if ports else b""))


def _port(text: bytes) -> int:
    """A port in digits, or 0."""
    # Only ASCII digits count for bytes, and five of them hold each port.
    if not text.isdigit() or len(text) > 5:
        return 0
    port = int(text)
    return port if port <= 0xFFFF else 0


def _last_port(lines: list[bytes]) -> int:
    return _port(_last_element(lines)) if lines else 0


def _scheme(lines: list[bytes]) -> str | None:
    """The scheme the nearest proxy saw, or None when it is no scheme of HTTP."""
    scheme = _last_element(lines).lower()
    return scheme.decode("ascii") if scheme in (b"http", b"https") else None


def _last_element(lines: list[bytes]) -> bytes:
    """The last element of a list, which the nearest proxy has added."""
    return b",".join(lines).rstrip(b", \t").rpartition(b",")[2].strip(b" \t")
