"""Recipes of configurations."""

from encas.search.nat.config import Phases, Start
from encas.search.nat.recipes import Sandwich
from encas.search.nat.shrinking import Begins, Shrinking
from encas.search.nat.spaces import SPACES
from encas.search.nat.start import recipe_of

SPACE = SPACES["tiny-proxyless"]


def test_without_a_rule_it_is_the_sandwich() -> None:
    recipe = recipe_of(Start(epochs=1, best_of=3, label_smoothing=0.1), SPACE, 10)
    assert recipe == Sandwich(SPACE, 10, "kl", best_of=3, label_smoothing=0.1)


def test_shares_of_phases_become_their_beginnings() -> None:
    shrinking = recipe_of(Start(epochs=1, rule="shrinking", n_random=2, distillation="alpha"), SPACE, 10)
    assert shrinking == Shrinking(SPACE, Begins(0.4, 0.6, 0.8), "alpha", n_random=2)
    phases = Phases(full=0.7, kernel=0, depth=0.1, expand=0.2)
    recipe = recipe_of(Start(epochs=1, rule="shrinking", phases=phases), SPACE, 10)
    assert isinstance(recipe, Shrinking) and recipe.begins == Begins(0.7, 0.7, 0.8)
