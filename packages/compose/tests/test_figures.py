import io

import numpy as np
import pytest
from pellucid.compose import figures
from pellucid.compose.cross_attention_maps import WordMaps
from pellucid.compose.text_contributions import ContributionMap, Unintended
from pellucid.core.errors import DataError
from pellucid.core.statistics import Estimate

SCORES = {"CLIP": Estimate(0.25, 0.2, 0.3), "diffusion score": Estimate(0.4, 0.35, 0.45)}
PICTURES = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)


def drawn(figure):
    """The figure after it was drawn, which raises or warns where its parts do not fit."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=40)
    assert content.getvalue()[:4] == b"\x89PNG"
    return figure


def heights(axes):
    return [bar.get_height() for bar in axes.patches]


def test_matching():
    (axes,) = drawn(figures.matching_figure(SCORES, {"CLIP": 0.01})).axes
    assert heights(axes) == [0.25, 0.4]
    assert [text.get_text() for text in axes.texts] == ["0.01 s"]


def test_groups_of_bars():
    models = {"CLIP": {"digits": SCORES["CLIP"]}, "SDS-CLIP": {"digits": SCORES["diffusion score"]}}
    for draw in (figures.zero_shot_figure, figures.embeddings_figure):
        (axes,) = drawn(draw(models)).axes
        assert heights(axes) == [0.25, 0.4]
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["CLIP", "SDS-CLIP"]


def test_contributions():
    values = np.arange(2 * 4 * 4, dtype=float).reshape(2, 4, 4)
    found = ContributionMap("a red", ("<s>", "a</w>", "▁red", "</s>"), values)
    axes = drawn(figures.contributions_figure({"CLIP": found, "T5": found})).axes
    assert [label.get_text() for label in axes[0].get_xticklabels()] == ["<s>", "a", "red", "</s>"]
    np.testing.assert_array_equal(axes[0].images[0].get_array(), values[-1])


def test_unintended():
    random = np.random.default_rng(0)
    found = [Unintended(name, name == "CLIP", ("x",) * 9, random.random((9, 6, 2, 2))) for name in ("CLIP", "T5")]
    left, right = drawn(figures.unintended_figure(found)).axes
    expected = [one.share(both).value for both in (True, False) for one in found]
    assert heights(right) == pytest.approx(expected)
    assert len(left.patches) == 2


def test_trade_off():
    points = [figures.TradeOff(tau, SCORES["CLIP"], fid) for tau, fid in ((1.0, 10.0), (0.0, 30.0), (0.8, 12.0))]
    axes = drawn(figures.trade_off_figure(points)).axes
    assert axes[1].lines[0].get_xdata().tolist() == [30.0, 12.0, 10.0]
    assert [text.get_text() for text in axes[1].texts] == ["0", "0.8", "1"]


def test_attention_maps():
    maps = np.random.default_rng(0).random((2, 3, 4, 4))
    found = WordMaps("a red dog", ("a", "red", "dog"), PICTURES, maps)
    axes = drawn(figures.attention_maps_figure({"base": found, "WiCLP": found}, row=1)).axes
    assert len(axes) == 8
    np.testing.assert_array_equal(axes[2].images[0].get_array(), maps[1, 1])
    other = WordMaps("a red dog", ("dog",), PICTURES, maps[:, :1])
    with pytest.raises(DataError, match="different words"):
        figures.attention_maps_figure({"base": found, "WiCLP": other})


def test_pictures():
    axes = drawn(figures.pictures_figure({"base": PICTURES, "WiCLP": PICTURES}, ["a red dog", "a blue car"])).axes
    np.testing.assert_array_equal(axes[1].images[0].get_array(), PICTURES[1])
    with pytest.raises(DataError, match="2 pictures for 1"):
        figures.pictures_figure({"base": PICTURES}, ["a red dog"])


def test_nothing_to_draw():
    for draw in (figures.zero_shot_figure, figures.trade_off_figure, figures.attention_maps_figure):
        with pytest.raises(DataError, match="there are no"):
            draw({})
