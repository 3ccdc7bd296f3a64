"""Many requests at work: a feeder takes them one by one as slots are free; what ends waits to be read."""

import asyncio
import heapq
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import attrs

from kling_async.checking import estimate, spent
from kling_async.engine import Engine
from kling_async.flight import Flight, Names, SlotKey
from kling_async.protocol.budget import Budget
from kling_async.protocol.errors import (
    BudgetError,
    DownloadError,
    EngineError,
    KlingError,
    Outcome,
    RequestError,
)
from kling_async.protocol.models import Task, TaskStatus, VideoRequest
from kling_async.protocol.prices import plain
from kling_async.recording import Recording
from kling_async.streams import Completion, Requests
from kling_async.typing import Again

if TYPE_CHECKING:
    from kling_async.running import Running

__all__ = ["Stream"]

LEAST_BOUND = 16
"""How many completions may wait unread however small the limit is."""


@attrs.define(eq=False)
class _Item:
    """One request on its way through the stream."""

    index: int
    key: str
    request: VideoRequest
    task: Task
    timed: bool = False
    ended: bool = False


@attrs.define(eq=False)
class Stream:
    """What happens behind a `Completions`, without holding it.

    Attributes:
        work: the client's.
        requests: what is taken one by one.
        timeout: seconds for each task from its acknowledgement.
        ordered: whether completions come in the order of the requests.
        save_to: the folder for the videos.
        again: what of an earlier run is made anew.
        namespace: whose items those without a key are in the journal.
        budget: what may be spent.
        recording: where they are recorded, once that is open.
        ready: completions that nobody has read, by index.
        deadlines: when each is given up, its item and its flight; a heap.
        timer: of the first deadline.
        news: set when there is something to read.
        room: set when something was read.
        feeder: takes the requests.
        taken: how many were taken.
        given: how many completions were handed out.
        fed: whether no more will be taken.
        stopped: whether nothing new is submitted any more.
        closed: whether nobody reads any more.
        failure: what ended it early.
        names: what requests without a key are called.
        reserved: what each that was let go holds of the budget.
        waiting: those that wait for room in it.
        unsent: those that Kling has not acknowledged; what is still in line of them can be withdrawn.
    """

    work: "Running"
    requests: Requests
    timeout: float | None = attrs.field(kw_only=True)
    ordered: bool = attrs.field(kw_only=True)
    save_to: Path | None = attrs.field(kw_only=True)
    again: Again = attrs.field(kw_only=True)
    namespace: str | None = attrs.field(kw_only=True)
    budget: Budget | None = attrs.field(kw_only=True)
    recording: Recording | None = None
    ready: dict[int, Completion] = attrs.field(factory=dict[int, Completion])
    deadlines: list[tuple[float, int, _Item, Flight]] = attrs.field(factory=list[Any])
    timer: asyncio.TimerHandle | None = None
    news: asyncio.Event = attrs.field(factory=asyncio.Event)
    room: asyncio.Event = attrs.field(factory=asyncio.Event)
    feeder: "asyncio.Task[None] | None" = None
    taken: int = 0
    given: int = 0
    fed: bool = False
    stopped: bool = False
    closed: bool = False
    failure: BaseException | None = None
    names: Names = attrs.field(factory=Names)
    reserved: dict[Flight, int] = attrs.field(factory=dict[Flight, int])
    waiting: set[Flight] = attrs.field(factory=set[Flight])
    unsent: set[Flight] = attrs.field(factory=set[Flight])

    @property
    def engine(self) -> Engine:
        """The engine at work."""
        return self.work.engine

    # The reader's side

    def take(self) -> Completion | None:
        """The next completion to hand out, if it is there."""
        index = self.given if self.ordered else next(iter(self.ready), None)
        completion = None if index is None else self.ready.pop(index, None)
        if completion is not None:
            self.given += 1
            self.room.set()
        return completion

    @property
    def exhausted(self) -> bool:
        """Whether every request was taken and every completion handed out."""
        return (self.fed or self._is_last()) and self.given == self.taken

    def close(self) -> None:
        """Take no more requests; tasks go on."""
        self.closed = True
        self.ready.clear()
        if self.timer is not None:
            self.timer.cancel()
        self.stop_feeding()
        self.news.set()

    def stop_feeding(self) -> None:
        """Take no more requests, withdraw what waits for the budget; what is in flight is still delivered."""
        if self.feeder is not None:
            self.feeder.cancel()
        self.fed = True
        waiting = [flight for flight in self.unsent if (flight.same or flight) in self.waiting]
        for flight in self._unwanted(waiting):
            self.engine.intake.stop_waiting(flight)

    def stop(self) -> None:
        """Submit nothing more; see `Completions.stop`."""
        if self.stopped:
            return
        self.stopped = True
        if isinstance(self.requests, list | tuple):
            self.engine.submission.lines.wake()  # what is taken now takes no slot
        else:
            self.stop_feeding()
        for flight in self._unwanted(self.unsent):
            self.engine.intake.stop_waiting(flight)
            if flight.prepared is not None:  # else it is not checked, and may be there from an earlier run
                self.engine.intake.withdraw(flight)

    def _unwanted(self, flights: Iterable[Flight]) -> Iterator[Flight]:
        """Want *flights* no more; gives what nobody wants then."""
        for flight in tuple(flights):
            self.unsent.discard(flight)
            wanted = flight.same or flight
            wanted.wanted -= 1
            if wanted.stopped:
                yield wanted

    # The feeder's side

    async def feed(self) -> None:
        """Take requests for as long as there are any, each when its slot is free."""
        self.feeder = asyncio.current_task()
        slot_key: SlotKey | None = None
        try:
            self.recording = await self.work.recording(
                self.save_to, again=self.again, by_content=True, namespace=self.namespace
            )
            take = _taker(self.requests)
            while not self.fed:
                await self._room(slot_key)
                try:
                    key, request = _pair(await take())
                except StopAsyncIteration:
                    break
                if self.fed:  # stopped by what gave the request
                    break
                in_line = await self._submit(key, request)
                slot_key = (request.endpoint, request.model_name) if in_line else None
        except asyncio.CancelledError:
            self.cut_off()
        except Exception as error:  # noqa: BLE001 - whatever the caller's iterable raises ends the stream, not the engine
            self.failure = self.failure or error
        finally:
            self.fed = True
            self.news.set()

    def _is_last(self) -> bool:
        """Whether every request is known to be taken: then nobody waits for a slot to learn it."""
        return isinstance(self.requests, list | tuple) and self.taken >= len(self.requests)

    def cut_off(self) -> None:
        """Nothing feeds this stream any more; if nobody told it to stop, the client was closed under it."""
        if not (self.fed or self._is_last()):
            what = "the client was closed before the requests were at their end"
            self.failure = self.engine.crew.bug_or(KlingError(what))
            self.fed = True
            self.news.set()

    async def _room(self, slot_key: SlotKey | None) -> None:
        """Wait until one more may be taken: the unread are bounded, and a slot must be free."""
        while self.taken - self.given >= max(2 * self.engine.submission.lines.limit, LEAST_BOUND):
            self.room.clear()
            await self.room.wait()
        if slot_key is not None:
            await self.engine.submission.lines.room(slot_key, lambda: self.stopped)

    async def _submit(self, key: str | None, request: VideoRequest) -> bool:
        """Put *request* in line; False: it takes no slot, for an earlier run or another item has it."""
        task = Task(None, request.external_task_id, TaskStatus.INTENDED)
        item = _Item(self.taken, key or self.names.of(request), request, task)
        self.taken += 1
        try:
            flight = self.engine.intake.join(request, key)
        except KlingError as error:
            self._end(item, error)
            raise
        flight.label, flight.wanted = item.key, 0 if self.stopped else 1
        flight.listen(self._listener(item))  # hears every end, also that of the check
        self.unsent.add(flight)
        admit = None if self.budget is None else self._admit
        await self.engine.intake.check_quietly(flight, self.recording, admit)
        return flight.same is None and not flight.resumed

    # The budget

    def _admit(self, flight: Flight) -> "asyncio.Future[None] | None":
        """Reserve what *flight* will cost; see `Intake.check`."""
        budget = self.budget
        assert budget is not None  # else nobody asks
        assert flight.request is not None  # it came from a stream
        self.waiting.discard(flight)
        units = estimate(flight.request, self.engine.api.provider, budget.prices)
        if units is None and not budget.allow_unpriced:
            raise BudgetError(
                f"its price is in no table ({flight.slot_key[1]}), and there is a budget",
                advice="give prices of your own, or allow what has no price",
            )
        if units is None or budget.fits(units):
            self.reserved[flight] = budget.reserve(units or Decimal(0))
            return None
        if not budget.may_fit(units):
            left = max(budget.limit - budget.spent, Decimal(0))
            what = f"it would cost {plain(units)}, and {plain(left)} of {plain(budget.limit)} units are left"
            raise BudgetError(what, units=units)
        future = self.engine.crew.loop.create_future()
        budget.on_settled(lambda: None if future.done() else future.set_result(None))
        self.waiting.add(flight)
        return future

    def _account(self, flight: Flight) -> None:
        """Tell the budget what *flight* cost, if it was reserved here and is over."""
        is_ours = flight.same is None or flight.pays
        if self.budget is None or (is_ours and not flight.done):
            return
        self.waiting.discard(flight)
        number = self.reserved.pop(flight, None)
        if number is None:
            return
        request, task = flight.request, flight.task
        assert request is not None  # it came from a stream
        cost: Decimal | None = Decimal(0)
        if is_ours:  # else it is somebody else's, who accounts for it
            cost = spent(task.status, task.units, request, self.engine.api.provider, self.budget.prices)
        self.budget.settle(number, cost)

    def settle(self) -> None:
        """The client is closed: what still runs is paid, and nobody here will know what it came to."""
        for number in self.reserved.values():
            assert self.budget is not None  # it was reserved there
            self.budget.settle(number, None)
        self.reserved.clear()

    # The engine's side

    def _listener(self, item: _Item) -> Callable[[Flight], None]:
        def listener(flight: Flight) -> None:
            item.task = flight.task
            if flight.submitted or flight.error is not None:
                self.unsent.discard(flight)
            self._account(flight)
            if item.ended:
                return
            if flight.done or flight.error is not None:
                self._landed(item, flight)
            elif flight.acknowledged_at is not None and not item.timed and self.timeout is not None:
                item.timed = True
                deadline = flight.acknowledged_at + self.timeout
                heapq.heappush(self.deadlines, (deadline, item.index, item, flight))
                self._set_timer()

        return listener

    def _landed(self, item: _Item, flight: Flight) -> None:
        error = flight.error
        if error is None and self.save_to is not None and not self.closed:
            item.ended = True
            if not self.engine.crew.spawn(self._save(item, flight, self.save_to)):
                self._end(item, flight.about(DownloadError("the client was closed before the download")))
            return
        self._end(item, error, resumed=flight.resumed)
        if (
            error is not None
            and flight.done
            and not flight.resumed
            and self.engine.api.stops_account(_cause(error))
        ):
            self.failure = self.failure or error
            self.stop_feeding()

    async def _save(self, item: _Item, flight: Flight, folder: Path) -> None:
        names = {"key": item.key, "task_id": item.task.task_id, "token": flight.token}
        try:
            resumed = flight.path is not None
            path = await self.work.saved(flight, folder, item.key)
        except KlingError as error:
            self._end(item, error.about(**names))
        except asyncio.CancelledError:
            self._end(item, DownloadError("the client was closed during the download").about(**names))
            raise
        except Exception as bug:
            failed = EngineError(f"the engine failed: {type(bug).__name__}: {bug}", outcome=Outcome.CREATED)
            self._end(item, failed.about(**names))
            raise
        else:
            self._end(item, None, path, resumed=resumed)

    def _end(
        self, item: _Item, error: KlingError | None, path: Path | None = None, *, resumed: bool = False
    ) -> None:
        item.ended = True
        if error is not None:
            error.about(key=item.key)
        while self.deadlines and self.deadlines[0][2].ended:
            heapq.heappop(self.deadlines)  # lets go of its request, which may hold pictures
        if not self.closed:
            self.ready[item.index] = Completion(
                item.index, item.key, item.request, item.task, error, path, resumed
            )
        self.news.set()

    def _set_timer(self) -> None:
        if self.timer is None and self.deadlines and not self.closed:
            self.timer = self.engine.crew.loop.call_at(self.deadlines[0][0], self._expire)

    def _expire(self) -> None:
        self.timer = None
        now = self.engine.crew.loop.time()
        while self.deadlines and (self.deadlines[0][0] <= now or self.deadlines[0][2].ended):
            _, _, item, flight = heapq.heappop(self.deadlines)
            if not item.ended:
                what = f"no video within {self.timeout:g} s of its acknowledgement"
                self._end(item, flight.waited(what))
        self._set_timer()


def _pair(item: Any) -> tuple[str | None, VideoRequest]:
    match item:
        case VideoRequest():
            return None, item
        case (str() as key, VideoRequest() as request):
            return key, request
        case _:
            raise RequestError(
                f"a stream takes requests or pairs of key and request, not {type(item).__name__}"
            )


def _taker(requests: Requests) -> Callable[[], Awaitable[Any]]:
    """What takes the next request or raises StopAsyncIteration; no generator, so nothing is left to close."""
    if isinstance(requests, AsyncIterable):
        return aiter(cast("AsyncIterable[Any]", requests)).__anext__
    iterator: Iterator[Any] = iter(requests)

    async def take() -> Any:
        for item in iterator:
            return item
        raise StopAsyncIteration

    return take


def _cause(error: KlingError) -> KlingError:
    """What is behind an error that only says the answer was lost."""
    return error.__cause__ if isinstance(error.__cause__, KlingError) else error
