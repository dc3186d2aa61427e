"""Tests of ``daphne_like.observability.logs``."""

from __future__ import annotations

import io
import json
import logging
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import twisted.logger
from twisted.logger import LogBeginner, Logger, LogPublisher, formatEvent
from twisted.python.failure import Failure

from daphne_like.errors import SettingsError
from daphne_like.observability import logs
from daphne_like.observability.logs import (
    TwistedHandler,
    bridge_twisted_logging,
    configure_logging,
    join_daphne_loggers,
)
from daphne_like.settings import LogSettings

NAMES = ("", "twisted", "asyncio", "daphne_like", "daphne_like.server")


@contextmanager
def unconfigured_logging() -> Iterator[logging.Logger]:
    """Logging as it is when Python starts; afterwards it is as before."""
    loggers = [logging.getLogger(name) for name in NAMES]
    before = [
        (logger.level, logger.handlers[:], logger.propagate, logger.disabled)
        for logger in loggers
    ]
    for logger in loggers:
        logger.handlers[:] = []
        logger.setLevel(logging.NOTSET)
    loggers[0].setLevel(logging.WARNING)
    try:
        yield loggers[0]
    finally:
        for logger, (level, handlers, propagate, disabled) in zip(
            loggers, before, strict=True
        ):
            logger.setLevel(level)
            logger.handlers[:] = handlers
            logger.propagate = propagate
            logger.disabled = disabled


def levels(**settings: Any) -> tuple[str, str, str]:
    """Effective levels of our logger, Twisted's and asyncio's."""
    with unconfigured_logging():
        configure_logging(LogSettings(**settings))
        ours, theirs, loops = (
            logging.getLevelName(logging.getLogger(name).getEffectiveLevel())
            for name in ("daphne_like.server", "twisted", "asyncio")
        )
    return ours, theirs, loops


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"verbosity": 0}, ("WARNING", "WARNING", "INFO")),
        ({"verbosity": 1}, ("INFO", "WARNING", "INFO")),
        ({"verbosity": 2}, ("DEBUG", "DEBUG", "INFO")),
        ({"verbosity": 3}, ("DEBUG", "DEBUG", "DEBUG")),
        ({"log_level": "error"}, ("ERROR", "WARNING", "INFO")),
        ({"verbosity": 0, "log_level": "debug"}, ("DEBUG", "WARNING", "INFO")),
    ],
)
def test_verbosity_and_level_decide_what_is_logged(
    settings: dict[str, Any], expected: tuple[str, str, str]
) -> None:
    """``-v`` is Daphne's ladder; ``--log-level`` sets our own lines apart from it."""
    assert expected == levels(**settings)


