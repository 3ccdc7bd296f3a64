"""The pixels of a picture: opened, decoded, scaled, brought to sRGB, laid on white, turned upright, encoded.

The one module that knows Pillow and pi-heif (extra ``images``), and imports them when they are needed.
Nothing global is touched, so any number of threads may do this: plug-ins of Pillow are called by name, beside
its registry and its process-wide limit, and pi-heif without being registered.
"""

import contextlib
import importlib
import io
import re
from collections.abc import Generator
from itertools import chain, product
from typing import TYPE_CHECKING, Any, cast

import attrs

from kling_async.protocol.images import check
from kling_async.protocol.metadata import bare_jpeg, bare_png, orientation

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "MAX_PIXELS",
    "Picture",
    "UnfitError",
    "decoding",
    "is_srgb",
    "jpeg",
    "open_picture",
    "plain",
    "scaled",
]

MAX_PIXELS = 200_000_000
"""The most that is decoded, as a tiny file can claim any size: what the largest sensor of a phone has."""

_INSTALL = 'python -m pip install "kling-async[images]"'

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
    """Why a picture cannot be fitted, a clause without a subject."""


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
        what = " ".join(str(error).split())[:200] or type(error).__name__
        raise UnfitError(
            f"is cut off or damaged, or of a kind that Pillow lacks ({what}): export it anew"
        ) from error


@attrs.frozen
class Picture:
    """A picture whose header was read.

    Attributes:
        format: as `images.check` names it.
        content: its bytes, of JPEG and PNG without metadata; the very object that came in if it had none.
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
        return _upright(_opaque(pixels, self.profile), self.orientation)


def open_picture(raw: bytes) -> Picture:
    """Read a picture's header and cut out its metadata.

    Pillow gets to see JPEG and PNG without any, and so cannot stumble, or warn, over what is wrong with it.
    """
    if not raw:
        raise UnfitError("is empty")
    format_ = check(io.BytesIO(raw), len(raw)).format
    try:
        importlib.import_module("PIL.Image")
    except ImportError:
        raise UnfitError(f"cannot be fitted without Pillow: {_INSTALL}") from None
    content, exif = raw, b""
    if format_ in ("JPEG", "PNG"):
        try:
            bare, exif = bare_jpeg(raw) if format_ == "JPEG" else bare_png(raw)
        except ValueError as error:
            raise UnfitError(str(error)) from None
        if bare != raw:  # else the very object stays, so that `is` tells
            content = bare
    image = _heic(content) if format_ == "HEIC" else _by_pillow(content, format_)
    if format_ in ("WebP", "AVIF"):
        # HEIC and TIFF are turned by what decodes them. For AVIF, Pillow tells the box's turn as EXIF's.
        exif = image.info.get("exif", b"")
    return Picture(format_, content, image, orientation(exif))


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
        image: Image = getattr(plugin, f"{name}ImageFile")(io.BytesIO(content))
        _refuse_bomb(image.size)
    return image


# An item of a HEIC file (ISO/IEC 14496-12, 8.11.6: its entry, version 2 or 3), up to its texts.
_HEIC_ITEM = re.compile(rb"(....)infe(?:\x02.{7}|\x03.{9})", re.DOTALL)


def _heic(content: bytes) -> "Image":
    """The main picture of a HEIC file, turned upright by its decoder."""
    try:
        open_heif = importlib.import_module("pi_heif").open_heif
    except ImportError:
        raise UnfitError(f"is HEIC, and pi-heif is missing, which reads it: {_INSTALL}") from None
    with decoding():
        for item in _HEIC_ITEM.finditer(content):
            # pi-heif 1.4 ends the whole process over a text that is none; here it raises.
            content[item.end() : item.start() + int.from_bytes(item[1], "big")].decode()
        heif = open_heif(io.BytesIO(content))
        _refuse_bomb(heif.size)
        return cast("Image", heif.to_pillow())


def _refuse_bomb(size: tuple[int, int]) -> None:
    """Refuse what would take gigabytes to decode, by the size that its header tells."""
    width, height = size
    if width * height > MAX_PIXELS:
        raise UnfitError(
            f"is {width} x {height} px: more than {MAX_PIXELS // 1_000_000} megapixels are not opened: "
            "scale it down"
        )


def plain(image: "Image", long_side: int | None = None) -> "Image":
    """The pixels, decoded, as grey, RGB or CMYK of 8 bits, the first two perhaps with alpha.

    Given *long_side*, a JPEG is decoded at a half, a quarter or an eighth of its size where that is enough.
    """
    if long_side and max(image.size) > long_side:
        image.draft(None, _shrunk(image.size, long_side))
    image.load()
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        see_through = image.info.pop("transparency", None)
        grey = image.convert("I").point(lambda value: value * (1 / 257) + 0.5).convert("L")
        return _with_alpha(grey, image, see_through) if isinstance(see_through, int) else grey
    if image.mode in ("I", "F"):
        raise UnfitError("has samples of 32 bits, and what is white is not told: save it with 8 or 16")
    if image.mode in ("L", "LA", "RGB", "RGBA", "CMYK") and "transparency" not in image.info:
        return image
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


def _opaque(image: "Image", profile: bytes | None) -> "Image":
    """*image* as RGB in sRGB, laid on white where it is transparent."""
    from PIL import Image

    if image.mode not in ("LA", "RGBA"):
        return _in_srgb(image, profile)
    ground = Image.new("RGB", image.size, "white")
    ground.paste(_in_srgb(image.convert(image.mode.removesuffix("A")), profile), mask=image.getchannel("A"))
    return ground


def _in_srgb(image: "Image", profile: bytes | None) -> "Image":
    """*image*, grey, RGB or CMYK, in the colours that *profile* means.

    Colours that sRGB has stay what they are, and black becomes black: relative colorimetric with black point
    compensation. A profile that is damaged, or is for other pixels than these, is ignored, as viewers do.
    """
    from PIL import ImageCms

    if profile:
        with contextlib.suppress(ImageCms.PyCMSError, OSError):
            transform = ImageCms.buildTransform(
                ImageCms.ImageCmsProfile(io.BytesIO(profile)),
                ImageCms.createProfile("sRGB"),
                image.mode,
                "RGB",
                ImageCms.Intent.RELATIVE_COLORIMETRIC,
                ImageCms.Flags.BLACKPOINTCOMPENSATION,
            )
            converted = ImageCms.applyTransform(image, transform)
            assert converted is not None  # only in place it is
            return converted
    return image.convert("RGB")


def is_srgb(profile: bytes, mode: str) -> bool:
    """Whether *profile* leaves every colour within 2 of 255 of where it is: names tell less, and vary."""
    from PIL import Image, ImageChops

    if mode == "L":
        patches = Image.frombytes("L", (256, 1), bytes(range(256)))
    else:
        levels = (0, 32, 64, 128, 192, 255)
        patches = Image.frombytes("RGB", (6**3, 1), bytes(chain.from_iterable(product(levels, repeat=3))))
    difference = ImageChops.difference(patches.convert("RGB"), _in_srgb(patches, profile))
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
