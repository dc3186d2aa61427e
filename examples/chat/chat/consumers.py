"""The WebSocket of an open room."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any
from urllib.parse import parse_qs

from channels.db import database_sync_to_async
from channels.generic.websocket import AsyncWebsocketConsumer

import daphne_like
from chat.conversation import (
    latest_messages,
    room_group,
    save_message,
    session_group,
    tell_room,
)
from chat.forms import MessageForm
from chat.models import Room

# Close codes; the page knows them, too.
LOGGED_OUT = 4401
NO_SUCH_ROOM = 4404


class RoomConsumer(AsyncWebsocketConsumer):
    """
    Takes what one page says, and sends it what all say.

    A message from the page is the text that was entered. One to the page is an event
    in JSON: ``message``, ``summary``, ``refused`` or ``leave``.

    When the server stops, the page is asked to leave. What it has sent before it closes
    the WebSocket is still taken, and it comes back, perhaps to another server, with
    ``?after=`` the last message it knows. So nothing gets lost on either way. A page
    which doesn't leave is closed with 1001 after a while.
    """

    _farewell: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """Let in who is logged in, and tell what the page doesn't know yet."""
        room_pk = self.scope["url_route"]["kwargs"]["pk"]
        if not self.scope["user"].is_authenticated:
            await self._refuse(LOGGED_OUT)
        elif not await Room.objects.filter(pk=room_pk).aexists():
            await self._refuse(NO_SUCH_ROOM)
        else:
            await self._enter(room_pk)

    async def _refuse(self, code: int) -> None:
        # Browsers don't tell a page why a handshake was refused, only how a
        # WebSocket was closed.
        await self.accept()
        await self.close(code)

    async def _enter(self, room_pk: int) -> None:
        # Channels takes it out of these when it has gone. It joins before it reads,
        # so that no message is missed; the page drops those it gets twice.
        session_key = self.scope["session"].session_key
        self.groups = [room_group(room_pk), session_group(session_key)]
        for group in self.groups:
            await self.channel_layer.group_add(group, self.channel_name)
        await self.accept()
        # Servers of other kinds have no such notice.
        if "daphne_like.draining" in self.scope.get("extensions", {}):
            self._farewell = asyncio.create_task(self._ask_to_leave())
        missed = await database_sync_to_async(latest_messages)(room_pk, self._after())
        for message in missed:
            await self._send_event(message.event())

    async def _ask_to_leave(self) -> None:
        await daphne_like.draining()
        await self._send_event({"type": "leave"})

    async def disconnect(self, code: int) -> None:
        """Stop waiting for the end of the server."""
        if self._farewell is not None:
            self._farewell.cancel()

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        """Take what was entered."""
        form = MessageForm({"text": text_data})
        if form.is_valid():
            room_pk = self.scope["url_route"]["kwargs"]["pk"]
            user = self.scope["user"]
            event = await database_sync_to_async(save_message)(room_pk, user, form)
            await tell_room(room_pk, event)
        else:
            reason = " ".join(form.errors["text"])
            await self._send_event({"type": "refused", "reason": reason})

    async def room_event(self, message: dict[str, Any]) -> None:
        """Pass on what was told to the room."""
        await self._send_event(message["event"])

    async def session_ended(self, message: dict[str, Any]) -> None:
        """Let nobody read on who has logged out."""
        await self.close(LOGGED_OUT)

    async def _send_event(self, event: dict[str, Any]) -> None:
        # A page which has just gone is told nothing. What it said before, and then its
        # end, are still to come: Channels takes it out of its groups only at that.
        with contextlib.suppress(OSError):
            await self.send(json.dumps(event))

    def _after(self) -> int:
        query = parse_qs(self.scope["query_string"])
        text = query.get(b"after", [b""])[0]
        return int(text) if text.isdigit() and len(text) < 19 else 0
