"""
Where log lines go: ``logging`` is configured, and Twisted's events join it.

The order matters. :func:`configure_logging` runs before the application is imported,
which may log while that happens; :func:`bridge_twisted_logging` runs as soon as
Twisted has been imported.

Logger names: ``daphne_like`` and its children for the server, ``twisted`` for
Twisted's own events, ``daphne_like.access`` for the access log where that goes to
logging.

Tests: ``tests/unit/test_logs.py``.
"""

from __future__ import annotations

import logging
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from daphne_like.errors import SettingsError
from daphne_like.settings import read_toml

if TYPE_CHECKING:
    from twisted.logger import ILogObserver, LogEvent

    from daphne_like.settings import LogSettings

__all__ = [
    "TwistedHandler",
    "bridge_twisted_logging",
    "configure_logging",
    "join_daphne_loggers",
    "reopen_log_files",
]

# By verbosity. At 3 the event loop is in debug mode too, which is the server's part.
_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG, logging.DEBUG)

# A process has one stream of Twisted's events.
_bridged = False


def configure_logging(
    settings: LogSettings, handler: logging.Handler | None = None
) -> None:
    """
    Configure :mod:`logging`: by a file if one is given, else lines on stderr.

    A root logger which has handlers already is left as it is, as
    :func:`logging.basicConfig` does, so that an embedding program keeps its own.
    With a file, neither verbosity nor level nor format matter; the loggers it
    doesn't name stay enabled unless it says ``disable_existing_loggers``.

    Args:
        settings: What is logged, and how.
        handler: Takes the lines in place of stderr, in a format of its own.

    Raises:
        SettingsError: The file can't be read, or is no logging configuration.
    """
    if settings.log_config is not None:
        _configure_from_file(settings.log_config)
        return
    level = (
        _LEVELS[settings.verbosity]
        if settings.log_level is None
        else getattr(logging, settings.log_level.upper())
    )
    if handler is None:
        logging.basicConfig(level=level, format=settings.log_fmt)
    else:
        logging.basicConfig(level=level, format="%(message)s", handlers=[handler])
    if "%(request_id)" in settings.log_fmt:
        from daphne_like.observability.request_ids import RequestIDFilter

        for each in logging.getLogger().handlers:
            each.addFilter(RequestIDFilter())
    if settings.verbosity < 2:
        # Twisted tells of each factory and port it starts, which are not the user's.
        logging.getLogger("twisted").setLevel(logging.WARNING)
    if settings.verbosity < 3:
        # At DEBUG asyncio names the selector it uses, and more.
        logging.getLogger("asyncio").setLevel(logging.INFO)


def bridge_twisted_logging() -> None:
    """
    Send Twisted's events to the logger ``twisted``, failures with their traceback.

    Events from before are sent on as well, except critical ones: Twisted has
    printed those on stderr itself. Standard streams and warnings stay Python's,
    which Twisted would redirect into its log otherwise. Further calls do nothing.

    When something else, such as ``twistd``, has begun Twisted's logging, ours comes
    in addition; it shouldn't be called there.
    """
    global _bridged  # noqa: PLW0603 - so is what it guards
    if _bridged:
        return
    from twisted.logger import (
        LogLevel,
        STDLibLogObserver,
        globalLogBeginner,
        globalLogPublisher,
    )

    observer = STDLibLogObserver("twisted")

    def replay_to_observer(event: LogEvent) -> None:
        if event.get("log_level") != LogLevel.critical:
            observer(event)

    replay = cast("ILogObserver", replay_to_observer)
    showwarning = warnings.showwarning
    globalLogBeginner.beginLoggingTo([replay], redirectStandardIO=False)
    warnings.showwarning = showwarning
    globalLogPublisher.removeObserver(replay)
    globalLogPublisher.addObserver(observer)
    _bridged = True


def join_daphne_loggers(verbosity: int) -> None:
    """
    Let handlers and levels of Daphne's loggers hold for our records, too.

    From then on what goes from ``daphne_like`` to the root logger goes by way of
    ``daphne.server``, and so do Twisted's own events from verbosity 2 on.
    """
    daphne = logging.getLogger("daphne.server")
    logging.getLogger("daphne_like").parent = daphne
    if verbosity >= 2:
        logging.getLogger("twisted").parent = daphne
    # Makes logging forget which levels it has found to be enabled.
    daphne.setLevel(daphne.level)


def reopen_log_files() -> None:
    """
    Open the files which handlers of :mod:`logging` write to anew, under their names.

    One that can't be opened stays closed until its next record, which tries again.
    """
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    handlers = {
        handler
        for logger in loggers
        if isinstance(logger, logging.Logger)  # and no placeholder
        for handler in logger.handlers
    }
    for handler in handlers:
        # One that opens late has no stream yet.
        if isinstance(handler, logging.FileHandler) and handler.stream is not None:
            with handler.lock or nullcontext():
                handler.flush()
                stream, handler.stream = handler.stream, None
                stream.close()


class TwistedHandler(logging.Handler):
    """
    Passes records on to Twisted's log, for programs whose log that is.

    Twisted's own events may come from the other side, through
    :class:`twisted.logger.STDLibLogObserver`; those aren't sent back.
    """

    def emit(self, record: logging.LogRecord) -> None:
        """Make an event of a record."""
        from twisted.logger import Logger, LogLevel

        if record.name.partition(".")[0] == "twisted":
            return
        levels = (LogLevel.debug, LogLevel.info, LogLevel.warn, LogLevel.error)
        rank = min(record.levelno // 10 - 1, 4)
        level = LogLevel.critical if rank == 4 else levels[max(rank, 0)]
        try:
            text = self.format(record)
            # Without a source: what logs is a module, not an object.
            logger = Logger(namespace=record.name)
            logger.emit(level, "{text}", text=text, log_time=record.created)
        except Exception:  # noqa: BLE001 - as all handlers do
            self.handleError(record)


def _configure_from_file(path: str) -> None:
    from logging.config import dictConfig

    configuration = {"version": 1, "disable_existing_loggers": False}
    configuration.update(_read_configuration(path))
    try:
        dictConfig(configuration)
    except (ValueError, TypeError, AttributeError, ImportError) as error:
        # dictConfig tells where in the message, and what in the causes.
        reasons: list[str] = []
        reason: BaseException | None = error
        while reason is not None:
            reasons.append(str(reason))
            reason = reason.__cause__
        raise SettingsError(f"log_config {path}: {': '.join(reasons)}") from None


def _read_configuration(path: str) -> dict[str, Any]:
    if not path.endswith(".json"):
        return read_toml(path)
    import json

    try:
        configuration = json.loads(Path(path).read_text("utf-8"))
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise SettingsError(f"{path}: {error}") from None
    if not isinstance(configuration, dict):
        raise SettingsError(f"{path}: must be a JSON object")
    return configuration
