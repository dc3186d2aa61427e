#!/usr/bin/env python3
"""
Replaces one instance behind HAProxy, so that nobody notices.

    replace.py /run/haproxy/admin.sock chat/one ssh one systemctl restart chat

HAProxy sends the instance nothing new any more. Then the command has to stop it, which
lets it finish what it has, to start the new one, and to return when that one is ready.
When HAProxy finds it healthy, too, it sends it requests again.

Nothing is begun while no other instance is healthy. If the command fails, the instance
stays out of service.
"""

from __future__ import annotations

import csv
import socket
import subprocess
import sys
import time

_TIMEOUT = 60.0
_POLL_INTERVAL = 0.1


class HAProxy:
    """HAProxy, as its runtime API shows it (section 9.3 of its management guide)."""

    def __init__(self, path: str) -> None:
        self._path = path

    def order(self, command: str) -> str:
        """Send one command and return the answer."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(_TIMEOUT)
            sock.connect(self._path)
            sock.sendall(f"{command}\n".encode())
            answer = b""
            while piece := sock.recv(65536):
                answer += piece
        return answer.decode().strip()

    def set_state(self, server: str, state: str) -> None:
        """Make it ``ready`` or ``drain``; which says nothing if all is well."""
        if complaint := self.order(f"set server {server} state {state}"):
            sys.exit(f"HAProxy: {complaint}")

    def statuses(self, backend: str) -> dict[str, str]:
        """Return UP, DOWN, DRAIN and the like by name of server."""
        rows = csv.DictReader(self.order("show stat").removeprefix("# ").splitlines())
        return {
            row["svname"]: row["status"]
            for row in rows
            if row["pxname"] == backend and row["svname"] not in ("FRONTEND", "BACKEND")
        }


def replace(haproxy: HAProxy, server: str, command: list[str]) -> None:
    """Replace ``BACKEND/SERVER`` by means of the command."""
    backend, _, name = server.partition("/")
    statuses = haproxy.statuses(backend)
    if name not in statuses:
        sys.exit(f"{server}: there are {', '.join(statuses) or 'no servers'}")
    if "UP" not in (status for other, status in statuses.items() if other != name):
        sys.exit(f"{server} is the only one that could serve; nothing was done")
    haproxy.set_state(server, "drain")
    try:
        status = subprocess.run(command, check=False).returncode
    except (OSError, KeyboardInterrupt) as error:
        sys.exit(f"{str(error) or 'interrupted'}; {server} is still out of service")
    if status:
        sys.exit(f"the command failed with {status}; {server} is still out of service")
    haproxy.set_state(server, "ready")
    deadline = time.monotonic() + _TIMEOUT
    while haproxy.statuses(backend)[name] != "UP":
        if time.monotonic() > deadline:
            sys.exit(f"HAProxy doesn't find {server} healthy")
        time.sleep(_POLL_INTERVAL)


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit("usage: replace.py SOCKET BACKEND/SERVER COMMAND [ARGUMENT ...]")
    try:
        replace(HAProxy(sys.argv[1]), sys.argv[2], sys.argv[3:])
    except OSError as error:
        sys.exit(f"HAProxy: {sys.argv[1]}: {error.strerror or error}")
