"""The simulator itself: bytes and time in, bytes out. No clock, no sockets, no event loop."""

from collections.abc import Callable, Collection, Mapping, Sequence
from email.utils import formatdate
from functools import partial
from typing import ClassVar, Literal, Protocol, get_args

from attrs import define, evolve, field

from kling_async.simulator import callbacks, effects, media, settings
from kling_async.simulator.account import Account
from kling_async.simulator.faults import Fault
from kling_async.simulator.gateways import CometAPI, NewAPI
from kling_async.simulator.kling import Kling
from kling_async.simulator.messages import Call, Refusal, Reply, Route, Wire

FaceName = Literal["kling", "cometapi", "new-api-2025", "new-api-2026"]
Operation = Literal["create", "query", "list", "account", "download"]


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
        on_request: Given one line of text for each request and each callback posted, with the faults that
            struck it in brackets, which never holds a key or a picture.
        callback_secrets: What callbacks are signed with, each `whsec_` and base64; several, as in a rotation,
            give as many signatures in one header. None: callbacks carry no signature at all. Behind a gateway
            they are its operator's, so its customers cannot check them.
        callback_generation: The shape of the callbacks' bodies: that of the legacy task object, or that of
            the path-versioned endpoints.
    """

    face: FaceName = field(default="kling", validator=settings.one_of(get_args(FaceName)))
    api_keys: Collection[str] = field(default=frozenset({"sim-key"}), validator=settings.SECRETS, repr=False)
    access_keys: Mapping[str, str] = field(
        repr=False, factory=lambda: {"sim-access": "sim-secret"}, validator=settings.SECRET_BY_NAME
    )
    gateway_refresh: float = field(default=0.0, validator=settings.SECONDS)
    on_request: Callable[[str], None] | None = field(default=None, validator=settings.FUNCTION_OR_NONE)
    callback_secrets: Sequence[str] = field(
        default=(), validator=[settings.SECRETS, callbacks.check_secrets], repr=False
    )
    callback_generation: callbacks.BodyGeneration = field(
        default="legacy", validator=settings.one_of(get_args(callbacks.BodyGeneration))
    )
    _callbacks: callbacks.CallbackQueue = field(init=False, factory=callbacks.CallbackQueue)
    _kling: Kling = field(init=False)
    _face: _Face = field(init=False)

    def __attrs_post_init__(self) -> None:
        super().__attrs_post_init__()
        self._kling = Kling(self, self.api_keys, self.access_keys)
        if self.face == "kling":
            self._face = self._kling
        elif self.face == "cometapi":
            self._last_id = 2_030_000_000_000_000_000  # its ids have 19 digits
            self._face = CometAPI(self, self.api_keys, {})
        else:
            trapped = self.face == "new-api-2026"
            self._face = NewAPI(self._kling, self.api_keys, self.gateway_refresh, trapped=trapped)

    def refuse(self, operation: Operation, code: int, times: int = 1) -> None:
        """Refuse the next *times* calls of *operation*, before anything is made.

        The short form of a fault: what is scripted for the same operation later follows after it.

        Args:
            operation: Which calls.
            code: Kling's code, e.g. 1302 or 5000; below 1000 an HTTP status that comes with a page of HTML,
                e.g. 502.
            times: How many calls.

        Raises:
            ValueError: *code* is no refusal.
        """
        self.faults.add(*(Fault("refuse", on=operation, code=code, times=times) for _ in range(times > 0)))

    def operation(self, method: str, path: str) -> str:
        """What a request asks for: `create`, `query`, `list`, `account`, `download` or `other`."""
        return Route.of(Call.from_http(method, path, {}, b"", 0.0), self._face.prefix).operation

    def handle_headers(self, method: str, path: str, headers: Mapping[str, str], now: float) -> Reply | None:
        """What happens to a request before its body is read; to be asked before `handle` is.

        Args:
            method: The verb.
            path: The path as sent, percent-encoded, with the query string.
            headers: The headers; case does not matter.
            now: Unix time in seconds, not before that of an earlier call.

        Returns:
            None to go on with `handle`; a reply of status 100 to go on with it after `wire.delay` seconds;
            any other reply ends the request, which `handle` must not see.
        """
        call = Call.from_http(method, path, headers, b"", now)
        operation = Route.of(call, self._face.prefix).operation
        fault = self._strike(operation, now, *effects.EARLY)
        if fault is not None:
            reply = effects.early(fault, now)
            self._note(call, operation, reply.status, reply.status)
            return reply
        delay = self._strike(operation, now, "delay", applies=lambda fault: not fault["made"])
        if delay is None:
            return None
        self._log(call, 100, 0)
        return Reply(100, {}, b"", Wire(delay=delay["seconds"]))

    def handle(self, method: str, path: str, headers: Mapping[str, str], body: bytes, now: float) -> Reply:
        """Answer one HTTP request.

        Faults that strike before the body is read are those of `handle_headers` alone.

        Args:
            method: The verb.
            path: The path as sent, percent-encoded, with the query string.
            headers: The headers; case does not matter.
            body: The bytes.
            now: Unix time in seconds, not before that of an earlier call.
        """
        call = Call.from_http(method, path, headers, body, now)
        route = Route.of(call, self._face.prefix)
        operation = route.operation
        made, waits = len(self.ledger.made), 0.0
        before = self._strike(
            operation, now, *effects.INSTEAD, applies=lambda fault: not effects.comes_after(fault)
        )
        if before is not None:
            reply = effects.instead(before, call, None, partial(self._refused, operation))
            code = before["code"] if before.kind == "refuse" and operation != "download" else reply.status
        else:
            reply, code = self._answered(route, call)
            if len(self.ledger.made) > made:
                waits = self._call_back(now)
            # a refusal stays what it is: nothing was made that these could hide
            after = self._strike(
                operation,
                now,
                *effects.INSTEAD,
                applies=lambda fault: not code and effects.comes_after(fault),
            )
            if after is not None:
                reply = effects.instead(after, call, reply, partial(self._refused, operation))
        for kind in effects.BENDING:
            bent = self._strike(operation, now, kind, applies=partial(effects.bends, reply=reply))
            reply = reply if bent is None else effects.bend(bent, reply)
        if waits:
            reply = evolve(reply, wire=evolve(reply.wire, delay=reply.wire.delay + waits))
        self._note(call, operation, reply.status, code)
        return reply

    def next_callback(self) -> float | None:
        """When the next callback is due, Unix seconds; None if none is left to send.

        Only `handle` can make one due sooner. When its time has come a fault may still keep it back.
        """
        return self._callbacks.next_due

    def due_callbacks(self, now: float, most: int | None = None) -> list[callbacks.Delivery]:
        """Take out the callbacks that are due, in the order of their times; each is made only now.

        A task with a `callback_url` is told when it begins and when it ends, as a query at that moment would
        tell it; also the success that comes after a failure (the fault `late_success`).

        Args:
            now: Unix time in seconds; the timestamp of the signatures.
            most: How many to take at once, None for all; what is left stays due.
        """
        taken: list[callbacks.Delivery] = []
        strike = partial(self._strike, "callback")
        while (most is None or len(taken) < most) and (found := self._callbacks.take(now, strike)):
            due, news = found
            told = self._kling.snapshot(news.task, news.at, "callback")
            if self.callback_generation == "next":
                told = callbacks.next_generation(told)
            taken.append(callbacks.deliver(news, due, told, self.callback_secrets, now, strike))
            self.ledger.callbacks[taken[-1].status] += 1
        self._struck.clear()  # they are told by the deliveries, not by the next request's line
        return taken

    def pending_render(self, path: str, now: float) -> media.VideoJob | None:
        """What has to be rendered before `handle` can answer a GET of *path* at once.

        A server renders it elsewhere and hands the bytes to `store_video`; without that, `handle` renders
        it by itself.
        """
        route = Route.of(Call.from_http("GET", path, {}, b"", now), self._face.prefix)
        return self.job(route.name.removesuffix(".mp4"), now) if route.operation == "download" else None

    def _answered(self, route: Route, call: Call) -> tuple[Reply, int]:
        """The reply and its code, 0 for success."""
        if route.operation == "download":
            reply = self._download(route, call)
            return reply, reply.status if reply.status >= 300 else 0
        skew = self._strike(route.operation, call.now, "clock_skew")
        if skew is not None:
            call = evolve(call, clock=call.now + skew["seconds"])
        try:
            reply = self._face.answer(route, call)
        except Refusal as refusal:
            reply, code = self._face.refuse(refusal), refusal.code
        else:
            code = reply.status if reply.status >= 300 else 0
        if skew is not None:
            reply = evolve(reply, headers={**reply.headers, "Date": formatdate(call.clock, usegmt=True)})
        return reply, code

    def _call_back(self, now: float) -> float:
        """Tell the task just made to its `callback_url`; returns the seconds its reply waits for that."""
        made = self.ledger.made[-1]
        task, url = self._tasks.by_task_id(made.task_id, now), made.body.get("callback_url")
        if task is None or not isinstance(url, str):
            return 0.0
        first = self._strike("create", now, "callback_first")
        self._callbacks.add(task, url, at_once=first is not None)
        return float(first["seconds"]) if first is not None else 0.0

    def _refused(self, operation: str, refusal: Refusal) -> Reply:
        # the videos' host is no API and knows no codes
        return Reply.of_html(refusal.status) if operation == "download" else self._face.refuse(refusal)

    def _download(self, route: Route, call: Call) -> Reply:
        for name in ("authorization", "cookie"):
            if name in call.headers:
                self.ledger.leaks.append(f"{call.path}: {name}")
                return Reply.of(400, "text/plain", b"credentials do not belong here")
        video_id, token = route.name.removesuffix(".mp4"), call.query.get("token", "")
        dead = self.dead_url(video_id, token, call.now)
        content = None if dead else self.video(video_id, token, call.now)
        if content is None:
            return Reply.of(dead or 403, "text/plain", b"the URL is not, or no longer, valid")
        edition = ""
        if self._strike("download", call.now, "changed_etag"):
            edition = str(self.ledger.faults["download", "changed_etag"])
        if self._strike("download", call.now, "no_range"):
            whole = evolve(call, headers={**call.headers, "range": ""})
            reply = media.serve_file(whole, content, edition)
            return evolve(reply, headers={**reply.headers, "Accept-Ranges": "none"})
        return media.serve_file(call, content, edition)

    def _note(self, call: Call, operation: str, status: int, code: int) -> None:
        self.ledger.record(operation, code)
        self._log(call, status, code)

    def _log(self, call: Call, status: int, code: int) -> None:
        faults = f" [{', '.join(self._struck)}]" if self._struck else ""
        self._struck.clear()
        if self.on_request is not None:
            self.on_request(f"{call.method} {call.path} {status}{f' ({code})' if code else ''}{faults}")
