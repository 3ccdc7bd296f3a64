"""Every error this package raises, and what each says about your money.

::

    KlingError
    ├── ConfigurationError (ValueError)   no or several keys, plain http, a bad option
    ├── RequestError (ValueError)         refused here, unpaid: .problems, each with field, message, source
    │   └── UnsupportedError              an endpoint, field or look-up this provider lacks
    ├── TransportError                    no readable HTTP response
    │   ├── ConnectError                  by proof nothing was sent
    │   └── ResponseLostError             outcome unknown; carries external_task_id and token
    ├── ProtocolError                     the response is not what anyone documents (status, excerpt)
    │   └── GatewayError                  HTML, redirect, the gateway's own credential or channel
    ├── APIError                          Kling said no (code, message, request_id, http_status)
    │   ├── AuthenticationError           1000-1004
    │   ├── AccountError                  1100-1103, 1304   HTTP 429, yet fatal
    │   ├── InvalidRequestError           1200-1203; from 1201's text: NotFoundError, AlreadyExistsError
    │   ├── PolicyError                   1300, 1301
    │   ├── RateLimitError                1302        retryable
    │   ├── ConcurrencyLimitError         1303        retryable, at a freed slot or by timer
    │   └── ServerError                   5000-5002   retryable for a query, ambiguous for a submit
    ├── TaskFailedError                   terminal `failed` (task, status_message)
    ├── TaskLostError                     the server no longer knows it
    ├── WaitTimeoutError (TimeoutError)   we stopped waiting; the task lives on (token)
    ├── DownloadError                     url_expired, status, path; the task is paid and its token is here
    ├── BudgetError                       the next item would cross the budget
    ├── CallbackError                     rejected webhook call
    ├── JournalError                      locked (by whom), newer, damaged, full
    └── EngineError                       a bug of ours; __cause__ is it

Each error answers "may I submit this again?" as data, in ``outcome``. Each message has one shape, on one
line: what happened, to which item, whether money was spent, what to do.
"""

import enum
from collections.abc import Iterable
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Self

import attrs

if TYPE_CHECKING:
    from pathlib import Path

    from kling_async.protocol.models import Task

__all__ = [
    "APIError",
    "AccountError",
    "AlreadyExistsError",
    "AuthenticationError",
    "BudgetError",
    "CallbackError",
    "ConcurrencyLimitError",
    "ConfigurationError",
    "ConnectError",
    "DownloadError",
    "EngineError",
    "GatewayError",
    "InvalidRequestError",
    "JournalError",
    "KlingError",
    "NotFoundError",
    "Outcome",
    "PolicyError",
    "Problem",
    "ProtocolError",
    "RateLimitError",
    "RequestError",
    "ResponseLostError",
    "ServerError",
    "TaskFailedError",
    "TaskLostError",
    "TransportError",
    "UnsupportedError",
    "WaitTimeoutError",
    "one_line",
]


class Outcome(enum.StrEnum):
    """What an error says about the task it was to make: may I submit again?"""

    NOT_CREATED = "not_created"
    """No task was made and nothing was paid: submitting again is safe."""
    MAY_EXIST = "may_exist"
    """A task may exist and be paid: submitting again may pay twice."""
    CREATED = "created"
    """The task exists at Kling: wait for it, never submit it again."""


_MONEY = {
    Outcome.NOT_CREATED: "nothing was paid",
    Outcome.MAY_EXIST: "a task may exist and be paid",
    Outcome.CREATED: "the task exists at Kling",
}


