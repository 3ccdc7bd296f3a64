"""Tasks that are kept and end: what the stub answers once it is told when they end.

Each body is made ready before it is asked for: a list page is a join of bytes.
"""

import heapq
import json
import math
import random
import re
import time
from typing import Any
from urllib.parse import parse_qs

import attrs

__all__ = ["FIRST", "Ends", "Keeper", "reply"]

FIRST = 900_000_000_000_000_000
"""The first task's id; Kling's have 18 or 19 digits (API reference, task object)."""
MOST_TASKS = 250_000
"""Tasks it keeps; a create beyond is refused."""


@attrs.frozen
class Ends:
    """When the tasks end.

    Attributes:
        low: seconds at least.
        high: seconds at most; each task's own are drawn uniformly.
        hold: the seconds count from when so many tasks were created; 0: from each task's own create.
        seed: of the drawing.
    """

    low: float
    high: float
    hold: int = 0
    seed: int = 1


def reply(body: bytes, status: bytes = b"200 OK") -> bytes:
    """A whole HTTP response."""
    head = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % (status, len(body)) + body


_ENVELOPE = (
    b'{"code": 0, "message": "SUCCEED", "request_id": "0a4f3f5c-6b0e-4a7b-9a92-7a1d3c1b2e55", "data": '
)
_ENTRY = (
    b'{"task_id": "%d", "task_status": "%b", "task_status_msg": "", "task_info": {"external_task_id": "%b"}, '
    b'%b"watermark_info": {"enabled": false}, "created_at": %d, "updated_at": %d}'
)
_SIGNED = "https://media.example.com/bench/%d.mp4?Expires=1775958902&Signature=" + "x" * 256
_RESULT = (
    b'"task_result": {"videos": [{"id": "%d", "url": "'
    + _SIGNED.encode()
    + b'", "duration": "5.041"}]}, "final_unit_deduction": "1.5", '
)
_EXTERNAL = re.compile(rb'"external_task_id":\s*"([^"]*)"')


def _form(**document: Any) -> bytes:
    """A reply in which ``@`` stands for the task's id and ``~`` for the stub's URL."""
    return json.dumps(document).encode()


@attrs.frozen
class _Shape:
    """How another API speaks of a task: created, running, done; *place* is where its path has the id."""

    created: bytes
    running: bytes
    done: bytes
    place: int = -1


def _replicate(status: str, output: str | None = None) -> bytes:
    times = {"created_at": "2026-11-20T12:00:00Z", "started_at": None, "completed_at": None}
    urls = {"get": "~/replicate/v1/predictions/@"}
    told = {"id": "@", "model": "bench/video", "version": "hidden", "status": status, "urls": urls, **times}
    return _form(**told, input={}, output=output, logs="", error=None, metrics={})


def _openai(status: str, progress: int) -> bytes:
    told = {"id": "@", "object": "video", "model": "sora-2", "status": status, "progress": progress}
    return _form(**told, created_at=1773366840, size="1280x720", seconds="4", error=None)


def _runway(**told: Any) -> bytes:
    return _form(id="@", createdAt="2026-11-20T12:00:00Z", **told)


_VIDEO = "https://media.example.com/@.mp4"
_COST = {"credits": 25}
_FAL = "~/fal/requests/@"
_FAL_RESULT = _form(id="@", video={"url": _VIDEO})
_SHAPES = {
    b"fal": _Shape(
        _form(request_id="@", response_url=_FAL, status_url=_FAL + "/status", cancel_url=_FAL + "/cancel"),
        _form(status="IN_PROGRESS", request_id="@", logs=None),
        _form(status="COMPLETED", request_id="@", logs=None, metrics={"inference_time": 12.5}),
        place=3,
    ),
    b"replicate": _Shape(_replicate("starting"), _replicate("processing"), _replicate("succeeded", _VIDEO)),
    b"openai": _Shape(_openai("queued", 0), _openai("in_progress", 50), _openai("completed", 100)),
    b"runway": _Shape(
        _runway(estimatedCost=_COST),
        _runway(status="RUNNING", progress=0.5, estimatedCost=_COST),
        _runway(status="SUCCEEDED", cost=_COST, output=[_VIDEO]),
    ),
}


