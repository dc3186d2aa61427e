"""
permessage-deflate: its negotiation, and one connection's two DEFLATE streams.

Own code where Autobahn has some, too, because Autobahn fixes the compression
level, doesn't bound what it inflates in the version for Python 3.10, and
accepts offers which RFC 7692 has declined. :class:`Deflate` has the methods by
which Autobahn compresses, so both lanes of a connection share its contexts.

Source: RFC 7692; RFC 6455 section 9 for the syntax.

Tests: ``tests/unit/protocols/test_websocket_deflate.py``.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from daphne_like.errors import WebSocketFailed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from daphne_like.settings import WebSocketSettings

__all__ = ["Deflate", "DeflateParameters", "Extension", "negotiate"]

Extension = tuple[str, dict[str, str | None]]
"""An extension's name and its parameters, ``None`` for one without a value."""

_NAME = "permessage-deflate"
# RFC 7692 section 7.2.1: sent by deflaters at the end of each message, removed
# on the wire, and put back in front of inflaters.
_TAIL = b"\x00\x00\xff\xff"
_LARGEST_WINDOW_BITS = 15
# zlib makes no raw DEFLATE with a window of 8 bits.
_SMALLEST_WINDOW_BITS = 9
# Blocks of one message that say they are the last; a client has use for one.
_MOST_RESTARTS = 16


@dataclass(frozen=True, slots=True)
class DeflateParameters:
    """
    What was agreed on for one connection.

    Attributes:
        server_window_bits: Of the stream to the client, 9 to 15.
        client_window_bits: Of the stream from the client, 8 to 15.
        server_takeover: Whether messages to the client refer to earlier ones.
        client_takeover: Whether messages from the client refer to earlier ones.
        response: Value of ``sec-websocket-extensions`` which says so.
    """

    server_window_bits: int
    client_window_bits: int
    server_takeover: bool
    client_takeover: bool
    response: bytes


def negotiate(
    offers: Sequence[Extension], settings: WebSocketSettings
) -> DeflateParameters | None:
    """Accept the first offer that can be met; the client named them by preference."""
    if settings.ws_per_message_deflate:
        for name, parameters in offers:
            if name == _NAME:
                agreed = _accept(parameters, settings)
                if agreed is not None:
                    return agreed
    return None


def _accept(
    offer: dict[str, str | None], settings: WebSocketSettings
) -> DeflateParameters | None:
    """
    Answer one offer, or decline it.

    RFC 7692 section 7.1: an offer with an unknown parameter, or one with a wrong
    value, has to be declined. (One given twice is no well-formed extension.)
    """
    wanted = settings.ws_deflate_window_bits
    server_bits, client_bits = wanted, _LARGEST_WINDOW_BITS
    takeover = settings.ws_deflate_context_takeover
    server_takeover = client_takeover = takeover
    for name, value in offer.items():
        if name == "server_no_context_takeover" and value is None:
            server_takeover = False
        elif name == "client_no_context_takeover" and value is None:
            client_takeover = False
        elif name == "server_max_window_bits" and value is not None:
            bits = _window_bits(value)
            if bits < _SMALLEST_WINDOW_BITS:
                return None
            server_bits = min(server_bits, bits)
        elif name == "client_max_window_bits":
            bits = _LARGEST_WINDOW_BITS if value is None else _window_bits(value)
            if not bits:
                return None
            client_bits = min(wanted, bits)
        else:
            return None
    answer = [_NAME]
    if not server_takeover:
        answer.append("server_no_context_takeover")
    if not client_takeover:
        answer.append("client_no_context_takeover")
    if server_bits < _LARGEST_WINDOW_BITS:
        answer.append(f"server_max_window_bits={server_bits}")
    # RFC 7692 section 7.1.2.2: only to a client which said that it knows it.
    if "client_max_window_bits" in offer:
        answer.append(f"client_max_window_bits={client_bits}")
    response = "; ".join(answer).encode()
    return DeflateParameters(
        server_bits, client_bits, server_takeover, client_takeover, response
    )


