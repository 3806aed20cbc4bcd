"""The influence benchmark holds what must hold at any size; it says nothing about speed."""

import json

import numpy as np
import pytest
import torch
from pellucid.bench import influence
from pellucid.bench.peers import Peer, rank_agreement
from pellucid.core.cli import main
from pellucid.influence.models import build_loss
from pellucid.influence.objective import Objective


@pytest.fixture(scope="module")
def found():
    def nowhere(problem):
        raise AssertionError("a library that is not installed must not be asked")

    def broken(problem):
        raise RuntimeError("first line\nsecond line")

    def perfect(problem):
        strength = problem.l2 * len(problem.inputs)
        objective = Objective(
            problem.model, build_loss("cross_entropy"), problem.inputs, problem.targets, l2=strength, convention="sum"
        )
        test = objective.with_data(problem.test_inputs, problem.test_targets)
        return torch.from_numpy(influence.retrain(objective, test, [(row,) for row in problem.rows])[0])

    peers = [
        Peer("no-such-library", "none", "nothing", nowhere),
        Peer("numpy", "breaks", "nothing", broken),
        Peer("numpy", "gives numbers that are not", "nothing", lambda p: torch.full((4, 3), float("nan"))),
        Peer("numpy", "retrains", "nothing", perfect),
    ]
    return influence.measure(4, 3, 0, peers=peers, limit=60, repeats=1, models=4, steps=5, groups=1, lissa_steps=20)


def test_the_ways_to_one_answer_agree(found):
    assert found["truth"]["largest_gradient_norm"] <= 1e-10
    assert found["block_cg"]["exact_cg_relative_difference"] < 1e-6
    assert found["block_cg"]["block_single_relative_difference"] < 1e-6
    assert found["stacked"]["largest_difference"] < 1e-6
    assert all(row["largest_gradient_norm"] <= 1e-10 for row in found["groups"])


def test_every_tool_has_a_row_whether_it_is_there_or_not(found):
    rows = {(row.tool, row.method): row for row in found["tools"]}
    assert [row.tool for row in found["tools"][:4]] == ["pellucid"] * 4
    assert all(row.status == "ok" and row.seconds > 0 and row.version for row in found["tools"][:4])
    absent = rows["no-such-library", "none"]
    assert (absent.status, absent.version, absent.seconds) == ("not installed", None, None)
    assert rows["numpy", "breaks"].status == "failed: RuntimeError: first line"
    assert rows["numpy", "gives numbers that are not"].status.startswith("failed: ValueError")
    perfect = rows["numpy", "retrains"]
    assert perfect.status == "ok"
    assert perfect.spearman.value == pytest.approx(1)
    assert perfect.pooled == pytest.approx(1)
    assert {(row["fraction"], row["method"]) for row in found["groups"]} == {
        (p, method) for p in (0.2, 0.4) for method in ("first", "second", "newton")
    }


def test_rank_agreement_by_hand():
    truth = np.array([[1.0, 10.0], [2.0, 30.0], [3.0, 20.0]])
    same, pooled = rank_agreement(truth**3, truth, 0)
    assert (same.value, pooled) == (pytest.approx(1), pytest.approx(1))
    # Ranks 1, 2, 3 against 3, 2, 1 give -1; ranks 1, 3, 2 against 1, 2, 3 give 1/2.
    other, _ = rank_agreement([[3.0, 1.0], [2.0, 2.0], [1.0, 3.0]], truth, 0)
    assert other.value == pytest.approx((-1 + 0.5) / 2)


def test_the_command_writes_its_tables(found, tmp_path, monkeypatch):
    monkeypatch.setattr(influence, "measure", lambda removals, tests, seed: found)
    assert main(["bench", "influence", "--removals", "4", "--tests", "3", "--out", str(tmp_path / "out")]) == 0
    results = json.loads((tmp_path / "out" / "result.json").read_text())["results"]
    assert [row["status"] for row in results["tools"]][:5] == ["ok"] * 4 + ["not installed"]
    assert {file.stem for file in (tmp_path / "out" / "tables").iterdir()} == {"tools", "ratios", "groups"}


def test_more_points_than_there_are_is_refused():
    with pytest.raises(influence.OptionError, match="removals is 61"):
        influence.build_problem(61, 3, 0, 60)
