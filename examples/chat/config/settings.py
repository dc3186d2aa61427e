"""
Settings of the site; what differs between machines comes from the environment.

Nothing has to be set: then there is a SQLite file, a channel layer in memory, and a
secret key which is made at the first start.

=================  ================================================================
``CHAT_DATA``      directory of the SQLite file and the secret key; ``var`` here
``CHAT_HOSTS``     host names under which the site is reached, with commas between
``CHAT_SUMMARY``   seconds between two looks at what was said in the last hour
``DATABASE_URL``   ``postgresql://user:password@host:port/name``
``DEBUG``          ``1`` shows tracebacks in the browser
``REDIS_URL``      ``redis://host:port/number`` or ``unix:///path``, for several
                   server processes
``SECRET_KEY``     a long random text, the same for all processes
=================  ================================================================
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured

BASE_DIR = Path(__file__).parents[1]
DATA_DIR = Path(os.environ.get("CHAT_DATA", BASE_DIR / "var"))
DATA_DIR.mkdir(mode=0o700, parents=True, exist_ok=True)


def _kept_secret(path: Path) -> str:
    """Read a secret; make it where there is none."""
    try:
        # Only one process makes the file, and only its owner can read it.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text("ascii")
    secret = secrets.token_urlsafe(50)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(secret)
    return secret


def _database(url: str) -> dict[str, Any]:
    """Turn the URL of a database into Django's words for it; without one, SQLite."""
    if not url:
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": DATA_DIR / "chat.sqlite3",
            "OPTIONS": {
                # Readers don't wait for the writer, and writers wait for each other.
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
                "transaction_mode": "IMMEDIATE",
                "timeout": 20,
            },
        }
    parts = urlsplit(url)
    if parts.scheme not in {"postgres", "postgresql"}:
        raise ImproperlyConfigured("DATABASE_URL must begin with postgresql://")
    return {
        "ENGINE": "django.db.backends.postgresql",
        # The directory of a Unix socket is a host, too: %2Frun%2Fpostgresql.
        "HOST": unquote(parts.hostname or ""),
        "PORT": parts.port or "",
        "NAME": unquote(parts.path.removeprefix("/")),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        # Under ASGI requests run in many threads: they take connections from a pool.
        "OPTIONS": {"pool": True},
    }


# -- What differs between machines -----------------------------------------------

SECRET_KEY = os.environ.get("SECRET_KEY") or _kept_secret(DATA_DIR / "secret-key")
DEBUG = os.environ.get("DEBUG") == "1"
ALLOWED_HOSTS = os.environ.get("CHAT_HOSTS", "localhost,127.0.0.1,[::1]").split(",")

DATABASES = {"default": _database(os.environ.get("DATABASE_URL", ""))}

CHANNEL_LAYERS: dict[str, dict[str, Any]] = {
    # Enough for one process: what is said in it is heard only there.
    "default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}
}
if redis_url := os.environ.get("REDIS_URL"):
    CHANNEL_LAYERS["default"] = {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        # It waits for messages as long as it takes; redis 8 would end that, and with it
        # the WebSocket, after five seconds (django/channels_redis#422).
        "CONFIG": {"hosts": [{"address": redis_url, "socket_timeout": None}]},
    }

SUMMARY_INTERVAL = float(os.environ.get("CHAT_SUMMARY", "5"))


# -- What doesn't ------------------------------------------------------------------

ASGI_APPLICATION = "config.asgi.application"
ROOT_URLCONF = "config.urls"

INSTALLED_APPS = [
    # Before staticfiles, since it brings a runserver of its own, too.
    "daphne_like",
    "chat",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "chat.security.content_security_policy",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
            ]
        },
    }
]

_VALIDATORS = "django.contrib.auth.password_validation"
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"{_VALIDATORS}.UserAttributeSimilarityValidator"},
    {"NAME": f"{_VALIDATORS}.MinimumLengthValidator"},
    {"NAME": f"{_VALIDATORS}.CommonPasswordValidator"},
    {"NAME": f"{_VALIDATORS}.NumericPasswordValidator"},
]

LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "rooms"
LOGOUT_REDIRECT_URL = "login"

STATIC_URL = "static/"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
TIME_ZONE = "UTC"
USE_TZ = True
