"""Tests of ``daphne_like.resource``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hand_application import HandApplication
from raw_http import Answer, split_answers
from recorded_log import RecordedLog
from stepped_loop import SteppedLoop
from twisted.application.service import IService
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.interfaces import IPushProducer
from twisted.internet.task import Clock
from twisted.web.resource import IResource, Resource
from twisted.web.server import Request, Site
from two_ended_transport import TwoEndedTransport
from websocket_frames import close_payload, frame, read_frames
from zope.interface import alsoProvides
from zope.interface.verify import verifyObject

import daphne_like
from daphne_like import reactor
from daphne_like.errors import SettingsError
from daphne_like.resource import ASGIResource, _connection_of, _WebExchange
from daphne_like.settings import Settings

START = {"type": "http.response.start", "status": 200}
HANDSHAKE = (
    "upgrade: websocket",
    "connection: Upgrade",
    "sec-websocket-version: 13",
    "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
)


class FakeReactor:
    """The reactor over the loop of the test."""

    def __init__(self, loop: SteppedLoop) -> None:
        self._loop = loop

    def callWhenRunning(self, call: Any, *arguments: Any) -> None:
        """Call at once."""
        call(*arguments)

    def callLater(self, delay: float, call: Any) -> None:
        """Call in the next turn."""
        self._loop.call_soon(call)


@pytest.fixture(autouse=True)
def installed(loop: SteppedLoop, monkeypatch: pytest.MonkeyPatch) -> FakeReactor:
    """Install no reactor."""
    fake = FakeReactor(loop)
    monkeypatch.setattr(reactor, "install", lambda kind: fake)
    return fake


class Page(Resource):
    """Another resource in the tree."""

    isLeaf = True

    def render(self, request: Any) -> bytes:
        """Answer."""
        return b"other"


class Tree:
    """A site with an application below ``/app/site``, and a client of it."""

    def __init__(self, loop: SteppedLoop, application: Any, **settings: Any) -> None:
        self._loop = loop
        self.resource = ASGIResource(application, **settings)
        root, app = Resource(), Resource()
        root.putChild(b"app", app)
        app.putChild(b"site", self.resource)
        root.putChild(b"other", Page())  # type: ignore[no-untyped-call]
        self.site = Site(root, reactor=Clock())
        self.site.startFactory()
        self.transport = self.connect()

    def connect(self) -> TwoEndedTransport:
        """Connect once more."""
        transport: Any = TwoEndedTransport(self._loop)
        # As Twisted's own.
        alsoProvides(transport, IPushProducer)
        transport.disconnecting = False
        protocol: Any = self.site.buildProtocol(transport.getPeer())
        transport.connect(protocol)
        return transport  # type: ignore[no-any-return]

    def ask(
        self,
        path: str = "/app/site/a?b=c",
        *fields: str,
        method: str = "GET",
        version: str = "1.1",
        body: bytes = b"",
    ) -> None:
        """Send a request."""
        lines = [f"{method} {path} HTTP/{version}", "Host: tree", *fields]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        self.transport.deliver(head + body)

    def stop(self) -> Any:
        """Stop the application, as twistd does while the reactor runs."""

        async def stop() -> Any:
            return self.resource.service.stopService()

        return self._loop.do(stop())

    def answer(self) -> Answer:
        """Return the only response so far, and forget it."""
        received = bytes(self.transport.received)
        self.transport.received.clear()
        [answer] = split_answers(received)
        return answer


Plant = Callable[..., Tree]


@pytest.fixture
def app(loop: SteppedLoop) -> Iterator[HandApplication]:
    """Make an application; in the end it answers, unless the test has ended it."""
    app = HandApplication(loop)
    yield app
    if hasattr(app, "scope") and not app._ended.done():
        app.send(START, {"type": "http.response.body", "body": b""})
        app.end()


@pytest.fixture
def plant(loop: SteppedLoop, app: HandApplication) -> Plant:
    """Mount an application."""

    def plant(application: Any = app, **settings: Any) -> Tree:
        return Tree(loop, application, **settings)

    return plant


@pytest.fixture
def tree(plant: Plant) -> Tree:
    """Mount the application of the test."""
    return plant()


# -- Requests ----------------------------------------------------------------


def test_the_interfaces(tree: Tree) -> None:
    """Twisted finds all that it asks of a resource and of a service."""
    assert verifyObject(IResource, tree.resource)
    assert verifyObject(IService, tree.resource.service)
    assert tree.resource is tree.resource.getChildWithDefault(b"", None)
    with pytest.raises(TypeError, match="no child resources"):
        tree.resource.putChild(b"x", Resource())


def test_the_application_sees_where_it_is_mounted(
    tree: Tree, app: HandApplication, log: RecordedLog
) -> None:
    """The scope is that of the server, and `root_path` the place in the tree."""
    tree.ask("/app/site/a%20b?c=d", "X-Two: 1", "X-Two: 2", "x_under: score")
    app.end()

    assert ("http", "1.1", "GET", "http") == tuple(
        app.scope[key] for key in ("type", "http_version", "method", "scheme")
    )
    assert ("/app/site", "/app/site/a b") == (app.scope["root_path"], app.scope["path"])
    assert (b"/app/site/a%20b", b"c=d") == (
        app.scope["raw_path"],
        app.scope["query_string"],
    )
    assert [b"1", b"2"] == [
        value for name, value in app.scope["headers"] if name == b"x-two"
    ]
    assert not any(b"_" in name for name, _ in app.scope["headers"])
    assert ["192.0.2.7", 50123] == app.scope["client"]
    assert ["192.0.2.1", 8000] == app.scope["server"]
    assert "state" not in app.scope
    assert 500 == tree.answer().status
    [line] = log.take()
    assert "GET /app/site/a%20b" in line


@pytest.mark.parametrize(
    ("path", "root_path"),
    [("/app/site", "/app/site"), ("/app/site/", "/app/site"), ("/", ""), ("//x", "")],
)
def test_the_mount_has_no_slash_at_its_end(
    loop: SteppedLoop, app: HandApplication, path: str, root_path: str
) -> None:
    """`path` without `root_path` is what the application routes by."""
    tree = Tree(loop, app)
    if not root_path:
        tree.site.resource = tree.resource
    tree.ask(path)

    assert (root_path, path) == (app.scope["root_path"], app.scope["path"])


def test_a_tree_behind_a_proxy(plant: Plant, app: HandApplication) -> None:
    """A prefix which the proxy took off comes first; the client is the proxy's."""
    tree = plant(
        root_path="/outer", proxy_headers=True, forwarded_allow_ips="192.0.2.0/24"
    )
    tree.ask("/app/site/x", "X-Forwarded-For: 198.51.100.1", "X-Forwarded-Proto: https")

    assert "/outer/app/site" == app.scope["root_path"]
    assert "/outer/app/site/x" == app.scope["path"]
    assert b"/app/site/x" == app.scope["raw_path"]
    assert "198.51.100.1" == app.scope["client"][0]
    assert "https" == app.scope["scheme"]


