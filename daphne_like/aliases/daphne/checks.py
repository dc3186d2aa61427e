"""``daphne.checks``: the check of :mod:`daphne_like.checks`."""

from __future__ import annotations

from daphne_like.checks import check_daphne_installed

__all__ = ["check_daphne_installed"]
