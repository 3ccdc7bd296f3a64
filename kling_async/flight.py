"""One task as the engine keeps it, from request to end: small, slotted, without a coroutine."""

import asyncio
import collections
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import attrs

from kling_async.journal import Journal, Record
from kling_async.protocol import wire
from kling_async.protocol.checks import is_http_url, unsigned
from kling_async.protocol.durations import TaskClass
from kling_async.protocol.errors import KlingError, Outcome, RequestError, WaitTimeoutError
from kling_async.protocol.identity import Issuer
from kling_async.protocol.lifecycle import STATES, is_terminal
from kling_async.protocol.models import Task, TaskStatus, VideoRequest

__all__ = ["Flight", "Keeper", "Names", "SlotKey", "default_name", "withdrawn"]

SlotKey = tuple[str, str]
"""Endpoint and model: what one concurrency limit of the account counts."""


@attrs.define(eq=False)
class Flight:
    """The state of one task.

    Attributes:
        order: its place among all; earlier ones go first.
        key: the caller's name for it, None where none was given.
        label: what it is called where it has no key; None: like its picture.
        endpoint: the kind of task, the last piece of the endpoint's path.
        slot_key: whose slot it takes.
        task: the last snapshot.
        issuer: whose task it is, for its token.
        request: what is to be submitted; None for a task attached from a token.
        prepared: what is sent, once its pictures are checked; None before.
        error: why it ended without a video.
        judged: the last snapshot by the engine's own judgement, which `task` becomes once it is durable.
        journal: where it is recorded.
        record: its row there.
        writes: records of it that are not durable yet.
        generation: how often the same video was wanted anew on purpose.
        resumed: known as finished from an earlier run.
        age: seconds since its acknowledgement when it was taken up from an earlier run.
        path: its file from an earlier run.
        sent_at: when its answer was missed, Unix seconds.
        acknowledged_at: when Kling acknowledged it or we attached to it, seconds of the loop's clock.
        taken_at: when it joined the queue, seconds of the loop's clock.
        missing_since: since when the server has said it knows no such task.
        made_here: this run's own POST made it, so that its age is known.
        attempts: how often this run began to submit it.
        polls: how often it was asked for.
        due: when it is polled next, seconds of the loop's clock; the schedule's.
        same: the flight that was there before for the same key and request; this one only shows it.
        waits: goes back in line when Kling has no slot for it; else that refuses it.
        pays: what it shows is sent by its own leave.
        wanted: how many want it, also through others that show it; 0: nobody who could say so any more.
        in_line: waits for a slot, and can still be withdrawn.
        holds_slot: occupies a slot.
        listeners: told of every change; None while nobody listens.
    """

    order: int
    key: str | None
    endpoint: str
    slot_key: SlotKey
    task: Task
    issuer: Issuer
    label: str | None = None
    request: VideoRequest | None = None
    prepared: wire.Request | None = None
    error: KlingError | None = None
    judged: Task = attrs.field(default=attrs.Factory(lambda self: self.task, takes_self=True))
    journal: Journal | None = None
    record: Record | None = None
    writes: int = 0
    generation: int = 0
    resumed: bool = False
    age: float = 0.0
    path: Path | None = None
    sent_at: float | None = None
    acknowledged_at: float | None = None
    taken_at: float = 0.0
    missing_since: float | None = None
    made_here: bool = False
    attempts: int = 0
    polls: int = 0
    due: float | None = None
    same: "Flight | None" = None
    waits: bool = True
    pays: bool = False
    wanted: int = 1
    in_line: bool = False
    holds_slot: bool = False
    listeners: list[Callable[["Flight"], None]] | None = None

    def __lt__(self, other: "Flight") -> bool:
        """By order, for the queue of its slot key."""
        return self.order < other.order

    @property
    def done(self) -> bool:
        """Whether nothing more will happen to it here."""
        return is_terminal(self.task.status)

    @property
    def ended(self) -> bool:
        """Whether it is judged to be over; `done` once that is durable."""
        return is_terminal(self.judged.status)

    @property
    def submitted(self) -> bool:
        """Whether Kling has acknowledged it, or it ended without, and that is durable."""
        return self.task.status not in (TaskStatus.INTENDED, TaskStatus.AMBIGUOUS)

    @property
    def stopped(self) -> bool:
        """Whether it is not to be sent any more: what a POST that is out leads to is its end."""
        return self.wanted < 1

    @property
    def retries(self) -> int:
        """Submits of it after the first, by this run."""
        return max(0, self.attempts - 1)

    @property
    def token(self) -> str:
        """Finds it again, also elsewhere; empty while nothing names it."""
        if self.same is not None:
            return self.same.token
        judged = self.judged
        if not (judged.task_id or judged.external_task_id):
            return ""
        ids = {"task_id": judged.task_id, "external_task_id": judged.external_task_id}
        try:
            return self.issuer.token(self.endpoint, self.key, **ids).text
        except RequestError:  # its key is too long, and it is not submitted
            return ""

    @property
    def task_class(self) -> TaskClass:
        """What decides how long such a task takes; of a task without its request only in part known."""
        if self.request is None:
            return (*self.slot_key, "", "")
        return (*self.slot_key, self.request.mode or "", str(self.request.duration or ""))

    @property
    def name(self) -> str | None:
        """What it is called: its key, or what stands for it."""
        return self.key or self.label or (None if self.request is None else default_name(self.request))

    def about(self, error: KlingError) -> KlingError:
        """*error* with this task's names on it."""
        return error.about(
            key=self.name,
            task_id=self.judged.task_id,
            external_task_id=self.judged.external_task_id,
            token=self.token,
        )

    def waited(self, what: str) -> KlingError:
        """The error of a wait that was over before the task; what it says of money holds now."""
        if self.acknowledged_at is not None:
            return self.about(WaitTimeoutError(what))
        # In line or on its way it may be made later: only what ended before its POST is safe to submit again.
        outcome = STATES[self.task.status].outcome if self.done else Outcome.MAY_EXIST
        advice = "submit it again" if outcome is Outcome.NOT_CREATED else WaitTimeoutError.advice
        return self.about(WaitTimeoutError(what, outcome=outcome, advice=advice))

    def listen(self, listener: Callable[["Flight"], None]) -> None:
        """Have *listener* told of every change from now on."""
        if self.listeners is None:
            self.listeners = []
        self.listeners.append(listener)

    def unlisten(self, listener: Callable[["Flight"], None]) -> None:
        """Stop telling *listener*, if it was told."""
        if self.listeners and listener in self.listeners:
            self.listeners.remove(listener)

    def announce(self) -> None:
        """Tell the listeners."""
        for listener in tuple(self.listeners or ()):
            listener(self)

    async def wait(self, reached: Callable[["Flight"], bool]) -> None:
        """Wait until *reached* is true of this flight; cancelling the wait does not touch the task."""
        if reached(self):
            return
        future = asyncio.get_running_loop().create_future()

        def listener(flight: "Flight") -> None:
            if reached(flight) and not future.done():
                future.set_result(None)

        self.listen(listener)
        try:
            await future
        finally:
            self.unlisten(listener)

    def result(self) -> Task:
        """The task that succeeded.

        Raises:
            KlingError: it ended otherwise.
        """
        if self.error is not None:
            raise self.error
        if self.task.status is TaskStatus.FAILED:
            raise self.about(self.task.failure())
        return self.task


