"""TLS handshakes wholly in memory."""

from __future__ import annotations

import ssl
from typing import Any

__all__ = ["shake_hands", "trusting"]


def trusting(root_pem: str, **attributes: Any) -> ssl.SSLContext:
    """Make the context of a client which trusts one authority."""
    context = ssl.create_default_context(cadata=root_pem)
    for name, value in attributes.items():
        setattr(context, name, value)
    return context


def shake_hands(
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    host: str | None = "localhost",
    session: ssl.SSLSession | None = None,
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """
    Return the server's and the client's side of a connection.

    Raises:
        ssl.SSLError: One of them refuses.
    """
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_context.wrap_bio(to_server, to_client, server_side=True)
    client = client_context.wrap_bio(
        to_client, to_server, server_hostname=host, session=session
    )
    waiting = [client, server]
    for _ in range(20):
        for side in waiting[:]:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(side)
    assert not waiting, "the handshake doesn't end"
    # What the server sends behind the handshake: tickets for its resumption.
    server.write(b"x")
    assert b"x" == client.read()
    return server, client
