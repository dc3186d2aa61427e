"""The states of streams, and the frames that change them."""

from __future__ import annotations

from http2_client import Peer
from http2_frames import (
    END_HEADERS,
    END_STREAM,
    INITIAL_WINDOW_BYTES,
    PADDED,
    ErrorCode,
    FrameType,
    Setting,
    continuation,
    data,
    frame,
    headers,
    reset,
    window_update,
)

from http2_cases.table import case

INITIAL_WINDOW_SIZE = Setting.INITIAL_WINDOW_SIZE

# More open streams than this no server is asked to hold.
_MOST_STREAMS = 1000
# Nor is more than this sent, however large its windows are.
_MOST_UPLOAD_BYTES = 4 * 1024 * 1024


def _request_frame(peer: Peer, stream: int, *, end: bool = True) -> bytes:
    return headers(stream, peer.encode(peer.request_fields()), end=end)


def _half_closed(peer: Peer) -> int:
    """Send a request whose response can't end, for want of a window."""
    peer.configure((INITIAL_WINDOW_SIZE, 0))
    peer.wait_for_settings()
    stream = peer.request()
    peer.expect_head(stream)
    return stream


def _finish(peer: Peer, stream: int) -> None:
    peer.grant(stream, 100)
    peer.expect_response(stream)


def _closed(peer: Peer) -> int:
    stream = peer.request()
    peer.expect_response(stream)
    return stream


def _reset(peer: Peer) -> int:
    stream = peer.request(method=b"POST", end=False)
    peer.send(reset(stream))
    peer.expect_pong()
    return stream


# -- Idle streams (section 5.1) -----------------------------------------------


@case("5.1", each=[data(1, b"early", end=True), data(3)])
def data_of_an_idle_stream(peer: Peer, sent: bytes) -> None:
    """A stream begins with HEADERS."""
    peer.send(sent)
    peer.expect_connection_error(ErrorCode.PROTOCOL_ERROR, ErrorCode.STREAM_CLOSED)


@case("5.1", each=[reset(1), reset(2), window_update(1, 100), window_update(2, 100)])
def another_frame_of_an_idle_stream(peer: Peer, sent: bytes) -> None:
    """What hasn't begun can't be reset, nor be given credit."""
    peer.send(sent)
    peer.expect_connection_error(ErrorCode.PROTOCOL_ERROR)


@case("5.1")
def an_idle_stream_beyond_those_used(peer: Peer) -> None:
    """Higher streams than the last one opened are idle."""
    stream = peer.request()
    peer.send(reset(stream + 2))
    peer.expect_connection_error(ErrorCode.PROTOCOL_ERROR)


# -- Open streams -------------------------------------------------------------


@case("5.1")
def an_open_stream(peer: Peer) -> None:
    """DATA may come in any number of frames, also in empty ones."""
    stream = peer.request(method=b"POST", end=False)
    for piece in (b"a", b"", b"bc", b""):
        peer.send_data(stream, piece)
    peer.send_data(stream, end=True)
    peer.expect_response(stream)


@case("5.1")
def requests_side_by_side(peer: Peer) -> None:
    """Streams don't wait for each other."""
    uploads = [peer.request(method=b"POST", end=False) for _ in range(5)]
    for _ in range(5):
        peer.expect_response(peer.request())
    for stream in reversed(uploads):
        peer.send_data(stream, b"late", end=True)
    for stream in uploads:
        peer.expect_response(stream)


@case("5.1")
def requests_one_after_the_other(peer: Peer) -> None:
    """A connection serves any number of them."""
    for _ in range(50):
        peer.expect_response(peer.request())


# -- Streams that the client has ended ----------------------------------------


@case("5.1", each=[b"", b"more"])
def data_after_the_end_of_the_request(peer: Peer, payload: bytes) -> None:
    """There was END_STREAM."""
    stream = _half_closed(peer)
    peer.send(data(stream, payload, end=True))
    peer.expect_stream_error(stream, ErrorCode.STREAM_CLOSED)


@case("5.1")
def headers_after_the_end_of_the_request(peer: Peer) -> None:
    """There was END_STREAM."""
    stream = _half_closed(peer)
    peer.send(_request_frame(peer, stream))
    peer.expect_stream_error(stream, ErrorCode.STREAM_CLOSED)


