"""HTTP by hand, for what no client library would send."""

from __future__ import annotations

import socket
from typing import NamedTuple
from urllib.parse import urlsplit

_TIMEOUT = 20.0


def connect(url: str) -> socket.socket:
    """Connect to where a server says it listens: ``http://...`` or ``unix:...``."""
    if url.startswith("unix:"):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(_TIMEOUT)
        sock.connect(url.removeprefix("unix:"))
        return sock
    where = urlsplit(url)
    assert where.hostname is not None
    return socket.create_connection((where.hostname, where.port or 80), _TIMEOUT)


def read_to_end(sock: socket.socket) -> bytes:
    """Read until the peer closes its side."""
    pieces = []
    while piece := sock.recv(64 * 1024):
        pieces.append(piece)
    return b"".join(pieces)


def read_until(sock: socket.socket, end: bytes) -> bytes:
    """Read until the bytes received contain ``end``; return all of them."""
    received = b""
    while end not in received:
        piece = sock.recv(64 * 1024)
        assert piece, f"the server closed after {received!r}"
        received += piece
    return received


class Answer(NamedTuple):
    """One response of a conversation."""

    status: int
    headers: dict[str, str]
    body: bytes


def split_answers(received: bytes) -> list[Answer]:
    """Split a conversation of responses that have a Content-Length, or no body."""
    answers = []
    while received:
        head, _, received = received.partition(b"\r\n\r\n")
        status_line, *lines = head.decode("latin-1").split("\r\n")
        fields = [line.split(":", 1) for line in lines]
        headers = {name.lower(): value.strip() for name, value in fields}
        size = int(headers.get("content-length", 0))
        status = int(status_line.split()[1])
        answers.append(Answer(status, headers, received[:size]))
        received = received[size:]
    return answers
