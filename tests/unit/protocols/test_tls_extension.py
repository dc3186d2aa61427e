"""Tests of ``daphne_like.protocols.tls_extension``."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority, Issued
from OpenSSL import SSL, crypto
from tls_in_memory import shake_hands, trusting
from twisted.internet.testing import StringTransport

from daphne_like.protocols.connections import describe
from daphne_like.protocols.tls_extension import tls_extension

TLS_1_2, TLS_1_3 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


class Secure(StringTransport):
    """A transport with TLS, ours or Twisted's."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.__dict__.update(attributes)


@pytest.fixture(scope="module")
def authority() -> Authority:
    """Sign all certificates."""
    return Authority()


@pytest.fixture(scope="module")
def own(authority: Authority) -> Issued:
    """Make the server's certificate."""
    return authority.issue("localhost")


@pytest.fixture(scope="module")
def client(authority: Authority) -> Issued:
    """Make a client's certificate, with an authority between."""
    return Authority("between", authority).issue(name="Ann, of Example")


def server_context(authority: Authority, own: Issued, folder: Path) -> Any:
    """Make the context of a server which asks for certificates."""
    context: Any = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own.write(folder / "own.pem"))
    context.load_verify_locations(cadata=authority.pem)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


@pytest.mark.parametrize(
    ("version", "numbers"),
    [(TLS_1_2, (0x0303, 0xC02B)), (TLS_1_3, (0x0304, 0x1302))],
)
def test_a_connection_of_ours(
    authority: Authority,
    own: Issued,
    tmp_path: Path,
    version: ssl.TLSVersion,
    numbers: tuple[int, int],
) -> None:
    """
    Version and cipher suite are IANA's numbers; without a client's certificate
    there is an empty chain (T1 to T7).
    """
    context = server_context(authority, own, tmp_path)
    context.set_ciphers("ECDHE-ECDSA-AES128-GCM-SHA256")
    server, _ = shake_hands(context, trusting(authority.pem, maximum_version=version))
    found = tls_extension(Secure(ssl_object=server))

    assert {
        "server_cert": None,  # the context isn't one of ours
        "client_cert_chain": (),
        "client_cert_name": None,
        "client_cert_error": None,
        "tls_version": numbers[0],
        "cipher_suite": numbers[1],
    } == found


def test_a_client_with_a_certificate(
    authority: Authority, own: Issued, client: Issued, tmp_path: Path
) -> None:
    """Its chain begins with it; its name is as RFC 4514 has it (T3, T4)."""
    context = server_context(authority, own, tmp_path)
    trusts = trusting(authority.pem)
    trusts.load_cert_chain(client.write(tmp_path / "client.pem"))
    server, _ = shake_hands(context, trusts)
    found: Any = tls_extension(Secure(ssl_object=server))

    assert r"CN=Ann\, of Example" == found["client_cert_name"]
    assert client.pem == found["client_cert_chain"][0]
    if hasattr(server, "get_verified_chain"):
        assert [client.chain_pem, authority.pem] == [*found["client_cert_chain"][1:]]


def test_a_connection_of_pyopenssl(
    authority: Authority, own: Issued, client: Issued, tmp_path: Path
) -> None:
    """Twisted's transports tell the same."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.use_certificate_file(str(own.write(tmp_path / "own.pem")))
    context.use_privatekey_file(str(tmp_path / "own.pem"))
    store = context.get_cert_store()
    assert store is not None
    store.add_cert(crypto.X509.from_cryptography(authority.issued.certificate))
    context.set_verify(SSL.VERIFY_PEER, lambda *_: True)
    context.set_session_id(b"test")
    server = SSL.Connection(context)
    server.set_accept_state()
    trusts = trusting(authority.pem)
    trusts.load_cert_chain(client.write(tmp_path / "client.pem"))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    side = trusts.wrap_bio(incoming, outgoing, server_hostname="localhost")
    for _ in range(6):
        for shake, want in (
            (side.do_handshake, ssl.SSLWantReadError),
            (server.do_handshake, SSL.WantReadError),
        ):
            try:
                shake()
            except want:
                pass
            if data := outgoing.read():
                server.bio_write(data)
            try:
                incoming.write(server.bio_read(100_000))
            except SSL.WantReadError:
                pass
    found: Any = tls_extension(Secure(getHandle=lambda: server))

    assert own.pem == found["server_cert"]
    assert (0x0304, 0x1302) == (found["tls_version"], found["cipher_suite"])
    assert r"CN=Ann\, of Example" == found["client_cert_name"]
    assert [client.pem, client.chain_pem, authority.pem] == [
        *found["client_cert_chain"]
    ]


def test_no_tls() -> None:
    """Without it there is no extension, whichever transport (T1)."""
    assert tls_extension(StringTransport()) is None
    assert tls_extension(Secure(getHandle=object)) is None
    assert describe(Secure(getHandle=object), "http").tls is None


def test_the_scheme_is_that_of_the_transport(
    authority: Authority, own: Issued, tmp_path: Path
) -> None:
    """Whatever an endpoint is called, with TLS it is https."""
    context = server_context(authority, own, tmp_path)
    server, _ = shake_hands(context, trusting(authority.pem))
    connection = describe(Secure(ssl_object=server), "http")

    assert "https" == connection.scheme
    assert connection.tls is not None
