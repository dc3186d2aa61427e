"""
The pytest plugin: tests may import ``daphne``, and with it ``channels.testing``.

pytest imports it at each start, before any ``conftest.py``; so it imports next to
nothing.

Tests: ``tests/unit/test_aliases.py``, ``tests/unit/test_packaging.py``.
"""

from __future__ import annotations

from daphne_like import aliases

__all__: list[str] = []

aliases.install()
