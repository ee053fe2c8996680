"""ENCAS at the scale of ImageNet, without ImageNet: real answers of networks, modelled probabilities.

    python benchmarks/search/imagenet.py check FOLDER
    python benchmarks/search/imagenet.py pool FOLDER POOL [--val-rows 50000] [--v2-rows 20684]
    python benchmarks/search/imagenet.py results POOL OUT [--evaluations 600000] [--seeds 3]

FOLDER holds `models67_top5.npz` (the five likeliest classes of 67 networks on ImageNet's validation images
and on ImageNetV2), `models67_costs.csv` and `variants54_top50.npz` (probabilities of 54 networks on
photographs). docs/imagenet.md says what is real and what is modelled, and has what these commands print.
`check` models networks whose probabilities are known, and compares; `results` searches on ImageNetV2 and
reports on val.
"""

import argparse
import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit
from scipy.stats import norm, rankdata
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.metrics import roc_auc_score

from encas import Pool
from encas.evaluation import evaluate, evaluate_members
from encas.front import Front
from encas.member import Member
from encas.search import search
from encas.search.experiment.figures import Figure, Line, draw_png
from encas.search.experiment.published import LABELS, PUBLISHED
from encas.search.pareto import hypervolume, non_dominated

Classes = NDArray[np.int16]  # (m, n, 5) the likeliest first
Numbers = NDArray[np.float64]
N_CLASSES = 1000
BUDGETS = (0.6e9, 1e9, 2e9, 3e9, 4e9, 6e9, 8e9, 12e9, 16e9, 24e9)
_BINS = 20
_LEAST = 1e-4  # of a probability, before its logit is taken
# Noise added to logits, in their standard deviations: without it, cascades of networks that were left out
# gain a third more than they really do, since confidence knows too well what the others answer. See `check`.
_BLUR = 0.7


@dataclass(frozen=True)
class Known:
    """Networks whose probabilities are known."""

    names: list[str]
    macs: NDArray[np.int64]
    probs: Numbers  # (m, n, 50) falling
    classes: NDArray[np.int16]  # (m, n, 50)
    labels: NDArray[np.int16]

    @classmethod
    def read(cls, folder: Path) -> "Known":
        with np.load(folder / "variants54_top50.npz") as file:
            return cls(
                [name.decode() for name in file["names"]],
                file["macs"],
                file["top50_prob"].astype(np.float64),
                file["top50_class"],
                file["labels"],
            )

    def take(self, which: Sequence[int]) -> "Known":
        rows = list(which)
        names = [self.names[row] for row in rows]
        return Known(names, self.macs[rows], self.probs[rows], self.classes[rows], self.labels)

    @property
    def right(self) -> NDArray[np.bool_]:
        return self.classes[:, :, 0] == self.labels

    def bases(self) -> list[str]:
        return sorted({name.split("@")[0] for name in self.names})


@dataclass(frozen=True)
class Answered:
    """Networks of which only the five likeliest classes are known."""

    top5: Classes
    accuracy: Numbers  # (m,)

    def features(self) -> Numbers:
        """(m, n, f): how much the others agree with each network on each image; labels are not looked at."""
        m, n, _ = self.top5.shape
        found = np.empty((m, n, 6))
        rows = np.arange(n)
        for start in range(0, n, 2000):
            part = self.top5[:, start : start + 2000]
            of = rows[: part.shape[1]]
            first = np.zeros((part.shape[1], N_CLASSES), np.float32)  # how many networks say so first
            among = np.zeros((part.shape[1], N_CLASSES), np.float32)  # and how many among their five
            for one in part:
                first[of, one[:, 0]] += 1
                for k in range(5):
                    among[of, one[:, k]] += 1
            for index, one in enumerate(part):
                out = found[index, start : start + 2000]
                top = one[:, 0]
                out[:, 0] = (first[of, top] - 1) / (m - 1)
                out[:, 1] = (among[of, top] - 1) / (m - 1)
                out[:, 2] = (first[of[:, None], one].sum(axis=1) - 1) / (m - 1)
                out[:, 3] = (among[of[:, None], one].sum(axis=1) - 5) / (5 * (m - 1))
                out[:, 4] = (first.max(axis=1)) / m
                out[:, 5] = logit(self.accuracy[index])
        return found


