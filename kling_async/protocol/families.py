"""The reply families as one tolerant decoder: a JSON object in, a `Task` out, whoever sent it.

Kling's own replies and four kinds of wrapping occur behind the same path, sometimes one inside the other
(gateways reference, body families)::

    K  {code: 0, data: {task_id, task_status, task_result, ...}}              Kling, CometAPI
    W  {code: "success", data: {task_id, status, fail_reason, data: <K>}}     new-api, ezmodel
    S  {code: "success", data: {task_id, status, url, error}}                 simple wrappers
    V  {id, object: "video", status, metadata: {url}, error}                  OpenAI style
    F  {task_id, status, url, error}                                          flat
       {id, status, message, outputs, billing, external_id, ...}              Kling's new generation

So no family is recognised. Every object on the way down ``data`` is a *node*, and each piece is taken from
the outermost node that has it: a gateway's state is newer than the copy of Kling's reply it wraps.
"""

import math
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final

import attrs

from kling_async.protocol.models import Task, TaskStatus, Video

__all__ = ["STATES", "decimal_of", "external_id", "glance", "task_from", "utc_of"]

STATES: Final[Mapping[str, TaskStatus]] = {
    **dict.fromkeys(
        ("submitted", "not_start", "not_started", "queued", "pending", "in_queue", "staged", "starting"),
        TaskStatus.SUBMITTED,
    ),
    **dict.fromkeys(("processing", "in_progress", "generating", "running"), TaskStatus.PROCESSING),
    **dict.fromkeys(("succeed", "succeeded", "success", "completed"), TaskStatus.SUCCEED),
    **dict.fromkeys(
        ("failed", "failure", "error", "canceled", "cancelled", "aborted"),
        TaskStatus.FAILED,
    ),
}
"""Every status word seen anywhere, in lower case; any other is `TaskStatus.UNKNOWN`, and polling goes on."""

_DEPTH: Final = 7
"""Nodes looked at: new-api in front of new-api needs six."""

Node = Mapping[str, Any]


def task_from(document: Node, *, absent: TaskStatus = TaskStatus.UNKNOWN) -> Task | None:
    """The task a JSON object tells of, or None if it names neither an id nor a state.

    Args:
        document: the object, with or without an envelope.
        absent: the status if there is no status word at all, as in the oldest gateways' create replies.
    """
    nodes = _nodes(document)
    task_id, word = _task_id(nodes), _word(nodes)
    if task_id is None and word is None:
        return None
    status = absent if word is None else _status(word)
    created_at = _time(nodes, "created_at", "submit_time", "create_time")
    updated_at = _time(nodes, "finish_time", "completed_at", "updated_at", "update_time")
    return Task(
        task_id,
        _external_task_id(nodes),
        status,
        _message(nodes, status),
        _videos(nodes) if status is TaskStatus.SUCCEED else (),
        created_at,
        created_at if updated_at == created_at else updated_at,  # one object while nothing has happened
        _units(nodes),
        document,
    )


def glance(document: Node) -> tuple[str | None, TaskStatus]:
    """The id and the status that `task_from` finds, at a tenth of its cost: most looks learn nothing else.

    Of an object that `task_from` takes for no task it tells no id and `TaskStatus.UNKNOWN`.
    """
    found = _plain(document)
    if found is None and _MARKS.isdisjoint(document) and isinstance(data := document.get("data"), dict):
        found = _plain(data)
    if found is not None:
        return found
    nodes = _nodes(document)
    word = _word(nodes)
    return _task_id(nodes), TaskStatus.UNKNOWN if word is None else _status(word)


_MARKS: Final = frozenset({"task_id", "task_status", "id", "status"})
"""An object with none of these is an envelope: it adds nothing to the id and status of what it wraps."""


def _plain(node: Node) -> tuple[str, TaskStatus] | None:
    """Id and status of a node with both, as Kling writes them: whatever lies deeper, those count."""
    task_id, word = node.get("task_id"), node.get("task_status")
    if task_id and isinstance(task_id, str) and isinstance(word, str) and word in STATES:
        return task_id, STATES[word]
    return None


def external_id(document: Node) -> str | None:
    """The external_task_id an object tells of."""
    return _external_task_id(_nodes(document))


def _nodes(document: Node) -> list[Node]:
    nodes: list[Node] = []
    node: Any = document
    while isinstance(node, dict) and len(nodes) < _DEPTH:
        nodes.append(node)
        node = node.get("data")
    return nodes


def _task_id(nodes: list[Node]) -> str | None:
    for node in nodes:
        task_id = _id(node.get("task_id")) or _id(node.get("id") if "status" in node else None)
        if task_id is not None:
            return task_id
    return None


def _id(value: Any) -> str | None:
    """Ids are opaque text; a number is one that a gateway forgot to quote."""
    if not value or isinstance(value, bool):
        return None
    return str(value) if isinstance(value, str | int) else None


