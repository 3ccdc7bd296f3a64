"""A hundred thousand broken replies harm nothing, ten thousand unusual ones are read rightly."""

import json
import random
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Any

import pytest

from kling_async.protocol.errors import (
    AccountError,
    AlreadyExistsError,
    APIError,
    AuthenticationError,
    ConcurrencyLimitError,
    GatewayError,
    InvalidRequestError,
    KlingError,
    NotFoundError,
    PolicyError,
    RateLimitError,
    ServerError,
)
from kling_async.protocol.models import Task, TaskStatus, Video
from kling_async.protocol.replies import (
    Response,
    read_callback,
    read_created,
    read_page,
    read_poll,
    read_task,
)

Reader = Callable[[Response], Any]
Sample = tuple[str, Any, Reader, Task | type[KlingError]]
"""The family, a document of it, what reads it, and what it says."""


def callback(response: Response) -> Task:
    """`read_callback` in the form of the other readers."""
    return read_callback(response.body)


def page(response: Response) -> Any:
    """The last task of a page."""
    return read_page(response)[-1]


READERS: tuple[Reader, ...] = (read_created, read_task, read_page, callback)

KLINGS = {
    "submitted": TaskStatus.SUBMITTED,
    "processing": TaskStatus.PROCESSING,
    "succeed": TaskStatus.SUCCEED,
    "failed": TaskStatus.FAILED,
    "paused": TaskStatus.UNKNOWN,
}
GATEWAYS = {
    "NOT_START": TaskStatus.SUBMITTED,
    "SUBMITTED": TaskStatus.SUBMITTED,
    "QUEUED": TaskStatus.SUBMITTED,
    "IN_PROGRESS": TaskStatus.PROCESSING,
    "SUCCESS": TaskStatus.SUCCEED,
    "FAILURE": TaskStatus.FAILED,
    "UNKNOWN": TaskStatus.UNKNOWN,
}
LATER = {
    "queued": TaskStatus.SUBMITTED,
    "in_progress": TaskStatus.PROCESSING,
    "processing": TaskStatus.PROCESSING,
    "succeeded": TaskStatus.SUCCEED,
    "completed": TaskStatus.SUCCEED,
    "failed": TaskStatus.FAILED,
}
REFUSALS: dict[int, type[APIError]] = {
    1000: AuthenticationError,
    1004: AuthenticationError,
    1102: AccountError,
    1201: InvalidRequestError,
    1301: PolicyError,
    1302: RateLimitError,
    1303: ConcurrencyLimitError,
    5000: ServerError,
}
NOISE = (
    None,
    "",
    0,
    1,
    -1.5,
    True,
    [],
    {},
    "x" * 40,
    [1, {"y": None}],
    {"task": {"id": "no"}},
    "é\u2028\U0001f600",
)


