"""HTTP/2 with real clients, in cleartext and over TLS."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import httpx
import pytest
from certificates import Authority
from http2_client import Peer
from http2_links import SocketLink
from programs import curl, find_program
from selenium.webdriver import Chrome
from server_process import LOOPS, Serve, serving_until_done

# Selenium leaves sockets of its own to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)

APPLICATION = "applications.versions:application"
MIB = 1024 * 1024
# What the application sends, again and again.
PIECE = bytes(range(256)) * 256


class Site:
    """
    The application over TLS and in cleartext.

    Attributes:
        server: With TLS.
        plain: Without.
        root: What clients trust.
    """

    def __init__(self, serve: Serve, folder: Path, loop: str) -> None:
        authority = Authority()
        self.root = folder / f"root-{loop}.pem"
        self.root.write_text(authority.pem)
        issued = authority.issue("localhost", "127.0.0.1")
        file = str(issued.write(folder / f"server-{loop}.pem"))
        options = ("--loop", loop, "--http2-push")
        self.server = serve(APPLICATION, *options, "--ssl-certfile", file)
        self.plain = serve(APPLICATION, *options)

    def trust(self, *protocols: str) -> ssl.SSLContext:
        """Make the context of a client."""
        context = ssl.create_default_context(cafile=str(self.root))
        if protocols:
            context.set_alpn_protocols(list(protocols))
        return context

    def curl(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        """Run curl, which trusts the server."""
        return curl("--cacert", str(self.root), *arguments)


@pytest.fixture(scope="module", params=LOOPS)
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """Serve the application."""
    folder = tmp_path_factory.mktemp("certificates")
    with serving_until_done() as serve:
        yield Site(serve, folder, request.param)


# -- curl ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "version"),
    [("--http2", "2"), ("--http1.1", "1.1"), ("--no-alpn", "1.1")],
)
def test_curl_over_tls(site: Site, option: str, version: str) -> None:
    """ALPN decides; without it, it is HTTP/1.1."""
    done = site.curl(option, "--write-out", " %{http_version}", site.server.url)

    told, _, used = done.stdout.rpartition(b" ")
    assert version == used.decode() == json.loads(told)["version"]
    assert "https" == json.loads(told)["scheme"]
    assert json.loads(told)["tls"]


def test_curl_with_prior_knowledge(site: Site) -> None:
    """Cleartext HTTP/2 needs no option."""
    done = site.curl("--http2-prior-knowledge", f"{site.plain.url}/?a=b")

    told = json.loads(done.stdout)
    assert ("2", "http", False) == (told["version"], told["scheme"], told["tls"])
    assert f"127.0.0.1:{site.plain.port}" == told["host"]


def test_curl_that_asks_for_an_upgrade(site: Site, serve: Serve) -> None:
    """It gets HTTP/2 where that was switched on, and HTTP/1.1 elsewhere."""
    upgrading = serve(APPLICATION, "--h2c-upgrade")

    before = site.curl("--http2", site.plain.url).stdout
    after = site.curl("--http2", "--verbose", upgrading.url)
    body = site.curl("--http2", "--data", "x" * 1000, f"{upgrading.url}/digest").stdout

    assert "1.1" == json.loads(before)["version"]
    assert "2" == json.loads(after.stdout)["version"]
    assert b"101 Switching Protocols" in after.stderr
    assert 1000 == json.loads(body)["bytes"]


@pytest.mark.parametrize(("http", "version"), [("1.1", "1.1"), ("2", "2")])
def test_only_one_version_is_spoken(
    serve: Serve, site: Site, http: str, version: str
) -> None:
    """``--http`` narrows what is offered."""
    server = serve(APPLICATION, "--http", http)

    knowing = site.curl("--http2-prior-knowledge", server.url)
    usual = site.curl("--http1.1", server.url)

    assert (http == "2") is (knowing.returncode == 0)
    assert (http == "1.1") is (usual.returncode == 0)
    served = knowing if http == "2" else usual
    assert version == json.loads(served.stdout)["version"]


def test_curl_uploads_and_downloads(site: Site, tmp_path: Path) -> None:
    """Megabytes go both ways, whole."""
    file = tmp_path / "upload"
    file.write_bytes(PIECE * 200)

    up = site.curl("--http2", "-T", str(file), f"{site.server.url}/digest")
    down = site.curl("--http2", f"{site.server.url}/download?pieces=200")

    assert hashlib.sha256(PIECE * 200).hexdigest() == json.loads(up.stdout)["sha256"]
    assert PIECE * 200 == down.stdout


# -- nghttp, h2load, node --------------------------------------------------------


def test_nghttp(site: Site) -> None:
    """It makes a tree of priorities, which has no meaning any more, and gets its page."""
    command = [find_program("nghttp"), "--no-verify-peer", "-v"]
    done = subprocess.run(
        [*command, f"{site.server.url}/page", f"{site.server.url}/trailers"],
        capture_output=True,
        check=True,
        timeout=20,
    )

    told = done.stdout.decode()
    assert "The negotiated protocol: h2" in told
    assert 2 == len(re.findall(r"(?<!1): ?200", told))
    assert "error_code=NO_ERROR" in told
    assert "RST_STREAM" not in told


@pytest.mark.parametrize("secure", [True, False], ids=["tls", "cleartext"])
def test_h2load(site: Site, secure: bool) -> None:
    """Thousands of requests side by side on a few connections all succeed."""
    url = site.server.url if secure else site.plain.url
    command = [find_program("h2load"), "-n", "5000", "-c", "8", "-m", "32"]
    done = subprocess.run([*command, url], capture_output=True, check=True, timeout=30)

    assert b"5000 succeeded, 0 failed, 0 errored" in done.stdout
    assert b"5000 2xx" in done.stdout


NODE_CLIENT = """
const http2 = require("node:http2"), fs = require("node:fs");
const [url, root, size] = process.argv.slice(1);
const session = http2.connect(url, {ca: fs.readFileSync(root)});
function exchange(headers, body) {
  return new Promise((resolve, reject) => {
    const stream = session.request(headers);
    const got = {hints: [], trailers: {}, body: ""};
    stream.on("headers", headers => got.hints.push(headers.link));
    stream.on("response", headers => got.status = headers[":status"]);
    stream.on("trailers", headers => got.trailers = headers["x-checksum"]);
    stream.on("data", data => got.body += data);
    stream.on("end", () => resolve(got));
    stream.on("error", reject);
    stream.end(body);
  });
}
(async () => {
  const many = await Promise.all(
    [...Array(100).keys()].map(n => exchange({":path": "/" + n})));
  const upload = await exchange(
    {":path": "/digest", ":method": "POST"}, Buffer.alloc(Number(size), "x"));
  const rich = await exchange({":path": "/trailers", "te": "trailers"});
  console.log(JSON.stringify({
    all: many.every(got => got.status == 200 && JSON.parse(got.body).version == "2"),
    bytes: JSON.parse(upload.body).bytes,
    rich,
  }));
  session.close();
})().catch(error => { console.error(error); process.exit(1); });
"""


def test_node(site: Site) -> None:
    """Node's client gets a hundred answers at once, early hints and trailers."""
    size = 5_000_000
    command = [find_program("node"), "-e", NODE_CLIENT]
    done = subprocess.run(
        [*command, site.server.url, str(site.root), str(size)],
        capture_output=True,
        timeout=30,
        check=False,
    )

    assert b"" == done.stderr
    told = json.loads(done.stdout)
    assert told["all"]
    assert size == told["bytes"]
    assert {
        "status": 200,
        "hints": ["</style.css>; rel=preload"],
        "trailers": "123",
        "body": "body",
    } == told["rich"]


