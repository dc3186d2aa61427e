"""
All settings together, and where their values come from.

Tests: ``tests/unit/test_settings.py``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from daphne_like.errors import SettingsError
from daphne_like.setting_kinds import Secret, did_you_mean
from daphne_like.settings.definition import (
    ENVIRONMENT_PREFIX,
    SETTINGS_BY_SECTION,
    Setting,
)
from daphne_like.settings.operation import (
    LifecycleSettings,
    LogSettings,
    OperationsSettings,
    ProcessSettings,
    WorkerSettings,
)
from daphne_like.settings.serving import (
    ApplicationSettings,
    BindSettings,
    HTTP2Settings,
    HTTPSettings,
    ProxySettings,
    TLSSettings,
    WebSocketSettings,
)

__all__ = ["KNOWN_SETTINGS", "SECTION_TITLES", "Settings", "read_toml"]

SECTION_TITLES: Mapping[str, str] = {
    "app": "Application: what is served, and how it starts and stops",
    "bind": "Listening: where connections are taken from",
    "tls": "TLS: certificates, and what is asked of clients",
    "http": "HTTP: deadlines, limits (0 = none) and headers",
    "http2": "HTTP/2: which versions of HTTP are spoken, and flow control",
    "websocket": "WebSockets: deadlines, limits (0 = none) and compression",
    "proxy": "Proxies: who is believed about clients",
    "log": "Logs: what is written where",
    "lifecycle": "Lifecycle: how the server runs and stops",
    "workers": "Workers: how many processes serve, and when one is replaced",
    "process": "Process: what the process is to the system",
    "operations": "Operations: what tells how the server is, and takes orders",
}
"""For each section a word, and after a colon what it is about."""

_SECTIONS: dict[str, type[Any]] = {
    "app": ApplicationSettings,
    "bind": BindSettings,
    "tls": TLSSettings,
    "http": HTTPSettings,
    "http2": HTTP2Settings,
    "websocket": WebSocketSettings,
    "proxy": ProxySettings,
    "log": LogSettings,
    "lifecycle": LifecycleSettings,
    "workers": WorkerSettings,
    "process": ProcessSettings,
    "operations": OperationsSettings,
}


SETTINGS_BY_SECTION.update(
    {
        section_class: tuple(
            Setting(
                name=item.name,
                section=section,
                default=item.default,
                **item.metadata["definition"],
            )
            for item in fields(section_class)
        )
        for section, section_class in _SECTIONS.items()
    }
)

KNOWN_SETTINGS: Mapping[str, Setting] = {
    definition.name: definition
    for definitions in SETTINGS_BY_SECTION.values()
    for definition in definitions
}
"""All settings by name, in the order of the sections."""

# What ``daphne_compat`` makes of settings which nobody gave.
_DAPHNE_DEFAULTS: Mapping[str, object] = {
    "request_buffer_size": 8192,
    "server_name": "daphne",
    "date_header": False,
    "forwarded_allow_ips": ("*",),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """
    All settings: one frozen section for each part of the server.

    Attributes:
        sources: Where each value that was given came from, by setting, in words
            for ``--show-config``. No part of equality.
    """

    app: ApplicationSettings = field(default_factory=ApplicationSettings)
    bind: BindSettings = field(default_factory=BindSettings)
    tls: TLSSettings = field(default_factory=TLSSettings)
    http: HTTPSettings = field(default_factory=HTTPSettings)
    http2: HTTP2Settings = field(default_factory=HTTP2Settings)
    websocket: WebSocketSettings = field(default_factory=WebSocketSettings)
    proxy: ProxySettings = field(default_factory=ProxySettings)
    log: LogSettings = field(default_factory=LogSettings)
    lifecycle: LifecycleSettings = field(default_factory=LifecycleSettings)
    workers: WorkerSettings = field(default_factory=WorkerSettings)
    process: ProcessSettings = field(default_factory=ProcessSettings)
    operations: OperationsSettings = field(default_factory=OperationsSettings)
    sources: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def of(cls, **overrides: object) -> Settings:
        """
        Return the defaults with some settings replaced, each by its flat name.

        ``Settings.of(port=0, timeout_keep_alive="2s")``

        Raises:
            SettingsError: A name is unknown, or a value wrong.
        """
        return cls._from_layers(_from_mapping(overrides, "keyword"))

    @classmethod
    def from_sources(
        cls,
        command_line: Mapping[str, object] | None = None,
        environ: Mapping[str, str] | None = None,
        file: Mapping[str, object] | None = None,
        file_name: str = "settings file",
    ) -> Settings:
        """
        Merge: command line before environment before file before default.

        Args:
            command_line: Values of the options which were given, by setting.
            environ: Environment; only ``DAPHNE_LIKE_*`` is looked at.
            file: Top level of a TOML file, see :func:`read_toml`.
            file_name: Its name, for messages.

        Raises:
            SettingsError: A name is unknown, or a value wrong; tells which source.
        """
        return cls._from_layers(
            _from_mapping(file or {}, file_name),
            _from_environment(environ or {}),
            _from_mapping(command_line or {}, "command line"),
        )

    @classmethod
    def _from_layers(cls, *layers: Iterator[tuple[str, object, str]]) -> Settings:
        sections: dict[str, dict[str, Any]] = {section: {} for section in _SECTIONS}
        sources = {}
        for layer in layers:
            for name, value, source in layer:
                sections[KNOWN_SETTINGS[name].section][name] = value
                sources[name] = source
        if sections["app"].get("daphne_compat"):
            for name, value in _DAPHNE_DEFAULTS.items():
                sections[KNOWN_SETTINGS[name].section].setdefault(name, value)
                sources.setdefault(name, "daphne_compat")
        made: dict[str, Any] = {
            section: _SECTIONS[section](**values)
            for section, values in sections.items()
        }
        return cls(**made, sources=sources)

    def value(self, name: str) -> Any:
        """Return the value of a setting by its flat name."""
        return getattr(getattr(self, KNOWN_SETTINGS[name].section), name)

    def to_toml(self) -> str:
        """
        Return all settings as a TOML file, each with its source as a comment.

        A setting without a value is a comment, so that the file can be read back.
        """
        lines: list[str] = []
        section = ""
        for name, definition in KNOWN_SETTINGS.items():
            if definition.section != section:
                section = definition.section
                lines += ["", f"# {SECTION_TITLES[section]}"]
            value = self.value(name)
            if value is None:
                assignment = f"# {name} is not set"
            elif isinstance(definition.kind, Secret):
                assignment = f"# {name} is not shown"
            else:
                assignment = f"{name} = {definition.kind.toml(value)}"
            # A file's name may have characters which a TOML comment can't.
            source = "".join(
                character if character.isprintable() else "?"
                for character in self.sources.get(name, "default")
            )
            lines.append(f"{assignment:<48} # {source}")
        return "\n".join(lines[1:]) + "\n"


# -- Sources ------------------------------------------------------------------


def _names_by_spelling() -> Mapping[str, str]:
    """Return the names users may have had in mind: other options' spellings too."""
    return {
        spelling.lstrip("-").replace("-", "_"): name
        for name, definition in KNOWN_SETTINGS.items()
        for spelling in (*definition.options, name)
    }


