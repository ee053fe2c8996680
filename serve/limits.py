"""What a server takes, and how it batches."""

from dataclasses import dataclass, field

from encas.runtime import images
from encas.serve.gears import GearPolicy
from encas.serve.scheduler import StageLimits

_BODIES = 8  # of the largest kind, that fit into memory together
_IMAGES = 4  # likewise


@dataclass(frozen=True)
class Limits:
    """What a server takes, and how it batches."""

    stages: tuple[StageLimits, ...] = (StageLimits(),)  # the last one: and on
    request_timeout_s: float = 30.0
    max_body_bytes: int = 64 * 2**20
    gears: GearPolicy = field(default_factory=GearPolicy)
    max_pixels: int = images.DEFAULT_LIMITS.pixels  # of one image
    max_connections: int = 1000  # of HTTP, in each process
    drift_rate: float = 0.001  # most false alarms of drift per window; 0: no test
    recheck_share: float = 0.0  # of requests, of which a sample is run through all stages when there is time

    def of(self, n_stages: int) -> list[StageLimits]:
        """Return the limits of each stage of a cascade; those that are not named are as the last one."""
        return [self.stages[min(stage, len(self.stages) - 1)] for stage in range(n_stages)]

    @property
    def max_held_bytes(self) -> int:
        """Bytes of bodies, unpacked, that may be held at once: those that come and those in work."""
        return _BODIES * self.max_body_bytes

    @property
    def images(self) -> images.Limits:
        """What is decoded; a request may have as many pixels as a few of the largest images."""
        return images.Limits(
            encoded_bytes=self.max_body_bytes,
            pixels=self.max_pixels,
            batch_pixels=_IMAGES * self.max_pixels,
            kept_pixels=_IMAGES * self.max_pixels,
        )

    @property
    def max_requests(self) -> int:
        """Requests that may be read or in work at once."""
        return self.stages[0].max_queue_size + self.stages[0].max_batch_size
