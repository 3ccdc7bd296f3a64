"""Owns every POST and every poll of one client in one event loop, and all that is known of its tasks.

A `Crew` runs all of it, so that no caller's cancellation reaches a POST. News of a task comes through one
door, `Engine.observe`, whoever brings it.
"""

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Literal, ParamSpec, TypeVar
from urllib.parse import urlsplit

import attrs

from kling_async import bodies
from kling_async.api import Api
from kling_async.bookkeeping import Books
from kling_async.callbacks import Callbacks
from kling_async.crew import Crew
from kling_async.flight import Flight
from kling_async.instrumentation import Completed, Detached, Hooks
from kling_async.intake import Intake
from kling_async.pollers import Pollers
from kling_async.preparation import Preparation
from kling_async.protocol import identity, lifecycle
from kling_async.protocol.account import ResourcePack
from kling_async.protocol.errors import KlingError, Outcome
from kling_async.protocol.models import Task, TaskStatus
from kling_async.protocol.schedule import Polling
from kling_async.register import Register
from kling_async.retries import Retries, retrying
from kling_async.submission import Submission
from kling_async.trust import Trusts
from kling_async.typing import CallbackURL

__all__ = ["Engine", "Options"]

P = ParamSpec("P")
R = TypeVar("R")
logger = logging.getLogger("kling_async")


@attrs.frozen(kw_only=True)
class Options:
    """What an engine is told by its client; see `kling_async.KlingClient`."""

    account: str
    secret: bytes = attrs.field(repr=False)
    max_in_flight: int | None
    max_uploads: int
    polling: Polling
    retries: Retries
    callback_url: CallbackURL | None
    hooks: Hooks
    rng: random.Random
    check: Literal["warn", "error"] = "warn"


