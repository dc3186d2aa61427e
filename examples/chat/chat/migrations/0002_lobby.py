"""A first room, so that there is a place to go."""

from __future__ import annotations

from django.apps.registry import Apps
from django.db import migrations
from django.db.backends.base.schema import BaseDatabaseSchemaEditor


def open_lobby(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    """Make the room."""
    rooms = apps.get_model("chat", "Room").objects.using(schema_editor.connection.alias)
    rooms.get_or_create(name="Lobby")


class Migration(migrations.Migration):
    """Makes the room; going back leaves it, and what was said in it."""

    dependencies = (("chat", "0001_tables"),)
    operations = (migrations.RunPython(open_lobby, migrations.RunPython.noop),)
