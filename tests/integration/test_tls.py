"""HTTPS with real clients, on both event loops."""

from __future__ import annotations

import hashlib
import json
import re
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from certificates import Authority
from programs import curl, find_program
from raw_http import connect, read_to_end, read_until, split_answers
from server_process import LOOPS, Serve, ServerProcess
from websockets.sync.client import connect as connect_websocket

APPLICATION = "applications.secure:application"
TLS_1_2 = ssl.TLSVersion.TLSv1_2

REQUEST = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"


class Files(NamedTuple):
    """
    Certificates in files.

    Attributes:
        folder: Where others can be put.
        authority: Who signs.
        root: What clients trust.
        server: Key and certificate for localhost, in one file.
        other: Those for other.example and *.wild.example.
    """

    folder: Path
    authority: Authority
    root: Path
    server: Path
    other: Path

    def client(self, **options: Any) -> ssl.SSLContext:
        """Make the context of a client which trusts the authority."""
        context = ssl.create_default_context(cafile=str(self.root))
        for name, value in options.items():
            setattr(context, name, value)
        return context


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Make certificates for all tests."""
    folder = tmp_path_factory.mktemp("tls")
    authority = Authority()
    root = folder / "root.pem"
    root.write_text(authority.pem)
    server = authority.issue("localhost", "127.0.0.1", name="first")
    other = authority.issue("other.example", "*.wild.example", name="second")
    return Files(
        folder,
        authority,
        root,
        server.write(folder / "server.pem"),
        other.write(folder / "other.pem"),
    )


@pytest.fixture(scope="module", params=LOOPS)
def server(
    request: pytest.FixtureRequest, serve_module: Serve, files: Files
) -> ServerProcess:
    """Serve HTTPS with two certificates, and a listener that leads there."""
    return serve_module(
        *(APPLICATION, "-p", "0", "--loop", request.param, "--redirect-https", "0"),
        *("--ssl-certfile", str(files.server), "--ssl-certfile", str(files.other)),
        *("--ssl-handshake-timeout", "1.5"),
    )


@contextmanager
def secured(
    server: ServerProcess,
    context: ssl.SSLContext,
    host: str = "localhost",
    **options: Any,
) -> Iterator[ssl.SSLSocket]:
    """Connect to a server and shake hands."""
    with (
        connect(server.url) as sock,
        context.wrap_socket(sock, server_hostname=host, **options) as secure,
    ):
        yield secure


def ask(sock: socket.socket, request: bytes = REQUEST) -> dict[str, Any]:
    """Return what the application sees."""
    sock.sendall(request)
    [answer] = split_answers(read_to_end(sock))
    assert 200 == answer.status
    found: dict[str, Any] = json.loads(answer.body)
    return found


def common_name(sock: ssl.SSLSocket) -> str:
    """Return the name in the certificate which a server has shown."""
    certificate: Any = sock.getpeercert()
    [[[_, name]]] = certificate["subject"]
    return str(name)


def descriptors(server: ServerProcess) -> int:
    """Count the files which a server has open."""
    return len([*Path(f"/proc/{server.process.pid}/fd").iterdir()])


# -- Versions and sessions -------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "number"),
    [(ssl.TLSVersion.TLSv1_2, 0x0303), (ssl.TLSVersion.TLSv1_3, 0x0304)],
)
def test_both_versions_of_tls(
    server: ServerProcess, files: Files, version: ssl.TLSVersion, number: int
) -> None:
    """The application learns version, cipher suite and our certificate (ASGI)."""
    context = files.client(minimum_version=version, maximum_version=version)
    suites = {suite["name"]: suite["id"] & 0xFFFF for suite in context.get_ciphers()}
    with secured(server, context) as sock:
        cipher: Any = sock.cipher()
        shown: Any = sock.getpeercert(binary_form=True)
        found = ask(sock)

    assert "https" == found["scheme"]
    assert {
        "server_cert": ssl.DER_cert_to_PEM_cert(shown),
        "client_cert_chain": [],
        "client_cert_name": None,
        "client_cert_error": None,
        "tls_version": number,
        "cipher_suite": suites[cipher[0]],
    } == found["tls"]


def test_old_versions_are_refused(server: ServerProcess) -> None:
    """TLS 1.1 is too old."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1

    with pytest.raises(ssl.SSLError, match=r"(?i)version"), secured(server, context):
        pass


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_sessions_are_resumed(
    server: ServerProcess, files: Files, version: str
) -> None:
    """Who comes back needs no whole handshake, and the application sees the same."""
    number = ssl.TLSVersion[version]
    context = files.client(minimum_version=number, maximum_version=number)
    with secured(server, context) as sock:
        first = ask(sock)
        session = sock.session
    with secured(server, context, session=session) as sock:
        assert sock.session_reused
        assert first == ask(sock)


