"""What one model takes, as it stands in the map: a letter for each thing, mode and duration."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import attrs

__all__ = ["FEATURES", "MODES", "Cell", "Model"]

MODES: Final = ("std", "pro", "4k")
"""Every mode of every model, the cheapest first."""

FEATURES: Final = (
    "start_end_frame",
    "end_frame",
    "sound",
    "voice_list",
    "multi_shot",
    "element_list",
    "motion_brush",
    "camera_control",
    "cfg_scale",
)
"""What a model may take or not, beside its modes and durations."""

_RANK: Final = "-?sY"
"""The letters of a cell, the worst first."""


@attrs.frozen
class Cell:
    """Where one model takes one thing.

    Attributes:
        letters: by mode and duration: ``Y`` taken, ``-`` refused, ``s`` taken with sound off alone,
            ``?`` doubted. An empty mode or duration stands for any: there, the best of all.
        source: where it stands.
        note: what is to be said about it.
        only: the words that are taken, where not all are.
    """

    letters: Mapping[tuple[str, str], str] = attrs.field(repr=False)
    source: str
    note: str = ""
    only: tuple[str, ...] = ()

    def taken(self, letters: str = "Ys") -> Iterator[tuple[str, str]]:
        """The modes and durations that have one of *letters*; left out, those taken without a doubt."""
        return (at for at, letter in self.letters.items() if letter in letters)


@attrs.frozen
class Model:
    """One model of the map.

    Attributes:
        name: its ``model_name``.
        modes: those it takes; empty for a model without a field for it.
        durations: those it takes, seconds.
        resolutions: of each mode, or the one it has.
        mode: the cell of its modes.
        cells: by feature, see `FEATURES`.
        source: where the map stands.
        endpoints: the kinds of task that take it.
        retired: why it may no longer be had; empty for a current model.
        retired_source: where that stands.
    """

    name: str
    modes: tuple[str, ...]
    durations: tuple[str, ...]
    resolutions: tuple[str, ...]
    mode: Cell
    cells: Mapping[str, Cell]
    source: str
    endpoints: tuple[str, ...] = ("image2video",)
    retired: str = ""
    retired_source: str = ""

    @classmethod
    def from_mapping(cls, name: str, table: Mapping[str, Any], sources: Mapping[str, str]) -> "Model":
        """The model that *table* of the data describes.

        Args:
            name: its ``model_name``.
            table: its part of ``capabilities.toml``.
            sources: the texts of the sources that it refers to.

        Raises:
            KeyError: a part is missing, or a source has no text.
            ValueError: a cell has too few or too many letters, or another one.
        """
        source = table["source"]
        mode = _cell(table["mode"], [(each, "") for each in MODES], sources, source)
        modes = tuple(each for each in MODES if mode.letters[each, ""] == "Y")
        durations = tuple(map(str, table["durations"]))
        columns = [(each, seconds) for each in modes or ("",) for seconds in durations]
        retired = table.get("retired")
        return cls(
            name=name,
            modes=modes,
            durations=durations,
            resolutions=tuple(table["resolutions"]),
            mode=mode,
            cells={feature: _cell(table[feature], columns, sources, source) for feature in FEATURES},
            source=sources[source],
            endpoints=tuple(table.get("endpoints", ["image2video"])),
            retired=retired["note"] if retired else "",
            retired_source=sources[retired["source"]] if retired else "",
        )


def _cell(
    value: str | Mapping[str, Any],
    columns: Sequence[tuple[str, str]],
    sources: Mapping[str, str],
    source: str,
) -> Cell:
    table = {"cells": value} if isinstance(value, str) else value
    letters = table["cells"].split()
    if len(letters) == 1:
        letters *= len(columns)
    best: dict[tuple[str, str], str] = {}
    for (mode, seconds), letter in zip(columns, letters, strict=True):
        for at in ((mode, seconds), (mode, ""), ("", seconds), ("", "")):
            best[at] = max(best.get(at, "-"), letter, key=_RANK.index)
    return Cell(
        best, sources[table.get("source", source)], table.get("note", ""), tuple(table.get("only", ()))
    )
