"""
Twisted finds plugins of daphne_like here; so far there are none.

Endpoint strings with ``fd:`` need no plugin: :mod:`daphne_like.listeners.endpoints`
reads them itself.

Tests: ``tests/unit/test_packaging.py``.
"""
