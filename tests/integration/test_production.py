"""The files of docs/production.md, as far as they can be tried without a cluster."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from programs import find_program

from daphne_like.cli import CommandLineInterface
from daphne_like.server import Server
from daphne_like.settings import Settings

DOCS = Path(__file__).parents[2] / "docs"
FOLDER = DOCS / "production"
PROGRAM = "/srv/app/.venv/bin/daphne-like"

on_linux = pytest.mark.skipif(
    sys.platform != "linux", reason="systemd is there on Linux only"
)


def settings_of(arguments: list[str]) -> Settings:
    """Read a command line as the server does."""
    settings = CommandLineInterface().read_settings(arguments)
    assert settings is not None
    return settings


def longest_stop(settings: Settings) -> float:
    """Return how many seconds such a server may take to stop."""

    async def application(scope: Any, receive: Any, send: Any) -> None: ...

    return Server(application, settings=settings).longest_stop


# -- systemd -------------------------------------------------------------------


def command_of(unit: Path) -> list[str]:
    """Return the arguments of what a unit starts."""
    text = unit.read_text("utf-8")
    [command] = re.findall(r"^ExecStart=(/(?:.*\\\n)*.*)$", text, re.MULTILINE)
    program, *arguments = shlex.split(command.replace("\\\n", ""))
    assert PROGRAM == program
    return arguments


@on_linux
def test_the_drop_in_is_right(tmp_path: Path) -> None:
    """`systemd-analyze verify` has nothing to say about the service with it."""
    for name in ("daphne-like.service", "daphne-like.socket"):
        shutil.copy(DOCS / "systemd" / name, tmp_path)
    folder = tmp_path / "daphne-like.service.d"
    folder.mkdir()
    shutil.copy(FOLDER / "workers.conf", folder)
    for path in (tmp_path / "daphne-like.service", folder / "workers.conf"):
        text = path.read_text("utf-8").replace(PROGRAM, sys.executable)
        path.write_text(text, "utf-8")

    finished = subprocess.run(
        [
            *(find_program("systemd-analyze"), "--man=no", "verify"),
            str(tmp_path / "daphne-like.service"),
        ],
        capture_output=True,
        check=False,
        text=True,
    )
    assert ("", "", 0) == (finished.stdout, finished.stderr, finished.returncode)


@on_linux
def test_the_service_is_locked_down() -> None:
    """`systemd-analyze security` rates it as the documentation says."""
    finished = subprocess.run(
        [
            *(find_program("systemd-analyze"), "security", "--offline=true"),
            *("--json=short", "--threshold=12", DOCS / "systemd/daphne-like.service"),
        ],
        capture_output=True,
        check=False,
        text=True,
    )
    assert 0 == finished.returncode, finished.stdout
    left = {row["name"] for row in json.loads(finished.stdout) if row["set"] is False}
    assert "CapabilityBoundingSet=~CAP_SYS_ADMIN" not in left
    assert "PrivateNetwork=" in left


def test_the_drop_in_starts_what_exists() -> None:
    """Its command line is one which the server takes."""
    settings = settings_of(command_of(FOLDER / "workers.conf"))

    assert settings.workers.supervised
    assert "127.0.0.1:9100" == settings.operations.metrics


def test_systemd_waits_for_the_stop() -> None:
    """It doesn't kill a service which stops as its settings allow."""
    unit = DOCS / "systemd" / "daphne-like.service"
    [timeout] = re.findall(
        r"^TimeoutStopSec=(\d+)$", unit.read_text("utf-8"), re.MULTILINE
    )
    for path in (unit, FOLDER / "workers.conf"):
        assert longest_stop(settings_of(command_of(path))) < int(timeout)


# -- The container -------------------------------------------------------------


@pytest.fixture(scope="module")
def image() -> dict[str, list[str]]:
    """Read the last stage of the Dockerfile: instructions, and what each one has."""
    text = re.sub(
        r"^#.*\n", "", (FOLDER / "Dockerfile").read_text("utf-8"), flags=re.MULTILINE
    )
    lines = text.replace("\\\n", " ").splitlines()
    stages: list[dict[str, list[str]]] = []
    for line in filter(None, lines):
        name, _, value = line.partition(" ")
        if name == "FROM":
            stages.append({})
        stages[-1].setdefault(name, []).append(value.strip())
    return stages[-1]


def test_the_container_starts_what_exists(image: dict[str, list[str]]) -> None:
    """As lists, since a shell between would swallow signals; the ports are right."""
    [entry_point], [command] = image["ENTRYPOINT"], image["CMD"]
    assert ["daphne-like"] == json.loads(entry_point)
    settings = settings_of(json.loads(command))

    [exposed] = image["EXPOSE"]
    assert settings.operations.metrics is not None
    metrics = settings.operations.metrics.rpartition(":")[2]
    assert [str(settings.bind.port), metrics] == exposed.split()
    [check] = image["HEALTHCHECK"]
    assert f":{metrics}/health/ready'" in check
    program = json.loads(check.partition("CMD ")[2])
    compile(program[2], "HEALTHCHECK", "exec")


