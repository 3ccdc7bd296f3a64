"""The map held against the API reference's two tables, which are typed here once more, and its wording."""

import itertools
from typing import Any

import pytest
from hypothesis import given, strategies as st

from kling_async import RequestError, checking
from kling_async.bodies import Resolved
from kling_async.checking import capabilities
from kling_async.protocol.capabilities import Capabilities
from kling_async.protocol.cells import FEATURES, Model
from kling_async.protocol.findings import Finding
from kling_async.protocol.models import (
    CameraConfig,
    CameraControl,
    DynamicMask,
    ImageToVideo,
    MultiImageToVideo,
    Point,
    Shot,
)
from kling_async.protocol.providers import COMETAPI, EZMODEL, KLING, KLING_CN, Provider, new_api

A, B = "https://cdn.example.org/a.png", "https://cdn.example.org/b.png"
MAP = capabilities()

# The reference's first table: columns std5, std10, pro5, pro10; of a model without modes 5 s and 10 s; `-` in
# all where one stands. Notes 1 and 2 as `?`.
FIRST = """
                   start+end  end only   brush      camera
kling-v1           Y - Y -    - - - -    Y - Y -    ? - - -
kling-v1-5         - - Y Y    - - Y Y    - - ? -    - - Y -
kling-v1-6         - - Y Y    - - Y Y    - - - -    - - - -
kling-v2-master    - -        - -        - -        - -
kling-v2-1         - - Y Y    - - - -    - - - -    - - - -
kling-v2-1-master  - -        - -        - -        - -
kling-v2-5-turbo   - - Y Y    - - - -    - - - -    - - - -
kling-v2-6         - - s s    - - - -    - - - -    - - - -
"""
# The second, in the same columns.
SECOND = """
                   sound      voice_list multi-shot elements   cfg_scale
kling-v1           - - - -    - - - -    - - - -    - - - -    Y Y Y Y
kling-v1-5         - - - -    - - - -    - - - -    - - - -    Y Y Y Y
kling-v1-6         - - - -    - - - -    - - - -    - - - -    Y Y Y Y
kling-v2-master    - -        - -        - -        - -        - -
kling-v2-1         - - - -    - - - -    - - - -    - - - -    - - - -
kling-v2-1-master  - -        - -        - -        - -        - -
kling-v2-5-turbo   - - - -    - - - -    - - - -    - - - -    - - - -
kling-v2-6         - - Y Y    - - Y Y    - - - -    - - - -    - - - -
"""
# kling-v3, alike in std, pro and 4k and from 3 to 15 s
V3 = {
    "start_end_frame": "Y",
    "end_frame": "-",
    "motion_brush": "-",
    "camera_control": "-",
    "sound": "Y",
    "voice_list": "?",
    "multi_shot": "Y",
    "element_list": "Y",
    "cfg_scale": "?",
}
MODES = {
    "kling-v2-master": "- ? -",
    "kling-v2-1-master": "- ? -",
    "kling-v3": "Y Y Y",
}  # std pro 4k; others Y Y -
RETIRED = [
    "kling-v1",
    "kling-v1-5",
    "kling-v1-6",
    "kling-v2-master",
    "kling-v2-1",
    "kling-v2-1-master",
]
KNOWN = [*RETIRED, "kling-v2-5-turbo", "kling-v2-6", "kling-v3"]

ASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "start_end_frame": ("image_tail", {"image_tail": B}),
    "end_frame": ("image_tail", {"image": None, "image_tail": B}),
    "motion_brush": ("dynamic_masks", {"dynamic_masks": [DynamicMask(B, [Point(0, 0), Point(1, 1)])]}),
    "camera_control": ("camera_control", {"camera_control": CameraControl("simple", CameraConfig(zoom=1))}),
    "sound": ("sound", {"sound": "on"}),
    "voice_list": ("voice_list", {"sound": "on", "voice_list": ["v"]}),
    "multi_shot": ("multi_shot", {"multi_shot": True, "shot_type": "intelligence"}),
    "element_list": ("element_list", {"element_list": [161]}),
    "cfg_scale": ("cfg_scale", {"cfg_scale": 0.5}),
}
"""How a feature is asked for, and the field that is told of."""

SEVERITY = {"Y": None, "s": None, "-": "error", "?": "warning"}


