"""Time and the log, in the hands of the test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from recorded_log import RecordedLog, recorded_log
from stepped_loop import SteppedLoop


@pytest.fixture
def log() -> Iterator[RecordedLog]:
    """What the server logs; a warning that the test doesn't take is a failure."""
    with recorded_log() as log:
        yield log


@pytest.fixture
def loop(log: RecordedLog) -> Iterator[SteppedLoop]:
    """An event loop that runs when it is told to; no error may get lost in it."""
    loop = SteppedLoop()
    yield loop
    loop.finish()