@case("5.1")
def continuation_after_the_end_of_the_request(peer: Peer) -> None:
    """It continues nothing."""
    stream = _half_closed(peer)
    peer.send(continuation(stream, peer.encode(peer.request_fields())))
    peer.expect_connection_error(ErrorCode.STREAM_CLOSED, ErrorCode.PROTOCOL_ERROR)


@case("5.1")
def credit_after_the_end_of_the_request(peer: Peer) -> None:
    """WINDOW_UPDATE is for the response."""
    stream = _half_closed(peer)
    for _ in range(5):
        peer.grant(stream, 1)
    peer.expect_response(stream)


@case("5.1")
def reset_after_the_end_of_the_request(peer: Peer) -> None:
    """It ends the response, of which nothing more comes."""
    stream = _half_closed(peer)
    peer.send(reset(stream))
    peer.expect_pong()
    # Nobody may use this credit any more.
    peer.send(window_update(stream, 100))
    peer.expect_pong()
    assert not peer.response(stream).body
    _finish(peer, peer.request())


# -- Closed streams -----------------------------------------------------------


@case("5.1")
def data_after_reset(peer: Peer) -> None:
    """The client has closed the stream."""
    stream = _reset(peer)
    peer.send(data(stream, b"late"))
    peer.expect_stream_error(stream, ErrorCode.STREAM_CLOSED)


@case("5.1")
def headers_after_reset(peer: Peer) -> None:
    """The client has closed the stream."""
    stream = _reset(peer)
    peer.send(_request_frame(peer, stream))
    peer.expect_stream_error(stream, ErrorCode.STREAM_CLOSED)


@case("5.1")
def continuation_after_reset(peer: Peer) -> None:
    """It continues nothing."""
    stream = _reset(peer)
    peer.send(continuation(stream, peer.encode(peer.request_fields())))
    peer.expect_connection_error(ErrorCode.STREAM_CLOSED, ErrorCode.PROTOCOL_ERROR)


@case("5.1")
def data_after_both_ends(peer: Peer) -> None:
    """The stream is over."""
    stream = _closed(peer)
    peer.send(data(stream, b"late", end=True))
    peer.expect_stream_error(stream, ErrorCode.STREAM_CLOSED)


@case("5.1")
def headers_after_both_ends(peer: Peer) -> None:
    """The stream is over; another request needs another stream."""
    stream = _closed(peer)
    peer.send(_request_frame(peer, stream))
    peer.expect_connection_error(ErrorCode.STREAM_CLOSED)


@case("5.1")
def continuation_after_both_ends(peer: Peer) -> None:
    """It continues nothing."""
    stream = _closed(peer)
    peer.send(continuation(stream, peer.encode(peer.request_fields())))
    peer.expect_connection_error(ErrorCode.STREAM_CLOSED, ErrorCode.PROTOCOL_ERROR)


@case("5.1")
def what_may_cross_the_end_of_a_stream(peer: Peer) -> None:
    """Credit and RST_STREAM may have been on their way when the server ended."""
    stream = _closed(peer)
    peer.send(window_update(stream, 100), reset(stream))
    peer.expect_pong()
    peer.expect_response(peer.request())


@case("5.1")
def reset_twice(peer: Peer) -> None:
    """It does no harm."""
    stream = _reset(peer)
    peer.send(reset(stream))
    peer.expect_pong()
    peer.expect_response(peer.request())


# -- Section 5.1.1: identifiers -----------------------------------------------


@case("5.1.1", each=[2, 4, 2**31 - 2])
def a_stream_of_the_server(peer: Peer, stream: int) -> None:
    """Clients open those with odd numbers."""
    peer.send(_request_frame(peer, stream))
    peer.expect_connection_error(ErrorCode.PROTOCOL_ERROR)


@case("5.1.1")
def a_stream_that_was_left_out(peer: Peer) -> None:
    """Opening a stream closes all idle ones below it."""
    peer.send(_request_frame(peer, 5))
    peer.expect_response(5)
    peer.send(_request_frame(peer, 3))
    peer.expect_connection_error(ErrorCode.PROTOCOL_ERROR)


@case("5.1.1")
def streams_left_out(peer: Peer) -> None:
    """Nobody has to use all numbers."""
    for stream in (1, 7, 101, 2**31 - 1):
        peer.send(_request_frame(peer, stream))
        peer.expect_response(stream)


