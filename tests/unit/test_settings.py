"""Tests of ``daphne_like.settings``."""

from __future__ import annotations

import importlib.util
import os
import pickle
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daphne_like.errors import SettingsError
from daphne_like.setting_kinds import (
    Choice,
    FileMode,
    Flag,
    Integer,
    Kind,
    Seconds,
    Secret,
    Several,
    Text,
)
from daphne_like.settings import (
    KNOWN_SETTINGS,
    SECTION_TITLES,
    HTTPSettings,
    LogSettings,
    ProxySettings,
    Settings,
    read_toml,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DOCS = Path(__file__).parents[2] / "docs"

_LINE = st.characters(exclude_categories=["Cs", "Cc"])
_HEADER_NAMES = st.text("aZ-_9!", min_size=1)
_HEADER_VALUES = st.text(
    st.characters(max_codepoint=0xFF, exclude_categories=["Cc"])
).map(lambda text: text.strip(" "))

# Settings whose texts have a form of their own.
_SPECIAL: dict[str, st.SearchStrategy[Any]] = {
    "server_name": _HEADER_VALUES,
    "header": st.lists(st.tuples(_HEADER_NAMES, _HEADER_VALUES).map(":".join)),
    "proxy_headers": st.just(True),
    "proxy_headers_host": _HEADER_NAMES,
    "proxy_headers_port": _HEADER_NAMES,
    "proxy_headers_proto": _HEADER_NAMES,
    "proxy_headers_authority": _HEADER_NAMES,
    "proxy_headers_prefix": _HEADER_NAMES,
    "forwarded_allow_ips": st.lists(
        st.one_of(st.ip_addresses().map(str), st.sampled_from(["*", "unix"]))
    ),
    # Some settings need each other, and some exclude each other.
    "ssl_keyfile": st.just([]),
    "ssl_dev": st.just(False),
    "ssl_cert_reqs": st.sampled_from(["optional", "required"]),
    "ssl_ca_certs": st.text(_LINE, min_size=1),
    "preload": st.just(False),
    "reuse_port": st.just(False),
    "limit_max_requests_jitter": st.just(0),
    "max_worker_lifetime_jitter": st.just(0),
    "metrics": st.sampled_from(["9100", "0.0.0.0:9100"]),
    "statsd_host": st.sampled_from(["localhost:8125"]),
    "statsd_prefix": st.sampled_from(["", "site", "site.web-1"]),
    "request_id_header": _HEADER_NAMES,
    "request_id_response": st.just(False),
    "redirect_https": st.sampled_from(["80", "localhost:80", "[::1]:8080"]),
    "log_fmt": st.text(st.characters(exclude_categories=["Cs"])).map(
        lambda text: "%(message)s" + text.replace("%", "")
    ),
}


def values_of(kind: Kind) -> st.SearchStrategy[Any]:
    """Valid values of a kind."""
    if isinstance(kind, Flag):
        return st.booleans()
    if isinstance(kind, Integer):
        return st.integers(kind._lowest, kind._highest)
    if isinstance(kind, Seconds):
        return st.floats(0, 1e9)
    if isinstance(kind, FileMode):
        return st.integers(0, 0o777)
    if isinstance(kind, Choice):
        return st.sampled_from(kind.choices)
    if isinstance(kind, Several):
        return st.lists(values_of(kind.item))
    assert isinstance(kind, Text)
    return st.text(_LINE, min_size=0 if kind._empty else 1)


# Without these, others would have no effect.
_NEEDED = ("proxy_headers", "request_id_header", "ssl_cert_reqs", "ssl_ca_certs")


def any_overrides() -> st.SearchStrategy[dict[str, Any]]:
    """Some settings with valid values, by flat name."""
    return st.fixed_dictionaries(
        {name: _SPECIAL[name] for name in _NEEDED},
        optional={
            name: _SPECIAL.get(name, values_of(definition.kind))
            for name, definition in KNOWN_SETTINGS.items()
            # What isn't shown can't be fed back.
            if name not in _NEEDED and not isinstance(definition.kind, Secret)
        },
    )


@given(any_overrides())
def test_shown_settings_can_be_fed_back(overrides: dict[str, Any]) -> None:
    """What ``--show-config`` prints is a settings file which says the same."""
    settings = Settings.of(**overrides)

    again = Settings.from_sources(file=tomllib.loads(settings.to_toml()))

    assert settings == again


@given(any_overrides())
def test_each_setting_can_come_from_the_environment(overrides: dict[str, Any]) -> None:
    """Whatever can be set at all can be set by an environment variable."""
    # Items of lists are stripped there, and backslashes before commas are escapes.
    overrides = {
        name: value
        for name, value in overrides.items()
        if not isinstance(value, list) or name in ("fd", "forwarded_allow_ips")
    }
    settings = Settings.of(**overrides)
    environ = {
        KNOWN_SETTINGS[name].environment_variable: KNOWN_SETTINGS[name].kind.text(
            settings.value(name)
        )
        for name in overrides
    }

    assert settings == Settings.from_sources(environ=environ)


def test_a_password_is_not_shown() -> None:
    """What is printed for a bug report holds no secret."""
    settings = Settings.of(ssl_keyfile_password="hunter2")

    assert "hunter2" == settings.tls.ssl_keyfile_password
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in settings.to_toml()
    assert "# ssl_keyfile_password is not shown" in settings.to_toml()


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ({"ssl_dev": True, "ssl_certfile": "a"}, "ssl_dev and ssl_certfile exclude"),
        ({"ssl_keyfile": "a"}, "ssl_keyfile must be given as often as ssl_certfile"),
        (
            {"ssl_certfile": ["a", "b"], "ssl_keyfile": "a"},
            "ssl_keyfile must be given as often as ssl_certfile",
        ),
        ({"ssl_ca_certs": "a"}, "ssl_ca_certs has no effect without ssl_cert_reqs"),
        ({"ssl_cert_reqs": "optional"}, "ssl_cert_reqs needs ssl_ca_certs"),
    ],
)
def test_settings_of_tls_fit_together(overrides: dict[str, Any], reason: str) -> None:
    """What would have no effect, or only half of it, is a mistake."""
    with pytest.raises(SettingsError, match=f"^{reason}"):
        Settings.of(**overrides)


