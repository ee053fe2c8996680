import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from encas.search.algorithm import Genomes, Objectives
from encas.search.ledger import Evaluations, Ledger

NONE = Evaluations.none(2)


class Counting:
    """Sum and difference of two genes, and a record of what was evaluated."""

    def __init__(self) -> None:
        self.evaluated: list[list[int]] = []

    def __call__(self, genomes: Genomes) -> Objectives:
        self.evaluated += genomes.tolist()
        return np.column_stack([genomes.sum(axis=1), genomes[:, 0] - genomes[:, 1]]).astype(float)


def halved(genomes: Genomes) -> Genomes:
    """Genes 2 i and 2 i + 1 mean the same."""
    return genomes // 2 * 2


def make(budget: int = 100, earlier: Evaluations = NONE) -> tuple[Ledger, Counting]:
    evaluate = Counting()
    return Ledger(halved, evaluate, budget, earlier), evaluate


def test_equal_phenotypes_are_evaluated_once_and_genotypes_counted_once() -> None:
    ledger, evaluate = make()
    answers = ledger.objectives(np.array([[2, 4], [3, 4], [2, 4], [9, 0]]))
    assert answers.tolist() == [[6, -2], [6, -2], [6, -2], [8, 8]]
    ledger.objectives(np.array([[3, 5], [9, 0]]))
    assert ledger.n_genotypes == 4
    assert evaluate.evaluated == [[2, 4], [8, 0]]
    assert ledger.evaluations.genomes.tolist() == [[2, 4], [8, 0]]
    assert ledger.evaluations.objectives.tolist() == [[6, -2], [8, 8]]


def test_the_budget_ends_at_the_genotype_that_would_exceed_it() -> None:
    ledger, evaluate = make(budget=3)
    assert len(ledger.objectives(np.array([[0, 0], [0, 2], [0, 0]]))) == 3
    assert not ledger.is_spent
    answers = ledger.objectives(np.array([[0, 2], [0, 4], [0, 0], [0, 6], [0, 8]]))
    assert answers.tolist() == [[2, -2], [4, -4], [0, 0]]
    assert ledger.is_spent
    assert evaluate.evaluated == [[0, 0], [0, 2], [0, 4]]
    assert len(ledger.objectives(np.array([[0, 2], [0, 6]]))) == 1


def test_what_was_evaluated_earlier_is_not_evaluated_again_but_counts_as_if() -> None:
    first, _ = make()
    first.objectives(np.array([[0, 0], [2, 2], [4, 4]]))
    resumed, evaluate = make(earlier=first.everything)
    answers = resumed.objectives(np.array([[6, 6], [2, 3]]))
    assert answers.tolist() == [[12, 0], [4, 0]]
    assert evaluate.evaluated == [[6, 6]]
    assert resumed.n_genotypes == 2
    assert resumed.evaluations.genomes.tolist() == [[6, 6], [2, 2]]
    # An interruption now must lose nothing: those not asked for again are still there.
    assert sorted(resumed.everything.genomes.tolist()) == [[0, 0], [2, 2], [4, 4], [6, 6]]
    assert (resumed.everything.objectives[:, 0] == resumed.everything.genomes.sum(axis=1)).all()


genomes = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=30)


@settings(max_examples=50)
@given(genomes, st.integers(0, 30), st.integers(0, 30))
def test_batches_and_interruptions_change_nothing(asked: list[tuple[int, int]], at: int, kept: int) -> None:
    array = np.array(asked)
    whole, _ = make(budget=20)
    expected = whole.objectives(array)
    before, _ = make(budget=20)
    before.objectives(array[:kept])
    parts, _ = make(budget=20, earlier=before.everything)
    answers = [parts.objectives(array[:at])]
    if len(answers[0]) == at:
        answers.append(parts.objectives(array[at:]))
    assert (np.concatenate(answers) == expected).all()
    assert parts.n_genotypes == whole.n_genotypes
    assert (parts.evaluations.genomes == whole.evaluations.genomes).all()


def test_a_ledger_grows_with_what_it_holds() -> None:
    ledger, _ = make(budget=10_000)
    asked = np.column_stack([np.arange(5000) * 2, np.zeros(5000, int)])
    for start in range(0, 5000, 700):
        ledger.objectives(asked[start : start + 700])
    assert (ledger.objectives(asked)[:, 0] == asked[:, 0]).all()
    assert len(ledger.evaluations.genomes) == 5000
