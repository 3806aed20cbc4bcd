"""What a chapter of the tour gets, and what it gives."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pellucid.core.report import Section


@dataclass(frozen=True)
class Setting:
    """What every chapter gets.

    Attributes:
        out: a folder of its own.
        seed: of every random choice.
        workers: Ray workers.
        full: whether samples are as large as those behind the packages' READMEs.
    """

    out: Path
    seed: int
    workers: int
    full: bool = False

    def of(self, sizes: tuple[int, int]) -> int:
        """Which of two sizes holds: the tour's own, or the one with `--full`."""
        return sizes[self.full]


@dataclass(frozen=True)
class Chapter:
    """What a chapter found: what it means in one sentence, a section of the report, and its numbers."""

    finding: str
    section: Section
    results: dict[str, Any]
