"""A handle on one submitted task: last known state without I/O, and the waits for more."""

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from kling_async.protocol.models import Task, TaskStatus

if TYPE_CHECKING:
    from kling_async.engine import Engine
    from kling_async.flight import Flight

__all__ = ["TaskHandle"]


class TaskHandle:
    """Reference to a task; the client makes them. Any number of waiters share the same polls."""

    __slots__ = ("_engine", "_flight")

    def __init__(self, engine: "Engine", flight: "Flight") -> None:
        self._engine = engine
        self._flight = flight

    def __repr__(self) -> str:
        """The handle by its names and last known status."""
        return f"<TaskHandle key={self.key!r} task_id={self.task_id!r} {self.status}>"

    @property
    def key(self) -> str | None:
        """The caller's name for the video; None where none was given."""
        return self._flight.key

    @property
    def task_id(self) -> str | None:
        """Kling's id; None until Kling has acknowledged the task."""
        return self._flight.task.task_id

    @property
    def external_task_id(self) -> str | None:
        """The idempotency key it is submitted under; None until its pictures are checked."""
        return self._flight.task.external_task_id

    @property
    def task(self) -> Task:
        """The last snapshot."""
        return self._flight.task

    @property
    def status(self) -> TaskStatus:
        """The last known status, without I/O."""
        return self._flight.task.status

    def done(self) -> bool:
        """Whether the last known status is terminal, without I/O."""
        return self._flight.done

    @property
    def token(self) -> str:
        """Finds the task again, in another process too: ``client.attach(token)``. Holds no secret.

        Empty until the pictures are checked.
        """
        return self._flight.token

    def withdraw(self) -> bool:
        """Take the request back while it waits for its slot; False: its POST has begun."""
        return self._engine.intake.withdraw(self._flight)

    async def result(self, timeout: float | None = 3600) -> Task:
        """Wait for the video.

        Cancelling this wait, or its timeout, does not touch the task: it is polled on and can be waited for
        again.

        Args:
            timeout: seconds from this call; None waits until ``Polling.give_up``.

        Raises:
            TaskFailedError: the generation failed.
            WaitTimeoutError: the time is over; the error has the token.
            KlingError: whatever else ended the task.
        """
        flight = self._flight
        try:
            async with asyncio.timeout(timeout):
                await flight.wait(lambda each: each.done or each.error is not None)
        except TimeoutError as error:
            raise flight.waited(f"no video within {timeout:g} s") from error
        return flight.result()

    async def refresh(self) -> Task:
        """Ask the provider now and return the snapshot.

        Raises:
            KlingError: the provider could not be asked, after the client's retries.
        """
        flight = self._flight
        task_id = flight.task.task_id or (flight.task.external_task_id if flight.submitted else None)
        if task_id is not None and not flight.done:
            seen = await self._engine.read(flight.endpoint, task_id)
            self._engine.observe(flight, seen)
        return flight.task

    async def events(self) -> AsyncIterator[Task]:
        """Yield the task now and after each change, the latest only where several came; ends at terminal."""
        flight = self._flight
        changed = asyncio.Event()

        def listener(_: "Flight") -> None:
            changed.set()

        flight.listen(listener)
        try:
            seen: TaskStatus | None = None
            while True:
                if flight.task.status is not seen:
                    seen = flight.task.status
                    yield flight.task
                elif flight.done:
                    return
                elif flight.error is not None:
                    raise flight.error
                else:
                    await changed.wait()
                    changed.clear()
        finally:
            flight.unlisten(listener)
