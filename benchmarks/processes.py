"""Processes of a measurement: a server beside the client, each on a core of its own."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Final

__all__ = ["CLIENT", "ROOT", "SERVER", "pin", "served"]

SERVER: Final = 0
CLIENT: Final = -1
"""Which of the cores, in their order: server and client never share one where there are two."""
ROOT: Final = Path(__file__).parent.parent
"""Where ``benchmarks`` can be imported."""


def pin(core: int) -> None:
    """Keep this process on one core, on systems where that can be asked for."""
    if sys.platform == "linux":
        os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[core]})


@contextlib.contextmanager
def served(module: str, *options: str) -> Generator[str]:
    """The base URL of the server that *module* is, in a process of its own, which ends with the block.

    It prints its port when it is ready, and ends when its input is closed.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", module, *options],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.stdin.close()
        process.wait()
        process.stdout.close()
