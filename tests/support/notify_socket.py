"""The socket on which systemd hears from its services, in the hands of a test."""

from __future__ import annotations

import socket
import time

import pytest

__all__ = ["NotifySocket"]

_TIMEOUT = 20.0


class NotifySocket:
    """
    Receives notifications.

    Args:
        address: A path, or ``@`` and a name in the abstract namespace.

    Attributes:
        address: What to put into ``NOTIFY_SOCKET``.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address[0] == "@" else address)

    def close(self) -> None:
        """Receive nothing more."""
        self._socket.close()

    def take(self) -> list[dict[str, str]]:
        """Return what has come, without waiting."""
        messages = []
        self._socket.setblocking(False)
        while True:
            try:
                messages.append(_parse(self._socket.recv(4096)))
            except BlockingIOError:
                return messages

    def wait_for(self, name: str) -> dict[str, str]:
        """Return the next notification that has this field; pass over others."""
        self._socket.settimeout(_TIMEOUT)
        deadline = time.monotonic() + _TIMEOUT
        while time.monotonic() < deadline:
            message = _parse(self._socket.recv(4096))
            if name in message:
                return message
        pytest.fail(f"nobody notified of {name}")


def _parse(datagram: bytes) -> dict[str, str]:
    """Split a notification into its assignments; what systemd ignores fails."""
    lines = datagram.decode("utf-8").split("\n")
    assert all("=" in line for line in lines), datagram
    return dict(line.split("=", 1) for line in lines)
