"""`index.html`: the batch as a page that one looks at. One file; nothing outside its folder is ever loaded.

Needs Jinja2, which escapes whatever comes from prompts, file names and servers. What the page may do at all
is said by its Content-Security-Policy: the one style and the scripts are named by their hashes.
"""

import base64
import hashlib
import importlib.resources
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

import attrs
import jinja2
from markupsafe import Markup

from kling_async import checking
from kling_async.batch.documents import Summary, meant, prompt, relative
from kling_async.batch.entries import STEPS, Entry
from kling_async.paths import is_file
from kling_async.protocol import images
from kling_async.protocol.models import Image, ImageToVideo, MultiImageToVideo, VideoRequest
from kling_async.protocol.prices import in_units, plain

if TYPE_CHECKING:
    from kling_async.batch.items import Item

__all__ = ["Gallery", "is_ours", "link", "span"]

_MARK: Final = b'<meta name="generator" content="kling-async">'
_EMBEDDED_ITEMS: Final = 1000
"""Above it pictures are linked: the page would take longer to open than to look at."""
_MANY_ITEMS: Final = 200
"""Above it pictures are smaller, and lazy; up to it, all are there in print."""
_SIDES: Final = (360, 180)
"""Pixels of a thumbnail's long side: some 20 KB a photo, or 7, and a third more as text."""
_EMBEDDED_BYTES: Final = 200 * 1024
"""An original up to it is embedded as it is where no thumbnail can be made."""
_LEAST_WIDTH: Final = 1.2
"""Percent of the bar: a step of a second beside minutes stays to be seen."""


class Gallery:
    """The page of a batch, made anew of what changed.

    Args:
        folder: where it lies.
        items: in their order.
        estimates: what each will cost, in units, None where unknown.
    """

    def __init__(self, folder: Path, items: "Sequence[Item]", estimates: Sequence[Decimal | None]) -> None:
        self._folder = folder
        self._items = items
        self._estimates = estimates
        self._are_many = len(items) > _MANY_ITEMS
        self._pictures = _Pictures(folder, _SIDES[self._are_many], is_small=len(items) <= _EMBEDDED_ITEMS)
        self._cards: dict[int, tuple[Entry, Markup]] = {}
        environment = jinja2.Environment(
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            loader=jinja2.FunctionLoader(_source),
            finalize=_visible,
        )
        environment.filters |= {"span": span, "link": link, "units": plain}
        self._page = environment.get_template("gallery.html")
        self._card = environment.get_template("card.html")
        self._inline = {name: _Inline.read(f"gallery.{name}") for name in ("css", "js")}
        self._reload = _Inline.read("reload.js")

    def page(self, summary: Summary, entries: Sequence[Entry], *, patience: float) -> bytes:
        """The whole page.

        Args:
            summary: of the batch.
            entries: how each item stands.
            patience: seconds that thumbnails may take; what is not made by then is linked, and made later.
        """
        self._pictures.until = time.monotonic() + patience
        text = self._page.render(
            summary=summary,
            cards=[self._drawn(index, entry) for index, entry in enumerate(entries)],
            counts=_counts(summary),
            bar=_bar((state, count) for state, count in _counts(summary).items()),
            style=self._inline["css"],
            script=self._inline["js"],
            reload=self._reload if summary.state == "running" else None,
        )
        return text.encode("utf-8", "replace")

    def _drawn(self, index: int, entry: Entry) -> Markup:
        known = self._cards.get(index)
        if known is not None and known[0] is entry:
            return known[1]
        item, estimate = self._items[index], self._estimates[index]
        pictures, is_final = self._pictures.of(index, item.request)
        # who did not wait need not be told so
        steps = [
            (step, value) for step, value in entry.times.steps() if value and (value > 0.05 or step != "slot")
        ]
        card = Markup(  # noqa: S704 - what Jinja2 made is escaped
            self._card.render(
                item=item,
                entry=entry,
                number=index + 1,
                prompt=prompt(item.request),
                facts=list(_facts(item.request)),
                place=_place(item),
                pictures=pictures,
                is_lazy=self._are_many,
                video=None if entry.path is None else relative(entry.path, self._folder),
                steps=steps,
                bar=_bar(steps),
                meanings=STEPS,
                cost=_cost(entry, estimate),
                money=_money(entry),
            )
        )
        if is_final:
            self._cards[index] = entry, card
        return card


