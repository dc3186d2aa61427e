"""
What Daphne's users rely on: WebSockets.

Each test talks to a whole server, by default and with ``daphne_compat``.
"""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded_log import RecordedLog
from websocket_drivers import handshake
from websocket_frames import close_payload
from whole_server import (
    ACCEPT,
    BINARY,
    BOTH,
    CLOSE,
    FEW,
    NAMES,
    TEXT,
    VALUES,
    Application,
    WebSocket,
    connect,
    nothing_more,
)


@pytest.fixture(autouse=True)
def _log_is_looked_at(log: RecordedLog) -> None:
    """A warning or an error that a test doesn't expect is a failure."""


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
    headers=st.lists(st.tuples(NAMES, VALUES), max_size=5),
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
    overrides: dict[str, Any], *, accepted: bool, compat: bool
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


@BOTH
def test_messages_for_a_client_that_has_left(*, compat: bool) -> None:
    """
    A consumer of Channels says something to a group member who is just leaving.

    What ``send()`` raises would end it before it hears of the end, and it could not
    leave its groups any more.
    """
    events: list[Any] = []
    errors: list[Exception] = []
    over = asyncio.Event()

    class Late(Application):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            events.append(await receive())
            await send(ACCEPT)
            # The event stays where it is until all has been sent.
            await over.wait()
            try:
                for _ in range(3):
                    await send({"type": "websocket.send", "text": "hello"})
            except OSError as error:
                errors.append(error)
            events.append(await receive())

    async def scenario(client: WebSocket) -> None:
        await client.close(1001)
        over.set()

    connect(Late(), scenario, compat=compat)
    assert ["websocket.connect", "websocket.disconnect"] == [e["type"] for e in events]
    assert compat == (errors == [])
