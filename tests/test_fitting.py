"""What people have becomes what Kling takes: upright, opaque, sRGB, small enough, without metadata."""

import base64
import contextlib
import functools
import io
import itertools
import os
import random
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pillow_heif
import pytest
from PIL import GifImagePlugin, Image, ImageChops, ImageCms, ImageStat, PngImagePlugin

import kling_async
from kling_async.batch.pictures import Fitter
from kling_async.colours import opaque
from kling_async.extras import install
from kling_async.fitting import LONG_SIDE, fit, fitted, thumbnail
from kling_async.pixels import scaled
from kling_async.protocol.errors import Outcome, Problem, RequestError
from kling_async.protocol.images import MAX_BYTES, check

PHOTOS = Path(kling_async.__file__).parent / "photos"
COFFEE = PHOTOS / "coffee.jpg"
RED, GREEN, BLUE, YELLOW = (220, 30, 30), (30, 160, 40), (30, 40, 200), (230, 220, 40)
SECRET = b"Ada Lovelace, 51.5007 N"


def saved(image: Image.Image, form: str, **options: Any) -> bytes:
    """*image* as a file's bytes."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def opened(content: bytes) -> Image.Image:
    """A picture, decoded, after the check that every one that is sent must pass."""
    header = check(io.BytesIO(content), len(content))
    assert header.problems == header.warnings == ()
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def quarters(size: tuple[int, int] = (600, 400)) -> Image.Image:
    """Red and green above, blue and yellow below: tells every way of turning from every other."""
    small = Image.new("RGB", (2, 2))
    small.putdata([RED, GREEN, BLUE, YELLOW])
    return small.resize(size, Image.Resampling.NEAREST)


def corners(image: Image.Image) -> list[Any]:
    """The colours in the middles of the four quarters, in reading order."""
    width, height = image.size
    places = itertools.product((height // 4, height * 3 // 4), (width // 4, width * 3 // 4))
    return [image.convert("RGB").getpixel((x, y)) for y, x in places]


def is_near(found: Any, expected: Any, within: int = 6) -> bool:
    """Whether colours agree within what JPEG may change."""
    return all(
        abs(a - b) <= within
        for one, other in zip(found, expected, strict=True)
        for a, b in zip(one, other, strict=True)
    )


def exif(orientation: int = 1) -> bytes:
    """EXIF of a phone: which way up, whose, and where."""
    tags = Image.Exif()
    tags[0x0112] = orientation
    tags[0x013B] = SECRET.decode()
    tags.get_ifd(0x8825).update({1: "N", 2: (51.0, 30.0, 2.5), 3: "W", 4: (0.0, 7.0, 28.0)})
    return tags.tobytes()


def in_four_bytes(orientation: int, order: str = "<") -> bytes:
    """EXIF that tells which way up as LONG."""
    head = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, 8)
    return b"Exif\0\0" + head + struct.pack(f"{order}HHHIII", 1, 0x0112, 4, 1, orientation, 0)


def refusal(image: Any) -> str:
    """Why `fit` refuses, one line that names the field and says that nothing was paid."""
    with pytest.raises(RequestError) as caught:
        fit(image)
    assert caught.value.outcome is Outcome.NOT_CREATED
    assert [problem.field for problem in caught.value.problems] == ["image"]
    assert "\n" not in str(caught.value)
    return caught.value.problems[0].message


# What stays as it is.


@pytest.mark.parametrize("name", ["astronaut.jpg", "cat.png", "coffee.jpg"])
def test_what_is_fit_is_returned_byte_for_byte(name: str):
    """A photo that Kling takes, with nothing private in it, is not touched, whichever way it is given."""
    raw = (PHOTOS / name).read_bytes()
    assert fit(raw) == fit(PHOTOS / name) == fit(str(PHOTOS / name)) == raw


@pytest.mark.parametrize(
    ("mode", "form"),
    [
        ("RGB", "JPEG"),
        ("L", "JPEG"),
        ("RGB", "PNG"),
        ("L", "PNG"),
        ("P", "PNG"),
        ("1", "PNG"),
        ("RGBA", "PNG"),
    ],
)
def test_kinds_that_stay(mode: str, form: str):
    """Grey, palette and an alpha channel that hides nothing are no reason to convert."""
    raw = saved(quarters().convert(mode), form)
    assert fit(raw) == raw


def test_a_jpeg_may_be_filled_up_before_its_end():
    """Any number of 0xFF may stand before a marker (ITU-T T.81, B.1.1.2), the end mark too."""
    raw = COFFEE.read_bytes()
    filled = raw[:-2] + b"\xff" * 500 + raw[-2:]
    assert fit(filled) == filled


def test_an_srgb_profile_is_no_reason_to_convert():
    """A profile is judged by what it does to colours: the one of sRGB does nothing."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    raw = saved(quarters(), "JPEG", icc_profile=profile)
    assert fit(raw) == raw


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("restart", [0, 1])
def test_a_jpeg_loses_its_metadata_without_being_encoded_again(progressive: bool, restart: int):
    """EXIF, XMP, IPTC, comment and what stands behind the end are gone, and the pixels are the very same."""
    photo = Image.open(COFFEE)
    plain = saved(photo, "JPEG", progressive=progressive, restart_marker_rows=restart)
    dirty = saved(
        photo,
        "JPEG",
        progressive=progressive,
        restart_marker_rows=restart,
        exif=exif(),
        comment=SECRET,
        xmp=b"<x:xmpmeta>" + SECRET,
    )
    iptc = b"\xff\xed" + struct.pack(">H", 2 + 14 + len(SECRET)) + b"Photoshop 3.0\0" + SECRET
    dirty = dirty[:2] + iptc + dirty[2:] + plain + b"....ftypmp42" + SECRET
    result = fit(dirty)
    assert SECRET in dirty
    assert SECRET not in result
    assert b"Exif" not in result
    assert b"ftyp" not in result
    assert opened(result).tobytes() == opened(plain).tobytes()
    assert dict(opened(result).getexif()) == {}
    assert fit(result) == result


