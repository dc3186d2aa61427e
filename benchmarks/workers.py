"""
``python -m benchmarks.workers``: several workers, and how they are replaced.

``load``: how soon all workers serve, what each takes of memory, how many requests a
processor's second is good for, and how evenly the load falls on them.
``reload``: SIGHUP again and again while clients of all kinds count each request that
fails, and again while ``wrk`` loads the server and counts its own errors.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from statistics import median

from benchmarks.applications import SMALL_BODY
from benchmarks.certificates import Certificate, make_certificate
from benchmarks.load import Load, apply_load
from benchmarks.measurements import FAILURES
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
from benchmarks.reload_client import DEFAULT_COUNTS
from benchmarks.reports import machine_and_versions, markdown_table
from benchmarks.servers import SERVERS, Server
from benchmarks.workers_application import BEGUN_DIRECTORY
from benchmarks.workloads import Workload

_BEGIN_TIMEOUT = 30.0
_RELOAD_TIMEOUT = 90.0
_POLL_INTERVAL = 0.01
_PAUSE_BETWEEN_RELOADS = 1.0

_APPLICATION = "benchmarks.workers_application:application"
_LOAD = Workload("workers", "GET, 13 bytes", _APPLICATION, "/", SMALL_BODY)
_RELOAD = Workload("reload", "reload", _APPLICATION, "/", SMALL_BODY, websockets="echo")


@dataclass(frozen=True, slots=True)
class LoadFigures:
    """Several workers under load, once."""

    server: str
    first_answer_seconds: float
    all_begun_seconds: float
    """From the start of the process until the last worker is in its lifespan."""

    pss_bytes: int
    """All processes, after the load, shared pages counted once."""

    worker_pss_bytes: float
    """The mean worker."""

    load: Load
    requests_per_cpu_second: float
    """Of all processes of the server."""

    busiest_share: float
    """The busiest worker's share of the processor time of all of them."""

    kind: str = "load"


@dataclass(frozen=True, slots=True)
class ReloadFigures:
    """Reloads under load, once."""

    server: str
    reload_seconds: list[float]
    """From each signal until all workers were new and the old ones gone."""

    unfinished: int
    """Reloads which were given up."""

    done: dict[str, int]
    """Requests that succeeded, by kind of client."""

    failures: dict[str, int]
    """Requests that failed, by kind of client and of failure."""

    closes: dict[str, int]
    """WebSockets the server closed, by code."""

    without_echo: int
    """Messages to WebSockets the server then closed."""

    by: str
    """``clients``, or ``wrk``."""

    kind: str = "reload"


@dataclass(frozen=True, slots=True)
class Failed:
    """A server that did not take part."""

    server: str
    reason: str
    kind: str = "failed"


Figures = LoadFigures | ReloadFigures | Failed


