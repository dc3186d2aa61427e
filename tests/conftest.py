"""What all tests have in common: nothing of those who start them."""

from __future__ import annotations

import os

# Set for what systemd starts, and for all that this starts: a session of a desktop, a
# runner of CI. Servers in tests would take them for their own.
for _name in (
    *("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_PIDFDID"),
    *("NOTIFY_SOCKET", "SYSTEMD_EXEC_PID", "WATCHDOG_PID", "WATCHDOG_USEC"),
):
    os.environ.pop(_name, None)
