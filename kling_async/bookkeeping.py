"""What the journals know of flights: recognises items, records news, picks up what an earlier run left."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from kling_async import records
from kling_async.flight import Flight
from kling_async.journal import InUseError, Journal, Record, Sibling
from kling_async.paths import at_home
from kling_async.protocol import identity
from kling_async.protocol.errors import JournalError, KlingError, Outcome
from kling_async.protocol.images import ResolvedImage
from kling_async.protocol.models import Task, TaskStatus
from kling_async.protocol.providers import Provider
from kling_async.recording import Recording
from kling_async.typing import Again, WallClock

__all__ = ["Books"]

logger = logging.getLogger("kling_async")

_UNANSWERED = (TaskStatus.INTENDED, TaskStatus.AMBIGUOUS)
_ASKED_AGAIN = (TaskStatus.FAILED, TaskStatus.LOST, TaskStatus.GIVEN_UP, TaskStatus.MAY_EXIST)


class Books:
    """The journals of one engine.

    Args:
        issuer: whose tasks.
        secret: the credential, for derived ids.
        provider: where they are made.
        clock: Unix seconds.
        in_thread: calls a blocking function elsewhere.
        random_id: a new id for an item that nothing names.
    """

    def __init__(
        self,
        *,
        issuer: identity.Issuer,
        secret: bytes,
        provider: Provider,
        clock: WallClock,
        in_thread: Callable[..., Awaitable[Any]],
        random_id: Callable[[], str],
    ) -> None:
        self._issuer = issuer
        self._secret = secret
        self._provider = provider
        self._clock = clock
        self._in_thread = in_thread
        self._random_id = random_id
        self._journals: dict[Path, asyncio.Task[list[Journal]]] = {}
        self._resolved: dict[Path, Path] = {}

    async def open(
        self,
        path: Path,
        *,
        again: Again,
        by_content: bool,
        namespace: str | None,
        orders: Iterator[int],
        pick_up: Callable[[Sequence[Flight]], None],
    ) -> Recording:
        """Record in the journal at *path*, opened once; cancelled, the opening goes on by itself.

        Args:
            path: the file, or a folder of journals.
            again: which items are made anew.
            by_content: see `Recording`.
            namespace: of a new journal.
            orders: numbers for the flights found in it.
            pick_up: takes the flights that an earlier run left unfinished.

        Raises:
            JournalError: it cannot be opened.
        """
        given = path.absolute()  # noqa: ASYNC240 - asks for the working directory, not for files
        if given not in self._resolved:
            self._resolved[given] = await self._in_thread(_resolved, path)
        path = self._resolved[given]
        opening = self._journals.get(path)
        if opening is None or (opening.done() and opening.exception() is not None):
            opened = self._opened(path, namespace, orders, pick_up)
            opening = self._journals[path] = asyncio.create_task(opened, name="kling-async journal opening")
        first, *others = await asyncio.shield(opening)
        return Recording(first, others, again, by_content)

    async def aclose(self) -> None:
        """Make everything durable and free the journals, also those that are just being opened."""
        for opening in self._journals.values():
            await asyncio.wait([opening])
            if opening.exception() is None:
                for journal in opening.result():
                    await journal.aclose()

    async def _opened(
        self,
        path: Path,
        namespace: str | None,
        orders: Iterator[int],
        pick_up: Callable[[Sequence[Flight]], None],
    ) -> list[Journal]:
        """The journal at *path*; of a folder, one to write to and every free one with unfinished tasks.

        A free one without them is left to later processes: a folder grows to as many journals as there are
        processes and journals with unfinished tasks at once, and no further. What it knows is read there.
        """
        own = await Journal.open(path, namespace=namespace, now=self._clock())
        journals = [own]
        try:
            for other in await own.unfinished_beside(self._issuer.account, self._issuer.host):
                with contextlib.suppress(InUseError):
                    journals.append(await Journal.open(other, now=self._clock()))
            own.leave_out([each.path for each in journals])
            for journal in journals:
                live = await journal.live()
                mine = [record for record in live if self._is_ours(record)]
                if len(mine) < len(live):
                    what = "%d tasks of %s belong to another account or provider, and are left alone"
                    logger.warning(what, len(live) - len(mine), journal.path)
                pick_up([self._left(record, journal, next(orders)) for record in mine])
        except BaseException:
            for journal in journals:
                await journal.aclose()
            raise
        return journals

    async def recognise(
        self, flight: Flight, images: dict[str, ResolvedImage], recording: Recording | None
    ) -> None:
        """Give *flight* its external_task_id and, where it is recorded, its row.

        What an earlier run has brought to an end, `Flight.resumed` tells; what it was refused is submitted
        again under the same id, and what *again* wants anew as the next generation.
        """
        request = flight.request
        assert request is not None  # only what is to be submitted has to be recognised
        request_hash = identity.request_hash(request, images)
        name, namespace, generation = flight.key, "", flight.generation
        if recording is not None:
            flight.journal = recording.journal
            name = recording.name(flight.key, request_hash)
            known = await self._known(flight, recording, name, request_hash)
            if known is not None:
                if self._recalled(flight, known, recording.again):
                    return
                flight.journal = recording.journal
                generation = max(generation, known.generation + (known.state != TaskStatus.REFUSED))
        if flight.key is None:
            namespace = flight.journal.namespace if flight.journal is not None else self._random_id()
        external_task_id = request.external_task_id or identity.derive_external_task_id(
            namespace=namespace,
            account=self._issuer.account,
            key=name or "",
            request_hash=request_hash,
            generation=generation,
            secret=self._secret,
        )
        flight.judged = attrs.evolve(flight.judged, external_task_id=external_task_id)
        if recording is not None:
            flight.record = Record(
                external_task_id=external_task_id,
                key=name or "",
                named=flight.key is not None,
                label=flight.name or external_task_id,
                account=self._issuer.account,
                provider=self._provider.name,
                host=self._issuer.host,
                endpoint=flight.endpoint,
                model_name=request.model_name,
                request_hash=request_hash,
                request=records.request_text(request, images),
                generation=generation,
            )

    async def _known(
        self, flight: Flight, recording: Recording, name: str, request_hash: str
    ) -> Record | None:
        """The row of an item, wherever in the folder it is; *flight* is then recorded where we may write.

        Raises:
            JournalError: another process is just submitting it, and nothing could tell whether that made it.
        """
        if not recording.recognises(flight.key):
            return None
        own, known = recording.journal, None
        for journal in (own, *recording.others):
            found = await journal.find(name, request_hash)
            if found is not None and (known is None or found.weight > known.weight):
                flight.journal, known = journal, found
        for sibling in await own.find_beside(name, request_hash):
            found = sibling.record
            if known is None or found.weight > known.weight:
                flight.journal, known = own, found
                if found.state in _UNANSWERED and self._is_ours(found) and self._provider.lookup != "yes":
                    raise _made_there(sibling)
        return known

    async def intend(self, flight: Flight) -> None:
        """Make durable that the POST of *flight* is about to leave.

        Then, and not before, another process of the folder is sure to see it, or we see what that is doing:
        of two that intend the same at the same moment at most one goes on.

        Raises:
            JournalError: it is not durable, or another process has made it or is making it, and the provider
                would not tell: the POST must not leave.
        """
        if flight.journal is None or flight.record is None:
            return
        now = self._clock()
        record = flight.record = attrs.evolve(
            flight.record, state=TaskStatus.INTENDED.value, intended_at=now, updated_at=now
        )
        await flight.journal.put(record)
        if record.named and self._provider.lookup == "yes":
            return  # both derive the same id, and Kling refuses the second
        for sibling in await flight.journal.find_beside(record.key, record.request_hash):
            there = sibling.record
            if there.generation >= record.generation and there.state != TaskStatus.REFUSED:
                raise _made_there(sibling)

    def retract(self, flight: Flight) -> None:
        """Record that the POST of *flight* was refused, and nothing was made, until it leaves once more."""
        if flight.journal is not None and flight.record is not None:
            record = attrs.evolve(flight.record, state=TaskStatus.REFUSED.value, updated_at=self._clock())
            flight.record = record
            flight.journal.put(record).add_done_callback(lambda written: _complain(record, written))

    def put(self, flight: Flight, written: Callable[[Flight], None]) -> None:
        """Record what is judged of *flight* now; *written* is called when every record of it is durable.

        A record that the disk refuses is kept in memory and written with a later one; nobody is kept waiting
        for it, because the task exists all the same.
        """
        assert flight.journal is not None  # asked by the caller
        assert flight.record is not None  # a journal comes with a row
        record = flight.record = records.observed(flight.record, flight, self._clock())
        flight.writes += 1

        def done(future: "asyncio.Future[None]") -> None:
            flight.writes -= 1
            _complain(record, future)
            if flight.writes == 0:
                written(flight)

        flight.journal.put(record).add_done_callback(done)

    async def claimed(self, flight: Flight, path: Path, size: int) -> None:
        """Make durable that the video of *flight*, *size* bytes, is about to be called *path*."""
        if flight.journal is None or flight.record is None:
            return
        kept = await self._in_thread(_relative, path, flight.journal.path.parent)
        flight.record = attrs.evolve(
            flight.record, download="part", path=kept, size=size, updated_at=self._clock()
        )
        future = flight.journal.put(flight.record)
        await asyncio.wait([future])
        _complain(flight.record, future)

    async def stored(self, flight: Flight, path: Path) -> None:
        """Make durable that the video of *flight* is in the file *path*.

        Where the disk refuses, the file is there all the same: the row is written with a later one.
        """
        flight.path = path
        if flight.journal is None or flight.record is None:
            return
        # path and size are as claimed: whoever waits for videos may have taken this one away already
        flight.record = attrs.evolve(flight.record, download="stored", updated_at=self._clock())
        future = flight.journal.put(flight.record)
        await asyncio.wait([future])
        _complain(flight.record, future)

    def _recalled(self, flight: Flight, known: Record, again: Again) -> bool:
        """Give *flight* what *known* tells of it; False: it is to be submitted all the same."""
        try:
            status = TaskStatus(known.state)
        except ValueError as unknown:
            what = f"{known.label} is {known.state!r} in the journal, which this version does not know"
            advice = "use the version that wrote it"
            raise JournalError(what, advice=advice, outcome=Outcome.MAY_EXIST) from unknown
        if status is TaskStatus.REFUSED or (status in _ASKED_AGAIN and again(known.label, status)):
            return False
        flight.resumed = True
        self._recall(flight, known)
        error = records.error_of(known)
        if status is not TaskStatus.SUCCEED and not self._is_ours(known):
            error = KlingError(
                f"was submitted by another account, or at another base URL: {known.host}",
                outcome=Outcome.MAY_EXIST,
                advice="run it with that key, there, to pick it up",
            )
        elif status is TaskStatus.GIVEN_UP:  # asked for once more: it may have ended since
            flight.judged, error = attrs.evolve(flight.judged, status=TaskStatus.SUBMITTED), None
        elif status is TaskStatus.MAY_EXIST and self._provider.lookup == "yes":  # the look-ups had no answer
            flight.judged, error = attrs.evolve(flight.judged, status=TaskStatus.AMBIGUOUS), None
        flight.error = error
        if known.download in ("part", "stored") and known.path is not None and flight.journal is not None:
            path = flight.journal.path.parent / known.path
            if path.is_file() and path.stat().st_size == known.size:
                flight.path = path
        return True

    def _is_ours(self, record: Record) -> bool:
        """Whether the task of *record* is of this account and base URL, and can be asked for."""
        return record.account == self._issuer.account and record.host == self._issuer.host

    def _left(self, record: Record, journal: Journal, order: int) -> Flight:
        """The flight of a row whose task had not ended."""
        flight = Flight(
            order=order,
            key=record.label,
            wanted=0,  # as far as this run knows
            endpoint=record.endpoint,
            slot_key=(record.endpoint, record.model_name),
            task=Task(None, record.external_task_id, TaskStatus.INTENDED),
            issuer=self._issuer,
            journal=journal,
        )
        self._recall(flight, record)
        return flight

    def _recall(self, flight: Flight, record: Record) -> None:
        """Give *flight* what its row tells of the task and of its times."""
        now = self._clock()
        flight.record, flight.sent_at = record, record.body_sent_at
        if record.state == TaskStatus.INTENDED:
            flight.sent_at = now  # its POST may have left as late as that run's last moment
        try:
            flight.judged = records.task_of(record)
        except (ArithmeticError, TypeError, ValueError) as error:
            raise JournalError(f"what the journal holds of {record.label} cannot be read: {error}") from error
        flight.age = max(0.0, now - (record.acknowledged_at or now))


def _complain(record: Record, written: "asyncio.Future[None]") -> None:
    """Say that *record* is kept in memory, if it was not *written*."""
    error = None if written.cancelled() else written.exception()
    if error is not None:  # what it says of money is about a task that is not there, and here is one
        why = error.what if isinstance(error, KlingError) else error
        logger.error("%s is not in the journal yet, and is kept in memory: %s", record.label, why)


def _made_there(sibling: Sibling) -> JournalError:
    """Why an item is not submitted here: another process does it, or did."""
    record = sibling.record
    what = "being submitted" if record.state in _UNANSWERED else record.state
    return JournalError(
        f"is {what} in another journal of the folder, by {sibling.holder}",
        outcome=Outcome.MAY_EXIST if record.task_id is None else Outcome.CREATED,
        advice="submit it again here later: then what became of it is known",
    )


def _resolved(path: Path) -> Path:
    return at_home(path).resolve()


def _relative(path: Path, folder: Path) -> str:
    """How a file is written down: relative to the journal's folder, so that both can move."""
    path = path.resolve()
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)