def test_a_prefix_which_the_proxy_left_is_not_put_twice(
    plant: Plant, app: HandApplication
) -> None:
    """Some proxies take the prefix off, and some don't."""
    tree = plant(root_path="/app")
    tree.ask("/app/site/x")

    assert ("/app/site", "/app/site/x") == (app.scope["root_path"], app.scope["path"])


def test_addresses_of_unix_sockets() -> None:
    """A client on a Unix socket has no address; the server has a path."""

    class Asked:
        channel = None

        def getClientAddress(self) -> UNIXAddress:
            return UNIXAddress(None)

        def getHost(self) -> Any:
            return UNIXAddress(b"/run/tree.sock")

        def isSecure(self) -> bool:
            return True

    connection = _connection_of(Asked())
    assert (None, ("/run/tree.sock", None)) == (connection.client, connection.server)
    assert "https" == connection.scheme

    class Nameless(Asked):
        def getHost(self) -> Any:
            return UNIXAddress(None)

        def getClientAddress(self) -> Any:
            return IPv4Address("TCP", "192.0.2.9", 1)

    assert None is _connection_of(Nameless()).server


@pytest.mark.parametrize(
    ("fields", "settings", "detail"),
    [
        (("x-bad: a\x0bb",), {}, b"control character"),
        (("x_y: 1",), {"header_underscores": "reject"}, b"underscore"),
    ],
)
def test_what_applications_should_not_see(
    plant: Plant,
    app: HandApplication,
    fields: tuple[str, ...],
    settings: dict[str, Any],
    detail: bytes,
) -> None:
    """What deceives parsers behind us is refused although twisted.web takes it."""
    tree = plant(**settings)
    tree.ask("/app/site", *fields)

    answer = tree.answer()
    assert 400 == answer.status
    assert detail in answer.body
    assert not hasattr(app, "scope")


