"""Spans and metrics: which there are, below whom, how long, and that nothing stays open."""

import asyncio
import json
import subprocess
import sys
from typing import Any

import pytest
import virtual_time
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from kling_async import EngineError, KlingError, ResponseLostError
from kling_async.integrations.otel import OpenTelemetry
from kling_async.protocol.wire import Response

COMMON = {
    "gen_ai.operation.name": "generate_content",
    "gen_ai.provider.name": "kling",
    "gen_ai.request.model": "kling-v2-6",
    "server.address": "api-singapore.klingai.com",
    "server.port": 443,
}
"""What every measurement of a task is told with."""


class Telemetry:
    """The hook, and what it made."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.reader = InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.tracers.get_tracer("the caller's")
        self.hook = OpenTelemetry(self.tracers, MeterProvider([self.reader]))

    def spans(self) -> list[ReadableSpan]:
        """The ended spans of tasks."""
        return [each for each in self.exporter.get_finished_spans() if each.kind is SpanKind.CLIENT]

    def metrics(self) -> dict[str, Any]:
        """Every metric there is, by name."""
        data = self.reader.get_metrics_data()
        assert data is not None
        [resource] = data.resource_metrics
        return {each.name: each for scope in resource.scope_metrics for each in scope.metrics}

    def points(self, name: str) -> list[tuple[dict[str, Any], float]]:
        """The sums of a metric, each with its attributes."""
        return [
            (dict(point.attributes), point.sum if hasattr(point, "sum") else point.value)
            for point in self.metrics()[name].data.data_points
        ]


def test_a_task_is_a_span_below_its_callers(world: Any):
    """Two callers, two traces: each task's span is below the span that its caller was in."""
    told = Telemetry()

    async def caller(kling: Any, name: str) -> None:
        with told.tracer.start_as_current_span(name):
            await kling.run(here.request(name), key=name)

    async def main() -> None:
        async with here.client(max_in_flight=1, hooks=[told.hook]) as kling:
            await asyncio.gather(caller(kling, "Ann"), caller(kling, "Bob"))

    here = world(latency=1.0)
    virtual_time.run(main())
    callers = {
        each.name: each for each in told.exporter.get_finished_spans() if each.kind is not SpanKind.CLIENT
    }
    first, second = told.spans()
    for span, caller_span in ((first, callers["Ann"]), (second, callers["Bob"])):
        assert span.name == "generate_content kling-v2-6"
        assert span.parent is not None
        assert caller_span.context is not None
        assert span.parent.span_id == caller_span.context.span_id
        assert span.status.status_code is StatusCode.UNSET
        assert [event.name for event in span.events] == ["kling_async.task.submitted"]
    attributes: dict[str, Any] = dict(second.attributes or {})
    made = here.ledger.made[1]
    assert attributes.pop("kling_async.units") > 0
    assert attributes == COMMON | {
        "gen_ai.output.type": "video",
        "gen_ai.response.id": made.task_id,
        "kling_async.endpoint": "image2video",
        "kling_async.external_task_id": made.body["external_task_id"],
        "kling_async.slot.wait_time": 102.0,
        "kling_async.upload.duration": 1.0,
        "kling_async.generation.duration": 100.0,
        "kling_async.detection.delay": 1.0,
        "kling_async.task.status": "succeed",
        "kling_async.polls": 10,
        "kling_async.retries": 0,
    }


