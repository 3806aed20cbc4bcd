import io
from typing import Any

import numpy as np
import pytest
from pellucid.core.errors import DataError
from pellucid.core.statistics import Estimate, bootstrap_means
from pellucid.mllm_edit.figures import (
    Panel,
    Strength,
    curves_figure,
    edits_figure,
    image_tokens_figure,
    layers_figure,
    patches_figure,
    prediction_figure,
    trace_figure,
)
from pellucid.mllm_edit.prediction import predict_correctness
from PIL import Image

RANDOM = np.random.default_rng(0)


def drawn(figure: Any) -> Any:
    """Draw it whole: what is wrong with sizes and labels shows only then, as a warning, which is an error."""
    figure.savefig(io.BytesIO(), format="png", dpi=60)
    return figure


def near(value: float) -> Estimate:
    return Estimate(value, max(value - 0.05, 0), min(value + 0.05, 1))


def test_traces_share_one_scale() -> None:
    groups = ("image", "this person", "last token")
    panels = [Panel(f"MLP {n}", groups, RANDOM.normal(size=(3, 8)) * n) for n in (1, 2, 3)]
    figure = drawn(trace_figure(panels))
    images = [axes.images[0] for axes in figure.axes if axes.images]
    assert [image.get_array().shape for image in images] == [(3, 8)] * 3
    assert len({image.get_clim() for image in images}) == 1
    assert images[0].get_clim()[1] == pytest.approx(max(np.abs(panel.effects).max() for panel in panels))
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(groups)
    drawn(trace_figure([Panel("one", ("image",), np.zeros((1, 32)))]))


def test_traces_that_cannot_be_drawn() -> None:
    with pytest.raises(DataError, match="nothing to draw"):
        trace_figure([])
    with pytest.raises(DataError, match=r"'one' has effects of shape \(2, 8\) for 1 token groups"):
        trace_figure([Panel("one", ("image",), np.zeros((2, 8)))])


def test_contributions_by_token_and_on_the_picture() -> None:
    table = RANDOM.random((8, 64))
    figure = drawn(image_tokens_figure(table, "Image to constraint"))
    assert np.array_equal(figure.axes[0].images[0].get_array(), table)
    picture = Image.fromarray(RANDOM.integers(0, 255, (40, 60, 3), dtype=np.uint8))
    figure = drawn(patches_figure(picture, {"layer 0": table[0].reshape(8, 8), "layer 1": table[1].reshape(8, 8)}))
    laid = figure.axes[1].images[1]
    assert laid.get_extent() == [-0.5, 59.5, 39.5, -0.5]  # the patches cover the whole picture


def test_lines_and_prediction() -> None:
    right = RANDOM.random(40) < 0.5
    table = RANDOM.random((40, 8)) + right[:, None] * 0.3
    lines = {"right": bootstrap_means(table[right], 0), "wrong": bootstrap_means(table[~right], 0)}
    figure = drawn(layers_figure(lines, "contribution (norm)", "Constraint to last token"))
    assert len(figure.axes[0].lines) == 2
    drawn(prediction_figure(predict_correctness(table, RANDOM.random(40), right)))


def test_edits() -> None:
    metrics = ("efficacy", "generalisation", "specificity")
    methods = {name: {m: near(RANDOM.random()) for m in metrics} for name in ("untouched", "MultEdit", "fine-tuning")}
    figure = drawn(edits_figure({"errors corrected": methods, "facts inserted": methods}))
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert heights == [value.value for values in methods.values() for value in values.values()]
    with pytest.raises(DataError, match="'b' has no 'efficacy' in 'x'"):
        edits_figure({"x": {"a": {"efficacy": near(1)}, "b": {}}})
    with pytest.raises(DataError, match="nothing to draw"):
        edits_figure({})


def test_curves() -> None:
    points = [Strength(f"{n}", near(0.1 * n), Estimate(n - 1, n - 2, n)) for n in range(1, 5)]
    figure = drawn(curves_figure({"MultEdit": points, "fine-tuning": points[:2]}, "efficacy", aim=(2, 0.9)))
    assert [text.get_text() for text in figure.axes[0].texts] == ["1", "2", "3", "4", "1", "2"]
    drawn(curves_figure({"MultEdit": points[:1]}, "generalisation"))
