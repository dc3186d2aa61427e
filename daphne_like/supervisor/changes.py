"""
Which source files change: a program of its own, beside the supervisor.

The supervisor forks, and a library that watches files has threads, so both don't go
together in one process. This one is told on its command line what to watch, writes
a line of JSON to its standard output for each group of changes, and ends when its
standard input does.

watchfiles learns of changes from the system. Where it isn't installed, or can't
watch, the files are looked at again and again.

Tests: ``tests/unit/supervisor/test_changes.py``.
"""

from __future__ import annotations

import fnmatch
import importlib.util
import json
import os
import re
import select
import sys
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = [
    "MOST_PATHS",
    "Ending",
    "FileState",
    "Lifeline",
    "Selection",
    "main",
    "poll",
    "run",
    "scan",
    "watch",
]

MOST_PATHS = 20
"""How many paths are told of one group of changes; a branch has many."""

FileState = tuple[int, int, int]
"""What differs when a file does: time of change, size, and its identity."""

_ALWAYS_INCLUDED = ("*.py",)

# Tools write there, and nobody edits by hand; links there lead far away.
_NEVER_ENTERED = (".*", "__pycache__", "node_modules")

# Writing may go on for ever, as by a build; then it is told of meanwhile.
_LONGEST_GROUP = 2.0

# How often files are looked at: soon enough for whoever has just saved one, and at
# most for a tenth of the time where there are many.
_POLL_INTERVAL = 0.5
_POLL_SHARE = 10

# For a delay of 0, too, since watchfiles would turn in circles.
_SHORTEST_STEP = 0.05


class Ending(Protocol):
    """Whether whoever wants to know of changes is still there."""

    def is_set(self) -> bool:
        """Tell whether it is time to end."""


class Lifeline(Ending, Protocol):
    """The same, for those who wait by themselves."""

    def wait(self, seconds: float) -> bool:
        """Wait; tell whether it is time to end, as soon as it is."""


class Selection:
    """
    Which files count.

    A pattern without a slash is for names, of files and of directories on the way
    to them; one with a slash for the path below a watched directory, or for the
    whole path.

    Args:
        directories: Where files are, each with its directories.
        include: Patterns of files beside ``*.py``; hidden ones, too.
        exclude: Patterns of files and directories which don't count, come what may.

    Attributes:
        directories: The same, absolute and without links.
    """

    def __init__(
        self,
        directories: Iterable[str],
        include: Iterable[str] = (),
        exclude: Iterable[str] = (),
    ) -> None:
        # As systems tell of changes: macOS resolves links.
        self.directories = tuple(
            dict.fromkeys(os.path.realpath(directory) for directory in directories)
        )
        self._by_default = _matcher(_ALWAYS_INCLUDED)
        self._hidden = _matcher(_NEVER_ENTERED)
        self._included = _matcher(include)
        self._excluded = _matcher(exclude)

    def counts(self, path: str) -> bool:
        """Tell whether a change of a file is one which matters."""
        return any(
            (
                self._included(path, below)
                or (self._by_default(path, below) and not self._hidden(path, below))
            )
            and not self._excluded(path, below)
            and self._leads(path, below)
            for below in self._below(path)
        )

    def enters(self, directory: str) -> bool:
        """Tell whether files of a directory may count."""
        return any(
            self._leads(directory, below + "/") for below in self._below(directory)
        )

    def _below(self, path: str) -> Iterator[str]:
        """Yield the path from each watched directory above it, with slashes."""
        for root in self.directories:
            prefix = root if root.endswith(os.sep) else root + os.sep
            if path.startswith(prefix):
                yield path[len(prefix) :].replace(os.sep, "/")

    def _leads(self, path: str, below: str) -> bool:
        """Tell whether no directory on the way is one which isn't entered."""
        root = path.removesuffix(below.rstrip("/").replace("/", os.sep))
        end = below.find("/")
        while end != -1:
            way = below[:end]
            if self._hidden(root + way, way) or self._excluded(root + way, way):
                return False
            end = below.find("/", end + 1)
        return True


def scan(
    selection: Selection, directories: Iterable[str] | None = None
) -> dict[str, FileState]:
    """
    Look at all files that count; what can't be looked at isn't there.

    Args:
        selection: Which files count.
        directories: Where to look, instead of everywhere.
    """
    found = {}
    pending = [*(selection.directories if directories is None else directories)]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    # Links to directories may lead in circles.
                    if entry.is_dir(follow_symlinks=False):
                        if selection.enters(entry.path):
                            pending.append(entry.path)
                    elif selection.counts(entry.path):
                        state = _state(entry)
                        if state is not None:
                            found[entry.path] = state
        except OSError:
            continue
    return found


