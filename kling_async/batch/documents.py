"""`report.json`: what became of each item of a batch, for programs."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import attrs

from kling_async.batch.entries import Entry, Times
from kling_async.paths import at_home, is_file
from kling_async.protocol import images
from kling_async.protocol.checks import unsigned
from kling_async.protocol.models import Image, ImageToVideo, VideoRequest

if TYPE_CHECKING:
    from kling_async.batch.items import Item

__all__ = [
    "Costs",
    "Documents",
    "RunState",
    "Summary",
    "former_times",
    "meant",
    "prompt",
    "relative",
]

RunState = Literal["running", "ended"]


@attrs.frozen
class Costs:
    """What items come to, in units: the one rule for the terminal, the page and `report.json`.

    Attributes:
        units: what they cost or may have cost, as far as it is known: see `Entry.cost`.
        estimated: what those on their way will cost, as far as prices are known.
        unknown: how many cost, will cost or may have cost what nobody can tell; they are in neither sum.
    """

    units: Decimal
    estimated: Decimal
    unknown: int

    @classmethod
    def of(cls, items: Iterable[tuple[Entry, Decimal | None]]) -> "Costs":
        """Those of *items*, each with its estimate."""
        units, estimated, unknown = Decimal(0), Decimal(0), 0
        for entry, estimate in items:
            cost = entry.cost(estimate)
            units += cost or 0
            estimated += (estimate or 0) if cost is None and entry.state == "running" else 0
            unknown += entry.is_unknown(estimate)
        return cls(units, estimated, unknown)


@attrs.frozen(kw_only=True)
class Summary:
    """A batch as a whole.

    Attributes:
        title: what it is called.
        provider: who makes it.
        state: whether the run goes on.
        began_at: when this run began, UTC.
        written_at: when this was so, UTC.
        total: how many items there are.
        done: items whose video is on disk.
        failed: items that came to their end without one.
        running: items from their submit to the file.
        waiting: items in line.
        not_submitted: items that were not taken yet, or, at the end, never sent.
        units: see `Costs`.
        estimated: likewise.
        unknown: likewise.
        budget: units that may be spent.
        spent: units of the budget that are, earlier runs' among them.
        unlisted: videos of earlier runs that are in the folder and not asked for any more.
    """

    title: str
    provider: str
    state: RunState
    began_at: datetime
    written_at: datetime
    total: int
    done: int
    failed: int
    running: int
    waiting: int
    not_submitted: int
    units: Decimal
    estimated: Decimal
    unknown: int
    budget: Decimal | None
    spent: Decimal | None
    unlisted: int

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return max(0.0, (self.written_at - self.began_at).total_seconds())

    def totals(self) -> dict[str, Any]:
        """The figures as one JSON object."""
        return {
            "items": self.total,
            "done": self.done,
            "failed": self.failed,
            "running": self.running,
            "waiting": self.waiting,
            "not_submitted": self.not_submitted,
            "units": float(self.units),
            "units_estimated": float(self.estimated),
            "units_unknown": self.unknown,
            "budget": _number(self.budget),
            "budget_spent": _number(self.spent),
            "unlisted": self.unlisted,
            "elapsed": round(self.elapsed, 3),
        }


class Documents:
    """The items as JSON, one a line; what did not change is not made again.

    Args:
        folder: what paths are relative to.
        items: in their order.
        estimates: what each will cost, None where unknown.
    """

    def __init__(self, folder: Path, items: "Sequence[Item]", estimates: Sequence[Decimal | None]) -> None:
        self._folder = folder
        self._items = items
        self._estimates = estimates
        self._lines: dict[int, tuple[Entry, str]] = {}

    def report(self, summary: Summary, entries: Sequence[Entry]) -> bytes:
        """The whole file."""
        head = {
            "version": 1,
            "title": summary.title,
            "provider": summary.provider,
            "state": summary.state,
            "began_at": summary.began_at.isoformat(),
            "written_at": summary.written_at.isoformat(),
            "totals": summary.totals(),
        }
        lines = ",\n".join(self._line(index, entry) for index, entry in enumerate(entries))
        text = f'{json.dumps(head, ensure_ascii=False)[:-1]},\n"items": [\n{lines}\n]}}\n'
        return text.encode("utf-8", "backslashreplace")  # half a surrogate pair becomes JSON's own escape

    def _line(self, index: int, entry: Entry) -> str:
        known = self._lines.get(index)
        if known is not None and known[0] is entry:
            return known[1]
        line = json.dumps(self._document(index, entry), ensure_ascii=False)
        self._lines[index] = entry, line
        return line

    def _document(self, index: int, entry: Entry) -> dict[str, Any]:
        item, estimate = self._items[index], self._estimates[index]
        return {
            "index": index,
            "key": item.key,
            "name": item.name,
            "place": item.place,
            "findings": [attrs.asdict(finding) for finding in item.findings],
            "state": entry.state,
            "word": entry.word,
            "ok": entry.state == "done",
            "resumed": entry.resumed,
            "request": _request(item.request),
            "images": list(_images(item.request, self._folder)),
            "path": None if entry.path is None else relative(entry.path, self._folder),
            "units": _number(entry.cost(estimate)),
            "estimate": _number(estimate),
            "task_id": entry.task_id,
            "external_task_id": entry.external_task_id,
            "token": entry.token,
            "error": entry.error,
            "error_type": entry.error_type,
            "outcome": entry.outcome,
            "advice": entry.advice,
            "times": {
                step: None if value is None else round(value, 3) for step, value in entry.times.steps()
            },
        }


def relative(path: Path, folder: Path) -> str:
    """*path* as seen from *folder*, with slashes; whole where no way leads there, as on another drive."""
    try:
        # a folder may be a link, and an earlier run knows its files by their whole path
        return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()
    except ValueError:
        return path.as_posix()


def meant(source: Image) -> images.ImageUrl | str | Path | bytes:
    """What *source* means, see `images.classify`; never raises for what the system cannot look up."""
    found = images.classify(source, is_file=is_file)
    return at_home(found) if isinstance(found, Path) else found


def prompt(request: VideoRequest) -> str:
    """What the video is to show: the prompt, and those of its shots."""
    shots = request.multi_prompt or () if isinstance(request, ImageToVideo) else ()
    return "\n".join(filter(None, (request.prompt, *(shot.prompt for shot in shots))))


def former_times(path: Path) -> dict[str, Times] | None:
    """The time lines in the report of an earlier run, by external_task_id; None: it is no report of ours."""
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError):
        return None
    match document:
        case {"version": int(), "title": str(), "items": list(items)}:
            pass
        case _:
            return None
    times: dict[str, Times] = {}
    for item in items:
        known = item.get("external_task_id") if isinstance(item, dict) else None
        if isinstance(known, str):
            times[known] = Times.from_document(item.get("times"))
    return times


def _number(units: Decimal | None) -> float | None:
    return None if units is None else float(units)


def _request(request: VideoRequest) -> dict[str, Any]:
    """What makes one video differ from another, in the API's names."""
    return {
        "endpoint": request.endpoint,
        "model_name": request.model_name,
        "mode": request.mode,
        "duration": request.duration,
        "sound": getattr(request, "sound", None),
        "aspect_ratio": getattr(request, "aspect_ratio", None),
        "prompt": prompt(request) or None,
        "negative_prompt": request.negative_prompt,
    }


def _images(request: VideoRequest, folder: Path) -> Iterator[Mapping[str, Any]]:
    return ({"field": field, **_image(source, folder)} for field, source in images.sources(request))


def _image(source: Image, folder: Path) -> dict[str, Any]:
    """Where a picture is; of one that is nowhere but in memory, nothing."""
    match meant(source):
        case images.ImageUrl(url=url):
            return {"url": unsigned(url)}
        case Path() as path:
            return {"path": relative(path, folder)}
        case _:
            return {}
