"""Tests of ``daphne_like.testing.live_server``, without processes and sockets."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import pickle
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from multiprocessing.context import BaseContext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import django
import pytest

from daphne_like import reactor, server
from daphne_like.errors import ClientDisconnected, ListenError
from daphne_like.testing import (
    BaseDaphneTestingInstance,
    DaphneProcess,
    DaphneTestingInstance,
    TestApplication,
    live_server,
)

OK = {"type": "http.response.start", "status": 200}
REQUEST = {"type": "http.request", "body": b"", "more_body": False}


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Stand for an application."""


# -- The process -----------------------------------------------------------------------


class FakeServer:
    """Stands for the server, and tells what happens to it."""

    events: list[Any]
    failure: BaseException | None = None
    error: BaseException | None = None

    def __init__(
        self, application: object, endpoints: Iterable[str], **keywords: Any
    ) -> None:
        self.events.append((application, endpoints, keywords))
        self.listening_addresses = [("127.0.0.1", 4321)]

    async def startup(self) -> None:
        """Listen."""

    def run(self) -> None:
        """Start, and stop at once."""
        self.events.append("run")
        if self.error is not None:
            raise self.error
        asyncio.run(self.startup())


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Let processes run here, with a server that does nothing."""
    events: list[Any] = []
    monkeypatch.setattr(FakeServer, "events", events, raising=False)
    monkeypatch.setattr(server, "Server", FakeServer)
    monkeypatch.setattr(reactor, "install", events.append)
    # Whatever stands there is gone in the process, and comes back after the test.
    monkeypatch.setitem(sys.modules, "twisted.internet.reactor", threading)
    return events


def test_a_process_serves_and_tells_its_port(events: list[Any]) -> None:
    """It has a reactor of its own, serves in Daphne's manner, and is then ready."""
    process = DaphneProcess(
        "localhost",
        lambda: application,
        {"http_timeout": 3},
        setup=lambda: events.append("set up"),
        teardown=lambda: events.append("torn down"),
    )
    assert not process.ready.is_set()
    process.run()

    assert [
        "auto",
        (
            application,
            ["tcp:port=0:interface=localhost"],
            {"signal_handlers": False, "daphne_compat": True, "http_timeout": 3},
        ),
        "set up",
        "run",
        "torn down",
    ] == events
    assert "twisted.internet.reactor" not in sys.modules
    assert 4321 == process.port.value
    assert process.ready.is_set()
    assert isinstance(process.server, FakeServer)


def test_port_and_manners_can_be_chosen(events: list[Any]) -> None:
    """A given port is asked for; keywords of the server win over the usual ones."""
    keywords = {"daphne_compat": False, "loop": "asyncio"}
    DaphneProcess("::1", lambda: application, keywords, port=80).run()

    loop, (_, endpoints, given), _ = events
    assert "asyncio" == loop
    assert [r"tcp:port=80:interface=\:\:1"] == endpoints
    assert {"signal_handlers": False, **keywords} == given


@pytest.mark.parametrize(
    ("error", "failure", "told"),
    [
        (ZeroDivisionError("no"), None, ZeroDivisionError),
        (SystemExit(1), ListenError("Listen failure: in use"), ListenError),
    ],
)
def test_what_goes_wrong_is_told(
    events: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    failure: BaseException | None,
    told: type[BaseException],
) -> None:
    """The parent gets the reason with its traceback; what was set up is torn down."""
    monkeypatch.setattr(FakeServer, "error", error)
    monkeypatch.setattr(FakeServer, "failure", failure)
    process = DaphneProcess(
        "localhost", lambda: application, teardown=lambda: events.append("torn down")
    )
    with pytest.raises(SystemExit) as raised:
        process.run()

    assert 1 == raised.value.code
    reason, text = process.errors.get(timeout=10)
    assert isinstance(reason, told)
    assert str(failure or error) in text
    assert "torn down" == events[-1]
    assert not process.ready.is_set()
    process.errors.close()
    process.errors.join_thread()


class Unpicklable(Exception):
    """An exception which can be made only with a second argument."""

    def __init__(self, text: str, more: object) -> None:
        super().__init__(text)


def test_errors_reach_the_parent_in_any_case() -> None:
    """Those which can't be pickled do so in words."""
    as_it_is = ZeroDivisionError("no")
    in_words = live_server._picklable(Unpicklable("no", threading.Lock()))

    assert live_server._picklable(as_it_is) is as_it_is
    assert "RuntimeError('Unpicklable: no')" == repr(in_words)


def load() -> Callable[..., Any]:
    """Return an application; can be pickled."""
    return application


class OwnProcess(DaphneProcess):
    """A project's own class."""


