"""Carries wire requests over aiohttp, and knows by proof when nothing was sent."""

import asyncio
import ssl as tls
from base64 import b64encode
from collections.abc import Callable
from contextlib import aclosing
from typing import Any
from urllib.parse import unquote, urlsplit

import aiohttp
import attrs
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpProcessingError

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
        reply_seconds: from the body's end to the reply's end.
    """

    session: aiohttp.ClientSession | None = None
    proxy: str | None = attrs.field(default=None, repr=False)
    ssl: tls.SSLContext | None = None
    connect_seconds: float = attrs.field(default=CONNECT_SECONDS, kw_only=True)
    progress_seconds: float = attrs.field(default=PROGRESS_SECONDS, kw_only=True)
    reply_seconds: float = attrs.field(default=REPLY_SECONDS, kw_only=True)
    _reads: aiohttp.ClientSession | None = attrs.field(default=None, init=False)
    _creates: aiohttp.ClientSession | None = attrs.field(default=None, init=False)

    async def send(self, request: Request, *, authorization: str, body: Body | None = None) -> Response:
        """Send *request*; see `kling_async.typing.Transport.send`."""
        session = self._session_for(request)
        headers = {"Authorization": authorization, "Accept": "application/json"}
        payload: _CountedPayload | None = None
        try:
            async with asyncio.timeout(self.connect_seconds + self.reply_seconds) as deadline:
                now = asyncio.get_running_loop().time

                def progressed(whole: bool) -> None:
                    deadline.reschedule(now() + (self.reply_seconds if whole else self.progress_seconds))

                if body is not None:
                    payload = _CountedPayload(body, progressed)
                return await self._exchange(session, request, headers, payload)
        except (aiohttp.ClientError, HttpProcessingError, OSError) as error:
            raise _failure(_reason(error), request, payload, error) from error

    async def _exchange(
        self,
        session: aiohttp.ClientSession,
        request: Request,
        headers: dict[str, str],
        payload: _CountedPayload | None,
    ) -> Response:
        async with session.request(
            request.method,
            request.url,
            data=payload,
            headers=headers,
            allow_redirects=False,
            raise_for_status=False,
            middlewares=(),
            **through(self.proxy),
            timeout=aiohttp.ClientTimeout(total=None, connect=self.connect_seconds),
        ) as response:
            text = bytearray()
            async for piece in response.content.iter_any():
                text += piece
                if len(text) > REPLY_LIMIT:
                    raise aiohttp.ClientPayloadError(f"the reply is larger than {REPLY_LIMIT} bytes")
            lowered = {name.lower(): value for name, value in response.headers.items()}
            return Response(response.status, lowered, bytes(text))

    def _session_for(self, request: Request) -> aiohttp.ClientSession:
        if request.method == "POST":
            if self._creates is None:
                self._creates = self._open(force_close=True)
            return self._creates
        if self._reads is None:
            self._reads = self._open(force_close=False) if self.session is None else _bare(self.session)
        if self._reads.closed:
            raise ConnectError("the session that the client was given is closed", advice="keep it open")
        return self._reads

    def _open(self, *, force_close: bool) -> aiohttp.ClientSession:
        if self.ssl is None:
            self.ssl = default_ssl()
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=force_close, ssl=self.ssl),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )

    async def aclose(self) -> None:
        """Close the sessions this transport opened; one given from outside stays open."""
        opened, self._reads, self._creates = (self._reads, self._creates), None, None
        for session in opened:
            if session is not None:
                await session.close()


def _bare(session: aiohttp.ClientSession) -> aiohttp.ClientSession:
    """A session over the connections of *session* that sends nothing of its own accord."""
    return aiohttp.ClientSession(
        connector=session.connector,
        connector_owner=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        trace_configs=session.trace_configs,
    )


def _failure(
    reason: str, request: Request, payload: _CountedPayload | None, error: BaseException
) -> KlingError:
    """What a request that got no whole reply means, by what was handed over."""
    if payload is not None and payload.failure is not None:
        return payload.failure
    host = request.url.split("/")[2]
    if isinstance(error, _NOTHING_SENT) or (payload is not None and not payload.handed_over):
        return ConnectError(f"cannot reach {host}: {reason}")
    return ResponseLostError(f"no whole reply from {host}: {reason}")


def _reason(error: BaseException) -> str:
    if type(error) is TimeoutError:
        return "no reply in time"
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
