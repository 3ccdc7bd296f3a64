"""What JPEG, PNG and TIFF hold beside pixels, and the file without it: no pixel is decoded, none changes.

Sans-I/O. GPS position, serial numbers, a generator's prompt, a phone's video behind the picture: none of it
is anybody's business, and none of it makes a video better.
"""

import contextlib
import re
import struct
from typing import Literal

__all__ = ["bare_jpeg", "bare_png", "bare_tiff", "has_one_scan", "orientation", "refuse_other_colours"]

# Fill bytes, zeros that mask an 0xFF and restart marks are part of a scan's data, not markers.
_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
_END_OF_IMAGE, _START_OF_SCAN, _COMMENT = 0xD9, 0xDA, 0xFE
_APP0, _APP1, _APP2, _APP14, _APP15 = 0xE0, 0xE1, 0xE2, 0xEE, 0xEF


def bare_jpeg(raw: bytes) -> tuple[bytes, bytes]:
    """A JPEG's first picture without metadata, and its EXIF (ITU-T T.81, annex B).

    Of the application's segments only those stay that tell its colours: JFIF (without a thumbnail), Adobe and
    the ICC profile. All others are dropped, and what follows the end mark: a phone's video, a second picture.

    Raises:
        ValueError: with a clause without a subject: it has no end.
    """
    view, exif = memoryview(raw), b""  # its slices are no copies
    kept = [view[:2]]
    at, is_scan = 2, False
    while marker := _MARKER.search(raw, at):
        code = marker[1][0]
        if is_scan:
            kept.append(view[at : marker.start()])
        if code == _END_OF_IMAGE:
            return b"".join([*kept, view[marker.start() : marker.end()]]), exif
        end = marker.end() + int.from_bytes(raw[marker.end() : marker.end() + 2], "big")
        body = raw[marker.end() + 2 : end]
        if end > len(raw):
            break
        if code == _APP1 and body.startswith(b"Exif\0\0"):
            exif = exif or body
        is_application = _APP0 <= code <= _APP15
        tells_colours = (
            (code == _APP0 and body.startswith(b"JFIF\0") and len(body) == 14)
            or (code == _APP2 and body.startswith(b"ICC_PROFILE\0"))
            or (code == _APP14 and body.startswith(b"Adobe"))
        )
        if tells_colours or not (is_application or code == _COMMENT):
            kept.append(view[marker.start() : end])
        at, is_scan = end, code == _START_OF_SCAN
    raise ValueError("is cut off or damaged: it lacks the end mark of JPEG: export it anew")


def has_one_scan(jpeg: bytes) -> bool:
    """Whether a bare JPEG is decoded row by row as it is read (ITU-T T.81: B.2.2 and B.2.3).

    That is: it is neither progressive nor arithmetic, and its first scan has all of its components. Every
    other is held whole, as coefficients, before the first row is there.
    """
    at, components = 2, -1
    while marker := _MARKER.search(jpeg, at):
        code, body = marker[1][0], marker.end() + 2
        if code in (0xC0, 0xC1):  # baseline and extended sequential frames, coded after Huffman
            components = int.from_bytes(jpeg[body + 5 : body + 6], "big")
        if code == _START_OF_SCAN:
            return components == int.from_bytes(jpeg[body : body + 1], "big")
        at = marker.end() + int.from_bytes(jpeg[marker.end() : body], "big")
    return False


_PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
_COLOURS = {b"cHRM", b"gAMA", b"iCCP", b"sBIT", b"sRGB", b"cICP", b"bKGD", b"pHYs"}


def bare_png(raw: bytes) -> tuple[bytes, bytes]:
    """A PNG without texts, times, animation and what follows its end, and its EXIF (W3C PNG, section 11).

    Raises:
        ValueError: with a clause without a subject: it has no end.
    """
    view, exif, at = memoryview(raw), b"", 8  # its slices are no copies
    kept = [view[:8]]
    while at + 12 <= len(raw):
        end = at + 12 + int.from_bytes(raw[at : at + 4], "big")
        kind = raw[at + 4 : at + 8]
        if end > len(raw):
            break
        if kind == b"eXIf":
            exif = raw[at + 8 : end - 4]
        if kind in _PIXELS | _COLOURS:
            kept.append(view[at:end])
        if kind == b"IEND":
            return b"".join(kept), exif
        at = end
    raise ValueError("is cut off or damaged: it lacks the end mark of PNG: export it anew")


_NEAR_SRGB = ({1, 2, 5, 6, 7}, {1, 2, 4, 6, 13, 14, 15})
"""Primaries and transfers of cICP that look right as sRGB: its own, those of SD and HD video, unspecified.

The numbers are of ITU-T H.273, 8.1 and 8.2.
"""

_NEAR_GAMMA = range(30_000, 70_001)
"""gAMA that looks right as sRGB: that means 45,455, and old Macs wrote 55,556. Linear would be 100,000."""


_HDR = {16, 18}
"""Transfers of cICP whose white is no white of sRGB's, whatever an ICC profile says: PQ and HLG."""


