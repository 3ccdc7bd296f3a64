"""Who is who: the hash of a request, the idempotency key derived from it, the token that finds a task again.

All three are functions of their arguments alone, so that two processes, days apart, agree.
"""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Self, cast

import attrs

from kling_async.protocol.errors import Problem, RequestError
from kling_async.protocol.images import ImageUrl, ResolvedImage, sources
from kling_async.protocol.models import VideoRequest

__all__ = ["Issuer", "Token", "derive_external_task_id", "request_hash"]


def request_hash(request: VideoRequest, images: Mapping[str, ResolvedImage]) -> str:
    """What *request* asks for, as 64 hexadecimal digits: the same video has the same hash.

    A field left out does not count, so a field that a later version adds changes no hash. A picture counts by
    its content, however it was given; a URL without query and fragment, which sign it anew each day.

    Args:
        request: the request.
        images: its pictures by dotted field, resolved.

    Raises:
        RequestError: ``extra_body`` holds what JSON cannot express.
    """
    content = {
        "endpoint": request.endpoint,
        "fields": request,
        "images": {field: _content(images[field]) for field, _ in sources(request)},
    }
    try:
        text = json.dumps(_plain(content), sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(problems=[Problem("extra_body", f"cannot be JSON: {error}")]) from error
    return hashlib.sha256(text.encode("ascii")).hexdigest()


# Pictures are counted by their content. The id is derived from the hash. Where Kling calls back changes
# nothing in the video: a service restarted under another address must find its tasks, not pay for them again.
_UNCOUNTED = frozenset(
    {"image", "image_tail", "image_list", "static_mask", "mask", "external_task_id", "callback_url"}
)


def _content(image: ResolvedImage) -> str:
    """What a picture counts as."""
    return re.split(r"[?#]", image.url, maxsplit=1)[0] if isinstance(image, ImageUrl) else image.sha256


def _plain(value: Any) -> Any:
    """*value* in dicts, lists and scalars of one form: values that are equal give equal JSON."""
    if attrs.has(type(value)):
        fields = {field.name: getattr(value, field.name) for field in attrs.fields(type(value))}
        return {
            name: _plain(item) for name, item in fields.items() if item is not None and name not in _UNCOUNTED
        }
    match value:
        case Mapping():
            return {key: _plain(item) for key, item in cast("Mapping[str, Any]", value).items()}
        case list() | tuple():
            return [_plain(item) for item in cast("list[Any]", value)]
        case float() if value.is_integer():
            return int(value)  # 1.0 and 1 are one value, and their JSON is not
        case _:
            return value


def derive_external_task_id(
    *, namespace: str, account: str, key: str, request_hash: str, generation: int, secret: bytes
) -> str:
    """The idempotency key of one paid video: ``ka-`` and 26 characters of a-z and 2-7, 130 bits.

    Keyed with the credential, so that no other customer of a shared gateway account can derive it.

    Args:
        namespace: empty where the caller gave the key; else what tells this journal or folder from others.
        account: the account's fingerprint.
        key: the caller's name for the video.
        request_hash: see `request_hash`.
        generation: 0, and one more each time the same video is wanted again on purpose.
        secret: the credential.
    """
    # Each field is preceded by its length, so that no two different inputs are written alike. Half a
    # surrogate pair is what Python makes of a file name that is no UTF-8, and a file name may be a key.
    fields = [
        field.encode("utf-8", "surrogatepass")
        for field in (namespace, account, key, request_hash, str(generation))
    ]
    content = b"".join(b"%d:%b" % (len(field), field) for field in fields)
    # BLAKE2b takes keys of at most 64 bytes, which is the length of its digest.
    secret = secret if len(secret) <= 64 else hashlib.blake2b(secret).digest()
    digest = hashlib.blake2b(content, key=secret).digest()
    return "ka-" + base64.b32encode(digest)[:26].decode("ascii").lower()


_PREFIX = "kling1."
_LONGEST = 4096


@attrs.frozen
class Issuer:
    """Whose tasks are told of by tokens: the same for all tasks of a client.

    Attributes:
        provider: the provider's name.
        host: of its base URL, with the port if one is given.
        account: the account's fingerprint.
    """

    provider: str
    host: str
    account: str

    def token(
        self, endpoint: str, key: str | None, *, task_id: str | None, external_task_id: str | None
    ) -> "Token":
        """The token of one task. Raises as `Token` does."""
        return Token(
            provider=self.provider,
            host=self.host,
            account=self.account,
            endpoint=endpoint,
            key=key or "",
            task_id=task_id,
            external_task_id=external_task_id,
        )


@attrs.frozen(kw_only=True)
class Token:
    """Finds a task again, from another process too: what `TaskHandle.token` is made of. Holds nothing secret.

    Attributes:
        provider: the provider's name.
        host: of its base URL, with the port if one is given.
        account: the account's fingerprint.
        endpoint: the kind of task: ``image2video``, ``multi-image2video``.
        key: the caller's name for the video.
        task_id: Kling's id, None until acknowledged.
        external_task_id: our idempotency key, None for a task made elsewhere. One of the two ids is there.

    Raises:
        RequestError: a value of another type, no id, or more than 4,096 characters of text.
    """

    provider: str
    host: str
    account: str
    endpoint: str
    key: str
    task_id: str | None = None
    external_task_id: str | None = None

    def __attrs_post_init__(self) -> None:
        problems = [
            Problem(name, f"must be text, not {type(value).__name__}")
            for name, value in attrs.asdict(self).items()
            if not (isinstance(value, str) or (value is None and name in ("task_id", "external_task_id")))
        ]
        if not problems and not (self.task_id or self.external_task_id):
            problems = [Problem("task_id", "must be there, or external_task_id")]
        if not problems and len(self.text) > _LONGEST:
            problems = [Problem("key", f"must be shorter: the token would be over {_LONGEST:,} characters")]
        if problems:
            raise RequestError(problems=problems)

    @property
    def text(self) -> str:
        """The token as text: ``kling1.`` and A-Z, a-z, 0-9, ``-``, ``_``."""
        fields = {name: value for name, value in attrs.asdict(self).items() if value is not None}
        document = json.dumps(fields, separators=(",", ":"), ensure_ascii=False)
        raw = base64.urlsafe_b64encode(document.encode("utf-8", "surrogatepass"))
        return _PREFIX + raw.decode("ascii").rstrip("=")

    @classmethod
    def parse(cls, text: str) -> Self:
        """The token that *text* is; white space around it is dropped, fields of later versions are ignored.

        Raises:
            RequestError: it is none: cut off, mistyped, or something else altogether.
        """
        try:
            fields = _fields(text)
            names = {field.name for field in attrs.fields(cls)}
            return cls(**{name: value for name, value in fields.items() if name in names})
        except (TypeError, ValueError, RecursionError) as error:
            detail = error.what if isinstance(error, RequestError) else str(error)
            problem = Problem("token", f"is not one of ours: {detail}")
            raise RequestError(problems=[problem], advice="pass the whole text of a token") from error


def _fields(text: Any) -> dict[str, Any]:
    """What is written in a token, of any type.

    Raises:
        TypeError: it holds something other than fields.
        ValueError: *text* is no token.
        RecursionError: it is nested as no token is.
    """
    text = text.strip() if isinstance(text, str) else ""
    if not text.startswith(_PREFIX):
        raise ValueError(f"it does not begin with {_PREFIX}")
    if len(text) > _LONGEST:
        raise ValueError(f"it is longer than {_LONGEST:,} characters")
    raw = text.removeprefix(_PREFIX).translate({ord("-"): "+", ord("_"): "/"})
    raw += "=" * (-len(raw) % 4)
    fields = json.loads(binascii.a2b_base64(raw, strict_mode=True).decode("utf-8", "surrogatepass"))
    if not isinstance(fields, dict):
        raise TypeError("it holds no fields")
    return cast("dict[str, Any]", fields)
