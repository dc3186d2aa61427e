"""Development with --reload: files change, and what is served changes with them."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from daphne_like.settings import WorkerSettings
from daphne_like.supervisor.reload import Watcher

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="supervisors need what Unix has"
)

# An event that must come, comes within this. Seconds.
_TIMEOUT = 30.0

WAYS = [
    pytest.param(
        "watchfiles",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("watchfiles") is None,
            reason="watchfiles is not installed",
        ),
    ),
    "polling",
]
"""How changes are noticed, as parameters of a test or fixture."""


def without_watchfiles(folder: Path) -> str:
    """Return a search path on which importing watchfiles fails."""
    (folder / "watchfiles.py").write_text("raise ImportError\n", "utf-8")
    return str(folder)


# -- The watcher alone ----------------------------------------------------------


class Watching:
    """A watcher with its process, and a loop which runs while a test waits."""

    def __init__(self, folder: Path, loop: asyncio.AbstractEventLoop) -> None:
        self.folder = folder
        self.loop = loop
        self.groups: list[list[str]] = []
        settings = WorkerSettings(
            reload=True, reload_dir=(str(folder),), reload_delay=0.1
        )
        self.watcher = Watcher(settings, ".")
        self.watcher.start(loop, self.groups.append)

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process which watches."""
        assert self.watcher._process is not None
        return self.watcher._process

    def until(self, text: str, caplog: pytest.LogCaptureFixture) -> None:
        """Run the loop until a text is in the log."""
        deadline = time.monotonic() + _TIMEOUT
        while text not in caplog.text:
            assert time.monotonic() < deadline, caplog.text
            self.loop.run_until_complete(asyncio.sleep(0.02))


@pytest.fixture(params=WAYS)
def watching(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> Iterator[Watching]:
    """Watch a directory, from before the test on."""
    caplog.set_level("INFO")
    if request.param == "polling":
        (tmp_path / "path").mkdir()
        monkeypatch.syspath_prepend(without_watchfiles(tmp_path / "path"))
    folder = tmp_path / "project"
    (folder / "package").mkdir(parents=True)
    with closing(asyncio.new_event_loop()) as loop:
        watching = Watching(folder, loop)
        watching.until(
            "Watching" if request.param == "watchfiles" else "Looking twice", caplog
        )
        yield watching
        watching.watcher.stop()


def test_a_saved_file_is_noticed(
    watching: Watching, caplog: pytest.LogCaptureFixture
) -> None:
    """By the system's own events, and by looking at files where there are none."""
    path = watching.folder / "package" / "views.py"
    (watching.folder / "notes.txt").write_text("irrelevant", "utf-8")
    path.write_text("x = 1", "utf-8")
    watching.until("Changed:", caplog)

    assert [[str(path)]] == watching.groups


def test_files_of_a_new_directory_are_noticed(
    watching: Watching, caplog: pytest.LogCaptureFixture
) -> None:
    """What is watched grows with the project."""
    new = watching.folder / "new"
    new.mkdir()
    (new / "__init__.py").write_text("", "utf-8")
    watching.until("Changed:", caplog)
    watching.groups.clear()
    caplog.clear()
    (new / "models.py").write_text("", "utf-8")
    watching.until("models.py", caplog)

    assert [str(new / "models.py")] in watching.groups


def test_nothing_watches_when_the_supervisor_is_gone(watching: Watching) -> None:
    """The process ends with its standard input, whatever has closed that."""
    process = watching.process
    assert process.stdin is not None
    process.stdin.close()

    assert 0 == process.wait(_TIMEOUT)


def test_a_killed_watcher_is_told_of(
    watching: Watching, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says so, and nothing else happens."""
    os.kill(watching.process.pid, signal.SIGKILL)
    watching.until("Changes of files go unnoticed", caplog)

    assert [] == watching.groups
