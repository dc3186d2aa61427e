"""Programs which integration tests talk to, where they are installed."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest


def find_program(*names: str) -> str:
    """
    Return the path of the first program that is installed.

    Without one the test is skipped, but in CI it fails: there the programs are
    installed, and a test that never runs would not be missed.
    """
    for name in names:
        if found := shutil.which(name):
            return found
    message = f"{' or '.join(names)} is not installed"
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
