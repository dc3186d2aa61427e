"""
The app for Django's ``INSTALLED_APPS``: brings ``runserver`` and a system check.

Every ``manage.py`` command imports this module, so it imports no Twisted, and it
installs no reactor (daphne#195).

Tests: ``tests/unit/test_django_app.py``.
"""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks

from daphne_like import aliases
from daphne_like.checks import check_daphne_installed

__all__ = ["DaphneLikeConfig"]

# Now, and not in ready(): the modules of apps which come later may import Daphne's
# names already.
aliases.install()


class DaphneLikeConfig(AppConfig):  # type: ignore[misc]
    """The app ``daphne_like``."""

    name = "daphne_like"
    verbose_name = "daphne_like"

    def ready(self) -> None:
        """Register the check, which ``check --tag staticfiles`` runs, too."""
        checks.register(check_daphne_installed, checks.Tags.staticfiles)
