"""What ends a worker whose supervisor has died, when nothing else does."""

from __future__ import annotations

import faulthandler
import os
import sys
import time
from typing import Any

import pytest

from daphne_like.settings import Settings
from daphne_like.supervisor.orphan import STOP_RESERVE, LastResort
from daphne_like.winding_down import longest_stop


class Alarm:
    """Notes to which time it was set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.set: list[float] = []
        self.now = 1000.0
        monkeypatch.setattr(faulthandler, "dump_traceback_later", self._set)
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def _set(self, timeout: float, **options: Any) -> None:
        assert options["exit"]
        os.write(options["file"], b"")
        self.set.append(timeout)


@pytest.fixture
def alarm(monkeypatch: pytest.MonkeyPatch) -> Alarm:
    """Make one."""
    return Alarm(monkeypatch)


def make(**names: Any) -> tuple[LastResort, float]:
    """Make what ends a worker; return the longest time it may take, too."""
    settings = Settings.of(**names)
    return LastResort(settings), longest_stop(settings) + STOP_RESERVE


def test_nothing_ends_while_the_supervisor_lives(alarm: Alarm) -> None:
    """Whatever its workers do."""
    last_resort, _ = make()
    last_resort.beat()
    last_resort.loop_ended()

    assert not last_resort.is_orphan
    assert [] == alarm.set


def test_silence_counts_after_the_first_beat(alarm: Alarm) -> None:
    """A slow import has its time; a loop that has turned must go on to turn."""
    last_resort, longest = make(timeout_worker_healthcheck=7.0)
    last_resort.begin()
    last_resort.beat()
    alarm.now += 1
    last_resort.beat()

    # From when the next beat is due: it may have turned until then.
    assert [longest, 8.0, 8.0] == alarm.set


def test_beats_do_not_move_the_end(alarm: Alarm) -> None:
    """When its deadlines are over it ends, and at once when it was waiting for that."""
    last_resort, longest = make(timeout_worker_healthcheck=0.0)
    last_resort.begin()
    alarm.now += longest - 1
    last_resort.begin()  # by the signal and by the channel
    last_resort.beat()
    alarm.now += 2
    last_resort.beat()

    assert [longest, 1.0, pytest.approx(0.001)] == alarm.set


def test_what_comes_after_the_loop_has_little_time(alarm: Alarm) -> None:
    """Threads which the interpreter waits for, say."""
    last_resort, _ = make()
    last_resort.begin()
    last_resort.beat()
    last_resort.loop_ended()

    assert STOP_RESERVE == alarm.set[-1]


def test_deadlines_that_are_off(alarm: Alarm) -> None:
    """They are for workers whose supervisor lives no less than for others."""
    last_resort, longest = make(timeout_shutdown=0.0, timeout_worker_healthcheck=0.0)
    last_resort.begin()
    last_resort.beat()

    assert float("inf") == longest
    assert [] == alarm.set


def test_a_server_without_stderr(alarm: Alarm, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another file has the number of is left alone."""
    monkeypatch.setattr(sys, "stderr", None)
    last_resort, longest = make()
    last_resort.begin()

    assert [longest] == alarm.set
    assert last_resort._output > 2
    os.close(last_resort._output)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX processes")
def test_orphans_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """By their parent, which is another one then."""
    last_resort, _ = make()
    monkeypatch.setattr(os, "getppid", lambda: 1)

    assert last_resort.is_orphan
