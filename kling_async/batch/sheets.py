"""CSV as spreadsheets write it -> rows: its encoding, its delimiter, its columns; `cells` has the values."""

import csv
import io
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Final

import attrs

from kling_async.batch.cells import TABLE, Read, names
from kling_async.batch.items import Row
from kling_async.batch.pictures import SUFFIXES, TO_FIT
from kling_async.batch.texts import decoded, doubt, place_of
from kling_async.protocol.errors import Problem, RequestError
from kling_async.protocol.naming import closest

__all__ = ["SAVE_AS", "is_header", "sheet_rows"]

SAVE_AS: Final = 'save it as "CSV UTF-8" (Excel: File > Save As)'
"""What to do with what is no CSV yet."""

_DELIMITERS: Final = ",;\t|"
_WORKBOOKS: Final = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")
"""How workbooks begin: as ZIP archives (.xlsx, .ods, .numbers), or as the .xls of old."""
_FORMULA_ERROR: Final = re.compile(r"#[¡¿]?[\w/ .]+[!?]|#[^\W\d_]/[^\W\d_]|#NV|Err:\d{3}")
"""What stands in a cell whose formula failed: #REF!, #N/A, Err:502; behind # in capitals of any language."""
_ROUNDED: Final = re.compile(r"\d{15}0+")
"""What a spreadsheet makes of a longer number: it keeps 15 digits."""
_PICTURE: Final = re.compile(
    "https?://|.*({})".format("|".join(map(re.escape, SUFFIXES + TO_FIT))), re.IGNORECASE
)
_UNNAMED: Final = "name it as the API does, or delete it (pandas: index=False)"
_SEP: Final = re.compile(r'"?sep=(\t|[^"\w\s])"?\1*(?:\n|\Z)', re.IGNORECASE)
"""The line with which Excel is told the delimiter; Excel hides it, and others save it with empty cells."""
_TOO_NARROW: Final = re.compile("#{3,}")
"""What spreadsheets show, and some save, of a number in a column that has no room for it."""


@attrs.frozen
class _Column:
    """A column of a table.

    Attributes:
        name: as people write it: ``multi_prompt.1.prompt``.
        path: its parts, entries of lists as numbers from 1.
        read: what reads its cells.
    """

    name: str
    path: tuple[str | int, ...]
    read: Read


def sheet_rows(data: bytes, name: str, base: Path, warnings: list[str]) -> Iterator[Row]:
    """The rows of a table, the first of which names the columns.

    Args:
        data: the file.
        name: what problems call it.
        base: the folder that its paths are relative to.
        warnings: gets what is doubtful about the file as a whole.

    Raises:
        RequestError: it is a workbook whatever its name says.
    """
    if data.startswith(_WORKBOOKS):
        raise RequestError(f"{name} is a spreadsheet, whatever its name says", advice=SAVE_AS)
    try:
        text, doubtful = decoded(data)
    except UnicodeDecodeError as error:
        line, column = place_of(error)
        message = f"has a byte that is no text (0x{data[error.start]:02x}, column {column}): {SAVE_AS}"
        yield _broken(f"{name}:{line}", base, Problem("", message))
        return
    if doubtful:
        warnings.append(f"{name}:{doubtful}: {doubt(text, doubtful)}, {SAVE_AS}")
    yield from _Sheet(text, name, base, warnings).rows()


def is_header(text: str) -> bool:
    """Whether *text* begins with a row that names columns."""
    return any(_fits(io.StringIO(text), delimiter)[0] for delimiter in _DELIMITERS)


def _broken(place: str, base: Path, *problems: Problem) -> Row:
    return Row(place, {}, base, problems=problems, broken=True)


