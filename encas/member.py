"""A member: one network of a pool, with what it costs and where its recorded outputs lie."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from encas.files import FileModel
from encas.preprocess import Preprocess

NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.+#@=-]{0,199}$"  # also a file name
Precision = Literal["fp32", "fp16", "int8"]


class Latency(FileModel):
    """One timing of one member."""

    machine: str
    provider: str
    precision: str = "fp32"  # of the network that was timed
    onnxruntime: str | None = None  # its version; None in pools of before it was kept
    batch: int = Field(ge=1)
    latency_s: float = Field(gt=0)  # median time of one call on a whole batch
    p95_s: float = Field(gt=0)
    n: int = Field(ge=1)  # calls timed
    overhead_s: float = Field(default=0, ge=0)  # what the executor adds to a call
    prepare_s: float = Field(default=0, ge=0)  # from decoded images to what the network takes, all of a batch
    decode_s: float = Field(default=0, ge=0)  # from the images as they come to decoded ones
    gain_s: float = Field(default=0, ge=0)  # how much less it all takes if the same network has just run
    noise: float | None = Field(default=None, ge=0)  # spread of the rounds' medians, as a share of the median
    memory_bytes: int | None = Field(default=None, ge=0)  # that the network holds, its weights included
    energy_j: float | None = Field(default=None, ge=0)  # of the whole NVIDIA device, per sample


class Outputs(FileModel):
    """What a member answered on one split."""

    probs: str  # file of (n, c) float16 probabilities, relative to the pool
    sha256: str
    engine: str  # what computed them
    logit_gap: str | None = None  # file of (n,) float32 differences between the two largest logits


class Variant(FileModel):
    """How a member was made out of another one, see `encas pool quantize` and `encas pool temper`."""

    of: str  # the member whose network it was
    sha256: str | None = None  # of the file that its weights came from
    calibration: int = Field(default=0, ge=0)  # images that the ranges of an int8 network come from
    split: str | None = None  # where they are from, or where the temperature is
    temperature: float | None = Field(default=None, gt=0)  # that its logits are divided by


class Member(FileModel):
    """One network of a pool."""

    name: str = Field(pattern=NAME)
    source: str  # as timm:NAME (docs/command-line.md has them all), or "imported"
    weights: str | None = None
    sha256: str | None = None  # of the file that its weights came from
    macs: int = Field(ge=0)  # multiply-accumulates for one sample
    params: int | None = Field(default=None, ge=0)
    preprocess: Preprocess | None = None  # None for imported outputs
    precision: Precision = (
        "fp32"  # what the network computes in; latencies of other precisions are not its own
    )
    variant: Variant | None = None
    latency: tuple[Latency, ...] = ()
    outputs: Mapping[str, Outputs] = Field(default_factory=dict)
