"""Tests of ``daphne_like.operations.display``."""

from __future__ import annotations

from typing import Any

import pytest

from daphne_like.operations import display


def test_a_table() -> None:
    """Columns come in a known order, and numbers stand at the right."""
    rows: list[dict[str, Any]] = [
        {"rss_bytes": 52_000_000, "pid": 5, "worker": 1, "phase": "ready"},
        {"rss_bytes": None, "pid": 1234, "worker": 12, "phase": "draining"},
    ]
    assert (
        "worker  phase      pid    rss\n"
        "     1  ready        5  49.6M\n"
        "    12  draining  1234      –"
    ) == display.table_of(rows)


def test_no_rows() -> None:
    """An empty table says so."""
    assert "none" == display.table_of([])


def test_facts_of_other_versions() -> None:
    """What a newer server tells is shown, behind what is known."""
    rows: list[dict[str, Any]] = [
        {"zeal": 1, "worker": 1},
        {"worker": 2, "doubts": ["a", "b"]},
    ]
    titles, cells = display.cells_of(rows)
    assert ["worker", "doubts", "zeal"] == titles
    assert [["1", "–", "1"], ["2", "a, b", "–"]] == cells


def test_lines() -> None:
    """Facts stand under each other."""
    facts = {"age": 61, "addresses": ["http://a:1", "unix:/s"], "phase": "ready"}
    assert (
        "phase      ready\nage        1m01s\naddresses  http://a:1, unix:/s"
    ) == display.lines_of(facts)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("age", 0.4, "0s"),
        ("age", 59.9, "59s"),
        ("age", 60, "1m00s"),
        ("age", 3599, "59m59s"),
        ("age", 3600, "1h00m"),
        ("last_age", 90_000, "1d1h"),
        ("sent_bytes", 0, "0B"),
        ("sent_bytes", 999, "999B"),
        ("sent_bytes", 1000, "1.0K"),
        ("sent_bytes", 200_000, "195K"),
        ("sent_bytes", 5 * 1024**4, "5.0T"),
        ("sent_bytes", 5 * 1024**5, "5120T"),
        ("requests", 12_345, "12345"),
        ("lag", 0.012345, "0.0123"),
        ("tls", True, "yes"),
        ("tls", False, "no"),
        ("doing", "", "–"),
        ("addresses", [], "–"),
        ("note", None, "–"),
    ],
)
def test_values(name: str, value: object, text: str) -> None:
    """Durations, sizes and the like are written for people."""
    assert [[text]] == display.cells_of([{name: value}])[1]


@pytest.mark.parametrize("hostile", ["\x1b]0;evil\x07", "a\rb", "\u202etxt", "\x9b31m"])
def test_nothing_steers_the_terminal(hostile: str) -> None:
    """A path, a name or a stack can't send control sequences to the terminal."""
    row = {"worker": 1, "doing": hostile, hostile: 1, "tags": [hostile]}
    stack = {"kind": "task", "name": hostile, "worker": 1, "stack": hostile}
    for text in (
        display.table_of([row]),
        display.lines_of(row),
        display.stacks_of([stack]),
    ):
        assert all(mark.isprintable() or mark == "\n" for mark in text)


def test_stacks() -> None:
    """Each place is told once, with how many are there."""
    row = {"kind": "task", "name": "Task-1", "worker": 2, "stack": "  a\n    b\n"}
    assert "task Task-1 (worker 2)\n  a\n    b\n" == display.stacks_of([row])
    many = display.stacks_of([{**row, "count": 3}, row])
    assert many.startswith("task Task-1 (worker 2), and 2 more at the same place\n")
    assert 2 == many.count("  a\n    b\n")
