"""The seams of the package, for those who stand at one: transport, clock, hook."""

from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Protocol

from kling_async.protocol.models import TaskStatus

if TYPE_CHECKING:
    from kling_async.instrumentation import Event
    from kling_async.protocol.wire import Request, Response

__all__ = ["Again", "Body", "CallbackURL", "Hook", "Transport", "WallClock", "never"]

Again = Callable[[str, TaskStatus], bool]
"""Asked about an item that an earlier run ended without a video: True makes it anew, and pays anew."""


def never(key: str, status: TaskStatus) -> bool:
    """Make nothing anew."""
    return False


CallbackURL = str | Callable[[str], str]
"""Where Kling posts status changes: an ``http(s)`` URL, or what gives one for an external_task_id."""

WallClock = Callable[[], float]
"""Unix seconds, like `time.time`. Only for what must outlive the process; durations use the loop's clock."""


class Hook(Protocol):
    """Receives every event: a plain function, or an object with such a ``__call__``.

    It is called on the event loop in the order of what happens, mostly while something waits to go on: so it
    must be quick, a few microseconds, and must not block. What takes longer belongs into a queue that a task
    or thread of yours reads. An `Exception` in it is logged once with its traceback, and harms nobody.
    """

    def __call__(self, event: "Event", /) -> None:
        """Take note of *event*."""
        ...


class Body(Protocol):
    """A request body that is read as it is sent, from its beginning each time it is iterated."""

    @property
    def size(self) -> int:
        """Bytes in all, known before the first is read."""
        ...

    def __aiter__(self) -> AsyncGenerator[bytes, None]:
        """The bytes, in pieces."""
        ...


class Transport(Protocol):
    """Carries one request to the provider and its response back; knows nothing of tasks.

    One that also has an ``open_session()`` brings the videos too: it returns what is used for their downloads
    in place of an `aiohttp.ClientSession`, with its ``get`` and ``close``.
    """

    async def send(self, request: "Request", *, authorization: str, body: Body | None = None) -> "Response":
        """Send *request* with the ``Authorization`` header's value and return the whole response.

        Redirects are not followed; a status is never an error here.

        Raises:
            ConnectError: by proof nothing arrived: no connection, or the body's end was never handed over.
            ResponseLostError: the request may have arrived and no whole response came back.
        """
        ...

    async def aclose(self) -> None:
        """Close what this transport opened."""
        ...
