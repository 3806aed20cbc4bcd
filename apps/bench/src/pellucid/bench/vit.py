"""RepDecompose beside the plain forward pass: time, and the peak of memory, per head and per token."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import timm
import torch
from pellucid.core.progress import progress
from pellucid.core.report import Table
from pellucid.core.statistics import bootstrap_mean
from pellucid.vit_components.decompose import components_of, rep_decompose
from pellucid.vit_components.representations import default_layers, representation_of

from .peaks import highest_mb, in_a_process

MODELS = ("vit_base_patch16_224", "swin_base_patch4_window7_224", "maxvit_small_tf_224")
BY_TOKEN = ("vit_base_patch16_224", 4)  # heads of the last layer


def measure(
    batch: int = 4, repeats: int = 5, seed: int = 0, threads: int = 2, models: Sequence[str] = MODELS
) -> dict[str, Any]:
    """Run each model and its decomposition in turn; weights and pictures are random, of full size.

    Args:
        batch: pictures.
        repeats: of each pair.
        seed: of weights and pictures.
        threads: of the processor.
        models: names of timm's.
    """
    torch.set_num_threads(threads)
    rows = []
    with progress("Decomposing", len(models)) as advance:
        for name in models:
            rows.append(_row(name, batch, repeats, seed, threads))
            advance(1)
    return {"rows": rows, "threads": threads}


def summary(found: dict[str, Any]) -> str:
    """What `measure` found, in a sentence."""
    told = "; ".join(
        f"{row['model']} {row['ratio']} times the forward pass's time and {row['memory']:.2f} times its memory for all "
        f"{row['components']} components (error {row['error']:.0e}), {row['last']} times for the thesis's last layers"
        for row in found["rows"]
    )
    return f"Taking representations apart: {told}."


def tables(found: dict[str, Any]) -> list[Table]:
    """The table of what `measure` found."""
    rows: list[list[Any]] = [
        [
            row["model"], row["components"], row["forward"].value, row["ratio"].value, row["ratio"].low,
            row["ratio"].high, row["last"].value, row["forward_mb"], row["memory"], row["error"],
        ]
        for row in found["rows"]
    ]  # fmt: skip
    names = [
        "model",
        "components",
        "forward, s",
        "ratio",
        "low",
        "high",
        "last layers",
        "forward, MB",
        "memory ratio",
        "error",
    ]
    return [Table("vit", names, rows, "Each model's forward pass, and its decomposition as a multiple of that.")]


def _row(name: str, batch: int, repeats: int, seed: int, threads: int) -> dict[str, Any]:
    model, images = _built(name, batch, seed)
    plain, apart = _ways(model, images)
    ratio, seconds = _ratio(plain, apart, repeats, seed)
    last, _ = _ratio(plain, _ways(model, images, last_layers=default_layers(model))[1], repeats, seed)
    forward_mb, apart_mb = (in_a_process(_peak, name, batch, seed, threads, way) for way in ("plain", "apart"))
    found = rep_decompose(model, images)
    row = {
        "model": name,
        "components": len(found.components),
        "error": found.error,
        "forward": seconds,
        "ratio": ratio,
        "last": last,
        "forward_mb": forward_mb,
        "memory": apart_mb / forward_mb,
    }
    if name == BY_TOKEN[0]:
        heads = [one.name for one in components_of(model, images) if one.kind == "head"][-BY_TOKEN[1] :]
        row["by_token"], _ = _ratio(plain, _ways(model, images, tokens=heads)[1], repeats, seed)
    return row


def _built(name: str, batch: int, seed: int) -> tuple[torch.nn.Module, torch.Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = timm.create_model(name, pretrained=False).eval().requires_grad_(False)
        return model, torch.randn(batch, 3, 224, 224)


def _ways(model: torch.nn.Module, images: torch.Tensor, **options: Any) -> tuple[Callable[[], Any], Callable[[], Any]]:
    forward = representation_of(model)

    def plain() -> Any:
        with torch.no_grad():
            return forward(model, images)

    return plain, lambda: rep_decompose(model, images, **options)


def _ratio(plain: Callable[[], Any], apart: Callable[[], Any], repeats: int, seed: int) -> tuple[Any, Any]:
    """Seconds of the one by seconds of the other, run in turn; the first pair warms up."""
    times = np.array([[_seconds(plain), _seconds(apart)] for _ in range(repeats + 1)])[1:]
    return bootstrap_mean(times[:, 1] / times[:, 0], seed), bootstrap_mean(times[:, 0], seed)


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _peak(name: str, batch: int, seed: int, threads: int, way: str) -> float:
    """The peak of memory that a first pass adds to what the process held before, with the model loaded."""
    torch.set_num_threads(threads)
    model, images = _built(name, batch, seed)
    work = dict(zip(("plain", "apart"), _ways(model, images), strict=True))[way]
    before = highest_mb(anew=True)
    work()
    return max(highest_mb() - before, 1.0)
