"""Tests of ``daphne_like.apps`` and ``daphne_like.checks``."""

from __future__ import annotations

import subprocess
import sys

import pytest
from django.core import checks
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django_configured import django_with

STATICFILES = "django.contrib.staticfiles"

IMPORT = """
import sys
from django.conf import settings
settings.configure(INSTALLED_APPS=["daphne_like", "django.contrib.staticfiles"])
import django
django.setup()
from django.core.management import call_command
call_command("check")
print(*(name for name in sys.modules if name.startswith(("twisted", "asyncio"))))
"""


def test_the_app_imports_no_twisted() -> None:
    """Commands other than runserver start as fast as before (daphne#195)."""
    finished = subprocess.run(
        [sys.executable, "-c", IMPORT], capture_output=True, check=True, text=True
    )
    modules = finished.stdout.split()

    assert [] == [name for name in modules if name.startswith("twisted")]


def issues() -> list[checks.CheckMessage]:
    """Return what the checks for static files find of ours."""
    found = checks.run_checks(tags=[checks.Tags.staticfiles])
    return [issue for issue in found if "E001" in issue.id]


@pytest.mark.parametrize(
    "apps",
    [
        ["daphne_like"],
        ["daphne_like", STATICFILES],
        ["daphne_like", "django.contrib.contenttypes", STATICFILES],
        ["django.contrib.contenttypes"],
    ],
)
def test_right_order_of_apps(apps: list[str]) -> None:
    """Before staticfiles, or without it, all is well."""
    with django_with(*apps):
        assert [] == issues()


def test_wrong_order_of_apps() -> None:
    """Behind staticfiles our runserver would be ignored in silence."""
    with django_with(STATICFILES, "daphne_like"):
        (issue,) = issues()

        assert "daphne_like.E001" == issue.id
        assert checks.ERROR == issue.level
        assert not issue.is_silenced()
        with pytest.raises(SystemCheckError, match="must stand before"):
            call_command("check")


@pytest.mark.parametrize("silenced", ["daphne_like.E001", "daphne.E001"])
def test_either_id_silences(silenced: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Projects which silence Daphne's check need not change that."""
    with django_with(STATICFILES, "daphne_like", SILENCED_SYSTEM_CHECKS=[silenced]):
        call_command("check")

    assert "no issues (1 silenced)" in capsys.readouterr().out
