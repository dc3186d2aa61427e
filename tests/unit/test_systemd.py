"""Tests of ``daphne_like.systemd``."""

from __future__ import annotations

import errno
import logging
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from math import inf

import pytest
from notify_socket import NotifySocket
from recorded_log import RecordedLog
from stepped_loop import SteppedLoop
from twisted.internet import endpoints
from twisted.python.systemd import ListenFDs

from daphne_like import systemd
from daphne_like.errors import LifespanFailed, ListenError, SettingsError
from daphne_like.settings import Settings
from daphne_like.systemd import (
    Notifier,
    PassedSocket,
    _take_sockets,
    find_sockets,
    passed_sockets,
    with_passed_sockets,
)

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="systemd is there on Linux only"
)

OURS = {"LISTEN_PID": str(os.getpid())}


# -- Sockets -----------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def untaken() -> Iterator[None]:
    """Forget which sockets this process was passed."""
    passed_sockets.cache_clear()
    yield
    passed_sockets.cache_clear()


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pass three sockets: two of one unit, one with a name of its own."""
    # Far above any descriptor that is open: nothing happens to real ones.
    monkeypatch.setattr(systemd, "_FIRST_DESCRIPTOR", 50_003)
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    monkeypatch.setenv("LISTEN_FDS", "3")
    monkeypatch.setenv("LISTEN_FDNAMES", "app.socket:app.socket:https")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"LISTEN_FDS": "1", "LISTEN_FDNAMES": "web"}, ["web"]),
        ({"LISTEN_FDS": "2", "LISTEN_FDNAMES": "web:web"}, ["web", "web"]),
        # systemd before 227 tells no names; a garbled list is no reason to fail.
        ({"LISTEN_FDS": "2"}, ["", ""]),
        ({"LISTEN_FDS": "2", "LISTEN_FDNAMES": "web"}, ["web", ""]),
        ({"LISTEN_FDS": "1", "LISTEN_FDNAMES": "web:more"}, ["web"]),
        ({"LISTEN_FDS": "0", "LISTEN_FDNAMES": ""}, []),
    ],
)
def test_sockets_have_numbers_and_names(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: list[str]
) -> None:
    """They come in systemd's order; nothing of it is left for children."""
    monkeypatch.setattr(systemd, "_FIRST_DESCRIPTOR", 50_003)
    environ = {**OURS, "LISTEN_PIDFDID": "1", "PATH": "/bin", **environment}
    found = _take_sockets(environ)

    assert expected == [sock.name for sock in found]
    assert [50_003, 50_004][: len(found)] == [sock.number for sock in found]
    assert {"PATH": "/bin"} == environ


def test_children_get_no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process started later doesn't keep the port after the service has ended."""
    with socket.socket() as sock:
        sock.set_inheritable(True)
        monkeypatch.setattr(systemd, "_FIRST_DESCRIPTOR", sock.fileno())
        _take_sockets({**OURS, "LISTEN_FDS": "1"})

        assert not sock.get_inheritable()


def test_sockets_of_another_process_are_not_taken(log: RecordedLog) -> None:
    """Descriptors of the same numbers may be anything here; the log says why."""
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "2", "LISTEN_FDNAMES": "a:b"}

    assert () == _take_sockets(environ)
    assert {} == environ
    [line] = log.take(logging.INFO)
    assert line.startswith("INFO LISTEN_FDS is for process 1; this one is ")


@pytest.mark.parametrize("text", ["", "two", "-1", "٣"])
def test_a_garbled_number_of_sockets(text: str) -> None:
    """What isn't a number is no reason to listen elsewhere."""
    with pytest.raises(SettingsError, match="LISTEN_FDS must be a number, not"):
        _take_sockets({**OURS, "LISTEN_FDS": text})


def test_without_systemd_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment says nothing, and that is all right."""
    monkeypatch.delenv("LISTEN_FDS", raising=False)
    settings = Settings()

    assert () == passed_sockets()
    assert settings is with_passed_sockets(settings)


@pytest.mark.usefixtures("passed")
def test_sockets_are_taken_once() -> None:
    """Who asks later gets the same ones."""
    first = passed_sockets()

    assert "LISTEN_FDS" not in os.environ
    assert first is passed_sockets()
    assert PassedSocket(50_005, "https") == first[2]


def test_twisted_may_have_been_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Twisted takes the number out of the environment when its endpoints are
    imported, as `twistd` does; the names are still there.
    """
    record = ListenFDs([3, 4], ["a", "b"])
    monkeypatch.setattr(endpoints._SystemdParser, "_sddaemon", record)
    monkeypatch.setattr(systemd, "_FIRST_DESCRIPTOR", 50_003)

    found = _take_sockets({"LISTEN_FDNAMES": "a:b"})

    assert [(50_003, "a"), (50_004, "b")] == [tuple(sock) for sock in found]


