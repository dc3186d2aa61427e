"""The preface, frames in general, and the frames of connections."""

from __future__ import annotations

from http2_client import Ended, Peer
from http2_frames import (
    END_HEADERS,
    END_STREAM,
    LEAST_FRAME_BYTES,
    PREFACE,
    ErrorCode,
    FrameType,
    Setting,
    continuation,
    data,
    frame,
    goaway,
    headers,
    ping,
    reset,
    settings,
    settings_ack,
)

from http2_cases.table import case

MAX_FRAME_SIZE = Setting.MAX_FRAME_SIZE
UNKNOWN_TYPE = 0xF5
UNKNOWN_CODE = 0xFACE
UNKNOWN_SETTING = 0xFACE


# -- Section 3.4: the preface --------------------------------------------------


@case("3.4", opened=False)
def prefaces_are_exchanged(peer: Peer) -> None:
    """The server's first frame is SETTINGS; it acknowledges the client's."""
    peer.open()
    assert 1 == peer.settings_acks


@case("3.4", opened=False)
def a_request_behind_the_preface(peer: Peer) -> None:
    """A client needn't wait for the server's preface before it asks."""
    peer.send(PREFACE)
    peer.configure()
    peer.expect_response(peer.request())


@case("3.4", opened=False, each=[1, 3, 10, 18, 23])
def the_preface_in_pieces(peer: Peer, cut: int) -> None:
    """It doesn't matter how the network cuts it."""
    peer.send(PREFACE[:cut])
    peer.send(PREFACE[cut:])
    peer.configure()
    peer.wait_for_settings()
    peer.expect_response(peer.request())


@case(
    "3.4",
    opened=False,
    each=[
        b"INVALID CONNECTION PREFACE\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\n\n",
    ],
)
def no_preface(peer: Peer, instead: bytes) -> None:
    """Who doesn't speak HTTP/2 is disconnected, with or without a word."""
    peer.send(instead, settings())
    while peer.link.receive():
        pass


@case(
    "3.4",
    opened=False,
    each=[
        ping(),
        frame(FrameType.HEADERS, END_STREAM | END_HEADERS, 1, b"\x82\x84\x86"),
        frame(UNKNOWN_TYPE),
        settings_ack(),
    ],
)
def a_preface_without_settings(peer: Peer, instead: bytes) -> None:
    """The client's first frame must be SETTINGS."""
    peer.send(PREFACE, instead)
    peer.expect_connection_error(ErrorCode.PROTOCOL_ERROR)


# -- Section 4.1: frames in general -------------------------------------------


@case("4.1", each=[0, 1])
def a_frame_of_unknown_type(peer: Peer, stream: int) -> None:
    """It is ignored."""
    peer.send(frame(UNKNOWN_TYPE, 0xFF, stream, b"unknown"))
    peer.expect_pong()


@case("4.1")
def flags_without_meaning(peer: Peer) -> None:
    """They are ignored."""
    peer.send(frame(FrameType.PING, 0xFE, 0, b"undefine"))
    peer.wait_until(lambda: b"undefine" in peer.pongs, "the answer to a PING")
    stream = peer.new_stream()
    block = peer.encode(peer.request_fields())
    peer.send(frame(FrameType.HEADERS, 0xD2 | END_STREAM | END_HEADERS, stream, block))
    peer.expect_response(stream)


@case("4.1")
def the_reserved_bit(peer: Peer) -> None:
    """It is ignored."""
    peer.send(frame(FrameType.PING, 0, 0, b"reserved", reserved=True))
    peer.wait_until(lambda: b"reserved" in peer.pongs, "the answer to a PING")
    stream = peer.new_stream()
    flags = END_STREAM | END_HEADERS
    block = peer.encode(peer.request_fields())
    peer.send(frame(FrameType.HEADERS, flags, stream, block, reserved=True))
    peer.expect_response(stream)


# -- Section 4.2: the size of frames ------------------------------------------


@case("4.2")
def the_largest_data(peer: Peer) -> None:
    """A frame of as many bytes as each server must take is taken."""
    stream = peer.request(method=b"POST", end=False)
    peer.send_data(stream, bytes(LEAST_FRAME_BYTES), end=True)
    peer.expect_response(stream)


def _too_large(peer: Peer) -> bytes:
    return bytes(peer.server_settings.get(MAX_FRAME_SIZE, LEAST_FRAME_BYTES) + 1)


@case("4.2")
def data_that_is_too_large(peer: Peer) -> None:
    """A frame of more bytes than the server takes is an error of its size."""
    stream = peer.request(method=b"POST", end=False)
    peer.send(data(stream, _too_large(peer), end=True))
    peer.expect_stream_error(stream, ErrorCode.FRAME_SIZE_ERROR)


@case(
    "4.2",
    each=[FrameType.HEADERS, FrameType.SETTINGS, FrameType.PING, FrameType.GOAWAY],
)
def another_frame_that_is_too_large(peer: Peer, kind: int) -> None:
    """Whatever may change the connection's state is a connection error."""
    stream = peer.new_stream() if kind == FrameType.HEADERS else 0
    flags = END_STREAM | END_HEADERS if stream else 0
    peer.send(frame(kind, flags, stream, _too_large(peer)))
    peer.expect_connection_error(ErrorCode.FRAME_SIZE_ERROR)


