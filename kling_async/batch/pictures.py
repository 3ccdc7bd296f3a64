"""The pictures in a row's fields: located, fitted, and looked for under another spelling."""

import re
import unicodedata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from kling_async import paths
from kling_async.pixels import refuse_huge
from kling_async.protocol.errors import Problem, RequestError
from kling_async.protocol.images import check, classify
from kling_async.protocol.metadata import bare_jpeg, bare_png, orientation

__all__ = [
    "SUFFIXES",
    "TO_FIT",
    "Change",
    "Fit",
    "Fitter",
    "folded",
    "is_masked",
    "locator",
    "meant_instead",
    "with_pictures",
]

SUFFIXES: Final = (".jpg", ".jpeg", ".png")
TO_FIT: Final = (".heic", ".heif", ".webp", ".tif", ".tiff", ".avif", ".bmp", ".gif")
"""Pictures that people have and Kling does not take."""

_QUOTES: Final = ('"', "'", "\u201d", "\u2019")

Fit = Callable[[Path], Path]
"""The picture that Kling takes for the one at a path; raises `ValueError` with a clause if there is none."""

Change = Callable[[str, Any], Any]
"""Gives what stands in a picture's place, from its dotted field and its value."""


def with_pictures(fields: Mapping[str, Any], change: Change) -> dict[str, Any]:
    """*fields* with each picture *change*d; what has not the form of a picture's field stays as it is."""
    changed = dict(fields)
    for name in ("image", "image_tail", "static_mask"):
        if name in changed:
            changed[name] = change(name, changed[name])
    for name, inner in (("dynamic_masks", "mask"), ("image_list", "image")):
        if not isinstance(entries := changed.get(name), list | tuple):
            continue
        suffix = ".mask" if inner == "mask" else ""
        changed[name] = [
            {**entry, inner: change(f"{name}[{place}]{suffix}", entry[inner])}
            if isinstance(entry, Mapping) and inner in entry
            else change(f"{name}[{place}]{suffix}", entry)
            for place, entry in enumerate(entries)
        ]
    return changed


def locator(base: Path) -> Change:
    """What makes paths absolute: a request does not know what they were relative to.

    Whatever else a picture can be, and what it cannot be, stays as it is.
    """

    def path(text: str | Path) -> Path:
        return base / paths.at_home(text)

    def is_file(text: Path) -> bool:
        return paths.is_file(path(text))

    def located(_field: str, value: Any) -> Any:
        if not isinstance(value, str) or not value:
            return value
        try:
            meant = classify(value, is_file=is_file)
        except ValueError:
            return value
        return path(meant) if isinstance(meant, Path) else value

    return located


class Fitter:
    """Puts fitted pictures in the place of paths, each made once."""

    def __init__(self, fit: Fit) -> None:
        """Begin.

        Args:
            fit: what makes a picture one that Kling takes.
        """
        self._fit = fit
        self._fitted: dict[Path, Path | str] = {}

    def fitted(self, fields: Mapping[str, Any], problems: list[Problem]) -> dict[str, Any]:
        """*fields* with fitted pictures; what cannot be fitted goes to *problems*.

        Masks stay as they are. So does what they are drawn for, unless it is an upright JPEG or PNG that
        keeps its size: turned or scaled it would be another picture than the one that they, and the points of
        their paths, mean.
        """
        masked = is_masked(fields)

        def fitted(field: str, value: Any) -> Any:
            if not isinstance(value, Path) or field.endswith("mask") or not value.is_file():
                return value
            is_drawn_for = masked and field == "image"
            if is_drawn_for and not _is_upright(value):
                return value
            result = self._result(value)
            if is_drawn_for:
                return result if isinstance(result, Path) and _size(value) == _size(result) else value
            if isinstance(result, Path):
                return result
            problems.append(Problem(field, f"{value} {result}"))
            return value

        return with_pictures(fields, fitted)

    def _result(self, path: Path) -> Path | str:
        """The fitted picture, or why there is none."""
        if path not in self._fitted:
            try:
                self._fitted[path] = self._fit(path)
            except OSError as error:
                self._fitted[path] = f"cannot be fitted: {error.strerror or error}"
            except ValueError as error:
                self._fitted[path] = error.what if isinstance(error, RequestError) else str(error)
        return self._fitted[path]


def is_masked(fields: Mapping[str, Any]) -> bool:
    """Whether masks are drawn for the start frame."""
    return bool(fields.get("static_mask") or fields.get("dynamic_masks"))


def _is_upright(path: Path) -> bool:
    """Whether a picture is a JPEG or PNG that is stored as it is shown, by what `fit` turns by."""
    try:
        refuse_huge(path.stat().st_size)
        content = path.read_bytes()
        if content.startswith(b"\x89PNG"):
            _, exif = bare_png(content)
        elif content.startswith(b"\xff\xd8"):
            _, exif = bare_jpeg(content)
        else:
            return False
    except (OSError, ValueError):  # `fit` tells why
        return False
    return orientation(exif) == 1


def _size(path: Path) -> tuple[int, int]:
    with path.open("rb") as reader:
        header = check(reader, path.stat().st_size)
    return header.width, header.height


# Names of files


def folded(name: str) -> str:
    """What names that people hold for the same have in common: neither case nor Unicode form counts."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def meant_instead(field: str, path: Path, known: dict[Path, dict[str, str]]) -> str:
    """What may be meant by *path*, where nothing is: the end of a sentence, empty where nobody knows.

    Args:
        field: where it was given.
        path: where nothing is.
        known: the folders that were looked at, filled here: thousands of rows may be wrong alike.
    """
    if name := _other_spelling(path, known):
        return f"; did you mean {name}?"
    if path.name.endswith(_QUOTES):
        return "; take the quotes around it away"
    if field.startswith("image_list") and re.search("[,;|]", path.name):
        return '; several are a list in JSON: ["a.png", "b.png"]'
    return ""


def _other_spelling(path: Path, known: dict[Path, dict[str, str]]) -> str | None:
    """The name of the file that *path* may mean in its folder."""
    if path.parent not in known:
        try:
            known[path.parent] = {folded(each.name): each.name for each in path.parent.iterdir()}
        except (OSError, ValueError):
            known[path.parent] = {}
    name = known[path.parent].get(folded(path.name))
    return name if name != path.name else None  # a link to nothing is there, too
