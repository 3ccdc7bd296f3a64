"""``demo``: the whole way with nothing but this package: bundled photos in, MP4 files out."""

import importlib.resources
import tempfile
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from kling_async.batch import Item
from kling_async.cli import interrupts
from kling_async.cli.generate import Out
from kling_async.cli.options import Common, folder_for
from kling_async.cli.progress import Progress
from kling_async.cli.running import report_of, run_stream
from kling_async.cli.simulate import require_renderer
from kling_async.client import KlingClient
from kling_async.protocol.auth import APIKey
from kling_async.protocol.models import (
    ImageToVideo,
    MultiImageToVideo,
    Shot,
    VideoRequest,
)
from kling_async.protocol.providers import KLING
from kling_async.protocol.schedule import Polling
from kling_async.simulator import Simulator, render_video, serve

__all__ = ["demo"]


def demo(*, common: Annotated[Common, Parameter(parse=False)], out: Out = Path("kling-demo")) -> int:
    """Animate the bundled photos against a simulated Kling: no account, nothing paid.

    Shows several kinds of request over real connections, with real MP4 files at the end, and index.html, the
    page of them.

    Args:
        common: where to send, and how to tell.
        out: the folder for the videos. No video in it is overwritten.
    """
    require_renderer()
    folder = folder_for(out)
    items = [Item(name, name, request, request_hash="") for name, request in _requests()]
    progress = Progress(common.screen, len(items))
    report = report_of(items, folder, KLING, title="the demo", screen=common.screen)

    async def run() -> int:
        simulator = Simulator(api_keys={"demo-key"}, seconds=(1.0, 3.0), parallel=4, render=render_video)
        # An earlier demo's tasks were another simulator's, so the journal is not kept.
        with tempfile.TemporaryDirectory() as scratch:
            async with serve(simulator) as url:
                common.screen.say(f"{len(items)} requests to a simulated Kling at {url}")
                kling = KlingClient(
                    APIKey("demo-key"),
                    KLING.at(url),
                    polling=Polling(max_interval=1, floor=0.5),
                    journal=scratch,
                    hooks=(progress.tell, report.tell),
                )
                return await run_stream(
                    common, progress, kling, items, folder=folder, timeout=60, report=report
                )

    return interrupts.run(run())


def _requests() -> list[tuple[str, VideoRequest]]:
    """One request of each kind."""
    photos = importlib.resources.files("kling_async") / "photos"
    cat, coffee, astronaut, galaxies, rocket = (
        (photos / name).read_bytes()
        for name in ("cat.png", "coffee.jpg", "astronaut.jpg", "galaxies.jpg", "rocket.jpg")
    )

    return [
        ("cat", ImageToVideo(image=cat, prompt="the cat looks up and blinks")),
        ("coffee", ImageToVideo(image=coffee, prompt="steam rises", model_name="kling-v2-5-turbo")),
        ("rocket", ImageToVideo(image=rocket, prompt="it lifts off, loud", mode="pro", sound=True)),
        ("galaxies", ImageToVideo(image=galaxies, prompt="drifting by", model_name="kling-v3", mode="4k")),
        (
            "astronaut",
            ImageToVideo(image=astronaut, prompt="she smiles", negative_prompt="blur", watermark_info=True),
        ),
        (
            "coffee-to-cat",
            ImageToVideo(image=coffee, image_tail=cat, prompt="the cup becomes a cat", mode="pro"),
        ),
        (
            "rocket-shots",
            ImageToVideo(
                model_name="kling-v3",
                image=rocket,
                multi_shot=True,
                shot_type="customize",
                multi_prompt=(
                    Shot(prompt="the engines ignite", duration=2),
                    Shot(prompt="it climbs into the night", duration=3),
                ),
                duration=5,
            ),
        ),
        (
            "all-four",
            MultiImageToVideo(
                image_list=(cat, coffee, astronaut, rocket), prompt="one scene becomes the next", duration=5
            ),
        ),
    ]
