import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image as pillow

from encas.data import LabelledImages
from encas.errors import InvalidInput
from encas.export import MemberSpec, record
from encas.export.recorder import tensors
from encas.export.source import read_members
from encas.files import read_model
from encas.pool import Pool
from encas.preprocess import Preprocess

PREPROCESS = Preprocess(channels=1, size=(8, 8), interpolation="bilinear", mean=(0.0,), std=(1.0,))


def specs(folder: Path, *names: str, **more: Any) -> list[MemberSpec]:
    return [MemberSpec(source=f"onnx:{folder / 'networks' / name}.onnx", **more) for name in names]


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, with its bytes."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def test_what_networks_answer_is_recorded(
    digits_files: Path, digits: Any, networks: Any, tmp_path: Path
) -> None:
    members = specs(digits_files, "hidden008", "hidden512")
    record(
        tmp_path / "pool",
        members,
        digits_files / "digits.npz",
        rows="597:1197",
        preprocess=PREPROCESS,
        batch=64,
    )
    pool = Pool.open(tmp_path / "pool")
    assert pool.names == ("hidden008", "hidden512")
    assert pool.class_names[9] == "digit 9"
    for network in networks:
        if network.name in pool.names:
            expected = network.probs(digits.images[597:1197]).astype(np.float32)
            assert np.allclose(pool.probs(network.name, "val"), expected, atol=3e-4)
            assert pool.member(network.name).macs == network.macs
    assert pool.labels("val").tolist() == digits.labels[597:1197].tolist()
    data = pool.split("val").data
    assert data is not None and (data.path, data.rows) == ("../files/digits.npz", "597:1197")
    member = pool.member("hidden008")
    assert (member.source, member.preprocess) == ("onnx:../files/networks/hidden008.onnx", PREPROCESS)
    assert member.outputs["val"].engine.startswith("onnxruntime 1.")


def test_recorded_members_are_not_computed_again(digits_files: Path, tmp_path: Path) -> None:
    members = specs(digits_files, "hidden008", "hidden016", preprocess=PREPROCESS)
    asked: list[str] = []
    for _ in range(2):
        asked.clear()
        record(
            tmp_path / "pool",
            members,
            digits_files / "digits.npz",
            rows=":100",
            advance=lambda n, names: asked.append(f"{n} {names}"),
        )
    assert asked == ["100 hidden008", "100 hidden016"]


def test_answers_that_were_damaged_are_computed_again(digits_files: Path, tmp_path: Path) -> None:
    members = specs(digits_files, "hidden008", "hidden016", preprocess=PREPROCESS)
    record(tmp_path / "pool", members, digits_files / "digits.npz", rows=":100")
    before = tree(tmp_path / "pool")
    file = tmp_path / "pool/val/probs/hidden008.npy"
    file.write_bytes(file.read_bytes()[:-1])
    record(tmp_path / "pool", members, digits_files / "digits.npz", rows=":100")
    assert tree(tmp_path / "pool") == before


@pytest.mark.slow
def test_weights_that_have_changed_are_noticed_and_recorded_again_on_request(
    digits_files: Path, tmp_path: Path
) -> None:
    members = specs(digits_files, "hidden008", "hidden016", preprocess=PREPROCESS)
    data = digits_files / "digits.npz"
    for split, rows in (("val", "::2"), ("test", "1::2")):
        before = record(tmp_path / "pool", members, data, split=split, rows=rows)
    shutil.copy(digits_files / "networks/hidden512.onnx", digits_files / "networks/hidden008.onnx")
    with pytest.raises(
        InvalidInput, match=r"hidden008\.onnx: has changed since member 'hidden008' .* --again"
    ):
        record(tmp_path / "pool", members, data, rows="::2")
    assert Pool.open(tmp_path / "pool").file == before.file
    after = record(tmp_path / "pool", members, data, rows="::2", again=True)
    assert after.member("hidden008").macs > before.member("hidden008").macs
    assert list(after.member("hidden008").outputs) == ["val"], "its other outputs were another network's"
    assert after.member("hidden016") == before.member("hidden016")
    record(tmp_path / "pool", members, data, split="test", rows="1::2")
    assert Pool.open(tmp_path / "pool").problems() == []


