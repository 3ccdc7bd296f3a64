"""Which field somebody means by a name that none has, in a table's header or in JSON."""

import re
from collections.abc import Collection
from typing import Final

__all__ = ["closest"]

_MEANT: Final = {
    **dict.fromkeys(("seconds", "length"), "duration"),
    **dict.fromkeys(("picture", "photo", "file", "filename", "path", "url"), "image"),
    **dict.fromkeys(("image_url", "image_path", "image_file", "start_image", "first_image"), "image"),
    **dict.fromkeys(("start_frame", "first_frame", "start_image_url"), "image"),
    **dict.fromkeys(("end_image", "last_image", "image_end", "tail_image"), "image_tail"),
    **dict.fromkeys(("end_frame", "last_frame", "image_tail_url", "tail_image_url"), "image_tail"),
    "end_image_url": "image_tail",
    "name": "key",  # which tables have, and requests have not
}
"""What people and other SDKs call fields whose names are not like it."""


def closest(name: str, known: Collection[str], given: Collection[str] = ()) -> str | None:
    """The one of *known* that is probably meant by *name*; None where nothing is like it.

    Args:
        name: in lower case, nested ones dotted.
        known: the fields there are, likewise.
        given: those that are there beside it: a word of people's for one of them means something else.
    """
    import difflib  # only a mistake needs it

    before, dot, last = name.rpartition(".")
    if name in known:
        return name
    if (meant := before + dot + _MEANT.get(re.sub(r"[\s-]+", "_", last), "")) in known:
        return None if meant in given else meant
    for each in known:
        if each.startswith(f"{name}_"):  # `model` is meant as model_name
            return each
    for each in known:
        if each.endswith(f".{last}"):
            return each
    return next(iter(difflib.get_close_matches(name, known, n=1)), None)
