"""Files of weights as the authors of the supernetworks publish them, with random numbers in them."""

from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from encas.search.nat.space import Space
from encas.search.nat.supernet import Supernet

LAYERS = {"expand": "inverted_bottleneck", "depth": "depth_conv", "project": "point_linear"}
ENDS = {"stem": "first_conv", "final": "final_expand_layer", "mix": "feature_mix_layer"}


def write_published(path: Path, space: Space, n_classes: int) -> None:
    """Once-for-all's hold a state_dict; AlphaNet's more, in the older format, and tensors nobody uses."""
    state = dict(_tensors(space, n_classes))
    if space.shortcut == "identity":
        torch.save({"state_dict": state}, path)
        return
    whole = {
        "epoch": 360,
        "state_dict": {f"module.{key}": tensor for key, tensor in {**state, **dict(_unused(space))}.items()},
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
    }
    torch.save(whole, path, _use_new_zipfile_serialization=False)


def _tensors(space: Space, n_classes: int) -> Iterator[tuple[str, Tensor]]:
    starts = [0, *accumulate(stage.depths[-1] for stage in space.stages)]
    last = "last_conv." if space.shortcut == "project" else ""
    for key, tensor in Supernet(space, n_classes, torch.Generator().manual_seed(0)).net.state_dict().items():
        first, _, rest = key.partition(".")
        if first == "classifier":
            yield f"classifier.linear.{'linear.' if last else ''}{rest}", tensor
        elif first != "stages":
            yield f"{'' if first == 'stem' else last}{ENDS[first]}.{_doubled(rest, bool(last))}", tensor
        else:
            stage, j, layer, rest = rest.split(".", 3)
            number = starts[int(stage)] + int(j)
            yield _in_block(f"blocks.{number}", layer, rest, elastic=int(stage) > 0 or bool(last)), tensor


def _in_block(block: str, layer: str, rest: str, *, elastic: bool) -> str:
    if layer == "shortcut":
        return f"{block}.shortcut.conv.conv.{rest}"
    inside = f"{block}.mobile_inverted_conv"
    if layer == "se":
        return f"{inside}.depth_conv.se.fc.{rest}"
    if "matrices" in rest:
        return f"{inside}.depth_conv.conv.{rest.rpartition('.')[2]}_matrix"
    return f"{inside}.{LAYERS[layer]}.{_doubled(rest, elastic)}"


def _doubled(rest: str, elastic: bool) -> str:
    """Elastic layers wrap plain ones of the same name."""
    part, dot, end = rest.partition(".")
    return f"{part}.{part}.{end}" if elastic and dot else rest


def _unused(space: Space) -> Iterator[tuple[str, Tensor]]:
    """Shortcuts of blocks that never change the width, and statistics that were tracked."""
    number = 0
    for stage in space.stages:
        for j in range(stage.depths[-1]):
            if j:
                yield f"blocks.{number}.shortcut.conv.conv.weight", torch.zeros(*2 * stage.widths[-1:], 1, 1)
            number += 1
    yield "first_conv.bn.bn_tracking.0.running_mean", torch.zeros(space.stem_widths[0])
