"""``daphne.server``: our server, as lenient as Daphne."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from daphne_like import server

if TYPE_CHECKING:
    from collections.abc import Iterable

    from daphne_like.asgi.types import ASGIApplication

__all__ = ["Server"]


class Server(server.Server):
    """See :class:`daphne_like.server.Server`; ``daphne_compat`` is on."""

    def __init__(
        self,
        application: ASGIApplication,
        endpoints: Iterable[str] | None = None,
        **keywords: Any,
    ) -> None:
        if "settings" not in keywords:
            keywords.setdefault("daphne_compat", True)
        super().__init__(application, endpoints, **keywords)
