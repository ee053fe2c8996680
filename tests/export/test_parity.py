from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from encas.cascade import Answers, Cascade, Confidence, Stage
from encas.data import LabelledImages
from encas.export.onnx_network import open_onnx
from encas.export.parity import NotTheSame, check_decisions, check_member, compare_decisions
from encas.preprocess import Preprocess
from encas.runtime import open_session

PREPROCESS = Preprocess(channels=1, size=(8, 8), interpolation="bilinear", mean=(0.0,), std=(1.0,))


def cascade(threshold: float, confidence: Confidence = "max-probability") -> Cascade:
    return Cascade(stages=(Stage(member="a", threshold=threshold), Stage(member="b")), confidence=confidence)


def rows(*top: float) -> NDArray[np.float32]:
    """(n, 2) probabilities whose first column is given."""
    first = np.array(top, np.float32)
    return np.stack([first, 1 - first], axis=1)


def executed(label: int, exit_stage: int, confidence: float) -> Answers:
    """What an executor said of one sample."""
    probs = rows(confidence if label == 0 else 1 - confidence)
    return Answers(
        probs, np.array([label]), np.array([confidence], np.float32), np.array([exit_stage]), np.array([0])
    )


def test_the_same_decision_is_no_difference() -> None:
    parity = compare_decisions(cascade(0.7), [rows(0.9), rows(0.6)], executed(0, 0, 0.9), "val")
    assert (parity.n, parity.different, parity.near_threshold) == (1, 0, 0)
    check_decisions(parity, "here")


@pytest.mark.parametrize(("threshold", "near"), [(0.7497, 1), (0.7496, 0), (0.5, 0)])
def test_going_on_is_near_within_half_a_step_of_float16(threshold: float, near: int) -> None:
    """Recorded at 0.75, the sample left; executed, it went on. Half a step and 1e-4 are 0.00034."""
    parity = compare_decisions(cascade(threshold), [rows(0.75), rows(0.9)], executed(0, 1, 0.8), "val")
    assert (parity.different, parity.near_threshold) == (1, near)


@pytest.mark.parametrize(("threshold", "near"), [(0.75, 1), (0.7503, 1), (0.7504, 0)])
def test_leaving_is_near_if_the_recorded_confidence_is(threshold: float, near: int) -> None:
    """Recorded at 0.75, the sample went on; executed, it left with 0.8."""
    parity = compare_decisions(cascade(threshold), [rows(0.75), rows(0.9)], executed(0, 0, 0.8), "val")
    assert (parity.different, parity.near_threshold) == (1, near)


def test_leaving_is_near_if_the_executed_confidence_is() -> None:
    """Float16 has no number between 0.75 and 0.7505: one engine was rounded down, the other up."""
    answers = executed(0, 0, 0.75 + 2**-11)
    parity = compare_decisions(cascade(0.7504), [rows(0.75), rows(0.9)], answers, "val")
    assert (parity.different, parity.near_threshold) == (1, 1)


def test_another_class_at_the_same_exit_is_near_if_the_two_are_equal() -> None:
    even, uneven = rows(0.5), rows(0.45)
    for last, near in ((even, 1), (uneven, 0)):
        first = rows(0.5)
        label = 1 - int(((first + last) / 2)[0].argmax())
        answers = executed(label, 1, 0.5)
        parity = compare_decisions(cascade(0.9), [first, last], answers, "val")
        assert (parity.different, parity.near_threshold) == (1, near)


def test_thresholds_before_the_parting_do_not_matter() -> None:
    stages = (Stage(member="a", threshold=0.99), Stage(member="b", threshold=0.7), Stage(member="c"))
    recorded = [rows(0.6), rows(0.8), rows(0.9)]  # mean after two: 0.7, stays
    parity = compare_decisions(Cascade(stages=stages), recorded, executed(0, 1, 0.7001), "val")
    assert (parity.different, parity.near_threshold) == (1, 1)


