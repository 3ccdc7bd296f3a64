"""What is sent and what comes back, as values: requests, tasks, videos. They know nothing of JSON.

Field names are the API's own. Rules that hold on every provider and model are checked when a request is made,
and all its problems are told at once; rules that depend on the model are not (models change monthly).
Where no source is named beside a rule it stands in the API reference's field table of the request's endpoint.
"""

import enum
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import attrs

from kling_async.protocol import checks
from kling_async.protocol.errors import Problem, RequestError, TaskFailedError

__all__ = [
    "DEFAULT_MODEL",
    "CameraConfig",
    "CameraControl",
    "DynamicMask",
    "Image",
    "ImageToVideo",
    "MultiImageToVideo",
    "Point",
    "Shot",
    "Task",
    "TaskStatus",
    "Video",
    "VideoRequest",
]

DEFAULT_MODEL = "kling-v2-6"
"""The model of an `ImageToVideo` that names none: current, cheap (0.3 units a second at 720p), 5 or 10 s.

The API's own default, ``kling-v1``, is discontinued, so a model is always sent.
"""

Image = str | Path | bytes
"""A picture: an http(s) URL, a path, base64 text (``data:`` prefix stripped), a `Path`, or a file's bytes.

JPEG or PNG, at most 10 MB, each side at least 300 px, aspect ratio from 1:2.5 to 2.5:1.
"""


def _shortened(value: object) -> str:
    """The repr of a picture, a list of them or a URL, without base64 and without what is secret in a URL."""
    if isinstance(value, tuple):
        return f"({', '.join(map(_shortened, value))})"
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    text = repr(checks.unsigned(value) if checks.is_http_url(value) else value)
    return text if len(text) <= 100 else f"<{len(text)} characters>"


def _tuple(value: Any) -> Any:
    """Lists become tuples so that a request stays a value; what is no list is left for the check to name."""
    return (
        tuple(value)
        if isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping)
        else value
    )


def _points(value: "Iterable[Point]") -> "tuple[Point, ...]":
    return cast("tuple[Point, ...]", _tuple(value))


def _masks(value: "Iterable[DynamicMask] | None") -> "tuple[DynamicMask, ...] | None":
    return cast("tuple[DynamicMask, ...] | None", _tuple(value))


def _shots(value: "Iterable[Shot] | None") -> "tuple[Shot, ...] | None":
    return cast("tuple[Shot, ...] | None", _tuple(value))


def _bare(value: Any, name: str) -> Any:
    """Accept both forms people have: bare values, and the API's ``{"element_id": 161}``."""
    items = _tuple(value)
    if not isinstance(items, tuple):
        return items
    return tuple(item[name] if isinstance(item, Mapping) and set(item) == {name} else item for item in items)


def _elements(value: Iterable[int | str | Mapping[str, int | str]] | None) -> tuple[int | str, ...] | None:
    return cast("tuple[int | str, ...] | None", _bare(value, "element_id"))


def _voices(value: Iterable[str | Mapping[str, str]] | None) -> tuple[str, ...] | None:
    return cast("tuple[str, ...] | None", _bare(value, "voice_id"))


def _images(value: Iterable[Image | Mapping[str, Image]]) -> tuple[Image, ...]:
    return cast("tuple[Image, ...]", _bare(value, "image"))


def _seconds(value: int | str | None) -> str | None:
    """Whole seconds as Kling wants them, a string: ``5`` becomes ``"5"``."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else cast("str | None", value)


def _shot_seconds(value: int | str) -> str:
    return _seconds(value) or ""


def _on_off(value: bool | str | None) -> str | None:
    """Accept True and False for the API's ``on`` and ``off``."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


def _enabled(value: bool | Mapping[str, bool] | None) -> bool | None:
    """Accept both ``True`` and the API's ``{"enabled": true}``."""
    enabled = value["enabled"] if isinstance(value, Mapping) and set(value) == {"enabled"} else value
    return cast("bool | None", enabled)


