"""Headers of the PROXY protocol, written by hand."""

from __future__ import annotations

import struct
from collections.abc import Mapping

__all__ = [
    "LOCAL",
    "SIGNATURE",
    "TCP4",
    "TCP6",
    "UDP4",
    "UNIX",
    "UNSPECIFIED",
    "tls_tlv",
    "tlv",
    "v2",
    "with_checksum",
]

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")
LOCAL, PROXY = 0x20, 0x21
UNSPECIFIED, TCP4, UDP4, TCP6, UNIX = 0x00, 0x11, 0x12, 0x21, 0x31

CLIENT_AND_SERVER = bytes([192, 0, 2, 1, 203, 0, 113, 5]) + struct.pack(
    "!HH", 4711, 443
)
"""From 192.0.2.1, port 4711, to 203.0.113.5, port 443."""


def v2(
    family: int,
    addresses: bytes = CLIENT_AND_SERVER,
    *,
    tlvs: bytes = b"",
    command: int = PROXY,
) -> bytes:
    """Write a header of version 2."""
    block = addresses + tlvs
    return SIGNATURE + struct.pack("!BBH", command, family, len(block)) + block


def tlv(kind: int, value: bytes) -> bytes:
    """Write one TLV."""
    return struct.pack("!BH", kind, len(value)) + value


def tls_tlv(flags: int, facts: Mapping[int, bytes], verify: int = 0) -> bytes:
    """Write the TLV about the client's TLS."""
    inner = b"".join(tlv(*item) for item in facts.items())
    return tlv(0x20, struct.pack("!BI", flags, verify) + inner)


def with_checksum(family: int, tlvs: bytes) -> bytes:
    """Write a header of version 2 with a right checksum at its end."""
    blank = v2(family, tlvs=tlvs + tlv(3, bytes(4)))
    return blank[:-4] + struct.pack("!I", _crc32c(blank))


def _crc32c(data: bytes) -> int:
    """Compute the checksum bit by bit, as its definition does."""
    remainder = 0xFFFFFFFF
    for byte in data:
        remainder ^= byte
        for _ in range(8):
            remainder = remainder >> 1 ^ (0x82F63B78 if remainder & 1 else 0)
    return remainder ^ 0xFFFFFFFF
