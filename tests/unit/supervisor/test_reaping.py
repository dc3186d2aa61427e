"""How the supervisor finds out that processes have ended."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from daphne_like.settings import Settings
from daphne_like.supervisor.supervisor import Supervisor

pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="workers need a POSIX system"
)

WORKER, ORPHAN = 100, 101


class Reaping:
    """A supervisor with one worker; notes who has ended, and how."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        program: Any = None
        self.supervisor = Supervisor(Settings.of(workers=1), program)
        made: Any = SimpleNamespace(pid=WORKER)
        self.supervisor._workers = {1: made}
        self.ended: list[tuple[int, int]] = []
        monkeypatch.setattr(self.supervisor, "_ended", self._ended)

    def _ended(self, made: Any, status: int) -> None:
        self.ended.append((made.pid, status))
        self.supervisor._workers.clear()


@pytest.fixture
def reaping(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reaping]:
    """Make such a scene."""
    reaping = Reaping(monkeypatch)
    yield reaping
    reaping.supervisor._close()


def test_a_worker_ends_while_orphans_are_waited_for(
    reaping: Reaping, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a container: its end is not taken for that of an orphan, and replaced."""
    zombies = [(ORPHAN, 0), (WORKER, 3 << 8)]

    def waitpid(pid: int, options: int) -> tuple[int, int]:
        if pid == WORKER:
            return 0, 0  # it still lives then
        if not zombies:
            raise ChildProcessError
        return zombies.pop(0)

    monkeypatch.setattr(os, "getpid", lambda: 1)
    monkeypatch.setattr(os, "waitpid", waitpid)
    reaping.supervisor._reap()

    assert [(WORKER, 3)] == reaping.ended
    assert [] == zombies


def test_somebody_else_has_waited_for_a_worker(
    reaping: Reaping, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library of a preloaded application, say: the worker is replaced all the same."""

    def waitpid(pid: int, options: int) -> tuple[int, int]:
        raise ChildProcessError

    monkeypatch.setattr(os, "waitpid", waitpid)
    reaping.supervisor._reap()

    assert [(WORKER, 1)] == reaping.ended
