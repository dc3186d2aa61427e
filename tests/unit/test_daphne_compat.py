"""
What Daphne's users rely on, by default and with ``daphne_compat``.

Each test talks to a whole server, over a connection of the loopback interface.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import pytest
from asgi_messages import body, start
from event_loops import run_on
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_http import split_answers
from recorded_log import RecordedLog
from stepped_loop import SteppedLoop
from websocket_drivers import ServedWebSocket, handshake
from websocket_frames import Frame, close_payload, frame, read_frames

from daphne_like.asgi.error_pages import html_page
from daphne_like.asgi.forwarded import DaphneForwardedPolicy, Forwarded
from daphne_like.asgi.types import Message, Receive, Scope, Send
from daphne_like.server import Server
from daphne_like.settings import HTTPSettings, Settings

BOTH = pytest.mark.parametrize("compat", [False, True], ids=["strict", "compat"])

TEXT, BINARY, CLOSE = 1, 2, 8
ACCEPT = {"type": "websocket.accept"}
FEW = settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@pytest.fixture(autouse=True)
def _log_is_looked_at(log: RecordedLog) -> None:
    """A warning or an error that a test doesn't expect is a failure."""


# -- A server and its clients ------------------------------------------------------


class Application:
    """
    Answers a request, when it has received the whole of it, by prepared messages.

    A WebSocket gets the first of them at its beginning, and one for each message.

    Attributes:
        scopes: Of all requests.
        events: All that was received.
        error: What ``send()`` raised.
    """

    def __init__(self, *messages: Message) -> None:
        self.messages = messages or (start(), body(b"OK"))
        self.scopes: list[Any] = []
        self.events: list[Message] = []
        self.error: Exception | None = None

    @property
    def scope(self) -> Any:
        """The only scope."""
        [scope] = self.scopes
        return scope

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Keep all that comes."""
        self.scopes.append(scope)
        messages = iter(self.messages)
        if scope["type"] == "websocket":
            async for message in _received(receive, self.events):
                if message["type"] != "websocket.disconnect":
                    await send(next(messages, {"type": "websocket.send", "text": "."}))
            return
        self.events.append(await receive())
        while self.events[-1]["more_body"]:
            self.events.append(await receive())
        try:
            for message in messages:
                await send(message)
        except Exception as error:
            self.error = error
            raise


async def _received(receive: Receive, events: list[Message]) -> AsyncIterator[Message]:
    while not events or events[-1]["type"] != "websocket.disconnect":
        events.append(await receive())
        yield events[-1]


@asynccontextmanager
async def serving(application: Application, **overrides: Any) -> AsyncIterator[int]:
    """Serve an application on a port, which is told."""
    server = Server(
        application,  # type: ignore[arg-type]
        ["tcp:0:interface=127.0.0.1"],
        **{"access_log": "", "lifespan": "off", **overrides},
    )
    await server.startup()
    try:
        yield server.listening_addresses[0][1]
    finally:
        await server.shutdown()


def say(
    request: bytes, application: Application, *, compat: bool, **overrides: Any
) -> bytes:
    """Tell what comes back until the connection is closed by the server."""
    answer = b""

    async def scenario() -> None:
        nonlocal answer
        async with serving(application, daphne_compat=compat, **overrides) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            answer = await reader.read()
            writer.close()

    run_on("asyncio", scenario())
    return answer


class Answer(NamedTuple):
    """The answer to the only request of a connection."""

    status: int
    headers: dict[str, str]
    body: bytes


def ask(
    *fields: bytes,
    method: bytes = b"GET",
    target: bytes = b"/",
    content: bytes = b"",
    application: Application | None = None,
    compat: bool,
    **overrides: Any,
) -> tuple[Application, Answer]:
    """Send a request, and tell what the application and the client get."""
    application = application or Application()
    lines = [b"%b %b HTTP/1.1" % (method, target), b"Host: a", *fields]
    if content:
        lines.append(b"Content-Length: %d" % len(content))
    request = b"\r\n".join([*lines, b"Connection: close", b"", content])
    answer = say(request, application, compat=compat, **overrides)
    [(status, headers, answered)] = split_answers(answer)
    return application, Answer(status, headers, answered)


class WebSocket:
    """A client of a WebSocket, in whose way nothing stands."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._reader = reader
        self._writer = writer
        self.head = b""

    async def open(self, request: bytes) -> None:
        """Send a handshake and read the head of the answer."""
        self._writer.write(request)
        self.head = await self._reader.readuntil(b"\r\n\r\n")

    async def say(self, message: str | bytes) -> None:
        """Send a message."""
        kind = TEXT if isinstance(message, str) else BINARY
        payload = message.encode() if isinstance(message, str) else message
        self._writer.write(frame(kind, payload))

    async def hear(self) -> Frame:
        """Wait for the next frame, which has to be a small one."""
        head = await self._reader.readexactly(2)
        [heard] = read_frames(head + await self._reader.readexactly(head[1]))
        return heard

    async def rest(self) -> bytes:
        """Read until the server closes."""
        return await self._reader.read()

    async def close(self, code: int = 1000) -> None:
        """Close as clients do."""
        self._writer.write(frame(CLOSE, close_payload(code)))
        assert CLOSE == (await self.hear()).opcode


