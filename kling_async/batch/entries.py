"""What is known of one item of a batch at a moment: where it stands, how long it took, what it cost."""

import math
import re
import shlex
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import attrs

from kling_async.instrumentation import (
    Ambiguous,
    Checked,
    Completed,
    Detached,
    Event,
    Polled,
    Retried,
    Saved,
    Submitted,
    Waiting,
)
from kling_async.protocol.checks import unsigned
from kling_async.protocol.errors import (
    AccountError,
    AuthenticationError,
    BudgetError,
    ConnectError,
    DownloadError,
    GatewayError,
    KlingError,
    Outcome,
    TaskFailedError,
    WaitTimeoutError,
)
from kling_async.protocol.models import TaskStatus

if TYPE_CHECKING:
    from kling_async.journal import Record
    from kling_async.streams import Completion

__all__ = [
    "STEPS",
    "Entry",
    "State",
    "Times",
    "after_end",
    "after_event",
    "after_run",
    "concerns_all",
    "from_journal",
    "stored",
]

State = Literal["done", "failed", "running", "waiting", "not_submitted"]
"""What totals count: running is everything from the submit to the file on disk."""

STEPS: Final[Mapping[str, str]] = {
    "slot": "waited for a free slot: Kling makes only so many at once",
    "upload": "sent to Kling, until it was acknowledged",
    "generating": "Kling's own time, by its clock",
    "found": "from its end until we asked and knew",
    "downloaded": "from then until the file was on disk",
}
"""What an item does on its way, in this order, and each in words."""

_DOWNLOADING: Final = "downloading"
_NOT_HERE: Final = "made, not on disk"
_MAYBE_PAID: Final = (Outcome.MAY_EXIST.value, Outcome.CREATED.value)

_AGAIN: Final = "run the batch again: it goes on from here and pays nothing anew"
_ENDS: Final[Mapping[TaskStatus, str]] = {
    TaskStatus.MAY_EXIST: "may exist",
    TaskStatus.LOST: "lost",
    TaskStatus.GIVEN_UP: "not waited for any longer",
}


@attrs.frozen(kw_only=True)
class Times:
    """The steps of an item on its way, each in seconds; None where nobody told.

    Attributes:
        slot: waiting for a slot.
        upload: from the slot to Kling's acknowledgement.
        generating: from creation to end, by Kling's clock.
        found: from that end until it was known here.
        downloaded: from then to the file on disk.
    """

    slot: float | None = None
    upload: float | None = None
    generating: float | None = None
    found: float | None = None
    downloaded: float | None = None

    def over(self, other: "Times") -> "Times":
        """These, and *other*'s where there are none."""
        own = {step: value for step, value in self.steps() if value is not None}
        return attrs.evolve(other, **own)

    def steps(self) -> Iterator[tuple[str, float | None]]:
        """Each step in its order."""
        return ((step, getattr(self, step)) for step in STEPS)

    @classmethod
    def from_document(cls, value: Any) -> "Times":
        """What a report of an earlier run says; whatever makes no sense in it is left out."""
        given = value if isinstance(value, dict) else {}
        return cls(**{step: float(given[step]) for step in STEPS if _is_seconds(given.get(step))})