def table(text: str, *features: str):
    """The rows of a table above: model, feature, mode, seconds, letter."""
    for line in text.strip().splitlines()[1:]:
        name, *letters = line.split()
        modes = ("std", "pro") if len(letters) == 4 * len(features) else (None,)
        columns = itertools.product(features, modes, ("5", "10"))
        for (feature, mode, seconds), letter in zip(columns, letters, strict=True):
            yield name, feature, mode, seconds, letter


CELLS = [
    *table(FIRST, "start_end_frame", "end_frame", "motion_brush", "camera_control"),
    *table(SECOND, "sound", "voice_list", "multi_shot", "element_list", "cfg_scale"),
    *(
        ("kling-v3", feature, mode, str(seconds), letter)
        for feature, letter in V3.items()
        for mode in ("std", "pro", "4k")
        for seconds in range(3, 16)
    ),
]


def found(provider: Provider = KLING, /, **fields: Any) -> list[Finding]:
    """What the map says about an image2video."""
    usual: dict[str, Any] = {"image": A, "prompt": "p"}
    return MAP.findings(ImageToVideo(**usual | fields), provider)


def asked_of(provider: Provider = KLING, /, **fields: Any) -> list[Finding]:
    """What a client learns of an image2video whose pictures it does not read."""
    usual: dict[str, Any] = {"image": A, "prompt": "p"}
    return checking.findings(ImageToVideo(**usual | fields), provider, Resolved({}))


def of(findings: list[Finding], field: str) -> str | None:
    """The severity of what is told of a field, the worst if several; None if nothing is."""
    return min((each.severity for each in findings if each.field == field), default=None)


def told(**fields: Any) -> list[str]:
    """The findings as lines."""
    return [str(each) for each in found(**fields)]


def test_every_cell_says_what_the_reference_says():
    """Each model, mode, duration and feature is refused, doubted or taken as the reference has it."""
    for name, feature, mode, seconds, letter in CELLS:
        field, ask = ASKS[feature]
        findings = found(model_name=name, mode=mode, duration=seconds, **ask)
        assert of(findings, field) == SEVERITY[letter], (name, feature, mode, seconds)
    assert len(CELLS) == 9 * (6 * 4 + 2 * 2 + 3 * 13)


def test_what_is_left_out_is_std_and_5_seconds():
    """A request that names neither mode nor duration is held against the first column."""
    for name, feature, mode, seconds, letter in CELLS:
        if mode in ("std", None) and seconds == "5":
            field, ask = ASKS[feature]
            assert of(found(model_name=name, **ask), field) == SEVERITY[letter], (name, feature)


def test_every_combination_of_mode_and_duration():
    """Modes and durations are taken as the reference has them; only what a model lacks is told of."""
    for name, mode, seconds in itertools.product(KNOWN, (None, "std", "pro", "4k"), range(3, 16)):
        findings = found(model_name=name, mode=mode, duration=seconds)
        letters = dict(zip(("std", "pro", "4k"), MODES.get(name, "Y Y -").split(), strict=True))
        assert of(findings, "mode") == (SEVERITY[letters[mode]] if mode else None), (name, mode)
        in_time = name == "kling-v3" or seconds in (5, 10)
        assert of(findings, "duration") == (None if in_time else "error"), (name, seconds)
        assert {each.field for each in findings} <= {"model_name", "mode", "duration"}


def test_the_map_holds_these_models_alone():
    """The nine ids of image2video; those of other endpoints are there to be told where they belong."""
    assert [model.name for model in MAP.of("image2video")] == KNOWN
    assert [model.name for model in MAP.of("multi-image2video")] == ["kling-v1-6"]
    assert [model.name for model in MAP.of("text2video")] == [
        "kling-v1",
        "kling-v1-6",
        "kling-v2-master",
        "kling-v2-1-master",
        "kling-v2-5-turbo",
        "kling-v2-6",
        "kling-v3",
    ]
    assert [model.name for model in MAP.of("omni-video")] == ["kling-video-o1", "kling-v3-omni"]


def test_what_omni_models_take():
    """Section by section as the reference has them, though no request of this package reaches them."""
    taken = {
        "kling-video-o1": {"start_end_frame", "element_list"},
        "kling-v3-omni": {"start_end_frame", "sound", "multi_shot", "element_list"},
        "kling-3.0-turbo": {"sound"},
    }
    for name, features in taken.items():
        model = MAP.models[name]
        assert {feature for feature, cell in model.cells.items() if cell.letters["", ""] == "Y"} == features
    assert MAP.models["kling-video-o1"].modes == MAP.models["kling-3.0-turbo"].modes == ("std", "pro")
    assert MAP.models["kling-v3-omni"].modes == ("std", "pro", "4k")
    assert MAP.models["kling-video-o1"].durations == tuple(map(str, range(3, 11)))
    assert MAP.models["kling-v3-omni"].durations == tuple(map(str, range(3, 16)))


