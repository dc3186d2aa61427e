"""`manage.py runserver` as a user of Django has it, in real projects."""

from __future__ import annotations

import re
import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import django
import httpx
import pytest
from certificates import Authority
from django_project import Project, Runserver, making_projects
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

import daphne_like

CHANNELS = {"DJANGO_SETTINGS_MODULE": "mysite.channels_settings"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runserver]:
    """Serve a project which several tests only look at."""
    with making_projects(tmp_path_factory.mktemp("shared")) as make:
        yield make().runserver()


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    """Make a project."""
    with making_projects(tmp_path) as make:
        yield make()


@pytest.fixture
def channels_site(project: Project) -> Runserver:
    """Serve a project with Channels."""
    pytest.importorskip("channels")
    return project.runserver(**CHANNELS)


# -- What the terminal shows ---------------------------------------------------------


def test_banner_is_djangos_with_our_name(site: Runserver) -> None:
    """Checks, migrations, date, version, settings, address, and how to quit."""
    assert site.site.startswith("http://127.0.0.1:")

    shown = re.fullmatch(
        r"(Watching for file changes with StatReloader\n)?"
        r"Performing system checks\.\.\.\n\n"
        r"System check identified no issues \(0 silenced\)\.\n\n"
        r"You have \d+ unapplied migration\(s\)\..*\n"
        r"Run 'python manage.py migrate' to apply them\.\n"
        r"\w+ \d\d, \d{4} - \S+\n"
        rf"Django version {re.escape(django.get_version())}, "
        r"using settings 'mysite\.settings'\n"
        rf"Starting ASGI/Daphne version {re.escape(daphne_like.__version__)} "
        r"\(daphne_like\) development server at http://127\.0\.0\.1:\d+/\n"
        r"Quit the server with CONTROL-C\.\n",
        site.log.partition("CONTROL-C.")[0] + "CONTROL-C.\n",
    )
    assert shown, site.log


@pytest.mark.parametrize(
    ("path", "status"),
    [("/?a=b", 200), ("/nope", 404), ("/broken", 500), ("/static/pages/no", 404)],
)
def test_each_request_has_a_line(site: Runserver, path: str, status: int) -> None:
    """The line is Daphne's: method, path with query, status, duration, client."""
    assert status == site.get(path).status_code

    site.wait_for_log(
        rf"\nHTTP GET {re.escape(path)} {status} \[\d+\.\d\d, 127\.0\.0\.1:\d+\]\n"
    )


def test_requests_have_one_line_only(project: Project) -> None:
    """The server's own access log does not repeat what is logged already."""
    server = project.runserver("--noreload")
    server.get("/told?mark")
    server.press_ctrl_c()

    assert 0 == server.wait()
    assert 1 == server.log.count("/told?mark"), server.log


def test_messages_are_text_without_arguments(project: Project) -> None:
    """Handlers which look at a record's arguments don't stumble (daphne#576)."""
    project.set(
        LOGGING={
            "version": 1,
            "disable_existing_loggers": False,
            "formatters": {"raw": {"format": "%(levelname)s %(args)s %(msg)s"}},
            "handlers": {"raw": {"class": "logging.StreamHandler", "formatter": "raw"}},
            "loggers": {
                "django.channels.server": {"handlers": ["raw"], "propagate": False}
            },
        }
    )
    server = project.runserver("--noreload")
    server.get("/100%25?%s")
    server.get("/")

    server.wait_for_log(r"\nWARNING \(\) HTTP GET /100%25\?%s 404 \[")
    server.wait_for_log(r"\nINFO \(\) HTTP GET / 200 \[")


def test_lines_are_colored_by_status(project: Project) -> None:
    """In a terminal, errors stand out."""
    server = project.runserver("--noreload", "--force-color", DJANGO_COLORS="dark")
    for path in ("/", "/nope", "/broken"):
        server.get(path)

    server.wait_for_log(r"\x1b\[\S*mHTTP GET /broken 500")
    colors = [
        server.wait_for_log(rf"\n\S*HTTP GET {path} ").partition("HTTP")[0]
        for path in ("/", "/nope", "/broken")
    ]
    assert len({"\n", *colors}) >= 3, colors


