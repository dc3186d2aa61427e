"""Large files, sent by the kernel: path send and zero-copy send."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from clients import client, get
from memory import peak_memory_bytes
from programs import curl
from raw_http import connect, read_to_end, read_until
from server_process import LOOPS, Serve, ServerProcess, serving_until_done

MIB = 1024 * 1024
FILE_BYTES = 50 * MIB
# Far below FILE_BYTES, far above what one response takes.
FLAT_BYTES = 16 * MIB


@pytest.fixture(scope="module")
def large_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a large file in which each part is different."""
    path = tmp_path_factory.mktemp("files") / "large.bin"
    with path.open("wb") as file:
        for number in range(FILE_BYTES // 4096):
            file.write(number.to_bytes(8, "big") * 512)
    return path


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


def where(server: ServerProcess, way: str) -> str:
    """Tell what to connect to."""
    return f"unix:{server.socket_path}" if way == "unix" else server.url


def checksum(response: httpx.Response) -> str:
    """Read a response to its end."""
    hashed = hashlib.sha256()
    for piece in response.iter_raw():
        hashed.update(piece)
    return hashed.hexdigest()


@pytest.mark.parametrize("way", ["tcp", "unix"])
def test_a_file_is_sent_by_its_path(
    server: ServerProcess, large_file: Path, way: str
) -> None:
    """It arrives whole, with its length, and the connection goes on."""
    with client(where(server, way)) as asking:
        query = {"file": str(large_file)}
        with asking.stream("GET", "/pathsend", params=query) as response:
            received = checksum(response)
        after = asking.get("/hello")

    assert str(FILE_BYTES) == response.headers["content-length"]
    assert hashlib.sha256(large_file.read_bytes()).hexdigest() == received
    assert "hello \n" == after.text


@pytest.mark.parametrize("way", ["tcp", "unix"])
def test_parts_of_an_open_file_are_sent_among_other_pieces(
    server: ServerProcess, large_file: Path, way: str
) -> None:
    """The second half, then the first half, between two pieces of text."""
    half = 20 * MIB + 1
    with client(where(server, way)) as asking:
        query = {"file": str(large_file), "half": str(half)}
        with asking.stream("GET", "/zerocopysend", params=query) as response:
            received = checksum(response)
        after = asking.get("/hello")

    content = large_file.read_bytes()
    expected = hashlib.sha256(b"<")
    for part in (content[half:], content[:half], b">"):
        expected.update(part)
    assert expected.hexdigest() == received
    assert "hello \n" == after.text


def test_curl_downloads_a_file(
    server: ServerProcess, large_file: Path, tmp_path: Path
) -> None:
    """A download from a Unix socket is the file."""
    got = tmp_path / "got.bin"

    done = curl(
        *("--unix-socket", server.socket_path, "--output", str(got)),
        f"http://localhost/pathsend?file={large_file}",
    )

    assert 0 == done.returncode, done.stderr
    assert large_file.read_bytes() == got.read_bytes()


@pytest.mark.parametrize("path", ["/pathsend", "/zerocopysend"])
def test_the_head_of_a_file_has_no_body(
    server: ServerProcess, large_file: Path, path: str
) -> None:
    """HEAD is answered without sending the file, and the connection goes on."""
    with client(server.url) as asking:
        query = {"file": str(large_file), "half": "10"}
        head = asking.head(path, params=query)
        after = asking.get("/hello")

    assert 200 == head.status_code
    if path == "/pathsend":
        assert str(FILE_BYTES) == head.headers["content-length"]
    assert "hello \n" == after.text


@pytest.mark.parametrize("path", ["/pathsend", "/zerocopysend"])
def test_a_slow_reader_takes_no_memory(
    server: ServerProcess, large_file: Path, path: str
) -> None:
    """The file waits on the disk, not in the server, and others are served."""
    before = peak_memory_bytes(server)
    request = f"GET {path}?file={large_file}&half=10 HTTP/1.1\r\nHost: a\r\n"

    with connect(server.url) as sock:
        sock.sendall(f"{request}Connection: close\r\n\r\n".encode())
        received = len(read_until(sock, b"\r\n\r\n"))
        others = get(f"{server.url}/hello").status_code
        received += len(read_to_end(sock))

    assert received > FILE_BYTES
    assert 200 == others
    assert peak_memory_bytes(server) - before < FLAT_BYTES


@pytest.mark.parametrize("path", ["/pathsend", "/zerocopysend"])
def test_a_reader_who_leaves_leaves_nothing_open(
    server: ServerProcess, large_file: Path, path: str
) -> None:
    """Neither the file nor the connection stays open, and nothing is an error."""
    descriptors = Path(f"/proc/{server.process.pid}/fd")
    if not descriptors.exists():
        pytest.skip("the system has no /proc")
    request = f"GET {path}?file={large_file}&half=10 HTTP/1.1\r\nHost: a\r\n\r\n"

    for _ in range(3):
        with connect(server.url) as sock:
            sock.sendall(request.encode())
            read_until(sock, b"\r\n\r\n")

    # A file that is open goes with its application, which is soon, not at once.
    for _ in range(100):
        get(f"{server.url}/turn")
        if not open_files(descriptors, large_file):
            break
    assert not open_files(descriptors, large_file)
    assert "Exception in the application" not in server.log


def open_files(descriptors: Path, file: Path) -> list[Path]:
    """Tell which descriptors of a process are this file."""
    found = []
    for descriptor in descriptors.iterdir():
        try:
            if descriptor.readlink() == file:
                found.append(descriptor)
        except FileNotFoundError:
            continue  # closed meanwhile
    return found


@pytest.mark.parametrize("path", ["/pathsend", "/zerocopysend"])
def test_a_file_that_shrinks_breaks_the_response_off(
    serve: Serve, tmp_path: Path, path: str
) -> None:
    """The client sees that it has not got all, and the server goes on."""
    server = serve("applications.plain:application")
    file = tmp_path / "shrinking.bin"
    file.write_bytes(bytes(FILE_BYTES))
    request = f"GET {path}?file={file}&half=10 HTTP/1.1\r\nHost: a\r\n\r\n"

    with connect(server.url) as sock:
        sock.sendall(request.encode())
        begun = read_until(sock, bytes(10_000))
        os.truncate(file, MIB)
        received = len(read_to_end(sock))

    assert begun.startswith(b"HTTP/1.1 200 OK\r\n")
    assert received < FILE_BYTES
    server.wait_for_log("EOFError: the file ended early")
    assert 200 == get(f"{server.url}/hello").status_code


def test_a_file_that_is_not_there_is_a_500(server: ServerProcess) -> None:
    """The error comes before the head has left, so the client gets an answer."""
    with client(server.url) as asking:
        response = asking.get("/pathsend", params={"file": "/not/there"})
        after = asking.get("/hello")

    assert 500 == response.status_code
    assert "hello \n" == after.text
    server.wait_for_log("FileNotFoundError")


def test_starlette_sends_files_and_ranges(serve: Serve, large_file: Path) -> None:
    """FileResponse, which uses path send where the server has it."""
    server = serve("applications.starlette_site:application")
    content = large_file.read_bytes()
    with client(server.url) as asking:
        query = {"file": str(large_file)}
        with asking.stream("GET", "/file", params=query) as response:
            received = checksum(response)
        head = asking.head("/file", params=query)
        part = asking.get(
            "/file", params=query, headers={"range": "bytes=5000000-5000099"}
        )

    assert hashlib.sha256(content).hexdigest() == received
    assert str(FILE_BYTES) == head.headers["content-length"]
    assert 206 == part.status_code
    assert content[5_000_000:5_000_100] == part.content
