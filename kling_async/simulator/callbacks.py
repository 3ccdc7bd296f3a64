"""Kling's callbacks: when each is due, what it says and how it is signed. Sends nothing itself.

Sources: API reference, callbacks and webhook signature; the signature is that of Standard Webhooks.
"""

import hmac
import json
import math
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from heapq import heappop, heappush
from typing import Any, Final, Literal, Protocol

from attrs import Attribute, define, evolve, field, frozen

from kling_async.simulator.faults import Fault
from kling_async.simulator.tasks import Generation

BodyGeneration = Literal["legacy", "next"]

_PREFIX: Final = "whsec_"
_FORGER: Final = b"this secret is not the account's"
_NO_JSON: Final = b"\x80 this is no JSON"


@frozen
class Delivery:
    """A callback to be posted now.

    Attributes:
        url: Where to, as the create said.
        headers: The content type and, where there are secrets, the three of the signature.
        body: The bytes, which are signed as they are.
        due: When it was due, Unix seconds.
        task_id: Kling's id of the task. What one task has to tell is to be posted in the order given.
        status: The status it tells, in the word of its body.
        faults: The kinds of faults that struck it.
    """

    url: str
    headers: dict[str, str]
    body: bytes
    due: float
    task_id: str
    status: str
    faults: tuple[str, ...] = ()


class Strike(Protocol):
    """Draws the fault of some kinds that strikes a callback, and counts it."""

    def __call__(self, now: float, /, *kinds: str, applies: Callable[[Fault], bool] = ...) -> Fault | None:
        """See `Faults.draw`."""
        ...


@frozen
class News:
    """One status of one task, not yet told.

    Attributes:
        task: The task.
        url: Where to tell it.
        at: The time as of which it is told, Unix seconds.
        faults: The kinds of faults that struck it so far.
        settled: Whether it has been decided when it is sent.
        repeated: Whether it was sent before.
        held: What is sent only after this.
    """

    task: Generation
    url: str
    at: float
    faults: tuple[str, ...] = ()
    settled: bool = False
    repeated: bool = False
    held: "News | None" = None

    def struck(self, fault: Fault | None, **changes: Any) -> "News":
        """The same with *fault*, and *changes*."""
        kinds = self.faults if fault is None else (*self.faults, fault.kind)
        return evolve(self, faults=kinds, **changes)


@define(eq=False)
class CallbackQueue:
    """What is to be told, and when: for each task no more than the next of its statuses, and what is late."""

    _waiting: list[tuple[float, int, News]] = field(init=False, factory=list)
    _pushed: int = field(init=False, default=0)

    @property
    def next_due(self) -> float | None:
        """When the next is due, Unix seconds; None if nothing is left."""
        return self._waiting[0][0] if self._waiting else None

    def add(self, task: Generation, url: str, *, at_once: bool) -> None:
        """Tell the statuses of *task*, made now, to *url*; with *at_once* also that of this moment."""
        made = task.created
        # it is told when it begins and when it ends; that it was submitted is what the reply says
        if at_once or task.status(made) != "submitted":
            self._push(made, News(task, url, made))
        else:
            self._push_next(News(task, url, made), held=None)

    def take(self, now: float, strike: Strike) -> tuple[float, News] | None:
        """Take out what is due first, with the time it was due at; None if nothing is due by *now*."""
        while self._waiting and self._waiting[0][0] <= now:
            due, _, news = heappop(self._waiting)
            sent = news if news.settled else self._settled(due, news, strike)
            if sent is None:
                continue
            if not sent.repeated and (twice := strike(due, "sent_twice")):
                self._push(due + twice["seconds"], sent.struck(twice, repeated=True, held=None))
            self._release(due, sent)
            return due, sent
        return None

    def _settled(self, due: float, news: News, strike: Strike) -> News | None:
        """What is sent now of *news*, whose time has come; None if nothing is."""
        last = news.task.next_change(news.at) == math.inf
        fault = strike(
            due,
            "never_sent",
            "sent_late",
            "out_of_order",
            applies=lambda fault: fault.kind != "out_of_order" or not last,
        )
        struck = news.struck(fault, settled=True)
        waits = fault is not None and fault.kind == "out_of_order"
        self._push_next(news, held=struck if waits else None)
        if fault is None:
            return struck
        if fault.kind == "sent_late":
            self._push(due + fault["seconds"], struck)
        elif fault.kind == "never_sent":
            self._release(due, news)
        return None

    def _push_next(self, news: News, held: News | None) -> None:
        at = news.task.next_change(news.at)
        self._push(at, News(news.task, news.url, at, held=held))

    def _release(self, due: float, news: News) -> None:
        if news.held is not None:
            self._push(due, news.held)

    def _push(self, due: float, news: News) -> None:
        if due < math.inf:
            self._pushed += 1  # what is due at the same time stays in order
            heappush(self._waiting, (due, self._pushed, news))


