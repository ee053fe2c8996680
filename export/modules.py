"""Torch modules from timm, torchvision, a Python function or a supernetwork, with their preprocessing."""

import importlib
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from encas.errors import InvalidInput
from encas.export.weights import load_state, n_classes_of, read_state
from encas.files import parse_model
from encas.preprocess import Preprocess
from encas.search.nat import SupernetFolder

Opened = tuple[nn.Module, Preprocess | None]


def from_timm(name: str, weights: Path | None) -> Opened:
    """Make a network of timm, with its published weights or those of a file.

    Raises:
        InvalidInput: timm has no such network, its weights cannot be had, or those of the file do not fit.
    """
    import timm  # noqa: PLC0415  (other sources do without)
    from timm.data.config import resolve_data_config  # noqa: PLC0415

    source = f"timm:{name}"

    def make(n_classes: int | None) -> nn.Module:
        options: dict[str, Any] = {} if n_classes is None else {"num_classes": n_classes}
        module: nn.Module = timm.create_model(name, pretrained=weights is None, **options)
        return module

    if ":" not in name and not timm.is_model(name.partition(".")[0]):
        raise InvalidInput(f"{source}: timm has no such network; see timm.list_models()")
    module = _made(make, weights, source)
    config = resolve_data_config({}, model=module)  # type: ignore[no-untyped-call]
    channels, *size = config["input_size"]
    fields = {key: config[key] for key in ("interpolation", "crop_pct", "crop_mode", "mean", "std")}
    return module, parse_model({"channels": channels, "size": size, **fields}, Preprocess, source)


def from_torchvision(name: str, weights: Path | None) -> Opened:
    """Make a network of torchvision, given as NAME or NAME:WEIGHTS, or with the weights of a file.

    Raises:
        InvalidInput: torchvision has no such network or weights, or those of the file do not fit.
    """
    from torchvision import models  # type: ignore[import-untyped]  # noqa: PLC0415  (other sources do without)

    source = f"torchvision:{name}"
    name, _, weights_name = name.partition(":")
    try:
        published = models.get_model_weights(name)[weights_name or "DEFAULT"]
    except (ValueError, KeyError):
        raise InvalidInput(
            f"{source}: torchvision has no such network, or no such weights of it; see "
            "torchvision.models.list_models()"
        ) from None
    # With published weights torchvision switches on a change of the input's scale in these two.
    options = {"transform_input": True} if name in ("googlenet", "inception_v3") else {}

    def make(n_classes: int | None) -> nn.Module:
        n_classes = n_classes or len(published.meta["categories"])
        module: nn.Module = models.get_model(name, weights=None, num_classes=n_classes, **options)
        if weights is None:
            # torchvision itself would unpickle the download; this refuses code.
            state = published.get_state_dict(progress=False, check_hash=True, weights_only=True)
            module.load_state_dict(state)
        return module

    return _made(make, weights, source), _from_preset(published.transforms())


def from_function(text: str, weights: Path | None) -> Opened:
    """Call MODULE:FUNCTION, which returns an `nn.Module`, or one with its preprocessing.

    The current folder is searched for the module first.

    Raises:
        InvalidInput: There is no such function, it fails, or it returns something else.
    """
    source = f"torch:{text}"
    result = _called(text, source)
    module, preprocess = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
    if not isinstance(module, nn.Module):
        raise InvalidInput(
            f"{source}: must return an nn.Module, or an nn.Module and its preprocessing; "
            f"returned {type(result).__name__}"
        )
    if weights is not None:
        load_state(module, read_state(weights), str(weights))
    if isinstance(preprocess, Mapping):
        preprocess = parse_model(dict(preprocess), Preprocess, source)
    if preprocess is not None and not isinstance(preprocess, Preprocess):
        raise InvalidInput(f"{source}: its preprocessing must be a mapping, is {type(preprocess).__name__}")
    return module, preprocess


def from_supernet(text: str, _weights: Path | None) -> Opened:
    """Take FOLDER#NETWORK out of a supernetwork, with the network's own running statistics.

    Raises:
        InvalidInput: There is no such folder or network, or a file in it has changed.
    """
    folder, _, name = text.rpartition("#")
    opened = SupernetFolder.open(folder)
    return opened.network(name), opened.preprocess(opened.calibrated(name).arch)


def _made(make: Callable[[int | None], nn.Module], weights: Path | None, source: str) -> nn.Module:
    """Make a network, with as many classes as the weights of a file have."""
    try:
        module = make(None)
    except Exception as error:  # unknown tags, no network connection, damaged downloads
        raise InvalidInput(f"{source}: cannot be had: {_reason(error)}; or give --weights FILE") from None
    if weights is None:
        return module
    state = read_state(weights)
    n_classes = n_classes_of(state)
    if n_classes != n_classes_of(module.state_dict()):
        module = make(n_classes)
    load_state(module, state, str(weights))
    return module


def _called(text: str, source: str) -> Any:
    module_name, _, function_name = text.rpartition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        function = getattr(importlib.import_module(module_name), function_name, None)
        if not callable(function):
            raise InvalidInput(f"{source}: module '{module_name}' has no function '{function_name}'")
        return function()
    except ModuleNotFoundError as error:
        raise InvalidInput(
            f"{source}: no module '{error.name}', neither in {here} nor installed; run this where it lies"
        ) from None
    except InvalidInput:
        raise
    except (Exception, SystemExit) as error:  # the user's own code
        raise InvalidInput(f"{source}: raised {type(error).__name__}: {_reason(error)}") from error
    finally:
        sys.path.remove(here)


def _from_preset(preset: Any) -> Preprocess:
    """Read torchvision's `ImageClassification`: the shorter side to `resize_size`, then a square crop."""
    crop, resize = preset.crop_size[0], preset.resize_size[0]
    crop_pct = crop / resize
    if math.floor(crop / crop_pct) != resize:
        crop_pct = float(np.nextafter(crop_pct, 0))  # the quotient was rounded to the wrong side
    return Preprocess(
        size=(crop, crop),
        interpolation=preset.interpolation.value,
        crop_pct=crop_pct,
        mean=tuple(preset.mean),
        std=tuple(preset.std),
    )


def _reason(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
