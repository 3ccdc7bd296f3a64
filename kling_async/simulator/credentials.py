"""Checks the Authorization header: an API key, or a token signed with an AccessKey's secret.

The signature is checked with `hmac` and not with the library that the SDK signs with, so that an error
there shows.
"""

import hmac
import json
from base64 import urlsafe_b64decode
from collections.abc import Collection, Mapping
from typing import Any

from kling_async.simulator.messages import Refusal


def bearer(header: str | None) -> str:
    """The token in an Authorization header.

    Raises:
        Refusal: 1001 if it is missing or empty, 1002 if it is not `Bearer`, exactly one space and the token.
    """
    if not header:
        raise Refusal(1001)
    scheme, _, token = header.partition(" ")
    if scheme != "Bearer" or not token or any(mark.isspace() for mark in token):
        raise Refusal(1002)
    return token


def authenticate(
    header: str | None, api_keys: Collection[str], access_keys: Mapping[str, str], now: float
) -> None:
    """Accept an API key or a JWT (API reference, hosts and authentication).

    Raises:
        Refusal: 1000 wrong AccessKey or signature, 1001 no header, 1002 unreadable, 1003 `nbf` is later
            than *now*, 1004 `exp` is not.
    """
    token = bearer(header)
    if token in api_keys:
        return
    signed, _, signature = token.rpartition(".")
    head, _, payload = signed.partition(".")
    claims = _decoded(payload)
    if _decoded(head).get("alg") != "HS256" or "." in payload:
        raise Refusal(1002)
    issuer, expires, begins = (claims.get(name) for name in ("iss", "exp", "nbf"))
    if not (isinstance(issuer, str) and type(expires) is int and type(begins) is int):
        raise Refusal(1002, "Authorization is invalid: iss, exp and nbf are required, in whole seconds")
    secret = access_keys.get(issuer)
    if secret is None:
        raise Refusal(1000)
    if not hmac.compare_digest(hmac.digest(secret.encode(), signed.encode(), "sha256"), _bytes(signature)):
        raise Refusal(1000)
    if now < begins:
        raise Refusal(1003)
    if now >= expires:
        raise Refusal(1004)


def _bytes(part: str) -> bytes:
    try:
        return urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except ValueError:
        raise Refusal(1002) from None


def _decoded(part: str) -> dict[str, Any]:
    try:
        value = json.loads(_bytes(part))
    except ValueError:
        raise Refusal(1002) from None
    if not isinstance(value, dict):
        raise Refusal(1002)
    return value
