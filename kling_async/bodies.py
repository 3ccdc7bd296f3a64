"""Pictures, from what a request gives to the bytes of a POST.

`resolve` checks and hashes them before anything is paid; `json_body` streams them as base64 when they are
sent, so that memory does not grow with their size, and checks again that they are what was hashed. What
touches a file runs in an executor, in steps of a fraction of a megabyte: none keeps the event loop or the
interpreter lock for long.
"""

import binascii
import hashlib
import importlib
import io
import json
import os
import secrets
import stat
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import attrs

from kling_async import paths
from kling_async.protocol.errors import Problem, RequestError
from kling_async.protocol.images import (
    MAX_BYTES,
    SOURCE,
    Header,
    ImageFile,
    ImageText,
    ImageUrl,
    ResolvedImage,
    check,
    classify,
    sources,
)
from kling_async.protocol.models import Image, VideoRequest
from kling_async.typing import Body

__all__ = ["Resolved", "Run", "json_body", "needs_thread", "resolve"]

Run = Callable[..., Awaitable[Any]]
"""Calls a function with its arguments in a thread: ``partial(loop.run_in_executor, executor)``."""

_Encoder = Callable[[bytes | memoryview], bytes]

_RAW = 48 * 1024
"""Bytes of a picture in one piece: a multiple of 3, so that the pieces' base64 joins to the whole's.

Larger ones cost a third more: from 128 KiB on the C library takes and gives back fresh pages for each.
"""

_TEXT = _RAW // 3 * 4
"""Characters of base64 in one piece: the 64 KiB that are written to a connection at once."""

_READ = 4 * _RAW
"""Bytes read, hashed and encoded in one call of a thread."""


def _base64_encoder(find: Callable[[str], Any] = importlib.import_module) -> _Encoder:
    """pybase64's where *find* finds it (extra ``speed``), else the standard library's, a tenth as fast."""
    try:
        return cast("_Encoder", find("pybase64").b64encode)
    except ImportError:
        return partial(binascii.b2a_base64, newline=False)


_encode = _base64_encoder()


def _encoded(raw: bytes) -> list[bytes]:
    """*raw* as pieces of base64: encoding holds the interpreter lock, for a piece and no longer."""
    view = memoryview(raw)
    return [_encode(view[start : start + _RAW]) for start in range(0, len(raw), _RAW)]


@attrs.frozen
class Resolved:
    """The pictures of a request, checked.

    Attributes:
        images: by dotted field, see `images.sources`.
        warnings: what is doubtful about them, sentences that name field and file.
        sizes: width and height as stored, pixels, by dotted field; of those that were read and tell it.
        turned: whether EXIF turns or mirrors the start frame, so that it is seen otherwise than stored.
    """

    images: Mapping[str, ResolvedImage]
    warnings: tuple[str, ...] = ()
    sizes: Mapping[str, tuple[int, int]] = attrs.field(factory=dict[str, tuple[int, int]])
    turned: bool = False


class _UnfitError(Exception):
    """One picture's problems, clauses without a subject."""

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)
        self.problems = problems


def resolve(request: VideoRequest, *, base: Path | None = None) -> Resolved:
    """Check and hash every picture of *request*, which itself stays as it is. Blocking: for an executor.

    Nothing larger than 10 MB is read, and nothing but regular files: no pipe, no device.

    Args:
        request: its pictures may be URLs (not fetched), paths, base64 text or bytes.
        base: the folder that relative paths are relative to; left out, the working directory.

    Raises:
        RequestError: with every problem of every picture, each naming field and file.
    """
    images: dict[str, ResolvedImage] = {}
    problems: list[Problem] = []
    warnings: list[str] = []
    sizes: dict[str, tuple[int, int]] = {}
    turned = False
    for field, source in sources(request):
        name = source[:100] if isinstance(source, str) else ""  # of what cannot be located, only ever text
        try:
            meant = _located(source, base)
            if isinstance(meant, ImageUrl):
                images[field] = meant
                continue
            if isinstance(meant, Path):
                name = str(meant)
                images[field], header = _file(meant, field)
            else:
                name = f"the picture given as {'bytes' if isinstance(meant, bytes) else 'base64'}"
                images[field], header = _held(meant, field)
            warnings += (f"{field}: {name} {doubt}" for doubt in header.warnings)
            if header.width and header.height:
                sizes[field] = header.width, header.height
                turned = turned or header.turned
        except _UnfitError as error:
            problems += (Problem(field, f"{name} {problem}", SOURCE) for problem in error.problems)
    if problems:
        raise RequestError(problems=problems, advice="correct the pictures")
    return Resolved(images, tuple(warnings), sizes, turned)


