"""What users test with, plugin or not: the simulator in memory, virtual time, and the judge of payments."""

import asyncio
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import virtual_time

from kling_async import EZMODEL, APIKey, ConfigurationError, ImageToVideo, KlingClient, Retries
from kling_async.simulator import Faults, Simulator
from kling_async.simulator.media import placeholder
from kling_async.testing import (
    QUICK_POLLING,
    QUICK_RETRIES,
    DeadlockError,
    SimulatorTransport,
    VirtualTimeLoop,
    assert_made_once,
)

OnCallback = Callable[[Mapping[str, str], bytes], None] | None


def client_of(simulator: Simulator, on_callback: OnCallback = None, **options: Any) -> KlingClient:
    """A client of *simulator* in virtual time."""
    transport = SimulatorTransport(simulator, on_callback=on_callback)
    return KlingClient(APIKey("sim-key"), transport=transport, clock=transport.now, **options)


def request(prompt="a cat", **fields) -> ImageToVideo:
    """A request of a picture behind a URL."""
    return ImageToVideo(image="https://cdn.example.org/a.png", prompt=prompt, **fields)


@pytest.mark.parametrize(
    "faults",
    [
        "",
        "download:cut_reply at=10 times=2",
        "download:lost_reply_before times=1",
        "download:not_http times=1",
        "download:html status=503 times=1",
        "download:closed_after_headers times=1",
        "download:url_dies times=1",
        "download:wrong_length by=1000 times=1",
        "download:no_range; download:cut_reply at=10 times=1",
        "download:changed_etag; download:cut_reply at=10 times=1",
        "download:redirect times=1 location=/elsewhere",
        "download:slow bytes_per_second=10",
    ],
)
def test_videos_are_downloaded_in_memory(tmp_path, faults):
    """The file is what the simulator has, whatever breaks on the way, and no credentials went along."""
    simulator = Simulator(faults=Faults.parse(faults))

    async def main() -> bytes:
        async with client_of(simulator) as kling:
            task = await kling.run(request(), save_to=tmp_path / "cat.mp4")
        return placeholder(task.video.url.split("/")[-1].partition(".")[0], task.task_id or "")

    assert virtual_time.run(main()) == (tmp_path / "cat.mp4").read_bytes()
    assert simulator.ledger.leaks == []
    assert not faults or simulator.ledger.faults


def test_callbacks_are_delivered_in_virtual_time():
    """Each comes at the second it is due."""
    simulator = Simulator(seconds=100)
    came = list[tuple[float, bytes]]()

    async def main() -> None:
        now = asyncio.get_running_loop().time
        kling = client_of(simulator, on_callback=lambda _, body: came.append((now(), body)))
        await kling.submit(request(callback_url="https://shop.example.com/hook"))
        await asyncio.sleep(1000)
        await kling.aclose()

    virtual_time.run(main())
    assert [round(when) for when, _ in came] == [10, 100]
    assert b"succeed" in came[-1][1]


def test_callbacks_end_with_the_transport():
    """After `aclose` none comes, nor where nobody asked for any, and a loop may end before they come."""
    simulator = Simulator(seconds=100)
    came = list[bytes]()

    async def main(*, listens: bool, closes: bool, waits: float) -> None:
        transport = SimulatorTransport(
            simulator, on_callback=(lambda _, body: came.append(body)) if listens else None
        )
        async with KlingClient(APIKey("sim-key"), transport=transport, clock=transport.now) as kling:
            await kling.submit(request(callback_url="https://shop.example.com/hook"))
        if closes:
            await transport.aclose()
        await asyncio.sleep(waits)

    virtual_time.run(main(listens=True, closes=True, waits=1000))
    virtual_time.run(main(listens=False, closes=False, waits=1000))
    virtual_time.run(main(listens=True, closes=False, waits=1))
    assert came == []


def test_a_thread_holds_the_clock():
    """While a thread works for the loop no time passes, and its pool ends with the loop."""

    async def main() -> float:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(0.001):
            await asyncio.to_thread(sum, range(2_000_000))
        return loop.time()

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        assert runner.run(main()) == 0


def test_a_deadlock_names_who_waits():
    """What waits for ever is told by the tasks that do."""

    async def forgotten() -> None:
        await asyncio.Event().wait()

    with (
        asyncio.Runner(loop_factory=VirtualTimeLoop) as runner,
        pytest.raises(DeadlockError, match="forgotten"),
    ):
        runner.run(forgotten())


