"""
ASGI over HTTP, as applications and clients see it, whatever the HTTP version.

Each test is an exchange: what the client sends, what the application does, what the
client gets. The numbers are those of the project's ASGI checklist.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Iterator
from copy import deepcopy
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol

import pytest
from asgi_messages import (
    body,
    failure_of,
    file,
    hint,
    path,
    sending,
    start,
    trailers,
)
from hand_application import HandApplication
from http2_driver import HTTP2Driver
from http_drivers import Driver, HTTP1Driver
from recorded_log import RecordedLog
from stepped_loop import SteppedLoop

from daphne_like.asgi.loading import as_asgi3
from daphne_like.asgi.types import ASGIApplication, Message, Receive, Scope, Send
from daphne_like.errors import ClientDisconnected, InvalidMessage
from daphne_like.settings import HTTPSettings

if sys.version_info < (3, 11):
    # Comes with pytest there.
    from exceptiongroup import (  # type: ignore[import-not-found]
        BaseExceptionGroup,
        ExceptionGroup,
    )

MEBIBYTE = 1024 * 1024
HTML = [(b"content-type", b"text/html")]
TE_TRAILERS = [(b"te", b"trailers")]


class Serve(Protocol):
    """Starts a server in memory for an application."""

    def __call__(self, application: ASGIApplication, **options: Any) -> Driver:
        """Take options of the driver."""


@pytest.fixture(params=[HTTP1Driver, HTTP2Driver], ids=["http1", "http2"])
def serve(request: pytest.FixtureRequest, loop: SteppedLoop) -> Iterator[Serve]:
    """Serve an application over each HTTP version in turn."""
    drivers: list[Driver] = []

    def serve(application: ASGIApplication, **options: Any) -> Driver:
        driver: Driver = request.param(loop, application, **options)
        drivers.append(driver)
        return driver

    yield serve
    for driver in drivers:
        driver.end()
        assert [] == driver.violations


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer as the simplest application does."""
    await send(start(headers=[(b"content-type", b"text/plain")]))
    await send(body(b"Hello, World!"))


# -- The scope ---------------------------------------------------------------


class Collector:
    """An application that keeps its scopes and the events of its first receive."""

    def __init__(self) -> None:
        self.scopes: list[Any] = []
        self.events: list[Message] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take the request, answer, and wait for the end."""
        self.scopes.append(scope)
        self.events.append(await receive())
        await send(start())
        await send(body())
        self.events.append(await receive())


def is_plain(value: object) -> bool:
    """Whether a value is one of those which ASGI lets events hold."""
    if type(value) in (list, tuple):
        return all(map(is_plain, value))  # type: ignore[call-overload]
    if type(value) is dict:
        return all(type(key) is str and is_plain(value[key]) for key in value)
    return value is None or type(value) in (bytes, str, int, float, bool)


def test_scope_and_events_are_plain_values(serve: Serve) -> None:
    """Middleware may copy, compare and pickle what it gets (C1, C4)."""
    seen = Collector()

    serve(seen, state={}).request("POST", "/?a=b", body=b"x")

    assert type(seen.scopes[0]) is dict
    assert is_plain(seen.scopes[0])
    assert [
        {"type": "http.request", "body": b"x", "more_body": False},
        {"type": "http.disconnect"},
    ] == seen.events


def test_scope_tells_type_and_versions(serve: Serve) -> None:
    """A framework finds out what it may rely on (C1, C2, C3, H1, H2)."""
    seen = Collector()
    server = serve(seen)

    server.request()

    (scope,) = seen.scopes
    assert "http" == scope["type"]
    assert {"version": "3.0", "spec_version": "2.5"} == scope["asgi"]
    assert server.http_version == scope["http_version"]


def test_scope_tells_the_request(serve: Serve) -> None:
    """Method, path, query and headers come as the client sent them (H3, H5, H6, H7, H9)."""
    seen = Collector()

    serve(seen).request(
        "PUT",
        "/caf%C3%A9%2Fmenu?q=%20&r",
        [(b"X-Mixed", b"One"), (b"accept", b"a"), (b"x-mixed", b"Two")],
    )

    (scope,) = seen.scopes
    assert "PUT" == scope["method"]
    assert "/café/menu" == scope["path"]
    assert b"/caf%C3%A9%2Fmenu" == scope["raw_path"]
    assert b"q=%20&r" == scope["query_string"]
    assert "" == scope["root_path"]
    assert [
        (b"host", b"example.org"),
        (b"x-mixed", b"One"),
        (b"accept", b"a"),
        (b"x-mixed", b"Two"),
    ] == scope["headers"]


def test_scope_tells_both_ends(serve: Serve) -> None:
    """An application logs who asks, and builds URLs to itself (H4, H12, H13)."""
    seen = Collector()

    serve(seen).request()

    (scope,) = seen.scopes
    assert ["192.0.2.7", 50123] == scope["client"]
    assert ["192.0.2.1", 8000] == scope["server"]
    assert "http" == scope["scheme"]


def test_each_request_has_a_scope_of_its_own(serve: Serve) -> None:
    """What middleware adds for one request doesn't show in the next (C5)."""
    scopes = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        scopes.append(deepcopy(scope))
        scope["user"] = "ada"
        scope["headers"].append((b"x-user", b"ada"))
        scope["extensions"]["private"] = {}
        scope["asgi"]["private"] = True
        scope["state"]["private"] = True
        await hello(scope, receive, send)

    server = serve(application, state={"pool": 1})
    exchange = server.request()
    for _ in range(4):
        exchange = server.request(after=exchange)

    assert {"pool": 1} == scopes[0]["state"]
    assert [scopes[0]] * 5 == scopes


def test_state_is_copied_shallowly(serve: Serve) -> None:
    """Requests share what lifespan made, but not their own additions (H14, L9)."""
    pool: list[str] = []
    state = {"pool": pool}

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["pool"].append(scope["path"])
        scope["state"]["user"] = "ada"
        await hello(scope, receive, send)

    server = serve(application, state=state)
    server.request(path="/1")
    server.request(path="/2")

    assert {"pool": pool} == state
    assert ["/1", "/2"] == pool


def test_without_lifespan_there_is_no_state(serve: Serve) -> None:
    """A framework that looks for state sees that there is none (H14)."""
    seen = Collector()

    serve(seen).request()

    assert "state" not in seen.scopes[0]


def test_extensions_are_those_which_this_request_can_use(serve: Serve) -> None:
    """An application that finds a key can rely on it (C14, E14)."""
    seen = Collector()
    server = serve(seen)

    server.request()
    server.request(headers=TE_TRAILERS)

    usual = {
        "daphne_like.draining",
        "http.response.early_hint",
        "http.response.pathsend",
        "http.response.zerocopysend",
    }
    without, with_trailers = (scope["extensions"] for scope in seen.scopes)
    assert usual == set(without)
    assert {*usual, "http.response.trailers"} == set(with_trailers)
    assert {"begun": False} == with_trailers.pop("daphne_like.draining")
    assert all({} == value for value in with_trailers.values())


# -- How applications run ----------------------------------------------------


def test_application_waits_for_the_head(serve: Serve) -> None:
    """Connections that ask nothing cost no application instance (H16)."""
    seen = Collector()

    serve(seen).begin_request()

    assert [] == seen.scopes


def test_application_runs_on_the_loop_and_in_its_thread(
    serve: Serve, loop: SteppedLoop
) -> None:
    """Clients and pools made on the loop can be used in requests (C6)."""
    seen: list[object] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0)
        seen.append(asyncio.get_running_loop())
        seen.append(threading.current_thread())
        await hello(scope, receive, send)

    exchange = serve(application).request()

    assert exchange.is_complete
    assert [loop, threading.current_thread()] == seen


def test_asgi_2_application(serve: Serve) -> None:
    """An application of ASGI 2, called twice, is served as it is (C7)."""

    class Application:
        def __init__(self, scope: Scope) -> None:
            self.path = scope["path"]

        async def __call__(self, receive: Receive, send: Send) -> None:
            await receive()
            await send(start())
            await send(body(self.path.encode()))

    assert b"/a" == serve(as_asgi3(Application, "auto")).request(path="/a").body
    assert b"/b" == serve(as_asgi3(Application, "asgi2")).request(path="/b").body


def test_awaitable_that_is_no_coroutine(serve: Serve, loop: SteppedLoop) -> None:
    """An application may hand over a task instead of a coroutine."""

    def application(scope: Scope, receive: Receive, send: Send) -> Any:
        return loop.create_task(hello(scope, receive, send))

    assert b"Hello, World!" == serve(application).request().body


async def generator(scope: Scope, receive: Receive, send: Send) -> Any:
    """Look like an application, but for one word."""
    await hello(scope, receive, send)
    yield


@pytest.mark.parametrize(
    "application",
    [
        pytest.param(lambda scope, receive, send: None, id="synchronous"),
        pytest.param(lambda environ, start_response: [b""], id="wsgi"),
        pytest.param(lambda scope: None, id="asgi2"),
        pytest.param(generator, id="generator"),
    ],
)
def test_what_is_no_asgi_application(
    serve: Serve, log: RecordedLog, application: Any
) -> None:
    """Whoever serves the wrong object is told so, and the server goes on."""
    server = serve(application)

    for _ in range(2):
        exchange = server.request()

        assert 500 == exchange.status
        (error,) = log.take_errors()
        assert "can't be called as ASGI asks" in str(error)


# -- The request's body ------------------------------------------------------


@pytest.fixture
def app(loop: SteppedLoop) -> HandApplication:
    """An application in the hands of the test."""
    return HandApplication(loop)


def request_event(data: bytes = b"", *, more: bool = False) -> Message:
    """Write out the event for a piece of a body."""
    return {"type": "http.request", "body": data, "more_body": more}


DISCONNECT = {"type": "http.disconnect"}


