"""
The application of a listener that only sends clients to HTTPS.

Tests: ``tests/unit/asgi/test_redirect.py``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from daphne_like.asgi.types import ASGIApplication, Receive, Scope, Send

__all__ = ["redirect_to_https"]

_PORT = re.compile(rb":[0-9]*\Z")


def redirect_to_https(port: int) -> ASGIApplication:
    """
    Make an application which answers each request with 308 (RFC 9110 15.4.9).

    The URL is made of the request's host, which the server has checked for its
    syntax, of its path and query as they were received, and of the port. There is
    nothing in it that another site could choose: it leads to whatever host the
    client has been talking to.

    Args:
        port: Where HTTPS is served.
    """
    suffix = b"" if port == 443 else b":%d" % port

    async def redirect(scope: Scope, receive: Receive, send: Send) -> None:
        host = _PORT.sub(b"", dict(scope["headers"]).get(b"host", b""))
        path, query = scope["raw_path"], scope["query_string"]
        status, headers = 308, [(b"content-length", b"0")]
        if host and path.startswith(b"/"):
            url = b"https://%b%b%b" % (host, suffix, path)
            headers.append((b"location", url + b"?" + query if query else url))
        else:
            # HTTP/1.0 knows no host; "OPTIONS *" is for the server as a whole.
            status = 400
        await send(
            {"type": "http.response.start", "status": status, "headers": headers}
        )
        await send({"type": "http.response.body"})

    return redirect
