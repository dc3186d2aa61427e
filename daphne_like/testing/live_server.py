"""
A server in a process of its own, as tests of Channels start it.

The interface is that of ``daphne.testing``. The process may be forked, spawned or
started by a fork server: it gets a reactor of its own in any case, and nothing in
this module imports Twisted before that.

Tests: ``tests/unit/testing/test_live_server.py``,
``tests/integration/test_live_server.py``.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import pickle
import shutil
import sys
import tempfile
import time
import traceback
import weakref
from pathlib import Path
from queue import Empty
from typing import TYPE_CHECKING, Any

from daphne_like.errors import ClientDisconnected

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from contextlib import AbstractContextManager
    from types import TracebackType

    from typing_extensions import Self

    from daphne_like.asgi.types import ASGIApplication, Receive, Scope, Send
    from daphne_like.server import Server

__all__ = [
    "BaseDaphneTestingInstance",
    "DaphneProcess",
    "DaphneTestingInstance",
    "TestApplication",
]

# How often a starting process is looked at: it may have ended.
_LOOK_INTERVAL = 0.1
# How long a process gets for what should take no time.
_PATIENCE = 5.0


class _Preparation:
    """What a process that isn't forked does first, when this is unpickled in it."""

    def __reduce__(self) -> tuple[Any, ...]:
        apps = sys.modules.get("django.apps")
        return _prepare, (apps is not None and apps.apps.ready,)


def _prepare(with_django: bool) -> None:
    # A forked process has Django as its parent has it.
    if with_django and os.environ.get("DJANGO_SETTINGS_MODULE"):
        import django

        django.setup()


def _blank(preparation: None, kind: type[DaphneProcess]) -> DaphneProcess:
    return kind.__new__(kind)


class DaphneProcess(multiprocessing.Process):
    """
    A process with a server, as lenient as Daphne (``daphne_compat``).

    It obeys no signals: :meth:`terminate` ends it at once.

    Args:
        host: Where to listen.
        get_application: Called in the process; returns the application. Where
            processes aren't forked it must be picklable, as all others here.
        kwargs: Further keywords of :class:`~daphne_like.server.Server`.
        setup: Called in the process just before it serves.
        teardown: Called in the process when it serves no more, also after a failure.
        port: The port; without one the system chooses.

    Attributes:
        port: The port as a shared number, which is right as soon as it is ready.
        ready: An event, set when it listens.
        errors: A queue with what kept it from serving: pairs of an exception and the
            text of its traceback.
        server: The server; in the process only.
    """

    server: Server

    def __init__(
        self,
        host: str,
        get_application: Callable[[], Any],
        kwargs: Mapping[str, Any] | None = None,
        setup: Callable[[], object] | None = None,
        teardown: Callable[[], object] | None = None,
        port: int | None = None,
    ) -> None:
        super().__init__()
        self.host = host
        self.get_application = get_application
        self.kwargs = dict(kwargs or {})
        self.setup = setup
        self.teardown = teardown
        self.port = multiprocessing.Value("i", port or 0)
        self.ready = multiprocessing.Event()
        self.errors: Any = multiprocessing.Queue()

    def __reduce__(self) -> tuple[Any, ...]:
        """
        Let a new process prepare itself before it imports what belongs to the tests.

        It imports this package first, which makes ``import daphne`` work, and sets
        Django up: tests import models.
        """
        return _blank, (_Preparation(), type(self)), self.__dict__

    def run(self) -> None:
        """Serve; in the process itself."""
        try:
            self._serve()
        except BaseException as error:  # noqa: BLE001 - the parent is told of all
            # What made the server exit says more than that it did.
            cause = getattr(getattr(self, "server", None), "failure", None) or error
            text = "".join(traceback.format_exception(cause))
            self.errors.put((_picklable(cause), text))
            sys.exit(1)

    def _serve(self) -> None:
        # That of the parent, if it was inherited, shares descriptors with it.
        sys.modules.pop("twisted.internet.reactor", None)

        from daphne_like import reactor
        from daphne_like.endpoints import build_endpoint_description_strings
        from daphne_like.server import Server

        process = self

        class LiveServer(Server):
            async def startup(self) -> None:
                await super().startup()
                process.port.value = self.listening_addresses[0][1]
                process.ready.set()

        reactor.install(self.kwargs.get("loop", "auto"))
        self.server = LiveServer(
            self.get_application(),
            build_endpoint_description_strings(self.host, self.port.value),
            signal_handlers=False,
            **{"daphne_compat": True, **self.kwargs},
        )
        try:
            if self.setup is not None:
                self.setup()
            self.server.run()
        finally:
            if self.teardown is not None:
                self.teardown()


