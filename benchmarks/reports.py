"""
Measurements → medians → a table, a JSON file and a plot.

Every figure reported is the median of the rounds. Only ratios of figures from one run
mean anything, so the table gives them: how many times as fast the first server is.
"""

from __future__ import annotations

import importlib
import json
import platform
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.processes import clean_environment
from benchmarks.servers import SERVERS
from benchmarks.workloads import WORKLOADS

if TYPE_CHECKING:
    from benchmarks.measurements import Conditions, Measurement

_SATURATED_CLIENT = 0.95
_NOTHING = "-"

_VERSIONS = """
import importlib.metadata, json, platform, ssl, sys
versions = {"python": platform.python_version(), "openssl": ssl.OPENSSL_VERSION}
for name in sys.argv[1:]:
    try:
        versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print(json.dumps(versions))
"""


@dataclass(frozen=True, slots=True)
class Summary:
    """Medians of one server under one workload; None where nothing was measured."""

    server: str
    workload: str
    rounds: int
    requests_per_second: float | None
    upload_mb_per_second: float | None
    """Bodies of requests, where these are large."""

    spread: float | None
    """Highest less lowest round, as a share of the median."""

    p50_ms: float | None
    p99_ms: float | None
    p999_ms: float | None
    cpu_us: float | None
    server_us: float | None
    """Processor time per request less that of the application alone."""

    server_cpu_share: float | None
    rss_mb: float | None
    pss_mb: float | None
    connection_kb: float | None
    startup_seconds: float | None
    client_cpu_share: float | None
    failures: tuple[str, ...]


def summarize(measurements: Sequence[Measurement]) -> list[Summary]:
    """Return one summary for each server and workload, in the order of measuring."""
    groups: dict[tuple[str, str], list[Measurement]] = {}
    for measurement in measurements:
        key = measurement.workload, measurement.server
        groups.setdefault(key, []).append(measurement)
    return [_summary(group) for group in groups.values()]


def _summary(group: Sequence[Measurement]) -> Summary:
    loads = [one.load for one in group if one.load]
    rates = [load.requests / load.seconds for load in loads]
    cpu_us = _median(one.cpu_us_per_request for one in group)
    application_us = _median(one.application_us for one in group)
    rss = _median(one.rss_bytes for one in group)
    pss = _median(one.pss_bytes for one in group)
    return Summary(
        server=group[0].server,
        workload=group[0].workload,
        rounds=len(group),
        requests_per_second=_median(rates),
        upload_mb_per_second=_upload(group[0].workload, _median(rates)),
        spread=(max(rates) - min(rates)) / (median(rates) or 1) if rates else None,
        p50_ms=_median(load.p50_ms for load in loads),
        p99_ms=_median(load.p99_ms for load in loads),
        p999_ms=_median(load.p999_ms for load in loads),
        cpu_us=cpu_us,
        server_us=(
            cpu_us - application_us
            if cpu_us is not None and application_us is not None
            else None
        ),
        server_cpu_share=_median(one.server_cpu_share for one in group),
        rss_mb=rss / 2**20 if rss is not None else None,
        pss_mb=pss / 2**20 if pss is not None else None,
        connection_kb=_median(
            one.connection_bytes / 1024 if one.connection_bytes is not None else None
            for one in group
        ),
        startup_seconds=_median(one.startup_seconds for one in group),
        client_cpu_share=_median(load.client_cpu_share for load in loads),
        failures=tuple(
            f"round {number}: {failure}"
            for number, one in enumerate(group, 1)
            for failure in one.failures
        ),
    )


def _upload(workload: str, rate: float | None) -> float | None:
    if rate is None or not WORKLOADS[workload].uploads:
        return None
    return rate * len(WORKLOADS[workload].body) / 2**20


