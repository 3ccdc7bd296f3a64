"""What type checkers must see in the public API; checked by mypy and pyright, never run."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import assert_type

from kling_async import (
    KLING,
    APIKey,
    Completion,
    Completions,
    ImageToVideo,
    KlingClient,
    KlingError,
    MultiImageToVideo,
    Outcome,
    Provider,
    Statistics,
    Task,
    TaskHandle,
    Video,
    animate,
)


async def requests() -> AsyncIterator[ImageToVideo]:
    """An async iterable is taken as well as any other."""
    yield ImageToVideo(image=Path("cat.png"), prompt="the cat yawns", duration=5, sound=True)


def pairs() -> Iterator[tuple[str, MultiImageToVideo]]:
    """Pairs of key and request."""
    yield "cats", MultiImageToVideo(image_list=["a.png", b"..."], prompt="they meet")


async def use() -> None:
    """Each public call, with the type of what it returns."""
    provider = KLING.at("https://kling.example.com")
    assert_type(provider, Provider)
    async with KlingClient(APIKey("..."), provider, max_in_flight=5) as kling:
        assert_type(kling, KlingClient)
        request = ImageToVideo(image="cat.png", prompt="the cat yawns")
        assert_type(request.duration, str | None)
        handle = await kling.submit(request, key="cat", wait=False)
        assert_type(handle, TaskHandle)
        assert_type(kling.submit_soon(request), TaskHandle)
        assert_type(await handle.result(timeout=None), Task)
        assert_type(await kling.run(request, save_to="cat.mp4"), Task)
        assert_type(kling.attach(handle.token), TaskHandle)
        assert_type(kling.completions(pairs()), Completions)
        async for done in kling.completions(requests()):
            assert_type(done, Completion)
            assert_type(done.error, KlingError | None)
            assert_type(done.path, Path | None)
        async for task in kling.list_tasks(MultiImageToVideo):
            assert_type(task.video, Video)
        assert_type(await kling.download(handle, "out/"), Path)
        assert_type(kling.statistics(), Statistics)
        assert_type(await kling.aclose(drain=1), list[TaskHandle])
    assert_type(await animate("cat.png", "the cat yawns"), Path)
    assert_type(KlingError().outcome, Outcome)
