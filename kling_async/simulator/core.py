"""The simulator itself: bytes and time in, bytes out. No clock, no sockets, no event loop."""

from collections.abc import Callable, Collection, Mapping
from typing import ClassVar, Literal, Protocol, get_args

from attrs import define, field, validators

from kling_async.simulator import media
from kling_async.simulator.account import Account
from kling_async.simulator.gateways import CometAPI, NewAPI
from kling_async.simulator.kling import Kling
from kling_async.simulator.messages import Call, Refusal, Reply, Route

FaceName = Literal["kling", "cometapi", "new-api-2025", "new-api-2026"]
Operation = Literal["create", "query", "list", "download"]


class _Face(Protocol):
    """A dialect in which the account's tasks are told."""

    prefix: ClassVar[str]

    def answer(self, route: Route, call: Call) -> Reply: ...

    def refuse(self, refusal: Refusal) -> Reply: ...


@define(kw_only=True, eq=False)
class Simulator(Account):
    """A full stand-in for Kling: one account, reached through Kling's own API or through a gateway.

    What happens depends on the arguments, the seeded `rng` and the calls made, never on a clock. See
    `Account` for how tasks run; its attributes are settings here too. The face, the keys and the refresh are
    fixed once it is made.

    Attributes:
        face: Who answers: Kling, or a gateway in front of it, `new-api` in the two ages that differ most.
        api_keys: Accepted API keys; on a gateway, its own keys. All of them belong to the one account.
        access_keys: Accepted AccessKeys and their secrets. Gateways take none.
        gateway_refresh: Seconds between two looks of a `new-api` at Kling, 15 in reality; 0 looks at every
            query.
        on_request: Given one line of text for each request, which never holds a key or a picture.
    """

    face: FaceName = field(default="kling", validator=validators.in_(get_args(FaceName)))
    api_keys: Collection[str] = frozenset({"sim-key"})
    access_keys: Mapping[str, str] = field(factory=lambda: {"sim-access": "sim-secret"})
    gateway_refresh: float = 0.0
    on_request: Callable[[str], None] | None = None
    _face: _Face = field(init=False)
    _refusals: dict[str, list[int]] = field(init=False, factory=dict)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        if self.face == "kling":
            self._face = Kling(self, self.api_keys, self.access_keys)
        elif self.face == "cometapi":
            self._last_id = 2_030_000_000_000_000_000  # its ids have 19 digits
            self._face = CometAPI(self, self.api_keys, {})
        else:
            trapped = self.face == "new-api-2026"
            self._face = NewAPI(Kling(self, (), {}), self.api_keys, self.gateway_refresh, trapped=trapped)

    def refuse(self, operation: Operation, code: int, times: int = 1) -> None:
        """Refuse the next *times* calls of *operation*, before anything is made.

        What is scripted for the same operation later follows after it.

        Args:
            operation: Which calls.
            code: Kling's code, e.g. 1302 or 5000; below 1000 an HTTP status that comes with a page of HTML,
                e.g. 502.
            times: How many calls.

        Raises:
            ValueError: *code* is no refusal.
        """
        Refusal(code)
        self._refusals.setdefault(operation, []).extend([code] * times)

    def handle(self, method: str, path: str, headers: Mapping[str, str], body: bytes, now: float) -> Reply:
        """Answer one HTTP request.

        Args:
            method: The verb.
            path: The path as sent, percent-encoded, with the query string.
            headers: The headers; case does not matter.
            body: The bytes.
            now: Unix time in seconds, not before that of an earlier call.
        """
        call = Call.from_http(method, path, headers, body, now)
        route = Route.of(call, self._face.prefix)
        code = 0
        # the one place for faults: scripted before the task is made; `reply` is what may be lost after it
        try:
            self._raise_scripted(route.operation)
            reply = (
                self._download(route, call)
                if route.operation == "download"
                else self._face.answer(route, call)
            )
        except Refusal as refusal:
            code = refusal.code
            # the videos' host is no API and knows no codes
            scripted = route.operation == "download"
            reply = Reply.of_html(refusal.status) if scripted else self._face.refuse(refusal)
        else:
            code = reply.status if reply.status >= 300 else 0
        self.ledger.record(route.operation, code)
        if self.on_request is not None:
            self.on_request(f"{call.method} {call.path} {reply.status}{f' ({code})' if code else ''}")
        return reply

    def pending_render(self, path: str, now: float) -> media.VideoJob | None:
        """What has to be rendered before `handle` can answer a GET of *path* at once.

        A server renders it elsewhere and hands the bytes to `store_video`; without that, `handle` renders
        it by itself.
        """
        route = Route.of(Call.from_http("GET", path, {}, b"", now), self._face.prefix)
        return self.job(route.name.removesuffix(".mp4"), now) if route.operation == "download" else None

    def _download(self, route: Route, call: Call) -> Reply:
        for name in ("authorization", "cookie"):
            if name in call.headers:
                self.ledger.leaks.append(f"{call.path}: {name}")
                return Reply.of(400, "text/plain", b"credentials do not belong here")
        content = self.video(route.name.removesuffix(".mp4"), call.query.get("token", ""), call.now)
        if content is None:
            return Reply.of(403, "text/plain", b"the URL is not, or no longer, valid")
        return media.serve_file(call, content)

    def _raise_scripted(self, operation: str) -> None:
        script = self._refusals.get(operation)
        if script:
            raise Refusal(script.pop(0))
