"""Compat mode of a real server."""

from __future__ import annotations

import json
from http.client import HTTPConnection
from urllib.parse import urlsplit

import pytest
from raw_http import connect, read_to_end
from server_process import LOOPS, Serve

APPLICATION = "applications.plain:application"


@pytest.mark.parametrize("loop", LOOPS)
def test_the_command_line_has_it(serve: Serve, loop: str) -> None:
    """One option serves old clients and believes proxies, with one warning."""
    server = serve(APPLICATION, "--daphne-compat", "--proxy-headers", "--loop", loop)

    with connect(server.url) as sock:
        sock.sendall(
            b"GET /scope HTTP/1.0\r\nX-Folded: a\r\n b\r\n"
            b"X-Forwarded-For: 10.1.2.3, 10.9.9.9\r\nDaphne-Root-Path: /r\r\n\r\n"
        )
        head, _, content = read_to_end(sock).partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.0 200 OK\r\n")
    assert b"\r\nserver: daphne\r\n" in head
    scope = json.loads(content)
    assert ["10.1.2.3", 0] == scope["client"]
    assert ("/r", "/scope") == (scope["root_path"], scope["path"])
    assert 0 == server.stop()
    assert 1 == server.log.count("WARNING")


def test_the_environment_has_it(serve: Serve) -> None:
    """A client that sends no Host is served, as tests of Daphne's users need it."""
    environment = {"DAPHNE_LIKE_DAPHNE_COMPAT": "1"}
    server = serve(APPLICATION, environment=environment)
    where = urlsplit(server.url)
    client = HTTPConnection(str(where.hostname), where.port)

    client.putrequest("POST", "/echo", skip_host=True, skip_accept_encoding=True)
    client.putheader("Content-Length", "20000")
    client.endheaders(message_body=bytes(20000))
    response = client.getresponse()

    assert 200 == response.status
    assert bytes(20000) == response.read()
    assert None is response.getheader("date")
    client.close()
