"""
The PROXY protocol: a header before the client's first byte, which says who that is.

A proxy that passes bytes on, and reads no HTTP, can't add header fields to requests.
It writes one header for the whole connection instead: a line of text (version 1), or a
binary block, which may hold further facts, its TLVs (version 2). Here bytes become
:class:`Announced`; :mod:`~daphne_like.listeners.proxy_transports` gets the bytes.

Source: HAProxy's ``proxy-protocol.txt``, "The PROXY protocol Versions 1 & 2".

Tests: ``tests/unit/listeners/test_proxy_protocol.py``.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address as IPv4
from ipaddress import IPv6Address as IPv6
from typing import TYPE_CHECKING

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress

from daphne_like.protocols.tls_extension import tls_told_by_proxy

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from twisted.internet.interfaces import IAddress

__all__ = ["Announced", "MalformedHeader", "read_header"]

# Section 2.1: "a 108-byte buffer is always enough to store all the line and a
# trailing zero".
_V1_BEGINNING = b"PROXY "
_V1_MOST_BYTES = 107
_V1_LINE = re.compile(
    rb"PROXY (?:(UNKNOWN)(?: .*)?"
    rb"|TCP([46]) ([0-9a-fA-F:.]+) ([0-9a-fA-F:.]+) (0|[1-9]\d{0,4}) (0|[1-9]\d{0,4}))",
    re.DOTALL,
)

# Section 2.2: signature, version and command, family and transport, length.
_V2_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_V2_HEAD = struct.Struct("!12sBBH")
# Its 16 bits would allow more; certificates of clients are the largest that comes.
_V2_MOST_BYTES = 16 * 1024
_LOCAL, _PROXY = 0x20, 0x21
_UNSPECIFIED, _TCP4, _TCP6, _UNIX = 0x00, 0x11, 0x21, 0x31
_ADDRESSES = {
    _TCP4: struct.Struct("!4s4sHH"),
    _TCP6: struct.Struct("!16s16sHH"),
    _UNIX: struct.Struct("!108s108s"),
}

# Section 2.2.1 and the following: a TLV is a type, a length and so many bytes.
_TLV_HEAD = struct.Struct("!BH")
_ALPN, _AUTHORITY, _CRC32C, _NOOP, _UNIQUE_ID = 0x01, 0x02, 0x03, 0x04, 0x05
_SSL, _NETNS = 0x20, 0x30
_KNOWN = frozenset({_ALPN, _AUTHORITY, _CRC32C, _NOOP, _UNIQUE_ID, _SSL, _NETNS})

# Section 2.2.6: what the client did, and whether its certificate was found wrong.
_SSL_HEAD = struct.Struct("!BI")
_CLIENT_SSL, _CLIENT_CERT_CONNECTION, _CLIENT_CERT_SESSION = 0x01, 0x02, 0x04
_SSL_TEXTS = {
    "ssl_version": 0x21,
    "ssl_client_cn": 0x22,
    "ssl_cipher": 0x23,
    "ssl_signature_algorithm": 0x24,
    "ssl_key_algorithm": 0x25,
    "ssl_group": 0x26,
}
_SSL_CLIENT_CERTIFICATE = 0x28


class MalformedHeader(ValueError):
    """What came is no header of the PROXY protocol, or not a sound one."""


@dataclass(frozen=True, slots=True)
class Announced:
    """
    What a proxy says of a connection which it passes on.

    Attributes:
        version: Of the PROXY protocol.
        source: The client's address.
        destination: The address which the client connected to.
        tlvs: Type and value of each, in the order received.
    """

    version: int
    source: IAddress
    destination: IAddress
    tlvs: Sequence[tuple[int, bytes]] = ()

    @property
    def scheme(self) -> str | None:
        """The client's URL scheme; None where the header doesn't tell."""
        ssl = self._ssl()
        if ssl is None:
            return None
        return "https" if ssl.flags & _CLIENT_SSL else "http"

    def tls_extension(self) -> dict[str, object] | None:
        """
        Tell the client's TLS, which the proxy has ended, as ASGI's extension does.

        What a header doesn't tell is None, for instance the proxy's certificate.
        """
        ssl = self._ssl()
        if ssl is None or not ssl.flags & _CLIENT_SSL:
            return None
        error = None
        if ssl.has_certificate and ssl.verify:
            error = f"the proxy could not verify it (OpenSSL's error {ssl.verify})"
        return tls_told_by_proxy(
            ssl.text("ssl_version"),
            ssl.text("ssl_cipher"),
            ssl.values.get(_SSL_CLIENT_CERTIFICATE),
            error,
        )

    def extension(self, proxy: tuple[str, int] | None) -> dict[str, object]:
        """
        Tell all that has no place of its own in a scope.

        Args:
            proxy: The address of the proxy; None on a Unix socket.

        Returns:
            Values which can't be changed, so that a copy of the dict is a copy of
            all.
        """
        values = dict(self.tlvs)
        facts: dict[str, object] = {
            "version": self.version,
            "proxy": proxy,
            "alpn": _text(values.get(_ALPN)),
            "authority": _text(values.get(_AUTHORITY)),
            "unique_id": values.get(_UNIQUE_ID),
            "netns": _text(values.get(_NETNS)),
            "ssl": None,
            "ssl_client_verified": None,
        }
        ssl = self._ssl()
        facts.update((name, ssl and ssl.text(name)) for name in _SSL_TEXTS)
        if ssl is not None:
            facts["ssl"] = bool(ssl.flags & _CLIENT_SSL)
            if ssl.has_certificate:
                facts["ssl_client_verified"] = not ssl.verify
        facts["tlvs"] = tuple(item for item in self.tlvs if item[0] not in _KNOWN)
        return facts

    def _ssl(self) -> _SSLFacts | None:
        for kind, value in self.tlvs:
            if kind == _SSL:
                return _SSLFacts.read(value)
        return None


@dataclass(frozen=True, slots=True)
class _SSLFacts:
    """The TLV about the client's TLS (section 2.2.6)."""

    flags: int
    verify: int
    values: Mapping[int, bytes]

    @classmethod
    def read(cls, value: bytes) -> _SSLFacts:
        if len(value) < _SSL_HEAD.size:
            raise MalformedHeader("its TLV about TLS is too short")
        flags, verify = _SSL_HEAD.unpack_from(value)
        tlvs = _read_tlvs(value, _SSL_HEAD.size)
        return cls(flags, verify, {kind: found for kind, _, found in tlvs})

    @property
    def has_certificate(self) -> bool:
        """The client has shown a certificate, now or when the session began."""
        return bool(self.flags & (_CLIENT_CERT_CONNECTION | _CLIENT_CERT_SESSION))

    def text(self, name: str) -> str | None:
        return _text(self.values.get(_SSL_TEXTS[name]))


