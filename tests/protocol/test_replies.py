"""Replies of every family are read rightly; whatever else comes is the right error."""

import json
import random
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, strategies as st

from kling_async.protocol.errors import CallbackError, KlingError
from kling_async.protocol.families import STATES, glance, task_from
from kling_async.protocol.models import Task, TaskStatus, Video
from kling_async.protocol.replies import (
    Response,
    read_callback,
    read_created,
    read_page,
    read_poll,
    read_sweep,
    read_task,
)

URL = "https://media.example.org/v.mp4"

K = b"""{"code": 0, "message": "SUCCEED", "request_id": "77c1",
 "data": {
  "task_id": "930112233445566778", "task_status": "succeed", "task_status_msg": "",
  "task_info": {"external_task_id": "ka-6f0c"},
  "task_result": {"videos": [{"id": "930112290000000001", "url": "https://media.example.org/v.mp4",
                              "watermark_url": "https://media.example.org/w.mp4", "duration": "8.041"}]},
  "watermark_info": {"enabled": false}, "final_unit_deduction": "9.6",
  "final_balance_deduction": {"quota": "0", "list_price": "0"},
  "created_at": 1773366840306, "updated_at": 1773366902117}}"""

W = b"""{"code": "success", "message": "",
 "data": {"task_id": "task_8fJ2kQ0aZ", "status": "SUCCESS", "progress": "100%", "fail_reason": "",
          "result_url": "https://media.example.org/v.mp4",
          "submit_time": 1777385361, "finish_time": 1777385463,
          "data": {"code": 0, "message": "SUCCEED", "request_id": "9ab3",
                   "data": {"task_id": "878106242831892487", "task_status": "processing",
                            "task_info": {"external_task_id": "ka-1"},
                            "task_result": {"videos": [{"id": "878", "url": "https://media.example.org/v.mp4",
                                                        "duration": "5.0"}]}}}}}"""

W_2025 = b"""{"code":"success","message":"","data":{"task_id":"CjNQtmctxFMAAAAAAGZ1Vw","action":"generate",
 "status":"SUCCESS","fail_reason":"https://media.example.org/v.mp4","submit_time":1760000000,
 "start_time":1760000010,"finish_time":1760000100,"progress":"100%","data":null}}"""

W_FAILED = b"""{"code":"success","message":"","data":{"id":7,"task_id":"task_abc","status":"FAILURE",
 "fail_reason":"content risk control","result_url":"content risk control","submit_time":1777385361,
 "finish_time":0,"progress":"100%","data":{"code":0,"data":{"task_id":"8","task_status":"failed",
 "task_status_msg":"inner words"}}}}"""

W_OF_W = b"""{"code":"success","message":"",
 "data":{"task_id":"task_outer","status":"IN_PROGRESS","fail_reason":"",
 "data":{"code":"success","message":"","data":{"task_id":"task_inner","status":"SUCCESS","fail_reason":"",
 "data":{"code":0,"message":"SUCCEED","data":{"task_id":"878","task_status":"succeed",
 "task_result":{"videos":[{"id":"1","url":"https://media.example.org/v.mp4","duration":"5"}]}}}}}}}"""

COMET_OLD = b"""{"code":"success","message":"","data":{"task_id":"2032","status":"SUCCESS","progress":"100%",
 "action":"OMNI_VIDEO","data":{"task_id":"2032","task_status":"succeed",
 "task_result":{"videos":[{"id":"1","url":"https://media.example.org/v.mp4","duration":"5"}]}}}}"""

S = b"""{"code": "success", "data": {"task_id": "878106242831892487", "status": "succeeded",
 "url": "https://media.example.org/v.mp4", "format": "mp4", "metadata": null, "error": null}}"""

S_FAILED = b"""{"code": "success", "data": {"task_id": "878", "status": "failed", "url": "",
 "error": {"message": "no luck", "code": "x"}}}"""

V = b"""{"id": "task_8fJ2kQ0aZ", "object": "video", "status": "completed", "progress": 100, "seconds": "5",
 "created_at": 1777385361, "completed_at": 1777385463, "metadata": {"url": "https://media.example.org/v.mp4"}}"""

V_FAILED = b"""{"id":"task_8","object":"video","status":"failed","error":{"message":"no luck","code":"x"}}"""

F = b"""{"task_id":"878","status":"succeeded","url":"https://media.example.org/v.mp4","format":"mp4",
 "error":null}"""

