"""
Endpoint strings to listening ports.

``tcp:``, ``unix:``, ``fd:``, ``systemd:``, ``ssl:`` and ``tls:`` are ours and listen
through the event loop (:mod:`~daphne_like.listeners.transports` tells why); every
other string is Twisted's, with Twisted's transports under the same protocols.

An endpoint of ours first binds and later listens. What is in use is then found
before the application is started, and nobody can connect before it has.

Tests: ``tests/unit/listeners/test_endpoints.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import stat
import sys
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IListeningPort,
    IProtocolNegotiationFactory,
    IStreamServerEndpoint,
)
from zope.interface import implementer

from daphne_like.errors import ListenError, SettingsError
from daphne_like.listeners.transports import LoopTransport, twisted_address
from daphne_like.setting_kinds import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from twisted.internet.interfaces import IAddress, IProtocolFactory

    from daphne_like.listeners.pending import PendingConnections
    from daphne_like.listeners.proxy_transports import ProxyPolicy
    from daphne_like.listeners.tls import ServerTLS
    from daphne_like.settings import BindSettings, ProxySettings, TLSSettings

__all__ = [
    "LoopPort",
    "SocketEndpoint",
    "bind_all",
    "build_endpoint_description_strings",
    "configured_endpoints",
    "endpoint_from_string",
    "endpoint_strings",
    "redirect_endpoints",
    "scheme_of",
    "twisted_endpoint",
]

_DEFAULT_HOST = "127.0.0.1"
_DEFAULT_PORT = 8000
# Of Unix sockets; also Twisted's.
_DEFAULT_MODE = 0o666

_AF_UNIX = getattr(socket, "AF_UNIX", None)

# asyncio accepts as many connections in one turn of the loop as it is told the
# backlog is, and after the first failure tries all the others in vain.
_ACCEPTS_PER_TURN = 32

# A free port of the first address may be taken on the second.
_PORT_ATTEMPTS = 10

# A name may stand for an address of a family which this system doesn't have.
_NO_SUCH_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


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
        strings.append(f"tcp:port={int(port)}:interface={_quote(host.strip('[]'))}")
    elif host or port is not None:
        raise ValueError("A host needs a port, and a port needs a host.")
    if unix_socket:
        strings.append(f"unix:{_quote(unix_socket)}")
    if file_descriptor is not None:
        strings.append(f"fd:fileno={int(file_descriptor)}")
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
        [string] = build_endpoint_description_strings(unix_socket=path)
        if bind.uds_permissions != _DEFAULT_MODE:
            string += f":mode={bind.uds_permissions:o}"
        strings.append(string)
    for descriptor in bind.fd:
        strings += build_endpoint_description_strings(file_descriptor=descriptor)
    return sorted(strings)


def configured_endpoints(
    bind: BindSettings, tls: TLSSettings, proxy: ProxySettings
) -> list[tuple[str, SocketEndpoint | None]]:
    """
    Make all endpoints of the settings, in the order of :func:`endpoint_strings`.

    What endpoint strings name speaks TLS where they say so. What the other options
    name does when there is a certificate. A socket of systemd's which is named
    ``http`` or ``https`` speaks that; for one that is named ``redirect`` see
    :func:`redirect_endpoints`. All of ours expect the PROXY protocol when the settings
    say so, unless an endpoint string says something else.

    Returns:
        Strings and endpoints; ``None`` in place of those which are Twisted's.

    Raises:
        SettingsError: A string is malformed, or a certificate can't be used, or
            is missing; or the PROXY protocol is expected where it can't be.
    """
    secured: ServerTLS | None = None
    if tls.secures_listeners:
        from daphne_like.listeners.development_certificate import obtain
        from daphne_like.listeners.tls import ServerTLS

        secured = ServerTLS.from_settings(tls, obtain(bind.bind) if tls.ssl_dev else ())
    endpoints = []
    for text in endpoint_strings(bind):
        endpoint = endpoint_from_string(text, bind.backlog, tls, proxy)
        if endpoint is not None and endpoint.said_by_name == "redirect":
            continue
        if endpoint is None and proxy.proxy_protocol and not _is_haproxys(text):
            raise SettingsError(
                f"endpoint {text!r}: proxy_protocol has no effect on endpoints of "
                f"Twisted's; write haproxy:{text}"
            )
        if endpoint is not None and endpoint.tls is None:
            usual = "http" if text in bind.endpoint or secured is None else "https"
            if (endpoint.said_by_name or usual) == "https":
                if secured is None:
                    raise SettingsError(
                        "the socket named https needs a certificate: ssl_certfile"
                    )
                endpoint.tls = secured
        endpoints.append((text, endpoint))
    return endpoints


def redirect_endpoints(
    where: str | None, bind: BindSettings, proxy: ProxySettings
) -> list[tuple[str, SocketEndpoint | None]]:
    """
    Make the endpoints which only send clients elsewhere.

    Args:
        where: ``HOST:PORT``, or ``PORT`` for the hosts of the settings.
        bind: Those settings. Sockets of systemd's among them which are named
            ``redirect`` belong to the result.
        proxy: Whether they expect the PROXY protocol.
    """
    endpoints: list[tuple[str, SocketEndpoint | None]] = []
    for text in endpoint_strings(bind):
        if text.startswith(("fd:", "systemd:")):
            endpoint = endpoint_from_string(text, bind.backlog, proxy=proxy)
            if endpoint is not None and endpoint.said_by_name == "redirect":
                endpoints.append((text, endpoint))
    if where is not None:
        host, _, port = where.rpartition(":")
        for name in [host] if host else bind.bind or (_DEFAULT_HOST,):
            [text] = build_endpoint_description_strings(name, int(port))
            endpoint = endpoint_from_string(text, bind.backlog, proxy=proxy)
            endpoints.append((text, endpoint))
    return endpoints


def endpoint_from_string(
    description: str,
    backlog: int,
    tls: TLSSettings | None = None,
    proxy: ProxySettings | None = None,
) -> SocketEndpoint | None:
    r"""
    Make the endpoint which a string describes.

    Args:
        description: In Twisted's notation, e.g. ``tcp:8000:interface=\:\:1``.
        backlog: Used where the string names none.
        tls: What holds for TLS where the string doesn't say it.
        proxy: What holds for the PROXY protocol.

    Returns:
        ``None`` when the kind isn't ours but Twisted's.

    Raises:
        SettingsError: The string is malformed, or names what can't be used.
    """
    words, named = _split(description)
    if not words or words[0] not in ("ssl", "tls", *_KINDS):
        return None
    try:
        announced = _is_announced(named.pop("proxyProtocol", None), proxy)
        endpoint = _own_endpoint(words, named, backlog, tls)
    except (ValueError, SettingsError) as error:
        raise SettingsError(f"endpoint {description!r}: {error}") from None
    if endpoint is not None and announced:
        from daphne_like.listeners.proxy_transports import ProxyPolicy
        from daphne_like.settings import ProxySettings

        endpoint.proxy = ProxyPolicy.from_settings(proxy or ProxySettings())
    return endpoint


def _is_announced(argument: str | None, proxy: ProxySettings | None) -> bool:
    """Whether an endpoint expects the PROXY protocol."""
    if argument is None:
        return proxy is not None and proxy.proxy_protocol
    if argument not in ("yes", "no"):
        raise ValueError(f"proxyProtocol must be yes or no, not {argument!r}")
    return argument == "yes"


def _own_endpoint(
    words: list[str], named: dict[str, str], backlog: int, tls: TLSSettings | None
) -> SocketEndpoint | None:
    if words[0] in ("ssl", "tls"):
        return _tls_endpoint(words, named, backlog, tls)
    make_source, names = _KINDS[words[0]]
    arguments = _arguments(words[1:], named, (*names, "backlog"))
    text = arguments.pop("backlog", str(backlog))
    return SocketEndpoint(make_source(**arguments), _backlog(text))


def twisted_endpoint(description: str, reactor: object) -> IStreamServerEndpoint:
    """
    Make an endpoint of Twisted's, with its transports.

    Raises:
        SettingsError: The string is malformed or names an unknown kind.
    """
    # Imported late: it takes much, and most users' endpoints are ours.
    from twisted.internet.endpoints import serverFromString

    _let_wrappers_negotiate()

    try:
        endpoint: IStreamServerEndpoint = serverFromString(reactor, description)
    except Exception as error:  # noqa: BLE001 - plugins raise what they like
        reason = " ".join(str(error).split())
        if isinstance(error, TypeError) or not reason:
            # Python's text would name a private function of the plugin.
            reason = "wrong or missing arguments"
        raise SettingsError(f"endpoint {description!r}: {reason}") from None
    return endpoint


@lru_cache(maxsize=1)
def _let_wrappers_negotiate() -> None:
    """
    Let Twisted's TLS find the protocols of a factory that is wrapped once more.

    That for HAProxy, for instance, says nothing of ALPN; and Twisted 26.10 fails
    all handshakes of clients which offer a protocol where there is none.
    """
    from twisted.protocols.policies import WrappingFactory
    from twisted.python.components import registerAdapter

    registerAdapter(
        lambda wrapper: IProtocolNegotiationFactory(wrapper.wrappedFactory, None),
        WrappingFactory,
        IProtocolNegotiationFactory,
    )


def scheme_of(description: str, endpoint: object = None) -> str:
    """
    Tell the URL scheme of what listens on an endpoint.

    Args:
        description: The endpoint's string.
        endpoint: The endpoint, where it is ours.
    """
    if isinstance(endpoint, SocketEndpoint):
        return "http" if endpoint.tls is None else "https"
    # With Twisted, HAProxy's header comes within TLS: haproxy:ssl:...
    kind = description.removeprefix("haproxy:").partition(":")[0]
    return "https" if kind in ("ssl", "tls") else "http"


def _is_haproxys(description: str) -> bool:
    """Whether Twisted reads the PROXY protocol there."""
    return description.startswith("haproxy:")


# -- Endpoint strings --------------------------------------------------------


def _quote(text: str) -> str:
    """Escape what has a meaning in endpoint strings."""
    return text.replace("\\", "\\\\").replace(":", "\\:").replace("=", "\\=")


def _split(description: str) -> tuple[list[str], dict[str, str]]:
    """
    Split at unescaped colons into positional and ``name=value`` arguments.

    Of two arguments with one name the last counts, as in Twisted.
    """
    word = ""
    name: str | None = None
    positional: list[str] = []
    named: dict[str, str] = {}
    characters = iter(description + ":")
    for character in characters:
        if character == "\\":
            word += next(characters, "")
        elif character == "=" and name is None:
            name, word = word, ""
        elif character == ":":
            if name is None:
                positional.append(word)
            else:
                named[name] = word
            word, name = "", None
        else:
            word += character
    return positional, named


def _arguments(
    positional: Sequence[str], named: dict[str, str], names: Sequence[str]
) -> dict[str, str]:
    """Give the arguments their names, the first of which is mostly needed."""
    if len(positional) > len(names):
        raise ValueError(f"at most {len(names)} arguments: {', '.join(names)}")
    arguments = dict(zip(names, positional, strict=False))
    for name, value in named.items():
        if name not in names:
            raise ValueError(f"unknown argument {name!r}{did_you_mean(name, names)}")
        if name in arguments:
            raise ValueError(f"{name} is given twice")
        arguments[name] = value
    if names[0] not in arguments and names[0] not in _OPTIONAL_ARGUMENTS:
        raise ValueError(f"{names[0]} is missing")
    return arguments


def _tls_endpoint(
    words: list[str],
    named: dict[str, str],
    backlog: int,
    settings: TLSSettings | None,
) -> SocketEndpoint | None:
    """
    Make an endpoint with the certificate which its string names.

    ``ssl:`` is Twisted's, with the same names and order of arguments. So is
    ``tls:``, which takes a directory; with one of the names of files for ``ssl:``
    it means that. ``tls:`` is also the kind of a plugin, which has an endpoint in
    place of the port: that goes to Twisted.
    """
    from daphne_like.listeners import tls
    from daphne_like.settings import TLSSettings

    policy = tls.TLSPolicy.from_settings(settings or TLSSettings())
    source: tls.CertificateSource
    if words[0] == "ssl" or {"privateKey", "certKey"} & set(named):
        arguments = _arguments(words[1:], named, _SSL_ARGUMENTS)
        key = arguments.get("privateKey", "server.pem")
        if "sslmethod" in arguments:
            policy = policy.with_method(arguments["sslmethod"])
        policy = replace(policy, dh_parameters=arguments.get("dhParameters"))
        source = tls.CertificateFiles(
            arguments.get("certKey", key),
            key,
            arguments.get("extraCertChain"),
            None if settings is None else settings.ssl_keyfile_password,
        )
        where = _TCPSource.of(arguments["port"], arguments.get("interface", ""))
    else:
        if len(words) > 2 and not words[2].isdigit():
            return None
        arguments = _arguments(words[1:], named, _TLS_ARGUMENTS)
        source = tls.CertificateDirectory(arguments["path"])
        where = _TCPSource.of(
            arguments.get("port", "443"), arguments.get("interface", "::")
        )
    endpoint = SocketEndpoint(where, _backlog(arguments.get("backlog", str(backlog))))
    endpoint.tls = tls.ServerTLS([source], policy)
    return endpoint


def _backlog(text: str) -> int:
    return _number(text, "backlog", 2**31 - 1)


def _number(text: str, what: str, largest: int) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > largest:
        raise ValueError(f"{what} must be a number from 0 to {largest}, not {text!r}")
    return int(text)


# -- Sockets -----------------------------------------------------------------


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
class _TCPSource(SocketSource):
    """All addresses of a host, with one port."""

    host: str
    port: int

    @classmethod
    def of(cls, port: str, interface: str = "") -> _TCPSource:
        host = interface.strip("[]") or "0.0.0.0"  # noqa: S104 - as asked
        return cls(host, _number(port, "the port", 65535))

    @property
    def where(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def takes_both_families(self) -> bool:
        return self.host == "::"

    def open(
        self, beside: Sequence[socket.socket], *, reuse_port: bool = False
    ) -> list[socket.socket]:
        try:
            found = socket.getaddrinfo(
                self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
        except ValueError as error:  # what can't be encoded as a host name
            raise _listen_error(self.where, error) from None
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
class _UnixSource(SocketSource):
    """A socket file, in place of one that nobody listens on."""

    address: str
    mode: int

    @classmethod
    def of(
        cls,
        address: str,
        mode: str = "666",
        lockfile: str = "",  # noqa: ARG003 - Twisted's; here connecting tells
    ) -> _UnixSource:
        if _AF_UNIX is None:
            raise ValueError("this system has no Unix sockets")
        if not address or "\0" in address:
            raise ValueError("address must be the path of a file")
        if not mode or set(mode) - set("01234567") or int(mode, 8) > 0o777:
            raise ValueError(f"mode must be octal digits up to 777, not {mode!r}")
        return cls(address, int(mode, 8))

    @property
    def where(self) -> str:
        return self.address

    @property
    def path(self) -> str:
        return self.address

    def open(
        self, beside: Sequence[socket.socket], *, reuse_port: bool = False
    ) -> list[socket.socket]:
        if any(other.getsockname() == self.address for other in beside):
            raise _listen_error(self.address, "is named twice")
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
            raise _listen_error(self.address, "exists and is no socket")
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
class _DescriptorSource(SocketSource):
    """Sockets which this process has inherited; each knows its own family."""

    numbers: tuple[int, ...]
    name: str = ""
    is_systemds: bool = False

    @classmethod
    def of(
        cls,
        fileno: str,
        domain: str = "",  # noqa: ARG003 - Twisted and Daphne want it named
    ) -> _DescriptorSource:
        from daphne_like.systemd import passed_sockets

        number = _number(fileno, "fileno", 2**31 - 1)
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
    ) -> _DescriptorSource:
        from daphne_like.systemd import find_sockets

        found = find_sockets(index, name)
        numbers = tuple(sock.number for sock in found)
        return cls(numbers, found[0].name, is_systemds=True)

    @property
    def where(self) -> str:
        what = f"descriptor {', '.join(map(str, self.numbers))}"
        return f"{what} ({self.name})" if self.name else what

    @property
    def said_by_name(self) -> str:
        return self.name if self.name in ("http", "https", "redirect") else ""

    def open(
        self, beside: Sequence[socket.socket], *, reuse_port: bool = False
    ) -> list[socket.socket]:
        sockets: list[socket.socket] = []
        try:
            for number in self.numbers:
                if any(other.fileno() == number for other in beside):
                    raise _listen_error(self.where, "is named twice")
                sock = socket.socket(fileno=number)
                sockets.append(sock)
                if reason := _no_listener(sock, self.is_systemds):
                    raise _listen_error(self.where, reason)
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
    if sock.family not in (socket.AF_INET, socket.AF_INET6, _AF_UNIX):
        return "is neither a TCP nor a Unix socket"
    with contextlib.suppress(OSError):
        sock.getpeername()
        hint = "; its unit needs Accept=no" if is_systemds else ""
        return f"is a connection, not a listening socket{hint}"
    # Others may pass what is only bound; it listens when the application is ready.
    if is_systemds and not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return "is not listening"
    return None


def _listen_error(where: str, reason: object) -> ListenError:
    number = None
    if isinstance(reason, OSError):
        number = reason.errno
        reason = reason.strerror or reason
    return ListenError(f"Listen failure: {where}: {reason}", number)


_KINDS: dict[str, tuple[Callable[..., SocketSource], tuple[str, ...]]] = {
    "tcp": (_TCPSource.of, ("port", "interface")),
    "unix": (_UnixSource.of, ("address", "mode", "lockfile")),
    "fd": (_DescriptorSource.of, ("fileno", "domain")),
    "systemd": (_DescriptorSource.of_systemd, ("domain", "index", "name")),
}
# Of those which come first.
_OPTIONAL_ARGUMENTS = frozenset({"domain"})


# In Twisted's order, as they may come without their names.
_SSL_ARGUMENTS = (
    *("port", "privateKey", "certKey", "sslmethod", "interface", "backlog"),
    *("extraCertChain", "dhParameters"),
)
_TLS_ARGUMENTS = ("path", "port", "backlog", "interface")


# -- Listening ---------------------------------------------------------------

# Of a socket, for one beside it at the same address.
_TCP_OPTIONS = [
    (socket.SOL_SOCKET, socket.SO_REUSEADDR),
    (socket.SOL_SOCKET, getattr(socket, "SO_REUSEPORT", socket.SO_REUSEADDR)),
]
_COPIED_OPTIONS = {
    socket.AF_INET: _TCP_OPTIONS,
    socket.AF_INET6: [*_TCP_OPTIONS, (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)],
}


def bind_all(endpoints: Iterable[SocketEndpoint], *, reuse_port: bool = False) -> None:
    """
    Bind the endpoints of one server.

    Args:
        endpoints: All of them.
        reuse_port: Whether others may bind the same TCP ports, see
            :meth:`SocketEndpoint.siblings`.

    Raises:
        ListenError: An address can't be bound. The caller closes all endpoints.
    """
    bound: list[socket.socket] = []
    # "::" comes last: it has to know who takes IPv4.
    for endpoint in sorted(endpoints, key=lambda item: item.takes_both_families):
        bound += endpoint.bind(bound, reuse_port=reuse_port)


@implementer(IStreamServerEndpoint)
class SocketEndpoint:
    """
    Listens through the running event loop.

    Attributes:
        tls: The certificates; ``None`` for no TLS.
        proxy: Who may send the PROXY protocol's header, which must come; ``None``
            where none is expected.
    """

    def __init__(self, source: SocketSource, backlog: int) -> None:
        self.tls: ServerTLS | None = None
        self.proxy: ProxyPolicy | None = None
        self._source = source
        self._backlog = backlog
        self._sockets: list[socket.socket] = []
        self._file: tuple[int, int] | None = None
        self._keeps_file = True

    @property
    def takes_both_families(self) -> bool:
        """Whether it takes IPv4 connections on an IPv6 socket."""
        return self._source.takes_both_families

    @property
    def said_by_name(self) -> str:
        """``http``, ``https`` or ``redirect`` where the socket is named so, else empty."""
        return self._source.said_by_name

    def bind(
        self, beside: Sequence[socket.socket] = (), *, reuse_port: bool = False
    ) -> Sequence[socket.socket]:
        """
        Claim the addresses without listening, which :meth:`listen` does.

        What is bound already stays so.

        Args:
            beside: The sockets which this server has bound already.
            reuse_port: Whether others may bind the same TCP port.

        Raises:
            ListenError: An address can't be bound.
        """
        if self._sockets:
            return self._sockets
        try:
            self._sockets = self._source.open(beside, reuse_port=reuse_port)
        except OSError as error:
            raise _listen_error(self._source.where, error) from None
        self._file = self._identify_file()
        return self._sockets

    def siblings(self) -> list[socket.socket]:
        """
        Bind further TCP sockets to the same addresses, beside those which may be.

        The system deals connections out among them. What can't have a sibling is
        shared: the same sockets are returned once more.

        Raises:
            ListenError: That can't be done.
        """
        return [self._sibling(sock) for sock in self._sockets]

    def _sibling(self, sock: socket.socket) -> socket.socket:
        if sock.family == _AF_UNIX or not sock.getsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEPORT
        ):
            return sock
        sibling = socket.socket(sock.family, sock.type, sock.proto)
        try:
            for level, option in _COPIED_OPTIONS[sock.family]:
                sibling.setsockopt(level, option, sock.getsockopt(level, option))
            sibling.bind(sock.getsockname())
        except OSError as error:
            sibling.close()
            raise _listen_error(self._source.where, error) from None
        return sibling

    def adopt(self, sockets: Sequence[socket.socket]) -> None:
        """
        Listen on sockets which another process has bound, and which keeps them.

        Args:
            sockets: What :meth:`bind` or :meth:`siblings` returned there.
        """
        self._sockets = list(sockets)
        self._file = self._identify_file()
        self._keeps_file = False

    def close(self) -> None:
        """Give up what is bound; remove the socket file unless a successor has it."""
        for sock in self._sockets:
            sock.close()
        self._sockets = []
        path, file = self._source.path, self._file
        self._file = None
        if path is None or file is None or not self._keeps_file:
            return
        if file == self._identify_file():
            with contextlib.suppress(OSError):
                Path(path).unlink()

    @property
    def bound(self) -> Sequence[socket.socket]:
        """The sockets, as far as they are bound."""
        return tuple(self._sockets)

    def abandon(self) -> None:
        """Close what is bound in a forked child; a socket file is the parent's."""
        for sock in self._sockets:
            sock.close()
        self._sockets = []
        self._file = None

    def listen(self, factory: IProtocolFactory) -> Deferred[IListeningPort]:
        """
        Listen at once.

        Returns:
            Fires with the port, or fails with :class:`ListenError`.
        """
        return Deferred.fromFuture(asyncio.ensure_future(self._listen(factory)))

    async def _listen(self, factory: IProtocolFactory) -> IListeningPort:
        if not self._sockets:
            self.bind()
        servers: list[_Acceptor] = []
        try:
            if self._file != self._identify_file():
                # Bound and not yet listening, it looked stale to another server.
                raise _listen_error(self._source.where, "another server took it over")
            for sock in self._sockets:
                server = await self._start(sock, factory)
                servers.append(server)
            return LoopPort(self, factory, servers, self._sockets)
        except BaseException as error:
            for server in servers:
                server.close()
            self.close()
            if isinstance(error, OSError):
                raise _listen_error(self._source.where, error) from None
            raise

    async def _start(self, sock: socket.socket, factory: IProtocolFactory) -> _Acceptor:
        sock.setblocking(False)
        # uvloop says nothing when it can't listen; so that is done here.
        sock.listen(self._backlog)
        make_transport: Callable[[], LoopTransport] = partial(LoopTransport, factory)
        pending: list[PendingConnections] = []
        if self.tls is not None:
            from daphne_like.listeners import tls_transports

            if IProtocolNegotiationFactory.providedBy(factory):
                self.tls.offer(factory.acceptableProtocols())
            handshakes = tls_transports.Handshakes(self.tls)
            pending.append(handshakes)
            make_transport = partial(
                tls_transports.LoopTLSTransport, factory, handshakes
            )
        make_protocol: Callable[[], asyncio.Protocol] = make_transport
        if self.proxy is not None:
            from daphne_like.listeners.proxy_transports import ProxyHeaders

            # Before TLS (section 2 of the PROXY protocol).
            headers = ProxyHeaders(self.proxy, make_transport)
            pending.append(headers)
            make_protocol = headers.make_reader
        loop = asyncio.get_running_loop()
        options: dict[str, Any] = {"sock": sock, "backlog": _ACCEPTS_PER_TURN}
        listen: Callable[..., Any] = loop.create_server
        if sock.family == _AF_UNIX:
            listen = loop.create_unix_server
            if sys.version_info >= (3, 13):
                # The file may be systemd's; when it is ours, we remove it.
                options["cleanup_socket"] = False
        server: asyncio.AbstractServer = await listen(make_protocol, **options)
        # Once more, in place of what the loop took for the backlog.
        sock.listen(self._backlog)
        return _Acceptor(server, pending)

    def _identify_file(self) -> tuple[int, int] | None:
        """Tell one socket file from another at the same path."""
        if self._source.path is None:
            return None
        try:
            status = os.lstat(self._source.path)
        except PermissionError:
            return self._file  # root has bound it, and we are root no more
        except OSError:
            return None
        return status.st_dev, status.st_ino