@attrs.frozen(kw_only=True)
class CameraConfig:
    """A simple camera movement: six speeds from -10 to 10, exactly one of them not 0.

    Attributes:
        horizontal: translation along x: negative left, positive right.
        vertical: translation along y: negative down, positive up.
        pan: rotation around y: negative left, positive right.
        tilt: rotation around x: negative down, positive up.
        roll: rotation around z: negative counter-clockwise, positive clockwise.
        zoom: focal length: negative longer (a narrower view), positive shorter (a wider view).
    """

    horizontal: float | None = None
    vertical: float | None = None
    pan: float | None = None
    tilt: float | None = None
    roll: float | None = None
    zoom: float | None = None


@attrs.frozen
class CameraControl:
    """How the camera moves.

    Attributes:
        type: ``simple`` needs a *config*; the other four are whole movements and take none.
        config: the movement of ``simple``.
    """

    type: Literal["simple", "down_back", "forward_up", "right_turn_forward", "left_turn_forward"] | str
    config: CameraConfig | None = None


@attrs.frozen
class Point:
    """A point of a trajectory in whole pixels; the origin is the image's bottom-left pixel."""

    x: int
    y: int


@attrs.frozen
class DynamicMask:
    """A masked part of the image that moves.

    Attributes:
        mask: a picture of the image's own aspect ratio that marks the part.
        trajectories: 2 to 77 points; their order gives the direction, 2 make a straight line.
    """

    mask: Image = attrs.field(repr=_shortened)
    trajectories: tuple[Point, ...] = attrs.field(converter=_points)


@attrs.frozen(kw_only=True)
class Shot:
    """One shot of a customized multi-shot video.

    Attributes:
        prompt: at most 512 characters.
        duration: whole seconds, at least 1; all shots together last as long as the video.
        index: its place, counted from 1; left out, the place in the list.
    """

    prompt: str
    duration: str = attrs.field(converter=_shot_seconds)
    index: int | None = None


@attrs.frozen(kw_only=True)
class VideoRequest:
    """What every kind of request has in common; use `ImageToVideo` or `MultiImageToVideo`."""

    endpoint: ClassVar[str]
    """The last piece of the endpoint's path, Kling's name for this kind of task."""

    model_name: str
    prompt: str | None = None
    negative_prompt: str | None = None
    mode: Literal["std", "pro", "4k"] | str | None = None
    duration: str | None = attrs.field(default=None, converter=_seconds)
    watermark_info: bool | None = attrs.field(default=None, converter=_enabled)
    callback_url: str | None = attrs.field(default=None, repr=_shortened)
    external_task_id: str | None = None
    extra_body: Mapping[str, Any] | None = attrs.field(default=None, repr=_shortened)

    def __attrs_post_init__(self) -> None:
        problems = tuple(self._problems())
        if problems:
            raise RequestError(problems=problems)

    def _problems(self) -> Iterator[Problem]:
        """Every broken rule, in the order of the fields."""
        yield from checks.text("model_name", self.model_name, required=True)
        yield from checks.text("prompt", self.prompt, limit=2500)
        yield from checks.text("negative_prompt", self.negative_prompt, limit=2500)
        yield from checks.text("mode", self.mode)
        if self.duration is not None and not checks.is_whole(self.duration, 3, 15):
            yield Problem("duration", f"must be whole seconds from 3 to 15, not {self.duration!r}")
        if self.watermark_info is not None and not isinstance(self.watermark_info, bool):
            yield Problem("watermark_info", 'must be true, false or {"enabled": true}')
        yield from checks.text("callback_url", self.callback_url)
        if isinstance(self.callback_url, str) and not checks.is_http_url(self.callback_url):
            yield Problem("callback_url", "must be an http(s) URL")
        yield from checks.text("external_task_id", self.external_task_id)
        if self.extra_body is not None and not isinstance(self.extra_body, Mapping):
            yield Problem("extra_body", "must be a mapping of field names to values")


