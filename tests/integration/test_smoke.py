"""The shortest way from a command to an answer."""

from __future__ import annotations

from urllib.request import urlopen

from server_process import Serve


def test_the_built_in_demo_is_served_when_nothing_is_named(serve: Serve) -> None:
    """`daphne-like` alone shows a page, and ends cleanly when it is told to."""
    server = serve("daphne_like.demo:application")

    with urlopen(server.url, timeout=10) as response:
        page = response.read()

    assert b"<html" in page
    assert 0 == server.stop()
