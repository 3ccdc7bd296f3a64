"""The credential: what it is, and the bearer token it becomes.

Two kinds (API reference, hosts and authentication): an API key is sent as it is; an access key signs, with
its secret, a token of half an hour. No repr, message or fingerprint here shows any of them.
"""

import base64
import binascii
import hashlib
import hmac
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Final

import attrs

from kling_async.protocol.errors import CallbackError, ConfigurationError

__all__ = ["AROUND", "APIKey", "AccessKey", "Credentials", "Signer", "account", "check_signature", "secret"]

AROUND: Final = " \t\r\n\f\v\"'`\u2018\u2019\u201c\u201d\u00a0\u200b\ufeff"
"""What gets copied along with a key: blanks, quotes straight and curly, a byte order mark."""


def _cleaned(key: str) -> str:
    """*key* without what was copied along with it; what is left is printable ASCII or refused."""
    if not isinstance(key, str):
        raise ConfigurationError(f"a key must be text, not {type(key).__name__}", advice="give the key")
    text = key.strip(AROUND)
    scheme, _, rest = text.partition(" ")
    if scheme.lower() == "bearer":
        text = rest.strip(AROUND)
    if not text:
        raise ConfigurationError("the key is empty", advice="give the key")
    if not all("!" <= sign <= "~" for sign in text):
        raise ConfigurationError(
            "the key holds a blank, a control character or a letter that is not plain ASCII",
            advice="copy the key again",
        )
    return text


@attrs.frozen
class APIKey:
    """An API key, of Kling or of a gateway.

    Attributes:
        key: cleaned of quotes, white space, a byte order mark and ``Bearer``; never shown.

    Raises:
        ConfigurationError: nothing is left, or something that cannot be in a header.
    """

    key: str = attrs.field(repr=False, converter=_cleaned)


@attrs.frozen
class AccessKey:
    """An access key and its secret, which sign tokens for Kling's own hosts.

    Attributes:
        access_key: cleaned as `APIKey.key` is; never shown.
        secret_key: the same.

    Raises:
        ConfigurationError: as for `APIKey`.
    """

    access_key: str = attrs.field(repr=False, converter=_cleaned)
    secret_key: str = attrs.field(repr=False, converter=_cleaned)


Credentials = APIKey | AccessKey
"""What proves to a provider who pays."""


def account(credentials: Credentials) -> str:
    """A fingerprint that names the account, 16 hexadecimal digits; the key cannot be found from it.

    Of an access key its secret is no part: a new secret is the same account.
    """
    name = credentials.key if isinstance(credentials, APIKey) else credentials.access_key
    return hashlib.blake2b(name.encode(), digest_size=8, person=b"kling-account").hexdigest()


def secret(credentials: Credentials) -> bytes:
    """What only the holder of the credential knows: keys the idempotency keys derived for it."""
    return (credentials.key if isinstance(credentials, APIKey) else credentials.secret_key).encode()


_LIFETIME: Final = 1800
"""Seconds a token is valid, as in every official sample; the longest allowed is not documented."""

_RENEWAL: Final = 300
"""Seconds before its end at which a token is renewed: more than a slow upload takes."""

_LEEWAY: Final = 5
"""Seconds that Kling's clock may be behind ours."""


@attrs.define(eq=False)
class Signer:
    """Makes the ``Authorization`` header of every request, and signs again no more often than it must."""

    credentials: Credentials
    _header: str = attrs.field(init=False, default="", repr=False)
    _good_from: float = attrs.field(init=False, default=math.inf, repr=False)
    _good_until: float = attrs.field(init=False, default=math.inf, repr=False)

    def bearer(self, now: float) -> str:
        """The header's value at *now*, Unix seconds.

        A token is renewed 300 s before it ends, and when the clock was set back behind its signing: it would
        not yet be valid there.
        """
        if not self._good_from <= now < self._good_until:
            self._sign(now)
        return self._header

    def _sign(self, now: float) -> None:
        if isinstance(self.credentials, APIKey):
            self._header = f"Bearer {self.credentials.key}"
            self._good_from, self._good_until = -math.inf, math.inf
        else:
            self._header = f"Bearer {_token(self.credentials, int(now))}"
            self._good_from, self._good_until = now, now + _LIFETIME - _RENEWAL

    def renew(self) -> bool:
        """Forget the token, since it was refused; whether signing again can help."""
        self._good_from = math.inf
        return isinstance(self.credentials, AccessKey)


def _token(credentials: AccessKey, now: int) -> str:
    import jwt  # an API key, what most have, needs none

    claims = {"iss": credentials.access_key, "exp": now + _LIFETIME, "nbf": now - _LEEWAY}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyJWT's, of a short secret: its length is the provider's choice
        return jwt.encode(claims, credentials.secret_key, algorithm="HS256")


_WINDOW: Final = 300
"""Seconds that the time of a signature may be away from ours (API reference, callbacks: signature)."""


def check_signature(headers: Mapping[str, str], body: bytes, secrets: Sequence[str], now: float) -> bool:
    """Whether Kling signed a callback: Standard Webhooks, ``v1`` alone (API reference, callbacks: signature).

    Args:
        headers: by lower-case name.
        body: the bytes as they came.
        secrets: ``whsec_...``, any of which may fit; none: nothing can be checked.
        now: Unix seconds.

    Returns:
        False: it bears no signature, or there is no secret to check it with.

    Raises:
        CallbackError: a signature that does not fit, or a time more than 300 s away from *now*.
        ConfigurationError: a secret is none.
    """
    if isinstance(secrets, str):
        raise ConfigurationError("secrets is a list of secrets, not one")
    keys = [_webhook_key(secret) for secret in secrets]
    names = ("webhook-id", "webhook-timestamp", "webhook-signature")
    if not keys or not any(name in headers for name in names):
        return False
    id_, timestamp, signatures = (headers.get(name, "") for name in names)
    signed = b".".join((_bytes(id_), _bytes(timestamp), body))
    given = [text.partition(",")[2] for text in signatures.split() if text.startswith("v1,")]
    wanted = [base64.b64encode(hmac.digest(key, signed, "sha256")) for key in keys]
    # every one is compared, so that the time taken tells nothing
    if not sum(hmac.compare_digest(_bytes(one), other) for one in given for other in wanted):
        raise CallbackError("the callback's signature fits no secret", http_status=401)
    # a number that is none fails here too, and only Kling could have signed it
    if not timestamp.isascii() or not timestamp.isdigit() or abs(now - int(timestamp)) > _WINDOW:
        raise CallbackError("the callback was signed more than 300 s ago, or is to come", http_status=401)
    return True


def _bytes(text: str) -> bytes:
    """A header's value as bytes; where a server made surrogates of them, no signature fits anyway."""
    return text.encode("utf-8", "surrogatepass")


def _webhook_key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.strip(AROUND).removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not key:
        raise ConfigurationError("a webhook secret is whsec_ and base64", advice="copy the secret again")
    return key