def default_name(request: VideoRequest) -> str:
    """What a request without a key is called: its first picture's name, else ``video``."""
    for source in (getattr(request, "image", None), *getattr(request, "image_list", ()), "video"):
        if isinstance(source, Path) or (isinstance(source, str) and len(source) <= 4096):
            name = unsigned(source) if is_http_url(source) else str(source)
            stem = Path(name).stem
            if stem and not str(source).startswith(("data:", "/9j/", "iVBORw0KGgo")):
                return stem
    return "video"


def withdrawn() -> KlingError:
    """The error of what was taken back before it was sent."""
    return KlingError("withdrawn before it was submitted")


class Names:
    """What requests without a key are called, each differently: alike ones are counted."""

    def __init__(self) -> None:
        self._counts = collections.Counter[str]()

    def of(self, request: VideoRequest) -> str:
        """The name of the next one."""
        name = default_name(request)
        count = self._counts[name] + 1
        while count > 1 and f"{name}-{count}" in self._counts:
            count += 1
        unique = name if count == 1 else f"{name}-{count}"
        self._counts[name] = count
        self._counts.setdefault(unique, 1)
        return unique


class Keeper(Protocol):
    """Who keeps the flights: the one door for news of them."""

    def observe(self, flight: Flight, seen: Task, error: KlingError | None = None) -> None:
        """Judge what was *seen* of a task, act on it, record and announce it."""
        ...

    def find(self, external_task_id: str | None) -> Flight | None:
        """The flight under that name, if it is one of ours and not over."""
        ...

    def acknowledge(self, flight: Flight, seen: Task) -> None:
        """Kling has told us of the task under the name that we gave it; see `observe`."""
        ...

    def revive(self, flight: Flight, seen: Task) -> None:
        """What ended here as `may_exist`, given up or lost has come to its end, by proof."""
        ...

    async def intend(self, flight: Flight) -> None:
        """Make durable that the POST of *flight* is about to leave."""
        ...

    def retract(self, flight: Flight) -> None:
        """Record that the POST of *flight* was refused, and nothing made; it may leave once more."""
        ...
