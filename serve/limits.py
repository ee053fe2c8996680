"""What a server takes, and how it batches."""

from dataclasses import dataclass, field

from encas.serve.gears import GearPolicy
from encas.serve.scheduler import StageLimits


@dataclass(frozen=True)
class Limits:
    """What a server takes, and how it batches."""

    stages: tuple[StageLimits, ...] = (StageLimits(),)  # the last one: and on
    request_timeout_s: float = 30.0
    max_body_bytes: int = 64 * 2**20
    gears: GearPolicy = field(default_factory=GearPolicy)
    drift_rate: float = 0.001  # most false alarms of drift per window; 0: no test
    recheck_share: float = 0.0  # of requests, of which a sample is run through all stages when there is time

    def of(self, n_stages: int) -> list[StageLimits]:
        """Return the limits of each stage of a cascade; those that are not named are as the last one."""
        return [self.stages[min(stage, len(self.stages) - 1)] for stage in range(n_stages)]

    @property
    def max_requests(self) -> int:
        """Requests that may be read or in work at once."""
        return self.stages[0].max_queue_size + self.stages[0].max_batch_size
