"""The rendered videos, judged by what a player would decode."""

import io
import itertools
import re
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from typing import Any

import av
import pytest
from PIL import Image, ImageChops, ImageOps, ImageStat

from kling_async.simulator.video import render

PHOTOS = files("kling_async") / "photos"
CAT, COFFEE, ROCKET, ASTRONAUT = (
    (PHOTOS / name).read_bytes() for name in ("cat.png", "coffee.jpg", "rocket.jpg", "astronaut.jpg")
)
CLOSE, FAR = 5, 12  # levels of 255: less from a picture to its compressed self, more to another picture
AXES = ("horizontal", "vertical", "pan", "tilt", "roll", "zoom")
TYPES = ("down_back", "forward_up", "right_turn_forward", "left_turn_forward")


def simple(axis: str, value: float) -> dict[str, Any]:
    """A camera movement along one axis, the others being sent as 0."""
    return {"type": "simple", "config": {**dict.fromkeys(AXES, 0), axis: value}}


MOVEMENTS = [
    None,
    *(simple(axis, value) for axis in AXES for value in (-10, 3, 10)),
    *({"type": name} for name in TYPES),
]


def short(*images: bytes | None, **options: Any) -> list[Image.Image]:
    """The frames of a small video of one second."""
    small: dict[str, Any] = {"seconds": 1, "long_side": 160, "fps": 12}
    return frames(render(images, **(small | options)))


def frames(video: bytes) -> list[Image.Image]:
    """All frames, decoded."""
    with av.open(io.BytesIO(video), "r") as container:
        return [frame.to_image() for frame in container.decode(video=0)]


def png(image: Image.Image, **options: Any) -> bytes:
    """The picture as a PNG file."""
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def plain(colour: str, width: int = 480, height: int = 300) -> bytes:
    """A picture of one colour."""
    return png(Image.new("RGB", (width, height), colour))


def apart(one: Image.Image, other: Image.Image) -> float:
    """Mean absolute difference of two pictures, 0 to 255, at half size since yuv420p has half as much colour.

    The second is cropped to cover the first.
    """
    other = ImageOps.fit(other.convert("RGB"), one.size, Image.Resampling.BICUBIC)
    return sum(ImageStat.Stat(ImageChops.difference(one.reduce(2), other.reduce(2))).mean) / 3


def opened(data: bytes) -> Image.Image:
    """The file decoded."""
    return Image.open(io.BytesIO(data)).convert("RGB")


def seen(frame: Image.Image, data: bytes) -> tuple[float, float, float]:
    """Which upright part of the picture the frame is most like: its middle, and its width, all as shares."""
    picture = ImageOps.fit(opened(data), frame.size).convert("L")
    small = frame.convert("L").resize((24, 24))

    def unlike(part: tuple[float, float, float]) -> float:
        x, y, half = part[0] * frame.width, part[1] * frame.height, part[2] / 2
        box = (
            x - half * frame.width,
            y - half * frame.height,
            x + half * frame.width,
            y + half * frame.height,
        )
        crop = picture.resize(small.size, Image.Resampling.BILINEAR, box)
        return ImageStat.Stat(ImageChops.difference(crop, small)).mean[0]

    steps = [step / 40 for step in range(41)]
    return min(
        (
            (x, y, width)
            for width in steps[20:]
            for x, y in itertools.product(steps, steps)
            if max(abs(x - 0.5), abs(y - 0.5)) <= (1 - width) / 2 + 1e-9
        ),
        key=unlike,
    )


@pytest.mark.parametrize("seconds", [3, 5, 10])
def test_file(seconds: int) -> None:
    """The file is an H.264 MP4 in yuv420p of the duration asked for, its index before its frames."""
    video = render([CAT], seconds=seconds, long_side=160)
    with av.open(io.BytesIO(video), "r") as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert container.duration == pytest.approx(seconds * av.time_base, abs=0.1 * av.time_base)
        assert sum(1 for _ in container.decode(stream)) == seconds * 24
    assert 0 < video.index(b"moov") < video.index(b"mdat")


@pytest.mark.parametrize("size", [(451, 300), (300, 451), (512, 512), (750, 300), (300, 750)])
def test_shape_of_picture(size: tuple[int, int]) -> None:
    """The video has the picture's aspect ratio within 2 %, even sides, and the long side asked for."""
    frame = short(plain("teal", *size))[0]
    assert frame.width / frame.height == pytest.approx(size[0] / size[1], rel=0.02)
    assert frame.width % 2 == frame.height % 2 == 0
    assert max(frame.size) == 160


