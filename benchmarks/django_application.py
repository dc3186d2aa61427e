"""
The Django application behind the workload ``django-json``.

A project in one module: no middleware, no database, one asynchronous view. Django's
own signal handlers stay connected, as in any project.
"""

from __future__ import annotations

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path


async def hello(_request: HttpRequest) -> JsonResponse:
    """Answer a small JSON object."""
    return JsonResponse({"message": "Hello, world!"})


urlpatterns = [path("json", hello)]

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    LOGGING_CONFIG=None,
    MIDDLEWARE=[],
    ROOT_URLCONF=__name__,
    SECRET_KEY="of no worth: this project holds no secret",
)

application = get_asgi_application()
