"""``daphne.cli``: our command line, as lenient as Daphne."""

from __future__ import annotations

from typing import ClassVar

from daphne_like import cli
from daphne_like.utils import import_by_path

from .server import Server

__all__ = ["CommandLineInterface"]


class CommandLineInterface(cli.CommandLineInterface):
    """See :class:`daphne_like.cli.CommandLineInterface`; ``daphne_compat`` is on."""

    server_class = Server
    setting_defaults: ClassVar[dict[str, object]] = {"daphne_compat": True}

    def load_asgi_app(self, asgi_app_path: str) -> object:
        """Return the object at ``module:attribute``; what the import raises is raised."""
        found: object = import_by_path(asgi_app_path)
        return found
