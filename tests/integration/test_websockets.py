"""WebSockets between a real server and the clients which people use."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import aiohttp
import httpx
import pytest
import websockets
from selenium.webdriver import Chrome
from server_process import Serve, ServerProcess
from websocket_frames import close_payload, frame, read_frames
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

# Selenium leaves sockets of its own to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)

APPLICATION = "applications.websockets:application"
MIB = 1024 * 1024
TEXT, CLOSE = 1, 8
LARGE = ("--websocket-max-message-size", "0", "--websocket-max-frame-size", "0")

HANDSHAKE = (
    b"GET /echo HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)

MESSAGES: list[str | bytes] = [
    "",
    b"",
    "a",
    "grüezi " * 20,
    os.urandom(125),
    os.urandom(126),
    "x" * 65535,
    os.urandom(65536),
    "日本" * 100_000,
    os.urandom(16 * MIB),
    "y" * (16 * MIB),
]


@pytest.fixture(scope="module", params=["uvloop", "asyncio"])
def server(serve_module: Serve, request: pytest.FixtureRequest) -> ServerProcess:
    """Serve on both event loops, without limits of size."""
    return serve_module(APPLICATION, "--loop", request.param, *LARGE)


@pytest.fixture(scope="module")
def url(server: ServerProcess) -> str:
    """Where WebSockets are."""
    return server.url.replace("http:", "ws:").rstrip("/")


def tasks(server: ServerProcess) -> int:
    """Count the tasks of the server, with the one that tells."""
    with urlopen(f"{server.url.rstrip('/')}/tasks", timeout=10) as response:
        return int(response.read())


def ended_with(server: ServerProcess, end: dict[str, Any]) -> bool:
    """Wait until the application has seen such an end of a WebSocket."""
    limit = time.monotonic() + 10
    while time.monotonic() < limit:
        with urlopen(f"{server.url.rstrip('/')}/ends", timeout=10) as response:
            if end in json.loads(response.read()):
                return True
    return False


# -- Clients -------------------------------------------------------------------


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_messages_of_all_sizes_by_websockets(url: str, compression: Any) -> None:
    """Text and bytes come back as they were, from nothing to 16 MB."""

    async def talk() -> None:
        async with websockets.connect(
            f"{url}/echo", compression=compression, max_size=None, proxy=None
        ) as client:
            for message in MESSAGES:
                await client.send(message)
                assert message == await client.recv()
            await client.send(["frag", "men", "ted"])
            assert "fragmented" == await client.recv()
            await (await client.ping())

    asyncio.run(asyncio.wait_for(talk(), 50))


def test_no_message_overtakes_another(url: str) -> None:
    """Those which are sent twice go to the socket itself, if nothing waits for it."""

    async def listen() -> None:
        async with websockets.connect(
            f"{url}/twice", compression=None, max_size=None, proxy=None
        ) as client:
            for number in range(4000):
                expected = str(number) if number % 100 else "x" * 200_000
                assert expected == await client.recv()
                assert expected == await client.recv()

    asyncio.run(asyncio.wait_for(listen(), 50))


@pytest.mark.parametrize("compress", [0, 15])
def test_messages_of_all_sizes_by_aiohttp(url: str, compress: int) -> None:
    """The same by another client."""

    async def talk() -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(
                f"{url}/echo", compress=compress, max_msg_size=0
            ) as client,
        ):
            for message in MESSAGES:
                if isinstance(message, str):
                    await client.send_str(message)
                    assert message == await client.receive_str()
                else:
                    await client.send_bytes(message)
                    assert message == await client.receive_bytes()

    asyncio.run(asyncio.wait_for(talk(), 50))


AUTOBAHN_CLIENT = """
import asyncio, os, sys
from autobahn.asyncio.websocket import WebSocketClientFactory, WebSocketClientProtocol

MESSAGES = [b"", b"a", os.urandom(65536), os.urandom(1 << 20)]

class Client(WebSocketClientProtocol):
    def onOpen(self):
        self.left = [*MESSAGES]
        self.ask()

    def ask(self):
        self.sendMessage(self.left[0], isBinary=True)

    def onMessage(self, payload, isBinary):
        assert payload == self.left.pop(0) and isBinary
        if self.left:
            self.ask()
        else:
            self.sendClose(3000, "done")

    def onClose(self, wasClean, code, reason):
        print(wasClean, code, reason)
        done.set_result(None)

