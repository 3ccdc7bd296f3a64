"""What both services stand on: orders that outlive the process, and the delivery of each.

An order is in the database from before Kling hears of it until its video is there. Whenever the process
dies, the next one finds every order that was accepted, and submits each again under the same key. By the key
the client knows what was made already: nothing is paid twice.
"""

import asyncio
import json
import logging
import re
import sqlite3
from base64 import b64decode
from collections.abc import AsyncGenerator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

from kling_async import (
    ImageToVideo,
    InvalidRequestError,
    KlingClient,
    KlingError,
    Outcome,
    PolicyError,
    Problem,
    RequestError,
    TaskFailedError,
    TaskHandle,
    TaskLostError,
)

NAME = re.compile("[a-z0-9-]{1,64}")
"""An order's id. It names a file, and never one in another folder."""
LARGEST = 16 * 1024 * 1024
"""Bytes of an order: a picture has 10 MB at most, and a third more in base64."""
LINE = 20
"""Orders that may stand in line, with their pictures in memory."""
BEAT = 15.0
"""Seconds without news until a stream of events says that it is still there."""
PAUSE, LONGEST_PAUSE = 30.0, 600.0
"""Seconds until an order that was not delivered goes again; they double each time."""
THEIRS = (InvalidRequestError, PolicyError, RequestError, TaskFailedError)
"""Errors that tell of the customer's order; others tell of the account and of this machine: for the log."""
SCHEMA = """
CREATE TABLE IF NOT EXISTS orders (id TEXT PRIMARY KEY, image TEXT, prompt TEXT);
CREATE TABLE IF NOT EXISTS refusals (id TEXT PRIMARY KEY, what TEXT);
"""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Order:
    """What a customer wants: `id` is theirs, `image` an https URL or the picture itself in base64."""

    id: str
    image: str
    prompt: str

    @classmethod
    def read(cls, body: bytes) -> "Order":
        """An order as a stranger posted it; RequestError tells every problem."""
        try:
            posted = json.loads(body)
        except (ValueError, RecursionError):
            posted = None
        match posted:
            case {"id": str(name), "image": str(image), "prompt": str(prompt)}:
                order = cls(name, image, prompt)
            case _:
                raise RequestError(
                    problems=[Problem("body", "must be JSON with the texts id, image, prompt")]
                )
        order.request()
        return order

    def request(self) -> ImageToVideo:
        """What Kling is asked for; RequestError tells every problem. A stranger's text is never a path."""
        if not NAME.fullmatch(self.id):
            raise RequestError(problems=[Problem("id", "must be 1 to 64 of a-z, 0-9 and -")])
        try:
            f"{self.prompt}{self.image}".encode()
        except UnicodeEncodeError:
            raise RequestError(problems=[Problem("body", "must be text that UTF-8 can say")]) from None
        image = self.image if self.image.startswith("https://") else _picture(self.image)
        return ImageToVideo(image=image, prompt=self.prompt)


def _picture(text: str) -> bytes:
    """A picture by its first bytes; the client looks closer before it submits."""
    try:
        picture = b64decode(text, validate=True)
    except ValueError:
        picture = b""
    if not picture.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")) or len(picture) > 10 * 1024 * 1024:
        what = "must be an https URL, or a JPEG or PNG of at most 10 MB in base64"
        raise RequestError(problems=[Problem("image", what)])
    return picture


@dataclass(eq=False)
class Delivery:
    """An order under way.

    Attributes:
        accepted: ends when its customer may be told so; None: an earlier life has told.
        task: goes on until the file is there or never will be; None: that is told by `verdict`.
        handle: of Kling's task, once that is acknowledged.
        trouble: why it is late, for its customer.
        verdict: why there will be no file, for its customer.
        changed: set at the next change.
    """

    accepted: asyncio.Task[None] | None = None
    task: asyncio.Task[None] | None = None
    handle: TaskHandle | None = None
    trouble: str = ""
    verdict: str = ""
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def over(self) -> bool:
        """Whether nothing more will happen in this life."""
        return self.task is None or self.task.done()

    def change(self) -> None:
        """Wake all who look at it."""
        self.changed.set()
        self.changed = asyncio.Event()


