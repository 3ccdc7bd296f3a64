"""Whether a host can be reached: its name, a connection, a proxy's tunnel and TLS, each told apart."""

import asyncio
import contextlib
import ipaddress
import socket
import ssl as tls
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeVar
from urllib.parse import SplitResult, urlsplit

import attrs

from kling_async.transport import through

__all__ = ["SECONDS", "Line", "Tell", "Unreachable", "reach", "read_certificate"]

T = TypeVar("T")

SECONDS: Final = 10.0
"""For each step: a name, a connection, a handshake and a reply all take well under one where they work."""

_EXPIRED: Final = frozenset({9, 10})
_OTHER_HOST: Final = frozenset({62, 64})
"""What OpenSSL calls X509_V_ERR: not yet or no longer valid; for another name or address."""


@attrs.frozen
class Line:
    """One thing that was found.

    Attributes:
        label: what it is about.
        text: what was found.
        state: ``good`` was tried and works, ``plain`` is a fact, ``doubt`` may become a problem, ``wrong``
            is one.
        advice: what to do about it.
    """

    label: str
    text: str
    state: Literal["good", "plain", "doubt", "wrong"] = "plain"
    advice: str = ""


Tell = Callable[[Line], None]


class Unreachable(Exception):  # noqa: N818 - a finding, not a fault of ours
    """The host cannot be reached; `line` says which step failed and what to do."""

    def __init__(self, label: str, text: str, advice: str) -> None:
        super().__init__(text)
        self.line = Line(label, text, "wrong", advice)


@attrs.frozen
class Certificate:
    """What a server shows: who issued it, and its last day (None where that cannot be read)."""

    issuer: str
    until: datetime | None

    def __str__(self) -> str:
        until = "" if self.until is None else f", valid until {self.until:%Y-%m-%d}"
        return f"certificate issued by {self.issuer or 'somebody unnamed'}{until}"


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def reach(base_url: str, proxy: str | None, ssl: tls.SSLContext | None, tell: Tell) -> None:
    """Go the way to *base_url* step by step, as far as its TLS, and send nothing.

    Args:
        base_url: where.
        proxy: URL of an HTTP proxy on the way.
        ssl: what certificates are held against; None for plain http.
        tell: told of each step that works.

    Raises:
        Unreachable: a step failed.
    """
    aim, way = urlsplit(base_url), through(proxy)
    door = urlsplit(way["proxy"] or base_url)
    await _resolve(door, tell)
    writer = None
    try:
        reader, writer = await _connected(door, tell, ssl if _is_tls_proxy(way) else None)
        if proxy is not None:
            await _tunnel(reader, writer, aim, way, tell)
        if ssl is not None:
            await _secure(writer, aim, ssl, tell)
    except tls.SSLCertVerificationError as error:
        raise await _untrusted(error, aim, door, way) from error
    finally:
        if writer is not None:
            writer.transport.abort()


async def _within(label: str, call: Awaitable[T], advice: str) -> T:
    """What *call* gives, if it does within `SECONDS`."""
    try:
        return await asyncio.wait_for(call, SECONDS)
    except TimeoutError:
        raise Unreachable(label, f"nothing came within {SECONDS:g} s", advice) from None


_PROXY: Final = "if the network needs a proxy, set HTTPS_PROXY"


async def _resolve(door: SplitResult, tell: Tell) -> None:
    host = door.hostname or ""
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host)
        return  # it is an address, and no name
    try:
        call = asyncio.get_running_loop().getaddrinfo(host, _port(door), type=socket.SOCK_STREAM)
        found = await _within("name", call, "check the network and its DNS")
    except (OSError, UnicodeError) as error:  # the latter of a label that no name can have
        why = getattr(error, "strerror", None) or error
        what = f"nobody knows the name {host} ({why})"
        raise Unreachable("name", what, f"check its spelling, the network and its DNS; {_PROXY}") from error
    addresses = list(dict.fromkeys(str(each[4][0]) for each in found))
    more = f" and {len(addresses) - 1} more" if len(addresses) > 1 else ""
    tell(Line("name", f"{host} is {addresses[0]}{more}", "good"))


async def _connected(door: SplitResult, tell: Tell, ssl: tls.SSLContext | None = None) -> Streams:
    host, port = door.hostname or "", _port(door)
    now = asyncio.get_running_loop().time
    began = now()
    try:
        call = asyncio.open_connection(host, port, ssl=ssl, happy_eyeballs_delay=0.25)
        streams = await _within("connection", call, f"a firewall may swallow it: {_PROXY}")
    except ConnectionRefusedError as error:
        what = f"nothing listens at {host}, port {port}"
        raise Unreachable("connection", what, "check host and port, and that its server runs") from error
    except tls.SSLError as error:
        what = f"no TLS with the proxy {host}: {_reason(error)}"
        raise Unreachable("connection", what, "try http:// in HTTPS_PROXY") from error
    except OSError as error:
        what = f"no connection to {host}, port {port}: {error.strerror or error}"
        raise Unreachable("connection", what, f"check the network; {_PROXY}") from error
    tell(Line("connection", f"{host}, port {port}, in {(now() - began) * 1000:.0f} ms", "good"))
    return streams