@pytest.mark.slow
def test_other_images_with_the_same_labels_are_no_more_of_a_split(
    digits_files: Path, digits: Any, tmp_path: Path
) -> None:
    record(
        tmp_path / "pool",
        specs(digits_files, "hidden008", preprocess=PREPROCESS),
        digits_files / "digits.npz",
    )
    names = [f"digit {i}" for i in range(10)]
    for name, images in {"same": digits.images, "flipped": digits.images[:, ::-1]}.items():
        np.savez(tmp_path / f"{name}.npz", images=images, labels=digits.labels, classes=names)
    more = specs(digits_files, "hidden016", preprocess=PREPROCESS)
    with pytest.raises(
        InvalidInput, match=r"split 'val' was recorded on other images, those of .*digits\.npz"
    ):
        record(tmp_path / "pool", more, tmp_path / "flipped.npz")
    record(tmp_path / "pool", more, tmp_path / "same.npz")
    assert Pool.open(tmp_path / "pool").names == ("hidden008", "hidden016")


@pytest.mark.slow
def test_a_second_split_is_added(digits_files: Path, tmp_path: Path) -> None:
    members = specs(digits_files, "hidden008", preprocess=PREPROCESS)
    for split, rows in (("val", "::2"), ("test", "1::2")):
        pool = record(tmp_path / "pool", members, digits_files / "digits.npz", split=split, rows=rows)
    assert {name: split.n for name, split in pool.file.splits.items()} == {"val": 899, "test": 898}


