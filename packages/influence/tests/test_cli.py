"""The commands: what they write, that they go on, and one line for whatever cannot be."""

import json
from pathlib import Path

import numpy as np
import pytest
from pellucid.core.cli import main
from pellucid.influence import settings
from pellucid.influence.descent import Recipe


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    code = main(["influence", *map(str, words)])
    caught = capsys.readouterr()
    return code, caught.out, caught.err


def results(out: Path) -> dict:
    return json.loads((out / "result.json").read_text())["results"]


def test_score_ranks_points_and_shows_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said, err = run(capsys, "score", "--data", "digits", "--limit", 200, "--top", 3, "--out", tmp_path)
    assert (code, err) == (0, "")
    assert "Removing training point" in said
    found = results(tmp_path)
    changes = np.array(found["changes"])
    assert [e["rank"] for e in found["ranking"]] == [1, 2, 3, 198, 199, 200]
    assert found["ranking"][0]["point"] == changes.argmax()
    assert found["ranking"][-1]["point"] == changes.argmin()
    assert (tmp_path / "figures" / "influential.png").exists()
    assert (tmp_path / "report.html").exists()


@pytest.mark.parametrize("convention", ["mean", "sum"])
def test_first_and_second_order_of_single_points_all_but_agree(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], convention: str
) -> None:
    orders = []
    for order in (1, 2):
        l2 = 0.01 if convention == "mean" else 1.2
        words = ["--data", "iris", "--order", order, "--convention", convention, "--l2", l2, "--out", tmp_path]
        assert run(capsys, "score", *words)[0] == 0
        orders.append(np.array(results(tmp_path)["changes"]))
    assert 0 < np.abs(orders[0] - orders[1]).max() < 0.2 * np.abs(orders[0]).max()


def test_score_ranks_groups_of_a_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data", "iris", "--model", "mlp", "--activation", "tanh", "--width", 4, "--steps", 300, "--damping", 1]
    code, _, _ = run(capsys, "score", *words, "--groups", "random", "--count", 5, "--order", 2, "--out", tmp_path)
    assert code == 0
    found = results(tmp_path)
    assert len(found["groups"]) == 5
    assert found["ranking"][0]["size"] == len(found["ranking"][0]["points"]) == 6


def test_truth_goes_on_where_it_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data", "iris", "--fractions", "0.05,0.2", "--count", 3, "--groups", "both", "--out", tmp_path]
    code, said, _ = run(capsys, "truth", *words)
    assert code == 0
    assert "relative error" in said
    found = results(tmp_path)
    assert len(found["groups"]) == 12
    assert {"size", "fraction", "kind", "first", "second", "newton", "truth"} <= set(found["groups"][0])
    assert {"pearson", "spearman", "relative_error", "kind", "fraction"} <= set(found["agreement"][0])
    assert set(found["agreement"][0]["pearson"]) == {"value", "low", "high"}
    segments = sorted((tmp_path / "ledger" / "segments").iterdir())
    dates = [file.stat().st_mtime_ns for file in segments]
    assert run(capsys, "truth", *words, "--json")[0] == 0
    assert [file.stat().st_mtime_ns for file in sorted((tmp_path / "ledger" / "segments").iterdir())] == dates
    assert results(tmp_path)["groups"] == found["groups"]


