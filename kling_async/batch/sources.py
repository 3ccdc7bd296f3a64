"""A folder, a manifest or a stream of JSON lines: its rows, and the items that they are."""

import collections
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final

import attrs

from kling_async.batch.items import Check, Fit, Item, Maker, Row
from kling_async.batch.sheets import SAVE_AS, decoded, doubt, sheet_rows
from kling_async.protocol.errors import Problem, RequestError
from kling_async.protocol.providers import Provider

__all__ = ["Source", "read_source"]

_PICTURES: Final = (".jpg", ".jpeg", ".png")
_TO_FIT: Final = (".heic", ".heif", ".webp", ".tif", ".tiff", ".avif", ".bmp", ".gif")
"""Pictures that people have and Kling does not take."""

_ADVICE: Final = {
    **dict.fromkeys((*_PICTURES, *_TO_FIT), "for a single picture there is animate"),
    **dict.fromkeys((".xlsx", ".xlsm", ".xls", ".ods"), SAVE_AS),
    ".numbers": "export it as CSV (Numbers: File > Export To > CSV)",
    ".json": "write one object a line, in a .jsonl file",
}


@attrs.frozen
class Source:
    """What was read from one source.

    Attributes:
        items: the good rows, in their order.
        problems: what is wrong with the others, each naming file, line and field.
        bad: how many rows have a problem.
        warnings: what is doubtful about the source as a whole, sentences.
    """

    items: tuple[Item, ...]
    problems: tuple[Problem, ...] = ()
    bad: int = 0
    warnings: tuple[str, ...] = ()


def read_source(
    source: str | Path | IO[bytes],
    *,
    defaults: Mapping[str, Any] | None = None,
    provider: Provider | None = None,
    check: Check = "warn",
    fit: Fit | None = None,
) -> Source:
    """The requests that *source* holds, in their order. Blocking: for a thread.

    - A folder: its JPEG and PNG files by name, with *fit* also what can be made one; not those of folders in
      it and no hidden ones. The prompt is the text of a ``.txt`` file of the picture's name, else the
      default's.
    - A ``.jsonl``, ``.csv`` or ``.tsv`` manifest: one request a line, in the API's field names, and ``key``.
      Paths in it are relative to it. A null or an empty cell is not given. In a table, objects and lists are
      JSON text, or have a column for each part: ``camera_control.config.zoom``, ``multi_prompt.1.prompt``;
      entries are counted from 1.
    - An open binary file: JSON lines; paths are relative to the working directory.

    A row without ``key`` is called by its picture and recognised by its content: the same row is the same
    paid task also when the file is renamed or the rows come in another order.

    Args:
        source: the path, or the open file.
        defaults: fields for the rows that lack them. Their prompts have ``{stem}``, ``{name}`` and
            ``{folder}`` of the row's first picture filled in, and ``{key}``, which is the stem where a row
            has none; ``{{`` and ``}}`` are braces. Prompts of rows are taken as they are.
        provider: where the requests will go; what it lacks, and what the model does not do, is refused too.
            None: neither is looked at.
        check: ``error`` refuses also what is only doubtful.
        fit: gives the picture that Kling takes for the one at a path, and raises `ValueError` with a clause
            where it cannot. Left out, pictures are taken as they are.

    Raises:
        RequestError: there is nothing to read: no such file, another kind of file, nothing in it, or a
            default's prompt has unknown words in braces. Bad rows are told of in the result.
    """
    name = str(source) if isinstance(source, str | Path) else "<stdin>"
    maker = Maker(defaults or {}, provider, check, fit)
    warnings: list[str] = []
    items: list[Item] = []
    problems: list[Problem] = []
    bad = 0
    try:
        for row in _rows(source, warnings, everything=fit is not None):
            made = maker.item(row)
            if isinstance(made, Item):
                items.append(made)
            else:
                problems += made
                bad += 1
    except OSError as error:
        raise RequestError(f"{name} cannot be read: {error.strerror or error}", advice="") from error
    if not items and not problems:
        raise RequestError(f"{name} holds nothing to animate", advice="")
    return Source(tuple(items), tuple(problems), bad, tuple(warnings))


def _rows(source: str | Path | IO[bytes], warnings: list[str], *, everything: bool) -> Iterator[Row]:
    if not isinstance(source, str | Path):
        yield from _json_rows(source, "<stdin>", Path().absolute())
        return
    path = Path(source).expanduser()
    kind, base = path.suffix.lower(), path.parent.absolute()
    if path.is_dir():
        yield from _folder_rows(path, warnings, everything=everything)
    elif not path.exists():
        raise RequestError(f"no such file or folder: {path}", advice="")
    elif kind == ".jsonl":
        with path.open("rb") as lines:
            yield from _json_rows(lines, path.name, base)
    elif kind in (".csv", ".tsv") or (kind == ".txt" and _has_tabs(path)):
        yield from sheet_rows(path.read_bytes(), path.name, base, warnings)
    else:
        advice = _ADVICE.get(kind, "give one of these")
        raise RequestError(f"{path.name} is no folder, .jsonl, .csv or .tsv file", advice=advice)


def _has_tabs(path: Path) -> bool:
    """Whether it is the "Unicode Text" of Excel, whose cells tabs divide."""
    with path.open("rb") as text:
        return b"\t" in text.readline()


# JSON lines


def _json_rows(lines: Iterable[bytes], name: str, base: Path) -> Iterator[Row]:
    for number, line in enumerate(lines, start=1):
        place = f"{name}:{number}"
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            fields = json.loads(text) if text else None
        except UnicodeDecodeError as error:
            message = f"is no UTF-8 (byte 0x{line[error.start]:02x}): save the file as UTF-8"
            yield Row(place, {}, base, problems=(Problem("", message),))
            return
        except (ValueError, RecursionError) as error:
            yield Row(place, {}, base, problems=(Problem("", f"is no JSON: {error}"),))
            continue
        if not text:
            continue
        if isinstance(fields, dict):
            yield Row(place, fields, base)
        else:
            yield Row(place, {}, base, problems=(Problem("", "must be one JSON object a line"),))


# Folders


def _folder_rows(folder: Path, warnings: list[str], *, everything: bool) -> Iterator[Row]:
    """The pictures of *folder*; with *everything* also those that Kling does not take."""
    files = sorted(path for path in folder.iterdir() if not path.name.startswith(".") and not path.is_dir())
    wanted = _PICTURES + _TO_FIT if everything else _PICTURES
    pictures = [path for path in files if path.suffix.lower() in wanted]
    left_out = collections.Counter(
        path.suffix.lower() for path in files if path.suffix.lower() in _TO_FIT and not everything
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
    texts = {path.stem: path for path in files if path.suffix.lower() == ".txt"}
    doubts: list[str] = []
    for path in pictures:
        yield _picture_row(path, texts.get(path.stem), doubts)
    if doubts:
        others = f" ({len(doubts) - 1} more like it)" if doubts[1:] else ""
        warnings.append(f"{doubts[0]}, save it as UTF-8{others}")


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
    if text is not None and text.is_file():
        try:
            prompt, line = decoded(text.read_bytes())
        except UnicodeDecodeError:
            problem = Problem("", f"has a prompt that is no text ({text.name}): save it as UTF-8")
            return Row(str(path), fields, picture.parent, path, problems=(problem,))
        if line:
            doubts.append(f"{text} {doubt(prompt)}")
        if prompt := prompt.strip():
            fields["prompt"] = prompt
    return Row(str(path), fields, picture.parent, path)