def test_a_thumbnail_inside_a_jpeg_goes_with_its_metadata():
    """An EXIF thumbnail is a JPEG in the JPEG, end mark and all: it is skipped by its length, and is gone."""
    plain = COFFEE.read_bytes()
    inner = saved(quarters((160, 120)), "JPEG")
    body = b"Exif\0\0II*\0\x08\0\0\0\0\0" + inner
    result = fit(plain[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(body)) + body + plain[2:])
    assert result == plain


def test_a_png_loses_its_metadata_without_being_encoded_again():
    """A generator's prompt, EXIF and trailing bytes are gone; pixels and profile stay, and it stays PNG."""
    texts = PngImagePlugin.PngInfo()
    texts.add_text("parameters", SECRET.decode())
    texts.add_itxt("XML:com.adobe.xmp", SECRET.decode())
    photo = Image.open(PHOTOS / "cat.png")
    profile = photo.info["icc_profile"]
    result = fit(saved(photo, "PNG", pnginfo=texts, exif=exif(), icc_profile=profile) + SECRET)
    assert SECRET not in result
    assert opened(result).format == "PNG"
    assert opened(result).info == {"icc_profile": profile}
    assert opened(result).tobytes() == photo.tobytes()


def test_metadata_that_makes_a_file_too_large():
    """A phone's video behind the photo does not count once it is gone: the photo stays as it is."""
    raw = COFFEE.read_bytes()
    assert fit(raw + bytes(MAX_BYTES)) == raw


# What is converted.


@pytest.mark.parametrize("orientation", range(1, 9))
def test_each_orientation_is_applied(orientation: int):
    """EXIF's eight ways to hold a camera: what was stored turned comes out as it was seen."""
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    seen = quarters()
    stored = seen.transpose(back[orientation]) if orientation in back else seen
    for form in ("JPEG", "PNG", "WebP", "TIFF"):
        content = saved(stored, form, exif=exif(orientation))
        assert SECRET in content
        assert SECRET not in fit(content)
        result = opened(fit(content))
        assert result.size == seen.size
        assert is_near(corners(result), [RED, GREEN, BLUE, YELLOW])
        small = thumbnail(content)
        assert small is not None
        assert is_near(corners(Image.open(io.BytesIO(small))), [RED, GREEN, BLUE, YELLOW], within=12)


@pytest.mark.parametrize(("orientation", "size"), [(1, (600, 400)), (6, (400, 600))])
def test_heic_of_a_phone(tmp_path: Path, orientation: int, size: tuple[int, int]):
    """HEIC is decoded, turned once and not twice, and its position is not in what comes out."""
    path = tmp_path / "IMG_0001.HEIC"
    pillow_heif.from_pillow(quarters()).save(path, quality=90, exif=exif(orientation))
    assert SECRET in path.read_bytes()
    result = fit(path)
    assert opened(result).format == "JPEG"
    assert opened(result).size == size
    turned = [BLUE, RED, YELLOW, GREEN]
    assert is_near(corners(opened(result)), turned if orientation == 6 else [RED, GREEN, BLUE, YELLOW], 12)
    assert SECRET not in result
    assert b"Exif" not in result


def translucent() -> Image.Image:
    """Red on the left; nothing at all on the right, black where one looks beneath."""
    image = Image.new("RGBA", (600, 400), (0, 0, 0, 0))
    image.paste((*RED, 255), (0, 0, 300, 400))
    return image


@pytest.mark.parametrize("form", ["PNG", "WebP", "TIFF", "AVIF", "GIF", "palette PNG", "HEIC", "grey"])
def test_transparency_is_laid_on_white(form: str):
    """Where nothing is, the video has white, and not the black beneath."""
    image, red = translucent(), RED
    match form:
        case "palette PNG":
            raw = saved(image.quantize(8), "PNG")
            assert Image.open(io.BytesIO(raw)).mode == "P"
        case "HEIC":
            file = io.BytesIO()
            pillow_heif.from_pillow(image).save(file, quality=95)
            raw = file.getvalue()
        case "grey":
            raw, red = saved(image.convert("LA"), "PNG"), (image.convert("L").getpixel((0, 0)),) * 3
        case _:
            raw = saved(image, form)
    assert is_near(corners(opened(fit(raw))), [red, (255, 255, 255)] * 2, within=14)


@pytest.mark.parametrize("order", ["<", ">"])
def test_an_orientation_in_four_bytes_is_obeyed(order: str):
    """Some write EXIF's orientation as LONG, where it is to be SHORT; viewers turn such a picture too."""
    raw = saved(quarters(), "JPEG", exif=in_four_bytes(6, order))
    result = opened(fit(raw))
    assert result.size == (400, 600)
    assert is_near(corners(result), [BLUE, RED, YELLOW, GREEN], within=14)


def test_damaged_exif_says_nothing():
    """EXIF that ends early, points outside, or names no way up: the picture stands as it is stored."""
    for body in (
        b"",
        b"II*\0",
        b"MM\0*\xff\xff\xff\xff",
        b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x09\0",
    ):
        raw = saved(quarters(), "JPEG", exif=b"Exif\0\0" + body)
        assert is_near(corners(opened(fit(raw))), [RED, GREEN, BLUE, YELLOW])


