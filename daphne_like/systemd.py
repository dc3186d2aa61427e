"""
What systemd gives a service, and what it wants to hear from it.

Socket activation (``sd_listen_fds(3)``): sockets come as descriptors from 3 on, and
the environment tells their number and names; :func:`passed_sockets` has them.
Notifications (``sd_notify(3)``) are datagrams to the socket which the environment
names; :class:`Notifier` sends them, and the pings of the watchdog
(``sd_watchdog_enabled(3)``) with them. No library is needed for either.

What is taken from the environment is removed from it: a child of this process
would take it for its own.

This module is imported only where the environment speaks of systemd, or an address is
a descriptor.

Tests: ``tests/unit/test_systemd.py``, ``tests/integration/test_systemd.py``.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from collections.abc import Callable, MutableMapping
from dataclasses import replace
from enum import Enum, auto
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from daphne_like.errors import SettingsError, StartError

if TYPE_CHECKING:
    import asyncio

    from daphne_like.settings import Settings

__all__ = [
    "Notifier",
    "PassedSocket",
    "find_sockets",
    "passed_sockets",
    "with_passed_sockets",
]

_logger = logging.getLogger("daphne_like.server")


# -- Sockets -------------------------------------------------------------------

_FIRST_DESCRIPTOR = 3

_SOCKET_VARIABLES = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_PIDFDID")


class PassedSocket(NamedTuple):
    """
    A socket which systemd holds for this service.

    Attributes:
        number: Its descriptor.
        name: ``FileDescriptorName=`` of its unit, else the name of the unit.
    """

    number: int
    name: str


@lru_cache(maxsize=1)
def passed_sockets() -> tuple[PassedSocket, ...]:
    """
    Return the sockets which were passed to this process, in systemd's order.

    The first call takes them out of the environment, and keeps children from
    inheriting them. All calls return the same.

    Raises:
        SettingsError: The environment is garbled.
    """
    return _take_sockets(os.environ)


def with_passed_sockets(settings: Settings) -> Settings:
    """
    Listen on the passed sockets, if the settings name no address at all.

    Addresses which they do name win, and the log says so.

    Raises:
        SettingsError: The environment is garbled.
    """
    sockets = passed_sockets()
    bind = settings.bind
    strings = bind.endpoint
    if not sockets:
        return settings
    if not (
        bind.bind or bind.port is not None or bind.unix_socket or bind.fd or strings
    ):
        return replace(
            settings, bind=replace(bind, fd=tuple(sock.number for sock in sockets))
        )
    # Also within another one: haproxy:systemd:...
    if not bind.fd and not any("systemd:" in text or "fd:" in text for text in strings):
        _logger.info(
            "The sockets which systemd has passed (%s) are not used, since other "
            "addresses are given",
            _names(sockets),
        )
    return settings


def find_sockets(index: str = "", name: str = "") -> tuple[PassedSocket, ...]:
    """
    Return the passed sockets which an endpoint string means.

    Args:
        index: The place of one among them, from 0 on.
        name: The name of one, or of all those of one unit.

    Raises:
        ValueError: There is none; the text is for the user.
    """
    sockets = passed_sockets()
    if bool(index) == bool(name):
        raise ValueError("either an index or a name is needed")
    if not sockets:
        raise ValueError("systemd has passed no sockets to this process")
    if name:
        found = tuple(sock for sock in sockets if sock.name == name)
    elif index.isascii() and index.isdigit():
        found = sockets[int(index) :][:1]
    else:
        raise ValueError(f"index must be a number, not {index!r}")
    if not found:
        what = f"named {name!r}" if name else f"with index {index}"
        raise ValueError(f"no socket {what} among those passed: {_names(sockets)}")
    return found


def _take_sockets(environ: MutableMapping[str, str]) -> tuple[PassedSocket, ...]:
    given = {name: environ.get(name, "") for name in _SOCKET_VARIABLES}
    is_ours = given["LISTEN_PID"] == str(os.getpid())
    if is_ours:
        # Twisted looks once, when this is imported. Whatever else runs in this
        # process may use endpoints of Twisted's for some of the sockets.
        import twisted.internet.endpoints  # noqa: F401
    for name in _SOCKET_VARIABLES:
        environ.pop(name, None)
    if is_ours:
        count = _count(given["LISTEN_FDS"])
    else:
        if given["LISTEN_PID"]:
            _logger.info(
                "LISTEN_FDS is for process %s; this one is %d and takes no sockets",
                given["LISTEN_PID"],
                os.getpid(),
            )
        count = _count_of_twisted()
    names = given["LISTEN_FDNAMES"].split(":")
    sockets = tuple(
        PassedSocket(number + _FIRST_DESCRIPTOR, name)
        for number, name in enumerate((names + [""] * count)[:count])
    )
    for sock in sockets:
        try:
            os.set_inheritable(sock.number, False)
        except OSError:
            pass  # it isn't open, which whoever uses it will be told
    return sockets


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise SettingsError(f"LISTEN_FDS must be a number, not {text!r}")
    return int(text)


def _count_of_twisted() -> int:
    """Tell how many sockets there were when Twisted took them from the environment."""
    endpoints = sys.modules.get("twisted.internet.endpoints")
    parser = getattr(endpoints, "_SystemdParser", None)
    taken = getattr(parser, "_sddaemon", None)
    return 0 if taken is None else len(taken.inheritedDescriptors())


def _names(sockets: tuple[PassedSocket, ...]) -> str:
    return ", ".join(sock.name or f"descriptor {sock.number}" for sock in sockets)


# -- Notifications -------------------------------------------------------------

# systemd throws longer datagrams than 4096 bytes away.
_LONGEST_STATUS = 1000

# How long a datagram may wait for systemd to take others, in seconds.
_SEND_TIMEOUT = 1.0

# How often systemd hears of a start or stop that goes on.
_PROGRESS_INTERVAL = 1.0

# systemd's own limit of a start or stop, unless the unit has another one. Settings
# which keep below it leave the decision to the unit.
_USUAL_LIMIT = 90.0

# What is added to systemd's limit, from each message on, while the loop lives.
_EXTENSION = 30.0


class _Phase(Enum):
    STARTING = auto()
    SERVING = auto()
    STOPPING = auto()
    FAILED = auto()


class Notifier:
    """
    Tells systemd how the service is; never raises.

    The order of calls: :meth:`starting`, then :meth:`ready` or :meth:`failed`,
    any number of :meth:`reloading` with :meth:`reloaded` after it,
    :meth:`stopping`, :meth:`close`. A call which comes at another time says nothing.

    Args:
        address: A path, or a name in the abstract namespace with ``@`` before it.
        watchdog: After how many seconds without a ping systemd kills the service;
            0 for never.
        moved: Whether this isn't the process which systemd has started, and
            takes for the service.
    """

    def __init__(
        self, address: str, watchdog: float = 0.0, *, moved: bool = False
    ) -> None:
        # unix(7): names in the abstract namespace begin with a null byte.
        self._address = "\0" + address[1:] if address[0] == "@" else address
        self._ping_interval = watchdog / 2
        self._moved = moved
        self._loop: asyncio.AbstractEventLoop | None = None
        self._progress: asyncio.TimerHandle | None = None
        self._ping_timer: asyncio.TimerHandle | None = None
        self._phase = _Phase.STARTING
        self._unheard = False

    @classmethod
    def take(cls, environ: MutableMapping[str, str]) -> Notifier | None:
        """
        Take from the environment where systemd listens.

        Returns:
            ``None`` when nobody does.
        """
        address = environ.pop("NOTIFY_SOCKET", "")
        microseconds = environ.pop("WATCHDOG_USEC", "")
        watched = environ.pop("WATCHDOG_PID", "")
        if not address:
            return None
        if address[0] not in "/@" or not hasattr(socket, "AF_UNIX"):
            # Such as vsock:, for whole virtual machines.
            _logger.debug("NOTIFY_SOCKET names no Unix socket: %s", address)
            return None
        own = str(os.getpid())
        is_watched = watched in ("", own) and microseconds.isdecimal()
        return cls(
            address,
            int(microseconds) / 1e6 if is_watched else 0.0,
            moved=environ.get("SYSTEMD_EXEC_PID", own) != own,
        )

    def starting(self, loop: asyncio.AbstractEventLoop, longest: float) -> None:
        """
        Say that the application is starting.

        Args:
            loop: The running event loop.
            longest: After how many seconds the server gives up by itself.
        """
        self._loop = loop
        self._go_on(lambda: "Starting the application", longest > _USUAL_LIMIT)

    def ready(self, status: str) -> None:
        """Say that clients are served, and how, in one line; begin with the pings."""
        if self._phase is not _Phase.STARTING:
            return
        self._phase = _Phase.SERVING
        self._end_progress()
        moved = [f"MAINPID={os.getpid()}"] if self._moved else []
        self._send("READY=1", *moved, _status(status))
        if self._ping_interval:
            self._ping()

    def reloading(self) -> None:
        """Say that files are read again."""
        if self._phase is _Phase.SERVING:
            # By which systemd knows that this isn't the answer to an earlier signal.
            now = f"MONOTONIC_USEC={time.monotonic_ns() // 1000}"
            self._send("RELOADING=1", now, _status("Reading certificates again"))

    def reloaded(self, status: str) -> None:
        """Say that this is done, and how clients are served."""
        if self._phase is _Phase.SERVING:
            self._send("READY=1", _status(status))

    def stopping(self, status: Callable[[], str], longest: float) -> None:
        """
        Say that the service ends.

        Args:
            status: Tells in one line what is still waited for; asked each second.
            longest: How many seconds it may take.
        """
        if self._phase in (_Phase.STOPPING, _Phase.FAILED):
            return
        self._phase = _Phase.STOPPING
        self._end_progress()
        self._go_on(status, longest > _USUAL_LIMIT, "STOPPING=1")

    def failed(self, error: BaseException) -> None:
        """Say that the service can't start, or go on, and why."""
        self._phase = _Phase.FAILED
        self._end_progress()
        lines = ["STOPPING=1", _status(str(error) or type(error).__name__)]
        number = getattr(error, "errno", None)
        if isinstance(error, StartError) and number:
            lines.append(f"ERRNO={number}")
        self._send(*lines)

    def close(self) -> None:
        """Say that all is over, and nothing more."""
        self._end_progress()
        if self._phase is _Phase.STOPPING:
            self._send(_status("Stopped"))
        if self._ping_timer is not None:
            self._ping_timer.cancel()

    def _go_on(self, status: Callable[[], str], extends: bool, *news: str) -> None:
        """
        Tell once a second what is waited for.

        Where the settings allow more time than systemd usually does, it is asked
        for more, over and over again: a loop that is blocked then still meets
        the end which the unit has set.
        """
        lines = [*news, _status(status())]
        if extends:
            lines.append(f"EXTEND_TIMEOUT_USEC={_EXTENSION * 1e6:.0f}")
        self._send(*lines)
        if self._loop is not None:
            self._progress = self._loop.call_later(
                _PROGRESS_INTERVAL, self._go_on, status, extends
            )

    def _end_progress(self) -> None:
        if self._progress is not None:
            self._progress.cancel()
            self._progress = None

    def _ping(self, due: float | None = None) -> None:
        """Show that the event loop turns, at half the interval as systemd asks."""
        loop = self._loop
        assert loop is not None
        now = loop.time()
        late = 0.0 if due is None else now - due
        self._send("WATCHDOG=1")
        if late > self._ping_interval / 2:
            _logger.warning(
                "The event loop was blocked: it turned %.1f s late. systemd's watchdog "
                "waits for %.1f s",
                late,
                2 * self._ping_interval,
            )
        next_due = now + self._ping_interval
        self._ping_timer = loop.call_at(next_due, self._ping, next_due)

    def _send(self, *lines: str) -> None:
        """Send assignments in one datagram, as systemd takes them."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.settimeout(_SEND_TIMEOUT)
                sock.sendto("\n".join(lines).encode("utf-8", "replace"), self._address)
        except (OSError, ValueError) as error:
            # Once is enough: there is one every few seconds.
            if not self._unheard:
                self._unheard = True
                _logger.warning("systemd can't be notified: %s", error)


def _status(text: str) -> str:
    """Write a line for ``systemctl status``."""
    return "STATUS=" + " ".join(text.split())[:_LONGEST_STATUS]
