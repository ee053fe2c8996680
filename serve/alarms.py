"""Who watches for drift: feeds the tests of `encas.serve.drift`, and tells everybody of what they find."""

import logging
from collections import deque
from dataclasses import dataclass, field

import numpy as np

from encas.bundle import Bundle
from encas.files import FileModel
from encas.serve.drift import WINDOW, DriftTest, RiskTest
from encas.serve.service import Event, Observer, Record, Service

_log = logging.getLogger("encas.serve")
_MOST_EVENTS = 20


class DriftState(FileModel):
    """What the tests say of a model."""

    tested: bool  # whether the bundle knows what to expect
    alarm: bool
    evidence: float  # log10, of the gear with most of it
    rechecked: int  # samples that ran through all stages
    disagreed: int  # of these, that were answered otherwise


@dataclass
class _Watched:
    gears: dict[int, DriftTest] = field(default_factory=dict)
    risk: RiskTest | None = None
    rechecked: int = 0
    disagreed: int = 0


class Alarms(Observer):
    """Watches every model that is served; records come in the event loop, rechecks in threads of engines."""

    def __init__(self, rate: float, rng: np.random.Generator | None = None) -> None:
        """Watch.

        Args:
            rate: Most false alarms of a gear per window; 0 tests nothing.
            rng: Breaks ties of ranks.
        """
        self.events: deque[Event] = deque(maxlen=_MOST_EVENTS)
        self._rate, self._rng = rate, rng or np.random.default_rng()
        self._watched: dict[tuple[str, str, str], _Watched] = {}
        self._service: Service | None = None

    def watch(self, service: Service) -> None:
        """Look up bundles there, and tell its observers."""
        self._service = service

    def finished(self, record: Record) -> None:
        """Test the answers of a request."""
        if record.times is None or self._service is None or not self._rate:
            return
        bundle = self._service.models.bundle(record.model, record.version)
        if bundle is None or bundle.reference is None:
            return
        watched, reference = self._of(bundle), bundle.reference.gears[record.gear]
        test = watched.gears.get(record.gear)
        if test is None:
            test = watched.gears[record.gear] = DriftTest(reference.counts, self._rng, self._rate)
        if test.add(reference.places(record.exit_stages, record.confidences)):
            self._service.notice(
                Event(
                    "drift",
                    bundle.name,
                    bundle.file.version,
                    "where samples leave and how sure the networks are is not as on "
                    f"'{bundle.reference.split}' (gear {record.gear}; at most {self._rate:g} false alarms "
                    f"per {WINDOW} samples)",
                )
            )

    def rechecked(self, bundle: Bundle, gear: int, *, agrees: bool) -> None:
        """Test what running all stages said of a sample."""
        watched = self._of(bundle)
        watched.rechecked += 1
        watched.disagreed += not agrees
        certificate = bundle.gears[gear].certificate
        if gear or certificate is None or certificate.loss != "consistency" or not self._rate:
            return
        if watched.risk is None:
            watched.risk = RiskTest(certificate.risk, self._rate)
        if watched.risk.add(not agrees) and self._service is not None:
            self._service.notice(
                Event(
                    "consistency",
                    bundle.name,
                    bundle.file.version,
                    f"more than {100 * certificate.risk:.4g} % are answered otherwise than by all stages, "
                    f"against the certificate ({watched.disagreed} of {watched.rechecked} rechecked samples "
                    "were)",
                )
            )

    def noticed(self, event: Event) -> None:
        """Keep an event, and write it to the log."""
        self.events.append(event)
        _log.warning("%s of model '%s', version %s: %s", event.kind, event.model, event.version, event.text)

    def of(self, bundle: Bundle) -> DriftState:
        """Say what the tests say of a bundle."""
        watched = self._of(bundle)
        tests = list(watched.gears.values())
        return DriftState(
            tested=bundle.reference is not None and bool(self._rate),
            alarm=any(test.alarm for test in tests) or bool(watched.risk and watched.risk.alarm),
            evidence=max((test.evidence for test in tests), default=0.0),
            rechecked=watched.rechecked,
            disagreed=watched.disagreed,
        )

    def _of(self, bundle: Bundle) -> _Watched:
        key = (bundle.name, bundle.file.version, bundle.file.sha256)
        return self._watched.setdefault(key, _Watched())
