"""The result of a batch that one looks at: `index.html` for people and `report.json` for programs.

Both lie beside the videos and are written anew while the batch runs. What they cannot tell is never worth a
paid video: a report that cannot be written is told once, and the run goes on.
"""

import asyncio
import collections
import contextlib
import logging
import os
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from kling_async.batch.documents import Costs, Documents, RunState, Summary, former_times
from kling_async.batch.entries import Entry, after_end, after_event, after_run, from_journal, stored
from kling_async.checking import tells_charges
from kling_async.extras import install
from kling_async.instrumentation import Event
from kling_async.protocol.providers import Provider
from kling_async.streams import Completion
from kling_async.typing import WallClock

if TYPE_CHECKING:
    from kling_async.batch.earlier import Earlier
    from kling_async.batch.gallery import Gallery
    from kling_async.batch.items import Item
    from kling_async.protocol.budget import Budget

__all__ = ["FILE_NAME", "PAGE_NAME", "Report"]

FILE_NAME: Final = "report.json"
PAGE_NAME: Final = "index.html"

_LEAST_INTERVAL: Final = 2.0
"""Seconds between two writings: nobody reads faster, and the page reloads itself every 5 s."""
_HEARTBEAT: Final = 30.0
"""Seconds until it is written without news: after 2 min of silence the page doubts that the run goes on."""
_SHARE: Final = 9
"""Times as long as it took to write, until the next: writing takes a tenth of the time at most."""
_PATIENCE: Final = {"running": 1.0, "ended": 10.0}
"""Seconds that thumbnails may take of one writing: the first page comes soon, the last soon enough."""

logger = logging.getLogger("kling_async")


