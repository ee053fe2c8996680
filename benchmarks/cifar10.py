"""Five tiny supernetworks on CIFAR-10: what transfer makes of them, and what ENCAS makes of their networks.

    python benchmarks/cifar10.py prepare cifar10.npz datasets      # only for a packed copy of the images
    encas nat configs/nat/tiny_proxyless.yml --data datasets --run runs/proxyless --pool pools/proxyless
    ...                                                            # and the other four
    python benchmarks/cifar10.py results runs pools results [--evaluations 600000] [--seeds 3]

`results` merges the pools, searches cascades of the best supernetwork's networks and of all, evaluates
everything on the test images, prints the tables of docs/cifar10.md, and draws its pictures.
"""

import argparse
import importlib.util
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from encas import Pool
from encas.evaluation import evaluate, evaluate_members
from encas.export import merge
from encas.front import Front
from encas.search import search
from encas.search.pareto import hypervolume, non_dominated
from encas.search.picture import COLOURS, GREY

Points = NDArray[np.float64]  # (p, 2) error and MACs
CLASSES = "airplane automobile bird cat deer dog frog horse ship truck"
BUDGETS = (0.5e6, 1e6, 1.5e6, 2e6, 3e6, 4e6, 6e6, 8e6)
SPLITS = ("val", "test")


@dataclass(frozen=True)
class Found:
    """Networks or cascades that nothing dominates on val, and what they do on both splits."""

    points: Mapping[str, Points]

    def volume(self, split: str, reference: tuple[float, float]) -> float:
        return hypervolume(self.points[split], reference)

    def within(self, macs: float) -> float | None:
        """Accuracy on test of what is the most accurate on val within a budget of MACs per image on val."""
        val = self.points["val"]
        fitting = np.flatnonzero(val[:, 1] <= macs)
        if not len(fitting):
            return None
        return 1 - float(self.points["test"][fitting[val[fitting, 0].argmin()], 0])


def singles(pool: Pool) -> Found:
    found = {split: evaluate_members(pool, split) for split in SPLITS}
    points = {
        split: np.array([[1 - one.accuracy, one.macs] for one in found[split].values()]) for split in SPLITS
    }
    rows = non_dominated(points["val"])
    return Found({split: points[split][rows] for split in SPLITS})


def cascades(pool: Pool, front: Front) -> Found:
    def point(index: int, split: str) -> list[float]:
        found = evaluate(front.candidates[index].cascade, pool, split)
        return [1 - found.accuracy, found.macs]

    every = range(len(front.candidates))
    return Found({split: np.array([point(index, split) for index in every]) for split in SPLITS})


def searched(pool: Pool, place: Path, evaluations: int, seeds: int) -> list[Found]:
    every = []
    for seed in range(seeds):
        folder = place / str(seed)
        known = (folder / "front.json").is_file()
        front = (
            Front.open(folder)
            if known
            else search(pool, evaluations=evaluations, seed=seed, report_fraction=0, workers=2, out=folder)
        )
        print(f"{folder}: {len(front.candidates)} cascades in {front.file.seconds:.0f} s", flush=True)
        every.append(cascades(pool, front))
    return every


def prepare(packed: Path, data: Path) -> None:
    """Write CIFAR-10's binary files from a packed copy, by the reader that lies beside it."""
    spec = importlib.util.spec_from_file_location("reader", packed.parent / "read_cifar10.py")
    assert spec is not None and spec.loader is not None
    reader = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reader)
    folder = data / "cifar-10-batches-bin"
    folder.mkdir(parents=True, exist_ok=True)
    for split, names in (
        ("train", [f"data_batch_{i}.bin" for i in range(1, 6)]),
        ("test", ["test_batch.bin"]),
    ):
        images, labels, *_ = reader.load(packed, split)
        pixels = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
        records = np.concatenate([labels.astype(np.uint8)[:, None], pixels], axis=1)
        for name, part in zip(names, np.split(records, len(names)), strict=True):
            part.tofile(folder / name)
    (folder / "batches.meta.txt").write_text("\n".join(CLASSES.split()) + "\n")


def print_networks(name: str, pool: Pool, run: Path) -> None:
    found = evaluate_members(pool, "test")
    reports = [json.loads(line) for line in (run / "report.jsonl").read_text().splitlines()]
    taus = " ".join("-" if one["kendall_tau"] is None else f"{one['kendall_tau']:.2f}" for one in reports)
    seconds = [one["search_s"] + one["train_s"] + one["evaluate_s"] for one in reports]
    shares = [one["search_s"] / s for one, s in zip(reports[1:], seconds[1:], strict=True)]
    by_macs = sorted(found.values(), key=lambda one: one.macs)
    least, most = by_macs[0], by_macs[-1]
    print(
        f"| {name} | {len(found)} | {least.macs / 1e6:.2f} | {100 * least.accuracy:.1f} "
        f"| {most.macs / 1e6:.2f} | {100 * most.accuracy:.1f} | {taus} "
        f"| {100 * min(shares):.0f}-{100 * max(shares):.0f} % |"
    )


