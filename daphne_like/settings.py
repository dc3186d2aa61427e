"""
Every setting of the server, defined once.

A setting is a field of one of the frozen section classes below. Its name is the
keyword of ``Server(...)``, the key of the TOML file, the long option with ``-`` for
``_``, and, in capitals after ``DAPHNE_LIKE_``, the environment variable. The command
line, ``--help``, ``--show-config`` and ``docs/settings.md`` are made from the same
fields, so that none of them can drift apart.

A section checks its fields when it is made, so a section which exists is valid. What
is wrong raises :class:`~daphne_like.errors.SettingsError`, one line which names the
setting in the words of the source it came from.

Importing this module must stay cheap: no Twisted, and no TOML reader before a file is
read.

Tests: ``tests/unit/test_settings.py``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from daphne_like.errors import SettingsError
from daphne_like.setting_kinds import (
    Choice,
    FileMode,
    Flag,
    Integer,
    Kind,
    Seconds,
    Secret,
    Several,
    Text,
    did_you_mean,
    header,
    header_name,
    header_value,
    host_and_port,
    log_format,
    trusted_peer,
)

__all__ = [
    "ENVIRONMENT_PREFIX",
    "KNOWN_SETTINGS",
    "SECTION_TITLES",
    "ApplicationSettings",
    "BindSettings",
    "HTTP2Settings",
    "HTTPSettings",
    "LifecycleSettings",
    "LogSettings",
    "ProxySettings",
    "Setting",
    "Settings",
    "TLSSettings",
    "WebSocketSettings",
    "read_toml",
]

ENVIRONMENT_PREFIX = "DAPHNE_LIKE_"


# -- Definition of settings ---------------------------------------------------


@dataclass(frozen=True, slots=True)
class Setting:
    """
    One setting as the command line, the documentation and the readers see it.

    Attributes:
        name: Field, TOML key and keyword.
        section: Field of :class:`Settings` which holds it.
        default: The value when no source gives one.
        kind: How its values are read.
        help: Meaning, unit and reason of the default.
        given_options: Spellings on the command line where they differ from the
            name.
        off_option: Option which sets the empty text, or nothing.
    """

    name: str
    section: str
    default: Any
    kind: Kind
    help: str
    given_options: tuple[str, ...]
    off_option: str | None

    @property
    def options(self) -> tuple[str, ...]:
        """Spellings on the command line; none for the positional argument."""
        if self.name == "application":
            return ()
        return self.given_options or ("--" + self.name.replace("_", "-"),)

    @property
    def environment_variable(self) -> str:
        """The name of the variable which sets it."""
        return ENVIRONMENT_PREFIX + self.name.upper()

    @property
    def default_text(self) -> str:
        """The default as on a command line; empty when there is none."""
        return "" if self.default is None else self.kind.text(self.default)

    def read(self, value: object) -> Any:
        """
        Return the value in its final type; None stands for a default of None.

        Raises:
            ValueError: The value is wrong; the text is the reason.
        """
        if value is None and self.default is None:
            return None
        return self.kind.read(value)


def setting(
    default: object,
    kind: Kind,
    help: str,  # noqa: A002 - argparse's word
    *options: str,
    off_option: str | None = None,
) -> Any:
    """
    Define a field of a section class.

    Args:
        default: The value when no source gives one.
        kind: How values are read and checked.
        help: One sentence: the meaning with its unit, the reason of the default.
        options: Spellings on the command line, short ones first; without any,
            the field's name with dashes.
        off_option: Option which sets the empty text.
    """
    definition = {
        "kind": kind,
        "help": help,
        "given_options": options,
        "off_option": off_option,
    }
    return field(
        default=default,
        repr=not isinstance(kind, Secret),
        metadata={"definition": definition},
    )


class _Section:
    """Checks and converts each field when a section is made."""

    __slots__ = ()

    def __post_init__(self) -> None:
        for definition in _SETTINGS_BY_SECTION[type(self)]:
            value = getattr(self, definition.name)
            # Defaults are right, and checking them would cost imports.
            if value is definition.default:
                continue
            try:
                value = definition.read(value)
            except ValueError as error:
                raise SettingsError(f"{definition.name} {error}") from None
            object.__setattr__(self, definition.name, value)


@dataclass(frozen=True, slots=True)
class ApplicationSettings(_Section):
    """What is served, and how the application is started and stopped."""

    application: str | None = setting(
        None,
        Text("MODULE:ATTRIBUTE"),
        "application to serve, for example project.asgi:application; "
        "without one, a built-in demo",
    )
    factory: bool = setting(
        False, Flag(), "the attribute is a function which returns the application"
    )
    app_dir: str = setting(
        ".", Text("DIR"), "directory searched first for the application's module"
    )
    interface: str = setting(
        "auto",
        Choice("auto", "asgi3", "asgi2"),
        "the application's version of ASGI; auto looks at its signature",
    )
    lifespan: str = setting(
        "auto",
        Choice("auto", "on", "off"),
        "whether the application hears of start and stop; "
        "auto asks, and takes a refusal for no",
    )
    root_path: str = setting(
        "",
        Text("PATH", empty=True),
        "path under which a proxy publishes the application; taken literally",
    )
    timeout_startup: float = setting(
        60.0,
        Seconds(),
        "longest lifespan startup; 0 = no limit; "
        "long enough to connect to slow databases",
    )
    timeout_shutdown: float = setting(
        30.0,
        Seconds(),
        "longest lifespan shutdown; 0 = no limit; "
        "service managers kill after 90 seconds",
    )
    application_close_timeout: float = setting(
        10.0,
        Seconds(),
        "how long the application may go on after its client has left; "
        "0 = cancelled at once; as Daphne",
    )
    daphne_compat: bool = setting(
        False,
        Flag(),
        "be as lenient as Daphne where the RFCs are not, and take its defaults; for "
        "projects that rely on them",
    )


@dataclass(frozen=True, slots=True)
class BindSettings(_Section):
    """Where connections are taken from."""

    bind: tuple[str, ...] = setting(
        (),
        Several(Text("HOST")),
        "address or host name to listen on, repeatable; 127.0.0.1 where only a port, "
        "or nothing, is given",
        "-b",
        "--bind",
        "--host",
    )
    port: int | None = setting(
        None,
        Integer(0, 65535, metavar="PORT"),
        "TCP port; 0 picks a free one; 8000 where only an address, or nothing, "
        "is given",
        "-p",
        "--port",
    )
    unix_socket: tuple[str, ...] = setting(
        (),
        Several(Text("PATH")),
        "Unix socket to listen on, repeatable",
        "-u",
        "--unix-socket",
        "--uds",
    )
    fd: tuple[int, ...] = setting(
        (),
        Several(Integer(metavar="FD")),
        "inherited file descriptor of a listening socket, repeatable",
    )
    endpoint: tuple[str, ...] = setting(
        (),
        Several(Text("STRING")),
        "Twisted endpoint description, for example tcp:port=80, repeatable",
        "-e",
        "--endpoint",
    )
    backlog: int = setting(
        2048,
        Integer(1),
        "connections which may wait to be accepted; the kernel's own limit applies too",
    )
    uds_permissions: int = setting(
        0o666,
        FileMode(),
        "permissions of Unix sockets, octal; the directory keeps others out",
    )


@dataclass(frozen=True, slots=True)
class TLSSettings(_Section):
    """Certificates, and what is asked of clients."""

    ssl_certfile: tuple[str, ...] = setting(
        (),
        Several(Text("FILE")),
        "PEM file with a certificate and its chain; makes TLS of what --bind, --port, "
        "--unix-socket and --fd name; repeatable, then the client's choice of a host "
        "name decides, and the first is for all others",
    )
    ssl_keyfile: tuple[str, ...] = setting(
        (),
        Several(Text("FILE")),
        "PEM file with the private key of the certificate in the same place; without "
        "any, keys are in the files of the certificates",
    )
    ssl_keyfile_password: str | None = setting(
        None,
        Secret("PASSWORD"),
        "password of encrypted private keys; best in the environment, since command "
        "lines can be seen by others",
    )
    ssl_ca_certs: str | None = setting(
        None,
        Text("PATH"),
        "PEM file, or directory made by openssl rehash, with the authorities whose "
        "client certificates are accepted",
    )
    ssl_cert_reqs: str = setting(
        "none",
        Choice(
            *("none", "optional", "required"),
            # Those of Python's ssl module, which Uvicorn takes.
            aliases={0: "none", 1: "optional", 2: "required"},
        ),
        "whether clients are asked for a certificate; optional refuses wrong ones, too",
    )
    ssl_ciphers: str | None = setting(
        None,
        Text("LIST"),
        "cipher suites of TLS 1.2 in OpenSSL's notation, instead of Python's choice, "
        "which has only those with forward secrecy",
    )
    ssl_min_version: str = setting(
        "1.2",
        Choice("1.2", "1.3"),
        "oldest version of TLS; older ones than 1.2 are broken (RFC 8996)",
    )
    ssl_handshake_timeout: float = setting(
        10.0,
        Seconds(),
        "time from a connection to the end of its TLS handshake, then a cut; "
        "0 = no limit",
    )
    ssl_reload_interval: float = setting(
        5.0,
        Seconds(),
        "how often the files of certificates are looked at for a change; "
        "0 = never, only SIGHUP reads them again",
    )
    ssl_dev: bool = setting(
        False,
        Flag(),
        "serve TLS with a certificate of our own making, for development: browsers "
        "warn of it",
    )
    redirect_https: str | None = setting(
        None,
        Text("[HOST:]PORT", check=host_and_port),
        "also listen there without TLS, and answer each request with 308 to the "
        "https URL; on the hosts of --bind, where only a port is given",
    )

    def __post_init__(self) -> None:
        """Refuse combinations of which a part would have no effect."""
        _Section.__post_init__(self)
        if self.ssl_dev and self.ssl_certfile:
            raise SettingsError("ssl_dev and ssl_certfile exclude each other")
        if self.ssl_keyfile and len(self.ssl_keyfile) != len(self.ssl_certfile):
            raise SettingsError(
                "ssl_keyfile must be given as often as ssl_certfile, or not at all"
            )
        if self.ssl_cert_reqs == "none" and self.ssl_ca_certs is not None:
            raise SettingsError("ssl_ca_certs has no effect without ssl_cert_reqs")
        if self.ssl_cert_reqs != "none" and self.ssl_ca_certs is None:
            raise SettingsError("ssl_cert_reqs needs ssl_ca_certs")

    @property
    def secures_listeners(self) -> bool:
        """Whether what isn't named by an endpoint string speaks TLS."""
        return self.ssl_dev or bool(self.ssl_certfile)


