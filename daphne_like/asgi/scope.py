"""
Request heads to ASGI scopes; pure functions.

Source: ASGI HTTP & WebSocket 2.5, "HTTP Connection Scope" and "Websocket
Connection Scope".

Tests: ``tests/unit/asgi/test_scope.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

if TYPE_CHECKING:
    from daphne_like.asgi.types import Scope
    from daphne_like.protocols.interfaces import Connection, RequestHead

__all__ = ["ScopeBuilder", "daphne_scope", "http_scope", "websocket_scope"]

ScopeBuilder = Callable[
    ["RequestHead", "Connection", str, "dict[str, dict[str, object]]"], "Scope"
]
"""As :func:`http_scope`, from the same arguments."""

_QUESTION_MARK, _PERCENT = b"?%"


def http_scope(
    head: RequestHead,
    connection: Connection,
    root_path: str,
    extensions: dict[str, dict[str, object]],
) -> Scope:
    """
    Build the scope of an HTTP exchange.

    Every scope is made of objects of its own, so that an application which
    changes it changes nothing for others.

    Args:
        head: The request.
        connection: Its addresses, scheme and TLS.
        root_path: Where the application is mounted. ``path`` begins with it,
            as ASGI's mapping to WSGI supposes, whether or not a proxy has cut
            it off; ``raw_path`` is as received.
        extensions: Those which this exchange can use; the caller's to give away.
    """
    if connection.tls is not None:
        extensions["tls"] = connection.tls.copy()
    if connection.proxy is not None:
        extensions["proxy_protocol"] = connection.proxy.copy()
    if head.scope is not None and head.scope_connection is connection:
        scope: Scope = head.scope.copy()
    else:
        scope = _constant_part(head, connection, root_path)
    client, server = connection.client, connection.server
    scope["asgi"] = {"version": "3.0", "spec_version": "2.5"}
    scope["headers"] = [*head.headers]
    # Lists, since Daphne's users compare them with lists.
    scope["client"] = None if client is None else [*client]
    scope["server"] = None if server is None else [*server]
    scope["extensions"] = extensions
    return scope


def _constant_part(head: RequestHead, connection: Connection, root_path: str) -> Scope:
    """Build what an application can't change for others; keep it if it is used again."""
    comes_again = head.parts is not None
    path, raw_path, query = head.parts or _split(head)
    if root_path and not _is_below(path, root_path):
        path = root_path + path
    scope = {
        "type": "http",
        "asgi": None,
        "http_version": head.http_version,
        "method": head.method,
        "scheme": connection.scheme,
        "path": path,
        "raw_path": raw_path,
        "query_string": query,
        "root_path": root_path,
        "headers": None,
        "client": None,
        "server": None,
        "extensions": None,
    }
    if comes_again and head.scope is None:
        head.scope, head.scope_connection = scope.copy(), connection
    return scope


def daphne_scope(
    head: RequestHead,
    connection: Connection,
    root_path: str,
    extensions: dict[str, dict[str, object]],
) -> Scope:
    """
    Build the scope as Daphne does: ``path`` is as received, whatever the root path.

    ``server`` is ``None`` on a Unix socket, as ``client`` is.
    """
    scope = http_scope(head, connection, "", extensions)
    scope["root_path"] = root_path
    if connection.server is not None and connection.server[1] is None:
        scope["server"] = None
    return scope


def websocket_scope(
    head: RequestHead,
    connection: Connection,
    root_path: str,
    subprotocols: list[str],
    extensions: dict[str, dict[str, object]],
    *,
    build_scope: ScopeBuilder = http_scope,
) -> Scope:
    """
    Build the scope of a WebSocket: that of its handshake, in other words.

    Args:
        head: The handshake.
        connection: Its addresses and scheme.
        root_path: See :func:`http_scope`.
        subprotocols: Those which the client offers; the caller's to give away.
        extensions: See :func:`http_scope`.
        build_scope: Builds what HTTP and WebSockets have in common.
    """
    scope = build_scope(head, connection, root_path, extensions)
    scope["type"] = "websocket"
    del scope["method"]
    # What X-Forwarded-Proto says is ws or wss with some proxies.
    scope["scheme"] = "wss" if connection.scheme in ("https", "wss") else "ws"
    scope["subprotocols"] = subprotocols
    return scope


def _split(head: RequestHead) -> tuple[str, bytes, bytes]:
    """Take the target of a request to pieces."""
    raw_path, query = head.target, b""
    # Numbers, as looking for b"?" in bytes takes an exception inside of Python.
    if _QUESTION_MARK in raw_path:
        raw_path, _, query = raw_path.partition(b"?")
    if _PERCENT not in raw_path and raw_path.isascii():
        path = raw_path.decode("latin-1")
    else:
        # Undecodable bytes become U+FFFD; raw_path keeps them.
        path = unquote_to_bytes(raw_path).decode("utf-8", "replace")
    head.parts = parts = path, raw_path, query
    return parts


def _is_below(path: str, root_path: str) -> bool:
    # "OPTIONS *" concerns the server as a whole, wherever applications are.
    return path in (root_path, "*") or path.startswith(f"{root_path}/")
