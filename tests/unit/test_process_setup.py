"""Tests of ``daphne_like.process_setup``."""

from __future__ import annotations

import grp
import os
import pwd
import resource
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from recorded_log import RecordedLog

from daphne_like.errors import SettingsError, StartError
from daphne_like.process_setup import (
    PidFile,
    become_user,
    set_title,
    set_up,
    will_become_user,
)
from daphne_like.settings import ProcessSettings, Settings


class System:
    """
    Users and groups of a system, and who this process is.

    Attributes:
        users: Real, effective and saved one.
        groups: The same of the group.
        more: Supplementary groups.
        calls: What was done, in order.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.users = self.groups = (0, 0, 0)
        self.more = [0]
        self.calls: list[str] = []
        self.is_broken = False
        names: dict[str, Callable[..., Any]] = {
            "getuid": lambda: self.users[0],
            "geteuid": lambda: self.users[1],
            "getegid": lambda: self.groups[1],
            "getgid": lambda: self.groups[0],
            "getresgid": lambda: self.groups,
            "getresuid": lambda: self.users,
            "initgroups": self.initgroups,
            "setgid": self.setgid,
            "setgroups": self.setgroups,
            "setuid": self.setuid,
        }
        for name, function in names.items():
            monkeypatch.setattr(os, name, function)
        monkeypatch.setattr(pwd, "getpwnam", lambda name: self._user(0, name))
        monkeypatch.setattr(pwd, "getpwuid", lambda number: self._user(2, number))
        monkeypatch.setattr(grp, "getgrnam", self._group)
        for name in ("LOGNAME", "USER"):
            monkeypatch.setenv(name, "root")
        monkeypatch.setenv("HOME", "/root")

    @staticmethod
    def _user(place: int, value: object) -> pwd.struct_passwd:
        entry = ("web", "x", 1001, 2001, "", "/srv/web", "/bin/false")
        if entry[place] != value:
            raise KeyError(value)
        return pwd.struct_passwd(entry)

    @staticmethod
    def _group(name: str) -> grp.struct_group:
        if name != "www":
            raise KeyError(name)
        return grp.struct_group(("www", "x", 3001, []))

    def _check(self, call: str) -> None:
        if self.users[1] != 0:
            raise PermissionError
        self.calls.append(call)

    def initgroups(self, name: str, gid: int) -> None:
        """Have the groups of a user."""
        self._check("initgroups")
        self.more = [gid, 4001]

    def setgroups(self, groups: list[int]) -> None:
        """Have these groups."""
        self._check("setgroups")
        self.more = groups

    def setgid(self, gid: int) -> None:
        """Have another group."""
        self._check("setgid")
        self.groups = (gid, gid, gid)

    def setuid(self, uid: int) -> None:
        """Be another user."""
        if self.is_broken:
            self.users = (uid, uid, 0)
            return
        self._check("setuid")
        self.users = (uid, uid, uid)


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> System:
    """Be root on another system."""
    return System(monkeypatch)


def home() -> list[str]:
    """Return what libraries ask for to find a user's files."""
    return [os.environ[name] for name in ("HOME", "LOGNAME", "USER")]


# -- The user ------------------------------------------------------------------


@pytest.mark.parametrize("user", ["web", "1001"])
def test_another_user(system: System, log: RecordedLog, user: str) -> None:
    """All its groups become ours, in an order in which that is allowed."""
    settings = ProcessSettings(user=user)
    assert will_become_user(settings)

    become_user(settings)

    assert ["initgroups", "setgid", "setuid"] == system.calls
    assert (1001,) * 3 == system.users
    assert (2001,) * 3 == system.groups
    assert [2001, 4001] == system.more
    assert ["/srv/web", "web", "web"] == home()
    assert not will_become_user(settings)


def test_once_is_enough(system: System) -> None:
    """A worker whose supervisor is that user already has nothing to do."""
    for _ in range(2):
        become_user(ProcessSettings(user="web"))

    assert 3 == len(system.calls)


@pytest.mark.parametrize("group", ["www", "3001"])
def test_another_group(system: System, group: str) -> None:
    """The group which is named wins over that of the user."""
    become_user(ProcessSettings(user="web", group=group))

    assert (3001,) * 3 == system.groups
    assert [3001, 4001] == system.more


