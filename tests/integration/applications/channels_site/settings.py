"""The project's settings; the test names the file for its database."""

from __future__ import annotations

import os

ALLOWED_HOSTS = ["localhost"]
ASGI_APPLICATION = "applications.channels_site.asgi.application"
CHANNEL_LAYERS = {"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}}
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ["CHAT_DATABASE"],
        # The server's process has to find it.
        "TEST": {"NAME": os.environ["CHAT_DATABASE"] + "-test"},
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [
    "daphne_like",
    "django.contrib.staticfiles",
    "applications.channels_site",
]
ROOT_URLCONF = "applications.channels_site.urls"
SECRET_KEY = "of no use"
STATIC_URL = "static/"
USE_TZ = True
