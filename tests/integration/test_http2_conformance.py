"""HTTP/2 conformance over sockets, with prior knowledge and over TLS."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from certificates import Authority
from http2_cases import CASES, Case
from http2_links import SocketLink
from server_process import Serve, ServerProcess

APPLICATION = "conformance_site:application"
SUPPORT = Path(__file__).parents[1] / "support"


class Site:
    """
    The site of the cases, and how to connect to it.

    Args:
        server: Serves it.
        trust: Trusts its certificate; ``None`` without TLS.
    """

    def __init__(self, server: ServerProcess, trust: ssl.SSLContext | None) -> None:
        self._server = server
        self._trust = trust

    @contextmanager
    def connect(self) -> Iterator[SocketLink]:
        """Connect, and in TLS ask for HTTP/2."""
        address = "127.0.0.1", self._server.port
        with socket.create_connection(address, 20) as sock:
            if self._trust is None:
                yield SocketLink(sock)
                return
            with self._trust.wrap_socket(sock, server_hostname=address[0]) as encrypted:
                assert "h2" == encrypted.selected_alpn_protocol()
                yield SocketLink(encrypted)


@pytest.fixture(scope="module", params=["cleartext", "tls"])
def site(
    request: pytest.FixtureRequest,
    serve_module: Serve,
    tmp_path_factory: pytest.TempPathFactory,
) -> Site:
    """Serve the site, in cleartext or over TLS."""
    if request.param == "cleartext":
        return Site(serve_module(APPLICATION, cwd=SUPPORT), None)
    folder = tmp_path_factory.mktemp("certificates")
    authority = Authority()
    root = folder / "root.pem"
    root.write_text(authority.pem)
    certificate = authority.issue("127.0.0.1").write(folder / "server.pem")
    trust = ssl.create_default_context(cafile=str(root))
    trust.set_alpn_protocols(["h2"])
    options = ("--ssl-certfile", str(certificate), "--ssl-keyfile", str(certificate))
    return Site(serve_module(APPLICATION, *options, cwd=SUPPORT), trust)


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
def test_conformance(site: Site, case: Case) -> None:
    """What the case says in its own words."""
    with site.connect() as link:
        case.run(link)
