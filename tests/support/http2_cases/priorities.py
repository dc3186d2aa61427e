"""
Priorities: those of RFC 7540, which mean nothing now, and those of RFC 9218.

The frames of the old ones may still be wrong (RFC 9113 sections 5.3.2 and 6.3).
"""

from __future__ import annotations

from conformance_site import LARGE_BYTES
from http2_client import Peer
from http2_frames import (
    LEAST_FRAME_BYTES,
    PREFACE,
    ErrorCode,
    FrameType,
    Setting,
    dependency,
    frame,
    headers,
    priority,
    priority_update,
)

from http2_cases.table import case

INITIAL_WINDOW_SIZE = Setting.INITIAL_WINDOW_SIZE


# -- PRIORITY (RFC 9113 section 6.3) ------------------------------------------


@case("6.3")
def priority_of_the_connection(peer: Peer) -> None:
    """It is of a stream."""
    peer.send(priority(0, on=1))
    peer.expect_connection_error(ErrorCode.PROTOCOL_ERROR)


@case("6.3", each=[0, 4, 6])
def priority_of_a_wrong_size(peer: Peer, size: int) -> None:
    """It has five bytes; the stream is to be refused, or the connection."""
    stream = peer.request(method=b"POST", end=False)
    peer.send(frame(FrameType.PRIORITY, 0, stream, bytes(size)))
    peer.expect_stream_error(stream, ErrorCode.FRAME_SIZE_ERROR)


@case("RFC 7540 5.3.1")
def headers_that_depend_on_themselves(peer: Peer) -> None:
    """A stream can't."""
    stream = peer.new_stream()
    block = peer.encode(peer.request_fields())
    peer.send(headers(stream, block, depends=dependency(stream)))
    peer.expect_stream_error(stream, ErrorCode.PROTOCOL_ERROR)


@case("RFC 7540 5.3.1")
def priority_that_depends_on_itself(peer: Peer) -> None:
    """A stream can't."""
    stream = peer.request(method=b"POST", end=False)
    peer.send(priority(stream, on=stream))
    peer.expect_stream_error(stream, ErrorCode.PROTOCOL_ERROR)


@case("5.3.2", each=[1, 16, 256])
def headers_with_a_weight(peer: Peer, weight: int) -> None:
    """It means nothing, but isn't part of the block."""
    for exclusive in (False, True):
        stream = peer.new_stream()
        depends = dependency(0, weight, exclusive=exclusive)
        block = peer.encode(peer.request_fields())
        peer.send(headers(stream, block, depends=depends))
        peer.expect_response(stream)


@case("5.3.2")
def padded_headers_with_a_weight(peer: Peer) -> None:
    """The length of the padding comes first, the padding last."""
    stream = peer.new_stream()
    block = peer.encode(peer.request_fields())
    peer.send(headers(stream, block, depends=dependency(0), padding=7))
    peer.expect_response(stream)


@case("5.1")
def priority_of_an_idle_stream(peer: Peer) -> None:
    """It opens nothing: lower streams may still be opened."""
    peer.send(priority(5), priority(7, on=3, exclusive=True), priority(101, weight=256))
    stream = peer.request()
    assert 1 == stream
    peer.expect_response(stream)


@case("5.1")
def priority_of_an_open_stream(peer: Peer) -> None:
    """It may come at any time."""
    stream = peer.request(method=b"POST", end=False)
    peer.send(priority(stream, weight=1), priority(stream, on=77, weight=256))
    peer.send_data(stream, end=True)
    peer.expect_response(stream)


@case("5.1")
def priority_after_the_end_of_the_request(peer: Peer) -> None:
    """It may come at any time."""
    peer.configure((INITIAL_WINDOW_SIZE, 0))
    peer.wait_for_settings()
    stream = peer.request()
    peer.expect_head(stream)
    peer.send(priority(stream))
    peer.expect_pong()
    peer.grant(stream, 100)
    peer.expect_response(stream)


@case("5.1")
def priority_of_a_closed_stream(peer: Peer) -> None:
    """It may come at any time."""
    stream = peer.request()
    peer.expect_response(stream)
    peer.send(priority(stream), priority(stream, on=stream + 2))
    peer.expect_pong()
    peer.expect_response(peer.request())


# -- PRIORITY_UPDATE (RFC 9218 section 7.1) -----------------------------------


@case("RFC 9218 7.1", each=[b"u=0", b"i", b"u=7, i", b"", b"u=5;x=1, unknown=?1"])
def an_update_of_a_priority(peer: Peer, value: bytes) -> None:
    """It may come before the request, with it or after its response."""
    peer.send(priority_update(1, value))
    first = peer.request(method=b"POST", end=False)
    peer.send(priority_update(first, value))
    peer.send_data(first, end=True)
    peer.expect_response(first)
    peer.send(priority_update(first, value))
    peer.expect_pong()
    peer.expect_response(peer.request())


