"""Tests of ``daphne_like.daphne_keywords``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from daphne_like.access import AccessLogGenerator
from daphne_like.daphne_keywords import keywords_of_settings, settings_of_keywords
from daphne_like.errors import SettingsError
from daphne_like.settings import Settings

DAPHNES = {
    "action_logger",
    "application_close_timeout",
    "endpoints",
    "http_timeout",
    "ping_interval",
    "ping_timeout",
    "proxy_forwarded_address_header",
    "proxy_forwarded_port_header",
    "proxy_forwarded_proto_header",
    "request_buffer_size",
    "root_path",
    "server_name",
    "verbosity",
    "websocket_connect_timeout",
    "websocket_handshake_timeout",
    "websocket_max_frame_size",
    "websocket_max_message_size",
    "websocket_timeout",
}


@pytest.mark.parametrize(
    ("keywords", "limit"),
    [
        ({"websocket_handshake_timeout": 7}, 7),
        ({"websocket_handshake_timeout": 5, "websocket_connect_timeout": 20}, 5),
        ({"websocket_handshake_timeout": 60, "websocket_connect_timeout": 20}, 20),
        ({"websocket_handshake_timeout": -1, "websocket_connect_timeout": 20}, 20),
        ({"websocket_handshake_timeout": 0, "websocket_connect_timeout": -1}, -1),
        ({"websocket_connect_timeout": 30}, 30),
    ],
)
def test_two_timeouts_limit_the_handshake(
    keywords: dict[str, float], limit: float
) -> None:
    """The shorter one counts; -1 and 0 are no limit."""
    assert {"websocket_connect_timeout": limit} == settings_of_keywords(keywords)


@pytest.mark.parametrize(
    ("keywords", "settings"),
    [
        (
            {
                "proxy_forwarded_address_header": "X-Real-IP",
                "proxy_forwarded_port_header": "X-Real-Port",
                "proxy_forwarded_proto_header": "X-Scheme",
            },
            {
                "proxy_headers": True,
                "proxy_headers_host": "X-Real-IP",
                "proxy_headers_port": "X-Real-Port",
                "proxy_headers_proto": "X-Scheme",
            },
        ),
        (
            {"proxy_forwarded_address_header": "X-Real-IP"},
            {
                "proxy_headers": True,
                "proxy_headers_host": "X-Real-IP",
                "proxy_headers_port": "",
                "proxy_headers_proto": "",
            },
        ),
        (
            {
                "proxy_forwarded_address_header": None,
                "proxy_forwarded_port_header": "X-Forwarded-Port",
            },
            {},
        ),
    ],
)
def test_names_of_headers_make_a_proxy_believed(
    keywords: dict[str, Any], settings: dict[str, Any]
) -> None:
    """All depends on the address; a header without a name is not looked at."""
    assert settings == settings_of_keywords(keywords)
    assert settings.get("proxy_headers", False) == (
        Settings.of(**settings).proxy.proxy_headers
    )


def test_daphnes_server_has_no_access_log_of_its_own() -> None:
    """Its command line has one; a program that makes a server says so, or not."""
    assert settings_of_keywords({"daphne_compat": True})["access_log"] == ""
    asked = {"daphne_compat": True, "access_log": "-"}
    assert asked == settings_of_keywords(asked)
    assert {"port": 80} == settings_of_keywords({"port": 80})


def test_a_server_class_gets_what_daphne_gives_it() -> None:
    """All of Daphne's keywords with its defaults, and nothing else unasked."""
    keywords = keywords_of_settings(Settings.of(daphne_compat=True))
    log = keywords.pop("action_logger")

    assert isinstance(log, AccessLogGenerator)
    assert log.stream is sys.stdout
    assert DAPHNES - {"action_logger"} == set(keywords) - {
        "daphne_compat",
        "date_header",
        "forwarded_allow_ips",
    }
    expected = {
        "endpoints": ["tcp:port=8000:interface=127.0.0.1"],
        "proxy_forwarded_address_header": None,
        "proxy_forwarded_port_header": None,
        "proxy_forwarded_proto_header": None,
        "server_name": "daphne",
        "websocket_connect_timeout": 5,
        "websocket_handshake_timeout": 5,
    }
    assert expected == {name: keywords[name] for name in expected}


def test_what_was_asked_for_reaches_the_server_class(tmp_path: Path) -> None:
    """Also what Daphne doesn't have, under the names of the settings."""
    path = tmp_path / "access.log"
    keywords = keywords_of_settings(
        Settings.of(
            access_log=str(path),
            bind="::1",
            fd=3,
            port=1,
            proxy_headers=True,
            timeout_keep_alive=9,
            unix_socket="/x",
            websocket_connect_timeout=7,
        )
    )
    keywords["action_logger"].stream.write("a line\n")

    assert path.read_text("utf-8") == "a line\n"
    keywords.pop("action_logger").stream.close()
    expected = {
        "endpoints": ["fd:fileno=3", r"tcp:port=1:interface=\:\:1", "unix:/x"],
        "proxy_forwarded_address_header": "X-Forwarded-For",
        "proxy_forwarded_port_header": "X-Forwarded-Port",
        "proxy_forwarded_proto_header": "X-Forwarded-Proto",
        "timeout_keep_alive": 9,
        "websocket_connect_timeout": 7,
        "websocket_handshake_timeout": 7,
    }
    assert expected == {name: keywords[name] for name in expected}


def test_lines_on_stdout_are_written_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it is a pipe or a file, as under a service manager."""
    with (tmp_path / "stdout").open("w", encoding="utf-8") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        log = keywords_of_settings(Settings.of())["action_logger"]
        log.stream.write("a line\n")

        assert log.stream is stdout
        assert "a line\n" == (tmp_path / "stdout").read_text("utf-8")


def test_an_access_log_that_cannot_be_opened(tmp_path: Path) -> None:
    """It is said in a line, and without a traceback."""
    path = tmp_path / "nowhere" / "access.log"
    with pytest.raises(SettingsError, match=r"access_log: can't open .*No such file"):
        keywords_of_settings(Settings.of(access_log=str(path)))


@pytest.mark.parametrize(
    ("overrides", "given"),
    [
        ({"verbosity": 0}, {}),
        ({"access_log": "logger"}, {"access_log": "logger"}),
        ({"access_log_format": "json"}, {"access_log_format": "json"}),
    ],
)
def test_an_access_log_of_another_kind_is_our_own(
    overrides: dict[str, Any], given: dict[str, Any]
) -> None:
    """Daphne's writer is for Daphne's lines; quiet is quiet."""
    keywords = keywords_of_settings(Settings.of(**overrides))

    assert keywords["action_logger"] is None
    assert given.items() <= keywords.items()
    assert set(given) == {name for name in keywords if name.startswith("access_log")}
