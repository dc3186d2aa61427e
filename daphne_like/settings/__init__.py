"""
Every setting of the server, defined once.

A setting is a field of one of the frozen section classes below. Its name is the
keyword of ``Server(...)``, the key of the TOML file, the long option with ``-`` for
``_``, and, in capitals after ``DAPHNE_LIKE_``, the environment variable. The command
line, ``--help``, ``--show-config`` and ``docs/settings.md`` are made from the same
fields, so that none of them can drift apart.

A section checks its fields when it is made, so a section which exists is valid. What
is wrong raises :class:`~daphne_like.errors.SettingsError`, one line which names the
setting in the words of the source it came from.

Importing this module must stay cheap: no Twisted, and no TOML reader before a file is
read.

Tests: ``tests/unit/test_settings.py``.
"""

from __future__ import annotations

from daphne_like.settings.definition import ENVIRONMENT_PREFIX, Setting
from daphne_like.settings.operation import (
    LifecycleSettings,
    LogSettings,
    OperationsSettings,
    ProcessSettings,
    WorkerSettings,
)
from daphne_like.settings.serving import (
    ApplicationSettings,
    BindSettings,
    HTTP2Settings,
    HTTPSettings,
    ProxySettings,
    TLSSettings,
    WebSocketSettings,
)
from daphne_like.settings.sources import (
    KNOWN_SETTINGS,
    SECTION_TITLES,
    Settings,
    read_toml,
)

__all__ = [
    "ENVIRONMENT_PREFIX",
    "KNOWN_SETTINGS",
    "SECTION_TITLES",
    "ApplicationSettings",
    "BindSettings",
    "HTTP2Settings",
    "HTTPSettings",
    "LifecycleSettings",
    "LogSettings",
    "OperationsSettings",
    "ProcessSettings",
    "ProxySettings",
    "Setting",
    "Settings",
    "TLSSettings",
    "WebSocketSettings",
    "WorkerSettings",
    "read_toml",
]
