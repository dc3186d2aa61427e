"""
Becomes the server, as systemd's own child does before it is the service.

The environment names descriptors in ``TEST_PASSED``; they become 3 and those which
follow, and ``LISTEN_PID`` is this process, which the server then is.
"""

from __future__ import annotations

import fcntl
import os
import sys

given = [int(text) for text in os.environ.pop("TEST_PASSED").split()]
# First out of the way of each other.
numbers = [fcntl.fcntl(number, fcntl.F_DUPFD, 100) for number in given]
for number in given:
    os.close(number)
for place, number in enumerate(numbers):
    os.dup2(number, 3 + place, inheritable=True)
    os.close(number)

os.environ["LISTEN_FDS"] = str(len(numbers))
os.environ["LISTEN_PID"] = os.environ.pop("TEST_LISTEN_PID", str(os.getpid()))
os.execv(sys.executable, [sys.executable, "-m", "daphne_like", *sys.argv[1:]])
