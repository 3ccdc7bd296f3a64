"""Traces and metrics for OpenTelemetry, made of the client's events.

The names are those of OpenTelemetry's semantic conventions for generative AI clients where they have one,
else they begin with ``kling_async.``. Units are UCUM's: ``s`` for seconds, ``{poll}`` for a count of polls.
"""

import asyncio
from urllib.parse import urlsplit

import attrs

from kling_async.extras import install
from kling_async.instrumentation import (
    Ambiguous,
    Checked,
    Completed,
    Detached,
    Event,
    Polled,
    Retried,
    Saved,
    Submitted,
)
from kling_async.protocol.errors import APIError, EngineError, KlingError
from kling_async.protocol.providers import Provider

try:
    from opentelemetry import metrics, trace
except ImportError as error:
    what = f"kling_async.integrations.otel needs opentelemetry-api: {install('otel')}"
    raise ImportError(what, name=error.name) from error

__all__ = ["OpenTelemetry"]

OPERATION = "generate_content"
"""What the conventions call the making of anything but text."""

BOUNDARIES = tuple(0.01 * 2**power for power in range(21))
"""Seconds between the histograms' buckets: those that the conventions give for the duration of an operation,
0.01 to 81.92, doubled on to 10,485.76, for videos take minutes, and are given up after three hours."""

Attributes = dict[str, str | int]


@attrs.frozen
class _Open:
    """A task on its way.

    Attributes:
        span: its span.
        attributes: of its measurements.
        began: when it was checked, seconds of the loop's clock.
    """

    span: trace.Span
    attributes: Attributes
    began: float


