"""What a client does when something breaks, as data: the test of faults holds it so, the reference prints it.

Every client here makes three attempts at what paid nothing, and is not new: it has had a good answer before.
"""

from typing import Final, Literal

from attrs import frozen

Operation = Literal["create", "blind", "query", "list", "download"]
OPERATIONS: Final[tuple[Operation, ...]] = ("create", "blind", "query", "list", "download")
"""`blind` is a create at a provider that cannot look tasks up by their external_task_id."""


@frozen
class End:
    """How a call ends.

    Attributes:
        requests: how many of its kind the server saw.
        made: the tasks that were made and billed.
        error: the class of the error, empty for success.
        outcome: the error's.
    """

    requests: int
    made: int = 0
    error: str = ""
    outcome: str = ""

    def __str__(self) -> str:
        parts = [f"`{self.error}`, {self.outcome}" if self.error else "succeeds"]
        parts.append(f"{self.requests} request{'s' * (self.requests != 1)}")
        parts += [f"{self.made} task"] * bool(self.made)
        return "; ".join(parts)


@frozen
class Row:
    """One fault.

    Attributes:
        what: happens, in words.
        fault: how the simulator's script writes it, `{on}` being the operation; or the name of a network
            that leads nowhere.
        ends: how each operation ends that it can strike.
        large: whether the create carries a picture of 5 MB.
        signs: whether the client has an access key, which can sign again.
        kept: whether a list is read before the call, and its connection kept.
        wait: seconds that the call takes at least, since the server asks for them.
    """

    what: str
    fault: str
    ends: dict[str, End]
    large: bool = False
    signs: bool = False
    kept: bool = False
    wait: float = 0.0


_NOTHING: Final = "NOT_CREATED"
_LOST: Final = End(1, 0, "ResponseLostError", "MAY_EXIST")
_PAID_AND_LOST: Final = End(1, 1, "ResponseLostError", "MAY_EXIST")


def _reads(requests: int, *, download: bool = True) -> dict[str, End]:
    ends: dict[str, End] = {"query": End(requests), "list": End(requests)}
    return ends | ({"download": End(requests)} if download else {})


def _refused(error: str, *, reads: bool = True) -> dict[str, End]:
    end = End(1, 0, error, _NOTHING)
    return {"create": end, "blind": end} | ({"query": end, "list": end} if reads else {})


_UNMADE: Final[dict[str, End]] = {"create": End(2, 1), "blind": _LOST}
"""Nobody knows that nothing was made: looked up, waited out, sent again under the same id."""
_MADE: Final[dict[str, End]] = {"create": End(1, 1), "blind": _PAID_AND_LOST}
"""Made, and the answer lost: found by its external_task_id."""
_AGAIN: Final[dict[str, End]] = {"create": End(2, 1), "blind": End(2, 1)}
"""By proof or by a readable refusal nothing was made: sent again at once."""
_GONE: Final = End(0, 0, "DownloadError", "CREATED")
_UNREACHABLE: Final[dict[str, End]] = {
    **dict.fromkeys(("create", "blind", "query", "list"), End(0, 0, "ConnectError", _NOTHING)),
    "download": _GONE,
}

