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

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from twisted.internet.interfaces import (
    IProtocolNegotiationFactory,
    IStreamServerEndpoint,
)

from daphne_like.errors import SettingsError
from daphne_like.listeners.ports import SocketEndpoint
from daphne_like.listeners.sockets import (
    DescriptorSource,
    SocketSource,
    TCPSource,
    UnixSource,
    read_number,
)
from daphne_like.setting_kinds import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from daphne_like.listeners.tls import ServerTLS
    from daphne_like.settings import BindSettings, ProxySettings, TLSSettings

__all__ = [
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
        where = TCPSource.of(arguments["port"], arguments.get("interface", ""))
    else:
        if len(words) > 2 and not words[2].isdigit():
            return None
        arguments = _arguments(words[1:], named, _TLS_ARGUMENTS)
        source = tls.CertificateDirectory(arguments["path"])
        where = TCPSource.of(
            arguments.get("port", "443"), arguments.get("interface", "::")
        )
    endpoint = SocketEndpoint(where, _backlog(arguments.get("backlog", str(backlog))))
    endpoint.tls = tls.ServerTLS([source], policy)
    return endpoint


def _backlog(text: str) -> int:
    return read_number(text, "backlog", 2**31 - 1)


_KINDS: dict[str, tuple[Callable[..., SocketSource], tuple[str, ...]]] = {
    "tcp": (TCPSource.of, ("port", "interface")),
    "unix": (UnixSource.of, ("address", "mode", "lockfile")),
    "fd": (DescriptorSource.of, ("fileno", "domain")),
    "systemd": (DescriptorSource.of_systemd, ("domain", "index", "name")),
}
# Of those which come first.
_OPTIONAL_ARGUMENTS = frozenset({"domain"})


# In Twisted's order, as they may come without their names.
_SSL_ARGUMENTS = (
    *("port", "privateKey", "certKey", "sslmethod", "interface", "backlog"),
    *("extraCertChain", "dhParameters"),
)
_TLS_ARGUMENTS = ("path", "port", "backlog", "interface")
