"""Real server processes, for one test or for all tests of a module."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from browsers import headless_browser
from selenium.webdriver import Chrome
from server_process import Serve, launching, serving, serving_until_done


@pytest.fixture
def launch() -> Iterator[Serve]:
    """Start servers without waiting for anything; end them after the test."""
    with launching() as launch:
        yield launch


@pytest.fixture
def serve(launch: Serve) -> Serve:
    """Start servers on a port of their own choice and wait until they listen."""
    return serving(launch)


@pytest.fixture(scope="module")
def serve_module() -> Iterator[Serve]:
    """Start servers as ``serve`` does, for all tests of a module."""
    with serving_until_done() as serve:
        yield serve


@pytest.fixture(scope="module")
def socket_folder() -> Iterator[Path]:
    """Make a folder whose path is short enough for Unix sockets on any system."""
    with tempfile.TemporaryDirectory(prefix="dl", dir="/tmp") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """Start a browser without a window, which asks nobody but the server."""
    with headless_browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser
