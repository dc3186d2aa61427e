"""Tests of ``daphne_like.listeners.proxy_protocol``."""

from __future__ import annotations

import socket
import struct

import pytest
from certificates import Authority
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from proxy_headers import (
    LOCAL,
    SIGNATURE,
    TCP4,
    TCP6,
    UDP4,
    UNIX,
    UNSPECIFIED,
    tls_tlv,
    tlv,
    v2,
    with_checksum,
)
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress

from daphne_like.listeners.proxy_protocol import (
    Announced,
    MalformedHeader,
    _crc32c,
    read_header,
)

V1 = b"PROXY TCP4 192.0.2.1 203.0.113.5 56324 443\r\n"


def announced(data: bytes) -> Announced:
    """Read a header which announces a client, and which ends with the data."""
    found = read_header(data)
    assert found is not None
    told, size = found
    assert told is not None
    assert len(data) == size
    return told


# Version 1


@pytest.mark.parametrize(
    ("line", "source", "destination"),
    [
        (
            V1,
            IPv4Address("TCP", "192.0.2.1", 56324),
            IPv4Address("TCP", "203.0.113.5", 443),
        ),
        (
            b"PROXY TCP6 2001:DB8:0::1 ::1 0 65535\r\n",
            IPv6Address("TCP", "2001:db8::1", 0),
            IPv6Address("TCP", "::1", 65535),
        ),
        (
            b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:cb00:7105 56324 443\r\n",
            IPv4Address("TCP", "192.0.2.1", 56324),
            IPv4Address("TCP", "203.0.113.5", 443),
        ),
        (
            b"PROXY TCP6 ffff:f...f:ffff".replace(b"f...f", b":".join([b"ffff"] * 6))
            + b" ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
            IPv6Address("TCP", ":".join(["ffff"] * 8), 65535),
            IPv6Address("TCP", ":".join(["ffff"] * 8), 65535),
        ),
    ],
)
def test_a_line_tells_both_addresses(
    line: bytes, source: object, destination: object
) -> None:
    """The client's, and the one which it connected to; nothing else."""
    told = announced(line)

    assert (source, destination) == (told.source, told.destination)
    assert (1, None, None) == (told.version, told.scheme, told.tls_extension())


@pytest.mark.parametrize(
    "line",
    [
        b"PROXY UNKNOWN\r\n",
        b"PROXY UNKNOWN anything \xff at all 1\r\n",
        b"PROXY UNKNOWN ffff::1 ffff::1 65535 65535\r\n",
    ],
)
def test_an_unknown_client_is_announced_by_nothing(line: bytes) -> None:
    """The real addresses count; HAProxy's health checks begin so."""
    assert (None, len(line)) == read_header(line + b"GET / HTTP/1.1\r\n")


@pytest.mark.parametrize(
    "line",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"proxy TCP4 192.0.2.1 203.0.113.5 56324 443\r\n",
        b"PROXY  TCP4 192.0.2.1 203.0.113.5 56324 443\r\n",
        b"PROXY TCP5 192.0.2.1 203.0.113.5 56324 443\r\n",
        b"PROXY UDP4 192.0.2.1 203.0.113.5 56324 443\r\n",
        b"PROXY TCP4 192.0.2.1  203.0.113.5 56324 443\r\n",
        b"PROXY TCP4 192.0.2.1 203.0.113.5 56324\r\n",
        b"PROXY TCP4 192.0.2.1 203.0.113.5 56324 443 \r\n",
        b"PROXY TCP4 192.0.2.256 203.0.113.5 56324 443\r\n",
        b"PROXY TCP4 192.0.2.01 203.0.113.5 56324 443\r\n",
        b"PROXY TCP4 ::1 ::1 56324 443\r\n",
        b"PROXY TCP6 192.0.2.1 203.0.113.5 56324 443\r\n",
        b"PROXY TCP4 192.0.2.1 203.0.113.5 056324 443\r\n",
        b"PROXY TCP4 192.0.2.1 203.0.113.5 65536 443\r\n",
        b"PROXY TCP4 192.0.2.1 203.0.113.5 -1 443\r\n",
        b"PROXY TCP4 localhost 203.0.113.5 1 443\r\n",
        b"PROXY UNKNOWNS\r\n",
        b"PROXY \r\n",
        b"PROXY UNKNOWN" + b"a" * 94,
        b"PROXY TCP4 192.0.2.1 203.0.113.5 56324 443\n" + b"a" * 70,
    ],
)
def test_a_malformed_line_is_refused(line: bytes) -> None:
    """Nothing is guessed: whoever writes such a line isn't a proxy, or is broken."""
    with pytest.raises(MalformedHeader):
        read_header(line)