@pytest.mark.parametrize("form", ["BMP", "GIF", "WebP", "TIFF", "AVIF"])
def test_other_formats_become_jpeg(form: str):
    """What Kling does not take becomes a JPEG of the same size and look."""
    result = opened(fit(saved(quarters(), form)))
    assert (result.format, result.mode, result.size) == ("JPEG", "RGB", (600, 400))
    assert is_near(corners(result), [RED, GREEN, BLUE, YELLOW], within=10)


def test_of_an_animation_the_first_picture():
    """The first picture of a GIF, without the comment that Pillow would carry over."""
    frames = [Image.new("RGB", (400, 300), colour) for colour in (RED, BLUE)]
    raw = saved(frames[0], "GIF", save_all=True, append_images=frames[1:], comment=SECRET)
    assert GifImagePlugin.GifImageFile(io.BytesIO(raw)).n_frames == 2
    result = fit(raw)
    assert is_near(corners(opened(result)), [RED] * 4)
    assert SECRET not in result


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_tones(form: str):
    """Dark, middle and bright stay where they are, instead of all but black becoming white."""
    samples = struct.pack("<3H", 0x2000, 0x8000, 0xF000)
    image = Image.frombytes("I;16", (3, 1), samples).resize((600, 300), Image.Resampling.NEAREST)
    result = opened(fit(saved(image, form)))
    assert is_near(
        [[result.convert("L").getpixel((x, 150)) for x in (100, 300, 500)]], [[0x20, 0x80, 0xF0]], 2
    )


def test_16_bit_grey_with_one_transparent_tone_is_laid_on_white():
    """Only the very tone that tRNS names is transparent, and not those that share a byte with it."""
    samples = struct.pack("<3H", 0x2010, 0x2011, 0x8010)
    image = Image.frombytes("I;16", (3, 1), samples).resize((600, 300), Image.Resampling.NEAREST)
    raw = saved(image, "PNG")
    at = raw.index(b"IDAT") - 4
    body = b"tRNS" + struct.pack(">H", 0x2010)
    raw = raw[:at] + struct.pack(">I", 2) + body + struct.pack(">I", zlib.crc32(body)) + raw[at:]
    result = opened(fit(raw)).convert("L")
    assert is_near([[result.getpixel((x, 150)) for x in (100, 300, 500)]], [[255, 0x20, 0x80]], 3)


def test_16_bit_colour_becomes_8():
    """A PNG with 16 bits per channel is encoded as a JPEG."""
    rows = (b"\0" + struct.pack(">3H", 0xDC00, 0x1E00, 0x1E00) * 400) * 300
    header = struct.pack(">IIBBBBB", 400, 300, 16, 2, 0, 0, 0)
    file = io.BytesIO(b"\x89PNG\r\n\x1a\n")
    file.seek(0, io.SEEK_END)
    for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")):
        PngImagePlugin.putchunk(file, kind, body)
    result = opened(fit(file.getvalue()))
    assert result.format == "JPEG"
    assert is_near(corners(result), [RED] * 4)


def test_cmyk_becomes_rgb():
    """A JPEG for print, which browsers show wrong, comes out in the colours it means."""
    raw = saved(quarters().convert("CMYK"), "JPEG", quality=95)
    assert Image.open(io.BytesIO(raw)).mode == "CMYK"
    result = opened(fit(raw))
    assert (result.format, result.mode) == ("JPEG", "RGB")
    assert is_near(corners(result), [RED, GREEN, BLUE, YELLOW])


def display_p3() -> bytes:
    """An ICC profile of Display P3: its primaries adapted to D50, and sRGB's curve (ICC.1:2010)."""

    def fixed(*values: float) -> bytes:
        return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))

    curve = b"para\0\0\0\0\0\3\0\0" + fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    tags = {
        b"desc": b"mluc\0\0\0\0"
        + struct.pack(">II2s2sII", 1, 12, b"en", b"US", 4, 28)
        + "P3".encode("utf-16-be"),
        b"wtpt": b"XYZ \0\0\0\0" + fixed(0.9642, 1.0, 0.8249),
        b"rXYZ": b"XYZ \0\0\0\0" + fixed(0.51512, 0.24120, -0.00105),
        b"gXYZ": b"XYZ \0\0\0\0" + fixed(0.29198, 0.69225, 0.04189),
        b"bXYZ": b"XYZ \0\0\0\0" + fixed(0.15710, 0.06657, 0.78407),
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve),
    }
    table, data = struct.pack(">I", len(tags)), b""
    for name, body in tags.items():
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(data), len(body))
        data += body + bytes(-len(body) % 4)
    head = struct.pack(">I4sI", 132 + 12 * len(tags) + len(data), b"\0" * 4, 0x04200000) + b"mntrRGB XYZ "
    head = head.ljust(36, b"\0") + b"acsp"
    return head.ljust(68, b"\0") + fixed(0.9642, 1.0, 0.8249) + bytes(48) + table + data


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WebP", "TIFF", "RGBA"])
def test_wide_gamut_colours_become_srgb(form: str):
    """Display P3's (200, 100, 50) is sRGB's (215, 93, 31): taken as it stands it would come out pale."""
    patch = Image.new("RGB", (400, 300), (200, 100, 50))
    if form == "RGBA":
        raw = saved(patch.convert("RGBA"), "PNG", icc_profile=display_p3())
    else:
        raw = saved(patch, form, icc_profile=display_p3(), quality=95)
    result = opened(fit(raw))
    assert is_near(corners(result), [(215, 93, 31)] * 4, within=3)
    assert "icc_profile" not in result.info