def test_underscores_may_be_kept(plant: Plant, app: HandApplication) -> None:
    """Who needs them gets them."""
    plant(header_underscores="keep").ask("/app/site", "x_y: 1")

    assert (b"x_y", b"1") in app.scope["headers"]


def test_targets_in_absolute_form_are_refused(tree: Tree, app: HandApplication) -> None:
    """twisted.web has no notion of them, so that the path would be a wrong one."""
    tree.site.resource = tree.resource
    tree.ask("http://other/x")

    assert 400 == tree.answer().status


def test_settings_are_given_once(app: HandApplication) -> None:
    """Settings, or keywords, but not both."""
    ASGIResource(app, settings=Settings.of(root_path="/x"))
    with pytest.raises(SettingsError, match="not both"):
        ASGIResource(app, settings=Settings(), root_path="/x")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("workers", 2),
        ("reload", True),
        ("proxy_protocol", True),
        ("metrics", "9100"),
        ("control_socket", "c"),
        ("statsd_host", "localhost:8125"),
        ("otel", True),
        ("request_id_header", "X-Request-ID"),
        ("user", "nobody"),
    ],
)
def test_what_would_be_relied_on_in_vain_is_refused(
    app: HandApplication, name: str, value: Any
) -> None:
    """Connections and processes are Twisted's: one line says what can't be had."""
    with pytest.raises(SettingsError, match=r"twisted\.web|about the process"):
        ASGIResource(app, **{name: value})


def test_leniency_can_not_be_asked_for(app: HandApplication) -> None:
    """twisted.web reads the requests, and takes what it takes."""
    with pytest.raises(SettingsError, match="daphne_compat"):
        ASGIResource(app, daphne_compat=True)


# -- Bodies ------------------------------------------------------------------


def test_a_small_body_is_one_event(tree: Tree, app: HandApplication) -> None:
    """It has been received when the application starts."""
    tree.ask(method="POST", body=b"body")

    event = {"type": "http.request", "body": b"body", "more_body": False}
    assert event == app.receive()


