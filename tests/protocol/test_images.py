"""What a picture can be, and what its header tells."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow, features

from kling_async.protocol.images import MAX_BYTES, Header, ImageText, ImageUrl, check, classify, sources
from kling_async.protocol.models import DynamicMask, ImageToVideo, MultiImageToVideo, Point, VideoRequest


def png(width: int, height: int, *, end: Any = True):
    """A PNG of one grey, or only its beginning."""

    def chunk(kind: bytes, content: bytes):
        return (
            struct.pack(">L", len(content)) + kind + content + struct.pack(">L", zlib.crc32(kind + content))
        )

    head = chunk(b"IHDR", struct.pack(">LLBBBBB", width, height, 8, 0, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(bytes((width + 1) * height)))
    return b"\x89PNG\r\n\x1a\n" + head + body + (chunk(b"IEND", b"") if end else b"")


def segment(marker: int, content: bytes):
    """One segment of a JPEG, its length in front."""
    return bytes((0xFF, marker)) + struct.pack(">H", len(content) + 2) + content


def jpeg(
    width: int,
    height: int,
    *,
    before: bytes = b"",
    frame: int = 0xC0,
    components: int = 3,
    end: Any = b"\xff\xd9",
):
    """The structure of a JPEG, with *before* between its start and its frame header."""
    header = struct.pack(">BHHB", 8, height, width, components) + b"\x01\x11\x00" * components
    scan = segment(0xDA, b"\x01\x01\x00\x00\x3f\x00") + b"\x12\x34" * 50
    return b"\xff\xd8" + before + segment(frame, header) + scan + end


def looked_at(picture: bytes, field: str = "image"):
    """The header of a picture in memory."""
    return check(io.BytesIO(picture), len(picture), field=field)


def saved(form: str, **options: Any):
    """What Pillow writes for a 400 x 300 picture."""
    mode = options.pop("mode", "RGB")
    file = io.BytesIO()
    Pillow.new(mode, (400, 300), 128).save(file, form, **options)
    return file.getvalue()


def never(path: Path):
    """No file exists anywhere."""
    return False


LONG = "A" * 4097


@pytest.mark.parametrize(
    ("source", "meant"),
    [
        ("https://host/cat.png?sign=1", ImageUrl("https://host/cat.png?sign=1")),
        (" HTTP://host/cat.png\n", ImageUrl("HTTP://host/cat.png")),
        ("https://host/" + LONG, ImageUrl("https://host/" + LONG)),
        ("data:image/png;base64,QUJD", "QUJD"),
        ("DATA:;BASE64,QUJD", "QUJD"),
        ("data:image/jpeg;charset=utf-8;base64,/9j/4A==", "/9j/4A=="),
        (LONG, LONG),
        ("/9j/4AAQ", "/9j/4AAQ"),
        ("\niVBORw0KGgoAAA", "iVBORw0KGgoAAA"),
        ("cat.png", Path("cat.png")),
        ("~/cat.png", Path("~/cat.png")),
        ("QUJD", Path("QUJD")),
        ("A" * 4096, Path("A" * 4096)),
        (r"C:\photos\cat.png", Path(r"C:\photos\cat.png")),
        ("c:/photos/cat.png", Path("c:/photos/cat.png")),
        ("c://photos/cat.png", Path("c://photos/cat.png")),
        (" cat.png", Path(" cat.png")),
        (Path("https://host/cat.png"), Path("https://host/cat.png")),
        (b"https://host/cat.png", b"https://host/cat.png"),
    ],
)
def test_order_of_rules(source: Any, meant: Any):
    """Each form of picture is told apart by the documented order; a Path and bytes are what they are."""
    assert classify(source, is_file=never) == meant


@pytest.mark.parametrize("source", ["/9j/cat.jpg", "iVBORw0KGgo"])
def test_a_file_named_like_base64_is_a_file(source: Any):
    """Text that begins as base64 does is a path when such a file exists."""
    asked = []
    assert classify(source, is_file=lambda path: not asked.append(path)) == Path(source)
    assert asked == [Path(source)]


@pytest.mark.parametrize(
    ("source", "part"),
    [
        ("ftp://host/cat.png", "ftp://"),
        ("s3://bucket/cat.png", "s3://"),
        ("file:///home/cat.png", "a path"),
        ("https://", "no valid URL"),
        ("https:///cat.png", "no valid URL"),
        ("https://[::1/cat.png", "no valid URL"),
        ("https://host/my cat.png", "%20"),
        ("data:image/svg+xml,<svg/>", "without base64"),
        ("data:image/png;base64", "without base64"),
    ],
)
def test_text_that_is_no_picture(source: Any, part: str):
    """Another scheme, a URL without a host and a data: URL without base64 are refused with a remedy."""
    with pytest.raises(ValueError, match=r".") as caught:
        classify(source, is_file=never)
    assert part in str(caught.value)


def test_sources_of_each_kind_of_request():
    """Every given picture is enumerated by its dotted field; what is left out is not."""
    path = (Point(0, 0), Point(9, 9))
    masks = ImageToVideo(
        image="a",
        static_mask=b"s",
        dynamic_masks=[DynamicMask("m", path), DynamicMask("n", path)],
        prompt="p",
    )
    assert list(sources(masks)) == [
        ("image", "a"),
        ("static_mask", b"s"),
        ("dynamic_masks[0].mask", "m"),
        ("dynamic_masks[1].mask", "n"),
    ]
    assert list(sources(ImageToVideo(image_tail="b", prompt="p"))) == [("image_tail", "b")]
    several = MultiImageToVideo(image_list=["a", Path("b")], prompt="p")
    assert list(sources(several)) == [("image_list[0]", "a"), ("image_list[1]", Path("b"))]
    assert list(sources(VideoRequest(model_name="kling-v9"))) == []


def test_base64_has_no_place_in_a_repr():
    """The repr of a picture in memory shows its hash and not its content."""
    assert "QUJD" not in repr(ImageText("QUJD", "c0ffee"))


EXIF = b"".join(segment(0xE1, b"Exif\0\0" + bytes(65_000)) for _ in range(4))
ICC = b"".join(segment(0xE2, b"ICC_PROFILE\0" + bytes((n, 5)) + b"\xff\xc0" * 30_000) for n in range(1, 6))


@pytest.mark.parametrize(
    ("picture", "found"),
    [
        (png(301, 302), Header("PNG", 301, 302)),
        (saved("PNG"), Header("PNG", 400, 300)),
        (jpeg(640, 480), Header("JPEG", 640, 480)),
        (jpeg(640, 480, before=segment(0xE1, b"Exif\0\0" + bytes(200))), Header("JPEG", 640, 480)),
        (jpeg(640, 480, before=EXIF + ICC), Header("JPEG", 640, 480)),
        (jpeg(640, 480, before=segment(0xC4, bytes(30)) + b"\xff\xff\xff"), Header("JPEG", 640, 480)),
        (jpeg(640, 480, frame=0xC2), Header("JPEG", 640, 480)),
        (jpeg(640, 480, components=4), Header("JPEG", 640, 480)),
        (jpeg(640, 480) + bytes(3000), Header("JPEG", 640, 480)),
        (saved("JPEG"), Header("JPEG", 400, 300)),
        (saved("JPEG", progressive=True), Header("JPEG", 400, 300)),
        (saved("JPEG", mode="CMYK"), Header("JPEG", 400, 300)),
        (saved("JPEG", icc_profile=bytes(200_000)), Header("JPEG", 400, 300)),
        (saved("JPEG", exif=Pillow.Exif().tobytes()), Header("JPEG", 400, 300)),
        (png(300, 750), Header("PNG", 300, 750)),
        (png(750, 300), Header("PNG", 750, 300)),
    ],
)
def test_sound_pictures(picture: bytes, found: Header):
    """Width and height are read from every sound PNG and JPEG, whatever stands before the frame header."""
    assert looked_at(picture) == found


def test_rotation_in_exif_is_told():
    """The stored size is told, since both sides obey the same rules; any turn or mirroring concerns masks."""
    exif = Pillow.Exif()
    for orientation in range(10):
        exif[0x0112] = orientation
        turned = orientation in range(2, 9)
        assert looked_at(saved("JPEG", exif=exif)) == Header("JPEG", 400, 300, turned=turned)


@pytest.mark.parametrize(
    ("picture", "problem"),
    [
        (png(299, 400), "299 x 400 px: each side"),
        (jpeg(400, 299), "400 x 299 px: each side"),
        (png(300, 751), "aspect ratio"),
        (jpeg(751, 300), "aspect ratio"),
        (b"", "is empty"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "cut off"),
        (png(400, 400)[:20], "cut off"),
        (jpeg(400, 400, before=EXIF)[:70_000], "cut off"),
    ],
)
def test_unfit_pictures(picture: bytes, problem: str):
    """Too small, too long and cut off before its size is known: each is one problem that says so."""
    (found,) = looked_at(picture).problems
    assert problem in found


def test_every_problem_of_one_picture():
    """A picture that is too small and too long has both problems."""
    assert len(looked_at(png(100, 400)).problems) == 2


@pytest.mark.parametrize(
    ("picture", "name"),
    [
        (saved("WEBP"), "WebP"),
        (saved("GIF"), "GIF"),
        (saved("TIFF"), "TIFF"),
        (saved("BMP"), "BMP"),
        (saved("PDF"), "PDF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1", "AVIF"),
        (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2", "a video"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b'<?xml version="1.0"?><svg/>', "SVG"),
        (b"\n<!DOCTYPE html><html>404</html>", "a web page"),
        (b"this is no picture at all\n", "text"),
        ("und dies hier: größer als 64 Bytes, damit der Anfang allein entscheidet.".encode(), "text"),
        (b"\x7fELF\2\1\1\0", "no format we know"),
        (b"BMW and other cars\n", "text"),
    ],
)
def test_other_formats_are_named(picture: bytes, name: str):
    """What is neither JPEG nor PNG is named for what it is, with a remedy, and has no other problem."""
    header = looked_at(picture)
    (problem,) = header.problems
    assert header.format == name
    assert f"is {name}," in problem
    assert problem.endswith(("convert it", "give a picture"))


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow writes no AVIF")
def test_a_real_avif_is_named():
    """An AVIF that a common tool writes is recognised."""
    assert looked_at(saved("AVIF")).format == "AVIF"


def test_bytes_are_limited_to_ten_binary_megabytes():
    """Exactly 10 MiB pass and one byte more does not, whatever the format."""
    assert not check(io.BytesIO(png(400, 400)), MAX_BYTES).problems
    (problem,) = check(io.BytesIO(png(400, 400)), MAX_BYTES + 1).problems
    assert "10,485,761 bytes" in problem
    assert len(check(io.BytesIO(saved("GIF")), MAX_BYTES + 1).problems) == 2


@pytest.mark.parametrize(
    ("picture", "warning"),
    [
        (jpeg(0, 400), "were not checked"),
        (jpeg(400, 0), "were not checked"),
        (jpeg(400, 400, end=b""), "may be cut off"),
        (png(400, 400, end=False), "may be cut off"),
        (saved("JPEG")[:-400], "may be cut off"),
    ],
)
def test_doubts_are_warnings(picture: bytes, warning: str):
    """A size that cannot be read and a missing end are warnings: Kling may read the picture all the same."""
    header = looked_at(picture)
    (found,) = header.warnings
    assert warning in found
    assert header.problems == ()


@pytest.mark.parametrize("field", ["static_mask", "dynamic_masks[3].mask"])
def test_masks_are_not_measured(field: str):
    """A mask obeys the rules of format and bytes alone: its sides are bound to its image's."""
    assert looked_at(png(10, 400), field) == Header("PNG", 10, 400)
    assert looked_at(saved("GIF"), field).problems


def test_ratio_of_the_end_frame_is_a_warning():
    """No aspect ratio is documented for image_tail, its sides are."""
    header = looked_at(png(200, 800), "image_tail")
    assert [text for text in header.problems if "each side" in text] == list(header.problems)
    assert [text for text in header.warnings if "aspect ratio" in text] == list(header.warnings)
    assert header.problems
    assert header.warnings
