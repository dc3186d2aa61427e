"""The memory of a server under test."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from server_process import ServerProcess


def peak_memory_bytes(server: ServerProcess) -> int:
    """Tell the most memory it has had; skip the test where that can't be asked."""
    status = Path(f"/proc/{server.process.pid}/status")
    if not status.exists():
        pytest.skip("the system has no /proc")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text())
    assert found is not None
    return int(found[1]) * 1024
