"""
The HTML documents of the demo: the facts of a request, made readable.

Tests: ``tests/unit/test_demo.py``.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import html
import platform
from collections.abc import Iterable
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from daphne_like import __version__

if TYPE_CHECKING:
    from daphne_like.asgi.types import Scope

__all__ = ["Headers", "Page", "root_path"]

Headers = list[tuple[bytes, bytes]]


class Page:
    """
    The HTML documents, made of the files in ``assets/``.

    Style and script stand inside the document, and the Content-Security-Policy
    allows exactly these two by their hashes: whatever a request header might
    smuggle into the page is not run.
    """

    def __init__(self) -> None:
        # Universal newlines: the hashes must be those of the text as the
        # browser's parser sees it, also from a checkout with CR LF.
        folder = files("daphne_like.demo") / "assets"
        self._index = Template((folder / "index.html").read_text("utf-8"))
        self._error = Template((folder / "error.html").read_text("utf-8"))
        self._style = (folder / "style.css").read_text("utf-8")
        self._script = (folder / "script.js").read_text("utf-8")
        self.headers: Headers = [
            (b"content-security-policy", self._security_policy().encode())
        ]

    def index(self, scope: Scope) -> bytes:
        """Return the page, with the facts of this request in it."""
        return self._index.substitute(
            style=self._style,
            script=self._script,
            version=__version__,
            protocol=html.escape(_protocol(scope)),
            client=html.escape(_address(scope.get("client"))),
            server=html.escape(_address(scope.get("server"))),
            request=self.request(scope).decode(),
        ).encode()

    def request(self, scope: Scope) -> bytes:
        """Return the part of the page which tells about the request itself."""
        headers = scope["headers"]
        return (
            '<div class="facts-half"><h3>Connection</h3>'
            f"{_facts_html(_facts(scope))}</div>"
            '<div class="facts-half"><h3>Headers, in the order received '
            f'<span class="count">{len(headers)}</span></h3>'
            f"{_facts_html(_header_facts(headers))}</div>"
        ).encode()

    def error(self, status: int, title: str, detail: str, scope: Scope) -> bytes:
        """Return a page which tells that, and why, a request was not served."""
        return self._error.substitute(
            style=self._style,
            status=status,
            title=html.escape(title),
            detail=html.escape(detail),
            home=html.escape(quote(root_path(scope)) + "/"),
        ).encode()

    def _security_policy(self) -> str:
        """Return the policy that lets nothing in but what the page is made of."""
        return "; ".join(
            [
                "default-src 'none'",
                f"script-src {_source_hash(self._script)}",
                f"style-src {_source_hash(self._style)}",
                "img-src data:",
                "connect-src 'self'",
                "base-uri 'none'",
                "form-action 'none'",
                "frame-ancestors 'none'",
            ]
        )


def root_path(scope: Scope) -> str:
    """Return where the application is mounted, without a slash at the end."""
    return str(scope.get("root_path", "")).rstrip("/")


def _source_hash(text: str) -> str:
    """Return the CSP source expression which allows exactly this inline text."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _protocol(scope: Scope) -> str:
    """Return the protocol version as people write it."""
    return f"HTTP/{scope['http_version']}"


def _address(address: Iterable[Any] | None) -> str:
    """Return a ``[host, port]`` pair, or a Unix socket's, as one string."""
    if not address:
        return "not known"
    host, port = address
    if port is None:
        return str(host)
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"


def _facts(scope: Scope) -> list[tuple[str, str]]:
    """Return names and values of what the scope says besides the headers."""
    query = scope.get("query_string", b"").decode("latin-1")
    asgi = scope["asgi"]
    loop = type(asyncio.get_running_loop()).__module__.partition(".")[0]
    return [
        ("Protocol", _protocol(scope)),
        ("Method", scope["method"]),
        ("Path", scope["path"] + (f"?{query}" if query else "")),
        ("Root path", scope.get("root_path", "") or "none"),
        ("Scheme", scope.get("scheme", "http")),
        ("Client", _address(scope.get("client"))),
        ("Server", _address(scope.get("server"))),
        ("ASGI", f"{asgi['version']}, HTTP {asgi.get('spec_version', '2.0')}"),
        ("Extensions", "\n".join(scope.get("extensions") or ()) or "none offered"),
        ("Python", f"{platform.python_implementation()} {platform.python_version()}"),
        ("Event loop", loop),
    ]


def _header_facts(
    headers: Iterable[tuple[bytes, bytes]],
) -> list[tuple[str, str]]:
    """Return the request headers as text, repeated ones and order kept."""
    return [
        (bytes(name).decode("latin-1"), bytes(value).decode("latin-1"))
        for name, value in headers
    ]


def _facts_html(facts: Iterable[tuple[str, str]]) -> str:
    """Return names and values as a description list."""
    rows = "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd></div>"
        for name, value in facts
    )
    return f'<dl class="facts">{rows}</dl>'
