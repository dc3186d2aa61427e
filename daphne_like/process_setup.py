"""
What a process is to the system: directory, umask, core dumps, title, pid file, user.

A process that serves goes through it in this order: :func:`set_up` before it reads
anything else, :class:`PidFile` before it binds, :func:`become_user` as soon as all
addresses are bound and before the application is imported. From then on nothing of
root is left, neither in this process nor in its workers, which are started after that.

The program ``daphne-like`` does all this, :func:`daphne_like.run` the last step alone;
``twistd`` has options of its own for most of it. Who doesn't do a step refuses its
settings (:func:`refuse`).

Tests: ``tests/unit/test_process_setup.py``, ``tests/integration/test_process_setup.py``.
"""

from __future__ import annotations

import importlib
import logging
import os
import stat
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from daphne_like.errors import SettingsError, StartError

if TYPE_CHECKING:
    from typing_extensions import Self

    from daphne_like.settings import ProcessSettings, Settings

__all__ = [
    "PidFile",
    "become_user",
    "import_late_modules",
    "refuse",
    "set_title",
    "set_up",
    "will_become_user",
]

_logger = logging.getLogger("daphne_like.server")

# prctl(2).
_PR_SET_DUMPABLE = 4


# Imported by the first connection which needs them.
_LATE_MODULES = (
    "asgiref.compatibility",
    "concurrent.futures.thread",
    "daphne_like.listeners.tls_transports",
    "daphne_like.protocols.http2",
    "daphne_like.protocols.http2_upgrade",
    "daphne_like.protocols.websocket_autobahn",
    "encodings.idna",
)


def import_late_modules() -> None:
    """
    Import now what may be out of reach later, or would be imported many times.

    After a change of the root directory, or as a user who can't read the files; or in
    each fork, when they could share it.
    """
    for module in _LATE_MODULES:
        importlib.import_module(module)


def set_up(settings: Settings) -> Settings:
    """
    Do what needs no address to be bound, and find out early what can't be done later.

    Returns:
        The settings, without what was done and must not be done again.

    Raises:
        SettingsError: It can't be done.
    """
    process = settings.process
    if will_become_user(process) and settings.workers.reuse_port:
        raise SettingsError(
            "reuse_port: each worker's socket is bound anew, which the system allows "
            "only to the user who bound the first; leave out user and group"
        )
    if process.process_title is not None:
        set_title(process)
    if not process.core_dumps:
        _prevent_core_dumps()
        _become_undumpable()
    if process.umask is not None:
        os.umask(process.umask)
    if process.chdir is None:
        return settings
    try:
        os.chdir(process.chdir)
    except OSError as error:
        raise SettingsError(f"chdir: {process.chdir}: {error.strerror}") from None
    return replace(settings, process=replace(process, chdir=None))


def refuse(settings: ProcessSettings, reason: str) -> None:
    """
    Refuse whatever is set, where nobody would obey it.

    Raises:
        SettingsError: Something is set; the name comes before the reason.
    """
    for item in fields(settings):
        if getattr(settings, item.name) != item.default:
            raise SettingsError(f"{item.name} {reason}")


def set_title(settings: ProcessSettings, role: str = "") -> None:
    """
    Show the title which is set, if one is, in listings of processes.

    Args:
        settings: Have the title.
        role: Of this process among several, such as ``worker 1``.

    Raises:
        SettingsError: The package for it isn't installed.
    """
    title = settings.process_title
    if title is None:
        return
    try:
        from setproctitle import setproctitle
    except ImportError:
        raise SettingsError(
            "process_title: setproctitle isn't installed; "
            "try: pip install daphne-like[proctitle]"
        ) from None
    setproctitle(f"{title}: {role}" if role else title)


def _prevent_core_dumps() -> None:
    """
    Let no core be written, neither of this process nor of its children.

    Raises:
        SettingsError: The system doesn't let us.
    """
    try:
        import resource
    except ImportError:
        return  # Windows has none
    if resource.getrlimit(resource.RLIMIT_CORE) == (0, 0):
        return
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ValueError, OSError) as error:
        # A filter of system calls, such as systemd's SystemCallFilter=.
        raise SettingsError(f"core_dumps: the limit can't be set: {error}") from None


def _become_undumpable() -> None:
    """
    Let nobody take an image of this process's memory.

    core(5): the limit isn't looked at when dumps are piped to a program, as
    systemd-coredump is one. This also keeps debuggers out, and is inherited by forks.
    """
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


# -- The user ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Identity:
    """
    Who a process is to be.

    Attributes:
        uid: None to stay the same user.
        gid: Its group.
        name: The user's; empty where nobody has given it one.
        home: Its directory, if it has a name.
    """

    uid: int | None
    gid: int
    name: str = ""
    home: str = ""


def will_become_user(settings: ProcessSettings) -> bool:
    """
    Whether this process is to become somebody else.

    Raises:
        SettingsError: There are no such user or group.
    """
    if settings.user is None and settings.group is None:
        return False
    return not _is(_identity(settings))


