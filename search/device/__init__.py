"""A search by latency, corrected by running some of the cascades that it found."""

from typing import TYPE_CHECKING, Any

from encas.errors import require

if TYPE_CHECKING:
    from encas.search.device.run import refine

__all__ = ["refine"]


def __getattr__(name: str) -> Any:
    """Import what is asked for: it opens networks."""
    if name != "refine":
        raise AttributeError(f"module 'encas.search.device' has no attribute '{name}'")
    require("onnx", "export")
    from encas.search.device.run import refine  # noqa: PLC0415

    return refine
