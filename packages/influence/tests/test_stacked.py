"""Stacked training against the plain loop: the same parameters, whatever the optimizer, batch and stack."""

from collections.abc import Callable

import pytest
import torch
from pellucid.core.errors import OptionError
from pellucid.influence import descent, stacked
from pellucid.influence.datasets import load_data
from pellucid.influence.models import ModelChoice, build_loss, build_model
from pellucid.influence.objective import Objective
from pellucid.influence.stacked import choose_stacked, fit_all, fit_stacked, removal_weights
from pellucid.influence.training import Recipe, TrainingError, fit_network


def iris(convention: str = "mean", **options) -> Objective:
    data = load_data("iris")
    model = build_model(ModelChoice("mlp", data.shape, 3, options=options))
    loss = build_loss("cross_entropy")
    return Objective(model, loss, data.inputs, data.targets, l2=0.001, convention=convention)


GROUPS = [[], [0], [5, 6, 7], list(range(60)), list(range(2, 120))]


@pytest.mark.parametrize("recipe", [
    Recipe(60, 0.05),
    Recipe(60, 0.05, "gd", schedule="cosine"),
    Recipe(60, 0.02, "sgd", batch=16),
    Recipe(60, 0.05, batch=2),
], ids=["adam", "gd cosine", "sgd batches", "batches of removed points alone"])  # fmt: skip
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_a_stack_equals_the_loop(recipe: Recipe, activation: str) -> None:
    objective = iris(depth=2, activation=activation)
    weights = removal_weights(GROUPS, objective.n, objective.theta)
    together = fit_all(objective, weights, None, recipe, seed=1, stacked=True)
    apart = fit_all(objective, weights, None, recipe, seed=1, stacked=False)
    assert len(together) == len(GROUPS)
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one.theta, other.theta, rtol=0, atol=1e-6)
        assert one.gradient_norm == pytest.approx(other.gradient_norm, abs=1e-6)
    # The removals do something: the models differ.
    assert (together[0].theta - together[3].theta).norm() > 0.01


def test_the_sum_convention_and_starts_of_their_own() -> None:
    objective = iris("sum")
    starts = torch.stack([objective.theta, 2 * objective.theta])
    weights = removal_weights([[1], [1]], objective.n, starts)
    recipe = Recipe(40, 1e-3, "gd", batch=30)
    fits = fit_all(objective, weights, starts, recipe)
    for fit, start in zip(fits, starts, strict=True):
        alone = fit_network(objective, 40, 1e-3, 30, "gd", start=start, weights=weights[0])
        torch.testing.assert_close(fit.theta, alone.theta, rtol=0, atol=1e-9)
    assert (fits[0].theta - fits[1].theta).norm() > 0.1


def test_convolutions_stack_too() -> None:
    data = load_data("digits", limit=40)
    for name in ("small_cnn", "narrow_resnet"):
        model = build_model(ModelChoice(name, data.shape, 10, options={"width": 4}))
        objective = Objective(model, build_loss("cross_entropy"), data.inputs, data.targets, l2=0.001)
        weights = removal_weights([[0], [1, 2]], objective.n, objective.theta)
        together, apart = (fit_all(objective, weights, None, Recipe(8, 0.01), stacked=way) for way in (True, False))
        for one, other in zip(together, apart, strict=True):
            torch.testing.assert_close(one.theta, other.theta, rtol=0, atol=1e-6)


def test_the_size_of_stacks_and_pieces_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    objective = iris()
    weights = removal_weights(GROUPS, objective.n, objective.theta)
    whole = fit_stacked(objective, weights, None, 30, 0.05)
    small = fit_stacked(objective, weights, None, 30, 0.05, stack=2)
    monkeypatch.setattr(descent, "ACTIVATIONS_AT_ONCE", 2000)
    pieces = fit_stacked(objective, weights, None, 30, 0.05)
    for one, *others in zip(whole, small, pieces, strict=True):
        for other in others:
            torch.testing.assert_close(one.theta, other.theta, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("cost", "chosen"), [(7.0, True), (9.0, False)])
def test_the_probe_chooses_what_is_faster(monkeypatch: pytest.MonkeyPatch, cost: float, chosen: bool) -> None:
    # A clock of our own, on which a step of one model takes 1 and a step of the stack `cost`.
    now = 0.0

    def taking(seconds: float) -> Callable[..., None]:
        def step(self: descent.Slopes, theta: torch.Tensor) -> None:
            nonlocal now
            now += seconds

        return step

    monkeypatch.setattr(stacked.time, "perf_counter", lambda: now)
    monkeypatch.setattr(descent.Slopes, "one", taking(1.0))
    monkeypatch.setattr(descent.Slopes, "many", taking(cost))
    assert choose_stacked(iris(), 8, Recipe(1000, 0.05)) is chosen
    assert choose_stacked(iris(), 1, Recipe(1000, 0.05)) is False


def test_which_model_explodes_is_told() -> None:
    objective = iris()
    starts = torch.stack([objective.theta, objective.theta * float("inf")])
    weights = removal_weights([[1], [2]], objective.n, starts)
    with pytest.raises(TrainingError, match=r"the loss of model 1 of the stack is not finite at step 1 of 9: give a"):
        fit_stacked(objective, weights, starts, 9, 0.1)


@pytest.mark.parametrize(
    ("weights", "start", "message"),
    [
        (torch.ones(2, 7), None, r"give \(models, 120\)"),
        (torch.ones(0, 120), None, "one model or more"),
        (torch.zeros(2, 120), None, "weights sum to 0"),
        (torch.ones(2, 120), torch.ones(3, 43), r"start has shape \(3, 43\)"),
    ],
)
def test_shapes_that_do_not_fit(weights: torch.Tensor, start: torch.Tensor | None, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        fit_stacked(iris(), weights, start, 2, 0.1)
