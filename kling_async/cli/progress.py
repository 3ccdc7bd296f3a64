"""How far a run is: counted from the client's events, drawn on a terminal, told line by line elsewhere."""

import contextlib
import time
from collections.abc import Generator

import attrs
from rich.console import RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from kling_async.cli.screen import Screen, duration
from kling_async.instrumentation import Ambiguous, Completed, Event, Polled, Retried, Saved, Submitted

__all__ = ["Progress", "Running"]


@attrs.define
class Running:
    """A task that Kling has acknowledged and whose video is not on disk.

    Attributes:
        name: what the item is called.
        task_id: Kling's id; None while it is looked up.
        since: when it was acknowledged, by the monotonic clock.
        ended: whether it succeeded and only the file is missing.
    """

    name: str
    task_id: str | None
    since: float
    ended: bool = False


@attrs.define(eq=False)
class Progress:
    """What became of *total* items so far.

    Attributes:
        running: what is paid or will be, and not yet on disk, by its external_task_id.
        saved: how many files there are.
        resumed: how many of them an earlier run saved.
        failed: items that failed, or were not waited for any longer, likewise.
        unlisted: tasks that the client polls for an earlier run and this one does not count, likewise.
    """

    screen: Screen
    total: int
    running: dict[str, Running] = attrs.field(factory=dict[str, Running])
    saved: int = 0
    resumed: int = 0
    failed: set[str] = attrs.field(factory=set[str])
    unlisted: frozenset[str] = frozenset()
    begun: float = attrs.field(factory=time.monotonic)
    _times: list[float] = attrs.field(factory=list[float])
    _said: set[str] = attrs.field(factory=set[str])

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.begun

    @property
    def waiting(self) -> int:
        """Items that are not submitted yet."""
        return max(0, self.total - self.saved - len(self.failed) - len(self._in_flight()))

    def tell(self, event: Event) -> None:
        """The client's hook."""
        task = event.task_id or ""
        item, name = event.external_task_id or task, event.key or task
        match event:
            case Polled() if item in self.running or item in self.unlisted:
                return
            case Polled():  # of an earlier run
                self.running[item] = Running(name, event.task_id, time.monotonic())
            case Submitted():
                self.running[item] = Running(name, event.task_id, time.monotonic())
                line = f"submitted as task {task or item}"
                self._say(f"{event.key}: {line}" if event.key else line)
            case Completed(error=None):
                if event.elapsed is not None:
                    self._times.append(event.elapsed)
                if item in self.running:
                    self.running[item].task_id = event.task_id
                    self.running[item].ended = True
            case Completed():
                self.running.pop(item, None)
            case Saved():
                one = self.running.pop(item, None)
                since = "" if one is None else f", {duration(time.monotonic() - one.since)} after its submit"
                self._say(f"{name}: saved{since}")
                self.saved += 1
            case Ambiguous(error=error):
                self._say_once(f"{error.what}; a task may exist and is looked for")
            case Retried(error=error):
                self._say_once(f"{error.what}; trying again")
            case _:
                return

    def remaining(self) -> float | None:
        """Seconds it may still take, from how long the tasks took so far; None: nobody knows yet."""
        flying = self._in_flight()
        if not self._times or not flying:
            return None
        each, now = sum(self._times) / len(self._times), time.monotonic()
        left = [max(0.0, each - (now - one.since)) for one in flying if not one.ended]
        work = sum(left) + self.waiting * each
        return max(work / len(flying), *left, 0.0)

    @contextlib.contextmanager
    def shown(self) -> Generator[None]:
        """Draw it while the block runs, if this is a terminal."""
        if not self.screen.is_live:
            yield
            return
        spinner = Spinner("dots", style="cyan")
        try:
            with Live(
                console=self.screen.console,
                get_renderable=lambda: self._drawn(spinner),
                refresh_per_second=8,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            ) as self.screen.live:
                yield
        finally:
            self.screen.live = None

    def _say(self, line: str) -> None:
        if not self.screen.is_live:
            self.screen.say(line)

    def _say_once(self, line: str) -> None:
        """An outage meets every item alike."""
        if line not in self._said:
            self._said.add(line)
            self.screen.say(line, "yellow")

    def _in_flight(self) -> list[Running]:
        # a copy at once: the drawing thread looks while the loop works
        return [one for item, one in list(self.running.items()) if item not in self.failed]

    def _drawn(self, spinner: Spinner) -> RenderableType:
        left = self.remaining()
        clock = f"{duration(self.elapsed)}" + (f", about {duration(left)} left" if left is not None else "")
        flying = len(self._in_flight())
        if self.total == 1:
            what = "in flight" if flying else "submitting"
            spinner.update(text=Text.assemble((what, ""), (f"   {clock}", "dim")))
            return spinner
        counts = [f"{self.saved} done"]
        counts += [f"{len(self.failed)} failed"] if self.failed else []
        counts += [f"{flying} in flight", f"{self.waiting} waiting"]
        spinner.update(text=Text.assemble(" · ".join(counts), (f"   {clock}", "dim")))
        bar = ProgressBar(
            total=self.total,
            completed=self.saved + len(self.failed),
            width=min(60, self.screen.console.width - 2),
            complete_style="cyan",
            finished_style="cyan",
        )
        lines = Table.grid()
        for line in ("", bar, spinner):
            lines.add_row(line)
        return lines