async def main():
    global done
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    factory = WebSocketClientFactory(sys.argv[1])
    factory.protocol = Client
    await loop.create_connection(factory, "127.0.0.1", int(sys.argv[2]))
    await done

asyncio.run(main())
"""


def test_messages_by_autobahn(url: str, server: ServerProcess) -> None:
    """Autobahn's client, in a process of its own as it picks a framework for all."""
    run = subprocess.run(
        [sys.executable, "-c", AUTOBAHN_CLIENT, f"{url}/echo", str(server.port)],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )

    assert "True 3000 done\n" == run.stdout, run.stderr


IN_BROWSER = """
const [url, done] = arguments;
const socket = new WebSocket(url);
socket.binaryType = "arraybuffer";
const random = new Uint8Array(65536);
crypto.getRandomValues(random);
const large = new Uint8Array(16 << 20);
for (let at = 0; at < large.length; at += random.length) large.set(random, at);
const messages = ["", "a", "grüezi ".repeat(20), "x".repeat(70000),
  "日本".repeat(100000), "y".repeat(16 << 20), new ArrayBuffer(0), random, large];
const same = (sent, got) => typeof sent === "string" ? sent === got
  : new Uint8Array(sent).every((byte, at) => byte === new Uint8Array(got)[at])
    && sent.byteLength === got.byteLength;
let next = 0;
socket.onopen = () => socket.send(messages[0]);
socket.onmessage = ({ data }) => {
  if (!same(messages[next], data)) return done(`message ${next} is another one`);
  next += 1;
  if (next < messages.length) socket.send(messages[next]);
  else socket.close(4000, "enough");
};
socket.onclose = ({ code, reason, wasClean }) =>
  done([next, code, reason, wasClean, socket.extensions.includes("deflate")]);
"""

CLOSED_IN_BROWSER = """
const [url, done] = arguments;
const socket = new WebSocket(url, ["one", "two"]);
socket.onclose = ({ code, reason, wasClean }) =>
  done([socket.protocol, code, reason, wasClean]);
"""


@pytest.mark.parametrize("deflate", [True, False])
def test_messages_by_a_browser(serve: Serve, browser: Chrome, deflate: bool) -> None:
    """A page of the server's opens WebSockets; either side closes."""
    options = () if deflate else ("--no-ws-per-message-deflate",)
    server = serve(APPLICATION, *LARGE, *options)
    url = server.url.replace("http:", "ws:").rstrip("/")
    browser.get(server.url)
    browser.set_script_timeout(40)

    told = browser.execute_async_script(IN_BROWSER, f"{url}/echo")
    assert [9, 4000, "enough", True, deflate] == told
    told = browser.execute_async_script(CLOSED_IN_BROWSER, f"{url}/close")
    assert ["one", 4321, "grüezi", True] == told
    browser.get("about:blank")
    assert 0 == server.stop()


# -- The handshake -------------------------------------------------------------


def test_what_the_application_adds_to_the_handshake(url: str) -> None:
    """Subprotocol and header fields arrive."""

    async def talk() -> None:
        async with websockets.connect(
            f"{url}/echo",
            subprotocols=[Subprotocol("one"), Subprotocol("two")],
            proxy=None,
        ) as client:
            assert "one" == client.subprotocol
            assert client.response is not None
            assert "/echo" == client.response.headers["x-path"]

    asyncio.run(talk())


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [("/refuse", 403, b""), ("/answer", 418, b"a teapot")],
)
def test_a_refusal(url: str, path: str, status: int, body: bytes) -> None:
    """The application refuses, with its own answer when it has one."""

    async def talk() -> None:
        with pytest.raises(InvalidStatus) as refusal:
            await websockets.connect(url + path, proxy=None)
        assert status == refusal.value.response.status_code
        assert body == refusal.value.response.body

    asyncio.run(talk())


def test_over_a_unix_socket(serve: Serve, socket_folder: Path) -> None:
    """A proxy on the same machine needs no port."""
    path = str(socket_folder / "ws.sock")
    server = serve(APPLICATION, "--unix-socket", path)

    async def talk() -> None:
        async with websockets.unix_connect(path, "ws://a/echo") as client:
            await client.send("hello")
            assert "hello" == await client.recv()

    asyncio.run(talk())
    assert 0 == server.stop()


