"""Text files as people's programs write them -> text: encodings, marks and line ends."""

import re

__all__ = ["decoded", "doubt", "line_of"]


def decoded(data: bytes) -> tuple[str, int]:
    r"""Text in whatever encoding spreadsheets and editors write, its lines ended by ``\n`` alone.

    UTF-8 and UTF-16 with or without a byte order mark; what is neither is read as Windows-1252, which Excel's
    plain "CSV" is in Western Europe and America. The line ends of another system make no other text, byte
    order marks are nowhere a part of it, and neither is the end mark of DOS.

    Returns:
        The text, and the line of the first byte that is no UTF-8 if it was read as Windows-1252, else 0.

    Raises:
        UnicodeDecodeError: Windows-1252 does not have a byte, or UTF-16 breaks off.
    """
    doubtful = 0
    encoding = _utf16(data)
    try:
        text = data.decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        if encoding:
            raise
        doubtful = line_of(data, error.start)
        text = data.removeprefix(b"\xef\xbb\xbf").decode("cp1252")
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\ufeff", "")
    return text.rstrip("\x1a"), doubtful


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


def doubt(text: str) -> str:
    """What is told of *text* that was read as Windows-1252: its first letter beyond ASCII shows if it is."""
    found = re.search(r"[^\r\n]{0,15}[^\x00-\x7f][^\r\n]{0,15}", text)
    assert found is not None  # else it were UTF-8
    return f'is no UTF-8 and was read as Windows-1252 ("{found[0].strip()}"): if that is wrong'


def line_of(data: bytes, start: int) -> int:
    """The line that byte *start* of *data* stands in, counted from 1."""
    return len((data[:start] + b".").splitlines())
