"""The table of cases, and what puts a function into it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, NamedTuple

from http2_client import Peer
from http2_links import Link

__all__ = ["CASES", "Case", "case"]


class Case(NamedTuple):
    """
    One thing that a server must do, shown on a connection of its own.

    Attributes:
        name: The section of RFC 9113 if no other is named, and what it is about.
        check: Takes the client's end; fails if the server does something else.
        opened: The prefaces have been exchanged before.
        needs_site: Any server can't do it, but one with the application of
            ``conformance_site`` can.
    """

    name: str
    check: Callable[..., None]
    values: tuple[Any, ...]
    opened: bool
    needs_site: bool

    def run(self, link: Link) -> None:
        """Run it on a connection that was just made."""
        peer = Peer(link)
        if self.opened:
            peer.open()
        self.check(peer, *self.values)


CASES: list[Case] = []


def case(
    section: str,
    *,
    each: Iterable[Any] | None = None,
    opened: bool = True,
    needs_site: bool = False,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """
    Put a function into the table.

    Args:
        section: What demands it.
        each: Values for each of which it is a case of its own.
        opened: See :class:`Case`.
        needs_site: See :class:`Case`.
    """

    def add(check: Callable[..., None]) -> Callable[..., None]:
        name = f"{section} {check.__name__}"
        if each is None:
            CASES.append(Case(name, check, (), opened, needs_site))
        for value in each or ():
            full = f"{name}[{_shown(value)}]"
            CASES.append(Case(full, check, (value,), opened, needs_site))
        return check

    return add


def _shown(value: Any) -> str:
    """Make a name of a value, in characters that a command line takes."""
    if isinstance(value, bytes):
        text = value.decode("latin-1")
        return text if text.isascii() and text.isprintable() else value.hex()
    if isinstance(value, tuple):
        return "-".join(map(_shown, value))
    return value.name if isinstance(value, Enum) else str(value)
