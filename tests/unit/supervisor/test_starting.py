"""How a process becomes a worker, where that goes wrong."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

import pytest

from daphne_like.supervisor import starting

pytestmark = pytest.mark.skipif(
    not hasattr(os, "fork"), reason="workers need a POSIX system"
)

# In a process of its own, which may be forked.
_FORKING = """
import asyncio, os, selectors
from daphne_like.supervisor import starting

selector = selectors.PollSelector()
loop = asyncio.SelectorEventLoop(selector)

def leave():
    raise OSError(24, "Too many open files")

pid = starting.fork(loop, selector, [], leave)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_a_fork_that_cannot_leave_the_supervisor_behind() -> None:
    """It ends, and doesn't go on as a second supervisor."""
    done = subprocess.run(
        [sys.executable, "-c", _FORKING], capture_output=True, text=True, check=False
    )

    assert "1\n" == done.stdout
    assert "Too many open files" in done.stderr


_FORKING_TWICE = """
import asyncio, gc, os, selectors
from daphne_like.supervisor import starting

selector = selectors.PollSelector()
loop = asyncio.SelectorEventLoop(selector)
events = []
gc.callbacks.append(lambda phase, info: events.append((phase, info["generation"])))
for _ in range(2):
    pid = starting.fork(loop, selector, [], lambda: None)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    events.append(gc.get_freeze_count() > 2000)
print(events.count(("start", 2)), events[-1])
"""


def test_later_forks_leave_shared_memory_alone() -> None:
    """
    A second worker doesn't cost the first one the memory which it shares.

    Cause: to look for garbage writes to each object, and the supervisor did so before
    each fork. What it writes to is shared no more.
    """
    done = subprocess.run(
        [sys.executable, "-c", _FORKING_TWICE],
        capture_output=True,
        check=True,
        text=True,
    )

    assert "1 True\n" == done.stdout


def test_files_without_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """In memory where that can be had: the disk may be full, or no place for files."""
    if hasattr(os, "memfd_create"):
        with monkeypatch.context() as patch:
            patch.setattr(tempfile, "TemporaryFile", None)
            descriptors = [starting.nameless_file()]
    else:
        descriptors = []
    monkeypatch.delattr(os, "memfd_create", raising=False)
    descriptors.append(starting.nameless_file())
    for descriptor in descriptors:
        os.write(descriptor, b"text")
        os.lseek(descriptor, 0, os.SEEK_SET)

        assert b"text" == os.read(descriptor, 10)
        os.close(descriptor)
