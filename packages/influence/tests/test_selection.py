from functools import partial
from itertools import combinations

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from pellucid.core.errors import OptionError
from pellucid.influence.objective import Objective
from pellucid.influence.scores import group_influence, loss_gradients
from pellucid.influence.selection import (
    adaptive_greedy,
    first_order_top_k,
    project_capped_simplex,
    second_order_relaxed,
)
from torch import nn

cross_entropy = partial(F.cross_entropy, reduction="none")


def newton(o, weights):
    theta = torch.zeros(o.dim, dtype=torch.float64)
    for _ in range(100):
        gradient = o.gradient(theta, weights)
        if float(gradient.norm()) < 1e-11:
            return theta
        theta = theta - torch.linalg.solve(o.hessian(theta, weights), gradient)
    raise AssertionError("Newton's method did not converge")


def problem(convention="mean", n=12, seed=0):
    """Blobs, the optimum, and the gradient of a test point's loss."""
    torch.manual_seed(seed)
    labels = torch.arange(n) % 2
    inputs = torch.randn(n, 2, dtype=torch.float64) + labels[:, None]
    l2 = 0.05 if convention == "mean" else 0.05 * n
    o = Objective(nn.Linear(2, 2).double(), cross_entropy, inputs, labels, l2=l2, convention=convention)
    theta = newton(o, torch.ones(n, dtype=torch.float64))
    test = o.with_data(torch.tensor([[0.4, 0.3]], dtype=torch.float64), torch.tensor([1]))
    return o, theta, loss_gradients(test, theta)


@pytest.mark.parametrize("convention", ["mean", "sum"])
@pytest.mark.parametrize("direction", ["increase", "decrease"])
@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_against_all_subsets(convention, direction, k, seed):
    o, theta, q = problem(convention, seed=seed)
    subsets = list(combinations(range(o.n), k))
    estimate = group_influence(o, theta, subsets, q, newton=False)
    pick = torch.argmax if direction == "increase" else torch.argmin
    first = first_order_top_k(o, theta, q, k, direction=direction)
    assert first.indices == subsets[int(pick(estimate.first[:, 0]))]
    assert first.effect == pytest.approx(float(estimate.first[subsets.index(first.indices), 0]))
    second = second_order_relaxed(o, theta, q[:, 0], k, direction=direction)
    assert second.indices == subsets[int(pick(estimate.second[:, 0]))]
    assert second.effect == pytest.approx(float(estimate.second[subsets.index(second.indices), 0]))


@pytest.mark.parametrize("convention", ["mean", "sum"])
def test_adaptive_greedy_predicts_the_retrained_effect_and_is_near_the_best(convention):
    o, theta, q = problem(convention)

    def effect(group):
        weights = torch.ones(o.n, dtype=torch.float64)
        weights[list(group)] = 0
        return float(q[:, 0] @ (newton(o, weights) - theta))

    every = {group: effect(group) for group in combinations(range(o.n), 3)}
    greedy = adaptive_greedy(o, theta, q, 3)
    # A Newton step after each pick all but retrains.
    assert greedy.effect == pytest.approx(every[greedy.indices], rel=0.05)
    best = max(every.values())
    assert every[greedy.indices] > 0.9 * best
    at_once = adaptive_greedy(o, theta, q, 3, batch=3)
    assert at_once.indices == first_order_top_k(o, theta, q, 3).indices
    lowest = adaptive_greedy(o, theta, q, 3, direction="decrease")
    assert every[lowest.indices] < 0.9 * min(every.values())


def test_same_seed_same_group_and_other_solvers_agree():
    o, theta, q = problem(n=40)
    chosen = second_order_relaxed(o, theta, q, 8, seed=4)
    assert second_order_relaxed(o, theta, q, 8, seed=4) == chosen
    by_cg = second_order_relaxed(o, theta, q, 8, seed=4, solver="cg")
    assert by_cg.indices == chosen.indices
    assert by_cg.effect == pytest.approx(chosen.effect, rel=1e-5)
    first = group_influence(o, theta, [first_order_top_k(o, theta, q, 8).indices], q)
    assert chosen.effect >= float(first.second) - 1e-12
    assert adaptive_greedy(o, theta, q, 8, solver="cg").indices == adaptive_greedy(o, theta, q, 8).indices


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=12), st.floats(0, 1), st.integers(0, 2**31))
def test_projection_is_the_nearest_feasible_point(entries, share, seed):
    points = torch.tensor(entries, dtype=torch.float64)[:, None]
    k = share * len(entries)
    projected = project_capped_simplex(points, k)
    assert float(projected.sum()) == pytest.approx(k, abs=1e-9)
    assert bool(((projected >= 0) & (projected <= 1)).all())
    # For a convex set: (x - P x)' (y - P x) <= 0 for every feasible y, and vertices suffice up to the fraction.
    other = torch.tensor(np.random.default_rng(seed).uniform(size=(len(entries), 20)))
    feasible = project_capped_simplex(other, k)
    assert float(((points - projected).T @ (feasible - projected)).max()) <= 1e-8


def test_projection_by_hand():
    points = torch.tensor([[3.0, 0.5], [0.2, 0.5], [0.4, 0.5]], dtype=torch.float64)
    expected = torch.tensor([[1.0, 1 / 3], [0.4, 1 / 3], [0.6, 1 / 3]], dtype=torch.float64)
    torch.testing.assert_close(project_capped_simplex(points, 2)[:, 0], expected[:, 0])
    torch.testing.assert_close(project_capped_simplex(points, 1)[:, 1], expected[:, 1])
    with pytest.raises(OptionError, match="cannot sum"):
        project_capped_simplex(points, 4)


def test_bad_input():
    o, theta, q = problem()
    for select in (first_order_top_k, second_order_relaxed, adaptive_greedy):
        for k in (0, 12, 13):
            with pytest.raises(OptionError, match=f"k is {k}: choose from 1 to 11"):
                select(o, theta, q, k)
        with pytest.raises(OptionError, match="direction is 'up'"):
            select(o, theta, q, 2, direction="up")
        with pytest.raises(OptionError, match="quantity has shape"):
            select(o, theta, q[:2], 2)
    with pytest.raises(OptionError, match="starts is 0"):
        second_order_relaxed(o, theta, q, 2, starts=0)
    with pytest.raises(OptionError, match="batch is 0"):
        adaptive_greedy(o, theta, q, 2, batch=0)