def _from_mapping(
    values: Mapping[str, object], source: str
) -> Iterator[tuple[str, object, str]]:
    """Yield name, value and source of keywords or of the keys of a file."""
    for name, value in values.items():
        definition = KNOWN_SETTINGS.get(name)
        if definition is None:
            hint = did_you_mean(name, _names_by_spelling())
            raise SettingsError(f"{source}: {name} is no setting{hint}")
        yield name, _read(definition.read, value, f"{source}: {name}"), source


def _from_environment(
    environ: Mapping[str, str],
) -> Iterator[tuple[str, object, str]]:
    """Yield name, value and source of our variables, as :func:`_from_mapping`."""
    known = {
        definition.environment_variable: definition
        for definition in KNOWN_SETTINGS.values()
    }
    # What platforms set; they say 1 where nobody asked for workers.
    concurrency = environ.get("WEB_CONCURRENCY", "1")
    if concurrency.strip() not in ("", "1"):
        source = "environment WEB_CONCURRENCY"
        workers = KNOWN_SETTINGS["workers"]
        yield "workers", _read(workers.read, concurrency, "WEB_CONCURRENCY"), source
    for variable, text in environ.items():
        if not variable.startswith(ENVIRONMENT_PREFIX):
            continue
        definition = known.get(variable)
        if definition is None:
            hint = did_you_mean(
                variable.removeprefix(ENVIRONMENT_PREFIX),
                {
                    spelling: KNOWN_SETTINGS[name].environment_variable
                    for spelling, name in _names_by_spelling().items()
                },
            )
            raise SettingsError(f"environment: {variable} is no setting{hint}")
        value = _read(definition.kind.read_environment, text, variable)
        yield definition.name, value, f"environment {variable}"


def _read(read: Callable[[Any], object], value: object, label: str) -> object:
    try:
        return read(value)
    except ValueError as error:
        raise SettingsError(f"{label} {error}") from None


def read_toml(path: str) -> dict[str, Any]:
    """
    Return the content of a TOML file.

    Raises:
        SettingsError: It can't be read, or is no TOML; tells the line.
    """
    from pathlib import Path

    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib

    try:
        return dict(tomllib.loads(Path(path).read_text("utf-8")))
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        # Both broken TOML and bytes which are no UTF-8.
        raise SettingsError(f"{path}: {error}") from None
