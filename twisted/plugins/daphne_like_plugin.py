"""
What daphne_like adds to Twisted, found by Twisted's plugin system.

- ``twistd daphne-like``, the server as a program of ``twistd``;
- ``twistd --reactor daphne-like`` and ``--reactor uvloop``, for programs which have
  the server, or an ASGI application, as a part;
- ``fd:``, an endpoint string. The server itself doesn't depend on plugin discovery, it
  reads such strings by its own code.

All Twisted programs may load this file, so that it must not import the server, nor a
reactor.

Tests: ``tests/unit/test_plugin.py``.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from twisted.application.reactors import IReactorInstaller
from twisted.application.service import ServiceMaker
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
        from twisted.internet.endpoints import AdoptedStreamServerEndpoint

        # The probe closes what it is given, so it gets a duplicate.
        with socket.socket(fileno=os.dup(int(fileno))) as probe:
            family = probe.family
        return AdoptedStreamServerEndpoint(reactor, int(fileno), family)


@implementer(IPlugin, IReactorInstaller)
class LoopReactorInstaller:
    """
    Installs Twisted's asyncio reactor over an event loop of our choice.

    Attributes:
        shortName: What ``--reactor`` calls it.
        moduleName: What ``--help-reactors`` imports to find out if it works.
        description: What ``--help-reactors`` says.
    """

    def __init__(self, name: str, loop: str, module: str, description: str) -> None:
        self.shortName = name
        self.moduleName = module
        self.description = description
        self._loop = loop

    def install(self) -> None:
        """
        Install it.

        Raises:
            SettingsError: The event loop is missing, or there is another reactor.
        """
        from daphne_like import reactor

        reactor.install(self._loop)


descriptor_endpoint_parser = DescriptorEndpointParser()

service_maker = ServiceMaker(
    "daphne-like",
    "daphne_like.twistd",
    "A server of ASGI applications: HTTP/1.1, HTTP/2 and WebSockets.",
    "daphne-like",
)

best_reactor = LoopReactorInstaller(
    "daphne-like",
    "auto",
    "daphne_like.reactor",
    "asyncio based reactor, on uvloop where that is installed",
)

uvloop_reactor = LoopReactorInstaller(
    "uvloop", "uvloop", "uvloop", "asyncio based reactor on uvloop"
)