def test_the_defaults_are_the_documented_ones() -> None:
    """Without any source, the contract's defaults hold."""
    settings = Settings()

    assert settings == Settings.of()
    assert settings == Settings.from_sources()
    assert {
        "application": None,
        "factory": False,
        "app_dir": ".",
        "interface": "auto",
        "lifespan": "auto",
        "root_path": "",
        "timeout_startup": 60.0,
        "timeout_shutdown": 30.0,
        "application_close_timeout": 10.0,
        "daphne_compat": False,
        "bind": (),
        "port": None,
        "unix_socket": (),
        "fd": (),
        "endpoint": (),
        "backlog": 2048,
        "uds_permissions": 0o666,
        "ssl_certfile": (),
        "ssl_keyfile": (),
        "ssl_keyfile_password": None,
        "ssl_ca_certs": None,
        "ssl_cert_reqs": "none",
        "ssl_ciphers": None,
        "ssl_min_version": "1.2",
        "ssl_handshake_timeout": 10.0,
        "ssl_reload_interval": 5.0,
        "ssl_dev": False,
        "redirect_https": None,
        "http_timeout": None,
        "timeout_keep_alive": 5.0,
        "timeout_request_header": 10.0,
        "timeout_request_body": 30.0,
        "timeout_send": 60.0,
        "limit_request_line": 8190,
        "limit_request_header": 65536,
        "limit_request_fields": 100,
        "limit_request_body": 0,
        "request_buffer_size": 0,
        "limit_connections": 0,
        "limit_concurrency": 0,
        "limit_pipelined_requests": 16,
        "server_name": "daphne-like",
        "date_header": True,
        "header": (),
        "header_underscores": "drop",
        "http": "auto",
        "h2c_upgrade": False,
        "http2_max_concurrent_streams": 128,
        "http2_stream_window": 262144,
        "http2_max_stream_window": 4194304,
        "http2_connection_window": 16777216,
        "http2_max_frame_size": 16384,
        "http2_ping_interval": 60.0,
        "http2_ping_timeout": 20.0,
        "http2_push": False,
        "websocket_timeout": 86400.0,
        "websocket_connect_timeout": 5.0,
        "ping_interval": 20.0,
        "ping_timeout": 30.0,
        "ws_close_timeout": 5.0,
        "websocket_max_message_size": 1048576,
        "websocket_max_frame_size": 1048576,
        "ws_max_queue": 32,
        "ws_per_message_deflate": True,
        "ws_deflate_min_size": 128,
        "ws_deflate_level": 3,
        "ws_deflate_window_bits": 12,
        "ws_deflate_memory_level": 5,
        "ws_deflate_context_takeover": True,
        "proxy_headers": False,
        "proxy_headers_host": "X-Forwarded-For",
        "proxy_headers_port": "X-Forwarded-Port",
        "proxy_headers_proto": "X-Forwarded-Proto",
        "proxy_headers_authority": "",
        "proxy_headers_prefix": "",
        "proxy_headers_forwarded": "ignore",
        "proxy_protocol": False,
        "timeout_proxy_protocol": 5.0,
        "forwarded_allow_ips": ("127.0.0.1", "::1", "unix"),
        "verbosity": 1,
        "log_level": None,
        "log_config": None,
        "log_fmt": "%(asctime)-15s %(levelname)-8s %(message)s",
        "access_log": None,
        "access_log_format": "daphne",
        "timeout_graceful_shutdown": 30.0,
        "drain_notice_timeout": 10.0,
        "loop": "auto",
        "workers": None,
        "worker_start": "auto",
        "preload": False,
        "reuse_port": False,
        "timeout_worker_healthcheck": 30.0,
        "limit_max_requests": 0,
        "limit_max_requests_jitter": 0,
        "max_worker_lifetime": 0.0,
        "max_worker_lifetime_jitter": 0.0,
        "max_worker_rss": 0,
        "max_worker_rss_samples": 3,
        "reload": False,
        "reload_dir": (),
        "reload_include": (),
        "reload_exclude": (),
        "reload_delay": 0.25,
        "pid_file": None,
        "user": None,
        "group": None,
        "umask": None,
        "chdir": None,
        "process_title": None,
        "core_dumps": True,
        "metrics": None,
        "control_socket": None,
        "statsd_host": None,
        "statsd_prefix": "daphne_like",
        "otel": False,
        "request_id_header": "",
        "request_id_response": False,
    } == {name: settings.value(name) for name in KNOWN_SETTINGS}


