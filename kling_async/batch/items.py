"""Rows, wherever they were read, -> items: fields joined, pictures located and fitted, requests checked."""

import collections
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

import attrs

from kling_async import bodies, checking
from kling_async.batch.templates import filled, template
from kling_async.flight import default_name
from kling_async.protocol import identity, wire
from kling_async.protocol.capabilities import Finding
from kling_async.protocol.converter import request_from
from kling_async.protocol.errors import Problem, RequestError
from kling_async.protocol.images import SOURCE, classify
from kling_async.protocol.models import VideoRequest
from kling_async.protocol.providers import Provider

__all__ = ["Check", "Fit", "Item", "Maker", "Row"]

Check = Literal["warn", "error"]
"""Whether what the API's rules cast doubt on is only told, or refused."""

Fit = Callable[[Path], Path]
"""The picture that Kling takes for the one at a path; raises `ValueError` with a clause if there is none."""

_LONGEST_KEY: Final = 500
"""Characters: a key becomes a file's name and part of a token."""

_FIT_HELPS: Final = re.compile(r"is (WebP|GIF|TIFF|BMP|AVIF|HEIC), whatever|has [\d,]+ bytes, at most")
"""Refusals of a picture that fitting it does away with."""


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
    """

    key: str | None
    name: str
    request: VideoRequest
    request_hash: str
    place: str = ""
    findings: tuple[Finding, ...] = ()

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
    """

    place: str
    fields: Mapping[str, Any]
    base: Path
    picture: Path | None = None
    dotted: frozenset[str] = frozenset()
    problems: tuple[Problem, ...] = ()


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
        self._common = _with_pictures(defaults, _locator(Path().absolute()))
        self._templates = {
            field: template(field, text)
            for field in ("prompt", "negative_prompt")
            if isinstance(text := defaults.get(field), str)
        }
        self._provider, self._check, self._fit = provider, check, fit
        self._fitted: dict[Path, Path | str] = {}
        self._seen: dict[tuple[str, str], str] = {}
        self._names = collections.Counter[str]()

    def item(self, row: Row) -> Item | list[Problem]:
        """The item that *row* is, or what is wrong with it, each problem with its place."""
        own = {name: value for name, value in row.fields.items() if value is not None}
        problems = [*row.problems, *self._taken(own, row.place)]
        if row.problems:
            return [_at(row, problem) for problem in problems]
        key = own.pop("key", None)
        try:
            request, resolved = self._request(row, own, key)
            findings = self._findings(request, resolved)
            digest = identity.request_hash(request, resolved.images)
        except RequestError as error:
            problems += error.problems or [Problem("", error.what)]
            return [_at(row, problem) for problem in problems]
        if problems:
            return [_at(row, problem) for problem in problems]
        return Item(key, key or self._name(request), request, digest, row.place, findings)

    def _request(
        self, row: Row, own: dict[str, Any], key: str | None
    ) -> tuple[VideoRequest, bodies.Resolved]:
        """The request of *row* and its pictures, which were read.

        Raises:
            RequestError: with every problem.
        """
        fields = {**self._common, **_with_pictures(own, _locator(row.base))}
        for field, prompt in self._templates.items():
            if field not in own:
                fields[field] = filled(prompt, fields, key if isinstance(key, str) else None)
        problems: list[Problem] = []
        if self._fit is not None:
            fields = _with_pictures(fields, self._fitter(self._fit, problems))
        try:
            request = request_from(fields)
        except RequestError as error:
            raise RequestError(problems=[*problems, *error.problems]) from None
        if problems:
            raise RequestError(problems=problems)
        try:
            return request, bodies.resolve(request)
        except RequestError as error:
            raise RequestError(problems=map(self._with_remedy, error.problems)) from None

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

    def _fitter(self, fit: Fit, problems: list[Problem]) -> "_Change":
        """What puts a fitted picture in the place of a path; what cannot be fitted goes to *problems*."""

        def fitted(field: str, value: Any) -> Any:
            if not isinstance(value, Path) or field.endswith("mask") or not value.is_file():
                return value
            if value not in self._fitted:
                try:
                    self._fitted[value] = fit(value)
                except OSError as error:
                    self._fitted[value] = f"cannot be fitted: {error.strerror or error}"
                except ValueError as error:
                    self._fitted[value] = error.what if isinstance(error, RequestError) else str(error)
            result = self._fitted[value]
            if isinstance(result, Path):
                return result
            problems.append(Problem(field, f"{value} {result}"))
            return value

        return fitted

    def _with_remedy(self, problem: Problem) -> Problem:
        """*problem*, with the option that does away with it."""
        helps = (
            self._fit is None and not problem.field.endswith("mask") and _FIT_HELPS.search(problem.message)
        )
        if not helps or problem.message.startswith("the picture given as"):
            return problem
        return attrs.evolve(problem, message=f"{problem.message}, or let --fit do it")


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


# Pictures

_Change = Callable[[str, Any], Any]
"""Gives what stands in a picture's place, from its dotted field and its value."""


def _with_pictures(fields: Mapping[str, Any], change: _Change) -> dict[str, Any]:
    """*fields* with each picture *change*d; what has not the form of a picture's field stays as it is."""
    changed = dict(fields)
    for name in ("image", "image_tail", "static_mask"):
        if name in changed:
            changed[name] = change(name, changed[name])
    for name, inner in (("dynamic_masks", "mask"), ("image_list", "image")):
        if not isinstance(entries := changed.get(name), list | tuple):
            continue
        suffix = ".mask" if inner == "mask" else ""
        changed[name] = [
            {**entry, inner: change(f"{name}[{place}]{suffix}", entry[inner])}
            if isinstance(entry, Mapping) and inner in entry
            else change(f"{name}[{place}]{suffix}", entry)
            for place, entry in enumerate(entries)
        ]
    return changed


def _locator(base: Path) -> _Change:
    """What makes paths absolute: a request does not know what they were relative to.

    Whatever else a picture can be, and what it cannot be, stays as it is.
    """

    def path(text: str | Path) -> Path:
        return base / os.path.expanduser(text)  # noqa: PTH111 - Path's raises for an unknown user

    def is_file(text: Path) -> bool:
        return os.path.isfile(path(text))  # noqa: PTH113 - Path's raises for a name too long

    def located(_field: str, value: Any) -> Any:
        if not isinstance(value, str) or not value:
            return value
        try:
            meant = classify(value, is_file=is_file)
        except ValueError:
            return value
        return path(meant) if isinstance(meant, Path) else value

    return located
