"""
The servers that are compared, each with the flags that make it fastest.

One worker each, unless it is told otherwise, uvloop where the server can use it, warnings only, no proxy headers,
no WebSockets where a load has none and they can be switched off. Access logs go to
standard output, which the harness sends to a file.

Uvicorn takes no part in HTTP/2: what it has ends each connection after 4,096 requests.
Daphne takes none in cleartext HTTP/2: Twisted's server speaks it after ALPN only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.certificates import Certificate
    from benchmarks.workloads import Workload


@dataclass(frozen=True, slots=True)
class Server:
    """How one server is started."""

    name: str

    distribution: str
    """Whose version is recorded with the results; empty if it is part of this tree."""

    arguments: str
    """What follows ``python -m``; ``{application}`` and such are filled in."""

    listen: str
    """Arguments which name ``{host}`` and ``{port}``."""

    workers: str = ""
    """
    Arguments which start ``{workers}`` worker processes; without them the server takes
    no part where there are several.
    """

    reloads: bool = False
    """Whether SIGHUP replaces its workers one after the other."""

    listen_tls: str = ""
    """
    Arguments which name ``{certificate}`` and ``{key}`` too; without them the server
    takes no part in what is over TLS.
    """

    http1: str = ""
    """Arguments for a load in HTTP/1.1."""

    http2: str | None = None
    """Arguments for a load in HTTP/2; None: takes no part in it."""

    http2_cleartext: bool = True
    """Whether the server speaks HTTP/2 without TLS, if it speaks it."""

    http_only: str = ""
    """Arguments which turn WebSockets off, for loads which have none."""

    websockets: str = ""
    """Arguments which turn the server's fastest WebSockets on."""

    quiet: str = ""
    """Arguments which turn the access log off."""

    logging: str = ""
    """Arguments which turn the access log on, to standard output."""

    ours: bool = False
    """Runs under our interpreter, not the peers'."""

    raw_only: bool = False
    """Serves only the workload ``get-13`` and has no access log."""

    def serves(self, workload: Workload) -> bool:
        """Tell whether the server takes part."""
        if self.raw_only:
            return workload.name == "get-13"
        if workload.tls and not self.listen_tls:
            return False
        if not workload.http2:
            return True
        return self.http2 is not None and (workload.tls or self.http2_cleartext)

    def command(
        self,
        python: str,
        host: str,
        port: int,
        workload: Workload,
        certificate: Certificate,
        *,
        workers: int = 1,
    ) -> list[str]:
        """Return the command line which serves the application of ``workload``."""
        arguments = (
            self.arguments,
            self.workers if workers > 1 else "",
            self.listen_tls if workload.tls else self.listen,
            self.http2 or "" if workload.http2 else self.http1,
            self.websockets if workload.websockets else self.http_only,
            self.logging if workload.access_log else self.quiet,
        )
        # Split first: names of files may have spaces.
        filled = [
            argument.format(
                application=workload.application,
                host=host,
                port=port,
                workers=workers,
                certificate=certificate.certificate,
                key=certificate.key,
            )
            for argument in " ".join(arguments).split()
        ]
        return [python, "-m", *filled]


_LISTEN = "--host {host} --port {port}"


def _daphne_like(name: str, loop: str) -> Server:
    return Server(
        name,
        "daphne-like",
        f"daphne_like {{application}} --loop {loop} --log-level warning",
        "--bind {host} --port {port}",
        listen_tls="--bind {host} --port {port}"
        " --ssl-certfile {certificate} --ssl-keyfile {key}",
        workers="--workers {workers}",
        reloads=True,
        http2="--http auto",
        quiet="--no-access-log",
        logging="--access-log -",
        ours=True,
    )


def _uvicorn(name: str, http: str, loop: str) -> Server:
    return Server(
        name,
        "uvicorn",
        f"uvicorn {{application}} --http {http} --loop {loop} --no-proxy-headers",
        _LISTEN,
        listen_tls=f"{_LISTEN} --ssl-certfile {{certificate}} --ssl-keyfile {{key}}",
        workers="--workers {workers}",
        reloads=True,
        http_only="--ws none",
        websockets="--ws websockets-sansio --ws-per-message-deflate false",
        quiet="--no-access-log --log-level warning",
        # Its access log is at level info.
        logging="--access-log --log-level info",
    )


SERVERS = {
    server.name: server
    for server in (
        _daphne_like("daphne-like", "uvloop"),
        _daphne_like("daphne-like-asyncio", "asyncio"),
        Server(
            "granian",
            "granian",
            "granian {application} --interface asgi --loop uvloop"
            " --backpressure 20000 --log-level warning",
            _LISTEN,
            workers="--workers {workers}",
            reloads=True,
            listen_tls=f"{_LISTEN} --ssl-certificate {{certificate}} --ssl-keyfile {{key}}",
            http1="--http 1",
            http2="--http 2",
            http_only="--no-ws",
            quiet="--no-access-log",
            logging="--access-log",
        ),
        _uvicorn("uvicorn-zttp", "zttp", "uvloop"),
        _uvicorn("uvicorn-httptools", "httptools", "uvloop"),
        _uvicorn("uvicorn-asyncio", "httptools", "asyncio"),
        Server(
            "gunicorn",
            "gunicorn",
            "gunicorn {application} --worker-class asgi"
            " --asgi-loop uvloop --worker-connections 20000"
            " --log-level warning --no-control-socket",
            "--bind {host}:{port}",
            workers="--workers {workers}",
            reloads=True,
            listen_tls="--bind {host}:{port} --certfile {certificate} --keyfile {key}",
            http2="--http-protocols h2,h1 --http2-cleartext prior-knowledge",
            logging="--access-logfile -",
        ),
        Server(
            "hypercorn",
            "hypercorn",
            # Without workers it serves in its first process: no pipe, less memory. If
            # more are asked for, the last option counts.
            "hypercorn {application} --worker-class uvloop --workers 0",
            "--bind {host}:{port}",
            workers="--workers {workers}",
            listen_tls="--bind {host}:{port} --certfile {certificate} --keyfile {key}",
            http2="--config benchmarks/hypercorn.toml",
            quiet="--log-level warning",
            logging="--access-logfile - --log-level info",
        ),
        Server(
            "daphne",
            "daphne",
            "daphne {application} --verbosity 0",
            "--bind {host} --port {port}",
            listen_tls="--endpoint ssl:{port}:interface={host}"
            ":privateKey={key}:certKey={certificate}",
            http2="",
            http2_cleartext=False,
            logging="--access-log -",
        ),
        Server(
            "raw",
            "",
            "benchmarks.raw_uvloop",
            _LISTEN,
            ours=True,
            raw_only=True,
        ),
    )
}
