import numpy as np
import pytest

from encas.search.linkage import linkage_tree, mutual_information


def test_equal_genes_share_their_whole_entropy_and_independent_ones_nothing() -> None:
    # Gene 1 copies gene 0, gene 2 is independent of both; all have one bit of entropy.
    genomes = np.array([[0, 0, 0], [0, 0, 1], [1, 1, 0], [1, 1, 1]])
    expected = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]])
    np.testing.assert_allclose(mutual_information(genomes), expected, atol=1e-12)


def test_any_alphabet_counts() -> None:
    # H(X) = 1.5 bits (1/2, 1/4, 1/4), H(Y) = 1 bit, and X decides Y: they share the whole of Y.
    genomes = np.array([[40, 7], [40, 7], [13, 2], [5, 2]])
    np.testing.assert_allclose(mutual_information(genomes), np.array([[1.5, 1], [1, 1]]), atol=1e-12)


def test_a_gene_that_never_varies_shares_nothing() -> None:
    genomes = np.array([[3, 0], [3, 1], [3, 2]])
    np.testing.assert_allclose(mutual_information(genomes), np.diag([0, np.log2(3)]), atol=1e-12)


def test_groups_of_genomes_are_looked_at_apart() -> None:
    genomes = np.random.default_rng(0).integers(4, size=(3, 10, 5))
    together = mutual_information(genomes)
    assert together.shape == (3, 5, 5)
    for group, information in zip(genomes, together, strict=True):
        np.testing.assert_allclose(information, mutual_information(group))


def masks_of(*sets: str) -> list[list[bool]]:
    return [[str(gene) in genes for gene in range(4)] for genes in sets]


def test_the_most_similar_groups_merge_first() -> None:
    similarity = np.array([[0, 0.9, 0.1, 0.2], [0.9, 0, 0.3, 0.1], [0.1, 0.3, 0, 0.5], [0.2, 0.1, 0.5, 0]])
    tree = linkage_tree(similarity, np.random.default_rng(0))
    assert tree[:4].tolist() == masks_of("0", "1", "2", "3")
    assert sorted(tree[4:6].tolist()) == sorted(masks_of("01", "23"))
    assert tree[6].tolist() == masks_of("0123")[0]


def test_the_similarity_of_groups_is_the_mean_over_their_pairs() -> None:
    # 0 and 1 merge first. Then 3 has 0.5 with 2; {0, 1} has (0.9 + 0.3) / 2 = 0.6 with 2: 2 joins {0, 1},
    # as it would by the largest similarity (0.9) but not by the smallest (0.3).
    similarity = np.array([[0, 1.0, 0.9, 0.0], [1.0, 0, 0.3, 0.0], [0.9, 0.3, 0, 0.5], [0.0, 0.0, 0.5, 0]])
    tree = linkage_tree(similarity, np.random.default_rng(0))
    assert sorted(tree[4:].tolist()) == sorted(masks_of("01", "012", "0123"))
    # With 0.1 for the second pair the mean is 0.5, a tie with 3: the smaller group is nearer.
    similarity[1, 2] = similarity[2, 1] = 0.1
    tree = linkage_tree(similarity, np.random.default_rng(0))
    assert sorted(tree[4:].tolist()) == sorted(masks_of("01", "23", "0123"))


@pytest.mark.parametrize("seed", range(5))
def test_a_tree_of_ties_is_a_tree(seed: int) -> None:
    tree = linkage_tree(np.zeros((9, 9)), np.random.default_rng(seed))
    assert tree.shape == (17, 9)
    assert (tree[:9] == np.eye(9, dtype=bool)).all()
    assert tree[-1].all()
    for merged in tree[9:]:
        parts = [other for other in tree if (other <= merged).all() and other.sum() < merged.sum()]
        assert any((a ^ b == merged).all() and not (a & b).any() for a in parts for b in parts)


def test_ties_are_decided_by_chance() -> None:
    trees = {linkage_tree(np.zeros((6, 6)), np.random.default_rng(seed)).tobytes() for seed in range(10)}
    assert len(trees) > 1


def test_one_gene_is_a_tree_of_its_own() -> None:
    assert linkage_tree(np.zeros((1, 1)), np.random.default_rng(0)).tolist() == [[True]]
