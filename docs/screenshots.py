"""The pictures of the documentation, taken anew: ``python docs/screenshots.py``.

Runs a batch at a terminal, against a simulated Kling, and writes what is seen of it to docs/screenshots: the
terminal, and the page of videos in light and in dark. Takes about a minute, and needs Chromium.
"""

import asyncio
import io
import itertools
import os
import pty
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Final

import attrs
from PIL import Image
from rich.console import Console
from rich.text import Text

from kling_async.batch.report import PAGE_NAME
from kling_async.simulator import Simulator, render_video, serve

DOCS = Path(__file__).parent
COLUMNS, ROWS = 100, 40
COMMAND = ("batch", "shots.csv", "--out", "videos", "--budget", "25")
FAIL_MARKER = "smiles"
"""In the prompt of the one video that fails."""
_QUESTION: Final = b"[y/N] "
_MOVES: Final = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])|\x1b\][^\x07]*\x07|([\r\n])|([^\x1b\r\n]+)|\x1b")
_COLOURS: Final = 160
"""Of a PNG: with more it grows, and nobody sees them."""


@attrs.define
class Terminal:
    """What a terminal shows of what is written to it, as far as rich's live displays go.

    Attributes:
        lines: each a list of cells: what colours it, and its character.
    """

    lines: list[list[tuple[str, str]]] = attrs.field(factory=lambda: [[]])
    row: int = 0
    column: int = 0
    style: str = ""

    def write(self, text: str) -> None:
        """Take *text*, with its escape sequences."""
        for found in _MOVES.finditer(text):
            numbers, letter, control, plain = found.groups()
            if plain:
                for character in plain:
                    self._put(character)
            elif control == "\r":
                self.column = 0
            elif control == "\n":
                self.row += 1
                while len(self.lines) <= self.row:
                    self.lines.append([])
            elif letter is not None:
                self._steer(letter, numbers)

    def __str__(self) -> str:
        """All lines, with what colours them."""
        lines = (
            "".join(
                f"\x1b[0m{style}{''.join(character for _, character in cells)}"
                for style, cells in itertools.groupby(line, key=lambda cell: cell[0])
            )
            for line in self.lines
        )
        return "\n".join(lines).rstrip()

    def _put(self, character: str) -> None:
        line = self.lines[self.row]
        line += [("", " ")] * (self.column + 1 - len(line))
        line[self.column] = (self.style, character)
        self.column += 1

    def _steer(self, letter: str, numbers: str) -> None:
        match letter:
            case "m":
                self.style = "" if numbers in ("", "0") else f"{self.style}\x1b[{numbers}m"
            case "A":
                self.row = max(0, self.row - int(numbers or 1))
            case "K":
                del self.lines[self.row][0 if numbers == "2" else self.column :]
            case _:
                pass


async def run(folder: Path, simulator: Simulator, program: Sequence[str] = ("-m", "kling_async")) -> str:
    """Run the command against *simulator* and say yes; returns what the terminal shows at the end.

    Args:
        folder: gets the table and its pictures, and the videos.
        simulator: what stands in for Kling.
        program: what Python runs as the command.

    Raises:
        RuntimeError: it ended otherwise than with one failure, or wrote no page.
    """
    shutil.copy(DOCS / "examples" / "shots.csv", folder)
    with as_file(files("kling_async") / "photos") as photos:
        shutil.copytree(photos, folder / "photos")
    shown = Terminal()
    async with serve(simulator) as url:
        ours, theirs = pty.openpty()
        env = {
            name: value for name, value in os.environ.items() if not name.startswith(("KLING", "NO_COLOR"))
        }
        env |= {"KLING_API_KEY": "sim-key", "KLING_BASE_URL": url, "PYTHONPATH": str(DOCS.parent)}
        env |= {
            "COLUMNS": str(COLUMNS),
            "LINES": str(ROWS),
            "TERM": "xterm-256color",
            "COLORTERM": "truecolor",
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *program, *COMMAND),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            cwd=folder,
            env=env,
        )
        os.close(theirs)
        loop = asyncio.get_running_loop()
        told = b""
        while piece := await loop.run_in_executor(None, _read, ours):
            told += piece
            if told.endswith(_QUESTION):
                os.write(ours, b"y\n")
        os.close(ours)
        shown.write(told.decode())
        if await process.wait() != 1 or not (folder / "videos" / PAGE_NAME).exists():
            raise RuntimeError(f"not one failure and a page:\n{shown}")
    return str(shown)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65_536)
    except OSError:  # how Linux says that the other side has left
        return b""


def drawn(text: str) -> str:
    """*text* with its escape sequences as SVG, without the fonts that rich would load from elsewhere."""
    console = Console(
        record=True,
        width=COLUMNS,
        file=io.StringIO(),
        force_terminal=True,
        color_system="truecolor",
        _environ={},
    )
    console.print(Text.assemble(("$ ", "dim"), (f"kling-async {' '.join(COMMAND)}", "bold")))
    console.print(Text.from_ansi(text))
    svg = console.export_svg(title="kling-async", unique_id="kling")
    svg = re.sub(r"<!--.*?-->\s*|@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    return svg.replace("Fira Code", "ui-monospace, Menlo, Consolas")


def main() -> None:
    """Take all pictures."""
    sys.path.append(str(DOCS.parent))
    from tests.integration.browser import screenshot

    to = DOCS / "screenshots"
    to.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        simulator = Simulator(seconds=(14, 32), render=render_video, fail_marker=FAIL_MARKER)
        (to / "terminal.svg").write_text(drawn(asyncio.run(run(folder, simulator))), encoding="utf-8")
        for scheme in ("light", "dark"):
            png = to / f"gallery-{scheme}.png"
            screenshot(folder / "videos" / PAGE_NAME, png, width=1400, height=900, dark=scheme == "dark")
            with Image.open(png) as picture:
                picture.convert("RGB").quantize(_COLOURS).save(png, optimize=True)


if __name__ == "__main__":
    main()