def test_a_ticker_beside_a_deadlock_ends_at_the_limit():
    """Past its limit the loop raises, and names who waits; by default it has none."""

    async def heartbeat() -> None:
        for _ in itertools.count():
            await asyncio.sleep(1)

    async def forgotten() -> None:
        beating = asyncio.create_task(heartbeat())
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(5)  # what cleans up may still wait
            beating.cancel()
            cleaned.append(asyncio.get_running_loop().time())

    cleaned = list[float]()
    with (
        pytest.raises(DeadlockError, match=r"(?s)60 s of virtual time.*forgotten.*heartbeat"),
        asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(limit=60)) as runner,
    ):
        runner.run(forgotten())
    assert cleaned == [65]
    assert VirtualTimeLoop.__init__.__defaults__ == (float("inf"),)


def test_the_limit_may_change_while_the_loop_runs():
    """What takes as long as that on purpose says so."""

    async def main() -> float:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        await asyncio.sleep(60)
        loop.limit = 1e9
        await asyncio.sleep(30 * 86_400)
        return loop.time()

    with asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(limit=60)) as runner:
        assert runner.run(main()) == 60 + 30 * 86_400


def test_without_asyncio_it_says_so():
    """Where no event loop of asyncio runs, as under trio, a client says what it needs."""
    kling = client_of(Simulator())
    with pytest.raises(ConfigurationError, match="asyncio"):
        kling.submit_soon(request())
    with pytest.raises(ConfigurationError, match="asyncio"):
        kling.submit(request()).send(None)
    asyncio.run(kling.aclose())


def test_quick_clients_wait_for_nothing():
    """On a real loop a client with the quick schedule is done at once, after a lost request too."""
    simulator = Simulator(seconds=0, faults=Faults.parse("create:lost_reply_before times=1"))

    async def main() -> None:
        async with client_of(simulator, polling=QUICK_POLLING, retries=QUICK_RETRIES) as kling:
            async with asyncio.timeout(60):
                await kling.run(request())

    asyncio.run(main())
    assert_made_once(simulator, 1)


LAGGING = "create:lost_reply_after times=1; create:duplicates; any:lookup_lag seconds=9"
"""A reply is lost, no look-up finds the task yet, and the same id is accepted again: a double payment."""


def made_by(*requests: ImageToVideo, faults: str = "", face: Any = "kling", **options: Any) -> Simulator:
    """A simulator that made *requests*, one after the other."""
    simulator = Simulator(seconds=1, faults=Faults.parse(faults), face=face)

    async def main() -> None:
        async with client_of(simulator, retries=Retries(quarantine=0), **options) as kling:
            for each in requests:
                handle = await kling.submit(each)
                await asyncio.gather(handle.result(), return_exceptions=True)

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        runner.run(main())
    return simulator


def test_what_is_made_once():
    """Nothing at all, different requests, the same on purpose, and again what failed."""
    assert_made_once(Simulator(), 0)
    assert_made_once(made_by(request("a"), request("b")), 2)
    assert_made_once(made_by(request("a"), request("a")), 2, copies=2)
    failing = made_by(request("[fail] a"), request("[fail] a"))
    assert_made_once(failing, 2)


@pytest.mark.parametrize(
    ("simulator", "count", "message"),
    [
        (lambda: made_by(request("a"), request("b")), 1, r"2 tasks were made, not 1: 'a', 'b'"),
        (Simulator, 1, r"0 tasks were made, not 1: none"),
        (
            lambda: made_by(request("a"), request("b"), request("a")),
            3,
            r"'a' was made 2 times by equal requests",
        ),
        (
            lambda: made_by(
                request("a"), request("a"), callback_url=lambda name: f"https://me.example/{name}"
            ),
            None,
            r"'a' was made 2 times by equal requests",
        ),
        (
            lambda: made_by(request("a"), request("a"), face="new-api-2026", provider=EZMODEL),
            None,
            r"'a' was made 2 times by equal requests",
        ),
        (
            lambda: made_by(request("a"), faults=LAGGING),
            None,
            r"^'a' was made 2 times under one external_task_id, after 0 s, .* s$",
        ),
    ],
)
def test_what_is_not_made_once(simulator, count, message):
    """The prompt, how often, when and how it came about."""
    with pytest.raises(AssertionError, match=message):
        assert_made_once(simulator(), count)


def test_clock_that_is_years_old():
    """After ten years in seconds a float has no nanoseconds left: time goes on all the same."""

    async def main():
        await asyncio.sleep(10 * 365 * 86_400)
        await asyncio.sleep(1)
        await asyncio.wait_for(asyncio.sleep(0.1), 1)
        return asyncio.get_running_loop().time()

    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        assert runner.run(main()) == pytest.approx(10 * 365 * 86_400 + 1.1)
