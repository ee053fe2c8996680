"""Names of a list, as the installed timm knows them."""

import pytest

from encas.export.source import MemberSpec
from encas.search.experiment.names import todays

pytest.importorskip("timm")


@pytest.mark.slow
def test_old_names_get_their_successors_and_unknown_ones_are_told() -> None:
    wanted = ["timm:resnet50", "timm:convnext_tiny_in22ft1k", "timm:no_such_network", "onnx:a.onnx"]
    members, names = todays([MemberSpec(source=source) for source in wanted])
    assert [member.source for member in members] == [
        "timm:resnet50",
        "timm:convnext_tiny.fb_in22k_ft_in1k",
        "onnx:a.onnx",
    ]
    assert (names.kept, names.gone) == (2, ("no_such_network",))


@pytest.mark.slow
def test_two_names_of_one_network_become_one() -> None:
    wanted = ["timm:convnext_tiny_in22ft1k", "timm:convnext_tiny.fb_in22k_ft_in1k"]
    assert len(todays([MemberSpec(source=source) for source in wanted])[0]) == 1
