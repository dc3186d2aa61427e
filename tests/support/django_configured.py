"""Django in the test's own process, which it can be set up in only once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import django
from django.conf import settings
from django.test import override_settings


@contextmanager
def django_with(*apps: str, **overrides: Any) -> Iterator[None]:
    """Have these apps installed, and these settings."""
    if not settings.configured:
        # Without LOGGING_CONFIG, other tests keep their loggers.
        settings.configure(LOGGING_CONFIG=None)
        django.setup()
    with override_settings(INSTALLED_APPS=apps, **overrides):
        yield
