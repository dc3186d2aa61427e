"""What all workers have counted together."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from daphne_like.settings import OperationsSettings
from daphne_like.supervisor.totals import Totals


def snapshot(count: int, connections: int) -> dict[str, Any]:
    """Return what a worker has counted."""
    return {
        "counters": {"limits_hit": {"limit_concurrency": count}},
        "gauges": {"connections_open": {"": connections}},
    }


def test_workers_that_have_ended_still_count() -> None:
    """Counters never go down; what was open in them isn't any more."""
    pytest.importorskip("prometheus_client")
    totals = Totals(OperationsSettings(metrics="9000"))
    totals.told(1, snapshot(5, 3))
    totals.told(1, snapshot(6, 2))
    totals.told(2, snapshot(1, 1))
    totals.ended(1)
    totals.replaced("died")
    merged = totals.snapshot()

    assert {"limit_concurrency": 7} == merged["counters"]["limits_hit"]
    assert {"died": 1} == merged["counters"]["worker_restarts"]
    assert {"": 1} == merged["gauges"]["connections_open"]
    assert totals.render is not None
    assert (
        b'limits_hit_total{limit="limit_concurrency"} 7.0' in totals.render(merged)[1]
    )


def test_nothing_is_counted_where_nobody_asks() -> None:
    """Nor is anything sent."""
    totals = Totals(OperationsSettings())
    totals.told(1, snapshot(5, 3))
    totals.ended(1)
    totals.replaced("died")
    totals.send()
    totals.close()

    assert {} == totals.snapshot()
    assert totals.render is None


def test_the_sum_goes_to_statsd() -> None:
    """Once for all workers, and for the last time at the end."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as statsd:
        statsd.bind(("127.0.0.1", 0))
        statsd.settimeout(20)
        port = statsd.getsockname()[1]
        totals = Totals(OperationsSettings(statsd_host=f"127.0.0.1:{port}"))
        totals.told(1, snapshot(5, 3))
        totals.told(2, None)
        totals.send()
        first = statsd.recv(65536)
        totals.told(2, snapshot(2, 1))
        totals.close()
        second = statsd.recv(65536)
        totals.abandon()

    assert b"limits_hit.limit_concurrency:5|c" in first
    assert b"limits_hit.limit_concurrency:2|c" in second
