"""Reading the list in place of asking one by one: counts and times of the whole client, in virtual time."""

import asyncio
import json
import statistics
from typing import Any

import attrs
import pytest
import virtual_time

from kling_async import (
    COMETAPI,
    KLING,
    AccountError,
    AuthenticationError,
    Completed,
    GatewayError,
    MultiImageToVideo,
    Polled,
    Polling,
    TaskFailedError,
    TaskStatus,
    WaitTimeoutError,
)
from kling_async.protocol import identity
from kling_async.protocol.wire import Response
from kling_async.simulator.faults import Faults

EXACT = Polling(aim=None, factor=10, base=1, max_interval=10, jitter=0)
"""Every 10 s, as long as it takes."""
SPREAD = (67.5, 112.5)
"""Seconds a task takes, at least and at most."""


class Fleet:
    """Tasks in flight together, by a client that lists, and when each was found.

    Args:
        here: the world.
        requests: what to submit.
        count: how many that is, where they have no length.
        settled: the number found from which on `figures` counts.
        **options: the client's; if nothing else is said it lists, and polls every 10 s exactly.
    """

    def __init__(self, here, requests, *, count=None, settled=0, **options):
        self.here = here
        self.requests = requests
        self.count = len(requests) if count is None else count
        self.settled = settled
        self.options = {"provider": KLING, "polling": EXACT, "max_in_flight": self.count, **options}
        self.found: dict[str, float] = {}
        self.before = 0

    def run(self):
        """Run all to their ends."""
        virtual_time.run(self._main())
        return self

    async def _main(self):
        async with self.here.client(**self.options) as kling:
            async for done in kling.completions(self.requests, timeout=None):
                assert done.ok, done.error
                self.found[done.task.task_id] = self.here.now()
                if len(self.found) == self.settled:
                    self.before = self.asked()

    def asked(self):
        """How many status requests were made."""
        return len(self.here.times("GET"))

    def late(self):
        """Seconds from the end of each task until it was found, in the order they were made."""
        made = self.here.ledger.made
        assert len(self.found) == len(made) == self.count, "everyone is found, and made once"
        return [round(self.found[each.task_id] - each.ended, 6) for each in made]

    def figures(self):
        """Requests per task and mean delay of those found once it was settled."""
        late = dict(zip((made.task_id for made in self.here.ledger.made), self.late(), strict=True))
        counted = list(self.found)[self.settled :]
        return (self.asked() - self.before) / len(counted), statistics.mean(late[each] for each in counted)


def lists(here, kind="image2video"):
    """When each page of that list was asked for."""
    return [round(when, 6) for when, _, url in here.calls if f"/{kind}?pageNum=" in url]


def singles(here, kind="image2video"):
    """When each task was asked for by itself."""
    return [round(when, 6) for when, _, url in here.calls if f"/{kind}/" in url]


def every(*spans, each=1):
    """Times: the numbers of each range, *each* times one after the other."""
    return sorted(number for span in spans for number in span for _ in range(each))


def without(hidden):
    """A tamper that takes the entries of which *hidden(task_id)* is true off every page."""

    async def tamper(request, send):
        reply = await send()
        if "?pageNum=" not in request.url:
            return reply
        document = json.loads(reply.body)
        document["data"] = [entry for entry in document["data"] if not hidden(entry["task_id"])]
        return attrs.evolve(reply, body=json.dumps(document).encode())

    return tamper


async def submitted(kling, here, count):
    """Handles of *count* tasks, submitted at once."""
    return list(await asyncio.gather(*(kling.submit(request) for request in here.requests(count))))


def two_groups(here):
    """The end of twenty tasks of 95 s, and of twenty more begun 5 s later; all are asked for every 10 s."""

    async def requests():
        for number in range(40):
            if number == 20:
                await asyncio.sleep(5)
            yield here.request(str(number))

    return Fleet(here, requests(), count=40).run()


# What it costs


