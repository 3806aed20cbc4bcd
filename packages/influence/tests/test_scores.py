import logging
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from pellucid.core.errors import DataError, OptionError
from pellucid.core.statistics import relative_error, spearman
from pellucid.influence.groups import class_groups, cluster_groups
from pellucid.influence.objective import Objective
from pellucid.influence.scores import (
    gradient_norm,
    group_influence,
    loss_gradients,
    mean_loss_gradient,
    moved_losses,
    parameter_influence,
    point_influence,
    quantity_gradient,
)
from pellucid.influence.solvers import lissa
from sklearn.datasets import load_digits
from torch import nn

N, DIM, L2 = 30, 4, 0.3
cross_entropy = partial(F.cross_entropy, reduction="none")
CONVENTIONS = pytest.mark.parametrize("convention", ["mean", "sum"])


def half_square(outputs, targets):
    return (outputs[:, 0] - targets).square() / 2


def ridge(convention):
    """A quadratic loss: the data and the closed form are used below."""
    torch.manual_seed(0)
    inputs = torch.randn(N, DIM, dtype=torch.float64)
    targets = inputs @ torch.arange(1.0, DIM + 1, dtype=torch.float64) + torch.randn(N, dtype=torch.float64)
    model = nn.Linear(DIM, 1, bias=False).double()
    return Objective(model, half_square, inputs, targets, l2=L2, convention=convention)


def closed_form(o, weights):
    """The minimiser of F_w for ridge regression."""
    scale = weights.sum() if o.convention == "mean" else 1
    gram = (o.inputs.T * weights) @ o.inputs + scale * L2 * torch.eye(DIM, dtype=torch.float64)
    return torch.linalg.solve(gram, (o.inputs.T * weights) @ o.targets)


def without(n, group):
    weights = torch.ones(n, dtype=torch.float64)
    weights[list(group)] = 0
    return weights


def whole(n):
    return torch.ones(n, dtype=torch.float64)


def newton(o, weights):
    """Retrain a convex model to a gradient norm under 1e-10."""
    theta = torch.zeros(o.dim, dtype=torch.float64)
    for _ in range(100):
        gradient = o.gradient(theta, weights)
        if float(gradient.norm()) < 1e-10:
            return theta
        theta = theta - torch.linalg.solve(o.hessian(theta, weights), gradient)
    raise AssertionError("Newton's method did not converge")


GROUPS = [[0], [3, 1, 7], [2, 4, 6, 8, 10, 12], list(range(20, 29)), list(range(13))]
QUANTITIES = torch.eye(DIM, dtype=torch.float64)
"""The parameters themselves as test quantities."""


@CONVENTIONS
@pytest.mark.parametrize("alone", [0, 64])
def test_ridge_newton_is_the_truth_and_second_order_beats_first(convention, alone, monkeypatch):
    monkeypatch.setattr("pellucid.influence.expansion._ALONE", alone)
    o = ridge(convention)
    theta = closed_form(o, whole(N))
    truth = torch.stack([closed_form(o, without(N, group)) - theta for group in GROUPS])
    result = group_influence(o, theta, GROUPS, QUANTITIES)
    torch.testing.assert_close(result.newton, truth, rtol=1e-9, atol=1e-11)
    for i in range(len(GROUPS)):
        errors = [relative_error(part[i], truth[i]) for part in (result.first, result.second)]
        assert errors[1] < errors[0]
    assert result.fraction.tolist() == [len(group) / N for group in GROUPS]
    assert result.gradient_norm < 1e-12
    assert result.residual < 1e-12


