"""What is accepted and what is refused: schemas, cross-field rules, pictures."""

import json
from typing import Any

import pytest
from hypothesis import given, strategies as st

from kling_async.simulator.schemas import SCHEMAS

URL = "https://cdn.example.org/a.png"
MULTI = "/v1/videos/multi-image2video"
SHOTS = [{"index": 1, "prompt": "one", "duration": "2"}, {"index": 2, "prompt": "two", "duration": "3"}]
MASK = {"mask": URL, "trajectories": [{"x": 1, "y": 2}, {"x": 3, "y": 4}]}
ZOOM = {
    "type": "simple",
    "config": {"horizontal": 0, "vertical": 0, "pan": 0, "tilt": 0, "roll": 0, "zoom": -3.5},
}

REFERENCE_CREATE = {
    "model_name": "kling-v3",
    "image": "https://cdn.example.org/a.png",
    "image_tail": "https://cdn.example.org/b.png",
    "prompt": "slow push-in, lanterns sway",
    "mode": "pro",
    "duration": "8",
    "sound": "on",
    "watermark_info": {"enabled": False},
    "external_task_id": "ka-6f0c",
    "callback_url": "https://hook.example.org/kling",
}
REFERENCE_MULTI = {
    "model_name": "kling-v1-6",
    "image_list": [
        {"image": "https://cdn.example.org/1.png"},
        {"image": "https://cdn.example.org/2.png"},
    ],
    "prompt": "the two travellers meet on the bridge",
    "duration": "5",
    "aspect_ratio": "16:9",
    "external_task_id": "mi-01",
}


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/videos/image2video", REFERENCE_CREATE), (MULTI, REFERENCE_MULTI)],
)
def test_reference_examples(kling: Any, path: str, body: Any):
    """The example bodies of the API reference are accepted."""
    assert kling.outcome(kling.call("POST", path, body)) == (200, 0)


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS.keys())
def test_schemas_are_schemas(schema: Any):
    """Each schema is itself valid JSON Schema."""
    from jsonschema import Draft202012Validator

    Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize(
    "changes",
    [
        {"image": None, "image_tail": URL},
        {"image_tail": URL},
        {"model_name": None},
        {"model_name": "kling-v1"},
        {"model": "ignored", "metadata": {"anything": [1]}, "aspect_ratio": "16:9"},
        {"multi_shot": True, "shot_type": "customize", "multi_prompt": SHOTS, "prompt": None},
        {"multi_shot": "true", "shot_type": "customize", "multi_prompt": SHOTS},
        {"multi_shot": True, "shot_type": "intelligence"},
        {"multi_shot": False, "multi_prompt": SHOTS, "duration": "10"},
        {"prompt": "x" * 2500},
        {"element_list": [{"element_id": 2**60}, {"element_id": "161"}], "prompt": "<<<element_2>>> runs"},
        {"voice_list": [{"voice_id": "v"}], "sound": "on", "prompt": "<<<voice_1>>> speaks"},
        {"cfg_scale": 0},
        {"cfg_scale": 1},
        {"model_name": "kling-v3", "mode": "4k", "duration": "3"},
        {"static_mask": URL, "dynamic_masks": [MASK] * 6},
        {"dynamic_masks": [{"mask": URL, "trajectories": [{"x": n, "y": n} for n in range(77)]}]},
        {"camera_control": ZOOM},
        {"camera_control": {"type": "down_back"}},
        {"watermark_info": {"enabled": True}},
    ],
    ids=json.dumps,
)
def test_accepted(kling: Any, changes: dict[str, Any]):
    """What the API reference allows is accepted, unknown fields included."""
    assert kling.outcome(kling.create(**changes)) == (200, 0)


