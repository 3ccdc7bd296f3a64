"""Mappings become requests and requests mappings, with nothing lost and every problem told."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from kling_async.protocol.converter import request_from, request_to_dict
from kling_async.protocol.errors import RequestError
from kling_async.protocol.models import (
    CameraConfig,
    CameraControl,
    DynamicMask,
    ImageToVideo,
    MultiImageToVideo,
    Point,
    Shot,
)

A = "https://cdn.example.org/a.png"


def problems(mapping: Any, **options: Any):
    """The fields and texts of what is wrong with *mapping*."""
    with pytest.raises(RequestError) as caught:
        request_from(mapping, **options)
    return {problem.field: problem.message for problem in caught.value.problems}


EVERY_FORM = [
    ({"duration": 5}, {"duration": "5"}),
    ({"duration": "5"}, {"duration": "5"}),
    ({"sound": True}, {"sound": "on"}),
    ({"sound": False}, {"sound": "off"}),
    ({"sound": "on"}, {"sound": "on"}),
    ({"watermark_info": True}, {"watermark_info": True}),
    ({"watermark_info": {"enabled": False}}, {"watermark_info": False}),
    ({"element_list": [1, "2"]}, {"element_list": (1, "2")}),
    ({"element_list": [{"element_id": 1}, {"element_id": "2"}]}, {"element_list": (1, "2")}),
    ({"voice_list": ["a"]}, {"voice_list": ("a",)}),
    ({"voice_list": [{"voice_id": "a"}]}, {"voice_list": ("a",)}),
    ({"camera_control": {"type": "down_back"}}, {"camera_control": CameraControl("down_back")}),
    (
        {"camera_control": {"type": "down_back", "config": None}},
        {"camera_control": CameraControl("down_back")},
    ),
    (
        {"camera_control": {"type": "simple", "config": {"zoom": 1, "pan": 0, "roll": None}}},
        {"camera_control": CameraControl("simple", CameraConfig(zoom=1, pan=0))},
    ),
    (
        {"dynamic_masks": [{"mask": "m.png", "trajectories": [{"x": 0, "y": 1}, {"x": 2, "y": 3}]}]},
        {"dynamic_masks": (DynamicMask("m.png", (Point(0, 1), Point(2, 3))),)},
    ),
    (
        {"multi_shot": True, "shot_type": "customize", "multi_prompt": [{"prompt": "a", "duration": 5}]},
        {"multi_shot": True, "shot_type": "customize", "multi_prompt": (Shot(prompt="a", duration="5"),)},
    ),
    ({"extra_body": {"seed": {"x": [1]}}}, {"extra_body": {"seed": {"x": [1]}}}),
    ({"cfg_scale": 0, "mode": None}, {"cfg_scale": 0}),
]


@pytest.mark.parametrize(("given_", "expected"), EVERY_FORM)
def test_every_documented_form(given_: Any, expected: Any):
    """The API's own forms and the short ones mean the same; null means not given."""
    base = {"image": A, "prompt": "p"}
    assert request_from({**base, **given_}) == ImageToVideo(**base, **expected)


def test_several_pictures():
    """`image_list` makes it a multi-image request, in both forms, unless the endpoint is given."""
    expected = MultiImageToVideo(image_list=(A, "b.png"), prompt="p")
    assert request_from({"image_list": [A, "b.png"], "prompt": "p"}) == expected
    assert request_from({"image_list": [{"image": A}, {"image": "b.png"}], "prompt": "p"}) == expected
    assert request_from({"image_list": [A, "b.png"], "prompt": "p"}, endpoint="multi-image2video") == expected
    assert "image_list" in problems({"image_list": [A], "image": A, "prompt": "p"}, endpoint="image2video")


def test_endpoint_given_and_nothing_else():
    """A multi-image request without pictures is told what it lacks."""
    told = problems({}, endpoint="multi-image2video")
    assert told == {"image_list": "must have 1 to 4 entries, not 0", "prompt": "is required"}


def test_unknown_endpoint():
    """An endpoint that there is no request for is refused by name."""
    assert "image2video" in problems({}, endpoint="text2video")["endpoint"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("model", "model_name"),
        ("promt", "prompt"),
        ("imagetail", "image_tail"),
        ("camera", "camera_control"),
        ("tail_image_url", "image_tail"),
        ("Image", "image"),
        ("zzz", ""),
        ("url", ""),
    ],
)
def test_unknown_fields(name: Any, meant: Any):
    """A name that is no field is refused with the closest one that is."""
    told = problems({"image": A, "prompt": "p", name: 1})
    assert told == {name: f"no such field; did you mean {meant}?" if meant else "no such field"}


