"""Inside of Twisted programs: the examples, and applications mounted in a tree."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import httpx
import pytest
from certificates import Authority
from raw_http import connect, read_until
from server_process import LOOPS, Serve, ServerProcess, launching
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect as connect_websocket

import daphne_like

EXAMPLES = Path(__file__).parents[2] / "examples" / "twisted"
ENVIRONMENT = {"PYTHONPATH": str(Path(daphne_like.__file__).parents[1])}
ANY_PORT = "tcp:0:interface=127.0.0.1"
_TIMEOUT = 20.0


def ask(url: str, body: bytes | None = None, **options: Any) -> bytes:
    """Return the body of a response."""
    with urlopen(Request(url, body), timeout=_TIMEOUT, **options) as response:
        return bytes(response.read())


def port_of(server: ServerProcess, factory: str) -> int:
    """Find out where Twisted let a factory listen."""
    line = server.wait_for_log(rf"{factory}[^\n]* starting on \d+")
    return int(line.rpartition(" ")[2])


# -- The examples ------------------------------------------------------------


@pytest.fixture
def board(launch: Serve) -> ServerProcess:
    """Run the notice board."""
    server = launch(
        *("-n", "--pidfile=", "-y", "board.tac"),
        program=("-c", "from twisted.scripts.twistd import run; run()"),
        cwd=EXAMPLES,
        environment={**ENVIRONMENT, "BOARD_WEB": ANY_PORT, "BOARD_LINES": ANY_PORT},
    )
    server.wait_for_log("Listening on")
    return server


def test_an_application_shares_a_service_of_twisted(board: ServerProcess) -> None:
    """Lines by TCP, HTTP and WebSockets meet in one service that gives Deferreds."""
    url = board.url
    lines_port = port_of(board, "LinesFactory")
    follow = connect_websocket(url.replace("http", "ws"), open_timeout=_TIMEOUT)
    with follow as notices:
        assert b"1" == ask(url, b"by HTTP")
        with socket.create_connection(("127.0.0.1", lines_port), _TIMEOUT) as lines:
            lines.sendall(b"by TCP\n")
            assert b"2\n" == read_until(lines, b"\n")
            lines.sendall(b"x" * 300 + b"\n")
            assert read_until(lines, b"\n").startswith(b"1 to 200")
        assert ["by HTTP", "by TCP"] == [notices.recv(_TIMEOUT) for _ in range(2)]
    assert ["by HTTP", "by TCP"] == json.loads(ask(url))
    with pytest.raises(HTTPError) as raised:
        ask(url, b"x" * 300)
    raised.value.close()
    assert 400 == raised.value.code

    board.stop()
    assert "Traceback" not in board.log
    # Deferreds and Futures that nobody waits for any more are no errors.
    assert "Unhandled" not in board.log
    assert "never retrieved" not in board.log


def test_an_application_in_a_tree(launch: Serve) -> None:
    """Resources of Twisted and the application answer, each in its place."""
    server = launch(
        program=("tree.py",),
        cwd=EXAMPLES,
        environment={**ENVIRONMENT, "TREE_WEB": ANY_PORT},
    )
    url = f"127.0.0.1:{port_of(server, 'Site')}"

    assert b'<a href="/app/hello">' in ask(f"http://{url}/")
    assert re.search(rb"\d\d:\d\d", ask(f"http://{url}/time"))
    assert b"hello from /hello below /app\n" == ask(f"http://{url}/app/hello")
    with connect_websocket(f"ws://{url}/app/echo", open_timeout=_TIMEOUT) as echo:
        echo.send("text")
        assert "text" == echo.recv(_TIMEOUT)

    server.stop()
    assert "Traceback" not in server.log


# -- Applications in a tree --------------------------------------------------


def mount(launch: Serve, endpoint: str) -> ServerProcess:
    """Mount an application that tries many things."""
    program = ("-m", "applications.mounted")
    server = launch(endpoint, program=program, environment=ENVIRONMENT)
    server.wait_for_log("Listening on")
    return server


@pytest.fixture(scope="module")
def mounted() -> Iterator[ServerProcess]:
    """Mount it for all tests; in the end nothing may have gone wrong."""
    with launching() as launch:
        server = mount(launch, ANY_PORT)
        yield server
        server.stop()
        assert "Traceback" not in server.log


def test_resources_around_it_answer(mounted: ServerProcess) -> None:
    """The tree is Twisted's, but for the one branch."""
    assert b"twisted" == ask(f"{mounted.url}/twisted")
    told = json.loads(ask(f"{mounted.url}/outer/inner/below"))
    assert ("/outer/inner", "/outer/inner/below") == (told["root_path"], told["path"])
    assert ("http", "1.1", None) == (told["scheme"], told["http_version"], told["tls"])


@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_upload_reaches_the_application(
    mounted: ServerProcess, chunked: bool
) -> None:
    """Whole and in order, by a length and in chunks."""
    body = os.urandom(3_000_000)
    sent: Any = iter([body[:1_000_000], body[1_000_000:]]) if chunked else body

    digest = ask(f"{mounted.url}/outer/inner/digest", sent)
    assert hashlib.sha256(body).hexdigest().encode() == digest


def test_an_endless_download_waits_for_its_reader(mounted: ServerProcess) -> None:
    """`send()` waits while nobody reads, and raises when the client has gone."""

    def floods() -> dict[str, int]:
        told: dict[str, int] = json.loads(ask(f"{mounted.url}/outer/inner/floods"))
        return told

    with connect(mounted.url) as sock:
        sock.sendall(b"GET /outer/inner/flood HTTP/1.1\r\nhost: x\r\n\r\n")
        read_until(sock, b"\r\n\r\n")
        before, same = -1, 0
        # Between the questions the application has its turns. The system may take
        # some more now and then, since its buffers grow; it isn't without end.
        while same < 5:
            now = floods()["bytes"]
            same = same + 1 if now == before else 0
            before = now
        assert not floods()["ended"]
    while not floods()["ended"]:
        pass


