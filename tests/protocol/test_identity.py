"""Who is who: equal requests have equal ids, all others differ, and a token is read back or refused."""

import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import example, given, settings, strategies as st

from kling_async.protocol.errors import Outcome, RequestError
from kling_async.protocol.identity import Token, derive_external_task_id, request_hash
from kling_async.protocol.images import ImageFile, ImageText, ImageUrl, ResolvedImage
from kling_async.protocol.models import (
    CameraConfig,
    CameraControl,
    DynamicMask,
    ImageToVideo,
    MultiImageToVideo,
    Point,
    Shot,
    VideoRequest,
)

CAT = ImageText("QUJD", "ca7" * 10)
DOG = ImageText("REVG", "d06" * 10)
BASE = ImageToVideo(image="cat.png", prompt="it yawns")


def hashed(request: VideoRequest, image: ResolvedImage = CAT, **more: Any):
    """The hash of *request* with *image* as its start frame and *more* as its other pictures."""
    return request_hash(request, {"image": image, **more})


PATH = (Point(0, 0), Point(5, 5))
DIFFERENT = [
    {"prompt": "it sleeps"},
    {"negative_prompt": "it yawns"},
    {"model_name": "kling-v3"},
    {"mode": "pro"},
    {"duration": 5},
    {"duration": 10},
    {"sound": True},
    {"sound": False},
    {"cfg_scale": 0},
    {"cfg_scale": 0.5},
    {"camera_control": CameraControl("down_back")},
    {"camera_control": CameraControl("simple", CameraConfig(zoom=5))},
    {"camera_control": CameraControl("simple", CameraConfig(zoom=6))},
    {"camera_control": CameraControl("simple", CameraConfig(roll=5))},
    {"multi_shot": True, "shot_type": "customize", "multi_prompt": [Shot(prompt="a", duration=5)]},
    {"multi_shot": True, "shot_type": "customize", "multi_prompt": [Shot(prompt="b", duration=5)]},
    {"element_list": [1]},
    {"element_list": [1, 2]},
    {"voice_list": ["1"]},
    {"watermark_info": True},
    {"watermark_info": False},
    {"aspect_ratio": "16:9"},
    {"extra_body": {"seed": 1}},
    {"extra_body": {"seed": 2}},
    {"extra_body": {"seed": None}},
    {"extra_body": {"image": "other"}},
]


def test_every_field_counts():
    """Each field makes another hash by being there and by its value, and none is mistaken for another."""
    hashes = [hashed(BASE), *(hashed(attrs.evolve(BASE, **change)) for change in DIFFERENT)]
    assert len(set(hashes)) == len(DIFFERENT) + 1
    counted = {name for change in DIFFERENT for name in change}
    pictures = {"image", "image_tail", "static_mask", "dynamic_masks"}
    fields = {field.name for field in attrs.fields(ImageToVideo)}
    assert fields - counted - pictures == {"external_task_id", "callback_url"}


def test_neither_the_id_nor_the_callback_counts():
    """The caller's id and the address to call back change nothing in the video."""
    same = attrs.evolve(BASE, external_task_id="mine", callback_url="https://hook")
    assert hashed(same) == hashed(BASE)


def test_every_picture_counts_by_content_and_field():
    """A picture counts in its own field, by its SHA-256, however it was given and named."""
    file = ImageFile(Path("cat.png"), 3, 1, CAT.sha256)
    moved = ImageFile(Path("/elsewhere/tom.png"), 3, 2, CAT.sha256)
    assert hashed(BASE, file) == hashed(BASE, moved) == hashed(attrs.evolve(BASE, image=b"ABC"), CAT)
    assert hashed(BASE, DOG) != hashed(BASE, CAT)
    tail = ImageToVideo(image_tail="cat.png", prompt="it yawns")
    assert request_hash(tail, {"image_tail": CAT}) != hashed(BASE)
    masks = attrs.evolve(BASE, static_mask="m", dynamic_masks=[DynamicMask("n", PATH)])
    one, other = (
        hashed(masks, static_mask=first, **{"dynamic_masks[0].mask": second})
        for first, second in ((CAT, DOG), (DOG, CAT))
    )
    assert len({one, other, hashed(BASE)}) == 3
    moving = attrs.evolve(masks, dynamic_masks=[DynamicMask("n", PATH[::-1])])
    assert hashed(moving, static_mask=CAT, **{"dynamic_masks[0].mask": DOG}) != one


def test_order_of_pictures_counts():
    """The same pictures in another order are another request."""
    request = MultiImageToVideo(image_list=["a", "b"], prompt="p")
    one, other = (
        request_hash(request, {"image_list[0]": first, "image_list[1]": second})
        for first, second in ((CAT, DOG), (DOG, CAT))
    )
    assert one != other