@pytest.fixture(scope="module")
def settled(world):
    """How many are in flight, and the figures of such a fleet once its schedule has settled."""

    def fleet(slots, tasks, known):
        here = world(seconds=SPREAD)
        options: dict[str, Any] = {"settled": known, "max_in_flight": slots, "polling": Polling()}
        return Fleet(here, here.requests(tasks), **options).run()

    plans = {5: (100, 50), 20: (400, 100), 100: (400, 100), 1000: (1500, 500)}
    return {slots: fleet(slots, *plan) for slots, plan in plans.items()}


@pytest.mark.parametrize(("slots", "exactly"), [(5, 427), (20, 477), (100, 105)])
def test_requests_in_all(settled, slots, exactly):
    """So many status requests, with this seed, for 100, 400 and 400 tasks from the first to the last."""
    assert settled[slots].asked() == exactly


@pytest.mark.parametrize(
    ("slots", "requests", "delay"), [(5, 5, 2), (20, 1.25, 2), (100, 0.3, 2), (1000, 0.065, 2.2)]
)
def test_requests_per_task(settled, slots, requests, delay):
    """Twenty in flight take 1.25 status requests each, found 2 s after their ends; a hundred take 0.3."""
    asked, late = settled[slots].figures()
    assert asked <= requests
    assert late <= delay


def test_requests_per_task_fall_with_their_number(settled):
    """One page tells of all: the more there are, the less each costs."""
    costs = [fleet.figures()[0] for _, fleet in sorted(settled.items())]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < costs[0] / 50


def test_thousand_tasks_end(settled):
    """None is found later than the longest interval after its end; the last few alone are asked singly."""
    fleet = settled[1000]
    assert min(fleet.late()) >= 0
    assert max(fleet.late()) <= Polling().max_interval
    assert len(singles(fleet.here)) <= 5


def test_five_thousand(world):
    """Five thousand at once: ten pages and a quarter more each time, whoever is found next."""
    here = world(seconds=SPREAD)
    slowly = attrs.evolve(EXACT, factor=30, max_interval=30)
    fleet = Fleet(here, here.requests(5000), polling=slowly).run()
    assert max(fleet.late()) <= 30
    assert singles(here) == []
    assert lists(here) == every(range(30, 121, 30), each=13)


def test_exact_times(world):
    """Where nothing is learned, the list is read as tasks are due: at 10, 20 ... 100 s, one page for all."""
    here = world(seconds=95)
    fleet = Fleet(here, here.requests(40)).run()
    assert lists(here) == every(range(10, 101, 10))
    assert singles(here) == []
    assert fleet.late() == [5] * 40


def test_exact_times_of_two_groups(world):
    """Each group is asked for at its own times; who is over on a page is taken as that, though not due."""
    here = world(seconds=95)
    fleet = two_groups(here)
    assert lists(here) == [*range(10, 100, 5), 105]
    assert singles(here) == []
    assert fleet.late() == [0] * 20 + [5] * 20


def test_one_task_is_asked_for_by_itself(world):
    """A page for one spares nothing."""
    here = world(seconds=95)
    Fleet(here, here.requests(1)).run()
    assert (lists(here), singles(here)) == ([], every(range(10, 101, 10)))


# Lists of every order


@pytest.mark.parametrize("others", [0, 700])
@pytest.mark.parametrize("order", ["newest", "oldest", "unstable"])
@pytest.mark.parametrize("count", [2, 7, 40])
def test_no_order_costs_more_than_singles(world, order, others, count):
    """Whatever the list is like, everyone is found in time, and for hardly more than without a list."""

    def fleet(provider):
        faults = Faults.parse("list:unstable_list" if order == "unstable" else "")
        here = world(seconds=SPREAD, faults=faults)
        here.simulator.list_order = "newest" if order == "unstable" else order
        here.simulator.add_others(others, 1_799_999_999)
        options = {"provider": provider} if provider else {}
        return Fleet(here, here.requests(count), polling=Polling(), **options).run()

    with_list, without_list = fleet(KLING), fleet(attrs.evolve(KLING, lists=False))
    assert lists(with_list.here)
    assert max(with_list.late()) <= Polling().max_interval
    assert with_list.asked() <= 1.3 * without_list.asked()


