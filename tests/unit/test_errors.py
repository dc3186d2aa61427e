"""Tests of ``daphne_like.errors``."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from daphne_like import errors
from daphne_like.errors import (
    ApplicationLoadError,
    ClientDisconnected,
    ConnectionFailed,
    InvalidMessage,
    LifespanFailed,
    ListenError,
    RequestRejected,
    SettingsError,
    StartError,
    StreamFailed,
    WebSocketFailed,
)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (StartError, 1),
        (ListenError, 1),
        (ApplicationLoadError, 1),
        (SettingsError, 2),
        (LifespanFailed, 3),
    ],
)
def test_what_keeps_a_server_from_starting_has_an_exit_status(
    kind: type[StartError], status: int
) -> None:
    """A service manager can tell a mistake in the settings from a port in use."""
    assert issubclass(kind, StartError)
    assert status == kind("one line").exit_status
    assert "one line" == str(kind("one line"))


def test_a_client_that_has_gone_is_a_lost_connection() -> None:
    """Frameworks catch `OSError` where they write to a client (ASGI HTTP 2.4)."""
    assert issubclass(ClientDisconnected, OSError)


def test_a_wrong_message_is_a_wrong_value() -> None:
    """Daphne raises `ValueError`, and applications catch that."""
    assert issubclass(InvalidMessage, ValueError)


def test_a_rejection_knows_its_answer() -> None:
    """Status and text are what the client gets, and what a log shows."""
    rejection = RequestRejected(414, "The request target is too long.")

    assert (414, "The request target is too long.") == (
        rejection.status,
        rejection.detail,
    )
    assert "414" in str(rejection)


@pytest.mark.parametrize("name", errors.__all__)
def test_errors_survive_the_way_to_another_process(name: str) -> None:
    """Workers and live test servers report errors to the process above them."""
    kind: Any = getattr(errors, name)
    coded = kind in (
        ConnectionFailed,
        RequestRejected,
        StreamFailed,
        WebSocketFailed,
    )
    error = kind(400, "text") if coded else kind("text")

    copy = pickle.loads(pickle.dumps(error))
    assert (type(error), error.args) == (type(copy), copy.args)