class Model:
    """How sure networks are, given how much others agree with them.

    The logit of the largest probability is a regression on `Answered.features` plus what the regression
    leaves over, which is drawn from what it left over for known networks that were about as sure; a part of
    that is common to all networks of an image. The rest of a probability is shared out as by a known network
    that was about as sure.
    """

    def __init__(self, known: Known) -> None:
        right = known.right
        logits = np.array(
            [shifted(_logit(p[:, 0]), r.mean()) for p, r in zip(known.probs, right, strict=True)]
        )
        features = Answered(known.classes[:, :, :5], right.mean(axis=1)).features()
        flat = features.reshape(-1, features.shape[2])
        self._regression = HistGradientBoostingRegressor(max_depth=5, max_iter=150, random_state=0)
        self._regression.fit(flat, logits.ravel())
        guessed = self._regression.predict(flat)
        left_over = logits.ravel() - guessed
        self._edges = np.quantile(guessed, np.linspace(0, 1, _BINS + 1)[1:-1])
        bins = np.searchsorted(self._edges, guessed)
        self._left_over = [np.sort(left_over[bins == b]) for b in range(_BINS)]
        scores = np.empty(len(guessed))
        for b in range(_BINS):
            mine = bins == b
            scores[mine] = norm.ppf(rankdata(left_over[mine]) / (mine.sum() + 1))
        of_images = scores.reshape(logits.shape)
        m = len(of_images)
        # The share of the variance that networks have in common on an image.
        self.common = float(max(0, (of_images.mean(axis=0).var() * m - 1) / (m - 1)))
        top = known.probs.reshape(-1, known.probs.shape[2])
        order = np.argsort(top[:, 0])
        self._sure = top[order, 0]
        rest = np.maximum(1 - top[order, :1], 1e-6)
        self._shares = np.minimum(top[order, 1:5] / rest, 1)

    def logits(self, answered: Answered, rng: np.random.Generator, blur: float = _BLUR) -> Numbers:
        """(m, n) logits of the largest probabilities, each network's up to a number to add."""
        features = answered.features()
        m, n, _ = features.shape
        common = rng.standard_normal(n)
        out = np.empty((m, n))
        for index in range(m):
            guessed = self._regression.predict(features[index])
            own = rng.standard_normal(n)
            at = norm.cdf(np.sqrt(self.common) * common + np.sqrt(1 - self.common) * own)
            bins = np.searchsorted(self._edges, guessed)
            for b in range(_BINS):
                mine = bins == b
                out[index, mine] = guessed[mine] + np.quantile(self._left_over[b], at[mine])
        return out + blur * out.std() * rng.standard_normal(out.shape)

    def shared_out(self, first: Numbers, rng: np.random.Generator) -> Numbers:
        """(n, 5) falling probabilities, given the (n,) largest."""
        places = np.searchsorted(self._sure, first) + rng.integers(-20, 21, len(first))
        shares = self._shares[np.clip(places, 0, len(self._sure) - 1)]
        others = shares * (1 - first)[:, None]
        return np.column_stack([first, np.minimum(others, first[:, None])])


def _logit(probs: Numbers) -> Numbers:
    return np.asarray(logit(np.clip(probs, _LEAST, 1 - _LEAST)))


def shift(logits: Numbers, mean: float) -> float:
    """The number to add to logits so that their probabilities have a mean."""
    low, high = -20.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if expit(logits + middle).mean() < mean else (low, middle)
    return (low + high) / 2


def shifted(logits: Numbers, mean: float) -> Numbers:
    return logits + shift(logits, mean)


