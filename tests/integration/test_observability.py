"""Watching a real server: Prometheus, statsd, OpenTelemetry, and ids in logs."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)
from prometheus_client.parser import text_string_to_metric_families
from raw_http import Answer, connect, read_to_end, split_answers
from server_process import Serve, ServerProcess

APPLICATION = "applications.observed:application"
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"


def get(url: str, target: str, *fields: str) -> Answer:
    """Make a request of its own connection."""
    lines = [f"GET {target} HTTP/1.1", "host: a", "connection: close", *fields, "", ""]
    with connect(url) as sock:
        sock.sendall("\r\n".join(lines).encode())
        [answer] = split_answers(read_to_end(sock))
        return answer


def samples(server: ServerProcess) -> dict[str, float]:
    """Read the page for Prometheus; keys are names and values of labels."""
    line = server.wait_for_log(r"Operations: http://\S+")
    answer = get(line.removeprefix("Operations: "), "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        " ".join(
            [sample.name, *(value for _, value in sorted(sample.labels.items()))]
        ): sample.value
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    }


def test_prometheus_sees_what_happened(serve: Serve) -> None:
    """Requests, bytes, connections and limits of a real process."""
    server = serve(APPLICATION, "--metrics", "0", "--limit-request-line", "100")
    for _ in range(3):
        assert 200 == get(server.url, "/").status
    assert 500 == get(server.url, "/fail").status
    assert 414 == get(server.url, "/" + 200 * "x").status
    seen = samples(server)

    assert 3 == seen["daphne_like_requests_total GET http/1.1 2xx"]
    assert 1 == seen["daphne_like_requests_total GET http/1.1 5xx"]
    assert 1 == seen["daphne_like_limits_hit_total limit_request_line"]
    assert 5 == seen["daphne_like_connections_total"]
    assert 1 == seen["daphne_like_workers"]
    assert (
        3 == seen["daphne_like_request_duration_seconds_bucket +Inf GET http/1.1 2xx"]
    )


def test_statsd_is_told(serve: Serve) -> None:
    """Within a second, without being asked."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as statsd:
        statsd.bind(("127.0.0.1", 0))
        statsd.settimeout(30)
        address = f"127.0.0.1:{statsd.getsockname()[1]}"
        server = serve(APPLICATION, "--statsd-host", address, "--statsd-prefix", "shop")
        assert 200 == get(server.url, "/").status
        heard = ""
        while "shop.requests.GET.2xx.http_1_1:1|c" not in heard:
            heard = statsd.recv(65536).decode()
    assert "shop.connections:1|c" in heard
    assert "shop.workers:1|g" in heard


class Collector(HTTPServer):
    """Takes spans as OpenTelemetry sends them (OTLP over HTTP)."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[ExportTraceServiceRequest] = []


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        """Take spans."""
        assert isinstance(self.server, Collector)
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.requests.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        """Say nothing."""


@contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector."""
    collector = Collector()
    thread = threading.Thread(target=collector.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield collector
    finally:
        collector.shutdown()
        thread.join()
        collector.server_close()


@pytest.mark.parametrize("workers", [(), ("--workers", "1")], ids=["one", "worker"])
def test_traces_reach_a_collector(serve: Serve, workers: tuple[str, ...]) -> None:
    """The last ones when the server ends; the client's trace goes on in them."""
    with collecting() as collector:
        host, port = collector.server_address[:2]
        server = serve(
            *(APPLICATION, "--otel", *workers),
            environment={
                "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{host!s}:{port}",
                "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
                "OTEL_SERVICE_NAME": "shop",
                "OTEL_BSP_SCHEDULE_DELAY": "60000",
            },
        )
        parent = f"00-{TRACE_ID}-00f067aa0ba902b7-01"
        answer = get(server.url, "/trace", f"traceparent: {parent}")
        assert 0 == server.stop()
    [span] = [
        span
        for request in collector.requests
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]

    assert TRACE_ID == span.trace_id.hex()
    assert "00f067aa0ba902b7" == span.parent_span_id.hex()
    assert "GET" == span.name
    # What the application saw as the current span.
    assert span.span_id.hex() == answer.body.decode()
    [service] = {
        attribute.value.string_value
        for request in collector.requests
        for resource in request.resource_spans
        for attribute in resource.resource.attributes
        if attribute.key == "service.name"
    }
    assert "shop" == service


def test_one_id_leads_through_all_logs(serve: Serve) -> None:
    """The client's, the application's, the server's and the access log."""
    server = serve(
        *(APPLICATION, "--request-id-header", "X-Request-ID"),
        *("--request-id-response", "--access-log-format", "json"),
        *("--log-fmt", "[%(request_id)s] %(message)s"),
    )
    made = get(server.url, "/log").headers["x-request-id"]
    assert re.fullmatch("[0-9a-f]{32}", made)
    failed = get(server.url, "/fail", "x-request-id: abc-1")
    assert (500, "abc-1") == (failed.status, failed.headers["x-request-id"])

    server.wait_for_log(rf"\[{made}\] the application says something")
    server.wait_for_log(r"\[abc-1\] Exception in the application: GET /fail")
    server.wait_for_log(rf'"request_id": "{made}"')
    server.wait_for_log('"request_id": "abc-1"')
