"""
What watches over a server, put together as its settings say.

:class:`Observation` is imported and made only for servers which count, trace or
number their requests.

Tests: ``tests/unit/test_observation.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from daphne_like.observability.metrics import Metrics
from daphne_like.observability.request_ids import RequestIDs

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping
    from contextlib import AsyncExitStack

    from daphne_like.asgi.types import ASGIApplication
    from daphne_like.observability.log_formats import ExchangeLog
    from daphne_like.observability.statsd import StatsD
    from daphne_like.settings import OperationsSettings

__all__ = ["EventLoopLag", "Observation"]

# Seconds between two looks at the event loop: what blocks it for longer is seen.
_LAG_INTERVAL = 0.1


class Observation:
    """
    Counts, traces and numbers the requests of one server.

    Args:
        settings: What of it is wanted.
        sends: Whether this process sends its counters to statsd; a worker's
            supervisor does that for all.

    Attributes:
        metrics: What is counted; None where nothing is.
        request_ids: What numbers requests; None where nothing does.

    Raises:
        SettingsError: A package or a host is missing.
    """

    def __init__(self, settings: OperationsSettings, *, sends: bool = True) -> None:
        self.metrics = Metrics() if settings.counts else None
        self.request_ids: RequestIDs | None = None
        if settings.request_id_header:
            self.request_ids = RequestIDs(
                settings.request_id_header, in_responses=settings.request_id_response
            )
        self._statsd: StatsD | None = None
        if settings.statsd_host is not None and sends:
            from daphne_like.observability.statsd import StatsD

            self._statsd = StatsD(settings.statsd_host, settings.statsd_prefix)
        self._traces = settings.otel
        if settings.otel:
            # What is missing shows before anything is started.
            from daphne_like.observability import tracing  # noqa: F401

    def log(self, further: ExchangeLog | None) -> ExchangeLog | None:
        """Return what hears of each exchange: the counters, then ``further``."""
        if self.metrics is None:
            return further
        self.metrics.further = further
        # Those of streams have what it wants to know.
        return cast("ExchangeLog", self.metrics)

    def begin(
        self,
        application: ASGIApplication,
        loop: asyncio.AbstractEventLoop,
        gauges: Mapping[str, Callable[[], float]],
        ending: AsyncExitStack,
    ) -> ASGIApplication:
        """
        Watch from now on.

        Args:
            application: What is served.
            loop: Is looked at, too.
            gauges: Functions that tell of the moment, see :class:`Metrics`.
            ending: Undoes all this in the end.

        Returns:
            The application as it is to be served.
        """
        if self.metrics is not None:
            self.metrics.gauges.update(gauges)
            ending.enter_context(EventLoopLag(loop, self.metrics.lagged))
        if self._statsd is not None:
            ending.callback(self._statsd.close)
            # What came after the last second.
            ending.callback(self.tick)
        if self.request_ids is not None:
            application = self.request_ids.applied(application)
        if self._traces:
            # A thread sends the spans, which no process that forks may have.
            from daphne_like.observability.tracing import Tracing

            tracing = Tracing()
            ending.push_async_callback(tracing.shutdown)
            application = tracing.applied(application)
        return application

    def tick(self) -> None:
        """Do what is due once a second."""
        if self._statsd is not None and self.metrics is not None:
            self._statsd.send(self.metrics.snapshot())


class EventLoopLag:
    """
    Looks how late an event loop calls what is due.

    Args:
        loop: The loop.
        lagged: Is told the seconds of each delay.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, lagged: Callable[[float], None]
    ) -> None:
        self._loop = loop
        self._lagged = lagged

    def __enter__(self) -> None:
        self._schedule()

    def __exit__(self, *error: object) -> None:
        self._timer.cancel()

    def _schedule(self) -> None:
        self._due = self._loop.time() + _LAG_INTERVAL
        self._timer = self._loop.call_at(self._due, self._look)

    def _look(self) -> None:
        self._lagged(max(0.0, self._loop.time() - self._due))
        self._schedule()
