"""A flight as a row of the journal, and back."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs

from kling_async.flight import Flight
from kling_async.journal import Record
from kling_async.protocol.checks import unsigned
from kling_async.protocol.converter import to_body
from kling_async.protocol.errors import (
    KlingError,
    Outcome,
    ResponseLostError,
    TaskFailedError,
    TaskLostError,
    WaitTimeoutError,
)
from kling_async.protocol.images import ImageFile, ImageText, ImageUrl, ResolvedImage
from kling_async.protocol.models import (
    ImageToVideo,
    MultiImageToVideo,
    Task,
    TaskStatus,
    Video,
    VideoRequest,
)

__all__ = ["error_of", "observed", "request_of", "request_text", "task_of"]


def observed(record: Record, flight: Flight, now: float) -> Record:
    """*record* with what is known of *flight* now; what it does not date yet is dated *now*."""
    task = flight.judged
    is_acknowledged = flight.acknowledged_at is not None and record.acknowledged_at is None
    return attrs.evolve(
        record,
        state=task.status.value,
        body_sent_at=flight.sent_at if flight.sent_at is not None else record.body_sent_at,
        acknowledged_at=now if is_acknowledged else record.acknowledged_at,
        task_id=task.task_id or record.task_id,
        message=task.status_message or (flight.error.what if flight.error else ""),
        videos=json.dumps([attrs.asdict(video) for video in task.videos]) if task.videos else record.videos,
        units=record.units if task.units is None else str(task.units),
        created_at=record.created_at if task.created_at is None else task.created_at.timestamp(),
        ended_at=record.ended_at if task.updated_at is None else task.updated_at.timestamp(),
        updated_at=now,
    )


def task_of(record: Record) -> Task:
    """The last snapshot that *record* holds."""
    return Task(
        record.task_id,
        record.external_task_id,
        TaskStatus(record.state),
        record.message if record.state == TaskStatus.FAILED else "",
        tuple(Video(**video) for video in json.loads(record.videos)),
        created_at=_moment(record.created_at),
        updated_at=_moment(record.ended_at),
        units=None if record.units is None else Decimal(record.units),
    )


def error_of(record: Record) -> KlingError | None:
    """Why an earlier run ended *record* without a video."""
    what = f"in an earlier run: {record.message or record.state}"
    match TaskStatus(record.state):
        case TaskStatus.FAILED:
            return TaskFailedError(what, task=task_of(record), status_message=record.message)
        case TaskStatus.MAY_EXIST:
            return ResponseLostError(what)
        case TaskStatus.LOST:
            return TaskLostError(what)
        case TaskStatus.GIVEN_UP:
            return WaitTimeoutError(what)
        case TaskStatus.REFUSED:
            return KlingError(what, outcome=Outcome.NOT_CREATED)
        case _:
            return None


def request_text(request: VideoRequest, images: Mapping[str, ResolvedImage]) -> str:
    """*request* as canonical JSON: pictures as path, size and SHA-256, URLs without what may be secret.

    ``extra_body`` is told by its field names only, for what is in it is the caller's.
    """
    fields = to_body(request)
    for name in ("image", "image_tail", "image_list", "static_mask"):
        fields.pop(name, None)
    for mask in fields.get("dynamic_masks", ()):
        del mask["mask"]
    if request.callback_url:
        fields["callback_url"] = unsigned(request.callback_url)
    if request.extra_body:
        fields["extra_body"] = sorted(request.extra_body)
    fields["images"] = {name: _described(image) for name, image in images.items()}
    return _canonical(fields)


def request_of(record: Record) -> VideoRequest:
    """What *record* asked for, without its pictures: as far as it decides on the price."""
    fields = json.loads(record.request)
    asked = {name: fields.get(name) for name in ("mode", "duration")}
    asked |= {"model_name": record.model_name, "prompt": "-"}
    asked["extra_body"] = dict.fromkeys(fields.get("extra_body", ()))
    if record.endpoint == MultiImageToVideo.endpoint:
        return MultiImageToVideo(image_list=[_SOME_PICTURE], **asked)
    asked |= {name: fields.get(name) for name in ("sound", "voice_list")}
    return ImageToVideo(image=_SOME_PICTURE, **asked)


_SOME_PICTURE = "https://picture.invalid/"

_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def _moment(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _described(image: ResolvedImage) -> dict[str, Any]:
    match image:
        case ImageUrl(url):
            return {"url": unsigned(url)}
        case ImageText():
            size = len(image.base64) * 3 // 4 - image.base64[-2:].count("=")
            return {"sha256": image.sha256, "size": size}
        case ImageFile():
            return {"path": str(Path(image.path)), "size": image.size, "sha256": image.sha256}
