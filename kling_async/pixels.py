"""The pixels of a picture: opened, decoded, scaled, turned upright, encoded.

With `kling_async.colours` all that knows Pillow and pi-heif (extra ``images``), imported when needed.
Nothing global is touched, so any number of threads may do this: plug-ins of Pillow are called by name, beside
its registry and its process-wide limit, and pi-heif without being registered.
"""

import contextlib
import importlib
import io
import re
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, cast

import attrs

from kling_async.colours import by_bands, opaque, plain
from kling_async.extras import install
from kling_async.protocol.images import MAX_BYTES, check
from kling_async.protocol.metadata import (
    bare_jpeg,
    bare_png,
    bare_tiff,
    has_one_scan,
    orientation,
    refuse_other_colours,
)

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "MAX_MEGABYTES",
    "MAX_MEGAPIXELS",
    "MissingError",
    "Picture",
    "UnfitError",
    "decoding",
    "install",
    "jpeg",
    "open_picture",
    "refuse_huge",
    "scaled",
]

MAX_MEGAPIXELS = {"JPEG": 200, "WebP": 30, "AVIF": 30}
"""The most that is decoded, as a tiny file can claim any size; 60 of what is not named.

Memory decides. A JPEG is shrunk while it is decoded, unless it is progressive, and so may have what the
largest sensor of a phone has. 60 are more than phones write as HEIC (50), and than a page of A4 has that was
scanned at 600 dpi (35). What decodes WebP and AVIF holds a picture several times over, 16 bytes and more for
each pixel, and few of them have 10 megapixels. With `MAX_MEGABYTES` one picture takes up to 1 GB: a
TIFF of CMYK in 16 bits that is compressed in one piece, which libtiff holds beside file and pixels.
"""

