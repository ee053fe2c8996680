"""Configurations: those that come with encas, and what is wrong with others."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from encas.errors import InvalidInput
from encas.search.nat.config import read_config

FOLDER = Path(__file__).parents[3] / "configs" / "nat"
FILES = sorted(FOLDER.glob("*.yml"))


def test_there_is_a_file_for_each_experiment_of_the_paper_and_five_tiny_ones() -> None:
    supernets = ("alphanet", "attentivenas", "ofa_w1.0", "ofa_w1.2", "proxyless")
    kinds = ("cifar10", "cifar100", "imagenet", "tiny")
    assert {file.stem for file in FILES} == {f"{kind}_{name}" for kind in kinds for name in supernets}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.stem))
def test_it_can_be_read(file: Path) -> None:
    assert read_config(file).loop.iterations >= 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "red"}, "colour: Extra inputs are not permitted"),
        ({"space": "resnet"}, "space 'resnet': there is none; must be one of ofa-mbv3-w1.0"),
        ({"weights": "file"}, "name either weights, or how to train from the start"),
        ({"start": None}, "name either weights, or how to train from the start"),
        ({"start": {"epochs": 1, "growing": [[0.5, 23]]}}, "tiny-proxyless has no resolution 23"),
        (
            {"loop": {"iterations": 0, "first": 3, "candidates": 1}},
            "loop.iterations: Input should be greater",
        ),
    ],
)
def test_what_is_wrong_is_told_in_one_line(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    value = yaml.safe_load((FOLDER / "tiny_proxyless.yml").read_text()) | change
    path = tmp_path / "x.yml"
    path.write_text(yaml.safe_dump(value))
    with pytest.raises(InvalidInput) as caught:
        read_config(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_no_yaml_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"gone\.yml: no such file"):
        read_config(tmp_path / "gone.yml")
    (tmp_path / "x.yml").write_text("a: [")
    with pytest.raises(InvalidInput, match=r"x\.yml: not YAML"):
        read_config(tmp_path / "x.yml")
