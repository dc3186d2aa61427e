"""
The settings of serving: what is served where, by which rules.

Tests: ``tests/unit/test_settings.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from daphne_like.errors import SettingsError
from daphne_like.setting_kinds import (
    Choice,
    FileMode,
    Flag,
    Integer,
    Seconds,
    Secret,
    Several,
    Text,
    header,
    header_name,
    header_value,
    host_and_port,
    trusted_peer,
)
from daphne_like.settings.definition import Section, setting

__all__ = [
    "ApplicationSettings",
    "BindSettings",
    "HTTP2Settings",
    "HTTPSettings",
    "ProxySettings",
    "TLSSettings",
    "WebSocketSettings",
]


@dataclass(frozen=True, slots=True)
class ApplicationSettings(Section):
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
class BindSettings(Section):
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
class TLSSettings(Section):
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
        Section.__post_init__(self)
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
class HTTPSettings(Section):
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
class HTTP2Settings(Section):
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
class WebSocketSettings(Section):
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
class ProxySettings(Section):
    """Whether and how far a proxy in front is believed about clients."""

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
    proxy_headers_authority: str = setting(
        "",
        Text("NAME", empty=True, check=header_name),
        "header with the host and port which the client asked for, X-Forwarded-Host "
        "mostly; empty = none, since where no proxy writes it any client may; needs "
        "--proxy-headers",
    )
    proxy_headers_prefix: str = setting(
        "",
        Text("NAME", empty=True, check=header_name),
        "header with the path under which the application is published, "
        "X-Forwarded-Prefix mostly; empty = none, as above; needs --proxy-headers",
    )
    proxy_headers_forwarded: str = setting(
        "ignore",
        Choice("ignore", "prefer", "only"),
        "whether RFC 7239's Forwarded counts: never, instead of the other headers "
        "where it comes, or alone; needs --proxy-headers",
    )
    proxy_protocol: bool = setting(
        False,
        Flag(),
        "expect the PROXY protocol, version 1 or 2, at the beginning of each "
        "connection; those of others than trusted proxies are closed",
    )
    timeout_proxy_protocol: float = setting(
        5.0,
        Seconds(),
        "time for its header; 0 = no limit; longer than a lost packet takes to be "
        "sent again",
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
        Section.__post_init__(self)
        for item in fields(self):
            if (
                item.name.startswith("proxy_headers_")
                and not self.proxy_headers
                and getattr(self, item.name) != item.default
            ):
                raise SettingsError(f"{item.name} has no effect without proxy_headers")
