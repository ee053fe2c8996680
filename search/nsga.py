"""NSGA-II and NSGA-III, those of pymoo, behind the contract of `encas.search.algorithm`.

Sources: Deb, Pratap, Agarwal, Meyarivan, IEEE Transactions on Evolutionary Computation 6(2), 2002; Deb, Jain,
the same 18(4), 2014. Genes are numbers to them: simulated binary crossover and polynomial mutation, rounded.
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pymoo.algorithms.moo.nsga2 import NSGA2  # type: ignore[import-untyped]
from pymoo.algorithms.moo.nsga3 import NSGA3  # type: ignore[import-untyped]
from pymoo.core.problem import Problem  # type: ignore[import-untyped]
from pymoo.core.termination import NoTermination  # type: ignore[import-untyped]
from pymoo.operators.crossover.sbx import SBX  # type: ignore[import-untyped]
from pymoo.operators.mutation.pm import PM  # type: ignore[import-untyped]
from pymoo.operators.repair.rounding import RoundingRepair  # type: ignore[import-untyped]
from pymoo.util.ref_dirs import get_reference_directions  # type: ignore[import-untyped]

from encas.search.algorithm import Genomes, Objectives, random_genomes

SIZE = 100  # solutions, as many as reference directions for two objectives
_ETA = 3.0  # how near children are to their parents


class Nsga:
    """Minimises two objectives over genomes of whole numbers; see `encas.search.algorithm.Algorithm`.

    Args:
        kind: "nsga2" keeps what is far from others, "nsga3" what is near evenly spread directions.
        n_values: (g,) gene j is in [0, n_values[j]).
        rng: The only source of chance.
        seeds: (s, g) genomes to start from: half of the first solutions at most.
    """

    def __init__(
        self,
        kind: Literal["nsga2", "nsga3"],
        n_values: NDArray[np.intp],
        rng: np.random.Generator,
        *,
        seeds: Genomes | None = None,
    ) -> None:
        n_values = np.asarray(n_values, np.intp)
        first = random_genomes(SIZE, n_values, rng)
        if seeds is not None:
            some = rng.permutation(seeds)[: SIZE // 2]
            first[: len(some)] = some
        whole: dict[str, Any] = {"vtype": float, "repair": RoundingRepair()}
        settings: dict[str, Any] = {
            "pop_size": SIZE,
            "sampling": first,
            "crossover": SBX(prob=1.0, eta=_ETA, **whole),
            "mutation": PM(prob=1.0, eta=_ETA, **whole),
        }
        if kind == "nsga2":
            self._search = NSGA2(**settings)
        else:
            directions = get_reference_directions("das-dennis", 2, n_partitions=SIZE - 1)
            self._search = NSGA3(directions, **settings)
        problem = Problem(n_var=len(n_values), n_obj=2, xl=0, xu=n_values - 1, vtype=int)
        self._search.setup(problem, seed=int(rng.integers(2**32)), termination=NoTermination())
        self._n_genes = len(n_values)
        self._asked: Any = self._search.ask()

    def ask(self) -> Genomes:
        """(p, g) genomes; none when crossover and mutation bring forth nothing new any more."""
        if self._asked is None:
            return np.empty((0, self._n_genes), np.intp)
        genomes: Genomes = self._asked.get("X").astype(np.intp)
        return genomes

    def tell(self, objectives: Objectives) -> None:
        """Take the (p, 2) objectives of what was asked."""
        self._asked.set("F", objectives)
        self._search.tell(infills=self._asked)
        self._asked = self._search.ask()
