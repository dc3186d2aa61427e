"""Who is started and stopped, and when: without processes, with a clock of its own."""

from __future__ import annotations

import logging
import re
import signal
from typing import Any

import pytest

from daphne_like.settings import WorkerSettings
from daphne_like.supervisor.orders import (
    Action,
    Cut,
    Kill,
    Leave,
    Phase,
    Start,
    Stop,
    WorkerRecord,
)
from daphne_like.supervisor.workforce import Workforce

MEBIBYTE = 2**20


class Company:
    """
    A workforce whose orders are obeyed at once, by nobody.

    Attributes:
        workforce: Under test.
        told: What it wanted, as words such as ``start 0`` and ``stop 1``.
        now: The time.
    """

    def __init__(self, *, stop_timeout: float = 30.0, **settings: Any) -> None:
        self.now = 1000.0
        self.told: list[str] = []
        self.workforce = Workforce(
            WorkerSettings(**settings),
            lambda: self.now,
            stop_timeout,
            chance=lambda most: most / 2,
        )

    def worker(self, number: int) -> WorkerRecord:
        """Return a worker by its number."""
        return self.workforce.workers[number]

    def look(self) -> list[str]:
        """Do what is due; return it."""
        told = []
        for action in self.workforce.due():
            told.append(describe(action))
            if isinstance(action, Start):
                self.workforce.started(action.slot)
        self.told += told
        return told

    def ready(self, *numbers: int) -> list[str]:
        """Let workers become ready; return what follows."""
        for number in numbers:
            self.workforce.became_ready(self.worker(number))
        return self.look()

    def end(self, number: int, status: int = 0) -> list[str]:
        """Let a worker's process end; return what follows."""
        self.workforce.ended(self.worker(number), status, f"status {status}")
        return self.look()

    def beat(self, number: int, requests: int = 0, mebibytes: int = 50) -> list[str]:
        """Let a worker show that it lives; return what follows."""
        self.workforce.beat(self.worker(number), requests, mebibytes * MEBIBYTE)
        return self.look()

    def wait(self, seconds: float, *, beating: bool = True) -> list[str]:
        """Let time pass, with a look each second; return what was due."""
        told = []
        for _ in range(round(seconds)):
            self.now += 1
            for worker in self.workforce.workers.values() if beating else ():
                worker.last_beat = self.now
            told += self.look()
        return told

    @property
    def phases(self) -> dict[int, str]:
        """Where each worker is in its life."""
        return {n: w.phase.value for n, w in self.workforce.workers.items()}


def describe(action: Action) -> str:
    """Name an order in a few words."""
    if isinstance(action, Start):
        return f"start in {action.slot}"
    if isinstance(action, Leave):
        return f"leave with {action.status}"
    number = action.worker.number
    if isinstance(action, Stop):
        return f"{'replace' if action.restarting else 'stop'} {number}"
    if isinstance(action, Cut):
        return f"cut {number}"
    assert isinstance(action, Kill)
    return f"{'inspect and kill' if action.inspect else 'kill'} {number}"


def serving(workers: int = 2, **settings: Any) -> Company:
    """Return a company whose workers are ready."""
    company = Company(workers=workers, **settings)
    company.look()
    company.ready(1)
    company.ready(*range(2, workers + 1))
    assert company.workforce.is_complete
    company.told.clear()
    return company


# -- Starting ------------------------------------------------------------------


def test_the_first_worker_starts_alone() -> None:
    """What keeps the application from starting is told once, not by each worker."""
    company = Company(workers=3)

    assert ["start in 0"] == company.look()
    assert [] == company.look()
    assert ["start in 1", "start in 2"] == company.ready(1)
    assert not company.workforce.is_complete

    company.ready(2, 3)

    assert company.workforce.is_complete


@pytest.mark.parametrize(("status", "expected"), [(3, 3), (1, 1), (0, 1)])
def test_a_start_that_fails_ends_all(status: int, expected: int) -> None:
    """Whoever has started the server learns it at once, by the status, too."""
    company = Company(workers=2)
    company.look()

    assert [f"leave with {expected}"] == company.end(1, status)


def test_a_later_one_of_the_first_workers_that_fails_ends_all() -> None:
    """Half a server isn't what was asked for."""
    company = Company(workers=2)
    company.look()
    company.ready(1)

    assert ["stop 1"] == company.end(2, 3)
    assert ["leave with 3"] == company.end(1)


def test_a_start_that_takes_too_long_is_ended() -> None:
    """A lifespan which blocks the event loop can't be told that its time is over."""
    company = Company(workers=1)
    company.look()
    company.workforce.starting(company.worker(1), 10)

    assert [] == company.wait(14)
    assert ["inspect and kill 1"] == company.wait(2)
    assert ["leave with 3"] == company.end(1, -signal.SIGKILL)


