"""Tests of ``daphne_like.asgi.applications``."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import sys
import weakref
from functools import partial
from typing import Any

import pytest
from recorded_log import RecordedLog
from stepped_loop import SteppedLoop

from daphne_like.asgi.applications import ApplicationManager, log_error
from daphne_like.asgi.types import Message, Receive, Scope, Send
from daphne_like.errors import ClientDisconnected

SCOPE: Scope = {"type": "http"}


class Instance:
    """An instance that remembers how it ended."""

    def __init__(self) -> None:
        self.ends: list[BaseException | None] = []

    async def receive(self) -> Message:
        """Wait for ever."""
        await asyncio.sleep(3600)
        return {}

    async def send(self, message: Message) -> None:
        """Take anything."""

    def application_ended(self, error: BaseException | None) -> None:
        """Remember."""
        self.ends.append(error)

    def describe(self) -> str:
        """Name itself."""
        return "GET /here, 1.0 s old"


@pytest.fixture(
    params=[
        pytest.param(
            "eager",
            marks=pytest.mark.skipif(
                sys.version_info < (3, 12), reason="Python has no eager tasks"
            ),
        ),
        "lazy",
    ]
)
def managed(request: pytest.FixtureRequest, loop: SteppedLoop) -> Any:
    """Make managers, whose tasks begin at once or in the next turn of the loop."""

    def managed(application: Any) -> ApplicationManager:
        manager = loop.do(_manager(application))
        if request.param == "lazy":
            manager._new_task = partial(asyncio.Task, loop=loop)
        return manager

    return managed


async def _manager(application: Any) -> ApplicationManager:
    return ApplicationManager(application, asyncio.get_running_loop())


def start(loop: SteppedLoop, manager: ApplicationManager) -> Instance:
    """Start an instance, as a protocol does: in a turn of the loop."""
    instance = Instance()
    loop.call_soon(manager.start, instance, SCOPE)
    loop.settle()
    return instance


async def wait(scope: Scope, receive: Receive, send: Send) -> None:
    """Wait for ever."""
    await receive()


def test_application_gets_scope_and_channels(managed: Any, loop: SteppedLoop) -> None:
    """An ASGI 3 application is called once with all three arguments (C5, C6)."""
    calls = []

    async def application(*arguments: Any) -> None:
        calls.append(arguments)

    instance = start(loop, managed(application))

    assert [(SCOPE, instance.receive, instance.send)] == calls
    assert [None] == instance.ends


def test_instances_are_counted(managed: Any, loop: SteppedLoop) -> None:
    """What is running is known, from its start to its end."""
    gate = asyncio.Event()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await gate.wait()

    manager = managed(application)
    first, second = start(loop, manager), start(loop, manager)
    assert {first, second} == set(manager.running)

    gate.set()
    loop.settle()

    assert {} == manager.running
    assert [None] == first.ends == second.ends


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python has no eager tasks")
def test_application_that_needs_no_waiting(loop: SteppedLoop) -> None:
    """A small response is made within the turn that brought the request."""
    instance, left = Instance(), []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await send({})

    manager = loop.do(_manager(application))

    def arrive() -> None:
        manager.start(instance, SCOPE)
        left.append([*instance.ends])

    loop.call_soon(arrive)
    loop.settle()

    assert [[None]] == left
    assert {} == manager.running


def test_context_variables_stay_within_their_request(
    managed: Any, loop: SteppedLoop
) -> None:
    """A request that begins within another one's send() doesn't get its user."""
    user = contextvars.ContextVar("user", default="nobody")
    seen = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(user.get())
        user.set("ada")
        if len(seen) < 4:
            # As a pipelined request does, when the response before it is complete.
            manager.start(Instance(), SCOPE)

    manager = managed(application)
    start(loop, manager)
    start(loop, manager)

    assert ["nobody"] * 5 == seen
    assert {} == manager.running


def test_context_of_the_server_is_seen(loop: SteppedLoop) -> None:
    """What was set before the server started is there for each request."""
    setting = contextvars.ContextVar("setting", default="")
    seen = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(setting.get())

    async def serve() -> ApplicationManager:
        setting.set("set by the program")
        return ApplicationManager(application, asyncio.get_running_loop())

    manager = loop.do(serve())
    start(loop, manager)

    assert ["set by the program"] == seen


@pytest.mark.parametrize(
    "error", [ValueError("x"), SystemExit(1), KeyboardInterrupt()], ids=repr
)
def test_errors_are_told(managed: Any, loop: SteppedLoop, error: Exception) -> None:
    """Whatever an application raises, it has ended, and the server hasn't (C10)."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        raise error

    manager = managed(application)
    instance = start(loop, manager)

    assert [error] == instance.ends
    assert {} == manager.running


