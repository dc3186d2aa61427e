"""Tests of ``daphne_like.protocols.http1``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from math import inf
from pathlib import Path
from typing import Any, cast

import pytest
from deliveries import same_for_each_delivery
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from memory_connection import (
    Application,
    FakeStream,
    HandTask,
    MemoryConnection,
    MemoryTransport,
    Outcome,
    PlainTransport,
    echo,
    hello,
    responses_in,
    silent,
)
from twisted.internet.abstract import FileDescriptor
from twisted.internet.address import IPv6Address, UNIXAddress
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IPushProducer,
    IReactorFDSet,
)
from twisted.python.failure import Failure
from zope.interface.verify import verifyObject

from daphne_like.protocols.http1 import HTTP1Protocol
from daphne_like.protocols.http1_reader import FEED_BYTES
from daphne_like.protocols.interfaces import LiveConnection
from daphne_like.protocols.negotiation import HTTPFactory
from daphne_like.settings import HTTP2Settings

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
OK_CLOSE = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
KIB = 1024


def get(target: bytes = b"/", *fields: bytes, method: bytes = b"GET") -> bytes:
    """Write a request without a body."""
    lines = [b"%b %b HTTP/1.1" % (method, target), b"Host: a", *fields]
    return b"\r\n".join([*lines, b"", b""])


def post(body: bytes, *fields: bytes, length: int | None = None) -> bytes:
    """Write a request with a body, of which perhaps only a part is there."""
    size = len(body) if length is None else length
    return get(b"/", b"Content-Length: %d" % size, *fields, method=b"POST") + body


CHUNKED = get(b"/", b"Transfer-Encoding: chunked", method=b"POST")


def ok(body: bytes, *fields: bytes) -> bytes:
    """Write the response that the server is to give with ``body``."""
    lines = [b"HTTP/1.1 200 OK", b"content-length: %d" % len(body), *fields]
    return b"\r\n".join([*lines, b"", body])


def error(status: bytes, detail: bytes) -> bytes:
    """Write the answer to what isn't a request, or not one to be served."""
    return b"HTTP/1.1 %b\r\ncontent-length: %d\r\nconnection: close\r\n\r\n%b\n" % (
        status,
        len(detail) + 1,
        detail,
    )


def outcome_of(data: bytes, application: Application = echo, **options: Any) -> Outcome:
    """Tell what comes of bytes, however they are delivered."""

    def outcome(pieces: list[bytes]) -> Outcome:
        connection = MemoryConnection(application, **options)
        connection.receive(*pieces)
        return connection.outcome

    return same_for_each_delivery(data, outcome)


def answer_to(data: bytes, application: Application = echo, **options: Any) -> bytes:
    """Tell what is written as the answer to bytes, however they are delivered."""
    return outcome_of(data, application, **options).written


def seen_by_peer(
    data: bytes, application: Application = echo, **options: Any
) -> tuple[bytes, str]:
    """
    Tell what a peer sees, however its bytes are delivered.

    Whether an application had been started before a fault may differ.
    """

    def outcome(pieces: list[bytes]) -> tuple[bytes, str]:
        connection = MemoryConnection(application, **options)
        connection.receive(*pieces)
        return connection.written, connection.transport.end

    return same_for_each_delivery(data, outcome)


def answering(**options: Any) -> Application:
    """Make an application that answers each request at once, in one way."""

    def application(stream: FakeStream) -> None:
        if not stream.begun:
            stream.answer(**options)

    return application


@pytest.fixture(autouse=True)
def _nothing_fails_unseen(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Find what was logged instead of raised."""
    yield
    records = caplog.get_records("call")
    assert [] == [record for record in records if record.levelname == "ERROR"]


# -- The interfaces --------------------------------------------------------------


def test_twisted_finds_the_interfaces_it_asks_for() -> None:
    """The protocol runs on any transport of Twisted, and paces itself."""
    connection = MemoryConnection()

    assert verifyObject(IProtocol, connection.protocol)
    assert verifyObject(IPushProducer, connection.protocol)
    assert connection.transport.producer is connection.protocol

    factory = HTTPFactory(connection.protocol._context)

    assert verifyObject(IProtocolFactory, factory)

    factory.doStart()
    factory.doStop()
    connection.protocol.stopProducing()


@pytest.mark.parametrize(
    ("peer", "host", "client", "server"),
    [
        (
            IPv6Address("TCP", "2001:db8::1", 5, 0, 0),
            IPv6Address("TCP", "2001:db8::2", 80, 0, 0),
            ("2001:db8::1", 5),
            ("2001:db8::2", 80),
        ),
        (UNIXAddress(None), UNIXAddress(b"/run/s\xff"), None, ("/run/s\udcff", None)),
        (UNIXAddress(None), UNIXAddress(None), None, None),
    ],
    ids=["ipv6", "unix", "unnamed"],
)
def test_streams_know_both_ends_of_the_connection(
    peer: object, host: object, client: object, server: object
) -> None:
    """Client and server are addresses and ports, or the path of a Unix socket."""
    transport = MemoryTransport()
    transport.peer, transport.host = peer, host
    connection = MemoryConnection(transport=transport, scheme="https")
    connection.receive(get())
    [stream] = connection.streams

    assert client == stream.connection.client
    assert server == stream.connection.server
    assert "https" == stream.connection.scheme


# -- How responses are written -----------------------------------------------------


def test_a_response_in_one_piece_is_one_write_with_its_length() -> None:
    """The commonest answer costs one system call, and the connection goes on."""
    outcome = outcome_of(get(b"/a") + get(b"/b"))

    assert ok(b"GET /a ") + ok(b"GET /b ") == outcome.written
    assert "" == outcome.end


def test_head_and_first_piece_leave_together() -> None:
    """The peer never gets a head alone when there is a body to go with it."""

    class Counting(MemoryTransport):
        writes = 0

        def write(self, data: bytes) -> None:
            self.writes += 1
            super().write(data)

    for options, writes in (
        ({}, 1),
        ({"end": False}, 1),
        ({"end": False, "length": 10}, 1),
        ({"body": b"x" * 64 * KIB}, 1),
        ({"body": b"x" * 65 * KIB}, 2),
    ):
        transport = Counting()
        MemoryConnection(answering(**options), transport=transport).receive(get())

        assert writes == transport.writes


def test_fields_are_written_in_order_and_then_the_servers() -> None:
    """The application's fields come first, the server's are added."""
    application = answering(headers=[(b"x-a", b"1"), (b"x-b", b"2"), (b"x-a", b"3")])

    assert (
        b"HTTP/1.1 200 OK\r\nx-a: 1\r\nx-b: 2\r\nx-a: 3\r\n"
        b"server: s\r\ncontent-length: 2\r\n\r\nok"
    ) == answer_to(get(), application, extra_headers=[(b"server", b"s")])


def test_a_field_of_the_application_replaces_the_servers() -> None:
    """There is one `server` field, the application's."""
    application = answering(
        headers=[(b"server", b"mine")], own_defaults=frozenset((b"server",))
    )

    assert (
        b"HTTP/1.1 200 OK\r\nserver: mine\r\nx-a: 1\r\ncontent-length: 2\r\n\r\nok"
    ) == answer_to(
        get(), application, extra_headers=[(b"server", b"s"), (b"x-a", b"1")]
    )


def test_a_length_which_the_application_tells_is_told_once() -> None:
    """`content-length` isn't doubled."""
    application = answering(headers=[(b"content-length", b"2")])

    assert OK == answer_to(get(), application)


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (404, b"HTTP/1.1 404 Not Found\r\n"),
        (299, b"HTTP/1.1 299 \r\n"),
        (999, b"HTTP/1.1 999 \r\n"),
    ],
)
def test_unknown_statuses_have_no_reason(status: int, line: bytes) -> None:
    """RFC 9112 section 4: the space stays when there is no reason phrase."""
    assert line in answer_to(get(), answering(status=status))


def in_pieces(*pieces: bytes, **options: Any) -> Application:
    """Make an application that sends its response in several pieces."""

    def application(stream: FakeStream) -> None:
        if not stream.begun:
            first, *others = pieces
            stream.answer(first, end=False, **options)
            for piece in others[:-1]:
                stream.send(piece)
            stream.send(others[-1], end=True)

    return application


def test_a_response_of_unknown_length_is_chunked() -> None:
    """Its end is told by the last chunk, and empty pieces aren't taken for it."""
    application = in_pieces(b"hello", b"", b"0123456789abcdef", b"")

    written = answer_to(get() + get(), application)

    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    chunks = b"5\r\nhello\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n"
    assert (head + chunks) * 2 == written


def test_the_last_piece_may_be_the_last_chunk_but_one() -> None:
    """A piece and the end of the response leave together."""
    assert answer_to(get(), in_pieces(b"", b"x")).endswith(
        b"\r\n\r\n1\r\nx\r\n0\r\n\r\n"
    )


def test_a_response_of_known_length_in_pieces_is_not_chunked() -> None:
    """An application that tells its length streams without framing."""
    application = in_pieces(b"hel", b"", b"lo", headers=[(b"content-length", b"5")])

    assert ok(b"hello") == answer_to(get(), application)


