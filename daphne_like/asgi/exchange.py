"""
What HTTP exchanges and WebSockets have in common, seen from ASGI.

:class:`Exchange` is an application instance with its two channels. Which
message may come when is told by a table of states, each an :class:`ExchangeState`
with its messages and their handlers; any other message raises in the
application. An application that outlives its client is cancelled in time.

Tests: ``tests/unit/asgi/test_http_stream.py``, ``test_websocket_stream.py``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from reprlib import repr as short_repr
from time import monotonic
from typing import TYPE_CHECKING, Any

from daphne_like.asgi.error_pages import plain_page
from daphne_like.asgi.scope import http_scope
from daphne_like.errors import ClientDisconnected, InvalidMessage
from daphne_like.protocols.interfaces import Connection, ignore_limit

if TYPE_CHECKING:
    from asyncio import Future
    from collections.abc import Awaitable, Mapping

    from daphne_like.asgi.applications import ApplicationManager
    from daphne_like.asgi.error_pages import ErrorPage
    from daphne_like.asgi.forwarded import ForwardedPolicy
    from daphne_like.asgi.response_headers import FieldReader
    from daphne_like.asgi.scope import ScopeBuilder
    from daphne_like.asgi.types import Message
    from daphne_like.observability.log_formats import ExchangeLog
    from daphne_like.observability.metrics import Metrics
    from daphne_like.observability.request_ids import RequestIDs
    from daphne_like.protocols.deadlines import DeadlineWheel
    from daphne_like.protocols.interfaces import (
        Header,
        LimitHit,
        RequestHead,
        StreamSender,
    )

__all__ = [
    "Exchange",
    "ExchangeContext",
    "ExchangeState",
    "Handler",
    "with_drain_state",
]

_logger = logging.getLogger("daphne_like.server")


# What each HTTP exchange can use.
_EXTENSIONS: dict[str, dict[str, object]] = {
    "http.response.early_hint": {},
    "http.response.pathsend": {},
    "http.response.zerocopysend": {},
}


def with_drain_state(state: dict[str, object]) -> dict[str, dict[str, object]]:
    """Return the extensions, with what tells whether the server drains."""
    return {"daphne_like.draining": state, **_EXTENSIONS}


@dataclass(frozen=True, slots=True)
class ExchangeContext:
    """
    What all exchanges of a server share.

    Attributes:
        manager: Runs the applications.
        field_reader: Checks the header fields of responses.
        wheel: Keeps the deadlines of applications whose client has gone.
        application_close_timeout: Seconds which those may go on; 0 to cancel
            them at once.
        limit_concurrency: Running applications above which 503 is answered;
            0 for any number.
        root_path: Where the application is mounted.
        state: The lifespan's; ``None`` when the application has no lifespan.
        forwarded: Whom to believe about the client; ``None`` for nobody.
        access_log: ``None`` for no log.
        request_buffer_size: Bytes of a body in one event, for streams which
            look at it (:mod:`~daphne_like.asgi.request_events`).
        build_scope: Makes the scope of a request.
        error_page: Makes the body of an answer in the application's stead.
        version_status: Answers a WebSocket of an unknown version.
        late_sends_raise: Whether the application learns by an error that nobody
            will get its message.
        limit_hit: Is told of each limit that holds.
        metrics: Counts what observed streams tell it
            (:mod:`~daphne_like.asgi.observed_streams`).
        request_ids: Gives these an id.
        extensions: Those which each HTTP exchange can use. The dicts inside are
            shared, as they tell nothing of it.
    """

    manager: ApplicationManager
    field_reader: FieldReader
    wheel: DeadlineWheel
    application_close_timeout: float = 10.0
    limit_concurrency: int = 0
    root_path: str = ""
    state: dict[str, Any] | None = None
    forwarded: ForwardedPolicy | None = None
    access_log: ExchangeLog | None = None
    request_buffer_size: int = 0
    build_scope: ScopeBuilder = http_scope
    error_page: ErrorPage = plain_page
    version_status: int = 426
    late_sends_raise: bool = True
    limit_hit: LimitHit = ignore_limit
    metrics: Metrics | None = None
    request_ids: RequestIDs | None = None
    extensions: dict[str, dict[str, object]] = field(
        default_factory=lambda: with_drain_state({"begun": False})
    )


class ExchangeState:
    """
    Which messages an exchange accepts, and what handles each.

    Attributes:
        when: The state in words, for error messages.
        is_over: Nothing more goes to the client.
        accepts: Message types to handlers; a handler moves the state.
    """

    __slots__ = ("accepts", "is_over", "when")

    def __init__(
        self,
        when: str,
        accepts: Mapping[str, Handler] | None = None,
        *,
        is_over: bool = False,
    ) -> None:
        self.when = when
        self.is_over = is_over
        self.accepts = {} if accepts is None else {**accepts}


class Exchange:
    """
    A request, its application instance, and the client which may be gone.

    Attributes:
        head: The request.
        started: The instant of the monotonic clock when its head was complete.
        status: Of the answer; 0 when there is none.
        covered_from: See :class:`~daphne_like.protocols.deadlines.DeadlineHolder`.
    """

    __slots__ = (
        "_connection",
        "_context",
        "_deadline",
        "_sender",
        "_state",
        "_waiters",
        "covered_from",
        "head",
        "started",
        "status",
    )

    def __init__(
        self,
        context: ExchangeContext,
        head: RequestHead,
        connection: Connection,
        sender: StreamSender,
        state: ExchangeState,
    ) -> None:
        self._context = context
        self.head = head
        self._connection = connection
        self._sender = sender
        self.started = monotonic()
        self._state = state
        self._waiters: list[Future[None]] | None = None
        self.status = 0
        self.covered_from = inf

    # -- The beginning -------------------------------------------------------

    def _is_busy(self) -> bool:
        """Whether as many applications are running as may."""
        context = self._context
        busy = 0 < context.limit_concurrency <= len(context.manager.running)
        if busy:
            context.limit_hit("limit_concurrency")
        return busy

    def _mount(self) -> str:
        """
        Show the application the client in front of a trusted proxy.

        Returns:
            Where the application is mounted.
        """
        policy = self._context.forwarded
        if policy is None:
            return self._context.root_path
        connection, head = self._connection, self.head
        origin = policy.resolve(connection.client, connection.scheme, head.headers)
        if origin.headers is not head.headers:
            self.head = head.with_headers(origin.headers)
        self._connection = Connection(
            origin.client,
            connection.server,
            origin.scheme,
            connection.tls,
            connection.proxy,
        )
        told = origin.root_path
        return self._context.root_path if told is None else told

    # -- Messages of the application -----------------------------------------

    async def send(self, message: Message) -> None:
        """
        Take a message, and wait while the client is slower than that.

        Raises:
            InvalidMessage: ASGI forbids the message here.
            ClientDisconnected: Nobody will get it.
        """
        try:
            handler = self._state.accepts[message["type"]]
        except (KeyError, TypeError):
            handler = Exchange._misplaced
        pending = handler(self, message)
        if pending is not None:
            await pending

    def _misplaced(self, message: Message) -> Awaitable[None] | None:
        """Tell what is no message from one which the state doesn't accept."""
        try:
            hash(message["type"])
        except (KeyError, TypeError):
            raise InvalidMessage(
                f'a message must be a dict with a "type", not {short_repr(message)}'
            ) from None
        return self._refuse(message)

    def _refuse(self, message: Message) -> Awaitable[None] | None:
        """Find what is to become of a message which the state doesn't accept."""
        state = self._state
        if state.is_over:
            return self._send_too_late("the client has disconnected")
        expected = " or ".join(sorted(state.accepts))
        raise InvalidMessage(
            f"{message['type']!r} came {state.when}, where ASGI expects {expected}"
        )

    def _send_too_late(self, why: str) -> Awaitable[None]:
        """Tell that nobody will get the message, unless the application can't bear it."""
        if self._context.late_sends_raise:
            raise ClientDisconnected(why)
        # One that sends without an end must let others have their turn.
        return asyncio.sleep(0)

    # -- Waiting -------------------------------------------------------------

    def _change(self) -> Future[None]:
        """Return what is done as soon as something has changed."""
        waiter = asyncio.get_running_loop().create_future()
        if self._waiters:
            # Leave nothing of cancelled calls, as some poll by cancelling calls.
            self._waiters = [other for other in self._waiters if not other.done()]
            self._waiters.append(waiter)
        else:
            self._waiters = [waiter]
        return waiter

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    # -- Time (DeadlineHolder) -----------------------------------------------

    def _limit_application(self) -> None:
        """Give an application that nobody listens to a limited time to end."""
        context = self._context
        if self not in context.manager.running:
            return
        wheel, timeout = context.wheel, context.application_close_timeout
        if timeout:
            self._deadline = wheel.clock() + timeout
            if self._deadline < self.covered_from:
                wheel.schedule(self, self._deadline)
        else:
            self._cancel()

    def next_deadline(self) -> float:
        """Tell when the application's time is over."""
        return self._deadline

    def deadline_passed(self, now: float) -> None:
        """Cancel an application that outlives its client."""
        self._cancel()

    def _cancel(self) -> None:
        _logger.warning(
            "Cancelling the application, to which nobody listens any more: %s",
            self.describe(),
        )
        self._context.manager.cancel(self)

    # -- The manager's (ApplicationInstance) ---------------------------------

    async def receive(self) -> Message:
        """Hand the application its next event."""
        raise NotImplementedError

    def application_ended(self, error: BaseException | None) -> None:
        """Take note that the application has returned or raised."""
        raise NotImplementedError

    def describe(self) -> str:
        """Name the exchange in a log line: method, path and age."""
        path = self.head.target.partition(b"?")[0].decode("ascii", "backslashreplace")
        return f"{self.head.method} {path}, {self.duration:.1f} s old"

    # -- Told to logs (log_formats.Exchange) ---------------------------------

    @property
    def method(self) -> str:
        """The request's method, as received."""
        return self.head.method

    @property
    def target(self) -> bytes:
        """Path and query, as received."""
        return self.head.target

    @property
    def http_version(self) -> str:
        """The request's HTTP version."""
        return self.head.http_version

    @property
    def client(self) -> tuple[str, int] | None:
        """The client's address and port."""
        return self._connection.client

    @property
    def request_headers(self) -> list[Header]:
        """The request's header fields."""
        return self.head.headers

    @property
    def duration(self) -> float:
        """Seconds since the head of the request was complete."""
        return monotonic() - self.started


# The first argument is of the class which the state is one of.
Handler = Callable[[Any, "Message"], "Awaitable[None] | None"]