class Families:
    """Valid replies of every family, drawn at random."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def draw(self) -> Sample:
        """One of any family."""
        makers = (
            self.kling,
            self.kling_created,
            self.kling_page,
            self.kling_callback,
            self.next_callback,
            self.wrapped,
            self.wrapped_twice,
            self.older_comet,
            self.s_form,
            self.v_form,
            self.f_form,
            self.bare_id,
            self.refusal,
            self.door,
            self.step,
        )
        return self.rng.choice(makers)()

    def number(self) -> str:
        """An id of Kling's."""
        return str(self.rng.randrange(10**17, 10**18))

    def moment(self) -> tuple[float, datetime]:
        """A time, in seconds or milliseconds, and what it means."""
        seconds = self.rng.randrange(1_600_000_000, 2_000_000_000)
        milliseconds = seconds * 1000 + self.rng.randrange(1000)
        if self.rng.random() < 0.5:
            return seconds, datetime.fromtimestamp(seconds, UTC)
        return milliseconds, datetime.fromtimestamp(milliseconds / 1000, UTC)

    def url(self) -> str:
        """The URL of a video."""
        return f"https://media.example.org/{self.number()}.mp4?sign=%2F{self.number()}&t=1"

    def _kling_task(self) -> tuple[dict[str, Any], Task]:
        word, status = self.rng.choice(list(KLINGS.items()))
        task_id, external, url, watermark = (
            self.number(),
            self.rng.choice((None, "ka-1")),
            self.url(),
            self.url(),
        )
        (created, created_at), (updated, updated_at) = self.moment(), self.moment()
        marked = self.rng.random() < 0.5
        units = self.rng.choice((None, "9.6", 3, "0"))
        done, failed = status is TaskStatus.SUCCEED, status is TaskStatus.FAILED
        videos = [
            {"id": "9", "url": url, "duration": "5.041", "watermark_url": watermark if marked else None}
        ]
        document = {
            "task_id": task_id,
            "task_status": word,
            "task_status_msg": "no luck" if failed else self.rng.choice(("", None)),
            "task_info": {"external_task_id": external} if external else self.rng.choice((None, {})),
            "task_result": {"videos": videos if done else None},
            "final_unit_deduction": units,
            "created_at": created,
            "updated_at": updated,
        }
        video = Video(url, "9", 5.041, watermark if marked else None)
        return document, Task(
            task_id,
            external,
            status,
            "no luck" if failed else "",
            (video,) if done else (),
            created_at,
            updated_at,
            None if units is None else Decimal(units),
        )

    def _enveloped(self, data: Any) -> dict[str, Any]:
        return {
            "code": self.rng.choice((0, "0", "SUCCEED", 200)),
            "message": "SUCCEED",
            "request_id": "7",
            "data": data,
        }

    def kling(self) -> Sample:
        """Kling's query reply."""
        document, task = self._kling_task()
        return "kling", self._enveloped(document), read_task, task

    def kling_created(self) -> Sample:
        """Kling's create reply."""
        document, task = self._kling_task()
        return "kling created", self._enveloped(document), read_created, task

    def kling_page(self) -> Sample:
        """A page of the list."""
        before = [self._kling_task()[0] for _ in range(self.rng.randrange(3))]
        document, task = self._kling_task()
        return "kling page", self._enveloped([*before, document]), page, task

    def kling_callback(self) -> Sample:
        """A callback of the legacy generation."""
        document, task = self._kling_task()
        return "callback", document, callback, task

    def next_callback(self) -> Sample:
        """A callback of the new generation."""
        word, status = self.rng.choice(
            [("processing", TaskStatus.PROCESSING), ("succeeded", TaskStatus.SUCCEED)]
        )
        task_id, url, (created, created_at), (updated, updated_at) = (
            self.number(),
            self.url(),
            self.moment(),
            self.moment(),
        )
        video = {"type": "video", "id": "3", "url": url, "duration": 8}
        document = {
            "id": task_id,
            "status": word,
            "message": "",
            "external_id": "ka-2",
            "outputs": [{"type": "image", "url": self.url()}, video]
            if status is TaskStatus.SUCCEED
            else None,
            "billing": [{"charge_type": "unit", "amount": "1.5"}, {"charge_type": "cash", "amount": "9"}],
            "create_time": created,
            "update_time": updated,
        }
        videos = (Video(url, "3", 8.0),) if status is TaskStatus.SUCCEED else ()
        return (
            "new callback",
            document,
            callback,
            Task(task_id, "ka-2", status, "", videos, created_at, updated_at, Decimal("1.5")),
        )

    def wrapped(self) -> Sample:
        """What new-api stores of a task, of either age."""
        inner, told = self._kling_task()
        word, status = self.rng.choice(list(GATEWAYS.items()))
        task_id, url, (created, created_at), (finished, finished_at) = (
            f"task_{self.number()}",
            self.url(),
            self.moment(),
            self.moment(),
        )
        done, failed, later = (
            status is TaskStatus.SUCCEED,
            status is TaskStatus.FAILED,
            self.rng.random() < 0.5,
        )
        document = {
            "task_id": task_id,
            "action": "generate",
            "status": word,
            "progress": "30%",
            "fail_reason": "risk" if failed else url if done and not later else "",
            "submit_time": created,
            "start_time": 0,
            "finish_time": finished if done or failed else 0,
            # the reply of Kling's that the gateway wraps may be an older one, which says otherwise
            "data": None if later is False else self._enveloped(inner),
        }
        if later:
            document["result_url"] = url if done else "risk" if failed else ""
        video = (
            Video(url)
            if not (later and told.videos)
            else Video(url, "9", 5.041, told.videos[0].watermark_url)
        )
        message = "risk" if failed else told.status_message if later else ""
        return (
            "wrapped",
            {"code": "success", "message": "", "data": document},
            read_task,
            Task(
                task_id,
                told.external_task_id if later else None,
                status,
                message,
                (video,) if done else (),
                created_at,
                finished_at if done or failed else told.updated_at if later else None,
                told.units if later else None,
            ),
        )

    def wrapped_twice(self) -> Sample:
        """A new-api in front of a new-api: the outermost state counts."""
        family, document, reader, told = self.wrapped()
        assert isinstance(told, Task)
        outer = {"task_id": "task_outer", "status": "IN_PROGRESS", "fail_reason": "", "data": document}
        outermost = {"code": "success", "message": "", "data": outer}
        message = told.status_message if told.status is not TaskStatus.FAILED else ""
        reason = document["data"].get("data")
        if told.status is TaskStatus.FAILED and reason is not None:
            message = reason["data"]["task_status_msg"] or ""
        return (
            f"{family} twice",
            outermost,
            reader,
            Task(
                "task_outer",
                told.external_task_id,
                TaskStatus.PROCESSING,
                message,
                (),
                told.created_at,
                told.updated_at,
                told.units,
            ),
        )

    def older_comet(self) -> Sample:
        """CometAPI's older page."""
        url = self.url()
        inner = {
            "task_status": "succeed",
            "task_result": {"videos": [{"id": "1", "url": url, "duration": "5"}]},
        }
        document = {"code": "success", "data": {"task_id": "2032", "status": "SUCCESS", "data": inner}}
        video = Video(url, "1", 5.0)
        return "older comet", document, read_task, Task("2032", status=TaskStatus.SUCCEED, videos=(video,))

    def _later(self) -> tuple[str, TaskStatus, str]:
        word, status = self.rng.choice(list(LATER.items()))
        return word, status, self.url()

    def s_form(self) -> Sample:
        """Wrapped in success, with a bare url."""
        word, status, url = self._later()
        done, failed = status is TaskStatus.SUCCEED, status is TaskStatus.FAILED
        data = {
            "task_id": "878",
            "status": word,
            "url": url if done else "",
            "format": "mp4",
            "metadata": None,
            "error": {"message": "no luck"} if failed else None,
        }
        task = Task("878", None, status, "no luck" if failed else "", (Video(url),) if done else ())
        return "s", {"code": "success", "data": data}, read_task, task

    def v_form(self) -> Sample:
        """A video object."""
        word, status, url = self._later()
        done, failed = status is TaskStatus.SUCCEED, status is TaskStatus.FAILED
        created, created_at = self.moment()
        document: dict[str, Any] = {
            "id": "task_1",
            "object": "video",
            "status": word,
            "created_at": created,
            "metadata": {"url": url} if done else None,
            "error": {"message": "no luck", "code": "x"} if failed else None,
        }
        message, videos = "no luck" if failed else "", (Video(url),) if done else ()
        return "v", document, read_task, Task("task_1", None, status, message, videos, created_at)

    def f_form(self) -> Sample:
        """The flat form."""
        word, status, url = self._later()
        done = status is TaskStatus.SUCCEED
        document = {
            "task_id": "878",
            "status": word,
            "url": url if done else "",
            "format": "mp4",
            "error": None,
        }
        return "f", document, read_task, Task("878", None, status, "", (Video(url),) if done else ())

    def bare_id(self) -> Sample:
        """The oldest create reply: an id and nothing else."""
        task_id = self.number()
        given = self.rng.choice((task_id, int(task_id)))
        return "bare id", {"task_id": given}, read_created, Task(task_id, status=TaskStatus.SUBMITTED)

    def refusal(self) -> Sample:
        """Kling says no, perhaps within HTTP 200."""
        code, kind = self.rng.choice(list(REFUSALS.items()))
        message = "nothing to say"
        if code == 1201 and self.rng.random() < 0.6:
            message, kind = self.rng.choice(
                (
                    ("Task not found by id", NotFoundError),
                    ("External_task_id a already exists", AlreadyExistsError),
                )
            )
        data = self.rng.choice((None, {}, []))
        document = {"code": self.rng.choice((code, str(code), float(code))), "message": message, "data": data}
        return "refusal", document, self.rng.choice(READERS[:3]), kind

    def door(self) -> Sample:
        """A gateway's door says no."""
        error = {"message": "no channel (request id: 7)", "type": "new_api_error", "code": "model_not_found"}
        return "door", {"error": error}, self.rng.choice(READERS[:3]), GatewayError

    def step(self) -> Sample:
        """A step within a gateway says no."""
        code, kind = self.rng.choice(
            (
                ("task_not_exist", NotFoundError),
                ("quota_not_enough", AccountError),
                ("do_request_failed", GatewayError),
            )
        )
        return "step", {"code": code, "message": "no", "data": None}, self.rng.choice(READERS[:3]), kind

    def varied(self, value: Any) -> Any:
        """*value* with the names of its objects in another order and further names among them."""
        if isinstance(value, list):
            return [self.varied(each) for each in value]
        if not isinstance(value, dict):
            return value
        items = [(name, self.varied(each)) for name, each in value.items()]
        items += [(f"x_{n}", self.rng.choice(NOISE)) for n in range(self.rng.randrange(3))]
        self.rng.shuffle(items)
        return dict(items)

    def written(self, document: Any) -> bytes:
        """*document* as JSON in one of its spellings."""
        ascii_only = self.rng.random() < 0.5
        text = json.dumps(document, ensure_ascii=ascii_only, indent=self.rng.choice((None, None, 1)))
        return (
            self.rng.choice((b"", b"", b"\xef\xbb\xbf", b"\n "))
            + text.encode()
            + self.rng.choice((b"", b"\r\n"))
        )


