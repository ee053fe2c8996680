"""Files that say what an experiment is."""

from pathlib import Path

import pytest

from encas.errors import InvalidInput
from encas.files import parse_model
from encas.search.experiment.config import Experiment, joint_of, merged, nat_of, read_experiment
from encas.search.experiment.needed import check_needed
from encas.search.experiment.published import PUBLISHED
from encas.search.joint.config import read_joint

FOLDER = Path(__file__).parents[3] / "configs" / "experiments"
ALL = sorted(FOLDER.glob("*.yml"))


def test_every_published_experiment_has_a_tiny_sibling() -> None:
    names = {path.stem for path in ALL}
    assert {"cifar10", "cifar100", "imagenet", "timm"} <= names
    assert all(f"tiny_{name}" in names for name in names if not name.startswith("tiny_"))


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_every_experiment_is_whole(path: Path) -> None:
    told = read_experiment(path)
    for made in told.nat.values():
        nat_of(made, told, FOLDER, told.seed)
    for made in told.joint.values():
        joint_of(made, told, FOLDER, told.seed)
    assert {name for figure in told.figures for name in figure.published} <= PUBLISHED.keys()


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_what_is_missing_is_one_line_with_origins(path: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as error:
        check_needed(read_experiment(path), FOLDER, tmp_path)
    assert "\n" not in str(error.value)
    assert " from " in str(error.value)


def test_missing_weights_name_their_licence(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"alphanet_pretrained.*drive\.google\.com.*CC-BY-NC"):
        check_needed(read_experiment(FOLDER / "cifar10.yml"), FOLDER, tmp_path)


def test_changes_reach_into_mappings_and_null_removes() -> None:
    value = {"loop": {"first": 3, "epochs": 1}, "weights": "a"}
    changed = merged(value, {"loop": {"first": 5}, "weights": None})
    assert changed == {"loop": {"first": 5, "epochs": 1}}


def test_a_search_on_what_nothing_makes_is_refused() -> None:
    with pytest.raises(InvalidInput, match="nothing makes 'b'"):
        parse_model({"title": "t", "searches": {"a": {"pools": ["b"]}}}, Experiment, "file")


JOINT = FOLDER.parent / "joint"


@pytest.mark.parametrize("path", sorted(JOINT.glob("cifar*.yml")), ids=lambda path: path.stem)
def test_a_joint_run_is_as_in_the_paper(path: Path) -> None:
    told = read_joint(path)
    loop = told.loop
    assert (loop.iterations, loop.first, loop.candidates, loop.epochs) == (30, 300, 300, 5)
    assert (loop.surrogate_evaluations, loop.cut_mix, loop.averaged, loop.archive) == (
        10_000,
        0.5,
        20,
        "replaced",
    )
    assert len(told.space.bounds[0]) == {2: 54, 5: 132}[len(told.supernets)]