def read_header(data: bytes) -> tuple[Announced | None, int] | None:
    """
    Read the header at the beginning of a connection.

    Args:
        data: All that has come so far.

    Returns:
        None when more is needed. Else what it announces, and the size of the header
        in bytes. It announces None where the real addresses count: when the proxy
        has connected for itself, for a health check, say, or can't tell.

    Raises:
        MalformedHeader: The connection must be closed.
    """
    if _V2_SIGNATURE.startswith(data[:12]):
        return _read_v2(data)
    if _V1_BEGINNING.startswith(data[:6]):
        return _read_v1(data)
    raise MalformedHeader("it begins with something else")


def _read_v1(data: bytes) -> tuple[Announced | None, int] | None:
    """Read the line of text (section 2.1)."""
    end = data.find(b"\r\n", 0, _V1_MOST_BYTES)
    if end < 0:
        if len(data) >= _V1_MOST_BYTES:
            raise MalformedHeader("its line is too long")
        return None
    found = _V1_LINE.fullmatch(data, 0, end)
    if found is None:
        raise MalformedHeader("its line has another form")
    unknown, version, *words = (text.decode("ascii") for text in found.groups(b""))
    if unknown:
        # "the receiver must ignore anything presented before the CRLF is found"
        return None, end + 2
    source, destination, source_port, destination_port = words
    address = _ipv4 if version == "4" else _ipv6
    try:
        announced = Announced(
            1,
            address(source, int(source_port)),
            address(destination, int(destination_port)),
        )
    except ValueError as error:
        raise MalformedHeader(f"an address or port is wrong: {error}") from None
    return announced, end + 2


