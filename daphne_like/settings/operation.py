"""
The settings of operation: logs, processes, and what watches over them.

Tests: ``tests/unit/test_settings.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

from daphne_like.errors import SettingsError
from daphne_like.setting_kinds import (
    Choice,
    FileMode,
    Flag,
    Integer,
    Seconds,
    Several,
    Text,
    WorkerCount,
    header_name,
    host_and_port,
    log_format,
    statsd_prefix,
)
from daphne_like.settings.definition import Section, setting

__all__ = [
    "LifecycleSettings",
    "LogSettings",
    "OperationsSettings",
    "ProcessSettings",
    "WorkerSettings",
]


@dataclass(frozen=True, slots=True)
class LogSettings(Section):
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
class LifecycleSettings(Section):
    """How the server runs and stops."""

    timeout_graceful_shutdown: float = setting(
        30.0,
        Seconds(),
        "time for running requests to finish after a signal; 0 = cut at once; "
        "Kubernetes kills after 30 seconds",
    )
    drain_notice_timeout: float = setting(
        10.0,
        Seconds(),
        "part of that which WebSockets have to say goodbye, where the application "
        "waits for daphne_like.draining(); 0 = closed at once, as all others",
    )
    loop: str = setting(
        "auto",
        Choice("auto", "uvloop", "asyncio"),
        "event loop; auto takes uvloop where it is installed, since it is faster",
    )


@dataclass(frozen=True, slots=True)
class WorkerSettings(Section):
    """How many processes serve, and when one is replaced."""

    workers: int | None = setting(
        None,
        WorkerCount(),
        "processes which serve, started and watched by one more; auto = one for each "
        "processor; without it, and without what needs a supervisor, one process does "
        "it all; WEB_CONCURRENCY, too, where it is above 1",
    )
    worker_start: str = setting(
        "auto",
        Choice("auto", "fork", "spawn"),
        "how workers are started; auto forks where that is possible, since forked "
        "ones share memory",
    )
    preload: bool = setting(
        False,
        Flag(),
        "import the application before workers are forked, which saves memory; a "
        "reload then doesn't import it again",
    )
    reuse_port: bool = setting(
        False,
        Flag(),
        "give each worker a TCP socket of its own (SO_REUSEPORT) in place of a "
        "shared one",
    )
    timeout_worker_healthcheck: float = setting(
        30.0,
        Seconds(),
        "silence of a worker's event loop after which it is killed; 0 = never; longer "
        "than what blocks it in earnest",
    )
    limit_max_requests: int = setting(
        0, Integer(), "requests after which a worker is replaced; 0 = never"
    )
    limit_max_requests_jitter: int = setting(
        0,
        Integer(),
        "requests added to that, at most, by chance: not all workers at once",
    )
    max_worker_lifetime: float = setting(
        0.0, Seconds(), "age at which a worker is replaced; 0 = never"
    )
    max_worker_lifetime_jitter: float = setting(
        0.0, Seconds(), "time added to that, at most, by chance"
    )
    max_worker_rss: int = setting(
        0,
        Integer(),
        "MiB of resident memory above which a worker is replaced; 0 = any",
    )
    max_worker_rss_samples: int = setting(
        3,
        Integer(1),
        "samples, one each second, which must be above that, one after the other",
    )
    reload: bool = setting(
        False, Flag(), "start anew when source files change, for development"
    )
    reload_dir: tuple[str, ...] = setting(
        (),
        Several(Text("DIR")),
        "directory which is watched, repeatable; the current one and app_dir by default",
    )
    reload_include: tuple[str, ...] = setting(
        (),
        Several(Text("GLOB")),
        "pattern of files which are watched beside *.py, repeatable",
    )
    reload_exclude: tuple[str, ...] = setting(
        (),
        Several(Text("GLOB")),
        "pattern of files and directories which are not watched, repeatable",
    )
    reload_delay: float = setting(
        0.25,
        Seconds(),
        "quiet time after a change before it counts: editors write files in steps",
    )

    @property
    def supervised(self) -> bool:
        """Whether a supervisor watches over one or more workers."""
        return bool(
            self.workers is not None
            or self.limit_max_requests
            or self.max_worker_lifetime
            or self.max_worker_rss
            or self.reload
        )

    @property
    def count(self) -> int:
        """How many workers there are."""
        return self.workers or 1

    def __post_init__(self) -> None:
        """Refuse combinations of which a part would have no effect."""
        Section.__post_init__(self)
        if self.reload and self.preload:
            raise SettingsError("reload and preload exclude each other")
        if self.preload and self.worker_start == "spawn":
            raise SettingsError("preload needs workers which are forked")
        if self.preload and not self.supervised:
            raise SettingsError("preload has no effect without workers")
        if self.reuse_port and not self.supervised:
            raise SettingsError("reuse_port has no effect without workers")
        if self.limit_max_requests_jitter and not self.limit_max_requests:
            raise SettingsError(
                "limit_max_requests_jitter has no effect without limit_max_requests"
            )
        if self.max_worker_lifetime_jitter and not self.max_worker_lifetime:
            raise SettingsError(
                "max_worker_lifetime_jitter has no effect without max_worker_lifetime"
            )


@dataclass(frozen=True, slots=True)
class ProcessSettings(Section):
    """What the process is to the system."""

    pid_file: str | None = setting(
        None, Text("FILE"), "file which holds the process id while the server runs"
    )
    user: str | None = setting(
        None, Text("NAME"), "user, by name or number, to become after binding"
    )
    group: str | None = setting(
        None,
        Text("NAME"),
        "group, by name or number, to become after binding; the user's by default",
    )
    umask: int | None = setting(
        None, FileMode(), "permissions which new files don't get, octal"
    )
    chdir: str | None = setting(
        None, Text("DIR"), "directory to change to before anything is read"
    )
    process_title: str | None = setting(
        None, Text("TEXT"), "name of the processes in listings, instead of the command"
    )
    core_dumps: bool = setting(
        True, Flag(), "whether a crash may leave an image of the memory, with secrets"
    )


@dataclass(frozen=True, slots=True)
class OperationsSettings(Section):
    """What tells how the server is, and takes orders while it runs."""

    metrics: str | None = setting(
        None,
        Text("[HOST:]PORT", check=host_and_port),
        "address for Prometheus (/metrics) and for health checks (/health/live, "
        "/health/ready); 127.0.0.1 where only a port is given",
    )
    control_socket: str | None = setting(
        None,
        Text("PATH"),
        "Unix socket for daphne-like ctl; only its owner may use it",
    )
    statsd_host: str | None = setting(
        None,
        Text("HOST:PORT", check=host_and_port),
        "where counters are sent as statsd datagrams",
    )
    statsd_prefix: str = setting(
        "daphne_like",
        Text("NAME", empty=True, check=statsd_prefix),
        "what their names begin with",
    )
    otel: bool = setting(
        False,
        Flag(),
        "trace requests with OpenTelemetry, whose own OTEL_ variables say how",
    )
    request_id_header: str = setting(
        "",
        Text("NAME", empty=True, check=header_name),
        "header with the id of a request, which logs name, such as X-Request-ID; one "
        "is made where a request has none; empty = no ids",
    )
    request_id_response: bool = setting(
        False, Flag(), "send that header back in the response, too"
    )

    def __post_init__(self) -> None:
        """Refuse combinations of which a part would have no effect."""
        Section.__post_init__(self)
        if self.request_id_response and not self.request_id_header:
            raise SettingsError(
                "request_id_response has no effect without request_id_header"
            )

    @property
    def counts(self) -> bool:
        """Whether what happens is counted."""
        return self.metrics is not None or self.statsd_host is not None

    @property
    def observes(self) -> bool:
        """Whether requests are counted, traced or given an id."""
        return self.counts or self.otel or bool(self.request_id_header)
