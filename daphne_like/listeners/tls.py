"""
Certificates and settings to TLS contexts.

A :class:`ServerTLS` holds the certificates of one listener, or of several: which of
them a client gets is decided by the host name it asks for (SNI, RFC 6066 section 3)
and the names in the certificates. When the files change, new contexts take the
place of the old ones; connections keep the context with which they began, so that
none is dropped, and what the application is told of them stays true.

Sessions are resumed by tickets (RFC 5077, RFC 8446 section 4.6.1), whose keys live
as long as the contexts.

Tests: ``tests/unit/listeners/test_tls.py``.
"""

from __future__ import annotations

import contextlib
import logging
import ssl
import tempfile
import time
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from daphne_like.errors import SettingsError
from daphne_like.protocols.tls_extension import CERTIFICATE_ATTRIBUTE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from daphne_like.settings import TLSSettings

__all__ = [
    "CertificateDirectory",
    "CertificateFiles",
    "CertificateSource",
    "ServerTLS",
    "TLSPolicy",
]

_logger = logging.getLogger("daphne_like.server")

_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_REQUIREMENTS = {
    "none": ssl.CERT_NONE,
    "optional": ssl.CERT_OPTIONAL,
    "required": ssl.CERT_REQUIRED,
}

_KEY_BEGIN = b"PRIVATE KEY-----"

# What OpenSSL says, in words.
_REASONS = {
    "KEY_VALUES_MISMATCH": "the private key belongs to another certificate",
    "KEY_TYPE_MISMATCH": "the private key belongs to another certificate",
    "EE_KEY_TOO_SMALL": "the key of the certificate is too short to be safe",
    "CA_MD_TOO_WEAK": "the certificate is signed with a hash that is not safe",
}


class CertificateError(ValueError):
    """Certificates can't be used; the text tells why, and of which file."""


# -- What the files hold -------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Certificate:
    """
    A certificate with its chain, ready for use.

    Attributes:
        chain: The certificate, then those of its issuers, as sent.
        key_file: Where its private key is.
        password: That of the key.
    """

    chain: tuple[x509.Certificate, ...]
    key_file: str
    password: str | None = None

    @property
    def pem(self) -> str:
        """The certificate alone."""
        return self.chain[0].public_bytes(Encoding.PEM).decode("ascii")

    def has_expired(self) -> bool:
        """Tell whether clients will refuse it."""
        return self.chain[0].not_valid_after_utc < datetime.now(timezone.utc)

    def explain_key(self) -> str:
        """Tell what is wrong with the private key, in words."""
        data = _read(self.key_file)
        if _KEY_BEGIN not in data:
            return "there is no private key in it"
        password = self.password.encode() if self.password is not None else None
        try:
            serialization.load_pem_private_key(data, password)
        except (TypeError, ValueError):
            return "the private key is damaged, or its password is wrong"
        return "OpenSSL can't use the private key"

    def names(self) -> list[str]:
        """Return its host names in lower case, wildcards as they are."""
        certificate = self.chain[0]
        try:
            extension = certificate.extensions.get_extension_for_class(
                x509.SubjectAlternativeName
            )
        except x509.ExtensionNotFound:
            # RFC 9525 section 2 gave this up; here it only chooses between ours.
            found = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
            names = [str(attribute.value) for attribute in found]
        else:
            names = extension.value.get_values_for_type(x509.DNSName)
        return [name.lower().rstrip(".") for name in names]


class CertificateSource(Protocol):
    """Where certificates come from."""

    def files(self) -> Iterable[str]:
        """Return the files which :meth:`read` reads, as far as they exist."""

    def read(self) -> list[Certificate]:
        """
        Read the certificates.

        Raises:
            CertificateError: They can't be used.
        """


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """
    One certificate.

    Attributes:
        certificate: PEM file with the certificate, and maybe with its chain.
        key: PEM file with its private key.
        chain: PEM file with the rest of the chain.
        password: That of the key.
    """

    certificate: str
    key: str
    chain: str | None = None
    password: str | None = None

    def files(self) -> Iterable[str]:
        """Return all its files."""
        return [
            file
            for file in (self.certificate, self.key, self.chain)
            if file is not None
        ]

    def read(self) -> list[Certificate]:
        """Read the certificate."""
        chain = _certificates(self.certificate, _read(self.certificate))
        if self.chain is not None:
            chain += _certificates(self.chain, _read(self.chain))
        _read(self.key)
        return [Certificate(tuple(chain), self.key, self.password)]


