"""A bundle behind HTTP."""

import importlib
from typing import TYPE_CHECKING, Any

from encas.errors import require

if TYPE_CHECKING:
    from encas.serve.app import create_app
    from encas.serve.server import serve

_HOMES = {"create_app": "encas.serve.app", "serve": "encas.serve.server"}

__all__ = ["create_app", "serve"]


def __getattr__(name: str) -> Any:
    """Import what is asked for, and name the remedy where the web framework is missing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'encas.serve' has no attribute '{name}'")
    for module, extra in (("fastapi", "serve"), ("uvicorn", "serve"), ("PIL", "cpu"), ("simplejpeg", "cpu")):
        require(module, extra)
    return getattr(importlib.import_module(_HOMES[name]), name)