def test_http_1_1_is_agreed_on(server: ServerProcess, files: Files) -> None:
    """ALPN finds HTTP/1.1, whichever certificate is chosen, or nothing in common."""
    context = files.client()
    context.set_alpn_protocols(["spdy/3", "http/1.1"])
    for host in ("localhost", "other.example"):
        with secured(server, context, host) as sock:
            assert "http/1.1" == sock.selected_alpn_protocol()
    context.set_alpn_protocols(["spdy/3"])
    with secured(server, context) as sock:
        assert sock.selected_alpn_protocol() is None
        assert "https" == ask(sock)["scheme"]


def test_small_answers_do_not_wait(server: ServerProcess, files: Files) -> None:
    """Each of many small exchanges is answered at once (no Nagle's algorithm)."""
    once = REQUEST.replace(b"connection: close\r\n", b"")
    with secured(server, files.client()) as sock:
        for _ in range(200):
            sock.sendall(once)
            assert read_until(sock, b'"tls"')


# -- Certificates by name ----------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("localhost", "first"),
        ("other.example", "second"),
        ("OTHER.example", "second"),
        ("a.wild.example", "second"),
        ("unknown.example", "first"),
        ("wild.example", "first"),
        ("a.b.wild.example", "first"),
        ("", "first"),
    ],
)
def test_the_certificate_is_that_of_the_host(
    server: ServerProcess, files: Files, host: str, name: str
) -> None:
    """
    The client's choice decides (SNI); who asks for nobody we know gets the first.
    The application is told the certificate that was shown.
    """
    context = files.client(check_hostname=False)
    with (
        connect(server.url) as sock,
        context.wrap_socket(sock, server_hostname=host or None) as secure,
    ):
        shown: Any = secure.getpeercert(binary_form=True)
        assert name == common_name(secure)
        found = ask(secure)
    assert ssl.DER_cert_to_PEM_cert(shown) == found["tls"]["server_cert"]


def test_a_wrong_host_is_the_clients_to_notice(
    server: ServerProcess, files: Files
) -> None:
    """A client that checks the name refuses the first certificate."""
    with (
        pytest.raises(ssl.SSLCertVerificationError),
        secured(server, files.client(), "unknown.example"),
    ):
        pass


# -- Client certificates -------------------------------------------------------------


@pytest.fixture(scope="module", params=["optional", "required"])
def asking(
    request: pytest.FixtureRequest, serve_module: Serve, files: Files
) -> tuple[str, ServerProcess]:
    """Serve with a request for client certificates."""
    server = serve_module(
        *(APPLICATION, "-p", "0", "--ssl-certfile", str(files.server)),
        *("--ssl-cert-reqs", request.param, "--ssl-ca-certs", str(files.root)),
    )
    return request.param, server


