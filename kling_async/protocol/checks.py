"""What can be wrong with the value of one field; `models` says which field must obey what."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

from kling_async.protocol.errors import Problem

__all__ = ["is_between", "is_http_url", "is_whole", "listed", "members", "picture", "text", "unsigned"]


_HALF_PAIR = re.compile("[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]")
"""What Python makes of bytes that are no text, in names of files and elsewhere; it cannot be sent."""


def text(field: str, value: Any, *, limit: int | None = None, required: bool = False) -> Iterator[Problem]:
    """Text of at most *limit* characters; *required*: there, and not empty."""
    if value is None and not required:
        return
    if not isinstance(value, str):
        yield Problem(field, f"must be text, not {type(value).__name__}")
    elif required and not value:
        yield Problem(field, "must not be empty")
    elif limit is not None and len(value) > limit:
        yield Problem(field, f"must be at most {limit} characters, not {len(value)}")
    elif not value.isascii() and _HALF_PAIR.search(value):
        yield Problem(field, "holds half a surrogate pair, which is no text: correct it")


def is_http_url(value: Any) -> TypeGuard[str]:
    """Whether it is text that begins as a URL of the web does, without a blank or a control character."""
    return (
        isinstance(value, str)
        and value.startswith(("http://", "https://"))
        and all(" " < sign != "\x7f" for sign in value)
    )


def unsigned(url: str) -> str:
    """*url* without what may be a secret in it: user, password, query and fragment."""
    scheme, _, rest = re.split(r"[?#]", url, maxsplit=1)[0].partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.rpartition('@')[2]}{slash}{path}"


def picture(field: str, value: Any, *, required: bool = False) -> Iterator[Problem]:
    """Something that can be a picture; whether it is one is seen when it is read."""
    if value is None and not required:
        return
    if not isinstance(value, str | Path | bytes):
        yield Problem(field, f"must be a path, a URL, base64 text or bytes, not {type(value).__name__}")
    elif not value:
        yield Problem(field, "must not be empty")


def listed(
    field: str, value: Any, kind: Any, least: int, most: int, *, required: bool = False
) -> Iterator[Problem]:
    """A list of *least* to *most* entries, each of a *kind*."""
    if value is None and not required:
        return
    if not isinstance(value, tuple):
        yield Problem(field, f"must be a list, not {type(value).__name__}")
    elif not least <= len(value) <= most:
        yield Problem(field, f"must have {least} to {most} entries, not {len(value)}")
    else:
        for place, item in enumerate(value):
            if not isinstance(item, kind) or isinstance(item, bool):
                name = getattr(kind, "__name__", None) or str(kind).replace(" | ", " or ")
                yield Problem(f"{field}[{place}]", f"must be a {name}, not {type(item).__name__}")


def members(value: Any, kind: Any) -> list[tuple[int, Any]]:
    """The entries of a list that are of the right *kind*, with their places: `listed` tells of the others."""
    entries = enumerate(value) if isinstance(value, tuple) else ()
    return [(place, item) for place, item in entries if isinstance(item, kind)]


def is_between(value: Any, low: float, high: float) -> bool:
    """Whether *value* is a finite number from *low* to *high*."""
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def is_whole(value: Any, low: int, high: int) -> bool:
    """Whether *value* is a whole number from *low* to *high*, written as text."""
    return isinstance(value, str) and value in map(str, range(low, high + 1))
