"""Endpoints which are bound before there is a server."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from daphne_like.errors import ListenError
from daphne_like.listeners.bound import BoundEndpoints
from daphne_like.settings import Settings


def test_all_are_bound_and_given_up(tmp_path: Path) -> None:
    """Those of the settings; nobody else's."""
    path = tmp_path / "socket"
    settings = Settings.of(unix_socket=str(path), port=0, endpoint="haproxy:tcp:0")
    bound = BoundEndpoints(settings)

    assert 2 == len(bound.own)
    assert 3 == len(bound.endpoints)
    assert path.exists()
    bound.close()

    assert not path.exists()


def test_an_address_in_use_leaves_nothing_behind(tmp_path: Path) -> None:
    """What was bound before is given up again."""
    path = tmp_path / "socket"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ListenError, match="in use"):
            BoundEndpoints(Settings.of(unix_socket=str(path), port=port))

    assert not path.exists()


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="needs SO_REUSEPORT")
def test_a_port_may_be_bound_for_each_worker(tmp_path: Path) -> None:
    """TCP sockets have siblings at the same address, Unix sockets are shared."""
    settings = Settings.of(
        unix_socket=str(tmp_path / "socket"), endpoint="tcp:0:interface=\\:\\:1"
    )
    bound = BoundEndpoints(settings, reuse_port=True)
    [[tcp], [unix]] = [list(endpoint.bind()) for endpoint in bound.own]
    [[sibling], [same]] = [endpoint.siblings() for endpoint in bound.own]

    assert same is unix
    assert sibling is not tcp
    assert sibling.getsockname() == tcp.getsockname()
    v6only = (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    assert sibling.getsockopt(*v6only) == tcp.getsockopt(*v6only)
    sibling.close()
    bound.close()
