"""
TLS between the event loop's transport and a Twisted protocol.

:class:`LoopTLSTransport` is a :class:`~daphne_like.listeners.transports.LoopTransport`
which decrypts what arrives and encrypts what is written, by :class:`ssl.SSLObject` over
buffers in memory. The loops' own TLS does the same, and is left aside for three
reasons: it asks for more after each read, and the exception which says that there is no
more costs as much as a small request; it closes without an alert when a handshake fails;
and plain HTTP on a TLS port gets no readable answer.

Tests: ``tests/unit/listeners/test_tls_transports.py``.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from twisted.internet.interfaces import INegotiated
from zope.interface import implementer

from daphne_like.listeners.pending import PendingConnections
from daphne_like.listeners.transports import LoopTransport

if TYPE_CHECKING:
    from collections.abc import Callable

    from OpenSSL.crypto import X509
    from twisted.internet.interfaces import IProtocol, IProtocolFactory

    from daphne_like.listeners.outbox import Outbox
    from daphne_like.listeners.tls import ServerTLS

__all__ = ["Handshakes", "LoopTLSTransport"]

_logger = logging.getLogger("daphne_like.server")

# How long a client may go on sending what nobody reads (as in protocols.http1).
_LINGER_TIMEOUT = 2.0

# RFC 8446 section 5.1: each record begins with its type, and holds so much.
_HANDSHAKE_RECORD = 0x16
_RECORD_BYTES = 16 * 1024

_EXPLANATION = b"This port speaks HTTPS: use https:// instead of http://.\n"
_ANSWER_TO_HTTP = (
    b"HTTP/1.1 400 Bad Request\r\n"
    b"content-type: text/plain; charset=utf-8\r\n"
    b"content-length: %d\r\n"
    b"connection: close\r\n"
    b"\r\n%b" % (len(_EXPLANATION), _EXPLANATION)
)


class Handshakes(PendingConnections):
    """
    The connections of a listener whose handshake isn't done.

    Args:
        tls: The certificates.
    """

    def __init__(self, tls: ServerTLS) -> None:
        super().__init__()
        self.tls = tls


@implementer(INegotiated)
class LoopTLSTransport(LoopTransport):  # type: ignore[override]
    """
    One accepted connection with TLS.

    The protocol is made when the handshake is done.

    Flow control is that of the transport below: what is written is encrypted at once.

    Attributes:
        is_idle: No byte has come yet.
        ssl_object: What tells of the handshake.
    """

    __slots__ = (
        "_closing",
        "_deliver",
        "_handshakes",
        "_incoming",
        "_outgoing",
        "is_idle",
        "ssl_object",
    )

    # What goes past us would not be encrypted, so nobody may find these.
    send_file = None  # type: ignore[assignment]
    share_descriptor = None  # type: ignore[assignment]

    ssl_object: ssl.SSLObject

    def __init__(
        self, factory: IProtocolFactory, outbox: Outbox, handshakes: Handshakes
    ) -> None:
        super().__init__(factory, outbox)
        self._handshakes = handshakes
        self._closing = False
        self.is_idle = True
        self.data_received = self._handshake_received

    # -- The handshake -------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the client's first byte."""
        self._transport = cast("asyncio.Transport", transport)
        self._handshakes.begin(self, self._handshakes.tls.handshake_timeout)

    def give_up(self) -> None:
        """Close without a handshake."""
        self._closing = True
        self._transport.close()

    def _handshake_received(self, data: bytes) -> None:
        """Go on with the handshake."""
        if self._closing:
            return
        if self.is_idle:
            self.is_idle = False
            if data[0] != _HANDSHAKE_RECORD:
                self._explain(data)
                return
            self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            self.ssl_object = self._handshakes.tls.context.wrap_bio(
                self._incoming, self._outgoing, server_side=True
            )
        self._incoming.write(data)
        try:
            self.ssl_object.do_handshake()
        except ssl.SSLWantReadError:
            self._send_encrypted()
        except (ssl.SSLError, ssl.CertificateError) as error:
            _logger.debug("A TLS handshake has failed: %s", error)
            # With the alert which says why (RFC 8446 section 6.2).
            self._send_encrypted()
            self._end_dialog()
        else:
            self._send_encrypted()
            self._secured()

    def _explain(self, data: bytes) -> None:
        """Answer plain HTTP in words; what is no HTTP either gets no answer."""
        if not data[:1].isalpha():
            self.give_up()
            return
        self._transport.write(_ANSWER_TO_HTTP)
        self._end_dialog()

    def _end_dialog(self) -> None:
        """Close our side, and leave the client time to read what it got."""
        self._closing = True
        super().loseWriteConnection()
        self._handshakes.limit(self, _LINGER_TIMEOUT)

    def _secured(self) -> None:
        """Begin with the protocol that was agreed on."""
        self._handshakes.end(self)
        self.write = self._make_write()
        self.data_received = receive = self._make_receive()
        self._deliver: Callable[[bytes], None] = _ignore
        # uvloop looks data_received up once, so let it look again.
        self._transport.set_protocol(self)
        self._begin()
        if self._incoming.pending and not self._closing:
            receive(b"")  # what came together with the handshake's end

    # -- Both ways -----------------------------------------------------------

    def _direct(self) -> ssl.SSLObject:
        """Return what reads and writes without a method in Python between."""
        return getattr(self.ssl_object, "_sslobj", self.ssl_object)

    def _make_write(self) -> Callable[[bytes], None]:
        encrypt, outgoing = self._direct().write, self._outgoing.read
        send = self._transport.write

        def write(data: bytes) -> None:
            if data:
                try:
                    encrypt(data)
                except ssl.SSLError:
                    return  # after the end; whoever writes will be told of it
                send(outgoing())

        return write

    def _make_receive(self) -> Callable[[bytes], None]:
        incoming, outgoing = self._incoming, self._outgoing
        read, feed = self._direct().read, incoming.write

        def secure_received(data: bytes) -> None:
            """Decrypt, and pass all of it on at once."""
            feed(data)
            size = len(data)
            if not 0 < size < _RECORD_BYTES:
                size = _RECORD_BYTES
            try:
                plain = read(size)
                # A read returns what is left of one record. Asked once too often,
                # OpenSSL answers with an exception, which is costly.
                if len(plain) == size or incoming.pending:
                    plain = self._read_on(plain)
            except ssl.SSLError as error:
                self._failed(error)
                return
            if outgoing.pending:
                self._send_encrypted()  # an answer of TLS itself
            if plain:
                self._deliver(plain)
            else:
                self.loseConnection()  # the peer has said farewell

        return secure_received

    def _read_on(self, first: bytes) -> bytes:
        """Decrypt all that is left."""
        pieces, read = [first], self.ssl_object.read
        with suppress(ssl.SSLWantReadError):
            while pieces[-1]:
                pieces.append(read(_RECORD_BYTES))
            # The peer has said farewell; but first comes what it said before.
            asyncio.get_running_loop().call_soon(self.loseConnection)
        return b"".join(pieces)

    def _failed(self, error: ssl.SSLError) -> None:
        """Wait for the rest of a record, or give up."""
        if self._outgoing.pending:
            self._send_encrypted()
        if not isinstance(error, ssl.SSLWantReadError):
            _logger.debug("A TLS connection has failed: %s", error)
            self.loseConnection()

    def _send_encrypted(self) -> None:
        if self._outgoing.pending:
            self._transport.write(self._outgoing.read())

    # -- As LoopTransport, but for TLS ---------------------------------------

    def _build_protocol(self) -> IProtocol | None:
        """Let the factory make the protocol that was agreed on, if it knows several."""
        build = getattr(self._factory, "build_negotiated", None)
        if build is None:
            return super()._build_protocol()
        protocol: IProtocol | None = build(self.getPeer(), self.negotiatedProtocol)
        return protocol

    def switch_protocol(self, protocol: IProtocol) -> None:
        """Let ``protocol`` have what arrives from now on."""
        self._protocol = protocol
        self._deliver = protocol.dataReceived

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the protocol; free what refers to it."""
        self._handshakes.end(self)
        self._closing = True
        self._deliver = _ignore
        super().connection_lost(exc)

    def loseConnection(self) -> None:
        """
        Say farewell when everything is written, and close.

        The peer's farewell isn't waited for (RFC 8446 section 6.1): clients which
        keep a connection for later don't look.
        """
        self._say_farewell()
        self._transport.close()

    def loseWriteConnection(self) -> None:
        """Say farewell, and drop what still comes until the peer closes."""
        self._say_farewell()
        super().loseWriteConnection()

    def _say_farewell(self) -> None:
        if self._closing:
            return
        self.settle()
        self._closing = True
        self._deliver = self.data_received = _ignore
        self._transport.set_protocol(self)
        # It wants to read the answer, or has failed already.
        with suppress(ssl.SSLError):
            self.ssl_object.unwrap()
        if not self._lost:
            self._send_encrypted()

    @property
    def negotiatedProtocol(self) -> bytes | None:
        """Tell what ALPN has agreed on (INegotiated)."""
        name = self.ssl_object.selected_alpn_protocol()
        return None if name is None else name.encode("ascii")

    def getPeerCertificate(self) -> X509 | None:
        """Return the client's certificate as pyOpenSSL has them (ISSLTransport)."""
        certificate = self.ssl_object.getpeercert(binary_form=True)
        if certificate is None:
            return None
        from OpenSSL.crypto import FILETYPE_ASN1, load_certificate

        return load_certificate(FILETYPE_ASN1, certificate)


def _ignore(data: bytes) -> None:
    """Drop what arrives after the end."""