class Report:
    """What became of each item of a batch, kept written in its folder.

    A file of these names that is not of ours is left alone, which is told once.

    `tell` is a hook of the client, `ended` takes the stream's completions, both on the event loop; `kept` or
    `write` write. An earlier run's report in the folder keeps its time lines, by external_task_id.

    Args:
        folder: where the videos go, and both files.
        items: of this run, in their order.
        title: what the batch is called.
        provider: who makes it.
        earlier: what a journal holds of *items*.
        estimates: what each item will cost, in units, None where unknown; left out, nothing is estimated.
        budget: what may be spent, and is: its figures are shown as they are at each writing.
        clock: Unix seconds.
        warn: takes a line for people; by default the log's warnings.

    Attributes:
        items: as given.
        entries: how each stands.
        page: ``index.html``, once it is written; None where it cannot be.
    """

    def __init__(
        self,
        folder: Path,
        items: "Sequence[Item]",
        *,
        title: str,
        provider: Provider,
        earlier: "Earlier | None" = None,
        estimates: Sequence[Decimal | None] = (),
        budget: "Budget | None" = None,
        clock: WallClock = time.time,
        warn: Callable[[str], None] = logger.warning,
    ) -> None:
        self.items = tuple(items)
        self._folder = folder
        self._title = title
        self._provider = provider
        self._estimates = tuple(estimates) or (None,) * len(self.items)
        self._budget = budget
        self._clock = clock
        self._warn = warn
        self._told: set[str] = set()
        self._began = clock()
        self._state: RunState = "ended"
        self.page: Path | None = None
        self._news = asyncio.Event()
        former = former_times(folder / FILE_NAME)
        self._is_ours = former is not None
        self._former = former or {}
        self._by_id: dict[str, int] = {}
        self._by_name: dict[str, list[int]] = collections.defaultdict(list)
        self._met: set[int] = set()
        unlisted = earlier.unlisted if earlier else ()
        self._strangers = frozenset(row.external_task_id for row in unlisted)
        self._unlisted = len({row.path for row in unlisted if stored(row, folder) is not None})
        rows = earlier.rows if earlier else (None,) * len(self.items)
        # a value takes another's place whole, so the thread that writes reads them without a lock
        self.entries = [Entry() if row is None else self._priced(from_journal(row, folder)) for row in rows]
        for index, (item, entry) in enumerate(zip(self.items, self.entries, strict=True)):
            self._by_name[item.name].append(index)
            if entry.external_task_id is not None:
                self._by_id[entry.external_task_id] = index
                self.entries[index] = self._remembered(entry)
        self._documents = Documents(folder, self.items, self._estimates)
        self._gallery: Gallery | None = None

    # What is told, on the event loop

    def tell(self, event: Event) -> None:
        """The client's hook."""
        index = self._index(event)
        if index is None:
            return
        before = self.entries[index]
        if event.external_task_id not in (None, before.external_task_id):
            before = self._remembered(Entry(external_task_id=event.external_task_id))
        self._set(index, after_event(before, event, self.items[index].name))

    def ended(self, completion: Completion) -> None:
        """One item came to its end."""
        index, entry = completion.index, self.entries[completion.index]
        known = completion.task.external_task_id
        if known not in (None, entry.external_task_id):
            entry = self._remembered(Entry(external_task_id=known))
        self._met.add(index)
        self._set(index, after_end(entry, completion, self.items[index].name))

    def summary(self, entries: Sequence[Entry] | None = None) -> Summary:
        """The batch as a whole, as it stands now."""
        entries = self.entries if entries is None else entries
        counts = collections.Counter[str](entry.state for entry in entries)
        costs = Costs.of(zip(entries, self._estimates, strict=True))
        return Summary(
            title=self._title,
            provider=self._provider.name,
            state=self._state,
            began_at=datetime.fromtimestamp(self._began, UTC),
            written_at=datetime.fromtimestamp(self._clock(), UTC),
            total=len(entries),
            done=counts["done"],
            failed=counts["failed"],
            running=counts["running"],
            waiting=counts["waiting"],
            not_submitted=counts["not_submitted"],
            units=costs.units,
            estimated=costs.estimated,
            unknown=costs.unknown,
            budget=None if self._budget is None else self._budget.limit,
            spent=None if self._budget is None else self._budget.spent,
            unlisted=self._unlisted,
        )

    def costs_now(self) -> Costs:
        """What the items cost that this run brought to their end, or brings there."""
        pairs = zip(self.entries, self._estimates, strict=True)
        return Costs.of((entry, estimate) for entry, estimate in pairs if not entry.resumed)

    # Writing

    @contextlib.asynccontextmanager
    async def kept(self) -> AsyncGenerator[None]:
        """Keep both files written while the block runs, and write them once more when it is over.

        The client is closed within the block, so that the end tells what still runs. Both are written in a
        thread when there is news, and every 30 s without; at most every 2 s and for at most a tenth of the
        time. What prevents it is told once; the block never hears of it.
        """
        self._state = "running"
        self._news.set()
        with ThreadPoolExecutor(1, "kling-report") as pool:  # one thread: a writing waits for the one before
            keeper = asyncio.create_task(self._keep(pool))
            try:
                yield
            finally:
                keeper.cancel()
                await asyncio.gather(keeper, return_exceptions=True)
                self._state = "ended"
                self.entries = [after_run(entry) for entry in self.entries]
                # cancelled once more, the pool still waits for it when it is left
                await asyncio.shield(asyncio.get_running_loop().run_in_executor(pool, self._try_to_write))

    def write(self) -> None:
        """Write both files, each at once or not at all. Blocking: for a thread, and for one at a time.

        Raises:
            OSError: no space, no permission.
        """
        entries = list(self.entries)
        summary = self.summary(entries)
        try:
            self._write_document(summary, entries)
        finally:  # what keeps one from being written need not keep the other
            self._write_page(summary, entries)

    def _write_document(self, summary: Summary, entries: Sequence[Entry]) -> None:
        if self._is_ours:
            _replace(self._folder / FILE_NAME, self._documents.report(summary, entries))
        else:
            self._tell_once(FILE_NAME, f"{self._folder / FILE_NAME} is not of ours and is left alone")

    def _write_page(self, summary: Summary, entries: Sequence[Entry]) -> None:
        page = self._folder / PAGE_NAME
        try:
            from kling_async.batch.gallery import Gallery, is_ours  # Jinja2 is in an extra
        except ImportError:
            self._tell_once(PAGE_NAME, f"{PAGE_NAME} needs Jinja2: {install('cli')}")
            return
        if self._gallery is None:
            if not is_ours(page):
                self._tell_once(PAGE_NAME, f"{page} is not a gallery of ours and is left alone")
                return
            self._gallery = Gallery(self._folder, self.items, self._estimates)
        _replace(page, self._gallery.page(summary, entries, patience=_PATIENCE[self._state]))
        self.page = page

    async def _keep(self, pool: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_HEARTBEAT):
                    await self._news.wait()
            self._news.clear()
            took = await loop.run_in_executor(pool, self._try_to_write)
            await asyncio.sleep(max(_LEAST_INTERVAL, took * _SHARE))

    def _try_to_write(self) -> float:
        """Write, and return the seconds it took."""
        began = time.monotonic()
        try:
            self.write()
        except OSError as error:
            what = str(error.filename or f"the report in {self._folder}")
            self._tell_once(what, f"{what} cannot be written: {error.strerror or error}")
        except Exception as bug:  # noqa: BLE001 - a picture that no decoder foresaw must not cost a paid video
            what = f"{type(bug).__name__}: {bug}"
            self._tell_once("", f"the report in {self._folder} cannot be written: {what}")
        return time.monotonic() - began

    def _tell_once(self, about: str, line: str) -> None:
        if about not in self._told:
            self._told.add(about)
            self._warn(line)

    # Who is meant

    def _index(self, event: Event) -> int | None:
        """Whose *event* it is: known by its external_task_id, before that by what the item is called."""
        external, name = event.external_task_id, event.key
        if external in self._strangers:
            return None
        index = None if external is None else self._by_id.get(external)
        if index is None:
            # several may be called alike: each takes one of them, in the order they are submitted
            alike = self._by_name.get(name or "", ())
            index = next((each for each in alike if each not in self._met), None)
        if index is not None and external is not None:
            self._met.add(index)
            self._by_id[external] = index
        return index

    def _set(self, index: int, entry: Entry) -> None:
        if entry is not self.entries[index]:
            self.entries[index] = self._priced(entry)
            self._news.set()

    def _priced(self, entry: Entry) -> Entry:
        """*entry* without the units that a gateway was charged: what that charges, prices alone tell."""
        if tells_charges(self._provider) or entry.units is None:
            return entry
        return attrs.evolve(entry, units=None)

    def _remembered(self, entry: Entry) -> Entry:
        """*entry* with the times that an earlier run's report holds of its task."""
        former = self._former.get(entry.external_task_id or "")
        return entry if former is None else attrs.evolve(entry, times=entry.times.over(former))


def _replace(path: Path, data: bytes) -> None:
    """Let *path* hold *data*: whoever reads it finds the old file or the new one, never a part."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error
