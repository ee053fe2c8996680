import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from encas.bundle import Bundle
from encas.errors import InvalidInput
from encas.files import sha256_of


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def resign(bundle_path: Path, name: str) -> None:
    """Give a changed file its new digest, as somebody who means to deceive would."""
    edit(bundle_path / "bundle.json", lambda b: b["files"].update({name: sha256_of(bundle_path / name)}))


def broken(bundle_path: Path, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as error:
        Bundle.open(bundle_path)
    assert "\n" not in str(error.value)


def test_a_whole_bundle_opens(bundle_path: Path) -> None:
    bundle = Bundle.open(bundle_path)
    assert bundle.name == "digits"
    assert [member.name for member in bundle.stage_members] == ["hidden016", "hidden064", "hidden512"]
    assert bundle.labels[7] == "digit 7"


def test_no_bundle(tmp_path: Path) -> None:
    broken(tmp_path / "nowhere", "nowhere: no such folder; make a bundle with 'encas export")
    broken(tmp_path, "holds no bundle.json")


@pytest.mark.parametrize("name", ["members/hidden064.onnx", "labels.json", "cascade.json"])
def test_a_changed_byte(name: str, bundle_path: Path) -> None:
    content = bytearray((bundle_path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle_path / name).write_bytes(content)
    broken(bundle_path, f"{name}: changed since it was exported")


def test_a_changed_number_in_the_description_itself(bundle_path: Path) -> None:
    path = bundle_path / "bundle.json"
    path.write_text(path.read_text().replace('"std": [\n          1.0', '"std": [\n          9.0', 1))
    broken(bundle_path, "bundle.json: changed since it was exported")


@pytest.mark.parametrize("name", ["members/hidden064.onnx", "labels.json", "cascade.json"])
def test_a_missing_file(name: str, bundle_path: Path) -> None:
    (bundle_path / name).unlink()
    broken(bundle_path, f"{name}: the bundle lists this file, and it is not there")


@pytest.mark.parametrize("name", ["members/hidden064.onnx", "labels.json", "cascade.json"])
def test_a_file_without_a_digest(name: str, bundle_path: Path) -> None:
    edit(bundle_path / "bundle.json", lambda b: b["files"].pop(name))
    broken(bundle_path, f"files: lists no {name}")


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "members/../../secret", "./labels.json", "a//b"]
)
def test_a_path_that_escapes(name: str, bundle_path: Path) -> None:
    (bundle_path.parent / "secret").write_text("secret")
    edit(bundle_path / "bundle.json", lambda b: b["files"].update({name: "0" * 64}))
    broken(bundle_path, "must be a plain path inside the bundle")


def test_a_member_whose_file_escapes(bundle_path: Path) -> None:
    edit(bundle_path / "bundle.json", lambda b: b["members"][0].update(file="../secret.onnx"))
    broken(bundle_path, r"files: lists no \.\./secret\.onnx")


def test_a_link_that_leads_out(bundle_path: Path) -> None:
    inside, outside = bundle_path / "members/hidden064.onnx", bundle_path.parent / "outside.onnx"
    inside.rename(outside)
    inside.symlink_to(outside)
    broken(bundle_path, "is a link that leads out of the bundle")


def test_a_folder_that_is_a_link_out(bundle_path: Path) -> None:
    (bundle_path / "members").rename(bundle_path.parent / "elsewhere")
    (bundle_path / "members").symlink_to(bundle_path.parent / "elsewhere")
    broken(bundle_path, "is a link that leads out of the bundle")


def test_a_link_to_a_bundle_opens(bundle_path: Path) -> None:
    link = bundle_path.parent / "current"
    link.symlink_to(bundle_path)
    assert Bundle.open(link).name == "digits"


def test_another_format(bundle_path: Path) -> None:
    edit(bundle_path / "bundle.json", lambda b: b.update(format="encas-bundle/2"))
    broken(bundle_path, r"bundle\.json: format: .*encas-bundle/1.*found 'encas-bundle/2'")


def test_an_unknown_field(bundle_path: Path) -> None:
    edit(bundle_path / "bundle.json", lambda b: b.update(surprise=1))
    broken(bundle_path, r"bundle\.json: surprise: ")
    edit(bundle_path / "bundle.json", lambda b: b.pop("surprise"))
    edit(bundle_path / "bundle.json", lambda b: b["members"][1].update(surprise=1))
    broken(bundle_path, r"bundle\.json: members\.1\.surprise: ")


def test_a_missing_field(bundle_path: Path) -> None:
    edit(bundle_path / "bundle.json", lambda b: b["members"][1].pop("preprocess"))
    broken(bundle_path, r"bundle\.json: members\.1\.preprocess: ")


@pytest.mark.parametrize("content", ["", "{", "[]", '"text"', "\x00"])
def test_no_json(content: str, bundle_path: Path) -> None:
    (bundle_path / "bundle.json").write_text(content)
    broken(bundle_path, r"bundle\.json")


def test_a_cascade_that_names_a_member_the_bundle_lacks(bundle_path: Path) -> None:
    edit(bundle_path / "cascade.json", lambda c: c["stages"][1].update(member="resnet50"))
    resign(bundle_path, "cascade.json")
    broken(bundle_path, "names a member 'resnet50' that the bundle lacks")


@pytest.mark.parametrize("threshold", [1.1, -0.1, None, "0.5x"])
def test_a_threshold_outside_0_to_1(threshold: object, bundle_path: Path) -> None:
    edit(bundle_path / "cascade.json", lambda c: c["stages"][0].update(threshold=threshold))
    resign(bundle_path, "cascade.json")
    broken(bundle_path, r"cascade\.json: .*threshold")


def test_a_changed_threshold_is_a_changed_file(bundle_path: Path) -> None:
    edit(bundle_path / "cascade.json", lambda c: c["stages"][0].update(threshold=0.5))
    broken(bundle_path, r"cascade\.json: changed since it was exported")
