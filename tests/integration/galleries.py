"""A batch as a run would have left it, of real pictures and videos: with failures, and with evil names."""

import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib.resources import files
from pathlib import Path
from typing import Any

from PIL import Image

from kling_async import (
    KLING,
    Budget,
    ImageToVideo,
    KlingError,
    MultiImageToVideo,
    PolicyError,
    ResponseLostError,
    Task,
    TaskFailedError,
    TaskStatus,
    Video,
    WaitTimeoutError,
)
from kling_async.batch import Item
from kling_async.batch.report import Report
from kling_async.instrumentation import Checked, Completed, Saved, Submitted, Waiting
from kling_async.protocol.errors import BudgetError
from kling_async.protocol.models import VideoRequest
from kling_async.simulator.video import render
from kling_async.streams import Completion

EPOCH = 1_800_000_000.0
"""Unix seconds at which every run begins."""

NAMES = {
    "cat": "The cat turns its head towards the window and yawns, slowly",
    "coffee": "Steam rises from the cup, the spoon lies still; a slow push in",
    "astronaut": "She smiles and looks up at something above the camera",
    "rocket": "The engines ignite and the rocket lifts off in a cloud of dust",
    "galaxies": "The camera drifts past the galaxies, stars twinkle",
    "portrait": "A gust of wind moves her hair; portrait, hand-held",
}

EVIL = (
    "<script>document.title = 'broken'</script>",
    '"><img src=x onerror="document.title=\'broken\'">',
    "javascript:alert(1)",
    "100% #1? 'quoted' & \"double\" ä 猫.mp4",
    "</title></style></script><h1 id=evil>",
    "{{ 7 * 7 }}{% raw %}",
    "http://evil.example/x.mp4",
    "..%2f..%2fetc",
    "rtl \u202egpj.exe",
    "a" + "\u0310\u0353" * 40 + " tower of marks",
)
"""What nobody calls a video, and what would show at once if it were taken for more than text."""