def poll(
    selection: Selection,
    delay: float,
    lifeline: Lifeline,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[set[str]]:
    """
    Yield groups of paths that have changed, by looking again and again.

    Args:
        selection: Which files count.
        delay: Seconds without a change which end a group.
        lifeline: Waits, and tells when this is to end.
        clock: Tells seconds.
    """
    started = clock()
    before = scan(selection)
    group: set[str] = set()
    group_ends = 0.0
    while not lifeline.wait(
        max(delay if group else _POLL_INTERVAL, _POLL_SHARE * (clock() - started))
    ):
        started = clock()
        now = scan(selection)
        changed = {
            path for path in before.keys() | now if before.get(path) != now.get(path)
        }
        before = now
        if changed and not group:
            group_ends = started + _LONGEST_GROUP
        group |= changed
        if group and (not changed or started >= group_ends):
            yield group
            group = set()


def watch(selection: Selection, delay: float, lifeline: Ending) -> Iterator[set[str]]:
    """
    Yield groups of paths that have changed, as the system tells of them.

    Args:
        selection: Which files count.
        delay: Seconds without a change which end a group.
        lifeline: Tells when this is to end.

    Raises:
        ImportError: watchfiles isn't installed.
        OSError: The system doesn't watch so many directories.
    """
    import watchfiles

    new = watchfiles.Change.added

    def matters(change: watchfiles.Change, path: str) -> bool:
        return selection.counts(path) or (
            change == new and os.path.isdir(path) and selection.enters(path)  # noqa: PTH112
        )

    for changes in watchfiles.watch(
        *selection.directories,
        watch_filter=matters,
        step=int(1000 * max(delay, _SHORTEST_STEP)),
        debounce=int(1000 * max(2 * delay, _LONGEST_GROUP)),
        stop_event=lifeline,
        raise_interrupt=False,
        ignore_permission_denied=True,
    ):
        group = {path for _, path in changes}
        # What came into a new directory before the system was asked to watch that.
        directories = {path for path in group if not selection.counts(path)}
        group = group - directories | scan(selection, directories).keys()
        if group:
            yield group


def run(
    selection: Selection,
    delay: float,
    lifeline: Lifeline,
    tell: Callable[[dict[str, Any]], None],
) -> None:
    """
    Tell of changes until it is time to end.

    Args:
        selection: Which files count.
        delay: Seconds without a change which end a group.
        lifeline: Waits, and tells when this is to end.
        tell: Is told first ``watching``, how it is done, and why; then of each
            group ``changed``, some of its paths, and how many ``more`` there are.
    """
    try:
        for group in watch(selection, delay, _Announcing(lifeline, tell)):
            _forget_bytecode(group)
            tell(_message(group))
    except ImportError:
        reason = "with watchfiles: pip install daphne-like[reload]"
    except Exception as error:  # noqa: BLE001
        # That of the system, or watchfiles' own for the same.
        reason = f"watchfiles can't: {error}"
    else:
        return
    tell({"watching": "polling", "because": reason})
    for group in poll(selection, delay, lifeline):
        _forget_bytecode(group)
        tell(_message(group))


def _forget_bytecode(group: Iterable[str]) -> None:
    """
    Remove what Python has kept of older sources.

    It compares seconds and sizes, so that a file which is saved twice in a second,
    with a worker in between, may be the older one for ever.
    """
    for path in group:
        if path.endswith(".py"):
            with suppress(OSError, NotImplementedError):
                os.unlink(importlib.util.cache_from_source(path))  # noqa: PTH108


class _Announcing:
    """Tells that watching has begun: watchfiles then asks whether it is to end."""

    def __init__(
        self, lifeline: Ending, tell: Callable[[dict[str, Any]], None]
    ) -> None:
        self._lifeline = lifeline
        self._tell = tell
        self._told = False

    def is_set(self) -> bool:
        if not self._told:
            self._told = True
            self._tell({"watching": "watchfiles"})
        return self._lifeline.is_set()


def _message(group: set[str]) -> dict[str, Any]:
    paths = sorted(group)
    return {"changed": paths[:MOST_PATHS], "more": len(paths[MOST_PATHS:])}


def _matcher(patterns: Iterable[str]) -> Callable[[str, str], bool]:
    """Return what tells whether a path, also known below a root, fits a pattern."""
    names, ways = [], []
    for pattern in patterns:
        plain = pattern.removeprefix("./").rstrip("/")
        if "/" in plain:
            # ** stands for no directory, too.
            ways += [plain, plain.replace("**/", "")]
        else:
            names.append(plain)
    fits_name, fits_way = _regex(names), _regex(ways)

    def fits(path: str, below: str) -> bool:
        return bool(
            fits_name(below.rpartition("/")[2])
            or (ways and (fits_way(below) or fits_way(path.replace(os.sep, "/"))))
        )

    return fits


def _regex(patterns: Sequence[str]) -> Callable[[str], object]:
    alternatives = "|".join(fnmatch.translate(pattern) for pattern in patterns)
    return re.compile(alternatives or "(?!)").match


def _state(entry: os.DirEntry[str]) -> FileState | None:
    try:
        status = entry.stat()
    except OSError:
        return None  # gone meanwhile, or a link to nothing
    return status.st_mtime_ns, status.st_size, status.st_ino


# -- The program ---------------------------------------------------------------


class _StandardInput:
    """Ends when whoever started this program has, or wants it to."""

    def is_set(self) -> bool:
        return self.wait(0)

    def wait(self, seconds: float) -> bool:
        return bool(select.select([sys.stdin], [], [], seconds)[0])


def main(arguments: Sequence[str]) -> None:
    """
    Tell of changes on standard output until standard input ends.

    Args:
        arguments: One, the settings as JSON.
    """
    settings = json.loads(arguments[0])
    selection = Selection(
        settings["directories"], settings["include"], settings["exclude"]
    )

    def tell(message: dict[str, Any]) -> None:
        try:
            sys.stdout.write(json.dumps(message) + "\n")
            sys.stdout.flush()
        except BrokenPipeError:
            os._exit(0)

    run(selection, settings["delay"], _StandardInput(), tell)
