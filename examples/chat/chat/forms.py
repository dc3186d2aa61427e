"""What people may enter."""

from __future__ import annotations

from django import forms

from chat.models import Message, Room


class RoomForm(forms.ModelForm):
    """A new room."""

    class Meta:
        model = Room
        fields = ("name",)
        labels = {"name": "Name of the new room"}


class MessageForm(forms.ModelForm):
    """A new message, whether it comes by a form or by a WebSocket."""

    class Meta:
        model = Message
        fields = ("text",)
        labels = {"text": "Message"}
        widgets = {"text": forms.TextInput(attrs={"autocomplete": "off"})}
