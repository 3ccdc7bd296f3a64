"""``models``: what each model takes and costs, as the package's map says."""

import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import attrs
from cyclopts import Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kling_async.checking import capabilities, prices_for
from kling_async.cli.options import Common
from kling_async.cli.planning import read_prices
from kling_async.cli.screen import duration
from kling_async.protocol.auth import AROUND
from kling_async.protocol.capabilities import Deviation
from kling_async.protocol.cells import FEATURES, MODES, Cell, Model
from kling_async.protocol.durations import usual_seconds
from kling_async.protocol.models import ImageToVideo, MultiImageToVideo
from kling_async.protocol.prices import Prices
from kling_async.protocol.providers import EZMODEL, Provider

__all__ = ["models"]

_FEATURES = {
    "start_end_frame": "end frame",
    "end_frame": "end frame alone",
    "sound": "sound",
    "voice_list": "voices with sound",
    "multi_shot": "shots",
    "element_list": "elements",
    "motion_brush": "masks",
    "camera_control": "camera",
    "cfg_scale": "cfg_scale",
}
"""What people call the features."""

_WORDS = {"Y": "yes", "-": "no", "s": "silent", "?": "doubted"}
"""What the letters of a cell say."""


def models(
    *,
    common: Annotated[Common, Parameter(parse=False)],
    prices: Annotated[Path | None, Parameter(name="--prices")] = None,
) -> int:
    """Show what each model takes, what a second of it costs and how long it usually runs. Sends nothing.

    Args:
        common: for which provider, and how to tell.
        prices: your own table of prices, a TOML file; gateways have no other.
    """
    provider = _provider(common)
    rates = prices_for(provider, read_prices(prices))
    known = list(capabilities().models.values())[::-1]
    if common.screen.is_json:
        for model in known:
            common.screen.result("", _as_dict(model, provider, rates))
        return 0
    newest_first = capabilities().of(ImageToVideo.endpoint)[::-1]
    if sys.stdout.isatty():
        Console(highlight=False).print(_table(newest_first, provider, rates))
    else:
        for model in newest_first:
            usually = duration(usual_seconds(ImageToVideo.endpoint, model.name))
            takes, units = "; ".join(_takes(model, provider)), "; ".join(_units(model, rates))
            cells = (model.name, takes, units, usually)
            common.screen.result("\t".join(cells))
    for line in (*_others(known, rates), *_provider_lines(provider)):
        common.screen.result(line)
    source = f"; prices: {rates.source}" if rates.source else ""
    common.screen.say(f"doubted: sources differ; --json tells each cell with its source{source}", "dim")
    return 0


def _provider(common: Common) -> Provider:
    """The provider that is asked about: no key is needed, and of new-api not even the address."""
    env = common.env()
    name = (common.provider or env.get("KLING_PROVIDER", "")).strip(AROUND).lower()
    if name == "new-api" and not env.get("KLING_BASE_URL"):
        return attrs.evolve(EZMODEL, name="new-api")
    return common.where(needs_key=False)


def _table(shown: Iterable[Model], provider: Provider, rates: Prices) -> Table:
    """What a terminal of 80 columns can show."""
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 1, 0))
    for title in ("model_name", "takes", _row("units/s", MODES), "usually"):
        table.add_column(title, no_wrap=title.startswith("units"), min_width=12 if title == "takes" else None)
    for model in shown:
        units = [
            _row(heard, [str(by_mode.get(mode, "-")) for mode in MODES])
            for heard, by_mode in rates.of(model.name).items()
        ]
        usually = duration(usual_seconds(ImageToVideo.endpoint, model.name))
        cells = (model.name, "\n".join(_takes(model, provider)), "\n".join(units) or "not known", usually)
        table.add_row(*(Text(cell, "dim" if model.retired else "") for cell in cells))
    return table


def _row(head: str, cells: Iterable[str]) -> str:
    return f"{head:<7}{''.join(f'{cell:>5}' for cell in cells)}"


def _takes(model: Model, provider: Provider) -> list[str]:
    """What a model takes at a provider, in words."""
    modes = zip(model.modes, model.resolutions, strict=True) if model.modes else ()
    sizes = (mode if mode == size else f"{mode} {size}" for mode, size in modes)
    takes = [", ".join(sizes) or model.resolutions[0], f"{_seconds(model)} s"]
    for feature, name in _FEATURES.items():
        where = "" if feature in provider.lacks else "; ".join(_where(model, model.cells[feature]))
        if where:
            takes.append(name if where == "all" else f"{name}: {where}")
    if MultiImageToVideo.endpoint in provider.endpoints.intersection(model.endpoints):
        takes.append(MultiImageToVideo.endpoint)
    return [model.retired, *takes] if model.retired else takes


def _units(model: Model, rates: Prices) -> list[str]:
    """The rates of a model, in words."""
    return _rates(model.name, rates) or ["not known"]


def _rates(name: str, rates: Prices) -> list[str]:
    return [
        f"{heard}: {', '.join(f'{mode} {rate}' for mode, rate in by_mode.items())}"
        for heard, by_mode in rates.of(name).items()
    ]


