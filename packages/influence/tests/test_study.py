"""The fragility study: resumed where it was killed, the same for any order, and the thesis's own settings."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pellucid.core.errors import OptionError, SweepError
from pellucid.core.report import Report
from pellucid.influence import study
from pellucid.influence.commands import study_settings
from pellucid.influence.descent import Recipe
from pellucid.influence.findings import findings
from pellucid.influence.settings import StudySetting, image_settings, iris_settings, paper_settings
from pellucid.influence.study import Study, measure, run_study
from pellucid.influence.study_figures import study_results, study_section, study_summary


def quick(setting: StudySetting, **changes) -> StudySetting:
    """The same setting with few steps and points."""
    short = {"recipe": Recipe(150, 0.05, "adam", schedule="cosine"), "retraining": Recipe(20, 0.05, "sgd")}
    return replace(setting, **(short | {"top": 5, "low": 4, "lissa_steps": 20} | changes))


def few() -> list[StudySetting]:
    """Deep and shallow, narrow and wide, with decay and without, three seeds, at a fraction of the cost."""
    chosen = [s for s in iris_settings(seeds=range(3)) if dict(s.options)["activation"] == "tanh"]
    kept = [s for s in chosen if dict(s.options)["depth"] in (1, 3) and dict(s.options)["width"] in (5, 20)]
    return [quick(s) for s in kept]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return run_study(few(), tmp_path_factory.mktemp("study"))


def test_every_part_of_a_setting_is_measured(small: Study) -> None:
    setting, row = small.outcomes[0]
    assert setting.label == "iris mlp tanh depth 1 width 5, decay 0.001"
    assert row.parameters == 43
    assert len(row.point) == 2 * (5 + 4)
    assert row.top_eigenvalue is not None
    assert row.top_eigenvalue > 0
    for quantity in ("influence", "stochastic", "norm"):
        guess, truth = row.pairs(quantity, 1, "low")
        assert len(guess) == len(truth) == 4
    top, low = np.abs(row.pairs("influence", 0, "top")[0]), np.abs(row.pairs("influence", 0, "low")[0])
    assert top.min() > low.max()
    assert (np.diff(top) <= 0).all()
    assert 0 < row.damping < 1


def test_a_killed_study_goes_on_within_the_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = few()[:2]
    whole = run_study(settings, tmp_path / "whole").outcomes
    trained: list[float] = []
    real_train, real_leave = study.train_base, study.leave_out

    def train(job, *rest):
        trained.append(job.l2)
        return real_train(job, *rest)

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(study, "train_base", train)
    monkeypatch.setattr(study, "leave_out", killed)
    with pytest.raises(KeyboardInterrupt):
        run_study(settings, tmp_path / "killed")
    monkeypatch.setattr(study, "leave_out", real_leave)
    resumed = run_study(settings, tmp_path / "killed").outcomes
    assert len(trained) == 2, "the killed setting's base model was trained once"
    for (setting, row), (other, expected) in zip(resumed, whole, strict=True):
        assert setting == other
        assert replace(row, seconds=0) == replace(expected, seconds=0)
    monkeypatch.setattr(study, "measure", lambda *_: pytest.fail("a finished setting was measured again"))
    assert run_study(settings, tmp_path / "killed").outcomes == resumed


def test_findings_are_differences_over_pairs_that_share_a_seed(small: Study) -> None:
    found = {f.claim: f for f in findings(small)}
    assert found["shallow above deep (depth 1 minus 3)"].pairs == 3
    assert found["with weight decay above without (feed-forward networks)"].pairs == 3
    for finding in found.values():
        assert finding.difference.low <= finding.difference.value <= finding.difference.high
        sides = {"as in the thesis": finding.difference.low > 0, "the opposite": finding.difference.high < 0}
        assert sides.get(finding.verdict, True)
    # Made-up numbers: with decay the estimates are the truth itself, without they are its negative.
    fake = []
    for setting, row in small.outcomes:
        sign = 1 if setting.l2 else -1
        fake.append((setting, replace(row, influence=[sign * t for t in row.truth])))
    decay = next(f for f in findings(Study(tuple(fake))) if f.claim.startswith("with weight decay"))
    assert decay.difference.value == pytest.approx(2)
    assert decay.verdict == "as in the thesis"
    assert findings(Study(small.outcomes[:1])) == []


def test_a_report_of_it(small: Study, tmp_path: Path) -> None:
    section = study_section(small)
    assert {f.name for f in section.figures} == {"depth", "width", "decay", "norms"}
    report = Report("t", "influence study", {}, 0, "cpu", [section], study_results(small), study_summary(small))
    report.write(tmp_path, 1.0)
    entry = report.results["settings"][0]["correlations"][0]
    assert {"pearson", "spearman", "relative_error"} <= set(entry)


def test_correlation_against_the_factor_of_weight_decay_is_drawn(small: Study) -> None:
    """Fig. 3.5 c, and the claim that much decay spoils influence: only over convolutional settings."""
    rows = [row for _, row in small.outcomes]
    settings = image_settings(["small_cnn"], range(3), (0.0001, 0.001, 0.01, 0.1))
    study = Study(tuple(zip(settings, rows, strict=False)))
    figures = {f.name: f for f in study_section(study).figures}
    assert set(figures) == {"factors"}
    assert "0.1: " in figures["factors"].alt
    claims = [f for f in findings(study) if "0.001 above 0.1" in f.claim]
    assert [f.pairs for f in claims] == [3]


def test_conjugate_gradients_stop_at_their_cap_and_what_is_left_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    setting = quick(few()[0], solver="cg", curvature=False, damping=0.1)
    whole = run_study([setting], tmp_path)
    assert whole.notes == ()
    assert whole.outcomes[0][1].residual < 1e-7
    capped = run_study([replace(setting, cg_steps=2)], tmp_path)
    assert capped.outcomes[0][1].residual > 1e-3
    assert "products of 1 settings did not converge" in capped.notes[0]
    assert "after at most 2 steps): raise --cg-steps" in caplog.text
    assert capped.notes[0] in " ".join(study_section(capped).text)


def test_a_setting_that_fails_is_left_out_and_told(tmp_path: Path) -> None:
    good = few()[0]
    bad = replace(good, recipe=Recipe(50, 1e200, "gd"))
    found = run_study([good, bad], tmp_path)
    assert len(found.outcomes) == 1
    assert "1 settings failed" in found.notes[0]
    assert "not finite" in found.notes[0]
    with pytest.raises(SweepError, match="every setting of the study failed"):
        run_study([bad], tmp_path / "bad")


def images(folder: Path) -> Path:
    random = np.random.default_rng(0)
    file = folder / "tiny.npz"
    names = {"inputs": (10, 1, 20, 20), "test_inputs": (4, 1, 20, 20)}
    arrays = {name: random.random(shape).astype(np.float32) for name, shape in names.items()}
    np.savez(file, targets=np.arange(10) % 2, test_targets=np.arange(4) % 2, **arrays)
    return file


@pytest.mark.slow
@pytest.mark.parametrize("model", ["lenet", "resnet18"])
def test_the_thesis_s_architectures_on_tiny_data(model: str, tmp_path: Path) -> None:
    if model != "lenet":
        pytest.importorskip("torchvision")
    file = images(tmp_path)
    setting = paper_settings([model], file)[0]
    assert (setting.l2, setting.damping, setting.solver) == (0.001, 0.01, "lissa")
    assert setting.top == 40
    assert setting.retraining.steps == round(0.06 * setting.recipe.steps)
    # One step of everything: that these classes go all the way through is what is tested.
    tiny = quick(
        setting, recipe=Recipe(1, 1e-4, batch=10), retraining=Recipe(1, 1e-4, batch=10), top=1, low=0, lissa_steps=1,
        damping=3.0, tests=("0",),
    )  # fmt: skip
    row = measure(tiny, tmp_path)
    assert row.tests == [0]
    assert len(row.truth) == 1
    assert np.isfinite([*row.truth, *row.influence, *row.drift, row.control_gradient_norm]).all()


def test_settings_as_the_thesis_has_them(tmp_path: Path) -> None:
    iris = iris_settings("paper", [0])
    assert all((s.recipe.steps, s.retraining.steps, s.recipe.batch) == (60_000, 7500, None) for s in iris)
    assert all(s.top == 20 and s.damping == 0.001 for s in iris)
    assert {dict(s.options)["depth"] for s in iris} == set(range(1, 9))
    cnn = paper_settings(["small_cnn"], images(tmp_path))[0]
    assert (cnn.recipe.steps, cnn.retraining.steps, cnn.low) == (500_000, 30_000, 100)
    imagenet = paper_settings(["imagenet"], images(tmp_path))[0]
    assert (imagenet.model, imagenet.top) == ("resnet50", 50)
    assert imagenet.retraining.steps == round(0.05 * imagenet.recipe.steps)
    zoo = image_settings(["small_cnn", "lenet"])
    assert {(s.model, s.l2) for s in zoo} == {(m, d) for m in ("small_cnn", "lenet") for d in (0.001, 0.0)}
    deep = study_settings(["mnist5k"], "zoo", None, [0])
    assert {s.model: (s.cg_steps, s.low) for s in deep} == {
        "small_cnn": (1000, 20), "lenet": (1000, 20), "narrow_vgg": (100, 0), "narrow_resnet": (100, 0),
    }  # fmt: skip
    assert all(s.cg_steps == 7 for s in study_settings(["lenet", "narrow_vgg"], "zoo", None, [0], cg_steps=7))
    assert len({s.label for s in iris}) == len(iris)
    factors = study_settings(["decay", "small_cnn"], "zoo", None, [0])
    assert sorted(s.l2 for s in factors) == [0.0, 0.0001, 0.001, 0.01, 0.1]
    assert len({s.label for s in factors}) == 5
    digits = study_settings(["digits"], "zoo", None, [0])
    assert [(dict(s.options)["depth"], s.l2) for s in digits] == [(1, 0.001), (1, 0.0), (3, 0.001), (3, 0.0)]
    with pytest.raises(OptionError, match="no settings 'cifar'"):
        study_settings(["cifar"], "zoo", None, [0])
    with pytest.raises(OptionError, match="needs images"):
        study_settings(["lenet"], "paper", None, [0])


def test_another_file_of_the_same_name_is_another_setting(tmp_path: Path) -> None:
    file = images(tmp_path)
    before = paper_settings(["lenet"], file)
    held = dict(np.load(file))
    np.savez(file, **(held | {"inputs": held["inputs"] + 1}))
    assert paper_settings(["lenet"], file) != before


def test_an_indefinite_hessian_is_damped_by_what_it_needs(tmp_path: Path) -> None:
    row = measure(quick(few()[0], recipe=Recipe(3, 0.01), l2=0.0), tmp_path)
    assert row.damping > 0.001
    assert torch.isfinite(torch.tensor(row.influence)).all()
