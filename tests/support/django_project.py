"""A Django project of a test's own, and `manage.py runserver` in it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from server_process import ServerProcess
from websockets.sync.client import ClientConnection

PROJECT = Path(__file__).parent.parent / "integration" / "django_project"

_LISTENING = re.compile(r"development server at (\S+)/\n")
_TIMEOUT = 30.0
_SAVE_INTERVAL = 4.0


class Runserver(ServerProcess):
    """
    A `manage.py runserver`, with the process which its autoreloader starts.

    Attributes:
        project: The folder with ``manage.py``.

    Args:
        project: The same.
        arguments: Of the command; without an address it takes a free port.
    """

    def __init__(self, project: Path, *arguments: str, **environment: str) -> None:
        self.project = project
        address = () if any(":" in word for word in arguments) else ("0",)
        super().__init__(
            ("runserver", *address, *arguments),
            program=("manage.py",),
            cwd=project,
            environment=environment,
            start_new_session=True,
        )

    @property
    def site(self) -> str:
        """The address in its latest banner, once that is there."""
        self.wait_for_log(_LISTENING.pattern)
        return str(_LISTENING.findall(self.log)[-1])

    def get(self, path: str) -> httpx.Response:
        """Send a request on a connection of its own."""
        with httpx.Client(verify=False, trust_env=False, timeout=20.0) as client:
            return client.get(f"{self.site}{path}")

    def wait_for_answer(self, path: str, text: str, *, saving: str = "") -> None:
        """
        Ask again and again until the answer is this, also of a later process.

        Args:
            path: What to ask for.
            text: The answer.
            saving: A file to save again and again meanwhile, since the autoreloader
                misses what is saved before it has had its first look.
        """
        deadline = time.monotonic() + _TIMEOUT
        save_at = time.monotonic() + _SAVE_INTERVAL
        answer = ""
        while time.monotonic() < deadline:
            with suppress(httpx.TransportError):
                if _LISTENING.search(self.log):
                    answer = self.get(path).text
            if answer == text:
                return
            time.sleep(0.05)
            if saving and time.monotonic() > save_at:
                save_at += _SAVE_INTERVAL
                (self.project / saving).touch()
        pytest.fail(f"{path} is {answer!r}, never {text!r}:\n{self.log}")

    def wait_while_open(self, client: ClientConnection, *, saving: str) -> None:
        """
        Wait for a WebSocket's end, which raises; see :meth:`wait_for_answer`.

        Args:
            client: Hears nothing but its end.
            saving: A file to save again and again meanwhile.
        """
        for _ in range(int(_TIMEOUT / _SAVE_INTERVAL)):
            with suppress(TimeoutError):
                client.recv(_SAVE_INTERVAL)
            (self.project / saving).touch()
        pytest.fail(f"the WebSocket stays open:\n{self.log}")

    def press_ctrl_c(self) -> None:
        """Interrupt all its processes, as a terminal does."""
        os.killpg(self.process.pid, signal.SIGINT)

    def kill(self) -> None:
        """End all its processes, come what may."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        super().kill()


class Project:
    """
    A copy of the project.

    Attributes:
        folder: Where ``manage.py`` is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        no_caches = shutil.ignore_patterns("__pycache__")
        shutil.copytree(PROJECT, folder, ignore=no_caches)
        self._started: list[Runserver] = []

    def change(self, path: str, old: str, new: str) -> None:
        """Save a file with another text in it."""
        file = self.folder / path
        text = file.read_text("utf-8")
        assert old in text
        file.write_text(text.replace(old, new), "utf-8")

    def set(self, **settings: Any) -> None:
        """Add to the settings."""
        with (self.folder / "mysite" / "settings.py").open("a") as file:
            file.writelines(f"{name} = {value!r}\n" for name, value in settings.items())

    def runserver(self, *arguments: str, **environment: str) -> Runserver:
        """Start the server."""
        server = Runserver(self.folder, *arguments, **environment)
        self._started.append(server)
        return server

    def end(self) -> None:
        """End what was started."""
        for server in self._started:
            server.kill()


MakeProject = Callable[[], Project]


@contextmanager
def making_projects(folder: Path) -> Iterator[MakeProject]:
    """Make projects, and in the end stop their servers."""
    made: list[Project] = []

    def make() -> Project:
        project = Project(folder / f"project{len(made)}")
        made.append(project)
        return project

    try:
        yield make
    finally:
        for project in made:
            project.end()