def _read_v2(data: bytes) -> tuple[Announced | None, int] | None:
    """Read the binary block (section 2.2)."""
    if len(data) < _V2_HEAD.size:
        return None
    _, command, family, length = _V2_HEAD.unpack_from(data)
    size = _V2_HEAD.size + length
    # "Receivers must drop connections presenting unexpected values here."
    if command not in (_LOCAL, _PROXY):
        raise MalformedHeader(f"version and command 0x{command:02x} are unknown")
    if command == _PROXY and family != _UNSPECIFIED and family not in _ADDRESSES:
        raise MalformedHeader(f"family 0x{family:02x} is no stream")
    if size > _V2_MOST_BYTES:
        raise MalformedHeader(f"it is {size} bytes long")
    if len(data) < size:
        return None
    if command == _LOCAL or family == _UNSPECIFIED:
        # "use the real connection endpoints and must discard the protocol block"
        return None, size
    return _read_block(data[:size], family), size


def _read_block(header: bytes, family: int) -> Announced:
    form = _ADDRESSES[family]
    if len(header) < _V2_HEAD.size + form.size:
        raise MalformedHeader("its addresses are cut off")
    source, destination = _addresses(form.unpack_from(header, _V2_HEAD.size), family)
    tlvs = []
    for kind, offset, value in _read_tlvs(header, _V2_HEAD.size + form.size):
        if kind == _CRC32C:
            _check_sum(header, offset, value)
        elif kind == _SSL:
            _SSLFacts.read(value)  # what is wrong is to be found now
        tlvs.append((kind, value))
    return Announced(2, source, destination, tuple(tlvs))


def _addresses(
    found: tuple[bytes, bytes, int, int] | tuple[bytes, bytes], family: int
) -> tuple[IAddress, IAddress]:
    if len(found) == 2:
        source, destination = (path.rstrip(b"\0") or None for path in found)
        return UNIXAddress(source), UNIXAddress(destination)
    address = _ipv4 if family == _TCP4 else _ipv6
    return address(found[0], found[2]), address(found[1], found[3])


def _ipv4(address: str | bytes, port: int) -> IAddress:
    return IPv4Address("TCP", str(IPv4(address)), _port(port))


def _ipv6(address: str | bytes, port: int) -> IAddress:
    found = IPv6(address)
    # A proxy which listens for both families shows an IPv4 client as ::ffff:192.0.2.1.
    # Elsewhere in a chain it is one of IPv4, and so it is in headers.
    if found.ipv4_mapped is not None:
        return _ipv4(found.ipv4_mapped.packed, port)
    return IPv6Address("TCP", str(found), _port(port))


def _port(port: int) -> int:
    if port > 0xFFFF:
        raise ValueError(f"{port} is no port")
    return port


def _read_tlvs(data: bytes, offset: int) -> Iterator[tuple[int, int, bytes]]:
    """Yield the type of each TLV, where its value begins, and the value."""
    while offset < len(data):
        if len(data) - offset < _TLV_HEAD.size:
            raise MalformedHeader("a TLV is cut off")
        kind, length = _TLV_HEAD.unpack_from(data, offset)
        offset += _TLV_HEAD.size
        if len(data) - offset < length:
            raise MalformedHeader("a TLV is cut off")
        yield kind, offset, data[offset : offset + length]
        offset += length


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "replace")


# -- Checksums ---------------------------------------------------------------


def _check_sum(header: bytes, offset: int, value: bytes) -> None:
    """Compare the checksum of a header, in which its own field counts as zeros."""
    # Section 2.2.4: "If the PP2_TYPE_CRC32C TLV is present, its value must match".
    blank = header[:offset] + bytes(4) + header[offset + 4 :]
    if len(value) != 4 or int.from_bytes(value, "big") != _crc32c(blank):
        raise MalformedHeader("its checksum is wrong")


def _crc32c(data: bytes) -> int:
    """Compute the checksum of RFC 9260 appendix A, Castagnoli's."""
    table, value = _crc_table(), 0xFFFFFFFF
    for byte in data:
        value = table[(value ^ byte) & 0xFF] ^ value >> 8
    return value ^ 0xFFFFFFFF


@lru_cache(maxsize=1)
def _crc_table() -> Sequence[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)  # noqa: PLW2901
        table.append(value)
    return table