def test_a_gap_of_logits_has_the_slack_of_its_probabilities() -> None:
    """At p = 0.75 and 0.25 half a float16 step moves the logarithm of the ratio by 0.0008."""
    gap = float(np.log(3))
    for distance, near in ((0.0003, 1), (0.002, 0)):
        parity = compare_decisions(
            cascade(gap - distance, "logit-gap"), [rows(0.75), rows(0.9)], executed(0, 1, 5.0), "val"
        )
        assert (parity.different, parity.near_threshold) == (1, near)


def test_a_gap_of_later_stages_counts_all_stages_so_far() -> None:
    stages = (Stage(member="a", threshold=9), Stage(member="b", threshold=1.0985), Stage(member="c"))
    recorded = [rows(0.5), rows(1), rows(0.9)]  # mean after two: 0.75, a gap of log 3 = 1.0986, leaves
    three = Cascade(stages=stages, confidence="logit-gap")
    parity = compare_decisions(three, recorded, executed(0, 2, 5.0), "val")
    assert (parity.different, parity.near_threshold) == (1, 1)


def test_a_decision_that_is_not_near_fails() -> None:
    parity = compare_decisions(cascade(0.7), [rows(0.9), rows(0.9)], executed(1, 0, 0.9), "val")
    with pytest.raises(NotTheSame, match=r"decides 1 of 1 images of split 'val' otherwise than the pool"):
        check_decisions(parity, "here")


@dataclass(frozen=True)
class Files:
    folder: Path
    images: LabelledImages

    def network(self, name: str) -> Any:
        return open_onnx(self.folder / f"networks/{name}.onnx", PREPROCESS, "cpu")


@pytest.fixture
def files(digits_files: Path, digits: Any) -> Files:
    return Files(digits_files, LabelledImages(digits.images[:50], digits.labels[:50], None))


def test_an_export_that_is_the_network_passes(files: Files, tmp_path: Path) -> None:
    network = files.network("hidden064")
    network.write_onnx(tmp_path / "a.onnx")
    session = open_session(tmp_path / "a.onnx", "cpu")
    parity = check_member("hidden064", network, session, files.images, batch=16)
    assert (parity.n, parity.changed_labels) == (50, 0)
    assert parity.max_abs_difference < 1e-6


def test_an_export_that_is_another_network_fails(files: Files, tmp_path: Path) -> None:
    files.network("hidden128").write_onnx(tmp_path / "a.onnx")
    with pytest.raises(
        NotTheSame, match="hidden064: its export does not answer 1 samples as the network does"
    ):
        session = open_session(tmp_path / "a.onnx", "cpu")
        check_member("hidden064", files.network("hidden064"), session, files.images, batch=16)


def test_an_export_with_a_fixed_batch_fails(files: Files, tmp_path: Path) -> None:
    import onnx

    network = files.network("hidden064")
    network.write_onnx(tmp_path / "a.onnx")
    model = onnx.load(tmp_path / "a.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(
        NotTheSame, match="does not answer 1 samples as the network does; its batch axis must"
    ):
        check_member("a", network, open_session(tmp_path / "a.onnx", "cpu"), files.images, batch=16)


def test_an_export_that_is_wrong_on_real_images_alone_fails(files: Files, tmp_path: Path) -> None:
    """Values above 100 are cut off, which real pixels are and noise is not."""
    import onnx

    raw = PREPROCESS.model_copy(update={"divisor": 1.0})
    network = open_onnx(files.folder / "networks/hidden064.onnx", raw, "cpu")
    network.write_onnx(tmp_path / "a.onnx")
    model = onnx.load(tmp_path / "a.onnx")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(100, np.float32), "most"))
    model.graph.node[0].input[0] = "cut"
    model.graph.node.insert(0, onnx.helper.make_node("Clip", ["image", "", "most"], ["cut"]))
    onnx.save(model, tmp_path / "a.onnx")
    with pytest.raises(NotTheSame, match=r"differs from the network by up to .* on 50 real images \("):
        check_member("hidden064", network, open_session(tmp_path / "a.onnx", "cpu"), files.images, batch=16)