def test_error_is_freed(managed: Any, loop: SteppedLoop) -> None:
    """What an application left behind is freed at once, without a collection."""

    class Left:
        pass

    references = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        left = Left()
        references.append(weakref.ref(left))
        raise ValueError

    manager = managed(application)
    gc.collect()
    gc.disable()
    try:
        start(loop, manager).ends.clear()
        assert [None] == [reference() for reference in references]
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "application",
    [
        pytest.param(lambda scope, receive, send: None, id="returns None"),
        pytest.param(lambda scope: None, id="takes one argument"),
        pytest.param(None, id="can't be called"),
    ],
)
def test_no_asgi_application(managed: Any, loop: SteppedLoop, application: Any) -> None:
    """The error says what ASGI asks for, and what Python found (C6)."""
    (error,) = start(loop, managed(application)).ends

    assert isinstance(error, TypeError)
    assert "await application(scope, receive, send)" in str(error)
    assert error.__traceback__ is None


def test_type_error_of_the_application_is_its_own(
    managed: Any, loop: SteppedLoop
) -> None:
    """A TypeError within the application is shown as it is (C10)."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        len(5)  # type: ignore[arg-type]

    (error,) = start(loop, managed(application)).ends

    assert "object of type 'int' has no len()" == str(error)


# -- Cancelling --------------------------------------------------------------


def test_cancel(managed: Any, loop: SteppedLoop) -> None:
    """A cancelled application learns it once, and may take leave (C16)."""
    steps = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await receive()
        except asyncio.CancelledError:
            steps.append("cancelled")
            await asyncio.sleep(1)
            steps.append("cleaned up")
            raise

    manager = managed(application)
    instance = start(loop, manager)
    for _ in range(3):
        manager.cancel(instance)
        loop.settle()
    loop.advance(1)

    assert ["cancelled", "cleaned up"] == steps
    assert [asyncio.CancelledError] == [type(error) for error in instance.ends]
    loop.advance(60)


def test_cancelled_before_its_first_step(loop: SteppedLoop) -> None:
    """An instance that never got its turn ends all the same (C16)."""
    manager = loop.do(_manager(wait))
    manager._new_task = partial(asyncio.Task, loop=loop)
    instance = Instance()

    async def start_and_cancel() -> None:
        manager.start(instance, SCOPE)
        manager.cancel(instance)

    loop.do(start_and_cancel())

    assert [asyncio.CancelledError] == [type(error) for error in instance.ends]
    assert {} == manager.running


def test_cancel_what_has_ended(managed: Any, loop: SteppedLoop) -> None:
    """It is too late to cancel what has ended."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        pass

    manager = managed(application)
    instance = start(loop, manager)

    manager.cancel(instance)
    loop.settle()

    assert [None] == instance.ends


def test_cancellation_is_swallowed(managed: Any, loop: SteppedLoop) -> None:
    """An application may finish in spite of it (C16)."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await receive()
        except asyncio.CancelledError:
            return

    manager = managed(application)
    instance = start(loop, manager)

    manager.cancel(instance)
    loop.settle()

    assert [None] == instance.ends


def test_what_goes_on_is_left_behind(
    managed: Any, loop: SteppedLoop, log: RecordedLog
) -> None:
    """Nobody waits for an application that won't end; its end is still noted (C16)."""
    gate = asyncio.Event()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        while not gate.is_set():
            try:
                await gate.wait()
            except asyncio.CancelledError:
                continue

    manager = managed(application)
    instance = start(loop, manager)
    manager.cancel_all()
    loop.settle()
    assert ["WARNING Cancelling the application: GET /here, 1.0 s old"] == log.take()

    waiting = loop.create_task(manager.ended())
    loop.advance(4)
    assert not waiting.done()
    loop.advance(2)

    assert waiting.done()
    assert [
        "ERROR The application goes on although it was cancelled: GET /here, 1.0 s old"
    ] == log.take()
    gate.set()
    loop.settle()
    assert [None] == instance.ends


