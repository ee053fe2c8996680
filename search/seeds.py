"""One search with several seeds, each into a folder of its own; on a cluster at the same time."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from encas.cluster import Cluster
from encas.cost import Objective
from encas.errors import InvalidInput
from encas.front import Front, FrontFile
from encas.pool import Pool
from encas.search.algorithms import AlgorithmName
from encas.search.drive import Progress
from encas.search.picture import draw
from encas.search.run import REPORT_FRACTION, search


@dataclass(frozen=True)
class Settings:
    """What is the same for all seeds; see `encas.search.search`."""

    evaluations: int = 600_000
    algorithm: AlgorithmName = "mo-gomea"
    objective: str = "macs"
    max_stages: int = 5
    split: str = "val"
    report_fraction: float = REPORT_FRACTION
    seed_singles: bool = False
    refine_thresholds: bool | None = None
    workers: int = 1


@dataclass(frozen=True)
class _Searching:
    pool: Pool
    settings: Settings


def search_seeds(
    pool: Pool,
    seeds: Sequence[int],
    out: Path | str,
    settings: Settings | None = None,
    *,
    cluster: Cluster | None = None,
    progress: Progress | None = None,
) -> tuple[Front, ...]:
    """Search with each seed, into `out/seed-N`; those whose front is there already are not searched again.

    Args:
        pool: On a cluster all machines find it by the same path.
        seeds: Different from each other.
        out: Folder of the fronts.
        settings: Of all searches.
        cluster: Where they run; None: here, one after the other, and a search that was stopped goes on.
        progress: Told of evaluations here, and of whole searches on a cluster.

    Returns:
        The fronts, as the seeds stand.

    Raises:
        EncasError: See `Cluster.run`.
        InvalidInput: A seed twice; see `search`.
    """
    if len(set(seeds)) < len(seeds):
        raise InvalidInput(f"seeds: each may stand there once, got {', '.join(map(str, seeds))}")
    searching = _Searching(pool, settings or Settings())
    places = {seed: Path(out) / f"seed-{seed}" for seed in seeds}
    todo = [seed for seed, place in places.items() if not _is_done(searching, seed, place)]
    if progress is not None and len(todo) < len(seeds):
        progress((len(seeds) - len(todo)) * searching.settings.evaluations, "found already")
    if cluster is None:
        for seed in todo:
            _search(searching, seed, places[seed], progress)
    else:
        for seed, file in _searched_on(cluster, searching, todo):
            front = Front(places[seed], file)
            front.write()
            draw(front)
            if progress is not None:
                progress(searching.settings.evaluations, f"seed {seed}")
    return tuple(Front.open(place) for place in places.values())


def _searched_on(
    cluster: Cluster, searching: _Searching, seeds: Sequence[int]
) -> Iterator[tuple[int, FrontFile]]:
    """Yield the fronts of seeds as their searches end."""
    if not seeds:
        return
    need = cluster.need("cpu")
    pool = replace(searching.pool, path=searching.pool.path.absolute())
    there = _Searching(pool, replace(searching.settings, workers=need.cores))
    for which, file in cluster.run(_search_there, there, seeds, need):
        yield seeds[which], file


def _search_there(searching: _Searching, seed: int) -> FrontFile:
    """Be a job."""
    pool = Pool.open(searching.pool.path)
    if pool.sha256 != searching.pool.sha256:
        raise InvalidInput(f"{pool.path}: is another pool than on the machine that asks; share it")
    return _search(searching, seed).file


def _search(
    searching: _Searching, seed: int, out: Path | None = None, progress: Progress | None = None
) -> Front:
    return search(searching.pool, seed=seed, out=out, progress=progress, **asdict(searching.settings))


def _is_done(searching: _Searching, seed: int, place: Path) -> bool:
    """Whether a front is there that this search would write."""
    if not (place / "front.json").is_file():
        return False
    wanted, file = searching.settings, Front.open(place).file
    refines = wanted.algorithm == "mo-gomea" if wanted.refine_thresholds is None else wanted.refine_thresholds
    objective = str(Objective.parse(wanted.objective))
    settings = {
        "evaluations": wanted.evaluations,
        "max_stages": wanted.max_stages,
        "refine_thresholds": refines,
        "report_fraction": wanted.report_fraction,
        "seed_singles": wanted.seed_singles,
    }
    return (
        (file.seed, file.algorithm, file.objective, file.split, file.pool.sha256)
        == (seed, wanted.algorithm, objective, wanted.split, searching.pool.sha256)
        and settings.items() <= dict(file.settings).items()
        and file.refinement is None
    )
