"""
Where the sockets of an endpoint come from: bound here, or passed by somebody else.

What an endpoint string says becomes one of the sources below. They bind without
listening, so that an address in use is found before the application is started.

Tests: ``tests/unit/listeners/test_endpoints.py``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daphne_like.errors import ListenError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "AF_UNIX",
    "DescriptorSource",
    "SocketSource",
    "TCPSource",
    "UnixSource",
    "listen_error",
    "read_number",
]

AF_UNIX = getattr(socket, "AF_UNIX", None)
"""The family of Unix sockets, where there are any."""

# Of Unix sockets; also Twisted's.
_DEFAULT_MODE = 0o666

# A free port of the first address may be taken on the second.
_PORT_ATTEMPTS = 10

# A name may stand for an address of a family which this system doesn't have.
_NO_SUCH_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class SocketSource:
    """How to get the sockets of one endpoint."""

    __slots__ = ()

    @property
    def where(self) -> str:
        """The address as messages name it."""
        raise NotImplementedError

    @property
    def path(self) -> str | None:
        """The socket file, which is removed at the end; ``None`` for none."""
        return None

    @property
    def takes_both_families(self) -> bool:
        """Whether an IPv6 socket takes IPv4 connections too, if nobody else does."""
        return False

    @property
    def said_by_name(self) -> str:
        """``http``, ``https`` or ``redirect`` where the socket is named so, else empty."""
        return ""

    def open(
        self, beside: Sequence[socket.socket], *, reuse_port: bool = False
    ) -> list[socket.socket]:
        """
        Bind the sockets, or take them over; none listens yet.

        Args:
            beside: Those which this server has bound already.
            reuse_port: Whether others may bind the same TCP port.

        Raises:
            OSError: The system refuses.
            ListenError: Something else is in the way; the text is complete.
        """
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class TCPSource(SocketSource):
    """All addresses of a host, with one port."""

    host: str
    port: int

    @classmethod
    def of(cls, port: str, interface: str = "") -> TCPSource:
        """Read the arguments of ``tcp:``."""
        host = interface.strip("[]") or "0.0.0.0"  # noqa: S104 - as asked
        return cls(host, read_number(port, "the port", 65535))

    @property
    def where(self) -> str:
        """The address as messages name it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def takes_both_families(self) -> bool:
        """Whether an IPv6 socket takes IPv4 connections, too."""
        return self.host == "::"

    def open(
        self, beside: Sequence[socket.socket], *, reuse_port: bool = False
    ) -> list[socket.socket]:
        """See :meth:`SocketSource.open`."""
        try:
            found = socket.getaddrinfo(
                self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
        except ValueError as error:  # what can't be encoded as a host name
            raise listen_error(self.where, error) from None
        addresses = list(dict.fromkeys((item[0], item[4]) for item in found))
        attempts = 1 if self.port else _PORT_ATTEMPTS
        while True:
            try:
                return self._bind(addresses, beside, reuse_port)
            except OSError as error:
                attempts -= 1
                if error.errno != errno.EADDRINUSE or not attempts:
                    raise

    def _bind(
        self,
        addresses: Sequence[tuple[int, tuple[Any, ...]]],
        beside: Sequence[socket.socket],
        reuse_port: bool,
    ) -> list[socket.socket]:
        sockets: list[socket.socket] = []
        unavailable: OSError | None = None
        try:
            for family, address in addresses:
                port = sockets[0].getsockname()[1] if sockets else self.port
                try:
                    whole = (address[0], port, *address[2:])
                    sock = _bind_tcp(family, whole, beside, reuse_port)
                except OSError as error:
                    if error.errno not in _NO_SUCH_ADDRESS:
                        raise
                    unavailable = error
                else:
                    sockets.append(sock)
            if unavailable is not None and not sockets:
                raise unavailable
        except BaseException:
            for sock in sockets:
                sock.close()
            raise
        return sockets


def _bind_tcp(
    family: int,
    address: tuple[Any, ...],
    beside: Sequence[socket.socket],
    reuse_port: bool,
) -> socket.socket:
    # Told its protocol, asyncio switches Nagle's algorithm off.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            # "::" takes IPv4 as well, unless this server has another socket for it.
            only = address[0] != "::" or any(
                other.family == socket.AF_INET and other.getsockname()[1] == address[1]
                for other in beside
            )
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


@dataclass(frozen=True, slots=True)
class UnixSource(SocketSource):
    """A socket file, in place of one that nobody listens on."""

    address: str
    mode: int

    @classmethod
    def of(
        cls,
        address: str,
        mode: str = "666",
        lockfile: str = "",  # noqa: ARG003 - Twisted's; here connecting tells
    ) -> UnixSource:
        """Read the arguments of ``unix:``."""
        if AF_UNIX is None:
            raise ValueError("this system has no Unix sockets")
        if not address or "\0" in address:
            raise ValueError("address must be the path of a file")
        if not mode or set(mode) - set("01234567") or int(mode, 8) > 0o777:
            raise ValueError(f"mode must be octal digits up to 777, not {mode!r}")
        return cls(address, int(mode, 8))

    @property
    def where(self) -> str:
        """The address as messages name it."""
        return self.address

    @property
    def path(self) -> str:
        """The socket file."""
        return self.address

    def open(
        self, beside: Sequence[socket.socket], *, reuse_port: bool = False
    ) -> list[socket.socket]:
        """See :meth:`SocketSource.open`."""
        if any(other.getsockname() == self.address for other in beside):
            raise listen_error(self.address, "is named twice")
        self._remove_stale()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        # From the first instant nobody may connect whom the mode excludes.
        umask = os.umask(0o777 & ~self.mode)
        try:
            sock.bind(self.address)
        except BaseException:
            sock.close()
            raise
        finally:
            os.umask(umask)
        return [sock]

    def _remove_stale(self) -> None:
        try:
            is_socket = stat.S_ISSOCK(os.lstat(self.address).st_mode)
        except FileNotFoundError:
            return
        if not is_socket:
            raise listen_error(self.address, "exists and is no socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            # One that doesn't even answer this has a full queue: it is alive.
            probe.setblocking(False)
            try:
                probe.connect(self.address)
            except ConnectionRefusedError:
                Path(self.address).unlink(missing_ok=True)
                return
            except BlockingIOError:
                pass
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


@dataclass(frozen=True, slots=True)
class DescriptorSource(SocketSource):
    """Sockets which this process has inherited; each knows its own family."""

    numbers: tuple[int, ...]
    name: str = ""
    is_systemds: bool = False

    @classmethod
    def of(
        cls,
        fileno: str,
        domain: str = "",  # noqa: ARG003 - Twisted and Daphne want it named
    ) -> DescriptorSource:
        """Read the arguments of ``fd:``."""
        from daphne_like.systemd import passed_sockets

        number = read_number(fileno, "fileno", 2**31 - 1)
        for sock in passed_sockets():
            if sock.number == number:
                return cls((number,), sock.name, is_systemds=True)
        return cls((number,))

    @classmethod
    def of_systemd(
        cls,
        domain: str = "",  # noqa: ARG003 - as above
        index: str = "",
        name: str = "",
    ) -> DescriptorSource:
        """Read the arguments of ``systemd:``."""
        from daphne_like.systemd import find_sockets

        found = find_sockets(index, name)
        numbers = tuple(sock.number for sock in found)
        return cls(numbers, found[0].name, is_systemds=True)

    @property
    def where(self) -> str:
        """The address as messages name it."""
        what = f"descriptor {', '.join(map(str, self.numbers))}"
        return f"{what} ({self.name})" if self.name else what

    @property
    def said_by_name(self) -> str:
        """What the name of a socket of systemd's says it is for."""
        return self.name if self.name in ("http", "https", "redirect") else ""

    def open(
        self, beside: Sequence[socket.socket], *, reuse_port: bool = False
    ) -> list[socket.socket]:
        """See :meth:`SocketSource.open`."""
        sockets: list[socket.socket] = []
        try:
            for number in self.numbers:
                if any(other.fileno() == number for other in beside):
                    raise listen_error(self.where, "is named twice")
                sock = socket.socket(fileno=number)
                sockets.append(sock)
                if reason := _no_listener(sock, self.is_systemds):
                    raise listen_error(self.where, reason)
                sock.set_inheritable(False)
        except BaseException:
            for sock in sockets:
                sock.detach()  # it is somebody else's
            raise
        return sockets


def _no_listener(sock: socket.socket, is_systemds: bool) -> str | None:
    """Tell why connections can't be accepted from a socket."""
    if sock.type != socket.SOCK_STREAM:
        hint = "; its unit needs ListenStream=" if is_systemds else ""
        return f"is no stream socket{hint}"
    if sock.family not in (socket.AF_INET, socket.AF_INET6, AF_UNIX):
        return "is neither a TCP nor a Unix socket"
    with contextlib.suppress(OSError):
        sock.getpeername()
        hint = "; its unit needs Accept=no" if is_systemds else ""
        return f"is a connection, not a listening socket{hint}"
    # Others may pass what is only bound; it listens when the application is ready.
    if is_systemds and not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return "is not listening"
    return None


def listen_error(where: str, reason: object) -> ListenError:
    """Make the error for an address that can't be had."""
    number = None
    if isinstance(reason, OSError):
        number = reason.errno
        reason = reason.strerror or reason
    return ListenError(f"Listen failure: {where}: {reason}", number)


def read_number(text: str, what: str, largest: int) -> int:
    """
    Read a number of an endpoint string.

    Raises:
        ValueError: It is none, or too large; the text is for the user.
    """
    if not text.isascii() or not text.isdigit() or int(text) > largest:
        raise ValueError(f"{what} must be a number from 0 to {largest}, not {text!r}")
    return int(text)