@dataclass(frozen=True, slots=True)
class HTTPSettings(_Section):
    """Deadlines, limits and headers of HTTP; 0 means that there is no limit."""

    http_timeout: float | None = setting(
        None,
        Seconds(),
        "longest request from head to end of response, then 503 or a cut; "
        "none by default, since streams may last for ever",
        "-t",
        "--http-timeout",
    )
    timeout_keep_alive: float = setting(
        5.0, Seconds(), "idle time between requests; short, since idling costs memory"
    )
    timeout_request_header: float = setting(
        10.0,
        Seconds(),
        "time for the whole request head, then 408; bounds slow senders",
    )
    timeout_request_body: float = setting(
        30.0, Seconds(), "longest silence in mid-body, then 408; mobile networks pause"
    )
    timeout_send: float = setting(
        60.0, Seconds(), "longest time a client takes nothing of a response, then a cut"
    )
    limit_request_line: int = setting(
        8190, Integer(), "bytes of method and target, then 414; Apache's value"
    )
    limit_request_header: int = setting(
        65536, Integer(), "bytes of all header fields, then 431; room for big cookies"
    )
    limit_request_fields: int = setting(
        100, Integer(), "header fields, then 431; Apache's value"
    )
    limit_request_body: int = setting(
        0,
        Integer(highest=2**63 - 1),
        "bytes of a request body, then 413; 0, since bodies are streamed and "
        "memory stays flat",
    )
    request_buffer_size: int = setting(
        0,
        Integer(highest=2**63 - 1),
        "bytes of a request body in one http.request event; 0 = whatever has come, "
        "since fewer events are faster",
    )
    limit_connections: int = setting(
        0,
        Integer(),
        "open connections, then further ones get 503; 0, since the system limits files",
    )
    limit_concurrency: int = setting(
        0,
        Integer(),
        "requests in the application, then 503; 0, since only you know its load",
    )
    limit_pipelined_requests: int = setting(
        16, Integer(), "requests read ahead on a connection; reading pauses beyond"
    )
    server_name: str = setting(
        "daphne-like",
        Text("NAME", empty=True, check=header_value),
        "Server header of responses which have none; empty = no such header",
        "-s",
        "--server-name",
        off_option="--no-server-name",
    )
    date_header: bool = setting(
        True, Flag(), "add a Date header to responses which have none (RFC 9110 6.6.1)"
    )
    header: tuple[str, ...] = setting(
        (),
        Several(Text("NAME:VALUE", check=header)),
        "header added to every response, repeatable",
    )
    header_underscores: str = setting(
        "drop",
        Choice("drop", "keep", "reject"),
        "request headers with _ in their name; frameworks take _ for -, "
        "which deceives them",
    )

    @property
    def encoded_headers(self) -> tuple[tuple[bytes, bytes], ...]:
        """Pairs of ``header`` as ASGI has them: lower-case name, value, as given."""
        pairs = (line.partition(":") for line in self.header)
        return tuple(
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, _, value in pairs
        )