@pytest.mark.parametrize("size", [64 * KIB, 64 * KIB + 1, 300 * KIB])
def test_large_bodies_arrive_whole(size: int) -> None:
    """Pieces too large to be copied beside their head are framed all the same."""
    body = b"0123456789abcdef" * (size // 16) + b"x" * (size % 16)
    for application in (
        answering(body=body),
        in_pieces(body, body, b""),
        in_pieces(b"", body, b"", body),
        in_pieces(body, body, headers=[(b"content-length", b"%d" % (2 * size))]),
    ):
        connection = MemoryConnection(application)
        connection.receive(get() + get())
        [first, second], rest = responses_in(connection.written)

        assert b"" == rest
        assert first == second
        assert body == first.body[:size]
        assert first.body[size:] in (b"", body)


def test_trailers_end_a_chunked_response() -> None:
    """RFC 9112 section 7.1.2: fields behind the last chunk."""

    def application(stream: FakeStream) -> None:
        stream.answer(b"hello", end=False)
        stream.end_with([(b"x-sum", b"1"), (b"x-b", b"2")])

    assert answer_to(get() + get(), application).endswith(
        b"\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 1\r\nx-b: 2\r\n\r\n"
    )


@pytest.mark.parametrize(
    ("method", "status", "fields"),
    [
        (b"HEAD", 200, b"content-length: 2\r\n"),
        (b"HEAD", 404, b"content-length: 2\r\n"),
        (b"GET", 204, b""),
        (b"GET", 304, b""),
        (b"HEAD", 304, b""),
    ],
)
def test_answers_without_a_body_end_with_their_head(
    method: bytes, status: int, fields: bytes
) -> None:
    """HEAD, 204 and 304 have no body, and the next answer follows at once."""
    written = answer_to(get(method=method) * 2, answering(status=status))

    line = written.partition(b"\r\n")[0]
    assert line.startswith(b"HTTP/1.1 %d " % status)
    assert (line + b"\r\n" + fields + b"\r\n") * 2 == written


@pytest.mark.parametrize("length", [b"0", b"12345"])
def test_the_length_of_an_answer_without_a_body_is_kept(length: bytes) -> None:
    """HEAD and 304 may tell how long the body would be."""
    for method, status in ((b"HEAD", 200), (b"GET", 304)):
        application = answering(status=status, headers=[(b"content-length", length)])
        written = answer_to(get(method=method), application)

        assert 1 == written.count(b"content-length: %b\r\n" % length)
        assert written.endswith(b"\r\n\r\n")


def test_head_of_a_stream_announces_no_framing() -> None:
    """A HEAD whose length isn't known says nothing about it."""
    application = answering(end=False)

    assert b"HTTP/1.1 200 OK\r\n\r\n" == answer_to(get(method=b"HEAD"), application)


def test_early_hints_go_before_the_response() -> None:
    """A 103 is a head of its own."""

    def application(stream: FakeStream) -> None:
        stream.sender.send_informational(103, [(b"link", b"</a>"), (b"link", b"</b>")])
        stream.answer()

    hints = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\nlink: </b>\r\n\r\n"
    assert hints + OK == answer_to(get(), application)
    assert b" 103 " not in answer_to(b"GET / HTTP/1.0\r\n\r\n", application)


# -- Keeping and closing the connection ---------------------------------------------


def test_the_connection_is_kept_after_each_response() -> None:
    """HTTP/1.1 needs no field to stay open."""
    connection = MemoryConnection(hello)
    for _ in range(5):
        connection.receive(get())
        connection.wait(4)

    assert OK * 5 == connection.written
    assert "" == connection.transport.end


@pytest.mark.parametrize("rest", [b"", b"\r\n", b"junk\x00", get(), get() * 40])
def test_close_from_the_client_ends_the_connection(rest: bytes) -> None:
    """The answer says so, too, and bytes behind the request are ignored."""
    outcome = outcome_of(get(b"/", b"Connection: close") + rest, hello)

    assert OK_CLOSE == outcome.written
    assert "closing" == outcome.end
    assert 1 == len(outcome.streams)


@pytest.mark.parametrize("rest", [b"", b"junk\x00", get()])
def test_close_with_a_body_ends_the_connection_behind_it(rest: bytes) -> None:
    """The body of the last request still belongs to it."""
    outcome = outcome_of(post(b"hello", b"Connection: close") + rest)

    assert ok(b"POST / hello", b"connection: close") == outcome.written
    assert "closing" == outcome.end


def test_close_behind_pipelined_requests_ends_with_the_last_answer() -> None:
    """Only the last answer announces the close."""
    data = get(b"/1") + get(b"/2") + get(b"/3", b"Connection: close") + get(b"/4")
    outcome = outcome_of(data)

    assert (
        ok(b"GET /1 ") + ok(b"GET /2 ") + ok(b"GET /3 ", b"connection: close")
    ) == outcome.written
    assert "closing" == outcome.end


def test_close_from_the_application_ends_the_connection() -> None:
    """An application may want the connection closed, whatever was read behind."""
    for rest in (b"", get(), get() * 2000, post(b"", length=9), b"\x00"):
        connection = MemoryConnection(answering(close=True))
        connection.receive(get() + rest)

        assert OK_CLOSE == connection.written
        assert 1 == len(connection.started)
        assert connection.transport.end in ("closing", "half")

        connection.wait(3)

        assert connection.is_lost()


def test_requests_behind_a_close_are_read_off_so_that_the_answer_arrives() -> None:
    """A socket closed with unread bytes is reset, and the answer lost with them."""
    connection = MemoryConnection(answering(close=True))
    connection.receive(get() + get())

    assert "half" == connection.transport.end

    connection.receive(get() * 2000)

    assert 1 == len(connection.started)
    assert OK_CLOSE == connection.written


def test_http_1_0_is_closed_unless_it_asks_to_be_kept() -> None:
    """`ab`, old proxies and health checks get what they understand."""
    closes = outcome_of(b"GET / HTTP/1.0\r\n\r\n", hello)

    assert OK_CLOSE == closes.written
    assert "closing" == closes.end

    kept = outcome_of(b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n" * 2, hello)

    assert ok(b"ok", b"connection: keep-alive") * 2 == kept.written
    assert "" == kept.end


@pytest.mark.parametrize("field", [b"X: y", b"Connection: keep-alive"])
def test_http_1_0_gets_no_chunks(field: bytes) -> None:
    """A body of unknown length ends with the connection."""
    data = b"GET / HTTP/1.0\r\n" + field + b"\r\n\r\n"
    outcome = outcome_of(data, in_pieces(b"hel", b"lo", b""))

    assert b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nhello" == outcome.written
    assert "closing" == outcome.end


@pytest.mark.parametrize("field", [b"X: y", b"Connection: keep-alive"])
def test_chunked_in_http_1_0_is_answered_and_closed(field: bytes) -> None:
    """RFC 9112 section 6.1: and what is behind it is no request."""
    data = CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0")[:-2] + field + b"\r\n\r\n"
    outcome = outcome_of(data + b"5\r\nhello\r\n0\r\n\r\n" + get())

    assert ok(b"POST / hello", b"connection: close") == outcome.written
    assert "closing" == outcome.end


UPGRADE = (b"Connection: Upgrade", b"Upgrade: h2c")


def test_an_upgrade_without_a_body_is_answered_as_if_not_offered() -> None:
    """The connection goes on with HTTP/1.1."""
    outcome = outcome_of(get(b"/1", *UPGRADE) + get(b"/2"))

    assert ok(b"GET /1 ") + ok(b"GET /2 ") == outcome.written
    assert "" == outcome.end


@pytest.mark.parametrize("rest", [b"", get(b"/smuggled"), b"\x00"])
@pytest.mark.parametrize(
    "message",
    [
        post(b"hello", *UPGRADE),
        CHUNKED[:-2] + b"\r\n".join([*UPGRADE, b"", b"5\r\nhello\r\n0\r\n\r\n"]),
    ],
    ids=["length", "chunked"],
)
def test_the_body_behind_an_upgrade_is_a_body(message: bytes, rest: bytes) -> None:
    """It is never parsed as a request, and the connection ends with it."""
    outcome = outcome_of(message + rest)

    assert ok(b"POST / hello", b"connection: close") == outcome.written
    assert "closing" == outcome.end


def test_a_smuggled_request_behind_an_upgrade_stays_a_body() -> None:
    """A request hidden in an upgrade's body doesn't reach the application as one."""
    hidden = get(b"/admin")
    [(method, _, body, _)] = outcome_of(post(hidden, *UPGRADE)).streams

    assert "POST" == method
    assert hidden == body


# -- Request bodies ---------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        post(b"hello"),
        CHUNKED + b"5\r\nhello\r\n0\r\n\r\n",
        CHUNKED + b'1;a="b"\r\nh\r\n4\r\nello\r\n0\r\nX-T: y\r\n\r\n',
    ],
    ids=["length", "chunked", "trailers"],
)
def test_a_body_reaches_its_application(message: bytes) -> None:
    """Length and chunks make no difference to the application."""
    outcome = outcome_of(message + message + get(b"/next"))

    assert ok(b"POST / hello") * 2 + ok(b"GET /next ") == outcome.written
    assert [b"hello", b"hello", b""] == [body for _, _, body, _ in outcome.streams]


def test_the_application_starts_before_the_body_has_come() -> None:
    """Large uploads are streamed, not collected."""
    connection = MemoryConnection()
    connection.receive(post(b"hel", length=5))
    [stream] = connection.started

    assert ["body"] == stream.told
    assert not stream.complete

    connection.receive(b"lo")

    assert b"hello" == stream.body
    assert stream.complete


def test_a_body_that_nobody_takes_pauses_reading() -> None:
    """64 KiB may wait for the application; TCP tells the client. Then it goes on."""
    connection = MemoryConnection()
    connection.receive(post(b"", length=10**6))
    [stream] = connection.started
    piece = b"x" * 4 * KIB
    connection.receive(*[piece] * 16)

    assert connection.is_reading()

    connection.receive(*[piece] * 100)

    assert not connection.is_reading()
    assert 17 * len(piece) == len(stream.body)

    # 16 KiB and a byte are left.
    connection.protocol.body_consumed(52 * KIB - 1)

    assert not connection.is_reading()

    connection.protocol.body_consumed(1)
    stream._untaken_bytes = 16 * KIB
    connection.turn()

    assert not connection.is_reading()
    assert 64 * KIB < stream._untaken_bytes < 72 * KIB


def test_an_upload_larger_than_all_buffers_arrives_whole() -> None:
    """Pausing and resuming lose nothing, however the bytes come."""
    body = bytes(range(256)) * 2000
    for size in (1000, 16 * KIB, 65 * KIB, 10**6):
        for message in (post(body), CHUNKED + chunks(body, 5000)):
            connection = MemoryConnection(echo, eager=False)
            connection.receive(*cut(message + get(b"/next"), size))

            assert ok(b"POST / " + body) + ok(b"GET /next ") == connection.written
            assert connection.is_reading()


def chunks(body: bytes, size: int) -> bytes:
    """Write a body in chunked coding."""
    pieces = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in cut(body, size)]
    return b"".join([*pieces, b"0\r\n\r\n"])


def cut(data: bytes, size: int) -> list[bytes]:
    """Cut bytes into pieces of a size."""
    return [data[at : at + size] for at in range(0, len(data), size)]


def test_a_body_behind_a_slow_request_waits() -> None:
    """The body of a pipelined request is read ahead only so far."""
    connection = MemoryConnection()
    connection.receive(get(), post(b"", length=10**6), *[b"x" * 10 * KIB] * 10)
    first, second = connection.streams

    assert [first] == connection.started
    assert not connection.is_reading()
    assert 70 * KIB == len(second.body)

    first.answer()

    assert [first, second] == connection.started

    second.take()
    connection.turn()

    assert 100 * KIB == len(second.body)


# -- Answers before the body --------------------------------------------------------


@pytest.mark.parametrize("size", [1, 5, 200])
def test_a_small_unread_body_is_dropped_and_the_connection_kept(size: int) -> None:
    """An answer that needs no body doesn't cost the connection."""
    assert (OK * 2, "") == seen_by_peer(post(b"x" * size) + get(), hello)


@pytest.mark.parametrize("eager", [True, False])
@pytest.mark.parametrize(
    ("rest", "kept"), [(1, True), (64 * KIB, True), (64 * KIB + 1, False)]
)
def test_up_to_64_kib_of_an_unread_body_are_read_and_dropped(
    rest: int, kept: bool, eager: bool
) -> None:
    """Beyond that, closing is cheaper for both sides, and the answer says so."""
    connection = MemoryConnection(hello, eager=eager)
    connection.receive(post(b"x" * 9, length=9 + rest))

    assert connection.written == (OK if kept else OK_CLOSE)
    assert connection.transport.end == ("" if kept else "half")

    connection.receive(*cut(b"x" * rest, 10_000), get())

    assert connection.written == (OK * 2 if kept else OK_CLOSE)


def test_an_unread_chunked_body_ends_the_connection() -> None:
    """Nobody knows how much is to come."""
    connection = MemoryConnection(hello)
    connection.receive(CHUNKED + b"5\r\nhello\r\n")

    assert OK_CLOSE == connection.written
    assert "half" == connection.transport.end


