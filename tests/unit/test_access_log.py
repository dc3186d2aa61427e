"""Tests of ``daphne_like.observability.access_log``."""

from __future__ import annotations

import ast
import base64
import contextlib
import errno
import io
import json
import logging
import os
import re
import select
import stat
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daphne_like.errors import SettingsError
from daphne_like.observability.access_log import AccessLog

COMBINED = '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s"'

# 2026-11-20T20:04:05.750Z
NOW = 1795205045.75


@dataclass(frozen=True)
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


def written(line_format: str, *exchanges: FakeExchange, now: float = NOW) -> str:
    """What these exchanges write to standard output."""
    with contextlib.redirect_stdout(io.StringIO()) as output:
        log = AccessLog("-", line_format, clock=lambda: now)
        for exchange in exchanges:
            log.exchange_ended(exchange)
        log.close()
    return output.getvalue()


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The machine's clock runs in a zone one hour ahead, two in summer."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


# Daphne's format


@pytest.mark.usefixtures("berlin")
def test_a_line_looks_as_it_does_in_daphne() -> None:
    """Tools that read Daphne's access log read ours: local time, no version."""
    line = written("daphne", FakeExchange())

    assert line == '127.0.0.1:50778 - - [20/Nov/2026:21:04:05] "GET /a?b=1" 200 13\n'


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize(
    ("exchange", "line"),
    [
        (
            FakeExchange(client=None),
            '- - - [20/Nov/2026:21:04:05] "GET /a?b=1" 200 13\n',
        ),
        (
            FakeExchange(client=("2001:db8::1", 443)),
            '2001:db8::1:443 - - [20/Nov/2026:21:04:05] "GET /a?b=1" 200 13\n',
        ),
        (
            FakeExchange(status=204, body_bytes_sent=0),
            '127.0.0.1:50778 - - [20/Nov/2026:21:04:05] "GET /a?b=1" 204 -\n',
        ),
        (
            FakeExchange(status=0, body_bytes_sent=0),
            '127.0.0.1:50778 - - [20/Nov/2026:21:04:05] "GET /a?b=1" - -\n',
        ),
        (
            FakeExchange(method="OPTIONS", target=b"*"),
            '127.0.0.1:50778 - - [20/Nov/2026:21:04:05] "OPTIONS *" 200 13\n',
        ),
    ],
    ids=["unix-socket", "ipv6", "no-body", "no-response", "options"],
)
def test_a_dash_stands_for_what_there_is_not(exchange: FakeExchange, line: str) -> None:
    """No client address, no status and an empty body are each written as a dash."""
    assert line == written("daphne", exchange)


@pytest.mark.usefixtures("berlin")
def test_the_time_in_a_line_follows_the_clock(tmp_path: Path) -> None:
    """Each line has the time its exchange ended, also when the clock is set back."""
    times = [NOW, NOW + 0.2, NOW + 1, NOW + 60, NOW - 3600, NOW - 130 * 86400]
    path = tmp_path / "access.log"
    clock = iter(times)
    log = AccessLog(str(path), clock=lambda: next(clock))
    for _ in times:
        log.exchange_ended(FakeExchange())
    log.close()

    assert re.findall(r"\[(.*)\]", path.read_text()) == [
        "20/Nov/2026:21:04:05",
        "20/Nov/2026:21:04:05",
        "20/Nov/2026:21:04:06",
        "20/Nov/2026:21:05:05",
        "20/Nov/2026:20:04:05",
        "13/Jul/2026:22:04:05",
    ]


@pytest.mark.usefixtures("berlin")
def test_months_have_their_english_names() -> None:
    """A reader of the log need not know the locale of the server."""
    english = ("Jan Feb Mar", "Apr May Jun", "Jul Aug Sep", "Oct Nov Dec")
    months = []
    for month in range(12):
        line = written("daphne", FakeExchange(), now=1768478400 + month * 30.5 * 86400)
        months.append(line.split("/")[1])

    assert " ".join(months) == " ".join(english)


# Format strings


