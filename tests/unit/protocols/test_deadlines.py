"""Tests of ``daphne_like.protocols.deadlines``."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
)
from twisted.internet.task import Clock

from daphne_like.protocols.deadlines import DeadlineWheel


@dataclass(eq=False)
class Holder:
    """
    A holder with one deadline, which keeps the rules of the wheel.

    Attributes:
        wheel: Where it is scheduled.
        deadline: Its deadline.
        passed: The instants at which it was told, with its deadline then.
        then: What it does when told.
    """

    wheel: DeadlineWheel
    deadline: float = inf
    passed: list[tuple[float, float]] = field(default_factory=list)
    then: Callable[[], None] = lambda: None
    covered_from: float = inf

    def set_deadline(self, deadline: float) -> None:
        """Move the deadline; a later one costs nothing."""
        self.deadline = deadline
        if deadline < self.covered_from:
            self.wheel.schedule(self, deadline)

    def next_deadline(self) -> float:
        """Tell the deadline."""
        return self.deadline

    def deadline_passed(self, now: float) -> None:
        """Note that it was told."""
        self.passed.append((self.deadline, now))
        self.deadline = inf
        self.then()


@pytest.fixture
def clock() -> Clock:
    """A clock that stands in the middle of a second."""
    clock = Clock()
    clock.rightNow = 1000.5
    return clock


@pytest.fixture
def wheel(clock: Clock) -> DeadlineWheel:
    """A wheel that goes by it."""
    return DeadlineWheel(clock.seconds)


def run(wheel: DeadlineWheel, clock: Clock, seconds: int) -> None:
    """Let time go by, with a tick each second."""
    for _ in range(seconds):
        clock.advance(1)
        wheel.tick()


def test_a_deadline_is_told_at_the_tick_that_follows_it(
    wheel: DeadlineWheel, clock: Clock
) -> None:
    """A timeout of three seconds ends what waits after three to four seconds."""
    holder = Holder(wheel)
    holder.set_deadline(clock.seconds() + 3)

    run(wheel, clock, 3)

    assert holder.passed == []
    assert 1 == len(wheel)

    run(wheel, clock, 1)

    assert [(1003.5, 1004.5)] == holder.passed
    assert 0 == len(wheel)
    assert inf == holder.covered_from


def test_a_deadline_that_is_over_already_is_told_at_the_next_tick(
    wheel: DeadlineWheel, clock: Clock
) -> None:
    """A timeout of no time at all, or a clock that jumped, loses no deadline."""
    holder = Holder(wheel)
    holder.set_deadline(900.0)

    run(wheel, clock, 1)

    assert [(900.0, 1001.5)] == holder.passed


def test_a_deadline_that_moves_on_with_each_request_is_never_told(
    wheel: DeadlineWheel, clock: Clock
) -> None:
    """A busy keep-alive connection isn't closed, and isn't scheduled anew either."""
    holder = Holder(wheel)
    holder.set_deadline(clock.seconds() + 5)
    for _ in range(60):
        covered_from = holder.covered_from
        holder.set_deadline(clock.seconds() + 5)

        assert covered_from == holder.covered_from

        run(wheel, clock, 1)

    assert holder.passed == []

    run(wheel, clock, 6)

    assert 1 == len(holder.passed)


def test_an_earlier_deadline_is_told_in_time(
    wheel: DeadlineWheel, clock: Clock
) -> None:
    """A short timeout works although a long one is already running."""
    holder = Holder(wheel)
    holder.set_deadline(clock.seconds() + 60)
    holder.set_deadline(clock.seconds() + 2)

    assert 1 == len(wheel)

    run(wheel, clock, 3)

    assert [1002.5] == [deadline for deadline, _ in holder.passed]


def test_a_holder_without_deadlines_leaves_the_wheel(
    wheel: DeadlineWheel, clock: Clock
) -> None:
    """What waits for nothing any more costs nothing any more."""
    holder = Holder(wheel)
    holder.set_deadline(clock.seconds() + 2)
    holder.deadline = inf

    run(wheel, clock, 3)

    assert 0 == len(wheel)
    assert inf == holder.covered_from
    assert holder.passed == []


def test_a_holder_may_be_removed_whether_or_not_it_is_there(
    wheel: DeadlineWheel, clock: Clock
) -> None:
    """A connection that is lost is forgotten, also when nothing was due on it."""
    holder = Holder(wheel)
    wheel.remove(holder)
    holder.set_deadline(clock.seconds() + 1)
    wheel.remove(holder)
    wheel.remove(holder)

    run(wheel, clock, 3)

    assert holder.passed == []


def test_a_holder_may_schedule_again_when_it_is_told(
    wheel: DeadlineWheel, clock: Clock
) -> None:
    """A deadline can follow a deadline: half close, linger, close."""
    holder = Holder(wheel)
    holder.then = lambda: holder.set_deadline(clock.seconds() + 2)
    holder.set_deadline(clock.seconds())

    run(wheel, clock, 10)

    told = [now for _, now in holder.passed]
    assert told == [1001.5, 1004.5, 1007.5, 1010.5]


def test_a_holder_may_remove_others_that_are_due_as_well(
    wheel: DeadlineWheel, clock: Clock
) -> None:
    """One connection's end may end others, which then aren't told any more."""
    holders = [Holder(wheel) for _ in range(3)]

    def remove_all() -> None:
        for holder in holders:
            wheel.remove(holder)

    for holder in holders:
        holder.then = remove_all
        # In the same second, and in the one after.
        holder.set_deadline(clock.seconds() + 0.2 * holders.index(holder))

    run(wheel, clock, 3)

    assert 1 == sum(len(holder.passed) for holder in holders)
    assert 0 == len(wheel)


def test_a_blocked_loop_delays_deadlines_but_loses_none(
    wheel: DeadlineWheel, clock: Clock
) -> None:
    """When an application blocks for a minute, all that is due is told after it."""
    holders = [Holder(wheel) for _ in range(30)]
    for number, holder in enumerate(holders):
        holder.set_deadline(clock.seconds() + number)
    clock.advance(60)
    late = Holder(wheel)
    late.set_deadline(clock.seconds() + 1)

    wheel.tick()

    assert all(len(holder.passed) == 1 for holder in holders)
    assert late.passed == []

    run(wheel, clock, 2)

    assert 1 == len(late.passed)


def test_a_holder_that_fails_keeps_no_other_from_its_deadline(
    wheel: DeadlineWheel, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault on one connection is logged, and the others keep their timeouts."""

    def fail() -> None:
        raise RuntimeError("a fault in one connection")

    holders = [Holder(wheel) for _ in range(3)]
    for holder in holders:
        holder.then = fail
        holder.set_deadline(clock.seconds())

    run(wheel, clock, 2)

    assert [1, 1, 1] == [len(holder.passed) for holder in holders]
    assert 0 == len(wheel)
    assert [logging.ERROR] * 3 == [record.levelno for record in caplog.records]


