"""One script, unchanged, with every provider: environment variables alone choose."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from kling_async import (
    ImageToVideo,
    KlingClient,
    KlingError,
    MultiImageToVideo,
    Polling,
    TaskFailedError,
    UnsupportedError,
)
from kling_async.simulator import Simulator, serve

QUICK = Polling(aim=None, factor=0.1, base=1, max_interval=0.1, floor=0.05)

CHOICES = {
    "kling": ("kling", {"KLING_API_KEY": "sim-key", "KLING_PROVIDER": "kling"}),
    "kling, the only key": ("kling", {"KLING_API_KEY": "sim-key"}),
    "kling, signed": ("kling", {"KLING_ACCESS_KEY": "sim-access", "KLING_SECRET_KEY": "sim-secret"}),
    "kling-cn": ("kling", {"KLINGAI_API_KEY": "sim-key", "KLING_PROVIDER": "kling-cn"}),
    "cometapi": ("cometapi", {"COMETAPI_KEY": "sim-key"}),
    "cometapi among others": (
        "cometapi",
        {"COMETAPI_KEY": "sim-key", "KLING_API_KEY": "wrong", "KLING_PROVIDER": "cometapi"},
    ),
    "ezmodel of 2025": ("new-api-2025", {"EZMODEL_API_KEY": "sim-key"}),
    "ezmodel of 2026": ("new-api-2026", {"EZMODEL_API_KEY": "sim-key", "KLING_PROVIDER": "ezmodel"}),
    "new-api of 2025": ("new-api-2025", {"KLING_API_KEY": "sim-key", "KLING_PROVIDER": "new-api"}),
    "new-api of 2026": ("new-api-2026", {"KLING_API_KEY": "sim-key", "KLING_PROVIDER": "new-api"}),
}


async def script(env: dict[str, str], picture: Path, folder: Path) -> dict[str, Any]:
    """What a user would write; it knows nothing of providers."""
    told: dict[str, Any] = {}
    async with KlingClient.from_env(env=env, polling=QUICK, max_in_flight=2) as kling:
        task = await kling.run(
            ImageToVideo(image=picture, prompt="alone", duration=5), save_to=folder / "a.mp4"
        )
        told["alone"] = task.status
        again = await kling.get_task(task.task_id or "")
        told["read again"] = again == task or (again.task_id, again.status) == (task.task_id, task.status)
        told["downloaded"] = (await kling.download(task, folder)).read_bytes()
        requests = [("one", ImageToVideo(image=picture, prompt="one", mode="pro"))]
        requests += [("two", ImageToVideo(image="https://cdn.example.org/two.png", prompt="two [fail]"))]
        async for done in kling.completions(requests, save_to=folder):
            told[done.key or ""] = done.path if done.ok else done.error
        several = MultiImageToVideo(image_list=[picture, "https://cdn.example.org/b.png"], prompt="several")
        try:
            told["several"] = (await kling.run(several, save_to=folder)).status
        except UnsupportedError as error:
            told["several"] = error
    return told


@pytest.mark.parametrize(("face", "env"), CHOICES.values(), ids=CHOICES)
def test_one_script_for_every_provider(face: Any, env: dict[str, str], tmp_path: Path):
    """Submit, wait, read, download and stream work alike; what a gateway lacks is told before it is sent."""
    picture = tmp_path / "picture.jpg"
    Image.new("RGB", (320, 300), "teal").save(picture)
    simulator = Simulator(face=face, seconds=0.1, parallel=5)

    async def main() -> dict[str, Any]:
        async with serve(simulator) as url:
            return await asyncio.wait_for(
                script({**env, "KLING_BASE_URL": url}, picture, tmp_path / "out"), 20
            )

    told = asyncio.run(main())
    assert (told["alone"], told["read again"]) == ("succeed", True)
    assert told["downloaded"] == (tmp_path / "out" / "a.mp4").read_bytes() != b""
    assert told["one"] == tmp_path / "out" / "one.mp4"
    assert isinstance(told["two"], TaskFailedError)
    assert told["two"].status_message == "content risk control"
    made = [(each.kind, each.body["prompt"], each.body["model_name"]) for each in simulator.ledger.made]
    assert made[0] == ("image2video", "alone", "kling-v2-6")
    assert sorted(made[1:3]) == [
        ("image2video", "one", "kling-v2-6"),
        ("image2video", "two [fail]", "kling-v2-6"),
    ]
    assert {each.body["mode"] for each in simulator.ledger.made if each.body["prompt"] == "one"} == {"pro"}
    if face.startswith("new-api"):
        assert isinstance(told["several"], UnsupportedError)
        assert told["several"].what == f"{env.get('KLING_PROVIDER', 'ezmodel')} has no multi-image2video"
        assert simulator.ledger.requests["create"] == len(made) == 3
    else:
        assert told["several"] == "succeed"
        assert made[3:] == [("multi-image2video", "several", "kling-v1-6")]
    assert simulator.ledger.leaks == []


@pytest.mark.parametrize("face", ["new-api-2025", "new-api-2026"])
def test_what_a_gateway_would_drop_is_refused(face: Any):
    """Fields a new-api drops without a word are refused by name, each, before anything is sent."""
    request = ImageToVideo(
        image="https://cdn.example.org/a.png", prompt="x", element_list=[1], voice_list=["v"], sound="on"
    )
    simulator = Simulator(face=face, seconds=0.1)

    async def main() -> None:
        async with serve(simulator) as url:
            env = {"EZMODEL_API_KEY": "sim-key", "KLING_BASE_URL": url}
            async with KlingClient.from_env(env=env) as kling:
                await kling.submit(request)

    with pytest.raises(UnsupportedError) as caught:
        asyncio.run(main())
    assert [problem.field for problem in caught.value.problems][:2] == ["element_list", "voice_list"]
    assert simulator.ledger.requests == {}


def test_a_key_of_another_provider_opens_nothing():
    """Each face refuses a foreign key with one clear error that says whose credential it was."""

    async def main(face: Any, env: dict[str, str]) -> str:
        simulator = Simulator(face=face)
        async with serve(simulator) as url, KlingClient.from_env(env={**env, "KLING_BASE_URL": url}) as kling:
            with pytest.raises(KlingError) as caught:
                await kling.submit(ImageToVideo(image="https://cdn.example.org/a.png", prompt="x"))
        assert simulator.ledger.made == []
        return str(caught.value)

    for face, env in (
        ("kling", {"KLING_API_KEY": "other"}),
        ("cometapi", {"COMETAPI_KEY": "other"}),
        ("new-api-2026", {"EZMODEL_API_KEY": "other"}),
    ):
        text = asyncio.run(main(face, env))
        assert "nothing was paid" in text
        assert "check the key" in text
        assert "other" not in text
