"""Tests of ``daphne_like.asgi.lifespan``."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
from asgi_messages import failure_of
from recorded_log import RecordedLog
from stepped_loop import SteppedLoop

from daphne_like.asgi.lifespan import Lifespan
from daphne_like.asgi.types import ASGIApplication, Message, Receive, Scope, Send
from daphne_like.errors import InvalidMessage, LifespanFailed

COMPLETE = {"type": "lifespan.startup.complete"}
STOPPED = {"type": "lifespan.shutdown.complete"}


class Life:
    """A lifespan whose start and stop the test begins."""

    def __init__(
        self, loop: SteppedLoop, application: ASGIApplication, *arguments: Any
    ) -> None:
        self.loop = loop
        self.lifespan = Lifespan(application, *arguments)
        self.starting = loop.create_task(self.lifespan.startup())
        loop.settle()

    def failure(self) -> str:
        """Return why the start failed."""
        error = self.starting.exception()
        assert isinstance(error, LifespanFailed)
        assert 3 == error.exit_status
        return str(error)

    def started(self) -> bool:
        """Whether the server may go on."""
        return self.starting.done() and self.starting.exception() is None

    def stop(self) -> asyncio.Task[None]:
        """Begin to stop."""
        stopping = self.loop.create_task(self.lifespan.shutdown())
        self.loop.settle()
        return stopping


LiveFixture = Callable[..., Life]


@pytest.fixture
def live(loop: SteppedLoop) -> LiveFixture:
    """Start applications."""

    def live(application: Any, *arguments: Any) -> Life:
        return Life(loop, application, *arguments)

    return live


class Obedient:
    """An application that takes part in lifespan as it should."""

    def __init__(self) -> None:
        self.scopes: list[Scope] = []
        self.events: list[Message] = []
        self.may_start = asyncio.Event()
        self.may_stop = asyncio.Event()
        self.may_start.set()
        self.may_stop.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Live."""
        self.scopes.append(scope)
        self.events.append(await receive())
        await self.may_start.wait()
        scope["state"]["pool"] = "open"
        await send(COMPLETE)
        self.events.append(await receive())
        await self.may_stop.wait()
        await send(STOPPED)


def test_scope(live: LiveFixture) -> None:
    """The application is asked once, with a scope of its own (L1, L2)."""
    application = Obedient()
    live(application)

    assert [
        {
            "type": "lifespan",
            "asgi": {"version": "3.0", "spec_version": "2.0"},
            "state": {"pool": "open"},
        }
    ] == application.scopes


def test_state_is_empty_at_first(live: LiveFixture) -> None:
    """The state is the application's to fill (L2)."""
    states = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        states.append(dict(scope["state"]))

    live(application)

    assert [{}] == states


def test_whole_life(live: LiveFixture, loop: SteppedLoop) -> None:
    """Start and stop are told, each when it is time (L3, L4, L7, L8)."""
    application = Obedient()
    application.may_start.clear()
    application.may_stop.clear()

    life = live(application)
    assert [{"type": "lifespan.startup"}] == application.events
    assert not life.started()
    application.may_start.set()
    loop.settle()
    assert life.started()
    assert [{"type": "lifespan.startup"}] == application.events

    stopping = life.stop()
    assert {"type": "lifespan.shutdown"} == application.events[-1]
    assert not stopping.done()
    application.may_stop.set()
    loop.settle()

    assert stopping.done()
    assert 2 == len(application.events)


def test_state_is_kept(live: LiveFixture) -> None:
    """What the application put there is what requests get (L9)."""
    application = Obedient()
    life = live(application)

    assert application.scopes[0]["state"] is life.lifespan.state
    assert {"pool": "open"} == life.lifespan.state
    life.stop()
    assert {"pool": "open"} == life.lifespan.state


