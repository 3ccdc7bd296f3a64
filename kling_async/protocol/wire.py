"""The wire, sans I/O: requests as values going out, tasks coming in.

`create`, `query`, `list_page` and `packs` say what to send; the transport sends it; `read_created`,
`read_task`, `read_poll`, `read_page`, `read_sweep` and `read_callback` (from `replies`) say what came back.
"""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

import attrs

from kling_async.protocol.converter import to_body
from kling_async.protocol.errors import Problem, RequestError, UnsupportedError
from kling_async.protocol.images import ImageFile, ImageText, ImageUrl, ResolvedImage
from kling_async.protocol.models import VideoRequest
from kling_async.protocol.providers import LACKS_SOURCE, Provider
from kling_async.protocol.replies import (
    Response,
    read_callback,
    read_created,
    read_page,
    read_poll,
    read_sweep,
    read_task,
)

__all__ = [
    "Request",
    "Response",
    "create",
    "list_page",
    "packs",
    "query",
    "read_callback",
    "read_created",
    "read_page",
    "read_poll",
    "read_sweep",
    "read_task",
]


@attrs.frozen
class Request:
    """An HTTP request, without the headers every one has.

    Attributes:
        method: ``GET`` or ``POST``.
        url: complete, with the query string.
        document: the JSON body in plain values, but for an `ImageText` or `ImageFile` wherever base64 is to
            be streamed in; None for no body.
    """

    method: str
    url: str
    document: Mapping[str, Any] | None = attrs.field(default=None, repr=False)


def create(
    request: VideoRequest,
    provider: Provider,
    images: Mapping[str, ResolvedImage],
    *,
    external_task_id: str,
    callback_url: str | None = None,
) -> Request:
    """What submits *request* (API reference, create; gateways reference, request fields).

    Args:
        request: what to make.
        provider: where.
        images: each picture of the request by its dotted field, as `images.sources` names them.
        external_task_id: the idempotency key it goes under, the request's own or a derived one.
        callback_url: where Kling posts, unless the request itself says so.

    Raises:
        UnsupportedError: the provider lacks the endpoint or drops a field, with every such field.
    """
    _require(provider, request.endpoint)
    body = to_body(request)
    _put_pictures(body, images)
    for place, shot in enumerate(body.get("multi_prompt", ()), start=1):
        shot["index"] = place
    body["external_task_id"] = external_task_id
    if callback_url is not None:
        body.setdefault("callback_url", callback_url)
    if provider.dialect == "new-api":
        if problems := _lost_fields(body, provider, images):
            raise UnsupportedError(problems=problems)
        body = _new_api(body, dict(request.extra_body or {}))
    else:
        body |= request.extra_body or {}
    return Request("POST", _url(provider, request.endpoint), body)


def query(provider: Provider, endpoint: str, id: str) -> Request:  # noqa: A002 - Kling calls both kinds of id that
    """What asks for one task by its task_id or, where the provider knows it, its external_task_id.

    Raises:
        UnsupportedError: the provider lacks the endpoint.
        RequestError: *id* is empty or dots, which would make it another path.
    """
    _require(provider, endpoint)
    if not id.strip("."):
        raise RequestError(problems=[Problem("id", "must not be empty")])
    return Request("GET", f"{_url(provider, endpoint)}/{quote(id, safe='', errors='replace')}")


def list_page(provider: Provider, endpoint: str, *, page: int, page_size: int) -> Request:
    """What asks for a page of the tasks of one kind; a page shorter than *page_size* is the last.

    Args:
        provider: where.
        endpoint: the kind of task.
        page: 1 to 1,000.
        page_size: 1 to 500 (API reference, legacy query and list).

    Raises:
        UnsupportedError: the provider has no list, or lacks the endpoint.
        RequestError: *page* or *page_size* is out of range.
    """
    _require(provider, endpoint)
    if not provider.lists:
        raise UnsupportedError(f"{provider.name} cannot list tasks")
    problems = [
        Problem(field, f"must be from 1 to {most}, not {value}")
        for field, value, most in (("page", page, 1000), ("page_size", page_size, 500))
        if not 1 <= value <= most
    ]
    if problems:
        raise RequestError(problems=problems)
    return Request("GET", f"{_url(provider, endpoint)}?pageNum={page}&pageSize={page_size}")


_PACKS_SINCE: Final = 400 * 86_400
"""Seconds that are asked for, back from now.

Which of a pack's times the window is held against is not documented, so it must hold the earliest, its
purchase. Packs run for months, a year at the longest that is sold; the rest is for one that was bought some
weeks before it began.
"""


def packs(provider: Provider, *, now: float) -> Request:
    """What asks for the packs that can still be valid at *now*, Unix seconds; at most once a second.

    Raises:
        UnsupportedError: the provider does not tell of packs.
    """
    if not provider.account:
        raise UnsupportedError(f"{provider.name} does not tell what is left of an account")
    start, end = round((now - _PACKS_SINCE) * 1000), round(now * 1000)
    return Request("GET", f"{provider.base_url}/account/costs?start_time={start}&end_time={end}")


def _url(provider: Provider, endpoint: str) -> str:
    return f"{provider.base_url}{provider.prefix}/videos/{endpoint}"


def _require(provider: Provider, endpoint: str) -> None:
    if endpoint not in provider.endpoints:
        raise UnsupportedError(f"{provider.name} has no {endpoint}")


def _put_pictures(body: dict[str, Any], images: Mapping[str, ResolvedImage]) -> None:
    """Put each resolved picture where the request's own stands in *body*."""
    for name in ("image", "image_tail", "static_mask"):
        if name in body:
            body[name] = _content(images[name])
    for place, mask in enumerate(body.get("dynamic_masks", ())):
        mask["mask"] = _content(images[f"dynamic_masks[{place}].mask"])
    for place, item in enumerate(body.get("image_list", ())):
        item["image"] = _content(images[f"image_list[{place}]"])


def _content(image: ResolvedImage) -> str | ImageText | ImageFile:
    return image.url if isinstance(image, ImageUrl) else image


_READ_IN_PLACE: Final = frozenset({"model_name", "prompt", "image", "mode", "duration"})
"""Fields that every version of new-api reads at the top level."""


def _lost_fields(
    body: Mapping[str, Any], provider: Provider, images: Mapping[str, ResolvedImage]
) -> list[Problem]:
    """What would be paid for and come out wrong at a new-api gateway.

    A body without ``image`` becomes a text-to-video. The other pictures are read in one place by some
    versions and in another by the rest, and nothing tells the version. A URL goes to both; base64 in both
    would double the upload, and in one it may be dropped without a word.
    """
    name = provider.name
    lost = {field: f"is dropped by {name}" for field in sorted(provider.lacks) if body.get(field)}
    if body.get("cfg_scale") == 0:
        lost["cfg_scale"] = f"0 is dropped by {name}, which then takes 0.5: give 0.01"
    if "image" not in body:
        lost["image"] = f"is required: without it {name} makes a video of the text alone"
    for field, image in images.items():
        if field != "image" and not isinstance(image, ImageUrl):
            lost[field] = f"must be a URL: {name} may drop anything else"
    return [Problem(field, message, LACKS_SOURCE) for field, message in lost.items()]


def _new_api(body: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """The body that both flows of new-api read alike (gateways reference, version trap).

    Some versions read ``model`` and the rest in ``metadata`` alone, the others ``model_name`` and the top
    level alone: what matters goes to both.
    """
    body |= extra
    metadata = {name: value for name, value in body.items() if name not in _READ_IN_PLACE | {"metadata"}}
    return {"model": body["model_name"], **body, "metadata": metadata} | extra
