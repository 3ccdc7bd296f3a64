"""Pictures from a request to the bytes of a POST: checked, streamed, and checked again as they are read."""

import asyncio
import base64
import contextlib
import hashlib
import importlib
import io
import json
import os
import struct
import sys
import threading
import tracemalloc
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image as Pillow

from kling_async import bodies
from kling_async.bodies import json_body, resolve
from kling_async.protocol.errors import Outcome, RequestError
from kling_async.protocol.images import MAX_BYTES, ImageFile, ImageText, ImageUrl
from kling_async.protocol.models import DynamicMask, ImageToVideo, MultiImageToVideo, Point, VideoRequest
from kling_async.typing import Body

PIECE = 48 * 1024
BLOCK = 4 * PIECE


def picture(form: str = "PNG", size: tuple[int, int] = (400, 300)):
    """A picture of *size* as a file's bytes."""
    file = io.BytesIO()
    Pillow.new("RGB", size, "teal").save(file, form)
    return file.getvalue()


PNG = picture()


def on_disk(path: Path, content: bytes):
    """*content* written to *path*, and what a check would have found there."""
    path.write_bytes(content)
    status = path.stat()
    return ImageFile(path, status.st_size, status.st_mtime_ns, hashlib.sha256(content).hexdigest())


def in_memory(content: bytes):
    """*content* as a picture that was given as bytes."""
    return ImageText(base64.b64encode(content).decode(), hashlib.sha256(content).hexdigest())


async def here(function: Callable[..., Any], *args: Any):
    """Run at once and in this thread: the shortest executor."""
    return function(*args)


async def pieces_of(body: Body):
    """Every piece of a body."""
    return [piece async for piece in body]


def sent(body: Body):
    """The whole of a body."""
    return b"".join(asyncio.run(pieces_of(body)))


def refused(request: VideoRequest, **options: Any):
    """What `resolve` says against *request*, as (field, message)."""
    with pytest.raises(RequestError) as caught:
        resolve(request, **options)
    assert caught.value.outcome is Outcome.NOT_CREATED
    return [(problem.field, problem.message) for problem in caught.value.problems]


# Resolving


def test_every_form_of_one_picture_has_one_hash(tmp_path: Path):
    """URL, path in text, Path, bytes, base64 and data: are resolved; equal content has equal SHA-256."""
    file = tmp_path / "cat.png"
    file.write_bytes(PNG)
    text = base64.b64encode(PNG).decode()
    request = MultiImageToVideo(image_list=[str(file), file, PNG, text], prompt="p")
    images = resolve(request).images
    expected = hashlib.sha256(PNG).hexdigest()
    found = ImageFile(file, len(PNG), file.stat().st_mtime_ns, expected)
    held = ImageText(text, expected)
    assert images == dict(
        zip([f"image_list[{n}]" for n in range(4)], [found, found, held, held], strict=True)
    )
    prefixed = ImageToVideo(
        image="data:image/png;base64," + text, image_tail="https://host/b.png", prompt="p"
    )
    assert resolve(prefixed).images == {"image": held, "image_tail": ImageUrl("https://host/b.png")}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("https://host/a.png", False),
        (" HTTP://host/a.png\n", False),
        ("https://", False),
        ("https", True),
        ("ftp://host/a.png", True),
        ("data:image/png;base64,", True),
        (" " * 200 + "https://host/a.png", True),
        ("cat.png", True),
        (Path("https:/cat.png"), True),
        (b"https://host/a.png", True),
    ],
)
def test_only_urls_need_no_thread(source: Any, expected: bool):
    """A request whose pictures are all URLs, sound or not, is resolved at once; any other in a thread."""
    assert bodies.needs_thread(ImageToVideo(image=source, prompt="p")) is expected
    mixed = MultiImageToVideo(image_list=["https://host/b.png", source], prompt="p")
    assert bodies.needs_thread(mixed) is expected
    assert not bodies.needs_thread(ImageToVideo(prompt="p", image="https://host/b.png"))


def test_base64_is_normalised():
    """White space anywhere is dropped, across the blocks it is decoded in; the alphabet stays standard."""
    noise = picture("PNG") + os.urandom(400_000) + b"IEND"
    wrapped = base64.encodebytes(noise).decode() + "\r\n \t"
    assert resolve(ImageToVideo(image=wrapped, prompt="p")).images["image"] == in_memory(noise)


