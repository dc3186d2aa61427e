"""Tests of ``daphne_like.observability.action_log``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from recorded_log import RecordedLog

from daphne_like.observability.action_log import ActionLog


@dataclass
class FakeExchange:
    """An exchange as the streams report it, with ordinary values."""

    client: tuple[str, int] | None = ("127.0.0.1", 50778)
    method: str = "GET"
    target: bytes = b"/a?b=1"
    http_version: str = "1.1"
    request_headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    status: int = 200
    response_headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body_bytes_sent: int = 13
    duration: float = 0.25


class Calls(list[Any]):
    """What an action logger, or another log, has been told."""

    def __call__(self, *arguments: Any) -> None:
        """Be told something."""
        self.append(arguments)

    def exchange_ended(self, exchange: Any) -> None:
        """Hear of an exchange."""
        self.append(exchange)

    def websocket_changed(self, exchange: Any, event: str) -> None:
        """Hear of a WebSocket."""
        self.append((exchange, event))


@pytest.fixture
def calls() -> Calls:
    """Make an action logger."""
    return Calls()


def test_a_response_is_told_as_daphne_tells_it(calls: Calls) -> None:
    """One call with path and query, status, method, client, seconds and bytes."""
    ActionLog(calls).exchange_ended(FakeExchange())

    details = {
        "path": "/a?b=1",
        "status": 200,
        "method": "GET",
        "client": "127.0.0.1:50778",
        "time_taken": 0.25,
        "size": 13,
    }
    assert [("http", "complete", details)] == calls


@pytest.mark.parametrize(
    ("event", "action"),
    [
        ("CONNECTING", "connecting"),
        ("CONNECT", "connected"),
        ("REJECT", "rejected"),
        ("DISCONNECT", "disconnected"),
    ],
)
def test_websockets_are_told_step_by_step(
    calls: Calls, event: str, action: str
) -> None:
    """Each step is a call with path and client; the query stays out of logs."""
    ActionLog(calls).websocket_changed(FakeExchange(), event)

    details = {"path": "/a", "client": "127.0.0.1:50778"}
    assert [("websocket", action, details)] == calls


def test_clients_of_unix_sockets_have_no_address(calls: Calls) -> None:
    """Their address is None, not a text."""
    ActionLog(calls).exchange_ended(FakeExchange(client=None))

    assert calls[0][2]["client"] is None


def test_a_request_without_a_response_is_not_told(calls: Calls) -> None:
    """When the client left first there is no status to report."""
    ActionLog(calls).exchange_ended(FakeExchange(status=0))

    assert [] == calls


def test_nothing_breaks_out_of_a_line(calls: Calls) -> None:
    """A client can't forge lines or send control sequences to a terminal."""
    exchange = FakeExchange(target=b"/\x1b[2J\r\n?\xff", client=("a\nb", 1))
    ActionLog(calls).exchange_ended(exchange)
    ActionLog(calls).websocket_changed(exchange, "CONNECT")

    assert r"/\x1b[2J\r\n?\xff" == calls[0][2]["path"]
    assert r"/\x1b[2J\r\n" == calls[1][2]["path"]
    assert r"a\nb:1" == calls[0][2]["client"] == calls[1][2]["client"]


def test_an_action_logger_that_raises(log: RecordedLog) -> None:
    """It is logged, and the server goes on."""
    error = KeyError("a mistake")

    def fail(*arguments: object) -> None:
        raise error

    further = Calls()
    ActionLog(fail, further).exchange_ended(FakeExchange())
    ActionLog(fail, further).websocket_changed(FakeExchange(), "CONNECT")

    assert [error, error] == log.take_errors()
    assert 2 == len(further)


def test_another_log_hears_everything(calls: Calls) -> None:
    """An access log beside it gets what it would get alone."""
    exchange, further = FakeExchange(status=0), Calls()
    action_log = ActionLog(calls, further)
    action_log.exchange_ended(exchange)
    action_log.websocket_changed(exchange, "REJECT")

    assert [exchange, (exchange, "REJECT")] == further
