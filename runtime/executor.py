"""Running a bundle: every stage sees only the samples that no stage before it was sure of."""

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from encas.bundle import Bundle, BundleMember
from encas.cascade import Answers, Cascade, Rows, run_cascade
from encas.errors import InvalidInput
from encas.pool import SUM_TOLERANCE
from encas.runtime.buckets import MAX_BUCKET, Buckets, Uploads, on_device, open_buckets
from encas.runtime.images import DEFAULT_LIMITS, AnyImage, Limits
from encas.runtime.inputs import Decoding, Inputs, Threads
from encas.runtime.preprocess import Tensor
from encas.runtime.session import Session, choose_provider, open_session

# n images; or all of them in one uint8 array, (n, h, w) or (n, h, w, 3); or a ready float32 tensor.
Images = Sequence[AnyImage] | NDArray[np.uint8] | NDArray[np.float32]

_WARM_UP_SIDE = 97  # of an image that no network takes as it is, and large enough for compiled resizing


class Runner(Protocol):
    """Runs one member: a session, the buckets of one, or what asks a session elsewhere."""

    def run(self, tensor: Tensor) -> NDArray[np.float32]:
        """Return (n, c) probabilities of (n, channels, height, width) samples."""
        ...


@dataclass(frozen=True)
class Trace:
    """What one call of the executor really did."""

    rows: tuple[int, ...]  # (k,) samples that each stage's member was run on
    run_s: tuple[float, ...]  # (k,) time inside ONNX Runtime
    n_resized: int  # tensors made from images; each distinct preprocessing of an image counts
    macs: int  # of all rows that ran