NEW = b"""{"id": "893605946402811985", "status": "succeeded", "message": "", "create_time": 1781080778802,
 "update_time": 1781080861940, "external_id": "ka-6f0c",
 "outputs": [{"type": "image", "url": "https://media.example.org/i.png"},
             {"type": "video", "id": "893606", "url": "https://media.example.org/v.mp4", "watermark_url": "",
              "duration": "8.04"}],
 "billing": [{"charge_type": "unit", "amount": "9.6", "package_type": "video"},
             {"charge_type": "cash", "amount": "1.2", "cash_type": "balance"},
             {"charge_type": "unit", "amount": "0.4", "package_type": "video"}]}"""


def reply(body: object, status: int = 200, **headers: str) -> Response:
    """A response with *body*, as bytes or as what is to be JSON."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Response(status, {name.replace("_", "-"): value for name, value in headers.items()}, raw)


def utc(seconds: float) -> datetime:
    """The time *seconds* after 1970."""
    return datetime.fromtimestamp(seconds, UTC)


def task(task_id: str, status: TaskStatus, **fields: Any) -> Task:
    """A task to compare with; `raw` takes no part."""
    return Task(task_id, status=status, **fields)


QUERIES = {
    "K": (
        K,
        task(
            "930112233445566778",
            TaskStatus.SUCCEED,
            external_task_id="ka-6f0c",
            videos=(Video(URL, "930112290000000001", 8.041, "https://media.example.org/w.mp4"),),
            created_at=utc(1773366840.306),
            updated_at=utc(1773366902.117),
            units=Decimal("9.6"),
        ),
    ),
    "W": (
        W,
        task(
            "task_8fJ2kQ0aZ",
            TaskStatus.SUCCEED,
            external_task_id="ka-1",
            videos=(Video(URL, "878", 5.0),),
            created_at=utc(1777385361),
            updated_at=utc(1777385463),
        ),
    ),
    "W before result_url": (
        W_2025,
        task(
            "CjNQtmctxFMAAAAAAGZ1Vw",
            TaskStatus.SUCCEED,
            videos=(Video(URL),),
            created_at=utc(1760000000),
            updated_at=utc(1760000100),
        ),
    ),
    "W failed": (
        W_FAILED,
        task(
            "task_abc",
            TaskStatus.FAILED,
            status_message="content risk control",
            created_at=utc(1777385361),
        ),
    ),
    "W of W": (W_OF_W, task("task_outer", TaskStatus.PROCESSING)),
    "W of W done": (
        W_OF_W.replace(b"IN_PROGRESS", b"SUCCESS"),
        task("task_outer", TaskStatus.SUCCEED, videos=(Video(URL, "1", 5.0),)),
    ),
    "CometAPI's older page": (
        COMET_OLD,
        task("2032", TaskStatus.SUCCEED, videos=(Video(URL, "1", 5.0),)),
    ),
    "S": (S, task("878106242831892487", TaskStatus.SUCCEED, videos=(Video(URL),))),
    "S failed": (S_FAILED, task("878", TaskStatus.FAILED, status_message="no luck")),
    "V": (
        V,
        task(
            "task_8fJ2kQ0aZ",
            TaskStatus.SUCCEED,
            videos=(Video(URL),),
            created_at=utc(1777385361),
            updated_at=utc(1777385463),
        ),
    ),
    "V failed": (V_FAILED, task("task_8", TaskStatus.FAILED, status_message="no luck")),
    "F": (F, task("878", TaskStatus.SUCCEED, videos=(Video(URL),))),
}


@pytest.mark.parametrize(("body", "expected"), QUERIES.values(), ids=QUERIES)
def test_query_of_every_family(body: Any, expected: Any):
    """The task of a query reply is the same whoever wrapped it, and `raw` is the whole reply."""
    seen = read_task(reply(body))
    assert seen == expected
    assert seen.raw == json.loads(body)


CREATES = {
    "Kling": (
        {
            "code": 0,
            "message": "SUCCEED",
            "request_id": "0a",
            "data": {
                "task_id": "930",
                "task_status": "submitted",
                "task_info": {"external_task_id": "ka-6f0c"},
                "created_at": 1773366840306,
                "updated_at": 1773366840306,
            },
        },
        "930",
        TaskStatus.SUBMITTED,
    ),
    "CometAPI": (
        {
            "code": 0,
            "message": "success",
            "data": {"task_id": "2032273942220931072", "task_status": "submitted", "task_info": {}},
        },
        "2032273942220931072",
        TaskStatus.SUBMITTED,
    ),
    "new-api 2025-06": ({"task_id": "878"}, "878", TaskStatus.SUBMITTED),
    "new-api 2025-07": (
        {
            "code": 0,
            "message": "",
            "task_id": "878",
            "request_id": "",
            "data": {
                "task_id": "878",
                "task_status": "submitted",
                "task_status_msg": "",
                "task_result": {"videos": None},
                "created_at": 1753000000000,
            },
        },
        "878",
        TaskStatus.SUBMITTED,
    ),
    "new-api 2025-10": (
        {
            "id": "878",
            "task_id": "878",
            "object": "video",
            "model": "kling-v2-6",
            "status": "queued",
            "progress": 0,
            "created_at": 1760000000,
        },
        "878",
        TaskStatus.SUBMITTED,
    ),
    "V without task_id": (
        {"id": "task_1", "object": "video", "status": "in_progress"},
        "task_1",
        TaskStatus.PROCESSING,
    ),
    "a number for an id": (
        {"code": 0, "data": {"task_id": 878106242831892487}},
        "878106242831892487",
        TaskStatus.SUBMITTED,
    ),
    "everything else null": (
        {
            "code": 0,
            "message": None,
            "data": {
                "task_id": "1",
                "task_status": None,
                "task_info": None,
                "task_result": None,
                "created_at": None,
                "images": None,
            },
        },
        "1",
        TaskStatus.SUBMITTED,
    ),
}


@pytest.mark.parametrize(("body", "task_id", "status"), CREATES.values(), ids=CREATES)
def test_create_replies(body: Any, task_id: Any, status: Any):
    """A create's acknowledgement gives the id and a state, in every form a version of a gateway writes."""
    seen = read_created(reply(body))
    assert (seen.task_id, seen.status, seen.videos) == (task_id, status, ())