def test_a_stream_that_ends_before_the_body_ends_the_connection() -> None:
    """A response that began while the body came can't announce the close any more."""
    connection = MemoryConnection()
    connection.receive(post(b"", length=10**6))
    [stream] = connection.started
    stream.answer(b"x", end=False)
    stream.send(b"y", end=True)

    assert b"connection" not in connection.written
    assert "half" == connection.transport.end


def test_a_stream_that_ends_with_little_left_of_the_body_keeps_the_connection() -> None:
    """The rest is dropped, and the next request is answered."""
    connection = MemoryConnection(in_pieces(b"x", b"", b"y"))
    connection.receive(post(b"", length=1000), b"x" * 500, b"x" * 500 + get())
    responses, rest = responses_in(connection.written)

    assert [b"xy", b"xy"] == [response.body for response in responses]
    assert b"" == rest


def test_a_refused_body_is_read_off_for_two_seconds() -> None:
    """The peer gets to reading the answer; then the connection is closed for good."""
    connection = MemoryConnection(hello)
    connection.receive(post(b"", length=10**9))
    for _ in range(2):
        connection.receive(b"x" * 10**6)

        assert "half" == connection.transport.end
        assert connection.is_reading()

        connection.wait(1)
    connection.wait(2)

    assert "closing" == connection.transport.end
    assert connection.is_lost()
    assert OK_CLOSE == connection.written


def test_lingering_has_no_deadline_but_its_own() -> None:
    """A refused body may come as slowly as it likes, for those two seconds."""
    connection = MemoryConnection(hello, timeout_request_body=1)
    connection.receive(post(b"", length=10**9))
    connection.wait(2)

    assert "half" == connection.transport.end

    connection.wait(2)

    assert connection.is_lost()
    assert OK_CLOSE == connection.written


def test_lingering_goes_on_while_the_answer_is_still_being_taken() -> None:
    """A slow peer has its two seconds after the last byte of the answer."""
    transport = MemoryTransport(high_water_bytes=0)
    connection = MemoryConnection(hello, transport=transport)
    connection.receive(post(b"", length=10**9))
    connection.wait(10)

    assert "half" == transport.end

    connection.take()
    connection.wait(4)

    assert connection.is_lost()


def test_a_transport_that_cannot_half_close_is_closed_later() -> None:
    """TLS has no half close; the client gets the same time to read the answer."""
    connection = MemoryConnection(hello, transport=PlainTransport())
    connection.receive(post(b"", length=10**9))

    assert OK_CLOSE == connection.written
    assert "" == connection.transport.end

    connection.receive(b"x" * 1000)
    connection.wait(3)

    assert "closing" == connection.transport.end
    assert OK_CLOSE == connection.written


def test_reading_is_resumed_to_read_off_a_refused_body() -> None:
    """A paused upload isn't left in the socket, which would reset the connection."""
    connection = MemoryConnection()
    connection.receive(post(b"", length=10**6), *[b"x" * 40 * KIB] * 3)

    assert not connection.is_reading()

    connection.started[0].answer()
    connection.turn()

    assert connection.is_reading()
    assert "half" == connection.transport.end


@pytest.mark.parametrize("how", ["close", "timeout"])
def test_reading_is_resumed_to_read_off_what_will_not_be_answered(how: str) -> None:
    """A body that waited behind the last answer is dropped with its request."""
    connection = MemoryConnection(http_timeout=10)
    connection.receive(get() + post(b"", length=10**6), b"x" * 70 * KIB)

    assert not connection.is_reading()

    if how == "close":
        connection.started[0].answer(close=True)
    else:
        connection.wait(11)

    assert "half" == connection.transport.end
    assert connection.is_reading()
    assert 1 == len(connection.started)
    assert 1 == connection.written.count(b"HTTP/1.1")


# -- Expect: 100-continue -----------------------------------------------------------

EXPECT = b"Expect: 100-continue"


def test_a_client_is_asked_for_the_body_when_the_application_wants_it() -> None:
    """RFC 9110 section 10.1.1: once, and not before."""
    connection = MemoryConnection()
    connection.receive(post(b"", EXPECT, length=5))
    [stream] = connection.started

    assert b"" == connection.written

    stream.ask()
    stream.ask()

    assert CONTINUE == connection.written

    connection.receive(b"hello")
    stream.ask()
    stream.answer()

    assert CONTINUE + OK == connection.written
    assert "" == connection.transport.end


def test_a_client_that_does_not_wait_is_not_asked() -> None:
    """Some of the body has come: a 100 would only be in the way."""
    connection = MemoryConnection()
    connection.receive(post(b"hel", EXPECT, length=5))
    [stream] = connection.started
    stream.ask()

    assert b"" == connection.written

    stream.answer()
    connection.receive(b"lo" + get())

    assert OK == connection.written
    assert 2 == len(connection.started)


def test_an_answer_without_asking_ends_the_connection() -> None:
    """The client may or may not send the body now: nobody could tell."""
    outcome = outcome_of(post(b"", EXPECT, length=5), hello)

    assert OK_CLOSE == outcome.written
    assert "half" == outcome.end


def test_nobody_is_asked_after_an_early_answer() -> None:
    """A 100 behind the final response would be taken for the next one."""
    connection = MemoryConnection()
    connection.receive(post(b"", length=5))
    [stream] = connection.started
    stream.answer()
    connection.protocol.send_continue()

    assert OK == connection.written


def test_http_1_0_is_not_asked() -> None:
    """HTTP/1.0 knows no 100."""
    data = post(b"", EXPECT, length=5).replace(b"HTTP/1.1", b"HTTP/1.0")
    connection = MemoryConnection()
    connection.receive(data)
    connection.started[0].ask()

    assert b"" == connection.written


def test_a_request_without_a_body_is_not_asked_for_one() -> None:
    """Expect without a body means nothing."""
    assert ok(b"GET / ") == answer_to(get(b"/", EXPECT))


def test_a_pipelined_request_is_asked_when_its_turn_has_come() -> None:
    """A 100 never comes between the parts of another response."""
    connection = MemoryConnection()
    connection.receive(get() + post(b"", EXPECT, length=5))
    first, second = connection.streams
    first.answer(b"x", end=False)
    connection.protocol.send_continue()
    first.send(b"", end=True)
    second.ask()

    assert connection.written.endswith(b"0\r\n\r\n" + CONTINUE)
    assert 1 == connection.written.count(CONTINUE)


# -- Pipelining ---------------------------------------------------------------------


def test_pipelined_requests_are_answered_in_order() -> None:
    """RFC 9112 section 9.3.2, whatever comes in which read."""
    data = get(b"/1") + post(b"hello") + CHUNKED + b"1\r\nx\r\n0\r\n\r\n" + get(b"/4")
    outcome = outcome_of(data)

    assert (
        ok(b"GET /1 ") + ok(b"POST / hello") + ok(b"POST / x") + ok(b"GET /4 ")
    ) == outcome.written


def test_a_request_starts_when_the_one_before_is_answered() -> None:
    """One application instance at a time runs for a connection."""
    connection = MemoryConnection()
    connection.receive(get(b"/1") + get(b"/2"), get(b"/3"))
    for number in range(1, 4):
        assert number == len(connection.started)

        stream = connection.started[-1]
        stream.answer(b"x", end=False)

        assert number == len(connection.started)

        stream.send(b"", end=True)

    assert [b"/1", b"/2", b"/3"] == [s.head.target for s in connection.started]


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_a_full_pipeline_pauses_reading(limit: int) -> None:
    """`limit_pipelined_requests` wait; answers let in more."""
    connection = MemoryConnection(limit_pipelined_requests=limit)
    connection.receive(*[get(b"/%d" % number) for number in range(12)])
    for number in range(12):
        waiting = len(connection.streams) - len(connection.started)

        assert min(limit, 11 - number) == waiting
        assert (waiting < limit) == connection.is_reading()

        connection.started[-1].answer(b"%d" % number)
        connection.turn()

    assert b"".join(ok(b"%d" % number) for number in range(12)) == connection.written
    assert connection.is_reading()


def test_a_pipeline_without_a_limit_reads_on() -> None:
    """0 is no limit."""
    connection = MemoryConnection(limit_pipelined_requests=0)
    connection.receive(*[get()] * 1000)

    assert connection.is_reading()
    assert 1000 == len(connection.streams)


@pytest.mark.parametrize("limit", [1, 2, 16])
@pytest.mark.parametrize("size", [7, 1000, 10**6])
def test_a_small_pipeline_serves_large_bodies(limit: int, size: int) -> None:
    """A body that is held back with the pipeline is read when its turn comes."""
    body = b"0123456789" * 2000
    messages = [post(body), get(), CHUNKED + chunks(body, 999)] * 2
    answers = [ok(b"POST / " + body), ok(b"GET / "), ok(b"POST / " + body)] * 2
    for eager in (True, False):
        connection = MemoryConnection(
            echo, eager=eager, limit_pipelined_requests=limit, deaf_to_pauses=True
        )
        connection.receive(*cut(b"".join(messages), size))

        assert b"".join(answers) == connection.written
        assert connection.is_reading()


TINY = [b"GET /%d HTTP/1.1\r\nHost:\r\n\r\n" % number for number in range(10_000)]


@pytest.mark.parametrize("eager", [True, False])
def test_ten_thousand_requests_in_one_read_are_answered_in_order(eager: bool) -> None:
    """A flood of tiny requests is queued in part, answered in full."""
    most = answered = 0

    def application(stream: FakeStream) -> None:
        nonlocal most, answered
        answered += 1
        most = max(most, len(connection.streams) - answered)
        stream.answer(stream.head.target)

    connection = MemoryConnection(application, eager=eager)
    connection.receive(b"".join(TINY))

    assert b"".join(ok(b"/%d" % n) for n in range(10_000)) == connection.written
    # The limit, and what came in the same 16 KiB.
    assert most <= 16 + FEED_BYTES // len(TINY[0])
    assert connection.is_reading()


def test_a_flood_is_held_while_the_first_request_is_answered() -> None:
    """Requests that wait are bounded, and so is what is read of the flood."""
    connection = MemoryConnection()
    connection.receive(b"".join(TINY), b"".join(TINY))

    assert not connection.is_reading()
    assert len(connection.streams) <= 17 + FEED_BYTES // len(TINY[0])

    for number in range(20_000):
        connection.streams[number].answer(b"/%d" % (number % 10_000))
        connection.turn()

    assert b"".join(ok(b"/%d" % n) for n in range(10_000)) * 2 == connection.written


# -- Errors -------------------------------------------------------------------------

