"""How often what a certificate guarantees does not hold, and how much of what a cascade saves it leaves.

    python benchmarks/search/certificates.py [--data FOLDER] [--times 1000] [--calibration 5000]

On the six CIFAR-10 networks: resnet20 before resnet56 with six thresholds, and all cascades of a front that
was searched on 2,000 of the images. "all" counts certificates that rest on images drawn from the 10,000,
which stand for all there are, so that the true risk is known; "other half" those that rest on a random half
of the images, by what the other half loses. The table at the end tells how much of the saving is kept where
the loss on all images is known and reaches a bound: what no test along these thresholds could do better.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from recorded import DATA, cifar10

from encas.cascade import Cascade, Stage
from encas.search import search
from encas.search.certificates import (
    ThresholdPath,
    binomial_p_values,
    conformal_risk_control,
    fixed_sequence,
    further_p_values,
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--times", type=int, default=1000)
    parser.add_argument("--calibration", type=int, default=5000)
    parser.add_argument("--risk", type=float, default=0.01)
    parser.add_argument("--confidence", type=float, default=0.95)
    args = parser.parse_args()
    data = cifar10(args.data)
    n, delta = len(data.labels), 1 - args.confidence
    rng = np.random.default_rng(0)
    draws = rng.multinomial(args.calibration, np.full(n, 1 / n), size=args.times)
    halves = np.zeros((args.times, n))
    for row in halves:
        row[rng.permutation(n)[: n // 2]] = 1
    with tempfile.TemporaryDirectory() as folder:
        order = rng.permutation(n)
        pool = data.pool(Path(folder) / "pool", {"val": order[:2000], "all": np.arange(n)})
        found = [c.cascade for c in search(pool, evaluations=20_000, seed=0, report_fraction=0).candidates]
        cascades = [two_stages(t) for t in (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)]
        cascades += [cascade for cascade in found if len(cascade.stages) > 1]
        bound = delta + 2 * np.sqrt(delta * (1 - delta) / args.times)
        print(f"exceeded may be at most {bound:.4f}; kept: share of the saving with the thresholds found")
        kept = {"accuracy": [], "consistency": []}
        bounds = bounds_of(args.calibration, args.risk, delta)
        known = {kind: [] for kind in kept}
        for cascade in cascades:
            path = ThresholdPath.of(cascade, pool, "all")
            savings = path.savings(np.array([pool.member(m).macs for m in cascade.member_names]))
            parts = []
            for kind in ("accuracy", "consistency"):
                losses = path.losses(kind, data.labels)
                true = losses.mean(axis=1)
                lost = np.maximum.accumulate(losses, axis=0).astype(np.float32)
                rows = chosen(lost @ draws.T.astype(np.float32), args.calibration, args.risk, delta)
                half = lost @ halves.T.astype(np.float32)
                rows_half = chosen(half, n // 2, args.risk, delta)
                others = losses.astype(np.float32) @ (1 - halves.T).astype(np.float32)
                rest = others[rows_half, np.arange(args.times)] / (n - n // 2)
                share = savings / savings[len(savings) // 2]
                most = np.array([(lost.mean(axis=1) <= bound).sum() - 1 for bound in bounds.values()])
                known[kind].append(share[most])
                shares = share[rows]
                control = conformal_risk_control(lost.sum(axis=1), n, args.risk)
                kept[kind].append(float(shares.mean()))
                parts.append(
                    f"{kind}: found {true[len(true) // 2]:.4f} "
                    f"exceeded all {np.mean(true[rows] > args.risk):.3f}, "
                    f"other half {np.mean(rest > args.risk):.3f}, kept {shares.mean():.2f} "
                    f"(crc {share[control]:.2f})"
                )
            print(f"{cascade}\n    " + "\n    ".join(parts), flush=True)
        for kind, shares in kept.items():
            print(
                f"{kind}: at least 80 % kept by {sum(s >= 0.8 for s in shares)} of {len(shares)} cascades, "
                f"mean {np.mean(shares):.2f}, least {min(shares):.2f}"
            )
        print("\n| bound on the loss | what has it | " + " | ".join(kept) + " |\n|---|---|---|---|")
        for i, (name, bound) in enumerate(bounds.items()):
            cells = [f"{sum(row[i] >= 0.8 for row in known[k])} of {len(known[k])}" for k in kept]
            print(f"| {bound:.2%} | {name} | {' | '.join(cells)} |")


def bounds_of(n: int, risk: float, delta: float) -> dict[str, float]:
    """Losses at which tests on n samples end."""
    counts = np.arange(n + 1)
    binomial = binomial_p_values(counts, n, risk)
    both = np.maximum(binomial, further_p_values(counts, n, risk))
    return {
        "certified, of all samples and as many further ones": float((both <= delta).sum() - 1) / n,
        "certified, of all samples only": float((binomial <= delta).sum() - 1) / n,
        "known exactly": risk,
    }


def chosen(lost: np.ndarray, n: int, risk: float, delta: float) -> np.ndarray:
    """Which cascade of a path each certificate ends at."""
    counts = np.arange(n + 1)
    p_values = np.maximum(binomial_p_values(counts, n, risk), further_p_values(counts, n, risk))
    return np.array([fixed_sequence(p_values[column], delta) for column in np.round(lost.T).astype(int)])


def two_stages(threshold: float) -> Cascade:
    return Cascade(stages=(Stage(member="resnet20", threshold=threshold), Stage(member="resnet56")))


if __name__ == "__main__":
    main()
