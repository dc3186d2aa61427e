"""What a stream asks of the protocol that carries it."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Sequence

from stepped_loop import SteppedLoop

from daphne_like.protocols.interfaces import (
    Header,
    RequestHead,
    ResponseHead,
    StreamSender,
    TunnelUser,
)

__all__ = ["RecordingSender"]


class RecordingSender(StreamSender):
    """
    Records what a stream sends, and holds it to the contract of its sender.

    Attributes:
        calls: What was asked for, in order, as a name and what belongs to it.
        body: The response's body so far.
        consumed_bytes: Of the request's body, told to have been taken.
        is_over: Nothing may be sent any more: the end has been sent, or the
            stream was told that its client has gone.
        holds_files: Files wait, until :meth:`release_file`.
        file_error: What sending a file raises.
        pushes: Whether the client takes pushes.
    """

    def __init__(self, loop: SteppedLoop) -> None:
        self._loop = loop
        self._draining = loop.create_future()
        self._file = loop.create_future()
        self._began = False
        self.congested = False
        self.pushes = False
        self.calls: list[tuple[object, ...]] = []
        self.body = b""
        self.consumed_bytes = 0
        self.is_over = False
        self.holds_files = False
        self.file_error: BaseException | None = None

    # -- The test ------------------------------------------------------------

    def congest(self) -> None:
        """Let the client take nothing."""
        self.congested = True
        self._draining = self._loop.create_future()

    def drain(self) -> None:
        """Let the client take everything."""
        self.congested = False
        self._draining.set_result(None)
        self._loop.settle()

    def release_file(self) -> None:
        """Let the file that waits go out."""
        self._file.set_result(None)
        self._loop.settle()

    # -- The stream (StreamSender) -------------------------------------------

    def drained(self) -> Awaitable[None]:
        """Wait for :meth:`drain`."""
        assert self.congested
        return self._draining

    def send_continue(self) -> None:
        """Record; before the response only."""
        assert not self._began
        self._record("continue")

    @property
    def can_push(self) -> bool:
        """Whether the client takes pushes."""
        return self.pushes

    def push(self, head: RequestHead) -> None:
        """Record a request that is to be answered, too."""
        assert not self.is_over
        self.calls.append(("push", head.target, head.headers))

    def send_informational(self, status: int, headers: Sequence[Header]) -> None:
        """Record; before the response only."""
        assert not self._began
        self._record("informational", status, *headers)

    def send_response(self, response: ResponseHead, body: bytes, end: bool) -> None:
        """Record; once."""
        assert not self._began
        assert not (response.bodiless and body)
        self._began = True
        self._record("response", response.status, response.content_length, body, end)
        self._add(body, end)

    def send_body(self, body: bytes, end: bool) -> None:
        """Record; between the response and its end."""
        assert self._began
        self._record("body", body, end)
        self._add(body, end)

    def send_trailers(self, trailers: Sequence[Header]) -> None:
        """Record; it is the end."""
        assert self._began
        self._record("trailers", *trailers)
        self.is_over = True

    async def send_file(self, file: int, offset: int, count: int) -> None:
        """Record; read the file as a protocol without a kernel would."""
        assert self._began
        assert count > 0
        self._record("file", offset, count)
        if self.holds_files:
            await self._file
        if self.file_error is not None:
            raise self.file_error
        if not self.is_over:
            self.body += os.pread(file, count, offset)

    def body_consumed(self, count: int) -> None:
        """Count."""
        assert count > 0
        self.consumed_bytes += count

    def abort(self) -> None:
        """Record; nothing may follow."""
        assert self._began
        self._record("abort")
        self.is_over = True

    def open_tunnel(self, fields: Sequence[Header], user: TunnelUser) -> None:
        """Record; nothing may follow."""
        self._record("open_tunnel", [*fields])
        self.is_over = True

    def _record(self, *call: object) -> None:
        assert not self.is_over, call
        assert type(self.congested) is bool
        self.calls.append(call)

    def _add(self, body: bytes, end: bool) -> None:
        assert type(body) is bytes
        self.body += body
        self.is_over = end
