"""What is sent: bodies and URLs, against JSON written by hand."""

from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, strategies as st

from kling_async.protocol.errors import RequestError, UnsupportedError
from kling_async.protocol.images import ImageFile, ImageText, ImageUrl, sources
from kling_async.protocol.models import (
    CameraConfig,
    CameraControl,
    DynamicMask,
    ImageToVideo,
    MultiImageToVideo,
    Point,
    Shot,
)
from kling_async.protocol.providers import COMETAPI, EZMODEL, KLING, KLING_CN, new_api
from kling_async.protocol.wire import Request, create, list_page, query

A, B, M = "https://cdn.example.org/a.png", "https://cdn.example.org/b.png", "https://cdn.example.org/m.png"
FILE = ImageFile(Path("a.png"), 9, 1, "ff")


def sent(request: Any, provider: Any = KLING, **images: Any) -> Any:
    """The body of *request*, its pictures resolved as URLs unless given."""
    resolved = {field: images.get(field, ImageUrl(str(picture))) for field, picture in sources(request)}
    return create(request, provider, resolved, external_task_id="ka-6f0c").document


def test_everything_about_one_create():
    """A create is a POST to the endpoint of its kind with the body as its document."""
    request = ImageToVideo(image=A, prompt="slow push-in", external_task_id="mine")
    assert create(request, KLING, {"image": ImageUrl(A)}, external_task_id="mine") == Request(
        "POST",
        "https://api-singapore.klingai.com/v1/videos/image2video",
        {"model_name": "kling-v2-6", "image": A, "prompt": "slow push-in", "external_task_id": "mine"},
    )


