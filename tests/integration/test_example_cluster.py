"""Two instances of the chat behind HAProxy, as examples/cluster describes them."""

from __future__ import annotations

import asyncio
import json
import math
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets
import yaml
from chat_site import LOBBY, Member, serve_chat
from programs import find_program
from server_process import Serve, ServerProcess
from services import chat_on_services
from websockets.exceptions import ConnectionClosed

from daphne_like.cli import CommandLineInterface
from daphne_like.server import Server

CLUSTER = Path(__file__).parents[2] / "examples" / "cluster"
NAMES = ("one", "two")

_WAIT = 25.0
# A client of the balancer which isn't the balancer.
_CLIENT_HOST = "127.0.0.2"


# -- What the page says ------------------------------------------------------------


def replaced(text: str, replacements: dict[str, str]) -> str:
    """Put this machine's addresses in; each must occur in the text."""
    for old, new in replacements.items():
        assert old in text, f"{old!r} is not there any more"
        text = text.replace(old, new)
    return text


def options(port: int, health_port: int) -> list[str]:
    """Return the options of the page's command for an instance."""
    page = (CLUSTER / "README.md").read_text("utf-8")
    (command,) = re.findall(r"```sh\n(examples/chat/run .*?)```", page, re.DOTALL)
    here = {
        "10.0.0.11:9000": f"127.0.0.1:{health_port}",
        "10.0.0.11": "127.0.0.1",
        "10.0.0.2": "127.0.0.1",
        "8000": str(port),
    }
    _, *options = shlex.split(replaced(command.replace("\\\n", ""), here))
    return options


def free_ports(count: int) -> list[int]:
    """Return ports nobody listens at now; all are different."""
    with ExitStack() as sockets:
        made = [
            sockets.enter_context(socket.create_server(("127.0.0.1", 0)))
            for _ in range(count)
        ]
        return [sock.getsockname()[1] for sock in made]


# -- The cluster -------------------------------------------------------------------


