import logging
from functools import partial

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from hypothesis import given, settings
from hypothesis import strategies as st
from pellucid.core.errors import DataError, OptionError
from pellucid.influence.objective import Objective
from pellucid.influence.solvers import SolveError, conjugate_gradient, exact, lissa, resolve, top_eigenvalue
from torch import nn

cross_entropy = partial(F.cross_entropy, reduction="none")


def logistic(convention="mean", l2=0.05, n=200, dtype=torch.float64):
    """A convex problem; the solvers need no optimum."""
    torch.manual_seed(0)
    inputs = torch.randn(n, 4, dtype=torch.float64) * torch.tensor([2.0, 1.0, 1.0, 0.5], dtype=torch.float64)
    model = nn.Linear(4, 3).to(dtype)
    return Objective(model, cross_entropy, inputs, torch.randint(3, (n,)), l2=l2, convention=convention)


def right_hand_sides(dim, k=6, dtype=torch.float64):
    return torch.randn(dim, k, generator=torch.Generator().manual_seed(1), dtype=dtype)


def dense(o, damping):
    return o.hessian(o.theta) + damping * torch.eye(o.dim, dtype=o.dtype)


@pytest.mark.parametrize("convention", ["mean", "sum"])
@pytest.mark.parametrize("solver", [exact, partial(conjugate_gradient, tolerance=1e-12)])
def test_solutions_are_those_of_the_dense_system(convention, solver):
    o = logistic(convention)
    b = right_hand_sides(o.dim)
    solution = solver(o, o.theta, damping=0.3)(b)
    torch.testing.assert_close(solution.x, torch.linalg.solve(dense(o, 0.3), b), rtol=1e-9, atol=1e-11)
    assert solution.converged.all()
    assert solution.residual.shape == (6,)


@pytest.mark.parametrize("convention", ["mean", "sum"])
def test_stochastic_estimation_comes_close_and_is_seeded(convention):
    o = logistic(convention, l2=0.2 if convention == "mean" else 40.0)
    b = right_hand_sides(o.dim)
    truth = torch.linalg.solve(dense(o, 0.0), b)
    solve = lissa(o, o.theta, steps=300, repeats=2, batch=40)
    solution = solve(b)
    assert float((solution.x - truth).norm() / truth.norm()) < 0.05
    torch.testing.assert_close(solution.residual, (dense(o, 0.0) @ solution.x - b).norm(dim=0) / b.norm(dim=0))
    assert torch.equal(lissa(o, o.theta, steps=300, repeats=2, batch=40)(b).x, solution.x)
    # All columns see the same draws, so that one's estimate does not depend on its company.
    torch.testing.assert_close(solve(b[:, [3]]).x[:, 0], solution.x[:, 3], rtol=1e-10, atol=1e-12)


def test_stochastic_estimation_needs_no_scale_for_badly_scaled_data():
    torch.manual_seed(0)
    inputs = torch.randn(60, 4, dtype=torch.float64) * 1000
    inputs[0] *= 50
    o = Objective(nn.Linear(4, 2).double(), lambda out, y: (out - y).square().sum(dim=1), inputs, inputs[:, :2], l2=1.0)
    solution = lissa(o, o.theta, steps=50, batch=4, tolerance=0.999)(right_hand_sides(o.dim))
    assert torch.isfinite(solution.x).all()
    assert (solution.residual <= 1).all()


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(5)), st.integers(1, 5))
def test_block_conjugate_gradient_equals_one_at_a_time(order, width):
    o = logistic()
    b = right_hand_sides(o.dim, 5)
    b[:, 2] = 0
    b[:, 4] *= 1e6
    solve = conjugate_gradient(o, o.theta)
    single = torch.cat([solve(b[:, [j]]).x for j in range(5)], dim=1)
    parts = [solve(b[:, part]).x for part in torch.tensor(order).split(width)]
    torch.testing.assert_close(torch.cat(parts, dim=1), single[:, order], rtol=1e-9, atol=1e-12)
    assert not single[:, 2].any()


