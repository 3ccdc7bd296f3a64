"""Every refusal is the right error with the right outcome, and its text is safe to show."""

import json
import pickle
from typing import Any

import pytest

from kling_async.protocol import errors
from kling_async.protocol.codes import is_retryable
from kling_async.protocol.errors import GatewayError, KlingError, Outcome, ProtocolError
from kling_async.protocol.replies import Response, read_created, read_page, read_task

NOT, MAY, CREATED = Outcome.NOT_CREATED, Outcome.MAY_EXIST, Outcome.CREATED


def reply(status: int, body: object = b"", **headers: str) -> Response:
    """A response with *body*, as bytes or as what is to be JSON."""
    raw = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
    return Response(status, {name.replace("_", "-"): value for name, value in headers.items()}, raw)


def created(response: Response, now: float | None = None) -> Any:
    """The error of *response* as the reply to a create."""
    with pytest.raises(KlingError) as caught:
        read_created(response, now=now)
    return caught.value


def queried(response: Response) -> Any:
    """The error of *response* as the reply to a query; the list gives the same."""
    with pytest.raises(KlingError) as caught:
        read_task(response)
    with pytest.raises(type(caught.value)):
        read_page(response)
    return caught.value


KLING = [
    (401, 1000, errors.AuthenticationError, NOT),
    (401, 1001, errors.AuthenticationError, NOT),
    (401, 1002, errors.AuthenticationError, NOT),
    (401, 1003, errors.AuthenticationError, NOT),
    (401, 1004, errors.AuthenticationError, NOT),
    (429, 1100, errors.AccountError, NOT),
    (429, 1101, errors.AccountError, NOT),
    (429, 1102, errors.AccountError, NOT),
    (403, 1103, errors.AccountError, NOT),
    (400, 1200, errors.InvalidRequestError, NOT),
    (400, 1201, errors.InvalidRequestError, NOT),
    (404, 1202, errors.InvalidRequestError, NOT),
    (404, 1203, errors.InvalidRequestError, NOT),
    (400, 1300, errors.PolicyError, NOT),
    (400, 1301, errors.PolicyError, NOT),
    (429, 1302, errors.RateLimitError, NOT),
    (429, 1303, errors.ConcurrencyLimitError, NOT),
    (429, 1304, errors.AccountError, NOT),
    (500, 5000, errors.ServerError, MAY),
    (503, 5001, errors.ServerError, MAY),
    (504, 5002, errors.ServerError, MAY),
    (400, 1999, errors.APIError, NOT),
    (200, 1999, errors.APIError, NOT),
    (400, 77, errors.APIError, NOT),
    (200, 77, errors.APIError, MAY),
    (409, 77, errors.APIError, MAY),
    (502, 77, errors.ServerError, MAY),
    (200, 503, errors.ServerError, MAY),
    (200, 9000, errors.ServerError, MAY),
]


@pytest.mark.parametrize(("status", "code", "kind", "outcome"), KLING)
def test_kling_codes(status: Any, code: Any, kind: Any, outcome: Any):
    """Kling's code decides the class and the outcome, whatever the HTTP status, and a number may be text."""
    body = {"code": code, "message": "no", "request_id": "9d0f"}
    error = created(reply(status, body))
    assert type(error) is kind
    assert error.outcome is outcome
    assert (error.code, error.message, error.request_id, error.http_status) == (code, "no", "9d0f", status)
    assert type(created(reply(status, {**body, "code": str(code)}))) is kind
    if code >= 1000 and code not in (1999, 9000):
        assert type(created(reply(200, body))) is kind
    asked = queried(reply(status, body))
    assert (type(asked), asked.outcome) == (kind, NOT)


@pytest.mark.parametrize(
    ("message", "kind", "outcome"),
    [
        ("External_task_id ka-1 already exists", errors.AlreadyExistsError, CREATED),
        ("Task not found by id/external id: 12", errors.NotFoundError, NOT),
        ("From video not found by id", errors.InvalidRequestError, NOT),
    ],
)
def test_the_meanings_of_1201(message: Any, kind: Any, outcome: Any):
    """1201 is told apart by its text."""
    error = created(reply(400, {"code": 1201, "message": message}))
    assert (type(error), error.outcome) == (kind, outcome)


