import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("PIL")

from encas.bundle import Bundle, GoldenSample
from encas.cascade import exit_fractions
from encas.data import LabelledImages
from encas.errors import InvalidInput
from encas.files import write_npy
from encas.pool import Pool
from encas.preprocess import Preprocess
from encas.runtime.executor import CascadeExecutor
from encas.runtime.machine import cpu_name, energy_j, peak_bytes, usable_cores
from encas.runtime.measure import (
    bundle_labels,
    golden_images,
    measure_bundle,
    measure_members,
    measuring_steps,
    this_machine,
)
from encas.runtime.members import Subject
from encas.runtime.session import open_session
from encas.runtime.stopwatch import Stopwatch

pillow = pytest.importorskip("PIL.Image")
DIGITS = Preprocess(size=(8, 8), channels=1, mean=(0.0,), std=(1.0,))
QUICK = Stopwatch(warm_up=1, min_repeats=2, max_repeats=3)


class Workshop:
    """A clock that moves only when work is done on it."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.done: list[str] = []

    def clock(self) -> float:
        return self.now_s

    def work(self, name: str, *takes_s: float) -> Callable[[], None]:
        """Return a call that takes one time after the other, the last one from then on."""
        left = list(takes_s)

        def call() -> None:
            self.done.append(name)
            self.now_s += left.pop(0) if len(left) > 1 else left[0]

        return call


def test_median_and_p95_are_those_of_the_calls_after_the_warm_up() -> None:
    shop = Workshop()
    call = shop.work("a", 50, 50, *range(1, 22))  # two slow calls to warm up, then 1 s to 21 s
    stopwatch = Stopwatch(warm_up=2, min_repeats=21, max_repeats=21, clock=shop.clock)
    timing = stopwatch.time({"a": call})["a"]
    assert (timing.median, timing.p95, timing.n) == (11, 20, 21)


def test_calls_take_turns() -> None:
    shop = Workshop()
    stopwatch = Stopwatch(warm_up=1, min_repeats=2, max_repeats=3, clock=shop.clock)
    found = stopwatch.time({"a": shop.work("a", 0.1), "b": shop.work("b", 0.2)})
    assert "".join(shop.done) == "ab" + "ababab"
    assert found["a"].median == pytest.approx(0.1)
    assert found["b"].median == pytest.approx(0.2)


def test_the_budget_ends_the_rounds_but_not_before_the_smallest_number() -> None:
    shop = Workshop()
    call = {"a": shop.work("a", 1.0)}
    assert Stopwatch(0, 5, 50, budget_s=10.5, clock=shop.clock).time(call)["a"].n == 11
    assert Stopwatch(0, 5, 50, budget_s=0.5, clock=shop.clock).time(call)["a"].n == 5


def test_noise_is_how_far_the_medians_of_five_parts_lie_apart() -> None:
    shop = Workshop()
    call = shop.work("a", *[1] * 6, *[1.5] * 4)
    stopwatch = Stopwatch(warm_up=0, min_repeats=10, max_repeats=10, clock=shop.clock)
    assert stopwatch.time({"a": call})["a"].noise == pytest.approx(0.5)


def test_running_and_what_belongs_to_it_are_told_apart(networks: Any, tmp_path: Path) -> None:
    """By a clock that moves one second every time that it is looked at."""
    ticks = itertools.count()
    stopwatch = Stopwatch(1, 2, 3, clock=lambda: float(next(ticks)))
    subject = Subject(open_session(networks[0].onnx_bytes(), "cpu"), DIGITS)
    found = measure_members({"a": subject}, np.zeros((3, 8, 8), np.uint8), (2,), stopwatch=stopwatch)
    (entry,) = found.members["a"]
    assert (entry.latency_s.median, entry.overhead_s, entry.prepare_s, entry.decode_s) == (1, 2, 1, 0)
    file = tmp_path / "image.png"
    pillow.new("L", (8, 8)).save(file)
    (entry,) = measure_members({"a": subject}, [file], (2,), stopwatch=stopwatch).members["a"]
    assert (entry.prepare_s, entry.decode_s) == (0, 1)
    (entry,) = measure_members({"a": subject}, None, (2,), stopwatch=stopwatch).members["a"]
    assert (entry.prepare_s, entry.decode_s) == (0, 0)


def test_what_a_network_gains_by_following_itself_is_told(networks: Any) -> None:
    """By a clock on which the first of two answers takes four seconds and the second two."""
    looks = iter([0, *(0, 1, 2, 3, 4), *(5, 5.5, 6, 6.5, 7)])
    stopwatch = Stopwatch(0, 1, 1, clock=lambda: float(next(looks)))
    subject = Subject(open_session(networks[0].onnx_bytes(), "cpu"), DIGITS)
    found = measure_members({"a": subject}, np.zeros((3, 8, 8), np.uint8), (2,), stopwatch=stopwatch)
    (entry,) = found.members["a"]
    assert (entry.latency_s.median, entry.overhead_s, entry.prepare_s, entry.gain_s) == (1, 2, 1, 2)
    assert found.latencies()["a"][0].gain_s == 2


def test_memory_and_energy_are_known_or_none() -> None:
    assert (peak_bytes() or 2**30) > 2**20
    assert (energy_j() or 0) >= 0


def test_a_clock_too_coarse_for_a_call_gives_no_zero() -> None:
    assert Stopwatch(clock=lambda: 0.0).time({"a": lambda: None})["a"].median > 0


def test_every_member_is_timed_at_every_batch_size(networks: Any) -> None:
    subjects = {
        network.name: Subject(open_session(network.onnx_bytes(), "cpu"), DIGITS) for network in networks[-3:]
    }
    images = np.zeros((2, 8, 8), np.uint8)
    steps: list[int] = []
    found = measure_members(
        subjects, images, (8, 1, 8), stopwatch=QUICK, advance=lambda done, _words: steps.append(done)
    )
    assert list(found.members) == [network.name for network in networks[-3:]]
    assert [entry.batch for entry in found.members["hidden512"]] == [1, 8]
    assert all(entry.latency_s.n == 3 for entries in found.members.values() for entry in entries)
    assert all(entry.prepare_s > 0 for entries in found.members.values() for entry in entries)
    assert (found.provider, found.precision) == ("cpu", "fp32")
    assert steps == [3, 3]


@pytest.mark.parametrize("batches", [(), (0,), (1, -8)])
def test_batch_sizes_that_make_no_sense_are_refused(batches: tuple[int, ...], networks: Any) -> None:
    session = open_session(networks[0].onnx_bytes(), "cpu")
    with pytest.raises(InvalidInput, match="positive whole numbers"):
        measure_members({"a": Subject(session, DIGITS)}, None, batches)


def test_macs_are_counted_from_the_rows_that_ran(bundle: Bundle, digits: Any, networks: Any) -> None:
    images, labels = digits.images[digits.test], digits.labels[digits.test]
    done = 0

    def advance(steps: int, _words: str) -> None:
        nonlocal done
        done += steps

    with CascadeExecutor(bundle, "cpu") as executor:
        found = measure_bundle(executor, images, (1, 7), labels=labels, stopwatch=QUICK, advance=advance)
        answers = executor.run(images)
        assert done == measuring_steps(executor, len(images), (1, 7))
    macs = {network.name: network.macs for network in networks}
    by_hand = sum(
        n * macs[name] for n, name in zip(found.stage_rows, bundle.cascade.member_names, strict=True)
    )
    assert found.macs == by_hand / 600 == answers.macs.mean()
    assert found.stage_rows[0] == found.n == 600
    assert found.exit_fractions == exit_fractions(answers.exit_stage, 3)
    assert found.accuracy == np.mean(answers.label == labels)
    assert [entry.batch for entry in found.batches] == [1, 7]
    (members,) = found.members
    assert set(members.members) == {"hidden016", "hidden064", "hidden512"}


def test_members_of_different_precision_are_kept_apart(bundle: Bundle, digits: Any) -> None:
    first, *rest = bundle.file.members
    half = first.model_copy(update={"precision": "fp16"})
    mixed = replace(bundle, file=bundle.file.model_copy(update={"members": (half, *rest)}))
    with CascadeExecutor(mixed, "cpu") as executor:
        found = measure_bundle(executor, digits.images[:8], (1,), stopwatch=QUICK)
    assert {part.precision: tuple(part.members) for part in found.members} == {
        "fp16": (first.name,),
        "fp32": tuple(member.name for member in rest),
    }


def test_measured_latencies_go_into_the_pool(bundle: Bundle, digits: Any, pool_path: Path) -> None:
    with CascadeExecutor(bundle, "cpu") as executor:
        found = measure_bundle(executor, digits.images[:8], (1, 8), stopwatch=QUICK)
    pool = Pool.open(pool_path).with_latency(found.members[0].latencies())
    (one, eight) = pool.member("hidden512").latency
    assert (one.batch, eight.batch) == (1, 8)
    assert one.machine == this_machine("cpu").name
    assert pool.member("hidden004").latency == ()


def test_nothing_to_measure_on_is_said(bundle: Bundle) -> None:
    with CascadeExecutor(bundle, "cpu") as executor, pytest.raises(InvalidInput, match="there are none"):
        measure_bundle(executor, [])


def test_golden_samples_are_files_or_arrays(bundle: Bundle, digits: Any) -> None:
    assert golden_images(bundle) == []
    write_npy(bundle.path / "golden" / "0.npy", digits.images[0])
    golden = tuple(
        GoldenSample(file=f"golden/0.{kind}", label=0, exit_stage=0, confidence=0.9)
        for kind in ("npy", "png")
    )
    with_golden = replace(bundle, file=bundle.file.model_copy(update={"golden": golden}))
    array, path = golden_images(with_golden)
    assert isinstance(array, np.ndarray) and np.array_equal(array, digits.images[0])
    assert path == bundle.path / "golden" / "0.png"


def labelled(labels: list[int], classes: tuple[str, ...] | None) -> LabelledImages:
    return LabelledImages([Path("image.png")] * len(labels), np.array(labels), classes)


def test_labels_go_by_name_where_the_bundle_knows_the_names(bundle: Bundle) -> None:
    data = labelled([0, 1, 1], ("digit 7", "digit 3"))
    assert bundle_labels(data, bundle, "data").tolist() == [7, 3, 3]


def test_labels_go_by_number_where_there_are_as_many_other_names_or_none(bundle: Bundle) -> None:
    ten = tuple(f"n{j}" for j in range(10))
    assert bundle_labels(labelled([9, 0], ten), bundle, "data").tolist() == [9, 0]
    assert bundle_labels(labelled([9, 0], None), bundle, "data").tolist() == [9, 0]


def test_labels_that_the_bundle_cannot_answer_are_refused(bundle: Bundle) -> None:
    with pytest.raises(InvalidInput, match=r"has 2 classes, the bundle answers 10.*'cat'"):
        bundle_labels(labelled([0, 1], ("digit 1", "cat")), bundle, "data")
    with pytest.raises(InvalidInput, match="class indices must be 0 to 9"):
        bundle_labels(labelled([10], None), bundle, "data")


def test_a_machine_has_a_name_and_cores() -> None:
    machine = this_machine("cpu")
    assert machine.cpu == cpu_name() != ""
    assert machine.cores == usable_cores() >= 1
    assert machine.name.startswith(machine.cpu)