def test_oldest_first(world):
    """Ours lie behind 2,000 others: a reading in vain is repeated after 60, 120, 240 s, each time deeper.

    Meanwhile everyone is asked for singly; once they are found there, nobody is any more.
    """
    here = world(seconds=465, list_order="oldest")
    here.simulator.add_others(2000, 1_799_999_999)
    fleet = Fleet(here, here.requests(60)).run()
    assert fleet.late() == [5] * 60
    assert lists(here) == [10, 70, 190, 190, *every(range(430, 471, 10), each=6)]
    assert singles(here) == every(range(10, 421, 10), each=60)


def test_oldest_first_behind_ten_thousand(world):
    """Deeper than it pays to read for sixty: four pages are read in the first three minutes, all in vain."""
    here = world(seconds=195, list_order="oldest")
    here.simulator.add_others(10_000, 1_799_999_999)
    fleet = Fleet(here, here.requests(60)).run()
    assert fleet.late() == [5] * 60
    assert lists(here) == [10, 70, 190, 190]
    assert singles(here) == every(range(10, 201, 10), each=60)


def test_list_that_never_holds_ours(world):
    """A list of others alone: read at 10 s, and 60 and 120 s later, each time in vain; all are asked for."""
    here = world(seconds=395, tamper=without(lambda _: True))
    fleet = Fleet(here, here.requests(20)).run()
    assert lists(here) == [10, 70, 190]
    assert singles(here) == every(range(10, 401, 10), each=20)
    assert fleet.late() == [5] * 20


def test_page_that_lacks_a_task(world):
    """One of twenty is on no page: it alone is asked for singly, each time it is due."""
    here = world(seconds=95, tamper=without(lambda task_id: task_id == here.ledger.made[7].task_id))
    fleet = Fleet(here, here.requests(20)).run()
    assert lists(here) == every(range(10, 101, 10))
    assert singles(here) == every(range(10, 101, 10))
    assert fleet.late() == [5] * 20


def test_list_in_words_of_its_own(world):
    """A status on the page that nobody knows tells nothing: the task is asked for singly, as if not there."""
    here = world(seconds=95, faults=Faults.parse("list:unknown_status word=paused"))
    fleet = Fleet(here, here.requests(20)).run()
    assert lists(here) == [10, 70]
    assert singles(here) == every(range(10, 101, 10), each=20)
    assert fleet.late() == [5] * 20


def test_list_that_lags(world):
    """A task younger than 25 s is on no page: the first reading is in vain, after a minute all are found."""
    here = world(seconds=95, faults=Faults.parse("list:lookup_lag seconds=25"))
    fleet = Fleet(here, here.requests(20)).run()
    assert lists(here) == [10, 70, 80, 90, 100]
    assert singles(here) == every(range(10, 61, 10), each=20)
    assert fleet.late() == [5] * 20


@pytest.mark.parametrize(("made", "pages", "alone"), [(100, 12, 0), (400, 35, 3 * 600), (5000, 2, 4 * 600)])
def test_list_that_shifts_while_it_is_read(world, made, pages, alone):
    """Others make tasks between two pages, which push ours down: everyone is found at his time."""

    async def tamper(request, send):
        if "?pageNum=" in request.url:
            here.simulator.add_others(made, here.now())
        return await send()

    here = world(seconds=35, tamper=tamper)
    fleet = Fleet(here, here.requests(600)).run()
    assert fleet.late() == [5] * 600
    assert (len(lists(here)), len(singles(here))) == (pages, alone)


