"""Cascades of image classifiers: find them, export them, run them, serve them."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from encas.bundle import Bundle
    from encas.cascade import Answers, Cascade, Stage, run_cascade
    from encas.errors import EncasError, InvalidInput
    from encas.front import Front
    from encas.pool import Member, Pool

__version__ = "0.1.0"

_HOMES = {
    "Answers": "encas.cascade",
    "Bundle": "encas.bundle",
    "Cascade": "encas.cascade",
    "EncasError": "encas.errors",
    "Front": "encas.front",
    "InvalidInput": "encas.errors",
    "Member": "encas.pool",
    "Pool": "encas.pool",
    "Stage": "encas.cascade",
    "run_cascade": "encas.cascade",
}

__all__ = [
    "Answers",
    "Bundle",
    "Cascade",
    "EncasError",
    "Front",
    "InvalidInput",
    "Member",
    "Pool",
    "Stage",
    "__version__",
    "run_cascade",
]


def __getattr__(name: str) -> Any:
    """Import a noun when it is first asked for: the command line must start without numpy and pydantic."""
    if name not in _HOMES:
        raise AttributeError(f"module 'encas' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
