"""Named tensors from a file, without running anything that is in it.

Files that hold more than tensors are read by an unpickler that knows torch's tensors alone, and puts an empty
object where an object of another class stands, such as the options of a training program. A file that asks
for a function to be called is refused.
"""

import pickle
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from encas.errors import InvalidInput
from encas.files import replaced

State = Mapping[str, Tensor]
_WRAPPERS = ("state_dict", "model", "model_state_dict")  # what training programs put tensors under


def read_tensors(path: Path) -> State:
    """Read named tensors from safetensors or from a file of `torch.save`, running nothing.

    Raises:
        InvalidInput: No such file, truncated, with code, or something else.
    """
    if not path.is_file():
        raise InvalidInput(f"{path}: no such file")
    try:
        with warnings.catch_warnings(action="ignore"):  # what torch says of odd files, beside its errors
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


def write_tensors(path: Path, tensors: State, metadata: dict[str, str] | None = None) -> None:
    """Write safetensors in one step.

    Not by the library's own writing: on a full disk that raises what is no error of the system.
    """
    whole = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    with replaced(path) as temporary:
        temporary.write_bytes(save(whole, metadata))


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
    """Knows how torch writes tensors (`torch.load` adds their storages); all other names give stand-ins."""

    def find_class(self, module: str, name: str) -> Any:
        """Look a name up in a short list."""
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch._utils" and name in ("_rebuild_tensor_v2", "_rebuild_parameter"):
            return getattr(torch._utils, name)
        return _stand_in(module, name)


def _unpickle(file: Any, **options: Any) -> Any:
    return _Unpickler(file, **options).load()


# What torch.load asks of a pickle module.
_Inert = SimpleNamespace(Unpickler=_Unpickler, load=_unpickle, __name__="encas")