def test_a_group_alone(system: System) -> None:
    """The user stays, and so does its home."""
    become_user(ProcessSettings(group="www"))

    assert ["setgroups", "setgid"] == system.calls
    assert (0,) * 3 == system.users
    assert (3001,) * 3 == system.groups
    assert [3001] == system.more
    assert ["/root", "root", "root"] == home()


def test_a_number_without_a_name(system: System) -> None:
    """Images of containers know numbers alone; the group must be named, too."""
    with pytest.raises(SettingsError, match=r"user: 12345 .* needs a group"):
        become_user(ProcessSettings(user="12345"))
    assert [] == system.calls

    become_user(ProcessSettings(user="12345", group="3001"))
    assert (12345,) * 3 == system.users
    assert [3001] == system.more


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"user": "nbody"}, "user: there is no user nbody"),
        ({"user": "web", "group": "ww"}, "group: there is no group ww"),
    ],
)
def test_unknown_names_are_found_before_anything_is_bound(
    system: System, settings: dict[str, str], reason: str
) -> None:
    """One line names the setting."""
    with pytest.raises(SettingsError, match=reason):
        set_up(Settings.of(**settings))


def test_only_root_can_become_another_user(system: System) -> None:
    """Whoever is somebody else already is told who, with status 2."""
    system.users, system.groups = (5, 5, 5), (6, 6, 6)
    with pytest.raises(SettingsError, match=r"only root can .* user 5 of group 6"):
        become_user(ProcessSettings(user="web"))

    system.users, system.groups = (1001,) * 3, (2001,) * 3
    become_user(ProcessSettings(user="web"))
    assert [] == system.calls


@pytest.mark.parametrize("error", [OSError(22, "Invalid"), OverflowError("too large")])
@pytest.mark.parametrize(
    ("settings", "who"),
    [
        ({"user": "4294967295", "group": "5"}, "user: .* user 4294967295 of group 5: "),
        ({"group": "4294967295"}, "group: .* become group 4294967295: "),
    ],
)
def test_numbers_which_nobody_can_have(
    system: System,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, str],
    who: str,
    error: Exception,
) -> None:
    """A typing error, or a number that a container doesn't know, is one line."""

    def refuse(groups: list[int]) -> None:
        raise error

    monkeypatch.setattr(os, "setgroups", refuse)
    with pytest.raises(SettingsError, match=who):
        become_user(Settings.of(**settings).process)


