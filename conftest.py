"""Runs README and docs: what is shown there is what happens.

- A ``python`` block is run as it stands, with ``await`` allowed outside of functions as in a notebook.
- An ``output`` block is what the Python block before it printed; ``...`` for what varies.
- A ``console`` block is run: each line after ``$`` is a command, what follows is its output.
- Lines may come in another order only where several videos are made at once.
- A ``json`` or ``none`` block of items is given to ``batch --dry-run``, which must find nothing wrong.
- A ``bash``, ``powershell`` or ``bat`` block is not run, but our commands in it must have their options.
- A ``py`` block is another client's code: it is read, and not run.

Every page has a folder and an environment of its own, made as ``docs/howto/try-it.md`` tells its reader to
make them, the tutorial's with no more than its reader makes. For all tests it decides what begins first.
"""

import ast
import asyncio
import contextlib
import doctest
import inspect
import io
import os
import re
import shlex
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from serving import served
from steady_time import SteadyLoop
from sybil import Example, Sybil
from sybil.parsers.myst import CodeBlockParser

from kling_async.cli.app import run
from kling_async.simulator import Simulator, serve

TRY_IT = (Path(__file__).parent / "docs" / "howto" / "try-it.md").read_text(encoding="utf-8")
os.environ.pop("FORCE_COLOR", None)  # what is printed has none
SPEED = 10
"""How much faster time passes in code that is shown: its first poll comes after 5 s of it."""


LONGEST = (
    "test_kill.py",
    "test_soak.py",
    "test_examples.py",
    "test_planning.py",
    "test_hygiene.py",
    "test_at_once.py",
    "test_journal.py",
    "test_secrets.py",
    "test_process.py",
    "test_resume.py",
    "test_faults.py",
    "test_fuzz.py",
    "test_sweeps.py",
    "test_slots_in_time.py",
)
"""Files whose tests take longest, waits included, the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first, so that no worker waits for the others at the end."""
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(LONGEST)))


def set_quick(quick: bool) -> None:
    """Say which loops `asyncio.run` makes: its one seam, though deprecated since Python 3.14."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)

        class Policy(asyncio.DefaultEventLoopPolicy):
            """Makes loops whose clock runs fast."""

            def new_event_loop(self) -> asyncio.AbstractEventLoop:
                return SteadyLoop(SPEED)

        asyncio.set_event_loop_policy(Policy() if quick else None)  # pyright: ignore[reportDeprecated] - there is no other seam


@pytest.fixture(scope="module")
def quick_time() -> Iterator[None]:
    """Let the clock of every new event loop run fast, for one module or page."""
    set_quick(True)
    yield
    set_quick(False)


@pytest.fixture(scope="module")
def page(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, quick_time: None
) -> Iterator[Path]:
    """The folder and the environment of a reader who has done what the page *Try it* says: for one page."""
    folder = tmp_path_factory.mktemp("page")
    with served(serve(Simulator(seconds=0.05))) as base_url, pytest.MonkeyPatch.context() as changed:
        for name in tuple(os.environ):
            if name.startswith(("KLING", "COMETAPI", "EZMODEL")) or name.upper() == "HTTPS_PROXY":
                changed.delenv(name)
        for name, value in {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}.items():
            changed.setenv(name, value)
        for name, value in re.findall(r"^export (\w+)=(\S+)$", TRY_IT, re.MULTILINE):
            changed.setenv(name, base_url if value.startswith("http:") else value)
        changed.chdir(folder)
        for command in re.findall(r"^python -c .*$", TRY_IT, re.MULTILINE):
            exec(shlex.split(command)[2], {})  # noqa: S102 - our own documentation
        if request.path.name == "tutorial.md":  # whose reader has made the folder of photos alone
            for file in [path for path in folder.iterdir() if path.is_file()]:
                file.unlink()
        yield folder


def _evaluate_python(example: Example) -> None:
    source = "\n" * (example.line + example.parsed.line_offset) + example.parsed
    code = compile(source, example.path, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        if code.co_flags & inspect.CO_COROUTINE:
            asyncio.run(eval(code, namespace))  # noqa: S307 - our own documentation
        else:
            exec(code, namespace)  # noqa: S102 - our own documentation
    example.namespace["printed"] = printed.getvalue(), "completions(" in source


def _evaluate_output(example: Example) -> str | None:
    got, any_order = example.namespace.pop("printed", ("", False))
    return _difference(example.parsed, got, any_order=any_order)


def _difference(wanted: str, got: str, *, any_order: bool) -> str | None:
    """Say how *got* is not what was *wanted*."""
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    lines = (_sorted_lines(wanted), _sorted_lines(got)) if any_order else (wanted, got)
    if doctest.OutputChecker().check_output(*lines, flags):
        return None
    return f"Wanted:\n{wanted}\nGot:\n{got}"


def _sorted_lines(text: str) -> str:
    return "".join(sorted(f"{line.strip()}\n" for line in text.splitlines() if line.strip()))


def run_command(arguments: Sequence[str]) -> tuple[int, str, str]:
    """Run the command ``kling-async`` with *arguments* here; returns its exit code, stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(arguments)
    return code, out.getvalue(), err.getvalue()


def _evaluate_console(example: Example) -> str | None:
    for part in re.split(r"^\$ kling-async ", example.parsed, flags=re.MULTILINE)[1:]:
        command, _, wanted = part.partition("\n")
        code, out, err = run_command(shlex.split(command))
        if code != 0:
            return f"{command} ended with {code}:\n{out}{err}"
        at_once = command.startswith("batch ") and "--dry-run" not in command
        if wanted.strip() and (difference := _difference(wanted, out, any_order=at_once)):
            return difference
    return None


def _evaluate_items(example: Example) -> str | None:
    """Items of a batch, as JSON lines or as CSV: nothing is wrong or doubtful with them."""
    name = "shown.jsonl" if example.parsed.startswith("{") else "shown.csv"
    if name == "shown.csv" and "image" not in example.parsed.partition("\n")[0]:
        return "these are no items"
    Path(name).write_text(example.parsed, encoding="utf-8")
    code, out, err = run_command(["batch", name, "--out", "shown/", "--dry-run", "--check", "error"])
    return f"{out}{err}" if code else None


def _read_python(example: Example) -> None:
    ast.parse(example.parsed)  # which raises what is wrong with it


_COMMAND = re.compile(r"(?:^|&& )(?:kling-async|python -m kling_async) (.*)$", re.MULTILINE)


def _evaluate_shell(example: Example) -> str | None:
    text = re.sub(r"[\\`^]\n\s*", " ", example.parsed)
    for line in _COMMAND.findall(text):
        command, *arguments = shlex.split(line, comments=True)
        code, out, err = run_command([command, "--help"])
        if code != 0:
            return f"there is no command {command}:\n{err}"
        known = set(re.findall(r"--?[a-z][a-z-]*", out))
        options = [word.split("=")[0] for word in arguments if word.startswith("-")]
        if unknown := [option for option in options if option not in known]:
            return f"{command} has no {' '.join(unknown)}"
    return None


_EVALUATORS: dict[str, Callable[[Example], str | None]] = {
    "python": _evaluate_python,
    "output": _evaluate_output,
    "console": _evaluate_console,
    "json": _evaluate_items,
    "none": _evaluate_items,
    "py": _read_python,
    "bash": _evaluate_shell,
    "powershell": _evaluate_shell,
    "bat": _evaluate_shell,
}

pytest_collect_file = Sybil(
    parsers=[CodeBlockParser(language, evaluator) for language, evaluator in _EVALUATORS.items()],
    pattern="*.md",
    fixtures=["page"],
).pytest()
