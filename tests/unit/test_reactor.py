"""Tests of ``daphne_like.reactor``."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import twisted.internet
from server_process import LOOPS
from twisted.internet import process
from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.testing import MemoryReactor

from daphne_like.errors import SettingsError
from daphne_like.reactor import _notice_children, install, new_event_loop


@pytest.mark.parametrize("kind", LOOPS)
def test_the_loop_is_the_one_asked_for(kind: str) -> None:
    """`--loop` names the package whose event loop is used."""
    loop = new_event_loop(kind)
    loop.close()

    assert kind == type(loop).__module__.partition(".")[0]


def test_uvloop_is_taken_where_it_is_installed() -> None:
    """By default the faster one is used, if there is one."""
    pytest.importorskip("uvloop")
    loop = new_event_loop()
    loop.close()

    assert "uvloop" == type(loop).__module__


def test_without_uvloop_asyncios_own_loop_is_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A missing package is an error only when it was asked for by name."""
    monkeypatch.setitem(sys.modules, "uvloop", None)

    loop = new_event_loop("auto")
    loop.close()
    assert "asyncio" == type(loop).__module__.partition(".")[0]
    with pytest.raises(SettingsError, match=r"pip install daphne-like\[speed\]"):
        new_event_loop("uvloop")


NAME = "twisted.internet.reactor"


@pytest.fixture
def no_reactor(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget a reactor that is installed, and in the end the one of the test."""
    monkeypatch.setitem(sys.modules, NAME, None)
    del sys.modules[NAME]
    monkeypatch.setattr(twisted.internet, "reactor", None, raising=False)
    loops: list[asyncio.AbstractEventLoop] = []
    monkeypatch.setattr(asyncio, "set_event_loop", loops.append)
    yield
    reactor: Any = sys.modules.get(NAME)
    if loops:
        for internal in list(reactor._internalReaders):
            reactor.removeReader(internal)
            internal.connectionLost(None)
    for loop in loops:
        loop.close()


@pytest.mark.usefixtures("no_reactor")
def test_the_reactor_is_installed_once() -> None:
    """It is the one which everybody imports; a second call finds it."""
    installed: Any = install("asyncio")

    twisteds: Any = twisted.internet
    for found in (sys.modules[NAME], twisteds.reactor, install("uvloop")):
        assert found is installed
    assert isinstance(installed, AsyncioSelectorReactor)


@pytest.mark.usefixtures("no_reactor")
def test_another_reactor_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the one that is there and the one that is needed."""
    other: Any = MemoryReactor()
    monkeypatch.setitem(sys.modules, NAME, other)
    monkeypatch.setattr(twisted.internet, "reactor", other, raising=False)

    with pytest.raises(SettingsError) as raised:
        install()
    assert "the reactor MemoryReactor is installed already" in str(raised.value)
    assert "--reactor daphne-like" in str(raised.value)


@pytest.fixture
def handlers() -> Iterator[None]:
    """Restore the handler of SIGCHLD."""
    before = signal.getsignal(signal.SIGCHLD)
    yield
    signal.signal(signal.SIGCHLD, before)


@pytest.mark.usefixtures("handlers")
def test_twisted_learns_of_processes_that_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Twisted handles signals, ours does what Twisted's can't over uvloop."""
    reaped: list[str] = []
    reactor: Any = MemoryReactor()
    reactor.callFromThread = lambda call: call()
    monkeypatch.setattr(process, "reapAllProcesses", lambda: reaped.append("reaped"))

    def twisteds(number: int, frame: object) -> None: ...

    twisteds.__module__ = "twisted.internet._signals"
    signal.signal(signal.SIGCHLD, twisteds)
    _notice_children(reactor)

    handler: Any = signal.getsignal(signal.SIGCHLD)
    handler(signal.SIGCHLD, None)
    assert ["reaped"] == reaped


@pytest.mark.usefixtures("handlers")
def test_other_handlers_of_processes_are_left_alone() -> None:
    """Those of the program, or none where it wants none."""

    def own(number: int, frame: object) -> None: ...

    for handler in (own, signal.SIG_DFL):
        signal.signal(signal.SIGCHLD, handler)
        _notice_children(MemoryReactor())  # type: ignore[arg-type]
        assert handler is signal.getsignal(signal.SIGCHLD)


def test_importing_installs_nothing() -> None:
    """Management commands and other reactors aren't disturbed by an import."""
    program = (
        "import sys, daphne_like.cli, daphne_like.server;"
        "assert 'twisted.internet.reactor' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
