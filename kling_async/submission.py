"""From a checked request to Kling's acknowledgement: the queue, the slot, the upload, the POST, its end.

One line per slot key keeps the order of its requests; lines do not block each other. A request in line
costs no coroutine. The POST belongs to the engine: whoever asked for it may stop waiting, and it goes on.
"""

import asyncio
import copy
import logging
import random
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import attrs

from kling_async.ambiguity import Resolver
from kling_async.api import Api
from kling_async.flight import Flight, Keeper, withdrawn
from kling_async.instrumentation import Ambiguous, Checked, Hooks, Retried, Submitted, Waiting
from kling_async.lines import Lines
from kling_async.protocol import wire
from kling_async.protocol.errors import (
    AlreadyExistsError,
    ConcurrencyLimitError,
    InvalidRequestError,
    JournalError,
    KlingError,
    Outcome,
    RateLimitError,
)
from kling_async.protocol.models import Task, TaskStatus
from kling_async.retries import Retries, retrying
from kling_async.typing import Body

__all__ = ["Submission"]

logger = logging.getLogger("kling_async")

LARGE = 64 * 1024
"""Bytes from which a body takes an upload place: what asyncio buffers anyway is no upload."""


@attrs.define
class _Spent:
    """What a request has spent between the line and its acknowledgement, in seconds.

    Attributes:
        since: when the stretch that it is on began, by the loop's clock.
        waits: whether it has no slot there; else it has one.
        slot_wait: in stretches without a slot that are over.
        upload: in the others.
    """

    since: float
    waits: bool = True
    slot_wait: float = 0.0
    upload: float = 0.0

    def turn(self, now: float) -> None:
        """It leaves with a slot, or is acknowledged."""
        if self.waits:
            self.slot_wait += now - self.since
        else:
            self.upload += now - self.since
        self.since, self.waits = now, False


