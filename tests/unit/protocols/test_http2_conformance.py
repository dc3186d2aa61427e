"""
HTTP/2 conformance in memory: each case of ``tests/support/http2_cases``.

Once with prior knowledge, where HTTP/1 finds the preface, and bytes that arrive one
by one; once with a connection that is HTTP/2 from its beginning, as ALPN makes it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from conformance_site import application
from http2_cases import CASES, Case
from http2_links import MemoryLink
from http_drivers import Streams
from stepped_loop import SteppedLoop

from daphne_like.protocols.connections import HTTPContext
from daphne_like.protocols.negotiation import HTTPFactory
from daphne_like.settings import HTTPSettings

Connect = Callable[[], MemoryLink]


@pytest.fixture(params=["prior-knowledge", "alpn"])
def connect(request: pytest.FixtureRequest, loop: SteppedLoop) -> Iterator[Connect]:
    """Serve the site of the cases, and connect to it."""
    streams = Streams(loop, application)
    context = HTTPContext(
        open_stream=streams.open_stream,
        open_websocket=streams.open_websocket,
        settings=HTTPSettings(),
        default_headers=streams.default_headers,
        wheel=streams.wheel,
        loop=loop,
        connections=set(),
    )
    links: list[MemoryLink] = []
    byte_by_byte = request.param == "prior-knowledge"
    name = None if byte_by_byte else b"h2"

    def connect() -> MemoryLink:
        link = MemoryLink(loop, streams.advance, byte_by_byte=byte_by_byte)
        protocol = HTTPFactory(context).build_negotiated(link.client, name)
        link.connect(protocol)
        links.append(link)
        return link

    yield connect
    for link in links:
        link.leave()
    assert not context.connections
    streams.end()


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
def test_conformance(connect: Connect, case: Case) -> None:
    """What the case says in its own words."""
    case.run(connect())


def test_each_case_has_a_name_of_its_own() -> None:
    """No case hides another one, and each says what a user sees."""
    names = [case.name for case in CASES]

    assert len(names) == len(set(names))
    assert all(case.check.__doc__ for case in CASES)
