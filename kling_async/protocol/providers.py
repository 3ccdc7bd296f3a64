"""Where requests go: Kling's two hosts and the gateways that front it, and what each of them lacks.

The values are facts of November 2026 (gateways reference, matrix). ``provider.at(base_url)`` points one
elsewhere; `new_api` makes one for any installation of the new-api gateway.
"""

import ipaddress
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal
from urllib.parse import SplitResult, urlsplit

import attrs

from kling_async.protocol.errors import ConfigurationError

__all__ = ["COMETAPI", "EZMODEL", "KLING", "KLING_CN", "LACKS_SOURCE", "PROVIDERS", "Provider", "new_api"]


@attrs.frozen(kw_only=True)
class Provider:
    """Someone who answers Kling's legacy API.

    Attributes:
        name: what ``KLING_PROVIDER`` calls it.
        base_url: scheme and host, perhaps with a path, without the prefix and a trailing slash.
        prefix: the beginning of every path: ``/v1``, or ``/kling/v1`` behind a gateway.
        env: the environment variables its API key is read from, in this order.
        lookup: whether a task can be queried by its external_task_id. ``unproven``: documented by half and
            never seen; it becomes yes when an acknowledged task was found that way. Without yes, a submit
            whose reply was lost stays unresolved.
        lists: whether tasks can be listed.
        account: whether it tells what is left of the account's resource packs.
        endpoints: the kinds of task it takes.
        lacks: fields it drops without a word: a request with one would be paid for and come out wrong.
        signs_callbacks: whether callbacks can be signed with a secret of yours. Through a gateway they come
            from Kling too, signed if at all with the gateway's.
        takes_access_key: whether an access key and its secret are accepted, not only an API key.
        dialect: how the body of a create is written; ``new-api`` gateways read fields in other places.
        poll_floor: seconds below which asking for a task again is in vain; 0 where no such number is known.
    """

    name: str
    base_url: str
    prefix: str
    env: tuple[str, ...]
    lookup: Literal["yes", "no", "unproven"]
    lists: bool
    account: bool = False
    endpoints: frozenset[str] = frozenset({"image2video", "multi-image2video"})
    lacks: frozenset[str] = frozenset()
    signs_callbacks: bool = False
    takes_access_key: bool = False
    dialect: Literal["kling", "new-api"] = "kling"
    poll_floor: float = 0.0

    def at(self, base_url: str) -> "Provider":
        """The same provider at another address.

        A trailing slash, and the prefix or the beginning of it, may stand at the end: they are not doubled.

        Raises:
            ConfigurationError: plain http to a host that is not this machine, or what is no base URL.
        """
        return attrs.evolve(self, base_url=_checked(base_url, self.prefix))


def _checked(base_url: str, prefix: str) -> str:
    """The base URL in its bare form; the refusals never show what could be a password in it."""
    text = base_url.strip()
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigurationError("the base URL cannot be read", advice=_EXAMPLE) from error
    if parts.scheme not in {"http", "https"} or not host:
        raise ConfigurationError("the base URL does not begin with https:// and a host", advice=_EXAMPLE)
    if "@" in parts.netloc:
        raise ConfigurationError("the base URL holds a user name or a password", advice=_EXAMPLE)
    if "?" in text or "#" in text or "\\" in text or any(sign <= " " for sign in text):
        raise ConfigurationError("the base URL holds a query, a fragment or a blank", advice=_EXAMPLE)
    if parts.scheme == "http" and not _is_loopback(host):
        raise ConfigurationError(
            f"plain http to {host} would show the key to everyone on the way",
            advice="use https; http is for this machine alone",
        )
    return f"{parts.scheme}://{parts.netloc}{_without_prefix(parts, prefix)}"


_EXAMPLE: Final = "give it like https://api.example.com"


def _without_prefix(parts: SplitResult, prefix: str) -> str:
    """The path without *prefix*, or the first pieces of it, at its end: people copy either."""
    path = parts.path.rstrip("/")
    while prefix:
        if path.endswith(prefix):
            return path.removesuffix(prefix)
        prefix = prefix.rpartition("/")[0]
    return path


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


_KLING_KEYS: Final = ("KLING_API_KEY", "KLINGAI_API_KEY")

KLING: Final = Provider(
    name="kling",
    base_url="https://api-singapore.klingai.com",
    prefix="/v1",
    env=_KLING_KEYS,
    lookup="yes",
    lists=True,
    account=True,
    signs_callbacks=True,
    takes_access_key=True,
)
"""Kling itself, for servers outside mainland China."""

KLING_CN: Final = attrs.evolve(KLING, name="kling-cn", base_url="https://api-beijing.klingai.com")
"""Kling in mainland China: accounts and keys of its own."""

COMETAPI: Final = Provider(
    name="cometapi",
    base_url="https://api.cometapi.com",
    prefix="/kling/v1",
    env=("COMETAPI_KEY",),
    lookup="unproven",
    lists=False,
)
"""CometAPI: passes Kling's own bodies through; its wrong paths answer with a redirect or a web page."""


def new_api(base_url: str) -> Provider:
    """An installation of the new-api gateway at *base_url*; its key is read from ``KLING_API_KEY``.

    It stores a task's state and refreshes it every 15 s, knows no external_task_id and no list, and drops
    the multi-shot, element and voice fields.

    Raises:
        ConfigurationError: see `Provider.at`.
    """
    return Provider(
        name="new-api",
        base_url=_checked(base_url, "/kling/v1"),
        prefix="/kling/v1",
        env=_KLING_KEYS,
        lookup="no",
        lists=False,
        endpoints=frozenset({"image2video"}),
        lacks=frozenset({"multi_shot", "shot_type", "multi_prompt", "element_list", "voice_list"}),
        dialect="new-api",
        poll_floor=15.0,
    )


EZMODEL: Final = attrs.evolve(new_api("https://api.ezmodel.cloud"), name="ezmodel", env=("EZMODEL_API_KEY",))
"""ezmodel: by all signs a new-api."""

LACKS_SOURCE: Final = "gateways reference, request fields, November 2026"
"""Where it stands what a provider drops, for `Problem.source`."""

PROVIDERS: Final[Mapping[str, Provider]] = MappingProxyType(
    {provider.name: provider for provider in (KLING, KLING_CN, COMETAPI, EZMODEL)}
)
"""The providers with an address of their own, by name."""
