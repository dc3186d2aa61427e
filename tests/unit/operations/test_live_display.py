"""Tests of ``daphne_like.operations.live_display``."""

from __future__ import annotations

import io
from typing import Any

import pytest

pytest.importorskip("rich")

from rich.console import Console

from daphne_like.operations.live_display import LiveDisplay


def shown(command: str, answer: Any, height: int = 20) -> str:
    """Show an answer on a screen, and return what is on it."""
    screen = io.StringIO()
    console = Console(file=screen, width=80, height=height, color_system=None)
    display = LiveDisplay(console)
    with display:
        display.show(command, answer)
    return screen.getvalue()


def test_the_status_with_its_workers() -> None:
    """Facts come first, then a row for each worker."""
    answer = {"phase": "ready", "processes": [{"worker": 1, "pid": 7, "age": 61}]}
    lines = [line.split() for line in shown("status", answer).splitlines()]
    assert [["phase", "ready"], [], ["worker", "pid", "age"], ["1", "7", "1m01s"]] == (
        lines[:4]
    )


def test_what_has_no_room() -> None:
    """Of ten thousand connections those are shown which fit, and the rest counted."""
    rows = [{"client": f"c{number}"} for number in range(10_000)]
    text = shown("connections", rows)
    assert "c0" in text
    assert "c15" in text
    assert "c16" not in text
    assert "and 9984 more" in text
    assert "more" not in shown("connections", rows[:16])


def test_no_connections() -> None:
    """Nothing to show is no empty screen."""
    assert "none" in shown("connections", [])


def test_markup_is_not_obeyed() -> None:
    """What a client has asked for is shown as it is."""
    text = shown("connections", [{"doing": "GET /[red]x[/red]\x1b[2J"}])
    assert r"GET /[red]x[/red]\x1b[2J" in text


def test_stacks() -> None:
    """Tasks are shown with their stacks."""
    row = {"kind": "task", "name": "Task-1", "worker": 2, "stack": "  [here]\n"}
    assert "task Task-1 (worker 2)\n  [here]\n" in shown("tasks", [row])
