"""Tests of ``daphne_like.asgi.request_events``, over each HTTP version."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgi_messages import body, start
from hand_application import HandApplication
from http2_driver import HTTP2Driver
from http_drivers import Driver, HTTP1Driver, HTTP1Exchange
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from stepped_loop import SteppedLoop

from daphne_like.asgi.http_stream import HTTPStream
from daphne_like.asgi.request_events import (
    FilledHTTPStream,
    SizedHTTPStream,
    stream_class,
)
from daphne_like.asgi.types import Message, Receive, Scope, Send

KIB = 1024


def event(data: bytes, *, more: bool = False) -> Message:
    """Tell the event which has these bytes."""
    return {"type": "http.request", "body": data, "more_body": more}


def unread_bytes(exchange: HTTP1Exchange) -> int:
    """Tell for how many bytes of bodies the client is owed its credit."""
    protocol: Any = exchange.connection.transport._protocol
    count: int = protocol._unread_bytes
    return count


class Served:
    """
    A server in memory whose applications are in the hands of the test.

    Attributes:
        app: The application of the first request.
    """

    def __init__(
        self, kind: Callable[..., Driver], loop: SteppedLoop, size: int, *, filled: bool
    ) -> None:
        self._applications = [HandApplication(loop) for _ in range(3)]
        self.app, self.next_app, _ = self._applications
        self.driver = kind(loop, self._run, request_buffer_size=size, filled=filled)

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._applications.pop(0)(scope, receive, send)

    def answer(self) -> None:
        """Let the first application answer and return."""
        self.app.send(start(), body(b"done"))
        self.app.end()

    def end(self) -> None:
        """End all, and see that no client got what it should not."""
        self.driver.end()
        assert [] == self.driver.violations


Serve = Callable[..., Served]


@pytest.fixture(params=[HTTP1Driver, HTTP2Driver], ids=["http1", "http2"])
def serve(request: pytest.FixtureRequest, loop: SteppedLoop) -> Iterator[Serve]:
    """Serve over each HTTP version in turn."""
    made: list[Served] = []

    def serve(size: int, *, filled: bool = False) -> Served:
        made.append(Served(request.param, loop, size, filled=filled))
        return made[-1]

    yield serve
    for served in made:
        served.end()


def test_the_class_is_chosen_by_the_settings() -> None:
    """A server which doesn't limit its events has nothing to do with all this."""
    assert HTTPStream is stream_class(0, filled=False)
    assert HTTPStream is stream_class(0, filled=True)
    assert SizedHTTPStream is stream_class(1, filled=False)
    assert FilledHTTPStream is stream_class(1, filled=True)


# -- No event is larger ----------------------------------------------------------


@pytest.mark.parametrize("filled", [False, True], ids=["as it comes", "filled"])
@pytest.mark.parametrize("size", [1, 2, 3, 10, 11])
def test_no_event_is_larger(serve: Serve, size: int, *, filled: bool) -> None:
    """A body that is there at once comes in pieces of the size, and a rest."""
    served = serve(size, filled=filled)
    served.driver.request("POST", body=b"0123456789")

    pieces = [b"0123456789"[at : at + size] for at in range(0, 10, size)]
    for piece in pieces[:-1]:
        assert event(piece, more=True) == served.app.receive()
    assert event(pieces[-1]) == served.app.receive()

    served.answer()
    assert {"type": "http.disconnect"} == served.app.receive()


@pytest.mark.parametrize("filled", [False, True], ids=["as it comes", "filled"])
def test_no_body_is_one_empty_event(serve: Serve, *, filled: bool) -> None:
    """A request without a body begins as it does anywhere."""
    served = serve(10, filled=filled)
    served.driver.request()

    assert event(b"") == served.app.receive()


def test_events_do_not_wait_to_be_full(serve: Serve) -> None:
    """What has come is passed on, where nobody asks for Daphne's ways."""
    served = serve(4)
    exchange = served.driver.request("POST", body=b"ab", more_body=True)

    assert event(b"ab", more=True) == served.app.receive()
    exchange.send_body(b"cdefgh")
    assert event(b"cdef", more=True) == served.app.receive()
    assert event(b"gh", more=True) == served.app.receive()
    exchange.send_body(b"", end=True)
    assert event(b"") == served.app.receive()


# -- The first event is full -----------------------------------------------------


def test_the_first_event_waits_until_it_is_full(serve: Serve) -> None:
    """An application that reads one event and no more gets the whole small body."""
    served = serve(6, filled=True)
    exchange = served.driver.request("POST", body=b"ab", more_body=True)
    receiving = served.app.begin_receive()

    exchange.send_body(b"cd")
    assert not receiving.done()
    exchange.send_body(b"efgh")
    assert event(b"abcdef", more=True) == receiving.result()
    # All others are as they come.
    assert event(b"gh", more=True) == served.app.receive()
    exchange.send_body(b"i")
    assert event(b"i", more=True) == served.app.receive()


