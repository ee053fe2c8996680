import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encas.bundle import Bundle
from encas.cascade import Cascade, Stage
from encas.errors import InvalidInput
from encas.evaluation import recorded_answers
from encas.export import MemberSpec, export, record
from encas.export.parity import NotTheSame
from encas.files import sha256_of
from encas.pool import Pool
from encas.preprocess import Preprocess
from encas.runtime import CascadeExecutor
from encas.search import certify

PREPROCESS = Preprocess(channels=1, size=(8, 8), interpolation="bilinear", mean=(0.0,), std=(1.0,))
NAMES = ("hidden016", "hidden064", "hidden512")


@pytest.fixture
def recorded(digits_files: Path, tmp_path: Path) -> Pool:
    members = [MemberSpec(source=f"onnx:{digits_files}/networks/{name}.onnx") for name in NAMES]
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


@pytest.mark.slow
def test_the_bundle_decides_as_the_pool_recorded(
    recorded: Pool, digits_cascade: Cascade, digits: Any, tmp_path: Path
) -> None:
    bundle = export(digits_cascade, recorded, tmp_path / "bundle", name="digits", version="7")
    assert bundle == Bundle.open(tmp_path / "bundle")
    parity = bundle.file.parity
    assert parity is not None and (parity.split, parity.n, parity.different) == ("val", 512, 0)
    expected = recorded_answers(digits_cascade, recorded, "test")
    with CascadeExecutor(bundle, "cpu") as executor:
        found = executor.run(digits.images[1197:])
    assert found.exit_stage.tolist() == expected.exit_stage.tolist()
    assert found.label.tolist() == expected.label.tolist()
    assert found.macs.tolist() == expected.macs.tolist()


@pytest.mark.slow
def test_a_certificate_goes_along(recorded: Pool, digits_cascade: Cascade, tmp_path: Path) -> None:
    certified = certify(digits_cascade, recorded, risk=0.05)
    assert certified.certificate is not None
    export(certified, recorded, tmp_path / "bundle")
    bundle = Bundle.open(tmp_path / "bundle")
    assert bundle.cascade.certificate == certified.certificate
    assert bundle.cascade.stages == certified.stages


def test_a_bundle_says_what_is_in_it(recorded: Pool, digits_cascade: Cascade, tmp_path: Path) -> None:
    file = export(digits_cascade, recorded, tmp_path / "bundle", name="digits", version="7").file
    assert (file.name, file.version) == ("digits", "7")
    assert [(m.name, m.source, m.opset, m.input, m.output) for m in file.members] == [
        (name, f"onnx:{name}.onnx", 18, "image", "probs") for name in NAMES
    ]
    assert all(member.parity.n == 512 for member in file.members)
    assert {"encas", "onnx", "onnxruntime", "numpy", "pillow", "python"} <= file.versions.keys()
    on_disk = {
        p.relative_to(tmp_path / "bundle").as_posix() for p in (tmp_path / "bundle").rglob("*") if p.is_file()
    }
    assert on_disk == {"bundle.json", *file.files}
    assert json.loads((tmp_path / "bundle/labels.json").read_text())["labels"][3] == "digit 3"


def test_golden_samples_cover_the_exits_and_hold(
    recorded: Pool, digits_cascade: Cascade, tmp_path: Path
) -> None:
    bundle = export(digits_cascade, recorded, tmp_path / "bundle")
    golden = bundle.file.golden
    assert len(golden) == 8
    assert {sample.exit_stage for sample in golden} == {0, 1, 2}
    with CascadeExecutor(bundle, "cpu") as executor:
        answers = executor.run([bundle.path / sample.file for sample in golden])
    assert answers.label.tolist() == [sample.label for sample in golden]
    assert answers.exit_stage.tolist() == [sample.exit_stage for sample in golden]
    assert answers.confidence.tolist() == pytest.approx([sample.confidence for sample in golden], abs=1e-6)


@pytest.mark.slow
def test_the_same_export_is_the_same_bytes(recorded: Pool, digits_cascade: Cascade, tmp_path: Path) -> None:
    digests = []
    for name in ("one", "two"):
        bundle = export(digits_cascade, recorded, tmp_path / name, samples=64)
        digests.append([bundle.file.files, sha256_of(tmp_path / name / "bundle.json")])
    assert digests[0] == digests[1]


@pytest.mark.slow
def test_a_member_at_two_stages_is_exported_once(recorded: Pool, tmp_path: Path) -> None:
    stages = (Stage(member="hidden016", threshold=0.9), Stage(member="hidden064", threshold=0.9))
    cascade = Cascade(stages=(*stages, Stage(member="hidden016")))
    bundle = export(cascade, recorded, tmp_path / "bundle", samples=64)
    assert [member.name for member in bundle.file.members] == ["hidden016", "hidden064"]