@case("RFC 9218 7.1", each=[b"u=8", b"u=-1", b"u", b"???", b"\xff\x00", b"i=7"])
def an_update_that_says_nothing(peer: Peer, value: bytes) -> None:
    """What isn't understood is ignored (RFC 9218 section 4)."""
    peer.send(priority_update(1, value))
    peer.expect_response(peer.request())


@case("RFC 9218 7.1", needs_site=True)
def an_update_within_a_stream(peer: Peer) -> None:
    """It is of the connection, and names its stream inside."""
    stream = peer.request(method=b"POST", end=False)
    peer.send(priority_update(stream, stream=stream))
    peer.expect_connection_error(ErrorCode.PROTOCOL_ERROR)


@case("RFC 9218 7.1", needs_site=True)
def an_update_of_no_stream(peer: Peer) -> None:
    """The connection has no priority."""
    peer.send(priority_update(0))
    peer.expect_connection_error(ErrorCode.PROTOCOL_ERROR)


@case("RFC 9218 7.1", needs_site=True, each=[2, 100])
def an_update_of_a_push(peer: Peer, stream: int) -> None:
    """What wasn't promised has no priority."""
    peer.send(priority_update(stream))
    peer.expect_connection_error(ErrorCode.PROTOCOL_ERROR)


@case("RFC 9218 7.1", needs_site=True, each=[0, 3])
def an_update_that_is_too_short(peer: Peer, size: int) -> None:
    """It has at least the four bytes of the stream."""
    peer.send(frame(FrameType.PRIORITY_UPDATE, 0, 0, bytes(size)))
    peer.expect_connection_error(ErrorCode.FRAME_SIZE_ERROR)


# -- What priorities do (RFC 9218 section 10) ---------------------------------


def _open_wide(peer: Peer) -> None:
    """Let streams wait for the window of the connection alone."""
    peer.send(PREFACE)
    peer.configure(
        (INITIAL_WINDOW_SIZE, 2 * LARGE_BYTES), (Setting.NO_RFC7540_PRIORITIES, 1)
    )
    peer.wait_for_settings()


def _start(peer: Peer, *values: bytes) -> list[int]:
    """Begin large responses, of which none can go on before credit comes."""
    blocker = peer.request(path=b"/large")
    peer.expect_body(blocker, 65_535)
    streams = [
        peer.request(*[(b"priority", value)] * bool(value), path=b"/large")
        for value in values
    ]
    for stream in streams:
        peer.expect_head(stream)
    return [blocker, *streams]


def _give_credit(peer: Peer, count: int) -> None:
    """Grant credit frame by frame, less each time than any response has ready."""
    for _ in range(count):
        peer.grant(0, LEAST_FRAME_BYTES)
        peer.wait_until(lambda: not peer.window, "all of the credit to be used")


@case("RFC 9218 10", opened=False)
def the_urgent_comes_first(peer: Peer) -> None:
    """Credit goes to the most urgent response, not to the oldest."""
    _open_wide(peer)
    _, late, urgent = _start(peer, b"u=6", b"u=0")
    _give_credit(peer, 8)
    assert 8 * LEAST_FRAME_BYTES == len(peer.response(urgent).body)
    assert not peer.response(late).body


@case("RFC 9218 10", opened=False)
def an_update_makes_urgent(peer: Peer) -> None:
    """PRIORITY_UPDATE changes the order of responses that have begun."""
    _open_wide(peer)
    _, first, second = _start(peer, b"u=5", b"u=5")
    peer.send(priority_update(second, b"u=0"))
    _give_credit(peer, 8)
    assert 8 * LEAST_FRAME_BYTES == len(peer.response(second).body)
    assert not peer.response(first).body


@case("RFC 9218 10", opened=False)
def incremental_responses_share(peer: Peer) -> None:
    """Two that can be used in parts get their parts side by side."""
    _open_wide(peer)
    _, first, second = _start(peer, b"u=1, i", b"u=1, i")
    _give_credit(peer, 10)
    shares = [len(peer.response(stream).body) for stream in (first, second)]
    assert 10 * LEAST_FRAME_BYTES == sum(shares)
    assert min(shares) >= 4 * LEAST_FRAME_BYTES


@case("RFC 9218 10", opened=False)
def other_responses_follow_each_other(peer: Peer) -> None:
    """Those that can only be used whole come in the order of the requests."""
    _open_wide(peer)
    _, first, second = _start(peer, b"u=1", b"u=1")
    _give_credit(peer, 10)
    assert 10 * LEAST_FRAME_BYTES == len(peer.response(first).body)
    assert not peer.response(second).body
