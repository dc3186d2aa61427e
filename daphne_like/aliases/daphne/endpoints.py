"""``daphne.endpoints``: the function of :mod:`daphne_like.endpoints`."""

from __future__ import annotations

from daphne_like.endpoints import build_endpoint_description_strings

__all__ = ["build_endpoint_description_strings"]