@dataclass
class Cluster:
    """
    The site.

    Attributes:
        url: Where HAProxy is.
        admin: HAProxy's socket for orders.
        instances: The servers by name, and those which took their place.
    """

    url: str
    admin: Path
    start: Callable[[str], ServerProcess]
    instances: dict[str, list[ServerProcess]] = field(default_factory=dict)

    def begin(self, name: str) -> None:
        """Start an instance, and wait until it listens."""
        self.instances.setdefault(name, []).append(self.start(name))

    def statuses(self) -> dict[str, str]:
        """Ask HAProxy how its servers are."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(self.admin))
            sock.sendall(b"show stat\n")
            answer = b"".join(iter(lambda: sock.recv(65536), b"")).decode()
        rows = (line.split(",") for line in answer.splitlines())
        return {row[1]: row[17] for row in rows if row[0] == "chat" and row[1] in NAMES}

    def wait_for_statuses(self, **wanted: str) -> None:
        """Wait until HAProxy says so."""
        deadline = time.monotonic() + _WAIT
        while not wanted.items() <= (found := self.statuses()).items():
            assert time.monotonic() < deadline, found
            time.sleep(0.05)

    def replace(self, name: str) -> None:
        """Replace an instance by the script, with ourselves as its command."""
        wait = "import sys; print('now', flush=True); sys.stdin.read()"
        command = [sys.executable, "-c", wait]
        with subprocess.Popen(
            [CLUSTER / "replace.py", self.admin, f"chat/{name}", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as script:
            try:
                assert script.stdout is not None
                assert b"now\n" == script.stdout.readline()
                old = self.instances[name][-1]
                assert 0 == old.stop(), old.log
                self.begin(name)
                script.communicate(timeout=_WAIT)
            finally:
                script.kill()
        assert 0 == script.returncode
        assert "UP" == self.statuses()[name]


@contextmanager
def running_haproxy(
    configuration: str, admin: Path, folder: Path, sock: socket.socket
) -> Iterator[None]:
    """Run HAProxy, which listens at a socket that is open already."""
    here = {
        "bind :80": f"bind fd@{sock.fileno()}",
        "/run/haproxy/admin.sock": str(admin),
    }
    file = folder / "haproxy.cfg"
    file.write_text(replaced(configuration, here))
    program = find_program("haproxy", "/usr/sbin/haproxy")
    with (
        (folder / "haproxy.log").open("wb") as log,
        subprocess.Popen(
            [program, "-db", "-f", str(file)],
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=[sock.fileno()],
        ) as process,
    ):
        try:
            deadline = time.monotonic() + _WAIT
            while not admin.exists():
                assert process.poll() is None, (folder / "haproxy.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.02)
            yield
        finally:
            process.terminate()
            process.wait()


@pytest.fixture
def cluster(serve: Serve, tmp_path: Path, socket_folder: Path) -> Iterator[Cluster]:
    """Run what the page describes."""
    find_program("haproxy", "/usr/sbin/haproxy")
    admin = socket_folder / f"{tmp_path.name[-8:]}.sock"
    first, second, third, fourth = free_ports(4)
    ports = {"one": (first, second), "two": (third, fourth)}
    configuration = replaced(
        (CLUSTER / "haproxy.cfg").read_text("utf-8"),
        {
            "check port 9000 inter 1s": "check inter 100ms",
            "10.0.0.11:8000": "127.0.0.1:{} port {}".format(*ports["one"]),
            "10.0.0.12:8000": "127.0.0.1:{} port {}".format(*ports["two"]),
        },
    )
    with (
        chat_on_services(tmp_path / "site") as environment,
        socket.create_server(("127.0.0.1", 0)) as sock,
        running_haproxy(configuration, admin, tmp_path, sock),
    ):
        cluster = Cluster(
            f"http://127.0.0.1:{sock.getsockname()[1]}",
            admin,
            lambda name: serve_chat(serve, environment, *options(*ports[name])),
        )
        for name in NAMES:
            cluster.begin(name)
        cluster.wait_for_statuses(one="UP", two="UP")
        yield cluster
        for name in NAMES:
            assert 0 == cluster.instances[name][-1].stop()


# -- Those who use it --------------------------------------------------------------


class Load:
    """People who talk, over WebSockets and with forms, and what each has heard."""

    def __init__(self, cluster: Cluster, member: Member) -> None:
        self._url = cluster.url
        self._cookies = dict(member.http.cookies)
        self.over = False
        self._deadline = math.inf
        self.said: list[str] = []
        self.failures: list[str] = []
        self.returns = 0

    async def page(self, name: str) -> Counter[str]:
        """
        Talk in the lobby, as its page does; return what was heard.

        It goes on listening until it has heard all that was said.
        """
        heard: dict[int, str] = {}
        headers = {"Cookie": "; ".join(f"{k}={v}" for k, v in self._cookies.items())}
        while not self._done(heard):
            after = max(heard, default=0)
            async with websockets.connect(
                f"{self._url.replace('http:', 'ws:')}/ws/rooms/{LOBBY}/?after={after}",
                origin=self._url,  # type: ignore[arg-type]
                additional_headers=headers,
                proxy=None,
            ) as socket:
                try:
                    await self._talk(socket, name, heard)
                except ConnectionClosed as closed:
                    self.failures.append(f"{name}: {closed}")
            self.returns += 1
        return Counter(heard.values())

    async def goes_on(self) -> None:
        """Wait until more was said."""
        enough = len(self.said) + 40
        while len(self.said) < enough:
            await asyncio.sleep(0.05)

    def end(self) -> None:
        """Let nobody say any more."""
        self.over = True
        self._deadline = time.monotonic() + _WAIT

    def _done(self, heard: dict[int, str]) -> bool:
        """Tell whether all was heard that was said, or time is up."""
        return self.over and (
            len(heard) >= len(self.said) or time.monotonic() > self._deadline
        )

    async def _talk(
        self,
        socket: websockets.ClientConnection,
        name: str,
        heard: dict[int, str],
    ) -> None:
        """Say something now and then, until the server asks to leave."""
        while not self._done(heard):
            if not self.over:
                text = f"{name} says {len(self.said)}"
                self.said.append(text)
                await socket.send(text)
            pause = asyncio.get_running_loop().time() + 0.2
            while (left := pause - asyncio.get_running_loop().time()) > 0:
                try:
                    event = json.loads(await asyncio.wait_for(socket.recv(), left))
                except asyncio.TimeoutError:
                    break
                if event["type"] == "leave":
                    return
                if event["type"] == "message":
                    heard[event["id"]] = event["text"]

    async def forms(self, name: str) -> None:
        """Say something by the form of the page, again and again."""
        transport = httpx.AsyncHTTPTransport(local_address=_CLIENT_HOST, verify=False)
        token = self._cookies["csrftoken"]
        async with httpx.AsyncClient(
            base_url=self._url, cookies=self._cookies, transport=transport
        ) as client:
            while not self.over:
                text = f"{name} writes {len(self.said)}"
                self.said.append(text)
                fields = {"text": text, "csrfmiddlewaretoken": token}
                response = await client.post(f"/rooms/{LOBBY}/", data=fields)
                if response.status_code != 302:
                    self.failures.append(f"{name}: {response.status_code}")
                await asyncio.sleep(0.1)

    async def visits(self) -> None:
        """Look at a page, on a connection of its own each time."""
        while not self.over:
            async with httpx.AsyncClient(verify=False, trust_env=False) as client:
                response = await client.get(f"{self._url}/login/")
            if response.status_code != 200:
                self.failures.append(f"visit: {response.status_code}")
            await asyncio.sleep(0.05)


@pytest.mark.timeout(120)
def test_instances_are_replaced_and_nothing_is_lost(cluster: Cluster) -> None:
    """
    While people talk, by WebSockets and by forms, both instances are replaced, one
    after the other: each hears all that was said, once, and no request fails.
    """
    with closing(Member(cluster.url)) as member:
        load = Load(cluster, member)

    async def replace_all() -> None:
        loop = asyncio.get_running_loop()
        try:
            for name in NAMES:
                await load.goes_on()
                await loop.run_in_executor(None, cluster.replace, name)
            await load.goes_on()
        finally:
            load.end()

    async def run() -> list[Counter[str]]:
        others = asyncio.gather(
            *(load.forms(f"form {number}") for number in range(2)),
            load.visits(),
            replace_all(),
        )
        pages = (load.page(f"page {number}") for number in range(4))
        heard = await asyncio.gather(*pages)
        await others
        return heard

    heard = asyncio.run(asyncio.wait_for(run(), 4 * _WAIT))

    assert [] == load.failures
    said = Counter(load.said)
    assert [(Counter(), Counter())] * len(heard) == [
        (said - one, one - said) for one in heard
    ]
    # Each page was on one of the two, and had to leave at least once.
    assert load.returns >= 2 * len(heard)
    log = "".join(server.log for name in NAMES for server in cluster.instances[name])
    assert "ERROR" not in log, log
    # Not that of HAProxy: who the client is came by the PROXY protocol.
    writers = re.findall(rf'(?m)^(\S+):\d+ - .*"POST /rooms/{LOBBY}/"', log)
    assert {_CLIENT_HOST} == set(writers)


def test_an_instance_that_dies_is_left_out(cluster: Cluster) -> None:
    """HAProxy asks the other one, at once and as long as the first one is away."""
    with httpx.Client(base_url=cluster.url, trust_env=False) as client:
        client.get("/login/").raise_for_status()
        cluster.instances["one"][-1].signal(signal.SIGKILL)
        for _ in range(20):
            client.get("/login/").raise_for_status()
        cluster.wait_for_statuses(one="DOWN", two="UP")
        cluster.begin("one")
        cluster.wait_for_statuses(one="UP")


def test_a_command_that_does_not_exist_is_one_line(cluster: Cluster) -> None:
    """The line tells how things are left, so that somebody can go on from there."""
    script = CLUSTER / "replace.py"
    command: list[str | Path] = [script, cluster.admin, "chat/one", "/no/such/command"]
    failed = subprocess.run(command, capture_output=True, check=False, text=True)

    assert 1 == failed.returncode
    assert failed.stderr.endswith("; chat/one is still out of service\n")
    assert 1 == failed.stderr.count("\n")
    assert "DRAIN" == cluster.statuses()["one"]
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(cluster.admin))
        sock.sendall(b"set server chat/one state ready\n")
        assert b"" == sock.recv(4096).strip()
    cluster.wait_for_statuses(one="UP")


def test_a_wrong_socket_of_haproxy_is_one_line(tmp_path: Path) -> None:
    """Nothing is begun where HAProxy can't be told."""
    script = CLUSTER / "replace.py"
    command: list[str | Path] = [script, tmp_path / "none", "chat/one"]
    command += ["touch", "begun"]
    failed = subprocess.run(
        command, capture_output=True, check=False, text=True, cwd=tmp_path
    )

    expected = f"HAProxy: {tmp_path / 'none'}: No such file or directory\n"
    assert (1, expected) == (failed.returncode, failed.stderr)
    assert not (tmp_path / "begun").exists()


