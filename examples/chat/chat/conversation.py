"""
What is said in a room: kept in the database, and told to the pages that are open.

Functions with ``async`` talk to the channel layer; the others to the database, and
coroutines call them by ``database_sync_to_async``.
"""

from __future__ import annotations

import hashlib
from typing import Any

from channels.layers import get_channel_layer
from django.contrib.auth.models import AbstractBaseUser

from chat.forms import MessageForm
from chat.models import Message

# So many messages are shown to those who come in, and to those who come back.
_MOST_MESSAGES = 100
_MOST_MISSED = 1000

# A database gives out numbers first and shows messages later: one with a lower number
# may appear after one with a higher number. So a little is sent a second time.
_OVERLAP = 20


def latest_messages(room_pk: int, after: int = 0) -> list[Message]:
    """
    Read the last messages of a room, the oldest of them first.

    Args:
        room_pk: The room.
        after: The last message that is known already; a few before it come again.
    """
    messages = Message.objects.filter(room=room_pk, pk__gt=after - _OVERLAP)
    newest_first = messages.select_related("author").order_by("-pk")
    most = _MOST_MISSED if after else _MOST_MESSAGES
    return list(newest_first[:most])[::-1]


def save_message(
    room_pk: int, author: AbstractBaseUser, form: MessageForm
) -> dict[str, Any]:
    """Keep what somebody has entered; return it as an event for :func:`tell_room`."""
    form.instance.room_id = room_pk
    form.instance.author = author
    message: Message = form.save()
    return message.event()


async def tell_room(room_pk: int, event: dict[str, Any]) -> None:
    """Send an event to all open pages of a room, also those of other processes."""
    message = {"type": "room.event", "event": event}
    await get_channel_layer().group_send(room_group(room_pk), message)


async def end_session(session_key: str) -> None:
    """Close the WebSockets of somebody who has logged out."""
    message = {"type": "session.ended"}
    await get_channel_layer().group_send(session_group(session_key), message)


def room_group(room_pk: int) -> str:
    """Name the group of all pages that show a room."""
    return f"room.{room_pk}"


def session_group(session_key: str) -> str:
    """Name the group of all pages of one login, without giving its key away."""
    return f"session.{hashlib.sha256(session_key.encode()).hexdigest()}"
