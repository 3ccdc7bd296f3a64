"""How far a run is, and how that is drawn."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.spinner import Spinner

from kling_async import (
    Ambiguous,
    Completed,
    ConcurrencyLimitError,
    ResponseLostError,
    Retried,
    Saved,
    Submitted,
    TaskFailedError,
    TaskStatus,
    Waiting,
)
from kling_async.cli.progress import Progress
from kling_async.cli.screen import Screen, duration


def submitted(key: str) -> Submitted:
    """The event of an acknowledgement."""
    return Submitted(
        key=key, task_id=f"id-{key}", external_task_id=f"ka-{key}", model_name="m", slot_wait=0.0, upload=0.0
    )


def completed(key: str, error: TaskFailedError | None = None) -> Completed:
    """The event of an end after ten seconds."""
    status = TaskStatus.FAILED if error else TaskStatus.SUCCEED
    return Completed(
        key=key,
        task_id=f"id-{key}",
        external_task_id=f"ka-{key}",
        status=status,
        error=error,
        polls=1,
        generation=None,
        elapsed=10.0,
    )


def saved(key: str) -> Saved:
    """The event of a file."""
    return Saved(
        key=key,
        task_id=f"id-{key}",
        external_task_id=f"ka-{key}",
        path=Path(f"{key}.mp4"),
        size=1,
        elapsed=0.0,
    )


def test_what_is_paid_and_not_here_stays_known():
    """A task is known from its acknowledgement until its file is there or it failed."""
    progress = Progress(Screen(is_quiet=True), 6)
    for key in "abcd":
        progress.tell(submitted(key))
    progress.tell(completed("a"))
    progress.tell(saved("a"))
    progress.tell(completed("b", TaskFailedError("no")))
    progress.failed.add("ka-b")
    progress.tell(completed("c"))
    assert {one.name: one.task_id for one in progress.running.values()} == {"c": "id-c", "d": "id-d"}
    assert (progress.saved, progress.waiting) == (1, 2)


def test_remaining_time_follows_from_the_tasks_so_far():
    """Unknown until one task is done; then the work that is left, shared by what is in flight."""
    progress = Progress(Screen(is_quiet=True), 6)
    for key in "abc":
        progress.tell(submitted(key))
    assert progress.remaining() is None
    progress.tell(completed("a"))
    progress.tell(saved("a"))
    # two just begun of ten seconds each, three waiting: fifty seconds of work for two slots
    assert 15 < (progress.remaining() or 0) <= 25


def test_a_lost_answer_is_said_once_and_waiting_not_at_all(capsys: pytest.CaptureFixture[str]):
    """An outage that meets three items alike is two lines, and none of them is in flight until submitted."""
    progress = Progress(Screen(), 3)
    for key in "abc":
        names: Any = {"key": key, "task_id": None, "external_task_id": f"ka-{key}"}
        progress.tell(Waiting(**names))
        progress.tell(Waiting(**names, error=ConcurrencyLimitError("full")))
        progress.tell(Ambiguous(**names, error=ResponseLostError("no reply"), quarantine=90.0))
        progress.tell(Retried(**names, error=ResponseLostError("no reply"), wait=0.0))
    assert capsys.readouterr().err.splitlines() == [
        "no reply; a task may exist and is looked for",
        "no reply; trying again",
    ]
    assert progress.waiting == 3
    progress.tell(submitted("a"))
    assert progress.waiting == 2


@pytest.mark.parametrize("width", [80, 120])
def test_drawn_lines_fit(width: int):
    """The numbers stand under the bar, on one line each, at the usual widths."""
    progress = Progress(Screen(is_quiet=True), 1000)
    for number in range(300):
        progress.tell(submitted(str(number)))
        progress.tell(completed(str(number)))
        if number < 280:
            progress.tell(saved(str(number)))
    progress.failed.update("xyz")
    file = io.StringIO()
    progress.screen.console = Console(file=file, width=width)
    progress.screen.console.print(progress._drawn(Spinner("dots")))
    _, bar, counts = (line.rstrip() for line in file.getvalue().splitlines())
    assert set(bar) <= set("━╸╺ ")
    assert "280 done · 3 failed · 20 in flight · 697 waiting" in counts


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 00 s"), (134, "2 min 14 s"), (3720, "1 h 02 min")]
)
def test_duration(seconds: float, text: str):
    """Times are told as people say them."""
    assert duration(seconds) == text