REQUEST = FakeExchange(
    target=b"/%C3%A4/x?b=1&c=%22",
    http_version="2",
    request_headers=[
        (b"host", b"example.org"),
        (b"user-agent", b"curl/8.5"),
        (b"referer", b"https://example.org/"),
        (b"authorization", b"Basic " + base64.b64encode(b"Aladdin:open sesame")),
        (b"x-color", b"red"),
        (b"x-color", b"blue"),
    ],
    status=404,
    response_headers=[(b"content-type", b"text/plain")],
    body_bytes_sent=0,
    duration=1.2345678,
)


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize(
    ("atom", "text"),
    [
        ("%(h)s", "127.0.0.1"),
        ("%(l)s", "-"),
        ("%(u)s", "Aladdin"),
        ("%(t)s", "[20/Nov/2026:21:04:05 +0100]"),
        ("%(r)s", "GET /%C3%A4/x?b=1&c=%22 HTTP/2"),
        ("%(m)s", "GET"),
        ("%(U)s", "/%C3%A4/x"),
        ("%(q)s", "b=1&c=%22"),
        ("%(H)s", "HTTP/2"),
        ("%(s)s", "404"),
        ("%(b)s", "-"),
        ("%(B)s", "0"),
        ("%(f)s", "https://example.org/"),
        ("%(a)s", "curl/8.5"),
        ("%(T)s", "1"),
        ("%(M)s", "1234"),
        ("%(D)s", "1234567"),
        ("%(L)s", "1.234568"),
        ("%({Host}i)s", "example.org"),
        ("%({X-Color}i)s", "blue"),
        ("%({x-absent}i)s", "-"),
        ("%({Content-Type}o)s", "text/plain"),
        ("%({host}o)s", "-"),
        ("100%% %(s)s", "100% 404"),
        ("status:%(s)s\tsize:%(B)s", "status:404\tsize:0"),
        ("%(s)s ← «größe»", "404 ← «größe»"),
    ],
)
def test_each_atom_has_the_meaning_it_has_in_gunicorn(atom: str, text: str) -> None:
    """A format string from a Gunicorn configuration works unchanged."""
    assert text + "\n" == written(atom, REQUEST)


def test_the_process_is_told_as_gunicorn_does() -> None:
    """Workers can be told apart."""
    assert f"<{os.getpid()}>\n" == written("%(p)s", REQUEST)


@pytest.mark.usefixtures("berlin")
def test_the_combined_format() -> None:
    """The format of most log analyzers can be had with a format string."""
    assert written(COMBINED, FakeExchange(client=None), REQUEST).splitlines() == [
        '- - - [20/Nov/2026:21:04:05 +0100] "GET /a?b=1 HTTP/1.1" 200 13 "-" "-"',
        (
            "127.0.0.1 - Aladdin [20/Nov/2026:21:04:05 +0100] "
            '"GET /%C3%A4/x?b=1&c=%22 HTTP/2" 404 - "https://example.org/" "curl/8.5"'
        ),
    ]


@pytest.mark.parametrize(
    ("authorization", "user"),
    [
        (b"basic QTpi", "A"),
        (b"Basic QSBCIFtdOmM=", "A\\x20B\\x20[]"),
        (b"Basic OnBhc3N3b3Jk", "-"),
        (b"Basic QTpi%", "-"),
        (b"Basic \xff", "-"),
        (b"Basic", "-"),
        (b"", "-"),
        (b"Bearer QTpi", "-"),
    ],
)
def test_the_user_is_the_one_of_basic_authentication(
    authorization: bytes, user: str
) -> None:
    """A user name can't forge a column, and a broken header is no user."""
    exchange = FakeExchange(request_headers=[(b"authorization", authorization)])

    assert user + "\n" == written("%(u)s", exchange)


