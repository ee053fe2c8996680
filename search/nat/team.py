"""The processes that train a supernetwork together, each on its share of every batch.

Not `DistributedDataParallel`: a step trains several networks, of which each uses a part of the weights, and
its reducer wants one backward pass that uses them all. One mean over all gradients after the last backward
pass needs no such thing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Team(Protocol):
    """What one process sees of all of them; rank 0 is the first."""

    @property
    def rank(self) -> int:
        """Which one this is."""

    @property
    def size(self) -> int:
        """How many there are."""

    def mean(self, tensors: Sequence[Tensor]) -> None:
        """Replace float32 tensors by their means over all processes, which must all call this."""

    def told(self, message: bytes) -> bytes:
        """Return what the first process says; the others wait for it, and what they say is ignored."""


@dataclass(frozen=True)
class Alone:
    """One process."""

    rank: int = 0
    size: int = 1

    def mean(self, tensors: Sequence[Tensor]) -> None:
        """Do nothing."""

    def told(self, message: bytes) -> bytes:
        """Return the message."""
        return message


ALONE = Alone()
