"""What the server logs during a test."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["RecordedLog", "recorded_log"]


class RecordedLog(logging.Handler):
    """
    Keeps the records of the server until the test has looked at them.

    Attributes:
        records: Those not looked at, of any level.
    """

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record (logging.Handler)."""
        self.records.append(record)

    def take(self, least: int = logging.WARNING) -> list[str]:
        """Return what was logged at this level or above, and forget all of it."""
        lines = [
            f"{record.levelname} {record.getMessage()}"
            for record in self.records
            if record.levelno >= least
        ]
        self.records.clear()
        return lines

    def take_errors(self) -> list[BaseException | None]:
        """Return the exceptions that were logged as errors, and forget all of it."""
        errors = [
            record.exc_info[1] if record.exc_info else None
            for record in self.records
            if record.levelno >= logging.ERROR
        ]
        self.records.clear()
        return errors


@contextmanager
def recorded_log() -> Iterator[RecordedLog]:
    """Record; at the end, fail for warnings and errors nobody has looked at."""
    logger = logging.getLogger("daphne_like")
    level, log = logger.level, RecordedLog()
    logger.setLevel(logging.DEBUG)
    logger.addHandler(log)
    try:
        yield log
    finally:
        logger.removeHandler(log)
        logger.setLevel(level)
    assert [] == log.take()
