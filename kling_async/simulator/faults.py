"""The script of faults: which kind strikes which operation, when, and how it is written as text.

`Faults` only decides whether a fault strikes. What it does stands where it strikes: replies in `effects`,
tasks, look-ups, lists and URLs in `account`, callbacks in `callbacks`, bytes on a socket in `server`.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from random import Random
from typing import Any, Final, Self

from attrs import define, field, frozen

from kling_async.simulator.messages import Refusal

Value = float | str


@frozen
class Kind:
    """One kind of fault.

    Attributes:
        meaning: What happens, in one line.
        on: The operations it can strike; `any` stands for all of these. What strikes callbacks strikes
            nothing else, so that `any` never means both.
        parameters: Its parameters with their defaults; None where the meaning says what happens without.
    """

    meaning: str
    on: tuple[str, ...]
    parameters: Mapping[str, Value | None] = field(factory=dict)


_API: Final = ("create", "query", "list", "account")
_ALL: Final = (*_API, "download")
_MADE: Final = {"made": False}
_RETRY: Final = {"retry_after": None, "retry_date": False}
_CALLBACK: Final = ("callback",)

FAULTS: Final[Mapping[str, Kind]] = {
    # the connection
    "lost_reply_before": Kind(
        "request read, nothing done, connection closed (reset=1: RST)", _ALL, {"reset": False}
    ),
    "lost_reply_after": Kind(
        "task made and billed, connection closed without a reply (reset=1: RST)", _ALL, {"reset": False}
    ),
    "closed_after_headers": Kind(
        "connection closed after the headers, the body unread (reset=1: RST)", _ALL, {"reset": False}
    ),
    "reset_in_body": Kind("connection reset once `at` bytes of the body are read", ("create",), {"at": 1024}),
    "early_refusal": Kind(
        "refused with `status` before the body is read", ("create",), {"status": 413, **_RETRY}
    ),
    "cut_reply": Kind("connection closed after `at` bytes of the body; default: half", _ALL, {"at": None}),
    "slow": Kind("body sent at `bytes_per_second`", _ALL, {"bytes_per_second": 65_536.0}),
    "delay": Kind(
        "no reply for `seconds`, before the task is made (made=1: after)", _ALL, {"seconds": 1.0, **_MADE}
    ),
    "keepalive_race": Kind("connection closed as the next request arrives on it", _ALL),
    # what comes instead of the reply, before the task is made (made=1: after)
    "not_http": Kind("bytes that are no HTTP", _ALL, _MADE),
    "redirect": Kind("redirect with `status` to `location`", _ALL, {"status": 302, "location": "/", **_MADE}),
    "html": Kind("page of HTML with `status`, also 200", _ALL, {"status": 502, **_RETRY, **_MADE}),
    "empty": Kind("`status` without a body", _ALL, {"status": 429, **_RETRY, **_MADE}),
    "refuse": Kind(
        "Kling's refusal `code`: 1302, 1303, 1004, 5000 ...", _ALL, {"code": 5000, **_RETRY, **_MADE}
    ),
    "truncated_json": Kind("half of the JSON, as if it were all", _API),
    # the account
    "slots_held": Kind("another process holds `count` slots; default: all", ("create",), {"count": None}),
    "clock_skew": Kind("server's clock is `seconds` ahead (negative: behind)", _API, {"seconds": 300.0}),
    "duplicates": Kind("a known external_task_id is accepted: a second task is made and billed", ("create",)),
    "lookup_lag": Kind(
        "a task younger than `seconds` is unknown by external_task_id (`code`) and not in the list; "
        "by_task_id=1: unknown by task_id too",
        ("query", "list"),
        {"seconds": 2.0, "by_task_id": False, "code": 1201},
    ),
    "unstable_list": Kind("list is in another order at each request", ("list",)),
    # the task
    "unknown_status": Kind("task's status is told as `word`", ("query", "list"), {"word": "paused"}),
    "never_ends": Kind("task made now never becomes terminal", ("create",)),
    "forgotten": Kind("task made now is forgotten `seconds` later", ("create",), {"seconds": 60.0}),
    "late_success": Kind(
        "task made now fails, and has succeeded `seconds` after that", ("create",), {"seconds": 30.0}
    ),
    # the video
    "url_dies": Kind(
        "URL dies with `status`, `seconds` old or after `downloads` requests (default: at once); "
        "the next query gives a fresh one",
        ("download",),
        {"status": 403, "seconds": None, "downloads": None},
    ),
    "changed_etag": Kind("ETag is another one at each request", ("download",)),
    "wrong_length": Kind("Content-Length is wrong by `by` bytes", _ALL, {"by": 1000}),
    "no_range": Kind("Range is ignored: always the whole file", ("download",)),
    # the callback
    "callback_first": Kind(
        "task's state is called back at once, and the reply waits `seconds`", ("create",), {"seconds": 0.5}
    ),
    "never_sent": Kind("callback is never sent", _CALLBACK),
    "sent_late": Kind("callback is sent `seconds` late", _CALLBACK, {"seconds": 60.0}),
    "sent_twice": Kind(
        "callback is sent again `seconds` later under the same webhook-id", _CALLBACK, {"seconds": 0.0}
    ),
    "out_of_order": Kind("callback is sent only after the next one of its task", _CALLBACK),
    "forged_signature": Kind("callback is signed with another secret", _CALLBACK),
    "stale_timestamp": Kind("callback is signed as of `seconds` ago", _CALLBACK, {"seconds": 600.0}),
    "not_json": Kind("callback's body is no JSON", _CALLBACK),
}
"""Every kind by its name, for help and documentation."""

_OPERATIONS: Final = (*_ALL, "callback", "any")
_TEXTS: Final = frozenset({"word", "location"})
_FLAGS: Final = frozenset({"made", "reset", "retry_date", "by_task_id"})
_WHOLE: Final = frozenset({"at", "status", "code", "count", "downloads", "by", "times"})
_FINITE: Final = frozenset({"clock_skew", "stale_timestamp"})
"""Kinds whose `seconds` are not waited."""
_WHEN: Final = ("p", "times", "after", "until")


@frozen(init=False)
class Fault:
    """One line of the script. Without `p`, `times`, `after` and `until` it strikes always.

    Attributes:
        kind: A name of `FAULTS`.
        on: `create`, `query`, `list`, `account`, `download`, `callback`, or `any` for every one that the kind
            can strike.
        p: The probability, above 0 to 1, that it strikes a request it could strike.
        times: How often it strikes in all, None for any number.
        after: It strikes from so many seconds on, counted from the first request that meets the script with
            this fault in it.
        until: It strikes no more from so many seconds on, counted likewise.
        parameters: What was given of the kind's parameters; `fault[name]` is the value or the default.

    Raises:
        ValueError: With the word that is wrong.
    """

    kind: str
    on: str
    p: float
    times: int | None
    after: float
    until: float
    parameters: Mapping[str, Value]

    def __init__(
        self,
        kind: str,
        /,
        *,
        on: str = "any",
        p: float = 1.0,
        times: int | None = None,
        after: float = 0.0,
        until: float = math.inf,
        **parameters: Value,
    ) -> None:
        known = _known("fault", kind, FAULTS)
        if _known("operation", on, _OPERATIONS) not in (*FAULTS[known].on, "any"):
            raise ValueError(f"{kind} cannot strike {on!r}, only {', '.join(FAULTS[kind].on)}")
        if not 0 < p <= 1:
            raise ValueError(f"p must be above 0 and at most 1, not {p:g}")
        if times is not None and times < 1:
            raise ValueError(f"times must be at least 1, not {times}")
        if not 0 <= after < until:
            raise ValueError(f"until={until:g} must be later than after={after:g}")
        checked = {name: _checked(kind, name, value) for name, value in parameters.items()}
        for name, value in zip(
            ("kind", "on", "p", "times", "after", "until", "parameters"),
            (kind, on, p, times, after, until, checked),
            strict=True,
        ):
            object.__setattr__(self, name, value)  # frozen, and the parameters come by name

    def __getitem__(self, parameter: str) -> Any:
        given = self.parameters.get(parameter)
        return FAULTS[self.kind].parameters[parameter] if given is None else given

    def __str__(self) -> str:
        when = {"p": self.p, "times": self.times, "after": self.after, "until": self.until}
        usual = {"p": 1.0, "times": None, "after": 0.0, "until": math.inf}
        said = {name: value for name, value in when.items() if value != usual[name]}
        words = [f"{name}={_written(value)}" for name, value in (said | dict(self.parameters)).items()]
        return " ".join([f"{self.on}:{self.kind}", *words])

    @classmethod
    def parse(cls, text: str) -> Self:
        """The fault written as *text*, e.g. `create:lost_reply_after p=0.1`; no operation means `any`.

        Raises:
            ValueError: With the word that is wrong.
        """
        head, *words = text.split() or [""]
        on, colon, kind = head.rpartition(":")
        values: dict[str, Any] = {"on": on} if colon else {}
        for word in words:
            name, equals, value = word.partition("=")
            if not equals or not value:
                raise ValueError(f"{word!r} is not name=value")
            if name in values:
                raise ValueError(f"{name!r} is said twice")
            values[name] = value if name in ("on", *_TEXTS) else _number(word, value, whole=name in _WHOLE)
        return cls(kind, **values)


@define(eq=False)
class Faults:
    """The script. Where two could strike at the same point, the one added first does, and the other waits.

    The points of a request are, in this order: before its body is read, instead of what it asks for, while
    that is done, instead of the reply, and on the reply's way.

    Attributes:
        rng: Draws for `p` and for what is left to chance.
    """

    rng: Random = field(factory=lambda: Random(0))  # noqa: S311 - a script, not a secret
    _entries: list["_Entry"] = field(init=False, factory=list)
    _undated: list["_Entry"] = field(init=False, factory=list)

    @classmethod
    def parse(cls, text: str, *, seed: int = 0) -> Self:
        """The script written as *text*: faults with `;` between them.

        Example: `create:lost_reply_after p=0.1; query:delay seconds=2 times=3`.

        Args:
            text: The script; empty for none.
            seed: The same script, seed and requests give the same faults.

        Raises:
            ValueError: With the word that is wrong.
        """
        script = cls(Random(seed))  # noqa: S311 - a script, not a secret
        script.add(*(Fault.parse(part) for part in text.split(";") if part.strip()))
        return script

    def __iter__(self) -> Iterator[Fault]:
        return (entry.fault for entry in self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __str__(self) -> str:
        return "; ".join(map(str, self))

    def add(self, *faults: Fault) -> None:
        """Put *faults* at the end of the script; it may be running."""
        entries = [_Entry(fault, fault.times) for fault in faults]
        self._entries += entries
        self._undated += entries

    def clear(self) -> None:
        """End every fault; tasks already struck stay as they are."""
        self._entries.clear()
        self._undated.clear()

    def draw(
        self, operation: str, now: float, kinds: tuple[str, ...], applies: Callable[[Fault], bool]
    ) -> Fault | None:
        """The fault that strikes, None if none does; one that has struck `times` times leaves the script.

        Args:
            operation: What is asked for.
            now: Unix seconds.
            kinds: The kinds that can strike at this point.
            applies: Whether this one would make a difference; asked before chance is.
        """
        for entry in self._undated:
            entry.since = now
        self._undated.clear()
        for entry in self._entries:
            fault = entry.fault
            if (
                fault.kind in kinds
                and operation in (FAULTS[fault.kind].on if fault.on == "any" else (fault.on,))
                and fault.after <= max(now - entry.since, 0.0) < fault.until
                and applies(fault)
                and (fault.p == 1 or self.rng.random() < fault.p)
            ):
                if entry.left is not None:
                    entry.left -= 1
                    if not entry.left:
                        self._entries.remove(entry)
                return fault
        return None


@define(eq=False)
class _Entry:
    """A fault in the script, how often it will still strike, and from when its seconds count."""

    fault: Fault
    left: int | None
    since: float = 0.0


def _known(what: str, word: str, words: Mapping[str, Any] | tuple[str, ...]) -> str:
    if word in words:
        return word
    close = get_close_matches(word, words, 1)
    hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(words)}"
    raise ValueError(f"no {what} is called {word!r}; {hint}")


def _checked(kind: str, name: str, value: Value) -> Value:
    """The value of a parameter, if the kind has it and it is in range."""
    if name not in FAULTS[kind].parameters:
        raise ValueError(f"{kind} has no {name!r}, only {', '.join((*_WHEN, *FAULTS[kind].parameters))}")
    if name in _TEXTS:
        if not isinstance(value, str) or not value or ";" in value or len(value.split()) != 1:
            raise ValueError(f"{name} must be one word without ';', not {value!r}")
        return value
    endless = name == "seconds" and kind not in _FINITE and value == math.inf
    if isinstance(value, str) or not (endless or math.isfinite(value)):
        raise ValueError(f"{name} must be a number, not {value!r}")
    if name in _WHOLE and value != int(value):
        raise ValueError(f"{name} must be a whole number, not {value:g}")
    if name in _FLAGS and value not in (0, 1):
        raise ValueError(f"{name} must be 0 or 1, not {value:g}")
    if name == "code":
        Refusal(int(value))
    if name == "status" and not 200 <= value <= 599:
        raise ValueError(f"status must be 200 to 599, not {value:g}")
    if name == "bytes_per_second" and value <= 0:
        raise ValueError(f"bytes_per_second must be above 0, not {value:g}")
    if value < 0 and name != "by" and kind != "clock_skew":
        raise ValueError(f"{name} must not be negative, not {value:g}")
    return int(value) if name in _WHOLE else value


def _number(word: str, text: str, *, whole: bool) -> float:
    try:
        return int(text) if whole else float(text)
    except ValueError:
        raise ValueError(f"{word!r}: {text!r} is no {'whole ' if whole else ''}number") from None


def _written(value: Any) -> str:
    """*value* as `parse` reads it."""
    return str(value) if isinstance(value, str) else repr(float(value)).removesuffix(".0")
