"""
From HTTP/1.1 to HTTP/2 by the Upgrade field, for cleartext clients of old.

Source: RFC 7540 sections 3.2, 3.2.1; RFC 9113 has abolished it.

Tests: ``tests/unit/protocols/test_http2.py``.
"""

from __future__ import annotations

import binascii
from base64 import b64decode
from typing import TYPE_CHECKING, Any, cast

from daphne_like.protocols.connections import switch_protocol
from daphne_like.protocols.http2 import HTTP2Protocol

if TYPE_CHECKING:
    from twisted.internet.interfaces import ITransport

    from daphne_like.protocols.connections import HTTPContext, Transport
    from daphne_like.protocols.interfaces import RequestHead

__all__ = ["upgrade"]

_OF_HTTP1 = (b"connection", b"upgrade", b"http2-settings")


def upgrade(
    transport: Transport, context: HTTPContext, head: RequestHead, data: bytes
) -> None:
    """
    Speak HTTP/2 from now on, and answer ``head`` in it.

    Args:
        transport: 101 has been written to it.
        context: Of its listener.
        head: Of a request without a body.
        data: What has come behind it.
    """
    fields = [field for field in head.headers if field[0] not in _OF_HTTP1]
    changed = head.with_headers(fields)
    changed.http_version = "2"
    settings = dict(head.headers)[b"http2-settings"]
    try:
        padded = settings + b"=" * (-len(settings) % 4)
        payload = b64decode(padded, b"-_", validate=True)
    except binascii.Error:
        payload = b"?"  # which is no settings, and ends the connection
    protocol = HTTP2Protocol(context)
    switch_protocol(transport, cast("Any", protocol))
    protocol.makeConnection(cast("ITransport", transport))
    protocol.begin_upgraded(changed, payload)
    if data:
        protocol.dataReceived(data)