ODD = {
    "two-hosts": (get(b"/", b"Host: a"), b"400 Bad Request"),
    "no-host": (b"GET / HTTP/1.1\r\n\r\n", b"400 Bad Request"),
    "malformed-host": (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", b"400 Bad Request"),
    "length-and-chunked": (
        get(b"/", b"Content-Length: 5", b"Transfer-Encoding: chunked"),
        b"400 Bad Request",
    ),
    "two-lengths": (
        get(b"/", b"Content-Length: 5", b"Content-Length: 6"),
        b"400 Bad Request",
    ),
    "control": (get(b"/", b"X: \x01"), b"400 Bad Request"),
    "bare-lf": (b"GET / HTTP/1.1\nHost: a\n\n", b"400 Bad Request"),
    "obs-fold": (get(b"/", b"X: a", b" b"), b"400 Bad Request"),
    "asterisk": (get(b"*"), b"400 Bad Request"),
    "fragment": (get(b"/a#b"), b"400 Bad Request"),
    "tls": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", b"400 Bad Request"),
    "2.0": (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", b"505 HTTP Version Not Supported"),
    "0.9": (b"GET /\r\n\r\n", b"505 HTTP Version Not Supported"),
    "1.2": (b"GET / HTTP/1.2\r\nHost: a\r\n\r\n", b"505 HTTP Version Not Supported"),
    "method": (get(method=b"FOO"), b"501 Not Implemented"),
    "connect": (b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", b"501 Not Implemented"),
    "coding": (get(b"/", b"Transfer-Encoding: gzip, chunked"), b"501 Not Implemented"),
    "long-target": (get(b"/" + b"a" * 40), b"414 "),
    "long-header": (get(b"/", b"X: " + b"a" * 90), b"431 "),
    "many-headers": (get(b"/", *[b"a:"] * 7), b"431 "),
    "long-body": (post(b"", length=11), b"413 "),
}
SMALL_LIMITS = {
    "limit_request_line": 40,
    "limit_request_header": 90,
    "limit_request_fields": 7,
    "limit_request_body": 10,
}


@pytest.mark.parametrize(("data", "status"), ODD.values(), ids=ODD)
@pytest.mark.parametrize("rest", [b"", get(), b"x" * 100], ids=["", "get", "x"])
def test_odd_input_is_answered_and_ends_the_connection(
    data: bytes, status: bytes, rest: bytes
) -> None:
    """One line of plain text, `Connection: close`, and what follows is ignored."""
    outcome = outcome_of(data + rest, echo, **SMALL_LIMITS)

    [response], left = responses_in(outcome.written)
    assert outcome.written.startswith(b"HTTP/1.1 " + status)
    assert b"" == left
    assert (b"connection", b"close") in response.headers
    assert response.body.endswith(b".\n")
    assert 1 == response.body.count(b"\n")
    assert "half" == outcome.end
    assert [] == outcome.streams


NO_REQUEST = {
    "preface": b"INVALID CONNECTION PREFACE\r\n\r\n",
    "another protocol": b"EHLO example.org\r\n",
    "a word": b"hello\n",
    "behind blank lines": b"\r\n\r\nhello\r\n",
    "no version": b"FOO /\r\nHost: a\r\n\r\n",
    "endless": b"A" * (FEED_BYTES + 1),
}


@pytest.mark.parametrize("data", NO_REQUEST.values(), ids=NO_REQUEST)
def test_a_first_line_that_is_no_request_is_taken_for_http_2(data: bytes) -> None:
    """RFC 9113 section 3.4: its preface is invalid, which is a connection error."""
    goaway = b"\0\0\0\0\0\0\0\1"  # of no stream, PROTOCOL_ERROR

    outcome = outcome_of(data)

    assert outcome.written[3:4] == b"\4", "SETTINGS"
    assert goaway in outcome.written
    assert b"HTTP/1" not in outcome.written
    assert "half" == outcome.end
    assert [] == outcome.streams


@pytest.mark.parametrize("data", NO_REQUEST.values(), ids=NO_REQUEST)
def test_a_first_line_that_is_no_request_is_refused_without_http_2(
    data: bytes,
) -> None:
    """In words of HTTP/1, which is all that is spoken."""
    written = answer_to(data, http2=HTTP2Settings(http="1.1"))

    assert written.startswith(b"HTTP/1.1 400 Bad Request")
    assert written.endswith(b"This is not HTTP.\n")


@pytest.mark.parametrize("data", NO_REQUEST.values(), ids=NO_REQUEST)
def test_a_first_line_that_is_no_request_is_refused_over_tls(data: bytes) -> None:
    """There HTTP/2 would have been agreed on (RFC 9113 section 3.2)."""

    class Encrypted(MemoryTransport):
        ssl_object = None

    connection = MemoryConnection(transport=Encrypted())
    connection.receive(data)

    assert connection.written.startswith(b"HTTP/1.1 400 Bad Request")


def test_half_a_first_line_is_waited_for() -> None:
    """Only its end tells what it is; it has the time that any head has."""
    connection = MemoryConnection(timeout_request_header=5)
    connection.receive(b"FOO / HT")
    assert b"" == connection.written

    connection.receive(b"TP/1.1\r")
    connection.wait(6)

    assert connection.written.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(("data", "status"), ODD.values(), ids=ODD)
def test_odd_input_is_answered_after_the_requests_before(
    data: bytes, status: bytes
) -> None:
    """Good requests get their answers first, and none of those says close."""
    if data == ODD["tls"][0]:
        status = b"501 "  # in the middle of HTTP it is a method, however odd
    before = get(b"/1") + post(b"hello") + get(b"/3")
    outcome = outcome_of(before + data, echo, **SMALL_LIMITS)

    answers = ok(b"GET /1 ") + ok(b"POST / hello") + ok(b"GET /3 ")
    assert outcome.written.startswith(answers + b"HTTP/1.1 " + status)
    assert "half" == outcome.end


def test_a_rejection_waits_for_the_answers_before_it() -> None:
    """Slow applications aren't cut short by what comes behind their request."""
    connection = MemoryConnection()
    connection.receive(get(b"/1") + get(b"/2"), b"\x00", get())

    assert b"" == connection.written

    connection.started[-1].answer()
    connection.started[-1].answer(b"x", end=False)
    connection.started[-1].send(b"", end=True)

    head, body = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"1\r\nx"
    answers = OK + head + body + b"\r\n0\r\n\r\n"
    assert connection.written.startswith(answers + b"HTTP/1.1 501 ")
    assert 2 == len(connection.started)


def test_a_rejection_waits_for_a_slow_peer() -> None:
    """Answers that the peer hasn't taken yet don't let the rejection overtake."""
    transport = MemoryTransport(high_water_bytes=1)
    connection = MemoryConnection(hello, transport=transport)
    connection.receive(get() * 3 + b"\x00")

    assert OK == connection.written

    for _ in range(3):
        connection.take()

    assert connection.written.startswith(OK * 3 + b"HTTP/1.1 501 ")


def test_after_a_rejection_the_peer_may_go_on_for_two_seconds() -> None:
    """It gets to reading the answer although it is still sending."""
    connection = MemoryConnection()
    connection.receive(b"\x16\x03", b"x" * 10**5)

    assert "half" == connection.transport.end

    connection.wait(4)

    assert connection.is_lost()


BAD_CHUNK = b"5\r\nhello!\r\n"


def test_a_fault_behind_a_head_in_the_same_read_starts_no_application() -> None:
    """What is known to be broken isn't given to the application at all."""
    connection = MemoryConnection()
    connection.receive(get(b"/1") + CHUNKED + BAD_CHUNK)

    assert [b"/1"] == [stream.head.target for stream in connection.started]

    connection.started[0].answer()

    assert 1 == len(connection.started)
    assert connection.written.startswith(OK + b"HTTP/1.1 400 ")


def test_a_broken_body_is_answered_in_the_applications_stead() -> None:
    """An application that is still reading gets no chance to answer."""
    written, end = seen_by_peer(CHUNKED + BAD_CHUNK + get())

    assert error(b"400 Bad Request", b"Expected LF after chunk data") == written or (
        written.startswith(b"HTTP/1.1 400 ")
    )
    assert 1 == written.count(b"HTTP/1.1")
    assert "half" == end

    connection = MemoryConnection()
    connection.receive(CHUNKED, BAD_CHUNK)

    assert ["body", "400"] == connection.started[0].told


def test_a_broken_body_breaks_off_a_response_that_has_begun() -> None:
    """The peer sees that the response is incomplete."""
    connection = MemoryConnection()
    connection.receive(CHUNKED)
    connection.started[0].answer(b"x", end=False)
    connection.receive(BAD_CHUNK)

    assert connection.written.endswith(b"\r\n1\r\nx\r\n")
    assert "closing" == connection.transport.end


def test_a_request_that_was_answered_gets_no_second_answer() -> None:
    """A body that stops coming after the answer only ends the connection."""
    connection = MemoryConnection(hello, timeout_request_body=3)
    connection.receive(post(b"hel", length=5))
    connection.wait(5)

    assert OK == connection.written
    assert "half" == connection.transport.end


def test_what_is_behind_a_dropped_body_is_the_next_request() -> None:
    """An error there is an error of its own, and gets its own answer."""
    written, end = seen_by_peer(post(b"hello") + b"\x00", hello)

    assert written.startswith(OK + b"HTTP/1.1 501 ")
    assert "half" == end


def test_a_body_beyond_its_limit_is_refused() -> None:
    """413 to the chunk that is too many, in the application's stead."""
    data = CHUNKED + b"8\r\n12345678\r\n3\r\n9ab\r\n0\r\n\r\n"
    written, end = seen_by_peer(data, limit_request_body=10)

    assert written.startswith(b"HTTP/1.1 413 ")
    assert 1 == written.count(b"HTTP/1.1")
    assert "half" == end

    fits = CHUNKED + b"8\r\n12345678\r\n2\r\n9a\r\n0\r\n\r\n"

    assert ok(b"POST / 123456789a") == answer_to(fits, limit_request_body=10)


@pytest.mark.parametrize("limit", [1, 3])
def test_connections_beyond_the_limit_get_a_503(limit: int) -> None:
    """The limit counts open connections; one that ends makes room for another."""
    connections: set[LiveConnection] = set()

    def connect() -> MemoryConnection:
        return MemoryConnection(hello, connections=connections, limit_connections=limit)

    held = [connect() for _ in range(limit)]
    refused = connect()
    refused.receive(get())

    assert refused.written == error(
        b"503 Service Unavailable", b"There are too many connections."
    )
    assert "half" == refused.transport.end
    assert [] == refused.started

    refused.wait(4)

    assert refused.transport.lost

    held[0].lose()
    served = connect()
    served.receive(get())

    assert OK == served.written


def test_the_size_of_a_slice_does_not_hide_a_large_head() -> None:
    """A head behind a large body is measured like any other."""
    body = b"x" * 33 * KIB
    large = get(b"/", b"X: " + b"y" * 40 * KIB)
    for size in (1000, 10**6):
        connection = MemoryConnection(echo, limit_request_header=34 * KIB)
        connection.receive(*cut(post(body) + large, size))

        assert connection.written.startswith(ok(b"POST / " + body) + b"HTTP/1.1 431 ")


def test_a_chunk_extension_of_64_kb_is_refused_in_any_delivery() -> None:
    """It makes no difference that it comes in one large read."""
    data = CHUNKED + b"5;" + b"a" * 64 * KIB + b"\r\nhello\r\n0\r\n\r\n"
    for size in (1000, FEED_BYTES, 10**6):
        connection = MemoryConnection(echo)
        connection.receive(*cut(data, size))

        assert connection.written.startswith(b"HTTP/1.1 400 ")


# -- Deadlines ----------------------------------------------------------------------


def test_a_silent_connection_is_closed_without_a_word() -> None:
    """Nothing was asked, so nothing is answered."""
    connection = MemoryConnection(timeout_request_header=10)
    connection.wait(10)

    assert "" == connection.transport.end

    connection.wait(2)

    assert "closing" == connection.transport.end
    assert connection.is_lost()
    assert b"" == connection.written


@pytest.mark.parametrize("before", [b"", get()], ids=["first", "second"])
def test_a_head_that_trickles_in_is_answered_with_408(before: bytes) -> None:
    """Slowloris: bytes now and then don't extend the time for a head."""
    connection = MemoryConnection(hello, timeout_request_header=10)
    connection.receive(before)
    for byte in get(b"/", b"X: " + b"y" * 100)[:10]:
        connection.receive(bytes([byte]))
        connection.wait(1)

    assert connection.written == (OK if before else b"")

    connection.receive(b"/")
    connection.wait(2)

    assert connection.written.endswith(
        error(b"408 Request Timeout", b"The request took too long.")
    )
    assert "half" == connection.transport.end

    connection.wait(4)

    assert connection.is_lost()


def test_blank_lines_do_not_extend_the_time_for_a_request() -> None:
    """A connection can't be kept open by line breaks; they begin no request."""
    connection = MemoryConnection(timeout_request_header=10)
    for _ in range(12):
        connection.receive(b"\r\n")
        connection.wait(1)

    assert connection.is_lost()
    assert b"" == connection.written


def test_an_idle_connection_is_closed_at_keep_alive() -> None:
    """Idle connections cost memory; the client opens another."""
    connection = MemoryConnection(hello, timeout_keep_alive=5)
    for _ in range(3):
        connection.wait(4)
        connection.receive(get())
    connection.wait(5)

    assert "" == connection.transport.end

    connection.wait(2)

    assert OK * 3 == connection.written
    assert connection.is_lost()


def test_the_keep_alive_time_begins_with_the_end_of_a_dropped_body() -> None:
    """An early answer doesn't shorten the time in which the body may come."""
    connection = MemoryConnection(hello, timeout_keep_alive=2, timeout_request_body=30)
    connection.receive(post(b"", length=5))
    connection.wait(10)
    connection.receive(b"hello")
    connection.wait(1)
    connection.receive(get())

    assert OK * 2 == connection.written

    connection.wait(4)

    assert connection.is_lost()


def test_a_head_that_began_during_a_response_has_its_time_from_there() -> None:
    """A slow application doesn't use up the time of the next request's head."""
    connection = MemoryConnection(timeout_request_header=10)
    connection.receive(get(), get()[:9])
    connection.wait(60)
    connection.started[0].answer()
    connection.wait(9)
    connection.receive(get()[9:])

    assert 2 == len(connection.started)
    assert OK == connection.written


def test_a_slow_application_may_take_its_time() -> None:
    """No idle deadline runs while a request is being answered."""
    connection = MemoryConnection()
    connection.receive(post(b"hello"))
    connection.wait(300)
    connection.started[0].answer()

    assert OK == connection.written
    assert "" == connection.transport.end


def test_a_body_that_stops_coming_is_answered_with_408() -> None:
    """The longest silence within a body, each piece begins anew."""
    connection = MemoryConnection(timeout_request_body=30)
    connection.receive(post(b"", length=10))
    for _ in range(5):
        connection.wait(29)
        connection.receive(b"x")

    assert b"" == connection.written

    connection.wait(32)

    assert connection.written == error(
        b"408 Request Timeout", b"The request body took too long."
    )
    assert "408" == connection.started[0].told[-1]
    assert "half" == connection.transport.end


def test_a_body_that_stops_coming_breaks_off_a_response() -> None:
    """When the response has begun, the connection is all that can be ended."""
    connection = MemoryConnection(timeout_request_body=30)
    connection.receive(post(b"", length=10))
    connection.started[0].answer(b"x", end=False)
    connection.wait(32)

    assert connection.written.endswith(b"\r\n1\r\nx\r\n")
    assert connection.is_lost()


def test_the_body_of_a_waiting_request_may_stop_coming_too() -> None:
    """The answer before it is awaited, then comes the 408."""
    connection = MemoryConnection(timeout_request_body=30)
    connection.receive(get() + post(b"", length=10))
    connection.wait(60)

    assert b"" == connection.written

    connection.started[0].answer()

    assert connection.written.startswith(OK + b"HTTP/1.1 408 ")
    assert 1 == len(connection.started)


def test_silence_is_no_fault_of_a_client_that_waits_to_be_asked() -> None:
    """A slow application may ask for the body when it likes."""
    connection = MemoryConnection(timeout_request_body=30)
    connection.receive(post(b"", EXPECT, length=5))
    connection.wait(100)
    connection.started[0].ask()

    assert CONTINUE == connection.written

    connection.wait(29)

    assert CONTINUE == connection.written

    connection.wait(3)

    assert connection.written.startswith(CONTINUE + b"HTTP/1.1 408 ")


def test_silence_is_no_fault_of_a_client_that_is_held_up() -> None:
    """While reading is paused, it is the application that is slow."""
    connection = MemoryConnection(timeout_request_body=30)
    connection.receive(post(b"", length=10**6), b"x" * 70 * KIB)

    assert not connection.is_reading()

    connection.wait(100)

    assert b"" == connection.written

    connection.started[0].take()

    assert connection.is_reading()

    connection.wait(32)

    assert connection.written.startswith(b"HTTP/1.1 408 ")


def test_silence_is_no_fault_of_a_client_whose_pipeline_is_full() -> None:
    """What is held back isn't missing."""
    connection = MemoryConnection(timeout_request_body=30, limit_pipelined_requests=1)
    connection.receive(get() + post(b"hello"), b"")
    connection.receive(get() + get(), post(b"hello"))
    connection.wait(100)
    while not connection.started[-1].over:
        connection.started[-1].answer()
        connection.turn()

    assert OK * 5 == connection.written


def test_silence_is_no_fault_of_a_client_whose_body_is_held_back() -> None:
    """What was read already, and waits behind a full pipeline, has come."""
    body = b"x" * 40 * KIB
    connection = MemoryConnection(timeout_request_body=30, limit_pipelined_requests=1)
    connection.receive(get() + post(body[: 20 * KIB]) + post(body))
    for number in range(2):
        connection.wait(100)
        connection.started[number].answer()
    connection.wait(100)

    assert OK * 2 == connection.written
    assert body == connection.started[2].body


def test_an_exchange_that_takes_too_long_is_answered_with_503() -> None:
    """Daphne's `--http-timeout`: from the start of the application on."""
    connection = MemoryConnection(http_timeout=20)
    connection.receive(get() + get())
    connection.wait(20)

    assert b"" == connection.written

    connection.wait(2)

    assert connection.written == error(
        b"503 Service Unavailable", b"The application took too long."
    )
    assert ["503"] == connection.started[0].told
    assert 1 == len(connection.started)
    assert "half" == connection.transport.end


def test_an_exchange_that_takes_too_long_is_cut_when_the_response_has_begun() -> None:
    """The peer sees that the response is incomplete."""
    connection = MemoryConnection(http_timeout=20)
    connection.receive(get())
    connection.wait(15)
    connection.started[0].answer(b"x", end=False)
    connection.wait(7)

    assert connection.written.endswith(b"\r\n1\r\nx\r\n")
    assert connection.is_lost()


def test_each_exchange_has_its_own_time() -> None:
    """The time of a pipelined request begins with its turn."""
    connection = MemoryConnection(http_timeout=20)
    connection.receive(get() + get() + get())
    for _ in range(3):
        connection.wait(15)
        connection.started[-1].answer()

    assert OK * 3 == connection.written


def test_several_deadlines_at_once_give_one_answer() -> None:
    """The body is too late and the application too slow: the client is told once."""
    connection = MemoryConnection(
        http_timeout=30, timeout_request_body=30, timeout_request_header=30
    )
    connection.receive(post(b"", length=5))
    connection.clock.advance(100)
    connection.wait(3)

    assert 1 == connection.written.count(b"HTTP/1.1")
    assert connection.written.startswith(b"HTTP/1.1 408 ")
    assert connection.transport.end in ("half", "closing")


def test_zero_switches_deadlines_off() -> None:
    """Each timeout of 0 waits for ever."""
    off: dict[str, Any] = {
        "timeout_keep_alive": 0,
        "timeout_request_header": 0,
        "timeout_request_body": 0,
        "timeout_send": 0,
        "http_timeout": 0,
    }
    for pieces in (
        [],
        [b"GE"],
        [get()],
        [get(), b"GE"],
        [post(b"", length=5)],
        [get(), post(b"", length=5)],
    ):
        transport = MemoryTransport(high_water_bytes=10)
        connection = MemoryConnection(answering(end=False), transport=transport, **off)
        connection.receive(*pieces)
        connection.wait(1000)

        assert "" == transport.end


def test_without_a_header_timeout_a_head_may_trickle_in_behind_a_response() -> None:
    """The keep-alive time ends with the first byte of a request."""
    connection = MemoryConnection(hello, timeout_request_header=0)
    connection.receive(get(), b"GE")
    connection.wait(100)
    connection.receive(get()[2:])

    assert OK * 2 == connection.written


def test_a_lost_connection_has_no_deadlines() -> None:
    """Nothing is left on the wheel, and nothing happens later."""
    for pieces in ([], [b"GE"], [get()], [post(b"x", length=5)]):
        connection = MemoryConnection(http_timeout=20)
        connection.receive(*pieces)
        connection.lose()

        assert 0 == len(connection.wheel)

        connection.wait(100)

        assert b"" == connection.written


# -- Flow control towards the peer ---------------------------------------------------


def test_send_waits_while_the_peer_is_slow() -> None:
    """`await send()` comes back when the peer has taken what there was."""
    transport = MemoryTransport(high_water_bytes=64 * KIB)
    connection = MemoryConnection(transport=transport)
    connection.receive(get())
    [stream] = connection.started
    stream.answer(b"x", end=False)

    assert HandTask(stream.sender.drained()).done

    stream.send(b"x" * 65 * KIB)
    waiting = [HandTask(stream.sender.drained()) for _ in range(2)]

    assert stream.sender.congested
    assert [False, False] == [task.done for task in waiting]

    connection.take()
    for task in waiting:
        task.step()

    assert [True, True] == [task.done for task in waiting]
    assert not connection.protocol.congested


@pytest.mark.parametrize("how", ["lost", "stopped", "cancelled"])
def test_send_waits_no_longer_than_the_connection_lives(how: str) -> None:
    """An application is never left waiting for a peer that has gone."""
    transport = MemoryTransport(high_water_bytes=1)
    connection = MemoryConnection(transport=transport)
    connection.receive(get())
    [stream] = connection.started
    stream.answer(b"xx", end=False)
    waiting = stream.sender.drained()
    task = HandTask(waiting)
    if how == "lost":
        connection.lose()
    elif how == "stopped":
        connection.protocol.stop()
        connection.turn()
    else:
        waiting.cancel()  # type: ignore[attr-defined]
        connection.take()
        return
    task.step()

    assert task.done
    assert "disconnected" == stream.told[-1]


def test_a_peer_that_takes_nothing_is_dropped() -> None:
    """A stalled response is ended for good after `timeout_send`."""
    transport = MemoryTransport(high_water_bytes=1)
    connection = MemoryConnection(transport=transport, timeout_send=60)
    connection.receive(get())
    connection.started[0].answer(b"x" * 1000, end=False)
    connection.wait(60)

    assert "" == transport.end

    connection.wait(2)

    assert "aborted" == transport.end
    assert "disconnected" == connection.started[0].told[-1]


def test_a_peer_that_takes_a_little_now_and_then_is_not_dropped() -> None:
    """Slow is not dead: each look finds less than the one before."""
    transport = MemoryTransport(high_water_bytes=1)
    connection = MemoryConnection(transport=transport, timeout_send=60)
    connection.receive(get())
    connection.started[0].answer(b"x" * 1000, end=False)
    for _ in range(10):
        connection.wait(55)
        connection.take(10)

    assert "" == transport.end

    connection.wait(130)

    assert "aborted" == transport.end


@pytest.mark.parametrize("size", [10_000, 500_000])
def test_a_slow_peer_on_a_transport_of_twisted_is_not_dropped(size: int) -> None:
    """Twisted's own transports tell how much is left, though by no method."""
    descriptor: Any = FileDescriptor(cast("IReactorFDSet", object()))
    descriptor.connected = True
    descriptor.startWriting = descriptor.stopWriting = lambda: None
    descriptor.writeSomeData = lambda data: min(100, len(data))
    descriptor.getPeer = descriptor.getHost = lambda: UNIXAddress(None)
    aborts: list[str] = []
    descriptor.abortConnection = lambda: aborts.append("aborted")
    connection = MemoryConnection(timeout_send=60)
    protocol = HTTPFactory(connection.protocol._context).buildProtocol(
        UNIXAddress(None)
    )
    assert isinstance(protocol, HTTP1Protocol)
    protocol.makeConnection(descriptor)
    protocol.dataReceived(get())
    connection.streams[-1].answer(b"x" * size, end=False)
    connection.streams[-1].send(b"x" * 70_000)

    assert protocol.congested

    for _ in range(10):
        connection.wait(55)
        descriptor.doWrite()

    assert [] == aborts

    connection.wait(130)

    assert ["aborted"] == aborts


def test_a_close_that_takes_too_long_is_an_abort() -> None:
    """A last answer that nobody takes doesn't keep the connection for ever."""
    transport = MemoryTransport(high_water_bytes=10**6)
    connection = MemoryConnection(hello, transport=transport, timeout_send=60)
    connection.receive(get(b"/", b"Connection: close"))
    connection.wait(60)

    assert "closing" == transport.end

    connection.wait(2)

    assert "aborted" == transport.end


def test_a_peer_that_reads_no_answers_gets_no_more_of_them() -> None:
    """A client that only asks can't fill the memory with answers."""
    transport = MemoryTransport(high_water_bytes=64 * KIB)
    connection = MemoryConnection(answering(body=b"x" * 10_000), transport=transport)
    connection.receive(*[get()] * 1000)

    assert len(connection.started) <= 8
    assert len(connection.streams) <= 8 + 17
    assert not transport.reading

    for _ in range(1000):
        connection.take()

    assert 1000 == len(connection.started)
    assert ok(b"x" * 10_000) * 1000 == connection.written
    assert transport.reading


def test_a_long_download_is_not_taken_for_idling() -> None:
    """The keep-alive time begins when the answer has been taken, more or less."""
    transport = MemoryTransport(high_water_bytes=64 * KIB)
    connection = MemoryConnection(
        answering(body=b"x" * 10**6), transport=transport, timeout_keep_alive=5
    )
    connection.receive(get())
    for _ in range(30):
        connection.wait(10)
        connection.take(1000)

    assert "" == transport.end

    connection.take()
    connection.receive(get())

    assert 2 == len(connection.started)

    connection.take()
    connection.wait(12)

    assert transport.lost


# -- Breaking off -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "options"),
    [
        (get(), {"length": 10}),
        (get(), {}),
        (post(b"", length=5), {}),
        (get() + get(), {}),
        (get() + post(b"", length=5), {}),
    ],
    ids=["sized", "chunked", "body", "pipelined", "pipelined-body"],
)
def test_an_abort_shows_that_the_response_is_incomplete(
    request_: bytes, options: dict[str, Any]
) -> None:
    """The connection closes with bytes or chunks missing, and nothing else starts."""
    connection = MemoryConnection()
    connection.receive(request_)
    [stream] = connection.started
    stream.answer(b"x", end=False, **options)
    stream.abort()
    written = connection.written

    assert "closing" == connection.transport.end

    connection.receive(b"hello", get())
    [response], _ = responses_in(connection.written, closed=True)

    assert not response.complete
    assert written == connection.written
    assert 1 == len(connection.started)


def test_an_abort_resets_a_response_that_would_end_with_the_connection() -> None:
    """A regular close would look like the regular end of the body."""
    connection = MemoryConnection()
    head = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n"
    connection.receive(head + b"\r\n" + head + b"Content-Length: 5\r\n\r\n")
    [stream] = connection.started
    stream.answer(b"x", end=False)
    stream.abort()

    assert "aborted" == connection.transport.end

    # It may take a turn of the loop until the connection is gone.
    connection.protocol.dataReceived(b"hello" + get())
    connection.protocol.drain()
    connection.turn()

    assert connection.is_lost()
    assert [] == stream.told
    assert 1 == len(connection.started)


def test_an_aborted_connection_stays_aborted() -> None:
    """Deadlines and bytes that come while it closes change nothing."""
    transport = MemoryTransport(high_water_bytes=1)
    connection = MemoryConnection(
        transport=transport,
        timeout_request_body=3,
        http_timeout=5,
        timeout_send=0,
    )
    connection.receive(get() + post(b"he", length=5))
    [stream] = connection.started
    stream.answer(b"xx", end=False)
    waiting = HandTask(stream.sender.drained())
    stream.abort()
    waiting.step()

    assert waiting.done

    written = connection.written
    connection.wait(10)
    connection.protocol.dataReceived(b"llo" + get())
    connection.wait(100)
    connection.drain()

    assert written == connection.written
    assert "closing" == transport.end
    assert 1 == len(connection.started)

    connection.take()

    assert transport.lost


# -- Losing the connection ------------------------------------------------------------


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [b"\r\n"],
        [b"GET / HT"],
        [get()],
        [get() + get()],
        [get(), b"GET"],
        [get() * 2000],
        [post(b"hel", length=5)],
        [post(b"", length=10**6), b"x" * 10**5],
        [CHUNKED, b"5\r\nhe"],
        [get() + b"\x00"],
        [b"\x00"],
    ],
)
@pytest.mark.parametrize(
    "application",
    [silent, answering(end=False), hello],
    ids=["silent", "begun", "done"],
)
def test_a_connection_may_be_lost_at_any_time(
    pieces: list[bytes], application: Application
) -> None:
    """The application that runs is told, once; nobody else, and nothing else starts."""
    connection = MemoryConnection(application, http_timeout=20)
    connection.receive(*pieces)
    started = connection.started
    told = [list(stream.told) for stream in started]
    running = [stream for stream in started if not stream.over]
    connection.lose()

    assert connection.protocol not in connection.connections
    assert 0 == len(connection.wheel)
    for stream, before in zip(started, told, strict=True):
        assert before + ["disconnected"] * (stream in running) == stream.told

    connection.protocol.dataReceived(get())
    connection.protocol.drain()
    connection.protocol.stop()
    connection.wait(100)

    assert started == connection.started


