"""Tests of ``daphne_like.listeners.tls``."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority
from recorded_log import RecordedLog
from tls_in_memory import shake_hands, trusting

from daphne_like.errors import SettingsError
from daphne_like.listeners.tls import (
    CertificateDirectory,
    CertificateFiles,
    CertificateSource,
    ServerTLS,
    TLSPolicy,
)
from daphne_like.settings import Settings

TLS_1_2 = ssl.TLSVersion.TLSv1_2

Make = Callable[..., CertificateFiles]


@pytest.fixture(scope="module")
def authority() -> Authority:
    """Sign all certificates."""
    return Authority()


@pytest.fixture
def make(authority: Authority, tmp_path: Path) -> Make:
    """Make certificates in files."""

    def make(*hosts: str, name: str = "server") -> CertificateFiles:
        path = str(authority.issue(*hosts, name=name).write(tmp_path / f"{name}.pem"))
        return CertificateFiles(path, path)

    return make


def shown(tls: ServerTLS, authority: Authority, host: str | None = "localhost") -> str:
    """Return the name in the certificate which a client is shown."""
    client = trusting(authority.pem, check_hostname=False)
    _, side = shake_hands(tls.context, client, host)
    certificate: Any = side.getpeercert()
    [[[_, name]]] = certificate["subject"]
    return str(name)


# -- Which certificate ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("a.example", "first"),
        ("b.example", "second"),
        ("B.Example", "second"),
        ("x.wild.example", "second"),
        ("wild.example", "first"),
        ("x.y.wild.example", "first"),
        ("c.example", "third"),
        ("elsewhere", "first"),
        (None, "first"),
    ],
)
def test_a_client_gets_the_certificate_of_its_host(
    make: Make, authority: Authority, host: str | None, name: str
) -> None:
    """Exact names count, a wildcard for one label; for all others there is the first."""
    tls = ServerTLS(
        [
            make("a.example", name="first"),
            make("b.example", "*.wild.example", name="second"),
            # Of two for the same name, the earlier one counts.
            make("a.example", "c.example", name="third"),
        ],
        TLSPolicy(),
    )

    assert name == shown(tls, authority, host)


def test_without_alternative_names_the_common_name_counts(
    make: Make, authority: Authority
) -> None:
    """Old certificates are found by their subject."""
    tls = ServerTLS([make("a.example", name="first"), make(name="old")], TLSPolicy())

    assert "old" == shown(tls, authority, "old")


def test_the_whole_chain_is_sent(authority: Authority, tmp_path: Path) -> None:
    """A client that knows the root only can verify."""
    issued = Authority("between", authority).issue("localhost", name="leaf")
    (tmp_path / "cert").write_text(issued.pem)
    (tmp_path / "key").write_text(issued.key_pem())
    (tmp_path / "chain").write_text(issued.chain_pem)
    source = CertificateFiles(
        *(str(tmp_path / name) for name in ("cert", "key", "chain"))
    )

    assert "leaf" == shown(ServerTLS([source], TLSPolicy()), authority)


# -- Directories ---------------------------------------------------------------------


def test_pairs_and_chains_are_found_in_a_directory(
    authority: Authority, tmp_path: Path
) -> None:
    """It doesn't matter what is in which file, nor how deep; only .pem counts."""
    between = Authority("between", authority)
    apart = between.issue("apart.example", name="apart")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "key.pem").write_text(apart.key_pem())
    (tmp_path / "b.pem").write_text(apart.pem)
    (tmp_path / "chain.pem").write_text(between.pem)
    between.issue("whole.example", name="whole").write(tmp_path / "whole.pem")
    (tmp_path / "broken.txt").write_text("-----BEGIN CERTIFICATE-----")
    tls = ServerTLS([CertificateDirectory(str(tmp_path))], TLSPolicy())

    assert "apart" == shown(tls, authority, "apart.example")
    assert "whole" == shown(tls, authority, "whole.example")
    assert "apart" == shown(tls, authority, None)


