"""The simulator in a process and on a core of its own, as `kling_async.simulator.serve` runs it.

Unlike `stub` it is a full stand-in: it checks requests, keeps tasks and posts signed callbacks. So it is no
match for what costs next to nothing, and beside it only times and counts of requests are measured.
``GET /control/ledger`` tells what it made and was asked.
"""

import asyncio
import contextlib
import json
import sys
from typing import Any

from aiohttp import web

from benchmarks.processes import SERVER, pin, served
from kling_async.simulator import Simulator, make_app

__all__ = ["KEY", "SECRET", "running"]

KEY = "sim-key"
"""What it accepts."""
SECRET = "whsec_dGhlIHNlY3JldCBvZiBhIGJlbmNobWFyaw=="  # noqa: S105 - it opens nothing
"""What its callbacks are signed with."""


def ledger(simulator: Simulator) -> dict[str, Any]:
    """What was made, in its order, and what was asked for how it stands; JSON values."""
    told = simulator.ledger
    return {
        "made": [[task.task_id, task.created, task.ended] for task in told.made],
        "queries": told.requests["query"],
        "pages": told.requests["list"],
    }


async def _main(seconds: tuple[float, float]) -> None:
    pin(SERVER)
    simulator = Simulator(seconds=seconds, parallel=None, api_keys=[KEY], callback_secrets=[SECRET])

    @web.middleware
    async def control(request: web.Request, handler: Any) -> web.StreamResponse:
        if request.path == "/control/ledger":
            return web.json_response(ledger(simulator))
        answer: web.StreamResponse = await handler(request)
        return answer

    app = make_app(simulator)
    app.middlewares.append(control)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        print(runner.addresses[0][1], flush=True)
        # until whoever started it closes the pipe
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    finally:
        await runner.cleanup()


def running(seconds: tuple[float, float]) -> contextlib.AbstractContextManager[str]:
    """The base URL of a simulator in a process of its own, which ends with the block.

    Args:
        seconds: how long a generation takes: between the two, drawn evenly for each task, always the same
            ones in the order in which they are made.
    """
    return served("benchmarks.simulated", json.dumps(seconds))


if __name__ == "__main__":
    asyncio.run(_main(tuple(json.loads(sys.argv[1]))))
