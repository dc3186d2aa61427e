"""
A certificate for one run: ECDSA with P-256, for the loopback address, signed by itself.
"""

from __future__ import annotations

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import HOST


@dataclass(frozen=True, slots=True)
class Certificate:
    """Where certificate and key are, as PEM; the key isn't encrypted."""

    certificate: Path
    key: Path

    def client_context(self) -> ssl.SSLContext:
        """Return the settings of a client which trusts this certificate alone."""
        return ssl.create_default_context(cafile=self.certificate)


def make_certificate(directory: Path) -> Certificate:
    """Write a new certificate and its key into ``directory``."""
    made = Certificate(directory / "certificate.pem", directory / "key.pem")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec"),
            *("-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"),
            *("-subj", "/CN=benchmark", "-addext", f"subjectAltName=IP:{HOST}"),
            *("-out", str(made.certificate), "-keyout", str(made.key)),
        ],
        check=True,
        capture_output=True,
    )
    return made
