"""The tasks of one account: what a task is at a given time, and the tables that find it."""

import math
from collections import Counter
from decimal import Decimal
from heapq import heappop, heappush
from typing import Final, Literal

from attrs import define, field, frozen

from kling_async.simulator.messages import KINDS

Status = Literal["submitted", "processing", "succeed", "failed"]

TERMINAL: Final = frozenset({"succeed", "failed"})


@frozen
class Generation:
    """One task. All times are Unix seconds and fixed when it is made, so its state depends on `now` alone.

    Attributes:
        task_id: Kling's id.
        external_task_id: The caller's id, or None.
        kind: The endpoint that made it.
        model: The model's name.
        created: When it was accepted.
        started: When `submitted` becomes `processing`.
        ended: When it becomes terminal.
        purged: When Kling forgets it.
        failure: Why it fails; empty if it succeeds.
        recovers: When a failure turns into a success after all.
        units: What a success costs, None if no price is known.
        video_id: The id of its video.
        duration: The video's length in seconds as asked for.
        watermark: Whether `watermark_info` asked for a watermark; None if it was not sent.
        slots: What its slot is counted under.
    """

    task_id: str
    external_task_id: str | None
    kind: str
    model: str
    created: float
    started: float
    ended: float
    purged: float
    failure: str
    units: Decimal | None
    video_id: str
    duration: str
    watermark: bool | None
    slots: str
    recovers: float = math.inf

    @property
    def succeeds(self) -> bool:
        """Whether there is a video in the end."""
        return self.ended < math.inf and (not self.failure or self.recovers < math.inf)

    def status(self, now: float) -> Status:
        """The status at *now*."""
        if now >= self.ended:
            return "failed" if self.failure and now < self.recovers else "succeed"
        return "processing" if now >= self.started else "submitted"

    def next_change(self, now: float) -> float:
        """When the status of *now* becomes another one; `inf` if it is the last one until the purge."""
        times = (self.started, self.ended, self.recovers)
        return min((time for time in times if now < time < self.purged), default=math.inf)

    def updated(self, now: float) -> float:
        """When the status of *now* was reached."""
        if now >= self.ended:
            return self.recovers if now >= self.recovers else self.ended
        return self.started if now >= self.started else self.created


@define(eq=False)
class TaskTable:
    """The tasks by id, custom id, video and kind, and how many hold a slot. No look-up scans the tasks."""

    _by_id: dict[str, Generation] = field(init=False, factory=dict)
    _by_external_id: dict[str, Generation] = field(init=False, factory=dict)
    _by_video: dict[str, Generation] = field(init=False, factory=dict)
    _by_kind: dict[str, list[Generation]] = field(init=False, factory=lambda: {kind: [] for kind in KINDS})
    _ends: list[tuple[float, str]] = field(init=False, factory=list)
    _in_flight: Counter[str] = field(init=False, factory=Counter)
    _in_order: bool = field(init=False, default=True)

    def add(self, task: Generation, *, in_order: bool = True) -> None:
        """Enter *task*, made now; *in_order* says that it is purged after those before it, as is usual."""
        self._in_order = self._in_order and in_order
        self._by_id[task.task_id] = task
        self._by_video[task.video_id] = task
        if task.external_task_id is not None:
            self._by_external_id[task.external_task_id] = task
        self._by_kind.setdefault(task.kind, []).append(task)
        heappush(self._ends, (task.ended, task.slots))
        self._in_flight[task.slots] += 1

    def by_task_id(self, task_id: str, now: float) -> Generation | None:
        """The task with this id, unless purged."""
        return self._known(self._by_id.get(task_id), now)

    def by_external_id(self, external_task_id: str, now: float) -> Generation | None:
        """The task with this custom id, unless purged."""
        return self._known(self._by_external_id.get(external_task_id), now)

    def by_video(self, video_id: str, now: float) -> Generation | None:
        """The task whose finished video has this id, unless purged."""
        task = self._known(self._by_video.get(video_id), now)
        return task if task is not None and task.status(now) == "succeed" else None

    def oldest_first(self, kind: str, now: float) -> list[Generation]:
        """The tasks of *kind* in the order of making; not to be changed."""
        tasks = self._by_kind[kind]
        if not self._in_order:
            return [task for task in tasks if self._known(task, now) is not None]
        purged = 0
        while purged < len(tasks) and self._known(tasks[purged], now) is None:
            purged += 1
        del tasks[:purged]
        return tasks

    def in_flight(self, now: float, slots: str | None = None) -> int:
        """How many tasks are not terminal at *now*; with *slots* only those counted under it.

        Calls must come in the order of time.
        """
        while self._ends and self._ends[0][0] <= now:
            self._in_flight[heappop(self._ends)[1]] -= 1
        return self._in_flight[slots] if slots is not None else self._in_flight.total()

    @staticmethod
    def _known(task: Generation | None, now: float) -> Generation | None:
        return task if task is not None and now < task.purged else None
