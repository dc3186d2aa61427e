"""
What is known of a worker, and what is to be done with it.

Tests: ``tests/unit/supervisor/test_workforce.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import inf

__all__ = [
    "BEAT_INTERVAL",
    "Action",
    "Cut",
    "Kill",
    "Leave",
    "Phase",
    "Start",
    "Stop",
    "WorkerRecord",
]

BEAT_INTERVAL = 1.0
"""How often a worker shows that its event loop turns, in seconds."""

# After how long it is told that a worker is still importing the application.
_SLOW_START = 60.0


class Phase(Enum):
    """Where a worker is in its life; after the last one its record is forgotten."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    KILLED = "killed"


@dataclass(eq=False)
class WorkerRecord:
    """
    What is known of one worker.

    Attributes:
        number: Counts up; no two workers of one supervisor have the same.
        slot: The place it fills.
        generation: How many reloads there were when it was started.
        started: When it was started.
        start_deadline: When it is killed, unless it is ready.
        phase: Where it is in its life.
        ready_since: When it became ready.
        last_beat: When its event loop was last heard of.
        beats: Whether silence counts.
        stop_deadline: When it is killed, once it drains.
        requests: How many it has taken.
        rss: Resident memory in bytes.
        request_limit: After how many requests it is replaced.
        lifetime_deadline: When it is replaced.
        samples_above: How many samples of its memory were too large, on end.
        worn: Why it is to be replaced; empty where it isn't.
        was_killed: Why it was killed; empty where it wasn't.
        slow_start_told: At which age it is told next that it still starts.
    """

    number: int
    slot: int
    generation: int
    started: float
    start_deadline: float = inf
    phase: Phase = Phase.STARTING
    ready_since: float = inf
    last_beat: float = inf
    beats: bool = False
    stop_deadline: float = inf
    requests: int = 0
    rss: int = 0
    request_limit: float = inf
    lifetime_deadline: float = inf
    samples_above: int = 0
    worn: str = ""
    was_killed: str = ""
    slow_start_told: float = _SLOW_START

    @property
    def fills_its_slot(self) -> bool:
        """Whether it serves, or is about to."""
        return self.phase in (Phase.STARTING, Phase.READY)


@dataclass(frozen=True)
class Start:
    """A worker is to be started; :meth:`Workforce.started` is owed for it."""

    slot: int


@dataclass(frozen=True)
class Stop:
    """A worker is to drain; ``restarting`` where another one takes its place."""

    worker: WorkerRecord
    restarting: bool


@dataclass(frozen=True)
class Cut:
    """A worker which drains is to wait no longer for what is in flight."""

    worker: WorkerRecord


@dataclass(frozen=True)
class Kill:
    """A worker is to be killed; ``inspect``: after it was asked what it is doing."""

    worker: WorkerRecord
    reason: str
    inspect: bool = False


@dataclass(frozen=True)
class Leave:
    """All workers are gone; the supervisor ends with ``status``."""

    status: int


Action = Start | Stop | Cut | Kill | Leave