def test_defaults_would_pass_their_own_checks() -> None:
    """The defaults, which aren't checked at start, are valid and in final form."""
    for definition in KNOWN_SETTINGS.values():
        value = definition.read(definition.default)

        assert definition.default == value
        assert type(definition.default) is type(value)


def test_daphnes_and_uvicorns_spellings_are_options() -> None:
    """People who come from Daphne or Uvicorn keep their command lines."""
    spellings = {
        option: name
        for name, definition in KNOWN_SETTINGS.items()
        for option in (*definition.options, definition.off_option)
    }

    for name, options in {
        "port": ("-p", "--port"),
        "bind": ("-b", "--bind", "--host"),
        "unix_socket": ("-u", "--unix-socket", "--uds"),
        "fd": ("--fd",),
        "endpoint": ("-e", "--endpoint"),
        "http_timeout": ("-t", "--http-timeout"),
        "application_close_timeout": ("--application-close-timeout",),
        "root_path": ("--root-path",),
        "proxy_headers": ("--proxy-headers",),
        "proxy_headers_host": ("--proxy-headers-host",),
        "proxy_headers_port": ("--proxy-headers-port",),
        "forwarded_allow_ips": ("--forwarded-allow-ips",),
        "verbosity": ("-v", "--verbosity"),
        "access_log": ("--access-log", "--no-access-log"),
        "log_fmt": ("--log-fmt",),
        "server_name": ("-s", "--server-name", "--no-server-name"),
        "timeout_graceful_shutdown": ("--timeout-graceful-shutdown",),
    }.items():
        for option in options:
            assert name == spellings[option]


def test_the_nearer_source_wins() -> None:
    """Command line before environment before file before default, and it is told."""
    settings = Settings.from_sources(
        command_line={"port": 1},
        environ={"DAPHNE_LIKE_PORT": "2", "DAPHNE_LIKE_BACKLOG": "2", "PORT": "9"},
        file={"port": 3, "backlog": 3, "verbosity": 3},
        file_name="x.toml",
    )

    assert settings.bind.port == 1
    assert settings.bind.backlog == 2
    assert settings.log.verbosity == 3
    assert settings.http.timeout_keep_alive == 5.0
    assert settings.sources == {
        "port": "command line",
        "backlog": "environment DAPHNE_LIKE_BACKLOG",
        "verbosity": "x.toml",
    }


