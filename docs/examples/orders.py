"""What both services stand on: orders that outlive the process, and the delivery of each.

An order is in the database from before Kling hears of it until its video is there. Whenever the process
dies, the next one finds every order that was accepted, and submits each again under the same key. By the key
the client knows what was made already: nothing is paid twice.
"""

import asyncio
import logging
import re
import sqlite3
from base64 import b64decode
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, closing
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from kling_async import (
    ImageToVideo,
    KlingClient,
    KlingError,
    PolicyError,
    Problem,
    RequestError,
    TaskFailedError,
    TaskHandle,
)

THEIRS = (PolicyError, RequestError, TaskFailedError)
"""Errors that tell of the customer's order; others tell of the account and of this machine: for the log."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Order:
    """What a customer wants: `id` is theirs, `image` an https URL or the picture itself in base64."""

    id: str
    image: str
    prompt: str

    def request(self) -> ImageToVideo:
        """What Kling is asked for; RequestError tells every problem. A stranger's text is never a path."""
        if not re.fullmatch("[a-z0-9-]{1,64}", self.id):  # it names the file
            raise RequestError(problems=[Problem("id", "must be 1 to 64 of a-z, 0-9 and -")])
        image: str | bytes = self.image
        if not self.image.startswith("https://"):
            try:
                image = b64decode(self.image, validate=True)
            except ValueError:
                problem = Problem("image", "must be an https URL, or a picture in base64")
                raise RequestError(problems=[problem]) from None
        return ImageToVideo(image=image, prompt=self.prompt)


class Orders:
    """The orders of one process; see `open_orders`."""

    def __init__(self, kling: KlingClient, database: sqlite3.Connection, videos: Path) -> None:
        self.kling = kling
        self._database = database
        self._videos = videos
        self._handles: dict[str, TaskHandle | None] = {}  # None: accepted, not submitted yet
        self._deliveries: dict[str, asyncio.Task[None]] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._handles or self.video(name).exists()

    def video(self, name: str) -> Path:
        """The file of an order. It gets its name when it is whole: if it is there, it is delivered."""
        return self._videos / f"{name}.mp4"

    def view(self, name: str) -> dict[str, Any]:
        """How an order stands, for its customer."""
        if self.video(name).exists():
            return {"id": name, "status": "succeed", "url": f"/videos/{name}.mp4"}
        handle, delivery = self._handles[name], self._deliveries.get(name)
        if handle is None:
            return {"id": name, "status": "intended"}
        shown = {"id": name, "status": handle.status, "token": handle.token}
        if delivery is not None and delivery.done() and (error := delivery.exception()):
            shown["error"] = error.what if isinstance(error, THEIRS) else "not delivered yet"
        return shown

    async def keep(self, order: Order) -> None:
        """Accept a new order: when this returns, no crash loses it."""
        self._handles[order.id] = None
        try:
            await self._store("INSERT INTO orders VALUES (?, ?, ?)", *astuple(order))
        except sqlite3.Error:
            del self._handles[order.id]
            raise

    async def drop(self, order: Order) -> None:
        """Forget an order: it is delivered, or was refused before its customer was told otherwise."""
        await self._store("DELETE FROM orders WHERE id = ?", order.id)
        del self._handles[order.id]

    def deliver(self, order: Order) -> None:
        """Begin to bring an order home. What was submitted before, also in an earlier life, is joined."""
        handle = self._handles[order.id] = self.kling.submit_soon(order.request(), key=order.id)
        self._deliveries[order.id] = asyncio.create_task(self._deliver(order, handle))

    async def _deliver(self, order: Order, handle: TaskHandle) -> None:
        try:
            if not self.video(order.id).exists():
                await handle.result(timeout=None)
                await self.kling.download(handle, self.video(order.id))
        except KlingError as error:
            logger.warning("not delivered: %s", error)
            raise  # `view` tells; the next life tries again
        await self.drop(order)
        del self._deliveries[order.id]

    async def resume(self) -> None:
        """Go on with every order that an earlier life accepted and did not deliver."""
        for row in await self._store("SELECT id, image, prompt FROM orders"):
            self.deliver(Order(*row))

    async def events(self, name: str) -> AsyncGenerator[dict[str, Any]]:
        """How an order stands, now and after each change, until its file is there or never will be."""
        handle, delivery = self._handles.get(name), self._deliveries.get(name)
        if handle is not None and delivery is not None:
            try:
                async for _ in handle.events():
                    yield self.view(name)
            except KlingError:
                pass  # `view` tells
            await asyncio.wait([delivery])
        yield self.view(name)

    async def stop(self) -> None:
        """Bring home what is nearly done, and end every wait; the next life delivers the rest."""
        await self.kling.aclose(drain=5)
        await asyncio.gather(*self._deliveries.values(), return_exceptions=True)

    async def _store(self, statement: str, *values: str) -> list[Any]:
        return await asyncio.to_thread(lambda: self._database.execute(statement, values).fetchall())


def _connect(state: Path) -> sqlite3.Connection:
    state.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(state / "orders.sqlite", isolation_level=None, check_same_thread=False)
    database.execute("CREATE TABLE IF NOT EXISTS orders (id TEXT PRIMARY KEY, image TEXT, prompt TEXT)")
    return database


@asynccontextmanager
async def open_orders(kling: KlingClient, state: Path) -> AsyncGenerator[Orders]:
    """The orders in the folder *state*, while the block runs. The folder belongs to one process at a time."""
    with closing(_connect(state)) as database:
        async with kling:  # which locks its journal: a second process ends here
            orders = Orders(kling, database, state / "videos")
            await orders.resume()
            try:
                yield orders
            finally:
                await orders.stop()