def connect(
    application: Application,
    scenario: Callable[[WebSocket], Awaitable[None]],
    *fields: tuple[bytes, bytes],
    compat: bool,
    request: bytes = b"",
    target: bytes = b"/chat",
    **overrides: Any,
) -> None:
    """Run what a client does with its WebSocket."""

    async def whole() -> None:
        async with serving(
            application, daphne_compat=compat, ws_close_timeout=0.2, **overrides
        ) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            client = WebSocket(reader, writer)
            await client.open(request or handshake(target, *fields))
            await scenario(client)
            writer.close()

    run_on("asyncio", whole())


async def nothing_more(client: WebSocket) -> None:
    """Leave when the handshake is over."""
    await client.close()


# -- The setting -------------------------------------------------------------------


def test_it_is_off_by_default() -> None:
    """Our own command line is strict; the name says what it turns on."""
    assert not Settings.of().app.daphne_compat
    assert Settings.from_sources({"daphne_compat": True}).app.daphne_compat
    environ = {"DAPHNE_LIKE_DAPHNE_COMPAT": "yes"}
    assert Settings.from_sources(environ=environ).app.daphne_compat


def test_it_has_defaults_of_its_own() -> None:
    """It takes Daphne's defaults where nobody says anything else, and tells so."""
    made = Settings.of(daphne_compat=True)

    assert "daphne" == made.http.server_name
    assert not made.http.date_header
    assert 8192 == made.http.request_buffer_size
    assert ("*",) == made.proxy.forwarded_allow_ips
    assert "date_header = false" in made.to_toml()
    assert "daphne_compat" == made.sources["date_header"]


def test_what_is_given_is_stronger() -> None:
    """Each part of it can be had otherwise, from any source."""
    made = Settings.from_sources(
        {"daphne_compat": True, "server_name": ""},
        {"DAPHNE_LIKE_DATE_HEADER": "true"},
        {"forwarded_allow_ips": ["10.0.0.1"], "request_buffer_size": 0},
    )

    assert "" == made.http.server_name
    assert made.http.date_header
    assert ("10.0.0.1",) == made.proxy.forwarded_allow_ips
    assert 0 == made.http.request_buffer_size


# -- What strictness changes -------------------------------------------------------

