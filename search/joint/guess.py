"""Guessing what a cascade does from guesses of what its members do."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from encas.search.joint.genome import JointSpace
from encas.search.nat.population import Genes
from encas.search.nat.predictor import Predictor

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Known:
    """Cascades that were evaluated."""

    genes: Genes  # (p, g) canonical
    error: Numbers  # (p,)
    macs: Numbers  # (p,) mean of a sample
    member_errors: Numbers  # (p, k)


@dataclass(frozen=True)
class Scale:
    """Brings features to about [0, 1]: distances between architectures are sums over all of them."""

    low: Numbers
    high: Numbers

    @classmethod
    def of(cls, features: Numbers) -> "Scale":
        """Take the range of (p, f) features."""
        low, high = features.min(axis=0), features.max(axis=0)
        return cls(low, np.where(high > low, high, low + 1))

    def __call__(self, features: Numbers) -> Numbers:
        """Scale (p, f) features."""
        return np.asarray((features - self.low) / (self.high - self.low))


@dataclass(frozen=True)
class JointGuess:
    """The three kinds of predictors of ENCAS-joint, each the median of many radial basis functions.

    One for each supernetwork: genes -> error of the member. One for the cascade: errors of the members,
    positions and thresholds -> its error. One more: positions, thresholds, MACs of the members -> its MACs.
    """

    space: JointSpace
    of_members: tuple[Predictor, ...]
    of_error: tuple[Scale, Predictor]
    of_macs: tuple[Scale, Predictor]

    @classmethod
    def fit(
        cls, space: JointSpace, known: Known, rng: np.random.Generator, n_members: int = 500
    ) -> "JointGuess":
        """Fit cascades that were evaluated."""
        of_members = tuple(
            Predictor.fit(known.genes[:, at], known.member_errors[:, which], rng, n_members)
            for which, at in enumerate(space.columns)
        )
        features = _of_error(space, known.genes, known.member_errors)
        error_scale = Scale.of(features)
        of_error = Predictor.fit(error_scale(features), known.error, rng, n_members)
        features = _of_macs(space, known.genes)
        macs_scale = Scale.of(features)
        of_macs = Predictor.fit(macs_scale(features), known.macs, rng, n_members)
        return cls(space, of_members, (error_scale, of_error), (macs_scale, of_macs))

    def member_errors(self, genes: Genes) -> Numbers:
        """(p, k) guessed errors of the members."""
        parts = zip(self.of_members, self.space.columns, strict=True)
        return np.column_stack([predictor.predict(genes[:, at]) for predictor, at in parts])

    def __call__(self, genes: Genes) -> Numbers:
        """(p, 2) guessed error and MACs of (p, g) canonical genes."""
        scale, predictor = self.of_error
        error = predictor.predict(scale(_of_error(self.space, genes, self.member_errors(genes))))
        scale, predictor = self.of_macs
        guessed = predictor.predict(scale(_of_macs(self.space, genes)))
        # The first member always runs, and at most all of them do.
        member_macs = self.space.macs(genes)
        first = np.take_along_axis(member_macs, self.space.order(genes)[:, :1], axis=1)[:, 0]
        return np.column_stack([error, np.clip(guessed, first, member_macs.sum(axis=1))])


def _of_error(space: JointSpace, genes: Genes, member_errors: Numbers) -> Numbers:
    return np.column_stack([member_errors, space.positions(genes), space.thresholds(genes)]).astype(float)


def _of_macs(space: JointSpace, genes: Genes) -> Numbers:
    return np.column_stack([space.positions(genes), space.thresholds(genes), space.macs(genes)]).astype(float)
