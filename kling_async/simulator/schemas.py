"""What each endpoint accepts, as JSON Schema, written from the API reference field by field.

Unknown fields are allowed: Kling ignores them (the old key `model`, a gateway's `metadata`).
"""

from collections.abc import Iterable, Mapping
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from kling_async.simulator.messages import Refusal

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator

_PICTURE: Final = {"type": "string"}
_TEXT: Final = {"type": "string", "maxLength": 2500}
_AXIS: Final = {"type": "number", "minimum": -10, "maximum": 10}
_AXES: Final = ("horizontal", "vertical", "pan", "tilt", "roll", "zoom")
_POINT: Final = {
    "type": "object",
    "required": ["x", "y"],
    "properties": {"x": {"type": "integer"}, "y": {"type": "integer"}},
}
_COMMON: Final = {
    "model_name": {"type": "string"},
    "prompt": _TEXT,
    "negative_prompt": _TEXT,
    "watermark_info": {"type": "object", "properties": {"enabled": {"type": "boolean"}}},
    "callback_url": {"type": "string", "pattern": "^https?://"},
    "external_task_id": {"type": "string", "minLength": 1},
}

SCHEMAS: Final[Mapping[str, Mapping[str, Any]]] = {
    # API reference, image2video: create
    "image2video": {
        "type": "object",
        "properties": {
            **_COMMON,
            "image": _PICTURE,
            "image_tail": _PICTURE,
            # one official sample sends the string
            "multi_shot": {"enum": [True, False, "true", "false"]},
            "shot_type": {"enum": ["customize", "intelligence"]},
            "multi_prompt": {
                "type": "array",
                "maxItems": 6,
                "items": {
                    "type": "object",
                    "required": ["index", "prompt", "duration"],
                    "properties": {
                        "index": {"type": "integer", "minimum": 1},
                        "prompt": {"type": "string", "maxLength": 512},
                        "duration": {"type": "string", "pattern": "^[0-9]{1,2}$"},
                    },
                },
            },
            "element_list": {
                "type": "array",
                "maxItems": 3,
                "items": {
                    "type": "object",
                    "required": ["element_id"],
                    # pages show both a number and a string
                    "properties": {"element_id": {"type": ["integer", "string"], "pattern": "^[0-9]+$"}},
                },
            },
            "voice_list": {
                "type": "array",
                "maxItems": 2,
                "items": {
                    "type": "object",
                    "required": ["voice_id"],
                    "properties": {"voice_id": {"type": "string"}},
                },
            },
            "sound": {"enum": ["on", "off"]},
            "cfg_scale": {"type": "number", "minimum": 0, "maximum": 1},
            "mode": {"enum": ["std", "pro", "4k"]},
            "static_mask": _PICTURE,
            "dynamic_masks": {
                "type": "array",
                "maxItems": 6,
                "items": {
                    "type": "object",
                    "required": ["mask", "trajectories"],
                    "properties": {
                        "mask": _PICTURE,
                        "trajectories": {"type": "array", "minItems": 2, "items": _POINT},
                    },
                },
            },
            "camera_control": {
                "type": "object",
                "required": ["type"],
                "properties": {
                    "type": {
                        "enum": [
                            "simple",
                            "down_back",
                            "forward_up",
                            "right_turn_forward",
                            "left_turn_forward",
                        ]
                    },
                    "config": {"type": "object", "properties": dict.fromkeys(_AXES, _AXIS)},
                },
            },
            "duration": {"enum": [str(seconds) for seconds in range(3, 16)]},
        },
    },
    # API reference, text2video; what a gateway makes of a request without a start frame
    "text2video": {
        "type": "object",
        "required": ["prompt"],
        "properties": {
            **_COMMON,
            "sound": {"enum": ["on", "off"]},
            "cfg_scale": {"type": "number", "minimum": 0, "maximum": 1},
            "mode": {"enum": ["std", "pro", "4k"]},
            "duration": {"enum": [str(seconds) for seconds in range(3, 16)]},
        },
    },
    # API reference, multi-image2video
    "multi-image2video": {
        "type": "object",
        "required": ["image_list", "prompt"],
        "properties": {
            **_COMMON,
            "image_list": {
                "type": "array",
                "minItems": 1,
                "maxItems": 4,
                "items": {"type": "object", "required": ["image"], "properties": {"image": _PICTURE}},
            },
            "mode": {"enum": ["std", "pro"]},
            "duration": {"enum": ["5", "10"]},
            "aspect_ratio": {"enum": ["16:9", "9:16", "1:1"]},
        },
    },
}


def can_validate() -> bool:
    """Whether the `jsonschema` package (extra `simulator`) is there."""
    return find_spec("jsonschema") is not None


def validate(kind: str, body: Mapping[str, Any]) -> None:
    """Check *body* against the schema of *kind*.

    Raises:
        Refusal: 1200 for a missing field, 1201 for a wrong one; the message names it.
    """
    for error in _validator(kind).iter_errors(body):
        field = _name(error.absolute_path)
        if error.validator == "required":
            missing = next(name for name in error.validator_value if name not in error.instance)
            raise Refusal(1200, f"Missing Request Parameter: {field}{'.' if field else ''}{missing}")
        # never the value: it may be megabytes of base64
        raise Refusal(1201, f"{field} is invalid ({error.validator}: {error.validator_value})")


@cache
def _validator(kind: str) -> "Draft202012Validator":
    from jsonschema import Draft202012Validator

    return Draft202012Validator(SCHEMAS[kind])


def _name(path: Iterable[str | int]) -> str:
    """`multi_prompt[0].duration` for a path into the body."""
    name = ""
    for step in path:
        name += f"[{step}]" if isinstance(step, int) else f".{step}" if name else step
    return name