def test_a_body_is_lost_with_its_connection() -> None:
    """A client that goes away in mid-body gives a disconnect, never a false end."""
    connection = MemoryConnection()
    connection.receive(post(b"hel", length=5))
    connection.lose()
    [stream] = connection.started

    assert "disconnected" == stream.told[-1]
    assert not stream.complete


class HastyTransport(PlainTransport):
    """One that tells of the end within the call that asks for it."""

    protocol: HTTP1Protocol

    def loseConnection(self) -> None:
        """Close, at once."""
        super().loseConnection()
        self._lose()

    def abortConnection(self) -> None:
        """Abort, at once."""
        super().abortConnection()
        self._lose()

    def _lose(self) -> None:
        self.lost = True
        self.protocol.connectionLost(Failure(ConnectionDone()))


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [b"GE"],
        [get()],
        [b"\x00"],
        [post(b"", length=10**6)],
        [post(b"hel", length=5), b"lo" + get()],
        [get(b"/", b"Connection: close") + get() * 2000],
        [get() * 2000],
        [CHUNKED + BAD_CHUNK],
        [CHUNKED, BAD_CHUNK],
    ],
)
@pytest.mark.parametrize("eager", [True, False])
def test_a_transport_may_be_gone_within_the_call(
    pieces: list[bytes], eager: bool
) -> None:
    """Test transports, and those of some endpoint plugins, waste no turn."""
    for application in (
        silent,
        hello,
        echo,
        answering(close=True),
        answering(end=False),
    ):
        for after in ("drain", "stop", "wait"):
            transport = HastyTransport()
            connection = MemoryConnection(
                application,
                transport=transport,
                eager=eager,
                http_timeout=20,
                timeout_request_body=10,
            )
            transport.protocol = connection.protocol
            connection.receive(*pieces)
            if after == "wait":
                connection.wait(40)
            else:
                getattr(connection.protocol, after)()
            connection.wait(3)

            assert transport.lost or after == "drain"
            assert len(connection.wheel) <= (not transport.lost)


