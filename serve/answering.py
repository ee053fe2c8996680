"""What the server asks of whoever answers for a bundle: an engine of this process, or replicas elsewhere."""

from typing import Protocol

from encas.bundle import Bundle
from encas.serve.engine import Outcome
from encas.serve.model import Images


class Answering(Protocol):
    """What answers the requests for one bundle: an engine, here or elsewhere."""

    bundle: Bundle

    @property
    def n_waiting(self) -> tuple[int, ...]:
        """(k,) samples that wait for each stage."""
        ...

    @property
    def gear(self) -> int:
        """The gear in use."""
        ...

    @property
    def n_shifts(self) -> int:
        """How often the gear has changed."""
        ...

    @property
    def delay_s(self) -> float:
        """How long what is here keeps the networks busy, as far as it is known."""
        ...

    def check_room(self, timeout_s: float) -> None:
        """Refuse early, before anything of a request is read."""
        ...

    async def infer(self, images: Images, timeout_s: float) -> Outcome:
        """Answer the images of one request."""
        ...

    def close(self) -> None:
        """Answer what was accepted, then stop."""
        ...
