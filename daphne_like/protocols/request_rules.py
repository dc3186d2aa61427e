"""
Rules for requests which are the same in every HTTP version.

Source: RFC 9110; RFC 3986 for authorities.

Tests: ``tests/unit/protocols/test_http1_reader.py``, ``test_http2_heads.py``.
"""

from __future__ import annotations

import re

__all__ = ["AUTHORITY", "METHODS"]

AUTHORITY = re.compile(
    rb"(?:\[[0-9A-Fa-fVv.:]+\]|(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)"
    rb"(?::[0-9]{0,5})?"
)
"""
``uri-host [ ":" port ]`` (RFC 9110 section 7.2, RFC 3986 section 3.2.2).

Bytes outside of the grammar (space, slash, at-sign) have been used to reach other
hosts.
"""

METHODS = {
    name.encode(): name
    for name in [
        "GET",
        "HEAD",
        "POST",
        "PUT",
        "PATCH",
        "DELETE",
        "OPTIONS",
        "TRACE",
        "QUERY",
        "ACL",
        "BIND",
        "CHECKOUT",
        "COPY",
        "LINK",
        "LOCK",
        "M-SEARCH",
        "MERGE",
        "MKACTIVITY",
        "MKCALENDAR",
        "MKCOL",
        "MOVE",
        "NOTIFY",
        "PROPFIND",
        "PROPPATCH",
        "PURGE",
        "REBIND",
        "REPORT",
        "SEARCH",
        "SOURCE",
        "SUBSCRIBE",
        "UNBIND",
        "UNLINK",
        "UNLOCK",
        "UNSUBSCRIBE",
    ]
}
"""
The methods which llhttp knows; others get 501 (RFC 9110 section 9.1).

CONNECT is missing: the server is no proxy.
"""