def test_a_client_shows_its_certificate(
    asking: tuple[str, ServerProcess], files: Files
) -> None:
    """The application gets its chain and its name (ASGI), resumed or not."""
    _, server = asking
    between = Authority("between", files.authority)
    client = between.issue(name="Ann, of Example")
    path = client.write(files.folder / "client.pem")
    context = files.client(maximum_version=ssl.TLSVersion.TLSv1_2)
    context.load_cert_chain(path)
    with secured(server, context) as sock:
        found = ask(sock)["tls"]
        session = sock.session
    with secured(server, context, session=session) as sock:
        assert sock.session_reused
        resumed = ask(sock)["tls"]

    assert r"CN=Ann\, of Example" == found["client_cert_name"]
    assert found["client_cert_error"] is None
    assert client.pem == found["client_cert_chain"][0]
    # The rest can be known from Python 3.13 on.
    issuers = [between.pem, files.authority.pem]
    assert found["client_cert_chain"][1:] in ([], issuers)
    assert found["client_cert_name"] == resumed["client_cert_name"]
    assert client.pem == resumed["client_cert_chain"][0]


def test_a_client_without_a_certificate(
    asking: tuple[str, ServerProcess], files: Files
) -> None:
    """Optional means that it need not have one, required that it must."""
    kind, server = asking
    if kind == "required":
        with (
            pytest.raises(ssl.SSLError, match=r"(?i)handshake.failure"),
            secured(server, files.client(maximum_version=TLS_1_2)),
        ):
            pass
        return
    with secured(server, files.client()) as sock:
        found = ask(sock)["tls"]
    assert ([], None) == (found["client_cert_chain"], found["client_cert_name"])


def test_a_client_of_another_authority(
    asking: tuple[str, ServerProcess], files: Files
) -> None:
    """A certificate which we can't trust is refused, optional or not."""
    _, server = asking
    stranger = Authority("other root").issue(name="stranger")
    context = files.client(maximum_version=TLS_1_2)
    context.load_cert_chain(stranger.write(files.folder / "stranger.pem"))

    with (
        pytest.raises(ssl.SSLError, match=r"(?i)unknown.ca"),
        secured(server, context),
    ):
        pass


def test_a_refusal_in_tls_1_3(asking: tuple[str, ServerProcess], files: Files) -> None:
    """
    There the client's part is over already when its certificate is seen; it
    gets no answer.
    """
    _, server = asking
    stranger = Authority("other root").issue(name="stranger")
    context = files.client(minimum_version=ssl.TLSVersion.TLSv1_3)
    context.load_cert_chain(stranger.write(files.folder / "stranger.pem"))

    with (
        pytest.raises((ssl.SSLError, ConnectionError)),
        secured(server, context) as sock,
    ):
        ask(sock)


# -- New certificates ------------------------------------------------------------------


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("how", ["signal", "change"])
def test_certificates_are_renewed_without_a_break(
    serve: Serve, files: Files, tmp_path: Path, loop: str, how: str
) -> None:
    """
    New connections get the new certificate; the old ones go on, and their
    application is told the old one. A broken file changes nothing.
    """
    path = tmp_path / "server.pem"
    files.authority.issue("localhost", name="old").write(path)
    interval = "0.2" if how == "change" else "0"
    server = serve(
        *(APPLICATION, "-p", "0", "--loop", loop, "--ssl-certfile", str(path)),
        *("--ssl-reload-interval", interval),
    )

    def notice() -> None:
        if how == "signal":
            server.signal(signal.SIGHUP)

    context = files.client()
    with secured(server, context) as old:
        path.write_text("no certificate")
        notice()
        server.wait_for_log(f"in use are kept: {path}: there is no valid certificate")
        with secured(server, context) as sock:
            assert "old" == common_name(sock)

        successor = files.authority.issue("localhost", name="new")
        successor.write(tmp_path / "successor").replace(path)
        notice()
        server.wait_for_log("Certificates read again")
        with secured(server, context) as sock:
            assert "new" == common_name(sock)
            assert successor.pem == ask(sock)["tls"]["server_cert"]
        assert successor.pem != ask(old)["tls"]["server_cert"]
    assert 0 == server.stop()


def test_the_end_of_a_terminal_ends_a_server_without_tls(serve: Serve) -> None:
    """Without certificates, SIGHUP does what it always does."""
    server = serve(APPLICATION, "-p", "0")
    server.signal(signal.SIGHUP)

    assert -signal.SIGHUP == server.wait()


