"""A row tells a later run what this one knew of a task, and nothing that is secret."""

import base64
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, strategies as st

from kling_async import records
from kling_async.flight import Flight
from kling_async.journal import Record
from kling_async.protocol.errors import (
    ConnectError,
    KlingError,
    ResponseLostError,
    TaskFailedError,
    TaskLostError,
    WaitTimeoutError,
)
from kling_async.protocol.identity import Issuer
from kling_async.protocol.images import ImageFile, ImageText, ImageUrl
from kling_async.protocol.lifecycle import STATES
from kling_async.protocol.models import (
    DynamicMask,
    ImageToVideo,
    MultiImageToVideo,
    Point,
    Task,
    TaskStatus,
    Video,
)

NOW = 1_760_000_000.0
ISSUER = Issuer("kling", "api.example.com", "0123456789ab")
INTENDED = Record(
    external_task_id="ka-cat",
    key="cat",
    named=True,
    label="cat",
    account="0123456789ab",
    provider="kling",
    host="api.kling.example",
    endpoint="image2video",
    model_name="kling-v2-6",
    request_hash="00",
    intended_at=NOW - 60,
)

MOMENTS = st.none() | st.integers(0, 10**7).map(
    lambda seconds: datetime(2025, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds, milliseconds=seconds % 1000)
)
TASKS = st.builds(
    Task,
    task_id=st.none() | st.text(),
    external_task_id=st.just("ka-cat"),
    status=st.sampled_from(TaskStatus),
    videos=st.lists(
        st.builds(
            Video,
            url=st.text(),
            id=st.text(),
            duration=st.none() | st.floats(0, 60),
            watermark_url=st.none() | st.text(),
        ),
        max_size=2,
    ).map(tuple),
    created_at=MOMENTS,
    updated_at=MOMENTS,
    units=st.none() | st.decimals(0, 100, places=2),
)


def flight(task: Task, **fields: Any) -> Flight:
    """A flight of which *task* is known."""
    order = {"order": 0, "key": "cat", "endpoint": "image2video", "slot_key": ("image2video", "kling-v2-6")}
    return Flight(**order, task=task, issuer=ISSUER, **fields)


@given(TASKS)
def test_a_row_gives_back_the_snapshot_it_was_made_from(task: Task):
    """Ids, state, videos, times and units of every snapshot survive being written and read."""
    told = records.task_of(records.observed(INTENDED, flight(task), NOW))
    assert told == attrs.evolve(task, task_id=task.task_id or None)
    assert str(told.units) == str(task.units)


def test_the_reason_of_a_failure_survives():
    """A failed task keeps Kling's own words; what another state's message says is no reason of Kling's."""
    task = Task("1", "ka-cat", TaskStatus.FAILED, "the picture shows a brand")
    row = records.observed(INTENDED, flight(task), NOW)
    assert records.task_of(row) == task
    error = KlingError("not done within 3 h")
    row = records.observed(INTENDED, flight(Task("1", "ka-cat", TaskStatus.GIVEN_UP), error=error), NOW)
    assert row.message == "not done within 3 h"
    assert records.task_of(row).status_message == ""


def test_what_a_snapshot_lacks_keeps_what_the_row_knew():
    """Later news without ids, videos, times or units takes none of them away, and makes the row newer."""
    full = Task(
        "1",
        "ka-cat",
        TaskStatus.SUCCEED,
        videos=(Video("https://cdn.example/v.mp4"),),
        created_at=datetime(2025, 10, 9, tzinfo=UTC),
        updated_at=datetime(2025, 10, 10, tzinfo=UTC),
        units=Decimal("1.50"),
    )
    row = records.observed(INTENDED, flight(full, sent_at=NOW - 9), NOW)
    bare = records.observed(row, flight(Task(None, "ka-cat", TaskStatus.SUCCEED)), NOW + 5)
    assert bare == attrs.evolve(row, updated_at=NOW + 5)
    assert (row.body_sent_at, row.units) == (NOW - 9, "1.50")


ENDS: dict[TaskStatus, type[KlingError]] = {
    TaskStatus.REFUSED: KlingError,
    TaskStatus.GIVEN_UP: WaitTimeoutError,
    TaskStatus.LOST: TaskLostError,
    TaskStatus.MAY_EXIST: ResponseLostError,
    TaskStatus.FAILED: TaskFailedError,
}


@pytest.mark.parametrize("status", TaskStatus)
def test_each_end_without_a_video_is_its_own_error(status: TaskStatus):
    """The error says what the state table says of the money; what ended well or goes on has none."""
    row = attrs.evolve(INTENDED, state=status.value, task_id="1", message="too dark")
    error = records.error_of(row)
    if error is None:
        assert status not in ENDS
        return
    assert type(error) is ENDS[status]
    assert error.outcome is STATES[status].outcome
    assert error.what == "in an earlier run: too dark"
    silent = records.error_of(attrs.evolve(row, message=""))
    assert silent is not None
    assert silent.what == f"in an earlier run: {status.value}"


