"""A folder, a manifest or a stream of lines -> requests with their keys, all checked before any is submitted.

What comes out goes into ``client.completions``; `compare` tells what a journal holds of it from an earlier
run. Nothing here prints, and nothing here needs an event loop: it reads files, so an async service calls
`read_source` in a thread.
"""

import collections
import csv
import difflib
import io
import json
import os
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

import attrs

from kling_async import bodies
from kling_async.flight import default_name
from kling_async.journal import Record
from kling_async.protocol import identity, wire
from kling_async.protocol.converter import request_from
from kling_async.protocol.errors import Problem, RequestError
from kling_async.protocol.images import classify
from kling_async.protocol.models import ImageToVideo, MultiImageToVideo, VideoRequest
from kling_async.protocol.providers import Provider

__all__ = ["Earlier", "Item", "compare", "read_source"]

_PICTURES: Final = (".jpg", ".jpeg", ".png")
_FIELDS: Final[Mapping[str, Any]] = {
    field.name: field.type for kind in (ImageToVideo, MultiImageToVideo) for field in attrs.fields(kind)
}
_LONGEST_KEY: Final = 500
"""Characters: a key becomes a file's name and part of a token."""


@attrs.frozen
class Item:
    """One request of a source.

    Attributes:
        key: the caller's name for it, where one was given.
        name: what reports and files call it: the key, else its first picture's name, with ``-2``, ``-3``
            where several pictures are called alike.
        request: the request.
        request_hash: what it asks for, see `identity.request_hash`.
    """

    key: str | None
    name: str
    request: VideoRequest
    request_hash: str

    @property
    def submission(self) -> VideoRequest | tuple[str, VideoRequest]:
        """What a stream takes: without a key it is recognised by content and ordinal."""
        return self.request if self.key is None else (self.key, self.request)


@attrs.frozen
class Earlier:
    """What a journal holds of the items of a run that is about to begin.

    Attributes:
        rows: of each item, in their order; None: it was never to be submitted.
        changed: names of items whose name an earlier run had for another request.
        unlisted: rows of what is not asked for any more.
    """

    rows: tuple[Record | None, ...]
    changed: frozenset[str]
    unlisted: tuple[Record, ...]


def compare(items: Sequence[Item], records: Iterable[Record]) -> Earlier:
    """What *records* tell of *items*, by the rule that the client recognises them by.

    Args:
        items: of this run.
        records: every row of the journal; of several generations the latest counts.
    """
    known: dict[tuple[str, str], Record] = {}
    for record in sorted(records, key=lambda each: (each.generation, each.updated_at)):
        known[record.key, record.request_hash] = record
    equals = collections.Counter[str]()
    rows: list[Record | None] = []
    for item in items:
        equals[item.request_hash] += item.key is None
        name = item.key or f"{item.request_hash}#{equals[item.request_hash]}"
        rows.append(known.pop((name, item.request_hash), None))
    former = {(record.named, record.label) for record in known.values()}
    changed = (
        item.name
        for item, row in zip(items, rows, strict=True)
        if row is None and (item.key is not None, item.name) in former
    )
    return Earlier(tuple(rows), frozenset(changed), tuple(known.values()))


def read_source(
    source: str | Path | IO[bytes],
    *,
    defaults: Mapping[str, Any] | None = None,
    provider: Provider | None = None,
) -> list[Item]:
    """The requests that *source* holds, in their order. Blocking: for a thread.

    - A folder: its JPEG and PNG files by name, not those of folders in it and no hidden ones. The prompt is
      the text of a ``.txt`` file of the picture's name, else the default's.
    - A ``.jsonl`` or ``.csv`` manifest: one request a line, in the API's field names, and ``key``. Paths in
      it are relative to it. A null or an empty cell is not given; in CSV, objects and lists are JSON text.
    - An open binary file: JSON lines; paths are relative to the working directory.

    A row without ``key`` is called by its picture and recognised by its content: the same row is the same
    paid task also when the file is renamed or the rows come in another order.

    Args:
        source: the path, or the open file.
        defaults: fields for the rows that lack them.
        provider: where the requests will go; what it lacks is refused too.

    Raises:
        RequestError: with every problem of every row, each naming file, line and field. Nothing was sent.
    """
    problems: list[Problem] = []
    name = str(source) if isinstance(source, str | Path) else "<stdin>"
    try:
        items = list(_items(_rows(source, problems), defaults or {}, provider, problems))
    except OSError as error:
        raise RequestError(f"{name} cannot be read: {error.strerror or error}", advice="") from error
    if problems:
        raise RequestError(problems=problems)
    if not items:
        raise RequestError(f"{name} holds nothing to animate", advice="")
    return items


