"""
Load by ``wrk``, ``h2load``, or a client of our own, from a CPU of its own.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.h2load import H2Load
from benchmarks.processes import HOST, REPOSITORY, pinned_to

if TYPE_CHECKING:
    from benchmarks.workloads import Workload

_SETTLING_SECONDS = 2

_SCRIPT = Path(__file__).with_name("wrk.lua")


@dataclass(frozen=True, slots=True)
class Load:
    """What the load generator saw."""

    requests: int
    """Requests which were answered."""

    seconds: float
    bytes: int
    """All that was received, heads included."""

    p50_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float

    errors: dict[str, int]
    """Socket errors by kind, time-outs, and statuses of 400 and more (``status``)."""

    client_cpu_share: float
    """How busy the generator's CPU was; near 1 the generator is the limit."""


def apply_load(
    workload: Workload, port: int, cpu: int, connections: int, seconds: int
) -> Load:
    """Repeat the workload's request on keep-alive connections for ``seconds``."""
    if workload.http2 and not workload.new_parts:
        with tempfile.TemporaryDirectory(prefix="benchmarks-") as directory:
            h2load = H2Load(workload, port, Path(directory))
            output, busy = _run(h2load.command(connections, seconds), cpu, seconds)
            figures = h2load.figures(output)
    else:
        if workload.http2:
            command = _http2_command(workload, port, connections, seconds)
        elif workload.websockets:
            command = _websocket_command(workload, port, connections, seconds)
        else:
            command = _wrk_command(workload, port, connections, seconds)
        output, busy = _run(command, cpu, seconds)
        # wrk itself writes a report; the script's line comes last.
        figures = json.loads(output.splitlines()[-1])
    return Load(**{"client_cpu_share": busy / figures["seconds"], **figures})


def _run(command: list[str], cpu: int, seconds: int) -> tuple[str, float]:
    """Run a generator; return its output and its processor time."""
    before = _children_cpu_seconds()
    with pinned_to(cpu):
        run = subprocess.run(
            command,
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=True,
            timeout=seconds + 60,
        )
    return run.stdout, _children_cpu_seconds() - before


def _wrk_command(
    workload: Workload, port: int, connections: int, seconds: int
) -> list[str]:
    scheme = "https" if workload.tls else "http"
    return [
        "wrk",
        "--threads=1",
        f"--connections={connections}",
        f"--duration={seconds}s",
        "--timeout=10s",
        f"--script={_SCRIPT}",
        f"{scheme}://{HOST}:{port}{workload.path}",
        "--",
        *([str(len(workload.body))] if workload.body else []),
    ]


def _http2_command(
    workload: Workload, port: int, connections: int, seconds: int
) -> list[str]:
    return [
        *(sys.executable, "-m", "benchmarks.http2_load"),
        f"--port={port}",
        f"--connections={connections}",
        f"--streams={workload.streams}",
        f"--new-parts={workload.new_parts}",
        f"--seconds={seconds}",
    ]


def _websocket_command(
    workload: Workload, port: int, connections: int, seconds: int
) -> list[str]:
    return [
        *(sys.executable, "-m", "benchmarks.websocket_load"),
        f"--port={port}",
        f"--path={workload.path}",
        f"--mode={workload.websockets}",
        f"--connections={connections}",
        f"--seconds={seconds}",
        f"--size={workload.message_bytes}",
    ]


@contextmanager
def idle_websockets(workload: Workload, port: int, cpu: int) -> Iterator[int]:
    """Keep the workload's connections open; the value is how many came about."""
    command = _websocket_command(workload, port, workload.connections, 0)
    with (
        pinned_to(cpu),
        subprocess.Popen(
            command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as client,
    ):
        assert client.stdin is not None
        assert client.stdout is not None
        opened = json.loads(client.stdout.readline() or b"{}")
        # Whatever is done behind the handshakes gets its time.
        time.sleep(_SETTLING_SECONDS)
        yield opened.pop("opened", 0) - sum(opened.values())
        client.stdin.write(b"\n")


def _children_cpu_seconds() -> float:
    """Return the processor time of ended children; no server ends during a load."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
