"""
The arguments of ``Server(...)``, in terms of settings; Daphne's the other way, too.

Most of Daphne's keywords are names of our settings. The others stand for a setting
under another name, for two of them, or for the same one twice.

Tests: ``tests/unit/test_daphne_keywords.py``, ``tests/unit/test_server.py``.
"""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daphne_like.access import AccessLogGenerator
from daphne_like.errors import SettingsError
from daphne_like.listeners.endpoints import endpoint_strings
from daphne_like.observability.logs import join_daphne_loggers
from daphne_like.settings import KNOWN_SETTINGS, Settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from daphne_like.settings import BindSettings, LogSettings

__all__ = ["keywords_of_settings", "settings_of_arguments", "settings_of_keywords"]

_logger = logging.getLogger("daphne_like.server")

# Daphne's keywords which are settings of ours, with the same meaning.
_SAME = (
    *("application_close_timeout", "http_timeout", "ping_interval", "ping_timeout"),
    *("request_buffer_size", "root_path", "server_name", "verbosity"),
    *("websocket_connect_timeout", "websocket_max_frame_size"),
    *("websocket_max_message_size", "websocket_timeout"),
)
_PROXY_KEYWORDS = {
    "proxy_forwarded_address_header": "proxy_headers_host",
    "proxy_forwarded_port_header": "proxy_headers_port",
    "proxy_forwarded_proto_header": "proxy_headers_proto",
}


def settings_of_arguments(
    settings: Settings | None,
    endpoints: Iterable[str] | None,
    overrides: Mapping[str, Any],
) -> Settings:
    """
    Return what a server is to be, by what it is made with.

    With ``daphne_compat`` our records go by way of Daphne's loggers from then on.

    Args:
        settings: All settings, or None.
        endpoints: Endpoint strings, or a single one, besides those of the settings.
        overrides: Settings by their flat names, or keywords of Daphne's, instead of
            ``settings``.

    Raises:
        SettingsError: A setting is wrong, or they come in both ways.
        SystemExit: There is nothing to listen on: ``endpoints`` is empty; or it is
            missing, with ``daphne_compat`` among the keywords.
    """
    needs_endpoints = endpoints is not None
    if settings is None:
        settings = Settings.of(**settings_of_keywords(overrides))
        needs_endpoints = needs_endpoints or settings.app.daphne_compat
    elif overrides:
        raise SettingsError(
            f"{', '.join(overrides)}: give settings or keywords, not both"
        )
    if endpoints is not None:
        settings = _with_endpoints(settings, endpoints)
    if settings.app.daphne_compat:
        join_daphne_loggers(settings.log.verbosity)
    if needs_endpoints and not _names_something(settings.bind):
        _logger.error("There are no endpoints: this server has nothing to listen on")
        sys.exit(1)
    return settings


def _with_endpoints(settings: Settings, endpoints: Iterable[str]) -> Settings:
    more = (endpoints,) if isinstance(endpoints, str) else tuple(endpoints)
    bind = replace(settings.bind, endpoint=(*settings.bind.endpoint, *more))
    return replace(settings, bind=bind)


def _names_something(bind: BindSettings) -> bool:
    """Whether there is more to listen on than where it listens by default."""
    tcp = bind.bind or bind.port is not None
    return bool(tcp or bind.unix_socket or bind.fd or bind.endpoint)


def settings_of_keywords(keywords: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return keywords in which those that only Daphne has have become settings.

    * ``websocket_handshake_timeout`` limits what ``websocket_connect_timeout`` does,
      too: where both are given, the shorter one counts.
    * ``proxy_forwarded_address_header`` and its like are names of headers. Without
      the one with the address none is looked at; one without a name isn't either.
    * ``daphne_compat`` means no access log, unless one is asked for: Daphne's server
      has an ``action_logger`` instead.
    """
    settings = dict(keywords)
    handshake = settings.pop("websocket_handshake_timeout", None)
    if handshake is not None:
        connect = settings.get("websocket_connect_timeout", handshake)
        limits = [limit for limit in (handshake, connect) if limit > 0]
        settings["websocket_connect_timeout"] = min(limits, default=-1)
    headers = {
        name: settings.pop(keyword, None) for keyword, name in _PROXY_KEYWORDS.items()
    }
    if headers["proxy_headers_host"]:
        settings["proxy_headers"] = True
        settings.update((name, header or "") for name, header in headers.items())
    if settings.get("daphne_compat"):
        settings.setdefault("access_log", "")
    return settings


def keywords_of_settings(settings: Settings) -> dict[str, Any]:
    """
    Return the keywords with which Daphne's command line makes a server.

    What was given for settings which Daphne doesn't have comes in addition, by the
    names of these.

    Raises:
        SettingsError: The file of the access log can't be opened.
    """
    keywords = {name: settings.value(name) for name in _SAME}
    keywords["websocket_handshake_timeout"] = keywords["websocket_connect_timeout"]
    for keyword, name in _PROXY_KEYWORDS.items():
        believed = settings.proxy.proxy_headers and settings.value(name)
        keywords[keyword] = believed or None
    keywords["endpoints"] = endpoint_strings(settings.bind)
    done = {*_SAME, *_PROXY_KEYWORDS.values(), "proxy_headers", "application"}
    done.update(("bind", "port", "unix_socket", "fd", "endpoint"))
    keywords["action_logger"] = None
    if (
        settings.log.access_log_format == "daphne"
        and settings.log.access_log != "logger"
    ):
        keywords["action_logger"] = _access_log(settings.log)
        done.add("access_log")
    for name, definition in KNOWN_SETTINGS.items():
        value = settings.value(name)
        if name not in done and value != definition.default:
            keywords[name] = value
    return keywords


def _access_log(settings: LogSettings) -> AccessLogGenerator | None:
    target = settings.access_log_target
    if target is None:
        return None
    # As long as the process lives; each line is written at once.
    if target == "-":
        if isinstance(sys.stdout, TextIOWrapper):
            # Into a pipe or a file it would write some pages at a time.
            sys.stdout.reconfigure(line_buffering=True)
        return AccessLogGenerator(sys.stdout)
    try:
        return AccessLogGenerator(Path(target).open("a", 1, encoding="utf-8"))
    except (OSError, ValueError) as error:  # ValueError: a null character
        reason = getattr(error, "strerror", None) or error
        raise SettingsError(f"access_log: can't open {target!r}: {reason}") from error
