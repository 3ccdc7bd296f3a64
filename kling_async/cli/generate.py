"""``animate`` and ``batch``: pictures in, video files out."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from kling_async.batch import read_source
from kling_async.cli import interrupts
from kling_async.cli.options import Common, Fields, folder_for
from kling_async.cli.progress import Progress
from kling_async.cli.resuming import Again, look_back
from kling_async.cli.running import as_given, completion_as_dict, run_stream, tell_interruption, tell_pick_up
from kling_async.client import KlingClient
from kling_async.flight import default_name
from kling_async.parts import is_file
from kling_async.protocol.converter import request_from
from kling_async.protocol.errors import KlingError, Outcome, TaskFailedError, TaskLostError
from kling_async.protocol.models import Task, TaskStatus, VideoRequest

__all__ = ["animate", "batch"]

_STATUS = {
    Outcome.NOT_CREATED: TaskStatus.REFUSED,
    Outcome.MAY_EXIST: TaskStatus.MAY_EXIST,
    Outcome.CREATED: TaskStatus.UNKNOWN,
}
"""What is known of a task by its error alone."""

Out = Annotated[Path, Parameter(name=["--out", "-o"])]
Timeout = Annotated[float, Parameter(name="--timeout")]
Keys = Annotated[tuple[str, ...], Parameter(negative="", show_default=False)]


def animate(
    image: str,
    /,
    *,
    common: Annotated[Common, Parameter(parse=False)],
    prompt: str | None = None,
    out: Out = Path(),
    key: str | None = None,
    timeout: Timeout = 3600,
    fields: Fields | None = None,
) -> int:
    """Turn one picture into one video.

    Prints the file it wrote. A journal beside it knows the same picture and request under the same key again:
    run the command again after a crash, and nothing is paid twice. For another take, give another key.

    Args:
        common: where to send, and how to tell.
        image: the picture: a path, a URL or base64 text. JPEG or PNG, at most 10 MB, sides from 300 px.
        prompt: what happens.
        out: the file if it ends in .mp4, else a folder. Nothing is overwritten.
        key: your name for this video; left out, the picture's name.
        timeout: seconds to wait for the video.
        fields: all others that have an option.
    """
    request = request_from({"image": image, **(fields or Fields()).given(prompt)})
    target = out.expanduser()
    folder_for(target.parent if is_file(target) else target)
    progress = Progress(common.screen, 1)
    kling = common.client(hooks=(progress.tell,))
    key = key or default_name(request)
    return interrupts.run(_animate(common, progress, kling, request, key, target, timeout))


async def _animate(
    common: Common,
    progress: Progress,
    kling: KlingClient,
    request: VideoRequest,
    key: str,
    target: Path,
    timeout: float,
) -> int:
    screen = common.screen
    async with kling:
        try:
            with progress.shown():
                task, path = await kling._running().make(request, key, timeout, target)  # noqa: SLF001 - `run`, with the path
        except asyncio.CancelledError:
            return await tell_interruption(common, progress, kling, target)
        except KlingError as error:
            if screen.is_json:
                known = Task(error.task_id, error.external_task_id, _STATUS[error.outcome])
                task = getattr(error, "task", known)
                screen.result("", completion_as_dict(key, task, None, error, resumed=False))
            code = screen.fail(error)
            if error.outcome is Outcome.MAY_EXIST or isinstance(error, TaskFailedError | TaskLostError):
                screen.complain("to make it again, which may be paid again, give it another --key")
            if progress.running:
                screen.complain("Run the same command again to wait on.")
            tell_pick_up(common, progress, {}, target)
            return code
    assert path is not None  # a place was given
    path = as_given(path, target.parent if is_file(target) else target)
    if not progress.saved:
        screen.say(f"already there: {path}; for another take, give another --key")
    screen.result(str(path), completion_as_dict(key, task, path, None, resumed=not progress.saved))
    return 0


def batch(
    source: Annotated[str, Parameter(allow_leading_hyphen=True)],
    /,
    *,
    common: Annotated[Common, Parameter(parse=False)],
    out: Out,
    prompt: str | None = None,
    max_in_flight: int | None = None,
    timeout: Timeout = 3600,
    retry_failed: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    again: Keys = (),
    resend: Keys = (),
    fields: Fields | None = None,
) -> int:
    """Turn many pictures into videos.

    SOURCE is a folder of JPEG and PNG files, a .jsonl or .csv manifest, or - for JSON lines on stdin. A
    manifest has the API's field names and, if you like, key, which names the file. Everything is checked
    before anything is submitted. One item that fails at Kling harms no other.

    Run again, it goes on: a journal in the folder knows what is there, what runs and what failed. An item is
    recognised by its key and request, without a key by its content.

    Args:
        common: where to send, and how to tell.
        source: a folder, a .jsonl or .csv file, or -.
        out: the folder for the videos. Nothing in it is overwritten.
        prompt: for the items that have none of their own. Beside a picture in a folder, a .txt file of its
            name is its prompt.
        max_in_flight: tasks at once for each model; left out, it is learned from Kling's refusals, which
            cost nothing.
        timeout: seconds for each task from its acknowledgement.
        retry_failed: make again what failed at Kling in an earlier run; a failure was not charged.
        again: make this item again, which failed, got lost or took too long. Repeatable. The last two may be
            charged twice.
        resend: submit this item again, which may exist; it may be charged twice. Repeatable.
        fields: all others that have an option.
    """
    progress = Progress(common.screen, 0)
    kling = common.client(hooks=(progress.tell,), max_in_flight=max_in_flight)
    defaults = (fields or Fields()).given(prompt)
    items = read_source(
        sys.stdin.buffer if source == "-" else source, defaults=defaults, provider=kling.provider
    )
    folder = folder_for(out)
    progress.total = len(items)
    anew = Again(failed=retry_failed, keys=again, resend=resend)

    async def run() -> int:
        resumption = await look_back(folder, items, anew)
        return await run_stream(
            common, progress, kling, items, folder=folder, timeout=timeout, resumption=resumption
        )

    return interrupts.run(run())
