"""
Tests, and what they start, are told nothing by the environment of who runs them.

The example would take somebody's database for its own, clients would ask a proxy for
our servers, and these would report to the caller's systemd.
"""

from __future__ import annotations

import os

_NAMES = {
    *("ASGI_THREADS", "NOTIFY_SOCKET", "SYSTEMD_EXEC_PID"),
    *("DATABASE_URL", "DEBUG", "REDIS_URL", "RUN_MAIN", "SECRET_KEY"),
}
_BEGINNINGS = ("CHAT_", "DAPHNE_LIKE_", "DJANGO_", "LISTEN_", "PG", "WATCHDOG_")

for _name in list(os.environ):
    if (
        _name in _NAMES
        or _name.startswith(_BEGINNINGS)
        or _name.lower().endswith("_proxy")
    ):
        del os.environ[_name]