def test_the_last_instance_is_not_replaced(cluster: Cluster) -> None:
    """The script refuses, and says why."""
    assert 0 == cluster.instances["two"][-1].stop()
    cluster.wait_for_statuses(two="DOWN")

    refused = subprocess.run(
        [CLUSTER / "replace.py", cluster.admin, "chat/one", "touch", "begun"],
        capture_output=True,
        check=False,
        text=True,
        cwd=cluster.admin.parent,
    )

    assert 1 == refused.returncode
    assert "chat/one is the only one" in refused.stderr
    assert not (cluster.admin.parent / "begun").exists()
    assert "UP" == cluster.statuses()["one"]


# -- Kubernetes --------------------------------------------------------------------


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the manifests as they are applied, in one file."""
    file = tmp_path_factory.mktemp("kubernetes") / "all.yaml"
    command = [find_program("kubectl"), "kustomize", str(CLUSTER / "kubernetes")]
    file.write_bytes(subprocess.run(command, check=True, capture_output=True).stdout)
    return file


@pytest.fixture(scope="module")
def objects(manifests: Path) -> dict[str, Any]:
    """Return the objects by kind and name, of which a hash is left out."""
    return {
        f"{item['kind']} {re.sub('-[0-9a-z]{10}$', '', item['metadata']['name'])}": item
        for item in yaml.safe_load_all(manifests.read_text("utf-8"))
    }


def test_the_manifests_are_valid(manifests: Path) -> None:
    """By the schemas of Kubernetes; without a field that it doesn't know."""
    finished = subprocess.run(
        [find_program("kubernetes-validate"), "--strict", manifests],
        capture_output=True,
        check=False,
        text=True,
    )
    assert 0 == finished.returncode, finished.stdout + finished.stderr


