"""From networks to pools, and from a cascade to a bundle of ONNX files."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from encas.export.latency import measure_pool, measure_pool_on
    from encas.export.leaving import write_kserve, write_ray_serve, write_triton
    from encas.export.merger import merge
    from encas.export.outputs import import_outputs
    from encas.export.packing import export
    from encas.export.recorder import record
    from encas.export.single_file import add_single_file, write_single_file
    from encas.export.source import MemberSpec, Network, open_network
    from encas.export.temperature import temper
    from encas.export.variants import quantize
    from encas.export.web import write_page

_HOMES = {
    "MemberSpec": "encas.export.source",
    "Network": "encas.export.source",
    "add_single_file": "encas.export.single_file",
    "export": "encas.export.packing",
    "import_outputs": "encas.export.outputs",
    "measure_pool": "encas.export.latency",
    "measure_pool_on": "encas.export.latency",
    "merge": "encas.export.merger",
    "open_network": "encas.export.source",
    "quantize": "encas.export.variants",
    "record": "encas.export.recorder",
    "temper": "encas.export.temperature",
    "write_kserve": "encas.export.leaving",
    "write_page": "encas.export.web",
    "write_ray_serve": "encas.export.leaving",
    "write_single_file": "encas.export.single_file",
    "write_triton": "encas.export.leaving",
}

__all__ = [
    "MemberSpec",
    "Network",
    "add_single_file",
    "export",
    "import_outputs",
    "measure_pool",
    "measure_pool_on",
    "merge",
    "open_network",
    "quantize",
    "record",
    "temper",
    "write_kserve",
    "write_page",
    "write_ray_serve",
    "write_single_file",
    "write_triton",
]


def __getattr__(name: str) -> Any:
    """Import what is asked for: torch and onnx are needed by some of it only."""
    if name not in _HOMES:
        raise AttributeError(f"module 'encas.export' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
