"""
One measurement: a server is started, checked, loaded, read and stopped.
"""

from __future__ import annotations

import http.client
import subprocess
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.certificates import Certificate
from benchmarks.load import Load, apply_load, idle_websockets
from benchmarks.processes import (
    HOST,
    REPOSITORY,
    ServerFailure,
    ServerProcess,
    clean_environment,
    free_port,
    pinned_to,
)

if TYPE_CHECKING:
    from benchmarks.servers import Server
    from benchmarks.workloads import Workload


# What a bad server makes of a measurement; wrk ends with an error if it can't connect.
FAILURES = (
    ServerFailure,
    OSError,
    http.client.HTTPException,
    subprocess.SubprocessError,
)


@dataclass(frozen=True, slots=True)
class Conditions:
    """What is the same for every measurement of a run."""

    python: str
    """Interpreter of our server."""

    python_of_peers: str
    certificate: Certificate
    server_cpu: int
    client_cpu: int
    connections: int
    seconds: int
    warm_up_seconds: int

    def interpreter(self, server: Server) -> str:
        """Return the Python which runs ``server``."""
        return self.python if server.ours else self.python_of_peers


@dataclass(frozen=True, slots=True)
class Measurement:
    """One server under one workload, once."""

    server: str
    workload: str
    startup_seconds: float | None = None
    """From the start of the process to the first complete answer 200."""

    load: Load | None = None
    cpu_us_per_request: float | None = None
    """Processor time of the server, its children included, in microseconds."""

    application_us: float | None = None
    """How much of it the application takes when called without any server."""

    server_cpu_share: float | None = None
    """How busy the server was; far below 1 it waited, or others had its CPU."""

    rss_bytes: int | None = None
    """After the load, the process that serves; see ``processes.Memory``."""

    pss_bytes: int | None = None
    connection_bytes: float | None = None
    """What one idle connection adds to that."""

    failures: tuple[str, ...] = ()
    """What makes the figures worthless; empty after a good run."""


def measure(server: Server, workload: Workload, conditions: Conditions) -> Measurement:
    """Measure one server; a server that fails gives a measurement that says so."""
    port = free_port()
    python, certificate = conditions.interpreter(server), conditions.certificate
    command = server.command(python, HOST, port, workload, certificate)
    try:
        with tempfile.TemporaryDirectory(prefix="benchmarks-") as directory:
            process = ServerProcess(
                command,
                port,
                [conditions.server_cpu],
                Path(directory),
                certificate.exchange(workload),
            )
            with process:
                reading = _measure_running(process, server, workload, conditions)
            return _with_log_checked(reading, workload, process.output)
    except FAILURES as error:
        return Measurement(server.name, workload.name, failures=(str(error),))


def _measure_running(
    process: ServerProcess, server: Server, workload: Workload, conditions: Conditions
) -> Measurement:
    startup = process.wait_for_answer(workload.method, workload.path, workload.body)
    _check_answer(process, workload)
    if workload.websockets == "idle":
        return _measure_idle_websockets(process, server, workload, conditions)
    load = cpu_us = cpu_share = None
    if workload.loaded:
        _apply_load(process, workload, conditions, conditions.warm_up_seconds)
        before = process.cpu_seconds()
        load = _apply_load(process, workload, conditions, conditions.seconds)
        used = process.cpu_seconds() - before
        cpu_us = used / max(load.requests, 1) * 1e6
        cpu_share = used / load.seconds
        _check_answer(process, workload)
    memory = process.memory()
    return Measurement(
        server=server.name,
        workload=workload.name,
        startup_seconds=startup,
        load=load,
        cpu_us_per_request=cpu_us,
        server_cpu_share=cpu_share,
        rss_bytes=memory.rss,
        pss_bytes=memory.pss,
        failures=_failures(load, workload) if load else (),
    )


def _measure_idle_websockets(
    process: ServerProcess, server: Server, workload: Workload, conditions: Conditions
) -> Measurement:
    before = process.memory()
    with idle_websockets(workload, process.port, conditions.client_cpu) as opened:
        after = process.memory()
    failures = () if opened == workload.connections else (f"{opened} were opened",)
    return Measurement(
        server=server.name,
        workload=workload.name,
        rss_bytes=after.rss,
        pss_bytes=after.pss,
        connection_bytes=(after.pss - before.pss) / workload.connections,
        failures=failures,
    )


def _apply_load(
    process: ServerProcess, workload: Workload, conditions: Conditions, seconds: int
) -> Load:
    return apply_load(
        workload,
        process.port,
        conditions.client_cpu,
        workload.connections or conditions.connections,
        seconds,
    )


def _check_answer(process: ServerProcess, workload: Workload) -> None:
    status, body = process.answer(workload.method, workload.path, workload.body)
    if status != 200 or body != workload.expected:
        raise ServerFailure(f"wrong answer: {status} {body[:100]!r}")


def _failures(load: Load, workload: Workload) -> tuple[str, ...]:
    """Return what was wrong under load."""
    failures = [
        f"{count} errors of kind {kind}" for kind, count in load.errors.items() if count
    ]
    if load.requests == 0:
        failures.append("no request was answered")
    # wrk doesn't look at bodies, but an answer without its whole body is too short.
    elif load.bytes < load.requests * len(workload.expected):
        failures.append(f"{load.bytes / load.requests:.0f} bytes an answer")
    return tuple(failures)


def _with_log_checked(
    reading: Measurement, workload: Workload, log: Path
) -> Measurement:
    """Return the measurement, with a failure if the access log misses requests."""
    if not workload.access_log or reading.load is None:
        return reading
    request = f"{workload.method} {workload.path}".encode()
    with log.open("rb") as lines:
        logged = sum(request in line for line in lines)
    if logged >= reading.load.requests:
        return reading
    missing = f"{logged} of {reading.load.requests} requests logged"
    return replace(reading, failures=(*reading.failures, missing))


def application_cost(
    workload: Workload, python: str, conditions: Conditions
) -> float | None:
    """Return the microseconds of one request in the application, without a server."""
    command = [python, "-m", "benchmarks.application_cost", workload.name]
    with pinned_to(conditions.server_cpu):
        run = subprocess.run(
            [*command, "--concurrency", str(conditions.connections)],
            cwd=REPOSITORY,
            env=clean_environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    return float(run.stdout) if run.returncode == 0 else None