@dataclass(frozen=True, slots=True)
class HTTP2Settings(_Section):
    """Which HTTP versions are spoken, and flow control of HTTP/2."""

    http: str = setting(
        "auto",
        Choice("auto", "1.1", "2"),
        "versions of HTTP; auto speaks what the client begins with, or asks for in TLS",
    )
    h2c_upgrade: bool = setting(
        False,
        Flag(),
        "let cleartext clients upgrade from HTTP/1.1 to HTTP/2; off, since RFC 9113 "
        "has abolished it",
    )
    http2_max_concurrent_streams: int = setting(
        128,
        Integer(1, 2**31 - 1),
        "requests in flight on one HTTP/2 connection, then REFUSED_STREAM; "
        "RFC 9113 advises at least 100",
    )
    http2_stream_window: int = setting(
        262144,
        Integer(65535, 2**31 - 1),
        "bytes of a body which a client may send before the application takes "
        "any; where the application keeps up, it grows",
    )
    http2_max_stream_window: int = setting(
        4194304,
        Integer(65535, 2**31 - 1),
        "bytes to which that grows; enough for 300 Mbit/s at 100 ms",
    )
    http2_connection_window: int = setting(
        16777216,
        Integer(65535, 2**31 - 1),
        "bytes of all bodies of a connection which applications have not taken; "
        "bounds its memory",
    )
    http2_max_frame_size: int = setting(
        16384,
        Integer(16384, 2**24 - 1),
        "bytes of a frame which a client may send; small ones keep streams fair",
    )
    http2_ping_interval: float = setting(
        60.0,
        Seconds(),
        "silence of the client, with requests in flight, after which it is sent a "
        "PING; 0 = never",
    )
    http2_ping_timeout: float = setting(
        20.0, Seconds(), "longest wait for the answer to a PING, then a cut"
    )
    http2_push: bool = setting(
        False,
        Flag(),
        "offer http.response.push to applications; off, since browsers have dropped it",
    )