CHUNKED_IN_HTTP_1_0 = (
    b"POST / HTTP/1.0\r\nConnection: keep-alive\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"
)
# Requests, and the status which each gets by default and in compat.
ROWS = {
    "no Host": (b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", 400, 200),
    "repeated Host": (
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\nConnection: close\r\n\r\n",
        400,
        200,
    ),
    "CONNECT": (
        b"CONNECT /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        501,
        200,
    ),
    "obs-fold": (
        b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\nConnection: close\r\n\r\n",
        400,
        200,
    ),
    "Transfer-Encoding in HTTP/1.0": (
        CHUNKED_IN_HTTP_1_0,
        200,
        200,
    ),
}


@BOTH
@pytest.mark.parametrize("row", ROWS)
def test_requests_which_the_rfcs_refuse(row: str, *, compat: bool) -> None:
    """Daphne lets them through, and so do we on request."""
    request, strict_status, compat_status = ROWS[row]
    application = Application()

    [answer] = split_answers(say(request, application, compat=compat))

    assert answer.status == (compat_status if compat else strict_status)
    assert (answer.status == 200) == bool(application.scopes)
    assert "close" == answer.headers["connection"]


def test_what_the_application_sees_of_them() -> None:
    """Each comes as it was meant."""
    seen = {}
    for row, (request, _, _) in ROWS.items():
        seen[row] = Application()
        say(request, seen[row], compat=True)

    assert [(b"connection", b"close")] == seen["no Host"].scope["headers"]
    assert [(b"host", b"a")] * 2 == seen["repeated Host"].scope["headers"][:2]
    assert "CONNECT" == seen["CONNECT"].scope["method"]
    assert "/a" == seen["CONNECT"].scope["path"]
    assert (b"x", b"b   c") in seen["obs-fold"].scope["headers"]
    old = seen["Transfer-Encoding in HTTP/1.0"]
    assert "1.0" == old.scope["http_version"]
    assert b"a" == old.events[0]["body"]


@BOTH
def test_the_status_line_of_http_1_0(*, compat: bool) -> None:
    """RFC 9112 section 2.3 asks for the server's version, Daphne gives the client's."""
    kept = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    streamed = Application(start(), body(b"a", more=True), body(b"b"))
    version = b"1.0" if compat else b"1.1"

    answer = say(kept + b"GET / HTTP/1.0\r\n\r\n", Application(), compat=compat)
    first, second = answer.split(b"OK" + b"HTTP/")
    assert first.startswith(b"HTTP/%b 200 OK\r\n" % version)
    assert second.startswith(b"%b 200 OK\r\n" % version)
    assert b"\r\nconnection: keep-alive\r\n" in first
    assert b"\r\nconnection: close\r\n" in second

    answer = say(kept, streamed, compat=compat)
    assert answer.startswith(b"HTTP/%b 200 OK\r\n" % version)
    assert answer.endswith(b"\r\nconnection: close\r\n\r\nab")


@BOTH
def test_the_status_line_of_http_1_1(*, compat: bool) -> None:
    """It is nobody's business but that of clients of 1.0."""
    for application in (Application(), Application(start(404), body(b"", more=True))):
        application.messages = (*application.messages, body())
        request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        assert say(request, application, compat=compat).startswith(b"HTTP/1.1 ")


@BOTH
def test_date_and_server(*, compat: bool) -> None:
    """Daphne sends no Date, and calls itself daphne."""
    _, answer = ask(compat=compat)

    assert compat == ("date" not in answer.headers)
    assert ("daphne" if compat else "daphne-like") == answer.headers["server"]


@BOTH
def test_own_date_and_server(*, compat: bool) -> None:
    """Those of the application are sent, and settings are obeyed."""
    own = Application(start(headers=[(b"server", b"mine"), (b"date", b"now")]), body())
    _, answer = ask(application=own, compat=compat)
    assert ("mine", "now") == (answer.headers["server"], answer.headers["date"])

    _, answer = ask(compat=compat, server_name="other", date_header=True)
    assert "other" == answer.headers["server"]
    assert "date" in answer.headers

    _, answer = ask(compat=compat, server_name="")
    assert "server" not in answer.headers


# -- Paths and the root path -------------------------------------------------------


@BOTH
def test_raw_path(*, compat: bool) -> None:
    """The path is decoded, and there as it was sent."""
    application, _ = ask(target=b"/foo%2Fbar?a=%20b", compat=compat)

    assert "/foo/bar" == application.scope["path"]
    assert b"/foo%2Fbar" == application.scope["raw_path"]
    assert b"a=%20b" == application.scope["query_string"]


@BOTH
@FEW
@given(
    path=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    params=st.lists(st.tuples(st.text(max_size=5), st.text(max_size=5)), max_size=3),
)
def test_any_path_and_query(
    path: str, params: list[tuple[str, str]], *, compat: bool
) -> None:
    """Whatever can be encoded arrives."""
    query = urlencode(params, errors="replace")
    target = f"/{quote(path, errors='replace')}?{query}".encode()
    application, _ = ask(target=target, compat=compat)

    assert f"/{path}" == application.scope["path"]
    assert query.encode() == application.scope["query_string"]


@BOTH
def test_root_path(*, compat: bool) -> None:
    """The path begins with it as ASGI supposes; Daphne leaves the path alone."""
    application, _ = ask(target=b"/a", root_path="/root", compat=compat)

    assert "/root" == application.scope["root_path"]
    assert ("/a" if compat else "/root/a") == application.scope["path"]
    assert b"/a" == application.scope["raw_path"]


@BOTH
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_the_header_of_the_root_path(kind: str, *, compat: bool) -> None:
    """It comes from anyone with Daphne, wins, and is gone from the headers."""
    value = quote("/a b/ä").encode()
    if kind == "http":
        application, _ = ask(
            b"Daphne-Root-Path: " + value, root_path="/other", compat=compat
        )
    else:
        application = Application(ACCEPT)
        fields = [(b"daphne-root-path", value)]
        connect(application, nothing_more, *fields, root_path="/other", compat=compat)

    scope = application.scope
    assert ("/a b/ä" if compat else "/other") == scope["root_path"]
    assert compat == (b"daphne-root-path" not in dict(scope["headers"]))


# -- Headers of proxies ------------------------------------------------------------

FORWARDED = ((b"x-forwarded-for", b"10.1.2.3"), (b"x-forwarded-port", b"80"))


def as_lines(fields: tuple[tuple[bytes, bytes], ...]) -> list[bytes]:
    """Write header fields."""
    return [b"%b: %b" % pair for pair in fields]


@BOTH
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_they_are_ignored_by_default(kind: str, *, compat: bool) -> None:
    """Without --proxy-headers they are headers like others."""
    if kind == "http":
        application, _ = ask(*as_lines(FORWARDED), compat=compat)
    else:
        application = Application(ACCEPT)
        connect(application, nothing_more, *FORWARDED, compat=compat)

    assert "127.0.0.1" == application.scope["client"][0]
    assert "http" == application.scope["scheme"].replace("ws", "http")
    assert (b"x-forwarded-for", b"10.1.2.3") in application.scope["headers"]


@BOTH
@pytest.mark.parametrize("kind", ["http", "websocket"])
def test_they_are_believed_when_told_to(
    kind: str, log: RecordedLog, *, compat: bool
) -> None:
    """A list, as people compare it with one; everyone's with Daphne: a warning."""
    if kind == "http":
        application, _ = ask(*as_lines(FORWARDED), proxy_headers=True, compat=compat)
    else:
        application = Application(ACCEPT)
        connect(
            application, nothing_more, *FORWARDED, proxy_headers=True, compat=compat
        )

    assert ["10.1.2.3", 80] == application.scope["client"]
    lines = log.take()
    assert len(lines) == int(compat)
    if compat:
        assert lines[0].startswith("WARNING forwarded_allow_ips holds *, as daphne_c")


@BOTH
def test_a_port_need_not_be_there(log: RecordedLog, *, compat: bool) -> None:
    """It is 0 then."""
    application, _ = ask(
        b"X-Forwarded-For: 10.1.2.3", proxy_headers=True, compat=compat
    )
    log.take()

    assert ["10.1.2.3", 0] == application.scope["client"]


@BOTH
def test_other_names_of_headers(log: RecordedLog, *, compat: bool) -> None:
    """As --proxy-headers-host and --proxy-headers-port have them."""
    application, _ = ask(
        *(b"X-Real-IP: 10.1.2.3", b"X-Real-Port: 80", b"X-Forwarded-For: 10.9.9.9"),
        proxy_headers=True,
        proxy_headers_host="X-Real-IP",
        proxy_headers_port="X-Real-Port",
        compat=compat,
    )
    log.take()

    assert ["10.1.2.3", 80] == application.scope["client"]


STRANGER = ("203.0.113.66", 40000)
PEER = ("127.0.0.1", 40000)


def resolve(
    *headers: tuple[bytes, bytes],
    peer: tuple[str, int] | None = STRANGER,
    **overrides: Any,
) -> Forwarded:
    """Tell what compat makes of headers."""
    made = Settings.of(**{"daphne_compat": True, "proxy_headers": True, **overrides})
    policy = DaphneForwardedPolicy.from_settings(made.proxy)
    return policy.resolve(peer, "http", [*headers])


def chain(value: bytes) -> tuple[bytes, bytes]:
    """Make the header with the chain of proxies."""
    return b"x-forwarded-for", value


@pytest.mark.parametrize(
    ("values", "client"),
    [
        ((b"10.1.2.3",), ("10.1.2.3", 0)),
        ((b"10.1.2.3, 10.1.2.4",), ("10.1.2.3", 0)),
        ((b" 10.1.2.3 ,10.1.2.4",), ("10.1.2.3", 0)),
        ((b"10.1.2.3", b"10.1.2.4"), ("10.1.2.3", 0)),
        ((b"1043::a321:1, 10.0.5.6",), ("1043::a321:1", 0)),
        ((b"[1043::a321:1]:77, 10.0.5.6",), ("1043::a321:1", 77)),
        ((b"10.1.2.3:77, 10.0.5.6",), ("10.1.2.3", 77)),
        ((b", 10.1.2.3",), ("10.1.2.3", 0)),
        # Who the client is isn't told; what stands behind it is a proxy.
        ((b"unknown, 10.1.2.3",), STRANGER),
        ((b"",), STRANGER),
        ((b"1.2.3.4.5",), STRANGER),
        ((b"10.1.2.300",), STRANGER),
    ],
)
def test_the_client_is_the_left_most(
    values: tuple[bytes, ...], client: tuple[str, int]
) -> None:
    """From anyone, whatever stands behind it."""
    assert client == resolve(*map(chain, values)).client


@pytest.mark.parametrize(
    ("port", "number"), [(b"80", 80), (b"x", 0), (b"", 0), (b"99999", 0)]
)
def test_the_port_beside_the_left_most(port: bytes, number: int) -> None:
    """A header of its own, which counts only beside an address."""
    told = (b"x-forwarded-port", port)

    assert ("10.1.2.3", number) == resolve(chain(b"10.1.2.3, 10.9.9.9"), told).client
    assert STRANGER == resolve(told).client


def test_the_scheme_counts_only_beside_an_address() -> None:
    """X-Forwarded-Proto alone changes nothing."""
    https = (b"x-forwarded-proto", b"https")

    assert "https" == resolve(https, chain(b"10.1.2.3")).scheme
    assert "http" == resolve(https).scheme
    assert "http" == resolve((b"x-forwarded-proto", b"a b"), chain(b"10.1.2.3")).scheme


def test_root_paths_are_read_without_the_option() -> None:
    """Only these: the last one, decoded; the others are as good as not there."""
    root = (b"daphne-root-path", b"/caf%C3%A9")
    https = (b"x-forwarded-proto", b"https")
    headers = [chain(b"10.1.2.3"), https, root]

    told = resolve(*headers, peer=PEER, proxy_headers=False)

    assert told == (PEER, "http", "/café", headers[:2])


def test_peers_on_unix_sockets_are_believed() -> None:
    """They have no address, and may tell one."""
    assert ("10.1.2.3", 0) == resolve(chain(b"10.1.2.3"), peer=None).client


def test_a_trust_list_is_obeyed() -> None:
    """Who gives one narrows compat down to it, for the root path too."""
    headers = (chain(b"10.1.2.3, 10.9.9.9"), (b"daphne-root-path", b"/a"))
    trusted = "203.0.113.0/24"

    assert resolve(*headers, peer=PEER, forwarded_allow_ips=trusted) == (
        *(PEER, "http", None),
        [*headers],
    )
    told = resolve(*headers, forwarded_allow_ips=trusted)
    assert (("10.1.2.3", 0), "/a") == (told.client, told.root_path)


# -- Requests ----------------------------------------------------------------------


@BOTH
def test_a_minimal_request(*, compat: bool) -> None:
    """All keys that Daphne gives are there, of the types which it gives them."""
    application, _ = ask(compat=compat)

    scope = application.scope
    assert ("http", "GET", "/", b"/", b"") == (
        *(scope["type"], scope["method"], scope["path"]),
        *(scope["raw_path"], scope["query_string"]),
    )
    assert ("1.1", "http", "") == (
        *(scope["http_version"], scope["scheme"]),
        scope["root_path"],
    )
    assert "3.0" == scope["asgi"]["version"]
    assert [(b"host", b"a"), (b"connection", b"close")] == scope["headers"]
    for end in ("client", "server"):
        assert [list, str, int] == [type(scope[end]), *map(type, scope[end])]
    assert [
        {"type": "http.request", "body": b"", "more_body": False}
    ] == application.events


@BOTH
def test_on_a_unix_socket_there_are_no_addresses(
    tmp_path: Path, *, compat: bool
) -> None:
    """Neither of the client, nor with Daphne of the server."""
    application = Application()
    path = os.path.relpath(tmp_path / "s")

    async def scenario() -> None:
        server = Server(
            application,  # type: ignore[arg-type]
            [f"unix:{path}"],
            access_log="",
            lifespan="off",
            daphne_compat=compat,
        )
        await server.startup()
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        await reader.read()
        writer.close()
        await server.shutdown()

    run_on("asyncio", scenario())
    assert None is application.scope["client"]
    assert (None if compat else [path, None]) == application.scope["server"]


@BOTH
def test_headers_are_lower_case_and_stripped(*, compat: bool) -> None:
    """Names and values, in a list of tuples."""
    application, _ = ask(b"MYCUSTOMHEADER:    foobar    ", compat=compat)

    assert (b"mycustomheader", b"foobar") in application.scope["headers"]


_NAMES = st.text("abcXYZ019-", min_size=1, max_size=12).map("x-".__add__)
_VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20)