def test_create_reply_with_another_success_status():
    """Any 2xx with a task id acknowledges."""
    assert read_created(reply({"id": "a", "status": "queued"}, 201)).task_id == "a"


@pytest.mark.parametrize(("word", "status"), STATES.items())
def test_status_words(word: Any, status: Any):
    """Every documented word is known in any case."""
    for form in (word, word.upper(), word.title(), f" {word} "):
        assert read_task(reply({"data": {"task_id": "1", "status": form}})).status is status


@pytest.mark.parametrize("word", ["UNKNOWN", "", None, 99, "paused", [], True])
def test_unknown_status_words(word: Any):
    """A status nobody documented is UNKNOWN, so that polling goes on."""
    assert read_task(reply({"data": {"task_id": "1", "task_status": word}})).status is TaskStatus.UNKNOWN


def test_outer_state_wins():
    """A gateway's own state goes before the copy of Kling's that it wraps, and its URL is then not read."""
    seen = read_task(reply(W.replace(b'"SUCCESS"', b'"IN_PROGRESS"')))
    assert (seen.status, seen.videos) == (TaskStatus.PROCESSING, ())


def test_status_of_an_envelope_is_not_the_tasks():
    """A `status` that tells of the call does not hide the task's."""
    seen = read_task(reply({"status": "success", "data": {"task_id": "1", "task_status": "processing"}}))
    assert seen.status is TaskStatus.PROCESSING


def test_url_of_the_gateway_wins_and_the_rest_is_kept():
    """A gateway's `result_url` replaces the wrapped URL; id and duration stay. A relative one does not."""
    other = W.replace(b'"result_url": "https://media', b'"result_url": "https://mirror')
    assert read_task(reply(other)).video == Video("https://mirror.example.org/v.mp4", "878", 5.0)
    relative = W.replace(b'"result_url": "https://media.example.org', b'"result_url": "')
    assert read_task(reply(relative)).video == Video(URL, "878", 5.0)


def test_error_text_in_place_of_a_url():
    """On FAILURE the text in `result_url` is a reason and never a video."""
    seen = read_task(reply({"data": {"task_id": "1", "status": "FAILURE", "result_url": "no balance"}}))
    assert (seen.status_message, seen.videos) == ("no balance", ())


