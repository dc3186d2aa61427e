"""
Counters as statsd datagrams.

Once a second what has been added since the last time is sent. Nothing is sent for
each request: a system call for each would cost more than all the counting.

Source: the statsd protocol, "Metric Types". Names are ``prefix.name.labels``, without
the tags which only some servers know.

Tests: ``tests/unit/test_statsd.py``.
"""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING, Any

from daphne_like.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["StatsD"]

# What goes through Ethernet in one piece, over IPv6, with room for a tunnel.
_MOST_BYTES = 1400

# What statsd gives a meaning, and what a name in Graphite can't hold.
_SPECIAL = re.compile(r"[^A-Za-z0-9_-]")


class StatsD:
    """
    Sends what has changed from one snapshot to the next.

    Args:
        address: ``PORT`` or ``HOST:PORT``, an IPv6 address in brackets.
        prefix: Begins each name; may be empty.

    Raises:
        SettingsError: There is no such host.
    """

    def __init__(self, address: str, prefix: str) -> None:
        host, _, port = address.rpartition(":")
        host = host.strip("[]") or "127.0.0.1"
        try:
            found = socket.getaddrinfo(host, int(port), type=socket.SOCK_DGRAM)
        except (OSError, UnicodeError) as error:  # the latter: no host name at all
            reason = getattr(error, "strerror", None) or "it is no host name"
            raise SettingsError(
                f"statsd_host: {host} can't be found: {reason}"
            ) from None
        self._family: int = found[0][0]
        self._address: Any = found[0][4]
        self._socket: socket.socket | None = None
        self._prefix = f"{prefix}." if prefix else ""
        self._counters: dict[str, float] = {}
        self._histograms: dict[str, tuple[float, float]] = {}

    def send(self, snapshot: Mapping[str, Any]) -> None:
        """
        Send a snapshot (:mod:`~daphne_like.observability.metrics`).

        What can't be sent is lost, as is the way of statsd.
        """
        datagram: list[str] = []
        size = 0
        for line in self._lines(snapshot):
            if size + len(line) > _MOST_BYTES:
                self._send(datagram)
                datagram, size = [], 0
            datagram.append(line)
            size += len(line) + 1
        if datagram:
            self._send(datagram)

    def close(self) -> None:
        """Close the socket; another one is opened when there is more to send."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, lines: list[str]) -> None:
        try:
            if self._socket is None:
                self._socket = socket.socket(self._family, socket.SOCK_DGRAM)
                self._socket.setblocking(False)
            self._socket.sendto("\n".join(lines).encode("ascii"), self._address)
        except OSError:
            pass  # nobody listens, or too much is under way

    def _lines(self, snapshot: Mapping[str, Any]) -> Iterator[str]:
        for name, value in self._flat(snapshot, "counters"):
            added = value - self._counters.get(name, 0)
            self._counters[name] = value
            if added > 0:
                yield f"{name}:{added}|c"
        for name, value in self._flat(snapshot, "gauges"):
            yield f"{name}:{value}|g"
        for name, (total, *counts) in self._flat(snapshot, "histograms"):
            before, count_before = self._histograms.get(name, (0.0, 0))
            count = sum(counts)
            self._histograms[name] = total, count
            if count > count_before:
                yield from self._timing(name, total - before, count - count_before)

    def _timing(self, name: str, total: float, count: int) -> Iterator[str]:
        """
        Tell a mean, with a sample rate that gives it the weight of all.

        A server of statsd counts a value with the rate 0.1 as ten.
        """
        mean = total / count * 1000
        # Servers read no exponent: "1e-05" is to them a rate of 1.
        rate = "" if count == 1 else f"|@{1 / count:.12f}".rstrip("0")
        yield f"{_in_milliseconds(name)}:{mean:.3f}|ms{rate}"
        if "request_duration_seconds" in name:
            yield f"{name.replace('request_duration_seconds', 'requests')}:{count}|c"

    def _flat(self, snapshot: Mapping[str, Any], kind: str) -> Iterator[Any]:
        for name, values in snapshot.get(kind, {}).items():
            for key, value in values.items():
                labels = [_SPECIAL.sub("_", label) for label in key.split(" ")]
                yield self._prefix + ".".join([name, *filter(None, labels)]), value


def _in_milliseconds(name: str) -> str:
    return name.replace("_seconds", "")