class _Sheet:
    """The rows of one text."""

    def __init__(self, text: str, name: str, base: Path, warnings: list[str]) -> None:
        self._name, self._base, self._warnings = name, base, warnings
        self._rounded: set[str] = set()
        lines = io.StringIO(text, newline="")
        told = _SEP.match(text)
        self._offset = 1 if told else 0
        self._delimiter = told[1] if told else max(_DELIMITERS, key=lambda each: _fits(lines, each))
        lines.seek(told.end() if told else 0)
        self._cells = csv.reader(lines, delimiter=self._delimiter, strict=True, skipinitialspace=True)

    def rows(self) -> Iterator[Row]:
        """Every row, the faulty ones with their problems."""
        columns: list[_Column | None] | None = None
        begin = 1 + self._offset
        header = ""
        try:
            for cells in self._cells:
                place, begin = f"{self._name}:{begin}", self._line + 1  # a quoted cell may span lines
                if not any(cell.strip() for cell in cells):
                    continue
                if columns is None:
                    header = place
                    columns, problems = _columns(cells)
                    if problems:
                        yield _broken(place, self._base, *problems)
                        return
                elif columns[0] is None and (value := cells[0].strip()):
                    wrong = f"column A has no name, and {place} has {value[:50]!r} in it: {_UNNAMED}"
                    yield _broken(header, self._base, Problem("", wrong))
                    return
                else:
                    yield self._row(place, columns, cells)
        except csv.Error as error:
            yield _broken(f"{self._name}:{begin}", self._base, Problem("", self._wrong(str(error))))

    @property
    def _line(self) -> int:
        return self._cells.line_num + self._offset

    def _wrong(self, error: str) -> str:
        """What *error* of the reader says of the row that begins where it was reading."""
        most = f"has a cell of more than {csv.field_size_limit():,} characters"
        behind = f"has text behind a closing quote (line {self._line})"
        known = {
            "unexpected end": "has a quote that is never closed",
            "field limit": f"{most}: close its quote, and give pictures as paths or URLs",
            "expected after": f"{behind}: a quote in a cell is written twice",
        }
        message = next((known[sign] for sign in known if sign in error), f"is no CSV: {error}")
        return f"{message}; nothing behind it was read"

    def _row(self, place: str, columns: list[_Column | None], cells: list[str]) -> Row:
        fields: dict[str, Any] = {}
        problems: list[Problem] = []
        dotted: set[str] = set()
        faulty: set[str | int] = set()
        if any(cell.strip() for cell in cells[len(columns) :]):
            wrong = f"has {len(cells)} cells, but there are {len(columns)} columns"
            problems.append(Problem("", f"{wrong}: quote a cell that holds {self._called}"))
        for number, (column, cell) in enumerate(zip(columns, cells, strict=False)):
            value = cell.strip()
            if not value:
                continue
            if column is None:
                wrong = f"has {value[:50]!r} in column {_letters(number)}, which has no name"
                problems.append(Problem("", f"{wrong}: name it as the API does, or delete the cell"))
                continue
            try:
                _require_whole(value)
                read = column.read(value, self._delimiter != ",")
            except ValueError as error:
                problems.append(Problem(column.name, str(error)))
                faulty.add(column.path[0])
                continue
            self._doubt_digits(place, column.name, value)
            if len(column.path) > 1:
                dotted.add(str(column.path[0]))
            _put(fields, column.path, read)
        for name in sorted(dotted - faulty):  # of the others nothing more is looked at
            fields[name] = _listed(name, fields[name], problems)
        order = [str(column.path[0]) for column in columns if column is not None]
        told = tuple(problems)
        return Row(place, fields, self._base, dotted=frozenset(dotted), problems=told, order=order)

    def _doubt_digits(self, place: str, name: str, value: str) -> None:
        """Warn once of the column *name* where its ids look like what a spreadsheet left of them."""
        if name not in self._rounded and _ROUNDED.fullmatch(value):
            self._rounded.add(name)
            doubt = f"{value} may have lost its last digits: format the column as text"
            self._warnings.append(f"{place}: {name}: {doubt}")

    @property
    def _called(self) -> str:
        return {",": "a comma", ";": "a semicolon", "\t": "a tab"}.get(self._delimiter, self._delimiter)


def _require_whole(cell: str) -> None:
    """Refuse what stands in a cell in place of what was entered."""
    if "\0" in cell:
        raise ValueError("holds a NUL byte: the file is damaged")
    if _FORMULA_ERROR.fullmatch(cell) and (cell.isupper() or cell[0] != "#"):
        raise ValueError(f"is a formula's error ({cell}): mend the cell")
    if _TOO_NARROW.fullmatch(cell):
        raise ValueError(f"was too wide for its column ({cell}): widen the column and save the table again")


