"""``daphne.utils``: the functions of :mod:`daphne_like.utils`."""

from __future__ import annotations

from daphne_like.utils import import_by_path, parse_x_forwarded_for

__all__ = ["import_by_path", "parse_x_forwarded_for"]