def _where(model: Model, cell: Cell) -> Iterator[str]:
    """Where a thing is taken, in words: ``all``, ``pro``, ``pro silent``, ``5 s``; none where it is not."""
    columns = [(mode, seconds) for mode in model.modes or ("",) for seconds in model.durations]
    for letter in "Ys?":
        at = [column for column in columns if cell.letters[column] == letter]
        if not at:
            continue
        modes = list(dict.fromkeys(mode for mode, _ in at))
        seconds = list(dict.fromkeys(seconds for _, seconds in at))
        if len(modes) * len(seconds) > len(at):  # no whole rows and columns
            words = [", ".join(f"{mode} {each} s" for mode, each in at)]
        else:
            words = [
                ", ".join(modes) if len(modes) < len(model.modes) else "",
                f"{', '.join(seconds)} s" if len(seconds) < len(model.durations) else "",
            ]
        words += [", ".join(cell.only), _WORDS[letter] if letter != "Y" else ""]
        yield " ".join(word for word in words if word) or "all"


def _seconds(model: Model) -> str:
    few = len(model.durations) < 3
    return " or ".join(model.durations) if few else f"{model.durations[0]} to {model.durations[-1]}"


def _others(known: Iterable[Model], rates: Prices) -> Iterator[str]:
    """What is not in the table: models of other endpoints, and those that only your own prices name."""
    names: list[str] = []
    for model in known:
        names.append(model.name)
        if not {ImageToVideo.endpoint, MultiImageToVideo.endpoint} & set(model.endpoints):
            yield f"{model.name} belongs to {', '.join(model.endpoints)}, which this package does not speak"
    for name in dict.fromkeys(model for _, model, _, _ in rates.rates):
        if name not in names:
            yield f"{name} is not in the map; {'; '.join(_rates(name, rates))}"


def _provider_lines(provider: Provider) -> Iterator[str]:
    """What a provider lacks and doubts, a line each."""
    name = provider.name
    if provider.lacks:
        yield f"{name} drops {', '.join(sorted(provider.lacks))}"
    for endpoint in (ImageToVideo.endpoint, MultiImageToVideo.endpoint):
        if endpoint not in provider.endpoints:
            yield f"{name} has no {endpoint}"
        elif deviation := capabilities().deviation(provider, endpoint):
            told = [*deviation.doubts(name)]
            told += [(field, f"is required by {name}") for field in deviation.requires]
            told += [
                (field, f"{name} documents {', '.join(each)}") for field, each in deviation.words.items()
            ]
            limits = deviation.longest.items()
            told += [(field, f"{name} documents at most {each} characters") for field, each in limits]
            told += [
                (field, f"{name} documents at least {each} entries")
                for field, each in deviation.fewest.items()
            ]
            yield from (f"{endpoint} {field}: {what}" for field, what in told)


def _as_dict(model: Model, provider: Provider, rates: Prices) -> dict[str, Any]:
    """One model as a JSON object; what is taken by mode and duration, the mode empty where there is none."""
    deviations = {
        endpoint: {
            name: dict(value) if isinstance(value, Mapping) else value for name, value in _told(deviation)
        }
        for endpoint in (ImageToVideo.endpoint, MultiImageToVideo.endpoint)
        if endpoint in provider.endpoints and (deviation := capabilities().deviation(provider, endpoint))
    }
    units = rates.of(model.name)
    is_ours = ImageToVideo.endpoint in model.endpoints
    return {
        "model_name": model.name,
        "endpoints": list(model.endpoints),
        "retired": {"note": model.retired, "source": model.retired_source} if model.retired else None,
        "modes": {
            "where": {mode: _WORDS[model.mode.letters[mode, ""]] for mode in MODES},
            "note": model.mode.note or None,
            "source": model.mode.source,
        },
        "durations": [int(seconds) for seconds in model.durations],
        "resolutions": list(model.resolutions),
        "takes": {feature: _cell_as_dict(model, model.cells[feature]) for feature in FEATURES},
        "units_per_second": {
            heard: {mode: float(rate) for mode, rate in by_mode.items()} for heard, by_mode in units.items()
        },
        "prices_source": (rates.source or None) if units else None,
        "usual_seconds": usual_seconds(ImageToVideo.endpoint, model.name) if is_ours else None,
        "provider": provider.name,
        "provider_lacks": sorted(provider.lacks),
        "provider_reads": deviations,
        "limits": dict(capabilities().limits),
        "text2video": dict(capabilities().text2video) if "text2video" in model.endpoints else None,
        "source": model.source,
    }


def _told(deviation: Deviation) -> Iterator[tuple[str, Any]]:
    return ((field.name, getattr(deviation, field.name)) for field in attrs.fields(Deviation))


def _cell_as_dict(model: Model, cell: Cell) -> dict[str, Any]:
    where = {
        mode: {seconds: _WORDS[cell.letters[mode, seconds]] for seconds in model.durations}
        for mode in model.modes or ("",)
    }
    return {"where": where, "only": list(cell.only), "note": cell.note or None, "source": cell.source}
