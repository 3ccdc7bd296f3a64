"""The values of a table's cells: what spreadsheets make of numbers, lists and names, and what was meant."""

import json
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import attrs

from kling_async.protocol.models import CameraConfig, ImageToVideo, MultiImageToVideo

__all__ = ["TABLE", "Read", "Shape", "from_json", "names"]

Read = Callable[[str, bool], Any]
"""Reads the text of a cell; the second argument: whether a point may divide thousands.

Raises `ValueError` with a clause without a subject.
"""

_NUMBER: Final = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")
_SHORTENED: Final = re.compile(r"[+-]?\d+(?:[.,]\d+)?[eE]\+\d+")
"""A long number as spreadsheets show and save it: 8.9E+17, and the digits are gone."""
_WHOLE: Final = re.compile(r"([+-]?\d+)[.,]0+")
_GROUPED: Final = re.compile(r"[+-]?[1-9]\d{0,2}(?:[.,]\d{3})+")
"""1.000: a thousand in Germany, and one with three decimals in America."""
_TIME: Final = re.compile(r"0?(\d+):0?(\d+)(?::00)?")
_CURLY: Final = re.compile("[\u201c\u201d\u201e\u00ab\u00bb\u2018\u2019]")

_FAULTS: Final = {
    "Expecting property name": "a name in double quotes is missing",
    "Expecting value": "a value is missing, or is none of JSON's",
    "Expecting ':' delimiter": "a colon is missing",
    "Expecting ',' delimiter": "a comma is missing",
    "Extra data": "something stands behind its end",
    "Unterminated string": "a quote is never closed",
    "Invalid control character": r"a text holds a line end or a tab, write \n or \t",
    "Invalid \\": "a backslash is written twice",
}
"""What the reader of JSON says, by its beginning, in plain words."""


@attrs.frozen
class Shape:
    """What can stand in a column, and what columns it can be split in.

    Attributes:
        read: reads a cell that holds all of it.
        parts: of an object, by name.
        entry: of a list.
    """

    read: Read
    parts: "Mapping[str, Shape]" = attrs.field(factory=dict)
    entry: "Shape | None" = None


def names(shape: "Shape", before: str = "") -> Iterator[str]:
    """Every column that *shape* can be given in, dotted; of lists the first entry's."""
    inner = dict(shape.parts) if shape.entry is None else {"1": shape.entry}
    for name, part in inner.items():
        yield f"{before}{name}"
        yield from names(part, f"{before}{name}.")


# Readers


def _text(cell: str, _grouped: bool) -> str:
    return cell


def _name(cell: str, _grouped: bool) -> str:
    if _SHORTENED.fullmatch(cell):
        raise ValueError(f"has lost digits ({cell}): format the column as text and enter it again")
    return cell


def _word(cell: str, _grouped: bool) -> str:
    """One of the API's words, all of which are in lower case."""
    return cell.lower()


def _ratio(cell: str, _grouped: bool) -> str:
    """16:9, which spreadsheets take for a time of the day."""
    time = _TIME.fullmatch(cell)
    return f"{time[1]}:{time[2]}" if time else cell.lower()


def _require_clear(cell: str, grouped: bool) -> None:
    """Refuse a number whose sign may be the decimal one or divide thousands.

    A comma may be either in any table. Where commas divide the cells a point is the decimal sign.
    """
    if _GROUPED.fullmatch(cell) and (grouped or "," in cell):
        raise ValueError(f"may have a separator of thousands ({cell}): write it without separators")


def _seconds(cell: str, grouped: bool) -> str:
    """Whole seconds, as the text that the API wants; what is none is left for the request to refuse."""
    _require_clear(cell, grouped)
    whole = _WHOLE.fullmatch(cell)
    return whole[1] if whole else cell


def _number(cell: str, grouped: bool) -> float:
    _require_clear(cell, grouped)
    plain = cell.replace(",", ".")
    if not _NUMBER.fullmatch(plain):
        raise ValueError(f"must be a number, not {cell!r}")
    number = float(plain)
    return int(number) if number.is_integer() else number


def _whole(cell: str, grouped: bool) -> int:
    number = _number(cell, grouped)
    if not isinstance(number, int):
        raise ValueError(f"must be a whole number, not {cell!r}")  # noqa: TRY004 - the type is what was written
    return number


def _switch(cell: str, _grouped: bool) -> bool:
    if cell.lower() not in ("true", "false"):
        raise ValueError(f"must be true or false, not {cell!r}")
    return cell.lower() == "true"


def _word_or_switch(cell: str, _grouped: bool) -> str | bool:
    word = cell.lower()
    if word not in ("on", "off", "true", "false"):
        raise ValueError(f"must be on or off, not {cell!r}")
    return word == "true" if word in ("true", "false") else word


