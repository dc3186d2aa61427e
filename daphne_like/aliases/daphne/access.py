"""``daphne.access``: the class of :mod:`daphne_like.access`."""

from __future__ import annotations

from daphne_like.access import AccessLogGenerator

__all__ = ["AccessLogGenerator"]