@dataclass(frozen=True, slots=True)
class WebSocketSettings(_Section):
    """Deadlines, limits and compression of WebSockets; 0 means no limit."""

    websocket_timeout: float = setting(
        86400.0,
        Seconds(minus_one=True),
        "longest life of a WebSocket, then it is closed with 1000; "
        "-1 or 0 = no limit; as Daphne",
        "--websocket_timeout",
        "--websocket-timeout",
    )
    websocket_connect_timeout: float = setting(
        5.0,
        Seconds(minus_one=True),
        "time for the application to accept a WebSocket, then 403; "
        "-1 or 0 = no limit; as Daphne",
        "--websocket_connect_timeout",
        "--websocket-connect-timeout",
    )
    ping_interval: float = setting(
        20.0,
        Seconds(),
        "silence after which a WebSocket is sent a ping; 0 = never; below the "
        "time after which proxies cut",
    )
    ping_timeout: float = setting(
        30.0,
        Seconds(),
        "longest silence after a ping, then a cut; 0 = no answer is expected",
    )
    ws_close_timeout: float = setting(
        5.0,
        Seconds(),
        "longest wait for the peer's answer when a WebSocket is closed, then a cut",
    )
    websocket_max_message_size: int = setting(
        1048576,
        Integer(),
        "bytes of a message, inflated, then close code 1009; as Daphne",
    )
    websocket_max_frame_size: int = setting(
        1048576, Integer(), "bytes of a frame, then close code 1009; as Daphne"
    )
    ws_max_queue: int = setting(
        32,
        Integer(1),
        "messages which the application has not received; reading pauses beyond",
    )
    ws_per_message_deflate: bool = setting(
        True, Flag(), "compress messages for clients that offer it (RFC 7692)"
    )
    ws_deflate_min_size: int = setting(
        128,
        Integer(),
        "bytes below which a message is sent as it is; compressing it saves nothing",
    )
    ws_deflate_level: int = setting(
        3,
        Integer(0, 9),
        "zlib level; 3 takes a tenth more time than 1, and a quarter less than 6 "
        "for a tenth more bytes",
    )
    ws_deflate_window_bits: int = setting(
        12,
        Integer(9, 15),
        "window of both directions, as a power of 2; each connection needs about "
        "five times its size",
    )
    ws_deflate_memory_level: int = setting(
        5, Integer(1, 9), "zlib memory level; 5 takes 16 KB a connection"
    )
    ws_deflate_context_takeover: bool = setting(
        True,
        Flag(),
        "let messages refer to earlier ones: better compression, memory for each "
        "connection",
    )