async def _tunnel(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    aim: SplitResult,
    way: Mapping[str, Any],
    tell: Tell,
) -> None:
    """Ask the proxy for a connection to the host."""
    host = f"[{aim.hostname}]" if ":" in (aim.hostname or "") else aim.hostname
    place = f"{host}:{_port(aim)}"
    headers = {"Host": place, **way.get("proxy_headers", {})}
    lines = [f"CONNECT {place} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    try:
        writer.write("\r\n".join(lines).encode("latin-1"))
        head = await _within("tunnel", reader.readuntil(b"\r\n\r\n"), "ask whoever runs the proxy")
        status = int(head.split(maxsplit=2)[1])
    except (OSError, EOFError, asyncio.LimitOverrunError, ValueError, IndexError) as error:
        what = "what HTTPS_PROXY names does not answer as an HTTP proxy does"
        raise Unreachable("tunnel", what, "check its host and port") from error
    if status == 407:
        what = "the proxy wants a user name and a password, or refuses the given ones (407)"
        raise Unreachable("tunnel", what, "set HTTPS_PROXY=http://user:password@host:port")
    if not 200 <= status < 300:
        what = f"the proxy does not let us through to {place} (HTTP {status})"
        raise Unreachable("tunnel", what, "ask whoever runs it to allow the host, or exclude it by NO_PROXY")
    tell(Line("tunnel", f"the proxy lets us through to {place}", "good"))


async def _secure(writer: asyncio.StreamWriter, aim: SplitResult, ssl: tls.SSLContext, tell: Tell) -> None:
    """Make the connection a TLS one.

    Raises:
        SSLCertVerificationError: the certificate is not trusted.
    """
    try:
        shaken = writer.start_tls(ssl, server_hostname=aim.hostname)
        await _within("TLS", shaken, "something on the way may swallow it: ask whoever runs the network")
    except tls.SSLCertVerificationError:
        raise
    except (tls.SSLEOFError, ConnectionError) as error:
        what = "the connection was cut as TLS began"
        advice = "something on the way may not let it through: ask whoever runs the network"
        raise Unreachable("TLS", what, advice) from error
    except OSError as error:
        what = f"{aim.hostname}, port {_port(aim)} does not speak TLS as it should: {_reason(error)}"
        raise Unreachable("TLS", what, "check the port, and whether http is meant") from error
    shown = writer.get_extra_info("ssl_object")
    text = f"{shown.version()}; {read_certificate(shown.getpeercert(binary_form=True))}"
    tell(Line("TLS", text, "good"))


async def _untrusted(
    error: tls.SSLCertVerificationError, aim: SplitResult, door: SplitResult, way: Mapping[str, Any]
) -> Unreachable:
    """What to do about the certificate, which is looked at over another connection."""
    blind = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
    blind.check_hostname, blind.verify_mode = False, tls.CERT_NONE
    seen: list[Line] = []
    with contextlib.suppress(OSError, Unreachable):
        reader, writer = await _connected(door, seen.append, blind if _is_tls_proxy(way) else None)
        try:
            if way["proxy"] is not None:
                await _tunnel(reader, writer, aim, way, seen.append)
            await _secure(writer, aim, blind, seen.append)
        finally:
            writer.transport.abort()
    shown = seen[-1].text.partition("; ")[2] if seen and seen[-1].label == "TLS" else "its certificate"
    message = getattr(error, "verify_message", None) or "its certificate was refused"
    code = getattr(error, "verify_code", None)  # the system's own store has numbers of its own, or none
    if code in _EXPIRED:
        advice = f"this machine says it is {datetime.now(UTC):%Y-%m-%d %H:%M} UTC: if not, set its clock"
    elif code in _OTHER_HOST:
        advice = "check the base URL; the network's own login page may answer in its place"
    else:
        advice = (
            "if that is your company's proxy, put its certificate into the system's store, or name its PEM "
            "file in SSL_CERT_FILE; if you do not know it, do not go on"
        )
    return Unreachable("TLS", f"not trusted: {message.rstrip('.')} ({shown})", advice)


def _is_tls_proxy(way: Mapping[str, Any]) -> bool:
    return (way["proxy"] or "").startswith("https:")


def _port(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)


def _reason(error: OSError) -> str:
    return getattr(error, "reason", "") or error.strerror or type(error).__name__


def read_certificate(der: bytes | None) -> Certificate:
    """Issuer and last day of an X.509 certificate (RFC 5280); both unknown where it cannot be read.

    The standard library decodes only certificates it has verified itself, and a system's own store or a
    refused certificate is not that.
    """
    try:
        (_, whole), *_ = _values(der or b"")
        (_, to_sign), *_ = _values(whole)
        fields = [content for tag, content in _values(to_sign) if tag != 0xA0]  # there may be a version
        _serial, _algorithm, issuer, validity, *_ = fields
        _, (tag, until) = _values(validity)
        form = "%y%m%d%H%M%SZ" if tag == 0x17 else "%Y%m%d%H%M%SZ"
        end = datetime.strptime(until.decode("ascii"), form).replace(tzinfo=UTC)
        return Certificate(_name(issuer), end)
    except ValueError:
        return Certificate("", None)


_ORGANISATION, _COMMON_NAME = b"\x55\x04\x0a", b"\x55\x04\x03"


def _name(issuer: bytes) -> str:
    """The organisation and, where it says more, the common name."""
    names: dict[bytes, str] = {}
    for _, group in _values(issuer):
        for _, pair in _values(group):
            (_, kind), (tag, text) = _values(pair)
            names[kind] = text.decode("utf-16-be" if tag == 0x1E else "utf-8", "replace")
    told = dict.fromkeys(names[kind] for kind in (_ORGANISATION, _COMMON_NAME) if kind in names)
    return ", ".join(told)


def _values(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The values that stand in *data* one after the other in DER, each with its tag.

    Raises:
        ValueError: it is cut off.
    """
    place = 0
    while place < len(data):
        head = data[place : place + 2]
        if len(head) < 2:
            raise ValueError("cut off")
        tag, length = head
        place += 2
        if length & 0x80:
            digits = length & 0x7F
            length, place = int.from_bytes(data[place : place + digits], "big"), place + digits
        content = data[place : place + length]
        if len(content) < length:
            raise ValueError("cut off")
        yield tag, content
        place += length
