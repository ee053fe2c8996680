"""The compiled inner loops of the evaluator.

Outputs come as rows of `width` float16 numbers, a multiple of LANES: a sample's probabilities for the classes
that matter for it, the same for every member (see `encas.search.shortlist`), and last the largest of all its
other probabilities. The sum of these last numbers bounds what any other class can reach, since rounding is
monotone; only where it reaches the winner is the answer unsure, and left to the caller.

All arithmetic is float32 in the order of the stages, as `encas.cascade.run_cascade` defines it.
"""

from typing import Any

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from encas.search.genome import N_THRESHOLDS, THRESHOLDS

LANES = 16  # numbers that are added at once
AHEAD = 6  # samples by which memory is asked for early
_THRESHOLDS = THRESHOLDS.astype(np.float32)
_HALF_TO_SINGLE = np.float32(2.0**112)
_NEARLY = np.float32(1 - 2.0**-21)  # sums that differ by a larger factor have different means

Bits = NDArray[np.uint16]  # float16 numbers, none of them negative
Indices = NDArray[np.intp]
Counts = NDArray[np.int64]


def _row(context: Any, builder: Any, array_type: Any, array: Any, row: Any) -> Any:
    """Address of a row of a matrix, in generated code."""
    struct = context.make_array(array_type)(context, builder, array)
    offset = builder.mul(builder.extract_value(struct.strides, 0), row)
    return builder.gep(builder.bitcast(struct.data, ir.IntType(8).as_pointer()), [offset])


@intrinsic
def _prefetch(typing_context: Any, matrix: Any, row: Any) -> Any:  # noqa: ARG001
    """Ask for the memory of a row that is needed soon: the rows of hard samples lie far apart."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        byte_p, i32 = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte_p, i32, i32, i32])
        prefetch = builder.module.declare_intrinsic("llvm.prefetch", [byte_p], kind)
        address = _row(context, builder, signature.args[0], args[0], args[1])
        builder.call(prefetch, [address, i32(0), i32(3), i32(1)])  # to read, keep close, data
        return context.get_dummy_value()

    return types.void(matrix, types.intp), generate


@intrinsic
def _add_lanes(typing_context: Any, matrix: Any, row: Any, start: Any, sums: Any) -> Any:  # noqa: ARG001
    """Add LANES float16 numbers of a row, from column `start`, to `sums`; the largest of the new sums.

    In plain numba this is a loop over `sums[i] += float(bits[i])` and one for the maximum. These are vectors
    because numba has no float16 and does not keep the sums in registers: the whole of `run` takes a half to
    a sixth of the time.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        half, single = ir.VectorType(ir.HalfType(), LANES), ir.VectorType(ir.FloatType(), LANES)
        start_bytes = builder.mul(args[2], ir.IntType(64)(2))
        address = builder.gep(_row(context, builder, signature.args[0], args[0], args[1]), [start_bytes])
        numbers = builder.load(builder.bitcast(address, half.as_pointer()), align=2)
        total = context.make_array(signature.args[3])(context, builder, args[3])
        place = builder.bitcast(builder.gep(total.data, [args[2]]), single.as_pointer())
        added = builder.fadd(builder.load(place, align=4), builder.fpext(numbers, single))
        builder.store(added, place, align=4)
        kind = ir.FunctionType(ir.FloatType(), [single])
        name = f"llvm.vector.reduce.fmax.v{LANES}f32"
        largest = cgutils.get_or_insert_function(builder.module, kind, name)  # type: ignore[no-untyped-call]
        return builder.call(largest, [added], fastmath=("nnan",))

    return types.float32(matrix, types.intp, types.intp, sums), generate


@njit(inline="always")
def _add(values: Bits, row: int, sums: NDArray[np.float32]) -> np.float32:
    """Add a row to the sums; the largest of them."""
    top = np.float32(0)
    for start in range(0, values.shape[1], LANES):
        top = max(top, _add_lanes(values, row, start, sums))  # type: ignore[call-arg]
    return top


