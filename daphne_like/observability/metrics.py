"""
What is counted, from the numbers of one process to a page for Prometheus.

:class:`Metrics` hears of each exchange and counts. Its snapshot is a dict that can
become JSON: first the kind, then the name, then the values of the labels with a space
between them. At the end there is a number, or a histogram as a list: the sum first,
then how many fell into each bucket, the last one without an upper bound::

    {
        "counters": {"websocket_messages": {"received": 5, "sent": 7}},
        "gauges": {"connections_open": {"": 2}},
        "histograms": {"request_duration_seconds": {"GET 2xx http/1.1": [0.1, 3, ...]}},
    }

All of it adds up, so that :func:`merge` need not know what it adds.
:class:`MergedMetrics` keeps the sum over processes that come and go.
:func:`exposition` writes a snapshot in the text format of Prometheus.

No label takes a value from a client as it is, so a snapshot can't grow without end.

Source: Prometheus, "Metric and label naming" and "Exposition formats".

Tests: ``tests/unit/test_metrics.py``.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from daphne_like.errors import SettingsError
from daphne_like.observability.log_formats import Exchange

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from daphne_like.observability.log_formats import ExchangeLog

__all__ = [
    "FAMILIES",
    "CountedExchange",
    "Family",
    "MergedMetrics",
    "Metrics",
    "Snapshot",
    "exposition",
    "merge",
    "require_prometheus_client",
]

Snapshot = dict[str, Any]
"""See above."""


class Family(NamedTuple):
    """
    What is known of all values with one name.

    Attributes:
        kind: ``counters``, ``gauges`` or ``histograms``.
        help: One sentence.
        labels: Their names, in the order of the values.
        bounds: Upper bounds of a histogram's buckets, without the infinite one.
    """

    kind: str
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()


_DURATIONS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SHORTEST = _DURATIONS[0]
_LIVES = (1.0, 10.0, 60.0, 300.0, 1800.0, 3600.0, 21600.0, 86400.0)
_LAGS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)

FAMILIES = {
    "request_duration_seconds": Family(
        "histograms",
        "Requests by the time from their head to the end of the response; a "
        "WebSocket's handshake is one.",
        ("method", "status", "protocol"),
        _DURATIONS,
    ),
    "websocket_duration_seconds": Family(
        "histograms", "WebSockets that have ended, by their life.", (), _LIVES
    ),
    "event_loop_lag_seconds": Family(
        "histograms",
        "How late the event loop was, ten times a second.",
        (),
        _LAGS,
    ),
    "request_body_bytes": Family("counters", "Bytes of request bodies."),
    "response_body_bytes": Family(
        "counters", "Bytes of response bodies, before they are framed."
    ),
    "connections": Family("counters", "Connections that were accepted."),
    "websocket_messages": Family("counters", "Messages of WebSockets.", ("direction",)),
    "websocket_bytes": Family(
        "counters", "Bytes of these messages, before compression.", ("direction",)
    ),
    "limits_hit": Family(
        "counters", "How often a limit or a timeout of the settings held.", ("limit",)
    ),
    "worker_restarts": Family(
        "counters", "Workers that were replaced, by the reason.", ("reason",)
    ),
    "requests_in_flight": Family(
        "gauges", "Applications that are running, those of WebSockets included."
    ),
    "connections_open": Family("gauges", "Connections that are open."),
    "websockets_open": Family("gauges", "WebSockets that are open."),
    "workers": Family("gauges", "Processes that serve."),
}
"""Everything that is counted. Dashboards name these: add some, but rename none."""

# RFC 9110 section 9, RFC 5789. What else clients make up counts as one.
_METHODS = frozenset(
    ("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH")
)
_PROTOCOLS = {version: f"http/{version}" for version in ("1.0", "1.1", "2", "3")}
_CLASSES = {number: f"{number}xx" for number in range(1, 6)}


class RequestLine(Protocol):
    """
    What a request is counted by.

    Attributes:
        method: As received.
        http_version: ``1.0``, ``1.1``, ``2`` or ``3``.
    """

    method: str
    http_version: str


class CountedExchange(Exchange, Protocol):
    """An exchange with two more attributes: some properties cost as much as counting."""

    @property
    def head(self) -> RequestLine:
        """The request."""

    @property
    def started(self) -> float:
        """The instant of the monotonic clock when its head was complete."""


class Metrics:
    """
    Counts in one process; an :class:`~daphne_like.observability.log_formats.ExchangeLog`.

    Args:
        further: Another log that hears of each exchange, too.
        clock: The monotonic one.

    Attributes:
        further: See above.
        connections: How many were accepted.
        request_body_bytes: Of all request bodies.
        messages_received: Of WebSockets, and so are the next three.
        gauges: Functions that tell what is to be known of the moment, by name.
    """

    def __init__(
        self,
        further: ExchangeLog | None = None,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.further = further
        self.connections = 0
        self.request_body_bytes = 0
        self.messages_received = 0
        self.messages_sent = 0
        self.message_bytes_received = 0
        self.message_bytes_sent = 0
        self.gauges: dict[str, Callable[[], float]] = {}
        self._clock = clock
        self._limits: Counter[str] = Counter()
        self._requests: dict[str, _Histogram] = {}
        # The same by version, method and status: three dicts are faster than a key
        # made of three.
        self._requests_as_told: dict[str, dict[str, dict[int, _Histogram]]] = {
            version: {method: {} for method in _METHODS} for version in _PROTOCOLS
        }
        self._websockets_open = 0
        self._lives = _Histogram(_LIVES)
        self._lags = _Histogram(_LAGS)
        # What has been refused, until its end is told, too.
        self._refused: Exchange | None = None

    # -- Told of exchanges (ExchangeLog) -------------------------------------

    def exchange_ended(self, exchange: CountedExchange) -> None:
        """Count a request."""
        head = exchange.head
        told = self._requests_as_told
        try:
            histogram = told[head.http_version][head.method][exchange.status]
        except KeyError:
            histogram = self._histogram_as_told(exchange)
        # As _Histogram.observe, without a call for most.
        duration = self._clock() - exchange.started
        histogram.total += duration
        if duration <= _SHORTEST:
            histogram.shortest += 1
        else:
            histogram.count(duration)
        histogram.body_bytes += exchange.body_bytes_sent
        if self.further is not None:
            self.further.exchange_ended(exchange)

    def websocket_changed(self, exchange: Exchange, event: str) -> None:
        """Count a handshake when it is answered, and a WebSocket that ends."""
        if event == "CONNECT":
            self._websockets_open += 1
            self._handshake_ended(exchange)
        elif event == "REJECT":
            self._refused = exchange
            self._handshake_ended(exchange)
        elif event == "DISCONNECT":
            if exchange.status == 101:
                self._websockets_open -= 1
                self._lives.observe(exchange.duration)
            elif self._refused is not exchange:
                self._handshake_ended(exchange)
            self._refused = None
        if self.further is not None:
            self.further.websocket_changed(exchange, event)

    def _handshake_ended(self, exchange: Exchange) -> None:
        histogram = self._histogram(exchange, "websocket")
        histogram.observe(exchange.duration)
        histogram.body_bytes += exchange.body_bytes_sent

    def _histogram_as_told(self, exchange: CountedExchange) -> _Histogram:
        """Return the histogram for an exchange, and find it sooner the next time."""
        head, status = exchange.head, exchange.status
        protocol = _PROTOCOLS.get(head.http_version, "other")
        histogram = self._histogram(exchange, protocol)
        if protocol != "other" and head.method in _METHODS:
            # There are at most as many as statuses: no client can add to them.
            self._requests_as_told[head.http_version][head.method][status] = histogram
        return histogram

    def _histogram(self, exchange: Exchange, protocol: str) -> _Histogram:
        """Return the histogram for an exchange, by labels of which there are few."""
        # What was refused before it was a request has no method.
        method = exchange.method or "none"
        if method != "none" and method not in _METHODS:
            method = "other"
        status = exchange.status
        of_status = _CLASSES.get(status // 100, "other") if status else "none"
        key = f"{method} {of_status} {protocol}"
        histogram = self._requests.get(key)
        if histogram is None:
            histogram = self._requests[key] = _Histogram(_DURATIONS)
        return histogram

    # -- Told of the rest ----------------------------------------------------

    def limit_hit(self, name: str) -> None:
        """Count that a limit held; ``name`` is its setting's."""
        self._limits[name] += 1

    def lagged(self, seconds: float) -> None:
        """Count a look at how late the event loop is."""
        self._lags.observe(seconds)

    # -- Telling -------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """Return all numbers, as objects of the caller's own; see the module."""
        body_bytes = sum(requests.body_bytes for requests in self._requests.values())
        return {
            "counters": {
                "connections": {"": self.connections},
                "request_body_bytes": {"": self.request_body_bytes},
                "response_body_bytes": {"": body_bytes},
                "websocket_messages": {
                    "received": self.messages_received,
                    "sent": self.messages_sent,
                },
                "websocket_bytes": {
                    "received": self.message_bytes_received,
                    "sent": self.message_bytes_sent,
                },
                "limits_hit": dict(self._limits),
            },
            "gauges": {
                "websockets_open": {"": self._websockets_open},
                **{name: {"": tell()} for name, tell in self.gauges.items()},
            },
            "histograms": {
                "request_duration_seconds": {
                    key: histogram.snapshot()
                    for key, histogram in self._requests.items()
                },
                "websocket_duration_seconds": {"": self._lives.snapshot()},
                "event_loop_lag_seconds": {"": self._lags.snapshot()},
            },
        }


