"""
A connection of HTTP/2 that does next to nothing: for load, not for use.

Blocks of fields come encoded, and of what arrives only as much is looked at as it
takes to tell a right answer: the status must be that of RFC 7541's static table.
Windows are as large as they may be, so that none needs care.
"""

from __future__ import annotations

import asyncio
import ssl
import struct
import time
from abc import abstractmethod
from collections.abc import Iterable
from typing import cast

from hpack import Encoder, HeaderTuple, NeverIndexedHeaderTuple

from benchmarks.applications import SMALL_BODY

# RFC 9113 section 6: types of frames, and flags.
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY = 0, 1, 3, 4, 6, 7
_ACK = _END_STREAM = 0x1
_END_HEADERS, _PADDED, _PRIORITY = 0x4, 0x8, 0x20
_HEAD = struct.Struct(">BHBBI")

_LARGEST_WINDOW = 2**31 - 1
_INITIAL_WINDOW = 65535

# RFC 7541 appendix A: index 8.
_STATUS_200 = 0x88

_RESET_TABLE = b"\x20\x3f\xe1\x1f"
"""Sizes 0 and 4,096 for the dynamic table (RFC 7541 section 6.3)."""


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    size = len(payload)
    return _HEAD.pack(size >> 16, size & 0xFFFF, kind, flags, stream) + payload


_OPENING = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    # No pushes; windows of streams.
    + _frame(_SETTINGS, 0, 0, struct.pack(">HIHI", 2, 0, 4, _LARGEST_WINDOW))
    + _frame(8, 0, 0, struct.pack(">I", _LARGEST_WINDOW - _INITIAL_WINDOW))
)
_SETTINGS_ACK = _frame(_SETTINGS, _ACK, 0, b"")


class Request:
    """A request without body, ready but for the number of its stream."""

    __slots__ = ("block", "prefix")

    def __init__(self, block: bytes) -> None:
        self.prefix = _frame(_HEADERS, _END_STREAM | _END_HEADERS, 0, block)[:5]
        self.block = block


def requests(
    lists: Iterable[Iterable[tuple[str, str]]], scheme: str, *, reset: bool
) -> list[Request]:
    """
    Encode GET requests, to be sent in this order.

    Args:
        lists: Of each its target, named ``:path``, and its other fields.
        scheme: ``http`` or ``https``.
        reset: Empty the table with the first one, so that the whole may be repeated.
    """
    encoder = Encoder()
    encoded = []
    for fields in lists:
        block = encoder.encode(
            [
                HeaderTuple(":method", "GET"),
                HeaderTuple(":scheme", scheme),
                HeaderTuple(":authority", "127.0.0.1"),
                *(
                    # As browsers: what is used once has no place in the table.
                    NeverIndexedHeaderTuple(*field)
                    if field[0] == ":path" and field[1] != "/"
                    else HeaderTuple(*field)
                    for field in fields
                ),
            ]
        )
        encoded.append(Request(block))
    if reset:
        encoded[0] = Request(_RESET_TABLE + encoded[0].block)
    return encoded


class Exchange:
    """A request under way."""

    __slots__ = ("asked_at", "body", "good")

    def __init__(self) -> None:
        self.asked_at = time.perf_counter()
        self.good = False
        self.body = b""


class HTTP2Connection(asyncio.Protocol):
    """One connection; a subclass says what is asked."""

    def __init__(self) -> None:
        self.closed = asyncio.get_running_loop().create_future()
        self.exchanges: dict[int, Exchange] = {}
        self._next_stream = 1
        self._rest = b""
        self._output: list[bytes] = []

    @abstractmethod
    def opened(self) -> None:
        """Make the first requests."""

    @abstractmethod
    def answered(self, exchange: Exchange, *, good: bool) -> None:
        """Make the next request, if any, after an answer or the lack of one."""

    @abstractmethod
    def lost(self) -> None:
        """Count the ``exchanges`` which are left: nothing comes any more."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin (asyncio.Protocol)."""
        # uvloop's transports are none of asyncio's classes.
        self.transport = cast("asyncio.Transport", transport)
        self._output.append(_OPENING)
        self.opened()
        self.flush()

    def ask(self, request: Request) -> None:
        """Open a stream; what is asked in one turn leaves in one write."""
        stream = self._next_stream
        self._next_stream = stream + 2
        self.exchanges[stream] = Exchange()
        self._output += (request.prefix, stream.to_bytes(4, "big"), request.block)

    def flush(self) -> None:
        """Write what was asked."""
        if self._output:
            self.transport.write(b"".join(self._output))
            self._output.clear()

    def data_received(self, data: bytes) -> None:
        """Take the frames that are whole (asyncio.Protocol)."""
        if self._rest:
            data = self._rest + data
        position, end = 0, len(data)
        while end - position >= _HEAD.size:
            high, low, kind, flags, stream = _HEAD.unpack_from(data, position)
            after = position + _HEAD.size + (high << 16 | low)
            if after > end:
                break
            payload = data[position + _HEAD.size : after]
            position = after
            if stream:
                self._stream_frame(kind, flags, stream, payload)
            elif kind == _SETTINGS and not flags & _ACK:
                self._output.append(_SETTINGS_ACK)
            elif kind == _PING and not flags & _ACK:
                self._output.append(_frame(_PING, _ACK, 0, payload))
            elif kind == _GOAWAY:
                self.transport.close()
        self._rest = data[position:]
        self.flush()

    def _stream_frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        exchange = self.exchanges.get(stream)
        if exchange is None:
            return
        if kind == _DATA:
            exchange.body += payload
        elif kind == _HEADERS:
            if not exchange.body:
                exchange.good = _is_200(flags, payload)
        elif kind == _RST_STREAM:
            del self.exchanges[stream]
            self.answered(exchange, good=False)
            return
        else:
            return
        if flags & _END_STREAM:
            del self.exchanges[stream]
            good = exchange.good and exchange.body == SMALL_BODY
            self.answered(exchange, good=good)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the end (asyncio.Protocol)."""
        self.lost()
        self.closed.set_result(None)


def _is_200(flags: int, payload: bytes) -> bool:
    start = (1 if flags & _PADDED else 0) + (5 if flags & _PRIORITY else 0)
    # RFC 7541 section 4.2: changes of the table's size come first.
    while payload[start] & 0xE0 == 0x20:
        start += 1
    return payload[start] == _STATUS_200


def client_context() -> ssl.SSLContext:
    """Return the settings of a client that speaks HTTP/2 and trusts everybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    return context
