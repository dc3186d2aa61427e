"""``daphne.cli``: our command line, as lenient as Daphne."""

from __future__ import annotations

from typing import ClassVar

from daphne_like import cli

from .server import Server

__all__ = ["CommandLineInterface"]


class CommandLineInterface(cli.CommandLineInterface):
    """See :class:`daphne_like.cli.CommandLineInterface`; ``daphne_compat`` is on."""

    server_class = Server
    setting_defaults: ClassVar[dict[str, object]] = {"daphne_compat": True}
