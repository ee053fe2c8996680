import importlib
from typing import Any

import numpy as np
import pytest

from .problems import trap_inverse_trap

pytest.importorskip("pymoo")
optimize = importlib.import_module("pymoo.optimize")
Problem: Any = importlib.import_module("pymoo.core.problem").Problem
adapter = importlib.import_module("encas.search.pymoo_adapter")


class Traps(Problem):  # type: ignore[misc]
    """Zeros are written as 3 and ones as 4, to see that bounds are respected."""

    def __init__(self, **settings: Any) -> None:
        self.known = trap_inverse_trap(3)
        super().__init__(n_var=15, n_obj=2, xl=3, xu=4, vtype=int, **settings)

    def _evaluate(self, x: Any, out: dict[str, Any], *_: Any, **__: Any) -> None:
        assert x.min() >= 3 and x.max() <= 4
        out["F"] = self.known.objectives(x - 3)


@pytest.mark.slow
def test_pymoo_gets_the_whole_front() -> None:
    found = optimize.minimize(Traps(), adapter.MoGomeaAlgorithm(), ("n_eval", 5000), seed=1)
    assert sorted((int(-a), int(-b)) for a, b in found.F) == Traps().known.front
    assert (Traps().known.objectives(found.X - 3) == found.F).all()


@pytest.mark.slow
def test_the_same_seed_gives_the_same_result_and_a_history_can_be_kept() -> None:
    settings = {"seed": 5, "save_history": True}
    one, other = (
        optimize.minimize(Traps(), adapter.MoGomeaAlgorithm(), ("n_eval", 600), **settings) for _ in range(2)
    )
    assert (one.X == other.X).all()
    assert len(one.history) > 10
    assert one.history[0].evaluator.n_eval == 8
    assert len(one.history[0].pop) > 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"n_ieq_constr": 1}, "takes no constraints"), ({"xl": 0.5}, "whole numbers"), ({"xl": None}, "bounds")],
)
def test_problems_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    class Unfit(Problem):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(**{"n_var": 4, "n_obj": 2, "xl": 0, "xu": 1, **settings})

    with pytest.raises(ValueError, match=message):
        optimize.minimize(Unfit(), adapter.MoGomeaAlgorithm(), ("n_eval", 100), seed=1)


def test_it_can_be_asked_and_told() -> None:
    algorithm = adapter.MoGomeaAlgorithm(archive_size=40, tolerance=0.5)
    algorithm.setup(Traps(), seed=3, termination=("n_eval", 50))
    infills = algorithm.ask()
    assert infills.get("X").shape == (8, 15)
    algorithm.evaluator.eval(algorithm.problem, infills)
    algorithm.tell(infills=infills)
    assert 1 <= len(algorithm.pop) <= 8
    assert (np.asarray(algorithm.pop.get("X")) >= 3).all()