class CascadeExecutor:
    """A bundle, opened to be run; a context manager, or call `close`.

    `run` may be called from several threads: a call keeps what it works on to itself.
    """

    def __init__(
        self,
        bundle: Bundle | Path | str,
        provider: str | None = None,
        clock: Callable[[], float] = time.perf_counter,
        *,
        max_bucket: int | None = None,
        cuda_graphs: bool = False,
        limits: Limits = DEFAULT_LIMITS,
        open_member: Callable[[BundleMember], Runner] | None = None,
    ) -> None:
        """Open a session for each distinct member.

        Args:
            bundle: An open bundle, or its folder, which is then verified.
            provider: "cpu", "cuda" or "tensorrt"; None takes the first of cuda and cpu that works.
            clock: Times the sessions for `run_traced`.
            max_bucket: Samples of the largest batch that memory is set aside for; batches are padded to
                powers of two below, and survivors are gathered on the device. By default 64 on a GPU; a CPU
                gains nothing from it, and by default does without.
            cuda_graphs: Capture every such batch as a CUDA graph; a try, see docs/latency.md.
            limits: Of the images that are decoded.
            open_member: Finds what runs a member, where that is not a session of this process.

        Raises:
            InvalidInput: The bundle is broken, or the provider does not work here.
        """
        self.bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
        self.provider = choose_provider(provider)
        self._clock = clock
        self._threads = Threads()
        self._decoding = Decoding(limits)
        self._max_bucket = MAX_BUCKET if max_bucket is None and self.provider != "cpu" else max_bucket
        self._cuda_graphs = cuda_graphs
        self._open_member = open_member
        self._runners: dict[str, Runner] = {}
        self._take(self.bundle)

    def _take(self, bundle: Bundle) -> None:
        """Run this bundle's cascade from now on; members that are not open yet are opened."""
        self.bundle = bundle
        self._members = bundle.stage_members
        self._macs = [member.macs for member in self._members]
        self._specs = list(dict.fromkeys(member.preprocess for member in self._members))  # the distinct ones
        self._spec_of = [self._specs.index(member.preprocess) for member in self._members]
        for name in dict.fromkeys(bundle.cascade.member_names):
            if name not in self._runners:
                self._runners[name] = (self._open_member or self._open)(bundle.member(name))

    def __enter__(self) -> "CascadeExecutor":
        """Be closed at the end of the block."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def geared(self, cascade: Cascade) -> Self:
        """Return an executor of another cascade of the bundle, with the same sessions and threads.

        Whichever of them is closed, all are.
        """
        made = copy.copy(self)
        made._take(replace(self.bundle, cascade=cascade, cheaper=()))
        return made

    def close(self) -> None:
        """Let go of the sessions; the executor cannot run any more."""
        self._runners.clear()
        self._threads.close()

    def warm_up(self, most: int) -> None:
        """Run every stage on `most` samples and on one, so that memory for any number in between is there.

        On a CPU the first call of every size up to `most` then takes about as long as later ones. What
        resizes images is loaded too, and compiled if it never was.

        Raises:
            InvalidInput: A member does not answer with probabilities.
        """
        image = self.inputs(np.zeros((1, _WARM_UP_SIDE, _WARM_UP_SIDE, 3), np.uint8))
        for which in range(len(self._specs)):
            image.prepared(which, np.zeros(1, np.intp))
        for stage, member in enumerate(self._members):
            samples = np.zeros((most, *member.preprocess.shape), np.float32)
            runner = self._runners[member.name]
            if isinstance(runner, Buckets):
                runner.warm_up()
            for n in (most, 1):
                self._check(runner.run(samples[:n]), stage, np.arange(n))

    @property
    def runners(self) -> dict[str, Session | Buckets]:
        """What runs each member in this process, by its name."""
        here = (Session, Buckets)
        return {name: runner for name, runner in self._runners.items() if isinstance(runner, here)}

    def run(self, images: Images) -> Answers:
        """Answer a batch; see `Images` for what it may be.

        Raises:
            InvalidInput: An image that cannot be read, or a tensor that does not fit; nothing is answered.
        """
        return self.run_traced(images)[0]

    def run_traced(self, images: Images) -> tuple[Answers, Trace]:
        """Answer a batch, and say what was really run for it."""
        if not self._runners:
            raise ValueError("the executor is closed")
        inputs = self.inputs(images)
        uploads = Uploads(inputs)
        rows, run_s = [0] * len(self._members), [0.0] * len(self._members)

        def member_probs(stage: int, active: Rows) -> NDArray[np.float32]:
            if len(active) == 0:
                return np.empty((0, len(self.bundle.labels)), np.float32)
            runner, which = self._runners[self._members[stage].name], self._spec_of[stage]
            if isinstance(runner, Buckets):
                source, places = uploads.source(which, active, runner)
                start_s = self._clock()
                probs = runner.run_rows(source, places)
            else:
                tensor = inputs.tensor(which, active)
                start_s = self._clock()
                probs = runner.run(tensor)
            run_s[stage] = self._clock() - start_s
            rows[stage] = len(active)
            self._check(probs, stage, active)
            return probs

        answers = run_cascade(self.bundle.cascade, member_probs, inputs.n, self._macs)
        macs = sum(n * cost for n, cost in zip(rows, self._macs, strict=True))
        return answers, Trace(tuple(rows), tuple(run_s), inputs.n_resized, macs)

    def inputs(self, images: Images) -> Inputs:
        """Take the images of one call; they are decoded and prepared when they are asked for.

        Raises:
            InvalidInput: As `run`.
        """
        if isinstance(images, (str, bytes, Path)):
            raise InvalidInput("images: one image was given; put it into a list")
        if not isinstance(images, np.ndarray):
            return Inputs(self._specs, list(images), self._threads, self._decoding)
        if images.dtype == np.uint8:
            return Inputs(self._specs, _checked_pixels(images), self._threads)
        return self._ready(images)

    @property
    def preparation_of(self) -> tuple[int, ...]:
        """(k,) which preprocessing each stage wants; stages with the same number share their tensors."""
        return tuple(self._spec_of)

    def run_stage(self, stage: int, tensor: Tensor) -> NDArray[np.float32]:
        """Run the member of one stage on prepared samples, which may be those of several calls.

        A sample that holds what a network cannot digest gets NaN or infinity, and the others their
        probabilities.
        """
        name = self._members[stage].name
        runner = self._runners.get(name)
        if runner is None:
            raise ValueError("the executor is closed")
        probs = runner.run(tensor)
        self._check_shape(probs, stage, len(tensor))
        return probs

    def not_finite(self, stage: int, row: int) -> InvalidInput:
        """Say that a member answered no probabilities for an image."""
        return InvalidInput(
            f"{self.bundle.path}: '{self._members[stage].name}' answered NaN or infinity for image {row}; "
            "probabilities are needed (does the image hold NaN?)"
        )

    def _open(self, member: BundleMember) -> Session | Buckets:
        session = on_device(self.provider, lambda: self._session(member))
        if self._max_bucket is None:
            return session
        return open_buckets(
            session,
            self.bundle.path / member.file,
            member.preprocess.shape,
            len(self.bundle.labels),
            self._max_bucket,
            graphs=self._cuda_graphs,
        )

    def _session(self, member: BundleMember) -> Session:
        path = self.bundle.path / member.file
        session = open_session(
            self.bundle.content(member.file), self.provider, member.output, place=str(path)
        )
        found = tuple(session.sample_shape)
        if any(
            side not in (None, wanted) for side, wanted in zip(found, member.preprocess.shape, strict=True)
        ):
            raise InvalidInput(
                f"{path}: takes samples of {found}, bundle.json says {member.preprocess.shape}"
            )
        if session.batch is not None:
            raise InvalidInput(f"{path}: takes exactly {session.batch} samples; a free batch axis is needed")
        if session.n_outputs not in (None, len(self.bundle.labels)):
            raise InvalidInput(
                f"{path}: answers {session.n_outputs} classes, labels.json names {len(self.bundle.labels)}"
            )
        return session

    def _ready(self, tensor: NDArray[Any]) -> Inputs:
        """Take a tensor that the caller has prepared, which can only suit members that agree."""
        if len(self._specs) != 1:
            raise InvalidInput(
                f"images: the {len(self._members)} stages prepare images in "
                f"{len(self._specs)} different ways; "
                "give images (bytes, paths or uint8 pixels), not one prepared tensor"
            )
        (spec,) = self._specs
        if tensor.dtype != np.float32 or tensor.ndim != 4 or tensor.shape[1:] != spec.shape:
            raise InvalidInput(
                f"images: a prepared tensor must be float32 of shape (n, {', '.join(map(str, spec.shape))}), "
                f"is {tensor.dtype} of {tensor.shape}"
            )
        return Inputs.ready(spec, tensor, self._threads)

    def _check(self, probs: NDArray[np.float32], stage: int, active: Rows) -> None:
        self._check_shape(probs, stage, len(active))
        # One number, since this stands between every two stages; only if it is wrong, which row it was.
        if abs(float(probs.sum()) - len(active)) <= SUM_TOLERANCE * len(active):
            return
        sums = probs.sum(axis=1)
        if not np.isfinite(sums).all():
            raise self.not_finite(stage, active[~np.isfinite(sums)][0])
        worst = int(np.abs(sums - 1).argmax())
        raise InvalidInput(
            f"{self.bundle.path}: '{self._members[stage].name}' answered numbers that sum to "
            f"{sums[worst]:.3g} for image {active[worst]}, not to 1; a member must end in a softmax"
        )

    def _check_shape(self, probs: NDArray[np.float32], stage: int, n: int) -> None:
        expected = (n, len(self.bundle.labels))
        if probs.shape != expected:
            name = self._members[stage].name
            raise InvalidInput(f"{self.bundle.path}: '{name}' answered {probs.shape}, not {expected}")


def open_executor(
    bundle: Bundle | Path | str, provider: str | None = None, *, limits: Limits = DEFAULT_LIMITS
) -> CascadeExecutor:
    """Open a bundle to answer with, on a provider that its members are made for.

    An export is checked on a CPU whatever its precision, which `CascadeExecutor` allows.

    Raises:
        InvalidInput: As `CascadeExecutor`, or a member in fp16 would run on a CPU.
    """
    provider = choose_provider(provider)
    bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    half = next((member.name for member in bundle.gear_members if member.precision == "fp16"), None)
    if provider == "cpu" and half is not None:
        raise InvalidInput(
            f"{bundle.path}: member '{half}' is in fp16, which a CPU computes slower than fp32; use "
            "--provider cuda, or export a cascade of fp32 and int8 members"
        )
    return CascadeExecutor(bundle, provider, limits=limits)


def _checked_pixels(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    gray, colour = pixels.ndim == 3 and pixels.shape[2] != 3, pixels.ndim == 4 and pixels.shape[3] == 3
    if not (gray or colour):
        raise InvalidInput(
            "images: pixels must be uint8 of shape (n, height, width) or (n, height, width, 3), are of "
            f"{pixels.shape}" + ("; put a single image into a list" if pixels.ndim in (2, 3) else "")
        )
    return pixels
