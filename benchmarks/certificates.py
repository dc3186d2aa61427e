"""
A certificate for one run: ECDSA with P-256, for the loopback address, signed by itself.
"""

from __future__ import annotations

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmarks.exchange import Exchange
from benchmarks.processes import HOST
from benchmarks.workloads import Workload


@dataclass(frozen=True, slots=True)
class Certificate:
    """Where certificate and key are, as PEM; the key isn't encrypted."""

    certificate: Path
    key: Path

    def exchange(self, workload: Workload) -> Exchange:
        """Return how requests of ``workload`` are made; no other one is trusted."""
        tls = None
        if workload.tls:
            tls = ssl.create_default_context(cafile=self.certificate)
            tls.set_alpn_protocols(["h2" if workload.http2 else "http/1.1"])
        return Exchange(tls, workload.http2)


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
