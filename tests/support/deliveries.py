"""The ways in which a network may cut the same bytes into reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")

# Beyond so many bytes, not each cut is tried: each costs all of the bytes again.
_MOST_CUTS = 600


def deliveries(data: bytes) -> Iterator[list[bytes]]:
    """
    Cut ``data`` in all the ways that a test tries.

    Whole, byte by byte, and in two at every place; of long data, at every place
    near both ends and at places spread evenly between them.
    """
    yield [data]
    yield [data[at : at + 1] for at in range(len(data))]
    size = len(data)
    cuts = set(range(1, size))
    if size > _MOST_CUTS:
        near, step = 32, size // 64
        cuts = {*range(1, near), *range(near, size, step), *range(size - near, size)}
    for cut in sorted(cuts):
        yield [data[:cut], data[cut:]]


def same_for_each_delivery(data: bytes, outcome: Callable[[list[bytes]], T]) -> T:
    """
    Find what comes of ``data``, and that it doesn't depend on how it is cut.

    Args:
        data: What a peer sends.
        outcome: Tells what comes of pieces; its values can be compared.
    """
    ways = deliveries(data)
    whole = outcome(next(ways))
    for pieces in ways:
        assert whole == outcome(pieces), (
            f"other than whole when cut after {len(pieces[0])} of {len(data)} bytes"
        )
    return whole