def test_each_kind_has_its_own_list(world):
    """Two kinds at once: each list is read as if the other were not there, and nobody is asked for singly."""
    pictures = ("https://cdn.example.org/a.png", "https://cdn.example.org/b.png")
    here = world(seconds=lambda body: 65 if "image_list" in body else 95)
    others = [MultiImageToVideo(image_list=pictures, prompt=str(number)) for number in range(20)]
    fleet = Fleet(here, [*here.requests(20), *others]).run()
    assert lists(here) == every(range(10, 101, 10))
    assert lists(here, "multi-image2video") == every(range(10, 71, 10))
    assert singles(here) == singles(here, "multi-image2video") == []
    assert fleet.late() == [5] * 40


def test_provider_without_a_list(world):
    """A gateway that lists nothing is never asked for a list."""
    here = world(seconds=65, face="cometapi")
    fleet = Fleet(here, here.requests(20), provider=COMETAPI).run()
    assert here.ledger.requests["list"] == 0
    assert here.ledger.requests["query"] == 7 * 20
    assert fleet.late() == [5] * 20


# Lists that fail


def no_list(body, times):
    """A tamper that answers the first *times* questions for a page with *body*."""
    left = [times]

    async def tamper(request, send):
        if "?pageNum=" not in request.url or not left[0]:
            return await send()
        left[0] -= 1
        return Response(200, {"content-type": "application/json"}, body)

    return tamper


@pytest.mark.parametrize(
    "fault",
    [
        "refuse code=5000",
        "refuse code=5001",
        "refuse code=1302",
        "refuse code=1303",
        "html status=502",
        "html status=504",
        "html status=200",
        "empty status=429",
        "truncated_json",
    ],
)
def test_reading_that_fails_in_passing(world, fault):
    """No answer at 20 s: those who were sought there are sought ten seconds later, nobody is asked singly.

    No answer twice, at 20 and 25 s: for a minute each is asked for singly, at the usual times.
    """
    once = world(seconds=95, faults=Faults.parse(f"list:{fault} after=18 times=1"))
    fleet = two_groups(once)
    assert lists(once) == [*range(10, 100, 5), 105]
    assert singles(once) == []
    assert fleet.late() == [0] * 20 + [5] * 20
    twice = world(seconds=95, faults=Faults.parse(f"list:{fault} after=18 times=2"))
    fleet = two_groups(twice)
    assert lists(twice) == [10, 15, 20, 25, 85, 90, 95, 105]
    assert singles(twice) == every(range(30, 81, 5), each=20)
    assert fleet.late() == [0] * 20 + [5] * 20


@pytest.mark.parametrize("fault", ["lost_reply_before", "not_http", "cut_reply"])
def test_reading_whose_reply_is_lost(world, fault):
    """A list that may hang would hold up all of its kind: for a minute each is asked for singly."""
    here = world(seconds=95, faults=Faults.parse(f"list:{fault} after=18 times=1"))
    fleet = two_groups(here)
    assert lists(here) == [10, 15, 20, 80, 85, 90, 95, 105]
    assert singles(here) == every(range(25, 80, 5), each=20)
    assert fleet.late() == [0] * 20 + [5] * 20


@pytest.mark.parametrize("pollers", [1, 8])
def test_one_of_three_pages_fails(world, pollers):
    """Who is on another page is found there; who is not is sought again ten seconds later, not singly."""
    here = world(seconds=35, latency=0.01, faults=Faults.parse("list:refuse code=5000 after=18 times=1"))
    fleet = Fleet(here, here.requests(800), polling=attrs.evolve(EXACT, pollers=pollers)).run()
    assert max(fleet.late()) < 10
    assert here.ledger.outcomes["list", 5000] == 1
    assert singles(here) == []


