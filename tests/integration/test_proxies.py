"""Behind HAProxy and nginx, with the configurations of docs/proxies.md."""

from __future__ import annotations

import json
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from typing import Any

import httpx
import pytest
from certificates import Authority
from programs import curl, find_program
from proxies import Page, running_haproxy, running_nginx
from raw_http import connect, read_to_end
from server_process import LOOPS, Serve, ServerProcess, serving_until_done
from websockets.sync.client import connect as connect_websocket

PAGE = Page("proxies.md")
THROUGH, ENDED = (text for text in PAGE.blocks("text") if text.startswith("defaults\n"))
(THROUGH_NGINX,) = PAGE.blocks("nginx")
APPLICATION = "applications.proxied:application"
TLS_1_3 = 0x0304
# Each has an address of its own, as clients have.
CLIENTS = [f"127.0.1.{number}" for number in range(1, 13)]
REQUESTS = 25


@dataclass
class Site:
    """
    The application behind a proxy.

    Attributes:
        server: The server behind it.
        port: Where the proxy listens.
        trust: Trusts the certificate; None where there is no TLS.
    """

    server: ServerProcess
    port: int
    trust: ssl.SSLContext | None = None

    @property
    def url(self) -> str:
        """Where the application is."""
        return f"{'http' if self.trust is None else 'https'}://127.0.0.1:{self.port}"

    def client(self, address: str = "127.0.0.1", **options: Any) -> httpx.Client:
        """Make a client with a connection and an address of its own."""
        transport = httpx.HTTPTransport(
            verify=self.trust or False, local_address=address, **options
        )
        return httpx.Client(transport=transport, base_url=self.url, timeout=20)

    def connect(self, address: str) -> HTTPConnection:
        """Connect by hand, which is quick."""
        options: dict[str, Any] = {"source_address": (address, 0), "timeout": 20}
        if self.trust is None:
            return HTTPConnection("127.0.0.1", self.port, **options)
        return HTTPSConnection("127.0.0.1", self.port, context=self.trust, **options)


