"""Many tasks at once over real sockets: all are collected, the slots are kept, nothing is left over."""

import asyncio
import contextlib
import io
import json
import random
import sys
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from kling_async import APIKey, ImageToVideo, KlingClient, Polling
from kling_async.protocol.providers import KLING
from kling_async.simulator import Simulator, serve


def picture(number: int) -> bytes:
    """A real JPEG that no other number gives."""
    file = io.BytesIO()
    Image.new("RGB", (320, 300), "teal").save(file, "JPEG", comment=str(number).encode())
    return file.getvalue()


def most_polls(polling: Polling, seconds: float) -> int:
    """After how many polls, counted from its acknowledgement, a task of *seconds* has surely ended.

    That many of the shortest waits the schedule can draw are together no shorter than the task.
    """
    waited, polls = 0.0, 0
    while waited < seconds:
        longest = polling.max_interval / (1 + polling.jitter)
        wait = min(polling.factor * polling.base**polls, longest) * (1 - polling.jitter)
        waited += max(wait, polling.floor or 0.0)
        polls += 1
    return polls


async def ended(process: asyncio.subprocess.Process) -> None:
    """End *process* if it still lives: none outlives its test."""
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.communicate()


def test_two_hundred_with_twenty_in_flight(tmp_path: Path):
    """200 tasks of 1 to 3 s from real pictures are all made once, collected and saved, 20 in flight at most.

    Of every ten tasks most take little over one second, as in life few are slow: with even times the oracle
    alone would need 20 s.
    """
    polling = Polling(factor=0.5, base=1.0, max_interval=0.3, floor=0.1, jitter=0.2, pollers=20)
    rng = random.Random(1)
    pictures = tmp_path / "in"
    pictures.mkdir()
    for number in range(200):
        (pictures / f"{number}.jpg").write_bytes(picture(number))
    simulator = Simulator(seconds=lambda _: 1 + 2 * rng.betavariate(1, 7), parallel=None)

    async def main() -> dict[str | None, bytes]:
        saved: dict[str | None, bytes] = {}
        requests = (
            (f"k{number}", ImageToVideo(image=pictures / f"{number}.jpg", prompt="x", duration=5))
            for number in range(200)
        )
        async with (
            serve(simulator) as url,
            KlingClient(APIKey("sim-key"), KLING.at(url), max_in_flight=20, polling=polling) as kling,
        ):
            async for done in kling.completions(requests, save_to=tmp_path / "out"):
                assert done.path is not None, done.error
                assert done.key not in saved
                saved[done.key] = done.path.read_bytes()
            assert kling.tasks() == []
            assert (
                kling.statistics().polls
                == simulator.ledger.requests["query"] + simulator.ledger.requests["list"]
            )
        return saved

    saved = asyncio.run(main())
    ledger = simulator.ledger
    assert len(saved) == len(ledger.made) == len({made.body["image"] for made in ledger.made}) == 200
    assert len(set(saved.values())) == 200, "each has a video of its own"
    assert ledger.most_in_flight == 20
    assert ledger.requests["create"] == ledger.requests["download"] == 200
    longest = max(made.ended - made.created for made in ledger.made)
    asked = ledger.requests["query"] + ledger.requests["list"]
    assert 0 < asked <= 200 * most_polls(polling, longest)


CLIENT = """
import asyncio, json, os, resource, sys

from kling_async import APIKey, ImageToVideo, KlingClient, Polling
from kling_async.protocol.providers import KLING

url, journal, picture, count = *sys.argv[1:4], int(sys.argv[4])
PAGE = resource.getpagesize()


def rss():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * PAGE


def descriptors():
    return len(os.listdir("/proc/self/fd"))


async def main():
    polling = Polling(factor=0.3, base=1.3, max_interval=1, floor=0.2, jitter=0.2, pollers=32)
    keys, sizes = [], []
    requests = ((f"k{n}", ImageToVideo(image=picture, prompt=str(n))) for n in range(count))
    before = descriptors()
    client = KlingClient(
        APIKey("sim-key"), KLING.at(url), max_in_flight=150, max_uploads=16, polling=polling, journal=journal
    )
    async with client as kling:
        async for done in kling.completions(requests):
            assert done.ok, done.error
            keys.append(done.key)
            sizes.append(rss())
        statistics = kling.statistics()
        assert (statistics.in_flight, statistics.waiting, statistics.succeeded) == (0, 0, count)
    return {
        "keys": keys,
        "sizes": sizes,
        "tasks": len(asyncio.all_tasks()) - 1,
        "descriptors": descriptors() - before,
    }


async def twice():
    # what asyncio and the certificate store open once is no leak: it is there after a first client
    async with KlingClient(APIKey("sim-key"), KLING.at(url)) as kling:
        [_ async for _ in kling.list_tasks()]
    return await main()


print(json.dumps(asyncio.run(twice())))
"""


