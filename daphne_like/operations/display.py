"""
What a running server tells, as text for a terminal.

Which facts there are is the server's to say, so that an older or newer one can be
asked, too: known ones come first, in their order, then all others. A fact's name tells
how it is written: bytes, durations, lists.

Nothing which a client or an application has chosen reaches the terminal as a control
sequence.

Tests: ``tests/unit/operations/test_display.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["cells_of", "is_number", "lines_of", "printable", "stacks_of", "table_of"]

# The order of columns and lines. Others come behind, by their names.
_ORDER = (
    *("worker", "version", "phase", "pid", "age", "client", "server", "protocol"),
    *("tls", "workers", "connections", "in_flight", "requests", "rss_bytes"),
    *("received_bytes", "sent_bytes", "unsent_bytes", "doing", "addresses"),
)
_RANKS = {name: rank for rank, name in enumerate(_ORDER)}

_BYTE_UNITS = ("B", "K", "M", "G", "T")

_NOTHING = "–"

# Numbers above are no sizes and no ages, whatever their names.
_LARGEST = 1e18


def lines_of(facts: Mapping[str, Any]) -> str:
    """Write facts under each other."""
    names = _sorted_names([facts])
    width = max((len(_title(name)) for name in names), default=0)
    return "\n".join(
        f"{_title(name):<{width}}  {_text(name, facts[name])}" for name in names
    )


def table_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write rows as a table with a line of titles."""
    if not rows:
        return "none"
    titles, cells = cells_of(rows)
    lines = [titles, *cells]
    widths = [max(len(line[i]) for line in lines) for i in range(len(titles))]
    numbers = [all(is_number(line[i]) for line in cells) for i in range(len(titles))]
    return "\n".join(
        "  ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numbers, strict=True)
        ).rstrip()
        for line in lines
    )


def cells_of(
    rows: Sequence[Mapping[str, Any]],
) -> tuple[list[str], list[list[str]]]:
    """Return the titles of columns, and the texts of each row."""
    names = _sorted_names(rows)
    cells = [[_text(name, row.get(name)) for name in names] for row in rows]
    return [_title(name) for name in names], cells


def stacks_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """Write where tasks and threads are."""
    blocks = []
    for row in rows:
        count = row.get("count", 1)
        several = isinstance(count, int) and count > 1
        others = f", and {count - 1} more at the same place" if several else ""
        title = f"{row.get('kind')} {row.get('name')} (worker {row.get('worker')})"
        stack = "\n".join(map(printable, str(row.get("stack", "")).splitlines()))
        blocks.append(f"{printable(title)}{others}\n{stack}\n")
    return "\n".join(blocks)


def printable(text: str) -> str:
    """Text which moves no cursor and changes no title of a window (CWE-150)."""
    if text.isprintable():
        return text
    return "".join(
        mark if mark.isprintable() else mark.encode("unicode_escape").decode()
        for mark in text
    )


def is_number(text: str) -> bool:
    """Whether a cell stands better at the right of its column."""
    return text[:1].isdigit() or text == _NOTHING


def _sorted_names(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    names = {name for row in rows for name in row}
    return sorted(names, key=lambda name: (_RANKS.get(name, len(_RANKS)), name))


def _title(name: str) -> str:
    return printable(name.removesuffix("_bytes").replace("_", " "))


def _text(name: str, value: Any) -> str:
    if value is None or value == "":
        return _NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(printable(str(item)) for item in value) or _NOTHING
    if isinstance(value, (int, float)) and abs(value) < _LARGEST:
        if name.endswith("_bytes"):
            return _size(value)
        if name.endswith("age"):
            return _duration(value)
        return str(value) if isinstance(value, int) else f"{value:.3g}"
    return printable(str(value))


def _size(count: float) -> str:
    """``2.5M``: three digits at most, powers of 1024."""
    power = 0
    while count >= 1000 and power < len(_BYTE_UNITS) - 1:
        count /= 1024
        power += 1
    digits = 1 if power and count < 100 else 0
    return f"{count:.{digits}f}{_BYTE_UNITS[power]}"


def _duration(seconds: float) -> str:
    """``7s``, ``2m05s``, ``3h20m``, ``12d4h``."""
    whole = int(seconds)
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if days:
        return f"{days}d{hours % 24}h"
    if hours:
        return f"{hours}h{minutes % 60:02d}m"
    if minutes:
        return f"{minutes}m{whole % 60:02d}s"
    return f"{whole}s"
