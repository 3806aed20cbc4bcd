"""Group influence functions, and the retraining that proves or refutes them (thesis chapter 3)."""

from typing import TYPE_CHECKING

from pellucid.core.lazy import lazy_exports

if TYPE_CHECKING:
    from .compare import Comparison as Comparison
    from .datasets import load_data as load_data
    from .groups import Group as Group
    from .groups import class_groups as class_groups
    from .groups import cluster_groups as cluster_groups
    from .groups import random_groups as random_groups
    from .models import ModelChoice as ModelChoice
    from .objective import Objective as Objective
    from .retraining import TruthJob as TruthJob
    from .retraining import train_base as train_base
    from .scores import group_influence as group_influence
    from .scores import loss_gradients as loss_gradients
    from .scores import parameter_influence as parameter_influence
    from .scores import point_influence as point_influence
    from .selection import adaptive_greedy as adaptive_greedy
    from .selection import first_order_top_k as first_order_top_k
    from .selection import second_order_relaxed as second_order_relaxed
    from .study import run_study as run_study
    from .training import Recipe as Recipe
    from .training import fit_convex as fit_convex
    from .training import fit_network as fit_network
    from .truth import leave_out as leave_out

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "Comparison": "compare",
        "Group": "groups",
        "ModelChoice": "models",
        "Objective": "objective",
        "Recipe": "training",
        "TruthJob": "retraining",
        "adaptive_greedy": "selection",
        "class_groups": "groups",
        "cluster_groups": "groups",
        "first_order_top_k": "selection",
        "fit_convex": "training",
        "fit_network": "training",
        "group_influence": "scores",
        "leave_out": "truth",
        "load_data": "datasets",
        "loss_gradients": "scores",
        "parameter_influence": "scores",
        "point_influence": "scores",
        "random_groups": "groups",
        "run_study": "study",
        "second_order_relaxed": "selection",
        "train_base": "retraining",
    },
)
