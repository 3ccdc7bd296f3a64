"""Who is told of events, what they say to the second, and what the log says of them."""

import asyncio
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
    Polled,
    Polling,
    RequestError,
    ResponseLostError,
    Retried,
    Retries,
    Saved,
    Statistics,
    Submitted,
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
    """Method, path, status or what failed, milliseconds, bytes of the body; never a query."""
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
    assert re.fullmatch(r"POST /v1/videos/image2video: 200, 500 ms, [1-9]\d\d bytes of body", create)
    path = r"GET /v1/videos/image2video/\d+"
    assert re.fullmatch(rf"{path}: ResponseLostError, 1250 ms, 0 bytes of body", lost)
    assert re.fullmatch(rf"{path}: 200, 500 ms, 0 bytes of body", last)
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
    """Two connections fail, then there is no slot, then it goes: three retries, of which two are told."""
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
    assert 0 < saved.elapsed < 5
    assert before == Statistics()
    assert set(attrs.astuple(before)) == {0}
    assert (after.saved, after.succeeded, after.retries, after.callbacks) == (1, 1, 0, 0)
    shown = re.search(r"```text\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert shown
    logged = "".join(f"{each.levelname} {each.getMessage()}\n" for each in caplog.records)
    assert doctest.OutputChecker().check_output(shown[1], logged.replace("\\", "/"), doctest.ELLIPSIS), logged


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
    assert [type(each) for each in events if not isinstance(each, Polled)] == [Checked, Submitted, Completed]


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
