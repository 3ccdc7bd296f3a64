"""One call to the provider: sign it as late as can be, send it, read the answer."""

import asyncio
import gc
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import attrs

from kling_async.protocol import account, wire
from kling_async.protocol.account import ResourcePack
from kling_async.protocol.auth import Signer
from kling_async.protocol.errors import (
    AccountError,
    AuthenticationError,
    ConnectError,
    GatewayError,
    InvalidRequestError,
    KlingError,
    Outcome,
    ProtocolError,
    TransportError,
)
from kling_async.protocol.models import Task
from kling_async.protocol.providers import Provider
from kling_async.protocol.wire import Request, Response
from kling_async.typing import Body, Transport, WallClock

__all__ = ["Api"]

logger = logging.getLogger("kling_async")

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_RESIGN = frozenset({1000, 1002, 1003, 1004})
"""A new token may help: skew, expiry, and the two for which one try is reasonable (API reference, errors)."""


class _Reader(Protocol[T_co]):
    """Reads one kind of response."""

    def __call__(self, response: Response, *, now: float | None = None) -> T_co: ...


class Api:
    """The provider's calls, each one attempt.

    Args:
        transport: carries the requests.
        signer: makes the Authorization header.
        provider: whose URLs and capabilities.
        clock: Unix seconds, for the token.
    """

    def __init__(self, transport: Transport, signer: Signer, provider: Provider, clock: WallClock) -> None:
        self.transport = transport
        self.provider = provider
        self._signer = signer
        self.clock = clock
        self._answered = False

    async def create(self, request: Request, body: Body) -> Task:
        """Submit a task; the error's ``outcome`` says whether one may exist."""
        return await self._call(request, wire.read_created, body)

    async def task(self, endpoint: str, task_id: str) -> Task:
        """Read one task by its task_id or, where the provider looks those up, external_task_id."""
        return await self._read(wire.query(self.provider, endpoint, task_id), wire.read_task)

    async def poll(self, endpoint: str, task_id: str, known: Task) -> Task | None:
        """Read one task like `task`; None: it still stands as *known*."""
        request = wire.query(self.provider, endpoint, task_id)
        return await self._read(request, partial(wire.read_poll, known=known), glances=True)

    async def named(self, endpoint: str, external_task_id: str) -> Task:
        """Look one task up by the external_task_id that we gave it; an answer about another is none."""
        seen = await self.task(endpoint, external_task_id)
        if seen.external_task_id not in (None, external_task_id):
            what = f"asked for {external_task_id}, the provider tells of {seen.external_task_id}"
            raise ProtocolError(what, outcome=Outcome.NOT_CREATED)
        return seen

    async def page(self, endpoint: str, page: int, page_size: int) -> Sequence[Task]:
        """Read one page of the list of tasks, counted from 1."""
        request = wire.list_page(self.provider, endpoint, page=page, page_size=page_size)
        return await self._read(request, wire.read_page)

    async def packs(self) -> Sequence[ResourcePack]:
        """Read the account's resource packs."""
        return await self._read(wire.packs(self.provider, now=self.clock()), account.read_packs)

    async def entries(
        self, endpoint: str, page: int, page_size: int, look: Callable[[Sequence[Mapping[str, Any]]], T]
    ) -> T:
        """Read one page of the list and return what *look* makes of its entries.

        They live no longer than that, and the garbage collector is kept from them: it would take them for
        long-lived and every few pages look through all objects of the process, half a second for a
        hundred thousand tasks.
        """

        def read(response: Response, *, now: float | None = None) -> T:
            was_enabled = gc.isenabled()
            gc.disable()
            try:
                return look(wire.read_sweep(response, now=now))
            finally:
                if was_enabled:
                    gc.enable()

        request = wire.list_page(self.provider, endpoint, page=page, page_size=page_size)
        return await self._read(request, read)

    def stops_account(self, error: KlingError) -> bool:
        """Whether every other submit would fail with *error* too, so that none should be tried.

        That is a refused credential, an account that may not pay, and, from a client that never had a good
        answer, one that no Kling sent: then the base URL or the network is wrong.
        """
        match error:
            case AuthenticationError():
                return True
            case AccountError(code=code):
                return code != 1103
            case GatewayError(http_status=401 | 403 | 402):
                return True
            case GatewayError(html=True, http_status=status):
                return status < 500 and not self._answered
            case ConnectError():
                return not self._answered
            case _:
                return False

    def stops_model(self, error: KlingError) -> bool:
        """Whether every other submit for the same model would fail with *error* too."""
        match error:
            case AccountError(code=1103) | InvalidRequestError(code=1203):
                return True
            case _:
                return False

    async def _read(self, request: Request, read: "_Reader[T]", *, glances: bool = False) -> T:
        try:
            return await self._call(request, read, glances=glances)
        except (TransportError, ProtocolError) as error:
            error.outcome = Outcome.NOT_CREATED  # reading pays nothing
            raise

    async def _call(
        self, request: Request, read: "_Reader[T]", body: Body | None = None, *, glances: bool = False
    ) -> T:
        try:
            return await self._once(request, read, body, glances)
        except AuthenticationError as error:
            if error.code not in _RESIGN or not self._signer.renew():
                raise
        return await self._once(request, read, body, glances)

    async def _once(self, request: Request, read: "_Reader[T]", body: Body | None, glances: bool) -> T:
        """One attempt.

        Args:
            request: what to send.
            read: reads the response; called twice only if it *glances*.
            body: goes with it.
            glances: it keeps nothing of a response for which it returns None, which then need not be searched
                for our secret: most polls tell nothing new, and they are most of the work.
        """
        authorization = self._signer.bearer(self.clock())
        send = self._send_logged if logger.isEnabledFor(logging.DEBUG) else self.transport.send
        response = await send(request, authorization=authorization, body=body)
        now = self.clock()
        if glances:
            try:
                answer = read(response, now=now)
            except KlingError:
                pass  # it is read again below, where nothing unmasked can hang on what is raised
            else:
                if answer is None:
                    self._answered = True
                    return answer
        response = _masked(response, authorization)
        try:
            answer = read(response, now=now)
        except ProtocolError:
            raise
        except KlingError:
            self._answered = True
            raise
        self._answered = True
        return answer

    async def _send_logged(
        self, request: Request, *, authorization: str, body: Body | None = None
    ) -> Response:
        loop = asyncio.get_running_loop()
        began = loop.time()
        told = "not answered"
        try:
            response = await self.transport.send(request, authorization=authorization, body=body)
            told = str(response.status)
        except KlingError as error:
            told = type(error).__name__
            raise
        finally:
            what, sent = urlsplit(request.url).path, ""
            if body is not None:
                what += f" of {(request.document or {}).get('external_task_id')}"
                sent = f", sent {body.size} bytes"
            took = (loop.time() - began) * 1000
            logger.debug("%s %s: %s, %.0f ms%s", request.method, what, told, took, sent)
        return response


def _masked(response: Response, authorization: str) -> Response:
    """*response* without the secret that asked for it; itself where it does not say it back.

    Some say a refused key back, and what they say is shown and logged; a shorter one is no key.
    """
    secret = authorization.removeprefix("Bearer ").encode()
    if len(secret) < 16 or secret not in response.body:
        return response
    return attrs.evolve(response, body=response.body.replace(secret, b"***"))
