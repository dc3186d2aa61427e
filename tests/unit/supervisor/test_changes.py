"""Which changes of files matter, and how they are noticed."""

from __future__ import annotations

import json
import os
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from daphne_like.supervisor import changes
from daphne_like.supervisor.changes import (
    MOST_PATHS,
    Selection,
    main,
    poll,
    run,
    scan,
    watch,
)


def write(folder: Path, name: str, text: str = "") -> str:
    """Write a file and the folders it needs; return its path."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")
    return str(path)


def names_found(folder: Path, *include: str, exclude: Sequence[str] = ()) -> set[str]:
    """Tell which files of a folder count, by their paths below it."""
    found = scan(Selection([str(folder)], include, exclude))
    return {Path(path).relative_to(folder).as_posix() for path in found}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a folder for a project, by the name the system has for it."""
    return Path(os.path.realpath(tmp_path))


# -- Which files count ----------------------------------------------------------


def test_python_files_count(folder: Path) -> None:
    """Without options, all modules of a project are watched, and nothing else."""
    for name in ("main.py", "package/views.py", "page.html", "package/data.json"):
        write(folder, name)

    assert {"main.py", "package/views.py"} == names_found(folder)


@pytest.mark.parametrize(
    "name",
    [
        ".#main.py",
        ".venv/lib/site.py",
        ".git/hooks/hook.py",
        "node_modules/tool/setup.py",
        "package/__pycache__/main.py",
    ],
)
def test_what_tools_write_does_not_count(folder: Path, name: str) -> None:
    """Lock files of editors, environments and caches restart nothing."""
    write(folder, name)

    assert set() == names_found(folder)


@pytest.mark.parametrize(
    ("pattern", "counts"),
    [
        ("*.html", {"templates/a.html", "templates/admin/b.html"}),
        ("templates/*.html", {"templates/a.html", "templates/admin/b.html"}),
        ("**/b.html", {"templates/admin/b.html"}),
        ("templates/**/a.html", {"templates/a.html"}),
        ("./settings.toml", {"settings.toml"}),
        (".env", {".env"}),
        ("[", set[str]()),
    ],
)
def test_more_files_can_be_included(
    folder: Path, pattern: str, counts: set[str]
) -> None:
    """A pattern names files, by name or by path, hidden ones too, beside *.py."""
    for name in (
        *("main.py", ".env", "settings.toml"),
        *("templates/a.html", "templates/admin/b.html"),
    ):
        write(folder, name)

    assert {"main.py"} | counts == names_found(folder, pattern)


@pytest.mark.parametrize(
    "pattern", ["generated", "generated/", "./generated", "app/generated", "gen*"]
)
def test_directories_can_be_excluded(folder: Path, pattern: str) -> None:
    """All below an excluded directory is excluded, even what else is included."""
    for name in ("app/main.py", "app/generated/a.py", "app/generated/deep/b.html"):
        write(folder, name)

    assert {"app/main.py"} == names_found(folder, "*.html", exclude=[pattern])


def test_an_absolute_path_can_be_excluded(folder: Path) -> None:
    """A shell completes paths to whole ones."""
    write(folder, "main.py")
    write(folder, "big/other.py")

    assert {"main.py"} == names_found(folder, exclude=[f"{folder}/big"])


def test_a_file_can_be_excluded(folder: Path) -> None:
    """A file which the application itself writes restarts nothing."""
    write(folder, "main.py")
    write(folder, "version.py")

    assert {"main.py"} == names_found(folder, exclude=["version.py"])


def test_a_hidden_directory_can_be_watched_itself(folder: Path) -> None:
    """Only what is below the watched directory can be hidden, not where it is."""
    write(folder, ".work/project/main.py")

    assert {"main.py"} == names_found(folder / ".work" / "project")


def test_changes_elsewhere_do_not_count(folder: Path) -> None:
    """A directory whose name begins alike is another one."""
    selection = Selection([str(folder / "app")])

    assert selection.counts(str(folder / "app" / "main.py"))
    assert not selection.counts(str(folder / "app2" / "main.py"))
    assert not selection.counts(str(folder / "app"))


def test_the_root_directory_can_be_watched() -> None:
    """A container may have its application there."""
    assert Selection(["/"]).counts("/main.py")


