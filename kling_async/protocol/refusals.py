"""What the words, codes and headers of a refusal mean, and how its text may be shown."""

import math
import re
from collections.abc import Mapping
from typing import Any, Final

from kling_async.protocol.errors import Outcome

__all__ = ["ADVICE", "LATER", "code_of", "excerpt_of", "masked", "outcome_of", "retry_after", "text_of"]

LATER: Final = "try again later"

ADVICE: Final[Mapping[str, str]] = {
    "invalid_request": "correct the request",
    "build_request_failed": "correct the request",
    "model_not_found": "use another model or another provider",
}
_AFTER_SENDING: Final = frozenset(
    {
        "do_request_failed",
        "read_response_body_failed",
        "unmarshal_response_failed",
        "insert_task_failed",
    }
)
"""Steps at which a gateway has called Kling, or may have (gateways reference, errors)."""

_BEFORE_SENDING: Final = frozenset(
    {
        "build_request_failed",
        "gen_relay_info_failed",
        "get_channel_failed",
        "insufficient_user_quota",
        "invalid_request",
        "model_not_found",
        "quota_not_enough",
        "read_request_body_failed",
        "task_failed",
    }
)
"""Steps before that, whatever the status, and ``task_failed``, which is Kling's own no."""

_MAY_HAVE_ARRIVED: Final = frozenset({408, 409, 425, 499})
"""The 4xx that tell of time and of other requests, not of this one."""


def outcome_of(status: int, code: str = "") -> Outcome:
    """What a refusal without one of Kling's codes means for the task that a create was to make."""
    if code in _BEFORE_SENDING:
        return Outcome.NOT_CREATED
    refused = 300 <= status < 500 and status not in _MAY_HAVE_ARRIVED and code not in _AFTER_SENDING
    return Outcome.NOT_CREATED if refused else Outcome.MAY_EXIST


def code_of(value: Any) -> int | str | None:
    """The business code: a number, a gateway's word, or None; every word for yes is 0."""
    if isinstance(value, str):
        word = value.strip()
        if word.removeprefix("-").isdecimal() and word.isascii() and len(word) < 10:
            return int(word)
        return 0 if word.lower() in {"", "success", "succeed", "ok"} else word
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def text_of(value: Any) -> str:
    """*value* if it is text, else none."""
    return value if isinstance(value, str) else ""


def retry_after(value: str, now: float | None) -> float | None:
    """Seconds to wait, 0 to 3600, from a header in either of its forms (RFC 9110, Retry-After)."""
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        from email.utils import parsedate_to_datetime  # few replies carry the header, fewer a date

        try:
            seconds = math.nan if now is None else parsedate_to_datetime(value).timestamp() - now
        except (ValueError, OverflowError, OSError):
            return None
    return None if math.isnan(seconds) else min(max(seconds, 0.0), 3600.0)


_SECRETS: Final = (
    (re.compile(r"bearer\s+[^\s\"',]+", re.IGNORECASE), "Bearer ***"),
    (re.compile(r"(https?://[^\s?\"'<>]+)\?[^\s\"'<>]*", re.IGNORECASE), r"\1?***"),  # signed URLs
    (re.compile(r"\bsk-[\w-]{8,}"), "sk-***"),
    (re.compile(r"[\w+/=.-]{64,}|[A-Za-z0-9+=]{32,}"), "***"),  # tokens and pictures; keys
)


def masked(text: str) -> str:
    """*text* on one line without anything that looks like a key, a token or a picture."""
    text = " ".join(text[:2000].split())
    for pattern, mask in _SECRETS:
        text = pattern.sub(mask, text)
    return text


def excerpt_of(body: bytes) -> str:
    """The beginning of *body*, at most 120 characters."""
    text = masked(body[:2000].decode("utf-8", "replace"))
    return text if len(text) <= 120 else f"{text[:119]}…"
