"""
The headers which the server adds to each response: ``date``, ``server``, extras.

They are encoded once a second, not once a response.

Tests: ``tests/unit/protocols/test_default_headers.py``.
"""

from __future__ import annotations

from email.utils import formatdate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from daphne_like.protocols.interfaces import Header

__all__ = ["DefaultHeaders"]


class DefaultHeaders:
    """
    The headers that a response has unless the application set its own.

    Args:
        extras: Pairs of bytes, names in lower case.
        date: Whether to send ``date`` (RFC 9110 section 6.6.1: an origin
            server with a clock must).
        wall_clock: Seconds since the epoch.

    Attributes:
        names: Those an application can replace.
        fields: The pairs to send now.
        block: The same in HTTP/1 notation, each line ended by CR LF.
    """

    __slots__ = ("_date", "_extras", "_wall_clock", "block", "fields", "names")

    def __init__(
        self, extras: Sequence[Header], *, date: bool, wall_clock: Callable[[], float]
    ) -> None:
        self._extras = list(extras)
        self._date = date
        self._wall_clock = wall_clock
        self.names = frozenset(name for name, _ in extras) | (
            {b"date"} if date else set()
        )
        self.fields: list[Header] = []
        self.block = b""
        self.refresh()

    def refresh(self) -> None:
        """Bring the date up to now; to be called once a second."""
        self.fields = [*self._extras]
        if self._date:
            date = formatdate(self._wall_clock(), usegmt=True)
            self.fields.append((b"date", date.encode("ascii")))
        self.block = _encode(self.fields)

    def block_without(self, names: frozenset[bytes]) -> bytes:
        """Encode the fields other than ``names``."""
        return _encode([field for field in self.fields if field[0] not in names])


def _encode(fields: Sequence[Header]) -> bytes:
    return b"".join(b"%b: %b\r\n" % field for field in fields)