def test_conjugate_gradient_in_float32_reports_a_true_residual():
    o = logistic(dtype=torch.float32)
    b = right_hand_sides(o.dim, dtype=torch.float32)
    solution = conjugate_gradient(o, o.theta)(b)
    assert solution.x.dtype == torch.float32
    assert solution.converged.all()
    true = (dense(o, 0.0).double() @ solution.x.double() - b.double()).norm(dim=0) / b.double().norm(dim=0)
    torch.testing.assert_close(solution.residual, true, rtol=0.2, atol=1e-6)


def test_no_convergence_is_logged_with_what_to_change(caplog):
    o = logistic()
    with caplog.at_level(logging.WARNING, "pellucid.influence"):
        solution = conjugate_gradient(o, o.theta, iterations=2)(right_hand_sides(o.dim))
    assert not solution.converged.any()
    assert solution.iterations == 2
    assert "6 of 6 inverse-Hessian products did not converge" in caplog.text
    assert "raise `iterations` or the damping" in caplog.text


def saddle(depth):
    """A loss whose Hessian is diag(1, ..., 1, -depth)."""
    signs = torch.tensor([1.0, 1.0, 1.0, -depth], dtype=torch.float64)
    model = nn.Linear(4, 1, bias=False).double()
    inputs = torch.eye(4, dtype=torch.float64)
    return Objective(model, lambda out, y: y * out[:, 0].square() / 2, inputs, signs, convention="sum")


@pytest.mark.parametrize("solver", [exact, conjugate_gradient])
def test_negative_curvature_says_how_much_damping(solver):
    o = saddle(0.5)
    # For the exact solver the smallest eigenvalue; for the other the curvature along the first direction it met.
    b = torch.tensor([[0.0], [0.0], [0.0], [1.0]], dtype=torch.float64)
    with pytest.raises(
        SolveError, match=r"-0\.5; raise the damping by more than 0\.5|-0\.5 was met; raise the damping"
    ):
        solver(o, o.theta)(b)
    solution = solver(o, o.theta, damping=1.0)(b)
    torch.testing.assert_close(solution.x[:, 0], torch.tensor([0.0, 0.0, 0.0, 2.0], dtype=torch.float64))


def test_a_flat_direction_is_refused_only_where_the_solution_needs_it():
    o = saddle(0.0)
    inside = torch.tensor([[1.0], [2.0], [0.0], [0.0]], dtype=torch.float64)
    torch.testing.assert_close(conjugate_gradient(o, o.theta)(inside).x, inside)
    with pytest.raises(SolveError, match="raise the damping"):
        conjugate_gradient(o, o.theta)(inside + 1)


def test_stochastic_estimation_refuses_negative_curvature():
    o = saddle(5.0)
    with pytest.raises(SolveError, match="negative curvature; raise the damping"):
        lissa(o, o.theta, batch=4, steps=4000, repeats=1)(torch.ones(4, 1, dtype=torch.float64))


@pytest.mark.parametrize("convention", ["mean", "sum"])
def test_top_eigenvalue(convention):
    o = logistic(convention)
    top = float(torch.linalg.eigvalsh(o.hessian(o.theta))[-1])
    assert top_eigenvalue(o, o.theta, tolerance=1e-10) == pytest.approx(top, rel=1e-5)
    assert top_eigenvalue(saddle(5.0), saddle(5.0).theta, tolerance=1e-10) == pytest.approx(1.0, rel=1e-4)


def test_names_and_bad_options():
    o = logistic()
    assert resolve("auto", o) is exact
    assert resolve("cg", o) is conjugate_gradient
    with pytest.raises(OptionError, match="no solver 'lu': choose auto, exact, cg, lissa"):
        resolve("lu", o)
    with pytest.raises(OptionError, match="damping is -1"):
        exact(o, o.theta, damping=-1)
    with pytest.raises(OptionError, match="tolerance is 0"):
        conjugate_gradient(o, o.theta, tolerance=0)
    with pytest.raises(OptionError, match="batch is 0"):
        lissa(o, o.theta, batch=0)
    with pytest.raises(OptionError, match=r"shape \(3, 1\)"):
        exact(o, o.theta)(torch.ones(3, 1))
    with pytest.raises(DataError, match="right-hand side is not finite"):
        conjugate_gradient(o, o.theta)(torch.full((o.dim, 1), float("nan")))
