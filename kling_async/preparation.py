"""What a request must pass before it is sent: its pictures, its name, what provider and model take."""

import collections
import logging
from collections.abc import Iterable, Sequence
from typing import Literal

from kling_async import bodies, checking
from kling_async.bookkeeping import Books
from kling_async.crew import Crew
from kling_async.flight import Flight
from kling_async.protocol import identity, wire
from kling_async.protocol.checks import is_http_url
from kling_async.protocol.errors import Problem, RequestError, UnsupportedError
from kling_async.protocol.findings import Finding
from kling_async.protocol.images import SOURCE
from kling_async.protocol.models import VideoRequest
from kling_async.protocol.providers import Provider
from kling_async.recording import Recording
from kling_async.register import Register
from kling_async.typing import CallbackURL

__all__ = ["Preparation"]

logger = logging.getLogger("kling_async")

REMEMBERED = 100
"""Warnings that are not told again while they are among the last ones: a thousand requests may share one."""

_SURE = "correct it, or, where the map is out of date, give the field in extra_body"
_DOUBTED = 'correct it, or let what is only doubted pass with check="warn"'

LONGEST_ID = "0" * 64
"""Stands for a task_id not known yet (they have 18 or 19 digits), so that the token will not be too long."""


class Preparation:
    """Makes requests ready to be sent, or refuses them.

    Args:
        register: which tasks there are.
        provider: where they go.
        issuer: of their tokens.
        crew: runs what blocks.
        books: recognises what an earlier run knew.
        callback_url: where Kling posts of those whose request does not say.
        check: what is done about what is doubted of a request.
    """

    def __init__(
        self,
        register: Register,
        *,
        provider: Provider,
        issuer: identity.Issuer,
        crew: Crew,
        books: Books,
        callback_url: CallbackURL | None,
        check: Literal["warn", "error"],
    ) -> None:
        self._register = register
        self._provider = provider
        self._issuer = issuer
        self._crew = crew
        self._books = books
        self._callback_url = callback_url
        self._check = check
        self._warned = collections.deque[str](maxlen=REMEMBERED)

    async def prepare(self, flight: Flight, recording: Recording | None) -> Sequence[str]:
        """Read the pictures of *flight*, recognise it, and write what is sent; returns what to `warn` of.

        Raises:
            RequestError: with every problem; nothing was sent.
            JournalError: the journal cannot be read.
        """
        request = flight.request
        assert request is not None  # attached tasks are not checked
        async with self._crew.visit():
            try:
                if bodies.needs_thread(request):
                    resolved = await self._crew.in_thread(bodies.resolve, request)
                else:
                    resolved = bodies.resolve(request)
            except RequestError as error:
                raise await self._whole(error, request) from None
            await self._books.recognise(flight, dict(resolved.images), recording)
        name = flight.judged.external_task_id or ""
        is_over = flight.resumed and (flight.ended or flight.error is not None)
        is_there = is_over or self._register.find(name) is not None
        callback_url = None if is_there or request.callback_url else self._callback_url_for(name)
        try:
            prepared = wire.create(
                request, self._provider, resolved.images, external_task_id=name, callback_url=callback_url
            )
        except UnsupportedError as error:
            raise await self._whole(error, request) from None
        doubts = self._doubted(flight, resolved) if self._register.is_new(flight) else []
        flight.prepared = prepared if flight.in_line else None
        self._issuer.token(
            flight.endpoint, flight.key, task_id=LONGEST_ID, external_task_id=name
        )  # raises now what is wrong with the key
        return [*resolved.warnings, *doubts]

    async def _whole(self, error: RequestError, request: VideoRequest) -> RequestError:
        """*error* with all that is known against *request*: who corrects it corrects it once."""
        if not error.problems:  # it is no endpoint of the provider's: nothing else matters
            return error
        async with self._crew.visit():
            found = await self._crew.in_thread(checking.check, request, self._provider)
        others = (Problem(each.field, each.message, each.source) for each in found if self._is_refused(each))
        problems = dict.fromkeys([*error.problems, *others])
        is_more = len(problems) > len(error.problems)
        return type(error)(problems=problems, advice=type(error).advice if is_more else error.advice)

    def _is_refused(self, finding: Finding) -> bool:
        return finding.severity == "error" or self._check == "error"

    def _doubted(self, flight: Flight, resolved: bodies.Resolved) -> list[str]:
        """What the map of Kling's models doubts of *flight*.

        Raises:
            RequestError: with all that it is sure will be refused.
        """
        assert flight.request is not None  # it is new
        found = checking.findings(flight.request, self._provider, resolved)
        refused = (each for each in found if self._is_refused(each))
        problems = [Problem(each.field, each.message, each.source) for each in refused]
        doubted = (warning.partition(": ") for warning in resolved.warnings if self._check == "error")
        problems += (Problem(field, message, SOURCE) for field, _, message in doubted)
        if problems:
            is_sure = any(each.severity == "error" for each in found)
            raise RequestError(problems=problems, advice=_SURE if is_sure else _DOUBTED)
        return [str(each) for each in found]

    def _callback_url_for(self, external_task_id: str) -> str | None:
        if not callable(self._callback_url):
            return self._callback_url
        try:
            url = self._callback_url(external_task_id)
        except Exception as error:
            raise RequestError(f"callback_url failed: {type(error).__name__}") from error
        if not is_http_url(url):
            raise RequestError("callback_url gave no text that is an http(s) URL")
        return url

    def warn(self, flight: Flight, warnings: Iterable[str]) -> None:
        """Log what is doubted of *flight*, unless the same was told of another just now."""
        for warning in warnings:
            if warning not in self._warned:
                self._warned.append(warning)
                logger.warning("%s: %s", flight.key or "request", warning)