# -- Those who don't speak TLS ------------------------------------------------------------


@pytest.mark.parametrize(
    "request_line",
    [b"GET / HTTP/1.1\r\n", b"POST / HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\n"],
)
def test_plain_http_on_the_port_of_https(
    server: ServerProcess, request_line: bytes
) -> None:
    """Who forgets the s is told so, in words and with a status."""
    with connect(server.url) as sock:
        sock.sendall(request_line + b"host: localhost\r\n\r\n" + bytes(100_000))
        [answer] = split_answers(read_to_end(sock))

    assert 400 == answer.status
    assert b"speaks HTTPS" in answer.body
    assert "close" == answer.headers["connection"]


@pytest.mark.parametrize(
    "sent", [b"\x00", b"\x16", b"\x16\x03\x01\x02\x00\x01\x00", b"\x80\x2e\x01", b""]
)
def test_half_a_handshake_ends_at_its_deadline(
    server: ServerProcess, sent: bytes
) -> None:
    """Silence, half a handshake and noise are all cut, at the latest in time."""
    with connect(server.url) as sock:
        sock.sendall(sent)
        assert b"" == _read_what_comes(sock)


@pytest.mark.parametrize("proxy", [(), ("--proxy-protocol",)])
def test_a_handshake_in_the_moment_of_the_end(
    serve: Serve, files: Files, proxy: tuple[str, ...]
) -> None:
    """
    Who was accepted before the server stops is answered: its handshake takes some
    round trips, and with workers nobody else could answer it.
    """
    server = serve(APPLICATION, "-p", "0", "--ssl-certfile", str(files.server), *proxy)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = files.client().wrap_bio(
        incoming, outgoing, server_hostname="localhost", server_side=False
    )
    with connect(server.url) as sock:
        if proxy:
            sock.sendall(b"PROXY TCP4 192.0.2.1 203.0.113.5 4711 443\r\n")
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                sock.sendall(outgoing.read())
                incoming.write(sock.recv(65536))

        server.signal(signal.SIGTERM)
        deadline = time.monotonic() + 20
        while is_open(server.url) and time.monotonic() < deadline:
            time.sleep(0.005)
        client.write(REQUEST)
        sock.sendall(outgoing.read())
        incoming.write(read_to_end(sock))
    answer = client.read(65536)

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert 0 == server.wait()


def is_open(url: str) -> bool:
    """Tell whether anybody listens there."""
    try:
        connect(url).close()
    except ConnectionRefusedError:
        return False
    return True


def test_garbage_in_a_handshake(server: ServerProcess) -> None:
    """What begins as TLS and isn't gets an alert, or just the end."""
    with connect(server.url) as sock:
        sock.sendall(b"\x16\x03\x01\x00\x10" + bytes(range(16)) * 10)
        answer = _read_what_comes(sock)
    assert b"" == answer or 0x15 == answer[0]  # an alert (RFC 8446 section 6)


def _read_what_comes(sock: socket.socket) -> bytes:
    try:
        return read_to_end(sock)
    except ConnectionResetError:
        return b""