@pytest.mark.parametrize("name", ["kling-video-o1", "kling-v3-omni", "kling-3.0-turbo"])
@pytest.mark.parametrize("provider", [KLING, COMETAPI])
def test_models_of_other_endpoints_are_refused(name, provider):
    """Their ids are documented elsewhere: here they are refused, and nothing else is told."""
    for asked in (
        ImageToVideo(model_name=name, image=A, image_tail=B, prompt="p", duration=10, cfg_scale=1),
        MultiImageToVideo(model_name=name, image_list=[A, B], prompt="p", duration=10),
    ):
        (finding,) = MAP.findings(asked, provider)
        assert (finding.field, finding.severity) == ("model_name", "error")
        assert "does not speak" in finding.message


SOURCES = {
    ("kling-v1", "camera_control"): "capability map of image2video, November 2026",
    ("kling-v2-1", "start_end_frame"): "2025-09-05",
    ("kling-v2-5-turbo", "mode"): "2025-11-11",
    ("kling-v2-5-turbo", "start_end_frame"): "2025-11-17",
    ("kling-v2-6", "sound"): "2025-12-15",
    ("kling-v2-6", "voice_list"): "2025-12-16",
    ("kling-v2-6", "cfg_scale"): "image2video: create, November 2026",
    ("kling-v3", "mode"): "2026-04-23",
    ("kling-v3", "cfg_scale"): "image2video: create, November 2026",
}
"""Where cells stand, as the reference dates them; all others stand in the map."""


def test_every_cell_stands_where_the_reference_has_it():
    """A cell that changed on a day names the day; the rest names the map, or the field table."""
    for model in MAP.of("image2video"):
        for name, cell in {"mode": model.mode, **model.cells}.items():
            usual = "create" if name == "cfg_scale" else "capability map"
            assert SOURCES.get((model.name, name), usual) in cell.source, (model.name, name)
    retired = {model.name: model.retired_source for model in MAP.models.values() if model.retired}
    assert "2026-09-20" in retired.pop("kling-v1")
    assert "2026-09-15" in retired.pop("kling-v2-1")
    assert "2026-09-15" in retired.pop("kling-v2-1-master")
    assert {source.partition(",")[2] for source in retired.values()} == {" open uncertainties, November 2026"}


def test_a_silent_video_is_not_asked_for_a_voice():
    """Where the end frame makes the video silent, the voices go, and nobody is told to turn the sound on."""
    asked = {"model_name": "kling-v2-6", "mode": "pro", "image_tail": B, "voice_list": ["a"]}
    assert told(**asked) == [
        "voice_list: must be left out where kling-v2-6 is given image_tail: that video is silent"
    ]
    both = told(**asked, sound="on")
    assert [line.partition(":")[0] for line in both] == ["sound", "voice_list"]


def test_extra_body_gives_what_prompts_refer_to():
    """What stands there is not judged, and neither is what refers to it."""
    spoken = {"prompt": "<<<voice_1>>> sings", "model_name": "kling-v2-6", "mode": "pro", "sound": "on"}
    assert [line.partition(":")[0] for line in told(**spoken)] == ["prompt"]
    assert told(**spoken, extra_body={"voice_list": [{"voice_id": "a"}]}) == []
    shown = {"prompt": "<<<element_1>>> runs", "model_name": "kling-v3"}
    assert told(**shown, extra_body={"element_list": [{"element_id": 1}]}) == []


def test_a_reference_that_the_model_cannot_have_is_taken_out():
    """Nobody is told to give a list that is refused next."""
    (line,) = told(prompt="<<<voice_1>>> sings", model_name="kling-v2-5-turbo")
    assert line == "prompt: refers to <<<voice_1>>>, and kling-v2-5-turbo takes no voice_list: take it out"


def test_what_extra_body_replaces_is_not_judged():
    """However deep in the field, and whether a picture or a word; the model is not hidden by a mode."""
    moved = ASKS["camera_control"][1] | {"camera_control": CameraControl("down_back")}
    asked = {"model_name": "kling-v1-5", "mode": "pro", **moved}
    assert [each.field for each in asked_of(**asked)] == ["model_name", "camera_control.type"]
    assert [each.field for each in asked_of(**asked, extra_body={"camera_control": {}})] == ["model_name"]
    omni = asked_of(model_name="kling-v3-omni", extra_body={"mode": "pro"})
    assert [(each.field, each.severity) for each in omni] == [("model_name", "error")]
    assert asked_of(model_name="kling-v3-omni", extra_body={"model_name": "kling-v3"}) == []


