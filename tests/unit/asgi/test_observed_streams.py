"""Tests of ``daphne_like.asgi.observed_streams``, through connections in memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from asgi_messages import body, start
from http2_driver import HTTP2Driver
from http_drivers import Driver, HTTP1Driver
from recorded_log import RecordedLog
from stepped_loop import SteppedLoop
from websocket_drivers import ServedWebSocket
from websocket_frames import frame

from daphne_like.asgi.http_stream import HTTPStream
from daphne_like.asgi.observed_streams import observed
from daphne_like.asgi.types import ASGIApplication, Receive, Scope, Send
from daphne_like.observability.metrics import Metrics
from daphne_like.observability.request_ids import RequestIDs
from daphne_like.settings import HTTPSettings

MADE = re.compile(rb"[0-9a-f]{32}")


class Application:
    """Takes the whole body, and answers with a greeting."""

    def __init__(self) -> None:
        self.scopes: list[Any] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        self.scopes.append(scope)
        if scope["path"] == "/fail":
            raise ValueError
        while (await receive()).get("more_body"):
            pass
        await send(start())
        await send(body(b"hello"))


@pytest.fixture
def application() -> Application:
    """Make one that keeps its scopes."""
    return Application()


@pytest.fixture
def metrics() -> Metrics:
    """Count."""
    return Metrics()


class Serve:
    """Serves in memory, over either version of HTTP."""

    def __init__(self, driver: type[Driver], loop: SteppedLoop) -> None:
        self._driver = driver
        self._loop = loop
        self.started: list[Driver] = []

    def __call__(self, application: ASGIApplication, **options: Any) -> Driver:
        """Take options of :class:`~http_drivers.Driver`."""
        self.started.append(self._driver(self._loop, application, **options))
        return self.started[-1]

    def counting(self, application: ASGIApplication, **options: Any) -> Driver:
        """Serve and count."""
        metrics = options.pop("metrics")
        options |= {"metrics": metrics, "access_log": metrics}
        return self(application, limit_hit=metrics.limit_hit, **options)


@pytest.fixture(params=[HTTP1Driver, HTTP2Driver])
def serve(request: pytest.FixtureRequest, loop: SteppedLoop) -> Iterator[Serve]:
    """Serve; all ends with the test."""
    serve = Serve(request.param, loop)
    yield serve
    for driver in serve.started:
        driver.end()
        assert not driver.violations


def limits(metrics: Metrics) -> dict[str, int]:
    """Tell which limits were hit, and how often."""
    hit: dict[str, int] = metrics.snapshot()["counters"]["limits_hit"]
    return hit


def requests(metrics: Metrics) -> dict[str, int]:
    """Tell what was counted, by method and status."""
    histograms = metrics.snapshot()["histograms"]["request_duration_seconds"]
    return {
        key.rpartition(" ")[0]: sum(counts) for key, (_, *counts) in histograms.items()
    }


def test_who_wants_nothing_pays_nothing(serve: Serve, application: Application) -> None:
    """Without counters and ids the streams are the plain ones."""
    driver = serve(application)
    assert observed(HTTPStream, driver.streams.context) is HTTPStream


@pytest.mark.parametrize("buffer_size", [0, 2])
def test_bodies_are_counted(
    serve: Serve, application: Application, metrics: Metrics, buffer_size: int
) -> None:
    """Requests and responses, in whatever pieces the application gets them."""
    driver = serve.counting(
        application, metrics=metrics, request_buffer_size=buffer_size, filled=True
    )
    exchange = driver.request("POST", body=b"abc", more_body=True)
    exchange.send_body(b"de", end=True)
    assert b"hello" == exchange.body
    driver.request("HEAD")

    counters = metrics.snapshot()["counters"]
    assert {"": 5} == counters["request_body_bytes"]
    assert {"": 5} == counters["response_body_bytes"]
    assert {"POST 2xx": 1, "HEAD 2xx": 1} == requests(metrics)
    assert {} == limits(metrics)


def test_limits_of_requests_are_counted_by_their_settings(
    serve: Serve, application: Application, metrics: Metrics
) -> None:
    """Each refusal is one, however the client was told."""
    driver = serve.counting(
        application,
        metrics=metrics,
        settings=HTTPSettings(
            limit_request_line=100,
            limit_request_header=200,
            limit_request_fields=5,
            limit_request_body=10,
        ),
    )
    assert 414 == driver.request(path="/" + 200 * "x").status
    assert 431 == driver.request(headers=[(b"x-long", 300 * b"x")]).status
    assert 431 == driver.request(headers=[(b"x-many", b"x")] * 6).status
    assert 413 == driver.request("POST", body=11 * b"x").status
    counted = driver.request("POST", body=6 * b"x", more_body=True)
    counted.send_body(6 * b"x")
    assert 413 == counted.status

    assert {
        "limit_request_line": 1,
        "limit_request_header": 2,
        "limit_request_body": 2,
    } == limits(metrics)


def test_timeouts_are_counted_by_their_settings(
    serve: Serve, application: Application, metrics: Metrics
) -> None:
    """A body that doesn't come, and an application that doesn't answer."""
    driver = serve.counting(
        application,
        metrics=metrics,
        settings=HTTPSettings(timeout_request_body=5.0, http_timeout=20.0),
    )
    stalled = driver.request("POST", body=b"x", more_body=True)
    driver.advance(10)
    assert 408 == stalled.status
    assert {"timeout_request_body": 1} == limits(metrics)


def test_an_application_that_is_too_slow_is_counted(
    serve: Serve, metrics: Metrics, loop: SteppedLoop
) -> None:
    """So is a request which finds too many of them."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await loop.create_future()

    driver = serve.counting(
        application,
        metrics=metrics,
        limit_concurrency=1,
        settings=HTTPSettings(http_timeout=5.0),
    )
    slow, refused = driver.request(), driver.request()
    assert 503 == refused.status
    assert {"limit_concurrency": 1} == limits(metrics)
    driver.advance(10)
    assert 503 == slow.status
    assert {"limit_concurrency": 1, "http_timeout": 1} == limits(metrics)