def test_what_an_application_takes_after_the_loss_does_no_harm() -> None:
    """A body may be read to its end although the client has gone."""
    connection = MemoryConnection()
    connection.receive(post(b"", length=10**6), b"x" * 70 * KIB)

    assert not connection.is_reading()

    connection.lose()
    connection.protocol.body_consumed(70 * KIB)


# -- Draining -----------------------------------------------------------------------


@pytest.mark.parametrize("pieces", [[], [get()], [b"GE"], [get(), b"\r\n"]])
def test_draining_closes_an_idle_connection_at_once(pieces: list[bytes]) -> None:
    """A server that stops doesn't wait for keep-alive."""
    connection = MemoryConnection(hello)
    connection.receive(*pieces)
    connection.drain()

    assert "closing" == connection.transport.end
    assert connection.is_lost()


@pytest.mark.parametrize("before", [1, 2, 5])
def test_at_the_last_call_the_next_answer_announces_the_close(before: int) -> None:
    """A client that asks again and again never finds its connection closed."""
    connection = MemoryConnection()
    for count in range(before):
        connection.receive(get())
        connection.started[count].answer()
    connection.protocol.last_call()
    connection.turn()

    assert "" == connection.transport.end

    connection.receive(get() + get())
    connection.started[before].answer()
    connection.turn()

    assert OK * before + OK_CLOSE == connection.written
    assert connection.is_lost()
    assert before + 1 == len(connection.started)


def test_at_the_last_call_a_request_that_comes_again_is_looked_at() -> None:
    """Its answer, too, says that it is the last one, although its bytes are known."""
    connection = MemoryConnection(answering())
    for _ in range(4):
        connection.receive(get())
    connection.protocol.last_call()
    connection.receive(get())

    assert OK * 4 + OK_CLOSE == connection.written
    assert connection.is_lost()