@BOTH
@FEW
@given(headers=st.lists(st.tuples(_NAMES, _VALUES), max_size=8), equal=st.booleans())
def test_any_headers(
    headers: list[tuple[str, str]], *, equal: bool, compat: bool
) -> None:
    """Whatever is sent arrives, in its order, and so do headers of one name."""
    if equal:
        headers = [("X-Equal", value) for _, value in headers]
    lines = [f"{name}: {value}".encode() for name, value in headers]
    application, _ = ask(*lines, compat=compat)

    assert [
        (name.lower().encode(), value.strip().encode()) for name, value in headers
    ] == application.scope["headers"][1:-1]


@BOTH
def test_underscores_are_dropped(*, compat: bool) -> None:
    """CVE-2015-0219: here Daphne is strict, and so are we."""
    application, _ = ask(b"X_Forwarded-For: 1.2.3.4", b"X-Real: 1", compat=compat)

    assert [b"host", b"x-real", b"connection"] == [
        name for name, _ in application.scope["headers"]
    ]


@BOTH
@FEW
@given(content=st.binary(min_size=1, max_size=3000), size=st.integers(1, 1024))
def test_bodies_come_in_pieces(content: bytes, size: int, *, compat: bool) -> None:
    """No event is larger than the buffer, the last one says so."""
    application, _ = ask(
        method=b"POST", content=content, request_buffer_size=size, compat=compat
    )

    bodies = [event["body"] for event in application.events]
    assert content == b"".join(bodies)
    assert max(map(len, bodies)) <= size
    assert not application.events[-1]["more_body"]
    if compat:
        assert min(size, len(content)) == len(bodies[0])