@attrs.frozen(kw_only=True)
class Entry:
    """One item as it stands.

    Attributes:
        state: what it counts as.
        word: the same for people, more exactly.
        task_id: Kling's id.
        external_task_id: our idempotency key.
        token: finds the task again.
        times: how long each step took.
        units: what Kling told that it charged.
        path: the file.
        resumed: an earlier run had brought it to its end.
        is_over: its completion came: later news of the run changes nothing.
        error: what happened, where there is no file, without the item, the money and the advice.
        error_type: the error's class.
        outcome: what that means for the task, see `Outcome`.
        advice: what to do.
    """

    state: State = "not_submitted"
    word: str = "not submitted"
    task_id: str | None = None
    external_task_id: str | None = None
    token: str | None = None
    times: Times = Times()
    units: Decimal | None = None
    path: Path | None = None
    resumed: bool = False
    is_over: bool = False
    error: str | None = None
    error_type: str | None = None
    outcome: str | None = None
    advice: str | None = None

    @property
    def is_made(self) -> bool:
        """Whether there is a video, here or at Kling: it is paid."""
        return self.state == "done" or self.word in (_DOWNLOADING, _NOT_HERE)

    @property
    def is_charged(self) -> bool:
        """Whether it is paid or may be, as a `Budget` counts it: what may exist or runs on unwatched too."""
        is_maybe = self.outcome in _MAYBE_PAID and self.error_type != TaskFailedError.__name__
        return self.is_made or is_maybe

    def cost(self, estimate: Decimal | None) -> Decimal | None:
        """What it cost or may have cost; None: nothing, not yet, or nobody knows.

        What Kling told counts, see `checking.cost_told`; of what is charged and nothing told, the *estimate*.
        """
        return estimate if self.units is None and self.is_charged else self.units

    def is_unknown(self, estimate: Decimal | None) -> bool:
        """Whether it cost, will cost or may have cost what nobody can tell."""
        is_spent = self.is_charged or self.state == "running"
        return is_spent and self.units is None and estimate is None


def after_event(entry: Entry, event: Event, name: str) -> Entry:
    """*entry* of the item called *name* once *event* happened; itself where that is no news."""
    if entry.is_over or (isinstance(event, Polled) and entry.word in ("generating", _DOWNLOADING)):
        return entry  # nearly every event is such a poll
    known = attrs.evolve(
        entry,
        task_id=event.task_id or entry.task_id,
        external_task_id=event.external_task_id or entry.external_task_id,
    )
    match event:
        case Checked() | Retried():
            return _at(known, "running", "being submitted")
        case Waiting():
            return _at(known, "waiting", "waiting for a slot")
        case Ambiguous():
            return _at(known, "running", "looked for: the answer to its submit was lost")
        case Polled(status=TaskStatus()):
            return _at(known, "running", "generating")
        case Submitted(slot_wait=slot, upload=upload):
            return _at(known, "running", "generating", Times(slot=slot, upload=upload))
        case Completed(generation=generation, detection_delay=delay, units=units, error=error):
            times = Times(generating=generation, found=delay)
            known = attrs.evolve(known, units=known.units if units is None else units)
            if error is None:
                return _at(known, "running", _DOWNLOADING, times)
            return _failed(_at(known, "failed", "", times), error, event.status, name)
        case Saved(path=path, elapsed=elapsed):
            return attrs.evolve(_at(known, "done", "done", Times(downloaded=elapsed)), path=path)
        case Detached(status=TaskStatus.INTENDED):
            return _at(known, "not_submitted", "not submitted")
        case Detached(status=status, error=error):
            lost = status is TaskStatus.AMBIGUOUS
            known = _at(known, "running", "may exist" if lost else "runs on at Kling")
            advice = error.advice if lost else _AGAIN
            return attrs.evolve(known, token=error.token, advice=advice, outcome=error.outcome.value)
        case _:
            return entry


def after_end(entry: Entry, completion: "Completion", name: str) -> Entry:
    """*entry* of the item called *name* once its completion came."""
    task, error = completion.task, completion.error
    generating = None
    if task.created_at is not None and task.updated_at is not None and task.videos:
        generating = max(0.0, (task.updated_at - task.created_at).total_seconds())
    entry = attrs.evolve(
        entry,
        task_id=task.task_id or entry.task_id,
        external_task_id=task.external_task_id or entry.external_task_id,
        times=entry.times.over(Times(generating=generating)),
        units=entry.units if task.units is None else task.units,
        path=completion.path or entry.path,
        resumed=completion.resumed,
        is_over=True,
    )
    return _at(entry, "done", "done") if error is None else _failed(entry, error, task.status, name)