@dataclass(frozen=True, slots=True)
class CertificateDirectory:
    """
    All certificates in the ``.pem`` files below a directory.

    Whatever file they are in, a certificate and its private key are found to
    belong together, and the chain is made of the certificates without one. This is
    what Twisted's ``tls:`` does.

    Attributes:
        path: The directory.
    """

    path: str

    def files(self) -> Iterable[str]:
        """Return its files, in the order of their names."""
        return sorted(
            str(file) for file in Path(self.path).rglob("*.pem") if file.is_file()
        )

    def read(self) -> list[Certificate]:
        """Read all certificates with a key."""
        keys: dict[bytes, str] = {}
        certificates: dict[bytes, x509.Certificate] = {}
        for file in self.files():
            data = _read(file)
            for key in _private_keys(file, data):
                keys[key] = file
            if b"CERTIFICATE-----" in data:
                for certificate in _certificates(file, data):
                    certificates[_public_bytes(certificate.public_key())] = certificate
        issuers = {
            certificate.subject: certificate
            for key, certificate in certificates.items()
            if key not in keys
        }
        found = [
            Certificate(tuple(_chain(certificates[key], issuers)), file)
            for key, file in keys.items()
            if key in certificates
        ]
        if not found:
            raise CertificateError(
                f"{self.path}: there is no .pem file with a private key and its "
                "certificate"
            )
        return found


def _chain(
    certificate: x509.Certificate, issuers: Mapping[x509.Name, x509.Certificate]
) -> Iterator[x509.Certificate]:
    seen = set()
    current: x509.Certificate | None = certificate
    while current is not None and current.subject not in seen:
        yield current
        seen.add(current.subject)
        current = issuers.get(current.issuer)


