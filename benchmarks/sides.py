"""One side of a comparison in a fresh process: pinned to a core, with nothing of the other side in memory."""

import contextlib
import importlib
import json
import subprocess
import sys
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.processes import CLIENT, ROOT, pin

__all__ = ["Memory", "run"]


def run(side: str, *, without: Sequence[str] = (), loop: str = "asyncio", **arguments: Any) -> dict[str, Any]:
    """What the coroutine function *side*, as ``benchmarks.module:function``, returns in a process of its own.

    Args:
        side: called with *arguments*, JSON values; returns a dict of JSON values.
        without: modules that cannot be imported there, as if they were not installed.
        loop: the module whose ``run`` runs it: ``asyncio`` or ``uvloop``.
        **arguments: for it.
    """
    document = json.dumps({"side": side, "without": list(without), "loop": loop, "arguments": arguments})
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.sides", document],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


class Memory:
    """How far a block of code raises the resident memory of this process, bytes."""

    over_idle = 0

    @contextlib.contextmanager
    def measured(self) -> Generator[None]:
        """Measure the block: the highest resident size in it, over that at its begin."""
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak begins anew
        idle = _status("VmRSS") or _highest()
        yield
        self.over_idle = (_status("VmHWM") or _highest()) - idle


def _status(name: str) -> int:
    """A line of Linux's status of this process, bytes; 0 elsewhere."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return 0


def _highest() -> int:
    import resource  # not on Windows, where memory is not measured

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _main() -> None:
    asked = json.loads(sys.argv[1])
    pin(CLIENT)
    for name in asked["without"]:
        sys.modules[name] = None  # type: ignore[assignment]  # how Python is told that there is none
    module, _, function = asked["side"].partition(":")
    side = getattr(importlib.import_module(module), function)
    run_in = importlib.import_module(asked["loop"]).run
    print(json.dumps(run_in(side(**asked["arguments"]))))


if __name__ == "__main__":
    _main()
