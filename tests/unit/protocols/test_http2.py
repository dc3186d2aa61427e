"""
Tests of ``daphne_like.protocols.http2`` and ``http2_stream``.

Limits, deadlines, turns and the life of connections. What any server must do is
in ``test_http2_conformance.py``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest
from asgi_messages import body, start
from hand_application import HandApplication
from http2_client import Peer
from http2_frames import (
    LARGEST_WINDOW_BYTES,
    PREFACE,
    ErrorCode,
    FrameType,
    Setting,
    data,
    headers,
    ping,
    priority_update,
    reset,
    settings,
    window_update,
)
from http2_links import Silence
from http2_served import ServedHTTP2, hello, waiting
from recorded_log import RecordedLog
from stepped_loop import SteppedLoop

from daphne_like.asgi.types import Message, Receive, Scope, Send
from daphne_like.protocols.interfaces import LiveConnection

Serve = Callable[..., ServedHTTP2]


@pytest.fixture
def serve(loop: SteppedLoop) -> Iterator[Serve]:
    """Make connections, which are closed behind the test."""
    connections: list[ServedHTTP2] = []

    def serve(*arguments: Any, **options: Any) -> ServedHTTP2:
        served = ServedHTTP2(loop, *arguments, **options)
        connections.append(served)
        return served

    yield serve
    for served in connections:
        served.link.leave()
        served.streams.end()


class Hands:
    """
    An application whose instances are in the hands of the test.

    Attributes:
        begun: Those which have a request, in order.
    """

    def __init__(self, loop: SteppedLoop) -> None:
        self._loop = loop
        self.begun: list[HandApplication] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Begin another one."""
        application = HandApplication(self._loop)
        self.begun.append(application)
        await application(scope, receive, send)


@pytest.fixture
def hands(loop: SteppedLoop) -> Hands:
    """Applications by hand."""
    return Hands(loop)


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer how many bytes have come."""
    count, more = 0, True
    while more:
        event = await receive()
        count += len(event.get("body", b""))
        more = event.get("more_body", False)
    await send(start())
    await send(body(b"%d" % count))


def written_by(served: ServedHTTP2) -> list[bytes]:
    """Record what the server writes from now on, write by write."""
    writes: list[bytes] = []
    write = served.protocol.output._write

    def record(data: bytes) -> None:
        writes.append(data)
        write(data)

    served.protocol.output._write = record
    return writes


# -- Limits ------------------------------------------------------------------


def test_a_long_target(serve: Serve) -> None:
    """414, and the next request is served."""
    served = serve(limits={"limit_request_line": 100})
    peer = served.open()

    peer.expect_response(served.get(b"/" + b"a" * 100), 414)
    peer.expect_response(served.get(b"/" + b"a" * 99), 200)


def test_too_many_fields(serve: Serve) -> None:
    """431 by their number; crumbs of a cookie are one field."""
    served = serve(limits={"limit_request_fields": 10})
    peer = served.open()
    nine = [(b"x-%d" % number, b"1") for number in range(9)]

    # The host is the tenth.
    peer.expect_response(peer.request(*nine), 200)
    peer.expect_response(peer.request(*nine, (b"x-10", b"1")), 431)
    peer.expect_response(peer.request(*[(b"cookie", b"a=1")] * 30), 200)


def test_too_large_fields(serve: Serve) -> None:
    """431 by their bytes, whether they came as such or out of the table."""
    served = serve(limits={"limit_request_header": 2000})
    peer = served.open()
    assert peer.server_settings[Setting.MAX_HEADER_LIST_SIZE] < 20_000

    peer.expect_response(peer.request((b"x-large", b"v" * 1900)), 200)
    peer.expect_response(peer.request((b"x-large", b"v" * 2000)), 431)
    peer.expect_response(peer.request(*[(b"x-half", b"v" * 999)] * 2), 431)
    peer.expect_response(peer.request((b"x-large", b"v" * 1900)), 200)


def test_a_body_that_is_announced_too_large(serve: Serve) -> None:
    """413 before it comes, and the client is asked not to send it."""
    served = serve(echo, limits={"limit_request_body": 10})
    peer = served.open()
    number = peer.request((b"content-length", b"11"), method=b"POST", end=False)

    peer.expect_response(number, 413)
    peer.expect_pong()
    assert ErrorCode.NO_ERROR == peer.responses[number].error
    assert 0 == served.running


@pytest.mark.parametrize("end", [False, True])
def test_a_body_that_becomes_too_large(serve: Serve, end: bool) -> None:
    """413 as soon as it is, also when that is its end."""
    served = serve(echo, limits={"limit_request_body": 10})
    peer = served.open()
    number = peer.request(method=b"POST", end=False)
    peer.send_data(number, b"x" * 10)
    peer.send_data(number, b"x", end=end)
    response = peer.expect_response(number, 413)
    peer.expect_pong()

    assert response.error in (None, ErrorCode.NO_ERROR)
    assert not served.protocol.streams
    fits = peer.request(method=b"POST", end=False)
    peer.send_data(fits, b"x" * 10, end=True)
    assert b"10" == peer.expect_response(fits).body


def test_a_silent_body(serve: Serve, log: RecordedLog) -> None:
    """408 after the silence; bytes break it, and time in the application is none."""
    served = serve(echo, limits={"timeout_request_body": 5})
    peer = served.open()
    number = peer.request(method=b"POST", end=False)
    for _ in range(10):
        peer.send_data(number, b"x")
        served.advance(1)

    assert 0 == peer.response(number).status

    served.advance(7)

    assert 408 == peer.response(number).status
    assert not served.protocol.streams
    log.take()


def test_a_body_is_not_silent_while_its_window_is_shut(
    serve: Serve, hands: Hands
) -> None:
    """It is the application's turn, however long it takes."""
    served = serve(
        hands, limits={"timeout_request_body": 5}, http2={"http2_stream_window": 65_535}
    )
    peer = served.open()
    number = peer.request(method=b"POST", end=False)
    peer.upload(number, bytes(65_535), end=False)
    served.advance(20)

    assert 0 == peer.response(number).status

    assert 65_535 == len(hands.begun[0].receive()["body"])
    served.settle()
    peer.send_data(number, b"x", end=True)
    served.settle()
    hands.begun[0].send(start(), body())
    peer.expect_response(number)