def test_the_first_event_waits_for_the_end(serve: Serve) -> None:
    """A body below the size is one event, with its end."""
    served = serve(6, filled=True)
    exchange = served.driver.request("POST", body=b"ab", more_body=True)
    receiving = served.app.begin_receive()
    exchange.send_body(b"cd")
    exchange.send_body(b"", end=True)

    assert event(b"abcd") == receiving.result()


def test_a_client_that_leaves_ends_the_wait(serve: Serve) -> None:
    """Nobody waits for a body that doesn't come."""
    served = serve(6, filled=True)
    exchange = served.driver.request("POST", body=b"ab", more_body=True)
    receiving = served.app.begin_receive()
    exchange.leave()

    assert {"type": "http.disconnect"} == receiving.result()


def test_a_client_that_waits_to_be_asked_is_asked(serve: Serve) -> None:
    """The wait begins with 100 Continue, once."""
    served = serve(6, filled=True)
    exchange = served.driver.request(
        "POST",
        headers=[(b"expect", b"100-continue"), (b"content-length", b"4")],
        more_body=True,
    )
    assert [] == exchange.informational
    receiving = served.app.begin_receive()

    assert [100] == [status for status, _ in exchange.informational]
    exchange.send_body(b"ab")
    exchange.send_body(b"cd", end=True)
    assert event(b"abcd") == receiving.result()
    assert 1 == len(exchange.informational)


@pytest.mark.parametrize("size", [64 * KIB, 300 * KIB])
def test_an_event_may_be_larger_than_what_is_read_ahead(
    serve: Serve, size: int
) -> None:
    """Reading doesn't pause while the first event still has room."""
    served = serve(size, filled=True)
    exchange = served.driver.request("POST", body=b"a", more_body=True)
    receiving = served.app.begin_receive()
    sent = 1
    while sent < size:
        assert not exchange.upload_is_paused()
        exchange.send_body(bytes(16 * KIB))
        sent += 16 * KIB

    assert size == len(receiving.result()["body"])


def test_behind_the_first_event_reading_pauses(serve: Serve) -> None:
    """An application that takes nothing holds the client up, as everywhere."""
    served = serve(8 * KIB, filled=True)
    exchange = served.driver.request("POST", body=b"a", more_body=True)
    for _ in range(100):
        if exchange.upload_is_paused():
            break
        exchange.send_body(bytes(16 * KIB))

    assert exchange.upload_is_paused()
    while exchange.upload_is_paused():
        assert b"" != served.app.receive()["body"]
    exchange.send_body(b"z", end=True)
    last = served.app.receive()
    while last["more_body"]:
        last = served.app.receive()
    assert last["body"].endswith(b"z")


# -- Credit ------------------------------------------------------------------------


@pytest.mark.parametrize("filled", [False, True], ids=["as it comes", "filled"])
@pytest.mark.parametrize("taken", [0, 1, 3])
def test_what_nobody_takes_is_forgotten(
    serve: Serve, taken: int, *, filled: bool
) -> None:
    """An early answer leaves the connection as good as new for the next request."""
    served = serve(5, filled=filled)
    exchange = served.driver.request("POST", body=b"x" * 16)
    for _ in range(taken):
        served.app.receive()
    served.answer()
    assert exchange.is_complete

    served.driver.request("POST", body=b"abcde", after=exchange)
    assert event(b"abcde") == served.next_app.receive()
    if isinstance(exchange, HTTP1Exchange):
        assert 0 == unread_bytes(exchange)


@hypothesis_settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    size=st.integers(1, 40),
    filled=st.booleans(),
    pieces=st.lists(st.binary(max_size=30), max_size=8),
    taken=st.lists(st.integers(0, 3), max_size=8),
)
def test_whatever_is_taken_is_what_was_sent(
    loop: SteppedLoop, size: int, filled: bool, pieces: list[bytes], taken: list[int]
) -> None:
    """However a body comes and is taken, nothing is lost, doubled or too large."""
    served = Served(HTTP1Driver, loop, size, filled=filled)
    exchange = served.driver.request("POST", more_body=True)
    assert isinstance(exchange, HTTP1Exchange)
    events = []
    for piece, count in zip(pieces, [*taken, *[0] * 8], strict=False):
        exchange.send_body(piece)
        for _ in range(count):
            receiving = served.app.begin_receive()
            if not receiving.done():
                receiving.cancel()
                loop.settle()
                break
            events.append(receiving.result())
    exchange.send_body(b"", end=True)
    while not events or events[-1]["more_body"]:
        events.append(served.app.receive())

    assert b"".join(pieces) == b"".join(each["body"] for each in events)
    assert max(len(each["body"]) for each in events) <= size
    assert [True] * (len(events) - 1) + [False] == [
        each["more_body"] for each in events
    ]
    assert 0 == unread_bytes(exchange)
    if filled:
        assert len(events[0]["body"]) == min(size, len(b"".join(pieces)))
    served.end()
