"""
What a trusted proxy says about the client, in the place of what the socket says.

A proxy in front hides the client: the peer of our connection is the proxy, and
the scheme is that of its connection to us. It passes the truth on in headers,
which anybody else can send too. So they are believed from the peers of a trust
list only, and chains are read from the right: each proxy appends the peer it saw, so
the first address from the right that isn't one of our proxies was seen by one of
them. Whatever stands left of it may be the client's invention (CWE-348, spoofing of
the source address).

``X-Forwarded-*`` have no RFC; Daphne's options name the headers. ``Forwarded`` is RFC
7239's. A proxy writes one kind, and mostly lets clients write the other. So only one
kind counts for a request, and which one is a setting.

Tests: ``tests/unit/test_forwarded.py``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote_to_bytes

from daphne_like.trusted_peers import TrustedPeers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from daphne_like.settings import ProxySettings

__all__ = ["DaphneForwardedPolicy", "Forwarded", "ForwardedPolicy"]

Address = tuple[str, int]
Headers = list[tuple[bytes, bytes]]

_ROOT_PATH = b"daphne-root-path"
_FORWARDED = b"forwarded"
_HOST = b"host"

_SCHEMES = {b"http": "http", b"https": "https", b"ws": "http", b"wss": "https"}

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

# RFC 7239 section 6: an address, which for IPv6 needs brackets, and a port, which may
# be a name.
_NODE = re.compile(
    rb"""
    (?: \[ ([0-9a-fA-F:.]{2,45}) \] | ([0-9.]{7,15}) )
    (?: :(?: ([0-9]{1,5}) | _[A-Za-z0-9._-]+ ) )?
    """,
    re.VERBOSE,
)

# RFC 7239 section 4, the last pair of an element, read from its end: else a client
# could begin a quoted string which swallows what the proxy has appended. Without
# escapes, which no address, name or scheme needs, that has one meaning only.
_LAST_PAIR_REVERSED = re.compile(
    rb"""
    [ \t]* (?: "([^"\\]*)" | ([!#$%&'*+.^_`|~0-9A-Za-z-]+) )
    = ([!#$%&'*+.^_`|~0-9A-Za-z-]+) [ \t]*
    (?: (;) | ,[ ,\t]* | \Z )
    """,
    re.VERBOSE,
)

# RFC 9110 section 7.2, as strict as the names of hosts are: applications make URLs
# of it.
_AUTHORITY = re.compile(
    rb"(?: [A-Za-z0-9._-]{1,255} | \[ [0-9a-fA-F:.]{2,45} \] ) (?: :[0-9]{1,5} )?",
    re.VERBOSE,
)


# What would make another host of it in a link or a redirect: two slashes, and what
# browsers take for that, since they drop control characters and turn backslashes.
_LEADS_AWAY = re.compile(r"/[/\\]|.*[\x00-\x1f\x7f]", re.DOTALL)


class Forwarded(NamedTuple):
    """What the scope shall show of the connection and the head."""

    client: Address | None
    """Address and port of the client; port 0 when the proxy named none."""

    scheme: str
    """``http`` or ``https``, as the client sees it."""

    root_path: str | None
    """The root path the proxy gave, decoded; None leaves the one of the settings."""

    headers: Headers
    """The headers for the scope: those received, without ``Daphne-Root-Path``, and
    with the ``Host`` which the client asked for."""


@dataclass(frozen=True, slots=True)
class ForwardedPolicy:
    """
    Which peers are believed, and which of their headers are read.

    Made once from the settings; asked for each request by one thread.
    """

    peers: TrustedPeers
    """Who is believed."""

    names: frozenset[bytes]
    """Lower-case names of all headers which are read."""

    address_header: bytes
    """Lower-case name of the header with the chain of addresses."""

    port_header: bytes
    """Lower-case name of the header with the client's port; empty for none."""

    proto_header: bytes
    """Lower-case name of the header with the client's scheme; empty for none."""

    authority_header: bytes
    """Lower-case name of the header with the host asked for; empty for none."""

    prefix_header: bytes
    """Lower-case name of the header with the root path; empty for none."""

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
        return cls(*_parts(settings))

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
        if not self.peers.trusts(None if peer is None else peer[0]):
            return Forwarded(peer, scheme, None, headers)
        names = self.names
        told: dict[bytes, list[bytes]] = {}
        for name, value in headers:
            if name in names:
                told.setdefault(name, []).append(value)
        if not told:
            return Forwarded(peer, scheme, None, headers)
        if _FORWARDED in told:
            seen = self._read_forwarded(told[_FORWARDED])
        else:
            seen = self._read_others(told)
        return Forwarded(
            seen.client or peer,
            seen.scheme or scheme,
            self._root_path(told),
            _with_authority(headers, seen.authority, cut=_ROOT_PATH in told),
        )

    def _read_others(self, told: dict[bytes, list[bytes]]) -> _Seen:
        """Read the headers which the settings name."""
        client, scheme, authority = None, None, None
        if addresses := told.get(self.address_header):
            client = self._client(addresses, told.get(self.port_header, []))
        if protos := told.get(self.proto_header):
            scheme = _SCHEMES.get(_last_element(protos).lower())
        if hosts := told.get(self.authority_header):
            authority = _last_element(hosts)
        return _Seen(client, scheme, authority)

    def _root_path(self, told: dict[bytes, list[bytes]]) -> str | None:
        """Read where the application is published; None when nobody says that."""
        if prefixes := told.get(self.prefix_header):
            prefix = _decoded(_last_element(prefixes)).rstrip("/")
            if prefix[:1] in ("", "/") and not _LEADS_AWAY.match(prefix):
                return prefix
        if root_paths := told.get(_ROOT_PATH):
            # The last one is the nearest proxy's, should an earlier one have passed
            # a client's header on.
            root_path = _decoded(root_paths[-1])
            if not _LEADS_AWAY.match(root_path):
                return root_path
        return None

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
            hop = self.peers.hop((in_brackets or ipv4 or bare).decode("ascii"))
            if hop is None:
                break
            client = (hop.address, _port(port) if port else _last_port(ports))
            if not hop.trusted:
                break
        return client

    def _read_forwarded(self, lines: list[bytes]) -> _Seen:
        """
        Walk through ``Forwarded`` as :meth:`_client` does.

        Each element tells what its proxy has seen, so that scheme and host are those
        of the last element which one of ours has written: as near to the client as it
        gets.
        """
        client, scheme, authority = None, None, None
        for element in _elements_from_the_right(lines):
            scheme = _SCHEMES.get(element.get(b"proto", b"").lower()) or scheme
            authority = element.get(b"host") or authority
            # RFC 7239 section 6: it may also be unknown, or a name which hides it.
            match = _NODE.fullmatch(element.get(b"for", b""))
            if match is None:
                break
            in_brackets, ipv4, port = match.groups()
            hop = self.peers.hop((in_brackets or ipv4).decode("ascii"))
            if hop is None:
                break
            client = (hop.address, _port(port or b""))
            if not hop.trusted:
                break
        return _Seen(client, scheme, authority)


class _Seen(NamedTuple):
    """What proxies have seen; None for what they don't tell."""

    client: Address | None
    scheme: str | None
    authority: bytes | None


@dataclass(frozen=True, slots=True)
class DaphneForwardedPolicy(ForwardedPolicy):
    """
    The same as Daphne does it, for ``daphne_compat``.

    The client is the left-most address, and scheme and port count only beside
    one. ``Daphne-Root-Path`` is read even where the other headers are not. Anyone
    can write all that, and by default everyone is believed. What Daphne doesn't
    know is read as ever.
    """

    reads_client: bool = False
    """Whether the other headers are read: ``proxy_headers``."""

    @classmethod
    def from_settings(cls, settings: ProxySettings) -> DaphneForwardedPolicy:
        """Make the policy; there always is one."""
        parts = _parts(replace(settings, proxy_headers=True))
        return cls(*parts, reads_client=settings.proxy_headers)

    def _read_others(self, told: dict[bytes, list[bytes]]) -> _Seen:
        """Read scheme and client only beside an address."""
        seen = ForwardedPolicy._read_others(self, told)
        if self.reads_client and self.address_header in told:
            return seen
        return seen._replace(client=None, scheme=None)

    def _client(self, addresses: list[bytes], ports: list[bytes]) -> Address | None:
        """Take the left-most address; None when that is none."""
        elements = b",".join(addresses).split(b",")
        text = next((item for item in map(bytes.strip, elements) if item), b"")
        match = _ELEMENT.fullmatch(text)
        if match is None:
            return None
        in_brackets, ipv4, port, bare = match.groups()
        hop = self.peers.hop((in_brackets or ipv4 or bare).decode("ascii"))
        if hop is None:
            return None
        return hop.address, _port(port or (ports[0] if ports else b""))


_Parts = tuple[TrustedPeers, frozenset[bytes], bytes, bytes, bytes, bytes, bytes]


def _parts(settings: ProxySettings) -> _Parts:
    """Return the parts of a policy, in the order of its fields."""
    address, port, proto, authority, prefix = (
        name.lower().encode()
        for name in (
            settings.proxy_headers_host,
            settings.proxy_headers_port,
            settings.proxy_headers_proto,
            settings.proxy_headers_authority,
            settings.proxy_headers_prefix,
        )
    )
    names = {_ROOT_PATH, prefix}
    if settings.proxy_headers_forwarded != "only":
        names |= {address, port, proto, authority}
    if settings.proxy_headers_forwarded != "ignore":
        names.add(_FORWARDED)
    return (
        TrustedPeers(settings.forwarded_allow_ips),
        frozenset(names - {b""}),
        *(address, port, proto, authority, prefix),
    )


def _elements_from_the_right(lines: list[bytes]) -> Iterator[dict[bytes, bytes]]:
    """
    Yield the elements of ``Forwarded``, the last one first, up to one that isn't sound.

    An element is a dict of lower-case names and values.
    """
    text = b",".join(lines)[::-1]
    element: dict[bytes, bytes] = {}
    position = len(text) - len(text.lstrip(b", \t"))
    while match := _LAST_PAIR_REVERSED.match(text, position):
        quoted, token, name, before = match.groups()
        name = name[::-1].lower()
        # RFC 7239 section 4: "Each parameter MUST NOT occur more than once".
        if name in element:
            return
        element[name] = (token if quoted is None else quoted)[::-1]
        position = match.end()
        if before != b";":
            yield element
            element = {}


def _with_authority(headers: Headers, authority: bytes | None, *, cut: bool) -> Headers:
    """
    Return the headers for the scope.

    Args:
        headers: Those received.
        authority: The host which the client asked for, if that is known.
        cut: Whether there is a ``Daphne-Root-Path``, which nobody is to see.
    """
    if authority is not None and not _AUTHORITY.fullmatch(authority):
        authority = None
    if authority is None and not cut:
        return headers
    hidden = {_ROOT_PATH} if authority is None else {_ROOT_PATH, _HOST}
    shown = [header for header in headers if header[0] not in hidden]
    return shown if authority is None else [(_HOST, authority), *shown]


def _decoded(path: bytes) -> str:
    return unquote_to_bytes(path).decode("utf-8", "replace")


def _port(text: bytes) -> int:
    """A port in digits, or 0."""
    # Only ASCII digits count for bytes, and five of them hold each port.
    if not text.isdigit() or len(text) > 5:
        return 0
    port = int(text)
    return port if port <= 0xFFFF else 0


def _last_port(lines: list[bytes]) -> int:
    return _port(_last_element(lines)) if lines else 0


def _last_element(lines: list[bytes]) -> bytes:
    """The last element of a list, which the nearest proxy has added."""
    return b",".join(lines).rstrip(b", \t").rpartition(b",")[2].strip(b" \t")