def test_cancel_all_leaves_out_the_cancelled(
    managed: Any, loop: SteppedLoop, log: RecordedLog
) -> None:
    """Each instance is cancelled once, for whatever reason (C16)."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await receive()
        except asyncio.CancelledError:
            await asyncio.sleep(2)

    manager = managed(application)
    first, second = start(loop, manager), start(loop, manager)

    manager.cancel(first)
    loop.settle()
    manager.cancel_all()
    loop.settle()
    loop.advance(2)

    assert [None] == first.ends == second.ends
    assert 1 == len(log.take())


def test_cancelled_by_somebody_else(managed: Any, loop: SteppedLoop) -> None:
    """A cancellation that isn't the server's is an error, and traceable (C10)."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        raise asyncio.CancelledError

    (error,) = start(loop, managed(application)).ends

    assert "the application was cancelled, but not by the server" == str(error)
    assert isinstance(error, RuntimeError)
    cause = error.__cause__
    assert cause is not None
    assert cause.__traceback__ is not None
    assert "application" == cause.__traceback__.tb_frame.f_code.co_name


# -- Waiting for the end -----------------------------------------------------


def test_nothing_to_wait_for(managed: Any, loop: SteppedLoop) -> None:
    """A server without requests stops at once."""
    manager = managed(wait)

    assert loop.create_task(manager.ended()) is not None
    loop.do(manager.ended())


def test_several_wait_for_the_end(managed: Any, loop: SteppedLoop) -> None:
    """Whoever waits for the last instance is told, one who gives up excepted."""
    manager = managed(wait)
    instances = [start(loop, manager) for _ in range(2)]
    waiting = [loop.create_task(manager.ended()) for _ in range(3)]
    loop.settle()

    waiting[0].cancel()
    manager.cancel(instances[0])
    loop.settle()
    assert [True, False, False] == [task.done() for task in waiting]
    manager.cancel(instances[1])
    loop.settle()

    assert all(task.done() for task in waiting)


def test_new_instance_while_waiting_for_the_end(
    managed: Any, loop: SteppedLoop
) -> None:
    """The end is the end of all, also of those who came late."""
    manager = managed(wait)
    first = start(loop, manager)
    waiting = loop.create_task(manager.ended())
    loop.settle()

    async def replace() -> None:
        manager.cancel(first)
        await asyncio.sleep(0)
        manager.start(second, SCOPE)

    second = Instance()
    loop.do(replace())
    assert not waiting.done()
    manager.cancel(second)
    loop.settle()

    assert waiting.done()


# -- The log -----------------------------------------------------------------


def test_error_is_logged_without_our_frames(
    managed: Any, loop: SteppedLoop, log: RecordedLog
) -> None:
    """The traceback shows the application's code, and no more (C10)."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("wrong")

    instance = start(loop, managed(application))
    (error,) = instance.ends
    assert error is not None
    log_error(instance, error, client_gone=False)

    (record,) = log.records
    text = logging.Formatter().format(record)
    assert text.startswith("Exception in the application: GET /here, 1.0 s old\n")
    assert "in application\n" in text
    assert "ValueError: wrong" in text
    assert "applications.py" not in text.replace("test_applications.py", "")
    log.take()


@pytest.mark.parametrize("client_gone", [False, True])
def test_farewell_counts_after_the_client_has_gone_only(
    log: RecordedLog, client_gone: bool
) -> None:
    """An error that speaks of a client which is there is an error (C11, H31)."""
    log_error(Instance(), ClientDisconnected("gone"), client_gone=client_gone)

    assert client_gone == (not log.take())


def test_cancellation_is_not_logged(log: RecordedLog) -> None:
    """Whoever cancelled it has said so (C16)."""
    log_error(Instance(), asyncio.CancelledError(), client_gone=False)

    assert [] == log.take()


def test_error_raised_without_traceback(log: RecordedLog) -> None:
    """An error that was never raised can be logged, too."""
    log_error(Instance(), ValueError("made"), client_gone=True)

    assert 1 == len(log.take())
