"""Tests of ``daphne_like.protocols.websocket_masking``."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest
from autobahn.websocket.xormasker import create_xor_masker
from hypothesis import example, given, settings
from hypothesis import strategies as st

from daphne_like.protocols import websocket_masking
from daphne_like.protocols.websocket_masking import StreamMasker, Unmask, unmasker

masks = st.binary(min_size=4, max_size=4)
# Around the sizes at which another way is taken, and those of words and vectors.
payloads = st.binary(max_size=80) | st.builds(
    lambda size, seed: (seed * (size // len(seed) + 1))[:size],
    st.integers(1000, 1050) | st.integers(0, 5000),
    st.binary(min_size=1, max_size=50),
)


def byte_wise(payload: bytes, mask: bytes) -> bytes:
    """Do what RFC 6455 section 5.3 says, word for word."""
    return bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


def all_ways() -> Iterator[tuple[str, Unmask]]:
    """Tell each way of unmasking that this environment has."""
    yield "chosen", unmasker()
    yield "integers", websocket_masking._unmask_by_integers
    native = websocket_masking._autobahn_masker()
    if native is not None:
        yield "autobahn", websocket_masking._unmask_by(native)
    yield "autobahn in Python", websocket_masking._unmask_by(create_xor_masker)


WAYS = dict(all_ways())


@pytest.fixture(params=WAYS)
def unmask(request: pytest.FixtureRequest) -> Unmask:
    """One of the ways to unmask."""
    return WAYS[request.param]


@pytest.mark.parametrize("size", [*range(20), 125, 126, *range(1020, 1030), 70_000])
def test_each_way_does_what_the_rfc_says(unmask: Unmask, size: int) -> None:
    """A message of any size arrives as it was sent, whatever is installed."""
    payload, mask = (bytes(range(256)) * (size // 256 + 1))[:size], b"\x00\x5a\xff\x81"

    masked = unmask(payload, mask)

    assert bytes is type(masked)
    assert byte_wise(payload, mask) == masked
    assert payload == unmask(masked, mask)


@given(payload=payloads, mask=masks)
@example(payload=b"", mask=b"\0\0\0\0")
@example(payload=bytes(1023), mask=b"\xff\0\0\xff")
@example(payload=bytes(1024), mask=b"\xff\0\0\xff")
def test_all_ways_agree(payload: bytes, mask: bytes) -> None:
    """It makes no difference to an application which masker is there."""
    expected = byte_wise(payload, mask)

    for name, unmask in WAYS.items():
        assert expected == unmask(payload, mask), name
        assert payload == unmask(expected, mask), name


@given(payload=payloads, mask=masks, data=st.data())
@settings(max_examples=60)
def test_pieces_are_unmasked_as_the_whole_is(
    payload: bytes, mask: bytes, data: st.DataObject
) -> None:
    """A payload arrives as it was sent, however the network cuts it."""
    cuts = data.draw(st.lists(st.integers(0, len(payload)), max_size=8).map(sorted))
    masker = StreamMasker(mask)
    restored = b""
    for start, end in zip([0, *cuts], [*cuts, len(payload)], strict=True):
        restored += masker.process(payload[start:end])

        assert end == masker.pointer()

    assert byte_wise(payload, mask) == restored


@pytest.fixture
def choose_anew() -> Iterator[None]:
    """Let the choice be made again, in the test and after it."""
    unmasker.cache_clear()
    yield
    unmasker.cache_clear()


@pytest.mark.usefixtures("choose_anew")
def test_the_speedups_of_websockets_are_taken_when_they_are_there() -> None:
    """Who installs the extra "speed" gets the masker in C."""
    speedups = pytest.importorskip("websockets.speedups")

    assert speedups.apply_mask is unmasker()


@pytest.mark.usefixtures("choose_anew")
@pytest.mark.parametrize("native", [True, False])
def test_without_the_speedups_there_is_always_a_way(
    monkeypatch: pytest.MonkeyPatch, native: bool
) -> None:
    """WebSockets work without any optional package, and without compiled code."""
    from autobahn import websocket

    monkeypatch.setitem(sys.modules, "websockets.speedups", None)
    monkeypatch.setattr(websocket, "USES_NVX", native, raising=False)
    payload = bytes(range(256)) * 5

    unmask = unmasker()

    assert (unmask is websocket_masking._unmask_by_integers) is not native
    assert byte_wise(payload, b"mask") == unmask(payload, b"mask")
