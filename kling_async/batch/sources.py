"""A folder, a manifest or a stream of JSON lines: its rows, and the items that they are."""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Final

import attrs

from kling_async.batch.cells import from_json
from kling_async.batch.folders import folder_rows
from kling_async.batch.items import Check, Item, Maker, Row
from kling_async.batch.pictures import SUFFIXES, TO_FIT, Fit
from kling_async.batch.sheets import SAVE_AS, is_header, sheet_rows
from kling_async.paths import at_home
from kling_async.protocol.errors import Problem, RequestError
from kling_async.protocol.providers import Provider

__all__ = ["Source", "read_source"]

_ONE_A_LINE: Final = "write one object a line, without brackets around them and commas between"

_ADVICE: Final = {
    **dict.fromkeys((*SUFFIXES, *TO_FIT), "for a single picture there is animate"),
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
        broken: not all of it could be read: its header or its form is faulty, one of the problems says how.
            To leave out the bad rows would leave out what nobody has seen.
    """

    items: tuple[Item, ...]
    problems: tuple[Problem, ...] = ()
    bad: int = 0
    warnings: tuple[str, ...] = ()
    broken: bool = False


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
      it and no hidden ones. The prompt is the text of a ``.txt`` file of the picture's name, ``b.txt`` or
      ``b.jpg.txt`` for ``b.jpg``, else the default's.
    - A ``.jsonl``, ``.ndjson``, ``.csv`` or ``.tsv`` manifest: one request a line, in the API's field names,
      and ``key``. Paths in it are relative to it. A null or an empty cell is not given. In a table, objects
      and lists are JSON text, or have a column for each part: ``camera_control.config.zoom``,
      ``multi_prompt.1.prompt``; entries are counted from 1.
    - An open binary file: JSON lines; paths are relative to the working directory.

    A row without ``key`` is called by its picture and recognised by its content: the same row is the same
    paid task also when the rows come in another order, or the file is renamed, unless a common prompt names
    it (``{stem}``): that is another prompt then.

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
    broken = False
    try:
        for row in _rows(source, warnings, everything=fit is not None):
            broken = broken or row.broken
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
    return Source(tuple(items), tuple(problems), bad, tuple(warnings), broken)


def _rows(source: str | Path | IO[bytes], warnings: list[str], *, everything: bool) -> Iterator[Row]:
    if not isinstance(source, str | Path):
        yield from _json_rows(source, "<stdin>", Path().absolute())
        return
    path = at_home(source)
    kind, base = path.suffix.lower(), path.parent.absolute()
    if path.is_dir():
        yield from folder_rows(path, warnings, everything=everything)
    elif not path.exists():
        raise RequestError(f"no such file or folder: {path}", advice="")
    elif kind in (".jsonl", ".ndjson"):
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
    is_first = True
    parts = itertools.chain.from_iterable(map(bytes.splitlines, lines))  # which ends them at \r, too
    for number, line in enumerate(parts, start=1):
        place = f"{name}:{number}"
        try:
            text = line.decode("utf-8").strip().strip("\ufeff\x1a").strip()
        except UnicodeDecodeError as error:
            message = f"is no UTF-8 (byte 0x{line[error.start]:02x}): save the file as UTF-8"
            yield Row(place, {}, base, problems=(Problem("", message),), broken=True)
            return
        if not text:
            continue
        if is_first and (other := _other_form(text)):
            yield Row(place, {}, base, problems=(Problem("", other),), broken=True)
            return
        is_first = False
        yield _json_row(text, place, base)


def _other_form(text: str) -> str:
    """What a file that begins with the line *text* is instead of JSON lines; empty where it may be these."""
    if text.startswith("[") or text.endswith(("[", "{", ",")):  # a list, or what goes on in the next line
        return f"this is JSON, but not JSON lines: {_ONE_A_LINE}"
    if not text.startswith("{") and is_header(text):
        return "this is CSV, not JSON lines: save it as .csv"
    return ""


def _json_row(text: str, place: str, base: Path) -> Row:
    try:
        fields = from_json(text, if_several=_ONE_A_LINE)
        if isinstance(fields, dict):
            return Row(place, fields, base)
        message = "must be one JSON object a line"
    except ValueError as error:
        message = str(error)
    return Row(place, {}, base, problems=(Problem("", message),))
