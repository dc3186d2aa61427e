"""
An HTTP/2 client that can send anything, and puts up with nothing.

:class:`Peer` is one connection. It sends the frames which a test makes, however
wrong they are, and reads those of the server. Whatever a test is about, it fails
when the server does what RFC 9113 forbids: more DATA than the windows allow, frames
on streams that have ended, a header list that no client may accept.

The bytes go through a :class:`~http2_links.Link`: a real socket, or memory.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from hpack import Decoder, Encoder
from http2_frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    INITIAL_WINDOW_BYTES,
    LARGEST_WINDOW_BYTES,
    LEAST_FRAME_BYTES,
    PADDED,
    PREFACE,
    PRIORITY,
    ErrorCode,
    Frame,
    FrameType,
    Setting,
    data,
    headers,
    ping,
    settings,
    settings_ack,
    window_update,
)
from http2_links import Link, Silence

__all__ = ["Ended", "Fields", "Peer", "Response"]

Fields = list[tuple[bytes, bytes]]

# Fields that may occur in no message (RFC 9113 section 8.2.2).
_OF_CONNECTIONS = {
    b"connection",
    b"keep-alive",
    b"proxy-connection",
    b"te",
    b"transfer-encoding",
    b"upgrade",
}
_TYPES_OF_STREAMS = {
    FrameType.DATA,
    FrameType.HEADERS,
    FrameType.CONTINUATION,
    FrameType.RST_STREAM,
}
_TYPES_OF_CONNECTIONS = {FrameType.SETTINGS, FrameType.PING, FrameType.GOAWAY}


class Ended(AssertionError):
    """The server closed the connection while more was expected of it."""


@dataclass
class Response:
    """
    What has come on one stream.

    Attributes:
        informational: Status and fields of the heads before the response's.
        status: Of the response, 0 while there is none.
        fields: Without the status.
        body: Without padding.
        trailers: Fields behind the body; ``None`` if there are none.
        is_complete: The server has ended the stream.
        error: The code with which it has reset the stream.
        window: Bytes of DATA which the server may still send.
    """

    window: int
    informational: list[tuple[int, Fields]] = field(default_factory=list)
    status: int = 0
    fields: Fields = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    trailers: Fields | None = None
    is_complete: bool = False
    error: int | None = None

    def values_of(self, name: bytes) -> list[bytes]:
        """Return the values of all fields of this name."""
        return [value for known, value in self.fields if known == name]


class Peer:
    """
    The client's end of a connection.

    Attributes:
        link: Carries it.
        encoder: Makes the header blocks that are sent.
        server_settings: What the server has told.
        settings_acks: How often it has acknowledged ours.
        pongs: Payloads of the PING frames which it has answered.
        goaways: The last stream and code of each GOAWAY.
        responses: What has come, by stream.
        received: All frames but those of streams, in order.
        send_window: Bytes of DATA that we may send on the connection.
        window: Bytes of DATA that the server may send.
    """

    def __init__(self, link: Link) -> None:
        self.link = link
        self.encoder = Encoder()
        self.server_settings: dict[int, int] = {}
        self.settings_acks = 0
        self.pongs: list[bytes] = []
        self.goaways: list[tuple[int, int]] = []
        self.responses: dict[int, Response] = {}
        self.received: list[Frame] = []
        self.send_window = INITIAL_WINDOW_BYTES
        self.window = INITIAL_WINDOW_BYTES
        self._stream_send_windows: dict[int, int] = {}
        self._decoder = Decoder()
        self._unacknowledged: deque[list[tuple[int, int]]] = deque()
        self._initial_window = INITIAL_WINDOW_BYTES
        self._largest_frame = LEAST_FRAME_BYTES
        self._buffer = bytearray()
        self._block: tuple[int, int, bytes] | None = None
        self._last_stream = -1
        self._ping_count = 0

    # -- Sending -------------------------------------------------------------

    def open(self, *pairs: tuple[int, int]) -> None:
        """Exchange prefaces, ours with these settings, and wait for all of that."""
        self.send(PREFACE)
        self.configure(*pairs)
        self.wait_for_settings()

    def send(self, *frames: bytes) -> None:
        """Send frames, or any bytes, at once and unchecked."""
        self.link.send(b"".join(frames))

    def configure(self, *pairs: tuple[int, int]) -> None:
        """Send SETTINGS, which hold once the server has acknowledged them."""
        self._unacknowledged.append(list(pairs))
        self.send(settings(*pairs))

    def expect_acks(self, count: int) -> None:
        """Let the server acknowledge SETTINGS which are sent as mere bytes."""
        self._unacknowledged.extend([] for _ in range(count))

    def wait_for_settings(self) -> None:
        """Wait for the server's SETTINGS, and until it has acknowledged ours."""
        self.wait_until(
            lambda: bool(self.received) and not self._unacknowledged,
            "SETTINGS and their acknowledgment",
        )

    def new_stream(self) -> int:
        """Return the next stream which this client may open."""
        self._last_stream += 2
        return self._last_stream

    def request_fields(
        self,
        *fields: tuple[bytes, bytes],
        method: bytes = b"GET",
        path: bytes = b"/",
    ) -> Fields:
        """Return the fields of a request."""
        return [
            (b":method", method),
            (b":scheme", self.link.scheme),
            (b":authority", b"example.org"),
            (b":path", path),
            *fields,
        ]

    def encode(self, fields: Sequence[tuple[bytes, bytes]]) -> bytes:
        """Encode fields, which may be forbidden ones."""
        return self.encoder.encode(fields)

    def request(
        self,
        *fields: tuple[bytes, bytes],
        method: bytes = b"GET",
        path: bytes = b"/",
        end: bool = True,
    ) -> int:
        """Send a request, whose body follows unless it ``end``s; return the stream."""
        return self.request_of(
            self.request_fields(*fields, method=method, path=path), end=end
        )

    def request_of(
        self, fields: Sequence[tuple[bytes, bytes]], *, end: bool = True
    ) -> int:
        """Send any header list on a new stream; return the stream."""
        stream = self.new_stream()
        self.send(headers(stream, self.encode(fields), end=end))
        return stream

    def send_data(
        self,
        stream: int,
        payload: bytes = b"",
        *,
        end: bool = False,
        padding: int | None = None,
    ) -> None:
        """Send one DATA frame, even beyond the windows, and count it."""
        sent = data(stream, payload, end=end, padding=padding)
        self.send_window -= len(sent) - 9
        self._stream_send_windows[stream] = (
            self.stream_send_window(stream) - len(sent) + 9
        )
        self.send(sent)

    def stream_send_window(self, stream: int) -> int:
        """Count the bytes of DATA that we may send on a stream."""
        initial = self.server_settings.get(
            Setting.INITIAL_WINDOW_SIZE, INITIAL_WINDOW_BYTES
        )
        return self._stream_send_windows.setdefault(stream, initial)

    def sendable(self, stream: int) -> int:
        """Count the bytes of DATA that both windows allow."""
        return min(self.send_window, self.stream_send_window(stream))

    def upload(self, stream: int, payload: bytes, *, end: bool = True) -> None:
        """Send a body as the windows allow, waiting for the server's credit."""
        rest = memoryview(payload)
        while rest:
            self.wait_until(lambda: self.sendable(stream) > 0, "credit for an upload")
            piece = rest[: min(self.sendable(stream), LEAST_FRAME_BYTES)]
            rest = rest[len(piece) :]
            self.send_data(stream, bytes(piece), end=end and not rest)

    def grant(self, stream: int, increment: int) -> None:
        """Let the server send more on a stream, or with 0 on the connection."""
        if stream:
            self.response(stream).window += increment
        else:
            self.window += increment
        self.send(window_update(stream, increment))

    # -- Reading -------------------------------------------------------------

    def response(self, stream: int) -> Response:
        """Return what has come on a stream."""
        if stream not in self.responses:
            self.responses[stream] = Response(self._initial_window)
        return self.responses[stream]

    def wait_until(self, condition: Callable[[], bool], what: str) -> None:
        """
        Read frames until the condition holds.

        Raises:
            Ended: The connection ends before.
            Silence: Nothing more comes.
        """
        while not condition():
            try:
                self._handle(self._read_frame())
            except (Ended, Silence) as error:
                raise type(error)(f"{error} instead of {what}; {self.story}") from None

    @property
    def story(self) -> str:
        """What has come so far, for a message."""
        heads = {
            number: (known.status, len(known.body), known.is_complete, known.error)
            for number, known in self.responses.items()
        }
        return f"streams {heads}, GOAWAY {self.goaways}"

    def _read_frame(self) -> Frame:
        while True:
            if len(self._buffer) >= 9:
                size = int.from_bytes(self._buffer[:3], "big")
                assert size <= self._largest_frame, f"a frame of {size} bytes"
                if len(self._buffer) >= 9 + size:
                    kind, flags, stream = struct.unpack_from(">BBI", self._buffer, 3)
                    payload = bytes(self._buffer[9 : 9 + size])
                    del self._buffer[: 9 + size]
                    return Frame(kind, flags, stream & 0x7FFF_FFFF, payload)
            if not (received := self.link.receive()):
                raise Ended("the end of the connection")
            self._buffer += received

    def _handle(self, frame: Frame) -> None:
        """Learn what a frame means, and see that it may be sent."""
        if self._block is not None:
            expected = (FrameType.CONTINUATION, self._block[0])
            assert (frame.type, frame.stream) == expected, "a header block broken off"
        if frame.type in _TYPES_OF_STREAMS:
            assert frame.stream & 1, f"{frame} is on none of our streams"
        else:
            self.received.append(frame)
            assert frame.type not in _TYPES_OF_CONNECTIONS or not frame.stream
        first = self.received and self.received[0]
        assert first, f"{frame} before the server's preface"
        assert (FrameType.SETTINGS, 0) == first[:2], f"{first} is no preface"
        if frame.type == FrameType.DATA:
            self._handle_data(frame)
        elif frame.type == FrameType.HEADERS:
            assert not frame.flags & (PADDED | PRIORITY), "the server pads headers"
            self._block = frame.stream, frame.flags, frame.payload
            self._handle_block(frame.flags)
        elif frame.type == FrameType.CONTINUATION:
            assert self._block is not None, "CONTINUATION of nothing"
            stream, flags, begun = self._block
            self._block = stream, flags, begun + frame.payload
            self._handle_block(frame.flags)
        elif frame.type == FrameType.RST_STREAM:
            (self.response(frame.stream).error,) = struct.unpack(">I", frame.payload)
        elif frame.type == FrameType.SETTINGS:
            self._handle_settings(frame)
        elif frame.type == FrameType.PING and frame.flags & ACK:
            self.pongs.append(frame.payload)
        elif frame.type == FrameType.PING:
            self.send(ping(frame.payload, ack=True))
        elif frame.type == FrameType.GOAWAY:
            self.goaways.append(struct.unpack_from(">II", frame.payload))
        elif frame.type == FrameType.WINDOW_UPDATE:
            self._handle_window_update(frame)
        assert frame.type != FrameType.PUSH_PROMISE, "a push which nobody asked for"

    def _handle_data(self, frame: Frame) -> None:
        response = self.response(frame.stream)
        assert response.status, "DATA before the head"
        assert not response.is_complete, "DATA after the end"
        assert response.error is None, "DATA after RST_STREAM"
        # Section 6.9.1: the whole payload counts, padding included.
        response.window -= len(frame.payload)
        self.window -= len(frame.payload)
        if frame.payload:
            assert response.window >= 0, f"{-response.window} beyond a stream's window"
            assert self.window >= 0, f"{-self.window} beyond the connection's window"
        payload = frame.payload
        if frame.flags & PADDED:
            assert payload[0] < len(payload)
            payload = payload[1 : len(payload) - payload[0]]
        response.body += payload
        response.is_complete = bool(frame.flags & END_STREAM)

    def _handle_block(self, flags: int) -> None:
        """Take a header list once it is whole."""
        assert self._block is not None
        if not flags & END_HEADERS:
            return
        stream, first_flags, block = self._block
        self._block = None
        fields = [
            (bytes(n), bytes(v)) for n, v in self._decoder.decode(block, raw=True)
        ]
        response = self.response(stream)
        assert not response.is_complete, "HEADERS after the end"
        assert response.error is None, "HEADERS after RST_STREAM"
        response.is_complete = bool(first_flags & END_STREAM)
        status = 0
        if not response.status:
            # Section 8.3.2: one pseudo-header field, before all others.
            name, value = fields.pop(0)
            assert b":status" == name
            status = int(value)
            assert 100 <= status <= 999
        for name, value in fields:
            assert name == name.lower(), f"{name!r} isn't in lower case"
            assert not name.startswith(b":"), f"{name!r} in a response"
            assert name not in _OF_CONNECTIONS, f"{name!r} in a response"
            assert value == value.strip(b" \t\r\n\0"), f"{name!r}: {value!r}"
        if not status:
            assert response.is_complete, "trailers that don't end the stream"
            response.trailers = fields
        elif status < 200:
            assert not response.is_complete, "an informational head ends the stream"
            response.informational.append((status, fields))
        else:
            response.status, response.fields = status, fields

    def _handle_settings(self, frame: Frame) -> None:
        if frame.flags & ACK:
            assert not frame.payload
            assert self._unacknowledged, "an acknowledgment of nothing"
            self.settings_acks += 1
            self._apply(self._unacknowledged.popleft())
            return
        for name, value in struct.iter_unpack(">HI", frame.payload):
            if name == Setting.ENABLE_PUSH:
                assert not value, "a server that asks for pushes"
            elif name == Setting.INITIAL_WINDOW_SIZE:
                assert value <= LARGEST_WINDOW_BYTES
                before = self.server_settings.get(name, INITIAL_WINDOW_BYTES)
                for stream in self._stream_send_windows:
                    self._stream_send_windows[stream] += value - before
            elif name == Setting.MAX_FRAME_SIZE:
                assert LEAST_FRAME_BYTES <= value < 2**24
            elif name == Setting.HEADER_TABLE_SIZE:
                self.encoder.header_table_size = min(value, 4096)
            elif name in (Setting.ENABLE_CONNECT_PROTOCOL, 0x9):
                assert value in (0, 1)
            self.server_settings[name] = value
        self.send(settings_ack())

    def _apply(self, pairs: list[tuple[int, int]]) -> None:
        """Hold the server to settings which it has acknowledged."""
        for name, value in pairs:
            if name == Setting.INITIAL_WINDOW_SIZE:
                for response in self.responses.values():
                    response.window += value - self._initial_window
                self._initial_window = value
            elif name == Setting.MAX_FRAME_SIZE:
                self._largest_frame = value
            elif name == Setting.HEADER_TABLE_SIZE:
                self._decoder.max_allowed_table_size = value

    def _handle_window_update(self, frame: Frame) -> None:
        (increment,) = struct.unpack(">I", frame.payload)
        assert 0 < increment <= LARGEST_WINDOW_BYTES
        if frame.stream:
            window = self.stream_send_window(frame.stream) + increment
            self._stream_send_windows[frame.stream] = window
        else:
            window = self.send_window = self.send_window + increment
        assert window <= LARGEST_WINDOW_BYTES, "a window of more than 31 bits"

    # -- Expectations --------------------------------------------------------

    def expect_pong(self) -> None:
        """
        See that the connection lives.

        What the server has to say about the frames before, it has said by then;
        only what an application does may take longer.
        """
        self._ping_count += 1
        payload = self._ping_count.to_bytes(8, "big")
        self.send(ping(payload))
        self.wait_until(lambda: payload in self.pongs, "the answer to a PING")
        self.expect_no_connection_error()

    def expect_no_connection_error(self) -> None:
        """See that no GOAWAY told of an error."""
        assert all(code == ErrorCode.NO_ERROR for _, code in self.goaways), self.story

    def expect_head(self, stream: int, status: int = 200) -> Response:
        """Wait for the head of a response."""
        response = self.response(stream)
        self.wait_until(
            lambda: bool(response.status) or response.error is not None,
            f"a head on stream {stream}",
        )
        assert status == response.status, self.story
        return response

    def expect_body(self, stream: int, count: int) -> Response:
        """Wait until so many bytes of the body have come, and see that no more do."""
        response = self.response(stream)
        self.wait_until(
            lambda: len(response.body) >= count or response.error is not None,
            f"{count} bytes on stream {stream}",
        )
        assert count == len(response.body), self.story
        return response

    def expect_response(self, stream: int, status: int = 200) -> Response:
        """Wait for a whole response."""
        response = self.response(stream)
        self.wait_until(
            lambda: response.is_complete or response.error is not None,
            f"a response on stream {stream}",
        )
        assert response.is_complete, self.story
        assert status == response.status, self.story
        for length in response.values_of(b"content-length"):
            assert int(length) == len(response.body) or not response.body
        return response

    def download(self, stream: int) -> Response:
        """Wait for a whole response, and give credit for each byte of it."""
        response = self.response(stream)
        granted = 0

        def has_more() -> bool:
            over = response.is_complete or response.error is not None
            return over or len(response.body) > granted

        while not (response.is_complete or response.error is not None):
            self.wait_until(has_more, f"more of the response on stream {stream}")
            if (taken := len(response.body) - granted) and not response.is_complete:
                granted += taken
                self.grant(0, taken)
                self.grant(stream, taken)
        return self.expect_response(stream)

    def expect_stream_error(self, stream: int, *codes: int) -> None:
        """
        Wait until the server refuses a stream, with one of these codes.

        It may treat any error of a stream as one of the connection (section 5.4.2);
        if it doesn't, the connection goes on. An answer may come before (8.1.1).
        """
        response = self.response(stream)
        try:
            self.wait_until(
                lambda: response.error is not None or self._has_failed(),
                f"an error of stream {stream}",
            )
        except Ended:
            self._check_end(codes)
            return
        if response.error is not None:
            assert response.error in codes, self.story
            self.expect_pong()
        else:
            self.expect_connection_error(*codes)

    def expect_connection_error(self, *codes: int) -> None:
        """Wait until the server gives up the connection, with one of these codes."""
        try:
            self.wait_until(self._has_failed, "GOAWAY")
            self.wait_until(lambda: False, "the end of the connection")
        except Ended:
            pass
        except Silence:
            if not self._has_failed():
                raise
            self.expect_close()
        self._check_end(codes)

    def expect_refusal(self, stream: int) -> None:
        """
        Wait until a request is refused, in whichever way.

        By a status of an error, by RST_STREAM or by an error of the connection.
        """
        response = self.response(stream)
        try:
            self.wait_until(
                lambda: bool(response.status) or response.error is not None,
                f"the refusal of stream {stream}",
            )
        except Ended:
            assert self._has_failed() or self.link.reset, self.story
            return
        if response.error is None:
            assert 400 <= response.status <= 599, self.story

    def expect_close(self) -> None:
        """Wait for the end of the connection."""
        try:
            self.wait_until(lambda: False, "the end of the connection")
        except Ended:
            return
        except Silence:
            self.link.let_linger()
        try:
            self.wait_until(lambda: False, "the end of the connection")
        except Ended:
            return

    def _has_failed(self) -> bool:
        return any(code != ErrorCode.NO_ERROR for _, code in self.goaways)

    def _check_end(self, codes: Sequence[int]) -> None:
        """See that a GOAWAY gave one of these reasons, unless the network lost it."""
        if self.goaways or not self.link.reset:
            assert self.goaways, f"closed without GOAWAY; {self.story}"
            assert self.goaways[-1][1] in codes, self.story
