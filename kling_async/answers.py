"""What the answer to a status request means for a flight, and what no answer means."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from kling_async.flight import Flight, Keeper
from kling_async.instrumentation import Hooks, Polled
from kling_async.protocol.errors import KlingError, TaskLostError, WaitTimeoutError
from kling_async.protocol.models import Task, TaskStatus

__all__ = ["Answers"]

PATIENCE = 60.0
"""Seconds after its acknowledgement in which "no such task" is a reader that lags behind the writer."""
LOST_AFTER = 600.0
"""Seconds of "no such task" after which a task is lost."""
ACCOUNT_WAIT = 60.0
"""Seconds until a task is asked for again after its account was refused."""


class _Watch(Protocol):
    """Has a flight polled again."""

    def __call__(
        self, flight: Flight, *, seen_at: float | None = None, at_least: float | None = None
    ) -> None: ...


class Answers:
    """Passes on what was seen of a flight, and has it asked for again unless that was the last time.

    Args:
        keeper: told of what was seen.
        hooks: told of every poll.
        give_up: seconds after its acknowledgement at which a flight is no longer polled.
        stops_account: whether an error means that every other question would fail too.
        watch: has a flight polled again.
    """

    def __init__(
        self,
        *,
        keeper: Keeper,
        hooks: Hooks,
        give_up: float,
        stops_account: Callable[[KlingError], bool],
        watch: _Watch,
    ) -> None:
        self._keeper = keeper
        self._hooks = hooks
        self._give_up = give_up
        self._stops_account = stops_account
        self._watch = watch

    def told(self, flight: Flight, seen: Task | None, asked_at: float) -> None:
        """The provider, asked at that time, told of *flight*; None: it is as it was."""
        flight.missing_since = None
        if self._hooks.wants_polls:
            self._tell(flight, flight.judged.status if seen is None else seen.status, None)
        if seen is not None or flight.error is not None:  # an answer: what was refused before is over
            self._keeper.observe(flight, flight.judged if seen is None else seen)
        self._next(flight, asked_at)

    def failed(self, flight: Flight, error: KlingError) -> None:
        """The question was not answered; it is asked again."""
        self._tell(flight, None, error)
        at_least: float | None = getattr(error, "retry_after", None)
        if self._stops_account(error):
            at_least = max(at_least or 0.0, ACCOUNT_WAIT)
            self._keeper.observe(flight, flight.judged, flight.about(error))
        self._next(flight, at_least=at_least)

    def missing(self, flight: Flight, error: KlingError) -> None:
        """No such task at the server: just after the create that is a lag, for ten minutes a loss."""
        self._tell(flight, None, error)
        now = asyncio.get_running_loop().time()
        if flight.acknowledged_at is not None and now - flight.acknowledged_at > PATIENCE:
            if flight.missing_since is None:
                flight.missing_since = now
            if now - flight.missing_since >= LOST_AFTER:
                lost = TaskLostError("the server has not known this task for ten minutes")
                self._end(flight, TaskStatus.LOST, lost)
        self._next(flight)

    def _next(self, flight: Flight, asked_at: float | None = None, at_least: float | None = None) -> None:
        """An answer was judged: ask again, unless it was the last."""
        now = asyncio.get_running_loop().time()
        # the same sum as where it is made due: a difference could round the other way, without end
        if (
            not flight.ended
            and flight.acknowledged_at is not None
            and now >= flight.acknowledged_at + self._give_up
        ):
            late = WaitTimeoutError(f"not done {self._give_up:g} s after its acknowledgement, given up")
            self._end(flight, TaskStatus.GIVEN_UP, late)
        if not flight.ended:
            self._watch(flight, seen_at=asked_at, at_least=at_least)

    def _end(self, flight: Flight, status: TaskStatus, error: KlingError) -> None:
        self._keeper.observe(flight, Task(flight.judged.task_id, status=status), flight.about(error))

    def _tell(self, flight: Flight, status: TaskStatus | None, error: KlingError | None) -> None:
        self._hooks.tell(
            Polled(
                key=flight.name,
                task_id=flight.judged.task_id,
                external_task_id=flight.judged.external_task_id,
                status=status,
                polls=flight.polls,
                error=error,
            )
        )