@pytest.mark.parametrize(
    ("changes", "code", "names"),
    [
        ({"image": None}, 1200, "image"),
        ({"image": 5}, 1201, "image"),
        ({"prompt": None}, 1201, "prompt"),
        ({"prompt": ""}, 1201, "prompt"),
        ({"prompt": "x" * 2501}, 1201, "prompt"),
        ({"negative_prompt": "x" * 2501}, 1201, "negative_prompt"),
        ({"duration": 5}, 1201, "duration"),
        ({"duration": "2"}, 1201, "duration"),
        ({"duration": "16"}, 1201, "duration"),
        ({"duration": "8"}, 1201, "duration"),
        ({"mode": "best"}, 1201, "mode"),
        ({"mode": "4k"}, 1201, "mode"),
        ({"sound": True}, 1201, "sound"),
        ({"model_name": "kling-v2-1", "sound": "on"}, 1201, "sound"),
        ({"cfg_scale": 1.01}, 1201, "cfg_scale"),
        ({"cfg_scale": "0.5"}, 1201, "cfg_scale"),
        ({"model_name": "kling-v9"}, 1203, "model_name"),
        ({"model_name": "kling-v3-omni"}, 1203, "model_name"),
        ({"image_tail": URL, "camera_control": ZOOM}, 1201, "image_tail and camera_control"),
        ({"image_tail": URL, "static_mask": URL}, 1201, "image_tail and dynamic_masks"),
        ({"dynamic_masks": [MASK], "camera_control": ZOOM}, 1201, "dynamic_masks and camera_control"),
        ({"dynamic_masks": MASK}, 1201, "dynamic_masks"),
        ({"dynamic_masks": [MASK] * 7}, 1201, "dynamic_masks"),
        ({"dynamic_masks": [{"mask": URL}]}, 1200, "dynamic_masks[0].trajectories"),
        ({"dynamic_masks": [{**MASK, "trajectories": [{"x": 1, "y": 1}]}]}, 1201, "trajectories"),
        ({"dynamic_masks": [{**MASK, "trajectories": [{"x": 1, "y": 1}] * 78}]}, 1201, "trajectories"),
        (
            {"dynamic_masks": [{**MASK, "trajectories": [{"x": 1, "y": 1}, {"x": 1.5, "y": 1}]}]},
            1201,
            "dynamic_masks[0].trajectories[1].x",
        ),
        ({"camera_control": {"type": "simple"}}, 1200, "camera_control.config"),
        ({"camera_control": {"type": "simple", "config": {}}}, 1201, "camera_control.config"),
        (
            {"camera_control": {"type": "simple", "config": {"pan": 1, "tilt": 1}}},
            1201,
            "camera_control.config",
        ),
        ({"camera_control": {"type": "simple", "config": {"pan": 11}}}, 1201, "camera_control.config.pan"),
        ({"camera_control": {"type": "down_back", "config": {"pan": 1}}}, 1201, "camera_control.config"),
        ({"camera_control": {"type": "spin"}}, 1201, "camera_control.type"),
        ({"camera_control": {}}, 1200, "camera_control.type"),
        ({"multi_shot": True}, 1200, "shot_type"),
        ({"multi_shot": 1}, 1201, "multi_shot"),
        ({"multi_shot": True, "shot_type": "customize"}, 1200, "multi_prompt"),
        ({"multi_shot": True, "shot_type": "intelligence", "prompt": None}, 1201, "prompt"),
        (
            {"multi_shot": True, "shot_type": "customize", "multi_prompt": SHOTS, "duration": "10"},
            1201,
            "multi_prompt",
        ),
        ({"multi_shot": True, "shot_type": "customize", "multi_prompt": SHOTS[::-1]}, 1201, "multi_prompt"),
        (
            {
                "multi_shot": True,
                "shot_type": "customize",
                "multi_prompt": [{**SHOTS[0], "duration": "0"}, {**SHOTS[1], "duration": "5"}],
            },
            1201,
            "multi_prompt",
        ),
        ({"multi_prompt": [{**SHOTS[0], "prompt": "x" * 513}]}, 1201, "multi_prompt[0].prompt"),
        ({"multi_prompt": SHOTS * 4}, 1201, "multi_prompt"),
        ({"element_list": [{"element_id": 1}] * 4}, 1201, "element_list"),
        ({"element_list": [{"element_id": 1.5}]}, 1201, "element_list[0].element_id"),
        ({"voice_list": [{"voice_id": "v"}] * 3}, 1201, "voice_list"),
        ({"element_list": [{"element_id": 1}], "voice_list": [{"voice_id": "v"}]}, 1201, "element_list"),
        ({"prompt": "<<<voice_1>>>", "voice_list": [{"voice_id": "v"}]}, 1201, "sound"),
        ({"prompt": "<<<voice_1>>>", "sound": "on"}, 1201, "voice_list"),
        ({"prompt": "<<<element_1>>>"}, 1201, "element_list"),
        ({"watermark_info": True}, 1201, "watermark_info"),
        ({"watermark_info": {"enabled": "yes"}}, 1201, "watermark_info.enabled"),
        ({"callback_url": "example.org"}, 1201, "callback_url"),
        ({"external_task_id": 7}, 1201, "external_task_id"),
    ],
    ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict) else None,
)
def test_refused(kling: Any, changes: dict[str, Any], code: int, names: str):
    """What the API reference forbids is refused, and the message names the field; nothing is made."""
    reply = kling.create(**changes)
    assert kling.outcome(reply) == (404 if code == 1203 else 400, code)
    assert names in kling.read(reply)["message"]
    assert kling.simulator.ledger.made == []


@pytest.mark.parametrize(
    ("changes", "code", "names"),
    [
        ({"image_list": None}, 1200, "image_list"),
        ({"image_list": []}, 1201, "image_list"),
        ({"image_list": [{"image": URL}] * 5}, 1201, "image_list"),
        ({"image_list": [{}]}, 1200, "image_list[0].image"),
        ({"image_list": [{"image": URL}, {"image": "!"}]}, 1201, "image_list[1].image"),
        ({"prompt": None}, 1200, "prompt"),
        ({"prompt": ""}, 1201, "prompt"),
        ({"duration": "8"}, 1201, "duration"),
        ({"mode": "4k"}, 1201, "mode"),
        ({"aspect_ratio": "4:3"}, 1201, "aspect_ratio"),
        ({"model_name": "kling-v3"}, 1203, "model_name"),
    ],
    ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict) else None,
)
def test_multi_image_refused(kling: Any, changes: dict[str, Any], code: int, names: str):
    """The rules of multi-image2video are its own."""
    body = {name: value for name, value in (REFERENCE_MULTI | changes).items() if value is not None}
    reply = kling.call("POST", MULTI, body)
    assert kling.read(reply)["code"] == code
    assert names in kling.read(reply)["message"]