STEPS = [
    (400, "invalid_request", GatewayError, NOT),
    (400, "task_failed", GatewayError, NOT),
    (400, "task_not_exist", errors.NotFoundError, NOT),
    (403, "quota_not_enough", errors.AccountError, NOT),
    (403, "insufficient_user_quota", errors.AccountError, NOT),
    (413, "read_request_body_failed", GatewayError, NOT),
    (429, "fail_to_fetch_task", GatewayError, NOT),
    (404, "fail_to_fetch_task", GatewayError, NOT),
    (502, "fail_to_fetch_task", GatewayError, MAY),
    (500, "build_request_failed", GatewayError, NOT),
    (500, "get_channel_failed", GatewayError, NOT),
    (500, "gen_relay_info_failed", GatewayError, NOT),
    (500, "do_request_failed", GatewayError, MAY),
    (400, "do_request_failed", GatewayError, MAY),
    (500, "read_response_body_failed", GatewayError, MAY),
    (500, "unmarshal_response_failed", GatewayError, MAY),
    (500, "insert_task_failed", GatewayError, MAY),
    (500, "never_heard_of", GatewayError, MAY),
    (400, "never_heard_of", GatewayError, NOT),
    (200, "never_heard_of", GatewayError, MAY),
]


@pytest.mark.parametrize(("status", "word", "kind", "outcome"), STEPS)
def test_steps_within_a_gateway(status: Any, word: Any, kind: Any, outcome: Any):
    """A gateway's own step gives the class that says whose fault it is, and whether a task may exist."""
    body = {"code": word, "message": "当前分组上游负载已饱和", "data": None}
    error = created(reply(status, body))
    assert (type(error), error.outcome, error.http_status) == (kind, outcome, status)
    assert error.code == (word if kind is GatewayError else 0)
    assert "当前分组上游负载已饱和" in str(error)
    assert queried(reply(status, body)).outcome is NOT


DOORS = [
    (401, {"message": "bad token", "type": "new_api_error", "code": ""}, errors.AuthenticationError, 0, NOT),
    (400, {"message": "Model name not specified", "code": ""}, GatewayError, "", NOT),
    (403, {"message": "no access to the model", "code": ""}, GatewayError, "", NOT),
    (404, {"message": "Invalid URL (GET /x)", "param": "", "code": ""}, GatewayError, "", NOT),
    (503, {"message": "no channel", "code": "model_not_found"}, GatewayError, "model_not_found", NOT),
    (500, {"message": "model is required", "code": "invalid_request"}, GatewayError, "invalid_request", NOT),
    (403, {"message": "low", "code": "insufficient_user_quota"}, errors.AccountError, 0, NOT),
    (524, {"message": "x", "code": None}, GatewayError, "", MAY),
    (500, "x", GatewayError, "", MAY),
    (400, {"message": "blocked", "code": "1301"}, errors.PolicyError, 1301, NOT),
]


@pytest.mark.parametrize(("status", "inner", "kind", "code", "outcome"), DOORS)
def test_the_door_of_a_gateway(status: Any, inner: Any, kind: Any, code: Any, outcome: Any):
    """A gateway's door, which speaks OpenAI's way, gives the same classes."""
    error = created(reply(status, {"error": inner}))
    assert (type(error), error.code, error.outcome, error.http_status) == (kind, code, outcome, status)
    assert queried(reply(status, {"error": inner})).outcome is NOT


def upstream(status: int, body: object) -> Response:
    """A new-api gateway's report of what Kling answered."""
    message = body if isinstance(body, str) else json.dumps(body)
    return reply(status, {"code": "fail_to_fetch_task", "message": message, "data": None})


def test_kling_code_is_recovered_from_a_gateway():
    """Kling's body within the gateway's message counts as Kling's own answer, code and request id."""
    error = created(
        upstream(400, {"code": 1201, "message": "External_task_id a already exists", "request_id": "9d"})
    )
    assert isinstance(error, errors.AlreadyExistsError)
    assert (error.request_id, error.outcome) == ("9d", CREATED)
    twice = {"code": "fail_to_fetch_task", "message": json.dumps({"code": 1302, "message": "slow"})}
    assert isinstance(created(upstream(500, twice)), errors.RateLimitError)


@pytest.mark.parametrize(
    "message", ["{", '{"code": 0}', "{}", "[1303]", '{"code": "x"', "<html>", "{" * 9999]
)
def test_nothing_to_recover(message: Any):
    """A message that holds no refusal leaves the gateway's error."""
    error = created(upstream(502, message))
    assert (type(error), error.code, error.outcome) == (GatewayError, "fail_to_fetch_task", MAY)


def test_messages_within_messages_end():
    """Bodies within messages are opened a few times, not for ever."""
    body: dict[str, object] = {"code": 1303, "message": "x"}
    for _ in range(12):
        body = {"code": "fail_to_fetch_task", "message": json.dumps(body)}
    assert isinstance(created(reply(429, body)), GatewayError)


