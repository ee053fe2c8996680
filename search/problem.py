"""What is searched on."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

from encas import __version__
from encas.cascade import PoolReference
from encas.cost import CostModel, Objective, cost_model, taking_part
from encas.held_out import HeldOut
from encas.pool import Member, Pool
from encas.refinement import Corrections


@dataclass(frozen=True)
class Problem:
    """What is searched on: everything that error and cost of a cascade depend on."""

    pool: Pool
    split: str
    objective: Objective
    members: tuple[Member, ...]
    costs: CostModel
    max_stages: int
    held_out: HeldOut

    @classmethod
    def of(
        cls,
        pool: Pool,
        split: str,
        objective: str,
        max_stages: int,
        report_fraction: float = 0.0,
        corrections: Corrections | None = None,
    ) -> "Problem":
        """Take every member with outputs on a split."""
        goal = Objective.parse(objective)
        members = taking_part(pool.members_with(split), goal)
        # A member after itself changes no answer.
        stages = 1 if len(members) == 1 else max_stages
        held_out = HeldOut.of(pool, split, report_fraction)
        costs = cost_model(members, goal, len(held_out.rest), corrections)
        return cls(pool, split, goal, members, costs, stages, held_out)

    @property
    def names(self) -> list[str]:
        """(m,) of the members."""
        return [member.name for member in self.members]

    @property
    def most(self) -> float:
        """Cost of the dearest member, and above 0."""
        return float(self.costs.singles.max()) or 1.0

    @cached_property
    def reference(self) -> PoolReference:
        """Where the pool lies."""
        return PoolReference(path=str(self.pool.path.resolve()), sha256=self.pool.sha256)

    @property
    def digest(self) -> str:
        """Says whether two problems are the same."""
        times = [member.model_dump(mode="json")["latency"] for member in self.members]
        costs = "macs" if self.objective.kind == "macs" else [str(self.objective), times]
        searched = self.held_out.searched.model_dump(mode="json")
        content = [self.pool.sha256, searched, self.names, costs, self.max_stages, __version__]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()