def test_metrics_to_the_second(world: Any):
    """Two tasks through one slot: sums of all durations and counts, with the conventions' units."""
    told = Telemetry()

    async def main() -> None:
        async with here.client(max_in_flight=1, hooks=[told.hook]) as kling:
            handles = [kling.submit_soon(request) for request in here.requests(2)]
            await asyncio.gather(*(handle.result() for handle in handles))

    here = world(latency=1.0)
    virtual_time.run(main())
    units = {each.name: each.unit for each in told.metrics().values()}
    assert units == {
        "gen_ai.client.operation.duration": "s",
        "kling_async.slot.wait_time": "s",
        "kling_async.upload.duration": "s",
        "kling_async.generation.duration": "s",
        "kling_async.detection.delay": "s",
        "kling_async.tasks": "{task}",
        "kling_async.polls": "{poll}",
        "kling_async.retries": "{retry}",
        "kling_async.units": "{unit}",
    }
    assert told.points("gen_ai.client.operation.duration") == [(COMMON, 102 + 204)]
    assert told.points("kling_async.slot.wait_time") == [(COMMON, 102)]
    assert told.points("kling_async.upload.duration") == [(COMMON, 2)]
    assert told.points("kling_async.generation.duration") == [(COMMON, 200)]
    assert told.points("kling_async.detection.delay") == [(COMMON, 2)]
    assert told.points("kling_async.polls") == [(COMMON, 20)]
    assert told.points("kling_async.retries") == [(COMMON, 0)]
    assert told.points("kling_async.tasks") == [(COMMON | {"kling_async.task.status": "succeed"}, 2)]
    [duration] = told.metrics()["gen_ai.client.operation.duration"].data.data_points
    assert duration.explicit_bounds[:14] == pytest.approx([0.01 * 2**power for power in range(14)])
    assert duration.bucket_counts[-1] == 0, "videos take minutes, and have their buckets"


def test_a_lost_answer_is_on_the_span_and_in_the_upload(world: Any):
    """Sent again after 90 s: the span tells of doubt, retry, submit in turn; no wait for a slot."""
    told = Telemetry()
    lost = iter([True])

    async def tamper(request: Any, send: Any) -> Response:
        if request.method == "POST" and next(lost, False):
            raise ResponseLostError("gone")
        return await send()

    async def main() -> None:
        async with here.client(hooks=[told.hook]) as kling:
            await kling.run(here.request())

    here = world(tamper=tamper)
    virtual_time.run(main())
    [span] = told.spans()
    assert [event.name.rpartition(".")[2] for event in span.events] == ["ambiguous", "retried", "submitted"]
    assert (span.events[0].attributes or {})["error.type"] == "ResponseLostError"
    assert told.points("kling_async.slot.wait_time") == [(COMMON, 0)]
    assert told.points("kling_async.upload.duration") == [(COMMON, 90)]


def test_an_error_is_told_by_its_class(world: Any):
    """A failed generation and a refusal: error.type on span and metrics, Kling's code, and no text."""
    told = Telemetry()

    async def main() -> None:
        async with here.client(hooks=[told.hook]) as kling:
            handles = [kling.submit_soon(here.request(prompt)) for prompt in ("[fail]", "[policy]")]
            await asyncio.gather(*(each.result() for each in handles), return_exceptions=True)

    here = world()
    virtual_time.run(main())
    refused, failed = told.spans()
    for span, kind, code in ((refused, "PolicyError", 1301), (failed, "TaskFailedError", None)):
        assert span.status.status_code is StatusCode.ERROR
        assert span.status.description is None
        assert (span.attributes or {}).get("error.type") == kind
        assert (span.attributes or {}).get("kling_async.error.code") == code
    by_error = {
        each.get("error.type"): seconds for each, seconds in told.points("gen_ai.client.operation.duration")
    }
    assert by_error == {"PolicyError": 0, "TaskFailedError": 100}
    tasks = {
        (each["error.type"], each["kling_async.task.status"]) for each, _ in told.points("kling_async.tasks")
    }
    assert tasks == {("PolicyError", "refused"), ("TaskFailedError", "failed")}


def test_what_the_hook_did_not_see_begin_is_counted(world: Any):
    """An attached task has no span here, and its end is measured, with what is known of it."""
    told = Telemetry()

    async def main() -> None:
        async with here.client() as other, here.client(hooks=[told.hook]) as kling:
            handle = await other.submit(here.request())
            await kling.attach(handle.token).result()

    here = world()
    virtual_time.run(main())
    assert told.spans() == []
    known = {name: value for name, value in COMMON.items() if name != "gen_ai.request.model"}
    assert told.points("kling_async.tasks") == [(known | {"kling_async.task.status": "succeed"}, 1)]
    assert told.points("kling_async.generation.duration") == [(known, 100)]
    assert "gen_ai.client.operation.duration" not in told.metrics()


