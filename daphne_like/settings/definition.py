"""
What a setting is, and the base of the classes which define some.

Tests: ``tests/unit/test_settings.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from daphne_like.errors import SettingsError
from daphne_like.setting_kinds import Kind, Secret

__all__ = [
    "ENVIRONMENT_PREFIX",
    "SETTINGS_BY_SECTION",
    "Section",
    "Setting",
    "setting",
]

ENVIRONMENT_PREFIX = "DAPHNE_LIKE_"


@dataclass(frozen=True, slots=True)
class Setting:
    """
    One setting as the command line, the documentation and the readers see it.

    Attributes:
        name: Field, TOML key and keyword.
        section: Field of :class:`Settings` which holds it.
        default: The value when no source gives one.
        kind: How its values are read.
        help: Meaning, unit and reason of the default.
        given_options: Spellings on the command line where they differ from the
            name.
        off_option: Option which sets the empty text, or nothing.
    """

    name: str
    section: str
    default: Any
    kind: Kind
    help: str
    given_options: tuple[str, ...]
    off_option: str | None

    @property
    def options(self) -> tuple[str, ...]:
        """Spellings on the command line; none for the positional argument."""
        if self.name == "application":
            return ()
        return self.given_options or ("--" + self.name.replace("_", "-"),)

    @property
    def environment_variable(self) -> str:
        """The name of the variable which sets it."""
        return ENVIRONMENT_PREFIX + self.name.upper()

    @property
    def default_text(self) -> str:
        """The default as on a command line; empty when there is none."""
        return "" if self.default is None else self.kind.text(self.default)

    def read(self, value: object) -> Any:
        """
        Return the value in its final type; None stands for a default of None.

        Raises:
            ValueError: The value is wrong; the text is the reason.
        """
        if value is None and self.default is None:
            return None
        return self.kind.read(value)


def setting(
    default: object,
    kind: Kind,
    help: str,  # noqa: A002 - argparse's word
    *options: str,
    off_option: str | None = None,
) -> Any:
    """
    Define a field of a section class.

    Args:
        default: The value when no source gives one.
        kind: How values are read and checked.
        help: One sentence: the meaning with its unit, the reason of the default.
        options: Spellings on the command line, short ones first; without any,
            the field's name with dashes.
        off_option: Option which sets the empty text.
    """
    definition = {
        "kind": kind,
        "help": help,
        "given_options": options,
        "off_option": off_option,
    }
    return field(
        default=default,
        repr=not isinstance(kind, Secret),
        metadata={"definition": definition},
    )


class Section:
    """Checks and converts each field when a section is made."""

    __slots__ = ()

    def __post_init__(self) -> None:
        for definition in SETTINGS_BY_SECTION[type(self)]:
            value = getattr(self, definition.name)
            # Defaults are right, and checking them would cost imports.
            if value is definition.default:
                continue
            try:
                value = definition.read(value)
            except ValueError as error:
                raise SettingsError(f"{definition.name} {error}") from None
            object.__setattr__(self, definition.name, value)


SETTINGS_BY_SECTION: dict[type[Any], tuple[Setting, ...]] = {}
"""The settings of each class which defines some, filled by :mod:`.sources`."""
