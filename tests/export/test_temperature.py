from pathlib import Path

import numpy as np
import onnx
import pytest

from encas.cascade import Cascade, Stage
from encas.errors import InvalidInput
from encas.evaluation import evaluate, recorded_answers
from encas.export import MemberSpec, export, quantize, record, temper, write_single_file
from encas.export.temperature import best_temperature, tempered
from encas.files import sha256_of
from encas.member import Member, Variant
from encas.pool import Pool
from encas.preprocess import Preprocess
from encas.runtime import CascadeExecutor, decode, prepare
from encas.runtime.session import create_session
from encas.search.evaluate import Evaluator

PREPROCESS = Preprocess(channels=1, size=(8, 8), interpolation="bilinear", mean=(0.0,), std=(1.0,))
HALF = np.array([[0.5, 0.5], [0.8, 0.2]], np.float16)


def test_probabilities_are_raised_to_the_inverse_of_the_temperature() -> None:
    # Squared: 0.64 and 0.04 of 0.68. The root: 2 to 1.
    assert tempered(HALF, 0.5) == pytest.approx(np.array([[0.5, 0.5], [16 / 17, 1 / 17]]), abs=1e-3)
    assert tempered(HALF, 2.0) == pytest.approx(np.array([[0.5, 0.5], [2 / 3, 1 / 3]]), abs=1e-3)


@pytest.mark.parametrize(("right", "sure"), [(9, 0.9), (6, 0.6), (99, 0.99)])
def test_the_best_temperature_makes_a_member_as_sure_as_it_is_right(right: int, sure: float) -> None:
    n = 10 if right < 10 else 100
    probs = np.tile(np.array([[0.75, 0.25]], np.float16), (n, 1))  # three to one
    labels = (np.arange(n) >= right).astype(np.int64)
    temperature = best_temperature(probs, labels)
    # Odds of 9 are 3 squared, and so on.
    assert temperature == pytest.approx(np.log(3) / np.log(sure / (1 - sure)), rel=1e-3)
    assert tempered(probs, temperature)[0, 0] == pytest.approx(sure, abs=1e-3)


def test_temperatures_stay_within_bounds() -> None:
    probs = np.tile(np.array([[0.6, 0.4]], np.float16), (8, 1))
    assert best_temperature(probs, np.zeros(8, np.int64)) == pytest.approx(0.1, rel=1e-2)  # always right
    assert best_temperature(probs, np.ones(8, np.int64)) == pytest.approx(10, rel=1e-2)  # always wrong
    assert best_temperature(np.array([[1, 0], [1, 0]], np.float16), np.array([0, 1])) == pytest.approx(
        10, rel=1e-2
    )


def test_variants_of_imported_outputs_are_computed(tmp_path: Path) -> None:
    pool = Pool.open_or_create(tmp_path / "pool", 2)
    probs = np.tile(np.array([[0.75, 0.25]], np.float16), (10, 1))
    for split, right in (("val", 9), ("test", 5)):
        pool = pool.with_split(split, (np.arange(10) >= right).astype(np.int64))
        member = Member(name="one", source="imported", macs=7)
        pool = pool.with_outputs(member, split, probs, "imported")
    made = temper(pool)
    assert made.names == ("one", "one.tempered")
    variant = made.member("one.tempered").variant
    assert variant == Variant(of="one", split="val", temperature=0.5)
    assert made.member("one.tempered").macs == 7
    for split in ("val", "test"):
        assert made.probs("one.tempered", split)[0] == pytest.approx([0.9, 0.1], abs=1e-3)
    before = (made.path / "pool.json").read_bytes()
    assert temper(made).path == made.path
    assert (made.path / "pool.json").read_bytes() == before
    with pytest.raises(InvalidInput, match=r"'one\.tempered' has a temperature already"):
        temper(made, ["one.tempered"])