BODIES = {
    "two frames": (
        ImageToVideo(
            model_name="kling-v3",
            image=A,
            image_tail=B,
            prompt="slow push-in",
            negative_prompt="blur",
            mode="pro",
            duration=8,
            sound=True,
            cfg_scale=0.5,
            watermark_info=False,
            callback_url="https://hook.example.org/kling",
            aspect_ratio="16:9",
        ),
        {
            "model_name": "kling-v3",
            "image": A,
            "image_tail": B,
            "prompt": "slow push-in",
            "negative_prompt": "blur",
            "mode": "pro",
            "duration": "8",
            "sound": "on",
            "cfg_scale": 0.5,
            "watermark_info": {"enabled": False},
            "callback_url": "https://hook.example.org/kling",
            "aspect_ratio": "16:9",
            "external_task_id": "ka-6f0c",
        },
    ),
    "zero and false": (
        ImageToVideo(image=A, prompt="p", cfg_scale=0, multi_shot=False, sound=False),
        {
            "model_name": "kling-v2-6",
            "image": A,
            "prompt": "p",
            "cfg_scale": 0,
            "multi_shot": False,
            "sound": "off",
            "external_task_id": "ka-6f0c",
        },
    ),
    "masks": (
        ImageToVideo(
            image=A,
            prompt="p",
            static_mask=M,
            dynamic_masks=[
                DynamicMask(M, [Point(0, 5), Point(7, 0)]),
                DynamicMask(B, [Point(1, 2), Point(3, 4)]),
            ],
        ),
        {
            "model_name": "kling-v2-6",
            "image": A,
            "prompt": "p",
            "static_mask": M,
            "dynamic_masks": [
                {"mask": M, "trajectories": [{"x": 0, "y": 5}, {"x": 7, "y": 0}]},
                {"mask": B, "trajectories": [{"x": 1, "y": 2}, {"x": 3, "y": 4}]},
            ],
            "external_task_id": "ka-6f0c",
        },
    ),
    "camera": (
        ImageToVideo(
            image=A, prompt="p", camera_control=CameraControl("simple", CameraConfig(zoom=-2.5, pan=0))
        ),
        {
            "model_name": "kling-v2-6",
            "image": A,
            "prompt": "p",
            "camera_control": {"type": "simple", "config": {"zoom": -2.5, "pan": 0}},
            "external_task_id": "ka-6f0c",
        },
    ),
    "whole camera movement": (
        ImageToVideo(image=A, prompt="p", camera_control=CameraControl("down_back")),
        {
            "model_name": "kling-v2-6",
            "image": A,
            "prompt": "p",
            "camera_control": {"type": "down_back"},
            "external_task_id": "ka-6f0c",
        },
    ),
    "shots": (
        ImageToVideo(
            image=A,
            multi_shot=True,
            shot_type="customize",
            duration="5",
            multi_prompt=[Shot(prompt="one", duration=2), Shot(prompt="two", duration="3", index=2)],
        ),
        {
            "model_name": "kling-v2-6",
            "image": A,
            "multi_shot": True,
            "shot_type": "customize",
            "duration": "5",
            "multi_prompt": [
                {"index": 1, "prompt": "one", "duration": "2"},
                {"index": 2, "prompt": "two", "duration": "3"},
            ],
            "external_task_id": "ka-6f0c",
        },
    ),
    "elements and voices": (
        ImageToVideo(
            image=A, prompt="p", sound="on", element_list=[161, "9007199254740993"], voice_list=["v1"]
        ),
        {
            "model_name": "kling-v2-6",
            "image": A,
            "prompt": "p",
            "sound": "on",
            "element_list": [{"element_id": 161}, {"element_id": "9007199254740993"}],
            "voice_list": [{"voice_id": "v1"}],
            "external_task_id": "ka-6f0c",
        },
    ),
    "further fields": (
        ImageToVideo(
            image=A, prompt="p", mode="std", extra_body={"mode": "8k", "seed": 0, "x": None, "y": [{}]}
        ),
        {
            "model_name": "kling-v2-6",
            "image": A,
            "prompt": "p",
            "mode": "8k",
            "seed": 0,
            "x": None,
            "y": [{}],
            "external_task_id": "ka-6f0c",
        },
    ),
    "several pictures": (
        MultiImageToVideo(
            image_list=[A, B],
            prompt="they meet",
            duration=5,
            aspect_ratio="16:9",
            mode="std",
            negative_prompt="n",
            watermark_info={"enabled": True},
            callback_url="https://h.example",
        ),
        {
            "model_name": "kling-v1-6",
            "image_list": [{"image": A}, {"image": B}],
            "prompt": "they meet",
            "duration": "5",
            "aspect_ratio": "16:9",
            "mode": "std",
            "negative_prompt": "n",
            "watermark_info": {"enabled": True},
            "callback_url": "https://h.example",
            "external_task_id": "ka-6f0c",
        },
    ),
}


@pytest.mark.parametrize("provider", [KLING, KLING_CN, COMETAPI], ids=lambda one: one.name)
@pytest.mark.parametrize(("request_", "expected"), BODIES.values(), ids=BODIES)
def test_bodies(request_: Any, expected: Any, provider: Any):
    """Every field is sent in the API's own form, and what was not given is not sent."""
    assert sent(request_, provider) == expected


def test_every_field_is_in_a_body():
    """No field of a request is forgotten: the bodies above have them all."""
    for kind in (ImageToVideo, MultiImageToVideo):
        bodies = [body for request, body in BODIES.values() if type(request) is kind]
        names = {field.name for field in attrs.fields(kind)} - {"extra_body"}
        assert names <= {name for body in bodies for name in body}


def test_bodies_are_new_each_time():
    """Writing in a document changes neither the request nor the next document."""
    request, expected = BODIES["masks"]
    sent(request)["dynamic_masks"][0]["trajectories"].clear()
    assert sent(request) == expected


