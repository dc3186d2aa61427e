"""
A project of Channels that was written for Daphne, and tests itself with it.

No Daphne is installed here: ``channels.testing`` gets ours.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from browsers import find_browser
from server_process import APPLICATIONS

from daphne_like import aliases

SUPPORT = Path(__file__).parents[1] / "support"


STARTED = pytest.mark.parametrize("start_method", ["fork", "spawn", "forkserver"])


@pytest.mark.timeout(180)
@STARTED
def test_servers_of_a_program(start_method: str) -> None:
    """
    Tests without Django have a server in a process or in a thread; what it received
    and what kept it from serving is told.
    """
    finished = subprocess.run(
        [sys.executable, "-m", "applications.live_servers", start_method],
        capture_output=True,
        check=False,
        cwd=APPLICATIONS,
        text=True,
    )

    assert (0, "all is well\n") == (finished.returncode, finished.stdout), (
        finished.stderr
    )


@pytest.mark.timeout(180)
@STARTED
def test_live_server_tests_of_a_project(start_method: str, tmp_path: Path) -> None:
    """
    Its tests pass, by a browser and however processes are started: pages, static
    files, WebSockets, the test database.
    """
    find_browser()  # which could not skip a test of another process
    aliases.install()
    assert "daphne_like" in str(importlib.util.find_spec("daphne"))
    paths = [os.environ.get("PYTHONPATH", ""), str(SUPPORT)]
    environment = {
        "CHAT_DATABASE": str(tmp_path / "db"),
        "DJANGO_SETTINGS_MODULE": "applications.channels_site.settings",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "START_METHOD": start_method,
    }
    finished = subprocess.run(
        [
            sys.executable,
            "-m",
            "django",
            "test",
            "applications.channels_site.live_tests",
        ],
        capture_output=True,
        check=False,
        cwd=APPLICATIONS,
        env={**os.environ, **environment},
        text=True,
    )

    assert 0 == finished.returncode, finished.stdout + finished.stderr
    assert "Ran 2 tests" in finished.stderr