def is_ours(page: Path) -> bool:
    """Whether nothing is at *page*, or a gallery: nobody's own page is written over."""
    try:
        with page.open("rb") as file:
            return _MARK in file.read(2048)
    except FileNotFoundError:
        return True


def link(path: str) -> str:
    """A relative *path* as a URL: no sign in it means anything, and none can make it a scheme or a host."""
    if Path(path).is_absolute():
        return Path(path).as_uri()
    quoted = quote(path.encode("utf-8", "surrogatepass" if os.name == "nt" else "surrogateescape"))
    return quoted if path.startswith("../") else f"./{quoted}"


def span(seconds: float) -> str:
    """A time as people say it: ``0.4 s``, ``34 s``, ``2 min 14 s``, ``1 h 02 min``."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


# Pictures


@attrs.frozen
class _Picture:
    """A picture of a card.

    Attributes:
        label: which of several it is.
        src: a ``data:`` URL or a way to the file; empty: it is not shown.
        instead: what stands in its place.
    """

    label: str
    src: str
    instead: str = ""


@attrs.define
class _Pictures:
    """The small pictures of all items, made once, for as long as there is time.

    Attributes:
        folder: where the page lies.
        side: of a thumbnail, pixels.
        is_small: whether files are embedded.
        until: when to stop making thumbnails, by the monotonic clock.
    """

    folder: Path
    side: int
    is_small: bool
    until: float = 0.0
    _made: dict[int, Sequence[_Picture]] = attrs.field(factory=dict[int, Sequence[_Picture]])

    def of(self, index: int, request: VideoRequest) -> tuple[Sequence[_Picture], bool]:
        """The pictures of an item, and whether they are what they will stay."""
        if index in self._made:
            return self._made[index], True
        shown = list(_shown(request))
        late = self.is_small and time.monotonic() > self.until
        pictures = [
            _Picture(label if len(shown) > 1 else "", *self._drawn(source, is_late=late))
            for label, source in shown
        ]
        if not late:
            self._made[index] = pictures
        return pictures, not late

    def _drawn(self, source: Image, *, is_late: bool) -> tuple[str, str]:
        """The picture's address, and what stands in its place where it has none."""
        match meant(source):
            case images.ImageUrl(url=url):
                return "", urlsplit(url).hostname or "a picture on the web"
            case Path() as path:
                embedded = None if is_late or not self.is_small else _embedded(path, self.side)
                if embedded is None and not is_file(path):
                    return "", path.name
                return embedded or link(relative(path, self.folder)), ""
            case data:
                embedded = None if is_late else _embedded(_decoded(data), self.side)
                return embedded or "", "a picture in memory"


def _shown(request: VideoRequest) -> Iterator[tuple[str, Image]]:
    match request:
        case ImageToVideo(image=image, image_tail=tail):
            yield from (
                (label, each) for label, each in (("start", image), ("end", tail)) if each is not None
            )
        case MultiImageToVideo(image_list=several):
            yield from ((str(place), each) for place, each in enumerate(several, start=1))
        case _:
            return


def _decoded(data: str | bytes) -> bytes:
    try:
        return data if isinstance(data, bytes) else base64.b64decode(data)
    except ValueError:
        return b""


def _embedded(image: Path | bytes, side: int) -> str | None:
    """*image* as a ``data:`` URL, small; None where that cannot be."""
    from kling_async import fitting  # Pillow is in an extra

    small = fitting.thumbnail(image, side)
    if small is None:
        try:
            if isinstance(image, Path) and image.stat().st_size > _EMBEDDED_BYTES:
                return None
            small = image.read_bytes() if isinstance(image, Path) else image
        except OSError:
            return None
    kind = "jpeg" if small.startswith(b"\xff\xd8\xff") else "png" if small.startswith(b"\x89PNG\r\n") else ""
    if not kind or len(small) > _EMBEDDED_BYTES:
        return None
    return f"data:image/{kind};base64,{base64.b64encode(small).decode('ascii')}"


