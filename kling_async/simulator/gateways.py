"""Gateways in front of Kling: each passes a request on and tells the answer in its own words."""

import re
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Final

from attrs import define, field, frozen

from kling_async.simulator.credentials import bearer
from kling_async.simulator.kling import Kling, submitted
from kling_async.simulator.messages import Call, Refusal, Reply, Route
from kling_async.simulator.tasks import TERMINAL, Generation


class _OwnError(Exception):
    """The gateway refuses by itself, with *reply*; Kling is not asked."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        super().__init__(reply.status)


def _check_key(call: Call, api_keys: Collection[str]) -> bool:
    """Whether the call carries one of the gateway's own keys; the gateways know no signed tokens."""
    try:
        return bearer(call.headers.get("authorization")) in api_keys
    except Refusal:
        return False


@define(eq=False)
class CometAPI(Kling):
    """CometAPI (gateway reference, CometAPI): Kling's bodies, errors of its own, no list."""

    prefix: ClassVar[str] = "/kling"

    def answer(self, route: Route, call: Call) -> Reply:
        """The reply to a call.

        Raises:
            Refusal: Kling refused; its body is passed on.
        """
        if route.operation not in ("create", "query"):
            return Reply.of_html(301, {"Location": "/"})
        try:
            if not _check_key(call, self.api_keys):
                raise self._error(401, "invalid token", "")
            if route.operation == "query":
                return self.enveloped(
                    self.snapshot(self.account.find(route.kind, route.name, call.now), call.now)
                )
            return self._create(route, call)
        except _OwnError as own:
            return own.reply

    def _create(self, route: Route, call: Call) -> Reply:
        try:
            body = call.read_json()
        except Refusal as refusal:
            raise self._error(500, refusal.message, "invalid_request") from None
        # documented as required; malformed requests come back with a status that looks like a passing fault
        wanted = ("model_name", "image") if route.kind == "image2video" else ("model_name", "image_list")
        for name in wanted:
            if not body.get(name):
                raise self._error(500, f"{name.removesuffix('_name')} is required", "invalid_request")
        data = submitted(self.account.create(route.kind, body, call.now))
        message = "success" if route.kind == "image2video" else "SUCCEED"
        return Reply.of_json(200, {"code": 0, "message": message, "data": data})

    def _error(self, status: int, message: str, code: str) -> _OwnError:
        text = f"{message} (request id: {self.account.request_id()})"
        error = {"message": text, "type": "comet_api_error", "param": "", "code": code}
        return _OwnError(Reply.of_json(status, {"error": error}))


_TEXTS: Final = frozenset(
    {
        "model_name",
        "prompt",
        "image",
        "image_tail",
        "negative_prompt",
        "static_mask",
        "mode",
        "duration",
        "aspect_ratio",
        "callback_url",
        "external_task_id",
    }
)
_STATES: Final[Mapping[str, tuple[str, str]]] = {
    "submitted": ("SUBMITTED", "10%"),
    "processing": ("IN_PROGRESS", "30%"),
    "succeed": ("SUCCESS", "100%"),
    "failed": ("FAILURE", "100%"),
}
_SATURATED: Final = "当前分组上游负载已饱和，请稍后再试"  # noqa: RUF001 - the gateway's own text


@frozen
class _Row:
    """What a new-api keeps of a task besides Kling's replies."""

    task: Generation
    action: str
    prompt: str


