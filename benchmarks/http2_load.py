"""
Load over HTTP/2 and TLS as a browser's; address and parts of the cookie are new each time.

``h2load`` sends the same fields always; this client has its requests encoded before
the load. Cookies travel in crumbs (RFC 9113 section 8.2.3), each a field of its own,
so that those which change push the others out of the table, as a browser's do.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections import Counter
from itertools import cycle

import uvloop

from benchmarks.applications import SMALL_BODY
from benchmarks.browser import FIELDS, cookies, targets
from benchmarks.http2_client import (
    Exchange,
    HTTP2Connection,
    Request,
    client_context,
    requests,
)
from benchmarks.processes import HOST

_REQUESTS = 2000


class Counts:
    """What all connections have counted."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.errors: Counter[str] = Counter()
        self.over = False


class BrowserConnection(HTTP2Connection):
    """Keeps its streams busy with the requests in turn, until it is over."""

    def __init__(self, counts: Counts, asked: list[Request], streams: int) -> None:
        super().__init__()
        self._counts = counts
        # Their order is that of the connection's table.
        self._requests = cycle(asked)
        self._streams = streams

    def opened(self) -> None:
        """Ask as often as there are streams."""
        for _ in range(self._streams):
            self.ask(next(self._requests))

    def answered(self, exchange: Exchange, *, good: bool) -> None:
        """Note the time and ask again."""
        counts = self._counts
        if counts.over:
            return
        if good:
            counts.latencies.append(time.perf_counter() - exchange.asked_at)
        else:
            counts.errors["answer"] += 1
        self.ask(next(self._requests))

    def lost(self) -> None:
        """Count the connection if it was still needed."""
        if not self._counts.over:
            self._counts.errors["lost"] += 1


async def load(options: argparse.Namespace) -> dict[str, object]:
    """Load the server; return the figures as ``load.Load`` has them."""
    asked = requests(
        [
            [
                (":path", target),
                *FIELDS,
                *(("cookie", crumb) for crumb in cookie.split("; ")),
            ]
            for target, cookie in zip(
                targets(_REQUESTS), cookies(_REQUESTS, options.new_parts), strict=True
            )
        ],
        "https",
        reset=True,
    )
    loop = asyncio.get_running_loop()
    counts = Counts()
    tls = client_context()
    pairs = await asyncio.gather(
        *(
            loop.create_connection(
                lambda: BrowserConnection(counts, asked, options.streams),
                HOST,
                options.port,
                ssl=tls,
            )
            for _ in range(options.connections)
        )
    )
    counts.latencies.clear()
    started, used = time.perf_counter(), time.process_time()
    await asyncio.sleep(options.seconds)
    seconds = time.perf_counter() - started
    used = time.process_time() - used
    counts.over = True
    for transport, _ in pairs:
        transport.abort()
    # What was encoded before the load is no part of it.
    return {**_figures(counts, seconds), "client_cpu_share": used / seconds}


def _figures(counts: Counts, seconds: float) -> dict[str, object]:
    latencies = sorted(counts.latencies) or [0.0]

    def at(share: float) -> float:
        return latencies[min(int(share * len(latencies)), len(latencies) - 1)] * 1e3

    return {
        "requests": len(counts.latencies),
        "seconds": seconds,
        # Only right answers were counted.
        "bytes": len(counts.latencies) * len(SMALL_BODY),
        "p50_ms": at(0.5),
        "p99_ms": at(0.99),
        "p999_ms": at(0.999),
        "max_ms": at(1.0),
        "errors": dict(counts.errors),
    }


def main() -> None:
    """Load a server and print one line of JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.http2_load")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--new-parts", type=int, choices=(1, 2), default=1)
    parser.add_argument("--seconds", type=int, default=5)
    options = parser.parse_args()
    print(json.dumps(uvloop.run(load(options))))


if __name__ == "__main__":
    main()