def test_select_judges_each_way_by_retraining(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data", "blobs", "--limit", 200, "-k", 20, "--out", tmp_path]
    code, said, _ = run(capsys, "select", *words)
    assert code == 0
    found = results(tmp_path)
    assert [s["method"] for s in found["selections"]] == [
        "first_order_top_k",
        "second_order_relaxed",
        "adaptive_greedy",
    ]
    assert all(len(set(s["points"])) == 20 for s in found["selections"])
    assert all(s["truth"] > max(found["random"]) for s in found["selections"])
    assert [g["truth"] for g in found["groups"]] == [s["truth"] for s in found["selections"]]
    assert "adaptive" in said


def test_select_over_seeds_has_an_interval(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data", "blobs", "--limit", 120, "-k", 24, "--seeds", 3, "--out", tmp_path]
    code, said, _ = run(capsys, "select", *words)
    assert code == 0
    found = results(tmp_path)
    assert len(found["rounds"]) == 3
    assert set(found["gains"]) == {"second_order_relaxed", "adaptive_greedy"}
    first = [r["truth"][0] for r in found["rounds"]]
    greedy = [r["truth"][2] / r["truth"][0] - 1 for r in found["rounds"]]
    assert found["rounds"][0]["truth"][0] == found["selections"][0]["truth"]
    assert len(set(first)) == 3
    assert found["gains"]["adaptive_greedy"]["value"] == pytest.approx(np.mean(greedy))
    assert "Over 3 seeds" in said


def test_study_writes_its_findings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from pellucid.influence import commands

    def short(scale: str = "zoo", seeds: range = range(1)) -> list[settings.StudySetting]:
        cheap = {"recipe": Recipe(60, 0.05), "retraining": Recipe(10, 0.05), "top": 4, "low": 4, "lissa_steps": 10}
        return [replace(s, **cheap) for s in settings.iris_settings(scale, seeds)[::4]]

    monkeypatch.setattr(commands, "iris_settings", short)
    code, said, _ = run(capsys, "study", "--seeds", 1, "--out", tmp_path)
    assert code == 0
    assert "networks measured" in said
    found = results(tmp_path)
    assert len(found["settings"]) == 3
    assert found["settings"][0]["correlations"][0]["spearman"].keys() == {"value", "low", "high"}
    assert run(capsys, "study", "--seeds", 1, "--out", tmp_path, "--fresh")[0] == 0


def test_one_line_for_each_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no data")
    broken = tmp_path / "broken.npz"
    broken.write_bytes(b"not a zip")
    nan = tmp_path / "nan.npz"
    np.savez(nan, inputs=np.full((20, 3), np.nan), targets=np.arange(20) % 2)
    cases = [
        (["score", "--data", "cifar"], "neither a data set"),
        (["score", "--data", text], "no .npz or .safetensors"),
        (["score", "--data", broken], "cannot be read"),
        (["score", "--data", nan], "must be finite"),
        (["score", "--data", "iris", "--model", "transformer"], "no model 'transformer'"),
        (["score", "--data", "iris", "--model", "lenet"], "takes images"),
        (["score", "--data", "iris", "--depth", 3], "does not take"),
        (["score", "--data", "iris", "--test-point", 99], "no test point '99'"),
        (["score", "--data", "iris", "--solver", "magic"], "no solver 'magic'"),
        (["score", "--data", "iris", "--convention", "average"], "no convention 'average'"),
        (["score", "--data", "iris", "--groups", "odd"], "no groups of kind 'odd'"),
        (["score", "--data", "iris", "--limit", 9999], "limit is 9999"),
        (["score", "--data", "iris", "--model", "mlp", "--steps", 20, "--l2", 0], "not positive definite"),
        (["truth", "--data", "iris", "--fractions", "0.1,1.5"], "between 0 and 1"),
        (["truth", "--data", "iris", "--fractions", "some"], "between 0 and 1"),
        (["truth", "--data", "iris", "--model", "mlp", "--share", 2], "share of 2"),
        (["truth", "--data", "iris", "--model", "mlp", "--lr", 1e200], "not finite"),
        (["select", "--data", "iris", "-k", 120], "size is 120"),
        (["select", "--data", "iris", "-k", 5, "--direction", "up"], "no direction 'up'"),
        (["study", "--settings", "mars"], "no settings 'mars'"),
        (["study", "--scale", "huge"], "no scale 'huge'"),
        (["study", "--scale", "paper", "--settings", "lenet"], "needs images"),
        (["study", "--scale", "paper", "--settings", "lenet", "--data", tmp_path / "no.npz"], "cannot be read"),
        (["study", "--steps", 3], "--data and --steps"),
        (["study", "--cg-steps", 3], "--cg-steps is for MNIST-5k"),
    ]
    for number, (words, message) in enumerate(cases):
        code, said, err = run(capsys, *words, "--out", tmp_path / f"out{number}")
        lines = [line for line in err.strip().splitlines() if "converged" not in line]
        assert (code, said, len(lines)) == (2, "", 1), (words, err)
        assert message in " ".join(lines), (words, err)
    for words in (["score", "--order", 3], ["truth", "--count", 0], ["select", "--size", 0], ["score", "--l2", -1]):
        assert run(capsys, *words, "--out", tmp_path / "never")[0] == 2


def test_help_is_quick_and_complete(capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = run(capsys, "--help")
    assert code == 0
    assert all(word in said for word in ("score", "truth", "study", "select"))
