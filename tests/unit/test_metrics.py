"""Tests of ``daphne_like.observability.metrics``."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from daphne_like.errors import SettingsError
from daphne_like.observability.metrics import (
    FAMILIES,
    MergedMetrics,
    Metrics,
    exposition,
    merge,
    require_prometheus_client,
)

# What the clock of all metrics here says.
NOW = 1000.0


@dataclass(eq=False)
class FakeExchange:
    """An exchange as the streams report it, with ordinary values."""

    method: str = "GET"
    status: int = 200
    http_version: str = "1.1"
    duration: float = 0.002
    body_bytes_sent: int = 13
    client: tuple[str, int] | None = ("127.0.0.1", 50778)
    target: bytes = b"/"
    request_headers: Any = ()
    response_headers: Any = ()

    @property
    def head(self) -> Any:
        """The request."""
        return self

    @property
    def started(self) -> float:
        """When it began."""
        return NOW - self.duration


class Told(list[Any]):
    """Another log."""

    def exchange_ended(self, exchange: Any) -> None:
        """Hear of an exchange."""
        self.append(exchange)

    def websocket_changed(self, exchange: Any, event: str) -> None:
        """Hear of a WebSocket."""
        self.append(event)


@pytest.fixture
def metrics() -> Metrics:
    """Count, at an instant of which the test knows."""
    return Metrics(clock=lambda: NOW)


def requests(metrics: Metrics) -> dict[str, int]:
    """Tell how many requests were counted, by their labels."""
    histograms = metrics.snapshot()["histograms"]["request_duration_seconds"]
    return {key: sum(counts) for key, (_, *counts) in histograms.items()}


@pytest.mark.parametrize(
    ("exchange", "labels"),
    [
        (FakeExchange(), "GET 2xx http/1.1"),
        (FakeExchange("POST", 301, "2"), "POST 3xx http/2"),
        (FakeExchange("PATCH", 404, "1.0"), "PATCH 4xx http/1.0"),
        (FakeExchange("GET", 999, "3"), "GET other http/3"),
        # Its client left before there was a status.
        (FakeExchange("GET", 0), "GET none http/1.1"),
        # It was refused before it was a request.
        (FakeExchange("", 400), "none 4xx http/1.1"),
    ],
)
def test_requests_are_told_apart(
    exchange: FakeExchange, labels: str, metrics: Metrics
) -> None:
    """They are counted by method, class of status and protocol."""
    for _ in range(3):
        metrics.exchange_ended(exchange)

    assert {labels: 3} == requests(metrics)


def test_clients_can_not_make_up_labels(metrics: Metrics) -> None:
    """Whatever methods they think of, there is one label for all of them."""
    for number in range(1000):
        metrics.exchange_ended(FakeExchange(f"X{number}"))
        metrics.websocket_changed(FakeExchange(f"X{number}", 403), "REJECT")
        metrics.exchange_ended(FakeExchange(http_version=f"{number}.7"))

    assert {
        "other 2xx http/1.1": 1000,
        "other 4xx websocket": 1000,
        "GET 2xx other": 1000,
    } == requests(metrics)
    kept = [*metrics._requests_as_told.values()]
    assert [{}] * 36 == [told for methods in kept for told in methods.values()]


def test_durations_fall_into_buckets(metrics: Metrics) -> None:
    """A bucket has what took as long as its bound, but not longer."""
    for duration in (11.0, 0.25, 0.001, 10.0, 0.0):
        metrics.websocket_changed(FakeExchange(status=403, duration=duration), "REJECT")

    key = "GET 4xx websocket"
    histogram = metrics.snapshot()["histograms"]["request_duration_seconds"][key]
    assert 21.251 == pytest.approx(histogram[0])
    assert [2, *[0] * 5, 1, *[0] * 4, 1, 1] == histogram[1:]


def test_short_and_long_requests_are_counted_alike(metrics: Metrics) -> None:
    """The way which is shorter for short ones leads to the same buckets."""
    for duration in (0.0, 2.0**-10, 0.002, 0.5, 100.0):
        metrics.exchange_ended(FakeExchange(duration=duration))

    key = "GET 2xx http/1.1"
    histogram = metrics.snapshot()["histograms"]["request_duration_seconds"][key]
    assert [2, 1, *[0] * 4, 0, 1, *[0] * 4, 1] == histogram[1:]
    assert 100.5 == pytest.approx(histogram[0], rel=1e-3)


@given(st.lists(st.floats(0, 20) | st.sampled_from([0.001, 0.5, 10.0])))
def test_each_duration_falls_into_one_bucket(durations: list[float]) -> None:
    """Its upper bound is the first which isn't shorter."""
    metrics = Metrics()
    for duration in durations:
        metrics.websocket_changed(FakeExchange(status=403, duration=duration), "REJECT")
    histograms = metrics.snapshot()["histograms"]["request_duration_seconds"]
    bounds = FAMILIES["request_duration_seconds"].bounds
    counts = [
        sum(lower < duration <= upper for duration in durations)
        for lower, upper in zip((-1, *bounds), (*bounds, 21), strict=True)
    ]

    _, *counted = histograms.get("GET 4xx websocket", [0, *[0] * 13])
    assert counts == counted