def test_runs_on_the_loop_that_serves(live: LiveFixture, loop: SteppedLoop) -> None:
    """Pools made at the start can be used in requests (L1)."""
    loops = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        loops.append(asyncio.get_running_loop())

    live(application)

    assert [loop] == loops


# -- Applications without lifespan -------------------------------------------


async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse as Django and Channels do."""
    raise ValueError("Django can only handle ASGI/HTTP connections, not lifespan.")


async def ignore(scope: Scope, receive: Receive, send: Send) -> None:
    """Know no lifespan, and say nothing."""


def no_coroutine(scope: Scope, receive: Receive, send: Send) -> None:
    """Be no application at all."""


@pytest.mark.parametrize("application", [refuse, ignore, no_coroutine])
def test_without_lifespan(
    live: LiveFixture, log: RecordedLog, application: ASGIApplication
) -> None:
    """An application that knows no lifespan starts without noise (C15, L6)."""
    life = live(application, "auto")

    assert life.started()
    assert life.lifespan.state is None
    assert life.stop().done()
    assert [] == log.take(logging.INFO)


@pytest.mark.parametrize(
    "error", [SystemExit(1), asyncio.CancelledError(), KeyboardInterrupt()], ids=repr
)
def test_any_error_at_the_scope(
    live: LiveFixture, log: RecordedLog, error: BaseException
) -> None:
    """No kind of refusal stops the server (C15, L6, L12)."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        raise error

    life = live(application)

    assert life.started()
    assert life.lifespan.state is None
    assert [] == log.take(logging.INFO)


def test_error_in_the_start(live: LiveFixture, log: RecordedLog) -> None:
    """The server goes on without lifespan, and says what went wrong (L6)."""
    events = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        events.append(await receive())
        raise ConnectionRefusedError("no database")

    life = live(application)

    assert life.started()
    assert life.lifespan.state is None
    assert ["INFO Exception in lifespan startup"] == log.take(logging.INFO)
    assert life.stop().done()
    assert 1 == len(events)


def test_off(live: LiveFixture) -> None:
    """With off the application isn't asked (L10)."""
    application = Obedient()

    life = live(application, "off")

    assert life.started()
    assert life.stop().done()
    assert [] == application.scopes
    assert life.lifespan.state is None


def test_on(live: LiveFixture) -> None:
    """With on an application with lifespan lives as with auto (L10)."""
    application = Obedient()

    life = live(application, "on")

    assert life.started()
    life.stop()
    assert 2 == len(application.events)


def test_on_and_refused(live: LiveFixture, log: RecordedLog) -> None:
    """With on an exception is fatal, and its traceback is logged (L10)."""
    life = live(refuse, "on")

    assert life.failure().startswith(
        "Application startup failed: ValueError: Django can only"
    )
    assert ["ERROR Exception in lifespan startup"] == log.take()


def test_on_and_ignored(live: LiveFixture) -> None:
    """With on an application must answer (L10)."""
    assert (
        "Application startup failed: it returned without answering lifespan.startup"
    ) == live(ignore, "on").failure()


# -- Failures ----------------------------------------------------------------


@pytest.mark.parametrize("mode", ["auto", "on"])
@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"message": "no database"}, "no database"),
        ({"message": ""}, "no reason given"),
        ({}, "no reason given"),
        ({"message": 5}, "5"),
    ],
    ids=repr,
)
def test_failed_start(
    live: LiveFixture, message: dict[str, Any], text: str, mode: str
) -> None:
    """What the application says is what the user reads (L5)."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", **message})

    life = live(application, mode)

    assert f"Application startup failed: {text}" == life.failure()
    assert life.stop().done()


def test_failed_start_with_an_exception(live: LiveFixture, log: RecordedLog) -> None:
    """A framework that reports its exception and raises it is heard once (L5)."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})
        raise ConnectionRefusedError("no database")

    assert "Application startup failed: no database" == live(application).failure()
    assert [] == log.take(logging.INFO)


