"""What a batch will make, cost and take, told before its first request."""

import collections
import heapq
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from typing import Any

import attrs

from kling_async.batch.items import Item
from kling_async.checking import estimate, spent
from kling_async.journal import Record
from kling_async.protocol.budget import Budget
from kling_async.protocol.durations import usual_seconds
from kling_async.protocol.lifecycle import is_terminal
from kling_async.protocol.models import TaskStatus
from kling_async.protocol.prices import Prices
from kling_async.protocol.providers import Provider
from kling_async.protocol.slots import FIRST_LIMIT
from kling_async.records import request_of

__all__ = ["USD_PER_UNIT", "Counted", "Plan", "count_earlier", "plan"]

USD_PER_UNIT = Decimal("0.14")
"""Kling's list price of a unit, about (API reference, prices, September 2026)."""


@attrs.frozen(kw_only=True)
class Plan:
    """What is about to happen.

    Attributes:
        new: the items that will be submitted, those of unknown price and those beyond the budget left out
            where a budget leaves them out.
        units: what *new* will cost, as far as its prices are known.
        unpriced: how many of *new* have no known price.
        beyond: items that the budget has no room for.
        refused: items of unknown price that the budget leaves out.
        seconds: how long *new* will take, about.
        slots: tasks at once for each model that *seconds* is reckoned with.
    """

    new: tuple[Item, ...]
    units: Decimal
    unpriced: int
    beyond: int
    refused: int
    seconds: float
    slots: int

    def as_dict(self) -> dict[str, Any]:
        """The plan as one JSON object."""
        return {
            "new": len(self.new),
            "units": float(self.units),
            "unpriced": self.unpriced,
            "beyond_budget": self.beyond,
            "unpriced_left_out": self.refused,
            "expected_seconds": round(self.seconds),
            "slots": self.slots,
        }


@attrs.frozen
class Counted:
    """What a budget was told of earlier runs.

    Attributes:
        running: the reservations of what still runs, by external_task_id: to be settled when it ends.
        unknown: how many tasks there are of which nobody knows what they cost.
    """

    running: dict[str, int] = attrs.field(factory=dict[str, int])
    unknown: int = 0


def plan(
    new: Iterable[Item],
    provider: Provider,
    *,
    prices: Prices | None = None,
    budget: Budget | None = None,
    slots: int | None = None,
) -> Plan:
    """What will become of *new*, the items that no earlier run has made.

    Args:
        new: in their order.
        provider: whom they go to.
        prices: the user's own.
        budget: what may be spent; it is only looked at.
        slots: tasks at once for each model; None: as many as the client begins with.
    """
    room = None if budget is None else budget.left
    chosen: list[Item] = []
    total, unpriced, beyond, refused = Decimal(0), 0, 0, 0
    for item in new:
        units = estimate(item.request, provider, prices)
        if units is None and budget is not None and not budget.allow_unpriced:
            refused += 1
        elif units is not None and room is not None and units > room:
            beyond += 1
        else:
            chosen.append(item)
            unpriced += units is None
            total += units or 0
            room = None if room is None else room - (units or 0)
    known = slots or FIRST_LIMIT
    return Plan(
        new=tuple(chosen),
        units=total,
        unpriced=unpriced,
        beyond=beyond,
        refused=refused,
        seconds=_seconds(chosen, known),
        slots=known,
    )


def count_earlier(
    budget: Budget, records: Iterable[Record], provider: Provider, is_ours: Callable[[Record], bool]
) -> Counted:
    """Let *budget* know what all tasks of a journal cost, or may have cost, whoever asks for them now.

    Args:
        budget: of this run.
        records: every row of the journal.
        provider: whom this run talks to.
        is_ours: whether this run goes on with a task; nobody will know what another's comes to.
    """
    running: dict[str, int] = {}
    unknown = 0
    for record in records:
        told = None if record.units is None else Decimal(record.units)
        status = TaskStatus(record.state)
        units = spent(status, told, request_of(record), provider, budget.prices)
        unknown += units is None
        number = budget.reserve(units or Decimal(0))
        if is_terminal(status) or not is_ours(record):
            budget.settle(number, None)
        else:
            running[record.external_task_id] = number
    return Counted(running, unknown)


def _seconds(items: Iterable[Item], slots: int) -> float:
    """When the last would be done if each took its usual time; models do not take each other's slots."""
    lines: dict[tuple[str, str], list[float]] = collections.defaultdict(list)
    for item in items:
        lines[item.request.endpoint, item.request.model_name].append(
            usual_seconds(item.request.endpoint, item.request.model_name)
        )
    return max((_makespan(times, slots) for times in lines.values()), default=0.0)


def _makespan(times: Sequence[float], slots: int) -> float:
    free = [0.0] * min(slots, len(times))
    for seconds in times:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)
