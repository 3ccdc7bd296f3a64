"""What holds a run back while it runs: too many failures in a row, and what earlier runs come to cost."""

from decimal import Decimal

import attrs

from kling_async.instrumentation import Completed, Event
from kling_async.protocol.budget import Budget
from kling_async.protocol.errors import BudgetError
from kling_async.protocol.models import TaskStatus

__all__ = ["Settler", "Streak"]


@attrs.define
class Streak:
    """Counts failures in a row, and ends what wants to be submitted when there are too many.

    Attributes:
        most: how many are too many; 0: none are.
        budget: closed then.
        count: failures since the last success, and for good once they are too many.
        is_over: whether they are too many.
    """

    most: int
    budget: Budget | None = None
    count: int = 0
    is_over: bool = False

    def tell(self, event: Event) -> None:
        """The client's hook."""
        if not isinstance(event, Completed) or isinstance(event.error, BudgetError):
            return
        if event.error is not None:
            self.count += 1
        elif not self.is_over:
            self.count = 0
        if not self.is_over and 0 < self.most <= self.count:
            self.is_over = True
            if self.budget is not None:
                self.budget.close()


@attrs.frozen
class Settler:
    """Tells a budget what tasks of earlier runs came to cost that were still running when this one began.

    Attributes:
        budget: the budget.
        running: their reservations, by external_task_id.
    """

    budget: Budget
    running: dict[str, int]

    def tell(self, event: Event) -> None:
        """The client's hook."""
        if not isinstance(event, Completed) or event.external_task_id not in self.running:
            return
        is_free = event.status in (TaskStatus.FAILED, TaskStatus.REFUSED)
        told = event.units if event.provider is None or event.provider.account else None
        self.budget.settle(
            self.running.pop(event.external_task_id), (told or Decimal(0)) if is_free else told
        )