def test_half_a_response_looks_like_that(mounted: ServerProcess) -> None:
    """The client sees that something is missing, and later requests are served."""
    with httpx.Client(timeout=_TIMEOUT) as client:
        for _ in range(2):
            with pytest.raises(httpx.RemoteProtocolError):
                client.get(f"{mounted.url}/outer/inner/half")
        assert 200 == client.get(f"{mounted.url}/outer/inner/x").status_code


def test_a_websocket_carries_much_both_ways(mounted: ServerProcess) -> None:
    """Over Twisted's own transport, with the server's flow control."""
    url = f"{mounted.url.replace('http', 'ws')}/outer/inner/ws"
    messages = [os.urandom(50_000) for _ in range(40)]
    with connect_websocket(url, open_timeout=_TIMEOUT, max_size=None) as echo:
        for message in messages:
            echo.send(message)
            assert message == echo.recv(_TIMEOUT)


def test_tls_of_twisted(launch: Serve, tmp_path: Path) -> None:
    """On a TLS endpoint of Twisted the scheme is right, and WebSockets work."""
    authority = Authority()
    pem = authority.issue("127.0.0.1").write(tmp_path / "server.pem")
    context = ssl.create_default_context(cadata=authority.pem)
    server = mount(launch, f"ssl:0:privateKey={pem}:certKey={pem}:interface=127.0.0.1")
    url = f"127.0.0.1:{server.port}/outer/inner"

    try:
        told = json.loads(ask(f"https://{url}", context=context))
    except URLError:
        # pyOpenSSL of today forbids what older versions of Twisted do.
        server.stop()
        if "Context has already been used" in server.log:
            pytest.skip("this Twisted does not go with this pyOpenSSL")
        raise
    assert ("https", 0x0304) == (told["scheme"], told["tls"])
    with connect_websocket(f"wss://{url}", ssl=context, open_timeout=_TIMEOUT) as echo:
        echo.send("text")
        assert "text" == echo.recv(_TIMEOUT)
    server.stop()
    assert "Traceback" not in server.log


def test_http2_of_twisted(launch: Serve, tmp_path: Path) -> None:
    """Responses stream, and are answered where WebSockets are impossible."""
    pytest.importorskip("priority", reason="Twisted's HTTP/2 needs the package")
    authority = Authority()
    pem = authority.issue("127.0.0.1").write(tmp_path / "server.pem")
    context = ssl.create_default_context(cadata=authority.pem)
    server = mount(launch, f"ssl:0:privateKey={pem}:certKey={pem}:interface=127.0.0.1")
    url = f"https://127.0.0.1:{server.port}/outer/inner"

    body = os.urandom(1_000_000)
    options: Any = {"http2": True, "verify": context, "timeout": _TIMEOUT}
    with (
        httpx.Client(**options) as leaving,
        leaving.stream("GET", f"{url}/flood") as response,
    ):
        assert any(response.iter_raw(1_000_000))
    with httpx.Client(**options) as client:
        told = client.get(f"{url}/below?c=d")
        assert ("HTTP/2", "2") == (told.http_version, told.json()["http_version"])
        digest = client.post(f"{url}/digest", content=body).text
        assert hashlib.sha256(body).hexdigest() == digest
        assert 200 == client.head(url).status_code
        with pytest.raises(httpx.RemoteProtocolError):
            client.get(f"{url}/half")
        refused = client.get(url, headers={"sec-websocket-version": "13"})
        assert 501 == refused.status_code
        while not client.get(f"{url}/floods").json()["ended"]:
            pass
    server.stop()
    assert "Traceback" not in server.log


def test_websockets_are_closed_when_the_program_stops(launch: Serve) -> None:
    """Clients get 1001, since the service of the application waits for them."""
    server = mount(launch, ANY_PORT)
    url = f"{server.url.replace('http', 'ws')}/outer/inner/ws"
    with connect_websocket(url, open_timeout=_TIMEOUT) as client:
        client.send("text")
        client.recv(_TIMEOUT)
        server.signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosed) as raised:
            client.recv(_TIMEOUT)
    assert raised.value.rcvd is not None
    assert 1001 == raised.value.rcvd.code
    server.wait()
    assert "Traceback" not in server.log


@pytest.mark.parametrize("loop", LOOPS)
def test_processes_of_twisted_end(launch: Serve, loop: str) -> None:
    """`spawnProcess` of other services works on our reactor, also over uvloop."""
    program = f"""if True:
        from daphne_like.reactor import install
        install({loop!r})
        from twisted.internet import reactor, utils
        # It ends long after its pipes, so that only the signal tells.
        ended = utils.getProcessValue(
            "/bin/sh", [b"-c", b"exec 0<&- 1>&- 2>&-; sleep 0.3; exit 5"]
        )
        ended.addCallback(lambda status: print("status", status))
        ended.addBoth(lambda _: reactor.stop())
        reactor.run()
    """
    server = launch(program=("-c", program), environment=ENVIRONMENT)

    assert 0 == server.wait()
    assert "status 5\n" == server.log


def test_the_wrong_reactor_is_one_clear_error(launch: Serve) -> None:
    """Where a resource is made, before anything is served."""
    program = (
        "from twisted.internet import selectreactor; selectreactor.install();"
        "from daphne_like.resource import ASGIResource; ASGIResource(None)"
    )
    server = launch(program=("-c", program), environment=ENVIRONMENT)

    assert 1 == server.wait()
    assert "SettingsError: the reactor SelectReactor is installed" in server.log
