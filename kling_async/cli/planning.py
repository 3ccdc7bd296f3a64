"""What a batch is about to do, told before its first request; and whether it may."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from kling_async.batch import Item, Source
from kling_async.batch.plan import USD_PER_UNIT, Plan
from kling_async.cli.screen import Screen, duration
from kling_async.protocol.budget import Budget
from kling_async.protocol.errors import ConfigurationError, RequestError
from kling_async.protocol.prices import Prices, in_units, plain

__all__ = ["Preview", "is_agreed", "read_prices", "tell_bad_rows"]

_MOST_PLACES = 5
"""Items that are named beside what is doubtful about them; of a thousand alike the first ones tell enough."""


def read_prices(path: Path | None) -> Prices | None:
    """The user's own table of prices, TOML.

    Raises:
        ConfigurationError: it cannot be read, or is no such table.
    """
    if path is None:
        return None
    try:
        text = path.expanduser().read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        what = getattr(error, "strerror", None) or "it is no UTF-8"
        raise ConfigurationError(f"{path} cannot be read: {what}") from error
    return Prices.read(text, source=str(path))


def tell_bad_rows(screen: Screen, source: Source, *, are_skipped: bool) -> None:
    """Tell what is wrong with the source: its bad rows first, then what is doubtful about it as a whole."""
    if source.problems:
        screen.fail(RequestError(problems=source.problems), ended=False)
    if source.broken:
        screen.complain("what stands behind that was not read: nothing is submitted and nothing is paid")
    elif source.problems and are_skipped:
        screen.complain(f"{_counted(source.bad, 'row')} skipped, {len(source.items)} left")
    elif source.problems:
        rest = "; --skip-bad leaves them out" if source.items else ""
        screen.complain(f"{_counted(source.bad, 'bad row')}: nothing is submitted and nothing is paid{rest}")
    for warning in source.warnings:
        screen.say(warning, "yellow")


@attrs.frozen(kw_only=True)
class Preview:
    """What is told of a batch before it begins.

    Attributes:
        source: all that was read.
        items: those asked for.
        plan: of those that no earlier run has made.
        budget: what may be spent.
        unknown: tasks of earlier runs of which nobody knows what they cost.
        is_list_price: whether the prices are Kling's own list prices.
        going_on: what an earlier run left, one line.
    """

    source: Source
    items: Sequence[Item]
    plan: Plan
    budget: Budget | None
    unknown: int
    is_list_price: bool
    going_on: str

    def lines(self) -> Iterator[str]:
        """The preview for people."""
        yield from self._doubts()
        if self.going_on:
            yield self.going_on
        plan = self.plan
        yield f"{_counted(len(plan.new), 'video')} to make, of {_counted(len(self.items), 'item')}"
        if plan.new:
            yield f"cost: {self.cost()}"
        if self.budget is not None:
            yield f"budget: {self._budget()}"
        if plan.new:
            yield f"time: about {duration(plan.seconds)}, with {plan.slots} at once for each model"

    def cost(self) -> str:
        """What the new ones will cost."""
        plan, priced = self.plan, len(self.plan.new) - self.plan.unpriced
        known = in_units(plan.units)
        if self.is_list_price:
            known += f" (about {plan.units * USD_PER_UNIT:.2f} USD at list price)"
        if not plan.unpriced:
            return known
        if not priced:
            return "unknown, for want of a price: see --prices"
        return f"{known}, and unknown for {plan.unpriced}: see --prices"

    def document(self) -> dict[str, Any]:
        """The preview as one JSON object."""
        return {
            **self.plan.as_dict(),
            "items": len(self.items),
            "bad_rows": self.source.bad,
            "problems": [str(problem) for problem in self.source.problems],
            "warnings": list(self.source.warnings),
            "findings": [
                {"key": item.name, "place": item.place} | attrs.asdict(finding)
                for item in self.items
                for finding in item.findings
            ],
            "budget": None if self.budget is None else float(self.budget.limit),
            "budget_spent": None if self.budget is None else float(self.budget.spent),
        }

    def _budget(self) -> str:
        assert self.budget is not None  # it is told of
        plan, budget = self.plan, self.budget
        parts = [in_units(budget.limit)]
        parts += [f"{plain(budget.spent)} spent by earlier runs"] if budget.spent else []
        parts += [f"{plain(budget.reserved)} for what runs"] if budget.reserved else []
        parts += [f"unknown for {self.unknown} of earlier runs"] if self.unknown else []
        parts += [f"no room for {plan.beyond} of them"] if plan.beyond else []
        parts += [f"{plan.refused} left out for want of a price"] if plan.refused else []
        return ", ".join(parts)

    def _doubts(self) -> Iterator[str]:
        """What the map doubts, each once, with the places where it stands."""
        places: dict[str, list[str]] = {}
        for item in self.items:
            for finding in item.findings:
                places.setdefault(str(finding), []).append(item.place)
        for doubt, where in places.items():
            more = f" and {len(where) - _MOST_PLACES} more" if len(where) > _MOST_PLACES else ""
            yield f"{', '.join(_short(where[:_MOST_PLACES]))}{more}: doubtful: {doubt}"


def is_agreed(screen: Screen, preview: Preview, *, yes: bool) -> bool:
    """Whether what *preview* tells may be paid for: by ``--yes``, or by an answer at the terminal.

    Raises:
        ConfigurationError: there is nobody to ask.
    """
    plan, budget = preview.plan, preview.budget
    may_grow = plan.beyond and budget is not None and budget.reserved  # what runs may fail, and make room
    if yes or not (plan.new or may_grow):
        return True
    if not (sys.stdin.isatty() and screen.console.is_terminal):
        what = f"{_wanted(plan)} would be paid for, and nobody is there to be asked"
        raise ConfigurationError(what, advice="give --yes to spend without a question, or --dry-run to look")
    if plan.new:
        question = f"Make {_wanted(plan)} {'for' if plan.units else 'at a cost'} {preview.cost()}? [y/N] "
    else:
        question = f"Make {_wanted(plan)}, within the budget? [y/N] "
    screen.console.print(question, end="", markup=False)
    try:
        answer = sys.stdin.readline()
    except KeyboardInterrupt:
        screen.console.print()
        raise
    if not answer.endswith("\n"):
        screen.console.print()
    return answer.strip().lower() in ("y", "yes")


def _wanted(plan: Plan) -> str:
    """How many videos are to be made, or may be."""
    return _counted(len(plan.new), "video") if plan.new else f"up to {_counted(plan.beyond, 'video')}"


def _short(places: Iterable[str]) -> Iterator[str]:
    """``shots.csv:3``, then ``4``: the file's name once."""
    former = ""
    for place in places:
        name, colon, number = place.rpartition(":")
        yield number if colon and number.isdecimal() and name == former else place
        former = name


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
