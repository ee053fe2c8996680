"""Gears: which cascades of a front, in which order, and where their figures come from."""

from pathlib import Path

import pytest

from encas.bundle import Bundle
from encas.cascade import Cascade, Evaluated, PoolReference, Searched, Stage
from encas.errors import InvalidInput
from encas.front import Candidate, Front, FrontFile
from encas.gears import check_order, figures_of, gears_of, points_of


def cascade(name: str, **macs: float) -> Cascade:
    evaluated = {
        split.replace("_", "-"): Evaluated(n=10, accuracy=0.5, macs=cost, exit_fractions=(1.0,))
        for split, cost in macs.items()
    }
    return Cascade(stages=(Stage(member=name),), evaluated=evaluated)


def front(*costs: float) -> Front:
    pool = PoolReference(path="pool", sha256="")
    candidates = tuple(
        Candidate(error=1 - place / 10, cost=cost, cascade=cascade(f"m{cost:g}", val=cost))
        for place, cost in enumerate(costs)
    )
    file = FrontFile(
        pool=pool,
        split="val",
        objective="macs",
        unit="MACs",
        algorithm="greedy",
        seed=0,
        seconds=0,
        candidates=candidates,
    )
    return Front(Path("front"), file)


def names(gears: tuple[Cascade, ...]) -> list[str]:
    return [gear.stages[0].member for gear in gears]


def test_gears_are_the_best_of_the_front_of_half_its_cost_and_so_on() -> None:
    found = front(3, 9, 11, 24, 30, 49, 60, 100)
    assert names(gears_of(found, 1)) == ["m100"]
    assert names(gears_of(found, 4)) == ["m100", "m49", "m24", "m11"]


def test_where_the_front_has_nothing_cheaper_there_are_fewer_gears() -> None:
    assert names(gears_of(front(20, 90, 100), 5)) == ["m100", "m20"]


def test_points_are_what_the_front_reports() -> None:
    assert [point.macs for point in points_of(front(3, 9))] == [3, 9]


def test_figures_are_of_samples_that_all_gears_were_evaluated_on_kept_out_ones_first() -> None:
    first = cascade("a", val=9, val_report=8, test=7)
    first = first.model_copy(update={"searched": Searched(split="val")})
    found = figures_of((first, cascade("b", test=1, val_report=2)))
    assert found is not None
    assert (found[0], [one.macs for one in found[1]]) == ("val-report", [8, 2])
    assert figures_of((first, cascade("b", other=1))) is None


def test_gears_in_another_order_are_refused() -> None:
    check_order((cascade("a", val=2e6), cascade("b", val=1e6)))
    with pytest.raises(InvalidInput, match=r"gear 1 \(b\): takes 3 MMACs on 'val', and gear 0 takes 2"):
        check_order((cascade("a", val=2e6), cascade("b", val=3e6)))
    with pytest.raises(InvalidInput, match="evaluated on different splits"):
        check_order((cascade("a", val=2e6), cascade("b", test=1e6)))


def test_a_bundle_has_its_gears_and_every_network_once(geared_bundle: Bundle, bundle: Bundle) -> None:
    assert [len(gear.stages) for gear in geared_bundle.gears] == [3, 2, 1]
    assert [one.name for one in geared_bundle.gear_members] == [
        "hidden016",
        "hidden064",
        "hidden512",
        "hidden008",
    ]
    second = geared_bundle.at_gear(1)
    assert second.cascade == geared_bundle.cheaper[0] and second.gears == (second.cascade,)
    assert bundle.gears == (bundle.cascade,)


def test_a_gear_without_its_network_is_refused(geared_bundle: Bundle, tmp_path: Path) -> None:
    import shutil

    from encas.bundle import BundleFile
    from encas.files import read_model, write_model

    path = Path(shutil.copytree(geared_bundle.path, tmp_path / "bundle"))
    file = read_model(path / "bundle.json", BundleFile)
    kept = tuple(member for member in file.members if member.name != "hidden008")
    write_model(path / "bundle.json", file.model_copy(update={"members": kept}).sealed())
    with pytest.raises(InvalidInput, match="'hidden008' that the bundle lacks"):
        Bundle.open(path)
