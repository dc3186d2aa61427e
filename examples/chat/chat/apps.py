"""What Django is to know of this application."""

from __future__ import annotations

from django.apps import AppConfig


class ChatConfig(AppConfig):
    """Connects what is told when somebody logs out."""

    name = "chat"

    def ready(self) -> None:
        """Register the receivers of signals."""
        from chat import security  # noqa: F401 - importing it does that
