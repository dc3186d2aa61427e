"""
One request on a connection of its own, with whole clients that check what they get.

They aren't for load: they look at an answer before and after it.
"""

from __future__ import annotations

import http.client
import socket
import ssl
from dataclasses import dataclass

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)

_TIMEOUT = 10
_READ_BYTES = 65536
_STREAM = 1


@dataclass(frozen=True, slots=True)
class Exchange:
    """How requests reach a server."""

    tls: ssl.SSLContext | None = None
    """For HTTP/2, with ALPN."""

    http2: bool = False

    def answer(
        self, address: tuple[str, int], method: str, path: str, body: bytes
    ) -> tuple[int, bytes]:
        """
        Return status and body of the answer to one request.

        Raises:
            OSError: There is no connection, or no handshake.
            http.client.HTTPException: There is no whole answer.
        """
        if self.http2:
            with self._connect(address) as sock:
                return _HTTP2(sock).answer(address, method, path, body)
        host, port = address
        connection: http.client.HTTPConnection
        if self.tls is None:
            connection = http.client.HTTPConnection(host, port, timeout=_TIMEOUT)
        else:
            connection = http.client.HTTPSConnection(
                host, port, timeout=_TIMEOUT, context=self.tls
            )
        try:
            connection.request(method, path, body=body or None)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def _connect(self, address: tuple[str, int]) -> socket.socket:
        sock = socket.create_connection(address, timeout=_TIMEOUT)
        # A body waits for credit again and again, not for acknowledgements as well.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.tls is None:
            return sock
        # If this fails, it closes the socket.
        secure = self.tls.wrap_socket(sock, server_hostname=address[0])
        if secure.selected_alpn_protocol() != "h2":
            secure.close()
            raise ConnectionError("the server doesn't speak HTTP/2")
        return secure


class _HTTP2:
    """One request of HTTP/2, by the package h2."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._engine = H2Connection(H2Configuration(client_side=True))
        self._status = 0
        self._body = bytearray()
        self._ended = False

    def answer(
        self, address: tuple[str, int], method: str, path: str, body: bytes
    ) -> tuple[int, bytes]:
        engine = self._engine
        engine.initiate_connection()
        fields = [
            (":method", method),
            (":scheme", "https" if isinstance(self._sock, ssl.SSLSocket) else "http"),
            (":authority", f"{address[0]}:{address[1]}"),
            (":path", path),
        ]
        if body:
            fields.append(("content-length", str(len(body))))
        engine.send_headers(_STREAM, fields, end_stream=not body)
        left = memoryview(body)
        while not self._ended:
            while left and (room := self._room()):
                piece, left = left[:room], left[room:]
                engine.send_data(_STREAM, piece.tobytes(), end_stream=not left)
            self._sock.sendall(engine.data_to_send())
            self._read()
        return self._status, bytes(self._body)

    def _room(self) -> int:
        engine = self._engine
        return min(
            engine.local_flow_control_window(_STREAM), engine.max_outbound_frame_size
        )

    def _read(self) -> None:
        data = self._sock.recv(_READ_BYTES)
        if not data:
            raise http.client.RemoteDisconnected("closed before the answer's end")
        for event in self._engine.receive_data(data):
            if isinstance(event, ResponseReceived):
                self._status = int(dict(event.headers)[b":status"])
            elif isinstance(event, DataReceived):
                self._body += event.data
                self._engine.acknowledge_received_data(
                    event.flow_controlled_length, _STREAM
                )
            elif isinstance(event, StreamEnded):
                self._ended = True
            elif isinstance(event, (StreamReset, ConnectionTerminated)):
                raise http.client.HTTPException(f"no answer: {event}")