def test_an_application_that_takes_too_long(serve: Serve, log: RecordedLog) -> None:
    """503 when it has not begun to answer; others on the connection go on."""
    served = serve(waiting, limits={"http_timeout": 5})
    peer = served.open()
    number = served.get()
    served.advance(4)
    later = served.get()
    served.advance(3)

    assert 503 == peer.response(number).status
    assert 0 == peer.response(later).status
    log.take()


def test_an_answer_that_takes_too_long(
    serve: Serve, hands: Hands, log: RecordedLog
) -> None:
    """What was begun is broken off."""
    served = serve(hands, limits={"http_timeout": 5})
    peer = served.open()
    number = served.get()
    served.settle()
    hands.begun[0].send(start(), body(b"some", more=True))
    served.advance(7)

    assert 200 == peer.response(number).status
    assert ErrorCode.INTERNAL_ERROR == peer.response(number).error
    assert b"" == hands.begun[0].receive()["body"]
    assert {"type": "http.disconnect"} == hands.begun[0].receive()
    log.take()


@pytest.mark.parametrize("alpn", [b"h2", None])
def test_too_many_connections(serve: Serve, alpn: bytes | None) -> None:
    """Those above the limit are told to go; those below aren't counted twice."""
    connections: set[LiveConnection] = set()
    limits = {"limit_connections": 2}
    options: dict[str, Any] = {"connections": connections, "limits": limits}
    first, second = serve(alpn=alpn, **options), serve(alpn=alpn, **options)
    for served in (first, second):
        served.open()
        served.peer.expect_response(served.get())
    third = serve(alpn=b"h2", **options)
    third.settle()

    assert (0, ErrorCode.NO_ERROR) == third.peer.goaways[-1]
    assert third.transport.ended
    third.streams.advance(5)
    assert 2 == len(connections)

    first.link.leave()
    fourth = serve(alpn=alpn, **options)
    fourth.open()
    fourth.peer.expect_response(fourth.get())


def test_too_many_requests(serve: Serve, hands: Hands) -> None:
    """503 above ``limit_concurrency``, and served again when there is room."""
    served = serve(hands, limit_concurrency=2)
    peer = served.open()
    numbers = served.many(3)
    served.settle()

    assert [0, 0, 503] == [peer.response(number).status for number in numbers]
    assert [b"1"] == peer.response(numbers[2]).values_of(b"retry-after")

    hands.begun[0].send(start(), body())
    hands.begun[0].end()
    served.get()
    served.settle()

    assert 3 == len(hands.begun)


def test_streams_that_are_pushed_are_not_counted_as_the_clients(serve: Serve) -> None:
    """Promises don't take the room of requests."""
    served = serve(waiting, http2={"http2_max_concurrent_streams": 4})
    peer = served.open()
    served.many(3)
    served.settle()
    protocol = served.protocol
    protocol._last_pushed = 2
    protocol.streams[2] = protocol.streams[1]
    number = served.get()
    peer.expect_pong()
    del protocol.streams[2]

    assert peer.response(number).error is None


# -- Deadlines of connections ------------------------------------------------


def test_an_idle_connection_is_told_to_go(serve: Serve) -> None:
    """After ``timeout_keep_alive``, with the last stream that was served."""
    served = serve(limits={"timeout_keep_alive": 5})
    peer = served.open()
    number = served.get()
    peer.expect_response(number)
    served.advance(4)
    goaways = [*peer.goaways]
    served.advance(3)

    assert ([], [(number, ErrorCode.NO_ERROR)]) == (goaways, peer.goaways)
    assert served.transport.ended
    served.advance(5)
    assert not served.connections


def test_a_request_in_time_keeps_the_connection(serve: Serve) -> None:
    """And a long one does so for as long as it takes."""
    served = serve(hello, limits={"timeout_keep_alive": 5})
    peer = served.open()
    for _ in range(5):
        served.advance(3)
        peer.expect_response(served.get())

    assert [] == peer.goaways


def test_a_silent_peer_is_asked_whether_it_is_there(serve: Serve) -> None:
    """Who answers is kept; only while requests are in flight."""
    served = serve(waiting)
    peer = served.open()
    served.get()
    for _ in range(6):
        served.advance(61)

    assert not served.transport.ended
    asked = [frame for frame in peer.received if frame.type == FrameType.PING]
    assert 4 < len(asked) <= 7


def test_a_peer_that_is_not_there_is_cut(serve: Serve) -> None:
    """After the interval and the timeout; applications learn of it."""
    served = serve(waiting, http2={"http2_ping_interval": 10, "http2_ping_timeout": 5})
    served.open()
    served.get()
    served.settle()
    served.streams.advance(14)
    running, reset_by_then = served.running, served.transport.reset
    served.streams.advance(5)

    assert (1, False) == (running, reset_by_then)
    assert served.transport.reset
    assert 0 == served.running


def test_a_slow_reader_is_not_taken_for_one_that_is_gone(serve: Serve) -> None:
    """A PING behind a response can't be answered; what is taken is life enough."""

    async def large(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(bytes(600_000)))

    served = serve(large)
    peer = served.open((Setting.INITIAL_WINDOW_SIZE, LARGEST_WINDOW_BYTES))
    peer.grant(0, LARGEST_WINDOW_BYTES - 65_535)
    peer.expect_pong()
    served.transport.stop_reading()
    served.get()
    served.settle()
    for _ in range(10):
        served.streams.advance(30)
        del served.transport._unsent[:100]

    assert not served.transport.reset
    assert served.protocol.streams