class _Histogram:
    """
    Counts durations by buckets.

    Args:
        bounds: The upper ones, which belong to their buckets.

    Attributes:
        total: The sum of all durations.
        shortest: How many are at most as long as :data:`_SHORTEST`, the first bound
            for requests; none of them in other histograms.
        body_bytes: Of responses.
    """

    __slots__ = ("_bounds", "_counts", "body_bytes", "shortest", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.total = 0.0
        self.shortest = self.body_bytes = 0
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)

    def observe(self, duration: float) -> None:
        """Take a duration."""
        self.total += duration
        self.count(duration)

    def count(self, duration: float) -> None:
        """Find the bucket of a duration whose sum is taken already."""
        self._counts[bisect_left(self._bounds, duration)] += 1

    def snapshot(self) -> list[float]:
        """Return the sum, and the count of each bucket."""
        first, *others = self._counts
        return [self.total, first + self.shortest, *others]


# -- Several processes -------------------------------------------------------


def merge(snapshots: Iterable[Mapping[str, Any]]) -> Snapshot:
    """Return the sum of snapshots; they stay as they are."""
    total: Snapshot = {}
    for snapshot in snapshots:
        _add(total, snapshot)
    return total


def _add(total: dict[str, Any], more: Mapping[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, dict):
            _add(total.setdefault(key, {}), value)
        elif not isinstance(value, list):
            total[key] = total.get(key, 0) + value
        elif key in total:
            total[key] = [a + b for a, b in zip(total[key], value, strict=True)]
        else:
            total[key] = [*value]


class MergedMetrics:
    """
    The sum over workers, in which those that have ended still count.

    A worker is whatever its supervisor knows it by.
    """

    def __init__(self) -> None:
        self._latest: dict[object, Mapping[str, Any]] = {}
        self._ended: Snapshot = {}
        self._restarts: Counter[str] = Counter()

    def told(self, worker: object, snapshot: Mapping[str, Any]) -> None:
        """Take the latest snapshot of a worker."""
        self._latest[worker] = snapshot

    def ended(self, worker: object) -> None:
        """Keep what a worker has counted; nothing of it is open any more."""
        latest = self._latest.pop(worker, None)
        if latest is not None:
            left = {kind: latest[kind] for kind in latest if kind != "gauges"}
            self._ended = merge((self._ended, left))

    def restarted(self, reason: str) -> None:
        """Count a worker that is replaced; there are to be few reasons."""
        self._restarts[reason] += 1

    def snapshot(self) -> Snapshot:
        """Return the sum as it is known now."""
        own = {"counters": {"worker_restarts": dict(self._restarts)}}
        return merge((self._ended, *self._latest.values(), own))


# -- Prometheus --------------------------------------------------------------


def require_prometheus_client() -> None:
    """
    Import what :func:`exposition` needs.

    Raises:
        SettingsError: It is not installed.
    """
    try:
        import prometheus_client  # noqa: F401
    except ImportError:
        raise SettingsError(
            "metrics needs prometheus_client: pip install 'daphne-like[metrics]'"
        ) from None


def exposition(snapshot: Mapping[str, Any]) -> tuple[str, bytes]:
    """
    Write a snapshot for Prometheus.

    Returns:
        The content type, and the text.
    """
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

    class _Collector:
        def collect(self) -> Iterator[Any]:
            return _prometheus_families(snapshot)

    registry = CollectorRegistry()
    registry.register(_Collector())
    return CONTENT_TYPE_LATEST, generate_latest(registry)


def _prometheus_families(snapshot: Mapping[str, Any]) -> Iterator[Any]:
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )

    kinds = {"counters": CounterMetricFamily, "gauges": GaugeMetricFamily}
    for name, family in FAMILIES.items():
        values = snapshot.get(family.kind, {}).get(name)
        if values is None:
            continue
        full, labels = f"daphne_like_{name}", family.labels
        if family.kind != "histograms":
            made = kinds[family.kind](full, family.help, labels=labels)
            for key, value in values.items():
                made.add_metric(_label_values(key, family), value)
            yield made
            continue
        histograms = HistogramMetricFamily(full, family.help, labels=labels)
        requests = None
        if name == "request_duration_seconds":
            requests = CounterMetricFamily(
                "daphne_like_requests", "Requests that were answered.", labels=labels
            )
        for key, (total, *counts) in values.items():
            buckets, reached = [], 0
            for bound, count in zip((*family.bounds, "+Inf"), counts, strict=True):
                reached += count
                buckets.append((str(bound), reached))
            histograms.add_metric(_label_values(key, family), buckets, total)
            if requests is not None:
                requests.add_metric(_label_values(key, family), reached)
        yield histograms
        if requests is not None:
            yield requests


def _label_values(key: str, family: Family) -> list[str]:
    return key.split(" ") if family.labels else []
