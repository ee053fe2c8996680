"""Spans for OpenTelemetry, where it is installed; its own settings say where they go."""

from opentelemetry import trace
from opentelemetry.propagate import extract
from opentelemetry.trace import TracerProvider

from encas.serve.refusals import OK
from encas.serve.service import Observer, Record


class Spans(Observer):
    """A span for each request, below the caller's if it sent a `traceparent`, with one for each part."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        """Make spans with a provider; by default with the one of the process."""
        self._tracer = trace.get_tracer("encas.serve", tracer_provider=provider)

    def finished(self, record: Record) -> None:
        """Make the spans of a request, now that its times are known."""
        attributes: dict[str, str | int | list[int]] = {
            "encas.model": record.model,
            "encas.version": record.version,
            "encas.outcome": record.kind.reason,
            "encas.protocol": record.protocol,
            "encas.samples": record.n,
            "encas.macs": record.macs,
            "encas.gear": record.gear,
            "encas.exit_stages": list(record.exit_stages),
        }
        span = self._tracer.start_span(
            "encas.infer",
            context=extract(record.headers),
            kind=trace.SpanKind.SERVER,
            attributes=attributes,
            start_time=_ns(record.start_s),
        )
        if record.kind is not OK:
            span.set_status(trace.StatusCode.ERROR, record.kind.reason)
        if record.times is not None:
            inside, start_s = trace.set_span_in_context(span), record.start_s
            # In this order for the first stage; what later stages add is counted in.
            for name, s in (
                ("encas.preprocess", record.times.prepare_s),
                ("encas.queue", record.times.queue_s),
                ("encas.inference", record.times.run_s),
            ):
                part = self._tracer.start_span(name, context=inside, start_time=_ns(start_s))
                start_s += s
                part.end(_ns(start_s))
        span.end(_ns(record.start_s + record.total_s))


def _ns(seconds: float) -> int:
    return round(1e9 * seconds)
