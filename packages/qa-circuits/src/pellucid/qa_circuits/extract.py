"""From probes to a circuit: rank components on one half of the probes, report on the other (thesis 8.3.2)."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from pellucid.core.errors import DataError, OptionError, SweepError
from pellucid.core.loading import ModelSpec
from pellucid.core.statistics import Estimate, Estimates, bootstrap_mean, bootstrap_means
from pellucid.core.sweeps import Sweep, session

from .circuit import check_delta, prefixes, random_sets, rank, sizes_to_show, smallest_reaching
from .components import KINDS, Component, ComponentSet, Kind, check_kinds
from .effects import Definition
from .hierarchy import check_receivers
from .jobs import HierarchyJob, ScoreJob, answer_sweep, score_sweep
from .probes import Probe
from .prompts import Style

FEWEST_PROBES = 4
DRAWS = 10  # random circuits that stand beside each size


@dataclass(frozen=True)
class Circuit:
    """One kind's circuit and its random control, scored on held-out probes.

    Attributes:
        kind: heads, attention layers or MLPs.
        components: the circuit, most important first.
        score: mean `1 - P(answer)` with all of them patched together, on held-out probes.
        reached: whether the mean score reached delta on the probes that ranked them.
        random_components: the first random circuit of equal size; `random_score`: the mean over all draws.
        sizes, curve, random_curve: held-out scores of the top-ranked and of random components by number.
    """

    kind: Kind
    components: ComponentSet
    score: Estimate
    reached: bool
    random_components: ComponentSet
    random_score: Estimate
    sizes: list[int]
    curve: Estimates
    random_curve: Estimates


@dataclass(frozen=True)
class Extraction:
    """Everything `extract_circuit` found; all scores are means over the held-out probes.

    Attributes:
        receivers: nodes of the hierarchies before; empty for hierarchy 0, the circuit next to the logits.
        components: what the entries of `effects` stand for; of higher hierarchies those upstream of a receiver.
        effects: score of each component patched alone.
        circuits: one a kind.
        floor: mean `1 - P(answer)` with nothing patched; `corrupted`: of the corrupted run.
        offered, kept: probes given, and those that the model really answers, from the context or from memory.
        ranked_on, held_out: how the kept ones were split, by subject.
        peak_memory: bytes, the largest process of the sweeps.
        notes: what a reader should know besides, such as cells that failed.
    """

    model: ModelSpec
    delta: float
    definition: Definition
    layers: int
    heads: int
    components: list[Component]
    effects: Estimates
    circuits: list[Circuit]
    floor: Estimate
    corrupted: Estimate
    offered: int
    kept: int
    ranked_on: int
    held_out: int
    peak_memory: int
    notes: list[str] = field(default_factory=list)
    receivers: tuple[ComponentSet, ...] = ()

    def results(self) -> dict[str, Any]:
        """What `result.json` holds under `results`."""

        def named(c: Component) -> dict[str, int | None]:
            return {"layer": c.layer, "index": c.index}

        def circuit(kind: Kind, members: ComponentSet, score: Estimate, reached: bool) -> dict[str, Any]:
            scores = {"score": score.value, "low": score.low, "high": score.high}
            return {"kind": kind, "components": [named(c) for c in members], **scores, "reached": reached}

        return {
            "effects": [
                {"kind": c.kind, **named(c), "score": value, "low": low, "high": high}
                for c, value, low, high in zip(
                    self.components, self.effects.value, self.effects.low, self.effects.high, strict=True
                )
            ],
            "circuit": [circuit(c.kind, c.components, c.score, c.reached) for c in self.circuits],
            "random": [
                circuit(c.kind, c.random_components, c.random_score, c.random_score.value >= self.delta)
                for c in self.circuits
            ],
            "floor": self.floor.value,
            "floor_interval": [self.floor.low, self.floor.high],
            "corrupted": self.corrupted.value,
            "corrupted_interval": [self.corrupted.low, self.corrupted.high],
            "probes": {
                "kept": self.kept, "offered": self.offered, "ranked_on": self.ranked_on, "held_out": self.held_out,
            },
            "peak_memory_bytes": self.peak_memory,
            "notes": self.notes,
            "receivers": [[{"kind": c.kind, **named(c)} for c in nodes] for nodes in self.receivers],
        }  # fmt: skip


def extract_circuit(
    model: ModelSpec | str,
    probes: Sequence[Probe],
    out: str | Path,
    *,
    delta: float = 0.95,
    kinds: Sequence[Kind] = KINDS,
    definition: Definition = "direct",
    receivers: Sequence[ComponentSet] = (),
    style: Style = "plain",
    seed: int = 0,
    workers: int = 0,
    cpus: int = 1,
    gpus: float = 0,
    address: str | None = None,
    retry_failed: bool = False,
) -> Extraction:
    """Find the components by which a model answers these probes, from their contexts or from memory.

    Without `receivers` that is hierarchy 0: what writes the answer into the logits. With the nodes of hierarchies 0 to
    k - 1 it is hierarchy k: what feeds the nodes of the last of these, see `hierarchy.hierarchy_scores`. Patching all
    that feeds them can change no more than what they themselves write, so that delta may lie out of reach.

    Args:
        model: what to load, see `ModelSpec`; each worker loads it once.
        probes: of D_copy or of D_memory; those that the model does not answer are left out and counted.
        out: folder under which the sweeps keep their ledgers; a second call computes only what is missing.
        delta: mean score that the circuit should reach, in (0, 1].
        kinds: which components to rank, each kind on its own.
        definition: see `effects.patched_scores`; with receivers it must be "direct".
        receivers: nodes of the hierarchies before, that next to the logits first.
        style: how prompts are rendered, see `prompts.render`.
        seed: of the split, the random circuits and the intervals.
        workers: Ray workers; 0 runs inline without Ray.
        cpus: processors of each worker; torch runs on as many threads, also inline.
        gpus: GPUs of each worker.
        address: a Ray cluster to connect to; None starts one here.
        retry_failed: run again the cells that failed before.

    Raises:
        DataError: no probes, or too few that the model answers.
        OptionError: delta outside (0, 1], an unknown kind or definition, a hierarchy without nodes, or nothing of
            these kinds that writes into the receivers.
    """
    check_delta(delta)
    kinds = check_kinds(kinds)
    nodes = tuple(tuple(level) for level in receivers)
    if nodes:
        check_receivers(nodes)
        if definition != "direct":
            raise OptionError(f"the definition {definition!r} is of hierarchy 0 only: leave out the receivers")
    if not probes:
        raise DataError("there are no probes: make some with `pellucid circuits probes`")
    probes = list(dict.fromkeys(probes))
    spec = (ModelSpec(model) if isinstance(model, str) else model).resolved()
    run = _Runner(Path(out) / "ledger", workers, address, retry_failed)
    resources = {"cpus": cpus, "gpus": gpus}

    job = ScoreJob(spec, style, definition, kinds)
    if nodes:
        job = HierarchyJob(spec, style, definition, kinds, receivers=nodes)
    with session():
        return _extract(run, spec, probes, job, delta, seed, resources)


def _extract(
    run: "_Runner",
    spec: ModelSpec,
    probes: Sequence[Probe],
    job: ScoreJob,
    delta: float,
    seed: int,
    resources: dict[str, Any],
) -> Extraction:
    answers = run(answer_sweep(spec, probes, job.style, **resources), "answers")
    kept = [p for p in probes if p in answers and answers[p].kept]
    ranking, held_out = split_by_subject(kept, seed)
    if min(len(ranking), len(held_out)) < FEWEST_PROBES // 2:
        raise DataError(
            f"the model answers {len(kept)} of {len(probes)} probes, over too few subjects to rank on one half and "
            f"report on the other: give more probes (at least {FEWEST_PROBES} kept ones)"
        )

    singles = run(score_sweep(job, kept, **resources), "effects")
    first = next(iter(singles.values()))
    components = job.components(first.layers, first.heads)
    kinds = tuple(kind for kind in job.kinds if any(c.kind == kind for c in components))
    if not kinds:
        raise OptionError(f"no {' or '.join(job.kinds)} writes into the receivers: name receivers in later layers")
    scores = np.array([singles[p].scores for p in ranking if p in singles])
    rankings = [rank(components, scores, kind) for kind in kinds]

    ladder = [members for order in rankings for members in prefixes(order)]
    climbed = run(score_sweep(_with_sets(job, ladder), ranking, **resources), "ranking")
    means = np.array([row.scores for row in climbed.values()]).mean(0)
    ends = np.cumsum([len(order) for order in rankings])
    picks = [smallest_reaching(curve, delta) for curve in np.split(means, ends[:-1])]

    plans = [_Plan.of(order, pick.size, seed) for order, pick in zip(rankings, picks, strict=True)]
    final = run(
        score_sweep(_with_sets(job, [s for plan in plans for s in plan.sets]), held_out, **resources), "held_out"
    )
    table = np.array([final[p].scores for p in held_out if p in final])
    circuits, start = [], 0
    for kind, plan, pick in zip(kinds, plans, picks, strict=True):
        circuits.append(plan.read(kind, table[:, start : start + len(plan.sets)], pick.reached, seed))
        start += len(plan.sets)

    rows = [singles[p] for p in held_out if p in singles]
    return Extraction(
        model=spec,
        delta=delta,
        definition=job.definition,
        layers=first.layers,
        heads=first.heads,
        components=components,
        effects=bootstrap_means(np.array([row.scores for row in rows]), seed),
        circuits=circuits,
        floor=bootstrap_mean([row.floor for row in rows], seed),
        corrupted=bootstrap_mean([row.corrupted for row in rows], seed),
        offered=len(probes),
        kept=len(kept),
        ranked_on=len(ranking),
        held_out=len(held_out),
        peak_memory=run.peak_memory,
        notes=run.notes + _notes(spec),
        receivers=job.receivers if isinstance(job, HierarchyJob) else (),
    )


def split_by_subject(probes: Sequence[Probe], seed: int) -> tuple[list[Probe], list[Probe]]:
    """Two halves that share no subject: one to rank components on, one to report on."""
    subjects = sorted({p.subject for p in probes})
    order = np.random.default_rng(seed).permutation(len(subjects))
    first: list[Probe] = []
    second: list[Probe] = []
    for i in order:
        smaller = first if len(first) <= len(second) else second
        smaller += [p for p in probes if p.subject == subjects[i]]
    return first, second


class _Runner:
    """Runs sweeps one after another on the same resources, and remembers what went wrong and the peak memory."""

    def __init__(self, ledger: Path, workers: int, address: str | None, retry_failed: bool) -> None:
        self.ledger, self.notes, self.peak_memory = ledger, list[str](), 0
        self.options: dict[str, Any] = {"workers": workers, "address": address, "retry_failed": retry_failed}

    def __call__(self, sweep: Sweep, name: str) -> dict[Probe, Any]:
        """Run one sweep and return its rows by probe; probes whose cell failed are left out and noted."""
        ledger = str(self.ledger / name)
        summary = sweep.run(ledger, **self.options)
        self.peak_memory = max(self.peak_memory, summary.peak_memory)
        rows = dict(sweep.pairs(ledger))
        if summary.damaged:
            self.notes.append(f"{name}: damaged segments were computed again: {', '.join(summary.damaged)}")
        failures = sweep.failures(ledger)
        if failures:
            last = failures[0][1].strip().splitlines()[-1]
            if not rows:
                raise SweepError(f"every cell of the sweep {name!r} failed, the first with: {last}")
            self.notes.append(f"{name}: {len(failures)} probes failed and are left out, the first with: {last}")
        return rows


@dataclass(frozen=True)
class _Plan:
    """The sets to score on held-out probes for one kind: top-ranked ones by size, then random ones by size."""

    ranking: list[Component]
    size: int
    sizes: list[int]
    random: list[ComponentSet]

    @classmethod
    def of(cls, ranking: list[Component], size: int, seed: int) -> "_Plan":
        sizes = sizes_to_show(len(ranking), size)
        seeds = [seed, KINDS.index(ranking[0].kind)]  # else kinds of equal number would share their draws
        return cls(ranking, size, sizes, random_sets(sorted(ranking), sizes, DRAWS, seeds))

    @property
    def sets(self) -> list[ComponentSet]:
        return [tuple(self.ranking[:size]) for size in self.sizes] + self.random

    def read(self, kind: Kind, scores: np.ndarray, reached: bool, seed: int) -> Circuit:
        """Make the kind's circuit of `scores`, `(probes, sets)`."""
        curve = bootstrap_means(scores[:, : len(self.sizes)], seed)
        drawn = scores[:, len(self.sizes) :].reshape(len(scores), len(self.sizes), DRAWS)
        random_curve = bootstrap_means(drawn.mean(-1), seed)
        at = self.sizes.index(self.size)
        return Circuit(
            kind=kind,
            components=tuple(self.ranking[: self.size]),
            score=_at(curve, at),
            reached=reached,
            random_components=self.random[at * DRAWS],
            random_score=_at(random_curve, at),
            sizes=self.sizes,
            curve=curve,
            random_curve=random_curve,
        )


def _at(estimates: Estimates, index: int) -> Estimate:
    return Estimate(*(float(values[index]) for values in (estimates.value, estimates.low, estimates.high)))


def _with_sets(job: ScoreJob, sets: Sequence[ComponentSet]) -> ScoreJob:
    return replace(job, sets=tuple(sets))


def _notes(spec: ModelSpec) -> list[str]:
    return [f"the model's linear layers are quantised to {spec.quantize}"] if spec.quantize else []
