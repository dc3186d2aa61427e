"""A task which counts, now and then, what was said in the last hour."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import NoReturn

from channels.db import database_sync_to_async
from django.conf import settings
from django.db.models import Count
from django.utils import timezone

from chat.conversation import tell_room
from chat.models import Message

QUIET = "Nothing was said in the last hour."

_logger = logging.getLogger(__name__)


def summaries() -> dict[int, str]:
    """Sum up each room in which something was said; the others are ``QUIET``."""
    hour_ago = timezone.now() - timedelta(hours=1)
    rooms = Message.objects.filter(sent_at__gte=hour_ago).order_by().values("room")
    counts = rooms.annotate(
        messages=Count("pk"), people=Count("author", distinct=True)
    ).values_list("room", "messages", "people")
    return {
        room: f"In the last hour: {_counted(messages, 'message', 'messages')} "
        f"from {_counted(people, 'person', 'people')}."
        for room, messages, people in counts
    }


async def keep_summaries() -> NoReturn:
    """Tell the pages of a room when its summary has changed."""
    told: dict[int, str] = {}
    while True:
        try:
            current = await database_sync_to_async(summaries)()
            for room in told.keys() | current.keys():
                text = current.get(room, QUIET)
                if text != told.get(room, QUIET):
                    await tell_room(room, {"type": "summary", "text": text})
            told = current
        except Exception:
            # The database may be away for a while; the next round may succeed.
            _logger.exception("No summaries this time")
        await asyncio.sleep(settings.SUMMARY_INTERVAL)


def _counted(number: int, singular: str, plural: str) -> str:
    return f"{number} {singular if number == 1 else plural}"
