"""Which gear a request gets: cheaper cascades when much waits, and better ones again when it has been calm.

Source: several cascades that are loaded at once, chosen by load: CascadeServe, arXiv:2406.14424. The rule
here is a simpler one of our own.
"""

from collections.abc import Callable
from dataclasses import dataclass

# A gear is left for a better one when the delay is this much of a level below where it was entered.
_SLACK = 0.5


@dataclass(frozen=True)
class GearPolicy:
    """When to change gears."""

    delay_s: float = 0.1  # of the queue: with so much gear 1 is taken, with twice as much gear 2, ...
    calm_s: float = 1.0  # how long the queue must have been shorter before a better gear is tried

    def within(self, timeout_s: float, n_gears: int) -> "GearPolicy":
        """Return a policy that reaches the last gear before requests would be refused for their deadline."""
        return GearPolicy(min(self.delay_s, timeout_s / (2 * n_gears)), self.calm_s)


class GearBox:
    """The gear of one model; the clock and what waits are told to it."""

    def __init__(self, n_gears: int, policy: GearPolicy, clock: Callable[[], float]) -> None:
        """Begin in gear 0, the best."""
        self.gear = 0
        self.n_shifts = 0
        self._n, self._policy, self._clock = n_gears, policy, clock
        self._calm_since_s = clock()

    def choose(self, delay_s: float, fill: float, *, coming: bool = True) -> int:
        """Return the gear for what comes now.

        Upwards it goes at once, and over several gears if need be; back by one gear at a time, each after
        `calm_s` in which the delay never was near the level at which the gear was entered.

        Args:
            delay_s: How long what comes now would wait.
            fill: In [0, 1], how much of the queue is taken. A queue that is half full asks for the last gear,
                so that it is reached before anybody is refused, whatever is known about times.
            coming: Whether anything comes; who only looks moves nothing upwards.
        """
        now_s = self._clock()
        level = max(delay_s / self._policy.delay_s, 2 * fill * (self._n - 1))
        wanted = min(int(level), self._n - 1)
        if wanted > self.gear and coming:
            self._shift(wanted)
            self._calm_since_s = now_s
        elif level > self.gear - _SLACK:
            self._calm_since_s = now_s
        else:
            while self.gear > wanted and now_s - self._calm_since_s >= self._policy.calm_s:
                self._shift(self.gear - 1)
                self._calm_since_s += self._policy.calm_s
        return self.gear

    def _shift(self, gear: int) -> None:
        self.gear = gear
        self.n_shifts += 1
