"""
Write ``docs/settings.md`` from the settings themselves.

Run after each change of a setting: ``python docs/generate_settings.py``. A test in
``tests/unit/test_settings.py`` fails when the page is stale.
"""

from __future__ import annotations

from pathlib import Path

from daphne_like.setting_kinds import Flag, Several
from daphne_like.settings import (
    ENVIRONMENT_PREFIX,
    KNOWN_SETTINGS,
    SECTION_TITLES,
    Setting,
)

PAGE = Path(__file__).with_name("settings.md")

_INTRODUCTION = f"""\
<!-- Made by docs/generate_settings.py. Change daphne_like/settings/ instead. -->

# Settings

Each setting has one name, given in the headings below. It is

* a keyword of `Server(application, ...)`,
* a key of the TOML file named by `--config`; there are no tables in it,
* in capitals after `{ENVIRONMENT_PREFIX}`, an environment variable,
* with `-` for `_`, an option on the command line, where other spellings may be listed.

The command line wins over the environment, the environment over the file, the file over
the default. `daphne-like --show-config` prints what results, where each value comes
from, and is itself such a file. A name which is no setting is an error, also of a
variable beginning with `{ENVIRONMENT_PREFIX}`.

**Durations** are seconds, or text with one of the units `ms`, `s`, `m`, `h` and `d`:
`2.5`, `"500ms"`, `"5m"`. **Byte counts** are plain numbers. **Several values** are given
by repeating the option, by an array in the file, by a list or tuple in Python, and with
commas between them in the environment, where `\\,` is a comma within a value. **Yes or
no** is `true` or `false`; on the command line `--name` or `--no-name`.
"""


def render() -> str:
    """Return the page."""
    parts = [_INTRODUCTION]
    section = ""
    for definition in KNOWN_SETTINGS.values():
        if definition.section != section:
            section = definition.section
            title, _, about = SECTION_TITLES[section].partition(": ")
            parts.append(f"## {title}\n\n{_sentence(about)}\n")
        parts.append(_describe(definition))
    return "\n".join(parts)


def _describe(definition: Setting) -> str:
    facts = [
        _code(_invocation(definition)),
        _code(definition.environment_variable),
    ]
    if definition.default_text:
        facts.append(f"default {_code(definition.default_text)}")
    return (
        f"### {definition.name}\n\n{' · '.join(facts)}\n\n"
        f"{_sentence(definition.help)}\n"
    )


def _invocation(definition: Setting) -> str:
    if not definition.options:
        return "module:attribute"
    if isinstance(definition.kind, Flag):
        (option,) = definition.options
        return f"{option}, --no-{option.removeprefix('--')}"
    invocation = f"{', '.join(definition.options)} {definition.kind.metavar}"
    if isinstance(definition.kind, Several) and not definition.kind.separated:
        invocation += " ..."
    if definition.off_option is not None:
        invocation += f", {definition.off_option}"
    return invocation


def _sentence(text: str) -> str:
    # Markdown would take pairs of these as emphasis.
    text = text.replace("*", "\\*").replace(" _ ", " `_` ")
    return f"{text[0].upper()}{text[1:]}."


def _code(text: str) -> str:
    return f"`{text}`"


if __name__ == "__main__":
    PAGE.write_text(render(), "utf-8")