@attrs.frozen(kw_only=True)
class ImageToVideo(VideoRequest):
    """One picture becomes a video (API reference, image2video).

    Attributes:
        image: the start frame. At least one of *image* and *image_tail*.
        image_tail: the end frame. At most one of *image_tail*, masks and *camera_control*.
        prompt: what happens, at most 2,500 characters; required unless the shots are customized.
        negative_prompt: what must not be seen, at most 2,500 characters.
        model_name: the model, always sent.
        mode: ``std`` (720p, the API's default), ``pro`` (1080p) or ``4k``.
        duration: whole seconds, 3 to 15 (v1 and v2 models: 5 or 10); left out, 5. Takes int or str.
        sound: ``on`` or ``off`` (the API's default); True and False are taken too.
        cfg_scale: how closely the prompt is followed, 0 to 1; only v1 models read it.
        static_mask: a picture that marks what must not move.
        dynamic_masks: at most 6 parts that move along trajectories.
        camera_control: how the camera moves.
        multi_shot: several shots in one video.
        shot_type: ``customize`` (needs *multi_prompt*) or ``intelligence``; required with *multi_shot*.
        multi_prompt: 1 to 6 shots whose durations add up to *duration*.
        element_list: at most 3 element ids, referred to as ``<<<element_1>>>`` in the prompt.
        voice_list: at most 2 voice ids, referred to as ``<<<voice_1>>>``; needs sound.
        watermark_info: whether a watermarked copy is made too.
        aspect_ratio: no field of Kling's own here (the frame follows the picture); some gateways read it.
        callback_url: where Kling posts status changes.
        external_task_id: your own idempotency key, unique in the account; left out, one is derived.
        extra_body: further fields, merged into the body last: tomorrow's field needs no release.

    Raises:
        RequestError: with every problem, each naming its field.
    """

    endpoint: ClassVar[str] = "image2video"

    model_name: str = DEFAULT_MODEL
    image: Image | None = attrs.field(default=None, repr=_shortened)
    image_tail: Image | None = attrs.field(default=None, repr=_shortened)
    sound: Literal["on", "off"] | str | None = attrs.field(default=None, converter=_on_off)
    cfg_scale: float | None = None
    static_mask: Image | None = attrs.field(default=None, repr=_shortened)
    dynamic_masks: tuple[DynamicMask, ...] | None = attrs.field(default=None, converter=_masks)
    camera_control: CameraControl | None = None
    multi_shot: bool | None = None
    shot_type: Literal["customize", "intelligence"] | str | None = None
    multi_prompt: tuple[Shot, ...] | None = attrs.field(default=None, converter=_shots)
    element_list: tuple[int | str, ...] | None = attrs.field(default=None, converter=_elements)
    voice_list: tuple[str, ...] | None = attrs.field(default=None, converter=_voices)
    aspect_ratio: Literal["16:9", "9:16", "1:1"] | str | None = None

    def _problems(self) -> Iterator[Problem]:
        yield from super()._problems()
        yield from checks.picture("image", self.image)
        yield from checks.picture("image_tail", self.image_tail)
        if self.image is None and self.image_tail is None:
            yield Problem("image", "give image, image_tail or both")
        yield from self._exclusions()
        yield from checks.text("sound", self.sound)
        if self.cfg_scale is not None and not checks.is_between(self.cfg_scale, 0, 1):
            yield Problem("cfg_scale", f"must be from 0 to 1, not {self.cfg_scale!r}")
        yield from checks.picture("static_mask", self.static_mask)
        yield from checks.listed("dynamic_masks", self.dynamic_masks, DynamicMask, 1, 6)
        for place, mask in checks.members(self.dynamic_masks, DynamicMask):
            yield from _mask_problems(f"dynamic_masks[{place}]", mask)
        yield from _camera_problems(self.camera_control)
        yield from self._shot_problems()
        yield from checks.listed("element_list", self.element_list, int | str, 1, 3)
        yield from checks.listed("voice_list", self.voice_list, str, 1, 2)
        yield from checks.text("aspect_ratio", self.aspect_ratio)

    def _exclusions(self) -> Iterator[Problem]:
        groups = {
            "image_tail": self.image_tail,
            "static_mask/dynamic_masks": self.static_mask or self.dynamic_masks,
            "camera_control": self.camera_control,
        }
        given = [name for name, value in groups.items() if value is not None]
        if len(given) > 1:
            yield Problem(given[0], f"excludes {' and '.join(given[1:])}: give at most one of them")

    def _shot_problems(self) -> Iterator[Problem]:
        customized = self.multi_shot is True and self.shot_type == "customize"
        if self.multi_shot is not None and not isinstance(self.multi_shot, bool):
            yield Problem("multi_shot", "must be true or false")
        yield from checks.text("shot_type", self.shot_type)
        if self.multi_shot and self.shot_type is None:
            yield Problem("shot_type", "is required with multi_shot: customize or intelligence")
        if not self.multi_shot and (self.shot_type is not None or self.multi_prompt is not None):
            yield Problem("multi_shot", "must be true for shot_type and multi_prompt to count")
        if not customized and not self.prompt:
            yield Problem("prompt", "is required unless multi_shot is customized")
        if customized and not self.multi_prompt:
            yield Problem("multi_prompt", "is required when shot_type is customize")
        yield from checks.listed("multi_prompt", self.multi_prompt, Shot, 1, 6)
        shots = checks.members(self.multi_prompt, Shot)
        for place, shot in shots:
            yield from checks.text(f"multi_prompt[{place}].prompt", shot.prompt, limit=512, required=True)
            if not checks.is_whole(shot.duration, 1, 15):
                yield Problem(
                    f"multi_prompt[{place}].duration", f"must be whole seconds, not {shot.duration!r}"
                )
            if shot.index is not None and shot.index != place + 1:
                yield Problem(
                    f"multi_prompt[{place}].index", f"must be {place + 1}: counted from 1 without gaps"
                )
        if shots and all(checks.is_whole(shot.duration, 1, 15) for _, shot in shots):
            total, whole = sum(int(shot.duration) for _, shot in shots), self.duration or "5"
            if str(total) != whole:
                yield Problem("multi_prompt", f"durations add up to {total} s but duration is {whole} s")


