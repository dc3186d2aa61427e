"""
Endpoint strings to listening ports.

``tcp:``, ``unix:`` and ``fd:`` are ours and listen through the event loop
(:mod:`~daphne_like.listeners.transports` tells why); every other string is
Twisted's, with Twisted's transports under the same protocols.

Tests: ``tests/unit/listeners/test_endpoints.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from zope.interface import implementer

from daphne_like.errors import ListenError, SettingsError
from daphne_like.listeners.transports import LoopTransport, twisted_address

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from twisted.internet.interfaces import IAddress, IProtocolFactory

    from daphne_like.settings import BindSettings

__all__ = [
    "SocketEndpoint",
    "build_endpoint_description_strings",
    "endpoint_from_string",
    "endpoint_strings",
    "twisted_endpoint",
]

_DEFAULT_HOST = "127.0.0.1"
_DEFAULT_PORT = 8000


def build_endpoint_description_strings(
    host: str | None = None,
    port: int | None = None,
    unix_socket: str | None = None,
    file_descriptor: int | None = None,
) -> list[str]:
    """
    Describe what Daphne's options name as endpoint strings.

    Raises:
        ValueError: Only one of host and port is given.
    """
    strings = []
    if host and port is not None:
        strings.append(f"tcp:port={port}:interface={_quote(host.strip('[]'))}")
    elif host or port is not None:
        raise ValueError("A host needs a port, and a port needs a host.")
    if unix_socket:
        strings.append(f"unix:{_quote(unix_socket)}")
    if file_descriptor is not None:
        strings.append(f"fd:fileno={file_descriptor}")
    return strings


def endpoint_strings(bind: BindSettings) -> list[str]:
    """
    Combine all binding options by Daphne's rules.

    Nothing given means 127.0.0.1:8000. A host alone gets port 8000, a port
    alone 127.0.0.1. Sockets, descriptors and endpoints alone mean no TCP.

    Returns:
        Endpoint strings, sorted.
    """
    others = bind.unix_socket or bind.fd or bind.endpoint
    hosts, port = bind.bind, bind.port
    if hosts or port is not None or not others:
        hosts = hosts or (_DEFAULT_HOST,)
        port = _DEFAULT_PORT if port is None else port
    strings = list(bind.endpoint)
    for host in hosts:
        strings += build_endpoint_description_strings(host=host, port=port)
    for path in bind.unix_socket:
        mode = f":mode={bind.uds_permissions:o}"
        strings += [f"unix:{_quote(path)}{mode}"]
    for descriptor in bind.fd:
        strings += build_endpoint_description_strings(file_descriptor=descriptor)
    return sorted(strings)


def endpoint_from_string(description: str, backlog: int) -> SocketEndpoint | None:
    r"""
    Make the endpoint which a string describes.

    Args:
        description: In Twisted's notation, e.g. ``tcp:8000:interface=\:\:1``.
        backlog: Used where the string names none.

    Returns:
        ``None`` when the kind isn't ours but Twisted's.

    Raises:
        SettingsError: The string is malformed.
    """
    (kind, *positional), named = _split(description)
    maker = _MAKERS.get(kind)
    if maker is None:
        return None
    named.setdefault("backlog", str(backlog))
    try:
        return SocketEndpoint(maker(*positional, **named))
    except (TypeError, ValueError) as error:
        raise SettingsError(f"endpoint {description!r}: {_reason(error)}") from None


def twisted_endpoint(description: str, reactor: object) -> IStreamServerEndpoint:
    """
    Make an endpoint of Twisted's, with its transports.

    Raises:
        SettingsError: The string is malformed or names an unknown kind.
    """
    # Imported late: it takes much, and most users' endpoints are ours.
    from twisted.internet.endpoints import serverFromString

    try:
        endpoint: IStreamServerEndpoint = serverFromString(reactor, description)
    except Exception as error:  # noqa: BLE001 - plugins raise what they like
        raise SettingsError(f"endpoint {description!r}: {_reason(error)}") from None
    return endpoint


def _reason(error: Exception) -> str:
    text = str(error)
    if isinstance(error, TypeError) or not text:
        return "wrong or missing arguments"
    return " ".join(text.split())


# -- Endpoint strings --------------------------------------------------------


def _quote(text: str) -> str:
    """Escape what has a meaning in endpoint strings."""
    return text.replace("\\", "\\\\").replace(":", "\\:").replace("=", "\\=")


def _split(description: str) -> tuple[list[str], dict[str, str]]:
    """Split at unescaped colons into positional and ``name=value`` arguments."""
    words: list[str] = [""]
    name: str | None = None
    positional: list[str] = []
    named: dict[str, str] = {}
    characters = iter(description + ":")
    for character in characters:
        if character == "\\":
            words[-1] += next(characters, "")
        elif character == "=" and name is None:
            name = words[-1]
            words[-1] = ""
        elif character == ":":
            if name is None:
                positional.append(words[-1])
            else:
                named[name] = words[-1]
            words, name = [""], None
        else:
            words[-1] += character
    return positional, named


def _number(text: str, what: str, largest: int) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > largest:
        raise ValueError(f"{what} must be a number from 0 to {largest}, not {text!r}")
    return int(text)


# -- Sockets -----------------------------------------------------------------


def _tcp(port: str, interface: str = "", *, backlog: str) -> SocketSource:
    number = _number(port, "the port", 65535)
    return SocketSource(
        lambda: _open_tcp(interface or "0.0.0.0", number),  # noqa: S104 - as asked
        _number(backlog, "backlog", 65535),
    )


def _unix(
    address: str, mode: str = "666", *, backlog: str, lockfile: str = "0"
) -> SocketSource:
    # "lockfile" is Twisted's; ours finds stale sockets by connecting instead.
    if not address or not hasattr(socket, "AF_UNIX"):
        raise ValueError("a path is needed, on a system with Unix sockets")
    try:
        bits = int(mode, 8)
    except ValueError:
        raise ValueError(f"mode must be octal digits, not {mode!r}") from None
    return SocketSource(
        lambda: [_open_unix(address, bits)],
        _number(backlog, "backlog", 65535),
        path=address,
    )


def _fd(fileno: str, *, backlog: str, domain: str = "") -> SocketSource:
    # Twisted and Daphne want the domain named; the socket itself knows it.
    number = _number(fileno, "fileno", 2**31 - 1)
    return SocketSource(lambda: [_adopt(number)], _number(backlog, "backlog", 65535))


def _open_tcp(host: str, port: int) -> list[socket.socket]:
    """Bind every address of ``host``; port 0 chooses one port for all."""
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        found = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        raise ListenError(f"Listen failure: {where}: {error}") from None
    sockets: list[socket.socket] = []
    try:
        for family, address in dict.fromkeys((item[0], item[4]) for item in found):
            chosen = sockets[0].getsockname()[1] if sockets else port
            sockets.append(_bind_tcp(family, (address[0], chosen, *address[2:])))
    except OSError as error:
        for sock in sockets:
            sock.close()
        raise ListenError(f"Listen failure: {where}: {error.strerror}") from None
    return sockets


def _bind_tcp(family: int, address: tuple[Any, ...]) -> socket.socket:
    # asyncio turns Nagle's algorithm off only where the protocol is named.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # "::" takes IPv4 as well, unless another listener has it already.
            both = address[0] == "::"
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not both)
            try:
                sock.bind(address)
            except OSError:
                if not both:
                    raise
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind(address)
        else:
            sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _open_unix(path: str, mode: int) -> socket.socket:
    """Bind a path, in place of a socket file that nobody listens on."""
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # From the first instant nobody may connect whom the mode excludes.
    umask = os.umask(0o777 & ~mode)
    try:
        sock.bind(path)
    except OSError as error:
        sock.close()
        reason = error.strerror or str(error)
        raise ListenError(f"Listen failure: {path}: {reason}") from None
    finally:
        os.umask(umask)
    return sock


def _remove_stale(path: str) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise ListenError(f"Listen failure: {path}: exists and is no socket")
    except OSError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            Path(path).unlink(missing_ok=True)
            return
        except OSError as error:
            reason = error.strerror or str(error)
            raise ListenError(f"Listen failure: {path}: {reason}") from None
    raise ListenError(f"Listen failure: {path}: Address already in use")


def _adopt(number: int) -> socket.socket:
    """Take over an open descriptor; the socket knows its own family."""
    try:
        sock = socket.socket(fileno=number)
    except OSError as error:
        raise ListenError(
            f"Listen failure: descriptor {number}: {error.strerror}"
        ) from None
    if sock.type != socket.SOCK_STREAM:
        raise ListenError(f"Listen failure: descriptor {number}: not a stream socket")
    return sock


_MAKERS: dict[str, Callable[..., SocketSource]] = {
    "tcp": _tcp,
    "unix": _unix,
    "fd": _fd,
}


class SocketSource:
    """
    How to open the listening sockets of one endpoint.

    Args:
        open_sockets: Binds them; raises :class:`ListenError`.
        backlog: Connections which the kernel keeps until they are accepted.
        path: The socket file to remove at the end.
    """

    __slots__ = ("backlog", "open_sockets", "path")

    def __init__(
        self,
        open_sockets: Callable[[], list[socket.socket]],
        backlog: int,
        path: str | None = None,
    ) -> None:
        self.open_sockets = open_sockets
        self.backlog = backlog
        self.path = path


@implementer(IStreamServerEndpoint)
class SocketEndpoint:
    """Listens through the running event loop."""

    def __init__(self, source: SocketSource) -> None:
        self._source = source
        self._sockets: list[socket.socket] | None = None

    def bind(self) -> None:
        """
        Claim the addresses without listening, which :meth:`listen` does.

        An address in use is then found before the application is started, and
        nobody can connect before it has.

        Raises:
            ListenError: An address can't be bound.
        """
        self._sockets = self._source.open_sockets()

    def close(self) -> None:
        """Give up what was bound and isn't listening."""
        for sock in self._sockets or ():
            sock.close()
        self._sockets = None

    def listen(self, factory: IProtocolFactory) -> Deferred[IListeningPort]:
        """
        Listen at once.

        Returns:
            Fires with the port, or fails with :class:`ListenError`.
        """
        return Deferred.fromFuture(asyncio.ensure_future(self._listen(factory)))

    async def _listen(self, factory: IProtocolFactory) -> IListeningPort:
        loop = asyncio.get_running_loop()
        source = self._source
        if self._sockets is None:
            self.bind()
        sockets, self._sockets = self._sockets or [], None
        port = LoopPort(sockets, source.path)
        for sock in sockets:
            sock.setblocking(False)
            listen: Callable[..., Coroutine[Any, Any, asyncio.AbstractServer]]
            is_unix = sock.family == getattr(socket, "AF_UNIX", None)
            listen = loop.create_unix_server if is_unix else loop.create_server
            try:
                server = await listen(
                    lambda: LoopTransport(factory), sock=sock, backlog=source.backlog
                )
            except OSError as error:
                port.stopListening()
                reason = error.strerror or error
                raise ListenError(
                    f"Listen failure: {sock.getsockname()}: {reason}"
                ) from None
            port.servers.append(server)
        factory.doStart()
        return port


@implementer(IListeningPort)
class LoopPort:
    """
    The listening sockets of one endpoint.

    Attributes:
        servers: The loop's servers, one a socket.
    """

    def __init__(self, sockets: Sequence[socket.socket], path: str | None) -> None:
        self.servers: list[asyncio.AbstractServer] = []
        self._addresses = [
            twisted_address(sock, sock.getsockname()) for sock in sockets
        ]
        self._path = path
        self._file = _identity(path) if path else None

    def startListening(self) -> None:
        """Do nothing: it listens from the start (IListeningPort)."""

    def stopListening(self) -> Deferred[None]:
        """Accept no more; connections go on (IListeningPort)."""
        for server in self.servers:
            server.close()
        self.servers.clear()
        if self._path and self._file == _identity(self._path):
            # Ours still, and not that of a successor.
            with contextlib.suppress(OSError):
                Path(self._path).unlink()
        return succeed(None)

    def getHost(self) -> IAddress:
        """Tell the first address (IListeningPort)."""
        return self._addresses[0]

    def addresses(self) -> list[IAddress]:
        """Tell all addresses, as a host name may have several."""
        return list(self._addresses)


def _identity(path: str) -> tuple[int, int] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
