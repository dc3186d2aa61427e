"""
A system check: the order of ``INSTALLED_APPS``.

Django runs the ``runserver`` of the first app which has one. Behind
``django.contrib.staticfiles`` ours would never run, without a word about it.

Tests: ``tests/unit/test_django_app.py``.
"""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.conf import settings
from django.core.checks import Error

__all__ = ["check_daphne_installed"]

# Who has silenced Daphne's check means ours as well.
_DAPHNES_ID = "daphne.E001"


class _WrongOrder(Error):  # type: ignore[misc]
    """An error which Daphne's id silences, too."""

    def is_silenced(self) -> bool:
        """Whether ``SILENCED_SYSTEM_CHECKS`` has one of the ids."""
        silenced = settings.SILENCED_SYSTEM_CHECKS
        return self.id in silenced or _DAPHNES_ID in silenced


def check_daphne_installed(app_configs: object, **kwargs: Any) -> list[Error]:
    """Find out whether ``daphne_like`` comes before ``django.contrib.staticfiles``."""
    for app in apps.get_app_configs():
        if app.name == "daphne_like":
            return []
        if app.name == "django.contrib.staticfiles":
            break
    else:
        return []
    return [
        _WrongOrder(
            "'daphne_like' must stand before 'django.contrib.staticfiles' in "
            "INSTALLED_APPS.",
            hint="Behind it, runserver is that of staticfiles, which serves WSGI.",
            id="daphne_like.E001",
        )
    ]
