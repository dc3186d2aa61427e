"""The page of the chat."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.templatetags.static import static
from django.urls import path


def page(request: HttpRequest) -> HttpResponse:
    """Show what is said, and a field for more."""
    return HttpResponse(
        "<!doctype html><title>Chat</title><p id=state>closed</p><ul id=lines></ul>"
        "<form><input name=text autofocus><button>Say</button></form>"
        f"<script src={static('channels_site/chat.js')}></script>"
    )


urlpatterns = [path("", page)]
