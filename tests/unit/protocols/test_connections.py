"""Tests of ``daphne_like.protocols.connections``."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress, ISSLTransport
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import StringTransport
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from zope.interface import alsoProvides

from daphne_like.protocols.connections import (
    close_writing,
    describe,
    shared_descriptor,
    switch_protocol,
    unsent_bytes,
)
from daphne_like.protocols.interfaces import Connection

V4 = IPv4Address("TCP", "192.0.2.7", 50123)
V6 = IPv6Address("TCP", "2001:db8::7", 443)


@pytest.mark.parametrize(
    ("peer", "host", "client", "server"),
    [
        (V4, V6, ("192.0.2.7", 50123), ("2001:db8::7", 443)),
        (V6, V4, ("2001:db8::7", 443), ("192.0.2.7", 50123)),
        (UNIXAddress(None), UNIXAddress("/run/x"), None, ("/run/x", None)),
        (UNIXAddress(""), UNIXAddress(b"/run/\xff"), None, ("/run/\udcff", None)),
        (UNIXAddress(None), UNIXAddress(None), None, None),
        (UNIXAddress("/client"), UNIXAddress(""), None, None),
    ],
)
def test_an_application_learns_both_addresses(
    peer: IAddress,
    host: IAddress,
    client: tuple[str, int] | None,
    server: tuple[str, int | None] | None,
) -> None:
    """Over TCP both are told; over a Unix socket its path, where it has one."""
    transport: Any = StringTransport(host, peer)

    assert Connection(client, server, "https") == describe(transport, "https")


class OfOurs:
    """A transport of ours: it has methods of its own."""

    protocol = None

    def write_buffer_bytes(self) -> int:
        """Tell what hasn't been sent."""
        return 42

    def switch_protocol(self, protocol: object) -> None:
        """Take another protocol."""
        self.switched = protocol


class OfTwisted:
    """A transport of Twisted's, as far as it keeps what isn't sent."""

    def __init__(self, data_buffer: bytes, offset: int, waiting: int) -> None:
        self.dataBuffer = data_buffer
        self.offset = offset
        self._tempDataLen = waiting
        self.protocol: object = None


def test_what_the_client_has_not_taken_is_counted() -> None:
    """How far a slow client has come is known, whatever transport there is."""
    assert 42 == unsent_bytes(OfOurs())
    assert 0 == unsent_bytes(OfTwisted(b"", 0, 0))
    assert 30 == unsent_bytes(OfTwisted(b"x" * 30, 0, 0))
    assert 25 == unsent_bytes(OfTwisted(b"x" * 30, 10, 5))
    # Of another one nothing is known.
    assert 0 == unsent_bytes(StringTransport())


def test_another_protocol_takes_over() -> None:
    """From the acceptance of a WebSocket on, it gets what arrives."""
    protocol = Protocol()
    ours, twisted = OfOurs(), OfTwisted(b"", 0, 0)
    # As under TLS of Twisted's, which is a protocol and a transport at once.
    wrapper = ProtocolWrapper(WrappingFactory(Factory()), Protocol())
    switch_protocol(ours, protocol)
    switch_protocol(twisted, protocol)
    switch_protocol(wrapper, protocol)

    assert protocol is ours.switched
    assert ours.protocol is None
    assert protocol is twisted.protocol
    assert protocol is wrapper.wrappedProtocol


def test_the_attributes_of_twisted_are_still_there() -> None:
    """The names which are looked at without an interface exist in this Twisted."""
    from twisted.internet.abstract import FileDescriptor
    from twisted.internet.task import Clock

    clock: Any = Clock()
    descriptor: Any = FileDescriptor(clock)
    descriptor.connected = True
    descriptor.startWriting = lambda: None
    descriptor.write(b"12345")
    descriptor.write(b"678")

    assert 8 == unsent_bytes(descriptor)

    descriptor.writeSomeData = lambda data: 3
    descriptor.doWrite()

    assert 5 == unsent_bytes(descriptor)


def test_what_is_written_goes_past_no_encryption() -> None:
    """Twisted's wrappers, TLS among them, pass on what is below as if it were theirs."""

    class Sharing(StringTransport):
        def share_descriptor(self) -> int:
            """Have a number which is recognized."""
            return 777

    below = Sharing()  # type: ignore[no-untyped-call]
    wrapper: Any = ProtocolWrapper(WrappingFactory(Factory()), Protocol())
    wrapper.transport = below

    assert 777 == wrapper.share_descriptor()
    assert 777 == shared_descriptor(below)
    assert shared_descriptor(wrapper) is None


def test_tls_has_no_half_close() -> None:
    """Whatever the transport below could, it would cut off TLS's own end."""

    class Whole(StringTransport):
        def loseWriteConnection(self) -> None:
            """End one direction."""

    plain, secure = StringTransport(), Whole()  # type: ignore[no-untyped-call]
    alsoProvides(secure, ISSLTransport)

    assert close_writing(plain) is None  # it has no such method
    assert close_writing(secure) is None