def test_a_slow_import_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody knows how long an import may take; so it is told, and not ended."""
    company = Company(workers=1)
    company.look()
    company.wait(300)

    ages = re.findall(r"importing the application for (\d+) s", caplog.text)
    assert ["60", "120", "240"] == ages
    assert {1: "starting"} == company.phases


# -- Death -------------------------------------------------------------------------


def test_a_dead_worker_is_replaced_at_once() -> None:
    """Whatever it died of."""
    company = serving()
    company.wait(10)

    assert ["start in 1"] == company.end(2, -signal.SIGKILL)
    company.ready(3)
    company.wait(10)

    assert ["start in 0"] == company.end(1, 0)
    assert 2 == company.workforce.restarts


def test_a_crash_loop_backs_off_and_ends(caplog: pytest.LogCaptureFixture) -> None:
    """When no worker lives long enough to serve, the server ends, with status 1."""
    company = serving(1)
    number, waited = 1, []
    while not company.workforce.draining:
        told = company.end(number, -signal.SIGSEGV)
        pause = 0
        while not told and not company.workforce.draining:
            pause += 1
            told = company.wait(1)
        waited.append(pause)
        number += 1
        if "start in 0" in told:
            company.ready(number)

    assert [0, 1, 2, 4, 8, 0] == waited
    assert ["leave with 1"] == told
    assert "No worker lives long enough" in caplog.text


def test_a_crash_loop_beside_good_workers_goes_on() -> None:
    """As long as one serves, the others are tried again, twice a minute at last."""
    company = serving(2)
    company.wait(10)
    number = 2
    for _ in range(12):
        company.end(number, -signal.SIGSEGV)
        company.wait(31)
        number += 1
        company.ready(number)

    assert not company.workforce.draining
    assert {1: "ready", number: "ready"} == company.phases


def test_a_crash_loop_of_a_night_goes_on() -> None:
    """Twice a minute: the pause, which is doubled each time, never overflows."""
    company = serving(2)
    company.wait(10)
    for number in range(2, 1102):
        company.end(number, 3)
        company.now += 31
        company.worker(1).last_beat = company.now
        company.look()

    assert {1: "ready", 1102: "starting"} == company.phases
    assert [] == company.end(1102, 3)
    assert [] == company.wait(29)
    assert ["start in 1"] == company.wait(1)


def test_a_worker_that_lives_ends_the_crash_loop() -> None:
    """Deaths that are far from each other are no loop."""
    company = serving(1)
    for number in range(1, 12):
        assert ["start in 0"] == company.end(number, -signal.SIGKILL)
        company.ready(number + 1)
        company.wait(6)


def test_a_start_that_fails_later_is_tried_again() -> None:
    """A database that is away for a minute doesn't end the server."""
    company = serving(2)
    company.wait(10)

    assert ["start in 1"] == company.end(2, -signal.SIGKILL)
    assert ["start in 1"] == company.end(3, 3)
    assert [] == company.end(4, 3)
    assert ["start in 1"] == company.wait(1)
    assert {1: "ready", 5: "starting"} == company.phases


def test_a_process_that_cannot_be_made() -> None:
    """The system may be out of processes for a while."""
    company = serving(1)
    company.end(1, -signal.SIGKILL)
    company.workforce.start_failed(company.worker(2), "no more processes")

    assert ["start in 0"] == company.wait(2)


# -- Heartbeats --------------------------------------------------------------------


def test_a_silent_worker_is_killed_and_replaced() -> None:
    """When its event loop was blocked for too long; it has to say first what by."""
    company = serving(2, timeout_worker_healthcheck=10)
    told = []
    for _ in range(12):
        company.now += 1
        told += company.beat(1)

    assert ["inspect and kill 2", "start in 1"] == told
    assert {1: "ready", 2: "killed", 3: "starting"} == company.phases
    assert [] == company.end(2, -signal.SIGKILL)


def test_a_short_timeout_kills_nobody_who_lives() -> None:
    """It counts from when the next beat is due; there is one in a second."""
    company = serving(1, timeout_worker_healthcheck=0.5)
    told = []
    for _ in range(20):
        company.now += 0.99
        told += company.look()  # just before it beats
        company.now += 0.01
        told += company.beat(1)

    assert [] == told


def test_who_is_ended_before_it_serves_has_not_failed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """When all ends, or there are fewer workers to be: it is ended by a signal, as it can't hear."""
    company = serving(1)
    company.workforce.scale(2)
    company.look()
    company.workforce.scale(1)
    company.look()
    company.end(2, -signal.SIGTERM)

    assert "Worker 2" not in caplog.text
    assert {1: "ready"} == company.phases

    company.workforce.scale(2)
    company.look()
    company.workforce.drain()
    company.look()
    company.end(3, -signal.SIGTERM)

    assert "Worker 3" not in caplog.text
    company.end(1, 1)
    assert "Worker 1 ended: status 1" in caplog.text


