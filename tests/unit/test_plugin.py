"""Tests of twisted/plugins/daphne_like_plugin.py."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from twisted.internet.endpoints import serverFromString
from twisted.internet.testing import MemoryReactor


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX])
def test_any_twisted_program_can_listen_on_an_inherited_socket(family: int) -> None:
    """`fd:fileno=N` adopts the descriptor with the family which it really has."""
    reactor: Any = MemoryReactor()
    reactor.adoptStreamPort = lambda *adopted: adopted
    descriptor = socket.socket(family, socket.SOCK_STREAM).detach()
    factory = object()

    endpoint = serverFromString(reactor, f"fd:fileno={descriptor}:domain=INET")
    listening = endpoint.listen(factory)

    assert (descriptor, family, factory) == listening.result