def test_the_line_has_a_limit() -> None:
    """107 bytes, its end included."""
    line = b"PROXY UNKNOWN %b\r\n" % (b"a" * 91)
    assert 107 == len(line)

    assert (None, 107) == read_header(line)
    assert read_header(line[:-1]) is None
    with pytest.raises(MalformedHeader, match="too long"):
        read_header(line.replace(b"\r", b"a\r"))


# Version 2


@pytest.mark.parametrize(
    ("family", "addresses", "source", "destination"),
    [
        (
            TCP4,
            b"\xc0\0\2\1\xcb\0\x71\5\xdc\4\1\xbb",
            IPv4Address("TCP", "192.0.2.1", 56324),
            IPv4Address("TCP", "203.0.113.5", 443),
        ),
        (
            TCP6,
            socket.inet_pton(socket.AF_INET6, "2001:db8::1")
            + bytes(15)
            + b"\1\0\1\0\2",
            IPv6Address("TCP", "2001:db8::1", 1),
            IPv6Address("TCP", "::1", 2),
        ),
        (
            UNIX,
            b"/run/a".ljust(108, b"\0") + b"/run/b".ljust(108, b"\0"),
            UNIXAddress(b"/run/a"),
            UNIXAddress(b"/run/b"),
        ),
        (UNIX, bytes(216), UNIXAddress(None), UNIXAddress(None)),
    ],
)
def test_a_block_tells_both_addresses(
    family: int, addresses: bytes, source: object, destination: object
) -> None:
    """Of IPv4, of IPv6, and of Unix sockets."""
    told = announced(v2(family, addresses))

    assert (source, destination) == (told.source, told.destination)
    assert 2 == told.version


@pytest.mark.parametrize(
    "header",
    [
        v2(UNSPECIFIED, b"", command=LOCAL),
        v2(TCP4, command=LOCAL),
        v2(0x77, b"whatever", command=LOCAL),
        v2(UNSPECIFIED, b"whatever"),
        v2(UNSPECIFIED, b""),
    ],
)
def test_a_local_connection_is_announced_by_nothing(header: bytes) -> None:
    """The proxy has connected for itself, for a health check: it is the client."""
    assert (None, len(header)) == read_header(header + b"GET / HTTP/1.1\r\n")


@pytest.mark.parametrize(
    "header",
    [
        v2(TCP4).replace(b"QUIT", b"QUIX"),
        v2(TCP4, command=0x11),
        v2(TCP4, command=0x31),
        v2(TCP4, command=0x22),
        v2(UDP4),
        v2(0x32, bytes(216)),
        v2(0x13),
        v2(0x41),
        v2(TCP4, bytes(11)),
        v2(TCP6, bytes(35)),
        v2(UNIX, bytes(215)),
        v2(TCP4, tlvs=b"\5"),
        v2(TCP4, tlvs=b"\5\0"),
        v2(TCP4, tlvs=b"\5\0\2a"),
        v2(TCP4, tlvs=tlv(0x20, b"\1\0\0\0")),
        v2(TCP4, tlvs=tlv(0x20, b"\1\0\0\0\0\x21\0\2a")),
        v2(TCP4, tlvs=bytes(0xFFF0)),
    ],
)
def test_a_malformed_block_is_refused(header: bytes) -> None:
    """Also where only a part is wrong: what is left could be wrong as well."""
    with pytest.raises(MalformedHeader):
        read_header(header)