@pytest.mark.slow
def test_a_killed_recording_ends_with_the_same_bytes(digits_files: Path, tmp_path: Path) -> None:
    """Killed for real, at whatever it does after the first member."""
    members = [
        # Each prepares images in its own way, so that each is recorded by itself.
        {
            "source": f"onnx:networks/{name}.onnx",
            "preprocess": {**PREPROCESS.model_dump(), "divisor": 255.0 + j},
        }
        for j, name in enumerate(
            ("hidden004", "hidden008", "hidden016", "hidden032", "hidden064", "hidden128")
        )
    ]
    (digits_files / "members.yml").write_text(yaml.safe_dump(members))
    data, pool = digits_files / "digits.npz", tmp_path / "pool"
    command: list[str | Path] = [
        Path(sys.executable).parent / "encas",
        "pool",
        "record",
        pool,
        "--data",
        data,
        "--batch",
        "1",
    ]
    command += ["--members", digits_files / "members.yml"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while process.poll() is None and not ((pool / "pool.json").exists() and len(Pool.open(pool).names) >= 2):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it had finished before it could be killed"
    assert len(Pool.open(pool).names) < len(members)
    assert Pool.open(pool).problems() == []
    # What a process leaves that dies while it writes.
    (pool / f"val/probs/.hidden128.npy.{process.pid}.tmp").write_bytes(b"half")
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    record(tmp_path / "whole", read_members(digits_files / "members.yml"), data, batch=1)
    assert tree(pool) == tree(tmp_path / "whole")


def test_neighbours_with_one_preprocessing_share_it(digits_files: Path, tmp_path: Path) -> None:
    other = PREPROCESS.model_copy(update={"divisor": 16.0})
    members = [
        *specs(digits_files, "hidden008", "hidden016", preprocess=PREPROCESS),
        *specs(digits_files, "hidden032", preprocess=other),
    ]
    asked: list[str] = []
    record(
        tmp_path / "pool",
        members,
        digits_files / "digits.npz",
        rows=":5",
        advance=lambda _n, names: asked.append(names),
    )
    assert asked == ["hidden008, hidden016", "hidden008, hidden016", "hidden032"]


def test_folders_of_some_classes_are_counted_as_the_network_does(
    digits_files: Path, digits: Any, tmp_path: Path
) -> None:
    for row in range(60):
        folder = tmp_path / "photos" / f"digit {digits.labels[row]}"
        if digits.labels[row] in (3, 7):
            folder.mkdir(parents=True, exist_ok=True)
            pillow.fromarray(digits.images[row]).save(folder / f"{row}.png")
    members = specs(digits_files, "hidden512", preprocess=PREPROCESS)
    with pytest.raises(
        InvalidInput, match=r"tells 10 classes apart, .*photos has 2 classes; .*--classes FILE"
    ):
        record(tmp_path / "pool", members, tmp_path / "photos")
    assert not (tmp_path / "pool").exists()
    pool = record(tmp_path / "pool", members, tmp_path / "photos", classes=[f"digit {i}" for i in range(10)])
    assert set(pool.labels("val").tolist()) == {3, 7}
    assert np.mean(pool.probs("hidden512", "val").argmax(axis=1) == pool.labels("val")) > 0.8


def test_tensors_come_in_order_in_batches() -> None:
    pixels = np.arange(11, dtype=np.uint8).repeat(64).reshape(11, 8, 8)
    found = list(tensors(LabelledImages(pixels, np.zeros(11, np.int64), None), PREPROCESS, 2))
    assert [len(tensor) for tensor in found] == [2, 2, 2, 2, 2, 1]
    values = np.concatenate(found)[:, 0, 0, 0]
    assert np.array_equal(values, np.arange(11, dtype=np.float32) / np.float32(255))


def test_an_image_that_cannot_be_read_is_named_and_nothing_is_recorded(
    digits_files: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    (tmp_path / "list.csv").write_text("file,class_index\nbad.png,0\n")
    with pytest.raises(InvalidInput, match=r"bad\.png: is no image"):
        record(
            tmp_path / "pool", specs(digits_files, "hidden008", preprocess=PREPROCESS), tmp_path / "list.csv"
        )
    assert Pool.open(tmp_path / "pool").names == ()


def test_another_network_of_a_recorded_name_is_refused(digits_files: Path, tmp_path: Path) -> None:
    data = digits_files / "digits.npz"
    record(tmp_path / "pool", specs(digits_files, "hidden008", preprocess=PREPROCESS), data, rows=":9")
    with pytest.raises(
        InvalidInput, match=r"has a member 'hidden008' already, from onnx:\.\./files/networks/hid"
    ):
        other = specs(digits_files, "hidden016", name="hidden008", preprocess=PREPROCESS)
        record(tmp_path / "pool", other, data, rows=":9")
    with pytest.raises(InvalidInput, match="with another preprocessing; give the new one another name"):
        changed = PREPROCESS.model_copy(update={"divisor": 16.0})
        record(tmp_path / "pool", specs(digits_files, "hidden008", preprocess=changed), data, rows=":9")


def test_all_splits_of_a_member_are_prepared_in_the_same_way(digits_files: Path, tmp_path: Path) -> None:
    members, data = specs(digits_files, "hidden008"), digits_files / "digits.npz"
    record(tmp_path / "pool", members, data, rows=":9", preprocess=PREPROCESS)
    changed = PREPROCESS.model_copy(update={"divisor": 16.0})
    with pytest.raises(InvalidInput, match="member 'hidden008' was recorded with another preprocessing"):
        record(tmp_path / "pool", members, data, rows="9:18", split="test", preprocess=changed)


def test_a_member_twice_is_refused(digits_files: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="member 'hidden008' is named twice"):
        record(tmp_path / "pool", specs(digits_files, "hidden008", "hidden008"), digits_files / "digits.npz")


def test_a_network_without_preprocessing_asks_for_one(digits_files: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InvalidInput, match="does not say how to prepare an image; give it with --preprocess FILE"
    ):
        record(tmp_path / "pool", specs(digits_files, "hidden008"), digits_files / "digits.npz")
    assert read_model(digits_files / "preprocess.yml", Preprocess) == PREPROCESS