def test_silence_is_no_fault_before_the_start_is_over() -> None:
    """Heartbeats come from the event loop, which isn't there while one imports."""
    company = Company(workers=1, timeout_worker_healthcheck=10)
    company.look()

    assert [] == company.wait(100)


def test_silence_may_be_allowed() -> None:
    """A timeout of 0 means never."""
    company = serving(1, timeout_worker_healthcheck=0)

    assert [] == company.wait(1000, beating=False)


def test_nobody_is_killed_for_a_night_in_standby() -> None:
    """When the supervisor itself was stopped, so were the workers."""
    company = serving(2, timeout_worker_healthcheck=10)
    company.now += 3600

    assert [] == company.look()
    assert [] == company.wait(10, beating=False)
    assert ["inspect and kill 1", "inspect and kill 2"] == company.wait(
        2, beating=False
    )[:2]


def test_a_killed_worker_that_stays_is_killed_again() -> None:
    """As long as it takes."""
    company = serving(1, timeout_worker_healthcheck=1)
    company.wait(3, beating=False)

    assert ["kill 1"] == company.wait(5, beating=False)
    assert {1: "killed", 2: "starting"} == company.phases


# -- Rolling -----------------------------------------------------------------------


def test_a_reload_replaces_one_after_the_other() -> None:
    """The new one is ready before the old one drains, so there are never too few."""
    company = serving(2)
    company.workforce.reload()

    assert ["start in 0"] == company.look()
    assert [] == company.wait(5)
    assert ["replace 1", "start in 1"] == company.ready(3)
    rolling = [company.workforce.is_rolling]
    assert ["replace 2"] == company.ready(4)
    rolling.append(company.workforce.is_rolling)
    assert [True, False] == rolling
    assert [] == company.end(1)
    assert [] == company.end(2)
    assert {3: "ready", 4: "ready"} == company.phases


def test_a_reload_that_fails_leaves_the_old_ones() -> None:
    """A mistake in new code costs nobody a request."""
    company = serving(2)
    company.workforce.reload()
    company.look()

    assert [] == company.end(3, 3)
    assert [] == company.wait(100)
    assert {1: "ready", 2: "ready"} == company.phases
    assert not company.workforce.is_rolling


def test_a_reload_whose_start_takes_too_long_leaves_the_old_ones() -> None:
    """It isn't waited for without end."""
    company = serving(1)
    company.workforce.reload()
    company.look()
    company.workforce.starting(company.worker(2), 10)

    assert ["inspect and kill 2"] == company.wait(16)
    assert [] == company.end(2, -signal.SIGKILL)
    assert {1: "ready"} == company.phases


def test_a_second_reload_replaces_what_the_first_has_started() -> None:
    """The code may have changed once more since."""
    company = serving(2)
    company.workforce.reload()
    company.look()
    company.workforce.reload()

    assert ["replace 1", "start in 0"] == company.ready(3)
    assert ["replace 3", "start in 1"] == company.ready(4)
    assert ["replace 2"] == company.ready(5)
    assert not company.workforce.is_rolling
    assert {2} == {worker.generation for worker in company.workforce.ready}


def test_an_old_worker_may_die_while_its_successor_starts() -> None:
    """The successor takes its place; no third one is started."""
    company = serving(1)
    company.workforce.reload()
    company.look()

    assert [] == company.end(1, -signal.SIGKILL)
    assert [] == company.ready(2)
    assert {2: "ready"} == company.phases


def test_a_worker_that_does_not_drain_is_killed() -> None:
    """It has its deadlines, and a little more."""
    company = serving(1, stop_timeout=30)
    company.workforce.reload()
    company.look()
    company.ready(2)

    assert [] == company.wait(34)
    assert ["inspect and kill 1"] == company.wait(2)


def test_a_worker_whose_loop_has_ended_has_little_time_left() -> None:
    """Threads of the application mustn't keep the process."""
    company = serving(1)
    company.workforce.reload()
    company.look()
    company.ready(2)
    company.workforce.fell_silent(company.worker(1))

    assert ["inspect and kill 1"] == company.wait(6)


# -- Scaling -----------------------------------------------------------------------


def test_more_and_fewer_workers() -> None:
    """Those are started, these drain, and at least one is left."""
    company = serving(2)
    company.workforce.scale(4)

    assert ["start in 2", "start in 3"] == company.look()
    company.ready(3, 4)
    company.workforce.scale(0)

    assert ["replace 2", "replace 3", "replace 4"] == company.look()
    assert 1 == company.workforce.target
    for number in (2, 3, 4):
        assert [] == company.end(number)


