"""What a benchmark measured: figures with their budgets, and rows for the plots."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Self

import attrs

__all__ = ["Figure", "Result", "bound", "number", "table"]


def _numbers(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(values)


@attrs.frozen(kw_only=True)
class Figure:
    """One measured figure beside its budget.

    Attributes:
        name: what was measured, as the table prints it.
        unit: what it is counted in; ``x`` for a ratio of two sides of one run.
        runs: the figure of each run.
        budget: the bound, None where there is none: a figure published for comparison.
        at_least: the budget is a lower bound, not an upper one.
        note: what a reader must know of how it was measured.
    """

    name: str
    unit: str
    runs: tuple[float, ...] = attrs.field(converter=_numbers)
    budget: float | None = None
    at_least: bool = False
    note: str = ""

    @property
    def worst(self) -> float:
        """The run that counts."""
        return min(self.runs) if self.at_least else max(self.runs)

    @property
    def within(self) -> bool:
        """Whether the worst run keeps the budget."""
        if self.budget is None:
            return True
        return self.worst >= self.budget if self.at_least else self.worst <= self.budget


def _figures(values: Iterable[Figure]) -> tuple[Figure, ...]:
    return tuple(values)


@attrs.frozen
class Result:
    """What one benchmark found; `attrs.asdict` makes it JSON values, `of` reads them.

    Attributes:
        figures: for the table.
        rows: measured points for the plots, JSON values, by the plot's name.
    """

    figures: tuple[Figure, ...] = attrs.field(converter=_figures)
    rows: dict[str, list[dict[str, Any]]] = attrs.field(factory=dict[str, list[dict[str, Any]]])

    @classmethod
    def of(cls, document: dict[str, Any]) -> Self:
        """The result that was made *document*; a run that JSON has no number for, None, is infinite."""
        return cls((_figure(**each) for each in document["figures"]), document["rows"])


def _figure(runs: list[float | None], **told: Any) -> Figure:
    return Figure(runs=[math.inf if run is None else run for run in runs], **told)


def number(value: float) -> str:
    """Four digits that count: enough to see on which side of a budget it is."""
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def bound(budget: float | None, unit: str, *, at_least: bool = False) -> str:
    """The budget as tables print it; nothing where there is none."""
    if budget is None:
        return ""
    return f"{'>=' if at_least else '<='} {budget:g} {unit}".rstrip()


def table(figures: Sequence[Figure]) -> str:
    """The figures as lines of text: worst run, budget, and a mark where it is missed."""
    counts = Counter(figure.name for figure in figures)
    names = [
        f"{figure.name} ({figure.note})" if counts[figure.name] > 1 else figure.name for figure in figures
    ]
    width = max(map(len, names), default=0)
    lines: list[str] = []
    for name, figure in zip(names, figures, strict=True):
        budget = bound(figure.budget, figure.unit, at_least=figure.at_least)
        missed = "" if figure.within else "   MISSED"
        lines.append(
            f"{name:<{width}}  {number(figure.worst):>10} {figure.unit:<4}   {budget}{missed}".rstrip()
        )
    return "\n".join(lines)