@pytest.fixture
def recorded(digits_files: Path, tmp_path: Path) -> Pool:
    """Two networks on two splits, and what they are with a temperature."""
    for split, rows in (("val", "597:1197"), ("test", "1197:")):
        pool = record(
            tmp_path / "pool",
            [
                MemberSpec(source=f"onnx:{digits_files}/networks/{name}.onnx")
                for name in ("hidden016", "hidden064")
            ],
            digits_files / "digits.npz",
            split=split,
            rows=rows,
            preprocess=PREPROCESS,
        )
    return temper(pool)


@pytest.mark.slow
def test_the_network_of_a_variant_holds_its_temperature(recorded: Pool) -> None:
    assert recorded.problems() == []
    made, of = recorded.member("hidden016.tempered"), recorded.member("hidden016")
    assert made.variant is not None and made.variant.temperature is not None
    assert (made.precision, made.macs, made.params) == ("fp32", of.macs, of.params)
    file = recorded.path / "variants/hidden016.tempered.onnx"
    assert (made.source, made.sha256) == ("onnx:variants/hidden016.tempered.onnx", sha256_of(file))
    makers = [node.op_type for node in onnx.load(file).graph.node]
    assert makers[-2:] == ["Mul", "Softmax"]
    for split in ("val", "test"):
        probs = recorded.probs("hidden016", split)
        expected = tempered(probs, made.variant.temperature)
        assert np.abs(recorded.probs("hidden016.tempered", split) - expected).max() < 5e-3
        assert (recorded.probs("hidden016.tempered", split).argmax(axis=1) == expected.argmax(axis=1)).all()
    before = file.stat().st_mtime_ns
    temper(recorded)
    assert file.stat().st_mtime_ns == before


@pytest.mark.slow
def test_everything_that_runs_a_cascade_decides_as_recorded(
    recorded: Pool, tmp_path: Path, digits_files: Path
) -> None:
    names = ("hidden016.tempered", "hidden064.tempered")
    cascade = Cascade(stages=(Stage(member=names[0], threshold=0.9), Stage(member=names[1])))
    bundle = export(cascade, recorded, tmp_path / "bundle", split="test")
    assert bundle.file.parity is not None and bundle.file.parity.different == 0
    expected = recorded_answers(cascade, recorded, "test")
    found = evaluate(cascade, recorded, "test")
    with np.load(digits_files / "digits.npz") as arrays:
        images = arrays["images"][1197:]
    with CascadeExecutor(bundle, "cpu") as executor:
        executed = executor.run(images)
    single = write_single_file(bundle, tmp_path / "cascade.onnx")
    session = create_session(single.path, "cpu")
    tensor = np.stack([prepare(decode(image), PREPROCESS) for image in images])
    exits, probs = session.run(["exit_stage", "probs"], {"image": tensor})
    for stages, answers in ((executed.exit_stage, executed.label), (exits, probs.argmax(axis=1))):
        assert (stages == expected.exit_stage).all()
        assert (answers == expected.label).all()
    assert 0 < found.exit_fractions[0] < 1
    # The searcher's evaluator counts the same.
    members = recorded.members_with("test")
    macs = np.array([member.macs for member in members], np.float64)
    evaluator = Evaluator.open(recorded, "test", members, macs, max_stages=2)
    genome = evaluator.space.genome(cascade, [member.name for member in members])
    assert evaluator.objectives(genome[None])[0].tolist() == pytest.approx([1 - found.accuracy, found.macs])


@pytest.mark.slow
def test_variants_have_variants_only_when_they_are_named(recorded: Pool) -> None:
    made = quantize(recorded, calibration=64)
    assert set(made.names) - set(recorded.names) == {"hidden016.int8", "hidden064.int8"}
    again = temper(made)
    assert set(again.names) - set(made.names) == {"hidden016.int8.tempered", "hidden064.int8.tempered"}
    assert again.member("hidden016.int8.tempered").precision == "int8"
