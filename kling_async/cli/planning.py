"""What a batch is about to do, told before its first request; and whether it may."""

import asyncio
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from kling_async.batch import Item, Source
from kling_async.batch.plan import USD_PER_UNIT, Counted, Plan, count_earlier, plan
from kling_async.cli.options import Common
from kling_async.cli.resuming import Again, Resumption, look_back
from kling_async.cli.screen import Screen, duration
from kling_async.paths import at_home
from kling_async.protocol.budget import Budget
from kling_async.protocol.errors import ConfigurationError, RequestError
from kling_async.protocol.prices import Prices, in_units, plain
from kling_async.protocol.providers import Provider

__all__ = ["Preview", "agree", "preview", "read_prices", "tell_bad_rows"]

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
        text = at_home(path).read_text("utf-8-sig")
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
    elif source.problems and are_skipped and source.items:
        screen.complain(f"{_counted(source.bad, 'row')} skipped, {len(source.items)} left")
    elif source.problems:
        them = "it" if source.bad == 1 else "them"
        rest = f"; --skip-bad leaves {them} out" if source.items else ""
        screen.complain(f"{_counted(source.bad, 'bad row')}: nothing is submitted and nothing is paid{rest}")
    for warning in source.warnings:
        screen.say(warning, "yellow")


@attrs.frozen(kw_only=True)
class Preview:
    """What is told of a batch before it begins.

    Attributes:
        source: all that was read.
        resumption: the items that were asked for, and what an earlier run left of them.
        plan: of those that no earlier run has made.
        begun: of those that one only began to submit.
        budget: what may be spent.
        counted: what the budget was told of earlier runs.
        is_list_price: whether the prices are Kling's own list prices.
    """

    source: Source
    resumption: Resumption
    plan: Plan
    begun: Plan
    budget: Budget | None
    counted: Counted
    is_list_price: bool

    @property
    def items(self) -> Sequence[Item]:
        """Those asked for."""
        return self.resumption.items

    def lines(self) -> Iterator[str]:
        """The preview for people."""
        yield from self._doubts()
        if going_on := self.resumption.told():
            yield going_on
        for name in self.resumption.in_vain():
            yield f"{name} has its video, and stays as it is: another take needs another key"
        plan, begun = self.plan, self.begun
        yield f"{_counted(len(plan.new), 'video')} to make, of {_counted(len(self.items), 'item')}"
        if begun.new:
            what = _counted(len(begun.new), "video")
            yield f"{what} begun by an earlier run: looked for, and sent again if not there"
        if plan.new:
            yield f"cost: {self._cost(plan)}"
        if begun.new:
            yield f"cost of what was begun: at most {self._cost(begun)}"
        if self.budget is not None:
            yield f"budget: {self._budget()}"
        if plan.new:
            yield f"time: about {duration(plan.seconds)}, with {plan.slots} at once for each model"

    def wanted(self, *, priced: bool = False) -> str:
        """What will be paid for if it is agreed to, with its price if *priced*; empty: nothing will."""
        plan, begun, budget = self.plan, self.begun, self.budget
        parts: list[str] = []
        if plan.new:
            parts.append(f"{_counted(len(plan.new), 'video')}{self._for(plan) if priced else ''}")
        elif plan.beyond and budget is not None and budget.reserved:  # what runs may fail, and make room
            parts.append(f"up to {_counted(plan.beyond, 'video')}{', within the budget' if priced else ''}")
        if begun.new:
            again = f"up to {_counted(len(begun.new), 'video')} that an earlier run began"
            parts.append(f"{again}{self._for(begun) if priced else ''}")
        return " and ".join(parts)

    def document(self) -> dict[str, Any]:
        """The preview as one JSON object."""
        return {
            **self.plan.as_dict(),
            "begun": len(self.begun.new),
            "begun_units": float(self.begun.units),
            "items": len(self.items),
            "bad_rows": self.source.bad,
            "problems": [str(problem) for problem in self.source.problems],
            "warnings": list(self.source.warnings),
            "findings": [
                {"key": item.key, "name": item.name, "place": item.place} | attrs.asdict(finding)
                for item in self.items
                for finding in item.findings
            ],
            "budget": None if self.budget is None else float(self.budget.limit),
            "budget_spent": None if self.budget is None else float(self.budget.spent),
        }

    def require_room(self) -> None:
        """Make sure that the budget holds what an earlier run began and this one may send.

        Raises:
            ConfigurationError: it does not.
        """
        if self.budget is not None and self.begun.new and self.budget.left < 0:
            what = _counted(len(self.begun.new), "video")
            raise ConfigurationError(
                f"an earlier run began to submit {what}, for which the budget has no room",
                advice=f"give a --budget of at least {plain(self.budget.limit - self.budget.left)}",
            )

    def _for(self, plan: Plan) -> str:
        """The price as a part of a question."""
        if plan.unpriced == len(plan.new):
            return " of unknown price"
        rest = f", and {plan.unpriced} of unknown price" if plan.unpriced else ""
        return f" for {self._known(plan)}{rest}"

    def _cost(self, plan: Plan) -> str:
        """What the new ones of *plan* will cost."""
        if not plan.unpriced:
            return self._known(plan)
        if plan.unpriced == len(plan.new):
            return "unknown, for want of a price: see --prices"
        return f"{self._known(plan)}, and unknown for {plan.unpriced}: see --prices"

    def _known(self, plan: Plan) -> str:
        usd = f" (about {plan.units * USD_PER_UNIT:.2f} USD at list price)" if self.is_list_price else ""
        return f"{in_units(plan.units)}{usd}"

    def _budget(self) -> str:
        assert self.budget is not None  # it is told of
        plan, budget, unknown = self.plan, self.budget, self.counted.unknown
        parts = [in_units(budget.limit)]
        parts += [f"{plain(budget.spent)} spent by earlier runs"] if budget.spent else []
        what = "for what runs or was begun" if self.begun.new else "for what runs"
        parts += [f"{plain(budget.reserved)} {what}"] if budget.reserved else []
        parts += [f"unknown for {unknown} of earlier runs"] if unknown else []
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


