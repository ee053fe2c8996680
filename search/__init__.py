"""The search for cascades: from a pool to a front, and to thresholds that are guaranteed."""

import importlib
from typing import TYPE_CHECKING, Any

from encas.errors import require

if TYPE_CHECKING:
    from encas.search.certificates import certify
    from encas.search.run import search

__all__ = ["certify", "search"]
_HOMES = {"certify": ("encas.search.certificates", "scipy"), "search": ("encas.search.run", "numba")}


def __getattr__(name: str) -> Any:
    """Import a function when it is first asked for: the search brings a compiler along."""
    if name not in _HOMES:
        raise AttributeError(f"module 'encas.search' has no attribute '{name}'")
    home, needed = _HOMES[name]
    require(needed, "search")
    return getattr(importlib.import_module(home), name)
