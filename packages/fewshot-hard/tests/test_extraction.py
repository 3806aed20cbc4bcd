"""Extraction end to end: harder and easier tasks, files, and a report with pictures."""

from pathlib import Path

import numpy as np
import pytest
from pellucid.core.errors import OptionError
from pellucid.fewshot_hard.commands import extraction_report
from pellucid.fewshot_hard.embed import embed
from pellucid.fewshot_hard.extraction import KINDS, Extraction, extract
from pellucid.fewshot_hard.images import load_images
from pellucid.fewshot_hard.pools import Pool
from pellucid.fewshot_hard.prototypes import accuracy, predictions
from pellucid.fewshot_hard.task_files import load_tasks
from pellucid.fewshot_hard.tasks import flat


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return embed(load_images("digits"), "pixels", tmp_path_factory.mktemp("ledger"))


@pytest.fixture(scope="module")
def found(pool: Pool) -> Extraction:
    return extract(pool, 200)


def test_hard_tasks_are_harder_and_easy_ones_easier(found: Extraction) -> None:
    hard, default, easy = (found.mean(kind) for kind in ("hard", "default", "easy"))
    assert hard.high < default.low
    assert default.high < easy.low


def test_they_keep_classes_shots_and_queries(found: Extraction) -> None:
    for default, hard, easy in zip(*(found.tasks[kind] for kind in KINDS), strict=True):
        for task in (hard, easy):
            assert (task.classes, task.shots, task.query) == (default.classes, default.shots, default.query)


def test_predictions_are_what_accuracy_counts(pool: Pool, found: Extraction) -> None:
    tasks = found.tasks["hard"][:5]
    by_hand = [np.mean(guess == flat(t.query)[1]) for guess, t in zip(predictions(pool, tasks), tasks, strict=True)]
    assert by_hand == accuracy(pool, tasks).tolist()


def test_a_report_with_files_and_pictures(tmp_path: Path) -> None:
    report = extraction_report(None, "digits", "pixels", None, tmp_path, count=3, way=3, shot=2, query=4)
    report.write(tmp_path, 1.0)
    tasks = report.results["tasks"]
    assert len(tasks) == 9
    assert {"kind", "way", "shots", "accuracy"} <= set(tasks[0])
    assert {f.name for f in report.sections[0].figures} == {"accuracy", "sheet-hard", "sheet-easy"}
    again = embed(load_images("digits"), "pixels", tmp_path / "ledger")
    held = load_tasks(tmp_path / "hard.parquet", again)
    assert [task.kind for task in held.tasks] == ["hard"] * 3
    assert held.provenance["backbone"] == "pixels"


def test_nothing_to_extract_from(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="--pool FILE or --images"):
        extraction_report(None, None, "pixels", None, tmp_path)
