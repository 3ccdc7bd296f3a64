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
    "name": "key",
}
"""What people and other SDKs call fields whose names are not like it."""


def closest(name: str, known: Collection[str]) -> str | None:
    """The one of *known* that is probably meant by *name*; None where nothing is like it.

    Args:
        name: in lower case.
        known: the fields there are, nested ones dotted.
    """
    import difflib  # only a mistake needs it

    for meant in (name, _MEANT.get(re.sub(r"[\s-]+", "_", name))):
        if meant in known:
            return meant
    last = name.rpartition(".")[2]
    for each in known:
        if each.startswith(f"{name}_"):  # `model` is meant as model_name
            return each
    for each in known:
        if each.endswith(f".{last}"):
            return each
    return next(iter(difflib.get_close_matches(name, known, n=1)), None)