class WheelWalk(RuleBasedStateMachine):
    """Any order of scheduling, moving, removing and waiting keeps the laws."""

    holders = Bundle("holders")

    @initialize(phase=st.floats(0, 1))
    def begin(self, phase: float) -> None:
        """Start a clock somewhere in a second."""
        self.clock = Clock()
        self.clock.rightNow = 5000 + phase
        self.wheel = DeadlineWheel(self.clock.seconds)
        self.all: list[Holder] = []
        self.removed: list[tuple[Holder, int]] = []

    @rule(target=holders, wait=st.floats(0, 9))
    def add(self, wait: float) -> Holder:
        """Schedule a new holder."""
        holder = Holder(self.wheel)
        self.all.append(holder)
        holder.set_deadline(self.clock.seconds() + wait)
        return holder

    @rule(holder=holders, wait=st.floats(0, 9) | st.just(inf))
    def move(self, holder: Holder, wait: float) -> None:
        """Move a deadline to an earlier or a later instant, or to never."""
        holder.set_deadline(self.clock.seconds() + wait)

    @rule(holder=holders, wait=st.floats(0, 3))
    def schedule_again_when_told(self, holder: Holder, wait: float) -> None:
        """Let a holder wait anew whenever it is told."""
        holder.then = lambda: holder.set_deadline(self.clock.seconds() + wait)

    @rule(holder=holders, other=holders)
    def remove_another_when_told(self, holder: Holder, other: Holder) -> None:
        """Let a holder end another when it is told."""

        def remove() -> None:
            self.wheel.remove(other)
            other.deadline = inf

        holder.then = remove

    @rule(holder=consumes(holders))
    def remove(self, holder: Holder) -> None:
        """Remove a holder for good."""
        self.wheel.remove(holder)
        self.all.remove(holder)

        assert inf == holder.covered_from

        told = len(holder.passed)
        self.removed.append((holder, told))

    @rule(seconds=st.floats(0.9, 1.1) | st.floats(0, 7))
    def tick(self, seconds: float) -> None:
        """Let time go by, then tick."""
        told = {holder: len(holder.passed) for holder in self.all}
        self.clock.advance(seconds)
        self.wheel.tick()
        for holder in self.all:
            for deadline, now in holder.passed[told[holder] :]:
                assert deadline <= now, "too early"
            # Whatever was due a second ago or more has been told.
            assert holder.deadline > self.clock.seconds() - 1, "too late"
        for holder, before in self.removed:
            assert before == len(holder.passed), "told although it was removed"

    @invariant()
    def wheel_holds_each_that_waits(self) -> None:
        """Each holder with a deadline stands on the wheel, once."""
        on_wheel = [holder for holder in self.all if holder.covered_from != inf]
        assert len(on_wheel) == len(self.wheel)
        for holder in self.all:
            assert holder.deadline == inf or holder.covered_from != inf


WheelWalk.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
TestWheelWalk = WheelWalk.TestCase


@given(
    phase=st.floats(0, 1),
    waits=st.lists(st.floats(0, 30), max_size=20),
    jitters=st.lists(st.floats(0, 0.05), min_size=35, max_size=35),
)
def test_deadlines_are_never_early_and_hardly_late(
    phase: float, waits: list[float], jitters: list[float]
) -> None:
    """A timeout is kept to the second, whatever the phase and jitter of the ticks."""
    clock = Clock()
    clock.rightNow = 77 + phase
    wheel = DeadlineWheel(clock.seconds)
    holders = [Holder(wheel) for _ in waits]
    for holder, wait in zip(holders, waits, strict=True):
        holder.set_deadline(clock.seconds() + wait)
    start = clock.seconds()
    for number, jitter in enumerate(jitters, 1):
        clock.rightNow = start + number + jitter
        wheel.tick()

    for holder in holders:
        [(deadline, now)] = holder.passed
        assert deadline <= now < deadline + 2.1