# -- httpx -----------------------------------------------------------------------


def test_httpx(site: Site) -> None:
    """
    An asynchronous client asks fifty times at once on one connection.

    Its bodies are together within the first window: of requests that wait for windows
    at once httpcore may leave one waiting for ever, as it asks for further bytes although
    another request has read the credit. Other clients send more.
    """
    limits = httpx.Limits(max_connections=1)
    piece = b"x" * 50

    async def ask() -> list[Any]:
        async with httpx.AsyncClient(
            http2=True, verify=site.trust(), limits=limits, timeout=20
        ) as client:
            asked = [
                client.post(
                    f"{site.server.url}/digest",
                    content=piece * number,
                    headers=[("cookie", "a=1"), ("cookie", "b=2")],
                )
                for number in range(50)
            ]
            return [answer.json() for answer in await asyncio.gather(*asked)]

    answers = asyncio.run(ask())

    assert [number * len(piece) for number in range(50)] == [
        answer["bytes"] for answer in answers
    ]
    assert {("2", "a=1; b=2")} == {
        (answer["version"], answer["cookie"]) for answer in answers
    }


# -- Chromium --------------------------------------------------------------------


def test_browser(site: Site, browser: Chrome) -> None:
    """A page, a hundred fetches, an upload and a WebSocket share a connection."""
    browser.get(f"{site.server.url}/page")
    run: Callable[..., Any] = browser.execute_async_script
    script = "const done = arguments[arguments.length - 1]; %s.then(done, done)"

    protocol = browser.execute_script(
        "return performance.getEntriesByType('navigation')[0].nextHopProtocol"
    )
    assert "h2" == protocol
    assert ",".join(["2"] * 100) == run(script % "exchange('/told', 100)")
    assert 3_000_000 == run(script % "upload(3000000)")
    # RFC 8441: over a stream of the connection that is there already.
    assert ["chat", 3000, "2 wss", "HELLO"] == run(script % "chat('hello')")


# -- Large bodies side by side -----------------------------------------------------


