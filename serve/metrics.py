"""Metrics for Prometheus: seconds and counts of requests, and what only a cascade has."""

import os
from collections.abc import Callable
from functools import lru_cache

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

from encas.bundle import Bundle
from encas.gears import figures_of
from encas.serve.alarms import DriftState
from encas.serve.answering import Answering
from encas.serve.engine import BatchReport
from encas.serve.service import Event, Observer, Record, Service

SHARED_FOLDER = (
    "PROMETHEUS_MULTIPROC_DIR"  # where several processes count together; set before this is imported
)
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_CONFIDENCES = tuple(tenth / 10 for tenth in range(1, 11))


class Metrics(Observer):
    """Counts into a registry of its own, or with the other workers of a server into one folder."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        """Start at zero."""
        self._registry = registry = CollectorRegistry()
        model, stage, gear = ("model",), ("model", "gear", "stage"), ("model", "gear")

        def seconds(name: str, text: str) -> Histogram:
            return Histogram(name, text, model, buckets=_SECONDS, registry=registry)

        self._requests = Counter(
            "encas_requests", "Requests by how they ended", ("model", "protocol", "reason"), registry=registry
        )
        self._total_s = seconds("encas_request_seconds", "From the head of a request to its answer")
        self._queue_s = seconds("encas_queue_seconds", "Spent waiting for the networks")
        self._prepare_s = seconds("encas_preprocess_seconds", "Spent decoding and resizing")
        self._run_s = seconds("encas_inference_seconds", "Spent in the batches of the networks")
        self._samples = Counter("encas_samples", "Samples that were answered", model, registry=registry)
        self._macs = Counter(
            "encas_macs", "Multiply-accumulates of answered samples", model, registry=registry
        )
        self._reached = Counter(
            "encas_stage_samples", "Samples that a stage has run on", stage, registry=registry
        )
        self._left = Counter("encas_stage_exits", "Samples that left after a stage", stage, registry=registry)
        self._stage_s = Counter(
            "encas_stage_seconds", "Time in the network of a stage", stage, registry=registry
        )
        self._sizes = Histogram(
            "encas_batch_size", "Samples that ran together", stage, buckets=_SIZES, registry=registry
        )
        self._confidence = Histogram(
            "encas_confidence",
            "Confidence of samples after a stage",
            stage,
            buckets=_CONFIDENCES,
            registry=registry,
        )
        self._gear_samples = Counter(
            "encas_gear_samples", "Samples that were answered in a gear", gear, registry=registry
        )
        self._gear = Gauge(
            "encas_gear",
            "The gear in use; 0 is the best",
            model,
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._gear_shifts = Gauge(
            "encas_gear_shifts",
            "Changes of gear since the start",
            model,
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._gear_accuracy = Gauge(
            "encas_gear_accuracy",
            "Share of right answers of a gear, as the front knows it",
            gear,
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._gear_macs = Gauge(
            "encas_gear_macs",
            "Mean multiply-accumulates of a gear, as the front knows them",
            gear,
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._drift = Gauge(
            "encas_drift_alarm",
            "1 while samples are not as they were when the bundle was exported",
            model,
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._evidence = Gauge(
            "encas_drift_evidence",
            "Evidence of drift in this window, a logarithm to base 10",
            model,
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._alarms = Counter("encas_drift_alarms", "Alarms", ("model", "kind"), registry=registry)
        self._rechecked = Counter(
            "encas_rechecked", "Samples that ran through all stages", gear, registry=registry
        )
        self._disagreed = Counter(
            "encas_rechecked_otherwise",
            "Of these, those that were answered otherwise than by all stages",
            gear,
            registry=registry,
        )
        self._pending = Gauge(
            "encas_pending_requests",
            "Requests without an answer yet",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._ready = Gauge(
            "encas_ready", "Workers that are ready", registry=registry, multiprocess_mode="livesum"
        )
        self._service: Service | None = None
        self._drift_of: Callable[[Bundle], DriftState] | None = None
        self._shown: list[Bundle] = []  # whose accuracies are told

    def watch(self, service: Service, drift_of: Callable[[Bundle], DriftState] | None = None) -> None:
        """Read what is counted elsewhere from here on."""
        self._service, self._drift_of = service, drift_of

    def finished(self, record: Record) -> None:
        """Count a request."""
        self._refresh_counts()
        self._requests.labels(record.model, record.protocol, record.kind.reason).inc()
        if record.times is None:
            return
        total_s, queue_s, prepare_s, run_s, samples, macs = self._of_model(record.model)
        total_s.observe(record.total_s)
        queue_s.observe(record.times.queue_s)
        prepare_s.observe(record.times.prepare_s)
        run_s.observe(record.times.run_s)
        samples.inc(record.n)
        self._of_gear(record.model, record.gear).inc(record.n)
        macs.inc(record.macs)

    def ran(self, bundle: Bundle, report: BatchReport) -> None:
        """Count a batch."""
        reached, left, stage_s, sizes, confidence = self._of_stage(bundle.name, report.gear, report.stage)
        reached.inc(report.n)
        left.inc(int(report.leaves.sum()))
        stage_s.inc(report.run_s)
        sizes.observe(report.n)
        for value in report.confidence.tolist():
            confidence.observe(value)

    def rechecked(self, bundle: Bundle, gear: int, *, agrees: bool) -> None:
        """Count a sample that ran through all stages."""
        self._rechecked.labels(bundle.name, str(gear)).inc()
        self._disagreed.labels(bundle.name, str(gear)).inc(not agrees)

    def noticed(self, event: Event) -> None:
        """Count an alarm."""
        self._alarms.labels(event.model, event.kind).inc()

    def text(self) -> bytes:
        """Write everything in Prometheus's text format."""
        self.refresh()
        if SHARED_FOLDER not in os.environ:
            return generate_latest(self._registry)
        together = CollectorRegistry()
        MultiProcessCollector(together)  # type: ignore[no-untyped-call]
        return generate_latest(together)

    def refresh(self) -> None:
        """Set what is not counted; of several workers one alone is asked, so each does it in good time."""
        self._refresh_counts()
        if self._service is not None:
            for served in self._service.models.all():
                if served.engine is not None:
                    self._show_gear(served.bundle, served.engine)
                if self._drift_of is not None:
                    found = self._drift_of(served.bundle)
                    self._drift.labels(served.bundle.name).set(found.alarm)
                    self._evidence.labels(served.bundle.name).set(found.evidence)

    def _refresh_counts(self) -> None:
        if self._service is not None:
            self._pending.set(self._service.n_open)
            self._ready.set(self._service.ready)

    def _show_gear(self, bundle: Bundle, engine: Answering) -> None:
        self._gear.labels(bundle.name).set(engine.gear)
        self._gear_shifts.labels(bundle.name).set(engine.n_shifts)
        if bundle not in self._shown:
            self._shown = [*self._shown[-15:], bundle]
            found = figures_of(bundle.gears)
            for number, figures in enumerate(found[1] if found else ()):
                self._gear_accuracy.labels(bundle.name, str(number)).set(figures.accuracy)
                self._gear_macs.labels(bundle.name, str(number)).set(figures.macs)

    @lru_cache  # noqa: B019  # one of these lives as long as its server
    def _of_model(self, model: str) -> tuple[Histogram, Histogram, Histogram, Histogram, Counter, Counter]:
        return (
            self._total_s.labels(model),
            self._queue_s.labels(model),
            self._prepare_s.labels(model),
            self._run_s.labels(model),
            self._samples.labels(model),
            self._macs.labels(model),
        )

    @lru_cache  # noqa: B019
    def _of_gear(self, model: str, gear: int) -> Counter:
        return self._gear_samples.labels(model, str(gear))

    @lru_cache  # noqa: B019
    def _of_stage(
        self, model: str, gear: int, stage: int
    ) -> tuple[Counter, Counter, Counter, Histogram, Histogram]:
        names = (model, str(gear), str(stage))
        return (
            self._reached.labels(*names),
            self._left.labels(*names),
            self._stage_s.labels(*names),
            self._sizes.labels(*names),
            self._confidence.labels(*names),
        )