@pytest.mark.parametrize(
    "fault", ["refuse code=1302", "refuse code=5001", "html status=503", "empty status=429"]
)
def test_nobody_is_asked_before_retry_after(world, fault):
    """`Retry-After: 30` at 20 s: nothing is asked until 50 s, also for those who were not sought then."""
    here = world(seconds=95, faults=Faults.parse(f"list:{fault} retry_after=30 after=18 times=1"))
    fleet = two_groups(here)
    assert lists(here) == [10, 15, 20, *range(50, 101, 10)]
    assert singles(here) == []
    assert fleet.late() == [5] * 20 + [0] * 20


@pytest.mark.parametrize(
    "fault",
    [
        "refuse code=1200",
        "refuse code=1201",
        "refuse code=1202",
        "refuse code=1203",
        "refuse code=1103",
        "html status=404",
        "empty status=404",
        "empty status=405",
        "redirect",
    ],
)
def test_list_that_does_not_exist(world, fault):
    """One try, and one more after a minute: each is asked for singly, as where there is no list."""
    here = world(seconds=95, faults=Faults.parse(f"list:{fault}"))
    fleet = two_groups(here)
    assert lists(here) == [10, 70]
    assert singles(here) == every(range(10, 106, 5), each=20)[: 10 * 40]
    assert fleet.late() == [5] * 20 + [5] * 20


@pytest.mark.parametrize("fault", ["refuse code=1102", "refuse code=1002", "empty status=403"])
def test_list_that_says_the_account_is_stopped(world, fault):
    """At 20 s the waits of those sought end with the reason, the others' do not, and all are found.

    They are asked for again a minute later; from then on they can be waited for as before.
    """

    async def main():
        async with here.client(provider=KLING, polling=EXACT, max_in_flight=40) as kling:
            first = await submitted(kling, here, 20)
            await asyncio.sleep(5)
            second = await submitted(kling, here, 20)
            waits = [asyncio.ensure_future(handle.result()) for handle in (*first, *second)]
            await asyncio.sleep(70)
            assert here.time() == 75
            assert [wait.done() for wait in waits] == [True] * 20 + [False] * 20
            assert {type(wait.exception()) for wait in waits[:20]} <= {
                AccountError,
                AuthenticationError,
                GatewayError,
            }
            assert [waits[place].exception().token for place in (0, 19)] == [first[0].token, first[19].token]
            assert [handle.status for handle in first] == [TaskStatus.PROCESSING] * 20
            await asyncio.sleep(6)
            tasks = await asyncio.gather(*(handle.result() for handle in first), *waits[20:])
            assert {task.status for task in tasks} == {TaskStatus.SUCCEED}

    here = world(seconds=95, faults=Faults.parse(f"list:{fault} after=18 times=1"))
    virtual_time.run(main())
    assert lists(here) == [10, 15, 20, 25, 35, 45, 55, 65, 75, 80, 85, 90, 95, 105]
    assert singles(here) == []


@pytest.mark.parametrize(
    "body", [b'{"code": 0, "data": "soon"}', b'{"code": 0}', b"[1]", b'{"code": 0, "data": 7}']
)
def test_reply_that_holds_no_list(world, body):
    """Whatever it holds, everyone is asked for singly before long, and found."""
    here = world(seconds=95, tamper=no_list(body, 1000))
    fleet = two_groups(here)
    assert max(fleet.late()) <= 10
    assert len(lists(here)) <= 3
    assert singles(here)


@pytest.mark.parametrize(
    "fault", ["refuse code=1102", "refuse code=5000", "refuse code=1202", "delay seconds=30"]
)
def test_list_that_fails_for_ever(world, fault):
    """Before long everyone is asked for singly: nobody is found later than a minute and his interval."""

    async def main():
        async with here.client(provider=KLING, polling=EXACT, max_in_flight=40) as kling:
            handles = await submitted(kling, here, 40)
            while pending := [handle for handle in handles if not handle.done()]:
                await asyncio.wait([asyncio.ensure_future(pending[0].result())])
                await asyncio.sleep(1)
            return here.time()

    here = world(seconds=295, faults=Faults.parse(f"list:{fault}"))
    assert virtual_time.run(main()) <= 295 + 60 + 10
    assert len(here.times("GET")) <= 1.3 * 30 * 40


