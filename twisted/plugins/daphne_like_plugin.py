"""
What daphne_like adds to Twisted, found by Twisted's plugin system.

The server itself doesn't depend on plugin discovery: it reads ``fd:`` strings
by its own code. This parser serves other Twisted programs, and ``twistd``.

Tests: ``tests/unit/test_plugin.py``.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from twisted.internet.endpoints import AdoptedStreamServerEndpoint
from twisted.internet.interfaces import (
    IStreamServerEndpoint,
    IStreamServerEndpointStringParser,
)
from twisted.plugin import IPlugin
from zope.interface import implementer


@implementer(IPlugin, IStreamServerEndpointStringParser)
class DescriptorEndpointParser:
    """Reads ``fd:fileno=N``: adopt an open listening socket, of any family."""

    prefix = "fd"

    def parseStreamServer(  # type: ignore[override]
        self, reactor: Any, fileno: str, domain: str = ""
    ) -> IStreamServerEndpoint:
        """
        Make the endpoint.

        Args:
            reactor: Listens.
            fileno: The descriptor, in digits.
            domain: Ignored: Daphne and systemd name it, the socket knows it.

        Raises:
            OSError: There is no such socket.
        """
        # The probe closes what it is given, so it gets a duplicate.
        with socket.socket(fileno=os.dup(int(fileno))) as probe:
            family = probe.family
        return AdoptedStreamServerEndpoint(reactor, int(fileno), family)


descriptor_endpoint_parser = DescriptorEndpointParser()
