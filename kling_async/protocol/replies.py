"""What a response says: a task, or an error of the right class that says whether a task may exist.

Every body is read, whoever sent it; nothing but a `KlingError` leaves this module. A refusal has one of these
forms (API reference, envelope and errors; gateways reference, errors)::

    {"code": 1303, "message": ...}                               Kling, also within HTTP 200
    {"error": {"message": ..., "type": ..., "code": ...}}        A: a gateway's door: key, model, routing
    {"code": "quota_not_enough", "message": ..., "data": null}   B: a step within a gateway
    HTML, a redirect, nothing, half a body                       a proxy, a wrong path, a broken connection

What can be paid twice decides a create's outcome: where nobody said no in readable words, a task may exist.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import attrs

from kling_async.protocol.codes import api_error
from kling_async.protocol.errors import (
    AccountError,
    APIError,
    AuthenticationError,
    CallbackError,
    GatewayError,
    KlingError,
    NotFoundError,
    Outcome,
    ProtocolError,
)
from kling_async.protocol.families import glance, task_from
from kling_async.protocol.models import Task, TaskStatus
from kling_async.protocol.refusals import (
    ADVICE,
    LATER,
    code_of,
    excerpt_of,
    masked,
    outcome_of,
    retry_after,
    text_of,
)

__all__ = [
    "Reading",
    "Response",
    "read_callback",
    "read_created",
    "read_page",
    "read_poll",
    "read_sweep",
    "read_task",
]

_E = TypeVar("_E", bound=KlingError)


@attrs.frozen
class Response:
    """An HTTP response, whole.

    Attributes:
        status: the HTTP status.
        headers: by lower-case name.
        body: the bytes, decompressed.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = attrs.field(repr=False)


def read_created(response: Response, *, now: float | None = None) -> Task:
    """The task that a create was acknowledged with.

    Args:
        response: the reply to `wire.create`.
        now: Unix seconds, for a ``Retry-After`` that is a date; without it such a date is passed over.

    Raises:
        APIError: Kling said no, or a gateway did in Kling's place.
        ProtocolError: the reply is none. ``outcome`` says whether a task may exist.
    """
    reading = Reading(response, creating=True, now=now)
    task = reading.task(absent=TaskStatus.SUBMITTED)
    if task is None or task.task_id is None:
        raise reading.unreadable("the reply names no task")
    return task


def read_task(response: Response, *, now: float | None = None) -> Task:
    """The task that was asked for. Raises as `read_created`; a read pays nothing, and its errors say so."""
    reading = Reading(response, creating=False, now=now)
    task = reading.task()
    if task is None:
        raise reading.unreadable("the reply tells of no task")
    return task


def read_poll(response: Response, known: Task, *, now: float | None = None) -> Task | None:
    """The task that was asked for, or None if the reply says of it what is *known*: that it still goes on.

    None saves the reading of what most polls repeat. A terminal status is always read: its video's URL is
    another each time. Raises as `read_task`.
    """
    reading = Reading(response, creating=False, now=now)
    document = reading.document()
    if isinstance(document, dict):
        if glance(document) == (known.task_id, known.status) and known.status in _GOING_ON:
            return None
        task = task_from(document)
        if task is not None:
            return task
    raise reading.unreadable("the reply tells of no task")


_GOING_ON: Final = frozenset({TaskStatus.SUBMITTED, TaskStatus.PROCESSING})


def read_sweep(response: Response, *, now: float | None = None) -> list[Mapping[str, Any]]:
    """The entries on a page of the list, each for `glance` or `task_from`; those without an id are left out.

    Raises as `read_task` does.
    """
    reading = Reading(response, creating=False, now=now)
    document = reading.document()
    data = document.get("data") if isinstance(document, dict) else document
    if isinstance(data, dict):
        data = data.get("result")
    if not isinstance(data, list) and data is not None:
        raise reading.unreadable("the reply holds no list")
    return [entry for entry in data or () if isinstance(entry, dict) and glance(entry)[0] is not None]


def read_page(response: Response, *, now: float | None = None) -> list[Task]:
    """The tasks on a page of the list; entries without an id are left out. Raises as `read_task` does."""
    tasks = map(task_from, read_sweep(response, now=now))
    return [task for task in tasks if task is not None]


def read_callback(body: bytes) -> Task:
    """The task a callback tells of: a bare task of either generation (API reference, callbacks).

    Raises:
        CallbackError: the body is no task.
    """
    try:
        document, rest = _parsed(body)
    except (ValueError, RecursionError):
        raise CallbackError("the callback is not JSON") from None
    task = task_from(document) if isinstance(document, dict) and not rest else None
    if task is None or (task.task_id is None and task.external_task_id is None):
        raise CallbackError("the callback tells of no task")
    return task