def test_all_problems_at_once():
    """Unknown names, objects of the wrong shape and broken rules are told together, nothing twice."""
    told = problems(
        {
            "imag": A,
            "prompt": 5,
            "model_name": 5,
            "duration": 99,
            "cfg_scale": 2,
            "camera_control": {"type": "simple", "config": {"zom": 1}},
            "dynamic_masks": [
                {"mask": "a", "trajectories": [{"x": 1}, 5, {"x": 1, "y": 2, "z": 3}]},
                {"mask": "b", "trajectories": [{"x": 1.5, "y": 2}, {"x": 1, "y": 2}]},
                7,
                {"trajectories": []},
            ],
            "multi_prompt": {"prompt": "a"},
        }
    )
    assert told == {
        "imag": "no such field; did you mean image?",
        "prompt": "must be text, not int",
        "model_name": "must be text, not int",
        "duration": "must be whole seconds from 3 to 15, not '99'",
        "cfg_scale": "must be from 0 to 1, not 2",
        "camera_control.config.zom": "no such field; did you mean zoom?",
        "dynamic_masks[0].trajectories[0].y": "is required",
        "dynamic_masks[0].trajectories[1]": "must be an object, not int",
        "dynamic_masks[0].trajectories[2].z": "no such field",
        "dynamic_masks[1].trajectories[0].x": "must be a whole pixel from 0, not 1.5",
        "dynamic_masks[2]": "must be an object, not int",
        "dynamic_masks[3].mask": "is required",
        "multi_prompt": "must be a list, not dict",
        "multi_shot": "must be true for shot_type and multi_prompt to count",
        "image": "give image, image_tail or both",
        "static_mask/dynamic_masks": "excludes camera_control: give at most one of them",
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("dynamic_masks", {"mask": "a", "trajectories": []}),
        ("dynamic_masks", "m.png"),
        ("dynamic_masks", [{"mask": "a", "trajectories": "xy"}]),
        ("camera_control", "simple"),
        ("camera_control", []),
        ("camera_control", {"type": ["simple"]}),
        ("camera_control", {"config": {"zoom": 1}}),
        ("multi_prompt", [["a", 5]]),
        ("element_list", 5),
        ("voice_list", [{"voice": "a"}]),
        ("watermark_info", {"enable": True}),
        ("image", ["a"]),
        ("extra_body", [1]),
        ("sound", {"on": True}),
    ],
)
def test_wrong_shapes(field: Any, value: Any):
    """Whatever stands in a field, the problem names that field."""
    assert any(name.startswith(field) for name in problems({"image": A, "prompt": "p", field: value}))


words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=12)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=8,
)
pixels = st.integers(0, 4000)
masks = st.builds(DynamicMask, words, st.lists(st.builds(Point, pixels, pixels), min_size=2, max_size=4))
axes = st.sampled_from(["horizontal", "vertical", "pan", "tilt", "roll", "zoom"])
speeds = st.floats(-10, 10).filter(bool)
cameras = st.builds(CameraControl, st.sampled_from(["down_back", "forward_up"])) | st.builds(
    lambda axis, speed: CameraControl("simple", CameraConfig(**{axis: speed})), axes, speeds
)
common = {
    "prompt": words,
    "negative_prompt": st.none() | words,
    "mode": st.none() | st.sampled_from(["std", "pro", "4k"]),
    "duration": st.none() | st.integers(3, 15),
    "watermark_info": st.none() | st.booleans(),
    "callback_url": st.none() | st.just("https://hook.example.org"),
    "external_task_id": st.none() | words,
    "extra_body": st.none() | st.dictionaries(words, json_values, max_size=3),
    "model_name": st.sampled_from(["kling-v2-6", "kling-v1-6", "kling-v3"]),
}
movement = (
    st.fixed_dictionaries({"image_tail": words})
    | st.fixed_dictionaries({"static_mask": words, "dynamic_masks": st.lists(masks, min_size=1, max_size=2)})
    | st.fixed_dictionaries({"camera_control": cameras})
)
shots = st.just({}) | st.builds(
    lambda texts, numbered: {
        "multi_shot": True,
        "shot_type": "customize",
        "duration": max(3, len(texts)),
        "multi_prompt": [
            Shot(
                prompt=text,
                duration=1 if n or len(texts) > 2 else 4 - len(texts),
                index=n + 1 if numbered else None,
            )
            for n, text in enumerate(texts)
        ],
    },
    st.lists(words, min_size=1, max_size=6),
    st.booleans(),
)
single = st.builds(
    lambda fields, moves, told: ImageToVideo(**{**fields, **moves, **told}),
    st.fixed_dictionaries(
        {
            **common,
            "image": words,
            "sound": st.none() | st.booleans(),
            "cfg_scale": st.none() | st.floats(0, 1) | st.just(0),
            "aspect_ratio": st.none() | st.just("16:9"),
            "element_list": st.none() | st.lists(st.integers(0) | words, min_size=1, max_size=3),
            "voice_list": st.none() | st.lists(words, min_size=1, max_size=2),
        }
    ),
    st.just({}) | movement,
    shots,
)
several = st.builds(
    MultiImageToVideo,
    **common,
    image_list=st.lists(words, min_size=1, max_size=4),
    aspect_ratio=st.none() | st.just("1:1"),
)


@given(single | several)
def test_round_trip(request_: Any):
    """A request comes back from its mapping, and from the mapping's JSON, as it was."""
    fields = request_to_dict(request_)
    assert request_from(fields) == request_
    assert request_from(json.loads(json.dumps(fields)), endpoint=request_.endpoint) == request_
    assert None not in [value for name, value in fields.items() if name != "extra_body"]


def test_paths_and_bytes():
    """A path becomes its text and a file's bytes their base64, which mean the same pictures."""
    request = ImageToVideo(
        image=Path("a") / "b.png",
        prompt="p",
        static_mask=b"\x89PNG\r\n\x1a\n",
        dynamic_masks=[DynamicMask(Path("m.png"), [Point(0, 0), Point(1, 1)])],
    )
    fields = request_to_dict(request)
    assert fields["image"] == str(Path("a/b.png"))
    assert fields["static_mask"] == "iVBORw0KGgo="
    assert fields["dynamic_masks"][0]["mask"] == "m.png"
    assert request_to_dict(MultiImageToVideo(image_list=[b"x", Path("a")], prompt="p"))["image_list"] == [
        {"image": "eA=="},
        {"image": "a"},
    ]
    json.dumps(fields)
