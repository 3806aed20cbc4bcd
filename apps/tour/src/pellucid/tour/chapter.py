"""What a chapter of the tour gets, and what it gives."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pellucid.core.report import Section


@dataclass(frozen=True)
class Setting:
    """What every chapter gets: a folder of its own, the seed, the number of Ray workers."""

    out: Path
    seed: int
    workers: int


@dataclass(frozen=True)
class Chapter:
    """What a chapter found: one sentence, a section of the report, and its numbers."""

    finding: str
    section: Section
    results: dict[str, Any]
