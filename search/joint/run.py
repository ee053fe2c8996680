"""From several supernetworks and a data set to a front of cascades, and a pool of their members."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from encas import __version__
from encas.cascade import PoolReference, Searched
from encas.errors import InvalidInput
from encas.evaluation import evaluate, evaluate_members
from encas.export.recorder import record
from encas.export.source import MemberSpec
from encas.export.torch_network import check_device
from encas.export.transfer import Splits, check_pool, check_same_images, keep, written
from encas.files import locked, read_model, remove_leftovers, write_model
from encas.front import Candidate, Front, FrontFile, Single
from encas.pool import Pool
from encas.search.joint.config import JointConfig
from encas.search.joint.loop import JointEvaluation, JointReport, JointSearch
from encas.search.nat.images import Share
from encas.search.nat.iteration import best
from encas.search.nat.population import numbers
from encas.search.nat.transfer import Phase, Transfer
from encas.search.pareto import non_dominated


def joint(
    config: JointConfig,
    run: Path | str,
    pool: Path | str,
    *,
    data: Path | str = ".",
    device: str = "cpu",
    phase: Phase = lambda _name, _steps: lambda _done, _words: None,
    workers: int = 0,
) -> tuple[Pool, Front, tuple[JointReport, ...]]:
    """Search supernetworks' weights and cascades of their networks together.

    What is done already is not done again. RUN/front has the cascades, with the averaged weights; `pool` has
    their members and, besides, each supernetwork's own front among all networks that were evaluated: what
    ENCAS is run on afterwards.

    Args:
        config: What to do.
        run: Folder for weights, evaluations and reports; goes on where it was.
        pool: Folder; the networks are added to it.
        data: What the paths of the configuration are relative to.
        device: "cpu" or "cuda".
        phase: See `encas.export.transfer.transfer`.
        workers: Processes that prepare strongly augmented images.

    Raises:
        InvalidInput: There are no such images or weights, or the run is of another configuration or images.
        Diverged: Training lost its way.
    """
    check_device(device)
    run, pool, data = Path(run), Path(pool), Path(data)
    splits = Splits.open(config.nat(0), data)
    for one in config.supernets:
        if one.weights is not None and not (data / one.weights).is_file():
            raise InvalidInput(
                f"{data / one.weights}: no such file of weights; 'encas nat weights' says where they are"
            )
    check_pool(pool, splits)
    if not (run / "iterations").exists():
        splits.check_images(phase)
    with locked(run):
        _check_config(config, run)
        check_same_images(splits, run)
        remove_leftovers(run)
        search = _search(config, run, splits, data, device, phase, workers)
        reports = search.run()
        chosen = best(search.found(), config.final.networks)
        sources = _kept(search, chosen, splits, phase)
    members = [MemberSpec(source=source, name=name) for name, source in sources.items()]
    for name, images in splits.recorded.items():
        place = written(images, run / "data" / name)
        advance = phase(f"recording {name}", len(members) * len(images))
        record(pool, members, place, split=name, classes=splits.classes, advance=advance)
    opened = Pool.open(pool)
    return opened, _front(search, chosen, opened, list(sources)), reports


def _search(
    config: JointConfig,
    run: Path,
    splits: Splits,
    data: Path,
    device: str,
    phase: Phase,
    workers: int,
) -> JointSearch:
    judge, transfers = splits.judge(), []
    for which, one in enumerate(config.supernets):
        nat = config.nat(which)
        batches = partial(replace(splits, config=nat).batches, share=Share(0, 1), workers=workers)
        weights = [data / one.weights] if one.weights is not None else []
        place = run / "supernets" / one.space
        transfers.append(Transfer(nat, place, judge, batches, weights, device, _named(phase, one.space)))
    return JointSearch(config, run, judge, transfers, phase)


def _named(phase: Phase, space: str) -> Phase:
    return lambda name, steps: phase(f"{name} {space}", steps)


def member_name(run: Path, space: str, genes: str) -> str:
    """Name of a network in the pool."""
    return f"{run.resolve().name}_{space}_{genes}"


def _kept(
    search: JointSearch, chosen: Sequence[JointEvaluation], splits: Splits, phase: Phase
) -> dict[str, str]:
    """Write the supernetworks with all networks that become members; return their sources by name."""
    config, run, sources = search.config, search.folder, {}
    for which, (one, supernet) in enumerate(zip(config.supernets, search.averaged(), strict=True)):
        known = {network.genes: network for network in search.members(which)}
        in_cascades = {search.space.members(numbers(cascade.genes))[which] for cascade in chosen}
        own_front = {network.genes for network in best(list(known.values()), config.final.networks)}
        wanted = [known[genes] for genes in sorted(in_cascades | own_front)]
        place = run / "supernet" / one.space
        keep([supernet], wanted, [place], replace(splits, config=config.nat(which)), phase)
        for network in wanted:
            name = member_name(run, one.space, network.genes)
            sources[name] = f"nat:{place}#{network.genes}"
    return sources


def _front(search: JointSearch, chosen: Sequence[JointEvaluation], pool: Pool, names: Sequence[str]) -> Front:
    """Evaluate the cascades with the averaged weights; what is dominated on val goes."""
    run, config = search.folder, search.config
    reference = PoolReference(path=str(pool.path.resolve()), sha256=pool.sha256)
    found = []
    for one in chosen:
        genes = numbers(one.genes)
        own = zip(config.supernets, search.space.members(genes), strict=True)
        cascade = search.space.cascade(genes, [member_name(run, net.space, text) for net, text in own])
        evaluated = {split: evaluate(cascade, pool, split) for split in pool.file.splits}
        val = evaluated["val"]
        update = {"evaluated": evaluated, "pool": reference, "searched": Searched(split="val")}
        cascade = cascade.model_copy(update=update)
        found.append(Candidate(error=1 - val.accuracy, cost=val.macs, cascade=cascade))
    rows = non_dominated(np.array([[one.error, one.cost] for one in found]))
    singles = evaluate_members(pool, "val")
    file = FrontFile(
        pool=reference,
        split="val",
        objective="macs",
        unit="MACs",
        algorithm="joint",
        seed=config.seed,
        settings={"report_fraction": 0, "surrogate_evaluations": config.loop.surrogate_evaluations},
        evaluations={"cascades": len(search.found())},
        versions={"encas": __version__, "numpy": np.__version__},
        seconds=0,
        singles=tuple(
            Single(member=name, error=1 - singles[name].accuracy, cost=singles[name].macs)
            for name in sorted(names)
        ),
        candidates=tuple(found[row] for row in rows),
    )
    front = Front(run / "front", file)
    front.write()
    return front


def _check_config(config: JointConfig, run: Path) -> None:
    file = run / "config.json"
    if file.exists() and read_model(file, JointConfig) != config:
        raise InvalidInput(
            f"{run}: is a run of another configuration ({file}); name another folder with --run"
        )
    write_model(file, config)
