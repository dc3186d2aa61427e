"""Programs which integration tests talk to, where they are installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import NoReturn

import pytest


def find_program(*names: str) -> str:
    """
    Return the path of the first program that is installed.

    Without one the test is skipped, but in CI it fails: there the programs are
    installed, and a test that never runs would not be missed.
    """
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        _do_without(" or ".join(names))
    return found


def find_file(path: Path) -> Path:
    """Return the path of what a program needs beside itself, as :func:`find_program`."""
    if not path.exists():
        _do_without(str(path))
    return path


def _do_without(what: str) -> NoReturn:
    message = f"{what} is not installed"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def curl(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run curl, without the user's settings and proxies, and wait for its end."""
    command = [find_program("curl"), "-q", "--silent", "--show-error"]
    return subprocess.run(
        [*command, "--noproxy", "*", "--max-time", "20", *arguments],
        capture_output=True,
        check=False,
    )
