"""The extension `statistics`: what each model has done since the server started."""

import threading
from collections import defaultdict
from dataclasses import dataclass, field

from encas.bundle import Bundle
from encas.files import FileModel
from encas.serve.engine import BatchReport
from encas.serve.service import Observer, Record


class Duration(FileModel):
    """How often, and how long in sum."""

    count: int
    ns: int


class InferStatistics(FileModel):
    """Durations of requests; those of parts are of answered requests."""

    success: Duration
    fail: Duration
    queue: Duration
    compute_input: Duration  # decoding and resizing
    compute_infer: Duration  # the batches that a request was in
    compute_output: Duration


class BatchStatistics(FileModel):
    """How often a batch size ran, over all stages."""

    batch_size: int
    compute_infer: Duration


class StageStatistics(FileModel):
    """What a cascade has besides: samples that reached a stage, and that left after it."""

    gear: int
    stage: int
    member: str
    reached: int
    left: int
    compute_infer: Duration


class ModelStatistics(FileModel):
    """All of one version of a model."""

    name: str
    version: str
    last_inference: int  # milliseconds of the epoch
    inference_count: int  # samples
    execution_count: int  # batches
    inference_stats: InferStatistics
    batch_stats: tuple[BatchStatistics, ...]
    stage_stats: tuple[StageStatistics, ...]


@dataclass
class _Sum:
    count: int = 0
    s: float = 0.0

    def add(self, s: float) -> None:
        self.count += 1
        self.s += s

    def total(self) -> Duration:
        return Duration(count=self.count, ns=round(1e9 * self.s))


@dataclass
class _Counts:
    last_s: float = 0.0
    n_samples: int = 0
    sums: defaultdict[str, _Sum] = field(default_factory=lambda: defaultdict(_Sum))
    batches: defaultdict[int, _Sum] = field(default_factory=lambda: defaultdict(_Sum))
    stages: defaultdict[tuple[int, int], _Sum] = field(default_factory=lambda: defaultdict(_Sum))
    reached: defaultdict[tuple[int, int], int] = field(default_factory=lambda: defaultdict(int))
    left: defaultdict[tuple[int, int], int] = field(default_factory=lambda: defaultdict(int))


class Statistics(Observer):
    """Counts by name and version of a model."""

    def __init__(self) -> None:
        """Start at zero."""
        self._counts: defaultdict[tuple[str, str], _Counts] = defaultdict(_Counts)
        self._lock = threading.Lock()

    def finished(self, record: Record) -> None:
        """Count a request; one that nobody answered counts for no version."""
        with self._lock:
            counts = self._counts[record.model, record.version]
            if record.times is None:
                counts.sums["fail"].add(record.total_s)
                return
            times = record.times
            counts.last_s = record.start_s + record.total_s
            counts.n_samples += record.n
            inside_s = times.queue_s + times.prepare_s + times.run_s
            for name, s in (
                ("success", record.total_s),
                ("queue", times.queue_s),
                ("compute_input", times.prepare_s),
                ("compute_infer", times.run_s),
                ("compute_output", max(0.0, record.total_s - inside_s)),
            ):
                counts.sums[name].add(s)

    def ran(self, bundle: Bundle, report: BatchReport) -> None:
        """Count a batch."""
        with self._lock:
            counts = self._counts[bundle.name, bundle.file.version]
            counts.batches[report.n].add(report.run_s)
            place = (report.gear, report.stage)
            counts.stages[place].add(report.run_s)
            counts.reached[place] += report.n
            counts.left[place] += int(report.leaves.sum())

    def of(self, bundle: Bundle) -> ModelStatistics:
        """Say what a version of a model has done."""
        name, version = bundle.name, bundle.file.version
        with self._lock:
            counts, failed = self._counts[name, version], self._counts[name, ""]
            sums = counts.sums
            return ModelStatistics(
                name=name,
                version=version,
                last_inference=round(1e3 * counts.last_s),
                inference_count=counts.n_samples,
                execution_count=sum(batch.count for batch in counts.batches.values()),
                inference_stats=InferStatistics(
                    success=sums["success"].total(),
                    fail=failed.sums["fail"].total(),
                    queue=sums["queue"].total(),
                    compute_input=sums["compute_input"].total(),
                    compute_infer=sums["compute_infer"].total(),
                    compute_output=sums["compute_output"].total(),
                ),
                batch_stats=tuple(
                    BatchStatistics(batch_size=size, compute_infer=counts.batches[size].total())
                    for size in sorted(counts.batches)
                ),
                stage_stats=tuple(
                    StageStatistics(
                        gear=number,
                        stage=stage,
                        member=member,
                        reached=counts.reached[number, stage],
                        left=counts.left[number, stage],
                        compute_infer=counts.stages[number, stage].total(),
                    )
                    for number, gear in enumerate(bundle.gears)
                    for stage, member in enumerate(gear.member_names)
                ),
            )