def photos(folder: Path) -> dict[str, Path]:
    """The package's photos in *folder*, and a portrait."""
    folder.mkdir(parents=True, exist_ok=True)
    made: dict[str, Path] = {}
    for source in files("kling_async.photos").iterdir():
        if source.name.endswith((".jpg", ".png")):
            path = made[Path(source.name).stem] = folder / source.name
            path.write_bytes(source.read_bytes())
    with Image.open(made["astronaut"]) as photo:
        width, height = photo.size
        tall = photo.convert("RGB").crop((width // 4, 0, width // 4 + height * 9 // 16, height))
    made["portrait"] = folder / "portrait.jpg"
    tall.save(made["portrait"], quality=90)
    return made


def films(pictures: dict[str, Path], side: int) -> dict[str, bytes]:
    """A video of each picture, one second long, its longer side *side* pixels."""
    fps = 12 if side < 300 else 24
    return {
        name: render([path.read_bytes()], seconds=1, fps=fps, long_side=side)
        for name, path in pictures.items()
    }


def small(picture: Path) -> bytes:
    """*picture* as the bytes of a small file."""
    with Image.open(picture) as image:
        image.thumbnail((400, 400))
        file = io.BytesIO()
        image.convert("RGB").save(file, "JPEG")
    return file.getvalue()


def requests(pictures: dict[str, Path], count: int) -> Iterator[tuple[str, VideoRequest]]:
    """Names and requests, *count* of them: ordinary ones, such with several pictures, and evil ones."""
    names = list(NAMES)
    for number in range(count):
        base = names[number % len(names)]
        name = base if number < len(names) else f"{base}-{number // len(names) + 1}"
        image, prompt = pictures[base], NAMES[base]
        match number:
            case 8:
                yield name, ImageToVideo(image=image, image_tail=pictures["cat"], prompt=prompt, mode="pro")
            case 9:
                several = (pictures["cat"], pictures["portrait"], image)
                yield name, MultiImageToVideo(image_list=several, prompt=prompt)
            case 10:
                yield name, ImageToVideo(image="https://cdn.example.org/a.png?sig=secret", prompt=prompt)
            case 11:
                yield name, ImageToVideo(image=small(image), prompt=" ".join([prompt] * 9), duration=10)
            case _ if count - len(EVIL) <= number:
                evil = EVIL[number - count]
                yield evil, ImageToVideo(image=image, prompt=evil, negative_prompt=evil)
            case _:
                yield name, ImageToVideo(image=image, prompt=prompt, mode="pro", duration=5, sound="off")


def failure(number: int, name: str) -> tuple[TaskStatus, KlingError] | None:
    """Why an item has no video."""
    match number % 20:
        case 5:
            evil = f"no: {name} https://cdn.example.org/v.mp4?X-Signature=secret"
            return TaskStatus.FAILED, TaskFailedError(evil, status_message=evil)
        case 7:
            return TaskStatus.REFUSED, PolicyError("the picture was refused (HTTP 400, code 1301)", code=1301)
        case 12:
            return TaskStatus.MAY_EXIST, ResponseLostError("the connection broke after the request had left")
        case 16:
            return TaskStatus.PROCESSING, WaitTimeoutError("no video within 3600 s", token="kling1.token")
        case 18:
            return TaskStatus.REFUSED, BudgetError("the budget of 200 units has no room for it")
        case _:
            return None


def run(report: Report, folder: Path, videos: dict[str, bytes], *, until: int | None = None) -> None:
    """Tell *report* what happened to each item, the last of them still on their way from *until* on."""
    for number, item in enumerate(report.items):
        names: dict[str, Any] = {"key": item.name, "task_id": None, "external_task_id": f"ka-{number:026}"}
        model = item.request.model_name
        if until is not None and number >= until + 12:
            continue
        report.tell(Checked(**names, model_name=model, endpoint="image2video", provider=KLING))
        if until is not None and number >= until + 6:
            report.tell(Waiting(**names))
            continue
        went = failure(number, item.name)
        acknowledged = went is None or went[0] not in (TaskStatus.REFUSED, TaskStatus.MAY_EXIST)
        if acknowledged:
            names["task_id"] = str(7_400_000_000_000_000_000 + number * 7919)
            waited = 0.02 if number < 5 else 31.5 + number
            report.tell(Submitted(**names, model_name=model, slot_wait=waited, upload=0.8 + number % 3))
        if until is not None and number >= until:
            continue
        task = _task(names, went, seconds=71 + number * 7 % 40)
        path = None
        if went is None:
            ended: dict[str, Any] = {
                "polls": 4,
                "generation": 71.0 + number * 7 % 40,
                "elapsed": 75.0,
                "detection_delay": 1.4,
            }
            report.tell(Completed(**names, status=task.status, error=None, units=task.units, **ended))
            path = folder / f"{_safe(item.name)}.mp4"
            path.write_bytes(videos.get(item.name.partition("-")[0], videos["cat"]))
            report.tell(Saved(**names, path=path, size=1, elapsed=0.6))
        error = None if went is None else went[1].about(key=item.name, task_id=task.task_id)
        report.ended(Completion(number, item.name, item.request, task, error, path))


def _task(names: dict[str, Any], went: tuple[TaskStatus, KlingError] | None, *, seconds: int) -> Task:
    began = datetime.fromtimestamp(EPOCH, UTC)
    return Task(
        names["task_id"],
        names["external_task_id"],
        TaskStatus.SUCCEED if went is None else went[0],
        videos=(Video("https://cdn.example.org/v.mp4?X-Signature=secret"),) if went is None else (),
        created_at=began,
        updated_at=began + timedelta(seconds=seconds),
        units=Decimal("2.5") if went is None else None,
    )


def _safe(name: str) -> str:
    """A file's name with every sign that a file system takes: the download would be stricter."""
    return name.replace("/", "_").removesuffix(".mp4")


def batch(
    folder: Path,
    *,
    count: int = 60,
    side: int = 160,
    until: int | None = None,
    videos: dict[str, bytes] | None = None,
) -> Report:
    """A report of *count* items in *folder*, told but not written.

    Args:
        folder: for it and the videos; the photos go beside it.
        count: of items.
        side: the longer side of the videos, pixels.
        until: from which item on they are still on their way; None: none is.
        videos: what `films` made; left out, they are made.
    """
    pictures = photos(folder.parent / "photos")
    folder.mkdir(parents=True, exist_ok=True)
    items = [
        Item(name, name, request, f"{number:064x}", f"shots.csv:{number + 2}")
        for number, (name, request) in enumerate(requests(pictures, count))
    ]
    ticks = iter((EPOCH,))
    report = Report(
        folder,
        items,
        title="Summer campaign",
        provider=KLING,
        estimates=[Decimal("2.5")] * count,
        budget=Budget(200, spent=Decimal("99.5")),
        clock=lambda: next(ticks, EPOCH + 812.4),
    )
    run(report, folder, videos or films(pictures, side), until=until)
    return report
