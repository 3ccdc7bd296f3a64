"""Who is told of events, what they say to the second, and what the log says of them."""

import asyncio
import contextlib
import contextvars
import doctest
import functools
import inspect
import logging
import re
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import attrs
import pytest
import virtual_time

from kling_async import (
    KLING,
    Ambiguous,
    APIKey,
    Checked,
    Completed,
    ConfigurationError,
    ConnectError,
    Detached,
    Event,
    ImageToVideo,
    KlingClient,
    KlingError,
    MultiImageToVideo,
    Outcome,
    Polled,
    Polling,
    RequestError,
    ResponseLostError,
    Retried,
    Retries,
    Saved,
    Statistics,
    Submitted,
    Task,
    TaskFailedError,
    TaskStatus,
    Waiting,
)
from kling_async.instrumentation import Hooks
from kling_async.protocol.wire import Response
from kling_async.simulator import Simulator, serve
from kling_async.simulator.faults import Faults

NAMES: Any = {"key": "a", "task_id": "7", "external_task_id": None}
POLLED = Polled(**NAMES, status=TaskStatus.PROCESSING, polls=3)
SAVED = Saved(**(NAMES | {"key": None}), path=Path("7.mp4"), size=5, elapsed=0.1)
KINDS = Event.__subclasses__()
PAGE = Path(__file__).parent.parent / "docs" / "howto" / "observe.md"


def ended(status: TaskStatus, error: KlingError | None = None) -> Completed:
    """The event of an end."""
    known: Any = {"status": status, "error": error, "generation": None, "elapsed": None}
    return Completed(**NAMES, **known, polls=3)


def of(events: list[Event], *kinds: type[Event]) -> list[Any]:
    """Those of *events* that are of one of *kinds*."""
    return [event for event in events if isinstance(event, kinds)]


# Hooks


def test_nobody_hears_of_polls_unless_he_asks(caplog: pytest.LogCaptureFixture):
    """Polls are told if there is a hook, or the log is at DEBUG; else they need not be made events."""
    with caplog.at_level(logging.INFO, "kling_async"):
        assert not Hooks().wants_polls
        assert Hooks([lambda _: None]).wants_polls
    with caplog.at_level(logging.DEBUG, "kling_async"):
        assert Hooks().wants_polls


def test_a_hook_that_fails_harms_nobody(caplog: pytest.LogCaptureFixture):
    """The others are told all the same, and the failure of each is logged once, with its traceback."""
    heard: list[Event] = []

    def broken(_: Event) -> None:
        raise ValueError("a bug")

    def broken_too(_: Event) -> None:
        raise KeyError

    hooks = Hooks([broken, heard.append, broken_too])
    for event in (POLLED, SAVED, SAVED):
        hooks.tell(event)
    assert heard == [POLLED, SAVED, SAVED]
    failures = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert ["broken_too" in failure.getMessage() for failure in failures] == [False, True]
    assert all(failure.exc_info for failure in failures)


