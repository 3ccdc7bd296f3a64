"""Cancellation at every await: nothing is left behind, and every task that was made can be found.

Each scenario is run again and again, cancelled at its first wait, its second, and so on until it comes
through: once as the wait begins, and once as it ends with what was waited for already there. Others are
cancelled moment by moment.
"""

import asyncio
import gc
import itertools
import threading
import time

import pytest
import virtual_time

from kling_async import APIKey, KlingClient, KlingError, Outcome, Polling, Retries
from kling_async.simulator import Simulator, serve
from kling_async.testing import SimulatorTransport


def pools():
    """Threads of clients that still live."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("kling-async")]


async def cancelled(coroutine, count, resumed):
    """Run *coroutine*, cancelled at its wait number *count*; its result, or None if it was cancelled."""

    async def body():
        return await virtual_time.cancelled_at(coroutine, count, resumed=resumed)

    try:
        return await asyncio.ensure_future(body())
    except asyncio.CancelledError:
        return None


def everywhere(trial):
    """Run *trial(count, resumed)* until it says that it came through; how often it was cancelled."""
    total = 0
    for resumed in (False, True):
        for count in itertools.count(1):
            assert count < 500, "it never comes through"
            if virtual_time.run(trial(count, resumed)):
                break
            total += 1
        assert not pools()
    gc.collect()
    return total


async def found(kling, known=()):
    """The ids of every task that *kling* gives back when it is closed, and of *known* ones."""
    listed = {handle.task_id for handle in kling.tasks()}
    left = {handle.task_id for handle in await kling.aclose()}
    assert listed - {None} <= left, "what was listed is not lost by closing"
    return left | set(known)


def made(here):
    """The ids of every task that was paid."""
    return {each.task_id for each in here.ledger.made}


@pytest.mark.parametrize("latency", [0.0, 1.0])
def test_submit(world, latency):
    """A submit cancelled anywhere leaves a task that is given back, or none."""

    async def trial(count, resumed):
        here = world(latency=latency)
        kling = here.client()
        handle = await cancelled(kling.submit(here.request(), key="cat"), count, resumed)
        assert await found(kling) == made(here)
        return handle is not None

    assert everywhere(trial) >= 2


@pytest.mark.parametrize("latency", [0.0, 1.0])
def test_submit_of_a_picture(world, latency, tmp_path):
    """The same while a file is read in a thread and a slot is waited for."""
    from PIL import Image

    picture = tmp_path / "a.png"
    Image.new("RGB", (400, 300)).save(picture)

    async def trial(count, resumed):
        here = world(latency=latency, seconds=30)
        kling = here.client(max_in_flight=1)
        first = await kling.submit(here.request())
        handle = await cancelled(kling.submit(here.request(image=picture)), count, resumed)
        # the first ends while the second waits for its slot
        assert await found(kling, [first.task_id]) == made(here)
        return handle is not None

    assert everywhere(trial) >= 4


@pytest.mark.parametrize("latency", [0.0, 1.0])
def test_run(world, latency):
    """A run cancelled anywhere."""

    async def trial(count, resumed):
        here = world(latency=latency, seconds=25)
        kling = here.client()
        task = await cancelled(kling.run(here.request()), count, resumed)
        ended = {each.task_id for each in here.ledger.made if each.ended <= here.now()}
        assert await found(kling, ended if task is None else [task.task_id]) == made(here)
        return task is not None

    assert everywhere(trial) >= 4


@pytest.mark.parametrize("operation", ["submit", "run", "completions"])
def test_moment_by_moment(world, operation):
    """Cancelled each tenth of a second, while POSTs and polls are out: what was made is given back."""

    async def trial(moment):
        here = world(latency=1.0, seconds=12, parallel=1)
        kling = here.client()
        seen = []

        async def read():
            async for done in stream:
                seen.append(done.task.task_id)  # noqa: PERF401 - a cancelled comprehension would lose them

        stream = kling.completions(here.requests(2))
        calls = {
            "submit": lambda: kling.submit(here.request()),
            "run": lambda: kling.run(here.request()),
            "completions": read,
        }
        task = asyncio.ensure_future(calls[operation]())
        await asyncio.sleep(moment)
        task.cancel()
        await asyncio.wait([task])
        ended = {each.task_id for each in here.ledger.made if each.ended <= here.now()}
        left = await found(kling, seen)
        assert left | ended >= made(here) >= left

    for moment in range(0, 400, 7):
        virtual_time.run(trial(moment / 10))
    assert not pools()


@pytest.mark.parametrize("ordered", [False, True])
def test_completions(world, ordered):
    """A reading loop cancelled anywhere: the stream still gives what was not handed out."""

    async def trial(count, resumed):
        here = world(latency=1.0, seconds=15)
        kling = here.client(max_in_flight=2)
        stream = kling.completions(here.requests(4), ordered=ordered)
        seen = []

        async def read():
            async for done in stream:
                seen.append(done.task.task_id)
            return True

        came_through = await cancelled(read(), count, resumed)
        seen += [done.task.task_id async for done in stream]
        assert len(seen) == len(set(seen)) == 4
        assert await found(kling, seen) == made(here)
        return came_through

    assert everywhere(trial) >= 4


def test_completions_left_by_a_context_manager(world):
    """A loop inside `async with` cancelled anywhere: nothing more is taken, tasks go on in the client."""

    async def trial(count, resumed):
        here = world(latency=1.0, seconds=15)
        kling = here.client(max_in_flight=2)
        seen = []

        async def read():
            async with kling.completions(here.requests(4)) as stream:
                async for done in stream:
                    seen.append(done.task.task_id)  # noqa: PERF401 - a cancelled comprehension loses them
            return True

        came_through = await cancelled(read(), count, resumed)
        ended = {each.task_id for each in here.ledger.made if each.ended <= here.now()}
        assert await found(kling, [*seen, *ended]) == made(here)
        return came_through

    assert everywhere(trial) >= 4


def test_aclose(world):
    """A close cancelled anywhere: running tasks keep their tokens, POSTs are told, lines withdrawn."""

    async def trial(count, resumed):
        here = world(latency=4.0)
        kling = here.client(max_in_flight=2)
        running = await kling.submit(here.request("running"), key="running")
        posting = kling.submit_soon(here.request("posting"), key="posting")
        in_line = kling.submit_soon(here.request("in line"), key="in line")
        await asyncio.sleep(1)
        closed = await cancelled(kling.aclose(), count, resumed)
        left = closed if closed is not None else await kling.aclose()
        assert here.time() < 10
        errors = {}
        for handle in (running, posting, in_line):
            with pytest.raises(KlingError) as caught:
                await handle.result()
            errors[handle.key] = caught.value
        assert errors["running"].outcome is Outcome.CREATED
        assert errors["running"].token == running.token
        assert errors["in line"].outcome is Outcome.NOT_CREATED
        assert errors["posting"].external_task_id == posting.external_task_id
        expected = {Outcome.CREATED} if closed is not None else {Outcome.CREATED, Outcome.MAY_EXIST}
        assert errors["posting"].outcome in expected
        if closed is not None:
            assert {handle.task_id for handle in left} == made(here)
        return closed is not None

    assert everywhere(trial) >= 2


def test_the_whole_block(world):
    """`async with` and its body cancelled anywhere: the block ends by itself, and nothing of it is left."""

    async def trial(count, resumed):
        here = world(latency=1.0, seconds=12)

        async def block():
            async with here.client(max_in_flight=1) as kling:
                kling.submit_soon(here.request("soon"))
                await kling.run(here.request("run"))
                async for _ in kling.completions(here.requests(2)):
                    pass
            return True

        return await cancelled(block(), count, resumed)

    assert everywhere(trial) >= 10


def ours():
    """Tasks of the package, without those of the simulator's server."""
    return [
        task for task in asyncio.all_tasks() if "kling_async" in repr(task) and "simulator" not in repr(task)
    ]


