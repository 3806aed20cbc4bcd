"""Reports of attention contributions (6.3.2) and of failure prediction (6.3.4)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pellucid.core.errors import DataError
from pellucid.core.loading import ModelSpec
from pellucid.core.model_options import Running
from pellucid.core.multimodal import load_multimodal
from pellucid.core.pictures import open_picture
from pellucid.core.report import Figure, Report, Section, Table
from pellucid.core.statistics import Estimates, bootstrap_means

from .figures import image_tokens_figure, layers_figure, patches_figure, prediction_figure
from .looking import LookRow, look
from .patches import patch_grid, seen_picture
from .prediction import Prediction, predict_correctness
from .questions import VisualQuestion

SHOWN = 4  # layers laid on the picture


def contributions_report(
    spec: ModelSpec, questions: Sequence[VisualQuestion], out: Path, seed: int, *, running: Running
) -> Report:
    """What the image adds to the constraint, and the constraint to the last token, layer by layer (eq. 6.1, 6.2)."""
    rows = look(spec, questions, out / "ledger", running)
    lines = {
        "image to constraint": bootstrap_means(np.array([row.image_together for row in rows]), seed),
        "constraint to last token": bootstrap_means(np.array([row.span_to_last for row in rows]), seed),
    }
    most = {name: int(np.argmax(line.value)) for name, line in lines.items()}
    summary = (
        f"In {len(rows)} questions to {spec.name} the image adds most to the constraint in layer "
        f"{most['image to constraint']}, the constraint to the last token in layer {most['constraint to last token']}."
    )
    figures = [
        Figure(
            "layers",
            layers_figure(lines, "contribution (norm)", "Attention contributions by layer"),
            "Mean norms with 95 % intervals over questions.",
            f"The image's line is highest at layer {most['image to constraint']}.",
        ),
        *_pictures(spec, questions, rows),
    ]
    table: list[list[Any]] = [
        [layer, *(number for line in lines.values() for number in _at(line, layer))]
        for layer in range(len(rows[0].image_together))
    ]
    columns = ["layer", "image to constraint", "low", "high", "constraint to last token", "low", "high"]
    tokens = {len(row.by_token()[0]) for row in rows}
    late: Estimates | None = None
    if len(tokens) == 1:
        late = bootstrap_means(np.array([_last_quarter(row) for row in rows]), seed)
    return Report(
        title=f"What moves through {spec.name}",
        command="mllm contributions",
        config={"model": spec.name, "questions": len(questions)},
        seed=seed,
        device=spec.device or "cpu",
        summary=summary,
        sections=[Section("Contributions", [summary], figures, [Table("layers", columns, table, "Means.")])],
        results={**lines, "largest": most, "last_quarter_of_image_tokens": late, "questions": len(rows)},
    )


def predict_report(
    spec: ModelSpec, questions: Sequence[VisualQuestion], out: Path, seed: int, *, running: Running
) -> Report:
    """Whether contributions of middle layers foretell wrong answers, beside the model's confidence (6.3.4)."""
    rows = look(spec, questions, out / "ledger", running)
    right = np.array([row.right for row in rows])
    found: Prediction = predict_correctness(
        np.array([row.constraint_to_last for row in rows]), np.array([row.confidence for row in rows]), right, seed
    )
    summary = (
        f"{found.right} of {len(rows)} answers of {spec.name} are right. Contributions of layers {found.middle[0]} "
        f"and {found.middle[1]} foretell it with AUROC {found.by_middle}, the model's confidence with "
        f"{found.by_confidence}."
    )
    lines: list[list[Any]] = [[sign.layer, sign.auroc.value, sign.auroc.low, sign.auroc.high] for sign in found.layers]
    return Report(
        title=f"When {spec.name} is wrong",
        command="mllm predict",
        config={"model": spec.name, "questions": len(questions)},
        seed=seed,
        device=spec.device or "cpu",
        summary=summary,
        sections=[
            Section(
                "Prediction",
                [summary],
                [Figure("prediction", prediction_figure(found), "AUROC by layer, and of the confidence.", summary)],
                [Table("layers", ["layer", "AUROC", "low", "high"], lines, "Each layer alone.")],
            )
        ],
        results={"prediction": found},
    )


def _at(line: Estimates, layer: int) -> tuple[float, float, float]:
    return float(line.value[layer]), float(line.low[layer]), float(line.high[layer])


def _last_quarter(row: LookRow) -> np.ndarray:
    """Share of the image's contributions that its last quarter of tokens makes, layer by layer."""
    table = row.by_token()
    return np.asarray(table[:, -(table.shape[1] // 4) :].sum(1) / np.maximum(table.sum(1), 1e-30))


def _pictures(spec: ModelSpec, questions: Sequence[VisualQuestion], rows: Sequence[LookRow]) -> list[Figure]:
    """The first question's contributions over image tokens, and over its picture where these lie on a known grid."""
    table, first = rows[0].by_token(), questions[0]
    figures = [
        Figure(
            "tokens",
            image_tokens_figure(table, f"“{first.question}”"),
            "What each image token adds to the constraint's last token.",
            f"A map of {table.shape[0]} layers by {table.shape[1]} image tokens.",
        )
    ]
    loaded = load_multimodal(spec)
    try:
        grid = patch_grid(loaded.model.config, table.shape[1])
    except DataError:  # a model whose picture is cut in a way that its config alone does not tell
        return figures
    from torch import from_numpy

    layers = sorted({round(place * (len(table) - 1) / (SHOWN - 1)) for place in range(SHOWN)})
    processor: Any = loaded.processor
    shown = seen_picture(open_picture(first.image), processor.image_processor)
    maps = {f"layer {layer}": grid.lay(from_numpy(table[layer])).numpy() for layer in layers}
    alt = f"The picture and {len(layers)} maps."
    figures.append(
        Figure("patches", patches_figure(shown, maps), f"The same over the picture: “{first.question}”", alt)
    )
    return figures