def test_a_response_that_waits_for_more_urgent_ones(serve: Serve, hands: Hands) -> None:
    """It isn't the client's fault that it has had no turn for a minute."""
    served = serve(hands)
    peer = served.open((Setting.INITIAL_WINDOW_SIZE, LARGEST_WINDOW_BYTES))
    urgent = served.get()
    served.settle()
    later = served.get()
    peer.send(priority_update(urgent, b"u=0"), priority_update(later, b"u=7"))
    served.settle()
    for application in hands.begun:
        application.begin_send(start(), body(bytes(300_000)))
    for _ in range(12):
        peer.grant(0, 16_384)
        served.advance(10)
    starved = len(peer.response(later).body)

    assert peer.response(later).error is None

    # But when nothing moves at all, it is.
    served.advance(130)

    assert 0 == starved
    assert ErrorCode.CANCEL == peer.response(later).error
    assert ErrorCode.CANCEL == peer.response(urgent).error


def test_without_a_keep_alive_timeout_idle_peers_are_asked_too(serve: Serve) -> None:
    """Else nobody would ever notice that they have gone."""
    served = serve(
        hello,
        limits={"timeout_keep_alive": 0, "timeout_request_header": 0},
        http2={"http2_ping_interval": 10, "http2_ping_timeout": 5},
    )
    peer = served.open()
    peer.expect_response(served.get())
    served.advance(100)
    reset_by_then = served.transport.reset
    served.streams.advance(20)

    assert not reset_by_then
    assert served.transport.reset


def test_a_peer_that_takes_nothing_is_cut(serve: Serve) -> None:
    """After ``timeout_send``; one that takes a little is not."""
    served = serve(hello, limits={"timeout_send": 5})
    peer = served.open()
    peer.expect_pong()
    served.transport.stop_reading()
    served.protocol.output.put(bytes(70_000))
    served.settle()
    assert served.protocol.output.congested
    for _ in range(4):
        served.streams.advance(4)
        del served.transport._unsent[:100]
    reset_by_then = served.transport.reset
    served.streams.advance(12)

    assert not reset_by_then
    assert served.transport.reset


# -- Stopping ----------------------------------------------------------------


def test_a_drain_in_two_steps(serve: Serve, hands: Hands) -> None:
    """First the client learns of it, then no request is taken, then it is over."""
    served = serve(hands)
    peer = served.open()
    first = served.get()
    served.settle()
    served.protocol.drain()
    # On its way when the server began to leave.
    second = served.get()
    served.loop.settle()
    served.settle()

    assert [(LARGEST_WINDOW_BYTES, ErrorCode.NO_ERROR), (second, 0)] == peer.goaways
    # Behind the client's answer.
    third = served.get()
    served.settle()

    assert ErrorCode.REFUSED_STREAM == peer.response(third).error
    assert 2 == len(hands.begun)

    for application in hands.begun:
        application.send(start(), body(b"in time"))
    served.settle()

    assert b"in time" == peer.expect_response(first).body
    assert b"in time" == peer.expect_response(second).body
    assert served.transport.ended


def test_a_last_call(serve: Serve) -> None:
    """The client learns that it should go elsewhere; what it asks meanwhile is done."""
    served = serve()
    peer = served.open()
    peer.expect_response(served.get())
    served.protocol.last_call()
    number = served.get()
    peer.expect_response(number)
    served.protocol.drain()
    served.settle()

    assert [(LARGEST_WINDOW_BYTES, ErrorCode.NO_ERROR), (number, 0)] == peer.goaways
    assert served.transport.ended


def test_a_drain_of_an_idle_connection(serve: Serve) -> None:
    """It is over at once."""
    served = serve()
    peer = served.open()
    number = served.get()
    peer.expect_response(number)
    served.protocol.drain()
    served.settle()

    assert [(number, ErrorCode.NO_ERROR)] == peer.goaways
    assert served.transport.ended


def test_a_drain_while_the_client_is_silent(serve: Serve, hands: Hands) -> None:
    """When the last response is out it gets a second to send what is on its way."""
    served = serve(hands)
    peer = served.open()
    number = served.get()
    served.settle()
    served.protocol.drain()
    hands.begun[0].send(start(), body())
    ended = served.transport.ended
    served.streams.advance(2)

    assert (False, True) == (ended, served.transport.ended)
    peer.expect_response(number)


def test_a_ping_that_looks_like_ours(serve: Serve) -> None:
    """An answer to what wasn't asked doesn't end anything."""
    served = serve()
    peer = served.open()
    peer.send(ping(b"draining", ack=True))

    peer.expect_response(served.get())
    assert [] == peer.goaways


def test_a_connection_that_fails_while_it_drains(serve: Serve, hands: Hands) -> None:
    """It is closed once."""
    served = serve(hands)
    peer = served.open()
    served.get()
    served.settle()
    served.protocol.drain()
    served.settle()
    peer.send(headers(101, b"\x82", complete=False))
    served.advance(12)

    assert (1, ErrorCode.PROTOCOL_ERROR) == peer.goaways[-1]
    assert served.transport.ended


def test_a_stop(serve: Serve) -> None:
    """It ends at once, and applications learn of it."""
    served = serve(waiting)
    served.open()
    served.get()
    served.settle()
    served.protocol.stop()
    served.loop.settle()

    assert served.transport.reset
    assert 0 == served.running
    served.protocol.stop()


# -- Bodies ------------------------------------------------------------------


def test_the_window_grows_for_a_fast_application(serve: Serve) -> None:
    """Up to the limit, where a client can fill it within some round trips."""
    served = serve(
        echo,
        http2={"http2_stream_window": 65_535, "http2_max_stream_window": 1_000_000},
    )
    served.peer.send(PREFACE)
    served.peer.configure()
    served.settle()
    served.protocol.round_trip = 0.1
    peer = served.peer
    number = peer.request(method=b"POST", end=False)
    sizes = []
    for _ in range(100):
        peer.upload(number, bytes(40_000), end=False)
        served.settle()
        upload = served.protocol.streams[number]._upload
        assert upload is not None
        sizes.append(upload.size)

    assert 2 * 65_535 == min(sizes)
    assert 1_000_000 == max(sizes)
    assert sorted(sizes) == sizes
    peer.send_data(number, end=True)
    assert b"4000000" == peer.expect_response(number).body