class _Acceptor:
    """Accepts the connections of one socket."""

    def __init__(
        self, server: asyncio.AbstractServer, pending: Sequence[PendingConnections]
    ) -> None:
        self._server = server
        self._pending = pending

    def close(self) -> None:
        """Accept no more; cut those which haven't begun."""
        self._server.close()
        for connections in self._pending:
            connections.close()


@implementer(IListeningPort)
class LoopPort:
    """The listening sockets of one endpoint."""

    def __init__(
        self,
        endpoint: SocketEndpoint,
        factory: IProtocolFactory,
        servers: Sequence[_Acceptor],
        sockets: Sequence[socket.socket],
    ) -> None:
        self._endpoint = endpoint
        self._factory = factory
        self._servers = servers
        self._sockets = sockets
        self._addresses = [
            twisted_address(sock, sock.getsockname()) for sock in sockets
        ]
        factory.doStart()

    def startListening(self) -> None:
        """Do nothing: it listens from the start (IListeningPort)."""

    def stopListening(self) -> Deferred[None]:
        """Accept no more; connections go on (IListeningPort)."""
        return Deferred.fromFuture(asyncio.ensure_future(self._stop()))

    async def _stop(self) -> None:
        servers, self._servers = self._servers, ()
        if not servers:
            return
        loop = asyncio.get_running_loop()
        for sock in self._sockets:
            loop.remove_reader(sock)
        # What asyncio has accepted in this turn it connects in the next one, but
        # forgets when the server is closed meanwhile.
        await asyncio.sleep(0)
        for server in servers:
            server.close()
        self._endpoint.close()
        self._factory.doStop()

    def getHost(self) -> IAddress:
        """Tell the first address (IListeningPort)."""
        return self._addresses[0]

    def addresses(self) -> list[IAddress]:
        """Tell all addresses, as a host name may have several."""
        return list(self._addresses)
