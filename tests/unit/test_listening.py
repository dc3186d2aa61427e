"""Tests of ``daphne_like.listening``; those of the server test it in its life."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from event_loops import run_on
from recorded_log import RecordedLog
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import CannotListenError

from daphne_like import listening
from daphne_like.errors import ListenError, SettingsError
from daphne_like.listening import Listening, listen, url_of
from daphne_like.settings import Settings


class Port:
    """A listener of Twisted's."""

    def __init__(self, address: Any) -> None:
        self._address = address
        self.stopped = False

    def getHost(self) -> Any:
        """Tell its only address."""
        return self._address

    def stopListening(self) -> Deferred[None]:
        """Accept no more."""
        self.stopped = True
        return succeed(None)


class Endpoint:
    """An endpoint of Twisted's, which listens or fails."""

    def __init__(self, result: Any) -> None:
        self._result = result
        self.factories: list[Any] = []

    def listen(self, factory: Any) -> Deferred[Any]:
        """Note the factory."""
        self.factories.append(factory)
        if isinstance(self._result, Exception):
            return fail(self._result)
        return succeed(self._result)


def test_addresses_of_all_kinds_are_announced(
    log: RecordedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log has a URL for each address; the attribute has those of TCP only."""
    addresses: list[list[Any]] = [
        [IPv4Address("TCP", "127.0.0.1", 80), IPv6Address("TCP", "::1", 80)],
        [UNIXAddress(b"/run/x")],
    ]
    monkeypatch.setattr(listening, "_addresses", lambda port: addresses[port])
    made = Listening(Settings.of(endpoint=["haproxy:ssl:1", "unix:/run/x"]))
    made.ports = [0, 1]  # type: ignore[list-item]
    loop = asyncio.new_event_loop()
    made.announce(loop, logging.INFO)
    loop.close()

    assert [
        "INFO Listening on https://127.0.0.1:80 (HTTP/1.1 and 2, asyncio)",
        "INFO Listening on https://[::1]:80 (HTTP/1.1 and 2, asyncio)",
        "INFO Listening on unix:/run/x (HTTP/1.1 and 2, asyncio)",
    ] == log.take(logging.INFO)
    assert [("127.0.0.1", 80), ("::1", 80)] == made.addresses


@pytest.mark.parametrize(
    ("address", "url"),
    [
        (IPv4Address("TCP", "127.0.0.1", 80), "http://127.0.0.1:80"),
        (IPv6Address("TCP", "::1", 80), "http://[::1]:80"),
        (UNIXAddress(b"/run/x"), "unix:/run/x"),
        (UNIXAddress(None), "unix:"),
    ],
)
def test_an_address_as_a_url(address: Any, url: str) -> None:
    """It can be copied into a browser, or is a path."""
    assert url == url_of("http", address)


def test_endpoints_of_twisted_in_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is served by its scheme, and redirects lead to the first port with TLS."""
    made = Listening(
        Settings.of(endpoint=["haproxy:tcp:1", "haproxy:ssl:2"], redirect_https="0")
    )
    ports = [Port(IPv4Address("TCP", "127.0.0.1", number)) for number in (1, 2)]
    plain, secure = endpoints = [Endpoint(port) for port in ports]
    made_of = {
        ("haproxy:tcp:1", "reactor"): plain,
        ("haproxy:ssl:2", "reactor"): secure,
    }
    monkeypatch.setattr(
        listening, "twisted_endpoint", lambda text, reactor: made_of[text, reactor]
    )
    led_to: list[int] = []

    class Factory:
        def doStart(self) -> None:
            """Begin with a port."""

        def doStop(self) -> None:
            """End with it."""

    def serving(scheme: str) -> Any:
        return scheme

    def redirecting(port: int) -> Any:
        led_to.append(port)
        return Factory()

    async def scenario() -> None:
        made.make_twisted_endpoints(lambda: "reactor")
        await made.listen(serving, redirecting)
        assert 3 == len(made.ports)
        # Only ours may have connections which haven't begun.
        assert 1 == len(await made.stop())

    run_on("asyncio", scenario())
    assert [["http"], ["https"]] == [endpoint.factories for endpoint in endpoints]
    assert [2] == led_to
    assert all(port.stopped for port in ports)
    assert [] == made.ports


def test_a_redirect_needs_somewhere_to_lead() -> None:
    """Without a listener with TLS, `redirect_https` is a mistake."""
    with pytest.raises(SettingsError, match="redirect_https needs a listener with TLS"):
        Listening(Settings.of(redirect_https="0"))


@pytest.mark.parametrize(
    ("reason", "number"), [(OSError(98, "in use"), 98), ("not today", None)]
)
def test_an_endpoint_of_twisted_that_fails(reason: Any, number: int | None) -> None:
    """It fails as ours do, with the number of the system's error if there is one."""
    endpoint: Any = Endpoint(CannotListenError("", 80, reason))
    factory: Any = None

    async def scenario() -> None:
        with pytest.raises(ListenError) as raised:
            await listen("haproxy:tcp:80", endpoint, factory)
        text = getattr(reason, "strerror", reason)
        assert f"Listen failure: haproxy:tcp:80: {text}" == str(raised.value)
        assert number == getattr(raised.value, "errno", None)

    run_on("asyncio", scenario())