def test_the_window_does_not_grow_for_a_slow_application(
    serve: Serve, hands: Hands
) -> None:
    """Who takes the body now and then gets no more of it at once."""
    served = serve(hands, http2={"http2_stream_window": 65_535})
    peer = served.open()
    served.protocol.round_trip = 0.1
    number = peer.request(method=b"POST", end=False)
    for _ in range(20):
        peer.upload(number, bytes(peer.sendable(number)), end=False)
        served.advance(1)
        assert 65_535 == len(hands.begun[0].receive()["body"])
        served.settle()

    upload = served.protocol.streams[number]._upload
    assert upload is not None
    assert 65_535 == upload.size


def test_a_slow_upload_lets_others_go_on(serve: Serve, hands: Hands) -> None:
    """What an application doesn't take counts on its own stream."""
    served = serve(hands, http2={"http2_stream_window": 65_535})
    peer = served.open()
    slow = peer.request(method=b"POST", end=False)
    peer.upload(slow, bytes(peer.sendable(slow)), end=False)
    served.settle()
    fast = peer.request(method=b"POST", end=False)
    for _ in range(20):
        peer.upload(fast, bytes(50_000), end=False)
        served.settle()
        assert 50_000 == len(hands.begun[1].receive()["body"])

    assert 0 == peer.sendable(slow)


def test_an_upload_that_nobody_reads_gives_its_credit_back(
    serve: Serve, hands: Hands
) -> None:
    """Whether the client resets it or it is answered, the connection isn't poorer."""
    served = serve(
        hands,
        http2={"http2_stream_window": 65_535, "http2_connection_window": 131_072},
    )
    peer = served.open()
    for turn in range(20):
        number = peer.request(method=b"POST", end=False)
        peer.upload(number, bytes(60_000), end=False)
        served.settle()
        if turn % 2:
            peer.send(reset(number))
        else:
            hands.begun[turn].send(start(), body())
        served.settle()
    served.advance(2)
    protocol = served.protocol

    assert 131_072 == protocol._receive_window + protocol._credit
    assert not protocol.streams


# -- Answers before the end of the request ---------------------------------------

Early = tuple[ServedHTTP2, Peer, int]


@pytest.fixture
def early(serve: Serve) -> Early:
    """Have a request answered, without looking at its body, which hasn't come."""
    served = serve(hello)
    peer = served.open()
    number = peer.request(method=b"POST", end=False)
    peer.expect_response(number)
    return served, peer, number


def test_a_body_that_ends_soon_after_the_answer(early: Early) -> None:
    """Nothing is wrong, so nothing is reset; some clients take that for an error."""
    served, peer, number = early
    peer.send_data(number, b"x" * 1000)
    peer.send_data(number, b"x", end=True)
    peer.expect_pong()

    assert peer.responses[number].error is None
    assert not served.protocol.streams


def test_a_body_that_does_not_end_after_the_answer(early: Early) -> None:
    """Section 8.1: then the client is asked to stop, and what it sends is ignored."""
    served, peer, number = early
    peer.send_data(number, b"x")
    served.advance(2)
    peer.expect_pong()

    assert ErrorCode.NO_ERROR == peer.responses[number].error
    assert not served.protocol.streams
    peer.send(data(number, b"x"))
    peer.expect_pong()
    peer.expect_response(peer.request())


def test_a_body_that_trickles_after_the_answer(early: Early) -> None:
    """Its time isn't prolonged by what comes."""
    served, peer, number = early
    for _ in range(3):
        served.advance(1)
        peer.send(data(number, b"x"))
    peer.expect_pong()

    assert ErrorCode.NO_ERROR == peer.responses[number].error


def test_a_large_body_after_the_answer(serve: Serve) -> None:
    """The client is asked to stop as soon as it is seen to be large."""
    served = serve(hello, http2={"http2_stream_window": 1_000_000})
    peer = served.open()
    number = peer.request(method=b"POST", end=False)
    peer.expect_response(number)
    for _ in range(4):
        peer.send_data(number, bytes(16 * 1024))
    peer.expect_pong()
    assert peer.responses[number].error is None

    peer.send_data(number, b"x")
    peer.expect_pong()
    assert ErrorCode.NO_ERROR == peer.responses[number].error


@pytest.mark.parametrize("refused", ["a window that grows by 0", "too large a window"])
def test_window_updates_after_the_answer(early: Early, refused: str) -> None:
    """Sections 6.9 and 6.9.1: the stream isn't closed, so they are errors still."""
    _, peer, number = early
    if refused == "a window that grows by 0":
        peer.send(window_update(number, 0))
        peer.expect_stream_error(number, ErrorCode.PROTOCOL_ERROR)
    else:
        peer.send(*[window_update(number, 2**31 - 1)] * 2)
        peer.expect_stream_error(number, ErrorCode.FLOW_CONTROL_ERROR)


@pytest.mark.parametrize("field", [(b"x-test", b"ok"), (b":method", b"POST")])
def test_wrong_trailers_after_the_answer(
    early: Early, field: tuple[bytes, bytes]
) -> None:
    """Section 8.1: trailers end the request, and have no pseudo-headers."""
    _, peer, number = early
    peer.send(data(number, b"test"))
    peer.send(headers(number, peer.encode([field]), end=field[0] != b"x-test"))
    peer.expect_stream_error(number, ErrorCode.PROTOCOL_ERROR)


@pytest.mark.parametrize("first", [True, False], ids=["before us", "after us"])
def test_after_a_reset_by_the_client_nothing_may_come(
    early: Early, first: bool
) -> None:
    """Section 5.1: that the server has reset the stream is no excuse any more."""
    served, peer, number = early
    if not first:
        served.advance(2)
        peer.expect_pong()
        assert ErrorCode.NO_ERROR == peer.responses[number].error
        peer.responses[number].error = None
    peer.send(reset(number), data(number, b"x", end=True))
    peer.expect_stream_error(number, ErrorCode.STREAM_CLOSED)


def test_clients_which_are_content_with_the_answer_are_no_attack(
    serve: Serve,
) -> None:
    """To cancel an upload which was answered costs the server nothing."""
    served = serve(hello)
    peer = served.open()
    for _ in range(3000):
        number = peer.request(method=b"POST", end=False)
        peer.expect_response(number)
        peer.send(reset(number))
        peer.expect_pong()

    assert served.goaway is None


