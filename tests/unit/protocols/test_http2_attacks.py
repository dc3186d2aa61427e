"""
Attacks on ``daphne_like.protocols.http2``, each of which has a bound.

And honest clients which look a little like them, and are never cut.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from http2_frames import (
    LARGEST_WINDOW_BYTES,
    PREFACE,
    ErrorCode,
    FrameType,
    Setting,
    continuation,
    data,
    dependency,
    frame,
    goaway,
    headers,
    ping,
    priority,
    priority_update,
    reset,
    settings,
    settings_ack,
    window_update,
)
from http2_served import ServedHTTP2, hello, waiting
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st
from recorded_log import RecordedLog, recorded_log
from stepped_loop import SteppedLoop

from daphne_like.asgi.types import Receive, Scope, Send

Serve = Callable[..., ServedHTTP2]

# Frames that are of no use: what is allowed at once, and what some more are sent.
AT_ONCE, MORE = 1000, 100


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
        served.end()


async def large(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a mebibyte, piece by piece."""
    await send({"type": "http.response.start", "status": 200})
    for _ in range(64):
        piece = bytes(16 * 1024)
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body"})


async def answering_at_last(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer after an hour."""
    await asyncio.sleep(3600)
    await hello(scope, receive, send)


async def idle(scope: Scope, receive: Receive, send: Send) -> None:
    """Take nothing and answer nothing."""
    await asyncio.get_running_loop().create_future()


def held_bytes(served: ServedHTTP2) -> int:
    """Count the bytes which a connection keeps for its peer."""
    protocol = served.protocol
    waiting_bytes = sum(stream.unsent_bytes() for stream in protocol.streams.values())
    return (
        waiting_bytes
        + sum(map(len, protocol.output.pending))
        + served.transport.write_buffer_bytes()
        + len(protocol.reader.rest)
    )


def assert_calmed(served: ServedHTTP2) -> None:
    """See that the client was told to calm down, and nothing is kept of it."""
    assert ErrorCode.ENHANCE_YOUR_CALM == served.goaway
    assert not served.protocol.streams
    assert not served.protocol.output._turns
    assert 0 == held_bytes(served)


# -- Floods of frames --------------------------------------------------------

FLOODS: dict[str, Callable[[int], bytes]] = {
    "PING": lambda _: ping(),
    "answers to no PING": lambda _: ping(ack=True),
    "SETTINGS": lambda _: settings(),
    "answers to no SETTINGS": lambda _: settings_ack(),
    "empty DATA": lambda _: data(1),
    "DATA of padding": lambda _: data(1, padding=200),
    "PRIORITY": lambda _: priority(1, 3),
    "PRIORITY of idle streams": lambda n: priority(2 * n + 101, 3),
    "PRIORITY_UPDATE": lambda n: priority_update(1, b"u=%d" % (n % 8)),
    "PRIORITY_UPDATE of idle streams": lambda n: priority_update(2 * n + 101),
    "WINDOW_UPDATE": lambda _: window_update(0, 1),
    "WINDOW_UPDATE of a stream": lambda _: window_update(1, 1),
    "WINDOW_UPDATE of an old stream": lambda _: window_update(3, 1),
    "unknown frames": lambda _: frame(0xF0, 0xFF, 7, b"?"),
    "GOAWAY": lambda _: goaway(),
    "RST_STREAM of an old stream": lambda _: reset(3),
}


def opened_for_flood(serve: Serve) -> ServedHTTP2:
    """Have stream 1 open, and stream 3 over."""
    served = serve(waiting)
    served.open()
    served.get(method=b"POST", end=False)
    served.peer.send(reset(served.get()))
    served.settle()
    assert [1] == [*served.protocol.streams]
    return served


def send_flood(served: ServedHTTP2, flood: str, count: int) -> None:
    """Send frames in one read."""
    if flood == "SETTINGS":
        served.peer.expect_acks(count)
    served.peer.send(*map(FLOODS[flood], range(count)))
    served.settle()


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_ends_the_connection(serve: Serve, flood: str) -> None:
    """Frames that cost their sender nothing are counted, whatever they are."""
    served = opened_for_flood(serve)

    send_flood(served, flood, AT_ONCE - MORE)

    assert served.goaway is None

    send_flood(served, flood, 3 * MORE)

    assert_calmed(served)


@pytest.mark.parametrize("flood", FLOODS)
def test_a_trickle_does_not(serve: Serve, flood: str) -> None:
    """The same frames, a hundred each second, go on for as long as one likes."""
    served = opened_for_flood(serve)
    for _ in range(60):
        send_flood(served, flood, 99)
        served.advance(1)

    assert served.goaway is None
    assert len(served.protocol._early_priorities) <= 128


def test_numbers_left_out_pay_for_nothing(serve: Serve) -> None:
    """A request pays for some frames, but not for those which it has skipped."""
    served = serve()
    peer = served.open()
    for number in range(1, 40_001, 4_000):
        block = peer.encode(peer.request_fields())
        peer.send(headers(number, block), *[ping()] * (AT_ONCE // 4))
        served.settle()

    assert_calmed(served)


def test_settings_in_one_frame_count_one_by_one(serve: Serve) -> None:
    """Each may concern all streams, so thousands of them are as bad as frames."""
    served = serve(waiting)
    peer = served.open()
    served.many(100)
    pair = (Setting.INITIAL_WINDOW_SIZE, 1), (Setting.INITIAL_WINDOW_SIZE, 2)
    peer.send(settings(*pair * (AT_ONCE // 2)))
    served.settle()

    assert_calmed(served)


def test_heads_on_a_stream_that_was_reset_count(serve: Serve) -> None:
    """One may be on its way, but not thousands."""
    served = serve(waiting)
    peer = served.open()
    number = served.get(method=b"POST", end=False)
    peer.send(window_update(number, 0))
    served.settle()
    trailers = peer.encode([(b"x-checksum", b"1")])
    peer.send(*[headers(number, trailers)] * (AT_ONCE + MORE))
    served.settle()

    assert_calmed(served)


def test_early_priorities_are_kept_for_few_requests(serve: Serve) -> None:
    """Thousands of PRIORITY_UPDATE frames don't become thousands of entries."""
    served = serve()
    peer = served.open()
    peer.send(*(priority_update(2 * n + 1) for n in range(900)))
    peer.expect_pong()

    assert 128 == len(served.protocol._early_priorities)

    peer.expect_response(served.get())


# -- Requests that come to nothing -------------------------------------------


def test_rapid_reset(serve: Serve) -> None:
    """CVE-2023-44487: requests that are taken back at once, by the thousand."""
    served = serve(waiting)
    peer = served.open()
    for _ in range(400):
        peer.send(reset(served.get()))
    served.settle()

    assert_calmed(served)
    # What was begun is over, too.
    served.advance(10)
    assert 0 == served.running
    # And it was cut soon.
    assert served.peer.goaways[-1][0] < 2 * 230


def window_overflow(number: int) -> bytes:
    """Let a window grow beyond what there is."""
    return window_update(number, LARGEST_WINDOW_BYTES)


MADE_YOU_RESET: dict[str, Callable[[int], bytes]] = {
    "WINDOW_UPDATE of 0": lambda number: window_update(number, 0),
    "WINDOW_UPDATE of too much": window_overflow,
    "DATA behind the end": lambda number: data(number, b"more"),
    "HEADERS behind the end": lambda number: headers(number, b"\x88"),
    "PRIORITY of a wrong size": lambda number: frame(
        FrameType.PRIORITY, 0, number, b"four"
    ),
    "PRIORITY of itself": lambda number: priority(number, number),
}


@pytest.mark.parametrize("variant", MADE_YOU_RESET)
def test_made_you_reset(serve: Serve, variant: str) -> None:
    """CVE-2025-8671: requests which the server is made to take back."""
    served = serve(waiting)
    peer = served.open()
    for _ in range(150):
        peer.send(MADE_YOU_RESET[variant](served.get()))
    served.settle()

    assert served.goaway is None
    assert not served.protocol.streams
    assert all(response.error is not None for response in peer.responses.values())

    for _ in range(150):
        peer.send(MADE_YOU_RESET[variant](served.get()))
    served.settle()

    assert_calmed(served)
    served.advance(10)
    assert 0 == served.running


BROKEN_REQUESTS: dict[str, Callable[[ServedHTTP2, int], bytes]] = {
    "no method": lambda served, number: headers(number, b"\x84\x87"),
    "a dependency on itself": lambda served, number: headers(
        number,
        served.peer.encode(served.peer.request_fields()),
        depends=dependency(number),
    ),
    "too long a body": lambda served, number: (
        headers(
            number,
            served.peer.encode(served.peer.request_fields((b"content-length", b"1"))),
            end=False,
        )
        + data(number, b"many")
    ),
    "trailers that are malformed": lambda served, number: (
        headers(number, served.peer.encode(served.peer.request_fields()), end=False)
        + headers(number, b"\x88")
    ),
    "more than a window": lambda served, number: (
        headers(number, served.peer.encode(served.peer.request_fields()), end=False)
        + b"".join(data(number, bytes(16_384)) for _ in range(5))
    ),
    "no host": lambda served, number: headers(number, b"\x82\x84\x86"),
    "a method that isn't known": lambda served, number: headers(
        number, served.peer.encode(served.peer.request_fields(method=b"NO"))
    ),
}


@pytest.mark.parametrize("kind", BROKEN_REQUESTS)
def test_requests_that_are_refused_by_the_hundred(serve: Serve, kind: str) -> None:
    """Whichever way a request is broken, the server doesn't go on and on with it."""
    served = serve(idle, http2={"http2_stream_window": 65_535})
    peer = served.open()
    for _ in range(400):
        peer.send(BROKEN_REQUESTS[kind](served, peer.new_stream()))
    served.settle()

    assert_calmed(served)
    served.streams.end()


def test_more_requests_at_once_than_are_allowed(serve: Serve) -> None:
    """A few are refused, as the settings may still be on their way; not thousands."""
    served = serve(waiting)
    peer = served.open()
    served.many(128 + 150)
    peer.expect_pong()

    assert 128 == len(served.protocol.streams)
    assert 150 == sum(
        response.error == ErrorCode.REFUSED_STREAM
        for response in peer.responses.values()
    )

    served.many(150)
    served.settle()

    assert_calmed(served)


def test_streams_that_are_reset_while_no_window_is_open_are_forgotten(
    serve: Serve,
) -> None:
    """A window of 0 doesn't keep what has been taken back."""
    served = serve(large)
    peer = served.open()
    first = served.get()
    served.settle()
    assert 0 == peer.window
    for _ in range(20):
        for number in served.many(5):
            peer.send(reset(number))
        served.advance(1)

    assert [first] == [*served.protocol.streams]
    assert len(served.protocol.output._turns) <= 1


# -- Heads -------------------------------------------------------------------


def test_a_head_without_end(serve: Serve) -> None:
    """CONTINUATION frames, full or empty, aren't collected for ever."""
    for fragment in (b"", b"\x82", bytes(1000), bytes(16_384)):
        served = serve()
        peer = served.open()
        peer.send(headers(1, b"\x82", complete=False))
        for _ in range(300):
            peer.send(continuation(1, fragment, complete=False))
        served.settle()

        assert_calmed(served)
        assert served.protocol.reader.partial_head is None


def literal(name: bytes, value: bytes) -> bytes:
    """Write a field that goes to the table."""

    def string(text: bytes) -> bytes:
        assert len(text) < 127 + 128 * 128
        if len(text) < 127:
            return bytes((len(text),)) + text
        rest = len(text) - 127
        return bytes((127, rest & 0x7F | 0x80, rest >> 7)) + text

    return b"\x40" + string(name) + string(value)


def test_an_hpack_bomb_is_refused_and_the_connection_goes_on(serve: Serve) -> None:
    """A kilobyte that means megabytes costs no more than it would as it is."""
    served = serve()
    peer = served.open()
    block = peer.encode(peer.request_fields())
    # An entry that fills the table, and then is named by a byte.
    bomb = literal(b"x-bomb", bytes(4000)) + b"\xbe" * 12_000
    for _ in range(3):
        number = peer.new_stream()
        peer.send(headers(number, block + bomb))
        peer.expect_response(number, 431)
        block = b"\x82\x84\x86" + literal(b":authority", b"example.org")

    served.peer.encoder = type(peer.encoder)()
    number = peer.new_stream()
    peer.send(headers(number, block))
    peer.expect_response(number)


def test_a_huge_header_list_is_refused_and_the_connection_goes_on(
    serve: Serve,
) -> None:
    """431 to the request, and the next one is served."""
    served = serve()
    peer = served.open()
    fields = peer.request_fields(*((b"x-%d" % n, bytes(900)) for n in range(80)))
    block = peer.encode([(n, v.replace(b"\0", b"~")) for n, v in fields])
    number = peer.new_stream()
    pieces = [block[at : at + 16_384] for at in range(0, len(block), 16_384)]
    peer.send(headers(number, pieces[0], complete=False))
    for at, piece in enumerate(pieces[1:], 2):
        peer.send(continuation(number, piece, complete=at == len(pieces)))

    peer.expect_response(number, 431)
    peer.expect_response(served.get())


def test_crumbs_of_a_cookie_are_joined_once(serve: Serve) -> None:
    """Thousands of them, a byte each, cost what one cookie of their size does."""
    cookies: list[bytes] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        cookies.append(dict(scope["headers"])[b"cookie"])
        await hello(scope, receive, send)

    served = serve(application)
    peer = served.open()
    block = peer.encode(peer.request_fields())
    crumbs = literal(b"cookie", b"a=1") + b"\xbe" * 1_499
    number = peer.new_stream()
    peer.send(headers(number, block + crumbs))
    peer.expect_response(number)

    assert [b"; ".join([b"a=1"] * 1_500)] == cookies


def test_a_priority_of_many_members(serve: Serve) -> None:
    """What is behind the first few members isn't even looked at."""
    served = serve()
    peer = served.open()
    value = b"u=1" + b"," * 16_000
    peer.send(priority_update(1, value))
    peer.send(priority_update(3, b"," * 1000 + b"u=1"))
    peer.expect_pong()

    assert 1 == served.protocol._early_priorities[1].urgency
    assert 3 == served.protocol._early_priorities[3].urgency

    peer.expect_response(served.get(), 200)


# -- Bodies ------------------------------------------------------------------


def test_bodies_of_tiny_frames_take_little_memory(serve: Serve) -> None:
    """An application that doesn't read keeps the bytes, not thousands of objects."""
    gathered: list[int] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(60)
        event = await receive()
        gathered.append(len(event["body"]))
        await hello(scope, receive, send)

    served = serve(application)
    peer = served.open()
    number = served.get(method=b"POST", end=False)
    for _ in range(20):
        peer.send(b"".join(data(number, b"ab") for _ in range(1000)))
        served.settle()
    stream: Any = served.protocol.streams[number].stream

    assert 20 * 1000 * 2 == sum(map(len, stream._chunks))
    assert len(stream._chunks) <= 20 * 1000 * 2 // 1000 + 1

    peer.send(data(number, end=True))
    served.settle()
    served.loop.advance(60)
    peer.expect_response(number)

    assert [40_000] == gathered


def test_padding_fills_the_window_as_data_does(serve: Serve) -> None:
    """Who sends padding alone runs out of budget; its credit comes back."""
    served = serve(waiting)
    peer = served.open()
    number = served.get(method=b"POST", end=False)
    for _ in range(900):
        peer.send_data(number, b"a", padding=255)
    peer.expect_pong()

    upload = served.protocol.streams[number]._upload
    assert upload is not None
    assert 0 == upload.unread
    assert upload.window + upload.credit == upload.size
    assert served.goaway is None


# -- Peers that don't read, or read slowly -----------------------------------


def test_windows_that_stay_shut(serve: Serve, log: RecordedLog) -> None:
    """Responses wait in bounded memory, and not for ever."""
    served = serve(large)
    peer = served.open((Setting.INITIAL_WINDOW_SIZE, 0))
    numbers = served.many(128)
    peer.expect_pong()

    assert 128 == len(served.protocol.streams)
    # Each may have what send() takes before it waits, and the piece that was too much.
    assert held_bytes(served) <= 128 * (64 + 16) * 1024

    served.advance(62)

    assert not served.protocol.streams
    assert {ErrorCode.CANCEL} == {peer.responses[number].error for number in numbers}
    assert 0 == held_bytes(served)
    assert 0 == served.running
    assert served.goaway in (None, ErrorCode.NO_ERROR)


def test_windows_that_open_by_a_byte_are_no_progress_to_be_paid_for(
    serve: Serve,
) -> None:
    """CVE-2019-9511: a response that is asked for byte by byte."""
    served = serve(large)
    peer = served.open((Setting.INITIAL_WINDOW_SIZE, 0))
    number = served.get()
    for _ in range(AT_ONCE + MORE):
        peer.grant(number, 1)
    served.settle()

    assert_calmed(served)


def test_a_peer_that_reads_nothing(serve: Serve) -> None:
    """What piles up for it is bounded, reading pauses, and it is cut in the end."""
    served = serve(large)
    peer = served.open((Setting.INITIAL_WINDOW_SIZE, LARGEST_WINDOW_BYTES))
    peer.grant(0, LARGEST_WINDOW_BYTES - 65_535)
    peer.expect_pong()
    served.transport.stop_reading()
    served.many(128)
    for _ in range(10):
        peer.send(*[ping()] * 60)
        served.settle()
        if served.transport.reading_paused:
            break

    assert served.transport.reading_paused
    assert served.protocol.output.congested
    assert held_bytes(served) <= (64 + 256) * 1024 + 128 * (64 + 16) * 1024

    served.streams.advance(62)

    assert served.transport.reset
    assert not served.connections
    assert 0 == served.running


def test_answers_to_one_read_do_not_pile_up(serve: Serve) -> None:
    """Thousands of requests in one read, answered at once, to a peer that reads none."""

    async def sixteen_kilobytes(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": bytes(16_000)})

    served = serve(sixteen_kilobytes)
    peer = served.open((Setting.INITIAL_WINDOW_SIZE, LARGEST_WINDOW_BYTES))
    peer.grant(0, LARGEST_WINDOW_BYTES - 65_535)
    peer.expect_pong()
    served.transport.stop_reading()
    served.many(1000)
    served.settle()

    most = 256 * 1024 + 16_000 + 128 * (16_000 + 200)
    assert held_bytes(served) <= most


def test_a_peer_that_does_not_read_answers_to_control_frames(serve: Serve) -> None:
    """It is read no more when 64 KiB and some frames wait for it."""
    served = serve(waiting)
    peer = served.open()
    served.get()
    peer.expect_pong()
    served.transport.stop_reading()
    sent = 0
    while not served.transport.reading_paused:
        peer.send(*[ping()] * 80)
        served.settle()
        served.streams.advance(1)
        sent += 80
        assert sent < 10_000
    for _ in range(10):
        peer.send(*[ping()] * 80)
        served.settle()

    assert served.transport.write_buffer_bytes() < 64 * 1024 + 17 * 400
    assert len(served.transport._unread) > 5

    served.streams.advance(62)

    assert served.transport.reset


# -- Peers that don't send ---------------------------------------------------

BEGINNINGS = {
    "a byte": PREFACE[:1],
    "a part of the preface": PREFACE[:10],
    "the preface without settings": PREFACE,
    "a part of the settings": PREFACE + settings((1, 2))[:12],
    "a part of a head": PREFACE + settings() + headers(1, b"\x82", complete=False),
    "a part of a frame": PREFACE + settings() + headers(1, b"\x82\x84\x87")[:10],
    "a part of a frame's first bytes": PREFACE + settings() + b"\0\0",
}


@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_connections_that_stop(serve: Serve, beginning: str) -> None:
    """Each gets ten seconds, and two more to learn that they are over."""
    served = serve()
    served.transport.deliver(BEGINNINGS[beginning])
    served.streams.advance(9)
    after_nine = served.transport.ended
    served.streams.advance(5)

    assert (False, True) == (after_nine, served.transport.ended)
    assert not served.connections
    served.peer.expect_acks(1)
    served.settle()
    assert served.goaway is not None


def test_a_frame_that_comes_byte_by_byte(serve: Serve) -> None:
    """Bytes don't buy time; whole frames do."""
    served = serve(waiting)
    peer = served.open()
    served.get()
    block = headers(3, peer.encode(peer.request_fields()))
    for at in range(12):
        peer.send(block[at : at + 1])
        served.advance(1)

    assert ErrorCode.PROTOCOL_ERROR == served.goaway


def test_a_head_that_comes_fragment_by_fragment(serve: Serve) -> None:
    """The whole head has ten seconds, not each fragment."""
    served = serve(waiting)
    peer = served.open()
    peer.send(headers(1, b"\x82", complete=False))
    for _ in range(12):
        peer.send(continuation(1, b"\x84", complete=False))
        served.advance(1)

    assert ErrorCode.PROTOCOL_ERROR == served.goaway


def test_a_refused_body_that_never_ends(serve: Serve, log: RecordedLog) -> None:
    """A stream whose client went silent doesn't stay when it has been answered."""
    served = serve(idle, limits={"timeout_request_body": 5})
    peer = served.open()
    number = served.get(method=b"POST", end=False)
    announced = peer.request_of(
        peer.request_fields((b"content-length", b"10"), method=b"POST"), end=False
    )
    peer.send_data(announced, b"12345")
    served.advance(15)

    assert 408 == peer.responses[announced].status
    assert 408 == peer.responses[number].status
    assert not served.protocol.streams
    log.take()  # of the applications that nobody listens to


def test_a_refused_websocket_that_announces_a_body(serve: Serve) -> None:
    """CONNECT has none, so nobody waits for it."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.close"})

    served = serve(application)
    peer = served.open()
    number = peer.request_of(
        [
            (b":method", b"CONNECT"),
            (b":protocol", b"websocket"),
            (b":scheme", b"http"),
            (b":path", b"/"),
            (b":authority", b"example.org"),
            (b"sec-websocket-version", b"13"),
            (b"content-length", b"10"),
        ],
        end=False,
    )
    peer.expect_response(number, 403)
    peer.expect_pong()

    assert not served.protocol.streams


# -- Honest clients ----------------------------------------------------------


def test_a_browser_which_cancels_some_requests_each_second(serve: Serve) -> None:
    """For two hours: pages that are left before their images have come."""
    served = serve(waiting)
    peer = served.open()
    protocol, loop = served.protocol, served.loop
    number = served.get()
    served.settle()
    block = peer.encode(peer.request_fields())
    for _ in range(2 * 60):
        # A minute in one go: what was cancelled in it, and time.
        for _ in range(3 * 60):
            number += 2
            pair = headers(number, block) + reset(number)
            protocol.dataReceived(pair)
        loop._now += 60
        served.loop.call_soon(served.streams.wheel.tick)
        served.loop.call_soon(served.loop.stop)
        served.loop.run_forever()
        assert protocol._state.name == "OPEN"


def test_a_proxy_whose_clients_cancel(serve: Serve) -> None:
    """Six of a hundred, of thousands of requests in a second."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await (waiting if scope["path"] == "/slow" else hello)(scope, receive, send)

    served = serve(application)
    peer = served.open()
    for _ in range(60):
        served.many(94)
        peer.send(*map(reset, served.many(6, b"/slow")))
        served.settle()

        assert served.goaway is None
    assert not served.protocol.streams


@pytest.mark.parametrize("window", [65_535, 16 * 1024 * 1024])
def test_a_download_with_credit_for_each_frame(serve: Serve, window: int) -> None:
    """Two WINDOW_UPDATE frames for each DATA frame, through a whole gigabyte."""
    piece = bytes(16_384)
    frames = 2**30 // len(piece)
    served: ServedHTTP2

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        for _ in range(frames):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body"})

    served = serve(application)
    served.open((Setting.INITIAL_WINDOW_SIZE, window))
    served.get()
    served.settle()
    protocol = served.protocol
    credit = window_update(0, len(piece)) + window_update(1, len(piece))
    sent = 0

    def write(data: bytes) -> None:
        nonlocal sent
        sent += len(data)

    # Without a network, whose copies would take most of the time.
    protocol.output._write = write
    for _ in range(frames // 16):
        for _ in range(16):
            protocol.dataReceived(credit)
        served.loop.call_soon(served.loop.stop)
        served.loop.run_forever()
        assert protocol._state.name == "OPEN"
    assert sent > 0.9 * 2**30


def test_small_messages_with_credit_for_each(serve: Serve) -> None:
    """A stream of events, each of which is credited by two frames and no time passes."""
    wanted: list[asyncio.Future[None]] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        while True:
            wanted.append(asyncio.get_running_loop().create_future())
            await wanted[-1]
            event = {"type": "http.response.body", "body": b"data\n\n"}
            await send({**event, "more_body": True})

    served = serve(application)
    served.open()
    served.get()
    served.settle()
    credit = window_update(0, 6) + window_update(1, 6)
    for _ in range(3 * AT_ONCE):
        wanted.pop().set_result(None)
        for _ in range(3):
            served.loop.call_soon(served.loop.stop)
            served.loop.run_forever()
        served.protocol.dataReceived(credit)
        assert served.protocol._state.name == "OPEN"


def test_pings_of_a_grpc_client(serve: Serve) -> None:
    """One for each answer, to measure the bandwidth, and acknowledgments."""
    served = serve()
    served.open()
    for _ in range(30):
        for number in served.many(100):
            served.peer.send(ping(number.to_bytes(8, "big")), window_update(0, 5))
        served.settle()

        assert served.goaway is None


def test_a_busy_connection_whose_reads_end_in_the_middle_of_frames(
    serve: Serve,
) -> None:
    """That a frame is always on its way doesn't mean that one takes too long."""
    served = serve()
    peer = served.open()
    peer.expect_pong()
    rest = b""
    block = peer.encode(peer.request_fields())
    for _ in range(40):
        request = headers(peer.new_stream(), block)
        peer.send(rest + request[:12])
        rest = request[12:]
        served.advance(1)

    assert served.goaway is None
    assert 39 == sum(response.is_complete for response in peer.responses.values())


# -- Anything at all ---------------------------------------------------------

_numbers = st.sampled_from([0, 1, 1, 1, 2, 3, 3, 5, 7, 101, 2**31 - 1])
_small = st.binary(max_size=40)
_blocks = st.sampled_from(
    [
        b"\x82\x84\x86\x41\x0bexample.org",
        b"\x83\x84\x86\x01\x0bexample.org",
        b"\x83\x84\x86\x01\x0bexample.org\x0f\x0d\x0210",
        (
            b"\x42\x07CONNECT\x86\x84\x01\x0bexample.org"
            b"\x00\x09:protocol\x09websocket\x00\x15sec-websocket-version\x0213"
        ),
        b"\x00\x0ax-checksum\x011",
        b"\x82\x84",
        b"\xbe",
    ]
)
_frames = st.one_of(
    st.builds(headers, _numbers, _blocks, end=st.booleans()),
    st.builds(headers, _numbers, _blocks, end=st.booleans(), complete=st.booleans()),
    st.builds(continuation, _numbers, _blocks, complete=st.booleans()),
    st.builds(data, _numbers, _small, end=st.booleans()),
    st.builds(data, _numbers, _small, padding=st.integers(0, 40)),
    st.builds(reset, _numbers),
    st.builds(window_update, _numbers, st.sampled_from([0, 1, 70_000, 2**31 - 1])),
    st.builds(priority, _numbers, _numbers),
    st.builds(priority_update, _numbers, _small),
    st.builds(settings, st.tuples(st.integers(0, 9), _numbers)),
    st.builds(lambda: settings((Setting.INITIAL_WINDOW_SIZE, 0))),
    st.builds(ping, ack=st.booleans()),
    st.builds(goaway),
    st.builds(frame, st.integers(0, 18), st.integers(0, 255), _numbers, _small),
)


async def whatever(scope: Scope, receive: Receive, send: Send) -> None:
    """Do something with each of the protocols, and some more than a window takes."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        while (await receive())["type"] != "websocket.disconnect":
            pass
        return
    if scope["method"] == "POST":
        event = await receive()
        while event["type"] == "http.request" and event["more_body"]:
            event = await receive()
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": bytes(100_000)})


@settings_of_hypothesis(max_examples=100, deadline=None)
@given(st.lists(_frames, max_size=25), st.integers(1, 400))
def test_whatever_comes(frames: list[bytes], cut: int) -> None:
    """Nothing raises, credit is neither lost nor made up, and nothing is left."""
    with recorded_log():
        receive_whatever_comes(frames, cut)


def receive_whatever_comes(frames: list[bytes], cut: int) -> None:
    """Let a server receive these frames, cut into such pieces."""
    loop = SteppedLoop()
    served = ServedHTTP2(loop, whatever)
    protocol = served.protocol
    sent = PREFACE + settings() + b"".join(frames)
    pieces = [sent[at : at + cut] for at in range(0, len(sent), cut)]
    for piece in pieces:
        served.transport.deliver(piece)
        unread = sum(
            stream._upload.unread
            for stream in protocol.streams.values()
            if stream._upload is not None
        )
        if protocol._state.name == "OPEN":
            window = protocol._receive_window + protocol._credit + unread
            assert 16 * 1024 * 1024 == window
            assert all(protocol.output._turns._lines.values())
    served.streams.advance(3)
    served.end()
    assert not protocol.streams
    assert not protocol.output._turns
    assert 0 == served.running
    loop.finish()
