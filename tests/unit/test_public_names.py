"""The names which users may rely on: a change here is a change for them."""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType

import pytest

import daphne_like

PUBLIC_NAMES = {
    "daphne_like": ["Server", "__version__", "draining", "run"],
    "daphne_like.apps": ["DaphneLikeConfig"],
    "daphne_like.checks": ["check_daphne_installed"],
    "daphne_like.cli": ["CommandLineInterface", "limit_threads"],
    "daphne_like.demo": ["Demo", "DemoLimits", "application"],
    "daphne_like.errors": [
        "ApplicationLoadError",
        "ClientDisconnected",
        "ConnectionFailed",
        "InvalidMessage",
        "LifespanFailed",
        "ListenError",
        "RequestRejected",
        "SettingsError",
        "StartError",
        "StreamFailed",
        "WebSocketFailed",
    ],
    "daphne_like.management.commands.runserver": [
        "Command",
        "get_default_application",
    ],
    "daphne_like.observability.action_log": ["ActionLog", "ActionLogger"],
    "daphne_like.process": [
        "Runnable",
        "Superior",
        "join_reactor",
        "make_server",
        "notifier_of_systemd",
        "raise_descriptor_limit",
        "run_until_stopped",
        "with_sockets_of_systemd",
    ],
    "daphne_like.reactor": ["install", "new_event_loop", "reap_children"],
    "daphne_like.resource": ["ASGIResource", "ApplicationService"],
    "daphne_like.server": ["Server", "run"],
    "daphne_like.settings": [
        "ENVIRONMENT_PREFIX",
        "KNOWN_SETTINGS",
        "SECTION_TITLES",
        "ApplicationSettings",
        "BindSettings",
        "HTTPSettings",
        "LifecycleSettings",
        "LogSettings",
        "OperationsSettings",
        "ProcessSettings",
        "ProxySettings",
        "Setting",
        "Settings",
        "HTTP2Settings",
        "TLSSettings",
        "WebSocketSettings",
        "WorkerSettings",
        "read_toml",
    ],
    "daphne_like.testing": [
        "BaseDaphneTestingInstance",
        "DaphneProcess",
        "DaphneTestingInstance",
        "TestApplication",
        "WebSocketClient",
        "WebSocketClosed",
        "WebSocketRefused",
    ],
    "daphne_like.access": ["AccessLogGenerator"],
    "daphne_like.aliases": ["AliasFinder", "install"],
    "daphne_like.endpoints": ["build_endpoint_description_strings"],
    "daphne_like.utils": ["import_by_path", "parse_x_forwarded_for"],
    "daphne_like.twistd": ["Options", "makeService"],
    "daphne_like.winding_down": [
        "CANCEL_TIMEOUT",
        "FLUSH_TIMEOUT",
        "Connections",
        "EverySecond",
        "StoppedListener",
        "give_notice",
        "longest_stop",
        "take_last_requests",
        "wind_down",
    ],
    "daphne_like.listeners.endpoints": [
        "build_endpoint_description_strings",
        "configured_endpoints",
        "endpoint_from_string",
        "endpoint_strings",
        "redirect_endpoints",
        "scheme_of",
        "twisted_endpoint",
    ],
    "daphne_like.listeners.transports": ["LoopTransport", "twisted_address"],
}

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(daphne_like.__path__, "daphne_like.")
    if not module.ispkg and module.name != "daphne_like.__main__"
)


@pytest.mark.parametrize("name", sorted(PUBLIC_NAMES))
def test_public_names_are_pinned(name: str) -> None:
    """No name comes or goes unnoticed."""
    assert sorted(PUBLIC_NAMES[name]) == sorted(importlib.import_module(name).__all__)


@pytest.mark.parametrize("name", MODULES)
def test_each_module_says_what_is_public(name: str) -> None:
    """Each module lists its public names, and has them."""
    module: ModuleType = importlib.import_module(name)

    missing = [public for public in module.__all__ if not hasattr(module, public)]
    assert [] == missing


def test_public_names_come_from_the_package_itself() -> None:
    """`from daphne_like import Server` works; other names are errors."""
    from daphne_like import server

    assert daphne_like.Server is server.Server
    assert daphne_like.run is server.run
    with pytest.raises(AttributeError, match="no attribute 'serve'"):
        _ = daphne_like.serve
