"""Linear classification of embeddings: logistic regression on a task's support set, without torch."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pellucid.core.errors import OptionError

from .pools import Pool
from .prototypes import unit
from .tasks import Task, flat


def linear_accuracy(pool: Pool, tasks: Sequence[Task], inverse_l2: float = 1.0) -> NDArray[np.float64]:
    """Return (T,) accuracies of multinomial logistic regression, fitted to each task's support set.

    Embeddings are scaled to length one, and the head is regularised by L2, as in Tian et al. (ECCV 2020). Each class
    counts alike, whatever its shots: else the intercepts of a strongly regularised head favour the larger supports,
    while query sets are even.

    Args:
        pool: of the embeddings.
        tasks: over the pool's rows.
        inverse_l2: scikit-learn's C; smaller regularises more.

    Raises:
        OptionError: `inverse_l2` is not above 0.
    """
    from sklearn.linear_model import LogisticRegression

    if not 0 < inverse_l2 < float("inf"):
        raise OptionError(f"inverse_l2 is {inverse_l2}: it must be above 0")
    found = np.empty(len(tasks))
    for place, task in enumerate(tasks):
        (support, labels), (query, truth) = flat(task.support), flat(task.query)
        head = LogisticRegression(C=inverse_l2, class_weight="balanced", max_iter=1000)
        head.fit(unit(pool.embeddings[support].astype(np.float64)), labels)
        found[place] = head.score(unit(pool.embeddings[query].astype(np.float64)), truth)
    return found