def test_the_manifests_hold_together(objects: dict[str, Any]) -> None:
    """Each service, budget and policy finds its pods; all are in one namespace."""
    labels = {
        name.removeprefix("Deployment "): item["spec"]["template"]["metadata"]["labels"]
        for name, item in objects.items()
        if name.startswith("Deployment ")
    }
    assert {"chat", "haproxy", "redis"} == labels.keys()
    for service, name in [("chat-pods", "chat"), ("haproxy",) * 2, ("redis",) * 2]:
        assert labels[name] == objects[f"Service {service}"]["spec"]["selector"]
        pod = objects[f"Deployment {name}"]["spec"]["template"]["spec"]
        [port] = objects[f"Service {service}"]["spec"]["ports"]
        [container] = pod["containers"]
        assert port["targetPort"] in {port["name"] for port in container["ports"]}
    budget = objects["PodDisruptionBudget chat"]["spec"]
    assert labels["chat"] == budget["selector"]["matchLabels"]
    policy = objects["NetworkPolicy chat"]["spec"]
    assert labels["chat"] == policy["podSelector"]["matchLabels"]
    [source] = policy["ingress"][0]["from"]
    assert labels["haproxy"] == source["podSelector"]["matchLabels"]
    assert objects["Namespace chat"]["metadata"]["name"] == "chat"
    assert {"chat"} == {
        item["metadata"]["namespace"]
        for name, item in objects.items()
        if name != "Namespace chat"
    }


def test_pods_of_the_chat_are_what_haproxy_expects(objects: dict[str, Any]) -> None:
    """Ports, health and the PROXY protocol are the same on both sides."""
    pod = objects["Deployment chat"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    settings = CommandLineInterface().read_settings(container["args"])
    assert settings is not None
    configuration = objects["ConfigMap haproxy"]["data"]["haproxy.cfg"]
    metrics = str(settings.operations.metrics).rpartition(":")[2]
    namespace = objects["Service chat-pods"]["metadata"]["namespace"]
    assert settings.proxy.proxy_protocol
    assert f"check port {metrics} inter 1s fall 2 rise 1 send-proxy-v2" in configuration
    address = f"chat-pods.{namespace}.svc.cluster.local:{settings.bind.port}"
    assert address in configuration
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert {"http": settings.bind.port, "health": int(metrics)} == ports
    # Variables of a service named daphne-like would be taken for settings.
    assert pod["enableServiceLinks"] is False
    # The rest is that of the configuration which the tests above have run.
    other = (CLUSTER / "haproxy.cfg").read_text("utf-8")
    for line in other.splitlines():
        if re.match(r"    (timeout|retr|option|http-|balance|default-server) ?", line):
            assert line in configuration


def test_a_pod_has_the_time_which_its_settings_allow(objects: dict[str, Any]) -> None:
    """It isn't killed before the drain is over, however long that takes."""
    pod = objects["Deployment chat"]["spec"]["template"]["spec"]
    [container] = pod["containers"]
    settings = CommandLineInterface().read_settings(container["args"])
    assert settings is not None

    async def application(scope: Any, receive: Any, send: Any) -> None: ...

    *_, pause = container["lifecycle"]["preStop"]["exec"]["command"]
    longest = Server(application, settings=settings).longest_stop
    assert int(pause) + longest <= pod["terminationGracePeriodSeconds"]


def test_haproxy_reads_its_configuration(objects: dict[str, Any]) -> None:
    """That of the manifests is right; without the names of a cluster."""
    program = find_program("haproxy", "/usr/sbin/haproxy")
    checked = subprocess.run(
        [program, "-c", "-f", CLUSTER / "kubernetes" / "haproxy.cfg"],
        capture_output=True,
        check=False,
        text=True,
    )
    assert 0 == checked.returncode, checked.stderr