def test_send_waits_for_a_slow_client(serve: Serve, hands: Hands) -> None:
    """With not much more than the mark queued, whatever the pieces are."""
    served = serve(hands)
    peer = served.open()
    number = served.get()
    served.settle()
    pieces = [body(bytes(10_000), more=True) for _ in range(50)]
    sending = hands.begun[0].begin_send(start(), *pieces, body())
    served.settle()

    assert not sending.done()
    stream = served.protocol.streams[number]
    assert 64 * 1024 < stream.unsent_bytes() <= 64 * 1024 + 10_000

    peer.grant(0, 60_000)
    peer.grant(number, 60_000)
    served.settle()

    assert not sending.done() or stream.unsent_bytes() > 16 * 1024

    assert 500_000 == len(peer.download(number).body)
    assert sending.done()


def test_send_waits_for_a_full_transport(serve: Serve, hands: Hands) -> None:
    """However large the windows are, and however small the pieces."""
    served = serve(hands)
    peer = served.open((Setting.INITIAL_WINDOW_SIZE, LARGEST_WINDOW_BYTES))
    peer.grant(0, LARGEST_WINDOW_BYTES - 65_535)
    number = served.get()
    peer.expect_pong()
    served.transport.stop_reading()
    pieces = [body(bytes(1000), more=True) for _ in range(1000)]
    sending = hands.begun[0].begin_send(start(), *pieces, body())

    assert not sending.done()
    assert served.transport.write_buffer_bytes() <= (64 + 256 + 2) * 1024

    served.transport.read_on()
    served.settle()

    assert 1_000_000 == len(peer.expect_response(number).body)
    assert sending.done()


def test_a_file_waits_for_a_slow_client(serve: Serve, tmp_path: Any) -> None:
    """A file larger than the windows goes out as they open."""
    path = tmp_path / "large"
    path.write_bytes(bytes(range(256)) * 4000)

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await send({"type": "http.response.pathsend", "path": str(path)})

    served = serve(application)
    peer = served.open()
    number = served.get()
    served.settle()
    assert 65_535 == len(peer.response(number).body)

    assert bytes(range(256)) * 4000 == peer.download(number).body


def sizes_of_data(written: list[bytes]) -> list[int]:
    """Take the sizes of the DATA frames out of what was written, and forget it."""
    rest = b"".join(written)
    written.clear()
    sizes = []
    while rest:
        size = int.from_bytes(rest[:3], "big")
        if rest[3] == 0:
            sizes.append(size)
        rest = rest[9 + size :]
    return sizes


def test_credit_for_each_frame_does_not_make_frames_small(serve: Serve) -> None:
    """
    What is left of a window waits for the credit that is on its way.

    After the change of its size the window has a byte more than twelve frames. Sent at
    once, the byte went round and round in a frame of its own, and soon there were many:
    a client which gives credit for each frame was cut for its WINDOW_UPDATE frames.
    """

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        for _ in range(400):
            await send(body(bytes(65_536), more=True))
        await send(body())

    served = serve(application)
    peer = served.open()
    writes = written_by(served)
    number = served.get()
    served.settle()
    peer.grant(0, 2**26)
    peer.configure((Setting.INITIAL_WINDOW_SIZE, 256 * 1024))
    served.settle()
    small = count = 0
    while not peer.response(number).is_complete:
        for size in sizes_of_data(writes):
            count += 1
            small += 0 < size < 1024
            for stream in 0, number:  # two reads
                peer.grant(stream, max(size, 1))
        served.settle()

        assert served.goaway is None
    assert 400 * 65_536 == len(peer.response(number).body)
    assert count < 1.1 * 400 * 4
    assert small <= 400  # ends of pieces, while the application waits


@pytest.mark.parametrize("shut", ["stream", "connection"])
def test_a_window_is_used_up_if_no_credit_comes(
    serve: Serve, hands: Hands, shut: str
) -> None:
    """A peer may wait for all that it has allowed."""
    served = serve(hands)
    peer = served.open()
    number = served.get()
    served.settle()
    peer.grant(0 if shut == "stream" else number, 1_000_000)
    hands.begun[0].begin_send(start(), body(bytes(65_000), more=True))
    hands.begun[0].begin_send(body(bytes(1000)))
    served.settle()
    response = peer.response(number)
    assert 65_000 == len(response.body)

    served.advance(1)

    assert 65_535 == len(response.body)

    peer.grant(number if shut == "stream" else 0, 465)
    served.settle()
    assert response.is_complete


def test_what_was_held_back_goes_with_further_credit(
    serve: Serve, hands: Hands
) -> None:
    """At once, whether the stream or the connection gets the credit."""
    served = serve(hands)
    peer = served.open()
    number = served.get()
    served.settle()
    hands.begun[0].begin_send(start(), body(bytes(65_000), more=True))
    hands.begun[0].begin_send(body(bytes(1000), more=True))
    served.settle()
    peer.grant(0, 10_000)
    served.settle()
    response = peer.response(number)
    assert 65_000 == len(response.body)

    peer.grant(number, 10_000)
    served.settle()

    assert 66_000 == len(response.body)


def test_a_client_with_a_tiny_window_gets_tiny_frames(
    serve: Serve, hands: Hands
) -> None:
    """It asks for them; nothing is held back."""
    served = serve(hands)
    peer = served.open((Setting.INITIAL_WINDOW_SIZE, 10))
    number = served.get()
    served.settle()
    hands.begun[0].begin_send(start(), body(bytes(25)))
    served.settle()
    assert 10 == len(peer.response(number).body)

    peer.grant(number, 10)
    served.settle()
    assert 20 == len(peer.response(number).body)


def test_what_was_held_back_may_be_reset(serve: Serve, hands: Hands) -> None:
    """Nothing of the stream is left when its time has come."""
    served = serve(hands)
    peer = served.open()
    number = served.get()
    served.settle()
    hands.begun[0].begin_send(start(), body(bytes(65_000), more=True))
    hands.begun[0].begin_send(body(bytes(1000), more=True))
    served.settle()
    peer.send(reset(number))
    served.settle()

    assert not served.protocol.output.held_back
    served.advance(1)
    assert 65_000 == len(peer.response(number).body)