def _fits(lines: io.StringIO, delimiter: str) -> tuple[int, int]:
    """How well *delimiter* makes columns of the first row: those with known names, and all.

    To leave nothing but empty cells is better than to find one in them that holds commas.
    """
    lines.seek(0)
    try:
        rows = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
        cells = next((cells for cells in rows if any(cell.strip() for cell in cells)), None)
    except csv.Error:
        return 0, 0
    if cells is None:
        return 1, 0
    return sum(cell.strip().lower().partition(".")[0] in TABLE.parts for cell in cells), len(cells)


# Columns


def _columns(cells: list[str]) -> tuple[list[_Column | None], list[Problem]]:
    """The columns that the first row names, None for those without a name, and what is wrong with them."""
    if none := _no_header(cells):
        return [], [Problem("", f"the first row must name the columns, as image and prompt do: {none}")]
    columns: list[_Column | None] = []
    problems: list[Problem] = []
    seen: set[tuple[str | int, ...]] = set()
    given = {cell.strip().lower() for cell in cells}
    for number, cell in enumerate(cells):
        name = cell.strip().lower()
        column = _column(name)
        columns.append(column)
        if column is None:
            if name:
                hint = _hint(name, given) or ": delete the column, or name it as the API does"
                wrong = f"column {_letters(number)}: no such column: {cell.strip()!r}{hint}"
                problems.append(Problem("", wrong))
            continue
        if column.path in seen:
            problems.append(Problem("", f"the column {column.name} is there twice"))
        seen.add(column.path)
    for path in sorted(seen, key=str):
        for end in range(1, len(path)):
            if path[:end] in seen:
                whole, part = (".".join(map(str, each)) for each in (path[:end], path))
                problems.append(Problem("", f"the column {whole} is there whole and in parts ({part})"))
    return columns, problems


def _no_header(cells: list[str]) -> str:
    """Why *cells* name no columns: one is a picture, or none is a name or like one; empty: they may."""
    given = [cell.strip() for cell in cells if cell.strip()]
    if picture := next(filter(_PICTURE.match, given), ""):
        return f"{picture[:50]!r} is none"
    if any(_column(cell.lower()) or _hint(cell.lower()) for cell in given):
        return ""
    return f"{given[0][:50]!r} is none; if a row below does, delete what stands above it"


def _column(name: str) -> _Column | None:
    """The column called *name*, if there can be one."""
    shape = TABLE
    path: list[str | int] = []
    for part in name.split("."):
        if part in shape.parts:
            path.append(part)
            shape = shape.parts[part]
        elif shape.entry is not None and re.fullmatch("[1-9][0-9]?", part):
            path.append(int(part))
            shape = shape.entry
        else:
            return None
    return _Column(name, tuple(path), shape.read)


def _hint(name: str, given: Collection[str] = ()) -> str:
    """What may have been meant by the column *name* beside those *given*; empty where nothing is like it."""
    if re.search(r"\.0(\.|$)", name):
        return "; entries are counted from 1"
    meant = closest(name, list(names(TABLE)), given)
    return f"; did you mean {meant}?" if meant else ""


def _letters(number: int) -> str:
    """What spreadsheets call a column, counted from 0: A, B, ... Z, AA."""
    before, own = divmod(number, 26)
    return (_letters(before - 1) if before else "") + chr(ord("A") + own)


# Values in parts


class _Parts(dict[str | int, Any]):
    """An object or a list that grows part by part, entries of a list by their numbers."""


def _put(fields: dict[str, Any], path: tuple[str | int, ...], value: Any) -> None:
    """Put *value* where *path* leads."""
    inner: dict[Any, Any] = fields
    for part in path[:-1]:
        inner = inner.setdefault(part, _Parts())
    inner[path[-1]] = value


def _listed(name: str, value: Any, problems: list[Problem]) -> Any:
    """*value* with lists that are lists; an entry that is left out goes to *problems*."""
    if not isinstance(value, _Parts):
        return value
    inner = {part: _listed(f"{name}.{part}", entry, problems) for part, entry in value.items()}
    places = sorted(part for part in inner if isinstance(part, int))
    if not places:
        return inner
    problems += (
        Problem(f"{name}.{place}", f"is empty, and {name}.{places[-1]} is not")
        for place in range(1, places[-1])
        if place not in inner
    )
    return [inner[place] for place in places]
