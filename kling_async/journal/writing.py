"""The crash-safe record of every task: one SQLite file, readable by any SQLite tool.

A row is durable before the POST it speaks of leaves, and before anyone is told what it says. Records that
come while one commit is under way share the next: with the disk asked to be sure each time (WAL,
synchronous=FULL) that is what makes certainty cheap. One thread of the journal's own does all SQLite work.

The file belongs to one process at a time. `BEGIN EXCLUSIVE` on a second file, ``<journal>.lock``, is held
for as long as the journal is open; every system frees it when the process dies.
"""

import asyncio
import functools
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, TypeVar

from kling_async.journal.schema import LIVE, MIGRATIONS, Record, UnfitError, name_of
from kling_async.journal.siblings import Sibling, Siblings
from kling_async.journal.store import Store, open_store
from kling_async.protocol.errors import JournalError

__all__ = ["Journal"]

T = TypeVar("T")

BATCH = 512
"""Records a commit: beyond it the longest wait grows and the throughput does not."""


class Journal:
    """An open journal. Made by `open`; every method is called on the event loop that opened it."""

    def __init__(self, threads: ThreadPoolExecutor, store: "Store") -> None:
        self.path = store.path
        self.namespace = store.namespace
        self._threads = threads
        self._store = store
        self._names = store.names
        self._loop = asyncio.get_running_loop()
        self._pid = os.getpid()
        self._pending: list[tuple[Record, asyncio.Future[None]]] = []
        self._unwritten: dict[str, Record] = {}
        self._puts = self._settled = 0
        self._job: asyncio.Future[Sequence[JournalError | None]] | None = None
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        namespace: str | None = None,
        now: float,
        migrations: Sequence[str] = MIGRATIONS,
    ) -> Self:
        """Open the journal at *path*, or make it; of a folder, the first free one in it, or one more.

        Args:
            path: the file or folder.
            namespace: what a new journal derives ids of items without a key from; left out, a random one.
            now: Unix seconds, to tell others since when it is in use.
            migrations: the steps from an empty file to this version's schema.

        Raises:
            JournalError: in use (the message says by whom), newer, damaged, no journal, or not writable.
                The file is left as it was.
        """
        threads = ThreadPoolExecutor(1, thread_name_prefix="kling-async journal")
        opened: list[Store] = []

        def opening() -> Store:
            opened.append(open_store(path, namespace=namespace, now=now, migrations=migrations))
            return opened[0]

        def abandon() -> None:
            for store in opened:
                store.close()

        try:
            store = await asyncio.get_running_loop().run_in_executor(threads, opening)
        except BaseException:
            threads.submit(abandon)  # after `opening`, which goes on where the waiter was cancelled
            threads.shutdown(wait=False)
            raise
        return cls(threads, store)

    def put(self, record: Record) -> "asyncio.Future[None]":
        """Write *record* over the row of its external_task_id; the future is done when it is durable.

        The future's exception is a JournalError: the row is not on disk. Unless it is the record that SQLite
        cannot store, it is kept and written with the next one.
        """
        future: asyncio.Future[None] = self._loop.create_future()
        refusal = self._refusal()
        if refusal is not None:
            future.set_exception(refusal)
            return future
        self._puts += 1
        self._names.add(name_of(record.key, record.request_hash))
        if not self._pending and self._job is None:
            self._loop.call_soon(self._write)  # with what else is put in this turn of the loop
        self._pending.append((record, future))
        return future

    async def find(self, key: str, request_hash: str) -> Record | None:
        """The row of *key* for this request, of the latest generation; of several accounts, the latest.

        What is new, as most are, costs no look at the file.
        """
        if name_of(key, request_hash) not in self._names and self._refusal() is None:
            return None
        where = "WHERE key = ? AND request_hash = ? ORDER BY generation DESC, updated_at DESC LIMIT 1"
        rows = await self._read(where, key, request_hash)
        return rows[0] if rows else None

    async def find_beside(self, key: str, request_hash: str) -> Sequence[Sibling]:
        """What the other journals of its folder know of an item; of a file that was given by itself, nothing.

        Whatever another process has recorded by now is seen.

        Raises:
            JournalError: one cannot be read.
        """
        return await self._ask_siblings(lambda siblings: siblings.find(key, request_hash))

    async def unfinished_beside(self, account: str, host: str) -> Sequence[Path]:
        """The other journals of its folder that hold unfinished tasks of an account, also those in use.

        Raises:
            JournalError: one cannot be read.
        """
        return await self._ask_siblings(lambda siblings: siblings.unfinished(account, host))

    async def _ask_siblings(self, ask: Callable[[Siblings], Sequence[T]]) -> Sequence[T]:
        siblings = self._store.siblings
        if siblings is None:
            return ()
        self._insist()
        return await self._in_thread(functools.partial(ask, siblings))

    def leave_out(self, paths: Collection[Path]) -> None:
        """Have `find_beside` ask those no more: they are open here, and know more than their files."""
        if self._store.siblings is not None:
            self._store.siblings.leave_out(paths)

    async def live(self) -> Sequence[Record]:
        """The rows of tasks that had not ended, the earliest first; a state of a later version is none."""
        marks = ", ".join("?" * len(LIVE))
        return await self._read(f"WHERE state IN ({marks}) ORDER BY intended_at", *LIVE)

    async def all(self) -> Sequence[Record]:
        """Every row, the earliest first."""
        return await self._read("ORDER BY intended_at")

    async def flush(self) -> None:
        """Wait until everything put so far is durable, or known not to be."""
        last = self._puts
        self._write()
        while self._job is not None and self._settled < last:
            await asyncio.wait([self._job])

    async def aclose(self) -> None:
        """Write what is left, fold the log into the file and free the lock.

        Cancelled, it goes on; called again, it waits for the same end. In a forked child it does nothing.
        """
        if os.getpid() != self._pid:
            return
        if self._closing is None:
            last = [self.put(record) for record in list(self._unwritten.values())]
            self._closing = self._loop.create_task(self._close(last), name="kling-async journal closing")
        await asyncio.shield(self._closing)

    async def _close(self, last: Iterable["asyncio.Future[None]"]) -> None:
        await asyncio.gather(*last, return_exceptions=True)
        await self.flush()
        await self._in_thread(self._store.close)
        self._threads.shutdown()  # idle by now

    async def _read(self, where: str, *values: Any) -> Sequence[Record]:
        self._insist()
        await self.flush()
        return await self._in_thread(functools.partial(self._store.select, where, values))

    def _insist(self) -> None:
        refusal = self._refusal()
        if refusal is not None:
            raise refusal

    def _refusal(self) -> JournalError | None:
        """Why it cannot be used any more: in a forked child its thread is missing, and its lock not held."""
        if os.getpid() == self._pid and self._closing is None:
            return None
        why = "is closed" if os.getpid() == self._pid else "belongs to the parent process"
        return JournalError(f"the journal {self.path} {why}", advice="open a journal of this process's own")

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await self._loop.run_in_executor(self._threads, function)

    def _write(self) -> None:
        """Start the next commit, if none is under way."""
        if self._job is not None or not self._pending:
            return
        batch, self._pending = self._pending[:BATCH], self._pending[BATCH:]
        for record, _ in batch:
            self._unwritten.pop(record.external_task_id, None)
        left = list(self._unwritten.values())
        records = [*left, *(record for record, _ in batch)]
        self._job = self._loop.run_in_executor(self._threads, self._store.write, records)
        self._job.add_done_callback(functools.partial(self._written, records, batch))

    def _written(
        self,
        records: Sequence[Record],
        batch: Sequence[tuple[Record, "asyncio.Future[None]"]],
        job: "asyncio.Future[Sequence[JournalError | None]]",
    ) -> None:
        self._job = None
        self._settled += len(batch)
        errors = job.result()
        for record, error in zip(records, errors, strict=True):
            if error is None or isinstance(error, UnfitError):
                self._unwritten.pop(record.external_task_id, None)
            else:
                self._unwritten[record.external_task_id] = record
        for (_, future), error in zip(batch, errors[len(records) - len(batch) :], strict=True):
            if future.cancelled():
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
        self._write()