def test_what_a_provider_drops_it_drops_from_extra_body_too():
    """The way around the map is none around the gateway: what would come out wrong is told."""
    asked = {"model_name": "kling-v3", "extra_body": {"element_list": [{"element_id": 1}], "seed": 1}}
    (finding,) = asked_of(EZMODEL, **asked)
    assert (finding.field, finding.severity) == ("element_list", "warning")
    assert "is dropped by ezmodel" in finding.message
    assert "gateways reference" in finding.source
    assert asked_of(KLING, **asked) == []


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("kling-3.0", "kling-v3"),
        ("kling-2.6", "kling-v2-6"),
        ("kling-2.5-turbo", "kling-v2-5-turbo"),
        ("kling-3.0-omni", "kling-v3-omni"),
        ("kling-o1", "kling-video-o1"),
    ],
)
def test_the_new_api_s_names_are_known(name, ours):
    """Whoever read its pages is told what the model is called here, or that it cannot be had here."""
    (finding,) = found(model_name=name)
    assert (finding.field, finding.severity) == ("model_name", "warning")
    assert f"what Kling's new API calls {ours}" in finding.message
    assert ("give that name" in finding.message) == (ours in KNOWN)
    assert "new-generation API" in finding.source


def longest(field: str, most: int) -> object:
    """A request with a text of *most* characters, or a list of as many entries."""
    fields: dict[str, Any] = {"image": A, "prompt": "p"}
    shots: dict[str, Any] = {"image": A, "multi_shot": True, "shot_type": "customize", "duration": 6}
    mask = ASKS["motion_brush"][1]["dynamic_masks"][0]
    entries = {"dynamic_masks": mask, "element_list": 1, "voice_list": "v"}
    match field:
        case "image_list":
            return MultiImageToVideo(image_list=[A] * most, prompt="p")
        case "prompt" | "negative_prompt":
            fields[field] = "x" * most
        case "multi_prompt.prompt":
            fields = shots | {"multi_prompt": [Shot(prompt="x" * most, duration=6)]}
        case "multi_prompt":
            fields = shots | {field: [Shot(prompt="p", duration=1)] * most, "duration": most}
        case "dynamic_masks.trajectories":
            fields["dynamic_masks"] = [DynamicMask(B, [Point(0, 0)] * most)]
        case _:
            fields[field] = [entries[field]] * most
    return ImageToVideo(**fields)


LIMITS = [(field, most) for kind in ("characters", "entries") for field, most in MAP.limits[kind].items()]


@pytest.mark.parametrize(("field", "most"), LIMITS)
def test_the_limits_of_the_map_are_those_of_the_models(field, most):
    """A text or list as long as the map says can be made, and one longer cannot."""
    assert longest(field, most)
    with pytest.raises(RequestError, match=rf"{field.partition('.')[0]}.*{most}"):
        longest(field, most + 1)


def test_extra_body_silences_no_provider():
    """What CometAPI documents of other fields is told whatever the body has beside them."""
    long = ImageToVideo(image=A, prompt="p" * 501, extra_body={"mode": "pro"})
    assert [each.field for each in MAP.findings(long, COMETAPI)] == ["prompt"]


def test_a_prompt_that_is_ignored_is_doubted():
    """With customized shots Kling reads their prompts alone."""
    shots = {"multi_shot": True, "shot_type": "customize", "multi_prompt": [Shot(prompt="a", duration=5)]}
    assert told(model_name="kling-v3", prompt=None, **shots) == []
    (line,) = told(model_name="kling-v3", prompt="p", **shots)
    assert line.startswith("prompt: is ignored where the shots are customized")
    intelligent = shots | {"shot_type": "intelligence"}  # where the prompt is read, and the shots are not
    (line,) = told(model_name="kling-v3", prompt="p", **intelligent)
    assert line.startswith("multi_prompt: is read with shot_type customize alone")


def test_remedies_are_of_the_endpoint():
    """multi-image2video has one model, so no other is named."""
    asked = MultiImageToVideo(image_list=[A, B], prompt="p", mode="4k", duration=7)
    assert [str(each) for each in MAP.findings(asked, KLING)] == [
        "mode: must be std or pro with multi-image2video",
        "duration: must be 5 or 10 with multi-image2video",
    ]