class Engine:
    """One client at work in one event loop, from `start` to `stop`.

    Args:
        api: the provider's calls.
        options: how to work.
        closers: close what was opened for this engine; called at its end.

    Attributes:
        crew: runs what it does, and what others do for it.
        register: every task it knows.
        intake: takes tasks in.
        callbacks: takes what Kling tells of them by itself.
    """

    def __init__(
        self, api: Api, options: Options, closers: Sequence[Callable[[], Awaitable[None]]] = ()
    ) -> None:
        self.api = api
        self._closers = closers
        self.crew = Crew(self._ending, self._ended, self._close)
        self.register = Register()
        self._options = options
        self._hooks = options.hooks
        self._no_reply: Mapping[str, Any] = {}  # one for all that wait: nobody writes to a `Mapping`
        self._known: tuple[str, Task] | None = None
        issuer = identity.Issuer(
            provider=api.provider.name,
            host=urlsplit(api.provider.base_url).netloc,
            account=options.account,
        )
        self.books = Books(
            issuer=issuer,
            secret=options.secret,
            provider=api.provider,
            clock=api.clock,
            in_thread=self.crew.in_thread,
            random_id=lambda: f"{options.rng.getrandbits(128):x}",
        )
        self.submission = self._submission()
        trusts = Trusts(expected=options.callback_url is not None)
        self.pollers = Pollers(
            api,
            self.register.live,
            polling=options.polling,
            rng=random.Random(options.rng.getrandbits(64)),  # noqa: S311 - jitter: quick, not secret
            keeper=self,
            hooks=self._hooks,
            trusts=trusts,
        )
        self.callbacks = Callbacks(
            self.register,
            keeper=self,
            pollers=self.pollers,
            trusts=trusts,
            look_up=self.submission.look_up,
            signed=api.provider.signs_callbacks,
        )
        self.intake = self._intake(issuer)
        self._read = self._retrying(api.task)
        self._page = self._retrying(api.page)
        self._packs = self._retrying(api.packs)

    def _intake(self, issuer: identity.Issuer) -> Intake:
        preparation = Preparation(
            self.register,
            provider=self.api.provider,
            issuer=issuer,
            crew=self.crew,
            books=self.books,
            callback_url=self._options.callback_url,
            check=self._options.check,
        )
        return Intake(
            self.register,
            preparation=preparation,
            issuer=issuer,
            crew=self.crew,
            books=self.books,
            submission=self.submission,
            pollers=self.pollers,
            keeper=self,
            publish=self._publish,
        )

    def _submission(self) -> Submission:
        options = self._options
        return Submission(
            self.api,
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

    def _retrying(self, call: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
        """A *call* that reads, made again after what passes."""
        options, fatal = self._options, self.api.stops_account
        return retrying(call, options.retries, creating=False, rng=options.rng, fatal=fatal)

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

    async def packs(self) -> Sequence[ResourcePack]:
        """Read the account's resource packs, for a caller."""
        async with self.crew.visit():
            return await self._packs()

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
                            await self.register.idle.wait()
                            await asyncio.sleep(0)  # the download of the last begins
                            await self.crew.unvisited.wait()
        finally:
            left = list(self.register.live.values())
            await self.crew.finish()
        return left

    def _ending(self) -> None:
        what = "the client was closed before it was submitted"
        self.submission.stop(lambda: self.crew.bug_or(KlingError(what)))

    def _ended(self) -> None:
        """Nothing of ours runs any more: end every wait."""
        self.pollers.stop()
        self.callbacks.stop()
        for flight in list(self.register.live.values()):
            farewell = flight.waited("the client was closed, the task goes on")
            flight.error = flight.about(self.crew.bug_or(farewell))
            self._hooks.tell(
                Detached(
                    key=flight.name,
                    task_id=flight.judged.task_id,
                    external_task_id=flight.judged.external_task_id,
                    status=flight.judged.status,
                    error=flight.error,
                    polls=flight.polls,
                    retries=flight.retries,
                )
            )
            flight.announce()

    async def _close(self) -> None:
        for close in (self.books.aclose, *self._closers):
            await close()

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
        submitted = None
        if proven:
            flight.acknowledged_at = self.crew.loop.time()
            submitted = self.submission.proven(flight)
        has_new_id = judged.task_id != before.task_id
        if has_new_id:
            self.register.learned_id(flight)
        if flight.ended:
            self._land(flight)
        elif proven:
            self.pollers.watch(flight)
        if submitted is not None:
            self._hooks.tell(submitted)
        if flight.record is not None and _is_news(before, judged):
            self.books.put(flight, self._publish)
        elif flight.writes == 0:
            self._publish(flight)
        if proven or has_new_id:
            self.callbacks.learned_id(flight)

    def find(self, external_task_id: str | None) -> Flight | None:
        """The flight under that name, if it is one of ours and not over."""
        return self.register.find(external_task_id)

    def acknowledge(self, flight: Flight, seen: Task) -> None:
        """Kling has told us of the task under the name that we gave it; see `observe`."""
        seen = attrs.evolve(seen, external_task_id=flight.judged.external_task_id)
        if seen.task_id is not None:
            self._known = flight.endpoint, seen
        self.observe(flight, seen)

    def revive(self, flight: Flight, seen: Task) -> None:
        """What ended here as `may_exist`, given up or lost has ended there, by proof: that rank is higher."""
        flight.judged = lifecycle.observe(flight.judged, seen)
        self.register.revived(flight)

        def publish(flight: Flight) -> None:
            is_good = seen.status is TaskStatus.SUCCEED
            flight.error = None if is_good else flight.about(flight.judged.failure())
            self._publish(flight)

        if flight.record is not None:
            self.books.put(flight, publish)
        else:
            publish(flight)

    async def intend(self, flight: Flight) -> None:
        """Make durable that the POST of *flight* is about to leave; see `Books.intend`."""
        await self.books.intend(flight)

    def retract(self, flight: Flight) -> None:
        """Record that nothing came of the POST of *flight*; see `Books.retract`."""
        self.books.retract(flight)

    def _publish(self, flight: Flight) -> None:
        """Let everyone see what is known of *flight*."""
        was_done = flight.done
        flight.task = flight.judged
        if flight.done and not was_done:
            self._tell_completed(flight)
        flight.announce()
        if not self.register.live:
            self.register.idle.set()

    def _land(self, flight: Flight) -> None:
        """*flight* is over: free its slot, forget it."""
        if flight.judged.status is TaskStatus.FAILED and flight.error is None:
            flight.error = flight.about(flight.judged.failure())
        flight.prepared = None
        self.callbacks.landed(flight)
        self.pollers.landed(flight)
        self.register.land(flight)
        self.submission.landed(flight)

    def _tell_completed(self, flight: Flight) -> None:
        task, since = flight.task, flight.acknowledged_at
        elapsed = None if since is None else self.crew.loop.time() - since
        generation = delay = None
        if task.created_at is not None and task.updated_at is not None:
            generation = (task.updated_at - task.created_at).total_seconds()
        if flight.made_here and elapsed is not None and generation is not None:
            delay = max(0.0, elapsed - generation)  # of each clock a difference: they need not agree
        self._hooks.tell(
            Completed(
                key=flight.name,
                task_id=task.task_id,
                external_task_id=task.external_task_id,
                status=task.status,
                error=flight.error,
                polls=flight.polls,
                generation=generation,
                elapsed=elapsed,
                model_name=flight.slot_key[1] or None,
                provider=self.api.provider,
                detection_delay=delay,
                units=task.units,
                retries=flight.retries,
            )
        )


def _is_news(before: Task, now: Task) -> bool:
    """Whether a change is worth a row: that a task moves from waiting to being generated is not."""
    begun = before.status in (TaskStatus.INTENDED, TaskStatus.AMBIGUOUS)
    changed = now.status is not before.status and (begun or lifecycle.is_terminal(now.status))
    return changed or now.task_id != before.task_id