def test_what_is_no_failure_of_a_hook_passes_through():
    """Ctrl-C in a hook is not swallowed."""

    def interrupted(_: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Hooks([interrupted]).tell(SAVED)


class _Awaited:
    async def __call__(self, event: Event, /) -> None:
        """Never run."""


async def _awaited(number: int, event: Event) -> None:
    """Never run."""


@pytest.mark.parametrize(
    ("hook", "said"),
    [
        (_Awaited(), "_Awaited is async"),
        (_Awaited().__call__, "__call__ is async"),
        (functools.partial(_awaited, 1), "partial is async"),
        (_awaited, "_awaited is async"),
        ("watch", "str cannot be"),
    ],
)
def test_a_hook_that_would_have_to_be_awaited_is_refused(hook: Any, said: str):
    """When the client is made, with what to do: nobody would ever run it."""
    with pytest.raises(ConfigurationError, match=said) as caught:
        KlingClient(APIKey("sim-key"), hooks=[hook])
    assert hook == "watch" or "asyncio.Queue" in caught.value.advice


@pytest.mark.parametrize("hooks", [print, _awaited, None, 7])
def test_hooks_that_are_no_list_are_refused(hooks: Any):
    """One hook in place of a list of them: when the client is made, with what to write."""
    with pytest.raises(ConfigurationError, match="hooks is a list of functions") as caught:
        KlingClient(APIKey("sim-key"), hooks=hooks)
    assert "hooks=[hook]" in caught.value.advice


# The log


@pytest.mark.parametrize(
    ("event", "level", "said"),
    [
        (
            Checked(**NAMES, model_name="m", endpoint="image2video", provider=KLING),
            "DEBUG",
            "checked, in line for m",
        ),
        (Waiting(**NAMES), "INFO", "waiting for a slot"),
        (Waiting(**NAMES, error=KlingError("full\nup")), "INFO", "waiting for a slot: full up"),
        (
            Ambiguous(**NAMES, error=ResponseLostError("gone"), quarantine=90),
            "WARNING",
            "the answer to its submit was lost, it is looked for during 90 s: gone",
        ),
        (Submitted(**NAMES, model_name="m", slot_wait=0, upload=0), "INFO", "submitted as task 7 (m)"),
        (POLLED, "DEBUG", "poll 3: processing"),
        (Retried(**NAMES, error=KlingError("no"), wait=2), "WARNING", "trying again in 2.0 s: no; nothing"),
        (ended(TaskStatus.SUCCEED), "INFO", "succeed after 3 polls"),
        (ended(TaskStatus.FAILED, TaskFailedError("no luck")), "INFO", "no luck; the task exists at Kling"),
        (ended(TaskStatus.REFUSED, KlingError("no")), "INFO", "no; nothing was paid"),
        (ended(TaskStatus.MAY_EXIST, ResponseLostError("?")), "WARNING", "?; a task may exist"),
        (ended(TaskStatus.LOST, KlingError("gone")), "WARNING", "gone"),
        (ended(TaskStatus.GIVEN_UP, KlingError("late")), "WARNING", "late"),
        (
            Detached(**NAMES, status=TaskStatus.PROCESSING, error=KlingError("closed"), polls=1, retries=0),
            "INFO",
            "closed",
        ),
        (attrs.evolve(SAVED, key="a"), "INFO", "saved 7.mp4 (5 bytes)"),
        (attrs.evolve(SAVED, key="a", retries=2), "INFO", "saved 7.mp4 (5 bytes) after 2 retries"),
    ],
)
def test_each_event_has_its_line(event: Event, level: str, said: str, caplog: pytest.LogCaptureFixture):
    """INFO is what a user follows, WARNING what may cost him money or patience, DEBUG all the rest."""
    with caplog.at_level(logging.DEBUG, "kling_async"):
        Hooks().tell(event)
    [record] = caplog.records
    assert (record.levelname, record.getMessage()[:3]) == (level, "a: ")
    assert record.getMessage()[3:].startswith(said)
    caplog.clear()
    with caplog.at_level(record.levelno + 1, "kling_async"):
        Hooks().tell(event)
    assert caplog.records == []


def test_each_request_is_logged_at_debug_alone(world: Any, caplog: pytest.LogCaptureFixture):
    """Method, path, status or what failed, milliseconds; of a submit its name and bytes; never a query."""
    broken = iter([ResponseLostError("gone")])

    async def tamper(request: Any, send: Any) -> Response:
        if request.method == "GET" and (error := next(broken, None)) is not None:
            await asyncio.sleep(1.25)
            raise error
        return await send()

    async def main(level: int) -> list[str]:
        caplog.clear()
        with caplog.at_level(level, "kling_async"):
            async with here.client() as kling:
                handle = await kling.submit(here.request("a secret wish"), key="one")
                await handle.result()
        return [each.getMessage() for each in caplog.records if each.module == "api"]

    here = world(latency=0.5, seconds=15.0, tamper=tamper)
    create, lost, *_, last = virtual_time.run(main(logging.DEBUG))
    name = here.ledger.made[0].external_task_id
    assert re.fullmatch(rf"POST /v1/videos/image2video of {name}: 200, 500 ms, sent [1-9]\d\d bytes", create)
    path = r"GET /v1/videos/image2video/\d+"
    assert re.fullmatch(rf"{path}: ResponseLostError, 1250 ms", lost)
    assert re.fullmatch(rf"{path}: 200, 500 ms", last)
    assert not [text for text in caplog.messages if "secret wish" in text]
    assert virtual_time.run(main(logging.INFO)) == []


# What they say


def test_every_field_has_its_meaning():
    """The docstring of each event names each field, and each that is a number says its unit."""
    for kind in (Event, *KINDS):
        doc = inspect.getdoc(kind) or ""
        inherited = set() if kind is Event else {each.name for each in attrs.fields(Event)}
        for field in attrs.fields(kind):
            if field.name in inherited:
                continue
            told = re.search(rf"^    {field.name}: (.*?)(?=^    \w|\Z)", doc, re.MULTILINE | re.DOTALL)
            assert told, f"{kind.__name__}.{field.name}"
            if "float" in str(field.type):
                assert "seconds" in told[1], f"{kind.__name__}.{field.name}"


def test_the_page_has_every_event_and_field():
    """The table in the how-to names each event, and each of its fields with its unit."""
    rows = dict(re.findall(r"^\| `(\w+)` \|.*?\| *(.*?) *\|$", PAGE.read_text("utf-8"), re.MULTILINE))
    own = {each.name for each in attrs.fields(Event)}
    for kind in KINDS:
        fields = [each for each in attrs.fields(kind) if each.name not in own]
        named = dict(re.findall(r"`(\w+)`(?: \(([^)]*)\))?", rows[kind.__name__]))
        assert list(named) == [each.name for each in fields], kind.__name__
        for each in fields:
            assert ("float" not in str(each.type)) or named[each.name] == "s", each.name
    assert set(rows) == {kind.__name__ for kind in KINDS}


def test_times_of_one_task(world: Any):
    """One slot, two tasks of 100 s by Kling's clock, a second's latency, polls every 10 s: all to the second.

    The second is in line from 0 to 102 s: the first one's answer came after 1 s, its last poll was answered
    at 102 s. From its own acknowledgement at 103 s it is known to be over after 101 s.
    """
    events: list[Event] = []

    async def main() -> None:
        async with here.client(max_in_flight=1, hooks=[events.append]) as kling:
            handles = [kling.submit_soon(request, key=request.prompt) for request in here.requests(2)]
            await asyncio.gather(*(handle.result() for handle in handles))

    here = world(latency=1.0)
    virtual_time.run(main())
    checked = of(events, Checked)
    assert [each.key for each in checked] == ["0", "1"]
    assert [(each.model_name, each.endpoint, each.task_id) for each in checked] == [
        ("kling-v2-6", "image2video", None)
    ] * 2
    assert {each.provider.name for each in checked} == {"kling"}
    assert [(each.slot_wait, each.upload, each.retries) for each in of(events, Submitted)] == [
        (0, 1, 0),
        (102, 1, 0),
    ]
    completed = of(events, Completed)
    assert [(each.generation, each.elapsed, each.detection_delay, each.polls) for each in completed] == [
        (100, 101, 1, 10)
    ] * 2
    assert [(each.model_name, each.provider.name, each.retries) for each in completed] == [
        ("kling-v2-6", "kling", 0)
    ] * 2
    units = [each.units for each in completed]
    assert all(isinstance(each, Decimal) and each > 0 for each in units)


def test_a_delay_is_never_below_zero(world: Any):
    """Where Kling's clock counts more than ours the delay is nothing, not less."""
    events: list[Event] = []

    async def tamper(request: Any, send: Any) -> Response:
        response = await send()
        earlier = re.sub(
            rb'("created_at": ?)(\d+)', lambda at: at[1] + str(int(at[2]) - 60_000).encode(), response.body
        )
        return attrs.evolve(response, body=earlier)

    async def main() -> None:
        async with here.client(hooks=[events.append]) as kling:
            await kling.run(here.request())

    here = world(tamper=tamper)
    virtual_time.run(main())
    [completed] = of(events, Completed)
    assert (completed.generation, completed.elapsed, completed.detection_delay) == (160, 100, 0)


def test_the_delay_of_a_task_of_unknown_age_is_unknown(world: Any):
    """Attached to 50 s after its submit, its generation is known and what elapsed here says nothing of it."""
    events: list[Event] = []

    async def main() -> None:
        async with here.client() as other, here.client(hooks=[events.append]) as kling:
            handle = await other.submit(here.request())
            await asyncio.sleep(50)
            await kling.attach(handle.token).result()

    here = world()
    virtual_time.run(main())
    [completed] = of(events, Completed)
    assert (completed.generation, completed.elapsed, completed.detection_delay) == (100, 50, None)
    assert (completed.model_name, completed.provider.name) == (None, "kling")
    assert of(events, Checked, Submitted, Detached) == []


def test_retries_are_submits_after_the_first(world: Any):
    """Two connections fail, then there is no slot, then it goes: three retries, two of them `Retried`."""
    events: list[Event] = []
    answers: Any = iter(["connect", "connect", "full"])

    async def tamper(request: Any, send: Any) -> Response:
        match next(answers, None) if request.method == "POST" else None:
            case "connect":
                raise ConnectError("nobody there")
            case "full":
                return Response(429, {}, b'{"code": 1303, "message": "no slot"}')
            case _:
                return await send()

    async def main() -> Statistics:
        retries = Retries(attempts=5, factor=1e-9, max_value=1e-9)
        async with here.client(hooks=[events.append], retries=retries) as kling:
            await kling.run(here.request())
            return kling.statistics()

    here = world(tamper=tamper)
    statistics = virtual_time.run(main())
    assert [each.retries for each in of(events, Submitted, Completed)] == [3, 3]
    assert len(of(events, Retried)) == 2
    [waiting] = of(events, Waiting)
    assert "no slot" in waiting.error.what
    assert (statistics.retries, len(here.times("POST"))) == (3, 4)


def test_a_saved_video_is_told_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """Path, bytes, seconds, and the attempts after the first; statistics count files and begin at zero.

    The log of it is the one that the how-to shows.
    """
    events: list[Event] = []
    monkeypatch.chdir(tmp_path)

    async def main() -> tuple[Statistics, Statistics]:
        simulator = Simulator(seconds=0.05, faults=Faults.parse("download:html status=502 times=2"))
        async with serve(simulator) as url:
            kling = KlingClient(
                APIKey("sim-key"),
                KLING.at(url),
                hooks=[events.append],
                polling=Polling(factor=0.05, base=1.5, max_interval=0.2, floor=0.05),
                retries=Retries(factor=0.01),
            )
            before = kling.statistics()
            async with kling:
                request = ImageToVideo(image="https://cdn.example.org/a.png", prompt="x")
                await kling.run(request, key="order-17", save_to="out")
                after = kling.statistics()
            assert kling.statistics() == after  # closed, it is what it came to
            return before, after

    with caplog.at_level(logging.INFO, "kling_async"):
        before, after = asyncio.run(main())
    [saved] = of(events, Saved)
    assert saved.path == Path("out", "order-17.mp4")
    assert (saved.size, saved.retries) == (saved.path.stat().st_size, 2)
    assert 0 < saved.elapsed < 60
    assert before == Statistics()
    assert set(attrs.astuple(before)) == {0}
    assert (after.saved, after.succeeded, after.retries, after.callbacks) == (1, 1, 0, 0)
    shown = re.search(r"```text\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert shown
    logged = "".join(f"{each.levelname} {each.getMessage()}\n" for each in caplog.records)
    assert doctest.OutputChecker().check_output(shown[1], logged.replace("\\", "/"), doctest.ELLIPSIS), logged


# A lost answer, and no slot

AT_ONCE = Retries(attempts=3, factor=1e-9, max_value=1e-9)
"""Retries whose waits are nothing."""
NO_SLOT = Response(429, {}, b'{"code": 1303, "message": "parallel task over resource pack limit"}')


def course(events: list[Event]) -> list[str]:
    """What is told of tasks, without polls."""
    return [type(each).__name__ for each in events if not isinstance(each, Polled)]


def posts(*answers: Any) -> Any:
    """Answers the n-th POST in the network's place: a response, an error, or an error and what it made."""
    left = iter(answers)

    async def tamper(request: Any, send: Any) -> Response:
        answer = next(left, None) if request.method == "POST" else None
        if answer is None:
            return await send()
        if isinstance(answer, Response):
            return answer
        if answer == "made":
            await send()
        raise ResponseLostError("gone")

    return tamper


async def one_run(here: Any, events: list[Event], **options: Any) -> None:
    """One request from its submit to its end, whatever that is."""
    async with here.client(hooks=[events.append], retries=AT_ONCE, **options) as kling:
        with contextlib.suppress(KlingError):
            await kling.run(here.request(), key="order")


def test_a_lost_answer_is_told_and_so_is_the_second_submit(world: Any, caplog: pytest.LogCaptureFixture):
    """Made by nobody: ambiguous at once, sent again after 90 s, which count as upload; all at WARNING."""
    events: list[Event] = []
    here = world(tamper=posts("lost"), latency=1.0)
    with caplog.at_level(logging.WARNING, "kling_async"):
        virtual_time.run(one_run(here, events))
    assert course(events) == ["Checked", "Ambiguous", "Retried", "Submitted", "Completed"]
    [ambiguous], [retried], [submitted] = of(events, Ambiguous), of(events, Retried), of(events, Submitted)
    assert (ambiguous.error.what, ambiguous.quarantine) == ("gone", 90)
    assert (retried.error.what, retried.error.outcome, retried.wait) == ("gone", Outcome.NOT_CREATED, 0)
    assert ambiguous.error.outcome is Outcome.MAY_EXIST
    sent, again = here.times("POST")
    assert (submitted.slot_wait, submitted.upload, submitted.retries) == (0, again + 1, 1)
    assert again >= sent + 90
    lost, resent = caplog.messages
    assert lost == "order: the answer to its submit was lost, it is looked for during 90 s: gone"
    assert resent == "order: trying again in 0.0 s: gone; nothing was paid"


def test_a_task_found_by_a_look_up_is_submitted(world: Any):
    """The first look finds it a second later: one Submitted, with its id, before the end."""
    events: list[Event] = []
    here = world(tamper=posts("made"), latency=1.0)
    virtual_time.run(one_run(here, events))
    assert course(events) == ["Checked", "Ambiguous", "Submitted", "Completed"]
    [submitted] = of(events, Submitted)
    assert submitted.task_id == here.ledger.made[0].task_id
    assert (submitted.slot_wait, submitted.upload, submitted.retries) == (0, 2, 0)


def test_without_look_up_a_lost_answer_is_its_end(world: Any, caplog: pytest.LogCaptureFixture):
    """Nothing is looked for, so the end alone tells that a task may exist, in the one warning."""
    events: list[Event] = []
    here = world(tamper=posts("made"))
    with caplog.at_level(logging.WARNING, "kling_async"):
        virtual_time.run(one_run(here, events, provider=attrs.evolve(KLING, lookup="no")))
    assert course(events) == ["Checked", "Completed"]
    assert [each.status for each in of(events, Completed)] == [TaskStatus.MAY_EXIST]
    [warning] = caplog.messages
    assert "may exist" in warning


@pytest.mark.parametrize("status", [TaskStatus.PROCESSING, TaskStatus.SUCCEED])
@pytest.mark.parametrize("answer", ["made", None])
def test_a_task_proven_by_a_callback_is_submitted(world: Any, status: TaskStatus, answer: Any):
    """While its POST is out or its answer is looked for: told then, once, and before its end."""
    events: list[Event] = []

    async def main() -> None:
        async with here.client(hooks=[events.append], retries=AT_ONCE) as kling:
            handle = kling.submit_soon(here.request())
            await asyncio.sleep(3)
            made = here.ledger.made[0]
            seen = Task(made.task_id, made.external_task_id, status)
            handle._engine.observe(handle._flight, seen)
            assert [each.upload for each in of(events, Submitted)] == [3]
            await handle.result()
            await asyncio.sleep(20)

    here = world(tamper=posts(answer), latency=5.0 if answer is None else 2.0)
    virtual_time.run(main())
    told = ["Checked", "Submitted", "Completed"]
    assert course(events) == (told if answer is None else [told[0], "Ambiguous", *told[1:]])


def test_an_adopted_task_is_submitted(world: Any):
    """Kling says that it exists: one Submitted, with the id of the task that was there."""
    events: list[Event] = []

    async def main() -> None:
        async with here.client() as first, here.client(hooks=[events.append]) as second:
            await first.submit(here.request(), key="same")
            await second.run(here.request(), key="same")

    here = world()
    virtual_time.run(main())
    assert course(events) == ["Checked", "Submitted", "Completed"]
    assert [each.task_id for each in of(events, Submitted)] == [here.ledger.made[0].task_id]


def test_a_task_that_another_made_while_it_was_in_line_is_submitted(world: Any):
    """Proven before it ever left: it waited all the time and uploaded nothing."""
    events: list[Event] = []

    async def main() -> None:
        async with here.client(max_in_flight=1, hooks=[events.append]) as kling:
            kling.submit_soon(here.request("first"))
            handle = kling.submit_soon(here.request("second"))
            await asyncio.sleep(30)
            handle._engine.acknowledge(handle._flight, Task("7", None, TaskStatus.SUCCEED))
            await kling.aclose()

    here = world()
    virtual_time.run(main())
    assert [(each.task_id, each.slot_wait, each.upload) for each in of(events, Submitted)][1:] == [
        ("7", 30, 0)
    ]
    assert course(events)[-3:-1] == ["Submitted", "Completed"]


def test_a_refusal_for_want_of_a_slot_is_waiting(world: Any, caplog: pytest.LogCaptureFixture):
    """Each one is told with what Kling said, and its time and the wait after it count as slot_wait."""
    events: list[Event] = []
    here = world(tamper=posts(NO_SLOT, NO_SLOT), latency=1.0)
    with caplog.at_level(logging.INFO, "kling_async"):
        virtual_time.run(one_run(here, events))
    assert course(events) == ["Checked", "Waiting", "Waiting", "Submitted", "Completed"]
    assert {each.error.code for each in of(events, Waiting)} == {1303}
    [submitted] = of(events, Submitted)
    last = here.times("POST")[-1]
    assert last > 1
    assert (submitted.slot_wait, submitted.upload, submitted.retries) == (pytest.approx(last), 1, 2)
    said = [each for each in caplog.messages if "waiting for a slot" in each]
    assert len(said) == 2
    assert all(re.match(r"order: waiting for a slot: .*parallel task over", each) for each in said)


def test_a_refusal_after_a_lost_answer_is_waiting_too(world: Any):
    """Lost, looked for, refused, made: the quarantine is upload, what follows the refused submit a wait."""
    events: list[Event] = []
    here = world(tamper=posts("lost", NO_SLOT))
    virtual_time.run(one_run(here, events))
    assert course(events) == ["Checked", "Ambiguous", "Retried", "Waiting", "Submitted", "Completed"]
    [submitted] = of(events, Submitted)
    _, again, last = here.times("POST")
    assert last > again
    assert (submitted.slot_wait, submitted.upload) == (pytest.approx(last - again), pytest.approx(again))


def test_a_refusal_of_who_does_not_wait_is_an_end(world: Any):
    """``wait=False``: it is not in line again, so nothing says that it waits."""
    events: list[Event] = []

    async def main() -> None:
        async with here.client(hooks=[events.append]) as kling:
            with pytest.raises(KlingError, match="parallel"):
                await kling.submit(here.request(), wait=False)

    here = world(tamper=posts(NO_SLOT))
    virtual_time.run(main())
    assert course(events) == ["Checked", "Completed"]


async def interrupted(here: Any, journal: Path) -> None:
    """A run that is closed 20 s after it lost an answer."""
    async with here.client(journal=journal) as kling:
        kling.submit_soon(here.request(), key="order")
        await asyncio.sleep(20)


def test_an_interrupted_submit_of_an_earlier_run_is_told_of(world: Any, tmp_path: Path):
    """Closed while it was looked for; the next run looks on, and says so: it was not checked there."""
    events: list[Event] = []

    async def main() -> None:
        await interrupted(here, tmp_path / "journal.db")
        async with here.client(journal=tmp_path / "journal.db", hooks=[events.append]) as kling:
            await kling.run(here.request(), key="order")

    here = world(tamper=posts("lost"))
    virtual_time.run(main())
    assert course(events) == ["Ambiguous", "Retried", "Submitted", "Completed"]
    assert [each.quarantine for each in of(events, Ambiguous)] == [70]
    assert [each.slot_wait for each in of(events, Submitted)] == [0]


def test_a_quarantine_that_is_over_has_no_seconds_left(world: Any, tmp_path: Path):
    """The next run comes later than that: it looks once, and nobody wants it any more."""
    events: list[Event] = []

    async def main() -> None:
        await interrupted(here, tmp_path / "journal.db")
        await asyncio.sleep(200)
        async with here.client(journal=tmp_path / "journal.db", hooks=[events.append]):
            await asyncio.sleep(1)

    here = world(tamper=posts("lost"))
    virtual_time.run(main())
    assert course(events) == ["Ambiguous", "Completed"]
    assert [each.quarantine for each in of(events, Ambiguous)] == [0]


def test_an_interrupted_submit_that_was_made_is_not_submitted_here(world: Any, tmp_path: Path):
    """Proven as it waits to be sent again: the submit was the earlier run's, so only the end is told."""
    events: list[Event] = []
    pause = Response(429, {"retry-after": "50"}, b'{"code": 1302, "message": "slowly"}')

    async def main() -> None:
        await interrupted(here, tmp_path / "journal.db")
        async with here.client(journal=tmp_path / "journal.db", hooks=[events.append]) as kling:
            handle = kling.submit_soon(here.request(), key="order")
            await asyncio.sleep(65)
            kling.submit_soon(here.request("other"), key="other")
            await asyncio.sleep(10)
            assert kling.statistics().waiting == 2
            handle._engine.acknowledge(handle._flight, Task("7", None, TaskStatus.SUCCEED))
            await handle.result()

    here = world(tamper=posts("lost", pause))
    virtual_time.run(main())
    assert course([each for each in events if each.key == "order"]) == ["Ambiguous", "Retried", "Completed"]


def test_who_closes_is_not_told_of_what_will_not_be(world: Any):
    """While it drains, what was not found or gets no slot is refused: neither sent again nor in line."""
    events: list[Event] = []

    async def main(wait: float, drain: float) -> list[str]:
        events.clear()
        async with here.client(hooks=[events.append], retries=AT_ONCE) as kling:
            kling.submit_soon(here.request())
            await asyncio.sleep(wait)
            await kling.aclose(drain=drain)
        return course(events)

    here = world(tamper=posts("lost"))
    assert virtual_time.run(main(20, 200)) == ["Checked", "Ambiguous", "Completed"]
    assert [each.status for each in of(events, Completed)] == [TaskStatus.REFUSED]
    here = world(tamper=posts(NO_SLOT), latency=5.0)
    here.tamper = slowly(here.tamper)
    assert virtual_time.run(main(2, 0)) == ["Checked", "Completed"]


def slowly(tamper: Any) -> Any:
    """*tamper*, after five seconds."""

    async def after(request: Any, send: Any) -> Response:
        await asyncio.sleep(5)
        return await tamper(request, send)

    return after


def test_a_lost_answer_of_a_proven_task_is_no_news(world: Any):
    """A callback was faster: that the answer then fails to come, or is a refusal, nobody needs to know."""
    events: list[Event] = []

    async def main() -> None:
        async with here.client(hooks=[events.append], retries=AT_ONCE) as kling:
            handle = kling.submit_soon(here.request())
            await asyncio.sleep(2)
            handle._engine.acknowledge(handle._flight, Task("7", None, TaskStatus.PROCESSING))
            await asyncio.sleep(5)
            handle._engine.observe(handle._flight, Task("7", None, TaskStatus.SUCCEED))
            await handle.result()

    for answer in ("lost", NO_SLOT):
        events.clear()
        here = world(tamper=slowly(posts(answer)))
        virtual_time.run(main())
        assert course(events) == ["Checked", "Submitted", "Completed"]


def test_what_a_submit_has_spent_is_kept_no_longer_than_it(world: Any):
    """Made, refused, lost, withdrawn after a refusal: nothing of them is kept."""
    events: list[Event] = []

    async def main() -> None:
        async with here.client(hooks=[events.append], retries=AT_ONCE) as kling:
            handles = [kling.submit_soon(here.request(each)) for each in ("a", "b", "[policy]", "c")]
            await asyncio.sleep(0.5)
            waiting = [each for each in handles if each.withdraw()]
            assert len(waiting) == 1
            await asyncio.gather(*(each.result() for each in handles), return_exceptions=True)
            assert handles[0]._engine.submission._spent == {}

    here = world(tamper=posts("lost", "made", None, NO_SLOT))
    virtual_time.run(main())
    assert set(ends(events).values()) == {1}
    assert len(of(events, Submitted)) == 2


# From Checked to its one end

WHO: contextvars.ContextVar[str] = contextvars.ContextVar("who", default="nobody")


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("way", ["submit", "run", "submit_soon", "completions"])
def test_checked_is_told_in_the_callers_context(world: Any, way: str, at_once: bool):
    """A context variable that the caller set is seen, however he submits and however new the client is."""
    seen: list[str] = []

    def hook(event: Event) -> None:
        if isinstance(event, Checked):
            seen.append(WHO.get())

    async def caller(kling: KlingClient, who: str) -> None:
        WHO.set(who)
        match way:
            case "submit":
                await (await kling.submit(here.request(who))).result()
            case "run":
                await kling.run(here.request(who))
            case "submit_soon":
                await kling.submit_soon(here.request(who)).result()
            case _:
                async for _done in kling.completions([here.request(who), here.request(who)]):
                    pass

    async def main() -> None:
        async with here.client(max_in_flight=1, hooks=[hook]) as kling:
            if at_once:  # before anything of the client's has run
                await caller(kling, "Ann")
                await caller(kling, "Bob")
            else:
                await asyncio.gather(caller(kling, "Ann"), caller(kling, "Bob"))

    here = world()
    virtual_time.run(main())
    each = 2 if way == "completions" else 1
    assert Counter(seen) == {"Ann": each, "Bob": each}


def ends(events: list[Event]) -> Counter[str | None]:
    """How many ends each checked request saw, by its idempotency key."""
    seen = Counter(each.external_task_id for each in of(events, Completed, Detached))
    return Counter({each.external_task_id: seen[each.external_task_id] for each in of(events, Checked)})


def test_every_checked_request_sees_one_end(world: Any):
    """Success, failure, refusal, a lost answer, withdrawal, cancellation in line, closing under it all."""
    events: list[Event] = []

    async def tamper(request: Any, send: Any) -> Response:
        if request.method == "POST" and request.document["prompt"] == "lost":
            raise ResponseLostError("gone")
        return await send()

    async def main() -> None:
        picture = "https://cdn.example.org/a.png"
        async with here.client(max_in_flight=2, hooks=[events.append]) as kling:
            done = [kling.submit_soon(here.request(each)) for each in ("fine", "[fail]", "[policy]")]
            withdrawn = kling.submit_soon(here.request("withdrawn"))
            cancelled = asyncio.ensure_future(kling.submit(here.request("cancelled")))
            await asyncio.sleep(1)
            assert withdrawn.withdraw()
            cancelled.cancel()
            await asyncio.gather(*(each.result() for each in done), cancelled, return_exceptions=True)
            kling.submit_soon(here.request("lost"))
            for number in range(4):  # the last two are in line
                kling.submit_soon(MultiImageToVideo(image_list=(picture, picture), prompt=str(number)))
            await asyncio.sleep(5)

    here = world(tamper=tamper)
    virtual_time.run(main())
    found = ends(events)
    assert (len(found), set(found.values())) == (10, {1})
    last = Counter((type(each).__name__, each.status.value) for each in of(events, Completed, Detached))
    assert last == {
        ("Completed", "succeed"): 1,
        ("Completed", "failed"): 1,
        ("Completed", "refused"): 5,
        ("Detached", "ambiguous"): 1,
        ("Detached", "submitted"): 2,
    }


def test_the_same_key_is_told_of_once(world: Any):
    """Two who want one task, and a third when it is over: one is checked, submitted and completed."""
    events: list[Event] = []

    async def main() -> None:
        async with here.client(hooks=[events.append]) as kling:
            handles = [kling.submit_soon(here.request(), key="same") for _ in range(2)]
            await asyncio.gather(*(each.result() for each in handles))
            await kling.run(here.request(), key="same")

    here = world()
    virtual_time.run(main())
    assert course(events) == ["Checked", "Submitted", "Completed"]


def test_what_an_earlier_run_knew_is_not_checked(world: Any, tmp_path: Path):
    """A run is closed under two tasks; the next takes both up: told of from their polls to their ends."""
    events: list[list[Event]] = [[], []]

    async def run(number: int, wait: float) -> None:
        hooks = [events[number].append]
        async with here.client(hooks=hooks, journal=tmp_path / "journal.db") as kling:
            for request in here.requests(2):
                await kling.submit(request, key=request.prompt)
            await asyncio.sleep(wait)

    async def main() -> None:
        await run(0, 30)
        await run(1, 100)

    here = world()
    virtual_time.run(main())
    assert [type(each) for each in events[0] if not isinstance(each, Polled)] == [
        *(Checked, Submitted) * 2,
        *(Detached,) * 2,
    ]
    assert [type(each) for each in events[1] if not isinstance(each, Polled)] == [Completed, Completed]
    assert {each.detection_delay for each in of(events[1], Completed)} == {None}


def test_a_request_refused_before_it_is_checked_has_an_end_alone(world: Any, tmp_path: Path):
    """A picture that is none: `Completed` tells of the refusal, and nothing was begun."""
    events: list[Event] = []
    (tmp_path / "a.png").write_bytes(b"no picture")

    async def main() -> None:
        async with here.client(hooks=[events.append]) as kling:
            with pytest.raises(RequestError):
                await kling.submit(here.request(image=tmp_path / "a.png"))

    here = world()
    virtual_time.run(main())
    [refused] = events
    assert isinstance(refused, Completed)
    assert (refused.status, refused.retries, refused.polls) == (TaskStatus.REFUSED, 0, 0)
