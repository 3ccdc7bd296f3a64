"""Whether masks and trajectories fit the picture they belong to.

A mask has the picture's aspect ratio, all masks are of one resolution, and trajectories stay inside the
picture (API reference, image2video: create); a task whose mask does not fit fails. Sizes are those stored.
What Kling does to a picture that EXIF turns is not known, so whatever is drawn for one is doubted.
"""

from collections.abc import Iterator, Mapping
from typing import Final

from kling_async.protocol.findings import Finding
from kling_async.protocol.models import ImageToVideo, VideoRequest

__all__ = ["misfits"]

_SOURCE: Final = "API reference, image2video: create, November 2026"


def misfits(
    request: VideoRequest, sizes: Mapping[str, tuple[int, int]], *, turned: bool = False
) -> Iterator[Finding]:
    """Masks and points of *request* that do not fit, as far as *sizes* tell.

    Args:
        request: only `ImageToVideo` has masks.
        sizes: width and height of pictures, pixels, by dotted field.
        turned: whether EXIF turns or mirrors the picture.
    """
    if not isinstance(request, ImageToVideo) or (request.static_mask is None and not request.dynamic_masks):
        return
    first = ""
    picture = sizes.get("image")
    if turned:
        message = "is turned or mirrored by EXIF: what is drawn for it may not fit at Kling; save it upright"
        yield Finding("image", "warning", message, _SOURCE)
        picture = None
    fields = [
        "static_mask",
        *(f"dynamic_masks[{each}].mask" for each in range(len(request.dynamic_masks or ()))),
    ]
    for field in fields:
        size = sizes.get(field)
        if size is None:
            continue
        if picture is not None:
            yield from _shape(field, size, picture)
        if not first:
            first = field
        elif size != sizes[first]:
            message = f"is {_px(size)}, {first} is {_px(sizes[first])}: all masks must have one size"
            yield Finding(field, "error", message, _SOURCE)
    if picture is not None:
        yield from _points(request, picture)


def _shape(field: str, size: tuple[int, int], picture: tuple[int, int]) -> Iterator[Finding]:
    """Whether a mask has its picture's aspect ratio."""
    misfit = _misfit(size, picture)
    if not misfit:
        return
    told = f"is {_px(size)}, the picture {_px(picture)}"
    if misfit < 1:
        message = f"{told}: the aspect ratios differ by a rounding; give it the picture's size"
        yield Finding(field, "warning", message, _SOURCE)
    else:
        message = f"{told}: the aspect ratio must be the same; give it the picture's size"
        yield Finding(field, "error", message, _SOURCE)


def _misfit(size: tuple[int, int], picture: tuple[int, int]) -> float:
    """How far a mask is from the picture's aspect ratio; less than 1 where rounding its sides explains it."""
    return abs(size[0] * picture[1] - size[1] * picture[0]) / max(picture)


def _points(request: ImageToVideo, picture: tuple[int, int]) -> Iterator[Finding]:
    """The first point of each trajectory that lies outside; x and y count from 0, bottom left."""
    width, height = picture
    for place, mask in enumerate(request.dynamic_masks or ()):
        for number, point in enumerate(mask.trajectories):
            if 0 <= point.x < width and 0 <= point.y < height:
                continue
            message = (
                f"({point.x}, {point.y}) is outside the picture: x from 0 to {width - 1}, y to {height - 1}"
            )
            yield Finding(f"dynamic_masks[{place}].trajectories[{number}]", "error", message, _SOURCE)
            break


def _px(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]} px"