def test_what_makes_it_too_long_is_not_waited_for() -> None:
    """A peer can't make the server keep 64 KiB for each connection."""
    with pytest.raises(MalformedHeader, match="is 65551 bytes long"):
        read_header(SIGNATURE + b"\x21\x11\xff\xff")


def test_a_checksum_is_checked() -> None:
    """CRC32C, over the whole header; a wrong one closes the connection."""
    header = with_checksum(TCP4, tlv(5, b"an id") + tlv(4, b"  "))
    assert b"an id" == announced(header).extension(None)["unique_id"]
    broken = header.replace(b"an id", b"an ID")
    with pytest.raises(MalformedHeader, match="checksum"):
        read_header(broken)
    with pytest.raises(MalformedHeader, match="checksum"):
        read_header(v2(TCP4, tlvs=tlv(3, b"\0\0\0")))


def test_the_checksum_is_that_of_the_standard() -> None:
    """RFC 3720 appendix B.4 has these examples."""
    assert 0xE3069283 == _crc32c(b"123456789")
    assert 0x8A9136AA == _crc32c(bytes(32))
    assert 0x46DD794E == _crc32c(bytes(range(32)))


# What the TLVs tell


def test_facts_without_a_place_in_scopes_are_an_extension() -> None:
    """Each has a name; what has none is a pair of type and value."""
    told = announced(
        v2(
            TCP4,
            tlvs=tlv(1, b"h2")
            + tlv(2, "bücher.example".encode())
            + tlv(4, b"filling")
            + tlv(5, b"\x00id")
            + tlv(0x30, b"blue")
            + tlv(0xEA, b"\1vpce-08d2bf15fac5001c9"),
        )
    )

    assert {
        "version": 2,
        "proxy": ("10.0.0.2", 1),
        "alpn": "h2",
        "authority": "bücher.example",
        "unique_id": b"\x00id",
        "netns": "blue",
        "ssl": None,
        "ssl_version": None,
        "ssl_cipher": None,
        "ssl_client_cn": None,
        "ssl_client_verified": None,
        "ssl_group": None,
        "ssl_key_algorithm": None,
        "ssl_signature_algorithm": None,
        "tlvs": ((0xEA, b"\1vpce-08d2bf15fac5001c9"),),
    } == told.extension(("10.0.0.2", 1))
    assert told.scheme is None


def test_tls_which_the_proxy_has_ended() -> None:
    """The scope has https, and ASGI's extension with what the proxy knows."""
    facts = {0x21: b"TLSv1.3", 0x23: b"TLS_AES_256_GCM_SHA384", 0x26: b"x25519"}
    told = announced(v2(TCP4, tlvs=tls_tlv(1, facts)))

    assert "https" == told.scheme
    assert {
        "server_cert": None,
        "client_cert_chain": (),
        "client_cert_name": None,
        "client_cert_error": None,
        "tls_version": 0x0304,
        "cipher_suite": 0x1302,
    } == told.tls_extension()
    extension = told.extension(None)
    assert (True, "TLSv1.3", "x25519") == (
        extension["ssl"],
        extension["ssl_version"],
        extension["ssl_group"],
    )
    assert extension["ssl_client_verified"] is None


def test_a_client_without_tls() -> None:
    """A proxy may say that too."""
    told = announced(v2(TCP4, tlvs=tls_tlv(0, {})))

    assert ("http", None) == (told.scheme, told.tls_extension())
    assert told.extension(None)["ssl"] is False