def one_line(text: str, limit: int = 500) -> str:
    """*text* without line breaks and cut to *limit* characters, so that a message stays one line."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


class KlingError(Exception):
    """The root of every error this package raises.

    Attributes:
        outcome: what it means for the task it was to make, see `Outcome`.
        advice: what to do next, a clause.
        key: the caller's name of the item, where there is one.
        task_id: Kling's id of the task, once acknowledged.
        external_task_id: our idempotency key of the task.
        token: finds the task again: ``client.attach(token)``.
    """

    outcome: Outcome = Outcome.NOT_CREATED
    advice: str = ""
    key: str | None = None
    task_id: str | None = None
    external_task_id: str | None = None
    token: str | None = None

    def __init__(self, what: str = "", **attributes: Any) -> None:
        super().__init__(what)
        self.__dict__.update(attributes)

    @property
    def what(self) -> str:
        """What happened, without the item, the money and the advice."""
        return str(self.args[0]) if self.args else ""

    def about(
        self,
        *,
        key: str | None = None,
        task_id: str | None = None,
        external_task_id: str | None = None,
        token: str | None = None,
    ) -> Self:
        """Say which item this error concerns; what is already known stays. Returns the error itself."""
        self.key = self.key or key
        self.task_id = self.task_id or task_id
        self.external_task_id = self.external_task_id or external_task_id
        self.token = self.token or token
        return self

    def __str__(self) -> str:
        """What happened, to which item, whether money was spent, what to do: one line."""
        item = [
            f"{name} {value}"
            for name, value in (
                ("item", self.key),
                ("task", self.task_id),
                ("external_task_id", None if self.task_id else self.external_task_id),
            )
            if value
        ]
        what = one_line(self.what or type(self).__name__)
        what = f"{what} ({', '.join(item)})" if item else what
        return "; ".join(part for part in (what, _MONEY[self.outcome], self.advice) if part)


class ConfigurationError(KlingError, ValueError):
    """The client cannot be built like this: no key, several, plain http, an option out of range."""


@attrs.frozen
class Problem:
    """One reason why a request was refused here.

    Attributes:
        field: the field in the API's own words, nested ones dotted: ``camera_control.config.zoom``.
        message: what is wrong and what would be right.
        source: where the rule stands.
    """

    field: str
    message: str
    source: str = ""

    def __str__(self) -> str:
        """The problem as one clause."""
        return f"{self.field}: {self.message}"


class RequestError(KlingError, ValueError):
    """A request was refused here, before anything was paid, with every problem it has.

    Attributes:
        problems: all of them, in the order of the fields.
    """

    problems: tuple[Problem, ...] = ()
    advice = "correct the request"

    def __init__(self, what: str = "", *, problems: Iterable[Problem] = (), **attributes: Any) -> None:
        problems = tuple(problems)
        what = what or "; ".join(map(str, problems))
        super().__init__(what, problems=problems, **attributes)


class UnsupportedError(RequestError):
    """The provider lacks this endpoint, field or look-up."""

    advice = "use a provider that has it"


class TransportError(KlingError):
    """No readable HTTP response came."""

    outcome = Outcome.MAY_EXIST
    advice = "check the network and try again"


class ConnectError(TransportError):
    """No connection, or the last byte of the body was never handed over: by proof nothing was sent."""

    outcome = Outcome.NOT_CREATED


class ResponseLostError(TransportError):
    """The request left and no answer came back: whether a task was made is unknown.

    ``external_task_id`` is the idempotency key it was sent under, ``token`` finds it again.
    """

    advice = "look for the task by its external_task_id before you submit it again"


class ProtocolError(KlingError):
    """The response is not what anyone documents.

    Attributes:
        http_status: the status of the response.
        excerpt: the beginning of its body, one line.
        request_id: the gateway's or Kling's id of the call, if it told one.
        retry_after: seconds the server asked to wait, if it did.
    """

    outcome = Outcome.MAY_EXIST
    http_status: int = 0
    excerpt: str = ""
    request_id: str | None = None
    retry_after: float | None = None
    advice = "check the base URL and the provider"


class GatewayError(ProtocolError):
    """A gateway answered in place of Kling: HTML, a redirect, its own credential, channel or limits.

    Attributes:
        code: the gateway's own error code, a word, if it gave one.
        html: the body was a web page, or the status a redirect: the mark of a wrong base URL.
    """

    code: str = ""
    html: bool = False


class APIError(KlingError):
    """Kling said no.

    Attributes:
        code: Kling's business code, which decides; the HTTP status does not.
        message: Kling's text.
        request_id: Kling's id of the call, for its support.
        http_status: the status of the response.
        retry_after: seconds the server asked to wait, if it did.
    """

    code: int = 0
    message: str = ""
    request_id: str | None = None
    http_status: int = 0
    retry_after: float | None = None


class AuthenticationError(APIError):
    """The credential was refused: codes 1000 to 1004."""

    advice = "check the key"


class AccountError(APIError):
    """The account may not do this: 1100-1103, 1304. Comes as HTTP 429 too, and is fatal all the same."""

    advice = "see to the account: balance, resource pack, permission, allow-list"


class InvalidRequestError(APIError):
    """Kling refused the request's shape or values: 1200 to 1203."""

    advice = "correct the request"


