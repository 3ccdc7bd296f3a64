"""The videos of the simulator: a camera moved over the submitted pictures, as a real H.264 MP4.

No model invents anything here, but whatever of a request can be seen does show: the picture and its shape,
the camera movement, the end frame, the pictures of a multi-image task in their order, the duration. Needs the
extra `simulator`.
"""

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import av
from attrs import astuple, evolve, frozen
from PIL import Image, ImageOps

__all__ = ["render"]

_Planes = tuple[Image.Image, ...]
"""A picture as H.264 wants it: luma, and blue and red chroma of half its size (yuv420p)."""

_SPARE = 1.25  # pictures are kept this much larger than the frame, so that a view closer in stays sharp
_EYE = 1.4  # the eye's distance from the picture, in its longer sides: a normal lens, turning it bends little
_FADE = 0.2  # a crossfade reaches this far into the shots at either side of it
_SKIES = (
    ("#16324f", "#3e92cc", "#f4e9cd"),
    ("#41295a", "#b0578d", "#f9d5a7"),
    ("#123c3a", "#4f9d8f", "#eef4d4"),
)

# players expect luma 16-235 and chroma 16-240, Pillow's YCbCr has 0-255; ITU-T H.273 has the two numbers
_LUMA = [round(16 + value * 219 / 255) for value in range(256)]
_CHROMA = [round(128 + (value - 128) * 224 / 255) for value in range(256)]
_BT601, _LIMITED = 5, 1


def render(
    images: Sequence[bytes | None],
    *,
    tail: bytes | None = None,
    camera: Mapping[str, Any] | None = None,
    seconds: float = 5.0,
    aspect_ratio: str | None = None,
    fps: int = 24,
    long_side: int = 640,
) -> bytes:
    """An MP4 (H.264, yuv420p, index in front: it plays while loading) made from the submitted pictures.

    A pure function, safe in any thread. The time it takes grows with the number of pixels.

    Args:
        images: The files in the order they are to be seen; None for one known only by its URL, in whose place
            stands a drawn one of 16:9. Empty without a tail: a drawn one.
        tail: The end frame: the video ends on it. Without images it is seen close at first, then whole.
        camera: `camera_control` as submitted (API reference, image2video: create). Movements are the
            camera's: when it goes right, what it sees goes left; when it rolls clockwise, that turns
            anticlockwise. Zoom below 0 comes closer, above 0 widens. Default: comes a little closer.
        seconds: Duration, exact to half a frame.
        aspect_ratio: `16:9`, `9:16`, `1:1` or any other `width:height`. Default: that of the first picture.
        fps: Frames per second.
        long_side: The longer side of the video, in pixels.

    Raises:
        ValueError: A picture cannot be decoded, or there is no such camera movement or aspect ratio.
    """
    files = [*images] if tail is None else [*images, tail]
    pictures = [
        _picture(data, place, round(long_side * _SPARE)) for place, data in enumerate(files or [None])
    ]
    width, height = _frame_size(aspect_ratio, pictures[0], long_side)
    moves = [_movement(camera, place) for place in range(len(pictures))]
    if tail is not None:
        moves[-1] = _View(width=0.88), _View()
    shots = [
        _Shot(_planes(picture, width, height), *_fitted(*move, width / height), place, len(pictures))
        for place, (picture, move) in enumerate(zip(pictures, moves, strict=True))
    ]
    count = max(2, round(seconds * fps))
    frames = (_frame(shots, number / (count - 1), width, height) for number in range(count))
    return _encoded(frames, count, width, height, fps)


# Pictures


def _picture(data: bytes | None, place: int, long_side: int) -> Image.Image:
    """The file decoded, upright, without transparency; a JPEG no larger than needed."""
    if data is None:
        return _drawn(place)
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.draft("RGB", (long_side, long_side))
            upright = ImageOps.exif_transpose(image)
            if not upright.has_transparency_data:
                return upright.convert("RGB")
            opaque = Image.new("RGBA", upright.size, "white")
            opaque.alpha_composite(upright.convert("RGBA"))
            return opaque.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"picture {place + 1} cannot be decoded: {error}") from error


def _drawn(place: int) -> Image.Image:
    """A calm sky of 16:9 with a soft sun, another one at each place."""
    top, middle, light = _SKIES[place % len(_SKIES)]
    size = 640, 360
    ramp = Image.linear_gradient("L").resize(size)
    sky = Image.composite(Image.new("RGB", size, middle), Image.new("RGB", size, top), ramp)
    halo = Image.radial_gradient("L").point([round(255 * max(0, 1 - far / 181) ** 2) for far in range(256)])
    sky.paste(light, (230, 60), halo.resize((360, 360), Image.Resampling.BICUBIC))
    return sky


