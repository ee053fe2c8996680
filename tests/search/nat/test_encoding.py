from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encas.errors import InvalidInput
from encas.search.nat.encoding import as_text, decode, encode, from_text, gene_ranges
from encas.search.nat.space import StageArch
from encas.search.nat.spaces import SPACES

OFA, ALPHANET = SPACES["ofa-mbv3-w1.0"], SPACES["alphanet"]


def genes_of(name: str) -> st.SearchStrategy[tuple[int, ...]]:
    return st.tuples(*(st.sampled_from(values) for values in gene_ranges(SPACES[name])))


@pytest.mark.slow
@pytest.mark.parametrize("name", SPACES)
@settings(max_examples=20)
@given(data=st.data())
def test_genes_that_an_architecture_gives_give_it_again(name: str, data: st.DataObject) -> None:
    space = SPACES[name]
    arch = decode(space, data.draw(genes_of(name)))
    canonical = encode(space, arch)
    assert decode(space, canonical) == arch
    assert all(gene in values for gene, values in zip(canonical, gene_ranges(space), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SPACES if SPACES[name].genes_per == "stage"])
@settings(max_examples=20)
@given(data=st.data())
def test_genes_per_stage_each_give_another_architecture(name: str, data: st.DataObject) -> None:
    genes = data.draw(genes_of(name))
    assert encode(SPACES[name], decode(SPACES[name], genes)) == genes


def test_there_are_as_many_genes_and_values_as_published() -> None:
    first_two = [range(17), range(1)]
    of_stage = [range(1, 10), range(1, 10), range(10), range(10)]
    for name in ("ofa-mbv3-w1.0", "ofa-mbv3-w1.2", "ofa-proxyless-w1.3"):
        assert list(gene_ranges(SPACES[name])) == first_two + 5 * of_stage
    sizes = "4 2 2 2 2 2 3 2 3 2 4 2 3 2 4 2 3 3 6 2 3 4 6 2 2 2 2 2"
    assert " ".join(str(len(values)) for values in gene_ranges(ALPHANET)) == sizes


def test_a_block_gene_counts_kernels_before_expands() -> None:
    arch = decode(OFA, (16, 0) + 4 * (1, 2, 3, 4) + (5, 6, 7, 9))
    assert arch.resolution == 256
    assert arch.stages[1] == StageArch(24, (3, 5, 7, 3), (3, 3, 3, 4))
    assert arch.stages[5] == StageArch(160, (5, 7, 3, 7), (4, 4, 6, 6))


def test_a_block_after_a_missing_one_counts_for_nothing() -> None:
    one, other = ((0, 0, 1, 1, 0, last) + 4 * (1, 1, 0, 0) for last in (0, 7))
    assert decode(OFA, one) == decode(OFA, other) == OFA.smallest
    assert encode(OFA, decode(OFA, other)) == one


def test_the_last_block_of_proxyless_has_no_gene_and_stays_large() -> None:
    space = SPACES["ofa-proxyless-w1.3"]
    arch = decode(space, (0, 0) + 5 * (1, 1, 0, 0))
    assert arch.stages[-1] == StageArch(416, (7,), (6,))
    with pytest.raises(InvalidInput, match="genes know stage 6 with kernel 7 and expand 6 only, not 3 and 3"):
        encode(space, space.smallest)


def test_a_resolution_that_is_not_searched_has_no_genes() -> None:
    with pytest.raises(InvalidInput, match="genes know resolutions 192 to 256, not 128"):
        encode(OFA, replace(OFA.smallest, resolution=128))


def test_genes_are_written_with_dots() -> None:
    text = as_text(encode(ALPHANET, ALPHANET.largest))
    assert text == "3.1.1.1.1.1.2.1.2.1.3.1.2.1.3.1.2.2.5.1.2.3.5.1.1.1.1.1"
    assert from_text(ALPHANET, text) == from_text(ALPHANET, "largest") == ALPHANET.largest
    assert from_text(ALPHANET, "smallest") == ALPHANET.smallest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a0", "architecture 'a0': must be smallest, largest, or 28 numbers with dots between them"),
        ("1.2", "alphanet: an architecture has 28 genes, got 2"),
        ("4" + ".0" * 27, "alphanet: gene 0 is 4, must be 0 to 3"),
        ("-1" + ".0" * 27, "alphanet: gene 0 is -1, must be 0 to 3"),
    ],
)
def test_other_text_is_one_clear_line(text: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        from_text(ALPHANET, text)
    assert str(caught.value) == message
