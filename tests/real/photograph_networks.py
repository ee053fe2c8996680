"""`torch:` sources for a test: real MobileNets, from the folder that ENCAS_TEST_IMAGENET names."""

import importlib.util
import os
from functools import partial
from pathlib import Path
from typing import Any


def __getattr__(name: str) -> Any:
    """Give a function for each file of weights there is."""
    folder = Path(os.environ["ENCAS_TEST_IMAGENET"])
    weights = folder / "mobilenets" / f"{name}_int8.npz"
    if not weights.is_file():
        raise AttributeError(name)
    return partial(_network, folder, weights)


def _network(folder: Path, weights: Path) -> Any:
    spec = importlib.util.spec_from_file_location("mobilenets", folder / "mobilenets.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    net = module.QNet(weights)
    # As the published accuracies were measured. 192 / 0.875 leaves an odd margin, which cannot be halved, and
    # these networks notice half a pixel (0.766 or 0.778): 0.872 leaves an even one.
    crop_pct = 0.872 if net.size == 192 else 0.875
    return net, {"size": net.size, "crop_pct": crop_pct, "mean": [0, 0, 0], "std": [1, 1, 1]}
