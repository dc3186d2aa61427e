"""
The line formats of the access log.

A format is compiled once, when the server starts, into a function from an
:class:`Exchange` to a line of text. Whatever a client sent is escaped, so that
it can neither end a line nor leave the quotes around it (CWE-117): the text
formats write quotes, backslashes, control characters and non-ASCII bytes as
Apache does, JSON as RFC 8259 section 7 asks.

Tests: ``tests/unit/test_access_log.py``.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from json.encoder import encode_basestring_ascii
from typing import Protocol

from daphne_like.errors import SettingsError

__all__ = [
    "FIELD_NAMES",
    "Exchange",
    "ExchangeLog",
    "Render",
    "WallClock",
    "compile_format",
    "daphne_websocket_format",
    "escaped_bytes",
    "field_values",
]

Headers = Sequence[tuple[bytes, bytes]]

_MOST_PEERS = 1024

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


class ExchangeLog(Protocol):
    """What hears of exchanges: the access log, for one."""

    def exchange_ended(self, exchange: Exchange) -> None:
        """Hear that a response has ended, or was broken off."""

    def websocket_changed(self, exchange: Exchange, event: str) -> None:
        """
        Hear of a step in the life of a WebSocket.

        Args:
            exchange: Its handshake, and how long ago that was.
            event: ``CONNECTING``, ``CONNECT``, ``REJECT`` or ``DISCONNECT``.
        """


# Times


class WallClock:
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

Render = Callable[[Exchange], str]
_FieldValue = str | int | float | None


def compile_format(
    line_format: str, wall_clock: WallClock, request_id_name: bytes = b"x-request-id"
) -> Render:
    """
    Make the function for a format: ``daphne``, ``json``, or a text with atoms.

    Args:
        line_format: The format.
        wall_clock: Tells the time.
        request_id_name: The header field with the id of a request, in lower case.

    Raises:
        SettingsError: The format can't be understood.
    """
    if line_format == "daphne":
        return _daphne_format(wall_clock)
    if line_format == "json":
        return _json_format(wall_clock, request_id_name)
    return _atom_format(line_format, wall_clock)


def _escaped(text: str) -> str:
    """Text which stays on its line and within its quotes; most is so already."""
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return text
    return text.encode("unicode_escape").decode("ascii").replace('"', '\\"')


def escaped_bytes(value: bytes) -> str:
    """Return what a client sent as text that neither ends a line nor leaves quotes."""
    return _escaped(value.decode("latin-1"))


def _last(headers: Headers, name: bytes) -> bytes | None:
    for header_name, value in reversed(headers):
        if header_name == name:
            return value
    return None


def _daphne_format(wall_clock: WallClock) -> Render:
    """``127.0.0.1:50778 - - [20/Nov/2026:21:04:05] "GET /a?b=1" 200 13``."""
    now, peers = wall_clock.daphne, _Peers()

    def render(exchange: Exchange) -> str:
        # What was refused before it was a request has neither.
        method, target = exchange.method or "-", exchange.target or b"-"
        request = f"{method} {target.decode('latin-1')}"
        # As in _escaped, whose call is saved for most.
        if not (request.isascii() and request.isprintable()) or (
            '"' in request or "\\" in request
        ):
            request = _escaped(request)
        return (
            f'{peers[exchange.client]} - - [{now()}] "{request}" '
            f"{exchange.status or '-'} {exchange.body_bytes_sent or '-'}"
        )

    return render


def daphne_websocket_format(wall_clock: WallClock) -> Callable[[Exchange, str], str]:
    """``127.0.0.1:50778 - - [20/Nov/2026:21:04:05] "WSCONNECT /a" - -``."""
    now, peers = wall_clock.daphne, _Peers()

    def render(exchange: Exchange, event: str) -> str:
        path = escaped_bytes(exchange.target.partition(b"?")[0])
        return f'{peers[exchange.client]} - - [{now()}] "WS{event} {path}" - -'

    return render


class _Peers(dict[Sequence[str | int] | None, str]):
    """Addresses of clients as text; those of the latest ones are kept."""

    def __missing__(self, client: Sequence[str | int] | None) -> str:
        if len(self) >= _MOST_PEERS:
            self.clear()
        text = "-" if client is None else f"{_escaped(str(client[0]))}:{client[1]}"
        self[client] = text
        return text


# The keys of a JSON line and the attributes of a log record. Users' queries
# depend on them: add some, but never rename or remove one.
FIELD_NAMES = (
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


def field_values(
    wall_clock: WallClock, request_id_name: bytes = b"x-request-id"
) -> Callable[[Exchange], tuple[_FieldValue, ...]]:
    """
    Make the function which gives the values of :data:`FIELD_NAMES`.

    They are what the client sent, not escaped: only something that quotes them,
    as JSON does, may write them to a line.
    """
    now = wall_clock.iso

    def values(exchange: Exchange) -> tuple[_FieldValue, ...]:
        client = exchange.client
        path, _, query = exchange.target.partition(b"?")
        headers = dict(exchange.request_headers)
        header = headers.get
        request_id = header(request_id_name)
        if request_id is None:
            # Many applications number requests themselves and tell the client.
            request_id = _last(exchange.response_headers, request_id_name)
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


def _json_format(wall_clock: WallClock, request_id_name: bytes) -> Render:
    """One JSON object a line, ASCII, with the keys of :data:`FIELD_NAMES`."""
    values = field_values(wall_clock, request_id_name)
    # Not ``json.dumps``: 2.3 against 3.6 microseconds (timeit, CPython 3.13).
    template = "{" + ", ".join(f'"{name}": %s' for name in FIELD_NAMES) + "}"

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


def _atom_format(line_format: str, wall_clock: WallClock) -> Render:
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
    getters: list[Render] = []
    literal_start = 0
    for match in _ATOM.finditer(line_format):
        template.append(line_format[literal_start : match.start()])
        literal_start = match.end()
        if match["percent"]:
            template.append("%%")
            continue
        if match["header"]:
            getter: Render | None = _header_getter(match["header"], match["side"])
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


def _atoms(wall_clock: WallClock) -> dict[str, Render]:
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
        "U": lambda exchange: escaped_bytes(exchange.target.partition(b"?")[0]),
        "q": lambda exchange: escaped_bytes(exchange.target.partition(b"?")[2]),
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


def _header_getter(name: str, side: str) -> Render:
    """A header field of the request (``i``) or the response (``o``), or ``-``."""
    wanted = name.lower().encode()

    def of_request(exchange: Exchange) -> str:
        value = _last(exchange.request_headers, wanted)
        return "-" if value is None else escaped_bytes(value)

    def of_response(exchange: Exchange) -> str:
        value = _last(exchange.response_headers, wanted)
        return "-" if value is None else escaped_bytes(value)

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
    return escaped_bytes(user).replace(" ", "\\x20") or "-"