@attrs.frozen(kw_only=True)
class MultiImageToVideo(VideoRequest):
    """One to four pictures become one video (API reference, multi-image2video).

    Attributes:
        image_list: 1 to 4 pictures; nothing is cropped at the server.
        prompt: what happens, at most 2,500 characters; required.
        negative_prompt: what must not be seen, at most 2,500 characters.
        model_name: only ``kling-v1-6`` is documented.
        mode: ``std`` (the API's default) or ``pro``.
        duration: whole seconds; documented are 5 (the API's default) and 10. Takes int or str.
        aspect_ratio: ``16:9`` (the API's default), ``9:16`` or ``1:1``.
        watermark_info: whether a watermarked copy is made too.
        callback_url: where Kling posts status changes.
        external_task_id: your own idempotency key, unique in the account; left out, one is derived.
        extra_body: further fields, merged into the body last.

    Raises:
        RequestError: with every problem, each naming its field.
    """

    endpoint: ClassVar[str] = "multi-image2video"

    model_name: str = "kling-v1-6"
    image_list: tuple[Image, ...] = attrs.field(converter=_images, repr=_shortened)
    aspect_ratio: Literal["16:9", "9:16", "1:1"] | str | None = None

    def _problems(self) -> Iterator[Problem]:
        yield from checks.listed("image_list", self.image_list, str | Path | bytes, 1, 4, required=True)
        for place, picture in checks.members(self.image_list, str | Path | bytes):
            yield from checks.picture(f"image_list[{place}]", picture)
        if not self.prompt:
            yield Problem("prompt", "is required")
        yield from super()._problems()
        yield from checks.text("aspect_ratio", self.aspect_ratio)


