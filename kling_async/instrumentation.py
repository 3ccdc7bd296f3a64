"""What the engine tells of its work: event values, the hooks that receive them, and the log."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs

from kling_async.protocol.errors import KlingError
from kling_async.protocol.models import TaskStatus

__all__ = ["Completed", "Event", "Hook", "Hooks", "Polled", "Retried", "Saved", "Submitted", "Waiting"]

logger = logging.getLogger("kling_async")


@attrs.frozen(kw_only=True)
class Event:
    """Something that happened to a task.

    Attributes:
        key: the caller's name for it, if any.
        task_id: Kling's id; None before it is acknowledged.
        external_task_id: our idempotency key.
    """

    key: str | None
    task_id: str | None
    external_task_id: str | None


@attrs.frozen(kw_only=True)
class Waiting(Event):
    """It waits for a slot."""


@attrs.frozen(kw_only=True)
class Submitted(Event):
    """Kling acknowledged it.

    Attributes:
        model_name: the model.
        slot_wait: seconds it waited for its slot.
        upload: seconds from the first byte sent to the acknowledgement.
    """

    model_name: str
    slot_wait: float
    upload: float


@attrs.frozen(kw_only=True)
class Polled(Event):
    """It was asked for.

    Attributes:
        status: what it was then; None: the poll failed.
        polls: how often it was asked for by now.
        error: why the poll failed.
    """

    status: TaskStatus | None
    polls: int
    error: KlingError | None = None


@attrs.frozen(kw_only=True)
class Retried(Event):
    """A submit that by proof made nothing is tried again.

    Attributes:
        error: why.
        wait: seconds until the next attempt.
    """

    error: KlingError
    wait: float


@attrs.frozen(kw_only=True)
class Completed(Event):
    """It is terminal.

    Attributes:
        status: its last status.
        error: why there is no video, if there is none.
        polls: how often it was asked for.
        generation: seconds Kling took by its own clock; None while unknown.
        elapsed: seconds since its acknowledgement; None if it had none.
    """

    status: TaskStatus
    error: KlingError | None
    polls: int
    generation: float | None
    elapsed: float | None


@attrs.frozen(kw_only=True)
class Saved(Event):
    """Its video is on disk.

    Attributes:
        path: the file.
        size: bytes.
        elapsed: seconds the download took.
    """

    path: Path
    size: int
    elapsed: float


Hook = Callable[[Event], None]
"""Receives every event, on the event loop, so it must not block. Its errors are logged, once."""


class Hooks:
    """The log and the user's hooks, told of each event in turn."""

    def __init__(self, hooks: Sequence[Hook] = ()) -> None:
        self._hooks = (log, *hooks)
        self._broken: set[int] = set()

    @property
    def wants_polls(self) -> bool:
        """Whether anybody hears of polls: a hook of the user's, or the log at DEBUG."""
        return len(self._hooks) > 1 or logger.isEnabledFor(logging.DEBUG)

    def tell(self, event: Event) -> None:
        """Give *event* to every hook; one that fails harms nobody."""
        for place, hook in enumerate(self._hooks):
            try:
                hook(event)
            except Exception:
                if place not in self._broken:
                    self._broken.add(place)
                    logger.exception("hook %r failed; further failures of it are not logged", hook)


def log(event: Event) -> None:
    """Write *event* to the logger ``kling_async``: INFO what a user follows, DEBUG each poll."""
    if isinstance(event, Polled) and not logger.isEnabledFor(logging.DEBUG):
        return  # first, since nearly every event is one of these
    name = event.key or event.task_id or event.external_task_id or "a request"
    match event:
        case Waiting():
            logger.info("%s: waiting for a slot", name)
        case Submitted():
            logger.info("%s: submitted as task %s (%s)", name, event.task_id, event.model_name)
        case Polled():
            logger.debug("%s: poll %d: %s", name, event.polls, event.error or event.status)
        case Retried():
            logger.warning("%s: trying again in %.1f s: %s", name, event.wait, event.error)
        case Completed(error=None):
            logger.info("%s: %s after %d polls", name, event.status, event.polls)
        case Completed():
            logger.warning("%s: %s", name, event.error)
        case Saved():
            logger.info("%s: saved %s (%d bytes)", name, event.path, event.size)
        case _:
            logger.debug("%r", event)