def test_urls_count_without_query_and_fragment():
    """A URL signed anew is the same picture; another path is another."""
    plain = hashed(BASE, ImageUrl("https://host/cat.png"))
    assert hashed(BASE, ImageUrl("https://host/cat.png?X-Expires=3600&sign=a/b#c")) == plain
    assert hashed(BASE, ImageUrl("https://host/cat.png#top?x")) == plain
    assert hashed(BASE, ImageUrl("https://host/dog.png?X-Expires=3600")) != plain


def test_kinds_of_task_differ():
    """The endpoint counts: nothing makes requests of two kinds the same."""
    single = ImageToVideo(image="a", prompt="p", model_name="m")
    several = MultiImageToVideo(image_list=["a"], prompt="p", model_name="m")
    assert hashed(single) != request_hash(several, {"image_list[0]": CAT})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"duration": 5}, {"duration": "5"}),
        ({"sound": True}, {"sound": "on"}),
        ({"cfg_scale": 1}, {"cfg_scale": 1.0}),
        ({"cfg_scale": 0}, {"cfg_scale": -0.0}),
        ({"element_list": [{"element_id": 7}]}, {"element_list": (7,)}),
        ({"extra_body": {"a": 1, "b": [2.0]}}, {"extra_body": {"b": (2,), "a": 1}}),
    ],
)
def test_equal_values_have_equal_hashes(one: Any, other: Any):
    """However a value is written, the same request has the same hash."""
    assert hashed(attrs.evolve(BASE, **one)) == hashed(attrs.evolve(BASE, **other))


def test_hashes_and_ids_stay_what_they_are():
    """Ids of tasks paid for by an earlier version, process or Python must be found: the values are pinned."""
    request = attrs.evolve(
        BASE,
        prompt="größer \ud83d\ude00",
        cfg_scale=0.1,
        camera_control=CameraControl("simple", CameraConfig(zoom=-2.5)),
        extra_body={"z": {"b": None, "a": [True, 1e22]}},
    )
    assert hashed(request) == "e3b1ba6df66336f54fbb60c9a739640af0bd04c4a1b68d8de8af7b3c7e815d22"
    assert made() == "ka-5qh5lymyiys2qm6omaxbipvlhm"


def test_another_process_agrees():
    """A process with another hash seed computes the same hash."""
    code = (
        "from kling_async.protocol.identity import request_hash as h\n"
        "from kling_async.protocol.images import ImageText as T\n"
        "from kling_async.protocol.models import ImageToVideo as I\n"
        "r = I(image='cat.png', prompt='it yawns', extra_body={'b': 1, 'a': 2})\n"
        f"print(h(r, {{'image': T('', {CAT.sha256!r})}}))"
    )
    env = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == hashed(attrs.evolve(BASE, extra_body={"a": 2, "b": 1}))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), b"raw", {1: 1, "1": 2}])
def test_what_json_cannot_say(value: Any):
    """A value that can never be sent is refused before it has an identity."""
    with pytest.raises(RequestError, match="extra_body: cannot be JSON") as caught:
        hashed(attrs.evolve(BASE, extra_body={"x": value}))
    assert caught.value.outcome is Outcome.NOT_CREATED


def test_endless_nesting():
    """A value that holds itself is refused like any other that JSON cannot express."""
    loop = {}
    loop["loop"] = loop
    with pytest.raises(RequestError, match="extra_body: cannot be JSON"):
        hashed(attrs.evolve(BASE, extra_body=loop))


# The idempotency key

FIELDS: dict[str, Any] = {
    "namespace": "",
    "account": "acc",
    "key": "cat",
    "request_hash": "0f" * 32,
    "generation": 0,
    "secret": b"sk-1",
}


def made(**change: Any):
    """The id of one fixed input with *change*."""
    return derive_external_task_id(**{**FIELDS, **change})


ANY = st.text(st.characters(), max_size=8)  # half surrogate pairs too
INPUTS = st.fixed_dictionaries(
    {
        "namespace": ANY,
        "account": ANY,
        "key": ANY,
        "request_hash": ANY,
        "generation": st.integers(0, 99),
        "secret": st.binary(max_size=80),
    }
)


@given(INPUTS)
def test_an_id_is_always_of_one_form(inputs: Any):
    """``ka-`` and 26 of a-z and 2-7, whatever went in, and the same each time."""
    found = derive_external_task_id(**inputs)
    assert re.fullmatch(r"ka-[a-z2-7]{26}", found)
    assert derive_external_task_id(**inputs) == found


@given(INPUTS, INPUTS)
def test_distinct_inputs_have_distinct_ids(one: Any, other: Any):
    """No two inputs share an id."""
    assert (derive_external_task_id(**one) == derive_external_task_id(**other)) == (one == other)


@given(st.lists(ANY, min_size=4, max_size=4), st.lists(st.integers(0, 32), min_size=3, max_size=3))
@example(["a", "", "b", ""], [0, 1, 1])
@example(["1:a", "", "", ""], [0, 0, 0])
def test_borders_between_fields_count(fields: Any, cuts: list[int]):
    """The same characters cut at other places are another id: nothing slips from one field into the next."""
    text = "".join(fields)
    cuts = sorted(min(cut, len(text)) for cut in cuts)
    moved = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    names = ("namespace", "account", "key", "request_hash")
    one, other = (made(**dict(zip(names, values, strict=True))) for values in (fields, moved))
    assert (one == other) == (fields == moved)


