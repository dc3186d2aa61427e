"""Tests of ``daphne_like.asgi.redirect``."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from daphne_like.asgi.redirect import redirect_to_https


def ask(
    port: int, host: bytes | None, path: bytes, query: bytes = b""
) -> tuple[int, dict[bytes, bytes]]:
    """Return status and header fields of the answer to a request."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("nobody wants the body")

    scope = {
        "type": "http",
        "headers": [] if host is None else [(b"host", host)],
        "raw_path": path,
        "query_string": query,
    }
    asyncio.run(redirect_to_https(port)(scope, receive, send))
    start, end = sent
    assert {"type": "http.response.body"} == end
    return start["status"], dict(start["headers"])


@pytest.mark.parametrize(
    ("port", "host", "path", "query", "location"),
    [
        (443, b"a.example", b"/", b"", b"https://a.example/"),
        (443, b"a.example:80", b"/b%2F", b"c=d?e", b"https://a.example/b%2F?c=d?e"),
        (8443, b"a.example:", b"/", b"", b"https://a.example:8443/"),
        (8443, b"[::1]:80", b"/", b"", b"https://[::1]:8443/"),
        (443, b"[::1]", b"/", b"", b"https://[::1]/"),
        (443, b"a.example", b"//evil.example", b"", b"https://a.example//evil.example"),
        (443, b"a.example", b"/@evil.example", b"", b"https://a.example/@evil.example"),
    ],
)
def test_the_same_place_at_https(
    port: int, host: bytes, path: bytes, query: bytes, location: bytes
) -> None:
    """Host, path and query are the client's, the port is that of HTTPS."""
    status, fields = ask(port, host, path, query)

    assert 308 == status
    assert location == fields[b"location"]
    assert b"0" == fields[b"content-length"]


@pytest.mark.parametrize(
    ("host", "path"), [(None, b"/"), (b"", b"/"), (b":80", b"/"), (b"a", b"*")]
)
def test_no_place_to_go(host: bytes | None, path: bytes) -> None:
    """Without a host or a path there is no URL."""
    status, fields = ask(443, host, path)

    assert 400 == status
    assert b"location" not in fields