@BOTH
def test_the_size_of_events_by_default(*, compat: bool) -> None:
    """Daphne's are of 8 KiB; ours hold all that has come, which is faster."""
    content = bytes(20_000)
    application, _ = ask(method=b"POST", content=content, compat=compat)

    sizes = [len(event["body"]) for event in application.events]
    assert len(content) == sum(sizes)
    if compat:
        assert [8192, True] == [max(sizes), sizes[0] == 8192]


BAD_REQUESTS = {
    "path": b"GET /\xc3\xa4 HTTP/1.0\r\n\r\n",
    "query": b"GET /?\xc3\xa4 HTTP/1.0\r\n\r\n",
    "name": b"GET / HTTP/1.0\r\nX(A): b\r\n\r\n",
    **{
        f"value {byte:#x}": b"GET / HTTP/1.0\r\nX: a%cb\r\n\r\n" % byte
        for byte in (0x0B, 0x0C, 0x1C, 0x1D, 0x1E)
    },
}


@BOTH
@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_bad_requests(case: str, *, compat: bool) -> None:
    """They are refused before an application sees them; Daphne has a page for it."""
    application = Application()
    answer = say(BAD_REQUESTS[case], application, compat=compat)

    version = b"1.0" if compat else b"1.1"
    assert answer.startswith(b"HTTP/%b 400 Bad Request\r\n" % version)
    kind = b"text/html" if compat else b"text/plain"
    assert b"content-type: %b; charset=utf-8\r\n" % kind in answer
    assert compat == (b"<h1>400 Bad Request</h1>" in answer)
    assert [] == application.scopes


