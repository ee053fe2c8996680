"""Configurations: those that come with encas, and what is wrong with others."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from encas.errors import InvalidInput
from encas.search.nat.config import Images, read_config

FOLDER = Path(__file__).parents[3] / "configs" / "nat"
FILES = sorted(FOLDER.glob("*.yml"))


def test_there_is_a_file_for_each_experiment_of_the_paper_and_six_tiny_ones() -> None:
    supernets = ("alphanet", "attentivenas", "ofa_w1.0", "ofa_w1.2", "proxyless")
    kinds = ("cifar10", "cifar100", "imagenet", "tiny")
    expected = {f"{kind}_{name}" for kind in kinds for name in supernets}
    reproductions = {f"{kind}_reproduction" for kind in ("cifar10", "cifar100", "tiny")}
    assert {file.stem for file in FILES} == expected | reproductions


# The paper's settings, by kind of experiment: those of the loop, then of its end.
PAPER: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "cifar": (
        {"iterations": 30, "first": 300, "candidates": 300, "epochs": 5, "surrogate_evaluations": 10_000}
        | {"search": "nsga3", "fitted_on": None, "trained": "candidates", "cosine": "restarted"}
        | {"archive": "replaced", "cut_mix": 0.5, "cut_out": 0, "averaged": 20},
        {"front": "all", "calibration_images": 13_824},
    ),
    "reproduction": (
        {"iterations": 30, "first": 100, "candidates": 300, "epochs": 5, "surrogate_evaluations": 10_000}
        | {"search": "nsga3", "fitted_on": 100, "trained": "marginals", "cosine": "once"}
        | {"archive": "replaced", "cut_mix": 0, "cut_out": 56, "averaged": 1},
        {"front": "last", "calibration_images": 13_824},
    ),
    "imagenet": (
        {"iterations": 15, "first": 150, "candidates": 30, "epochs": 0, "surrogate_evaluations": 2_000}
        | {"search": "nsga3", "fitted_on": None, "archive": "grows", "averaged": 1},
        {"front": "all", "calibration_images": 10_000},
    ),
}
COMMON = {"batch": 96, "rate": 0.01, "weight_decay": 4e-5, "calibration_images": 2_000}


@pytest.mark.parametrize(
    "file", [f for f in FILES if not f.stem.startswith("tiny")], ids=lambda f: str(f.stem)
)
def test_it_has_the_settings_of_the_paper(file: Path) -> None:
    read, (data_set, _, name) = read_config(file), file.stem.partition("_")
    kind = name if name == "reproduction" else data_set.rstrip("10")
    loop, final = PAPER[kind]
    assert {key: getattr(read.loop, key) for key in {**loop, **COMMON}} == {**loop, **COMMON}
    assert {key: getattr(read.final, key) for key in final} == final
    data = read.data
    assert (data.classes, data.crop_pct) == ({"cifar10": 10}.get(data_set, data.classes), 0.875)
    two_steps = data_set == "imagenet" and name in ("alphanet", "attentivenas")
    assert (data.resize, data.size) == (("tensor", 224) if two_steps else ("image", None))
    if data_set == "imagenet":
        assert data.train == Images(path="imagenet/train", shuffled_by=0, per_class=10)
        assert (data.val, data.test) == (Images(path="imagenetv2"), Images(path="imagenet/val"))
        assert data.interpolation == ("bicubic" if name == "alphanet" else "bilinear")
    else:
        assert (data.train.shuffled_by, data.train.rows) == (data.val.shuffled_by, "10000:") == (0, "10000:")
        assert (data.val.rows, data.augment, data.interpolation) == (":10000", "strong", "bicubic")
    assert [space.name for space in read.population.spaces] == SPACES_OF.get(name, [name])


SPACES_OF = {
    "ofa_w1.0": ["ofa-mbv3-w1.0"],
    "ofa_w1.2": ["ofa-mbv3-w1.2"],
    "proxyless": ["ofa-proxyless-w1.3"],
    "reproduction": ["ofa-mbv3-w1.0", "ofa-mbv3-w1.2"],
}


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.stem))
def test_it_can_be_read(file: Path) -> None:
    assert read_config(file).loop.iterations >= 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colour": "red"}, "colour: Extra inputs are not permitted"),
        ({"space": "resnet"}, "space 'resnet': there is none; must be one of ofa-mbv3-w1.0"),
        ({"weights": "file"}, "name either weights, or how to train from the start"),
        ({"others": [{"space": "tiny-proxyless"}]}, "others: each space must be another one"),
        ({"others": [{"space": "tiny-alphanet"}]}, "tiny-alphanet has other genes than tiny-proxyless"),
        ({"others": [{"space": "x", "weights": "file"}]}, "name either weights, or how to train"),
        (
            {"loop": {"iterations": 1, "first": 3, "candidates": 3, "fitted": 3}},
            "loop.fitted: Extra inputs are not permitted",
        ),
        ({"start": None}, "name either weights, or how to train from the start"),
        ({"start": {"epochs": 1, "phases": {}}}, "phases belong to rule: shrinking"),
        (
            {"start": {"epochs": 1, "rule": "shrinking", "phases": {"full": 0.5}}},
            "the shares must add up to 1, not to 1.1",
        ),
        ({"start": {"epochs": 1, "rule": "shrinking", "best_of": 3}}, "random networks (n_random) without"),
        (
            {"space": "tiny-alphanet", "start": {"epochs": 1, "rule": "shrinking"}},
            "start.rule: the widths of tiny-alphanet are searched, which sandwich trains",
        ),
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


def test_smallest_and_largest_of_each_supernetwork_leave_room_for_others(tmp_path: Path) -> None:
    value = yaml.safe_load((FOLDER / "tiny_ofa_w1.0.yml").read_text())
    value["others"] = [{"space": "tiny-mbv3-w1.2"}]
    value["loop"]["candidates"] = 4
    (tmp_path / "x.yml").write_text(yaml.safe_dump(value))
    with pytest.raises(InvalidInput, match=r"loop: first and candidates must be above 4, since the smallest"):
        read_config(tmp_path / "x.yml")


def test_what_is_no_yaml_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"gone\.yml: no such file"):
        read_config(tmp_path / "gone.yml")
    (tmp_path / "x.yml").write_text("a: [")
    with pytest.raises(InvalidInput, match=r"x\.yml: not YAML"):
        read_config(tmp_path / "x.yml")
