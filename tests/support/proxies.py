"""Real proxies in front of servers under test."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from programs import find_file, find_program

__all__ = ["Page", "running_haproxy", "running_nginx"]

_DOCS = Path(__file__).parents[2] / "docs"


class Page:
    """A page of the documentation, whose examples are tried."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._text = (_DOCS / name).read_text("utf-8")

    def blocks(self, language: str) -> list[str]:
        """Return the examples in one language."""
        return re.findall(rf"```{language}\n(.*?)```", self._text, re.DOTALL)

    def command(self, beginning: str) -> list[str]:
        """Return the options of the command that begins so."""
        (line,) = (text for text in self.blocks("sh") if text.startswith(beginning))
        program, *options, application = shlex.split(line.replace("\\\n", ""))
        assert ("daphne-like", "main:app") == (program, application)
        return options

    def replaced(self, text: str, replacements: dict[str, str]) -> str:
        """Put this machine's paths and ports in; each must occur in the page."""
        for old, new in replacements.items():
            assert old in text, f"{old!r} is not in {self._name} any more"
            text = text.replace(old, new)
        return text


MAIN = """
{first}
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
{blocks}
"""
HTTP = """
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{site}
}}
"""
_STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")


@contextmanager
def running_nginx(
    configuration: str, folder: Path, listening: list[socket.socket]
) -> Iterator[None]:
    """
    Run nginx on sockets that listen already, as it does when it is upgraded.

    Args:
        configuration: What is in its ``http`` block, or a ``stream`` block.
        folder: For its files.
        listening: The sockets, whose addresses it names.
    """
    file = folder / "nginx.conf"
    # Else the workers of a master which root started could not read the folder.
    first = "user root;" if os.geteuid() == 0 else ""
    if configuration.startswith("stream {"):
        first += f"load_module {find_file(_STREAM_MODULE)};"
        blocks = configuration
    else:
        blocks = HTTP.format(folder=folder, site=configuration)
    file.write_text(MAIN.format(folder=folder, first=first, blocks=blocks))
    for sock in listening:
        sock.setblocking(False)
    numbers = [sock.fileno() for sock in listening]
    command = [find_program("nginx"), "-c", str(file), "-p", str(folder)]
    options: dict[str, Any] = {
        "stdin": subprocess.DEVNULL,
        "stderr": subprocess.PIPE,
        "text": True,
        "env": {**os.environ, "NGINX": "".join(f"{number};" for number in numbers)},
        "pass_fds": numbers,
    }
    checked = subprocess.run([*command, "-t"], check=False, **options)
    assert 0 == checked.returncode, checked.stderr
    process = subprocess.Popen(command, **options)
    try:
        yield
    finally:
        process.terminate()
        _, log = process.communicate(timeout=20)
    assert 0 == process.returncode, log


@contextmanager
def running_haproxy(
    configuration: str, folder: Path, listening: Sequence[socket.socket]
) -> Iterator[None]:
    """
    Run HAProxy on sockets that listen already.

    Args:
        configuration: Names them by ``fd@`` and their numbers.
        folder: For its files.
        listening: The sockets.
    """
    file = folder / "haproxy.cfg"
    file.write_text(configuration)
    command = [find_program("haproxy"), "-db", "-f", str(file)]
    for sock in listening:
        sock.setblocking(False)
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        pass_fds=[sock.fileno() for sock in listening],
    )
    try:
        yield
        assert process.poll() is None, "HAProxy has ended by itself"
    finally:
        process.terminate()
        process.wait(20)