def test_one_that_drains_of_its_own_accord_is_replaced() -> None:
    """Somebody has sent it a signal."""
    company = serving(2)
    company.workforce.leaves(company.worker(2))

    assert ["start in 1"] == company.look()
    assert [] == company.end(2)


# -- Recycling -----------------------------------------------------------------------


def test_a_worker_is_replaced_after_so_many_requests() -> None:
    """With a part by chance, and never before the next one is ready."""
    company = serving(2, limit_max_requests=100, limit_max_requests_jitter=20)

    assert [] == company.beat(1, requests=109)
    assert ["start in 0"] == company.beat(1, requests=110)
    assert [] == company.beat(2, requests=500)
    assert ["replace 1", "start in 1"] == company.ready(3)
    assert ["replace 2"] == company.ready(4)
    assert 2 == company.workforce.restarts


def test_a_worker_is_replaced_at_its_age() -> None:
    """One at a time, even if they are of one age."""
    company = serving(2, max_worker_lifetime=60, max_worker_lifetime_jitter=10)

    assert [] == company.wait(64)
    assert ["start in 0"] == company.wait(2)
    assert ["replace 1", "start in 1"] == company.ready(3)


def test_a_worker_that_leaks_is_replaced() -> None:
    """When its memory was too large in so many samples on end, not for a peak."""
    company = serving(1, max_worker_rss=100, max_worker_rss_samples=3)
    for mebibytes in (50, 101, 102, 99, 101, 102):
        assert [] == company.beat(1, mebibytes=mebibytes)

    assert ["start in 0"] == company.beat(1, mebibytes=103)


def test_a_limit_of_memory_below_what_one_needs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It isn't obeyed, as each successor would be replaced as well."""
    company = serving(1, max_worker_rss=100, max_worker_rss_samples=1)
    for _ in range(10):
        assert [] == company.beat(1, mebibytes=150)

    assert 1 == caplog.text.count("more than max_worker_rss")


def test_a_successor_that_fails_leaves_the_worn_one() -> None:
    """It is tried again, more and more seldom."""
    company = serving(1, limit_max_requests=10)
    company.beat(1, requests=10)

    assert ["start in 0"] == company.end(2, 3)
    assert [] == company.end(3, 3)
    assert {1: "ready"} == company.phases


# -- Ending --------------------------------------------------------------------------


def test_ending_in_good_order() -> None:
    """All drain at once; when they are gone the supervisor goes, with status 0."""
    company = serving(2)
    company.workforce.reload()
    company.look()
    company.workforce.drain()

    assert ["stop 1", "stop 2", "stop 3"] == company.look()
    assert [] == company.end(3, -signal.SIGTERM)
    assert [] == company.end(1)
    company.workforce.reload()
    assert ["leave with 0"] == company.end(2)


def test_ending_without_patience() -> None:
    """The second signal lets them cut what is in flight."""
    company = serving(2)
    company.workforce.drain()
    company.look()
    company.workforce.cut()

    assert ["cut 1", "cut 2"] == company.look()
    assert [] == company.look()


def test_ending_at_once() -> None:
    """The third one kills them."""
    company = serving(2)
    company.workforce.drain()
    company.look()
    company.workforce.kill()
    company.workforce.fail(1)

    assert ["kill 1", "kill 2"] == company.look()
    company.end(1, -signal.SIGKILL)
    assert ["leave with 1"] == company.end(2, -signal.SIGKILL)


# -- Development ---------------------------------------------------------------------


def test_changed_files_replace_all_at_once() -> None:
    """Nobody wants answers of old code."""
    company = serving(1, reload=True)
    company.workforce.restart()

    assert ["replace 1", "cut 1", "start in 0"] == company.look()
    assert not company.workforce.is_renewed
    company.ready(2)
    assert company.workforce.is_renewed


def test_a_crash_waits_for_the_next_change() -> None:
    """Trying the same code once more leads to nothing."""
    company = serving(1, reload=True)
    company.workforce.restart()
    company.look()
    company.end(1)

    assert [] == company.end(2, -signal.SIGSEGV)
    assert [] == company.wait(100)
    company.workforce.restart()
    assert ["start in 0"] == company.look()


def test_ends_are_told_with_their_reason(caplog: pytest.LogCaptureFixture) -> None:
    """Who drains and then fails has lost something; who is asked to go hasn't."""
    caplog.set_level(logging.WARNING)
    company = serving(2)
    company.workforce.leaves(company.worker(2))
    company.end(2, 1)
    company.workforce.drain()
    company.look()
    company.end(1, 1)

    assert ["Worker 2 ended: status 1", "Worker 1 ended: status 1"] == caplog.messages
    assert Phase.STARTING is Phase("starting")
