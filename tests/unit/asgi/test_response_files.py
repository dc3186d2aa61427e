"""Tests of ``daphne_like.asgi.response_files``."""

from __future__ import annotations

import io
import os
import socket
import tempfile
from pathlib import Path
from typing import Any

import pytest

from daphne_like.asgi.response_files import FilePart, opened
from daphne_like.errors import InvalidMessage


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A file of 100 bytes."""
    page = tmp_path / "page"
    page.write_bytes(b"0123456789" * 10)
    return page


def part_of(file: object, **numbers: Any) -> FilePart:
    """Read a zero-copy message."""
    return FilePart.of({"type": "http.response.zerocopysend", "file": file, **numbers})


def open_descriptors() -> int:
    """Count the descriptors of this process."""
    return sum(1 for _ in Path("/dev/fd").iterdir())


# -- By path -----------------------------------------------------------------


def test_opened(page: Path) -> None:
    """A file is open, whole, for as long as it is needed (E6)."""
    before = open_descriptors()

    with opened(str(page)) as part:
        assert (0, 100) == (part.offset, part.count)
        assert page.read_bytes() == os.pread(part.descriptor, 1000, 0)
        part.advance()

    assert before == open_descriptors()


def test_opened_is_closed_after_an_error(page: Path) -> None:
    """A response that breaks off leaks no descriptor (E6)."""
    before = open_descriptors()

    with pytest.raises(KeyError), opened(str(page)):
        raise KeyError

    assert before == open_descriptors()


@pytest.mark.parametrize("path", ["", "page", "./page", "../page", None, 5, b"/etc"])
def test_path_that_is_not_absolute(path: Any) -> None:
    """What the current directory decides isn't sent (E7)."""
    with (
        pytest.raises(InvalidMessage, match="must be a str with an absolute path"),
        opened(path),
    ):
        pass


def test_path_with_nul(tmp_path: Path) -> None:
    """A path which the system can't have is refused like others (E7)."""
    with pytest.raises(InvalidMessage, match="null"), opened(f"{tmp_path}/a\0b"):
        pass


@pytest.mark.parametrize("kind", ["directory", "fifo", "device", "socket"])
def test_path_of_something_else(tmp_path: Path, kind: str) -> None:
    """Nothing but a regular file is sent, and nothing is waited for (E7)."""
    before = open_descriptors()
    where = tmp_path / "x"
    if kind == "directory":
        where.mkdir()
    elif kind == "fifo":
        os.mkfifo(where)
    elif kind == "device":
        where = Path("/dev/null")
    else:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(str(where))

    with pytest.raises((InvalidMessage, OSError)), opened(str(where)):
        pass

    assert before == open_descriptors()


def test_path_of_nothing(tmp_path: Path) -> None:
    """The system's own error tells what is missing (E7)."""
    with pytest.raises(FileNotFoundError), opened(str(tmp_path / "missing")):
        pass


def test_symbolic_link(page: Path) -> None:
    """A link is as good as the file (E6)."""
    link = page.with_name("link")
    link.symlink_to(page)

    with opened(str(link)) as part:
        assert 100 == part.count


# -- Open files --------------------------------------------------------------


@pytest.mark.parametrize(
    ("numbers", "offset", "count"),
    [
        ({}, 3, 97),
        ({"count": 5}, 3, 5),
        ({"count": 0}, 3, 0),
        ({"count": 200}, 3, 97),
        ({"offset": 0}, 0, 100),
        ({"offset": 90}, 90, 10),
        ({"offset": 90, "count": 5}, 90, 5),
        ({"offset": 90, "count": 50}, 90, 10),
        ({"offset": 100}, 100, 0),
        ({"offset": 500}, 500, 0),
        ({"offset": 500, "count": 5}, 500, 0),
        ({"offset": None, "count": None}, 3, 97),
    ],
)
@pytest.mark.parametrize("buffering", [-1, 0])
def test_part(
    page: Path, numbers: dict[str, Any], offset: int, count: int, buffering: int
) -> None:
    """Without an offset a part begins at the position; it ends with the file (E4)."""
    with page.open("rb", buffering=buffering) as file:
        file.read(3)

        part = part_of(file, **numbers)
        assert (file.fileno(), offset, count) == (
            part.descriptor,
            part.offset,
            part.count,
        )
        part.advance()

        moved = numbers.get("offset") is None
        assert (offset + count if moved else 3) == file.tell()
        assert page.read_bytes()[file.tell() :] == file.read()


def test_part_of_a_descriptor(page: Path) -> None:
    """A descriptor has a position, too (E4)."""
    descriptor = os.open(page, os.O_RDONLY)
    os.lseek(descriptor, 10, os.SEEK_SET)

    part = part_of(descriptor, count=5)
    part.advance()

    assert (10, 5) == (part.offset, part.count)
    assert 15 == os.lseek(descriptor, 0, os.SEEK_CUR)
    os.close(descriptor)


def test_part_of_a_temporary_file() -> None:
    """Objects that only wrap a file will do, once written out (E4)."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"0123456789")
        file.seek(2)

        part = part_of(file)
        part.advance()

        assert (2, 8) == (part.offset, part.count)
        assert b"" == file.read()


class WithoutDescriptor:
    """What isn't a file."""


class OddDescriptor:
    """A file without a descriptor."""

    def fileno(self) -> object:
        """Return none."""
        return None


@pytest.mark.parametrize(
    "file",
    [
        None,
        True,
        "path",
        -1,
        10**6,
        2**70,
        io.BytesIO(b"bytes"),
        WithoutDescriptor(),
        OddDescriptor(),
    ],
    # No addresses: an id has to be the same in each process.
    ids=["None", "True", "path", "-1", "closed", "huge", "BytesIO", "without", "odd"],
)
@pytest.mark.parametrize("numbers", [{}, {"offset": 0, "count": 5}], ids=repr)
def test_no_open_file(file: object, numbers: dict[str, int]) -> None:
    """Only what has an open descriptor can be sent (C8, E4)."""
    with pytest.raises(InvalidMessage, match="file must be an open regular file"):
        part_of(file, **numbers)


@pytest.mark.parametrize("numbers", [{}, {"offset": 0, "count": 5}], ids=repr)
def test_pipe_and_closed_file(page: Path, numbers: dict[str, int]) -> None:
    """Bytes that can't be counted beforehand aren't announced (C8, E4)."""
    reader, writer = os.pipe()
    with page.open("rb") as closed:
        pass

    for file in (reader, closed):
        with pytest.raises(InvalidMessage, match="file must be an open regular file"):
            part_of(file, **numbers)
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("key", ["offset", "count"])
@pytest.mark.parametrize("value", [-1, 1.0, "1", True, [], 10**3 * 1j], ids=repr)
def test_numbers_that_are_none(page: Path, key: str, value: object) -> None:
    """What would be a broken framing later is an error now (C8, E4)."""
    with (
        page.open("rb") as file,
        pytest.raises(InvalidMessage, match=f"{key} must be an integer of at least 0"),
    ):
        part_of(file, **{key: value})
