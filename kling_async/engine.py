"""Owns every POST and every poll of one client in one event loop, and all that is known of its tasks.

A `Crew` runs all of it, so that no caller's cancellation reaches a POST. News of a task comes through one
door, `Engine.observe`, whoever brings it.
"""

import asyncio
import contextlib
import itertools
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs

from kling_async import bodies
from kling_async.api import Api
from kling_async.bookkeeping import Books, Recording
from kling_async.crew import Crew
from kling_async.flight import Flight, SlotKey
from kling_async.instrumentation import Completed, Hooks
from kling_async.pollers import Pollers
from kling_async.protocol import identity, lifecycle, wire
from kling_async.protocol.errors import KlingError, Outcome, RequestError
from kling_async.protocol.models import Task, TaskStatus, VideoRequest
from kling_async.protocol.schedule import Polling
from kling_async.retries import Retries, retrying
from kling_async.submission import Submission
from kling_async.typing import Again, never

__all__ = ["Engine", "Options"]

logger = logging.getLogger("kling_async")

LONGEST_ID = "0" * 64
"""Stands for a task_id not known yet (they have 18 or 19 digits), so that the token will not be too long."""
SETTLED = 10_000
"""How many ended tasks with a key are remembered, the last ones; about a kilobyte each."""


@attrs.frozen(kw_only=True)
class Options:
    """What an engine is told by its client; see `kling_async.KlingClient`."""

    account: str
    secret: bytes = attrs.field(repr=False)
    max_in_flight: int | None
    max_uploads: int
    polling: Polling
    retries: Retries
    hooks: Hooks
    rng: random.Random