@pytest.mark.usefixtures("passed")
@pytest.mark.parametrize(
    ("index", "name", "expected"),
    [
        ("0", "", [50_003]),
        ("2", "", [50_005]),
        ("", "https", [50_005]),
        ("", "app.socket", [50_003, 50_004]),
    ],
)
def test_sockets_are_found(index: str, name: str, expected: list[int]) -> None:
    """An index means one; a name all sockets of one unit, which share it."""
    assert expected == [sock.number for sock in find_sockets(index, name)]


@pytest.mark.usefixtures("passed")
@pytest.mark.parametrize(
    ("index", "name", "reason"),
    [
        ("", "", "either an index or a name is needed"),
        ("0", "https", "either an index or a name is needed"),
        ("first", "", "index must be a number, not 'first'"),
        ("-1", "", "index must be a number"),
        ("3", "", "no socket with index 3 among those passed: app.socket, "),
        ("", "htps", "no socket named 'htps' among those passed: .*, https$"),
    ],
)
def test_sockets_which_are_not_there(index: str, name: str, reason: str) -> None:
    """The message names those that are."""
    with pytest.raises(ValueError, match=reason):
        find_sockets(index, name)


def test_nothing_to_find() -> None:
    """A unit without a socket, or a server started by hand."""
    with pytest.raises(ValueError, match="systemd has passed no sockets to this"):
        find_sockets("0")


@pytest.mark.usefixtures("passed")
def test_without_an_address_all_sockets_are_used() -> None:
    """No option is needed for socket activation."""
    settings = with_passed_sockets(Settings.of(verbosity=2))

    assert (50_003, 50_004, 50_005) == settings.bind.fd
    assert 2 == settings.log.verbosity


@pytest.mark.usefixtures("passed")
@pytest.mark.parametrize(
    "given",
    [
        {"bind": "127.0.0.1"},
        {"port": 0},
        {"unix_socket": "/x"},
        {"endpoint": "tcp:80"},
    ],
)
def test_given_addresses_win(given: dict[str, object], log: RecordedLog) -> None:
    """The log says which sockets are not used, and why."""
    settings = Settings.of(**given)

    assert settings is with_passed_sockets(settings)
    [line] = log.take(logging.INFO)
    assert "(app.socket, app.socket, https) are not used, since other" in line


@pytest.mark.usefixtures("passed")
@pytest.mark.parametrize(
    "given",
    [
        {"fd": 3},
        {"endpoint": ["systemd:index=0", "tcp:80"]},
        {"endpoint": "haproxy:systemd:domain=INET:index=0"},
    ],
)
def test_who_names_sockets_needs_no_hint(
    given: dict[str, object], log: RecordedLog
) -> None:
    """The user has chosen among them."""
    settings = Settings.of(**given)

    assert settings is with_passed_sockets(settings)
    assert [] == log.take(logging.INFO)


# -- Notifications -------------------------------------------------------------------------


@pytest.fixture
def systemds() -> Iterator[NotifySocket]:
    """Listen as systemd does."""
    with (
        tempfile.TemporaryDirectory(prefix="dl") as folder,
        closing(NotifySocket(f"{folder}/notify")) as sock,
    ):
        yield sock


def test_nobody_wants_to_hear() -> None:
    """Without `NOTIFY_SOCKET` there is no notifier, whatever else is set."""
    environ = {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}

    assert None is Notifier.take(environ)
    assert {} == environ


@pytest.mark.parametrize("address", ["vsock:2:1234", "relative/path"])
def test_addresses_which_are_ignored(address: str) -> None:
    """The host of a virtual machine, and what systemd never sends."""
    assert None is Notifier.take({"NOTIFY_SOCKET": address})


@pytest.mark.parametrize("abstract", [False, True])
def test_a_life_is_told(
    systemds: NotifySocket, loop: SteppedLoop, abstract: bool
) -> None:
    """Start, reload, ready again, stop: what `systemctl` needs to know and shows."""
    if abstract:
        name = systemds.address.replace("/", "-")
        with closing(NotifySocket(f"@{name}")) as other:
            _tell_a_life(other, loop)
    else:
        _tell_a_life(systemds, loop)