@pytest.mark.parametrize("name", KNOWN)
def test_multi_image_to_video_has_modes_and_durations_of_its_own(name):
    """They are rules of the endpoint, whatever the model takes for one picture, and stand where its do."""
    for mode, seconds in itertools.product((None, "std", "pro", "4k"), range(3, 16)):
        findings = multi(model_name=name, mode=mode, duration=seconds)
        assert of(findings, "mode") == ("error" if mode == "4k" else None)
        assert of(findings, "duration") == (None if seconds in (5, 10) else "error")
        assert all("multi-image2video: create" in each.source for each in findings)


def test_what_is_doubted_elsewhere_is_named():
    """A refusal that one mode might escape says so."""
    (_, line) = told(model_name="kling-v1-5", **ASKS["motion_brush"][1])
    assert line == "dynamic_masks: is not taken by kling-v1-5, but perhaps with mode pro, duration 5"


def test_every_cell_has_a_source_with_a_date():
    """Whatever is told names where it stands and of when that is."""
    for model in MAP.models.values():
        for cell in (model.mode, *model.cells.values()):
            assert "202" in cell.source
            assert cell.note or "?" not in cell.letters.values(), f"{model.name}: a doubt without a reason"


def test_only_models_that_are_gone_are_doubted_as_such():
    """Discontinued and reportedly retired models are a warning that names those to take."""
    for name in KNOWN:
        assert of(found(model_name=name), "model_name") == ("warning" if name in RETIRED else None)
    assert told(model_name="kling-v1") == [
        "model_name: is discontinued: take kling-v2-5-turbo, kling-v2-6 or kling-v3"
    ]
    assert found(model_name="kling-v1")[0].source == "a call to the API, measured 2026-09-20"


REMEDIES = [
    ({"image_tail": B}, "image_tail: needs mode pro with kling-v2-6"),
    (
        {"image_tail": B, "mode": "pro", "sound": True},
        "sound: must be off where kling-v2-6 is given image_tail",
    ),
    (
        {"image": None, "image_tail": B},
        "image_tail: alone is not taken by kling-v2-6: give image too, which needs mode pro with kling-v2-6",
    ),
    (
        {"image": None, "image_tail": B, "mode": "pro"},
        "image_tail: alone is not taken by kling-v2-6: give image too",
    ),
    ({"sound": True}, "sound: needs mode pro with kling-v2-6"),
    ({"duration": 7}, "duration: must be 5 or 10 with kling-v2-6; kling-v3 takes it"),
    ({"mode": "4k"}, "mode: must be std or pro with kling-v2-6; kling-v3 takes it"),
    ({"element_list": [1]}, "element_list: is not taken by kling-v2-6; kling-v3 takes it"),
    (
        {"cfg_scale": 0.5},
        (
            "cfg_scale: is not taken by kling-v2-6"
            "; only kling-v1, kling-v1-5 or kling-v1-6 took it: leave it out"
        ),
    ),
    (
        {"model_name": "kling-v1-5", "duration": 10, **ASKS["camera_control"][1]},
        "camera_control: needs mode pro, duration 5 with kling-v1-5",
    ),
    (
        {"model_name": "kling-v1", "duration": 10, "image_tail": B},
        "image_tail: needs duration 5 with kling-v1",
    ),
    (
        {"model_name": "kling-v1-6", "element_list": [1]},
        "element_list: is not taken by kling-v1-6: several pictures go to multi-image2video",
    ),
    (
        {"model_name": "kling-v2-1-master", "mode": "std"},
        "mode: must be left out with kling-v2-1-master; kling-v2-5-turbo, kling-v2-6 or kling-v3 takes it",
    ),
    (
        {"model_name": "kling-v3", "cfg_scale": 0.5},
        (
            "cfg_scale: may be refused or ignored by kling-v3: "
            "one page names kling-v1 models alone; the field is accepted"
        ),
    ),
    (
        {"static_mask": B, "model_name": "kling-v2-5-turbo"},
        "static_mask: is not taken by kling-v2-5-turbo; only kling-v1 took it: leave it out",
    ),
    (
        {"model_name": "kling-v2-master", "image": None, "image_tail": B},
        "image_tail: is not taken by kling-v2-master: give the picture as image",
    ),
    ({"sound": "loud"}, "sound: is 'loud', a word that no documentation knows: give on or off"),
    (
        {"prompt": "<<<image_2>>> enters"},
        "prompt: refers to <<<image_2>>>, and 1 picture is given: take it out",
    ),
    (
        {"prompt": "<<<element_2>>>", "element_list": [1], "model_name": "kling-v3"},
        "prompt: refers to <<<element_2>>>, and element_list has 1 entry: give it, or take it out",
    ),
]