class BaseDaphneTestingInstance:
    """
    Serves an application in a :class:`DaphneProcess`, as a context manager.

    Args:
        xff: Whether ``X-Forwarded-For``, ``-Port`` and ``-Proto`` are believed.
        http_timeout: As the setting.
        request_buffer_size: As the setting.
        websocket_max_message_size: As the setting.
        websocket_max_frame_size: As the setting.
        application: What is served; unless a subclass overrides
            :meth:`get_application`.

    Attributes:
        host: Where it listens.
        port: The same.
        process: The process.
        startup_timeout: For how many seconds its start is waited for.
    """

    startup_timeout: float = 2

    host: str
    port: int
    process: DaphneProcess

    def __init__(
        self,
        xff: bool = False,
        http_timeout: float | None = None,
        request_buffer_size: int | None = None,
        websocket_max_message_size: int | None = None,
        websocket_max_frame_size: int | None = None,
        *,
        application: ASGIApplication | None = None,
    ) -> None:
        self.host = "127.0.0.1"
        self.xff = xff
        self.http_timeout = http_timeout
        self.request_buffer_size = request_buffer_size
        self.websocket_max_message_size = websocket_max_message_size
        self.websocket_max_frame_size = websocket_max_frame_size
        self.application = application

    def get_application(self) -> Any:
        """Return what is served; called in the process."""
        return self.application

    def process_setup(self) -> None:
        """Do something in the process just before it serves."""

    def process_teardown(self) -> None:
        """Do something in the process when it serves no more."""

    def get_received(self) -> Any:
        """Tell what the application has received; that is up to a subclass."""

    def __enter__(self) -> Self:
        """
        Start the process, and wait until it listens.

        Raises:
            RuntimeError: It has ended instead, or takes too long.
        """
        self.process = DaphneProcess(
            self.host,
            self.get_application,
            self._keywords(),
            self.process_setup,
            self.process_teardown,
        )
        self.process.start()
        waited = 0.0
        while not self.process.ready.wait(_LOOK_INTERVAL):
            waited += _LOOK_INTERVAL
            alive = self.process.is_alive()
            if not alive or waited >= self.startup_timeout:
                explanation = self._explain(alive)
                self.__exit__(None, None, None)
                raise RuntimeError(f"the server did not start: {explanation}")
        self.port = self.process.port.value
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the process."""
        self.process.terminate()
        self.process.join(_PATIENCE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        del self.process

    def _keywords(self) -> dict[str, Any]:
        given = {
            "http_timeout": self.http_timeout or None,
            "request_buffer_size": self.request_buffer_size or None,
            "websocket_max_message_size": self.websocket_max_message_size,
            "websocket_max_frame_size": self.websocket_max_frame_size,
        }
        keywords: dict[str, Any] = {
            name: value for name, value in given.items() if value is not None
        }
        if self.xff:
            keywords["proxy_forwarded_address_header"] = "X-Forwarded-For"
            keywords["proxy_forwarded_port_header"] = "X-Forwarded-Port"
            keywords["proxy_forwarded_proto_header"] = "X-Forwarded-Proto"
        return keywords

    def _explain(self, alive: bool) -> str:
        try:
            _, text = self.process.errors.get(timeout=0.0 if alive else _LOOK_INTERVAL)
        except Empty:
            if alive:
                return f"it takes more than {self.startup_timeout} seconds"
            return f"it has ended with status {self.process.exitcode}"
        return f"\n{text}"


class DaphneTestingInstance(BaseDaphneTestingInstance):
    """Serves a :class:`TestApplication`, and tells what that has received."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self.lock = multiprocessing.Lock()
        self._recorder = TestApplication(self.lock)
        super().__init__(*arguments, **keywords, application=self._recorder)

    def __enter__(self) -> Self:
        """Forget what an earlier process has received; then start one."""
        self._recorder.forget()
        return super().__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the process, after what it is sending: tests read that later."""
        if error is None:
            self._recorder.wait_until_sent()
        super().__exit__(kind, error, traceback)

    def get_received(self) -> tuple[Scope, list[dict[str, Any]]]:
        """
        Return the scope of the last exchange and all messages received in it so far.

        Raises:
            ValueError: Nothing has been received yet.
            Exception: What the application raised.
        """
        return self._recorder.received()

    def add_send_messages(self, messages: Iterable[Mapping[str, Any]]) -> None:
        """Let the application send these as soon as it receives a message."""
        self._recorder.prepare(messages)


class TestApplication:
    """
    Records what it receives, and sends what was prepared, across processes.

    Both are exchanged by files, in a folder that each instance has for itself.

    Args:
        lock: Held while a record is written.
    """

    __test__ = False  # for pytest, which looks at the name

    def __init__(self, lock: AbstractContextManager[Any]) -> None:
        self.lock = lock
        self._folder = Path(tempfile.mkdtemp(prefix="daphne_like-"))
        # A copy of this object in another process doesn't own the folder.
        weakref.finalize(self, _remove_folder, self._folder, os.getpid())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one exchange (ASGI)."""
        if scope["type"] == "lifespan":
            return
        messages: list[Any] = []
        try:
            while True:
                message = await receive()
                messages.append(message)
                prepared = self._take_prepared()
                # Whoever sees the record can see, too, that something is on its way.
                sending = self._folder / f"sending-{id(messages)}"
                if prepared:
                    sending.touch()
                self._write("received", (scope, messages))
                try:
                    for reply in prepared:
                        await send(reply)
                    # Event loops write at the end of a turn.
                    await asyncio.sleep(0)
                finally:
                    sending.unlink(missing_ok=True)
                if message["type"] in ("http.disconnect", "websocket.disconnect"):
                    return
        except ClientDisconnected:
            return
        except Exception as error:  # noqa: BLE001 - the test is told of all
            self._write("received", _picklable(error))

    def received(self) -> tuple[Scope, list[dict[str, Any]]]:
        """See :meth:`DaphneTestingInstance.get_received`."""
        try:
            found = pickle.loads((self._folder / "received").read_bytes())
        except FileNotFoundError:
            raise ValueError("nothing has been received yet") from None
        if isinstance(found, BaseException):
            raise found
        scope, messages = found
        return scope, messages

    def prepare(self, messages: Iterable[Mapping[str, Any]]) -> None:
        """See :meth:`DaphneTestingInstance.add_send_messages`."""
        self._write("prepared", list(messages))

    def wait_until_sent(self) -> None:
        """Wait, but not too long, until no prepared message waits to be sent."""
        deadline = time.monotonic() + _PATIENCE
        while any(self._folder.glob("sending-*")) and time.monotonic() < deadline:
            time.sleep(_LOOK_INTERVAL / 10)

    def forget(self) -> None:
        """Remove what was received and what was prepared."""
        for file in self._folder.iterdir():
            file.unlink()

    @classmethod
    def delete_setup(cls) -> None:
        """Do nothing; Daphne's class removes a file here that all instances share."""

    @classmethod
    def delete_result(cls) -> None:
        """Do nothing, as :meth:`delete_setup`."""

    def _take_prepared(self) -> list[Any]:
        # Renamed first: what is prepared meanwhile must not be lost.
        taken = self._folder / "taken"
        try:
            (self._folder / "prepared").replace(taken)
        except FileNotFoundError:
            return []
        messages: list[Any] = pickle.loads(taken.read_bytes())
        return messages

    def _write(self, name: str, value: object) -> None:
        # Renamed at the end: who reads it meanwhile gets all or nothing.
        with self.lock:
            file = self._folder / f"new-{name}"
            file.write_bytes(pickle.dumps(value))
            file.replace(self._folder / name)


def _remove_folder(folder: Path, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


def _picklable(error: BaseException) -> BaseException:
    """Return an exception which reaches another process as it is, or in words."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - classes of any kind
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
