"""A request checked and priced before anything is sent: the map, the pictures and the provider, joined.

`check` and `estimate` need no client and no key and send nothing.
"""

import functools
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from kling_async.protocol import images, masks
from kling_async.protocol.capabilities import Capabilities
from kling_async.protocol.errors import RequestError, UnsupportedError
from kling_async.protocol.findings import Finding
from kling_async.protocol.images import ImageText, ImageUrl, ResolvedImage
from kling_async.protocol.models import Image, TaskStatus, VideoRequest
from kling_async.protocol.prices import Prices
from kling_async.protocol.providers import KLING, KLING_CN, LACKS_SOURCE, Provider

if TYPE_CHECKING:
    from kling_async.bodies import Resolved

__all__ = [
    "capabilities",
    "check",
    "cost_told",
    "estimate",
    "examined",
    "findings",
    "prices_for",
    "spent",
    "tells_charges",
]

_ENDPOINTS: Final = "gateways reference, routes, November 2026"


def check(request: VideoRequest, provider: Provider = KLING) -> list[Finding]:
    """Everything that is known against *request*, before it is paid for. Blocking: pictures are read.

    Example::

        for finding in check(ImageToVideo(image="cat.png", prompt="it yawns", image_tail="dog.png")):
            print(finding)  # image_tail: needs mode pro with kling-v2-6

    Args:
        request: pictures given as a URL are not fetched.
        provider: where it shall go.

    Returns:
        Errors, which are certainly refused or come out wrong, and warnings, which are doubted: of the
        pictures, of what the provider lacks, of the map. Empty: nothing is known against it.
    """
    return examined(request, provider)[0]


def examined(
    request: VideoRequest, provider: Provider | None
) -> "tuple[list[Finding], Mapping[str, ResolvedImage] | None]":
    """The findings of `check`, and the pictures, so that nobody need read them twice.

    Args:
        request: what to make.
        provider: where; None: its pictures alone are looked at.

    Returns:
        Of the pictures None where one of them cannot be sent.
    """
    from kling_async.bodies import Resolved, resolve  # `import kling_async` loads this module, and no engine
    from kling_async.protocol import wire

    found: list[Finding] = []
    resolved: Resolved | None = None
    try:
        resolved = resolve(request)
    except RequestError as error:
        found += (Finding(each.field, "error", each.message, each.source) for each in error.problems)
    else:
        for warning in resolved.warnings:
            field, _, message = warning.partition(": ")
            found.append(Finding(field, "warning", message, images.SOURCE))
    sent = None if resolved is None else resolved.images
    if provider is None:
        return found, sent
    if request.endpoint not in provider.endpoints:
        found.append(Finding("", "error", f"{provider.name} has no {request.endpoint}", _ENDPOINTS))
        return found, sent
    try:
        wire.create(request, provider, _assumed(request) if sent is None else sent, external_task_id="")
    except UnsupportedError as error:
        found += (Finding(each.field, "error", each.message, each.source) for each in error.problems)
    return found + findings(request, provider, resolved or Resolved({})), sent


def findings(request: VideoRequest, provider: Provider, resolved: "Resolved") -> list[Finding]:
    """What the map says about *request*, whose pictures were read already; nothing is read here.

    A model that the map does not know has no finding of it. `extra_body` is the way around the map: what it
    sets is never judged, and where it sets the model, mode, duration or sound, neither is what depends on
    that. What the provider drops, it drops there too.
    """
    found = capabilities().findings(request, provider)
    if resolved.sizes:
        found += masks.misfits(request, resolved.sizes, turned=resolved.turned)
    if extra := request.extra_body:
        found = [each for each in found if each.name not in extra]
        dropped = f"is dropped by {provider.name} from extra_body too: use another provider"
        lost = sorted(provider.lacks.intersection(extra))
        found += (Finding(field, "warning", dropped, LACKS_SOURCE) for field in lost)
    return found


def estimate(
    request: VideoRequest, provider: Provider = KLING, prices: Prices | None = None
) -> Decimal | None:
    """What *request* costs when it succeeds, in Kling's units; None where no price is known, never zero.

    Args:
        request: what to make.
        provider: where; a gateway has prices of its own, so there *prices* alone are asked.
        prices: rates of your own; they win over Kling's.
    """
    return prices_for(provider, prices).estimate(request)


def cost_told(status: TaskStatus, units: Decimal | None, provider: Provider) -> Decimal | None:
    """What a task cost that ended as *status*, as far as *provider* tells that; None where it does not.

    A failure costs nothing, unless Kling itself tells otherwise. What a gateway passes on is what Kling
    charged the gateway: what that charged the caller, prices alone tell.

    Args:
        status: the last one.
        units: what the task told.
        provider: where.
    """
    known = units if tells_charges(provider) else None
    return Decimal(0) if known is None and status in (TaskStatus.FAILED, TaskStatus.REFUSED) else known


def spent(
    status: TaskStatus,
    units: Decimal | None,
    request: VideoRequest,
    provider: Provider,
    prices: Prices | None = None,
) -> Decimal | None:
    """What the task of *request* cost that ended as *status*, or may have cost; None where that is unknown.

    What was `cost_told` of it, else what prices tell.
    """
    known = cost_told(status, units, provider)
    return estimate(request, provider, prices) if known is None else known


def prices_for(provider: Provider, own: Prices | None = None) -> Prices:
    """The rates at *provider*: *own* and, at Kling itself, the published ones where those tell nothing."""
    if not tells_charges(provider):
        return own or Prices()
    published = _builtin()[1]
    return published if own is None else own.over(published)


def tells_charges(provider: Provider) -> bool:
    """Whether the units that it tells of a task are what the caller pays; a gateway passes on Kling's."""
    return provider.name in (KLING.name, KLING_CN.name)


def capabilities() -> Capabilities:
    """The map that comes with the package."""
    return _builtin()[0]


@functools.cache  # read at the first request and not on import; what it holds never changes
def _builtin() -> tuple[Capabilities, Prices]:
    import tomllib
    from importlib.resources import files

    text = files("kling_async.protocol").joinpath("capabilities.toml").read_text("utf-8")
    data = tomllib.loads(text, parse_float=Decimal)
    prices = Prices.from_mapping(data["prices"], source=data["sources"]["prices"], endpoints=("image2video",))
    return Capabilities.from_mapping(data), prices


def _assumed(request: VideoRequest) -> Mapping[str, ResolvedImage]:
    """What the pictures of *request* would be sent as, where one of them could not be read."""

    def assumed(picture: Image) -> ResolvedImage:
        try:
            meant = images.classify(picture, is_file=lambda _: True)
        except ValueError:
            meant = b""
        return meant if isinstance(meant, ImageUrl) else ImageText("", "")

    return {field: assumed(picture) for field, picture in images.sources(request)}