def test_requests_get_an_id(serve: Serve, application: Application) -> None:
    """The application finds it among the header fields; a given one is kept."""
    driver = serve(application, request_ids=RequestIDs("X-Request-ID"))
    exchange = driver.request()
    driver.request(headers=[(b"x-request-id", b"abc")], after=exchange)
    driver.request("POST", body=b"abc")
    made, given, posted = (
        [value for name, value in scope["headers"] if name == b"x-request-id"]
        for scope in application.scopes
    )

    assert [b"abc"] == given
    assert 1 == len(made) == len(posted)
    assert MADE.fullmatch(made[0])
    assert MADE.fullmatch(posted[0])
    assert made != posted
    assert [] == exchange.values_of(b"x-request-id")


def test_answers_of_the_server_tell_the_id(
    serve: Serve, application: Application, log: RecordedLog
) -> None:
    """When an application has failed it is wanted most."""
    driver = serve(
        application,
        request_ids=RequestIDs("X-Request-ID", in_responses=True),
        settings=HTTPSettings(limit_request_body=10),
    )
    failed = driver.request(path="/fail", headers=[(b"x-request-id", b"abc")])
    assert 500 == failed.status
    assert [b"abc"] == failed.values_of(b"x-request-id")
    assert 1 == len(log.take())
    refused = driver.request("POST", body=11 * b"x")
    assert 413 == refused.status
    [made] = refused.values_of(b"x-request-id")
    assert MADE.fullmatch(made)


def test_messages_of_websockets_are_counted(
    loop: SteppedLoop, metrics: Metrics
) -> None:
    """Text by its bytes in UTF-8."""
    served = ServedWebSocket(
        loop,
        metrics=metrics,
        access_log=metrics,
        request_ids=RequestIDs("X-Request-ID"),
    )
    served.accept()
    assert MADE.fullmatch(dict(served.app.scope["headers"])[b"x-request-id"])
    served.say("héé", "abc", b"\xff")
    served.app.send(
        {"type": "websocket.send", "text": "é"},
        {"type": "websocket.send", "bytes": b"abc", "text": None},
    )
    served.close()
    counters = metrics.snapshot()["counters"]

    assert {"received": 3, "sent": 2} == counters["websocket_messages"]
    assert {"received": 9, "sent": 5} == counters["websocket_bytes"]
    assert {"": 0} == metrics.snapshot()["gauges"]["websockets_open"]
    assert {"GET 1xx": 1} == requests(metrics)
    served.end()


def test_messages_of_unusual_kinds_are_counted(
    loop: SteppedLoop, metrics: Metrics
) -> None:
    """A mapping that is no dict is a message, too."""

    class Mapping(dict[str, Any]):
        """A kind of dict."""

    served = ServedWebSocket(loop, metrics=metrics)
    served.accept()
    served.app.send(Mapping(type="websocket.send", text="abc"))

    assert ["abc"] == served.said
    assert 1 == metrics.messages_sent
    served.end()


@pytest.mark.parametrize(
    ("websocket", "seconds", "limit"),
    [
        ({"websocket_timeout": 5.0}, 10, "websocket_timeout"),
        ({"ping_interval": 5.0, "ping_timeout": 5.0}, 20, "ping_timeout"),
        ({"websocket_max_message_size": 5}, 0, "websocket_max_message_size"),
    ],
)
def test_limits_of_websockets_are_counted(
    loop: SteppedLoop,
    metrics: Metrics,
    websocket: dict[str, Any],
    seconds: int,
    limit: str,
) -> None:
    """By the name of the setting."""
    served = ServedWebSocket(
        loop, websocket=websocket, metrics=metrics, limit_hit=metrics.limit_hit
    )
    served.accept()
    if seconds:
        served.streams.advance(seconds)
    else:
        served.deliver(frame(1, b"abcdef"))

    assert {limit: 1} == limits(metrics)
    served.end()


def test_an_application_that_does_not_accept_is_counted(
    loop: SteppedLoop, metrics: Metrics
) -> None:
    """Its client got a 403."""
    served = ServedWebSocket(
        loop,
        websocket={"websocket_connect_timeout": 2.0},
        metrics=metrics,
        access_log=metrics,
        limit_hit=metrics.limit_hit,
    )
    served.streams.advance(4)

    assert 403 == served.status
    assert {"websocket_connect_timeout": 1} == limits(metrics)
    assert {"GET 4xx": 1} == requests(metrics)
    served.end()


@pytest.mark.parametrize("in_time", [True, False])
def test_a_refused_websocket_tells_the_id(loop: SteppedLoop, in_time: bool) -> None:
    """Cause: answers to handshakes which the server makes had none."""
    served = ServedWebSocket(
        loop,
        websocket={"websocket_connect_timeout": 2.0},
        request_ids=RequestIDs("X-Request-ID", in_responses=True),
    )
    if in_time:
        served.app.send({"type": "websocket.close"})
    else:
        served.streams.advance(4)

    assert 403 == served.status
    [made] = re.findall(rb"\r\nx-request-id: (.*)\r\n", served.head)
    assert MADE.fullmatch(made)
    served.end()
