"""What an engine remembers of tasks that are over: enough, and no more."""

import asyncio

from kling_async.flight import Flight
from kling_async.protocol.identity import Issuer
from kling_async.protocol.models import Task, TaskStatus
from kling_async.register import MOST_LEFT, MOST_SETTLED, Register

ISSUER = Issuer(provider="kling", host="api.example.com", account="0" * 16)


def landed(register: Register, number: int, status: TaskStatus) -> None:
    """Task *number* comes and goes."""
    task = Task(str(number), f"name-{number}", status)
    flight = Flight(number, f"key-{number}", "image2video", ("image2video", "kling-v3"), task, ISSUER)
    register.add(flight, f"name-{number}")
    register.land(flight)


def test_the_last_ten_thousand_with_a_key_are_remembered():
    """The same key and request is the same task; of very old ones the provider or the journal knows."""

    async def main():
        register = Register()
        for number in range(MOST_SETTLED + 50):
            landed(register, number, TaskStatus.SUCCEED)
        assert register.settled("name-49") is None
        assert register.settled("name-50") is not None
        assert len(register._settled) == MOST_SETTLED
        assert (register.succeeded, register.live, register._named) == (MOST_SETTLED + 50, {}, {})

    asyncio.run(main())


def test_the_last_thousand_that_were_left_are_remembered():
    """Given up or lost: what Kling says of them later finds them, by either name."""

    async def main():
        register = Register()
        for number in range(MOST_LEFT + 50):
            landed(register, number, TaskStatus.GIVEN_UP if number % 2 else TaskStatus.LOST)
        assert register.left(Task("49", "name-49")) is None
        for seen in (Task("50", None), Task(None, "name-50")):
            flight = register.left(seen)
            assert flight is not None
            assert flight.order == 50

    asyncio.run(main())


def test_tasks_are_found_by_their_id_from_the_first_question_on():
    """Those under way then, those that come to be known later, and none that is over."""

    async def main():
        register = Register()
        first, second = (
            Flight(n, None, "image2video", ("image2video", ""), Task(str(n), f"name-{n}"), ISSUER)
            for n in range(2)
        )
        register.add(first, "name-0")
        assert register.by_task_id("0") is first
        register.add(second, "name-1")
        assert register.by_task_id("1") is None
        register.learned_id(second)
        assert register.by_task_id("1") is second
        register.land(first)
        assert register.by_task_id("0") is None

    asyncio.run(main())
