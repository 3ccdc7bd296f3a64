"""What Kling's codes mean: which error, and what to do about it; and which errors may be tried again.

The errors themselves are classes in `errors`.
"""

from typing import Final

from kling_async.protocol.errors import (
    AccountError,
    AlreadyExistsError,
    APIError,
    AuthenticationError,
    ConcurrencyLimitError,
    ConnectError,
    DownloadError,
    GatewayError,
    InvalidRequestError,
    KlingError,
    NotFoundError,
    PolicyError,
    ProtocolError,
    RateLimitError,
    ServerError,
    TransportError,
    one_line,
)

__all__ = ["api_error", "is_retryable"]

_BY_CODE: Final[dict[int, type[APIError]]] = {
    **dict.fromkeys((1000, 1001, 1002, 1003, 1004), AuthenticationError),
    **dict.fromkeys((1100, 1101, 1102, 1103, 1304), AccountError),
    **dict.fromkeys((1200, 1201, 1202, 1203), InvalidRequestError),
    **dict.fromkeys((1300, 1301), PolicyError),
    1302: RateLimitError,
    1303: ConcurrencyLimitError,
    **dict.fromkeys((5000, 5001, 5002), ServerError),
}
"""Kling's codes; the vendor changed wording over the years, never codes (API reference, errors)."""


def _class_of(code: int, message: str, http_status: int) -> type[APIError]:
    text = message.lower()
    if code == 1201 and "already exists" in text:
        return AlreadyExistsError
    if code == 1201 and "task not found" in text:
        return NotFoundError
    if code in _BY_CODE:
        return _BY_CODE[code]
    # an undocumented code: 1xxx says no as its neighbours do, else whatever tells of a server tells the most
    failed = code >= 5000 or 500 <= code < 600 or (http_status >= 500 and not 1000 <= code < 2000)
    return ServerError if failed else APIError


_ADVICE: Final = {
    1000: "check the key, and that it is this provider's",
    1001: "give the key: kling-async doctor tells which is read",
    1002: "check the key: copy it anew, and where only an API key is taken, make one",
    1003: "set this machine's clock, which is fast",
    1004: "set this machine's clock, which is slow",
    1100: "see to the account in Kling's console",
    1101: "see to the account: top up",
    1102: "see to the account: buy a pack for videos; one for pictures does not pay for them",
    1103: "see to the account: ask Kling for this model or endpoint, or take another",
    1304: "see to the account: have this machine's address put on the allow-list",
    1202: "check the base URL",
    1203: "check model_name",
}
"""What to do about a code whose error has others with other cures (API reference, errors)."""


def api_error(
    code: int,
    message: str,
    *,
    http_status: int,
    request_id: str | None = None,
    retry_after: float | None = None,
) -> APIError:
    """The error for Kling's business *code*; 1201 is overloaded and told apart by its *message*."""
    kind = _class_of(code, message, http_status)
    what = f"{one_line(message) or 'no message'} (HTTP {http_status}, code {code})"
    return kind(
        what,
        code=code,
        message=message,
        http_status=http_status,
        request_id=request_id,
        retry_after=retry_after,
        advice=_ADVICE.get(code, kind.advice),
    )


def is_retryable(error: KlingError, *, creating: bool) -> bool:
    """Whether the same call may succeed later, and making it again cannot pay twice.

    Kling's code decides, never HTTP 429 alone: arrears (1102) come as 429 too. Retryable are

    - for every call: 1302, 1303, no connection, and a 429 that carries no readable code;
    - for a download, a broken connection and HTTP 408, 429 and 5xx;
    - for a call that only reads, also 5000-5002, a lost reply, HTTP 5xx and a body that cannot be read.

    Everything else is fatal: the same call would fail again.
    """
    match error:
        case RateLimitError() | ConcurrencyLimitError() | ConnectError():
            return True
        case ServerError() | TransportError():
            return not creating
        case DownloadError(http_status=status):
            return status in (0, 408, 429) or status >= 500
        case GatewayError(code=code) if code in _GATEWAY_FATAL:
            return False
        case ProtocolError(http_status=429):
            return True
        case ProtocolError(http_status=status):
            return not creating and (status >= 500 or status < 300 or status == 408)
        case _:
            return False


_GATEWAY_FATAL: Final = frozenset({"invalid_request", "build_request_failed", "model_not_found"})
"""Gateway codes that are configuration or a malformed request although they come as HTTP 5xx."""
