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
from kling_async.cli.running import run_stream
from kling_async.cli.simulate import require_renderer
from kling_async.client import KlingClient
from kling_async.protocol.auth import APIKey
from kling_async.protocol.models import (
    CameraConfig,
    CameraControl,
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

    Shows several kinds of request over real connections, with real MP4 files at the end.

    Args:
        common: where to send, and how to tell.
        out: the folder for the videos. Nothing in it is overwritten.
    """
    require_renderer()
    folder = folder_for(out)
    items = [Item(name, name, request, request_hash="") for name, request in _requests()]
    progress = Progress(common.screen, len(items))

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
                    hooks=(progress.tell,),
                )
                return await run_stream(common, progress, kling, items, folder=folder, timeout=60)

    return interrupts.run(run())


def _requests() -> list[tuple[str, VideoRequest]]:
    """One request of each kind."""
    photos = importlib.resources.files("kling_async") / "photos"
    cat, coffee, astronaut, galaxies, rocket = (
        (photos / name).read_bytes()
        for name in ("cat.png", "coffee.jpg", "astronaut.jpg", "galaxies.jpg", "rocket.jpg")
    )

    def moving(**axis: float) -> CameraControl:
        return CameraControl("simple", CameraConfig(**axis))

    return [
        ("cat", ImageToVideo(image=cat, prompt="the cat looks up and blinks", mode="std")),
        ("coffee-pan", ImageToVideo(image=coffee, prompt="steam rises", camera_control=moving(pan=6))),
        ("rocket-tilt", ImageToVideo(image=rocket, prompt="it lifts off", camera_control=moving(tilt=6))),
        (
            "galaxies-horizontal",
            ImageToVideo(image=galaxies, prompt="drifting by", camera_control=moving(horizontal=7)),
        ),
        (
            "astronaut-forward-up",
            ImageToVideo(image=astronaut, prompt="she smiles", camera_control=CameraControl("forward_up")),
        ),
        ("coffee-to-cat", ImageToVideo(image=coffee, image_tail=cat, prompt="the cup becomes a cat")),
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