def test_lines_go_to_stderr_in_the_given_format(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Log lines don't mix with the access log on stdout, and look as asked."""
    with unconfigured_logging():
        configure_logging(LogSettings(log_fmt="<%(name)s> %(message)s"))
        logging.getLogger("daphne_like.server").info("listening")

    out, err = capsys.readouterr()
    assert out == ""
    assert err == "<daphne_like.server> listening\n"


def test_logging_of_an_embedding_program_is_kept(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Where logging has been configured already, no second handler appears."""
    stream = io.StringIO()
    with unconfigured_logging() as root:
        root.addHandler(logging.StreamHandler(stream))
        configure_logging(LogSettings())
        logging.getLogger("daphne_like.server").warning("once")

    assert stream.getvalue() == "once\n"
    assert capsys.readouterr().err == ""


TOML = """
[formatters.short]
format = "toml %(message)s"
[handlers.out]
class = "logging.StreamHandler"
stream = "ext://sys.stdout"
formatter = "short"
[root]
level = "DEBUG"
handlers = ["out"]
"""
JSON = json.dumps(
    {
        "version": 1,
        "formatters": {"short": {"format": "json %(message)s"}},
        "handlers": {
            "out": {
                "class": "logging.StreamHandler",
                "stream": "ext://sys.stdout",
                "formatter": "short",
            }
        },
        "root": {"level": "DEBUG", "handlers": ["out"]},
    }
)


@pytest.mark.parametrize(("name", "content"), [("log.toml", TOML), ("log.json", JSON)])
def test_a_file_can_configure_logging(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: str
) -> None:
    """``--log-config`` takes TOML and JSON, and silences no logger made before."""
    file = tmp_path / name
    file.write_text(content, "utf-8")
    with unconfigured_logging():
        configure_logging(LogSettings(log_config=str(file), verbosity=0))
        logging.getLogger("daphne_like.server").debug("hello")
        logging.getLogger("twisted").debug("there")

    kind = name.removeprefix("log.")
    assert capsys.readouterr().out == f"{kind} hello\n{kind} there\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("log.toml", None, "{file}: No such file or directory"),
        ("log.json", None, "{file}: No such file or directory"),
        ("log.json", "{", "{file}: Expecting property name"),
        ("log.json", "[]", "{file}: must be a JSON object"),
        ("log.toml", "version = 2", "log_config {file}: Unsupported version: 2"),
        (
            "log.toml",
            '[root]\nhandlers = ["out"]',
            (
                "log_config {file}: Unable to configure root logger: "
                "Unable to add handler 'out': 'out'"
            ),
        ),
        (
            "log.toml",
            '[handlers.out]\nclass = "no_such_module.Handler"',
            "log_config {file}: Unable to configure handler 'out'",
        ),
        ("log.toml", "handlers = 5", "log_config {file}: "),
    ],
)
def test_a_wrong_file_is_told(
    tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    """What is wrong in the logging configuration is one line naming the file."""
    file = tmp_path / name
    if content is not None:
        file.write_text(content, "utf-8")

    with unconfigured_logging(), pytest.raises(SettingsError) as raised:
        configure_logging(LogSettings(log_config=str(file)))

    assert str(raised.value).startswith(message.format(file=file))
    assert "\n" not in str(raised.value)


# -- Twisted ------------------------------------------------------------------


class TwistedLog:
    """Twisted's log of a process of its own, and what Python's logging gets of it."""

    def __init__(self) -> None:
        self.publisher = LogPublisher()
        self.stderr = io.StringIO()
        self.stdio = SimpleNamespace(stdout=object(), stderr=object())
        self.beginner = LogBeginner(self.publisher, self.stderr, self.stdio, warnings)
        self.emit = Logger(namespace="test", observer=self.publisher)


@pytest.fixture
def twisted_log(monkeypatch: pytest.MonkeyPatch) -> Iterator[TwistedLog]:
    """A log in which nothing has begun yet."""
    process = TwistedLog()
    monkeypatch.setattr(logs, "_bridged", False)
    monkeypatch.setattr(twisted.logger, "globalLogBeginner", process.beginner)
    monkeypatch.setattr(twisted.logger, "globalLogPublisher", process.publisher)
    logger = logging.getLogger("twisted")
    yield process
    # STDLibLogObserver replaces this method of the logger it writes to.
    vars(logger).pop("findCaller", None)


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    """Levels and texts of what arrived at the logger ``twisted``."""
    return [
        (record.levelname, record.getMessage())
        for record in caplog.records
        if record.name == "twisted"
    ]


def test_events_of_twisted_are_logged(
    twisted_log: TwistedLog, caplog: pytest.LogCaptureFixture
) -> None:
    """Each level of Twisted's log has its counterpart."""
    caplog.set_level(logging.DEBUG, "twisted")
    bridge_twisted_logging()

    twisted_log.emit.debug("a {n}", n=1)
    twisted_log.emit.info("b {n}", n=2)
    twisted_log.emit.warn("c {n}", n=3)
    twisted_log.emit.error("d {n}", n=4)
    twisted_log.emit.critical("e {n}", n=5)

    assert [
        ("DEBUG", "a 1"),
        ("INFO", "b 2"),
        ("WARNING", "c 3"),
        ("ERROR", "d 4"),
        ("CRITICAL", "e 5"),
    ] == lines(caplog)
    assert twisted_log.stderr.getvalue() == ""


def test_failures_are_logged_with_their_traceback(
    twisted_log: TwistedLog, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception lost in a Deferred can be found in the log."""
    bridge_twisted_logging()

    def broken() -> None:
        raise LookupError("lost")

    try:
        broken()
    except LookupError:
        failure = Failure()
    twisted_log.emit.failure("oops", failure=failure)

    assert [("CRITICAL", "oops")] == lines(caplog)
    assert "in broken" in caplog.text
    assert "LookupError: lost" in caplog.text


def test_what_twisted_said_before_is_logged_once(
    twisted_log: TwistedLog, caplog: pytest.LogCaptureFixture
) -> None:
    """Early events are not lost, and those Twisted printed itself not repeated."""
    twisted_log.emit.warn("early")
    twisted_log.emit.critical("printed by Twisted")

    bridge_twisted_logging()
    bridge_twisted_logging()
    twisted_log.emit.critical("late")

    assert [("WARNING", "early"), ("CRITICAL", "late")] == lines(caplog)
    assert twisted_log.stderr.getvalue() == "printed by Twisted\n"


def test_streams_and_warnings_stay_pythons(
    twisted_log: TwistedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the application prints or warns of doesn't become a log line."""
    streams = twisted_log.stdio.stdout, twisted_log.stdio.stderr
    showwarning = warnings.showwarning

    bridge_twisted_logging()

    assert streams == (twisted_log.stdio.stdout, twisted_log.stdio.stderr)
    assert showwarning is warnings.showwarning


@pytest.mark.parametrize(
    ("verbosity", "told"), [(1, ["ours"]), (2, ["ours", "Twisted's"])]
)
def test_handlers_of_daphnes_logger_get_our_records(
    monkeypatch: pytest.MonkeyPatch, verbosity: int, told: list[str]
) -> None:
    """A project's configuration of ``daphne.server`` goes on working, levels too."""
    ours, twisteds, daphne = (
        logging.getLogger(name) for name in ("daphne_like", "twisted", "daphne.server")
    )
    stream = io.StringIO()
    monkeypatch.setattr(daphne, "handlers", [logging.StreamHandler(stream)])
    before = [
        (logger, logger.parent, logger.level) for logger in (ours, twisteds, daphne)
    ]
    for logger, _, _ in before:
        logger.setLevel(logging.NOTSET)
    try:
        assert not logging.getLogger("daphne_like.server").isEnabledFor(logging.DEBUG)
        daphne.setLevel(logging.DEBUG)
        join_daphne_loggers(verbosity)
        logging.getLogger("daphne_like.server").debug("ours")
        twisteds.debug("Twisted's")
        daphne.setLevel(logging.ERROR)
        logging.getLogger("daphne_like.server").info("too much")
    finally:
        for logger, parent, level in before:
            logger.parent = parent
            logger.setLevel(level)

    assert told == stream.getvalue().splitlines()


# -- Twisted's log -----------------------------------------------------------


def events_of(*calls: Callable[[logging.Logger], object]) -> list[dict[str, Any]]:
    """Log to a logger whose handler is Twisted's log, and return the events."""
    from twisted.logger import globalLogPublisher

    events: list[Any] = []
    observe: Any = events.append
    logger = logging.Logger("daphne_like.server")  # noqa: LOG001 - of this test alone
    logger.addHandler(TwistedHandler())
    globalLogPublisher.addObserver(observe)
    try:
        for call in calls:
            call(logger)
    finally:
        globalLogPublisher.removeObserver(observe)
    return events


def test_records_are_events_of_twisted() -> None:
    """Text, level, time and logger's name are those of the record."""
    levels = [logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, 50, 90, 5]
    before = time.time()

    def log(logger: logging.Logger) -> None:
        for level in levels:
            logger.log(level, "a {brace} %d", 1)

    events = events_of(log)

    names = ["debug", "info", "warn", "error", "critical", "critical", "debug"]
    assert names == [event["log_level"].name for event in events]
    assert {"a {brace} 1"} == {formatEvent(event) for event in events}
    assert {"daphne_like.server"} == {event["log_namespace"] for event in events}
    assert all(before <= event["log_time"] <= time.time() for event in events)


def test_tracebacks_are_part_of_the_event() -> None:
    """With their causes, which Twisted's own would leave out."""

    def fail(logger: logging.Logger) -> None:
        try:
            raise ZeroDivisionError from KeyError("cause")
        except ZeroDivisionError:
            logger.exception("It failed")

    [event] = events_of(fail)
    text = formatEvent(event)
    assert text.startswith("It failed\nKeyError: 'cause'\n")
    assert "ZeroDivisionError" in text


def test_events_do_not_go_round_in_circles() -> None:
    """What came from Twisted isn't sent back."""
    record = logging.LogRecord("twisted", logging.INFO, "", 0, "event", (), None)

    assert [] == events_of(lambda logger: logger.handle(record))


def test_a_record_that_can_not_be_formatted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is told as logging tells it, and harms nobody."""
    assert [] == events_of(lambda logger: logger.info("%d", "x"))
    assert "--- Logging error ---" in capsys.readouterr().err


def test_a_handler_of_the_callers() -> None:
    """It gets the bare messages, of the levels which the settings say."""
    handler = logging.NullHandler()
    with unconfigured_logging() as root:
        configure_logging(LogSettings(verbosity=0), handler)

        assert [handler] == root.handlers
        assert logging.WARNING == root.level
    record = logging.LogRecord("x", logging.INFO, "", 0, "text", (), None)
    assert "text" == handler.format(record)


def test_lines_can_have_the_id_of_a_request() -> None:
    """``%(request_id)s`` in the format is all that it takes."""
    with unconfigured_logging() as root:
        configure_logging(LogSettings(log_fmt="[%(request_id)s] %(message)s"))
        [handler] = root.handlers
        record = logging.LogRecord("app", logging.INFO, "", 0, "text", None, None)
        assert handler.filter(record)
        assert "[-] text" == handler.format(record)