def test_the_next_line_character_is_refused() -> None:
    """Daphne knows U+0085 for a control character, the RFCs know UTF-8."""
    application, answer = ask(b"X: a\x85b", compat=True)
    assert (400, []) == (answer.status, application.scopes)

    application, _ = ask("X: Å".encode(), compat=False)
    assert (b"x", "Å".encode()) in application.scope["headers"]


def test_pages_are_escaped() -> None:
    """Whatever a detail says is text."""
    kind, page = html_page(400, "<b> & 'c'")

    assert b"text/html; charset=utf-8" == kind
    assert b"<p>&lt;b&gt; &amp; &#x27;c&#x27;</p>" in page


# -- Responses ---------------------------------------------------------------------


@BOTH
@FEW
@given(pieces=st.lists(st.binary(max_size=50), min_size=1, max_size=4))
def test_any_body_of_a_response(pieces: list[bytes], *, compat: bool) -> None:
    """In one message or in several, chunked then."""
    messages = [start(201), *(body(piece, more=True) for piece in pieces[:-1])]
    request = b"GET / HTTP/1.0\r\n\r\n"
    answer = say(request, Application(*messages, body(pieces[-1])), compat=compat)

    head, _, content = answer.partition(b"\r\n\r\n")
    assert b" 201 Created" in head.partition(b"\r\n")[0]
    assert b"".join(pieces) == content


@BOTH
@FEW
@given(headers=st.lists(st.tuples(_NAMES, _VALUES), max_size=8))
def test_any_headers_of_a_response(
    headers: list[tuple[str, str]], *, compat: bool
) -> None:
    """They are sent as the application gives them, in their order."""
    given_headers = [(name.encode(), value.encode()) for name, value in headers]
    answer = say(
        b"GET / HTTP/1.0\r\n\r\n",
        Application(start(headers=given_headers), body()),
        compat=compat,
    )

    lines = answer.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    assert [b"%b: %b" % (name.lower(), value) for name, value in given_headers] == [
        line for line in lines if line.startswith(b"x-")
    ]


BAD_MESSAGES: dict[str, list[Any]] = {
    "no type": [{}],
    "no status": [{"type": "http.response.start"}],
    "started twice": [start(), start()],
    "not started": [body()],
    "unknown type": [{"type": "http.response.content", "content": b"OK"}],
    "of a WebSocket": [ACCEPT],
}


@BOTH
@pytest.mark.parametrize("case", BAD_MESSAGES)
def test_bad_messages_raise(case: str, log: RecordedLog, *, compat: bool) -> None:
    """A ValueError out of send(), and a 500 for the client."""
    application, answer = ask(
        application=Application(*BAD_MESSAGES[case]), compat=compat
    )

    assert isinstance(application.error, ValueError)
    assert [application.error] == log.take_errors()
    assert 500 == answer.status


@BOTH
@pytest.mark.parametrize(
    ("header", "text"),
    [
        (
            ["foo", b"bar"],
            "Header name 'foo' expected to be `bytes`, but got `<class 'str'>`",
        ),
        (
            [b"foo", True],
            "Header value 'True' expected to be `bytes`, but got `<class 'bool'>`",
        ),
    ],
)
def test_headers_have_to_be_bytes(
    header: list[Any], text: str, log: RecordedLog, *, compat: bool
) -> None:
    """The words are Daphne's, as tests of projects have them."""
    application, answer = ask(
        application=Application(start(headers=[header]), body()), compat=compat
    )

    assert text == str(application.error)
    assert ValueError in type(application.error).__mro__
    log.take_errors()
    assert 500 == answer.status
    assert compat == answer.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize("page", [None, html_page], ids=["strict", "compat"])
