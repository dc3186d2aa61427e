"""The access log of a server that runs, in each format and place."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from clients import client, open_gate, wait_at_gate
from raw_http import connect, read_until
from server_process import LOOPS, Serve, ServerProcess

APPLICATION = "applications.plain:application"
DAPHNE_TIME = r"\[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d\]"
CLF_TIME = r"\[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\]"


def ask(server: ServerProcess) -> int:
    """Send a GET, a POST and a HEAD on one connection; tell the client's port."""
    with client(server.url) as asking:
        asking.headers["user-agent"] = 'a "quoted" agent'
        asking.get("/hello?name=%22x%0A")
        asking.post("/echo", content=b"12345")
        port: int = asking.get("/scope").json()["client"][1]
        asking.head("/hello")
    return port


def test_requests_are_logged_as_daphne_does(serve: Serve) -> None:
    """Client, time, request and size, one line each, on standard output."""
    server = serve(APPLICATION)

    port = ask(server)

    assert 0 == server.stop()
    lines = [line for line in server.log.splitlines() if " - - [" in line]
    expected = [
        (r'"GET /hello\?name=%22x%0A"', r"200 10"),
        (r'"POST /echo"', r"200 5"),
        (r'"GET /scope"', r"200 \d+"),
        (r'"HEAD /hello"', r"200 -"),
    ]
    assert len(expected) == len(lines)
    for line, (request, result) in zip(lines, expected, strict=True):
        pattern = rf"127\.0\.0\.1:{port} - - {DAPHNE_TIME} {request} {result}"
        assert re.fullmatch(pattern, line), line


def test_requests_are_logged_as_json(serve: Serve) -> None:
    """Each line is an object, whatever the client sent."""
    server = serve(APPLICATION, "--access-log-format", "json")

    port = ask(server)

    assert 0 == server.stop()
    lines = [line for line in server.log.splitlines() if line.startswith("{")]
    first, second, _, last = (json.loads(line) for line in lines)
    assert {
        "client": "127.0.0.1",
        "client_port": port,
        "method": "GET",
        "path": "/hello",
        "query": "name=%22x%0A",
        "http_version": "1.1",
        "status": 200,
        "bytes": 10,
        "user_agent": 'a "quoted" agent',
    }.items() <= first.items()
    assert first["duration_ms"] >= 0
    assert ("POST", "/echo", 5) == (second["method"], second["path"], second["bytes"])
    assert ("HEAD", 0) == (last["method"], last["bytes"])


def test_requests_are_logged_in_a_format_of_ones_own(serve: Serve) -> None:
    """The combined format of Apache, written with Gunicorn's atoms."""
    combined = '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"'
    server = serve(
        APPLICATION, "--access-log-format", f"{combined} %({{content-type}}o)s"
    )

    ask(server)

    assert 0 == server.stop()
    lines = [line for line in server.log.splitlines() if "quoted" in line]
    assert 4 == len(lines)
    pattern = (
        rf'127\.0\.0\.1 - - {CLF_TIME} "POST /echo HTTP/1\.1" 200 5 "-" '
        r'"a \\"quoted\\" agent" text/plain'
    )
    assert re.fullmatch(pattern, lines[1]), lines[1]


def test_requests_are_logged_to_a_file(serve: Serve, tmp_path: Path) -> None:
    """The file is appended to, while the server runs and to the last line."""
    file = tmp_path / "access.log"
    file.write_text("before\n")
    server = serve(APPLICATION, "--access-log", str(file))

    ask(server)

    assert 0 == server.stop()
    lines = file.read_text().splitlines()
    assert "before" == lines[0]
    assert ["GET", "POST", "GET", "HEAD"] == re.findall(
        r'"([A-Z]+) /', "\n".join(lines)
    )
    assert " - - [" not in server.log


def test_requests_are_logged_to_a_logger(serve: Serve, tmp_path: Path) -> None:
    """The logger `daphne_like.access` is configured like any other."""
    file = tmp_path / "requests.log"
    settings = {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"short": {"format": "%(name)s %(method)s %(path)s %(status)s"}},
        "handlers": {
            "file": {
                "class": "logging.FileHandler",
                "filename": str(file),
                "formatter": "short",
            },
            "stderr": {"class": "logging.StreamHandler"},
        },
        "loggers": {"daphne_like.access": {"handlers": ["file"], "propagate": False}},
        "root": {"level": "INFO", "handlers": ["stderr"]},
    }
    configuration = tmp_path / "logging.json"
    configuration.write_text(json.dumps(settings))
    server = serve(
        APPLICATION, "--access-log", "logger", "--log-config", str(configuration)
    )

    ask(server)

    assert 0 == server.stop()
    assert [
        "daphne_like.access GET /hello 200",
        "daphne_like.access POST /echo 200",
        "daphne_like.access GET /scope 200",
        "daphne_like.access HEAD /hello 200",
    ] == file.read_text().splitlines()


def test_no_requests_are_logged_without_an_access_log(serve: Serve) -> None:
    """`--no-access-log` leaves only what the server itself has to say."""
    server = serve(APPLICATION, "--no-access-log")

    ask(server)

    assert 0 == server.stop()
    assert "/hello" not in server.log


@pytest.mark.parametrize("loop", LOOPS)
def test_a_client_that_left_is_logged_as_499(serve: Serve, loop: str) -> None:
    """Left before the answer: 499. Left in mid-answer: its status, and what it got."""
    server = serve(APPLICATION, "--loop", loop)
    with connect(server.url) as sock:
        sock.sendall(b"GET /wait?gate=left HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_at_gate(server.url, "left-begun")
    with connect(server.url) as sock:
        sock.sendall(b"GET /send-forever?gate=cut HTTP/1.1\r\nHost: a\r\n\r\n")
        read_until(sock, bytes(1000))
    wait_at_gate(server.url, "cut")
    open_gate(server.url, "left")

    assert 0 == server.stop()

    assert re.search(r'"GET /wait\?gate=left" 499 -', server.log)
    cut = re.search(r'"GET /send-forever\?gate=cut" 200 (\d+)', server.log)
    assert cut is not None
    assert int(cut[1]) >= 1000
    assert "ERROR" not in server.log


def test_refusals_are_logged(serve: Serve) -> None:
    """What never reached the application is in the log, too."""
    server = serve(APPLICATION, "--limit-request-body", "10")
    with client(server.url) as asking:
        assert 413 == asking.post("/echo", content=b"12345678901").status_code
    with connect(server.url) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert read_until(sock, b"\r\n\r\n").startswith(b"HTTP/1.1 400 ")

    assert 0 == server.stop()

    assert re.search(r'" 413 \d+$', server.log, re.MULTILINE), server.log
    assert re.search(r'" 400 \d+$', server.log, re.MULTILINE), server.log