def test_request_without_body(serve: Serve, app: HandApplication) -> None:
    """A GET gives one event, which ends the body (H18)."""
    serve(app).request()

    assert request_event() == app.receive()


def test_body_is_streamed_as_it_arrives(serve: Serve, app: HandApplication) -> None:
    """An upload is handled while it is under way (H17, H18)."""
    exchange = serve(app).request("POST", body=b"one ", more_body=True)
    assert request_event(b"one ", more=True) == app.receive()

    exchange.send_body(b"two ")
    exchange.send_body(b"three ")
    assert request_event(b"two three ", more=True) == app.receive()

    exchange.send_body(b"four", end=True)
    rest = app.receive()
    if rest["more_body"]:
        assert request_event(b"four", more=True) == rest
        rest = app.receive()
    else:
        assert b"four" == rest["body"]
    assert not rest["more_body"]


def test_empty_body_of_unknown_length(serve: Serve, app: HandApplication) -> None:
    """An upload that turns out empty ends with an empty event (H18)."""
    exchange = serve(app).request("POST", more_body=True)
    receiving = app.begin_receive()
    assert not receiving.done()

    exchange.send_body(b"", end=True)

    assert request_event() == receiving.result()


def test_slow_application_holds_the_client_up(
    serve: Serve, app: HandApplication
) -> None:
    """A fast upload to a slow application doesn't fill the memory (H19)."""
    server = serve(app)
    exchange = server.request("POST", more_body=True)
    sent = 0
    while not exchange.upload_is_paused():
        exchange.send_body(bytes(16 * 1024))
        sent += 16 * 1024
        assert sent < MEBIBYTE

    event = app.receive()

    assert sent == len(event["body"])
    assert not exchange.upload_is_paused()
    exchange.send_body(b"end", end=True)
    assert request_event(b"end") == app.receive()


def test_whole_large_upload_arrives(serve: Serve, app: HandApplication) -> None:
    """Nothing is lost or repeated when reading stops and goes on (H17, H19)."""
    data = os.urandom(MEBIBYTE)
    exchange = serve(app).request("POST", more_body=True)
    for at in range(0, len(data), 50_000):
        exchange.send_body(data[at : at + 50_000])
    exchange.send_body(b"", end=True)

    received, more = b"", True
    while more:
        event = app.receive()
        received += event["body"]
        more = event["more_body"]

    assert data == received


def test_client_leaves_in_mid_body(serve: Serve, app: HandApplication) -> None:
    """A broken upload is never taken for a whole one (H21)."""
    exchange = serve(app).request("POST", body=b"half", more_body=True)
    assert request_event(b"half", more=True) == app.receive()
    receiving = app.begin_receive()

    exchange.send_body(b" of it")
    assert request_event(b" of it", more=True) == receiving.result()
    receiving = app.begin_receive()
    exchange.leave()

    assert DISCONNECT == receiving.result()
    assert DISCONNECT == app.receive()
    assert DISCONNECT == app.receive()


def test_client_leaves_after_its_body(serve: Serve, app: HandApplication) -> None:
    """An order that came whole can be carried out, though nobody waits (H20)."""
    exchange = serve(app).request("POST", body=b"order")

    exchange.leave()

    assert request_event(b"order") == app.receive()
    assert DISCONNECT == app.receive()


def test_client_leaves_before_the_response(serve: Serve, app: HandApplication) -> None:
    """Long polling learns at once that nobody waits any more (H20)."""
    exchange = serve(app).request()
    app.receive()
    receiving = app.begin_receive()
    assert not receiving.done()

    exchange.leave()

    assert DISCONNECT == receiving.result()
    assert DISCONNECT == app.receive()


def test_disconnect_comes_after_the_response(
    serve: Serve, app: HandApplication
) -> None:
    """Whoever waits for the client's going wakes when the response is out (H20)."""
    exchange = serve(app).request()
    app.receive()
    receiving = app.begin_receive()

    app.send(start(), body(b"done"))

    assert exchange.is_complete
    assert DISCONNECT == receiving.result()
    assert DISCONNECT == app.receive()


def test_unread_body_is_no_event_after_the_response(
    serve: Serve, app: HandApplication
) -> None:
    """An application that answered without reading gets a disconnect (H20)."""
    serve(app).request("POST", body=b"unread")

    app.send(start(), body(b"done"))

    assert DISCONNECT == app.receive()


def test_several_tasks_receive(serve: Serve, app: HandApplication) -> None:
    """Each event goes to exactly one of the tasks that wait for it (C17)."""
    exchange = serve(app).request("POST", more_body=True)
    tasks = [app.begin_receive() for _ in range(3)]

    exchange.send_body(b"one")
    assert 1 == sum(task.done() for task in tasks)
    exchange.send_body(b"two")
    assert 2 == sum(task.done() for task in tasks)
    exchange.leave()

    events = [task.result() for task in tasks]
    assert request_event(b"one", more=True) in events
    assert request_event(b"two", more=True) in events
    assert DISCONNECT in events


def test_all_tasks_learn_of_the_disconnect(serve: Serve, app: HandApplication) -> None:
    """A disconnect is for everybody (C17, H20)."""
    exchange = serve(app).request("POST", more_body=True)
    tasks = [app.begin_receive() for _ in range(3)]

    exchange.leave()

    assert [DISCONNECT] * 3 == [task.result() for task in tasks]


def test_cancelled_receive_loses_nothing(
    serve: Serve, app: HandApplication, loop: SteppedLoop
) -> None:
    """Asking with a time limit, again and again, gets the whole body (C17)."""
    exchange = serve(app).request("POST", more_body=True)
    for _ in range(3):
        receiving = app.begin_receive()
        receiving.cancel()
        loop.settle()
        assert receiving.cancelled()
    exchange.send_body(b"one")
    assert b"one" == app.receive()["body"]

    # Cancelled in the very turn in which the event comes.
    receiving = app.begin_receive()
    loop.call_soon(receiving.cancel)
    exchange.send_body(b"two")
    if receiving.cancelled():
        receiving = app.begin_receive()
    assert b"two" == receiving.result()["body"]


def test_continue_is_sent_when_the_body_is_wanted(
    serve: Serve, app: HandApplication
) -> None:
    """A client that asks first is asked for its body by receive() (H22)."""
    exchange = serve(app).request(
        "POST", headers=[(b"expect", b"100-continue")], more_body=True
    )
    assert [] == exchange.informational

    receiving = app.begin_receive()
    assert [(100, [])] == exchange.informational
    exchange.send_body(b"body", end=True)

    assert b"body" == receiving.result()["body"]
    app.send(start(), body(b"thanks"))
    assert [(100, [])] == exchange.informational
    assert exchange.is_complete


def test_no_continue_without_interest(serve: Serve, app: HandApplication) -> None:
    """An upload that is refused unread is never sent (H22)."""
    exchange = serve(app).request(
        "POST", headers=[(b"expect", b"100-continue")], more_body=True
    )

    app.send(start(413), body(b"too large"))

    assert [] == exchange.informational
    assert 413 == exchange.status
    assert exchange.is_complete


def test_no_continue_in_mid_response(serve: Serve, app: HandApplication) -> None:
    """Once the response has begun, no 100 comes into it (H22)."""
    exchange = serve(app).request(
        "POST", headers=[(b"expect", b"100-continue")], more_body=True
    )
    app.send(start(), body(b"not interested, ", more=True))

    receiving = app.begin_receive()
    app.send(body(b"really"))

    assert [] == exchange.informational
    assert b"not interested, really" == exchange.body
    assert exchange.is_complete
    assert DISCONNECT == receiving.result()


# -- The response ------------------------------------------------------------


def test_response_in_one_piece(serve: Serve) -> None:
    """The simplest response arrives with its length (H23, H26)."""
    exchange = serve(
        sending(
            start(201, [(b"x-a", b"1"), (b"x-b", b""), (b"x-a", b"2")]), body(b"made")
        )
    ).request()

    assert exchange.is_complete
    assert 201 == exchange.status
    assert b"made" == exchange.body
    own = [field for field in exchange.headers if field[0].startswith(b"x-")]
    assert [(b"x-a", b"1"), (b"x-b", b""), (b"x-a", b"2")] == own
    assert [b"4"] == exchange.values_of(b"content-length")


def test_defaults_of_messages(serve: Serve) -> None:
    """A status alone is a response: no headers, an empty body (H23, H26)."""
    exchange = serve(
        sending(
            {"type": "http.response.start", "status": 200},
            {"type": "http.response.body"},
        )
    ).request()

    assert exchange.is_complete
    assert 200 == exchange.status
    assert b"" == exchange.body
    assert [b"0"] == exchange.values_of(b"content-length")


def test_surplus_keys_are_ignored(serve: Serve) -> None:
    """Keys of a later ASGI, or of middleware, do no harm (C9)."""
    exchange = serve(
        sending(
            {**start(), "x": object()},
            {**hint(b"</a>; rel=preload"), "x": object()},
            {**body(b"a", more=True), "x": object()},
            {**body(b"b"), "x": object()},
        )
    ).request()

    assert b"ab" == exchange.body
    assert exchange.is_complete


def test_upper_case_names_are_sent_in_lower_case(serve: Serve) -> None:
    """An application that writes Content-Length is understood (H23)."""
    exchange = serve(
        sending(
            start(headers=[(b"Content-Length", b"2"), (b"X-Own", b"A")]), body(b"ok")
        )
    ).request()

    assert [b"2"] == exchange.values_of(b"content-length")
    assert [b"A"] == exchange.values_of(b"x-own")


