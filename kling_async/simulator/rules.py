"""The rules that span several fields of a request.

Sources: API reference, image2video: create; multi-image2video.
"""

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Final

from attrs import frozen

from kling_async.simulator import pictures
from kling_async.simulator.messages import Refusal
from kling_async.simulator.prices import price

_MODELS: Final = {
    "image2video": (
        "kling-v1",
        "kling-v1-5",
        "kling-v1-6",
        "kling-v2-master",
        "kling-v2-1",
        "kling-v2-1-master",
        "kling-v2-5-turbo",
        "kling-v2-6",
        "kling-v3",
    ),
    "multi-image2video": ("kling-v1-6",),
    "text2video": (
        "kling-v1",
        "kling-v1-6",
        "kling-v2-master",
        "kling-v2-1-master",
        "kling-v2-5-turbo",
        "kling-v2-6",
        "kling-v3",
    ),
}
_DEFAULTS: Final = {"image2video": "kling-v1", "multi-image2video": "kling-v1-6", "text2video": "kling-v1"}
_WITH_SOUND: Final = ("kling-v2-6", "kling-v3")


def _model(kind: str, body: Mapping[str, Any]) -> str:
    """The model that *body* asks for; the old key `model` counts for nothing.

    Raises:
        Refusal: 1203, the endpoint has no such model.
    """
    model = body.get("model_name", _DEFAULTS[kind])
    if model not in _MODELS[kind]:
        raise Refusal(1203, f"model_name: no such model on {kind}")
    return str(model)


@frozen
class Accepted:
    """What a good request asks for.

    Attributes:
        model: The model's name.
        external_task_id: The caller's id, if any.
        prompts: The prompt and those of the shots.
        duration: Seconds as sent, e.g. `"5"`.
        watermark: Whether a watermark is wanted; None if nothing was said.
        units: The price of a success, None if unknown.
        frames: The start frame, or the pictures of a multi-image task; None for a URL.
        tail: The end frame, None if there is none or it is a URL.
        mask_mismatch: Whether a mask's aspect ratio is not the picture's: the task is made and fails.
    """

    model: str
    external_task_id: str | None
    prompts: str
    duration: str
    watermark: bool | None
    units: Decimal | None
    frames: tuple[bytes | None, ...]
    tail: bytes | None
    mask_mismatch: bool


def check(kind: str, body: Mapping[str, Any]) -> Accepted:
    """Apply all rules that a schema cannot tell.

    Raises:
        Refusal: 1200, 1201 or 1203; the message names the field.
    """
    model = _model(kind, body)
    name = body.get("external_task_id")
    if not isinstance(name, str | None):
        raise Refusal(1201, "external_task_id is invalid (type: string)")
    if kind == "image2video":
        _check_groups(body)
        _check_model_limits(model, body)
        _check_shots(body)
        _check_references(body)
        _check_camera(body.get("camera_control"))
        _check_trajectories(body)
    elif not body["prompt"]:
        raise Refusal(1201, "prompt cannot be empty")
    found = {} if kind == "text2video" else pictures.decode_all(body)
    watermark = body["watermark_info"].get("enabled", False) if "watermark_info" in body else None
    return Accepted(
        model=model,
        external_task_id=name,
        prompts=_prompts(body),
        duration=body.get("duration", "5"),
        watermark=watermark,
        units=price(model, body),
        frames=tuple(
            None if picture is None else picture.content
            for field, picture in found.items()
            if field == "image" or field.startswith("image_list")
        ),
        tail=tail.content if (tail := found.get("image_tail")) else None,
        mask_mismatch=_mask_mismatch(found),
    )


def _mask_mismatch(found: Mapping[str, pictures.Picture | None]) -> bool:
    image = found.get("image")
    masks = [picture for field, picture in found.items() if "mask" in field and picture is not None]
    if len({(mask.width, mask.height) for mask in masks}) > 1:
        raise Refusal(1201, "static_mask and dynamic_masks must have the same resolution")
    return image is not None and any(mask.width * image.height != mask.height * image.width for mask in masks)


