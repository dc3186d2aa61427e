"""
A server in its own session, pinned to CPUs, and what ``/proc`` tells about it.

Everything a server starts stays in its session, so a reading covers its workers, and
stopping reaches them all. Only the loopback address is used.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from benchmarks.exchange import Exchange

if TYPE_CHECKING:
    from typing_extensions import Self

HOST = "127.0.0.1"
REPOSITORY = Path(__file__).resolve().parent.parent

_START_TIMEOUT = 30.0
_STOP_TIMEOUT = 5.0
_POLL_INTERVAL = 0.002
_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


class ServerFailure(Exception):
    """A server did not start, died, or gave a wrong answer."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of a session, in bytes."""

    rss: int
    """Resident set of the process that serves: the one that used the most CPU."""

    pss: int
    """All processes together, shared pages counted once."""


class ServerProcess:
    """A running server; a context manager which starts and stops it."""

    def __init__(
        self,
        command: list[str],
        port: int,
        cpus: Sequence[int],
        directory: Path,
        exchange: Exchange,
        *,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        """
        Prepare to start ``command``.

        Args:
            command: Program and arguments.
            port: The port it is told to listen at.
            cpus: The CPUs it may use.
            directory: Where its standard output and error are written.
            exchange: How requests to it are made.
            variables: What its environment has beside the usual ones.
        """
        assert ipaddress.ip_address(HOST).is_loopback
        self.port = port
        self.output = directory / "output"
        self._errors = directory / "errors"
        self._command = command
        self._cpus = cpus
        self._exchange = exchange
        self._variables = dict(variables or {})

    def __enter__(self) -> Self:
        """Start the server, without waiting for it."""
        with (
            self.output.open("wb") as output,
            self._errors.open("wb") as errors,
            pinned_to(*self._cpus),
        ):
            self.started = time.monotonic()
            self._process = subprocess.Popen(
                self._command,
                cwd=REPOSITORY,
                env={**clean_environment(), **self._variables},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                start_new_session=True,
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the server: first kindly, so that it writes its log, then by force."""
        try:
            self._process.terminate()
            self._process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            pass
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def wait_for_answer(self, method: str, path: str, body: bytes) -> float:
        """
        Ask until the server answers 200; return the seconds since it was started.

        Raises:
            ServerFailure: It ended, or gave no such answer in time.
        """
        while time.monotonic() - self.started < _START_TIMEOUT:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.answer(method, path, body)[0] == 200:
                    return time.monotonic() - self.started
            if self._process.poll() is not None:
                raise ServerFailure(f"ended at its start: {self.last_words()}")
            time.sleep(_POLL_INTERVAL)
        raise ServerFailure(f"did not answer 200 in time: {self.last_words()}")

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        """Return status and body of the answer to one request on a new connection."""
        return self._exchange.answer((HOST, self.port), method, path, body)

    def last_words(self) -> str:
        """Return the last line the server wrote to standard error or output."""
        for path in (self._errors, self.output):
            lines = path.read_text(errors="replace").strip().splitlines()
            if lines:
                return lines[-1]
        return f"no word, exit status {self._process.poll()}"

    def cpu_seconds(self) -> float:
        """Return the processor time of all its processes, ended children included."""
        return sum(self.cpu_seconds_by_process().values())

    def memory(self) -> Memory:
        """Return what the server's processes hold now."""
        seconds = self.cpu_seconds_by_process()
        readings = {pid: _memory_of(pid) for pid in seconds}
        serving = max(seconds, key=lambda pid: seconds[pid])
        return Memory(
            rss=readings[serving].rss,
            pss=sum(reading.pss for reading in readings.values()),
        )

    def open_files(self) -> int:
        """Return how many file descriptors its processes hold."""
        return sum(
            len(list(Path(f"/proc/{pid}/fd").iterdir()))
            for pid in self.cpu_seconds_by_process()
        )

    def ask_to_reload(self) -> None:
        """Send SIGHUP to the process that was started."""
        self._process.send_signal(signal.SIGHUP)

    def pss_by_process(self) -> dict[int, int]:
        """Return what each process holds, shared pages divided, in bytes."""
        return {pid: _memory_of(pid).pss for pid in self.cpu_seconds_by_process()}

    def cpu_seconds_by_process(self) -> dict[int, float]:
        """Return processor time by process id, for each live process of the session."""
        seconds = {}
        for directory in Path("/proc").glob("[0-9]*"):
            try:
                stat = (directory / "stat").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            # proc(5): the command, the only field with spaces, is in parentheses;
            # after it come state, parent, group, session …, and as 12th to 15th
            # utime, stime, cutime, cstime.
            fields = stat[stat.rindex(b")") + 2 :].split()
            if int(fields[3]) == self._process.pid and fields[0] != b"Z":
                seconds[int(directory.name)] = (
                    sum(map(int, fields[11:15])) / _CLOCK_TICKS
                )
        if not seconds:
            raise ServerFailure(f"died: {self.last_words()}")
        return seconds


def _memory_of(pid: int) -> Memory:
    """
    Return resident and proportional set of one process, from its ``smaps_rollup``.
    """
    kilobytes = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        name, value = line.split(":")
        kilobytes[name] = int(value.split()[0])
    return Memory(rss=kilobytes["Rss"] * 1024, pss=kilobytes["Pss"] * 1024)


@contextlib.contextmanager
def pinned_to(*cpus: int) -> Iterator[None]:
    """Give what is started inside these CPUs only, from its first instruction on."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def clean_environment() -> dict[str, str]:
    """Return an environment in which no variable changes a server's settings."""
    kept = ("PATH", "HOME", "LANG", "TMPDIR")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    environment["PYTHONPATH"] = str(REPOSITORY)
    return environment


def free_port() -> int:
    """Return a port nobody listens at now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def end_on_terminate() -> None:
    """Let SIGTERM end the program as Control-C does, so that servers are stopped."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