class Keeper:
    """Keeps tasks, and counts what it is asked for.

    Args:
        ends: when the tasks end.
        base: its own URL, which some replies name.
    """

    def __init__(self, ends: Ends, base: str) -> None:
        self._ends = ends
        self._rng = random.Random(ends.seed)
        self._base = base.encode()
        self._epoch = time.time() - time.monotonic()
        self._held = ends.hold > 0
        self._running: list[tuple[float, int]] = []
        self._ended: list[float] = []
        """When each task ends, seconds of the monotonic clock."""
        self._created: list[int] = []
        self._reads: list[int] = []
        self._names: list[bytes] = []
        self._by_name: dict[bytes, int] = {}
        self._told = bytearray()
        """One for each task: 1 if something was told of it since `_control` was asked."""
        self._entries: list[bytes] = []
        """Each task as the list has it now, so that a page is a join."""
        self._requests: dict[str, int] = dict.fromkeys(("create", "status", "result", "list", "other"), 0)

    def answer(self, method: bytes, target: bytes, body: bytes) -> bytes:
        """The whole reply."""
        self._end_due()
        path, _, query = target.partition(b"?")
        pieces = path.split(b"/")
        match pieces[1]:
            case b"control":
                return self._control(pieces[-1], body)
            case b"v1":
                return self._kling(method, pieces, query, body)
            case api if (shape := _SHAPES.get(api)) is not None:
                return self._other(shape, method, pieces)
            case _:
                return self._unknown()

    def _kling(self, method: bytes, pieces: list[bytes], query: bytes, body: bytes) -> bytes:
        if method == b"POST":
            named = _EXTERNAL.search(body)
            task = self._create(named[1] if named else b"")
            if task is None:
                return self._unknown()
            return reply(_ENVELOPE + self._entries[task].replace(b"processing", b"submitted", 1) + b"}")
        if len(pieces) == 4:  # /v1/videos/image2video
            return self._page(query)
        task = self._by_name.get(pieces[4])
        if task is None:
            task = self._number(pieces[4])
        if task is None:
            return self._unknown()
        self._count("status", task)
        return reply(_ENVELOPE + self._entries[task] + b"}")

    def _page(self, query: bytes) -> bytes:
        self._requests["list"] += 1
        asked = parse_qs(query)
        number, size = int(asked.get(b"pageNum", [b"1"])[0]), int(asked.get(b"pageSize", [b"30"])[0])
        end = len(self._entries) - (number - 1) * size
        place = slice(max(0, end - size), max(0, end))
        page = self._entries[place]
        self._told[place] = b"\1" * len(page)
        page.reverse()
        return reply(_ENVELOPE + b"[" + b", ".join(page) + b"]}")

    def _other(self, shape: _Shape, method: bytes, pieces: list[bytes]) -> bytes:
        if method == b"POST":
            task, form = self._create(b""), shape.created
        else:
            task = self._number(pieces[shape.place])
            done = task is not None and self._ended[task] <= time.monotonic()
            form = shape.done if done else shape.running
            if pieces[1] == b"fal" and pieces[-1] != b"status":
                form = _FAL_RESULT
            self._count("result" if form is _FAL_RESULT else "status", task)
        if task is None:
            return self._unknown()
        return reply(form.replace(b"@", b"%d" % (FIRST + task)).replace(b"~", self._base))

    def _control(self, what: bytes, body: bytes) -> bytes:
        """``tasks`` creates one for each external_task_id of a JSON list; ``told`` counts tasks, see `_told`.

        ``report`` tells everything.
        """
        if what == b"told":
            count = self._told.count(1)
            self._told = bytearray(len(self._told))
            return reply(b"%d" % count)
        if what == b"tasks":
            for name in json.loads(body):
                self._create(name.encode())
            return reply(b"{}")
        report = {
            "requests": self._requests,
            "ends": [None if end == math.inf else end for end in self._ended],
            "reads": self._reads,
        }
        return reply(json.dumps(report).encode())

    def _create(self, name: bytes) -> int | None:
        task = len(self._ended)
        if task >= MOST_TASKS:
            return None
        self._requests["create"] += 1
        now = time.monotonic()
        self._created.append(int((self._epoch + now) * 1000))
        self._names.append(name)
        if name:
            self._by_name[name] = task
        self._reads.append(0)
        self._told.append(0)
        self._ended.append(math.inf)
        self._entries.append(self._entry(task, b"processing", b"", self._created[task]))
        if not self._held:
            self._draw(task, now)
        elif len(self._ended) >= self._ends.hold:
            self._held = False
            for each in range(len(self._ended)):
                self._draw(each, now)
        return task

    def _draw(self, task: int, now: float) -> None:
        self._ended[task] = now + self._rng.uniform(self._ends.low, self._ends.high)
        heapq.heappush(self._running, (self._ended[task], task))

    def _end_due(self) -> None:
        now = time.monotonic()
        while self._running and self._running[0][0] <= now:
            end, task = heapq.heappop(self._running)
            video = _RESULT % (FIRST + task, FIRST + task)
            self._entries[task] = self._entry(task, b"succeed", video, int((self._epoch + end) * 1000))

    def _entry(self, task: int, status: bytes, result: bytes, updated: int) -> bytes:
        return _ENTRY % (FIRST + task, status, self._names[task], result, self._created[task], updated)

    def _number(self, text: bytes) -> int | None:
        task = int(text) - FIRST if text.isdigit() else -1
        return task if 0 <= task < len(self._ended) else None

    def _count(self, kind: str, task: int | None) -> None:
        self._requests[kind] += 1
        if task is not None:
            self._reads[task] += 1
            self._told[task] = 1

    def _unknown(self) -> bytes:
        self._requests["other"] += 1
        return reply(b'{"code": 1201, "message": "Task not found"}', b"400 Bad Request")
