"""How long 200 tasks take on a few slots, over an oracle, and what every second of an empty slot was lost to.

    python -m benchmarks.makespan [--runs 3] [--quick] [--json FILE]

The client with its default polling, in virtual time, against the simulator in memory: tasks of 67.5 to
112.5 s, calls of 0.5 s. The oracle knows the limit and every end and loses a POST's 0.5 s per task, nothing
else. An empty slot is lost to, whatever is true first:

- *POST*: a create that will be accepted has left and not arrived;
- *tail*: no request waits any more, while others are generated;
- *detection*: a task has ended and was not seen to end;
- *refused*: a create is out that will be refused;
- *unsent*: the slot is known to be free, a request waits, and nothing was sent: slots left to others, and
  the limit not yet known.

The parts and the generation are all of slots x makespan. Times are those of the simulator's ledger, of the
transport and of the client's events.
"""

import asyncio
import heapq
import json
import random
import sys
from collections import Counter
from typing import Any

import attrs

from benchmarks import alone
from benchmarks.figure import Figure, Result
from kling_async import KLING, APIKey, Completed, Event, ImageToVideo, KlingClient
from kling_async.protocol.wire import Request, Response
from kling_async.simulator import Simulator
from kling_async.simulator.ledger import Made
from kling_async.testing import SimulatorTransport
from kling_async.typing import Body
from tests import virtual_time

__all__ = ["measure"]

TASKS = 200
GENERATION = (67.5, 112.5)
"""Seconds a task takes, at least and at most."""
POST = 0.5
"""Seconds of a call; what the oracle needs to refill a slot."""
BUDGET = 1.03
REFUSED_BUDGET = 0.5
"""Refused creates per task."""
EPOCH = 1_800_000_000.0
"""Unix seconds at which each run begins."""
PARTS = ("post", "tail", "detection", "refused", "unsent")
"""What an empty slot is lost to, in the order in which they are asked."""
CASES = tuple((slots, told) for told in (False, True) for slots in (1, 2, 5, 20))
"""Slots of the account, and whether the client is told."""


@attrs.frozen
class Create:
    """A create: when it left, when it was answered, and the id of its task; None: it was refused."""

    left: float
    answered: float
    task_id: str | None


@attrs.define(eq=False)
class Watched:
    """A way to the simulator that notes every create."""

    inner: SimulatorTransport
    creates: list[Create] = attrs.field(factory=list[Create])

    async def send(self, request: Request, *, authorization: str, body: Body | None = None) -> Response:
        """See `kling_async.typing.Transport.send`."""
        left = unix()
        response = await self.inner.send(request, authorization=authorization, body=body)
        if request.method == "POST":
            made = json.loads(response.body).get("data") or {}
            self.creates.append(Create(left, unix(), made.get("task_id")))
        return response

    async def aclose(self) -> None:
        """See `kling_async.typing.Transport.aclose`."""


@attrs.frozen
class Run:
    """What happened in one run; times are Unix seconds.

    Attributes:
        slots: of the account.
        end: when the client had every task.
        made: the ledger's tasks.
        creates: what the client sent.
        seen: when each task was seen to end, by its id.
    """

    slots: int
    end: float
    made: tuple[Made, ...]
    creates: tuple[Create, ...]
    seen: dict[str, float]

    @property
    def makespan(self) -> float:
        """Seconds until the client had every task."""
        return self.end - EPOCH

    @property
    def oracle(self) -> float:
        """Seconds that the same tasks take one who knows the limit and every end, and refills at once."""
        free = [0.0] * self.slots
        for made in self.made:
            heapq.heappush(free, heapq.heappop(free) + POST + made.ended - made.created)
        return max(free)

    @property
    def refused(self) -> float:
        """Refused creates per task."""
        return sum(each.task_id is None for each in self.creates) / len(self.made)

    def parts(self) -> dict[str, float]:
        """Slot-seconds lost to each of `PARTS`; with those of generation they are slots x makespan."""
        lost: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        now = Counter({"waiting": len(self.made)})
        changes = self._changes()
        for (when, what, by), (until, _, _) in zip(changes, [*changes[1:], (self.end, "", 0)], strict=True):
            now[what] += by
            empty = self.slots - now["generated"]
            unlimited = {
                "post": now["posting"],
                "tail": empty if not now["waiting"] and now["generated"] else 0,
                "detection": empty if not now["waiting"] else now["unseen"],
                "refused": now["refused"],
                "unsent": empty,
            }
            for part in PARTS:
                share = min(empty, unlimited[part])
                lost[part] += share * (until - when)
                empty -= share
        return lost

    def _changes(self) -> list[tuple[float, str, int]]:
        """What began (1) and ended (-1), by time: requests waiting, creates out, tasks generated, unseen."""
        changes = [(EPOCH, "waiting", 0)]
        for create in self.creates:
            changes.append((create.left, "waiting", -1))
            if create.task_id is None:
                changes += [(create.left, "refused", 1), (create.answered, "refused", -1)]
                changes.append((create.answered, "waiting", 1))
            else:
                changes.append((create.left, "posting", 1))
        for made in self.made:
            changes += [(made.created, "posting", -1), (made.created, "generated", 1)]
            changes += [(made.ended, "generated", -1), (made.ended, "unseen", 1)]
            changes.append((self.seen[made.task_id], "unseen", -1))
        return sorted(changes, key=lambda change: change[0])