@pytest.mark.parametrize(
    "headers",
    [
        [[b"x-own", b"a"]],
        ((b"x-own", b"a"),),
        {b"x-own": b"a"}.items(),
    ],
    ids=["lists", "tuples", "view"],
)
def test_headers_of_any_iterable(serve: Serve, headers: Any) -> None:
    """Pairs may be lists or tuples, in whatever can be iterated (H23)."""
    assert [b"a"] == serve(sending(start(headers=headers), body())).request().values_of(
        b"x-own"
    )


@pytest.mark.parametrize("kind", [list, tuple])
def test_headers_of_a_generator(serve: Serve, kind: type) -> None:
    """Headers that can be read only once are sent, whatever the pairs are (H23)."""
    fields = [(b"x-own", b"a"), (b"set-cookie", b"b")]

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(headers=(kind(pair) for pair in fields)))
        await send(body())

    exchange = serve(application).request()

    assert [b"a"] == exchange.values_of(b"x-own")
    assert [b"b"] == exchange.values_of(b"set-cookie")


def test_status_of_the_standard_library(serve: Serve) -> None:
    """An application may say HTTPStatus.NOT_FOUND (H23)."""
    exchange = serve(sending(start(HTTPStatus.NOT_FOUND), body())).request()

    assert 404 == exchange.status


def test_head_waits_for_the_body(serve: Serve, app: HandApplication) -> None:
    """Until a piece of the body is sent, an error can still be reported (H24)."""
    exchange = serve(app).request()

    statuses = [exchange.status]
    for message in (start(), body(b"", more=True)):
        app.send(message)
        statuses.append(exchange.status)

    assert [None, None, 200] == statuses
    assert not exchange.is_complete


def test_streaming(serve: Serve, app: HandApplication) -> None:
    """Each piece is on its way when send() returns (H25, H26)."""
    exchange = serve(app).request()

    app.send(start(), body(b"one ", more=True))
    assert b"one " == exchange.body
    app.send(body(b"", more=True))
    app.send(body(b"two", more=True))
    assert b"one two" == exchange.body
    complete_before = exchange.is_complete
    app.send(body())

    assert not complete_before
    assert exchange.is_complete
    assert b"one two" == exchange.body
    assert [] == exchange.values_of(b"content-length")


def test_streaming_with_a_length(serve: Serve) -> None:
    """An announced length is kept, and no other framing is added (H25)."""
    exchange = serve(
        sending(
            start(headers=[(b"content-length", b"6")]),
            body(b"one", more=True),
            body(b"two", more=True),
            body(),
        )
    ).request()

    assert b"onetwo" == exchange.body
    assert exchange.is_complete
    assert [b"6"] == exchange.values_of(b"content-length")
    assert [] == exchange.values_of(b"transfer-encoding")


@pytest.mark.parametrize("streamed", [False, True])
def test_framing_is_the_servers_business(serve: Serve, streamed: bool) -> None:
    """An application's transfer-encoding neither doubles nor replaces ours (H25)."""
    exchange = serve(
        sending(
            start(headers=[(b"transfer-encoding", b"chunked"), (b"x-own", b"a")]),
            body(b"one", more=streamed),
            body(b""),
        )
    ).request()

    assert b"one" == exchange.body
    assert exchange.is_complete
    assert len(exchange.values_of(b"transfer-encoding")) <= streamed
    assert [b"a"] == exchange.values_of(b"x-own")


@pytest.mark.parametrize("data", [bytearray(b"abc"), memoryview(b"abc")])
def test_bodies_that_are_nearly_bytes(serve: Serve, data: Any) -> None:
    """A bytearray or memoryview is sent as the bytes it holds (H26)."""
    exchange = serve(sending(start(), body(data, more=True), body(data))).request()

    assert b"abcabc" == exchange.body


@pytest.mark.parametrize("more", [True, 1, "yes", [0]])
def test_more_body_by_truth(serve: Serve, more: Any) -> None:
    """Whatever Python takes for true means that there is more (H26)."""
    exchange = serve(sending(start(), body(b"a", more=more), body(b"b"))).request()

    assert b"ab" == exchange.body
    assert exchange.is_complete


@pytest.mark.parametrize("more", [False, 0, None, ""])
def test_no_more_body_by_falsehood(serve: Serve, more: Any) -> None:
    """Whatever Python takes for false ends the body (H26)."""
    exchange = serve(sending(start(), body(b"a", more=more))).request()

    assert b"a" == exchange.body
    assert exchange.is_complete


def test_server_and_date_are_added(serve: Serve) -> None:
    """Responses tell the time and the server, as RFC 9110 asks (H35)."""
    exchange = serve(hello).request()

    assert [b"daphne-like"] == exchange.values_of(b"server")
    assert [b"Thu, 01 Jan 1970 00:16:40 GMT"] == exchange.values_of(b"date")


def test_own_server_and_date_replace_the_defaults(serve: Serve) -> None:
    """An application that sets them itself has them to itself (H35)."""
    exchange = serve(
        sending(start(headers=[(b"Server", b"mine"), (b"date", b"today")]), body())
    ).request()

    assert [b"mine"] == exchange.values_of(b"server")
    assert [b"today"] == exchange.values_of(b"date")


def test_messages_after_the_response_are_ignored(
    serve: Serve, app: HandApplication
) -> None:
    """A framework that says too much harms nobody (C12, H28)."""
    exchange = serve(app).request()
    app.send(start(), body(b"all"))

    app.send(
        body(b"more"), start(500), body(b"", more=True), {"type": "no.such.message"}
    )

    assert exchange.is_complete
    assert b"all" == exchange.body


def test_the_connection_serves_on(serve: Serve) -> None:
    """One client's requests follow each other on one connection (C5)."""
    server = serve(hello)
    exchange = server.request()

    for _ in range(3):
        exchange = server.request(after=exchange)
        assert b"Hello, World!" == exchange.body
        assert exchange.is_complete


# -- Back-pressure -----------------------------------------------------------


def test_slow_client_holds_the_application_up(
    serve: Serve, app: HandApplication
) -> None:
    """An application can't fill the memory for a client that reads slowly (H27)."""
    exchange = serve(app).request()
    exchange.stop_reading()

    sending = app.begin_send(start(), *[body(bytes(32 * 1024), more=True)] * 32)
    assert not sending.done()

    exchange.read_on()
    while not sending.done():
        size = len(exchange.body)
        exchange.read_on()
        assert len(exchange.body) > size
    app.send(body())
    assert MEBIBYTE == len(exchange.body)
    assert exchange.is_complete


def test_little_is_sent_ahead_of_a_slow_client(
    serve: Serve, app: HandApplication
) -> None:
    """What waits for a client that doesn't read is bounded (H27)."""
    exchange = serve(app).request()
    exchange.stop_reading()

    sending = app.begin_send(start(), *[body(bytes(16 * 1024), more=True)] * 64)
    exchange.leave()

    assert isinstance(sending.exception(), ClientDisconnected)


def test_waiting_send_ends_when_the_client_leaves(
    serve: Serve, app: HandApplication
) -> None:
    """send() doesn't hang on a client that has gone (C13)."""
    exchange = serve(app).request()
    exchange.stop_reading()
    sending = app.begin_send(start(), body(bytes(MEBIBYTE), more=True))
    assert not sending.done()

    exchange.leave()

    assert sending.done()
    assert sending.exception() is None


def test_cancelled_send_has_been_accepted(serve: Serve, app: HandApplication) -> None:
    """A send() that is cancelled while it waits has sent its message, once."""
    exchange = serve(app).request()
    exchange.stop_reading()
    sending = app.begin_send(start(), body(bytes(MEBIBYTE), more=True))
    sending.cancel()
    app.begin_send(body(b"end"))

    exchange.read_on()

    assert bytes(MEBIBYTE) + b"end" == exchange.body
    assert exchange.is_complete


def test_concurrent_sends_do_not_mix(serve: Serve, app: HandApplication) -> None:
    """Tasks that send at once interleave whole messages only (C18)."""
    exchange = serve(app).request()
    exchange.stop_reading()
    app.begin_send(start(), body(b"", more=True))

    pieces = [bytes([letter]) * 100_000 for letter in b"abc"]
    tasks = [app.begin_send(*[body(piece, more=True)] * 3) for piece in pieces]
    while not all(task.done() for task in tasks):
        exchange.read_on()
        exchange.stop_reading()
    exchange.read_on()
    app.send(body())

    parts = [exchange.body[at : at + 100_000] for at in range(0, 900_000, 100_000)]
    assert sorted(pieces * 3) == sorted(parts)
    assert exchange.is_complete


# -- The client leaves -------------------------------------------------------


def test_send_raises_when_the_client_has_gone(
    serve: Serve, app: HandApplication
) -> None:
    """An endless stream ends when nobody listens: send() raises an OSError (H30)."""
    exchange = serve(app).request()
    app.send(start(), body(b"one", more=True))

    exchange.leave()

    for message in (body(b"two", more=True), body(), start(), trailers()):
        sending = app.begin_send(message)
        error = sending.exception()
        assert isinstance(error, OSError)
        assert isinstance(error, ClientDisconnected)
        assert "the client has disconnected" == str(error)


def test_send_raises_before_the_response_began(
    serve: Serve, app: HandApplication
) -> None:
    """The work for a client that left before any answer can be dropped (H30)."""
    exchange = serve(app).request()

    exchange.leave()

    assert isinstance(app.begin_send(start()).exception(), ClientDisconnected)


class FrameworksOwn(Exception):
    """What a framework makes of an OSError out of send()."""


def wrapped(error: BaseException) -> BaseException:
    """Chain another exception to ``error``, explicitly."""
    framework = FrameworksOwn("client gone")
    framework.__cause__ = error
    return framework


def circular(error: BaseException) -> BaseException:
    """Chain an exception to itself beside ``error``."""
    error.__cause__ = error
    return error


class ClientDisconnect(Exception):
    """Named as Starlette's, which hides ours."""


