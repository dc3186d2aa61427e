"""
Flow control in both directions (RFC 9113 sections 5.2 and 6.9).

That the server never sends more than it may is checked by :class:`Peer`, in all
cases; here it has to send all that it may, and to grant what it has taken.
"""

from __future__ import annotations

from conformance_site import HELLO, LARGE_BYTES
from http2_client import Peer
from http2_frames import (
    INITIAL_WINDOW_BYTES,
    LARGEST_WINDOW_BYTES,
    LEAST_FRAME_BYTES,
    ErrorCode,
    FrameType,
    Setting,
    frame,
    window_update,
)

from http2_cases.table import case

INITIAL_WINDOW_SIZE = Setting.INITIAL_WINDOW_SIZE
# No case sends more than this, however large the server's windows are.
_MOST_UPLOAD_BYTES = 4 * 1024 * 1024


def _configure_window(peer: Peer, size: int) -> None:
    peer.configure((INITIAL_WINDOW_SIZE, size))
    peer.wait_for_settings()


# -- WINDOW_UPDATE (section 6.9) ----------------------------------------------


@case("6.9")
def no_credit_for_the_connection(peer: Peer) -> None:
    """An increment of 0 is an error."""
    peer.send(window_update(0, 0))
    peer.expect_connection_error(ErrorCode.PROTOCOL_ERROR)


@case("6.9")
def no_credit_for_a_stream(peer: Peer) -> None:
    """An increment of 0 is an error."""
    stream = peer.request(method=b"POST", end=False)
    peer.send(window_update(stream, 0))
    peer.expect_stream_error(stream, ErrorCode.PROTOCOL_ERROR)


@case("6.9", each=[0, 3, 5, 8])
def credit_of_a_wrong_size(peer: Peer, size: int) -> None:
    """WINDOW_UPDATE has four bytes."""
    peer.send(frame(FrameType.WINDOW_UPDATE, 0, 0, b"\1" * size))
    peer.expect_connection_error(ErrorCode.FRAME_SIZE_ERROR)


@case("6.9")
def the_reserved_bit_of_credit(peer: Peer) -> None:
    """It is ignored."""
    _configure_window(peer, 0)
    stream = peer.request()
    peer.expect_head(stream)
    peer.response(stream).window += 3
    peer.send(window_update(stream, 2**31 + 3))
    peer.expect_body(stream, 3)


@case("6.9")
def credit_in_many_small_pieces(peer: Peer) -> None:
    """It adds up."""
    _configure_window(peer, 0)
    stream = peer.request()
    for _ in HELLO:
        peer.grant(stream, 1)
    assert HELLO == bytes(peer.expect_response(stream).body)


# -- Windows (section 6.9.1) --------------------------------------------------


@case("6.9.1")
def a_window_of_one_byte(peer: Peer) -> None:
    """The server sends a byte whenever it may."""
    _configure_window(peer, 1)
    stream = peer.request()
    for count in range(1, len(HELLO) + 1):
        response = peer.expect_body(stream, count)
        peer.expect_pong()
        assert count == len(response.body)
        peer.grant(stream, 1)
    peer.expect_response(stream)


@case("6.9.1")
def the_window_of_the_connection(peer: Peer) -> None:
    """It holds for all streams together, however large their own windows are."""
    _configure_window(peer, LARGE_BYTES)
    stream = peer.request(path=b"/large")
    peer.expect_body(stream, INITIAL_WINDOW_BYTES)
    peer.expect_pong()
    second = peer.request(path=b"/large")
    peer.expect_head(second)
    peer.expect_pong()
    assert not peer.response(second).body
    peer.grant(0, 2 * LARGE_BYTES)
    peer.expect_response(stream)
    peer.expect_response(second)


@case("6.9.1")
def the_window_of_a_stream(peer: Peer) -> None:
    """One that is closed keeps nobody else waiting."""
    peer.grant(0, 4 * LARGE_BYTES)
    waiting = peer.request(path=b"/large")
    peer.expect_body(waiting, INITIAL_WINDOW_BYTES)
    other = peer.request(path=b"/large")
    peer.grant(other, LARGE_BYTES)
    assert LARGE_BYTES == len(peer.expect_response(other).body)
    assert INITIAL_WINDOW_BYTES == len(peer.response(waiting).body)
    peer.grant(waiting, LARGE_BYTES)
    assert LARGE_BYTES == len(peer.expect_response(waiting).body)


