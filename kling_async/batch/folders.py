"""A folder's pictures -> rows, each with the prompt that lies beside it."""

import collections
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kling_async.batch.items import Row
from kling_async.batch.pictures import SUFFIXES, TO_FIT, folded
from kling_async.batch.texts import decoded, doubt, place_of
from kling_async.protocol.errors import Problem, RequestError

__all__ = ["folder_rows"]


def folder_rows(folder: Path, warnings: list[str], *, everything: bool) -> Iterator[Row]:
    """The pictures of *folder*; with *everything* also those that Kling does not take."""
    files = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and not path.is_dir())
    wanted = SUFFIXES + TO_FIT if everything else SUFFIXES
    pictures = [path for path in files if path.suffix.lower() in wanted]
    left_out = collections.Counter(
        path.suffix.lower() for path in files if path.suffix.lower() in TO_FIT and not everything
    )
    told = _left_out(left_out)
    if not pictures:
        looked_for = "pictures that can be made JPEG" if everything else "JPEG or PNG files"
        raise RequestError(
            f"{folder} holds nothing to animate: no {looked_for} are in it; folders in it are not entered",
            advice=told,
        )
    if told:
        warnings.append(f"{folder}: {told}")
    texts = _texts(files)
    if alone := _without_picture(files, texts):
        warnings.append(f"{folder}: {alone}")
    doubts: list[str] = []
    for path in pictures:
        yield _picture_row(path, texts.get(path), doubts)
    if doubts:
        others = f" ({len(doubts) - 1} more like it)" if doubts[1:] else ""
        warnings.append(f"{doubts[0]}, save it as UTF-8{others}")


def _texts(files: Sequence[Path]) -> dict[Path, Path]:
    """The text of each picture that has one, found by its name, or else by what people hold for the same.

    Of two texts, ``b.jpg.txt`` goes before ``b.txt``, which may be for ``b.png``.
    """
    texts: dict[str, Path] = {}
    for path in files:
        if path.suffix.lower() == ".txt" and path.is_file():
            texts[path.stem] = path
            texts.setdefault(folded(path.stem), path)
    found: dict[Path, Path] = {}
    for path in files:
        if path.suffix.lower() in SUFFIXES + TO_FIT:
            names = (path.name, folded(path.name), path.stem, folded(path.stem))
            text = next((texts[name] for name in names if name in texts), None)
            if text is not None:
                found[path] = text
    return found


def _without_picture(files: Sequence[Path], texts: Mapping[Path, Path]) -> str:
    """What is told of the texts that are no picture's prompt."""
    used = set(texts.values())
    alone = [path.name for path in files if path.suffix.lower() == ".txt" and path not in used]
    if not alone:
        return ""
    count = "1 .txt file belongs" if len(alone) == 1 else f"{len(alone):,} .txt files belong"
    others = f" and {len(alone) - 3:,} more" if alone[3:] else ""
    return f"{count} to no picture: {', '.join(alone[:3])}{others}"


def _left_out(kinds: Mapping[str, int]) -> str:
    """What is told of the pictures that a folder holds in vain, counted by suffix."""
    count = sum(kinds.values())
    if not count:
        return ""
    some, them = ("1 picture is", "it") if count == 1 else (f"{count:,} pictures are", "them")
    return f"{some} left out that Kling does not take ({', '.join(sorted(kinds))}): --fit converts {them}"


def _picture_row(path: Path, text: Path | None, doubts: list[str]) -> Row:
    """The row of one picture, its prompt being *text*'s; a text that is no UTF-8 is told of in *doubts*."""
    picture = path.absolute()
    fields: dict[str, Any] = {"image": picture}
    if text is not None:
        try:
            prompt, line = decoded(text.read_bytes())
        except UnicodeDecodeError as error:
            where = "{}, line {}, column {}".format(text.name, *place_of(error))
            return _unread(path, f"is no text ({where}): save it as UTF-8")
        except OSError as error:
            return _unread(path, f"cannot be read ({text.name}): {error.strerror or error}")
        if line:
            doubts.append(f"{text} {doubt(prompt, line)}")
        if prompt := prompt.strip():
            fields["prompt"] = prompt
    return Row(str(path), fields, picture.parent, path)


def _unread(path: Path, why: str) -> Row:
    """The row of a picture whose prompt is not known."""
    picture = path.absolute()
    return Row(str(path), {"image": picture}, picture.parent, path, problems=(Problem("prompt", why),))