@pytest.mark.parametrize(
    ("line_format", "complaint"),
    [
        ("%(h)s %(x)s", "unknown atom '%(x)s'"),
        ("%(hh)s", "unknown atom '%(hh)s'"),
        ("%(h)d", "unknown atom '%(h)d'"),
        ("%(h", "unknown atom '%(h'"),
        ("%({host}e)s", "unknown atom '%({host}e)s'"),
        ("%({}i)s", "unknown atom '%({}i)s'"),
        ("%(h)s 100%", "unknown atom '%'"),
        ("%s", "unknown atom '%s'"),
        ("jsno", "neither 'daphne' nor 'json'"),
        ("100%%", "neither 'daphne' nor 'json'"),
        ("", "neither 'daphne' nor 'json'"),
        ("%(h)s\n%(s)s", "line break"),
        ("%(h)s\x1b[0m", "control character"),
    ],
)
def test_a_wrong_format_is_told_at_start(line_format: str, complaint: str) -> None:
    """The server refuses to start, with one line that says what is wrong."""
    with pytest.raises(SettingsError) as caught:
        AccessLog("-", line_format)

    assert complaint in str(caught.value)
    assert str(caught.value).startswith("access_log_format: ")
    assert len(str(caught.value).splitlines()) == 1


# JSON


@pytest.mark.usefixtures("berlin")
def test_a_json_line_has_the_documented_fields() -> None:
    """Each line is an object with the same keys, null where there is nothing."""
    with_all = FakeExchange(
        request_headers=[
            (b"host", b"example.org"),
            (b"user-agent", "Zürich/1".encode()),
            (b"referer", b"https://example.org/"),
            (b"x-request-id", b"abc-1"),
        ],
        duration=0.0012345678,
    )
    with_none = FakeExchange(
        client=None, target=b"/", http_version="1.0", status=0, body_bytes_sent=0
    )
    first, second = map(json.loads, written("json", with_all, with_none).splitlines())

    assert first == {
        "time": "2026-11-20T21:04:05.750+01:00",
        "client": "127.0.0.1",
        "client_port": 50778,
        "method": "GET",
        "path": "/a",
        "query": "b=1",
        "http_version": "1.1",
        "status": 200,
        "bytes": 13,
        "duration_ms": 1.235,
        "host": "example.org",
        "user_agent": "Zürich/1",
        "referer": "https://example.org/",
        "request_id": "abc-1",
    }
    assert second == {
        "time": "2026-11-20T21:04:05.750+01:00",
        "client": None,
        "client_port": None,
        "method": "GET",
        "path": "/",
        "query": "",
        "http_version": "1.0",
        "status": None,
        "bytes": 0,
        "duration_ms": 250.0,
        "host": None,
        "user_agent": None,
        "referer": None,
        "request_id": None,
    }
    assert list(first) == list(second)


def test_a_request_id_made_by_the_application_is_logged() -> None:
    """When the client sent no x-request-id, the one of the response is taken."""
    exchange = FakeExchange(response_headers=[(b"x-request-id", b"made-by-app")])

    assert json.loads(written("json", exchange))["request_id"] == "made-by-app"


# Log injection


field_text = st.binary(max_size=40) | st.sampled_from(
    [
        b'" 200 13\n127.0.0.1:1 - - [x] "GET /forged',
        *(b'"', b"\\", b'\\"', b"\r\n", b"\x1b[2J", b"\x7f", b"\x85", b"\xe2\x80\xa8"),
    ]
)
header_names = st.sampled_from(
    [b"host", b"user-agent", b"referer", b"x-request-id", b"authorization", b"x-a"]
)
header_lists = st.lists(st.tuples(header_names, field_text), max_size=6)
clients = st.none() | st.tuples(
    st.ip_addresses().map(str) | st.text(max_size=20), st.integers(0, 65535)
)
exchanges = st.builds(
    FakeExchange,
    client=clients,
    method=st.sampled_from(["GET", "POST"]) | st.text(max_size=20),
    target=field_text,
    http_version=st.sampled_from(["1.0", "1.1", "2", "3"]) | st.text(max_size=5),
    request_headers=header_lists,
    status=st.integers(0, 999),
    response_headers=header_lists,
    body_bytes_sent=st.integers(min_value=0),
    duration=st.floats(0, 1e9),
)
line_formats = st.sampled_from(
    [
        "daphne",
        "json",
        COMBINED,
        '%(h)s "%(m)s" "%(U)s" "%(q)s" "%(H)s" %(u)s "%({X-A}i)s" "%({x-a}o)s"',
    ]
)


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        (b'/"', '/\\"'),
        (b"/\\", "/\\\\"),
        (b'/\\"', '/\\\\\\"'),
        (b"/\n\r\t", "/\\n\\r\\t"),
        (b"/\x00\x1b\x7f", "/\\x00\\x1b\\x7f"),
        (b"/\xc3\xa4", "/\\xc3\\xa4"),
        (b"/ '%s{}", "/ '%s{}"),
    ],
)
def test_what_could_break_a_line_is_escaped(sent: bytes, text: str) -> None:
    """Escapes are the ones of Apache's log, which log readers understand."""
    line = written("daphne", FakeExchange(target=sent))

    assert line.endswith(f'"GET {text}" 200 13\n')


