"""
The servers that are compared, each with the flags that make it fastest.

One worker each, uvloop where the server can use it, warnings only, no proxy headers,
no WebSockets where a load has none and they can be switched off. Access logs go to standard output, which
the harness sends to a file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.workloads import Workload


@dataclass(frozen=True, slots=True)
class Server:
    """How one server is started."""

    name: str

    distribution: str
    """Whose version is recorded with the results; empty if it is part of this tree."""

    arguments: str
    """What follows ``python -m``; ``{application}``, ``{host}``, ``{port}`` filled in."""

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

    def command(
        self, python: str, host: str, port: int, workload: Workload
    ) -> list[str]:
        """Return the command line which serves the application of ``workload``."""
        logs = self.logging if workload.access_log else self.quiet
        kind = self.websockets if workload.websockets else self.http_only
        template = f"{self.arguments} {logs} {kind}"
        line = template.format(application=workload.application, host=host, port=port)
        return [python, "-m", *line.split()]


def _daphne_like(name: str, loop: str) -> Server:
    return Server(
        name,
        "daphne-like",
        f"daphne_like {{application}} --bind {{host}} --port {{port}} --loop {loop}"
        " --log-level warning",
        quiet="--no-access-log",
        logging="--access-log -",
        ours=True,
    )


def _uvicorn(name: str, http: str, loop: str) -> Server:
    return Server(
        name,
        "uvicorn",
        "uvicorn {application} --host {host} --port {port} --workers 1"
        f" --http {http} --loop {loop} --no-proxy-headers",
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
            "granian {application} --interface asgi --host {host} --port {port}"
            " --workers 1 --loop uvloop --http 1 --backpressure 20000"
            " --log-level warning",
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
            "gunicorn {application} --bind {host}:{port} --worker-class asgi"
            " --workers 1 --asgi-loop uvloop --worker-connections 20000"
            " --log-level warning --no-control-socket",
            logging="--access-logfile -",
        ),
        Server(
            "hypercorn",
            "hypercorn",
            # Without workers it serves in its first process: no pipe, less memory.
            "hypercorn {application} --bind {host}:{port} --worker-class uvloop"
            " --workers 0",
            quiet="--log-level warning",
            logging="--access-logfile - --log-level info",
        ),
        Server(
            "daphne",
            "daphne",
            "daphne {application} --bind {host} --port {port} --verbosity 0",
            logging="--access-log -",
        ),
        Server(
            "raw",
            "",
            "benchmarks.raw_uvloop --host {host} --port {port}",
            ours=True,
            raw_only=True,
        ),
    )
}
