"""
What Daphne's users rely on: requests, responses, and the setting itself.

Each test talks to a whole server, by default and with ``daphne_compat``.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from asgi_messages import body, start
from event_loops import run_on
from hypothesis import given
from hypothesis import strategies as st
from raw_http import split_answers
from recorded_log import RecordedLog
from stepped_loop import SteppedLoop
from websocket_drivers import ServedWebSocket
from whole_server import (
    ACCEPT,
    BOTH,
    FEW,
    NAMES,
    VALUES,
    Application,
    WebSocket,
    ask,
    connect,
    nothing_more,
    say,
)

from daphne_like.asgi.error_pages import html_page
from daphne_like.server import Server
from daphne_like.settings import HTTPSettings, Settings


@pytest.fixture(autouse=True)
def _log_is_looked_at(log: RecordedLog) -> None:
    """A warning or an error that a test doesn't expect is a failure."""


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
        400,
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
    assert (b"x", b"b c") in seen["obs-fold"].scope["headers"]
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
            application,
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


@BOTH
@FEW
@given(headers=st.lists(st.tuples(NAMES, VALUES), max_size=8), equal=st.booleans())
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
@given(headers=st.lists(st.tuples(NAMES, VALUES), max_size=8))
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
