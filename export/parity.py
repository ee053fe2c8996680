"""Whether what was exported gives the same answers: each network, and the whole cascade."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from encas.bundle import CascadeParity, Parity
from encas.cascade import Answers, Cascade, Probs, Rows, Stage, run_cascade
from encas.data import LabelledImages
from encas.errors import EncasError
from encas.export.onnx_network import random_samples
from encas.export.recorder import tensors
from encas.export.source import Network
from encas.runtime import Session

TOLERANCE = 1e-3  # largest difference of a probability between a network and its export
NEAR = 1e-4  # so near a threshold two engines may disagree
# Pools store float16: from 0.5 to 1 its steps are 2^-11, and rounding moves a number by up to half of one.
HALF_STEP = 2.0**-12


class NotTheSame(EncasError):
    """An export that answers otherwise than what it was made from."""


def check_member(name: str, network: Network, session: Session, images: LabelledImages, batch: int) -> Parity:
    """Compare a network with its export on real images.

    Raises:
        NotTheSame: A probability differs by more than `TOLERANCE`, or the batch axis is not really free.
    """
    _check_batches(name, network, session)
    n, largest, changed = 0, 0.0, 0
    for tensor in tensors(images, network.preprocess, batch):
        source, exported = network.probs(tensor), session.run(tensor)
        n += len(tensor)
        largest = max(largest, float(np.abs(source - exported).max()))
        changed += int(np.sum(source.argmax(axis=1) != exported.argmax(axis=1)))
    if not largest <= TOLERANCE:  # NaN too
        raise NotTheSame(
            f"{name}: its export differs from the network by up to {largest:.2g} in a probability on {n} "
            f"real images ({changed} labels change); {TOLERANCE:g} would be right"
        )
    return Parity(n=n, max_abs_difference=largest, changed_labels=changed)


def compare_decisions(
    cascade: Cascade, recorded: Sequence[Probs], executed: Answers, split: str
) -> CascadeParity:
    """Compare what an executor decided with what a pool recorded.

    Args:
        cascade: k stages.
        recorded: (k,) probabilities (n, c) of each stage's member.
        executed: Of the same n samples.
        split: Where they come from.
    """
    n = len(executed)
    expected = _run(cascade, recorded)
    other = (expected.exit_stage != executed.exit_stage) | (expected.label != executed.label)
    rows = np.flatnonzero(other)
    near = [row for row in rows if _is_near(cascade, recorded, executed, int(row))]
    return CascadeParity(split=split, n=n, different=len(rows), near_threshold=len(near))


def check_decisions(parity: CascadeParity, place: str) -> None:
    """Check that only samples near a threshold were decided otherwise.

    Raises:
        NotTheSame: Says how many were.
    """
    wrong = parity.different - parity.near_threshold
    if wrong:
        raise NotTheSame(
            f"{place}: the exported cascade decides {wrong} of {parity.n} images of split '{parity.split}' "
            "otherwise than the pool recorded, none of them near a threshold; record the members again if "
            "their weights or the images have changed"
        )


def _run(cascade: Cascade, probs: Sequence[Probs]) -> Answers:
    def member_probs(stage: int, rows: Rows) -> Probs:
        return probs[stage][rows]

    return run_cascade(cascade, member_probs, len(probs[0]), [0] * len(cascade.stages))


def _is_near(cascade: Cascade, recorded: Sequence[Probs], executed: Answers, row: int) -> bool:
    """Whether rounding alone may explain that a sample was decided otherwise.

    The two engines parted at the first stage where one of them let the sample go. Either its confidence there
    is near the threshold, or, where both let it go, its two best classes are nearly equal.
    """
    expected = _run(cascade, [probs[[row]] for probs in recorded])
    stages = int(expected.exit_stage[0]), int(executed.exit_stage[row])
    stage = min(stages)
    mean = _up_to(cascade, recorded, stage, row)
    slack = NEAR + _rounding(mean, cascade)
    if stages[0] == stages[1]:
        one, two = expected.label[0], executed.label[row]
        return abs(float(mean.probs[0, one] - mean.probs[0, two])) <= 2 * slack
    threshold = cascade.stages[stage].threshold
    assert threshold is not None  # the last stage is left by both
    confidences = [float(mean.confidence[0])]
    if stages[1] == stage:
        confidences.append(float(executed.confidence[row]))
    return min(abs(confidence - threshold) for confidence in confidences) <= slack


def _up_to(cascade: Cascade, recorded: Sequence[Probs], stage: int, row: int) -> Answers:
    """Answer one sample with the stages up to one, whatever the thresholds before it say."""
    never = 1.0 if cascade.confidence == "max-probability" else 1e9
    stages = [Stage(member=s.member, threshold=never) for s in cascade.stages[:stage]]
    stages.append(Stage(member=cascade.stages[stage].member))
    upto = cascade.model_copy(update={"stages": tuple(stages)})
    return _run(upto, [probs[[row]] for probs in recorded[: stage + 1]])


def _rounding(answer: Answers, cascade: Cascade) -> float:
    """By how much half a step of float16 moves a confidence."""
    if cascade.confidence == "max-probability":
        return HALF_STEP
    top2 = np.partition(answer.probs[0].astype(np.float16), -2)[-2:]
    half_steps = np.spacing(top2).astype(np.float64) / 2
    return float(np.sum(half_steps / np.maximum(top2, half_steps)))


def _check_batches(name: str, network: Network, session: Session) -> None:
    """Run batches of several sizes: an exporter may have written the size of its example into the graph."""
    samples = random_samples(5, network.preprocess)
    expected = network.probs(samples)
    for size in (1, 2, 5):
        try:
            found: NDArray[np.float32] | None = session.run(samples[:size])
        except Exception:  # ONNX Runtime's
            found = None
        if found is None or not np.allclose(found, expected[:size], rtol=0, atol=TOLERANCE):
            raise NotTheSame(
                f"{name}: its export does not answer {size} samples as the network does; its batch axis must "
                "be free"
            )
