"""Which call is made again, after how long, and when it is given up."""

import asyncio
import random

import pytest
import virtual_time

from kling_async import ConfigurationError, Retries
from kling_async.protocol.errors import (
    AccountError,
    ConcurrencyLimitError,
    ConnectError,
    GatewayError,
    KlingError,
    PolicyError,
    ProtocolError,
    RateLimitError,
    RequestError,
    ResponseLostError,
    ServerError,
)
from kling_async.retries import retrying


class Highest(random.Random):
    """Full jitter at its upper bound, so that waits can be told exactly."""

    def uniform(self, a: float, b: float) -> float:
        """The bound."""
        return b


def attempts(errors, *, creating=False, retries=None, fatal=lambda _: False, on_retry=lambda *_: None):
    """When each attempt was made of a call that fails with *errors* in turn, and what came of it."""
    times, left = [], list(errors)

    async def call():
        times.append(asyncio.get_running_loop().time())
        if left:
            raise left.pop(0)
        return "done"

    async def main():
        again = retrying(
            call, retries or Retries(), creating=creating, rng=Highest(), fatal=fatal, on_retry=on_retry
        )
        try:
            return times, await again()
        except KlingError as error:
            return times, error

    return virtual_time.run(main())


def test_waits_double_from_the_factor():
    """With the defaults and jitter at its bound, attempts are made 1, 2, 4 and 8 s apart, five in all."""
    times, last = attempts([ConnectError(str(number)) for number in range(9)])
    assert times == [0, 1, 3, 7, 15]
    assert isinstance(last, ConnectError)
    assert last.what == "4"


def test_waits_have_a_longest():
    """`max_value` caps the wait."""
    times, _ = attempts([ConnectError()] * 9, retries=Retries(attempts=5, factor=2, base=3, max_value=7))
    assert times == [0, 2, 8, 15, 22]


def test_one_attempt_is_no_retry():
    """`attempts=1` calls once."""
    times, error = attempts([ConnectError()], retries=Retries(attempts=1))
    assert times == [0]
    assert isinstance(error, ConnectError)


def test_server_hint_takes_the_place_of_the_wait():
    """A `Retry-After` is waited for exactly; without one the own sequence goes on."""
    times, result = attempts(
        [RateLimitError(retry_after=20.0), ConnectError(), RateLimitError(retry_after=0.5)]
    )
    assert times == [0, 20, 21, 21.5]
    assert result == "done"


def test_each_call_begins_its_own_sequence():
    """The waits of one call do not lengthen those of the next."""
    for _ in range(2):
        assert attempts([ConnectError(), ConnectError()])[0] == [0, 1, 3]


@pytest.mark.parametrize(
    "error", [RateLimitError(), ConcurrencyLimitError(), ConnectError(), ProtocolError(http_status=429)]
)
@pytest.mark.parametrize("creating", [False, True])
def test_what_made_nothing_is_tried_again_by_everyone(error, creating):
    """A limit or a connection that never was can be met again by reads and creates alike."""
    assert len(attempts([error], creating=creating)[0]) == 2


@pytest.mark.parametrize(
    "error",
    [ServerError(), ResponseLostError(), ProtocolError(http_status=502), GatewayError(http_status=200)],
)
def test_what_may_have_made_a_task_is_tried_again_by_reads_alone(error):
    """After an answer that cannot be trusted a create stops; a read costs nothing and goes on."""
    assert len(attempts([error], creating=True)[0]) == 1
    assert len(attempts([error], creating=False)[0]) == 2


@pytest.mark.parametrize(
    "error", [AccountError(code=1102, http_status=429), PolicyError(), RequestError("no")]
)
def test_fatal_errors_are_not_tried_again(error):
    """Arrears come as HTTP 429 and are fatal all the same."""
    assert attempts([error])[0] == [0]


def test_caller_may_call_an_error_fatal():
    """*fatal* ends it although the kind is retryable."""
    assert attempts([ConnectError()], fatal=lambda _: True)[0] == [0]


def test_each_retry_is_told():
    """*on_retry* gets the error and the seconds until the next attempt."""
    told = []
    attempts(
        [ConnectError("a"), ConnectError("b")], on_retry=lambda error, wait: told.append((error.what, wait))
    )
    assert told == [("a", 1), ("b", 2)]


def test_other_exceptions_pass_through():
    """A bug is no reason to try again."""

    async def call():
        raise ZeroDivisionError

    async def main():
        await retrying(call, Retries(), creating=False, rng=Highest())()

    with pytest.raises(ZeroDivisionError):
        asyncio.run(main())


@pytest.mark.parametrize(
    "values", [{"attempts": 0}, {"factor": 0}, {"base": -1}, {"max_value": float("inf")}]
)
def test_out_of_range_is_refused(values):
    """A retry that never waits or never ends is a configuration error, which names the option."""
    with pytest.raises(ConfigurationError, match=f"Retries.{next(iter(values))}"):
        Retries(**values)