def test_a_large_body_is_read_as_it_is_taken(
    tree: Tree, app: HandApplication, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of an upload only a piece is in memory, the rest in twisted.web's file."""
    body = b"x" * 300_000
    tree.ask(method="PUT", body=body)

    first = app.receive()
    assert 64 * 1024 == len(first["body"])
    events = [first]
    while events[-1]["more_body"]:
        events.append(app.receive())
    assert body == b"".join(event["body"] for event in events)
    assert len(events) >= 4


def test_an_answer_before_the_body_was_taken(tree: Tree, app: HandApplication) -> None:
    """The rest of the body is never read."""
    tree.ask(method="PUT", body=b"x" * 300_000)
    app.receive()
    app.send(START, {"type": "http.response.body", "body": b"enough"})

    assert b"enough" in tree.transport.received
    app.end()
    tree.transport.received.clear()
    tree.ask("/other")
    assert b"other" == tree.answer().body


def test_a_response_has_the_fields_of_the_application(
    tree: Tree, app: HandApplication
) -> None:
    """Repeated ones too; and a length, but no type, of our own."""
    tree.ask()
    app.send(
        {
            **START,
            "status": 299,
            "headers": [(b"x-a", b"1"), (b"x-a", b"2"), (b"set-cookie", b"c=d")],
        },
        {"type": "http.response.body", "body": b"hello"},
    )
    app.end()

    raw = bytes(tree.transport.received).lower()
    assert raw.startswith(b"http/1.1 299 ")
    assert 2 == raw.count(b"x-a: ")
    assert b"set-cookie: c=d" in raw
    assert b"content-length: 5" in raw
    assert b"content-type" not in raw
    assert b"hello" == tree.answer().body


def test_a_stream_is_paused_by_a_slow_client(tree: Tree, app: HandApplication) -> None:
    """`send()` waits while the client doesn't read, and goes on when it does."""
    tree.ask()
    tree.transport.stop_reading()
    piece = {"type": "http.response.body", "body": b"x" * 70_000, "more_body": True}
    sending = app.begin_send(START, piece, piece)
    assert not sending.done()

    tree.transport.read_on()
    assert sending.done()
    app.send({"type": "http.response.body"})
    app.end()
    assert tree.transport.received.endswith(b"0\r\n\r\n")


def test_a_head_request_has_no_body(tree: Tree, app: HandApplication) -> None:
    """The head is that of the same GET."""
    tree.ask(method="HEAD")
    app.send(START, {"type": "http.response.body", "body": b"hello"})
    app.end()

    raw = bytes(tree.transport.received)
    assert b"\r\n\r\n" == raw[-4:]
    assert b"content-length: 5" in raw.lower()


def test_early_hints_go_out_before_the_response(
    tree: Tree, app: HandApplication
) -> None:
    """ASGI's extension holds, since twisted.web can write a head of its own."""
    tree.ask()
    assert "http.response.early_hint" in app.scope["extensions"]
    assert "http.response.trailers" not in app.scope["extensions"]
    app.send({"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload"]})
    assert tree.transport.received.startswith(b"HTTP/1.1 103 Early Hints\r\n")
    app.send(START, {"type": "http.response.body", "body": b""})
    app.end()


def test_files_are_sent_in_pieces(
    tree: Tree, app: HandApplication, tmp_path: Path
) -> None:
    """The extension for whole files holds, at the pace of the client."""
    file = tmp_path / "file"
    file.write_bytes(b"y" * 200_000)
    tree.ask()
    tree.transport.stop_reading()
    sending = app.begin_send(
        START, {"type": "http.response.pathsend", "path": str(file)}
    )
    assert not sending.done()
    for _ in range(4):
        tree.transport.read_on()
        tree.transport.stop_reading()
    tree.transport.read_on()
    assert sending.done()
    app.end()
    assert 200_000 == len(tree.answer().body)


def test_a_file_that_shrinks_breaks_the_response_off(
    tree: Tree, app: HandApplication, tmp_path: Path
) -> None:
    """The client was promised more, so it must see that this isn't all."""
    file = tmp_path / "file"
    file.write_bytes(b"y" * 200_000)
    tree.ask()
    tree.transport.stop_reading()
    sending = app.begin_send(
        START, {"type": "http.response.pathsend", "path": str(file)}
    )
    file.write_bytes(b"")
    tree.transport.read_on()
    assert isinstance(sending.exception(), EOFError)
    app.end()
    assert tree.transport.ended


# -- Errors and the end of the client ----------------------------------------


def test_an_exception_is_a_500(
    tree: Tree, app: HandApplication, log: RecordedLog
) -> None:
    """It is logged, and the tree stays alive."""
    tree.ask()
    app.end(ZeroDivisionError())

    assert 500 == tree.answer().status
    [error] = log.take_errors()
    assert isinstance(error, ZeroDivisionError)