def test_ten_thousand_valid_variants():
    """Order of names, unknown names, nulls, spelling and the unit of time change nothing, in any family."""
    families = Families(random.Random(11))
    drawn: Counter[str] = Counter()
    for _ in range(10_000):
        family, document, reader, expected = families.draw()
        varied = families.varied(document)
        response = Response(200, {}, families.written(varied))
        drawn[family] += 1
        if isinstance(expected, Task):
            seen = reader(response)
            assert seen == expected, (family, varied)
            assert reader is page or seen.raw == varied, family
        else:
            with pytest.raises(KlingError) as caught:
                reader(response)
            assert type(caught.value) is expected, (family, varied)
    assert len(drawn) == 15
    assert min(drawn.values()) > 400


STATUSES = (200, 200, 200, 201, 204, 301, 400, 401, 404, 413, 429, 500, 502, 504, 999)
HEADERS = (
    {},
    {"content-type": "text/html"},
    {"retry-after": "-3"},
    {"retry-after": "Fri, 32 Nov 2026 99:00:00 GMT"},
    {"retry-after": "1e999", "x-oneapi-request-id": "\x00"},
)
VALUES = (
    *NOISE,
    1e308,
    10**400,
    "\ud800",
    "NaN",
    [[[]]],
    {"data": {"data": {}}},
    "1303",
    1303,
    "<html>",
    "http://",
)


