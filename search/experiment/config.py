"""What an experiment is told: a file that people write (`configs/experiments/`)."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from encas.errors import InvalidInput
from encas.files import FileModel, parse_model, read_yaml
from encas.search.algorithms import AlgorithmName
from encas.search.joint.config import JointConfig
from encas.search.nat.config import Images, NatConfig

BEST = "best"  # of the transfers, by the median hypervolume of its networks on val


class Made(FileModel):
    """A transfer or a joint run, once for each seed."""

    config: str  # relative to the experiment's file
    changes: Mapping[str, Any] = Field(default_factory=dict)  # of some of its fields


class Recorded(FileModel):
    """A pool of published networks, the same for all seeds: it lies there, or is recorded first."""

    pool: str | None = None  # relative to --data; made by something else
    members: str | None = None  # a list as for `encas pool record`, relative to the experiment's file
    val: Images | None = None
    test: Images | None = None
    splits: tuple[str, str] = ("val", "test")  # searched on, reported on

    @model_validator(mode="after")
    def _says_where_from(self) -> "Recorded":
        if (self.pool is None) == (self.members is None):
            raise ValueError("name either pool, or members to record")
        if self.members is not None and (self.val is None or self.test is None):
            raise ValueError("members need val and test")
        return self


class Searched(FileModel):
    """A search for cascades, once for each seed."""

    pools: tuple[str, ...] = Field(min_length=1)  # names of what makes pools, or "best"
    clones: int = Field(default=1, ge=1)  # so many runs' pools of each, from that of the seed on
    algorithm: AlgorithmName = "mo-gomea"
    evaluations: int = Field(default=600_000, ge=1)
    max_stages: int = Field(default=5, ge=1)
    refine_thresholds: bool = False  # the published experiments do not
    traced: bool = False  # how the hypervolume grew, for a figure; takes the time of a second search


class Claim(FileModel):
    """One front is better than another; tested on both hypervolume and the largest accuracy."""

    better: str
    than: str
    splits: tuple[Literal["val", "test"], ...] = ("test",)


class Pictured(FileModel):
    """A figure."""

    name: str = Field(pattern=r"^[a-z0-9-]+$")
    title: str
    kind: Literal["fronts", "evaluations"] = "fronts"
    shows: tuple[str, ...] = Field(min_length=1)
    published: tuple[str, ...] = ()  # see `encas.search.experiment.published`


class Experiment(FileModel):
    """All of it. Names of parts are those of transfers, joint runs, recorded pools and searches together.

    A transfer or a recorded pool is compared by its networks on their own, a joint run by its cascades.
    """

    title: str
    seed: int = Field(default=1723, ge=0)  # of the first run; the next ones follow
    runs: int = Field(default=10, ge=1)
    # The paper's, in error and MACs; the experiment's own is error 1 and the dearest network.
    reference: tuple[float, float] = (0.4, 4e9)
    cost_scale: Literal["linear", "log"] = "linear"  # of the experiment's own hypervolume
    nat_changes: Mapping[str, Any] = Field(default_factory=dict)  # of all transfers and joint runs
    nat: Mapping[str, Made] = Field(default_factory=dict)
    joint: Mapping[str, Made] = Field(default_factory=dict)
    pools: Mapping[str, Recorded] = Field(default_factory=dict)
    searches: Mapping[str, Searched]
    claims: tuple[Claim, ...] = ()
    figures: tuple[Pictured, ...] = ()

    @model_validator(mode="after")
    def _names_fit(self) -> "Experiment":
        names = [*self.nat, *self.joint, *self.pools, *self.searches]
        twice = {name for name in names if names.count(name) > 1}
        if twice or BEST in names:
            raise ValueError(f"'{min(twice, default=BEST)}': each part needs a name of its own")
        makers = {*self.nat, *self.joint, *self.pools, *([BEST] if self.nat else [])}
        for name, search in self.searches.items():
            unknown = set(search.pools) - makers
            if unknown:
                raise ValueError(f"searches.{name}.pools: nothing makes '{min(unknown)}'")
        named = {*names, *makers}
        for place, wanted in self._named():
            if wanted not in named:
                raise ValueError(f"{place}: there is no '{wanted}'")
        return self

    def _named(self) -> Iterator[tuple[str, str]]:
        for claim in self.claims:
            yield from (("claims", name) for name in (claim.better, claim.than))
        for figure in self.figures:
            yield from ((f"figures.{figure.name}", name) for name in figure.shows)
            if figure.kind == "evaluations":
                for name in figure.shows:
                    if name not in self.searches or not self.searches[name].traced:
                        raise ValueError(f"figures.{figure.name}: '{name}' is no search that is traced")


def read_experiment(path: Path | str) -> Experiment:
    """Read an experiment.

    Raises:
        InvalidInput: No such file, not YAML, or a field that is not what it should be.
    """
    return parse_model(read_yaml(Path(path)), Experiment, str(path))


def nat_of(made: Made, experiment: Experiment, folder: Path, seed: int) -> NatConfig:
    """Read a transfer's configuration, as the experiment changes it."""
    return parse_model(_changed(made, experiment, folder, seed), NatConfig, str(folder / made.config))


def joint_of(made: Made, experiment: Experiment, folder: Path, seed: int) -> JointConfig:
    """Read a joint run's configuration, as the experiment changes it."""
    return parse_model(_changed(made, experiment, folder, seed), JointConfig, str(folder / made.config))


def _changed(made: Made, experiment: Experiment, folder: Path, seed: int) -> Any:
    value = read_yaml(folder / made.config)
    if not isinstance(value, dict):
        raise InvalidInput(f"{folder / made.config}: must hold fields")
    return merged(merged(merged(value, experiment.nat_changes), made.changes), {"seed": seed})


def merged(value: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Change fields of nested mappings; what is no mapping is replaced, and null removes."""
    out = dict(value)
    for key, change in changes.items():
        if change is None:
            out.pop(key, None)
        elif isinstance(change, Mapping) and isinstance(out.get(key), Mapping):
            out[key] = merged(out[key], change)
        else:
            out[key] = change
    return out
