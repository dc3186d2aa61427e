"""
``python -m benchmarks.soak``: does a server's memory stay flat?

A server goes through these phases: keep-alive requests, a connection per request,
uploads given up in the middle, WebSockets, and idle connections while it still answers.
With HTTP/2, in cleartext and over TLS, a server of its own goes through many requests
on one connection, and a connection per request. Memory and file descriptors are read
before and after each phase, and at every tenth of it. The first requests warm a server
up, so that caches and arenas aren't taken for a leak.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.applications import SMALL_BODY
from benchmarks.certificates import Certificate, make_certificate
from benchmarks.processes import (
    HOST,
    REPOSITORY,
    ServerFailure,
    ServerProcess,
    clean_environment,
    end_on_terminate,
    free_port,
    pinned_to,
)
from benchmarks.servers import SERVERS
from benchmarks.workloads import WORKLOADS, Workload

_SETTLE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Sample:
    """What the server held at one moment."""

    moment: str
    rss_bytes: int
    pss_bytes: int
    open_files: int


@dataclass(slots=True)
class Phase:
    """One phase: its samples from before to after, and what the client reported."""

    name: str
    samples: list[Sample] = field(default_factory=list)
    result: dict[str, Any] = field(default_factory=dict)
    tasks: int = 0
    """How many the server had behind it, with the one that told."""


class Soak:
    """A running server under the phases of the soak."""

    def __init__(self, server: ServerProcess, options: argparse.Namespace) -> None:
        self._server = server
        self._options = options

    def run(self, phase: str, total: int) -> Phase:
        """
        Run one phase to its end.

        Raises:
            ServerFailure: The client failed or took too long, or the server is
                gone or answers wrongly.
        """
        record = Phase(phase, [self._sample("before")])
        for event in self._client_events(phase, total):
            record.result = event
            moment = f"{event['open']} open" if len(event) == 1 else f"{event['done']}"
            record.samples.append(self._sample(moment))
        time.sleep(_SETTLE_SECONDS)
        record.samples.append(self._sample("after"))
        if self._server.answer("GET", "/", b"") != (200, SMALL_BODY):
            raise ServerFailure(f"wrong answer after {phase}")
        record.tasks = int(self._server.answer("GET", "/tasks", b"")[1])
        return record

    def _client_events(self, phase: str, total: int) -> Iterator[dict[str, Any]]:
        """
        Start the client's process and yield what it tells; the last is its result.
        """
        command = [sys.executable, "-m", "benchmarks.soak_client", phase]
        command += ["--count", str(total), "--port", str(self._server.port)]
        command += ["--timeout", str(self._options.timeout)]
        with pinned_to(self._options.client_cpu):
            client = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env=clean_environment(),
                stdout=subprocess.PIPE,
                text=True,
            )
        try:
            assert client.stdout is not None
            yield from map(json.loads, client.stdout)
            if client.wait() != 0:
                raise ServerFailure(f"{phase}: client ended with {client.returncode}")
        finally:
            client.kill()
            client.wait()

    def _sample(self, moment: str) -> Sample:
        memory = self._server.memory()
        return Sample(moment, memory.rss, memory.pss, self._server.open_files())


def main() -> None:
    """Run the phases against one server, print a table and write JSON."""
    options = _options()
    end_on_terminate()
    _raise_file_limit(options.idle)
    phases: list[Phase] = []
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        directory = Path(name)
        certificate = make_certificate(directory)
        for course in _courses(options):
            if SERVERS[options.server].serves(course.workload):
                _run_course(course, options, certificate, directory, phases)
    _write_json(Path(options.output), options, phases)


def _run_course(
    course: Course,
    options: argparse.Namespace,
    certificate: Certificate,
    directory: Path,
    phases: list[Phase],
) -> None:
    """Start the server, warm it up, and run the phases up to the first that fails."""
    plan = [(name, total) for name, total in course.plan if total]
    if not plan:
        return
    server, workload = SERVERS[options.server], course.workload
    python = options.python if server.ours else options.python_of_peers
    port = free_port()
    command = server.command(python, HOST, port, workload, certificate)
    exchange = certificate.exchange(workload)
    with ServerProcess(
        command, port, [options.server_cpu], directory, exchange
    ) as process:
        process.wait_for_answer("GET", "/", b"")
        soak = Soak(process, options)
        try:
            soak.run(course.warm_up, options.warm_up)
            for name, total in plan:
                phases.append(soak.run(name, total))
                print(_report(phases[-1]), flush=True)
        except ServerFailure as failure:
            print(f"failed: {failure}; {process.last_words()}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.soak",
        description="Show whether a server's memory stays flat.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    cpus = sorted(os.sched_getaffinity(0))
    names = [name for name, server in SERVERS.items() if not server.raw_only]
    add = parser.add_argument
    add("--server", choices=names, default="daphne-like")
    add(
        "--application",
        default=WORKLOADS["ws-64"].application,
        help="benchmarks.channels_application:application for one of Channels",
    )
    add("--requests", type=int, default=1_000_000, help="on keep-alive connections")
    add("--connections", type=int, default=100_000, help="with one request each")
    add("--uploads", type=int, default=10_000, help="given up in the middle")
    add(
        "--websockets",
        type=int,
        default=100_000,
        help="ended at each stage of their life in turn",
    )
    add(
        "--idle", type=int, default=10_000, help="idle connections; all counts: 0 skips"
    )
    add(
        "--http2-requests",
        type=int,
        default=1_000_000,
        help="on one connection of HTTP/2, in cleartext and over TLS",
    )
    add(
        "--http2-connections",
        type=int,
        default=20_000,
        help="with one request each, in cleartext and over TLS",
    )
    add("--warm-up", type=int, default=20_000, help="requests before the first sample")
    add("--timeout", type=int, default=600, help="most seconds a phase may take")
    add("--python", default=sys.executable, help="interpreter of our server")
    add("--python-of-peers", default=sys.executable, help="interpreter of the others")
    add("--server-cpu", type=int, default=cpus[0], help="CPU of the server")
    add("--client-cpu", type=int, default=cpus[-1], help="CPU of the client")
    add("--output", default="build/benchmarks", help="directory of the results")
    return parser.parse_args()


@dataclass(frozen=True, slots=True)
class Course:
    """What one server, started anew, goes through."""

    workload: Workload
    """How it is started and reached."""

    warm_up: str
    """The phase that warms it up."""

    plan: tuple[tuple[str, int], ...]
    """The phases with how many each does."""


def _courses(options: argparse.Namespace) -> list[Course]:
    """
    Return all that is to be done.

    Many connections at once leave the allocator with more memory than before, which
    it keeps for the next time: only a second time shows whether anything leaks.
    """
    http1 = replace(WORKLOADS["ws-64"], application=options.application)
    cleartext = replace(http1, streams=1)
    tls = replace(cleartext, tls=True)
    requests, connections = options.http2_requests, options.http2_connections
    return [
        Course(
            http1,
            "keep-alive",
            (
                ("keep-alive", options.requests),
                ("connections", options.connections),
                ("aborted-uploads", options.uploads),
                ("websockets", options.websockets),
                ("idle", options.idle),
                ("idle", options.idle),
            ),
        ),
        Course(
            cleartext,
            "h2c-requests",
            (("h2c-requests", requests), ("h2c-connections", connections)),
        ),
        Course(
            tls,
            "h2-requests",
            (
                ("h2-requests", requests),
                ("h2-connections", connections),
                ("h2-connections", connections),
            ),
        ),
    ]


def _raise_file_limit(idle: int) -> None:
    """
    Allow server and client, which inherit the limit, one descriptor per connection.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < idle + 200:
        sys.exit(f"only {hard} open files are allowed (ulimit -n): use a lower --idle")


def _report(phase: Phase) -> str:
    """Return the phase as lines of text."""
    first, last = phase.samples[0], phase.samples[-1]
    growth = last.rss_bytes - first.rss_bytes
    figures = ", ".join(
        f"{name.replace('_', ' ')} {value:,.6g}" for name, value in phase.result.items()
    )
    lines = [f"{phase.name}: {figures}"]
    lines += [
        f"  {sample.moment:>12}  RSS {_megabytes(sample.rss_bytes):8.2f} MB"
        f"  {sample.open_files:6} open files"
        for sample in phase.samples
    ]
    lines.append(
        f"  RSS grew by {_megabytes(growth):+.2f} MB; {phase.tasks} tasks left"
    )
    return "\n".join(lines)


def _megabytes(size: int) -> float:
    return size / 2**20


def _write_json(
    directory: Path, options: argparse.Namespace, phases: list[Phase]
) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"soak-{options.server}.json"
    # Where Python is says something of the machine only.
    private = ("python", "python_of_peers", "output")
    told = {name: value for name, value in vars(options).items() if name not in private}
    document = {"options": told, "phases": [asdict(phase) for phase in phases]}
    path.write_text(json.dumps(document, indent=2) + "\n")
    print(f"results are in {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
