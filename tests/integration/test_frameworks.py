"""Applications of real frameworks, through real sockets."""

from __future__ import annotations

import hashlib
import json
import re
import select
import socket
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from clients import client, get, open_gate, wait_at_gate
from memory import peak_memory_bytes
from programs import curl
from raw_http import connect, read_to_end, read_until
from server_process import LOOPS, Serve, ServerProcess, serving_until_done

MIB = 1024 * 1024
LARGE_BYTES = 50 * MIB
# Far below LARGE_BYTES, far above what one request takes.
FLAT_BYTES = 16 * MIB

FRAMEWORKS = ["starlette", "fastapi", "quart", "django"]
# Django calls the view when it has the whole body, and has no background tasks.
STREAMING_UP = ["starlette", "fastapi", "quart"]
# These hand the lifespan's state to the requests.
WITH_STATE = ["starlette", "fastapi"]
# These run views which are no coroutines in a thread, without being told.
WITH_THREADS = ["fastapi", "quart", "django"]
# The access log is then written at once, and in order with the rest.
LOG_IN_ORDER = ("--access-log", "logger")


@dataclass
class Site:
    """
    A framework's application, served in three ways at once.

    Attributes:
        framework: Its name.
        server: The process.
        urls: What to connect to, by ``tcp``, ``unix`` and ``inherited``.
    """

    framework: str
    server: ServerProcess
    urls: dict[str, str]

    def client(self, way: str = "tcp") -> httpx.Client:
        """Make a client with a connection of its own."""
        return client(self.urls[way])

    def get(self, path: str, **parameters: str) -> httpx.Response:
        """Send a request on a connection of its own."""
        with self.client() as asking:
            return asking.get(path, params=parameters)

    def log_up_to_now(self) -> str:
        """Tell what the server has logged, all of it."""
        mark = uuid.uuid4().hex
        self.get("/hello", name=mark)
        self.server.wait_for_log(mark)
        return self.server.log

    def open_gate(self, name: str) -> None:
        """Let an application go on that waits for this."""
        open_gate(self.urls["tcp"], name)

    def wait_at_gate(self, name: str) -> None:
        """Wait until an application has opened a gate."""
        wait_at_gate(self.urls["tcp"], name)


def serve_site(serve: Serve, framework: str, loop: str, folder: Path) -> Site:
    """Serve a framework on TCP, on a Unix socket and on an inherited socket."""
    path = str(folder / f"{framework}-{loop}.sock")
    with socket.create_server(("127.0.0.1", 0)) as inherited:
        number = inherited.fileno()
        server = serve(
            f"applications.{framework}_site:application",
            *("-p", "0", "-u", path, "--fd", str(number)),
            *("--loop", loop, "--application-close-timeout", "1"),
            *LOG_IN_ORDER,
            pass_fds=(number,),
        )
        server.wait_for_log(r"(?s)(Listening on.*){3}")
        adopted = f"http://127.0.0.1:{inherited.getsockname()[1]}"
    urls = {"unix": f"unix:{path}", "inherited": adopted}
    assert set(server.urls) > set(urls.values())
    (urls["tcp"],) = set(server.urls) - set(urls.values())
    return Site(framework, server, urls)


@pytest.fixture(scope="module", params=LOOPS)
def loop(request: pytest.FixtureRequest) -> str:
    """Choose an event loop."""
    name: str = request.param
    return name


@pytest.fixture(scope="module", params=FRAMEWORKS)
def site(
    request: pytest.FixtureRequest, loop: str, socket_folder: Path
) -> Iterator[Site]:
    """Serve each framework in turn."""
    with serving_until_done() as serve:
        yield serve_site(serve, request.param, loop, socket_folder)


@pytest.fixture
def gate() -> str:
    """Name a gate which no other test uses."""
    return uuid.uuid4().hex


# -- Requests and responses ---------------------------------------------------


