"""The example project on PostgreSQL and Redis, with two servers for one site."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from chat_site import Member, serve_chat
from server_process import Serve
from services import chat_on_services


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Make a site on both services."""
    with chat_on_services(tmp_path) as environment:
        yield environment


def test_two_servers_are_one_site(serve: Serve, environment: dict[str, str]) -> None:
    """
    Who is connected to one server hears who is connected to the other one, and the
    background tasks sum up what was said at both.
    """
    one, other = (serve_chat(serve, environment) for _ in range(2))
    with (
        closing(Member(one.url)) as ann,
        closing(Member(other.url)) as ben,
        ann.in_room() as anns,
        ben.in_room() as bens,
    ):
        anns.say("from one")
        assert ann.name == bens.hear("from one")["author"]
        bens.say("from the other")
        assert ben.name == anns.hear("from the other")["author"]
        anns.hear("In the last hour: 2 messages from 2 people.")

    for server in (one, other):
        assert 0 == server.stop()
        assert "ERROR" not in server.log
    assert not list(Path(environment["CHAT_DATA"]).glob("*.sqlite3"))