def test_the_request_is_not_changed(tmp_path: Path):
    """Resolving leaves the caller's value as it was."""
    (tmp_path / "cat.png").write_bytes(PNG)
    request = ImageToVideo(image="cat.png", prompt="p")
    resolve(request, base=tmp_path)
    assert request == ImageToVideo(image="cat.png", prompt="p")


def test_relative_paths_are_relative_to_the_base(tmp_path: Path):
    """Relative paths, also Paths, are found at the base; absolute ones stay; the result is absolute."""
    (tmp_path / "cat.png").write_bytes(PNG)
    other = tmp_path / "other"
    other.mkdir()
    for source in ("cat.png", Path("cat.png"), str(tmp_path / "cat.png")):
        base = other if Path(source).is_absolute() else tmp_path
        found = resolve(ImageToVideo(image=source, prompt="p"), base=base).images["image"]
        assert isinstance(found, ImageFile)
        assert found.path == tmp_path / "cat.png"


def test_home_is_expanded_in_text_only():
    """``~`` means the home in text; a Path is what it is; an unknown user's home is left alone."""
    assert bodies._located("~/cat.png", None) == Path.home() / "cat.png"
    assert bodies._located(Path("~/cat.png"), None) == Path.cwd() / "~" / "cat.png"
    assert bodies._located("~nobody-of-that-name/c", None) == Path.cwd() / "~nobody-of-that-name" / "c"


def test_a_file_whose_name_looks_like_base64(tmp_path: Path):
    """A relative path that begins as base64 does is looked for at the base before it is taken for base64."""
    (tmp_path / "iVBORw0KGgo").write_bytes(PNG)
    request = ImageToVideo(image="iVBORw0KGgo", prompt="p")
    assert isinstance(resolve(request, base=tmp_path).images["image"], ImageFile)
    ((field, message),) = refused(request)
    assert (field, "base64" in message) == ("image", True)


def test_all_problems_of_all_pictures_at_once(tmp_path: Path):
    """One error tells every problem of every picture, each by field and file."""
    (tmp_path / "thin.png").write_bytes(picture(size=(100, 300)))
    (tmp_path / "notes.png").write_bytes(b"buy milk\n")
    path = (Point(0, 0), Point(1, 1))
    request = ImageToVideo(
        image="thin.png",
        static_mask=picture("GIF"),
        dynamic_masks=[DynamicMask("notes.png", path), DynamicMask("gone.png", path)],
        prompt="p",
    )
    found = refused(request, base=tmp_path)
    assert [field for field, _ in found] == [
        "image",
        "image",
        "static_mask",
        "dynamic_masks[0].mask",
        "dynamic_masks[1].mask",
    ]
    for (_, message), part in zip(
        found,
        [
            f"{tmp_path / 'thin.png'} is 100 x 300 px: each side",
            f"{tmp_path / 'thin.png'} is 100 x 300 px: the aspect",
            "the picture given as bytes is GIF",
            f"{tmp_path / 'notes.png'} is text",
            f"{tmp_path / 'gone.png'} does not exist",
        ],
        strict=True,
    ):
        assert message.startswith(part)


def test_warnings_name_field_and_file(tmp_path: Path):
    """What is doubtful is told beside the images and stops nothing."""
    (tmp_path / "cut.jpg").write_bytes(picture("JPEG")[:-2])
    resolved = resolve(ImageToVideo(image="cut.jpg", image_tail=PNG[:-12], prompt="p"), base=tmp_path)
    first, second = resolved.warnings
    assert first.startswith(f"image: {tmp_path / 'cut.jpg'} may be cut off")
    assert second.startswith("image_tail: the picture given as bytes may be cut off")
    assert set(resolved.images) == {"image", "image_tail"}


