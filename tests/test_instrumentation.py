"""Who is told of events, and what the log says of them."""

import logging
from pathlib import Path

import pytest

from kling_async.instrumentation import Event, Hooks, Polled, Saved
from kling_async.protocol.models import TaskStatus

POLLED = Polled(key="a", task_id="7", external_task_id=None, status=TaskStatus.PROCESSING, polls=3)
SAVED = Saved(key=None, task_id="7", external_task_id=None, path=Path("7.mp4"), size=5, elapsed=0.1)


def test_nobody_hears_of_polls_unless_he_asks(caplog: pytest.LogCaptureFixture):
    """Polls are told if there is a hook, or the log is at DEBUG; else they need not be made events."""
    with caplog.at_level(logging.INFO, "kling_async"):
        assert not Hooks().wants_polls
        assert Hooks([lambda _: None]).wants_polls
    with caplog.at_level(logging.DEBUG, "kling_async"):
        assert Hooks().wants_polls


@pytest.mark.parametrize(
    ("level", "said"),
    [
        (logging.DEBUG, ["a: poll 3: processing", "7: saved 7.mp4 (5 bytes)"]),
        (logging.INFO, ["7: saved 7.mp4 (5 bytes)"]),
        (logging.WARNING, []),
    ],
)
def test_polls_are_logged_at_debug_alone(level: int, said: list[str], caplog: pytest.LogCaptureFixture):
    """INFO tells what a user follows, by the names he gave."""
    with caplog.at_level(level, "kling_async"):
        for event in (POLLED, SAVED):
            Hooks().tell(event)
    assert caplog.messages == said


def test_a_hook_that_fails_harms_nobody(caplog: pytest.LogCaptureFixture):
    """The others are told all the same, and its failure is logged once."""
    heard: list[Event] = []

    def broken(_: Event) -> None:
        raise ValueError("a bug")

    hooks = Hooks([broken, heard.append])
    for event in (POLLED, SAVED):
        hooks.tell(event)
    assert heard == [POLLED, SAVED]
    [failure] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "broken" in failure.getMessage()
