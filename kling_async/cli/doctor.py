"""``doctor``: finds out why it does not work, and says what to do. Submits nothing, pays nothing."""

import asyncio
import importlib.metadata
import platform
import ssl as tls
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Final

import attrs
from cyclopts import Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kling_async.cli import interrupts
from kling_async.cli.asking import ask
from kling_async.cli.options import Common
from kling_async.cli.reaching import Line, Unreachable, reach
from kling_async.cli.screen import Screen, printable
from kling_async.cli.settings import Settings, read_settings
from kling_async.protocol.account import ResourcePack
from kling_async.protocol.providers import Provider

__all__ = ["doctor"]

_LABEL: Final = 13
_MARKS: Final = {"good": ("✓", "green"), "plain": (" ", ""), "doubt": ("!", "yellow"), "wrong": ("✗", "red")}


def doctor(*, common: Annotated[Common, Parameter(parse=False)]) -> int:
    """Find out why it does not work: the key, the way to the provider, the clock, the account.

    Tries each step on its own and says what to do about what fails. Nothing is submitted and nothing is paid.
    Exits with 0 if all is well, 1 if something is wrong, 2 if the configuration is.

    Args:
        common: where to send, and how to tell.
    """
    report = _Report(common.screen)

    async def run() -> int:
        try:
            code = await _examine(common, report)
        except asyncio.CancelledError:
            common.screen.complain("interrupted; nothing was submitted and nothing was paid")
            return interrupts.INTERRUPTED
        report.end(code)
        return code

    return interrupts.run(run())


@attrs.define(eq=False)
class _Report:
    """Tells each line as it is found, or all of them as one JSON object."""

    screen: Screen
    lines: list[Line] = attrs.field(factory=list[Line])
    facts: dict[str, Any] = attrs.field(factory=dict[str, Any])

    def tell(self, line: Line) -> None:
        """One thing was found."""
        self.lines.append(line)
        if self.screen.is_json:
            return
        console = Console(highlight=False)
        if not console.is_terminal:
            self._print_plain(line)
            return
        mark, style = _MARKS[line.state]
        grid = Table.grid(padding=(0, 1, 0, 0))
        grid.add_column(width=1)
        grid.add_column(width=_LABEL)
        grid.add_column(overflow="fold")
        grid.add_row(Text(mark, style), Text(line.label, style or "dim"), Text(printable(line.text)))
        if line.advice:
            grid.add_row("", "", Text(f"→ {printable(line.advice)}", style))
        console.print(grid)

    def _print_plain(self, line: Line) -> None:
        is_unicode = (getattr(sys.stdout, "encoding", None) or "").lower().startswith("utf")
        mark = _MARKS[line.state][0] if is_unicode else {"good": "+", "wrong": "x"}.get(line.state, "!")
        mark = " " if line.state == "plain" else mark
        self.screen.result(f"{mark} {line.label:<{_LABEL}} {line.text}")
        if line.advice:
            self.screen.result(f"  {'':<{_LABEL}} {'→' if is_unicode else '->'} {line.advice}")

    @property
    def is_wrong(self) -> bool:
        """Whether something is."""
        return any(line.state == "wrong" for line in self.lines)

    def end(self, code: int) -> None:
        """All was tried."""
        wrong = sum(line.state == "wrong" for line in self.lines)
        doubts = sum(line.state == "doubt" for line in self.lines)
        if self.screen.is_json:
            lines = [attrs.asdict(line) for line in self.lines]
            document = {"ok": not wrong, "exit_code": code, **self.facts, "lines": lines}
            self.screen.result("", document)
            return
        found = [f"{wrong} {'problem' if wrong == 1 else 'problems'}"] if wrong else ["All is well"]
        found += [f"{doubts} to look at"] if doubts else []
        self.screen.result("")
        self.screen.result(f"{', '.join(found)}. Nothing was submitted and nothing was paid.")


async def _examine(common: Common, report: _Report) -> int:
    """Tell of everything, in the order in which one thing needs the other; returns the exit code."""
    settings = read_settings(common, report.tell)
    if settings is not None:
        await _try_out(settings, report)
    for line in _versions():
        report.tell(line)
    return 2 if settings is None else 1 if report.is_wrong else 0


async def _try_out(settings: Settings, report: _Report) -> None:
    """Go to the provider and ask what costs nothing."""
    provider = settings.provider
    report.facts |= {"provider": provider.name, "base_url": provider.base_url, "packs": []}
    try:
        await reach(provider.base_url, settings.proxy, settings.ssl, report.tell)
    except Unreachable as error:
        report.tell(error.line)
        return
    report.facts["packs"] = [_as_dict(pack) for pack in await ask(settings, report.tell)]
    report.tell(Line("lost replies", _lost_replies(provider)))


def _as_dict(pack: ResourcePack) -> dict[str, Any]:
    """A pack as JSON takes it."""
    plain = attrs.asdict(pack) | {"slots": pack.slots}
    for name, value in plain.items():
        if isinstance(value, Decimal):
            plain[name] = float(value)
        elif isinstance(value, datetime):
            plain[name] = value.isoformat()
    return plain


def _lost_replies(provider: Provider) -> str:
    """What becomes of a submit whose reply is lost, in three sentences."""
    match provider.lookup:
        case "yes":
            return (
                "A submit whose reply is lost is looked up by an id of ours. If its task is "
                "there, it is waited for; if not, it is sent again under the same id. Nothing is paid twice."
            )
        case "no":
            return (
                f"{provider.name} finds no task by an id of ours. A submit whose reply is lost may have been "
                "paid, so it is never sent again by itself. Look for the video there; `batch --resend KEY` "
                "submits it anew."
            )
        case "unproven":
            return (
                f"{provider.name} is said to find tasks by an id of ours; the first task proves it or not. "
                "Once proven, a submit whose reply is lost is looked up and not paid twice. Until then it is "
                "never sent again by itself; `batch --resend KEY` submits it anew."
            )


def _versions() -> Iterator[Line]:
    """What is installed."""
    ours, http = (importlib.metadata.version(name) for name in ("kling-async", "aiohttp"))
    python = f"Python {platform.python_version()} on {platform.system()}"
    yield Line("versions", f"kling-async {ours}, {python}, aiohttp {http}, {tls.OPENSSL_VERSION}")
    are_there = {name: all(map(_is_installed, needs)) for name, needs in _EXTRAS.items()}
    there = [name for name, is_there in are_there.items() if is_there]
    missing = [name for name, is_there in are_there.items() if not is_there]
    without = f"; not installed: {', '.join(missing)}" if missing else ""
    yield Line("extras", f"{', '.join(there)}{without}")


_EXTRAS: Final[Mapping[str, Sequence[str]]] = {
    "cli": ("cyclopts", "rich", "python-dotenv", "Jinja2"),
    "images": ("Pillow", "pi-heif"),
    "simulator": ("jsonschema", "av", "Pillow"),
    "speed": ("pybase64",),
    "otel": ("opentelemetry-api",),
}
"""The extras for users of the package, by what they install."""


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