# -- Section 5.1.2: concurrency -----------------------------------------------


@case("5.1.2")
def too_many_streams(peer: Peer) -> None:
    """The first one beyond the limit is refused, or its connection is."""
    # One that sets none can be made to hold any number of them (section 10.5).
    limit = peer.server_settings[Setting.MAX_CONCURRENT_STREAMS]
    assert limit <= _MOST_STREAMS
    opened = [peer.request(method=b"POST", end=False) for _ in range(limit + 1)]
    peer.expect_stream_error(
        opened[-1], ErrorCode.PROTOCOL_ERROR, ErrorCode.REFUSED_STREAM
    )
    if peer.response(opened[-1]).error is not None:
        for stream in opened[:-1]:
            peer.send_data(stream, end=True)
            peer.expect_response(stream)
        peer.expect_response(peer.request())


@case("5.1.2")
def as_many_streams_as_allowed(peer: Peer) -> None:
    """All of them are served, and when they have ended there is room again."""
    limit = peer.server_settings.get(Setting.MAX_CONCURRENT_STREAMS, _MOST_STREAMS)
    limit = min(limit, _MOST_STREAMS)
    for _ in range(2):
        opened = [peer.request(method=b"POST", end=False) for _ in range(limit)]
        peer.expect_pong()
        for stream in opened:
            peer.send_data(stream, end=True)
        for stream in opened:
            peer.expect_response(stream)


@case("5.1.2")
def streams_that_were_reset(peer: Peer) -> None:
    """They don't count."""
    limit = peer.server_settings.get(Setting.MAX_CONCURRENT_STREAMS, 20)
    opened = [peer.request(method=b"POST", end=False) for _ in range(min(limit, 20))]
    peer.send(*map(reset, opened))
    peer.expect_pong()
    opened = [peer.request(method=b"POST", end=False) for _ in range(min(limit, 20))]
    for stream in opened:
        peer.send_data(stream, end=True)
        peer.expect_response(stream)


# -- Section 6.1: DATA --------------------------------------------------------


@case("6.1")
def data_of_the_connection(peer: Peer) -> None:
    """It belongs to a stream."""
    peer.send(data(0, b"lost"))
    peer.expect_connection_error(ErrorCode.PROTOCOL_ERROR)


@case("6.1", each=[0, 1, 255])
def padded_data(peer: Peer, padding: int) -> None:
    """Padding isn't content."""
    stream = peer.request((b"content-length", b"4"), method=b"POST", end=False)
    peer.send_data(stream, b"da", padding=padding)
    peer.send_data(stream, padding=padding)
    peer.send_data(stream, b"ta", padding=padding, end=True)
    peer.expect_response(stream)


@case("6.1", each=[b"\x05data", b"\xff", b"\x01"])
def data_shorter_than_its_padding(peer: Peer, payload: bytes) -> None:
    """Padding is less than what the frame holds."""
    stream = peer.request(method=b"POST", end=False)
    peer.send(frame(FrameType.DATA, PADDED | END_STREAM, stream, payload))
    peer.expect_connection_error(ErrorCode.PROTOCOL_ERROR)


@case("6.1")
def data_without_the_length_of_its_padding(peer: Peer) -> None:
    """A padded frame has at least one byte."""
    stream = peer.request(method=b"POST", end=False)
    peer.send(frame(FrameType.DATA, PADDED, stream))
    peer.expect_connection_error(ErrorCode.FRAME_SIZE_ERROR, ErrorCode.PROTOCOL_ERROR)


# -- Section 6.2: HEADERS -----------------------------------------------------


@case("6.2")
def headers_of_the_connection(peer: Peer) -> None:
    """They belong to a stream."""
    peer.send(_request_frame(peer, 0))
    peer.expect_connection_error(ErrorCode.PROTOCOL_ERROR)


@case("6.2", each=[0, 1, 255])
def padded_headers(peer: Peer, padding: int) -> None:
    """Padding isn't part of the block."""
    stream = peer.new_stream()
    block = peer.encode(peer.request_fields())
    peer.send(headers(stream, block, padding=padding))
    peer.expect_response(stream)


