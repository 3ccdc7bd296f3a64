"""Any sequence of requests, replies, news, crashes and restarts: each item is made at most once and known."""

import asyncio
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import hypothesis.strategies as st
import virtual_time
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kling_async import Retries, TaskStatus, Video
from kling_async.protocol.models import Task
from kling_async.simulator.faults import Faults
from kling_async.webhook import Callback
from tests.conftest import World

KEYS = st.sampled_from("abcd")
REPLIES = st.sampled_from(
    [
        "",
        "lost_reply_before",
        "lost_reply_after",
        "reset_in_body at=1",
        "refuse code=1301",
        "refuse code=1303",
        "refuse code=1302",
        "refuse code=5000",
        "refuse code=5000 made=1",
        "html status=504 made=1",
        "empty status=429",
    ]
)
VIDEOS = (Video(id="1", url="https://media.example.org/v.mp4", duration=5),)
STRICT = "create:duplicates; query:lookup_lag seconds=2"
"""A server that is no help: it makes every task it is asked for, and shows it late."""


class Lifecycle(RuleBasedStateMachine):
    """One account, one journal, and processes that come and go."""

    @initialize(lags=st.booleans(), latency=st.sampled_from([0.0, 1.0]))
    def begin(self, lags, latency):
        """An empty journal and a first process."""
        self.strict = STRICT if lags else "create:duplicates"
        self.runner = asyncio.Runner(loop_factory=virtual_time.VirtualTimeLoop)
        self.folder = Path(tempfile.mkdtemp())
        self.here = World(latency=latency, seconds=25, fail_marker="d", faults=Faults.parse(self.strict))
        self.runs = 0
        self.wanted = set()
        self.start(self.folder / "0.sqlite")

    def start(self, journal):
        """A process on *journal*."""
        self.journal = journal
        retries = Retries(attempts=3, factor=0.5, quarantine=20)
        self.kling = self.here.client(journal=journal, max_in_flight=2, retries=retries)

    @rule(key=KEYS, reply=REPLIES, seconds=st.sampled_from([0, 0.6, 3]))
    def submit(self, key, reply, seconds):
        """An item is wanted, again or for the first time; the next create is answered with *reply*."""

        async def submit():
            self.here.simulator.faults.clear()
            self.here.simulator.faults.add(
                *Faults.parse(f"create:{reply} times=1; {self.strict}" if reply else self.strict)
            )
            self.kling.submit_soon(self.here.request(key), key=key)
            await asyncio.sleep(seconds)

        self.wanted.add(key)
        self.runner.run(submit())

    @rule(seconds=st.sampled_from([0.3, 1, 5, 21, 60]))
    def wait(self, seconds):
        """Time passes."""
        self.runner.run(asyncio.sleep(seconds))

    @precondition(lambda self: self.here.ledger.made)
    @rule(data=st.data())
    def news(self, data):
        """Somebody tells what he has seen of a task, now or a while ago."""
        made = data.draw(st.sampled_from(self.here.ledger.made))
        status = data.draw(st.sampled_from([TaskStatus.SUBMITTED, TaskStatus.PROCESSING, TaskStatus.UNKNOWN]))

        async def tell():
            for handle in self.kling.tasks():
                if handle._flight.judged.external_task_id == made.external_task_id:
                    handle._engine.observe(handle._flight, Task(made.task_id, made.external_task_id, status))

        self.runner.run(tell())

    @precondition(lambda self: self.here.ledger.made)
    @rule(data=st.data(), verified=st.booleans())
    def callback(self, data, verified):
        """Kling posts how a task stands, or somebody else posts that it has ended."""
        made = data.draw(st.sampled_from(self.here.ledger.made))

        async def post():
            status = TaskStatus.SUCCEED if made.succeeds else TaskStatus.FAILED
            if verified and made.ended > self.here.now():
                status = TaskStatus.PROCESSING
            task = Task(made.task_id, made.external_task_id, status, videos=VIDEOS)
            self.kling.observe(Callback(task=task, verified=verified))

        self.runner.run(post())

    @rule(key=KEYS)
    def withdraw(self, key):
        """What waits in line is taken back."""

        async def withdraw():
            for handle in self.kling.tasks():
                if handle.key == key:
                    handle.withdraw()

        self.runner.run(withdraw())

    @rule(cancelled=st.booleans())
    def close_and_start(self, cancelled):
        """An orderly end, or one that is cancelled at once, and another process."""

        async def close():
            closing = asyncio.ensure_future(self.kling.aclose())
            if cancelled:
                await asyncio.sleep(0)
                closing.cancel()
            await asyncio.wait([closing])

        self.runner.run(close())
        self.start(self.journal)

    @rule()
    def crash_and_start(self):
        """The process is killed: another one finds what is on the disk at this moment."""
        self.runs += 1
        copy = self.folder / f"{self.runs}.sqlite"
        for tail in ("", "-wal"):
            if (kept := Path(f"{self.journal}{tail}")).exists():
                shutil.copy(kept, f"{copy}{tail}")

        async def kill():
            if self.kling._work is not None:
                main = self.kling._work.engine.crew._main
                assert main is not None
                main.cancel()
                await asyncio.wait([main])

        self.runner.run(kill())
        self.start(copy)

    @invariant()
    def nothing_is_paid_twice(self):
        """Each item was made at most once."""
        counts = Counter(made.body["prompt"] for made in self.here.ledger.made)
        assert max(counts.values(), default=0) <= 1, counts

    def teardown(self):
        """Whatever happened, a last run ends every item in a known state, each wanted one made once."""
        if not hasattr(self, "runner"):
            return

        async def last():
            self.here.simulator.faults.clear()
            self.here.simulator.faults.add(*Faults.parse(self.strict))
            items = [(key, self.here.request(key)) for key in sorted(self.wanted)]
            async with self.kling as kling:
                refused = []
                async for done in kling.completions(items):
                    if done.task.status is TaskStatus.REFUSED:
                        refused.append((done.key, done.request))
                    elif done.key == "d":
                        assert done.task.status is TaskStatus.FAILED
                    else:
                        assert done.ok, done.error
                async for done in kling.completions(refused):
                    assert done.ok or done.key == "d"
                assert kling.tasks() == [] or all(not handle.done() for handle in kling.tasks())

        try:
            self.runner.run(last())
            counts = Counter(made.body["prompt"] for made in self.here.ledger.made)
            assert counts == dict.fromkeys(self.wanted, 1)
        finally:
            self.runner.close()
            shutil.rmtree(self.folder)


TestLifecycle = Lifecycle.TestCase
TestLifecycle.settings = settings(max_examples=80, stateful_step_count=14)
