"""What the samples of a picture mean: brought to 8 bits, to sRGB, and laid on white (extra ``images``).

Pillow is imported when it is needed, and nothing here reads a file.
"""

import contextlib
import io
from collections.abc import Callable
from itertools import chain, product
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["by_bands", "is_srgb", "opaque", "plain"]


def by_bands(image: "Image", work: "Callable[[Image], Image]") -> "Image":
    """What *work* makes of *image*, done for some rows at a time: so what it needs meanwhile stays small.

    Each row is to hang on itself alone; its length may become another.
    """
    from PIL import Image

    width, height = image.size
    whole: Image.Image | None = None
    for top in range(0, height, 128):
        band = work(image.crop((0, top, width, min(top + 128, height))))
        whole = whole or Image.new(band.mode, (band.width, height))
        whole.paste(band, (0, top))
    assert whole is not None  # no picture is without rows
    return whole


def plain(image: "Image") -> "Image":
    """A decoded picture, 32 bits aside, as grey or RGB of 8 bits, perhaps with alpha."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        see_through = image.info.pop("transparency", None)
        grey = image.convert("I").point(lambda value: value * (1 / 257) + 0.5).convert("L")
        return _with_alpha(grey, image, see_through) if isinstance(see_through, int) else grey
    if image.has_transparency_data:
        return image.convert("RGBA")
    return image.convert("L" if image.mode == "1" else "RGB")


def _with_alpha(grey: "Image", deep: "Image", see_through: int) -> "Image":
    """*grey* with alpha, transparent where the samples of *deep*, of 16 bits, are *see_through*."""
    from PIL import Image, ImageChops

    # No comparison of Pillow's takes samples of 16 bits; those of their two bytes it does.
    samples = deep.convert("I").convert("I;16").tobytes()  # little-endian
    halves = Image.frombytes("LA", deep.size, samples).split()
    other = (
        half.point([255 * (byte != wanted) for byte in range(256)])
        for half, wanted in zip(halves, see_through.to_bytes(2, "little"), strict=True)
    )
    return Image.merge("LA", (grey, ImageChops.lighter(*other)))


def opaque(mode: str, profile: bytes | None) -> "Callable[[Image], Image]":
    """What makes a picture of *mode* RGB in sRGB, laid on white where it is transparent."""
    from PIL import Image

    colours = mode.removesuffix("A")
    in_srgb = _in_srgb(colours, profile)
    if colours == mode:
        return in_srgb

    def on_white(image: Image.Image) -> Image.Image:
        ground = Image.new("RGB", image.size, "white")
        ground.paste(in_srgb(image.convert(colours)), mask=image.getchannel("A"))
        return ground

    return on_white


def _in_srgb(mode: str, profile: bytes | None) -> "Callable[[Image], Image]":
    """What makes a picture of *mode*, grey, RGB or CMYK, RGB in the colours that *profile* means.

    Colours that sRGB has stay what they are, and black becomes black: relative colorimetric with black point
    compensation. A profile that is damaged, or is for other pixels than these, is ignored, as viewers do.
    """
    from PIL import ImageCms

    if profile:
        with contextlib.suppress(ImageCms.PyCMSError, OSError):
            transform = ImageCms.buildTransform(
                ImageCms.ImageCmsProfile(io.BytesIO(profile)),
                ImageCms.createProfile("sRGB"),
                mode,
                "RGB",
                ImageCms.Intent.RELATIVE_COLORIMETRIC,
                ImageCms.Flags.BLACKPOINTCOMPENSATION,
            )
            return transform.apply
    return lambda image: image.convert("RGB")


def is_srgb(profile: bytes, mode: str) -> bool:
    """Whether *profile* leaves every colour within 2 of 255 of where it is: names tell less, and vary."""
    from PIL import Image, ImageChops

    if mode == "L":
        patches = Image.frombytes("L", (256, 1), bytes(range(256)))
    else:
        levels = (0, 32, 64, 128, 192, 255)
        patches = Image.frombytes("RGB", (6**3, 1), bytes(chain.from_iterable(product(levels, repeat=3))))
    difference = ImageChops.difference(patches.convert("RGB"), _in_srgb(mode, profile)(patches))
    return max(difference.tobytes()) <= 2
