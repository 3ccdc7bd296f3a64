"""Text files as people's programs write them -> text: encodings, marks and line ends."""

import re
from typing import Final

__all__ = ["decoded", "doubt", "place_of"]

_MARK: Final = b"\xef\xbb\xbf"


def decoded(data: bytes) -> tuple[str, int]:
    r"""Text in whatever encoding spreadsheets and editors write, its lines ended by ``\n`` alone.

    UTF-8 and UTF-16 with or without a byte order mark; what is neither is read as Windows-1252, which Excel's
    plain "CSV" is in Western Europe and America. The line ends of another system make no other text, byte
    order marks are nowhere a part of it, and neither is the end mark of DOS.

    Returns:
        The text, and the line of the first byte that is no UTF-8 if it was read as Windows-1252, else 0.

    Raises:
        UnicodeDecodeError: UTF-8 has a bad byte, Windows-1252 does not have one, or either UTF breaks off.
    """
    doubtful = 0
    encoding = _utf16(data)
    try:
        text = data.decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        if encoding or _is_cut(error) or _is_damaged_utf8(data):
            raise
        doubtful, _ = place_of(error)
        text = data.decode("cp1252")
    return _plain(text).rstrip("\x1a"), doubtful


def _utf16(data: bytes) -> str:
    """The kind of UTF-16 that *data* is in, told by its mark, or by the zeros in every other byte."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    head = data[:200]
    if len(head) < 2:
        return ""
    for zeros, others, name in ((1, 0, "utf-16-le"), (0, 1, "utf-16-be")):
        if b"\0" not in head[others::2] and head[zeros::2].count(0) > len(head) * 0.4:
            return name
    return ""


def _is_cut(error: UnicodeDecodeError) -> bool:
    """Whether all is UTF-8 but the end, where a character lacks bytes; one byte alone may be another's."""
    return error.reason == "unexpected end of data" and error.end - error.start > 1


def _is_damaged_utf8(data: bytes) -> bool:
    """Whether *data*, which is no UTF-8, was meant to be: by its mark, or by most of what is beyond ASCII.

    Text in another encoding has few places that happen to be UTF-8, and would be read wrong with a warning;
    of UTF-8 all the good places would be.
    """
    text = data.decode("utf-8", "replace")
    bad = text.count("\ufffd")
    return data.startswith(_MARK) or len(re.findall("[^\x00-\x7f\ufffd]", text)) >= bad


def _plain(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\ufeff", "")


def doubt(text: str, line: int) -> str:
    """What is told of *text* that was read as Windows-1252 for a byte in *line*: that shows if it is."""
    found = re.search(r".{0,15}[^\x00-\x7f].{0,15}", text.split("\n")[line - 1])
    assert found is not None  # else it were UTF-8
    return f'is no UTF-8 and was read as Windows-1252 ("{found[0].strip()}"): if that is wrong'


def place_of(error: UnicodeDecodeError) -> tuple[int, int]:
    """Line and column, in characters, of the byte that *error* is about, counted from 1."""
    before = _plain(error.object[: error.start].decode(error.encoding, "replace"))
    return before.count("\n") + 1, len(before) - before.rfind("\n")