@pytest.mark.parametrize("group", GROUPS)
def test_ridge_first_and_second_order_by_the_thesis_formulas(group):
    """Convention `mean` (eq. 3.12, 3.15), each point with its share of the regulariser; quadratic loss."""
    o = ridge("mean")
    theta = closed_form(o, whole(N))
    p, x, y = len(group) / N, o.inputs[group], o.targets[group]
    hessian = o.inputs.T @ o.inputs / N + L2 * torch.eye(DIM, dtype=torch.float64)
    gradient = x.T @ (x @ theta - y) + len(group) * L2 * theta
    theta1 = -1 / (1 - p) / N * torch.linalg.solve(hessian, gradient)
    group_hessian = x.T @ x / len(group) + L2 * torch.eye(DIM, dtype=torch.float64)
    theta2 = p / (1 - p) * (theta1 - torch.linalg.solve(hessian, group_hessian @ theta1))
    result = group_influence(o, theta, [group], QUANTITIES, parameters=True)
    torch.testing.assert_close(result.first[0], -theta1)
    torch.testing.assert_close(result.second[0], -theta1 + theta2)
    torch.testing.assert_close(result.parameters.first[0], -theta1)
    torch.testing.assert_close(result.parameters.second[0], -theta1 + theta2)


@CONVENTIONS
@pytest.mark.parametrize("group", GROUPS[1:])
def test_derivatives_in_epsilon_by_finite_differences_on_a_quadratic_loss(convention, group):
    """theta1 = d theta / d epsilon, and d2 theta / d epsilon2 = 2 theta2: exact for quadratic losses only."""
    o, step = ridge(convention), 1e-3
    p = len(group) / N

    def solution(epsilon):
        # Eq. 3.7 for `mean`: the rest is down-weighted; for `sum` only the group's weight moves.
        weights = torch.full((N,), 1 - epsilon * p / (1 - p) if convention == "mean" else 1.0, dtype=torch.float64)
        weights[group] = 1 + epsilon
        return closed_form(o, weights)

    theta = solution(0.0)
    result = group_influence(o, theta, [group], QUANTITIES)
    theta1, theta2 = -result.first[0], result.second[0] - result.first[0]
    first = (solution(step) - solution(-step)) / (2 * step)
    second = (solution(step) - 2 * theta + solution(-step)) / step**2
    torch.testing.assert_close(theta1, first, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(2 * theta2, second, rtol=1e-4, atol=1e-6)


@CONVENTIONS
def test_first_derivative_in_epsilon_by_finite_differences_on_cross_entropy(convention):
    """theta1 needs no quadratic loss; theta2 would lack the third derivatives here."""
    o = blobs(convention)
    group, step = list(range(20)), 1e-4
    p = len(group) / o.n

    def solution(epsilon):
        weights = torch.full((o.n,), 1 - epsilon * p / (1 - p) if convention == "mean" else 1.0, dtype=torch.float64)
        weights[group] = 1 + epsilon
        return newton(o, weights)

    theta = newton(o, whole(o.n))
    result = group_influence(o, theta, [group], torch.eye(o.dim, dtype=torch.float64))
    first = (solution(step) - solution(-step)) / (2 * step)
    torch.testing.assert_close(-result.first[0], first, rtol=1e-5, atol=1e-7)


@CONVENTIONS
def test_single_points_by_finite_differences(convention):
    o, step = ridge(convention), 1e-5
    theta = closed_form(o, whole(N))
    influence = point_influence(o, theta, QUANTITIES, rows=[11, 4])
    parameters = parameter_influence(o, theta, [11, 4])
    torch.testing.assert_close(influence.influence, parameters)
    for place, row in enumerate([11, 4]):

        def solution(epsilon, row=row):
            # Eq. 3.3: 1/n sum_i f_i + epsilon f_row, where each f_i holds its share of the regulariser (`mean`). The
            # weights then sum to more than one, which scales F and leaves its minimiser alone.
            weights = whole(N)
            weights[row] += N * epsilon if convention == "mean" else epsilon
            return closed_form(o, weights)

        slope = (solution(step) - solution(-step)) / (2 * step)
        torch.testing.assert_close(influence.influence[place], slope, rtol=1e-6, atol=1e-9)
    weight = N if convention == "mean" else 1
    torch.testing.assert_close(influence.change, -influence.influence / weight)
    groups = group_influence(o, theta, [[11], [4]], QUANTITIES)
    factor = N / (N - 1) if convention == "mean" else 1
    torch.testing.assert_close(influence.change * factor, groups.first)


def blobs(convention="mean", n=80, l2=0.05):
    torch.manual_seed(3)
    labels = torch.arange(n) % 3
    centres = torch.tensor([[0.0, 1.0], [1.0, 0.0], [-1.0, -1.0]], dtype=torch.float64)
    inputs = centres[labels] + 0.8 * torch.randn(n, 2, dtype=torch.float64)
    l2 = l2 if convention == "mean" else l2 * n
    return Objective(nn.Linear(2, 3).double(), cross_entropy, inputs, labels, l2=l2, convention=convention)


@pytest.fixture(scope="module", params=["mean", "sum"])
def trained(request):
    o = blobs(request.param)
    theta = newton(o, whole(o.n))
    groups = [[5], [1, 2, 3], list(range(30)), list(range(0, 60, 2)), [79, 7]]
    quantities = loss_gradients(o, theta, [0, 40, 41])
    return o, theta, groups, quantities, group_influence(o, theta, groups, quantities, damping=0.1)


@settings(max_examples=6, deadline=None)
@given(
    st.permutations(range(5)),
    st.integers(1, 6),
    st.sampled_from([7, 33, 90]),
    st.integers(0, 2**31),
    st.sampled_from(["exact", "cg"]),
    st.sampled_from([0, 5, 64]),
    st.sampled_from([0, 200]),
)
def test_results_depend_on_neither_order_nor_chunks(trained, order, chunk, rows, seed, solver, alone, dense):
    o, theta, groups, quantities, expected = trained
    shuffle = torch.randperm(o.n, generator=torch.Generator().manual_seed(seed))
    place = shuffle.argsort().tolist()
    other = Objective(
        o.model, o.loss, o.inputs[shuffle], o.targets[shuffle], l2=o.l2, convention=o.convention, chunk=rows
    )
    moved = [[place[row] for row in groups[i]] for i in order]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pellucid.influence.expansion._ALONE", alone)
        patch.setattr("pellucid.influence.expansion._DENSE_NEWTON", dense)
        result = group_influence(other, theta, moved, quantities, solver=solver, damping=0.1, chunk=chunk)
    for name in ("first", "second", "newton"):
        torch.testing.assert_close(getattr(result, name), getattr(expected, name)[order], rtol=1e-6, atol=1e-10)


def test_damping_is_carried_as_l2_is(trained):
    """With l2 + d in place of damping d, at the same gradients, all estimates are the same."""
    o, theta, groups, quantities, expected = trained
    stronger = Objective(o.model, o.loss, o.inputs, o.targets, l2=o.l2 + 0.1, convention=o.convention)
    difference = o.gradient(theta) - stronger.gradient(theta)
    torch.testing.assert_close(difference, -0.1 * theta)
    a = torch.linalg.inv(stronger.hessian(theta))
    g = o.per_example_gradients(theta, groups[1]).sum(dim=0)
    if o.convention == "mean":
        g = (g + 3 * o.l2 * theta) / (o.n - 3)
    torch.testing.assert_close(expected.first[1], quantities.T @ (a @ g))
    left = stronger.hessian(theta, without(o.n, groups[1]))
    torch.testing.assert_close(expected.newton[1], quantities.T @ torch.linalg.solve(left, g))


def test_second_order_is_the_start_of_newtons_series(trained):
    """Both conventions: Newton minus second order is of third order in the group's share."""
    o, theta, _, quantities, _ = trained
    gaps = []
    for size in (2, 4, 8):
        result = group_influence(o, theta, [list(range(size))], quantities)
        gaps.append(relative_error(result.second, result.newton) / relative_error(result.first, result.newton))
    assert gaps[0] < 0.3
    assert gaps[0] < gaps[1] < gaps[2]


def test_stochastic_solver_gives_about_the_same(trained):
    o, theta, groups, quantities, expected = trained
    solver = partial(lissa, steps=400, repeats=1, batch=40)
    result = group_influence(o, theta, groups, quantities, solver=solver, damping=0.1, newton=False)
    assert result.newton is None
    assert relative_error(result.second, expected.second) < 0.1
    assert result.residual < 0.1


def test_quantities(trained):
    o, theta, *_ = trained
    test = o.with_data(o.inputs[:5], o.targets[:5])
    margin = quantity_gradient(o, theta, lambda forward: -F.log_softmax(forward(o.inputs[:1]), 1)[0, o.targets[0]])
    torch.testing.assert_close(margin, loss_gradients(test, theta, [0]))
    torch.testing.assert_close(mean_loss_gradient(test, theta), loss_gradients(test, theta).mean(dim=1, keepdim=True))
    changes = torch.stack([torch.zeros_like(theta), 1e-6 * torch.ones_like(theta)])
    moved = moved_losses(test, theta, changes)
    assert not moved[0].any()
    torch.testing.assert_close(moved[1], changes[1] @ loss_gradients(test, theta), rtol=1e-4, atol=1e-10)
    with pytest.raises(OptionError, match=r"the quantity has shape \(1, 3\)"):
        quantity_gradient(o, theta, lambda forward: forward(o.inputs[:1]))
    with pytest.raises(DataError, match="not finite"):
        quantity_gradient(o, theta, lambda forward: (0 * forward(o.inputs[:1]).sum()).sqrt())


def test_groups_over_half_and_unconverged_models_are_logged(caplog):
    o = ridge("mean")
    theta = closed_form(o, whole(N))
    with caplog.at_level(logging.WARNING, "pellucid.influence"):
        group_influence(o, theta, [list(range(15)), [1]], QUANTITIES)
        assert not caplog.records
        group_influence(o, theta, [list(range(16)), [1]], QUANTITIES)
        assert "1 of 2 groups hold more than half of the data" in caplog.text
        caplog.clear()
        assert group_influence(o, theta + 1, [[1]], QUANTITIES).gradient_norm > 0.1
        assert "has not converged: the gradient norm is" in caplog.text
        caplog.clear()
        total = ridge("sum")
        group_influence(total, closed_form(total, whole(N)), [list(range(20))], QUANTITIES)
        assert gradient_norm(o, theta + 1, tolerance=None) > 0.1
        assert not caplog.records


def test_bad_input():
    o = ridge("mean")
    theta = closed_form(o, whole(N))
    for groups, message in (
        ([], "there are no groups"),
        ([[1], []], "group 1 is empty"),
        ([[1, 2, 1]], "group 0 names row 1 twice"),
        ([[0, N]], f"group 0 names row {N}: there are {N}"),
        ([[-1]], "group 0 names row -1"),
        ([[0.5]], "not a list of whole numbers"),
        ([list(range(N))], f"group 0 is all of the {N} examples"),
        ([list(range(N + 1))], f"names row {N}"),
    ):
        with pytest.raises(OptionError, match=message):
            group_influence(o, theta, groups, QUANTITIES)
    with pytest.raises(OptionError, match=r"quantities have shape \(4,\)"):
        group_influence(o, theta, [[0]], QUANTITIES[0])
    with pytest.raises(OptionError, match="chunk is 0"):
        point_influence(o, theta, QUANTITIES, chunk=0)
    with pytest.raises(OptionError, match="rows names row 2 twice"):
        point_influence(o, theta, QUANTITIES, rows=[2, 2])
    with pytest.raises(DataError, match="row 0 has loss nan"):
        group_influence(o, theta * float("nan"), [[0]], QUANTITIES)


def retrain(inputs, labels, weights, l2):
    """Newton's method for softmax regression with its Hessian written out: owes nothing to what is tested."""
    x = torch.cat([inputs, torch.ones(len(inputs), 1, dtype=torch.float64)], dim=1)[weights > 0]
    hot = F.one_hot(labels, 10).double()[weights > 0]
    n, width = x.shape
    theta = torch.zeros(10, width, dtype=torch.float64)
    for _ in range(100):
        p = (x @ theta.T).softmax(dim=1)
        gradient = (p - hot).T @ x / n + l2 * theta
        if float(gradient.norm()) < 1e-10:
            return torch.cat([theta[:, :-1].flatten(), theta[:, -1]])
        hessian = l2 * torch.eye(10 * width, dtype=torch.float64).reshape(10, width, 10, width)
        for c in range(10):
            for d in range(10):
                hessian[c, :, d] += (x * (p[:, [c]] * (float(c == d) - p[:, [d]]))).T @ x / n
        step = torch.linalg.solve(hessian.reshape(10 * width, -1), gradient.flatten())
        theta = theta - step.reshape(10, width)
    raise AssertionError("Newton's method did not converge")


@pytest.fixture(scope="module")
def digits():
    """Logistic regression on digits (1438 train, 650 parameters) at its optimum, and the points left out as tests."""
    images, labels = load_digits(return_X_y=True)
    inputs, targets = torch.tensor(images / 16), torch.tensor(labels, dtype=torch.long)
    model = nn.Linear(64, 10).double()
    o = Objective(model, cross_entropy, inputs[:1438], targets[:1438], l2=0.01)
    theta = retrain(o.inputs, o.targets, whole(o.n), 0.01)
    assert float(o.gradient(theta).norm()) < 1e-10
    return o, theta, o.with_data(inputs[1438:], targets[1438:])


@pytest.mark.slow
def test_digits_single_points_rank_as_leave_one_out(digits):
    o, theta, test = digits
    quantities = loss_gradients(test, theta, range(50))
    removed = np.random.default_rng(0).choice(o.n, size=60, replace=False).tolist()
    before = test.losses(theta, range(50))
    truth = []
    factor = torch.linalg.cholesky(o.hessian(theta))
    for row in removed:
        # One factor preconditions every retraining: a single point hardly changes the Hessian.
        weights, here = without(o.n, [row]), theta
        while float((gradient := o.gradient(here, weights)).norm()) > 1e-10:
            here = here - torch.cholesky_solve(gradient[:, None], factor)[:, 0]
        truth.append(test.losses(here, range(50)) - before)
    losses = torch.stack(truth)
    for solver in ("exact", "cg"):
        change = point_influence(o, theta, quantities, rows=removed, solver=solver).change
        ranks = [spearman(change[:, j], losses[:, j], seed=0, draws=10).value for j in range(50)]
        # Removal is a finite step: neighbours in rank may swap for a test point or two.
        assert np.mean(ranks) >= 0.999
        assert min(ranks) >= 0.998
        assert spearman(change.flatten(), losses.flatten(), seed=0, draws=10).value >= 0.999


@pytest.mark.slow
def test_digits_coherent_groups_second_order_beats_first(digits):
    """In the parameters, in linear quantities, and in the test losses at the moved parameters."""
    o, theta, test = digits
    worst = test.losses(theta).topk(5).indices
    quantities = loss_gradients(test, theta, worst.tolist())
    before = test.losses(theta)
    for fraction in (0.2, 0.4):
        groups = [
            *class_groups(o.targets.numpy(), [fraction], repeats=2, seed=1),
            *cluster_groups(o.inputs.numpy(), [fraction], repeats=2, seed=1),
        ]
        moves = torch.stack(
            [retrain(o.inputs, o.targets, without(o.n, group.indices), 0.01) - theta for group in groups]
        )
        losses = torch.stack([test.losses(theta + move) - before for move in moves])
        result = group_influence(o, theta, [g.indices for g in groups], quantities, newton=False, parameters=True)
        for part in (slice(0, 2), slice(2, 4)):
            for first, second, truth in (
                (result.parameters.first, result.parameters.second, moves),
                (result.first, result.second, moves @ quantities),
                (
                    moved_losses(test, theta, result.parameters.first),
                    moved_losses(test, theta, result.parameters.second),
                    losses,
                ),
            ):
                assert relative_error(second[part], truth[part]) < relative_error(first[part], truth[part])