def test_pictures_stand_in_the_document_as_they_are_sent():
    """A picture in memory and a file stand for themselves, to be streamed in."""
    request = ImageToVideo(
        image="a.png", prompt="p", dynamic_masks=[DynamicMask("m.png", [Point(0, 0), Point(1, 1)])]
    )
    text = ImageText("iVBORw0KGgo=", "ff")
    body = sent(request, image=text, **{"dynamic_masks[0].mask": FILE})
    assert body["image"] is text
    assert body["dynamic_masks"][0]["mask"] is FILE
    several = MultiImageToVideo(image_list=["a.png", b"x"], prompt="p")
    body = sent(several, **{"image_list[0]": FILE, "image_list[1]": text})
    assert body["image_list"] == [{"image": FILE}, {"image": text}]


def test_new_api_dialect():
    """What only some versions read at the top and only others in metadata goes to both; image goes once."""
    request = ImageToVideo(
        image=A,
        image_tail=B,
        prompt="slow push-in",
        mode="pro",
        duration=5,
        negative_prompt="blur",
        cfg_scale=0.3,
    )
    assert sent(request, EZMODEL) == {
        "model": "kling-v2-6",
        "model_name": "kling-v2-6",
        "prompt": "slow push-in",
        "image": A,
        "mode": "pro",
        "duration": "5",
        "image_tail": B,
        "negative_prompt": "blur",
        "cfg_scale": 0.3,
        "external_task_id": "ka-6f0c",
        "metadata": {
            "image_tail": B,
            "negative_prompt": "blur",
            "cfg_scale": 0.3,
            "external_task_id": "ka-6f0c",
        },
    }


def test_new_api_further_fields():
    """Further fields go to both places as well, and what they say of metadata or the model counts."""
    request = ImageToVideo(image=A, prompt="p", extra_body={"seed": 1})
    body = sent(request, EZMODEL)
    assert (body["seed"], body["metadata"]["seed"]) == (1, 1)
    request = ImageToVideo(image=A, prompt="p", extra_body={"model": "kling-x", "metadata": {"a": 1}})
    body = sent(request, EZMODEL)
    assert (body["model"], body["model_name"], body["metadata"]) == ("kling-x", "kling-v2-6", {"a": 1})


def test_new_api_file():
    """The start frame may be a file everywhere: every version reads it in the same place."""
    body = sent(ImageToVideo(image="a.png", prompt="p"), EZMODEL, image=FILE)
    assert body["image"] is FILE
    assert "image" not in body["metadata"]


def test_new_api_refuses_what_it_would_lose():
    """What the gateway drops without a word is refused before it is paid, all of it at once."""
    request = ImageToVideo(
        image_tail="b.png",
        multi_shot=True,
        shot_type="customize",
        element_list=[1],
        voice_list=["v"],
        multi_prompt=[Shot(prompt="p", duration=5)],
    )
    with pytest.raises(UnsupportedError) as caught:
        sent(request, EZMODEL, image_tail=FILE)
    fields = {problem.field for problem in caught.value.problems}
    lost = {"multi_shot", "shot_type", "multi_prompt", "element_list", "voice_list"}
    assert fields == {*lost, "image", "image_tail"}


@pytest.mark.parametrize(
    ("field", "picture"),
    [("static_mask", FILE), ("dynamic_masks[0].mask", ImageText("eA==", "ff")), ("image_tail", FILE)],
)
def test_new_api_takes_other_pictures_as_urls_only(field: Any, picture: Any):
    """No one place for the other pictures is read by every version, and base64 is not sent twice."""
    more: dict[str, Any] = (
        {"image_tail": "b.png"}
        if field == "image_tail"
        else {"static_mask": M, "dynamic_masks": [DynamicMask(M, [Point(0, 0), Point(1, 1)])]}
    )
    with pytest.raises(UnsupportedError) as caught:
        sent(ImageToVideo(image=A, prompt="p", **more), EZMODEL, **{field: picture})
    assert [problem.field for problem in caught.value.problems] == [field]


def test_multi_shot_false_is_no_loss():
    """False is what a gateway without the field does anyway."""
    assert sent(ImageToVideo(image=A, prompt="p", multi_shot=False), EZMODEL)["multi_shot"] is False


