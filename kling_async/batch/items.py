"""Rows, wherever they were read, -> items: fields joined, pictures located and fitted, requests checked."""

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping, Set as AbstractSet
from pathlib import Path
from typing import Any, Final, Literal

import attrs

from kling_async import checking
from kling_async.batch.pictures import Fit, Fitter, is_masked, locator, meant_instead, with_pictures
from kling_async.batch.templates import filled, template
from kling_async.flight import Names
from kling_async.protocol import identity
from kling_async.protocol.converter import request_from
from kling_async.protocol.errors import Problem, RequestError
from kling_async.protocol.findings import Finding
from kling_async.protocol.models import ImageToVideo, VideoRequest
from kling_async.protocol.providers import Provider

__all__ = ["Check", "Item", "Maker", "Row"]

Check = Literal["warn", "error"]
"""Whether what the API's rules cast doubt on is only told, or refused."""

_LONGEST_KEY: Final = 500
"""Characters: a key becomes a file's name and part of a token."""

_FIT_HELPS: Final = re.compile(r"is (WebP|GIF|TIFF|BMP|AVIF|HEIC), whatever|has [\d,]+ bytes, at most")
"""Refusals of a picture that fitting it does away with."""

_DRAWN_FOR: Final = (
    "; as its masks are drawn for it, it is not fitted with them: fit it first, with kling_async.fit or "
    "with --fit alone, and draw the masks for the result"
)
_MISSING: Final = " does not exist"
_PICTURE: Final = "https://example.com/a.png"
_SOUND: Final[Mapping[str, Any]] = {"image": _PICTURE, "image_list": (_PICTURE,), "prompt": "-"}
"""What stands where a request needs something and what is given is faulty; it is not looked at, or sent."""


@attrs.frozen
class Item:
    """One request of a source.

    Attributes:
        key: the caller's name for it, where one was given.
        name: what reports and files call it: the key, else its first picture's name, with ``-2``, ``-3``
            where several pictures are called alike.
        request: the request.
        request_hash: what it asks for, see `identity.request_hash`.
        place: where it stands, for people: ``shots.csv:37``, or the picture in a folder.
        findings: what is doubtful about it; what is wrong would have made it a problem.
        original: the same with its pictures as they are, where they were fitted into other bytes and it
            would pass without that: what an earlier run may have paid for, see `as_made`.
    """

    key: str | None
    name: str
    request: VideoRequest
    request_hash: str
    place: str = ""
    findings: tuple[Finding, ...] = ()
    original: "Item | None" = None

    @property
    def submission(self) -> VideoRequest | tuple[str, VideoRequest]:
        """What a stream takes: without a key it is recognised by content and ordinal."""
        return self.request if self.key is None else (self.key, self.request)


@attrs.frozen
class Row:
    """One request as it was read.

    Attributes:
        place: where it stands, for people: ``shots.csv:37``, or the picture in a folder.
        fields: its own.
        base: the folder that its paths are relative to.
        picture: the file, of a row that is nothing but a picture in a folder.
        dotted: fields that are columns in parts: their entries are counted from 1, as the columns are.
        problems: what of it could not be read, by field; without one: the row as a whole, of which nothing
            more is told.
        broken: it is the source that is faulty: what stands behind it was not read, or means nothing.
    """

    place: str
    fields: Mapping[str, Any]
    base: Path
    picture: Path | None = None
    dotted: frozenset[str] = frozenset()
    problems: tuple[Problem, ...] = ()
    broken: bool = False


