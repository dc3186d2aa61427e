"""Behind nginx, with the very configuration and commands of docs/deployment.md."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import ipaddress
import json
import re
import socket
import ssl
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from programs import find_program
from proxies import Page, running_nginx
from server_process import Serve, ServerProcess, serving_until_done

PAGE = Page("deployment.md")
APPLICATION = "applications.plain:application"
MIB = 1024 * 1024


# -- The server behind it -----------------------------------------------------


def serve_on_unix_socket(serve: Serve, folder: Path) -> tuple[ServerProcess, str]:
    """Run the first command of the page; return the configuration of nginx, too."""
    path = str(folder / "app.sock")
    options = PAGE.command("daphne-like -u")
    assert "/run/app/app.sock" in options
    options[options.index("/run/app/app.sock")] = path
    configuration, _ = PAGE.blocks("nginx")
    return serve(APPLICATION, *options), PAGE.replaced(
        configuration, {"unix:/run/app/app.sock": f"unix:{path}"}
    )


def serve_on_tcp(serve: Serve, folder: Path) -> tuple[ServerProcess, str]:
    """Run the second command of the page, with the upstream that belongs to it."""
    here = {"10.0.0.5": "127.0.0.1", "10.0.0.2": "127.0.0.1", "8000": "0"}
    options = PAGE.command("daphne-like -b 10.0.0.5")
    assert set(here) <= set(options)
    server = serve(APPLICATION, *(here.get(option, option) for option in options))
    whole, upstream = PAGE.blocks("nginx")
    configuration, count = re.subn(
        r"upstream app \{.*?\n\}\n", upstream, whole, flags=re.DOTALL
    )
    assert 1 == count
    return server, PAGE.replaced(
        configuration, {"10.0.0.5:8000": f"127.0.0.1:{server.port}"}
    )


# -- nginx --------------------------------------------------------------------


@dataclass
class Site:
    """
    The application behind nginx.

    Attributes:
        server: The server behind nginx.
        http_port, https_port: Where nginx listens.
        trust: Trusts nginx's certificate.
    """

    server: ServerProcess
    http_port: int
    https_port: int
    trust: ssl.SSLContext

    @property
    def url(self) -> str:
        """Where the application is."""
        return f"https://127.0.0.1:{self.https_port}"

    def client(self) -> httpx.Client:
        """Make a client with a connection of its own."""
        return httpx.Client(base_url=self.url, verify=self.trust, trust_env=False)

    def connect(self) -> ssl.SSLSocket:
        """Connect by hand."""
        sock = socket.create_connection(("127.0.0.1", self.https_port), 20)
        return self.trust.wrap_socket(sock, server_hostname="127.0.0.1")

    def open_gate(self, name: str) -> None:
        """Let an application go on that waits for this."""
        with self.client() as client:
            client.post(f"/gates/{name}").raise_for_status()


def make_certificate(folder: Path) -> None:
    """Write a certificate for 127.0.0.1, and its key, which nobody knows."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    now = dt.datetime.now(dt.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "fullchain.pem").write_bytes(certificate.public_bytes(pem))
    (folder / "privkey.pem").write_bytes(
        key.private_bytes(
            pem,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


@pytest.fixture(scope="module", params=["unix", "tcp"])
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """Run what the page describes, over a Unix socket and over TCP."""
    find_program("nginx")
    folder = tmp_path_factory.mktemp("nginx")
    make_certificate(folder)
    (folder / "static").mkdir()
    (folder / "static" / "a.txt").write_text("from the disk")
    start = serve_on_unix_socket if request.param == "unix" else serve_on_tcp
    with (
        serving_until_done() as serve,
        socket.create_server(("127.0.0.1", 0)) as plain,
        socket.create_server(("127.0.0.1", 0)) as encrypted,
    ):
        http_port, https_port = (sock.getsockname()[1] for sock in (plain, encrypted))
        server, configuration = start(serve, folder)
        configuration = PAGE.replaced(
            configuration,
            {
                "listen [::]:80;": "",
                "listen [::]:443 ssl http2;": "",
                "listen 80;": f"listen 127.0.0.1:{http_port};",
                "listen 443 ssl": f"listen 127.0.0.1:{https_port} ssl",
                "/etc/ssl/example.org/": f"{folder}/",
                "root /srv/app;": f"root {folder};",
            },
        )
        trust = ssl.create_default_context(cafile=str(folder / "fullchain.pem"))
        with running_nginx(configuration, folder, [plain, encrypted]):
            yield Site(server, http_port, https_port, trust)


@pytest.fixture
def gate() -> str:
    """Name a gate which no other test uses."""
    return uuid.uuid4().hex


# -- Tests --------------------------------------------------------------------


def test_the_application_sees_the_client_and_not_nginx(site: Site) -> None:
    """Address, port and scheme are those of the client's connection to nginx."""
    with site.client() as client:
        response = client.get("/scope?a=b")
        stream: Any = response.extensions["network_stream"]
        address = stream.get_extra_info("client_addr")

    told = response.json()
    assert ["127.0.0.1", address[1]] == told["client"]
    assert "https" == told["scheme"]
    assert ["host", f"127.0.0.1:{site.https_port}"] in told["headers"]


def test_a_client_cannot_choose_who_it_is(site: Site) -> None:
    """Nginx replaces or empties each header which the server believes."""
    forged = {
        "X-Forwarded-For": "192.0.2.1",
        "X-Forwarded-Port": "1",
        "X-Forwarded-Proto": "http",
        "Daphne-Root-Path": "/forged",
    }
    with site.client() as client:
        response = client.get("/scope", headers=forged)
        stream: Any = response.extensions["network_stream"]
        address = stream.get_extra_info("client_addr")

    told = response.json()
    assert ["127.0.0.1", address[1]] == told["client"]
    assert "https" == told["scheme"]
    assert "" == told["root_path"]


def test_server_sent_events_do_not_wait_in_nginx(site: Site, gate: str) -> None:
    """The first event is there while the application waits before the second."""
    with (
        site.client() as client,
        client.stream("GET", "/events", params={"gate": gate}) as response,
    ):
        lines = response.iter_lines()
        first = next(lines)
        site.open_gate(gate)
        rest = list(lines)

    assert "data: one" == first
    assert "data: two" in rest


def test_the_application_learns_that_a_client_has_left(site: Site, gate: str) -> None:
    """Nginx closes its connection to the server when the client closes its own."""
    with (
        site.client() as client,
        client.stream("GET", "/send-forever", params={"gate": gate}) as response,
    ):
        next(response.iter_raw())

    with site.client() as client:
        client.get(f"/gates/{gate}", timeout=20).raise_for_status()


def test_a_large_upload_arrives_as_it_is_sent(site: Site, gate: str) -> None:
    """The application has the beginning before the client has sent the end."""
    body = bytes(range(256)) * (50 * MIB // 256)
    head = f"POST /digest?gate={gate} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"

    with site.connect() as sock:
        sock.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode())
        sock.sendall(body[:MIB])
        with site.client() as client:
            client.get(f"/gates/{gate}", timeout=20).raise_for_status()
        sock.sendall(body[MIB:])
        answer = b""
        while piece := sock.recv(64 * 1024):
            answer += piece

    expected = f"{len(body)} {hashlib.sha256(body).hexdigest()}".encode()
    assert answer.endswith(expected)


def test_a_body_beyond_the_limit_of_nginx_is_refused(site: Site) -> None:
    """413 comes from nginx, and the application sees nothing."""
    with site.connect() as sock:
        size = 100 * MIB + 1
        path = "/never-seen"
        head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n"
        sock.sendall(head.encode())
        answer = sock.recv(64 * 1024)

    assert answer.startswith(b"HTTP/1.1 413 ")
    assert path not in site.server.log


def test_a_websocket(site: Site) -> None:
    """It goes through, and the application knows of TLS and of the client."""

    async def talk() -> None:
        url = site.url.replace("https:", "wss:")
        async with websockets.connect(
            f"{url}/chat", ssl=site.trust, proxy=None
        ) as client:
            told = json.loads(await client.recv())
            assert ("/chat", "wss", "1.1") == (
                told["path"],
                told["scheme"],
                told["http_version"],
            )
            assert "127.0.0.1" == told["client"][0]
            for message in ("hello", b"x" * 500_000):
                await client.send(message)
                assert message == await client.recv()
            await client.close(4000, "bye")
            assert 4000 == client.close_code

    asyncio.run(asyncio.wait_for(talk(), 20))


def test_plain_http_leads_to_https(site: Site) -> None:
    """Port 80 only redirects."""
    url = f"http://127.0.0.1:{site.http_port}/a?b=c"

    response = httpx.get(url, headers={"Host": "example.org"}, trust_env=False)

    assert 301 == response.status_code
    assert "https://example.org/a?b=c" == response.headers["location"]


def test_static_files_come_from_nginx(site: Site) -> None:
    """The application is not asked for them."""
    with site.client() as client:
        response = client.get("/static/a.txt")

    assert "from the disk" == response.text
    assert response.headers["server"].startswith("nginx")
    assert "/static/" not in site.server.log


def test_many_requests_in_a_row_and_at_once(site: Site) -> None:
    """Connections between nginx and the server are kept and used again."""
    with site.client() as client:
        texts = [client.get(f"/turn?name={number}").text for number in range(200)]

    assert [f"turned {number}\n" for number in range(200)] == texts
