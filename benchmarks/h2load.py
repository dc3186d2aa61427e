"""
``h2load`` of nghttp2: its command line, and the figures in what it leaves.

It prints no percentiles, but logs each request; times and the rate are taken from
there. The rate is what was answered between the first request and the last answer.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from benchmarks.browser import COOKIE, FIELDS, targets
from benchmarks.processes import HOST
from benchmarks.workloads import Workload

_TARGETS = 5000

_REQUESTS = re.compile(r"\nrequests: .* (\d+) failed, (\d+) errored, (\d+) timeout")
_TRAFFIC = re.compile(r"\ntraffic: .*? \((\d+)\) total")
_PROTOCOL = "\nApplication protocol: h2\n"


class H2Load:
    """One run of the program."""

    def __init__(self, workload: Workload, port: int, directory: Path) -> None:
        """
        Prepare a run.

        Args:
            workload: What is asked.
            port: Where the server listens.
            directory: For the files that the program reads and writes.
        """
        self._workload = workload
        scheme = "https" if workload.tls else "http"
        self._origin = f"{scheme}://{HOST}:{port}"
        self._directory = directory
        self._log = directory / "requests"

    def command(self, connections: int, seconds: int) -> list[str]:
        """Write the files which the program reads; return its command line."""
        return [
            "h2load",
            f"--clients={connections}",
            f"--max-concurrent-streams={self._workload.streams}",
            f"--duration={seconds}",
            f"--log-file={self._log}",
            # Who doesn't speak HTTP/2 gets no connection.
            "--npn-list=h2",
            *self._requests(),
        ]

    def _requests(self) -> list[str]:
        workload = self._workload
        if workload.browser:
            addresses = self._directory / "targets"
            addresses.write_text(
                "".join(f"{self._origin}{target}\n" for target in targets(_TARGETS))
            )
            fields = [*FIELDS, ("cookie", COOKIE)]
            return [
                f"--input-file={addresses}",
                *(f"--header={name}: {value}" for name, value in fields),
            ]
        if workload.body:
            body = self._directory / "body"
            body.write_bytes(workload.body)
            return [f"--data={body}", f"{self._origin}{workload.path}"]
        return [f"{self._origin}{workload.path}"]

    def figures(self, output: str) -> dict[str, Any]:
        """
        Return the figures of a run that has ended, as ``load.Load`` has them.

        Args:
            output: What it wrote to standard output.
        """
        # Columns: start in microseconds, status, microseconds to the end.
        starts, ends, latencies = [], [], []
        bad_statuses = 0
        for line in self._log.read_text().splitlines():
            start, status, latency = map(int, line.split("\t"))
            # Streams without an answer have -1; they are counted as errors.
            if status != -1:
                starts.append(start)
                ends.append(start + latency)
                latencies.append(latency)
                bad_statuses += status >= 300
        latencies.sort()
        counts, traffic = _REQUESTS.search(output), _TRAFFIC.search(output)
        failed, errored, timeout = map(int, counts.groups() if counts else (0, 0, 0))
        errors = {
            # The program counts bad statuses and the errored as failed.
            "failed": failed - errored - bad_statuses,
            "errored": errored,
            "timeout": timeout,
            "status": bad_statuses,
            "connect": int(not latencies),
            "protocol": int(self._workload.tls and _PROTOCOL not in output),
        }

        def at(share: float) -> float:
            if not latencies:
                return 0.0
            last = len(latencies) - 1
            return latencies[min(int(share * len(latencies)), last)] / 1e3

        return {
            "requests": len(latencies),
            "seconds": (max(ends) - min(starts)) / 1e6 if latencies else 1.0,
            "bytes": int(traffic[1]) if traffic else 0,
            "p50_ms": at(0.5),
            "p99_ms": at(0.99),
            "p999_ms": at(0.999),
            "max_ms": at(1.0),
            "errors": errors,
        }
