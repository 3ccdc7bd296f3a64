"""Which call is made again and after how long; the only user of backoff, whose two parts serve here.

Its `expo` gives the wait sequences of polls and retries, its decorator makes the attempts. The decorator's
`max_time` reads the wall clock, so attempts are counted and deadlines are `asyncio.timeout`'s.
"""

import itertools
import random
from collections.abc import Awaitable, Callable, Generator
from typing import Any, ParamSpec, TypeVar

import attrs
import backoff

from kling_async.protocol.codes import is_retryable
from kling_async.protocol.errors import ConfigurationError, KlingError
from kling_async.protocol.schedule import Polling

__all__ = ["Retries", "poll_intervals", "retrying"]

P = ParamSpec("P")
R = TypeVar("R")


@attrs.frozen(kw_only=True)
class Retries:
    """How often a call is tried. All times are seconds.

    Only calls that by proof paid nothing are tried again. The wait after the n-th attempt (n = 0, 1, 2 ...)
    is ``uniform(0, min(max_value, factor * base**n))`` (full jitter); a server's ``Retry-After`` takes its
    place.

    Attributes:
        attempts: attempts in all, at least 1.
        factor: the first wait's upper bound.
        base: how much longer the bound gets each time.
        max_value: the longest bound.
        quarantine: the wait, counted from a lost answer, before a submit that no look-up found is sent again
            under the same id. It must be longer than the provider's look-ups may lag behind its creates: a
            shorter one can pay twice.

    Raises:
        ConfigurationError: a value is out of range.
    """

    attempts: int = 5
    factor: float = 1.0
    base: float = 2.0
    max_value: float = 30.0
    quarantine: float = 90.0

    def __attrs_post_init__(self) -> None:
        if self.attempts < 1:
            raise ConfigurationError(f"Retries.attempts must be at least 1, not {self.attempts!r}")
        for name in ("factor", "base", "max_value"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise ConfigurationError(f"Retries.{name} must be above 0 and finite, not {value!r}")
        if not 0 <= self.quarantine < float("inf"):
            raise ConfigurationError(f"Retries.quarantine must be at least 0, not {self.quarantine!r}")


def retrying(
    call: Callable[P, Awaitable[R]],
    retries: Retries,
    *,
    creating: bool,
    rng: random.Random,
    fatal: Callable[[KlingError], bool] = lambda _: False,
    on_retry: Callable[[KlingError, float], None] = lambda _error, _wait: None,
) -> Callable[P, Awaitable[R]]:
    """*call* that is made again after a retryable error.

    Args:
        call: what to try.
        retries: how often, and with which waits.
        creating: whether it submits a task: then only what by proof made none is retryable.
        rng: where jitter comes from.
        fatal: errors that end it at once although they are retryable by kind.
        on_retry: told of each error and the seconds waited after it.

    Raises:
        KlingError: the last attempt's.
    """

    def waits() -> Generator[float, KlingError, None]:
        bounds = _expo(retries.base, retries.factor, retries.max_value)
        error = yield 0.0  # backoff primes a wait generator before it sends the first error
        while True:
            hint = getattr(error, "retry_after", None)
            error = yield rng.uniform(0, next(bounds)) if hint is None else hint

    def told(details: Any) -> None:
        on_retry(details["exception"], details["wait"])

    decorate = backoff.on_exception(
        waits,  # type: ignore[arg-type]  # backoff sends the error in, and annotates None
        KlingError,
        max_tries=retries.attempts,
        giveup=lambda error: fatal(error) or not is_retryable(error, creating=creating),  # type: ignore[arg-type]  # only KlingErrors arrive
        on_backoff=told,
        jitter=None,
        logger=None,
    )
    return decorate(call)


def poll_intervals(polling: Polling) -> tuple[float, ...]:
    """The waits of *polling* before jitter, growing up to the one that repeats.

    The longest is such that jitter never takes it over `Polling.max_interval`.
    """
    longest = polling.max_interval / (1 + polling.jitter)
    waits: list[float] = []
    for wait in itertools.islice(_expo(polling.base, polling.factor, longest), 100):
        waits.append(wait)
        if wait >= longest:
            break
    return tuple(waits)


def _expo(base: float, factor: float, longest: float) -> Generator[float, Any, None]:
    sequence = backoff.expo(base=base, factor=factor, max_value=longest)
    sequence.send(None)
    return sequence
