"""The reference: what polling costs when nothing is done but a GET and `json.loads`.

Frozen. A change here changes what the other figures mean; make it only with a line in the changelog.
"""

import asyncio
import json
import time
from typing import Any

import aiohttp


async def poll(base_url: str, *, tasks: int, workers: int, polls: int) -> float:
    """Poll as *workers* plain loops do; returns CPU seconds per poll.

    Args:
        base_url: of a server that answers each GET with JSON.
        tasks: how many different tasks are asked for, in turn.
        workers: loops side by side, each with one kept-alive connection.
        polls: how many polls are measured, after a tenth as many to warm up.
    """
    asked = 0

    async def work(session: aiohttp.ClientSession, until: int) -> None:
        nonlocal asked
        while asked < until:
            asked += 1
            url = f"{base_url}/v1/videos/image2video/{asked % tasks + 1}"
            async with session.get(url, headers={"Authorization": "Bearer key"}) as response:
                document: dict[str, Any] = json.loads(await response.read())
            assert document["data"]["task_status"] == "processing"

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(work(session, polls // 10) for _ in range(workers)))
        asked, started = 0, time.process_time()
        await asyncio.gather(*(work(session, polls) for _ in range(workers)))
        return (time.process_time() - started) / asked