MAX_MEGABYTES = {"WebP": 60}
"""The most bytes, in millions, that a picture's file may have; 250 of what is not named.

A file is held twice while its metadata is cut out, once beside its pixels, and a WebP there several times.
Without compression a page of A4 that was scanned at 600 dpi has 209 MB in 16 bits and 105 MB in 8, and 60
megapixels of CMYK have 240 MB. Larger are scans of several pages, of which only the first is used. Two bytes
a pixel are more than a photo takes as WebP without loss.
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


_PLAIN = ("L", "LA", "RGB", "RGBA", "CMYK")


@attrs.frozen
class Picture:
    """A picture whose header was read.

    Attributes:
        format: as `images.check` names it.
        content: the bytes of a JPEG or PNG of at most 10 MB, without metadata; the very object that came in
            if there was none. None of anything else, which Kling does not take.
        file: what the pixels are decoded from.
        image: its header, and its pixels once `decoded` was called.
        orientation: what turns it upright, EXIF's number from 1 to 8.
    """

    format: str
    content: bytes | None
    file: io.BytesIO
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

    def decoded(self, long_side: int | None = None) -> "Image":
        """The pixels as grey, RGB or CMYK of 8 bits, the first two perhaps with alpha.

        Given *long_side*, a JPEG is decoded at a half, a quarter or an eighth of its size where that is
        enough.
        """
        image = self.image
        if long_side and max(image.size) > long_side:
            image.draft(None, _shrunk(image.size, long_side))
        if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):
            raise UnfitError("has samples of 32 bits, and what is white is not told: save it with 8 or 16")
        image.load()
        self.file.close()  # which Pillow keeps for a second picture, and which may be as large as the pixels
        if image.mode in _PLAIN and "transparency" not in image.info:
            return image
        return by_bands(image, plain)

    def finished(self, pixels: "Image") -> "Image":
        """*pixels* of this picture in sRGB, opaque and upright."""
        if pixels.mode != "RGB" or self.profile:
            pixels = by_bands(pixels, opaque(pixels.mode, self.profile))
        return _upright(pixels, self.orientation)


def open_picture(raw: bytes) -> Picture:
    """Read a picture's header and cut out its metadata.

    Pillow gets to see JPEG, PNG and TIFF without any, and AVIF without EXIF, and so cannot stumble, or warn,
    over what is wrong with it. To silence warnings instead would silence those of every other thread.
    """
    if not raw:
        raise UnfitError("is empty")
    format_ = check(io.BytesIO(raw), len(raw)).format
    refuse_huge(len(raw), format_)
    try:
        importlib.import_module("PIL.Image")
    except ImportError:
        raise MissingError(f"cannot be fitted without Pillow: {install('images')}") from None
    content, exif = _bare(raw, format_)
    file, image = _heic(content) if format_ == "HEIC" else _by_pillow(content, format_)
    if format_ in ("WebP", "AVIF"):
        # HEIC and TIFF are turned by what decodes them. For AVIF, Pillow tells the box's turn as EXIF's.
        exif = image.info.get("exif", b"")
    may_stay = format_ in ("JPEG", "PNG") and len(content) <= MAX_BYTES
    return Picture(format_, content if may_stay else None, file, image, orientation(exif))


def _bare(raw: bytes, format_: str) -> tuple[bytes, bytes]:
    """A picture without metadata, or *raw* itself if it has none, and the EXIF of JPEG and PNG."""
    content, exif = raw, b""
    try:
        match format_:
            case "JPEG":
                content, exif = bare_jpeg(raw)
            case "PNG":
                content, exif = bare_png(raw)
                refuse_other_colours(content)
            case "TIFF":
                content = bare_tiff(raw)
            case "AVIF":
                # Pillow turns by AVIF's own boxes, whatever EXIF says, and yet reads EXIF and warns of it.
                content = _EXIF_ITEM.sub(rb"\1free", raw)
            case _:
                pass
    except ValueError as error:
        raise UnfitError(str(error)) from None
    return raw if content == raw else content, exif  # the very object, so that `is` tells


def _by_pillow(content: bytes, format_: str) -> tuple[io.BytesIO, "Image"]:
    """A picture that Pillow reads, its pixels not yet decoded, and what they will be decoded from."""
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
    file = io.BytesIO(content)
    with decoding():
        # The class, not `Image.open`: that warns, or not, by a setting which belongs to the whole process.
        if format_ == "JPEG" and not has_one_scan(content):
            format_ = "progressive JPEG"
        elif format_ == "JPEG":
            # Where data are missing, libjpeg paints grey up to the end mark; without the mark it says so. The
            # zeros are for its reading ahead.
            end = len(content) - 1
            while content[end - 1] == 0xFF:
                end -= 1
            file.seek(end)
            file.write(bytes(16))
            file.seek(0)
        image: Image = getattr(plugin, f"{name}ImageFile")(file)
        _refuse_bomb(image.size, format_)
    return file, image


# An item of a HEIC or AVIF file (ISO/IEC 14496-12, 8.11.6: its entry, version 2 or 3), up to its texts.
_ITEM = rb"infe(?:\x02.{7}|\x03.{9})"
_HEIC_ITEM = re.compile(rb"(....)" + _ITEM, re.DOTALL)
_EXIF_ITEM = re.compile(rb"(" + _ITEM + rb")Exif", re.DOTALL)


def _heic(content: bytes) -> tuple[io.BytesIO, "Image"]:
    """The main picture of a HEIC file, turned upright by its decoder, and what it was decoded from."""
    try:
        open_heif = importlib.import_module("pi_heif").open_heif
    except ImportError:
        raise MissingError(f"is HEIC, and pi-heif is missing, which reads it: {install('images')}") from None
    with decoding():
        for item in _HEIC_ITEM.finditer(content):
            # pi-heif 1.4 ends the whole process over a text that is none; here it raises.
            content[item.end() : item.start() + int.from_bytes(item[1], "big")].decode()
        file = io.BytesIO(content)
        heif = open_heif(file)
        _refuse_bomb(heif.size, "HEIC")
        return file, cast("Image", heif.to_pillow())


def refuse_huge(size: int, format_: str = "a picture") -> None:
    """Refuse a file of more bytes than are held at once; while its format is unknown, by the most of any."""
    most = MAX_MEGABYTES.get(format_, 250)
    if size > most * 1_000_000:
        raise UnfitError(
            f"has {size:,} bytes: more than {most} MB of {format_} are not opened: "
            "scale it down, or save the first of its pages alone"
        )


def _refuse_bomb(size: tuple[int, int], format_: str) -> None:
    """Refuse what would take gigabytes to decode, by the size that its header tells."""
    width, height = size
    most = MAX_MEGAPIXELS.get(format_, 60)
    if width * height > most * 1_000_000:
        raise UnfitError(
            f"is {width} x {height} px: more than {most} megapixels of {format_} are not opened: "
            "scale it down"
        )


def _shrunk(size: tuple[int, int], long_side: int) -> tuple[int, int]:
    """*size* with its long side at most *long_side*, in the same proportion."""
    factor = min(1.0, long_side / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def scaled(image: "Image", long_side: int) -> "Image":
    """*image* no larger than *long_side*."""
    from PIL.Image import Resampling

    size = _shrunk(image.size, long_side)
    if size == image.size:
        return image
    # Narrower first, by bands: of what has alpha Pillow's `resize` makes a whole copy.
    narrow = by_bands(image, lambda band: band.resize((size[0], band.height), Resampling.LANCZOS))
    return narrow.resize(size, Resampling.LANCZOS)


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
