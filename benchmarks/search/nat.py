"""What a new architecture costs beside its forward pass: python benchmarks/search/nat.py."""

import argparse
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch

from encas.search.nat import SPACES, Supernet, count_macs


def seconds(works: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Processor time of the quickest run of each, in turns, so that a busy machine is as bad for all."""
    found: list[list[float]] = [[] for _ in works]
    for _ in range(repeats):
        for times, work in zip(found, works, strict=True):
            start_s = time.process_time()
            work()
            times.append(time.process_time() - start_s)
    return [min(times) for times in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--archs", type=int, default=10, help="new architectures of each space")
    parser.add_argument("--repeats", type=int, default=7)
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
                works = (
                    lambda: plain(image),  # noqa: B023
                    lambda: supernet(image, arch),  # noqa: B023
                    lambda: count_macs(space, arch, 10),  # noqa: B023
                )
                plain_s, part_s, macs_s = seconds(works, options.repeats)
            rows.append((plain_s, part_s, part_s - plain_s, macs_s))
        table = np.array(rows) * 1e3
        plain_ms, part_ms, extra_ms, macs_ms = np.median(table, axis=0)
        print(
            f"| {space.name} | {plain_ms:.1f} | {part_ms:.1f} | {extra_ms:.1f} | {table[:, 2].max():.1f} "
            f"| {macs_ms * 1e3:.0f} |"
        )


if __name__ == "__main__":
    main()
