"""The example examples/chat as tests use it: served, and visited by its members."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
from clients import client
from server_process import Serve, ServerProcess
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

CHAT = Path(__file__).parents[2] / "examples" / "chat"
PASSWORD = "three horses and a cow"
LOBBY = 1

_WAIT = 20.0
_numbers = itertools.count(1)


def manage(environment: Mapping[str, str], *arguments: str) -> str:
    """Run a command of the site's ``manage.py``, and return what it prints."""
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=CHAT,
        env={**os.environ, **environment},
        text=True,
        check=True,
        stdout=subprocess.PIPE,
    ).stdout


def serve_chat(
    serve: Serve, environment: Mapping[str, str], *options: str
) -> ServerProcess:
    """Serve the site, which has its tables already."""
    return serve(
        "config.asgi:application", *options, cwd=CHAT, environment=dict(environment)
    )


class Member:
    """Somebody who has signed up, without a browser."""

    def __init__(self, url: str) -> None:
        self.name = f"member{next(_numbers)}"
        self.url = url
        self.http = client(url)
        self.http.timeout = _WAIT
        after = self.submit(
            "/sign-up/",
            username=self.name,
            password1=PASSWORD,
            password2=PASSWORD,
        )
        assert "/" == after.url.path, after.text

    def close(self) -> None:
        """Leave for good."""
        self.http.close()

    def submit(self, path: str, **fields: str) -> httpx.Response:
        """Send the form of a page, as a browser does, and follow where it leads."""
        self.http.get(path)
        fields["csrfmiddlewaretoken"] = self.http.cookies["csrftoken"]
        response = self.http.post(path, data=fields, follow_redirects=True)
        response.raise_for_status()
        return response

    @contextlib.contextmanager
    def in_room(
        self, room: int = LOBBY, after: int = 0, origin: str | None = ""
    ) -> Iterator[RoomSocket]:
        """Open the WebSocket of a room, as its page does."""
        cookies = "; ".join(f"{name}={v}" for name, v in self.http.cookies.items())
        with connect(
            f"{self.url.replace('http:', 'ws:')}/ws/rooms/{room}/?after={after}",
            origin=self.url if origin == "" else origin,  # type: ignore[arg-type]
            additional_headers={"Cookie": cookies},
            proxy=None,
        ) as socket:
            yield RoomSocket(socket)


class RoomSocket:
    """The WebSocket of a page."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket

    def say(self, text: str) -> None:
        """Send what was entered."""
        self._socket.send(text)

    def wait_for(self, wanted: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
        """Receive events until one is wanted."""
        while True:
            event: dict[str, Any] = json.loads(self._socket.recv(_WAIT))
            if wanted(event):
                return event

    def hear(self, text: str) -> dict[str, Any]:
        """Wait for a message with this text."""
        return self.wait_for(lambda event: event.get("text") == text)

    def leave_when_asked(self) -> None:
        """Close it when the server says that it stops, as the page does."""
        self.wait_for(lambda event: event["type"] == "leave")
        self._socket.close()

    def close_code(self) -> int | None:
        """Wait until the server closes; return its code."""
        with contextlib.suppress(ConnectionClosed):
            while True:
                self._socket.recv(_WAIT)
        return self._socket.close_code
