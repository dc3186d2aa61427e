"""
Autobahn for the frames which the fast lane leaves to it.

:class:`AutobahnLane` is Autobahn's WebSocket protocol for servers with an
adapter of our own, where Autobahn brings one for Twisted's transports and one
for asyncio's: what it reads is one frame at a time, and what it writes goes to
the connection that has borrowed it. Autobahn checks each frame and each
sequence of frames, puts messages together and speaks the closing handshake.

Importing this module takes longer than starting the server, so it is loaded by
the first connection that needs it.

Tests: ``tests/unit/protocols/test_websocket.py``.
"""

from __future__ import annotations

import random
from codecs import getincrementaldecoder
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

import txaio

if not (txaio.using_twisted or txaio.using_asyncio):
    # Autobahn wants one of them chosen, and an application may have done so.
    txaio.use_twisted()

from autobahn.websocket.protocol import (
    WebSocketServerFactory,
    WebSocketServerProtocol,
)

from daphne_like.errors import WebSocketFailed
from daphne_like.protocols.websocket_masking import StreamMasker

if TYPE_CHECKING:
    from daphne_like.protocols.websocket_deflate import Deflate
    from daphne_like.settings import WebSocketSettings

__all__ = ["AutobahnLane", "AutobahnPool", "pool_for"]

# Making one takes a millisecond, of which most goes into a log line that nobody
# reads, so those given back are kept.
_MOST_KEPT = 64
# RFC 6455 section 5.5: 125 bytes of a control frame, two of them for the code.
_MOST_REASON_BYTES = 123

_decoder = getincrementaldecoder("utf-8")


class Borrower(Protocol):
    """
    The connection whose frames these are.

    Attributes:
        congested: The peer takes less than it is sent.
        owed_pong: Payload of the Ping which is answered when that is over.
    """

    congested: bool
    owed_pong: bytes | None

    def message_received(self, message: str | bytes) -> None:
        """Take a whole message."""

    def write(self, data: bytes) -> None:
        """Write a control frame."""


class _SilentLog:
    """Autobahn's log, which tells of what peers do: more than anyone can read."""

    def debug(self, *args: object, **kwargs: object) -> None: ...

    info = warn = error = debug


class _TextChecker:
    """
    Finds the first byte that is no UTF-8, as it arrives.

    In place of Autobahn's, which is slow where it isn't compiled.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin a text."""
        self._decoder = _decoder()

    def validate(self, data: bytes) -> tuple[bool, bool, int, int]:
        """Return whether the text is valid so far, and ends with a character."""
        try:
            self._decoder.decode(data)
        except UnicodeDecodeError:
            return False, False, 0, 0
        rest = self._decoder.getstate()[0]
        # Of half a surrogate pair, Python waits for the third byte.
        valid = not (rest[:1] == b"\xed" and rest[1:] >= b"\xa0")
        return valid, not rest, 0, 0


