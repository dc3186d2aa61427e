"""Tests of ``daphne_like.access``."""

from __future__ import annotations

import re
from io import StringIO
from typing import Any

import pytest

from daphne_like.access import AccessLogGenerator

HTTP = {
    "client": "127.0.0.1:50778",
    "method": "GET",
    "path": "/a?b=1",
    "size": 13,
    "status": 200,
    "time_taken": 0.01,
}


@pytest.mark.parametrize(
    ("protocol", "action", "details", "line"),
    [
        ("http", "complete", HTTP, '127.0.0.1:50778 - - [] "GET /a?b=1" 200 13'),
        (
            "http",
            "complete",
            {**HTTP, "client": None, "size": 0},
            '- - - [] "GET /a?b=1" 200 -',
        ),
        ("websocket", "connecting", HTTP, "WSCONNECTING"),
        ("websocket", "connected", HTTP, "WSCONNECT"),
        ("websocket", "rejected", HTTP, "WSREJECT"),
        ("websocket", "disconnected", HTTP, "WSDISCONNECT"),
    ],
)
def test_each_action_has_its_line(
    protocol: str, action: str, details: dict[str, Any], line: str
) -> None:
    """Who, when in local time, what, and with which outcome; ``-`` for nothing."""
    stream = StringIO()
    AccessLogGenerator(stream)(protocol, action, details)
    if protocol == "websocket":
        line = f'127.0.0.1:50778 - - [] "{line} /a?b=1" - -'

    shown, times = re.subn(
        r"\[\d{2}/[A-Z][a-z]{2}/\d{4}:\d{2}:\d{2}:\d{2}\]", "[]", stream.getvalue()
    )
    assert f"{line}\n" == shown
    assert 1 == times


def test_other_actions_have_none() -> None:
    """What is no end of a request or step of a WebSocket is left out."""
    stream = StringIO()
    log = AccessLogGenerator(stream)
    log("http", "begun", {})
    log("smtp", "complete", {})

    assert "" == stream.getvalue()
