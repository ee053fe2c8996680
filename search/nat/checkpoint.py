"""The checkpoints that once-for-all, ProxylessNAS, AlphaNet and AttentiveNAS publish, and training programs like theirs.

Nothing in a file is run. Files that hold more than tensors are read by an unpickler that knows torch's tensors alone and
puts an empty object where an object of another class stands, such as a program's options; a file that asks for any other
function to be called is refused.
"""

import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from encas.errors import InvalidInput
from encas.search.nat.space import Space
from encas.search.nat.supernet import Supernet

State = Mapping[str, Tensor]
_WRAPPERS = ("state_dict", "model_state_dict")
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

    All tensors must be there and fit, and none may be left over, but for two kinds that no network uses: the
    `bn_tracking` statistics and the shortcuts of blocks that never change the width, of AlphaNet and AttentiveNAS.

    Args:
        path: What was downloaded, or safetensors with the same names.
        space: The one that it was trained on.
        n_classes: What it must tell apart; None takes any number.

    Raises:
        InvalidInput: No such file, truncated, with code, or of another space or number of classes.
    """
    state = _translated(read_tensors(path), space, str(path))
    head = state.get("classifier.weight")
    if head is None or head.ndim != 2 or len(head) < 2:
        raise InvalidInput(f"{path}: is no checkpoint of {space.name}: has no classifier")
    if n_classes not in (None, len(head)):
        raise InvalidInput(
            f"{path}: tells {len(head)} classes apart, not {n_classes}; read it as it is, then draw a new head"
        )
    supernet = Supernet(space, len(head), torch.Generator().manual_seed(0))
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


def read_tensors(path: Path) -> State:
    """Read named tensors from safetensors or from a file of `torch.save`, running nothing.

    Raises:
        InvalidInput: No such file, truncated, with code, or something else.
    """
    if not path.is_file():
        raise InvalidInput(f"{path}: no such file")
    try:
        loaded = load_file(path) if path.suffix == ".safetensors" else _load(path)
    except InvalidInput:
        raise
    except Exception as error:  # a damaged file makes the libraries raise whatever they like
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InvalidInput(f"{path}: is no whole file of weights: {reason}") from None
    for key in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise InvalidInput(f"{path}: must hold a state_dict of named tensors, holds {type(loaded).__name__}")
    return {str(key): value for key, value in loaded.items()}


def _translated(state: State, space: Space, place: str) -> State:
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
        rest = rest.removeprefix("conv.") if found[2] == "shortcut" else rest
        return f"stages.{stage}.{j}.{_LAYERS[found[2]]}.{rest}"
    first, _, rest = name.partition(".")
    if first == "classifier":
        return f"classifier.{rest.removeprefix('linear.')}"
    return f"{_ENDS[first]}.{rest}" if first in _ENDS else name


def _load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        pass
    try:
        return torch.load(path, map_location="cpu", weights_only=False, pickle_module=_Inert)
    except _CodeFoundError as error:
        raise InvalidInput(
            f"{path}: holds pickled code (it calls {error}), which is never run; save the state_dict alone"
        ) from None


class _CodeFoundError(Exception):
    """A file asks for a function to be called."""


class _Refusing(type):
    """Pickled objects are made without calling their class; whatever is called is code."""

    def __call__(cls, *_args: object, **_options: object) -> Any:
        raise _CodeFoundError(cls.__name__)


def _stand_in(module: str, name: str) -> type:
    """Make a class whose objects take what is put into them, and keep nothing."""

    def new(cls: type, *_args: object, **_options: object) -> Any:
        return object.__new__(cls)

    def ignore(_self: object, *_args: object) -> None:
        return None

    taking = ("__setitem__", "__setstate__", "append", "extend", "add")
    body = {"__new__": new, **dict.fromkeys(taking, ignore)}
    return _Refusing(f"{module}.{name}", (), body)


class _Unpickler(pickle.Unpickler):
    """Knows how torch writes tensors; all other names give stand-ins."""

    def find_class(self, module: str, name: str) -> Any:
        """Look a name up in a short list."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_parameter"):
            return getattr(torch._utils, name)
        if module == "torch" and name in _STORAGES:
            return getattr(torch, name)
        return _stand_in(module, name)


def _unpickle(file: Any, **options: Any) -> Any:
    return _Unpickler(file, **options).load()


_STORAGES = {f"{kind}Storage" for kind in ("Float", "Half", "BFloat16", "Double", "Long", "Int", "Bool")}
# What torch.load asks of a pickle module.
_Inert = SimpleNamespace(Unpickler=_Unpickler, load=_unpickle, __name__="encas")
