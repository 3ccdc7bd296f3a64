"""A request checked before it is paid: map, pictures and provider together."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from kling_async.bodies import Resolved, resolve
from kling_async.checking import capabilities, check, findings
from kling_async.protocol.models import DynamicMask, ImageToVideo, MultiImageToVideo, Point
from kling_async.protocol.providers import COMETAPI, EZMODEL, KLING

A, B = "https://cdn.example.org/a.png", "https://cdn.example.org/b.png"


def picture(width: int, height: int) -> bytes:
    """A PNG that has a header of this size, and an end."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    head = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return head + b"\0\0\0\0IEND\xaeB`\x82"


def request(**fields: Any) -> ImageToVideo:
    """An image2video of a model that takes masks."""
    usual: dict[str, Any] = {"model_name": "kling-v1", "image": picture(400, 300), "prompt": "p"}
    return ImageToVideo(**usual | fields)


def mask(width: int, height: int, *points: tuple[int, int]) -> DynamicMask:
    """A mask of some size that moves over *points*."""
    return DynamicMask(picture(width, height), [Point(x, y) for x, y in points or ((0, 0), (1, 1))])


def told(request: ImageToVideo | MultiImageToVideo, provider=KLING) -> list[tuple[str, str]]:
    """The findings, field and severity, without those about the model."""
    found = check(request, provider)
    return [(each.field, each.severity) for each in found if each.field != "model_name"]


def test_nothing_is_known_against_a_good_request():
    """An empty list: it may be submitted."""
    assert check(ImageToVideo(image=A, prompt="p")) == []
    assert check(ImageToVideo(image=picture(400, 300), prompt="p", mode="pro", sound=True)) == []


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path):
    """Pictures, what the provider lacks and the map: one list, errors and warnings."""
    (tmp_path / "a.png").write_bytes(picture(200, 300))
    (tmp_path / "b.png").write_bytes(picture(1000, 300))
    wrong = ImageToVideo(
        image=tmp_path / "a.png", image_tail=B, element_list=[1], prompt="p", mode="4k", watermark_info=True
    )
    assert told(wrong, EZMODEL) == [
        ("image", "error"),
        ("element_list", "error"),
        ("mode", "error"),
        ("element_list", "error"),
        ("watermark_info", "warning"),
    ]
    doubtful = ImageToVideo(image=A, image_tail=tmp_path / "b.png", prompt="p", mode="pro")
    (warning,) = check(doubtful)
    assert (warning.field, warning.severity) == ("image_tail", "warning")
    assert warning.message.endswith("the aspect ratio must be from 1:2.5 to 2.5:1")


def test_every_error_names_its_source():
    """Also what the provider lacks, whose problems have none of their own."""
    found = check(ImageToVideo(image="nowhere.png", element_list=[1], prompt="p", duration=7), EZMODEL)
    assert len(found) == 4
    assert all(each.source for each in found)


@pytest.mark.parametrize("image", ["ftp://host/a.png", "nowhere.png", b"hello"])
def test_a_bad_picture_does_not_hide_what_the_provider_drops(image):
    """A second picture that is no URL is told of although the first cannot be read."""
    found = check(ImageToVideo(image=image, image_tail=picture(400, 300), prompt="p", mode="pro"), EZMODEL)
    assert [(each.field, each.severity) for each in found] == [("image", "error"), ("image_tail", "error")]
    assert "must be a URL" in found[1].message
    (only,) = check(ImageToVideo(image=image, image_tail=B, prompt="p", mode="pro"), EZMODEL)
    assert only.field == "image"


def test_an_endpoint_that_a_provider_lacks_is_all_that_is_told():
    """The whole request is refused, so its fields do not matter; what is wrong with its pictures is told."""
    several = MultiImageToVideo(image_list=[A, b"hello"], prompt="p", mode="4k")
    assert told(several, EZMODEL) == [("image_list[1]", "error"), ("", "error")]
    assert check(several, EZMODEL)[1].message == "ezmodel has no multi-image2video"
    assert told(MultiImageToVideo(image_list=[A, B], prompt="p", duration=5), COMETAPI) == []


MASKS = [
    ((400, 300), None),
    ((800, 600), None),
    ((40, 30), None),
    ((533, 400), "warning"),  # rounded from 533.3
    ((401, 300), "warning"),  # rounded up and down
    ((402, 300), "error"),
    ((800, 601), "error"),
    ((300, 400), "error"),
    ((300, 300), "error"),
]


@pytest.mark.parametrize(("size", "severity"), MASKS)
def test_a_mask_has_the_pictures_aspect_ratio(size, severity):
    """Another one is refused; what a rounding explains is doubted."""
    expected = [] if severity is None else [severity]
    static = told(request(static_mask=picture(*size)))
    assert static == [("static_mask", each) for each in expected]
    dynamic = told(request(dynamic_masks=[mask(400, 300), DynamicMask(A, [Point(0, 0), Point(1, 1)])]))
    assert dynamic == []
    assert told(request(dynamic_masks=[mask(*size)])) == [
        ("dynamic_masks[0].mask", each) for each in expected
    ]


def test_masks_are_of_one_resolution():
    """Each that differs from the first is refused, though its aspect ratio is right."""
    found = told(
        request(static_mask=picture(400, 300), dynamic_masks=[mask(400, 300), mask(800, 600), mask(40, 30)])
    )
    assert found == [("dynamic_masks[1].mask", "error"), ("dynamic_masks[2].mask", "error")]
    # also where the picture itself is a URL, whose size nobody knows
    unseen = request(image=A, static_mask=picture(400, 300), dynamic_masks=[mask(800, 600)])
    assert told(unseen) == [("dynamic_masks[0].mask", "error")]


POINTS = [
    ((0, 0), None),
    ((399, 299), None),
    ((400, 299), "error"),
    ((399, 300), "error"),
    ((299, 399), "error"),
]


@pytest.mark.parametrize(("point", "severity"), POINTS)
def test_trajectories_stay_inside_the_picture(point, severity):
    """Both coordinates count from 0 at the bottom left; the first point outside is named."""
    found = told(request(dynamic_masks=[mask(400, 300, (5, 5), point, (9999, 0))]))
    first = ("dynamic_masks[0].trajectories[2]", "error")
    assert found == [first if severity is None else ("dynamic_masks[0].trajectories[1]", severity)]
    inside = told(request(dynamic_masks=[mask(400, 300, (5, 5), (6, 6))]))
    assert inside == []


@pytest.mark.parametrize(("orientation", "turned"), [(1, False), (2, True), (3, True), (6, True), (8, True)])
def test_a_turned_picture_is_doubted(orientation, turned):
    """Whether Kling turns a picture by its EXIF is not known, so nothing is sure of masks drawn for it."""
    exif, written = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.new("RGB", (400, 300)).save(written, "JPEG", exif=exif)
    for size in ((400, 300), (300, 400)):
        found = told(request(image=written.getvalue(), static_mask=picture(*size)))
        fits = [] if size == (400, 300) else [("static_mask", "error")]
        assert found == ([("image", "warning")] if turned else fits)


def test_sizes_of_pictures_are_read_once():
    """`findings` reads nothing: what was resolved tells the sizes; a URL has none."""
    wrong = request(static_mask=picture(300, 300), dynamic_masks=[DynamicMask(A, [Point(0, 0), Point(1, 1)])])
    resolved = resolve(wrong)
    assert resolved.sizes == {"image": (400, 300), "static_mask": (300, 300)}
    assert [each.field for each in findings(wrong, KLING, resolved)] == ["model_name", "static_mask"]
    assert [each.field for each in findings(wrong, KLING, Resolved({}))] == ["model_name"]


def test_masks_of_a_model_nobody_knows_are_measured_too():
    """That a mask fits its picture is a matter of shape and not of the map."""
    unknown = request(model_name="kling-v9", static_mask=picture(300, 300))
    assert told(unknown) == [("static_mask", "error")]


def test_the_map_is_read_once():
    """Every call is given the same value."""
    assert capabilities() is capabilities()
