"""Writes each Python block of README and docs as a module, for type checkers: ``extract.py FOLDER``.

A block with ``await`` outside of a function becomes the body of one.
"""

import ast
import inspect
import re
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def main(folder: Path) -> None:
    """Write the modules to *folder*, each named by its page and line."""
    folder.mkdir(parents=True, exist_ok=True)
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        text = page.read_text(encoding="utf-8")
        for block in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            line = text.count("\n", 0, block.start()) + 1
            name = f"{page.stem.lower()}_{line}.py"
            (folder / name).write_text(_module(block[1]), encoding="utf-8")


def _module(source: str) -> str:
    code = compile(source, "block", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    if code.co_flags & inspect.CO_COROUTINE:
        return "async def block() -> None:\n" + textwrap.indent(source, "    ")
    return source


if __name__ == "__main__":
    main(Path(sys.argv[1]))