@given(line_formats, st.lists(exchanges, max_size=4))
def test_an_exchange_is_one_line_whatever_the_client_sent(
    line_format: str, several: list[FakeExchange]
) -> None:
    """Nobody can forge a line, or send codes to the terminal of who reads it."""
    text = written(line_format, *several)

    assert text.count("\n") == len(several)
    assert len(text.splitlines()) == len(several)
    assert text.isascii()
    assert text.replace("\n", "").isprintable()


@given(exchanges)
def test_what_a_json_line_says_is_what_was_sent(exchange: FakeExchange) -> None:
    """A program that reads a JSON line gets the client's very words."""
    line = json.loads(written("json", exchange))
    path, _, query = exchange.target.partition(b"?")

    assert line["client"] == (exchange.client and exchange.client[0])
    assert line["method"] == exchange.method
    assert line["path"] == path.decode("utf-8", "backslashreplace")
    assert line["query"] == query.decode("utf-8", "backslashreplace")
    assert line["bytes"] == exchange.body_bytes_sent
    for key, name in [("host", b"host"), ("user_agent", b"user-agent")]:
        sent = dict(exchange.request_headers).get(name)
        if sent is None:
            assert line[key] is None
        else:
            assert line[key] == sent.decode("utf-8", "backslashreplace")


@given(exchanges)
def test_nothing_leaves_its_quotes(exchange: FakeExchange) -> None:
    """A quote in a field is escaped, so that the fields after it stay in place."""
    line = written('"%(r)s" %(s)s "%(f)s" "%(a)s"', exchange)
    quoted = r'"((?:[^"\\]|\\.)*)"'
    fields = re.fullmatch(rf"{quoted} (\d+|-) {quoted} {quoted}\n", line)

    assert fields is not None
    request = ast.literal_eval(f'"{fields[1]}"')
    sent = exchange.target.decode("latin-1")
    assert request == f"{exchange.method} {sent} HTTP/{exchange.http_version}"
    agent = dict(exchange.request_headers).get(b"user-agent", b"-")
    assert ast.literal_eval(f'"{fields[4]}"').encode("latin-1") == agent


# Destinations


def test_lines_are_written_when_flushed_and_appended_to_the_file(
    tmp_path: Path,
) -> None:
    """An old log is continued; lines wait for the next flush."""
    path = tmp_path / "access.log"
    path.write_text("old\n")
    log = AccessLog(str(path), "%(U)s")
    log.exchange_ended(FakeExchange(target=b"/1"))
    log.exchange_ended(FakeExchange(target=b"/2"))

    assert path.read_text() == "old\n"
    log.flush()
    assert path.read_text() == "old\n/1\n/2\n"
    log.exchange_ended(FakeExchange(target=b"/3"))
    log.close()
    assert path.read_text() == "old\n/1\n/2\n/3\n"


def test_many_lines_do_not_wait_for_the_flush(tmp_path: Path) -> None:
    """However fast requests come, no more than 64 KiB of lines are held."""
    path = tmp_path / "access.log"
    log = AccessLog(str(path), "%(U)s")
    for _ in range(66):
        log.exchange_ended(FakeExchange(target=b"/" * 1000))

    assert path.stat().st_size == 66 * 1001
    log.exchange_ended(FakeExchange())
    assert path.stat().st_size == 66 * 1001, "the next ones wait again"
    log.close()