@dataclass(slots=True)
class Workers:
    """A running server with several workers."""

    process: ServerProcess
    count: int
    directory: Path

    def begun(self) -> dict[int, float]:
        """Return when each worker began, by process id, for those which are alive."""
        alive = self.process.cpu_seconds_by_process()
        return {
            int(path.name): float(path.read_text())
            for path in self.directory.glob("[0-9]*")
            if int(path.name) in alive
        }

    def wait_for_all(self) -> float:
        """Wait until all workers have begun; return the seconds from the start."""
        self._wait(lambda: len(self.begun()) >= self.count, _BEGIN_TIMEOUT)
        return max(self.begun().values()) - self.process.started

    def reload(self) -> float:
        """
        Have all workers replaced; return the seconds it took.

        Raises:
            ServerFailure: It did not come to its end.
        """
        old, start = self.begun().keys(), time.monotonic()

        def replaced() -> bool:
            now = self.begun().keys()
            return len(now) == self.count and not now & old

        self.process.ask_to_reload()
        self._wait(replaced, _RELOAD_TIMEOUT)
        return time.monotonic() - start

    def _wait(self, condition: Callable[[], bool], timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > deadline:
                raise ServerFailure(f"waited in vain: {self.process.last_words()}")
            time.sleep(_POLL_INTERVAL)


def main() -> None:
    """Measure, print tables, and write them and the JSON."""
    options = _options()
    end_on_terminate()
    figures: list[Figures] = []
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as directory:
        certificate = make_certificate(Path(directory))
        try:
            for measured in _measure_all(options, certificate):
                figures.append(measured)
                print(json.dumps(asdict(measured)), file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            print("interrupted; reporting what was measured", file=sys.stderr)
    if figures:
        _report(options, figures)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.workers",
        description="Compare servers with several workers, and their reloads.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    cpus = sorted(os.sched_getaffinity(0))
    names = [name for name, server in SERVERS.items() if server.workers]
    default = ["daphne-like", "uvicorn-httptools", "granian", "gunicorn"]
    kinds = ["load", "reload", "reload-wrk"]
    add = parser.add_argument
    add("--servers", nargs="+", choices=names, default=default, metavar="NAME")
    add("--measure", nargs="+", choices=kinds, default=kinds)
    add("--workers", type=int, default=4, help="of each server, two or more")
    add("--options", default="", help="further options of our server")
    add("--rounds", type=int, default=3, help="measurements of each, interleaved")
    add("--seconds", type=int, default=5, help="length of a load without reloads")
    add("--connections", type=int, default=64, help="of wrk")
    add("--reloads", type=int, default=3, help="in each round")
    add("--python", default=sys.executable, help="interpreter of our server")
    add("--python-of-peers", default=sys.executable, help="interpreter of the others")
    add("--server-cpus", type=int, nargs="+", default=cpus[:-1] or cpus)
    add("--client-cpu", type=int, default=cpus[-1], help="CPU of the load")
    add("--output", default="build/benchmarks", help="directory of the results")
    options = parser.parse_args()
    if options.workers < 2:
        parser.error("--workers must be two or more")
    return options


def _measure_all(
    options: argparse.Namespace, certificate: Certificate
) -> Iterator[Figures]:
    ways: dict[str, Callable[[Server, Workers, argparse.Namespace], Figures]]
    ways = {"load": _measure_load, "reload": _by_clients, "reload-wrk": _by_wrk}
    for kind in options.measure:
        for _ in range(options.rounds):
            for server in (SERVERS[name] for name in options.servers):
                if kind != "load" and not server.reloads:
                    continue
                workload = _LOAD if kind == "load" else _RELOAD
                try:
                    with _running(server, workload, options, certificate) as workers:
                        yield ways[kind](server, workers, options)
                except FAILURES as error:
                    yield Failed(server.name, f"{kind}: {error}")


@contextmanager
def _running(
    server: Server,
    workload: Workload,
    options: argparse.Namespace,
    certificate: Certificate,
) -> Iterator[Workers]:
    port = free_port()
    python = options.python if server.ours else options.python_of_peers
    count = options.workers
    command = server.command(python, HOST, port, workload, certificate, workers=count)
    if server.ours:
        command += options.options.split()
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as name:
        directory = Path(name)
        begun = directory / "begun"
        begun.mkdir()
        process = ServerProcess(
            command,
            port,
            options.server_cpus,
            directory,
            certificate.exchange(workload),
            variables={BEGUN_DIRECTORY: str(begun)},
        )
        with process:
            yield Workers(process, count, begun)


# -- Under load --------------------------------------------------------------------


def _measure_load(
    server: Server, workers: Workers, options: argparse.Namespace
) -> LoadFigures:
    process = workers.process
    first_answer = process.wait_for_answer("GET", "/", b"")
    all_begun = workers.wait_for_all()
    _wrk(workers, options, 1)
    before = process.cpu_seconds_by_process()
    load = _wrk(workers, options, options.seconds)
    after = process.cpu_seconds_by_process()
    used = {pid: seconds - before.get(pid, 0.0) for pid, seconds in after.items()}
    of_workers = [used[pid] for pid in workers.begun()]
    memory = process.pss_by_process()
    return LoadFigures(
        server=server.name,
        first_answer_seconds=first_answer,
        all_begun_seconds=all_begun,
        pss_bytes=sum(memory.values()),
        worker_pss_bytes=sum(memory[pid] for pid in workers.begun()) / workers.count,
        load=load,
        requests_per_cpu_second=load.requests / max(sum(used.values()), 0.01),
        busiest_share=max(of_workers) / max(sum(of_workers), 0.01),
    )


def _wrk(workers: Workers, options: argparse.Namespace, seconds: int) -> Load:
    port, cpu = workers.process.port, options.client_cpu
    return apply_load(_LOAD, port, cpu, options.connections, seconds)


# -- Reloads -----------------------------------------------------------------------


def _by_clients(
    server: Server, workers: Workers, options: argparse.Namespace
) -> ReloadFigures:
    """Reload while clients of our own load the server."""
    workers.process.wait_for_answer("GET", "/", b"")
    workers.wait_for_all()
    command = [sys.executable, "-m", "benchmarks.reload_client"]
    with (
        pinned_to(options.client_cpu),
        subprocess.Popen(
            [*command, "--port", str(workers.process.port)],
            cwd=REPOSITORY,
            env=clean_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as client,
    ):
        try:
            assert client.stdout is not None
            client.stdout.readline()
            seconds = _reload_again_and_again(workers, options.reloads)
            told, _ = client.communicate(timeout=_RELOAD_TIMEOUT)
        finally:
            client.kill()
    return ReloadFigures(
        server=server.name,
        reload_seconds=seconds,
        unfinished=options.reloads - len(seconds),
        by="clients",
        **json.loads(told),
    )


def _by_wrk(
    server: Server, workers: Workers, options: argparse.Namespace
) -> ReloadFigures:
    """Reload while wrk loads the server, which takes as long as the reloads do."""
    workers.process.wait_for_answer("GET", "/", b"")
    workers.wait_for_all()
    loads: list[Load] = []
    over = threading.Event()

    def load() -> None:
        # wrk takes a fixed time. Between two of its runs nothing is asked.
        while not over.is_set():
            loads.append(_wrk(workers, options, options.seconds))

    thread = threading.Thread(target=load)
    thread.start()
    try:
        seconds = _reload_again_and_again(workers, options.reloads)
    finally:
        over.set()
        thread.join()
    failures = sum((Counter(one.errors) for one in loads), Counter())
    return ReloadFigures(
        server=server.name,
        reload_seconds=seconds,
        unfinished=options.reloads - len(seconds),
        done={"wrk": sum(one.requests for one in loads)},
        failures={f"wrk: {kind}": count for kind, count in failures.items() if count},
        closes={},
        without_echo=0,
        by="wrk",
    )


def _reload_again_and_again(workers: Workers, reloads: int) -> list[float]:
    """Return how long each took, up to the first which came to no end."""
    seconds = []
    for _ in range(reloads):
        time.sleep(_PAUSE_BETWEEN_RELOADS)
        try:
            seconds.append(workers.reload())
        except ServerFailure as failure:
            print(f"reload: {failure}", file=sys.stderr)
            break
    time.sleep(_PAUSE_BETWEEN_RELOADS)
    return seconds


# -- Results -----------------------------------------------------------------------


def _report(options: argparse.Namespace, figures: Sequence[Figures]) -> None:
    text = "\n\n".join(filter(None, (_load_table(figures), _reload_table(figures))))
    text += "".join(
        f"\n\n* {one.server}: {one.reason}"
        for one in figures
        if isinstance(one, Failed)
    )
    print(text)
    directory = Path(options.output)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "workers.md").write_text(text + "\n")
    # Where Python is says something of the machine only.
    private = ("python", "python_of_peers", "output")
    conditions = {k: v for k, v in vars(options).items() if k not in private}
    document = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **machine_and_versions(options.python, options.python_of_peers),
        "conditions": {**conditions, "clients": DEFAULT_COUNTS},
        "measurements": [asdict(one) for one in figures],
    }
    (directory / "workers.json").write_text(json.dumps(document, indent=2) + "\n")
    print(f"results are in {directory}", file=sys.stderr)


def _load_table(figures: Sequence[Figures]) -> str:
    groups: dict[str, list[LoadFigures]] = {}
    for one in figures:
        if isinstance(one, LoadFigures):
            groups.setdefault(one.server, []).append(one)
    if not groups:
        return ""
    heads = ["server", "req/s", "req a CPU second", "busiest worker", "PSS MB a worker"]
    rows = [[*heads, "PSS MB in all", "first answer s", "all begun s", "errors"]]
    for name, group in groups.items():
        rows.append(
            [
                name,
                f"{median(one.load.requests / one.load.seconds for one in group):,.0f}",
                f"{median(one.requests_per_cpu_second for one in group):,.0f}",
                f"{median(one.busiest_share for one in group):.0%}",
                f"{median(one.worker_pss_bytes for one in group) / 2**20:.1f}",
                f"{median(one.pss_bytes for one in group) / 2**20:.1f}",
                f"{median(one.first_answer_seconds for one in group):.2f}",
                f"{median(one.all_begun_seconds for one in group):.2f}",
                f"{sum(sum(one.load.errors.values()) for one in group)}",
            ]
        )
    return markdown_table(rows)


def _reload_table(figures: Sequence[Figures]) -> str:
    groups: dict[tuple[str, str], list[ReloadFigures]] = {}
    for one in figures:
        if isinstance(one, ReloadFigures):
            groups.setdefault((one.by, one.server), []).append(one)
    if not groups:
        return ""
    heads = ["server", "load", "reloads", "seconds each", "requests", "failed"]
    rows = [[*heads, "messages", "WebSockets failed", "closed by code", "no echo yet"]]
    remarks = []
    for (by, server), group in groups.items():
        done = _total(one.done for one in group)
        failures = _total(one.failures for one in group)
        closes = _total(one.closes for one in group)
        of_websockets = sum(
            count for kind, count in failures.items() if kind.startswith("websocket")
        )
        messages = done.pop("websocket", 0)
        seconds = [each for one in group for each in one.reload_seconds]
        without_echo = sum(one.without_echo for one in group)
        rows.append(
            [
                server,
                by,
                f"{len(seconds)} of {len(seconds) + sum(o.unfinished for o in group)}",
                f"{median(seconds):.1f}" if seconds else "-",
                f"{done.total():,}",
                f"{failures.total() - of_websockets:,}",
                f"{messages:,}" if by == "clients" else "-",
                f"{of_websockets:,}" if by == "clients" else "-",
                ", ".join(f"{code}: {closes[code]:,}" for code in sorted(closes))
                or "-",
                f"{without_echo:,}" if by == "clients" else "-",
            ]
        )
        if failures:
            told = ", ".join(f"{kind} {n:,}" for kind, n in sorted(failures.items()))
            remarks.append(f"* {server}, {by}: {told}")
    return "\n".join([markdown_table(rows), "", *remarks])


def _total(counts: Iterable[dict[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return total


if __name__ == "__main__":
    main()