FAREWELLS: dict[str, Callable[[Any], BaseException]] = {
    "as it is": lambda error: error,
    "chained": wrapped,
    "chained twice": lambda error: wrapped(wrapped(error)),
    "raised from itself": circular,
    "in a group": lambda error: ExceptionGroup("tasks", [error]),
    "chained in groups": lambda error: BaseExceptionGroup(
        "tasks",
        [BaseExceptionGroup("more", [wrapped(error)])],
    ),
    "in a group with a cancellation": lambda error: BaseExceptionGroup(
        "tasks", [asyncio.CancelledError(), error]
    ),
    "by a framework": lambda error: ClientDisconnect(),
}


@pytest.mark.parametrize("kind", FAREWELLS)
def test_farewell_is_no_error(
    serve: Serve, app: HandApplication, log: RecordedLog, kind: str
) -> None:
    """That the client has gone is no fault of the application's (C11, H31)."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
            await send(body(b"two", more=True))
        except OSError as error:
            raise FAREWELLS[kind](error)  # noqa: B904 - chained there, or not

    server = serve(application)
    exchange = server.request()
    app.send(start(), body(b"one", more=True))

    exchange.leave()
    app.end()

    assert 0 == server.running
    assert [] == log.take()


NO_FAREWELLS: dict[str, Callable[[Any], BaseException]] = {
    "another error": lambda error: KeyError("cleanup"),
    "in a group with another": lambda error: ExceptionGroup(
        "tasks",
        [error, KeyError("cleanup")],
    ),
    "with an odd attribute": lambda error: type(
        "Odd", (Exception,), {"exceptions": ()}
    )(),
}


@pytest.mark.parametrize("kind", NO_FAREWELLS)
def test_faults_are_logged_though_the_client_has_gone(
    serve: Serve, app: HandApplication, log: RecordedLog, kind: str
) -> None:
    """A fault in the clean-up shows, whether or not somebody still listens (H31)."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope, receive, send)
        try:
            await send(start())
        except OSError as error:
            raise NO_FAREWELLS[kind](error)  # noqa: B904 - as clean-up code does it

    server = serve(application)
    exchange = server.request(path="/clean")

    exchange.leave()
    app.end()

    (line,) = log.take()
    assert line.startswith("ERROR Exception in the application: GET /clean, ")
    assert 0 == server.running


def test_quiet_return_after_the_client_has_gone(
    serve: Serve, app: HandApplication, log: RecordedLog
) -> None:
    """An application that simply stops when the client leaves has done right (H32)."""
    server = serve(app)
    exchange = server.request()
    app.send(start(), body(b"one", more=True))

    exchange.leave()
    app.end()

    assert 0 == server.running
    assert [] == log.take()


# -- The application ends ----------------------------------------------------


def test_return_without_response(serve: Serve, log: RecordedLog) -> None:
    """A client never waits for an application that has forgotten it (H32)."""
    server = serve(sending())

    exchange = server.request(path="/forgetful?a=b")

    assert 500 == exchange.status
    assert b"Internal Server Error\n" == exchange.body
    assert exchange.is_complete
    (line,) = log.take()
    assert line.startswith(
        "ERROR The application returned without completing its response: "
        "GET /forgetful, 0.0 s old"
    )


def test_return_after_the_start(serve: Serve, log: RecordedLog) -> None:
    """What was promised by a start alone isn't sent (H24, H32)."""
    exchange = serve(sending(start(204, HTML))).request()

    assert 500 == exchange.status
    assert [] == exchange.values_of(b"x-own")
    assert b"Internal Server Error\n" == exchange.body
    assert 1 == len(log.take())


@pytest.mark.parametrize(
    "headers", [[], [(b"content-length", b"10")]], ids=["unsized", "sized"]
)
def test_return_in_mid_response(serve: Serve, log: RecordedLog, headers: Any) -> None:
    """A client can tell that something is missing (H32)."""
    exchange = serve(
        sending(start(headers=headers), body(b"half", more=True))
    ).request()

    assert 200 == exchange.status
    assert b"half" == exchange.body
    assert exchange.is_broken
    assert 1 == len(log.take())


def failing(*messages: Message, error: BaseException | None = None) -> ASGIApplication:
    """Make an application that sends these messages and raises."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)
        raise error or ZeroDivisionError("by the application")

    return application


@pytest.mark.parametrize(
    "messages", [[], [start(201, HTML)]], ids=["at once", "after the start"]
)
def test_error_before_the_response(
    serve: Serve, log: RecordedLog, messages: list[Message]
) -> None:
    """A fault in the application is a 500, at once and with its traceback (C10, H24)."""
    exchange = serve(failing(*messages)).request(path="/fault")

    assert 500 == exchange.status
    assert b"Internal Server Error\n" == exchange.body
    assert exchange.is_complete
    assert exchange.is_closed
    (record,) = (record for record in log.records if record.levelname == "ERROR")
    assert record.getMessage().startswith(
        "Exception in the application: GET /fault, 0.0 s old"
    )
    assert record.exc_info is not None
    _, error, traceback = record.exc_info
    assert isinstance(error, ZeroDivisionError)
    assert traceback is not None
    assert "application" == traceback.tb_frame.f_code.co_name
    log.take()


def test_error_in_mid_response(serve: Serve, log: RecordedLog) -> None:
    """After a fault in mid-stream the client sees that the rest is missing (C10)."""
    exchange = serve(failing(start(), body(b"half", more=True))).request()

    assert 200 == exchange.status
    assert b"half" == exchange.body
    assert exchange.is_broken
    assert exchange.is_closed
    assert [ZeroDivisionError] == [type(error) for error in log.take_errors()]


def test_error_after_the_response(serve: Serve, log: RecordedLog) -> None:
    """A fault in a background task is logged; the client has its answer (C10)."""
    server = serve(failing(start(), body(b"whole")))

    exchange = server.request()

    assert b"whole" == exchange.body
    assert exchange.is_complete
    assert [ZeroDivisionError] == [type(error) for error in log.take_errors()]
    assert server.request(after=exchange).is_complete
    log.take()


@pytest.mark.parametrize(
    "messages",
    [[], [start()], [start(), body(b"half", more=True)], [start(), body(b"whole")]],
    ids=["before", "after start", "in mid-body", "after"],
)
def test_errors_again_and_again(
    serve: Serve, log: RecordedLog, messages: list[Message]
) -> None:
    """One fault is like the other: each is logged, and the server serves on (C10)."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await (hello if scope["path"] == "/" else failing(*messages))(
            scope, receive, send
        )

    server = serve(application)
    for _ in range(3):
        server.request(path="/fault")
        assert [ZeroDivisionError] == [type(error) for error in log.take_errors()]
        assert b"Hello, World!" == server.request().body
    assert 0 == server.running


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), MemoryError()], ids=repr
)
def test_application_can_not_end_the_server(
    serve: Serve, log: RecordedLog, error: BaseException
) -> None:
    """sys.exit() in a view is a 500, and the next request is served (C10)."""
    server = serve(failing(error=error))

    assert 500 == server.request().status
    assert [error] == log.take_errors()
    assert 500 == server.request().status
    assert [error] == log.take_errors()


def test_stop_iteration_is_an_error_like_others(serve: Serve, log: RecordedLog) -> None:
    """An application that lets a StopIteration out gets its 500 (C10)."""

    def application(scope: Scope, receive: Receive, send: Send) -> Any:
        raise StopIteration

    assert 500 == serve(application).request().status
    (error,) = log.take_errors()
    assert isinstance(error, (StopIteration, RuntimeError))


def test_cancellation_of_its_own_making(serve: Serve, log: RecordedLog) -> None:
    """An application that trips over its own cancelled task is at fault (C10)."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        task = asyncio.ensure_future(asyncio.sleep(3600))
        await asyncio.sleep(0)
        task.cancel()
        await task

    exchange = serve(application).request()

    assert 500 == exchange.status
    (error,) = log.take_errors()
    assert "cancelled, but not by the server" in str(error)


def test_background_work_may_go_on(serve: Serve, app: HandApplication) -> None:
    """After a complete response an application has all the time it wants."""
    server = serve(app, application_close_timeout=10)
    exchange = server.request()
    app.send(start(), body(b"done"))

    exchange.leave()
    server.advance(100)

    assert 1 == server.running
    app.end()
    assert 0 == server.running


# -- The application goes on without its client -------------------------------


class Stubborn:
    """An application that counts what is done to it."""

    def __init__(self, *messages: Message, swallow: bool = False) -> None:
        self.messages, self.swallow, self.cancelled = messages, swallow, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the messages, then wait for ever."""
        for message in self.messages:
            await send(message)
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                self.cancelled += 1
                if not self.swallow:
                    raise


def test_application_outlives_its_client(serve: Serve, log: RecordedLog) -> None:
    """It may go on for a while; then it is cancelled once, with one line (C16)."""
    application = Stubborn()
    server = serve(application, application_close_timeout=10)
    exchange = server.request("POST", "/slow?secret=1")

    exchange.leave()
    server.advance(9)
    assert 0 == application.cancelled
    server.advance(2)

    assert 1 == application.cancelled
    assert 0 == server.running
    (line,) = log.take()
    assert line.startswith("WARNING Cancelling the application")
    assert "POST /slow, " in line
    assert line.endswith(" s old")
    server.advance(60)


def test_close_timeout_of_zero(serve: Serve, log: RecordedLog) -> None:
    """With 0, an application is cancelled as soon as its client has left (C16)."""
    application = Stubborn(start(), body(b"half", more=True))
    server = serve(application, application_close_timeout=0)
    exchange = server.request()

    exchange.leave()

    assert 1 == application.cancelled
    assert 0 == server.running
    assert 1 == len(log.take())


