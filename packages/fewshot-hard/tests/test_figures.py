import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from pellucid.core.errors import OptionError
from pellucid.core.figures import figure_style
from pellucid.core.statistics import Estimate
from pellucid.fewshot_hard.explain import composition
from pellucid.fewshot_hard.figures import accuracy_against_time, accuracy_bars, composition_bars
from pellucid.fewshot_hard.pools import Pool
from pellucid.fewshot_hard.samplers import sample_tasks
from pellucid.fewshot_hard.sheets import WRONG, contact_sheet
from sklearn.datasets import load_digits


@pytest.fixture(scope="module")
def pool():
    images, labels = load_digits(return_X_y=True)
    marks = {"thick_strokes": images.mean(axis=1) > 5.2, "dim": images.max(axis=1) < 16}
    return Pool(
        (images / 16).astype(np.float32),
        labels.astype(np.int64),
        tuple(f"digit {i}" for i in range(10)),
        [str(i) for i in range(len(labels))],
        marks,
    )


def drawn(figure):
    """Render the figure, and return the boxes of its texts in pixels."""
    canvas = FigureCanvasAgg(figure.figure)
    with figure_style():
        canvas.draw()
    renderer = canvas.get_renderer()
    texts = [text for legend in figure.figure.legends for text in legend.get_texts()]
    for axes in figure.figure.axes:
        texts += [each for each in axes.get_children() if isinstance(each, Text)]
        texts += [axes.xaxis.label, axes.yaxis.label]
        for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, sorted(axes.get_ylim()))):
            ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            texts += [tick.label1 for tick in ticks if tick.label1.get_visible()]
    return [(text.get_text(), text.get_window_extent(renderer)) for text in texts if text.get_text().strip()]


def assert_legible(figure):
    boxes = drawn(figure)
    width, height = figure.figure.canvas.get_width_height()
    for index, (text, box) in enumerate(boxes):
        assert box.x0 > -1, text
        assert box.y0 > -1, text
        assert box.x1 < width + 1, text
        assert box.y1 < height + 1, text
        for other, place in boxes[index + 1 :]:
            across = min(box.x1, place.x1) - max(box.x0, place.x0)
            down = min(box.y1, place.y1) - max(box.y0, place.y0)
            assert across <= 1 or down <= 1, f"{text!r} lies over {other!r}"


def estimates(value):
    return Estimate(value, value - 0.03, value + 0.02)


def test_accuracy_bars_show_every_kind_with_its_interval():
    found = {
        "digits": {"default": estimates(0.9), "hard": estimates(0.5), "easy": estimates(0.97)},
        "animal-mnist": {"default": estimates(0.7), "hard": estimates(0.3)},
    }
    figure = accuracy_bars(found, chance=0.2)
    assert_legible(figure)
    axes = figure.figure.axes[0]
    widths = sorted(round(bar.get_width(), 6) for bar in axes.patches)
    assert widths == [30, 50, 70, 90, 97]
    for said in ("digits: default 90.0 %, hard 50.0 %, easy 97.0 %", "animal-mnist: default 70.0 %, hard 30.0 %"):
        assert said in figure.alt


def test_accuracy_against_time_is_logarithmic_and_names_every_selector():
    figure = accuracy_against_time({"one step": (estimates(0.5), 1e-3), "greedy": (estimates(0.55), 0.3)})
    assert_legible(figure)
    assert figure.figure.axes[0].get_xscale() == "log"
    assert "one step: 50.0 % in 1 ms" in figure.alt
    assert "greedy: 55.0 % in 300 ms" in figure.alt


def test_composition_bars_give_the_gaps(pool):
    found = {
        "hard": composition(pool, sample_tasks(pool, 20, seed=1)),
        "easy": composition(pool, sample_tasks(pool, 20, seed=2)),
    }
    figure = composition_bars(found)
    assert_legible(figure)
    left, right = figure.figure.axes
    assert len(left.patches) == 6
    assert [bar.get_width() for bar in right.patches[:2]] == pytest.approx((100 * found["hard"].size.value).tolist())
    assert f"hard gap {100 * found['hard'].size.value[0]:.1f} points" in figure.alt


@pytest.mark.parametrize(("way", "shot"), [(5, 5), (3, 1), (10, 7)])
def test_a_contact_sheet_frames_the_mistakes(pool, way, shot):
    task = sample_tasks(pool, 1, way=way, shot=shot, query=6, seed=4)[0]
    right = np.repeat(np.arange(way), 6)
    predicted = right.copy()
    predicted[[1, 7, 8]] = (predicted[[1, 7, 8]] + 1) % way
    figure = contact_sheet(task, lambda row: (pool.embeddings[row].reshape(8, 8) * 255).astype(np.uint8),
                           pool.classes, predicted)  # fmt: skip
    assert_legible(figure)
    framed = [axes for axes in figure.figure.axes if axes.get_frame_on()]
    assert len(framed) == 3
    assert framed[0].get_xlabel() == pool.classes[task.classes[1]]
    assert framed[0].xaxis.label.get_color() == WRONG
    shown = [axes.images[0].get_array() for axes in framed]
    np.testing.assert_array_equal(shown[0], (pool.embeddings[task.query[0][1]].reshape(8, 8) * 255).astype(np.uint8))
    assert f"3 of {6 * way} query images are classified wrongly" in figure.alt
    assert figure.name == "sheet-default"


def test_where_not_all_fit_the_mistakes_come_first(pool):
    task = sample_tasks(pool, 1, way=3, shot=1, query=12, seed=4)[0]
    predicted = np.repeat(np.arange(3), 12)
    predicted[11] = 2
    colour = np.zeros((5, 4, 3), np.uint8)
    figure = contact_sheet(task, lambda row: colour, pool.classes, predicted, query=4)
    assert sum(axes.get_frame_on() for axes in figure.figure.axes) == 1


def test_predictions_must_pair_up(pool):
    task = sample_tasks(pool, 1)[0]
    with pytest.raises(OptionError, match="there are 3 predictions for 75 query images"):
        contact_sheet(task, lambda row: np.zeros((2, 2), np.uint8), pool.classes, np.zeros(3, np.int64))
