"""What the API itself says, by reads that cost nothing: whether it takes the key, its clock, the packs."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from email.utils import parsedate_to_datetime
from typing import Final

import attrs

from kling_async.api import Api
from kling_async.cli.reaching import SECONDS, Line, Tell
from kling_async.cli.settings import Settings
from kling_async.protocol.account import ResourcePack
from kling_async.protocol.auth import AccessKey, Credentials, Signer
from kling_async.protocol.checks import is_http_url, unsigned
from kling_async.protocol.errors import (
    AccountError,
    AuthenticationError,
    GatewayError,
    KlingError,
    NotFoundError,
)
from kling_async.protocol.models import ImageToVideo
from kling_async.protocol.prices import plain
from kling_async.protocol.wire import Request, Response
from kling_async.transport import AiohttpTransport
from kling_async.typing import Body, Transport

__all__ = ["ask"]

_NOBODY: Final = "kling-async-doctor-asks-for-no-task"
"""An id that no task has: whoever answers that there is none has accepted the key."""

_AHEAD, _BEHIND = 5.0, 300.0
"""Seconds that this machine's clock may be off before tokens signed with an access key are refused: they are
valid from 5 s before they are signed, and used until 300 s before they end."""


async def ask(settings: Settings, tell: Tell) -> list[ResourcePack]:
    """Ask the API what costs nothing, tell what it says, and return the account's packs."""
    inner = AiohttpTransport(
        None, settings.proxy, settings.ssl, connect_seconds=SECONDS, reply_seconds=SECONDS
    )
    try:
        return await _ask(_Watched(inner), settings, tell)
    finally:
        await inner.aclose()


async def _ask(way: "_Watched", settings: Settings, tell: Tell) -> list[ResourcePack]:
    api = Api(way, Signer(settings.credentials), settings.provider, time.time)
    accepted = await _accepted(api, way, settings)
    tell(accepted)
    packs: list[ResourcePack] = []
    limits: list[Line] = [_LEARNED] if accepted.state == "good" else []
    if limits and settings.provider.account:
        try:
            async with asyncio.timeout(SECONDS):
                packs = list(await api.packs())
            limits = list(_limits(packs, time.time()))
        except (KlingError, TimeoutError) as error:
            what = error.what if isinstance(error, KlingError) else f"no reply within {SECONDS:g} s"
            limits = [Line("packs", f"cannot be read: {what}", "doubt", "look into the console"), _LEARNED]
    for line in [*way.told(settings.credentials), *limits]:
        tell(line)
    return packs


@attrs.define
class _Watched:
    """A transport that notes how long replies take and what time the server says it is."""

    inner: Transport
    seconds: list[float] = attrs.field(factory=list[float])
    location: str = ""
    ahead: float | None = None

    async def send(self, request: Request, *, authorization: str, body: Body | None = None) -> Response:
        """Send *request*, and look at its response."""
        now = asyncio.get_running_loop().time
        began = now()
        response = await self.inner.send(request, authorization=authorization, body=body)
        took = now() - began
        self.seconds.append(took)
        self.location = response.headers.get("location", "")
        try:
            there = parsedate_to_datetime(response.headers.get("date", "")).timestamp()
        except (ValueError, OverflowError):
            return response
        self.ahead = time.time() - took / 2 - (there + 0.5)  # a date is cut to whole seconds
        return response

    async def aclose(self) -> None:
        """Close the transport itself."""
        await self.inner.aclose()

    def told(self, credentials: Credentials) -> Iterator[Line]:
        """What was noted."""
        if self.seconds:
            with_connecting = ", connecting included" if len(self.seconds) == 1 else ""
            yield Line("answer", f"within {min(self.seconds) * 1000:.0f} ms{with_connecting}")
        if self.ahead is None:
            return
        if abs(self.ahead) < 2:
            yield Line("clock", "agrees with the server's", "good")
            return
        off = f"{_span(abs(self.ahead))} {'ahead of' if self.ahead > 0 else 'behind'} the server's"
        if isinstance(credentials, AccessKey) and (self.ahead > _AHEAD or self.ahead < -_BEHIND):
            what = f"{off}: the tokens signed with an access key are refused (1003, 1004)"
            yield Line("clock", what, "wrong", "set this machine's clock, or use an API key")
        elif abs(self.ahead) > _BEHIND:
            what = f"{off}: signed callbacks are refused beyond {_BEHIND:g} s"
            yield Line("clock", what, "doubt", "set this machine's clock")
        else:
            yield Line("clock", off)


