"""Pages. Tests change this file while it is served."""

from __future__ import annotations

import logging
import sys
import time

from django.http import HttpRequest, HttpResponse, JsonResponse

GREETING = "hello"


async def hello(request: HttpRequest) -> HttpResponse:
    """Greet."""
    return HttpResponse(GREETING, content_type="text/plain")


def told(request: HttpRequest) -> JsonResponse:
    """Tell what arrived, and in what."""
    return JsonResponse(
        {
            "scheme": request.scheme,
            "path": request.path,
            "path_info": request.path_info,
            "script_name": request.META["SCRIPT_NAME"],
            "interface": type(request).__name__,
            "twisted": "twisted.internet" in sys.modules,
        }
    )


def broken(request: HttpRequest) -> HttpResponse:
    """Fail."""
    raise RuntimeError("broken on purpose")


def blocked(request: HttpRequest) -> HttpResponse:
    """Keep a thread for longer than any test waits."""
    logging.getLogger(__name__).warning("blocked")
    time.sleep(300)
    return HttpResponse()
