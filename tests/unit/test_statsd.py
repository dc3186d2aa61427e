"""Tests of ``daphne_like.observability.statsd``."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from daphne_like.errors import SettingsError
from daphne_like.observability.statsd import StatsD
from daphne_like.settings import OperationsSettings


class Receiver:
    """A server of statsd, which keeps what it is sent."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(10)
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"

    def datagram(self) -> list[str]:
        """Return the lines of the next datagram, which has been sent already."""
        return self._socket.recv(65536).decode().split("\n")

    def close(self) -> None:
        """Listen no more."""
        self._socket.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Start a server of statsd."""
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def statsd(receiver: Receiver) -> Iterator[StatsD]:
    """Send to that server."""
    statsd = StatsD(receiver.address, "site")
    yield statsd
    statsd.close()


def counters(**values: dict[str, Any]) -> dict[str, Any]:
    """Make a snapshot with counters."""
    return {"counters": values}


def test_only_what_was_added_is_sent(statsd: StatsD, receiver: Receiver) -> None:
    """A counter of statsd takes differences; what stays the same is not sent."""
    statsd.send(counters(connections={"": 1234567}, limits_hit={"timeout_send": 2}))
    assert [
        "site.connections:1234567|c",
        "site.limits_hit.timeout_send:2|c",
    ] == receiver.datagram()
    statsd.send(counters(connections={"": 1234567}, limits_hit={"timeout_send": 2}))
    statsd.send(counters(connections={"": 1234570}, limits_hit={"timeout_send": 2}))
    assert ["site.connections:3|c"] == receiver.datagram()


def test_gauges_are_sent_as_they_are(statsd: StatsD, receiver: Receiver) -> None:
    """Each time, so that a server which has been started anew knows them."""
    for _ in range(2):
        statsd.send({"gauges": {"connections_open": {"": 5}}})
        assert ["site.connections_open:5|g"] == receiver.datagram()


def test_durations_are_sent_as_their_mean(statsd: StatsD, receiver: Receiver) -> None:
    """In milliseconds, with the weight of all of them, and as a count of requests."""
    key = "GET 2xx http/1.1"

    def send(*histogram: float) -> None:
        values = {key: [*histogram]}
        statsd.send({"histograms": {"request_duration_seconds": values}})

    send(0.5, 1, 0)
    assert [
        "site.request_duration.GET.2xx.http_1_1:500.000|ms",
        "site.requests.GET.2xx.http_1_1:1|c",
    ] == receiver.datagram()
    send(0.9, 1, 4)
    assert [
        "site.request_duration.GET.2xx.http_1_1:100.000|ms|@0.25",
        "site.requests.GET.2xx.http_1_1:4|c",
    ] == receiver.datagram()


def test_many_durations_have_a_rate_which_servers_can_read(
    statsd: StatsD, receiver: Receiver
) -> None:
    """
    Servers know digits and a point.

    Cause: from 10001 requests a second on the rate had an exponent, "9.9e-05", which
    servers read as 9.9: hundred thousand requests became ten thousand parts of one.
    """
    values = {"": [0.5, 0, 100_000]}
    statsd.send({"histograms": {"websocket_duration_seconds": values}})
    assert [
        "site.websocket_duration:0.005|ms|@0.00001",
    ] == receiver.datagram()


def test_datagrams_stay_small(statsd: StatsD, receiver: Receiver) -> None:
    """Much is sent in several, each of which fits into a packet; no line is cut."""
    names = [f"limit_{number:04}" for number in range(200)]
    statsd.send(counters(limits_hit=dict.fromkeys(names, 1)))

    lines: list[str] = []
    while len(lines) < len(names):
        datagram = receiver.datagram()
        assert len("\n".join(datagram)) <= 1400
        lines += datagram
    assert [f"site.limits_hit.{name}:1|c" for name in names] == lines


def test_without_a_prefix(receiver: Receiver) -> None:
    """Names begin with what was counted."""
    statsd = StatsD(receiver.address, "")
    statsd.send(counters(connections={"": 1}))
    statsd.close()
    assert ["connections:1|c"] == receiver.datagram()


def test_nobody_has_to_listen() -> None:
    """What can't be sent is lost, and nothing else happens."""
    closed = Receiver()
    closed.close()
    statsd = StatsD(closed.address, "site")
    for number in range(1, 4):
        # The refusal of one datagram shows with the next one.
        statsd.send(counters(connections={"": number}))
    statsd.close()
    statsd.close()


def test_it_can_be_used_again(statsd: StatsD, receiver: Receiver) -> None:
    """A server that was stopped may be started again."""
    statsd.close()
    statsd.send(counters(connections={"": 1}))
    assert ["site.connections:1|c"] == receiver.datagram()


def test_a_port_alone_is_one_of_this_machine(receiver: Receiver) -> None:
    """And an address of IPv6 stands in brackets."""
    statsd = StatsD(receiver.address.partition(":")[2], "site")
    statsd.send(counters(connections={"": 1}))
    statsd.close()
    assert ["site.connections:1|c"] == receiver.datagram()
    assert ("::1", 8125) == StatsD("[::1]:8125", "")._address[:2]


@pytest.mark.parametrize("host", ["a..b", "a" * 70 + ".b"])
def test_what_is_no_host_name_is_an_error_in_the_settings(host: str) -> None:
    """Cause: Python raises no OSError for it, and the server ended in a traceback."""
    with pytest.raises(SettingsError, match=f"{host} can't be found: it is no host"):
        StatsD(f"{host}:8125", "")


@pytest.mark.parametrize("prefix", ["é", "a b", "a:b", "a|c", "a#b", "@"])
def test_a_prefix_which_names_can_not_have_is_an_error(prefix: str) -> None:
    """Cause: one that isn't ASCII raised each second, and nothing was sent."""
    with pytest.raises(SettingsError, match="must be ASCII without"):
        OperationsSettings(statsd_prefix=prefix)


def test_a_point_at_the_end_of_a_prefix_is_one_too_many() -> None:
    """It is put there anyway; other servers' users write it."""
    assert "site.web" == OperationsSettings(statsd_prefix="site.web.").statsd_prefix


def test_an_unknown_host_is_an_error_in_the_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is found at the start, not when there is something to send."""

    def find_nothing(*arguments: object, **options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", find_nothing)
    with pytest.raises(SettingsError, match=r"statsd_host: nowhere\.invalid can't be"):
        StatsD("nowhere.invalid:8125", "")