# Ends that come from elsewhere


def test_tasks_given_up_on_a_page(world):
    """Tasks that never end are asked for at 10, 20 ... 50 s of age, and last at 55 s, with which they end."""
    here = world(faults=Faults.parse("create:never_ends"), latency=2.0)

    async def main():
        polling = attrs.evolve(EXACT, give_up=55)
        async with here.client(provider=KLING, polling=polling, max_in_flight=20) as kling:
            handles = await submitted(kling, here, 20)
            done = await asyncio.gather(*(handle.result() for handle in handles), return_exceptions=True)
            assert {type(error) for error in done} == {WaitTimeoutError}
            assert {handle.status for handle in handles} == {TaskStatus.GIVEN_UP}
            assert kling.statistics().in_flight == 0
            return here.time()

    assert virtual_time.run(main()) == 59
    assert lists(here) == [12, 22, 32, 42, 52, 57]
    assert singles(here) == []


def test_tasks_that_fail(world):
    """A page tells of failures as of videos: each handle raises its own."""

    async def main():
        async with here.client(provider=KLING, polling=EXACT, max_in_flight=20) as kling:
            handles = [kling.submit_soon(here.request(f"[fail] {number}")) for number in range(20)]
            waits = (handle.result() for handle in handles)
            errors: list[Any] = await asyncio.gather(*waits, return_exceptions=True)
            assert {type(error) for error in errors} == {TaskFailedError}
            assert [error.task_id for error in errors] == [handle.task_id for handle in handles]

    here = world(seconds=95)
    virtual_time.run(main())
    assert lists(here) == every(range(10, 101, 10))
    assert singles(here) == []


def test_news_from_elsewhere_while_a_page_is_read(world):
    """Half are refreshed before the page with their ends is there, half answered just after: one end each."""
    events = []

    async def main():
        options = {"provider": KLING, "polling": EXACT, "max_in_flight": 20, "hooks": [events.append]}
        async with here.client(**options) as kling:
            handles = await submitted(
                kling, here, 20
            )  # over at 97 s, and a page is on its way from 104 to 108 s
            await asyncio.sleep(101 - here.time())
            early = [asyncio.ensure_future(handle.refresh()) for handle in handles[:10]]
            await asyncio.sleep(4)
            late = [asyncio.ensure_future(handle.refresh()) for handle in handles[10:]]
            assert {(await each).status for each in (*early, *late)} == {TaskStatus.SUCCEED}
            assert {(await handle.result()).status for handle in handles} == {TaskStatus.SUCCEED}
            assert (kling.statistics().succeeded, kling.statistics().in_flight) == (20, 0)
            await asyncio.sleep(60)

    here = world(seconds=95, latency=4.0)
    virtual_time.run(main())
    assert lists(here) == every(range(14, 105, 10))
    ends = [event.task_id for event in events if isinstance(event, Completed)]
    assert len(ends) == 20
    assert set(ends) == {made.task_id for made in here.ledger.made}


@pytest.mark.parametrize("tenths", range(0, 140, 20))
def test_client_closed_while_a_page_is_read(world, tenths):
    """Whenever it is closed, every task is given back, each wait ends, and another client finds them all."""

    async def main():
        kling = here.client(provider=KLING, polling=EXACT, max_in_flight=20)
        async with kling:
            handles = await submitted(kling, here, 20)
            waits = [asyncio.ensure_future(handle.result()) for handle in handles]
            await asyncio.sleep(4.0 + tenths / 10)
            left = await kling.aclose()
        errors = await asyncio.gather(*waits, return_exceptions=True)
        assert {type(error) for error in errors} == {WaitTimeoutError}
        assert {handle.task_id for handle in left} == {made.task_id for made in here.ledger.made}
        assert len(left) == 20
        async with here.client(provider=KLING, polling=EXACT) as another:
            again = [another.attach(handle.token) for handle in left]
            assert {(await handle.result()).status for handle in again} == {TaskStatus.SUCCEED}

    here = world(seconds=95, latency=4.0)
    virtual_time.run(main())
    assert len(here.ledger.made) == 20


