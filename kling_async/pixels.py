"""The pixels of a picture: opened, decoded, scaled, brought to sRGB, laid on white, turned upright, encoded.

The one module that knows Pillow and pi-heif (extra ``images``), and imports them when they are needed.
Nothing global is touched, so any number of threads may do this: plug-ins of Pillow are called by name, beside
its registry and its process-wide limit, and pi-heif without being registered.
"""

import contextlib
import importlib
import io
import re
from collections.abc import Callable, Generator
from itertools import chain, product
from typing import TYPE_CHECKING, Any, cast

import attrs

from kling_async.extras import install
from kling_async.protocol.images import check
from kling_async.protocol.metadata import (
    bare_jpeg,
    bare_png,
    bare_tiff,
    has_one_scan,
    orientation,
    other_colours,
)

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "MAX_MEGAPIXELS",
    "MissingError",
    "Picture",
    "UnfitError",
    "decoding",
    "install",
    "is_srgb",
    "jpeg",
    "open_picture",
    "plain",
    "scaled",
]

MAX_MEGAPIXELS = {"JPEG": 200, "WebP": 30, "AVIF": 30}
"""The most that is decoded, as a tiny file can claim any size; 60 of what is not named.

Memory decides. A JPEG is shrunk while it is decoded, unless it is progressive, and so may have what the
largest sensor of a phone has. 60 are more than phones write as HEIC (50), and than a page of A4 has that was
scanned at 600 dpi (35). What decodes WebP and AVIF holds a picture several times over, 16 bytes and more for
each pixel, and few of them have 10 megapixels.
"""


_PLUGINS = {
    "JPEG": "Jpeg",
    "PNG": "Png",
    "WebP": "WebP",
    "GIF": "Gif",
    "TIFF": "Tiff",
    "BMP": "Bmp",
    "AVIF": "Avif",
}
"""The formats that Pillow opens for us, and the stem of its plug-in's names. HEIC is pi-heif's."""


class UnfitError(ValueError):
    """Why a picture cannot be fitted, a clause without a subject.

    Attributes:
        advice: what to do about it, a clause.
    """

    advice = "correct the picture"


class MissingError(UnfitError):
    """The picture may be good: what would read it is not installed."""

    advice = "install what is missing"


@contextlib.contextmanager
def decoding() -> Generator[None]:
    """Tell whatever a decoder makes of a foreign file as one clause."""
    try:
        yield
    except UnfitError:
        raise
    except MemoryError:
        raise UnfitError("needs more memory than there is: scale it down") from None
    except Exception as error:
        if type(error).__name__ == "DecompressionBombError":  # Pillow's own limit, before ours
            raise UnfitError("has more pixels than are opened: scale it down") from None
        what = " ".join(str(error).split())[:200] or type(error).__name__
        raise UnfitError(
            f"is cut off or damaged, or of a kind that Pillow lacks ({what}): export it anew"
        ) from error


