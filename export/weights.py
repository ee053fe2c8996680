"""Weights from a file into a torch module, checked tensor by tensor."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from encas.errors import InvalidInput
from encas.search.nat.tensors import read_tensors

State = dict[str, Tensor]


def read_state(path: Path) -> State:
    """Read named tensors from `.safetensors`, or from a file of `torch.save`; never runs pickled code.

    Raises:
        InvalidInput: Neither of the two, or more than named tensors.
    """
    return {key.removeprefix("module."): tensor for key, tensor in read_tensors(path).items()}


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
