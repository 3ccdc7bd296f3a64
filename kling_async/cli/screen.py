"""Where a command talks: results to stdout, everything else to stderr."""

import contextlib
import copy
import json
import logging
import os
import re
import sys
from collections.abc import Generator, Iterable
from typing import Any, Final

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from kling_async.protocol.errors import (
    ConfigurationError,
    DownloadError,
    JournalError,
    KlingError,
    Outcome,
    RequestError,
    WaitTimeoutError,
)
from kling_async.protocol.models import Task, TaskStatus

__all__ = ["Screen", "duration", "printable", "reason", "task_as_dict"]

_MOST_PROBLEMS = 100
"""Lines of problems that are told; a manifest with a wrong header could have thousands."""


class Screen:
    """The terminal, or what stands in its place.

    Args:
        is_json: results are JSON lines.
        is_quiet: only results and errors are told.
    """

    def __init__(self, *, is_json: bool = False, is_quiet: bool = False) -> None:
        self.is_json = is_json
        self.is_quiet = is_quiet
        self.console = Console(stderr=True, highlight=False)
        self.is_live = self.console.is_terminal and not is_quiet
        """Whether progress is drawn, and not told line by line."""
        self.live: Live | None = None

    @contextlib.contextmanager
    def hears_log(self) -> Generator[None]:
        """Tell the package's warnings while the block runs."""
        log, handler = logging.getLogger("kling_async"), _LogToScreen(self)
        log.addHandler(handler)
        try:
            yield
        finally:
            log.removeHandler(handler)

    def say(self, line: str, style: str = "") -> None:
        """Tell people something, unless they asked for quiet."""
        if not self.is_quiet:
            self.complain(line, style)

    def complain(self, line: str, style: str = "", *, exact: bool = False) -> None:
        """Tell people something that they must know; *exact*: to be copied, so never broken into lines."""
        self.console.print(Text(printable(line), style), soft_wrap=exact or not self.console.is_terminal)

    def fail(self, error: KlingError, *, ended: bool = True) -> int:
        """Tell what went wrong, each problem on its line; returns the exit code. *ended*: nothing follows."""
        for line in _complaint(error, ended=ended):
            self.complain(line, "red")
        return 2 if isinstance(error, ConfigurationError | JournalError | RequestError) else 1

    def result(self, value: str, document: dict[str, Any] | None = None) -> None:
        """One result: *value* for people and pipes, *document* for programs."""
        is_terminal = _is_terminal()
        line = json.dumps(document, ensure_ascii=False) if self.is_json else value
        if is_terminal and not self.is_json:
            line = printable(line)
        line = _HALVES.sub("\N{REPLACEMENT CHARACTER}", line)  # a pipe gets names as far as it can
        if self.live is not None and is_terminal:
            self.console.print(Text(line), soft_wrap=True)  # above what is drawn
            return
        try:
            print(line, flush=True)
        except OSError as error:
            # whoever read has left, or the disk is full; what is paid for is brought home all the same
            if not isinstance(error, BrokenPipeError):
                self.complain(f"stdout cannot be written: {error.strerror or error}", "red")
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def tasks(self, tasks: Iterable[Task]) -> None:
        """A table on a terminal, JSON or lines with tabs elsewhere."""
        if self.is_json or not sys.stdout.isatty():
            for task in tasks:
                self.result("\t".join(_cells(task).values()), task_as_dict(task))
            return
        table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
        titles = ("task_id", "status", "created_at", "took", "reason")
        for title in titles:
            table.add_column(title, no_wrap=title != "reason")
        for task in tasks:
            cells = _cells(task)
            style = "red" if task.status is TaskStatus.FAILED else ""
            took = task.created_at and task.updated_at and task.updated_at - task.created_at
            cells["took"] = duration(took.total_seconds()) if took and task.videos else ""
            cells["reason"] = task.status_message
            table.add_row(*(Text(printable(cells[title]), style) for title in titles))
        Console(highlight=False).print(table)

    def task(self, task: Task) -> None:
        """Everything about one task: a line for each field on a terminal, else as `tasks`."""
        if self.is_json or not sys.stdout.isatty():
            self.tasks([task])
            return
        cells = _cells(task) | {"units": "" if task.units is None else str(task.units)}
        for name, value in cells.items():
            if value:
                print(f"{name:<17} {printable(value)}")


class _LogToScreen(logging.Handler):
    """What the package warns of, as lines that do not tear what is drawn."""

    def __init__(self, screen: Screen) -> None:
        super().__init__(logging.WARNING)
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        """Tell one warning; what befalls a task is told by whoever runs it."""
        if record.module != "instrumentation":
            self._screen.say(record.getMessage(), "yellow")


def _cells(task: Task) -> dict[str, str]:
    """What lines and tables show of a task."""
    created = task.created_at
    return {
        "task_id": task.task_id or "",
        "status": task.status.value,
        "created_at": "" if created is None else f"{created.astimezone():%Y-%m-%d %H:%M:%S}",
        "external_task_id": task.external_task_id or "",
        "status_message": task.status_message,
        "video": task.videos[0].url if task.videos else "",
    }


_STEERS: Final = re.compile(
    r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufff9-\ufffb]"
)
"""Control characters but for the tab, separators of lines, what turns the direction of writing, and no text.
What joins or divides letters stays: it is a part of names."""
_HALVES: Final = re.compile(r"[\ud800-\udfff]")


def _is_terminal() -> bool:
    """Whether results go to a terminal; there may be no stdout at all."""
    return sys.stdout is not None and sys.stdout.isatty()


def printable(text: str) -> str:
    """*text* without what would steer the terminal: it may come from a file's name or from a server."""
    return _STEERS.sub("\N{REPLACEMENT CHARACTER}", text)


def _complaint(error: KlingError, *, ended: bool) -> list[str]:
    """*error* as lines: every problem one."""
    problems = error.problems if isinstance(error, RequestError) else ()
    if ended and len(problems) < 2:
        return [reason(error)]
    lines = [str(problem) for problem in problems[:_MOST_PROBLEMS]]
    if len(problems) > _MOST_PROBLEMS:
        lines.append(f"and {len(problems) - _MOST_PROBLEMS} more")
    return [*lines, "nothing was submitted and nothing was paid"] if ended else lines


def reason(error: KlingError) -> str:
    """What went wrong, one line without the item's key: whoever prints it says which item it is."""
    again = copy.copy(error)
    again.key = None
    if isinstance(again, WaitTimeoutError | DownloadError):
        again.advice = ""  # the command that fetches the video follows
    if again.outcome is Outcome.NOT_CREATED:
        again.external_task_id = None  # nothing can be found by it
    return str(again)


def duration(seconds: float) -> str:
    """A time as people say it: ``34 s``, ``2 min 14 s``, ``1 h 02 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def task_as_dict(task: Task) -> dict[str, Any]:
    """A task as one JSON object, in the API's names."""
    return {
        "task_id": task.task_id,
        "external_task_id": task.external_task_id,
        "status": task.status.value,
        "status_message": task.status_message,
        "videos": [
            {
                "id": video.id,
                "url": video.url,
                "duration": video.duration,
                "watermark_url": video.watermark_url,
            }
            for video in task.videos
        ],
        "created_at": None if task.created_at is None else task.created_at.isoformat(),
        "updated_at": None if task.updated_at is None else task.updated_at.isoformat(),
        "units": None if task.units is None else float(task.units),
    }
