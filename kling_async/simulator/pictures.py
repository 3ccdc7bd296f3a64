"""The pictures of a request: URLs are taken as they are, base64 is decoded and measured."""

import io
from base64 import b64decode
from collections.abc import Iterator, Mapping
from hashlib import sha256
from typing import Any, Final

import imagesize
from attrs import frozen

from kling_async.simulator.messages import Refusal

_LARGEST: Final = 10 * 1024 * 1024  # bytes; API reference, image2video: create
_SMALLEST_SIDE: Final = 300  # pixels; the same
_WIDEST: Final = 2.5  # the longer side over the shorter; the same
_SIGNATURES: Final = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
_URL: Final = ("http://", "https://")
_FIELDS: Final = frozenset({"image", "image_tail", "static_mask", "mask"})


@frozen
class Picture:
    """A submitted picture.

    Attributes:
        content: The file.
        width: Pixels, from the file's header.
        height: The same.
    """

    content: bytes
    width: int
    height: int


def decode_all(body: Mapping[str, Any]) -> dict[str, Picture | None]:
    """The pictures of *body* by field, in their order; None for one given as a URL.

    Raises:
        Refusal: 1201, one is no URL and no raw base64 of a PNG or JPEG within the limits; its field is named.
    """
    return {field: _decoded(field, value) for field, value in _sent(body)}


def without_pictures(body: Mapping[str, Any]) -> dict[str, Any]:
    """*body* with `sha256:` and the digest of its bytes in place of each base64 picture."""
    return {name: _shortened(name, value) for name, value in body.items()}


def _sent(body: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name in ("image", "image_tail", "static_mask"):
        if body.get(name):
            yield name, body[name]
    for name, field in (("dynamic_masks", "mask"), ("image_list", "image")):
        for index, item in enumerate(body.get(name, ())):
            yield f"{name}[{index}].{field}", item[field]


def _decoded(field: str, value: str) -> Picture | None:
    if value.startswith(_URL):
        return None
    if value.startswith("data:"):
        raise Refusal(1201, f"{field}: base64 must not carry a data: prefix")
    try:
        content = b64decode(value, validate=True)
    except ValueError:
        raise Refusal(1201, f"{field}: File is not in a valid base64 format") from None
    if not content.startswith(_SIGNATURES):
        raise Refusal(1201, f"{field}: image format must be jpg, jpeg or png")
    if len(content) > _LARGEST:
        raise Refusal(1201, f"{field}: image size must not exceed 10MB")
    width, height = map(int, imagesize.get(io.BytesIO(content)))
    shorter, longer = sorted((width, height))
    if shorter <= 0:
        raise Refusal(1201, f"{field}: image cannot be read")
    # of a mask only the ratio is stated, and of the end frame all but the ratio
    if "mask" not in field and shorter < _SMALLEST_SIDE:
        raise Refusal(1201, f"{field}: image width and height must be at least 300px: {width}x{height}")
    if "mask" not in field and field != "image_tail" and longer > _WIDEST * shorter:
        raise Refusal(1201, f"{field}: image aspect ratio must be within 1:2.5 and 2.5:1: {width}x{height}")
    return Picture(content, width, height)


def _shortened(name: str, value: Any) -> Any:
    match value:
        case str() if name in _FIELDS and value and not value.startswith(_URL):
            try:
                content = b64decode(value)
            except ValueError:  # in a field that nobody reads
                content = value.encode()
            return f"sha256:{sha256(content).hexdigest()}"
        case list():
            return [_shortened(name, item) for item in value]
        case dict():
            return without_pictures(value)
        case _:
            return value
