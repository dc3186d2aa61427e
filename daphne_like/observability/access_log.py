r"""
The access log: one line for each exchange that has ended.

A line format is compiled once, when the server starts, into a function from an
:class:`Exchange` to a line of text. :class:`AccessLog` collects these lines and
hands them to their destination in batches, since a system call for each request
would cost more than all the rest of the log.

Whatever a client sent is escaped, so that it can neither end a line nor leave
the quotes around it (CWE-117, log injection): the text formats write quotes,
backslashes, control characters and non-ASCII bytes as Apache does (``\"``,
``\\``, ``\n``, ``\xff``), JSON as RFC 8259 section 7 asks.

Tests: ``tests/unit/test_access_log.py``.
"""

from __future__ import annotations

import base64
import logging
import os
import re
import select
import stat
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from json.encoder import encode_basestring_ascii
from typing import Protocol, TextIO

from daphne_like.errors import SettingsError

__all__ = ["AccessLog", "Exchange"]

Headers = Sequence[tuple[bytes, bytes]]

_access_logger = logging.getLogger("daphne_like.access")
_server_logger = logging.getLogger("daphne_like.server")

# Pending lines are written at the latest when there are that many characters
# of them. They are ASCII, except for what the operator's own format says.
_FLUSH_CHARACTERS = 64 * 1024

# POSIX: "Write requests of {PIPE_BUF} bytes or less shall not be interleaved
# with data from other processes doing writes on the same pipe." 512 is the
# least which POSIX allows; a system without the constant has no such pipes.
_WHOLE_WRITE_BYTES: int = getattr(select, "PIPE_BUF", 512)