def test_the_last_call_is_the_end_for_who_has_asked() -> None:
    """The answer to what was received by then announces the close."""
    connection = MemoryConnection()
    connection.receive(get())
    connection.protocol.last_call()
    connection.started[0].answer()
    connection.turn()
    connection.protocol.last_call()

    assert OK_CLOSE == connection.written
    assert connection.is_lost()


def test_draining_lets_a_request_be_answered() -> None:
    """What is in flight is completed, and its answer announces the close."""
    connection = MemoryConnection()
    connection.receive(get())
    connection.drain()
    connection.receive(get())

    assert "" == connection.transport.end

    connection.started[0].answer()
    connection.turn()

    assert OK_CLOSE == connection.written
    assert connection.is_lost()
    assert 1 == len(connection.streams)


def test_draining_lets_a_response_go_on() -> None:
    """A stream that has begun is completed; it can't announce the close any more."""
    connection = MemoryConnection()
    connection.receive(get())
    connection.started[0].answer(b"x", end=False)
    connection.drain()
    connection.started[0].send(b"y", end=True)
    connection.turn()

    assert connection.written.endswith(b"1\r\ny\r\n0\r\n\r\n")
    assert connection.is_lost()


def test_draining_answers_what_was_pipelined() -> None:
    """Requests that were read are answered, later ones aren't read."""
    connection = MemoryConnection()
    connection.receive(get() + get(), get())
    connection.drain()
    connection.receive(get() + get()[:9])
    for stream in connection.streams:
        stream.answer()
    connection.turn()

    assert OK * 2 + OK_CLOSE == connection.written
    assert connection.is_lost()


@pytest.mark.parametrize("limit", [1, 16])
def test_draining_drops_what_was_held_back(limit: int) -> None:
    """No answer comes behind one that announced the close."""
    connection = MemoryConnection(limit_pipelined_requests=limit)
    connection.receive(b"".join(TINY))
    waiting = len(connection.streams)
    connection.drain()
    while not connection.started[-1].over:
        connection.started[-1].answer()
        connection.turn()

    assert OK * (waiting - 1) + OK_CLOSE == connection.written
    assert connection.is_lost()


@pytest.mark.parametrize("limit", [1, 16])
@pytest.mark.parametrize("rest", [b"", get(), b"\x00", get() * 2000])
def test_draining_lets_a_body_come(rest: bytes, limit: int) -> None:
    """An upload in flight is completed, and what is behind it ignored."""
    connection = MemoryConnection(echo, eager=False, limit_pipelined_requests=limit)
    connection.receive(post(b"hel", length=5))
    connection.drain()
    connection.receive(b"lo" + rest)

    assert ok(b"POST / hello", b"connection: close") == connection.written
    assert connection.is_lost()


def test_draining_lets_a_body_come_that_is_held_back() -> None:
    """A pipelined upload is completed, too."""
    body = b"x" * 50 * KIB
    connection = MemoryConnection(limit_pipelined_requests=1)
    connection.receive(get() + post(body) + get())
    connection.drain()
    connection.started[0].answer()
    connection.turn()
    second = connection.started[1]

    assert body == second.body

    second.answer()
    connection.turn()

    assert OK + OK_CLOSE == connection.written
    assert connection.is_lost()


@pytest.mark.parametrize("rest", [b"", get(), b"\x00"])
def test_draining_reads_the_rest_of_a_body_that_was_answered(rest: bytes) -> None:
    """The answer has been given; the connection ends with the body."""
    connection = MemoryConnection(hello)
    connection.receive(post(b"hel", length=5))
    connection.drain()

    assert "" == connection.transport.end

    connection.receive(b"lo" + rest)

    assert OK == connection.written
    assert connection.is_lost()


def test_draining_gives_up_on_a_body_that_does_not_come() -> None:
    """Even then no second answer is given."""
    connection = MemoryConnection(hello, timeout_request_body=3)
    connection.receive(post(b"hel", length=5))
    connection.drain()
    connection.wait(10)

    assert OK == connection.written
    assert connection.is_lost()


def test_draining_waits_for_a_slow_peer() -> None:
    """Requests that wait for the peer to take answers have been received."""
    transport = MemoryTransport(high_water_bytes=1)
    connection = MemoryConnection(hello, transport=transport)
    connection.receive(get() + get())

    assert 1 == len(connection.started)

    connection.drain()

    assert "" == transport.end

    connection.take()
    connection.take()

    assert OK + OK_CLOSE == connection.written
    assert transport.lost


def test_draining_twice_or_late_changes_nothing() -> None:
    """Each state takes a drain, and takes it once."""
    for application in (silent, hello, answering(close=True)):
        for pieces in ([], [get()], [b"\x00"], [post(b"", length=10**6)]):
            connection = MemoryConnection(application)
            connection.receive(*pieces)
            connection.drain()
            written, end = connection.written, connection.transport.end
            connection.drain()

            assert (written, end) == (connection.written, connection.transport.end)


def test_stopping_ends_the_connection_whatever_it_does() -> None:
    """The last resort of a shutdown."""
    for pieces in ([], [b"GE"], [get()], [post(b"x", length=5)], [b"\x00"]):
        connection = MemoryConnection()
        connection.receive(*pieces)
        connection.protocol.stop()

        assert "aborted" == connection.transport.end

        connection.turn()
        connection.protocol.stop()


