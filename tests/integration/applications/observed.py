"""An application which logs, fails, and tells in which span it runs."""

from __future__ import annotations

import logging
from typing import Any


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Do what the path says."""
    assert scope["type"] == "http"
    text = "hello"
    if scope["path"] == "/fail":
        raise ValueError("as asked")
    if scope["path"] == "/log":
        logging.getLogger("shop").warning("the application says something")
    if scope["path"] == "/trace":
        from opentelemetry import trace

        text = f"{trace.get_current_span().get_span_context().span_id:016x}"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": text.encode()})