@case("4.2")
def a_continuation_that_is_too_large(peer: Peer) -> None:
    """It may change the connection's state as HEADERS do."""
    stream = peer.new_stream()
    block = peer.encode(peer.request_fields())
    peer.send(headers(stream, block, complete=False))
    peer.send(continuation(stream, _too_large(peer)))
    peer.expect_connection_error(ErrorCode.FRAME_SIZE_ERROR)


# -- Section 5.4.1: errors of the connection ----------------------------------


@case("5.4.1")
def the_connection_closes_after_an_error(peer: Peer) -> None:
    """GOAWAY tells the last stream that may have been served; then it is over."""
    stream = peer.request()
    peer.expect_response(stream)
    peer.send(frame(FrameType.PING, 0, 0, b"short"))
    peer.expect_connection_error(ErrorCode.FRAME_SIZE_ERROR)
    assert peer.link.reset or peer.goaways[-1][0] >= stream


@case("5.5")
def an_extension_within_a_header_block(peer: Peer) -> None:
    """Even an unknown frame may not stand there."""
    stream = peer.new_stream()
    block = peer.encode(peer.request_fields())
    peer.send(headers(stream, block, complete=False), frame(UNKNOWN_TYPE, 0, stream))
    peer.send(continuation(stream, b""))
    peer.expect_connection_error(ErrorCode.PROTOCOL_ERROR)


@case("5.5")
def extensions_within_a_body(peer: Peer) -> None:
    """Unknown frames between DATA are ignored, on any stream."""
    stream = peer.request(method=b"POST", end=False)
    peer.send_data(stream, b"a")
    peer.send(frame(UNKNOWN_TYPE, 0xFF, stream, b"b"), frame(UNKNOWN_TYPE))
    peer.send_data(stream, b"c", end=True)
    peer.expect_response(stream)


# -- Section 6.5: SETTINGS ----------------------------------------------------


@case("6.5")
def an_acknowledgment_with_settings(peer: Peer) -> None:
    """An acknowledgment is empty."""
    peer.send(frame(FrameType.SETTINGS, 1, 0, bytes(6)))
    peer.expect_connection_error(ErrorCode.FRAME_SIZE_ERROR)


@case("6.5")
def settings_of_a_stream(peer: Peer) -> None:
    """They are always of the connection."""
    peer.send(frame(FrameType.SETTINGS, 0, 1))
    peer.expect_connection_error(ErrorCode.PROTOCOL_ERROR)


@case("6.5", each=[1, 3, 5, 7])
def settings_of_a_wrong_size(peer: Peer, size: int) -> None:
    """Each parameter takes six bytes."""
    peer.send(frame(FrameType.SETTINGS, 0, 0, bytes(size)))
    peer.expect_connection_error(ErrorCode.FRAME_SIZE_ERROR)


@case(
    "6.5.2",
    each=[
        (Setting.ENABLE_PUSH, 2),
        (Setting.MAX_FRAME_SIZE, 0),
        (Setting.MAX_FRAME_SIZE, LEAST_FRAME_BYTES - 1),
        (Setting.MAX_FRAME_SIZE, 2**24),
        (Setting.MAX_FRAME_SIZE, 2**32 - 1),
    ],
)
def a_value_out_of_range(peer: Peer, pair: tuple[int, int]) -> None:
    """It is an error of the connection."""
    peer.send(settings(pair))
    peer.expect_connection_error(ErrorCode.PROTOCOL_ERROR)


@case("6.5.2", each=[2**31, 2**32 - 1])
def a_window_out_of_range(peer: Peer, size: int) -> None:
    """No window is larger than 31 bits."""
    peer.send(settings((Setting.INITIAL_WINDOW_SIZE, size)))
    peer.expect_connection_error(ErrorCode.FLOW_CONTROL_ERROR)


@case(
    "6.5.2",
    each=[
        (Setting.HEADER_TABLE_SIZE, 2**32 - 1),
        (Setting.ENABLE_PUSH, 0),
        (Setting.MAX_CONCURRENT_STREAMS, 0),
        (Setting.MAX_CONCURRENT_STREAMS, 2**32 - 1),
        (Setting.INITIAL_WINDOW_SIZE, 2**31 - 1),
        (Setting.MAX_FRAME_SIZE, LEAST_FRAME_BYTES),
        (Setting.MAX_FRAME_SIZE, 2**24 - 1),
        (Setting.MAX_HEADER_LIST_SIZE, 2**32 - 1),
        (Setting.ENABLE_CONNECT_PROTOCOL, 1),
        (UNKNOWN_SETTING, 2**32 - 1),
    ],
)
def a_value_at_the_edge(peer: Peer, pair: tuple[int, int]) -> None:
    """It is taken, or ignored when its parameter is unknown."""
    peer.configure(pair)
    peer.wait_for_settings()
    peer.expect_response(peer.request())


