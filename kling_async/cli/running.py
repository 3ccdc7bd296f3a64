"""One stream of requests from its first submit to its summary, whatever ends it."""

import asyncio
import copy
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from kling_async.batch import Item
from kling_async.batch.entries import concerns_all
from kling_async.batch.report import Report
from kling_async.checking import estimate
from kling_async.cli.interrupts import INTERRUPTED
from kling_async.cli.limits import Streak
from kling_async.cli.options import Common
from kling_async.cli.progress import Progress, Running
from kling_async.cli.resuming import Resumption
from kling_async.cli.screen import Screen, duration, reason, task_as_dict
from kling_async.client import KlingClient
from kling_async.parts import file_name, is_file
from kling_async.protocol.budget import Budget
from kling_async.protocol.errors import BudgetError, JournalError, KlingError
from kling_async.protocol.models import Task, TaskStatus
from kling_async.protocol.prices import Prices, in_units, plain
from kling_async.protocol.providers import Provider
from kling_async.streams import Completion

__all__ = ["as_given", "completion_as_dict", "report_of", "run_stream", "tell_interruption", "tell_pick_up"]


@attrs.define(eq=False)
class _Stream:
    """A run of *items* into *folder*."""

    common: Common
    progress: Progress
    folder: Path
    resumption: Resumption
    report: Report
    budget: Budget | None
    streak: Streak
    failures: list[Completion] = attrs.field(factory=list[Completion])
    beyond: int = 0
    unpriced: int = 0

    async def run(self, kling: KlingClient, items: Sequence[Item], timeout: float) -> KlingError | None:
        """Read the stream to its end; returns what ended it early."""
        try:
            async with kling.completions(
                [item.submission for item in items],
                timeout=timeout,
                save_to=self.folder,
                again=self.resumption.again,
                namespace=str(self.folder.resolve()),
                budget=self.budget,
            ) as stream:
                async for done in stream:
                    self.report.ended(done)
                    self.tell(done)
                    self.streak.add(done)
                    if self.streak.is_over:
                        stream.stop()
        except KlingError as error:
            return error
        return None

    def tell(self, done: Completion) -> None:
        """One item came to its end."""
        screen, progress = self.common.screen, self.progress
        path = None if done.path is None else as_given(done.path, self.folder)
        document = completion_as_dict(done.key, done.task, path, done.error, resumed=done.resumed)
        item = done.task.external_task_id or f"#{done.index}"
        if isinstance(done.error, BudgetError):
            self.beyond += done.error.units is not None
            self.unpriced += done.error.units is None
            if screen.is_json:
                screen.result("", document)
            return
        if done.error is None:
            if done.resumed:
                progress.saved += 1
                progress.resumed += 1
            if screen.is_json or not (done.resumed and sys.stdout.isatty()):
                mark = "✓ " if screen.live is not None and not screen.is_json else ""
                screen.result(f"{mark}{path}", document)
            return
        self.failures.append(done)
        is_failed = self._has_failed(done)
        if is_failed:
            progress.failed.add(item)
        if done.task.status is TaskStatus.GIVEN_UP:
            progress.running[item] = Running(done.key, done.task.task_id, time.monotonic())
        elif done.resumed:
            progress.running.pop(item, None)
        if screen.is_json:
            screen.result("", document)
        if is_failed and not done.resumed:
            screen.say(f"{'✗ ' if screen.live is not None else ''}{done.key}: {done.error.what}", "red")

    def _has_failed(self, done: Completion) -> bool:
        return self.report.entries[done.index].state == "failed"

    def summary(self, failure: KlingError | None) -> int:
        """Tell how it went; returns the exit code."""
        screen, summary, costs = self.common.screen, self.report.summary(), self.report.costs_now()
        there = sum(entry.resumed and entry.state == "done" for entry in self.report.entries)
        parts = [f"{summary.done} done" + (f" ({there} already there)" if there else "")]
        parts += [f"{summary.failed} failed"] if summary.failed else []
        parts += [f"{summary.running} running at Kling"] if summary.running else []
        parts += [f"{summary.not_submitted} not submitted"] if summary.not_submitted else []
        prices = [in_units(costs.units)] if costs.units else []
        prices += [f"a cost unknown for {costs.unknown}"] if costs.unknown else []
        cost = f"; {' and '.join(prices)}" if prices else ""
        screen.say(f"{', '.join(parts)} in {duration(self.progress.elapsed)}{cost}")
        for line in self._complaints(failure):
            screen.complain(line)
        if failure is not None:
            screen.fail(failure)
            if concerns_all(failure):
                screen.complain(f"what is wrong is told by: {self.common.again('doctor')}", exact=True)
        if summary.running:
            screen.complain("Run the same command again to wait on for what runs.")
        tell_pick_up(self.common, self.progress, self.resumption.unlisted(), self.folder)
        if self.report.page is not None:
            screen.say(f"look at them: {self.report.page}")
        if screen.is_json:
            counts = {
                "done": summary.done,
                "resumed": there,
                "failed": summary.failed,
                "running": summary.running,
                "not_submitted": summary.not_submitted,
                "units": float(costs.units),
                "units_unknown": costs.unknown,
                "folder": str(self.folder),
            }
            screen.result("", {"summary": counts})
        return 0 if summary.done == summary.total else 1

    def _complaints(self, failure: KlingError | None) -> Iterator[str]:
        """Why there are not all videos, and what can be done about each; *failure* is told by itself."""
        if self.beyond and self.budget is not None and not self.streak.is_over:
            left = self.budget.left
            how = f"{in_units(left)} of it left" if left >= 0 else f"it is exceeded by {plain(-left)}"
            yield f"the budget had no room for {self.beyond}: {how}"
        if self.unpriced:
            yield f"{self.unpriced} left out for want of a price: see --prices and --allow-unpriced"
        if self.streak.is_over:
            count = "1 failure" if self.streak.most == 1 else f"{self.streak.most} failures in a row"
            yield f"stopped after {count}: see --stop-after-failures"
        # what ended the stream, and what it kept from being submitted, is told once
        once = (type(failure), KlingError)
        for done in self.failures:
            if done.error is not None and (self._has_failed(done) or type(done.error) not in once):
                error = copy.copy(done.error)
                error.advice = ""  # the one of its entry knows the options
                advice = self.report.entries[done.index].advice
                yield "; ".join(filter(None, (f"  {done.key}: {reason(error)}", advice)))
        if any(done.task.status is TaskStatus.FAILED for done in self.failures):
            yield "Kling deducts units at success"


