"""Runs the chapters and binds them into one report."""

import importlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from pellucid.core.errors import OptionError
from pellucid.core.report import Report
from pellucid.core.sweeps import session

from .chapter import Chapter, Setting

_SMALL = "The models are small, so that all of this runs on two processor cores; larger ones differ."
_FEW = (
    "All of this was computed while you waited, on samples that fit into minutes, but for the trained weights of the "
    "models, which come with the zoo (`pellucid zoo train`). `pellucid tour --full` takes the samples behind the "
    "packages' READMEs."
)

CHAPTERS = ("circuits", "influence", "fewshot", "pictures", "facts", "vision", "composition")


def run_tour(
    out: str | Path,
    only: Sequence[str] = CHAPTERS,
    seed: int = 0,
    workers: int = 2,
    full: bool = False,
    tell: Callable[[str], object] = lambda line: None,
) -> Report:
    """Run the tour and write its report.

    Args:
        out: folder for the report; each chapter keeps its ledgers in a folder of its own below it.
        only: which chapters, by name.
        seed: of every random choice.
        workers: Ray workers; 0 runs in this process.
        full: take samples as large as those behind the packages' READMEs; that takes an hour and more.
        tell: is told which chapter begins.

    Raises:
        OptionError: there is no chapter of that name.
    """
    unknown = [name for name in only if name not in CHAPTERS]
    if unknown:
        raise OptionError(f"the tour has no chapter {unknown[0]!r}: choose from {', '.join(CHAPTERS)}")
    started = time.monotonic()
    chapters: dict[str, Chapter] = {}
    with session():
        for number, name in enumerate(only, 1):
            tell(f"chapter {number} of {len(only)}: {name} ({time.monotonic() - started:.0f} s so far)")
            module = importlib.import_module(f".chapters.{name}", __package__)
            chapters[name] = module.run(Setting(Path(out) / f"ledger-{name}{'-full' * full}", seed, workers, full))
    report = Report(
        title="A tour of Pellucid",
        command="tour",
        config={"chapters": list(only), "workers": workers, "full": full},
        seed=seed,
        device="cpu",
        sections=[replace(chapter.section.prefixed(name), lead=chapter.finding) for name, chapter in chapters.items()],
        results={name: chapter.results for name, chapter in chapters.items()},
        summary="\n".join(chapter.finding for chapter in chapters.values()),
        notes=[_SMALL] if full else [_SMALL, _FEW],
    )
    report.write(Path(out), time.monotonic() - started)
    return report
