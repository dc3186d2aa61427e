"""Servers for tests of a program: in processes, and in a thread."""

from __future__ import annotations

import multiprocessing
import socket
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.request import urlopen

from daphne_like.errors import ListenError
from daphne_like.server import Server
from daphne_like.testing import DaphneProcess, DaphneTestingInstance

ANSWER: list[dict[str, Any]] = [
    {"type": "http.response.start", "status": 200},
    {"type": "http.response.body", "body": b"hello"},
]


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Say hello."""
    assert scope["type"] == "http"
    for message in ANSWER:
        await send(message)


def get_application() -> Callable[..., Any]:
    """Return the application, in a process of its own."""
    return application


class Instance(DaphneTestingInstance):
    """One which has time to start, on any machine."""

    startup_timeout = 60


def serve_in_a_process() -> None:
    """Talk to the recording application."""
    with Instance(xff=True, request_buffer_size=5) as instance:
        instance.add_send_messages(ANSWER)
        url = f"http://{instance.host}:{instance.port}/a?b"
        with urlopen(url, b"123456") as response:
            assert response.read() == b"hello"
            assert response.headers["server"] == "daphne"
        scope, messages = instance.get_received()
    assert scope["path"] == "/a"
    assert messages[0] == {"type": "http.request", "body": b"12345", "more_body": True}


def fail_in_a_process(folder: Path) -> None:
    """Start one where another listens already."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = DaphneProcess(
            "127.0.0.1",
            get_application,
            setup=partial(Path.mkdir, folder / "set-up"),
            teardown=partial(Path.rmdir, folder / "set-up"),
            port=taken.getsockname()[1],
        )
        process.start()
        error, text = process.errors.get(timeout=60)
        process.join()
    assert isinstance(error, ListenError)
    assert "Listen failure: 127.0.0.1:" in text
    assert process.exitcode == 1
    assert not process.ready.is_set()
    assert not list(folder.iterdir())


def serve_in_a_thread() -> None:
    """Run a server beside the tests, and stop it from there."""
    listening = threading.Event()
    server = Server(
        application,
        ["tcp:port=0:interface=localhost"],
        signal_handlers=False,
        ready_callable=listening.set,
        access_log="",
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    assert listening.wait(60)
    _, port = server.listening_addresses[0]
    with urlopen(f"http://localhost:{port}/") as response:
        assert response.read() == b"hello"
    server.stop()
    thread.join()
    assert not server.connections
    assert not server.abort_start


if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    # The parent's own, which the processes must not take for theirs.
    __import__("twisted.internet.reactor")
    serve_in_a_process()
    with TemporaryDirectory() as name:
        fail_in_a_process(Path(name))
    del sys.modules["twisted.internet.reactor"]
    serve_in_a_thread()
    sys.stdout.write("all is well\n")
