"""
What a TLS connection tells the application: ASGI's TLS extension.

The facts come from the transport under the protocol: one of ours, which has an
:class:`ssl.SSLObject`, or one of Twisted's, which has a connection of pyOpenSSL.
``ssl`` and ``cryptography`` are imported only where there is TLS.

Source: the TLS extension of ASGI, version 0.2.

Tests: ``tests/unit/protocols/test_tls_extension.py``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping, Sequence

__all__ = ["CERTIFICATE_ATTRIBUTE", "tls_extension", "tls_told_by_proxy"]

# RFC 8446 section 4.2.1 and earlier: what versions are on the wire.
_VERSIONS = {"TLSv1": 0x0301, "TLSv1.1": 0x0302, "TLSv1.2": 0x0303, "TLSv1.3": 0x0304}

CERTIFICATE_ATTRIBUTE = "certificate_pem"
"""Where a context of ours has the PEM text of the certificate which it shows."""


def tls_extension(transport: Any) -> dict[str, object] | None:
    """
    Tell the facts of the handshake; None without TLS.

    Args:
        transport: On which the handshake, if there is one, is over.

    Returns:
        The extension as it stands in the scope. Its chain of certificates can't
        be changed, so that a copy of the dict is a copy of all.
    """
    ssl_object = getattr(transport, "ssl_object", None)
    if ssl_object is not None:
        return _of_ssl_object(ssl_object)
    # Wrappers of Twisted's, such as that for HAProxy, pass the question on.
    get_handle = getattr(transport, "getHandle", None)
    handle = None if get_handle is None else get_handle()
    # On a connection without TLS it is the socket.
    if hasattr(handle, "get_cipher_name"):
        return _of_pyopenssl(handle)
    return None


def tls_told_by_proxy(
    version: str | None,
    cipher: str | None,
    client_certificate: bytes | None,
    client_error: str | None,
) -> dict[str, object]:
    """
    Tell the facts of a handshake which a proxy in front has done.

    Args:
        version: OpenSSL's name of the version.
        cipher: OpenSSL's name of the cipher suite.
        client_certificate: The client's certificate (DER), if it is known.
        client_error: Why the proxy doesn't find it valid.
    """
    chain = () if client_certificate is None else (client_certificate,)
    try:
        extension = _extension(None, chain, version, cipher)
    except Exception:  # noqa: BLE001 - it is no certificate: ValueError, and others
        extension = _extension(None, (), version, cipher)
    extension["client_cert_error"] = client_error
    return extension


def _of_ssl_object(ssl_object: ssl.SSLObject) -> dict[str, object]:
    # The context is the one which the client's server name has chosen.
    server_cert = getattr(ssl_object.context, CERTIFICATE_ATTRIBUTE, None)
    cipher = ssl_object.cipher()
    return _extension(
        server_cert,
        _client_chain(ssl_object),
        ssl_object.version(),
        None if cipher is None else cipher[0],
    )


def _client_chain(ssl_object: ssl.SSLObject) -> Sequence[bytes]:
    """Return the client's certificate, and its issuers where Python tells them."""
    certificate = ssl_object.getpeercert(binary_form=True)
    if certificate is None:
        return ()
    # Python 3.13. It tells nothing when the session was resumed.
    get_chain = getattr(ssl_object, "get_verified_chain", None)
    return (get_chain() if get_chain is not None else None) or [certificate]


def _of_pyopenssl(connection: Any) -> dict[str, object]:
    from cryptography.hazmat.primitives.serialization import Encoding

    def encode(certificate: Any) -> bytes:
        return bytes(certificate.to_cryptography().public_bytes(Encoding.DER))

    own = connection.get_certificate()
    peers = connection.get_verified_chain() or ()
    return _extension(
        None if own is None else _pem(encode(own)),
        [encode(certificate) for certificate in peers],
        connection.get_protocol_version_name(),
        connection.get_cipher_name(),
    )


def _extension(
    server_cert: str | None,
    client_chain: Sequence[bytes],
    version: str | None,
    cipher: str | None,
) -> dict[str, object]:
    return {
        "server_cert": server_cert,
        "client_cert_chain": tuple(_pem(certificate) for certificate in client_chain),
        "client_cert_name": _name(client_chain[0]) if client_chain else None,
        # A certificate which doesn't pass ends the handshake.
        "client_cert_error": None,
        "tls_version": _VERSIONS.get(version or ""),
        "cipher_suite": _cipher_suites().get(cipher or ""),
    }


def _pem(certificate: bytes) -> str:
    import ssl

    return ssl.DER_cert_to_PEM_cert(certificate)


def _name(certificate: bytes) -> str:
    """Return the subject as RFC 4514 has it."""
    from cryptography import x509

    return x509.load_der_x509_certificate(certificate).subject.rfc4514_string()


@lru_cache(maxsize=1)
def _cipher_suites() -> Mapping[str, int]:
    """Return IANA's numbers by OpenSSL's names, of all suites which OpenSSL has."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # Whatever was allowed in the end, on a connection of whomever.
    context.set_ciphers("ALL:COMPLEMENTOFALL:@SECLEVEL=0")
    # OpenSSL's own numbers have 0x0300 before IANA's two bytes.
    return {suite["name"]: suite["id"] & 0xFFFF for suite in context.get_ciphers()}
