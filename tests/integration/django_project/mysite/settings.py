"""A project that uses no Channels. Tests copy it, and add to this file."""

from __future__ import annotations

from pathlib import Path

BASE_DIR = Path(__file__).parent.parent

ALLOWED_HOSTS = ["*"]
ASGI_APPLICATION = "mysite.asgi.application"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": BASE_DIR / "db.sqlite3",
    }
}
DEBUG = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [
    "daphne_like",
    # It has migrations, which nobody has applied.
    "django.contrib.contenttypes",
    "django.contrib.staticfiles",
    "pages",
]
MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]
ROOT_URLCONF = "mysite.urls"
SECRET_KEY = "of no use"
STATIC_URL = "static/"
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates"}]
USE_TZ = True
WSGI_APPLICATION = "mysite.wsgi.application"
