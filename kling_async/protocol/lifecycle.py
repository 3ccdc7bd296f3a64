"""The life of a task, as one table.

Two rules. Everything that decides which of two states wins is here. It does not matter who saw a state, when,
or in which order the news arrives: a poll's reply, a callback and a journal row are all *observations*, and
the one with the higher rank wins. So news may come twice, late or out of order and nothing goes wrong.

The ranks say what is the better news. What Kling says of a task outweighs what we concluded from silence: a
task given up as lost that later succeeds has succeeded, and a failure that turned into a video is a video.
"""

from collections.abc import Mapping
from types import MappingProxyType

import attrs

from kling_async.protocol.errors import Outcome
from kling_async.protocol.models import Task, TaskStatus

__all__ = ["STATES", "State", "is_terminal", "observe"]


@attrs.frozen
class State:
    """One row of the table.

    Attributes:
        rank: the higher one wins.
        terminal: nothing more is asked or awaited.
        outcome: whether a task exists at Kling.
        meaning: for the documentation.
    """

    rank: int
    terminal: bool
    outcome: Outcome
    meaning: str


STATES: Mapping[TaskStatus, State] = MappingProxyType(
    {
        TaskStatus.INTENDED: State(0, False, Outcome.NOT_CREATED, "to be submitted, nothing sent yet"),
        TaskStatus.AMBIGUOUS: State(1, False, Outcome.MAY_EXIST, "sent, the answer was lost"),
        TaskStatus.SUBMITTED: State(2, False, Outcome.CREATED, "acknowledged by Kling, waiting there"),
        TaskStatus.UNKNOWN: State(
            3, False, Outcome.CREATED, "a status word nobody documents; polling goes on"
        ),
        TaskStatus.PROCESSING: State(4, False, Outcome.CREATED, "being generated"),
        TaskStatus.REFUSED: State(5, True, Outcome.NOT_CREATED, "by proof no task was made"),
        TaskStatus.GIVEN_UP: State(5, True, Outcome.CREATED, "not done within Polling.give_up"),
        TaskStatus.LOST: State(5, True, Outcome.CREATED, "the server no longer knows it"),
        TaskStatus.MAY_EXIST: State(
            6, True, Outcome.MAY_EXIST, "the answer was lost and cannot be looked up"
        ),
        TaskStatus.FAILED: State(7, True, Outcome.CREATED, "the generation failed"),
        TaskStatus.SUCCEED: State(8, True, Outcome.CREATED, "the video is there"),
    }
)


def is_terminal(status: TaskStatus) -> bool:
    """Whether nothing more is to be asked or awaited."""
    return STATES[status].terminal


def observe(known: Task, seen: Task) -> Task:
    """Join what is *known* of a task with what was *seen*: the higher rank wins, then the later news.

    Ids and times that one of the two lacks are taken from the other, but for the time of another status. The
    same news twice changes nothing.
    """
    newer = (STATES[seen.status].rank, _moment(seen)) >= (STATES[known.status].rank, _moment(known))
    first, second = (seen, known) if newer else (known, seen)
    return attrs.evolve(
        first,
        task_id=first.task_id or second.task_id,
        external_task_id=first.external_task_id or second.external_task_id,
        created_at=first.created_at or second.created_at,
        updated_at=first.updated_at or (second.updated_at if second.status is first.status else None),
        units=second.units if first.units is None else first.units,
    )


def _moment(task: Task) -> float:
    return task.updated_at.timestamp() if task.updated_at else 0.0