@pytest.mark.parametrize(("version", "reset"), [("1.1", False), ("1.0", True)])
def test_an_exception_in_mid_response_breaks_it_off(
    tree: Tree, app: HandApplication, log: RecordedLog, version: str, reset: bool
) -> None:
    """The client sees that something is missing, also where the end is a close."""
    tree.ask(version=version)
    app.send(START, {"type": "http.response.body", "body": b"x", "more_body": True})
    app.end(ZeroDivisionError())

    assert tree.transport.ended
    assert reset is tree.transport.reset
    assert not tree.transport.received.endswith(b"0\r\n\r\n")
    assert 1 == len(log.take_errors())


def test_the_application_learns_that_the_client_has_gone(
    tree: Tree, app: HandApplication
) -> None:
    """`receive()` tells it, and `send()` raises."""
    tree.ask()
    app.receive()
    app.send(START, {"type": "http.response.body", "body": b"x", "more_body": True})
    receiving = app.begin_receive()
    tree.transport.leave()

    assert {"type": "http.disconnect"} == receiving.result()
    sending = app.begin_send({"type": "http.response.body", "body": b"x"})
    assert isinstance(sending.exception(), OSError)
    app.end()


def test_a_stream_on_http2_is_reset(app: HandApplication) -> None:
    """A stream of twisted.web's HTTP/2 has no transport, but can be reset."""

    class Channel:
        transport = None
        aborted = False

        def abortConnection(self) -> None:
            self.aborted = True

    class Asked:
        channel = Channel()

        def notifyFinish(self) -> Any:
            from twisted.internet.defer import Deferred

            return Deferred()

    asked = Asked()
    _WebExchange(asked, lambda _: pytest.fail("unread")).abort()
    assert asked.channel.aborted


# -- WebSockets --------------------------------------------------------------


def opened(tree: Tree, app: HandApplication) -> None:
    """Open a WebSocket."""
    tree.ask("/app/site/ws", *HANDSHAKE)
    assert {"type": "websocket.connect"} == app.receive()
    app.send({"type": "websocket.accept", "headers": [(b"x-a", b"b")]})
    head, _, rest = bytes(tree.transport.received).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head
    assert b"x-a: b" in head
    assert b"" == rest
    tree.transport.received.clear()


def test_a_websocket_takes_the_connection_over(
    tree: Tree, app: HandApplication
) -> None:
    """Messages go both ways, and it is closed as everywhere."""
    opened(tree, app)
    assert ("websocket", "ws") == (app.scope["type"], app.scope["scheme"])
    assert "/app/site" == app.scope["root_path"]

    tree.transport.deliver(frame(1, b"hello"))
    assert {"type": "websocket.receive", "text": "hello"} == app.receive()
    app.send({"type": "websocket.send", "bytes": b"data"})
    [sent] = read_frames(bytes(tree.transport.received))
    assert b"data" == sent.payload

    tree.transport.deliver(frame(8, close_payload(1000)))
    assert 1000 == app.receive()["code"]
    app.end()


def test_a_client_that_does_not_wait_for_the_answer(
    tree: Tree, app: HandApplication
) -> None:
    """What twisted.web has read already isn't lost."""
    tree.ask("/app/site/ws", *HANDSHAKE)
    app.receive()
    tree.transport.deliver(frame(1, b"early"))
    app.send({"type": "websocket.accept"})

    assert {"type": "websocket.receive", "text": "early"} == app.receive()
    app.end()


def test_frames_in_one_read_with_the_handshake(plant: Plant, loop: SteppedLoop) -> None:
    """An application that accepts at once gets them, too."""
    received = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        received.append(await receive())

    tree = plant(application)
    head = "\r\n".join(["GET /app/site HTTP/1.1", "host: x", *HANDSHAKE, "", ""])
    tree.transport.deliver(head.encode() + frame(1, b"early"))

    assert [{"type": "websocket.receive", "text": "early"}] == received


def test_a_websocket_may_be_refused(tree: Tree, app: HandApplication) -> None:
    """The refusal is an ordinary response of twisted.web."""
    tree.ask("/app/site/ws", *HANDSHAKE)
    app.receive()
    app.send({"type": "websocket.close"})
    app.end()

    assert 403 == tree.answer().status


