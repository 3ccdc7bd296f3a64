"""What a caller holds of many requests: completions as they come.

`Completions` is what the caller holds; the feeder and the engine hold only the `Stream` behind it, so that a
stream which the caller dropped is collected and stops its feeder.
"""

import weakref
from collections.abc import AsyncIterable, Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import attrs

from kling_async.protocol.errors import KlingError
from kling_async.protocol.models import Task, VideoRequest

if TYPE_CHECKING:
    from kling_async.feeding import Stream

__all__ = ["Completion", "Completions", "Requests"]

Requests = (
    Iterable[VideoRequest | tuple[str, VideoRequest]] | AsyncIterable[VideoRequest | tuple[str, VideoRequest]]
)
"""What a stream takes: requests, or pairs of a key and a request."""


@attrs.frozen
class Completion:
    """One request of a stream that came to its end.

    Attributes:
        index: its place among the requests, from 0.
        key: the caller's name for it; where none was given, made of its picture's name.
        request: the request.
        task: the last snapshot.
        error: why there is no video, or no file; None: all went well.
        path: the saved file, with ``save_to``.
        resumed: known as finished from an earlier run; no call was made.
    """

    index: int
    key: str
    request: VideoRequest
    task: Task
    error: KlingError | None = None
    path: Path | None = None
    resumed: bool = False

    @property
    def ok(self) -> bool:
        """Whether there is a video, and the file if one was wanted."""
        return self.error is None

    def result(self) -> Task:
        """The task, or its error raised."""
        if self.error is not None:
            raise self.error
        return self.task


class Completions:
    """The completions of a stream of requests: an async iterator and an async context manager.

    Each request yields exactly one `Completion`; a failed task is a value. An exception out of the stream
    means that it could not go on: the requests' own iterable raised, or the account cannot pay or log in;
    it comes once, after everything in flight was delivered.

    Requests are taken one by one as slots are free. Completions nobody reads are bounded, at twice the
    limit and at least 16: beyond it nothing new is submitted, while what is paid for is polled. Leaving
    early (``break``, an exception, `aclose`) stops taking requests; submitted tasks go on and are in
    ``client.tasks()``. After `stop` the rest is read to its end.
    """

    def __init__(self, start: Callable[[], "Stream"]) -> None:
        self._start = start
        self._stream: Stream | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Completion:
        """The next completion.

        Raises:
            StopAsyncIteration: every request has come to its end, or the stream was closed.
            Exception: what ended the taking of requests, once, after all that was in flight.
        """
        if self._closed:
            raise StopAsyncIteration
        stream = self._begun()
        while (completion := stream.take()) is None:
            if stream.closed or stream.exhausted:
                failure, stream.failure = stream.failure, None
                await self.aclose()
                raise failure or StopAsyncIteration
            stream.news.clear()
            await stream.news.wait()
        return completion

    def stop(self) -> None:
        """Submit nothing more: what waits is withdrawn, and what is on its way is still delivered.

        Of a list or tuple the rest is taken too: what an earlier run made of it is delivered, and what is new
        ends as withdrawn; of any other iterable nothing more is taken. What somebody else wants too goes on.
        A POST that is out is not repeated, whatever comes of it.
        """
        if self._stream is None:
            self._closed = True
        else:
            self._stream.stop()

    async def aclose(self) -> None:
        """Stop taking requests; tasks go on. Unread completions are dropped."""
        self._closed = True
        if self._stream is not None:
            self._stream.close()

    def _begun(self) -> "Stream":
        if self._stream is None:
            stream = self._stream = self._start()
            weakref.finalize(self, _abandon, stream).atexit = False
        return self._stream


def _abandon(stream: "Stream") -> None:
    """The caller dropped the stream; collection may happen in any thread, at any time."""
    if not stream.engine.crew.loop.is_closed():
        stream.engine.crew.loop.call_soon_threadsafe(stream.close)