def test_a_closed_log_stays_silent(tmp_path: Path) -> None:
    """An exchange that ends after the log was closed does no harm."""
    path = tmp_path / "access.log"
    log = AccessLog(str(path), "%(U)s")
    log.exchange_ended(FakeExchange())
    log.close()
    log.exchange_ended(FakeExchange())
    log.flush()
    log.reopen()
    log.close()

    assert path.read_text() == "/a\n"


def test_a_file_that_cannot_be_opened_is_told_at_start(tmp_path: Path) -> None:
    """A directory that doesn't exist is one clear line, not a traceback later."""
    path = tmp_path / "absent" / "access.log"
    with pytest.raises(SettingsError) as caught:
        AccessLog(str(path))

    assert f"access_log: can't open '{path}': No such file or directory" == str(
        caught.value
    )


def test_a_rotated_log_goes_on_in_a_new_file(tmp_path: Path) -> None:
    """After logrotate has renamed the file, reopening starts the next one."""
    path = tmp_path / "access.log"
    log = AccessLog(str(path), "%(U)s")
    log.exchange_ended(FakeExchange(target=b"/before"))
    path.rename(tmp_path / "access.log.1")
    log.reopen()
    log.exchange_ended(FakeExchange(target=b"/after"))
    log.close()

    assert (tmp_path / "access.log.1").read_text() == "/before\n"
    assert path.read_text() == "/after\n"


def test_a_failed_reopening_keeps_the_old_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """When the directory is gone, that is reported and no line is lost."""
    directory = tmp_path / "logs"
    directory.mkdir()
    log = AccessLog(str(directory / "access.log"), "%(U)s")
    directory.rename(tmp_path / "moved")
    log.reopen()
    log.exchange_ended(FakeExchange())
    log.close()

    assert [record[:2] for record in caplog.record_tuples] == [
        ("daphne_like.server", logging.ERROR)
    ]
    assert (tmp_path / "moved" / "access.log").read_text() == "/a\n"


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    """A log that was reopened many times and closed holds no file."""
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir()))
    log = AccessLog(str(tmp_path / "access.log"))
    for _ in range(5):
        log.reopen()
    log.close()

    assert len(list(descriptors.iterdir())) == before