def test_websockets_have_lines(channels_site: Runserver) -> None:
    """With Channels: connecting, accepted or refused, and gone."""
    url = channels_site.site.replace("http", "ws")
    with connect(f"{url}/echo?secret=1", proxy=None) as client:
        client.send("hello")
        assert "hello" == client.recv(10)
    with pytest.raises(InvalidStatus, match="403"):
        connect(f"{url}/closed", proxy=None)

    for word in ("HANDSHAKING", "CONNECT", "DISCONNECT"):
        channels_site.wait_for_log(rf"\nWebSocket {word} /echo \[127\.0\.0\.1:\d+\]\n")
    for word in ("HANDSHAKING", "REJECT", "DISCONNECT"):
        channels_site.wait_for_log(rf"\nWebSocket {word} /closed \[127")


# -- Static files --------------------------------------------------------------------


def test_static_files_are_served(site: Runserver) -> None:
    """While DEBUG is on, files of the apps are there without any set-up."""
    answer = site.get("/static/pages/style.css")

    assert 200 == answer.status_code
    assert "teal" in answer.text
    assert "text/css" == answer.headers["content-type"]


@pytest.mark.parametrize(
    ("debug", "options", "status"),
    [
        (True, ["--nostatic"], 404),
        (False, [], 404),
        (False, ["--insecure"], 200),
    ],
)
def test_options_and_debug_decide_about_static_files(
    project: Project, debug: bool, options: list[str], status: int
) -> None:
    """`--nostatic` turns them off, `--insecure` on where DEBUG is off."""
    project.set(DEBUG=debug)
    server = project.runserver("--noreload", *options)

    assert status == server.get("/static/pages/style.css").status_code


def test_noasgi_is_djangos_own_server(project: Project) -> None:
    """`--noasgi` serves WSGI and static files, without Twisted (daphne#512)."""
    server = project.runserver("--noasgi", "--noreload")

    told = server.get("/told").json()
    assert ("WSGIRequest", False) == (told["interface"], told["twisted"])
    assert "teal" in server.get("/static/pages/style.css").text
    assert "ASGI/Daphne" not in server.log


# -- Reloading -----------------------------------------------------------------------


