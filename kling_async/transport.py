"""Carries wire requests over aiohttp, and knows by proof when nothing was sent."""

import asyncio
import os
import ssl as tls
from base64 import b64encode
from collections.abc import Callable, Mapping
from contextlib import aclosing
from functools import lru_cache
from typing import Any
from urllib.parse import unquote, urlsplit

import aiohttp
import attrs
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpProcessingError
from yarl import URL

from kling_async.protocol.errors import ConnectError, KlingError, ResponseLostError
from kling_async.protocol.wire import Request, Response
from kling_async.typing import Body

__all__ = ["AiohttpTransport", "default_ssl", "through"]

CONNECT_SECONDS = 30.0
"""For name, connection and TLS: what aiohttp itself allows a connection."""
PROGRESS_SECONDS = 30.0
"""Without another 64 KiB of the body leaving: two kilobytes a second is the slowest uplink we wait for."""
REPLY_SECONDS = 60.0
"""From the body's end to the reply's end; Kling answers in under a second (API reference, timings)."""
PIECE = 64 * 1024
"""Bytes handed over at once: what asyncio buffers before it asks us to wait."""
REPLY_LIMIT = 64 * 1024 * 1024
"""Bytes of a reply: a list page of 500 tasks has about one megabyte."""

_ALONE: Mapping[str, Any] = {"allow_redirects": False, "raise_for_status": False, "middlewares": ()}
"""Whatever the session's own habits are, a request is sent once and its reply is what came."""

_NOTHING_SENT = (
    aiohttp.ClientConnectorError,  # name, refused, unreachable, proxy, certificate
    aiohttp.ConnectionTimeoutError,
    aiohttp.ClientHttpProxyError,  # the proxy refused the tunnel
    aiohttp.InvalidURL,
)


class _CountedPayload(aiohttp.Payload):
    """A body that tells how much of it was handed to the writer, each piece before it is written."""

    _autoclose = True  # its files are closed by the body's own generator

    def __init__(self, body: Body, progressed: Callable[[bool], None]) -> None:
        super().__init__(body, content_type="application/json")
        self._size = body.size
        self._left = body.size
        self._progressed = progressed
        self.failure: KlingError | None = None

    @property
    def handed_over(self) -> bool:
        """Whether the last byte may have left."""
        return self._left <= 0

    async def write(self, writer: AbstractStreamWriter) -> None:
        await self.write_with_length(writer, None)

    async def write_with_length(self, writer: AbstractStreamWriter, content_length: int | None) -> None:
        try:
            async with aclosing(aiter(self._value)) as pieces:
                async for piece in pieces:
                    view = memoryview(piece)
                    for start in range(0, len(view), PIECE):
                        part = view[start : start + PIECE]
                        self._left -= len(part)
                        self._progressed(self.handed_over)
                        await writer.write(part)
        except KlingError as error:
            self.failure = error
            raise

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        raise TypeError("a streamed body has no text")


class _TimeLimit:
    """The time that each of many reads has; it ends as `asyncio.timeout` does.

    A timer for each costs a twentieth of a poll. All have the same time, so whoever began first is late
    first, and one timer is enough.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._ends: dict[asyncio.Task[Any], tuple[float, int]] = {}
        self._late: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        end = loop.time() + self._seconds
        self._ends[task] = end, task.cancelling()
        if self._timer is None:
            self._timer = loop.call_at(end, self._look)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        task = asyncio.current_task()
        assert task is not None
        _end, cancelling = self._ends.pop(task)
        if task in self._late:
            self._late.remove(task)
            if task.uncancel() <= cancelling and kind is asyncio.CancelledError:
                raise TimeoutError from error

    def _look(self) -> None:
        self._timer, loop = None, asyncio.get_running_loop()
        now = loop.time()
        for task, (end, _) in self._ends.items():
            if end > now:
                self._timer = loop.call_at(end, self._look)
                break
            if task not in self._late:
                self._late.add(task)
                task.cancel()

    def close(self) -> None:
        """Nobody reads any more, in this event loop."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


