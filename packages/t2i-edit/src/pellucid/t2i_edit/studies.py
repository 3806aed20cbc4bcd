"""Tracing and locating over many prompts and seeds: the sweeps' rows brought together."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pellucid.core.errors import DataError
from pellucid.core.statistics import Estimate, bootstrap_difference, bootstrap_mean
from pellucid.core.sweeps import Sweep

from .concepts import ConceptPrompts
from .jobs import LocateJob, LocateRow, TraceJob, locate_sweep, trace_sweep
from .locogen import Location, Search, Window, locate_each, locogen
from .probes import Probe


@dataclass(frozen=True)
class LayerEffect:
    """What restoring one layer (or window, or text state) does, over all probes and seeds.

    Attributes:
        label: of the layer.
        score: mean score of the restored pictures against their captions, in the scorer's unit.
        effect: average indirect effect, the restored score minus the corrupted one (thesis 5.2.5), with a bootstrap
            interval over probes.
    """

    label: str
    score: Estimate
    effect: Estimate


@dataclass(frozen=True)
class Tracing:
    """The outcome of tracing one attribute.

    Attributes:
        clean: mean score of the clean pictures.
        corrupted: mean score of the corrupted ones.
        layers: in the order of execution.
        probes: how many.
        failed: cells that ended in an error and are left out.
    """

    clean: Estimate
    corrupted: Estimate
    layers: tuple[LayerEffect, ...]
    probes: int
    failed: int


@dataclass(frozen=True)
class Located:
    """The outcome of locating one concept or attribute.

    Attributes:
        search: sizes tried, scores, and the window found on the selecting half.
        original: mean score of the pictures of the prompts, on the reporting half.
        replaced: mean score of the pictures of the targets, on the reporting half: what altering everything gives.
        found: mean score with the window found altered, on the reporting half.
        random: mean over all other windows of the same size, on the same half.
        gain: how far the window found goes beyond the others, over pairs of one prompt.
        prompts: how many select, and how many report.
        each: every selecting prompt's own location among the windows tried (5.8.2: DeepFloyd's differ from prompt to
            prompt); empty where a cell failed.
    """

    search: Search
    original: Estimate
    replaced: Estimate
    found: Estimate
    random: Estimate
    gain: Estimate
    prompts: tuple[int, int]
    each: dict[str, Location]


def trace(
    job: TraceJob, probes: Sequence[Probe], seeds: Sequence[int], out: Path, *, seed: int = 0, **running: Any
) -> Tracing:
    """Trace probes with seeds as a sweep, whose finished cells stay in `out / "ledger"`.

    Args:
        job: what to do with each.
        probes: of one attribute.
        seeds: of the noise; all are used for each probe, and averaged first.
        out: the folder.
        seed: of the bootstrap.
        running: of the sweep: `workers`, `address`, `retry_failed`, `cpus`, `gpus`.

    Raises:
        DataError: every cell failed; the message has the first cell's error.
    """
    pairs, failed = _run(trace_sweep(job, probes, seeds, **_sizes(running)), out, running)
    labels = pairs[0][1].labels
    if any(row.labels != labels for _, row in pairs):
        raise DataError("the probes were traced through different layers: trace them with one model, in a new folder")
    by_probe: dict[str, list[Any]] = {}
    for cell, row in pairs:
        by_probe.setdefault(cell.caption, []).append(row)
    clean, corrupted = (
        np.array([np.mean([getattr(row, name) for row in group]) for group in by_probe.values()])
        for name in ("clean", "corrupted")
    )
    restored = np.array([np.mean([row.restored for row in group], axis=0) for group in by_probe.values()])
    layers = tuple(
        LayerEffect(
            label,
            bootstrap_mean(restored[:, place], seed),
            bootstrap_difference(restored[:, place], corrupted, seed, paired=True),
        )
        for place, label in enumerate(labels)
    )
    return Tracing(bootstrap_mean(clean, seed), bootstrap_mean(corrupted, seed), layers, len(by_probe), failed)


def locate(
    job: LocateJob,
    concept: ConceptPrompts,
    seeds: Sequence[int],
    threshold: float,
    layers: int,
    out: Path,
    *,
    largest: int | None = None,
    seed: int = 0,
    **running: Any,
) -> Located:
    """Find the smallest window of cross-attention layers that controls a concept, and check it on other prompts.

    Every other prompt selects (algorithm 2 and the search for m); the rest reports. Finished cells stay in
    `out / "ledger"`.

    Args:
        job: what to do with each prompt.
        concept: four prompts or more.
        seeds: of the noise; all are used for each prompt, and averaged first.
        threshold: that the mean score of the selecting half has to meet.
        layers: number of cross-attention layers.
        out: the folder.
        largest: the largest m to try; None: all layers.
        seed: of the bootstrap.
        running: of the sweeps: `workers`, `address`, `retry_failed`, `cpus`, `gpus`.

    Raises:
        DataError: fewer than four prompts, or every cell failed.
    """
    if len(concept) < 4:
        raise DataError(
            f"{concept.concept!r} has {len(concept)} prompts: give four or more, half to select, half to report"
        )
    pairs = list(dict.fromkeys(zip(concept.prompts, concept.targets, strict=True)))
    select, report = pairs[::2], pairs[1::2]

    def scores(chosen: list[tuple[str, str]], size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        sweep = locate_sweep(job, chosen, seeds, size, **_sizes(running))
        by_prompt: dict[str, list[LocateRow]] = {}
        for cell, row in _run(sweep, out, running)[0]:
            by_prompt.setdefault(cell.prompt, []).append(row)
        groups = by_prompt.values()
        altered = np.array([np.mean([row.altered for row in group], axis=0) for group in groups]).T
        original, replaced = (
            np.array([np.mean([getattr(row, name) for row in group]) for group in groups])
            for name in ("original", "replaced")
        )
        return altered, original, replaced

    def selecting(windows: list[Window]) -> np.ndarray:
        return scores(select, windows[0].size)[0]

    search = locogen(selecting, layers, job.kind, threshold, largest=largest)
    window = search.located.window
    whole = all(found.shape[1] == len(select) for found in search.scores.values())
    own = locate_each(search.scores, job.kind, threshold) if whole else []
    altered, original, replaced = scores(report, window.size)
    found = altered[window.start]
    others = np.delete(altered, window.start, axis=0)
    random = others.mean(axis=0) if len(others) else found
    return Located(
        search,
        bootstrap_mean(original, seed),
        bootstrap_mean(replaced, seed),
        bootstrap_mean(found, seed),
        bootstrap_mean(random, seed),
        bootstrap_difference(found, random, seed, paired=True),
        (len(select), len(report)),
        {prompt: location for (prompt, _), location in zip(select, own, strict=False)},
    )


_OF_THE_SWEEP = ("cpus", "gpus", "memory")


def _sizes(running: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in running.items() if name in _OF_THE_SWEEP}


def _run(sweep: Sweep[Any, Any], out: Path, running: dict[str, Any]) -> tuple[list[tuple[Any, Any]], int]:
    """Run a sweep; its cells with their rows, and how many failed."""
    ledger = out / "ledger"
    summary = sweep.run(ledger, **{name: value for name, value in running.items() if name not in _OF_THE_SWEEP})
    pairs = sweep.pairs(ledger)
    if not pairs:
        _, error = sweep.failures(ledger)[0]
        raise DataError(f"every cell failed, the first with: {error.strip().splitlines()[-1]}")
    return pairs, summary.failed