def test_two_clients_may_share_a_hook(world: Any):
    """Both want the same task: one span is begun and ended, and both ends are counted."""
    told = Telemetry()

    async def main() -> None:
        async with here.client(hooks=[told.hook]) as one, here.client(hooks=[told.hook]) as other:
            await asyncio.gather(*(kling.run(here.request(), key="same") for kling in (one, other)))

    here = world()
    virtual_time.run(main())
    assert len(told.spans()) == 1
    assert [count for _, count in told.points("kling_async.tasks")] == [2]
    assert told.hook._open == {}


@pytest.mark.parametrize("bug", [False, True])
def test_closing_ends_every_span(world: Any, bug: bool):
    """Tasks go on at Kling when the client is closed, which is no error; a bug of ours is one."""
    told = Telemetry()
    broken = False

    async def tamper(request: Any, send: Any) -> Response:
        if broken and request.method == "GET":
            raise ZeroDivisionError
        return await send()

    async def main() -> None:
        nonlocal broken
        async with here.client(hooks=[told.hook]) as kling:
            handles = [await kling.submit(request) for request in here.requests(2)]
            await asyncio.sleep(25)
            broken = bug
            if bug:
                with pytest.raises(EngineError):
                    await handles[0].result()

    here = world(tamper=tamper)
    virtual_time.run(main())
    assert told.hook._open == {}
    wanted = (StatusCode.ERROR, "EngineError") if bug else (StatusCode.UNSET, None)
    for span in told.spans():
        attributes = span.attributes or {}
        assert (span.status.status_code, attributes.get("error.type")) == wanted
        assert attributes["kling_async.task.status"] in ("submitted", "processing")
    assert len(told.spans()) == 2
    assert "gen_ai.client.operation.duration" not in told.metrics(), "the operation has not ended"
    polls = 6 if bug else 4
    assert sum(count for _, count in told.points("kling_async.polls")) in (polls, polls - 1)


def test_a_thousand_tasks_of_every_end_leave_nothing_open(world: Any):
    """Successes, failures, refusals, lost answers, withdrawals and a close: a span for each, ended."""
    told = Telemetry()
    posts = 0

    async def tamper(request: Any, send: Any) -> Response:
        nonlocal posts
        posts += request.method == "POST"
        if request.method == "POST" and posts % 50 == 0:
            raise ResponseLostError("gone")
        if request.method == "POST" and posts % 33 == 0:
            return Response(429, {}, b'{"code": 1303, "message": "parallel task over resource pack limit"}')
        return await send()

    async def main() -> None:
        async with here.client(max_in_flight=100, hooks=[told.hook]) as kling:
            prompts = [("x", "[fail]", "[policy]", "y", "z")[number % 5] for number in range(1000)]
            handles = [kling.submit_soon(here.request(prompt)) for prompt in prompts]
            await asyncio.sleep(1)
            for handle in handles[::7]:
                handle.withdraw()
            await asyncio.sleep(500)

    here = world(tamper=tamper, seconds=9.0)
    virtual_time.run(main())
    assert told.hook._open == {}
    assert len(told.spans()) == 1000
    assert all(span.end_time is not None for span in told.spans())
    ends = {str((span.attributes or {})["kling_async.task.status"]) for span in told.spans()}
    assert {"succeed", "failed", "refused"} <= ends


def test_nothing_secret_is_told(world: Any):
    """No prompt, picture, key, URL or text of an error is in any span or metric; attributes are few."""
    told = Telemetry()

    async def main() -> None:
        async with here.client(hooks=[told.hook]) as kling:
            for prompt in ("a secret wish", "[fail] a secret wish", "[policy] a secret wish"):
                handle = kling.submit_soon(here.request(prompt), key=f"order of {prompt}")
                with_error = await asyncio.gather(handle.result(), return_exceptions=True)
                assert isinstance(with_error[0], KlingError) == prompt.startswith("[")

    here = world()
    virtual_time.run(main())
    text = json.dumps([json.loads(span.to_json()) for span in told.spans()])
    text += str(told.reader.get_metrics_data())
    for secret in ("secret wish", "sim-key", "cdn.example.org", "https://", "risk control"):
        assert secret not in text


def test_without_opentelemetry_the_import_says_what_to_install():
    """The extra's name is in the message."""
    code = "import sys; sys.modules['opentelemetry'] = None; import kling_async.integrations.otel"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].endswith('pip install "kling-async[otel]"')