class Submission:
    """Submits flights in order, each when it has its slot.

    Args:
        api: makes the call.
        json_body: turns a document into a body that can be sent.
        spawn: runs a coroutine in the engine's task group.
        keeper: told of every end of a submit.
        patience: seconds after which a lost answer is no longer looked for.
        known: a task of ours, to prove look-ups by.
        max_in_flight: tasks at once per slot key; None: learned.
        max_uploads: bodies over 64 KiB on their way at once.
        retries: for what by proof made nothing.
        rng: jitter.
        hooks: told of checked requests, waits, lost answers and retries.

    Attributes:
        retries: submits after the first of each request.
    """

    def __init__(
        self,
        api: Api,
        *,
        json_body: Callable[[Mapping[str, Any]], Body],
        spawn: Callable[[Coroutine[Any, Any, None]], bool],
        keeper: Keeper,
        patience: float,
        known: Callable[[], tuple[str, Task] | None],
        max_in_flight: int | None,
        max_uploads: int,
        retries: Retries,
        rng: random.Random,
        hooks: Hooks,
    ) -> None:
        self._api = api
        self._json_body = json_body
        self._spawn = spawn
        self._keeper = keeper
        self._resolver = Resolver(
            api,
            retries=retries,
            patience=patience,
            rng=rng,
            keeper=keeper,
            lost=self._lost,
            resend=self._resend,
            known=known,
        )
        self._places = asyncio.Semaphore(max_uploads)
        self._retries = retries
        self.retries = 0
        self._rng = rng
        self._hooks = hooks
        self._posts: dict[Flight, asyncio.Task[None]] = {}
        self._calling: set[Flight] = set()
        self._spent: dict[Flight, _Spent] = {}
        self._out = 0
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._stopped: Callable[[], KlingError] | None = None
        self.lines = Lines(max_in_flight=max_in_flight, send=self._send, keeper=keeper, rng=rng)

    def ready(self, flight: Flight) -> None:
        """The pictures of *flight* are checked: it leaves when it is first and has its slot."""
        self._hooks.tell(
            Checked(
                model_name=flight.slot_key[1],
                endpoint=flight.endpoint,
                provider=self._api.provider,
                **_names(flight),
            )
        )
        self.lines.dispatch(flight.slot_key)
        if flight.in_line:
            self._hooks.tell(Waiting(**_names(flight)))

    def proven(self, flight: Flight) -> Submitted | None:
        """The task of *flight* exists, whoever says so; returns what is told of it, if that is new."""
        spent = self._spent.pop(flight, None)
        if spent is None and flight.in_line and flight.prepared is not None and flight.sent_at is None:
            spent = _Spent(flight.taken_at)  # another process made it while it was in line here
        self.lines.settle(flight)
        if spent is None:
            return None
        spent.turn(asyncio.get_running_loop().time())
        names = {**_names(flight), "task_id": flight.judged.task_id}
        return Submitted(
            model_name=flight.slot_key[1],
            slot_wait=spent.slot_wait,
            upload=spent.upload,
            retries=flight.retries,
            **names,
        )

    def landed(self, flight: Flight) -> None:
        """*flight* is over: its slot is free."""
        self._spent.pop(flight, None)
        self.lines.release(flight)

    def resolve(self, flight: Flight, cause: KlingError) -> None:
        """Find out whether *flight*, whose answer was lost, was made. It holds a slot meanwhile."""
        self.lines.hold(flight)
        if flight.ended:
            self.lines.release(flight)  # other news was faster
        else:
            self._spawn(self._resolver.resolve(flight, cause))

    def look_up(self, flight: Flight) -> None:
        """Look for *flight*, whose answer was lost, now: somebody says that it was made."""
        self._spawn(self._resolver.look(flight))

    async def quiet(self) -> None:
        """Wait until every POST that is out has been answered. Nothing new leaves: call `stop` first."""
        await self._quiet.wait()

    def stop(self, error: Callable[[], KlingError]) -> None:
        """Take everyone out of line and give up what waits to be tried again; what is being sent goes on."""
        self._stopped = error
        self.lines.stop(error)
        for flight, post in self._posts.items():
            if flight not in self._calling:
                post.cancel()

    def _send(self, flight: Flight) -> None:
        """*flight* has its slot."""
        now = asyncio.get_running_loop().time()
        # what an earlier run submitted has waited there, and its quarantine is no wait for a slot
        began = flight.taken_at if flight.sent_at is None else now
        self._spent.setdefault(flight, _Spent(began)).turn(now)
        self._out += 1
        self._quiet.clear()
        self._spawn(self._post(flight))

    async def _post(self, flight: Flight) -> None:
        """One flight from its slot to its acknowledgement, its refusal, or its unknown end."""
        task = asyncio.current_task()
        assert task is not None  # we run in one
        self._posts[flight] = task
        try:
            await self._keeper.intend(flight)
            seen = await self._submit(flight)
        except ConcurrencyLimitError as error:
            self.lines.no_slot(flight)
            self._refused(flight, error)
        except RateLimitError as error:
            self.lines.failed(flight)
            self.lines.pause(error)
            self._refused(flight, error)
        except KlingError as error:
            self.lines.failed(flight)
            if _is_open(error) and not self._api.stops_account(error):
                self._missed(flight)
                self.resolve(flight, error)
            else:
                self._ended(flight, error)
        except asyncio.CancelledError:
            self.lines.failed(flight)
            if flight in self._calling or flight.sent_at is not None:
                self._missed(flight)
            else:
                self._ended(flight, KlingError("the client was closed before it was submitted"))
            raise
        else:
            self.lines.accepted(flight)
            flight.prepared = None  # it will not be sent again
            self._keeper.acknowledge(flight, seen)
            if flight.ended:
                self.lines.release(flight)
        finally:
            self._calling.discard(flight)
            del self._posts[flight]
            self._out -= 1
            if not self._out:
                self._quiet.set()
            self.lines.dispatch(flight.slot_key)

    async def _submit(self, flight: Flight) -> Task:
        def told(error: KlingError, wait: float) -> None:
            self._hooks.tell(Retried(error=error, wait=wait, **_names(flight)))

        submit = retrying(
            self._attempt,
            self._retries,
            creating=True,
            rng=self._rng,
            fatal=lambda error: (
                self._stopped is not None
                or flight.stopped
                or isinstance(error, ConcurrencyLimitError | RateLimitError)
            ),
            on_retry=told,
        )
        try:
            return await submit(flight)
        except AlreadyExistsError:
            if self._api.provider.lookup == "no":
                raise
            return await self._adopt(flight)
        except InvalidRequestError:
            # a second attempt can be refused because of the first one, in words that we do not know
            found = None if flight.sent_at is None else await self._resolver.found(flight)
            if found is None:
                raise
            return found

    async def _attempt(self, flight: Flight) -> Task:
        request = flight.prepared
        if flight.acknowledged_at is not None or request is None:  # other news was faster: it exists
            return flight.judged
        body = self._json_body(request.document or {})
        if body.size <= LARGE:
            return await self._call(flight, request, body)
        async with self._places:
            return await self._call(flight, request, body)

    async def _call(self, flight: Flight, request: wire.Request, body: Body) -> Task:
        if flight.acknowledged_at is not None:  # while it waited for its place
            return flight.judged
        if flight.stopped:  # while it waited for its place, or to be tried again
            raise withdrawn()
        self._calling.add(flight)
        self.retries += flight.attempts > 0
        flight.attempts += 1
        try:
            seen = await self._api.create(request, body)
        except KlingError:
            self._calling.discard(flight)
            raise
        self._calling.discard(flight)
        flight.made_here = True
        return seen

    async def _adopt(self, flight: Flight) -> Task:
        """The task that is there already: refused and not charged, so what is wanted is made.

        One that this look does not show is polled by its external_task_id, like any other.
        """
        request = flight.request
        if request is not None and request.external_task_id and flight.judged.status is TaskStatus.INTENDED:
            logger.warning(
                "external_task_id %s exists: its task is taken for this one", request.external_task_id
            )
        self._calling.add(flight)  # there is a task: closing the client waits for one look at it
        try:
            return await self._api.named(flight.endpoint, flight.judged.external_task_id or "")
        except KlingError:
            return Task(None, flight.judged.external_task_id, TaskStatus.SUBMITTED)

    def _missed(self, flight: Flight) -> None:
        """The answer to the POST of *flight* was lost just now."""
        flight.sent_at = self._api.clock()
        self._keeper.observe(flight, Task(None, flight.judged.external_task_id, TaskStatus.AMBIGUOUS))

    def _lost(self, flight: Flight, cause: KlingError, left: float) -> None:
        """*flight* is looked for from now on, *left* seconds if need be."""
        self._hooks.tell(Ambiguous(error=cause, quarantine=left, **_names(flight)))

    def _resend(self, flight: Flight, cause: KlingError) -> None:
        """By look-ups there is no task: *flight* goes to the head of its line, with the same id."""
        if flight.stopped:
            self._ended(flight, withdrawn())
            return
        if self._stopped is None:
            error = copy.copy(cause)  # the lost answer's own left open what it meant
            error.outcome, error.advice = Outcome.NOT_CREATED, ""
            self._hooks.tell(Retried(error=error, wait=0.0, **_names(flight)))
        self.lines.rejoin(flight)
        self.lines.release(flight)

    def _refused(self, flight: Flight, error: KlingError) -> None:
        """Kling has no room for *flight* now: it goes back to its place in line, if it waits."""
        if flight.stopped:
            self._ended(flight, withdrawn())
        elif flight.waits:
            if flight.sent_at is None:  # else an earlier answer was lost
                self._keeper.retract(flight)
            if flight in self._spent:
                self._spent[flight].waits = True  # what it left with was no slot
            self.lines.rejoin(flight)
            if flight.in_line:
                self._hooks.tell(Waiting(error=error, **_names(flight)))
        else:
            self._ended(flight, error)

    def _ended(self, flight: Flight, error: KlingError) -> None:
        """A submit ended with a definite answer, and without an acknowledgement."""
        if _is_open(error):
            # a web page in place of the API: the base URL is wrong
            error.outcome, error.advice = Outcome.NOT_CREATED, type(error).advice
        if flight.acknowledged_at is not None:
            self.lines.rejoin(flight)  # other news was faster: it exists, and only takes its slot
        else:
            created = error.outcome is Outcome.CREATED and not isinstance(error, JournalError)
            status = TaskStatus.MAY_EXIST if created else TaskStatus.REFUSED
            seen = Task(None, flight.judged.external_task_id, status)
            self._keeper.observe(flight, seen, flight.about(error))
        if self._api.stops_account(error):
            self.lines.refuse(None, lambda: _fresh(error))
        elif self._api.stops_model(error):
            self.lines.refuse(flight.slot_key, lambda: _fresh(error))


def _is_open(error: KlingError) -> bool:
    """Whether *error* leaves open what became of a POST; the journal's says that none left.

    What that tells of money is another process's task.
    """
    return error.outcome is Outcome.MAY_EXIST and not isinstance(error, JournalError)


def _fresh(error: KlingError) -> KlingError:
    """The same error for another item: without the names of the first."""
    again = copy.copy(error)
    again.key = again.task_id = again.external_task_id = again.token = None
    return again


def _names(flight: Flight) -> dict[str, Any]:
    return {
        "key": flight.name,
        "task_id": flight.task.task_id,
        "external_task_id": flight.task.external_task_id,
    }