@attrs.frozen
class _Row:
    """One request as it was read.

    Attributes:
        place: where it stands, for people: ``shots.csv:37``, or the picture in a folder.
        fields: its own.
        base: the folder that its paths are relative to.
        picture: the file, of a row that is nothing but a picture in a folder.
    """

    place: str
    fields: Mapping[str, Any]
    base: Path
    picture: Path | None = None


# Reading


def _rows(source: str | Path | IO[bytes], problems: list[Problem]) -> Iterator[_Row]:
    if not isinstance(source, str | Path):
        yield from _json_rows(source, "<stdin>", Path(), problems)
        return
    path = Path(source).expanduser()
    kind = path.suffix.lower()
    if path.is_dir():
        yield from _folder_rows(path)
    elif not path.exists():
        raise RequestError(f"no such file or folder: {path}", advice="")
    elif kind == ".jsonl":
        with path.open("rb") as lines:
            yield from _json_rows(lines, path.name, path.parent, problems)
    elif kind == ".csv":
        yield from _csv_rows(path.read_bytes(), path.name, path.parent, problems)
    else:
        raise RequestError(f"{path.name} is no folder, .jsonl or .csv file", advice=_remedy(kind))


def _remedy(kind: str) -> str:
    if kind in _PICTURES:
        return "for a single picture there is animate"
    return "save it as .csv" if kind in (".xlsx", ".xls", ".ods", ".tsv") else "give one of these"


def _folder_rows(folder: Path) -> Iterator[_Row]:
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in _PICTURES or path.name.startswith(".") or path.is_dir():
            continue
        fields: dict[str, Any] = {"image": path.absolute()}
        beside = path.with_suffix(".txt")
        if beside.is_file():
            fields["prompt"] = beside.read_text("utf-8-sig", errors="replace").strip()
        yield _Row(str(path), fields, folder, path)


def _json_rows(lines: Iterable[bytes], name: str, base: Path, problems: list[Problem]) -> Iterator[_Row]:
    for number, line in enumerate(lines, start=1):
        place = f"{name}:{number}"
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            fields = json.loads(text) if text else None
        except UnicodeDecodeError as error:
            problems.append(_no_utf8(place, error))
            return
        except (ValueError, RecursionError) as error:
            problems.append(Problem(place, f"is no JSON: {error}"))
            continue
        if not text:
            continue
        if isinstance(fields, dict):
            yield _Row(place, fields, base)
        else:
            problems.append(Problem(place, "must be one JSON object a line"))


def _csv_rows(data: bytes, name: str, base: Path, problems: list[Problem]) -> Iterator[_Row]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        problems.append(_no_utf8(f"{name}:{line}", error))
        return
    first = text.partition("\n")[0]
    # spreadsheets write what their country writes; no column's name holds any of the three
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count), strict=True)
    try:
        columns = [cell.strip() for cell in next(rows, [])]
        unknown = list(_unknown_columns(columns, f"{name}:1"))
        problems += unknown
        begin = rows.line_num + 1
        for cells in rows:
            place, begin = f"{name}:{begin}", rows.line_num + 1  # a quoted cell may span lines
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) > len(columns):
                problems.append(
                    Problem(place, f"has {len(cells)} cells, but there are {len(columns)} columns")
                )
            elif not unknown:
                yield _Row(place, _cells(columns, cells, place, problems), base)
    except csv.Error as error:
        problems.append(Problem(f"{name}:{rows.line_num}", f"is no CSV: {error}"))


def _cells(columns: list[str], cells: list[str], place: str, problems: list[Problem]) -> dict[str, Any]:
    """A line's fields: text where the field is text, else JSON, which covers numbers, true and false too."""
    fields: dict[str, Any] = {}
    for column, cell in zip(columns, cells, strict=False):
        value = cell.strip()
        if not value:
            continue
        if column == "key" or _is_text(_FIELDS[column]):
            fields[column] = value
            continue
        try:
            fields[column] = json.loads(value.lower() if value in ("TRUE", "FALSE") else value)
        except (ValueError, RecursionError) as error:
            wrong = f"is no JSON: {error}" if value[0] in "[{" else f"must be JSON or a number, not {value!r}"
            problems.append(Problem(f"{place}: {column}", wrong))
    return fields


def _is_text(annotation: Any) -> bool:
    return annotation is str or str in typing.get_args(annotation)