def test_a_directory_needs_a_pair(authority: Authority, tmp_path: Path) -> None:
    """A key alone, or a certificate alone, is none."""
    (tmp_path / "key.pem").write_text(authority.issue("a").key_pem())
    (tmp_path / "cert.pem").write_text(authority.issue("a").pem)

    with pytest.raises(SettingsError, match=f"^{tmp_path}: there is no .pem file"):
        ServerTLS([CertificateDirectory(str(tmp_path))], TLSPolicy())


def test_a_locked_key_in_a_directory(authority: Authority, tmp_path: Path) -> None:
    """There is no password for it."""
    file = authority.issue("a").write(tmp_path / "a.pem", password="x")

    with pytest.raises(SettingsError, match=f"^{file}: .* without a password"):
        ServerTLS([CertificateDirectory(str(tmp_path))], TLSPolicy())


# -- Policy ---------------------------------------------------------------------------


def test_settings_become_a_policy(make: Make, authority: Authority) -> None:
    """Each setting has its effect on the context."""
    source = make("localhost")
    settings = Settings.of(
        ssl_certfile=source.certificate,
        ssl_min_version="1.3",
        ssl_cert_reqs="required",
        ssl_ca_certs=source.certificate,
        ssl_handshake_timeout=3,
    )
    tls = ServerTLS.from_settings(settings.tls)

    assert ssl.TLSVersion.TLSv1_3 == tls.context.minimum_version
    assert ssl.CERT_REQUIRED == tls.context.verify_mode
    assert 3 == tls.handshake_timeout
    assert tls.context.options & ssl.OP_NO_COMPRESSION
    assert tls.context.options & ssl.OP_NO_RENEGOTIATION


def test_ciphers_are_those_of_the_settings(make: Make, authority: Authority) -> None:
    """With TLS 1.2, no other is agreed on."""
    policy = TLSPolicy(ciphers="ECDHE-ECDSA-CHACHA20-POLY1305")
    tls = ServerTLS([make("localhost")], policy)
    client = trusting(authority.pem, maximum_version=ssl.TLSVersion.TLSv1_2)
    server, _ = shake_hands(tls.context, client)

    cipher = server.cipher()
    assert cipher is not None
    assert "ECDHE-ECDSA-CHACHA20-POLY1305" == cipher[0]


def test_authorities_may_be_a_directory(
    make: Make, authority: Authority, tmp_path: Path
) -> None:
    """One made for OpenSSL, with a file for each."""
    folder = tmp_path / "authorities"
    folder.mkdir()
    policy = TLSPolicy(client_certificates=ssl.CERT_REQUIRED, authorities=str(folder))
    tls = ServerTLS([make("localhost")], policy)

    with pytest.raises(ssl.SSLError, match=r"(?i)did not return a certificate"):
        shake_hands(tls.context, trusting(authority.pem, maximum_version=TLS_1_2))


@pytest.mark.parametrize("method", ["TLS_METHOD", "SSLv23_METHOD", "TLSv1_2_METHOD"])
def test_methods_of_twisted(method: str) -> None:
    """`sslmethod` may restrict to TLS 1.2."""
    maximum = TLSPolicy().with_method(method).maximum_version
    only = method == "TLSv1_2_METHOD"

    assert (TLS_1_2 if only else ssl.TLSVersion.MAXIMUM_SUPPORTED) == maximum


@pytest.mark.parametrize(
    ("minimum", "method"),
    [
        (TLS_1_2, "TLSv1_METHOD"),
        (TLS_1_2, "nonsense"),
        (ssl.TLSVersion.TLSv1_3, "TLSv1_2_METHOD"),
    ],
)
def test_methods_which_are_not_offered(minimum: ssl.TLSVersion, method: str) -> None:
    """Old versions are refused in words, and so are versions below the lowest."""
    with pytest.raises(ValueError, match=r"^sslmethod "):
        TLSPolicy(minimum_version=minimum).with_method(method)