def test_a_list_replaces_the_list_of_a_farther_source() -> None:
    """Addresses on the command line replace those of the file."""
    settings = Settings.from_sources(
        command_line={"bind": ["::1"]}, file={"bind": ["a", "b"]}
    )

    assert settings.bind.bind == ("::1",)


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ({"file": {"prot": 1}}, "x.toml: prot is no setting; did you mean port?"),
        ({"file": {"host": "a"}}, "x.toml: host is no setting; did you mean bind?"),
        (
            {"file": {"http-timeout": 1}},
            "x.toml: http-timeout is no setting; did you mean http_timeout?",
        ),
        (
            {"environ": {"DAPHNE_LIKE_PROT": "1"}},
            (
                "environment: DAPHNE_LIKE_PROT is no setting; "
                "did you mean DAPHNE_LIKE_PORT?"
            ),
        ),
        (
            {"environ": {"DAPHNE_LIKE_UDS": "1"}},
            (
                "environment: DAPHNE_LIKE_UDS is no setting; "
                "did you mean DAPHNE_LIKE_UNIX_SOCKET?"
            ),
        ),
        (
            {"environ": {"DAPHNE_LIKE_QQQQ": "1"}},
            "environment: DAPHNE_LIKE_QQQQ is no setting",
        ),
        (
            {"environ": {"DAPHNE_LIKE_PORT": ""}},
            "DAPHNE_LIKE_PORT must be a whole number, not ''",
        ),
        (
            {"file": {"port": 70000}},
            "x.toml: port must be from 0 to 65535, not 70000",
        ),
        (
            {"command_line": {"port": "x"}},
            "command line: port must be a whole number, not 'x'",
        ),
        ({"file": {"bind": {"a": 1}}}, "x.toml: bind must be text, not {'a': 1}"),
        (
            {"environ": {"DAPHNE_LIKE_PROXY_HEADERS_HOST": "X-Real-IP"}},
            "proxy_headers_host has no effect without proxy_headers",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_source(
    sources: dict[str, Any], message: str
) -> None:
    """One line names the wrong setting in the words of the place it is in."""
    with pytest.raises(SettingsError) as raised:
        Settings.from_sources(**sources, file_name="x.toml")

    assert message == str(raised.value)


def test_keywords_are_checked_too() -> None:
    """A program which embeds the server gets the same help as the command line."""
    settings = Settings.of(port=0, timeout_keep_alive="2s", fd=3, bind="::1")

    assert settings.bind.port == 0
    assert settings.bind.fd == (3,)
    assert settings.bind.bind == ("::1",)
    assert settings.http.timeout_keep_alive == 2.0
    with pytest.raises(SettingsError, match=r"did you mean timeout_keep_alive\?"):
        Settings.of(timeout_keepalive=2)
    with pytest.raises(SettingsError, match=r"^keyword: port must be from"):
        Settings.of(port=-1)


def test_a_section_can_be_made_directly_and_is_checked() -> None:
    """Nobody holds an invalid section, however it was made."""
    assert HTTPSettings(timeout_send=1).timeout_send == 1.0
    with pytest.raises(SettingsError, match=r"^timeout_send must be from 0"):
        HTTPSettings(timeout_send=float("nan"))


def test_settings_cannot_be_changed() -> None:
    """Settings which were checked stay as they were."""
    settings = Settings()

    with pytest.raises(FrozenInstanceError):
        settings.http.timeout_send = 1.0  # type: ignore[misc]


def test_settings_can_be_handed_to_another_process() -> None:
    """Worker processes can be given the settings."""
    settings = Settings.of(port=1)

    assert settings == pickle.loads(pickle.dumps(settings))


def test_headers_of_a_proxy_need_the_proxy_to_be_believed() -> None:
    """Naming a header that isn't looked at is an error, not a silent nothing."""
    section = ProxySettings(proxy_headers=True, proxy_headers_port="X-Port")
    assert section.proxy_headers_port == "X-Port"
    for name, value in {
        "proxy_headers_port": "X-Port",
        "proxy_headers_authority": "X-Forwarded-Host",
        "proxy_headers_prefix": "X-Forwarded-Prefix",
        "proxy_headers_forwarded": "only",
    }.items():
        with pytest.raises(SettingsError, match=rf"^{name} has no effect"):
            Settings.of(**{name: value})


def test_response_headers_are_encoded_as_asgi_has_them() -> None:
    """Names become lower-case bytes; order and repetition are kept."""
    section = HTTPSettings(header=("X-A: 1", "Link: <a:b>", "x-a:caf\xe9"))

    assert (
        (b"x-a", b"1"),
        (b"link", b"<a:b>"),
        (b"x-a", b"caf\xe9"),
    ) == section.encoded_headers


@pytest.mark.parametrize(
    ("overrides", "target"),
    [
        ({}, "-"),
        ({"verbosity": 0}, None),
        ({"verbosity": 0, "access_log": "x.log"}, "x.log"),
        ({"access_log": "logger"}, "logger"),
        ({"access_log": ""}, None),
    ],
)
def test_the_access_log_goes_to_stdout_unless_told_otherwise(
    overrides: dict[str, Any], target: str | None
) -> None:
    """By default there is an access log on stdout, except when asked to be quiet."""
    assert target == LogSettings(**overrides).access_log_target


def test_shown_settings_tell_sections_and_sources() -> None:
    """A reader sees what belongs together and where each value came from."""
    shown = Settings.from_sources(
        {"port": 80}, {"DAPHNE_LIKE_LOOP": "asyncio"}, {"fd": [3]}, "bad\nname.toml"
    ).to_toml()

    for title in SECTION_TITLES.values():
        assert f"# {title}\n" in shown
    assert [
        'app_dir = "."                                    # default',
        "port = 80                                        # command line",
        "fd = [3]                                         # bad?name.toml",
        "# http_timeout is not set                        # default",
        (
            'loop = "asyncio"                                 '
            "# environment DAPHNE_LIKE_LOOP"
        ),
    ] == [
        line
        for line in shown.splitlines()
        if line.startswith(("app_dir", "port", "fd", "# http_t", "loop"))
    ]


def test_a_settings_file_is_read(tmp_path: Path) -> None:
    """A TOML file gives settings by their names."""
    file = tmp_path / "settings.toml"
    file.write_text('bind = ["::1"]\ntimeout_send = "30s" # half a minute\n', "utf-8")

    assert read_toml(str(file)) == {"bind": ["::1"], "timeout_send": "30s"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        (b"port = ", r"\(at end of document\)|line 1"),
        (b"a = '\xff'", "can't decode byte"),
    ],
)
def test_an_unreadable_settings_file_is_told(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    """A missing or broken file is named, with what is wrong in it."""
    file = tmp_path / "settings.toml"
    if content is not None:
        file.write_bytes(content)

    with pytest.raises(SettingsError, match=message) as raised:
        read_toml(str(file))

    assert str(raised.value).startswith(f"{file}: ")


def test_the_settings_page_is_up_to_date() -> None:
    """The documentation tells of each setting as it is."""
    script = DOCS / "generate_settings.py"
    spec = importlib.util.spec_from_file_location("generate_settings", script)
    assert spec is not None
    assert spec.loader is not None
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)

    assert generator.render() == generator.PAGE.read_text("utf-8"), (
        "run: python docs/generate_settings.py"
    )