def test_cancellation_that_is_swallowed(serve: Serve, log: RecordedLog) -> None:
    """An application that won't end is left behind, and not waited for (C16)."""
    application = Stubborn(swallow=True)
    server = serve(application, application_close_timeout=10)
    exchange = server.request(path="/stubborn")

    exchange.leave()
    server.advance(11)
    assert 1 == server.running
    server.advance(6)

    assert 0 == server.running
    assert 1 == application.cancelled
    warning, error = log.take()
    assert warning.startswith("WARNING Cancelling")
    assert error.startswith(
        "ERROR The application goes on although it was cancelled: GET /stubborn"
    )


@pytest.mark.parametrize("swallow", [False, True])
def test_shutdown_cancels_once(serve: Serve, log: RecordedLog, swallow: bool) -> None:
    """At shutdown the client is told, and the application cancelled once (C16)."""
    application = Stubborn(swallow=swallow)
    server = serve(application)
    exchange = server.request(path="/long")

    server.streams.manager.cancel_all()
    server.advance(1)
    server.streams.manager.cancel_all()
    server.advance(6)

    assert 1 == application.cancelled
    assert 0 == server.running
    lines = log.take()
    assert lines[0].startswith("WARNING Cancelling the application: GET /long, ")
    assert 1 + swallow == len(lines)
    if not swallow:
        assert 503 == exchange.status
        assert b"The server is shutting down.\n" == exchange.body


def test_shutdown_in_mid_response(serve: Serve, log: RecordedLog) -> None:
    """A stream that is cut at shutdown is seen to be cut (C16)."""
    server = serve(Stubborn(start(), body(b"half", more=True)))
    exchange = server.request()

    server.streams.manager.cancel_all()
    server.advance(1)

    assert exchange.is_broken
    assert 1 == len(log.take())


def test_answer_in_spite_of_cancellation(serve: Serve, log: RecordedLog) -> None:
    """An application may use its last moments to answer (C16)."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            await send(start(503))
            await send(body(b"come back later"))

    server = serve(application)
    exchange = server.request()

    server.streams.manager.cancel_all()
    server.advance(1)

    assert b"come back later" == exchange.body
    assert exchange.is_complete
    assert 1 == len(log.take())


# -- Messages that ASGI forbids ----------------------------------------------

BEFORE = "came before the response was started"
STARTED = "came after the response was started"

FORBIDDEN: dict[str, tuple[list[Any], str]] = {
    "no dict": ([None], 'a message must be a dict with a "type"'),
    "text": (["http.response.start"], 'a message must be a dict with a "type"'),
    "no type": ([{"status": 200}], 'a message must be a dict with a "type"'),
    "unknown type": ([{"type": "http.start"}], f"'http.start' {BEFORE}"),
    "type is a list": ([{"type": []}], 'a message must be a dict with a "type"'),
    "type is None": ([{"type": None}], f"None {BEFORE}"),
    "another protocol": ([{"type": "websocket.accept"}], BEFORE),
    "body first": ([body(b"a")], f"'http.response.body' {BEFORE}"),
    "file first": ([path("/etc/hosts")], f"'http.response.pathsend' {BEFORE}"),
    "trailers first": ([trailers()], f"'http.response.trailers' {BEFORE}"),
    "start twice": ([start(), start()], f"'http.response.start' {STARTED}"),
    "start in mid-body": (
        [start(), body(b"a", more=True), start()],
        "'http.response.start' came in the middle of the body, where ASGI expects http",
    ),
    "trailers not announced": (
        [start(), body(b"a", more=True), trailers()],
        "'http.response.trailers' came in the middle of the body",
    ),
    "no status": (
        [{"type": "http.response.start"}],
        "status must be an integer from 200 to 999, not None",
    ),
    "status is text": ([start("200")], "status must be an integer .*, not '200'"),
    "status is a float": ([start(200.0)], "status must be an integer .*, not 200.0"),
    "status is True": ([start(True)], "status must be an integer .*, not True"),
    "status 99": ([start(99)], "status must be an integer .*, not 99"),
    "status 101": ([start(101)], "status must be an integer .*, not 101"),
    "status 1000": ([start(1000)], "status must be an integer .*, not 1000"),
    "headers None": ([start(headers=None)], "headers must be pairs of bytes, not None"),
    "headers of a number": ([start(headers=[5])], "headers must be pairs of bytes"),
    "name is text": (
        [start(headers=[("x-text", b"a")])],
        "Header name 'x-text' expected to be `bytes`, but got `<class 'str'>`",
    ),
    "value is text": (
        [start(headers=[(b"x-bytes", "a")])],
        "Header value 'a' expected to be `bytes`, but got `<class 'str'>`",
    ),
    "value is a number": (
        [start(headers=[(b"content-length", 5)])],
        "Header value '5' expected to be `bytes`, but got `<class 'int'>`",
    ),
    "pair of three": (
        [start(headers=[(b"x-a", b"b", b"c")])],
        "headers must be pairs of bytes",
    ),
    "CR LF in a value": (
        [start(headers=[(b"x-a", b"b\r\nset-cookie: c")])],
        "the value of header 'x-a' holds a CR, LF or NUL",
    ),
    "LF in a value": ([start(headers=[(b"x-a", b"b\n")])], "holds a CR, LF or NUL"),
    "NUL in a value": ([start(headers=[(b"x-a", b"\0")])], "holds a CR, LF or NUL"),
    "LF in a name": ([start(headers=[(b"x\n", b"a")])], r"header name b'x\\n' is no"),
    "space in a name": ([start(headers=[(b"x ", b"a")])], "header name b'x ' is no"),
    "empty name": ([start(headers=[(b"", b"a")])], "header name b'' is no token"),
    "pseudo-header": (
        [start(headers=[(b":status", b"200")])],
        "header name b':status' is no token",
    ),
    "length is no number": (
        [start(headers=[(b"content-length", b"-1")])],
        "content-length b'-1' is invalid",
    ),
    "two lengths": (
        [start(headers=[(b"content-length", b"1")] * 2)],
        "there is more than one content-length",
    ),
    "body is text": ([start(), body("a")], "body must be bytes, not str"),
    "body is None": ([start(), body(None)], "body must be bytes, not NoneType"),
    "body is a list": ([start(), body([1])], "body must be bytes, not list"),
    "further body is text": (
        [start(), body(b"a", more=True), body("b")],
        "body must be bytes, not str",
    ),
    "links None": (
        [{"type": "http.response.early_hint", "links": None}],
        "links must be an iterable of bytes, not None",
    ),
    "links is one": (
        [{"type": "http.response.early_hint", "links": b"</a>"}],
        "links must be an iterable of bytes, not b'</a>'",
    ),
    "link is text": (
        [{"type": "http.response.early_hint", "links": ["</a>"]}],
        "Header value '</a>' expected to be `bytes`, but got `<class 'str'>`",
    ),
    "CR LF in a link": ([hint(b"</a>\r\nx: y")], "holds a CR, LF or NUL"),
    "relative path": (
        [start(), path("a.txt")],
        "path must be a str with an absolute path, not 'a.txt'",
    ),
    "path is missing": (
        [start(), {"type": "http.response.pathsend"}],
        "path must be a str with an absolute path, not None",
    ),
    "path is a Path": (
        [start(), {"type": "http.response.pathsend", "path": Path("/a")}],
        "path must be a str with an absolute path",
    ),
    "file is missing": (
        [start(), {"type": "http.response.zerocopysend"}],
        "file must be an open regular file",
    ),
    "file is a path": ([start(), file("/etc/hosts")], "must be an open regular file"),
    "file is True": ([start(), file(True)], "must be an open regular file"),
}


@pytest.mark.parametrize("case", FORBIDDEN)
def test_forbidden_message(serve: Serve, log: RecordedLog, case: str) -> None:
    """What is wrong with a message is told out of send(), and in the log (C8, H23)."""
    messages, text = FORBIDDEN[case]
    failures = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        *before, wrong = messages
        for message in before:
            await send(message)
        failures.append(await failure_of(send(wrong)))
        raise failures[0] or AssertionError("it was accepted")

    exchange = serve(application).request()

    (failure,) = failures
    with pytest.raises(InvalidMessage, match=text):
        raise failure or AssertionError("it was accepted")
    assert isinstance(failure, ValueError)
    assert failures == log.take_errors()
    if len(messages) < 3:
        assert 500 == exchange.status
    else:
        assert exchange.is_broken


@pytest.mark.parametrize("case", FORBIDDEN)
def test_forbidden_message_changes_nothing(serve: Serve, case: str) -> None:
    """An application that gets over its mistake can still answer (C8)."""
    messages, _ = FORBIDDEN[case]

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        *before, wrong = messages
        for message in before:
            await send(message)
        await failure_of(send(wrong))
        if len(before) == 0 or wrong.get("type") == "http.response.pathsend":
            await send(start())
        await send(body(b"right"))

    exchange = serve(application).request()

    assert 200 == exchange.status
    assert exchange.body in (b"right", b"aright")
    assert exchange.is_complete


def test_huge_wrong_message_is_told_in_short(serve: Serve, log: RecordedLog) -> None:
    """A forgotten type doesn't put a megabyte of body into the log (C8)."""
    exchange = serve(sending({"body": bytes(MEBIBYTE)})).request()

    assert 500 == exchange.status
    (error,) = log.take_errors()
    assert len(str(error)) < 500


def test_response_can_not_be_split(serve: Serve, log: RecordedLog) -> None:
    """A line break in a redirect's target adds no header to the response (H23)."""
    exchange = serve(
        sending(
            start(302, [(b"location", b"/\r\nset-cookie: admin=1\r\n\r\n<html>")]),
            body(),
        )
    ).request()

    assert 500 == exchange.status
    assert [] == exchange.values_of(b"set-cookie")
    assert 1 == len(log.take())


# -- Lengths and answers without a body --------------------------------------