def test_on_a_transport_of_twisted(serve: Serve) -> None:
    """An endpoint which is Twisted's own serves the same."""
    server = serve(APPLICATION, "--endpoint", "tcp6:0:interface=\\:\\:1", *LARGE)
    port = int(server.wait_for_log(r"http://\[::1\]:\d+").rpartition(":")[2])

    async def talk() -> None:
        async with websockets.connect(
            f"ws://[::1]:{port}/echo", max_size=None, proxy=None
        ) as client:
            for message in MESSAGES[:9]:
                await client.send(message)
                assert message == await client.recv()
            await client.close(4000, "enough")
            assert 4000 == client.close_code

    asyncio.run(asyncio.wait_for(talk(), 30))
    assert 0 == server.stop()


# -- The end -------------------------------------------------------------------


def test_the_client_closes(url: str, server: ServerProcess) -> None:
    """Code and reason reach the application, and the client gets its answer."""
    end = {"type": "websocket.disconnect", "code": 4000, "reason": "ade"}

    async def talk() -> None:
        async with websockets.connect(f"{url}/echo", proxy=None) as client:
            await client.close(4000, "ade")
            assert 4000 == client.close_code

    asyncio.run(talk())
    assert ended_with(server, end)


@pytest.mark.parametrize(
    ("path", "code", "reason"), [("/close", 4321, "grüezi"), ("/fail", 1011, "")]
)
def test_the_server_closes(
    url: str, server: ServerProcess, path: str, code: int, reason: str
) -> None:
    """The application closes, or dies."""

    async def talk() -> None:
        async with websockets.connect(url + path, proxy=None) as client:
            with pytest.raises(ConnectionClosed) as closed:
                await client.recv()
        assert closed.value.rcvd is not None
        assert (code, reason) == (closed.value.rcvd.code, closed.value.rcvd.reason)

    asyncio.run(talk())
    if path == "/close":
        end = {"type": "websocket.disconnect", "code": code, "reason": reason}
        assert ended_with(server, end)


def test_a_stop_says_goodbye(serve: Serve) -> None:
    """On SIGTERM clients get 1001, and the server ends without waiting for more."""
    server = serve(APPLICATION)

    async def talk() -> None:
        url = server.url.replace("http:", "ws:").rstrip("/")
        async with websockets.connect(f"{url}/echo", proxy=None) as client:
            await client.send("here")
            assert "here" == await client.recv()
            server.signal(signal.SIGTERM)
            with pytest.raises(ConnectionClosed) as closed:
                await client.recv()
            assert closed.value.rcvd is not None
            assert 1001 == closed.value.rcvd.code

    asyncio.run(asyncio.wait_for(talk(), 20))
    assert 0 == server.wait()


def test_an_application_says_goodbye_itself(serve: Serve) -> None:
    """
    On SIGTERM it hears of the end while its clients are still there: it can tell them,
    hear what they say to it, and close as it likes. Other WebSockets don't wait.
    """
    server = serve(APPLICATION)

    async def talk() -> None:
        url = server.url.replace("http:", "ws:").rstrip("/")
        async with (
            websockets.connect(f"{url}/goodbye", proxy=None) as client,
            websockets.connect(f"{url}/echo", proxy=None) as other,
        ):
            await client.send("here")
            assert "here" == await client.recv()
            server.signal(signal.SIGTERM)
            assert "come back" == await client.recv()
            with pytest.raises(ConnectionClosed) as closed:
                await other.recv()
            assert closed.value.rcvd is not None
            assert 1001 == closed.value.rcvd.code
            await client.send("so long")
            with pytest.raises(ConnectionClosed) as closed:
                await client.recv()
            assert closed.value.rcvd is not None
            assert 4001 == closed.value.rcvd.code

    asyncio.run(asyncio.wait_for(talk(), 20))
    assert 0 == server.wait()


EMBEDDED = """
import sys, threading
from applications.websockets import application
from daphne_like import Server

def tell():
    print(server.listening_addresses[0][1], flush=True)

server = Server(application, port=0, ready_callable=tell)

def replace():
    sys.stdin.readline()
    server.stop(restarting=True)

threading.Thread(target=replace, daemon=True).start()
server.run()
"""