@pytest.mark.parametrize(
    "change",
    [
        {"namespace": "n"},
        {"account": "other"},
        {"key": "Cat"},
        {"request_hash": "0e" * 32},
        {"generation": 1},
        {"secret": b"sk-2"},
        {"secret": b"s" * 64},
        {"secret": b"s" * 65},
        {"secret": b"s" * 66},
    ],
)
def test_each_part_of_the_identity_counts(change: Any):
    """Each of the six parts changes the id; a secret of any length is taken, all of it."""
    assert made(**change) not in (made(), made(secret=b"s" * 63))


# The token

TOKEN = Token(
    provider="kling",
    host="api-singapore.klingai.com",
    account="3f9a",
    endpoint="image2video",
    key="cat",
    task_id="930112233445566778",
    external_task_id="ka-abc",
)
TOKENS = st.builds(
    Token,
    provider=ANY,
    host=ANY,
    account=ANY,
    endpoint=ANY,
    key=st.text(st.characters(), max_size=300),
    task_id=st.none() | ANY,
    external_task_id=ANY.filter(bool),
)


@given(TOKENS)
def test_a_token_is_read_back(token: Token):
    """Its text is safe anywhere, and parsing it gives the same token."""
    assert re.fullmatch(r"kling1\.[A-Za-z0-9_-]+", token.text)
    assert Token.parse(token.text) == token
    assert Token.parse(f"\n {token.text} ") == token


def written(fields: Any):
    """A token's text with any fields."""
    raw = base64.urlsafe_b64encode(json.dumps(fields).encode()).decode().rstrip("=")
    return "kling1." + raw


GOOD = attrs.asdict(TOKEN)


def test_fields_of_later_versions_are_ignored():
    """What a later version adds does not hinder this one; an id may be missing when the other is there."""
    assert Token.parse(written({**GOOD, "region": "sg"})) == TOKEN
    without = {name: value for name, value in GOOD.items() if name != "task_id"}
    assert Token.parse(written(without)) == attrs.evolve(TOKEN, task_id=None)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "does not begin with kling1."),
        (None, "does not begin with kling1."),
        (7, "does not begin with kling1."),
        ("kling2." + TOKEN.text[7:], "does not begin with kling1."),
        (TOKEN.text[7:], "does not begin with kling1."),
        ("kling1.", ""),
        ("kling1.!!!!", ""),
        (TOKEN.text[:-5], ""),
        (TOKEN.text[:40] + " " + TOKEN.text[40:], ""),
        (TOKEN.text + "ä", ""),
        ("kling1." + "A" * 5000, "longer than 4,096"),
        ("kling1." + base64.urlsafe_b64encode(b"[" * 3000).decode(), ""),
        ("kling1." + base64.urlsafe_b64encode(b"\xff\xfe").decode(), ""),
        (written([]), "holds no fields"),
        (written("text"), "holds no fields"),
        (written(None), "holds no fields"),
        (written({}), "provider"),
        (written({**GOOD, "key": 7}), "key: must be text, not int"),
        (written({**GOOD, "key": None}), "key: must be text, not NoneType"),
        (written({**GOOD, "task_id": ["x"]}), "task_id: must be text"),
        (written({**GOOD, "task_id": None, "external_task_id": None}), "must be there"),
        (written({**GOOD, "task_id": "", "external_task_id": ""}), "must be there"),
    ],
)
def test_what_is_no_token(text: Any, part: str):
    """Anything malformed is one RequestError that says why."""
    with pytest.raises(RequestError) as caught:
        Token.parse(text)
    (problem,) = caught.value.problems
    assert problem.field == "token"
    assert part in problem.message


JSONS = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(
    st.text()
    | st.text().map("kling1.".__add__)
    | st.binary().map(lambda raw: "kling1." + base64.urlsafe_b64encode(raw).decode())
    | JSONS.map(written)
    | st.fixed_dictionaries({name: st.just(value) | JSONS for name, value in GOOD.items()}).map(written)
    | st.tuples(st.integers(0, len(TOKEN.text)), st.characters()).map(
        lambda change: TOKEN.text[: change[0]] + change[1] + TOKEN.text[change[0] + 1 :]
    )
)
@settings(max_examples=300)
def test_rubbish_raises_nothing_else(text: Any):
    """Whatever the text, there is a token or a RequestError."""
    try:
        token = Token.parse(text)
    except RequestError:
        return
    assert Token.parse(token.text) == token


def test_a_token_never_grows_too_long_to_be_read():
    """A key too long for a token is refused when the token is made, not when it is needed."""
    with pytest.raises(RequestError, match="key: must be shorter"):
        attrs.evolve(TOKEN, key="k" * 3000)
    assert Token.parse(attrs.evolve(TOKEN, key="k" * 2700).text).key == "k" * 2700
