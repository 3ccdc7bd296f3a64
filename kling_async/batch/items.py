"""Rows, wherever they were read, -> items: fields joined, pictures located and fitted, requests checked."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set as AbstractSet
from pathlib import Path
from typing import Any, Final, Literal

import attrs

from kling_async import checking
from kling_async.batch.faults import beside, follows, mistaken, outermost, without
from kling_async.batch.pictures import Fit, Fitter, is_masked, locator, meant_instead, with_pictures
from kling_async.batch.templates import filled, template
from kling_async.flight import Names
from kling_async.protocol import identity
from kling_async.protocol.converter import request_from
from kling_async.protocol.errors import Problem, RequestError
from kling_async.protocol.findings import Finding
from kling_async.protocol.models import VideoRequest
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
        order: the fields that it could have, as they stand in the source; empty: as in *fields*.
    """

    place: str
    fields: Mapping[str, Any]
    base: Path
    picture: Path | None = None
    dotted: frozenset[str] = frozenset()
    problems: tuple[Problem, ...] = ()
    broken: bool = False
    order: Sequence[str] = ()

    def in_order(self, problems: Iterable[Problem]) -> list[Problem]:
        """*problems* as their fields stand; those of the whole row first, those of what it lacks last."""
        places = {"": -1} | {name: place for place, name in enumerate(self.order or self.fields)}
        last = len(places)
        return sorted(problems, key=lambda each: places.get(each.field, places.get(outermost(each), last)))


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
            return [_at(row, problem) for problem in row.in_order(problems)]
        return item

    def _made(self, row: Row, own: dict[str, Any], problems: list[Problem]) -> Item | None:
        """The item of *row*, unless there are *problems*, to which everything else is added that is wrong."""
        key = own.pop("key", None)
        fields = fitted = self._fields(row, own, key, problems)
        told = {outermost(problem) for problem in problems}
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
        if isinstance(text := fields.get("prompt"), str) and not text.strip():
            fields["prompt"] = ""  # which is none
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
        faulty = told
        try:
            request = request_from(without(fields, told))
            if not problems:
                found, pictures = checking.examined(request, self._provider)
                problems += self._refused(found, fields)
                if problems or pictures is None:
                    return None
                return request, identity.request_hash(request, pictures), tuple(found)
        except RequestError as error:
            unknown, meant = mistaken(error.problems, fields)
            told = told | meant
            faulty = told | {outermost(each) for each in error.problems}
            problems += (
                each
                for each in error.problems
                if each.field in unknown or (outermost(each) not in told and not follows(each, faulty))
            )
            told = told | unknown
        others = self._refused(beside(fields, faulty | set(map(outermost, problems)), self._provider), fields)
        problems += (each for each in others if each.field not in known and outermost(each) not in told)
        return None

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
            may_help = self._fitter is None and " bytes, at most" in problem.message
            remedy = ", or let --fit do it, if that need not scale it" if may_help else _DRAWN_FOR
        elif self._fitter is None and not problem.field.endswith("mask"):
            remedy = ", or let --fit do it"
        else:
            return problem
        return attrs.evolve(problem, message=f"{problem.message}{remedy}")


def _at(row: Row, problem: Problem) -> Problem:
    """*problem* with its place: in a folder that is the picture itself."""
    field, message = problem.field, problem.message
    if row.picture is not None and field == "image":
        field, message = "", message.removeprefix(f"{row.picture.absolute()} ")
    elif row.picture is not None and field == "prompt" and message.startswith("is required"):
        sidecar = row.picture.with_suffix(".txt").name
        field, message = "", f"has no prompt: give one for all, or write it in {sidecar}"
    elif outermost(problem) in row.dotted:
        field = re.sub(r"\[(\d+)\]", lambda place: f".{int(place[1]) + 1}", field)
    return Problem(": ".join(filter(None, (row.place, field))), message, problem.source)
