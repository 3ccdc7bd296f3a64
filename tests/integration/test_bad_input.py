"""What is wrong with the input is told by name before anything is sent, and harms nothing else."""

import asyncio
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from kling_async import (
    APIKey,
    Completion,
    ImageToVideo,
    InvalidRequestError,
    KlingClient,
    KlingError,
    Outcome,
    PolicyError,
    Polling,
    RequestError,
    TaskFailedError,
)
from kling_async.batch import read_source
from kling_async.protocol.providers import KLING
from kling_async.simulator import Simulator, serve

QUICK = Polling(factor=0.1, base=1.5, max_interval=0.5, floor=0.05)


def jpeg(path: Path, width: int = 400, height: int = 300) -> Path:
    """A real picture at *path*."""
    Image.new("RGB", (width, height), "teal").save(path, "JPEG")
    return path


def missing(folder: Path) -> Any:
    """A file that is not there."""
    return folder / "missing.png"


def text(folder: Path) -> Any:
    """Text under the name of a picture."""
    (folder / "text.png").write_text("hello, this is text\n" * 10)
    return folder / "text.png"


def small(folder: Path) -> Any:
    """A picture below 300 pixels."""
    return jpeg(folder / "small.jpg", 200, 200)


def narrow(folder: Path) -> Any:
    """A picture narrower than 1:2.5."""
    return jpeg(folder / "narrow.jpg", 300, 800)


def large(folder: Path) -> Any:
    """A real picture with eleven megabytes behind it."""
    path = jpeg(folder / "large.jpg")
    with path.open("ab") as file:
        file.truncate(11 * 1024 * 1024)
    return path


def empty(folder: Path) -> Any:
    """A file without a byte."""
    (folder / "empty.jpg").touch()
    return folder / "empty.jpg"


def gif(folder: Path) -> Any:
    """A picture of a kind that Kling does not take."""
    Image.new("RGB", (400, 300)).save(folder / "moving.gif")
    return folder / "moving.gif"


def a_folder(folder: Path) -> Any:
    """A folder in place of a file."""
    return folder


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (missing, r"missing\.png.*does not exist"),
    "text": (text, r"text\.png.*is text"),
    "small": (small, r"small\.jpg.*200.*300"),
    "narrow": (narrow, r"narrow\.jpg.*2\.5"),
    "large": (large, r"large\.jpg.*10 MB"),
    "empty": (empty, r"empty\.jpg.*is empty"),
    "gif": (gif, r"moving\.gif.*GIF"),
    "folder": (a_folder, r"is a folder"),
    "scheme": (lambda _: "ftp://example.org/a.png", r"ftp"),
    "bytes": (lambda _: b"\x00\x01\x02 no picture", r"no format we know"),
    "data": (lambda _: "data:image/png;base64,!!!!", r"base64"),
}


def run(simulator: Simulator, use: Callable[[KlingClient], Any], **options: Any) -> Any:
    """What *use* returns, of a client of *simulator* over real sockets."""

    async def main() -> Any:
        async with (
            serve(simulator) as url,
            KlingClient(APIKey("sim-key"), KLING.at(url), polling=QUICK, **options) as kling,
        ):
            return await asyncio.wait_for(use(kling), 20)

    return asyncio.run(main())


@pytest.mark.parametrize("how", ["submit", "submit_soon", "run", "completions"])
@pytest.mark.parametrize(("make", "told"), BAD.values(), ids=BAD)
def test_a_bad_picture(make: Any, told: str, how: str, tmp_path: Path):
    """Each way of submitting refuses it with one line that names field and file; not one call is made."""
    image = make(tmp_path)
    simulator = Simulator(seconds=0.0)

    async def use(kling: KlingClient) -> Any:
        request = ImageToVideo(image=image, prompt="x")
        match how:
            case "submit":
                return await kling.submit(request)
            case "submit_soon":
                return await kling.submit_soon(request).result()
            case "run":
                return await kling.run(request, save_to=tmp_path / "out")
            case _:
                return [
                    done.result() async for done in kling.completions([request], save_to=tmp_path / "out")
                ]

    with pytest.raises(RequestError) as caught:
        run(simulator, use)
    error = caught.value
    assert isinstance(error, ValueError)
    assert error.outcome is Outcome.NOT_CREATED
    assert error.problems[0].field == "image"
    assert re.search(told, str(error)), str(error)
    assert len(str(error).splitlines()) == 1
    assert "nothing was paid" in str(error)
    assert simulator.ledger.requests == {}


