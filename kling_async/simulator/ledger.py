"""What the simulator made, billed and answered: the judge in tests."""

import math
from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from attrs import define, field, frozen


@frozen
class Made:
    """One paid task.

    Attributes:
        task_id: Kling's id.
        external_task_id: The caller's id, or None.
        kind: The endpoint, e.g. `image2video`.
        body: The request as Kling received it; for each base64 picture stands `sha256:` and the hex digest
            of its bytes.
        created: When it was made, Unix seconds.
        ended: When it becomes terminal, Unix seconds.
        succeeds: Whether it ends as `succeed`.
        units: What is deducted at success; zero for a failure and where no price is known.
    """

    task_id: str
    external_task_id: str | None
    kind: str
    body: Mapping[str, Any]
    created: float
    ended: float
    succeeds: bool
    units: Decimal


@define(eq=False)
class Ledger:
    """What was made and asked.

    Attributes:
        made: Every task in the order of making: each one is money.
        most_in_flight: The largest number of tasks that were not terminal at once.
        requests: Number of requests by operation: `create`, `query`, `list`, `account`, `download`, `other`.
        outcomes: Number of requests by (operation, code). The code is Kling's, 0 for success; for a failed
            download, for what a gateway refuses by itself and for a fault that struck before anything was
            done, the HTTP status, 444 if the connection ended without one. A fault that struck later does
            not count here.
        faults: Number of faults that made a difference, by (operation, kind).
        leaks: Downloads that carried credentials or cookies: the path and the header's name.
        callbacks: Number of callbacks handed out by the status they tell, in the word of their body
            (`succeed`, or `succeeded` in the next generation); repetitions count.
        withheld: Number of those that a server did not post, by the host of their URL: it leads to another
            machine than this one, or nowhere.
    """

    made: list[Made] = field(init=False, factory=list)
    most_in_flight: int = field(init=False, default=0)
    requests: Counter[str] = field(init=False, factory=Counter)
    outcomes: Counter[tuple[str, int]] = field(init=False, factory=Counter)
    faults: Counter[tuple[str, str]] = field(init=False, factory=Counter)
    leaks: list[str] = field(init=False, factory=list)
    callbacks: Counter[str] = field(init=False, factory=Counter)
    withheld: Counter[str] = field(init=False, factory=Counter)

    @property
    def refused_creates(self) -> int:
        """How many creates made nothing."""
        return sum(
            count for (operation, code), count in self.outcomes.items() if operation == "create" and code != 0
        )

    def billed(self, now: float = math.inf) -> Decimal:
        """The units deducted until *now* (Unix seconds); by default all that the tasks so far will cost."""
        return sum((task.units for task in self.made if task.ended <= now), Decimal(0))

    def made_by_external_id(self) -> dict[str | None, list[Made]]:
        """The tasks by `external_task_id`; two under one id would be a double payment."""
        grouped: dict[str | None, list[Made]] = {}
        for task in self.made:
            grouped.setdefault(task.external_task_id, []).append(task)
        return grouped

    def record(self, operation: str, code: int) -> None:
        """Count one request and its outcome."""
        self.requests[operation] += 1
        self.outcomes[operation, code] += 1
