"""Tells OpenTelemetry of a run: a span for it, for each pass and for each committed shard."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pipeline.callbacks.listener import Listener, register
from pipeline.events import (
    NotFinite,
    PassFinished,
    PassStarted,
    RunFinished,
    RunStarted,
    ScanFinished,
    ShardCommitted,
    ShardFailed,
    ShardQuarantined,
    StageFinished,
    WorkerLogged,
    WorkerLost,
    record,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.config import RunConfig
    from pipeline.events import Event

_NOTED = (ShardFailed, ShardQuarantined, WorkerLost, WorkerLogged, NotFinite)
_NOTED_OF_RUN = (ScanFinished, StageFinished)
_DONE = (0, 4, 5)
"""Exit codes of runs that came to their end."""


@register("opentelemetry")
@dataclass(frozen=True)
class Opentelemetry(Listener):
    """Spans by OTLP over HTTP; where to is said by the usual variables ``OTEL_EXPORTER_OTLP_*``.

    A ``TRACEPARENT`` in the environment, from CI or a scheduler, is what the run is a part of.
    """

    service: str = "xpipe"
    """``service.name`` of the spans, unless ``OTEL_SERVICE_NAME`` is set."""

    extra: ClassVar[str] = "opentelemetry"
    library: ClassVar[str] = "opentelemetry.sdk.trace"

    def open(self, config: RunConfig, path: str) -> Spans:
        """Return the callback for one start of a run."""
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        return self.spans(config, path, BatchSpanProcessor(OTLPSpanExporter()))

    def spans(self, config: RunConfig, path: str, processor: Any) -> Spans:
        """Return the callback, with spans going to a processor of OpenTelemetry's."""
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider

        named = os.environ.get("OTEL_SERVICE_NAME", self.service)
        # a provider of its own: the process's belongs to whoever embeds us
        provider = TracerProvider(
            resource=Resource.create({"service.name": named}), shutdown_on_exit=False
        )
        provider.add_span_processor(processor)
        return Spans(provider, config.name, path)


class Spans:
    """The spans of one start of a run.

    Parameters
    ----------
    provider
        OpenTelemetry's, of this start alone.
    name
        The run's.
    path
        Folder of the run.
    """

    def __init__(self, provider: Any, name: str, path: str) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("xpipe")
        self._run = self._tracer.start_span(
            f"run {name}",
            context=_parent(),
            attributes={"xpipe.run": name, "xpipe.path": path},
        )
        self._pass: Any = None

    def __call__(self, event: Event) -> None:
        """Take notice of an event."""
        match event:
            case RunStarted():
                self._run.set_attributes(attributes(event))
            case PassStarted():
                self._pass = self._child(f"pass {event.pass_name}", self._run, attributes(event))
            case ShardCommitted():
                self._shard(event, event.seconds)
            case PassFinished():
                self._end_pass(event)
            case RunFinished():
                self._finish(event)
            case _ if isinstance(event, _NOTED + _NOTED_OF_RUN):
                self._note(event)

    def close(self) -> None:
        """End what is open, and send what was not sent."""
        if self._pass is not None:
            self._pass.end()
        self._run.end()
        self._provider.shutdown()

    def _shard(self, event: ShardCommitted, seconds: float) -> None:
        # told when it is over: its beginning follows from how long it took
        now = time.time_ns()
        span = self._child(
            f"shard {event.shard}",
            self._pass or self._run,
            attributes(event),
            start_time=now - int(seconds * 1e9),
        )
        span.end(now)

    def _end_pass(self, event: PassFinished) -> None:
        if self._pass is not None:
            self._pass.set_attributes(attributes(event))
            self._pass.end()
            self._pass = None

    def _finish(self, event: RunFinished) -> None:
        from opentelemetry.trace import Status, StatusCode

        self._run.set_attributes(attributes(event))
        is_done = event.exit_code in _DONE
        self._run.set_status(
            Status(StatusCode.OK) if is_done else Status(StatusCode.ERROR, event.message)
        )

    def _note(self, event: Event) -> None:
        # belongs to the pass, where one goes on
        is_of_pass = isinstance(event, _NOTED) and self._pass is not None
        span = self._pass if is_of_pass else self._run
        span.add_event(record(event)["event"], attributes(event))

    def _child(self, name: str, parent: Any, values: Mapping[str, Any], **times: int) -> Any:
        from opentelemetry.trace import set_span_in_context

        return self._tracer.start_span(
            name, context=set_span_in_context(parent), attributes=values, **times
        )


def attributes(event: Event) -> dict[str, str | int | float | bool]:
    """Return an event's fields as attributes, such as ``xpipe.shard``, ``xpipe.error.message``."""
    from pipeline.callbacks.tracking import flattened

    values = {key: value for key, value in record(event).items() if key != "event"}
    return {f"xpipe.{key}": value for key, value in flattened(values)}


def _parent() -> Any:
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    given = {"traceparent": os.environ.get("TRACEPARENT", "")}
    return TraceContextTextMapPropagator().extract(given)