def _read(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise CertificateError(f"{file}: {error.strerror}") from None


def _certificates(file: str, data: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError:
        raise CertificateError(f"{file}: there is no valid certificate in it") from None


def _private_keys(file: str, data: bytes) -> Iterator[bytes]:
    """Yield what identifies the keys in a file."""
    if _KEY_BEGIN not in data:
        return
    try:
        key = serialization.load_pem_private_key(data, None)
    except (TypeError, ValueError):
        raise CertificateError(
            f"{file}: there is no valid private key without a password in it"
        ) from None
    yield _public_bytes(key.public_key())


def _public_bytes(key: object) -> bytes:
    public_bytes = getattr(key, "public_bytes")  # noqa: B009 - of all kinds of keys
    return bytes(public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


# -- Contexts ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TLSPolicy:
    """
    What holds for all certificates of a listener.

    Attributes:
        minimum_version: The oldest version spoken.
        maximum_version: The newest.
        ciphers: Suites of TLS 1.2, in OpenSSL's notation.
        client_certificates: Whether clients are asked for one.
        authorities: Where those are who may have signed it: a file or directory.
        dh_parameters: File with parameters for key exchange with finite fields.
        handshake_timeout: Seconds for the handshake; 0 for no limit.
        reload_interval: Seconds between looks at the files; 0 for none.
    """

    minimum_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2
    maximum_version: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED
    ciphers: str | None = None
    client_certificates: ssl.VerifyMode = ssl.CERT_NONE
    authorities: str | None = None
    dh_parameters: str | None = None
    handshake_timeout: float = 10.0
    reload_interval: float = 5.0

    @classmethod
    def from_settings(cls, settings: TLSSettings) -> TLSPolicy:
        """Take over the settings."""
        return cls(
            minimum_version=_VERSIONS[settings.ssl_min_version],
            ciphers=settings.ssl_ciphers,
            client_certificates=_REQUIREMENTS[settings.ssl_cert_reqs],
            authorities=settings.ssl_ca_certs,
            handshake_timeout=settings.ssl_handshake_timeout,
            reload_interval=settings.ssl_reload_interval,
        )

    def with_method(self, method: str) -> TLSPolicy:
        """
        Apply an ``sslmethod`` of Twisted's, the name of a constant of pyOpenSSL.

        Raises:
            ValueError: It is none, or a version that isn't spoken.
        """
        if method in ("TLS_METHOD", "TLS_SERVER_METHOD", "SSLv23_METHOD"):
            return self
        if method == "TLSv1_2_METHOD":
            version = ssl.TLSVersion.TLSv1_2
            if self.minimum_version > version:
                raise ValueError("sslmethod is TLS 1.2, ssl_min_version above")
            return replace(self, maximum_version=version)
        raise ValueError(
            f"sslmethod must be TLS_METHOD or TLSv1_2_METHOD, not {method!r}; "
            "older versions of TLS are not offered"
        )

    def files(self) -> Iterable[str]:
        """Return the files which are read for each context."""
        return [file for file in (self.authorities, self.dh_parameters) if file]

    def context(self, certificate: Certificate) -> ServerContext:
        """
        Make the context which shows a certificate.

        Raises:
            CertificateError: The certificate, its key or a setting can't be used.
        """
        context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = self.minimum_version
        context.maximum_version = self.maximum_version
        # CRIME, and CVE-2009-3555 and later: neither has a use in HTTP.
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        if self.ciphers is not None:
            with _explaining("ssl_ciphers", "OpenSSL has no such cipher suite"):
                context.set_ciphers(self.ciphers)
        if self.dh_parameters is not None:
            with _explaining(self.dh_parameters, "there are no parameters in it"):
                context.load_dh_params(self.dh_parameters)
        if self.authorities is not None:
            with _explaining(self.authorities, "there is no certificate in it"):
                is_directory = Path(self.authorities).is_dir()
                context.load_verify_locations(
                    None if is_directory else self.authorities,
                    self.authorities if is_directory else None,
                )
        context.verify_mode = self.client_certificates
        context.certificate_pem = certificate.pem
        _load(context, certificate)
        return context


class ServerContext(ssl.SSLContext):
    """
    A context which knows its certificate.

    Attributes:
        certificate_pem: The certificate, without its chain.
    """

    certificate_pem: str


assert CERTIFICATE_ATTRIBUTE in ServerContext.__annotations__


def _load(context: ssl.SSLContext, certificate: Certificate) -> None:
    """Give a context its certificate and key."""

    def password() -> str:
        if certificate.password is None:
            # Without this, OpenSSL would ask on the terminal.
            raise CertificateError(
                f"{certificate.key_file}: the private key needs ssl_keyfile_password"
            )
        return certificate.password

    # Python takes the name of a file only. This one has what was read and parsed,
    # whatever became of the original, and the rest of the chain.
    descriptor, file = tempfile.mkstemp(suffix=".pem")
    try:
        with open(descriptor, "wb") as chain:  # noqa: PTH123 - a descriptor
            chain.writelines(
                item.public_bytes(Encoding.PEM) for item in certificate.chain
            )
        with _explaining(certificate.key_file, certificate.explain_key):
            context.load_cert_chain(file, certificate.key_file, password)
    finally:
        Path(file).unlink()


@contextlib.contextmanager
def _explaining(what: str, explain: Callable[[], str] | str) -> Iterator[None]:
    """
    Turn what OpenSSL and the system say into one clear line.

    Args:
        what: File or setting which is to blame.
        explain: What to say where OpenSSL says nothing.
    """
    try:
        yield
    except ssl.SSLError as error:
        reason = getattr(error, "reason", None)
        explanation = _REASONS.get(reason or "")
        if explanation is None:
            explanation = explain if isinstance(explain, str) else explain()
            if reason:
                explanation += f" ({reason.lower().replace('_', ' ')})"
        raise CertificateError(f"{what}: {explanation}") from None
    except OSError as error:
        raise CertificateError(f"{what}: {error.strerror or error}") from None


# -- The certificates of listeners ---------------------------------------------


class ServerTLS:
    """
    The certificates of one or several listeners, and their contexts.

    Args:
        sources: Where the certificates come from; the first is for clients which
            ask for no host, or for an unknown one.
        policy: What holds for all.
        clock: Tells when to look at the files again.

    Raises:
        SettingsError: They can't be used.

    Attributes:
        context: The context with which a handshake begins.
        handshake_timeout: Seconds for the handshake; 0 for no limit.
    """

    def __init__(
        self,
        sources: Sequence[CertificateSource],
        policy: TLSPolicy,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._sources = sources
        self._policy = policy
        self._protocols: list[str] = []
        self._contexts: list[ServerContext] = []
        self._next_look = clock() + policy.reload_interval
        self.handshake_timeout = policy.handshake_timeout
        self._signature = self._sign()
        try:
            self.context = self._build()
        except CertificateError as error:
            raise SettingsError(str(error)) from None

    @classmethod
    def from_settings(
        cls, settings: TLSSettings, more: Iterable[CertificateSource] = ()
    ) -> ServerTLS:
        """
        Take the certificates which settings name.

        Args:
            settings: The settings.
            more: Certificates from elsewhere.

        Raises:
            SettingsError: They can't be used.
        """
        keys = settings.ssl_keyfile or settings.ssl_certfile
        password = settings.ssl_keyfile_password
        sources: list[CertificateSource] = [
            CertificateFiles(certificate, key, password=password)
            for certificate, key in zip(settings.ssl_certfile, keys, strict=True)
        ]
        sources += more
        return cls(sources, TLSPolicy.from_settings(settings))

    def offer(self, protocols: Iterable[bytes]) -> None:
        """
        Agree with clients on one of these by ALPN (RFC 7301).

        Args:
            protocols: The best first.
        """
        self._protocols = [protocol.decode("ascii") for protocol in protocols]
        for context in self._contexts:
            context.set_alpn_protocols(self._protocols)

    def reload(self) -> None:
        """Read the files again; when they can't be used, keep what there is."""
        self._signature = self._sign()
        try:
            self.context = self._build()
        except CertificateError as error:
            _logger.error("The certificates in use are kept: %s", error)  # noqa: TRY400
        else:
            _logger.info("Certificates read again: %s", ", ".join(self._files()))

    def look(self) -> None:
        """Read the files again when they have changed; to be called every second."""
        now = self._clock()
        if not self._policy.reload_interval or now < self._next_look:
            return
        self._next_look = now + self._policy.reload_interval
        if self._sign() != self._signature:
            self.reload()

    def _files(self) -> list[str]:
        files = (file for source in self._sources for file in source.files())
        return list(dict.fromkeys(files))

    def _sign(self) -> list[object]:
        """Return what differs when a file has changed."""
        signature: list[object] = []
        for file in (*self._files(), *self._policy.files()):
            try:
                status = Path(file).stat()
            except OSError:
                signature.append(file)
            else:
                signature.append(
                    (file, status.st_mtime_ns, status.st_size, status.st_ino)
                )
        return signature

    def _build(self) -> ServerContext:
        """Make a context for each certificate; return the one to begin with."""
        contexts: list[ServerContext] = []
        by_name: dict[str, ServerContext] = {}
        for source in self._sources:
            for certificate in source.read():
                if certificate.has_expired():
                    files = ", ".join(dict.fromkeys(source.files()))
                    _logger.warning("A certificate has expired: %s", files)
                context = self._policy.context(certificate)
                # Also on those chosen later: ALPN comes after the host's name.
                context.set_alpn_protocols(self._protocols)
                contexts.append(context)
                for name in certificate.names():
                    by_name.setdefault(name, context)

        def choose(
            ssl_object: ssl.SSLObject, name: str | None, _context: ssl.SSLContext
        ) -> None:
            chosen = _find(by_name, name)
            if chosen is not None:
                ssl_object.context = chosen

        self._contexts = contexts
        contexts[0].sni_callback = choose
        return contexts[0]


def _find(
    contexts: Mapping[str, ServerContext], name: str | None
) -> ServerContext | None:
    """Find the context for a host; RFC 9525 section 6.3: * stands for one label."""
    if name is None:
        return None
    name = name.lower().rstrip(".")
    return contexts.get(name) or contexts.get("*." + name.partition(".")[2])
