"""Real server processes, for one test or for all tests of a module."""

from __future__ import annotations

import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from browsers import headless_browser
from selenium.webdriver import Chrome
from server_process import Serve, launching, serving, serving_until_done

# What runs in the background of a shell, or under nohup, ignores these, and so would
# the servers which tests start.
for _name, _handler in (
    ("SIGINT", signal.default_int_handler),
    ("SIGHUP", signal.SIG_DFL),
):
    _number = getattr(signal, _name, None)  # Windows has no SIGHUP
    if _number is not None and signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _handler)


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