def _json(cell: str, _grouped: bool) -> Any:
    if not cell.startswith(("[", "{")):
        raise ValueError(f"must be JSON, an object or a list, not {cell[:50]!r}")
    return from_json(cell)


def from_json(text: str, *, if_several: str = "") -> Any:
    """What *text* is in JSON; whole numbers are whole however they are written: 5.0 is 5.

    Args:
        text: one value.
        if_several: what is told to do where more stands behind it.

    Raises:
        ValueError: it is none, or an object names something twice; the message is a clause without a subject.
    """
    try:
        return json.loads(text, parse_float=_float, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        remedy = f": {if_several}" if if_several and error.msg == "Extra data" else ""
        raise ValueError(f"is no JSON: {_fault(text, error)}{remedy}") from None
    except RecursionError:
        raise ValueError("is no JSON: it is nested too deeply") from None


def _float(text: str) -> float:
    number = float(text)
    return int(number) if number.is_integer() else number


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, value in pairs:
        if name in fields:
            raise ValueError(f"gives {name!r} twice")
        fields[name] = value
    return fields


def _fault(text: str, error: json.JSONDecodeError) -> str:
    """What *error* says, in words for those who do not read JSON every day."""
    sign = text[error.pos : error.pos + 1]
    if _CURLY.match(sign):
        return f"its quotes are curly ({sign}), write straight ones"
    if sign == "'":
        return "its quotes are single ('), write double ones"
    words = next((_FAULTS[start] for start in _FAULTS if error.msg.startswith(start)), error.msg)
    line = f"line {error.lineno}, " if error.lineno > 1 else ""
    return f"{words if sign else 'it breaks off'} ({line}column {error.colno})"


def _switch_or_json(cell: str, grouped: bool) -> Any:
    return _json(cell, grouped) if cell.startswith("{") else _switch(cell, grouped)


def _id(cell: str, grouped: bool) -> str:
    """An id, which spreadsheets take for a number."""
    cell = _seconds(_name(cell, grouped), grouped)
    if re.search(r"[\s,;]", cell):
        raise ValueError(f"must be one id or a list in JSON, not {cell!r}")
    return cell


def _element(cell: str, grouped: bool) -> int | str:
    element = _id(cell, grouped)
    return int(element) if element.isascii() and element.isdigit() else element


def _list_of(read: Read) -> Read:
    """Reads a list in JSON, or its only entry."""

    def listed(cell: str, grouped: bool) -> Any:
        if not cell.startswith(("[", "{")):
            return [read(cell, grouped)]
        value = _json(cell, grouped)
        return value if isinstance(value, list) else [value]

    return listed


# The table of columns


def _derived() -> Iterator[tuple[str, Shape]]:
    """Every field: text where the API takes text, else JSON."""
    for kind in (ImageToVideo, MultiImageToVideo):
        for field in attrs.fields(kind):
            takes_text = field.type is str or str in typing.get_args(field.type)
            yield field.name, Shape(_text if takes_text else _json)


_POINT: Final = Shape(_json, {"x": Shape(_whole), "y": Shape(_whole)})
_MASK: Final = Shape(_json, {"mask": Shape(_text), "trajectories": Shape(_json, entry=_POINT)})
_SHOT: Final = Shape(_json, {"index": Shape(_whole), "prompt": Shape(_text), "duration": Shape(_seconds)})
_CAMERA: Final = {axis.name: Shape(_number) for axis in attrs.fields(CameraConfig)}

TABLE: Final = Shape(
    _json,
    {
        "key": Shape(_name),
        **dict(_derived()),
        "aspect_ratio": Shape(_ratio),
        "camera_control": Shape(_json, {"type": Shape(_word), "config": Shape(_json, _CAMERA)}),
        "cfg_scale": Shape(_number),
        "duration": Shape(_seconds),
        "dynamic_masks": Shape(_json, entry=_MASK),
        "element_list": Shape(_list_of(_element), entry=Shape(_element, {"element_id": Shape(_element)})),
        "external_task_id": Shape(_name),
        "image_list": Shape(_list_of(_text), entry=Shape(_text, {"image": Shape(_text)})),
        "mode": Shape(_word),
        "multi_prompt": Shape(_json, entry=_SHOT),
        "multi_shot": Shape(_switch),
        "shot_type": Shape(_word),
        "sound": Shape(_word_or_switch),
        "voice_list": Shape(_list_of(_id), entry=Shape(_id, {"voice_id": Shape(_id)})),
        "watermark_info": Shape(_switch_or_json, {"enabled": Shape(_switch)}),
    },
)
"""What a table can hold: its parts are the columns."""
