"""MO-GOMEA as an algorithm of pymoo, for any problem of whole numbers without constraints."""

from typing import Any

import numpy as np
from pymoo.core.algorithm import Algorithm  # type: ignore[import-untyped]
from pymoo.core.population import Population  # type: ignore[import-untyped]
from pymoo.core.problem import Problem  # type: ignore[import-untyped]

from encas.search.gomea import MoGomea


class MoGomeaAlgorithm(Algorithm):  # type: ignore[misc]  # pymoo has no types
    """Runs on a pymoo `Problem` whose variables are whole numbers from `xl` to `xu`.

    One iteration of pymoo is one batch of mixing steps, so state the termination in evaluations:
    `minimize(problem, MoGomeaAlgorithm(), ("n_eval", 10_000), seed=1)`. The result is the archive. A history
    (`save_history`) holds populations that can be looked at but not continued.
    """

    def __init__(self, *, tolerance: float = 1e-5, archive_size: int = 10_000, **kwargs: Any) -> None:
        """Take the settings of `MoGomea`, and those of every pymoo algorithm."""
        super().__init__(**kwargs)
        self._tolerance = tolerance
        self._archive_size = archive_size

    def _setup(self, problem: Problem, **_: Any) -> None:
        if problem.has_constraints():
            raise ValueError(f"MO-GOMEA takes no constraints, the problem has {problem.n_constr}")
        if not problem.has_bounds():
            raise ValueError("MO-GOMEA needs the bounds of every variable, the problem has none")
        low, high = problem.bounds()
        if (low != np.round(low)).any() or (high != np.round(high)).any():
            raise ValueError("MO-GOMEA needs variables of whole numbers; the problem's bounds are none")
        self._low = low.astype(np.intp)
        n_values = high.astype(np.intp) - self._low + 1
        self._search = MoGomea(
            n_values,
            problem.n_obj,
            np.random.default_rng(self.seed),
            tolerance=self._tolerance,
            archive_size=self._archive_size,
        )

    def _infill(self) -> Population:
        return Population.new(X=self._search.ask() + self._low)

    def _advance(self, infills: Population | None = None, **_: Any) -> None:
        assert infills is not None
        self._search.tell(infills.get("F"))
        archive = self._search.archive
        self.pop = Population.new(X=archive.genomes + self._low, F=archive.objectives.copy())

    _initialize_infill = _infill
    _initialize_advance = _advance

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the running search, which cannot be copied: pymoo copies algorithms into its history."""
        return {name: value for name, value in self.__dict__.items() if name != "_search"}