class OpenTelemetry:
    """A hook that makes spans and metrics: ``KlingClient(..., hooks=[OpenTelemetry()])``.

    Each task is one span from when it is checked to its end, whose parent is the span that the caller is in
    when he submits. One hook may serve several clients. No prompt, picture, URL, key or token is told; the
    ids of Kling and ours are, on spans alone.

    Args:
        tracer_provider: makes the spans; left out, the global one.
        meter_provider: makes the metrics; left out, the global one.
    """

    def __init__(
        self,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
    ) -> None:
        self._tracer = trace.get_tracer("kling_async", tracer_provider=tracer_provider)
        self._open: dict[str, _Open] = {}
        meter = metrics.get_meter("kling_async", meter_provider=meter_provider)

        def seconds(name: str, description: str) -> metrics.Histogram:
            return meter.create_histogram(
                name, "s", description, explicit_bucket_boundaries_advisory=BOUNDARIES
            )

        self._duration = seconds("gen_ai.client.operation.duration", "GenAI operation duration.")
        self._slot_wait = seconds("kling_async.slot.wait_time", "From being in line to leaving with a slot.")
        self._upload = seconds("kling_async.upload.duration", "From then to the acknowledgement.")
        self._generation = seconds("kling_async.generation.duration", "Generation, by Kling's clock.")
        self._delay = seconds("kling_async.detection.delay", "From the end at Kling until it was known here.")
        self._download = seconds("kling_async.download.duration", "From the call to the file on disk.")
        self._tasks = meter.create_counter("kling_async.tasks", "{task}", "Tasks that ended, by status.")
        self._polls = meter.create_counter("kling_async.polls", "{poll}", "Polls of tasks that ended.")
        self._retries = meter.create_counter("kling_async.retries", "{retry}", "Submits after the first.")
        self._units = meter.create_counter("kling_async.units", "{unit}", "Units that Kling deducted.")

    def __call__(self, event: Event, /) -> None:
        """Take note of *event*."""
        match event:
            case Polled():
                return  # first, since nearly every event is one of these
            case Checked():
                self._checked(event)
            case Submitted():
                self._submitted(event)
            case Ambiguous():
                self._delayed(event, "kling_async.task.ambiguous")
            case Retried():
                self._delayed(event, "kling_async.task.retried")
            case Completed():
                self._completed(event)
            case Detached():
                self._detached(event)
            case Saved():
                self._download.record(event.elapsed)
            case _:
                return

    def _checked(self, event: Checked) -> None:
        name = event.external_task_id or ""
        if name in self._open:  # another client of the same hook wants the same task
            return
        attributes = _attributes(event.provider, event.model_name)
        span = self._tracer.start_span(
            f"{OPERATION} {event.model_name}",
            kind=trace.SpanKind.CLIENT,
            attributes={
                **attributes,
                "gen_ai.output.type": "video",
                "kling_async.endpoint": event.endpoint,
                "kling_async.external_task_id": name,
            },
        )
        self._open[name] = _Open(span, attributes, asyncio.get_running_loop().time())

    def _submitted(self, event: Submitted) -> None:
        one = self._open.get(event.external_task_id or "")
        attributes = _attributes(None, event.model_name) if one is None else one.attributes
        self._slot_wait.record(event.slot_wait, attributes)
        self._upload.record(event.upload, attributes)
        if one is not None:
            one.span.set_attribute("kling_async.slot.wait_time", event.slot_wait)
            one.span.set_attribute("kling_async.upload.duration", event.upload)
            one.span.add_event("kling_async.task.submitted")

    def _delayed(self, event: Ambiguous | Retried, name: str) -> None:
        one = self._open.get(event.external_task_id or "")
        if one is not None:
            one.span.add_event(name, {"error.type": type(event.error).__name__})

    def _completed(self, event: Completed) -> None:
        one = self._open.pop(event.external_task_id or "", None)
        attributes = _attributes(event.provider, event.model_name) if one is None else one.attributes
        failed = {} if event.error is None else {"error.type": type(event.error).__name__}
        self._count(event, attributes)
        self._tasks.add(1, {**attributes, **failed, "kling_async.task.status": event.status.value})
        if event.generation is not None:
            self._generation.record(event.generation, attributes)
        if event.detection_delay is not None:
            self._delay.record(event.detection_delay, attributes)
        if event.units is not None:
            self._units.add(float(event.units), attributes)
        if one is None:
            return
        took = asyncio.get_running_loop().time() - one.began
        self._duration.record(took, {**attributes, **failed})
        for name, value in (
            ("kling_async.generation.duration", event.generation),
            ("kling_async.detection.delay", event.detection_delay),
            ("kling_async.units", None if event.units is None else float(event.units)),
        ):
            if value is not None:
                one.span.set_attribute(name, value)
        _end(one.span, event, event.error)

    def _detached(self, event: Detached) -> None:
        one = self._open.pop(event.external_task_id or "", None)
        self._count(event, _attributes(None, None) if one is None else one.attributes)
        if one is not None:  # that the client was closed is no error: the task goes on
            _end(one.span, event, event.error if isinstance(event.error, EngineError) else None)

    def _count(self, event: Completed | Detached, attributes: Attributes) -> None:
        self._polls.add(event.polls, attributes)
        self._retries.add(event.retries, attributes)


def _attributes(provider: Provider | None, model_name: str | None) -> Attributes:
    """What every measurement of a task is told with: few values each."""
    attributes: Attributes = {"gen_ai.operation.name": OPERATION}
    if provider is not None:
        url = urlsplit(provider.base_url)
        attributes["gen_ai.provider.name"] = provider.name
        attributes["server.address"] = url.hostname or ""
        attributes["server.port"] = url.port or (443 if url.scheme == "https" else 80)
    if model_name:
        attributes["gen_ai.request.model"] = model_name
    return attributes


def _end(span: trace.Span, event: Completed | Detached, error: KlingError | None) -> None:
    """End *span* as *event* tells of it."""
    span.set_attribute("kling_async.task.status", event.status.value)
    span.set_attribute("kling_async.polls", event.polls)
    span.set_attribute("kling_async.retries", event.retries)
    if event.task_id is not None:
        span.set_attribute("gen_ai.response.id", event.task_id)
    if error is not None:
        span.set_attribute("error.type", type(error).__name__)
        if isinstance(error, APIError):
            span.set_attribute("kling_async.error.code", error.code)
        span.set_status(trace.Status(trace.StatusCode.ERROR))
    span.end()
