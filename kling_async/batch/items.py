"""Rows, wherever they were read, -> items: fields joined, pictures located and fitted, requests checked."""

import collections
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import attrs

from kling_async import bodies, checking
from kling_async.batch.pictures import Fit, Fitter, is_masked, locator, other_spelling, with_pictures
from kling_async.batch.templates import filled, template
from kling_async.flight import default_name
from kling_async.protocol import identity, wire
from kling_async.protocol.converter import request_from
from kling_async.protocol.errors import Problem, RequestError
from kling_async.protocol.findings import Finding
from kling_async.protocol.images import SOURCE
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
        problems: why it could not be read; such a row is looked at no further.
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
        self._names = collections.Counter[str]()

    def item(self, row: Row) -> Item | list[Problem]:
        """The item that *row* is, or what is wrong with it, each problem with its place."""
        own = {name: value for name, value in row.fields.items() if value is not None}
        problems = [*row.problems, *self._taken(own, row.place)]
        if row.problems:
            return [_at(row, problem) for problem in problems]
        key = own.pop("key", None)
        fields = fitted = self._fields(row, own, key)
        unfit: list[Problem] = []
        if self._fitter is not None:
            fitted = self._fitter.fitted(fields, unfit)
        try:
            request, digest, findings = self._judged(fitted, unfit)
        except RequestError as error:
            problems += error.problems or [Problem("", error.what)]
            return [_at(row, problem) for problem in problems]
        if problems:
            return [_at(row, problem) for problem in problems]
        item = Item(key, key or self._name(request), request, digest, row.place, findings)
        return item if fitted == fields else attrs.evolve(item, original=self._original(item, fields))

    def _fields(self, row: Row, own: Mapping[str, Any], key: Any) -> dict[str, Any]:
        """All fields of *row*, the common ones too."""
        fields = {**self._common, **with_pictures(own, locator(row.base))}
        for field, prompt in self._templates.items():
            if field not in own:
                fields[field] = filled(prompt, fields, key if isinstance(key, str) else None)
        return fields

    def _original(self, item: Item, fields: Mapping[str, Any]) -> Item | None:
        """*item* as it is by *fields* of which nothing was fitted; None: it would not pass."""
        try:
            request, digest, findings = self._judged(fields)
        except RequestError:
            return None
        return attrs.evolve(item, request=request, request_hash=digest, findings=findings)

    def _judged(
        self, fields: Mapping[str, Any], problems: Iterable[Problem] = ()
    ) -> tuple[VideoRequest, str, tuple[Finding, ...]]:
        """The request of *fields*, its hash, and what is doubtful about it.

        Raises:
            RequestError: with every problem, the known *problems* too.
        """
        known = list(problems)
        try:
            request = request_from(fields)
        except RequestError as error:
            raise RequestError(problems=[*known, *error.problems]) from None
        if known:
            raise RequestError(problems=known)
        try:
            resolved = bodies.resolve(request)
        except RequestError as error:
            told = (self._with_remedy(problem, fields) for problem in error.problems)
            raise RequestError(problems=told) from None
        findings = self._findings(request, resolved)
        return request, identity.request_hash(request, resolved.images), findings

    def _findings(self, request: VideoRequest, resolved: bodies.Resolved) -> tuple[Finding, ...]:
        """What is doubtful about *request*, its pictures and where it will go.

        Raises:
            RequestError: with what is wrong.
        """
        told = (warning.partition(": ") for warning in resolved.warnings)
        found = [Finding(field, "warning", message, SOURCE) for field, _, message in told]
        wrong: list[Problem] = []
        if self._provider is not None:
            try:
                wire.create(request, self._provider, resolved.images, external_task_id="")
            except RequestError as error:
                wrong += error.problems or [Problem("", error.what)]
            found += checking.findings(request, self._provider, resolved)
        wrong += (
            Problem(each.field, each.message, each.source)
            for each in found
            if each.severity == "error" or self._check == "error"
        )
        if wrong:
            raise RequestError(problems=wrong)
        return tuple(found)

    def _taken(self, own: Mapping[str, Any], place: str) -> Iterator[Problem]:
        """What is wrong with the names that a row gives."""
        key = own.get("key")
        if key is not None and not (isinstance(key, str) and 0 < len(key) <= _LONGEST_KEY):
            yield Problem("key", f"must be text of 1 to {_LONGEST_KEY} characters")
            return
        for field in ("key", "external_task_id"):
            value = own.get(field)
            if isinstance(value, str):
                first = self._seen.setdefault((field, value), place)
                if first != place:
                    yield Problem(field, f"{value!r} is taken by {first}")

    def _name(self, request: VideoRequest) -> str:
        """What a stream calls *request* too, which has no key: alike ones are counted."""
        name = default_name(request)
        self._names[name] += 1
        return name if self._names[name] == 1 else f"{name}-{self._names[name]}"

    def _with_remedy(self, problem: Problem, fields: Mapping[str, Any]) -> Problem:
        """*problem* of a picture in *fields*, with what does away with it."""
        path = Path(problem.message.removesuffix(_MISSING))
        if problem.message.endswith(_MISSING) and (name := other_spelling(path, self._folders)):
            remedy = f"; did you mean {name}?"
        elif problem.message.startswith("the picture given as") or not _FIT_HELPS.search(problem.message):
            return problem
        elif problem.field == "image" and is_masked(fields):
            remedy = _DRAWN_FOR
        elif self._fitter is None and not problem.field.endswith("mask"):
            remedy = ", or let --fit do it"
        else:
            return problem
        return attrs.evolve(problem, message=f"{problem.message}{remedy}")


def _at(row: Row, problem: Problem) -> Problem:
    """*problem* with its place: in a folder that is the picture itself."""
    if row.picture is not None and problem.field == "image":
        return Problem(row.place, problem.message.removeprefix(f"{row.picture.absolute()} "), problem.source)
    if row.picture is not None and problem.field == "prompt" and "prompt" not in row.fields:
        beside = row.picture.with_suffix(".txt").name
        message = problem.message
        if message.startswith("is required"):
            message = f"has no prompt: give one for all, or write it in {beside}"
        return Problem(row.place, message, problem.source)
    field = problem.field
    if re.split(r"[.\[]", field, maxsplit=1)[0] in row.dotted:
        field = re.sub(r"\[(\d+)\]", lambda place: f".{int(place[1]) + 1}", field)
    return Problem(": ".join(filter(None, (row.place, field))), problem.message, problem.source)