@pytest.mark.parametrize(
    ("length", "pieces", "text"),
    [
        (b"3", [body(b"four")], "longer than its content-length: 4 bytes instead of 3"),
        (
            b"5",
            [body(b"four")],
            "shorter than its content-length: 4 bytes instead of 5",
        ),
        (b"5", [body()], "shorter than its content-length: 0 bytes instead of 5"),
        (b"0", [body(b"x", more=True)], "longer than its content-length"),
    ],
)
def test_wrong_length_at_once(
    serve: Serve, log: RecordedLog, length: bytes, pieces: list[Message], text: str
) -> None:
    """A length that doesn't fit is found before anything is sent (H34)."""
    exchange = serve(
        sending(start(headers=[(b"content-length", length)]), *pieces)
    ).request()

    assert 500 == exchange.status
    assert exchange.is_closed
    (error,) = log.take_errors()
    assert isinstance(error, InvalidMessage)
    assert text in str(error)


@pytest.mark.parametrize(
    "last", [body(b"three"), body(b"thr", more=True), body(b"")], ids=repr
)
def test_wrong_length_in_mid_body(
    serve: Serve, log: RecordedLog, last: Message
) -> None:
    """A client never takes a body of the wrong length for a whole one (H34)."""
    exchange = serve(
        sending(
            start(headers=[(b"content-length", b"5")]), body(b"one", more=True), last
        )
    ).request()

    assert b"one" == exchange.body
    assert exchange.is_broken
    (error,) = log.take_errors()
    assert "than its content-length" in str(error)


def test_wrong_length_can_be_mended(serve: Serve) -> None:
    """An application that sent too much may send what was announced (H34)."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(headers=[(b"content-length", b"6")]))
        await send(body(b"one", more=True))
        await failure_of(send(body(b"four")))
        await send(body(b"two"))

    exchange = serve(application).request()

    assert b"onetwo" == exchange.body
    assert exchange.is_complete


def test_head_has_the_length_of_get(serve: Serve) -> None:
    """HEAD tells what GET would send, without sending it (H33)."""
    exchange = serve(hello).request("HEAD")

    assert exchange.is_complete
    assert b"" == exchange.body
    assert [b"13"] == exchange.values_of(b"content-length")


def test_head_keeps_the_announced_length(serve: Serve) -> None:
    """A length that the application tells for HEAD is sent as it is (H33)."""
    server = serve(sending(start(headers=[(b"content-length", b"1000000")]), body()))

    exchange = server.request("HEAD")

    assert exchange.is_complete
    assert [b"1000000"] == exchange.values_of(b"content-length")
    assert server.request("HEAD", after=exchange).is_complete


def test_head_of_a_stream(serve: Serve) -> None:
    """A HEAD of a streamed page is answered with its first piece (H33)."""
    server = serve(sending(start(), *[body(b"piece", more=True)] * 9, body(b"last")))

    exchange = server.request("HEAD")

    assert exchange.is_complete
    assert b"" == exchange.body
    assert [] == exchange.values_of(b"content-length")
    assert 0 == server.running
    assert server.request("HEAD", after=exchange).is_complete


def test_head_of_an_endless_stream(serve: Serve, log: RecordedLog) -> None:
    """A HEAD of server-sent events neither blocks the server nor runs for ever (H33)."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(headers=[(b"content-type", b"text/event-stream")]))
        while True:
            await send(body(b"data: tick\n\n", more=True))

    server = serve(application, application_close_timeout=10)

    exchange = server.request("HEAD", "/events")

    assert exchange.is_complete
    assert 1 == server.running
    server.advance(11)
    assert 0 == server.running
    (line,) = log.take()
    assert line.startswith("WARNING Cancelling the application")
    assert "HEAD /events" in line


def test_head_of_an_endless_stream_that_listens(serve: Serve) -> None:
    """A stream that listens for the disconnect learns that it isn't needed (H33)."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start())
        await send(body(b"data: tick\n\n", more=True))
        await receive()
        await send(hint(b"</late>"))
        await send(body(b"data: tick\n\n", more=True))
        raise ClientDisconnect

    server = serve(application)

    assert server.request("HEAD").is_complete
    assert 0 == server.running


@pytest.mark.parametrize("status", [204, 304])
def test_status_without_body(serve: Serve, status: int) -> None:
    """204 and 304 have no body, whatever the application sends (H33)."""
    server = serve(sending(start(status), body(b"some ", more=True), body(b"content")))

    exchange = server.request()

    assert status == exchange.status
    assert b"" == exchange.body
    assert exchange.is_complete
    assert [] == exchange.values_of(b"content-length")
    assert [] == exchange.values_of(b"transfer-encoding")
    assert server.request(after=exchange).is_complete


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_status_without_body_in_one_piece(
    serve: Serve, status: int, method: str
) -> None:
    """No length is made up for a body which there can't be (H33)."""
    exchange = serve(sending(start(status), body(b"content"))).request(method)

    assert exchange.is_complete
    assert [] == exchange.values_of(b"content-length")


def test_204_has_no_length(serve: Serve) -> None:
    """A length that the application gave a 204 is removed (H33)."""
    exchange = serve(
        sending(start(204, [(b"content-length", b"0"), (b"x-own", b"a")]), body())
    ).request()

    assert [] == exchange.values_of(b"content-length")
    assert [b"a"] == exchange.values_of(b"x-own")


def test_304_keeps_its_length(serve: Serve) -> None:
    """A 304 may tell how long the unchanged page is (H33)."""
    exchange = serve(
        sending(start(304, [(b"content-length", b"5000")]), body())
    ).request()

    assert [b"5000"] == exchange.values_of(b"content-length")
    assert exchange.is_complete


# -- Trailers ----------------------------------------------------------------


def test_trailers(serve: Serve) -> None:
    """A checksum follows the body for clients that ask for it (H29, E10)."""
    exchange = serve(
        sending(
            start(headers=[(b"trailer", b"digest")], trailers=True),
            body(b"one ", more=True),
            body(b"two"),
            trailers((b"digest", b"abc"), more=True),
            trailers((b"X-More", b"d")),
        )
    ).request(headers=TE_TRAILERS)

    assert b"one two" == exchange.body
    assert exchange.is_complete
    assert [(b"digest", b"abc"), (b"x-more", b"d")] == exchange.trailers
    assert [b"digest"] == exchange.values_of(b"trailer")


def test_trailers_behind_a_body_in_one_piece(serve: Serve) -> None:
    """The response isn't over until the announced trailers have come (H29, E10)."""
    exchange = serve(
        sending(start(trailers=True), body(b"all"), trailers((b"digest", b"abc")))
    ).request(headers=TE_TRAILERS)

    assert b"all" == exchange.body
    assert [(b"digest", b"abc")] == exchange.trailers


def test_response_waits_for_its_trailers(serve: Serve, app: HandApplication) -> None:
    """After the body the client still waits; then the response is over (H28, H29)."""
    exchange = serve(app).request(headers=TE_TRAILERS)
    app.receive()

    app.send(start(trailers=True), body(b"all"))
    receiving = app.begin_receive()
    assert not receiving.done()
    complete_before = exchange.is_complete
    app.send({"type": "http.response.trailers"})

    assert not complete_before
    assert exchange.is_complete
    assert [] == exchange.trailers
    assert DISCONNECT == receiving.result()
    app.send(trailers((b"late", b"a")))


def test_trailers_that_never_come(serve: Serve, log: RecordedLog) -> None:
    """An application that forgets its trailers hasn't completed its response (H29)."""
    exchange = serve(sending(start(trailers=True), body(b"all"))).request(
        headers=TE_TRAILERS
    )

    assert exchange.is_broken
    (line,) = log.take()
    assert "returned without completing its response" in line


def test_trailers_for_clients_that_did_not_ask(serve: Serve) -> None:
    """Trailers are consumed and dropped when the client can't use them (E11)."""
    exchange = serve(
        sending(
            start(trailers=True),
            body(b"all"),
            trailers((b"digest", b"abc"), more=True),
            trailers(),
        )
    ).request()

    assert b"all" == exchange.body
    assert exchange.is_complete
    assert [] == exchange.trailers


@pytest.mark.parametrize(
    ("method", "status", "headers"),
    [
        ("GET", 200, [(b"content-length", b"3")]),
        ("HEAD", 200, []),
        ("GET", 304, []),
    ],
    ids=["sized", "HEAD", "304"],
)
def test_trailers_that_can_not_be_sent(
    serve: Serve, method: str, status: int, headers: Any
) -> None:
    """Where a body has an announced length, or is none, trailers are dropped (E13)."""
    exchange = serve(
        sending(
            start(status, headers, trailers=True),
            body(b"all"),
            trailers((b"digest", b"abc")),
        )
    ).request(method, headers=TE_TRAILERS)

    assert exchange.is_complete
    assert [] == exchange.trailers


def test_trailers_that_frame_or_route_are_dropped(serve: Serve) -> None:
    """A trailer can't change how the message was framed (E12)."""
    exchange = serve(
        sending(
            start(trailers=True),
            body(b"all"),
            trailers(
                (b"Content-Length", b"1"),
                (b"transfer-encoding", b"chunked"),
                (b"host", b"a"),
                (b"trailer", b"b"),
                (b"digest", b"abc"),
            ),
        )
    ).request(headers=TE_TRAILERS)

    assert [(b"digest", b"abc")] == exchange.trailers
    assert exchange.is_complete


def test_forbidden_trailers(serve: Serve, log: RecordedLog) -> None:
    """Trailers are checked as headers are (C8, E10)."""
    exchange = serve(
        sending(start(trailers=True), body(b"all"), trailers((b"a", b"b\r\nc: d")))
    ).request(headers=TE_TRAILERS)

    assert exchange.is_broken
    (error,) = log.take_errors()
    assert isinstance(error, InvalidMessage)


