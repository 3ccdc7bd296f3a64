"""The rules of a request: one row each, all broken ones told at once; and tasks as values."""

# pyright: reportArgumentType=false
# (values of the wrong type are what is tested)

from pathlib import Path
from typing import Any

import pytest

from kling_async.protocol.errors import Outcome, RequestError
from kling_async.protocol.models import (
    DEFAULT_MODEL,
    CameraConfig,
    CameraControl,
    DynamicMask,
    ImageToVideo,
    MultiImageToVideo,
    Point,
    Shot,
    Task,
    TaskStatus,
    Video,
)

A = "https://cdn.example.org/a.png"
SIMPLE = CameraControl("simple", CameraConfig(zoom=1))
MASK = DynamicMask("m.png", [Point(0, 0), Point(1, 1)])
SHOTS = {"multi_shot": True, "shot_type": "customize", "prompt": None}


def fields_of(kind: Any, **fields: Any):
    """The fields that *kind* refuses."""
    with pytest.raises(RequestError) as caught:
        kind(**fields)
    assert caught.value.outcome is Outcome.NOT_CREATED
    return [problem.field for problem in caught.value.problems]


REFUSED = [
    ({"model_name": ""}, ["model_name"]),
    ({"model_name": None}, ["model_name"]),
    ({"prompt": None}, ["prompt"]),
    ({"prompt": ""}, ["prompt"]),
    ({"prompt": 5}, ["prompt"]),
    ({"prompt": "x" * 2501}, ["prompt"]),
    ({"negative_prompt": "x" * 2501}, ["negative_prompt"]),
    ({"negative_prompt": 5}, ["negative_prompt"]),
    ({"mode": 5}, ["mode"]),
    ({"duration": 2}, ["duration"]),
    ({"duration": 16}, ["duration"]),
    ({"duration": "5.0"}, ["duration"]),
    ({"duration": "05"}, ["duration"]),
    ({"duration": "\u0665"}, ["duration"]),
    ({"duration": "9" * 5000}, ["duration"]),
    ({"duration": 5.0}, ["duration"]),
    ({"duration": True}, ["duration"]),
    ({"watermark_info": "yes"}, ["watermark_info"]),
    ({"watermark_info": {"enable": True}}, ["watermark_info"]),
    ({"callback_url": "hook.example.org"}, ["callback_url"]),
    ({"callback_url": 5}, ["callback_url"]),
    ({"external_task_id": 5}, ["external_task_id"]),
    ({"extra_body": [1]}, ["extra_body"]),
    ({"image": None}, ["image"]),
    ({"image": ""}, ["image"]),
    ({"image": b""}, ["image"]),
    ({"image": 5}, ["image"]),
    ({"image_tail": 5}, ["image_tail"]),
    ({"image_tail": A, "camera_control": SIMPLE}, ["image_tail"]),
    ({"image_tail": A, "static_mask": A}, ["image_tail"]),
    ({"dynamic_masks": [MASK], "camera_control": SIMPLE}, ["static_mask/dynamic_masks"]),
    ({"sound": 1}, ["sound"]),
    ({"cfg_scale": -0.1}, ["cfg_scale"]),
    ({"cfg_scale": 1.1}, ["cfg_scale"]),
    ({"cfg_scale": float("nan")}, ["cfg_scale"]),
    ({"cfg_scale": 10**400}, ["cfg_scale"]),
    ({"cfg_scale": True}, ["cfg_scale"]),
    ({"cfg_scale": "0.5"}, ["cfg_scale"]),
    ({"static_mask": 5}, ["static_mask"]),
    ({"dynamic_masks": []}, ["dynamic_masks"]),
    ({"dynamic_masks": [MASK] * 7}, ["dynamic_masks"]),
    ({"dynamic_masks": "m.png"}, ["dynamic_masks"]),
    ({"dynamic_masks": ["m.png"]}, ["dynamic_masks[0]"]),
    (
        {"dynamic_masks": ["m.png", DynamicMask("", MASK.trajectories)]},
        ["dynamic_masks[0]", "dynamic_masks[1].mask"],
    ),
    ({"dynamic_masks": [DynamicMask(None, MASK.trajectories)]}, ["dynamic_masks[0].mask"]),
    ({"dynamic_masks": [DynamicMask("m", [Point(0, 0)])]}, ["dynamic_masks[0].trajectories"]),
    ({"dynamic_masks": [DynamicMask("m", [Point(0, 0)] * 78)]}, ["dynamic_masks[0].trajectories"]),
    ({"dynamic_masks": [DynamicMask("m", None)]}, ["dynamic_masks[0].trajectories"]),
    (
        {"dynamic_masks": [DynamicMask("m", [(0, 0), Point(0.5, True)])]},
        [f"dynamic_masks[0].trajectories{place}" for place in ("[0]", "[1].x", "[1].y")],
    ),
    ({"camera_control": "simple"}, ["camera_control"]),
    ({"camera_control": CameraControl([])}, ["camera_control.type"]),
    ({"camera_control": CameraControl("simple")}, ["camera_control.config"]),
    ({"camera_control": CameraControl("simple", {"zoom": 1})}, ["camera_control.config"]),
    ({"camera_control": CameraControl("down_back", CameraConfig(zoom=1))}, ["camera_control.config"]),
    ({"camera_control": CameraControl("simple", CameraConfig())}, ["camera_control.config"]),
    ({"camera_control": CameraControl("simple", CameraConfig(zoom=0))}, ["camera_control.config"]),
    ({"camera_control": CameraControl("simple", CameraConfig(zoom=1, pan=1))}, ["camera_control.config"]),
    ({"camera_control": CameraControl("simple", CameraConfig(zoom=11))}, ["camera_control.config.zoom"]),
    ({"camera_control": CameraControl("simple", CameraConfig(zoom="1"))}, ["camera_control.config.zoom"]),
    ({"multi_shot": "true", "shot_type": "intelligence"}, ["multi_shot"]),
    ({"multi_shot": True}, ["shot_type"]),
    ({"shot_type": "intelligence"}, ["multi_shot"]),
    ({"multi_prompt": [Shot(prompt="a", duration=5)]}, ["multi_shot"]),
    ({"multi_shot": True, "shot_type": "intelligence", "prompt": None}, ["prompt"]),
    ({**SHOTS}, ["multi_prompt"]),
    ({**SHOTS, "multi_prompt": [{"prompt": "a"}]}, ["multi_prompt[0]"]),
    ({**SHOTS, "duration": 7, "multi_prompt": [Shot(prompt="a", duration=1)] * 7}, ["multi_prompt"]),
    ({**SHOTS, "multi_prompt": [Shot(prompt="", duration=5)]}, ["multi_prompt[0].prompt"]),
    ({**SHOTS, "multi_prompt": [Shot(prompt="x" * 513, duration=5)]}, ["multi_prompt[0].prompt"]),
    ({**SHOTS, "multi_prompt": [Shot(prompt="a", duration=0)]}, ["multi_prompt[0].duration"]),
    ({**SHOTS, "multi_prompt": [Shot(prompt="a", duration=None)]}, ["multi_prompt[0].duration"]),
    ({**SHOTS, "multi_prompt": [Shot(prompt="a", duration=5, index=2)]}, ["multi_prompt[0].index"]),
    ({**SHOTS, "multi_prompt": [Shot(prompt="a", duration=4)]}, ["multi_prompt"]),
    ({**SHOTS, "duration": 6, "multi_prompt": [Shot(prompt="a", duration=5)]}, ["multi_prompt"]),
    ({"element_list": [1, 2, 3, 4]}, ["element_list"]),
    ({"element_list": [1.5, True]}, ["element_list[0]", "element_list[1]"]),
    ({"element_list": [{"id": 1}]}, ["element_list[0]"]),
    ({"voice_list": ["a", "b", "c"]}, ["voice_list"]),
    ({"voice_list": [1]}, ["voice_list[0]"]),
    ({"voice_list": "a"}, ["voice_list"]),
    ({"aspect_ratio": 1.5}, ["aspect_ratio"]),
]