# The names of months in these logs are English in each locale, which
# ``strftime`` would follow.
_MONTHS = (
    *("Jan", "Feb", "Mar", "Apr", "May", "Jun"),
    *("Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
)


class Exchange(Protocol):
    """
    What the access log wants to know of one request and its response.

    Source: RFC 9110 section 3.4.
    """

    @property
    def client(self) -> Sequence[str | int] | None:
        """Address and port of the client; None when it has no address."""

    @property
    def method(self) -> str:
        """The method as received."""

    @property
    def target(self) -> bytes:
        """The request target as received: not decoded, with its query."""

    @property
    def http_version(self) -> str:
        """``1.0``, ``1.1``, ``2`` or ``3``."""

    @property
    def request_headers(self) -> Headers:
        """Pairs of lower-case name and value, in the order received."""

    @property
    def status(self) -> int:
        """The status sent; 0 when no response was started."""

    @property
    def response_headers(self) -> Headers:
        """Pairs of lower-case name and value, in the order sent."""

    @property
    def body_bytes_sent(self) -> int:
        """Bytes of the response body, without its chunked coding."""

    @property
    def duration(self) -> float:
        """Seconds from the request's head to the end of the exchange."""


class AccessLog:
    """
    Write a line for each exchange that ends, in batches.

    The server calls :meth:`flush` once a second while it runs, :meth:`reopen`
    after the file was rotated, and :meth:`close` when it stops. All calls come
    from one thread.

    A line that can't be written is lost: the first one is reported on the logger
    ``daphne_like.server``, and so is the first one that gets through again. None
    of it reaches the server, which goes on serving.

    Args:
        destination: ``-`` is standard output; ``logger`` is the logger
            ``daphne_like.access``, which gets a record at level INFO with the line
            as its message and the fields of the JSON format as its attributes;
            anything else is the path of a file to append to.
        line_format: ``daphne``, ``json``, or a text with atoms such as ``%(h)s``.
        clock: Seconds since the epoch.

    Raises:
        SettingsError: The format can't be understood, or the file not opened.
    """

    def __init__(
        self,
        destination: str,
        line_format: str = "daphne",
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        wall_clock = _WallClock(clock)
        self._field_values = _field_values(wall_clock)
        self._line = _compile(line_format, wall_clock)
        self._pending: list[str] = []
        self._pending_characters = 0
        self._failing = False
        self._to_logger = destination == "logger"
        self._output: _Output | None = None
        if destination == "-":
            self._output = _standard_output()
        elif not self._to_logger:
            self._output = _open_file(destination)

    def exchange_ended(self, exchange: Exchange) -> None:
        """Log an exchange; its line is written by the next :meth:`flush`."""
        if self._to_logger:
            self._emit_record(exchange)
            return
        line = self._line(exchange)
        self._pending.append(line)
        self._pending_characters += len(line)
        if self._pending_characters >= _FLUSH_CHARACTERS:
            self.flush()

    def flush(self) -> None:
        """Write the pending lines; after :meth:`close`, forget them."""
        if not self._pending:
            return
        self._pending.append("")  # the last line ends as the others do
        lines = "\n".join(self._pending).encode()
        self._pending.clear()
        self._pending_characters = 0
        if self._output is None:
            return
        try:
            self._output.write(lines)
        except (OSError, ValueError) as error:  # ValueError: a closed text stream
            self._failed(error)
        else:
            self._succeeded()

    def reopen(self) -> None:
        """
        Open the file anew under its name, after a rotation moved the old one.

        What is pending goes to the old file. When the file can't be opened, that
        is reported and the old one stays in use.
        """
        self.flush()
        if self._output is None:
            return
        try:
            self._output.reopen()
        except OSError as error:
            _server_logger.error(  # noqa: TRY400 - one line, no traceback
                "The access log can't be opened anew; the old file stays in use: %s",
                error,
            )

    def close(self) -> None:
        """Write what is pending and close the file; may be called twice."""
        self.flush()
        if self._output is not None:
            self._output.close()
            self._output = None

    def _emit_record(self, exchange: Exchange) -> None:
        if not _access_logger.isEnabledFor(logging.INFO):
            return
        line = self._line(exchange)
        fields = dict(zip(_FIELD_NAMES, self._field_values(exchange), strict=True))
        try:
            _access_logger.info(line, extra=fields)
        except Exception as error:  # noqa: BLE001 - handlers are the user's code
            self._failed(error)
        else:
            self._succeeded()

    def _failed(self, error: Exception) -> None:
        if not self._failing:
            self._failing = True
            # A handler of this logger may write to the same full disk; logging
            # itself keeps its handlers' errors away from us.
            _server_logger.error(
                "The access log can't be written, its lines are lost: %s", error
            )

    def _succeeded(self) -> None:
        if self._failing:
            self._failing = False
            _server_logger.warning("The access log is being written again.")


# Destinations


class _Output(Protocol):
    """Where batches of lines go."""

    def write(self, lines: bytes) -> None:
        """
        Write whole lines.

        Raises:
            OSError: Some or all of them are lost.
            ValueError: As ``OSError``, from a text stream that was closed.
        """

    def reopen(self) -> None:
        """
        Take the file that has the name now, where there is a name.

        Raises:
            OSError: It can't be opened; the old file stays in use.
        """

    def close(self) -> None:
        """Release what this output owns."""


class _DescriptorOutput:
    """
    A file descriptor: a file of ours, or the process's standard output.

    Several workers may append to one file or one pipe, so each write carries
    whole lines only, and on anything but a regular file at most as many bytes
    as a pipe takes in one piece.

    Args:
        path: The file to open and to own; None for a descriptor that is not ours.
        descriptor: Where to write, when there is no path.
        stream: The text stream which others use on the same descriptor.
    """

    def __init__(
        self,
        path: str | None,
        descriptor: int = -1,
        stream: TextIO | None = None,
    ) -> None:
        self._path = path
        self._stream = stream
        self._torn_line = b""
        self._descriptor = descriptor if path is None else _open_to_append(path)
        is_file = stat.S_ISREG(os.fstat(self._descriptor).st_mode)
        self._piece_bytes = sys.maxsize if is_file else _WHOLE_WRITE_BYTES

    def write(self, lines: bytes) -> None:
        if self._stream is not None:
            # What the application printed comes first, and not half of a line.
            self._stream.flush()
        data = self._torn_line + lines
        written = 0
        try:
            while written < len(data):
                end = _end_of_piece(data, written, self._piece_bytes)
                written += os.write(self._descriptor, data[written:end])
        except OSError:
            # A full disk may have taken half of a line. Its rest goes first when
            # there is room again, or the next line would be glued to the half.
            if written:
                begun = data[written - 1 : written] != b"\n"
                end = data.index(b"\n", written) + 1 if begun else written
                self._torn_line = data[written:end]
            raise
        self._torn_line = b""

    def reopen(self) -> None:
        if self._path is None:
            return
        descriptor = _open_to_append(self._path)
        os.close(self._descriptor)
        self._descriptor = descriptor
        self._torn_line = b""

    def close(self) -> None:
        if self._path is not None:
            os.close(self._descriptor)


class _StreamOutput:
    """A text stream without a descriptor, such as one that captures output."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def write(self, lines: bytes) -> None:
        if self._stream is None:
            raise OSError("there is no standard output")
        self._stream.write(lines.decode())
        self._stream.flush()

    def reopen(self) -> None:
        pass

    def close(self) -> None:
        pass


def _open_file(path: str) -> _Output:
    try:
        return _DescriptorOutput(path)
    except (OSError, ValueError) as error:  # ValueError: a null character
        reason = getattr(error, "strerror", None) or error
        raise SettingsError(f"access_log: can't open {path!r}: {reason}") from error


def _standard_output() -> _Output:
    stream: TextIO | None = sys.stdout
    try:
        # Typed as always there, but it is None without a console (pythonw).
        descriptor = sys.stdout.fileno()
        return _DescriptorOutput(None, descriptor, stream)
    except (AttributeError, OSError, ValueError):
        return _StreamOutput(stream)


def _open_to_append(path: str) -> int:
    # O_APPEND: the lines of several workers don't overwrite each other.
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)


def _end_of_piece(data: bytes, start: int, limit: int) -> int:
    """Where a write from ``start`` shall end: after a line, near ``limit`` bytes."""
    if len(data) - start <= limit:
        return len(data)
    after_last_line = data.rfind(b"\n", start, start + limit) + 1
    return after_last_line or data.index(b"\n", start) + 1


# Times


class _WallClock:
    """
    The local time as the formats write it, made anew once a second.

    An exchange is logged when it ends, so this is the time of its end.
    """

    __slots__ = ("_clf", "_clock", "_daphne", "_iso", "_second", "_zone")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._second = -1

    def daphne(self) -> str:
        """``20/Nov/2026:21:04:05``: Daphne writes no zone."""
        second = int(self._clock())
        if second != self._second:
            self._move_to(second)
        return self._daphne

    def clf(self) -> str:
        """``[20/Nov/2026:21:04:05 +0100]``, the common log format."""
        second = int(self._clock())
        if second != self._second:
            self._move_to(second)
        return self._clf

    def iso(self) -> str:
        """``2026-11-20T21:04:05.678+01:00``, ISO 8601 and RFC 3339."""
        now = self._clock()
        second = int(now)
        if second != self._second:
            self._move_to(second)
        return f"{self._iso}.{int((now - second) * 1000):03d}{self._zone}"

    def _move_to(self, second: int) -> None:
        self._second = second
        now = datetime.fromtimestamp(second, tz=timezone.utc).astimezone()
        month = _MONTHS[now.month - 1]
        zone = f"{now:%z}"
        self._daphne = f"{now:%d}/{month}/{now:%Y:%H:%M:%S}"
        self._clf = f"[{self._daphne} {zone}]"
        self._iso = f"{now:%Y-%m-%dT%H:%M:%S}"
        self._zone = f"{zone[:3]}:{zone[3:5]}"


# Line formats

_Render = Callable[[Exchange], str]
_FieldValue = str | int | float | None


def _compile(line_format: str, wall_clock: _WallClock) -> _Render:
    if line_format == "daphne":
        return _daphne_format(wall_clock)
    if line_format == "json":
        return _json_format(wall_clock)
    return _atom_format(line_format, wall_clock)


def _escaped(text: str) -> str:
    """Text which stays on its line and within its quotes; most is so already."""
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return text
    return text.encode("unicode_escape").decode("ascii").replace('"', '\\"')


def _escaped_bytes(value: bytes) -> str:
    return _escaped(value.decode("latin-1"))


def _last(headers: Headers, name: bytes) -> bytes | None:
    for header_name, value in reversed(headers):
        if header_name == name:
            return value
    return None


def _daphne_format(wall_clock: _WallClock) -> _Render:
    """``127.0.0.1:50778 - - [20/Nov/2026:21:04:05] "GET /a?b=1" 200 13``."""
    now = wall_clock.daphne

    def render(exchange: Exchange) -> str:
        client = exchange.client
        peer = "-" if client is None else f"{_escaped(str(client[0]))}:{client[1]}"
        return (
            f"{peer} - - [{now()}] "
            f'"{_escaped(exchange.method)} {_escaped_bytes(exchange.target)}" '
            f"{exchange.status or '-'} {exchange.body_bytes_sent or '-'}"
        )

    return render


# The keys of a JSON line and the attributes of a log record. Users' queries
# depend on them: add some, but never rename or remove one.
_FIELD_NAMES = (
    "time",
    "client",
    "client_port",
    "method",
    "path",
    "query",
    "http_version",
    "status",
    "bytes",
    "duration_ms",
    "host",
    "user_agent",
    "referer",
    "request_id",
)


def _field_values(
    wall_clock: _WallClock,
) -> Callable[[Exchange], tuple[_FieldValue, ...]]:
    """
    Make the function which gives the values of :data:`_FIELD_NAMES`.

    They are what the client sent, not escaped: only something that quotes them,
    as JSON does, may write them to a line.
    """
    now = wall_clock.iso

    def values(exchange: Exchange) -> tuple[_FieldValue, ...]:
        client = exchange.client
        path, _, query = exchange.target.partition(b"?")
        headers = dict(exchange.request_headers)
        header = headers.get
        request_id = header(b"x-request-id")
        if request_id is None:
            # Many applications number requests themselves and tell the client.
            request_id = _last(exchange.response_headers, b"x-request-id")
        return (
            now(),
            None if client is None else client[0],
            None if client is None else client[1],
            exchange.method,
            _text(path),
            _text(query),
            exchange.http_version,
            exchange.status or None,
            exchange.body_bytes_sent,
            round(exchange.duration * 1000, 3),
            _text(header(b"host")),
            _text(header(b"user-agent")),
            _text(header(b"referer")),
            _text(request_id),
        )

    return values


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "backslashreplace")


def _json_format(wall_clock: _WallClock) -> _Render:
    """One JSON object a line, ASCII, with the keys of :data:`_FIELD_NAMES`."""
    values = _field_values(wall_clock)
    # Not ``json.dumps``: 2.3 against 3.6 microseconds (timeit, CPython 3.13).
    template = "{" + ", ".join(f'"{name}": %s' for name in _FIELD_NAMES) + "}"

    def render(exchange: Exchange) -> str:
        return template % tuple(
            [
                "null"
                if value is None
                else encode_basestring_ascii(value)
                if isinstance(value, str)
                else value
                for value in values(exchange)
            ]
        )

    return render


_ATOM = re.compile(
    r"""
    %(?:
        (?P<percent>%)
        | \( (?P<atom>[a-zA-Z]) \) s
        | \( \{ (?P<header>[!#$%&'*+.^_`|~0-9A-Za-z-]+) \} (?P<side>[io]) \) s
    )?
    """,
    re.VERBOSE,
)


def _atom_format(line_format: str, wall_clock: _WallClock) -> _Render:
    """
    Compile a format string with the atoms of Gunicorn.

    Raises:
        SettingsError: It has an unknown atom, none at all, or a line break.
    """
    # Tabs are fine: they separate the fields of LTSV.
    if not line_format.replace("\t", " ").isprintable():
        raise SettingsError(
            f"access_log_format: {line_format!r} has a line break or another"
            " control character"
        )
    atoms = _atoms(wall_clock)
    template: list[str] = []
    getters: list[_Render] = []
    literal_start = 0
    for match in _ATOM.finditer(line_format):
        template.append(line_format[literal_start : match.start()])
        literal_start = match.end()
        if match["percent"]:
            template.append("%%")
            continue
        if match["header"]:
            getter: _Render | None = _header_getter(match["header"], match["side"])
        else:
            getter = atoms.get(match["atom"] or "")
        if getter is None:
            found = re.match(r"%(\([^)]*\)?)?.?", line_format[match.start() :])
            raise SettingsError(
                f"access_log_format: unknown atom {found[0] if found else '%'!r};"
                f" known are {' '.join(f'%({name})s' for name in atoms)}"
                " %({header}i)s %({header}o)s %%"
            )
        template.append("%s")
        getters.append(getter)
    template.append(line_format[literal_start:])
    if not getters:
        raise SettingsError(
            f"access_log_format: {line_format!r} is neither 'daphne' nor 'json' nor a"
            " text with atoms such as %(h)s"
        )
    joined = "".join(template)

    def render(exchange: Exchange) -> str:
        return joined % tuple([getter(exchange) for getter in getters])

    return render


def _atoms(wall_clock: _WallClock) -> dict[str, _Render]:
    return {
        "h": lambda exchange: (
            "-" if exchange.client is None else _escaped(str(exchange.client[0]))
        ),
        "l": lambda _: "-",
        "u": _basic_user,
        "t": lambda _: wall_clock.clf(),
        "r": lambda exchange: _escaped(
            f"{exchange.method} {exchange.target.decode('latin-1')}"
            f" HTTP/{exchange.http_version}"
        ),
        "m": lambda exchange: _escaped(exchange.method),
        "U": lambda exchange: _escaped_bytes(exchange.target.partition(b"?")[0]),
        "q": lambda exchange: _escaped_bytes(exchange.target.partition(b"?")[2]),
        "H": lambda exchange: _escaped(f"HTTP/{exchange.http_version}"),
        "s": lambda exchange: str(exchange.status or "-"),
        "b": lambda exchange: str(exchange.body_bytes_sent or "-"),
        "B": lambda exchange: str(exchange.body_bytes_sent),
        "f": _header_getter("referer", "i"),
        "a": _header_getter("user-agent", "i"),
        "T": lambda exchange: str(int(exchange.duration)),
        "M": lambda exchange: str(int(exchange.duration * 1_000)),
        "D": lambda exchange: str(int(exchange.duration * 1_000_000)),
        "L": lambda exchange: f"{exchange.duration:.6f}",
        # Asked each time: workers are forked.
        "p": lambda _: f"<{os.getpid()}>",
    }


def _header_getter(name: str, side: str) -> _Render:
    """A header field of the request (``i``) or the response (``o``), or ``-``."""
    wanted = name.lower().encode()

    def of_request(exchange: Exchange) -> str:
        value = _last(exchange.request_headers, wanted)
        return "-" if value is None else _escaped_bytes(value)

    def of_response(exchange: Exchange) -> str:
        value = _last(exchange.response_headers, wanted)
        return "-" if value is None else _escaped_bytes(value)

    return of_request if side == "i" else of_response


def _basic_user(exchange: Exchange) -> str:
    """The user name of Basic authentication (RFC 7617), unchecked, or ``-``."""
    value = _last(exchange.request_headers, b"authorization") or b""
    scheme, _, credentials = value.partition(b" ")
    if scheme.lower() != b"basic":
        return "-"
    try:
        user = base64.b64decode(credentials.strip(), validate=True).partition(b":")[0]
    except ValueError:
        return "-"
    # This atom commonly stands outside quotes: a space would forge a column.
    return _escaped_bytes(user).replace(" ", "\\x20") or "-"