@pytest.mark.skipif(
    not Path("/proc/self/fd").exists(), reason="counts descriptors and memory as Linux shows them"
)
def test_three_thousand_leave_nothing_over(tmp_path: Path):
    """3,000 tasks with the journal, in a process of its own: none lost, none doubled, nothing left over.

    Neither tasks of asyncio nor sockets and other descriptors remain, and resident memory grows by less than
    2 KiB a task in the second half.
    """
    count = 3000
    small = tmp_path / "small.jpg"
    small.write_bytes(picture(7))
    simulator = Simulator(seconds=0.2, parallel=None, validates_schema=False)

    async def main() -> tuple[int | None, bytes, bytes]:
        async with serve(simulator) as url:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", CLIENT, url, str(tmp_path / "journal.db"), str(small), str(count)),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            try:
                out, err = await asyncio.wait_for(process.communicate(), 600)
            finally:
                await ended(process)
            return process.returncode, out, err

    code, out, err = asyncio.run(main())
    assert (code, err) == (0, b"")
    seen = json.loads(out)
    assert sorted(seen["keys"]) == sorted(f"k{number}" for number in range(count))
    assert len(simulator.ledger.made) == len(simulator.ledger.made_by_external_id()) == count
    assert Counter(made.body["prompt"] for made in simulator.ledger.made).most_common(1)[0][1] == 1
    assert simulator.ledger.most_in_flight <= 150
    assert (seen["tasks"], seen["descriptors"]) == (0, 0)
    half = count // 2
    assert (max(seen["sizes"][-50:]) - max(seen["sizes"][half - 50 : half])) / half < 2048


TWIN = """
import asyncio, json, sys

from kling_async import APIKey, ImageToVideo, KlingClient, Polling
from kling_async.protocol.providers import KLING

url, picture = sys.argv[1:]


async def main():
    polling = Polling(factor=0.2, base=1, max_interval=0.2, floor=0.1)
    requests = [(f"k{n}", ImageToVideo(image=picture, prompt=str(n))) for n in range(50)]
    async with KlingClient(APIKey("sim-key"), KLING.at(url), max_in_flight=10, polling=polling) as kling:
        print("ready", flush=True)
        sys.stdin.readline()
        return {done.key: done.result().task_id async for done in kling.completions(requests)}


print(json.dumps(asyncio.run(main())))
"""


def test_two_processes_without_a_journal(tmp_path: Path):
    """Two processes submit the same fifty keys at the same moment: fifty tasks, and both have all of them."""
    small = tmp_path / "small.jpg"
    small.write_bytes(picture(7))
    simulator = Simulator(seconds=0.3, parallel=None)

    async def main() -> list[dict[str, str]]:
        async with serve(simulator) as url:
            twins = [
                await asyncio.create_subprocess_exec(
                    *(sys.executable, "-c", TWIN, url, str(small)),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                )
                for _ in range(2)
            ]
            try:
                for twin in twins:
                    assert twin.stdout is not None
                    assert await asyncio.wait_for(twin.stdout.readline(), 60) == b"ready\n"
                told = await asyncio.gather(
                    *(asyncio.wait_for(twin.communicate(b"go\n"), 60) for twin in twins)
                )
            finally:
                for twin in twins:
                    await ended(twin)
            return [json.loads(out) for out, _ in told]

    one, other = asyncio.run(main())
    assert one == other
    assert sorted(one) == sorted(f"k{number}" for number in range(50))
    assert len(simulator.ledger.made) == 50
    assert simulator.ledger.outcomes["create", 1201] == 50, "the later of each two was refused as known"
