"""Tests of ``daphne_like.aliases`` and ``daphne_like.pytest_plugin``."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import daphne_like
from daphne_like import aliases
from daphne_like.server import Server

MODULES = {
    "daphne": {"__version__"},
    "daphne.access": {"AccessLogGenerator"},
    "daphne.apps": {"DaphneConfig"},
    "daphne.checks": {"check_daphne_installed"},
    "daphne.cli": {"CommandLineInterface"},
    "daphne.endpoints": {"build_endpoint_description_strings"},
    "daphne.server": {"Server"},
    "daphne.testing": {
        "BaseDaphneTestingInstance",
        "DaphneProcess",
        "DaphneTestingInstance",
        "TestApplication",
    },
    "daphne.utils": {"import_by_path", "parse_x_forwarded_for"},
}


def forget_daphne() -> None:
    """Make the next ``import daphne`` a first one."""
    for name in list(sys.modules):
        if name.partition(".")[0] == "daphne":
            del sys.modules[name]


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Begin with the finder in its place, and nothing imported by it."""
    others = [
        finder
        for finder in sys.meta_path
        if not isinstance(finder, aliases.AliasFinder)
    ]
    monkeypatch.setattr(sys, "meta_path", others)
    aliases.install()
    forget_daphne()
    yield
    forget_daphne()


def imported(name: str) -> Any:
    """Import a module which type checkers don't find."""
    return importlib.import_module(name)


def run_python(code: str) -> list[str]:
    """Return the words which a new process prints."""
    finished = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        check=False,
        cwd=Path(daphne_like.__file__).parents[1],
        text=True,
    )

    assert 0 == finished.returncode, finished.stderr

    return finished.stdout.split()


@pytest.mark.parametrize("name", sorted(MODULES))
def test_what_others_import_of_daphne_is_there(name: str) -> None:
    """Each module can be imported first, and has the names that are in use."""
    module = imported(name)

    assert set(module.__all__) == MODULES[name]
    assert all(hasattr(module, public) for public in MODULES[name])


def test_an_installed_daphne_is_found_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where there is a real Daphne, nothing of ours is imported by its name."""
    (tmp_path / "daphne").mkdir()
    (tmp_path / "daphne" / "__init__.py").write_text("real = True\n", "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))

    assert imported("daphne").real
    with pytest.raises(ModuleNotFoundError):
        imported("daphne.testing")
    assert isinstance(sys.meta_path[-1], aliases.AliasFinder)


def test_installing_twice_is_harmless() -> None:
    """There is one finder, and it finds nothing but the one package."""
    before = list(sys.meta_path)
    aliases.install()

    assert before == sys.meta_path
    assert aliases.AliasFinder().find_spec("daphne_other") is None
    assert aliases.AliasFinder().find_spec("daphne.server", ["x"]) is None


def test_the_plugin_of_pytest_costs_nothing() -> None:
    """Each start of pytest imports it: neither Twisted nor Django nor Daphne."""
    shown = run_python(
        "import sys, daphne_like.pytest_plugin as plugin;"
        "print(*{name.partition('.')[0] for name in sys.modules});"
        "import daphne; print('then', daphne.__name__)"
    )

    assert not {"asyncio", "daphne", "django", "twisted"} & set(
        shown[: shown.index("then")]
    )
    assert ["then", "daphne"] == shown[-2:]


@pytest.mark.parametrize("module", ["daphne_like.apps", "daphne_like.testing"])
def test_projects_install_it_by_what_they_import(module: str) -> None:
    """The app of Django does it before other apps are imported; so do tests."""
    assert ["daphne.endpoints", "False"] == run_python(
        f"import sys, {module}, daphne.endpoints;"
        "print(daphne.endpoints.__name__, 'twisted.internet.reactor' in sys.modules)"
    )


def test_channels_can_be_imported() -> None:
    """``channels.testing`` needs Daphne, also for tests without any server."""
    assert ["daphne_like.testing.live_server"] == run_python(
        "import daphne_like.pytest_plugin, channels.testing;"
        "print(channels.testing.ChannelsLiveServerTestCase"
        ".ProtocolServerProcess.__module__)"
    )


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Stand for an application."""


def test_the_server_is_as_lenient_as_daphne() -> None:
    """Who imports it by that name relies on Daphne's manners; or says otherwise."""
    module = imported("daphne.server")
    made = module.Server(application, ["tcp:0"])
    strict = module.Server(application, ["tcp:0"], daphne_compat=False)
    settings = made.settings

    assert isinstance(made, Server)
    assert made.settings.app.daphne_compat
    assert not strict.settings.app.daphne_compat
    assert settings is module.Server(application, settings=settings).settings


def test_the_command_line_is_as_lenient_as_daphne() -> None:
    """It makes that server; what an import raises, it raises."""
    program = imported("daphne.cli").CommandLineInterface()

    assert {"daphne_compat": True} == program.setting_defaults
    assert program.server_class is imported("daphne.server").Server
    assert program.load_asgi_app("daphne:__version__") == "4.2.3"
    with pytest.raises(ModuleNotFoundError):
        program.load_asgi_app("there_is_no_such_module:app")


def test_the_server_can_be_imported_anew() -> None:
    """
    Daphne's own process for tests, and copies of it, remove the module to change
    the reactor.
    """
    first = imported("daphne.server")
    del sys.modules["daphne.server"]
    second = imported("daphne.server")

    assert first is not second
    assert second.Server(application, ["tcp:0"]).settings.app.daphne_compat


def test_our_own_modules_keep_their_names() -> None:
    """A module of ours is not itself the module of Daphne's name."""
    ours, alias = imported("daphne_like.testing"), imported("daphne.testing")

    assert ours is not alias
    assert "daphne_like.testing" == ours.__spec__.name
    assert "daphne.testing" == alias.__spec__.name
    assert ours.DaphneProcess is alias.DaphneProcess


def test_django_takes_it_for_an_app_without_commands() -> None:
    """A ``"daphne"`` left in INSTALLED_APPS does no harm; runserver is ours."""
    shown = run_python(
        "from django.conf import settings;"
        "settings.configure(INSTALLED_APPS="
        "['daphne_like', 'daphne', 'django.contrib.staticfiles']);"
        "import django, os; django.setup();"
        "from django.apps import apps;"
        "from django.core.management import get_commands;"
        "app = apps.get_app_config('daphne');"
        "print(get_commands()['runserver'], app.verbose_name, os.listdir(app.path))"
    )

    assert ["daphne_like", "Daphne"] == shown[:2]
    assert "'__init__.py'" in " ".join(shown)
    assert "management" not in " ".join(shown)