def test_links_in_circles_are_not_followed(folder: Path) -> None:
    """A link to a directory above it doesn't keep the search going for ever."""
    write(folder, "main.py")
    (folder / "self").symlink_to(folder)
    (folder / "gone.py").symlink_to(folder / "nowhere")

    assert {"main.py"} == names_found(folder)


def test_a_directory_that_vanishes_is_no_error(folder: Path) -> None:
    """Whatever happens to the files, watching goes on."""
    assert {} == scan(Selection([str(folder / "nowhere")]))


# -- Polling --------------------------------------------------------------------


class Scripted:
    """
    A lifeline whose waits are the steps of a test, on a clock of its own.

    Attributes:
        now: The time.
        waits: How long was waited each time.
    """

    def __init__(self, *steps: Callable[[], object]) -> None:
        self._steps = list(steps)
        self.now = 100.0
        self.waits: list[float] = []

    def is_set(self) -> bool:
        """Tell whether the steps are done."""
        return not self._steps

    def wait(self, seconds: float) -> bool:
        """Do the next step; end after the last."""
        self.now += seconds
        self.waits.append(seconds)
        if not self._steps:
            return True
        self._steps.pop(0)()
        return False

    def clock(self) -> float:
        """Tell the time."""
        return self.now


def nothing() -> None:
    """Let a look show no change."""


def polled(folder: Path, lifeline: Scripted, delay: float = 0.25) -> list[set[str]]:
    """Poll until the script is over."""
    return list(poll(Selection([str(folder)]), delay, lifeline, lifeline.clock))


@pytest.mark.parametrize("change", ["new", "changed", "moved", "deleted"])
def test_each_kind_of_change_is_noticed(folder: Path, change: str) -> None:
    """A file that comes, changes, is replaced or goes is one change."""
    path = write(folder, "main.py", "x = 1")
    other = folder / "other.py"

    def act() -> None:
        if change == "new":
            write(folder, "other.py")
        elif change == "changed":
            write(folder, "main.py", "x = 22")
        elif change == "moved":
            Path(write(folder, "main.tmp", "x = 1")).rename(path)
        else:
            Path(path).unlink()

    groups = polled(folder, Scripted(nothing, act, nothing, nothing))

    assert [{str(other) if change == "new" else path}] == groups


def test_an_editor_that_writes_in_steps_causes_one_reload(folder: Path) -> None:
    """Only when it has been quiet for the delay, a group of changes is told."""
    first, second = str(folder / "a.py"), str(folder / "b.py")
    lifeline = Scripted(
        lambda: write(folder, "a.py"), lambda: write(folder, "b.py"), nothing, nothing
    )

    assert [{first, second}] == polled(folder, lifeline)
    assert [0.5, 0.25, 0.25, 0.5, 0.5] == lifeline.waits


def test_endless_writing_is_told_meanwhile(folder: Path) -> None:
    """A build which goes on and on doesn't keep the reload away."""
    steps = [lambda n=n: write(folder, f"{n}.py") for n in range(10)]

    groups = polled(folder, Scripted(*steps), delay=1.0)

    assert [3, 3, 3] == [len(group) for group in groups]