@pytest.mark.parametrize(("fields", "line"), REMEDIES, ids=lambda each: each if isinstance(each, str) else "")
def test_a_finding_says_what_to_do(fields, line):
    """The clause names the remedy: another mode, duration, field or model."""
    assert [each for each in told(**fields) if not each.startswith("model_name")] == [line]


def test_voices_and_sound_exclude_an_end_frame():
    """kling-v2-6 makes a silent video of two frames: sound and voices are refused beside them."""
    findings = found(mode="pro", image_tail=B, sound=True, voice_list=["v"])
    assert [(each.field, each.severity) for each in findings] == [("sound", "error"), ("voice_list", "error")]
    assert found(mode="pro", image_tail=B, sound=False) == []


def test_a_voice_needs_sound():
    """Voices, and what the prompt says of them, are refused while the sound is off."""
    for sound in (None, "off"):
        assert of(found(mode="pro", voice_list=["v"], sound=sound), "sound") == "error"
    assert of(found(model_name="kling-v3", voice_list=["v"], prompt="<<<voice_1>>>"), "sound") == "error"
    assert found(mode="pro", voice_list=["v"], sound=True, prompt="<<<voice_1>>>: hello") == []
    # a model without voices is not told to turn on a sound that it lacks
    assert of(found(model_name="kling-v2-5-turbo", voice_list=["v"]), "sound") is None
    # a word nobody knows may be tomorrow's for "on"
    assert of(found(mode="pro", voice_list=["v"], sound="loud"), "sound") == "warning"


@pytest.mark.parametrize("name", ["voice", "element"])
def test_references_point_into_their_list(name):
    """A prompt, or a shot's, that refers beyond its list is refused; counted from 1."""
    lists = {"element_list": [1, 2]} if name == "element" else {"voice_list": ["a", "b"], "sound": "on"}
    fields: dict[str, Any] = {"model_name": "kling-v3", **lists}
    for number, severity in ((0, "error"), (1, None), (2, None), (3, "error"), (9999, "error")):
        prompt = f"x <<<{name}_{number}>>> y"
        assert of(found(**fields, prompt=prompt), "prompt") == severity
        shots = [Shot(prompt="first", duration=2), Shot(prompt=prompt, duration=3)]
        customized = found(**fields, prompt=None, multi_shot=True, shot_type="customize", multi_prompt=shots)
        assert of(customized, "multi_prompt[1].prompt") == severity
    assert of(found(model_name="kling-v3", sound=True, prompt=f"<<<{name}_1>>>"), "prompt") == "error"
    assert of(found(**fields, prompt=f"<<<{name}_x>>> << <{name}_7> >>>"), "prompt") is None


def test_elements_beside_voices_are_doubted():
    """The pages forbid what one sample does."""
    both = found(model_name="kling-v3", sound=True, element_list=[1], voice_list=["v"])
    assert [(each.field, each.severity) for each in both] == [
        ("voice_list", "warning"),
        ("element_list", "warning"),
    ]


UNKNOWN_WORDS: list[tuple[str, dict[str, Any]]] = [
    ("mode", {"mode": "ultra"}),
    ("sound", {"sound": "loud"}),
    ("shot_type", {"multi_shot": True, "shot_type": "improvise"}),
    ("aspect_ratio", {"aspect_ratio": "4:3"}),
    ("camera_control.type", {"camera_control": CameraControl("spin")}),
]


@pytest.mark.parametrize(
    ("field", "fields"), UNKNOWN_WORDS, ids=lambda each: each if isinstance(each, str) else ""
)
@pytest.mark.parametrize("name", KNOWN)
def test_a_word_nobody_knows_is_doubted(name, field, fields):
    """Tomorrow's words are never refused, whatever the model."""
    assert of(found(model_name=name, **fields), field) == "warning"


def test_only_simple_where_only_simple_is_taken():
    """kling-v1-5 moves its camera in the simple way alone; a movement that nobody knows is doubted there."""
    pro5 = {"model_name": "kling-v1-5", "mode": "pro"}
    for movement in ("down_back", "forward_up", "right_turn_forward", "left_turn_forward"):
        findings = found(**pro5, camera_control=CameraControl(movement))
        assert of(findings, "camera_control.type") == "error"
        assert of(findings, "camera_control") is None
    assert of(found(**pro5, camera_control=CameraControl("spin")), "camera_control.type") == "warning"
    assert of(found(**pro5, **ASKS["camera_control"][1]), "camera_control.type") is None