def refuse_other_colours(png: bytes) -> None:
    """Refuse a PNG whose colours are far from sRGB's, where no ICC profile tells how to convert them.

    cICP goes before iCCP, that before sRGB, that before gAMA (W3C PNG, third edition). An ICC profile beside
    cICP is for readers that do not know cICP, and so means the same colours, except those of HDR.

    Raises:
        ValueError: with a clause without a subject: which chunk asks for such colours, and what to do.
    """
    chunks, at = dict[bytes, bytes](), 8
    while png[at + 4 : at + 8] not in (b"IDAT", b""):
        end = at + 8 + int.from_bytes(png[at : at + 4], "big")
        chunks.setdefault(png[at + 4 : at + 8], png[at + 8 : end])
        at = end + 4
    coded = chunks.get(b"cICP", b"")
    gamma = int.from_bytes(chunks.get(b"gAMA", b""), "big")
    if len(coded) == 4 and coded[1] in _HDR:
        told, advice = "cICP", "export it in sRGB"
    elif b"iCCP" in chunks:
        return
    elif len(coded) == 4 and any(code not in near for code, near in zip(coded, _NEAR_SRGB, strict=False)):
        told, advice = "cICP", _WITH_PROFILE
    elif gamma and gamma not in _NEAR_GAMMA and not chunks.keys() & {b"cICP", b"sRGB"}:
        told, advice = "gAMA", _WITH_PROFILE
    else:
        return
    raise ValueError(
        f"has colours far from sRGB, told by PNG's {told}, which is not converted here: {advice}"
    )


_WITH_PROFILE = "export it in sRGB, or with an ICC profile"


_TIFF_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
"""Bytes of one value of each type."""

# What tells the pixels, their colours and which way is up: what has one value, any number, or is bytes.
_TIFF_ONE = {256, 257, 259, 262, 266, 274, 277, 278, 284, 292, 293, 317} | {
    322,
    323,
    332,
    *range(512, 516),
    531,
}
_TIFF_MANY = {258, 273, 279, 320, 324, 325, 338, 339, 519, 520, 521, 529, 530, 532, 50674}
_TIFF_BYTES = {347, 34675}
_SUBFILE, _MAKE, _DNG = 254, 271, 50706


def bare_tiff(raw: bytes) -> bytes:
    """A TIFF whose directory names its first picture's pixels, colours and orientation, and nothing else.

    Nothing moves: the rest stays in the file, where no reader finds it. TIFF 6.0, section 2, and BigTIFF.

    Raises:
        ValueError: with a clause without a subject: it is cut off, or a camera's raw picture.
    """
    order: Literal["little", "big"] = "little" if raw.startswith(b"II") else "big"
    word, head = (8, 8) if 43 in raw[2:4] else (4, 2)  # bytes of an offset, and of the number of entries

    def number(at: int, size: int) -> int:
        part = raw[at : at + size]
        if len(part) < size:
            raise ValueError(_TIFF_CUT)
        return int.from_bytes(part, order)

    first = number(word, word) + head
    length = 4 + 2 * word
    places = range(first, first + length * number(first - head, head), length)
    number(places.stop - 1, 1)  # the directory ends within the file
    tags = {number(at, 2): at for at in reversed(places)}  # of several the first
    subfile = tags.get(_SUBFILE)
    # What comes first in NEF, ARW and DNG is a small version of the picture.
    is_reduced = subfile is not None and number(subfile + 4 + word, _TIFF_SIZES[4]) & 1
    if raw[8:10] == b"CR" or _DNG in tags or (_MAKE in tags and is_reduced):
        raise ValueError(
            "is a camera's raw picture, such as CR2, NEF, ARW or DNG, which is not developed here: "
            "export it as JPEG"
        )
    kept, outside = [], 0
    for tag, at in sorted(tags.items()):
        kind, count = number(at + 2, 2), number(at + 4, word)
        size = _TIFF_SIZES.get(kind, 0)
        if tag not in _TIFF_ONE | _TIFF_MANY | _TIFF_BYTES or not size:
            continue
        if size * count > word:
            outside += size * count
            if number(at + 4 + word, word) + size * count > len(raw) or outside > len(raw):
                raise ValueError(_TIFF_CUT)
        if (tag in _TIFF_ONE and count != 1) or (tag in _TIFF_BYTES and kind not in (1, 2, 7)):
            raise ValueError(_TIFF_CUT)
        kept.append(raw[at : at + length])
    entries = len(kept).to_bytes(head, order) + b"".join(kept) + bytes(word)
    view, place = memoryview(raw), first - head
    return b"".join((view[:place], entries, view[place + len(entries) :]))


_TIFF_CUT = "is cut off or damaged: its TIFF directory does not hold together: export it anew"

_WHOLE_NUMBERS = {3: "H", 4: "I"}
"""SHORT, which the orientation is to be, and LONG, which some write."""


def orientation(exif: bytes) -> int:
    """How a picture is to be turned (EXIF 2.32, 4.6.4: tag 0x0112 of the first directory); 1: not at all.

    Read here, as Pillow warns about damaged EXIF, which cameras and editors do write.
    """
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2], "<")
    with contextlib.suppress(struct.error):
        (at,) = struct.unpack_from(f"{order}I", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, at)
        for entry in range(entries):
            place = at + 2 + 12 * entry
            tag, kind = struct.unpack_from(f"{order}HH", tiff, place)
            if tag != 0x0112 or kind not in _WHOLE_NUMBERS:
                continue
            (value,) = struct.unpack_from(f"{order}{_WHOLE_NUMBERS[kind]}", tiff, place + 8)
            if 1 <= value <= 8:
                return int(value)
    return 1
