"""Tests of ``daphne_like.observability.observation``, and of how servers use it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from raw_http import split_answers
from stepped_loop import SteppedLoop
from whole_server import BOTH, Application, ask, say

from daphne_like.errors import SettingsError
from daphne_like.observability.action_log import ActionLog
from daphne_like.observability.observation import EventLoopLag, Observation
from daphne_like.server import Server
from daphne_like.settings import OperationsSettings

COUNTING = OperationsSettings(metrics="9100")


def test_lag_is_how_late_the_loop_is(loop: SteppedLoop) -> None:
    """A loop in time has none; one that something blocks has all the time of that."""
    lags: list[float] = []
    with EventLoopLag(loop, lags.append):
        for seconds in (0.1, 0.1, 0.75, 0.1):
            loop.advance(seconds)
    loop.advance(10)

    assert [0.0, 0.0, 0.65, 0.0] == pytest.approx(lags, abs=1e-6)


def test_only_what_is_wanted_is_there() -> None:
    """Counting, ids and traces have nothing to do with each other."""
    assert not OperationsSettings().observes
    assert not OperationsSettings(control_socket="/run/control").observes
    counting = Observation(COUNTING)
    assert counting.request_ids is None
    numbering = Observation(OperationsSettings(request_id_header="X-Request-ID"))
    assert numbering.metrics is None
    assert numbering.log(None) is None
    log = ActionLog(lambda *_: None)
    assert log is numbering.log(log)


def test_a_header_that_nobody_asked_for_is_refused() -> None:
    """A setting without effect is a mistake."""
    with pytest.raises(SettingsError, match="no effect without request_id_header"):
        OperationsSettings(request_id_response=True)


def test_statsd_is_told_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """By one process; a worker leaves it to the supervisor, who knows all workers."""
    sent: list[Any] = []
    monkeypatch.setattr(
        "daphne_like.observability.statsd.StatsD.send",
        lambda self, snapshot: sent.append(snapshot),
    )
    settings = OperationsSettings(statsd_host="127.0.0.1:8125")
    worker = Observation(settings, sends=False)
    worker.tick()
    assert [] == sent
    one_process = Observation(settings)
    one_process.tick()
    assert one_process.metrics is not None
    assert [one_process.metrics.snapshot()] == sent


def test_statsd_is_told_of_the_last_requests(
    loop: SteppedLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cause: one process that stopped kept what came after the last full second."""
    told: list[str] = []
    statsd = "daphne_like.observability.statsd.StatsD."
    monkeypatch.setattr(f"{statsd}send", lambda self, snapshot: told.append("all"))
    monkeypatch.setattr(f"{statsd}close", lambda self: told.append("closed"))
    observation = Observation(OperationsSettings(statsd_host="127.0.0.1:8125"))

    async def scenario() -> None:
        async with AsyncExitStack() as ending:
            observation.begin(Application(), loop, {}, ending)

    loop.do(scenario())
    assert ["all", "closed"] == told


def test_gauges_are_those_of_the_server(loop: SteppedLoop) -> None:
    """They are asked whenever somebody looks."""
    observation = Observation(COUNTING)
    metrics = observation.metrics
    assert metrics is not None

    async def scenario() -> None:
        async with AsyncExitStack() as ending:
            open_now = iter((3, 4))
            gauges = {"connections_open": lambda: next(open_now)}
            application = Application()
            watched = observation.begin(application, loop, gauges, ending)
            assert application is watched
            for count in (3, 4):
                gauge = metrics.snapshot()["gauges"]["connections_open"]
                assert {"": count} == gauge

    loop.do(scenario())


@BOTH
def test_a_server_counts(compat: bool) -> None:
    """All that the page for Prometheus needs is connected."""
    server: list[Server] = []

    class Asking(Application):
        """Looks at the counters while a request is in flight."""

        snapshot: Any = None

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await asyncio.sleep(0)  # until it is known as running
            assert server[0].metrics is not None
            self.snapshot = server[0].metrics.snapshot()
            await super().__call__(scope, receive, send)

    application = Asking()
    before = Server.__init__

    def keep(self: Server, *arguments: Any, **options: Any) -> None:
        before(self, *arguments, **options)
        server.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Server, "__init__", keep)
        _, answer = ask(
            *(b"X-Request-ID: abc",),
            method=b"POST",
            content=b"12345",
            application=application,
            compat=compat,
            statsd_host="127.0.0.1:9",
            request_id_header="X-Request-ID",
            request_id_response=True,
        )

    assert 200 == answer.status
    assert "abc" == answer.headers["x-request-id"]
    assert {"": 1} == application.snapshot["gauges"]["requests_in_flight"]
    assert {"": 1} == application.snapshot["gauges"]["connections_open"]
    assert {"": 1} == application.snapshot["gauges"]["workers"]
    assert server[0].metrics is not None
    snapshot = server[0].metrics.snapshot()
    counters = snapshot["counters"]
    assert {"": 1} == counters["connections"]
    assert {"": 5} == counters["request_body_bytes"]
    assert {"": 2} == counters["response_body_bytes"]
    [key] = snapshot["histograms"]["request_duration_seconds"]
    assert "POST 2xx http/1.1" == key
    assert {"": 0} == snapshot["gauges"]["connections_open"]


def test_the_access_log_has_the_id(tmp_path: Path) -> None:
    """In JSON, whatever the header is called, also where it was made here."""
    log = tmp_path / "access.log"
    answer = say(
        b"GET / HTTP/1.1\r\nHost: a\r\nX-Trace: abc\r\n\r\n"
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        Application(),
        compat=False,
        access_log=str(log),
        access_log_format="json",
        request_id_header="X-Trace",
        request_id_response=True,
    )
    given, made = log.read_text().splitlines()

    assert '"request_id": "abc"' in given
    told = split_answers(answer)[1].headers["x-trace"]
    assert f'"request_id": "{told}"' in made


def test_who_wants_nothing_imports_nothing() -> None:
    """The start isn't slower for what isn't used."""
    code = """
import sys
from daphne_like.server import Server
Server(lambda: None, port=0)
names = ("metrics", "observation", "request_ids", "statsd", "tracing")
print([name for name in names if f"daphne_like.observability.{name}" in sys.modules])
print("daphne_like.asgi.observed_streams" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True
    )
    assert "[]\nFalse\n" == done.stdout
