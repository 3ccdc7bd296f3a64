"""The kill test: a batch that is killed again and again pays for each video once, and brings home every one.

A simulator with random faults answers on a port of this process. The batch, `kill_worker`, runs in another,
which is ended with SIGKILL at random instants and at named points, and started again until it is done:

- `intent`: the intent is durable, the POST has not left.
- `received`: the simulator has the whole POST and has done nothing.
- `made`: the task is made and paid, no byte of the reply has left.
- `reply`: the client has read the reply and recorded nothing.
- `download`: the video is on its way.
- `saved`: the file has its name and the journal does not know it.
- `migrating`: the journal is being brought to a later schema, its rows already rewritten.
- `random`: any instant of the first second and a half.

The judge is the simulator's ledger. From the root of the checkout,

    python -m tests.integration.kill --kills 200

spreads that many kills over the modes, prints a table, and ends with 1 if anything was paid twice or lost.
Its column `extra` counts files that no completion names: second copies of a video, or parts of one.
"""

import argparse
import asyncio
import logging
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from .killing import NAMED, Killing, Mode, Tally

MODES: Final = (
    Mode(name="refused, consistent"),
    Mode(name="refused, lagging", lag=2.0, quarantine=4.0),
    Mode(name="accepted, consistent", duplicates=True),
    Mode(name="accepted, lagging", duplicates=True, lag=2.0, quarantine=4.0),
    Mode(name="gateway", duplicates=True, gateway=True),
)
RECKLESS: Final = Mode(name="no quarantine", duplicates=True, lag=2.0, quarantine=0.0)
"""The proof that this test can fail: a client that does not wait out the lag pays twice."""


async def kill(
    modes: Sequence[Mode],
    folder: Path,
    *,
    kills: int,
    items: int = 40,
    seed: int = 0,
    deadline: float = 300.0,
) -> list[Tally]:
    """Run *modes* side by side, *kills* in each, the files below *folder*; see `Killing`."""
    killings: list[Killing] = []
    for number, mode in enumerate(modes):
        below = folder / f"mode{number}"
        below.mkdir()
        killings.append(Killing(mode, below, kills=kills, items=items, seed=seed + number))
    return list(await asyncio.gather(*(each.run(deadline) for each in killings)))


def table(tallies: Sequence[Tally]) -> str:
    """The tallies, one line a mode."""
    points = (*NAMED, "random")
    columns = (
        "mode",
        "kills",
        *points,
        "restarts",
        "items",
        "made",
        "doubled",
        "lost",
        "MAY_EXIST",
        "extra",
        "s",
    )
    rows = [
        (
            *(each.mode.name, each.kills.total(), *(each.kills[point] for point in points), each.restarts),
            *(each.items, each.made, each.doubled, each.lost, each.may_exist),
            *(len(each.extra), round(each.seconds)),
        )
        for each in tallies
    ]
    lines = [columns, *(tuple(map(str, row)) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            word.ljust(width) if not place else word.rjust(width)
            for place, (word, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


async def kill_all(folder: Path, *, kills: int, items: int, seed: int, deadline: float) -> list[Tally]:
    """Every mode with *kills* each, and at their end `RECKLESS`, which is to pay twice."""
    for name in ("modes", "reckless"):
        (folder / name).mkdir()
    server = logging.getLogger("aiohttp.server")
    level = server.level
    server.setLevel(logging.CRITICAL)  # who is killed breaks its connections, and it would tell of each
    try:
        careful, reckless = await asyncio.gather(
            kill(MODES, folder / "modes", kills=kills, items=items, seed=seed, deadline=deadline),
            kill([RECKLESS], folder / "reckless", kills=6, items=15, seed=seed, deadline=deadline),
        )
    finally:
        server.setLevel(level)
    return [*careful, *reckless]


def main() -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(description="Kill a batch again and again, and count what was paid.")
    parser.add_argument("--kills", type=int, default=200, help="in all modes together")
    parser.add_argument("--items", type=int, default=40, help="a batch")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    each = -(-chosen.kills // len(MODES))
    with tempfile.TemporaryDirectory() as folder:
        tallies = asyncio.run(
            kill_all(
                Path(folder), kills=each, items=chosen.items, seed=chosen.seed, deadline=60.0 + 5.0 * each
            )
        )
    *careful, reckless = tallies
    problems = [problem for tally in careful for problem in tally.problems]
    if not reckless.doubled:
        problems.append(f"{reckless.mode.name}: paid nothing twice, so this test cannot fail")
    sys.stdout.write("\n".join([table(tallies), *problems, ""]))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