def spread_out(top5: Numbers, classes: Classes) -> NDArray[np.float16]:
    """(n, 1000) probabilities: five are known, what is left is shared evenly by the other classes."""
    rest = np.maximum(1 - top5.sum(axis=1), 0) / (N_CLASSES - 5)
    probs = np.repeat(rest[:, None], N_CLASSES, axis=1)
    probs[np.arange(len(top5))[:, None], classes] = top5
    return (probs / probs.sum(axis=1, keepdims=True)).astype(np.float16)


# --- check: networks whose probabilities are known, modelled from others ---


def check(folder: Path) -> None:
    known = Known.read(folder)
    bases = known.bases()
    print(
        "| left out | AUROC real | no noise | modelled | gain real | no noise | modelled |\n"
        + "|---" * 7
        + "|"
    )
    for part in range(3):
        left_out = bases[part::3]
        inside = [i for i, name in enumerate(known.names) if name.split("@")[0] in left_out]
        rest = [i for i in range(len(known.names)) if i not in inside]
        test, model = known.take(inside), Model(known.take(rest))
        answered = Answered(test.classes[:, :, :5], test.right.mean(axis=1))
        sure = [
            np.array([_logit(one[:, 0]) for one in test.probs]),
            model.logits(answered, np.random.default_rng(part), blur=0),
            model.logits(answered, np.random.default_rng(part)),
        ]
        aurocs = [
            np.mean([roc_auc_score(r, c) for r, c in zip(test.right, one, strict=True)]) for one in sure
        ]
        cells = [*(f"{one:.3f}" for one in aurocs), *(f"{100 * gain(test, one):.2f}" for one in sure)]
        print(f"| {', '.join(left_out)} | {' | '.join(cells)} |")


def gain(known: Known, sure: Numbers) -> float:
    """How much more right a cheap network is with a dearer one behind it, than if any samples went on.

    The mean over all shares of samples that go on, and over all pairs of different networks of which the
    second costs half as much again, and is more accurate.
    """
    right, n = known.right, known.right.shape[1]
    shares, gains = np.arange(1, n + 1) / n, []
    for i, cheap in enumerate(known.names):
        order = np.argsort(sure[i])  # the least sure first
        for j, dear in enumerate(known.names):
            is_better = right[j].mean() > right[i].mean() + 0.005 and known.macs[j] > 1.5 * known.macs[i]
            if is_better and cheap.split("@")[0] != dear.split("@")[0]:
                gained = (right[j].astype(float) - right[i])[order].cumsum() / n
                gains.append(np.mean(gained - shares * gained[-1]))
    return float(np.mean(gains))


# --- pool ---


def answers(folder: Path) -> tuple[list[str], dict[str, tuple[Classes, NDArray[np.int64]]]]:
    """Names of the networks with costs, and their answers and labels on both sets of images."""
    with np.load(folder / "models67_top5.npz") as file:
        names = [name.decode() for name in file["names"]]
        val = file["val_top5"], file["val_label"].astype(np.int64)
        sets = ("matchedfreq", "threshold07", "topimages")
        top5 = np.concatenate([file[f"v2_{one}_top5"] for one in sets], axis=1)
        labels = np.concatenate([file[f"v2_{one}_label"] for one in sets]).astype(np.int64)
    # The three sets of ImageNetV2 share images: those that all networks answer alike are the same.
    seen = np.concatenate([top5.transpose(1, 0, 2).reshape(len(labels), -1), labels[:, None]], axis=1)
    first = np.sort(np.unique(seen, axis=0, return_index=True)[1])
    return names, {"v2": (top5[:, first], labels[first]), "val": val}