@pytest.mark.parametrize("operation", ["download", "run", "completions"])
def test_downloads(tmp_path, operation, world):
    """Real sockets and files, cancelled anywhere: a video is whole or not there, no session stays open."""

    async def trial(kling, folder, count, resumed):
        def request():
            return world.request()

        async def read():
            stream = kling.completions([request(), request()], save_to=folder)
            return [done.result() async for done in stream]

        calls = {
            "download": lambda task: kling.download(task, folder),
            "run": lambda _: kling.run(request(), save_to=folder),
            "completions": lambda _: read(),
        }
        task = await kling.run(request()) if operation == "download" else None
        result = await cancelled(calls[operation](task), count, resumed)
        await kling.aclose()
        assert not pools()
        assert not ours()
        return result is not None

    async def main():
        simulator = Simulator(seconds=0.0, parallel=None, validates_schema=False)
        polling = Polling(aim=None, factor=0.01, base=1, max_interval=0.01, floor=0.01, jitter=0)
        async with serve(simulator):
            for resumed in (False, True):
                for count in itertools.count(1):
                    assert count < 200, "it never comes through"
                    folder = tmp_path / f"{resumed}-{count}"
                    transport = SimulatorTransport(simulator, clock=time.time)
                    kling = KlingClient(
                        APIKey("sim-key"), transport=transport, polling=polling, retries=Retries(factor=0.01)
                    )
                    came_through = await trial(kling, folder, count, resumed)
                    videos = sorted(folder.glob("*.mp4"))
                    assert all(video.read_bytes().startswith(b"\0\0\0") for video in videos)
                    if came_through:
                        assert len(videos) == (2 if operation == "completions" else 1)
                        break
        gc.collect()

    asyncio.run(main())


def test_drain_finishes_downloads(tmp_path, world):
    """Closing with `drain` waits for the files of the tasks that ended meanwhile, not for the tasks alone."""

    async def main():
        simulator = Simulator(seconds=0.2, parallel=None, validates_schema=False)
        polling = Polling(aim=None, factor=0.05, base=1, max_interval=0.05, floor=0.05, jitter=0)
        async with serve(simulator):
            transport = SimulatorTransport(simulator, clock=time.time)
            submitted = asyncio.Event()
            kling = KlingClient(
                APIKey("sim-key"), transport=transport, polling=polling, hooks=[lambda _: submitted.set()]
            )
            stream = kling.completions([world.request()], save_to=tmp_path)
            reader = asyncio.ensure_future(anext(stream))
            await submitted.wait()
            assert await kling.aclose(drain=30) == []
            done = await reader
            assert done.ok
            assert done.path is not None
            assert done.path.stat().st_size > 0
            assert not ours()

    asyncio.run(main())