@define(eq=False)
class NewAPI:
    """A new-api (gateway reference, new-api and ezmodel): Kling's task inside a wrapper of its own.

    Attributes:
        kling: The Kling behind it.
        api_keys: The gateway's own keys.
        refresh: Seconds between two looks at Kling; 0 looks at every query.
        trapped: Of early 2026: ids of its own, and requests read from `model` and `metadata`. Otherwise of
            late 2025: Kling's ids, requests read from the top level.
    """

    prefix: ClassVar[str] = "/kling"

    kling: Kling
    api_keys: Collection[str] = field(repr=False)
    refresh: float
    trapped: bool = field(kw_only=True)
    _rows: dict[str, _Row] = field(init=False, factory=dict)

    def answer(self, route: Route, call: Call) -> Reply:
        """The reply to a call.

        Raises:
            Refusal: Kling refused.
        """
        if route.operation not in ("create", "query") or route.kind not in ("image2video", "text2video"):
            return Reply.of_html(200)
        try:
            if not _check_key(call, self.api_keys):
                raise self._routing_error(401, "Invalid token")
            return self._create(call) if route.operation == "create" else self._query(route.name, call.now)
        except _OwnError as own:
            return own.reply

    def refuse(self, refusal: Refusal) -> Reply:
        """What becomes of Kling's refusal: the raw body as text, or, for 429, nothing of it."""
        if refusal.status == 429:
            return self._task_error(429, "fail_to_fetch_task", _SATURATED).reply
        raw = re.sub(r"https?://[^\s\"]+", "***", self.kling.refuse(refusal).body.decode())
        return self._task_error(refusal.status, "fail_to_fetch_task", raw).reply

    def _create(self, call: Call) -> Reply:
        body = self._upstream_body(call)
        # without a start frame it becomes a text-to-video, whatever else was sent
        kind = "image2video" if body.get("image") else "text2video"
        task = self.kling.account.create(kind, body, call.now)
        name = f"task_{self.kling.account.request_id().replace('-', '')}" if self.trapped else task.task_id
        self._rows[name] = _Row(task, _action(body), body["prompt"])
        video = {
            "id": name,
            "task_id": name,
            "object": "video",
            "model": body["model_name"],
            "status": "queued",
            "progress": 0,
            "created_at": int(task.created),
        }
        return Reply.of_json(200, video, self._headers())

    def _upstream_body(self, call: Call) -> dict[str, Any]:
        """What is sent to Kling for *call*: a fixed set of fields, with defaults."""
        try:
            sent = call.read_json()
        except Refusal:
            sent = {}  # an unread body has no model
        model = sent.get("model") if self.trapped else sent.get("model_name") or sent.get("model")
        if not model:
            raise self._routing_error(400, "Model name not specified")
        if not sent.get("prompt"):
            raise self._task_error(400, "invalid_request", "prompt is required")
        body = {"model_name": model, "mode": "std", "duration": "5", "aspect_ratio": "1:1", "cfg_scale": 0.5}
        if self.trapped:
            # this age reads a number too
            body.update({name: str(sent[name]) for name in ("prompt", "mode", "duration") if sent.get(name)})
            images = sent.get("images")
            body["image"] = sent.get("image") or (images[0] if isinstance(images, list) and images else "")
            sent = sent["metadata"] if isinstance(sent.get("metadata"), dict) else {}
        self._decode_over(body, sent)
        return {name: value for name, value in body.items() if value not in ("", 0)}

    def _decode_over(self, body: dict[str, Any], source: Mapping[str, Any]) -> None:
        """Set the fields of Kling's request that this version knows; the others are dropped."""
        later = {"sound", "watermark_info"} if self.trapped else set[str]()
        for name, value in source.items():
            if value is None:
                continue
            if name in _TEXTS:
                good = isinstance(value, str)
            elif name == "cfg_scale":
                good = isinstance(value, int | float)
            elif name == "dynamic_masks":
                good = isinstance(value, list) and all(map(_whole_points, value))
            elif name in later or name == "camera_control":
                good = isinstance(value, str if name == "sound" else dict)
            else:
                continue
            if not good:
                raise self._task_error(500, "build_request_failed", f"json: cannot unmarshal {name}")
            body[name] = value

    def _query(self, name: str, now: float) -> Reply:
        row = self._rows.get(name)
        if (
            row is None
            or now >= row.task.purged
            or self.kling.account.lagging(row.task, row.task.task_id, now)
        ):
            raise self._task_error(400, "task_not_exist", "task_not_exist")
        seen = now // self.refresh * self.refresh if self.refresh else now
        view = self._stored(name, row, seen)
        return Reply.of_json(200, {"code": "success", "message": "", "data": view}, self._headers())

    def _stored(self, name: str, row: _Row, seen: float) -> dict[str, Any]:
        """The task object as of the gateway's look at Kling at *seen*."""
        task = row.task
        looked = not self.refresh or seen > task.created
        data = self.kling.snapshot(task, seen) if looked else submitted(task)
        status = data["task_status"]
        word, progress = _STATES.get(status, (status.upper(), "30%")) if looked else ("NOT_START", "0%")
        done = status in TERMINAL
        url = self.kling.account.video_url(task, seen) if status == "succeed" else ""
        failure = task.failure if status == "failed" else ""
        view: dict[str, Any] = {
            "task_id": name,
            "action": row.action,
            "status": word,
            # before 2026-02-22 this column held the URL of a success
            "fail_reason": failure if self.trapped else failure or url,
            "submit_time": int(task.created),
            "start_time": int(task.started) if looked and status != "submitted" else 0,
            "finish_time": int(task.updated(seen)) if done else 0,
            "progress": progress,
            "data": self.kling.envelope(data),
        }
        return view | _later_columns(row, seen, url or failure) if self.trapped else view

    def _headers(self) -> dict[str, str]:
        version = "v0.11.0" if self.trapped else "v0.9.9"
        return {"X-Oneapi-Request-Id": self.kling.account.request_id(), "X-New-Api-Version": version}

    def _routing_error(self, status: int, message: str) -> _OwnError:
        """Shape A: authentication and routing."""
        headers = self._headers()
        text = f"{message} (request id: {headers['X-Oneapi-Request-Id']})"
        error = {"message": text, "type": "new_api_error", "code": ""}
        return _OwnError(Reply.of_json(status, {"error": error}, headers))

    def _task_error(self, status: int, code: str, message: str) -> _OwnError:
        """Shape B: the task layer."""
        body = {"code": code, "message": message, "data": None}
        return _OwnError(Reply.of_json(status, body, self._headers()))


def _whole_points(mask: Any) -> bool:
    """Whether a motion mask decodes: coordinates are whole numbers."""
    return isinstance(mask, dict) and all(
        isinstance(point, dict) and type(point.get("x")) is int and type(point.get("y")) is int
        for point in mask.get("trajectories") or ()
    )


def _action(body: Mapping[str, Any]) -> str:
    if not body.get("image"):
        return "textGenerate"
    return "firstTailGenerate" if body.get("image_tail") else "generate"


def _later_columns(row: _Row, seen: float, result: str) -> dict[str, Any]:
    """What the later age adds to the task object."""
    model = row.task.model
    columns: dict[str, Any] = {
        "id": int(row.task.task_id) % 1_000_000,
        "created_at": int(row.task.created),
        "updated_at": int(max(seen, row.task.created)),
        "platform": "50",
        "user_id": 1,
        "group": "default",
        "channel_id": 1,
        "quota": 0,
        "properties": {
            "input": row.prompt,
            "upstream_model_name": model,
            "origin_model_name": model,
        },
    }
    # falls back to fail_reason: on a failure this "URL" is the error's text
    return columns | ({"result_url": result} if result else {})