def test_parameters_for_diffie_hellman(make: Make, tmp_path: Path) -> None:
    """The file must hold some."""
    file = tmp_path / "dh.pem"
    file.write_text("nothing")

    with pytest.raises(SettingsError, match=f"^{file}: there are no parameters"):
        ServerTLS([make("localhost")], TLSPolicy(dh_parameters=str(file)))


# -- What is wrong ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("contents", "password", "reason"),
    [
        ((None, "key"), None, "cert: No such file or directory"),
        (("cert", None), None, "key: No such file or directory"),
        (("nonsense", "key"), None, "cert: there is no valid certificate in it"),
        (("cert", "nonsense"), None, "key: there is no private key in it"),
        (("cert", "other"), None, "key: the private key belongs to another"),
        (("cert", "locked"), None, "key: the private key needs ssl_keyfile_password"),
        (("cert", "locked"), "y", "key: the private key is damaged, or its password"),
    ],
)
def test_files_which_can_not_be_used(
    authority: Authority,
    tmp_path: Path,
    contents: tuple[str | None, str | None],
    password: str | None,
    reason: str,
) -> None:
    """One line names the file and the reason."""
    issued = authority.issue("localhost")
    known = {
        "cert": issued.pem,
        "key": issued.key_pem(),
        "locked": issued.key_pem("x"),
        "other": authority.issue("localhost").key_pem(),
        "nonsense": "nonsense",
    }
    files = [str(tmp_path / "cert"), str(tmp_path / "key")]
    for file, content in zip(files, contents, strict=True):
        if content is not None:
            Path(file).write_text(known[content])
    source = CertificateFiles(files[0], files[1], password=password)

    with pytest.raises(SettingsError) as raised:
        ServerTLS([source], TLSPolicy())

    assert str(raised.value).startswith(f"{tmp_path}/{reason}")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        (TLSPolicy(ciphers="NONSENSE"), "ssl_ciphers: OpenSSL has no such"),
        (TLSPolicy(authorities="/no/such"), "/no/such: No such file"),
        (TLSPolicy(authorities=__file__), f"{__file__}: there is no certificate in it"),
    ],
)
def test_settings_which_can_not_be_used(
    make: Make, policy: TLSPolicy, reason: str
) -> None:
    """One line names the setting or the file, and the reason."""
    with pytest.raises(SettingsError, match=f"^{reason}"):
        ServerTLS([make("localhost")], policy)


def test_an_expired_certificate_is_noticed(
    authority: Authority, tmp_path: Path, log: RecordedLog
) -> None:
    """It is served, as an old one is better than none; the log has a warning."""
    path = str(authority.issue("localhost", days=-1).write(tmp_path / "old.pem"))
    ServerTLS([CertificateFiles(path, path)], TLSPolicy())

    assert [f"WARNING A certificate has expired: {path}"] == log.take()


# -- Renewal -------------------------------------------------------------------------


class Watched:
    """Certificates in a file, and a clock in the hands of the test."""

    def __init__(self, authority: Authority, path: Path, interval: float) -> None:
        self.now = 100.0
        self.path = path
        self._authority = authority
        self.renew("old")
        source: CertificateSource = CertificateFiles(str(path), str(path))
        policy = TLSPolicy(reload_interval=interval)
        self.tls = ServerTLS([source], policy, lambda: self.now)

    def renew(self, name: str) -> None:
        """Put another certificate in its place."""
        successor = self._authority.issue("localhost", name=name)
        successor.write(self.path.with_suffix(".new")).replace(self.path)

    def shown(self) -> str:
        """Return the name which a client sees."""
        return shown(self.tls, self._authority)


