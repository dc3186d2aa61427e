"""
The kinds of values settings have: how each is read, checked and written.

A kind reads text as it stands on the command line, and Python and TOML values as
well, so that every source of a setting follows one rule. Reading checks the value
and raises ``ValueError`` with a reason which reads on from the setting's name, as in
"must be from 0 to 65535, not 70000".

Importing this module must stay cheap: ``ipaddress`` and ``logging`` are loaded when a
value needs them.

Tests: ``tests/unit/test_setting_kinds.py``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

__all__ = [
    "Choice",
    "FileMode",
    "Flag",
    "Integer",
    "Kind",
    "Seconds",
    "Secret",
    "Several",
    "Text",
    "did_you_mean",
    "header",
    "header_name",
    "header_value",
    "host_and_port",
    "log_format",
    "statsd_prefix",
    "trusted_peer",
]

# The control characters of ASCII and Latin-1; a tab is one of them.
_CONTROL = r"[\x00-\x1f\x7f-\x9f]"
# What no encoding of a file or header can hold: halves of surrogate pairs, which is
# how Python stands for bytes of argv and environ that are not UTF-8.
_SURROGATE = r"[\ud800-\udfff]"
# RFC 9110 section 5.6.2: token = 1*tchar
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
# A comma which no backslash precedes.
_COMMA = r"(?<!\\),"

# Looked up in this order: "ms" ends in "s".
_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
# About 30 years: much longer waits overflow the timers of event loops.
_LONGEST_SECONDS = 1_000_000_000
# listen(2) takes a C int.
_LARGEST_INTEGER = 2**31 - 1

# A response with one of these in every head would break the framing, which is the
# server's own (RFC 9112 sections 6 and 9).
_FRAMING_HEADERS = frozenset(
    {"connection", "content-length", "transfer-encoding", "upgrade"}
)


def did_you_mean(word: str, known: Iterable[str] | Mapping[str, str]) -> str:
    """
    Return the end of an error message which suggests the nearest known word.

    Args:
        word: What the user wrote.
        known: The words to compare with; a mapping tells for each word what is
            suggested instead of it.

    Returns:
        ``"; did you mean ...?"``, or an empty string when nothing is near.
    """
    # Only needed once something is wrong.
    from difflib import get_close_matches

    if not isinstance(known, Mapping):
        known = {candidate: candidate for candidate in known}
    suggestions = {candidate.lower(): known[candidate] for candidate in known}
    nearest = get_close_matches(word.lower(), suggestions, n=1)
    return f"; did you mean {suggestions[nearest[0]]}?" if nearest else ""


# -- Kinds --------------------------------------------------------------------


class Kind:
    """
    How the values of a setting are read, checked and written.

    Attributes:
        metavar: Stands for the value in ``--help``.
    """

    __slots__ = ("metavar",)

    def __init__(self, metavar: str) -> None:
        self.metavar = metavar

    def read(self, value: object) -> Any:
        """
        Return the value in its final type; text is read as on a command line.

        Reading what was read before returns it unchanged.

        Raises:
            ValueError: The value is not of this kind; the text is the reason.
        """
        raise NotImplementedError

    def read_environment(self, text: str) -> Any:
        """
        Return the value of an environment variable.

        Raises:
            ValueError: As :meth:`read`.
        """
        return self.read(text)

    def text(self, value: Any) -> str:
        """Return a value as it is written on a command line."""
        return str(value)

    def toml(self, value: Any) -> str:
        """Return a value as it is written in TOML, which :meth:`read` takes back."""
        return _quoted(self.text(value))


class Flag(Kind):
    """Yes or no; ``--name`` and ``--no-name`` on the command line."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("BOOL")

    def read(self, value: object) -> bool:
        """Return a truth value; text may be true, yes, on, 1 or the opposites."""
        if isinstance(value, bool):
            return value
        word = value.strip().lower() if isinstance(value, str) else None
        if word in ("true", "yes", "on", "1"):
            return True
        if word in ("false", "no", "off", "0"):
            return False
        raise ValueError(f"must be true or false, not {value!r}")

    def text(self, value: bool) -> str:
        """Return the word TOML has too."""
        return "true" if value else "false"

    def toml(self, value: bool) -> str:
        """Return it without quotes."""
        return self.text(value)


class Integer(Kind):
    """A whole number in a range."""

    __slots__ = ("_highest", "_lowest")

    def __init__(
        self, lowest: int = 0, highest: int = _LARGEST_INTEGER, *, metavar: str = "N"
    ) -> None:
        super().__init__(metavar)
        self._lowest = lowest
        self._highest = highest

    def read(self, value: object) -> int:
        """Return a number in the range; ``ValueError`` otherwise."""
        number = _integer(value, base=10)
        if number is None:
            raise ValueError(f"must be a whole number, not {value!r}")
        if not self._lowest <= number <= self._highest:
            raise ValueError(
                f"must be from {self._lowest} to {self._highest}, not {number}"
            )
        return number

    def toml(self, value: int) -> str:
        """Return it without quotes."""
        return self.text(value)