@pytest.mark.parametrize(
    "response",
    [
        reply(401, {"code": "fail_to_fetch_task", "message": "unauthorized", "data": None}),
        upstream(401, {"code": 1002, "message": "Authorization is invalid", "request_id": "9d"}),
    ],
)
def test_the_gateways_own_key(response: Any):
    """When Kling refuses the gateway's credential, nobody is told to check a key that is fine."""
    error = created(response)
    assert type(error) is GatewayError
    assert error.outcome is NOT
    assert "the gateway's own credential for Kling" in str(error)
    assert "not your key" in str(error)


def test_the_gateways_own_account():
    """An empty account of the gateway's is fatal as one's own, and the advice names whose it is."""
    error = created(upstream(400, {"code": 1102, "message": "Account balance not enough"}))
    assert isinstance(error, errors.AccountError)
    assert "the gateway's account at Kling, not yours" in str(error)


HTML = b"<!DOCTYPE html><html><body>hello</body></html>"

UNREADABLE = [
    # status, body, headers, class, html, outcome, words
    (200, HTML, {"content_type": "text/html"}, GatewayError, True, MAY, "a web page"),
    (200, HTML, {}, GatewayError, True, MAY, "a web page"),
    (404, b"not found", {"content_type": "Text/HTML"}, GatewayError, True, NOT, "a web page"),
    (502, HTML, {}, GatewayError, True, MAY, "a web page"),
    (301, b"", {"location": "https://x.example"}, GatewayError, True, NOT, "redirected"),
    (307, b'{"code":0,"data":{"task_id":"1"}}', {}, GatewayError, True, NOT, "redirected"),
    (200, b"", {}, GatewayError, False, MAY, "an empty reply"),
    (204, b" \n", {}, GatewayError, False, MAY, "an empty reply"),
    (429, b"", {}, GatewayError, False, NOT, "an empty reply"),
    (500, b"", {}, GatewayError, False, MAY, "an empty reply"),
    (200, b'{"code": 0, "data": {"task_id": "9', {}, ProtocolError, False, MAY, "breaks off"),
    (200, b'{"code": 0, "data": {"task_id": 9}]', {}, GatewayError, False, MAY, "not JSON"),
    (200, b"upstream connect error", {}, GatewayError, False, MAY, "not JSON"),
    (200, b"5", {}, ProtocolError, False, MAY, "no object"),
    (200, b"null", {}, ProtocolError, False, MAY, "no object"),
    (200, b"[1]", {}, ProtocolError, False, MAY, "no task"),
    (200, b"[" * 100_000, {}, ProtocolError, False, MAY, "nested too deeply"),
    (200, b'{"code":0,"data":{}}', {}, ProtocolError, False, MAY, "no task"),
    (200, b'{"code":0,"data":{"task_status":"submitted"}}', {}, ProtocolError, False, MAY, "no task"),
    (
        200,
        b'{"code":0,"data":{"task_id":"1"}} trailing',
        {},
        ProtocolError,
        False,
        MAY,
        "something behind it",
    ),
    (200, b'{"code":0,"data":{"task_id":"1"}} {"a":1}', {}, ProtocolError, False, MAY, "something behind it"),
    (500, b'{"code":0,"data":{"task_id":"1"}}', {}, GatewayError, False, MAY, "without a code"),
    (404, b'{"detail":"Not Found"}', {}, GatewayError, False, NOT, "without a code"),
]


@pytest.mark.parametrize(("status", "body", "headers", "kind", "html", "outcome", "words"), UNREADABLE)
def test_unreadable_replies(
    status: Any, body: Any, headers: Any, kind: Any, html: Any, outcome: Any, words: Any
):
    """HTML, redirects, nothing, half a body and the rest are each named and judged by what may exist."""
    error = created(reply(status, body, **headers))
    assert (type(error), getattr(error, "html", False), error.outcome) == (kind, html, outcome)
    assert words in str(error)
    assert error.http_status == status
    assert len(error.excerpt) <= 120


@pytest.mark.parametrize("status", [405, 413, 414, 415, 431, 400, 402, 418, 429])
def test_4xx_refuse(status: Any):
    """A 4xx without a word says that nothing was made."""
    assert created(reply(status, b"x")).outcome is NOT


@pytest.mark.parametrize("status", [408, 409, 425, 499, 500, 502, 503, 504, 520, 524, 200, 202])
def test_what_is_ambiguous(status: Any):
    """A 5xx, a few 4xx and an unreadable 2xx leave open whether a task was made; the advice is to look."""
    error = created(reply(status, b"x"))
    assert error.outcome is MAY
    assert "look for the task" in str(error)


def test_second_object():
    """A gateway that fails after answering may have a task; its id is on the error."""
    first, second = b'{"id":"task_1","status":"queued"}', b'{"code":"insert_task_failed","message":"db"}'
    error = created(reply(200, first + second))
    assert (type(error), error.code, error.outcome, error.task_id) == (
        GatewayError,
        "insert_task_failed",
        MAY,
        "task_1",
    )


