"""The evaluator's inner loop on a CUDA device: a thread for each sample that a cascade's first stage leaves.

The arithmetic is that of `encas.search.kernels.run`, number for number and in the same order, so the counts
are the same. It pays where many cascades are evaluated together on many samples.
"""

from functools import cache
from typing import Any

import numpy as np
from numba import cuda as _cuda
from numba import float32, int32
from numpy.typing import NDArray

from encas.errors import InvalidInput
from encas.search.genome import THRESHOLDS

cuda: Any = _cuda  # its types say little
_THREADS = 128  # of a block
_MOST_BLOCKS = 16  # for one cascade


class OnDevice:
    """What m members answered on n samples, in the memory of a device."""

    def __init__(
        self,
        values: NDArray[np.uint16],
        lanes: NDArray[np.intp],
        order: NDArray[np.int32],
        starts: NDArray[np.int64],
    ) -> None:
        """Copy it there; see `encas.search.kernels.run` for the arrays.

        Raises:
            InvalidInput: There is no CUDA device, or numba cannot use it.
        """
        if not cuda.is_available():
            raise InvalidInput(
                "device 'cuda': numba finds no CUDA device that it can use (pip install 'numba-cuda[cu13]'); "
                "use device 'cpu'"
            )
        self._width, self._n = values.shape[1], len(lanes)
        self._values = cuda.to_device(values.view(np.float16).astype(np.float32))
        self._lanes, self._order = cuda.to_device(lanes.astype(np.int32)), cuda.to_device(order)
        self._starts = cuda.to_device(starts.astype(np.int32))
        self._thresholds = cuda.to_device(THRESHOLDS.astype(np.float32))
        self._room = self._n  # for unsure samples

    def run(
        self, genomes: NDArray[np.intp], right: NDArray[np.int64], reached: NDArray[np.int64]
    ) -> NDArray[np.intp]:
        """Count what becomes of the samples that first stages leave over.

        Args:
            genomes: (p, 2 k - 1) in canonical form.
            right: (p,) added to, without the unsure samples.
            reached: (p, k) added to, except for the first stage and the unsure samples.

        Returns:
            (q, 2) cascades and samples that were unsure.
        """
        (p, max_stages), on_device = reached.shape, cuda.to_device(genomes.astype(np.int32))
        blocks = min(_MOST_BLOCKS, -(-self._n // _THREADS))
        while True:
            # Column 0 is of right answers, the others of the stages behind the first.
            counts = cuda.to_device(np.zeros((p, max_stages), np.int32))
            unsure = cuda.device_array((self._room, 2), np.int32)
            n_unsure = cuda.to_device(np.zeros(1, np.int32))
            _kernel(max_stages, self._width)[(p, blocks), _THREADS](
                on_device,
                self._values,
                self._lanes,
                self._order,
                self._starts,
                self._thresholds,
                counts,
                unsure,
                n_unsure,
            )
            n_found = int(n_unsure.copy_to_host()[0])
            if n_found <= self._room:
                break
            self._room = 2 * n_found
        found = counts.copy_to_host()
        right += found[:, 0]
        reached[:, 1:] += found[:, 1:]
        places: NDArray[np.intp] = unsure[:n_found].copy_to_host().astype(np.intp)
        # Threads come as they please: sorted, the same search gives the same order of calls.
        return places[np.lexsort(places.T[::-1])]


@cache
def _kernel(max_stages: int, width: int) -> Any:
    """Compile for one shape, so that a thread's sums lie in registers."""

    @cuda.jit  # type: ignore[untyped-decorator]
    def run(  # noqa: PLR0912
        genomes: Any,
        values: Any,
        lanes: Any,
        order: Any,
        starts: Any,
        thresholds: Any,
        counts: Any,
        unsure: Any,
        n_unsure: Any,
    ) -> None:
        cascade, thread = cuda.blockIdx.x, cuda.threadIdx.x
        totals = cuda.shared.array(max_stages, int32)
        if thread < max_stages:
            totals[thread] = 0
        cuda.syncthreads()
        own = cuda.local.array(max_stages, int32)
        sums = cuda.local.array(width, float32)
        k = 0
        while k < max_stages and genomes[cascade, k] > 0:
            own[k] = 0
            k += 1
        n_active = 0
        if k > 1:
            n_active = starts[genomes[cascade, 0] - 1, genomes[cascade, max_stages] + 1]
        for a in range(
            cuda.blockIdx.y * cuda.blockDim.x + thread, n_active, cuda.gridDim.y * cuda.blockDim.x
        ):
            sample = order[genomes[cascade, 0] - 1, a]
            for lane in range(width):
                sums[lane] = values[(genomes[cascade, 0] - 1) * lanes.size + sample, lane]
            for j in range(1, k):
                row = (genomes[cascade, j] - 1) * lanes.size + sample
                most = float32(0)
                for lane in range(width):
                    sums[lane] += values[row, lane]
                    most = max(most, sums[lane])
                own[j] += 1
                divisor = float32(j + 1)
                top = most / divisor
                if sums[width - 1] / divisor == top:
                    for back in range(1, j + 1):
                        own[back] -= 1
                    place = cuda.atomic.add(n_unsure, 0, 1)
                    if place < unsure.shape[0]:
                        unsure[place, 0], unsure[place, 1] = cascade, sample
                    break
                if j == k - 1 or top > thresholds[genomes[cascade, max_stages + j]]:
                    label = lanes[sample]
                    if label < width and sums[label] / divisor == top:
                        first = label
                        for earlier in range(label):
                            if first == label and sums[earlier] / divisor == top:
                                first = earlier
                        own[0] += first == label
                    break
        for j in range(k):
            if own[j]:
                cuda.atomic.add(totals, j, own[j])
        cuda.syncthreads()
        if thread < k and totals[thread]:
            cuda.atomic.add(counts, (cascade, thread), totals[thread])

    return run