def test_a_spawned_process_imports_this_package_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """
    Only then comes the project's module, which may import ``daphne`` (by way of
    ``channels.testing``).
    """
    spawning: BaseContext = multiprocessing.get_context("spawn")
    for name in ("Value", "Event", "Queue"):
        monkeypatch.setattr(multiprocessing, name, lambda *arguments: None)
    process = OwnProcess("localhost", load, {"http_timeout": 3})
    process._config = {}  # type: ignore[attr-defined]
    data = pickle.dumps(process)
    copy = pickle.loads(data)

    assert spawning.get_start_method() == "spawn"
    assert data.index(b"daphne_like.testing") < data.index(b"OwnProcess")
    assert isinstance(copy, OwnProcess)
    assert {"http_timeout": 3} == copy.kwargs
    assert copy.get_application is load


@pytest.mark.parametrize(
    ("ready", "settings", "times"), [(True, "x", 1), (False, "x", 0), (True, None, 0)]
)
def test_a_spawned_process_sets_django_up_first(
    monkeypatch: pytest.MonkeyPatch, ready: bool, settings: str | None, times: int
) -> None:
    """Where the parent has, and the environment names the settings."""
    calls: list[bool] = []
    apps = SimpleNamespace(apps=SimpleNamespace(ready=ready))
    monkeypatch.setitem(sys.modules, "django.apps", apps)
    monkeypatch.setattr(django, "setup", lambda: calls.append(True))
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE", raising=False)
    if settings is not None:
        monkeypatch.setenv("DJANGO_SETTINGS_MODULE", settings)
    pickle.loads(pickle.dumps(live_server._Preparation()))

    assert times == len(calls)


# -- Instances ------------------------------------------------------------------------


class FakeEvent:
    """An event for which nobody has to wait."""

    is_set = False

    def wait(self, timeout: float) -> bool:
        """Tell at once whether it is set."""
        return self.is_set


class FakeProcess:
    """Stands for the process: ready at once, or never."""

    made: list[FakeProcess]
    ready_at_once = True
    alive = True
    told: tuple[Any, str] | None = None

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.port = multiprocessing.Value("i", 4321)
        self.ready = FakeEvent()
        self.errors: Any = multiprocessing.Queue()
        self.ended: list[str] = []
        self.exitcode = 1
        self.made.append(self)

    def start(self) -> None:
        """Be ready, or fail."""
        if self.ready_at_once:
            self.ready.is_set = True
        elif self.told is not None:
            self.errors.put(self.told)

    def is_alive(self) -> bool:
        """Tell whether it runs; in the end only a kill helps."""
        return self.alive and "killed" not in self.ended

    def terminate(self) -> None:
        """End it."""
        self.ended.append("terminated")

    def kill(self) -> None:
        """End it for sure."""
        self.ended.append("killed")

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end."""
        self.errors.close()
        self.errors.join_thread()


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> list[FakeProcess]:
    """Note which processes would be started."""
    made: list[FakeProcess] = []
    monkeypatch.setattr(FakeProcess, "made", made, raising=False)
    monkeypatch.setattr(live_server, "DaphneProcess", FakeProcess)
    monkeypatch.setattr(live_server, "_LOOK_INTERVAL", 0.001)
    monkeypatch.setattr(BaseDaphneTestingInstance, "startup_timeout", 0.003)
    return made


def test_an_instance_serves_while_its_block_lasts(
    processes: list[FakeProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It knows where; its arguments become keywords of the server."""
    monkeypatch.setattr(FakeProcess, "alive", False)
    instance = BaseDaphneTestingInstance(
        xff=True,
        http_timeout=3,
        request_buffer_size=5,
        websocket_max_message_size=0,
        websocket_max_frame_size=7,
        application=application,
    )
    with instance as entered:
        [process] = processes
        assert entered is instance
        assert ("127.0.0.1", 4321) == (instance.host, instance.port)
        assert vars(instance)["process"] is process
        assert instance.get_received() is None

    host, get_application, keywords, setup, teardown = process.arguments
    assert "127.0.0.1" == host
    assert get_application() is application
    assert {
        "http_timeout": 3,
        "proxy_forwarded_address_header": "X-Forwarded-For",
        "proxy_forwarded_port_header": "X-Forwarded-Port",
        "proxy_forwarded_proto_header": "X-Forwarded-Proto",
        "request_buffer_size": 5,
        "websocket_max_frame_size": 7,
        "websocket_max_message_size": 0,
    } == keywords
    assert setup() is None
    assert teardown() is None
    assert ["terminated"] == process.ended


def test_by_default_the_server_has_its_defaults(processes: list[FakeProcess]) -> None:
    """Nothing is given to the server; a process that won't end is killed."""
    with BaseDaphneTestingInstance(application=application):
        pass

    assert {} == processes[0].arguments[2]
    assert ["terminated", "killed"] == processes[0].ended