@case("6.9.1")
def a_response_without_content(peer: Peer) -> None:
    """HEADERS need no window."""
    _configure_window(peer, 0)
    peer.expect_response(peer.request(method=b"HEAD"))


@case("6.9.1")
def credit_ahead_of_need(peer: Peer) -> None:
    """A window may be as large as 31 bits tell."""
    stream = peer.request(path=b"/large")
    peer.expect_body(stream, INITIAL_WINDOW_BYTES)
    peer.grant(stream, LARGEST_WINDOW_BYTES)
    peer.grant(0, LARGEST_WINDOW_BYTES)
    assert LARGE_BYTES == len(peer.expect_response(stream).body)


@case("6.9.1")
def too_much_credit_for_the_connection(peer: Peer) -> None:
    """A window of more than 31 bits is an error."""
    peer.send(*[window_update(0, LARGEST_WINDOW_BYTES)] * 2)
    peer.expect_connection_error(ErrorCode.FLOW_CONTROL_ERROR)


@case("6.9.1")
def too_much_credit_for_a_stream(peer: Peer) -> None:
    """A window of more than 31 bits is an error."""
    _configure_window(peer, 0)
    stream = peer.request()
    peer.expect_head(stream)
    # Nothing of it can be used meanwhile.
    upload = peer.request(method=b"POST", end=False)
    peer.send(*[window_update(upload, LARGEST_WINDOW_BYTES)] * 2)
    peer.expect_stream_error(upload, ErrorCode.FLOW_CONTROL_ERROR)


# -- SETTINGS_INITIAL_WINDOW_SIZE (section 6.9.2) -----------------------------


@case("6.9.2")
def a_larger_window_in_midstream(peer: Peer) -> None:
    """It holds for streams that are open."""
    _configure_window(peer, 0)
    stream = peer.request()
    peer.expect_head(stream)
    peer.expect_pong()
    peer.configure((INITIAL_WINDOW_SIZE, 1))
    peer.expect_body(stream, 1)
    peer.configure((INITIAL_WINDOW_SIZE, 100))
    peer.expect_response(stream)


@case("6.9.2")
def a_window_below_zero(peer: Peer) -> None:
    """What was sent under a larger window must be granted first."""
    _configure_window(peer, 3)
    stream = peer.request()
    response = peer.expect_body(stream, 3)
    peer.configure((INITIAL_WINDOW_SIZE, 2))
    peer.wait_for_settings()
    assert -1 == response.window
    peer.grant(stream, 1)
    peer.expect_pong()
    peer.expect_body(stream, 3)
    peer.grant(stream, 1)
    peer.expect_body(stream, 4)
    peer.configure((INITIAL_WINDOW_SIZE, 3))
    assert HELLO == bytes(peer.expect_response(stream).body)


@case("6.9.2")
def a_window_far_below_zero(peer: Peer) -> None:
    """Settings close a window wholly, and open it again."""
    peer.grant(0, LARGE_BYTES)
    stream = peer.request(path=b"/large")
    response = peer.expect_body(stream, INITIAL_WINDOW_BYTES)
    _configure_window(peer, 0)
    assert -INITIAL_WINDOW_BYTES == response.window
    peer.grant(stream, INITIAL_WINDOW_BYTES)
    peer.expect_pong()
    peer.expect_body(stream, INITIAL_WINDOW_BYTES)
    peer.grant(stream, 10)
    peer.expect_body(stream, INITIAL_WINDOW_BYTES + 10)
    peer.configure((INITIAL_WINDOW_SIZE, LARGE_BYTES))
    assert LARGE_BYTES == len(peer.expect_response(stream).body)


@case("6.9.2")
def settings_do_not_change_the_window_of_the_connection(peer: Peer) -> None:
    """Only WINDOW_UPDATE does."""
    _configure_window(peer, 4 * LARGE_BYTES)
    stream = peer.request(path=b"/large")
    peer.expect_body(stream, INITIAL_WINDOW_BYTES)
    _configure_window(peer, 8 * LARGE_BYTES)
    peer.expect_pong()
    peer.expect_body(stream, INITIAL_WINDOW_BYTES)
    peer.grant(0, LARGE_BYTES)
    peer.expect_response(stream)


