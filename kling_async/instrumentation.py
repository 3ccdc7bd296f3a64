"""What the engine tells of its work: event values, the hooks that receive them, the log, and figures."""

import inspect
import logging
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import attrs

from kling_async.protocol.errors import ConfigurationError, KlingError
from kling_async.protocol.models import TaskStatus
from kling_async.protocol.providers import Provider
from kling_async.typing import Hook

__all__ = [
    "Checked",
    "Completed",
    "Detached",
    "Event",
    "Hook",
    "Hooks",
    "Polled",
    "Retried",
    "Saved",
    "Statistics",
    "Submitted",
    "Waiting",
]

logger = logging.getLogger("kling_async")


@attrs.frozen(kw_only=True)
class Event:
    """Something that happened to a task. All times are seconds, by the event loop's clock unless said.

    Attributes:
        key: the caller's name for it, if any.
        task_id: Kling's id; None before it is acknowledged.
        external_task_id: our idempotency key; None before it is checked.
    """

    key: str | None
    task_id: str | None
    external_task_id: str | None


@attrs.frozen(kw_only=True)
class Checked(Event):
    """Its pictures are checked and it is in line; nothing of it has left yet.

    Told in the caller's own context, so that a hook reads the caller's context variables, a tracer his span.
    Then exactly one `Completed` or `Detached` tells of the end. Not told of what needs no submit: a request
    that is in flight already under the same key, or one that an earlier run brought to its end, tells
    nothing; a task taken up from an earlier run, or attached, is told of from its first poll.

    Attributes:
        model_name: the model.
        endpoint: the kind of task, the last piece of the endpoint's path: ``image2video``.
        provider: whom it goes to.
    """

    model_name: str
    endpoint: str
    provider: Provider


@attrs.frozen(kw_only=True)
class Waiting(Event):
    """It waits for a slot."""


@attrs.frozen(kw_only=True)
class Submitted(Event):
    """Kling acknowledged it.

    Attributes:
        model_name: the model.
        slot_wait: seconds from when it was put in line to when it left with its slot.
        upload: seconds from then to the acknowledgement: its turn to upload, the body on its way, Kling's
            answer, and retries.
        retries: submits of it after the first.
    """

    model_name: str
    slot_wait: float
    upload: float
    retries: int = 0


@attrs.frozen(kw_only=True)
class Polled(Event):
    """It was asked for.

    Attributes:
        status: what it was then; None: the poll failed.
        polls: how often it was asked for by now, alone or with others on one page.
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
    """It is over: terminal at Kling, refused, withdrawn, lost or given up.

    Attributes:
        status: its last status.
        error: why there is no video, if there is none.
        polls: how often it was asked for, by this run.
        generation: seconds from its creation to its last change by Kling's clock; None where Kling told none.
        elapsed: seconds since its acknowledgement, or since it was attached to; None if it had none.
        model_name: the model; None of a task attached by its token.
        provider: who made it; None only in an event made by hand.
        detection_delay: seconds from its end at Kling until that was known here: *elapsed* less *generation*,
            so that the two clocks need not agree, and at least 0. None where either is unknown, or where the
            acknowledgement was not this run's own.
        units: what Kling deducted, in its units of money; None where it did not say.
        retries: submits of it after the first, by this run: after an error that by proof made nothing, after
            a refusal for want of a slot, and once more when the answer was lost and no look-up found a task.
    """

    status: TaskStatus
    error: KlingError | None
    polls: int
    generation: float | None
    elapsed: float | None
    model_name: str | None = None
    provider: Provider | None = None
    detection_delay: float | None = None
    units: Decimal | None = None
    retries: int = 0


@attrs.frozen(kw_only=True)
class Detached(Event):
    """The client was closed, and nobody here follows it any more; what Kling has of it goes on.

    Attributes:
        status: its last status.
        error: what a wait for it raises, with the token that finds it again.
        polls: how often it was asked for, by this run.
        retries: submits of it after the first, by this run.
    """

    status: TaskStatus
    error: KlingError
    polls: int
    retries: int


@attrs.frozen(kw_only=True)
class Saved(Event):
    """Its video is on disk.

    Attributes:
        path: the file.
        size: bytes.
        elapsed: seconds from the call to the file, with the wait for its turn and for retries.
        retries: attempts after the first.
    """

    path: Path
    size: int
    elapsed: float
    retries: int = 0


@attrs.frozen
class Statistics:
    """What a client is doing, and what it did since it was entered; all zero before that.

    Of a client that is closed it is what it came to.

    Attributes:
        waiting: requests in line for a slot, now.
        in_flight: tasks submitted or being submitted and not terminal, now.
        limit: tasks per model that may be in flight, given or learned by now.
        succeeded: tasks that succeeded.
        failed: tasks that ended otherwise.
        polls: status requests made, each for one task or for a page of them.
        retries: submits after the first of each request.
        saved: videos downloaded.
        callbacks: tasks whose end was told by a callback before any poll did.
    """

    waiting: int = 0
    in_flight: int = 0
    limit: int = 0
    succeeded: int = 0
    failed: int = 0
    polls: int = 0
    retries: int = 0
    saved: int = 0
    callbacks: int = 0


class Hooks:
    """The log and the user's hooks, told of each event in turn.

    Raises:
        ConfigurationError: a hook is no function, or one that would have to be awaited.
    """

    def __init__(self, hooks: Sequence[Hook] = ()) -> None:
        for hook in hooks:
            _require_plain(hook)
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


def _require_plain(hook: object) -> None:
    if not callable(hook):
        raise ConfigurationError(f"a hook is called with each event, and {type(hook).__name__} cannot be")
    for function in (hook, type(hook).__call__):
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            name = getattr(hook, "__qualname__", type(hook).__qualname__)
            raise ConfigurationError(
                f"the hook {name} is async, and nobody awaits it",
                advice="give a plain function; let it put events into an asyncio.Queue that a task reads",
            )


def log(event: Event) -> None:
    """Write *event* to the logger ``kling_async``.

    INFO is what a user follows, also a generation that failed, for that is handed to him. WARNING is what
    may cost money or patience: a retry, and an end that leaves open what Kling has. DEBUG is each poll.
    """
    if isinstance(event, Polled) and not logger.isEnabledFor(logging.DEBUG):
        return  # first, since nearly every event is one of these
    name = event.key or event.task_id or event.external_task_id or "a request"
    match event:
        case Checked():
            logger.debug("%s: checked, in line for %s", name, event.model_name)
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
            logger.log(
                logging.WARNING if event.status in _OPEN else logging.INFO, "%s: %s", name, event.error
            )
        case Detached():
            logger.info("%s: %s", name, event.error)
        case Saved():
            logger.info("%s: saved %s (%d bytes)", name, event.path, event.size)
        case _:
            logger.debug("%r", event)


_OPEN = frozenset({TaskStatus.MAY_EXIST, TaskStatus.LOST, TaskStatus.GIVEN_UP})
"""Ends of ours after which Kling may still have a task."""
