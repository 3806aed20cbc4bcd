"""Runs the chapters and binds them into one report."""

import importlib
import time
from collections.abc import Sequence
from pathlib import Path

from pellucid.core.errors import OptionError
from pellucid.core.report import Report
from pellucid.core.sweeps import session

from .chapter import Chapter, Setting

CHAPTERS = ("circuits", "influence", "fewshot", "pictures")


def run_tour(out: str | Path, only: Sequence[str] = CHAPTERS, seed: int = 0, workers: int = 2) -> Report:
    """Run the tour and write its report.

    Args:
        out: folder for the report; each chapter keeps its ledgers in a folder of its own below it.
        only: which chapters, by name.
        seed: of every random choice.
        workers: Ray workers; 0 runs in this process.

    Raises:
        OptionError: there is no chapter of that name.
    """
    unknown = [name for name in only if name not in CHAPTERS]
    if unknown:
        raise OptionError(f"the tour has no chapter {unknown[0]!r}: choose from {', '.join(CHAPTERS)}")
    started = time.monotonic()
    chapters: dict[str, Chapter] = {}
    with session():
        for name in only:
            module = importlib.import_module(f".chapters.{name}", __package__)
            chapters[name] = module.run(Setting(Path(out) / f"ledger-{name}", seed, workers))
    report = Report(
        title="A tour of Pellucid",
        command="tour",
        config={"chapters": list(only), "workers": workers},
        seed=seed,
        device="cpu",
        sections=[chapter.section.prefixed(name) for name, chapter in chapters.items()],
        results={name: chapter.results for name, chapter in chapters.items()},
        summary=" ".join(chapter.finding for chapter in chapters.values()),
        notes=["The models are small, so that all of this runs on two processor cores; larger ones differ."],
    )
    report.write(Path(out), time.monotonic() - started)
    return report