@pytest.mark.parametrize("flags", [0b011, 0b101])
@pytest.mark.parametrize("verify", [0, 18])
def test_the_certificate_of_a_client(flags: int, verify: int) -> None:
    """Shown on this connection or an earlier one, valid or not."""
    certificate = Authority().issue(name="Ann, of Example").certificate
    facts = {
        0x22: b"Ann, of Example",
        0x28: certificate.public_bytes(Encoding.DER),
    }
    told = announced(v2(TCP4, tlvs=tls_tlv(flags, facts, verify)))

    tls = told.tls_extension()
    assert tls is not None
    pem = certificate.public_bytes(Encoding.PEM).decode()
    assert (pem,) == tls["client_cert_chain"]
    assert r"CN=Ann\, of Example" == tls["client_cert_name"]
    assert bool(verify) == ("18" in str(tls["client_cert_error"]))
    extension = told.extension(None)
    assert "Ann, of Example" == extension["ssl_client_cn"]
    assert (not verify) is extension["ssl_client_verified"]


def test_a_certificate_of_no_known_version() -> None:
    """A proxy which lets a client show anything can't make us raise."""
    certificate = Authority().issue(name="Ann").certificate
    der = certificate.public_bytes(Encoding.DER)
    # Version 3 is number 2 (RFC 5280 section 4.1.2.1); 6 doesn't exist.
    assert 1 == der.count(b"\xa0\x03\x02\x01\x02")
    der = der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x05")

    told = announced(v2(TCP4, tlvs=tls_tlv(3, {0x28: der}, 18)))

    tls = told.tls_extension()
    assert tls is not None
    assert ((), None) == (tls["client_cert_chain"], tls["client_cert_name"])


def test_what_is_no_certificate_is_none() -> None:
    """A trusted proxy may be broken; requests are served nevertheless."""
    told = announced(v2(TCP4, tlvs=tls_tlv(3, {0x28: b"garbage", 0x21: b"SSLv9"})))

    tls = told.tls_extension()
    assert tls is not None
    assert ((), None, None) == (
        tls["client_cert_chain"],
        tls["client_cert_name"],
        tls["tls_version"],
    )


# Any segmentation, anything at all


@pytest.mark.parametrize(
    "header",
    [V1, b"PROXY UNKNOWN\r\n", v2(TCP4, tlvs=tlv(5, b"an id")), v2(UNIX, bytes(216))],
)
def test_a_header_may_come_in_pieces(header: bytes) -> None:
    """Each part of it is waited for, and what follows is left alone."""
    for size in range(len(header)):
        assert read_header(header[:size]) is None, size

    found = read_header(header)
    assert found is not None
    assert found == read_header(header + b"GET / HTTP/1.1\r\n\r\n")
    assert len(header) == found[1]


@given(
    st.sampled_from([b"", V1[:30], b"PROXY TCP6 ", SIGNATURE, SIGNATURE + b"\x21\x11"]),
    st.binary(max_size=300),
)
def test_nothing_breaks_the_reader(beginning: bytes, rest: bytes) -> None:
    """It wants more, has a header, or says that this is none."""
    try:
        found = read_header(beginning + rest)
    except MalformedHeader:
        return
    if found is not None and found[0] is not None:
        found[0].extension(None)
        found[0].tls_extension()


@given(
    st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=20)), max_size=5),
)
def test_any_tlvs_are_read_as_written(items: list[tuple[int, bytes]]) -> None:
    """Types which nobody knows yet are handed on."""
    items = [item for item in items if item[0] not in (3, 0x20)]
    written = b"".join(tlv(*item) for item in items)

    assert items == list(announced(v2(TCP4, tlvs=written)).tlvs)


def test_the_examples_are_what_they_should_be() -> None:
    """The writer of these tests agrees with the specification, byte by byte."""
    assert SIGNATURE == b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a"
    assert b"\x21\x11" + struct.pack("!H", 12) == v2(TCP4)[12:16]