@pytest.mark.parametrize(("fields", "expected"), REFUSED)
def test_rules_of_image_to_video(fields: Any, expected: Any):
    """A broken rule is one problem that names its field."""
    assert fields_of(ImageToVideo, **{"image": A, "prompt": "p", **fields}) == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"image_list": []}, ["image_list"]),
        ({"image_list": [A] * 5}, ["image_list"]),
        ({"image_list": A}, ["image_list"]),
        ({"image_list": None}, ["image_list"]),
        ({"image_list": [A, ""]}, ["image_list[1]"]),
        ({"image_list": [5, ""]}, ["image_list[0]", "image_list[1]"]),
        ({"prompt": None}, ["prompt"]),
        ({"mode": 5}, ["mode"]),
        ({"aspect_ratio": 5}, ["aspect_ratio"]),
    ],
)
def test_rules_of_multi_image_to_video(fields: Any, expected: Any):
    """The same for several pictures; places are those of the list as given."""
    assert fields_of(MultiImageToVideo, **{"image_list": [A, A], "prompt": "p", **fields}) == expected


def test_all_problems_at_once():
    """A request with many faults is refused once, with all of them in its message."""
    with pytest.raises(RequestError) as caught:
        ImageToVideo(mode=5, duration=99, cfg_scale=7, voice_list=[1], callback_url="x")
    fields = [problem.field for problem in caught.value.problems]
    assert fields == ["mode", "duration", "callback_url", "image", "cfg_scale", "prompt", "voice_list[0]"]
    assert all(f"{field}: " in str(caught.value) for field in fields)