def become_user(settings: ProcessSettings) -> None:
    """
    Become the user and the group which are set, for good, unless it is so already.

    Supplementary groups become those of the user. HOME, USER and LOGNAME are set as
    systemd does it, since libraries look for their files by them.

    Raises:
        SettingsError: They don't exist, or this process may not become them.
    """
    if not will_become_user(settings):
        return
    identity = _identity(settings)
    try:
        if identity.name:
            os.initgroups(identity.name, identity.gid)
        else:
            os.setgroups([identity.gid])
        os.setgid(identity.gid)
        if identity.uid is not None:
            os.setuid(identity.uid)
    except (OSError, OverflowError) as error:
        what = "group" if identity.uid is None else "user"
        who = f"user {os.geteuid()} of group {os.getegid()}"
        if isinstance(error, PermissionError) and os.geteuid():
            reason = f"only root can become another one, and this is {who}"
        else:
            # Numbers which are too large, or unknown in a namespace of users.
            wanted = "" if identity.uid is None else f"user {identity.uid} of "
            reason = f"{who} can't become {wanted}group {identity.gid}: {error}"
        raise SettingsError(f"{what}: {reason}") from None
    if not _is(identity) or _is_root_again(identity):
        raise StartError("The privileges of root are not given up; nothing is served")
    if not settings.core_dumps:
        # Linux decides anew with each change of the user (prctl(2), PR_SET_DUMPABLE,
        # and /proc/sys/fs/suid_dumpable).
        _become_undumpable()
    if identity.name:
        os.environ.update(HOME=identity.home, LOGNAME=identity.name, USER=identity.name)
    _logger.info("User is now %d, group %d", os.getuid(), os.getgid())


def _identity(settings: ProcessSettings) -> _Identity:
    """
    Look up names and numbers.

    Raises:
        SettingsError: There are no such user or group.
    """
    if not hasattr(os, "setuid"):
        raise SettingsError("user and group are not possible on this system")
    gid = None if settings.group is None else _group_id(settings.group)
    if settings.user is None:
        assert gid is not None
        return _Identity(None, gid)
    import pwd

    user, number = settings.user, _number(settings.user)
    try:
        entry = pwd.getpwnam(user) if number is None else pwd.getpwuid(number)
    except (KeyError, OverflowError):
        if number is None:
            raise SettingsError(f"user: there is no user {user}") from None
        if gid is None:
            raise SettingsError(
                f"user: {user} is nobody's number, so it needs a group, too"
            ) from None
        return _Identity(number, gid)
    gid = entry.pw_gid if gid is None else gid
    return _Identity(entry.pw_uid, gid, entry.pw_name, entry.pw_dir)


def _group_id(group: str) -> int:
    import grp

    number = _number(group)
    if number is not None:
        return number
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise SettingsError(f"group: there is no group {group}") from None


def _number(text: str) -> int | None:
    # No number of a user has more than ten digits.
    return int(text[:20]) if text.isascii() and text.isdigit() else None


def _is(identity: _Identity) -> bool:
    """Whether the process is, in each respect, who it is to be."""
    uid = os.getuid() if identity.uid is None else identity.uid
    if hasattr(os, "getresuid"):
        users, groups = set(os.getresuid()), set(os.getresgid())
    else:
        users = {os.getuid(), os.geteuid()}
        groups = {os.getgid(), os.getegid()}
    return users == {uid} and groups == {identity.gid}


def _is_root_again(identity: _Identity) -> bool:
    """Whether the way back is open: it must not be."""
    if not identity.uid:
        return False
    try:
        os.setuid(0)
    except PermissionError:
        return False
    return True


# -- The pid file --------------------------------------------------------------


class PidFile:
    """
    A file with the number of this process, as long as the process lives.

    The file is locked, so that one which a crash has left behind is no obstacle,
    whichever process has got its number since. Forks don't inherit the lock, and
    leave the file alone.

    Args:
        path: Where it is; None for no file.
    """

    def __init__(self, path: str | None) -> None:
        # Whatever the application does, it is found again at the end.
        self._path = None if path is None else os.path.abspath(path)  # noqa: PTH100
        self._descriptor = -1
        self._owner = 0

    def __enter__(self) -> Self:
        """
        Write it.

        Raises:
            StartError: It can't be written, or another process is there.
        """
        path = self._path
        if path is not None:
            self._owner = os.getpid()
            try:
                self._descriptor = _locked(path)
                os.ftruncate(self._descriptor, 0)
                os.write(self._descriptor, b"%d\n" % self._owner)
            except OSError as error:
                if self._descriptor >= 0:
                    self.__exit__()
                raise StartError(f"pid_file: {path}: {error.strerror}") from None
        return self

    def __exit__(self, *error: object) -> None:
        """Remove it, or empty it where the user we are now may not do that."""
        path = self._path
        if path is None or self._owner != os.getpid():
            return
        try:
            if _is_file(self._descriptor, path):
                Path(path).unlink()
        except OSError:
            os.ftruncate(self._descriptor, 0)
        os.close(self._descriptor)


def _locked(path: str) -> int:
    """
    Open and lock the file.

    Raises:
        OSError: It can't be opened.
        StartError: It is no file for this, or another process has it.
    """
    while True:
        # No link: who may write to the directory could make root write elsewhere.
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        descriptor = os.open(path, flags, 0o644)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                raise StartError(f"pid_file: {path}: is no file, or has another name")
            _lock(descriptor, path)
            if _is_file(descriptor, path):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its owner has removed it just now


def _lock(descriptor: int, path: str) -> None:
    try:
        import fcntl
    except ImportError:
        return  # Windows has other means
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        owner = os.read(descriptor, 20).decode("ascii", "replace").strip()
        raise StartError(
            f"pid_file: {path}: a server is running already, process {owner}"
        ) from None


def _is_file(descriptor: int, path: str) -> bool:
    """Whether the path still leads to the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False
