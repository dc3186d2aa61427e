"""Certificates which live as long as a test."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

__all__ = ["Authority", "Issued", "common_name"]

_PEM = serialization.Encoding.PEM


def common_name(name: str) -> x509.Name:
    """Return a subject with nothing but a common name."""
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


@dataclass(frozen=True)
class Issued:
    """
    A certificate with its key.

    Attributes:
        certificate: The certificate.
        key: Its private key.
        issuers: The certificates of those between it and the root.
    """

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    issuers: tuple[x509.Certificate, ...] = ()

    @property
    def pem(self) -> str:
        """The certificate alone."""
        return self.certificate.public_bytes(_PEM).decode()

    @property
    def chain_pem(self) -> str:
        """Those who issued it, without the root."""
        return "".join(item.public_bytes(_PEM).decode() for item in self.issuers)

    def key_pem(self, password: str | None = None) -> str:
        """Return the key, encrypted with a password."""
        encryption: serialization.KeySerializationEncryption
        encryption = serialization.NoEncryption()
        if password is not None:
            encryption = serialization.BestAvailableEncryption(password.encode())
        form = serialization.PrivateFormat.PKCS8
        return self.key.private_bytes(_PEM, form, encryption).decode()

    def write(self, path: Path, password: str | None = None) -> Path:
        """Write key, certificate and chain to one file; return its path."""
        path.write_text(self.key_pem(password) + self.pem + self.chain_pem)
        return path


class Authority:
    """
    A certificate authority, at its root or below another one.

    Attributes:
        issued: Its own certificate and key.
    """

    def __init__(self, name: str = "root", parent: Authority | None = None) -> None:
        self._parent = parent
        self.issued: Issued = _issue(
            name, None if parent is None else parent.issued, ca=True
        )

    @property
    def pem(self) -> str:
        """Its own certificate."""
        return self.issued.pem

    def issue(self, *hosts: str, name: str = "server", **options: Any) -> Issued:
        """Sign a certificate for hosts."""
        issuers = () if self._parent is None else (self.issued.certificate,)
        return _issue(name, self.issued, hosts, issuers=issuers, **options)


def _issue(
    subject: str | x509.Name,
    issuer: Issued | None,
    hosts: tuple[str, ...] = (),
    *,
    ca: bool = False,
    issuers: tuple[x509.Certificate, ...] = (),
    days: int = 2,
) -> Issued:
    key = ec.generate_private_key(ec.SECP256R1())
    name = common_name(subject) if isinstance(subject, str) else subject
    now = datetime.now(timezone.utc)
    signer = key if issuer is None else issuer.key
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name if issuer is None else issuer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        # Python 3.13's clients insist on these two (RFC 5280 section 4.2.1).
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),
            critical=False,
        )
        .add_extension(
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
        )
    )
    if ca:
        usage = dict.fromkeys(
            (
                *("digital_signature", "content_commitment", "key_encipherment"),
                *("data_encipherment", "key_agreement", "encipher_only"),
                "decipher_only",
            ),
            False,
        )
        builder = builder.add_extension(
            x509.KeyUsage(**usage, key_cert_sign=True, crl_sign=True), critical=True
        )
    else:
        purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
    if hosts:
        names = x509.SubjectAlternativeName([_general_name(host) for host in hosts])
        builder = builder.add_extension(names, critical=False)
    return Issued(builder.sign(signer, hashes.SHA256()), key, issuers)


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)