class WorkerCount(Integer):
    """A number of processes; ``auto`` is one for each processor there is for us."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(1, 1024, metavar="N|auto")

    def read(self, value: object) -> int:
        """Return a number, or raise ``ValueError``."""
        return super().read(_usable_processors() if value == "auto" else value)


class Seconds(Kind):
    """
    A duration: a number of seconds, or text with a unit such as ``500ms``.

    Args:
        minus_one: Whether -1 may stand for 0, as it does in Daphne.
    """

    __slots__ = ("_minus_one",)

    def __init__(self, *, minus_one: bool = False) -> None:
        super().__init__("SECONDS")
        self._minus_one = minus_one

    def read(self, value: object) -> float:
        """Return seconds, a finite float, or raise ``ValueError``."""
        number, unit = value, 1.0
        if isinstance(number, str):
            number = number.strip()
            for suffix, seconds in _UNIT_SECONDS.items():
                if number.endswith(suffix):
                    number, unit = number.removesuffix(suffix), seconds
                    break
            try:
                number = float(number)
            except ValueError:
                number = None
        if not isinstance(number, int | float) or isinstance(number, bool):
            raise ValueError(  # noqa: TRY004
                f"must be seconds, or a number with ms, s, m, h or d, not {value!r}"
            )
        if number == -1 and self._minus_one:
            number = 0.0
        # Also false for nan. An int too long for a float is compared exactly.
        if not 0 <= number <= _LONGEST_SECONDS / unit:
            raise ValueError(
                f"must be from 0 to {_LONGEST_SECONDS} seconds, not {value}"
            )
        return number * unit

    def text(self, value: float) -> str:
        """Return seconds, whole ones without a point."""
        return repr(value).removesuffix(".0")

    def toml(self, value: float) -> str:
        """Return it without quotes, as a float."""
        return repr(value)


class FileMode(Kind):
    """
    Permission bits of a file, as octal text; in Python also as a number.

    A number in a TOML file or on a command line can't be told from a decimal one
    that was meant as octal, hence text is always octal and TOML gets text.
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__("MODE")

    def read(self, value: object) -> int:
        """Return the bits; ``ValueError`` beyond 0o777."""
        mode = _integer(value, base=8)
        if mode is None or not 0 <= mode <= 0o777:
            raise ValueError(f"must be octal digits from 0 to 777, not {value!r}")
        return mode

    def text(self, value: int) -> str:
        """Return three octal digits."""
        return f"{value:03o}"


class Text(Kind):
    """
    Text, which by default is neither empty nor has control characters.

    Args:
        metavar: Stands for the value in ``--help``.
        empty: Whether the empty text is a value.
        controls: Whether control characters are allowed.
        check: Returns the text, which isn't empty, in its final form, or raises
            ``ValueError``.
    """

    __slots__ = ("_check", "_controls", "_empty")

    def __init__(
        self,
        metavar: str,
        *,
        empty: bool = False,
        controls: bool = False,
        check: Callable[[str], str] | None = None,
    ) -> None:
        super().__init__(metavar)
        self._empty = empty
        self._controls = controls
        self._check = check

    def read(self, value: object) -> str:
        """Return the checked text, also of a path object, or ``ValueError``."""
        text = os.fspath(value) if isinstance(value, os.PathLike) else value
        if not isinstance(text, str):
            raise ValueError(f"must be text, not {value!r}")  # noqa: TRY004
        if not text and not self._empty:
            raise ValueError("must not be empty")
        if not self._controls and re.search(_CONTROL, text):
            raise ValueError(f"must not have control characters: {text!r}")
        if re.search(_SURROGATE, text):
            raise ValueError(f"must be valid Unicode: {text!r}")
        return self._check(text) if self._check is not None and text else text


class Secret(Text):
    """Text which is never shown."""

    __slots__ = ()


class Choice(Kind):
    """
    One of a few words, in upper or lower case.

    Args:
        choices: The words.
        aliases: Numbers, and what they stand for.
    """

    __slots__ = ("_aliases", "choices")

    def __init__(self, *choices: str, aliases: Mapping[int, str] | None = None) -> None:
        super().__init__("{" + ",".join(choices) + "}")
        self.choices = choices
        self._aliases = aliases or {}

    def read(self, value: object) -> str:
        """Return the word in lower case; ``ValueError`` names the choices."""
        word = value.strip().lower() if isinstance(value, str) else ""
        number = _integer(value, base=10)
        if number is not None and number in self._aliases:
            return self._aliases[number]
        if word not in self.choices:
            allowed = ", ".join(self.choices[:-1]) + f" or {self.choices[-1]}"
            hint = did_you_mean(word, self.choices)
            raise ValueError(f"must be {allowed}, not {value!r}{hint}")
        return word