async def _accepted(api: Api, way: _Watched, settings: Settings) -> Line:
    """Whether the key opens the API, by one free read."""
    provider = settings.provider
    try:
        async with asyncio.timeout(SECONDS):
            if provider.lists:
                await api.page(ImageToVideo.endpoint, 1, 1)
            else:
                await api.task(ImageToVideo.endpoint, _NOBODY)
    except NotFoundError:
        pass
    except TimeoutError:
        return Line("key accepted", f"no reply within {SECONDS:g} s", "wrong", "try again later")
    except AuthenticationError as error:
        return Line("key accepted", f"no: {error.what}", "wrong", _about_key(error.code, settings))
    except AccountError as error:
        return Line("account", error.what, "wrong", error.advice)
    except GatewayError as error:
        if not error.html:
            return Line("API", error.what, "wrong", error.advice)
        away = f"a redirect{_host(way.location)}" if 300 <= error.http_status < 400 else "a web page"
        what = f"{away} came instead of the API's answer (HTTP {error.http_status})"
        advice = "check the base URL and the provider; a proxy or the network's login page may answer instead"
        return Line("API", what, "wrong", advice)
    except KlingError as error:
        return Line("API", error.what, "wrong", error.advice)
    what = "listing tasks works" if provider.lists else "asking for a task works"
    return Line("key accepted", f"yes, {what}", "good")


def _host(location: str) -> str:
    """Where a redirect leads, as far as it may be shown."""
    return f" to {unsigned(location)}" if is_http_url(location) else ""


def _about_key(code: int, settings: Settings) -> str:
    match code:
        case 1001:
            return "something on the way takes the Authorization header away: ask whoever runs the proxy"
        case 1003 | 1004:
            return "set this machine's clock, or use an API key"
        case _ if settings.provider.takes_access_key:
            return (
                "copy the key again, and see in the console that it is active; China (kling-cn) and the rest "
                "of the world (kling) have consoles and keys of their own"
            )
        case _:
            return f"copy the key again: {settings.provider.name} takes its own keys, and not Kling's"


_LEARNED: Final = Line("slots", "learned from refusals, which cost nothing, beginning at 5 tasks at once")


def _limits(packs: Sequence[ResourcePack], now: float) -> Iterator[Line]:
    """What the account has, pack by pack, and how many tasks at once that makes."""
    usable = [pack for pack in packs if pack.status == "online" and pack.remaining != 0]
    for pack in packs:
        if pack.status in ("online", "toBeOnline") or pack.remaining:
            yield _told_pack(pack, now)
    if not usable:
        what = "none is valid and has units left: submits are refused (1102), unless you are billed later"
        yield Line("packs", what, "doubt", "buy one in the console")
    slots = [pack.slots for pack in usable if pack.slots is not None and "image" not in pack.name.lower()]
    if slots:
        yield Line("slots", f"{max(slots)} tasks at once by the names of packs; what really holds is learned")
    else:
        yield _LEARNED


def _told_pack(pack: ResourcePack, now: float) -> Line:
    """One pack on one line."""
    left = "?" if pack.remaining is None else plain(pack.remaining)
    of = "" if pack.total is None else f" of {plain(pack.total)}"
    until = "" if pack.invalid_at is None else f" until {pack.invalid_at:%Y-%m-%d}"
    state = "" if pack.status == "online" else f", {pack.status or 'of unknown state'}"
    days = None if pack.invalid_at is None else (pack.invalid_at.timestamp() - now) / 86_400
    ends_soon = days is not None and 0 < days < 3
    name = pack.name or pack.id or "unnamed"
    text = f"{name}: {left}{of} units left (up to 12 h old){until}{state}"
    if pack.status == "online" and pack.remaining == 0:
        return Line("packs", text, "doubt", "buy another one in the console")
    return Line("packs", text, "doubt" if ends_soon else "good", "it ends soon" if ends_soon else "")


def _span(seconds: float) -> str:
    """How far off a clock is."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