def test_failed_start_that_goes_on(live: LiveFixture, loop: SteppedLoop) -> None:
    """An application that lives on after its failure is ended (L5)."""
    ends = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no"})
        ends.append(await failure_of(send(COMPLETE)))
        try:
            await receive()
        finally:
            ends.append(None)

    life = live(application)
    loop.advance(0.5)

    assert "Application startup failed: no" == life.failure()
    assert isinstance(ends[0], InvalidMessage)
    assert 2 == len(ends)


@pytest.mark.parametrize("mode", ["auto", "on"])
@pytest.mark.parametrize("receives", [False, True])
def test_start_takes_too_long(
    live: LiveFixture, loop: SteppedLoop, log: RecordedLog, mode: str, receives: bool
) -> None:
    """A start that hangs doesn't hang in silence (L11)."""
    ends = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if receives:
                await receive()
            await asyncio.sleep(3600)
        finally:
            ends.append(await failure_of(send(COMPLETE)))

    life = live(application, mode, 60.0)
    loop.advance(59)
    assert not life.starting.done()
    loop.advance(1)
    loop.advance(1)

    assert (
        "Application startup failed: no answer to lifespan.startup within 60 seconds "
        "(--timeout-startup, --lifespan off)"
    ) == life.failure()
    assert [InvalidMessage] == [type(end) for end in ends]
    assert [] == log.take()


def test_start_without_limit(live: LiveFixture, loop: SteppedLoop) -> None:
    """With 0 a start may take as long as it takes (L11)."""
    application = Obedient()
    application.may_start.clear()
    life = live(application, "auto", 0)

    loop.advance(100_000)
    assert not life.starting.done()
    application.may_start.set()
    loop.settle()

    assert life.started()


def test_server_is_stopped_in_the_start(
    live: LiveFixture, loop: SteppedLoop, log: RecordedLog
) -> None:
    """A signal during the start ends the application, too (L12)."""
    ends = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise

    life = live(application, "on")
    life.starting.cancel()
    loop.settle()

    assert life.starting.cancelled()
    assert ["cancelled"] == ends
    assert life.stop().done()
    assert [] == log.take()


def test_failed_stop(live: LiveFixture, log: RecordedLog) -> None:
    """What went wrong at the end is logged, and the server ends (L8)."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(COMPLETE)
        await receive()
        await send({"type": "lifespan.shutdown.failed", "message": "disk full"})
        raise OSError("disk full")

    assert live(application).stop().done()
    assert ["ERROR Application shutdown failed: disk full"] == log.take()


def test_error_in_the_stop(live: LiveFixture, log: RecordedLog) -> None:
    """An exception at the end is logged with its traceback (L8)."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(COMPLETE)
        await receive()
        raise OSError("disk full")

    assert live(application).stop().done()
    assert ["ERROR Exception in the application's lifespan"] == log.take()