def unix() -> float:
    """Unix seconds of the loop in virtual time."""
    return EPOCH + asyncio.get_running_loop().time()


def run(slots: int, seed: int, *, told: bool, tasks: int = TASKS) -> Run:
    """Let a client make *tasks* tasks; *told*: it knows how many slots there are."""
    simulator = Simulator(seconds=GENERATION, parallel=slots, validates_schema=False, rng=random.Random(seed))
    transport = Watched(SimulatorTransport(simulator, clock=unix, latency=POST))
    seen: dict[str, float] = {}

    def hook(event: Event) -> None:
        if isinstance(event, Completed) and event.task_id is not None:
            seen[event.task_id] = unix()

    async def main() -> float:
        async with KlingClient(
            APIKey("sim-key"),
            KLING,
            max_in_flight=slots if told else None,
            transport=transport,
            clock=unix,
            rng=random.Random(seed),
            hooks=[hook],
        ) as kling:
            image = "https://cdn.example.org/a.png"
            requests = (ImageToVideo(image=image, prompt=str(number)) for number in range(tasks))
            async for done in kling.completions(requests, timeout=None):
                done.result()
            return unix()

    end = virtual_time.run(main())
    return Run(slots, end, tuple(simulator.ledger.made), tuple(transport.creates), seen)


def _row(done: Run, *, told: bool) -> dict[str, Any]:
    """A run for the plot: each part as a share of the oracle's slots x makespan; their sum is the ratio.

    Beside them stand the oracle's own, POST and tail; the rest of its time was generation.
    """
    whole = done.slots * done.oracle
    generation = sum(made.ended - made.created for made in done.made)
    post = POST * len(done.made)
    return {
        "slots": done.slots,
        "told": told,
        "ratio": done.makespan / done.oracle,
        "refused_per_task": done.refused,
        "generation": generation / whole,
        **{part: seconds / whole for part, seconds in done.parts().items()},
        "oracle_post": post / whole,
        "oracle_tail": (whole - generation - post) / whole,
    }


def _line(row: dict[str, Any]) -> str:
    """One line of the table: the ratio, and the parts in percent of the oracle's time."""
    parts = "".join(f"{row[part] * 100:>{max(len(part), 5) + 2}.2f}" for part in PARTS)
    oracle = f"{row['oracle_post'] * 100:>6.2f}{row['oracle_tail'] * 100:>6.2f}"
    told = "told" if row["told"] else "not told"
    refused = f"{row['refused_per_task']:>9.2f}"
    return f"{row['slots']:>5}  {told:<9}{row['ratio']:>6.3f}x{refused}  {parts}  {oracle}"


def _heading() -> str:
    parts = "".join(f"{part:>{max(len(part), 5) + 2}}" for part in PARTS)
    return f"slots{'':11}  ratio  refused  {parts}  oracle: post, tail   (% of the oracle's slot-seconds)"


def measure(runs: int, *, quick: bool) -> Result:
    """The ratio and the refused creates of every case; the rows are each case's worst run.

    Args:
        runs: how many seeds.
        quick: 5 slots alone.
    """
    figures: list[Figure] = []
    rows: list[dict[str, Any]] = []
    print(_heading(), file=sys.stderr)
    for slots, told in CASES:
        if quick and slots != 5:
            continue
        each = [_row(run(slots, seed, told=told), told=told) for seed in range(runs)]
        worst = max(each, key=lambda row: row["ratio"])
        rows.append(worst)
        print(_line(worst), file=sys.stderr)
        budgeted = slots == 5 and not told
        name = f"{TASKS} tasks, {slots} slots {'told' if told else 'not told'}: "
        figures += [
            Figure(
                name=name + "makespan over an oracle",
                unit="x",
                runs=[row["ratio"] for row in each],
                budget=BUDGET if budgeted else None,
                note="virtual time",
            ),
            Figure(
                name=name + "refused creates per task",
                unit="",
                runs=[row["refused_per_task"] for row in each],
                budget=REFUSED_BUDGET if budgeted else None,
            ),
        ]
    return Result(figures, {"makespan": rows})


def main() -> int:
    """Measure and print; 1 if a figure is over its budget."""
    return alone.run(__doc__, measure)


if __name__ == "__main__":
    sys.exit(main())
