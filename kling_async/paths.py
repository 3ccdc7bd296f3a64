"""Paths as people write them, asked of the system without surprise."""

import os
from pathlib import Path

__all__ = ["at_home", "is_file", "is_there"]


def at_home(path: Path | str) -> Path:
    """*path* with the home folder for its ``~``; that of a user who does not exist stays as it is written."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path's raises for an unknown user


def is_file(path: Path | str) -> bool:
    """Whether a file is at *path* as it is written; none is at a name that no file can have, as base64."""
    return os.path.isfile(path)  # noqa: PTH113 - Path's raises for a name too long


def is_there(path: Path | str) -> bool:
    """Whether something is at *path*, after `at_home`; nothing is at a name that no file can have."""
    return os.path.exists(at_home(path))  # noqa: PTH110 - Path's raises for a name too long
