"""Closed-form edits and tracing: the N x N solve against the d x d inverse, a shared clean run against repeating it.

The shapes are those of SD 1.5's text encoder and SDXL's cross-attention; weights are random, which changes no time.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from pellucid.core.conditioning import encode
from pellucid.core.edits import WeightEdit, solve
from pellucid.core.generation import generate
from pellucid.core.progress import progress
from pellucid.core.testing_pipelines import tiny_pipeline
from pellucid.t2i_edit.positions import encoder_positions
from pellucid.t2i_edit.unet_tracing import trace_unet
from torch import Tensor, nn

# Of SDXL's 70 cross-attention layers 10 have 640 channels and 60 have 1280; keys and values read 2048.
SDXL = [(2048, 640)] * 20 + [(2048, 1280)] * 120
SD15_TEXT = [(768, 768)]
_KEYS = 16


def measure(prompts: int = _KEYS, threads: int = 2, seed: int = 0) -> dict[str, Any]:
    """Measure all of it in one run.

    Args:
        prompts: keys of each edit.
        threads: of the processor.
        seed: of weights, keys and values.

    Returns:
        For `sd15_text` and `sdxl_keys_values`: `matrices`, `seconds` (solve, apply and revert; the median of three
        after the first), `first_seconds` (the first, with imports and memory that the system has to find),
        `inverse_seconds` (the textbook's formula in float64), its `ratio` to `seconds`, `largest_difference` of the
        weights. For `tracing`: `layers`,
        `shared_seconds` (all layers in batches with one clean row), `repeated_seconds` (the clean run again for each
        layer), their `ratio`.
    """
    torch.set_num_threads(threads)
    found: dict[str, Any] = {}
    for name, shapes in (("sd15_text", SD15_TEXT), ("sdxl_keys_values", SDXL)):
        found[name] = _edited(shapes, prompts, seed)
    found["tracing"] = _traced(seed)
    return found


def summary(found: dict[str, Any]) -> str:
    """What `measure` found, in a few sentences."""
    text, xl, tracing = found["sd15_text"], found["sdxl_keys_values"], found["tracing"]
    return (
        f"An edit of SD 1.5's text encoder takes {text['seconds']:.3f} s ({text['ratio']:.3g} times as fast as the "
        f"d x d inverse), one of all {xl['matrices']} key and value projections of SDXL {xl['seconds']:.2f} s "
        f"({xl['ratio']:.3g} times; the first time {xl['first_seconds']:.2f} s); weights differ by at most "
        f"{xl['largest_difference']:.1e}. Tracing "
        f"{tracing['layers']} layers with one clean run is {tracing['ratio']:.3g} times as fast as repeating it."
    )


def _edited(shapes: list[tuple[int, int]], count: int, seed: int) -> dict[str, Any]:
    chance = torch.Generator().manual_seed(seed)
    model = nn.ModuleList([nn.Linear(*shape, bias=False) for shape in shapes]).requires_grad_(False)
    pairs = [(torch.randn(count, i, generator=chance), torch.randn(count, o, generator=chance)) for i, o in shapes]
    ridge = 0.1
    with progress("Editing", 2) as advance:
        times = [_timed(lambda: _there_and_back(model, pairs, ridge))[1] for _ in range(4)]
        edit = _solved(model, pairs, ridge)
        with edit.applied(model):
            edited: list[Tensor] = [weight.detach().clone() for weight in model.parameters()]
        advance(1)
        weights = list(model.parameters())
        _textbook(weights[0], *pairs[0], ridge)
        slow, inverse = _timed(
            lambda: [_textbook(weight, *pair, ridge) for weight, pair in zip(weights, pairs, strict=True)]
        )
        advance(1)
    apart = max((one.double() - other).abs().max().item() for one, other in zip(edited, slow, strict=True))
    seconds = statistics.median(times[1:])
    return {
        "matrices": len(shapes),
        "seconds": seconds,
        "first_seconds": times[0],
        "inverse_seconds": inverse,
        "ratio": inverse / seconds,
        "largest_difference": apart,
    }


def _there_and_back(model: nn.ModuleList, pairs: list[tuple[Tensor, Tensor]], ridge: float) -> None:
    with _solved(model, pairs, ridge).applied(model):
        pass


def _solved(model: nn.ModuleList, pairs: list[tuple[Tensor, Tensor]], ridge: float) -> WeightEdit:
    return WeightEdit.of(model, [solve(model, str(place), *pair, ridge) for place, pair in enumerate(pairs)])


def _textbook(weight: Tensor, keys: Tensor, values: Tensor, ridge: float) -> Tensor:
    """(ridge W0 + V'K)(ridge I + K'K)^-1, as eq. 5.9 is written."""
    base, x, y = weight.double(), keys.double(), values.double()
    return (ridge * base + y.T @ x) @ torch.linalg.inv(ridge * torch.eye(x.shape[1], dtype=x.dtype) + x.T @ x)


def _traced(seed: int) -> dict[str, Any]:
    pipe, prompt = tiny_pipeline("sd", seed), "a house in the style of van gogh"
    subject = encoder_positions(pipe, prompt, "van gogh")
    options: dict[str, Any] = {"steps": 5, "guidance": 5.0}
    generate(pipe, encode(pipe, [prompt]), [seed], **options)  # what only the first call costs
    run, shared = _timed(lambda: trace_unet(pipe, prompt, subject, seed, chunk=64, **options))
    with progress("Tracing one layer at a time", len(run.layers)) as advance:

        def alone() -> None:
            for label in run.layers:
                trace_unet(pipe, prompt, subject, seed, layers=[label], chunk=3, **options)
                advance(1)

        _, repeated = _timed(alone)
    return {
        "layers": len(run.layers),
        "shared_seconds": shared,
        "repeated_seconds": repeated,
        "ratio": repeated / shared,
    }


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    found = work()
    return found, time.perf_counter() - began