@dataclass
class Files:
    """Certificates in files, and the context of a client."""

    folder: Path
    server: Path
    root: Path
    trust: ssl.SSLContext


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, socket_folder: Path) -> Files:
    """Make certificates for the server and for a client."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = Authority()
    root = folder / "root.pem"
    root.write_text(authority.pem)
    server = authority.issue("127.0.0.1").write(folder / "server.pem")
    client = authority.issue(name="Ann, of Example").write(folder / "client.pem")
    trust = ssl.create_default_context(cafile=str(root))
    trust.load_cert_chain(client)
    return Files(socket_folder, server, root, trust)


def own_address(connection: HTTPConnection) -> list[object]:
    """Return address and port of this end."""
    return list(connection.sock.getsockname())


def ask(connection: HTTPConnection, path: str = "/", **headers: str) -> Any:
    """Send a request, and return what the application says of it."""
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("GET", path, headers=fields)
    response = connection.getresponse()
    assert 200 == response.status
    return json.loads(response.read())


# -- The PROXY protocol ---------------------------------------------------------


# The server, the proxy's configuration, and whether there is TLS.
Started = tuple[ServerProcess, str, bool]
Start = Callable[[Serve, Files, socket.socket], Started]


def serve_through(serve: Serve, files: Files) -> ServerProcess:
    """Serve what a proxy passes on, TLS and all."""
    options = PAGE.command("daphne-like -b 10.0.0.5")
    here = {
        "10.0.0.5": "127.0.0.1",
        "10.0.0.2": "127.0.0.1",
        "8443": "0",
        "fullchain.pem": str(files.server),
        "privkey.pem": str(files.server),
    }
    assert set(here) <= set(options)
    return serve(APPLICATION, *(here.get(option, option) for option in options))


def through(serve: Serve, files: Files, listening: socket.socket) -> Started:
    """TLS passes through."""
    server = serve_through(serve, files)
    configuration = PAGE.replaced(
        THROUGH,
        {
            "bind :443": f"bind fd@{listening.fileno()}",
            "10.0.0.5:8443": f"127.0.0.1:{server.port}",
        },
    )
    return server, configuration, True


def through_nginx(serve: Serve, files: Files, listening: socket.socket) -> Started:
    """TLS passes through nginx, which writes version 1 of the protocol."""
    server = serve_through(serve, files)
    address, port = listening.getsockname()
    configuration = PAGE.replaced(
        THROUGH_NGINX,
        {
            "listen 443": f"listen {address}:{port}",
            "10.0.0.5:8443": f"127.0.0.1:{server.port}",
        },
    )
    return server, configuration, True


def through_v1(serve: Serve, files: Files, listening: socket.socket) -> Started:
    """Cleartext, with version 1 of the protocol."""
    server = serve(
        APPLICATION, "-e", "tcp:0:interface=127.0.0.1:proxyProtocol=yes", "-v2"
    )
    configuration = PAGE.replaced(
        THROUGH,
        {
            "bind :443": f"bind fd@{listening.fileno()}",
            "10.0.0.5:8443": f"127.0.0.1:{server.port}",
            "send-proxy-v2": "send-proxy",
        },
    )
    return server, configuration, False


def ended(serve: Serve, files: Files, listening: socket.socket) -> Started:
    """HAProxy ends TLS, and asks for certificates of clients."""
    fd = listening.fileno()
    path = str(files.folder / "haproxy.sock")
    options = PAGE.command("daphne-like -u")
    options[options.index("/run/app/app.sock")] = path
    server = serve(APPLICATION, *options)
    configuration = PAGE.replaced(
        ENDED,
        {
            "bind :443 ssl": f"bind fd@{fd} ssl verify optional ca-file {files.root}",
            "/etc/ssl/example.org.pem": str(files.server),
            "/run/app/app.sock": path,
        },
    )
    return server, configuration, True


@pytest.fixture(scope="module", params=[through, through_v1, ended, through_nginx])
def site(
    request: pytest.FixtureRequest,
    files: Files,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """Run what the page describes."""
    start: Start = request.param
    run = running_nginx if start is through_nginx else running_haproxy
    with ExitStack() as ending:
        serve = ending.enter_context(serving_until_done())
        listening = ending.enter_context(socket.create_server(("127.0.0.1", 0)))
        server, configuration, secure = start(serve, files, listening)
        configuration = configuration.replace("inter 2s", "inter 200ms")
        folder = tmp_path_factory.mktemp("proxy")
        ending.enter_context(run(configuration, folder, [listening]))
        port = listening.getsockname()[1]
        yield Site(server, port, files.trust if secure else None)


def test_the_application_sees_the_client_and_not_the_proxy(site: Site) -> None:
    """Its address and port, those which it connected to, and its scheme."""
    with closing(site.connect("127.0.1.77")) as connection:
        told = ask(connection)
        assert own_address(connection) == told["client"]

    assert ["127.0.0.1", site.port] == told["server"]
    assert ("http" if site.trust is None else "https") == told["scheme"]
    assert told["proxy"]["version"] in (1, 2)


def test_requests_on_one_connection_have_one_client(site: Site) -> None:
    """The header comes once."""
    with closing(site.connect("127.0.1.78")) as connection:
        clients = [ask(connection)["client"] for _ in range(20)]
        assert [own_address(connection)] * 20 == clients


def test_http_2_behind_the_proxy(site: Site) -> None:
    """With TLS by agreement, without it by prior knowledge."""
    options = ["--http2-prior-knowledge"]
    if site.trust is not None:
        options = ["--http2", "--insecure"]
    answer = curl(*options, "--interface", "127.0.1.79", site.url)

    assert b"" == answer.stderr
    told = json.loads(answer.stdout)
    assert ("2", "127.0.1.79") == (told["http_version"], told["client"][0])


def test_a_websocket_behind_the_proxy(site: Site) -> None:
    """The application sees the client, and messages go both ways."""
    url = site.url.replace("http", "ws", 1)
    with connect_websocket(
        url, ssl=site.trust, source_address=("127.0.1.80", 0), proxy=None
    ) as client:
        told = json.loads(client.recv())
        assert list(client.socket.getsockname()) == told["client"]
        assert ("ws" if site.trust is None else "wss") == told["scheme"]
        for message in ("hello", b"x" * 100_000):
            client.send(message)
            assert message == client.recv()


def test_a_client_cannot_choose_its_address(site: Site) -> None:
    """Whoever isn't on the trust list is believed in nothing, header or headers."""
    with closing(site.connect("127.0.1.81")) as connection:
        told = ask(connection, X_Forwarded_For="6.6.6.6", Forwarded="for=6.6.6.6")
        assert own_address(connection) == told["client"]


