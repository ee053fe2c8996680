"""Weights from a file into a torch module, checked tensor by tensor."""

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from encas.errors import InvalidInput

State = dict[str, Tensor]
_WRAPPERS = ("state_dict", "model", "model_state_dict")  # what training programs put tensors under


def read_state(path: Path) -> State:
    """Read named tensors from `.safetensors`, or from a file of `torch.save`; never runs pickled code.

    Raises:
        InvalidInput: Neither of the two, or more than named tensors.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise InvalidInput(
            f"{path}: holds more than named tensors and would run code; save the state_dict alone"
        ) from None
    except Exception as error:  # a damaged file makes either library raise whatever it likes
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InvalidInput(f"{path}: is no file of weights: {reason}") from None
    for key in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise InvalidInput(f"{path}: must hold a state_dict of named tensors, holds {type(loaded).__name__}")
    return {str(key).removeprefix("module."): value for key, value in loaded.items()}


def n_classes_of(state: State) -> int | None:
    """Length of the last tensor, which is the bias of the last layer; None if there is no tensor."""
    last = list(state.values())[-1:]
    return int(last[0].shape[0]) if last and last[0].ndim else None


def load_state(module: nn.Module, state: State, place: str) -> None:
    """Put tensors into a module; every one must be used and every one of the module's be given.

    Where the names differ, tensors are matched by their order, if the number, every shape and the last part
    of every name agree: other libraries' copies of a network often differ in nothing but the names.

    Raises:
        InvalidInput: Names the first tensor that does not fit.
    """
    own = module.state_dict()
    if state.keys() != own.keys():
        state = _by_order(state, own, place)
    wrong = next((key for key in own if state[key].shape != own[key].shape), None)
    if wrong is not None:
        raise InvalidInput(
            f"{place}: '{wrong}' has shape {tuple(state[wrong].shape)}, the network needs "
            f"{tuple(own[wrong].shape)}"
        )
    module.load_state_dict(state, strict=True)


def _by_order(state: State, own: Mapping[str, Tensor], place: str) -> State:
    pairs = list(zip(state.items(), own.items(), strict=False))
    fit = len(state) == len(own) and all(
        given.shape == needed.shape and _suffix(key) == _suffix(own_key)
        for (key, given), (own_key, needed) in pairs
    )
    if not fit:
        missing, other = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        raise InvalidInput(
            f"{place}: {len(state)} tensors, the network has {len(own)}: {len(missing)} are missing "
            f"({', '.join(missing[:1]) or 'none'}), {len(other)} are of another network "
            f"({', '.join(other[:1]) or 'none'})"
        )
    return {own_key: given for (_, given), (own_key, _) in pairs}


def _suffix(key: str) -> str:
    return key.rpartition(".")[2]
