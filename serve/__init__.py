"""Bundles behind HTTP and gRPC."""

import importlib
from typing import TYPE_CHECKING, Any

from encas.errors import require

if TYPE_CHECKING:
    from encas.serve.app import create_app
    from encas.serve.limits import Limits
    from encas.serve.options import Options
    from encas.serve.server import serve

_HOMES = {
    "Limits": "encas.serve.limits",
    "Options": "encas.serve.options",
    "create_app": "encas.serve.app",
    "serve": "encas.serve.server",
}
_NEEDED = (
    ("fastapi", "serve"),
    ("fastapi_offline", "serve"),
    ("uvicorn", "serve"),
    ("httptools", "serve"),
    ("grpc_health", "serve"),
    ("prometheus_client", "serve"),
    ("python_multipart", "serve"),
    ("PIL", "cpu"),
    ("simplejpeg", "cpu"),
)

__all__ = ["Limits", "Options", "create_app", "serve"]


def __getattr__(name: str) -> Any:
    """Import what is asked for, and name the remedy where the web framework is missing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'encas.serve' has no attribute '{name}'")
    for module, extra in _NEEDED:
        require(module, extra)
    return getattr(importlib.import_module(_HOMES[name]), name)