@dataclass(frozen=True, slots=True)
class ProxySettings(_Section):
    """Whether and how far the headers of a proxy in front are believed."""

    proxy_headers: bool = setting(
        False, Flag(), "take client, port and scheme from a trusted proxy's headers"
    )
    proxy_headers_host: str = setting(
        "X-Forwarded-For",
        Text("NAME", check=header_name),
        "header with the client's address; needs --proxy-headers",
    )
    proxy_headers_port: str = setting(
        "X-Forwarded-Port",
        Text("NAME", empty=True, check=header_name),
        "header with the client's port, empty = none; needs --proxy-headers",
    )
    proxy_headers_proto: str = setting(
        "X-Forwarded-Proto",
        Text("NAME", empty=True, check=header_name),
        "header with the client's scheme, empty = none; needs --proxy-headers",
    )
    forwarded_allow_ips: tuple[str, ...] = setting(
        ("127.0.0.1", "::1", "unix"),
        Several(Text("LIST", check=trusted_peer), separated=True),
        "trusted proxies: addresses and networks, unix = peers on Unix sockets, "
        "* = everyone; comma separated",
    )

    def __post_init__(self) -> None:
        """Refuse the name of a header which would not be looked at."""
        # super() without arguments fails here: slots=True makes the class anew.
        _Section.__post_init__(self)
        for name in (
            "proxy_headers_host",
            "proxy_headers_port",
            "proxy_headers_proto",
        ):
            if (
                not self.proxy_headers
                and getattr(self, name) != KNOWN_SETTINGS[name].default
            ):
                raise SettingsError(f"{name} has no effect without proxy_headers")


@dataclass(frozen=True, slots=True)
class LogSettings(_Section):
    """What is written where about the server's work."""

    verbosity: int = setting(
        1,
        Integer(0, 3),
        "0 = warnings, 1 = information and access log, 2 = debugging, "
        "3 = debugging of asyncio too",
        "-v",
        "--verbosity",
    )
    log_level: str | None = setting(
        None,
        Choice("critical", "error", "warning", "info", "debug"),
        "lowest level logged, whatever the verbosity",
    )
    log_config: str | None = setting(
        None,
        Text("FILE"),
        "TOML or JSON file for logging.config.dictConfig, instead of level and format",
    )
    log_fmt: str = setting(
        "%(asctime)-15s %(levelname)-8s %(message)s",
        Text("FORMAT", controls=True, check=log_format),
        "format of log lines on stderr; Daphne's",
    )
    access_log: str | None = setting(
        None,
        Text("FILE", empty=True),
        "file the access log is appended to; - = stdout, logger = logging's "
        "daphne_like.access, empty = none; stdout from verbosity 1 on",
        off_option="--no-access-log",
    )
    access_log_format: str = setting(
        "daphne",
        Text("FORMAT", controls=True),
        "daphne, json, or a format with Gunicorn's atoms",
    )

    @property
    def access_log_target(self) -> str | None:
        """Where the access log goes: a path, ``-``, ``logger``, or None for nowhere."""
        if self.access_log is None:
            return "-" if self.verbosity >= 1 else None
        return self.access_log or None


