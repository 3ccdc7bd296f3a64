"""Tables of the reference, made of the code they describe."""

import contextlib
import os
import re
import runpy
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from kling_async.journal import MIGRATIONS, Record
from kling_async.protocol import errors as tree
from kling_async.protocol.codes import api_error, is_retryable
from kling_async.protocol.errors import KlingError
from kling_async.protocol.lifecycle import STATES
from kling_async.protocol.providers import PROVIDERS, new_api
from kling_async.simulator import FAULTS

_CODES = {
    1000: "the credential was not accepted",
    1001: "there was no credential",
    1002: "the credential cannot be read, or is not for this endpoint",
    1003: "the signature is not valid yet: the clock is fast",
    1004: "the signature is no longer valid: the clock is slow",
    1100: "something is wrong with the account",
    1101: "the account is in arrears",
    1102: "the resource pack is used up or over, or the balance is empty",
    1103: "the account may not use this model or endpoint",
    1304: "this machine's address is not on the allow-list",
    1200: "a field is missing or wrong",
    1201: "a field's value is wrong; the text says which",
    1202: "the method is wrong",
    1203: "there is no such thing, a model for example",
    1300: "refused by the platform's policy",
    1301: "refused for its content",
    1302: "too many requests",
    1303: "too many tasks in parallel",
    5000: "an error inside Kling",
    5001: "Kling is not available for the moment",
    5002: "Kling took too long inside",
}
"""What Kling means (API reference, errors)."""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def _family(kind: type[KlingError], depth: int = 0) -> Iterable[tuple[int, type[KlingError]]]:
    yield depth, kind
    for child in kind.__subclasses__():
        yield from _family(child, depth + 1)


def _first_line(kind: type) -> str:
    text = " ".join((kind.__doc__ or "").split("\n\n")[0].split())
    return text.replace("``", "`")


def errors() -> str:
    """Every error: what it means, what it says of the task, what to do."""
    return table(
        ["error", "means", "outcome", "what to do"],
        (
            ["· " * depth + f"`{kind.__name__}`", _first_line(kind), kind.outcome.name, kind.advice or "-"]
            for depth, kind in _family(KlingError)
            if kind.__module__ == tree.__name__
        ),
    )


def codes() -> str:
    """Kling's codes: what each means, its error, and what to do."""
    return table(
        ["code", "means", "error", "what to do"],
        (
            [str(code), means, f"`{type(error).__name__}`", error.advice]
            for code, means in _CODES.items()
            for error in [api_error(code, "", http_status=400)]
        ),
    )


def retryable() -> str:
    """Kling's codes: the class of each, and whether the client tries again by itself."""
    kinds = {code: api_error(code, "", http_status=400) for code in _CODES}
    return table(
        ["code", "error", "a poll or query", "a submit"],
        (
            [
                str(code),
                f"`{type(error).__name__}`",
                _again(error, creating=False),
                _again(error, creating=True),
            ]
            for code, error in kinds.items()
        ),
    )


def _again(error: KlingError, *, creating: bool) -> str:
    if is_retryable(error, creating=creating):
        return "tried again"
    return "looked up first" if creating and error.outcome is tree.Outcome.MAY_EXIST else "raised"


def states() -> str:
    """The life of a task, by rank."""
    return table(
        ["status", "rank", "terminal", "outcome", "means"],
        (
            [
                f"`{status.name}`",
                str(state.rank),
                "yes" if state.terminal else "no",
                state.outcome.name,
                state.meaning,
            ]
            for status, state in STATES.items()
        ),
    )


def providers() -> str:
    """What each provider has."""
    known = [*PROVIDERS.values(), new_api("https://gateway.example.com")]
    return table(
        ["provider", "address", "key from", "look-up by our id", "list", "polled at least every", "lacks"],
        (
            [
                f"`{each.name}`",
                f"`{each.base_url}`" if each.name in PROVIDERS else "yours",
                ", ".join(f"`{name}`" for name in each.env),
                each.lookup,
                "yes" if each.lists else "no",
                f"{each.poll_floor or 1:g} s",
                ", ".join(f"`{name}`" for name in sorted(each.lacks)) or "-",
            ]
            for each in known
        ),
    )


def faults() -> str:
    """What can go wrong in the simulator."""
    return table(
        ["fault", "what happens", "can strike", "parameters"],
        (
            [
                f"`{name}`",
                kind.meaning.replace("`", ""),
                ", ".join(kind.on),
                ", ".join(f"`{each}`" for each in kind.parameters) or "-",
            ]
            for name, kind in FAULTS.items()
        ),
    )


def journal() -> str:
    """A row of the journal: each column as the schema has it, and what it means."""
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.executescript("".join(MIGRATIONS))
        columns = database.execute("PRAGMA table_info(tasks)").fetchall()
    meanings = dict(re.findall(r"^ +(\w+): (.+?)\.$", Record.__doc__ or "", re.MULTILINE | re.DOTALL))
    return table(
        ["column", "type", "means"],
        (
            [f"`{name}`", kind if needed else f"{kind} or NULL", " ".join(meanings[name].split())]
            for _, name, kind, needed, *_ in columns
        ),
    )


_FAULTS = Path(__file__).parent.parent / "tests" / "integration" / "fault_table.py"


def fault_matrix() -> str:
    """What becomes of each operation when something breaks: the table that the test of faults holds true."""
    told = runpy.run_path(str(_FAULTS))
    return table(
        ["what breaks", "create", "create, no look-up", "query", "list", "download"],
        (
            [row.what, *(str(row.ends.get(operation, "-")) for operation in told["OPERATIONS"])]
            for row in told["ROWS"]
        ),
    )


COMMANDS = ("animate", "batch", "get", "list", "download", "models", "doctor", "simulate", "demo")


def commands() -> str:
    """What each command says of itself."""
    pages = [f"## {name}\n\n```none\n{help_of(name)}```" for name in COMMANDS]
    return "\n\n".join([f"```none\n{help_of()}```", *pages])


def help_of(*command: str) -> str:
    """The help of *command*, or of all, as wide as a page of a narrow window."""
    done = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "kling_async", *command, "--help"],
        env={**os.environ, "COLUMNS": "84", "NO_COLOR": "1", "TERM": "dumb", "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    return "".join(f"{line.rstrip()}\n" for line in done.stdout.strip().splitlines())
