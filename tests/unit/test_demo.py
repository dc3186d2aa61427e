"""
Tests of ``daphne_like.demo``: the application is called in memory.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from daphne_like.demo import Demo, DemoLimits, application
from daphne_like.testing import WebSocketClient, WebSocketClosed

Message = dict[str, Any]

NO_PAUSE = DemoLimits(event_interval=0)
BROWSER = (b"accept", b"text/html,application/xhtml+xml,*/*;q=0.8")


class Clock:
    """
    A clock which stands still until it is told to move.
    """

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """
        Return the instant the clock shows.
        """
        return self.now


class Client:
    """
    The server's side of one exchange, held by the test.

    ``receive`` hands out the given messages and then waits until ``leave``;
    ``on_body`` is called with each body message before it is recorded.
    """

    def __init__(
        self,
        messages: list[Message] | None = None,
        on_body: Callable[[Message], None] = lambda message: None,
    ) -> None:
        self.sent: list[Message] = []
        self._incoming: asyncio.Queue[Message] = asyncio.Queue()
        self._on_body = on_body
        for message in messages or [{"type": "http.request", "body": b""}]:
            self._incoming.put_nowait(message)

    async def receive(self) -> Message:
        """
        Return the next message for the application, waiting for one.
        """
        return await self._incoming.get()

    async def send(self, message: Any) -> None:
        """
        Record a message of the application.
        """
        if message["type"] == "http.response.body":
            self._on_body(message)
        self.sent.append(message)

    def leave(self) -> None:
        """
        Close the connection from the client's side.
        """
        self._incoming.put_nowait({"type": "http.disconnect"})

    @property
    def unread(self) -> int:
        """
        How many messages the application has not asked for.
        """
        return self._incoming.qsize()

    @property
    def status(self) -> int:
        """
        Status code of the response.
        """
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> dict[bytes, bytes]:
        """
        Headers of the response.
        """
        return dict(self.sent[0]["headers"])

    @property
    def body(self) -> bytes:
        """
        Body of the response, as far as it was sent.
        """
        return b"".join(message["body"] for message in self.sent[1:])

    @property
    def complete(self) -> bool:
        """
        Whether the response was ended in good order.
        """
        return self.sent[-1].get("more_body") is False


def http_scope(path: str = "/", query: bytes = b"", **surplus: Any) -> dict[str, Any]:
    """
    Return the scope of a GET, with what the test cares about replaced.
    """
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query,
        "root_path": "",
        "headers": [(b"host", b"example.test")],
        "client": ["192.0.2.7", 51234],
        "server": ["192.0.2.1", 8000],
        "extensions": {"http.response.trailers": {}, "http.response.pathsend": {}},
        **surplus,
    }


def ask(
    path: str = "/",
    query: bytes = b"",
    demo: Demo | None = None,
    client: Client | None = None,
    **scope: Any,
) -> Client:
    """
    Run one exchange to its end, and return the client with what it was sent.
    """
    client = client or Client()
    asyncio.run(
        (demo or Demo(NO_PAUSE))(
            http_scope(path, query, **scope), client.receive, client.send
        )
    )
    return client


def stream_state(demo: Demo, number: int) -> Any:
    """
    Return what ``/status`` tells about one stream.
    """
    answer = ask("/status", f"stream={number}".encode(), demo)
    return json.loads(answer.body)["stream"]


def events(body: bytes) -> list[dict[str, str]]:
    """
    Return the fields of each server-sent event.
    """
    blocks = body.decode().removesuffix("\n\n").split("\n\n")
    return [
        dict(line.split(": ", 1) for line in block.splitlines()) for block in blocks
    ]


class TestPage:
    """
    The page and what it tells about the request.
    """

    def test_module_offers_an_application(self) -> None:
        """
        ``daphne_like.demo:application`` can be served as it stands.
        """
        assert isinstance(application, Demo)

    def test_shows_connection_facts(self) -> None:
        """
        The visitor sees protocol, addresses, ASGI version and extensions.
        """
        client = ask(http_version="2", scheme="https")
        page = client.body.decode()

        assert client.status == 200
        assert client.headers[b"content-type"] == b"text/html; charset=utf-8"
        for fact in (
            "HTTP/2",
            "https",
            "192.0.2.7:51234",
            "192.0.2.1:8000",
            "3.0, HTTP 2.5",
            "http.response.trailers\nhttp.response.pathsend",
        ):
            assert f"<dd>{fact}</dd>" in page

    @pytest.mark.parametrize(
        ("address", "shown"),
        [
            (["2001:db8::1", 443], "[2001:db8::1]:443"),
            (["/run/demo.sock", None], "/run/demo.sock"),
            (None, "not known"),
        ],
    )
    def test_writes_every_kind_of_address(self, address: Any, shown: str) -> None:
        """
        IPv6 hosts stand in brackets, Unix sockets by path, none as not known.
        """
        page = ask("/request", server=address).body.decode()

        assert f"<dt>Server</dt><dd>{shown}</dd>" in page

    def test_shows_headers_in_order_with_duplicates(self) -> None:
        """
        The headers appear as the server delivered them.
        """
        headers = [(b"b", b"1"), (b"a", b"2"), (b"b", b"\xe9")]
        page = ask("/request", headers=headers).body.decode()

        rows = re.findall(r"<dt>([ab])</dt><dd>(.)</dd>", page)
        assert [("b", "1"), ("a", "2"), ("b", "é")] == rows

    @pytest.mark.parametrize("path", ["/", "/request"])
    def test_escapes_what_the_request_brings(self, path: str) -> None:
        """
        Markup in a header or in the query does not become markup of the page.
        """
        headers = [(b"x", b"<img src=x onerror=alert(1)>"), (b"<u>", b'"&')]
        page = ask(path, b"<i>", headers=headers).body.decode()

        assert "<img" not in page
        assert "<u>" not in page
        assert "<i>" not in page.partition("<main>")[2].partition("<script")[0]
        assert "&lt;img src=x onerror=alert(1)&gt;" in page

    def test_policy_allows_exactly_the_inline_style_and_script(self) -> None:
        """
        The browser accepts the page's own style and script, and nothing else.
        """
        client = ask()
        page = client.body.decode()
        policy = client.headers[b"content-security-policy"].decode()

        for directive, element in (("script-src", "script"), ("style-src", "style")):
            (text,) = re.findall(rf"<{element}[^>]*>(.*?)</{element}>", page, re.DOTALL)
            digest = hashlib.sha256(text.encode()).digest()
            source = base64.b64encode(digest).decode()
            assert f"{directive} 'sha256-{source}'" in policy
        assert policy.startswith("default-src 'none'; ")
        assert "unsafe" not in policy

    def test_needs_nothing_from_elsewhere(self) -> None:
        """
        The page loads no external resource, so it works offline.
        """
        page = ask().body.decode()

        links = re.findall(r"(?:src|href)=\"([^\"]*)\"", page)
        assert links
        assert all(link.startswith(("data:", "#")) for link in links)
        assert "url(" not in page
        assert "@import" not in page

    def test_script_finds_each_element_it_names(self) -> None:
        """
        No panel is dead because its script looks for an element that is gone.
        """
        page = ask().body.decode()
        ids = re.findall(r" id=\"([^\"]+)\"", page)

        named = set(re.findall(r"(?:element|say)\(\"([^\"]+)\"", page))
        assert len(named) > 20
        assert named <= set(ids)
        assert len(ids) == len(set(ids))
        assert set(re.findall(r" for=\"([^\"]+)\"", page)) <= set(ids)
        assert set(re.findall(r" aria-labelledby=\"([^\"]+)\"", page)) <= set(ids)

    @pytest.mark.parametrize(
        "path", ["/", "/request", "/status", "/stream", "/upload", "/none"]
    )
    def test_every_answer_is_guarded(self, path: str) -> None:
        """
        No answer is cached, sniffed for another type, or leaks its address.
        """
        headers = ask(path, b"chunks=1" if path == "/stream" else b"").headers

        assert headers[b"x-content-type-options"] == b"nosniff"
        assert headers[b"cache-control"] == b"no-store"
        assert headers[b"referrer-policy"] == b"no-referrer"


class TestRouting:
    """
    Methods, unknown paths, and the root path.
    """

    @pytest.mark.parametrize("path", ["/", "/request", "/status", "/none"])
    def test_head_is_get_without_body(self, path: str) -> None:
        """
        HEAD answers with the head of GET, its length included.
        """
        # The length of the statistics varies with their numbers.
        head = ask(path, demo=Demo(clock=Clock()), method="HEAD")
        get = ask(path, demo=Demo(clock=Clock()), method="GET")

        assert head.status == get.status
        assert head.headers[b"content-type"] == get.headers[b"content-type"]
        assert int(get.headers[b"content-length"]) == len(get.body) > 0
        assert b"content-length" in head.headers
        assert head.body == b""
        assert head.complete

    @pytest.mark.parametrize("path", ["/stream", "/events"])
    def test_head_of_a_stream_ends_at_once(self, path: str) -> None:
        """
        HEAD opens no stream.
        """
        demo = Demo()
        client = ask(path, demo=demo, method="HEAD")

        assert client.status == 200
        assert client.body == b""
        assert client.complete
        assert json.loads(ask("/status", demo=demo).body)["open_streams"] == 0

    @pytest.mark.parametrize(
        ("path", "method", "allow"),
        [
            ("/", "POST", b"GET, HEAD"),
            ("/events", "DELETE", b"GET, HEAD"),
            ("/upload", "GET", b"POST, PUT"),
            ("/upload", "HEAD", b"POST, PUT"),
        ],
    )
    def test_wrong_method_names_the_right_ones(
        self, path: str, method: str, allow: bytes
    ) -> None:
        """
        A method which does not fit is answered 405 with those that do.
        """
        client = ask(path, method=method)

        assert client.status == 405
        assert client.headers[b"allow"] == allow

    def test_unknown_path_in_a_terminal(self) -> None:
        """
        A command-line client gets its 404 as one line of text.
        """
        client = ask("/no/such")

        assert client.status == 404
        assert client.headers[b"content-type"] == b"text/plain; charset=utf-8"
        assert client.body == b"404 Not found: Nothing is served at /no/such.\n"

    def test_unknown_path_in_a_browser(self) -> None:
        """
        A browser gets its 404 as a page which leads back, also below a root.
        """
        client = ask("/my demo/<b>", root_path="/my demo", headers=[BROWSER])
        page = client.body.decode()

        assert client.status == 404
        assert client.headers[b"content-type"] == b"text/html; charset=utf-8"
        assert b"content-security-policy" in client.headers
        assert "Nothing is served at /&lt;b&gt;." in page
        assert 'href="/my%20demo/"' in page

    @pytest.mark.parametrize("path", ["/mount/status", "/status"])
    @pytest.mark.parametrize("root_path", ["/mount", "/mount/"])
    def test_root_path_may_stand_in_the_path_or_not(
        self, path: str, root_path: str
    ) -> None:
        """
        Mounted below a root, the demo works whether or not a proxy strips it.
        """
        assert ask(path, root_path=root_path).status == 200

    def test_root_path_is_no_mere_prefix(self) -> None:
        """
        ``/mounted`` does not lie below ``/mount``.
        """
        assert ask("/mounted", root_path="/mount").status == 404

    def test_bare_mount_point_is_redirected(self) -> None:
        """
        ``/a/b c`` leads to ``/a/b c/``, where relative URLs are right.
        """
        client = ask("/a/b c", b"x=1", root_path="/a/b c")

        assert client.status == 307
        assert client.headers[b"location"] == b"./b%20c/?x=1"


class TestStream:
    """
    The streaming response.
    """

    def test_sends_the_chunks_asked_for(self) -> None:
        """
        Each chunk is a message of its own, of the size asked for.
        """
        client = ask("/stream", b"chunks=3&size=100&pause=0")

        bodies = [message["body"] for message in client.sent[1:]]
        assert [100, 100, 100, 0] == [len(body) for body in bodies]
        assert bodies[1].startswith(b"chunk 2 of 3, ")
        assert all(body.endswith(b"\n") for body in bodies[:3])
        assert client.complete
        assert client.headers[b"x-accel-buffering"] == b"no"

    @pytest.mark.parametrize(
        "query",
        [
            b"chunks=0",
            b"chunks=4097",
            b"size=65537",
            b"pause=2001",
            b"pause=-1",
            b"pause=nan",
            b"chunks=99999999999999999999",
            b"&".join(b"a=%d" % index for index in range(20)),
        ],
    )
    def test_refuses_what_is_out_of_range(self, query: bytes) -> None:
        """
        A request for too much, or for nonsense, is answered 400 with the reason.
        """
        client = ask("/stream", query)

        assert client.status == 400
        assert client.body.startswith(b"400 Bad request: ")

    def test_stops_when_the_client_leaves(self) -> None:
        """
        Once the visitor stops the stream, no further chunk is sent.
        """

        def leave_at_second(message: Message) -> None:
            if message["body"].startswith(b"chunk 2 "):
                client.leave()

        demo = Demo()
        client = Client(on_body=leave_at_second)
        ask("/stream", b"chunks=5&pause=0", demo, client)

        assert len(client.sent) == 3
        assert not client.complete
        state = stream_state(demo, int(client.headers[b"demo-stream"]))
        assert state["end"] == "client left"
        assert state["sent_chunks"] == 2

    def test_stops_when_send_says_the_client_is_gone(self) -> None:
        """
        A server which raises from ``send()`` sees no exception come back.
        """

        def break_at_second(message: Message) -> None:
            if message["body"].startswith(b"chunk 2 "):
                raise BrokenPipeError

        demo = Demo()
        client = Client(on_body=break_at_second)
        ask("/stream", b"chunks=5&pause=0", demo, client)

        assert len(client.sent) == 2
        state = stream_state(demo, int(client.headers[b"demo-stream"]))
        assert state["end"] == "client left"
        assert state["sent_chunks"] == 1

    def test_waits_while_the_client_takes_nothing(self) -> None:
        """
        Under back-pressure the next chunk is not made, and the wait is shown.
        """

        async def scenario() -> None:
            clock = Clock()
            demo = Demo(clock=clock)
            sent: list[Message] = []
            blocked, taken = asyncio.Event(), asyncio.Event()

            async def send(message: Any) -> None:
                sent.append(message)
                if message["type"] == "http.response.body" and not taken.is_set():
                    blocked.set()
                    await taken.wait()

            async def state() -> Any:
                client = Client()
                scope = http_scope("/status", b"stream=1")
                await demo(scope, client.receive, client.send)
                return json.loads(client.body)["stream"]

            task = asyncio.create_task(
                demo(http_scope("/stream", b"chunks=2&pause=0"), Client().receive, send)
            )
            await blocked.wait()
            clock.now += 7
            waiting = {"sent_chunks": 0, "waited": 7.0, "end": None}
            assert waiting.items() <= (await state()).items()
            assert len(sent) == 2

            taken.set()
            await task
            complete = {"sent_chunks": 2, "waited": 7.0, "end": "complete"}
            assert complete.items() <= (await state()).items()

        asyncio.run(scenario())

    def test_ends_in_good_order_when_its_time_is_up(self) -> None:
        """
        A stream has a longest duration; then it is completed, not broken off.
        """

        def pass_time(message: Message) -> None:
            clock.now += 20

        clock = Clock()
        demo = Demo(DemoLimits(stream_timeout=30), clock)
        client = Client(on_body=pass_time)
        ask("/stream", b"chunks=9&pause=0", demo, client)

        assert client.body.count(b"\n") == 2
        assert client.complete
        assert stream_state(demo, 1)["end"] == "time limit"

    def test_cancellation_reaches_the_server(self) -> None:
        """
        When the server cancels a stream, the demo lets itself be cancelled.
        """

        async def scenario() -> Demo:
            demo = Demo()
            started = asyncio.Event()
            client = Client(on_body=lambda message: started.set())
            task = asyncio.create_task(
                demo(http_scope("/stream", b"pause=2000"), client.receive, client.send)
            )
            await started.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return demo

        assert stream_state(asyncio.run(scenario()), 1)["end"] == "cancelled"

    def test_forgets_old_streams(self) -> None:
        """
        What is remembered of ended streams does not grow.
        """
        demo = Demo(DemoLimits(remembered_streams=2))
        for _ in range(3):
            ask("/stream", b"chunks=1&pause=0", demo)

        assert stream_state(demo, 1) is None
        assert stream_state(demo, 2)["end"] == "complete"
        assert stream_state(demo, 3)["end"] == "complete"


class TestEvents:
    """
    Server-sent events.
    """

    def run_events(self, demo: Demo, *headers: tuple[bytes, bytes]) -> Client:
        """
        Listen for three events of the clock, then leave.
        """

        def leave_at_third(message: Message) -> None:
            if len(client.sent) == 4:
                client.leave()

        client = Client(on_body=leave_at_third)
        return ask("/events", demo=demo, client=client, headers=list(headers))

    def test_tells_the_time_and_the_statistics(self) -> None:
        """
        A browser's ``EventSource`` gets numbered events with the numbers.
        """
        client = self.run_events(Demo(NO_PAUSE))

        assert client.headers[b"content-type"] == b"text/event-stream"
        opening, *ticks = events(client.body)
        assert opening["retry"] == "1500"
        assert opening["event"] == "stream"
        assert json.loads(opening["data"]) == {"number": 1, "resumed_after": 0}
        assert ["1", "2", "3"] == [tick["id"] for tick in ticks]
        data = json.loads(ticks[-1]["data"])
        assert data["requests"] == 1
        assert data["open_streams"] == 1

    def test_notices_that_the_browser_closed_it(self) -> None:
        """
        After a pause the page can ask, and learns that the server noticed.
        """
        demo = Demo(NO_PAUSE)
        client = self.run_events(demo)

        assert not client.complete
        assert stream_state(demo, 1)["end"] == "client left"

    @pytest.mark.parametrize(
        ("last_id", "first_id"),
        [(b"41", "42"), (b"x", "1"), (b"-5", "1"), (b"9" * 40, "1"), (b"\xb2", "1")],
    )
    def test_resumes_after_the_last_event_seen(
        self, last_id: bytes, first_id: str
    ) -> None:
        """
        A browser that reconnects gets the numbers on from where it was.
        """
        client = self.run_events(Demo(NO_PAUSE), (b"last-event-id", last_id))

        assert events(client.body)[1]["id"] == first_id

    def test_ends_after_its_time_for_the_browser_to_reconnect(self) -> None:
        """
        No event stream stays for good.
        """

        def pass_time(message: Message) -> None:
            clock.now += 100

        clock = Clock()
        demo = Demo(DemoLimits(event_interval=0), clock)
        client = ask("/events", demo=demo, client=Client(on_body=pass_time))

        assert client.complete
        assert stream_state(demo, 1)["end"] == "time limit"


class TestUpload:
    """
    Uploads.
    """

    @pytest.mark.parametrize("method", ["POST", "PUT"])
    def test_answers_with_length_hash_and_count(self, method: str) -> None:
        """
        The visitor can compare the hash of what arrived with the original's.
        """
        client = Client(
            [
                {"type": "http.request", "body": b"one ", "more_body": True},
                {"type": "http.request", "body": b"two", "more_body": True},
                {"type": "http.request"},
            ]
        )
        ask("/upload", demo=Demo(clock=Clock()), client=client, method=method)

        assert client.headers[b"content-type"] == b"application/json"
        assert json.loads(client.body) == {
            "bytes": 7,
            "chunks": 2,
            "seconds": 0.0,
            "sha256": hashlib.sha256(b"one two").hexdigest(),
        }

    def test_refuses_an_announced_excess_unread(self) -> None:
        """
        Who announces too much is refused before a byte of it is read.
        """
        demo = Demo(DemoLimits(upload_bytes=10))
        client = ask(
            "/upload", demo=demo, method="POST", headers=[(b"content-length", b"11")]
        )

        assert client.status == 413
        assert b"10 bytes at most" in client.body
        assert client.unread == 1

    def test_refuses_an_unannounced_excess(self) -> None:
        """
        A body of unknown length is refused once it passes the limit.
        """
        piece = {"type": "http.request", "body": b"123456", "more_body": True}
        client = Client([piece, piece, piece])
        demo = Demo(DemoLimits(upload_bytes=10))
        ask("/upload", demo=demo, client=client, method="POST")

        assert client.status == 413
        assert client.unread == 1

    def test_takes_just_as_much_as_the_limit(self) -> None:
        """
        The limit itself is still allowed.
        """
        client = Client([{"type": "http.request", "body": b"1234567890"}])
        demo = Demo(DemoLimits(upload_bytes=10))
        headers = [(b"content-length", b"10")]
        ask("/upload", demo=demo, client=client, method="POST", headers=headers)

        assert json.loads(client.body)["bytes"] == 10

    def test_answers_nobody_when_the_client_left(self) -> None:
        """
        An upload cancelled halfway is dropped without an answer.
        """
        client = Client([{"type": "http.request", "body": b"half", "more_body": True}])
        client.leave()
        ask("/upload", client=client, method="POST")

        assert client.sent == []


class TestApplication:
    """
    What does not concern one endpoint alone.
    """

    def test_counts_what_it_has_served(self) -> None:
        """
        The statistics tell of requests, received bytes and uptime.
        """
        clock = Clock()
        demo = Demo(clock=clock)
        upload = Client([{"type": "http.request", "body": b"12345"}])
        ask("/upload", demo=demo, client=upload, method="POST")
        ask("/nothing", demo=demo)
        clock.now += 60
        statistics = json.loads(ask("/status", demo=demo).body)

        assert statistics["requests"] == 3
        assert statistics["received_bytes"] == 5
        assert statistics["uptime"] == 60.0
        assert statistics["open_streams"] == 0
        assert statistics["stream"] is None

    def test_status_refuses_nonsense(self) -> None:
        """
        A stream's number must be a number.
        """
        assert ask("/status", b"stream=first").status == 400

    def test_a_client_gone_before_its_answer_is_no_error(self) -> None:
        """
        ``send()`` raising ``OSError`` never becomes an exception in the log.
        """

        def gone(message: Message) -> None:
            raise ConnectionResetError

        assert len(ask("/", client=Client(on_body=gone)).sent) == 1

    def test_takes_part_in_lifespan(self) -> None:
        """
        The demo starts and stops with the server; uptime counts from the start.
        """
        clock = Clock()
        demo = Demo(clock=clock)
        clock.now += 5
        client = Client([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
        asyncio.run(demo({"type": "lifespan"}, client.receive, client.send))

        assert [
            {"type": "lifespan.startup.complete"},
            {"type": "lifespan.shutdown.complete"},
        ] == client.sent
        assert json.loads(ask("/status", demo=demo).body)["uptime"] == 0.0

    def test_refuses_websockets_elsewhere(self) -> None:
        """
        A WebSocket at another path is refused in the handshake, without an error.
        """
        client = Client([{"type": "websocket.connect"}])
        scope = {**http_scope(), "type": "websocket"}
        asyncio.run(Demo()(scope, client.receive, client.send))

        assert client.sent == [{"type": "websocket.close"}]

    def test_unknown_scope_is_an_error(self) -> None:
        """
        A scope of an unknown type is refused by raising, as ASGI asks.
        """
        client = Client()
        with pytest.raises(ValueError, match="'telepathy'"):
            asyncio.run(Demo()({"type": "telepathy"}, client.receive, client.send))


# -- WebSockets ----------------------------------------------------------------


class TestWebSockets:
    """The echo and the broadcast."""

    def test_the_echo(self) -> None:
        """
        Texts come back.
        """

        async def test() -> None:
            async with WebSocketClient(Demo(), "/echo") as client:
                for text in ("Hello", "ü", "x" * 2000):
                    await client.send_text(text)
                    assert text == await client.receive_text()

        asyncio.run(test())

    @pytest.mark.parametrize(
        ("messages", "code"),
        [(["x" * 2001], 1009), ([b"bytes"], 1008), (["x"] * 21, 1008)],
        ids=["long", "bytes", "many"],
    )
    @pytest.mark.parametrize("path", ["/echo", "/live"])
    def test_its_limits(
        self, messages: list[str | bytes], code: int, path: str
    ) -> None:
        """
        Who says too much is closed, and told why by the code.
        """

        async def test() -> None:
            async with WebSocketClient(Demo(clock=Clock()), path) as client:
                for message in messages:
                    if isinstance(message, str):
                        await client.send_text(message)
                    else:
                        await client.send_bytes(message)
                with pytest.raises(WebSocketClosed) as closed:
                    while True:
                        await client.receive()
            assert code == closed.value.code

        asyncio.run(test())

    def test_the_rate_recovers(self) -> None:
        """
        A client may go on when it has waited.
        """
        clock = Clock()

        async def test() -> None:
            async with WebSocketClient(Demo(clock=clock), "/echo") as client:
                for _ in range(3):
                    for _ in range(20):
                        await client.send_text("x")
                        await client.receive_text()
                    clock.now += 1

        asyncio.run(test())

    def test_the_broadcast(self) -> None:
        """
        All who are there hear who comes, goes and speaks.
        """
        demo = Demo()

        async def test() -> None:
            async with WebSocketClient(demo, "/live") as first:
                assert {"you": 1, "members": 1} == await first.receive_json()
                async with WebSocketClient(demo, "/live") as second:
                    joined = {"you": 2, "members": 2}
                    assert joined == await first.receive_json()
                    assert joined == await second.receive_json()
                    await second.send_text("Hello")
                    said = {"from": 2, "text": "Hello"}
                    assert said == await first.receive_json()
                    assert said == await second.receive_json()
                assert {"members": 1} == await first.receive_json()

        asyncio.run(test())

    def test_members_are_bounded(self) -> None:
        """
        One too many is asked to come back later.
        """
        demo = Demo(DemoLimits(members=1))

        async def test() -> None:
            async with (
                WebSocketClient(demo, "/live"),
                WebSocketClient(demo, "/live") as second,
            ):
                with pytest.raises(WebSocketClosed) as closed:
                    await second.receive()
                assert 1013 == closed.value.code

        asyncio.run(test())

    def test_a_slow_member_is_let_go(self) -> None:
        """
        The others don't wait for one that does not read.
        """
        demo = Demo(DemoLimits(unread_news=2))

        async def test() -> None:
            release, closed = asyncio.Event(), asyncio.Event()
            sent: list[Any] = []
            events = [{"type": "websocket.connect"}]

            async def receive() -> Any:
                if events:
                    return events.pop(0)
                await closed.wait()
                return {"type": "websocket.disconnect", "code": 1013}

            async def send(message: Any) -> None:
                sent.append(message)
                if message["type"] == "websocket.send":
                    await release.wait()
                elif message["type"] == "websocket.close":
                    closed.set()

            scope = {**http_scope(path="/live"), "type": "websocket"}
            slow = asyncio.ensure_future(demo(scope, receive, send))
            async with WebSocketClient(demo, "/live") as quick:
                for text in "abcdef":
                    await quick.send_text(text)
                    while (await quick.receive_json()).get("text") != text:
                        pass
                release.set()
                await slow
            assert {"type": "websocket.close", "code": 1013} in sent

        asyncio.run(test())
