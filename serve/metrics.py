"""Metrics for Prometheus: seconds and counts of requests, and what only a cascade has."""

import os
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
from encas.serve.engine import BatchReport
from encas.serve.service import Observer, Record, Service

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
        model, stage = ("model",), ("model", "stage")

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

    def watch(self, service: Service) -> None:
        """Read what is counted elsewhere from here on."""
        self._service = service

    def finished(self, record: Record) -> None:
        """Count a request."""
        self.refresh()
        self._requests.labels(record.model, record.protocol, record.kind.reason).inc()
        if record.times is None:
            return
        total_s, queue_s, prepare_s, run_s, samples, macs = self._of_model(record.model)
        total_s.observe(record.total_s)
        queue_s.observe(record.times.queue_s)
        prepare_s.observe(record.times.prepare_s)
        run_s.observe(record.times.run_s)
        samples.inc(record.n)
        macs.inc(record.macs)

    def ran(self, bundle: Bundle, report: BatchReport) -> None:
        """Count a batch."""
        reached, left, stage_s, sizes, confidence = self._of_stage(bundle.name, report.stage)
        reached.inc(report.n)
        left.inc(int(report.leaves.sum()))
        stage_s.inc(report.run_s)
        sizes.observe(report.n)
        for value in report.confidence.tolist():
            confidence.observe(value)

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
        if self._service is not None:
            self._pending.set(self._service.n_open)
            self._ready.set(self._service.ready)

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
    def _of_stage(self, model: str, stage: int) -> tuple[Counter, Counter, Counter, Histogram, Histogram]:
        name = str(stage)
        return (
            self._reached.labels(model, name),
            self._left.labels(model, name),
            self._stage_s.labels(model, name),
            self._sizes.labels(model, name),
            self._confidence.labels(model, name),
        )
