"""Every way in which a task comes to the engine: from a request, from a token, from a journal."""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs

from kling_async.bookkeeping import Books
from kling_async.crew import Crew
from kling_async.flight import Flight, Keeper, SlotKey, withdrawn
from kling_async.journal import Journal, Record
from kling_async.pollers import Pollers
from kling_async.preparation import Preparation
from kling_async.protocol import identity
from kling_async.protocol.errors import KlingError, RequestError, TaskLostError
from kling_async.protocol.models import Task, TaskStatus, VideoRequest
from kling_async.recording import Recording
from kling_async.register import Register
from kling_async.submission import Submission
from kling_async.typing import Again, never

__all__ = ["Admit", "Intake"]

logger = logging.getLogger("kling_async")

Admit = Callable[[Flight], "asyncio.Future[None] | None"]
"""Asked of a request that would be paid for: None lets it go, a future has it wait and be asked of again;
it is refused by raising."""


@attrs.define(eq=False)
class _Aside:
    """What is kept of a request that waits to be admitted.

    Attributes:
        asked_again: done when it is to be asked of again.
        journal: where it will be recorded.
        record: its row there.
        is_wanted: whether somebody wants the same who does not ask.
    """

    asked_again: "asyncio.Future[None] | None"
    journal: Journal | None
    record: Record | None
    is_wanted: bool = False

    def want(self) -> None:
        """Let it go, whatever who is asked says."""
        self.is_wanted = True
        self.wake()

    def wake(self) -> None:
        """Look now whether it still waits."""
        if self.asked_again is not None and not self.asked_again.done():
            self.asked_again.set_result(None)


