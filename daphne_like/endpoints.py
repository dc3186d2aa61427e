"""
Daphne's name for what makes endpoint strings.

Tests: ``tests/unit/listeners/test_endpoints.py``.
"""

from __future__ import annotations

from daphne_like.listeners.endpoints import build_endpoint_description_strings

__all__ = ["build_endpoint_description_strings"]