def test_docker_waits_for_the_stop(image: dict[str, list[str]]) -> None:
    """It doesn't kill a container which stops as its settings allow."""
    [command] = image["CMD"]
    page = (DOCS / "production.md").read_text("utf-8")
    [timeout] = re.findall(r"^ .* --stop-timeout (\d+) .*$", page, re.MULTILINE)

    assert longest_stop(settings_of(json.loads(command))) < int(timeout)


def test_the_container_is_not_roots(image: dict[str, list[str]]) -> None:
    """Its user is a number, and owns no file of the image."""
    [user] = image["USER"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    assert not [copied for copied in image["COPY"] if "--chown" in copied]


def test_the_dockerfile_has_no_common_faults() -> None:
    """`hadolint`, where it is at hand, has nothing to say about it."""
    program = shutil.which("hadolint")
    if program is None:
        pytest.skip("hadolint is not installed; distributions don't have it")
    finished = subprocess.run(
        [program, FOLDER / "Dockerfile"], capture_output=True, check=False, text=True
    )
    assert ("", 0) == (finished.stdout, finished.returncode)


# -- Kubernetes ----------------------------------------------------------------


@pytest.fixture(scope="module")
def objects() -> dict[str, Any]:
    """Read the manifests, by their kind."""
    text = (FOLDER / "kubernetes.yaml").read_text("utf-8")
    return {item["kind"]: item for item in yaml.safe_load_all(text)}


@pytest.fixture(scope="module")
def pod(objects: dict[str, Any]) -> Any:
    """Return what each pod is."""
    return objects["Deployment"]["spec"]["template"]


def test_the_manifests_are_valid() -> None:
    """By the schema of Kubernetes; without a field that it doesn't know."""
    finished = subprocess.run(
        [find_program("kubernetes-validate"), "--strict", FOLDER / "kubernetes.yaml"],
        capture_output=True,
        check=False,
        text=True,
    )
    assert 0 == finished.returncode, finished.stdout + finished.stderr
    assert 4 == (finished.stdout + finished.stderr).count("passed for resource")


def test_variables_of_services_are_no_settings(pod: Any) -> None:
    """DAPHNE_LIKE_PORT=tcp://10.0.0.1:80 comes from a service of that name."""
    assert pod["spec"]["enableServiceLinks"] is False


def test_a_pod_has_the_time_which_its_settings_allow(pod: Any) -> None:
    """It isn't killed before the drain is over, however long that takes."""
    [container] = pod["spec"]["containers"]
    *_, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    settings = settings_of(container["args"])

    grace = pod["spec"]["terminationGracePeriodSeconds"]
    assert int(seconds) + longest_stop(settings) <= grace
    # A restart for the start's sake would never end.
    probe = container["startupProbe"]
    assert settings.app.timeout_startup <= (
        probe["periodSeconds"] * probe["failureThreshold"]
    )


def test_probes_ask_what_is_there(pod: Any) -> None:
    """Ports and paths are those of the server."""
    [container] = pod["spec"]["containers"]
    settings = settings_of(container["args"])
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert settings.operations.metrics is not None
    metrics = int(settings.operations.metrics.rpartition(":")[2])

    assert {"http": settings.bind.port, "metrics": metrics} == ports
    assert str(metrics) == pod["metadata"]["annotations"]["prometheus.io/port"]
    for name, path in (
        ("startup", "ready"),
        ("readiness", "ready"),
        ("liveness", "live"),
    ):
        asked = container[f"{name}Probe"]["httpGet"]
        assert {"path": f"/health/{path}", "port": "metrics"} == asked


def test_everything_means_the_same_pods(objects: dict[str, Any], pod: Any) -> None:
    """Service, budget and policy select what the deployment makes."""
    labels = pod["metadata"]["labels"]
    selected = [
        objects["Deployment"]["spec"]["selector"]["matchLabels"],
        objects["Service"]["spec"]["selector"],
        objects["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        objects["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ]
    assert [labels] * 4 == selected


def test_a_pod_may_do_nothing_but_serve(pod: Any, image: dict[str, list[str]]) -> None:
    """As the restricted standard of Kubernetes asks; it is the user of the image."""
    [container] = pod["spec"]["containers"]
    security = pod["spec"]["securityContext"]
    assert security["runAsNonRoot"]
    assert [f"{security['runAsUser']}:{security['runAsGroup']}"] == image["USER"]
    assert {"type": "RuntimeDefault"} == security["seccompProfile"]
    assert {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    } == container["securityContext"]
    assert pod["spec"]["automountServiceAccountToken"] is False
