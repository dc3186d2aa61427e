"""
A certificate of our own making, for development.

It is kept in the user's cache directory, so that a browser which was told once to
trust it does so again, and made anew a month before it expires or when it lacks
a name. Key and certificate are in one file which nobody else may read.

Tests: ``tests/unit/listeners/test_development_certificate.py``.
"""

from __future__ import annotations

import logging
import os
import tempfile
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from daphne_like.errors import SettingsError
from daphne_like.listeners.tls import CertificateFiles

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["obtain"]

_logger = logging.getLogger("daphne_like.server")

_VALIDITY = timedelta(days=365)
_RENEWAL = timedelta(days=30)
# A clock may be a little behind.
_BEFORE = timedelta(days=1)

_ALWAYS = ("localhost", "127.0.0.1", "::1")
# These mean all addresses, and are the name of none.
_UNSPECIFIED = ("0.0.0.0", "::")  # noqa: S104 - as users write it


def obtain(hosts: Iterable[str]) -> list[CertificateFiles]:
    """
    Return the development certificate, a new one where it is needed.

    Args:
        hosts: Names and addresses which it is to be for, beside those of this
            machine's loopback.

    Raises:
        SettingsError: There is no place for it.
    """
    path = _directory() / "development.pem"
    bound = [host.strip("[]") for host in hosts]
    wanted = [
        _canonical(host) for host in (*_ALWAYS, *bound) if host not in _UNSPECIFIED
    ]
    try:
        certificate = _find(path)
        known = [] if certificate is None else _names(certificate)
        if certificate is None or not set(wanted) <= set(known):
            # Other projects' names stay in it.
            certificate = _make(path, list(dict.fromkeys([*wanted, *known])))
    except OSError as error:
        raise SettingsError(f"ssl_dev: {path}: {error.strerror}") from None
    fingerprint = certificate.fingerprint(hashes.SHA256()).hex(":").upper()
    _logger.info("Development certificate %s, SHA-256 %s", path, fingerprint)
    return [CertificateFiles(str(path), str(path))]


def _directory() -> Path:
    # XDG base directory specification; macOS users of such tools know it, too.
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not cache.is_absolute():
        cache = Path.home() / ".cache"
    return cache / "daphne-like"


def _find(path: Path) -> x509.Certificate | None:
    """Read the certificate; None where there is none to be used for much longer."""
    try:
        data = path.read_bytes()
        certificate = x509.load_pem_x509_certificate(data)
        serialization.load_pem_private_key(data, None)
    except (FileNotFoundError, TypeError, ValueError):
        return None
    expires = certificate.not_valid_after_utc
    return certificate if expires - datetime.now(timezone.utc) > _RENEWAL else None


def _names(certificate: x509.Certificate) -> list[str]:
    alternatives = certificate.extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    ).value
    return [
        *alternatives.get_values_for_type(x509.DNSName),
        *map(str, alternatives.get_values_for_type(x509.IPAddress)),
    ]


def _make(path: Path, names: list[str]) -> x509.Certificate:
    """Make key and certificate, and put them in their place at once."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name(
        [x509.NameAttribute(x509.NameOID.COMMON_NAME, "daphne-like development")]
    )
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BEFORE)
        .not_valid_after(now + _VALIDITY)
        .add_extension(
            x509.SubjectAlternativeName([_general_name(name) for name in names]),
            critical=False,
        )
        # Trusted by a user's hand, it must not serve to sign others.
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # mkstemp makes a file which nobody else can read.
    descriptor, file = tempfile.mkstemp(dir=path.parent)
    with open(descriptor, "wb") as both:  # noqa: PTH123 - a descriptor
        both.write(private + certificate.public_bytes(serialization.Encoding.PEM))
    Path(file).replace(path)
    return certificate


def _canonical(host: str) -> str:
    """Write a host as certificates have it."""
    try:
        return str(ip_address(host))
    except ValueError:
        pass
    try:
        return host.encode("idna").decode("ascii").lower()
    except UnicodeError:
        raise SettingsError(f"ssl_dev: {host!r} is no host name") from None


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)