def report_of(
    items: Sequence[Item],
    folder: Path,
    provider: Provider,
    *,
    title: str,
    screen: Screen,
    resumption: Resumption | None = None,
    prices: Prices | None = None,
    budget: Budget | None = None,
) -> Report:
    """The page and the file of a run of *items* into *folder*."""
    return Report(
        folder,
        items,
        title=title,
        provider=provider,
        earlier=None if resumption is None else resumption.earlier,
        estimates=[estimate(item.request, provider, prices) for item in items],
        budget=budget,
        warn=screen.complain,
    )


async def run_stream(
    common: Common,
    progress: Progress,
    kling: KlingClient,
    items: Sequence[Item],
    *,
    folder: Path,
    timeout: float,
    report: Report,
    resumption: Resumption | None = None,
    budget: Budget | None = None,
    streak: Streak | None = None,
) -> int:
    """Submit *items*, save their videos to *folder*, tell it all; returns the exit code.

    Args:
        common: where to tell it.
        progress: a hook of *kling*.
        kling: not entered yet; closed at the end.
        items: what `read_source` gave.
        folder: for the videos.
        timeout: seconds for each task from its acknowledgement.
        report: a hook of *kling* too; written to *folder*.
        resumption: what an earlier run left.
        budget: what may be spent.
        streak: says when nothing more is to be submitted.
    """
    resumption = resumption or Resumption()
    stream = _Stream(common, progress, folder, resumption, report, budget, streak or Streak(0))
    progress.running |= resumption.running()
    progress.unlisted = frozenset(row.external_task_id for row in resumption.earlier.unlisted)
    async with report.kept(), kling:
        with progress.shown():
            try:
                failure = await stream.run(kling, items, timeout)
            except asyncio.CancelledError:
                return await tell_interruption(common, progress, kling, folder)
    if isinstance(failure, JournalError) and not progress.saved and not stream.failures:
        return common.screen.fail(failure)
    return stream.summary(failure)


async def tell_interruption(common: Common, progress: Progress, kling: KlingClient, to: Path) -> int:
    """Close *kling* after an interrupt and tell what still runs at Kling; returns the exit code."""
    screen = common.screen
    screen.say("stopping: what is being submitted is waited for; once more to end at once", "yellow")
    left = await kling.aclose()
    lost = [handle for handle in left if handle.status is TaskStatus.AMBIGUOUS]
    left = [handle for handle in left if handle not in lost]
    for handle in lost:
        progress.running.pop(handle.external_task_id or "", None)
    running: dict[str, Running] = {}
    for handle in left:
        item, name = handle.external_task_id or handle.token, handle.task_id or handle.token
        known = progress.running.get(item)
        running[item] = Running(known.name if known else handle.key or name, name, time.monotonic())
    progress.running |= {item: one for item, one in running.items() if item not in progress.unlisted}
    counts = [f"{progress.saved} of {progress.total} done"]
    counts += [f"{len(progress.failed)} failed"] if progress.failed else []
    going_on = progress.running.keys() - progress.failed  # what was given up counts as failed
    counts += [f"{len(going_on)} running at Kling"] if going_on else []
    counts += [f"{len(lost)} whose answer was lost and may exist"] if lost else []
    waiting = max(0, progress.waiting - len(lost))
    counts += [f"{waiting} not submitted"] if waiting else []
    screen.complain("Run the same command again to go on.")
    screen.say(f"interrupted: {', '.join(counts)}")
    tell_pick_up(common, progress, running, to)
    return INTERRUPTED


def tell_pick_up(common: Common, progress: Progress, left: Mapping[str, Running], to: Path) -> None:
    """How to get each video that is paid for, or will be, and is not on disk."""
    names = [(one.name, one.task_id) for one in {**progress.running, **left}.values() if one.task_id]
    if not names:
        return
    what = "1 video is" if len(names) == 1 else f"{len(names)} videos are"
    common.screen.complain(f"{what} paid for and not here yet; one by one they are fetched by")
    for name, task in names:
        target = to if is_file(to) or name == task else to / file_name(name)
        line = common.again("download", task, "-o", str(target))
        common.screen.complain(f"  {line}", exact=True)


def as_given(path: Path, folder: Path) -> Path:
    """A file in *folder* as the user would write it: an earlier run's is known by its whole path."""
    whole = folder.resolve()
    return folder / path.relative_to(whole) if path.is_relative_to(whole) else path


def completion_as_dict(
    key: str, task: Task, path: Path | None, error: KlingError | None, *, resumed: bool
) -> dict[str, Any]:
    """One item that came to its end, as one JSON object."""
    return {
        "key": key,
        "ok": error is None,
        "path": None if path is None else str(path),
        "resumed": resumed,
        "error": None if error is None else reason(error),
        "error_type": None if error is None else type(error).__name__,
        "outcome": None if error is None else error.outcome.value,
        "token": None if error is None else error.token,
        **task_as_dict(task),
    }
