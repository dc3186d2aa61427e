"""What is kept of the chat."""

from __future__ import annotations

from django.db import models


class Line(models.Model):  # type: ignore[misc] # Django is untyped
    """Something that somebody has said."""

    text = models.TextField()

    def __str__(self) -> str:
        """Tell what was said."""
        return str(self.text)