@case("6.9.2")
def settings_that_make_a_window_too_large(peer: Peer) -> None:
    """A window of more than 31 bits is an error, also by this way."""
    _configure_window(peer, 0)
    stream = peer.request(method=b"POST", end=False)
    peer.grant(stream, 1)
    peer.configure((INITIAL_WINDOW_SIZE, LARGEST_WINDOW_BYTES))
    peer.expect_connection_error(ErrorCode.FLOW_CONTROL_ERROR)


# -- SETTINGS_MAX_FRAME_SIZE --------------------------------------------------


@case("6.5.2")
def larger_frames(peer: Peer) -> None:
    """The server may use them, but need not."""
    peer.configure((Setting.MAX_FRAME_SIZE, 10 * LEAST_FRAME_BYTES))
    peer.wait_for_settings()
    assert LARGE_BYTES == len(peer.download(peer.request(path=b"/large")).body)


# -- Uploads ------------------------------------------------------------------


def _exhaust(peer: Peer, stream: int) -> None:
    """Send all that the server takes of a body which nobody reads."""
    sent = 0
    while peer.sendable(stream) > 0:
        size = min(peer.sendable(stream), LEAST_FRAME_BYTES)
        peer.send_data(stream, bytes(size))
        sent += size
        # An endless body would mean that the server keeps or drops all of it.
        assert sent <= 4 * _MOST_UPLOAD_BYTES
        if not peer.sendable(stream):
            peer.expect_pong()


@case("5.2")
def credit_for_what_was_read(peer: Peer) -> None:
    """A body may be larger than both windows."""
    stream = peer.request(method=b"POST", end=False)
    size = min(2 * peer.sendable(stream) + 1, _MOST_UPLOAD_BYTES)
    peer.upload(stream, bytes(size))
    peer.expect_response(stream)


@case("5.2", needs_site=True)
def a_body_comes_back(peer: Peer) -> None:
    """Whole and in order, while both sides grant credit."""
    body = bytes(range(256)) * 1024
    stream = peer.request(method=b"POST", path=b"/echo", end=False)
    peer.upload(stream, body)
    assert body == bytes(peer.download(stream).body)


@case("5.2")
def credit_for_padding(peer: Peer) -> None:
    """Padding fills windows and is never read, so its credit comes by itself."""
    stream = peer.request(method=b"POST", end=False)
    sent = 0
    size = min(2 * peer.sendable(stream), _MOST_UPLOAD_BYTES // 8)
    while sent < size:
        peer.wait_until(lambda: peer.sendable(stream) >= 257, "credit for padding")
        peer.send_data(stream, b"x", padding=255)
        sent += 257
    peer.send_data(stream, end=True)
    peer.expect_response(stream)


@case("5.2", needs_site=True)
def credit_only_for_what_was_read(peer: Peer) -> None:
    """An application that doesn't read makes its own client wait, and no other."""
    _configure_window(peer, 0)
    unread = peer.request(method=b"POST", path=b"/large", end=False)
    peer.expect_head(unread)
    _exhaust(peer, unread)
    other = peer.request(method=b"POST", end=False)
    peer.upload(other, bytes(100_000))
    peer.grant(other, 100)
    peer.expect_response(other)


@case("6.9.1", needs_site=True)
def data_beyond_the_window(peer: Peer) -> None:
    """More than the server has granted is an error."""
    _configure_window(peer, 0)
    stream = peer.request(method=b"POST", path=b"/large", end=False)
    peer.expect_head(stream)
    _exhaust(peer, stream)
    peer.send_data(stream, b"one too many")
    peer.expect_stream_error(stream, ErrorCode.FLOW_CONTROL_ERROR)


@case("6.9.1", needs_site=True)
def padding_beyond_the_window(peer: Peer) -> None:
    """Padding counts."""
    _configure_window(peer, 0)
    stream = peer.request(method=b"POST", path=b"/large", end=False)
    peer.expect_head(stream)
    _exhaust(peer, stream)
    peer.send_data(stream, padding=200)
    peer.expect_stream_error(stream, ErrorCode.FLOW_CONTROL_ERROR)


@case("6.9.1", needs_site=True)
def empty_data_needs_no_window(peer: Peer) -> None:
    """An upload may end when its window is closed."""
    _configure_window(peer, 0)
    stream = peer.request(method=b"POST", path=b"/large", end=False)
    peer.expect_head(stream)
    _exhaust(peer, stream)
    peer.send_data(stream, end=True)
    peer.expect_pong()
    assert peer.response(stream).error is None
