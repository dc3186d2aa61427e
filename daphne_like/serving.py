"""
One application behind HTTP, on the event loop that runs.

:class:`Serving` puts the parts together, from the application's manager to the
factory of connections. It needs the loop, and no reactor: a supervisor serves its
operators by the same means.

Tests: ``tests/unit/test_server.py``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from daphne_like.asgi.applications import ApplicationManager, CountingManager
from daphne_like.asgi.error_pages import html_page
from daphne_like.asgi.exchange import ExchangeContext, with_drain_state
from daphne_like.asgi.forwarded import DaphneForwardedPolicy, ForwardedPolicy
from daphne_like.asgi.http_stream import HTTPStream
from daphne_like.asgi.request_events import stream_class
from daphne_like.asgi.response_headers import FieldReader
from daphne_like.asgi.scope import daphne_scope
from daphne_like.asgi.websocket_stream import WebSocketStream, WebSocketStreamContext
from daphne_like.protocols.connections import HTTPContext
from daphne_like.protocols.deadlines import DeadlineWheel
from daphne_like.protocols.default_headers import DefaultHeaders
from daphne_like.protocols.negotiation import CountingHTTPFactory, HTTPFactory
from daphne_like.protocols.websocket import WebSocketContext
from daphne_like.winding_down import Connections

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from daphne_like.asgi.drain_notice import DrainNotice
    from daphne_like.asgi.types import ASGIApplication
    from daphne_like.observability.log_formats import ExchangeLog
    from daphne_like.observability.observation import Observation
    from daphne_like.protocols.interfaces import Header
    from daphne_like.settings import HTTPSettings, Settings

__all__ = ["Serving"]

_logger = logging.getLogger("daphne_like.server")


class Serving:
    """
    The parts between connections and an application.

    Args:
        application: An ASGI 3 application.
        settings: All settings.
        exchange_log: Hears of each exchange.
        state: The lifespan's; None when the application has no lifespan.
        connections: Takes in the live ones.
        leaving_code: Tells with which code WebSockets are closed at the end.
        drain_notice: Tells the application of the end, if anything does.
        observation: What counts and numbers requests, if anything does.

    Attributes:
        manager: Runs the application's instances.
        connections: The live ones.
        duties: What is due once a second.
    """

    def __init__(
        self,
        application: ASGIApplication,
        settings: Settings,
        *,
        exchange_log: ExchangeLog | None = None,
        state: dict[str, Any] | None = None,
        connections: Connections | None = None,
        leaving_code: Callable[[], int] = lambda: 1001,
        drain_notice: DrainNotice | None = None,
        observation: Observation | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        wheel = DeadlineWheel(loop.time)
        headers = _default_headers(settings.http)
        # A supervisor replaces workers by what they have done.
        counts = settings.workers.supervised
        manager_class = CountingManager if counts else ApplicationManager
        self.manager: ApplicationManager = manager_class(application, loop)
        self.connections = Connections() if connections is None else connections
        self.duties: Sequence[Callable[[], object]] = (wheel.tick, headers.refresh)
        self._exchanges = self._exchange_context(
            settings, wheel, headers, exchange_log, state
        )
        http, websocket = self._observe(settings, observation)
        if drain_notice is not None:
            extensions = with_drain_state(drain_notice.state)
            self._exchanges = replace(self._exchanges, extensions=extensions)
        websockets = WebSocketStreamContext(
            exchanges=self._exchanges,
            denials=replace(self._exchanges, access_log=None),
            websockets=WebSocketContext(
                settings.websocket,
                settings.http.timeout_send,
                wheel,
                loop.call_soon,
                leaving_code,
                self._exchanges.limit_hit,
            ),
        )
        self._context = HTTPContext(
            open_stream=partial(http, self._exchanges),
            open_websocket=partial(websocket, websockets),
            settings=settings.http,
            default_headers=headers,
            wheel=wheel,
            loop=loop,
            connections=self.connections,
            http2=settings.http2,
            daphne_compat=settings.app.daphne_compat,
            limit_hit=self._exchanges.limit_hit,
        )

    def _observe(
        self, settings: Settings, observation: Observation | None
    ) -> tuple[type[HTTPStream], type[WebSocketStream]]:
        """Choose the classes of streams, by what they have to tell."""
        http = stream_class(
            settings.http.request_buffer_size, filled=settings.app.daphne_compat
        )
        self._make_factory: Callable[[HTTPContext], HTTPFactory] = HTTPFactory
        if observation is None:
            return http, WebSocketStream
        from daphne_like.asgi.observed_streams import observed

        metrics = observation.metrics
        self._exchanges = context = replace(
            self._exchanges, metrics=metrics, request_ids=observation.request_ids
        )
        if metrics is not None:
            self._exchanges = replace(context, limit_hit=metrics.limit_hit)
            self._make_factory = partial(CountingHTTPFactory, metrics)
        return observed(http, context), observed(WebSocketStream, context)

    def _exchange_context(
        self,
        settings: Settings,
        wheel: DeadlineWheel,
        headers: DefaultHeaders,
        exchange_log: ExchangeLog | None,
        state: dict[str, Any] | None,
    ) -> ExchangeContext:
        context = ExchangeContext(
            manager=self.manager,
            field_reader=FieldReader(headers.names),
            wheel=wheel,
            application_close_timeout=settings.app.application_close_timeout,
            limit_concurrency=settings.http.limit_concurrency,
            root_path=settings.app.root_path,
            state=state,
            forwarded=_forwarded_policy(settings),
            access_log=exchange_log,
            request_buffer_size=settings.http.request_buffer_size,
        )
        if not settings.app.daphne_compat:
            return context
        return replace(
            context,
            build_scope=daphne_scope,
            error_page=html_page,
            version_status=400,
            late_sends_raise=False,
        )

    def factory(self, scheme: str) -> HTTPFactory:
        """Make the factory of the connections which come by a listener."""
        return self._make_factory(replace(self._context, scheme=scheme))

    def factory_of(self, application: ASGIApplication) -> HTTPFactory:
        """Make the factory of a listener for another application, without TLS."""
        manager = ApplicationManager(application, asyncio.get_running_loop())
        open_stream = partial(HTTPStream, replace(self._exchanges, manager=manager))
        # WebSockets, too: an answer which isn't 101 denies them.
        return self._make_factory(
            replace(
                self._context,
                open_stream=open_stream,
                open_websocket=open_stream,
                scheme="http",
            )
        )


def _default_headers(settings: HTTPSettings) -> DefaultHeaders:
    extras: list[Header] = list(settings.encoded_headers)
    if settings.server_name:
        extras.append((b"server", settings.server_name.encode("latin-1")))
    return DefaultHeaders(extras, date=settings.date_header, wall_clock=time.time)


def _forwarded_policy(settings: Settings) -> ForwardedPolicy | None:
    compat, proxy = settings.app.daphne_compat, settings.proxy
    kind = DaphneForwardedPolicy if compat else ForwardedPolicy
    policy = kind.from_settings(proxy)
    if policy is not None and policy.peers.everyone and proxy.proxy_headers:
        _logger.warning(
            "forwarded_allow_ips holds *%s: whoever can connect chooses the client "
            "address and the scheme which the application sees",
            ", as daphne_compat has it" if compat else "",
        )
    return policy