def test_a_damaged_profile_is_ignored():
    """As every viewer does, colours are then taken as sRGB."""
    result = opened(fit(saved(quarters(), "WebP", icc_profile=b"rubbish")))
    assert is_near(corners(result), [RED, GREEN, BLUE, YELLOW], within=10)


# What is too large.


def noise(size: tuple[int, int], mode: str = "RGB") -> Image.Image:
    """Chance, which no format makes smaller."""
    return Image.frombytes(mode, size, random.Random(1).randbytes(size[0] * size[1] * len(mode)))


def test_a_png_of_more_than_10_mb_becomes_a_jpeg_of_the_same_size():
    """Where the JPEG is within the limit, no pixel is given up."""
    raw = saved(noise((2000, 1750)), "PNG", compress_level=0)
    assert len(raw) > MAX_BYTES
    result = fit(raw)
    assert opened(result).size == (2000, 1750)
    assert len(result) <= MAX_BYTES


def test_quality_gives_way_last():
    """What is too large even as a JPEG is scaled to 4K, and then encoded with less quality."""
    result = fit(saved(noise((4000, 1600)), "BMP"))
    assert opened(result).size == (LONG_SIDE, 1536)
    assert MAX_BYTES * 0.6 < len(result) <= MAX_BYTES


def test_a_jpeg_of_more_than_10_mb_is_scaled_to_4k():
    """Scaled in proportion, then within the limit."""
    raw = saved(Image.effect_noise((4400, 3300), 100), "JPEG", quality=97)
    assert len(raw) > MAX_BYTES
    result = fit(raw)
    assert opened(result).size == (LONG_SIDE, LONG_SIDE * 3 // 4)
    assert len(result) <= MAX_BYTES


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells the most memory that a program alone had")
def test_24_megapixels_take_some_hundred_megabytes(tmp_path: Path):
    """A large photo that must be turned goes through whole, in memory that any machine has."""
    photo = Image.open(COFFEE).resize((6000, 4000), Image.Resampling.NEAREST)
    path, made = tmp_path / "large.jpg", tmp_path / "made.jpg"
    path.write_bytes(saved(photo, "JPEG", quality=70, exif=exif(3)))
    code = (
        "import re, sys; from pathlib import Path; from kling_async.fitting import fit\n"
        "Path(sys.argv[2]).write_bytes(fit(sys.argv[1]))\n"
        "print(re.search('VmHWM:\\\\s*([0-9]+) kB', Path('/proc/self/status').read_text())[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path, made], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 450 * 1024
    result = opened(made.read_bytes())
    assert result.size == (6000, 4000)
    difference = ImageChops.difference(result.reduce(10).rotate(180), photo.reduce(10))
    assert max(ImageStat.Stat(difference).mean) < 3


def most_memory(path: Path) -> int:
    """The most that a process held which fitted *path* and did nothing else, MiB."""
    code = (
        "import re, sys; from pathlib import Path; from kling_async.fitting import fit\n"
        "fit(sys.argv[1])\n"
        "print(re.search('VmHWM:\\s*([0-9]+) kB', Path('/proc/self/status').read_text())[1])"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    return int(done.stdout) // 1024


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells the most memory that a program alone had")
def test_a_tiny_file_does_not_take_what_its_pixels_take_several_times(tmp_path: Path):
    """16 megapixels of a palette with alpha, in 16 kB: what is to be done is done for some rows at a time."""
    path = tmp_path / "tiny.png"
    palette = Image.new("P", (4000, 4000))
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.save(path, transparency=bytes([128, 255]))
    assert most_memory(path) < 220


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells the most memory that a program alone had")
@pytest.mark.parametrize(("kind", "most"), [("deep", 290), ("transparent", 230)])
def test_what_is_as_large_as_its_pixels_is_not_held_thrice(tmp_path: Path, kind: str, most: int):
    """20 megapixels that are not compressed: the file is there twice at most, and once beside the pixels."""
    width, height = 5000, 4000
    path = tmp_path / "scan.tif"
    with path.open("wb") as file:
        samples = 3 if kind == "deep" else 4
        size = width * height * samples * (2 if kind == "deep" else 1)
        bits = (16 if kind == "deep" else 8,) * samples
        file.write(b"II*\0" + struct.pack("<I", 16 + size) + struct.pack(f"<{samples}H", *bits))
        file.seek(16 + size)
        tags = [
            (254, 4, 1, 0),
            (256, 3, 1, width),
            (257, 3, 1, height),
            (258, 3, samples, 8),
            (259, 3, 1, 1),
            (262, 3, 1, 2),
        ]
        tags += [(273, 4, 1, 16), (277, 3, 1, samples), (278, 3, 1, height), (279, 4, 1, size)]
        tags += [(338, 3, 1, 2)] if samples == 4 else []
        file.write(struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags))
        file.write(bytes(4))
    assert most_memory(path) < most


# What is refused.


@pytest.mark.parametrize("size", [(299, 400), (400, 299), (64, 64)])
def test_too_small_is_refused_and_not_enlarged(size: tuple[int, int]):
    """With its measured size."""
    message = refusal(saved(Image.new("RGB", size), "WebP"))
    assert f"is {size[0]} x {size[1]} px: each side must be at least 300 px" in message
    assert "nothing is enlarged" in message


@pytest.mark.parametrize("size", [(1001, 400), (400, 1001)])
def test_too_narrow_is_refused_and_not_cropped(size: tuple[int, int]):
    """With its measured size; at 2.5:1 it is taken."""
    message = refusal(saved(Image.new("RGB", size), "PNG"))
    assert f"is {size[0]} x {size[1]} px: the aspect ratio must be from 1:2.5 to 2.5:1" in message
    assert "nothing is cropped" in message
    assert opened(fit(saved(Image.new("RGB", (1000, 400)), "BMP"))).size == (1000, 400)


def test_sizes_are_told_as_seen():
    """A picture that is to be turned is measured the way it is looked at."""
    assert "is 400 x 1200 px" in refusal(saved(Image.new("RGB", (1200, 400)), "JPEG", exif=exif(6)))


@functools.cache
def photo_as(form: str) -> bytes:
    """A photo in the format *form*."""
    photo = Image.open(COFFEE)
    if form == "HEIC":
        file = io.BytesIO()
        pillow_heif.from_pillow(photo).save(file, quality=30)
        return file.getvalue()
    return saved(photo, form, **({"speed": 10} if form == "AVIF" else {}))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WebP", "TIFF", "GIF", "BMP", "AVIF", "HEIC"])
@pytest.mark.parametrize("part", [0.02, 0.5, 0.95])
def test_a_truncated_picture_is_refused(form: str, part: float):
    """No half picture is sent, and nothing but our own error comes out."""
    raw = photo_as(form)
    assert opened(fit(raw)).size == (600, 400)
    assert "is cut off or damaged" in refusal(raw[: int(len(raw) * part)])


def test_damaged_bytes_never_raise_anything_else():
    """Bytes overwritten at chance: a picture or our error, no warning, and never a thumbnail's exception."""
    chance = random.Random(5)
    image = quarters((320, 320))
    for form, _ in itertools.product(("JPEG", "PNG", "WebP", "GIF", "BMP"), range(25)):
        raw = bytearray(saved(image, form, exif=exif()) if form != "GIF" else saved(image, form))
        for _ in range(8):
            raw[chance.randrange(12, min(len(raw), 600))] = chance.randrange(256)
        with contextlib.suppress(RequestError):
            opened(fit(bytes(raw)))
        thumbnail(bytes(raw))


def test_a_heic_whose_item_is_of_no_readable_type_is_refused():
    """What would end pi-heif's process, and a batch with it, does not get there."""
    file = io.BytesIO()
    pillow_heif.from_pillow(quarters()).save(file, exif=exif())
    raw = file.getvalue()
    assert raw.count(b"Exif\0\0\0\0\x0epitm") == 1
    assert "is cut off or damaged" in refusal(
        raw.replace(b"Exif\0\0\0\0\x0epitm", b"E\xd4if\0\0\0\0\x0epitm")
    )


def test_a_decompression_bomb_is_refused_by_its_header():
    """A header that claims gigabytes is refused with the limit, before anything is decoded."""
    bare = bytearray(saved(Image.new("L", (300, 300)), "BMP"))
    bare[18:26] = struct.pack("<ii", 20_000, 20_000)
    assert "is 20000 x 20000 px: more than 60 megapixels of BMP are not opened" in refusal(bytes(bare))
    webp = bytearray(saved(Image.new("RGB", (300, 300)), "WebP", lossless=True))
    assert webp[12:16] == b"VP8L"
    webp[21:25] = struct.pack("<I", 5999 | 5999 << 14)
    assert "is 6000 x 6000 px: more than 30 megapixels of WebP are not opened" in refusal(bytes(webp))


def test_a_file_of_several_pages_is_refused_by_its_length(tmp_path: Path):
    """It is not even read: of a long scan only the first page would be used."""
    path = tmp_path / "scan.tif"
    path.write_bytes(tiff())
    os.truncate(path, 250_000_001)
    assert "has 250,000,001 bytes: more than 250 MB of a picture are not opened" in refusal(path)
    assert "save the first of its pages alone" in refusal(path)
    webp = saved(quarters(), "WebP")
    assert "has 60,000,001 bytes: more than 60 MB of WebP are not opened" in refusal(webp.ljust(60_000_001))


def test_to_scale_by_bands_makes_no_difference():
    """Every pixel is what Pillow makes of the whole at once, within rounding where there is alpha."""
    for mode, within in (("L", 0), ("RGB", 0), ("CMYK", 0), ("RGBA", 3), ("LA", 3)):
        image = Image.open(COFFEE).convert(mode)
        if mode.endswith("A"):
            image.putalpha(Image.radial_gradient("L").resize(image.size))
        whole = image.resize((333, 222), Image.Resampling.LANCZOS)
        ours = scaled(image, 333)
        assert ours.size == whole.size
        if mode.endswith("A"):  # what is quite transparent may have any colour
            ours, whole = (opaque(mode, None)(each) for each in (ours, whole))
        assert max(ImageChops.difference(ours, whole).tobytes()) <= within


@pytest.mark.parametrize(
    ("side", "progressive", "expected"),
    [
        (14_000, False, "is cut off or damaged"),
        (15_000, False, "is 15000 x 15000 px: more than 200 megapixels of JPEG are not opened"),
        (8_000, True, "is 8000 x 8000 px: more than 60 megapixels of progressive JPEG are not opened"),
    ],
)
def test_a_jpeg_has_more_pixels_than_others_unless_it_is_progressive(side: int, progressive: bool, expected):
    """One is shrunk as it is decoded, the other is held whole before its first row is there."""
    raw = bytearray(saved(quarters(), "JPEG", progressive=progressive))
    frame = raw.index(b"\xff\xc2" if progressive else b"\xff\xc0")
    raw[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
    assert expected in refusal(bytes(raw))


@pytest.mark.parametrize("part", [0.1, 0.5, 0.95])
def test_an_end_mark_does_not_make_half_a_jpeg_whole(part: float):
    """The missing rows come out grey, without a word from libjpeg: the picture is refused all the same."""
    raw = COFFEE.read_bytes()
    assert "is cut off or damaged" in refusal(raw[: int(len(raw) * part)] + b"\xff\xd9")
    assert thumbnail(raw[: int(len(raw) * part)] + b"\xff\xd9") is None


def tiff(*tags: tuple[int, int, int, int], order: str = "<", end: int | None = None) -> bytes:
    """A grey TIFF, its directory at its end, with *tags* (number, type, count, value) besides its own."""
    size = 400 * 300
    own = [(256, 3, 1, 400), (257, 3, 1, 300), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    own += [(273, 4, 1, 16), (277, 3, 1, 1), (278, 3, 1, 300), (279, 4, 1, size)]
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 16 + size) + bytes(8)
    own = [tag for tag in own if tag[0] not in {number for number, *_ in tags}]
    directory = struct.pack(f"{order}H", len(own) + len(tags))
    for number, kind, count, value in sorted([*own, *tags]):
        told = struct.pack(f"{order}HH", value, 0) if kind == 3 else struct.pack(f"{order}I", value)
        directory += struct.pack(f"{order}HHI", number, kind, count) + told
    return (head + b"\x80" * size + directory + bytes(4))[:end]


@pytest.mark.parametrize("order", ["<", ">"])
def test_damaged_metadata_of_a_tiff_says_nothing(order: str):
    """A description beyond the file's end, a resolution with two values: neither is needed, nor warned of."""
    for tags in ((270, 2, 99_999, 90_000), (282, 5, 2, 16), (34665, 4, 1, 2**31), (34853, 4, 2, 16)):
        result = opened(fit(tiff(tags, order=order)))
        assert result.size == (400, 300)
        assert is_near(corners(result), [(128, 128, 128)] * 4)


def test_a_damaged_tiff_is_refused_alike_whatever_becomes_of_warnings():
    """Nothing of Pillow's own reaches the user, and the text does not hang on Python's filters."""
    cases = [tiff(end=-20), tiff(end=-100), tiff(end=60_000), tiff((256, 3, 2, 16)), tiff((273, 4, 9, 2**31))]
    for raw in cases:
        strict = refusal(raw)  # warnings are errors in this suite
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert refusal(raw) == strict
        assert caught == []
        assert "is cut off or damaged" in strict


def test_an_avif_with_damaged_exif_is_read_without_a_warning():
    """Its own boxes turn it; EXIF, which Pillow would warn of, is not looked at."""
    raw = saved(quarters(), "AVIF", exif=exif(6), speed=10)
    at = raw.index(b"II*\0\x08\0\0\0") if b"II*\0\x08\0\0\0" in raw else raw.index(b"MM\0*\0\0\0\x08")
    damaged = raw[: at + 8] + b"\xff\xff" + raw[at + 10 :]
    assert is_near(corners(opened(fit(damaged))), [BLUE, RED, YELLOW, GREEN], within=12)


@pytest.mark.parametrize(
    "raw",
    [
        b"II*\0\x10\0\0\0CR\x02\0" + bytes(200),
        tiff((50706, 1, 4, 0x0401)),
        tiff((254, 4, 1, 1), (271, 2, 6, 16)),
        tiff((254, 4, 1, 1), (271, 2, 6, 16), order=">"),
    ],
    ids=["CR2", "DNG", "NEF", "ARW"],
)
def test_a_raw_picture_of_a_camera_is_named(raw: bytes):
    """It looks like a TIFF, and what is found first in it is a small preview, if anything."""
    assert "is a camera's raw picture" in refusal(raw)
    assert "export it as JPEG" in refusal(raw)


def test_a_tiff_that_names_its_camera_is_no_raw_picture():
    """Editors keep the maker of the camera in what they export."""
    assert opened(fit(tiff((271, 2, 6, 16)))).size == (400, 300)


def png_with(*chunks: tuple[bytes, bytes], image: Image.Image | None = None, **options: Any) -> bytes:
    """A PNG, of *image* or the quarters, with *chunks* before its pixels."""
    raw = saved(image or quarters(), "PNG", **options)
    packed = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    return raw[:33] + packed + raw[33:]


@pytest.mark.parametrize(
    "chunk",
    [
        (b"cICP", bytes([12, 13, 0, 1])),
        (b"cICP", bytes([9, 16, 0, 1])),
        (b"gAMA", struct.pack(">I", 100_000)),
    ],
    ids=["Display P3", "HDR", "linear"],
)
def test_colours_far_from_srgb_without_a_profile_are_refused(chunk: tuple[bytes, bytes]):
    """Sent as it stands the picture would come out pale, or far too dark."""
    message = refusal(png_with(chunk))
    assert f"told by PNG's {chunk[0].decode()}, which is not converted here: export it in sRGB" in message
    assert message.endswith(", or with an ICC profile") is (chunk[1] != bytes([9, 16, 0, 1]))


@pytest.mark.parametrize("transfer", [1, 6, 8, 13])
def test_an_icc_profile_beside_cicp_converts(transfer: int):
    """Both tell the same colours, and the one that can be converted by is there."""
    chunk = (b"cICP", bytes([12, transfer, 0, 1]))
    patch = Image.new("RGB", (400, 300), (200, 100, 50))
    raw = png_with(chunk, image=patch, icc_profile=display_p3())
    assert is_near(corners(opened(fit(raw))), [(215, 93, 31)] * 4, within=3)


@pytest.mark.parametrize("transfer", [16, 18])
def test_hdr_is_refused_with_an_icc_profile_too(transfer: int):
    """PQ and HLG: no profile of ICC's says how bright is white, and none is asked for."""
    message = refusal(png_with((b"cICP", bytes([9, transfer, 0, 1])), icc_profile=display_p3()))
    assert message.endswith("which is not converted here: export it in sRGB")


def test_colours_near_srgb_without_a_profile_stay():
    """What nearly every PNG with such a chunk says; and gAMA says nothing beside what goes before it."""
    for chunks in (
        [(b"cICP", bytes([1, 13, 0, 1]))],
        [(b"cICP", bytes([1, 1, 0, 1]))],
        [(b"gAMA", struct.pack(">I", 45_455))],
        [(b"gAMA", struct.pack(">I", 55_556))],
        [(b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 100_000))],
    ):
        raw = png_with(*chunks)
        assert fit(raw) == raw
    raw = png_with((b"gAMA", struct.pack(">I", 100_000)), icc_profile=display_p3())
    assert opened(fit(raw)).format == "JPEG"


def test_what_is_no_picture_is_refused():
    """With what it is instead."""
    assert "is empty" in refusal(b"")
    assert "is text" in refusal(b"hello, this is not a picture")
    assert "is a web page" in refusal(b"<!doctype html><html></html>")
    assert "is SVG" in refusal(b"<svg xmlns='http://www.w3.org/2000/svg'/>")
    assert "is a video" in refusal(b"\0\0\0\x18ftypisom" + bytes(40))
    assert "is no format we know" in refusal(bytes(range(200)))


def test_samples_without_a_known_white_are_refused():
    """Whether 1.0, 65,535 or 4 billion is white stands nowhere in such a file."""
    assert "32 bits" in refusal(saved(Image.new("F", (400, 300), 0.5), "TIFF"))


def test_what_cannot_be_read_is_refused(tmp_path: Path):
    """A file that is missing, a folder, a name that no file has, a URL: each with what it is."""
    assert refusal(tmp_path / "missing.jpg") == f"{tmp_path / 'missing.jpg'} does not exist"
    assert "is a folder" in refusal(tmp_path)
    assert "is no path" in refusal("a\0b.jpg")
    assert "is a URL, which is not fetched" in refusal("https://example.com/cat.jpg")
    assert "has the scheme ftp://" in refusal("ftp://example.com/cat.jpg")
    assert "is no valid base64" in refusal("data:image/png;base64,!!!!")
    for empty in ("", "  "):
        assert refusal(empty) == "the picture is an empty text: give a path, the bytes or base64"
    assert refusal(None) == "the picture is NoneType: give a path, the bytes or base64"
    assert refusal(io.BytesIO(COFFEE.read_bytes())).startswith("the picture is BytesIO: ")


@pytest.mark.parametrize(
    ("missing", "content", "expected"),
    [
        ("PIL", "COFFEE", "cannot be fitted without Pillow"),
        ("pi_heif", "HEIC", "is HEIC, and pi-heif is missing, which reads it"),
    ],
)
def test_without_the_extra(tmp_path: Path, missing: str, content: str, expected: str):
    """What to install is in the message, and a gallery without thumbnails is no error."""
    path = tmp_path / "photo"
    if content == "HEIC":
        pillow_heif.from_pillow(quarters()).save(path)
    else:
        path.write_bytes(COFFEE.read_bytes())
    code = (
        f"import sys; from pathlib import Path; sys.modules[{missing!r}] = None\n"
        "from kling_async.fitting import fit, thumbnail\n"
        "print(thumbnail(Path(sys.argv[1])))\n"
        "try: fit(sys.argv[1])\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("None\nRequestError ")
    assert f"{expected}: {install('images')}; nothing was paid; install what is missing\n" in done.stdout
    assert install("images") == 'pip install "kling-async[images]"'


def test_base64_is_taken():
    """As a request takes it: with a data: prefix, and white space in it."""
    raw = COFFEE.read_bytes()
    text = base64.encodebytes(raw).decode()
    assert fit(text) == fit(f"data:image/jpeg;base64,{text}") == raw


# What is kept.


def test_a_fit_picture_is_its_own(tmp_path: Path):
    """Nothing is written where nothing is to be done."""
    assert fitted(COFFEE, tmp_path / "kept") == COFFEE
    assert not (tmp_path / "kept").exists()


def test_what_was_fitted_is_made_once_and_kept(tmp_path: Path):
    """The item is recognised by these bytes: they are not made again, even if they came out differently."""
    source = tmp_path / "my photo.webp"
    source.write_bytes(saved(quarters(), "WebP"))
    made = fitted(source, tmp_path / "kept")
    assert made.name == "my photo.jpg"
    assert len(made.parent.name) == 16
    assert made.read_bytes() == fit(source)
    other = saved(Image.new("RGB", (400, 300), "navy"), "JPEG")
    made.write_bytes(other)
    assert fitted(source, tmp_path / "kept") == made
    assert made.read_bytes() == other
    copy = source.rename(tmp_path / "renamed.webp")
    renamed = fitted(copy, tmp_path / "kept")
    assert renamed == made.with_name("renamed.jpg")
    assert renamed.read_bytes() == other
    assert [file.name for file in sorted(made.parent.iterdir())] == ["my photo.jpg", "renamed.jpg"]


def test_what_is_no_longer_whole_is_made_again(tmp_path: Path):
    """A file cut off by a full disk or a power cut is not sent."""
    source = tmp_path / "photo.webp"
    source.write_bytes(saved(quarters(), "WebP"))
    made = fitted(source, tmp_path)
    whole = made.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2]):
        made.write_bytes(damaged)
        assert fitted(source, tmp_path) == made
        assert made.read_bytes() == whole


def test_a_png_that_only_lost_its_metadata_is_kept_as_png(tmp_path: Path):
    """A name says what the file is."""
    source = tmp_path / "drawing.png"
    source.write_bytes((PHOTOS / "cat.png").read_bytes() + SECRET)
    made = fitted(source, tmp_path)
    assert made.name == "drawing.png"
    assert made.read_bytes() == (PHOTOS / "cat.png").read_bytes()
    assert fitted(source, tmp_path) == made


def test_fitted_in_many_threads_at_once(tmp_path: Path):
    """Rows that name the same picture: one file, whole whenever it is seen, and no leftovers."""
    source = tmp_path / "photo.webp"
    source.write_bytes(saved(quarters(), "WebP"))
    made: list[Path] = []
    threads = [
        threading.Thread(target=lambda: made.append(fitted(source, tmp_path / "kept"))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    assert len(set(made)) == 1
    assert list(made[0].parent.iterdir()) == [made[0]]


def test_why_it_is_not_fitted_is_a_clause(tmp_path: Path):
    """Without a subject: the row that names the picture is named by who reads the rows."""
    with pytest.raises(ValueError, match=r"^does not exist$"):
        fitted(tmp_path / "missing.jpg", tmp_path)
    small = tmp_path / "small.bmp"
    small.write_bytes(saved(Image.new("RGB", (10, 20)), "BMP"))
    with pytest.raises(ValueError, match=r"^is 10 x 20 px: "):
        fitted(small, tmp_path)
    source = tmp_path / "photo.webp"
    source.write_bytes(saved(quarters(), "WebP"))
    with pytest.raises(ValueError, match=r"^was fitted, and cannot be kept in "):
        fitted(source, small)


# Thumbnails.


def test_a_thumbnail_is_small_and_bare():
    """A few kilobytes, in proportion, without metadata, also of what Kling would not take."""
    small = thumbnail(PHOTOS / "galaxies.jpg")
    assert small is not None
    image = Image.open(io.BytesIO(small))
    assert (image.format, image.size) == ("JPEG", (360, 314))
    assert b"Exif" not in small
    assert len(small) < 40_000
    tiny = thumbnail(saved(Image.new("RGBA", (50, 20)), "PNG"), side=360)
    assert tiny is not None
    assert is_near([Image.open(io.BytesIO(tiny)).getpixel((3, 3))], [(255, 255, 255)])


def test_a_thumbnail_never_raises(tmp_path: Path):
    """What cannot be shown is left out."""
    for source in (b"", b"rubbish", COFFEE.read_bytes()[:5000], tmp_path, tmp_path / "missing.jpg"):
        assert thumbnail(source) is None


@pytest.mark.parametrize(
    ("name", "content", "keeps_its_frame"),
    [
        ("gps.jpg", lambda: saved(quarters(), "JPEG", exif=exif()), True),
        ("cmyk.jpg", lambda: saved(quarters().convert("CMYK"), "JPEG"), True),
        ("turned.jpg", lambda: saved(quarters((400, 400)), "JPEG", exif=exif(6)), False),
        ("mirrored.jpg", lambda: saved(quarters(), "JPEG", exif=exif(2)), False),
        ("turned.png", lambda: saved(quarters((400, 400)), "PNG", exif=exif(6)), False),
        ("half_turned.png", lambda: saved(quarters(), "PNG", exif=exif(3)), False),
        ("four_bytes.jpg", lambda: saved(quarters(), "JPEG", exif=in_four_bytes(3)), False),
        ("alpha.png", lambda: saved(quarters().convert("LA"), "PNG", exif=exif()), True),
        ("large.png", lambda: saved(noise((2000, 1900)), "PNG"), True),
        ("large.jpg", lambda: saved(noise((4100, 3000)), "JPEG", quality=98), False),
        ("phone.webp", lambda: saved(quarters(), "WEBP"), False),
        ("small.png", lambda: saved(quarters((200, 200)), "PNG"), False),
    ],
)
def test_what_masks_are_drawn_for_is_fitted_where_it_keeps_its_frame(
    tmp_path: Path, name: str, content: Callable[[], bytes], keeps_its_frame: bool
):
    """Without its GPS it is the same picture for them; turned, or of a format nobody measured, it is not."""
    path, mask = tmp_path / name, tmp_path / "mask.png"
    path.write_bytes(content())
    mask.write_bytes(saved(quarters(), "PNG"))
    problems: list[Problem] = []
    fitter = Fitter(functools.partial(fitted, folder=tmp_path / "fitted"))
    made = fitter.fitted({"image": path, "static_mask": mask}, problems)
    assert (made["image"] != path, made["static_mask"], problems) == (keeps_its_frame, mask, [])
    alone = fitter.fitted({"image": path}, problems)
    assert (alone["image"] == path, len(problems)) == (name == "small.png", int(name == "small.png"))
