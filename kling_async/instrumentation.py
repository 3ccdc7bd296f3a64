"""What the engine tells of its work: event values, the hooks that receive them, the log, and figures."""

import inspect
import logging
from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path

import attrs

from kling_async.protocol.errors import ConfigurationError, KlingError
from kling_async.protocol.models import TaskStatus
from kling_async.protocol.providers import Provider
from kling_async.typing import Hook

__all__ = [
    "Ambiguous",
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
    nothing; a task taken up from an earlier run, or attached, is told of from its first poll, or from
    `Ambiguous` if it has to be looked for.

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
    """It waits for a slot: the first time, and each time that Kling refuses it for want of one.

    Attributes:
        error: the refusal, 1302 or 1303, after which it is back in line; None: it has not left yet.
    """

    error: KlingError | None = None


@attrs.frozen(kw_only=True)
class Submitted(Event):
    """It exists at Kling: by the answer to its submit, or by a look-up or a callback where that was lost.

    Of each checked request that comes to exist it is told once, before its end. Its two figures together are
    all the time from the line to here.

    Attributes:
        model_name: the model.
        slot_wait: seconds from when it was put in line to when it first left with its slot. A submit that is
            refused for want of one had none: its time counts, and so does the wait after it.
        upload: seconds from then until it was known to exist: its turn to upload, the body on its way,
            Kling's answer, retries; after a lost answer the look-ups, the quarantine and the second submit.
        retries: submits of it after the first.
    """

    model_name: str
    slot_wait: float
    upload: float
    retries: int = 0


@attrs.frozen(kw_only=True)
class Ambiguous(Event):
    """The answer to its submit was lost: a task may exist, and is looked for.

    Then comes `Submitted`, when it is found, or `Retried`, when it is not. Where the provider cannot look up
    it is not told: `Completed` tells at once that a task may exist.

    Attributes:
        error: how the answer was lost.
        quarantine: seconds for which it is looked for, at most; then it is sent again.
    """

    error: KlingError
    quarantine: float


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
    """A submit that made nothing is tried again: by proof, or by every look-up of its quarantine.

    After a refusal for want of a slot it is back in line, which `Waiting` tells.

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
        elapsed: seconds since its acknowledgement, `Submitted`; of a task attached to, since then, and of one
            taken up from an earlier run, since that run's acknowledgement. None if it had none.
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
        elapsed: seconds from the call of the download to the file, with the wait for its turn and for
            retries; where a file was asked for with the task, that call is made when the task has succeeded.
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
        ConfigurationError: *hooks* is no list, or a hook is no function or would have to be awaited.
    """

    def __init__(self, hooks: Sequence[Hook] = ()) -> None:
        _require_list(hooks)
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


def _require_list(hooks: object) -> None:
    if not isinstance(hooks, Iterable):
        raise ConfigurationError(
            f"hooks is a list of functions, and {type(hooks).__name__} is none", advice="write hooks=[hook]"
        )


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
    may cost money or patience: a lost answer, a retry, and an end that leaves open what Kling has. DEBUG is
    each poll.
    """
    if isinstance(event, Polled) and not logger.isEnabledFor(logging.DEBUG):
        return  # first, since nearly every event is one of these
    name = event.key or event.task_id or event.external_task_id or "a request"
    match event:
        case Checked():
            logger.debug("%s: checked, in line for %s", name, event.model_name)
        case Waiting(error=None):
            logger.info("%s: waiting for a slot", name)
        case Waiting(error=KlingError() as error):
            logger.info("%s: waiting for a slot: %s", name, _said(error))
        case Submitted():
            task = event.task_id or event.external_task_id
            logger.info("%s: submitted as task %s (%s)", name, task, event.model_name)
        case Ambiguous():
            what = "%s: the answer to its submit was lost, it is looked for during %.0f s: %s"
            logger.warning(what, name, event.quarantine, _said(event.error))
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
            after = f" after {event.retries} retries" if event.retries else ""
            logger.info("%s: saved %s (%d bytes)%s", name, event.path, event.size, after)
        case _:
            logger.debug("%r", event)


def _said(error: KlingError) -> str:
    """What happened, in one line, without money and advice: the request goes on by itself."""
    return " ".join(error.what.split())[:500]


_OPEN = frozenset({TaskStatus.MAY_EXIST, TaskStatus.LOST, TaskStatus.GIVEN_UP})
"""Ends of ours after which Kling may still have a task."""
