"""The rules of the walk: how the dependence on an operation's result becomes the dependence on what it read.

A rule gets the walk, the step and the terms of its result, and says which inputs to go on with; constants that it adds
are given to the walk at once. To teach a new linear operation: write such a function and put it under `@rule("name")`.
Rules of what moves tokens are in `token_rules`, of what acts on channels in `channel_rules`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .recording import Ref, Step
from .terms import Term

if TYPE_CHECKING:
    from .walk import Walk

Next = list[tuple[Any, list[Term]]]
Rule = Callable[["Walk", Step, Ref, list[Term]], Next]
RULES: dict[str, Rule] = {}

# What no dependence goes through: a component ends here.
_CURVED = """gelu relu silu sigmoid tanh elu leaky_relu hardswish hardtanh hardsigmoid mish softplus erf clamp clamp_min
exp log pow sqrt rsqrt abs reciprocal softmax _softmax _safe_softmax _log_softmax max_pool2d amax max
max_pool2d_with_indices maximum minimum var var_mean std linalg_vector_norm norm native_group_norm"""
_FUSED = """scaled_dot_product_attention _scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention
_scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention _scaled_dot_product_attention_math
_scaled_dot_product_fused_attention_overrideable _scaled_dot_product_attention_math_for_mps"""
ATTENTION = frozenset(_FUSED.split())
NONLINEAR = frozenset(_CURVED.split()) | ATTENTION


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register the rule of one or more operations, by their names without overloads."""

    def put(found: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, found))
        return found

    return put