@pytest.mark.parametrize("way", ["tcp", "unix", "inherited"])
def test_a_view_answers_however_the_server_is_reached(site: Site, way: str) -> None:
    """TCP, a Unix socket and an inherited descriptor serve the same application."""
    with site.client(way) as asking:
        response = asking.get("/hello", params={"name": "Zoë & Co"})
        again = asking.get("/hello")
        stream: Any = response.extensions["network_stream"]
        address = stream.get_extra_info("client_addr")

    told = response.json()
    assert 200 == response.status_code
    assert "Zoë & Co" == told["name"]
    assert "1.1" == told["http_version"]
    if way == "unix":
        assert told["client"] is None
        assert [site.urls["unix"].removeprefix("unix:"), None] == told["server"]
    else:
        port = int(site.urls[way].rpartition(":")[2])
        assert ["127.0.0.1", address[1]] == told["client"]
        assert ["127.0.0.1", port] == told["server"]
    assert again.json()["client"] == told["client"], "the connection was kept"


def test_curl_gets_the_same_as_httpx(site: Site) -> None:
    """Another client, on TCP and on the Unix socket, sees the same answer."""
    path = site.urls["unix"].removeprefix("unix:")

    by_tcp = curl(f"{site.urls['tcp']}/hello?name=curl")
    by_unix = curl("--unix-socket", path, "http://localhost/hello?name=curl")

    assert "curl" == json.loads(by_tcp.stdout)["name"]
    assert "curl" == json.loads(by_unix.stdout)["name"]


@pytest.mark.parametrize("way", ["tcp", "unix"])
@pytest.mark.parametrize("chunked", [True, False])
def test_an_upload_arrives_whole(site: Site, way: str, chunked: bool) -> None:
    """A body of a few megabytes, with or without a length, is not changed."""
    body = bytes(range(256)) * (3 * MIB // 256) + b"the end"

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(body), 100_000):
            yield body[start : start + 100_000]

    with site.client(way) as asking:
        response = asking.post("/digest", content=pieces() if chunked else body)

    assert {
        "bytes": len(body),
        "sha256": hashlib.sha256(body).hexdigest(),
    } == response.json()


@pytest.mark.parametrize("way", ["tcp", "unix"])
def test_a_streaming_response_arrives_piece_by_piece(
    site: Site, way: str, gate: str
) -> None:
    """The first piece is there while the application still waits for the second."""
    with (
        site.client(way) as asking,
        asking.stream("GET", "/stream", params={"gate": gate}) as response,
    ):
        pieces = response.iter_raw()
        first = next(pieces)
        site.open_gate(gate)
        rest = b"".join(pieces)

    assert b"first\n" == first
    assert b"last\n" == rest


def test_server_sent_events_arrive_when_they_are_sent(site: Site, gate: str) -> None:
    """An event is not kept back until the next one."""
    with (
        site.client() as asking,
        asking.stream("GET", "/events", params={"gate": gate}) as response,
    ):
        lines = response.iter_lines()
        first = [next(lines) for _ in range(4)]
        site.open_gate(gate)
        second = [next(lines) for _ in range(4)]

    assert response.headers["content-type"].startswith("text/event-stream")
    assert ["id: 1", "event: tick", "data: one", ""] == first
    assert ["id: 2", "event: tick", "data: two", ""] == second


@pytest.mark.parametrize("site", STREAMING_UP, indirect=True)
def test_a_body_can_be_answered_while_it_is_sent(site: Site) -> None:
    """Request and response stream at once, each piece answered before the next."""
    with connect(site.urls["tcp"]) as sock:
        sock.sendall(
            b"POST /duplex HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n"
            b"Connection: close\r\n\r\n"
        )
        for word in (b"one", b"two", b"three"):
            sock.sendall(b"%x\r\n%b\r\n" % (len(word), word))
            read_until(sock, word.upper())
        sock.sendall(b"0\r\n\r\n")
        rest = read_to_end(sock)

    assert rest.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("site", STREAMING_UP, indirect=True)
def test_a_background_task_runs_on_after_the_response(site: Site, gate: str) -> None:
    """The client has its answer, and the connection is free, before the task ends."""
    with site.client() as asking:
        accepted = asking.get("/background", params={"gate": gate})
        after = asking.get("/hello")
    site.open_gate(gate)
    site.wait_at_gate(f"{gate}-done")

    assert 202 == accepted.status_code
    assert 200 == after.status_code


