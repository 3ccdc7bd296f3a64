"""Prompts that are one for all rows, with the names of each row's picture filled in."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from kling_async.protocol.checks import unsigned
from kling_async.protocol.errors import Problem, RequestError

__all__ = ["filled", "template"]

_WORDS: Final = ("stem", "name", "folder", "key")
"""What a common prompt may have filled in."""

_BRACES: Final = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_URL: Final = re.compile(r"\s*https?://", re.IGNORECASE)


def template(field: str, text: str) -> str:
    """*text*, if all that it has filled in is known.

    Raises:
        RequestError: it is not.
    """
    for found in _BRACES.finditer(text):
        if found[0] not in ("{{", "}}") and found[1] not in _WORDS:
            known = ", ".join(f"{{{word}}}" for word in _WORDS)
            wrong = f"{found[0]} cannot be filled in: known are {known}; a brace itself is written twice"
            raise RequestError(problems=[Problem(field, wrong)], advice="correct the common prompt")
    return text


def filled(template: str, fields: Mapping[str, Any], key: str | None) -> str:
    """*template* with the names of the first picture in *fields*.

    Raises:
        ValueError: such a name is no text; the message is a clause without a subject.
    """
    path = _path(fields)
    words = {"stem": path.stem, "name": path.name, "folder": path.parent.name, "key": key or path.stem}

    def word(found: re.Match[str]) -> str:
        if found[1] is None:
            return found[0][0]
        name = words[found[1]]
        try:
            name.encode()
        except UnicodeEncodeError:
            shown = name.encode("utf-8", "replace").decode()
            raise ValueError(f"cannot have {found[0]} filled in: {shown!r} is no text, rename it") from None
        return name

    return _BRACES.sub(word, template)


def _path(fields: Mapping[str, Any]) -> Path:
    """What tells the names of the first picture in *fields*; of a picture without one they are ``video``."""
    several = fields.get("image_list")
    entries = several if isinstance(several, list | tuple) else ()
    for entry in (fields.get("image"), *entries, fields.get("image_tail")):
        picture = entry.get("image") if isinstance(entry, Mapping) else entry
        if isinstance(picture, Path):
            return picture
        if isinstance(picture, str) and _URL.match(picture):
            host, _, path = unsigned(picture.strip()).partition("://")[2].partition("/")
            return Path(host) / (unquote(path).strip("/") or "video")
    return Path("video/video")