def test_requests_that_take_too_long(loop: SteppedLoop, page: Any) -> None:
    """503 after http_timeout; a WebSocket isn't touched by it."""
    options = {} if page is None else {"error_page": page}
    limits = HTTPSettings(http_timeout=1.0)
    request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    slow = ServedWebSocket(loop, request, limits, **options)
    opened = ServedWebSocket(loop, settings=limits, **options)
    opened.accept()

    slow.streams.advance(3)
    opened.streams.advance(3)

    assert 503 == slow.status
    assert (page is not None) == (b"<html" in slow.body)
    opened.say("still alive?")
    assert "still alive?" == opened.app.receive()["text"]
    opened.end()
    slow.end()


# -- WebSockets --------------------------------------------------------------------


@BOTH
def test_a_websocket_is_accepted(*, compat: bool) -> None:
    """The keys of the scope, the first event, and the names of the server."""
    application = Application(ACCEPT)

    async def scenario(client: WebSocket) -> None:
        assert client.head.startswith(b"HTTP/1.1 101 ")
        name = b"daphne" if compat else b"daphne-like"
        assert b"\r\nserver: %b\r\n" % name in client.head
        assert compat == (b"\r\ndate: " not in client.head)
        await client.close(4000)

    connect(application, scenario, (b"origin", b"null"), compat=compat)
    scope = application.scope
    assert ("websocket", "/chat", b"/chat", b"", "", []) == (
        *(scope["type"], scope["path"], scope["raw_path"]),
        *(scope["query_string"], scope["root_path"], scope["subprotocols"]),
    )
    assert ("ws", "3.0") == (scope["scheme"], scope["asgi"]["version"])
    assert (b"origin", b"null") in scope["headers"]
    assert [list, list] == [type(scope["client"]), type(scope["server"])]
    assert [
        {"type": "websocket.connect"},
        {"type": "websocket.disconnect", "code": 4000, "reason": ""},
    ] == application.events


@BOTH
def test_a_websocket_is_refused(*, compat: bool) -> None:
    """403 without a body, and the connection is closed."""
    application = Application({"type": "websocket.close"})

    async def scenario(client: WebSocket) -> None:
        assert client.head.startswith(b"HTTP/1.1 403 Forbidden\r\n")
        assert b"\r\ncontent-length: 0\r\n" in client.head
        assert b"" == await client.rest()

    connect(application, scenario, compat=compat)


@BOTH
def test_a_subprotocol_is_chosen(*, compat: bool) -> None:
    """It is one of those which the scope names."""
    application = Application({**ACCEPT, "subprotocol": "proto2"})

    async def scenario(client: WebSocket) -> None:
        assert b"\r\nsec-websocket-protocol: proto2\r\n" in client.head
        await client.close()

    connect(
        application,
        scenario,
        (b"sec-websocket-protocol", b"proto1, proto2"),
        compat=compat,
    )
    assert ["proto1", "proto2"] == application.scope["subprotocols"]


@BOTH
def test_messages_of_text_and_bytes(*, compat: bool) -> None:
    """Whatever they hold; the events have no further keys."""
    application = Application(
        ACCEPT,
        {"type": "websocket.send", "text": "here be dragons 🐉"},
        {"type": "websocket.send", "bytes": b"here be \xe2 bytes"},
        {"type": "websocket.send", "text": ""},
    )

    async def scenario(client: WebSocket) -> None:
        await client.say("what is here? 🌍")
        heard = await client.hear()
        assert (TEXT, "here be dragons 🐉") == (heard.opcode, heard.payload.decode())
        await client.say(b"what is here? \xe2")
        heard = await client.hear()
        assert (BINARY, b"here be \xe2 bytes") == (heard.opcode, heard.payload)
        await client.say("")
        assert b"" == (await client.hear()).payload
        await client.close()

    connect(application, scenario, compat=compat)
    assert [
        {"type": "websocket.connect"},
        {"type": "websocket.receive", "text": "what is here? 🌍"},
        {"type": "websocket.receive", "bytes": b"what is here? \xe2"},
        {"type": "websocket.receive", "text": ""},
    ] == application.events[:-1]


@BOTH
@FEW
@given(
    path=st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    headers=st.lists(st.tuples(_NAMES, _VALUES), max_size=5),
)
def test_any_handshake(
    path: str, headers: list[tuple[str, str]], *, compat: bool
) -> None:
    """Path and headers arrive as in HTTP."""
    application = Application(ACCEPT)
    fields = [(name.encode(), value.encode()) for name, value in headers]
    target = f"/{quote(path, errors='replace')}?a=b".encode()
    connect(application, nothing_more, *fields, target=target, compat=compat)

    scope = application.scope
    assert (f"/{path}", b"a=b") == (scope["path"], scope["query_string"])
    assert [(name.lower(), value.strip()) for name, value in fields] == [
        field for field in scope["headers"] if field[0].startswith(b"x-")
    ]