def test_websockets_are_counted_from_beginning_to_end(metrics: Metrics) -> None:
    """A handshake is a request; an open WebSocket is one more until it ends."""
    opened, refused, left = (FakeExchange(status=status) for status in (101, 403, 499))
    for event in ("CONNECTING", "CONNECT"):
        metrics.websocket_changed(opened, event)
    for event in ("CONNECTING", "REJECT", "DISCONNECT"):
        metrics.websocket_changed(refused, event)
    for event in ("CONNECTING", "DISCONNECT"):
        metrics.websocket_changed(left, event)

    assert {"GET 1xx websocket": 1, "GET 4xx websocket": 2} == requests(metrics)
    snapshot = metrics.snapshot()
    assert {"": 1} == snapshot["gauges"]["websockets_open"]
    assert 0 == sum(snapshot["histograms"]["websocket_duration_seconds"][""])

    opened.duration = 100.0
    metrics.websocket_changed(opened, "DISCONNECT")
    snapshot = metrics.snapshot()
    assert {"": 0} == snapshot["gauges"]["websockets_open"]
    lives = snapshot["histograms"]["websocket_duration_seconds"][""]
    assert [100.0, 0, 0, 0, 1, 0, 0, 0, 0, 0] == lives


def test_other_logs_hear_of_the_same() -> None:
    """The access log goes on when something counts."""
    told = Told()
    metrics = Metrics(told, clock=lambda: NOW)
    exchange = FakeExchange()
    metrics.exchange_ended(exchange)
    metrics.websocket_changed(exchange, "CONNECTING")

    assert [exchange, "CONNECTING"] == told


def busy_metrics() -> Metrics:
    """Make metrics in which something of everything has been counted."""
    metrics = Metrics(clock=lambda: NOW)
    metrics.exchange_ended(FakeExchange())
    metrics.websocket_changed(FakeExchange(status=101), "CONNECT")
    metrics.limit_hit("limit_request_body")
    metrics.lagged(0.02)
    metrics.connections = 7
    metrics.request_body_bytes = 11
    metrics.messages_received, metrics.messages_sent = 3, 4
    metrics.message_bytes_received, metrics.message_bytes_sent = 30, 40
    metrics.gauges["connections_open"] = lambda: 5
    metrics.gauges["requests_in_flight"] = lambda: 2
    metrics.gauges["workers"] = lambda: 1
    return metrics


def test_a_snapshot_survives_json() -> None:
    """A worker tells it its supervisor as a line of JSON."""
    snapshot = busy_metrics().snapshot()

    assert snapshot == json.loads(json.dumps(snapshot))


def test_a_snapshot_is_of_its_moment() -> None:
    """It doesn't change when counting goes on."""
    metrics = busy_metrics()
    snapshot = metrics.snapshot()
    before = json.dumps(snapshot)
    metrics.exchange_ended(FakeExchange())
    metrics.lagged(1.0)
    metrics.limit_hit("limit_request_body")

    assert before == json.dumps(snapshot)