# What the templates are given


@attrs.frozen
class _Inline:
    """A style or a script within the page, and the hash that lets it work there."""

    text: Markup
    allowed: str

    @classmethod
    def read(cls, name: str) -> "_Inline":
        text = _source(name)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
        return cls(Markup(text), f"'sha256-{digest}'")  # noqa: S704 - a file of this package


def _source(name: str) -> str:
    return importlib.resources.files("kling_async.batch").joinpath(name).read_text("utf-8")


_TURNS: Final = dict.fromkeys(
    (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)), "\N{REPLACEMENT CHARACTER}"
)
"""What makes text run the other way: ``cat\\u202egpj.exe`` would be read as ``catexe.jpg``."""


def _visible(value: Any) -> Any:
    """*value*, if it is text of others, with a sign in the place of what would reorder it."""
    return value.translate(_TURNS) if isinstance(value, str) and not isinstance(value, Markup) else value


def _counts(summary: Summary) -> Mapping[str, int]:
    return {
        "done": summary.done,
        "failed": summary.failed,
        "running": summary.running,
        "waiting": summary.waiting,
        "not submitted": summary.not_submitted,
    }


def _bar(parts: Iterable[tuple[str, float]]) -> list[tuple[str, str, str]]:
    """*parts* as pieces of a bar of 100: each with its name, where it begins and how wide it is."""
    given = [(name, value) for name, value in parts if value > 0]
    whole = sum(value for _, value in given)
    widths = [max(_LEAST_WIDTH, 100 * value / whole) for _, value in given]
    scale, begin = 100 / (sum(widths) or 1), 0.0
    pieces: list[tuple[str, str, str]] = []
    for (name, _), width in zip(given, widths, strict=True):
        pieces.append((name.replace(" ", "-"), f"{begin:.2f}", f"{width * scale:.2f}"))
        begin += width * scale
    return pieces


def _facts(request: VideoRequest) -> Iterator[str]:
    """What is asked for, with Kling's defaults (API reference, image2video: create)."""
    given = request.extra_body or {}  # merged over the fields
    yield str(given.get("model_name", request.model_name))
    model = checking.capabilities().models.get(request.model_name)
    mode = given.get("mode", request.mode or ("std" if model is not None and model.modes else None))
    if mode:
        yield str(mode)
    yield f"{given.get('duration', request.duration or 5)} s"
    if given.get("sound", getattr(request, "sound", None)) == "on":
        yield "with sound"


def _place(item: "Item") -> str:
    """Where the item stands, if that is more than its picture."""
    place = Path(item.place).absolute()  # as a folder was given
    pictures = images.sources((item.original or item).request)  # a fitted picture lies elsewhere
    is_picture = any(
        isinstance(source, str | Path) and Path(source).absolute() == place for _, source in pictures
    )
    return "" if is_picture else item.place


def _cost(entry: Entry, estimate: Decimal | None) -> str:
    """What an item cost or will cost; empty where it costs nothing."""
    if entry.units is not None:
        return in_units(entry.units)
    if estimate is not None and (entry.is_charged or entry.error is None):
        return f"about {in_units(estimate)}"
    return "units unknown" if entry.is_unknown(estimate) else ""


def _money(entry: Entry) -> str:
    """What a failure cost."""
    if entry.error is None:
        return ""
    if entry.units:
        return f"{in_units(entry.units)} {'was' if entry.units == 1 else 'were'} charged."
    if entry.error_type == "TaskFailedError":
        return "Kling deducts units at success."
    return {
        "not_created": "Nothing was paid.",
        "may_exist": "A task may exist and be paid.",
        "created": "The task exists at Kling and may be paid.",
    }.get(entry.outcome or "", "")