def test_reason_without_failure_is_no_message():
    """`fail_reason` holding a URL on success is no failure's reason."""
    assert read_task(reply(W_2025)).status_message == ""


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1773366840306, utc(1773366840.306)),
        (1773366840, utc(1773366840)),
        ("1773366840306", utc(1773366840.306)),
        (99_999_999_999, utc(99_999_999_999)),
        (0, None),
        (-1, None),
        (True, None),
        ("soon", None),
        (10**400, None),
        (1e300, None),
        ({}, None),
    ],
)
def test_times(value: Any, expected: Any):
    """Milliseconds and seconds are told apart at 1e11; what is no time is None."""
    assert read_task(reply({"data": {"task_id": "1", "created_at": value}})).created_at == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2.4", Decimal("2.4")),
        (3, Decimal(3)),
        (0.1, Decimal("0.1")),
        ("0", Decimal(0)),
        ("NaN", None),
        ("Infinity", None),
        ("9e999999", None),
        ("-1", None),
        ("x", None),
        (None, None),
        (True, None),
        ([], None),
    ],
)
def test_units(value: Any, expected: Any):
    """Units are exact decimals; what is no amount is None."""
    assert read_task(reply({"data": {"task_id": "1", "final_unit_deduction": value}})).units == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [("5", 5.0), (5, 5.0), ("5.041", 5.041), ("", None), ("nan", None), (None, None), ([], None)],
)
def test_video_durations(value: Any, expected: Any):
    """A duration is seconds, written as text or as a number."""
    videos = [{"url": URL, "duration": value}]
    body = {"data": {"task_id": "1", "task_status": "succeed", "task_result": {"videos": videos}}}
    assert read_task(reply(body)).video.duration == expected


def test_videos_without_a_url_are_left_out():
    """Entries that are no video, or have no http URL, are no videos."""
    videos = [None, 5, {}, {"url": None}, {"url": "ftp://x"}, {"url": URL}]
    body = {"data": {"task_id": "1", "task_status": "succeed", "task_result": {"videos": videos}}}
    assert read_task(reply(body)).videos == (Video(URL),)


def test_page_of_bare_entries():
    """A page is a bare array; null and an empty one are a page without tasks; what has no id is left out."""
    entries = [
        {"task_id": "1", "task_status": "submitted"},
        None,
        {},
        {"task_id": 2, "task_status": "failed"},
    ]
    page = read_page(reply({"code": 0, "data": entries}))
    assert [(seen.task_id, seen.status) for seen in page] == [
        ("1", TaskStatus.SUBMITTED),
        ("2", TaskStatus.FAILED),
    ]
    assert page[0].raw == entries[0]
    assert read_page(reply(entries)) == page
    assert read_page(reply({"code": 0, "data": {"result": entries}})) == page
    assert read_page(reply({"code": 0, "data": []})) == read_page(reply({"code": 0, "data": None})) == []


def test_sweep_of_raw_entries():
    """A page's entries come as they are, without those that `read_page` leaves out too."""
    entries = [{"task_id": "1"}, None, {}, {"task_status": "failed"}, {"id": 2, "status": "queued"}, []]
    for form in (entries, {"code": 0, "data": entries}, {"data": {"result": entries}}):
        swept = read_sweep(reply(form))
        assert swept == [{"task_id": "1"}, {"id": 2, "status": "queued"}]
        assert [seen.raw for seen in read_page(reply(form))] == swept


GOING_ON = b'{"code": 0, "data": {"task_id": "1", "task_status": "processing", "task_info": {}}}'


@pytest.mark.parametrize(
    ("body", "known"),
    [
        (GOING_ON, task("1", TaskStatus.PROCESSING)),
        (GOING_ON.replace(b"processing", b"submitted"), task("1", TaskStatus.SUBMITTED)),
        (W_OF_W, task("task_outer", TaskStatus.PROCESSING)),
        (V.replace(b"completed", b"in_progress"), task("task_8fJ2kQ0aZ", TaskStatus.PROCESSING)),
    ],
)
def test_a_poll_that_tells_nothing_new(body: Any, known: Task):
    """A task that goes on as it did gives None, whoever says so."""
    assert read_poll(reply(body), known) is None


@pytest.mark.parametrize(
    ("body", "known"),
    [
        (GOING_ON, task("1", TaskStatus.SUBMITTED)),
        (GOING_ON, task("2", TaskStatus.PROCESSING)),
        (GOING_ON, Task(None, status=TaskStatus.PROCESSING)),
        (K, task("930112233445566778", TaskStatus.SUCCEED)),
        (W_FAILED, task("task_abc", TaskStatus.FAILED)),
        (GOING_ON.replace(b"processing", b"paused"), task("1", TaskStatus.UNKNOWN)),
        (W, task("task_8fJ2kQ0aZ", TaskStatus.PROCESSING)),
    ],
)
def test_a_poll_that_tells_something(body: Any, known: Task):
    """Another state, another task, an id not known before, an end: all of the reply is read."""
    assert read_poll(reply(body), known) == read_task(reply(body))