@pytest.mark.slow
def test_a_bundle_is_replaced_and_anything_else_stays(
    recorded: Pool, digits_cascade: Cascade, tmp_path: Path
) -> None:
    export(digits_cascade, recorded, tmp_path / "bundle", samples=64, version="1")
    assert export(digits_cascade, recorded, tmp_path / "bundle", samples=64, version="2").file.version == "2"
    (tmp_path / "bundle/notes.txt").write_text("mine")
    with pytest.raises(InvalidInput, match=r"bundle: holds notes\.txt, which is no part of the bundle"):
        export(digits_cascade, recorded, tmp_path / "bundle", samples=64)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/main.tex").touch()
    with pytest.raises(InvalidInput, match="thesis: exists and is no bundle; name another folder with -o"):
        export(digits_cascade, recorded, tmp_path / "thesis", samples=64)
    assert (tmp_path / "thesis/main.tex").exists()
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.mark.slow
def test_a_network_that_has_changed_since_is_found_and_no_bundle_is_left(
    recorded: Pool, digits_cascade: Cascade, digits_files: Path, tmp_path: Path
) -> None:
    networks = digits_files / "networks"
    shutil.copy(networks / "hidden008.onnx", networks / "hidden016.onnx")
    with pytest.raises(InvalidInput, match=r"hidden016\.onnx: has changed since member .* was recorded"):
        export(digits_cascade, recorded, tmp_path / "bundle")
    member = recorded.member("hidden016").model_copy(
        update={"sha256": None}
    )  # as of a function without a file
    others = [other for other in recorded.file.members if other.name != member.name]
    recorded = Pool(recorded.path, recorded.file.model_copy(update={"members": (*others, member)}))
    with pytest.raises(NotTheSame, match="otherwise than the pool recorded, none of them near a threshold"):
        export(digits_cascade, recorded, tmp_path / "bundle")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["files", "pool"]


@pytest.mark.slow
def test_images_that_have_changed_since_are_found(
    recorded: Pool, digits_cascade: Cascade, digits: Any, digits_files: Path, tmp_path: Path
) -> None:
    with np.load(digits_files / "digits.npz") as arrays:
        kept = {name: arrays[name] for name in ("labels", "classes")}
    np.savez(digits_files / "digits.npz", images=digits.images[:, ::-1], **kept)
    with pytest.raises(
        NotTheSame, match="record the members again if their weights or the images have changed"
    ):
        export(digits_cascade, recorded, tmp_path / "bundle")


@pytest.mark.slow
def test_a_member_that_the_pool_lacks_is_named(recorded: Pool, tmp_path: Path) -> None:
    cascade = Cascade(stages=(Stage(member="hidden999"),))
    with pytest.raises(InvalidInput, match="no member 'hidden999'; it has: hidden016, hidden064, hidden512"):
        export(cascade, recorded, tmp_path / "bundle")


def test_imported_outputs_cannot_be_exported(
    pool_path: Path, digits_cascade: Cascade, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match="member 'hidden016' has imported outputs only"):
        export(digits_cascade, pool_path, tmp_path / "bundle")


def test_a_cascade_knows_its_pool_or_is_told(digits_cascade: Cascade, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="does not say which pool it is of; name it with --pool"):
        export(digits_cascade, out=tmp_path / "bundle")


@pytest.mark.slow
def test_a_name_for_an_endpoint_is_a_plain_word(
    recorded: Pool, digits_cascade: Cascade, tmp_path: Path
) -> None:
    with pytest.raises(InvalidInput, match=r"name 'my model': letters, digits and .* as in 'my-model'"):
        export(digits_cascade, recorded, tmp_path / "bundle", name="my model")


@pytest.mark.slow
def test_a_bundle_knows_where_all_samples_of_the_split_left(
    recorded: Pool, digits_cascade: Cascade, tmp_path: Path
) -> None:
    reference = export(digits_cascade, recorded, tmp_path / "bundle", samples=20).reference
    assert reference is not None and (reference.split, reference.n) == ("val", 600)
    (gear,) = reference.gears
    exits = recorded_answers(digits_cascade, recorded, "val").exit_stage
    assert [sum(stage.counts) for stage in gear.stages] == np.bincount(exits, minlength=3).tolist()


@pytest.mark.slow
def test_gears_share_their_networks_and_have_figures_of_one_split(
    recorded: Pool, digits_cascade: Cascade, digits: Any, tmp_path: Path
) -> None:
    pair, alone = (
        Cascade(stages=(Stage(member="hidden016", threshold=0.8), Stage(member="hidden064"))),
        Cascade(stages=(Stage(member="hidden016"),)),
    )
    bundle = export(digits_cascade, recorded, tmp_path / "bundle", cheaper=(pair, alone))
    assert bundle == Bundle.open(tmp_path / "bundle")
    assert [gear.stages for gear in bundle.gears] == [g.stages for g in (digits_cascade, pair, alone)]
    assert [member.name for member in bundle.file.members] == list(NAMES)
    for number, gear in enumerate(bundle.gears):
        expected = recorded_answers(gear, recorded, "test")
        with CascadeExecutor(bundle.at_gear(number), "cpu") as executor:
            found = executor.run(digits.images[1197:])
        assert found.exit_stage.tolist() == expected.exit_stage.tolist()
        on_val = recorded_answers(gear, recorded, "val")
        assert gear.evaluated["val"].macs == on_val.macs.mean()
        assert gear.evaluated["val"].accuracy == (on_val.label == recorded.labels("val")).mean()
    with pytest.raises(InvalidInput, match=r"gear 2 .* name the gears by falling cost"):
        export(digits_cascade, recorded, tmp_path / "other", cheaper=(alone, pair))
    assert not (tmp_path / "other").exists()
