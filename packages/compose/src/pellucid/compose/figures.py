"""The chapter's figures, 9.1, 9.2 and 9.4 to 9.9, from results."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pellucid.core.errors import DataError
from pellucid.core.figures import COLOURS, figure_style, new_figure
from pellucid.core.scorers import Pictures
from pellucid.core.statistics import Estimate

from .cross_attention_maps import WordMaps
from .text_contributions import ContributionMap, Unintended

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class TradeOff:
    """A SWITCH-OFF point (fig. 9.7).

    Attributes:
        tau: as a share of the noise schedule; 1 is the model as it is.
        vqa: mean score of binding.
        fid: distance from the reference pictures.
    """

    tau: float
    vqa: Estimate
    fid: float


def matching_figure(scores: Mapping[str, Estimate], seconds: Mapping[str, float] | None = None) -> "Figure":
    """Matching scores by model, the diffusion score among them, and what each costs (fig. 9.1).

    Args:
        scores: model -> share of records matched right.
        seconds: model -> seconds for one picture and caption; those that are not named have none drawn.
    """
    figure, axes = new_figure(width=max(4.5, 1.6 + 0.9 * len(scores)))
    with figure_style():
        _bars(axes, {"": scores})
        axes.set_ylabel("share matched right")
        for place, name in enumerate(scores):
            if seconds and name in seconds:
                top = scores[name].high
                axes.annotate(f"{seconds[name]:.2g} s", (place, top), xytext=(0, 3), textcoords="offset points",
                              ha="center", fontsize=8)  # fmt: skip
    return figure


def zero_shot_figure(models: Mapping[str, Mapping[str, Estimate]]) -> "Figure":
    """Zero-shot accuracy by data set, before and after fine-tuning (fig. 9.2).

    Args:
        models: model, such as "CLIP" and "SDS-CLIP" -> data set -> accuracy.
    """
    return _grouped(models, "zero-shot accuracy")


def contributions_figure(maps: Mapping[str, ContributionMap], layer: int = -1) -> "Figure":
    """What tokens j (columns) contribute to tokens i (rows) in one layer of each encoder (fig. 9.4).

    Each panel is scaled by its own largest contribution between words: what the start and the end of the text
    contribute is mostly larger, and drawn as the largest.

    Args:
        maps: encoder's name -> its map of one prompt.
        layer: which; -1 is the last.
    """
    _check(maps, "maps")
    figure, axes = new_figure(1, len(maps), width=4.6 * len(maps), height=4.2)
    with figure_style():
        for place, (name, found) in zip(np.atleast_1d(axes), maps.items(), strict=True):
            values = found.values[layer]
            inner = values[1:-1, 1:-1] if len(values) > 3 else values
            shown = place.imshow(values, vmin=0, vmax=float(inner.max()) or 1.0)
            words = [token.replace("</w>", "").replace("▁", "").replace("Ġ", "") for token in found.tokens]
            place.set_xticks(range(len(words)), words, rotation=90, fontsize=8)
            place.set_yticks(range(len(words)), words, fontsize=8)
            place.set_title(name)
            place.spines[:].set_visible(False)
            figure.colorbar(shown, ax=place, shrink=0.7, label="contribution")
    return figure


def unintended_figure(found: Sequence[Unintended], seed: int = 0) -> "Figure":
    """How many layers attend to unintended attributes, by encoder: prompts by share of layers, and means (fig. 9.5)."""
    _check(found, "encoders")
    figure, (left, right) = new_figure(1, 2, width=8.5, height=3.6)
    with figure_style():
        bins = np.linspace(0, 1, 11)
        for place, one in enumerate(found):
            shares = one.layers / one.contributions.shape[1]
            weights = np.full(len(shares), 1 / len(shares))
            left.hist(shares, bins=bins, weights=weights, histtype="step", label=one.encoder, color=_colour(place))
        left.set_xlabel("share of layers with unintended attention")
        left.set_ylabel("share of prompts")
        left.legend(fontsize=8)
        rules = {"as in the thesis": True, "of the second object": False}
        _bars(right, {rule: {one.encoder: one.share(both, seed) for one in found} for rule, both in rules.items()})
        right.set_ylabel("mean share of layers")
        right.legend(fontsize=8)
    return figure


def embeddings_figure(scores: Mapping[str, Mapping[str, Estimate]]) -> "Figure":
    """Binding with the encoder's text embedding c and with the optimised one c* (fig. 9.6).

    Args:
        scores: embedding, such as "c" and "c*" -> category -> mean score.
    """
    return _grouped(scores, "binding score")


def trade_off_figure(points: Sequence[TradeOff], score: str = "VQA score") -> "Figure":
    """Binding against the distance from clean pictures, over SWITCH-OFF points (fig. 9.7).

    Args:
        points: in any order.
        score: what binding is measured by.
    """
    _check(points, "points")
    ordered = sorted(points, key=lambda point: point.tau)
    figure, (left, right) = new_figure(1, 2, width=9.0, height=3.6)
    with figure_style():
        taus = [point.tau for point in ordered]
        values, errors = _values([point.vqa for point in ordered])
        left.errorbar(taus, values, yerr=errors, fmt="o-", color=_colour(0), ecolor="grey")
        left.set_xlabel("tau, as a share of the schedule")
        left.set_ylabel(score, color=_colour(0))
        other = left.twinx()
        other.plot(taus, [point.fid for point in ordered], "s--", color=_colour(1))
        other.set_ylabel("FID", color=_colour(1))
        right.plot([point.fid for point in ordered], values, "o-", color=_colour(2))
        for point in ordered:
            right.annotate(f"{point.tau:g}", (point.fid, point.vqa.value), xytext=(4, 4), textcoords="offset points",
                           fontsize=8)  # fmt: skip
        right.set_xlabel("FID")
        right.set_ylabel(score)
    return figure


def attention_maps_figure(found: Mapping[str, WordMaps], row: int = 0) -> "Figure":
    """A picture and where it attends to each word, a line for each model (fig. 9.8).

    Args:
        found: model, such as "base", "CLP" and "WiCLP" -> its maps of the same words.
        row: which of the pictures.
    """
    _check(found, "maps")
    words = next(iter(found.values())).words
    if any(maps.words != words for maps in found.values()):
        raise DataError(f"the maps are of different words than {', '.join(words)}: map the same words of each model")
    figure, axes = new_figure(len(found), 1 + len(words), width=1.5 * (1 + len(words)), height=1.6 * len(found) + 0.2)
    axes = np.asarray(axes).reshape(len(found), -1)
    with figure_style():
        for line, (name, maps) in zip(axes, found.items(), strict=True):
            _blank(line)
            line[0].imshow(maps.pictures[row], interpolation="nearest")
            line[0].set_ylabel(name)
            for place, (word, one) in enumerate(zip(words, maps.maps[row], strict=True), 1):
                line[place].imshow(one)
                line[place].set_title(word, fontsize=9)
    return figure


def pictures_figure(models: Mapping[str, Pictures], prompts: Sequence[str]) -> "Figure":
    """Pictures side by side: a line for each model, a column for each prompt (fig. 9.9).

    Args:
        models: model -> (prompts, h, w, 3) uint8.
        prompts: one a column.
    """
    _check(models, "pictures")
    figure, axes = new_figure(
        len(models), len(prompts), width=1.0 + 1.4 * len(prompts), height=0.6 + 1.45 * len(models)
    )
    axes = np.asarray(axes).reshape(len(models), len(prompts))
    with figure_style():
        for line, (name, pictures) in zip(axes, models.items(), strict=True):
            if len(pictures) != len(prompts):
                raise DataError(f"{name} has {len(pictures)} pictures for {len(prompts)} prompts: give one for each")
            _blank(line)
            line[0].set_ylabel(name, fontsize=9)
            for place, picture in zip(line, pictures, strict=True):
                place.imshow(picture, interpolation="nearest")
        for place, prompt in zip(axes[0], prompts, strict=True):
            place.set_title("\n".join(textwrap.wrap(prompt, 18)), fontsize=7)
    return figure


def _grouped(models: Mapping[str, Mapping[str, Estimate]], label: str) -> "Figure":
    _check(models, "models")
    sets = list(dict.fromkeys(name for scores in models.values() for name in scores))
    figure, axes = new_figure(width=max(4.5, 1.6 + 0.5 * (1 + len(models)) * len(sets)))
    with figure_style():
        _bars(axes, models)
        axes.set_ylabel(label)
        axes.legend(fontsize=8)
    return figure


def _bars(axes: Any, groups: Mapping[str, Mapping[str, Estimate]]) -> None:
    """Bars with intervals: one colour a group, one place a name."""
    names = list(dict.fromkeys(name for scores in groups.values() for name in scores))
    _check(names, "scores")
    width = 0.8 / len(groups)
    for number, (group, scores) in enumerate(groups.items()):
        places = [names.index(name) + (number - (len(groups) - 1) / 2) * width for name in scores]
        values, errors = _values(list(scores.values()))
        axes.bar(places, values, width, yerr=errors, color=_colour(number), ecolor="grey", label=group)
    axes.set_xticks(range(len(names)), ["\n".join(textwrap.wrap(name, 12)) for name in names], fontsize=8)


def _values(estimates: Sequence[Estimate]) -> tuple[np.ndarray, np.ndarray]:
    values = np.array([one.value for one in estimates])
    errors = np.stack([values - [one.low for one in estimates], [one.high for one in estimates] - values])
    return values, errors.clip(min=0)


def _blank(axes: Any) -> None:
    for place in axes:
        place.set(xticks=[], yticks=[])
        place.spines[:].set_visible(False)


def _colour(place: int) -> str:
    return COLOURS[place % len(COLOURS)]


def _check(values: Any, what: str) -> None:
    if not len(values):
        raise DataError(f"there are no {what} to draw: give at least one")
