"""What a picture can be, and whether its header says that Kling takes it.

Sans-I/O: a picture comes in as a seekable reader that the caller opened; nothing here opens a file.
The rules: JPEG or PNG, at most 10 MB, each side at least 300 px, aspect ratio from 1:2.5 to 2.5:1
(API reference, image2video: create). A width and height that cannot be read are a warning only: what reads
the header here is not what reads it at Kling.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Literal
from urllib.parse import urlsplit

import attrs

from kling_async.protocol.models import Image, ImageToVideo, MultiImageToVideo, VideoRequest

__all__ = [
    "MAX_BYTES",
    "SOURCE",
    "Header",
    "ImageFile",
    "ImageText",
    "ImageUrl",
    "ResolvedImage",
    "check",
    "classify",
    "sources",
]

MAX_BYTES = 10 * 1024 * 1024
"""Kling's "10 MB", of the picture itself and not of its base64, read as binary megabytes.

The API reference does not say which. The wider reading is taken: Kling refuses free of charge what we let
through, and nobody can overrule what we refuse.
"""

SOURCE = "API reference, image2video: create"
"""Where the rules for pictures stand, for `Problem.source`."""


@attrs.frozen
class ImageUrl:
    """A picture that Kling fetches itself; sent as it is."""

    url: str


@attrs.frozen
class ImageText:
    """A picture held in memory.

    Attributes:
        base64: what is sent: standard alphabet, no white space, no ``data:`` prefix.
        sha256: of the picture's bytes, in hexadecimal.
    """

    base64: str = attrs.field(repr=False)
    sha256: str


@attrs.frozen
class ImageFile:
    """A picture on disk as it was when it was checked; its bytes are read when they are sent.

    Attributes:
        path: the file.
        size: its bytes.
        mtime_ns: its time of modification, nanoseconds.
        sha256: of its bytes, in hexadecimal.
    """

    path: Path
    size: int
    mtime_ns: int
    sha256: str


ResolvedImage = ImageUrl | ImageText | ImageFile
"""A picture that was checked: what stands in a request's document until it is sent."""


def sources(request: VideoRequest) -> Iterator[tuple[str, Image]]:
    """Every picture that *request* gives, each with its dotted field: ``dynamic_masks[0].mask``."""
    match request:
        case ImageToVideo():
            single = {
                "image": request.image,
                "image_tail": request.image_tail,
                "static_mask": request.static_mask,
            }
            yield from ((field, picture) for field, picture in single.items() if picture is not None)
            for place, mask in enumerate(request.dynamic_masks or ()):
                yield f"dynamic_masks[{place}].mask", mask.mask
        case MultiImageToVideo():
            for place, picture in enumerate(request.image_list):
                yield f"image_list[{place}]", picture
        case _:
            return


# Two letters at least: the one of `C:` is a drive.
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_DATA = re.compile(r"data:([^,]{0,200}),", re.IGNORECASE)
# What JPEG's and PNG's first bytes are in base64.
_BASE64_MAGIC = ("/9j/", "iVBORw0KGgo")
# The longest path Linux takes (PATH_MAX); no shorter text of a picture that is worth sending exists.
_LONGEST_PATH = 4096


def classify(source: Image, *, is_file: Callable[[Path], bool]) -> ImageUrl | str | Path | bytes:
    """What *source* means: a URL, base64 text (a `str`), a path or a file's bytes; nothing is read.

    Text is tried in this order: an http(s) URL; a ``data:`` URL, whose base64 is taken; any other
    ``scheme://`` is an error; longer than 4,096 characters, or beginning as JPEG or PNG do in base64 while no
    such file exists, is base64; all else is a path. ``~`` is left to the caller, who may ask the system.

    Args:
        source: a picture as a request gives it.
        is_file: whether a file exists at a path; asked only about what may as well be base64.

    Raises:
        ValueError: it can be none of these; the message is a clause without a subject.
    """
    if not isinstance(source, str):
        return source
    text = source.strip()
    if scheme := _SCHEME.match(text):
        if scheme[1].lower() not in ("http", "https"):
            raise ValueError(f"has the scheme {scheme[1]}://: give an http(s) URL, a path or the bytes")
        return ImageUrl(_url(text))
    if text[:5].lower() == "data:":
        prefix = _DATA.match(text)
        if prefix is None or not prefix[1].lower().endswith(";base64"):
            raise ValueError("is a data: URL without base64: give its bytes")
        return text[prefix.end() :]
    if len(text) > _LONGEST_PATH or (text.startswith(_BASE64_MAGIC) and not is_file(Path(source))):
        return text
    return Path(source)


def _url(text: str) -> str:
    """*text*, if it is a URL that names a host and has no white space, which no server would find."""
    try:
        host = urlsplit(text).hostname
    except ValueError:
        host = None
    if not host or len(text.split()) > 1:
        raise ValueError("is no valid URL: write it with its host, and %20 for a space")
    return text


@attrs.frozen
class Header:
    """What a picture's first bytes told.

    Attributes:
        format: ``JPEG`` or ``PNG``; of anything else what it is, as far as known.
        width: pixels as stored, before any rotation that EXIF asks for; 0 where unreadable.
        height: pixels as stored; 0 where unreadable.
        problems: why Kling would refuse it, clauses without a subject.
        warnings: what is doubtful about it, clauses without a subject.
        turned: EXIF asks to turn or mirror it; told of a start frame alone, whose masks it concerns.
    """

    format: str
    width: int = 0
    height: int = 0
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    turned: bool = False


