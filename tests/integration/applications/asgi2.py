"""An application in the style of ASGI 2: called once with the scope, then awaited."""

from __future__ import annotations

from typing import Any


class Application:
    """One instance for each scope."""

    def __init__(self, scope: dict[str, Any]) -> None:
        if scope["type"] != "http":
            raise ValueError(f"not served: {scope['type']}")
        self.scope = scope

    async def __call__(self, receive: Any, send: Any) -> None:
        """Tell what was asked for and how much came with it."""
        body = b""
        while True:
            event = await receive()
            body += event["body"]
            if not event["more_body"]:
                break
        answer = f"{self.scope['method']} {self.scope['path']} {len(body)}".encode()
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": answer})