class Pair:
    """Two streams of one connection, one of which can be slow."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 20)
        self.engine = h2.connection.H2Connection(
            h2.config.H2Configuration(header_encoding="utf-8")
        )
        self.engine.local_settings.initial_window_size = 256 * 1024
        self.engine.initiate_connection()
        self.engine.increment_flow_control_window(64 * MIB)
        self.received: dict[int, int] = {}
        self.owed: dict[int, int] = {}
        self.ended: set[int] = set()
        self.bodies: dict[int, bytes] = {}
        self.flush()

    def request(self, path: str, *, end: bool = True) -> int:
        """Ask, and return the stream."""
        number = self.engine.get_next_available_stream_id()
        head = {":method": "GET" if end else "POST", ":path": path}
        head |= {":scheme": "http", ":authority": "localhost"}
        self.engine.send_headers(number, list(head.items()), end_stream=end)
        self.received[number] = self.owed[number] = 0
        self.bodies[number] = b""
        self.flush()
        return number

    def flush(self) -> None:
        """Send what the engine has made."""
        self._socket.sendall(self.engine.data_to_send())

    def read(self, slow: int = 0) -> None:
        """Read once; give credit on all streams but the slow one."""
        events = self.engine.receive_data(self._socket.recv(256 * 1024))
        for event in events:
            if isinstance(event, h2.events.ConnectionTerminated):
                pytest.fail(f"{event.error_code}, {event.additional_data!r}")
        for event in events:
            if isinstance(event, h2.events.DataReceived):
                number = event.stream_id or 0
                size = event.flow_controlled_length or 0
                self.received[number] += len(event.data or b"")
                if len(self.bodies[number]) < 1000:
                    self.bodies[number] += event.data or b""
                self.engine.increment_flow_control_window(size or 1)
                self.owed[number] += size
                if number != slow:
                    self.pay(number)
            elif isinstance(event, h2.events.StreamEnded):
                self.ended.add(event.stream_id or 0)
            elif isinstance(event, h2.events.StreamReset):
                pytest.fail(f"reset with {event.error_code}")
        self.flush()

    def pay(self, number: int) -> None:
        """Give a stream credit for what it has brought."""
        if self.owed[number]:
            # With the end of the stream in the same read, it needs no credit.
            with contextlib.suppress(h2.exceptions.StreamClosedError):
                self.engine.increment_flow_control_window(self.owed[number], number)
        self.owed[number] = 0

    def send(self, number: int, size: int) -> int:
        """Send as much of so many bytes as the server takes now."""
        window = self.engine.local_flow_control_window(number)
        room = min(size, window, self.engine.max_outbound_frame_size)
        if room > 0:
            self.engine.send_data(number, bytes(room))
            self.flush()
        return max(room, 0)

    def close(self) -> None:
        """Leave."""
        self._socket.close()


@pytest.fixture
def pair(site: Site) -> Iterator[Pair]:
    """Connect."""
    pair = Pair(site.plain.port)
    yield pair
    pair.close()


def test_a_slow_download_does_not_hold_up_a_fast_one(pair: Pair) -> None:
    """100 MB come on one stream while another one stands still, and then as well."""
    pieces = 1600
    slow = pair.request(f"/download?pieces={pieces}")
    fast = pair.request(f"/download?pieces={pieces}")

    while fast not in pair.ended:
        pair.read(slow)
    received = pair.received[slow]
    pair.pay(slow)
    pair.flush()
    while slow not in pair.ended:
        pair.read()

    assert received <= 256 * 1024
    assert {pieces * len(PIECE)} == set(pair.received.values())


def test_a_slow_upload_does_not_hold_up_a_fast_one(pair: Pair) -> None:
    """100 MB go to an application that reads while another one takes its time."""
    size = 100 * MIB
    slow = pair.request("/digest?pause=0.2", end=False)
    fast = pair.request("/digest", end=False)
    sent = {slow: 0, fast: 0}

    began = time.monotonic()
    while sent[fast] < size:
        progress = 0
        for number in (slow, fast):
            progress += (count := pair.send(number, size - sent[number]))
            sent[number] += count
        if not progress:
            pair.read()
    pair.engine.end_stream(fast)
    pair.flush()
    while fast not in pair.ended:
        pair.read()

    assert size == json.loads(pair.bodies[fast])["bytes"]
    # The slow one takes a window in each fifth of a second, and isn't ahead.
    assert sent[slow] < size
    assert sent[slow] <= (1 + (time.monotonic() - began) / 0.2) * 4 * MIB
    pair.engine.end_stream(slow)
    pair.flush()
    while slow not in pair.ended:
        pair.read()
    assert sent[slow] == json.loads(pair.bodies[slow])["bytes"]


def test_stopping_loses_no_request(serve: Serve, site: Site) -> None:
    """A client with requests in flight gets its answers, and knows that we leave."""
    server = serve(APPLICATION)
    with socket.create_connection(("127.0.0.1", server.port), 20) as sock:
        peer = Peer(SocketLink(sock))
        peer.open()
        upload = peer.request(method=b"POST", path=b"/digest", end=False)
        peer.send_data(upload, b"x" * 1000)
        peer.expect_pong()

        server.signal(signal.SIGTERM)
        peer.wait_until(lambda: bool(peer.goaways), "GOAWAY")
        # The client hasn't read that when it sends another request.
        late = peer.request()
        peer.expect_response(late)
        peer.send_data(upload, end=True)
        told = json.loads(peer.expect_response(upload).body)

    assert 1000 == told["bytes"]
    assert [(2**31 - 1, 0)] == peer.goaways[:1]
    assert 0 == server.wait()
