"""
The files of an application's response: which bytes of which file to send.

An application names a file by its path (``http.response.pathsend``) or hands
over an open one (``http.response.zerocopysend``). Either becomes a
:class:`FilePart`, checked before any of it is sent: a piece of a body that was
announced can't be taken back.

Source: the extensions page of ASGI, "Zero Copy Send" and path send.

Tests: ``tests/unit/asgi/test_response_files.py``.
"""

from __future__ import annotations

import io
import os
import stat
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daphne_like.errors import InvalidMessage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from daphne_like.asgi.types import Message

__all__ = ["FilePart", "opened"]

# The path is the application's, but what lies there may be anybody's: to open a
# FIFO must not wait for its other end. Regular files know no waiting.
_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_BINARY", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_NONBLOCK", 0)
)


@dataclass(frozen=True, slots=True)
class FilePart:
    """
    Bytes of an open file, all of which are there.

    Attributes:
        descriptor: Of the file; whoever opened it closes it.
        offset: Where the bytes begin.
        count: How many they are; may be 0.
        positioned: The file whose position is to move as if it had been read;
            ``None`` when the position has no part in it.
    """

    descriptor: int
    offset: int
    count: int
    positioned: Any = None

    @classmethod
    def of(cls, message: Message) -> FilePart:
        """
        Find what a zero-copy message means.

        Raises:
            InvalidMessage: Its file isn't an open regular one, or a number of
                it is none.
        """
        file: Any = message.get("file")
        offset, count = _number(message, "offset"), _number(message, "count")
        try:
            descriptor: int = file if type(file) is int else file.fileno()
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise InvalidMessage(f"{file!r} is no regular file")
            positioned = file if offset is None else None
            if offset is None:
                offset = _position(file)
        except (AttributeError, OSError, OverflowError, TypeError, ValueError) as error:
            raise InvalidMessage(
                "http.response.zerocopysend: file must be an open regular file: "
                f"{error}"
            ) from None
        # As os.sendfile does, send what there is when more is asked for.
        rest = max(status.st_size - offset, 0)
        return cls(
            descriptor, offset, rest if count is None else min(count, rest), positioned
        )

    def advance(self) -> None:
        """Move the file's position behind the part, if it began at the position."""
        file, end = self.positioned, self.offset + self.count
        if isinstance(file, io.IOBase):
            file.seek(end)
        elif file is not None:
            os.lseek(self.descriptor, end, os.SEEK_SET)


@contextmanager
def opened(path: object) -> Iterator[FilePart]:
    """
    Open the file at an absolute path, whole, for as long as it is being sent.

    Raises:
        InvalidMessage: The path isn't absolute, or what is there isn't a
            regular file.
        OSError: The file can't be opened.
    """
    if not isinstance(path, str) or not Path(path).is_absolute():
        raise _bad_path("must be a str with an absolute path, not", path)
    try:
        descriptor = os.open(path, _FLAGS)
    except ValueError as error:  # a NUL in it
        raise _bad_path(f"can't be used, {error}:", path) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise _bad_path("must lead to a regular file, unlike", path)
        yield FilePart(descriptor, 0, status.st_size)
    finally:
        os.close(descriptor)


def _position(file: Any) -> int:
    """Tell where reading would go on; a buffered file has read beyond that."""
    if isinstance(file, io.IOBase):
        return file.tell()
    return os.lseek(file if type(file) is int else file.fileno(), 0, os.SEEK_CUR)


def _number(message: Message, key: str) -> int | None:
    value = message.get(key)
    if value is None or (type(value) is int and value >= 0):
        return value
    raise InvalidMessage(
        f"http.response.zerocopysend: {key} must be an integer of at least 0, "
        f"not {value!r}"
    )


def _bad_path(what: str, path: object) -> InvalidMessage:
    return InvalidMessage(f"http.response.pathsend: path {what} {path!r}")