def test_standard_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """
    ``-`` writes to standard output, after what the application printed.

    Reopening, which is for files, and closing leave it open.
    """
    path = tmp_path / "output"
    with path.open("w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        log = AccessLog("-", "%(U)s")
        stream.write("printed before\n")
        log.exchange_ended(FakeExchange())
        log.reopen()
        stream.write("printed between\n")
        log.exchange_ended(FakeExchange())
        log.close()
        stream.write("printed after\n")
        monkeypatch.undo()

    assert path.read_text().splitlines() == [
        "printed before",
        "/a",
        "printed between",
        "/a",
        "printed after",
    ]


def test_a_process_without_standard_output_serves(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where there is no standard output, that is reported, and that is all."""
    monkeypatch.setattr(sys, "stdout", None)
    log = AccessLog("-")
    log.exchange_ended(FakeExchange())
    log.reopen()
    log.close()

    assert "there is no standard output" in caplog.text


def test_a_pipe_shared_by_workers_gets_whole_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Lines of several workers on one pipe are never mixed within a line."""
    reader, writer = os.pipe()
    sizes = []
    os_write: Callable[[int, bytes], int] = os.write

    def recording_write(descriptor: int, data: bytes) -> int:
        assert data.endswith(b"\n")
        sizes.append(len(data))
        return os_write(descriptor, data)

    with os.fdopen(writer, "w") as stream, os.fdopen(reader) as received:
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setattr(os, "write", recording_write)
        log = AccessLog("-", "%(U)s")
        targets = [b"/" + b"x" * size for size in (10, 3000, 3000, 9000, 20, 4094)]
        for target in targets:
            log.exchange_ended(FakeExchange(target=target))
        log.close()
        monkeypatch.undo()
        stream.close()

        assert received.read().encode().split() == targets
    # A line longer than a pipe takes in one piece is alone at least.
    assert all(size <= select.PIPE_BUF or size == 9002 for size in sizes)
    assert sizes[0] == 12 + 3002, "as many lines as fit go together"


# Failing destinations


class LimitedDisk:
    """Stands for ``os.write`` on a disk which has room for some bytes."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.calls = 0
        self._write: Callable[[int, bytes], int] = os.write

    def write(self, descriptor: int, data: bytes) -> int:
        """Take what there is room for."""
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return self._write(descriptor, data)
        self.calls += 1
        taken = data[: self.room]
        if not taken:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.room -= len(taken)
        return self._write(descriptor, taken)


def test_a_full_disk_is_reported_once_and_left_alone(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The server serves on; the operator reads when it began and when it ended."""
    path = tmp_path / "access.log"
    log = AccessLog(str(path), "%(U)s")
    disk = LimitedDisk(room=0)
    monkeypatch.setattr(os, "write", disk.write)
    for _ in range(3):
        log.exchange_ended(FakeExchange(target=b"/lost"))
        log.flush()

    assert disk.calls == 3
    assert [record[:2] for record in caplog.record_tuples] == [
        ("daphne_like.server", logging.ERROR)
    ]
    assert "No space left on device" in caplog.text

    disk.room = 1000
    log.exchange_ended(FakeExchange(target=b"/kept"))
    log.close()

    assert caplog.record_tuples[-1][:2] == ("daphne_like.server", logging.WARNING)
    assert len(caplog.records) == 2
    assert path.read_text() == "/kept\n"


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
def test_a_disk_that_fills_up_never_leaves_two_lines_in_one(
    first: int, second: int, third: int
) -> None:
    """Wherever writing stopped, each line in the file is a whole one."""
    targets = [b"/%03d" % number for number in range(12)]
    descriptor = os.memfd_create("log")
    try:
        with pytest.MonkeyPatch.context() as patch:
            disk = LimitedDisk(room=0)
            log = AccessLog(f"/proc/self/fd/{descriptor}", "%(U)s")
            patch.setattr(os, "write", disk.write)
            for start, room in enumerate([first, second, third]):
                disk.room = room
                for target in targets[start * 4 : start * 4 + 4]:
                    log.exchange_ended(FakeExchange(target=target))
                log.flush()
            disk.room = 1000
            log.exchange_ended(FakeExchange(target=b"/end"))
            log.close()
        lines = os.pread(descriptor, 1000, 0).split(b"\n")
    finally:
        os.close(descriptor)

    assert lines.pop() == b""
    assert lines.pop() == b"/end"
    assert lines == [target for target in targets if target in lines]


def test_a_closed_pipe_does_not_stop_the_server(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """When the program that read our output has gone, serving goes on."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        log = AccessLog("-")
        for _ in range(3):
            log.exchange_ended(FakeExchange())
            log.flush()
        log.close()

    assert ["Broken pipe" in record.getMessage() for record in caplog.records] == [True]


def test_a_closed_standard_output_does_not_stop_the_server(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An application that closed ``sys.stdout`` loses the log, not the server."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    log = AccessLog("-")
    stream.close()
    for _ in range(3):
        log.exchange_ended(FakeExchange())
        log.flush()
    log.close()

    assert [record.levelname for record in caplog.records] == ["ERROR"]


# The logger


@pytest.mark.usefixtures("berlin")
def test_the_logger_gets_finished_text_and_fields(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Handlers of ``daphne_like.access`` have the line and its parts at once."""
    caplog.set_level(logging.INFO, "daphne_like.access")
    log = AccessLog("logger", clock=lambda: NOW)
    log.exchange_ended(
        FakeExchange(target=b"/100%s?a=%d", request_headers=[(b"host", b"a.example")])
    )
    (record,) = caplog.records
    log.flush()
    log.reopen()
    log.close()

    assert record.name == "daphne_like.access"
    assert record.levelno == logging.INFO
    assert (
        record.getMessage()
        == '127.0.0.1:50778 - - [20/Nov/2026:21:04:05] "GET /100%s?a=%d" 200 13'
    )
    assert record.args == ()
    fields: dict[str, Any] = vars(record)
    assert fields["time"] == "2026-11-20T21:04:05.750+01:00"
    assert fields["path"] == "/100%s"
    assert fields["status"] == 200
    assert fields["duration_ms"] == 250.0
    assert fields["host"] == "a.example"
    assert fields["referer"] is None


def test_a_logger_that_is_switched_off_gets_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Above INFO no record is made, and no time is spent on its text."""
    times = iter([NOW])
    caplog.set_level(logging.WARNING, "daphne_like.access")
    AccessLog("logger", clock=lambda: next(times)).exchange_ended(FakeExchange())

    assert caplog.records == []
    assert list(times) == [NOW]


def test_a_broken_log_handler_does_not_stop_the_server(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An exception out of a user's filter is reported once and stays there."""

    def broken(record: logging.LogRecord) -> bool:
        raise RuntimeError("bad filter")

    logger = logging.getLogger("daphne_like.access")
    caplog.set_level(logging.INFO, "daphne_like.access")
    log = AccessLog("logger")
    logger.addFilter(broken)
    try:
        log.exchange_ended(FakeExchange())
        log.exchange_ended(FakeExchange())
    finally:
        logger.removeFilter(broken)
    log.exchange_ended(replace(FakeExchange(), status=500))

    assert [(record.name, record.levelname) for record in caplog.records] == [
        ("daphne_like.server", "ERROR"),
        ("daphne_like.access", "INFO"),
        ("daphne_like.server", "WARNING"),
    ]
    assert "bad filter" in caplog.records[0].getMessage()


# WebSockets

SOCKET = FakeExchange(target=b"/chat?secret=1", status=101, duration=2.5)


def websocket_lines(line_format: str) -> list[str]:
    """What the life of a WebSocket writes to standard output."""
    with contextlib.redirect_stdout(io.StringIO()) as output:
        log = AccessLog("-", line_format, clock=lambda: NOW)
        for event in ("CONNECTING", "CONNECT", "DISCONNECT"):
            log.websocket_changed(SOCKET, event)
        log.close()
    return output.getvalue().splitlines()


@pytest.mark.usefixtures("berlin")
def test_the_steps_of_a_websocket_look_as_in_daphne() -> None:
    """A line for each, without the query, which Daphne leaves out."""
    start = "127.0.0.1:50778 - - [20/Nov/2026:21:04:05] "

    assert [
        f'{start}"WSCONNECTING /chat" - -',
        f'{start}"WSCONNECT /chat" - -',
        f'{start}"WSDISCONNECT /chat" - -',
    ] == websocket_lines("daphne")


def test_other_formats_have_one_line_at_the_end() -> None:
    """With the duration, and 101 for the status."""
    (line,) = websocket_lines("json")
    told = json.loads(line)
    assert (101, 2500.0, "/chat", "secret=1") == (
        told["status"],
        told["duration_ms"],
        told["path"],
        told["query"],
    )
    assert ["101 2.500000"] == websocket_lines("%(s)s %(L)s")


@pytest.mark.parametrize(("line_format", "count"), [("daphne", 3), ("json", 1)])
def test_websockets_go_to_the_logger(
    caplog: pytest.LogCaptureFixture, line_format: str, count: int
) -> None:
    """Records of WebSockets are like those of requests."""
    with caplog.at_level(logging.INFO, "daphne_like.access"):
        log = AccessLog("logger", line_format)
        for event in ("CONNECTING", "CONNECT", "DISCONNECT"):
            log.websocket_changed(SOCKET, event)
    assert count == len(caplog.records)
    assert "/chat" == caplog.records[-1].__dict__["path"]

    caplog.clear()
    with caplog.at_level(logging.WARNING, "daphne_like.access"):
        AccessLog("logger", line_format).websocket_changed(SOCKET, "DISCONNECT")
    assert [] == caplog.records
