"""
What all workers have counted together, for Prometheus and for statsd.

Tests: ``tests/unit/supervisor/test_totals.py``, ``tests/integration/test_workers.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from daphne_like.observability.metrics import MergedMetrics
    from daphne_like.observability.statsd import StatsD
    from daphne_like.operations.application import Render
    from daphne_like.settings import OperationsSettings

__all__ = ["Totals"]


class Totals:
    """
    The counters of a supervisor; nothing where nothing is counted.

    Args:
        settings: Whether, and for whom.

    Attributes:
        render: Writes a snapshot for Prometheus.

    Raises:
        SettingsError: A package or a host is missing.
    """

    def __init__(self, settings: OperationsSettings) -> None:
        self.render: Render | None = None
        self._merged: MergedMetrics | None = None
        self._statsd: StatsD | None = None
        if not settings.counts:
            return
        from daphne_like.observability import metrics

        self._merged = metrics.MergedMetrics()
        if settings.metrics is not None:
            metrics.require_prometheus_client()
            self.render = metrics.exposition
        if settings.statsd_host is not None:
            from daphne_like.observability.statsd import StatsD

            self._statsd = StatsD(settings.statsd_host, settings.statsd_prefix)

    def told(self, worker: int, snapshot: Mapping[str, Any] | None) -> None:
        """Take the latest snapshot of a worker, where it has one."""
        if self._merged is not None and snapshot is not None:
            self._merged.told(worker, snapshot)

    def ended(self, worker: int) -> None:
        """Keep what a worker has counted."""
        if self._merged is not None:
            self._merged.ended(worker)

    def replaced(self, reason: str) -> None:
        """Count a worker that is replaced."""
        if self._merged is not None:
            self._merged.restarted(reason)

    def snapshot(self) -> Mapping[str, Any]:
        """Return the sum as it is known now."""
        return {} if self._merged is None else self._merged.snapshot()

    def send(self) -> None:
        """Tell statsd, once a second."""
        if self._statsd is not None:
            self._statsd.send(self.snapshot())

    def close(self) -> None:
        """Tell it for the last time."""
        if self._statsd is not None:
            self._statsd.send(self.snapshot())
            self._statsd.close()

    def abandon(self) -> None:
        """Close what a forked child has of it."""
        if self._statsd is not None:
            self._statsd.close()