# -- Turns -------------------------------------------------------------------


def test_one_write_for_all_answers_to_a_read(serve: Serve) -> None:
    """Requests, settings and pings in one read are answered in one write."""
    served = serve()
    peer = served.open()
    writes = written_by(served)
    peer.expect_acks(1)
    block = peer.encode(peer.request_fields())
    requests = [headers(number, block) for number in range(1, 101, 2)]
    peer.send(settings(), *requests, ping(b"together"))
    served.settle()

    # On Python before 3.12 applications begin in a turn of their own.
    assert len(writes) <= 2
    assert 50 == sum(response.is_complete for response in peer.responses.values())


def test_one_write_for_what_applications_send_in_one_turn(
    serve: Serve, hands: Hands
) -> None:
    """Answers leave at the end of the turn of the loop, together."""
    served = serve(hands)
    peer = served.open()
    numbers = served.many(5)
    served.settle()
    writes = written_by(served)

    async def send(application: HandApplication) -> None:
        await application._send(start())
        await application._send(body(b"hello"))

    async def all_at_once() -> None:
        await asyncio.gather(*map(send, hands.begun))

    served.loop.do(all_at_once())

    assert 1 == len(writes)
    for number in numbers:
        assert b"hello" == peer.expect_response(number).body


def test_responses_take_turns(serve: Serve) -> None:
    """Large ones side by side, a frame each, and a small one doesn't wait for them."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        size = 5 if scope["path"] == "/small" else 200_000
        await send(start())
        await send(body(bytes(size)))

    served = serve(application)
    peer = served.open((Setting.INITIAL_WINDOW_SIZE, LARGEST_WINDOW_BYTES))
    large = served.many(4)
    served.settle()
    begun = [len(peer.response(number).body) for number in large]
    small = served.get(b"/small")
    served.settle()
    peer.grant(0, 16_384 * 8)
    served.settle()

    peer.expect_response(small)
    sizes = [
        len(peer.response(number).body) - before
        for number, before in zip(large, begun, strict=True)
    ]
    assert max(sizes) - min(sizes) <= 16_384
    assert 16_384 * 8 == sum(sizes) + 5


def test_what_is_more_urgent_goes_first(serve: Serve) -> None:
    """Also when the client changes its mind while nothing can be sent."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(bytes(100_000)))

    served = serve(application)
    peer = served.open((Setting.INITIAL_WINDOW_SIZE, LARGEST_WINDOW_BYTES))
    first, second, third = served.many(3)
    served.settle()
    begun = {n: len(peer.response(n).body) for n in (first, second, third)}
    peer.send(priority_update(third, b"u=0"), priority_update(second, b"u=1"))
    peer.grant(0, 120_000)
    served.settle()

    assert 100_000 == len(peer.response(third).body)
    rest = 120_000 - (100_000 - begun[third])
    assert begun[second] + rest == len(peer.response(second).body)
    assert begun[first] == len(peer.response(first).body)


# -- Exchanges that are broken off -------------------------------------------


def test_a_client_resets_in_the_middle_of_a_response(
    serve: Serve, hands: Hands
) -> None:
    """The application learns of it, and what it sends then goes nowhere."""
    served = serve(hands)
    peer = served.open()
    number = served.get()
    served.settle()
    sending = hands.begun[0].begin_send(start(), body(bytes(200_000), more=True))
    assert not sending.done()
    assert b"" == hands.begun[0].receive()["body"]
    receiving = hands.begun[0].begin_receive()
    peer.send(reset(number))
    served.settle()

    assert {"type": "http.disconnect"} == receiving.result()
    assert sending.done()
    assert not served.protocol.streams
    assert not served.protocol.output._turns
    later = hands.begun[0].begin_send(body(b"more"))
    assert later.done()
    assert isinstance(later.exception(), OSError)
    peer.expect_pong()


def test_an_application_that_is_cancelled(
    serve: Serve, hands: Hands, log: RecordedLog
) -> None:
    """503 before its answer has begun; the stream is reset after."""
    served = serve(hands)
    peer = served.open()
    first, second = served.many(2)
    served.settle()
    hands.begun[1].send(start(), body(b"some", more=True))
    served.streams.end()
    served.settle()

    assert 503 == peer.expect_response(first, 503).status
    assert ErrorCode.INTERNAL_ERROR == peer.response(second).error
    peer.expect_pong()
    log.take()


def test_an_application_that_fails(
    serve: Serve, hands: Hands, log: RecordedLog
) -> None:
    """500, and the other requests of the connection go on."""
    served = serve(hands)
    peer = served.open()
    first, second = served.many(2)
    served.settle()
    hands.begun[0].end(ValueError("oops"))
    hands.begun[1].send(start(), body(b"fine"))

    peer.expect_response(first, 500)
    assert b"fine" == peer.expect_response(second).body
    assert 1 == len(log.take_errors())


def test_a_response_without_its_end(
    serve: Serve, hands: Hands, log: RecordedLog
) -> None:
    """The client can tell: the stream is reset."""
    served = serve(hands)
    peer = served.open()
    number = served.get()
    served.settle()
    hands.begun[0].send(start(), body(b"some", more=True))
    hands.begun[0].end()
    served.settle()

    assert not peer.response(number).is_complete
    assert ErrorCode.INTERNAL_ERROR == peer.response(number).error
    log.take()


def test_a_request_body_that_breaks_off(serve: Serve, hands: Hands) -> None:
    """A lost connection isn't the end of a body."""
    served = serve(hands)
    peer = served.open()
    number = peer.request(method=b"POST", end=False)
    peer.send_data(number, b"some")
    served.settle()
    assert b"some" == hands.begun[0].receive()["body"]
    served.link.leave()

    assert {"type": "http.disconnect"} == hands.begun[0].receive()


# -- Pushes ------------------------------------------------------------------