def _mask_problems(field: str, mask: DynamicMask) -> Iterator[Problem]:
    yield from checks.picture(f"{field}.mask", mask.mask, required=True)
    yield from checks.listed(f"{field}.trajectories", mask.trajectories, Point, 2, 77, required=True)
    for place, point in checks.members(mask.trajectories, Point):
        for axis, value in (("x", point.x), ("y", point.y)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                yield Problem(
                    f"{field}.trajectories[{place}].{axis}", f"must be a whole pixel from 0, not {value!r}"
                )


def _camera_problems(camera: Any) -> Iterator[Problem]:
    if camera is None:
        return
    if not isinstance(camera, CameraControl):
        yield Problem("camera_control", f"must be a CameraControl, not {type(camera).__name__}")
        return
    yield from checks.text("camera_control.type", camera.type, required=True)
    config = camera.config
    if camera.type == "simple" and config is None:
        yield Problem("camera_control.config", "is required when type is simple")
    if config is None:
        return
    if not isinstance(config, CameraConfig):
        yield Problem("camera_control.config", f"must be a CameraConfig, not {type(config).__name__}")
        return
    if camera.type in _WHOLE_MOVEMENTS:
        yield Problem("camera_control.config", f"must be left out when type is {camera.type}")
    axes = attrs.asdict(config)
    for axis, value in axes.items():
        if value is not None and not checks.is_between(value, -10, 10):
            yield Problem(f"camera_control.config.{axis}", f"must be from -10 to 10, not {value!r}")
    moving = [axis for axis, value in axes.items() if value]
    if len(moving) != 1:
        found = " and ".join(moving) or "none"
        yield Problem("camera_control.config", f"exactly one axis must not be 0, found {found}")


_WHOLE_MOVEMENTS = ("down_back", "forward_up", "right_turn_forward", "left_turn_forward")


class TaskStatus(enum.StrEnum):
    """Where a task stands. Kling says the first four, the rest is ours; `lifecycle` tells their order."""

    SUBMITTED = "submitted"
    PROCESSING = "processing"
    SUCCEED = "succeed"
    FAILED = "failed"
    UNKNOWN = "unknown"
    """A word of the server that we do not know: polling goes on."""
    INTENDED = "intended"
    """To be submitted; nothing was sent yet."""
    AMBIGUOUS = "ambiguous"
    """Sent, and the answer was lost; being looked up."""
    REFUSED = "refused"
    """Terminal: by proof no task was made."""
    MAY_EXIST = "may_exist"
    """Terminal: the answer was lost and nothing can tell whether a task was made."""
    LOST = "lost"
    """Terminal: the server no longer knows it."""
    GIVEN_UP = "given_up"
    """Terminal: not done within ``Polling.give_up``; no longer polled."""


@attrs.frozen
class Video:
    """A finished video.

    Attributes:
        url: signed and valid for 30 days after generation; download it, do not link to it.
        id: Kling's id of the video, which is not the task's.
        duration: seconds.
        watermark_url: the watermarked copy, where one was asked for.
    """

    url: str
    id: str = ""
    duration: float | None = None
    watermark_url: str | None = None


@attrs.frozen
class Task:
    """A task as seen at some time.

    Attributes:
        task_id: Kling's id, opaque; None until acknowledged.
        external_task_id: our idempotency key, or the caller's own.
        status: where it stands.
        status_message: the reason of a failure, text only.
        videos: the result of a task that succeeded.
        created_at: when Kling made it, in UTC.
        updated_at: when Kling last changed it, in UTC: of a terminal task, its end.
        units: what was charged, in Kling's units; None while unknown.
        raw: the reply it was read from, with every field this package does not know. Of a task that a client
            waits for it is kept from the end on, and empty before.
    """

    task_id: str | None
    external_task_id: str | None = None
    status: TaskStatus = TaskStatus.SUBMITTED
    status_message: str = ""
    videos: tuple[Video, ...] = ()
    created_at: datetime | None = None
    updated_at: datetime | None = None
    units: Decimal | None = None
    raw: Mapping[str, Any] = attrs.field(factory=dict[str, Any], repr=False, eq=False)

    @property
    def video(self) -> Video:
        """The first video.

        Raises:
            LookupError: there is none; the message names the status.
        """
        if not self.videos:
            raise LookupError(f"task {self.task_id} has no video: its status is {self.status}")
        return self.videos[0]

    def failure(self) -> TaskFailedError:
        """The error that tells of this failed task."""
        reason = self.status_message or "no reason given"
        return TaskFailedError(f"the generation failed: {reason}", task=self, status_message=reason).about(
            task_id=self.task_id, external_task_id=self.external_task_id
        )
