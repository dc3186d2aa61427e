"""
Responses to bytes of HTTP/1.1: status lines, fields, and bodies whose end shows.

Functions and constants alone: which framing a response has, and whether the connection
goes on after it, is known to :mod:`~daphne_like.protocols.http1`.

Source: RFC 9112 sections 4, 5, 6 and 7.1.

Tests: ``tests/unit/protocols/test_http1.py``, ``test_http1_responses.py``.
"""

from __future__ import annotations

import os
from enum import Enum
from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from daphne_like.protocols.interfaces import Header, ResponseFields

__all__ = [
    "CHUNKED",
    "JOIN_BYTES",
    "SIZED",
    "UNTIL_CLOSE",
    "Framing",
    "encode",
    "encode_once",
    "file_pieces",
    "status_line",
    "usual_status_line",
    "write_pieces",
]

_STATUS_LINES = {
    int(status): b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode("ascii"))
    for status in HTTPStatus
}

usual_status_line = _STATUS_LINES.get
"""
Look up the status line of a status; None where :func:`status_line` has to write it.

The method and not the table: Python looks methods of imported names up each time.
"""

JOIN_BYTES = 64 * 1024
"""Larger bodies go to the transport beside their head instead of being copied."""

# What is read of a file at once where the kernel can't send it by itself.
_FILE_BYTES = 256 * 1024


class Framing(Enum):
    """How the end of a response is told (RFC 9112 section 6.3)."""

    SIZED = "by its length, or by having no body"
    CHUNKED = "by the last chunk"
    UNTIL_CLOSE = "by the end of the connection"


SIZED = Framing.SIZED
CHUNKED = Framing.CHUNKED
UNTIL_CLOSE = Framing.UNTIL_CLOSE


def status_line(status: int) -> bytes:
    """Write the status line of any status."""
    # RFC 9112 section 4: the space stays when there is no reason phrase.
    return usual_status_line(status) or b"HTTP/1.1 %d \r\n" % status


def encode(headers: Sequence[Header]) -> bytes:
    """Write fields, in their order, without the empty line behind them."""
    return b"".join([b"%b: %b\r\n" % field for field in headers])


def encode_once(fields: ResponseFields) -> bytes:
    """Write the fields of a response, and keep the bytes for the next one with them."""
    fields.encoded = block = encode(fields.headers)
    return block


def write_pieces(
    write: Callable[[bytes], None],
    pieces: list[bytes],
    body: bytes,
    framing: Framing,
    end: bool,
) -> None:
    """
    Write ``pieces`` and a piece of the body: at once, unless it is large.

    Args:
        write: The transport's.
        pieces: What comes before the body; is used up.
        body: May be empty.
        framing: Of the response; with chunks, the body becomes one.
        end: Whether the response ends with it.
    """
    if body and framing is CHUNKED:
        pieces.append(b"%x\r\n" % len(body))
    if len(body) > JOIN_BYTES:
        if pieces:
            write(b"".join(pieces))
            pieces.clear()
        write(body)
    else:
        pieces.append(body)
    if framing is CHUNKED:
        if body:
            pieces.append(b"\r\n")
        if end:
            pieces.append(b"0\r\n\r\n")
    data = b"".join(pieces)
    if data:
        write(data)


def file_pieces(file: int, offset: int, count: int) -> Iterator[bytes]:
    """
    Read a part of a file, piece by piece.

    Args:
        file: Its descriptor, whose position doesn't matter.
        offset: Where the part begins.
        count: Its bytes.

    Raises:
        EOFError: The file has fewer.
    """
    while count:
        data = os.pread(file, min(count, _FILE_BYTES), offset)
        if not data:
            raise EOFError("the file ended early")
        offset += len(data)
        count -= len(data)
        yield data
