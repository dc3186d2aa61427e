"""
Who is to be started and stopped, and when.

:class:`Workforce` hears what happens to workers and what the operator asks for, and
tells what is to be done about it. It knows no process, no signal and no clock but
the one it is given, so that each rule here can be tried without any of them.

A slot is a place for one worker. It is never left by a worker that serves before its
successor is ready: so a roll (all are replaced, one after the other), and the
replacement of a worker that has grown too old or too large, never serve with less than
what was asked for.

Tests: ``tests/unit/supervisor/test_workforce.py``.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from math import inf
from typing import TYPE_CHECKING

from daphne_like.supervisor.orders import (
    BEAT_INTERVAL,
    Action,
    Cut,
    Kill,
    Leave,
    Phase,
    Start,
    Stop,
    WorkerRecord,
)
from daphne_like.supervisor.orphan import STOP_RESERVE

if TYPE_CHECKING:
    from daphne_like.settings import WorkerSettings

__all__ = ["Workforce"]

_logger = logging.getLogger("daphne_like.supervisor")

# A worker which has served that long, in seconds, is no part of a crash loop.
_EARLY = 5.0

# How many may die early, one after the other, before the supervisor gives up; it does
# so only when none is left that serves.
_MOST_EARLY_DEATHS = 6

# How long it waits before the next attempt: 0, 1, 2, 4 ... seconds.
_LONGEST_PAUSE = 30.0

# The exit status of a worker whose application refuses to start.
_REFUSED = 3

# How long a killed worker may take to disappear before it is killed again.
_KILL_INTERVAL = 5.0

# When the supervisor itself was stopped for longer, nobody else's silence counts.
_ABSENCE = 5.0


class Workforce:
    """
    The workers of one supervisor.

    After each call, and once a second, :meth:`due` has what is to be done.

    Args:
        settings: How many there are, and when one is replaced.
        clock: Monotonic seconds.
        longest_stop: Seconds which a worker may take to drain.
        chance: Returns a number from 0 up to its argument.
        replaced: Hears of each worker that is replaced: ``died``, ``stuck``, ``worn``
            or ``reload``.

    Attributes:
        target: How many workers there are to be.
        generation: How many reloads were asked for.
        workers: Those whose processes exist, by number.
        draining: Whether all of it ends.
        restarts: How many workers were started in the place of others.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        clock: Callable[[], float],
        longest_stop: float = inf,
        chance: Callable[[float], float] = lambda most: random.uniform(0, most),  # noqa: S311
        replaced: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._longest_stop = longest_stop
        self._chance = chance
        self._tell_replaced = replaced
        self.target = settings.count
        self.generation = 0
        self.workers: dict[int, WorkerRecord] = {}
        self.draining = False
        self.restarts = 0
        self._next_number = 1
        self._status = 0
        # Whether all that were asked for at the beginning were ready once.
        self._complete = False
        self._ever_ready = 0
        self._rolling = False
        self._cutting = False
        self._killing = False
        # Nothing is started before the code changes once more (--reload).
        self._held = False
        self._early_deaths = 0
        self._pause_until = -inf
        self._last_look = clock()

    # -- What can be asked -------------------------------------------------------

    @property
    def is_complete(self) -> bool:
        """Whether the start is over: all workers were ready once."""
        return self._complete

    @property
    def is_rolling(self) -> bool:
        """Whether a reload is under way."""
        return self._rolling

    @property
    def is_renewed(self) -> bool:
        """Whether as many serve as were asked for, all of them since the last reload."""
        return self.target <= sum(
            worker.generation == self.generation for worker in self.ready
        )

    @property
    def ready(self) -> list[WorkerRecord]:
        """Those who serve."""
        return [w for w in self.workers.values() if w.phase is Phase.READY]

    # -- What happens ------------------------------------------------------------

    def started(self, slot: int) -> WorkerRecord:
        """Take in the worker whose process was started."""
        worker = WorkerRecord(
            self._next_number, slot, self.generation, started=self._clock()
        )
        self._next_number += 1
        self.workers[worker.number] = worker
        return worker

    def start_failed(self, worker: WorkerRecord, error: str) -> None:
        """Take note that no process could be made for a worker."""
        del self.workers[worker.number]
        _logger.error("A worker can't be started: %s", error)
        self._died_early()

    def starting(self, worker: WorkerRecord, longest: float) -> None:
        """Take note that it has loaded the application, whose start takes at most so."""
        if longest:
            worker.start_deadline = self._clock() + longest + STOP_RESERVE

    def became_ready(self, worker: WorkerRecord) -> None:
        """Let a worker serve, and those before it in its slot go."""
        if worker.phase is not Phase.STARTING:
            return
        settings, now = self._settings, self._clock()
        worker.phase = Phase.READY
        worker.ready_since = worker.last_beat = now
        worker.beats = True
        if settings.limit_max_requests:
            jitter = self._chance(settings.limit_max_requests_jitter)
            worker.request_limit = settings.limit_max_requests + round(jitter)
        if settings.max_worker_lifetime:
            jitter = self._chance(settings.max_worker_lifetime_jitter)
            worker.lifetime_deadline = now + settings.max_worker_lifetime + jitter
        self._ever_ready += 1

    def beat(self, worker: WorkerRecord, requests: int, rss: int) -> None:
        """Take note that a worker's event loop turns."""
        worker.last_beat = self._clock()
        first, worker.requests, worker.rss = not worker.rss, requests, rss
        if worker.phase is not Phase.READY:
            return
        most = self._settings.max_worker_rss * 2**20
        if most and rss > most:
            worker.samples_above += 1
            if first:
                # It would be replaced for ever.
                _logger.error(
                    "Worker %d: it began with %d MiB, more than max_worker_rss, which "
                    "is not obeyed for it",
                    worker.number,
                    rss >> 20,
                )
                worker.samples_above = -(2**62)
        elif worker.samples_above > 0:
            worker.samples_above = 0
        if requests >= worker.request_limit:
            worker.worn = f"it has taken {requests} requests"
        elif worker.samples_above >= self._settings.max_worker_rss_samples:
            worker.worn = f"its memory has grown to {rss >> 20} MiB"

    def fell_silent(self, worker: WorkerRecord) -> None:
        """Take note that the worker's loop has ended in good order."""
        worker.beats = False
        worker.stop_deadline = min(worker.stop_deadline, self._clock() + STOP_RESERVE)

    def leaves(self, worker: WorkerRecord) -> None:
        """Take note that the worker drains of its own accord."""
        if worker.phase is Phase.READY:
            worker.phase = Phase.DRAINING
            worker.stop_deadline = self._clock() + self._longest_stop + STOP_RESERVE

    def ended(self, worker: WorkerRecord, status: int, how: str) -> None:
        """
        Take note that a worker's process is gone.

        Args:
            worker: Which one.
            status: Its exit status, or the negative number of a signal.
            how: The same in words.
        """
        del self.workers[worker.number]
        if worker.was_killed:
            return
        if self.draining or worker.phase is Phase.DRAINING:
            # One that wasn't ready was asked to end by a signal.
            if status and worker.ready_since < inf:
                _logger.warning("Worker %d ended: %s", worker.number, how)
            return
        if worker.phase is Phase.STARTING and status >= 0:
            self._failed_to_start(worker, status, how)
            return
        _logger.error("Worker %d died: %s", worker.number, how)
        self._replaced("died")
        if self._clock() < worker.ready_since + _EARLY:
            self._died_early()
        if self._settings.reload and worker.phase is Phase.STARTING:
            self._held = True

    def _failed_to_start(self, worker: WorkerRecord, status: int, how: str) -> None:
        """Judge a worker which has ended by itself before it was ready."""
        if self._settings.reload and (self._complete or status == _REFUSED):
            _logger.error("Worker %d couldn't start: %s", worker.number, how)
            self._held = True
        elif not self._complete:
            # Who has just started it wants to know.
            _logger.critical(
                "Worker %d couldn't start (%s): stopping", worker.number, how
            )
            self._end(status or 1)
        elif self._rolling:
            self._rolling = False
            _logger.error(
                "Worker %d couldn't start (%s): the reload is given up, the workers "
                "which are left go on as they are",
                worker.number,
                how,
            )
        else:
            _logger.error("Worker %d couldn't start: %s", worker.number, how)
            self._died_early()

    def _replaced(self, reason: str) -> None:
        self.restarts += 1
        self._tell_replaced(reason)

    def _died_early(self) -> None:
        self._early_deaths += 1
        now = self._clock()
        pause = 0.0
        if self._early_deaths > 1:
            # Of thousands of deaths, which take a night, the power is no float.
            doublings = min(self._early_deaths - 2, _MOST_EARLY_DEATHS)
            pause = min(2.0**doublings, _LONGEST_PAUSE)
            _logger.error(
                "%d workers have died early, one after the other: the next is started "
                "after %g s",
                self._early_deaths,
                pause,
            )
        self._pause_until = now + pause
        if self._early_deaths >= _MOST_EARLY_DEATHS and not self._proven(now):
            _logger.critical("No worker lives long enough to serve: stopping")
            self._end(1)

    def _proven(self, now: float) -> bool:
        """Whether a worker serves which is no part of a crash loop."""
        return any(now >= worker.ready_since + _EARLY for worker in self.ready)

    # -- What the operator asks for ------------------------------------------------

    def reload(self) -> None:
        """Replace all workers, one after the other."""
        if self.draining:
            return
        self.generation += 1
        self._rolling = True
        self._held = False
        self._pause_until = -inf

    def restart(self) -> None:
        """Replace all workers at once: what they have loaded isn't wanted any more."""
        if self.draining:
            return
        self.generation += 1
        self._held = False
        self._early_deaths = 0
        self._pause_until = -inf

    def scale(self, workers: int) -> None:
        """Have that many workers from now on, at least one."""
        self.target = max(1, workers)

    def drain(self) -> None:
        """End in good order."""
        self._end(self._status)

    def cut(self) -> None:
        """End, waiting no longer for what is in flight."""
        self.drain()
        self._cutting = True

    def kill(self) -> None:
        """End at once."""
        self.drain()
        self._killing = True

    def fail(self, status: int) -> None:
        """End, in the end with this exit status unless there is another one."""
        self._end(status)

    def _end(self, status: int) -> None:
        self._status = self._status or status
        self.draining = True
        self._rolling = False

    # -- What is to be done --------------------------------------------------------

    def due(self) -> list[Action]:
        """Tell what is to be done now; each thing is told once."""
        now = self._clock()
        if now - self._last_look > _ABSENCE:
            # Stopped by a terminal, or asleep, as the workers were.
            for worker in self.workers.values():
                worker.last_beat = max(worker.last_beat, now)
        self._last_look = now
        actions: list[Action] = [*self._kills(now)]
        if self.draining:
            actions += self._endings(now)
            return actions
        if any(
            worker.started >= self._pause_until and now >= worker.ready_since + _EARLY
            for worker in self.ready
        ):
            self._early_deaths = 0
        actions += self._retirements(now)
        self._notice_completion()
        actions += self._starts(now)
        return actions

    def _notice_completion(self) -> None:
        if not self._complete and len(self.ready) >= self.target:
            self._complete = True
        if self._rolling and self._complete:
            self._rolling = any(
                worker.generation < self.generation
                for worker in self.workers.values()
                if worker.fills_its_slot
            )

    def _kills(self, now: float) -> Iterator[Kill]:
        """Find those who are stuck, or take too long."""
        silence = self._settings.timeout_worker_healthcheck or inf
        for worker in self.workers.values():
            if worker.phase is Phase.KILLED:
                if now >= worker.stop_deadline:
                    worker.stop_deadline = now + _KILL_INTERVAL
                    yield Kill(worker, worker.was_killed)
            elif self._killing:
                yield self._kill(worker, "as asked")
            elif worker.beats and now - worker.last_beat > BEAT_INTERVAL + silence:
                if not self.draining:
                    self._replaced("stuck")
                yield self._kill(
                    worker, f"its event loop was silent for {silence:g} s", inspect=True
                )
            elif worker.phase is Phase.STARTING and now >= worker.start_deadline:
                yield self._kill(worker, "its start has taken too long", inspect=True)
                self._gave_up_start(worker)
            elif now >= worker.stop_deadline:
                yield self._kill(worker, "it has not ended in time", inspect=True)

    def _kill(
        self, worker: WorkerRecord, reason: str, *, inspect: bool = False
    ) -> Kill:
        worker.phase = Phase.KILLED
        worker.was_killed = reason
        worker.stop_deadline = self._clock() + _KILL_INTERVAL
        return Kill(worker, reason, inspect)

    def _gave_up_start(self, worker: WorkerRecord) -> None:
        if self._settings.reload:
            self._held = True
        elif not self._complete:
            self._end(3)
        elif self._rolling:
            self._rolling = False
            _logger.error("The reload is given up: the workers go on as they are")
        else:
            self._died_early()

    def _endings(self, now: float) -> Iterator[Action]:
        if not self.workers:
            yield Leave(self._status)
            return
        for worker in self.workers.values():
            if worker.fills_its_slot:
                yield self._stop(worker, now, restarting=False)
            if self._cutting and worker.phase is Phase.DRAINING:
                yield Cut(worker)
        self._cutting = False

    def _stop(self, worker: WorkerRecord, now: float, *, restarting: bool) -> Stop:
        worker.phase = Phase.DRAINING
        worker.stop_deadline = now + self._longest_stop + STOP_RESERVE
        return Stop(worker, restarting)

    def _retirements(self, now: float) -> Iterator[Action]:
        """Let those go whose slot is no more, or has a successor."""
        newest: dict[int, WorkerRecord] = {}
        for worker in self.ready:
            other = newest.get(worker.slot)
            if other is None or other.number < worker.number:
                newest[worker.slot] = worker
        for worker in list(self.workers.values()):
            if not worker.fills_its_slot:
                continue
            if worker.slot >= self.target:
                yield self._stop(worker, now, restarting=bool(self.ready))
            elif self._settings.reload and worker.generation < self.generation:
                # For development: nobody wants answers of old code.
                yield self._stop(worker, now, restarting=True)
                yield Cut(worker)
            elif (
                worker.phase is Phase.READY
                and newest[worker.slot].number > worker.number
            ):
                yield self._stop(worker, now, restarting=True)

    def _starts(self, now: float) -> Iterator[Start]:
        """Fill the slots; replace one at a time."""
        filled: dict[int, list[WorkerRecord]] = {
            slot: [] for slot in range(self.target)
        }
        starting = False
        for worker in self.workers.values():
            if worker.phase is Phase.READY and now >= worker.lifetime_deadline:
                worker.worn = worker.worn or "its lifetime is over"
            if worker.fills_its_slot:
                filled[worker.slot].append(worker)
                starting = starting or worker.phase is Phase.STARTING
                self._tell_slow_start(worker, now)
        if now < self._pause_until or self._held:
            return
        for slot, workers in filled.items():
            if not workers:
                # The first one alone: what keeps it from starting is then told once.
                if starting and not self._ever_ready:
                    return
                starting = True
                yield Start(slot)
        if starting:
            return
        for slot, workers in filled.items():
            worker = workers[0]
            if self._rolling and worker.generation < self.generation:
                self._replaced("reload")
                yield Start(slot)
                return
            if worker.worn:
                _logger.info("Worker %d is replaced: %s", worker.number, worker.worn)
                self._replaced("worn")
                yield Start(slot)
                return

    def _tell_slow_start(self, worker: WorkerRecord, now: float) -> None:
        if worker.phase is not Phase.STARTING:
            return
        age = now - worker.started
        if worker.start_deadline == inf and age >= worker.slow_start_told:
            worker.slow_start_told *= 2
            _logger.warning(
                "Worker %d has been importing the application for %d s (SIGUSR2 shows "
                "where)",
                worker.number,
                age,
            )