@dataclass(frozen=True, slots=True)
class LifecycleSettings(_Section):
    """How the server runs and stops."""

    timeout_graceful_shutdown: float = setting(
        30.0,
        Seconds(),
        "time for running requests to finish after a signal; 0 = cut at once; "
        "Kubernetes kills after 30 seconds",
    )
    loop: str = setting(
        "auto",
        Choice("auto", "uvloop", "asyncio"),
        "event loop; auto takes uvloop where it is installed, since it is faster",
    )


# -- All together -------------------------------------------------------------

SECTION_TITLES: Mapping[str, str] = {
    "app": "Application: what is served, and how it starts and stops",
    "bind": "Listening: where connections are taken from",
    "tls": "TLS: certificates, and what is asked of clients",
    "http": "HTTP: deadlines, limits (0 = none) and headers",
    "http2": "HTTP/2: which versions of HTTP are spoken, and flow control",
    "websocket": "WebSockets: deadlines, limits (0 = none) and compression",
    "proxy": "Proxies: whose forwarding headers are believed",
    "log": "Logs: what is written where",
    "lifecycle": "Lifecycle: how the server runs and stops",
}
"""For each section a word, and after a colon what it is about."""

_SECTIONS: dict[str, type[Any]] = {
    "app": ApplicationSettings,
    "bind": BindSettings,
    "tls": TLSSettings,
    "http": HTTPSettings,
    "http2": HTTP2Settings,
    "websocket": WebSocketSettings,
    "proxy": ProxySettings,
    "log": LogSettings,
    "lifecycle": LifecycleSettings,
}


_SETTINGS_BY_SECTION: dict[type[Any], tuple[Setting, ...]] = {
    section_class: tuple(
        Setting(
            name=item.name,
            section=section,
            default=item.default,
            **item.metadata["definition"],
        )
        for item in fields(section_class)
    )
    for section, section_class in _SECTIONS.items()
}

KNOWN_SETTINGS: Mapping[str, Setting] = {
    definition.name: definition
    for definitions in _SETTINGS_BY_SECTION.values()
    for definition in definitions
}
"""All settings by name, in the order of the sections."""

