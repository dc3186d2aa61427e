"""
``daphne.apps``: an application of Django without anything in it.

``"daphne_like"`` in INSTALLED_APPS brings ``runserver`` and its check; a ``"daphne"``
that is still listed after it does no harm.
"""

from __future__ import annotations

from django.apps import AppConfig

__all__ = ["DaphneConfig"]


class DaphneConfig(AppConfig):  # type: ignore[misc] # Django is untyped
    """The application ``daphne``."""

    name = "daphne"
    verbose_name = "Daphne"
