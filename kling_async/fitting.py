"""Pictures that people have, made into pictures that Kling takes (extra ``images``: Pillow and pi-heif).

A JPEG or PNG that Kling takes stays as it is, except that its metadata is cut out without touching a pixel.
Whatever else can be opened becomes an upright, opaque JPEG in sRGB. Nothing is ever enlarged or cropped: that
would be somebody's decision about the picture, so what is too small or too narrow is refused.

Blocking, and seconds long for the largest: for an executor. Any number of threads may do it.
"""

import base64
import hashlib
import os
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from kling_async.colours import is_srgb
from kling_async.paths import at_home, is_file
from kling_async.pixels import Picture, UnfitError, decoding, jpeg, open_picture, refuse_huge, scaled
from kling_async.protocol.errors import Problem, RequestError
from kling_async.protocol.images import MAX_BYTES, SOURCE, ImageUrl, check, classify

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["LONG_SIDE", "QUALITY", "fit", "fitted", "thumbnail"]

LONG_SIDE = 3840
"""Pixels of the long side of a picture that was too large: 4K's width, and no video of Kling's is wider."""

QUALITY = 92
"""The JPEG quality of what is converted: the differences to the original cannot be seen.

Colour keeps its full resolution (4:4:4). It costs a fifth of the bytes, and without it thin red lines and
lettering blur, which a video then moves about.
"""

_LOWER = (85, 75, 60, 45, 30, 15)
"""The qualities tried where 10 MB do not suffice; a photo hardly ever needs the second."""

_SCALED_FIRST = 50_000_000
"""What has more pixels is scaled before it is converted, which saves the memory.

With 10 MB for all of them each had 1.6 bits, and at our quality a photo takes twice that.
"""


def fit(image: str | Path | bytes) -> bytes:
    """*image* as bytes that Kling takes: JPEG or PNG, upright, opaque, sRGB, at most 10 MB, without metadata.

    A JPEG or PNG that is all of this is given back byte for byte. One that merely carries metadata (EXIF with
    its GPS position, XMP, comments, what phones append) loses it without being encoded again. Everything else
    becomes a JPEG: HEIC, WebP, AVIF, TIFF, GIF and BMP (of several pictures the first), CMYK, 16 bits,
    colours of another profile (Display P3, Adobe RGB), what EXIF wants turned, what is transparent (laid on
    white), and what has more than 10 MB.

    Only what has more than 10 MB as a JPEG of `QUALITY` is scaled down, to `LONG_SIDE`, and encoded at lower
    qualities until it is within. One version of Pillow gives the same bytes every time; another may not.

    Args:
        image: a path, a picture's bytes, or its base64. A URL is not fetched.

    Raises:
        RequestError: nothing can be made of it. A side has less than 300 px, or its aspect ratio is beyond
            1:2.5 to 2.5:1 (API reference, image2video: create); it is damaged, no picture, a URL, cannot be
            read, or has more pixels or bytes than are opened (`kling_async.pixels.MAX_MEGAPIXELS`,
            `MAX_MEGABYTES`); its colours are HDR by PNG's cICP, or told by cICP or gAMA alone and far from
            sRGB; it is a camera's raw picture; or the extra is not installed.
    """
    name = "the picture"
    try:
        name, source = _located(image)
        return _fit(open_picture(source if isinstance(source, bytes) else _read(source)))
    except UnfitError as error:
        problem = Problem("image", f"{name} {error}", SOURCE)
        raise RequestError(problems=[problem], advice=error.advice) from error


def fitted(path: Path, folder: Path) -> Path:
    """The file of a picture that Kling takes: *path* itself where `fit` leaves it as it is, else one it made.

    An item is recognised by its picture's bytes, and another Pillow may encode differently. What was made is
    therefore kept, as ``folder/<first 16 digits of the original's SHA-256>/<stem>.jpg`` (``.png`` for a PNG
    that only lost its metadata), and found again by the original's bytes, under whatever name they come. It
    is written whole or not at all, and never again while it is whole.

    Args:
        path: the original, which is never changed.
        folder: where what is made is kept; made when first needed.

    Raises:
        ValueError: with a clause without a subject: as `fit`, or the result cannot be written.
    """
    raw = _read(path)
    home = folder / hashlib.sha256(raw).hexdigest()[:16]
    try:
        kept = [
            file for file in sorted(home.glob("*.*")) if file.suffix in (".jpg", ".png") and _is_whole(file)
        ]
        named = [file for file in kept if file.stem == path.stem]
        if named:
            return named[0]
        if kept:
            content = kept[0].read_bytes()
        else:
            picture = open_picture(raw)
            is_bare = picture.content is raw
            del raw  # which may be as large as the pixels that now follow
            content = _fit(picture)
            if is_bare and content is picture.content:
                return path
        target = home / (path.stem + (".png" if content.startswith(b"\x89PNG") else ".jpg"))
        _write(target, content)
    except OSError as error:
        raise UnfitError(f"was fitted, and cannot be kept in {folder}: {error.strerror or error}") from error
    return target


