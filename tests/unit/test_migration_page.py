"""docs/migration.md names no option of ours that doesn't exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from daphne_like.cli import CommandLineInterface

PAGE = (Path(__file__).parents[2] / "docs" / "migration.md").read_text("utf-8")
SERVERS = ("Daphne", "Uvicorn", "Hypercorn", "Granian", "Gunicorn")

_ROW = re.compile(
    r"^\| (?P<theirs>.+?) \| (?P<ours>.+?) \|(?P<note>.*) *\|$", re.MULTILINE
)
_CODE = re.compile(r"`(.+?)`")
_OPTION = re.compile(r"(?<![\w-])--?[a-z][\w-]*")


def rows(server: str) -> list[re.Match[str]]:
    """Find the rows of the tables about a server's options."""
    (section,) = re.findall(
        rf"^## From {server}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL
    )
    tables = section.partition("In Python:")[0]
    found = [row for row in _ROW.finditer(tables) if "---" not in row["theirs"]]
    return [row for row in found if row["ours"] != "daphne_like"]


def known_options() -> set[str]:
    """Tell what the command line takes."""
    actions = CommandLineInterface().parser._actions
    return {option for action in actions for option in action.option_strings}


@pytest.mark.parametrize("server", SERVERS)
def test_each_option_of_ours_exists(server: str) -> None:
    """A row says which of our options it is, or plainly that there is none."""
    known = known_options()
    for row in rows(server):
        if row["ours"] not in ("none", "not yet"):
            for option in _CODE.findall(row["ours"]):
                assert option in known, row[0]
            assert "" == re.sub(r"`.+?`(, )?", "", row["ours"]), row[0]


@pytest.mark.parametrize("server", SERVERS)
def test_no_option_has_two_rows(server: str) -> None:
    """Who looks for an option finds one answer."""
    names = [name for row in rows(server) for name in _CODE.findall(row["theirs"])]

    assert len(names) > 20
    assert sorted(set(names)) == sorted(names)


@pytest.mark.parametrize("server", SERVERS)
def test_what_is_the_same_has_the_same_name(server: str) -> None:
    """An option that is called the same is one of the options in its row."""
    for row in rows(server):
        if row["note"].strip().split(",")[0].split(";")[0] == "same":
            assert set(_CODE.findall(row["theirs"])) <= set(_CODE.findall(row["ours"]))


def test_commands_take_only_options_that_exist() -> None:
    """The commands which the page says to type are understood."""
    commands = re.findall(r"^daphne-like .*$", PAGE, re.MULTILINE)

    assert len(SERVERS) == len(commands)
    for command in commands:
        assert set(_OPTION.findall(command)) <= known_options()