@attrs.define
class AiohttpTransport:
    """The transport of every client that is given none.

    Each create gets a connection of its own: on a kept-alive one the server may close just as the request
    leaves, which for a create is a lost reply. Reads share kept-alive connections.

    Attributes:
        session: its connections and its tracing serve the reads; its headers, cookies, credentials and
            middlewares stay its own. Closed by whoever opened it; left out, one is opened on the first read.
        proxy: URL of an HTTP proxy.
        ssl: the TLS context; left out, the system's certificate store decides.
        connect_seconds: for name, connection and TLS; with a session given, also for its pool.
        progress_seconds: without another 64 KiB of the body leaving.
        reply_seconds: from the body's end to the reply's end; a read has both in all.
    """

    session: aiohttp.ClientSession | None = None
    proxy: str | None = attrs.field(default=None, repr=False)
    ssl: tls.SSLContext | None = None
    connect_seconds: float = attrs.field(default=CONNECT_SECONDS, kw_only=True)
    progress_seconds: float = attrs.field(default=PROGRESS_SECONDS, kw_only=True)
    reply_seconds: float = attrs.field(default=REPLY_SECONDS, kw_only=True)
    _reads: aiohttp.ClientSession | None = attrs.field(default=None, init=False)
    _creates: aiohttp.ClientSession | None = attrs.field(default=None, init=False)
    _way: Mapping[str, Any] = attrs.field(init=False, repr=False)
    _limit: _TimeLimit = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._way = through(self.proxy)
        self._limit = _TimeLimit(self.connect_seconds + self.reply_seconds)

    async def send(self, request: Request, *, authorization: str, body: Body | None = None) -> Response:
        """Send *request*; see `kling_async.typing.Transport.send`."""
        headers = {"Authorization": authorization, "Accept": "application/json"}
        if body is None:
            return await self._read(request, headers)
        return await self._create(request, headers, body)

    async def _read(self, request: Request, headers: dict[str, str]) -> Response:
        """Polls are most of what a client does, so nothing here is done twice for comfort."""
        session = self._reads
        if session is None:
            session = self._reads = self._open(force_close=False)
        if session.closed:
            raise ConnectError("the session that the client was given is closed", advice="keep it open")
        try:
            with self._limit:
                response = await session.request(
                    request.method, _url(request.url), headers=headers, **_ALONE, **self._way
                )
                try:
                    # nearly always all of it came with its head
                    whole = response.content.is_eof()
                    text = response.content.read_nowait() if whole else await _text(response)
                    return Response(response.status, response.headers, text)
                finally:
                    if not response.closed:
                        response.close()
        except (aiohttp.ClientError, HttpProcessingError, OSError) as error:
            raise _failure(request, None, error) from error

    async def _create(self, request: Request, headers: dict[str, str], body: Body) -> Response:
        """A connection of its own, and a deadline that moves as the body does."""
        if self._creates is None:
            self._creates = self._open(force_close=True)
        payload: _CountedPayload | None = None
        try:
            async with asyncio.timeout(self.connect_seconds + self.reply_seconds) as deadline:
                now = asyncio.get_running_loop().time

                def progressed(whole: bool) -> None:
                    deadline.reschedule(now() + (self.reply_seconds if whole else self.progress_seconds))

                payload = _CountedPayload(body, progressed)
                async with self._creates.request(
                    request.method, _url(request.url), data=payload, headers=headers, **_ALONE, **self._way
                ) as response:
                    return Response(response.status, response.headers, await _text(response))
        except (aiohttp.ClientError, HttpProcessingError, OSError) as error:
            raise _failure(request, payload, error) from error

    def _open(self, *, force_close: bool) -> aiohttp.ClientSession:
        """A session that sends nothing of its own accord; reads go over the given one's connections."""
        timeout = aiohttp.ClientTimeout(total=None, connect=self.connect_seconds)
        if self.session is not None and not force_close:
            return aiohttp.ClientSession(
                connector=self.session.connector,
                connector_owner=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                trace_configs=self.session.trace_configs,
                timeout=timeout,
            )
        if self.ssl is None:
            self.ssl = default_ssl()
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=force_close, ssl=self.ssl),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            timeout=timeout,
        )

    async def aclose(self) -> None:
        """Close the sessions this transport opened; one given from outside stays open."""
        self._limit.close()
        opened, self._reads, self._creates = (self._reads, self._creates), None, None
        for session in opened:
            if session is not None:
                await session.close()


@lru_cache(maxsize=1024)
def _url(text: str) -> URL:
    """*text* parsed: what is polled is asked for again and again, and parsing costs a twelfth of a poll."""
    try:
        return URL(text)
    except ValueError as error:
        raise aiohttp.InvalidURL(text) from error


async def _text(response: aiohttp.ClientResponse) -> bytes:
    """The body, unless it is larger than `REPLY_LIMIT`."""
    text = bytearray()
    async for piece in response.content.iter_any():
        text += piece
        if len(text) > REPLY_LIMIT:
            raise aiohttp.ClientPayloadError(f"the reply is larger than {REPLY_LIMIT} bytes")
    return bytes(text)


def _failure(request: Request, payload: _CountedPayload | None, error: BaseException) -> KlingError:
    """What a request that got no whole reply means, by what was handed over."""
    if payload is not None and payload.failure is not None:
        return payload.failure
    host, reason = request.url.split("/")[2], _reason(error)
    if isinstance(error, _NOTHING_SENT) or (payload is not None and not payload.handed_over):
        return ConnectError(f"cannot reach {host}: {reason}")
    return ResponseLostError(f"no whole reply from {host}: {reason}")


def _reason(error: BaseException) -> str:
    if type(error) is TimeoutError:
        return "no reply in time"
    if isinstance(error, aiohttp.ClientConnectorError) and not isinstance(error.os_error, tls.SSLError):
        number = error.errno or 0  # of a name that nobody knows it is below 0
        return os.strerror(number) if number > 0 else error.strerror or str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def through(proxy: str | None) -> dict[str, Any]:
    """What tells aiohttp to go through *proxy*; its password stands apart, since errors show the URL."""
    user, at, host = urlsplit(proxy or "").netloc.rpartition("@")
    if proxy is None or not at:
        return {"proxy": proxy}
    basic = b64encode(unquote(user).encode()).decode()
    bare = proxy.replace(f"{user}@{host}", host, 1)
    return {"proxy": bare, "proxy_headers": {"Proxy-Authorization": f"Basic {basic}"}}


def default_ssl(ca_file: str | None = None) -> tls.SSLContext:
    """A TLS context over the system's certificate store, as browsers and company proxies use it.

    Args:
        ca_file: a PEM file of further certificates (what ``SSL_CERT_FILE`` names).
    """
    import truststore

    context: Any = truststore.SSLContext(tls.PROTOCOL_TLS_CLIENT)
    if ca_file:
        context.load_verify_locations(ca_file)
    return context  # type: ignore[no-any-return]  # truststore.SSLContext is an ssl.SSLContext