def test_saving_a_file_starts_anew(project: Project) -> None:
    """What is saved is served, by a new process on the same port."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    server = project.runserver(f"127.0.0.1:{port}")
    server.wait_for_answer("/", "hello")

    for old, new in (("hello", "good day"), ("good day", "goodbye")):
        project.change("pages/views.py", f'"{old}"', f'"{new}"')
        server.wait_for_answer("/", new, saving="pages/views.py")

    assert server.log.count(f"development server at http://127.0.0.1:{port}/\n") >= 3
    assert "Traceback" not in server.log


def test_websockets_learn_of_a_reload(
    project: Project, channels_site: Runserver
) -> None:
    """They are closed with 1012, which asks them to come back."""
    url = channels_site.site.replace("http", "ws")
    with connect(f"{url}/echo", proxy=None) as client:
        project.change("pages/views.py", '"hello"', '"goodbye"')
        with pytest.raises(ConnectionClosed) as closed:
            channels_site.wait_while_open(client, saving="pages/views.py")

    assert closed.value.rcvd is not None
    assert 1012 == closed.value.rcvd.code
    channels_site.wait_for_answer("/", "goodbye", saving="pages/views.py")
    channels_site.wait_for_log(r"WebSocket DISCONNECT /echo")


def test_a_view_that_blocks_does_not_hinder_a_reload(project: Project) -> None:
    """A request which takes minutes is left behind."""
    server = project.runserver()
    server.wait_for_answer("/", "hello")
    port = httpx.URL(server.site).port
    assert port
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(b"GET /blocked HTTP/1.1\r\nhost: localhost\r\n\r\n")
        server.wait_for_log("blocked")
        project.change("pages/views.py", '"hello"', '"goodbye"')

        server.wait_for_answer("/", "goodbye", saving="pages/views.py")


@pytest.mark.parametrize("path", ["mysite/asgi.py", "pages/__init__.py"])
def test_a_broken_project_can_be_repaired(project: Project, path: str) -> None:
    """A mistake is shown, and the next save puts it right, with all options."""
    with (project.folder / path).open("a") as file:
        file.write("\nmistake()\n")
    server = project.runserver("--insecure", "--http_timeout", "60")
    server.wait_for_log("NameError: name 'mistake' is not defined")

    project.change(path, "mistake()", "")

    server.wait_for_answer("/", "hello", saving=path)


@pytest.mark.parametrize("place", ["before", "behind"])
def test_other_apps_have_their_part(project: Project, place: str) -> None:
    """An app may extend runserver, on either side of ours."""
    other = project.folder / "other" / "management" / "commands"
    other.mkdir(parents=True)
    base = (
        "daphne_like" if place == "before" else "django.contrib.staticfiles"
    ) + ".management.commands.runserver"
    (other / "runserver.py").write_text(
        f"from {base} import Command as Base\n"
        "class Command(Base):\n"
        "    def add_arguments(self, parser):\n"
        "        super().add_arguments(parser)\n"
        "        parser.add_argument('--greet')\n"
        "    def handle(self, *args, **options):\n"
        "        print('greetings to', options['greet'])\n"
        "        super().handle(*args, **options)\n"
    )
    ours = '    "daphne_like",\n'
    both = f'    "other",\n{ours}' if place == "before" else f'{ours}    "other",\n'
    project.change("mysite/settings.py", ours, both)
    server = project.runserver("--noreload", "--greet", "Ann")

    assert "teal" in server.get("/static/pages/style.css").text
    assert "greetings to Ann\n" in server.log
    assert "ASGI/Daphne" in server.log


@pytest.mark.parametrize("options", [[], ["--noreload"]])
def test_ctrl_c_ends_it(project: Project, options: list[str]) -> None:
    """Ctrl-C in the terminal ends all processes, without a traceback."""
    server = project.runserver(*options)
    server.wait_for_answer("/", "hello")
    server.press_ctrl_c()

    assert 0 == server.wait()
    assert "Traceback" not in server.log
    with pytest.raises(httpx.ConnectError):
        server.get("/")


def test_a_view_that_blocks_does_not_hinder_the_end(project: Project) -> None:
    """Ctrl-C leaves it behind after some seconds."""
    server = project.runserver("--noreload")
    port = httpx.URL(server.site).port
    assert port
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.sendall(b"GET /blocked HTTP/1.1\r\nhost: localhost\r\n\r\n")
        server.wait_for_log("blocked")
        server.press_ctrl_c()

        assert 0 == server.wait()
    assert "threads don't end" in server.log


def test_a_service_manager_ends_it(project: Project) -> None:
    """SIGTERM does as well."""
    server = project.runserver("--noreload")
    server.wait_for_answer("/", "hello")
    server.signal(signal.SIGTERM)

    assert 0 == server.wait()


def test_views_may_import_the_reactor(project: Project) -> None:
    """It is installed before they are imported, as with Daphne."""
    line = "from twisted.internet import reactor"
    project.change("pages/views.py", "GREETING =", f"{line}\nGREETING =")
    server = project.runserver()

    server.wait_for_answer("/", "hello")


def test_an_app_with_another_reactor(project: Project) -> None:
    """Where the reactor is imported too early, the command says what is wrong."""
    with (project.folder / "pages" / "__init__.py").open("a") as file:
        file.write("from twisted.internet import reactor\n")
    server = project.runserver()

    assert 1 == server.wait()
    assert re.search(r"CommandError: the reactor \w+ is installed already", server.log)
    assert "Traceback" not in server.log


# -- Where it listens ----------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["--noreload"]])
def test_port_in_use_is_said_plainly(project: Project, options: list[str]) -> None:
    """The whole command ends with an error (daphne#577)."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        server = project.runserver(address, *options)

        assert 1 == server.wait()

    assert "Error: That port is already in use.\n" in server.log
    assert "Traceback" not in server.log
    assert "development server at" not in server.log


@pytest.mark.parametrize(
    ("arguments", "host"),
    [
        (["[::1]:0"], "[::1]"),
        (["-6"], "[::1]"),
        (["0:0"], "0.0.0.0"),
        (["localhost:0"], "localhost"),
    ],
)
def test_addresses_are_djangos(
    project: Project, arguments: list[str], host: str
) -> None:
    """IPv6 by brackets or option, host names, and 0 for all addresses."""
    server = project.runserver(*arguments, "--noreload")

    assert server.site.startswith(f"http://{host}:")
    family = socket.AF_INET6 if "6" in arguments[0] or "::" in host else socket.AF_INET
    target = "::1" if family == socket.AF_INET6 else "127.0.0.1"
    port = httpx.URL(server.site).port
    assert port
    url = httpx.URL(scheme="http", host=target, port=port, path="/")
    with httpx.Client(trust_env=False) as client:
        assert "hello" == client.get(url).text


# -- HTTPS ---------------------------------------------------------------------------


def test_https_for_development(project: Project, tmp_path: Path) -> None:
    """`--ssl-dev` needs no certificate at all."""
    server = project.runserver("--ssl-dev", XDG_CACHE_HOME=str(tmp_path))

    assert server.site.startswith("https://127.0.0.1:")
    assert "https" == server.get("/told").json()["scheme"]


def test_https_with_a_certificate(project: Project, tmp_path: Path) -> None:
    """`--ssl-certfile` and `--ssl-keyfile` name those which browsers trust."""
    authority = Authority()
    issued = authority.issue("localhost")
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    certificate.write_text(issued.pem)
    key.write_text(issued.key_pem())
    files = ("--ssl-certfile", str(certificate), "--ssl-keyfile", str(key))
    server = project.runserver("localhost:0", *files, "--noreload")
    trust = ssl.create_default_context(cadata=authority.pem)

    with httpx.Client(verify=trust, trust_env=False) as client:
        assert "hello" == client.get(server.site).text


def test_a_certificate_that_is_not_there(project: Project) -> None:
    """A wrong path is said plainly, and ends the command."""
    server = project.runserver("--ssl-certfile", "missing.pem")

    assert 1 == server.wait()
    assert re.search(r"^Error: .*missing\.pem", server.log, re.MULTILINE)
    assert "Traceback" not in server.log


# -- Settings ------------------------------------------------------------------------


def test_script_name_is_the_root_path(project: Project) -> None:
    """FORCE_SCRIPT_NAME publishes the project below a path."""
    project.set(FORCE_SCRIPT_NAME="/below")
    server = project.runserver("--noreload")

    told = server.get("/below/told").json()
    assert ("/below", "/told") == (told["script_name"], told["path_info"])
    assert "teal" in server.get("/below/static/pages/style.css").text


def test_server_settings_have_a_place(project: Project) -> None:
    """DAPHNE_LIKE holds any setting of the server by its name."""
    project.set(DAPHNE_LIKE={"server_name": "mine", "limit_request_line": 100})
    server = project.runserver("--noreload")

    assert "mine" == server.get("/").headers["server"]
    assert 414 == server.get("/" + "x" * 200).status_code


@pytest.mark.parametrize(
    ("settings", "size", "code"),
    [
        ({"DAPHNE_WEBSOCKET_MAX_MESSAGE_SIZE": 10}, 11, 1009),
        ({"DAPHNE_WEBSOCKET_MAX_FRAME_SIZE": 10}, 11, 1009),
        ({"DAPHNE_WEBSOCKET_MAX_FRAME_SIZE": 10}, 10, None),
    ],
)
def test_websocket_sizes_are_settings(
    project: Project, settings: dict[str, int], size: int, code: int | None
) -> None:
    """Daphne's two settings limit what a WebSocket takes."""
    pytest.importorskip("channels")
    project.set(**settings)
    server = project.runserver("--noreload", **CHANNELS)
    url = server.site.replace("http", "ws")

    with connect(f"{url}/echo", proxy=None, compression=None) as client:
        client.send("x" * size)
        if code is None:
            assert "x" * size == client.recv(10)
        else:
            with pytest.raises(ConnectionClosed) as closed:
                client.recv(10)
            assert closed.value.rcvd is not None
            assert code == closed.value.rcvd.code


def test_checks_can_be_skipped(project: Project) -> None:
    """`--skip-checks` is obeyed."""
    server = project.runserver("--noreload", "--skip-checks")
    server.wait_for_answer("/", "hello")

    assert "system check" not in server.log


def test_wrong_order_of_apps_is_an_error(project: Project) -> None:
    """Behind staticfiles ours would not run, so the check says so."""
    project.change("mysite/settings.py", '    "daphne_like",\n', "")
    project.change("mysite/settings.py", '    "pages",\n', '    "pages", "daphne_like"')
    server = project.runserver("--noreload")

    assert 1 == server.wait()
    assert "(daphne_like.E001)" in server.log


def test_missing_application_is_an_error(project: Project) -> None:
    """Without ASGI_APPLICATION the command says what is missing."""
    project.change("mysite/settings.py", "ASGI_APPLICATION", "SOMETHING_ELSE")
    server = project.runserver()

    assert 1 == server.wait()
    assert "CommandError: The setting ASGI_APPLICATION is missing" in server.log