def _unknown_columns(columns: list[str], place: str) -> Iterator[Problem]:
    known = ["key", *_FIELDS]
    if columns in ([], [""]):
        yield Problem(place, "must hold the columns' names")
        return
    for column in columns:
        if column not in known:
            close = [name for name in known if name.startswith(f"{column}_")] if column else []
            close = close or difflib.get_close_matches(column.lower(), known, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            yield Problem(place, f"no such column: {column!r}{hint}")
        elif columns.count(column) > 1:
            yield Problem(place, f"the column {column} is there twice")


def _no_utf8(place: str, error: UnicodeDecodeError) -> Problem:
    wrong = error.object[error.start]
    return Problem(place, f"is no UTF-8 (byte 0x{wrong:02x}): save the file as UTF-8")


# Checking


def _items(
    rows: Iterable[_Row], defaults: Mapping[str, Any], provider: Provider | None, problems: list[Problem]
) -> Iterator[Item]:
    """The rows' requests, each with its name; what is wrong with the others goes to *problems*."""
    seen: dict[tuple[str, str], str] = {}
    names = collections.Counter[str]()
    common = _located(defaults, Path())
    for row in rows:
        own = {name: value for name, value in row.fields.items() if value is not None}
        found = list(_taken(own, row.place, seen))
        key = own.pop("key", None)
        try:
            request = request_from({**common, **_located(own, row.base)})
            images = bodies.resolve(request).images
            if provider is not None:
                wire.create(request, provider, images, external_task_id="")
        except RequestError as error:
            found += (_at(row, problem) for problem in error.problems or [Problem("", error.what)])
        else:
            yield Item(key, key or _name(request, names), request, identity.request_hash(request, images))
        problems += found


def _taken(own: Mapping[str, Any], place: str, seen: dict[tuple[str, str], str]) -> Iterator[Problem]:
    """What is wrong with the names a row gives."""
    key = own.get("key")
    if key is not None and not (isinstance(key, str) and 0 < len(key) <= _LONGEST_KEY):
        yield Problem(f"{place}: key", f"must be text of 1 to {_LONGEST_KEY} characters")
        return
    for field in ("key", "external_task_id"):
        value = own.get(field)
        if isinstance(value, str):
            first = seen.setdefault((field, value), place)
            if first != place:
                yield Problem(f"{place}: {field}", f"{value!r} is taken by {first}")


def _at(row: _Row, problem: Problem) -> Problem:
    """*problem* with its place: in a folder that is the picture itself."""
    if row.picture is not None and problem.field == "image":
        return Problem(row.place, problem.message.removeprefix(f"{row.picture.absolute()} "), problem.source)
    if row.picture is not None and problem.field == "prompt" and "prompt" not in row.fields:
        beside = row.picture.with_suffix(".txt").name
        return Problem(row.place, f"has no prompt: give one for all, or write it in {beside}", problem.source)
    return Problem(": ".join(filter(None, (row.place, problem.field))), problem.message, problem.source)


def _located(fields: Mapping[str, Any], base: Path) -> dict[str, Any]:
    """*fields* with their pictures' paths made absolute: a request does not know what it was relative to."""
    located = dict(fields)
    for name in ("image", "image_tail", "static_mask"):
        if name in located:
            located[name] = _picture(located[name], base)
    for name, inner in (("dynamic_masks", "mask"), ("image_list", "image")):
        if isinstance(entries := located.get(name), list | tuple):
            located[name] = [
                {**entry, inner: _picture(entry[inner], base)}
                if isinstance(entry, Mapping) and inner in entry
                else _picture(entry, base)
                for entry in entries
            ]
    return located


def _picture(value: Any, base: Path) -> Any:
    """A path as an absolute `Path`; whatever else a picture can be, and what it cannot be, as it is."""
    if not isinstance(value, str) or not value:
        return value

    def path(text: str | Path) -> Path:
        return base.absolute() / os.path.expanduser(text)  # noqa: PTH111 - Path's raises for an unknown user

    try:
        meant = classify(value, is_file=lambda name: os.path.isfile(path(name)))  # noqa: PTH113 - Path's raises for a name too long
    except ValueError:
        return value
    return path(meant) if isinstance(meant, Path) else value


def _name(request: VideoRequest, names: collections.Counter[str]) -> str:
    """What a stream calls *request* too, which has no key; *names* counts those before it."""
    name = default_name(request)
    names[name] += 1
    return name if names[name] == 1 else f"{name}-{names[name]}"