def test_a_root_who_may_not_do_it(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the capability, or in a namespace of users, the system says why."""

    def refuse(name: str, gid: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "initgroups", refuse)
    with pytest.raises(SettingsError, match=r"user: user 0 .* Operation not permitted"):
        become_user(ProcessSettings(user="web"))


def test_endless_numbers(system: System) -> None:
    """Python refuses to read those of more than 4300 digits."""
    with pytest.raises(SettingsError, match="user: 9999"):
        become_user(ProcessSettings(user="9" * 5000))


def test_what_is_left_of_root_is_an_error(system: System) -> None:
    """Rather no service than one which can become root again."""
    system.is_broken = True

    with pytest.raises(StartError, match="not given up"):
        become_user(ProcessSettings(user="web"))


def test_the_way_back_is_tried(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process with the capability to change its user has given nothing up."""

    def setuid(uid: int) -> None:
        system.users = (uid, uid, uid)

    monkeypatch.setattr(os, "setuid", setuid)
    with pytest.raises(StartError, match="not given up"):
        become_user(ProcessSettings(user="web"))


def test_nobody_is_asked_for(system: System) -> None:
    """Without the settings everything stays."""
    become_user(ProcessSettings())
    assert not will_become_user(ProcessSettings())
    assert [] == system.calls


def test_sockets_of_workers_are_bound_by_one_user(system: System) -> None:
    """The kernel deals connections out among sockets of one user only."""
    settings = Settings.of(user="web", workers=2, reuse_port=True)
    with pytest.raises(SettingsError, match="reuse_port"):
        set_up(settings)

    system.users, system.groups = (1001,) * 3, (2001,) * 3
    set_up(settings)


def test_systems_without_users(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows it is a wrong setting."""
    monkeypatch.delattr(os, "setuid")
    with pytest.raises(SettingsError, match="not possible on this system"):
        become_user(ProcessSettings(user="web"))


# -- The rest ------------------------------------------------------------------


@pytest.fixture
def _restored() -> Iterator[None]:
    """Undo what concerns the process."""
    directory, umask = Path.cwd(), os.umask(0o022)
    yield
    os.chdir(directory)
    os.umask(umask)


@pytest.mark.usefixtures("_restored")
def test_directory_and_umask(tmp_path: Path) -> None:
    """They hold before anything is read, and a relative directory is entered once."""
    os.chdir(tmp_path.parent)
    settings = Settings.of(chdir=tmp_path.name, umask="027")
    settings = set_up(set_up(settings))

    assert tmp_path == Path.cwd()
    (tmp_path / "file").touch()
    assert 0o640 == stat.S_IMODE((tmp_path / "file").stat().st_mode)
    assert 0o27 == settings.process.umask


def test_a_directory_that_is_not_there() -> None:
    """One line tells which."""
    with pytest.raises(SettingsError, match="chdir: /no/such: No such file"):
        set_up(Settings.of(chdir="/no/such"))


def test_nothing_is_changed_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The defaults leave the process as it is, and import nothing."""
    for name in ("chdir", "umask", "setuid"):
        monkeypatch.setattr(os, name, None)
    monkeypatch.setitem(sys.modules, "setproctitle", None)
    settings = Settings()

    assert settings is set_up(settings)


@pytest.fixture
def flags(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Keep what prctl() is called with, instead of calling it."""
    flags: list[object] = []

    class Library:
        def __init__(self, name: None) -> None:
            self.prctl = lambda *arguments: flags.append(arguments)

    monkeypatch.setattr("ctypes.CDLL", Library)
    return flags


UNDUMPABLE = [(4, 0, 0, 0, 0)] if sys.platform == "linux" else []


def test_core_dumps(monkeypatch: pytest.MonkeyPatch, flags: list[object]) -> None:
    """Neither this process nor its children leave one."""
    limits: list[object] = []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (0, 1))
    monkeypatch.setattr(resource, "setrlimit", lambda *limit: limits.append(limit))
    set_up(Settings.of(core_dumps=False))

    assert [(resource.RLIMIT_CORE, (0, 0))] == limits
    assert UNDUMPABLE == flags


def test_core_dumps_of_another_user(system: System, flags: list[object]) -> None:
    """
    Linux forgets with a change of the user that there are to be none: with
    fs.suid_dumpable=2, as where systemd-coredump is installed, there would be.
    """
    become_user(ProcessSettings(user="web"))
    assert [] == flags

    system.users = system.groups = (0, 0, 0)
    become_user(ProcessSettings(user="web", core_dumps=False))
    assert UNDUMPABLE == flags
    assert (1001,) * 3 == system.users


def test_a_filter_of_system_calls(
    monkeypatch: pytest.MonkeyPatch, flags: list[object]
) -> None:
    """A unit may forbid what we want to do, and have done it itself (LimitCORE=0)."""

    def refuse(*limit: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (0, 0))
    set_up(Settings.of(core_dumps=False))
    assert UNDUMPABLE == flags

    monkeypatch.setattr(resource, "getrlimit", lambda kind: (0, 1))
    with pytest.raises(SettingsError, match=r"core_dumps: .*not permitted"):
        set_up(Settings.of(core_dumps=False))


def test_titles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process has the title, and its role where there are several."""
    titles: list[str] = []
    package = SimpleNamespace(setproctitle=titles.append)
    monkeypatch.setitem(sys.modules, "setproctitle", package)

    set_up(Settings.of(process_title="shop"))
    set_title(ProcessSettings(process_title="shop"), "worker 3")
    set_title(ProcessSettings(), "worker 4")

    assert ["shop", "shop: worker 3"] == titles


def test_a_title_needs_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """The line says what to install."""
    monkeypatch.setitem(sys.modules, "setproctitle", None)
    with pytest.raises(SettingsError, match=r"pip install daphne-like\[proctitle\]"):
        set_up(Settings.of(process_title="shop"))


# -- The pid file --------------------------------------------------------------


def test_a_pid_file(tmp_path: Path) -> None:
    """It holds the number and a line end, as long as the server runs."""
    path = tmp_path / "pid"
    with PidFile(str(path)):
        assert f"{os.getpid()}\n" == path.read_text("ascii")
    assert not path.exists()

    with PidFile(None):
        assert [] == [*tmp_path.iterdir()]


@pytest.mark.usefixtures("_restored")
def test_a_pid_file_is_found_again(tmp_path: Path) -> None:
    """An application may change the directory; the file is removed all the same."""
    os.chdir(tmp_path)
    with PidFile("pid"):
        assert (tmp_path / "pid").exists()
        os.chdir("/")
    assert [] == [*tmp_path.iterdir()]


def test_a_stale_pid_file_is_replaced(tmp_path: Path) -> None:
    """Whatever it says, even the number of a process that lives: nobody holds it."""
    path = tmp_path / "pid"
    path.write_text("1\nand more of it than that\n", "ascii")
    with PidFile(str(path)):
        assert f"{os.getpid()}\n" == path.read_text("ascii")


_SECOND = """
import sys
from daphne_like.process_setup import PidFile
with PidFile(sys.argv[1]):
    pass
"""


def test_another_server_is_told(tmp_path: Path) -> None:
    """Who comes second learns which process is there, and changes nothing."""
    path = tmp_path / "pid"
    command = [sys.executable, "-c", _SECOND, str(path)]
    with PidFile(str(path)):
        second = subprocess.run(command, capture_output=True, text=True, check=False)
        assert f"{os.getpid()}\n" == path.read_text("ascii")

    assert 1 == second.returncode
    assert second.stderr.endswith(
        f"pid_file: {path}: a server is running already, process {os.getpid()}\n"
    )


def test_a_fork_leaves_the_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that ends doesn't remove the file of its supervisor."""
    path = tmp_path / "pid"
    with PidFile(str(path)) as file, monkeypatch.context() as fork:
        fork.setattr(os, "getpid", lambda: -5)
        file.__exit__()
        assert path.exists()


def test_a_file_that_may_not_be_removed_is_emptied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the privileges were given up, the directory may be somebody else's."""
    path = tmp_path / "pid"

    def refuse(path: object) -> None:
        raise PermissionError

    with PidFile(str(path)):
        monkeypatch.setattr(Path, "unlink", refuse)
    assert b"" == path.read_bytes()


def test_a_successors_file_stays(tmp_path: Path) -> None:
    """Somebody may have moved ours away, and begun another one."""
    path = tmp_path / "pid"
    with PidFile(str(path)):
        path.rename(tmp_path / "old")
        path.write_text("5\n", "ascii")
    assert "5\n" == path.read_text("ascii")


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says so, and no empty file is left."""
    path = tmp_path / "pid"

    def refuse(descriptor: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(os, "write", refuse)
        with (
            pytest.raises(StartError, match=r"pid_file: .*pid: No space left"),
            PidFile(str(path)),
        ):
            pass
    assert not path.exists()
    with PidFile(str(path)):
        assert f"{os.getpid()}\n" == path.read_text("ascii")


def test_links_are_not_followed(tmp_path: Path) -> None:
    """Who may write to the directory can't make root empty another file."""
    victim = tmp_path / "victim"
    victim.write_text("precious", "ascii")
    (tmp_path / "soft").symlink_to(victim)
    with (
        pytest.raises(StartError, match=r"pid_file: .*soft: "),
        PidFile(str(tmp_path / "soft")),
    ):
        pass
    (tmp_path / "hard").hardlink_to(victim)
    with (
        pytest.raises(StartError, match=r"pid_file: .*hard: is no file, or has"),
        PidFile(str(tmp_path / "hard")),
    ):
        pass
    assert "precious" == victim.read_text("ascii")


def test_a_path_where_nothing_can_be_written() -> None:
    """One line tells which, and why."""
    with (
        pytest.raises(StartError, match="pid_file: /no/such/pid: No such file"),
        PidFile("/no/such/pid"),
    ):
        pass
