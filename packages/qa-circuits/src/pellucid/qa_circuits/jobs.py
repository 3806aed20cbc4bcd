"""The two sweeps of this package: which probes a model answers from the context, and how it scores under patches.

A cell is a probe, so that adding probes to a file recomputes nothing that is already in the ledger.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pellucid.core.loading import Loaded, ModelSpec, load
from pellucid.core.sweeps import Context, Sweep

from .components import Component, ComponentSet, Kind, all_components
from .effects import Definition, patched_scores
from .hierarchy import hierarchy_scores, upstream
from .probes import Probe
from .prompts import Style, encode, keeps_to_context

BATCH = 8  # probes in one forward pass; a sweep's batches are also what a worker writes at once


@dataclass(frozen=True)
class AnswerJob:
    """What every cell of an answering sweep shares."""

    model: ModelSpec
    style: Style


@dataclass(frozen=True)
class AnswerRow:
    """Whether the model's reply is the probe's answer, and the reply."""

    kept: bool
    reply: str


@dataclass(frozen=True)
class ScoreJob:
    """What every cell of a scoring sweep shares: `sets` None stands for all single components of `kinds`."""

    model: ModelSpec
    style: Style
    definition: Definition
    kinds: tuple[Kind, ...]
    sets: tuple[ComponentSet, ...] | None = None

    def components(self, layers: int, heads: int) -> list[Component]:
        """The single components that can have an effect, of a model of that size."""
        return all_components(layers, heads, self.kinds)


@dataclass(frozen=True)
class HierarchyJob(ScoreJob):
    """A scoring sweep of hierarchy k: `receivers` are the nodes of hierarchies 0 to k - 1."""

    receivers: tuple[ComponentSet, ...] = ()

    def components(self, layers: int, heads: int) -> list[Component]:
        """Those upstream of a receiver."""
        return [c for c in super().components(layers, heads) if upstream(c, self.receivers)]


@dataclass(frozen=True)
class ScoreRow:
    """One probe's scores, and the model's size, so that the driver need not load it."""

    floor: float
    corrupted: float
    layers: int
    heads: int
    scores: list[float]


def _load(shared: Any) -> Loaded:
    return load(shared.model)


def _answer(cells: Sequence[Probe], context: Context) -> list[AnswerRow]:
    loaded = context.state
    kept = keeps_to_context(loaded.model, loaded.tokenizer, cells, batch=len(cells), style=context.shared.style)
    return [AnswerRow(*pair) for pair in kept]


def _score(cells: Sequence[Probe], context: Context) -> list[ScoreRow]:
    job, loaded = context.shared, context.state
    config = loaded.model.config
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    sets = job.sets if job.sets is not None else [(c,) for c in job.components(layers, heads)]
    encoded = encode(loaded.tokenizer, cells, job.style)
    if isinstance(job, HierarchyJob):
        got = hierarchy_scores(loaded.model, encoded, sets, job.receivers)
    else:
        got = patched_scores(loaded.model, encoded, sets, job.definition)
    return [
        ScoreRow(float(floor), float(corrupted), layers, heads, scores.tolist())
        for floor, corrupted, scores in zip(got.floor, got.corrupted, got.scores, strict=True)
    ]


def answer_sweep(model: ModelSpec, probes: Sequence[Probe], style: Style, **options: Any) -> Sweep:
    """A sweep that asks the model every probe's question over its modified context (rows: AnswerRow)."""
    return Sweep(
        _answer, _by_length(probes), version="1", row=AnswerRow, shared=AnswerJob(model, style), setup=_load,
        batch=BATCH, **options,
    )  # fmt: skip


def score_sweep(job: ScoreJob, probes: Sequence[Probe], **options: Any) -> Sweep:
    """A sweep that scores the job's sets on every probe (rows: ScoreRow)."""
    return Sweep(
        _score, _by_length(probes), version="1", row=ScoreRow, shared=job, setup=_load, batch=BATCH, **options
    )  # fmt: skip


def _by_length(probes: Sequence[Probe]) -> list[Probe]:
    """Probes of like length share a batch, so that little of a forward pass is padding."""
    return sorted(probes, key=lambda p: (len(p.modified_context) + len(p.corrupted_context), p.subject, p.question))