@BOTH
def test_a_websocket_without_a_host(*, compat: bool) -> None:
    """It needs one as any request does; in compat none does."""
    application = Application(ACCEPT)

    async def scenario(client: WebSocket) -> None:
        assert (b"101" if compat else b"400") == client.head.split()[1]

    connect(application, scenario, request=handshake(without=b"host"), compat=compat)
    assert compat == bool(application.scopes)


@BOTH
@pytest.mark.parametrize(
    ("overrides", "accepted"),
    [
        ({"websocket_max_message_size": 8}, False),
        ({"websocket_max_frame_size": 8, "websocket_max_message_size": 99}, False),
        ({"websocket_max_message_size": 64}, True),
        ({"websocket_max_message_size": 0, "websocket_max_frame_size": 0}, True),
    ],
)
def test_messages_of_a_size(
    overrides: dict[str, int], *, accepted: bool, compat: bool
) -> None:
    """Of one that is too large the application sees nothing; the client gets 1009."""
    application = Application(ACCEPT)

    async def scenario(client: WebSocket) -> None:
        await client.say("x" * 16)
        heard = await client.hear()
        if accepted:
            assert TEXT == heard.opcode
            await client.close()
        else:
            assert (CLOSE, 1009) == (
                heard.opcode,
                int.from_bytes(heard.payload[:2], "big"),
            )

    connect(application, scenario, compat=compat, **overrides)
    kinds = [event["type"].partition(".")[2] for event in application.events]
    received = ["receive"] if accepted else []
    assert ["connect", *received, "disconnect"] == kinds


@BOTH
@pytest.mark.parametrize(
    ("version", "strict_status", "compat_status"),
    [(b"13", 101, 101), (b"8", 101, 101), (b"7", 426, 400), (b"0", 426, 400)],
)
def test_versions(
    version: bytes, strict_status: int, compat_status: int, *, compat: bool
) -> None:
    """13 and 8 are spoken; the answer to others names both."""
    application = Application(ACCEPT)

    async def scenario(client: WebSocket) -> None:
        status = int(client.head.split()[1])
        assert status == (compat_status if compat else strict_status)
        if status != 101:
            assert b"\r\nsec-websocket-version: 13, 8\r\n" in client.head

    connect(application, scenario, (b"sec-websocket-version", version), compat=compat)


@BOTH
def test_other_methods_open_no_websocket(*, compat: bool) -> None:
    """405."""

    async def scenario(client: WebSocket) -> None:
        assert b"405" == client.head.split()[1]

    connect(Application(), scenario, request=handshake(method=b"POST"), compat=compat)


@BOTH
@pytest.mark.parametrize("accepted", [False, True])
def test_an_application_that_raises(
    log: RecordedLog, *, accepted: bool, compat: bool
) -> None:
    """500 before it has accepted, 1011 behind that."""
    wrong = {"type": "websocket.wrong"}
    application = Application(*([ACCEPT] if accepted else []), wrong)

    async def scenario(client: WebSocket) -> None:
        if accepted:
            await client.say("hello")
            heard = await client.hear()
            assert (CLOSE, close_payload(1011)) == (heard.opcode, heard.payload)
        else:
            assert client.head.startswith(b"HTTP/1.1 500 ")

    connect(application, scenario, compat=compat)
    assert 1 == len(log.take_errors())


@BOTH
@pytest.mark.parametrize("byte", [0x0B, 0x0C, 0x1C, 0x1D, 0x1E])
def test_no_header_is_smuggled_into_a_handshake(byte: int, *, compat: bool) -> None:
    """CVE-2026-44546: what some take for the end of a line is refused."""
    application = Application(ACCEPT)
    field = (b"x-padding", b"innocent%cX-Secret-Auth: admin" % byte)

    async def scenario(client: WebSocket) -> None:
        answer = client.head + await client.rest()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"X-Secret-Auth" not in answer

    connect(application, scenario, field, compat=compat)
    assert [] == application.scopes


# -- The access log ----------------------------------------------------------------


@BOTH
def test_the_access_log(tmp_path: Path, *, compat: bool) -> None:
    """Daphne's lines, in any case."""
    path = tmp_path / "log"
    ask(target=b"/a?b=1", compat=compat, access_log=str(path))
    connect(Application(ACCEPT), nothing_more, compat=compat, access_log=str(path))

    async def refused(client: WebSocket) -> None:
        await client.rest()

    no = Application({"type": "websocket.close"})
    connect(no, refused, target=b"/b?c", compat=compat, access_log=str(path))

    lines = path.read_text().splitlines()
    assert all(line.startswith("127.0.0.1:") and " - - [" in line for line in lines)
    assert [
        '"GET /a?b=1" 200 2',
        *(f'"WS{step} /chat" - -' for step in ("CONNECTING", "CONNECT", "DISCONNECT")),
        *(f'"WS{step} /b" - -' for step in ("CONNECTING", "REJECT", "DISCONNECT")),
    ] == [line.partition("] ")[2] for line in lines]