def test_return_in_the_stop(live: LiveFixture) -> None:
    """An application that just returns at the end has ended (L8)."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(COMPLETE)
        await receive()

    assert live(application).stop().done()


def test_stop_takes_too_long(
    live: LiveFixture, loop: SteppedLoop, log: RecordedLog
) -> None:
    """The end is not put off for ever, also if a cancellation is swallowed (L11)."""
    gate = asyncio.Event()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(COMPLETE)
        await receive()
        while not gate.is_set():
            try:
                await gate.wait()
            except asyncio.CancelledError:
                continue

    stopping = live(application, "auto", 60.0, 30.0).stop()
    loop.advance(29)
    assert not stopping.done()
    assert [] == log.take()
    for _ in range(3):
        loop.advance(0.5)
    loop.advance(1)

    assert stopping.done()
    assert ["ERROR Application shutdown isn't complete after 30 seconds"] == log.take()
    gate.set()


def test_stop_without_limit(live: LiveFixture, loop: SteppedLoop) -> None:
    """With 0 the end may take as long as it takes (L11)."""
    application = Obedient()
    application.may_stop.clear()
    stopping = live(application, "auto", 60.0, 0).stop()

    loop.advance(100_000)
    assert not stopping.done()
    application.may_stop.set()
    loop.settle()

    assert stopping.done()


def test_work_after_the_last_message(live: LiveFixture, loop: SteppedLoop) -> None:
    """An application may do something after its last message, for a moment (L8)."""
    done = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(COMPLETE)
        await receive()
        await send(STOPPED)
        await asyncio.sleep(0.25)
        done.append("closed")

    stopping = live(application).stop()
    loop.advance(0.25)

    assert stopping.done()
    assert ["closed"] == done


# -- Leaving early -----------------------------------------------------------


@pytest.mark.parametrize("later", [False, True])
def test_return_after_the_start(
    live: LiveFixture, loop: SteppedLoop, log: RecordedLog, later: bool
) -> None:
    """The server goes on, with the state, and asks nothing at the end (L9, L12)."""
    gate = asyncio.Event()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["pool"] = "open"
        await receive()
        await send(COMPLETE)
        if later:
            await gate.wait()

    for mode in ("auto", "on"):
        life = live(application, mode)
        gate.set()
        loop.settle()

        assert life.started()
        assert {"pool": "open"} == life.lifespan.state
        assert life.stop().done()
        lines = log.take(logging.DEBUG)
        assert ["DEBUG The application has left its lifespan: None"] == lines


@pytest.mark.parametrize("later", [False, True])
def test_error_after_the_start(
    live: LiveFixture, loop: SteppedLoop, log: RecordedLog, later: bool
) -> None:
    """A fault while the server runs is logged; the server goes on (L12)."""
    gate = asyncio.Event()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["pool"] = "open"
        await receive()
        await send(COMPLETE)
        if later:
            await gate.wait()
        raise ValueError("wrong")

    life = live(application)
    gate.set()
    loop.settle()

    assert life.started()
    assert ["ERROR Exception in the application's lifespan"] == log.take()
    assert {"pool": "open"} == life.lifespan.state
    assert life.stop().done()


# -- Messages that ASGI forbids ----------------------------------------------


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (None, 'must be a dict with a "type", not None'),
        ({}, 'must be a dict with a "type", not {}'),
        (
            {"type": "lifespan.complete"},
            "ASGI expects lifespan.startup.complete or lifespan.startup.failed",
        ),
        (STOPPED, "where ASGI expects lifespan.startup.complete"),
        ({"type": ["x"]}, "where ASGI expects lifespan.startup.complete"),
        ({"type": "http.response.start"}, "where ASGI expects lifespan.startup"),
    ],
    ids=repr,
)
def test_forbidden_message(live: LiveFixture, message: Any, text: str) -> None:
    """What is wrong is told out of send(), and can still be put right (C8)."""
    failures = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        failures.append(await failure_of(send(message)))
        await send({**COMPLETE, "surplus": True})

    life = live(application)

    assert isinstance(failures[0], InvalidMessage)
    assert text in str(failures[0])
    assert life.started()


def test_answer_without_being_asked(live: LiveFixture, loop: SteppedLoop) -> None:
    """Each question is answered once (C8)."""
    failures = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await send(COMPLETE)
        failed = {"type": "lifespan.startup.failed"}
        failures.extend(
            [await failure_of(send(message)) for message in (COMPLETE, failed, STOPPED)]
        )
        await receive()
        await receive()
        await send(STOPPED)
        failures.append(await failure_of(send(STOPPED)))

    life = live(application)
    assert life.started()
    life.stop()

    assert [
        "'lifespan.startup.complete' while the application is running",
        "'lifespan.startup.failed' while the application is running",
        "'lifespan.shutdown.complete' while the application is running",
        "'lifespan.shutdown.complete' after lifespan.shutdown was answered",
    ] == [str(failure) for failure in failures]
