"""One stream of requests from its first submit to its summary, whatever ends it."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from kling_async.cli.interrupts import INTERRUPTED
from kling_async.cli.options import Common
from kling_async.cli.progress import Progress
from kling_async.cli.screen import duration, reason, task_as_dict
from kling_async.client import KlingClient
from kling_async.downloads import file_name
from kling_async.handles import TaskHandle
from kling_async.protocol.errors import (
    AccountError,
    AuthenticationError,
    ConnectError,
    GatewayError,
    KlingError,
)
from kling_async.protocol.models import Task, VideoRequest
from kling_async.streams import Completion

__all__ = ["completion_as_dict", "run_stream", "tell_interruption", "tell_pick_up"]

_OF_ALL = (AccountError, AuthenticationError, ConnectError, GatewayError)
"""What mostly concerns every item alike: told once, at the end."""


@attrs.define(eq=False)
class _Stream:
    """A run of *items* into *folder*."""

    common: Common
    progress: Progress
    folder: Path
    failures: list[Completion] = attrs.field(factory=list[Completion])

    async def run(
        self, kling: KlingClient, items: Sequence[tuple[str, VideoRequest]], timeout: float
    ) -> KlingError | None:
        """Read the stream to its end; returns what ended it early."""
        try:
            async with kling.completions(items, timeout=timeout, save_to=self.folder) as stream:
                async for done in stream:
                    self.tell(done)
        except KlingError as error:
            return error
        return None

    def tell(self, done: Completion) -> None:
        """One item came to its end."""
        screen = self.common.screen
        document = completion_as_dict(done.key, done.task, done.path, done.error)
        if done.error is None:
            mark = "✓ " if screen.live is not None and not screen.is_json else ""
            screen.result(f"{mark}{done.path}", document)
            return
        self.failures.append(done)
        self.progress.failed.add(done.key)
        if screen.is_json:
            screen.result("", document)
        if not isinstance(done.error, _OF_ALL) and type(done.error) is not KlingError:
            screen.say(f"{'✗ ' if screen.live is not None else ''}{done.key}: {done.error.what}", "red")

    def summary(self, failure: KlingError | None, total: int) -> int:
        """Tell how it went; returns the exit code."""
        screen, saved = self.common.screen, self.progress.saved
        # what ended the stream, and what it kept from being submitted, is told once
        ended = (type(failure), KlingError) if failure is not None else ()
        told = [each for each in self.failures if type(each.error) not in ended]
        idle = total - saved - len(told)
        parts = [f"{saved} done"]
        parts += [f"{len(told)} failed"] if told else []
        parts += [f"{idle} not submitted"] if idle else []
        where = f"; the videos are in {self.folder}" if saved else ""
        screen.say(f"{', '.join(parts)} in {duration(self.progress.elapsed)}{where}")
        for each in told:
            if each.error is not None:
                screen.complain(f"  {each.key}: {reason(each.error)}")
        if failure is not None:
            screen.fail(failure)
        tell_pick_up(self.common, self.progress, (), self.folder)
        if screen.is_json:
            counts = {"done": saved, "failed": len(told), "not_submitted": idle, "folder": str(self.folder)}
            screen.result("", {"summary": counts})
        return 1 if told or idle else 0


async def run_stream(
    common: Common,
    progress: Progress,
    kling: KlingClient,
    items: Sequence[tuple[str, VideoRequest]],
    *,
    folder: Path,
    timeout: float,
) -> int:
    """Submit *items*, save their videos to *folder*, tell it all; returns the exit code.

    Args:
        common: where to tell it.
        progress: a hook of *kling*.
        kling: not entered yet; closed at the end.
        items: what `read_source` gave.
        folder: for the videos.
        timeout: seconds for each task from its acknowledgement.
    """
    stream = _Stream(common, progress, folder)
    async with kling:
        with progress.shown():
            try:
                failure = await stream.run(kling, items, timeout)
            except asyncio.CancelledError:
                return await tell_interruption(common, progress, kling, folder)
    return stream.summary(failure, len(items))


async def tell_interruption(common: Common, progress: Progress, kling: KlingClient, to: Path) -> int:
    """Close *kling* after an interrupt and tell what still runs at Kling; returns the exit code."""
    screen = common.screen
    screen.say("stopping: what is being submitted is waited for; once more to end at once", "yellow")
    left = await kling.aclose()
    screen.say(f"interrupted: {progress.saved} of {progress.total} done, {progress.waiting} not submitted")
    tell_pick_up(common, progress, left, to)
    return INTERRUPTED


def tell_pick_up(common: Common, progress: Progress, left: Sequence[TaskHandle], to: Path) -> None:
    """How to get each video that is paid for, or will be, and is not on disk."""
    names = {key: one.task_id for key, one in progress.running.items()}
    names |= {handle.key or "": handle.task_id or handle.token for handle in left}
    if not names:
        return
    what = "1 video is" if len(names) == 1 else f"{len(names)} videos are"
    common.screen.complain(f"{what} paid for and not here yet; to wait and fetch:")
    for key, name in names.items():
        target = to if to.suffix.lower() == ".mp4" or not key else to / file_name(key)
        common.screen.complain(f"  {common.again('download', name, '-o', str(target))}", exact=True)


def completion_as_dict(key: str, task: Task, path: Path | None, error: KlingError | None) -> dict[str, Any]:
    """One item that came to its end, as one JSON object."""
    return {
        "key": key,
        "ok": error is None,
        "path": None if path is None else str(path),
        "error": None if error is None else reason(error),
        "error_type": None if error is None else type(error).__name__,
        "outcome": None if error is None else error.outcome.value,
        "token": None if error is None else error.token,
        **task_as_dict(task),
    }
