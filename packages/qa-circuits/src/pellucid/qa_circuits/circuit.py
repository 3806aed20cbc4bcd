"""The greedy circuit (thesis 8.3.2): the fewest top-ranked components that reach a score when patched together."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pellucid.core.errors import DataError, OptionError

from .components import Component, ComponentSet, Kind


@dataclass(frozen=True)
class Pick:
    """How many components of a ranking make the circuit.

    Attributes:
        size: the number of components.
        reached: whether their mean score is at least delta; if not, `size` has the best mean score there is.
    """

    size: int
    reached: bool


def check_delta(delta: float) -> None:
    """Raise OptionError unless 0 < delta <= 1."""
    if not 0 < delta <= 1:
        raise OptionError(f"delta is {delta}, but a score lies in (0, 1]: choose delta there, such as 0.95")


def rank(components: Sequence[Component], scores: np.ndarray, kind: Kind) -> list[Component]:
    """The components of one kind by falling mean score; ties keep execution order.

    Args:
        components: what the columns of `scores` stand for.
        scores: `(probes, components)`, `1 - P(answer)` with one component patched.
        kind: which components to rank.
    """
    if scores.ndim != 2 or scores.shape[1] != len(components) or len(scores) == 0:
        raise DataError(f"scores of shape {scores.shape} do not give one row a probe for {len(components)} components")
    means = scores.mean(0)
    chosen = [(i, c) for i, c in enumerate(components) if c.kind == kind]
    return [c for i, c in sorted(chosen, key=lambda pair: -means[pair[0]])]


def prefixes(ranking: Sequence[Component]) -> list[ComponentSet]:
    """The top 1, the top 2, ... of a ranking."""
    return [tuple(ranking[:size]) for size in range(1, len(ranking) + 1)]


def smallest_reaching(curve: np.ndarray, delta: float) -> Pick:
    """The smallest size whose mean score is at least `delta`, or the smallest that has the best score.

    Args:
        curve: mean score of the top 1, 2, ... components patched together.
        delta: the score wanted, in (0, 1].
    """
    check_delta(delta)
    if len(curve) == 0:
        raise DataError("there are no components to make a circuit of")
    enough = np.flatnonzero(np.asarray(curve) >= delta)
    return Pick(int(enough[0]) + 1, True) if len(enough) else Pick(int(np.argmax(curve)) + 1, False)


def sizes_to_show(total: int, chosen: int) -> list[int]:
    """Sizes at which the random control is scored: 1, 2, 4, ... up to `total`, and the chosen one."""
    return sorted({2**i for i in range(total.bit_length()) if 2**i <= total} | {total, chosen})


def random_sets(
    pool: Sequence[Component], sizes: Sequence[int], draws: int, seed: int | Sequence[int]
) -> list[ComponentSet]:
    """For each size `draws` random sets, size by size: the control of equal size, drawn from the same kind.

    Each draw is one random order whose first components are taken, so that a draw's sets grow by inclusion.
    """
    generator = np.random.default_rng(seed)
    orders = [[pool[i] for i in generator.permutation(len(pool))] for _ in range(draws)]
    return [tuple(order[:size]) for size in sizes for order in orders]
