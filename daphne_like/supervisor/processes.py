"""
A worker's process, as its supervisor sees it: to be told, asked, looked into, ended.

Tests: ``tests/integration/test_workers.py``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any

from daphne_like.supervisor.worker import INSPECTION_SIGNAL

if TYPE_CHECKING:
    import subprocess

    from daphne_like.supervisor.channel import Channel, Message
    from daphne_like.supervisor.orders import WorkerRecord

__all__ = ["WorkerProcess", "describe_end"]

_logger = logging.getLogger("daphne_like.supervisor")

# How long a stuck worker gets to write down what it is doing.
_INSPECTION_TIMEOUT = 1.0

# Of that, as much as a log line can take.
_LONGEST_INSPECTION_BYTES = 64 * 1024

# How long it gets to answer what an operator wants to know.
_ANSWER_TIMEOUT = 5.0


class WorkerProcess:
    """
    One of them; it exists until it was waited for, so that its number is its own.

    Args:
        loop: The supervisor's.
        record: What the workforce knows of it.
        pid: Its process id.
        channel: Leads to it.
        inspection: Descriptor of a file where it writes down what it is doing.
        child: The same process, where it wasn't forked.

    Attributes:
        record: As above.
        pid: As above.
        load: What it said of itself at its last beat.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        record: WorkerRecord,
        pid: int,
        channel: Channel,
        inspection: int,
        *,
        child: subprocess.Popen[bytes] | None = None,
    ) -> None:
        self._loop = loop
        self.record = record
        self.pid = pid
        self._channel = channel
        self._inspection = inspection
        self._child = child
        self.load: Message = {}
        self._has_ended = False
        self._can_be_inspected = False
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._next_question = 1

    @property
    def name(self) -> str:
        """Its name in log lines."""
        return f"Worker {self.record.number} (process {self.pid})"

    def listen(self, heard: Callable[[WorkerProcess, Message], None]) -> None:
        """Hand on what it says, but for answers."""

        def received(message: Message) -> None:
            kind = message.get("message")
            if kind == "answer":
                waiting = self._answers.pop(message["id"], None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(message["answer"])
                return
            if kind == "begins":
                self._can_be_inspected = True
            elif kind == "beat":
                self.load = message
            heard(self, message)

        # That the channel is at its end says nothing: the process may go on, as a fork
        # of it may keep the channel.
        self._channel.attach(self._loop, received, lambda: None)

    def hear_the_rest(self) -> None:
        """Take in what it has said, and nobody has read yet."""
        self._channel.read_rest()

    def ended(self, status: int) -> None:
        """Forget what led to it; its process was waited for."""
        self._has_ended = True
        if self._child is not None:
            self._child.returncode = status
        self._channel.close()
        os.close(self._inspection)
        for waiting in self._answers.values():
            if not waiting.done():
                waiting.set_result(None)

    def abandon(self) -> None:
        """Close what a fork of the supervisor has of it."""
        self._channel.close()
        os.close(self._inspection)

    # -- Orders ------------------------------------------------------------------

    def tell(self, command: str, **details: object) -> bool:
        """Let it do something; tell whether it was there to hear."""
        return self._channel.send(do=command, **details)

    def stop(self, *, restarting: bool) -> None:
        """Let it drain and end."""
        _logger.debug("%s: is asked to end", self.name)
        serves = self.record.ready_since < inf
        # Before it serves there is nobody who could be lost, and it may not listen.
        if not serves or not self.tell("drain", restarting=restarting):
            self._signal(signal.SIGTERM)

    def kill(self, reason: str, *, inspect: bool) -> None:
        """
        End it at once, and say so.

        Args:
            reason: Why.
            inspect: Whether it has first to write down what it is doing: it should
                have ended by itself, or shown that it lives.
        """
        if inspect and self._can_be_inspected:
            self.inspect(lambda found: self._kill_inspected(reason, found))
            return
        level = logging.CRITICAL if inspect else logging.INFO
        _logger.log(level, "%s is killed: %s", self.name, reason)
        self._signal(signal.SIGKILL)

    def _kill_inspected(self, reason: str, found: str) -> None:
        _logger.critical("%s is killed: %s\n%s", self.name, reason, found)
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if not self._has_ended:
            os.kill(self.pid, number)

    # -- Questions ---------------------------------------------------------------

    async def ask(self, command: str) -> Any:
        """Return what it answers; None when it doesn't."""
        number, self._next_question = self._next_question, self._next_question + 1
        self._answers[number] = waiting = self._loop.create_future()
        try:
            if not self.tell(command, id=number):
                return None
            return await asyncio.wait_for(waiting, _ANSWER_TIMEOUT)
        except asyncio.TimeoutError:
            return None
        finally:
            self._answers.pop(number, None)

    def inspect(self, found: Callable[[str], None]) -> None:
        """
        Find out what its threads and tasks are doing, even if it is stuck.

        Args:
            found: Called with that a second later.
        """
        if not self._can_be_inspected or self._has_ended:
            return
        assert INSPECTION_SIGNAL is not None
        os.ftruncate(self._inspection, 0)
        # Which is where it writes: it shares the position.
        os.lseek(self._inspection, 0, os.SEEK_SET)
        self._signal(INSPECTION_SIGNAL)
        self._loop.call_later(
            _INSPECTION_TIMEOUT, lambda: found(self._read_inspection())
        )

    def _read_inspection(self) -> str:
        if self._has_ended:
            return "It has ended meanwhile."
        text = os.pread(self._inspection, _LONGEST_INSPECTION_BYTES, 0)
        return text.decode("utf-8", "replace").strip() or "It tells nothing."


def describe_end(status: int) -> str:
    """Say how a process ended; a negative status is the number of a signal."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"