@pytest.mark.parametrize(
    ("field", "size", "good"),
    [
        ("image", (300, 300), True),
        ("image", (299, 300), False),
        ("image", (750, 300), True),
        ("image", (751, 300), False),
        ("image", (300, 751), False),
        ("image_tail", (300, 3000), True),
        ("image_tail", (299, 299), False),
    ],
)
def test_picture_sizes(kling: Any, png: Any, field: str, size: tuple[int, int], good: bool):
    """Each side has 300 pixels at least; only the start frame's ratio is bounded, at 2.5."""
    reply = kling.create(**{field: png(*size)})
    assert kling.outcome(reply) == ((200, 0) if good else (400, 1201))
    assert good or kling.read(reply)["message"].startswith(f"{field}: ")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("data:image/png;base64,iVBORw0KGgo=", "data: prefix"),
        ("iVBORw0KGgo", "valid base64"),
        ("iVBOR w0KGgo=", "valid base64"),
        ("cat.png", "valid base64"),
        ("R0lGODlhAQABAAAAACw=", "jpg, jpeg or png"),
        ("iVBORw0KGgo=", "cannot be read"),
    ],
)
def test_no_picture(kling: Any, value: Any, words: str):
    """A string that is neither a URL nor raw base64 of a PNG or JPEG is refused, and not repeated."""
    message = kling.read(kling.create(image=value))["message"]
    assert message.startswith("image: ")
    assert words in message
    assert value not in message


def test_largest_picture(kling: Any, png: Any):
    """A picture may have 10 MB and no byte more."""
    limit = 10 * 1024 * 1024 - 33
    assert kling.outcome(kling.create(image=png(640, 480, limit))) == (200, 0)
    assert kling.outcome(kling.create(image=png(640, 480, limit + 1))) == (400, 1201)


def test_jpeg(kling: Any):
    """A JPEG is measured too."""
    import io
    from base64 import b64encode

    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (320, 400)).save(file, "JPEG")
    assert kling.outcome(kling.create(image=b64encode(file.getvalue()).decode())) == (200, 0)


def test_mask_ratio(kling: Any, png: Any):
    """A mask of another ratio than the picture's is accepted, and the generation fails."""

    def failure(width: int, height: int):
        task_id = kling.made(image=png(640, 480), static_mask=png(width, height))
        return kling.seen(task_id, kling.now + 100)["task_status_msg"]

    assert failure(640, 640) == "mask ratio mismatch"
    assert failure(160, 120) == ""


def test_masks_agree(kling: Any, png: Any):
    """The static mask and the dynamic ones have one resolution."""
    masks = {"static_mask": png(640, 480), "dynamic_masks": [{**MASK, "mask": png(320, 240)}]}
    reply = kling.create(**masks)
    assert kling.outcome(reply) == (400, 1201)
    assert "same resolution" in kling.read(reply)["message"]


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b""),
        ("application/json", b"{"),
        ("application/json", b"[]"),
        ("application/json", b"\xff"),
        ("text/plain", b'{"image": "https://cdn.example.org/a.png", "prompt": "a"}'),
    ],
)
def test_no_json(kling: Any, content_type: str, body: Any):
    """A body that is no JSON object, or is not called one, is 400/1200."""
    headers = {"Authorization": "Bearer sim-key", "Content-Type": content_type}
    reply = kling.simulator.handle("POST", kling.base, headers, body, kling.now)
    assert kling.outcome(reply) == (400, 1200)


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["image", "mask"]), inner),
    max_leaves=5,
)


@given(
    st.dictionaries(st.sampled_from(sorted(SCHEMAS["image2video"]["properties"])), _values, max_size=4),
    st.booleans(),
)
def test_any_body_is_answered(on: Any, changes: dict[str, Any], validates: bool):
    """Whatever a field holds, the reply is a task or a refusal with a code, with the schemas or without."""
    kling = on(validates_schema=validates)
    status, code = kling.outcome(kling.create(**changes))
    assert (status, code) in {(200, 0), (400, 1200), (400, 1201), (404, 1203)}
    assert len(kling.simulator.ledger.made) == (code == 0)


def test_without_schemas(on: Any):
    """Where the schema step is left out, the rules that span fields still hold."""
    kling = on(validates_schema=False)
    assert kling.outcome(kling.create(prompt="")) == (400, 1201)
    assert kling.outcome(kling.create()) == (200, 0)