def test_a_poll_that_tells_of_no_task():
    """A refusal within HTTP 200, a page, an empty object are what they are to `read_task`."""
    known = task("1", TaskStatus.PROCESSING)
    refused = GOING_ON.replace(b'"code": 0', b'"code": 1301, "message": "no"')
    for body in (refused, b"[%s]" % GOING_ON, b"{}", GOING_ON + b'{"code": "task_failed"}', GOING_ON[:-1]):
        with pytest.raises(KlingError) as polled:
            read_poll(reply(body), known)
        with pytest.raises(KlingError) as read:
            read_task(reply(body))
        assert (type(polled.value), str(polled.value)) == (type(read.value), str(read.value))


def test_page_that_is_none():
    """An object where the array belongs is an error, not an empty page."""
    with pytest.raises(KlingError, match="no list"):
        read_page(reply({"code": 0, "data": "no"}))


def test_callback_of_the_legacy_generation():
    """The bare legacy task is read like the same task in an envelope."""
    bare = json.dumps(json.loads(K)["data"]).encode()
    assert read_callback(bare) == read_task(reply(K))


def test_callback_of_the_new_generation():
    """The new generation's names are read too: outputs, billing in units, external_id."""
    assert read_callback(NEW) == task(
        "893605946402811985",
        TaskStatus.SUCCEED,
        external_task_id="ka-6f0c",
        videos=(Video(URL, "893606", 8.04),),
        created_at=utc(1781080778.802),
        updated_at=utc(1781080861.94),
        units=Decimal("10.0"),
    )


def test_callback_of_a_failure():
    """The new generation's `message` is the reason of a failure."""
    body = b'{"id":"1","status":"failed","message":"content risk control","outputs":[]}'
    assert read_callback(body).status_message == "content risk control"


@pytest.mark.parametrize(
    "body", [b"", b"x", b"[]", b"{}", b"1", b'{"status":"succeeded"}', b"[" * 100_000, K + b"x"]
)
def test_callback_that_is_none(body: Any):
    """What is no task is a CallbackError."""
    with pytest.raises(CallbackError):
        read_callback(body)


def test_byte_order_mark_and_space():
    """A byte order mark and space around the body are nothing."""
    assert read_task(reply(b"\xef\xbb\xbf \r\n" + K + b"\r\n ")).task_id == "930112233445566778"


def test_duplicated_keys():
    """Of a name given twice the last counts, as JSON readers agree."""
    body = b'{"data":{"task_id":"1","task_id":"2","task_status":"submitted","task_status":"failed"}}'
    seen = read_task(reply(body))
    assert (seen.task_id, seen.status) == ("2", TaskStatus.FAILED)


def test_lone_surrogates_are_replaced():
    """Half a character is replaced everywhere, so that what was read can be written; whole ones stay."""
    body = (
        b'{"data":{"task_id":"a\\ud800b","task_status":"failed","task_status_msg":"\\ud83d\\ude00 \\uDFFF"}}'
    )
    seen = read_task(reply(body))
    assert (seen.task_id, seen.status_message) == ("a?b", "\N{GRINNING FACE} ?")
    json.dumps(seen.raw, ensure_ascii=False).encode()


def test_constants_that_are_no_json():
    """NaN and Infinity, which Python's decoder lets pass, come in as null."""
    body = b'{"data":{"task_id":"1","status":"x","created_at":NaN,"updated_at":Infinity,"x":-Infinity}}'
    seen = read_task(reply(body))
    assert (seen.created_at, seen.updated_at, seen.raw["data"]["x"]) == (None, None, None)


READERS = (
    read_created,
    read_task,
    read_page,
    lambda response: read_callback(response.body),
    lambda response: read_poll(response, task("1", TaskStatus.PROCESSING)) or (),
)
BODIES = (
    K,
    W,
    W_2025,
    W_FAILED,
    W_OF_W,
    S,
    S_FAILED,
    V,
    V_FAILED,
    F,
    NEW,
    b'{"code":1303,"message":"x"}',
    b'{"error":{"message":"x","code":"y"}}',
    b'{"code":"fail_to_fetch_task","message":"{\\"code\\":1302}"}',
)
STATUSES = (200, 201, 204, 302, 400, 401, 408, 429, 500, 503)
TOKENS = (
    b"null",
    b"{}",
    b"[]",
    b"1e999",
    b"NaN",
    b"-1",
    b'""',
    b"true",
    b'"\\ud800"',
    b"9" * 400,
    b"<",
    b"\xff",
)