def test_big_projects_are_looked_at_less_often(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking takes a tenth of a processor's time at most."""
    lifeline = Scripted(nothing, nothing)

    def slow(selection: Selection) -> dict[str, changes.FileState]:
        lifeline.now += 0.2
        return {}

    monkeypatch.setattr(changes, "scan", slow)
    polled(folder, lifeline)

    assert [pytest.approx(2.0)] * 3 == lifeline.waits


# -- watchfiles -----------------------------------------------------------------


def install_watchfiles(
    monkeypatch: pytest.MonkeyPatch, watch: Callable[..., Any] | None
) -> None:
    """Have a module watchfiles with that function, or none."""
    module: Any = None
    if watch is not None:
        module = types.ModuleType("watchfiles")
        module.watch, module.Change = watch, types.SimpleNamespace(added=1)
    monkeypatch.setitem(sys.modules, "watchfiles", module)


def test_watchfiles_is_asked_for_what_counts(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It gets the directories, the filter, and the quiet time in milliseconds."""
    asked: dict[str, Any] = {}

    def fake(*directories: str, **options: Any) -> Iterator[set[tuple[int, str]]]:
        asked.update(options, directories=directories)
        yield {(1, f"{folder}/a.py"), (3, f"{folder}/b.py")}

    install_watchfiles(monkeypatch, fake)
    lifeline = Scripted()
    groups = list(watch(Selection([str(folder)]), 0.25, lifeline))

    assert [{f"{folder}/a.py", f"{folder}/b.py"}] == groups
    assert (str(folder),) == asked["directories"]
    assert (250, 2000) == (asked["step"], asked["debounce"])
    assert lifeline is asked["stop_event"]
    assert asked["watch_filter"](1, f"{folder}/main.py")
    assert not asked["watch_filter"](1, f"{folder}/main.txt")


def test_files_of_a_new_directory_are_changes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They came before the system was asked to watch the directory."""
    path = write(folder, "new/deep/main.py")
    write(folder, "empty/notes.txt")
    write(folder, ".git/hook.py")

    def fake(*directories: str, **options: Any) -> Iterator[set[tuple[int, str]]]:
        for name in ("new", "empty", ".git"):
            if options["watch_filter"](1, f"{folder}/{name}"):
                yield {(1, f"{folder}/{name}")}
        assert not options["watch_filter"](2, f"{folder}/new")

    install_watchfiles(monkeypatch, fake)

    assert [{path}] == list(watch(Selection([str(folder)]), 0.25, Scripted()))


def test_no_delay_is_no_busy_loop(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --reload-delay 0 watchfiles still sleeps between two looks."""
    steps = []

    def fake(*directories: str, **options: Any) -> Iterator[set[tuple[int, str]]]:
        steps.append(options["step"])
        yield from ()

    install_watchfiles(monkeypatch, fake)
    list(watch(Selection([str(folder)]), 0, Scripted()))

    assert [50] == steps


def test_it_is_told_when_watching_has_begun(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits for that can rely on the next change to be noticed."""

    def fake(*directories: str, **options: Any) -> Iterator[set[tuple[int, str]]]:
        while not options["stop_event"].is_set():
            yield {(1, f"{folder}/{n}.py") for n in range(MOST_PATHS + 3)}

    install_watchfiles(monkeypatch, fake)
    told: list[dict[str, Any]] = []
    lifeline = Scripted(nothing)

    def tell(message: dict[str, Any]) -> None:
        told.append(message)
        if "changed" in message:
            lifeline.wait(0)

    run(Selection([str(folder)]), 0.25, lifeline, tell)

    assert {"watching": "watchfiles"} == told[0]
    assert MOST_PATHS == len(told[1]["changed"])
    assert 3 == told[1]["more"]
    assert 2 == len(told)


@pytest.mark.parametrize("reason", ["missing", "failing"])
def test_without_watchfiles_files_are_polled(
    folder: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    """Where it isn't installed, or the system's watches are used up, polling serves."""

    def fake(*directories: str, **options: Any) -> Iterator[set[tuple[int, str]]]:
        raise OSError("OS file watch limit reached")

    install_watchfiles(monkeypatch, None if reason == "missing" else fake)
    told: list[dict[str, Any]] = []
    lifeline = Scripted(lambda: write(folder, "main.py"), nothing)
    run(Selection([str(folder)]), 0.25, lifeline, told.append)

    assert [
        {
            "watching": "polling",
            "because": {
                "missing": "with watchfiles: pip install daphne-like[reload]",
                "failing": "watchfiles can't: OS file watch limit reached",
            }[reason],
        },
        {"changed": [f"{folder}/main.py"], "more": 0},
    ] == told


# -- The program ----------------------------------------------------------------


@pytest.fixture
def arguments(folder: Path) -> list[str]:
    """Make the arguments of the program."""
    settings = {"directories": [str(folder)], "include": [], "exclude": [], "delay": 1}
    return [json.dumps(settings)]


def test_the_program_ends_with_its_standard_input(
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """When the supervisor is gone, however it ended, nothing watches any more."""
    install_watchfiles(monkeypatch, None)
    reading, writing = os.pipe()
    os.close(writing)
    with os.fdopen(reading) as standard_input:
        monkeypatch.setattr(sys, "stdin", standard_input)
        main(arguments)

    [line] = capsys.readouterr().out.splitlines()
    assert "polling" == json.loads(line)["watching"]