ROWS: Final = (
    Row("connection refused", "refused", _UNREACHABLE),
    Row("no such name", "nameless", _UNREACHABLE),
    Row("certificate nobody vouches for", "untrusted", _UNREACHABLE),
    Row("no connection in time", "full", _UNREACHABLE),
    Row("proxy refuses the tunnel", "proxy", _UNREACHABLE),
    Row(
        "closed before anything was read, 5 MB to come",
        "closing",
        _UNREACHABLE | dict.fromkeys(("query", "list"), End(0, 0, "ResponseLostError", _NOTHING)),
        large=True,
    ),
    Row(
        "kept connection closed as the next request comes",
        "list:keepalive_race",
        {"create": End(1, 1), "blind": End(1, 1)} | _reads(1),
        kept=True,
    ),
    Row("closed after the headers", "{on}:closed_after_headers", _UNMADE | _reads(2)),
    Row("reset after the headers", "{on}:closed_after_headers reset=1", _UNMADE | _reads(2)),
    Row("closed after the headers, 5 MB to come", "{on}:closed_after_headers", _AGAIN, large=True),
    Row("reset in the body of 5 MB", "{on}:reset_in_body at=100000", _AGAIN, large=True),
    Row("closed after the body, nothing made", "{on}:lost_reply_before", _UNMADE | _reads(2)),
    Row("reset after the body, nothing made", "{on}:lost_reply_before reset=1", _UNMADE | _reads(2)),
    Row("closed after the task was made", "{on}:lost_reply_after", _MADE | _reads(2)),
    Row("reset after the task was made", "{on}:lost_reply_after reset=1", _MADE | _reads(2)),
    Row("reply that is no HTTP", "{on}:not_http", _UNMADE | _reads(2)),
    Row("reply that is no HTTP, task made", "{on}:not_http made=1", _MADE),
    Row("reply cut", "{on}:cut_reply", _MADE | _reads(2)),
    Row("reply longer than it is said to be", "{on}:wrong_length by=-20", _MADE | _reads(2, download=False)),
    Row(
        "reply shorter than it is said to be", "{on}:wrong_length by=1000", _MADE | _reads(2, download=False)
    ),
    Row("half of the JSON", "{on}:truncated_json", _MADE | _reads(2, download=False)),
    Row(
        "no reply in time, and the server makes it later",
        "{on}:delay seconds=1",
        {"create": End(2, 1), "blind": _PAID_AND_LOST} | _reads(2, download=False),
    ),
    Row("no reply in time, task made", "{on}:delay seconds=1 made=1", _MADE),
    Row("reply comes slowly", "{on}:slow bytes_per_second=3000000", {"create": End(1, 1)} | _reads(1)),
    Row(
        "refused (413) before 5 MB were read",
        "{on}:early_refusal",
        _refused("GatewayError", reads=False),
        large=True,
    ),
    Row("redirect (301)", "{on}:redirect status=301", _refused("GatewayError") | {"download": End(2)}),
    Row("redirect (307)", "{on}:redirect status=307", _refused("GatewayError") | {"download": End(2)}),
    Row(
        "web page with 200",
        "{on}:html status=200",
        _UNMADE | _reads(2, download=False) | {"download": End(1, 0, "DownloadError", "CREATED")},
    ),
    Row("web page with 502", "{on}:html status=502", _UNMADE | _reads(2)),
    Row("web page with 503", "{on}:html status=503", _UNMADE | _reads(2)),
    Row("web page with 504", "{on}:html status=504", _UNMADE | _reads(2)),
    Row("web page with 504, task made", "{on}:html status=504 made=1", _MADE),
    Row("web page with 429", "{on}:html status=429", _AGAIN | _reads(2)),
    Row("429 without a word", "{on}:empty status=429", _AGAIN | _reads(2)),
    Row("429, `Retry-After: 1`", "{on}:empty status=429 retry_after=1", _AGAIN | _reads(2), wait=0.95),
    Row(
        "429, `Retry-After` with a date",
        "{on}:empty status=429 retry_after=1 retry_date=1",
        _AGAIN | _reads(2),
        wait=0.95,
    ),
    Row("too many requests (1302)", "{on}:refuse code=1302", _AGAIN | _reads(2, download=False)),
    Row("too many tasks in parallel (1303)", "{on}:refuse code=1303", _AGAIN | _reads(2, download=False)),
    Row("account without means (1102)", "{on}:refuse code=1102", _refused("AccountError")),
    Row("token not yet valid (1003)", "{on}:refuse code=1003", _refused("AuthenticationError")),
    Row(
        "token not yet valid (1003), access key",
        "{on}:refuse code=1003",
        _AGAIN | _reads(2, download=False),
        signs=True,
    ),
    Row(
        "token has ended (1004), access key",
        "{on}:refuse code=1004",
        _AGAIN | _reads(2, download=False),
        signs=True,
    ),
    *(
        Row(f"{what} ({code})", f"{{on}}:refuse code={code}", _UNMADE | _reads(2, download=False))
        for code, what in ((5000, "internal error"), (5001, "unavailable"), (5002, "internal timeout"))
    ),
    *(
        Row(f"{what} ({code}), task made", f"{{on}}:refuse code={code} made=1", _MADE)
        for code, what in ((5000, "internal error"), (5001, "unavailable"), (5002, "internal timeout"))
    ),
    Row(
        "answer lost, and look-ups lag for longer than the quarantine (1201)",
        "{on}:lost_reply_after; query:lookup_lag seconds=0.6 times=9",
        {"create": End(2, 1)},
    ),
    Row(
        "answer lost, look-ups lag, duplicates are accepted",
        "{on}:lost_reply_after; query:lookup_lag seconds=0.1 times=9; create:duplicates",
        {"create": End(1, 1)},
    ),
    *(
        Row(f"URL dead ({status})", f"{{on}}:url_dies status={status}", {"download": End(2)})
        for status in (401, 403, 404, 410)
    ),
    Row("video host fails (500)", "{on}:html status=500", {"download": End(2)}),
    Row("video cut", "{on}:cut_reply at=200000", {"download": End(2)}),
    Row(
        "video cut, and no ranges",
        "{on}:cut_reply at=200000; {on}:no_range",
        {"download": End(2)},
    ),
    Row(
        "video cut, then another version",
        "{on}:cut_reply at=200000; {on}:changed_etag",
        {"download": End(3)},
    ),
    Row(
        "video shorter than it is said to be",
        "{on}:wrong_length by=1000",
        {"download": End(3)},
    ),
)
