"""A real server process for each test that asks for one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from server_process import Serve, ServerProcess


@pytest.fixture
def launch() -> Iterator[Serve]:
    """Start servers without waiting for anything; end them after the test."""
    started: list[ServerProcess] = []

    def launch(*arguments: str, **options: Any) -> ServerProcess:
        server = ServerProcess(arguments, **options)
        started.append(server)
        return server

    yield launch
    for server in started:
        server.kill()


@pytest.fixture
def serve(launch: Serve) -> Serve:
    """Start servers on a port of their own choice and wait until they listen."""

    def serve(application: str, *options: str, **keywords: Any) -> ServerProcess:
        bound = {"-u", "-e", "-p", "-b", "--fd"} & set(options)
        where = () if bound else ("-p", "0")
        server = launch(application, *where, *options, **keywords)
        server.wait_for_log("Listening on")
        return server

    return serve
