"""Stochastic estimation of inverse-Hessian products (LiSSA), and the top eigenvalue that sets its scale."""

from collections.abc import Callable
from functools import partial

import torch
from pellucid.core.errors import OptionError
from torch import Tensor

from .objective import Objective
from .solution import Inverse, Solution, SolveError, check_options, judged, log, right_hand_sides


def lissa(
    objective: Objective,
    theta: Tensor,
    *,
    damping: float = 0.0,
    tolerance: float = 0.05,
    steps: int = 2000,
    batch: int = 64,
    repeats: int = 4,
    seed: int = 0,
) -> Inverse:
    """Prepare products with the inverse by stochastic estimation (the thesis's; LiSSA, Agarwal et al., 2017).

    Each step is x <- x + (b - (H_B + damping I) x) / scale with the Hessian H_B of a batch drawn at random. The
    batches are one partition of the data; the scale is the largest eigenvalue that ANY of them has (estimated by power
    iteration, plus a tenth), so that no step lengthens the error: with convex losses the recursion cannot diverge,
    and nobody tunes a scale. Should an estimate fall short, the scale is doubled and the repeat begun again. The mean
    of the second half of each repeat's iterates, averaged over repeats, is the estimate: it has far less of the noise.

    Args:
        objective: any size.
        theta: shape (dim,).
        damping: added to the Hessian's diagonal, 0 or more.
        tolerance: relative residual above which a column is reported as not converged.
        steps: in each repeat. The error decays as (1 - smallest eigenvalue / scale)^steps.
        batch: examples in each batch.
        repeats: independent runs to average.
        seed: of the partition and of the draws; all right-hand sides see the same draws.

    Raises:
        SolveError: (from the product) if the recursion grows whatever the scale: the Hessian has negative curvature.
    """
    check_options(damping, tolerance, steps)
    if batch < 1 or repeats < 1:
        raise OptionError(f"batch is {batch} and repeats {repeats}: both must be 1 or more")
    parts = torch.randperm(objective.n, generator=torch.Generator().manual_seed(seed)).split(batch)
    # A part's sum is multiplied so that the mean over all parts is the whole Hessian, also where the last is small.
    factor = len(parts) / objective.n if objective.convention == "mean" else float(len(parts))
    shift = objective.l2 + damping

    def batch_hvp(part: int, vectors: Tensor) -> Tensor:
        return factor * objective.summed_hvp(theta, vectors, rows=parts[part])

    top = max(abs(_power(partial(batch_hvp, part), objective, 15, 1e-2, seed)) for part in range(len(parts)))
    scale = 1.1 * (top + shift)

    def run(right: Tensor, repeat: int, scale: float) -> Tensor | None:
        """Return the averaged tail of one repeat, or None where it grows without bound."""
        draws = torch.randint(len(parts), (steps,), generator=torch.Generator().manual_seed(seed + 1 + repeat)).tolist()
        x, tail, first = torch.zeros_like(right), torch.zeros_like(right), steps // 2
        for step, part in enumerate(draws):
            hx = batch_hvp(part, x.to(objective.dtype)).double() + shift * x
            x = x + (right - hx) / scale
            # Without growth the error stays under the solution, so that |x| grows at most linearly in the steps.
            if not bool((x.norm(dim=0) <= 10 * (step + 1) / scale * right.norm(dim=0)).all()):
                return None
            if step >= first:
                tail += x
        return tail / (steps - first)

    def solve(vectors: Tensor) -> Solution:
        right = right_hand_sides(vectors, objective.dim)
        total, used = torch.zeros_like(right), scale
        for repeat in range(repeats):
            mean = run(right, repeat, used)
            doublings = 0
            while mean is None:
                doublings += 1
                used *= 2
                if doublings > 6:
                    raise SolveError(
                        f"the recursion grows even at scale {used:.3g}: the Hessian has negative curvature; "
                        f"raise the damping (it is {damping:g})"
                    )
                log.info("stochastic estimation: the scale was too small, going on with %.3g", used)
                mean = run(right, repeat, used)
            total += mean
        x = total / repeats
        product = objective.hvp(theta, x.to(objective.dtype)).double() + damping * x
        advice = f"raise `steps` (now {steps}, at scale {used:.3g}), `repeats`, `batch` or the damping"
        return judged(x, product, right, vectors, steps * repeats, tolerance, advice)

    return solve


def top_eigenvalue(
    objective: Objective, theta: Tensor, *, iterations: int = 500, tolerance: float = 1e-6, seed: int = 0
) -> float:
    """Return the largest eigenvalue of the whole Hessian (regulariser included), by power iteration.

    Should the eigenvalue of the largest modulus be negative, the iteration goes on with the Hessian shifted by it.

    Args:
        objective: the empirical risk.
        theta: shape (dim,).
        iterations: Hessian-vector products, at most.
        tolerance: relative change of the estimate at which it stops; the estimate is from below.
        seed: of the first vector.
    """
    apply = partial(objective.hvp, theta)
    value = _power(apply, objective, iterations, tolerance, seed)
    if value < 0:
        shift = -value
        value = _power(lambda v: apply(v) + shift * v, objective, iterations, tolerance, seed) - shift
    return value


def _power(
    apply: Callable[[Tensor], Tensor], objective: Objective, iterations: int, tolerance: float, seed: int
) -> float:
    """Return the eigenvalue of the largest modulus, with its sign (a Rayleigh quotient)."""
    generator = torch.Generator().manual_seed(seed)
    vector = torch.randn(objective.dim, 1, generator=generator, dtype=torch.float64)
    vector = (vector / vector.norm()).to(objective.device, objective.dtype)
    value = 0.0
    for _ in range(iterations):
        product = apply(vector)
        before, value = value, float((vector * product).sum())
        size = float(product.norm())
        if size == 0 or (value != 0 and abs(value - before) <= tolerance * abs(value)):
            break
        vector = product / size
    return value
