"""The few-shot benchmark holds what must hold at any size; it says nothing about speed."""

import json

import numpy as np
import pytest
from pellucid.bench import fewshot
from pellucid.core.cli import main
from pellucid.core.errors import DataError, OptionError
from pellucid.fewshot_hard.pools import Pool


def pool_of(size):
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), size)
    embeddings = (random.normal(size=(len(labels), 8)) + random.normal(size=(6, 8))[labels]).astype(np.float32)
    return Pool(embeddings, labels, tuple("abcdef"), [str(i) for i in range(len(labels))])


@pytest.fixture(scope="module")
def found():
    return fewshot.measure(6, 2, 8, 0, pools=[("blobs", pool_of(30))], large=("more blobs", pool_of(50)))


def test_every_selector_has_a_row_for_each_number_of_shots(found):
    methods = [
        "random",
        "fastdiffsel",
        "steps",
        "swap",
        "greedy, 1 round",
        "greedy, 3 rounds",
        "greedy, 1 round, the obvious way",
        "greedy, 3 rounds, the obvious way",
    ]
    assert [(row.shots, row.method) for row in found["rows"]] == [(k, m) for k in (1, 5) for m in methods]
    assert found["same"] is True
    for row in found["rows"]:
        assert row.tasks == (2 if "obvious" in row.method else 6)
        assert (row.milliseconds is None) == (row.method == "random")
    by = {(row.shots, row.method): row for row in found["rows"]}
    for shots in (1, 5):
        assert by[shots, "greedy, 3 rounds, the obvious way"].times == 1
        assert by[shots, "greedy, 3 rounds"].times_fast == 1
        losses = [by[shots, m].loss.value for m in ("random", "greedy, 1 round", "greedy, 3 rounds", "swap")]
        assert losses == sorted(losses)


def test_the_large_pool_is_timed(found):
    large = found["large"]
    assert (large["pool"], large["images"], large["tasks"]) == ("more blobs", 300, 8)
    assert large["accuracy_steps"].value <= large["accuracy_random"].value
    assert [large[f"{method}_tasks"] for method in ("fastdiffsel", "steps", "swap")] == [8, 8, 2]
    assert all(large[f"{method}_ms_a_task"] > 0 for method in ("fastdiffsel", "steps", "swap"))


def test_the_command_writes_its_tables(found, tmp_path, monkeypatch):
    monkeypatch.setattr(fewshot, "measure", lambda tasks, slow, many, seed: found)
    assert main(["bench", "fewshot", "-n", "6", "--slow", "2", "--out", str(tmp_path / "out")]) == 0
    results = json.loads((tmp_path / "out" / "result.json").read_text())["results"]
    assert len(results["rows"]) == 16
    assert {file.stem for file in (tmp_path / "out" / "tables").iterdir()} == {"selectors", "large"}
    drawn = {file.stem for file in (tmp_path / "out" / "figures").iterdir()}
    assert drawn == {"extraction-blobs-1-shot", "extraction-blobs-5-shot"}


def test_too_few_tasks_are_refused():
    with pytest.raises(OptionError, match="tasks is 4 and slow 5"):
        fewshot.measure(4, 5)


def test_without_the_zoo_there_are_still_pools(monkeypatch):
    def nowhere(name):
        raise DataError(f"{name} is not here")

    monkeypatch.setattr(fewshot, "resolve_asset", nowhere)
    assert [name for name, _ in fewshot.default_pools()] == ["digits"]
    name, pool = fewshot.large_pool(0)
    assert (name, len(pool), len(pool.classes)) == ("generated", 10_000, 10)