def check_every_reader(body: bytes, status: int) -> None:
    """Each reader gives tasks that can be used or raises a KlingError of one line."""
    for read in READERS:
        try:
            seen = read(Response(status, {"retry-after": "soon"}, body))
        except KlingError as error:
            assert "\n" not in str(error)  # noqa: PT017 - whether it raises is not what is tested
            continue
        for one in [seen] if isinstance(seen, Task) else seen:
            assert one.task_id is None or one.task_id.encode()
            assert isinstance(one.status, TaskStatus)
            assert all(video.url.startswith("http") for video in one.videos)


def test_mutated_replies():
    """Thousands of replies with bytes cut, swapped and replaced give tasks or KlingErrors, nothing else."""
    rng = random.Random(7)
    for _ in range(3000):
        body = bytearray(rng.choice(BODIES))
        for _ in range(rng.randint(1, 3)):
            start = rng.randrange(len(body) + 1)
            end = min(len(body), start + rng.choice((0, 1, 2, 10, 60)))
            body[start:end] = rng.choice((*TOKENS, b"", rng.randbytes(2), bytes(body[:20])))
        check_every_reader(bytes(body), rng.choice(STATUSES))


def test_values_of_the_wrong_type():
    """Any value may stand in any place of a reply."""

    def places(value: Any, path: Any = ()):
        yield path
        items = (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        )
        for name, item in items:
            yield from places(item, (*path, name))

    for body in BODIES:
        for path in places(json.loads(body)):
            for wrong in (
                None,
                0,
                -1,
                1e308,
                10**300,
                True,
                "",
                "x",
                [],
                {},
                [[]],
                [{}],
                {"data": {}},
                "\udc00",
            ):
                document = {"top": json.loads(body)}
                node = document
                for name in ("top", *path)[:-1]:
                    node = node[name]
                node[("top", *path)[-1]] = wrong
                check_every_reader(json.dumps(document["top"]).encode(), 200)


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"data":' * 100_000, b'{"data":' * 900 + b"1" + b"}" * 900]
)
def test_deep_nesting(body: Any):
    """Nesting without end is an error of ours, not of the interpreter."""
    check_every_reader(body, 200)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                [
                    "data",
                    "code",
                    "task_id",
                    "id",
                    "status",
                    "task_status",
                    "task_result",
                    "videos",
                    "url",
                    "message",
                    "error",
                    "created_at",
                    "metadata",
                    "outputs",
                    "billing",
                    "task_info",
                ]
            ),
            inner,
            max_size=6,
        )
    ),
    max_leaves=25,
)


@given(json_values)
def test_any_json(value: Any):
    """Any JSON value at all is a task or a KlingError."""
    check_every_reader(json.dumps(value).encode(), 200)


words = st.sampled_from(["1", 2, "", None, True, "processing", "SUCCEED", " failed ", "paused", [], {}])
nodes = st.recursive(
    words,
    lambda inner: st.dictionaries(
        st.sampled_from(["data", "data", "task_id", "id", "status", "task_status", "code"]), inner, max_size=5
    ),
    max_leaves=30,
)


@given(st.dictionaries(st.sampled_from(["data", "task_id", "id", "status", "task_status"]), nodes))
def test_a_glance_sees_what_a_reading_does(document: Any):
    """The id and the status of any object are those of the task that is read from it."""
    whole = task_from(document)
    seen = (None, TaskStatus.UNKNOWN) if whole is None else (whole.task_id, whole.status)
    assert glance(document) == seen


@given(st.dictionaries(st.text(max_size=5), json_values, max_size=4))
def test_unknown_fields_are_kept(extra: Any):
    """Fields that nobody documented change nothing and stay in `raw`."""
    document = {f"x-{name}": value for name, value in extra.items()}
    bare = {"task_id": "1", "task_status": "submitted"}
    seen = task_from({**document, **bare})
    assert seen == task_from(bare)
    assert seen is not None
    assert seen.raw == {**document, **bare} or "nan" in repr(document)