def test_changed_files_are_noticed(
    authority: Authority, tmp_path: Path, log: RecordedLog
) -> None:
    """At the next look, and looks come as often as told."""
    watched = Watched(authority, tmp_path / "a.pem", 5)
    context = watched.tls.context
    watched.now += 6
    watched.tls.look()

    assert context is watched.tls.context  # nothing has changed

    watched.renew("new")
    watched.now += 4
    watched.tls.look()

    assert "old" == watched.shown()

    watched.now += 1
    watched.tls.look()

    assert "new" == watched.shown()
    assert any("Certificates read again" in line for line in log.take(0))


def test_looking_can_be_switched_off(authority: Authority, tmp_path: Path) -> None:
    """Then a signal alone makes the server read again."""
    watched = Watched(authority, tmp_path / "a.pem", 0)
    watched.renew("new")
    watched.now += 1000
    watched.tls.look()

    assert "old" == watched.shown()

    watched.tls.reload()

    assert "new" == watched.shown()


def test_a_broken_file_changes_nothing(
    authority: Authority, tmp_path: Path, log: RecordedLog
) -> None:
    """It is told once, and the certificate in use stays until there is a good one."""
    watched = Watched(authority, tmp_path / "a.pem", 1)
    watched.path.unlink()
    for _ in range(3):
        watched.now += 2
        watched.tls.look()

    assert "old" == watched.shown()
    reason = f"{watched.path}: No such file or directory"
    assert [f"ERROR The certificates in use are kept: {reason}"] == log.take()

    watched.renew("new")
    watched.now += 2
    watched.tls.look()

    assert "new" == watched.shown()


def test_protocols_survive_a_renewal(authority: Authority, tmp_path: Path) -> None:
    """What is agreed on by ALPN is the same with the new certificate."""
    watched = Watched(authority, tmp_path / "a.pem", 1)
    watched.tls.offer([b"h2", b"http/1.1"])
    client = trusting(authority.pem)
    client.set_alpn_protocols(["http/1.1", "h2"])
    for name in ("old", "new"):
        watched.renew(name)
        watched.tls.reload()
        server, _ = shake_hands(watched.tls.context, client)

        assert "h2" == server.selected_alpn_protocol()


def test_a_connection_keeps_what_it_was_shown(
    authority: Authority, tmp_path: Path
) -> None:
    """Its context still tells the old certificate when there is a new one."""
    watched = Watched(authority, tmp_path / "a.pem", 1)
    server, client = shake_hands(watched.tls.context, trusting(authority.pem))
    watched.renew("new")
    watched.tls.reload()

    certificate = client.getpeercert(binary_form=True)
    assert certificate is not None
    context = server.context
    assert ssl.DER_cert_to_PEM_cert(certificate) == context.certificate_pem  # type: ignore[attr-defined]


@pytest.mark.parametrize("version", [TLS_1_2, ssl.TLSVersion.TLSv1_3])
def test_sessions_can_be_resumed(
    make: Make, authority: Authority, version: ssl.TLSVersion
) -> None:
    """With a ticket, also where the host's name has chosen the certificate."""
    tls = ServerTLS([make("a", name="a"), make("localhost", name="b")], TLSPolicy())
    client_context = trusting(authority.pem, maximum_version=version)
    _, client = shake_hands(tls.context, client_context)
    _, again = shake_hands(tls.context, client_context, session=client.session)

    assert again.session_reused


# -- Alerts ---------------------------------------------------------------------------


def test_no_private_key_is_copied(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What is written for OpenSSL to read is the certificate alone, and removed."""
    source = make("localhost")
    written: list[bytes] = []
    unlink = Path.unlink

    def look(path: Path) -> None:
        written.append(path.read_bytes())
        unlink(path)

    monkeypatch.setattr(Path, "unlink", look)
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    ServerTLS([source], TLSPolicy())

    assert [] == [*folder.iterdir()]
    assert 1 == len(written)
    assert b"CERTIFICATE" in written[0]
    assert b"PRIVATE" not in written[0]