def _median(values: Iterable[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return median(present) if present else None


_COLUMNS: tuple[tuple[str, Callable[[Summary], float | None], str], ...] = (
    ("req/s", lambda summary: summary.requests_per_second, ",.0f"),
    ("MB/s", lambda summary: summary.upload_mb_per_second, ",.0f"),
    ("spread", lambda summary: summary.spread, ".0%"),
    ("p50 ms", lambda summary: summary.p50_ms, ".2f"),
    ("p99 ms", lambda summary: summary.p99_ms, ".2f"),
    ("p99.9 ms", lambda summary: summary.p999_ms, ".2f"),
    ("CPU µs", lambda summary: summary.cpu_us, ".1f"),
    ("server µs", lambda summary: summary.server_us, ".1f"),
    ("busy", lambda summary: summary.server_cpu_share, ".0%"),
    ("RSS MB", lambda summary: summary.rss_mb, ".1f"),
    ("PSS MB", lambda summary: summary.pss_mb, ".1f"),
    ("KB a connection", lambda summary: summary.connection_kb, ".1f"),
    ("start s", lambda summary: summary.startup_seconds, ".2f"),
)


def table(summaries: Sequence[Summary]) -> str:
    """Return a Markdown table per workload, aligned to be read as plain text."""
    workloads = dict.fromkeys(summary.workload for summary in summaries)
    return "\n\n".join(
        _workload_table([one for one in summaries if one.workload == workload])
        for workload in workloads
    )


def _workload_table(summaries: Sequence[Summary]) -> str:
    first = summaries[0]
    rows = [["server", f"{first.server} ÷", *(title for title, _, _ in _COLUMNS)]]
    for summary in summaries:
        figures = [_cell(value(summary), form) for _, value, form in _COLUMNS]
        rows.append([summary.server, _ratio(first, summary), *figures])
    title = f"### {first.workload}: {WORKLOADS[first.workload].title}\n"
    lines = markdown_table(_without_empty_columns(rows))
    return "\n".join([title, lines, *_remarks(summaries)])


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows, the first of them heads, as a table; the first column is words."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(_aligned(row, widths)) + " |" for row in rows]
    dashes = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines.insert(1, "| " + " | ".join(dashes) + " |")
    return "\n".join(lines)


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    name, *figures = row
    return [
        name.ljust(widths[0]),
        *(
            figure.rjust(width)
            for figure, width in zip(figures, widths[1:], strict=True)
        ),
    ]


def _without_empty_columns(rows: list[list[str]]) -> list[list[str]]:
    kept = [
        column
        for column in zip(*rows, strict=True)
        if any(cell != _NOTHING for cell in column[1:])
    ]
    return [list(row) for row in zip(*kept, strict=True)]


def _cell(value: float | None, form: str) -> str:
    return _NOTHING if value is None else format(value, form)


def _ratio(first: Summary, other: Summary) -> str:
    if not first.requests_per_second or not other.requests_per_second:
        return _NOTHING
    return f"{first.requests_per_second / other.requests_per_second:.2f}"


def _remarks(summaries: Sequence[Summary]) -> list[str]:
    remarks = []
    for summary in summaries:
        share = summary.client_cpu_share
        if share is not None and share > _SATURATED_CLIENT:
            remarks.append(f"{summary.server}: the load generator was the limit")
        if summary.failures:
            remarks.append(f"{summary.server}: {'; '.join(summary.failures)}")
    return ["", *(f"* {remark}" for remark in remarks)] if remarks else []


def write_json(
    path: Path,
    conditions: Conditions,
    measurements: Sequence[Measurement],
    summaries: Sequence[Summary],
) -> None:
    """Write where, how and what was measured: each round, and the medians."""
    document = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **machine_and_versions(conditions.python, conditions.python_of_peers),
        # Without places of files; the versions of the interpreters follow.
        "conditions": {
            name: value
            for name, value in asdict(conditions).items()
            if not name.startswith(("python", "certificate"))
        },
        "medians": [asdict(summary) for summary in summaries],
        "measurements": [asdict(measurement) for measurement in measurements],
    }
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def machine_and_versions(python: str, python_of_peers: str) -> dict[str, Any]:
    """Return the machine, and the versions of what runs on it, ready for JSON."""
    versions = {"ours": _versions(python), "peers": _versions(python_of_peers)}
    return {"machine": _machine(), "versions": versions}


def _machine() -> dict[str, str]:
    models = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "cpus": f"{len(models)} x {models[0]}" if models else platform.machine(),
        "kernel": platform.release(),
    }


def _versions(python: str) -> dict[str, str]:
    named = {server.distribution for server in SERVERS.values()} - {""}
    libraries = {"uvloop", "httptools", "zttp", "twisted", "fastapi", "django", "h2"}
    run = subprocess.run(
        [python, "-c", _VERSIONS, *sorted(named | libraries | {"gunicorn_h1c"})],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    versions: dict[str, str] = json.loads(run.stdout)
    return versions


def write_plot(path: Path, summaries: Sequence[Summary]) -> bool:
    """Draw a panel of bars per workload; False if matplotlib isn't installed."""
    try:
        matplotlib = importlib.import_module("matplotlib")
        matplotlib.use("svg")
        pyplot = importlib.import_module("matplotlib.pyplot")
    except ImportError:
        return False
    drawn = [one for one in summaries if one.requests_per_second]
    workloads = list(dict.fromkeys(one.workload for one in drawn))
    if not workloads:
        return False
    figure, panels = pyplot.subplots(
        len(workloads), squeeze=False, figsize=(8, 0.6 + 2.4 * len(workloads))
    )
    for panel, workload in zip(panels[:, 0], workloads, strict=True):
        _draw_panel(panel, [one for one in drawn if one.workload == workload])
    figure.tight_layout()
    # Text stays text: smaller, searchable, and the reader's own font.
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    return True


def _draw_panel(panel: Any, summaries: Sequence[Summary]) -> None:
    names = [summary.server for summary in summaries]
    rates = [summary.requests_per_second for summary in summaries]
    colors = [_color(name) for name in names]
    bars = panel.barh(names, rates, color=colors)
    panel.bar_label(bars, [f"{rate:,.0f}" for rate in rates], padding=3)
    panel.set_title(WORKLOADS[summaries[0].workload].title, loc="left")
    panel.set_xlabel("requests per second, one worker")
    panel.invert_yaxis()
    panel.margins(x=0.15)
    panel.spines[["top", "right"]].set_visible(False)


def _color(name: str) -> str:
    """Return the color of a server's bar: ours, the limit, and the peers."""
    server = SERVERS[name]
    if server.raw_only:
        return "#d0d0d0"
    return "#2a6f97" if server.ours else "#a9b4c2"
