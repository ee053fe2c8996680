"""Supernetworks: elastic networks of which every architecture of a space is a part, sharing its weights."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from encas.search.nat.calibrate import answers, calibrated
    from encas.search.nat.checkpoint import read_official
    from encas.search.nat.folder import SupernetFolder
    from encas.search.nat.macs import count_macs
    from encas.search.nat.space import Arch, Space, StageArch
    from encas.search.nat.spaces import SPACES, space_named
    from encas.search.nat.supernet import Supernet

_HOMES = {
    "SPACES": "encas.search.nat.spaces",
    "Arch": "encas.search.nat.space",
    "Space": "encas.search.nat.space",
    "StageArch": "encas.search.nat.space",
    "Supernet": "encas.search.nat.supernet",
    "SupernetFolder": "encas.search.nat.folder",
    "answers": "encas.search.nat.calibrate",
    "calibrated": "encas.search.nat.calibrate",
    "count_macs": "encas.search.nat.macs",
    "read_official": "encas.search.nat.checkpoint",
    "space_named": "encas.search.nat.spaces",
}

__all__ = [
    "SPACES",
    "Arch",
    "Space",
    "StageArch",
    "Supernet",
    "SupernetFolder",
    "answers",
    "calibrated",
    "count_macs",
    "read_official",
    "space_named",
]


def __getattr__(name: str) -> Any:
    """Import what is asked for: spaces, encodings and MACs do without torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'encas.search.nat' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
