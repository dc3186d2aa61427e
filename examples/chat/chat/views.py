"""The pages."""

from __future__ import annotations

from asgiref.sync import async_to_sync
from django.contrib.auth import login
from django.contrib.auth.decorators import login_required
from django.contrib.auth.forms import UserCreationForm
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods

from chat.conversation import latest_messages, save_message, tell_room
from chat.forms import MessageForm, RoomForm
from chat.models import Room
from chat.summaries import QUIET, summaries

_pages_and_forms = require_http_methods(["GET", "HEAD", "POST"])


@_pages_and_forms
def sign_up(request: HttpRequest) -> HttpResponse:
    """Make an account, and log in with it."""
    form = UserCreationForm(request.POST or None)
    if form.is_valid():
        login(request, form.save())
        return redirect("rooms")
    return render(request, "registration/sign_up.html", {"form": form})


@_pages_and_forms
@login_required
def rooms(request: HttpRequest) -> HttpResponse:
    """List the rooms, and open new ones."""
    form = RoomForm(request.POST or None)
    if form.is_valid():
        return redirect(form.save())
    context = {"form": form, "rooms": Room.objects.all()}
    return render(request, "chat/rooms.html", context)


@_pages_and_forms
@login_required
def room(request: HttpRequest, pk: int) -> HttpResponse:
    """Show what was said in a room, and take messages, also without JavaScript."""
    found = get_object_or_404(Room, pk=pk)
    form = MessageForm(request.POST or None)
    if form.is_valid():
        event = save_message(found.pk, request.user, form)
        async_to_sync(tell_room)(found.pk, event)
        return redirect(found)
    context = {
        "form": form,
        "messages": latest_messages(found.pk),
        "room": found,
        "summary": summaries().get(found.pk, QUIET),
    }
    return render(request, "chat/room.html", context)
