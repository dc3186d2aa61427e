"""
A worker class for Gunicorn: ``gunicorn -k daphne_like.gunicorn.Worker main:app``.

Gunicorn starts, watches and replaces the processes; a :class:`~.server.Server` in
each of them serves on Gunicorn's sockets. What Gunicorn was told holds here, too:
:func:`settings_of` translates it. What it wasn't told is as everywhere, so it comes
from ``DAPHNE_LIKE_*`` variables, which win, or from our defaults.

Tests: ``tests/unit/test_gunicorn.py``, ``tests/integration/test_gunicorn.py``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import sys
import traceback
from contextlib import suppress
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import gunicorn.config
from gunicorn.arbiter import Arbiter
from gunicorn.workers.base import Worker as GunicornWorker

from daphne_like import reactor
from daphne_like.asgi.loading import as_asgi3
from daphne_like.errors import ApplicationLoadError, SettingsError, StartError
from daphne_like.server import Server
from daphne_like.settings import (
    KNOWN_SETTINGS,
    BindSettings,
    ProcessSettings,
    Settings,
    WorkerSettings,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import FrameType

    from daphne_like.asgi.types import ASGIApplication
    from daphne_like.observability.access_log import AccessLog
    from daphne_like.observability.log_formats import Exchange, ExchangeLog

__all__ = ["Worker", "settings_of"]

# 0 turns keep-alive off there, and the limit off here: no client is as quick.
_NO_KEEP_ALIVE = 0.001

# Of all fields together here, of each there.
_LEAST_HEADER_BYTES = 65536

# How much earlier than Gunicorn kills, what is in flight is cancelled: the
# application gets to clean up. A share of the time, and the most in seconds.
_MARGIN_SHARE, _LONGEST_MARGIN = 0.1, 3.0

# Gunicorn kills a worker that is silent for longer than its --timeout.
_BEAT_INTERVAL = 1.0

_HEADER_MAPS = {"drop": "drop", "refuse": "reject", "dangerous": "keep"}


def _same(value: Any) -> Any:
    return value


# Gunicorn's settings, ours, and how their values are translated.
_TRANSLATIONS: Mapping[str, tuple[str, Callable[[Any], Any]]] = {
    "asgi_disconnect_grace_period": ("application_close_timeout", _same),
    "asgi_lifespan": ("lifespan", _same),
    "asgi_loop": ("loop", _same),
    "certfile": ("ssl_certfile", _same),
    "ciphers": ("ssl_ciphers", _same),
    "header_map": ("header_underscores", _HEADER_MAPS.get),
    "http2_initial_window_size": ("http2_stream_window", _same),
    "http2_max_concurrent_streams": ("http2_max_concurrent_streams", _same),
    "http2_max_frame_size": ("http2_max_frame_size", _same),
    "http_protocols": ("http", lambda names: "auto" if "h1" in names else "2"),
    "keepalive": ("timeout_keep_alive", lambda seconds: seconds or _NO_KEEP_ALIVE),
    "keyfile": ("ssl_keyfile", _same),
    "limit_request_field_size": (
        "limit_request_header",
        lambda size: size and max(size, _LEAST_HEADER_BYTES),
    ),
    "limit_request_fields": ("limit_request_fields", _same),
    "limit_request_line": ("limit_request_line", _same),
    "root_path": ("root_path", _same),
    "websocket_max_message_size": ("websocket_max_message_size", _same),
}

# They change how Gunicorn itself speaks HTTP.
_WITHOUT_EFFECT = (
    *("casefold_http_method", "forwarder_headers", "http2_cleartext"),
    *("http2_max_header_list_size", "permit_obsolete_folding"),
    *("permit_unconventional_http_method", "permit_unconventional_http_version"),
    *("post_request", "pre_request", "secure_scheme_headers", "statsd_host"),
    *("strip_header_spaces", "threads", "worker_connections"),
)

# Of ours.
_GUNICORNS_SECTIONS = ("bind", "process", "workers")

# A variable of the environ of WSGI, which isn't there.
_ENVIRON_ATOM = re.compile(r"%\(\{[^}]*\}e\)s")


def settings_of(cfg: Any, environ: Mapping[str, str]) -> Settings:
    """
    Translate Gunicorn's configuration.

    Args:
        cfg: The configuration.
        environ: Environment with ``DAPHNE_LIKE_*``.

    Returns:
        All settings, without addresses, which are Gunicorn's.

    Raises:
        SettingsError: Something can't be translated, or would be a danger.
    """
    given = _given(cfg)
    if "ssl_context" in given:
        raise SettingsError("gunicorn: ssl_context can't be translated")
    if getattr(cfg, "protocol", "http") != "http":
        raise SettingsError(f"gunicorn: protocol must be http, not {cfg.protocol}")
    has_proxy_protocol = cfg.proxy_protocol not in ("off", False)
    trusted = _addresses(cfg.forwarded_allow_ips)
    if has_proxy_protocol and set(trusted) != set(_addresses(cfg.proxy_allow_ips)):
        raise SettingsError(
            "gunicorn: forwarded_allow_ips and proxy_allow_ips must be the same, "
            "since here one list tells which proxies are trusted"
        )
    margin = min(_MARGIN_SHARE * cfg.graceful_timeout, _LONGEST_MARGIN)
    translated: dict[str, object] = {
        # These hold in Gunicorn although nobody has given them.
        "timeout_graceful_shutdown": cfg.graceful_timeout - margin,
        "proxy_headers": True,
        "proxy_protocol": has_proxy_protocol,
        "forwarded_allow_ips": [*trusted, "unix"],
        "access_log_format": _ENVIRON_ATOM.sub("-", cfg.access_log_format),
    }
    for name, (ours, translate) in _TRANSLATIONS.items():
        if name in given:
            translated[ours] = translate(given[name])
    if "websocket_max_message_size" in given:
        # A message may be one frame.
        translated["websocket_max_frame_size"] = given["websocket_max_message_size"]
    if cfg.cert_reqs:
        # An enumeration of Python's.
        translated["ssl_cert_reqs"] = int(cfg.cert_reqs)
        translated["ssl_ca_certs"] = cfg.ca_certs
    settings = Settings.from_sources({}, environ, translated, "gunicorn")
    if settings.operations.metrics or settings.operations.control_socket:
        raise SettingsError(
            "metrics and control_socket need daphne-like's own workers: those of "
            "Gunicorn can't share an address"
        )
    log = settings.log
    if "access_log" not in settings.sources:
        log = replace(log, access_log="logger" if _logs_access(cfg) else "")
    return replace(
        settings,
        log=log,
        bind=BindSettings(backlog=cfg.backlog),
        process=ProcessSettings(),
        workers=WorkerSettings(),
    )


def _idle_variables(settings: Settings) -> list[str]:
    """Return our variables about addresses, processes and workers."""
    return [
        definition.environment_variable
        for name, source in settings.sources.items()
        if (definition := KNOWN_SETTINGS[name]).section in _GUNICORNS_SECTIONS
        and source == f"environment {definition.environment_variable}"
    ]


def _given(cfg: Any) -> dict[str, Any]:
    """Return what isn't as it is by default."""
    defaults = gunicorn.config.Config().settings
    return {
        name: setting.get()
        for name, setting in cfg.settings.items()
        if name in defaults and setting.get() != defaults[name].get()
    }