def test_both_masks_are_told_of():
    """A static and a dynamic mask ask for the same brush, and each is named."""
    masks = ASKS["motion_brush"][1] | {"static_mask": B}
    assert [each.field for each in found(**masks)] == ["static_mask", "dynamic_masks"]


def multi(provider: Provider = KLING, /, **fields: Any) -> list[Finding]:
    """What the map says about a multi-image2video."""
    usual: dict[str, Any] = {"image_list": [A, B], "prompt": "p"}
    return MAP.findings(MultiImageToVideo(**usual | fields), provider)


def test_multi_image_to_video():
    """kling-v1-6 is what one can give; other models of the map are doubted, unknown ones are not judged."""
    assert multi() == []
    assert multi(model_name="kling-v9") == []
    for name in KNOWN:
        assert of(multi(model_name=name), "model_name") == (None if name == "kling-v1-6" else "warning")
    for mode, severity in (("std", None), ("pro", None), ("4k", "error"), ("ultra", "warning")):
        assert of(multi(mode=mode), "mode") == severity
    for seconds in range(3, 16):
        assert of(multi(duration=seconds), "duration") == (None if seconds in (5, 10) else "error")
    for ratio, severity in (("16:9", None), ("9:16", None), ("1:1", None), ("4:3", "warning")):
        assert of(multi(aspect_ratio=ratio), "aspect_ratio") == severity


def test_kling_has_no_aspect_ratio_for_one_picture():
    """The field is doubted wherever there is a Kling at the end."""
    for provider in (KLING, KLING_CN, KLING.at("https://proxy.example.org"), EZMODEL):
        assert of(found(provider, aspect_ratio="16:9"), "aspect_ratio") == "warning"


COMET_DOUBTS: list[tuple[str, dict[str, Any]]] = [
    ("aspect_ratio", {"aspect_ratio": "16:9"}),
    ("camera_control", ASKS["camera_control"][1]),
    ("multi_shot", ASKS["multi_shot"][1]),
    ("element_list", ASKS["element_list"][1]),
    ("voice_list", ASKS["voice_list"][1]),
    ("watermark_info", {"watermark_info": True}),
    ("mode", {"mode": "4k"}),
    ("duration", {"duration": 7}),
    ("prompt", {"prompt": "x" * 501}),
    ("negative_prompt", {"negative_prompt": "x" * 201}),
    ("image", {"image": None, "image_tail": B}),
]


@pytest.mark.parametrize(
    ("field", "fields"), COMET_DOUBTS, ids=lambda each: each if isinstance(each, str) else ""
)
def test_cometapi_doubts_what_it_does_not_document(field, fields):
    """Whatever the model, known or not: a warning, as Kling may well take it."""
    for name in ("kling-v9", "kling-v3"):
        findings = found(COMETAPI, model_name=name, **fields)
        assert (field, "warning") in [(each.field, each.severity) for each in findings]


def test_cometapi_takes_what_it_documents():
    """Nothing is said of the documented fields, and of what is given but says nothing."""
    given: dict[str, Any] = {
        "mode": "pro",
        "duration": 10,
        "sound": True,
        "prompt": "x" * 500,
        "negative_prompt": "x" * 200,
    }
    assert found(COMETAPI, **given) == []
    assert found(COMETAPI, watermark_info=False, multi_shot=False) == []
    assert multi(COMETAPI, duration=5) == []
    assert [str(each) for each in multi(COMETAPI, image_list=[A])] == [
        "duration: is required by cometapi: give it",
        "image_list: has 1 entry, cometapi documents at least 2: give more",
    ]


@pytest.mark.parametrize(
    "provider", [EZMODEL, new_api("https://relay.example.org")], ids=lambda each: each.name
)
def test_new_api_reads_sound_in_later_versions_alone(provider):
    """Sound and watermark are doubted by name; off is what comes out anyway."""
    fields: dict[str, Any] = {"mode": "pro", "sound": True, "watermark_info": True}
    assert [str(each) for each in found(provider, **fields)] == [
        f"{field}: is read by later versions of {provider.name} alone: it may be dropped"
        for field in ("sound", "watermark_info")
    ]
    assert found(provider, sound=False, watermark_info=False) == []