def _tell_a_life(systemds: NotifySocket, loop: SteppedLoop) -> None:
    environ = {"NOTIFY_SOCKET": systemds.address, "SYSTEMD_EXEC_PID": str(os.getpid())}
    notifier = Notifier.take(environ)
    assert notifier is not None
    assert "NOTIFY_SOCKET" not in environ

    notifier.starting(loop, longest=60.0)
    assert [{"STATUS": "Starting the application"}] == systemds.take()
    notifier.ready("Listening on\nhttp://127.0.0.1:80")
    assert [
        {"READY": "1", "STATUS": "Listening on http://127.0.0.1:80"}
    ] == systemds.take()

    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.reloading()
    notifier.reloaded("Listening")
    [reloading, ready] = systemds.take()
    # Type=notify-reload compares this with the instant at which it sent SIGHUP.
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert before <= int(reloading.pop("MONOTONIC_USEC")) <= now
    assert {"RELOADING": "1", "STATUS": "Reading certificates again"} == reloading
    assert {"READY": "1", "STATUS": "Listening"} == ready
    loop.advance(100.0)
    assert [] == systemds.take()

    connections = [1, 2]
    notifier.stopping(lambda: f"open: {len(connections)}", longest=66.0)
    assert [{"STOPPING": "1", "STATUS": "open: 2"}] == systemds.take()
    connections.pop()
    loop.advance(1.0)
    assert [{"STATUS": "open: 1"}] == systemds.take()

    notifier.close()
    loop.advance(100.0)
    assert [{"STATUS": "Stopped"}] == systemds.take()


def test_a_reload_at_another_time(systemds: NotifySocket, loop: SteppedLoop) -> None:
    """A signal during the start or the stop must not look like a service at work."""
    notifier = Notifier(systemds.address)
    notifier.starting(loop, 60.0)
    notifier.reloading()
    notifier.reloaded("Listening")
    notifier.stopping(lambda: "Stopping", 60.0)
    notifier.reloading()
    notifier.reloaded("Listening")
    notifier.close()

    assert ["Starting the application", "Stopping", "Stopped"] == [
        message["STATUS"] for message in systemds.take()
    ]


def test_a_start_that_takes_long(systemds: NotifySocket, loop: SteppedLoop) -> None:
    """
    Where the settings allow more than systemd's usual 90 seconds, it is asked for
    more as long as the loop turns; else the unit decides.
    """
    for longest in (90.0, 91.0, inf):
        notifier = Notifier(systemds.address)
        notifier.starting(loop, longest)
        loop.advance(1.0)
        asked = ["EXTEND_TIMEOUT_USEC" in message for message in systemds.take()]
        assert [longest > 90] * 2 == asked

        notifier.ready("Listening")
        loop.advance(5.0)
        assert ["1"] == [message.get("READY") for message in systemds.take()]
        notifier.stopping(lambda: "Stopping", longest)
        loop.advance(1.0)
        [first, second] = systemds.take()
        assert "1" == first["STOPPING"]
        for message in (first, second):
            wanted = "30000000" if longest > 90 else None
            assert wanted == message.get("EXTEND_TIMEOUT_USEC")
        notifier.close()
        systemds.take()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (
            ListenError("Listen failure: in use", errno.EADDRINUSE),
            {"STATUS": "Listen failure: in use", "ERRNO": str(errno.EADDRINUSE)},
        ),
        (LifespanFailed("no\ndatabase"), {"STATUS": "no database"}),
        (ZeroDivisionError(), {"STATUS": "ZeroDivisionError"}),
        (OSError(2, "not the reason"), {"STATUS": "[Errno 2] not the reason"}),
        (SettingsError("€" * 5000), {"STATUS": "€" * 1000}),
    ],
)
def test_a_failure_is_told(
    systemds: NotifySocket,
    loop: SteppedLoop,
    error: Exception,
    expected: dict[str, str],
) -> None:
    """Its line stays for `systemctl status`, whatever happens until the end."""
    notifier = Notifier(systemds.address)
    notifier.starting(loop, inf)
    systemds.take()
    notifier.failed(error)
    notifier.stopping(lambda: "Stopping", inf)
    notifier.ready("Listening")
    loop.advance(5.0)
    notifier.close()

    assert [{"STOPPING": "1", **expected}] == systemds.take()


