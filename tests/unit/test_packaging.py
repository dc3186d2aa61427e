"""
What users get when they install, and what README.md tells them to type.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from email.parser import HeaderParser
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from zipfile import ZipFile

import pytest

import daphne_like

ROOT = Path(__file__).parents[2]
# What setuptools reads of the tree; all of it is in the source distribution, too.
BUILD_INPUTS = (
    "LICENSE",
    "MANIFEST.in",
    "README.md",
    "daphne_like",
    "pyproject.toml",
    "setup.cfg",
    "twisted",
)


def run_python(*arguments: str, path: Path, folder: Path) -> str:
    """Return what Python prints when it runs in ``folder``, ``path`` importable."""
    finished = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(path)},
        text=True,
    )

    assert finished.returncode == 0, finished.stderr

    return finished.stdout.strip()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an unpacked wheel, built from a copy of the tree."""
    folder = tmp_path_factory.mktemp("packaging")
    tree, unpacked = folder / "tree", folder / "wheel"
    tree.mkdir()
    for name in BUILD_INPUTS:
        source = ROOT / name
        if source.is_dir():
            no_caches = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, tree / name, ignore=no_caches)
        else:
            shutil.copy(source, tree)
    build = "from setuptools.build_meta import build_wheel; build_wheel('..')"
    run_python("-c", build, path=tree, folder=tree)
    (archive,) = folder.glob("*.whl")
    ZipFile(archive).extractall(unpacked)
    return unpacked


@pytest.fixture
def readme_commands() -> list[str]:
    """The shell blocks of README.md."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [block.strip() for block in blocks]


def metadata_folder(wheel: Path) -> Path:
    """Return where the wheel keeps its metadata."""
    (folder,) = wheel.glob("*.dist-info")
    return folder


def test_ci_runs_the_test_command_of_the_readme(readme_commands: list[str]) -> None:
    """What README.md promises to run the whole suite is exactly what CI runs."""
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")

    assert readme_commands[1] == script.splitlines()[-1]
    assert readme_commands[1].endswith("/tox")


def test_readme_serves_with_one_command(readme_commands: list[str]) -> None:
    """The first command of README.md installs from the tree and starts the server."""
    steps = readme_commands[0].split(" && ")

    assert [
        "python3 -m venv .venv",
        ".venv/bin/pip install '.[speed]'",
        ".venv/bin/daphne-like",
    ] == steps


def test_wheel_holds_every_module_and_data_file(wheel: Path) -> None:
    """Nothing of the package is left behind: modules, type marker, demo page."""
    source = ROOT / "daphne_like"
    wanted = {
        path.relative_to(ROOT)
        for path in source.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    installed = {path.relative_to(wheel) for path in wheel.rglob("*") if path.is_file()}

    assert {Path("daphne_like/py.typed"), Path("daphne_like/__init__.py")} <= wanted
    assert any("assets" in path.parts for path in wanted)
    assert wanted <= installed


def test_wheel_holds_nothing_else(wheel: Path) -> None:
    """Installing puts no tests or documentation beside other packages."""
    top = {path.name for path in wheel.iterdir()} - {metadata_folder(wheel).name}

    assert {"daphne_like", "twisted"} == top


def test_plugin_joins_the_plugins_of_twisted(wheel: Path) -> None:
    """Twisted finds our plugin file, and stays the Twisted that was installed."""
    ours = {path.relative_to(wheel) for path in (wheel / "twisted").rglob("*.py")}
    # An __init__.py above the plugin would hide Twisted itself.
    assert {Path("twisted/plugins/daphne_like_plugin.py")} == ours

    show = (
        "import twisted.plugins.daphne_like_plugin;"
        "print(twisted.__file__, *twisted.plugins.__path__, sep='\\n')"
    )
    twisted_file, *plugin_folders = run_python(
        "-c", show, path=wheel, folder=wheel
    ).splitlines()

    assert wheel not in Path(twisted_file).parents
    assert str(wheel / "twisted" / "plugins") in plugin_folders


def test_version_has_one_source(wheel: Path) -> None:
    """The version that pip shows is the package's own, without importing Twisted."""
    metadata = HeaderParser().parsestr(
        (metadata_folder(wheel) / "METADATA").read_text(encoding="utf-8")
    )
    show = (
        "import sys, daphne_like;"
        "print(daphne_like.__version__, 'twisted' in sys.modules)"
    )

    assert daphne_like.__version__ == metadata["Version"]
    shown = run_python("-c", show, path=wheel, folder=wheel)

    assert f"{daphne_like.__version__} False" == shown
    configuration = ConfigParser()
    configuration.read(ROOT / "setup.cfg")
    assert "attr: daphne_like.__version__" == configuration["metadata"]["version"]


def test_license_is_shown_and_included(wheel: Path) -> None:
    """Tools that collect licenses find its SPDX name and its text."""
    folder = metadata_folder(wheel)
    metadata = (folder / "METADATA").read_text(encoding="utf-8")

    assert re.search(r"^License-Expression: BSD-3-Clause$", metadata, re.MULTILINE)
    assert ["LICENSE"] == [path.name for path in folder.rglob("LICENSE")]


def test_console_script_points_to_something(wheel: Path) -> None:
    """The command daphne-like, once installed, finds the function it is to call."""
    entry_points = ConfigParser()
    entry_points.read(metadata_folder(wheel) / "entry_points.txt")

    module, _, name = entry_points["console_scripts"]["daphne-like"].partition(":")

    assert callable(attrgetter(name)(import_module(module)))


def test_pytest_loads_the_plugin_by_itself(wheel: Path, tmp_path: Path) -> None:
    """Where daphne_like is installed, each test may import ``daphne``."""
    (tmp_path / "conftest.py").write_text("import daphne.endpoints", encoding="utf-8")
    (tmp_path / "test_it.py").write_text("def test_it(): pass", encoding="utf-8")
    shown = run_python(
        *("-m", "pytest", "-p", "no:cacheprovider", "-W", "error", "--verbose"),
        *("-c", os.devnull, "--rootdir", str(tmp_path), str(tmp_path)),
        path=wheel,
        folder=tmp_path,
    )

    assert "1 passed" in shown
    assert "warning" not in shown