def _logs_access(cfg: Any) -> bool:
    """Tell whether Gunicorn's access log has anywhere to go."""
    return bool(
        cfg.accesslog
        or cfg.logconfig
        or cfg.logconfig_dict
        or cfg.logconfig_json
        or (cfg.syslog and not cfg.disable_redirect_access_to_syslog)
    )


def _addresses(value: str | Sequence[str]) -> Sequence[str]:
    """Return the items of a list, which older versions have as text."""
    return value.split(",") if isinstance(value, str) else value


class Worker(GunicornWorker):  # type: ignore[misc]
    """One process of Gunicorn's, with a server in it."""

    _server: Server | None = None
    _ending = False

    @classmethod
    def check_config(cls, cfg: Any, log: Any) -> None:
        """
        Tell what is wrong with the configuration, before any worker starts.

        Raises:
            RuntimeError: It can't be served by; Gunicorn prints the reason.
        """
        try:
            settings = settings_of(cfg, os.environ)
        except SettingsError as error:
            raise RuntimeError(str(error)) from None
        given = _given(cfg)
        for name in _WITHOUT_EFFECT:
            if name in given:
                log.warning("%s has no effect with the worker daphne_like", name)
        for variable in _idle_variables(settings):
            log.warning("%s has no effect: that is Gunicorn's to do", variable)

    def init_process(self) -> None:
        """Prepare the process, load the application, and serve until the end."""
        # Gunicorn itself is the one to tell systemd how the service is.
        os.environ.pop("NOTIFY_SOCKET", None)
        _join_loggers()
        try:
            if self.cfg.preload_app and "twisted.internet.reactor" in sys.modules:
                raise SettingsError(
                    "preload_app: the application imports Twisted's reactor, which "
                    "can't be shared by processes"
                )
            self._settings = settings_of(self.cfg, os.environ)
            # Before the application, which may import it.
            self._reactor: Any = reactor.install(self._settings.lifecycle.loop)
        except SettingsError as error:
            self._refuse(error)
        super().init_process()

    def load_wsgi(self) -> None:
        """Load the application; in development, or what tells why there is none."""
        if not self.cfg.reload:
            application = self.app.wsgi()
            self._application = as_asgi3(application, self._settings.app.interface)
            return
        from daphne_like.supervisor.reload import load_or_explain

        lifespan = self._settings.app.lifespan
        self._application = load_or_explain(self._load, lifespan)

    def run(self) -> None:
        """Serve until a signal, a limit or the end of Gunicorn."""
        # From now on they are the server's, which closes them when it stops.
        numbers = tuple(listener.sock.detach() for listener in self.sockets)
        settings = self._settings
        settings = replace(settings, bind=replace(settings.bind, fd=numbers))
        try:
            self._server = server = _Server(self, self._application, settings)
        except StartError as error:
            self._refuse(error)
        # One turn later, since then the loop runs.
        self._reactor.callWhenRunning(self._reactor.callLater, 0, self._begin)
        try:
            server.run()
        except SystemExit:
            if isinstance(server.failure, StartError):
                # Which Gunicorn takes for a reason not to try again.
                sys.exit(Arbiter.WORKER_BOOT_ERROR)
            raise

    def request_ended(self) -> None:
        """Count a request; after the last one a new worker takes over."""
        self.nr += 1
        if self.nr == self.max_requests:
            self.log.info("Requests served: %d, a new worker takes over", self.nr)
            self._end(restarting=True)

    def _load(self) -> ASGIApplication:
        """Load the application for development: the files of an error are watched."""
        try:
            application = self.app.wsgi()
        except (Exception, SystemExit) as error:
            for file in _files_of(error):
                self.reloader.add_extra_file(file)
            if isinstance(error, SystemExit):
                raise
            raise ApplicationLoadError(
                f"{type(error).__name__} was raised while the application was loaded"
            ) from error
        return as_asgi3(application, self._settings.app.interface)

    def _refuse(self, error: StartError) -> NoReturn:
        self.log.error("%s", error)
        sys.exit(Arbiter.WORKER_BOOT_ERROR)

    # -- While it runs -------------------------------------------------------------

    def _begin(self) -> None:
        reactor.reap_children(self._reactor)
        # Gunicorn writes to its pipe when a signal comes, or a file has changed.
        asyncio.get_running_loop().add_reader(self.PIPE[0], self._woken)
        self._beat()

    def _beat(self) -> None:
        """Show that the event loop runs, and look what nobody tells."""
        self.notify()
        # Half of the time after which Gunicorn acts; 0 for none.
        pause = min(_BEAT_INTERVAL, (self.timeout or inf) / 2)
        self._reactor.callLater(pause, self._beat)
        if self.ppid != os.getppid():
            self.log.info("Gunicorn is gone: stopping")
            self._end()
        self._look()

    def _woken(self) -> None:
        with suppress(BlockingIOError):
            os.read(self.PIPE[0], 4096)
        self._look()

    def _look(self) -> None:
        """See whether the worker is to end: files have changed, or it came early."""
        if not self.alive:
            self._end(quickly=self.cfg.reload, restarting=self.cfg.reload)

    def _end(self, *, quickly: bool = False, restarting: bool = False) -> None:
        assert self._server is not None
        self.alive = False
        if quickly:
            self._server.force()
        if not self._ending:
            self._ending = True
            self._server.stop(restarting=restarting)

    # -- Signals -------------------------------------------------------------------

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Let what is in flight end (SIGTERM)."""
        if self._server is None:
            super().handle_exit(sig, frame)
        else:
            # It may have come in the middle of anything.
            self._reactor.callFromThread(self._end)

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """End soon (SIGQUIT, SIGINT)."""
        if self._server is None:
            super().handle_quit(sig, frame)
        else:
            self._reactor.callFromThread(self._quit)

    def _quit(self) -> None:
        if self.alive:
            self.cfg.worker_int(self)
        self._end(quickly=True)

    def handle_abort(self, sig: int, frame: FrameType | None) -> None:
        """End at once, since the worker was silent for too long (SIGABRT)."""
        stack = "".join(traceback.format_stack(frame))
        self.log.critical("The event loop was blocked here:\n%s", stack)
        self.alive = False
        self.cfg.worker_abort(self)
        logging.shutdown()
        # An exception would end no more than the request which blocks.
        os._exit(1)


class _Server(Server):
    """The server in a worker, which hears of the requests where there is a limit."""

    def __init__(
        self, worker: Worker, application: ASGIApplication, settings: Settings
    ) -> None:
        super().__init__(application, settings=settings, signal_handlers=False)
        self._worker = worker

    def _exchange_log(self, access_log: AccessLog | None) -> ExchangeLog | None:
        log = super()._exchange_log(access_log)
        if not self._worker.cfg.max_requests:
            return log
        return _CountedExchanges(log, self._worker.request_ended)


class _CountedExchanges:
    """Calls for each request, and for each WebSocket when it begins."""

    def __init__(self, log: ExchangeLog | None, ended: Callable[[], None]) -> None:
        self._log = log
        self._ended = ended

    def exchange_ended(self, exchange: Exchange) -> None:
        self._ended()
        if self._log is not None:
            self._log.exchange_ended(exchange)

    def websocket_changed(self, exchange: Exchange, event: str) -> None:
        if event == "CONNECTING":
            self._ended()
        if self._log is not None:
            self._log.websocket_changed(exchange, event)


def _join_loggers() -> None:
    """Let Gunicorn's handlers and levels hold for what the server has to say."""
    for name, gunicorns in (
        ("daphne_like", "gunicorn.error"),
        ("daphne_like.access", "gunicorn.access"),
        ("twisted", "gunicorn.error"),
    ):
        logger = logging.getLogger(name)
        logger.parent = logging.getLogger(gunicorns)
        # Makes logging forget which levels it has found to be enabled.
        logger.setLevel(logger.level)
    # Of each factory and port it tells, which are not the user's.
    logging.getLogger("twisted").setLevel(logging.WARNING)


def _files_of(error: BaseException) -> set[str]:
    """Return the files in which an error was made, where they exist."""
    names = {frame.filename for frame in traceback.extract_tb(error.__traceback__)}
    if isinstance(error, SyntaxError) and error.filename is not None:
        names.add(error.filename)
    return {name for name in names if Path(name).is_file()}