def preview(
    common: Common,
    source: Source,
    items: Sequence[Item],
    folder: Path,
    *,
    anew: Again,
    provider: Provider,
    prices: Prices | None,
    budget: Budget | None,
    slots: int | None,
) -> Preview:
    """What will become of *items*, by what stands in *folder* now.

    Args:
        common: whose tasks of the folder's journal are this run's.
        source: where the items are from.
        items: those asked for.
        folder: for the videos; it need not be there.
        anew: which items are made again.
        provider: where they go.
        prices: the user's own.
        budget: new; it is told of all that the journal holds.
        slots: tasks at once for each model, as far as that is given.

    Raises:
        RequestError: see `look_back`.
        JournalError: see `look_back`.
    """
    resumption = asyncio.run(look_back(folder, items, anew, lookup=provider.lookup))
    counted = Counted()
    if budget is not None:
        counted = count_earlier(budget, resumption.records, provider, common.is_ours(provider))
    return Preview(
        source=source,
        resumption=resumption,
        plan=plan(resumption.new(), provider, prices=prices, budget=budget, slots=slots),
        begun=plan(resumption.begun(), provider, prices=prices, slots=slots),
        budget=budget,
        counted=counted,
        is_list_price=prices is None,
    )


def agree(screen: Screen, seen: Preview, look: Callable[[], Preview], *, yes: bool) -> Preview | None:
    """Tell what is *seen* and have it agreed to, by ``--yes`` or at the terminal; None: it is not.

    While the question stands, another run can go on in the same folder: if one has, what *look* sees then is
    told and asked anew.

    Raises:
        ConfigurationError: there is nobody to ask, or the budget does not hold what was begun.
    """
    while True:
        for line in seen.lines():
            screen.say(line)
        seen.require_room()
        if yes or not seen.wanted():
            return seen
        if not _is_wanted(screen, seen):
            return None
        now = look()
        if now.resumption.records == seen.resumption.records:
            return now
        screen.say("meanwhile another run went on in this folder; now it stands so:", "yellow")
        seen = now


def _is_wanted(screen: Screen, seen: Preview) -> bool:
    if not (sys.stdin.isatty() and screen.console.is_terminal):
        what = f"{seen.wanted()} would be paid for, and nobody is there to be asked"
        raise ConfigurationError(what, advice="give --yes to spend without a question, or --dry-run to look")
    screen.console.print(f"Make {seen.wanted(priced=True)}? [y/N] ", end="", markup=False)
    try:
        answer = sys.stdin.readline()
    except KeyboardInterrupt:
        screen.console.print()
        raise
    if not answer.endswith("\n"):
        screen.console.print()
    return answer.strip().lower() in ("y", "yes")


def _short(places: Iterable[str]) -> Iterator[str]:
    """``shots.csv:3``, then ``4``: the file's name once."""
    former = ""
    for place in places:
        name, colon, number = place.rpartition(":")
        yield number if colon and number.isdecimal() and name == former else place
        former = name


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