def test_body_where_trailers_are_due(serve: Serve, log: RecordedLog) -> None:
    """No body comes after the last piece, also when trailers are awaited (C8)."""
    serve(sending(start(trailers=True), body(b"all"), body(b"more"))).request(
        headers=TE_TRAILERS
    )

    (error,) = log.take_errors()
    assert (
        "'http.response.body' came after the body, before the trailers, where ASGI "
        "expects http.response.trailers"
    ) == str(error)


# -- Early hints -------------------------------------------------------------

LINKS = [b"</style.css>; rel=preload", b"</script.js>; rel=preload"]


@pytest.mark.parametrize(
    "messages",
    [
        [hint(*LINKS), start(), body(b"page")],
        [start(), hint(*LINKS), body(b"page")],
    ],
    ids=["before", "after"],
)
def test_early_hints(serve: Serve, messages: list[Message]) -> None:
    """The browser fetches the style sheet while the page is made (E8, E9)."""
    exchange = serve(sending(*messages)).request()

    assert [(103, [(b"link", link) for link in LINKS])] == exchange.informational
    assert 200 == exchange.status
    assert b"page" == exchange.body
    assert [] == exchange.values_of(b"link")


def test_early_hints_come_early(serve: Serve, app: HandApplication) -> None:
    """A hint is on its way before the response, as often as it is given (E8)."""
    exchange = serve(app).request()

    app.send(hint(LINKS[0]))
    assert 1 == len(exchange.informational)
    app.send(start(), hint(LINKS[1]))
    assert 2 == len(exchange.informational)
    assert exchange.status is None
    app.send(body(b"page"))

    assert exchange.is_complete


def test_late_hints_are_ignored(serve: Serve) -> None:
    """ASGI allows a hint before the final body, where no 103 can be sent (E8)."""
    exchange = serve(
        sending(start(), body(b"a", more=True), hint(*LINKS), body(b"b"))
    ).request()

    assert [] == exchange.informational
    assert b"ab" == exchange.body


def test_hint_without_links(serve: Serve) -> None:
    """A hint at nothing sends nothing (E8)."""
    exchange = serve(
        sending({"type": "http.response.early_hint"}, start(), body(b"page"))
    ).request()

    assert [] == exchange.informational


def test_error_after_a_hint(serve: Serve, log: RecordedLog) -> None:
    """A hint commits to nothing: an error is still a 500 (H24, E8)."""
    exchange = serve(failing(hint(*LINKS))).request()

    assert 1 == len(exchange.informational)
    assert 500 == exchange.status
    log.take()


# -- Files by path -----------------------------------------------------------


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A file to send."""
    page = tmp_path / "page.html"
    page.write_bytes(b"0123456789" * 10)
    return page


def test_pathsend(serve: Serve, page: Path) -> None:
    """The server sends a file which the application names (E6)."""
    server = serve(sending(start(headers=HTML), path(page)))

    exchange = server.request()

    assert page.read_bytes() == exchange.body
    assert exchange.is_complete
    assert [b"100"] == exchange.values_of(b"content-length")
    assert server.request(after=exchange).is_complete


def test_pathsend_with_a_length(serve: Serve, page: Path) -> None:
    """The application's own type and length are sent as they are (E6)."""
    exchange = serve(
        sending(start(headers=[*HTML, (b"content-length", b"100")]), path(page))
    ).request()

    assert page.read_bytes() == exchange.body
    assert [b"100"] == exchange.values_of(b"content-length")


def test_pathsend_of_a_large_file(
    serve: Serve, page: Path, app: HandApplication
) -> None:
    """A large file goes out as fast as the client takes it (E6, H27)."""
    page.write_bytes(os.urandom(MEBIBYTE))
    exchange = serve(app).request()
    exchange.stop_reading()

    sending = app.begin_send(start(), path(page))
    assert not sending.done()
    while not sending.done():
        exchange.read_on()

    assert page.read_bytes() == exchange.body
    assert exchange.is_complete


def test_pathsend_of_an_empty_file(serve: Serve, page: Path) -> None:
    """An empty file is a complete response (E6)."""
    page.write_bytes(b"")
    server = serve(sending(start(), path(page)))

    exchange = server.request()

    assert b"" == exchange.body
    assert exchange.is_complete
    assert [b"0"] == exchange.values_of(b"content-length")
    assert server.request(after=exchange).is_complete


def test_pathsend_to_head(serve: Serve, page: Path) -> None:
    """HEAD tells how long the file is (E6, H33)."""
    exchange = serve(sending(start(), path(page))).request("HEAD")

    assert b"" == exchange.body
    assert exchange.is_complete
    assert [b"100"] == exchange.values_of(b"content-length")


def test_pathsend_with_304(serve: Serve, page: Path) -> None:
    """A file that hasn't changed isn't sent again (E6, H33)."""
    exchange = serve(sending(start(304), path(page))).request()

    assert b"" == exchange.body
    assert [] == exchange.values_of(b"content-length")
    assert exchange.is_complete


def test_pathsend_with_trailers(serve: Serve, page: Path) -> None:
    """Trailers can follow a file, as they follow any body (E6, E10)."""
    exchange = serve(
        sending(start(trailers=True), path(page), trailers((b"digest", b"abc")))
    ).request(headers=TE_TRAILERS)

    assert page.read_bytes() == exchange.body
    assert [(b"digest", b"abc")] == exchange.trailers


def unreadable(folder: Path, kind: str) -> Path:
    """Make what can't be sent."""
    where = folder / "x"
    if kind == "directory":
        where.mkdir()
    elif kind == "fifo":
        os.mkfifo(where)
    elif kind == "device":
        where = Path("/dev/zero")
    elif kind == "NUL":
        where = folder / "x\0y"
    elif kind == "below a file":
        where.write_bytes(b"")
        where /= "y"
    return where


@pytest.mark.parametrize(
    "kind", ["missing", "below a file", "directory", "fifo", "device", "NUL"]
)
def test_pathsend_of_what_can_not_be_sent(
    serve: Serve, tmp_path: Path, kind: str
) -> None:
    """The application learns at once that there is no such file, and can say so (E7)."""
    failures = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start(304, [(b"x-file", b"yes")], trailers=True))
        failures.append(await failure_of(send(path(unreadable(tmp_path, kind)))))
        await send(start(404))
        await send(body(b"no such page"))

    exchange = serve(application).request(headers=TE_TRAILERS)

    (failure,) = failures
    assert isinstance(failure, (OSError, InvalidMessage))
    assert not isinstance(failure, ClientDisconnected)
    assert 404 == exchange.status
    assert b"no such page" == exchange.body
    assert [] == exchange.values_of(b"x-file")
    assert exchange.is_complete


def test_pathsend_failure_left_alone(
    serve: Serve, tmp_path: Path, log: RecordedLog
) -> None:
    """A missing file that the application doesn't care about is a 500 (E7)."""
    exchange = serve(sending(start(), path(tmp_path / "missing"))).request()

    assert 500 == exchange.status
    (error,) = log.take_errors()
    assert isinstance(error, FileNotFoundError)


@pytest.mark.parametrize("length", [b"99", b"101"])
def test_pathsend_of_another_length(
    serve: Serve, page: Path, log: RecordedLog, length: bytes
) -> None:
    """A file that isn't as long as announced is found before it is sent (E7, H34)."""
    exchange = serve(
        sending(start(headers=[(b"content-length", length)]), path(page))
    ).request()

    assert 500 == exchange.status
    (error,) = log.take_errors()
    assert "than its content-length: 100 bytes" in str(error)


def test_pathsend_is_not_mixed_with_body(
    serve: Serve, page: Path, log: RecordedLog
) -> None:
    """A file by its path is the whole body (E6)."""
    exchange = serve(sending(start(), body(b"a", more=True), path(page))).request()

    assert exchange.is_broken
    (error,) = log.take_errors()
    assert "'http.response.pathsend' came in the middle of the body" in str(error)


def test_body_after_pathsend_is_ignored(serve: Serve, page: Path) -> None:
    """After the file the response is complete (E6, H28)."""
    exchange = serve(sending(start(), path(page), body(b"more"), path(page))).request()

    assert page.read_bytes() == exchange.body
    assert exchange.is_complete


# -- Open files --------------------------------------------------------------


def test_zero_copy(serve: Serve, page: Path) -> None:
    """An open file is sent from its position to its end, and stays open (E4, E5)."""
    with page.open("rb") as opened:
        server = serve(sending(start(), file(opened)))
        exchange = server.request()

        assert page.read_bytes() == exchange.body
        assert exchange.is_complete
        assert [b"100"] == exchange.values_of(b"content-length")
        assert 100 == opened.tell()
        assert b"" == opened.read()
        opened.seek(0)
        assert b"0" == opened.read(1)


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        ({}, b"0123456789" * 10),
        ({"offset": 95}, b"56789"),
        ({"count": 3}, b"012"),
        ({"offset": 11, "count": 3}, b"123"),
        ({"offset": 0, "count": 100}, b"0123456789" * 10),
        ({"offset": 98, "count": 100}, b"89"),
        ({"offset": 100}, b""),
        ({"offset": 1000}, b""),
        ({"count": 0}, b""),
        ({"offset": None, "count": None}, b"0123456789" * 10),
    ],
    ids=repr,
)
def test_zero_copy_of_a_part(
    serve: Serve, page: Path, part: dict[str, Any], expected: bytes
) -> None:
    """Offset and count choose the bytes, as they do for os.sendfile (E4)."""
    with page.open("rb") as opened:
        exchange = serve(sending(start(), file(opened, **part))).request()

    assert expected == exchange.body
    assert exchange.is_complete


