"""What comes in and goes out of the simulator, and how Kling says no."""

import json
from collections.abc import Mapping
from typing import Any, Final, Literal, Self
from urllib.parse import parse_qsl, unquote

from attrs import frozen

KINDS: Final = ("image2video", "multi-image2video")
"""The endpoints simulated; each has its own list of tasks."""

_REFUSALS: Final = {
    1000: (401, "Authentication failed"),
    1001: (401, "Authorization is empty"),
    1002: (401, "Authorization is invalid"),
    1003: (401, "Authorization is not yet valid"),
    1004: (401, "Authorization has expired"),
    1100: (429, "Account is in an abnormal state"),
    1101: (429, "Account is in arrears"),
    1102: (429, "Account balance not enough"),
    1103: (403, "No permission for the requested resource"),
    1200: (400, "Missing Request Parameter"),
    1201: (400, "Invalid request parameter"),
    1202: (404, "The requested method is invalid"),
    1203: (404, "The requested resource does not exist"),
    1300: (400, "The request was blocked by the platform's policy"),
    1301: (400, "The request was blocked by the content safety policy"),
    1302: (429, "The requests are too many"),
    1303: (429, "parallel task over resource pack limit"),
    1304: (429, "The request was blocked by the IP allow list"),
    5000: (500, "Internal error"),
    5001: (503, "Service temporarily unavailable"),
    5002: (504, "Internal timeout"),
}
"""HTTP status and text of each code (API reference, envelope and errors)."""


Abort = Literal["close", "reset"]
"""How a connection ends: in order (FIN), or by a reset (RST)."""


@frozen
class Wire:
    """What a fault does to a reply on its way. `Wire()` does nothing: the whole reply is sent at once.

    A server carries it out on the socket. A transport in memory does so in this order:

    1. Ask `Simulator.handle_headers`. None: go on with `handle`. A reply of status 100: wait `delay`, with
       the request sent, then go on with `handle`. Any other: that is the end, the body is not wanted. With
       `abort` the client was still sending if its body is longer than `read`, so nothing was made by proof;
       had it handed over everything, it cannot know.
    2. Ask `Simulator.handle` and wait `delay`. `Reply.arrives` false: the client sees no whole response,
       whatever was made. Otherwise it sees `status`, `headers` and `Reply.received`, which takes
       `len(received) / bytes_per_second` to come.
    3. `stale` has a meaning only where connections are kept: the next request on this one is lost, and
       nothing hears of it.

    Attributes:
        delay: Seconds to wait before the first byte is sent.
        abort: How the connection ends without a byte of the reply; None if it does not.
        read: Bytes of the request's body to read before that.
        raw: Sent in place of an HTTP response, then the connection is closed.
        cut_at: Bytes of the body after which the connection is closed.
        bytes_per_second: How fast the body is sent, None for as fast as can be.
        stale: Whether the connection, kept alive, ends as soon as the next request arrives on it.
    """

    delay: float = 0.0
    abort: Abort | None = None
    read: int = 0
    raw: bytes | None = None
    cut_at: int | None = None
    bytes_per_second: float | None = None
    stale: bool = False


