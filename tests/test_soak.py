"""Eight thousand tasks through every kind of fault, with the real journal, in virtual time."""

import asyncio
import contextlib
import faulthandler
import gc
import random
import resource
import sqlite3
import sys
from collections import Counter
from pathlib import Path

import virtual_time

from kling_async import ConnectError, Outcome, Polling, ResponseLostError
from kling_async.simulator.faults import Faults

COUNT = 5_000
STEP = COUNT // 8
"""Completions between two looks at the memory."""
STREAMS = 6
PAGE = resource.getpagesize()

REFUSED = ("PolicyError", "GatewayError")
"""What makes no task: a forbidden prompt, a redirect; a refusal of which half arrived may come too."""

FAULTS = """
create:refuse code=1302 p=0.004; create:refuse code=1303 p=0.01; create:refuse code=5000 p=0.005;
create:refuse code=5001 made=1 p=0.005; create:html p=0.003; create:html made=1 p=0.003;
create:empty status=429 retry_after=2 p=0.003; create:truncated_json p=0.003; create:redirect p=0.0005;
create:forgotten seconds=20 p=0.0005; create:never_ends p=0.0005; create:late_success p=0.005;
query:refuse code=5000 p=0.02; query:refuse code=1302 p=0.01;
query:html p=0.02; query:html status=200 p=0.005;
query:empty status=429 retry_after=3 p=0.01; query:truncated_json p=0.01; query:unknown_status p=0.02;
query:lookup_lag seconds=20 p=0.5; query:lookup_lag seconds=5 by_task_id=1 p=0.2
"""


def descriptors() -> int:
    """How many files and sockets this process has open, where the system shows it."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


def resident() -> int:
    """Bytes of memory this process occupies, where the system shows it."""
    file = Path("/proc/self/statm")
    return int(file.read_text().split()[1]) * PAGE if file.exists() else 0


class Judge:
    """What was made, by the number in each prompt; the simulator lets go of tasks that have ended.

    So its own memory does not grow, and what grows is the client's.
    """

    def __init__(self, here) -> None:
        self.here = here
        self.made = bytearray(COUNT)
        self.completed = bytearray(COUNT)
        self.exists = bytearray(COUNT)
        self.ended: Counter[str] = Counter()

    def count(self, done) -> None:
        """Note one completion, and what was made until now."""
        number = int(done.request.prompt.split()[0])
        self.completed[number] += 1
        self.exists[number] = done.ok or done.error.outcome is Outcome.CREATED
        self.ended["ok" if done.ok else type(done.error).__name__] += 1
        for made in self.here.ledger.made:
            self.made[int(made.body["prompt"].split()[0])] += 1
        self.here.ledger.made.clear()
        self.here.calls.clear()

    def forget(self) -> None:
        """Have the simulator forget what ended five minutes ago, as it forgets after 30 days."""
        table = self.here.simulator._tasks
        now = self.here.now()
        for task in [each for each in table._by_id.values() if each.ended < now - 300]:
            del table._by_id[task.task_id], table._by_video[task.video_id]
            table._by_external_id.pop(task.external_task_id, None)
        table._by_kind["image2video"].clear()  # for lists alone
        self.here.simulator._urls._given.clear()


def test_five_thousand_through_mixed_faults(world, tmp_path: Path):
    """None lost, none doubled, less than 2 KiB a task in the last quarter, nothing left over.

    Replies are lost before and after the task was made, connections refused, gateways answer with web pages
    and halves of JSON, Kling refuses, forgets, never ends or fails tasks, look-ups lag: each item is made at
    most once and comes to its one end, which the journal tells too.
    """
    faulthandler.cancel_dump_traceback_later()  # half a minute of work is no hang: virtual time finds those
    rng = random.Random(3)
    journal = tmp_path / "journal.db"

    async def tamper(request, send):
        draw = rng.random()
        if draw < 0.004:
            raise ConnectError("refused")
        if draw < 0.008:
            raise ResponseLostError("lost before it was made")
        response = await send()
        if draw > 0.992:
            raise ResponseLostError("lost after it was made")
        return response

    def requests(first: int):
        for number in range(first, COUNT, STREAMS):
            text = "[fail]" if number % 50 == 0 else "[policy]" if number % 97 == 0 else "x"
            yield here.request(f"{number} {text}")  # without a key: of those with one 10,000 are remembered

    async def main() -> list[tuple[int, int]]:
        sizes: list[tuple[int, int]] = []

        async def read(stream) -> None:
            async for done in stream:
                judge.count(done)
                if judge.ended.total() % STEP == 0:
                    judge.forget()
                    gc.collect()
                    sizes.append((resident(), sys.getallocatedblocks()))

        polling = Polling(aim=None, factor=60, base=1, max_interval=60, jitter=0, give_up=3600, pollers=100)
        async with here.client(max_in_flight=None, polling=polling, journal=journal) as kling:
            async with asyncio.TaskGroup() as group:
                for first in range(STREAMS):
                    group.create_task(read(kling.completions(requests(first), timeout=None)))
            assert kling.tasks() == []
        return sizes

    here = world(
        tamper=tamper, seconds=lambda _: rng.choice((55.0, 55.0, 55.0, 115.0)), parallel=300, latency=0.2
    )
    here.simulator.faults = Faults.parse(FAULTS, seed=4)
    judge = Judge(here)
    before = descriptors()
    sizes = virtual_time.run(main())
    assert set(judge.completed) == {1}, "each request has exactly one completion"
    assert judge.made == judge.exists, "made once, or by its error never made"
    assert set(judge.ended) - {"ProtocolError"} == {
        *("ok", "TaskFailedError", "TaskLostError", "WaitTimeoutError"),
        *REFUSED,
    }
    struck = {kind for _, kind in here.ledger.faults}
    assert struck == {fault.kind for fault in here.simulator.faults}
    with contextlib.closing(sqlite3.connect(journal)) as rows:
        states = dict(rows.execute("SELECT state, count(*) FROM tasks GROUP BY state"))
    assert states == {
        "succeed": judge.ended["ok"],
        "failed": judge.ended["TaskFailedError"],
        "lost": judge.ended["TaskLostError"],
        "given_up": judge.ended["WaitTimeoutError"],
        "refused": sum(judge.ended[name] for name in (*REFUSED, "ProtocolError")),
    }
    (before_last, fewer), _, (end, more) = sizes[5:]
    assert (end - before_last) / (2 * STEP) < 2048
    assert (more - fewer) / (2 * STEP) < 8, "objects, whether or not the system has given memory for them"
    assert descriptors() == before
