"""What a fault makes of a reply: what comes instead of it, or how it is bent on its way."""

import math
from collections.abc import Callable
from email.utils import formatdate
from typing import Final

from attrs import evolve

from kling_async.simulator.faults import Fault
from kling_async.simulator.messages import Abort, Call, Refusal, Reply, Wire

EARLY: Final = ("closed_after_headers", "reset_in_body", "early_refusal")
"""Kinds that strike before the body is read."""
INSTEAD: Final = ("lost_reply_before", "lost_reply_after", "not_http", "redirect", "html", "empty", "refuse")
"""Kinds that put something in place of the reply."""
BENDING: Final = ("truncated_json", "wrong_length", "cut_reply", "slow", "keepalive_race", "delay")
"""Kinds that send the reply in another way."""

_SILENT: Final = 444
"""The status by which proxies log a connection closed without a reply."""
_GARBAGE: Final = b"\x15\x03\x01\x00\x02\x02\x46 this is not the server you are looking for\r\n\r\n"


def comes_after(fault: Fault) -> bool:
    """Whether a fault of `INSTEAD` strikes once the task is made."""
    return fault.kind == "lost_reply_after" or (fault.kind != "lost_reply_before" and bool(fault["made"]))


def early(fault: Fault, now: float) -> Reply:
    """The end of a request whose body is not read."""
    match fault.kind:
        case "early_refusal":
            reply = Reply.of_html(fault["status"], {"Connection": "close"})
            return _with_retry_after(fault, reply, now)
        case "reset_in_body":
            return Reply(_SILENT, {}, b"", Wire(abort="reset", read=fault["at"]))
        case _:
            return Reply(_SILENT, {}, b"", Wire(abort=_abort(fault)))


def instead(fault: Fault, call: Call, reply: Reply | None, refuse: Callable[[Refusal], Reply]) -> Reply:
    """What comes in place of *reply*, the good one to what was done, None if nothing was."""
    match fault.kind:
        case "lost_reply_before" | "lost_reply_after":
            return evolve(reply or Reply(_SILENT, {}, b""), wire=Wire(abort=_abort(fault)))
        case "not_http":
            return evolve(reply or Reply(_SILENT, {}, b""), wire=Wire(raw=_GARBAGE))
        case "redirect":
            return Reply.of_html(fault["status"], {"Location": fault["location"]})
        case "html":
            return _with_retry_after(fault, Reply.of_html(fault["status"]), call.now)
        case "empty":
            bare = Reply(fault["status"], {"Content-Length": "0"}, b"")
            return _with_retry_after(fault, bare, call.now)
        case _:
            return _with_retry_after(fault, refuse(Refusal(fault["code"])), call.now)


def bends(fault: Fault, reply: Reply) -> bool:
    """Whether a fault of `BENDING` makes a difference to *reply*."""
    match fault.kind:
        case "delay":
            return bool(fault["made"])
        case "cut_reply":
            return reply.arrives and len(reply.body) > (fault["at"] or 0)
        case "truncated_json":
            return reply.arrives and reply.headers.get("Content-Type") == "application/json"
        case "keepalive_race":
            return reply.arrives
        case _:
            return reply.arrives and bool(reply.body)


def bend(fault: Fault, reply: Reply) -> Reply:
    """*reply* with *fault*."""
    body, wire = reply.body, reply.wire
    match fault.kind:
        case "delay":
            return evolve(reply, wire=evolve(wire, delay=fault["seconds"]))
        case "cut_reply":
            at = len(body) // 2 if fault["at"] is None else fault["at"]
            return evolve(reply, wire=evolve(wire, cut_at=at))
        case "truncated_json":
            half = body[: len(body) // 2]
            return evolve(reply, body=half, headers={**reply.headers, "Content-Length": str(len(half))})
        case "wrong_length":
            told = max(len(body) + fault["by"], 0)
            headers = {**reply.headers, "Content-Length": str(told)}
            return evolve(reply, headers=headers, wire=evolve(wire, cut_at=min(told, len(body))))
        case "slow":
            return evolve(reply, wire=evolve(wire, bytes_per_second=fault["bytes_per_second"]))
        case _:
            return evolve(reply, wire=evolve(wire, stale=True))


def _abort(fault: Fault) -> Abort:
    return "reset" if fault["reset"] else "close"


def _with_retry_after(fault: Fault, reply: Reply, now: float) -> Reply:
    seconds = fault["retry_after"]
    if seconds is None:
        return reply
    # whole seconds alone can be written, in either form (RFC 9110, section 10.2.3)
    value = formatdate(math.ceil(now + seconds), usegmt=True) if fault["retry_date"] else math.ceil(seconds)
    return evolve(reply, headers={**reply.headers, "Retry-After": str(value)})