class Intake:
    """Takes tasks in, each once.

    Args:
        register: where they are entered.
        preparation: makes requests ready to be sent.
        issuer: of their tokens.
        crew: runs what waits.
        books: recognises what an earlier run knew.
        submission: sends what is new.
        pollers: ask for what exists.
        keeper: told of what is known of a task.
        publish: lets everyone see a task, when what is known of it is durable.
    """

    def __init__(
        self,
        register: Register,
        *,
        preparation: Preparation,
        issuer: identity.Issuer,
        crew: Crew,
        books: Books,
        submission: Submission,
        pollers: Pollers,
        keeper: Keeper,
        publish: Callable[[Flight], None],
    ) -> None:
        self._register = register
        self._preparation = preparation
        self._asides: dict[Flight, _Aside] = {}
        self._issuer = issuer
        self._crew = crew
        self._books = books
        self._submission = submission
        self._pollers = pollers
        self._keeper = keeper
        self._publish = publish
        self._order = itertools.count()
        self._slot_keys: dict[SlotKey, SlotKey] = {}

    # From a request

    def join(self, request: VideoRequest, key: str | None) -> Flight:
        """Put *request* in line in its place, unchecked; it leaves after `check`.

        Raises:
            KlingError: the client is closed.
            RequestError: *key* is no text.
        """
        if self._crew.closing:
            raise self._crew.bug_or(KlingError("the client is closed"))
        if not isinstance(key, str | None):
            raise RequestError(f"key must be text, not {type(key).__name__}")
        endpoint = request.endpoint
        slot_key = endpoint, request.model_name
        flight = Flight(
            order=next(self._order),
            key=key,
            endpoint=endpoint,
            slot_key=self._slot_keys.setdefault(slot_key, slot_key),  # one for all who share it
            task=Task(None, request.external_task_id, TaskStatus.INTENDED),
            issuer=self._issuer,
            request=request,
        )
        self._submission.lines.join(flight)
        self._register.add(flight)
        return flight

    async def check(
        self,
        flight: Flight,
        recording: Recording | None = None,
        *,
        refusal: RequestError | None = None,
        admit: Admit | None = None,
    ) -> None:
        """Check the pictures of a flight in line, name it, and let it go when its turn comes.

        Where the same key and request are in flight already, it becomes that one's mirror; where an earlier
        run has brought it to an end, it is over at once.

        Args:
            flight: in line.
            recording: where it is recorded, and what is made again.
            refusal: raised instead of submitting what no earlier run has brought to its end.
            admit: asked before what is new goes on; what it has wait, waits after this call.

        Raises:
            RequestError: with every problem of its pictures; nothing was sent.
            JournalError: the journal cannot be read.
        """
        try:
            warnings = await self._preparation.prepare(flight, recording)
            if flight.error is not None:
                flight.about(flight.error)
            if refusal is not None and not flight.resumed:
                raise refusal
            is_new = (flight.stopped or admit is not None) and self._register.is_new(flight)
            if is_new and flight.stopped:
                raise withdrawn()
            asked_again = admit(flight) if admit is not None and is_new else None
        except BaseException as error:
            flight.record = None  # nothing of it was to be recorded yet
            if flight.resumed:  # and what is known is of an earlier run's task, which this does not touch
                flight.resumed, flight.judged = False, flight.task
            self.withdraw(flight, error if isinstance(error, KlingError) else None)
            raise
        if flight.in_line:
            self._preparation.warn(flight, warnings)
        if admit is not None and asked_again is not None:
            self._submission.lines.set_aside(flight)
            self._register.name(flight, flight.judged.external_task_id or "")
            aside = self._asides[flight] = _Aside(asked_again, flight.journal, flight.record)
            flight.record = None
            if not self._crew.spawn(self._admitted_later(flight, admit, aside)):
                del self._asides[flight]
                self.withdraw(flight)
        elif flight.in_line:
            self._place(flight)
            other = None if flight.same is None else self._asides.get(flight.same)
            if other is not None and not other.is_wanted and self._admits(flight, admit):
                other.want()

    def _admits(self, flight: Flight, admit: Admit | None) -> bool:
        """Whether *flight*, which wants what waits for somebody else's leave, may go by its own."""
        if admit is not None:
            with contextlib.suppress(KlingError):
                flight.pays = admit(flight) is None
        return admit is None or flight.pays

    async def check_quietly(
        self, flight: Flight, recording: Recording | None, admit: Admit | None = None
    ) -> None:
        """`check`, for nobody who waits: what is wrong is told by the flight's own end."""
        with contextlib.suppress(KlingError):
            await self.check(flight, recording, admit=admit)

    async def _admitted_later(self, flight: Flight, admit: Admit, aside: _Aside) -> None:
        """Wait until *flight*, which is set aside so that nobody behind it waits too, may go on.

        Meanwhile it has its name, so that nobody else is sent for it, and no row: nothing was intended yet.
        """
        try:
            while not (aside.is_wanted or aside.asked_again is None):
                await aside.asked_again
                aside.asked_again = admit(flight) if flight.in_line and not aside.is_wanted else None
        except KlingError as error:
            self.withdraw(flight, flight.about(error))
        finally:
            del self._asides[flight]
            self._submission.lines.take_back(flight)
        if flight.in_line:
            flight.journal, flight.record = aside.journal, aside.record
            self._place(flight)

    def stop_waiting(self, flight: Flight) -> None:
        """Withdraw *flight* if it still waits to be admitted, and nobody else wants it whatever that says."""
        aside = self._asides.get(flight)
        if aside is not None and not aside.is_wanted:
            self.withdraw(flight)
            aside.wake()

    def _place(self, flight: Flight) -> None:
        """*flight* is checked: it goes on its way, or what it wants is there or on its way already."""
        name = flight.judged.external_task_id or ""
        same = self._register.find(name)
        same = None if same is flight else same  # it has waited under its name
        settled = self._register.settled(name)
        unresolved = self._register.may_exist(name)
        if same is None and settled is not None and not flight.resumed:
            self._recall(flight, settled)
        elif same is None and unresolved is not None and not flight.resumed:
            self._recall(flight, unresolved.judged)
            flight.error = unresolved.error
        if same is not None:
            if same.request is None and flight.wanted:
                same.request, same.prepared = flight.request, flight.prepared
            self._mirror(flight, same)
        elif flight.resumed and (flight.ended or flight.error is not None):
            self._leave_line(flight)
            flight.task = flight.judged
            flight.announce()
            self._submission.lines.dispatch(flight.slot_key)
        elif flight.resumed:
            self._submission.lines.withdraw(flight)
            self._take_up(flight)
            self._submission.lines.dispatch(flight.slot_key)
        else:
            self._register.name(flight, name)
            flight.task = flight.judged
            self._submission.ready(flight)

    def _recall(self, flight: Flight, settled: Task) -> None:
        """*flight* was made before by this client: it is as it was; what was given up is polled again."""
        flight.judged, flight.resumed = settled, True
        if settled.status is TaskStatus.GIVEN_UP:
            flight.judged = attrs.evolve(settled, status=TaskStatus.SUBMITTED)
        if flight.record is not None:  # the run that made it had no journal
            self._books.put(flight, lambda _: None)
        if settled.status is TaskStatus.FAILED:
            flight.error = flight.about(settled.failure())
        elif settled.status is TaskStatus.LOST:
            flight.error = flight.about(TaskLostError("the server no longer knew it"))

    def _mirror(self, flight: Flight, same: Flight) -> None:
        """*flight* wants what *same* already is: it leaves the line and shows what happens there."""
        self._leave_line(flight)
        flight.same = same
        same.wanted += flight.wanted
        aside = self._asides.get(same)
        if aside is not None:
            if aside.record is None:
                aside.journal, aside.record = flight.journal, flight.record
        elif same.record is None and flight.record is not None:  # the first who wanted it had no journal
            same.journal, same.record = flight.journal, flight.record
            self._books.put(same, self._publish)

        def reflect(_: Flight) -> None:
            flight.task, flight.error = same.task, same.error
            flight.judged, flight.record, flight.resumed = same.judged, same.record, same.resumed
            flight.acknowledged_at = same.acknowledged_at
            flight.announce()

        same.listen(reflect)
        reflect(same)
        self._submission.lines.dispatch(flight.slot_key)

    def _leave_line(self, flight: Flight) -> None:
        """Nothing is to be made for *flight*."""
        flight.prepared = None
        self._submission.lines.withdraw(flight)
        self._register.remove(flight)

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
        if not self._submission.lines.withdraw(flight):
            return False
        seen = Task(None, flight.task.external_task_id, TaskStatus.REFUSED)
        error = error or withdrawn()
        self._keeper.observe(flight, seen, flight.about(error))
        self._submission.lines.dispatch(flight.slot_key)
        return True

    # From a journal

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
        async with self._crew.visit():
            return await self._books.open(
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
            known = self._register.find(flight.judged.external_task_id)
            if known is not None and known.record is None:  # attached before the journal was open
                known.journal, known.record = flight.journal, flight.record
            elif known is None and not self._crew.halted:
                self._take_up(flight)

    def _take_up(self, flight: Flight) -> None:
        """Resolve what an earlier run only intended, poll what it submitted."""
        name = flight.judged.external_task_id or ""
        flight.resumed = False  # from now on its news is this run's
        self._register.add(flight, name)
        if flight.judged.status in (TaskStatus.INTENDED, TaskStatus.AMBIGUOUS):
            self._keeper.observe(flight, Task(None, name, TaskStatus.AMBIGUOUS))
            self._submission.resolve(flight, KlingError("the run that submitted it was interrupted"))
        else:
            flight.prepared = None
            flight.task = flight.judged
            flight.acknowledged_at = self._crew.loop.time() - flight.age
            self._begin_polling(flight)
            flight.announce()

    # From a token

    def attach(self, token: identity.Token) -> Flight:
        """The flight of *token*: the one there is, or a new one that is polled from now on."""
        task = Task(token.task_id, token.external_task_id, TaskStatus.SUBMITTED)
        name = task.external_task_id or token.task_id or ""
        known = self._register.find(name)
        if known is not None:
            return known
        flight = Flight(
            order=next(self._order),
            key=token.key or None,
            endpoint=token.endpoint,
            slot_key=(token.endpoint, ""),
            task=task,
            issuer=self._issuer,
            acknowledged_at=self._crew.loop.time(),
        )
        self._register.add(flight, name)
        self._begin_polling(flight)
        return flight

    def _begin_polling(self, flight: Flight) -> None:
        """The task of *flight* exists, and nobody here knows how it stands."""
        self._register.learned_id(flight)
        self._submission.lines.hold(flight)
        self._pollers.watch(flight, soon=True)
