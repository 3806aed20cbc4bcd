"""The group of k training points whose removal moves a test quantity the most, by three estimates.

For k points the second-order estimate of `scores` is a quadratic in the indicator s of the group (p = k/n is fixed):

    Q(s) = b s'u + c s'B s,      u_i = q' A^-1 g_i,      B_ij = q' A^-1 H_i A^-1 g_j,

with q the quantity's gradient and b, c from `expansion.coefficients`. B has n x n entries but is a product of two
n x dim factors: with C_i = H_i A^-1 q and V = A^-1 (g_1 ... g_n), B = C V. Only these factors are ever held.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from pellucid.core.errors import OptionError
from torch import Tensor

from .expansion import carried, coefficients
from .objective import Objective
from .scores import gradient_norm
from .solution import Solver
from .solvers import resolve

Direction = Literal["increase", "decrease"]

_FACTOR_LIMIT = 1 << 28
"""Largest n x dim factor held: 2 GiB in float64."""


@dataclass(frozen=True)
class Selection:
    """A group chosen for its influence.

    Attributes:
        indices: the training rows, ascending.
        effect: the change of the quantity that the method predicts for removing them.
        method: the function that chose them.
    """

    indices: tuple[int, ...]
    effect: float
    method: str


def first_order_top_k(
    objective: Objective,
    theta: Tensor,
    quantity: Tensor,
    k: int,
    *,
    direction: Direction = "increase",
    solver: str | Solver = "auto",
    damping: float = 0.0,
) -> Selection:
    """Return the k points of the largest first-order influence; their predicted effects add up (eq. 3.12).

    Args:
        objective: the empirical risk on the training data.
        theta: the optimum, shape (dim,).
        quantity: gradient of the test quantity, shape (dim,) or (dim, 1).
        k: size of the group.
        direction: whether removal should increase or decrease the quantity.
        solver: see `scores.group_influence`.
        damping: added to the Hessian's diagonal.

    Raises:
        OptionError: for a k that leaves no group or no data, or a quantity that does not fit.
        SolveError: if the damped Hessian is not positive definite.
    """
    sign, q = _checked(objective, quantity, k, direction)
    gradient_norm(objective, theta)
    solved = resolve(solver, objective)(objective, theta, damping=damping)(q).x[:, 0]
    scores = objective.per_example_gradients(theta) @ solved + carried(objective, objective.l2) * (theta @ solved)
    rows = _top(sign * scores, k)
    a, _, _ = _coefficients(objective, k)
    return _selection(rows, a * float(scores[rows].sum()), "first_order_top_k")


def second_order_relaxed(
    objective: Objective,
    theta: Tensor,
    quantity: Tensor,
    k: int,
    *,
    direction: Direction = "increase",
    solver: str | Solver = "auto",
    damping: float = 0.0,
    starts: int = 8,
    steps: int = 200,
    seed: int = 0,
) -> Selection:
    """Return the group of the largest second-order effect found by projected ascent on relaxed weights.

    Weights in [0, 1] that sum to k climb Q by gradient steps, projected back onto that set; the step is the inverse
    of the largest curvature, so that no step descends. Starts are the first-order group and random ones, climbed side
    by side; each end (and each start) is rounded to its k largest weights, then all k are replaced by those of the
    largest slope while that raises Q. The best three go on by exchanges of two points, and the best is returned.

    Args:
        objective: see `first_order_top_k`.
        theta: see `first_order_top_k`.
        quantity: see `first_order_top_k`.
        k: see `first_order_top_k`.
        direction: see `first_order_top_k`.
        solver: see `first_order_top_k`.
        damping: see `first_order_top_k`.
        starts: how many, the first-order one included.
        steps: of ascent, at most.
        seed: of the random starts; the same seed gives the same group.

    Raises:
        OptionError: as `first_order_top_k`, and where the n x dim factors are too large to hold.
        SolveError: if the damped Hessian is not positive definite.
    """
    if starts < 1 or steps < 1:
        raise OptionError(f"starts is {starts} and steps {steps}: both must be 1 or more")
    sign, q = _checked(objective, quantity, k, direction)
    gradient_norm(objective, theta)
    linear, left, right = _factors(objective, theta, q, k, solver, damping)
    linear, left = sign * linear, sign * left

    def slope(s: Tensor) -> Tensor:
        return linear[:, None] + left @ (right @ s) + right.T @ (left.T @ s)

    def value(s: Tensor) -> Tensor:
        return (s * (linear[:, None] + left @ (right @ s))).sum(dim=0)

    def worth(rows: Tensor) -> float:
        return float(value(_indicator(rows, linear)))

    begin = [_indicator(_top(linear, k), linear)[:, 0]]
    generator = torch.Generator().manual_seed(seed)
    for _ in range(starts - 1):
        begin.append(torch.rand(objective.n, generator=generator, dtype=torch.float64).to(linear))
    s = project_capped_simplex(torch.stack(begin, dim=1), k)
    candidates = [s]
    curvature = _curvature(lambda v: slope(v) - linear[:, None], objective.n, linear, seed)
    # Without curvature the problem is linear, and any long step ends in the best vertex.
    rate = 1 / curvature if curvature > 0 else float(objective.n / linear.abs().max().clamp(min=1e-300))
    for _ in range(steps):
        moved = project_capped_simplex(s + rate * slope(s), k)
        change, s = float((moved - s).abs().max()), moved
        if change < 1e-9:
            break
    candidates.append(s)
    rounded = [_replace(_top(column, k), linear, slope, worth) for column in torch.cat(candidates, dim=1).T]
    distinct = {tuple(rows.tolist()): rows for rows in rounded}.values()
    promising = sorted(distinct, key=worth, reverse=True)[:3]
    best = max((_exchange(rows, slope, left, right) for rows in promising), key=worth)
    return _selection(best, sign * worth(best), "second_order_relaxed")


def adaptive_greedy(
    objective: Objective,
    theta: Tensor,
    quantity: Tensor,
    k: int,
    *,
    direction: Direction = "increase",
    solver: str | Solver = "auto",
    damping: float = 0.0,
    batch: int | None = None,
) -> Selection:
    """Return a group grown a few points at a time, with a Newton step after each pick.

    The points left are ranked by first-order influence on the quantity, with gradients and Hessian of the objective
    without those already picked, at the parameters one Newton step from the last; then the next are picked. The
    predicted effect is the quantity's gradient times how far the parameters have gone.

    Args:
        objective: see `first_order_top_k`.
        theta: see `first_order_top_k`.
        quantity: see `first_order_top_k`.
        k: see `first_order_top_k`.
        direction: see `first_order_top_k`.
        solver: see `first_order_top_k`.
        damping: see `first_order_top_k`.
        batch: points picked at once; by default a twentieth of k, at least 1.

    Raises:
        OptionError: as `first_order_top_k`.
        SolveError: if a damped Hessian on the way is not positive definite.
    """
    sign, q = _checked(objective, quantity, k, direction)
    batch = max(1, k // 20) if batch is None else batch
    if batch < 1:
        raise OptionError(f"batch is {batch}: it must be 1 or more")
    gradient_norm(objective, theta)
    prepare = resolve(solver, objective)
    here, left = theta, torch.arange(objective.n)
    picked = torch.empty(0, dtype=torch.long)
    while len(picked) < k:
        rest = objective.with_data(objective.inputs[left], objective.targets[left])
        pull = prepare(rest, here, damping=damping)(q).x[:, 0]
        order = _top(sign * (rest.per_example_gradients(here) @ pull), min(batch, k - len(picked)))
        gone = torch.zeros(len(left), dtype=torch.bool).index_fill(0, order.cpu(), True)
        picked, left = torch.cat([picked, left[gone]]), left[~gone]
        rest = objective.with_data(objective.inputs[left], objective.targets[left])
        here = here - prepare(rest, here, damping=damping)(rest.gradient(here)[:, None]).x[:, 0]
    return _selection(picked, float(q[:, 0] @ (here - theta)), "adaptive_greedy")


def project_capped_simplex(points: Tensor, k: float) -> Tensor:
    """Return the nearest point with entries in [0, 1] that sum to k, for each column of (n, m).

    It is clip(x - t, 0, 1) for the t that makes the sum right: a root of a falling, piecewise linear function, found
    by Newton steps that a bracket holds in place.
    """
    if not 0 <= k <= len(points):
        raise OptionError(f"k is {k}: {len(points)} weights between 0 and 1 cannot sum to it")
    low, high = points.min(dim=0).values - 1, points.max(dim=0).values
    t = (low + high) / 2
    for _ in range(100):
        weights = (points - t).clamp(0, 1)
        excess = weights.sum(dim=0) - k
        if float(excess.abs().max()) <= 1e-14 * len(points):
            break
        low, high = torch.where(excess > 0, t, low), torch.where(excess > 0, high, t)
        free = ((weights > 0) & (weights < 1)).sum(dim=0)
        step = t + excess / free.clamp(min=1)
        t = torch.where((free > 0) & (step > low) & (step < high), step, (low + high) / 2)
    return (points - t).clamp(0, 1)


def _factors(
    objective: Objective, theta: Tensor, q: Tensor, k: int, solver: str | Solver, damping: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return (b u (n,), c C (n, dim), V (dim, n)) of the quadratic, in float64."""
    if objective.n * objective.dim > _FACTOR_LIMIT:
        raise OptionError(
            f"{objective.n} points by {objective.dim} parameters are too many to hold at once: select fewer "
            'parameters, such as parameters="last"'
        )
    inverse = resolve(solver, objective)(objective, theta, damping=damping)
    solved = inverse(q).x[:, 0]
    gradients = objective.per_example_gradients(theta) + carried(objective, objective.l2) * theta
    curved = objective.per_example_hvp(theta, solved) + carried(objective, objective.l2 + damping) * solved
    moves = torch.cat([inverse(part.T).x for part in gradients.split(1024)], dim=1)
    _, b, c = _coefficients(objective, k)
    return b * (gradients @ solved).double(), c * curved.double(), moves.double()