ANY_FIELDS = st.fixed_dictionaries(
    {"mode": st.sampled_from([None, "std", "pro", "4k", "ultra"]), "duration": st.integers(3, 15)},
    optional={
        "sound": st.sampled_from(["on", "off", "loud"]),
        "cfg_scale": st.floats(0, 1),
        "element_list": st.just([1]),
        "voice_list": st.just(["v"]),
        "image_tail": st.just(B),
        "prompt": st.sampled_from(["p", "<<<voice_1>>>", "<<<element_7>>>"]),
    },
)


@given(name=st.text(min_size=1), fields=ANY_FIELDS)
def test_a_model_nobody_knows_is_not_judged(name, fields):
    """Law: a model that is not in the map has no finding of it."""
    if name not in KNOWN:
        assert found(model_name=name, **fields) == []


@given(name=st.sampled_from(KNOWN), fields=ANY_FIELDS)
def test_findings_are_told_once_and_in_full(name, fields):
    """Law: whatever is asked, no finding is told twice, and each has a clause and a dated source."""
    findings = found(model_name=name, **fields)
    assert len(set(findings)) == len(findings)
    assert all(each.message and "202" in each.source for each in findings)


@given(name=st.sampled_from(KNOWN), fields=ANY_FIELDS)
def test_extra_body_is_the_way_around_the_map(name, fields):
    """Law: what the map goes by, set in extra_body, silences it; another field changes nothing."""
    for field in ("model", "model_name"):
        assert found(model_name=name, extra_body={field: "x"}, **fields) == []
    of_the_model = found(model_name=name)
    for field in ("mode", "duration", "sound"):
        assert found(model_name=name, extra_body={field: "x"}, **fields) == of_the_model
    assert found(model_name=name, extra_body={"tomorrow": 1}, **fields) == found(model_name=name, **fields)


@pytest.mark.parametrize(
    "change",
    [
        {"start_end_frame": "Y -"},
        {"start_end_frame": "Y - Y - Y"},
        {"start_end_frame": "x"},
        {"source": "hearsay"},
    ],
)
def test_a_malformed_map_is_an_error(change):
    """A cell of the wrong length, a letter without a meaning or a source without a text is noticed."""
    cells = dict.fromkeys(FEATURES, "-")
    data = {"source": "map", "mode": "Y Y -", "durations": [5, 10], "resolutions": ["720p", "1080p"], **cells}
    assert Model.from_mapping("m", data, {"map": "2026"}).modes == ("std", "pro")
    with pytest.raises((ValueError, KeyError)):
        Model.from_mapping("m", data | change, {"map": "2026"})


def test_another_map_may_be_held_against_a_request():
    """The rules are data: a map of one model has its own durations, and names no other model as a remedy."""
    cells = dict.fromkeys(FEATURES, "-") | {"start_end_frame": "- Y - - - - - s"}
    model = {"source": "create", "mode": "Y Y -", "resolutions": ["720p", "1080p"], **cells}
    models = {
        "m": model | {"durations": [3, 4, 5, 6]},
        "n": model | {"durations": [3, 4, 5, 10], "start_end_frame": "-"},
    }
    one = Capabilities.from_mapping(
        {
            "sources": {"create": "a page of 2026"},
            "words": {},
            "models": models,
            "multi-image2video": {"source": "create", "mode": "Y Y -", "durations": [5, 10]},
            "renamed": {"source": "create", "names": {}},
            "limits": {"source": "create"},
            "text2video": {"source": "create"},
            "providers": {},
        }
    )

    def said(**fields: Any) -> list[str]:
        return [str(each) for each in one.findings(ImageToVideo(image=A, prompt="p", **fields), KLING)]

    assert said(model_name="m", duration=7, mode="4k", cfg_scale=0.5) == [
        "mode: must be std or pro with m",
        "duration: must be 3 to 6 with m",
        "cfg_scale: is not taken by m",
    ]
    assert said(model_name="n", duration=12) == ["duration: must be 3, 4, 5 or 10 with n"]
    assert said(model_name="m", image_tail=B, duration=5) == ["image_tail: needs duration 4 with m"]
    # of a duration that is not in the map the best is assumed: only that is told
    assert said(model_name="m", image_tail=B, duration=9) == ["duration: must be 3 to 6 with m"]


def test_a_finding_of_the_whole_request_has_no_field():
    """Its clause stands alone."""
    assert str(Finding("", "error", "ezmodel has no multi-image2video")) == "ezmodel has no multi-image2video"
