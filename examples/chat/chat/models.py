"""Rooms, and what was said in them."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.db import models
from django.urls import reverse


class Room(models.Model):
    """A place to talk; all who have signed up may come in."""

    name = models.CharField(max_length=60, unique=True)

    class Meta:
        ordering = ("name",)

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        """Return the address of its page."""
        return reverse("room", args=[self.pk])


class Message(models.Model):
    """What somebody has said in a room."""

    room = models.ForeignKey(Room, models.CASCADE, related_name="messages")
    author = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE)
    text = models.TextField(max_length=2000)
    sent_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("pk",)
        indexes = (models.Index(fields=["sent_at"], name="message_sent_at"),)

    def __str__(self) -> str:
        return f"{self.author}: {self.text}"

    def event(self) -> dict[str, Any]:
        """Return it as pages receive it, ready for JSON."""
        return {
            "type": "message",
            "id": self.pk,
            "author": self.author.get_username(),
            "text": self.text,
            "sent_at": self.sent_at.isoformat(),
        }