class Maker:
    """Makes the items of one source, row by row, and remembers the names that are taken."""

    def __init__(
        self,
        defaults: Mapping[str, Any],
        provider: Provider | None = None,
        check: Check = "warn",
        fit: Fit | None = None,
    ) -> None:
        """Begin a source.

        Args:
            defaults: fields for the rows that lack them; paths are relative to the working directory. The
                prompts are templates, see `read_source`.
            provider: where the requests will go; None: only what holds everywhere is checked.
            check: what becomes of doubts.
            fit: what makes a picture one that Kling takes.

        Raises:
            RequestError: a template names what there is not.
        """
        self._common = with_pictures(defaults, locator(Path().absolute()))
        self._templates = {
            field: template(field, text)
            for field in ("prompt", "negative_prompt")
            if isinstance(text := defaults.get(field), str)
        }
        self._provider, self._check = provider, check
        self._fitter = None if fit is None else Fitter(fit)
        self._folders: dict[Path, dict[str, str]] = {}
        self._seen: dict[tuple[str, str], str] = {}
        self._names = Names()

    def item(self, row: Row) -> Item | list[Problem]:
        """The item that *row* is, or all that is wrong with it, each problem with its place."""
        own = {name: value for name, value in row.fields.items() if value is not None}
        problems = [*row.problems, *self._taken(own, row.place)]
        item = None if any(not problem.field for problem in row.problems) else self._made(row, own, problems)
        if item is None or problems:
            return [_at(row, problem) for problem in problems]
        return item

    def _made(self, row: Row, own: dict[str, Any], problems: list[Problem]) -> Item | None:
        """The item of *row*, unless there are *problems*, to which everything else is added that is wrong."""
        key = own.pop("key", None)
        fields = fitted = self._fields(row, own, key, problems)
        told = {_outermost(problem) for problem in problems}
        if self._fitter is not None:
            fitted = self._fitter.fitted(fields, problems)
        judged = self._judged(fitted, problems, told)
        if judged is None:
            return None
        request, digest, findings = judged
        item = Item(key, key or self._names.of(request), request, digest, row.place, findings)
        return item if fitted == fields else attrs.evolve(item, original=self._original(item, fields))

    def _fields(self, row: Row, own: Mapping[str, Any], key: Any, problems: list[Problem]) -> dict[str, Any]:
        """All fields of *row*, the common ones too; what cannot be filled in goes to *problems*."""
        fields = {**self._common, **with_pictures(own, locator(row.base))}
        for field, prompt in self._templates.items():
            if field not in own:
                try:
                    fields[field] = filled(prompt, fields, key if isinstance(key, str) else None)
                except ValueError as error:
                    problems.append(Problem(field, str(error)))
        return fields

    def _original(self, item: Item, fields: Mapping[str, Any]) -> Item | None:
        """*item* as it is by *fields* of which nothing was fitted; None: it would not pass."""
        judged = self._judged(fields, [])
        if judged is None:
            return None
        request, digest, findings = judged
        return attrs.evolve(item, request=request, request_hash=digest, findings=findings)

    def _judged(
        self, fields: Mapping[str, Any], problems: list[Problem], told: AbstractSet[str] = frozenset()
    ) -> tuple[VideoRequest, str, tuple[Finding, ...]] | None:
        """The request of *fields*, its hash, and what is doubtful about it; None: there are problems.

        Args:
            fields: of the request.
            problems: gets all that is wrong.
            told: the fields of which nothing more is told: what stands in them is not what was meant.
        """
        known = {problem.field for problem in problems}
        try:
            request = request_from(_without(fields, told))
            if not problems:
                found, pictures = checking.examined(request, self._provider)
                problems += self._refused(found, fields)
                if problems or pictures is None:
                    return None
                return request, identity.request_hash(request, pictures), tuple(found)
        except RequestError as error:
            problems += (each for each in error.problems if _outermost(each) not in told)
        others = self._refused(self._beside(fields, {_outermost(each) for each in problems}), fields)
        problems += (each for each in others if each.field not in known and _outermost(each) not in told)
        return None

    def _beside(self, fields: Mapping[str, Any], faulty: AbstractSet[str]) -> Iterable[Finding]:
        """What is known against *fields*, of which no request can be made, besides what is *faulty*.

        Each picture is looked at by itself, and all else in a request without what is faulty.
        """
        found: list[Finding] = []

        def look(field: str, picture: Any) -> Any:
            with contextlib.suppress(RequestError):  # what can be no picture is known to be faulty
                seen, _ = checking.examined(_alone(field, picture), None)
                found.extend(attrs.evolve(each, field=field) for each in seen)
            return picture

        with_pictures(fields, look)
        with contextlib.suppress(RequestError):  # there is none without what is faulty
            rest, _ = checking.examined(request_from(_without(fields, faulty)), self._provider)
            found += (each for each in rest if each.name not in faulty)
        return dict.fromkeys(found)

    def _refused(self, found: Iterable[Finding], fields: Mapping[str, Any]) -> Iterator[Problem]:
        """What of *found* keeps *fields* from being submitted, with what does away with it."""
        for each in found:
            if each.severity == "error" or self._check == "error":
                yield self._with_remedy(Problem(each.field, each.message, each.source), fields)

    def _taken(self, own: Mapping[str, Any], place: str) -> Iterator[Problem]:
        """What is wrong with the names that a row gives."""
        key = own.get("key")
        if key is not None and not (isinstance(key, str) and 0 < len(key) <= _LONGEST_KEY):
            yield Problem("key", f"must be text of 1 to {_LONGEST_KEY} characters")
        for field in ("key", "external_task_id"):
            value = own.get(field)
            if value and isinstance(value, str):
                first = self._seen.setdefault((field, value), place)
                if first != place:
                    yield Problem(field, f"{value!r} is taken by {first}")

    def _with_remedy(self, problem: Problem, fields: Mapping[str, Any]) -> Problem:
        """*problem* of a picture in *fields*, with what does away with it."""
        if problem.message.endswith(_MISSING):
            path = Path(problem.message.removesuffix(_MISSING))
            remedy = meant_instead(problem.field, path, self._folders)
        elif problem.message.startswith("the picture given as") or not _FIT_HELPS.search(problem.message):
            return problem
        elif problem.field == "image" and is_masked(fields):
            remedy = _DRAWN_FOR
        elif self._fitter is None and not problem.field.endswith("mask"):
            remedy = ", or let --fit do it"
        else:
            return problem
        return attrs.evolve(problem, message=f"{problem.message}{remedy}")


