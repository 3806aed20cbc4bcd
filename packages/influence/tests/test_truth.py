"""Leave-k-out ground truth: closed forms, scikit-learn, resuming, workers, the control, and groups that cannot be."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pellucid.core.errors import DataError, OptionError, SweepError
from pellucid.influence import retraining
from pellucid.influence.datasets import Data, load_data
from pellucid.influence.models import ModelChoice
from pellucid.influence.retraining import objective_of
from pellucid.influence.training import Fit, Recipe
from pellucid.influence.truth import TruthJob, leave_out, train_base, truth_sweep

NET = {"depth": 1, "width": 5, "activation": "tanh"}


def line() -> Data:
    random = torch.Generator().manual_seed(0)
    inputs = torch.randn(50, 3, generator=random, dtype=torch.float64)
    targets = inputs @ torch.tensor([1.0, -2.0, 0.5]).double() + torch.randn(50, generator=random).double()
    return Data("line", inputs[:40], targets[:40], inputs[40:], targets[40:], 0)


def convex(**options) -> TruthJob:
    data = load_data("iris")
    return train_base(TruthJob(data, ModelChoice("logistic", data.shape, 3), tests=(0, 3, 5), **options))[0]


def network(**options) -> TruthJob:
    data = load_data("iris", limit=40)
    settings = {"mode": "warm", "recipe": Recipe(40, 0.02), "l2": 0.01, "tests": (1, 2), "keep_theta": True} | options
    job = TruthJob(data, ModelChoice("mlp", data.shape, 3, options=NET), **settings)
    return job if job.mode == "cold" else train_base(job, Recipe(800, 0.02, schedule="cosine"))[0]


@pytest.mark.parametrize("convention", ["mean", "sum"])
def test_ridge_regression_s_closed_form(tmp_path: Path, convention: str) -> None:
    data, l2 = line(), 0.2
    job = TruthJob(
        data, ModelChoice("logistic", (3,), 1), loss="squared", l2=l2, convention=convention, keep_theta=True
    )
    job, fit = train_base(job)
    groups = [[7], [3, 1, 2], list(range(24))]
    truth = leave_out(job, groups, tmp_path)

    def solution(kept: list[int]) -> np.ndarray:
        x = np.hstack([data.inputs.numpy()[kept], np.ones((len(kept), 1))])
        total = len(kept) if convention == "mean" else 1
        return np.linalg.solve(x.T @ x / total + l2 * np.eye(4), x.T @ data.targets.numpy()[kept] / total)

    def losses(theta: np.ndarray) -> np.ndarray:
        x = np.hstack([data.test_inputs.numpy(), np.ones((10, 1))])
        return 0.5 * (x @ theta - data.test_targets.numpy()) ** 2

    base = solution(list(range(40)))
    np.testing.assert_allclose(fit.theta.numpy(), base, atol=1e-10)
    for place, group in enumerate(groups):
        theta = solution([row for row in range(40) if row not in group])
        assert truth.thetas is not None
        np.testing.assert_allclose(truth.thetas[0, place], theta, atol=1e-9)
        np.testing.assert_allclose(truth.changes[place], losses(theta) - losses(base), atol=1e-8)
        assert truth.parameter_norms[place] == pytest.approx(np.linalg.norm(theta - base), abs=1e-9)
    assert truth.gradient_norms.max() < 1e-10
    assert truth.groups == ((7,), (1, 2, 3), tuple(range(24)))
    assert np.abs(truth.drift).max() < 1e-9  # an optimum stays where it is


def test_scikit_learn_s_logistic_regression(tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression

    data = load_data("iris")
    choice = ModelChoice("logistic", data.shape, 3, options={"bias": False})
    job, _ = train_base(TruthJob(data, choice, l2=0.02))
    group = (data.targets == 1).nonzero()[:30, 0].tolist()
    truth = leave_out(job, [group], tmp_path)

    def losses(kept: np.ndarray) -> np.ndarray:
        peer = LogisticRegression(C=1 / (0.02 * kept.sum()), fit_intercept=False, solver="newton-cg", tol=1e-12)
        peer.fit(data.inputs.numpy()[kept], data.targets.numpy()[kept])
        return -peer.predict_log_proba(data.test_inputs.numpy())[np.arange(30), data.test_targets.numpy()]

    kept = np.ones(120, dtype=bool)
    kept[group] = False
    np.testing.assert_allclose(truth.changes[0], losses(kept) - losses(np.ones(120, dtype=bool)), atol=1e-6)
    assert np.abs(truth.changes).max() > 0.1
    assert truth.gradient_norms[0] < 1e-10


def test_what_the_ledger_keeps(tmp_path: Path) -> None:
    job = network()
    groups = [[4, 2], [9]]
    truth = leave_out(job, groups, tmp_path, seeds=(3, 8), batch=2)
    rows = truth_sweep(job, groups, seeds=(3, 8), batch=2).rows(tmp_path)
    assert [(row.removed, row.seed) for row in rows] == [
        (removed, seed) for seed in (3, 8) for removed in ([], [2, 4], [9])
    ]
    objective = objective_of(job)
    tests = objective.with_data(job.data.test_inputs[[1, 2]], job.data.test_targets[[1, 2]])
    for row in rows:
        theta = torch.tensor(row.theta, dtype=torch.float64)
        assert row.after == pytest.approx(tests.losses(theta).tolist())
        assert row.before == pytest.approx(tests.losses(objective.theta).tolist())
        assert row.parameter_norm == pytest.approx(float((theta - objective.theta).norm()))
        weights = torch.ones(40).double()
        weights[row.removed] = 0
        assert row.gradient_norm == pytest.approx(float(objective.gradient(theta, weights).norm()))
    assert truth.by_seed.shape == (2, 2, 2)
    np.testing.assert_allclose(truth.changes, truth.by_seed.mean(axis=0))
    # All points a step and one start: the seed changes nothing in a warm start.
    np.testing.assert_allclose(truth.by_seed[0], truth.by_seed[1])


def test_the_control_takes_the_drift_out(tmp_path: Path) -> None:
    job = network(state=None)
    unfinished, _ = train_base(replace(job, state=None), Recipe(60, 0.02))
    groups = [[0], [5, 6, 7]]
    plain = leave_out(unfinished, groups, tmp_path)
    relative = leave_out(unfinished, groups, tmp_path, relative_to="control")
    assert (plain.relative_to, relative.relative_to) == ("base", "control")
    assert relative.summary.done == 0  # the same retrainings, read anew
    np.testing.assert_allclose(plain.changes - plain.drift, relative.changes, atol=1e-12)
    # Trained for too short a time, the base goes on changing far more than the removal of a point changes it.
    assert np.abs(plain.drift).max() > 100 * np.abs(relative.changes[0]).max()


def test_cold_starts_differ_by_seed_and_compare_with_their_own_control(tmp_path: Path) -> None:
    job = network(mode="cold", recipe=Recipe(150, 0.05), stacked=True)
    truth = leave_out(job, [[0], [0, 1, 2]], tmp_path, seeds=(0, 1))
    assert truth.relative_to == "control"
    assert truth.thetas is not None
    assert np.linalg.norm(truth.thetas[0, 0] - truth.thetas[1, 0]) > 0.1
    apart = leave_out(replace(job, stacked=False), [[0], [0, 1, 2]], tmp_path / "apart", seeds=(0, 1))
    np.testing.assert_allclose(truth.by_seed, apart.by_seed, atol=1e-6)
    with pytest.raises(OptionError, match="no trained state"):
        leave_out(job, [[0]], tmp_path, relative_to="base")


@pytest.mark.parametrize("recipe", [Recipe(60, 0.02), Recipe(60, 0.02, "sgd", batch=8)])
def test_cell_batches_and_stacks_do_not_matter(tmp_path: Path, recipe: Recipe) -> None:
    job = network(recipe=recipe)
    groups = [[row] for row in range(5)] + [list(range(20))]
    truths = [
        leave_out(replace(job, stacked=stacked), groups, tmp_path / f"{stacked}-{batch}", seeds=(0, 1), batch=batch)
        for stacked, batch in ((False, 3), (True, 64), (True, 4), (None, 64))
    ]
    for other in truths[1:]:
        np.testing.assert_allclose(other.by_seed, truths[0].by_seed, rtol=0, atol=1e-6)
        np.testing.assert_allclose(other.thetas, truths[0].thetas, rtol=0, atol=1e-6)


@pytest.mark.ray
def test_workers_do_not_matter(tmp_path: Path) -> None:
    from pellucid.core.sweeps.cluster import connected

    logging.getLogger("ray").setLevel(logging.ERROR)
    job, groups = network(stacked=False), [[row] for row in range(4)]
    inline = leave_out(job, groups, tmp_path / "inline", batch=2)
    with connected(None, 2):
        ray = leave_out(job, groups, tmp_path / "ray", workers=2, batch=2)
    assert ray.summary.done == 5
    np.testing.assert_array_equal(inline.changes, ray.changes)
    np.testing.assert_array_equal(inline.gradient_norms, ray.gradient_norms)


def test_a_killed_run_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job, groups = convex(), [[row] for row in range(6)]
    whole = leave_out(job, groups, tmp_path / "whole", batch=1)
    real, calls = retraining.fit_convex, 0

    def killed(*arguments: object, **options: object) -> Fit:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return real(*arguments, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(retraining, "fit_convex", killed)
        with pytest.raises(KeyboardInterrupt):
            leave_out(job, groups, tmp_path / "killed", batch=1)
    resumed = leave_out(job, groups, tmp_path / "killed", batch=1)
    assert (resumed.summary.skipped, resumed.summary.done) == (3, 4)
    np.testing.assert_array_equal(resumed.changes, whole.changes)
    # More groups cost only themselves; alike groups, whatever their order, are one.
    more = leave_out(job, [*groups, [8, 9], [9, 8]], tmp_path / "killed", batch=1)
    assert (more.summary.skipped, more.summary.done) == (7, 1)
    np.testing.assert_array_equal(more.changes[-1], more.changes[-2])


def test_what_a_retraining_depends_on_enters_its_key(tmp_path: Path) -> None:
    job = convex()
    keys = set(truth_sweep(job, [[1]]).keys)
    for other in (convex(l2=0.02), convex(convention="sum"), replace(job, tests=(0, 3))):
        assert not keys & set(truth_sweep(other, [[1]]).keys)
    assert keys == set(truth_sweep(replace(job, stacked=True, chunk=64), [[1]]).keys)


def test_a_failing_retraining_is_told_and_retried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = network(stacked=False)
    wild = replace(job, recipe=Recipe(50, 1e200, "gd"))
    with pytest.raises(SweepError, match=r"2 of 2 retrainings are missing \(.*not finite at step \d+ of 50"):
        leave_out(wild, [[1]], tmp_path)
    real = retraining.fit_all

    def failing(*arguments: object) -> list[Fit]:
        raise RuntimeError("out of luck")

    with monkeypatch.context() as patch:
        patch.setattr(retraining, "fit_all", failing)
        with pytest.raises(SweepError, match="out of luck"):
            leave_out(job, [[1]], tmp_path / "again")
    assert retraining.fit_all is real
    assert leave_out(job, [[1]], tmp_path / "again", retry_failed=True).summary.done == 2


def test_an_unconverged_base_is_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "pellucid.influence")
    convex()
    assert not caplog.records
    data = load_data("iris")
    job = TruthJob(data, ModelChoice("logistic", data.shape, 3))
    untrained = {name: value.clone() for name, value in objective_of(job).model.state_dict().items()}
    truth = leave_out(replace(job, state=untrained), [[1]], tmp_path)
    assert truth.base_gradient_norm > 0.1
    assert f"gradient norm is {truth.base_gradient_norm:.3g}, above 1e-10; train_base reaches it" in caplog.text
    assert truth.gradient_norms[0] < 1e-10  # the retraining itself gets there


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([], "there are no groups"),
        ([[1], []], "group 1 is empty"),
        ([[1, 2, 1]], "group 0 holds 1 more than once"),
        ([[120]], "group 0 holds 120: there are 120 training points, 0 to 119"),
        ([[-1]], "group 0 holds -1"),
        ([list(range(120))], "group 0 holds all 120 training points"),
    ],
)
def test_groups_that_cannot_be_left_out(tmp_path: Path, groups: list[list[int]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        leave_out(convex(), groups, tmp_path)
    assert not list(tmp_path.iterdir())


def test_jobs_that_cannot_work(tmp_path: Path) -> None:
    data = load_data("iris")
    choice = ModelChoice("mlp", data.shape, 3)
    for options, message in (
        ({"mode": "hot"}, "no mode 'hot'"),
        ({"mode": "warm"}, "mode warm with recipe=None"),
        ({"recipe": Recipe(1, 0.1)}, "mode convex with recipe"),
    ):
        with pytest.raises(OptionError, match=message):
            TruthJob(data, choice, **options)
    with pytest.raises(DataError, match="tests holds 30: there are 30 test points"):
        TruthJob(data, choice, tests=(30,))
    with pytest.raises(OptionError, match="no trained state"):
        leave_out(TruthJob(data, choice), [[1]], tmp_path)
    other = replace(convex(), model=choice)
    with pytest.raises(OptionError, match="the job's state is not that of model 'mlp'"):
        leave_out(other, [[1]], tmp_path)
    with pytest.raises(OptionError, match="relative_to is 'zero'"):
        leave_out(convex(), [[1]], tmp_path, relative_to="zero")
    with pytest.raises(OptionError, match="seeds are"):
        leave_out(convex(), [[1]], tmp_path, seeds=())