@pytest.mark.parametrize(
    ("source", "part"),
    [
        ("gone.png", "does not exist"),
        ("gone\0.png", "is no path"),
        ("gone\ud800.png", "gone"),
        (".", "is a folder"),
        ("x" * 300 + ".png", "cannot be read"),
        ("ftp://host/cat.png", "ftp://host/cat.png has the scheme ftp"),
        (b"\xff\xd8\xff", "given as bytes is cut off"),
        ("/9j/", "given as base64 is cut off"),
        ("/9j/4", "given as base64 is no valid base64"),
        ("/9j/4AA=AAAA", "no valid base64"),
        ("/9j/4AA_-AAA", "no valid base64"),
        ("/9j/4AAQé", "no valid base64"),
        ("data:image/png;base64,", "is empty"),
        ("A" * 5001, "no valid base64"),
        ("A" * BLOCK + "A" * (BLOCK // 3 - 1) + "=" + "AAAA", "goes on after its padding"),
        ("A" * 15_000_000, "has more than 10 MB"),
        (PNG + bytes(MAX_BYTES), "10 MB"),
    ],
)
def test_what_is_no_picture(source: Any, part: str, tmp_path: Path):
    """Each unfit source is one problem of its field, short whatever was given."""
    ((field, message),) = refused(ImageToVideo(image=source, prompt="p"), base=tmp_path)
    assert field == "image"
    assert part in message
    assert len(message) < 1000


def test_an_empty_file(tmp_path: Path):
    """An empty file is told as such."""
    (tmp_path / "cat.png").touch()
    assert refused(ImageToVideo(image="cat.png", prompt="p"), base=tmp_path)[0][1].endswith("is empty")


def test_a_large_file_is_refused_unread(tmp_path: Path):
    """A file of 4 GiB is refused by its size, at once and in no memory."""
    with (tmp_path / "big.png").open("wb") as file:
        file.write(PNG)
        file.truncate(4 << 30)
    tracemalloc.start()
    try:
        ((_, message),) = refused(ImageToVideo(image="big.png", prompt="p"), base=tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert "4,294,967,296 bytes" in message


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in this file system")
def test_pipes_and_devices_are_not_opened(tmp_path: Path):
    """A pipe without a writer and a device are refused and never waited for."""
    os.mkfifo(tmp_path / "pipe.png")
    for source in ("pipe.png", os.devnull):
        ((_, message),) = refused(ImageToVideo(image=source, prompt="p"), base=tmp_path)
        assert message.endswith("is no regular file")


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links need a privilege there")
def test_the_systems_reason_is_told(tmp_path: Path):
    """What the system refuses is told in its words: here a link to itself."""
    (tmp_path / "cat.png").symlink_to("cat.png")
    ((_, message),) = refused(ImageToVideo(image="cat.png", prompt="p"), base=tmp_path)
    assert "cannot be read: " in message


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is denied to root")
def test_permission_denied(tmp_path: Path):
    """A file that may not be read is a problem of its field."""
    (tmp_path / "cat.png").write_bytes(PNG)
    (tmp_path / "cat.png").chmod(0)
    ((_, message),) = refused(ImageToVideo(image="cat.png", prompt="p"), base=tmp_path)
    assert "cannot be read: " in message


# The body

CONTENTS = st.binary(max_size=20) | st.builds(
    lambda seed, size: (seed * size)[:size],
    st.binary(min_size=1, max_size=5),
    st.sampled_from([PIECE - 1, PIECE, PIECE + 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 2]),
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.tuples(st.sampled_from(["file", "text"]), CONTENTS)
)
DOCUMENTS = st.dictionaries(
    st.text(),
    st.recursive(
        LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
    ),
    max_size=4,
)


def with_pictures(value: Any, made: Callable[[str, bytes], Any]) -> Any:
    """*value* with each ``(kind, content)`` replaced by what *made* makes of it."""
    match value:
        case (str() as kind, bytes() as content):
            return made(kind, content)
        case list():
            return [with_pictures(item, made) for item in value]
        case dict():
            return {name: with_pictures(item, made) for name, item in value.items()}
        case _:
            return value


@given(DOCUMENTS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_streamed_body_is_the_documents_json(tmp_path: Path, document: dict[str, Any]):
    """The pieces join to the JSON with the base64 inline; the size is exact; read again, all is the same."""
    names = iter(range(1000))

    def streamed(kind: str, content: bytes):
        return in_memory(content) if kind == "text" else on_disk(tmp_path / f"{next(names)}", content)

    inline = with_pictures(document, lambda _, content: base64.b64encode(content).decode())
    expected = json.dumps(inline, ensure_ascii=False, separators=(",", ":")).encode()
    body = json_body(with_pictures(document, streamed), here)
    assert body.size == len(expected)
    assert sent(body) == expected
    assert sent(body) == expected


def test_a_document_without_pictures_is_one_piece():
    """URLs, also resolved ones, and read-only mappings are plain JSON in one piece, without any executor."""
    document = {"image": ImageUrl("https://host/ä"), "extra": types.MappingProxyType({"n": (1, 2)})}
    (piece,) = asyncio.run(pieces_of(json_body(document, run=partial(pytest.fail))))
    assert json.loads(piece) == {"image": "https://host/ä", "extra": {"n": [1, 2]}}
    assert sent(json_body({}, here)) == b"{}"


def test_pieces_are_small_and_files_read_in_the_executor(tmp_path: Path):
    """No piece is larger than 64 KiB, and each four pieces of a file are one call of the executor."""
    content = os.urandom(3 * BLOCK + 5)
    calls = []

    async def counting(function: Callable[..., Any], *args: Any):
        calls.append(threading.current_thread())
        return await asyncio.to_thread(function, *args)

    document = {"image": on_disk(tmp_path / "a", content), "image_tail": in_memory(content)}
    pieces = asyncio.run(pieces_of(json_body(document, counting)))
    assert max(map(len, pieces)) == PIECE // 3 * 4 == 64 * 1024
    assert len(calls) == 4
    assert json.loads(b"".join(pieces)) == dict.fromkeys(document, base64.b64encode(content).decode())


def test_text_that_looks_like_a_picture_stays_text(tmp_path: Path):
    """What a prompt says never becomes a picture's place."""
    file = on_disk(tmp_path / "a", b"abc")
    body = json_body({"prompt": '", ImageFile(...)', "image": file, "again": file}, here)
    assert json.loads(sent(body)) == {"prompt": '", ImageFile(...)', "image": "YWJj", "again": "YWJj"}


@pytest.mark.parametrize(
    ("value", "part"),
    [
        (float("nan"), "JSON"),
        ([float("inf")], "JSON"),
        ("half \ud83d of it", "surrogate"),
        ({"nested": object()}, "object is no JSON value"),
        ({(1, 2): 3}, "keys must be"),
        (b"raw", "bytes is no JSON value"),
    ],
)
def test_what_json_cannot_say(value: Any, part: str):
    """Each field that JSON cannot express is told by name, all at once, before anything is sent."""
    with pytest.raises(RequestError) as caught:
        json_body({"prompt": "fine", "cfg_scale": value, "mode": value}, here)
    assert [problem.field for problem in caught.value.problems] == ["cfg_scale", "mode"]
    assert part in caught.value.problems[0].message
    assert caught.value.outcome is Outcome.NOT_CREATED


def test_a_document_within_itself():
    """Endless nesting is a problem of its field."""
    loop = []
    loop.append(loop)
    with pytest.raises(RequestError, match="extra"):
        json_body({"extra": loop}, here)


def test_memory_is_flat_for_a_large_file(tmp_path: Path):
    """Streaming 40 MB takes less than 3 MB, in threads too."""
    path, size = tmp_path / "large", 40_000_000
    with path.open("wb") as file:
        file.truncate(size)
    digest = hashlib.sha256()
    for _ in range(40):
        digest.update(bytes(size // 40))
    body = json_body(
        {"image": ImageFile(path, size, path.stat().st_mtime_ns, digest.hexdigest())}, asyncio.to_thread
    )

    async def total():
        return sum([len(piece) async for piece in body])

    tracemalloc.start()
    try:
        assert asyncio.run(total()) == body.size
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()


# Files that change

CONTENT = bytes(range(256)) * (3 * BLOCK // 256) + b"the end"


def until_refused(body: Body, between: Callable[[], object] = lambda: None):
    """The bytes that leave before the body refuses; *between* is called after the first piece of the file."""

    async def read():
        pieces: list[bytes] = []
        try:
            async for piece in body:
                pieces.append(piece)
                if len(pieces) == 2:
                    between()
        except RequestError as error:
            return b"".join(pieces), error
        pytest.fail("the whole body was sent")

    return asyncio.run(read())


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_bytes(b"shorter"),
        lambda path: path.write_bytes(CONTENT + b"!"),
        lambda path: os.utime(path, ns=(1, 1)),
        lambda path: path.unlink(),
        lambda path: (path.unlink(), path.mkdir()),
    ],
)
@pytest.mark.parametrize("moment", ["before", "between"])
def test_a_changed_file_is_never_sent_whole(tmp_path: Path, change: Any, moment: str):
    """Another size or time, a missing file, a folder: told before the last piece, whenever it happens."""
    file = on_disk(tmp_path / "cat.png", CONTENT)
    body = json_body({"image": file, "prompt": "p"}, here)
    if moment == "before":
        change(file.path)
        left, error = until_refused(body)
        assert left == b'{"image":"'
    else:
        left, error = until_refused(body, lambda: change(file.path))
        assert left == b'{"image":"' + base64.b64encode(CONTENT[:BLOCK])
    assert error.outcome is Outcome.NOT_CREATED
    assert [problem.field for problem in error.problems] == ["image"]
    assert str(file.path) in error.problems[0].message


@pytest.mark.parametrize("place", [0, 2 * BLOCK, len(CONTENT) - 1])
def test_a_change_that_stat_cannot_see(tmp_path: Path, place: int):
    """With size and time as they were, the SHA-256 still stops the body before its last piece."""
    file = on_disk(tmp_path / "cat.png", CONTENT)
    other = bytearray(CONTENT)
    other[place] ^= 1

    def change():
        file.path.write_bytes(other)
        os.utime(file.path, ns=(file.mtime_ns, file.mtime_ns))

    body = json_body({"image": file, "prompt": "p"}, here)
    assert sent(body).endswith(b'","prompt":"p"}')
    if place:  # a change of what was read already cannot and need not be seen
        left, error = until_refused(body, change)
        assert left == b'{"image":"' + base64.b64encode(other[: 3 * BLOCK])
        assert "changed since it was checked" in str(error)
    change()
    left, error = until_refused(body)
    assert len(left) < body.size - len('","prompt":"p"}')
    assert "changed since it was checked" in str(error)
    file.path.write_bytes(CONTENT)
    os.utime(file.path, ns=(file.mtime_ns, file.mtime_ns))
    assert sent(body) == b'{"image":"' + base64.b64encode(CONTENT) + b'","prompt":"p"}'


def open_files(path: Path):
    """How often this process holds *path* open."""
    links: list[Path] = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the listing's own, closed by now
            links.append(link.readlink())
    return links.count(path)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are counted in /proc")
def test_no_file_stays_open(tmp_path: Path):
    """Nothing is open between pieces, after an iteration is dropped, refused, or cancelled while reading."""
    file = on_disk(tmp_path / "cat.png", CONTENT)
    reading, go_on = threading.Event(), threading.Event()

    def slowly(function: Callable[..., Any], *args: Any):
        reading.set()
        go_on.wait(10)
        return function(*args)

    async def slow(function: Callable[..., Any], *args: Any):
        return await asyncio.to_thread(slowly, function, *args)

    async def main():
        stream = aiter(json_body({"image": file}, here))
        await anext(stream)
        await anext(stream)
        assert open_files(file.path) == 0
        await stream.aclose()
        task = asyncio.create_task(pieces_of(json_body({"image": file}, slow)))
        await asyncio.to_thread(reading.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go_on.set()

    asyncio.run(main())  # its end joins the threads
    file.path.write_bytes(b"changed")
    until_refused(json_body({"image": file}, here))
    assert open_files(file.path) == 0


def missing(name: str):
    """Finds no module."""
    raise ImportError(name)


def modules_of(name: str):
    """Finds pybase64, or what answers like it where it is not installed."""
    assert name == "pybase64"
    with contextlib.suppress(ImportError):
        return importlib.import_module(name)
    return types.SimpleNamespace(b64encode=base64.b64encode)


@pytest.mark.parametrize("find", [missing, modules_of])
@given(content=st.binary(max_size=100) | st.sampled_from([PIECE, PIECE + 1, 3 * PIECE + 2]).map(os.urandom))
def test_encoders_give_the_same_bytes(find: Callable[[str], Any], content: bytes):
    """With pybase64 and without, it is standard base64 without line breaks, also of a part in memory."""
    encode = bodies._base64_encoder(find)
    expected = base64.b64encode(content)
    assert encode(content) == encode(memoryview(content)) == expected
    assert encode(memoryview(content)[3:]) == base64.b64encode(content[3:])


def test_the_encoder_is_the_one_that_is_found():
    """pybase64 is taken where it is installed; without it, the standard library's."""
    found = {"pybase64": types.SimpleNamespace(b64encode=bytes.upper)}
    assert bodies._base64_encoder(found.__getitem__)(b"x") == b"X"
    assert bodies._base64_encoder(missing)(b"x") == b"eA=="
    assert bodies._encode(b"x") == b"eA=="


def test_header_of_photos_is_read(tmp_path: Path):
    """A photo whose EXIF is longer than one block of reading is resolved like any other."""
    photo = picture("JPEG")
    exif = b"\xff\xe1" + struct.pack(">H", 65_000) + bytes(64_998)
    (tmp_path / "photo.jpg").write_bytes(photo[:2] + exif * 5 + photo[2:])
    resolved = resolve(ImageToVideo(image="photo.jpg", prompt="p"), base=tmp_path)
    assert isinstance(resolved.images["image"], ImageFile)
    assert resolved.warnings == ()
