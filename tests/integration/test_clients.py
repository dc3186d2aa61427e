"""Clients which people use: curl, httpx, http.client, and sockets by hand."""

from __future__ import annotations

import asyncio
import http.client
import re
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from clients import client, get, open_gate, wait_at_gate
from programs import curl
from raw_http import connect, read_to_end, read_until, split_answers
from server_process import LOOPS, ServerProcess, serving_until_done
from twisted.internet.protocol import Factory, Protocol

from daphne_like.listeners.endpoints import endpoint_from_string

MIB = 1024 * 1024


@pytest.fixture(scope="module", params=LOOPS)
def server(
    request: pytest.FixtureRequest, socket_folder: Path
) -> Iterator[ServerProcess]:
    """Serve the plain application on TCP and on a Unix socket."""
    path = str(socket_folder / f"{request.param}.sock")
    with serving_until_done() as serve:
        server = serve(
            "applications.plain:application",
            *("-p", "0", "-u", path, "--loop", request.param),
        )
        server.wait_for_log(r"(?s)(Listening on.*){2}")
        yield server


@pytest.fixture
def gate() -> str:
    """Name a gate which no other test uses."""
    return uuid.uuid4().hex


# -- curl ---------------------------------------------------------------------


def test_curl_gets(server: ServerProcess) -> None:
    """`curl URL` prints the body, over HTTP/1.1."""
    done = curl("--write-out", "%{http_code} %{http_version}", f"{server.url}/hello")

    assert b"hello \n200 1.1" == done.stdout


def test_curl_gets_through_a_unix_socket(server: ServerProcess) -> None:
    """`curl --unix-socket PATH` reaches the same application."""
    url = "http://localhost/hello?name=x"

    done = curl("--unix-socket", server.socket_path, url)

    assert b"hello x\n" == done.stdout


def test_curl_asks_for_the_head_only(server: ServerProcess) -> None:
    """`curl --head` gets the length which the body would have, and no body."""
    done = curl("--head", f"{server.url}/hello")

    assert b"HTTP/1.1 200 OK\r\n" in done.stdout
    assert b"content-length: 7\r\n" in done.stdout
    assert done.stdout.endswith(b"\r\n\r\n")


def test_curl_posts(server: ServerProcess) -> None:
    """`curl --data` is echoed."""
    done = curl("--data", "a=1&b=2", f"{server.url}/echo")

    assert b"a=1&b=2" == done.stdout


