from pathlib import Path

import pytest

from encas.errors import InvalidInput
from encas.export.source import (
    MemberSpec,
    absolute,
    as_name,
    as_stored,
    portable,
    read_members,
    read_preprocess,
    spec_of,
)
from encas.pool import Member
from encas.preprocess import Preprocess


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("timm:resnet50.a1_in1k", "resnet50.a1_in1k"),
        ("timm:hf-hub:timm/resnet18", "hf-hub.timm-resnet18"),
        ("torchvision:resnet50:IMAGENET1K_V2", "resnet50.IMAGENET1K_V2"),
        ("torch:my_networks.small:tiny", "tiny"),
        ("onnx:../networks/resnet 20 (best).onnx", "resnet-20-best-"),
    ],
)
def test_a_name_is_made_of_the_source(source: str, name: str) -> None:
    assert MemberSpec(source=source).member_name == name
    assert Member(name=name, source=source, macs=0).name == name


def test_a_name_that_is_given_wins() -> None:
    assert MemberSpec(source="timm:resnet18", name="small").member_name == "small"


def test_any_text_becomes_a_name() -> None:
    assert as_name("...") == "member"
    assert as_name("a" * 300) == "a" * 200


@pytest.mark.parametrize("source", ["resnet18", "keras:resnet", "timm:", "torch:module", "torch::f"])
def test_a_source_of_no_known_kind_is_refused(source: str) -> None:
    with pytest.raises(InvalidInput, match="must be timm:NAME, torchvision:NAME, torch:MODULE:FUNCTION"):
        absolute(MemberSpec(source=source), Path())


def test_files_are_stored_relative_to_a_pool_beside_them(tmp_path: Path) -> None:
    for name in ("project/nets/a.onnx", "project/pool/inside.onnx", "elsewhere/w.pth"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    pool = tmp_path / "project/pool"
    assert portable(tmp_path / "project/nets/a.onnx", pool) == "../nets/a.onnx"
    assert portable(pool / "inside.onnx", pool) == "inside.onnx"
    assert portable(tmp_path / "elsewhere/w.pth", pool) == str(tmp_path / "elsewhere/w.pth")


def test_what_is_stored_is_found_again(tmp_path: Path) -> None:
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets/a.onnx").touch()
    spec = absolute(MemberSpec(source="onnx:nets/a.onnx"), tmp_path)
    stored = as_stored(spec, tmp_path / "pool")
    assert stored.source == "onnx:../nets/a.onnx"
    member = Member(name="a", source=stored.source, macs=1, preprocess=Preprocess(size=(8, 8)))
    again = spec_of(member, tmp_path / "pool", allow_code=False)
    assert again.source == f"onnx:{(tmp_path / 'nets/a.onnx').resolve()}"
    assert again.preprocess == member.preprocess


def test_a_file_that_is_gone_is_named(tmp_path: Path) -> None:
    member = Member(name="a", source="onnx:../nets/a.onnx", macs=1)
    with pytest.raises(InvalidInput, match=r"nets/a\.onnx: no such file"):
        spec_of(member, tmp_path / "pool", allow_code=False)


def test_code_that_a_pool_names_runs_only_if_allowed() -> None:
    member = Member(name="a", source="torch:os:getcwd", macs=1)
    with pytest.raises(
        InvalidInput, match=r"member 'a' would run the Python function os:getcwd; add --allow-code"
    ):
        spec_of(member, Path("pool"), allow_code=False)
    assert spec_of(member, Path("pool"), allow_code=True).source == "torch:os:getcwd"


def test_imported_outputs_have_no_network() -> None:
    with pytest.raises(InvalidInput, match="member 'a' has imported outputs only; record its network"):
        spec_of(Member(name="a", source="imported", macs=1), Path("pool"), allow_code=True)


def test_a_list_of_members_names_files_relative_to_it(tmp_path: Path) -> None:
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets/a.onnx").touch()
    (tmp_path / "members.yml").write_text(
        "- source: timm:resnet18\n"
        "- {source: onnx:nets/a.onnx, name: small, preprocess: {size: 8, channels: 1, mean: [0], std: [1]}}\n"
    )
    first, second = read_members(tmp_path / "members.yml")
    assert first == MemberSpec(source="timm:resnet18")
    assert second.source == f"onnx:{(tmp_path / 'nets/a.onnx').resolve()}"
    assert second.preprocess == Preprocess(size=(8, 8), channels=1, mean=(0.0,), std=(1.0,))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {source: timm:a, colour: red}\n", r"members.yml: members.0.colour: .*not permitted"),
        ("- {name: a}\n", r"members.0.source: Field required"),
        ("source: timm:a\n", "must be a list of members, each with a source; is dict"),
        ("- [\n", "not YAML"),
        ("- {source: timm:a, preprocess: {size: 0}}\n", "size must be positive"),
        ("- !!python/object/apply:os.getcwd []\n", "not YAML"),
    ],
)
def test_a_list_of_members_that_is_not_right_says_where(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "members.yml").write_text(text)
    with pytest.raises(InvalidInput, match=message):
        read_members(tmp_path / "members.yml")


def test_a_preprocessing_is_yaml_or_json(tmp_path: Path) -> None:
    (tmp_path / "p.yml").write_text("size: 8\ninterpolation: bilinear\n")
    (tmp_path / "p.json").write_text('{"size": [8, 8], "interpolation": "bilinear"}')
    assert read_preprocess(tmp_path / "p.yml") == read_preprocess(tmp_path / "p.json")