class HTTP2Request(Request):
    """A request which came over HTTP/2."""

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """Take it for one."""
        super().requestReceived(command, path, b"HTTP/2")  # type: ignore[no-untyped-call]


def test_a_websocket_over_http2_is_impossible(tree: Tree, app: HandApplication) -> None:
    """twisted.web's HTTP/2 has no way to carry it: the answer says so."""
    tree.site.requestFactory = HTTP2Request
    tree.transport = tree.connect()
    tree.ask("/app/site/ws", "sec-websocket-version: 13")

    raw = bytes(tree.transport.received)
    assert raw.startswith(b"HTTP/2 501 ")
    assert b"WebSockets are not possible" in raw


# -- The life of the application ---------------------------------------------


class Living:
    """
    An application with a lifespan, in the hands of a test.

    Attributes:
        events: What happened.
    """

    def __init__(self, loop: SteppedLoop) -> None:
        self.events: list[str] = []
        self.startup = loop.create_future()
        self.requests = loop.create_future()
        self.failure: str | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Live, or answer."""
        if scope["type"] == "lifespan":
            await receive()
            await self.startup
            if self.failure is not None:
                message = self.failure
                await send({"type": "lifespan.startup.failed", "message": message})
                return
            scope["state"]["answer"] = b"42"
            await send({"type": "lifespan.startup.complete"})
            await receive()
            self.events.append("ended")
            await send({"type": "lifespan.shutdown.complete"})
        else:
            self.events.append("asked")
            await asyncio.shield(self.requests)
            await send(START)
            body = scope["state"]["answer"]
            await send({"type": "http.response.body", "body": body})


@pytest.fixture
def living(loop: SteppedLoop) -> Living:
    """Make an application."""
    return Living(loop)


def test_requests_wait_for_the_lifespan(
    plant: Plant, loop: SteppedLoop, living: Living
) -> None:
    """They are served when the application has started, with its state."""
    living.requests.set_result(None)
    tree = plant(living)
    tree.resource.service.startService()
    tree.ask()
    gone = tree.connect()
    tree.transport, kept = gone, tree.transport
    tree.ask()
    gone.leave()
    tree.transport = kept
    assert [] == living.events

    living.startup.set_result(None)
    loop.settle()
    assert ["asked"] == living.events
    assert b"42" == tree.answer().body

    stopped = tree.stop()
    assert stopped.called
    assert ["asked", "ended"] == living.events
    tree.ask()
    answer = tree.answer()
    assert (503, "1") == (answer.status, answer.headers["retry-after"])


def test_stopping_waits_for_requests_and_closes_websockets(
    plant: Plant, loop: SteppedLoop, living: Living
) -> None:
    """Nothing is cut that ends in time, and the lifespan comes last."""
    living.startup.set_result(None)
    tree = plant(living)
    tree.resource.service.startService()
    loop.settle()
    tree.ask()

    stopped = tree.stop()
    assert not stopped.called
    assert ["asked"] == living.events

    living.requests.set_result(None)
    loop.settle()
    assert stopped.called
    assert b"42" == tree.answer().body
    assert ["asked", "ended"] == living.events


def test_websockets_are_closed_at_the_end(
    plant: Plant, app: HandApplication, loop: SteppedLoop
) -> None:
    """Clients get 1001, as from the server."""
    tree = plant(lifespan="off")
    tree.resource.service.startService()
    loop.settle()
    opened(tree, app)

    stopped = tree.stop()
    [sent] = read_frames(bytes(tree.transport.received))
    assert close_payload(1001) == sent.payload
    tree.transport.deliver(frame(8, close_payload(1001)))
    tree.transport.leave()
    app.end()
    assert stopped.called


def test_an_application_may_say_goodbye(
    plant: Plant, app: HandApplication, loop: SteppedLoop
) -> None:
    """A mounted one hears of the end as others do, and closes its WebSockets."""
    tree = plant(lifespan="off")
    tree.resource.service.startService()
    loop.settle()
    opened(tree, app)
    told: list[object] = []
    state = app.scope["extensions"]["daphne_like.draining"]

    async def say_goodbye() -> None:
        await daphne_like.draining()
        told.append(state["begun"])

    waiting = loop.create_task(say_goodbye())
    loop.settle()
    assert {"begun": False} == state

    tree.stop()
    assert [True] == told
    waiting.result()
    tree.transport.leave()
    app.end()


def test_without_its_service_an_application_waits_for_ever(
    plant: Plant, app: HandApplication, loop: SteppedLoop
) -> None:
    """Nobody tells it of an end; to wait for one is no error."""
    tree = plant()
    opened(tree, app)
    waiting = loop.create_task(daphne_like.draining())
    loop.settle()

    assert not waiting.done()
    tree.transport.leave()
    app.end()


def test_an_application_that_refuses_to_start(
    plant: Plant, loop: SteppedLoop, living: Living, log: RecordedLog
) -> None:
    """One line in the log, and a 503 for each request."""
    living.failure = "no database"
    tree = plant(living)
    service = tree.resource.service
    service.startService()
    tree.ask()
    living.startup.set_result(None)
    loop.settle()

    assert 503 == tree.answer().status
    assert ["CRITICAL Application startup failed: no database"] == log.take()
    assert "no database" in str(service.failure)
    assert tree.stop().called


def test_it_may_be_started_again(
    plant: Plant, loop: SteppedLoop, living: Living
) -> None:
    """Even while it is still stopping."""
    living.startup.set_result(None)
    living.requests.set_result(None)
    tree = plant(living)
    service = tree.resource.service
    service.startService()
    loop.settle()

    async def restart() -> None:
        service.stopService()
        service.startService()

    loop.do(restart())
    tree.ask()

    assert b"42" == tree.answer().body
    assert ["ended", "asked"] == living.events
    tree.stop()


def test_it_may_be_stopped_before_it_has_started(
    plant: Plant, loop: SteppedLoop, living: Living
) -> None:
    """Before the reactor runs, or while the application starts."""
    tree = plant(living)
    service = tree.resource.service
    service.startService()
    assert service.stopService().called
    loop.settle()

    service.startService()
    loop.settle()
    stopped = tree.stop()
    assert stopped.called
    tree.ask()
    assert 503 == tree.answer().status


def test_who_waits_is_refused_when_the_start_has_hardly_begun(
    plant: Plant,
    loop: SteppedLoop,
    living: Living,
    installed: FakeReactor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whether or not there was a life before, nobody waits for ever."""
    begin: list[Callable[[], None]] = []
    monkeypatch.setattr(installed, "callLater", lambda _, call: begin.append(call))
    tree = plant(living)
    service = tree.resource.service

    async def begin_and_stop() -> None:
        begin.pop()()
        service.stopService()

    service.startService()
    tree.ask()
    loop.do(begin_and_stop())
    assert 503 == tree.answer().status

    service.startService()
    tree.ask()
    assert tree.stop().called
    assert 503 == tree.answer().status


def test_who_comes_during_a_restart_waits(
    plant: Plant, loop: SteppedLoop, living: Living
) -> None:
    """The end of the life before refuses nobody who comes for the next one."""
    living.startup.set_result(None)
    living.requests.set_result(None)
    tree = plant(living)
    service = tree.resource.service
    service.startService()
    loop.settle()

    async def restart() -> None:
        service.stopService()
        service.startService()
        tree.ask()

    loop.do(restart())
    loop.settle()
    assert b"42" == tree.answer().body
    tree.stop()


def test_deadlines_are_kept(
    plant: Plant, app: HandApplication, loop: SteppedLoop, log: RecordedLog
) -> None:
    """A handshake that nobody accepts is refused in time, also without a service."""
    tree = plant(websocket_connect_timeout=2)
    tree.ask("/app/site/ws", *HANDSHAKE)
    for _ in range(4):
        loop.advance(1.0)

    assert 403 == tree.answer().status
    app.end()
    log.take()