def test_snapshots_add_up() -> None:
    """Numbers, histograms and labels which only some have."""
    one, other = busy_metrics(), busy_metrics()
    other.limit_hit("timeout_send")
    one_snapshot = one.snapshot()
    total = merge([one_snapshot, other.snapshot()])

    assert {"limit_request_body": 2, "timeout_send": 1} == total["counters"][
        "limits_hit"
    ]
    assert {"": 10} == total["gauges"]["connections_open"]
    [histogram] = [
        values
        for key, values in total["histograms"]["request_duration_seconds"].items()
        if key == "GET 2xx http/1.1"
    ]
    assert [pytest.approx(0.004), 0, 2] == histogram[:3]
    assert one_snapshot == one.snapshot()
    assert {} == merge([])


def test_workers_that_have_ended_still_count() -> None:
    """Counters never go down, whatever happens to workers; gauges do."""
    merged = MergedMetrics()
    merged.told(1, {"counters": {"connections": {"": 99}}})
    merged.told(1, busy_metrics().snapshot())
    merged.told(2, busy_metrics().snapshot())
    assert {"": 14} == merged.snapshot()["counters"]["connections"]
    assert {"": 2} == merged.snapshot()["gauges"]["workers"]

    merged.ended(1)
    merged.restarted("died")
    merged.ended("one that never told anything")
    snapshot = merged.snapshot()
    assert {"": 14} == snapshot["counters"]["connections"]
    assert {"died": 1} == snapshot["counters"]["worker_restarts"]
    assert {"": 1} == snapshot["gauges"]["workers"]
    assert {"": 5} == snapshot["gauges"]["connections_open"]

    merged.told(3, busy_metrics().snapshot())
    merged.ended(2)
    merged.ended(3)
    assert {"": 21} == merged.snapshot()["counters"]["connections"]
    assert "gauges" not in merged.snapshot()


def test_prometheus_can_read_all_of_it() -> None:
    """Each family is there, with the sums that Prometheus expects."""
    merged = MergedMetrics()
    merged.told(1, busy_metrics().snapshot())
    merged.restarted("died")
    content_type, text = exposition(merged.snapshot())

    assert content_type.startswith("text/plain; version=")
    families = {
        family.name: family
        for family in text_string_to_metric_families(text.decode("utf-8"))
    }
    names = {f"daphne_like_{name}" for name in (*FAMILIES, "requests")}
    assert names == set(families)
    assert all(family.documentation for family in families.values())
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families.values()
        for sample in family.samples
    }
    duration = "daphne_like_request_duration_seconds"

    def of_request(name: str, *bound: tuple[str, str]) -> float:
        request = (("method", "GET"), ("protocol", "http/1.1"), ("status", "2xx"))
        key = (name, *bound, *request)
        return samples[key]

    assert 1 == of_request("daphne_like_requests_total")
    assert 1 == of_request(f"{duration}_count")
    assert 0.002 == pytest.approx(of_request(f"{duration}_sum"))
    assert 0 == of_request(f"{duration}_bucket", ("le", "0.001"))
    assert 1 == of_request(f"{duration}_bucket", ("le", "0.005"))
    assert 1 == of_request(f"{duration}_bucket", ("le", "+Inf"))
    assert 7 == samples["daphne_like_connections_total",]
    assert 4 == samples["daphne_like_websocket_messages_total", ("direction", "sent")]
    assert 1 == samples["daphne_like_worker_restarts_total", ("reason", "died")]
    assert 1 == samples["daphne_like_event_loop_lag_seconds_count",]


def test_nothing_is_a_page_too() -> None:
    """Before a worker has told anything, there is nothing to read."""
    assert b"" == exposition({})[1]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install."""
    require_prometheus_client()
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(SettingsError, match=r"pip install 'daphne-like\[metrics\]'"):
        require_prometheus_client()