@pytest.mark.parametrize(
    ("alive", "told", "reason"),
    [
        (True, None, "it takes more than 0.003 seconds"),
        (False, None, "it has ended with status 1"),
        (False, (ValueError("no"), "Traceback ... no"), "\nTraceback ... no"),
    ],
)
def test_a_start_that_fails_is_explained(
    processes: list[FakeProcess],
    monkeypatch: pytest.MonkeyPatch,
    alive: bool,
    told: tuple[Any, str] | None,
    reason: str,
) -> None:
    """The test fails with the reason, and nothing is left running."""
    monkeypatch.setattr(FakeProcess, "ready_at_once", False)
    monkeypatch.setattr(FakeProcess, "alive", alive)
    monkeypatch.setattr(FakeProcess, "told", told)
    if told is not None:
        # Its queue has a thread, which gets all the time it needs.
        monkeypatch.setattr(live_server, "_LOOK_INTERVAL", 10.0)
    with pytest.raises(RuntimeError) as raised, BaseDaphneTestingInstance():
        pass

    assert f"the server did not start: {reason}" == str(raised.value)
    assert "terminated" in processes[0].ended


# -- The recording application --------------------------------------------------------


class Exchange:
    """
    One exchange with an application.

    Attributes:
        sent: What it has sent.
    """

    def __init__(
        self, *messages: dict[str, Any], error: Exception | None = None
    ) -> None:
        self._messages = list(messages)
        self._error = error
        self.sent: list[Any] = []
        self._task: asyncio.Task[None]

    async def receive(self) -> dict[str, Any]:
        """Give it the next message; when there are no more, end it."""
        if not self._messages:
            self._task.cancel()
            await asyncio.sleep(0)
        return self._messages.pop(0)

    async def send(self, message: Any) -> None:
        """Take a message, or raise."""
        if self._error is not None:
            raise self._error
        self.sent.append(message)

    def run(self, application: Any, kind: str = "http") -> None:
        """Let it run until it waits for more."""

        async def scenario() -> None:
            self._task = asyncio.ensure_future(
                application({"type": kind}, self.receive, self.send)
            )
            with suppress(asyncio.CancelledError):
                await self._task

        asyncio.run(scenario())


def test_an_application_records_and_answers(processes: list[FakeProcess]) -> None:
    """What was prepared is sent once, at the next message; all messages are told."""
    with DaphneTestingInstance() as instance:
        with pytest.raises(ValueError, match="nothing has been received yet"):
            instance.get_received()
        instance.add_send_messages([OK])
        exchange = Exchange(REQUEST, {"type": "http.disconnect"})
        exchange.run(instance.get_application())

    assert [OK] == exchange.sent
    assert ({"type": "http"}, [REQUEST, {"type": "http.disconnect"}]) == (
        instance.get_received()
    )
    with instance, pytest.raises(ValueError, match="nothing"):
        instance.get_received()
    assert "xff" in vars(DaphneTestingInstance(xff=True))


def test_copies_of_an_application_share_a_folder_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two instances don't disturb each other; the folder goes with the original."""
    first, second = TestApplication(no_lock()), TestApplication(no_lock())
    copy = pickle.loads(pickle.dumps(first))
    folder: Path = first._folder
    Exchange(REQUEST).run(copy)

    assert ({"type": "http"}, [REQUEST]) == first.received()
    with pytest.raises(ValueError, match="nothing"):
        second.received()
    TestApplication.delete_setup()
    TestApplication.delete_result()
    del copy
    gc.collect()
    assert folder.exists()
    del first
    gc.collect()
    assert not folder.exists()


def test_a_folder_belongs_to_the_process_that_made_it(tmp_path: Path) -> None:
    """A forked process leaves it alone."""
    live_server._remove_folder(tmp_path, -1)

    assert tmp_path.exists()


def test_errors_of_the_application_are_raised_in_the_test() -> None:
    """What ``send()`` raised is what a test sees; a client that left is no error."""
    recorder = TestApplication(no_lock())
    recorder.prepare([OK])
    Exchange(REQUEST, error=ValueError("wrong")).run(recorder)
    with pytest.raises(ValueError, match="wrong"):
        recorder.received()

    recorder.forget()
    recorder.prepare([OK])
    Exchange(REQUEST, error=ClientDisconnected()).run(recorder)
    assert ({"type": "http"}, [REQUEST]) == recorder.received()


def test_it_takes_no_part_in_lifespan() -> None:
    """Only exchanges are recorded."""
    recorder = TestApplication(no_lock())
    Exchange(REQUEST).run(recorder, "lifespan")

    with pytest.raises(ValueError, match="nothing"):
        recorder.received()


def test_the_end_waits_for_what_is_being_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests read responses after the block; but not for ever."""
    recorder = TestApplication(no_lock())
    sending = recorder._folder / "sending-1"
    sending.touch()
    naps: list[float] = []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        sending.unlink()

    monkeypatch.setattr(time, "sleep", sleep)
    recorder.wait_until_sent()
    assert 1 == len(naps)

    sending.touch()
    monkeypatch.setattr(live_server, "_PATIENCE", 0.0)
    recorder.wait_until_sent()
    assert 1 == len(naps)


class NoLock:
    """A lock nobody else wants; unlike real ones it can be pickled here."""

    def __enter__(self) -> None: ...
    def __exit__(self, *error: object) -> None: ...


def no_lock() -> Any:
    """Make such a lock."""
    return NoLock()