@pytest.mark.parametrize(
    ("aspect_ratio", "size"), [("16:9", (160, 90)), ("9:16", (90, 160)), ("1:1", (160, 160))]
)
def test_shape_asked_for(aspect_ratio: str, size: tuple[int, int]) -> None:
    """With an aspect ratio, pictures of any shape are cropped from their middle to cover the video."""
    first, *_, last = short(CAT, tail=ASTRONAUT, aspect_ratio=aspect_ratio)
    assert first.size == size
    assert apart(first, opened(CAT)) < CLOSE
    assert apart(last, opened(ASTRONAUT)) < CLOSE


def test_begins_with_the_picture_and_comes_closer() -> None:
    """Without a camera movement the video begins with the whole picture and comes a little closer."""
    first, *_, last = short(CAT)
    assert apart(first, opened(CAT)) < CLOSE
    assert seen(last, CAT) == pytest.approx((0.5, 0.5, 0.88), abs=0.03)


def test_moves_all_the_time_and_gently() -> None:
    """Each frame differs from the one before, and none jumps."""
    moving = short(COFFEE, camera=simple("horizontal", 10), fps=24)
    steps = [apart(one, other) for one, other in itertools.pairwise(moving[1:-1])]
    assert min(steps) > 0.05
    assert max(steps) < 4 * sum(steps) / len(steps)


def test_ends_on_tail() -> None:
    """With a tail the video begins with the picture, fades, and ends on the tail."""
    first, *between, last = short(COFFEE, tail=ROCKET)
    assert apart(first, opened(COFFEE)) < CLOSE
    assert apart(last, opened(ROCKET)) < CLOSE
    middle = between[len(between) // 2]
    assert apart(middle, opened(COFFEE)) > FAR
    assert apart(middle, opened(ROCKET)) > FAR


def test_only_a_tail() -> None:
    """With a tail alone the video draws back from it until all of it is seen."""
    first, *_, last = short(tail=CAT)
    assert seen(first, CAT) == pytest.approx((0.5, 0.5, 0.88), abs=0.03)
    assert apart(last, opened(CAT)) < CLOSE


def test_several_pictures_in_order() -> None:
    """Each of several pictures is what the video shows at its own time."""
    photos = [opened(data) for data in (CAT, COFFEE, ROCKET, ASTRONAUT)]
    shown = short(CAT, COFFEE, ROCKET, ASTRONAUT, aspect_ratio="16:9", seconds=2)
    for place in range(4):
        frame = shown[round((place + 0.5) / 4 * (len(shown) - 1))]
        assert min(range(4), key=lambda photo: apart(frame, photos[photo])) == place


@pytest.mark.parametrize("camera", MOVEMENTS, ids=str)
@pytest.mark.parametrize("size", [(750, 300), (300, 400)], ids=str)
def test_never_shows_a_border(camera: dict[str, Any] | None, size: tuple[int, int]) -> None:
    """A picture of one colour gives frames of that colour, to the last pixel, whatever the camera does."""
    for frame in short(plain("#c06a3c", *size), camera=camera, fps=6, long_side=128):
        difference = ImageChops.difference(frame, Image.new("RGB", frame.size, "#c06a3c"))
        assert max(high for _, high in ImageStat.Stat(difference).extrema) <= 6


@pytest.mark.parametrize(
    ("camera", "x", "y", "width"),
    [
        (simple("horizontal", 10), 1, 0, 0),
        (simple("horizontal", -10), -1, 0, 0),
        (simple("vertical", 10), 0, -1, 0),
        (simple("vertical", -10), 0, 1, 0),
        (simple("pan", 10), 1, 0, 0),
        (simple("pan", -10), -1, 0, 0),
        (simple("tilt", 10), 0, -1, 0),
        (simple("tilt", -10), 0, 1, 0),
        (simple("zoom", 10), 0, 0, 1),
        (simple("zoom", -10), 0, 0, -1),
        ({"type": "down_back"}, 0, 1, 1),
        ({"type": "forward_up"}, 0, -1, -1),
        ({"type": "right_turn_forward"}, 1, 0, -1),
        ({"type": "left_turn_forward"}, -1, 0, -1),
    ],
    ids=str,
)
def test_direction(camera: dict[str, Any], x: int, y: int, width: int) -> None:
    """The part of the picture that is seen goes right, goes down and widens as the movement says."""
    first, *_, last = short(ASTRONAUT, camera=camera, fps=4)
    shifts = [
        after - before for before, after in zip(seen(first, ASTRONAUT), seen(last, ASTRONAUT), strict=True)
    ]
    assert [0 if abs(shift) < 0.06 else 1 if shift > 0 else -1 for shift in shifts] == [x, y, width]


def test_extent_follows_value() -> None:
    """Twice the value is twice the way."""

    def way(value: float) -> float:
        first, *_, last = short(ASTRONAUT, camera=simple("horizontal", value), fps=4)
        return seen(last, ASTRONAUT)[0] - seen(first, ASTRONAUT)[0]

    assert way(10) == pytest.approx(0.3, abs=0.03)
    assert way(5) == pytest.approx(0.15, abs=0.03)


@pytest.mark.parametrize("value", [-10, 10])
def test_roll(value: int) -> None:
    """A camera that rolls clockwise sees the picture turn anticlockwise, and the other way round."""
    last = short(ASTRONAUT, camera=simple("roll", value))[-1]

    def turned(degrees: float) -> float:
        part = ImageOps.crop(opened(ASTRONAUT).rotate(degrees, Image.Resampling.BICUBIC), 46)
        return apart(last, part)

    assert turned(1.4 * value) < turned(0) < turned(-1.4 * value)


def test_unknown_movement() -> None:
    """A camera movement nobody documents is an error that names it."""
    with pytest.raises(ValueError, match="'sideways'"):
        short(CAT, camera={"type": "sideways"})
    with pytest.raises(ValueError, match="'depth'"):
        short(CAT, camera={"type": "simple", "config": {"depth": 1}})


@pytest.mark.parametrize("images", [(), (None,), (None, None)], ids=str)
def test_pictures_known_only_by_url(images: tuple[None, ...]) -> None:
    """A drawn picture of 16:9 stands for one whose bytes were not submitted; a second one looks different."""
    first, *_, last = short(*images)
    assert first.size == (160, 90)
    assert ImageStat.Stat(first.convert("L")).stddev[0] > 10
    assert (apart(first, last) > FAR) == (len(images) == 2)


def test_upright() -> None:
    """A photo taken with the camera turned stands upright."""
    picture = opened(CAT)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    first = short(png(picture.transpose(Image.Transpose.ROTATE_90), exif=exif))[0]
    assert first.size == (160, 106)
    assert apart(first, picture) < CLOSE


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "1", "I;16"])
def test_modes(mode: str) -> None:
    """Transparent, palette and grey pictures are seen as on white paper."""
    match mode:
        case "RGBA" | "LA":
            picture = Image.new(mode, (400, 300))
        case "P":
            picture = Image.new("P", (400, 300), 0)
            picture.putpalette([0, 0, 0])
            picture.info["transparency"] = 0
        case _:
            picture = Image.new(mode, (400, 300), {"L": 255, "1": 1, "I;16": 65535}[mode])
    assert apart(short(png(picture), fps=2)[0], Image.new("RGB", (400, 300), "white")) < CLOSE


