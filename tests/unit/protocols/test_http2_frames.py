"""Frames on their way out, read by ``hyperframe`` as the oracle."""

from __future__ import annotations

import pytest
from hyperframe.frame import Frame, GoAwayFrame, RstStreamFrame, SettingsFrame
from hyperframe.frame import WindowUpdateFrame as Update

from daphne_like.protocols.http2_frames import (
    ErrorCode,
    Flag,
    FrameType,
    SettingCode,
    goaway_frame,
    head_frames,
    read_number,
    reset_frame,
    settings_frame,
    window_update_frame,
)


def parse(data: bytes) -> list[Frame]:
    """Read all frames."""
    frames = []
    while data:
        frame, length = Frame.parse_frame_header(memoryview(data[:9]))
        frame.parse_body(memoryview(data[9 : 9 + length]))
        frames.append(frame)
        data = data[9 + length :]
    return frames


def test_settings() -> None:
    """A client reads what we tell of ourselves."""
    (frame,) = parse(settings_frame([(SettingCode.MAX_CONCURRENT_STREAMS, 128)]))

    assert isinstance(frame, SettingsFrame)
    assert {3: 128} == frame.settings


def test_small_frames() -> None:
    """Numbers stand where RFC 9113 section 6 wants them."""
    update, reset, goaway = parse(
        window_update_frame(3, 70_000)
        + reset_frame(5, ErrorCode.CANCEL)
        + goaway_frame(7, ErrorCode.ENHANCE_YOUR_CALM, "why")
    )

    assert isinstance(update, Update)
    assert (3, 70_000) == (update.stream_id, update.window_increment)
    assert isinstance(reset, RstStreamFrame)
    assert (5, 8) == (reset.stream_id, reset.error_code)
    assert isinstance(goaway, GoAwayFrame)
    assert (7, 11, b"why") == (
        goaway.last_stream_id,
        goaway.error_code,
        goaway.additional_data,
    )


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 200, 201, 1000])
def test_heads_are_cut_into_frames(size: int) -> None:
    """Section 6.10: what doesn't fit follows at once."""
    block = bytes(range(250)) * 4
    data = head_frames(FrameType.HEADERS, 3, block[:size], Flag.END_STREAM, 100)

    first, *others = parse(data)

    assert "END_STREAM" in first.flags
    assert all("END_STREAM" not in other.flags for other in others)
    ends = ["END_HEADERS" in frame.flags for frame in (first, *others)]
    assert [False] * len(others) + [True] == ends
    assert all(3 == frame.stream_id for frame in (first, *others))
    assert block[:size] == b"".join(frame.data for frame in (first, *others))  # type: ignore[attr-defined]


def test_the_reserved_bit_is_ignored() -> None:
    """Section 4.1: it has no meaning."""
    assert 5 == read_number(b"\x80\x00\x00\x05")
