from pathlib import Path

import numpy as np
import onnx
import pytest

from encas.cascade import Cascade, Stage
from encas.errors import InvalidInput
from encas.export import MemberSpec, export, graph, measure_pool, quantize, record
from encas.export.latency import suited
from encas.export.quantizer import has_vnni
from encas.files import sha256_of
from encas.member import Member, Variant
from encas.pool import Pool
from encas.preprocess import Preprocess
from encas.runtime import CascadeExecutor, open_executor
from encas.runtime.stopwatch import Stopwatch
from encas.search import search

pytestmark = pytest.mark.slow

PREPROCESS = Preprocess(channels=1, size=(8, 8), interpolation="bilinear", mean=(0.0,), std=(1.0,))
QUICK = Stopwatch(max_repeats=3, budget_s=0.05)


@pytest.fixture
def recorded(digits_files: Path, tmp_path: Path) -> Pool:
    """Two networks on two splits."""
    members = [
        MemberSpec(source=f"onnx:{digits_files}/networks/{name}.onnx") for name in ("hidden016", "hidden512")
    ]
    for split, rows in (("val", "597:1197"), ("test", "1197:")):
        pool = record(
            tmp_path / "pool",
            members,
            digits_files / "digits.npz",
            split=split,
            rows=rows,
            preprocess=PREPROCESS,
        )
    return pool


def accuracy(pool: Pool, name: str, split: str) -> float:
    return float((pool.probs(name, split).argmax(axis=1) == pool.labels(split)).mean())


@pytest.fixture
def varied(recorded: Pool) -> Pool:
    return quantize(recorded, ["hidden512"], calibration=64)


def test_a_variant_is_a_member_with_outputs_and_a_file_of_its_own(varied: Pool) -> None:
    assert varied.names == ("hidden016", "hidden512", "hidden512.int8")
    made, of = varied.member("hidden512.int8"), varied.member("hidden512")
    assert (made.precision, of.precision, of.variant) == ("int8", "fp32", None)
    assert made.variant == Variant(of="hidden512", sha256=of.sha256, calibration=64, split="val")
    assert (made.macs, made.params, made.preprocess) == (of.macs, of.params, of.preprocess)
    assert made.source == "onnx:variants/hidden512.int8.onnx"
    assert made.sha256 == sha256_of(varied.path / "variants/hidden512.int8.onnx")
    assert varied.problems() == []
    for split in ("val", "test"):
        assert not np.array_equal(varied.probs("hidden512.int8", split), varied.probs("hidden512", split))
        assert accuracy(varied, "hidden512.int8", split) == pytest.approx(
            accuracy(varied, "hidden512", split), abs=0.02
        )


@pytest.mark.slow
def test_weights_are_in_int8_and_the_softmax_is_not(varied: Pool) -> None:
    model = onnx.load(varied.path / "variants/hidden512.int8.onnx")
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    assert graph.precision_of(model) == "int8"
    assert makers[model.graph.output[0].name] == "Softmax"
    assert onnx.TensorProto.INT8 in {tensor.data_type for tensor in model.graph.initializer}
    probs = np.asarray(varied.probs("hidden512.int8", "val"), np.float32)
    assert np.abs(probs.sum(axis=1) - 1).max() < 2e-3


@pytest.mark.slow
def test_the_same_variant_is_not_made_twice(varied: Pool) -> None:
    file = varied.path / "variants/hidden512.int8.onnx"
    before = file.stat().st_mtime_ns, (varied.path / "pool.json").read_bytes()
    quantize(varied, ["hidden512"], calibration=64)
    assert (file.stat().st_mtime_ns, (varied.path / "pool.json").read_bytes()) == before
    again = quantize(varied, ["hidden512"], calibration=65)
    assert file.stat().st_mtime_ns != before[0]
    assert again.member("hidden512.int8").variant == Variant(
        of="hidden512", sha256=again.member("hidden512").sha256, calibration=65, split="val"
    )


def test_a_search_by_time_chooses_among_precisions_and_the_bundle_decides_as_recorded(
    varied: Pool, tmp_path: Path
) -> None:
    pool, _ = measure_pool(varied, batches=(1,), provider="cpu", stopwatch=QUICK)
    assert [entry.precision for m in pool.file.members for entry in m.latency] == ["fp32", "fp32", "int8"]
    front = search(pool, objective="latency:cpu:1", evaluations=2000, max_stages=2)
    assert {single.member for single in front.file.singles} == set(pool.names)
    stages = (Stage(member="hidden016", threshold=0.9), Stage(member="hidden512.int8"))
    bundle = export(Cascade(stages=stages), pool, tmp_path / "bundle", split="test")
    assert bundle.file.parity is not None and bundle.file.parity.different == 0
    assert [(m.precision, m.opset, m.parity.changed_labels) for m in bundle.file.members] == [
        ("fp32", 18, 0),
        ("int8", 18, 0),
    ]


@pytest.mark.slow
def test_an_answer_does_not_depend_on_the_images_beside_it(
    varied: Pool, tmp_path: Path, digits_files: Path
) -> None:
    bundle = export(
        Cascade(stages=(Stage(member="hidden512.int8"),)), varied, tmp_path / "bundle", samples=40
    )
    with np.load(digits_files / "digits.npz") as arrays, CascadeExecutor(bundle, "cpu") as executor:
        images = arrays["images"][:40]
        together = executor.run(images).probs
        alone = np.concatenate([executor.run(images[j : j + 1]).probs for j in range(40)])
    assert np.abs(together - alone).max() < 1e-6


