"""What a cascade did when it was exported: counts by exit stage and confidence."""

import numpy as np
import pytest
from pydantic import ValidationError

from encas.cascade import Answers
from encas.reference import N_BINS, GearReference, ReferenceFile, StageReference, reference_of


def answers(exit_stage: list[int], confidence: list[float]) -> Answers:
    n = len(exit_stage)
    return Answers(
        probs=np.zeros((n, 2), np.float32),
        label=np.zeros(n, np.intp),
        confidence=np.array(confidence, np.float32),
        exit_stage=np.array(exit_stage, np.intp),
        macs=np.zeros(n, np.int64),
    )


def test_places_run_from_the_surest_of_the_first_stage_to_the_least_sure_of_the_last() -> None:
    gear = GearReference(
        stages=(StageReference(edges=(0.8, 0.9), counts=(1, 2, 3)), StageReference(counts=(4,)))
    )
    assert gear.counts.tolist() == [3, 2, 1, 4]
    assert gear.places([0, 0, 0, 0, 1], [0.95, 0.9, 0.8, 0.5, 0.99]).tolist() == [0, 0, 1, 2, 3]


def test_counts_are_those_of_the_places_of_the_same_answers() -> None:
    rng = np.random.default_rng(0)
    found = answers(rng.integers(0, 3, 1000).tolist(), rng.random(1000).tolist())
    gear = GearReference.of(found, 4)
    places = gear.places(found.exit_stage.tolist(), found.confidence.tolist())
    assert np.bincount(places, minlength=len(gear.counts)).tolist() == gear.counts.tolist()
    assert [sum(stage.counts) for stage in gear.stages[:3]] == np.bincount(found.exit_stage).tolist()
    assert max(gear.stages[0].counts) < 2 * 1000 / 3 / N_BINS
    assert gear.stages[3].counts == (0,)  # nobody left there


def test_confidences_that_are_all_the_same_or_infinite_have_places_too() -> None:
    gear = GearReference.of(answers([0, 0, 0], [1.0, 1.0, np.inf]), 1)
    assert gear.counts.sum() == 3
    assert len(gear.places([0, 0], [float("inf"), 0.0])) == 2


def test_a_reference_is_about_gears_of_so_many_stages() -> None:
    file = reference_of("val", [answers([0, 1], [0.9, 0.5])], [2])
    assert ReferenceFile.model_validate_json(file.model_dump_json()) == file
    file.check([2])
    with pytest.raises(ValueError, match=r"gears of \[2\] stages, the bundle's have \[3\]"):
        file.check([3])
    with pytest.raises(ValidationError, match="edges must rise"):
        StageReference(edges=(0.5, 0.5), counts=(1, 1, 1))
    with pytest.raises(ValidationError, match="one more than edges"):
        StageReference(edges=(0.5,), counts=(1,))