@pytest.mark.parametrize(
    ("header", "now", "expected"),
    [
        ("7", None, 7.0),
        ("0.5", None, 0.5),
        ("-3", None, 0.0),
        ("1e400", None, 3600.0),
        ("nan", None, None),
        ("", None, None),
        ("soon", 0.0, None),
        ("Fri, 20 Nov 2026 10:00:30 GMT", 1795168800.0, 30.0),
        ("Fri, 20 Nov 2026 10:00:30 GMT", 1795169999.0, 0.0),
        ("Fri, 20 Nov 2026 10:00:30 GMT", 0.0, 3600.0),
        ("Fri, 20 Nov 2026 10:00:30 GMT", None, None),
        ("Fri, 99 Nov 2026 10:00:30 GMT", 0.0, None),
    ],
)
def test_retry_after(header: Any, now: Any, expected: Any):
    """Retry-After is seconds or a date, kept between 0 and an hour, on errors of every class."""
    for body in ({"code": 1302, "message": "x"}, {"code": "x"}, {"error": {"code": "x"}}, b""):
        assert created(reply(429, body, retry_after=header), now).retry_after == expected


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        ({"code": 1302, "message": "x", "request_id": "a"}, {"x_oneapi_request_id": "b"}, "a"),
        ({"code": 1302, "message": "x (request id: c)"}, {"x_oneapi_request_id": "b"}, "b"),
        ({"error": {"message": "model is required (request id: 20260301)"}}, {}, "20260301"),
        ({"code": "x", "message": "y (request id: 2026)"}, {}, "2026"),
        (b"<html>", {"x_oneapi_request_id": "b"}, "b"),
        (b"<html>", {}, None),
    ],
)
def test_request_ids(body: Any, headers: Any, expected: Any):
    """The id for the support is found in the body, the header or the end of the message."""
    assert created(reply(400, body, **headers)).request_id == expected


SECRETS = [
    "Bearer abcdefgh12345",
    "sk-abcdefgh12345678",
    "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJpc3MiOiJhIiwiZXhwIjoxfQ.aaaa_bbbb-cccc_dddd-eeee",
    "0123456789abcdef0123456789abcdef",
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk/M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==",
    "Signature=zzz",
]


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize(
    "body",
    [
        "{s}",
        "<p>{s}</p>",
        '{{"code":1002,"message":"{s}"}}',
        '{{"code":"x","message":"no: {s}"}}',
        '{{"error":{{"message":"no: {s}"}}}}',
        '{{"code":"task_not_exist","message":"{s}"}}',
    ],
)
def test_no_secrets_in_texts(secret: Any, body: Any):
    """Whatever a server echoes, nothing that looks like a key, a token or a picture gets into a message."""
    text = f"https://media.example.org/v.mp4?{secret}" if secret.startswith("Sig") else secret
    error = created(reply(401, body.format(s=text).encode()))
    parts = [part for part in secret.replace("Bearer ", "").split(".") if len(part) > 5]
    shown = f"{error} {error.args} {vars(error)}"
    assert not any(part in shown for part in parts)


def test_message_is_one_short_line():
    """A long body with line breaks becomes one line with a short excerpt."""
    error = created(reply(500, b"no\n" * 5000))
    assert "\n" not in str(error)
    assert len(error.excerpt) <= 120
    assert len(str(error)) < 400


def test_errors_of_replies_pickle():
    """An error keeps its class and what it knows on the way through another process."""
    for response in (reply(429, {"code": 1303, "message": "x"}), reply(200, HTML), reply(200, b"{")):
        error = created(response)
        copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
        assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


@pytest.mark.parametrize(
    ("response", "reading", "creating"),
    [
        (reply(429, {"code": 1303, "message": "x"}), True, True),
        (reply(429, {"code": 1102, "message": "x"}), False, False),
        (reply(429), True, True),
        (reply(500, {"code": 5000, "message": "x"}), True, False),
        (reply(503, {"code": 503, "message": "x"}), True, False),
        (reply(502, HTML), True, False),
        (reply(200, b'{"cod'), True, False),
        (reply(500, {"error": {"message": "x", "code": "invalid_request"}}), False, False),
        (reply(500, {"code": "do_request_failed", "message": "x"}), True, False),
        (reply(500, {"code": "build_request_failed", "message": "x"}), False, False),
        (reply(400, {"code": "task_not_exist", "message": "x"}), False, False),
        (reply(401, {"code": "x", "message": "x"}), False, False),
    ],
)
def test_what_may_be_tried_again(response: Any, reading: Any, creating: Any):
    """The error of a reply fits the one rule of what is retryable."""
    assert is_retryable(queried(response), creating=False) is reading
    assert is_retryable(created(response), creating=True) is creating