def test_zero_copy_of_a_descriptor(serve: Serve, page: Path) -> None:
    """A number is enough where it is that of an open file (E4)."""
    descriptor = os.open(page, os.O_RDONLY)
    try:
        exchange = serve(
            sending(
                start(),
                file(descriptor, count=4, more=True),
                file(descriptor, count=2),
            )
        ).request()

        assert b"012345" == exchange.body
        assert 6 == os.lseek(descriptor, 0, os.SEEK_CUR)
    finally:
        os.close(descriptor)


def test_zero_copy_mixed_with_body(serve: Serve, page: Path) -> None:
    """Parts of files and pieces of body make one response (E4)."""
    with page.open("rb") as opened:
        exchange = serve(
            sending(
                start(),
                body(b"<", more=True),
                file(opened, count=3, more=True),
                body(b"|", more=True),
                file(opened, count=3, more=True),
                file(opened, offset=50, count=2, more=True),
                file(opened, count=1, more=True),
                body(b">"),
            )
        ).request()

    assert b"<012|345016>" == exchange.body
    assert exchange.is_complete


def test_zero_copy_goes_on_where_the_application_read(serve: Serve, page: Path) -> None:
    """The position is the application's, not that of Python's read-ahead (E4)."""
    with page.open("rb") as opened:
        assert b"012" == opened.read(3)
        exchange = serve(sending(start(), file(opened, count=4))).request()

        assert b"3456" == exchange.body
        assert b"789" == opened.read(3)


def test_zero_copy_with_an_offset_leaves_the_position(serve: Serve, page: Path) -> None:
    """A part that says where it begins doesn't move the file's position (E4)."""
    with page.open("rb") as opened:
        opened.seek(7)
        serve(sending(start(), file(opened, offset=50, count=5))).request()

        assert b"789" == opened.read(3)


def test_zero_copy_within_a_length(serve: Serve, page: Path) -> None:
    """Parts of files count towards the announced length (E4, H34)."""
    with page.open("rb") as opened:
        exchange = serve(
            sending(
                start(headers=[(b"content-length", b"7")]),
                file(opened, count=3, more=True),
                file(opened, count=4),
            )
        ).request()

    assert b"0123456" == exchange.body
    assert [b"7"] == exchange.values_of(b"content-length")


@pytest.mark.parametrize("count", [6, 8])
def test_zero_copy_of_another_length(
    serve: Serve, page: Path, log: RecordedLog, count: int
) -> None:
    """A part that doesn't fit the announced length isn't sent (E4, H34)."""
    with page.open("rb") as opened:
        exchange = serve(
            sending(
                start(headers=[(b"content-length", b"7")]), file(opened, count=count)
            )
        ).request()

    assert 500 == exchange.status
    (error,) = log.take_errors()
    assert "than its content-length" in str(error)


def test_zero_copy_to_head(serve: Serve, page: Path) -> None:
    """HEAD tells the length of the part (E4, H33)."""
    with page.open("rb") as opened:
        exchange = serve(sending(start(), file(opened, offset=90))).request("HEAD")

    assert b"" == exchange.body
    assert exchange.is_complete
    assert [b"10"] == exchange.values_of(b"content-length")


def test_zero_copy_with_trailers(serve: Serve, page: Path) -> None:
    """Trailers follow the last part, as they follow any body (E4, E10)."""
    with page.open("rb") as opened:
        exchange = serve(
            sending(start(trailers=True), file(opened), trailers((b"digest", b"abc")))
        ).request(headers=TE_TRAILERS)

    assert page.read_bytes() == exchange.body
    assert [(b"digest", b"abc")] == exchange.trailers


@pytest.mark.parametrize(
    "part",
    [{"offset": -1}, {"count": -1}, {"offset": "0"}, {"count": 1.5}, {"count": True}],
    ids=repr,
)
def test_zero_copy_of_nonsense(
    serve: Serve, page: Path, log: RecordedLog, part: dict[str, Any]
) -> None:
    """Numbers that are none are refused before anything is sent (C8, E4)."""
    with page.open("rb") as opened:
        exchange = serve(sending(start(), file(opened, **part))).request()

    assert 500 == exchange.status
    (error,) = log.take_errors()
    assert isinstance(error, InvalidMessage)
    assert f"{next(iter(part))} must be an integer of at least 0" in str(error)


@pytest.mark.parametrize("kind", ["closed", "pipe", "directory"])
def test_zero_copy_of_what_is_no_open_file(
    serve: Serve, page: Path, log: RecordedLog, kind: str
) -> None:
    """Only an open regular file has bytes that can be counted and sent (C8, E4)."""
    to_close: list[int] = []
    what: Any
    if kind == "closed":
        with page.open("rb") as what:
            pass
    elif kind == "pipe":
        to_close += os.pipe()
        what = to_close[0]
    else:
        what = os.open(page.parent, os.O_RDONLY)
        to_close.append(what)

    exchange = serve(sending(start(), file(what))).request()

    assert 500 == exchange.status
    (error,) = log.take_errors()
    assert "file must be an open regular file" in str(error)
    for descriptor in to_close:
        os.close(descriptor)


def test_messages_wait_for_the_file(
    serve: Serve, page: Path, app: HandApplication
) -> None:
    """What another task sends meanwhile goes out behind the file (C18, E4)."""
    page.write_bytes(os.urandom(MEBIBYTE))
    exchange = serve(app).request()
    exchange.stop_reading()

    with page.open("rb") as opened:
        sending = app.begin_send(start(), file(opened, more=True))
        others = [app.begin_send(body(b"x", more=True)) for _ in range(3)]
        cancelled = app.begin_send(body(b"y", more=True))
        cancelled.cancel()
        assert not any(task.done() for task in (sending, *others))
        while not sending.done():
            exchange.read_on()
    app.send(body())

    assert page.read_bytes() + b"xxx" == exchange.body
    assert exchange.is_complete


def test_client_leaves_in_mid_file(
    serve: Serve, page: Path, app: HandApplication
) -> None:
    """A download that is broken off ends the application's send() (C13, E4)."""
    page.write_bytes(bytes(MEBIBYTE))
    exchange = serve(app).request()
    exchange.stop_reading()

    with page.open("rb") as opened:
        sending = app.begin_send(start(), file(opened, more=True))
        waiting = app.begin_send(body(b"x"))
        assert not sending.done()
        exchange.leave()

        assert sending.exception() is None
        assert isinstance(waiting.exception(), ClientDisconnected)
    assert isinstance(app.begin_send(body()).exception(), ClientDisconnected)


def test_file_becomes_shorter(
    serve: Serve, page: Path, app: HandApplication, log: RecordedLog
) -> None:
    """A client sees that a file which was cut meanwhile is incomplete (E4)."""
    page.write_bytes(bytes(MEBIBYTE))
    exchange = serve(app).request()
    exchange.stop_reading()
    sending = app.begin_send(start(), path(page))
    os.truncate(page, 300_000)

    while not sending.done():
        exchange.read_on()

    assert isinstance(sending.exception(), EOFError)
    assert exchange.is_broken
    assert isinstance(app.begin_send(body()).exception(), ClientDisconnected)


def test_cancelled_in_mid_file(serve: Serve, page: Path, app: HandApplication) -> None:
    """A download that the application cancels is never taken for a whole one (E4)."""
    page.write_bytes(bytes(MEBIBYTE))
    exchange = serve(app).request()
    exchange.stop_reading()
    sending = app.begin_send(start(), path(page))

    sending.cancel()
    late = app.begin_send(body(b"x"))
    exchange.read_on()

    assert sending.cancelled()
    assert isinstance(late.exception(), ClientDisconnected)
    assert exchange.is_broken


def test_file_is_closed_by_mistake(
    serve: Serve, page: Path, app: HandApplication
) -> None:
    """An application that closes its file too early breaks its response only (E5)."""
    page.write_bytes(bytes(MEBIBYTE))
    server = serve(app)
    exchange = server.request()
    exchange.stop_reading()
    opened = page.open("rb")
    sending = app.begin_send(start(), file(opened))
    opened.close()

    while not sending.done():
        exchange.read_on()

    assert isinstance(sending.exception(), OSError)
    assert exchange.is_broken


# -- Too many requests, too slow applications ---------------------------------


def test_too_many_applications(serve: Serve, loop: SteppedLoop) -> None:
    """Above the limit a client is asked to come back in a second."""
    gate = asyncio.Event()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await gate.wait()
        await hello(scope, receive, send)

    server = serve(application, limit_concurrency=1)
    first = server.request()

    second = server.request()
    third = server.request("HEAD")
    assert 503 == second.status == third.status
    assert b"The server is busy.\n" == second.body
    assert [b"1"] == second.values_of(b"retry-after")
    assert second.is_complete
    assert third.is_complete

    gate.set()
    loop.settle()
    assert b"Hello, World!" == first.body
    assert 200 == server.request(after=second).status


def test_application_takes_too_long(
    serve: Serve, app: HandApplication, log: RecordedLog
) -> None:
    """A request that takes longer than http_timeout gets a 503 (H30)."""
    server = serve(app, settings=HTTPSettings(http_timeout=5))
    exchange = server.request(path="/slow")

    server.advance(7)

    assert 503 == exchange.status
    assert b"The application took too long.\n" == exchange.body
    assert isinstance(app.begin_send(start()).exception(), ClientDisconnected)
    server.advance(12)
    (line,) = log.take()
    assert "Cancelling the application" in line


def test_response_takes_too_long(
    serve: Serve, app: HandApplication, log: RecordedLog
) -> None:
    """A response that has begun is cut by http_timeout (H30)."""
    server = serve(app, settings=HTTPSettings(http_timeout=5))
    exchange = server.request()
    app.send(start(), body(b"half", more=True))

    server.advance(7)

    assert exchange.is_broken
    assert request_event() == app.receive()
    assert DISCONNECT == app.receive()
    assert isinstance(app.begin_send(body()).exception(), ClientDisconnected)
    app.end()
    assert [] == log.take()