def test_one_bad_item_harms_no_other(tmp_path: Path):
    """A bad item, one Kling refuses and one that fails there are values in a stream; the rest is saved."""
    good = jpeg(tmp_path / "good.jpg")
    requests = [
        ("fine", ImageToVideo(image=good, prompt="x")),
        ("missing", ImageToVideo(image=tmp_path / "no.png", prompt="x")),
        ("policy", ImageToVideo(image=good, prompt="[policy]")),
        ("failed", ImageToVideo(image=good, prompt="[fail]")),
        ("schema", ImageToVideo(image=good, prompt="x", mode="4d")),
        ("small", ImageToVideo(image=small(tmp_path), prompt="x")),
        ("last", ImageToVideo(image=good, prompt="y")),
    ]

    async def use(kling: KlingClient) -> dict[str | None, Completion]:
        return {done.key: done async for done in kling.completions(requests, save_to=tmp_path / "out")}

    simulator = Simulator(seconds=0.1)
    seen = run(simulator, use, max_in_flight=2)
    assert {key: type(done.error) for key, done in seen.items()} == {
        "fine": type(None),
        "missing": RequestError,
        "policy": PolicyError,
        "failed": TaskFailedError,
        "schema": InvalidRequestError,
        "small": RequestError,
        "last": type(None),
    }
    assert sorted(path.name for path in (tmp_path / "out").glob("*.mp4")) == ["fine.mp4", "last.mp4"]
    assert len(simulator.ledger.made) == 3
    for key, done in seen.items():
        assert done.ok or f"item {key}" in str(done.error)


def test_a_bad_save_to_is_told_first(tmp_path: Path):
    """A file where a folder belongs, a file that is there, a file for many videos: told before it is paid."""
    good = jpeg(tmp_path / "good.jpg")
    (tmp_path / "there.mp4").write_bytes(b"mine")
    simulator = Simulator(seconds=0.0)
    request = ImageToVideo(image=good, prompt="x")

    async def use(kling: KlingClient) -> list[str]:
        told: list[str] = []
        with pytest.raises(RequestError) as caught:
            await kling.run(request, save_to=tmp_path / "there.mp4")
        told.append(str(caught.value))
        with pytest.raises(RequestError) as caught:
            kling.completions([request], save_to=tmp_path / "many.mp4")
        told.append(str(caught.value))
        with pytest.raises(KlingError) as failed:
            await kling.run(request, save_to=good)
        told.append(str(failed.value))
        return told

    there, many, a_file = run(simulator, use)
    assert "there.mp4 exists and is not overwritten" in there
    assert "many.mp4" in many
    assert "good.jpg" in a_file
    assert simulator.ledger.made == []
    assert (tmp_path / "there.mp4").read_bytes() == b"mine"


def manifest(folder: Path, lines: list[str]) -> Path:
    """A JSON Lines manifest."""
    path = folder / "m.jsonl"
    path.write_text("\n".join(lines))
    return path


def test_bad_sources(tmp_path: Path):
    """An empty folder, an unknown column, a broken line 37, a key given twice: each told with its place."""
    jpeg(tmp_path / "a.jpg")
    row = json.dumps({"image": "a.jpg", "prompt": "x"})
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    sources: dict[str, tuple[Path, str]] = {}
    (tmp_path / "c.csv").write_text("image,promt\na.jpg,x\n")
    sources["column"] = (tmp_path / "c.csv", r"c\.csv.*promt.*prompt")
    broken = manifest(tmp_path, [row] * 36 + ['{"image": "a.jpg", "prompt": '] + [row] * 3)
    sources["line"] = (broken, r"m\.jsonl:37")
    for source, told in sources.values():
        (problem,) = read_source(source).problems
        assert re.search(told, str(problem)), str(problem)
    with pytest.raises(RequestError, match="nothing to animate"):
        read_source(nothing)
    twice = [json.dumps({"key": "cat", "image": "a.jpg", "prompt": "x"})] * 2
    (problem,) = read_source(manifest(tmp_path, twice)).problems
    assert re.search(r"m\.jsonl:2.*cat", str(problem)), str(problem)


def test_fields_are_refused_when_the_request_is_made():
    """All problems of a request are in one error that names each field, without a client or a picture."""
    with pytest.raises(RequestError) as caught:
        ImageToVideo(image="a.png", prompt="x" * 3000, cfg_scale=7, duration=99, image_tail=io.BytesIO())  # type: ignore[arg-type]  # the point
    named = {problem.field for problem in caught.value.problems}
    assert named == {"image_tail", "prompt", "duration", "cfg_scale"}
