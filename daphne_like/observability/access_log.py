"""
The access log: one line for each exchange that has ended.

:class:`AccessLog` collects the lines which
:mod:`~daphne_like.observability.log_formats` makes, and hands them to their
destination in batches, since a system call for each request would cost more
than all the rest of the log.

Tests: ``tests/unit/test_access_log.py``.
"""

from __future__ import annotations

import logging
import os
import select
import stat
import sys
import time
from collections.abc import Callable
from typing import Protocol, TextIO

from daphne_like.errors import SettingsError
from daphne_like.observability.log_formats import (
    FIELD_NAMES,
    Exchange,
    WallClock,
    compile_format,
    daphne_websocket_format,
    field_values,
)

__all__ = ["AccessLog"]

_access_logger = logging.getLogger("daphne_like.access")
_server_logger = logging.getLogger("daphne_like.server")

# Pending lines are written at the latest when there are that many characters
# of them. They are ASCII, except for what the operator's own format says.
_FLUSH_CHARACTERS = 64 * 1024

# POSIX: "Write requests of {PIPE_BUF} bytes or less shall not be interleaved
# with data from other processes doing writes on the same pipe." 512 is the
# least which POSIX allows; a system without the constant has no such pipes.
_WHOLE_WRITE_BYTES: int = getattr(select, "PIPE_BUF", 512)


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
        request_id_header: The header field with the id of a request.
        clock: Seconds since the epoch.

    Raises:
        SettingsError: The format can't be understood, or the file not opened.
    """

    def __init__(
        self,
        destination: str,
        line_format: str = "daphne",
        *,
        request_id_header: str = "X-Request-ID",
        clock: Callable[[], float] = time.time,
    ) -> None:
        wall_clock = WallClock(clock)
        id_name = request_id_header.lower().encode()
        self._field_values = field_values(wall_clock, id_name)
        self._line = compile_format(line_format, wall_clock, id_name)
        self._websocket_line: Callable[[Exchange, str], str] | None = None
        if line_format == "daphne":
            self._websocket_line = daphne_websocket_format(wall_clock)
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
            if _access_logger.isEnabledFor(logging.INFO):
                self._emit_record(exchange, self._line(exchange))
            return
        line = self._line(exchange)
        self._pending.append(line)
        self._pending_characters += len(line)
        if self._pending_characters >= _FLUSH_CHARACTERS:
            self.flush()

    def websocket_changed(self, exchange: Exchange, event: str) -> None:
        """
        Log a step in the life of a WebSocket: each in Daphne's format, else the end.

        Args:
            exchange: Its handshake, and how long ago that was.
            event: ``CONNECTING``, ``CONNECT``, ``REJECT`` or ``DISCONNECT``.
        """
        if self._websocket_line is None:
            if event == "DISCONNECT":
                self.exchange_ended(exchange)
        elif not self._to_logger:
            line = self._websocket_line(exchange, event)
            self._pending.append(line)
            self._pending_characters += len(line)
        elif _access_logger.isEnabledFor(logging.INFO):
            self._emit_record(exchange, self._websocket_line(exchange, event))

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

    def _emit_record(self, exchange: Exchange, line: str) -> None:
        fields = dict(zip(FIELD_NAMES, self._field_values(exchange), strict=True))
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
