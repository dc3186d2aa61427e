"""What browsers and sessions are held to."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from asgiref.sync import async_to_sync
from django.contrib.auth.signals import user_logged_out
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse

from chat.conversation import end_session

_logger = logging.getLogger(__name__)

# Only what comes from this site runs, is shown and is connected to. Should some text
# ever get into a page unescaped, it stays text.
_POLICY = (
    "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


def content_security_policy(
    get_response: Callable[[HttpRequest], HttpResponse],
) -> Callable[[HttpRequest], HttpResponse]:
    """Make the middleware which sets the Content-Security-Policy of each page."""

    def middleware(request: HttpRequest) -> HttpResponse:
        response = get_response(request)
        response["Content-Security-Policy"] = _POLICY
        return response

    return middleware


@receiver(user_logged_out)
def close_websockets(request: HttpRequest, **details: Any) -> None:
    """End the WebSockets of a login together with the login."""
    key = request.session.session_key
    if key is not None:
        try:
            async_to_sync(end_session)(key)
        except Exception:
            # Were it to spread, Django would not end the login itself.
            _logger.exception("WebSockets of a login that has ended stay open")