class Engine:
    """One client at work in one event loop, from `start` to `stop`.

    Args:
        api: the provider's calls.
        options: how to work.
        closers: close what was opened for this engine; called at its end.

    Attributes:
        crew: runs what it does, and what others do for it.
        unresolved: what may exist and only the caller can decide to submit anew, by external_task_id.
    """

    def __init__(
        self, api: Api, options: Options, closers: Sequence[Callable[[], Awaitable[None]]] = ()
    ) -> None:
        self.api = api
        self._closers = closers
        self.crew = Crew(self._ending, self._ended, self._close)
        self._options = options
        self._hooks = options.hooks
        self._order = itertools.count()
        self._live: dict[int, Flight] = {}
        self._named: dict[str, Flight] = {}
        self._slot_keys: dict[SlotKey, SlotKey] = {}
        self._no_reply: Mapping[str, Any] = {}  # one for all that wait: nobody writes to a `Mapping`
        self._settled: dict[str, Task] = {}
        self.unresolved: dict[str, Flight] = {}
        self._known: tuple[str, Task] | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self.succeeded = self.failed = 0
        self._issuer = identity.Issuer(
            provider=api.provider.name,
            host=urlsplit(api.provider.base_url).netloc,
            account=options.account,
        )
        self.books = Books(
            issuer=self._issuer,
            secret=options.secret,
            provider=api.provider,
            clock=api.clock,
            in_thread=self.crew.in_thread,
            random_id=lambda: f"{options.rng.getrandbits(128):x}",
        )
        self.submission = Submission(
            api,
            json_body=lambda document: bodies.json_body(document, self.crew.in_thread),
            spawn=self.crew.spawn,
            keeper=self,
            patience=options.polling.give_up,
            known=lambda: self._known,
            max_in_flight=options.max_in_flight,
            max_uploads=options.max_uploads,
            retries=options.retries,
            rng=options.rng,
            hooks=self._hooks,
        )
        self.pollers = Pollers(
            api,
            self._live,
            polling=options.polling,
            rng=random.Random(options.rng.getrandbits(64)),  # noqa: S311 - jitter: quick, not secret
            keeper=self,
            hooks=self._hooks,
        )
        self._read = retrying(
            api.task, options.retries, creating=False, rng=options.rng, fatal=api.stops_account
        )
        self._page = retrying(
            api.page, options.retries, creating=False, rng=options.rng, fatal=api.stops_account
        )

    # From start to end

    def start(self) -> None:
        """Begin to work."""
        for _ in range(self._options.polling.pollers):
            self.crew.spawn(self.pollers.work())
        self.crew.start()

    async def read(self, endpoint: str, task_id: str) -> Task:
        """Read one task, for a caller."""
        async with self.crew.visit():
            return await self._read(endpoint, task_id)

    async def page(self, endpoint: str, page: int, page_size: int) -> Sequence[Task]:
        """Read one page of the list of tasks, for a caller."""
        async with self.crew.visit():
            return await self._page(endpoint, page, page_size)

    async def stop(self, drain: float) -> list[Flight]:
        """Take no more requests, wait up to *drain* seconds for tasks, then end; returns what still runs.

        A POST that is out is waited for, whatever *drain* says: its answer is worth a task.
        """
        self.crew.closing = True
        try:
            if not self.crew.ended:
                self.submission.stop(lambda: KlingError("the client was closed before it was submitted"))
                await self.submission.quiet()
                if drain > 0:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(drain):
                            await self._idle.wait()
                            await asyncio.sleep(0)  # the download of the last begins
                            await self.crew.unvisited.wait()
        finally:
            left = list(self._live.values())
            await self.crew.finish()
        return left

    def _ending(self) -> None:
        what = "the client was closed before it was submitted"
        self.submission.stop(lambda: self.crew.bug_or(KlingError(what)))

    def _ended(self) -> None:
        """Nothing of ours runs any more: end every wait."""
        self.pollers.stop()
        for flight in list(self._live.values()):
            farewell = flight.waited("the client was closed, the task goes on")
            flight.error = flight.about(self.crew.bug_or(farewell))
            flight.announce()

    async def _close(self) -> None:
        for close in (self.books.aclose, *self._closers):
            await close()

    # Tasks

    @property
    def live(self) -> Sequence[Flight]:
        """Every task not yet terminal, the earliest first."""
        return list(self._live.values())

    def new_flight(self, request: VideoRequest, key: str | None) -> Flight:
        """A flight for *request*, not yet in line."""
        if self.crew.closing:
            raise self.crew.bug_or(KlingError("the client is closed"))
        if not isinstance(key, str | None):
            raise RequestError(f"key must be text, not {type(key).__name__}")
        endpoint = request.endpoint
        slot_key = endpoint, request.model_name
        return Flight(
            order=next(self._order),
            key=key,
            endpoint=endpoint,
            slot_key=self._slot_keys.setdefault(slot_key, slot_key),  # one for all who share it
            task=Task(None, request.external_task_id, TaskStatus.INTENDED),
            issuer=self._issuer,
            request=request,
        )

    def join(self, flight: Flight) -> None:
        """Put *flight* in line in its place; it leaves after `check`."""
        self.submission.lines.join(flight)
        self._live[flight.order] = flight
        self._idle.clear()

    async def check(
        self, flight: Flight, recording: Recording | None = None, *, refusal: RequestError | None = None
    ) -> None:
        """Check the pictures of a flight in line, name it, and let it go when its turn comes.

        Where the same key and request are in flight already, it becomes that one's mirror; where an earlier
        run has brought it to an end, it is over at once.

        Args:
            flight: in line.
            recording: where it is recorded, and what is made again.
            refusal: raised instead of submitting what no earlier run has brought to its end.

        Raises:
            RequestError: with every problem of its pictures; nothing was sent.
            JournalError: the journal cannot be read.
        """
        request = flight.request
        assert request is not None  # attached tasks are not checked
        try:
            async with self.crew.visit():
                if bodies.needs_thread(request):
                    resolved = await self.crew.in_thread(bodies.resolve, request)
                else:
                    resolved = bodies.resolve(request)
                await self.books.recognise(flight, dict(resolved.images), recording)
            external_task_id = flight.judged.external_task_id or ""
            prepared = wire.create(
                request, self.api.provider, resolved.images, external_task_id=external_task_id
            )
            self._issuer.token(
                flight.endpoint, flight.key, task_id=LONGEST_ID, external_task_id=external_task_id
            )  # raises now what is wrong with the key
            if flight.error is not None:
                flight.about(flight.error)
            if refusal is not None and not flight.resumed:
                raise refusal
        except BaseException as error:
            if flight.resumed:  # its row tells of an earlier run's task, which this does not touch
                flight.resumed, flight.record, flight.judged = False, None, flight.task
            self.withdraw(flight, error if isinstance(error, KlingError) else None)
            raise
        if not flight.in_line:
            return
        for warning in resolved.warnings:
            logger.warning("%s: %s", flight.key or "request", warning)
        same = self._named.get(external_task_id)
        if same is None and not flight.resumed and external_task_id in self._settled:
            self._recall_settled(flight, self._settled[external_task_id])
        if same is not None:
            if same.request is None:
                same.request, same.prepared = request, prepared
            self._mirror(flight, same)
        elif flight.resumed and (flight.ended or flight.error is not None):
            self._end_resumed(flight)
        elif flight.resumed:
            flight.prepared = prepared
            self.submission.lines.withdraw(flight)
            self._take_up(flight)
            self.submission.lines.dispatch(flight.slot_key)
        else:
            self._named[external_task_id] = flight
            flight.task = flight.judged
            flight.prepared = prepared
            self.submission.ready(flight)

    async def check_quietly(self, flight: Flight, recording: Recording | None) -> None:
        """`check`, for nobody who waits: what is wrong is told by the flight's own end."""
        with contextlib.suppress(KlingError):
            await self.check(flight, recording)

    async def acknowledged(self, flight: Flight) -> None:
        """Wait until *flight*, checked, is acknowledged; cancelled before its POST, it is withdrawn.

        Raises:
            KlingError: it was refused, or its answer was lost.
        """
        try:
            await flight.wait(lambda each: each.submitted or each.error is not None)
        except asyncio.CancelledError:
            if not flight.listeners:  # else another caller wants it under the same key
                self.withdraw(flight)
            raise
        if flight.acknowledged_at is None and not flight.resumed and flight.error is not None:
            raise flight.error

    def withdraw(self, flight: Flight, error: KlingError | None = None) -> bool:
        """Take *flight* back if its POST has not begun; False: it has."""
        if not self.submission.lines.withdraw(flight):
            return False
        seen = Task(None, flight.task.external_task_id, TaskStatus.REFUSED)
        error = error or KlingError("withdrawn before it was submitted")
        self.observe(flight, seen, flight.about(error))
        self.submission.lines.dispatch(flight.slot_key)
        return True

    def _mirror(self, flight: Flight, same: Flight) -> None:
        """*flight* wants what *same* already is: it leaves the line and shows what happens there."""
        self.submission.lines.withdraw(flight)
        del self._live[flight.order]
        flight.same = same
        if same.record is None and flight.record is not None:  # the first who wanted it had no journal
            same.journal, same.record = flight.journal, flight.record
            self.books.put(same, self._publish)

        def reflect(_: Flight) -> None:
            flight.task, flight.error = same.task, same.error
            flight.judged, flight.record, flight.resumed = same.judged, same.record, same.resumed
            flight.acknowledged_at = same.acknowledged_at
            flight.announce()

        same.listen(reflect)
        reflect(same)
        self.submission.lines.dispatch(flight.slot_key)

    def _end_resumed(self, flight: Flight) -> None:
        """An earlier run brought *flight* to its end: it leaves the line and is over, without a call."""
        self.submission.lines.withdraw(flight)
        del self._live[flight.order]
        self._keep_unresolved(flight)
        flight.task = flight.judged
        flight.announce()
        self.submission.lines.dispatch(flight.slot_key)

    async def recording(
        self,
        path: Path,
        *,
        again: Again = never,
        by_content: bool = True,
        namespace: str | None = None,
    ) -> Recording:
        """Record in the journal at *path*; when it is opened, what it holds of tasks in flight is picked up.

        Raises:
            JournalError: it cannot be opened.
        """
        async with self.crew.visit():
            return await self.books.open(
                path,
                again=again,
                by_content=by_content,
                namespace=namespace,
                orders=self._order,
                pick_up=self._pick_up,
            )

    def _pick_up(self, flights: Sequence[Flight]) -> None:
        """Go on with what an earlier run left unfinished; it takes slots before anything new."""
        for flight in flights:
            if not self.crew.halted and flight.judged.external_task_id not in self._named:
                self._take_up(flight)

    def _take_up(self, flight: Flight) -> None:
        """Resolve what an earlier run only intended, poll what it submitted."""
        name = flight.judged.external_task_id or ""
        flight.resumed = False  # from now on its news is this run's
        self._live[flight.order] = self._named[name] = flight
        self._idle.clear()
        if flight.judged.status in (TaskStatus.INTENDED, TaskStatus.AMBIGUOUS):
            self.observe(flight, Task(None, name, TaskStatus.AMBIGUOUS))
            self.submission.resolve(flight, KlingError("the run that submitted it was interrupted"))
        else:
            flight.task = flight.judged
            flight.acknowledged_at = self.crew.loop.time() - flight.age
            self.submission.lines.hold(flight)
            self.pollers.watch(flight, soon=True)
            flight.announce()

    def attach(self, token: identity.Token) -> Flight:
        """The flight of *token*: the one there is, or a new one that is polled from now on."""
        task = Task(token.task_id, token.external_task_id, TaskStatus.SUBMITTED)
        name = task.external_task_id or token.task_id or ""
        if name in self._named:
            return self._named[name]
        flight = Flight(
            order=next(self._order),
            key=token.key or None,
            endpoint=token.endpoint,
            slot_key=(token.endpoint, ""),
            task=task,
            issuer=self._issuer,
            acknowledged_at=self.crew.loop.time(),
        )
        self._live[flight.order] = self._named[name] = flight
        self._idle.clear()
        self.submission.lines.hold(flight)
        self.pollers.watch(flight, soon=True)
        return flight

    def observe(self, flight: Flight, seen: Task, error: KlingError | None = None) -> None:
        """Judge what was *seen* of a task, act on it, record and announce it: the one door for news.

        The first that proves the task to exist acknowledges it, whoever brings it: from then on it is polled.
        """
        flight = flight.same or flight
        before = flight.judged
        if lifecycle.is_terminal(before.status):
            return
        judged = lifecycle.observe(before, seen)
        if judged.raw and not lifecycle.is_terminal(judged.status):
            judged = attrs.evolve(judged, raw=self._no_reply)  # half a kilobyte, and the end will tell more
        flight.judged = judged
        flight.error = error
        if error is not None and not flight.ended:  # a refused question: what it says of money is the task's
            error.outcome = lifecycle.STATES[judged.status].outcome
        if judged.status is TaskStatus.UNKNOWN is not before.status:
            logger.warning("task %s has a status nobody documents; polling goes on", judged.task_id)
        proven = lifecycle.STATES[judged.status].outcome is Outcome.CREATED and flight.acknowledged_at is None
        if proven:
            flight.acknowledged_at = self.crew.loop.time()
            self.submission.lines.settle(flight)
        if flight.ended:
            self._land(flight)
        elif proven:
            self.pollers.watch(flight)
        if flight.record is not None and _is_news(before, judged):
            self.books.put(flight, self._publish)
        elif flight.writes == 0:
            self._publish(flight)

    def find(self, external_task_id: str | None) -> Flight | None:
        """The flight under that name, if it is one of ours and not over."""
        return None if external_task_id is None else self._named.get(external_task_id)

    def acknowledge(self, flight: Flight, seen: Task) -> None:
        """Kling has told us of the task under the name that we gave it; see `observe`."""
        seen = attrs.evolve(seen, external_task_id=flight.judged.external_task_id)
        if seen.task_id is not None:
            self._known = flight.endpoint, seen
        self.observe(flight, seen)

    async def intend(self, flight: Flight) -> None:
        """Make durable that the POST of *flight* is about to leave; see `Books.intend`."""
        await self.books.intend(flight)

    def _publish(self, flight: Flight) -> None:
        """Let everyone see what is known of *flight*."""
        was_done = flight.done
        flight.task = flight.judged
        if flight.done and not was_done:
            self._tell_completed(flight)
        flight.announce()
        if not self._live:
            self._idle.set()

    def _land(self, flight: Flight) -> None:
        """*flight* is over: free its slot, forget it."""
        task = flight.judged
        for name in (task.external_task_id, task.task_id):
            if name is not None and self._named.get(name) is flight:
                del self._named[name]
        if task.status is TaskStatus.FAILED and flight.error is None:
            flight.error = flight.about(task.failure())
        if task.status is TaskStatus.SUCCEED:
            self.succeeded += 1
        else:
            self.failed += 1
        flight.prepared = None
        self.pollers.landed(flight)
        self._keep_unresolved(flight)
        self._keep_settled(flight)
        del self._live[flight.order]
        self.submission.lines.release(flight)

    def _keep_settled(self, flight: Flight) -> None:
        """Remember what became of a key: the same key and request is the same task, not a second one."""
        name = flight.judged.external_task_id
        is_settled = flight.judged.status in (TaskStatus.SUCCEED, TaskStatus.FAILED)
        if name is not None and flight.key is not None and is_settled:
            self._settled[name] = attrs.evolve(flight.judged, raw={})
            if len(self._settled) > SETTLED:
                del self._settled[next(iter(self._settled))]

    def _recall_settled(self, flight: Flight, settled: Task) -> None:
        """*flight* was made before by this client: it is over, as it was then."""
        flight.judged, flight.resumed = settled, True
        if flight.record is not None:  # the run that made it had no journal
            self.books.put(flight, lambda _: None)
        if settled.status is TaskStatus.FAILED:
            flight.error = flight.about(settled.failure())

    def _keep_unresolved(self, flight: Flight) -> None:
        """Keep what only the caller can decide to submit anew."""
        name = flight.judged.external_task_id
        if flight.judged.status is TaskStatus.MAY_EXIST and name is not None:
            self.unresolved[name] = flight

    def _tell_completed(self, flight: Flight) -> None:
        task, since = flight.task, flight.acknowledged_at
        generation = None
        if task.created_at is not None and task.updated_at is not None:
            generation = (task.updated_at - task.created_at).total_seconds()
        self._hooks.tell(
            Completed(
                key=flight.name,
                task_id=task.task_id,
                external_task_id=task.external_task_id,
                status=task.status,
                error=flight.error,
                polls=flight.polls,
                generation=generation,
                elapsed=None if since is None else self.crew.loop.time() - since,
            )
        )


def _is_news(before: Task, now: Task) -> bool:
    """Whether a change is worth a row: that a task moves from waiting to being generated is not."""
    begun = before.status in (TaskStatus.INTENDED, TaskStatus.AMBIGUOUS)
    changed = now.status is not before.status and (begun or lifecycle.is_terminal(now.status))
    return changed or now.task_id != before.task_id
