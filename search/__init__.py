"""The search for cascades: from a pool to a front."""

from typing import TYPE_CHECKING, Any

from encas.errors import require

if TYPE_CHECKING:
    from encas.search.run import search

__all__ = ["search"]


def __getattr__(name: str) -> Any:
    """Import the search when it is first asked for: it brings a compiler along."""
    if name != "search":
        raise AttributeError(f"module 'encas.search' has no attribute '{name}'")
    require("numba", "search")
    from encas.search.run import search  # noqa: PLC0415

    return search
