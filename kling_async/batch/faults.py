"""All that is wrong with a row at once, though no request can be made of it: who mends it, mends it once."""

import contextlib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set as AbstractSet
from typing import Any, Final

import attrs

from kling_async import checking
from kling_async.batch.pictures import with_pictures
from kling_async.protocol.converter import request_from
from kling_async.protocol.errors import Problem, RequestError
from kling_async.protocol.findings import Finding
from kling_async.protocol.models import ImageToVideo
from kling_async.protocol.providers import Provider

__all__ = ["beside", "follows", "mistaken", "outermost", "without"]

_PICTURE: Final = "https://example.com/a.png"
_SOUND: Final[Mapping[str, Any]] = {"image": _PICTURE, "image_list": (_PICTURE,), "prompt": "-"}
"""What stands where a request needs something and what is given is faulty; it is not looked at, or sent."""
_CHOICES: Final[Mapping[str, Sequence[str]]] = {
    "mode": ("std", "pro", "4k"),
    "duration": ("5", "10"),
    "sound": ("on", "off"),
}
"""What may be meant where a faulty value stands that the map goes by."""

_UNKNOWN: Final = re.compile(r"no such field(?:; did you mean (\w+)\?)?")
_SHOTS: Final = frozenset({"multi_shot", "shot_type", "multi_prompt"})
"""Fields that are judged together."""
_FOLLOWING: Final = (
    ("image", "give image", frozenset({"image_tail"})),
    ("prompt", "is required unless", frozenset({"multi_shot", "shot_type"})),
    ("shot_type", "is required with", frozenset({"multi_shot"})),
    ("multi_prompt", "durations add up", frozenset({"duration"})),
)
"""Problems, by field and beginning, that are none where one of these other fields is not what was meant."""


def outermost(problem: Problem) -> str:
    """The field of the request that *problem* is in: ``camera_control`` of ``camera_control.type``."""
    return re.split(r"[.\[]", problem.field, maxsplit=1)[0]


def mistaken(problems: Iterable[Problem], fields: Mapping[str, Any]) -> tuple[set[str], set[str]]:
    """The names among *fields* that *problems* call unknown, and what is probably meant and not given."""
    found = {each.field: _UNKNOWN.fullmatch(each.message) for each in problems if each.field in fields}
    unknown = {field: match[1] for field, match in found.items() if match}
    return set(unknown), {name for name in unknown.values() if name and name not in fields}


def follows(problem: Problem, faulty: AbstractSet[str]) -> bool:
    """Whether *problem* may be there only because other fields are *faulty*."""
    return any(
        problem.field == field and problem.message.startswith(beginning) and not causes.isdisjoint(faulty)
        for field, beginning, causes in _FOLLOWING
    )


def without(fields: Mapping[str, Any], faulty: AbstractSet[str]) -> Mapping[str, Any]:
    """*fields* without those that are *faulty*; `extra_body` has these, so that nothing is said of them.

    It has none of `_CHOICES`: of a request that has one there the map says nothing at all.
    """
    if not faulty:
        return fields
    left = {name: value for name, value in fields.items() if name not in faulty}
    left |= {name: value for name, value in _SOUND.items() if name in faulty}
    extra = left.get("extra_body") or {}
    unsaid = dict.fromkeys(faulty - _CHOICES.keys())
    return {**left, "extra_body": {**extra, **unsaid} if isinstance(extra, Mapping) else extra}


def beside(
    fields: Mapping[str, Any], faulty: AbstractSet[str], provider: Provider | None
) -> Iterable[Finding]:
    """What is known against *fields*, of which no request can be made, besides what is *faulty*.

    Each picture is looked at by itself, and all else in requests without what is faulty: what counts is
    what holds whatever is meant there.
    """
    found: list[Finding] = []

    def look(field: str, picture: Any) -> Any:
        with contextlib.suppress(RequestError):  # what can be no picture is known to be faulty
            seen, _ = checking.examined(_alone(field, picture), None)
            found.extend(attrs.evolve(each, field=field) for each in seen)
        return picture

    with_pictures(fields, look)
    if not faulty.isdisjoint(_SHOTS):
        faulty = faulty | _SHOTS
    rests: list[list[Finding]] = []
    for meant in _meant(fields, faulty):
        with contextlib.suppress(RequestError):  # there is none without what is faulty
            rests.append(checking.examined(request_from(meant), provider)[0])
    certain = rests[0] if rests else []
    found += (each for each in certain if each.name not in faulty and all(each in rest for rest in rests))
    return dict.fromkeys(found)


def _meant(fields: Mapping[str, Any], faulty: AbstractSet[str]) -> Iterator[Mapping[str, Any]]:
    """*fields* without those that are *faulty*, with each choice there may be of what the map goes by."""
    left = without(fields, faulty)
    names = [name for name in _CHOICES if name in faulty and not (name == "sound" and "image_list" in left)]
    for choice in itertools.product(*(_CHOICES[name] for name in names)):
        yield {**left, **dict(zip(names, choice, strict=True))}


def _alone(field: str, picture: Any) -> ImageToVideo:
    """A request in which nothing but *picture* can be wrong, as it is looked at in *field*."""
    role = "static_mask" if field.endswith("mask") else "image_tail" if field == "image_tail" else "image"
    fields: dict[str, Any] = {"image": _PICTURE, "prompt": "-", role: picture}
    return ImageToVideo(**fields)