def costs(folder: Path) -> dict[str, int]:
    with (folder / "models67_costs.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {row["model"]: round(1e9 * float(row["gmacs"])) for row in rows if row["gmacs"]}


def make_pool(folder: Path, place: Path, n_rows: Mapping[str, int]) -> None:
    names, sets = answers(folder)
    macs = costs(folder)
    kept = [i for i, name in enumerate(names) if name in macs]  # Fisher vectors have no such cost
    model, rng = Model(Known.read(folder)), np.random.default_rng(0)
    print(f"common share of what the regression leaves over: {model.common:.2f}")
    top5, labels = sets["val"]
    accuracy = np.array([(top5[i, :, 0] == labels).mean() for i in kept])
    raw = {split: model.logits(Answered(of[kept], accuracy), rng) for split, (of, _) in sets.items()}
    # One number for each network is fitted on val: there, and not on V2, it is as sure as it is right.
    added = [shift(logits, mean) for logits, mean in zip(raw["val"], accuracy, strict=True)]
    pool = Pool.open_or_create(place, N_CLASSES)
    for split, (of, true) in sets.items():
        rows = np.sort(np.random.default_rng(1).permutation(len(true))[: n_rows[split]])
        pool = pool.with_split(split, true[rows])
        for at, i in enumerate(kept):
            sure = expit(raw[split][at, rows] + added[at])
            right = (of[i, rows, 0] == true[rows]).mean()
            print(f"{split} {names[i]}: accuracy {right:.4f}, mean confidence {sure.mean():.4f}")
            probs = spread_out(model.shared_out(sure, rng), of[i, rows])
            member = Member(name=names[i], source="imported", macs=macs[names[i]])
            pool = pool.with_outputs(member, split, probs, "modelled on real top-5 answers")
    sizes = ", ".join(f"{name}: {split.n} images" for name, split in pool.file.splits.items())
    print(f"{place}: {len(kept)} networks; {sizes}")


# --- results ---


@dataclass(frozen=True)
class Found:
    """What nothing dominates on V2, and what it does on both sets: (p, 2) errors and MACs."""

    v2: Numbers
    val: Numbers

    def within(self, macs: float) -> float | None:
        """Accuracy on val of what is the most accurate on V2 within a budget there."""
        fitting = np.flatnonzero(self.v2[:, 1] <= macs)
        return None if not len(fitting) else 1 - float(self.val[fitting[self.v2[fitting, 0].argmin()], 0])

    def reaching(self, accuracy: float) -> float | None:
        """The least MACs on val of what is so accurate there."""
        fitting = self.val[1 - self.val[:, 0] >= accuracy, 1]
        return float(fitting.min()) if len(fitting) else None


def found_of(both: Sequence[Numbers]) -> Found:
    rows = non_dominated(both[0])
    return Found(both[0][rows], both[1][rows])


def singles(pool: Pool) -> Found:
    v2, val = (evaluate_members(pool, split) for split in ("v2", "val"))
    return found_of([np.array([[1 - f[n].accuracy, f[n].macs] for n in v2]) for f in (v2, val)])


def cascades(pool: Pool, front: Front) -> Found:
    both = []
    for split in ("v2", "val"):
        said = [evaluate(candidate.cascade, pool, split) for candidate in front.candidates]
        both.append(np.array([[1 - one.accuracy, one.macs] for one in said]))
    return found_of(both)


def thinned(front: Front, n: int = 80) -> Front:
    """Some of a front, spread over it: counting all on 50,000 images takes long and says the same."""
    step = max(1, len(front.candidates) // n)
    candidates = (*front.candidates[:-1:step], front.candidates[-1])
    return Front(front.path, front.file.model_copy(update={"candidates": candidates}))


def results(place: Path, out: Path, evaluations: int, seeds: int, workers: int) -> None:
    pool = Pool.open(place)
    ways: dict[str, list[Found]] = {"single networks": [singles(pool)]}
    for label, algorithm, n in (
        ("ENCAS", "mo-gomea", seeds),
        ("grid, last answers", "grid-last", 1),
        ("grid, mean answers", "grid-mean", 1),
        ("random", "random", 1),
    ):
        ways[label] = []
        for seed in range(n):
            folder = out / f"{algorithm}-{seed}"
            known = (folder / "front.json").is_file()
            front = (
                Front.open(folder)
                if known
                else search(
                    pool,
                    evaluations=evaluations,
                    seed=1733 + seed,
                    algorithm=algorithm,  # type: ignore[arg-type]
                    split="v2",
                    report_fraction=0,
                    refine_thresholds=False,
                    workers=workers,
                    out=folder,
                )
            )
            print(f"{folder}: {len(front.candidates)} cascades in {front.file.seconds:.0f} s", flush=True)
            ways[label].append(cascades(pool, thinned(front)))
    print_tables(ways)
    draw(ways, out)


def print_tables(ways: Mapping[str, Sequence[Found]]) -> None:
    print("\nvalidation accuracy, %, of what is best on V2 within a budget (median of the seeds)\n")
    print("| GMACs | " + " | ".join(ways) + " |\n" + "|---" * (len(ways) + 1) + "|")
    for budget in BUDGETS:
        cells = [middle([one.within(budget) for one in found], 100) for found in ways.values()]
        print(f"| {budget / 1e9:g} | " + " | ".join(cells) + " |")
    print("\nGMACs on val for an accuracy there\n")
    print("| accuracy, % | " + " | ".join(ways) + " | saved by ENCAS |\n" + "|---" * (len(ways) + 2) + "|")
    for accuracy in np.arange(0.70, 0.86, 0.01):
        cells = [middle([one.reaching(accuracy) for one in found], 1e-9) for found in ways.values()]
        if not any(cells):
            break
        saved = f"{float(cells[0]) / float(cells[1]):.2f} x" if cells[0] and cells[1] else ""
        print(f"| {100 * accuracy:.0f} | " + " | ".join(cells) + f" | {saved} |")
    print("\n| | hypervolume on V2 | on val | most accurate: on val, % | its GMACs |\n|---|---|---|---|---|")
    dearest = 1.01 * max(float(one.val[:, 1].max()) for found in ways.values() for one in found)
    for label, found in ways.items():
        volumes = [
            f"{np.median([hypervolume(points, (1.0, dearest)) for points in of]):.4f}"
            for of in ([one.v2 for one in found], [one.val for one in found])
        ]
        best = [one.val[one.v2[:, 0].argmin()] for one in found]
        error, macs = np.median(best, axis=0)
        print(f"| {label} | {' | '.join(volumes)} | {100 * (1 - error):.2f} | {macs / 1e9:.2f} |")
    print(f"\nreference: error 1, {dearest / 1e9:.1f} GMACs")


def middle(values: Sequence[float | None], scale: float) -> str:
    known = [value for value in values if value is not None]
    return f"{scale * float(np.median(known)):.2f}" if len(known) == len(values) else ""


def draw(ways: Mapping[str, Sequence[Found]], out: Path) -> None:
    lines = []
    for label, found in ways.items():
        first = found[(len(found) - 1) // 2]
        macs, accuracy = first.v2[:, 1] / 1e6, 100 * (1 - first.val[:, 0])
        order = np.argsort(macs)
        lines.append(Line(label, macs[order], accuracy[order], accuracy[order], accuracy[order]))
    macs, accuracy = np.array(PUBLISHED["encas-timm"], np.float64).T
    lines.append(Line(LABELS["encas-timm"], macs, accuracy, accuracy, accuracy, is_published=True))
    title = "67 published networks on ImageNet, probabilities modelled: searched on V2, counted on val"
    draw_png(
        Figure("imagenet", title, "mean cost per image, MMACs", "accuracy on val, %", tuple(lines)),
        out / "imagenet.png",
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("check")
    one.add_argument("folder", type=Path)
    two = commands.add_parser("pool")
    two.add_argument("folder", type=Path)
    two.add_argument("place", type=Path)
    two.add_argument("--val-rows", type=int, default=50_000)
    two.add_argument("--v2-rows", type=int, default=30_000)
    three = commands.add_parser("results")
    three.add_argument("place", type=Path)
    three.add_argument("out", type=Path)
    three.add_argument("--evaluations", type=int, default=600_000)
    three.add_argument("--seeds", type=int, default=3)
    three.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    if args.command == "check":
        check(args.folder)
    elif args.command == "pool":
        make_pool(args.folder, args.place, {"v2": args.v2_rows, "val": args.val_rows})
    else:
        results(args.place, args.out, args.evaluations, args.seeds, args.workers)


if __name__ == "__main__":
    main()