def _frame_size(aspect_ratio: str | None, first: Image.Image, long_side: int) -> tuple[int, int]:
    """Width and height, even as yuv420p needs them."""
    across, down = map(float, aspect_ratio.split(":")) if aspect_ratio else first.size
    scale = long_side / max(across, down) / 2
    return 2 * max(1, round(across * scale)), 2 * max(1, round(down * scale))


def _planes(picture: Image.Image, width: int, height: int) -> _Planes:
    """The picture cropped from its middle to cover the frame, a little larger than it."""
    half = round(width * _SPARE / 2), round(height * _SPARE / 2)
    cover = ImageOps.fit(picture, (2 * half[0], 2 * half[1]), Image.Resampling.BICUBIC)
    luma, blue, red = cover.convert("YCbCr").split()
    return luma.point(_LUMA), blue.reduce(2).point(_CHROMA), red.reduce(2).point(_CHROMA)


# The camera


@frozen
class _View:
    """Where the camera is and looks.

    *x* and *y* are its place in widths and heights of the picture, right and down from the middle; *width* is
    how much of the picture it sees, 1 being all; *yaw*, *pitch*, *roll* are degrees right, up, clockwise.
    """

    x: float = 0
    y: float = 0
    width: float = 1
    yaw: float = 0
    pitch: float = 0
    roll: float = 0

    def towards(self, other: "_View", share: float) -> "_View":
        """The view at that share of the way to another."""
        return _View(
            *(
                here + (there - here) * share
                for here, there in zip(astuple(self), astuple(other), strict=True)
            )
        )

    def ray(self, u: float, v: float, aspect: float) -> tuple[float, float, float]:
        """The point of the picture, homogeneous, seen at *u*, *v* of the frame; all from -1/2 to 1/2."""
        eye = _EYE * max(aspect, 1)
        right, down = _turned(u * aspect * self.width, v * self.width, self.roll)
        down, ahead = _turned(down, eye, self.pitch)
        ahead, right = _turned(ahead, right, self.yaw)
        return eye * right / aspect + self.x * ahead, eye * down + self.y * ahead, ahead

    def inside(self, aspect: float) -> bool:
        """Whether nothing beyond the picture's border is seen."""
        corners = [self.ray(u, v, aspect) for u in (-0.5, 0.5) for v in (-0.5, 0.5)]
        return all(max(abs(x), abs(y)) <= z * (0.5 + 1e-9) for x, y, z in corners)

    def of(self, plane: Image.Image, width: int, height: int) -> Image.Image:
        """The plane so seen, in that many pixels."""
        if not (self.yaw or self.pitch or self.roll):  # a rectangle: four times as fast in best quality
            left, top = (_within(centre - self.width / 2) for centre in (self.x, self.y))
            right, bottom = (_within(centre + self.width / 2) for centre in (self.x, self.y))
            box = left * plane.width, top * plane.height, right * plane.width, bottom * plane.height
            return plane.resize((width, height), Image.Resampling.BICUBIC, box)
        points = ((i / width - 0.5, j / height - 0.5) for i, j in ((0, 0), (1, 0), (0, 1)))
        rays = (self.ray(u, v, width / height) for u, v in points)
        here, across, down = (((x + z / 2) * plane.width, (y + z / 2) * plane.height, z) for x, y, z in rays)
        matrix = [
            value / here[2]
            for start, next_column, next_row in zip(here, across, down, strict=True)
            for value in (next_column - start, next_row - start, start)
        ]
        return plane.transform(
            (width, height), Image.Transform.PERSPECTIVE, matrix[:8], Image.Resampling.BILINEAR
        )


_Movement = tuple[_View, _View]


def _turned(a: float, b: float, degrees: float) -> tuple[float, float]:
    """The vector (a, b) turned by so much from its first axis to its second."""
    sin, cos = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    return a * cos - b * sin, a * sin + b * cos


def _within(offset: float) -> float:
    """From the picture's middle to its top left; rounding must not leave the picture."""
    return min(max(0.5 + offset, 0.0), 1.0)