@pytest.mark.parametrize("data", [b"", b"no picture", CAT[:60], CAT[:5000], ROCKET[:300]], ids=len)
def test_not_a_picture(data: bytes) -> None:
    """A file that no decoder can read is an error that says which one it is."""
    with pytest.raises(ValueError, match="picture 2 cannot be decoded"):
        short(CAT, data)


def test_in_threads() -> None:
    """Videos rendered at the same time do not disturb each other."""
    colours = "#c03030", "#30c030", "#3030c0", "#c0c030"
    with ThreadPoolExecutor(4) as pool:
        for colour, video in zip(
            colours, pool.map(lambda colour: short(plain(colour)), colours), strict=True
        ):
            assert apart(video[-1], opened(plain(colour))) < CLOSE


def test_photos() -> None:
    """The bundled photos are what their table says, may be submitted as they are, and are small together."""
    table = (PHOTOS / "README.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| (\S+\.(?:png|jpg)) \| (\d+x\d+) \|", table, re.MULTILINE))
    found = {photo.name: photo.read_bytes() for photo in PHOTOS.iterdir() if not photo.name.endswith(".md")}
    sizes = {name: opened(data).size for name, data in found.items()}
    assert listed == {name: f"{width}x{height}" for name, (width, height) in sizes.items()}
    assert all(min(size) >= 300 and max(size) <= 2.5 * min(size) for size in sizes.values())
    assert sum(map(len, found.values())) < 1.2e6