@pytest.mark.parametrize("how", ["sized", "chunked"])
def test_curl_uploads_a_file_that_is_asked_for(
    server: ServerProcess, tmp_path: Path, how: str
) -> None:
    """`curl --upload-file` waits for the 100, and then sends all of the file."""
    file = tmp_path / "upload"
    file.write_bytes(bytes(range(256)) * (3 * MIB // 256))
    field = "Transfer-Encoding: chunked" if how == "chunked" else "X-Other: 1"

    done = curl(
        *("--verbose", "--upload-file", str(file)),
        *("--header", "Expect: 100-continue", "--header", field),
        # Longer than the test may take: nothing is sent without the 100.
        *("--expect100-timeout", "600"),
        f"{server.url}/echo",
    )

    assert b"< HTTP/1.1 100 Continue" in done.stderr
    assert file.read_bytes() == done.stdout


def test_curl_keeps_a_file_that_nobody_wants(
    server: ServerProcess, tmp_path: Path
) -> None:
    """Refused without being read, an upload with Expect is never sent."""
    file = tmp_path / "upload"
    file.write_bytes(bytes(3 * MIB))

    done = curl(
        *("--verbose", "--upload-file", str(file)),
        *("--header", "Expect: 100-continue", "--expect100-timeout", "600"),
        *("--write-out", "%{http_code} %{size_upload}"),
        f"{server.url}/refuse",
    )

    assert b"100 Continue" not in done.stderr
    assert b"not wanted\n413 0" == done.stdout


def test_curl_gets_the_refusal_of_an_upload_it_does_not_announce(
    server: ServerProcess, tmp_path: Path
) -> None:
    """An answer that comes in mid-upload is read, not lost in a reset connection."""
    file = tmp_path / "upload"
    file.write_bytes(bytes(30 * MIB))

    done = curl(
        *("--upload-file", str(file), "--header", "Expect:"),
        *("--write-out", "%{http_code}"),
        f"{server.url}/refuse",
    )

    assert b"not wanted\n413" == done.stdout


def test_curl_speaks_http_1_0(server: ServerProcess) -> None:
    """A body of unknown length ends with the connection, without chunked coding."""
    done = curl("--http1.0", "--raw", "--include", f"{server.url}/pieces")

    head, _, body = done.stdout.partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert b"connection: close" in head.lower()
    assert b"one\ntwo\nthree\n" == body


def test_curl_sees_chunked_coding(server: ServerProcess) -> None:
    """Each message of the application is a chunk of its own."""
    done = curl("--raw", f"{server.url}/pieces")

    chunks = b"4\r\none\n\r\n4\r\ntwo\n\r\n6\r\nthree\n\r\n0\r\n\r\n"
    assert chunks == done.stdout


def test_curl_gets_trailers_if_it_asks_for_them(server: ServerProcess) -> None:
    """Trailers follow the last chunk for a client which said that it takes them."""
    url = f"{server.url}/trailers"

    asked = curl("--raw", "--header", "TE: trailers", url)
    shown = curl("--dump-header", "-", "--header", "TE: trailers", url)
    unasked = curl("--raw", url)

    assert b"5\r\nbody\n\r\n0\r\nchecksum: right\r\n\r\n" == asked.stdout
    assert shown.stdout.endswith(b"\r\n\r\nbody\nchecksum: right\r\n")
    assert unasked.stdout.endswith(b"body\n")
    assert b"checksum: right" not in unasked.stdout


def test_curl_sees_early_hints(server: ServerProcess) -> None:
    """The 103 with its links comes before the response."""
    done = curl("--include", f"{server.url}/hints")

    hints, _, response = done.stdout.partition(b"\r\n\r\n")
    assert [
        b"HTTP/1.1 103 Early Hints",
        b"link: </style.css>; rel=preload; as=style",
    ] == hints.split(b"\r\n")
    assert response.startswith(b"HTTP/1.1 200 OK\r\n")
    assert response.endswith(b"hinted\n")


def test_curl_keeps_its_connection(server: ServerProcess) -> None:
    """Two URLs of one host are one connection."""
    done = curl("--verbose", f"{server.url}/hello?name=1", f"{server.url}/hello?name=2")

    assert b"hello 1\nhello 2\n" == done.stdout
    # Newer versions of curl say it in other words than older ones.
    assert re.search(rb"Re-?using existing .*connection", done.stderr)


# -- httpx --------------------------------------------------------------------


def test_httpx_keeps_its_connection(server: ServerProcess) -> None:
    """Many requests, of all kinds, come from one port."""
    ports = set()
    with client(server.url) as asking:
        for number in range(20):
            ports.add(asking.get("/scope").json()["client"][1])
            assert "one\ntwo\nthree\n" == asking.get("/pieces").text
            body = bytes(number * 1000)
            assert body == asking.post("/echo", content=body).content
            assert 7 == int(asking.head("/hello").headers["content-length"])
            assert 413 == asking.post("/refuse", content=body).status_code

    assert 1 == len(ports)


def test_many_requests_run_at_the_same_time(server: ServerProcess, gate: str) -> None:
    """A hundred applications wait together, and each client gets its own answer."""

    async def ask_all() -> list[str]:
        limits = httpx.Limits(max_connections=101)
        async with httpx.AsyncClient(
            base_url=server.url,
            limits=limits,
            timeout=20,
            trust_env=False,
            verify=False,
        ) as asking:
            asked = [
                asyncio.ensure_future(
                    asking.get("/wait", params={"gate": gate, "name": str(number)})
                )
                for number in range(100)
            ]
            await asking.get(f"/gates/{gate}-begun")
            await asking.post(f"/gates/{gate}")
            return [response.text for response in await asyncio.gather(*asked)]

    texts = asyncio.run(ask_all())

    assert [f"waited {number}\n" for number in range(100)] == texts


def test_a_client_that_leaves_ends_its_application(
    server: ServerProcess, gate: str
) -> None:
    """send() raises an OSError in an application whose client closed."""
    with (
        client(server.url) as asking,
        asking.stream("GET", f"/send-forever?gate={gate}") as response,
    ):
        next(response.iter_raw())

    wait_at_gate(server.url, gate)
    assert "Exception in the application" not in server.log


# -- http.client --------------------------------------------------------------


def test_http_client_sends_and_reads_chunks(server: ServerProcess) -> None:
    """The standard library's client, with both directions chunked, twice."""
    where = urlsplit(server.url)
    connection = http.client.HTTPConnection(where.netloc, timeout=20)
    pieces = [b"some", b"more " * 10_000, b"end"]
    for _ in range(2):
        connection.request("POST", "/echo", body=iter(pieces), encode_chunked=True)
        with connection.getresponse() as response:
            assert b"".join(pieces) == response.read()
        connection.request("GET", "/pieces")
        with connection.getresponse() as response:
            assert b"one\n" == response.readline()
            assert b"two\nthree\n" == response.read()
    connection.close()


# -- By hand ------------------------------------------------------------------


def test_pipelined_requests_are_answered_in_order(
    server: ServerProcess, gate: str
) -> None:
    """Ten requests in one write; the first answer is late and still the first."""
    requests = [
        b"GET /wait?name=0&gate=%b HTTP/1.1\r\nHost: a\r\n\r\n" % gate.encode(),
        b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody",
        (
            b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"
        ),
        *(
            b"GET /turn?name=%d HTTP/1.1\r\nHost: a\r\n\r\n" % number
            for number in range(6)
        ),
        b"GET /hello HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    ]

    with connect(server.url) as sock:
        sock.sendall(b"".join(requests))
        wait_at_gate(server.url, f"{gate}-begun")
        open_gate(server.url, gate)
        answers = split_answers(read_to_end(sock))

    assert [
        b"waited 0\n",
        b"body",
        b"onetwo",
        *(b"turned %d\n" % number for number in range(6)),
        b"hello \n",
    ] == [answer.body for answer in answers]
    assert "close" == answers[-1].headers["connection"]


def test_a_request_may_come_byte_by_byte(server: ServerProcess) -> None:
    """Where the network cuts a request makes no difference."""
    request = b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"

    with connect(server.url) as sock:
        for index in range(len(request)):
            sock.sendall(request[index : index + 1])
        received = read_until(sock, b"abc")

    assert received.startswith(b"HTTP/1.1 200 OK\r\n")


def test_what_is_not_http_gets_a_short_answer(server: ServerProcess) -> None:
    """Someone who speaks another protocol is told, and the server goes on."""
    with connect(server.url) as sock:
        sock.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
        received = read_to_end(sock)

    assert received.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"hello \n" == get(f"{server.url}/hello").content


def test_half_a_connection_is_enough_for_an_answer_at_hand(
    server: ServerProcess,
) -> None:
    """`printf ... | nc -N` closes its side at once, and gets what needs no waiting."""
    with connect(server.url) as sock:
        sock.sendall(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n")
        sock.shutdown(socket.SHUT_WR)
        (answer,) = split_answers(read_to_end(sock))

    assert b"hello \n" == answer.body


def test_half_a_connection_does_not_hold_an_application(
    server: ServerProcess, gate: str
) -> None:
    """A client that closes its side in mid-response counts as one that has left."""
    with connect(server.url) as sock:
        request = f"GET /send-forever?gate={gate} HTTP/1.1\r\nHost: a\r\n\r\n"
        sock.sendall(request.encode())
        read_until(sock, b"\r\n\r\n")
        sock.shutdown(socket.SHUT_WR)
        wait_at_gate(server.url, gate)
        rest = read_to_end(sock)

    assert not rest.endswith(b"0\r\n\r\n"), "the response is visibly incomplete"


def test_small_pieces_are_not_kept_back() -> None:
    """Nagle's algorithm, which would delay streams by 40 ms and more, is off."""

    async def nagle_is_off() -> bool:
        loop = asyncio.get_running_loop()
        accepted: asyncio.Future[Any] = loop.create_future()

        class Accepting(Protocol):
            def connectionMade(self) -> None:
                accepted.set_result(self.transport)

        endpoint = endpoint_from_string("tcp:0:interface=127.0.0.1", 10)
        assert endpoint is not None
        port: Any = await endpoint.listen(Factory.forProtocol(Accepting)).asFuture(loop)
        _, writer = await asyncio.open_connection("127.0.0.1", port.getHost().port)
        transport = await accepted
        off = transport.getTcpNoDelay()
        transport.abortConnection()
        writer.close()
        await port.stopListening().asFuture(loop)
        return bool(off)

    assert asyncio.run(nagle_is_off())
