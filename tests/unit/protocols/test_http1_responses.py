"""Tests of ``daphne_like.protocols.http1_responses``; those of HTTP/1 use it whole."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from daphne_like.protocols.http1_responses import (
    CHUNKED,
    JOIN_BYTES,
    SIZED,
    UNTIL_CLOSE,
    Framing,
    file_pieces,
    status_line,
    usual_status_line,
    write_pieces,
)

LARGE = b"x" * (JOIN_BYTES + 1)


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (200, b"HTTP/1.1 200 OK\r\n"),
        (404, b"HTTP/1.1 404 Not Found\r\n"),
        (299, b"HTTP/1.1 299 \r\n"),
    ],
)
def test_status_lines(status: int, line: bytes) -> None:
    """Whatever the status is; a space stays where no phrase belongs to it."""
    assert line == status_line(status)
    assert (None if status == 299 else line) == usual_status_line(status)


@pytest.mark.parametrize("framing", [SIZED, UNTIL_CLOSE])
@pytest.mark.parametrize(
    ("pieces", "body", "writes"),
    [
        ([b"head", b"\r\n"], b"body", [b"head\r\nbody"]),
        ([], b"body", [b"body"]),
        ([b"head"], b"", [b"head"]),
        ([], b"", []),
        ([b"head", b"\r\n"], LARGE, [b"head\r\n", LARGE]),
        ([], LARGE, [LARGE]),
    ],
)
def test_bodies_as_they_are(
    framing: Framing, pieces: list[bytes], body: bytes, writes: list[bytes]
) -> None:
    """One write, but for large bodies, which aren't copied; none of nothing."""
    written: list[bytes] = []
    write_pieces(written.append, [*pieces], body, framing, end=True)

    assert writes == written


@pytest.mark.parametrize(
    ("pieces", "body", "end", "writes"),
    [
        ([b"head"], b"body", False, [b"head4\r\nbody\r\n"]),
        ([], b"body", True, [b"4\r\nbody\r\n0\r\n\r\n"]),
        ([], b"", True, [b"0\r\n\r\n"]),
        # An empty chunk would be the last one.
        ([], b"", False, []),
        ([b"head"], LARGE, True, [b"head10001\r\n", LARGE, b"\r\n0\r\n\r\n"]),
    ],
)
def test_chunks(
    pieces: list[bytes], body: bytes, end: bool, writes: list[bytes]
) -> None:
    """Each piece is one chunk, and the last chunk tells the end."""
    written: list[bytes] = []
    write_pieces(written.append, [*pieces], body, CHUNKED, end)

    assert writes == written


def test_a_part_of_a_file(tmp_path: Path) -> None:
    """It comes in pieces, wherever the file's position is; a short file is an error."""
    path = tmp_path / "file"
    path.write_bytes(b"0123456789" * 100_000)
    file = os.open(path, os.O_RDONLY)
    try:
        pieces = list(file_pieces(file, 5, 600_000))
        assert 3 == len(pieces)
        assert b"".join(pieces) == path.read_bytes()[5:600_005]
        assert [] == list(file_pieces(file, 0, 0))
        with pytest.raises(EOFError):
            list(file_pieces(file, 999_999, 2))
    finally:
        os.close(file)
