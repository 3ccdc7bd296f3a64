"""``get``, ``list`` and ``download``: tasks that exist already."""

import asyncio
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from cyclopts import Parameter

from kling_async.cli import interrupts
from kling_async.cli.generate import Out
from kling_async.cli.options import Common, folder_for
from kling_async.cli.progress import Progress
from kling_async.cli.running import tell_interruption
from kling_async.cli.screen import task_as_dict
from kling_async.client import KlingClient
from kling_async.parts import is_file
from kling_async.paths import at_home
from kling_async.protocol import auth
from kling_async.protocol.errors import ConfigurationError, NotFoundError, RequestError
from kling_async.protocol.identity import Token
from kling_async.protocol.models import ImageToVideo, MultiImageToVideo, Task, VideoRequest

__all__ = ["download", "get", "list_"]

Multi = Annotated[bool, Parameter(name="--multi", negative="")]


def get(
    id: str,  # noqa: A002 - what the help calls it
    /,
    *,
    common: Annotated[Common, Parameter(parse=False)],
    multi: Multi = False,
) -> int:
    """Show one task.

    Args:
        common: where to send, and how to tell.
        id: its task_id or, where the provider looks those up, its external_task_id.
        multi: it was made of several pictures.
    """

    async def run() -> int:
        async with common.client() as kling:
            common.screen.task(await kling.get_task(id, _kind(multi)))
        return 0

    return interrupts.run(run())


def list_(*, common: Annotated[Common, Parameter(parse=False)], multi: Multi = False, limit: int = 30) -> int:
    """List the account's tasks, the newest first.

    Args:
        common: where to send, and how to tell.
        multi: those made of several pictures.
        limit: how many at most.
    """
    if limit < 1:
        raise ConfigurationError(f"--limit must be at least 1, not {limit}")

    async def run() -> int:
        tasks: list[Task] = []
        async with common.client() as kling:
            async for task in kling.list_tasks(_kind(multi), page_size=min(limit, 500)):
                tasks.append(task)
                if len(tasks) == limit:
                    break
        common.screen.tasks(tasks)
        return 0

    return interrupts.run(run())


def download(
    id: str,  # noqa: A002 - what the help calls it
    /,
    *,
    common: Annotated[Common, Parameter(parse=False)],
    out: Out = Path(),
) -> int:
    """Download the video of a task, waiting for it if it still runs. Costs nothing.

    Args:
        common: where to send, and how to tell.
        id: its task_id, its external_task_id where the provider looks those up, or its token.
        out: the file if it ends in .mp4, else a folder. Nothing is overwritten.
    """
    target = at_home(out)
    if is_file(target) and target.exists():
        raise RequestError(f"{target} exists and is not overwritten", advice="choose another name")
    folder_for(target.parent if is_file(target) else target)
    progress = Progress(common.screen, 1)
    kling = common.client(hooks=(progress.tell,))

    async def run() -> int:
        async with kling:
            try:
                with progress.shown():
                    handle = kling.attach(id if id.startswith("kling1.") else await _token(common, kling, id))
                    await handle.refresh()
                    await handle.result(timeout=None)
                    path = await kling.download(handle, target)
            except asyncio.CancelledError:
                return await tell_interruption(common, progress, kling, target)
        common.screen.result(str(path), {"path": str(path), **task_as_dict(handle.task)})
        return 0

    return interrupts.run(run())


async def _token(common: Common, kling: KlingClient, name: str) -> str:
    """The token of the task that is called *name*, of whatever kind."""
    provider = kling.provider
    for kind in (ImageToVideo, MultiImageToVideo):
        try:
            task = await kling.get_task(name, kind)
        except NotFoundError:
            if kind is MultiImageToVideo or MultiImageToVideo.endpoint not in provider.endpoints:
                raise
        else:
            return Token(
                provider=provider.name,
                host=urlsplit(provider.base_url).netloc,
                account=auth.account(common.credentials()),
                endpoint=kind.endpoint,
                key="",
                task_id=task.task_id,
                external_task_id=task.external_task_id,
            ).text
    raise AssertionError("the last kind returns or raises")


def _kind(multi: bool) -> type[VideoRequest]:
    return MultiImageToVideo if multi else ImageToVideo
