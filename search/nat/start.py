"""How a supernetwork is trained from scratch: what the configuration says, as a recipe."""

from encas.search.nat.config import Phases, Start
from encas.search.nat.recipes import Recipe, Sandwich
from encas.search.nat.shrinking import Begins, Shrinking
from encas.search.nat.space import Space


def recipe_of(start: Start, space: Space, n_classes: int) -> Recipe:
    """Make the recipe of a configuration."""
    if start.rule == "sandwich":
        return Sandwich(
            space,
            n_classes,
            start.distillation,
            share=start.distillation_share,
            n_random=start.n_random,
            best_of=start.best_of,
            label_smoothing=start.label_smoothing,
            growing=start.growing,
        )
    return Shrinking(
        space,
        _begins(start.phases or Phases()),
        start.distillation,
        share=start.distillation_share,
        n_random=start.n_random,
        label_smoothing=start.label_smoothing,
        growing=start.growing,
    )


def _begins(shares: Phases) -> Begins:
    """When phases begin; rounded, so that 0.4 and 0.2 are 0.6 and not a little more."""
    depth, expand = shares.full + shares.kernel, shares.full + shares.kernel + shares.depth
    return Begins(round(shares.full, 9), round(depth, 9), round(expand, 9))
