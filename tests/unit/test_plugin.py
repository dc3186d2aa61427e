"""Tests of twisted/plugins/daphne_like_plugin.py."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from twisted.application import reactors, service
from twisted.application.reactors import IReactorInstaller, installReactor
from twisted.application.service import IServiceMaker
from twisted.internet.endpoints import serverFromString
from twisted.internet.testing import MemoryReactor
from twisted.plugin import IPlugin
from zope.interface.verify import verifyObject

import daphne_like
import twisted.plugins
from daphne_like import reactor
from daphne_like.errors import SettingsError

FOLDER = Path(daphne_like.__file__).parents[1]
"""What holds the package, and beside it the plugin: the tree, or site-packages."""


@pytest.fixture(autouse=True)
def plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """
    Find the plugin beside the package, and return it.

    Twisted looks for plugins on ``sys.path`` as it was at its start; an editable
    installation puts the package in reach, but not the tree on that path.
    """
    folder = str(FOLDER / "twisted" / "plugins")
    found = [*twisted.plugins.__path__]
    if folder not in found:
        monkeypatch.setattr(twisted.plugins, "__path__", [*found, folder])
    from twisted.plugins import daphne_like_plugin

    assert str(FOLDER) == str(Path(daphne_like_plugin.__file__).parents[2])
    return daphne_like_plugin  # type: ignore[return-value]


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX])
def test_any_twisted_program_can_listen_on_an_inherited_socket(family: int) -> None:
    """`fd:fileno=N` adopts the descriptor with the family which it really has."""
    reactor: Any = MemoryReactor()
    reactor.adoptStreamPort = lambda *adopted: adopted
    descriptor = socket.socket(family, socket.SOCK_STREAM).detach()
    factory = object()

    endpoint = serverFromString(reactor, f"fd:fileno={descriptor}:domain=INET")
    listening = endpoint.listen(factory)

    assert (descriptor, family, factory) == listening.result


def test_twistd_finds_the_server(plugin: Any) -> None:
    """`twistd daphne-like` is there, with our options and our service."""
    from daphne_like.twistd import Options, makeService

    maker = plugin.service_maker

    assert IPlugin.providedBy(maker)
    assert verifyObject(IServiceMaker, maker)
    assert isinstance(maker, service.ServiceMaker)
    assert ("daphne-like", Options) == (maker.tapname, maker.options)
    assert makeService is maker.makeService


@pytest.mark.parametrize(
    ("name", "loop"), [("daphne-like", "auto"), ("uvloop", "uvloop")]
)
def test_twistd_can_name_the_reactor(
    plugin: Any, name: str, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`twistd --reactor daphne-like` installs what the server would install."""
    installed: list[str] = []
    monkeypatch.setattr(reactor, "install", installed.append)
    ours = [
        candidate
        for candidate in reactors.getReactorTypes()
        if candidate.shortName == name
    ]
    assert len(ours) == 1
    assert verifyObject(IReactorInstaller, ours[0])

    ours[0].install()

    assert [loop] == installed


def test_twistd_says_why_a_reactor_can_not_be_had(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is missing is told by an exception, which twistd shows."""

    def install(loop: str) -> None:
        raise SettingsError("loop: uvloop isn't installed")

    monkeypatch.setattr(reactor, "install", install)

    with pytest.raises(SettingsError, match="uvloop isn't installed"):
        installReactor("uvloop")


def test_other_programs_load_next_to_nothing() -> None:
    """Twisted loads the plugin for all of its programs: no server, no reactor."""
    show = (
        "import sys; import twisted.plugins.daphne_like_plugin;"
        "names = [name for name in sys.modules if name.startswith('daphne_like')];"
        "print(names, 'twisted.internet.reactor' in sys.modules)"
    )
    finished = subprocess.run(
        [sys.executable, "-c", show],
        capture_output=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(FOLDER)},
        text=True,
    )

    assert "[] False" == finished.stdout.strip()
