"""Running a bundle, and measuring it."""

import importlib
from typing import TYPE_CHECKING, Any

from encas.errors import require

if TYPE_CHECKING:
    from encas.runtime.executor import CascadeExecutor, Trace, open_executor
    from encas.runtime.images import decode
    from encas.runtime.preprocess import prepare, prepare_batch
    from encas.runtime.session import Session, create_session, open_session

_HOMES = {
    "CascadeExecutor": "encas.runtime.executor",
    "Session": "encas.runtime.session",
    "Trace": "encas.runtime.executor",
    "create_session": "encas.runtime.session",
    "decode": "encas.runtime.images",
    "open_executor": "encas.runtime.executor",
    "open_session": "encas.runtime.session",
    "prepare": "encas.runtime.preprocess",
    "prepare_batch": "encas.runtime.preprocess",
}

__all__ = [
    "CascadeExecutor",
    "Session",
    "Trace",
    "create_session",
    "decode",
    "open_executor",
    "open_session",
    "prepare",
    "prepare_batch",
]


def __getattr__(name: str) -> Any:
    """Import what is asked for, and name the remedy where Pillow or simplejpeg is missing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'encas.runtime' has no attribute '{name}'")
    for module in ("PIL", "simplejpeg"):
        require(module, "cpu")
    return getattr(importlib.import_module(_HOMES[name]), name)
