"""What the commands do: contributions as a sweep, then a report."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from pellucid.core.errors import DataError, OptionError
from pellucid.core.report import Figure, Report, Section, Table

from .ablation import ablate_layers
from .encoders import VisionModel, load_vision
from .figures import ablation_figure, shares_figure
from .options import Source
from .pictures import Pictures
from .shares import mean_norms, variance_shares
from .store import contributions


def decompose_report(source: Source, out: Path, seed: int, *, last_layers: int | None) -> Report:
    """Take a model's representation of pictures apart, and say how much comes from each component."""
    name, pictures, device = source.model, source.pictures(), source.placed()
    found = contributions(
        load_vision(name, device),
        pictures,
        source.ledger(out, "parts"),
        last_layers=last_layers,
        **source.running(),
    )
    shares, norms = variance_shares(found), mean_norms(found)
    order = np.argsort(-shares)
    best = found.components[order[0]]
    half = int(np.searchsorted(np.cumsum(shares[order]), 0.5)) + 1
    summary = (
        f"Of {len(found.components)} components of {name}, {half} hold half of the variance over {len(pictures)} "
        f"pictures; the largest is {best.name} with {shares[order[0]]:.1%}."
    )
    rows: list[list[Any]] = [
        [one.name, one.kind, one.layer, float(share), float(norm)]
        for one, share, norm in zip(found.components, shares, norms, strict=True)
    ]
    figure = Figure(
        "shares",
        shares_figure(found.components, shares, f"{name}: where its representation comes from"),
        "Each component's share of the representation's variance over pictures; all shares sum to one.",
        f"A map of {len(rows)} components; the darkest is {best.name} with {shares[order[0]]:.1%}.",
    )
    table = Table("components", ["component", "kind", "layer", "share", "norm"], rows, "In the order of execution.")
    return Report(
        title=f"What {name} is made of",
        command="vit decompose",
        config={"model": name, "pictures": len(pictures), "last_layers": last_layers},
        seed=seed,
        device=device,
        summary=summary,
        sections=[Section("Components", [summary], [figure], [table])],
        results={"components": [dict(zip(table.columns, row, strict=True)) for row in rows]},
    )


def ablate_report(source: Source, out: Path, seed: int, *, label: str) -> Report:
    """Set layers to their mean, from the last on, and see what is left of the accuracy (thesis figure 7.2)."""
    name, pictures, device = source.model, source.pictures(), source.placed()
    model = load_vision(name, device)
    right = right_classes(model, pictures, label)
    found = contributions(model, pictures, source.ledger(out, "parts"), **source.running())
    results = ablate_layers(model.model, found, right, seed)
    whole = results[0].accuracy
    chance = 1 / max(len(model.classes), 1)
    middle = (whole.value + chance) / 2
    lost = next((one.layers for one in results if one.accuracy.value < middle), None)
    summary = f"{name} names {label} right in {whole} of {len(pictures)} pictures. " + (
        f"Half of what it has over chance is lost once its last {lost} of {len(results) - 1} layers are ablated."
        if lost is not None
        else "No number of layers set to their mean takes half of that away."
    )
    figure = Figure(
        "ablation",
        ablation_figure(results, f"{name}: accuracy without its last layers"),
        "Accuracy with 95 % intervals over pictures, as layers are set to their mean from the last on.",
        f"A curve from {whole.value:.2f} with no layer ablated to {results[-1].accuracy.value:.2f} with all.",
    )
    rows: list[list[Any]] = [
        [one.layers, one.name, one.accuracy.value, one.accuracy.low, one.accuracy.high] for one in results
    ]
    table = Table("ablation", ["layers", "last of them", "accuracy", "low", "high"], rows, "Layer after layer.")
    return Report(
        title=f"{name} without its last layers",
        command="vit ablate",
        config={"model": name, "pictures": len(pictures), "label": label},
        seed=seed,
        device=device,
        summary=summary,
        sections=[Section("Accuracy", [summary], [figure], [table])],
        results={"ablation": [asdict(one) for one in results]},
    )


def right_classes(model: VisionModel, pictures: Pictures, label: str) -> np.ndarray:
    """The classifier's number of each picture's annotation: (pictures,) int64.

    Raises:
        OptionError: the model does not name its classes, or the pictures have no such annotation.
        DataError: the model lacks a class.
    """
    if not model.classes:
        raise OptionError(f"{model.name} does not name its classes: give a timm model whose config has label_names")
    if label not in pictures.labels:
        raise OptionError(f"--label {label!r}: the pictures have {', '.join(pictures.labels) or 'no annotations'}")
    named = pictures.labels[label]
    unknown = sorted(set(named) - set(model.classes))
    if unknown:
        raise DataError(f"{model.name} knows no {label} {unknown[0]!r}: it has {', '.join(model.classes[:20])}")
    return np.array([model.classes.index(one) for one in named])
