"""What an earlier run left in the journal beside its videos: looked at, and told, before anything is paid."""

import collections
import difflib
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import attrs

from kling_async.batch import Earlier, Item, as_made, compare
from kling_async.cli.progress import Running
from kling_async.journal import FILE_NAME, Journal, Record
from kling_async.paths import is_there
from kling_async.protocol.errors import RequestError
from kling_async.protocol.models import TaskStatus

__all__ = ["Again", "Resumption", "look_back"]

_RUNS = (TaskStatus.SUBMITTED, TaskStatus.UNKNOWN, TaskStatus.PROCESSING, TaskStatus.GIVEN_UP)
"""What is polled in this run; what took too long for an earlier one is asked for once more."""
_OPEN = (TaskStatus.INTENDED, TaskStatus.AMBIGUOUS)


@attrs.frozen(kw_only=True)
class Again:
    """Which items that an earlier run ended without a video are made anew, by what they are called.

    Attributes:
        failed: all that failed at Kling, which deducts units at success.
        keys: single ones, also those that Kling lost or that took too long, which may be charged twice.
        resend: single ones that may exist, which may be charged twice.
    """

    failed: bool = False
    keys: Sequence[str] = ()
    resend: Sequence[str] = ()


@attrs.frozen(kw_only=True)
class Resumption:
    """How this run goes on.

    Attributes:
        items: what is asked for.
        earlier: what the journal holds of it.
        records: all that the journal holds.
        anew: what is made anew.
        lookup: whether the provider finds tasks by the ids that we give them: see `Provider`.
    """

    items: Sequence[Item] = ()
    earlier: Earlier = attrs.field(factory=lambda: Earlier((), frozenset(), ()))
    records: Sequence[Record] = ()
    anew: Again = attrs.field(factory=Again)
    lookup: str = "yes"
    _again: frozenset[str] = attrs.field(
        init=False, default=attrs.Factory(lambda self: self._labels(self.anew.keys), takes_self=True)
    )
    _resend: frozenset[str] = attrs.field(
        init=False, default=attrs.Factory(lambda self: self._labels(self.anew.resend), takes_self=True)
    )

    def again(self, label: str, status: TaskStatus) -> bool:
        """Whether the item that an earlier run called *label* and left as *status* is made anew.

        A stream asks this of what ended without a video.
        """
        if status is TaskStatus.MAY_EXIST:
            return label in self._resend
        if status not in (TaskStatus.FAILED, TaskStatus.LOST, TaskStatus.GIVEN_UP):
            return False
        return label in self._again or (self.anew.failed and status is TaskStatus.FAILED)

    def _labels(self, keys: Sequence[str]) -> frozenset[str]:
        """What an earlier run called the items that are called *keys* now."""
        rows = zip(self.items, self.earlier.rows, strict=True)
        return frozenset(row.label for item, row in rows if row is not None and item.name in keys)

    def new(self) -> list[Item]:
        """The items that will be submitted in this run."""
        return self._those("new", "changed", "to make again")

    def begun(self) -> list[Item]:
        """The items that an earlier run began to submit: looked for, and sent if they are not there."""
        return self._those("to look up")

    def in_vain(self) -> list[str]:
        """What is to be made again, and has its video."""
        asked = {*self.anew.keys, *self.anew.resend}
        return [item.name for item in self._those("already there", "to download") if item.name in asked]

    def _those(self, *words: str) -> list[Item]:
        rows = zip(self.items, self.earlier.rows, strict=True)
        return [item for item, row in rows if self._word(item, row) in words]

    def running(self) -> dict[str, Running]:
        """The items that run at Kling, or are only to be downloaded, by external_task_id."""
        rows = zip(self.items, self.earlier.rows, strict=True)
        return {
            row.external_task_id: _running(row, item.name)
            for item, row in rows
            if row is not None and self._word(item, row) in ("running", "to look up", "to download")
        }

    def unlisted(self) -> dict[str, Running]:
        """What is paid for, not on disk, and not asked for any more."""
        return {
            row.external_task_id: _running(row, row.label)
            for row in self.earlier.unlisted
            if row.task_id is not None and (row.state in _RUNS or _is_made(row)) and row.download != "stored"
        }

    def told(self) -> str:
        """One line of what is known; nothing where there was no earlier run."""
        rows = self.earlier.rows
        if not self.earlier.unlisted and not any(rows):
            return ""
        counts = collections.Counter(
            self._word(item, row) for item, row in zip(self.items, rows, strict=True)
        )
        words = (
            "already there",
            "to download",
            "running",
            "to look up",
            "to make again",
            "failed",
            "that may exist",
        )
        line = _tally(counts, (*words, "new", "changed"))
        gone = collections.Counter(_gone(row) for row in self.earlier.unlisted)
        unlisted = _tally(gone, ("running", "made"))
        return f"going on: {line}" + (f"; not asked for: {unlisted}" if unlisted else "")

    def _word(self, item: Item, row: Record | None) -> str:
        if row is None:
            return "changed" if item.name in self.earlier.changed else "new"
        status = TaskStatus(row.state)
        if _is_made(row):
            return "already there" if row.download == "stored" else "to download"
        if status in _OPEN:
            return "that may exist" if self.lookup == "no" else "to look up"
        if status is TaskStatus.REFUSED:
            return "new"
        if self.again(row.label, status):
            return "to make again"
        if status in _RUNS:
            return "running"
        if status is TaskStatus.MAY_EXIST:  # where look-ups are sure, one had no answer in an earlier run
            return "to look up" if self.lookup == "yes" else "that may exist"
        return "failed"