@pytest.mark.parametrize("site", ["starlette"], indirect=True)
def test_a_slow_application_slows_the_upload_and_not_the_server(
    site: Site, gate: str
) -> None:
    """A large body waits at the client, not in the server's memory."""
    body = memoryview(bytes(range(256)) * (LARGE_BYTES // 256))
    head = f"POST /digest?gate={gate} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"
    before = peak_memory_bytes(site.server)

    with connect(site.urls["tcp"]) as sock:
        sock.sendall(f"{head}Content-Length: {LARGE_BYTES}\r\n\r\n".encode())
        accepted = send_until_refused(sock, body)
        others = site.get("/hello").status_code
        site.open_gate(gate)
        sock.sendall(body[accepted:])
        answer = read_to_end(sock)

    assert accepted < LARGE_BYTES - FLAT_BYTES
    assert 200 == others
    assert hashlib.sha256(body).hexdigest().encode() in answer
    assert peak_memory_bytes(site.server) - before < FLAT_BYTES


def send_until_refused(sock: socket.socket, data: memoryview) -> int:
    """Send until the other side takes nothing more for a while; count the bytes."""
    sent = 0
    sock.setblocking(False)
    while sent < len(data) and select.select([], [sock], [], 0.3)[1]:
        sent += sock.send(data[sent:])
    sock.settimeout(20)
    return sent


# -- What one framework has ---------------------------------------------------


@pytest.mark.parametrize("site", WITH_STATE, indirect=True)
def test_requests_get_the_state_which_the_lifespan_left(site: Site) -> None:
    """What start-up made is there in each request; what a request adds is its own."""
    first, second = site.get("/state").json(), site.get("/state").json()

    assert "kept" == first["kept"][0]
    assert [*first["kept"], "seen"] == second["kept"], "the same list each time"
    assert first["own"] is second["own"] is None


@pytest.mark.parametrize("framework", STREAMING_UP)
def test_an_application_starts_before_and_stops_after_all_requests(
    serve: Serve, framework: str
) -> None:
    """Handlers for start-up and shutdown run outside of the time of serving."""
    server = serve(f"applications.{framework}_site:application", *LOG_IN_ORDER)
    get(f"{server.url}/hello")

    assert 0 == server.stop()

    events = ["The site is starting", "Listening", "GET /hello", "The site is stopping"]
    places = [server.log.index(event) for event in events]
    assert sorted(places) == places


@pytest.mark.parametrize("site", ["fastapi"], indirect=True)
def test_fastapi_validates_json(site: Site) -> None:
    """A good order comes back, a bad one is told what is wrong."""
    with site.client() as asking:
        good = asking.put("/orders/7", json={"title": "Öl"})
        bad = asking.put("/orders/seven", json={"count": "many"})

    assert {"number": 7, "title": "Öl", "count": 1} == good.json()
    assert 422 == bad.status_code
    assert {"number", "title", "count"} == {
        error["loc"][-1] for error in bad.json()["detail"]
    }


@pytest.mark.parametrize("site", WITH_THREADS, indirect=True)
def test_a_view_that_is_no_coroutine_runs_in_a_thread(site: Site) -> None:
    """Blocking code does not block the server."""
    assert site.get("/threaded").json()["main"] is False


@pytest.mark.parametrize("site", ["django"], indirect=True)
@pytest.mark.parametrize("size", [5, 2 * MIB])
def test_django_takes_a_form_with_a_file(site: Site, size: int) -> None:
    """Django keeps a small file in memory and puts a large one on disk."""
    content = bytes(range(256)) * (size // 256) + b"12345"

    with site.client() as asking:
        told = asking.post(
            "/upload",
            data={"title": "Öl"},
            files={"file": ("a.bin", content), "other": ("b.txt", b"other")},
        ).json()

    assert {"title": "Öl"} == told["fields"]
    assert {
        "name": "a.bin",
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "on_disk": size > MIB,
    } == told["files"]["file"]
    assert 5 == told["files"]["other"]["bytes"]


@pytest.mark.parametrize("site", ["django"], indirect=True)
def test_django_takes_a_form_from_curl(site: Site, tmp_path: Path) -> None:
    """Curl asks with Expect: 100-continue before it sends so much."""
    file = tmp_path / "c.bin"
    file.write_bytes(bytes(range(256)) * (2 * MIB // 256))

    sent = curl(
        *("--form", f"large=@{file}", "--form", "title=x"),
        f"{site.urls['tcp']}/upload",
    )

    told = json.loads(sent.stdout)
    assert {"title": "x"} == told["fields"]
    expected = hashlib.sha256(file.read_bytes()).hexdigest()
    assert expected == told["files"]["large"]["sha256"]


@pytest.mark.parametrize("interface", ["auto", "asgi2"])
def test_an_asgi_2_application_is_served(serve: Serve, interface: str) -> None:
    """An application of the old style works, recognized or named as such."""
    server = serve("applications.asgi2:Application", "--interface", interface)

    with client(server.url) as asking:
        response = asking.post("/a%20b", content=b"12345")

    assert "POST /a b 5" == response.text
    assert 0 == server.stop()
    assert "ERROR" not in server.log


# -- Failures -----------------------------------------------------------------


def test_an_exception_is_a_500_and_the_server_goes_on(site: Site) -> None:
    """A view that raises costs its client an error page, and nobody anything else."""
    with site.client() as asking:
        broken = asking.get("/broken")
        after = asking.get("/hello")

    assert 500 == broken.status_code
    assert "on purpose" not in broken.text
    assert 200 == after.status_code
    site.server.wait_for_log("RuntimeError: broken on purpose")


def test_an_exception_in_mid_stream_breaks_the_response_off(site: Site) -> None:
    """A client can tell a broken response from a complete one; others see nothing."""
    with (
        site.client() as asking,
        pytest.raises(httpx.RemoteProtocolError),
        asking.stream("GET", "/broken-stream") as response,
    ):
        response.read()

    assert 200 == site.get("/hello").status_code
    site.server.wait_for_log("RuntimeError: broken in mid-stream on purpose")


# -- Clients that leave -------------------------------------------------------


def leave(site: Site, path: str, seen: bytes | None = None, gate: str = "") -> None:
    """Send a request and leave, when ``seen`` has arrived or ``gate`` is open."""
    with connect(site.urls["tcp"]) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        if seen is not None:
            read_until(sock, seen)
        if gate:
            site.wait_at_gate(gate)


def test_a_view_learns_that_its_client_has_left(site: Site, gate: str) -> None:
    """Starlette's is_disconnected() is true, Django and Quart cancel their view."""
    leave(site, f"/stay?gate={gate}", gate=f"{gate}-begun")

    site.wait_at_gate(gate)
    assert "Exception in the application: GET /stay" not in site.log_up_to_now()


def test_an_endless_stream_ends_with_its_client(site: Site, gate: str) -> None:
    """The generator is closed soon, and nobody calls that an error in the log."""
    leave(site, f"/endless?gate={gate}", seen=b"more\n")

    site.wait_at_gate(gate)
    assert "Exception in the application: GET /endless" not in site.log_up_to_now()


# FastAPI is Starlette here, and it takes a second.
@pytest.mark.parametrize("site", ["starlette", "quart", "django"], indirect=True)
def test_a_silent_stream_ends_with_its_client(site: Site, gate: str) -> None:
    """A stream that has nothing to send does not live on without its client."""
    leave(site, f"/silent?gate={gate}", seen=b"first\n")

    site.wait_at_gate(gate)
    assert "Exception in the application: GET /silent" not in site.log_up_to_now()


def test_an_aborted_upload_is_no_error(site: Site) -> None:
    """A client that leaves in the middle of its body leaves nothing in the log."""
    path = f"/digest?{uuid.uuid4().hex}"

    with connect(site.urls["tcp"]) as sock:
        sock.sendall(
            f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n".encode()
            + b"not all of it"
        )

    site.server.wait_for_log(re.escape(f'"POST {path}" 499'))
    assert "Exception in the application: POST /digest" not in site.log_up_to_now()