def spread(values: Sequence[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.4f}"
    return f"{np.median(values):.4f} ({min(values):.4f}-{max(values):.4f})"


def dominated(front: Points, by: Points) -> int:
    """Count the points of a front that lie behind another one."""
    better = (by[None] <= front[:, None]).all(2) & (by[None] < front[:, None]).any(2)
    return int(better.any(1).sum())


def picture(path: Path, title: str, draw: Callable[[Axes], None]) -> None:
    figure = Figure(figsize=(10, 6.25), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    draw(axes)
    axes.set_xscale("log")
    axes.set_xticks([0.2, 0.5, 1, 2, 5, 10], ["0.2", "0.5", "1", "2", "5", "10"])
    axes.minorticks_off()
    axes.set_xlabel("mean cost per image, MMACs")
    axes.set_ylabel("accuracy on the 10,000 test images, %")
    axes.set_title(title)
    axes.grid(visible=True, which="both", linewidth=0.4, alpha=0.5)
    axes.legend(loc="lower right")
    figure.savefig(path, metadata={"Software": None})


def curve(axes: Axes, found: Found, colour: str, label: str, markersize: float, **style: float) -> None:
    error, macs = found.points["test"][np.argsort(found.points["test"][:, 1])].T
    axes.plot(
        macs / 1e6, 100 * (1 - error), marker="o", markersize=markersize, color=colour, label=label, **style
    )


def results(runs: Path, pools: Path, out: Path, evaluations: int, seeds: int) -> None:
    out.mkdir(parents=True, exist_ok=True)
    names = sorted(path.name for path in pools.iterdir() if (path / "pool.json").is_file())
    opened = {name: Pool.open(pools / name) for name in names}
    merged = (
        Pool.open(out / "pool") if (out / "pool").exists() else merge(out / "pool", list(pools.iterdir()))
    )
    own = {name: singles(pool) for name, pool in opened.items()}
    both = singles(merged)
    reference = (1.0, max(member.macs for member in merged.members_with("val")) * 1.01)
    best = max(names, key=lambda name: own[name].volume("val", reference))
    one = searched(opened[best], out / f"front-{best}", evaluations, seeds)
    five = searched(merged, out / "front-five", evaluations, seeds)

    print("\n| supernetwork | networks | least MMACs | its test % | most MMACs | its test % | tau | search |")
    print("|---|---|---|---|---|---|---|---|")
    for name in names:
        print_networks(name, opened[name], runs / name)
    print(f"\nmerged: {len(merged.names)} networks; reference: error 1, {reference[1] / 1e6:.2f} MMACs\n")
    print("| | hypervolume on val | on test |\n|---|---|---|")
    rows: list[tuple[str, list[Found]]] = [(f"networks of {name}", [own[name]]) for name in names]
    rows += [("networks of all five", [both]), (f"ENCAS on {best}", one), ("ENCAS on all five", five)]
    for label, found in rows:
        volumes = {split: [each.volume(split, reference) for each in found] for split in SPLITS}
        print(f"| {label} | {spread(volumes['val'])} | {spread(volumes['test'])} |")
    print("\ntest accuracy, %, of what is best on val within a budget (first seed)\n")
    print("| MMACs per image | " + " | ".join(label for label, _ in rows) + " |")
    print("|---" * (len(rows) + 1) + "|")
    for budget in BUDGETS:
        cells = [found[0].within(budget) for _, found in rows]
        told = " | ".join("" if cell is None else f"{100 * cell:.1f}" for cell in cells)
        print(f"| {budget / 1e6:g} | {told} |")
    print("\npoints of each front that lie behind the front of one supernetwork\n")
    for name in names:
        val, test = (dominated(both.points[split], own[name].points[split]) for split in SPLITS)
        print(f"{name}: of the merged front's {len(both.points['val'])}, on val {val}, on test {test}")

    def supernets(axes: Axes) -> None:
        for name, colour in zip(names, COLOURS, strict=False):
            curve(axes, own[name], colour, name, 3.5, linewidth=1.2)

    def encas(axes: Axes) -> None:
        curve(axes, both, GREY, "single networks of all five", 3.5, linewidth=1.0)
        for found, colour, label in (
            (one, COLOURS[1], f"ENCAS on {best}"),
            (five, COLOURS[0], "ENCAS on all five"),
        ):
            for index, each in enumerate(found):
                curve(axes, each, colour, label if index == 0 else "_", 1.2, linewidth=1.0)

    picture(out / "supernetworks.png", "CIFAR-10: single networks of five tiny supernetworks", supernets)
    picture(out / "encas.png", f"CIFAR-10: cascades of networks of tiny supernetworks, {seeds} seeds", encas)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("prepare")
    one.add_argument("packed", type=Path)
    one.add_argument("data", type=Path)
    two = commands.add_parser("results")
    for name in ("runs", "pools", "out"):
        two.add_argument(name, type=Path)
    two.add_argument("--evaluations", type=int, default=600_000)
    two.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    if args.command == "prepare":
        prepare(args.packed, args.data)
    else:
        results(args.runs, args.pools, args.out, args.evaluations, args.seeds)


if __name__ == "__main__":
    main()