def _window_bits(value: str) -> int:
    """Read 8 to 15, without leading zeros; 0 for anything else."""
    return int(value) if value in ("8", "9", *map(str, range(10, 16))) else 0


class Deflate:
    """
    Compresses and inflates the messages of one connection.

    Both contexts are made when they are first needed, so that a silent
    connection has none. The methods with long names are those which Autobahn
    calls for messages that come in fragments.

    Args:
        parameters: What was agreed on.
        settings: Level and memory of the compressor, limit of messages.
    """

    __slots__ = (
        "_compressor",
        "_inflated",
        "_inflater",
        "_parameters",
        "_restarts",
        "_settings",
    )

    EXTENSION_NAME = _NAME

    def __init__(
        self, parameters: DeflateParameters, settings: WebSocketSettings
    ) -> None:
        self._parameters = parameters
        self._settings = settings
        self._compressor: Any = None
        self._inflater: Any = None
        self._inflated = self._restarts = 0

    def compress(self, message: bytes) -> bytes:
        """Compress one message (RFC 7692 section 7.2.1)."""
        compressor, settings = self._compressor, self._settings
        if compressor is None:
            compressor = zlib.compressobj(
                settings.ws_deflate_level,
                zlib.DEFLATED,
                -self._parameters.server_window_bits,
                settings.ws_deflate_memory_level,
            )
            if self._parameters.server_takeover:
                self._compressor = compressor
        data: bytes = compressor.compress(message)
        data += compressor.flush(zlib.Z_SYNC_FLUSH)
        return data[: -len(_TAIL)]

    def inflate(self, data: bytes) -> bytes:
        """
        Restore one message that came in one frame.

        Raises:
            WebSocketFailed: It is larger than allowed (1009), or broken (1007).
        """
        self.start_decompress_message()
        message = self.decompress_message_data(data)
        self.end_decompress_message()
        return message

    def start_decompress_message(self) -> None:
        """Begin a message of the client."""
        self._inflated = self._restarts = 0
        if self._inflater is None:
            self._inflater = self._new_inflater()

    def decompress_message_data(
        self, data: bytes, max_output_len: int | None = None
    ) -> bytes:
        """
        Inflate a piece of a message, never beyond the limit of messages.

        Args:
            data: As received, without the masking.
            max_output_len: Autobahn's own count, which comes to the same.

        Raises:
            WebSocketFailed: As :meth:`inflate`.
        """
        piece = self._inflate_piece(data)
        while self._inflater.eof and self._inflater.unused_data:
            # RFC 7692 section 7.2.3.4: a message may have a block which says that
            # it is the last one. zlib takes it for the end of all. Each takes a
            # new context and a copy of the rest, so they are counted.
            self._restarts += 1
            if self._restarts > _MOST_RESTARTS:
                raise WebSocketFailed(1007, "The compressed data ends too often.")
            rest = self._inflater.unused_data
            self._inflater = self._new_inflater()
            piece += self._inflate_piece(rest)
        return piece

    def _inflate_piece(self, data: bytes) -> bytes:
        limit = self._settings.websocket_max_message_size
        most = limit - self._inflated + 1 if limit else 0
        try:
            piece: bytes = self._inflater.decompress(data, most)
        except zlib.error:
            raise WebSocketFailed(1007, "The compressed data is invalid.") from None
        self._inflated += len(piece)
        if self._inflated > limit > 0:
            raise WebSocketFailed(1009, "The message is too large.")
        return piece

    def _new_inflater(self) -> Any:
        # zlib inflates a window of 8 bits as one of 9.
        bits = max(self._parameters.client_window_bits, _SMALLEST_WINDOW_BITS)
        return zlib.decompressobj(-bits)

    def end_decompress_message(self) -> None:
        """
        End a message of the client.

        Raises:
            WebSocketFailed: As :meth:`inflate`.
        """
        # It belongs to an empty block, unless the message was cut short.
        if self.decompress_message_data(_TAIL):
            raise WebSocketFailed(1007, "The compressed data is incomplete.")
        if not self._parameters.client_takeover or self._inflater.eof:
            self._inflater = None
