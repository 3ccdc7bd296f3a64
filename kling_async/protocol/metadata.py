"""What a JPEG or PNG holds beside its pixels, and the file without it: no pixel is decoded, none changes.

Sans-I/O. GPS position, serial numbers, a generator's prompt, a phone's video behind the picture: none of it
is anybody's business, and none of it makes a video better.
"""

import contextlib
import re
import struct

__all__ = ["bare_jpeg", "bare_png", "orientation"]

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
    kept, exif = [raw[:2]], b""
    at, is_scan = 2, False
    while marker := _MARKER.search(raw, at):
        code = marker[1][0]
        if is_scan:
            kept.append(raw[at : marker.start()])
        if code == _END_OF_IMAGE:
            return b"".join([*kept, raw[marker.start() : marker.end()]]), exif
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
            kept.append(raw[marker.start() : end])
        at, is_scan = end, code == _START_OF_SCAN
    raise ValueError("is cut off or damaged: it lacks the end mark of JPEG: export it anew")


_PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
_COLOURS = {b"cHRM", b"gAMA", b"iCCP", b"sBIT", b"sRGB", b"cICP", b"bKGD", b"pHYs"}


def bare_png(raw: bytes) -> tuple[bytes, bytes]:
    """A PNG without texts, times, animation and what follows its end, and its EXIF (W3C PNG, section 11).

    Raises:
        ValueError: with a clause without a subject: it has no end.
    """
    kept, exif, at = [raw[:8]], b"", 8
    while at + 12 <= len(raw):
        end = at + 12 + int.from_bytes(raw[at : at + 4], "big")
        kind = raw[at + 4 : at + 8]
        if end > len(raw):
            break
        if kind == b"eXIf":
            exif = raw[at + 8 : end - 4]
        if kind in _PIXELS | _COLOURS:
            kept.append(raw[at:end])
        if kind == b"IEND":
            return b"".join(kept), exif
        at = end
    raise ValueError("is cut off or damaged: it lacks the end mark of PNG: export it anew")


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