@pytest.mark.parametrize("tenths", range(0, 140, 20))
def test_waits_cancelled_while_a_page_is_read(world, tenths):
    """Waits end, and nothing else: the next wait for the same tasks ends in time, for no more requests."""

    async def main():
        async with here.client(provider=KLING, polling=EXACT, max_in_flight=20) as kling:
            handles = await submitted(kling, here, 20)
            waits = [asyncio.ensure_future(handle.result()) for handle in handles]
            await asyncio.sleep(4.0 + tenths / 10)
            for wait in waits:
                wait.cancel()
            assert {type(each) for each in await asyncio.gather(*waits, return_exceptions=True)} == {
                asyncio.CancelledError
            }
            await asyncio.gather(*(handle.result() for handle in handles))
            return here.time()

    here = world(seconds=95, latency=4.0)
    assert virtual_time.run(main()) == 108
    assert lists(here) == every(range(14, 105, 10))
    assert singles(here) == []


# Who can be on no page, and what a page makes of the others


def test_task_known_by_our_name_alone(world):
    """Attached to without its task_id, it is asked for by our name until an answer tells its id."""
    name = "ka-1"

    async def main():
        async with here.client(provider=KLING, polling=EXACT) as kling:
            handles = await submitted(kling, here, 20)
            other = await kling.submit(here.request("named", external_task_id=name))
            await asyncio.sleep(1)
        async with here.client(provider=KLING, polling=EXACT) as kling:
            token = identity.Token.parse(other.token)
            nameless = kling.attach(attrs.evolve(token, task_id=None).text)
            handles = [kling.attach(handle.token) for handle in handles]
            assert nameless.task_id is None
            assert {(await handle.result()).status for handle in (nameless, *handles)} == {TaskStatus.SUCCEED}
            assert nameless.task_id == other.task_id

    here = world(seconds=95, faults=Faults.parse("query:lookup_lag seconds=25"))
    virtual_time.run(main())
    assert {
        url.rpartition("/")[2] for _, method, url in here.calls if "?" not in url and method == "GET"
    } == {name}
    assert singles(here) == [1, 11, 21, 31]
    assert lists(here) == every(range(1, 102, 10))


def test_nobody_on_the_list_is_known_by_a_name_alone(world):
    """Where nothing but our names is known, no page is read: it could not be told who is who."""

    async def main():
        async with here.client(provider=KLING, polling=EXACT, max_in_flight=3) as kling:
            tokens = [identity.Token.parse(each.token) for each in await submitted(kling, here, 3)]
        async with here.client(provider=KLING, polling=EXACT) as kling:
            handles = [kling.attach(attrs.evolve(token, task_id=None).text) for token in tokens]
            assert {(await handle.result()).status for handle in handles} == {TaskStatus.SUCCEED}

    here = world(seconds=95, faults=Faults.parse("query:lookup_lag seconds=25"))
    virtual_time.run(main())
    assert singles(here) == every([0, 10, 20, 30], each=3)
    assert lists(here) == every(range(40, 101, 10))


def test_another_task_under_our_name(world):
    """A second task under the same name ends first: it is not taken for ours, which ends at its own time."""

    async def main():
        options = {"provider": KLING, "polling": EXACT, "max_in_flight": 20}
        async with here.client(**options) as other, here.client(**options) as kling:
            ours = await kling.submit(here.request("ours", external_task_id="ka-1"))
            handles = await submitted(kling, here, 10)
            await asyncio.sleep(5)
            theirs = await other.submit(here.request("theirs", external_task_id="ka-1"))
            assert theirs.task_id != ours.task_id
            await asyncio.gather(*(handle.result() for handle in (ours, *handles)))
            return ours.task, here.time()

    seconds = {"ours": 145, "theirs": 20}
    faults = Faults.parse("create:duplicates")
    here = world(seconds=lambda body: seconds.get(body["prompt"], 95), faults=faults)
    task, time = virtual_time.run(main())
    assert (task.task_id, time) == (here.ledger.made[0].task_id, 150)


