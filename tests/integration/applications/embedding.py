"""
Programs that run a server by its Python interface: ``python -m applications.embedding NAME``.

Each prints what the test asks for.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
from typing import Any
from urllib.request import urlopen

from applications.lifecycle import application, say


def in_a_thread() -> None:
    """Serve in a thread, as test suites do, and stop from another one."""
    from daphne_like import Server

    listening = threading.Event()
    server = Server(
        application,
        ["tcp:0:interface=127.0.0.1"],
        signal_handlers=False,
        ready_callable=listening.set,
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    assert listening.wait(20)
    [(host, port)] = server.listening_addresses
    with urlopen(f"http://{host}:{port}/hello", timeout=20) as response:
        say(response.read().decode())
    server.stop()
    thread.join()
    say("the thread has ended")


def as_a_service() -> None:
    """Serve beside another service of a Twisted program."""
    import asyncio

    from twisted.application.service import MultiService, Service
    from twisted.internet import asyncioreactor

    # twistd --reactor asyncio does this.
    asyncioreactor.install(asyncio.new_event_loop())
    from twisted.internet import reactor, threads  # noqa: TID251 - it is there

    from daphne_like import Server

    core: Any = reactor

    class Other(Service):
        def startService(self) -> None:
            super().startService()  # type: ignore[no-untyped-call]
            say("other service started")

        def stopService(self) -> None:
            super().stopService()  # type: ignore[no-untyped-call]
            say("other service stopped")

    def ready() -> None:
        [(host, port)] = server.listening_addresses
        url = f"http://{host}:{port}/hello"
        reading = threads.deferToThread(lambda: urlopen(url, timeout=20).read())
        reading.addCallback(lambda body: say(body.decode()))
        reading.addBoth(lambda _: core.stop())

    services: Any = MultiService()
    server = Server(application, ["tcp:0:interface=127.0.0.1"], ready_callable=ready)
    server.setServiceParent(services)  # type: ignore[no-untyped-call]
    Other().setServiceParent(services)  # type: ignore[no-untyped-call]
    services.startService()
    core.addSystemEventTrigger("before", "shutdown", services.stopService)
    core.run()
    say(f"running: {server.running}, failure: {server.failure}")


def on_another_reactor() -> None:
    """Start the service where the reactor doesn't fit."""
    from twisted.internet import selectreactor

    selectreactor.install()
    from daphne_like import Server

    Server(application, ["tcp:0"]).startService()


def with_a_server_in_vain() -> None:
    """Serve where the port is in use."""
    import socket

    from daphne_like import Server

    with socket.create_server(("127.0.0.1", 0)) as taken:
        Server(application, port=taken.getsockname()[1]).run()


def with_its_own_handlers() -> None:
    """Get one's own signal handlers back."""
    from daphne_like import Server

    def handler(number: int, frame: object) -> None: ...

    signal.signal(signal.SIGTERM, handler)
    Server(application, ["tcp:0:interface=127.0.0.1"]).run()
    say(f"restored: {signal.getsignal(signal.SIGTERM) is handler}")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    globals()[sys.argv[1]]()