# -- Files --------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    """A descriptor of a file of 600,000 bytes."""
    path = tmp_path / "file"
    path.write_bytes(FILE)
    descriptor = os.open(path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


FILE = bytes(range(250)) * 2400


@pytest.mark.parametrize(("offset", "count"), [(0, 600_000), (1000, 5), (9, 300_000)])
@pytest.mark.parametrize("length", [True, False], ids=["sized", "chunked"])
def test_a_file_is_sent_where_the_kernel_cannot(
    file: int, offset: int, count: int, length: bool
) -> None:
    """Transports without sendfile are written to, in pieces."""
    connection = MemoryConnection()
    connection.receive(get())
    [stream] = connection.started
    stream.answer(b"<", end=False, length=count + 2 if length else None)
    task = HandTask(stream.sender.send_file(file, offset, count))

    assert task.done
    assert None is task.error

    stream.send(b">", end=True)
    [response], rest = responses_in(connection.written)

    assert b"<" + FILE[offset : offset + count] + b">" == response.body
    assert b"" == rest


def test_a_file_is_sent_at_the_pace_of_the_peer(file: int) -> None:
    """Memory holds a piece of it, never all."""
    transport = MemoryTransport(high_water_bytes=64 * KIB)
    connection = MemoryConnection(transport=transport)
    connection.receive(get())
    [stream] = connection.started
    stream.answer(b"", end=False)
    task = HandTask(stream.sender.send_file(file, 0, len(FILE)))
    turns = 0
    while not task.done:
        assert transport.unsent_bytes < 300 * KIB

        connection.take()
        task.step()
        turns += 1
    stream.send(b"", end=True)

    assert 3 == turns
    assert FILE == responses_in(connection.written)[0][0].body


def test_a_file_that_ends_early_is_an_error(file: int) -> None:
    """The caller learns that the response can't be completed."""
    connection = MemoryConnection()
    connection.receive(get())
    [stream] = connection.started
    stream.answer(b"", end=False, length=len(FILE) + 1)
    task = HandTask(stream.sender.send_file(file, 0, len(FILE) + 1))

    assert isinstance(task.error, EOFError)

    stream.abort()

    assert connection.written.endswith(FILE)


@pytest.mark.parametrize("framing", ["sized", "chunked", "until-close"])
@pytest.mark.parametrize("how", ["lost", "timeout", "body"])
def test_a_file_is_not_sent_on_when_the_response_was_broken_off(
    file: int, how: str, framing: str
) -> None:
    """Nothing is written once the connection closes, or is gone."""
    transport = MemoryTransport(high_water_bytes=64 * KIB)
    connection = MemoryConnection(
        transport=transport, http_timeout=20, timeout_request_body=10
    )
    head = post(b"", length=5) if how == "body" else get()
    if framing == "until-close":
        head = head.replace(b"HTTP/1.1", b"HTTP/1.0")
    connection.receive(head)
    [stream] = connection.started
    length = len(FILE) if framing == "sized" else None
    stream.answer(b"", end=False, length=length)
    task = HandTask(stream.sender.send_file(file, 0, len(FILE)))

    if how == "lost":
        connection.lose()
    else:
        connection.wait(22)
    written = connection.written
    task.step()

    assert task.done
    assert None is task.error
    assert written == connection.written
    assert len(written) < len(FILE)


def test_a_file_is_left_to_a_transport_that_can(file: int) -> None:
    """Where the kernel can copy it, no byte comes to Python."""
    sent: list[tuple[int, int, int]] = []

    class Copying(MemoryTransport):
        async def send_file(self, file: int, offset: int, count: int) -> None:
            sent.append((file, offset, count))
            self.write(os.pread(file, count, offset))

    for length in (None, 12):
        connection = MemoryConnection(transport=Copying())
        connection.receive(get())
        [stream] = connection.started
        stream.answer(b"<", end=False, length=length)
        task = HandTask(stream.sender.send_file(file, 7, 10))

        assert task.done
        assert None is task.error

        stream.send(b">", end=True)

        assert b"<" + FILE[7:17] + b">" == responses_in(connection.written)[0][0].body

    assert [(file, 7, 10)] * 2 == sent


def test_a_copy_by_the_kernel_that_ends_late_writes_nothing(file: int) -> None:
    """A response that was broken off meanwhile gets no more framing."""

    class Waiting(MemoryTransport):
        async def send_file(self, file: int, offset: int, count: int) -> None:
            await copied

    for lost in (True, False):
        connection = MemoryConnection(transport=Waiting(), http_timeout=20)
        copied = connection.loop.create_future()
        connection.receive(get())
        [stream] = connection.started
        stream.answer(b"<", end=False)
        task = HandTask(stream.sender.send_file(file, 0, 10))
        if lost:
            connection.lose()
        else:
            connection.wait(22)
        copied.set_result(None)
        task.step()

        assert task.done
        assert None is task.error
        assert connection.written.endswith(b"a\r\n")


# -- Any bytes, any order -------------------------------------------------------------


@given(
    pieces=st.lists(
        st.sampled_from(
            [
                get(),
                get()[:10],
                get()[10:],
                post(b"hello"),
                post(b"", length=5),
                post(b"", EXPECT, length=5),
                b"hello",
                CHUNKED,
                BAD_CHUNK,
                b"5\r\nhello\r\n",
                b"0\r\n\r\n",
                get(b"/", *UPGRADE),
                post(b"hello", *UPGRADE),
                get(b"/", b"Connection: close"),
                b"GET / HTTP/1.0\r\n\r\n",
                b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
                get() * 700,
                b"\r\n",
                *(data for data, _ in ODD.values()),
            ]
        )
        | st.binary(max_size=20),
        max_size=8,
    ),
    application=st.sampled_from(
        [echo, hello, silent, answering(end=False), in_pieces(b"a", b"b", b"")]
    ),
    options=st.fixed_dictionaries(
        {},
        optional={
            "eager": st.booleans(),
            "deaf_to_pauses": st.booleans(),
            "limit_pipelined_requests": st.sampled_from([0, 1, 2]),
            "limit_request_body": st.just(4),
        },
    ),
)
def test_no_bytes_raise_out_of_the_protocol(
    pieces: list[bytes], application: Application, options: dict[str, Any]
) -> None:
    """Whatever comes, the connection goes on or ends; it never fails."""
    connection = MemoryConnection(application, **options)
    connection.receive(*pieces)
    connection.wait(3)
    connection.drain()
    connection.lose()


class Walk:
    """
    A connection on which all sides act in any order.

    The peer sends requests, cut anywhere, and takes answers when it likes; the
    applications read and answer when they like. Whatever the order, requests are
    answered in order, each at most once.
    """

    def __init__(self, data: st.DataObject) -> None:
        self.draw: Callable[..., Any] = data.draw
        limit = self.draw(st.sampled_from([0, 1, 2, 16]))
        slow = self.draw(st.sampled_from([inf, 10, 100]))
        transport = self.draw(st.sampled_from([MemoryTransport, PlainTransport]))
        self.connection = MemoryConnection(
            self.act,
            transport=transport(high_water_bytes=slow),
            eager=self.draw(st.booleans()),
            deaf_to_pauses=self.draw(st.booleans()),
            limit_pipelined_requests=limit,
            http_timeout=self.draw(st.sampled_from([None, 20])),
        )
        self.methods: list[bytes] = []
        self.unsent = b""
        self.lazy = self.draw(st.booleans())

    def send(self) -> None:
        """Let the peer send some more of its requests."""
        number = len(self.methods)
        method = self.draw(st.sampled_from([b"GET", b"HEAD", b"POST", b"PUT"]))
        fields = [b"X: %d" % number]
        body = b""
        if method == b"POST":
            body = b"%d" % number * self.draw(st.sampled_from([1, 100, 70_000]))
            fields.append(b"Content-Length: %d" % len(body))
        elif method == b"PUT":
            body = chunks(b"%d" % number * self.draw(st.sampled_from([1, 999])), 100)
            fields.append(b"Transfer-Encoding: chunked")
        extra = [b"X: y"] * 8 + [b"Connection: close", EXPECT, b"Bad Field: x"]
        fields.append(self.draw(st.sampled_from(extra)))
        self.methods.append(method)
        self.unsent += get(b"/%d" % number, *fields, method=method) + body
        at = self.draw(st.integers(0, len(self.unsent)))
        piece, self.unsent = self.unsent[:at], self.unsent[at:]
        self.connection.receive(piece)

    def act(self, stream: FakeStream) -> None:
        """Act as an application would: now, or when the test comes to it."""
        if not self.lazy:
            self.answer(stream)

    def answer(self, stream: FakeStream) -> None:
        """Take one step of an application."""
        if stream.over:
            return
        if stream.begun:
            stream.send(b"", end=True)
            return
        step = self.draw(st.sampled_from(["one", "one", "two", "ask", "read", "abort"]))
        body = b"%b %d" % (stream.head.target, len(stream.body))
        if step == "one":
            stream.answer(body)
        elif step == "two":
            stream.answer(body, end=False)
        elif step == "ask":
            stream.ask()
        elif step == "read":
            stream.take()
        elif self.draw(st.integers(0, 9)) == 0:
            stream.answer(body, end=False)
            if not stream.over:
                stream.abort()

    def step(self) -> None:
        """Take one step of somebody."""
        connection = self.connection
        kind = self.draw(
            st.sampled_from(["send"] * 4 + ["answer"] * 5 + ["take", "wait", "drain"])
        )
        if kind == "send":
            self.send()
        elif kind == "answer" and connection.started:
            self.answer(connection.started[-1])
            connection.turn()
        elif kind == "take":
            connection.take(self.draw(st.sampled_from([1, 50, inf])))
        elif kind == "wait":
            connection.wait(self.draw(st.sampled_from([1, 1, 1, 7])))
        elif kind == "drain" and self.draw(st.integers(0, 5)) == 0:
            connection.drain()
        self.check()

    def check(self) -> None:
        """Hold what must be true at any time."""
        connection = self.connection
        numbers = [int(stream.head.target[1:]) for stream in connection.started]
        assert list(range(len(numbers))) == numbers, "started out of order"
        assert all(stream.over for stream in connection.started[:-1])

    def finish(self) -> None:
        """Let everybody end: applications answer, the peer takes all, time passes."""
        connection = self.connection
        self.lazy = False
        connection.receive(self.unsent)
        for _ in range(300):
            if connection.is_lost():
                break
            connection.take()
            stream = connection.started[-1] if connection.started else None
            if stream is not None and not stream.over:
                stream.take()
                if stream.begun:
                    stream.send(b"", end=True)
                else:
                    stream.answer(b"%b end" % stream.head.target)
                connection.turn()
            else:
                connection.wait(1)
        assert connection.is_lost(), "the connection hangs"
        self.check()
        self.check_responses()

    def check_responses(self) -> None:
        """Find each response in its place, the last one perhaps incomplete."""
        methods = [stream.head.method for stream in self.connection.started]
        responses, rest = responses_in(self.connection.written, *methods, closed=True)
        assert b"" == rest.replace(CONTINUE, b"")
        assert len(responses) <= len(methods) + 1
        for number, response in enumerate(responses):
            last = number == len(responses) - 1
            assert response.complete or last
            if response.status == 200 and response.body:
                assert response.body.split(b" ")[0] == b"/%d" % number
            else:
                assert last or methods[number] == "HEAD"
            if (b"connection", b"close") in response.headers:
                assert last, "answered behind a close"


@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.data())
def test_answers_keep_their_order_whatever_happens(data: st.DataObject) -> None:
    """Any interleaving of peer, applications and time gives each its own answer."""
    walk = Walk(data)
    for _ in range(data.draw(st.integers(1, 15))):
        if walk.connection.is_lost():
            break
        walk.step()
    walk.finish()


# -- The same request again ------------------------------------------------------

REPEATED = [
    get(),
    get(b"/b"),
    get(b"/", b"Connection: keep-alive"),
    get() + get(b"/b"),
    get()[:9],
    get()[9:],
    post(b"hello"),
    post(b"", length=len(get())),
    CHUNKED + b"1\r\nx\r\n0\r\n\r\n",
    get(b"/", *UPGRADE),
    get(b"/", b"Connection: close"),
    b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"\r\n",
    b"no request\r\n\r\n",
]
# Those which are whole, and have no body.
WHOLE = [0, 0, 0, 1, 1, 2, 3, 9, 11]


def repeated(messages: list[tuple[int, int]]) -> list[bytes]:
    """Draw each message so many times in a row."""
    return [REPEATED[index] for index, times in messages for _ in range(times)]


@given(
    st.lists(
        st.tuples(st.integers(0, len(REPEATED) - 1), st.integers(1, 4)), max_size=6
    ).map(repeated),
    st.booleans(),
)
def test_repetition_changes_nothing(messages: list[bytes], eager: bool) -> None:
    """
    Requests that come again and again are answered as if each were the first one.

    Reads of single bytes never look repeated, so they tell what is right.
    """
    data = b"".join(messages)
    once = MemoryConnection(echo, eager=eager)
    once.receive(*(data[at : at + 1] for at in range(len(data))))
    again = MemoryConnection(echo, eager=eager)
    again.receive(*messages)

    assert once.outcome == again.outcome


def answer_late(messages: list[bytes], high_water_bytes: float) -> bytes:
    """Answer requests when all have come, to a peer which takes the answers late."""
    connection = MemoryConnection(transport=MemoryTransport(high_water_bytes))
    connection.receive(*messages)
    answered = 0
    while True:
        waiting = [stream for stream in connection.started if not stream.over]
        if waiting:
            waiting[0].answer(b"%d%b" % (answered, waiting[0].head.target))
            answered += 1
            connection.turn()
        elif connection.transport.unsent_bytes:
            connection.take()
        else:
            return connection.written


@given(
    st.lists(st.tuples(st.sampled_from(WHOLE), st.integers(1, 4)), max_size=6).map(
        repeated
    ),
    st.sampled_from([inf, 100]),
)
def test_repeated_requests_wait_for_their_turn(
    messages: list[bytes], high_water_bytes: float
) -> None:
    """The same request while another one is answered, or none can be, comes behind."""
    data = b"".join(messages)
    in_bytes = [data[at : at + 1] for at in range(len(data))]

    once = answer_late(in_bytes, inf)
    assert len(data.split(b"Host")) - 1 + data.count(b"1.0") == once.count(b"200 OK")
    assert [line for line in once.splitlines() if b"/" in line] == [
        line
        for line in answer_late(messages, high_water_bytes).splitlines()
        if b"/" in line
    ]


def test_a_request_that_comes_again_is_not_read_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The third time it is known by its bytes, unless something else is going on."""
    fed: list[bytes] = []
    connection = MemoryConnection(echo)
    reader = connection.protocol._reader
    feed = reader.feed

    def noted(_: object, data: bytes) -> bool:
        fed.append(data)
        return feed(data)

    monkeypatch.setattr(type(reader), "feed", noted)
    for _ in range(5):
        connection.receive(get())
    assert [get()] * 2 == fed

    connection.application = silent
    connection.receive(get(), get())
    assert [get()] * 3 == fed
    assert 6 == len(connection.started)
    assert ok(b"GET / ") * 5 == connection.written


# -- What may wait ---------------------------------------------------------------


class HoldingTransport(MemoryTransport):
    """A transport in the middle of a turn in which all that may wait does."""

    protocol: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.held = b""

    def write_soon(self, data: bytes) -> None:
        """Hold it back."""
        self.held += data

    def settle(self) -> None:
        """Write what is held back."""
        held, self.held = self.held, b""
        self.write(held)


class TunnelUser:
    """Says something at once."""

    def opened(self, tunnel: Any) -> None:
        """Say it."""
        tunnel.write(b"tunnel")

    def data_received(self, data: bytes) -> None:
        """Do nothing."""


def test_answers_may_wait_for_the_end_of_the_turn() -> None:
    """They are written together then; the transport sees to it."""
    transport = HoldingTransport()
    connection = MemoryConnection(echo, transport=transport)
    connection.receive(get(), post(b"x"))

    assert b"" == connection.written
    assert ok(b"GET / ") + ok(b"POST / x") == transport.held


def test_what_is_in_a_tunnel_comes_behind_what_was_held_back() -> None:
    """Neither the answer before nor the switch itself may be overtaken."""
    connection = MemoryConnection(transport=HoldingTransport())
    key = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    upgrade = get(b"/", b"Connection: Upgrade", b"Upgrade: websocket", key)
    connection.receive(get() + upgrade)
    connection.started[0].answer()
    connection.turn()
    connection.started[1].sender.open_tunnel((), cast("Any", TunnelUser()))

    before, switch, inside = connection.written.partition(
        b"HTTP/1.1 101 Switching Protocols\r\n"
    )
    assert OK == before
    assert switch
    assert inside.endswith(b"\r\n\r\ntunnel")