def test_task_attached_to_twice(world):
    """Two tokens tell of one task, which nothing but its task_id names: both handles see its end."""

    async def main():
        async with here.client(provider=KLING, polling=EXACT) as kling:
            handles = await submitted(kling, here, 5)
            await asyncio.sleep(1)
        async with here.client(provider=KLING, polling=EXACT) as kling:
            token = identity.Token.parse(handles[0].token)
            tokens = [attrs.evolve(token, external_task_id=None, key=key).text for key in ("a", "b")]
            twice = [kling.attach(text) for text in (*tokens, *(handle.token for handle in handles))]
            ends = [await handle.result(timeout=200) for handle in twice]
            assert [end.task_id for end in ends[:3]] == [handles[0].task_id] * 3

    here = world(seconds=95)
    virtual_time.run(main())


def test_only_what_changed_is_made_a_task(world):
    """A task is the same object until its status is another; each poll of it is told all the same."""
    events, seen = [], []

    async def main():
        options = {"provider": KLING, "polling": EXACT, "max_in_flight": 20, "hooks": [events.append]}
        async with here.client(**options) as kling:
            handles = await submitted(kling, here, 20)
            await asyncio.sleep(1)
            for _ in range(21):
                seen.append([handle.task for handle in handles])
                await asyncio.sleep(5)

    here = world(seconds=95, submitted_share=0.35)
    virtual_time.run(main())
    for tasks in zip(*seen, strict=True):
        assert [task.status for task in tasks] == [
            *[TaskStatus.SUBMITTED] * 8,
            *[TaskStatus.PROCESSING] * 12,
            TaskStatus.SUCCEED,
        ]
        assert len({id(task) for task in tasks}) == 3
    assert [event.polls for event in events if isinstance(event, Polled)] == every(range(1, 11), each=20)


def test_long_tasks_are_found_in_time(world):
    """2 % of half an hour is more than `max_interval`, which bounds the delay, also of a list."""
    here = world(seconds=(600.0, 1800.0))
    fleet = Fleet(here, here.requests(160), polling=Polling(), max_in_flight=40).run()
    assert max(fleet.late()[40:]) <= 15


def test_quick_tasks_beside_slow_ones(world):
    """What takes a minute is found as soon as it is alone, though what takes ten is on the same list."""

    def seconds(body):
        low, high = (400.0, 800.0) if body["mode"] == "pro" else (30.0, 60.0)
        return here.rng.uniform(low, high)

    here = world(seconds=seconds)
    requests = [here.request(str(number), mode="std" if number % 8 else "pro") for number in range(640)]
    fleet = Fleet(here, requests, polling=Polling(), max_in_flight=40).run()
    quick = [late for number, late in enumerate(fleet.late()) if number % 8 and number > 160]
    assert statistics.mean(quick) <= 2


def test_long_retry_after_of_a_list(world):
    """An hour of `Retry-After` is the list's and that of who was sought on it: others wait a minute of it."""

    async def main():
        async with here.client(provider=KLING, polling=EXACT) as kling:
            first = [kling.submit_soon(request) for request in here.requests(20)]
            await asyncio.sleep(110)
            late = await kling.submit(here.request("late"))
            await late.result()
            ended.append(here.time())
            await asyncio.gather(*(handle.result(timeout=None) for handle in first))

    ended = []
    here = world(seconds=95, faults=Faults.parse("list:empty status=429 retry_after=3600 after=1 times=1"))
    virtual_time.run(main())
    assert ended[0] <= 110 + 95 + 60 + 10
