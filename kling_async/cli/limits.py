"""What holds a run back while it runs: too many failures in a row, and what earlier runs come to cost."""

import attrs

from kling_async.checking import cost_told
from kling_async.instrumentation import Completed, Event
from kling_async.protocol.budget import Budget
from kling_async.protocol.errors import BudgetError
from kling_async.protocol.providers import Provider
from kling_async.streams import Completion

__all__ = ["Settler", "Streak"]


@attrs.define
class Streak:
    """Counts failures in a row, until there are too many.

    Attributes:
        most: how many are too many; 0: none are.
        count: failures since the last success.
    """

    most: int
    count: int = 0

    @property
    def is_over(self) -> bool:
        """Whether they are too many, and nothing more is to be submitted."""
        return 0 < self.most <= self.count

    def add(self, done: Completion) -> None:
        """Count one more; what the budget had no room for is no failure, nor what an earlier run knew."""
        if self.is_over or done.resumed or isinstance(done.error, BudgetError):
            return
        self.count = 0 if done.ok else self.count + 1


@attrs.frozen
class Settler:
    """Tells a budget what tasks of earlier runs came to cost that were still running when this one began.

    Attributes:
        budget: the budget.
        provider: who made them.
        running: their reservations, by external_task_id.
    """

    budget: Budget
    provider: Provider
    running: dict[str, int]

    def tell(self, event: Event) -> None:
        """The client's hook."""
        if not isinstance(event, Completed) or event.external_task_id not in self.running:
            return
        cost = cost_told(event.status, event.units, self.provider)
        self.budget.settle(self.running.pop(event.external_task_id), cost)