def deliver(
    news: News, due: float, told: Mapping[str, Any], secrets: Sequence[str], now: float, strike: Strike
) -> Delivery:
    """The callback that tells *news*.

    Args:
        news: What is told.
        due: When it was due, Unix seconds.
        told: The task object, of either generation.
        secrets: Signed with each; none for no signature at all.
        now: When it is sent, Unix seconds: the timestamp of the signature.
        strike: Draws what is wrong with it.
    """
    status = str(told.get("task_status") or told["status"])
    headers = {"Content-Type": "application/json; charset=utf-8"}
    garbled = strike(due, "not_json")
    news = news.struck(garbled)
    body = _NO_JSON if garbled else json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()
    if secrets:
        stale, forged = strike(due, "stale_timestamp"), strike(due, "forged_signature")
        news = news.struck(stale).struck(forged)
        # the same for a repetition, and for no other callback
        name = f"{news.task.task_id}-{status}"
        timestamp = int(now - (stale["seconds"] if stale else 0))
        keys = [_FORGER if forged else _key(secret) for secret in secrets]
        headers["webhook-id"] = name
        headers["webhook-timestamp"] = str(timestamp)
        headers["webhook-signature"] = " ".join(sign(key, name, timestamp, body) for key in keys)
    return Delivery(news.url, headers, body, due, news.task.task_id, status, news.faults)


def sign(key: bytes, name: str, timestamp: int, body: bytes) -> str:
    """The signature, version included, of the raw *body* sent under the webhook id *name* at *timestamp*."""
    content = b".".join((name.encode(), str(timestamp).encode(), body))
    return f"v1,{b64encode(hmac.digest(key, content, 'sha256')).decode()}"


def check_secrets(_: object, __: "Attribute[Any]", secrets: Sequence[str]) -> None:
    """Raise ValueError unless each of *secrets* is `whsec_` and base64; a validator."""
    for secret in secrets:
        _key(secret)


def next_generation(told: Mapping[str, Any]) -> dict[str, Any]:
    """The task object *told* in the shape of the path-versioned endpoints (API reference, reading tasks)."""
    status, units = told["task_status"], told.get("final_unit_deduction")
    name = told["task_info"].get("external_task_id")
    return {
        "id": told["task_id"],
        "status": "succeeded" if status == "succeed" else status,
        "message": told["task_status_msg"],
        "create_time": told["created_at"],
        "update_time": told["updated_at"],
        **({} if name is None else {"external_id": name}),
        "outputs": [
            {"type": "video", "watermark_url": ""} | video
            for video in told.get("task_result", {}).get("videos", ())
        ],
        "billing": []
        if units is None
        else [{"charge_type": "unit", "amount": units, "package_type": "video"}],
    }


def _key(secret: str) -> bytes:
    try:
        key = b64decode(secret.removeprefix(_PREFIX), validate=True)
    except ValueError:
        key = b""
    if not secret.startswith(_PREFIX) or not key:
        raise ValueError(f"a callback secret is {_PREFIX} and base64")  # without a word of what it is
    return key
