"""One mode of the kill test: the worker's lives, how each ends, and what came of it; see `kill`."""

import asyncio
import contextlib
import itertools
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator
from pathlib import Path
from random import Random
from typing import Final

import attrs

import kling_async
from kling_async import KLING, APIKey, KlingClient, new_api
from kling_async.journal import FILE_NAME, MIGRATIONS, Journal
from kling_async.simulator import Faults, Simulator, serve
from kling_async.testing import SimulatorTransport

from .kill_batch import Batch, difference, video

WORKER: Final = Path(__file__).with_name("kill_worker.py")

NAMED: Final = ("intent", "received", "made", "reply", "download", "saved", "migrating")
"""The points that are aimed at; `random` is the rest."""

_DECK: Final = (
    *("intent", "made", "reply", "download", "migrating", "random", "received"),
    *("reply", "saved", "intent", "download", "made", "random", "migrating"),
    *("received", "intent", "reply", "download", "made", "random", "saved"),
)
"""Where a mode's kills are aimed, again and again in this order: about three at each point in 21."""

_BEFORE_COMMIT: Final = frozenset({"intent", "received", "made", "reply"})
"""Points at which the journal must hold an intent without an answer."""

_FAULTS: Final = (
    "create:lost_reply_before p=0.06; create:lost_reply_after p=0.06; create:refuse code=5000 p=0.05;"
    "create:refuse code=5001 made=1 p=0.05; create:html p=0.03; create:html made=1 p=0.03;"
    "create:refuse code=1302 p=0.05; create:refuse code=1303 p=0.05;"
    "query:lost_reply_after p=0.05; query:refuse code=5000 p=0.05; query:html p=0.05;"
    "download:cut_reply p=0.08; download:html p=0.05; download:slow bytes_per_second=3000000 p=0.5"
)
"""What goes wrong besides the kills."""


@attrs.frozen(kw_only=True)
class Mode:
    """How the other side behaves.

    Attributes:
        name: in the table.
        duplicates: a known external_task_id is accepted and billed again, instead of refused.
        lag: seconds for which a look-up does not find a new task.
        gateway: a gateway that cannot look up at all.
        quarantine: seconds the client waits before it sends again; longer than *lag*, or it pays twice.
    """

    name: str
    duplicates: bool = False
    lag: float = 0.0
    gateway: bool = False
    quarantine: float = 1.0

    @property
    def faults(self) -> str:
        """The script of faults."""
        script = [_FAULTS]
        if self.duplicates:
            script.append("create:duplicates")
        if self.lag:
            script.append(f"query:lookup_lag seconds={self.lag}; list:lookup_lag seconds={self.lag}")
        return ";".join(script)


@attrs.define(eq=False)
class Tally:
    """What came of one mode. Items are counted over all its batches.

    Attributes:
        kills: by the point at which they struck.
        restarts: lives after the first of each batch.
        doubled: items for which too many tasks were made.
        lost: items without a task, or without their whole video on disk.
        may_exist: items that ended as MAY_EXIST.
        extra: files that are neither a delivered video nor the journal's.
        problems: everything that must not be, one line each.
    """

    mode: Mode
    kills: Counter[str] = attrs.field(factory=Counter[str])
    restarts: int = 0
    items: int = 0
    made: int = 0
    doubled: int = 0
    lost: int = 0
    may_exist: int = 0
    extra: list[str] = attrs.field(factory=list[str])
    seconds: float = 0.0
    problems: list[str] = attrs.field(factory=list[str])


@attrs.define(eq=False)
class Life:
    """One run of the worker, and where it is to be killed.

    Attributes:
        point: where; empty for a life that may live.
        nth: at which time the point is reached.
        pid: the process id, while it lives.
        downloading: videos on their way to it.
        late: seconds from a download's start to the kill.
    """

    point: str
    nth: int
    late: float
    pid: int | None = None
    downloading: int = 0

    def kill(self) -> None:
        """End it now, if it lives."""
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):  # it has just died by itself
                os.kill(self.pid, signal.SIGKILL)

    def on_event(self, event: str) -> None:
        """The simulator has come to a point of some request; nothing goes on there until this returns."""
        if event.startswith("download-"):
            self._on_download(event)
        elif event == f"create-{self.point}":
            self.nth -= 1
            if self.nth == 0:
                self.kill()

    def _on_download(self, event: str) -> None:
        if event == "download-started":
            self.downloading += 1
            self.nth -= self.point == "download"
            if self.point == "download" and self.nth <= 0:
                asyncio.get_running_loop().call_later(self.late, self._kill_downloading)
        elif event in ("download-replied", "download-lost"):
            self.downloading -= 1

    def _kill_downloading(self) -> None:
        if self.downloading > 0:
            self.kill()
        self.late = 0.0  # that one was faster: the next dies at its first byte


