"""An application which shows what a service of systemd's is like inside."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from applications import lifecycle

# Names of variables and kinds of descriptors, as a child sees them.
_LOOK = """
import json, os, stat
sockets = []
for number in range(3, 64):
    try:
        if stat.S_ISSOCK(os.fstat(number).st_mode):
            sockets.append(number)
    except OSError:
        pass
print(json.dumps([sorted(os.environ), sockets]))
"""


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Do what the path says; what isn't here, the other application does."""
    path = scope.get("path")
    if path == "/child":
        # Without close_fds it gets all that can be inherited.
        found = subprocess.run(  # noqa: ASYNC221 - nobody else is waiting
            [sys.executable, "-c", _LOOK],
            capture_output=True,
            check=True,
            close_fds=False,
        )
        await lifecycle.answer(send, found.stdout)
    elif path == "/block-until-told":
        lifecycle.say("blocking")
        sys.stdin.read()
        await lifecycle.answer(send, b"done")
    elif path == "/scheme":
        await lifecycle.answer(send, json.dumps(scope["scheme"]).encode())
    else:
        await lifecycle.application(scope, receive, send)
