"""
What an HTTP/2 server must do, as far as it can be seen from outside.

Each case is a function that takes a :class:`http2_client.Peer`, the client's end of
a new connection, and fails if the server does something that RFC 9113 (or 7541,
8441, 9218) forbids. The modules follow the chapters: ``connection`` is the preface,
frames in general and the frames of connections; ``streams`` the states of streams
and the frames that change them; ``flow_control``; ``header_blocks`` is HPACK and
the frames that carry it; ``messages`` requests and responses; ``header_fields``
what may stand in their heads; ``priorities`` the two kinds of those.

``CASES`` is used in memory by ``tests/unit/protocols/test_http2_conformance.py``
and over sockets by ``tests/integration/test_http2_conformance.py``. Cases without
``needs_site`` hold for any server that answers ``/`` with ``hello`` and ``/large``
with a mebibyte.
"""

from __future__ import annotations

from http2_cases import (
    connection,
    flow_control,
    header_blocks,
    header_fields,
    messages,
    priorities,
    streams,
)
from http2_cases.table import CASES, Case

__all__ = [
    "CASES",
    "Case",
    "connection",
    "flow_control",
    "header_blocks",
    "header_fields",
    "messages",
    "priorities",
    "streams",
]