def test_half_precision_is_recorded_here_and_answers_on_cuda(recorded: Pool, tmp_path: Path) -> None:
    pool = quantize(recorded, precision="fp16")
    assert pool.names == ("hidden016", "hidden016.fp16", "hidden512", "hidden512.fp16")
    made = pool.member("hidden512.fp16")
    assert (made.precision, made.variant) == (
        "fp16",
        Variant(of="hidden512", sha256=recorded.member("hidden512").sha256),
    )
    assert graph.precision_of(onnx.load(pool.path / "variants/hidden512.fp16.onnx")) == "fp16"
    assert np.abs(pool.probs("hidden512.fp16", "val") - pool.probs("hidden512", "val")).max() < 0.02
    bundle = export(Cascade(stages=(Stage(member="hidden512.fp16"),)), pool, tmp_path / "bundle", samples=64)
    assert bundle.file.members[0].precision == "fp16"
    with pytest.raises(
        InvalidInput, match=r"bundle: member 'hidden512\.fp16' is in fp16, which a CPU computes slower"
    ):
        open_executor(bundle, "cpu")
    assert suited(pool, (), "cpu") == ["hidden016", "hidden512"]
    assert suited(pool, (), "cuda") == list(pool.names)
    with pytest.raises(InvalidInput, match=r"'hidden512\.fp16' is in fp16, .* --provider cuda"):
        measure_pool(pool, ["hidden512.fp16"], provider="cpu")


def test_a_calibration_set_must_be_large_enough_and_there(recorded: Pool, digits_files: Path) -> None:
    with pytest.raises(
        InvalidInput, match=r"calibration: 8 images are too few to tell the ranges .* 32 or more"
    ):
        quantize(recorded, calibration=8)
    with pytest.raises(
        InvalidInput, match=r"700 images are asked for, split 'val' of .* has 600; ask for 32 to 600"
    ):
        quantize(recorded, calibration=700)
    with pytest.raises(InvalidInput, match="no split 'train'; it has: val, test"):
        quantize(recorded, split="train")
    with pytest.raises(InvalidInput, match="precision 'int4': must be int8 or fp16"):
        quantize(recorded, precision="int4")  # type: ignore[arg-type]
    (digits_files / "digits.npz").unlink()
    with pytest.raises(
        InvalidInput, match="the images of no split are at hand, and variants must answer them"
    ):
        quantize(recorded)


@pytest.mark.slow
def test_a_variant_has_no_variants(varied: Pool) -> None:
    with pytest.raises(InvalidInput, match=r"member 'hidden512\.int8' is int8 already; name one in fp32"):
        quantize(varied, ["hidden512.int8"])


def test_imported_outputs_have_no_network_to_quantise(recorded: Pool) -> None:
    imported = Member(name="elsewhere", source="imported", macs=1)
    pool = recorded.with_outputs(imported, "val", np.full((600, 10), 0.1), "by hand")
    with pytest.raises(
        InvalidInput, match="member 'elsewhere' has imported outputs only; record its network"
    ):
        quantize(pool, ["elsewhere"])


def test_a_network_without_weights_cannot_be_quantised(digits_files: Path, tmp_path: Path) -> None:
    helper, floats = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("Slice", ["image", "starts", "ends", "axes"], ["part"]),
        helper.make_node("ReduceSum", ["part", "rows"], ["logits"], keepdims=0),
    ]
    constants = {"starts": [0], "ends": [5], "axes": [3], "rows": [1, 2]}
    bare = helper.make_graph(
        nodes,
        "bare",
        [helper.make_tensor_value_info("image", floats, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", floats, ["batch", 5])],
        [onnx.numpy_helper.from_array(np.array(value, np.int64), name) for name, value in constants.items()],
    )
    model = helper.make_model(bare, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "bare.onnx")
    with np.load(digits_files / "digits.npz") as arrays:
        np.savez(tmp_path / "five.npz", images=arrays["images"][:64], labels=arrays["labels"][:64] % 5)
    pool = record(
        tmp_path / "pool", [f"onnx:{tmp_path}/bare.onnx"], tmp_path / "five.npz", preprocess=PREPROCESS
    )
    for precision, words in (
        ("int8", "holds nothing that can be quantised"),
        ("fp16", "holds no weights that could"),
    ):
        with pytest.raises(InvalidInput, match=f"member 'bare': {words}"):
            quantize(pool, precision=precision, calibration=32)  # type: ignore[arg-type]
    assert Pool.open(pool.path).names == ("bare",)
    assert list((pool.path / "variants").iterdir()) == []


def test_older_x86_processors_get_smaller_weights(tmp_path: Path) -> None:
    flags = {"avx2 avx512f avx512_vnni": True, "avx2 avx_vnni": True, "avx2 fma": False, "asimd": True}
    for text, expected in flags.items():
        (tmp_path / "cpuinfo").write_text(f"flags : fpu {text}\n")
        assert has_vnni(tmp_path / "cpuinfo") is expected
    assert has_vnni(tmp_path / "none") is True
