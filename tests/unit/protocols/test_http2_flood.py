"""The budget of frames which cost the server and not the peer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daphne_like.errors import ConnectionFailed
from daphne_like.protocols.http2_flood import Budget
from daphne_like.protocols.http2_frames import ErrorCode


class Clock:
    """Tells what the test says."""

    now = 0.0

    def __call__(self) -> float:
        """Tell the instant."""
        return self.now


def test_too_much_at_once_ends_the_connection() -> None:
    """An attacker is told to calm down."""
    budget = Budget("resets", 10, 1.0, Clock())
    for _ in range(10):
        budget.spend()

    with pytest.raises(ConnectionFailed) as raised:
        budget.spend()

    assert ErrorCode.ENHANCE_YOUR_CALM == raised.value.code
    assert "resets" == raised.value.reason


def test_time_heals() -> None:
    """A connection that lives for days may make trouble every second."""
    clock = Clock()
    budget = Budget("resets", 10, 1.0, clock)
    for _ in range(1000):
        budget.spend()
        clock.now += 1


def test_honest_traffic_pays() -> None:
    """A client that gives credit for what it receives is never cut."""
    budget = Budget("frames", 10, 0.0, Clock())
    for _ in range(1000):
        budget.spend(2)
        budget.earn(2)


@given(st.lists(st.floats(0, 5), min_size=1, max_size=300))
def test_no_more_than_twice_the_size_and_the_rate(pauses: list[float]) -> None:
    """However cleverly it is spread, trouble has a bound that grows with time alone."""
    clock = Clock()
    budget = Budget("resets", 10, 2.0, clock)
    spent = 0
    try:
        for pause in pauses:
            clock.now += pause
            budget.spend()
            spent += 1
    except ConnectionFailed:
        pass

    assert spent <= 2 * 10 + 2.0 * clock.now