def test_many_clients_at_once(site: Site) -> None:
    """Under load, each of them is taken for itself."""

    def talk(address: str) -> int:
        right = 0
        for _ in range(REQUESTS // 5):
            with closing(site.connect(address)) as connection:
                for _ in range(5):
                    told = ask(connection)
                    right += own_address(connection) == told["client"]
        return right

    with ThreadPoolExecutor(len(CLIENTS)) as threads:
        assert [REQUESTS] * len(CLIENTS) == list(threads.map(talk, CLIENTS))


@pytest.mark.parametrize("site", [ended], indirect=True)
def test_what_haproxy_knows_of_tls(site: Site, files: Files) -> None:
    """Version, cipher suite, client's certificate, and HAProxy's own id."""
    with closing(site.connect("127.0.0.1")) as connection:
        with_certificate = ask(connection)
    stranger = Site(
        site.server, site.port, ssl.create_default_context(cafile=str(files.root))
    )
    stranger.trust.maximum_version = ssl.TLSVersion.TLSv1_2  # type: ignore[union-attr]
    with closing(stranger.connect("127.0.0.1")) as connection:
        without = ask(connection)

    assert TLS_1_3 == with_certificate["tls"]["tls_version"]
    assert 0x1301 <= with_certificate["tls"]["cipher_suite"] <= 0x1303
    proxy = with_certificate["proxy"]
    assert "Ann, of Example" == proxy["ssl_client_cn"]
    assert proxy["ssl_client_verified"] is True
    assert ("TLSv1.3", True) == (proxy["ssl_version"], proxy["ssl"])
    assert re.fullmatch(r"[0-9A-F:_]+", proxy["unique_id"])
    assert proxy["proxy"] is None
    assert (0x0303, None) == (
        without["tls"]["tls_version"],
        without["proxy"]["ssl_client_cn"],
    )
    assert proxy["unique_id"] != without["proxy"]["unique_id"]


def test_haproxy_that_reads_http(serve: Serve, tmp_path: Path) -> None:
    """Then, too, no client is taken for another one: it keeps connections for each."""
    find_program("haproxy")
    server = serve(APPLICATION, "-b", "127.0.0.1", "-p", "0", "--proxy-protocol")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        configuration = PAGE.replaced(
            THROUGH,
            {
                "mode tcp": "mode http",
                "bind :443": f"bind fd@{listening.fileno()}",
                "balance leastconn": "http-reuse always",
                "10.0.0.5:8443": f"127.0.0.1:{server.port}",
            },
        )
        with running_haproxy(configuration, tmp_path, [listening]):
            test_many_clients_at_once(Site(server, listening.getsockname()[1]))


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("send", ["send-proxy", "send-proxy-v2"])
def test_health_checks_of_haproxys(
    serve: Serve, tmp_path: Path, loop: str, send: str
) -> None:
    """They come from HAProxy's own address, and count as answered."""
    find_program("haproxy")
    server = serve(
        *(APPLICATION, "-b", "127.0.0.1", "-p", "0", "--proxy-protocol"),
        *("--loop", loop),
    )
    with socket.create_server(("127.0.0.1", 0)) as listening:
        configuration = f"""
defaults
    mode tcp
    timeout connect 5s
    timeout client 20s
    timeout server 20s
frontend app
    bind fd@{listening.fileno()}
    default_backend app
backend app
    option httpchk GET /health
    server one 127.0.0.1:{server.port} {send} check inter 50ms
"""
        with running_haproxy(configuration, tmp_path, [listening]):
            site = Site(server, listening.getsockname()[1])
            with site.client() as client:
                seen: list[Any] = []
                while len(seen) < 3:
                    seen = client.get("/seen?/health").raise_for_status().json()

    assert {"127.0.0.1"} == {address for address, _ in seen}


def test_a_proxy_behind_a_proxy(serve: Serve, tmp_path: Path) -> None:
    """Headers of an nginx before HAProxy are believed, as it is on the trust list."""
    find_program("haproxy"), find_program("nginx")
    server = serve(
        APPLICATION, "-b", "127.0.0.1", "-p", "0", "--proxy-protocol", "--proxy-headers"
    )
    with ExitStack() as ending:
        balancer, front = (
            ending.enter_context(socket.create_server(("127.0.0.1", 0)))
            for _ in range(2)
        )
        configuration = PAGE.replaced(
            THROUGH,
            {
                "bind :443": f"bind fd@{balancer.fileno()}",
                "10.0.0.5:8443": f"127.0.0.1:{server.port}",
            },
        )
        ending.enter_context(running_haproxy(configuration, tmp_path, [balancer]))
        port, between = (sock.getsockname()[1] for sock in (front, balancer))
        nginx = f"""
server {{
    listen 127.0.0.1:{port};
    location / {{
        proxy_pass http://127.0.0.1:{between};
        proxy_set_header X-Forwarded-For $remote_addr;
        proxy_set_header X-Forwarded-Port $remote_port;
    }}
}}
"""
        ending.enter_context(running_nginx(nginx, tmp_path, [front]))
        with closing(Site(server, port).connect("127.0.1.82")) as connection:
            told = ask(connection)
            assert own_address(connection) == told["client"]
            assert "127.0.0.1" == told["proxy"]["proxy"][0]


def ask_without_a_header(url: str) -> bytes:
    """Send a request without the PROXY protocol; return all that comes."""
    with connect(url) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        try:
            return read_to_end(sock)
        except ConnectionResetError:
            return b""


def test_nobody_comes_in_past_the_proxy(serve: Serve) -> None:
    """A client which connects directly is closed without an answer, and it is told."""
    server = serve(APPLICATION, "-b", "127.0.0.1", "-p", "0", "--proxy-protocol")

    assert b"" == ask_without_a_header(server.url)
    server.wait_for_log("no valid header: it begins with something else")


def test_strangers_are_not_believed(serve: Serve) -> None:
    """Nor is the header of a peer which isn't on the trust list."""
    server = serve(
        *(APPLICATION, "-b", "127.0.0.1", "-p", "0", "--proxy-protocol"),
        *("--forwarded-allow-ips", "127.0.0.2"),
    )
    answer = curl("--haproxy-protocol", server.url)
    assert b"" == answer.stdout
    server.wait_for_log("127.0.0.1 .* it isn't in forwarded_allow_ips")

    answer = curl("--haproxy-protocol", "--interface", "127.0.0.2", server.url)
    assert "127.0.0.2" == json.loads(answer.stdout)["client"][0]


def test_silence_is_cut(serve: Serve) -> None:
    """A connection whose header doesn't come is closed."""
    server = serve(
        *(APPLICATION, "-b", "127.0.0.1", "-p", "0", "--proxy-protocol"),
        *("--timeout-proxy-protocol", "0.05"),
    )
    with connect(server.url) as sock:
        try:
            assert b"" == sock.recv(1)
        except ConnectionResetError:
            pass

    server.wait_for_log("no complete header came in time")


def test_one_listener_of_two(serve: Serve) -> None:
    """An endpoint string says for itself whether it expects the header."""
    server = serve(
        *(APPLICATION, "--proxy-protocol"),
        *("-e", "tcp:0:interface=127.0.0.1:proxyProtocol=no"),
        *("-e", "tcp:0:interface=127.0.0.1"),
    )
    server.wait_for_log(r"Listening on (.|\n)*Listening on ")

    answers = [ask_without_a_header(url) for url in server.urls]

    assert [b"", b"HTTP/1.1 200"] == sorted(answer[:12] for answer in answers)


def test_curl_writes_the_header(serve: Serve) -> None:
    """Curl's own option is understood."""
    server = serve(APPLICATION, "-b", "127.0.0.1", "-p", "0", "--proxy-protocol")
    answer = curl("--haproxy-protocol", server.url)

    told = json.loads(answer.stdout)
    assert (1, "127.0.0.1") == (told["proxy"]["version"], told["client"][0])
    assert server.port == told["server"][1]


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_expect_the_header_too(serve: Serve, start: str) -> None:
    """The supervisor hands the listening sockets on, with what is expected there."""
    server = serve(
        *(APPLICATION, "-b", "127.0.0.1", "-p", "0", "--proxy-protocol"),
        *("--workers", "2", "--worker-start", start),
    )
    answer = curl("--haproxy-protocol", "--interface", "127.0.0.1", server.url)

    assert 1 == json.loads(answer.stdout)["proxy"]["version"]
    assert b"" == ask_without_a_header(server.url)


# -- nginx ----------------------------------------------------------------------


NGINX = {
    "x-forwarded": """
        proxy_set_header X-Forwarded-For    $remote_addr;
        proxy_set_header X-Forwarded-Port   $remote_port;
        proxy_set_header X-Forwarded-Proto  $scheme;
        proxy_set_header X-Forwarded-Host   example.org:8443;
        proxy_set_header Forwarded          $http_forwarded;
""",
    "forwarded": """
        proxy_set_header Forwarded
            '$http_forwarded, for="$remote_addr:$remote_port";proto=$scheme;host="example.org:8443"';
""",
}


@pytest.fixture(scope="module", params=[*NGINX])
def nginx_site(
    request: pytest.FixtureRequest,
    socket_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """Run nginx before a Unix socket, with connections that are kept."""
    find_program("nginx")
    folder = tmp_path_factory.mktemp("nginx")
    path = socket_folder / f"{request.param}.sock"
    choice = "only" if request.param == "forwarded" else "ignore"
    with (
        serving_until_done() as serve,
        socket.create_server(("127.0.0.1", 0)) as sock,
    ):
        server = serve(
            *(APPLICATION, "-u", str(path), "--proxy-headers"),
            *("--proxy-headers-forwarded", choice),
            *("--proxy-headers-authority", "X-Forwarded-Host"),
            *("--proxy-headers-prefix", "X-Forwarded-Prefix"),
        )
        port = sock.getsockname()[1]
        configuration = f"""
upstream app {{
    server unix:{path};
    keepalive 8;
}}
server {{
    listen 127.0.0.1:{port};
    location /app/ {{
        proxy_pass http://app/;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        proxy_set_header Host internal;
        proxy_set_header X-Forwarded-Prefix /app;
        {NGINX[request.param]}
    }}
}}
"""
        with running_nginx(configuration, folder, [sock]):
            yield Site(server, port)


def test_everything_that_nginx_tells(nginx_site: Site) -> None:
    """Client, host and prefix, by either kind of headers, whatever the client sends."""
    with closing(nginx_site.connect("127.0.1.83")) as connection:
        told = ask(
            connection,
            "/app/x",
            X_Forwarded_For="6.6.6.6",
            X_Forwarded_Prefix="/evil",
            Forwarded='for=6.6.6.6;proto=https;host="evil.example',
        )
        assert own_address(connection) == told["client"]

    assert ("/app", "/app/x", "http") == (
        told["root_path"],
        told["path"],
        told["scheme"],
    )
    hosts = [value for name, value in told["headers"] if name == "host"]
    assert ["example.org:8443"] == hosts


def test_many_clients_share_the_connections_of_nginx(nginx_site: Site) -> None:
    """Under load, each request is that of its client, though connections are kept."""

    def talk(address: str) -> int:
        right = 0
        with closing(nginx_site.connect(address)) as connection:
            for _ in range(REQUESTS):
                told = ask(connection, "/app/")
                right += own_address(connection) == told["client"]
        return right

    with ThreadPoolExecutor(len(CLIENTS)) as threads:
        assert [REQUESTS] * len(CLIENTS) == list(threads.map(talk, CLIENTS))
