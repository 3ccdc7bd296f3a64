"""One account at Kling: what it accepts, the tasks it has and what they cost. Knows no HTTP."""

import math
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from random import Random
from typing import Any, Literal, get_args
from uuid import UUID

from attrs import define, evolve, field

from kling_async.simulator import media, pictures, rules, schemas, settings
from kling_async.simulator.faults import Fault, Faults
from kling_async.simulator.ledger import Ledger, Made
from kling_async.simulator.messages import Call, Refusal
from kling_async.simulator.packs import Pack, Packs, are_packs
from kling_async.simulator.tasks import Generation, TaskTable
from kling_async.simulator.urls import SignedURLs

Seconds = float | tuple[float, float] | Callable[[Mapping[str, Any]], float]
Order = Literal["newest", "oldest"]

_DAY = 86_400.0


@define(kw_only=True, eq=False)
class Account:
    """The account whose tasks the simulator keeps. Attributes that are settings may be changed while it runs.

    A setting of a wrong type or out of range is a ValueError that names it.

    Attributes:
        seconds: How long a generation takes: seconds, a (low, high) range to draw from for each task, or
            a function of the request's body. Default: about what current models need (API reference,
            timings).
        submitted_share: The share of that time, 0 to 1, during which the task is still `submitted`.
        parallel: How many tasks may be in flight at once, None for any number.
        parallel_by_model: Models that are counted on their own, with their number.
        account_code: While not None, every create is refused with this code, e.g. 1102 for an empty account.
        packs: What the account has bought; they tell what is left, and never refuse a create: `account_code`
            does. Default: a trial pack of a hundred units and five slots.
        policy_marker: A prompt that contains it is refused with 1301.
        fail_marker: A prompt that contains it is accepted and fails.
        purge_after: Seconds from the end of a task until Kling has forgotten it.
        url_valid: Seconds for which a result's URL works, from the reply that carries it. Default: until
            the purge.
        lookup: Whether a task is found by its `external_task_id` too.
        list_order: Which tasks the list begins with; no order is documented (API reference, query and list).
            For one that is another at each request there is the fault `unstable_list`.
        rng: Draws the generation times.
        render: Makes the videos; None serves a placeholder of a few bytes.
        public_url: Base of the results' URLs, without a slash at the end.
        validates_schema: Whether requests are held against the JSON Schema. Default: whether `jsonschema` is
            installed; without it only the rules that span fields are applied.
        faults: What goes wrong, and when; with draws of its own, so that a fault does not change how long
            tasks take.
        ledger: What was made and asked.
    """

    seconds: Seconds = field(default=(60.0, 120.0), validator=settings.DURATION)
    submitted_share: float = field(default=0.1, validator=settings.SHARE)
    parallel: int | None = field(default=5, validator=settings.LIMIT)
    parallel_by_model: Mapping[str, int | None] = field(factory=dict, validator=settings.LIMITS)
    account_code: int | None = field(default=None, validator=settings.REFUSAL)
    packs: Sequence[Pack] = field(default=(Pack(),), validator=settings.must_be("a list of Pack", are_packs))
    policy_marker: str = field(default="[policy]", validator=settings.MARKER)
    fail_marker: str = field(default="[fail]", validator=settings.MARKER)
    purge_after: float = field(default=30 * _DAY, validator=settings.SECONDS)
    url_valid: float | None = field(default=None, validator=settings.SECONDS_OR_NONE)
    lookup: bool = field(default=True, validator=settings.FLAG)
    list_order: Order = field(default="newest", validator=settings.one_of(get_args(Order)))
    rng: Random = field(factory=lambda: Random(0), validator=settings.of_type(Random))  # noqa: S311 - no secret
    render: media.Render | None = field(default=None, validator=settings.FUNCTION_OR_NONE)
    public_url: str = field(default="http://127.0.0.1", validator=settings.TEXT)
    validates_schema: bool = field(factory=schemas.can_validate, validator=settings.FLAG)
    faults: Faults = field(factory=Faults, validator=settings.of_type(Faults))
    ledger: Ledger = field(init=False, factory=Ledger)
    _tasks: TaskTable = field(init=False, factory=TaskTable)
    _jobs: dict[str, media.VideoJob] = field(init=False, factory=dict)
    _videos: dict[str, bytes] = field(init=False, factory=dict)
    # apart from `rng`, so that the number of requests does not change how long tasks take
    _ids: Random = field(init=False, factory=lambda: Random(0))  # noqa: S311 - ids need not be secret
    _last_id: int = field(init=False, default=880_000_000_000_000_000)
    _packs: Packs = field(init=False, factory=Packs)
    _urls: SignedURLs = field(init=False)
    _struck: list[str] = field(init=False, factory=list)

    def __attrs_post_init__(self) -> None:
        self._urls = SignedURLs(self._ids.randbytes(16))

    def create(self, kind: str, body: dict[str, Any], now: float) -> Generation:
        """Make a task, or refuse.

        Raises:
            Refusal: In this order: the account's state, the request, the content policy, a known
                `external_task_id`, no free slot. Nothing is made and nothing is billed.
        """
        if self.account_code is not None:
            raise Refusal(self.account_code)
        accepted = self._checked(kind, body)
        if self.policy_marker in accepted.prompts:
            raise Refusal(1301)
        name = accepted.external_task_id
        known = name is not None and self._tasks.by_external_id(name, now) is not None
        # each fault is drawn only where it makes a difference, so that the ledger counts no other
        if known and self._strike("create", now, "duplicates") is None:
            raise Refusal(1201, f"External_task_id {name} already exists")
        slots = self._free_slot(accepted.model, now)
        usual = self._made(kind, body, accepted, slots, now)
        task = self._fated(usual, now)
        self._tasks.add(task, in_order=task.purged == usual.purged)
        self._record(task, body)
        if self.render is not None and task.succeeds:
            self._jobs[task.video_id] = _video_job(task, body, accepted)
        return task

    def add_others(self, count: int, now: float, *, kind: str = "image2video") -> None:
        """Put *count* tasks into the account that another client of it made, all of them over by *now*.

        They are on the list and can be asked for, as ours, but take no slot, and the ledger, which tells what
        came through here, does not know them.

        Args:
            count: How many.
            now: When they were made and ended, Unix seconds; not before any task made so far.
            kind: Their endpoint.
        """
        for _ in range(count):
            other = Generation(
                task_id=self._next_id(),
                external_task_id=None,
                kind=kind,
                model="",
                created=now,
                started=now,
                ended=now,
                purged=now + self.purge_after,
                failure="",
                units=None,
                video_id=self._next_id(),
                duration="5",
                watermark=None,
                slots="",
            )
            self._tasks.add(other)

    def find(self, kind: str, name: str, now: float) -> Generation:
        """The task of *kind* with this id or custom id.

        Raises:
            Refusal: 1201, there is none or it is purged.
        """
        task = self._tasks.by_task_id(name, now)
        if task is None and self.lookup:
            task = self._tasks.by_external_id(name, now)
        if task is None or task.kind != kind or self.lagging(task, name, now):
            raise Refusal(1201, f"Task not found by id/external id: {name}")
        return task

    def lagging(self, task: Generation, name: str, now: float) -> bool:
        """Whether a query for *name*, one of the ids of *task*, does not find it yet.

        Raises:
            Refusal: The fault wants another refusal than that of an unknown task.
        """
        fault = self._strike(
            "query",
            now,
            "lookup_lag",
            applies=lambda fault: (
                now < task.created + fault["seconds"] and (fault["by_task_id"] or name != task.task_id)
            ),
        )
        if fault is not None and fault["code"] != 1201:
            raise Refusal(fault["code"])
        return fault is not None

    def told_status(self, task: Generation, now: float, operation: str) -> str:
        """The word for the status of *task* at *now*."""
        fault = self._strike(operation, now, "unknown_status")
        return task.status(now) if fault is None else str(fault["word"])

    def page(self, kind: str, number: int, size: int, now: float) -> list[Generation]:
        """Page *number* (from 1) of the tasks of *kind*, in the order that is set."""
        tasks = self._tasks.oldest_first(kind, now)
        lag = self._strike(
            "list",
            now,
            "lookup_lag",
            applies=lambda fault: bool(tasks) and now < tasks[-1].created + fault["seconds"],
        )
        if lag is not None:
            tasks = [task for task in tasks if now >= task.created + lag["seconds"]]
        if self._strike("list", now, "unstable_list", applies=lambda _: len(tasks) > 1) is not None:
            tasks = self.faults.rng.sample(tasks, len(tasks))
        if self.list_order == "oldest":
            return tasks[(number - 1) * size : number * size]
        end = len(tasks) - (number - 1) * size
        return tasks[max(end - size, 0) : end][::-1] if end > 0 else []

    def costs(self, call: Call) -> dict[str, Any]:
        """What is left of the account's packs; see `Packs.told`."""
        return self._packs.told(self.packs, self.ledger.billed(call.now), call)

    def in_flight(self, now: float) -> int:
        """How many tasks are not terminal at *now*; calls must come in the order of time."""
        return self._tasks.in_flight(now)

    def request_id(self) -> str:
        """Another id for a reply."""
        return str(UUID(int=self._ids.getrandbits(128), version=4))

    def video_url(self, task: Generation, now: float) -> str:
        """The signed URL of the task's video (API reference, query: it expires with the video)."""
        end = task.purged if self.url_valid is None else now + self.url_valid
        token = self._urls.token(task.video_id, int(end), now)
        return f"{self.public_url}/videos/{task.video_id}.mp4?token={token}"

    def video(self, video_id: str, token: str, now: float) -> bytes | None:
        """The video's bytes, rendered if they are not yet; None if the URL is not, or no longer, good."""
        task = self._tasks.by_video(video_id, now)
        if task is None or not self._urls.valid(video_id, token, now):
            return None
        if video_id in self._videos:
            return self._videos[video_id]
        if self.render is None or video_id not in self._jobs:
            return media.placeholder(video_id, task.task_id)
        self.store_video(video_id, self.render(self._jobs[video_id]))
        return self._videos[video_id]

    def dead_url(self, video_id: str, token: str, now: float) -> int | None:
        """The HTTP status with which a URL that died before its time is refused, None for any other."""
        url = self._urls.given(token)
        if url is None:
            return None
        if url.dead is not None:
            return url.dead
        fault = self._strike(
            "download",
            now,
            "url_dies",
            applies=lambda fault: url.outlived(fault["seconds"], fault["downloads"], now),
        )
        url.requests += 1
        if fault is not None:
            self._urls.kill(video_id, url, fault["status"])
        return url.dead

    def job(self, video_id: str, now: float) -> media.VideoJob | None:
        """What is to be rendered before this video can be served; None if nothing is."""
        return self._jobs.get(video_id) if self._tasks.by_video(video_id, now) is not None else None

    def store_video(self, video_id: str, content: bytes) -> None:
        """Keep a rendered video and let go of the pictures it was made from."""
        self._videos[video_id] = content
        self._jobs.pop(video_id, None)

    def _checked(self, kind: str, body: dict[str, Any]) -> rules.Accepted:
        if self.validates_schema:
            schemas.validate(kind, body)
            return rules.check(kind, body)
        try:
            return rules.check(kind, body)
        except (AttributeError, KeyError, TypeError, ValueError):
            # a wrong type, which the schema would have named
            raise Refusal(1200, "The request parameters are invalid") from None

    def _strike(
        self, operation: str, now: float, *kinds: str, applies: Callable[[Fault], bool] = lambda _: True
    ) -> Fault | None:
        """The fault of these kinds that strikes now, counted; None if none does. See `Faults.draw`."""
        fault = self.faults.draw(operation, now, kinds, applies) if self.faults else None
        if fault is not None:
            self.ledger.faults[operation, fault.kind] += 1
            self._struck.append(fault.kind)
        return fault

    def _free_slot(self, model: str, now: float) -> str:
        """What a task of *model* is counted under.

        Raises:
            Refusal: 1303, no slot is free.
        """
        slots, limit = "", self.parallel
        if model in self.parallel_by_model:
            slots, limit = model, self.parallel_by_model[model]
        most = math.inf if limit is None else limit
        used = self._tasks.in_flight(now, slots)
        if used >= most or self._strike(
            "create",
            now,
            "slots_held",
            applies=lambda fault: fault["count"] is None or used + fault["count"] >= most,
        ):
            raise Refusal(1303)
        return slots

    def _fated(self, task: Generation, now: float) -> Generation:
        """*task* as the faults want it."""
        if self._strike("create", now, "never_ends"):
            return evolve(task, ended=math.inf, purged=math.inf)
        if fault := self._strike("create", now, "late_success", applies=lambda _: not task.failure):
            task = evolve(task, failure="internal error", recovers=task.ended + fault["seconds"])
        if fault := self._strike("create", now, "forgotten"):
            task = evolve(task, purged=now + fault["seconds"])
        return task

    def _made(
        self, kind: str, body: Mapping[str, Any], accepted: rules.Accepted, slots: str, now: float
    ) -> Generation:
        failure = "mask ratio mismatch" if accepted.mask_mismatch else ""
        if self.fail_marker in accepted.prompts:
            failure = "content risk control"
        seconds = self._drawn_seconds(body)
        return Generation(
            task_id=self._next_id(),
            external_task_id=accepted.external_task_id,
            kind=kind,
            model=accepted.model,
            created=now,
            started=now + seconds * self.submitted_share,
            ended=now + seconds,
            purged=now + seconds + self.purge_after,
            failure=failure,
            units=accepted.units,
            video_id=self._next_id(),
            duration=accepted.duration,
            watermark=accepted.watermark,
            slots=slots,
        )

    def _record(self, task: Generation, body: dict[str, Any]) -> None:
        self.ledger.made.append(
            Made(
                task_id=task.task_id,
                external_task_id=task.external_task_id,
                kind=task.kind,
                body=pictures.without_pictures(body),
                created=task.created,
                ended=task.ended,
                succeeds=task.succeeds,
                units=task.units if task.succeeds and task.units is not None else Decimal(0),
            )
        )
        self.ledger.most_in_flight = max(self.ledger.most_in_flight, self._tasks.in_flight(task.created))

    def _drawn_seconds(self, body: Mapping[str, Any]) -> float:
        if callable(self.seconds):
            return self.seconds(body)
        if isinstance(self.seconds, tuple):
            return self.rng.uniform(*self.seconds)
        return self.seconds

    def _next_id(self) -> str:
        self._last_id += self._ids.randrange(1, 10**6)
        return str(self._last_id)


def _video_job(task: Generation, body: Mapping[str, Any], accepted: rules.Accepted) -> media.VideoJob:
    return media.VideoJob(
        video_id=task.video_id,
        images=accepted.frames,
        tail=accepted.tail,
        camera=body.get("camera_control"),
        seconds=float(task.duration),
        # image2video has no such field: the frame follows the picture
        aspect_ratio=body.get("aspect_ratio", "16:9") if task.kind == "multi-image2video" else None,
    )