def needs_thread(request: VideoRequest) -> bool:
    """Whether `resolve` may touch a file or hash a picture. Where every picture is a URL it does neither."""
    return not all(
        isinstance(source, str) and source[:100].lstrip().lower().startswith(("http://", "https://"))
        for _, source in sources(request)
    )


def _located(source: Image, base: Path | None) -> ImageUrl | str | Path | bytes:
    """What *source* means, a path made absolute: the working directory may change before it is sent."""

    def absolute(path: Path) -> Path:
        if isinstance(source, str):  # a `Path` is what it is
            path = paths.at_home(path)
        return (base / path if base else path).absolute()

    def is_file(path: Path) -> bool:
        return paths.is_file(absolute(path))

    try:
        meant = classify(source, is_file=is_file)
    except ValueError as error:
        raise _UnfitError(str(error)) from None
    return absolute(meant) if isinstance(meant, Path) else meant


def _open(path: Path) -> io.BufferedReader:
    """Open a regular file; anything else is refused before it is opened, as a pipe would wait for its writer.

    Raises:
        _UnfitError: it is no regular file.
        OSError: the system refuses.
        ValueError: no file can have that name.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        raise _UnfitError("is a folder" if stat.S_ISDIR(mode) else "is no regular file")
    return path.open("rb")


def _file(path: Path, field: str) -> tuple[ImageFile, Header]:
    """Check and hash the picture at *path*."""
    try:
        with _open(path) as reader:
            status = os.fstat(reader.fileno())
            sha256, header = _checked(reader, status.st_size, field)
    except FileNotFoundError:
        raise _UnfitError("does not exist") from None
    except OSError as error:
        raise _UnfitError(f"cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a NUL or half a surrogate pair in its name
        raise _UnfitError(f"is no path: {error}") from error
    return ImageFile(path, status.st_size, status.st_mtime_ns, sha256), header


def _held(picture: str | bytes, field: str) -> tuple[ImageText, Header]:
    """Check and hash a picture in memory; it becomes base64 of the one form that is sent."""
    raw = picture if isinstance(picture, bytes) else _decoded(picture)
    sha256, header = _checked(io.BytesIO(raw), len(raw), field)
    return ImageText(b"".join(_encoded(raw)).decode("ascii"), sha256), header


def _checked(reader: io.BufferedReader | io.BytesIO, size: int, field: str) -> tuple[str, Header]:
    """The SHA-256 of a picture whose header and size are in order, and what its header told."""
    header = check(reader, size, field=field)
    if header.problems:
        raise _UnfitError(*header.problems)
    reader.seek(0)
    return hashlib.file_digest(reader, "sha256").hexdigest(), header  # reads 256 KiB at a time


def _decoded(text: str) -> bytes:
    """The bytes of base64 *text*, white space ignored, given up as soon as they are more than Kling takes."""
    raw = bytearray()
    rest, is_padded = "", False
    for start in range(0, len(text), _TEXT):
        rest += "".join(text[start : start + _TEXT].split())
        if rest and is_padded:
            raise _UnfitError("is no valid base64: it goes on after its padding")
        whole = len(rest) // 4 * 4 if start + _TEXT < len(text) else len(rest)
        try:
            raw += binascii.a2b_base64(rest[:whole], strict_mode=True)
        except ValueError as error:
            raise _UnfitError(f"is no valid base64: {error}") from None
        if len(raw) > MAX_BYTES:
            raise _UnfitError(f"has more than 10 MB ({MAX_BYTES:,} bytes): scale it down or save it as JPEG")
        is_padded, rest = rest[:whole].endswith("="), rest[whole:]
    return bytes(raw)


def json_body(document: Mapping[str, Any], run: Run) -> Body:
    """*document* as UTF-8 JSON, its `ImageFile` and `ImageText` values as base64 that is streamed.

    Each iteration begins at the beginning. Files are read and encoded by *run*, 192 KiB at a time, and are
    open only for that: cancelling or dropping an iteration leaves nothing to close. A document without such
    values is one piece.

    Iterating raises `RequestError` (nothing was created) if a file is not what was checked: its size and time
    are compared whenever it is read, its SHA-256 before the last piece, so that a changed file is never sent
    completely.

    Raises:
        RequestError: JSON cannot express a value (NaN, half a surrogate pair, a foreign type); each problem
            names its field.
    """
    marker = ""
    images: list[ImageFile | ImageText] = []
    owners: list[str] = []
    fields: list[bytes] = []
    problems: list[Problem] = []

    def stand_in(value: Any) -> Any:
        nonlocal marker
        match value:
            case ImageFile() | ImageText():
                marker = marker or secrets.token_hex(16)
                images.append(value)
                return marker
            case ImageUrl(url):
                return url
            case Mapping():
                return dict(cast("Mapping[str, Any]", value))
            case _:
                raise TypeError(f"{type(value).__name__} is no JSON value")

    encode = json.JSONEncoder(
        allow_nan=False, ensure_ascii=False, separators=(",", ":"), default=stand_in
    ).encode
    for name, value in document.items():
        try:
            fields.append(f"{encode(name)}:{encode(value)}".encode())
        except UnicodeEncodeError:
            problems.append(Problem(name, "holds half a surrogate pair: the text is damaged"))
        except (TypeError, ValueError, RecursionError) as error:
            problems.append(Problem(name, f"cannot be JSON: {error}"))
        owners += [name] * (len(images) - len(owners))
    if problems:
        raise RequestError(problems=problems)
    whole = b"{" + b",".join(fields) + b"}"
    first, *others = whole.split(marker.encode()) if images else (whole,)
    parts: list[bytes | ImageText | _File] = [first]
    for owner, image, text in zip(owners, images, others, strict=True):
        parts += (image if isinstance(image, ImageText) else _File(image, owner), text)
    return _JsonBody(tuple(parts), run)


@attrs.frozen
class _File:
    """A file inside a body, and the field it is sent in."""

    image: ImageFile
    field: str

    def read(self, start: int, digest: "hashlib._Hash") -> list[bytes]:
        """The pieces that begin at byte *start*, as base64; the last only if all is what was checked."""
        image = self.image
        try:
            with _open(image.path) as reader:
                status = os.fstat(reader.fileno())
                reader.seek(start)
                raw = reader.read(min(_READ, image.size - start))
        except (OSError, _UnfitError) as error:
            raise self._changed(f"can no longer be read: {error}") from error
        digest.update(raw)
        same = (status.st_size, status.st_mtime_ns) == (image.size, image.mtime_ns)
        is_last = start + _READ >= image.size
        if not same or (is_last and digest.hexdigest() != image.sha256):
            raise self._changed("the file changed since it was checked")
        return _encoded(raw)

    def _changed(self, what: str) -> RequestError:
        problem = Problem(self.field, f"{self.image.path}: {what}")
        return RequestError(problems=[problem], advice="submit it again when the file stays as it is")


@attrs.frozen
class _JsonBody:
    """See `json_body`."""

    _parts: tuple[bytes | ImageText | _File, ...]
    _run: Run = attrs.field(repr=False)

    @property
    def size(self) -> int:
        """Bytes in all, known before the first is read."""
        return sum(map(_length, self._parts))

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        """The bytes, in pieces."""
        for part in self._parts:
            if isinstance(part, bytes):
                yield part
            elif isinstance(part, ImageText):
                for start in range(0, len(part.base64), _TEXT):
                    yield part.base64[start : start + _TEXT].encode("ascii")
            else:
                digest = hashlib.sha256()
                for start in range(0, part.image.size, _READ):
                    for piece in await self._run(part.read, start, digest):
                        yield piece


def _length(part: bytes | ImageText | _File) -> int:
    """Bytes that *part* adds to a body."""
    if isinstance(part, _File):
        return (part.image.size + 2) // 3 * 4
    return len(part.base64 if isinstance(part, ImageText) else part)