def _curvature(apply: Callable[[Tensor], Tensor], n: int, like: Tensor, seed: int) -> float:
    """Return a bound on the largest modulus of an eigenvalue of the quadratic, by power iteration."""
    vector = torch.randn(n, 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(like)
    size = 0.0
    for _ in range(50):
        vector = vector / vector.norm().clamp(min=1e-300)
        vector = apply(vector)
        size = float(vector.norm())
        if size == 0:
            break
    return 1.1 * size


def _indicator(rows: Tensor, like: Tensor) -> Tensor:
    return torch.zeros_like(like).index_fill(0, rows, 1)[:, None]


def _replace(
    rows: Tensor, linear: Tensor, slope: Callable[[Tensor], Tensor], worth: Callable[[Tensor], float]
) -> Tensor:
    """Replace a group by the points of the largest slope while that raises the quadratic."""
    reached = worth(rows)
    while True:
        fresh = _top(slope(_indicator(rows, linear))[:, 0], len(rows)).sort().values
        gained = worth(fresh)
        if gained <= reached + 1e-12 * abs(reached):
            return rows.sort().values
        rows, reached = fresh, gained


def _exchange(rows: Tensor, slope: Callable[[Tensor], Tensor], left: Tensor, right: Tensor, width: int = 32) -> Tensor:
    """Exchange one point inside for one outside while any of the most promising pairs raises the quadratic.

    With s the indicator, taking i out and j in changes Q by slope_j - slope_i + B_ii + B_jj - B_ij - B_ji exactly.
    """
    n = len(left)
    inside = torch.zeros(n, dtype=torch.bool, device=left.device).index_fill(0, rows, True)
    for _ in range(4 * len(rows)):
        gain = slope(inside.to(left)[:, None])[:, 0]
        ins, outs = inside.nonzero()[:, 0], (~inside).nonzero()[:, 0]
        ins = ins[gain[ins].argsort(stable=True)[:width]]
        outs = outs[gain[outs].argsort(descending=True, stable=True)[:width]]
        cross = left[ins] @ right[:, outs] + (left[outs] @ right[:, ins]).T
        own_in, own_out = (left[ins] * right[:, ins].T).sum(dim=1), (left[outs] * right[:, outs].T).sum(dim=1)
        change = gain[outs] - gain[ins][:, None] + own_in[:, None] + own_out - cross
        best = int(change.argmax())
        if float(change.flatten()[best]) <= 1e-12 * float(gain.abs().max()):
            break
        inside[ins[best // len(outs)]], inside[outs[best % len(outs)]] = False, True
    return inside.nonzero()[:, 0]


def _checked(objective: Objective, quantity: Tensor, k: int, direction: Direction) -> tuple[int, Tensor]:
    if not 1 <= k < objective.n:
        raise OptionError(f"k is {k}: choose from 1 to {objective.n - 1}, one less than there are examples")
    if direction not in ("increase", "decrease"):
        raise OptionError(f"direction is {direction!r}: choose 'increase' or 'decrease'")
    if quantity.numel() != objective.dim or quantity.shape[0] != objective.dim:
        raise OptionError(f"quantity has shape {tuple(quantity.shape)}: give one gradient of {objective.dim} numbers")
    return (1 if direction == "increase" else -1), quantity.reshape(-1, 1)


def _coefficients(objective: Objective, k: int) -> tuple[float, float, float]:
    a, b, c = coefficients(objective, torch.tensor([k]))
    return float(a), float(b), float(c)


def _top(scores: Tensor, k: int) -> Tensor:
    """Return the k largest entries' places; of equal ones the first."""
    return scores.argsort(descending=True, stable=True)[:k]


def _selection(rows: Tensor, effect: float, method: str) -> Selection:
    return Selection(tuple(sorted(rows.tolist())), effect, method)