@pytest.mark.parametrize(
    ("environ", "workers"),
    [
        ({}, None),
        ({"WEB_CONCURRENCY": "1"}, None),
        ({"WEB_CONCURRENCY": ""}, None),
        ({"WEB_CONCURRENCY": "3"}, 3),
        ({"WEB_CONCURRENCY": "3", "DAPHNE_LIKE_WORKERS": "2"}, 2),
    ],
)
def test_platforms_may_say_how_many_workers(
    environ: dict[str, str], workers: int | None
) -> None:
    """WEB_CONCURRENCY counts where it asks for more than one; ours comes first."""
    settings = Settings.from_sources(environ=environ)

    assert settings.workers.workers == workers
    assert settings.workers.supervised is (workers is not None)


def test_a_garbled_web_concurrency_is_an_error() -> None:
    """Who has mistyped it learns that, instead of running one process."""
    with pytest.raises(SettingsError, match="WEB_CONCURRENCY must be a whole number"):
        Settings.from_sources(environ={"WEB_CONCURRENCY": "many"})


def test_auto_is_as_many_workers_as_processors() -> None:
    """``auto`` stands for a number which the system knows."""
    assert 1 <= Settings.of(workers="auto").workers.count <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    "overrides",
    [
        {"workers": 1},
        {"limit_max_requests": 10},
        {"max_worker_lifetime": 10},
        {"max_worker_rss": 100},
        {"reload": True},
    ],
)
def test_what_needs_a_supervisor_gets_one(overrides: dict[str, Any]) -> None:
    """A worker can only be replaced where somebody starts another one."""
    assert Settings.of(**overrides).workers.supervised
    assert Settings.of(**overrides).workers.count == 1


@pytest.mark.parametrize(
    "overrides",
    [
        {"reload": True, "preload": True},
        {"workers": 2, "preload": True, "worker_start": "spawn"},
        {"preload": True},
        {"reuse_port": True},
        {"workers": 2, "limit_max_requests_jitter": 9},
        {"limit_max_requests": 9, "max_worker_lifetime_jitter": 9},
    ],
)
def test_settings_of_workers_which_do_not_fit(overrides: dict[str, Any]) -> None:
    """A setting that could have no effect is an error."""
    with pytest.raises(SettingsError, match=r"exclude|has no effect without|needs"):
        Settings.of(**overrides)