def _movement(camera: Mapping[str, Any] | None, place: int) -> _Movement:
    """First and last view of it; without a camera a little closer, at every second picture a little back."""
    whole, near = _View(), _View(width=0.88)
    if not camera:
        return (near, whole) if place % 2 else (whole, near)
    match camera.get("type"):
        case "simple":
            return _simple(camera.get("config") or {})
        case "down_back":
            return _View(y=-0.14, width=0.62), whole
        case "forward_up":
            return whole, _View(y=-0.05, width=0.66, pitch=3)
        case "right_turn_forward":
            return whole, _View(x=0.03, width=0.66, yaw=5)
        case "left_turn_forward":
            return whole, _View(x=-0.03, width=0.66, yaw=-5)
        case other:
            raise ValueError(f"there is no camera movement {other!r}")


def _simple(config: Mapping[str, float]) -> _Movement:
    """The movement of `camera_control.config`: the one axis that is not 0, from -10 to 10."""
    axis, value = next(((axis, value / 10) for axis, value in config.items() if value), ("zoom", -0.3))
    match axis:
        case "horizontal":
            return _View(x=-0.15 * value), _View(x=0.15 * value)
        case "vertical":
            return _View(y=0.15 * value), _View(y=-0.15 * value)
        case "pan":
            return _View(yaw=-6 * value), _View(yaw=6 * value)
        case "tilt":
            return _View(pitch=-6 * value), _View(pitch=6 * value)
        case "roll":
            return _View(), _View(roll=14 * value)
        case "zoom":
            wide, close = _View(), _View(width=1 - 0.4 * abs(value))
            return (close, wide) if value > 0 else (wide, close)
        case _:
            raise ValueError(f"there is no camera movement {axis!r}")


def _fitted(first: _View, last: _View, aspect: float) -> _Movement:
    """The movement, seen through a lens just long enough that no border comes into view."""

    def at(lens: float) -> _Movement:
        return evolve(first, width=first.width * lens), evolve(last, width=last.width * lens)

    def fits(lens: float) -> bool:
        start, end = at(lens)
        return all(start.towards(end, step / 8).inside(aspect) for step in range(9))

    lens, too_wide = (1.0, 1.0) if fits(1.0) else (0.0, 1.0)
    while too_wide - lens > 1e-4:
        middle = (lens + too_wide) / 2
        lens, too_wide = (middle, too_wide) if fits(middle) else (lens, middle)
    return at(lens)


# The film


@frozen
class _Shot:
    """One picture's part of the video: the *place*-th of *count* equal ones, fading into its neighbours."""

    planes: _Planes
    first: _View
    last: _View
    place: int
    count: int

    @property
    def begin(self) -> float:
        """When it begins to show, the whole video being 1."""
        return max(0.0, (self.place - _FADE) / self.count)

    @property
    def end(self) -> float:
        """When it has gone."""
        return min(1.0, (self.place + 1 + _FADE) / self.count)

    def seen(self, now: float, width: int, height: int) -> _Planes:
        """The picture at that time of the video."""
        view = self.first.towards(self.last, _eased((now - self.begin) / (self.end - self.begin)))
        luma, blue, red = self.planes
        return view.of(luma, width, height), *(
            view.of(chroma, width // 2, height // 2) for chroma in (blue, red)
        )


def _eased(share: float) -> float:
    """Slow at both ends."""
    return share * share * (3 - 2 * share)


def _frame(shots: Sequence[_Shot], now: float, width: int, height: int) -> _Planes:
    """The frame at that time, from 0 to 1: one shot, or one fading into the next."""
    before, *after = (shot for shot in shots if shot.begin <= now <= shot.end)
    frame = before.seen(now, width, height)
    for shot in after:
        share = _eased((now - shot.begin) * shot.count / (2 * _FADE))
        frame = tuple(
            Image.blend(old, new, share)
            for old, new in zip(frame, shot.seen(now, width, height), strict=True)
        )
    return frame


def _encoded(frames: Iterable[_Planes], count: int, width: int, height: int, fps: int) -> bytes:
    """The frames as an MP4 file."""
    file = io.BytesIO()
    # room for the index, by a generous bound on its entries, since moving it to the front needs a second file
    with av.open(file, "w", format="mp4", options={"moov_size": str(4096 + 32 * count)}) as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "veryfast", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1  # as many videos at once as there are threads that call
        stream.codec_context.colorspace, stream.codec_context.color_range = _BT601, _LIMITED
        for number, planes in enumerate(frames):
            frame = av.VideoFrame(width, height, "yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            for target, plane in zip(frame.planes, planes, strict=True):
                target.update(plane.tobytes("raw", "L", target.line_size))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()
