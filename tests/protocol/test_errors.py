"""Errors: one message shape, data that survives pickling, and the rule of what is retryable."""

import pickle
import re
from pathlib import Path
from typing import Any

import pytest

from kling_async.protocol import errors
from kling_async.protocol.codes import api_error, is_retryable
from kling_async.protocol.errors import (
    APIError,
    GatewayError,
    KlingError,
    Outcome,
    Problem,
    ProtocolError,
    RequestError,
)
from kling_async.protocol.models import Task, TaskStatus

CLASSES = [getattr(errors, name) for name in errors.__all__ if name.endswith("Error")]


def test_one_root():
    """Every error is a KlingError, and is what Python calls it where it has a word."""
    assert all(issubclass(kind, KlingError) for kind in CLASSES)
    assert issubclass(errors.ConfigurationError, ValueError)
    assert issubclass(errors.RequestError, ValueError)
    assert issubclass(errors.WaitTimeoutError, TimeoutError)


def test_the_tree_in_the_docstring():
    """The docstring draws every class there is, and no other."""
    drawn = re.findall(r"\b[A-Z]\w+Error\b", (errors.__doc__ or "").replace("(ValueError)", ""))
    assert sorted({*drawn} - {"TimeoutError"}) == sorted(kind.__name__ for kind in CLASSES)


def test_message_shape():
    """A message says what happened, to which item, whether money was spent and what to do, on one line."""
    error = KlingError("it\nbroke", advice="mend it").about(key="cat", task_id="12", external_task_id="ka-1")
    assert str(error) == "it broke (item cat, task 12); nothing was paid; mend it"
    assert (
        str(KlingError("x").about(external_task_id="ka-1")) == "x (external_task_id ka-1); nothing was paid"
    )
    assert str(KlingError("x", outcome=Outcome.MAY_EXIST)) == "x; a task may exist and be paid"
    assert str(KlingError("x", outcome=Outcome.CREATED)) == "x; the task exists at Kling"
    assert str(KlingError()) == "KlingError; nothing was paid"


def test_a_long_message_is_cut():
    """What a server says is shown up to a length."""
    assert len(str(KlingError("x" * 10_000))) < 600


def test_what_is_known_of_the_item_stays():
    """`about` adds what is not known yet and returns the error."""
    error = KlingError("x").about(key="a", token="t")
    assert error.about(key="b", task_id="1") is error
    assert (error.key, error.task_id, error.token) == ("a", "1", "t")


@pytest.mark.parametrize("kind", CLASSES)
def test_every_class(kind: Any):
    """Every class can be made from a text alone, says what it means for the money, and survives pickling."""
    error = kind("what happened", http_status=418, token="t").about(key="cat")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert type(copy) is kind
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
    assert isinstance(error.outcome, Outcome)
    assert str(error).startswith("what happened (item cat); ")


def test_pickling_what_errors_hold():
    """Problems, tasks and paths on an error come through."""
    problem = Problem("prompt", "is required")
    held: list[Any] = [
        RequestError(problems=[problem]),
        Task("1", status=TaskStatus.FAILED, status_message="no").failure(),
        errors.DownloadError("x", path=Path("a.mp4")),
    ]
    copies: list[Any] = pickle.loads(pickle.dumps(held))  # noqa: S301 - our own bytes
    assert copies[0].problems == (problem,)
    assert copies[1].task == held[1].task
    assert copies[2].path == Path("a.mp4")


def test_problems_are_the_message():
    """A refusal here tells all its problems, each after its field."""
    error = RequestError(problems=[Problem("prompt", "is required"), Problem("mode", "must be text")])
    assert str(error).startswith("prompt: is required; mode: must be text; nothing was paid")


@pytest.mark.parametrize(
    ("code", "message", "http_status", "kind"),
    [
        (1201, "external_task_id X ALREADY EXISTS", 400, errors.AlreadyExistsError),
        (1201, "Task not found by id/external id: x", 400, errors.NotFoundError),
        (1200, "already exists", 400, errors.InvalidRequestError),
        (1303, "", 502, errors.ConcurrencyLimitError),
        (1305, "", 502, errors.APIError),
        (12, "", 400, errors.APIError),
        (12, "", 500, errors.ServerError),
        (504, "", 200, errors.ServerError),
        (6000, "", 200, errors.ServerError),
    ],
)
def test_codes(code: Any, message: Any, http_status: Any, kind: Any):
    """Documented codes decide; an undocumented one counts as a server's failure if anything says so."""
    error = api_error(code, message, http_status=http_status)
    assert type(error) is kind
    assert f"(HTTP {http_status}, code {code})" in str(error)


YES, READ, NO = (True, True), (True, False), (False, False)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.RateLimitError("x"), YES),
        (errors.ConcurrencyLimitError("x"), YES),
        (errors.ConnectError("x"), YES),
        (ProtocolError("x", http_status=429), YES),
        (GatewayError("x", http_status=429, code="fail_to_fetch_task"), YES),
        (errors.ServerError("x"), READ),
        (errors.ResponseLostError("x"), READ),
        (errors.TransportError("x"), READ),
        (ProtocolError("x", http_status=200), READ),
        (ProtocolError("x", http_status=408), READ),
        (GatewayError("x", http_status=502, html=True), READ),
        (GatewayError("x", http_status=500, code="do_request_failed"), READ),
        (GatewayError("x", http_status=500, code="invalid_request"), NO),
        (GatewayError("x", http_status=500, code="build_request_failed"), NO),
        (GatewayError("x", http_status=503, code="model_not_found"), NO),
        (ProtocolError("x", http_status=301), NO),
        (ProtocolError("x", http_status=404), NO),
        (errors.AccountError("x", http_status=429), NO),
        (errors.AuthenticationError("x"), NO),
        (errors.InvalidRequestError("x"), NO),
        (errors.PolicyError("x"), NO),
        (APIError("x", http_status=500), NO),
        (errors.TaskFailedError("x"), NO),
        (errors.WaitTimeoutError("x"), NO),
        (errors.RequestError("x"), NO),
        (errors.EngineError("x"), NO),
    ],
)
def test_retryable(error: Any, expected: Any):
    """What may be tried again when reading, and when creating."""
    assert (is_retryable(error, creating=False), is_retryable(error, creating=True)) == expected