class Mutations:
    """Breaks replies in every way that a wire, a proxy or a careless server can."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def broken(self, document: Any) -> bytes:
        """*document* as bytes, broken up to three times."""
        for _ in range(self.rng.randint(0, 2)):
            document = self._changed(document)
        body = bytearray(json.dumps(document).encode())
        for _ in range(self.rng.choice((0, 1, 1, 2))):
            self.rng.choice((self._flip, self._cut, self._splice, self._double))(body)
        return bytes(body)

    def _changed(self, document: Any) -> Any:
        """A copy with one place changed: a null, another type, a lost or swapped value, a level more."""
        document = json.loads(json.dumps(document))
        node = document
        while isinstance(node, dict | list) and node:
            name = self.rng.choice(list(node)) if isinstance(node, dict) else self.rng.randrange(len(node))
            child: Any = node[name]
            if not (isinstance(child, dict | list) and child) or self.rng.random() < 0.3:
                self._change(node, name)
                break
            node = child
        return document

    def _change(self, node: Any, name: Any) -> None:
        match self.rng.randrange(6):
            case 0:
                node[name] = None
            case 1:
                node[name] = [node[name]]
            case 2:
                node[name] = {"data": node[name]}
            case 3 if isinstance(node, dict):
                other = self.rng.choice(list(node))
                node[name], node[other] = node[other], node[name]
            case 4:
                del node[name]
            case _:
                node[name] = self.rng.choice(VALUES)

    def _flip(self, body: bytearray) -> None:
        for _ in range(self.rng.randint(1, 8)):
            if body:
                body[self.rng.randrange(len(body))] ^= 1 << self.rng.randrange(8)

    def _cut(self, body: bytearray) -> None:
        start = self.rng.randrange(len(body) + 1)
        del body[start : self.rng.choice((len(body), start + self.rng.randrange(30)))]

    def _splice(self, body: bytearray) -> None:
        start = self.rng.randrange(len(body) + 1)
        body[start:start] = self.rng.choice(
            (b"\x00", b'"', b"{", b"}", b"[", b"\\ud800", b",", b"<html>", b"1e9", b"\xff")
        )

    def _double(self, body: bytearray) -> None:
        body += body[: self.rng.randrange(len(body) + 1)]


def test_a_hundred_thousand_mutated_replies():
    """Mutated replies and callbacks give tasks or KlingErrors of one line, each in under a millisecond.

    The clock also counts what the machine does beside this, so of the times the mean and the 999th of a
    thousand are judged.
    """
    rng = random.Random(5)
    families, mutations = Families(rng), Mutations(rng)
    samples = [families.draw()[1] for _ in range(500)]
    times: list[float] = []
    tasks = errors = 0
    for _ in range(100_000):
        response = Response(rng.choice(STATUSES), rng.choice(HEADERS), mutations.broken(rng.choice(samples)))
        reader = rng.choice(READERS)
        started = time.thread_time()
        try:
            seen = reader(response)
        except KlingError as error:
            seen = error
        times.append(time.thread_time() - started)
        if isinstance(seen, KlingError):
            errors += 1
            assert "\n" not in str(seen), response.body
        else:
            tasks += 1
            found = seen if isinstance(seen, list) else [seen]
            assert all(isinstance(each, Task) for each in found), response.body
    assert min(tasks, errors) > 10_000, "both ends are reached"
    times.sort()
    assert times[99_900] < 0.001
    assert sum(times) / len(times) < 0.000_2


def told(read: Reader, response: Response) -> Any:
    """What *read* makes of *response*: a task, None, or the error's class, text and outcome."""
    try:
        return read(response)
    except KlingError as error:
        return type(error), str(error), error.outcome


def test_a_poll_is_judged_as_a_reading_is():
    """Over twenty thousand replies, broken and whole: None only where nothing is new, else what is read."""
    rng = random.Random(3)
    families, mutations = Families(rng), Mutations(rng)
    learnt = repeated = 0
    for _ in range(20_000):
        family, document, _reader, expected = families.draw()
        whole = rng.random() < 0.5
        response = Response(
            200 if whole else rng.choice(STATUSES),
            {},
            families.written(families.varied(document)) if whole else mutations.broken(document),
        )
        task_id = expected.task_id if isinstance(expected, Task) and rng.random() < 0.9 else "1"
        known = Task(task_id, status=rng.choice((TaskStatus.SUBMITTED, TaskStatus.PROCESSING)))
        polled, read = told(partial(read_poll, known=known), response), told(read_task, response)
        if polled is None:
            repeated += 1
            assert isinstance(read, Task)
            assert (read.task_id, read.status) == (known.task_id, known.status), (family, response.body)
        else:
            learnt += isinstance(read, Task)
            assert polled == read, (family, response.body)
    assert min(learnt, repeated) > 1_000