def test_a_failure_of_an_earlier_run_tells_its_task():
    """The error of a failed task carries the task and Kling's reason, as it did in the run that saw it."""
    error = records.error_of(attrs.evolve(INTENDED, state="failed", task_id="1", message="too dark"))
    assert isinstance(error, TaskFailedError)
    assert error.task == Task("1", "ka-cat", TaskStatus.FAILED, "too dark")
    assert error.status_message == "too dark"


def test_an_error_is_the_message_where_kling_gave_none():
    """Why nothing was submitted is written down in the error's words, without item and advice."""
    error = ConnectError("no route to host", advice="check the network")
    row = records.observed(INTENDED, flight(Task(None, "ka-cat", TaskStatus.REFUSED), error=error), NOW)
    assert row.message == "no route to host"
    assert row.state == "refused"


def test_a_request_is_told_without_its_pictures():
    """Every field stands there by its own name, each picture by what identifies it."""
    request = ImageToVideo(
        image="cat.png",
        prompt="the cat yawns",
        duration=10,
        sound=True,
        dynamic_masks=[DynamicMask(b"mask", [Point(1, 2), Point(3, 4)])],
        external_task_id="mine",
    )
    size = 6
    images = {
        "image": ImageFile(Path("cat.png"), size, 1, "ca7"),
        "dynamic_masks[0].mask": ImageText(base64.b64encode(b"mask").decode(), "3a5"),
    }
    assert json.loads(records.request_text(request, images)) == {
        "model_name": "kling-v2-6",
        "prompt": "the cat yawns",
        "duration": "10",
        "sound": "on",
        "external_task_id": "mine",
        "dynamic_masks": [{"trajectories": [{"x": 1, "y": 2}, {"x": 3, "y": 4}]}],
        "images": {
            "image": {"path": "cat.png", "size": 6, "sha256": "ca7"},
            "dynamic_masks[0].mask": {"size": 4, "sha256": "3a5"},
        },
    }


def test_several_pictures_are_told_each():
    """The pictures of a list are told by their places, and none of their text is."""
    request = MultiImageToVideo(image_list=[b"first", "https://cdn.example/b.png?sig=1"], prompt="they meet")
    images = {
        "image_list[0]": ImageText(base64.b64encode(b"first").decode(), "0f"),
        "image_list[1]": ImageUrl("https://cdn.example/b.png?sig=1"),
    }
    assert json.loads(records.request_text(request, images))["images"] == {
        "image_list[0]": {"size": 5, "sha256": "0f"},
        "image_list[1]": {"url": "https://cdn.example/b.png"},
    }


def test_equal_requests_are_told_alike():
    """The text is canonical: the order in which fields and pictures were given does not show."""
    url, text = ImageUrl("https://cdn.example/a.png"), ImageText("YQ==", "aa")
    one = ImageToVideo(image="a", image_tail="b", prompt="x", extra_body={"b": 1, "a": 2})
    two = ImageToVideo(prompt="x", image_tail="b", image="a", extra_body={"a": 2, "b": 1})
    assert records.request_text(one, {"image": url, "image_tail": text}) == records.request_text(
        two, {"image_tail": text, "image": url}
    )


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://hooks.example/kling", "https://hooks.example/kling"),
        ("https://hooks.example:8443/kling?token=s3cret", "https://hooks.example:8443/kling"),
        ("https://hooks.example/kling#s3cret", "https://hooks.example/kling"),
        ("https://me:s3cret@hooks.example/a@b", "https://hooks.example/a@b"),
        ("http://s3cret@[::1]:80?s3cret", "http://[::1]:80"),
        ("https://[s3cret@no", "https://no"),
        ("https://", "https://"),
    ],
)
def test_urls_are_told_without_what_may_be_secret(url: str, told: str):
    """User, password, query and fragment stay out, also of a URL that is none."""
    request = ImageToVideo(image="a", prompt="x", callback_url=url)
    fields = json.loads(records.request_text(request, {"image": ImageUrl(url)}))
    assert fields["callback_url"] == told
    assert fields["images"] == {"image": {"url": told}}


def test_what_extra_body_holds_is_not_told():
    """Of the caller's own fields only the names are written, whatever they replace."""
    extra = {"webhook_secret": "s3cret", "image": "s3cret", "prompt": "s3cret", "nested": {"key": "s3cret"}}
    text = records.request_text(ImageToVideo(image="a", prompt="x", extra_body=extra), {})
    assert "s3cret" not in text
    assert json.loads(text)["extra_body"] == ["image", "nested", "prompt", "webhook_secret"]