class NotFoundError(InvalidRequestError):
    """Kling knows no such task: code 1201 with that text."""

    advice = "check the id, the account and the provider; results are purged after 30 days"


class AlreadyExistsError(InvalidRequestError):
    """A task with this external_task_id exists: code 1201 with that text. The refused create cost nothing."""

    outcome = Outcome.CREATED
    advice = "get the task by its external_task_id"


class PolicyError(APIError):
    """Refused for content or platform policy: 1300, 1301."""

    advice = "change the picture or the prompt"


class RateLimitError(APIError):
    """Too many requests: 1302. Retryable."""

    advice = "try again later"


class ConcurrencyLimitError(APIError):
    """More tasks in parallel than the resource pack allows: 1303. Retryable when a slot is free."""

    advice = "wait for a running task to end, or set max_in_flight"


class ServerError(APIError):
    """Kling failed: 5000 to 5002. A query may be tried again; a submit may have made its task."""

    outcome = Outcome.MAY_EXIST
    advice = "try again later"


class TaskFailedError(KlingError):
    """The generation ended as `failed`.

    Attributes:
        task: the task as last seen.
        status_message: Kling's reason, text only.
    """

    outcome = Outcome.CREATED
    task: "Task | None" = None
    status_message: str = ""
    advice = "change the picture or the prompt; a failed task is not run again by itself"


class TaskLostError(KlingError):
    """The server has not known the task for ten minutes: purged, or another account."""

    outcome = Outcome.CREATED
    advice = "check the account and the provider; results are purged after 30 days"


class WaitTimeoutError(KlingError, TimeoutError):
    """We stopped waiting; the task lives on and can be waited for again by its token."""

    outcome = Outcome.CREATED
    advice = "wait again: client.attach(token)"


class DownloadError(KlingError):
    """The video could not be written to disk. The task is paid, and downloading again costs nothing.

    Attributes:
        url_expired: the video host no longer serves the URL.
        http_status: the status of the video host, 0 where none came.
        path: the file that was to be written.
    """

    outcome = Outcome.CREATED
    url_expired: bool = False
    http_status: int = 0
    path: "Path | None" = None
    advice = "download it again; it costs nothing"


class BudgetError(KlingError):
    """The request would cross the budget, or nobody knows what it costs.

    Attributes:
        units: what it would cost; None: unknown.
    """

    units: Decimal | None = None
    advice = "raise the budget"


class CallbackError(KlingError):
    """A webhook call was rejected: forged, stale, too large or not a callback.

    Attributes:
        http_status: what to answer: 400, 401 or 413.
    """

    http_status: int = 400
    advice = "answer it with that status and change nothing"


class JournalError(KlingError):
    """The journal cannot be used: locked (the message says by whom), newer, damaged or full."""

    advice = "nothing was overwritten"


class EngineError(KlingError):
    """A bug of ours: ``__cause__`` is what happened. Please report it."""

    outcome = Outcome.MAY_EXIST
    advice = "please report this with its traceback"
