"""``animate``: one picture in, one video file out."""

import asyncio
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from kling_async.cli import interrupts
from kling_async.cli.options import Common, Fields, folder_for
from kling_async.cli.progress import Progress
from kling_async.cli.running import as_given, completion_as_dict, tell_interruption, tell_pick_up
from kling_async.client import KlingClient
from kling_async.flight import default_name
from kling_async.parts import is_file
from kling_async.paths import at_home
from kling_async.protocol.converter import request_from
from kling_async.protocol.errors import KlingError, Outcome, TaskFailedError, TaskLostError
from kling_async.protocol.models import Task, TaskStatus, VideoRequest

__all__ = ["Out", "Timeout", "animate"]

_STATUS = {
    Outcome.NOT_CREATED: TaskStatus.REFUSED,
    Outcome.MAY_EXIST: TaskStatus.MAY_EXIST,
    Outcome.CREATED: TaskStatus.UNKNOWN,
}
"""What is known of a task by its error alone."""

Out = Annotated[Path, Parameter(name=["--out", "-o"])]
Timeout = Annotated[float, Parameter(name="--timeout")]


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
    target = at_home(out)
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
