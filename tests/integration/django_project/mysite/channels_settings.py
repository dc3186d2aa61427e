"""The same project with Channels."""

from __future__ import annotations

from mysite.settings import *  # noqa: F403
from mysite.settings import INSTALLED_APPS

ASGI_APPLICATION = "mysite.routing.application"
INSTALLED_APPS = [INSTALLED_APPS[0], "channels", *INSTALLED_APPS[1:]]