class Browser:
    """
    A client with h2, which can take pushes.

    Attributes:
        events: All that has come.
    """

    def __init__(self, served: ServedHTTP2) -> None:
        self.engine = h2.connection.H2Connection(
            h2.config.H2Configuration(header_encoding=None)
        )
        self.events: list[Any] = []
        self._served = served

    def open(self, **settings: int) -> None:
        """Exchange settings."""
        self.engine.initiate_connection()
        if settings:
            codes = h2.settings.SettingCodes
            self.engine.update_settings(
                {getattr(codes, name): value for name, value in settings.items()}
            )
        self.exchange()

    def get(self, path: bytes = b"/") -> int:
        """Send a request."""
        number = self.engine.get_next_available_stream_id()
        fields = [
            (b":method", b"GET"),
            (b":scheme", b"http"),
            (b":authority", b"example.org"),
            (b":path", path),
        ]
        self.engine.send_headers(number, fields, end_stream=True)
        self.exchange()
        return number

    def exchange(self) -> None:
        """Send what there is, and read all that comes."""
        link = self._served.link
        while True:
            if data := self.engine.data_to_send():
                link.send(data)
            try:
                received = link.receive()
            except Silence:
                return
            if not received:
                return
            self.events += self.engine.receive_data(received)

    def of(self, kind: type[Any]) -> list[Any]:
        """Return the events of a kind."""
        return [event for event in self.events if isinstance(event, kind)]

    def body_of(self, number: int) -> bytes:
        """Return what has come on a stream."""
        return b"".join(
            event.data
            for event in self.of(h2.events.DataReceived)
            if event.stream_id == number
        )


def pushing(*paths: str, **message: Any) -> Any:
    """Make an application that pushes, and one that answers what is pushed."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != "/":
            told = dict(scope["headers"])
            await send(start())
            await send(body(scope["raw_path"] + b" " + told.get(b"x-why", b"-")))
            return
        offered = b"yes" if "http.response.push" in scope["extensions"] else b"no"
        await send(start())
        for path in paths:
            push: Message = {"type": "http.response.push", "path": path, **message}
            await send(push)
        await send(body(offered))

    return application


PUSHES = {"http2_push": True}


def test_a_push(serve: Serve) -> None:
    """The promise comes before the page, then the answer to what wasn't asked."""
    served = serve(pushing("/style.css", headers=[(b"X-Why", b"soon")]), http2=PUSHES)
    browser = Browser(served)
    browser.open()
    number = browser.get()

    assert b"yes" == browser.body_of(number)
    (pushed,) = browser.of(h2.events.PushedStreamReceived)
    assert (number, 2) == (pushed.parent_stream_id, pushed.pushed_stream_id)
    fields = dict(pushed.headers)
    assert b"GET" == fields[b":method"]
    assert b"/style.css" == fields[b":path"]
    assert b"example.org" == fields[b":authority"]
    assert b"soon" == fields[b"x-why"]
    assert b"/style.css soon" == browser.body_of(2)


def test_pushes_are_off_by_default(serve: Serve) -> None:
    """Browsers have dropped them; the extension isn't offered."""
    served = serve(pushing())
    browser = Browser(served)
    browser.open()

    assert b"no" == browser.body_of(browser.get())


def test_pushes_which_the_client_forbids(serve: Serve) -> None:
    """Neither offered nor sent."""
    served = serve(pushing("/style.css"), http2=PUSHES)
    browser = Browser(served)
    browser.open(ENABLE_PUSH=0)

    assert b"no" == browser.body_of(browser.get())
    assert [] == browser.of(h2.events.PushedStreamReceived)


def test_a_pushed_path_is_quoted(serve: Serve) -> None:
    """As a path of a request has to be."""
    served = serve(pushing("/é x?q=ü"), http2=PUSHES)
    browser = Browser(served)
    browser.open()
    browser.get()

    (pushed,) = browser.of(h2.events.PushedStreamReceived)
    assert b"/%C3%A9%20x?q=%C3%BC" == dict(pushed.headers)[b":path"]
    assert b"/%C3%A9%20x -" == browser.body_of(2)


def test_more_pushes_than_the_client_takes(serve: Serve, hands: Hands) -> None:
    """Those beyond its limit aren't promised; it is none of its requests' business."""
    served = serve(hands, http2=PUSHES)
    browser = Browser(served)
    browser.open(MAX_CONCURRENT_STREAMS=2)
    number = browser.get()
    pushes = [{"type": "http.response.push", "path": f"/{n}"} for n in range(5)]
    hands.begun[0].send(start(), *pushes, body(b"page"))
    browser.exchange()

    assert 2 == len(browser.of(h2.events.PushedStreamReceived))
    assert b"page" == browser.body_of(number)
    assert 3 == len(hands.begun)


def test_a_push_which_the_client_refuses(serve: Serve, hands: Hands) -> None:
    """By RST_STREAM, since it has it already; its application is told."""
    served = serve(hands, http2=PUSHES)
    browser = Browser(served)
    browser.open()
    number = browser.get()
    push = {"type": "http.response.push", "path": "/style.css"}
    hands.begun[0].send(start(), push)
    browser.exchange()
    browser.engine.reset_stream(2, ErrorCode.REFUSED_STREAM)
    browser.exchange()
    # The request's body ends before anything else.
    assert "http.request" == hands.begun[1].receive()["type"]
    assert {"type": "http.disconnect"} == hands.begun[1].receive()
    hands.begun[0].send(body(b"page"))
    browser.exchange()

    assert b"page" == browser.body_of(number)


# -- The upgrade from HTTP/1.1 -----------------------------------------------

UPGRADE = {"h2c_upgrade": True}


def upgrade_request(
    http2_settings: bytes = b"", *fields: bytes, body: bytes = b""
) -> bytes:
    """Ask for HTTP/2 as clients of old did."""
    lines = [
        b"%b / HTTP/1.1" % (b"POST" if body else b"GET"),
        b"host: example.org",
        b"connection: Upgrade, HTTP2-Settings",
        b"upgrade: h2c",
        b"http2-settings: " + http2_settings,
        *fields,
    ]
    if body:
        lines.append(b"content-length: %d" % len(body))
    return b"\r\n".join([*lines, b"", body])


