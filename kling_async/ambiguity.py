"""What becomes of a submit whose answer was lost: a task may exist, and a second one must never.

The task is looked up by its external_task_id, at once and again and again until the quarantine is over;
found, it is ours. A look-up may lag behind the create it looks for, so only when the quarantine is over and
the last look-up found nothing is the submit sent again, under the same id. Where the provider cannot look
up, nothing can tell, and the task ends as `may_exist`: then only the caller can decide to submit it anew.
"""

import asyncio
import contextlib
import itertools
import random
from collections.abc import Callable

from kling_async.api import Api
from kling_async.flight import Flight, Keeper
from kling_async.protocol.errors import GatewayError, KlingError, NotFoundError, Outcome, ResponseLostError
from kling_async.protocol.models import Task, TaskStatus
from kling_async.retries import Retries, retrying

__all__ = ["Resolver"]

FIRST_SHARE = 18
"""The first wait between look-ups is this part of the quarantine, 5 of 90 s; it doubles each time."""
LONGEST_WAIT = 60.0
"""Seconds until the next try after a look-up that failed; the waits double from one second on."""


class Resolver:
    """Finds out whether a task exists.

    Args:
        api: makes the look-ups.
        retries: the quarantine.
        patience: seconds after which look-ups that never get an answer are given up; two quarantines
            at least.
        rng: jitter.
        keeper: told of what was found.
        lost: told of each flight that is looked for, why, and for how many seconds.
        resend: puts a flight in line again, for the same slot; told why as well.
        known: the kind, task_id and external_task_id of a task of ours, to prove look-ups by.
    """

    def __init__(
        self,
        api: Api,
        *,
        retries: Retries,
        patience: float,
        rng: random.Random,
        keeper: Keeper,
        lost: Callable[[Flight, KlingError, float], None],
        resend: Callable[[Flight, KlingError], None],
        known: Callable[[], tuple[str, Task] | None],
    ) -> None:
        self._api = api
        self._quarantine = retries.quarantine
        self._patience = patience
        self._keeper = keeper
        self._lost = lost
        self._resend = resend
        self._known = known
        self._proof = retrying(api.task, retries, creating=False, rng=rng)
        self._proven = False
        self._rng = rng

    async def resolve(self, flight: Flight, cause: KlingError) -> None:
        """Settle *flight*, whose answer was lost at its ``sent_at`` for the reason *cause*."""
        try:
            async with asyncio.timeout(max(self._patience, 2 * self._quarantine)):
                await self._settle(flight, cause)
        except TimeoutError:
            self._may_exist(flight, cause)
        except GatewayError as error:
            self._may_exist(flight, error)

    async def look(self, flight: Flight) -> None:
        """Look for *flight* once, out of turn; what is not found is looked for in turn."""
        with contextlib.suppress(KlingError):
            if await self.can_look_up():
                self._keeper.acknowledge(
                    flight, await self._api.named(flight.endpoint, flight.judged.external_task_id or "")
                )

    async def found(self, flight: Flight) -> Task | None:
        """Look *flight* up by its external_task_id until there is an answer; None: there is no such task.

        Raises:
            GatewayError: the base URL is wrong, or the gateway's own key.
        """
        for attempt in itertools.count():
            try:
                return await self._api.named(flight.endpoint, flight.judged.external_task_id or "")
            except NotFoundError:
                return None
            except KlingError as error:
                if isinstance(error, GatewayError) and self._api.stops_account(error):
                    raise  # no Kling is there: nobody will ever answer
                if self._api.stops_account(error):
                    self._keeper.observe(flight, flight.judged, flight.about(error))
                hint = getattr(error, "retry_after", None) or 0.0
            wait = min(2.0 ** min(attempt, 6), LONGEST_WAIT) * self._rng.uniform(0.8, 1.2)
            await asyncio.sleep(max(wait, hint))
        return None

    async def can_look_up(self) -> bool:
        """Whether a look-up can be trusted; unproven ones are proven by finding a task of ours."""
        if self._api.provider.lookup != "unproven" or self._proven:
            return self._proven or self._api.provider.lookup == "yes"
        known = self._known()
        if known is None or known[1].external_task_id is None:
            return False
        endpoint, task = known
        try:
            seen = await self._proof(endpoint, task.external_task_id or "")
        except KlingError:
            return False
        self._proven = seen.task_id is not None and seen.task_id == task.task_id
        return self._proven

    async def _settle(self, flight: Flight, cause: KlingError) -> None:
        if not await self.can_look_up():
            self._may_exist(flight, cause)
            return
        if flight.acknowledged_at is not None:
            return  # other news was faster
        loop, left = asyncio.get_running_loop(), self._left(flight)
        over = loop.time() + left
        self._lost(flight, cause, max(0.0, left))
        wait = self._quarantine / FIRST_SHARE
        while True:
            left = over - loop.time()
            seen = await self.found(flight)
            if flight.acknowledged_at is not None:
                return  # other news was faster
            if seen is not None:
                self._keeper.acknowledge(flight, seen)
                return
            if left <= 0:
                break
            await asyncio.sleep(min(wait, left))
            wait *= 2
        if flight.prepared is None:
            error = KlingError("was not made by the run that was to submit it", advice="submit it again")
            seen = Task(None, flight.judged.external_task_id, TaskStatus.REFUSED)
            self._keeper.observe(flight, seen, flight.about(error))
        else:
            self._resend(flight, cause)

    def _left(self, flight: Flight) -> float:
        """Seconds of quarantine left, by the wall clock, which alone outlives the process.

        It is read once: a clock that is set meanwhile neither shortens nor lengthens the quarantine.
        """
        now = self._api.clock()
        age = max(0.0, now - (now if flight.sent_at is None else flight.sent_at))
        return self._quarantine - age

    def _may_exist(self, flight: Flight, cause: KlingError) -> None:
        if flight.acknowledged_at is not None:
            return  # other news was faster: it does exist
        error = cause
        if not isinstance(cause, ResponseLostError):
            error = ResponseLostError(f"the answer to the submit cannot be trusted: {cause.what}")
            error.__cause__ = cause
            if isinstance(cause, GatewayError) and cause.html:
                error.advice = "check the base URL and the provider, then look for the task there"
        if self._api.provider.lookup == "no" and error.advice == ResponseLostError.advice:
            error.advice = "look for the task at the provider before you submit it again"
        error.outcome = Outcome.MAY_EXIST
        seen = Task(None, flight.judged.external_task_id, TaskStatus.MAY_EXIST)
        self._keeper.observe(flight, seen, flight.about(error))