def test_abandoned_handshakes_leave_nothing(
    server: ServerProcess, files: Files
) -> None:
    """After 200 of them, the server has no more files open than before."""
    with secured(server, files.client()) as sock:
        ask(sock)
    before = descriptors(server)
    with ExitStack() as closing:
        for number in range(200):
            client = closing.enter_context(connect(server.url))
            client.sendall(
                (b"", b"\x16", b"\x16\x03\x01\x02\x00\x01", b"GET")[number % 4]
            )
        # All others are served meanwhile.
        with secured(server, files.client()) as sock:
            ask(sock)
    deadline = time.monotonic() + 20
    while descriptors(server) > before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert before >= descriptors(server)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_server_stops_in_spite_of_handshakes(
    serve: Serve, files: Files, loop: str
) -> None:
    """Connections which aren't even begun don't hold it, nor do idle ones."""
    server = serve(
        *(APPLICATION, "-p", "0", "--loop", loop, "--ssl-certfile", str(files.server)),
        *("--ssl-handshake-timeout", "0", "--timeout-keep-alive", "600"),
    )
    with connect(server.url) as silent, connect(server.url) as half:
        half.sendall(b"\x16\x03")
        with secured(server, files.client()) as idle:
            idle.sendall(REQUEST.replace(b"connection: close\r\n", b""))
            read_until(idle, b'"tls"')
            server.signal(signal.SIGTERM)
            assert b"" == read_to_end(idle)
        assert b"" == silent.recv(1)
        assert b"" == _read_what_comes(half)
    assert 0 == server.wait()
    assert "Waiting for" not in server.log


# -- Exchanges -------------------------------------------------------------------------