@case("6.2", each=[1, 10, 200])
def headers_shorter_than_their_padding(peer: Peer, excess: int) -> None:
    """Padding is less than what the frame holds."""
    block = peer.encode(peer.request_fields())
    payload = bytes([len(block) + excess]) + block
    flags = PADDED | END_STREAM | END_HEADERS
    peer.send(frame(FrameType.HEADERS, flags, peer.new_stream(), payload))
    peer.expect_connection_error(ErrorCode.PROTOCOL_ERROR)


@case("6.2", each=[b"", b"\0\0\0\0"])
def headers_without_their_priority(peer: Peer, payload: bytes) -> None:
    """A frame with the flag PRIORITY has five bytes more."""
    flags = 0x20 | END_STREAM | END_HEADERS
    peer.send(frame(FrameType.HEADERS, flags, peer.new_stream(), payload))
    peer.expect_connection_error(ErrorCode.FRAME_SIZE_ERROR, ErrorCode.PROTOCOL_ERROR)


# -- Section 6.4: RST_STREAM --------------------------------------------------


@case("6.4")
def reset_of_the_connection(peer: Peer) -> None:
    """It is of a stream."""
    peer.send(reset(0))
    peer.expect_connection_error(ErrorCode.PROTOCOL_ERROR)


@case("6.4", each=[0, 3, 5])
def reset_of_a_wrong_size(peer: Peer, size: int) -> None:
    """It has four bytes."""
    stream = peer.request(method=b"POST", end=False)
    peer.send(frame(FrameType.RST_STREAM, 0, stream, bytes(size)))
    peer.expect_connection_error(ErrorCode.FRAME_SIZE_ERROR)


@case("6.4")
def reset_of_a_response(peer: Peer) -> None:
    """It ends, and what it hasn't used of the connection's window others may."""
    first = peer.request(path=b"/large")
    peer.expect_body(first, 65_535)
    peer.send(reset(first))
    peer.expect_pong()
    peer.grant(0, 100)
    second = peer.request()
    peer.expect_response(second)
    assert 65_535 == len(peer.response(first).body)
    assert 95 == peer.window


@case("6.4", each=[b"/", b"/large"])
def reset_of_an_upload(peer: Peer, path: bytes) -> None:
    """The connection gets credit for what was sent of it, read or not."""
    peer.grant(0, 100)
    window = min(peer.send_window, _MOST_UPLOAD_BYTES)
    for _ in range(5):
        stream = peer.request(method=b"POST", path=path, end=False)
        size = min(window, peer.stream_send_window(stream))
        peer.upload(stream, bytes(size), end=False)
        peer.send(reset(stream))
        peer.expect_pong()
    peer.grant(0, INITIAL_WINDOW_BYTES)
    stream = peer.request(method=b"POST", end=False)
    peer.upload(stream, bytes(window))
    peer.expect_response(stream)


# -- Streams that the server has reset ----------------------------------------


@case("5.1")
def what_crosses_a_refusal(peer: Peer) -> None:
    """Frames that the client sent before it knew are no error, and are decoded."""
    stream = peer.request((b"X-Upper", b"1"), method=b"POST", end=False)
    peer.expect_stream_error(stream, ErrorCode.PROTOCOL_ERROR)
    peer.send_data(stream, bytes(1000))
    trailers = peer.encode([(b"x-crossing", b"trailers")])
    peer.send(window_update(stream, 1), headers(stream, trailers))
    peer.expect_pong()
    assert ErrorCode.PROTOCOL_ERROR == peer.response(stream).error
    peer.expect_response(peer.request((b"x-crossing", b"trailers")))


@case("5.1")
def what_crosses_a_refusal_counts(peer: Peer) -> None:
    """The connection gets credit for it, time and again."""
    sent = 0
    stream = peer.request((b"X-Upper", b"1"), method=b"POST", end=False)
    peer.expect_stream_error(stream, ErrorCode.PROTOCOL_ERROR)
    wanted = min(2 * peer.send_window, _MOST_UPLOAD_BYTES)
    # As much as one window of the stream: so much may really have been on its way.
    size = min(peer.sendable(stream), wanted)
    peer.upload(stream, bytes(size), end=False)
    sent += size
    peer.expect_pong()
    window = min(peer.server_settings.get(INITIAL_WINDOW_SIZE, 65_535), wanted)
    while sent < wanted:
        stream = peer.request(method=b"POST", end=False)
        peer.upload(stream, bytes(window))
        peer.expect_response(stream)
        sent += window