def test_an_upgrade(serve: Serve) -> None:
    """The request is answered as stream 1; the fields of the upgrade are gone."""
    seen: list[Scope] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)
        await hello(scope, receive, send)

    served = serve(application, http2=UPGRADE, alpn=None)
    browser = Browser(served)
    wanted = browser.engine.initiate_upgrade_connection()
    served.link.send(upgrade_request(wanted or b""))
    answer = served.link.receive()
    head, _, rest = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    browser.events += browser.engine.receive_data(rest)
    browser.exchange()
    again = browser.get()

    assert b"hello" == browser.body_of(1) == browser.body_of(again)
    assert ["2", "2"] == [scope["http_version"] for scope in seen]
    assert [(b"host", b"example.org")] == seen[0]["headers"]


def test_an_upgrade_with_frames_right_behind_it(serve: Serve) -> None:
    """A client that doesn't wait for the 101 is served, too."""
    served = serve(http2=UPGRADE, alpn=None)
    browser = Browser(served)
    wanted = browser.engine.initiate_upgrade_connection()
    served.link.send(upgrade_request(wanted or b"") + browser.engine.data_to_send())
    _, _, rest = served.link.receive().partition(b"\r\n\r\n")
    browser.events += browser.engine.receive_data(rest)
    browser.exchange()

    assert b"hello" == browser.body_of(1)
    assert b"hello" == browser.body_of(browser.get())


@pytest.mark.parametrize(
    ("request_", "http2"),
    [
        (upgrade_request(b"AAMAAABk"), {}),
        (upgrade_request(b"AAMAAABk", body=b"body"), UPGRADE),
        (upgrade_request(b"AAMAAABk", b"http2-settings: "), UPGRADE),
        (upgrade_request(b"").replace(b"http2-settings: \r\n", b""), UPGRADE),
        (upgrade_request(b"AAMAAABk").replace(b"h2c", b"h2"), UPGRADE),
    ],
    ids=["off", "body", "two-settings", "no-settings", "other"],
)
def test_an_upgrade_that_is_ignored(
    serve: Serve, request_: bytes, http2: dict[str, Any]
) -> None:
    """It is answered in HTTP/1.1, as one who can't upgrade does."""
    served = serve(http2=http2, alpn=None)
    served.link.send(request_)
    answer = served.link.receive()

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"hello")


@pytest.mark.parametrize("bad", [b"AAMAAA", b"A", b"!", b"AAUAAAAB"])
def test_an_upgrade_with_bad_settings(serve: Serve, bad: bytes) -> None:
    """It is an error of the connection."""
    served = serve(http2=UPGRADE, alpn=None)
    served.link.send(upgrade_request(bad))
    _, _, rest = served.link.receive().partition(b"\r\n\r\n")

    served.peer._buffer += rest
    served.settle()

    ((last, code),) = served.peer.goaways
    assert 0 == last
    assert code in (ErrorCode.PROTOCOL_ERROR, ErrorCode.FRAME_SIZE_ERROR)
    assert served.transport.ended


def test_a_websocket_is_not_disturbed(serve: Serve, hands: Hands) -> None:
    """Its upgrade is still one of HTTP/1.1."""
    served = serve(hands, http2=UPGRADE, alpn=None)
    served.link.send(
        b"GET / HTTP/1.1\r\nhost: example.org\r\nconnection: Upgrade\r\n"
        b"upgrade: websocket\r\nsec-websocket-version: 13\r\n"
        b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with pytest.raises(Silence):
        served.link.receive()
    assert {"type": "websocket.connect"} == hands.begun[0].receive()
    hands.begun[0].send({"type": "websocket.accept"})

    assert served.link.receive().startswith(b"HTTP/1.1 101 ")


# -- Which version it is -----------------------------------------------------


@pytest.mark.parametrize("alpn", [b"h2", None])
def test_the_beginning_may_be_cut_anywhere(serve: Serve, alpn: bytes | None) -> None:
    """Preface, settings and the first request, in two reads or byte by byte."""
    block = b"\x82\x84\x86\x41\x0bexample.org"
    begun = PREFACE + settings() + headers(1, block)
    cuts = [[begun[:cut], begun[cut:]] for cut in range(1, len(begun))]
    cuts.append([begun[at : at + 1] for at in range(len(begun))])
    for pieces in cuts:
        served = serve(alpn=alpn)
        served.peer.expect_acks(1)
        served.transport.deliver(*pieces)
        assert b"hello" == served.peer.expect_response(1).body
        served.link.leave()


def test_http2_can_be_switched_off(serve: Serve) -> None:
    """``http="1.1"``: the preface is a request of a version that isn't spoken."""
    served = serve(http2={"http": "1.1"}, alpn=None)
    served.link.send(PREFACE + settings())

    assert served.link.receive().startswith(b"HTTP/1.1 505 ")


def test_http1_can_be_switched_off(serve: Serve) -> None:
    """``http="2"``: who begins otherwise is told in HTTP/2, and disconnected."""
    served = serve(http2={"http": "2"}, alpn=None)
    served.transport.deliver(b"GET / HTTP/1.1\r\nhost: example.org\r\n\r\n")
    served.settle()

    assert [(0, ErrorCode.PROTOCOL_ERROR)] == served.peer.goaways
    assert served.transport.ended


def test_alpn_for_http1(serve: Serve) -> None:
    """Who has chosen HTTP/1.1 gets it."""
    served = serve(alpn=b"http/1.1")
    served.link.send(b"GET / HTTP/1.1\r\nhost: example.org\r\n\r\n")

    assert served.link.receive().startswith(b"HTTP/1.1 200 ")


def test_data_behind_the_end_of_a_large_upload(serve: Serve) -> None:
    """Frames on a stream that was reset lately are taken and dropped."""
    served = serve(hello)
    peer = served.open()
    number = peer.request(method=b"POST", end=False)
    peer.expect_response(number)
    for _ in range(10):
        peer.send(data(number, bytes(1000)))
    peer.send(data(number, end=True))
    peer.expect_pong()

    protocol = served.protocol
    assert 16 * 1024 * 1024 == protocol._receive_window + protocol._credit