def test_large_bodies_both_ways(server: ServerProcess, files: Files) -> None:
    """32 MiB arrive whole, whichever way they go."""
    size = 32 * 1024 * 1024
    body = bytes(range(256)) * (size // 256)
    with httpx.Client(verify=files.client(), timeout=30) as client:
        found = client.post(f"{server.url}/upload", content=body)
        assert f"{size} {hashlib.sha256(body).hexdigest()}" == found.text
        assert body == client.get(f"{server.url}/download?{size}").content


def test_a_slow_reader_gets_all_before_the_end(
    server: ServerProcess, files: Files
) -> None:
    """A large last answer is written to the end, with TLS's own farewell."""
    size = 8 * 1024 * 1024
    context = files.client()
    with connect(server.url) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
        # With ragged ends, one without farewell would be an end, too.
        with context.wrap_socket(
            sock, server_hostname="localhost", suppress_ragged_eofs=False
        ) as secure:
            secure.sendall(REQUEST.replace(b"GET /", b"GET /download?%d" % size))
            begun = read_until(secure, b"\r\n\r\n")
            time.sleep(1)
            received = begun + read_to_end(secure)
    [answer] = split_answers(received)
    assert size == len(answer.body)


def test_a_file_is_encrypted(server: ServerProcess, files: Files) -> None:
    """Files are not copied by the kernel past TLS."""
    with httpx.Client(verify=files.client()) as client:
        found = client.get(f"{server.url}/file")
    source = Path(__file__).parent / "applications" / "secure.py"
    assert source.read_bytes() == found.content


@pytest.mark.parametrize("loop", LOOPS)
def test_an_early_answer_reaches_who_still_sends(
    serve: Serve, files: Files, loop: str
) -> None:
    """A body that is refused doesn't take the refusal with it."""
    server = serve(
        *(APPLICATION, "-p", "0", "--loop", loop, "--ssl-certfile", str(files.server)),
        *("--limit-request-body", "1000"),
    )
    size = 16 * 1024 * 1024
    for _ in range(5):
        with secured(server, files.client()) as sock:
            head = f"POST /upload HTTP/1.1\r\nhost: localhost\r\ncontent-length: {size}"
            sock.sendall(head.encode() + b"\r\n\r\n" + bytes(1024 * 1024))
            time.sleep(0.05)
            try:
                sock.sendall(bytes(1024 * 1024))
            except OSError:
                pass
            assert read_until(sock, b"\r\n\r\n").startswith(b"HTTP/1.1 413 ")


def test_websockets_over_tls(server: ServerProcess, files: Files) -> None:
    """They work as without TLS, and are told the same as requests are."""
    url = server.url.replace("https:", "wss:")
    with connect_websocket(url, ssl=files.client(), proxy=None) as websocket:
        found = json.loads(websocket.recv())
        assert "wss" == found["scheme"]
        assert 0x0304 == found["tls"]["tls_version"]
        for text in ("hello", "x" * 300_000):
            websocket.send(text)
            assert text == websocket.recv()


def test_curl(server: ServerProcess, files: Files) -> None:
    """The usual client is content with the certificate, and keeps the connection."""
    url = server.url.replace("127.0.0.1", "localhost")
    done = curl(
        *("--cacert", str(files.root), "-4", url, url),
        *("-w", " %{http_code} %{num_connects}\n"),
    )

    assert b"" == done.stderr
    assert 2 == done.stdout.count(b" 200 ")
    assert [b"1", b"0"] == re.findall(rb"200 (\d)", done.stdout)


def test_openssl(server: ServerProcess, files: Files) -> None:
    """
    OpenSSL's own client verifies the chain, and sees no compression and no
    renegotiation.
    """
    done = subprocess.run(
        [
            *(find_program("openssl"), "s_client", "-connect"),
            *(server.url.removeprefix("https://"), "-servername", "localhost"),
            *("-CAfile", str(files.root), "-verify_return_error", "-tls1_2"),
            *("-alpn", "http/1.1", "-ign_eof"),
        ],
        input=REQUEST,
        capture_output=True,
        check=False,
        timeout=20,
    )

    assert b"Verification: OK" in done.stdout
    assert b"Compression: NONE" in done.stdout
    assert b"ALPN protocol: http/1.1" in done.stdout
    assert b"HTTP/1.1 200 OK" in done.stdout


def test_renegotiation_is_refused(server: ServerProcess, files: Files) -> None:
    """A client that asks for another handshake on a connection is told no."""
    done = subprocess.run(
        [
            *(find_program("openssl"), "s_client", "-connect"),
            *(server.url.removeprefix("https://"), "-tls1_2"),
        ],
        input=b"R\n",
        capture_output=True,
        check=False,
        timeout=20,
    )

    assert b"RENEGOTIATING" in done.stdout + done.stderr
    assert b"no renegotiation" in done.stderr


# -- The listener without TLS ---------------------------------------------------------


def plain_url(server: ServerProcess) -> str:
    """Return where a server redirects."""
    server.wait_for_log("to https")
    [url] = [url for url in server.urls if url.startswith("http:")]
    return url


@pytest.mark.parametrize(
    ("target", "host", "expected"),
    [
        ("/a%20b?c=d&e", "example.org:80", "https://example.org:{port}/a%20b?c=d&e"),
        ("/", "[::1]", "https://[::1]:{port}/"),
        ("//evil.example/", "x.example", "https://x.example:{port}//evil.example/"),
        ("/\\evil.example", "x.example", "https://x.example:{port}/\\evil.example"),
        ("http://a.example/b?c", "ignored", "https://a.example:{port}/b?c"),
    ],
)
def test_plain_requests_are_sent_to_https(
    server: ServerProcess, target: str, host: str, expected: str
) -> None:
    """Path and query are kept, and so is the host, which is the client's own."""
    with connect(plain_url(server)) as sock:
        sock.sendall(
            f"POST {target} HTTP/1.1\r\nhost: {host}\r\n"
            "connection: close\r\ncontent-length: 0\r\n\r\n".encode()
        )
        [answer] = split_answers(read_to_end(sock))

    assert 308 == answer.status
    assert expected.format(port=server.port) == answer.headers["location"]


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nhost: a@evil.example\r\n",
        b"GET / HTTP/1.1\r\nhost: evil.example/x\r\n",
        b"GET / HTTP/1.1\r\n",
        b"GET / HTTP/1.0\r\n",
        b"OPTIONS * HTTP/1.1\r\nhost: a\r\n",
    ],
)
def test_redirects_need_a_host_and_a_path(server: ServerProcess, head: bytes) -> None:
    """There is no redirect to what isn't a host."""
    with connect(plain_url(server)) as sock:
        sock.sendall(head + b"connection: close\r\n\r\n")
        [answer] = split_answers(read_to_end(sock))
    assert 400 == answer.status
    assert "location" not in answer.headers