def _word(nodes: list[Node]) -> str | None:
    """The status word. A bare ``status`` counts beside an id: in an envelope it may tell of the call."""
    for node in nodes:
        word = node.get("task_status") or (node.get("status") if "task_id" in node or "id" in node else None)
        if word and isinstance(word, str):
            return word
    return next((word for node in nodes if isinstance(word := node.get("status"), str) and word), None)


def _status(word: str) -> TaskStatus:
    return STATES.get(word) or STATES.get(word.strip().lower(), TaskStatus.UNKNOWN)


def _external_task_id(nodes: list[Node]) -> str | None:
    for node in nodes:
        info = node.get("task_info")
        found = _id(info.get("external_task_id")) if isinstance(info, dict) else None
        found = found or _id(node.get("external_task_id")) or _id(node.get("external_id"))
        if found is not None:
            return found
    return None


def _message(nodes: list[Node], status: TaskStatus) -> str:
    """Why it failed. Unless it failed, ``fail_reason`` may be the video's URL and is not looked at."""
    for node in nodes:
        text = node.get("task_status_msg")
        if not text and status is TaskStatus.FAILED:
            text = node.get("fail_reason") or _error_text(node.get("error")) or _own_message(node)
        if text and isinstance(text, str):
            return text
    if status is not TaskStatus.FAILED:
        return ""
    # some new-api versions put the reason where the URL belongs
    reasons = (node.get("result_url") for node in nodes)
    return next((text for text in reasons if isinstance(text, str)), "")


def _error_text(error: Any) -> Any:
    return error.get("message") if isinstance(error, dict) else error


def _own_message(node: Node) -> Any:
    """The new generation's reason; the ``message`` of an envelope tells of the call."""
    return node.get("message") if "status" in node and "code" not in node else None


def _videos(nodes: list[Node]) -> tuple[Video, ...]:
    """The videos of a task that succeeded.

    A gateway's own URL is newer than the one in the reply it wraps; the rest it knows is in that reply alone.
    """
    told = next((videos for node in nodes if (videos := tuple(_told(node)))), ())
    own = next((url for node in nodes if (url := _own_url(node))), None)
    if own is None:
        # before 2026-02-22 new-api had no better place for it
        own = None if told else next((url for node in nodes if (url := _url(node.get("fail_reason")))), None)
    if own is None or (told and told[0].url == own):
        return told
    return (attrs.evolve(told[0], url=own), *told[1:]) if told else (Video(own),)


def _told(node: Node) -> Iterator[Video]:
    result = node.get("task_result")
    videos = result.get("videos") if isinstance(result, dict) else node.get("outputs")
    for video in videos if isinstance(videos, list) else ():
        if (
            isinstance(video, dict)
            and video.get("type", "video") == "video"
            and (url := _url(video.get("url")))
        ):
            watermark = _url(video.get("watermark_url"))
            yield Video(url, _id(video.get("id")) or "", _seconds(video.get("duration")), watermark)


def _own_url(node: Node) -> str | None:
    metadata = node.get("metadata")
    return (
        _url(node.get("result_url"))
        or _url(node.get("url"))
        or (_url(metadata.get("url")) if isinstance(metadata, dict) else None)
    )


def _url(value: Any) -> str | None:
    return value if isinstance(value, str) and value.startswith(("https://", "http://")) else None


def _seconds(value: Any) -> float | None:
    try:
        seconds = float(value) if isinstance(value, str | int | float) else math.nan
    except (ValueError, OverflowError):
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _time(nodes: list[Node], *names: str) -> datetime | None:
    for node in nodes:
        for name in names:
            value = node.get(name)
            if value and (time := utc_of(value)) is not None:
                return time
    return None


def utc_of(value: Any) -> datetime | None:
    """Kling tells milliseconds, gateways seconds: a number below 1e11 is seconds until the year 5138."""
    try:
        if isinstance(value, str):
            value = float(value)
        if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
            return None
        return datetime.fromtimestamp(value if value < 1e11 else value / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def _units(nodes: list[Node]) -> Decimal | None:
    for node in nodes:
        units = decimal_of(node.get("final_unit_deduction"))
        if units is None and isinstance(rows := node.get("billing"), list):
            told = [
                amount
                for row in rows
                if isinstance(row, dict) and row.get("charge_type") == "unit"
                if (amount := decimal_of(row.get("amount"))) is not None
            ]
            units = sum(told, Decimal(0)) if told else None
        if units is not None:
            return units
    return None


def decimal_of(value: Any) -> Decimal | None:
    """The number that *value* is or spells; None where it is none."""
    if value is None or isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = Decimal(str(value))
    except InvalidOperation:
        return None
    return number if number.is_finite() and 0 <= number < 10**12 else None
