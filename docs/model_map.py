"""Tables of what each model takes and costs, made of the map that requests are checked against."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from tables import table

from kling_async import KLING
from kling_async.checking import capabilities, prices_for
from kling_async.protocol.capabilities import Deviation
from kling_async.protocol.cells import FEATURES, MODES, Cell, Model
from kling_async.protocol.durations import usual_seconds
from kling_async.protocol.models import ImageToVideo, MultiImageToVideo
from kling_async.protocol.providers import PROVIDERS, new_api

_ABOUT = {
    "start_end_frame": "`image` and `image_tail`",
    "end_frame": "`image_tail` alone",
    "motion_brush": "`dynamic_masks`, `static_mask`",
    "multi_shot": "`multi_shot`, `multi_prompt`, `shot_type`",
}
"""The fields that a row is about, where they are not called as it is."""
_ALL_ELSE = "all else"


def models() -> Mapping[str, Model]:
    """What is known of each model of image2video, the newest first."""
    return {model.name: model for model in capabilities().of(ImageToVideo.endpoint)[::-1]}


def features() -> str:
    """What each model takes."""
    known = models().values()
    return table(
        ["", *(f"`{each.name.removeprefix('kling-')}`" for each in known)],
        [
            ["the model", *("doubted" if each.retired else "yes" for each in known)],
            ["`duration`", *(_numbers(each.durations) for each in known)],
            ["`mode`", *(_modes(each) for each in known)],
            *([_about(name), *(_told(each, each.cells[name]) for each in known)] for name in FEATURES),
        ],
    )


def prices() -> str:
    """Units a second, and how long a task usually takes."""
    rates = prices_for(KLING)
    return table(
        ["model", "silent", "with sound", "with voices", "a task takes about"],
        (
            [
                f"`{model}`",
                *(_rates(rates.of(model).get(heard, {})) for heard in ("silent", "sound", "voice")),
                f"{usual_seconds(ImageToVideo.endpoint, model):g} s",
            ]
            for model in models()
        ),
    )


def price_source() -> str:
    """Where the prices stand."""
    return prices_for(KLING).source


def several() -> str:
    """The models of multi-image2video."""
    return _fields(model.name for model in capabilities().of(MultiImageToVideo.endpoint))


def limits() -> str:
    """The most characters of a text and entries of a list."""
    known = capabilities().limits
    return table(
        ["field", "at most"],
        [
            [f"`{field}`", f"{most:,} {what}"]
            for what in ("characters", "entries")
            for field, most in known[what].items()
        ],
    )


def limits_source() -> str:
    """Where those stand."""
    return str(capabilities().limits["source"])


def elsewhere() -> str:
    """The models that belong to endpoints which this package does not speak."""
    ours = {ImageToVideo.endpoint, MultiImageToVideo.endpoint}
    return _fields(name for name, model in capabilities().models.items() if ours.isdisjoint(model.endpoints))


def sources() -> str:
    """Where each cell stands and what is to be said of it; what shares both shares a row."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for model in models().values():
        for row in _sourced(model):
            rows.setdefault(row, []).append(model.name)
    last = sorted(rows, key=lambda row: row[0] == _ALL_ELSE)
    return table(
        ["what", "model", "to know", "source"],
        ([what, _fields(rows[what, note, source]), note or "-", source] for what, note, source in last),
    )


def providers() -> str:
    """What providers read otherwise."""
    known = [*PROVIDERS.values(), new_api("https://gateway.example.com")]
    deviations = (
        (provider.name, endpoint, capabilities().deviation(provider, endpoint))
        for provider in known
        for endpoint in (ImageToVideo.endpoint, MultiImageToVideo.endpoint)
        if endpoint in provider.endpoints
    )
    return table(
        ["provider", "endpoint", "doubted", "required", "documented alone", "limits", "source"],
        (
            [
                f"`{name}`",
                f"`{endpoint}`",
                "; ".join(_doubts(rule, name)) or "-",
                _fields(rule.requires),
                "; ".join(f"`{field}` {', '.join(words)}" for field, words in rule.words.items()) or "-",
                ", ".join(_limits(rule)) or "-",
                rule.source,
            ]
            for name, endpoint, rule in deviations
            if rule is not None
        ),
    )


def _doubts(rule: Deviation, provider: str) -> Iterator[str]:
    for each in rule.doubted:
        yield f"{_fields(each['fields'])}: {each['why'].replace('{provider}', provider)}"


def _limits(rule: Deviation) -> Iterator[str]:
    yield from (f"`{field}` at most {most} characters" for field, most in rule.longest.items())
    yield from (f"`{field}` at least {least} entries" for field, least in rule.fewest.items())


def _about(name: str) -> str:
    return _ABOUT.get(name, f"`{name}`")


def _fields(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "-"


def _rates(rates: Mapping[str, object]) -> str:
    return ", ".join(f"{mode} {rate}" for mode, rate in rates.items()) or "-"


def _numbers(durations: Sequence[str]) -> str:
    return f"{durations[0]} to {durations[-1]}" if len(durations) > 2 else ", ".join(durations)


def _modes(model: Model) -> str:
    doubted = [f"{mode} doubted" for mode in MODES if model.mode.letters[mode, ""] == "?"]
    return ", ".join([*model.modes, *doubted]) or "-"


def _told(model: Model, cell: Cell) -> str:
    """What a cell's letters say, in words."""
    at = {mode: [cell.letters[mode, each] for each in model.durations] for mode in model.modes or ("",)}
    words = list(filter(None, (_where(model, at, letter, said) for letter, said in _MEANINGS.items())))
    only = f" ({', '.join(cell.only)})" if cell.only else ""
    return "; ".join(words) + only if words else "-"


_MEANINGS = {"Y": "", "s": "with sound off", "?": "doubted"}


def _where(model: Model, at: Mapping[str, Sequence[str]], letter: str, meaning: str) -> str:
    """Where a cell has *letter*, and what that means; nothing if it has it nowhere."""
    if all(each == letter for letters in at.values() for each in letters):
        return meaning or "yes"
    if len(set(map(tuple, at.values()))) == 1:  # the same in all modes
        places = [
            f"{each} s"
            for each, told in zip(model.durations, next(iter(at.values())), strict=True)
            if told == letter
        ]
    else:
        places = [place for mode, told in at.items() for place in _in(mode, model.durations, told, letter)]
    return " ".join(part for part in (", ".join(places), meaning) if part) if places else ""


def _in(mode: str, durations: Sequence[str], told: Sequence[str], letter: str) -> Iterator[str]:
    if set(told) == {letter}:
        yield mode
    else:
        yield from (f"{mode} {each} s" for each, at in zip(durations, told, strict=True) if at == letter)


def _sourced(model: Model) -> Iterator[tuple[str, str, str]]:
    """What is told of, a note, and a source; last of the cells that have neither of their own."""
    if model.retired:
        yield "the model", model.retired, model.retired_source
    for name, cell in {"mode": model.mode, **model.cells}.items():
        if cell.source != model.source or cell.note:
            yield _about(name), cell.note, cell.source
    yield _ALL_ELSE, "", model.source