def test_a_failure_before_the_loop_runs(systemds: NotifySocket) -> None:
    """An application that can't be imported, or a signal at the very beginning."""
    Notifier(systemds.address).failed(SettingsError("no"))
    Notifier(systemds.address).stopping(lambda: "Stopping", inf)

    assert ["no", "Stopping"] == [message["STATUS"] for message in systemds.take()]


@pytest.mark.parametrize("started", ["another", "this", ""])
def test_the_main_process(
    systemds: NotifySocket, loop: SteppedLoop, started: str
) -> None:
    """A process that systemd has started is known; behind a script there is another."""
    environ = {"NOTIFY_SOCKET": systemds.address}
    own = str(os.getpid())
    expected = own if started == "another" else None
    if started:
        environ["SYSTEMD_EXEC_PID"] = own if started == "this" else "1"
    notifier = Notifier.take(environ)
    assert notifier is not None
    notifier.starting(loop, 1.0)
    notifier.ready("Listening")

    assert expected == systemds.take()[-1].get("MAINPID")


def test_nobody_listens(
    systemds: NotifySocket, loop: SteppedLoop, log: RecordedLog
) -> None:
    """Serving doesn't depend on systemd; the log says it once."""
    for address in (systemds.address + "-gone", "/" + "long" * 100, "/\0"):
        notifier = Notifier(address)
        notifier.starting(loop, 1.0)
        notifier.ready("Listening")
        notifier.close()

        [line] = log.take()
        assert line.startswith("WARNING systemd can't be notified: ")


def test_a_systemd_that_does_not_read(
    systemds: NotifySocket, log: RecordedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When its queue stays full, the server goes on."""
    monkeypatch.setattr(systemd, "_SEND_TIMEOUT", 0.01)
    notifier = Notifier(systemds.address)
    for _ in range(10_000):
        notifier.failed(SettingsError("no"))
        if lines := log.take():
            break

    assert ["WARNING systemd can't be notified: timed out"] == lines


# -- The watchdog ------------------------------------------------------------------------


def _watched(systemds: NotifySocket, **environment: str) -> Notifier:
    notifier = Notifier.take(
        {
            "NOTIFY_SOCKET": systemds.address,
            "WATCHDOG_USEC": "20000000",
            "WATCHDOG_PID": str(os.getpid()),
            **environment,
        }
    )
    assert notifier is not None
    return notifier


def _pings(systemds: NotifySocket) -> int:
    return sum(message == {"WATCHDOG": "1"} for message in systemds.take())


def test_pings_come_at_half_the_interval(
    systemds: NotifySocket, loop: SteppedLoop
) -> None:
    """They begin when the service is ready, and go on until its end."""
    notifier = _watched(systemds)
    notifier.starting(loop, 60.0)
    loop.advance(15.0)
    assert 0 == _pings(systemds)

    notifier.ready("Listening")
    assert 1 == _pings(systemds)
    for seconds, pings in ((9.9, 0), (0.1, 1), (9.9, 0), (0.1, 1)):
        loop.advance(seconds)
        assert pings == _pings(systemds)
    notifier.reloading()
    notifier.reloaded("Listening")
    loop.advance(10.0)
    assert 1 == _pings(systemds)
    notifier.stopping(lambda: "Stopping", 60.0)
    loop.advance(10.0)
    assert 1 == _pings(systemds)

    notifier.close()
    loop.advance(20.0)
    assert 0 == _pings(systemds)


def test_a_loop_that_was_blocked_is_told(
    systemds: NotifySocket, loop: SteppedLoop, log: RecordedLog
) -> None:
    """Before systemd kills the service, the log warns of what may become worse."""
    notifier = _watched(systemds)
    notifier.starting(loop, 60.0)
    notifier.ready("Listening")
    systemds.take()

    loop.advance(14.0)
    assert [] == log.take()
    loop.advance(17.0)
    [line] = log.take()
    assert line.startswith("WARNING The event loop was blocked: it turned 7.0 s late.")
    assert line.endswith("waits for 20.0 s")
    assert 2 == _pings(systemds)
    notifier.close()


@pytest.mark.parametrize(
    "environment",
    [{"WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": ""}, {"WATCHDOG_USEC": "often"}],
)
def test_a_watchdog_of_somebody_else(
    systemds: NotifySocket, loop: SteppedLoop, environment: dict[str, str]
) -> None:
    """Nobody is pinged who hasn't asked this process for it."""
    notifier = _watched(systemds, **environment)
    notifier.starting(loop, 60.0)
    notifier.ready("Listening")
    loop.advance(100.0)

    assert 0 == _pings(systemds)
    notifier.close()