def test_a_client_follows_to_https(server: ServerProcess, files: Files) -> None:
    """A client that is sent to HTTPS arrives there, with its body."""
    with httpx.Client(verify=files.client(), follow_redirects=True) as client:
        found = client.post(f"{plain_url(server)}/upload", content=b"abc")
    assert f"3 {hashlib.sha256(b'abc').hexdigest()}" == found.text


def test_a_websocket_without_tls_is_denied(server: ServerProcess) -> None:
    """It gets the redirect, too."""
    with connect(plain_url(server)) as sock:
        sock.sendall(
            b"GET /chat HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\n"
            b"connection: upgrade\r\nsec-websocket-version: 13\r\n"
            b"sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        assert b"HTTP/1.1 308 " in read_until(sock, b"\r\n\r\n")


# -- Where TLS is -----------------------------------------------------------------------


def test_unix_sockets_and_endpoint_strings(
    serve: Serve, files: Files, socket_folder: Path
) -> None:
    """
    A certificate makes TLS of what the options name; endpoint strings say
    themselves what they are.
    """
    unix = socket_folder / "secure.sock"
    server = serve(
        *(APPLICATION, "-u", str(unix), "--ssl-certfile", str(files.server)),
        *("-e", "tcp:0:interface=127.0.0.1"),
        *("-e", f"ssl:0:privateKey={files.other}:interface=127.0.0.1"),
    )
    server.wait_for_log("(?s)(Listening on.*){3}")
    context = files.client(check_hostname=False)
    for url in server.urls:
        with connect(url) as sock:
            if url.startswith("http:"):
                assert {"scheme": "http", "tls": None} == ask(sock)
                continue
            with context.wrap_socket(sock) as secure:
                expected = "first" if url.startswith("unix:") else "second"
                assert expected == common_name(secure)
                assert "https" == ask(secure)["scheme"]
    assert 0 == server.stop()


def test_twisteds_arguments_of_ssl(serve: Serve, tmp_path: Path, files: Files) -> None:
    """Key, certificate and chain may be in three files; the chain is sent."""
    between = Authority("between", files.authority)
    issued = between.issue("localhost", name="chained")
    (tmp_path / "key.pem").write_text(issued.key_pem())
    (tmp_path / "cert.pem").write_text(issued.pem)
    (tmp_path / "chain.pem").write_text(issued.chain_pem)
    server = serve(
        APPLICATION,
        "-e",
        f"ssl:0:privateKey={tmp_path}/key.pem:certKey={tmp_path}/cert.pem:"
        f"extraCertChain={tmp_path}/chain.pem:sslmethod=TLSv1_2_METHOD:"
        "interface=127.0.0.1:backlog=7",
    )
    with secured(server, files.client()) as sock:
        assert ("chained", "TLSv1.2") == (common_name(sock), sock.version())


def test_a_directory_of_certificates(
    serve: Serve, tmp_path: Path, files: Files
) -> None:
    """
    `tls:` takes all from a directory, as Twisted's does, and new ones as they
    come.
    """
    between = Authority("between", files.authority)
    first = between.issue("localhost", name="first")
    (tmp_path / "a-key.pem").write_text(first.key_pem())
    (tmp_path / "b-cert.pem").write_text(first.pem)
    (tmp_path / "c-chain.pem").write_text(first.chain_pem)
    (tmp_path / "notes.txt").write_text("none of it")
    server = serve(
        *(APPLICATION, "-e", f"tls:{tmp_path}:0:interface=127.0.0.1"),
        *("--ssl-reload-interval", "0.2"),
    )
    with secured(server, files.client()) as sock:
        assert "first" == common_name(sock)
    later = between.issue("later.example", name="later")
    later.write(tmp_path / "later").replace(tmp_path / "later.pem")
    server.wait_for_log("Certificates read again")
    with secured(server, files.client(), "later.example") as sock:
        assert "later" == common_name(sock)


@pytest.mark.parametrize("loop", LOOPS)
def test_tls_of_twisteds_own_transports(serve: Serve, files: Files, loop: str) -> None:
    """Endpoints of plugins have pyOpenSSL's TLS, and the application is told of it."""
    string = f"haproxy:ssl:0:interface=127.0.0.1:privateKey={files.server}"
    server = serve(APPLICATION, "-e", string, "--loop", loop)
    context = files.client()
    context.set_alpn_protocols(["http/1.1"])
    with secured(server, context) as sock:
        assert "http/1.1" == sock.selected_alpn_protocol()
        shown: Any = sock.getpeercert(binary_form=True)
        # HAProxy's header comes within TLS.
        header = b"PROXY TCP4 192.0.2.7 192.0.2.8 5000 443\r\n"
        found = ask(sock, header + REQUEST)

    assert "https" == found["scheme"]
    assert {
        "server_cert": ssl.DER_cert_to_PEM_cert(shown),
        "client_cert_chain": [],
        "client_cert_name": None,
        "client_cert_error": None,
        "tls_version": 0x0304,
        "cipher_suite": 0x1302,
    } == found["tls"]


def test_the_development_certificate(serve: Serve, tmp_path: Path) -> None:
    """`--ssl-dev` is enough for HTTPS; the certificate is kept for the next time."""
    environment = {"XDG_CACHE_HOME": str(tmp_path)}
    prints = []
    for _ in range(2):
        server = serve(
            *(APPLICATION, "-p", "0", "--ssl-dev", "-b", "localhost"),
            environment=environment,
        )
        prints.append(server.wait_for_log("SHA-256 [0-9A-F:]{95}"))
        file = tmp_path / "daphne-like" / "development.pem"
        context = ssl.create_default_context(cafile=str(file))
        for host in ("localhost", "127.0.0.1"):
            with secured(server, context, host) as sock:
                ask(sock)
        assert 0 == server.stop()
    assert prints[0] == prints[1]
    assert 0o600 == file.stat().st_mode & 0o777


# -- What is wrong ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--ssl-certfile", "/no/such/file"], "/no/such/file: No such file"),
        (["--ssl-certfile", "{root}"], "{root}: there is no private key in it"),
        (
            ["--ssl-certfile", "{server}", "--ssl-keyfile", "{other}"],
            "{other}: the private key belongs to another certificate",
        ),
        (
            ["--ssl-certfile", "{server}", "--ssl-ciphers", "NONSENSE"],
            "ssl_ciphers: OpenSSL has no such cipher suite",
        ),
        (["--ssl-certfile", "{locked}"], "{locked}: the private key needs ssl_keyfile"),
        (
            ["--ssl-certfile", "{locked}", "--ssl-keyfile-password", "wrong"],
            "{locked}: the private key is damaged, or its password is wrong",
        ),
        (["--ssl-cert-reqs", "required"], "ssl_cert_reqs needs ssl_ca_certs"),
        (["--redirect-https", "0"], "redirect_https needs a listener with TLS"),
        (["-e", "ssl:0:privateKey={root}"], "{root}: there is no private key in it"),
        (["-e", "tls:/no/such:0"], "/no/such: there is no .pem file with"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    launch: Serve, files: Files, arguments: list[str], reason: str
) -> None:
    """Nothing starts; the status is 2."""
    locked = files.folder / "locked.pem"
    files.authority.issue("localhost").write(locked, "right")
    places = {**files._asdict(), "locked": locked}
    server = launch(APPLICATION, *(word.format(**places) for word in arguments))

    assert 2 == server.wait()
    [line] = [line for line in server.log.splitlines() if "usage:" not in line]
    assert reason.format(**places) in line
    assert "Traceback" not in server.log


def test_an_encrypted_key(serve: Serve, files: Files) -> None:
    """It is opened with the password, which is best given by the environment."""
    path = files.folder / "encrypted.pem"
    files.authority.issue("localhost").write(path, "secret")
    server = serve(
        *(APPLICATION, "-p", "0", "--ssl-certfile", str(path)),
        environment={"DAPHNE_LIKE_SSL_KEYFILE_PASSWORD": "secret"},
    )
    with secured(server, files.client()) as sock:
        ask(sock)