def test_missing_endpoint():
    """A kind of task that the provider lacks is refused by name, for every operation."""
    several = MultiImageToVideo(image_list=[A], prompt="p")
    for attempt in (
        lambda: sent(several, EZMODEL),
        lambda: query(EZMODEL, "multi-image2video", "1"),
        lambda: list_page(KLING, "text2video", page=1, page_size=30),
    ):
        with pytest.raises(UnsupportedError, match=r"(ezmodel|kling) has no (multi-image|text)2video"):
            attempt()


@pytest.mark.parametrize(
    ("provider", "endpoint", "url"),
    [
        (KLING, "image2video", "https://api-singapore.klingai.com/v1/videos/image2video/878"),
        (KLING_CN, "multi-image2video", "https://api-beijing.klingai.com/v1/videos/multi-image2video/878"),
        (COMETAPI, "image2video", "https://api.cometapi.com/kling/v1/videos/image2video/878"),
        (EZMODEL, "image2video", "https://api.ezmodel.cloud/kling/v1/videos/image2video/878"),
        (
            new_api("http://127.0.0.1:3000"),
            "image2video",
            "http://127.0.0.1:3000/kling/v1/videos/image2video/878",
        ),
    ],
)
def test_query(provider: Any, endpoint: Any, url: Any):
    """A query is a GET of the task below its endpoint."""
    assert query(provider, endpoint, "878") == Request("GET", url)


@pytest.mark.parametrize(
    ("id_", "quoted"),
    [
        ("a/b", "a%2Fb"),
        ("../x", "..%2Fx"),
        ("a?b#c&d", "a%3Fb%23c%26d"),
        ("é %", "%C3%A9%20%25"),
        ("\ud800", "%3F"),
    ],
)
def test_ids_are_quoted(id_: Any, quoted: Any):
    """Whatever an id holds, it stays one piece of the path."""
    assert query(KLING, "image2video", id_).url.endswith(f"/videos/image2video/{quoted}")


@given(st.text(min_size=1))
def test_ids_never_leave_their_place(id_: Any):
    """No id makes another path, a query string or a fragment."""
    try:
        url = query(KLING, "image2video", id_).url
    except RequestError:
        assert set(id_) == {"."}
        return
    prefix = "https://api-singapore.klingai.com/v1/videos/image2video/"
    assert url.startswith(prefix)
    assert not set(url.removeprefix(prefix)) & set("/?# ")


@pytest.mark.parametrize("id_", ["", ".", ".."])
def test_ids_that_are_other_paths(id_: Any):
    """An empty id would ask for the list, and dots for the folder above."""
    with pytest.raises(RequestError, match="id"):
        query(KLING, "image2video", id_)


def test_list_page():
    """A page is asked for by number and size."""
    url = "https://api-singapore.klingai.com/v1/videos/image2video?pageNum=2&pageSize=500"
    assert list_page(KLING, "image2video", page=2, page_size=500) == Request("GET", url)


@pytest.mark.parametrize(
    ("page", "size", "fields"), [(0, 30, ["page"]), (1, 501, ["page_size"]), (1001, 0, ["page", "page_size"])]
)
def test_list_page_out_of_range(page: Any, size: Any, fields: Any):
    """Numbers that Kling does not take are refused here."""
    with pytest.raises(RequestError) as caught:
        list_page(KLING, "image2video", page=page, page_size=size)
    assert [problem.field for problem in caught.value.problems] == fields


@pytest.mark.parametrize("provider", [COMETAPI, EZMODEL], ids=lambda one: one.name)
def test_no_list(provider: Any):
    """A provider without a list says so here and not by a web page."""
    with pytest.raises(UnsupportedError, match="cannot list"):
        list_page(provider, "image2video", page=1, page_size=30)


def test_repr_has_no_body():
    """A request in a log shows where it goes and no picture."""
    assert (
        repr(Request("POST", "https://x", {"image": "secret"})) == "Request(method='POST', url='https://x')"
    )
