"""
What an application costs without any server.

The application is called in memory, as many requests at a time as the load has
connections, with the scope and messages a server would give it. Subtracting its processor time from that of a server
under load leaves what the server itself takes. Prints microseconds per request.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import time
from typing import TYPE_CHECKING

import uvloop

from benchmarks.workloads import WORKLOADS, Workload

if TYPE_CHECKING:
    from benchmarks.applications import Message, Scope


async def microseconds_per_request(
    workload: Workload, seconds: float, concurrency: int
) -> float:
    """Return the processor time of one request, threads of the application included."""
    module, _, attribute = workload.application.partition(":")
    application = getattr(importlib.import_module(module), attribute)
    scope = _scope(workload)
    # A server's receive() waits after the last body message until the client goes.
    forever = asyncio.get_running_loop().create_future()

    async def call() -> bytes:
        requests = [workload.body]
        answers: list[bytes] = []

        async def receive() -> Message:
            if not requests:
                await asyncio.shield(forever)
            return {"type": "http.request", "body": requests.pop(), "more_body": False}

        async def send(message: Message) -> None:
            answers.append(message.get("body", b""))

        await application(scope.copy(), receive, send)
        return b"".join(answers)

    async def calls_until(end: float) -> int:
        count = 0
        while time.monotonic() < end:
            await call()
            count += 1
        return count

    if (answer := await call()) != workload.expected:
        raise SystemExit(f"wrong answer: {answer[:100]!r}")
    before = time.process_time()
    end = time.monotonic() + seconds
    counts = await asyncio.gather(*(calls_until(end) for _ in range(concurrency)))
    return (time.process_time() - before) / sum(counts) * 1e6


def _scope(workload: Workload) -> Scope:
    headers = [(b"host", b"127.0.0.1:8000")]
    if workload.body:
        headers.append((b"content-type", b"text/plain"))
        headers.append((b"content-length", str(len(workload.body)).encode()))
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "method": workload.method,
        "scheme": "http",
        "path": workload.path,
        "raw_path": workload.path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
        "state": {},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--concurrency", type=int, default=64)
    arguments = parser.parse_args()
    cost = microseconds_per_request(
        WORKLOADS[arguments.workload], arguments.seconds, arguments.concurrency
    )
    print(uvloop.run(cost))