@case("6.5.3")
def each_settings_frame_is_acknowledged(peer: Peer) -> None:
    """One by one, also those without any parameter."""
    for _ in range(5):
        peer.configure()
    peer.configure(*[(UNKNOWN_SETTING, 1)] * 10)
    peer.wait_for_settings()
    assert 7 == peer.settings_acks


@case("6.5.3")
def the_last_value_of_a_parameter_holds(peer: Peer) -> None:
    """Parameters are processed in the order in which they stand."""
    size = Setting.INITIAL_WINDOW_SIZE
    peer.configure((size, 100), (size, 1))
    peer.wait_for_settings()
    stream = peer.request()
    peer.expect_body(stream, 1)
    peer.grant(stream, 100)
    assert b"hello" == bytes(peer.expect_response(stream).body)


@case("RFC 9218 2.1", each=[2, 2**32 - 1])
def no_old_priorities_out_of_range(peer: Peer, value: int) -> None:
    """SETTINGS_NO_RFC7540_PRIORITIES is 0 or 1."""
    peer.send(settings((Setting.NO_RFC7540_PRIORITIES, value)))
    peer.expect_connection_error(ErrorCode.PROTOCOL_ERROR)


# -- Section 6.7: PING --------------------------------------------------------


@case("6.7")
def a_ping_is_answered(peer: Peer) -> None:
    """With the same eight bytes."""
    peer.send(ping(b"\x00\xffhello!"))
    peer.wait_until(lambda: peer.pongs == [b"\x00\xffhello!"], "the answer to a PING")


@case("6.7")
def an_answer_is_not_answered(peer: Peer) -> None:
    """A PING that acknowledges another one is ignored, even when none was sent."""
    peer.send(ping(b"unasked!", ack=True))
    peer.expect_pong()
    assert b"unasked!" not in peer.pongs


@case("6.7")
def a_ping_during_an_upload(peer: Peer) -> None:
    """It is answered while a stream is open."""
    stream = peer.request(method=b"POST", end=False)
    peer.expect_pong()
    peer.send_data(stream, b"end", end=True)
    peer.expect_response(stream)


@case("6.7")
def a_ping_of_a_stream(peer: Peer) -> None:
    """It is always of the connection."""
    peer.send(frame(FrameType.PING, 0, 1, bytes(8)))
    peer.expect_connection_error(ErrorCode.PROTOCOL_ERROR)


@case("6.7", each=[0, 6, 7, 9])
def a_ping_of_a_wrong_size(peer: Peer, size: int) -> None:
    """It has eight bytes."""
    peer.send(frame(FrameType.PING, 0, 0, bytes(size)))
    peer.expect_connection_error(ErrorCode.FRAME_SIZE_ERROR)


# -- Section 6.8: GOAWAY ------------------------------------------------------


def _expect_pong_or_end(peer: Peer) -> None:
    try:
        peer.expect_pong()
    except Ended:
        peer.expect_no_connection_error()


@case("6.8")
def goaway_of_a_stream(peer: Peer) -> None:
    """It is always of the connection."""
    peer.send(frame(FrameType.GOAWAY, 0, 1, bytes(8)))
    peer.expect_connection_error(ErrorCode.PROTOCOL_ERROR)


@case("6.8", each=[0, 4, 7])
def goaway_that_is_too_short(peer: Peer, size: int) -> None:
    """It has at least eight bytes."""
    peer.send(frame(FrameType.GOAWAY, 0, 0, bytes(size)))
    peer.expect_connection_error(ErrorCode.FRAME_SIZE_ERROR)


@case("6.8")
def goaway_during_requests(peer: Peer) -> None:
    """What the client has asked for before, it still gets."""
    upload = peer.request(method=b"POST", end=False)
    download = peer.request(path=b"/large")
    peer.expect_head(download)
    peer.send(goaway(detail=b"enough"))
    peer.send_data(upload, b"the end", end=True)
    peer.download(download)
    peer.expect_response(upload)
    _expect_pong_or_end(peer)


@case("7", each=[UNKNOWN_CODE, 2**32 - 1])
def goaway_with_an_unknown_code(peer: Peer, code: int) -> None:
    """It is a GOAWAY as others."""
    peer.send(goaway(0, code))
    _expect_pong_or_end(peer)


@case("7", each=[UNKNOWN_CODE, 2**32 - 1])
def reset_with_an_unknown_code(peer: Peer, code: int) -> None:
    """It is an RST_STREAM as others."""
    stream = peer.request(method=b"POST", end=False)
    peer.send(reset(stream, code))
    peer.expect_pong()
    peer.expect_response(peer.request())


# -- Section 6.6: PUSH_PROMISE ------------------------------------------------


@case("8.4", each=[0, 1, 2])
def a_push_of_the_client(peer: Peer, stream: int) -> None:
    """Only servers push."""
    peer.request(method=b"POST", end=False)
    block = peer.encode(peer.request_fields())
    promised = b"\x00\x00\x00\x02"
    peer.send(frame(FrameType.PUSH_PROMISE, END_HEADERS, stream, promised + block))
    peer.expect_connection_error(ErrorCode.PROTOCOL_ERROR)