class Orders:
    """The orders of one process; see `open_orders`."""

    def __init__(
        self, kling: KlingClient, database: sqlite3.Connection, disk: Executor, videos: Path
    ) -> None:
        self.kling = kling
        self._database = database
        self._disk = disk
        self._videos = videos
        self._deliveries: dict[str, Delivery] = {}
        self._line = asyncio.Semaphore(LINE)
        self._stopping = False

    def __contains__(self, name: str) -> bool:
        known = NAME.fullmatch(name) is not None
        return known and (name in self._deliveries or self.video(name).exists())

    @property
    def has_room(self) -> bool:
        """Whether one more order may stand in line."""
        waiting = sum(each.handle is None and not each.verdict for each in self._deliveries.values())
        return waiting < LINE and not self._stopping

    def video(self, name: str) -> Path:
        """The file of an order. It gets its name when it is whole: if it is there, it is delivered."""
        return self._videos / f"{name}.mp4"

    def view(self, name: str) -> dict[str, Any]:
        """How an order stands, for its customer."""
        if self.video(name).exists():
            return {"id": name, "status": "succeed", "url": f"/videos/{name}.mp4"}
        delivery = self._deliveries.get(name)
        if delivery is None:  # who posted it was told why
            return {"id": name, "status": "refused"}
        if delivery.verdict:
            return {"id": name, "status": "failed", "error": delivery.verdict}
        shown = {"id": name, "status": "intended" if delivery.handle is None else delivery.handle.status}
        return shown | ({"error": delivery.trouble} if delivery.trouble else {})

    async def events(self, name: str) -> AsyncGenerator[str]:
        """Server-sent events: how an order stands, now and after each change, until nothing will change."""
        delivery, shown = self._deliveries.get(name), None
        while delivery is not None and not delivery.over:
            changed, view = delivery.changed, self.view(name)
            # a comment, so that a browser that has left is noticed
            yield ":\n\n" if view == shown else f"data: {json.dumps(view)}\n\n"
            shown = view
            with suppress(TimeoutError):
                async with asyncio.timeout(BEAT):
                    await changed.wait()
        yield f"data: {json.dumps(self.view(name))}\n\n"

    async def accept(self, order: Order, *, in_line: bool) -> dict[str, Any]:
        """Accept an order and return how it stands: from then on no crash loses it.

        The same order again is the same delivery. Cancelling this changes nothing of it.

        Args:
            order: checked.
            in_line: accept it before Kling has; else KlingError is Kling's refusal, or no slot is free.
        """
        if order.id not in self:
            delivery = Delivery()
            delivery.accepted = asyncio.create_task(self._accept(order, delivery, in_line=in_line))
            self._begin(order.id, delivery)
        known = self._deliveries.get(order.id)
        if known is not None and known.accepted is not None:
            await asyncio.shield(known.accepted)
        return self.view(order.id)

    async def resume(self) -> None:
        """Go on with every order that an earlier life accepted and did not deliver."""
        for name, what in await self._store("SELECT id, what FROM refusals"):
            self._deliveries[name] = Delivery(verdict=what)
        for (name,) in await self._store("SELECT id FROM orders"):
            self._begin(name, Delivery())

    async def stop(self) -> None:
        """Bring home what is nearly done, and end every wait; the next life delivers the rest."""
        self._stopping = True
        deliveries = list(self._deliveries.values())
        tasks = [each.task for each in deliveries if each.task is not None]
        for each in deliveries:
            if each.task is not None and (each.handle is None or each.trouble):
                each.task.cancel()  # it would begin now
        await self.kling.aclose(drain=2)
        for task in tasks:
            task.cancel()
        accepted = [each.accepted for each in deliveries if each.accepted is not None]
        await asyncio.gather(*accepted, *tasks, return_exceptions=True)

    def _begin(self, name: str, delivery: Delivery) -> None:
        self._deliveries[name] = delivery
        delivery.task = asyncio.create_task(self._deliver(name, delivery))

    async def _accept(self, order: Order, delivery: Delivery, *, in_line: bool) -> None:
        await self._store("INSERT OR REPLACE INTO orders VALUES (?, ?, ?)", *astuple(order))
        if in_line:
            return
        try:
            delivery.handle = await self.kling.submit(order.request(), key=order.id, wait=False)
        except KlingError as error:
            if error.outcome is Outcome.NOT_CREATED:  # else it may be paid: it is accepted, and looked for
                await self._store("DELETE FROM orders WHERE id = ?", order.id)
                raise

    async def _deliver(self, name: str, delivery: Delivery) -> None:
        """One order, from when it is accepted until its file is there, however often that takes."""
        try:
            if delivery.accepted is not None:
                await asyncio.wait([delivery.accepted])
                if delivery.accepted.exception() is not None:
                    del self._deliveries[name]  # who posted it is told why
                    return
            pause = PAUSE
            while not await self._is_settled(name, delivery):
                delivery.change()
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
        finally:
            delivery.change()

    async def _is_settled(self, name: str, delivery: Delivery) -> bool:
        """Try to deliver; False: what went wrong is not the customer's fault, and it goes again later."""
        try:
            await self._bring_home(name, delivery)
        except Exception as error:  # whatever it is: the order was accepted
            unknown = isinstance(error, TaskLostError) or getattr(error, "outcome", "") is Outcome.MAY_EXIST
            delivery.trouble = "ask us" if unknown else "not delivered yet"
            is_bug = not isinstance(error, KlingError | OSError | sqlite3.Error)
            logger.warning("%s: %s: %s", name, delivery.trouble, error, exc_info=is_bug)
            return False
        return True

    async def _bring_home(self, name: str, delivery: Delivery) -> None:
        try:
            if not self.video(name).exists():
                # what was submitted before, also in an earlier life, is joined by its key
                if delivery.handle is None or delivery.trouble:
                    delivery.handle = await self._submit(name)
                    delivery.trouble = ""
                async for _ in delivery.handle.events():
                    delivery.change()
                await delivery.handle.result(timeout=None)
                await self.kling.download(delivery.handle, self.video(name))
        except THEIRS as error:
            await self._store("INSERT OR REPLACE INTO refusals VALUES (?, ?)", name, error.what)
            await self._store("DELETE FROM orders WHERE id = ?", name)
            delivery.verdict = error.what
        else:
            await self._store("DELETE FROM orders WHERE id = ?", name)
            del self._deliveries[name]

    async def _submit(self, name: str) -> TaskHandle:
        """Stand in line until Kling has the order. The picture is in memory no sooner."""
        async with self._line:
            ((image, prompt),) = await self._store("SELECT image, prompt FROM orders WHERE id = ?", name)
            return await self.kling.submit(Order(name, image, prompt).request(), key=name)

    async def _store(self, statement: str, *values: str) -> list[Any]:
        def execute() -> list[Any]:
            return self._database.execute(statement, values).fetchall()

        return await asyncio.get_running_loop().run_in_executor(self._disk, execute)


def _connect(state: Path) -> sqlite3.Connection:
    state.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(state / "orders.sqlite", isolation_level=None, check_same_thread=False)
    database.executescript(SCHEMA)
    return database


@asynccontextmanager
async def open_orders(kling: KlingClient, state: Path) -> AsyncGenerator[Orders]:
    """The orders in the folder *state*, while the block runs. The folder belongs to one process at a time."""
    # the thread ends before the database is closed, which it may still be writing to
    with closing(_connect(state)) as database, ThreadPoolExecutor(1) as disk:
        async with kling:  # which locks its journal: a second process ends here
            orders = Orders(kling, database, disk, state / "videos")
            await orders.resume()
            try:
                yield orders
            finally:
                await orders.stop()
