"""httpx clients for servers under test."""

from __future__ import annotations

from typing import Any

import httpx


def client(url: str = "") -> httpx.Client:
    """Make a client for where a server listens: ``http://...`` or ``unix:...``."""
    # Reading the certificates of the world takes 30 ms, and nothing here is TLS.
    if url.startswith("unix:"):
        path = url.removeprefix("unix:")
        transport = httpx.HTTPTransport(uds=path, verify=False)
        return httpx.Client(transport=transport, base_url="http://localhost")
    transport = httpx.HTTPTransport(verify=False)
    return httpx.Client(transport=transport, base_url=url)


def get(url: str, **options: Any) -> httpx.Response:
    """Send one GET."""
    with client() as single:
        return single.get(url, **options)


def open_gate(url: str, name: str) -> None:
    """Let an application at this server go on that waits at a gate."""
    with client(url) as single:
        single.post(f"/gates/{name}").raise_for_status()


def wait_at_gate(url: str, name: str) -> None:
    """Wait until an application at this server has opened a gate."""
    with client(url) as single:
        single.get(f"/gates/{name}", timeout=20).raise_for_status()
