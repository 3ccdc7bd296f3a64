"""Draws the states of a task, from the table that decides them, as SVG that needs no script and no tool."""

from collections.abc import Iterable, Sequence
from html import escape

from kling_async.protocol.errors import Outcome
from kling_async.protocol.lifecycle import STATES
from kling_async.protocol.models import TaskStatus

_LANES = {Outcome.NOT_CREATED: 70.0, Outcome.MAY_EXIST: 215.0, Outcome.CREATED: 525.0}
"""The middle of each outcome's lane."""
_COLOURS = {Outcome.NOT_CREATED: "#7c8594", Outcome.MAY_EXIST: "#d97706", Outcome.CREATED: "#0d9488"}
"""Seen on white as on black: text and arrows have the page's own colour."""
_WIDTH, _HEIGHT = 92.0, 28.0
_TOP, _ROW = 60.0, 46.0
_BESIDE = 103.0
"""From one end to the next, of those that share a lane."""


def states() -> str:
    """Each state by rank, in the lane of its outcome, and the ways between them."""
    height = _TOP + _ROW * (max(state.rank for state in STATES.values()) + 0.8)
    return "\n".join(
        [
            f'<figure><svg viewBox="0 0 730 {height:g}" width="730" role="img"',
            ' style="max-width: 100%; height: auto"',
            ' font-family="monospace" font-size="12" text-anchor="middle" fill="none" stroke="currentColor">',
            "<title>The states of a task and the ways between them</title>",
            '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4"',
            ' markerWidth="7" markerHeight="7" orient="auto">',
            '<path d="M0 0 8 4 0 8z" fill="currentColor" stroke="none"/></marker>',
            *(_lane(outcome) for outcome in _LANES),
            *(_arrow(start, end) for start, end in ways()),
            *(_box(status) for status in STATES),
            "</svg></figure>",
        ]
    )


def ways() -> Sequence[tuple[TaskStatus, TaskStatus]]:
    """From each state to those above it that can be next, without what is told by two shorter ways.

    A task that exists at Kling stays one that exists, and what is refused by proof ends there.
    """
    return [
        (start, end)
        for start in STATES
        for end in STATES
        if _may_follow(start, end) and not any(_is_between(start, each, end) for each in STATES)
    ]


def _may_follow(start: TaskStatus, end: TaskStatus) -> bool:
    before, after = STATES[start], STATES[end]
    if before.rank >= after.rank or (before.terminal and before.outcome is Outcome.NOT_CREATED):
        return False
    if before.terminal:
        return after.outcome is Outcome.CREATED
    return before.outcome is not Outcome.CREATED or after.outcome is Outcome.CREATED


def _is_between(start: TaskStatus, middle: TaskStatus, end: TaskStatus) -> bool:
    """Whether the way from *start* to *end* is told by those over *middle*; late news is a way of its own."""
    if STATES[start].terminal:
        return False
    alike = STATES[middle].outcome in (STATES[start].outcome, STATES[end].outcome)
    same = STATES[middle].terminal == STATES[start].terminal
    return alike and same and _may_follow(start, middle) and _may_follow(middle, end)


def _ends(outcome: Outcome) -> Sequence[TaskStatus]:
    return [status for status, state in STATES.items() if state.terminal and state.outcome is outcome]


def _place(status: TaskStatus) -> tuple[float, float]:
    """The middle of a state's box."""
    state = STATES[status]
    x, y = _LANES[state.outcome], _TOP + _ROW * state.rank
    if state.terminal:
        ends = _ends(state.outcome)
        x += _BESIDE * (ends.index(status) - (len(ends) - 1) / 2)
    return x, y


def _lane(outcome: Outcome) -> str:
    text = escape(outcome.name)
    return f'<text x="{_LANES[outcome]:g}" y="20" fill="{_COLOURS[outcome]}" stroke="none">{text}</text>'


def _box(status: TaskStatus) -> str:
    """Ends are round and bold."""
    state, (x, y) = STATES[status], _place(status)
    radius, stroke = (_HEIGHT / 2, 2.5) if state.terminal else (3, 1.2)
    colour = _COLOURS[state.outcome]
    left, top = x - _WIDTH / 2, y - _HEIGHT / 2
    return (
        f'<g><title>{escape(state.meaning)}</title><rect x="{left:g}" y="{top:g}" width="{_WIDTH:g}"'
        f' height="{_HEIGHT:g}" rx="{radius:g}" stroke="{colour}" stroke-width="{stroke:g}"/>'
        f'<text x="{x:g}" y="{y + 4:g}" fill="currentColor" stroke="none">{escape(status.name)}</text></g>'
    )


def _arrow(start: TaskStatus, end: TaskStatus) -> str:
    """Within a lane downwards; into another out of the side and in from above; late news in from the left."""
    (x, y), (to_x, to_y) = _place(start), _place(end)
    late = STATES[start].terminal
    if late:
        points: Iterable[float] = (x, y + _HEIGHT / 2, x, to_y, x, to_y, to_x - _WIDTH / 2, to_y)
    elif STATES[start].outcome is STATES[end].outcome:
        y, to_y = y + _HEIGHT / 2, to_y - _HEIGHT / 2
        bend = (to_y - y) / 2
        points = (x, y, x, y + bend, to_x, to_y - bend, to_x, to_y)
    else:
        to_y -= _HEIGHT / 2
        side = 1 if to_x > x else -1
        to_x -= side * 30
        points = (x + side * _WIDTH / 2, y, to_x, y, to_x, y, to_x, to_y)
    move = "M{:g} {:g}C{:g} {:g} {:g} {:g} {:g} {:g}".format(*points)
    dashed = ' stroke-dasharray="4 3"' if late else ""
    return f'<path d="{move}" marker-end="url(#tip)" opacity="0.75"{dashed}/>'