def _outermost(problem: Problem) -> str:
    """The field of the request that *problem* is in: ``camera_control`` of ``camera_control.type``."""
    return re.split(r"[.\[]", problem.field, maxsplit=1)[0]


def _alone(field: str, picture: Any) -> ImageToVideo:
    """A request in which nothing but *picture* can be wrong, as it is looked at in *field*."""
    role = "static_mask" if field.endswith("mask") else "image_tail" if field == "image_tail" else "image"
    fields: dict[str, Any] = {"image": _PICTURE, "prompt": "-", role: picture}
    return ImageToVideo(**fields)


def _without(fields: Mapping[str, Any], faulty: AbstractSet[str]) -> Mapping[str, Any]:
    """*fields* without those that are *faulty*; `extra_body` has these, so that nothing is said of them."""
    if not faulty:
        return fields
    left = {name: value for name, value in fields.items() if name not in faulty}
    left |= {name: value for name, value in _SOUND.items() if name in faulty}
    extra = left.get("extra_body") or {}
    return {**left, "extra_body": {**extra, **dict.fromkeys(faulty)} if isinstance(extra, Mapping) else extra}


def _at(row: Row, problem: Problem) -> Problem:
    """*problem* with its place: in a folder that is the picture itself."""
    field, message = problem.field, problem.message
    if row.picture is not None and field == "image":
        field, message = "", message.removeprefix(f"{row.picture.absolute()} ")
    elif row.picture is not None and field == "prompt" and message.startswith("is required"):
        beside = row.picture.with_suffix(".txt").name
        field, message = "", f"has no prompt: give one for all, or write it in {beside}"
    elif _outermost(problem) in row.dotted:
        field = re.sub(r"\[(\d+)\]", lambda place: f".{int(place[1]) + 1}", field)
    return Problem(": ".join(filter(None, (row.place, field))), message, problem.source)
