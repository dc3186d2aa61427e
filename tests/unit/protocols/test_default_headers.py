"""Tests of ``daphne_like.protocols.default_headers``."""

from __future__ import annotations

from twisted.internet.task import Clock

from daphne_like.protocols.default_headers import DefaultHeaders

# Sun, 06 Nov 1994 08:49:37 GMT is RFC 9110's own example of a date.
NOW = 784111777.25


def test_each_response_tells_the_server_and_the_date() -> None:
    """A client sees `server` and a date in the one form RFC 9110 wants sent."""
    defaults = DefaultHeaders(
        [(b"server", b"daphne-like")], date=True, wall_clock=lambda: NOW
    )

    assert defaults.fields == [
        (b"server", b"daphne-like"),
        (b"date", b"Sun, 06 Nov 1994 08:49:37 GMT"),
    ]
    assert defaults.block == (
        b"server: daphne-like\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
    )
    assert frozenset((b"server", b"date")) == defaults.names


def test_the_date_moves_when_it_is_refreshed() -> None:
    """The date is encoded once a second, not once a response."""
    clock = Clock()
    clock.rightNow = NOW
    defaults = DefaultHeaders([], date=True, wall_clock=clock.seconds)
    before = defaults.block
    clock.advance(1)

    assert before == defaults.block

    defaults.refresh()

    assert defaults.block == b"date: Sun, 06 Nov 1994 08:49:38 GMT\r\n"
    assert defaults.fields == [(b"date", b"Sun, 06 Nov 1994 08:49:38 GMT")]


def test_the_date_can_be_left_out() -> None:
    """`--no-date-header --no-server-name` adds nothing at all."""
    defaults = DefaultHeaders([], date=False, wall_clock=lambda: NOW)
    defaults.refresh()

    assert b"" == defaults.block
    assert [] == defaults.fields
    assert frozenset() == defaults.names


def test_extra_fields_are_sent_in_order_even_twice() -> None:
    """`--header` may be given several times, also with one name."""
    extras = [(b"x-a", b"1"), (b"x-b", b"2"), (b"x-a", b"3")]
    defaults = DefaultHeaders(extras, date=False, wall_clock=lambda: NOW)

    assert extras == defaults.fields
    assert b"x-a: 1\r\nx-b: 2\r\nx-a: 3\r\n" == defaults.block
    assert frozenset((b"x-a", b"x-b")) == defaults.names


def test_fields_which_the_application_sets_are_left_out() -> None:
    """An application's own `date` or `server` isn't doubled."""
    defaults = DefaultHeaders(
        [(b"server", b"s"), (b"x-a", b"1"), (b"x-a", b"2")],
        date=True,
        wall_clock=lambda: NOW,
    )

    assert defaults.block_without(frozenset((b"date",))) == (
        b"server: s\r\nx-a: 1\r\nx-a: 2\r\n"
    )
    assert defaults.block_without(frozenset((b"x-a", b"server"))) == (
        b"date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
    )
    assert defaults.block == defaults.block_without(frozenset())


def test_the_given_extras_are_not_changed() -> None:
    """Two listeners can share one list of extra fields."""
    extras = [(b"server", b"s")]
    for _ in range(2):
        DefaultHeaders(extras, date=True, wall_clock=lambda: NOW).refresh()

    assert [(b"server", b"s")] == extras
