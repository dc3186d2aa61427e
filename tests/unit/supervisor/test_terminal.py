"""What a SIGHUP means: it comes from operators, and from terminals which are closed."""

from __future__ import annotations

import signal

import pytest

from daphne_like.supervisor.terminal import Terminal

pytestmark = pytest.mark.skipif(
    not hasattr(signal, "SIGHUP"), reason="needs POSIX signals"
)


class Scene:
    """A server that was started in a terminal, or wasn't."""

    def __init__(self, *, there: bool = True) -> None:
        self.now = 100.0
        self.there = there
        self.terminal = Terminal(lambda: self.now, lambda: self.there)


def test_an_operator_sends_it() -> None:
    """While the terminal is there, and where there was none."""
    assert not Scene().terminal.has_hung_up()
    assert not Scene(there=False).terminal.has_hung_up()


def test_the_terminal_is_closed() -> None:
    """The signal comes with that, a little before or after somebody has looked."""
    scene = Scene()
    scene.there = False
    assert scene.terminal.has_hung_up()

    scene = Scene()
    scene.there = False
    scene.terminal.look()
    scene.now += 1
    assert scene.terminal.has_hung_up()


def test_a_server_left_to_itself_is_reloaded() -> None:
    """Who has disowned it and logged out doesn't stop it by a reload next week."""
    scene = Scene()
    scene.there = False
    scene.terminal.look()
    scene.now += 604800
    scene.terminal.look()

    assert not scene.terminal.has_hung_up()


def test_nohup() -> None:
    """The end of the terminal is none of the server."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        scene = Scene()
    finally:
        signal.signal(signal.SIGHUP, before)
    scene.there = False

    assert not scene.terminal.has_hung_up()