@frozen
class Reply:
    """An HTTP response.

    Attributes:
        status: The HTTP status.
        headers: The headers, `Content-Type` and `Content-Length` among them.
        body: The bytes; empty in a reply to HEAD, whatever `Content-Length` says.
        wire: How it is sent; with an `abort` or `raw` bytes the client sees nothing of the above.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    wire: Wire = Wire()

    @property
    def received(self) -> bytes:
        """The bytes of the body that are sent."""
        return self.body[: self.wire.cut_at]

    @property
    def arrives(self) -> bool:
        """Whether a client can read a whole HTTP response."""
        wire = self.wire
        if wire.abort is not None or wire.raw is not None:
            return False
        return wire.cut_at is None or wire.cut_at >= int(self.headers.get("Content-Length", "0"))

    @classmethod
    def of(cls, status: int, content_type: str, body: bytes, headers: Mapping[str, str] = {}) -> Self:
        """A reply whose body is *body*."""
        return cls(status, {"Content-Type": content_type, "Content-Length": str(len(body)), **headers}, body)

    @classmethod
    def of_json(cls, status: int, value: Any, headers: Mapping[str, str] = {}) -> Self:
        """A reply whose body is *value* as JSON."""
        body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
        return cls.of(status, "application/json", body, headers)

    @classmethod
    def of_html(cls, status: int, headers: Mapping[str, str] = {}) -> Self:
        """The page with which a proxy or a front end answers instead of the API."""
        page = f"<!doctype html><html><head><title>{status}</title></head><body></body></html>"
        return cls.of(status, "text/html; charset=utf-8", page.encode(), headers)


@frozen
class Call:
    """An HTTP request taken apart.

    Attributes:
        method: The verb in capitals.
        path: The path as sent, percent-encoded, without the query string.
        query: The query string's values.
        headers: The headers with names in lower case.
        body: The bytes.
        now: Unix time of the request in seconds.
        clock: What the server's clock shows, Unix seconds: signed tokens are held against it.
    """

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    now: float
    clock: float

    @classmethod
    def from_http(cls, method: str, path: str, headers: Mapping[str, str], body: bytes, now: float) -> Self:
        """Take a request apart; *path* includes the query string."""
        bare, _, query = path.partition("?")
        lowered = {name.lower(): value for name, value in headers.items()}
        return cls(method.upper(), bare, dict(parse_qsl(query)), lowered, body, now, now)

    def read_json(self) -> dict[str, Any]:
        """The body as a JSON object.

        Raises:
            Refusal: 1200, it is none, or the content type says otherwise (API reference, required headers).
        """
        if self.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refusal(1200, "Content-Type must be application/json")
        try:
            value = json.loads(self.body)
        except ValueError:
            raise Refusal(1200, "The request body is not JSON") from None
        if not isinstance(value, dict):
            raise Refusal(1200, "The request body is not a JSON object")
        return value


@frozen
class Route:
    """What a request asks for.

    Attributes:
        operation: `create`, `query`, `list`, `account`, `download`, or `other` for what is none of these.
        kind: One of `KINDS`, else empty.
        name: The task's id in a query, the file's name in a download, else empty.
    """

    operation: str
    kind: str = ""
    name: str = ""

    @classmethod
    def of(cls, call: Call, prefix: str) -> Self:
        """The route of *call* on a server whose endpoints lie below *prefix*."""
        segments = call.path.removeprefix(prefix).split("/")
        match call.method, segments:
            case "GET" | "HEAD", ["", "videos", name] if call.path.startswith("/videos/"):
                return cls("download", name=unquote(name))
            case "GET", ["", "account", "costs"] if not prefix:
                return cls("account")
            case "POST", ["", "v1", "videos", kind] if kind in KINDS and call.path.startswith(prefix):
                return cls("create", kind)
            case "GET", ["", "v1", "videos", kind] if kind in KINDS and call.path.startswith(prefix):
                return cls("list", kind)
            case "GET", ["", "v1", "videos", kind, name] if name and call.path.startswith(prefix):
                return cls("query", kind, unquote(name))
            case _:
                return cls("other")


class Refusal(Exception):  # noqa: N818 - Kling's no to a request is an answer, not a fault of the simulator
    """The request is refused.

    Attributes:
        code: Kling's code; below 1000 an HTTP status that comes without a readable body.
        status: The HTTP status.
        message: The text of the reply.
    """

    def __init__(self, code: int, message: str | None = None) -> None:
        self.code = code
        self.status, usual = _REFUSALS.get(code, (code, f"HTTP {code}"))
        if not 400 <= self.status <= 599:
            raise ValueError(f"{code} is neither a code of Kling nor an HTTP error status")
        self.message = usual if message is None else message
        super().__init__(f"{code}: {self.message}")
