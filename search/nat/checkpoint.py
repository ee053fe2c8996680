"""The checkpoints that once-for-all, ProxylessNAS, AlphaNet and AttentiveNAS publish, under our names."""

import re
from itertools import accumulate
from pathlib import Path

from torch import Tensor

from encas.errors import InvalidInput
from encas.search.nat.space import Space
from encas.search.nat.supernet import Supernet
from encas.search.nat.tensors import State, read_tensors

_LAYERS = {
    "inverted_bottleneck": "expand",
    "depth_conv": "depth",
    "depth_conv.se.fc": "se",
    "point_linear": "project",
    "shortcut": "shortcut",
}
_BLOCK = re.compile(r"blocks\.(\d+)\.(?:conv\.)?(depth_conv\.se\.fc|\w+)\.(.+)")
_ENDS = {"first_conv": "stem", "final_expand_layer": "final", "feature_mix_layer": "mix"}


def read_official(path: Path, space: Space, n_classes: int | None = None) -> Supernet:
    """Read a published checkpoint as a supernetwork of its space.

    All tensors must be there and fit, and none may be left over, but for two kinds of AlphaNet and
    AttentiveNAS that no network uses: `bn_tracking`, and the shortcuts of blocks that never change the width.

    Args:
        path: What was downloaded, or safetensors with the same names.
        space: The one that it was trained on.
        n_classes: What it must tell apart; None takes any number.

    Raises:
        InvalidInput: No such file, truncated, with code, or of another space or number of classes.
    """
    state = translated(read_tensors(path), space, str(path))
    head = state.get("classifier.weight")
    if head is None or head.ndim != 2 or len(head) < 2:
        raise InvalidInput(f"{path}: is no checkpoint of {space.name}: has no classifier")
    if n_classes not in (None, len(head)):
        raise InvalidInput(
            f"{path}: tells {len(head)} classes apart, not {n_classes}; read it as it is and draw a new head"
        )
    supernet = Supernet(space, len(head))
    load_strictly(supernet, state, str(path))
    return supernet


def load_strictly(supernet: Supernet, state: State, place: str) -> None:
    """Put tensors into a supernetwork: all of them, and none missing.

    Raises:
        InvalidInput: Names the first that does not fit.
    """
    own = supernet.net.state_dict()
    wrong = f"{place}: is no checkpoint of {supernet.space.name}"
    for problem, names in (("lacks", own.keys() - state.keys()), ("has", state.keys() - own.keys())):
        if names:
            others = f" and {len(names) - 1} others" if len(names) > 1 else ""
            raise InvalidInput(f"{wrong}: {problem} '{min(names)}'{others}")
    for key, tensor in own.items():
        if tensor.shape != state[key].shape:
            raise InvalidInput(
                f"{wrong}: '{key}' has shape {tuple(state[key].shape)}, must be {tuple(tensor.shape)}"
            )
    supernet.net.load_state_dict(dict(state))


def translated(state: State, space: Space, place: str) -> State:
    """Give tensors our names, and leave out those that no network uses."""
    depths = [stage.depths[-1] for stage in space.stages]
    starts = [0, *accumulate(depths)]
    positions = [(stage, j) for stage, depth in enumerate(depths) for j in range(depth)]
    translated: dict[str, Tensor] = {}
    for given, tensor in state.items():
        # Elastic layers of the originals wrap plain ones of the same name.
        name = re.sub(r"\b(\w+)(?:\.\1)+\b", r"\1", given.removeprefix("module."))
        name = name.replace("mobile_inverted_conv.", "conv.").removeprefix("last_conv.")
        block = int(found[1]) if (found := _BLOCK.fullmatch(name)) else None
        unused = space.shortcut == "project" and (
            ".bn_tracking." in name or (name.endswith(".shortcut.conv.weight") and block not in starts)
        )
        if unused:
            continue
        if block is not None and block >= len(positions):
            raise InvalidInput(f"{place}: is no checkpoint of {space.name}: has {block + 1} blocks or more")
        ours = _our_name(name, positions)
        if ours in translated:
            raise InvalidInput(f"{place}: has '{given}' twice, under two spellings")
        translated[ours] = tensor
    return translated


def _our_name(name: str, positions: list[tuple[int, int]]) -> str:
    """Translate a name; one that is not known stays, and fits nothing."""
    found = _BLOCK.fullmatch(name)
    if found and found[2] in _LAYERS:
        stage, j = positions[int(found[1])]
        rest = re.sub(r"^conv\.(\dto\d)_matrix$", r"conv.matrices.\1", found[3])
        if found[2] in ("shortcut", "depth_conv.se.fc"):  # where we have no layer around the convolution
            rest = rest.replace("conv.", "")
        return f"stages.{stage}.{j}.{_LAYERS[found[2]]}.{rest}"
    first, _, rest = name.partition(".")
    if first == "classifier":
        return f"classifier.{rest.removeprefix('linear.')}"
    return f"{_ENDS[first]}.{rest}" if first in _ENDS else name
