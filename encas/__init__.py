"""Cascades of image classifiers: find them, export them, run them, serve them."""

from encas.bundle import Bundle
from encas.cascade import Answers, Cascade, Stage, run_cascade
from encas.errors import EncasError, InvalidInput
from encas.front import Front
from encas.pool import Member, Pool

__version__ = "0.1.0"

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
