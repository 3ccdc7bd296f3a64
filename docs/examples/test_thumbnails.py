"""The tests of a shop: each product gets a short video on its page."""

from pathlib import Path

import pytest

from kling_async import ConcurrencyLimitError, ImageToVideo, KlingClient, TaskFailedError
from kling_async.simulator import Simulator
from kling_async.testing import assert_made_once


async def thumbnail(kling: KlingClient, product: str, folder: Path) -> str:
    """The code under test: make the video of *product*; returns what its page shows."""
    request = ImageToVideo(image=f"https://shop.example.com/{product}.jpg", prompt=f"the {product} turns")
    try:
        handle = await kling.submit(request, key=product, wait=False)
        await handle.result()
        return (await kling.download(handle, folder)).name
    except ConcurrencyLimitError:
        return "coming soon"
    except TaskFailedError as error:
        return f"no video: {error.status_message}"


@pytest.mark.kling(seconds=120)
async def test_the_video_is_shown(kling_client: KlingClient, tmp_path: Path) -> None:
    """Two minutes of generation, which take no time here, then a download."""
    assert await thumbnail(kling_client, "mug", tmp_path) == "mug.mp4"


@pytest.mark.kling(faults="create:lost_reply_after times=1; download:cut_reply times=1")
async def test_a_lost_reply_is_paid_once(
    kling_client: KlingClient, kling_simulator: Simulator, tmp_path: Path
) -> None:
    """Kling makes the video, and we never hear of it; then the download breaks."""
    assert await thumbnail(kling_client, "mug", tmp_path) == "mug.mp4"
    assert_made_once(kling_simulator, 1)


async def test_a_failure_is_told(kling_client: KlingClient, tmp_path: Path) -> None:
    """The simulator fails what has ``[fail]`` in its prompt."""
    assert await thumbnail(kling_client, "[fail]", tmp_path) == "no video: content risk control"


@pytest.mark.kling(parallel=0)
async def test_a_full_account_is_no_error(kling_client: KlingClient, tmp_path: Path) -> None:
    """All slots are held by others."""
    assert await thumbnail(kling_client, "mug", tmp_path) == "coming soon"