def _prompts(body: Mapping[str, Any]) -> str:
    shots: Iterable[Mapping[str, Any]] = body.get("multi_prompt", ())
    return "\n".join([body.get("prompt", ""), *(shot["prompt"] for shot in shots)])


def _check_groups(body: Mapping[str, Any]) -> None:
    if not (body.get("image") or body.get("image_tail")):
        raise Refusal(1200, "Missing Request Parameter: image and image_tail cannot both be empty")
    groups = [("image_tail",), ("dynamic_masks", "static_mask"), ("camera_control",)]
    used = [names[0] for names in groups if any(body.get(name) for name in names)]
    if len(used) > 1:
        raise Refusal(1201, f"{' and '.join(used)} cannot be used together")
    if body.get("element_list") and body.get("voice_list"):
        raise Refusal(1201, "element_list and voice_list cannot be used together")


def _check_model_limits(model: str, body: Mapping[str, Any]) -> None:
    if model != "kling-v3" and body.get("duration", "5") not in ("5", "10"):
        raise Refusal(1201, f"duration is invalid: {model} makes 5 or 10 seconds")
    if model != "kling-v3" and body.get("mode") == "4k":
        raise Refusal(1201, f"mode is invalid: {model} has no 4k")
    if model not in _WITH_SOUND and body.get("sound") == "on":
        raise Refusal(1201, f"sound is invalid: {model} has no sound")


def _check_shots(body: Mapping[str, Any]) -> None:
    multi = body.get("multi_shot") in (True, "true")
    shot_type = body.get("shot_type")
    if multi and shot_type is None:
        raise Refusal(1200, "Missing Request Parameter: shot_type")
    if not (multi and shot_type == "customize"):
        if not body.get("prompt"):
            raise Refusal(1201, "prompt cannot be empty")
        return
    shots = body.get("multi_prompt")
    if not shots:
        raise Refusal(1200, "Missing Request Parameter: multi_prompt")
    if [shot["index"] for shot in shots] != list(range(1, len(shots) + 1)):
        raise Refusal(1201, "multi_prompt: indexes must count from 1")
    lengths = [int(shot["duration"]) for shot in shots]
    if min(lengths) < 1 or sum(lengths) != int(body.get("duration", "5")):
        raise Refusal(1201, "multi_prompt: durations must be at least 1 and add up to duration")


def _check_references(body: Mapping[str, Any]) -> None:
    text = _prompts(body)
    for name in ("voice", "element"):
        used = {int(number) for number in re.findall(rf"<<<{name}_([0-9]+)>>>", text)}
        known = range(1, len(body.get(f"{name}_list", ())) + 1)
        if not used <= set(known):
            raise Refusal(1201, f"prompt refers to a {name} that is not in {name}_list")
        if name == "voice" and used and body.get("sound") != "on":
            raise Refusal(1201, "sound must be on when the prompt refers to a voice")


def _check_camera(camera: Mapping[str, Any] | None) -> None:
    if not camera:
        return
    config = camera.get("config")
    if camera["type"] != "simple":
        if config is not None:
            raise Refusal(1201, "camera_control.config must be empty unless type is simple")
        return
    if config is None:
        raise Refusal(1200, "Missing Request Parameter: camera_control.config")
    axes = ("horizontal", "vertical", "pan", "tilt", "roll", "zoom")
    if sum(1 for axis in axes if config.get(axis)) != 1:
        raise Refusal(1201, "camera_control.config must have exactly one non-zero value")


def _check_trajectories(body: Mapping[str, Any]) -> None:
    if body.get("duration", "5") != "5":
        return  # the bound is stated for 5 s alone
    for index, item in enumerate(body.get("dynamic_masks", ())):
        if len(item["trajectories"]) > 77:
            raise Refusal(1201, f"dynamic_masks[{index}].trajectories must have 2 to 77 points")
