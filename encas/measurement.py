"""What was measured on one machine: the time of networks, and of a whole cascade."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from encas.files import FileModel
from encas.pool import Latency


class Machine(FileModel):
    """Where something was measured; measurements of different machines are never mixed."""

    name: str  # the identity that a pool stores: the GPU, or the processor and its cores
    cpu: str
    cores: int = Field(ge=1)  # that the process may use
    gpu: str | None = None
    onnxruntime: str


class Timing(FileModel):
    """Time of one call on a whole batch, over several calls."""

    median: float = Field(gt=0)
    p95: float = Field(gt=0)
    n: int = Field(ge=1)
    noise: float | None = Field(default=None, ge=0)  # spread of the medians of five parts, over the median


class BatchTiming(FileModel):
    """How long one batch takes."""

    batch: int = Field(ge=1)
    latency_s: Timing  # of a network: the session alone; of a cascade: from the images to the answers
    overhead_s: float = Field(default=0, ge=0)  # what the executor adds to a stage
    prepare_s: float = Field(default=0, ge=0)  # of all images, from decoded ones to what the network takes
    decode_s: float = Field(default=0, ge=0)  # of all images
    gain_s: float = Field(default=0, ge=0)  # how much less it all takes if the same network has just run
    memory_bytes: int | None = Field(default=None, ge=0)  # that a network holds, its weights included
    energy_j: float | None = Field(default=None, ge=0)  # of the whole NVIDIA device, per sample

    @property
    def per_second(self) -> float:
        """Samples per second at the median."""
        return self.batch / self.latency_s.median


class Measurements(FileModel):
    """Times of networks on one provider."""

    format: Literal["encas-measurements/1"] = "encas-measurements/1"
    machine: Machine
    provider: str
    precision: str = "fp32"
    precisions: Mapping[str, str] = Field(default_factory=dict)  # of members that compute in another one
    members: Mapping[str, tuple[BatchTiming, ...]]

    def latencies(self) -> dict[str, tuple[Latency, ...]]:
        """Return what `Pool.with_latency` takes."""
        return {
            name: tuple(
                Latency(
                    machine=self.machine.name,
                    provider=self.provider,
                    precision=self.precisions.get(name, self.precision),
                    onnxruntime=self.machine.onnxruntime,
                    batch=entry.batch,
                    latency_s=entry.latency_s.median,
                    p95_s=entry.latency_s.p95,
                    n=entry.latency_s.n,
                    overhead_s=entry.overhead_s,
                    prepare_s=entry.prepare_s,
                    decode_s=entry.decode_s,
                    gain_s=entry.gain_s,
                    noise=entry.latency_s.noise,
                    memory_bytes=entry.memory_bytes,
                    energy_j=entry.energy_j,
                )
                for entry in entries
            )
            for name, entries in self.members.items()
        }


class CascadeMeasurement(FileModel):
    """What a bundle does with real images on one machine."""

    format: Literal["encas-cascade-measurement/1"] = "encas-cascade-measurement/1"
    bundle: str
    n: int = Field(ge=1)  # images
    macs: float = Field(ge=0)  # mean per image, of the rows that were really run
    stage_rows: tuple[int, ...]  # images that each stage was run on
    exit_fractions: tuple[float, ...]
    accuracy: float | None = None  # where the labels are known
    batches: tuple[BatchTiming, ...]  # from the images as they were given to the answers
    peak_bytes: int | None = None  # most memory that the process had held when the cascade was timed
    energy_j: float | None = None  # per image, of the NVIDIA device; None where the driver does not say
    members: tuple[Measurements, ...]  # one for each precision