def after_run(entry: Entry) -> Entry:
    """*entry* once its run is over: what waited then was never sent."""
    return _at(entry, "not_submitted", "not submitted") if entry.state == "waiting" else entry


def from_journal(row: "Record", folder: Path) -> Entry:
    """What the journal of an earlier run in *folder* tells; what it left open is told of by this run."""
    generating = None
    if row.created_at is not None and row.ended_at is not None and row.state == TaskStatus.SUCCEED:
        generating = max(0.0, row.ended_at - row.created_at)
    entry = Entry(
        task_id=row.task_id,
        external_task_id=row.external_task_id,
        times=Times(generating=generating),
        units=None if row.units is None else Decimal(row.units),
    )
    path = stored(row, folder)
    if row.state == TaskStatus.SUCCEED and path is not None:
        return attrs.evolve(_at(entry, "done", "done"), path=path, resumed=True)
    return entry


def stored(row: "Record", folder: Path) -> Path | None:
    """The file that the journal in *folder* says is on disk, if it is."""
    path = None if row.path is None or row.download != "stored" else folder / row.path
    return path if path is not None and path.is_file() else None


def _at(entry: Entry, state: State, word: str, times: Times | None = None) -> Entry:
    """*entry* where all goes well, with *times* that are new."""
    return attrs.evolve(
        entry,
        state=state,
        word=word,
        times=entry.times if times is None else times.over(entry.times),
        error=None,
        error_type=None,
        outcome=None,
        advice=None,
    )


def concerns_all(error: KlingError) -> bool:
    """Whether *error* is of the key, the account, the network or the run: of no item for its own sake."""
    match error:
        case AccountError() | AuthenticationError() | ConnectError() | BudgetError():
            return True
        case GatewayError(http_status=status, html=html):
            return html or status in (401, 402, 403)
        case _:
            return type(error) is KlingError


def _failed(entry: Entry, error: KlingError, status: TaskStatus, name: str) -> Entry:
    unsent = concerns_all(error) and error.outcome is Outcome.NOT_CREATED
    return attrs.evolve(
        entry,
        state="not_submitted" if unsent else "failed",
        word="not submitted" if unsent else _word(error, status),
        error=_scrubbed(error.what) or type(error).__name__,
        error_type=type(error).__name__,
        outcome=error.outcome.value,
        advice=_scrubbed(_advice(error, status, shlex.quote(name))) or None,
        token=error.token,
    )


def _advice(error: KlingError, status: TaskStatus, key: str) -> str:
    """What to do about a failure, with the option of `kling-async batch` that does it."""
    match status:
        case TaskStatus.FAILED:
            return f"{error.advice}; --retry-failed makes it again".removeprefix("; ")
        case TaskStatus.MAY_EXIST:
            return f"look at the provider; if it is not there, run again with --resend {key}"
        case TaskStatus.LOST:
            return f"--again {key} makes it again, and may be paid twice"
        case TaskStatus.GIVEN_UP:
            return f"run the batch again to wait on; --again {key} makes it again, and may be paid twice"
        case _:
            return _AGAIN if isinstance(error, WaitTimeoutError | DownloadError) else error.advice


def _word(error: KlingError, status: TaskStatus) -> str:
    match error:
        case TaskFailedError():
            return "failed at Kling"
        case DownloadError():
            return _NOT_HERE
        case WaitTimeoutError():
            return _ENDS[TaskStatus.GIVEN_UP]
        case _:
            return _ENDS.get(status, "refused")


_URL: Final = re.compile(r"https?://[^\s\"'<>]+")


def _scrubbed(text: str, limit: int = 2000) -> str:
    """*text* as one line, its URLs without what signs them."""
    line = _URL.sub(lambda found: unsigned(found[0]), " ".join(text.split()))
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def _is_seconds(value: Any) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0
    )