class AutobahnLane(WebSocketServerProtocol):  # type: ignore[misc]
    """
    Autobahn's protocol, lent to one connection at a time.

    Attributes:
        closed: Code and reason of the peer's Close frame, once the closing
            handshake is over; each may be ``None``.
    """

    log = _SilentLog()
    current_frame: Any

    def __init__(self, pool: AutobahnPool) -> None:
        super().__init__()
        self._pool = pool
        self._payload = bytearray()
        self._borrower: Borrower | None = None
        self.closed: tuple[int | None, str | None] | None = None
        self.factory = pool.factory
        self.transport = self
        self._connectionMade()
        self.utf8validator = _TextChecker()
        # The handshake is long over: our HTTP layer has checked the request, and
        # what it answered depends on the HTTP version. Autobahn gets no more of
        # it than that it has succeeded.
        self.websocket_version = 13
        self.websocket_protocols: list[str] = []
        self.websocket_extensions: list[object] = []
        self._wskey = ""
        self.succeedHandshake(None)

    def lend(self, borrower: Borrower, deflate: Deflate | None) -> None:
        """Work for a connection, which is between two messages."""
        self._borrower = borrower
        # Not through Autobahn's own negotiation, since its classes fix what we
        # have settings for. Both lanes share the contexts of the connection.
        self._perMessageCompress = deflate

    def give_back(self) -> None:
        """Forget the connection, whatever state it has left behind."""
        self._borrower = self._perMessageCompress = self.closed = None
        self.state = self.STATE_OPEN
        self.data = b""
        self.current_frame = None
        self.inside_message = False
        self._payload.clear()
        self._pool.take_back(self)

    def feed(self, data: bytes) -> None:
        """
        Read bytes of one frame.

        Raises:
            WebSocketFailed: The frame breaks a rule or a limit.
        """
        self._dataReceived(data)

    @property
    def is_idle(self) -> bool:
        """Whether the next frame begins a message."""
        return not self.inside_message

    def send_close(self, code: int, reason: str) -> None:
        """Begin the closing handshake."""
        cut = reason.encode()[:_MOST_REASON_BYTES].decode("utf-8", "ignore")
        self.sendCloseFrame(code, cut.encode() or None)

    # -- The adapter: called by Autobahn -------------------------------------

    def write(self, data: bytes) -> None:
        """Write a frame; the answer to a handshake is nobody's (ITransport)."""
        if self._borrower is not None:
            self._borrower.write(data)

    def unregisterProducer(self) -> None:
        """Do nothing: the tunnel has its own producer."""

    def dropConnection(self, abort: bool = False) -> None:
        """Note that the closing handshake is over."""
        self.closed = self.remoteCloseCode, self.remoteCloseReason

    def _fail_connection(self, code: int = 1001, reason: str = "") -> None:
        """Leave Autobahn at once: nothing that follows a violation is looked at."""
        raise WebSocketFailed(code, reason)

    def _invalid_payload(self, reason: str) -> None:
        """Fail with the same words whether a message came in one piece or in many."""
        self._fail_connection(1007, "The text is no UTF-8.")

    def onFrameBegin(self) -> None:
        """Unmask with ours, since Autobahn's may be in Python, byte by byte."""
        frame = self.current_frame
        if frame.mask is not None and frame.length:
            self.current_frame_masker = StreamMasker(frame.mask)
        super().onFrameBegin()

    def _onOpen(self) -> None:
        pass

    def _onMessageBegin(self, isBinary: bool) -> None:
        self.onMessageBegin(isBinary)

    def _onMessageFrameBegin(self, length: int) -> None:
        # It holds the frame and the message against the limits. Of a compressed
        # message Deflate counts what is inflated. So do some versions of Autobahn,
        # but together with the compressed bytes of the frame that are to come.
        if self._isMessageCompressed:
            self.message_data_total_length = 0
        self.onMessageFrameBegin(length)
        if self._isMessageCompressed:
            self.message_data_total_length = 0

    def _onMessageFrameData(self, payload: bytes) -> None:
        # Not kept as a list of pieces: a peer may send a great many of them, and
        # empty ones without end.
        self._payload += payload

    def _onMessageFrameEnd(self) -> None:
        pass

    def _onMessageEnd(self) -> None:
        payload, self._payload = self._payload, bytearray()
        assert self._borrower is not None
        if self.message_is_binary:
            self._borrower.message_received(bytes(payload))
        else:
            self._borrower.message_received(payload.decode())

    def _onPing(self, payload: bytes) -> None:
        borrower = self._borrower
        assert borrower is not None
        if borrower.congested:
            # RFC 6455 section 5.5.3: only the last one need be answered. A peer
            # that pings and reads nothing would fill the memory with Pongs.
            borrower.owed_pong = payload
        else:
            self.sendPong(payload)

    def _onPong(self, payload: bytes) -> None:
        pass


@cache
def pool_for(settings: WebSocketSettings) -> AutobahnPool:
    """Return the pool for the connections of a server with these settings."""
    return AutobahnPool(settings)


class AutobahnPool:
    """Lends Autobahn's protocols to connections that have the same limits."""

    def __init__(self, settings: WebSocketSettings) -> None:
        self._kept: list[AutobahnLane] = []
        randomness = random.getstate()
        self.factory: Any = WebSocketServerFactory()
        # The factory seeds the generator, which is the application's.
        random.setstate(randomness)
        self.factory.setProtocolOptions(
            maxFramePayloadSize=settings.websocket_max_frame_size,
            maxMessagePayloadSize=settings.websocket_max_message_size,
            # RFC 6455 section 5.5.1: "typically echos the status code".
            echoCloseCodeReason=True,
            # Deadlines and pings are the connection's.
            openHandshakeTimeout=0,
            closeHandshakeTimeout=0,
        )

    def borrow(self, borrower: Borrower, deflate: Deflate | None) -> AutobahnLane:
        """Lend a protocol until it is given back."""
        lane = self._kept.pop() if self._kept else AutobahnLane(self)
        lane.lend(borrower, deflate)
        return lane

    def take_back(self, lane: AutobahnLane) -> None:
        """Keep a protocol for the next one."""
        if len(self._kept) < _MOST_KEPT:
            self._kept.append(lane)