@attrs.frozen
class Picture:
    """A picture whose header was read.

    Attributes:
        format: as `images.check` names it.
        content: its bytes, of JPEG, PNG and TIFF without metadata; the very object that came in if there
            was none.
        image: its pixels, decoded when they are asked for.
        orientation: what turns it upright, EXIF's number from 1 to 8.
    """

    format: str
    content: bytes
    image: "Image"
    orientation: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height once it is upright."""
        width, height = self.image.size
        return (height, width) if self.orientation >= 5 else (width, height)  # those turn by 90 degrees

    @property
    def profile(self) -> bytes | None:
        """The ICC profile of its colours; without one they are sRGB."""
        return cast("bytes | None", self.image.info.get("icc_profile"))

    def finished(self, pixels: "Image") -> "Image":
        """*pixels* of this picture in sRGB, opaque and upright."""
        if pixels.mode != "RGB" or self.profile:
            pixels = _by_bands(pixels, _opaque(pixels.mode, self.profile))
        return _upright(pixels, self.orientation)


def open_picture(raw: bytes) -> Picture:
    """Read a picture's header and cut out its metadata.

    Pillow gets to see JPEG, PNG and TIFF without any, and AVIF without EXIF, and so cannot stumble, or warn,
    over what is wrong with it. To silence warnings instead would silence those of every other thread.
    """
    if not raw:
        raise UnfitError("is empty")
    format_ = check(io.BytesIO(raw), len(raw)).format
    try:
        importlib.import_module("PIL.Image")
    except ImportError:
        raise MissingError(f"cannot be fitted without Pillow: {install('images')}") from None
    content, exif = _bare(raw, format_)
    image = _heic(content) if format_ == "HEIC" else _by_pillow(content, format_)
    if format_ in ("WebP", "AVIF"):
        # HEIC and TIFF are turned by what decodes them. For AVIF, Pillow tells the box's turn as EXIF's.
        exif = image.info.get("exif", b"")
    return Picture(format_, content, image, orientation(exif))


def _bare(raw: bytes, format_: str) -> tuple[bytes, bytes]:
    """A picture without metadata, or *raw* itself if it has none, and the EXIF of JPEG and PNG."""
    content, exif = raw, b""
    try:
        match format_:
            case "JPEG":
                content, exif = bare_jpeg(raw)
            case "PNG":
                content, exif = bare_png(raw)
                if chunk := other_colours(content):
                    raise UnfitError(
                        f"has colours far from sRGB, told by PNG's {chunk}, which is not converted here: "
                        "export it in sRGB, or with an ICC profile"
                    )
            case "TIFF":
                content = bare_tiff(raw)
            case "AVIF":
                # Pillow turns by AVIF's own boxes, whatever EXIF says, and yet reads EXIF and warns of it.
                content = _EXIF_ITEM.sub(rb"\1free", raw)
            case _:
                pass
    except UnfitError:
        raise
    except ValueError as error:
        raise UnfitError(str(error)) from None
    return raw if content == raw else content, exif  # the very object, so that `is` tells


def _by_pillow(content: bytes, format_: str) -> "Image":
    """A picture that Pillow reads, its pixels not yet decoded."""
    if format_ not in _PLUGINS:
        raise UnfitError(
            f"is {format_}, which is not converted here: give a photo, such as JPEG, PNG or HEIC"
        )
    name = _PLUGINS[format_]
    try:
        plugin: Any = importlib.import_module(f"PIL.{name}ImagePlugin")
    except ImportError:
        plugin = None
    if not getattr(plugin, "SUPPORTED", plugin is not None):
        raise UnfitError(f"is {format_}, which this Pillow cannot read: update it, or give JPEG or PNG")
    with decoding():
        # The class, not `Image.open`: that warns, or not, by a setting which belongs to the whole process.
        if format_ == "JPEG" and not has_one_scan(content):
            format_ = "progressive JPEG"
        elif format_ == "JPEG":
            # Where data are missing, libjpeg paints grey up to the end mark; without the mark it says so. The
            # zeros are for its reading ahead.
            content = content.removesuffix(b"\xd9").rstrip(b"\xff") + bytes(16)
        image: Image = getattr(plugin, f"{name}ImageFile")(io.BytesIO(content))
        _refuse_bomb(image.size, format_)
    return image


# An item of a HEIC or AVIF file (ISO/IEC 14496-12, 8.11.6: its entry, version 2 or 3), up to its texts.
_ITEM = rb"infe(?:\x02.{7}|\x03.{9})"
_HEIC_ITEM = re.compile(rb"(....)" + _ITEM, re.DOTALL)
_EXIF_ITEM = re.compile(rb"(" + _ITEM + rb")Exif", re.DOTALL)


def _heic(content: bytes) -> "Image":
    """The main picture of a HEIC file, turned upright by its decoder."""
    try:
        open_heif = importlib.import_module("pi_heif").open_heif
    except ImportError:
        raise MissingError(f"is HEIC, and pi-heif is missing, which reads it: {install('images')}") from None
    with decoding():
        for item in _HEIC_ITEM.finditer(content):
            # pi-heif 1.4 ends the whole process over a text that is none; here it raises.
            content[item.end() : item.start() + int.from_bytes(item[1], "big")].decode()
        heif = open_heif(io.BytesIO(content))
        _refuse_bomb(heif.size, "HEIC")
        return cast("Image", heif.to_pillow())


def _refuse_bomb(size: tuple[int, int], format_: str) -> None:
    """Refuse what would take gigabytes to decode, by the size that its header tells."""
    width, height = size
    most = MAX_MEGAPIXELS.get(format_, 60)
    if width * height > most * 1_000_000:
        raise UnfitError(
            f"is {width} x {height} px: more than {most} megapixels of {format_} are not opened: "
            "scale it down"
        )


def plain(image: "Image", long_side: int | None = None) -> "Image":
    """The pixels, decoded, as grey, RGB or CMYK of 8 bits, the first two perhaps with alpha.

    Given *long_side*, a JPEG is decoded at a half, a quarter or an eighth of its size where that is enough.
    """
    if long_side and max(image.size) > long_side:
        image.draft(None, _shrunk(image.size, long_side))
    if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):
        raise UnfitError("has samples of 32 bits, and what is white is not told: save it with 8 or 16")
    image.load()
    if image.mode in _PLAIN and "transparency" not in image.info:
        return image
    return _by_bands(image, _plain)


_PLAIN = ("L", "LA", "RGB", "RGBA", "CMYK")


def _by_bands(image: "Image", work: "Callable[[Image], Image]") -> "Image":
    """What *work* makes of *image*, done for some rows at a time: so what it needs meanwhile stays small."""
    from PIL import Image

    width, height = image.size
    whole: Image.Image | None = None
    for top in range(0, height, 128):
        band = work(image.crop((0, top, width, min(top + 128, height))))
        whole = whole or Image.new(band.mode, image.size)
        whole.paste(band, (0, top))
    assert whole is not None  # no picture is without rows
    return whole


def _plain(image: "Image") -> "Image":
    """A decoded picture that is not plain, made so."""
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


def _shrunk(size: tuple[int, int], long_side: int) -> tuple[int, int]:
    """*size* with its long side at most *long_side*, in the same proportion."""
    factor = min(1.0, long_side / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def scaled(image: "Image", long_side: int) -> "Image":
    """*image* no larger than *long_side*."""
    from PIL.Image import Resampling

    size = _shrunk(image.size, long_side)
    return image if size == image.size else image.resize(size, Resampling.LANCZOS)


def _opaque(mode: str, profile: bytes | None) -> "Callable[[Image], Image]":
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


def _upright(image: "Image", orientation: int) -> "Image":
    """*image* turned and mirrored as EXIF's *orientation* asks."""
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return image.transpose(turns[orientation]) if orientation in turns else image


def jpeg(image: "Image", quality: int) -> bytes:
    """*image* as a JPEG that holds nothing but its pixels."""
    image.info = {}  # Pillow writes a comment that it finds there, as of a GIF
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality, subsampling="4:4:4")
    return file.getvalue()