ACCEPTED = [
    {"image": Path("a.png")},
    {"image": b"\xff\xd8"},
    {"image": None, "image_tail": A},
    {"image_tail": A},
    {"duration": 15},
    {"mode": "tomorrow's", "model_name": "kling-v9", "aspect_ratio": "21:9"},
    {"cfg_scale": 0},
    {"cfg_scale": 1},
    {"camera_control": SIMPLE},
    {"camera_control": CameraControl("right_turn_forward")},
    {"camera_control": CameraControl("tomorrow's")},
    {"static_mask": A, "dynamic_masks": [MASK] * 6},
    {"multi_shot": True, "shot_type": "intelligence"},
    {"multi_shot": False},
    {**SHOTS, "multi_prompt": [Shot(prompt="a", duration=2), Shot(prompt="b", duration="3", index=2)]},
    {"image_tail": A, **SHOTS, "duration": 3, "multi_prompt": [Shot(prompt="x" * 512, duration=3)]},
    {"element_list": [2**60, "1"], "voice_list": ["a", "b"], "sound": "on"},
    {"prompt": "x" * 2500, "negative_prompt": "x" * 2500},
    {"extra_body": {"seed": 1}},
]


@pytest.mark.parametrize("fields", ACCEPTED)
def test_accepted(fields: Any):
    """What Kling may take is not refused here; words not known yet pass."""
    ImageToVideo(**{"image": A, "prompt": "p", **fields})


def test_forms():
    """Numbers, booleans, lists and the API's objects become one form, so equal requests are equal."""
    short = ImageToVideo(
        image=A, prompt="p", duration=5, sound=True, watermark_info=True, element_list=[1], voice_list=["v"]
    )
    long = ImageToVideo(
        image=A,
        prompt="p",
        duration="5",
        sound="on",
        watermark_info={"enabled": True},
        element_list=({"element_id": 1},),
        voice_list=iter([{"voice_id": "v"}]),
    )
    assert short == long
    assert hash(short) == hash(long)
    pictures = MultiImageToVideo(image_list=[{"image": A}, b"x"], prompt="p")
    assert pictures == MultiImageToVideo(image_list=(A, b"x"), prompt="p")


def test_models_by_default():
    """A model is always named, the discontinued default of the API never."""
    assert ImageToVideo(image=A, prompt="p").model_name == DEFAULT_MODEL == "kling-v2-6"
    assert MultiImageToVideo(image_list=[A], prompt="p").model_name == "kling-v1-6"
    assert (ImageToVideo.endpoint, MultiImageToVideo.endpoint) == ("image2video", "multi-image2video")


def test_repr_is_short():
    """Pictures do not flood a log, wherever they stand."""
    mask = DynamicMask("m" * 5000, MASK.trajectories)
    request = ImageToVideo(image="a" * 9_000_000, prompt="p", static_mask=b"x" * 9_000, dynamic_masks=[mask])
    assert len(repr(request)) < 1500
    assert "<9000 bytes>" in repr(request)
    assert len(repr(MultiImageToVideo(image_list=["a" * 5000] * 4, prompt="p"))) < 1000


def test_repr_holds_no_secret_of_a_url():
    """A signed picture, a callback's token, a password: where they lead is shown, and nothing more."""
    url = "https://user:hunter2@cdn.example.org/a.png?token=SECRET#SECRET"
    request = ImageToVideo(image=url, image_tail=url, prompt="p", callback_url=url)
    assert repr(request).count("'https://cdn.example.org/a.png'") == 3
    assert "hunter2" not in repr(request)
    assert "SECRET" not in repr(request)
    assert "SECRET" not in repr(MultiImageToVideo(image_list=[url, url], prompt="p"))


def test_video_of_a_task():
    """The first video is at hand; without one the status says why."""
    first, second = Video("https://a.example"), Video("https://b.example")
    assert Task("1", status=TaskStatus.SUCCEED, videos=(first, second)).video is first
    with pytest.raises(LookupError, match="processing"):
        _ = Task("1", status=TaskStatus.PROCESSING).video


def test_failure_of_a_task():
    """A failed task becomes an error that names it and its reason."""
    task = Task("1", "ka-1", TaskStatus.FAILED, "content risk control")
    error = task.failure()
    assert (error.task, error.task_id, error.external_task_id) == (task, "1", "ka-1")
    assert (error.status_message, error.outcome) == ("content risk control", Outcome.CREATED)
    assert "no reason given" in str(Task("1", status=TaskStatus.FAILED).failure())
