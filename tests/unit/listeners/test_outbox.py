"""Tests of ``daphne_like.listeners.outbox``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, cast

import pytest
from event_loops import LOOPS, run_on
from hypothesis import given
from hypothesis import strategies as st

from daphne_like.listeners import outbox as module
from daphne_like.listeners.outbox import Outbox

MANY = module._MANY_WRITES
COUNT_AFTER = module._WRITES_BETWEEN_COUNTS
MOST_HELD = module._MOST_WRITES
MOST_BYTES = module._MOST_BYTES


class Written:
    """A transport; notes what is written."""

    def __init__(self, write: Callable[[bytes], object] | None = None) -> None:
        self.written: list[bytes] = []
        self.write: Callable[[bytes], None]
        self.write = self.written.append if write is None else cast("Any", write)
        self.aborted = False

    def abortConnection(self) -> None:
        """Note it."""
        self.aborted = True


class Turns:
    """A loop whose turns the test ends, and a clock which it sets."""

    def __init__(self) -> None:
        self.now = 100.0
        self.transport = Written()
        self.written = self.transport.written
        self.outbox = Outbox(cast("Any", self), lambda: self.now)
        self._soon: list[Callable[[], None]] = []

    def call_soon(self, call: Callable[[], None]) -> None:
        """Call it in the next turn."""
        self._soon.append(call)

    def end(self) -> None:
        """End the turn."""
        soon, self._soon = self._soon, []
        for call in soon:
            call()

    def write(self, data: bytes) -> None:
        """Write through the outbox."""
        self.outbox.write(self.transport, data)

    def busy(self, writes: int = MANY) -> None:
        """Have a turn of so many writes, which take no time."""
        for _ in range(writes):
            self.write(b"busy")
        self.end()

    def held(self, data: bytes = b"?") -> bool:
        """Write, and tell whether that is held back."""
        before = len(self.written)
        self.write(data)
        return len(self.written) == before


@pytest.fixture
def turns() -> Turns:
    """Return turns in which there is little to do."""
    return Turns()


@pytest.fixture
def busy_turns() -> Turns:
    """Return turns in which there is so much to do that writes are held back."""
    turns = Turns()
    for _ in range(COUNT_AFTER // MANY + 2):
        turns.busy()
    turns.written.clear()
    return turns


def test_nothing_waits_while_there_is_little_to_do(turns: Turns) -> None:
    """However long a server runs, who is alone gets its answers at once."""
    for _ in range(20):
        for _ in range(MANY - 1):
            assert not turns.held()
        turns.end()


def test_what_is_written_in_a_busy_turn_leaves_together(busy_turns: Turns) -> None:
    """Writes wait for the end of the turn, in their order."""
    for data in (b"a", b"b", b"c"):
        assert busy_turns.held(data)
    assert not busy_turns.written

    busy_turns.end()

    assert [b"a", b"b", b"c"] == busy_turns.written


def test_each_write_goes_its_own_way(busy_turns: Turns) -> None:
    """The writes which are held back are of many connections."""
    other = Written()
    busy_turns.write(b"a")
    busy_turns.outbox.write(other, b"b")
    busy_turns.end()

    assert [b"a"] == busy_turns.written
    assert [b"b"] == other.written


def test_it_goes_on_while_turns_are_busy(busy_turns: Turns) -> None:
    """No turn in between is spent on counting."""
    for _ in range(5):
        for _ in range(MANY):
            assert busy_turns.held()
        busy_turns.end()


def test_it_ends_with_a_turn_that_is_not_busy(busy_turns: Turns) -> None:
    """From then on writes go out at once, until turns are busy again."""
    busy_turns.busy(MANY - 1)

    assert not busy_turns.held()

    for _ in range(COUNT_AFTER // MANY + 2):
        busy_turns.busy()
    assert busy_turns.held()


def test_it_ends_when_nothing_comes_any_more(busy_turns: Turns) -> None:
    """The first one after the rush has its answer at once, and goes on to work."""
    busy_turns.now += 0.0039
    assert busy_turns.held()
    busy_turns.busy()

    busy_turns.now += 0.0041
    assert not busy_turns.held()


def test_nobody_waits_much_longer_than_a_millisecond(busy_turns: Turns) -> None:
    """Long turns are cut into pieces by the writes themselves."""
    assert busy_turns.held(b"a")
    busy_turns.now += 0.0009
    assert busy_turns.held(b"b")
    busy_turns.now += 0.0002
    busy_turns.write(b"c")
    assert [b"a", b"b"] == busy_turns.written

    busy_turns.now += 0.0009
    busy_turns.write(b"d")
    assert [b"a", b"b"] == busy_turns.written

    busy_turns.end()
    assert [b"a", b"b", b"c", b"d"] == busy_turns.written


@pytest.mark.parametrize("found_by", ["a write", "the end of the turn"])
def test_applications_that_block_pay_for_it(busy_turns: Turns, found_by: str) -> None:
    """
    What had to wait is written, and for ten times as long nothing has to wait.

    Without that each answer of a fast view could wait for one of a slow view.
    """
    for _ in range(MANY):
        busy_turns.write(b"a")
    busy_turns.now += 0.1
    if found_by == "a write":
        assert not busy_turns.held(b"b")
    else:
        busy_turns.end()
    assert [b"a"] * MANY == busy_turns.written[:MANY]

    for elapsed in (0.0, 0.5, 0.49):
        busy_turns.now += elapsed
        for _ in range(3 * COUNT_AFTER):
            assert not busy_turns.held()
        busy_turns.end()
        busy_turns.end()

    busy_turns.now += 0.02
    for _ in range(COUNT_AFTER // MANY + 2):
        busy_turns.busy()
    assert busy_turns.held()


def test_a_busy_turn_that_takes_its_time_is_no_block(busy_turns: Turns) -> None:
    """Applications that take a little each are as good as any."""
    for _ in range(2 * MANY):
        busy_turns.now += 0.0007
        busy_turns.write(b"a")
    busy_turns.end()

    assert busy_turns.held()


def test_little_is_held(busy_turns: Turns) -> None:
    """Who writes without a pause fills the transport's buffer, not this one."""
    most = 0
    for count in range(1, 10 * MOST_HELD):
        busy_turns.write(b"a")
        most = max(most, count - len(busy_turns.written))

    assert MOST_HELD >= most > MOST_HELD / 2


