"""
Tables in the terminal which keep up to date, by rich.

Tests: ``tests/unit/operations/test_live_display.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from daphne_like.operations.display import cells_of, is_number, lines_of, stacks_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import RenderableType

__all__ = ["LiveDisplay"]

# Lines of the terminal which are not rows: title, rule, and what is left out.
_OTHER_LINES = 4

_PHASE_STYLES = {"ready": "green", "starting": "yellow", "draining": "magenta"}


class LiveDisplay:
    """
    A screen whose content is replaced.

    Args:
        console: Where it is shown; the terminal by default.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._live = Live(
            console=self._console,
            screen=self._console.is_terminal,
            auto_refresh=False,
        )

    def __enter__(self) -> None:
        self._live.start()

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def show(self, command: str, answer: Any) -> None:
        """
        Show the answer to a question.

        Args:
            command: The question, as named on the command line.
            answer: What the server told; that to ``status`` holds ``processes``.
        """
        self._live.update(self._content(command, answer), refresh=True)

    def _content(self, command: str, answer: Any) -> RenderableType:
        # Never as rich's markup: clients choose parts of it.
        if command == "tasks":
            return Text(stacks_of(answer))
        if command != "status":
            return self._table(answer, 0)
        facts = dict(answer)
        rows = facts.pop("processes")
        lines = lines_of(facts)
        used = lines.count("\n") + 2
        return Group(Text(lines), Text(), self._table(rows, used))

    def _table(
        self, rows: Sequence[Mapping[str, Any]], used_lines: int
    ) -> RenderableType:
        if not rows:
            return Text("none", style="dim")
        room = max(self._console.height - used_lines - _OTHER_LINES, 1)
        titles, cells = cells_of(rows)
        left_out = len(cells) - room
        table = Table(box=None, header_style="bold")
        for index, title in enumerate(titles):
            right = all(is_number(line[index]) for line in cells)
            table.add_column(title, justify="right" if right else "left", no_wrap=True)
        for line in cells[:room]:
            table.add_row(
                *(Text(text, style=_PHASE_STYLES.get(text, "")) for text in line)
            )
        if left_out <= 0:
            return table
        return Group(table, Text(f" and {left_out} more", style="dim"))