class Several(Kind):
    r"""
    Any number of items: a repeatable option, an array in TOML, a tuple in Python.

    A single item need not be put into a list. In an environment variable commas
    stand between the items; an item's own comma is written ``\,``.

    Args:
        item: The kind of each item.
        separated: The option is given once, with commas between its items, as in
            an environment variable.
    """

    __slots__ = ("item", "separated")

    def __init__(self, item: Kind, *, separated: bool = False) -> None:
        super().__init__(item.metavar)
        self.item = item
        self.separated = separated

    def read(self, value: object) -> tuple[Any, ...]:
        """Return a tuple of items; ``ValueError`` when one is wrong."""
        if isinstance(value, str) and self.separated:
            return self.read_environment(value)
        items = value if isinstance(value, list | tuple) else (value,)
        return tuple(self.item.read(item) for item in items)

    def read_environment(self, text: str) -> tuple[Any, ...]:
        """Return the items between the commas, without empty ones."""
        items = (item.strip().replace("\\,", ",") for item in re.split(_COMMA, text))
        return tuple(self.item.read(item) for item in items if item)

    def text(self, value: tuple[Any, ...]) -> str:
        """Return all items as in an environment variable."""
        return ",".join(self.item.text(item).replace(",", "\\,") for item in value)

    def toml(self, value: tuple[Any, ...]) -> str:
        """Return an array."""
        return "[" + ", ".join(self.item.toml(item) for item in value) + "]"


def _usable_processors() -> int:
    """Count the processors that this process may use, as far as the system tells."""
    import os
    from pathlib import Path

    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    # A container's share of time, which looks like fewer processors.
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text("ascii").split()
        count = min(count, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass  # there is no such limit
    return count


def _integer(value: object, base: int) -> int | None:
    """Return a number, or what text says in that base; None when it is neither."""
    if isinstance(value, str):
        try:
            return int(value.strip(), base)
        except ValueError:
            return None
    # bool is an int to Python, but port=True is a mistake.
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _quoted(text: str) -> str:
    """Return a TOML basic string; control characters have to be escaped in it."""
    text = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + re.sub(_CONTROL, lambda c: f"\\u{ord(c.group()):04x}", text) + '"'


# -- Checks of texts ----------------------------------------------------------


def header_name(text: str) -> str:
    """Return a header's name; ``ValueError`` when it is no token."""
    if not re.fullmatch(_TOKEN, text):
        raise ValueError(f"must be a header name, not {text!r}")
    return text


def header_value(text: str) -> str:
    """
    Return a header's value without the white space around it.

    Raises:
        ValueError: It has characters which no header can hold.

    Source: RFC 9110 section 5.5. Text has no control characters already.
    """
    text = text.strip(" \t")
    if any(ord(character) > 0xFF for character in text):
        raise ValueError(f"must be Latin-1, as headers are: {text!r}")
    return text


def header(text: str) -> str:
    """Return NAME:VALUE without white space around the value, or ``ValueError``."""
    name, colon, value = text.partition(":")
    if not colon or not re.fullmatch(_TOKEN, name):
        raise ValueError(f"must be NAME:VALUE, not {text!r}")
    if name.lower() in _FRAMING_HEADERS:
        raise ValueError(f"must not be {name}, which the server itself decides")
    return f"{name}:{header_value(value)}"


def host_and_port(text: str) -> str:
    """Return PORT or HOST:PORT, an IPv6 address in brackets, or ``ValueError``."""
    match = re.fullmatch(r"(?:(\[[0-9A-Fa-f:.]+\]|[^:\[\]/\s]+):)?([0-9]{1,5})", text)
    if match is None or int(match[2]) > 65535:
        raise ValueError(f"must be PORT or HOST:PORT, not {text!r}")
    return text


def statsd_prefix(text: str) -> str:
    """
    Return a prefix of names without points at its end.

    Raises:
        ValueError: It can't be part of a name.

    Source: the statsd protocol, whose lines are ``name:value|type|@rate|#tags``.
    """
    if not re.fullmatch(r"[!-~]+", text) or set(":|@#") & set(text):
        raise ValueError(f"must be ASCII without spaces, :, |, @ and #, not {text!r}")
    return text.rstrip(".")


def trusted_peer(text: str) -> str:
    """Return an address, a network, ``unix`` or ``*``, or raise ``ValueError``."""
    # The usual ones need no ipaddress, which takes milliseconds to import.
    if text in ("*", "unix", "127.0.0.1", "::1"):
        return text
    import ipaddress

    try:
        ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(
            f"must be IP addresses, networks, unix or *: {error}"
        ) from None
    return text


def log_format(text: str) -> str:
    """Return a format :mod:`logging` accepts, or raise ``ValueError``."""
    import logging

    try:
        logging.Formatter(text)
    except ValueError as error:
        raise ValueError(f"must be a %-style format of logging: {error}") from None
    return text
