"""One stream of requests from its first submit to its summary, whatever ends it."""

import asyncio
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs

from kling_async.batch import Item
from kling_async.batch.report import Report
from kling_async.checking import charged, estimate
from kling_async.cli.interrupts import INTERRUPTED
from kling_async.cli.limits import Streak
from kling_async.cli.options import Common
from kling_async.cli.progress import Progress, Running
from kling_async.cli.resuming import NOTHING, Resumption
from kling_async.cli.screen import Screen, duration, reason, task_as_dict
from kling_async.client import KlingClient
from kling_async.parts import file_name, is_file
from kling_async.protocol.budget import Budget
from kling_async.protocol.errors import (
    AccountError,
    AuthenticationError,
    BudgetError,
    ConnectError,
    GatewayError,
    JournalError,
    KlingError,
)
from kling_async.protocol.models import Task, TaskStatus, VideoRequest
from kling_async.protocol.prices import Prices, in_units, plain
from kling_async.protocol.providers import Provider
from kling_async.streams import Completion

__all__ = ["as_given", "completion_as_dict", "report_of", "run_stream", "tell_interruption", "tell_pick_up"]

_OF_ALL = (AccountError, AuthenticationError, ConnectError, GatewayError)
"""What mostly concerns every item alike: told once, at the end."""


@attrs.define(eq=False)
class _Stream:
    """A run of *items* into *folder*."""

    common: Common
    progress: Progress
    folder: Path
    resumption: Resumption
    report: Report
    cost: Callable[[Completion], Decimal | None]
    budget: Budget | None
    streak: Streak
    failures: list[Completion] = attrs.field(factory=list[Completion])
    units: Decimal = Decimal(0)
    unknown: int = 0
    beyond: int = 0
    unpriced: int = 0

    def _submissions(self, items: Sequence[Item]) -> Iterator[VideoRequest | tuple[str, VideoRequest]]:
        for item in items:
            if self.streak.is_over:
                return
            yield item.submission

    async def run(self, kling: KlingClient, items: Sequence[Item], timeout: float) -> KlingError | None:
        """Read the stream to its end; returns what ended it early."""
        try:
            async with kling.completions(
                self._submissions(items),
                timeout=timeout,
                save_to=self.folder,
                again=self.resumption.again,
                namespace=str(self.folder.resolve()),
                budget=self.budget,
            ) as stream:
                async for done in stream:
                    self.report.ended(done)
                    self.tell(done)
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
            cost = Decimal(0) if done.resumed else self.cost(done)
            self.units += cost or 0
            self.unknown += cost is None
            if done.resumed:
                progress.saved += 1
                progress.resumed += 1
            if screen.is_json or not (done.resumed and sys.stdout.isatty()):
                mark = "✓ " if screen.live is not None and not screen.is_json else ""
                screen.result(f"{mark}{path}", document)
            return
        self.failures.append(done)
        progress.failed.add(item)
        if done.task.status is TaskStatus.GIVEN_UP:
            progress.running[item] = Running(done.key, done.task.task_id, time.monotonic())
        elif done.resumed:
            progress.running.pop(item, None)
        if screen.is_json:
            screen.result("", document)
        if not done.resumed and not isinstance(done.error, _OF_ALL) and type(done.error) is not KlingError:
            screen.say(f"{'✗ ' if screen.live is not None else ''}{done.key}: {done.error.what}", "red")

    def summary(self, failure: KlingError | None, total: int) -> int:
        """Tell how it went; returns the exit code."""
        screen, progress = self.common.screen, self.progress
        saved = progress.saved
        # what ended the stream, and what it kept from being submitted, is told once
        ended = (type(failure), KlingError) if failure is not None else ()
        told = [each for each in self.failures if type(each.error) not in ended]
        idle = total - saved - len(told)
        there = f" ({progress.resumed} already there)" if progress.resumed else ""
        parts = [f"{saved} done{there}"]
        parts += [f"{len(told)} failed"] if told else []
        parts += [f"{idle} not submitted"] if idle else []
        costs = [in_units(self.units)] if self.units else []
        costs += [f"a cost unknown for {self.unknown}"] if self.unknown else []
        cost = f"; {' and '.join(costs)}" if costs else ""
        screen.say(f"{', '.join(parts)} in {duration(progress.elapsed)}{cost}")
        if self.beyond and self.budget is not None and not self.streak.is_over:
            left = plain(max(self.budget.left, Decimal(0)))
            screen.complain(f"the budget had no room for {self.beyond}: {left} of its units are left")
        if self.unpriced:
            screen.complain(
                f"{self.unpriced} left out for want of a price: see --prices and --allow-unpriced"
            )
        if self.streak.is_over:
            screen.complain(f"stopped after {self.streak.count} failures in a row: see --stop-after-failures")
        for each in told:
            if each.error is not None:
                screen.complain(f"  {each.key}: {reason(each.error)}")
        if failure is not None:
            screen.fail(failure)
            if isinstance(failure, _OF_ALL):
                screen.complain(f"what is wrong is told by: {self.common.again('doctor')}", exact=True)
        for line in _advice(told):
            screen.complain(line)
        if progress.running:
            screen.complain("Run the same command again to wait on for what runs.")
        tell_pick_up(self.common, progress, self.resumption.unlisted(), self.folder)
        if self.report.page is not None:
            screen.say(f"look at them: {self.report.page}")
        if screen.is_json:
            counts = {
                "done": saved,
                "resumed": progress.resumed,
                "failed": len(told),
                "not_submitted": idle,
                "units": float(self.units),
                "units_unknown": self.unknown,
                "folder": str(self.folder),
            }
            screen.result("", {"summary": counts})
        return 1 if told or idle else 0


def report_of(
    items: Sequence[Item],
    folder: Path,
    provider: Provider,
    *,
    title: str,
    screen: Screen,
    resumption: Resumption = NOTHING,
    prices: Prices | None = None,
    budget: Budget | None = None,
) -> Report:
    """The page and the file of a run of *items* into *folder*."""
    return Report(
        folder,
        items,
        title=title,
        provider=provider,
        earlier=resumption.earlier if resumption is not NOTHING else None,
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
    resumption: Resumption = NOTHING,
    prices: Prices | None = None,
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
        prices: the user's own.
        budget: what may be spent.
        streak: a hook of *kling* too, which says when nothing more is to be submitted.
    """

    def cost(done: Completion) -> Decimal | None:
        return charged(done.task.units, done.request, kling.provider, prices)

    stream = _Stream(common, progress, folder, resumption, report, cost, budget, streak or Streak(0))
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
    return stream.summary(failure, len(items))


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
    counts += [f"{len(progress.running)} running at Kling"] if progress.running else []
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


def _advice(failures: Sequence[Completion]) -> Iterator[str]:
    """What can be done about each sort of failure."""
    if any(each.task.status is TaskStatus.FAILED for each in failures):
        yield "Kling deducts units at success; with --retry-failed the same command makes them again"
    for each in failures:
        key = shlex.quote(each.key)
        match each.task.status:
            case TaskStatus.MAY_EXIST:
                yield (
                    f"{each.key} may exist and be paid: look at the provider; "
                    f"if it is not there, run again with --resend {key}"
                )
            case TaskStatus.LOST | TaskStatus.GIVEN_UP:
                yield f"{each.key} may be paid: --again {key} makes it again, and may pay again"
            case _:
                pass