async def look_back(folder: Path, items: Sequence[Item], anew: Again, *, lookup: str) -> Resumption:
    """What the journal in *folder* holds of *items*. Only while no client has that journal open.

    Raises:
        RequestError: a key of *anew* is none of the items', or that of several.
        JournalError: the journal is in use, damaged or newer.
    """
    _require_known([item.name for item in items], {"--again": anew.keys, "--resend": anew.resend})
    records: Sequence[Record] = ()
    path = folder / FILE_NAME
    if is_there(path):
        journal = await Journal.open(path, now=time.time())
        try:
            records = await journal.all()
        finally:
            await journal.aclose()
    items = as_made(items, records)
    earlier = compare(items, records)
    labels = collections.Counter(row.label for row in earlier.rows if row is not None)
    for item, row in zip(items, earlier.rows, strict=True):
        if row is not None and labels[row.label] > 1 and item.name in (*anew.keys, *anew.resend):
            what = f"{item.name}: an earlier run called several items {row.label}"
            raise RequestError(what, advice="give them keys in a manifest")
    return Resumption(items=items, earlier=earlier, records=records, anew=anew, lookup=lookup)


def _require_known(names: Sequence[str], asked: Mapping[str, Iterable[str]]) -> None:
    counts = collections.Counter(names)
    for option, keys in asked.items():
        for key in keys:
            if counts[key] == 1:
                continue
            if counts[key]:
                what, advice = (
                    f"{option} {key}: {counts[key]} items are called so",
                    "give them keys in a manifest",
                )
            else:
                close = difflib.get_close_matches(key, counts, 1)
                what = f"{option} {key}: no item is called so"
                advice = f"did you mean {close[0]}?" if close else "the key is what the run called it"
            raise RequestError(what, advice=advice)


def _running(row: Record, name: str) -> Running:
    began = time.time() - (row.acknowledged_at or time.time())
    return Running(name, row.task_id, time.monotonic() - began, ended=_is_made(row))


def _is_made(row: Record) -> bool:
    return row.state == TaskStatus.SUCCEED


def _gone(row: Record) -> str:
    if _is_made(row):
        return "made"
    return "running" if row.state in (*_RUNS, *_OPEN) else "ended"


def _tally(counts: Mapping[str, int], words: Iterable[str]) -> str:
    return ", ".join(f"{counts[word]} {word}" for word in words if counts.get(word))
