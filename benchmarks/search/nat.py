"""What a new architecture costs beside its forward pass: python benchmarks/search/nat.py."""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from encas.search.nat import SPACES, Supernet, count_macs


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Processor time of the quickest of several runs."""
    found = []
    for _ in range(repeats):
        start_s = time.process_time()
        work()
        found.append(time.process_time() - start_s)
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--archs", type=int, default=10, help="new architectures of each space")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| space | forward of the plain network ms | of the part ms | extra ms, median | most | MACs us |")
    print("|---|---|---|---|---|---|")
    for space in SPACES.values():
        rng, supernet = np.random.default_rng(0), Supernet(space, 10, torch.Generator().manual_seed(0)).eval()
        rows = []
        for _ in range(options.archs):
            arch = space.sample(rng)
            image = torch.zeros(1, 3, arch.resolution, arch.resolution)
            with torch.inference_mode():
                plain = supernet.extract(arch)
                plain_s = seconds(lambda: plain(image), options.repeats)  # noqa: B023
                part_s = seconds(lambda: supernet(image, arch), options.repeats)  # noqa: B023
            macs_s = seconds(lambda: count_macs(space, arch, 10), options.repeats)  # noqa: B023
            rows.append((plain_s, part_s, part_s - plain_s, macs_s))
        table = np.array(rows) * 1e3
        plain_ms, part_ms, extra_ms, macs_ms = np.median(table, axis=0)
        print(
            f"| {space.name} | {plain_ms:.1f} | {part_ms:.1f} | {extra_ms:.1f} | {table[:, 2].max():.1f} "
            f"| {macs_ms * 1e3:.0f} |"
        )


if __name__ == "__main__":
    main()