class Killing:
    """One mode: batches against one simulator until every kill is spent."""

    def __init__(self, mode: Mode, folder: Path, *, kills: int, items: int, seed: int) -> None:
        self.mode = mode
        self.tally = Tally(mode)
        self._folder = folder
        self._words = folder / "complaints.txt"
        self._items = items
        self._deck = list(itertools.islice(itertools.cycle(_DECK), kills))
        self._rng = Random(seed)
        self._life = Life("", 0, 0.0)
        self._early = 0  # kills in a row that came before the migration; a slow machine takes longer to begin
        self._batch: Batch | None = None
        self._simulator = Simulator(
            seconds=(0.3, 1.0),
            parallel=8,
            face="new-api-2025" if mode.gateway else "kling",
            lookup=not mode.gateway,
            rng=Random(seed),
            render=video,
            faults=Faults.parse(mode.faults, seed=seed),
        )

    async def run(self, deadline: float) -> Tally:
        """Spend the kills and judge; *deadline* is in seconds."""
        started = time.monotonic()
        try:
            async with (
                asyncio.timeout(deadline),
                serve(self._simulator, on_event=self._on_event) as base_url,
                self._worker() as worker,
            ):
                for number in itertools.count(1):
                    name = f"b{number}"
                    self._batch = batch = Batch(name, self._folder / name, self._items)
                    if not await self._finish(batch, worker, base_url):
                        break
                    await self._judge(batch)
                    if not self._deck:
                        break
        except TimeoutError:
            self._problem(f"not done after {deadline:g} s: {self._missing()}")
        finally:
            self.tally.seconds = time.monotonic() - started
        return self.tally

    @contextlib.asynccontextmanager
    async def _worker(self) -> AsyncGenerator[asyncio.subprocess.Process]:
        """The process that gives each job its life; neither outlives the block."""
        root = str(Path(kling_async.__file__).parents[1])
        with self._words.open("wb") as words:
            worker = await asyncio.create_subprocess_exec(
                *(sys.executable, str(WORKER)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=words,
                start_new_session=True,
                env={**os.environ, "PYTHONPATH": root},
            )
        try:
            yield worker
        finally:
            self._life.kill()
            os.killpg(worker.pid, signal.SIGKILL)  # a life may have begun that has not told its id yet
            await worker.communicate()

    def _on_event(self, event: str) -> None:
        self._life.on_event(event)

    async def _finish(self, batch: Batch, worker: asyncio.subprocess.Process, base_url: str) -> bool:
        """Run the worker until it is done; False: it broke."""
        for life in itertools.count():
            self.tally.restarts += life > 0
            code = await self._live(batch, worker, base_url)
            if code == 0:
                return True
            if code not in (-signal.SIGKILL, 3):
                self._problem(f"the worker ended with {code}: {self._last_words()}")
                return False
        return False

    async def _live(self, batch: Batch, worker: asyncio.subprocess.Process, base_url: str) -> int:
        """One life of the worker; returns its exit code."""
        if self._deck and self._deck[0] == "migrating" and not batch.journal.exists():
            self._deck.append(self._deck.pop(0))
        point = self._deck[0] if self._deck else ""
        nth = self._rng.randint(1, 3)
        self._life = life = Life(point, nth, self._rng.choice((0.0, self._rng.uniform(0, 0.3))))
        job = {
            "base_url": base_url,
            "gateway": self.mode.gateway,
            "folder": str(batch.folder),
            "items": batch.items,
            "picture": str(batch.picture),
            "quarantine": self.mode.quarantine,
            "point": point,
            "nth": nth,
        }
        backup = batch.journal.with_name(f"{FILE_NAME}.v{len(MIGRATIONS)}")
        before = backup.stat().st_mtime_ns if backup.exists() else 0
        assert worker.stdin is not None
        assert worker.stdout is not None
        worker.stdin.write(json.dumps(job).encode() + b"\n")
        lines: list[bytes] = []
        async for line in worker.stdout:
            match line.split():
                case [b"began", pid]:
                    life.pid = int(pid)
                    if point == "random":
                        self._kill_after(life, self._rng.uniform(0, 1.5))
                case [b"migrating"]:
                    self._kill_after(life, self._rng.uniform(0.01, 0.15) * (1 + self._early))
                case [b"ended", told]:
                    code, life.pid = int(told), None
                    break
                case _:
                    lines.append(line)
        else:
            return -1
        batch.completions = [json.loads(line) for line in lines if line.strip()] if code in (0, 3) else []
        if code == -signal.SIGKILL:
            begun = point != "migrating" or (backup.exists() and backup.stat().st_mtime_ns != before)
            self._early = 0 if begun else self._early + 1
            self._count(batch, point if begun else "random")
        return code

    def _kill_after(self, life: Life, seconds: float) -> None:
        asyncio.get_running_loop().call_later(seconds, life.kill)

    def _last_words(self) -> str:
        """The end of what the worker complained of."""
        return self._words.read_text("utf-8", "replace")[-2000:]

    def _count(self, batch: Batch, point: str) -> None:
        """The worker was killed at *point*."""
        self.tally.kills[point] += 1
        if self._deck and self._deck[0] == point:
            self._deck.pop(0)
        if point in _BEFORE_COMMIT and not batch.intents():
            self._problem(f"killed at {point}, and the journal holds no intent")

    async def _judge(self, batch: Batch) -> None:
        """Hold what the last life delivered against the ledger and the disk."""
        tally = self.tally
        wanted = Counter(prompt for _, prompt in batch.items)
        made = Counter(str(each.body["prompt"]) for each in self._simulator.ledger.made)
        in_doubt = Counter(batch.items[done["index"]][1] for done in batch.completions if done["may_exist"])
        tally.items += len(batch.items)
        tally.made += sum(made[prompt] for prompt in wanted)
        tally.may_exist += in_doubt.total()
        for prompt, count in wanted.items():
            if made[prompt] > count:
                tally.doubled += made[prompt] - count
                self._problem(f"{prompt!r} was wanted {count} times and made {made[prompt]} times")
            least = count - in_doubt[prompt] if self.mode.gateway else count
            if made[prompt] < least:
                tally.lost += least - made[prompt]
                self._problem(f"{prompt!r} was made {made[prompt]} times of {count}")
        for name, tasks in self._simulator.ledger.made_by_external_id().items():
            if len(tasks) > 1 and tasks[0].body["prompt"] in wanted:
                self._problem(f"{len(tasks)} tasks were made under {name}")
        if in_doubt and not self.mode.gateway:
            self._problem(f"in doubt although it can be looked up: {sorted(in_doubt)}")
        if sorted(done["index"] for done in batch.completions) != list(range(len(batch.items))):
            self._problem("not exactly one completion for each item")
        if self._simulator.ledger.leaks:
            self._problem("the video host was shown the API's credentials")
        await self._judge_files(batch)
        tally.extra += batch.strays()
        await self._migrate_for_good(batch)

    async def _judge_files(self, batch: Batch) -> None:
        """Each video on disk is, byte for byte, what the simulator has of its own task."""
        simulator = self._simulator
        faults = simulator.faults
        simulator.faults = Faults()  # it is asked in peace
        url = simulator.public_url
        provider = new_api(url) if self.mode.gateway else KLING.at(url)
        delivered = [done for done in batch.completions if not done["may_exist"]]
        async with KlingClient(APIKey("sim-key"), provider, transport=SimulatorTransport(simulator)) as kling:
            for done in delivered:
                task = await kling.get_task(done["task_id"])
                reply = simulator.handle("GET", task.video.url.removeprefix(url), {}, b"", time.time())
                size = difference(Path(done["path"]), reply.body)
                if size is not None:
                    self.tally.lost += 1
                    self._problem(f"{done['path']} has {size} bytes of {len(reply.body)}")
        if len({done["task_id"] for done in delivered}) != len(delivered):
            self._problem("one task was delivered for two items")
        simulator.faults = faults

    async def _migrate_for_good(self, batch: Batch) -> None:
        """The journal that was killed at migrating holds every row, and can be migrated."""
        for steps in (MIGRATIONS, (*MIGRATIONS, "ALTER TABLE tasks ADD COLUMN later TEXT")):
            journal = await Journal.open(batch.journal, now=time.time(), migrations=steps)
            rows = len(await journal.all())
            await journal.aclose()
            if rows != len(batch.items):
                self._problem(f"the journal holds {rows} rows for {len(batch.items)} items")

    def _problem(self, what: str) -> None:
        self.tally.problems.append(f"{self.mode.name}: {what}")

    def _missing(self) -> str:
        """What a mode that does not end still waits for."""
        made = Counter(str(each.body["prompt"]) for each in self._simulator.ledger.made)
        batch = self._batch
        prompts = [] if batch is None else [prompt for _, prompt in batch.items]
        missing = [prompt for prompt in prompts if not made[prompt]]
        files = 0 if batch is None else len(list(batch.folder.glob("*.mp4")))
        return (
            f"{len(prompts)} items, {files} files, not made {missing}, kills left {self._deck}, "
            f"at {self._life.point!r}, last words: {self._last_words()}"
        )