def check(reader: BinaryIO, size: int, *, field: str = "image") -> Header:
    """Look at the header of a picture.

    A mask is checked for its format and size in bytes alone: its sides are bound to the image's. For
    ``image_tail`` the API reference states no aspect ratio, so that one is a warning there.

    Args:
        reader: the picture, seekable; it is left at any position.
        size: its length in bytes.
        field: the dotted field it was given in.
    """
    import imagesize  # `import kling_async` loads this module, for `fit`, and reads no picture

    reader.seek(0)
    kind = _format(reader.read(64))
    problems = list(_unfit(kind, size))
    if kind not in ("JPEG", "PNG"):
        return Header(kind, problems=tuple(problems))
    # 2.0 reads JPEG segments by their lengths, however many stand before the frame header. Rotation is of no
    # interest: every rule here is the same for both sides. What fails is told as -1.
    width, height = (max(side, 0) for side in imagesize.get(reader, exif_rotation=False))
    turned = field == "image" and kind == "JPEG" and _is_turned(reader)
    measured, whole = width > 0 and height > 0, _has_end(reader, size, kind)
    warnings: list[str] = []
    if not measured and not whole:
        problems.append(f"is cut off or damaged: no size and no end of {kind} in it")
    elif not measured:
        warnings.append("does not tell its width and height: they were not checked")
    elif not whole:
        warnings.append("may be cut off: it ends without the end mark of a whole picture")
    if measured and not field.endswith("mask"):
        if min(width, height) < 300:
            problems.append(f"is {width} x {height} px: each side must be at least 300 px")
        if max(width, height) > 2.5 * min(width, height):
            told = warnings if field == "image_tail" else problems
            told.append(f"is {width} x {height} px: the aspect ratio must be from 1:2.5 to 2.5:1")
    return Header(kind, width, height, tuple(problems), tuple(warnings), turned)


def _is_turned(reader: BinaryIO) -> bool:
    """Whether EXIF asks for anything but the picture as it is stored (tag 0x0112: 2 to 8)."""
    import imagesize

    try:
        info = imagesize.get_info(reader, dpi=False, colors=False, channels=False)
    except Exception:  # noqa: BLE001 - whatever is damaged there, no reader turns the picture by it
        return False
    return info.rotation in range(2, 9)


def _unfit(kind: str, size: int) -> Iterator[str]:
    """What no picture may be, whatever it is for."""
    if size == 0:
        yield "is empty"
    elif kind not in ("JPEG", "PNG"):
        remedy = "convert it" if kind in _PICTURES else "give a picture"
        yield f"is {kind}, whatever its name says, and Kling takes only JPEG and PNG: {remedy}"
    if size > MAX_BYTES:
        yield f"has {size:,} bytes, at most 10 MB ({MAX_BYTES:,}) are taken: scale it down or save it as JPEG"


def _has_end(reader: BinaryIO, size: int, kind: Literal["JPEG", "PNG"] | str) -> bool:
    """Whether the end mark stands in the last 64 KiB; cameras and editors append things of their own to it.

    The mark cannot occur inside a JPEG's compressed data, where each 0xFF is followed by 0 or 0xD0 to 0xD7.
    """
    reader.seek(max(0, size - 64 * 1024))
    return (b"\xff\xd9" if kind == "JPEG" else b"IEND") in reader.read(64 * 1024)


_MAGIC = (
    ("JPEG", rb"\xff\xd8\xff"),
    ("PNG", rb"\x89PNG\r\n\x1a\n"),
    ("WebP", rb"RIFF....WEBP"),
    ("GIF", rb"GIF8[79]a"),
    ("TIFF", rb"II[*+]\0|MM\0[*+]"),
    ("BMP", rb"BM.{4}\0{4}"),
    ("AVIF", rb"....ftypavi[fs]"),
    ("HEIC", rb"....ftyp(?:he[iv].|mif1|msf1)"),
    ("JPEG XL", rb"\xff\x0a|\0\0\0\x0cJXL "),
    ("JPEG 2000", rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"),
    ("SVG", rb"\s*<(?:svg|\?xml)"),
    ("PDF", rb"%PDF"),
    ("a video", rb"....ftyp|\x1a\x45\xdf\xa3"),
    ("a web page", rb"(?i)\s*<(?:!doctype html|html|head|body)"),
    ("text", rb"[\t\n\r\x20-\x7e\x80-\xff]+\Z"),
)
"""First bytes that tell a format, in the order tried: what people have, and what they save by mistake."""

_PICTURES = {"WebP", "GIF", "TIFF", "BMP", "AVIF", "HEIC", "JPEG XL", "JPEG 2000", "SVG", "PDF"}
"""Formats that some tool on every system converts to JPEG or PNG."""


def _format(head: bytes) -> str:
    """The format that begins with *head*, a file's first 64 bytes."""
    return next((name for name, magic in _MAGIC if re.match(magic, head, re.DOTALL)), "no format we know")