def test_a_server_that_is_replaced_says_so() -> None:
    """A program that starts another server lets clients know: 1012."""
    with subprocess.Popen(
        [sys.executable, "-c", EMBEDDED],
        cwd=Path(__file__).parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())

        async def talk() -> None:
            assert process.stdin is not None
            async with websockets.connect(
                f"ws://127.0.0.1:{port}/echo", proxy=None
            ) as client:
                process.stdin.write("\n")
                process.stdin.flush()
                with pytest.raises(ConnectionClosed) as closed:
                    await client.recv()
                assert closed.value.rcvd is not None
                assert 1012 == closed.value.rcvd.code

        asyncio.run(asyncio.wait_for(talk(), 20))
        assert 0 == process.wait(20)


def test_a_stop_cuts_a_client_that_does_not_answer(serve: Serve) -> None:
    """A client that never answers the Close frame doesn't hold the server up."""
    server = serve(APPLICATION, "--ws-close-timeout", "1")

    with _connected(server) as sock:
        server.signal(signal.SIGTERM)
        assert [CLOSE] == [sent.opcode for sent in read_frames(sock.recv(100))]
        assert 0 == server.wait()


# -- Bad clients ---------------------------------------------------------------


def _connected(server: ServerProcess) -> socket.socket:
    """Return a plain socket behind a handshake."""
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    sock.sendall(HANDSHAKE)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += sock.recv(1)
    assert head.startswith(b"HTTP/1.1 101 ")
    return sock


def _reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def test_clients_dropped_at_every_stage_leave_nothing(server: ServerProcess) -> None:
    """Neither a task nor a connection is left of those who vanish."""
    before = tasks(server)
    for _ in range(20):
        address = ("127.0.0.1", server.port)
        half = socket.create_connection(address, timeout=20)
        half.sendall(HANDSHAKE[:50])
        whole = socket.create_connection(address, timeout=20)
        whole.sendall(HANDSHAKE)
        accepted, in_frame, in_message, closing = (_connected(server) for _ in range(4))
        in_frame.sendall(frame(TEXT, b"a" * 1000)[:500])
        in_message.sendall(frame(TEXT, b"a", fin=False))
        closing.sendall(frame(TEXT, b"a") + frame(CLOSE, close_payload(1000)))
        for sock in (half, whole, accepted, in_frame, in_message, closing):
            _reset(sock)

    limit = time.monotonic() + 20
    while tasks(server) > before and time.monotonic() < limit:
        time.sleep(0.05)
    assert before == tasks(server)


def test_a_client_that_does_not_read_is_cut(serve: Serve) -> None:
    """It is cut after the time it may take nothing; the application learns of it."""
    server = serve(APPLICATION, "--timeout-send", "1")
    sock = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    sock.sendall(HANDSHAKE.replace(b"/echo", b"/flood"))

    limit = time.monotonic() + 20
    while tasks(server) > 4 and time.monotonic() < limit:
        time.sleep(0.1)
    with pytest.raises(OSError), sock:
        while True:
            time.sleep(0.1)
            sock.sendall(frame(TEXT, b"are you there?"))


@pytest.fixture
def plain(serve: Serve) -> Iterator[ServerProcess]:
    """Serve with the limits as they are by default."""
    server = serve(APPLICATION)
    yield server
    assert 0 == server.stop()


def test_a_message_beyond_the_limit(plain: ServerProcess) -> None:
    """1009, before it has been read."""
    with _connected(plain) as sock:
        sock.sendall(frame(TEXT, b"a", length=MIB + 1))
        sent = read_frames(sock.recv(1000))

    assert [CLOSE] == [answer.opcode for answer in sent]
    assert struct.pack(">H", 1009) == sent[0].payload[:2]


def test_half_a_handshake(plain: ServerProcess) -> None:
    """A request that can't become a WebSocket gets 400 in plain words."""
    answer = httpx.get(
        f"{plain.url.rstrip('/')}/echo",
        headers={"Connection": "Upgrade", "Upgrade": "websocket"},
        trust_env=False,
    )

    assert 400 == answer.status_code
    assert "Sec-WebSocket-Version" in answer.text