def test_large_writes_keep_their_place(busy_turns: Turns) -> None:
    """They are not worth holding back, but neither must they overtake."""
    small, large = b"a", b"b" * (MOST_BYTES + 1)
    assert busy_turns.held(small)
    assert not busy_turns.held(large)
    assert busy_turns.held(small)
    assert busy_turns.held(large[:-1])
    busy_turns.end()

    assert [small, large, small, large[:-1]] == busy_turns.written


def test_flush_writes_all(busy_turns: Turns) -> None:
    """Who is about to close has his answers written before."""
    busy_turns.write(b"a")
    busy_turns.outbox.flush()
    assert [b"a"] == busy_turns.written

    busy_turns.outbox.flush()
    busy_turns.end()
    assert [b"a"] == busy_turns.written


def test_bursts_after_pauses_are_seen(busy_turns: Turns) -> None:
    """A turn that begins after a pause tells as well whether there is much to do."""
    busy_turns.now += 1
    busy_turns.busy(2 * COUNT_AFTER)
    assert busy_turns.held()
    busy_turns.busy()
    busy_turns.end()
    assert busy_turns.held()


def test_a_write_may_flush(busy_turns: Turns) -> None:
    """A transport that is full has its protocol close others, say."""

    def write(data: bytes) -> None:
        busy_turns.written.append(data)
        busy_turns.outbox.flush()

    for data in (b"a", b"b", b"c"):
        busy_turns.outbox.write(Written(write), data)
    busy_turns.end()

    assert not busy_turns.outbox.flushing
    assert [b"a", b"b", b"c"] == busy_turns.written


def test_one_that_fails_is_nobody_elses_matter(
    busy_turns: Turns, caplog: pytest.LogCaptureFixture
) -> None:
    """It is closed, so that nothing follows the hole; the others get their answers."""

    def fail(data: bytes) -> None:
        raise RuntimeError("the transport is closed")

    failing = Written(fail)
    busy_turns.write(b"a")
    busy_turns.outbox.write(failing, b"b")
    busy_turns.write(b"c")
    with caplog.at_level(logging.ERROR):
        busy_turns.end()

    assert [b"a", b"c"] == busy_turns.written
    assert failing.aborted
    assert ["An answer could not be written"] == caplog.messages


@given(
    st.lists(
        st.one_of(
            st.tuples(st.integers(0, 3), st.sampled_from([1, 1, 1, MOST_BYTES + 1])),
            st.sampled_from(["turn", "turn", "flush", "work", "block"]),
            st.tuples(st.just("burst"), st.integers(1, 100)),
        ),
        max_size=60,
    )
)
def test_order_is_kept_and_all_arrives(steps: list[Any]) -> None:
    """Whatever comes when, each connection gets its bytes in their order."""
    turns = Turns()
    sent: dict[int, list[bytes]] = {name: [] for name in range(4)}
    transports = [Written() for _ in range(4)]
    got = {name: transport.written for name, transport in enumerate(transports)}

    def write(name: int, size: int) -> None:
        data = b"%d" % len(sent[name]) * size
        sent[name].append(data)
        turns.outbox.write(transports[name], data)

    for step in steps:
        if step == "turn":
            turns.end()
        elif step == "flush":
            turns.outbox.flush()
            assert sent == got
        elif step in ("work", "block"):
            turns.now += 0.0004 if step == "work" else 0.02
        elif step[0] == "burst":
            for count in range(step[1]):
                write(count % 4, 1)
        else:
            write(*step)
        held = sum(len(sent[name]) - len(got[name]) for name in sent)
        assert held <= MOST_HELD
    turns.end()
    turns.end()

    assert sent == got


@pytest.mark.parametrize("kind", LOOPS)
def test_on_a_loop(kind: str) -> None:
    """Turns of real loops are what they are taken for."""

    async def scenario() -> None:
        now = 0.0
        outbox = Outbox(asyncio.get_running_loop(), lambda: now)
        transport = Written()
        written = transport.written
        numbers = [b"%d" % number for number in range(MANY)]

        def turn() -> None:
            for number in numbers:
                outbox.write(transport, number)

        late: list[int] = []
        for _ in range(20):
            written.clear()
            turn()
            late.append(MANY - len(written))
            await asyncio.sleep(0)
            assert numbers == written
        assert late[0] == 0
        assert late[-1] == MANY

    run_on(kind, scenario())