# Python's own decoder takes NaN and Infinity, which are no JSON and fail wherever the value goes next
_JSON: Final = json.JSONDecoder(parse_constant=lambda _: None)


def _parsed(body: bytes) -> tuple[Any, str]:
    """The JSON value at the beginning of *body*, and the text after it.

    Raises:
        ValueError: it is not JSON.
        RecursionError: it is nested too deeply.
    """
    text = body.decode("utf-8", "replace").strip("\ufeff \t\r\n")
    value, end = _JSON.raw_decode(text)
    if "\\ud" in text or "\\uD" in text:
        # half a surrogate pair is text that no UTF-8 writer takes: a file name, a database, a URL
        value = json.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
    return value, text[end:].strip()


@attrs.frozen
class Reading:
    """One response being read, and what the reader knows of the call it answers."""

    response: Response
    creating: bool = attrs.field(kw_only=True)
    now: float | None = attrs.field(kw_only=True)

    def task(self, *, absent: TaskStatus = TaskStatus.UNKNOWN) -> Task | None:
        """The task in an accepted reply, if it names one."""
        document = self.document()
        return task_from(document, absent=absent) if isinstance(document, dict) else None

    def document(self) -> Any:
        """The JSON value of a reply that says yes, an object or a list; anything else is raised."""
        status = self.response.status
        if 300 <= status < 400:
            raise self.unreadable("redirected", html=True)
        try:
            value, rest = _parsed(self.response.body)
        except (ValueError, RecursionError) as error:
            raise self._not_json(error) from None
        if not isinstance(value, dict | list):
            raise self.unreadable("a JSON reply that is no object")
        refusal = self.refusal(value) if isinstance(value, dict) else None
        if refusal is not None:
            raise refusal
        if rest:
            raise self._second(value, rest)
        if not 200 <= status < 300:
            raise self.unreadable("refused without a code", GatewayError)
        return value

    def unreadable(
        self, what: str, kind: type[ProtocolError] = ProtocolError, *, html: bool = False
    ) -> ProtocolError:
        """The error for a reply that says nothing anyone documents."""
        status, excerpt = self.response.status, excerpt_of(self.response.body)
        kind = GatewayError if html else kind
        error = kind(
            f"{what} (HTTP {status}{f': {excerpt}' if excerpt else ''})",
            http_status=status,
            excerpt=excerpt,
            **({"html": True} if html else {}),
            **self._common(""),
        )
        if status == 429 or status >= 500:
            error.advice = LATER
        return self._settled(error, outcome_of(status))

    def _not_json(self, error: Exception) -> ProtocolError:
        """What is there instead of JSON, each told apart."""
        if isinstance(error, RecursionError):
            return self.unreadable("JSON nested too deeply")
        body = self.response.body.lstrip(b"\xef\xbb\xbf \t\r\n").rstrip()
        if not body:
            return self.unreadable("an empty reply", GatewayError)
        if body.startswith(b"<") or "html" in self.response.headers.get("content-type", "").lower():
            return self.unreadable("a web page instead of JSON", html=True)
        if body.startswith((b"{", b"[")) and not body.endswith((b"}", b"]")):
            return self.unreadable("JSON that breaks off")
        return self.unreadable("a reply that is not JSON", GatewayError)

    def refusal(self, document: dict[str, Any], depth: int = 0) -> KlingError | None:
        """The error that *document* is, or None if it says yes."""
        code = code_of(document.get("code"))
        message = text_of(document.get("message")) or text_of(document.get("msg"))
        if isinstance(code, int) and code not in _SUCCESS:
            return self._from_kling(code, message, text_of(document.get("request_id")))
        if isinstance(code, str):
            return self._inner(message, depth) or self._from_step(code, message)
        error = document.get("error")
        if error and not _TASK_MARKS.intersection(document):
            return self._from_door(error if isinstance(error, dict) else {"message": error}, message)
        return None

    def _from_kling(self, code: int, message: str, request_id: str) -> APIError:
        status = self.response.status
        common = self._common(message, request_id)
        error = api_error(code, masked(message), http_status=status, **common)
        undocumented = type(error) is APIError and not 1000 <= code < 2000
        return self._settled(error, outcome_of(status) if undocumented else error.outcome)

    def _inner(self, message: str, depth: int) -> KlingError | None:
        """Kling's own refusal, out of the gateway's message that holds its whole body."""
        if not message.lstrip().startswith("{") or depth >= 4:
            return None
        try:
            document, _ = _parsed(message.encode("utf-8", "replace"))
        except (ValueError, RecursionError):
            return None
        error = self.refusal(document, depth + 1) if isinstance(document, dict) else None
        if isinstance(error, AuthenticationError):
            ours = self._gateway("", _NOT_YOURS, error.message, error.request_id)
            return self._settled(ours, error.outcome)
        if isinstance(error, AccountError):
            error.advice = "this is the gateway's account at Kling, not yours: tell its operator"
        return error

    def _from_step(self, code: str, message: str) -> KlingError:
        """Shape B: a step inside the gateway."""
        status = self.response.status
        if code == "task_not_exist":
            return self._as_api_error(NotFoundError, message or code)
        if "quota" in code:
            return self._as_api_error(AccountError, message or code)
        if status == 401:
            return self._gateway(code, _NOT_YOURS, message)
        return self._gateway(code, "the gateway refused" if status < 500 else "the gateway failed", message)

    def _from_door(self, error: dict[str, Any], outer: str) -> KlingError:
        """Shape A: the gateway's own door."""
        message = text_of(error.get("message")) or outer
        code = code_of(error.get("code"))
        if isinstance(code, int) and code >= 1000:
            return self._from_kling(code, message, "")
        word = code if isinstance(code, str) else ""
        if self.response.status == 401:
            return self._as_api_error(AuthenticationError, message)
        if "quota" in word:
            return self._as_api_error(AccountError, message)
        return self._gateway(word, "the gateway refused", message)

    def _gateway(self, code: str, what: str, message: str, request_id: str | None = None) -> GatewayError:
        status, text = self.response.status, masked(message)
        named = f"HTTP {status}, {code}" if code else f"HTTP {status}"
        error = GatewayError(
            f"{what}: {text} ({named})" if text else f"{what} ({named})",
            http_status=status,
            code=code,
            excerpt=excerpt_of(self.response.body),
            **self._common(message, request_id),
        )
        passing = status == 429 or status >= 500
        error.advice = ADVICE.get(code) or (LATER if passing else "ask the gateway's operator")
        return self._settled(error, outcome_of(status, code))

    def _as_api_error(self, kind: type[APIError], message: str) -> APIError:
        """A gateway's refusal that means what one of Kling's does, without Kling's code."""
        status, text = self.response.status, masked(message)
        what = f"{text or 'refused'} (HTTP {status}, said by the gateway)"
        error = kind(what, message=text, http_status=status, **self._common(message))
        return self._settled(error, Outcome.NOT_CREATED)

    def _second(self, document: Any, rest: str) -> ProtocolError:
        """A gateway that stumbles after it has answered writes a second object behind the first."""
        try:
            second, _ = _parsed(rest.encode("utf-8", "replace"))
        except (ValueError, RecursionError):
            return self.unreadable("JSON with something behind it")
        code = code_of(second.get("code")) if isinstance(second, dict) else None
        if not isinstance(code, str):
            return self.unreadable("JSON with something behind it")
        error = self._gateway(
            code, "the gateway failed after it had answered", text_of(second.get("message"))
        )
        task = task_from(document) if isinstance(document, dict) else None
        return self._settled(error, Outcome.MAY_EXIST).about(task_id=task.task_id if task else None)

    def _common(self, message: str, request_id: str | None = None) -> dict[str, Any]:
        """What every error of a reply carries, wherever the reply tells it."""
        headers = self.response.headers
        suffix = _REQUEST_ID.search(message)
        return {
            "request_id": request_id or headers.get("x-oneapi-request-id") or (suffix and suffix[1]) or None,
            "retry_after": retry_after(headers.get("retry-after", ""), self.now),
        }

    def _settled(self, error: _E, outcome: Outcome) -> _E:
        """Say what the error means for the task: a call that only reads has made none."""
        error.outcome = outcome if self.creating else Outcome.NOT_CREATED
        if error.outcome is Outcome.MAY_EXIST:
            error.advice = "look for the task by its external_task_id before you submit it again"
        return error


_SUCCESS: Final = frozenset({0, 200})
_TASK_MARKS: Final = frozenset({"task_id", "task_status", "status"})
_NOT_YOURS: Final = "the gateway's own credential for Kling was refused, not your key"
_REQUEST_ID: Final = re.compile(r"\(request id: ([^\s)]+)\)", re.IGNORECASE)