@njit(inline="always")
def _wins(sums: NDArray[np.float32], lane: int, divisor: np.float32, top: np.float32) -> bool:
    """Whether a class is the first whose mean is the largest; different sums may have the same mean."""
    if lane == len(sums) or sums[lane] / divisor != top:
        return False
    nearly = sums[lane] * _NEARLY
    n_near = 0
    for other in range(len(sums)):
        n_near += sums[other] >= nearly
    if n_near == 1:
        return True
    for earlier in range(lane):  # noqa: SIM110
        if sums[earlier] / divisor == top:
            return False
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def run(
    genomes: Indices,
    values: Bits,
    lanes: Indices,
    order: NDArray[np.int32],
    starts: Counts,
    rights: Counts,
    begin: int,
    right: Counts,
    reached: Counts,
    unsure: Indices,
) -> tuple[int, int]:
    """Run cascades from number `begin` on, until all are done or `unsure` may get full.

    Args:
        genomes: (p, 2 k - 1) in canonical form; see `encas.search.genome.Space`.
        values: (m * n, width) rows of all members.
        lanes: (n,) place of the label among a sample's classes, or `width`.
        order: (m, a) the samples to run, by rising confidence of each member; see `rank`.
        starts: (m, 53) where in `order` those begin that exceed a number of thresholds.
        rights: (m, 53) how many of those are right.
        begin: First cascade to run.
        right: (p,) to which right answers are added, without the unsure samples.
        reached: (p, k) to which runs of every stage are added; of the unsure samples only the first.
        unsure: (q, 2) filled with cascade and sample; q is at least a.

    Returns:
        The next cascade to run, and the number of unsure samples.
    """
    n, sums = len(lanes), np.empty(values.shape[1], np.float32)
    max_stages, n_unsure = reached.shape[1], 0
    for cascade in range(begin, len(genomes)):
        members, thresholds = genomes[cascade, :max_stages] - 1, genomes[cascade, max_stages:]
        first, k = members[0], 0
        while k < max_stages and members[k] >= 0:
            k += 1
        if k == 0:
            continue
        if k == 1:
            reached[cascade, 0] += order.shape[1]
            right[cascade] += rights[first, 0]
            continue
        exceeded = thresholds[0] + 1
        n_active = starts[first, exceeded]
        if n_unsure + n_active > len(unsure):
            return cascade, n_unsure
        reached[cascade, 0] += order.shape[1]
        n_right = rights[first, exceeded]
        for a in range(n_active):
            ahead = order[first, min(a + AHEAD, n_active - 1)]
            for j in range(min(k, 3)):  # few samples get further
                _prefetch(values, members[j] * n + ahead)  # type: ignore[call-arg]
            sample = order[first, a]
            sums[:] = 0
            _add(values, first * n + sample, sums)
            for j in range(1, k):
                reached[cascade, j] += 1
                divisor = np.float32(j + 1)
                top = _add(values, members[j] * n + sample, sums) / divisor
                if sums[-1] / divisor == top:
                    for back in range(1, j + 1):
                        reached[cascade, back] -= 1
                    unsure[n_unsure, 0], unsure[n_unsure, 1] = cascade, sample
                    n_unsure += 1
                    break
                if j == k - 1 or top > _THRESHOLDS[thresholds[j]]:
                    n_right += _wins(sums, lanes[sample], divisor, top)
                    break
        right[cascade] += n_right
    return len(genomes), n_unsure


@njit(cache=True, nogil=True, error_model="numpy")
def watch(
    values: Bits,
    lanes: Indices,
    members: Indices,
    confidence: NDArray[np.float32],
    is_right: NDArray[np.bool_],
    unsure: NDArray[np.bool_],
) -> None:
    """Tell what the stages behind the first would say of every sample; see `run` for what is not told here.

    Args:
        values: (m * n, width).
        lanes: (n,).
        members: (k,) of the stages.
        confidence: (k, n) filled, except for the first stage and the unsure samples.
        is_right: (k, n) filled likewise.
        unsure: (n,) filled.
    """
    n, sums = len(lanes), np.empty(values.shape[1], np.float32)
    for sample in range(n):
        sums[:] = 0
        _add(values, members[0] * n + sample, sums)
        unsure[sample] = False
        for j in range(1, len(members)):
            divisor = np.float32(j + 1)
            top = _add(values, members[j] * n + sample, sums) / divisor
            unsure[sample] |= sums[-1] / divisor == top
            confidence[j, sample] = top
            is_right[j, sample] = _wins(sums, lanes[sample], divisor, top)


@njit(cache=True, error_model="numpy")
def run_dense(
    genomes: Indices,
    cascades: Indices,
    labels: Indices,
    rows: Bits,
    places: Indices,
    right: Counts,
    reached: Counts,
) -> None:
    """Run q cascades on one sample each; see `run` for what is not told here.

    Args:
        genomes: (p, 2 k - 1).
        cascades: (q,) rows of the genomes.
        labels: (q,)
        rows: (r, c) float16, a member's probabilities of all classes for a sample.
        places: (q, k) rows of each cascade's members, -1 behind the last stage.
        right: (p,) added to.
        reached: (p, k) added to, except for the first stage.
    """
    max_stages, means = reached.shape[1], np.empty(rows.shape[1], np.float32)
    sums = np.empty(rows.shape[1], np.float32)
    for i, cascade in enumerate(cascades):
        sums[:] = 0
        for j in range(max_stages):
            divisor = np.float32(j + 1)
            for k in range(rows.shape[1]):
                sums[k] += _single(rows[places[i, j], k])
                means[k] = sums[k] / divisor
            reached[cascade, j] += j > 0
            winner = means.argmax()
            is_last = j == max_stages - 1 or places[i, j + 1] < 0
            if is_last or means[winner] > _THRESHOLDS[genomes[cascade, max_stages + j]]:
                right[cascade] += winner == labels[i]
                break