def thumbnail(image: Path | bytes, side: int = 360) -> bytes | None:
    """A small JPEG of a picture, upright and opaque, to be looked at; never raises.

    Args:
        image: a path or a picture's bytes.
        side: pixels of the long side, at most; a smaller picture keeps its size.

    Returns:
        The JPEG, or None where Pillow is missing or the picture cannot be read.
    """
    try:
        picture = open_picture(image if isinstance(image, bytes) else _read(image))
        with decoding():
            small = scaled(picture.decoded(side), side)
            return jpeg(picture.finished(small), 75)
    except Exception:  # noqa: BLE001 - a page without one picture is better than no page
        return None


def _read(path: Path) -> bytes:
    """The bytes of a regular file; no pipe is opened, as it would wait for its writer."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UnfitError("is a folder" if stat.S_ISDIR(status.st_mode) else "is no regular file")
        refuse_huge(status.st_size)
        return path.read_bytes()
    except FileNotFoundError:
        raise UnfitError("does not exist") from None
    except OSError as error:
        raise UnfitError(f"cannot be read: {error.strerror or error}") from error
    except UnfitError:
        raise
    except ValueError as error:  # a NUL or half a surrogate pair in its name
        raise UnfitError(f"is no path: {error}") from error


def _located(image: str | Path | bytes) -> tuple[str, Path | bytes]:
    """What messages call the picture, and where it is or what it holds."""
    if not isinstance(image, str | Path | bytes):
        raise UnfitError(f"is {type(image).__name__}: give a path, the bytes or base64")
    if isinstance(image, str) and not image.strip():
        raise UnfitError("is an empty text: give a path, the bytes or base64")
    try:
        source = classify(image, is_file=is_file)
    except ValueError as error:
        raise UnfitError(str(error)) from None
    match source:
        case ImageUrl():
            raise UnfitError("is a URL, which is not fetched here: download it first, or send it as it is")
        case bytes():
            return "the picture given as bytes", source
        case Path():
            path = at_home(source) if isinstance(image, str) else source  # a `Path` is what it is
            return str(path), path
        case str():
            return "the picture given as base64", _from_base64(source)


def _from_base64(text: str) -> bytes:
    """The bytes of base64 *text*, white space ignored."""
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError as error:
        raise UnfitError(f"is no valid base64: {error}") from None


def _is_whole(path: Path) -> bool:
    """Whether a file that was kept is still a picture that Kling takes, to its end mark."""
    with path.open("rb") as reader:
        header = check(reader, os.fstat(reader.fileno()).st_size)
    return not header.problems and not header.warnings


def _write(target: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        part.write_bytes(content)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _fit(picture: Picture) -> bytes:
    """`fit` of an opened picture: its content itself where it stays as it is."""
    width, height = picture.size
    if min(width, height) < 300:
        raise UnfitError(
            f"is {width} x {height} px: each side must be at least 300 px, and nothing is enlarged: "
            "give a larger one"
        )
    if max(width, height) > 2.5 * min(width, height):
        raise UnfitError(
            f"is {width} x {height} px: the aspect ratio must be from 1:2.5 to 2.5:1, "
            "and nothing is cropped: crop it yourself"
        )
    is_jpeg_too_large = picture.format == "JPEG" and picture.content is None
    with decoding():
        if is_jpeg_too_large or width * height > _SCALED_FIRST:
            pixels = scaled(picture.decoded(LONG_SIDE), LONG_SIDE)
        else:
            pixels = picture.decoded()
        if picture.content and _stays(picture, picture.content, pixels):
            return picture.content
        return _small_enough(picture.finished(pixels))


def _stays(picture: Picture, content: bytes, pixels: "Image") -> bool:
    """Whether Kling shows the picture's own bytes, *content*, as they are meant."""
    has_16_bits = picture.format == "PNG" and content[24] == 16  # IHDR's bit depth
    return (
        picture.orientation == 1
        and not has_16_bits
        and pixels.mode != "CMYK"
        and (pixels.mode not in ("LA", "RGBA") or pixels.getchannel("A").getextrema() == (255, 255))
        and (picture.profile is None or is_srgb(picture.profile, pixels.mode.removesuffix("A")))
    )


def _small_enough(image: "Image") -> bytes:
    """The best JPEG of at most 10 MB."""
    content = jpeg(image, QUALITY)
    if len(content) > MAX_BYTES:
        image = scaled(image, LONG_SIDE)
        for quality in (QUALITY, *_LOWER):
            content = jpeg(image, quality)
            if len(content) <= MAX_BYTES:
                break
    return content
