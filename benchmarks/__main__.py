"""
``python -m benchmarks``: compare daphne_like with its peers, side by side.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.certificates import Certificate, make_certificate
from benchmarks.measurements import Conditions, Measurement, application_cost, measure
from benchmarks.processes import end_on_terminate
from benchmarks.reports import summarize, table, write_json, write_plot
from benchmarks.servers import SERVERS, Server
from benchmarks.workloads import WORKLOADS, Workload


def main() -> None:
    """Measure, then print the table and write it, the JSON and the plot."""
    options = _options()
    end_on_terminate()
    servers = [SERVERS[name] for name in options.servers]
    workloads = [WORKLOADS[name] for name in options.workloads]
    _look_for_generators(workloads)
    measurements: list[Measurement] = []
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as directory:
        conditions = _conditions(options, make_certificate(Path(directory)))
        try:
            for measurement in _measure_all(
                servers, workloads, options.rounds, conditions
            ):
                measurements.append(measurement)
                print(_progress(measurement), file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            print("interrupted; reporting what was measured", file=sys.stderr)
    if measurements:
        _report(Path(options.output), conditions, measurements)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Compare daphne_like with its peers, side by side.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    cpus = sorted(os.sched_getaffinity(0))
    add = parser.add_argument
    add("--servers", nargs="+", choices=SERVERS, default=[*SERVERS], metavar="NAME")
    add("--workloads", nargs="+", choices=WORKLOADS, default=[*WORKLOADS])
    add("--rounds", type=int, default=3, help="measurements of each, interleaved")
    add("--seconds", type=int, default=5, help="length of each load")
    add("--warm-up", type=int, default=1, help="seconds of load before, not counted")
    add("--connections", type=int, default=64, help="keep-alive connections")
    add("--python", default=sys.executable, help="interpreter of our server")
    add("--python-of-peers", default=sys.executable, help="interpreter of the others")
    add("--server-cpu", type=int, default=cpus[0], help="CPU of the servers")
    add("--client-cpu", type=int, default=cpus[-1], help="CPU of the load")
    add("--output", default="build/benchmarks", help="directory of the results")
    options = parser.parse_args()
    if options.server_cpu == options.client_cpu:
        print("warning: server and load share a CPU", file=sys.stderr)
    return options


def _look_for_generators(workloads: Sequence[Workload]) -> None:
    packages = {"wrk": "wrk"}
    if any(workload.http2 for workload in workloads):
        packages["h2load"] = "nghttp2-client"
    for program, package in packages.items():
        if shutil.which(program) is None:
            sys.exit(
                f"{program} is needed for the load;"
                f" Debian and Ubuntu have it in package {package}"
            )


def _conditions(options: argparse.Namespace, certificate: Certificate) -> Conditions:
    return Conditions(
        python=options.python,
        python_of_peers=options.python_of_peers,
        certificate=certificate,
        server_cpu=options.server_cpu,
        client_cpu=options.client_cpu,
        connections=options.connections,
        seconds=options.seconds,
        warm_up_seconds=options.warm_up,
    )


def _measure_all(
    servers: Sequence[Server],
    workloads: Sequence[Workload],
    rounds: int,
    conditions: Conditions,
) -> Iterator[Measurement]:
    """Measure A B C, A B C, …: a slow minute of the machine then meets all alike."""
    for workload in workloads:
        for _ in range(rounds):
            # By interpreter: the two may have different versions of a framework.
            costs: dict[str, float | None] = {}
            for server in servers:
                if not server.serves(workload):
                    continue
                python = conditions.interpreter(server)
                if workload.has_cost and python not in costs:
                    costs[python] = application_cost(workload, python, conditions)
                yield replace(
                    measure(server, workload, conditions),
                    application_us=None if server.raw_only else costs.get(python),
                )


def _progress(measurement: Measurement) -> str:
    words = [f"{measurement.workload:17} {measurement.server:20}"]
    if measurement.load is not None:
        rate = measurement.load.requests / measurement.load.seconds
        words.append(f"{rate:9,.0f} req/s")
    elif measurement.connection_bytes is not None:
        words.append(f"{measurement.connection_bytes:9,.0f} bytes a connection")
    elif measurement.startup_seconds is not None:
        words.append(f"{measurement.startup_seconds:9.2f} s")
    words.extend(measurement.failures)
    return " ".join(words)


def _report(
    directory: Path, conditions: Conditions, measurements: Sequence[Measurement]
) -> None:
    summaries = summarize(measurements)
    text = table(summaries)
    print(text)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "results.md").write_text(text + "\n")
    write_json(directory / "results.json", conditions, measurements, summaries)
    if not write_plot(directory / "results.svg", summaries):
        print(
            "no plot: matplotlib isn't installed, or nothing to draw", file=sys.stderr
        )
    print(f"results are in {directory}", file=sys.stderr)


if __name__ == "__main__":
    main()