# What ``daphne_compat`` makes of settings which nobody gave.
_DAPHNE_DEFAULTS: Mapping[str, object] = {
    "request_buffer_size": 8192,
    "server_name": "daphne",
    "date_header": False,
    "forwarded_allow_ips": ("*",),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """
    All settings: one frozen section for each part of the server.

    Attributes:
        sources: Where each value that was given came from, by setting, in words
            for ``--show-config``. No part of equality.
    """

    app: ApplicationSettings = ApplicationSettings()
    bind: BindSettings = BindSettings()
    tls: TLSSettings = TLSSettings()
    http: HTTPSettings = HTTPSettings()
    http2: HTTP2Settings = HTTP2Settings()
    websocket: WebSocketSettings = WebSocketSettings()
    proxy: ProxySettings = ProxySettings()
    log: LogSettings = LogSettings()
    lifecycle: LifecycleSettings = LifecycleSettings()
    sources: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, **overrides: object) -> Settings:
        """
        Return the defaults with some settings replaced, each by its flat name.

        ``Settings.of(port=0, timeout_keep_alive="2s")``

        Raises:
            SettingsError: A name is unknown, or a value wrong.
        """
        return cls._from_layers(_from_mapping(overrides, "keyword"))

    @classmethod
    def from_sources(
        cls,
        command_line: Mapping[str, object] | None = None,
        environ: Mapping[str, str] | None = None,
        file: Mapping[str, object] | None = None,
        file_name: str = "settings file",
    ) -> Settings:
        """
        Merge: command line before environment before file before default.

        Args:
            command_line: Values of the options which were given, by setting.
            environ: Environment; only ``DAPHNE_LIKE_*`` is looked at.
            file: Top level of a TOML file, see :func:`read_toml`.
            file_name: Its name, for messages.

        Raises:
            SettingsError: A name is unknown, or a value wrong; tells which source.
        """
        return cls._from_layers(
            _from_mapping(file or {}, file_name),
            _from_environment(environ or {}),
            _from_mapping(command_line or {}, "command line"),
        )

    @classmethod
    def _from_layers(cls, *layers: Iterator[tuple[str, object, str]]) -> Settings:
        sections: dict[str, dict[str, Any]] = {section: {} for section in _SECTIONS}
        sources = {}
        for layer in layers:
            for name, value, source in layer:
                sections[KNOWN_SETTINGS[name].section][name] = value
                sources[name] = source
        if sections["app"].get("daphne_compat"):
            for name, value in _DAPHNE_DEFAULTS.items():
                sections[KNOWN_SETTINGS[name].section].setdefault(name, value)
                sources.setdefault(name, "daphne_compat")
        made: dict[str, Any] = {
            section: _SECTIONS[section](**values)
            for section, values in sections.items()
        }
        return cls(**made, sources=sources)

    def value(self, name: str) -> Any:
        """Return the value of a setting by its flat name."""
        return getattr(getattr(self, KNOWN_SETTINGS[name].section), name)

    def to_toml(self) -> str:
        """
        Return all settings as a TOML file, each with its source as a comment.

        A setting without a value is a comment, so that the file can be read back.
        """
        lines: list[str] = []
        section = ""
        for name, definition in KNOWN_SETTINGS.items():
            if definition.section != section:
                section = definition.section
                lines += ["", f"# {SECTION_TITLES[section]}"]
            value = self.value(name)
            if value is None:
                assignment = f"# {name} is not set"
            elif isinstance(definition.kind, Secret):
                assignment = f"# {name} is not shown"
            else:
                assignment = f"{name} = {definition.kind.toml(value)}"
            # A file's name may have characters which a TOML comment can't.
            source = "".join(
                character if character.isprintable() else "?"
                for character in self.sources.get(name, "default")
            )
            lines.append(f"{assignment:<48} # {source}")
        return "\n".join(lines[1:]) + "\n"


# -- Sources ------------------------------------------------------------------


def _names_by_spelling() -> Mapping[str, str]:
    """Return the names users may have had in mind: other options' spellings too."""
    return {
        spelling.lstrip("-").replace("-", "_"): name
        for name, definition in KNOWN_SETTINGS.items()
        for spelling in (*definition.options, name)
    }


def _from_mapping(
    values: Mapping[str, object], source: str
) -> Iterator[tuple[str, object, str]]:
    """Yield name, value and source of keywords or of the keys of a file."""
    for name, value in values.items():
        definition = KNOWN_SETTINGS.get(name)
        if definition is None:
            hint = did_you_mean(name, _names_by_spelling())
            raise SettingsError(f"{source}: {name} is no setting{hint}")
        yield name, _read(definition.read, value, f"{source}: {name}"), source


def _from_environment(
    environ: Mapping[str, str],
) -> Iterator[tuple[str, object, str]]:
    """Yield name, value and source of our variables, as :func:`_from_mapping`."""
    known = {
        definition.environment_variable: definition
        for definition in KNOWN_SETTINGS.values()
    }
    for variable, text in environ.items():
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        definition = known.get(variable)
        if definition is None:
            hint = did_you_mean(
                variable.removeprefix(ENVIRONMENT_PREFIX),
                {
                    spelling: KNOWN_SETTINGS[name].environment_variable
                    for spelling, name in _names_by_spelling().items()
                },
            )
            raise SettingsError(f"environment: {variable} is no setting{hint}")
        value = _read(definition.kind.read_environment, text, variable)
        yield definition.name, value, f"environment {variable}"


def _read(read: Callable[[Any], object], value: object, label: str) -> object:
    try:
        return read(value)
    except ValueError as error:
        raise SettingsError(f"{label} {error}") from None


def read_toml(path: str) -> dict[str, Any]:
    """
    Return the content of a TOML file.

    Raises:
        SettingsError: It can't be read, or is no TOML; tells the line.
    """
    from pathlib import Path

    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        return dict(tomllib.loads(Path(path).read_text("utf-8")))
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        # Both broken TOML and bytes which are no UTF-8.
        raise SettingsError(f"{path}: {error}") from None