@njit(inline="always")
def _single(bits: np.uint16) -> np.float32:
    """Read a float16 that is not negative, or minus zero.

    The shift puts exponent and fraction where float32 has them, the product mends the bias.
    """
    shifted = np.uint32((np.uint32(bits) & np.uint32(0x7FFF)) << np.uint32(13))
    return np.float32(shifted.view(np.float32) * _HALF_TO_SINGLE)


@njit(cache=True, nogil=True)
def rank(
    confidence: NDArray[np.float32],
    is_right: NDArray[np.bool_],
    samples: NDArray[np.int32],
    order: NDArray[np.int32],
    starts: Counts,
    rights: Counts,
) -> None:
    """Sort samples by how many thresholds each member's confidence exceeds.

    What a first stage makes of all samples is then looked up, for any of its thresholds, and the samples that
    it leaves over are the first ones in its order.

    Args:
        confidence: (m, n) largest probabilities.
        is_right: (m, n).
        samples: (a,) some of the n; keep their order among equals.
        order: (m, a) filled.
        starts: (m, 53) filled: where those begin that exceed at least e thresholds.
        rights: (m, 53) filled: how many of those are right.
    """
    exceeded = np.empty(len(samples), np.int64)
    place = np.empty(N_THRESHOLDS + 2, np.int64)
    for member in range(len(confidence)):
        starts[member] = 0
        rights[member] = 0
        for a, sample in enumerate(samples):
            e = 0
            while e < N_THRESHOLDS and confidence[member, sample] > _THRESHOLDS[e]:
                e += 1
            exceeded[a] = e
            starts[member, e + 1] += 1
            rights[member, e] += is_right[member, sample]
        for e in range(N_THRESHOLDS + 1):
            starts[member, e + 1] += starts[member, e]
            rights[member, N_THRESHOLDS - e] += rights[member, N_THRESHOLDS + 1 - e]
        place[:] = starts[member]
        for a, sample in enumerate(samples):
            order[member, place[exceeded[a]]] = sample
            place[exceeded[a]] += 1


@njit(cache=True, nogil=True, fastmath=True)
def survey(
    bits: Bits, merits: NDArray[np.float32], tops: Bits, sums: NDArray[np.float32], sane: NDArray[np.bool_]
) -> None:
    """Look through the probabilities of some samples; NaN and the like pass without harm.

    Args:
        bits: (m, b, c) float16.
        merits: (b, c) to which the fourth powers are added: how much a class matters for a sample.
        tops: (m, b, 2) filled with the largest probability and its first class.
        sums: (m,) filled with the sum that differs most from 1.
        sane: (m,) filled: whether all numbers are finite, near [0, 1] and not negative.
    """
    m, b, c = bits.shape
    numbers = np.empty(c, np.float32)
    for member in range(m):
        sums[member], sane[member] = 1, True
        for i in range(b):
            top, rawest = np.uint16(0), np.uint16(0)
            for k in range(c):
                rawest = max(rawest, bits[member, i, k])
                top = max(top, np.uint16(bits[member, i, k] & np.uint16(0x7FFF)))
            negative = rawest > top and rawest != 0x8000  # which is minus zero
            sane[member] &= top <= 0x3C40 and not negative  # 0x3C00 is 1
            total = np.float32(0)
            for k in range(c):
                numbers[k] = _single(bits[member, i, k])
                total += numbers[k]
            for k in range(c):
                square = numbers[k] * numbers[k]
                merits[i, k] += square * square
            if abs(total - 1) > abs(sums[member] - 1):
                sums[member] = total
            winner = 0
            while bits[member, i, winner] & 0x7FFF != top:
                winner += 1
            tops[member, i, 0], tops[member, i, 1] = top, winner


@njit(cache=True, nogil=True)
def condense(bits: Bits, classes: Bits, out: Bits) -> None:
    """Reduce (m, b, c) to (m, b, width): the probabilities of the classes, and the largest of all others.

    Args:
        bits: (m, b, c) float16.
        classes: (b, width - 1); c where there is none.
        out: Filled.
    """
    m, b, c = bits.shape
    others = np.empty(c + 1, np.uint16)
    for member in range(m):
        for i in range(b):
            for k in range(c):
                others[k] = bits[member, i, k] & np.uint16(0x7FFF)  # a zero may have a sign
            others[c] = 0
            for lane in range(classes.shape[1]):
                out[member, i, lane] = others[classes[i, lane]]
                others[classes[i, lane]] = 0
            top = np.uint16(0)
            for k in range(c):
                top = max(top, others[k])
            out[member, i, classes.shape[1]] = top
